//! What came back, read by a parser that is not hearken's, and put into words that two systems can share: sequence
//! numbers count from the initial ones, timestamps only have to move forward.

use std::fmt;
use std::net::IpAddr;

use etherparse::{IpNumber, LinkExtSlice, LinkSlice, NetSlice, SlicedPacket, TcpSlice, TransportSlice};

use super::frame;

/// One field by its name, in words.
pub type Field = (&'static str, String);

/// A frame that came back.
#[derive(Clone, Debug)]
pub struct Packet {
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
    pub vlan: Option<u16>,
    pub src: Option<IpAddr>,
    pub dst: Option<IpAddr>,
    pub body: Body,
    /// Fields that need no context.
    fields: Vec<Field>,
}

/// What it carried.
#[derive(Clone, Debug)]
pub enum Body {
    Tcp(Box<Tcp>),
    /// Type, code and the rest.
    Icmp(u8, u8, Vec<u8>),
    /// Operation and the rest of the ARP packet behind it.
    Arp(u16, Vec<u8>),
    /// Neither.
    Other(String),
}

/// A TCP header, and the octets behind it.
#[derive(Clone, Debug)]
pub struct Tcp {
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u16,
    pub window: u16,
    pub urgent: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Packet {
    /// Reads a frame; `None` when it is not even Ethernet with something known inside.
    pub fn read(octets: &[u8]) -> Option<Self> {
        let sliced = SlicedPacket::from_ethernet(octets).ok()?;
        let Some(LinkSlice::Ethernet2(ether)) = &sliced.link else { return None };
        let vlan = sliced.link_exts.iter().find_map(|ext| match ext {
            LinkExtSlice::Vlan(tag) => {
                Some(u16::from(tag.priority_code_point().value()) << 13 | tag.vlan_identifier().value())
            }
            LinkExtSlice::Macsec(_) => None,
        });
        let mut fields = Vec::new();
        let tag = vlan.map_or("none".into(), |tci| format!("{tci:#06x}"));
        fields.push(("vlan", tag));
        let (src, dst, end) = net_fields(&sliced, &mut fields);
        fields.push(("padding", (octets.len() - end.min(octets.len())).to_string()));
        let body = body(&sliced, src.zip(dst), &mut fields)?;
        Some(Self { src_mac: ether.source(), dst_mac: ether.destination(), vlan, src, dst, body, fields })
    }
}

/// Addresses, and where in the frame the packet ends.
fn net_fields(sliced: &SlicedPacket<'_>, fields: &mut Vec<Field>) -> (Option<IpAddr>, Option<IpAddr>, usize) {
    let start = 14 + 4 * sliced.link_exts.len();
    match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            fields.push(("ttl", header.ttl().to_string()));
            fields.push(("tos", format!("{:#04x}", header.dcp().value() << 2 | header.ecn().value())));
            fields.push(("df", header.dont_fragment().to_string()));
            fields.push(("id", header.identification().to_string()));
            fields.push(("ip options", ip_options(header.options())));
            let right = header.to_header().calc_header_checksum() == header.header_checksum();
            fields.push(("ip checksum", if right { "right" } else { "wrong" }.into()));
            let end = start + usize::from(header.total_len());
            (Some(header.source_addr().into()), Some(header.destination_addr().into()), end)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            fields.push(("ttl", header.hop_limit().to_string()));
            fields.push(("tos", format!("{:#04x}", header.traffic_class())));
            let label = if header.flow_label().value() == 0 { "0" } else { "not 0" };
            fields.push(("flow label", label.into()));
            fields
                .push(("ip options", format!("{:?}", ip.extensions().first_header().map(|number| number.0))));
            let end = start + 40 + usize::from(header.payload_length());
            (Some(header.source_addr().into()), Some(header.destination_addr().into()), end)
        }
        Some(NetSlice::Arp(arp)) => (None, None, start + arp.slice().len()),
        None => (None, None, start),
    }
}

/// IPv4 options, of timestamps only that they are there.
fn ip_options(options: &[u8]) -> String {
    let shown = if options.first() == Some(&68) { &options[..4] } else { options };
    format!("{} octets: {shown:02x?}", options.len())
}

fn body(sliced: &SlicedPacket<'_>, ends: Option<(IpAddr, IpAddr)>, fields: &mut Vec<Field>) -> Option<Body> {
    let body = match (&sliced.transport, &sliced.net) {
        (Some(TransportSlice::Tcp(tcp)), _) => {
            let right = match ends? {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    tcp.calc_checksum_ipv4(src.octets(), dst.octets()).ok()?
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    tcp.calc_checksum_ipv6(src.octets(), dst.octets()).ok()?
                }
                _ => return None,
            };
            // All ones are zero, too.
            let right = right % 0xffff == tcp.checksum() % 0xffff;
            fields.push(("checksum", if right { "right" } else { "wrong" }.into()));
            Body::Tcp(Box::new(tcp_of(tcp)))
        }
        (Some(TransportSlice::Icmpv4(icmp)), _) => {
            let right = frame::checksum(&[icmp.slice()]) == 0;
            fields.push(("checksum", if right { "right" } else { "wrong" }.into()));
            Body::Icmp(icmp.type_u8(), icmp.code_u8(), icmp.slice()[4..].to_vec())
        }
        (Some(TransportSlice::Icmpv6(icmp)), _) => {
            let (IpAddr::V6(src), IpAddr::V6(dst)) = ends? else { return None };
            let right = icmp.is_checksum_valid(src.octets(), dst.octets());
            fields.push(("checksum", if right { "right" } else { "wrong" }.into()));
            Body::Icmp(icmp.type_u8(), icmp.code_u8(), icmp.slice()[4..].to_vec())
        }
        (_, Some(NetSlice::Arp(arp))) => Body::Arp(arp.operation().0, arp.slice()[8..].to_vec()),
        (_, Some(NetSlice::Ipv4(ip))) => other(ip.payload_ip_number()),
        (_, Some(NetSlice::Ipv6(ip))) => other(ip.payload().ip_number),
        _ => return None,
    };
    Some(body)
}

fn other(protocol: IpNumber) -> Body {
    Body::Other(format!("IP protocol {}", protocol.0))
}

fn tcp_of(tcp: &TcpSlice<'_>) -> Tcp {
    let header = tcp.header_slice();
    Tcp {
        sport: tcp.source_port(),
        dport: tcp.destination_port(),
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        flags: u16::from_be_bytes([header[12], header[13]]) & 0xfff,
        window: tcp.window_size(),
        urgent: tcp.urgent_pointer(),
        options: tcp.options().to_vec(),
        payload: tcp.payload().to_vec(),
    }
}

impl Tcp {
    /// TSval and TSecr.
    pub fn timestamps(&self) -> Option<(u32, u32)> {
        let mut rest = &self.options[..];
        loop {
            match *rest {
                [1, ..] => rest = &rest[1..],
                [8, 10, ..] if rest.len() >= 10 => {
                    let word =
                        |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().expect("four octets"));
                    return Some((word(2), word(6)));
                }
                [kind, len, ..] if kind > 1 && len >= 2 && usize::from(len) <= rest.len() => {
                    rest = &rest[usize::from(len)..];
                }
                _ => return None,
            }
        }
    }
}

/// From where numbers are counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin {
    /// The client's initial sequence number.
    pub isn: u32,
    /// The server's, once known.
    pub iss: Option<u32>,
    /// The server's latest TSval, once known.
    pub tsval: Option<u32>,
}

/// Farther from an initial number than this is not counted from it.
const NEAR: u32 = 1 << 26;

fn count(number: u32, origins: &[(&str, Option<u32>)]) -> String {
    for (name, origin) in origins {
        let Some(origin) = *origin else { continue };
        let (above, below) = (number.wrapping_sub(origin), origin.wrapping_sub(number));
        if above < NEAR {
            return format!("{name}+{above}");
        }
        if below < NEAR {
            return format!("{name}-{below}");
        }
    }
    number.to_string()
}

/// A reply in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply(pub Vec<Field>);

impl Reply {
    /// Puts `packet` into words.
    pub fn new(packet: &Packet, origin: &Origin) -> Self {
        let mut fields = Vec::new();
        match &packet.body {
            Body::Tcp(tcp) => {
                fields.push(("kind", "TCP".into()));
                tcp_fields(tcp, origin, &mut fields);
            }
            Body::Icmp(kind, code, rest) => {
                fields.push(("kind", format!("ICMP {kind}/{code}")));
                // Of what an error quotes, the port depends on the run; of a timestamp reply, the time.
                let shown = match kind {
                    0 | 129 | 136 => rest,
                    14 => &rest[..8],
                    _ => &rest[..4],
                };
                fields.push(("icmp", format!("{shown:02x?}")));
            }
            Body::Arp(operation, rest) => {
                fields.push(("kind", format!("ARP {operation}")));
                fields.push(("arp", format!("{rest:02x?}")));
            }
            Body::Other(what) => fields.push(("kind", what.clone())),
        }
        let ends = (packet.src, packet.dst);
        fields.push(("addresses", format!("{ends:?}")));
        // The identification is drawn at random but for SYN-ACKs and RSTs without a connection; with DF it means
        // nothing (RFC 6864 §4.1).
        let fixed_id = match &packet.body {
            Body::Tcp(tcp) => tcp.flags & frame::SYN != 0 || tcp.flags & frame::RST != 0 && tcp.window == 0,
            _ => false,
        };
        fields.extend(packet.fields.iter().filter(|field| fixed_id || field.0 != "id").cloned());
        Self(fields)
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|field| field.0 == name).map(|field| &*field.1)
    }
}

fn tcp_fields(tcp: &Tcp, origin: &Origin, fields: &mut Vec<Field>) {
    let names =
        [(frame::FIN, 'F'), (frame::SYN, 'S'), (frame::RST, 'R'), (frame::PSH, 'P'), (frame::ACK, 'A')];
    let rare = [(frame::URG, 'U'), (frame::ECE, 'E'), (frame::CWR, 'W'), (frame::AE, 'e')];
    let set = names.iter().chain(&rare).filter(|(bit, _)| tcp.flags & bit != 0);
    fields.push(("flags", set.map(|(_, name)| name).collect()));
    let (isn, iss) = (("isn", Some(origin.isn)), ("iss", origin.iss));
    fields.push(("seq", if tcp.seq == 0 { "0".into() } else { count(tcp.seq, &[iss, isn]) }));
    fields.push(("ack", if tcp.ack == 0 { "0".into() } else { count(tcp.ack, &[isn, iss]) }));
    fields.push(("window", tcp.window.to_string()));
    fields.push(("urgent", tcp.urgent.to_string()));
    fields.push(("options", options(&tcp.options, origin)));
    fields.push(("data", tcp.payload.len().to_string()));
}

fn options(octets: &[u8], origin: &Origin) -> String {
    let mut words = Vec::new();
    let mut rest = octets;
    while let [kind, ..] = *rest {
        let len = match kind {
            0 | 1 => 1,
            _ => usize::from(*rest.get(1).unwrap_or(&0)),
        };
        if len == 0 || len > rest.len() {
            words.push(format!("broken {rest:02x?}"));
            break;
        }
        let number = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().expect("four octets"));
        words.push(match (kind, len) {
            (0, _) => "end".into(),
            (1, _) => "nop".into(),
            (2, 4) => format!("mss {}", number(0) & 0xffff),
            (3, 3) => format!("scale {}", rest[2]),
            (4, 2) => "sack ok".into(),
            (8, 10) => format!("ts {} echo {}", tsval(number(2), origin), number(6)),
            (5, _) if len % 8 == 2 => {
                let near = |at: usize| count(number(at), &[("isn", Some(origin.isn))]);
                let blocks: Vec<_> =
                    (2..len).step_by(8).map(|at| format!("{}..{}", near(at), near(at + 4))).collect();
                format!("sack {}", blocks.join(" "))
            }
            _ => format!("kind {kind} {:02x?}", &rest[2..len]),
        });
        rest = &rest[len..];
    }
    words.join(", ")
}

/// A TSval only has to move forward, and no faster than a clock of milliseconds does in a test.
fn tsval(value: u32, origin: &Origin) -> String {
    match origin.tsval.map(|last| value.wrapping_sub(last)) {
        None => "new".into(),
        Some(0..10_000) => "on".into(),
        Some(step) => format!("jumped by {}", step as i32),
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}
