//! The answer that nearly every answer is: untagged, IPv4, an MSS or no option. Sixteen of them are composed at a time, a
//! field of all by one instruction, and each is written over its frame as one block.

use listener::columns::Answers;
use listener::drop_reason::DropReason;
use listener::vector::{Square, Vectors};
use zerocopy::IntoBytes;

use crate::burst::{BURST_MAX, Fate, GROUP, Plain};
use crate::io::{Capabilities, Frame, TxOffload};
use crate::local::LocalTable;
use crate::wire::checksum::halves;
use crate::wire::ether::{self, ETHERTYPE_IPV4, MacAddr};
use crate::wire::ipv4::{self, PROTO_TCP, TTL};
use crate::wire::tcp;

type Column = [u32; GROUP];

/// Version 4, five words of header.
const VERSION_IHL: u32 = 0x4500_0000;
/// Id 0, DF.
const ID_FLAGS: u32 = 0x4000;
const TTL_PROTO: u32 = (TTL as u32) << 24 | (PROTO_TCP as u32) << 16;
/// Octets of a frame without options.
const SHORT: usize = ether::HEADER_LEN + HEADERS_LEN as usize;
const HEADERS_LEN: u32 = (ipv4::HEADER_LEN + tcp::HEADER_LEN) as u32;

/// Writes `answers` over the frames whose headers are in `plain`: their fates become `Ready`.
#[inline]
pub(super) fn write<F: Frame>(
    frames: &mut [Option<F>],
    vectors: Vectors,
    (plain, answers): (&Plain, &Answers),
    fates: &mut [Fate],
    local: &LocalTable,
    capabilities: Capabilities,
) {
    let Capabilities { tx_ip_csum, tx_tcp_csum, .. } = capabilities;
    if tx_ip_csum || tx_tcp_csum {
        write_all::<F, false>(frames, vectors, (plain, answers), fates, local, capabilities);
    } else {
        write_all::<F, true>(frames, vectors, (plain, answers), fates, local, capabilities);
    }
}

/// [`write`], with nothing left to the device if `WHOLE`: what is asked of it is then known here.
#[inline(always)]
fn write_all<F: Frame, const WHOLE: bool>(
    frames: &mut [Option<F>],
    vectors: Vectors,
    (plain, answers): (&Plain, &Answers),
    fates: &mut [Fate],
    local: &LocalTable,
    capabilities: Capabilities,
) {
    let asked = offload(capabilities);
    for first in (0..frames.len()).step_by(GROUP) {
        let set = answers.rows >> first & 0xffff;
        if set == 0 {
            continue;
        }
        vectors.run(
            #[inline(always)]
            || {
                // Within the closure, so that it is seen to be nothing.
                let offload = if WHOLE { TxOffload::default() } else { asked };
                let blocks = compose(vectors, (plain, answers), first, local.mac(), capabilities);
                let (src, option) = (of(&plain.src_mac[0], first), of(&answers.option, first));
                let cells = frames[first..].iter_mut().zip(&mut fates[first..]).zip(&blocks.0);
                for (lane, ((frame, fate), block)) in cells.enumerate() {
                    let (Some(frame), true) = (frame, set >> lane & 1 == 1) else { continue };
                    let len = if option[lane] == 0 { SHORT } else { SHORT + 4 };
                    let dst = [(src[lane] >> 24) as u8, (src[lane] >> 16) as u8];
                    let Some(octets) = block.as_bytes().first_chunk() else { continue };
                    *fate = if frame.replace(dst, octets, len) {
                        frame.set_tx_offload(offload);
                        Fate::Ready(answers.outcome[(first + lane) % BURST_MAX])
                    } else {
                        Fate::Drop(DropReason::NoBuffer)
                    };
                }
            },
        );
    }
}

/// What the device is asked to complete.
fn offload(capabilities: Capabilities) -> TxOffload {
    let Capabilities { tx_ip_csum: ip_csum, tx_tcp_csum: tcp_csum, .. } = capabilities;
    TxOffload {
        ip_csum,
        tcp_csum,
        ipv6: false,
        l2_len: ether::HEADER_LEN as u8,
        l3_len: ipv4::HEADER_LEN as u8,
        vlan_tci: None,
    }
}

/// The octets of sixteen answers from the third on, those from row `first` on.
#[inline(always)]
fn compose(
    vectors: Vectors,
    (plain, answers): (&Plain, &Answers),
    first: usize,
    mac: MacAddr,
    capabilities: Capabilities,
) -> Square {
    let (saddr, daddr, ports) =
        (of(&plain.columns.saddr, first), of(&plain.columns.daddr, first), of(&plain.columns.ports, first));
    let (src, src_type) = (of(&plain.src_mac[0], first), of(&plain.src_mac[1], first));
    let (seq, ack, control) = (of(&answers.seq, first), of(&answers.ack, first), of(&answers.control, first));
    let (option, tos) = (of(&answers.option, first), of(&answers.tos, first));
    let ours = mac.to_bits();
    let mut square = Square::ZERO;
    let words = &mut square.0;
    for lane in 0..GROUP {
        let (saddr, daddr, ports) = (saddr[lane], daddr[lane], ports[lane]);
        let (seq, ack, control, option) = (seq[lane], ack[lane], control[lane], option[lane]);
        let total_len = HEADERS_LEN + if option == 0 { 0 } else { 4 };
        let start = VERSION_IHL | tos[lane] << 16 | total_len;
        let addresses = halves(saddr) + halves(daddr);
        let ip = halves(start) + ID_FLAGS + halves(TTL_PROTO) + addresses;
        let ip_field = if capabilities.tx_ip_csum { 0 } else { !fold(ip) & 0xffff };
        let pseudo = addresses + u32::from(PROTO_TCP) + total_len - ipv4::HEADER_LEN as u32;
        let whole = pseudo + halves(ports) + halves(seq) + halves(ack) + halves(control) + halves(option);
        let tcp_field = if capabilities.tx_tcp_csum { fold(pseudo) } else { !fold(whole) & 0xffff };
        words[0][lane] = (src[lane] << 16 | src_type[lane] >> 16).to_be();
        words[1][lane] = ((ours >> 16) as u32).to_be();
        words[2][lane] = ((ours as u32) << 16 | u32::from(ETHERTYPE_IPV4)).to_be();
        words[3][lane] = start.to_be();
        words[4][lane] = ID_FLAGS.to_be();
        words[5][lane] = (TTL_PROTO | ip_field).to_be();
        words[6][lane] = daddr.to_be();
        words[7][lane] = saddr.to_be();
        words[8][lane] = ports.rotate_left(16).to_be();
        words[9][lane] = seq.to_be();
        words[10][lane] = ack.to_be();
        words[11][lane] = control.to_be();
        words[12][lane] = (tcp_field << 16).to_be();
        words[13][lane] = option.to_be();
    }
    vectors.transpose(&square)
}

/// A column's part of one group.
#[inline(always)]
fn of(column: &[u32; BURST_MAX], first: usize) -> Column {
    column.get(first..).and_then(|column| column.first_chunk()).copied().unwrap_or([0; GROUP])
}

/// A sum of less than 2^24, its carries added in.
#[inline(always)]
const fn fold(sum: u32) -> u32 {
    halves(halves(sum))
}
