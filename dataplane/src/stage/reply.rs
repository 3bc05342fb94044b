//! Verdicts → octets: the answer to a segment is written over the frame that brought it.

use listener::columns::{Answers, rows};
use listener::drop_reason::DropReason;
use listener::segment::{FlowKey, OutSegment, Segment, Verdict};
use listener::vector::Vectors;
use zerocopy::FromBytes;

use crate::burst::{Fate, Head, Lanes, Plain};
use crate::io::{Capabilities, Frame, TxOffload};
use crate::local::LocalTable;
use crate::wire::checksum::pseudo_v6;
use crate::wire::ether::MacAddr;
use crate::wire::ipv4::{self, PROTO_TCP};
use crate::wire::ipv6::{self, Ipv6Out};
use crate::wire::tcp::{self, TcpOut};
use crate::wire::tcp4::TcpChecksum::{Pseudo, Whole};
use crate::wire::tcp4::{Fields, HEADERS_LEN, Headers};

mod plain;

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

/// The columns that [`reply`] reads, and `answers` and `fates`, which it writes as well.
pub struct Columns<'a> {
    /// Where things are, but in plain frames.
    pub heads: &'a [Head],
    /// The headers of plain segments.
    pub plain: &'a Plain,
    /// TCP segments.
    pub segs: &'a [Segment],
    /// Plain answers, in the end all of them.
    pub answers: &'a mut Answers,
    /// Verdicts; in the end `Ready` where there is an answer that does not stand in `answers`.
    pub fates: &'a mut [Fate],
}

/// Writes the answers of the TCP lane: swapped addresses, TTL 64, DF, id 0.
#[inline(never)]
pub fn reply<F: Frame>(
    frames: &mut [Option<F>],
    vectors: Vectors,
    columns: Columns<'_>,
    lanes: &Lanes,
    local: &LocalTable,
    capabilities: Capabilities,
) {
    let others = lanes.tcp.bits() & !(columns.answers.rows | columns.answers.ended);
    let mut columns = columns;
    if others != 0 {
        one_by_one(frames, &mut columns, others & lanes.plain.bits(), others, local, capabilities);
    }
    let Columns { plain, answers, fates, .. } = columns;
    if answers.rows != 0 {
        plain::write(frames, vectors, (plain, answers), fates, local, capabilities);
    }
}

/// Writes the answers among `others`, but plain ones to those of them that are in `plain_rows`: these become rows.
#[inline(never)]
fn one_by_one<F: Frame>(
    frames: &mut [Option<F>],
    columns: &mut Columns<'_>,
    plain_rows: u64,
    others: u64,
    local: &LocalTable,
    capabilities: Capabilities,
) {
    let Columns { heads, plain, segs, answers, fates } = columns;
    for index in rows(others) {
        let Fate::Tcp(Verdict::Reply(outcome, segment)) = &fates[index] else { continue };
        let is_plain = plain_rows >> index & 1 == 1;
        if is_plain && answers.put(index, *outcome, segment) {
            continue;
        }
        let Some(frame) = &mut frames[index] else { continue };
        let head = if is_plain { &plain.head(index) } else { &heads[index] };
        let (seg, outcome) = (&segs[index], *outcome);
        fates[index] = match write_segment(frame, head.l2_len, &seg.flow, segment, capabilities) {
            Ok(offload) => {
                L2::of(head).answer_with(frame, local.mac(), head.src_mac, offload);
                Fate::Ready(outcome)
            }
            Err(reason) => Fate::Drop(reason),
        };
    }
}

/// Octets of the plain answers in the rows `set`.
#[inline]
pub fn octets(answers: &Answers, set: u64) -> usize {
    plain::octets(answers, set)
}

/// Makes the fates of what was dealt with as columns say so, for those who look at fates alone.
pub fn tell(answers: &Answers, fates: &mut [Fate]) {
    for row in rows(answers.ended) {
        if let Some(fate) = fates.get_mut(row) {
            *fate = Fate::Drop(DropReason::ReqRst);
        }
    }
    for row in rows(answers.rows) {
        if let (Some(fate), Some(outcome)) = (fates.get_mut(row), answers.outcome(row)) {
            *fate = Fate::Ready(outcome);
        }
    }
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
