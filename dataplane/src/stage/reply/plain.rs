//! The answer that nearly every answer is: untagged, IPv4, an MSS or no option. Sixteen of them are composed at a time, a
//! field of all by one instruction, and each is written over its frame as one block.

use listener::columns::{Answers, rows};
use listener::drop_reason::DropReason;
use listener::vector::{Square, Vectors};

use crate::burst::{Fate, GROUP, Plain, part};
use crate::io::{Capabilities, Frame, HEAD, TxOffload};
use crate::local::{Glance, LocalTable};
use crate::wire::checksum::halves;
use crate::wire::ether::{self, ETHERTYPE_IPV4};
use crate::wire::ipv4::{self, PROTO_TCP, TTL};
use crate::wire::tcp;

type Column = [u32; GROUP];

/// Version 4, five words of header.
const VERSION_IHL: u32 = 0x4500;
/// DF.
const ID_FLAGS: u32 = 0x4000;
const TTL_PROTO: u32 = (TTL as u32) << 8 | PROTO_TCP as u32;
/// Octets of a frame without options.
const SHORT: usize = ether::HEADER_LEN + HEADERS_LEN as usize;
/// Octets of a frame with an MSS option.
const LONG: usize = SHORT + 4;
/// Octets of a frame with all options.
const FULL: usize = SHORT + FULL_OPTIONS_LEN as usize;
const FULL_OPTIONS_LEN: u32 = 20;
/// Words of such a frame behind its head, and the octets up to their end.
const REST: usize = 3;
const FULL_ROOM: usize = HEAD + 4 * REST;
const SACK_PERMITTED: u32 = 0x0402;
const TIMESTAMPS: u32 = 0x080a;
const NOP_WINDOW_SCALE: u32 = 0x0103;
/// Its length, in front of the value.
const WINDOW_SCALE_LEN: u32 = 0x0300;
const HEADERS_LEN: u32 = (ipv4::HEADER_LEN + tcp::HEADER_LEN) as u32;

/// Writes `answers` over the frames whose headers are in `plain`. One for which there is no room is none any more.
#[inline]
pub(super) fn write<F: Frame>(
    frames: &mut [Option<F>],
    vectors: Vectors,
    (plain, answers): (&Plain, &mut Answers),
    fates: &mut [Fate],
    local: &LocalTable,
    capabilities: Capabilities,
) {
    let Capabilities { tx_ip_csum, tx_tcp_csum, .. } = capabilities;
    let mut failed = if tx_ip_csum || tx_tcp_csum {
        write_all::<F, false>(frames, vectors, (plain, answers), local, capabilities)
    } else {
        write_all::<F, true>(frames, vectors, (plain, answers), local, capabilities)
    };
    if answers.full != 0 {
        failed |= write_full(frames, vectors, (plain, answers), local, capabilities);
    }
    for row in rows(failed) {
        answers.remove(row);
        fates[row] = Fate::Drop(DropReason::NoBuffer);
    }
}

/// [`write`] but for the answers with all options, and with nothing left to the device if `WHOLE`: what is asked of it is then
/// known here. Returns the rows for which there was no room.
#[inline(always)]
fn write_all<F: Frame, const WHOLE: bool>(
    frames: &mut [Option<F>],
    vectors: Vectors,
    (plain, answers): (&Plain, &Answers),
    local: &LocalTable,
    capabilities: Capabilities,
) -> u64 {
    let (asked, glance) = (offload(capabilities), local.glance());
    let answered = answers.rows & !answers.full;
    vectors.run(
        #[inline(always)]
        |vectors| {
            // Within the closure, so that it is seen to be nothing.
            let offload = if WHOLE { TxOffload::default() } else { asked };
            let mut failed = 0;
            for (group, frames) in frames.chunks_mut(GROUP).enumerate() {
                let first = group * GROUP;
                let set = answered >> first & 0xffff;
                if set == 0 {
                    continue;
                }
                let (words, _, lens) = compose::<false>((plain, answers), first, glance, capabilities);
                let mut heads = [const { None }; GROUP];
                // Nearly always all that there are.
                failed |= if set.count_ones() as usize == frames.len() {
                    rewrite::<F, true>(frames, &mut heads, &lens, set, offload)
                } else {
                    rewrite::<F, false>(frames, &mut heads, &lens, set, offload)
                } << first;
                vectors.write_rows(&words, heads);
            }
            failed
        },
    )
}

/// Makes the frames of a group that are in `set`, or all, as long as they will be, and puts where they are to be written into
/// `heads`. Returns those for which there is no room.
#[inline(always)]
fn rewrite<'f, F: Frame, const ALL: bool>(
    frames: &'f mut [Option<F>],
    heads: &mut [Option<&'f mut [u8; HEAD]>; GROUP],
    lens: &Column,
    set: u64,
    offload: TxOffload,
) -> u64 {
    let mut complete = true;
    for (lane, ((frame, head), len)) in frames.iter_mut().zip(heads.iter_mut()).zip(lens).enumerate() {
        if !ALL && set >> lane & 1 == 0 {
            continue;
        }
        match frame {
            Some(frame) => match frame.rewrite(*len as usize, offload) {
                Some(octets) => *head = Some(octets),
                None => complete = false,
            },
            None => complete = false,
        }
    }
    if complete { 0 } else { without_room(heads, set) }
}

/// The rows of `set` that have no head.
#[cold]
fn without_room(heads: &[Option<&mut [u8; HEAD]>; GROUP], set: u64) -> u64 {
    rows(set).filter(|&lane| heads[lane].is_none()).fold(0, |failed, lane| failed | 1 << lane)
}

/// Writes the answers with all options. Returns the rows for which there was no room.
#[inline(never)]
fn write_full<F: Frame>(
    frames: &mut [Option<F>],
    vectors: Vectors,
    (plain, answers): (&Plain, &Answers),
    local: &LocalTable,
    capabilities: Capabilities,
) -> u64 {
    let (offload, glance) = (offload(capabilities), local.glance());
    vectors.run(
        #[inline(always)]
        |vectors| {
            let mut failed = 0;
            for (group, frames) in frames.chunks_mut(GROUP).enumerate() {
                let first = group * GROUP;
                let set = answers.full >> first & 0xffff;
                if set == 0 {
                    continue;
                }
                let (words, rest, _) = compose::<true>((plain, answers), first, glance, capabilities);
                let mut heads = [const { None }; GROUP];
                for (lane, (frame, to)) in frames.iter_mut().zip(&mut heads).enumerate() {
                    if set >> lane & 1 == 0 {
                        continue;
                    }
                    let room = frame.as_mut().and_then(|frame| frame.rewrite::<FULL_ROOM>(FULL, offload));
                    let Some((head, behind)) = room.and_then(|room| room.split_first_chunk_mut()) else {
                        failed |= 1 << (first + lane);
                        continue;
                    };
                    for (octets, column) in behind.as_chunks_mut().0.iter_mut().zip(&rest) {
                        *octets = column[lane].to_ne_bytes();
                    }
                    *to = Some(head);
                }
                vectors.write_rows(&words, heads);
            }
            failed
        },
    )
}

/// Octets of the answers in the rows `set`.
pub(super) const fn octets(answers: &Answers, set: u64) -> usize {
    let (long, full) = (answers.long & set, answers.full & set);
    let shorter =
        (answers.rows & set).count_ones() as usize * SHORT + long.count_ones() as usize * (LONG - SHORT);
    if full == 0 { shorter } else { shorter + full.count_ones() as usize * (FULL - LONG) }
}

/// What the device is asked to complete.
fn offload(capabilities: Capabilities) -> TxOffload {
    let Capabilities { tx_ip_csum: ip_csum, tx_tcp_csum: tcp_csum, .. } = capabilities;
    if !ip_csum && !tcp_csum {
        return TxOffload::default();
    }
    TxOffload {
        ip_csum,
        tcp_csum,
        ipv6: false,
        l2_len: ether::HEADER_LEN as u8,
        l3_len: ipv4::HEADER_LEN as u8,
        vlan_tci: None,
    }
}

/// The octets of sixteen answers, those from row `first` on, as far as a head goes and, if they have all options, behind it;
/// and how many there are of each.
#[inline(always)]
fn compose<const ALL: bool>(
    (plain, answers): (&Plain, &Answers),
    first: usize,
    glance: &Glance,
    capabilities: Capabilities,
) -> (Square, [Column; REST], Column) {
    let (saddr, daddr, ports) = (
        part(&plain.columns.saddr, first),
        part(&plain.columns.daddr, first),
        part(&plain.columns.ports, first),
    );
    let (peer_first, peer_last) = (part(&plain.src_mac[0], first), part(&plain.src_mac[1], first));
    let (seq, ack, control) =
        (part(&answers.seq, first), part(&answers.ack, first), part(&answers.control, first));
    let (option, tos) = (part(&answers.option, first), part(&answers.tos, first));
    let ours = [glance.mac_first >> 16, glance.mac_first << 16 | glance.mac_last];
    let (tsval, tsecr, wscale) =
        (part(&answers.tsval, first), part(&answers.tsecr, first), part(&answers.wscale, first));
    let (mut words, mut rest, mut lens) = (Square::ZERO, [[0; GROUP]; REST], [0; GROUP]);
    for lane in 0..GROUP {
        let (saddr, daddr, ports) = (saddr[lane], daddr[lane], ports[lane].rotate_left(16));
        let (seq, ack, control, option) = (seq[lane], ack[lane], control[lane], option[lane]);
        let (peer_first, peer_last) = (peer_first[lane], peer_last[lane]);
        let (tsval, tsecr, wscale) = (tsval[lane], tsecr[lane], WINDOW_SCALE_LEN | wscale[lane]);
        let options_len = match (ALL, option) {
            (true, _) => FULL_OPTIONS_LEN,
            (false, 0) => 0,
            (false, _) => 4,
        };
        let total_len = HEADERS_LEN + options_len;
        lens[lane] = total_len + ether::HEADER_LEN as u32;
        let start = VERSION_IHL | tos[lane];
        let addresses = halves(saddr) + halves(daddr);
        let ip = start + total_len + ID_FLAGS + TTL_PROTO + addresses;
        let ip_field = if capabilities.tx_ip_csum { 0 } else { !fold(ip) & 0xffff };
        let pseudo = addresses + u32::from(PROTO_TCP) + total_len - ipv4::HEADER_LEN as u32;
        let whole = pseudo + halves(ports) + halves(seq) + halves(ack) + halves(control) + halves(option);
        let kinds = SACK_PERMITTED + TIMESTAMPS + NOP_WINDOW_SCALE;
        let whole = whole + if ALL { kinds + halves(tsval) + halves(tsecr) + wscale } else { 0 };
        let tcp_field = if capabilities.tx_tcp_csum { fold(pseudo) } else { !fold(whole) & 0xffff };
        // A link header has fourteen octets: what lies behind it lies across the words.
        let across = |upper: u32, lower: u32| (upper << 16 | lower >> 16).to_be();
        words.0[0][lane] = across(peer_first, peer_last);
        words.0[1][lane] = (peer_last << 16 | ours[0]).to_be();
        words.0[2][lane] = ours[1].to_be();
        words.0[3][lane] = (u32::from(ETHERTYPE_IPV4) << 16 | start).to_be();
        words.0[4][lane] = (total_len << 16).to_be();
        words.0[5][lane] = (ID_FLAGS << 16 | TTL_PROTO).to_be();
        words.0[6][lane] = (ip_field << 16 | daddr >> 16).to_be();
        words.0[7][lane] = across(daddr, saddr);
        words.0[8][lane] = across(saddr, ports);
        words.0[9][lane] = across(ports, seq);
        words.0[10][lane] = across(seq, ack);
        words.0[11][lane] = across(ack, control);
        words.0[12][lane] = (control << 16 | tcp_field).to_be();
        words.0[13][lane] = (option >> 16).to_be();
        words.0[14][lane] = (option << 16 | if ALL { SACK_PERMITTED } else { 0 }).to_be();
        if ALL {
            words.0[15][lane] = across(TIMESTAMPS, tsval);
            rest[0][lane] = across(tsval, tsecr);
            rest[1][lane] = across(tsecr, NOP_WINDOW_SCALE << 16);
            rest[2][lane] = (wscale << 16).to_be();
        }
    }
    (words, rest, lens)
}

/// A sum of less than 2^24, its carries added in.
#[inline(always)]
const fn fold(sum: u32) -> u32 {
    halves(halves(sum))
}
