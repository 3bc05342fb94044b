//! The frame that nearly every frame is: untagged, IPv4 without options, a whole TCP segment from a host's address to an
//! address of ours. Sixteen of them are read at a time, a field of all by one instruction.
//!
//! What is here only says yes. A frame that it does not take, for whatever reason, is read once more by the checks of
//! [`super`], which take it or name the reason; the two agree on what they both take (`tests.rs`).

use listener::columns;
use listener::drop_reason::DropReason;
use listener::segment::{TcpOptions, flag};
use listener::vector::{Square, Vectors};
use zerocopy::IntoBytes;

use crate::burst::{GROUP, Gathered, Plain};
use crate::io::Frame;
use crate::local::{AddrKind, Glance, LocalTable};
use crate::wire::checksum::{Sum, halves};
use crate::wire::ether::{self, ETHERTYPE_IPV4};
use crate::wire::ipv4::{self, PROTO_TCP};
use crate::wire::tcp;

type Column = [u32; GROUP];

/// In a [`Gathered::info`]: nothing that the device says, and no octet of the destination that is not in the row, speaks
/// against the frame.
const READABLE: u32 = 1 << 31;
/// The IPv4 header's checksum is known to be right.
const IP_WHOLE: u32 = 1 << 30;
/// The TCP checksum is.
const TCP_WHOLE: u32 = 1 << 29;
/// In place of a sum: the same.
const WHOLE: u32 = u32::MAX;
/// In a [`Gathered::info`]: the frame's octets.
const LEN: u32 = 0xffff;

const HEADERS_LEN: u32 = (ipv4::HEADER_LEN + tcp::HEADER_LEN) as u32;
const CONTROL: u8 = flag::SYN | flag::ACK | flag::RST | flag::FIN;
/// An MSS option's kind and length.
const MSS: u32 = 0x0204;
/// Two NOPs and a timestamps option's kind and length.
const TIMESTAMPS: u32 = 0x0101_080a;

/// The word of a row in which the source address lies.
const SADDR: usize = 6;
// Where, in what was read, the sum of the TCP header and the pseudo-header stands, and both timestamps.
const SUM: usize = 12;
const STAMPS: [usize; 2] = [14, 15];

/// What the vectors say of a group, a bit a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// It is plain, with no option, a SYN's MSS, or timestamps.
    plain: u32,
    /// It is a SYN and nothing else, with an MSS or none.
    syn: u32,
    /// It is a SYN.
    opens: u32,
    /// It has timestamps.
    stamped: u32,
    /// Its headers are plain; its other options and its data are still to be looked at.
    open: u32,
    /// It is from an address whose last octet is that of one of ours, or of a broadcast.
    near: u32,
    /// It is to another address than the first of ours.
    elsewhere: u32,
}

/// Frames of a burst by what became of them here, a bit each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    /// Those whose rows are filled.
    pub plain: u64,
    /// Those of them that are SYNs.
    pub opens: u64,
    /// Those of these with an MSS at most, and nothing else.
    pub syns: u64,
}

/// Fills the rows of the frames that are plain. `options` gets those of each that is no SYN with an MSS at most.
#[inline]
pub(super) fn read<F: Frame>(
    frames: &[Option<F>],
    vectors: Vectors,
    local: &LocalTable,
    plain: &mut Plain,
    mut options: impl FnMut(usize, TcpOptions, &Plain),
) -> Taken {
    let glance = local.glance();
    let mut taken = Taken::default();
    for (group, frames) in frames.chunks(GROUP).enumerate() {
        let first = group * GROUP;
        let (said, Square(words)) = vectors.run(
            #[inline(always)]
            || {
                gather(frames, &glance, &mut plain.gathered);
                check(vectors, &glance, plain, first)
            },
        );
        let mut rows = said.plain | said.open;
        if rows & said.near != 0 {
            let other = |lane: usize| local.kind_v4(plain.columns.saddr[first + lane]) == AddrKind::Other;
            rows &=
                !lanes(rows & said.near).filter(|&lane| !other(lane)).fold(0, |set, lane| set | 1 << lane);
        }
        if rows & said.elsewhere != 0 {
            let ours = |lane: usize| local.is_local_v4(plain.columns.daddr[first + lane]);
            rows &= !lanes(rows & said.elsewhere)
                .filter(|&lane| !ours(lane))
                .fold(0, |set, lane| set | 1 << lane);
        }
        let syns = rows & said.syn;
        for lane in lanes(rows & !syns) {
            let row = first + lane;
            let read = match said.open >> lane & 1 {
                1 => frames[lane].as_ref().map_or(Err(DropReason::EtherTooShort), |frame| {
                    others(frame, plain, row, words[SUM][lane])
                }),
                _ if said.stamped >> lane & 1 == 1 => {
                    let [tsval, tsecr] = STAMPS.map(|at| words[at][lane]);
                    Ok(TcpOptions { timestamps: Some((tsval, tsecr)), ..TcpOptions::default() })
                }
                _ => Ok(TcpOptions { mss: plain.columns.mss[row] as u16, ..TcpOptions::default() }),
            };
            match read {
                Ok(read) => options(row, read, plain),
                Err(_) => rows &= !(1 << lane),
            }
        }
        taken.plain |= u64::from(rows) << first;
        taken.opens |= u64::from(rows & said.opens) << first;
        taken.syns |= u64::from(syns) << first;
    }
    taken
}

/// The lanes of a set, the first one first.
#[inline(always)]
fn lanes(set: u32) -> impl Iterator<Item = usize> {
    columns::rows(u64::from(set)).map(|lane| lane % GROUP)
}

/// Copies what is read of each frame, and what the device says of it.
#[inline(always)]
fn gather<F: Frame>(frames: &[Option<F>], glance: &Glance<'_>, gathered: &mut Gathered) {
    gathered.info = [0; GROUP];
    for ((frame, row), info) in frames.iter().zip(&mut gathered.rows.0).zip(&mut gathered.info) {
        let Some(frame) = frame else { continue };
        let Some((dst, octets)) = frame.window().and_then(|window| window.split_first_chunk::<2>()) else {
            continue;
        };
        let said = frame.rx_said();
        let readable = said.plain & (*dst == glance.mac_first);
        *info = u32::from(readable) << READABLE.trailing_zeros()
            | u32::from(said.ip_whole) << IP_WHOLE.trailing_zeros()
            | u32::from(said.l4_whole) << TCP_WHOLE.trailing_zeros()
            | (frame.bytes().len() as u32).min(LEN);
        if let Some(octets) = octets.first_chunk::<64>() {
            row.as_mut_bytes().copy_from_slice(octets);
        }
    }
}

/// Reads the rows of a group into `plain`, from row `first` on.
#[inline(always)]
fn check(vectors: Vectors, glance: &Glance<'_>, plain: &mut Plain, first: usize) -> (Said, Square) {
    let Square(columns) = &vectors.transpose(&plain.gathered.rows);
    let infos = plain.gathered.info;
    let mut read = Square::ZERO;
    let words = &mut read.0;
    let mut said = Said::default();
    let (hosts, near) = (glance.hosts(&columns[SADDR]), glance.near(&columns[SADDR]));
    let (mac, ours) = (glance.mac_last, glance.first);
    // One loop without another in it and without a branch: the compiler makes each line an instruction or two.
    for lane in 0..GROUP {
        let word = |at: usize| u32::from_be(columns[at][lane]);
        let (dst, src, src_type, start, id) = (word(0), word(1), word(2), word(3), word(4));
        let (ttl, saddr, daddr, ports, seq) = (word(5), word(SADDR), word(7), word(8), word(9));
        let (ack, control, sum) = (word(10), word(11), word(12));
        let (option, one, two) = (word(13), word(14), word(15));
        let info = infos[lane];

        let total_len = start & 0xffff;
        let header_len = control >> 28 << 2;
        let behind = total_len.wrapping_sub(HEADERS_LEN);
        let link = (info & READABLE != 0) & (dst == mac) & (src_type & 0xffff == u32::from(ETHERTYPE_IPV4));
        let network = (start >> 24 == 0x45)
            & (id & 0x3fff == 0)
            & (ttl >> 16 & 0xff == u32::from(PROTO_TCP))
            & (total_len + ether::HEADER_LEN as u32 <= info & LEN);
        let lengths = (total_len >= HEADERS_LEN)
            & (header_len >= tcp::HEADER_LEN as u32)
            & (header_len + ipv4::HEADER_LEN as u32 <= total_len);
        let addresses = halves(saddr) + halves(daddr);
        let ip = halves(start) + halves(id) + halves(ttl) + addresses;
        let ip_whole = (info & IP_WHOLE != 0) | is_whole(ip);

        let has_syn = control >> 16 & u32::from(flag::SYN) != 0;
        let none = behind == 0;
        let has_mss = (behind == 4) & (option >> 16 == MSS) & has_syn;
        let stamped = (behind == 12) & (option == TIMESTAMPS);
        let simple = (none | has_mss | stamped) & (header_len.wrapping_sub(tcp::HEADER_LEN as u32) == behind);
        let pseudo =
            addresses + u32::from(PROTO_TCP) + (total_len.wrapping_sub(ipv4::HEADER_LEN as u32) & 0xffff);
        let fixed = pseudo + halves(ports) + halves(seq) + halves(ack) + halves(control) + halves(sum);
        let options = if none { 0 } else { halves(option) };
        let stamps = if stamped { halves(one) + halves(two) } else { 0 };
        let tcp_whole = (info & TCP_WHOLE != 0) | is_whole(fixed + options + stamps);

        let good = link & network & lengths & ip_whole & (hosts[lane] != 0);
        let syn = simple & !stamped & (control >> 16 & 0xfff == u32::from(flag::SYN));
        said.plain |= u32::from(good & simple & tcp_whole) << lane;
        said.open |= u32::from(good & !simple) << lane;
        said.syn |= u32::from(syn) << lane;
        said.opens |= u32::from(control >> 16 & u32::from(CONTROL) == u32::from(flag::SYN)) << lane;
        said.stamped |= u32::from(stamped) << lane;
        said.near |= near[lane] << lane;
        said.elsewhere |= u32::from((daddr != ours) | (daddr == u32::MAX)) << lane;
        words[1][lane] = src;
        words[2][lane] = src_type;
        words[3][lane] = start;
        words[6][lane] = saddr;
        words[7][lane] = daddr;
        words[8][lane] = ports;
        words[9][lane] = seq;
        words[10][lane] = ack;
        words[11][lane] = control;
        // In the places of words that nobody needs any more.
        words[4][lane] = if has_mss & simple { option & 0xffff } else { 0 };
        words[5][lane] = start >> 16 & 0xff;
        // What is known to be whole is made to look so.
        words[SUM][lane] = if info & TCP_WHOLE != 0 { WHOLE } else { fixed };
        words[STAMPS[0]][lane] = one;
        words[STAMPS[1]][lane] = two;
    }
    said.syn &= said.plain;
    store(words, plain, first);
    (said, read)
}

/// Writes the fields of a group, which are the words of its rows, into `plain`.
#[inline(always)]
fn store(words: &[Column; GROUP], plain: &mut Plain, first: usize) {
    let [_, src, src_type, start, mss, tos, saddr, daddr, ports, seq, ack, control, ..] = words;
    let rows = &mut plain.columns;
    put(&mut rows.saddr, first, saddr);
    put(&mut rows.daddr, first, daddr);
    put(&mut rows.ports, first, ports);
    put(&mut rows.seq, first, seq);
    put(&mut rows.mss, first, mss);
    put(&mut rows.tos, first, tos);
    put(&mut plain.src_mac[0], first, src);
    put(&mut plain.src_mac[1], first, src_type);
    put(&mut plain.ack, first, ack);
    put(&mut plain.control, first, control);
    put(&mut plain.total_len, first, start);
}

/// Writes a column's part of one group.
#[inline(always)]
fn put<const N: usize>(column: &mut [u32; N], first: usize, group: &Column) {
    if let Some(to) = column.get_mut(first..).and_then(|column| column.first_chunk_mut()) {
        *to = *group;
    }
}

/// True if 16-bit words, not all of them 0, whose sum this is add up to all ones; a sum of less than 2^24.
#[inline(always)]
const fn is_whole(sum: u32) -> bool {
    halves(halves(sum)) == 0xffff
}

/// The options of a frame whose headers are plain, and sum up to `sum`, if its options and its data are as they should be.
fn others<F: Frame>(frame: &F, plain: &Plain, row: usize, sum: u32) -> Result<TcpOptions, DropReason> {
    let (control, total_len) = (plain.control[row], plain.total_len[row] & 0xffff);
    let options_len = ((control >> 28 << 2) - tcp::HEADER_LEN as u32) as usize;
    let packet = frame.bytes().get(ether::HEADER_LEN..).and_then(|packet| packet.get(..total_len as usize));
    let rest = packet.and_then(|packet| packet.get(HEADERS_LEN as usize..)).ok_or(DropReason::IpHeader)?;
    if sum != WHOLE && !Sum::of(rest).word32(sum).is_whole() {
        return Err(DropReason::TcpCsum);
    }
    let mut read = TcpOptions::default();
    tcp::read_options(rest.get(..options_len).unwrap_or_default(), (control >> 16) as u8, &mut read)?;
    Ok(read)
}
