//! Verdicts → octets: the answer to a segment is written over the frame that brought it.

use listener::drop_reason::DropReason;
use listener::segment::{FlowKey, OutSegment, Segment, TcpOptions, Verdict};
use zerocopy::FromBytes;

use crate::burst::{Fate, Head, Lanes};
use crate::io::{Capabilities, Frame, TxOffload};
use crate::local::LocalTable;
use crate::wire::checksum::pseudo_v6;
use crate::wire::ether::{self, MacAddr};
use crate::wire::ipv4::{self, PROTO_TCP};
use crate::wire::ipv6::{self, Ipv6Out};
use crate::wire::tcp::{self, TcpOut};
use crate::wire::tcp4::TcpChecksum::{Pseudo, Whole};
use crate::wire::tcp4::{Fields, HEADERS_LEN, Headers};

/// The link header of a frame that is being answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct L2 {
    stripped_tci: Option<u16>,
}

impl L2 {
    /// That of the frame with `head`.
    #[inline]
    pub(crate) fn of(head: &Head) -> Self {
        Self { stripped_tci: head.stripped_tci }
    }

    /// Turns the link header round, without any offload but the tag that the device took out.
    #[inline]
    pub(crate) fn answer<F: Frame>(self, frame: &mut F, mac: MacAddr, to: MacAddr) {
        self.answer_with(frame, mac, to, TxOffload::default());
    }

    #[inline]
    fn answer_with<F: Frame>(self, frame: &mut F, mac: MacAddr, to: MacAddr, offload: TxOffload) {
        // The EtherType, and a tag that stands in the frame, stay as they are.
        if let Some(macs) = frame.bytes_mut().first_chunk_mut::<12>() {
            macs[..6].copy_from_slice(&to.0);
            macs[6..].copy_from_slice(&mac.0);
        }
        frame.set_tx_offload(TxOffload { vlan_tci: self.stripped_tci, ..offload });
    }
}

/// Makes `frame` end after `len` octets.
#[inline]
pub(crate) fn end_of_frame<F: Frame>(frame: &mut F, len: usize) -> Result<(), DropReason> {
    if frame.set_len(len) { Ok(()) } else { Err(DropReason::NoBuffer) }
}

/// Writes the answers of the TCP lane: swapped addresses, TTL 64, DF, id 0.
#[inline]
pub fn reply<F: Frame>(
    frames: &mut [Option<F>],
    (heads, segs): (&[Head], &[Segment]),
    fates: &mut [Fate],
    lanes: &Lanes,
    local: &LocalTable,
    capabilities: Capabilities,
) {
    let software = !capabilities.tx_ip_csum && !capabilities.tx_tcp_csum;
    for index in lanes.tcp.iter() {
        let Fate::Tcp(Verdict::Reply(outcome, segment)) = &fates[index] else { continue };
        let Some(frame) = &mut frames[index] else { continue };
        let (head, seg, outcome) = (&heads[index], &segs[index], *outcome);
        if software && write_plain(frame, head, &seg.flow, segment, local.mac()) {
            fates[index] = Fate::Ready(outcome);
            continue;
        }
        fates[index] = match write_segment(frame, head.l2_len, &seg.flow, segment, capabilities) {
            Ok(offload) => {
                L2::of(head).answer_with(frame, local.mac(), head.src_mac, offload);
                Fate::Ready(outcome)
            }
            Err(reason) => Fate::Drop(reason),
        };
    }
}

/// Writes the answer that nearly every answer is: untagged, IPv4, an MSS or no option, checksums by us. False if it is
/// of another kind, and nothing was written.
#[inline(always)]
fn write_plain<F: Frame>(
    frame: &mut F,
    head: &Head,
    flow: &FlowKey,
    segment: &OutSegment,
    mac: MacAddr,
) -> bool {
    let TcpOptions { mss, wscale, sack_perm, timestamps } = segment.options;
    let plain = wscale.is_none() && !sack_perm && timestamps.is_none();
    if !plain || head.l2_len != ether::HEADER_LEN as u8 || head.stripped_tci.is_some() || !flow.is_v4() {
        return false;
    }
    match mss {
        0 => write_fixed::<F, 0>(frame, head, flow, segment, mac),
        _ => write_fixed::<F, 4>(frame, head, flow, segment, mac),
    }
}

/// [`write_plain`] with `OPTIONS` octets of options: with every length known, it is a few stores.
#[inline(always)]
fn write_fixed<F: Frame, const OPTIONS: usize>(
    frame: &mut F,
    head: &Head,
    flow: &FlowKey,
    segment: &OutSegment,
    mac: MacAddr,
) -> bool {
    if !frame.set_len(ether::HEADER_LEN + HEADERS_LEN + OPTIONS) {
        return false;
    }
    frame.set_tx_offload(TxOffload::default());
    let Some((link, packet)) = frame.bytes_mut().split_first_chunk_mut::<{ ether::HEADER_LEN }>() else {
        return false;
    };
    let Ok((headers, options)) = Headers::mut_from_prefix(packet) else { return false };
    link[..6].copy_from_slice(&head.src_mac.0);
    link[6..12].copy_from_slice(&mac.0);
    let mut rest = 0;
    if let Some(option) = options.first_chunk_mut::<4>().filter(|_| OPTIONS == 4) {
        rest = tcp::mss_option(segment.options.mss);
        *option = rest.to_be_bytes();
    }
    let rest = u64::from(rest);
    headers.write(&fields(flow, segment, OPTIONS), true, Whole { rest });
    true
}

/// What the headers of `segment` say, from our end of `flow`, with so many octets of options.
#[inline(always)]
fn fields(flow: &FlowKey, segment: &OutSegment, options: usize) -> Fields {
    Fields {
        addrs: flow.daddr.lo() << 32 | flow.saddr.lo() & 0xffff_ffff,
        ports: u32::from(flow.dport.0) << 16 | u32::from(flow.sport.0),
        seq: segment.seq.0,
        ack: segment.ack.0,
        total_len: (HEADERS_LEN + options) as u16,
        tos: segment.tos,
        tcp_header_len: (tcp::HEADER_LEN + options) as u8,
        reserved: 0,
        flags: segment.flags,
        wnd: segment.wnd,
    }
}

/// Writes `segment` behind a link header of `l2_len` octets, from our end of `flow` to the peer's, and ends the frame
/// there. Returns what the device is to complete.
#[inline]
pub(crate) fn write_segment<F: Frame>(
    frame: &mut F,
    l2_len: u8,
    flow: &FlowKey,
    segment: &OutSegment,
    capabilities: Capabilities,
) -> Result<TxOffload, DropReason> {
    let tcp = TcpOut::new(segment, flow.dport.0, flow.sport.0);
    let v4 = flow.is_v4();
    let l3_len = if v4 { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
    let start = usize::from(l2_len);
    end_of_frame(frame, start + l3_len + usize::from(tcp.header_len()))?;
    let packet = frame.bytes_mut().get_mut(start..).unwrap_or_default();
    if v4 {
        write_v4(packet, flow, segment, &tcp, capabilities)?;
    } else {
        write_v6(packet, flow, segment, &tcp, capabilities)?;
    }
    Ok(TxOffload {
        ip_csum: capabilities.tx_ip_csum && v4,
        tcp_csum: capabilities.tx_tcp_csum,
        ipv6: !v4,
        l2_len,
        l3_len: l3_len as u8,
        vlan_tci: None,
    })
}

#[inline(always)]
fn write_v4(
    packet: &mut [u8],
    flow: &FlowKey,
    segment: &OutSegment,
    out: &TcpOut<'_>,
    capabilities: Capabilities,
) -> Result<(), DropReason> {
    let (headers, options) = Headers::mut_from_prefix(packet).map_err(|_| DropReason::NoBuffer)?;
    let fields = fields(flow, segment, usize::from(out.header_len()) - tcp::HEADER_LEN);
    let rest = out.write_options(options).value();
    let tcp_checksum = if capabilities.tx_tcp_csum { Pseudo } else { Whole { rest } };
    headers.write(&fields, !capabilities.tx_ip_csum, tcp_checksum);
    Ok(())
}

#[inline(never)]
fn write_v6(
    packet: &mut [u8],
    flow: &FlowKey,
    segment: &OutSegment,
    tcp: &TcpOut<'_>,
    capabilities: Capabilities,
) -> Result<(), DropReason> {
    let tcp_len = u16::from(tcp.header_len());
    let (src, dst) = (flow.daddr, flow.saddr);
    let (tclass, hop_limit) = (segment.tos, ipv6::HOP_LIMIT);
    let ip = Ipv6Out { src, dst, protocol: PROTO_TCP, tclass, hop_limit, payload_len: tcp_len };
    let (l3, l4) = packet.split_first_chunk_mut().ok_or(DropReason::NoBuffer)?;
    *l3 = ip.emit();
    let pseudo = pseudo_v6((src.hi(), src.lo()), (dst.hi(), dst.lo()), PROTO_TCP, u32::from(tcp_len));
    tcp.write(pseudo, capabilities.tx_tcp_csum, l4);
    Ok(())
}

#[cfg(test)]
mod tests;
