//! Where headers lie in a captured frame, read as far as its octets go; and what stands for those that were not kept.

use etherparse::err::packet::SliceError;
use etherparse::{LaxNetSlice, LaxSlicedPacket};

use crate::summary::PROTO_UDP;
use crate::wire::checksum::{Sum, pseudo_v4, pseudo_v6};
use crate::wire::ipv4::{PROTO_ICMP, PROTO_TCP};
use crate::wire::ipv6::PROTO_ICMPV6;

/// Octets of a TCP header without options.
const TCP_FIXED: usize = 20;
/// Octets of a link header and an ARP packet.
const ARP_END: usize = 14 + 28;

/// An IP packet in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub v6: bool,
    /// Where it begins.
    pub at: usize,
    /// Where it ends by its own account, which may lie behind the frame's end.
    pub end: usize,
    /// Where the transport header begins, and its protocol; none in a fragment, and where it or headers in front of it are not
    /// there. Of TCP's, options may be missing.
    pub transport: Option<(usize, u8)>,
}

impl Packet {
    /// The packet in `frame`, if it holds one, and whether the octets ended before its headers did.
    pub fn read(frame: &[u8]) -> (Option<Self>, bool) {
        let Ok(sliced) = LaxSlicedPacket::from_ethernet(frame) else { return (None, true) };
        let short = matches!(sliced.stop_err, Some((SliceError::Len(_), _)));
        let place = |part: &[u8]| part.as_ptr().addr().saturating_sub(frame.as_ptr().addr());
        let (v6, header, len, payload) = match &sliced.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let header = ip.header();
                (false, place(header.slice()), usize::from(header.total_len()), ip.payload())
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                let header = ip.header();
                (true, place(header.slice()), 40 + usize::from(header.payload_length()), ip.payload())
            }
            _ => return (None, short),
        };
        let fixed = payload.ip_number.0 == PROTO_TCP && payload.payload.len() >= TCP_FIXED;
        let readable = !payload.fragmented && (sliced.transport.is_some() || fixed);
        let transport = readable.then(|| (place(payload.payload), payload.ip_number.0));
        (Some(Self { v6, at: header, end: header + len, transport }), short)
    }

    /// Where the checksum of its transport header stands, and whether addresses are in its sum.
    pub const fn checksum(&self) -> Option<(usize, bool)> {
        match (self.transport, self.v6) {
            (Some((at, PROTO_TCP)), _) => Some((at + 16, true)),
            (Some((at, PROTO_UDP)), _) => Some((at + 6, true)),
            (Some((at, PROTO_ICMPV6)), true) => Some((at + 2, true)),
            (Some((at, PROTO_ICMP)), false) => Some((at + 2, false)),
            _ => None,
        }
    }
}

/// Makes `frame`, of which a capture kept what is there, `len` octets long: zeros for data that is not there, which end a list
/// of TCP options in front of the first that is not whole, and a checksum that is right for them.
///
/// # Errors
/// Headers are not there either: the end of a sentence that names the frame.
pub(super) fn fill(frame: &mut Vec<u8>, len: usize) -> Result<(), String> {
    let kept = frame.len();
    if kept >= len {
        return Ok(());
    }
    let (packet, short) = Packet::read(frame);
    let lacks = match packet {
        Some(packet) => short && packet.end > kept && packet.transport.is_none(),
        None => short || frame.get(12..14) == Some(&[8, 6]) && kept < ARP_END,
    };
    if lacks {
        return Err(format!("was cut in its headers by the capture, which kept {kept} of {len} octets"));
    }
    frame.resize(len, 0);
    // What is missing of a packet that ends before it is padding.
    let Some(packet) = packet.filter(|packet| packet.end > kept && packet.end <= len) else { return Ok(()) };
    let (Some((start, protocol)), Some((field, with_addresses))) = (packet.transport, packet.checksum())
    else {
        return Ok(());
    };
    if protocol == PROTO_TCP {
        let header_end = start + usize::from(frame[start + 12] >> 4) * 4;
        let options = start + TCP_FIXED..header_end.clamp(start + TCP_FIXED, len);
        if kept < options.end {
            end_options(&mut frame[options.clone()], kept - options.start);
        }
    }
    let Some(checksum) = frame.get_mut(field..field + 2) else { return Ok(()) };
    checksum.fill(0);
    let segment = &frame[start..packet.end];
    let pseudo = if with_addresses { pseudo(frame, &packet, protocol, segment.len()) } else { Sum::ZERO };
    let sum = pseudo.plus(Sum::of(segment)).checksum();
    // Of UDP, 0 means that there is none.
    let sum = if protocol == PROTO_UDP && sum == 0 { 0xffff } else { sum };
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// Completes the checksum of the TCP or UDP packet in `frame` if its sender has left that to its device; true if it has. What
/// stands there then is the sum of the pseudo-header (Linux's `CHECKSUM_PARTIAL`): so captured on the sender, and on a
/// loopback or veth interface, whose receiver takes it for right.
pub(super) fn complete(frame: &mut [u8]) -> bool {
    let Some(packet) = Packet::read(frame).0 else { return false };
    let (Some((start, protocol @ (PROTO_TCP | PROTO_UDP))), Some((field, _))) =
        (packet.transport, packet.checksum())
    else {
        return false;
    };
    let Some(segment) = frame.get(start..packet.end) else { return false };
    let Some(found) = frame.get(field..).and_then(<[u8]>::first_chunk).map(|sum| u16::from_be_bytes(*sum))
    else {
        return false;
    };
    let pseudo = pseudo(frame, &packet, protocol, segment.len());
    if found != pseudo.folded() || pseudo.plus(Sum::of(segment)).is_whole() {
        return false;
    }
    // The sum of the pseudo-header is in the segment's sum, as it stands in the field.
    let sum = Sum::of(segment).checksum();
    let sum = if protocol == PROTO_UDP && sum == 0 { 0xffff } else { sum };
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Puts zeros in place of the option in `options` that is not whole in the first `kept` octets of them.
fn end_options(options: &mut [u8], kept: usize) {
    let mut at = 0;
    while at < kept {
        let len = match options.get(at..) {
            Some([0, ..]) => return,
            Some([1, ..]) => 1,
            // A length that is wrong stays so: who sent it meant it.
            Some([_, len, ..]) if at + 1 < kept => match usize::from(*len) {
                0 | 1 => return,
                len => len,
            },
            _ => 2,
        };
        if at + len > kept {
            return options[at..kept].fill(0);
        }
        at += len;
    }
}

fn pseudo(frame: &[u8], packet: &Packet, protocol: u8, len: usize) -> Sum {
    let word =
        |at: usize| frame.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_be_bytes(*word));
    let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    let at = packet.at;
    if packet.v6 {
        let (src, dst) = ((long(at + 8), long(at + 16)), (long(at + 24), long(at + 32)));
        pseudo_v6(src, dst, protocol, len as u32)
    } else {
        // An IPv4 packet has at most 65,535 octets.
        pseudo_v4(word(at + 12), word(at + 16), protocol, len as u16)
    }
}
