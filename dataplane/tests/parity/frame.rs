//! Frames from parts, right by default and wrong wherever a test wants them wrong. Written octet by octet and sharing
//! nothing with what is tested.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Control bits; [`AE`] is the lowest of the four bits that were reserved (RFC 9768).
pub const FIN: u16 = 0x01;
pub const SYN: u16 = 0x02;
pub const RST: u16 = 0x04;
pub const PSH: u16 = 0x08;
pub const ACK: u16 = 0x10;
pub const URG: u16 = 0x20;
pub const ECE: u16 = 0x40;
pub const CWR: u16 = 0x80;
pub const AE: u16 = 0x100;

/// Protocol numbers.
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// The Ethernet header, and what follows the packet.
#[derive(Clone, Debug)]
pub struct Link {
    pub src: [u8; 6],
    pub dst: [u8; 6],
    pub ethertype: Option<u16>,
    /// Octets behind the packet, as Ethernet pads short frames.
    pub padding: usize,
    /// Octets of the frame that never arrive.
    pub cut: usize,
}

/// The IP header. Both families in one: what a family does not have is not written.
#[derive(Clone, Debug)]
pub struct Ip {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub tos: u8,
    pub ttl: u8,
    /// IPv4: identification, and the 16 bits of flags and fragment offset.
    pub id: u16,
    pub fragment: u16,
    /// IPv4 options, padded to words by the caller. IPv6: whole extension headers, whose first has number
    /// `first_extension` and whose last names the real protocol.
    pub options: Vec<u8>,
    pub first_extension: u8,
    /// What is added to the length field beyond the truth.
    pub length_error: i32,
    pub version: Option<u8>,
    /// IPv4: words of the header as its first octet says.
    pub header_words: Option<u8>,
    pub bad_checksum: bool,
}

impl Ip {
    /// A right one.
    pub fn new(src: IpAddr, dst: IpAddr, protocol: u8) -> Self {
        Self {
            src,
            dst,
            protocol,
            tos: 0,
            ttl: 64,
            id: 0x1234,
            fragment: 0x4000,
            options: Vec::new(),
            first_extension: 0,
            length_error: 0,
            version: None,
            header_words: None,
            bad_checksum: false,
        }
    }
}

/// A TCP segment.
#[derive(Clone, Debug, Default)]
pub struct Tcp {
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u16,
    pub window: u16,
    pub urgent: u16,
    /// Option octets as they are; filled up to words with end-of-list.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    /// Words of the header as its 13th octet says.
    pub header_words: Option<u8>,
    /// Only so many octets of the segment are sent, in a packet of that length.
    pub truncate: Option<usize>,
    pub bad_checksum: bool,
}

/// The Internet checksum (RFC 1071) of `parts` one behind the other; each but the last of even length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The pseudo-header of `ip` for `len` octets (RFC 9293 §3.1, RFC 8200 §8.1).
fn pseudo(ip: &Ip, len: usize) -> Vec<u8> {
    let mut octets = Vec::new();
    for addr in [ip.src, ip.dst] {
        match addr {
            IpAddr::V4(addr) => octets.extend(addr.octets()),
            IpAddr::V6(addr) => octets.extend(addr.octets()),
        }
    }
    octets.extend((len as u32).to_be_bytes());
    octets.extend([0, 0, 0, ip.protocol]);
    octets
}

/// The octets of `tcp` inside `ip`.
pub fn segment(ip: &Ip, tcp: &Tcp) -> Vec<u8> {
    let options = tcp.options.len().div_ceil(4) * 4;
    let words = tcp.header_words.unwrap_or((5 + options / 4) as u8);
    let mut octets = Vec::new();
    octets.extend(tcp.sport.to_be_bytes());
    octets.extend(tcp.dport.to_be_bytes());
    octets.extend(tcp.seq.to_be_bytes());
    octets.extend(tcp.ack.to_be_bytes());
    octets.extend((u16::from(words) << 12 | tcp.flags).to_be_bytes());
    octets.extend(tcp.window.to_be_bytes());
    octets.extend([0, 0]);
    octets.extend(tcp.urgent.to_be_bytes());
    octets.extend(&tcp.options);
    octets.resize(20 + options, 0);
    octets.extend(&tcp.payload);
    octets.truncate(tcp.truncate.unwrap_or(usize::MAX));
    if octets.len() >= 18 {
        let sum = checksum(&[&pseudo(ip, octets.len()), &octets]);
        let sum = if tcp.bad_checksum { sum ^ 0x0100 } else { sum };
        octets[16..18].copy_from_slice(&sum.to_be_bytes());
    }
    octets
}

/// An ICMP or ICMPv6 message of `kind` and `code` whose remaining octets are `rest`.
pub fn icmp(ip: &Ip, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut octets = vec![kind, code, 0, 0];
    octets.extend(rest);
    let sum = match ip.dst {
        IpAddr::V4(_) => checksum(&[&octets]),
        IpAddr::V6(_) => checksum(&[&pseudo(ip, octets.len()), &octets]),
    };
    octets[2..4].copy_from_slice(&sum.to_be_bytes());
    octets
}

/// The frame that carries `payload`.
pub fn frame(link: &Link, ip: &Ip, payload: &[u8]) -> Vec<u8> {
    ether(link, if ip.src.is_ipv4() { 0x0800 } else { 0x86dd }, &packet(ip, payload))
}

/// The packet that carries `payload`.
pub fn packet(ip: &Ip, payload: &[u8]) -> Vec<u8> {
    match (ip.src, ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(ip, src, dst, payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6(ip, src, dst, payload),
        _ => unreachable!("addresses of two families in one packet"),
    }
}

/// The frame around `packet`.
pub fn ether(link: &Link, ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut octets = Vec::new();
    octets.extend(link.dst);
    octets.extend(link.src);
    octets.extend(link.ethertype.unwrap_or(ethertype).to_be_bytes());
    octets.extend(packet);
    octets.resize(octets.len() + link.padding, 0);
    octets.truncate(octets.len() - link.cut);
    octets
}

fn ipv4(ip: &Ip, src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + ip.options.len();
    let words = ip.header_words.unwrap_or((header_len / 4) as u8);
    let total = (header_len + payload.len()) as i32 + ip.length_error;
    let mut octets = vec![ip.version.unwrap_or(4) << 4 | words, ip.tos];
    octets.extend((total as u16).to_be_bytes());
    octets.extend(ip.id.to_be_bytes());
    octets.extend(ip.fragment.to_be_bytes());
    octets.extend([ip.ttl, ip.protocol, 0, 0]);
    octets.extend(src.octets());
    octets.extend(dst.octets());
    octets.extend(&ip.options);
    let sum = checksum(&[&octets]);
    let sum = if ip.bad_checksum { sum ^ 0x0100 } else { sum };
    octets[10..12].copy_from_slice(&sum.to_be_bytes());
    octets.extend(payload);
    octets
}

fn ipv6(ip: &Ip, src: Ipv6Addr, dst: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let len = (ip.options.len() + payload.len()) as i32 + ip.length_error;
    let first = u32::from(ip.version.unwrap_or(6)) << 28 | u32::from(ip.tos) << 20;
    let next = if ip.options.is_empty() { ip.protocol } else { ip.first_extension };
    let mut octets = first.to_be_bytes().to_vec();
    octets.extend((len as u16).to_be_bytes());
    octets.extend([next, ip.ttl]);
    octets.extend(src.octets());
    octets.extend(dst.octets());
    octets.extend(&ip.options);
    octets.extend(payload);
    octets
}

/// TCP options, one by one.
pub mod option {
    /// RFC 9293 §3.7.1
    pub fn mss(mss: u16) -> Vec<u8> {
        [&[2, 4][..], &mss.to_be_bytes()].concat()
    }

    /// RFC 2018 §2
    pub fn sack_permitted() -> Vec<u8> {
        vec![4, 2]
    }

    /// RFC 7323 §3
    pub fn timestamps(value: u32, echo: u32) -> Vec<u8> {
        [&[8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
    }

    /// RFC 7323 §2
    pub fn window_scale(shift: u8) -> Vec<u8> {
        vec![3, 3, shift]
    }

    /// One octet of filling.
    pub fn nop() -> Vec<u8> {
        vec![1]
    }

    /// The order that Linux sends on a SYN.
    pub fn all(value: u32) -> Vec<u8> {
        [mss(1460), sack_permitted(), timestamps(value, 0), nop(), window_scale(7)].concat()
    }
}
