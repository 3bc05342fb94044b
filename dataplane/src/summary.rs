//! What a frame is, at a glance: for people, and for the filter of a capture. Reads as far as it can and judges nothing;
//! never fails and never allocates.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::wire::ether::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::wire::ipv4::{PROTO_ICMP, PROTO_TCP};
use crate::wire::ipv6::PROTO_ICMPV6;
use crate::wire::vlan;

/// User Datagram Protocol.
pub const PROTO_UDP: u8 = 17;

/// The letters of the TCP flags, from the lowest bit, as tcpdump(8) writes them.
const FLAG_LETTERS: [char; 8] = ['F', 'S', 'R', 'P', '.', 'U', 'E', 'W'];

/// A frame's addresses and what else one line has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Summary {
    /// EtherType, behind a VLAN tag if there is one.
    pub ethertype: u16,
    /// VLAN identifier.
    pub vid: Option<u16>,
    /// Source and destination address.
    pub ends: Option<(IpAddr, IpAddr)>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Source and destination port of TCP and UDP.
    pub ports: Option<(u16, u16)>,
    /// What TCP's header says.
    pub tcp: Option<TcpSummary>,
    /// Octets of the frame.
    pub len: usize,
}

/// The fixed part of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpSummary {
    /// Control bits.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window field.
    pub wnd: u16,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

impl Summary {
    /// Reads `frame`.
    pub fn of(frame: &[u8]) -> Self {
        let mut summary = Self { len: frame.len(), ..Self::default() };
        // Each step that cannot be taken leaves what was read before.
        let _ = summary.link(frame);
        summary
    }

    fn link(&mut self, frame: &[u8]) -> Option<()> {
        self.ethertype = be16(frame, 12)?;
        let mut start = ether::HEADER_LEN;
        if vlan::is_tpid(self.ethertype) {
            self.vid = Some(be16(frame, 14)? & 0xfff);
            self.ethertype = be16(frame, 16)?;
            start += vlan::TAG_LEN;
        }
        let packet = frame.get(start..)?;
        match self.ethertype {
            ETHERTYPE_IPV4 => self.ipv4(packet),
            ETHERTYPE_IPV6 => self.ipv6(packet),
            ETHERTYPE_ARP => self.arp(packet),
            _ => None,
        }
    }

    fn arp(&mut self, packet: &[u8]) -> Option<()> {
        let (sender, target) = (be32(packet, 14)?, be32(packet, 24)?);
        self.ends = Some((Ipv4Addr::from(sender).into(), Ipv4Addr::from(target).into()));
        Some(())
    }

    fn ipv4(&mut self, packet: &[u8]) -> Option<()> {
        let (src, dst) = (be32(packet, 12)?, be32(packet, 16)?);
        self.ends = Some((Ipv4Addr::from(src).into(), Ipv4Addr::from(dst).into()));
        self.protocol = Some(*packet.get(9)?);
        // Only a first fragment has ports.
        if be16(packet, 6)? & 0x1fff != 0 {
            return None;
        }
        let header_len = usize::from(packet.first()? & 0xf) * 4;
        self.transport(packet.get(header_len..)?)
    }

    fn ipv6(&mut self, packet: &[u8]) -> Option<()> {
        let addr = |at| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
        self.ends = Some((addr(8)?.into(), addr(24)?.into()));
        let (mut next, mut at) = (*packet.get(6)?, 40);
        // Hop-by-hop, routing, destination options: a few at most make sense.
        for _ in 0..8 {
            if !matches!(next, 0 | 43 | 60) {
                break;
            }
            let len = usize::from(*packet.get(at + 1)?) * 8 + 8;
            (next, at) = (*packet.get(at)?, at + len);
        }
        self.protocol = Some(next);
        self.transport(packet.get(at..)?)
    }

    fn transport(&mut self, segment: &[u8]) -> Option<()> {
        if !matches!(self.protocol, Some(PROTO_TCP | PROTO_UDP)) {
            return None;
        }
        self.ports = Some((be16(segment, 0)?, be16(segment, 2)?));
        if self.protocol == Some(PROTO_TCP) {
            let (seq, ack) = (be32(segment, 4)?, be32(segment, 8)?);
            self.tcp = Some(TcpSummary { flags: *segment.get(13)?, seq, ack, wnd: be16(segment, 14)? });
        }
        Some(())
    }

    fn protocol_name(&self) -> String {
        match (self.ethertype, self.protocol) {
            (ETHERTYPE_ARP, _) => "arp".into(),
            (_, Some(PROTO_TCP)) => "tcp".into(),
            (_, Some(PROTO_UDP)) => "udp".into(),
            (_, Some(PROTO_ICMP)) => "icmp".into(),
            (_, Some(PROTO_ICMPV6)) => "icmp6".into(),
            (_, Some(number)) => format!("protocol {number}"),
            (ethertype, None) => format!("ethertype 0x{ethertype:04x}"),
        }
    }
}

/// `S`, `S.`, `F.`, `none`: as tcpdump(8) writes them.
pub fn flag_letters(flags: u8) -> String {
    let set = FLAG_LETTERS.iter().enumerate().filter(|(bit, _)| flags & 1 << bit != 0);
    // The dot of ACK comes last.
    let (dot, mut letters): (Vec<char>, Vec<char>) = set.map(|(_, letter)| *letter).partition(|c| *c == '.');
    letters.extend(dot);
    if letters.is_empty() { "none".into() } else { letters.into_iter().collect() }
}

/// Reads what [`flag_letters`] writes; `A` is also ACK.
///
/// # Errors
/// A letter that is none of them.
pub fn parse_flags(text: &str) -> Result<u8, String> {
    let mut flags = 0;
    for letter in text.chars().filter(|_| text != "none") {
        let wanted = if letter == 'A' { '.' } else { letter };
        match FLAG_LETTERS.iter().position(|letter| *letter == wanted) {
            Some(bit) => flags |= 1 << bit,
            None => {
                return Err(format!("\"{letter}\" is no flag; write some of S F R P A U E W, such as SA"));
            }
        }
    }
    Ok(flags)
}

impl fmt::Display for Summary {
    /// `198.18.0.2:40000 > 198.18.0.1:80 [S] seq 1000 win 64240`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(vid) = self.vid {
            write!(f, "vlan {vid} ")?;
        }
        match (self.ends, self.ports) {
            (Some((src, dst)), Some((sport, dport))) => {
                write!(f, "{} > {}", SocketAddr::new(src, sport), SocketAddr::new(dst, dport))?;
            }
            (Some((src, dst)), None) => write!(f, "{src} > {dst}")?,
            (None, _) => write!(f, "{} octets", self.len)?,
        }
        match self.tcp {
            Some(TcpSummary { flags, seq, ack, wnd }) => {
                write!(f, " [{}] seq {seq}", flag_letters(flags))?;
                if flags & 0x10 != 0 {
                    write!(f, " ack {ack}")?;
                }
                write!(f, " win {wnd}")
            }
            None => write!(f, " {}", self.protocol_name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    const MACS: ([u8; 6], [u8; 6]) = ([2; 6], [4; 6]);

    #[test]
    fn one_line_says_what_a_frame_is() {
        let line = |frame: &[u8]| Summary::of(frame).to_string();
        let mut syn = Vec::new();
        let builder = PacketBuilder::ethernet2(MACS.0, MACS.1).ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64);
        builder.tcp(40000, 80, 1000, 64240).syn().write(&mut syn, &[]).expect("a Vec takes it");
        assert_eq!(line(&syn), "198.18.0.2:40000 > 198.18.0.1:80 [S] seq 1000 win 64240");
        assert_eq!(line(&syn[..40]), "198.18.0.2:40000 > 198.18.0.1:80 tcp");
        assert_eq!(line(&syn[..34]), "198.18.0.2 > 198.18.0.1 tcp");
        assert_eq!(line(&syn[..20]), "20 octets ethertype 0x0800");
        assert_eq!(line(&[]), "0 octets ethertype 0x0000");
        let mut six = Vec::new();
        let builder = PacketBuilder::ethernet2(MACS.0, MACS.1)
            .single_vlan(etherparse::VlanId::try_new(7).expect("a VLAN"))
            .ipv6([1; 16], [2; 16], 64);
        builder.udp(53, 54).write(&mut six, &[]).expect("a Vec takes it");
        assert_eq!(
            line(&six),
            "vlan 7 [101:101:101:101:101:101:101:101]:53 > [202:202:202:202:202:202:202:202]:54 udp"
        );
    }

    #[test]
    fn flags_have_letters() {
        for (flags, text) in [(0x02, "S"), (0x12, "S."), (0x11, "F."), (0, "none"), (0xc2, "SEW")] {
            assert_eq!((flag_letters(flags).as_str(), parse_flags(text)), (text, Ok(flags)));
        }
        assert_eq!(parse_flags("SA"), Ok(0x12));
        assert!(parse_flags("SX").is_err());
    }

    proptest! {
        #[test]
        fn nothing_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..120), kind in 0..4usize) {
            let mut frame = bytes;
            if frame.len() > 13 {
                frame[12..14].copy_from_slice(&[[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6]][kind]);
            }
            let _ = Summary::of(&frame).to_string();
        }
    }
}
