//! Octets → columns. Every `if` on the kind of a frame is here, and every check that needs no state but the device's
//! own addresses.
//!
//! Nearly every frame is read by `plain`, which knows one kind and no reasons; what it does not take, and so whatever
//! is to be dropped, goes through the checks below one by one, in the kernel's order.

use listener::columns::rows;
use listener::drop_reason::DropReason;
use listener::segment::{FlowKey, Segment, TcpOptions, flag};
use listener::types::{DevIndex, InetAddr, SegSeq, TcpPort};
use listener::vector::Vectors;

use crate::burst::{BURST_MAX, Fate, Head, Lane, Lanes, Plain};
use crate::io::{Csum, Frame, RxMeta};
use crate::local::{AddrKind, LocalTable, pack_route};
use crate::wire::checksum::{Sum, pseudo_v4, pseudo_v6};
use crate::wire::ether::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EtherHeader};
use crate::wire::ipv4::{self, Ipv4Packet, PROTO_ICMP, PROTO_TCP};
use crate::wire::ipv6::{Ipv6Packet, PROTO_ICMPV6};
use crate::wire::tcp::TcpHeader;
use crate::wire::{icmp, ndp, vlan};

mod full;
mod plain;

const LOOPBACK_V6: InetAddr = InetAddr::v6(0, 1);

/// The columns that [`parse`] fills; as long as the burst, or longer.
pub struct Columns<'a> {
    /// Where things are, but in plain frames: see [`Plain::head`].
    pub heads: &'a mut [Head],
    /// The headers of plain segments.
    pub plain: &'a mut Plain,
    /// TCP segments.
    pub segs: &'a mut [Segment],
    /// `Drop` or `Pending`; not touched where there is a plain segment.
    pub fates: &'a mut [Fate],
    /// Who goes where.
    pub lanes: &'a mut Lanes,
}

/// Which lane a frame goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Arp,
    Ndp,
    Echo,
    IcmpError,
    Tcp,
}

/// Reads every frame of `frames`, which arrived on device `dev` with the addresses `local`: it gets its lane and its
/// columns, or its drop reason. Bare ones get no segment, see [`Lanes::bare`]. Returns the octets of all frames.
#[inline(never)]
pub fn parse<F: Frame>(
    frames: &[Option<F>],
    vectors: Vectors,
    local: &LocalTable,
    dev: DevIndex,
    columns: Columns<'_>,
) -> usize {
    let Columns { heads, plain, segs, fates, lanes } = columns;
    let taken = plain::read(frames, vectors, local, plain, |row, options, plain| {
        plain.segment(row, dev, options, &mut segs[row]);
    });
    *lanes = Lanes::EMPTY;
    lanes.tcp = Lane::of(taken.plain);
    lanes.plain = lanes.tcp;
    lanes.opens = Lane::of(taken.opens);
    lanes.syns = Lane::of(taken.syns);
    lanes.full = Lane::of(taken.full);
    lanes.resets = Lane::of(taken.resets);
    let mut octets = taken.octets;
    let all = u64::MAX >> (BURST_MAX - frames.len().clamp(1, BURST_MAX));
    for index in rows(all & !taken.plain) {
        let Some(Some(frame)) = frames.get(index) else { continue };
        let (bytes, meta) = (frame.bytes(), frame.rx_meta());
        octets += bytes.len() - plain.octets(index).min(bytes.len());
        let mut row = Row { meta, local, head: &mut heads[index], seg: &mut segs[index] };
        any_frame(bytes, dev, index as u8, &mut row, lanes, &mut fates[index]);
    }
    octets
}

/// One frame of any kind, with every check by name.
#[inline(never)]
fn any_frame(bytes: &[u8], dev: DevIndex, index: u8, row: &mut Row<'_>, lanes: &mut Lanes, fate: &mut Fate) {
    *fate = Fate::Pending;
    match row.frame(bytes) {
        Ok(Kind::Tcp) => {
            row.seg.dev = dev;
            lanes.tcp.push(index);
        }
        Ok(Kind::Arp) => lanes.arp.push(index),
        Ok(Kind::Ndp) => lanes.ndp.push(index),
        Ok(Kind::Echo) => lanes.echo.push(index),
        Ok(Kind::IcmpError) => lanes.errors.push(index),
        Err(reason) => *fate = Fate::Drop(reason),
    }
}

/// One frame's cells.
struct Row<'a> {
    meta: RxMeta,
    local: &'a LocalTable,
    head: &'a mut Head,
    seg: &'a mut Segment,
}

/// What the two families have in common once their headers are read.
struct Packet {
    saddr: InetAddr,
    daddr: InetAddr,
    tos: u8,
    pseudo: Sum,
}

impl Row<'_> {
    #[inline(always)]
    fn frame(&mut self, bytes: &[u8]) -> Result<Kind, DropReason> {
        if self.meta.chained {
            return Err(DropReason::MultiSegment);
        }
        let header = EtherHeader::parse(bytes).ok_or(DropReason::EtherTooShort)?;
        let to_us = header.dst == self.local.mac();
        if !to_us && !header.dst.is_group() {
            return Err(DropReason::EtherOtherHost);
        }
        let stripped = self.meta.vlan_tci.map(vlan::Tci);
        let (tags, ethertype, l2_len) = vlan::Tags::read(bytes, header.ethertype, stripped)?;
        *self.head = Head {
            src_mac: header.src,
            stripped_tci: self.meta.vlan_tci,
            l2_len: l2_len as u8,
            ..Head::default()
        };
        self.seg.route = pack_route(header.src, tags);
        let packet = bytes.get(l2_len..).unwrap_or(&[]);
        match ethertype {
            ETHERTYPE_IPV4 => self.ipv4(packet, to_us),
            ETHERTYPE_IPV6 => self.ipv6(packet, to_us),
            ETHERTYPE_ARP => Ok(Kind::Arp),
            _ => Err(DropReason::EtherType),
        }
    }

    #[inline(always)]
    fn ipv4(&mut self, bytes: &[u8], to_us: bool) -> Result<Kind, DropReason> {
        let ip = Ipv4Packet::parse(bytes, self.meta.ip_csum == Csum::Unknown)?;
        if self.meta.ip_csum == Csum::Bad {
            return Err(DropReason::IpCsum);
        }
        source_v4(self.local, ip.src)?;
        let dst = self.local.kind_v4(ip.dst);
        if dst == AddrKind::Other {
            return Err(DropReason::IpNotLocal);
        }
        let header_len = usize::from(ip.header_len);
        if header_len > ipv4::HEADER_LEN {
            ipv4::check_options(&bytes[ipv4::HEADER_LEN..header_len])?;
        }
        if ip.fragment {
            return Err(DropReason::IpFragment);
        }
        self.head.l3_len = u16::from(ip.header_len);
        self.head.end = u16::from(self.head.l2_len).saturating_add(ip.total_len);
        let payload = &bytes[header_len..usize::from(ip.total_len)];
        match ip.protocol {
            PROTO_TCP if !to_us || dst != AddrKind::Local => Err(DropReason::IpNotUnicast),
            PROTO_TCP => {
                // The payload is shorter than the packet, so its length fits.
                let pseudo = pseudo_v4(ip.src, ip.dst, PROTO_TCP, payload.len() as u16);
                let (saddr, daddr) = (InetAddr::v4(ip.src), InetAddr::v4(ip.dst));
                self.tcp(payload, &Packet { saddr, daddr, tos: ip.tos, pseudo })
            }
            PROTO_ICMP => match icmp::kind(payload).ok_or(DropReason::IcmpMalformed)? {
                // An echo to a broadcast is not answered (icmp_echo_ignore_broadcasts).
                (icmp::ECHO_REQUEST, _) if dst == AddrKind::Local => Ok(Kind::Echo),
                (icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM, _)
                    if to_us && dst == AddrKind::Local =>
                {
                    Ok(Kind::IcmpError)
                }
                _ => Err(DropReason::IcmpType),
            },
            _ => Err(DropReason::IpProto),
        }
    }

    #[inline(never)]
    fn ipv6(&mut self, bytes: &[u8], to_us: bool) -> Result<Kind, DropReason> {
        let ip = Ipv6Packet::parse(bytes)?;
        source_v6(self.local, &ip)?;
        let dst = self.local.kind_v6(ip.dst);
        if dst == AddrKind::Other {
            return Err(DropReason::IpNotLocal);
        }
        self.head.v6 = true;
        self.head.l3_len = ip.header_len;
        let end = u32::from(self.head.l2_len) + ip.total_len;
        self.head.end = u16::try_from(end).map_err(|_| DropReason::IpHeader)?;
        let payload = &bytes[usize::from(ip.header_len)..ip.total_len as usize];
        match ip.protocol {
            PROTO_TCP if !to_us || dst != AddrKind::Local => Err(DropReason::IpNotUnicast),
            PROTO_TCP => {
                let (src, dst) = ((ip.src.hi(), ip.src.lo()), (ip.dst.hi(), ip.dst.lo()));
                let pseudo = pseudo_v6(src, dst, PROTO_TCP, payload.len() as u32);
                self.tcp(payload, &Packet { saddr: ip.src, daddr: ip.dst, tos: ip.tclass, pseudo })
            }
            PROTO_ICMPV6 => match icmp::kind(payload).ok_or(DropReason::IcmpMalformed)? {
                (icmp::V6_ECHO_REQUEST, _) if !ip.src.is_any() => Ok(Kind::Echo),
                (icmp::V6_FIRST_ERROR..=icmp::V6_LAST_ERROR, _) if to_us && dst == AddrKind::Local => {
                    Ok(Kind::IcmpError)
                }
                (ndp::SOLICITATION, _) => Ok(Kind::Ndp),
                (ndp::FIRST_TYPE..=ndp::LAST_TYPE, _) => Err(DropReason::NdpNotForUs),
                _ => Err(DropReason::IcmpType),
            },
            _ => Err(DropReason::IpProto),
        }
    }

    /// True beside the kernel for a checksum that a local peer has left to its device: the field holds the pseudo-header's sum, not
    /// inverted. The kernel takes such a segment, so a client would be lost that it serves.
    #[cold]
    fn is_partial(&self, packet: &Packet, segment: &[u8]) -> bool {
        let field = segment.get(16..18).map(|field| u16::from_be_bytes([field[0], field[1]]));
        self.local.is_beside_kernel() && field == Some(packet.pseudo.folded())
    }

    #[inline(always)]
    fn tcp(&mut self, segment: &[u8], packet: &Packet) -> Result<Kind, DropReason> {
        let tcp = TcpHeader::parse(segment)?;
        let whole = match self.meta.l4_csum {
            Csum::Good | Csum::None => true,
            Csum::Bad => false,
            Csum::Unknown => {
                packet.pseudo.plus(Sum::of(segment)).is_whole() || self.is_partial(packet, segment)
            }
        };
        if !whole {
            return Err(DropReason::TcpCsum);
        }
        let ack = if tcp.flags & flag::ACK != 0 { tcp.ack } else { 0 };
        *self.seg = Segment {
            flow: FlowKey {
                saddr: packet.saddr,
                daddr: packet.daddr,
                sport: TcpPort(tcp.sport),
                dport: TcpPort(tcp.dport),
            },
            dev: DevIndex::NONE,
            flags: tcp.flags,
            reserved: tcp.reserved,
            tos: packet.tos,
            wnd: tcp.wnd,
            payload_len: (segment.len() - usize::from(tcp.header_len)) as u16,
            seq: SegSeq(tcp.seq),
            ack: SegSeq(ack),
            options: TcpOptions::default(),
            route: self.seg.route,
        };
        tcp.read_options(segment, &mut self.seg.options)?;
        Ok(Kind::Tcp)
    }
}

/// Refuses sources that cannot be answered.
///
/// # Source
/// Linux v6.18 `ip_route_input_slow`, `fib_validate_source`.
#[inline]
fn source_v4(local: &LocalTable, src: u32) -> Result<(), DropReason> {
    // 127.0.0.0/8, and 0.0.0.0; the rest of 0.0.0.0/8 is as good as any (`ipv4_is_zeronet`).
    if src >> 24 == 127 || src == 0 {
        return Err(DropReason::IpMartianSource);
    }
    match local.kind_v4(src) {
        AddrKind::Other => Ok(()),
        AddrKind::Local if local.is_beside_kernel() || local.is_foreign_v4(src) => Ok(()),
        AddrKind::Local => Err(DropReason::IpMartianSource),
        AddrKind::Broadcast | AddrKind::Multicast => Err(DropReason::IpNotUnicast),
    }
}

/// Refuses sources that cannot be answered; an unspecified one may probe for duplicates (RFC 4862 §5.4.2).
///
/// # Source
/// Linux v6.18 `ip6_rcv_core`; a source of our own is turned away as it is for IPv4.
#[inline]
fn source_v6(local: &LocalTable, ip: &Ipv6Packet) -> Result<(), DropReason> {
    if ip.src.is_v4() || ip.src == LOOPBACK_V6 {
        return Err(DropReason::IpMartianSource);
    }
    if ip.src.is_any() && ip.protocol != PROTO_ICMPV6 {
        return Err(DropReason::IpMartianSource);
    }
    match local.kind_v6(ip.src) {
        AddrKind::Other => Ok(()),
        AddrKind::Local if ip.src.is_any() || local.is_beside_kernel() || local.is_foreign_v6(ip.src) => {
            Ok(())
        }
        AddrKind::Local => Err(DropReason::IpMartianSource),
        AddrKind::Broadcast | AddrKind::Multicast => Err(DropReason::IpNotUnicast),
    }
}

#[cfg(test)]
mod tests;
