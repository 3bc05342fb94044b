//! ARP requests and neighbour solicitations → answers, in the same frame.

use listener::drop_reason::DropReason;
use listener::segment::Outcome;
use listener::types::InetAddr;

use super::reply::{L2, end_of_frame};
use crate::burst::{Fate, Head, Lanes};
use crate::io::Frame;
use crate::local::{AddrKind, LocalTable};
use crate::wire::arp::{self, ArpPacket};
use crate::wire::checksum::{Sum, pseudo_v6};
use crate::wire::ether::MacAddr;
use crate::wire::ipv6::{self, Ipv6Out, Ipv6Packet, PROTO_ICMPV6};
use crate::wire::ndp::{self, ADVERTISEMENT_LEN, Advertisement, Solicitation};

/// Answers the frames on the ARP and NDP lanes.
pub fn neighbour<F: Frame>(
    frames: &mut [Option<F>],
    heads: &[Head],
    fates: &mut [Fate],
    lanes: &Lanes,
    local: &LocalTable,
) {
    for index in lanes.arp.iter() {
        let Some(frame) = &mut frames[index] else { continue };
        fates[index] = fate(arp(frame, &heads[index], local));
    }
    for index in lanes.ndp.iter() {
        let Some(frame) = &mut frames[index] else { continue };
        fates[index] = fate(ndp(frame, &heads[index], local));
    }
}

fn fate(answered: Result<(), DropReason>) -> Fate {
    match answered {
        Ok(()) => Fate::Ready(Outcome::Other),
        Err(reason) => Fate::Drop(reason),
    }
}

/// Answers a request for an address of ours. A request from such an address is another host's claim to it and gets no
/// answer; nor does one from where nobody can be.
///
/// # Source
/// RFC 826; Linux v6.18 `arp_process`, `ip_route_input_slow`.
fn arp<F: Frame>(frame: &mut F, head: &Head, local: &LocalTable) -> Result<(), DropReason> {
    let l2_len = usize::from(head.l2_len);
    let asked = frame.bytes().get(l2_len..).and_then(ArpPacket::parse).ok_or(DropReason::ArpMalformed)?;
    let ours = |addr| local.kind_v4(addr) == AddrKind::Local;
    let loopback = |addr: u32| addr >> 24 == 127;
    let nobody = loopback(asked.spa) || asked.spa >> 28 == 0xe || asked.spa == u32::MAX;
    if asked.op != arp::REQUEST
        || !ours(asked.tpa)
        || (ours(asked.spa) && !local.is_foreign_v4(asked.spa))
        || loopback(asked.tpa)
        || nobody
        || asked.sha.is_group()
    {
        return Err(DropReason::ArpNotForUs);
    }
    let reply =
        ArpPacket { op: arp::REPLY, sha: local.mac(), spa: asked.tpa, tha: asked.sha, tpa: asked.spa };
    end_of_frame(frame, l2_len + arp::PACKET_LEN)?;
    frame.bytes_mut()[l2_len..].copy_from_slice(&reply.emit());
    L2::of(head).answer(frame, local.mac(), head.src_mac);
    Ok(())
}

/// Answers a solicitation for an address of ours; a probe for a duplicate is answered to all nodes.
///
/// # Source
/// RFC 4861 §7.1.1, §7.2.4; RFC 4862 §5.4.3; Linux v6.18 `ndisc_recv_ns`.
fn ndp<F: Frame>(frame: &mut F, head: &Head, local: &LocalTable) -> Result<(), DropReason> {
    let (start, end) = (usize::from(head.l2_len), usize::from(head.end));
    let packet = frame.bytes().get(start..end).ok_or(DropReason::NdpMalformed)?;
    let ip = Ipv6Packet::parse(packet)?;
    let message = packet.get(usize::from(ip.header_len)..).ok_or(DropReason::NdpMalformed)?;
    if !pseudo(ip.src, ip.dst, message.len()).plus(Sum::of(message)).is_whole() {
        return Err(DropReason::IcmpCsum);
    }
    if ip.hop_limit != ndp::HOP_LIMIT {
        return Err(DropReason::NdpMalformed);
    }
    let asked = Solicitation::parse(message).ok_or(DropReason::NdpMalformed)?;
    let probe = ip.src.is_any();
    if probe && (asked.has_source_link_addr || ip.dst != ndp::solicited_node(asked.target)) {
        return Err(DropReason::NdpMalformed);
    }
    if local.kind_v6(asked.target) != AddrKind::Local {
        return Err(DropReason::NdpNotForUs);
    }
    let (dst, to) = if probe {
        (ndp::ALL_NODES, MacAddr::ipv6_group(ndp::ALL_NODES.lo() as u32))
    } else {
        (ip.src, head.src_mac)
    };
    let told = Advertisement { target: asked.target, mac: local.mac(), dst, solicited: !probe };
    end_of_frame(frame, start + ADVERTISEMENT_PACKET_LEN)?;
    frame.bytes_mut()[start..].copy_from_slice(&advertisement_packet(&told));
    L2::of(head).answer(frame, local.mac(), to);
    Ok(())
}

/// Octets of an advertisement with its IPv6 header.
pub const ADVERTISEMENT_PACKET_LEN: usize = ipv6::HEADER_LEN + ADVERTISEMENT_LEN;

/// The octets of an advertisement with its IPv6 header.
pub fn advertisement_packet(told: &Advertisement) -> [u8; ADVERTISEMENT_PACKET_LEN] {
    let ip = Ipv6Out {
        src: told.target,
        dst: told.dst,
        protocol: PROTO_ICMPV6,
        tclass: 0,
        hop_limit: ndp::HOP_LIMIT,
        payload_len: ADVERTISEMENT_LEN as u16,
    };
    let mut out = [0; ADVERTISEMENT_PACKET_LEN];
    out[..ipv6::HEADER_LEN].copy_from_slice(&ip.emit());
    out[ipv6::HEADER_LEN..].copy_from_slice(&told.emit());
    out
}

/// The sum of the pseudo-header of an ICMPv6 message of `len` octets.
pub(super) fn pseudo(src: InetAddr, dst: InetAddr, len: usize) -> Sum {
    pseudo_v6((src.hi(), src.lo()), (dst.hi(), dst.lo()), PROTO_ICMPV6, len as u32)
}

#[cfg(test)]
mod tests;
