//! Frames to send: headers made once, patched per flow.

use dataplane::wire::checksum::Sum;
use dataplane::wire::ether::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddr};
use dataplane::wire::{ipv4, ipv6, vlan};
use listener::segment::flag;
use listener::types::InetAddr;

/// Octets of the longest headers: VLAN tag, IPv6, TCP with 40 octets of options.
const HEAD_MAX: usize = 18 + 40 + 60;
/// Octets of a TCP header without options.
const TCP_LEN: usize = 20;
/// Window that is offered.
const WINDOW: u16 = 64_240;
/// Octets of a time stamp option and the two NOPs in front of it.
const TS_LEN: usize = 12;

/// What all frames have in common.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Our MAC address.
    pub src: MacAddr,
    /// The server's, or its router's.
    pub dst: MacAddr,
    /// VLAN tag: tag control information.
    pub vlan: Option<u16>,
}

/// What a SYN offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale.
    pub wscale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// Time stamps.
    pub timestamps: bool,
}

/// The ends of a flow: source and destination, each an address and a port.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Ours.
    pub src: (InetAddr, u16),
    /// The server's.
    pub dst: (InetAddr, u16),
}

/// A segment behind the SYN.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Control bits.
    pub flags: u8,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
    /// Octets of data.
    pub data: u16,
}

/// Headers of one family with one offer.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: [u8; HEAD_MAX],
    len: usize,
    l3: usize,
    l4: usize,
    v6: bool,
    /// Of the IPv4 header without addresses and length.
    ip_sum: Sum,
    /// Of a SYN without what differs from flow to flow, and of its pseudo-header.
    syn_sum: Sum,
    /// Where the TSval is.
    tsval_at: Option<usize>,
}

impl Template {
    /// For IPv6 if `v6`.
    pub fn new(link: &Link, v6: bool, offer: &Offer) -> Self {
        let mut head = Vec::with_capacity(HEAD_MAX);
        let ethertype = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        let first = if link.vlan.is_some() { vlan::TPID_8021Q } else { ethertype };
        head.extend(ether::EtherHeader { dst: link.dst, src: link.src, ethertype: first }.emit());
        if let Some(tci) = link.vlan {
            head.extend(vlan::emit(vlan::Tci(tci), ethertype));
        }
        let l3 = head.len();
        if v6 {
            head.extend([0x60, 0, 0, 0, 0, 0, ipv4::PROTO_TCP, ipv6::HOP_LIMIT]);
            head.extend([0; 32]);
        } else {
            // Don't fragment; no checksum yet.
            head.extend([0x45, 0, 0, 0, 0, 0, 0x40, 0, ipv4::TTL, ipv4::PROTO_TCP]);
            head.extend([0; 10]);
        }
        let l4 = head.len();
        let ip_sum = if v6 { Sum::ZERO } else { Sum::of(&head[l3..]) };
        head.extend([0; TCP_LEN]);
        let tsval_at = offer.write(&mut head);
        let len = head.len();
        head[l4 + 12] = ((len - l4) as u8) << 2;
        head[l4 + 13] = flag::SYN;
        head[l4 + 14..l4 + 16].copy_from_slice(&WINDOW.to_be_bytes());
        let syn_sum = Sum::of(&head[l4..]).word((len - l4) as u16).word(u16::from(ipv4::PROTO_TCP));
        head.resize(HEAD_MAX, 0);
        let mut bytes = [0; HEAD_MAX];
        bytes.copy_from_slice(&head);
        Self { bytes, len, l3, l4, v6, ip_sum, syn_sum, tsval_at }
    }

    /// Octets of a SYN.
    #[inline]
    pub const fn syn_len(&self) -> usize {
        self.len
    }

    /// Octets of `segment`.
    pub const fn segment_len(&self, segment: &Segment) -> usize {
        let options = if segment.timestamps.is_some() { TS_LEN } else { 0 };
        self.l4 + TCP_LEN + options + segment.data as usize
    }

    /// Writes a SYN into `out`, which is as long.
    #[inline]
    pub fn syn(&self, out: &mut [u8], ends: &Ends, seq: u32, tsval: u32) {
        out.copy_from_slice(&self.bytes[..self.len]);
        let mut sum = self.syn_sum.plus(self.network(out, ends, (self.len - self.l4) as u16));
        let tcp = &mut out[self.l4..];
        sum = sum.plus(ports(tcp, ends)).word32(seq);
        tcp[4..8].copy_from_slice(&seq.to_be_bytes());
        if let Some(at) = self.tsval_at {
            tcp[at..at + 4].copy_from_slice(&tsval.to_be_bytes());
            sum = sum.word32(tsval);
        }
        tcp[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
    }

    /// Writes `segment` into `out`, which is as long.
    pub fn segment(&self, out: &mut [u8], ends: &Ends, segment: &Segment) {
        let Segment { seq, ack, flags, timestamps, data } = *segment;
        out[..self.l4].copy_from_slice(&self.bytes[..self.l4]);
        let tcp_len = (out.len() - self.l4) as u16;
        let pseudo = self.network(out, ends, tcp_len);
        let tcp = &mut out[self.l4..];
        let (head, text) = tcp.split_at_mut(usize::from(tcp_len - data));
        head.fill(0);
        ports(head, ends);
        head[4..8].copy_from_slice(&seq.to_be_bytes());
        head[8..12].copy_from_slice(&ack.to_be_bytes());
        head[12] = (head.len() as u8) << 2;
        head[13] = flags;
        head[14..16].copy_from_slice(&WINDOW.to_be_bytes());
        if let Some((val, ecr)) = timestamps {
            head[TCP_LEN..TCP_LEN + 4].copy_from_slice(&[1, 1, 8, 10]);
            head[TCP_LEN + 4..TCP_LEN + 8].copy_from_slice(&val.to_be_bytes());
            head[TCP_LEN + 8..TCP_LEN + 12].copy_from_slice(&ecr.to_be_bytes());
        }
        text.fill(b'h');
        let sum = Sum::of(tcp).plus(pseudo).word(tcp_len).word(u16::from(ipv4::PROTO_TCP));
        tcp[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
    }

    /// Writes length and addresses; the sum of the addresses.
    #[inline]
    fn network(&self, out: &mut [u8], ends: &Ends, tcp_len: u16) -> Sum {
        let (src, dst) = (ends.src.0, ends.dst.0);
        let ip = &mut out[self.l3..self.l4];
        if self.v6 {
            let sum = Sum::ZERO.word64(src.hi()).word64(src.lo()).word64(dst.hi()).word64(dst.lo());
            ip[4..6].copy_from_slice(&tcp_len.to_be_bytes());
            ip[8..16].copy_from_slice(&src.hi().to_be_bytes());
            ip[16..24].copy_from_slice(&src.lo().to_be_bytes());
            ip[24..32].copy_from_slice(&dst.hi().to_be_bytes());
            ip[32..40].copy_from_slice(&dst.lo().to_be_bytes());
            return sum;
        }
        let (src, dst) = (src.lo() as u32, dst.lo() as u32);
        let sum = Sum::ZERO.word32(src).word32(dst);
        let total = ipv4::HEADER_LEN as u16 + tcp_len;
        let checksum = self.ip_sum.plus(sum).word(total).checksum();
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        ip[12..16].copy_from_slice(&src.to_be_bytes());
        ip[16..20].copy_from_slice(&dst.to_be_bytes());
        sum
    }
}

/// Writes the ports; their sum.
#[inline]
fn ports(tcp: &mut [u8], ends: &Ends) -> Sum {
    tcp[0..2].copy_from_slice(&ends.src.1.to_be_bytes());
    tcp[2..4].copy_from_slice(&ends.dst.1.to_be_bytes());
    Sum::ZERO.word(ends.src.1).word(ends.dst.1)
}

impl Offer {
    /// No option at all.
    pub const NONE: Self = Self { mss: None, wscale: None, sack: false, timestamps: false };

    /// Appends the options in Linux's order, to a multiple of four octets; where in the TCP header the TSval is.
    fn write(&self, head: &mut Vec<u8>) -> Option<usize> {
        let tcp = head.len() - TCP_LEN;
        if let Some(mss) = self.mss {
            head.extend([2, 4]);
            head.extend(mss.to_be_bytes());
        }
        match (self.sack, self.timestamps) {
            (true, true) => head.extend([4, 2]),
            (true, false) => head.extend([1, 1, 4, 2]),
            (false, true) => head.extend([1, 1]),
            (false, false) => {}
        }
        let mut at = None;
        if self.timestamps {
            head.extend([8, 10]);
            at = Some(head.len() - tcp);
            head.extend([0; 8]);
        }
        if let Some(wscale) = self.wscale {
            head.extend([1, 3, 3, wscale]);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TransportSlice};

    const FULL: Offer = Offer { mss: Some(1460), wscale: Some(7), sack: true, timestamps: true };
    const NONE: Offer = Offer { mss: None, wscale: None, sack: false, timestamps: false };

    fn link(vlan: Option<u16>) -> Link {
        Link { src: MacAddr([2, 0, 0, 0, 0, 2]), dst: MacAddr([2, 0, 0, 0, 0, 1]), vlan }
    }

    fn ends(v6: bool) -> Ends {
        let addr = |last| {
            if v6 { InetAddr::v6(0x2001_0db8 << 32, last) } else { InetAddr::v4(0xc613_0000 | last as u32) }
        };
        Ends { src: (addr(0xfffe), 40_000), dst: (addr(1), 80) }
    }

    /// Another library finds all checksums and lengths right; returns what it reads.
    fn read(frame: &[u8]) -> (etherparse::TcpHeader, usize, Vec<TcpOptionElement>) {
        let packet = SlicedPacket::from_ethernet(frame).expect("well formed");
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("no TCP") };
        let sum = match packet.net.as_ref().expect("an IP header") {
            NetSlice::Ipv4(ip) => {
                assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
                tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
            }
            NetSlice::Ipv6(ip) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
            _ => panic!("no IP"),
        };
        assert_eq!(Ok(tcp.checksum()), sum);
        let options = tcp.options_iterator().map(|option| option.expect("well formed")).collect();
        (tcp.to_header(), tcp.payload().len(), options)
    }

    #[test]
    fn syns_are_as_another_library_reads_them() {
        for v6 in [false, true] {
            for vlan in [None, Some(0x2005)] {
                for offer in [FULL, NONE, Offer { sack: true, ..NONE }, Offer { timestamps: true, ..NONE }] {
                    let template = Template::new(&link(vlan), v6, &offer);
                    let mut frame = vec![0; template.syn_len()];
                    template.syn(&mut frame, &ends(v6), 0xfeed_beef, 77);
                    let (tcp, payload, options) = read(&frame);
                    assert!(tcp.syn && !tcp.ack && payload == 0);
                    assert_eq!((tcp.source_port, tcp.destination_port), (40_000, 80));
                    assert_eq!(tcp.sequence_number, 0xfeed_beef);
                    let has = |wanted: TcpOptionElement| options.contains(&wanted);
                    assert_eq!(has(TcpOptionElement::MaximumSegmentSize(1460)), offer.mss.is_some());
                    assert_eq!(has(TcpOptionElement::WindowScale(7)), offer.wscale.is_some());
                    assert_eq!(has(TcpOptionElement::SelectiveAcknowledgementPermitted), offer.sack);
                    assert_eq!(has(TcpOptionElement::Timestamp(77, 0)), offer.timestamps);
                }
            }
        }
    }

    #[test]
    fn segments_are_as_another_library_reads_them() {
        for v6 in [false, true] {
            let template = Template::new(&link(None), v6, &FULL);
            for (data, timestamps) in [(0, None), (100, Some((5, 6))), (1, None)] {
                let segment = Segment { seq: 9, ack: 10, flags: flag::ACK | flag::FIN, timestamps, data };
                let mut frame = vec![0xaa; template.segment_len(&segment)];
                template.segment(&mut frame, &ends(v6), &segment);
                let (tcp, payload, options) = read(&frame);
                assert!(tcp.fin && tcp.ack && !tcp.syn && payload == usize::from(data));
                assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (9, 10));
                assert_eq!(options.contains(&TcpOptionElement::Timestamp(5, 6)), timestamps.is_some());
            }
        }
    }
}
