//! ICMP errors → the protocol: which of our segments they quote.

use listener::drop_reason::DropReason;
use listener::icmp::IcmpError;
use listener::segment::{FlowKey, Verdict};
use listener::types::{DevIndex, InetAddr, Nanos, SegSeq, TcpPort};

use super::neighbour::pseudo;
use crate::burst::{Fate, Head, Lanes};
use crate::io::Frame;
use crate::protocol::Protocol;
use crate::wire::checksum::Sum;
use crate::wire::icmp;
use crate::wire::ipv4::PROTO_TCP;
use crate::wire::ipv6::Ipv6Packet;

/// Octets of a TCP header that an error must quote: ports and sequence number.
const QUOTED: usize = 8;

/// Tells `protocol` of the frames on the lane of errors, which came in on device `dev`.
///
/// # Source
/// Linux v6.18 `icmp_rcv`, `icmp_unreach`, `icmpv6_rcv`, `icmpv6_notify`.
#[inline(never)]
pub fn icmp_error<F: Frame, P: Protocol>(
    protocol: &mut P,
    (frames, heads, fates): (&[Option<F>], &[Head], &mut [Fate]),
    dev: DevIndex,
    lanes: &Lanes,
    now: Nanos,
) {
    for index in lanes.errors.iter() {
        let Some(frame) = &frames[index] else { continue };
        fates[index] = match read(frame.bytes(), &heads[index], dev) {
            Ok(error) => match protocol.icmp_err(&error, now) {
                Verdict::Consume(outcome) | Verdict::Reply(outcome, _) => Fate::Consume(outcome),
                Verdict::Drop(reason) => Fate::Drop(reason),
            },
            Err(reason) => Fate::Drop(reason),
        };
    }
}

/// What the error in a frame says.
///
/// # Errors
/// A wrong checksum, a quotation that is no segment of ours or is cut short, or an error that says TCP nothing.
pub fn read(bytes: &[u8], head: &Head, dev: DevIndex) -> Result<IcmpError, DropReason> {
    let (start, end) = (usize::from(head.l2_len), usize::from(head.end));
    let packet = bytes.get(start..end).ok_or(DropReason::IcmpMalformed)?;
    let message = packet.get(usize::from(head.l3_len)..).ok_or(DropReason::IcmpMalformed)?;
    let (kind, code) = icmp::kind(message).ok_or(DropReason::IcmpMalformed)?;
    let quoted = &message[icmp::HEADER_LEN..];
    let (sum, fatal, quoted) = if head.v6 {
        let ip = Ipv6Packet::parse(packet)?;
        let pseudo = pseudo(ip.src, ip.dst, message.len());
        (pseudo.plus(Sum::of(message)), icmp::is_fatal_v6(kind, code), quoted_v6(quoted))
    } else {
        (Sum::of(message), icmp::is_fatal(kind, code), quoted_v4(quoted))
    };
    if !sum.is_whole() {
        return Err(DropReason::IcmpCsum);
    }
    let fatal = fatal.ok_or(DropReason::IcmpType)?;
    let (saddr, daddr, segment) = quoted.ok_or(DropReason::IcmpMalformed)?;
    let [sport_hi, sport_lo, dport_hi, dport_lo, seq @ ..] = *segment;
    // The quotation is one of ours: the peer is where it went.
    let flow = FlowKey {
        saddr: daddr,
        daddr: saddr,
        sport: TcpPort(u16::from_be_bytes([dport_hi, dport_lo])),
        dport: TcpPort(u16::from_be_bytes([sport_hi, sport_lo])),
    };
    Ok(IcmpError { flow, dev, seq: SegSeq(u32::from_be_bytes(seq)), fatal })
}

/// Source, destination, and the first octets of the segment.
type Quoted<'a> = (InetAddr, InetAddr, &'a [u8; QUOTED]);

/// The packet is cut short, so its length means nothing.
fn quoted_v4(packet: &[u8]) -> Option<Quoted<'_>> {
    let header = packet.first_chunk::<20>()?;
    let len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || len < header.len() || header[9] != PROTO_TCP {
        return None;
    }
    let addr = |at: usize| InetAddr::v4(u32::from_be_bytes([0, 1, 2, 3].map(|octet| header[at + octet])));
    Some((addr(12), addr(16), packet.get(len..)?.first_chunk()?))
}

/// What we send has no extension headers.
fn quoted_v6(packet: &[u8]) -> Option<Quoted<'_>> {
    let header = packet.first_chunk::<40>()?;
    if header[0] >> 4 != 6 || header[6] != PROTO_TCP {
        return None;
    }
    let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|octet| header[at + octet]));
    let addr = |at: usize| InetAddr::v6(word(at), word(at + 8));
    Some((addr(8), addr(24), packet.get(header.len()..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
