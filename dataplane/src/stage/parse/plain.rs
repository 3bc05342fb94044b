//! The frame that nearly every frame is: untagged, IPv4 without options, a whole TCP segment from a host's address to an
//! address of ours.

use listener::segment::{FlowKey, Segment, flag};
use listener::types::{DevIndex, InetAddr, SegSeq, TcpPort};
use zerocopy::FromBytes;

use crate::burst::Head;
use crate::io::{Csum, RxMeta};
use crate::local::{LocalTable, pack_route};
use crate::wire::checksum::Sum;
use crate::wire::ether::{self, ETHERTYPE_IPV4, EtherHeader};
use crate::wire::ipv4;
use crate::wire::tcp;
use crate::wire::tcp4::{HEADERS_LEN, Headers};
use crate::wire::vlan::Tags;

/// Reads the segment in `bytes`. False if the frame is of another kind, or there is anything wrong with it; `head` and
/// `seg` may then have changed.
#[inline(always)]
pub(super) fn tcp_v4(
    bytes: &[u8],
    meta: &RxMeta,
    local: &LocalTable,
    dev: DevIndex,
    head: &mut Head,
    seg: &mut Segment,
) -> bool {
    let Some(ether) = EtherHeader::parse(bytes) else { return false };
    if ether.dst != local.mac()
        || ether.ethertype != ETHERTYPE_IPV4
        || meta.chained
        || meta.vlan_tci.is_some()
    {
        return false;
    }
    let packet = &bytes[ether::HEADER_LEN..];
    let Ok((headers, _)) = Headers::ref_from_prefix(packet) else { return false };
    let Some(fields) = headers.fields() else { return false };
    let total_len = usize::from(fields.total_len);
    let header_len = ipv4::HEADER_LEN + usize::from(fields.tcp_header_len);
    let (Some(rest), true) = (packet.get(HEADERS_LEN..total_len), HEADERS_LEN <= header_len) else {
        return false;
    };
    let Some(options) = rest.get(..header_len - HEADERS_LEN) else { return false };
    let (saddr, daddr) = ((fields.addrs >> 32) as u32, fields.addrs as u32);
    if !local.is_local_v4(daddr) || !local.is_plainly_other_v4(saddr) || !is_whole(headers, rest, meta) {
        return false;
    }
    *head = Head {
        src_mac: ether.src,
        stripped_tci: None,
        l2_len: ether::HEADER_LEN as u8,
        v6: false,
        l3_len: ipv4::HEADER_LEN as u16,
        end: (ether::HEADER_LEN as u16).saturating_add(fields.total_len),
    };
    seg.flow = FlowKey {
        saddr: InetAddr::v4(saddr),
        daddr: InetAddr::v4(daddr),
        sport: TcpPort((fields.ports >> 16) as u16),
        dport: TcpPort(fields.ports as u16),
    };
    seg.dev = dev;
    seg.flags = fields.flags;
    seg.reserved = fields.reserved;
    seg.tos = fields.tos;
    seg.wnd = fields.wnd;
    seg.payload_len = (total_len - header_len) as u16;
    seg.seq = SegSeq(fields.seq);
    seg.ack = SegSeq(if fields.flags & flag::ACK != 0 { fields.ack } else { 0 });
    seg.route = pack_route(ether.src, Tags::NONE);
    tcp::read_options(options, fields.flags, &mut seg.options).is_ok()
}

/// True if both checksums are right, as far as the device did not say so.
#[inline(always)]
fn is_whole(headers: &Headers, rest: &[u8], meta: &RxMeta) -> bool {
    let ip = match meta.ip_csum {
        Csum::Good | Csum::None => true,
        Csum::Bad => false,
        Csum::Unknown => headers.ip_is_whole(),
    };
    let tcp = match meta.l4_csum {
        Csum::Good | Csum::None => true,
        Csum::Bad => false,
        Csum::Unknown => headers.tcp_is_whole(match *rest {
            [] => 0,
            [a, b, c, d] => u64::from(u32::from_be_bytes([a, b, c, d])),
            _ => Sum::of(rest).value(),
        }),
    };
    ip & tcp
}
