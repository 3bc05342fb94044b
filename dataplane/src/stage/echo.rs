//! Echo requests → replies, in the same frame.

use listener::drop_reason::DropReason;
use listener::segment::Outcome;
use listener::types::InetAddr;

use super::neighbour::pseudo;
use super::reply::{L2, end_of_frame};
use crate::burst::{Fate, Head, Lanes};
use crate::io::Frame;
use crate::local::LocalTable;
use crate::wire::checksum::Sum;
use crate::wire::icmp;
use crate::wire::ipv4::{self, Ipv4Out, Ipv4Packet, PROTO_ICMP};
use crate::wire::ipv6::{self, Ipv6Out, Ipv6Packet, PROTO_ICMPV6};

/// Answers the frames on the echo lane. IPv4 options and IPv6 extension headers do not come back.
///
/// # Source
/// Linux v6.18 `icmp_echo`, `icmpv6_echo_reply`.
pub fn echo<F: Frame>(
    frames: &mut [Option<F>],
    heads: &[Head],
    fates: &mut [Fate],
    lanes: &Lanes,
    local: &LocalTable,
) {
    for index in lanes.echo.iter() {
        let Some(frame) = &mut frames[index] else { continue };
        let head = &heads[index];
        let answered = if head.v6 { echo_v6(frame, head, local) } else { echo_v4(frame, head) };
        fates[index] = match answered {
            Ok(()) => {
                L2::of(head).answer(frame, local.mac(), head.src_mac);
                Fate::Ready(Outcome::Other)
            }
            Err(reason) => Fate::Drop(reason),
        };
    }
}

fn echo_v4<F: Frame>(frame: &mut F, head: &Head) -> Result<(), DropReason> {
    let (start, end) = (usize::from(head.l2_len), usize::from(head.end));
    let packet = frame.bytes_mut().get_mut(start..end).ok_or(DropReason::IcmpMalformed)?;
    let ip = Ipv4Packet::parse(packet, false)?;
    let message = packet.get_mut(usize::from(ip.header_len)..).ok_or(DropReason::IcmpMalformed)?;
    if !Sum::of(message).is_whole() {
        return Err(DropReason::IcmpCsum);
    }
    icmp::set_kind(message, icmp::ECHO_REPLY);
    let len = message.len();
    packet.copy_within(usize::from(ip.header_len).., ipv4::HEADER_LEN);
    let out =
        Ipv4Out { src: ip.dst, dst: ip.src, protocol: PROTO_ICMP, tos: ip.tos, payload_len: len as u16 };
    packet[..ipv4::HEADER_LEN].copy_from_slice(&out.emit(false));
    end_of_frame(frame, start + ipv4::HEADER_LEN + len)
}

/// A request to all nodes is answered from an address of ours; other groups are not ours.
fn echo_v6<F: Frame>(frame: &mut F, head: &Head, local: &LocalTable) -> Result<(), DropReason> {
    let (start, end) = (usize::from(head.l2_len), usize::from(head.end));
    let packet = frame.bytes_mut().get_mut(start..end).ok_or(DropReason::IcmpMalformed)?;
    let ip = Ipv6Packet::parse(packet)?;
    let message = packet.get_mut(usize::from(ip.header_len)..).ok_or(DropReason::IcmpMalformed)?;
    let len = message.len();
    if !pseudo(ip.src, ip.dst, len).plus(Sum::of(message)).is_whole() {
        return Err(DropReason::IcmpCsum);
    }
    let src = source(&ip, local).ok_or(DropReason::IcmpType)?;
    icmp::set_kind(message, icmp::V6_ECHO_REPLY);
    if src != ip.dst {
        message[2..4].fill(0);
        let sum = pseudo(src, ip.src, len).plus(Sum::of(message)).checksum();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet.copy_within(usize::from(ip.header_len).., ipv6::HEADER_LEN);
    let out = Ipv6Out {
        src,
        dst: ip.src,
        protocol: PROTO_ICMPV6,
        tclass: ip.tclass,
        hop_limit: ipv6::HOP_LIMIT,
        payload_len: len as u16,
    };
    packet[..ipv6::HEADER_LEN].copy_from_slice(&out.emit());
    end_of_frame(frame, start + ipv6::HEADER_LEN + len)
}

/// Where the reply comes from.
fn source(ip: &Ipv6Packet, local: &LocalTable) -> Option<InetAddr> {
    if !ip.dst.is_multicast() {
        Some(ip.dst)
    } else if ip.dst == crate::wire::ndp::ALL_NODES {
        local.source_v6(ip.src)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
