//! Verdicts → octets: the answer to a segment is written over the frame that brought it.

use listener::drop_reason::DropReason;
use listener::segment::{FlowKey, OutSegment, Segment, Verdict};

use crate::burst::{Fate, Head, Lanes};
use crate::io::{Capabilities, Frame, TxOffload};
use crate::local::LocalTable;
use crate::wire::checksum::{pseudo_v4, pseudo_v6};
use crate::wire::ether::MacAddr;
use crate::wire::ipv4::{self, Ipv4Out, PROTO_TCP};
use crate::wire::ipv6::{self, Ipv6Out};
use crate::wire::tcp::TcpOut;

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
    for index in lanes.tcp.iter() {
        let Fate::Tcp(Verdict::Reply(outcome, segment)) = &fates[index] else { continue };
        let Some(frame) = &mut frames[index] else { continue };
        let (head, seg) = (&heads[index], &segs[index]);
        fates[index] = match write_segment(frame, head.l2_len, &seg.flow, segment, capabilities) {
            Ok(offload) => {
                L2::of(head).answer_with(frame, local.mac(), head.src_mac, offload);
                Fate::Ready(*outcome)
            }
            Err(reason) => Fate::Drop(reason),
        };
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
    let tcp_len = u16::from(tcp.header_len());
    let start = usize::from(l2_len);
    let addrs = flow.daddr.as_v4().zip(flow.saddr.as_v4());
    let l3_len = if addrs.is_some() { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
    end_of_frame(frame, start + l3_len + usize::from(tcp_len))?;
    let packet = frame.bytes_mut().get_mut(start..).unwrap_or_default();
    // Arrays of known length: their copies are a few stores, not calls.
    if let Some((src, dst)) = addrs {
        let ip = Ipv4Out { src, dst, protocol: PROTO_TCP, tos: segment.tos, payload_len: tcp_len };
        let (l3, l4) = packet.split_first_chunk_mut().ok_or(DropReason::NoBuffer)?;
        *l3 = ip.emit(capabilities.tx_ip_csum);
        tcp.write(pseudo_v4(src, dst, PROTO_TCP, tcp_len), capabilities.tx_tcp_csum, l4);
    } else {
        let (src, dst) = (flow.daddr, flow.saddr);
        let ip = Ipv6Out {
            src,
            dst,
            protocol: PROTO_TCP,
            tclass: segment.tos,
            hop_limit: ipv6::HOP_LIMIT,
            payload_len: tcp_len,
        };
        let (l3, l4) = packet.split_first_chunk_mut().ok_or(DropReason::NoBuffer)?;
        *l3 = ip.emit();
        let pseudo = pseudo_v6((src.hi(), src.lo()), (dst.hi(), dst.lo()), PROTO_TCP, u32::from(tcp_len));
        tcp.write(pseudo, capabilities.tx_tcp_csum, l4);
    }
    Ok(TxOffload {
        ip_csum: capabilities.tx_ip_csum && addrs.is_some(),
        tcp_csum: capabilities.tx_tcp_csum,
        ipv6: addrs.is_none(),
        l2_len,
        l3_len: l3_len as u8,
        vlan_tci: None,
    })
}

#[cfg(test)]
mod tests;
