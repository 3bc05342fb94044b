//! Link types: what a file's frames begin with, and how an Ethernet frame is made of what follows.
//!
//! # Source
//! pcap-linktype(7); LINKTYPE_LINUX_SLL and LINKTYPE_LINUX_SLL2 of <https://www.tcpdump.org/linktypes/>.

use std::fmt;

use crate::wire::ether::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, EtherHeader, MacAddr};

/// What is said behind the name of a link type that is refused.
pub(super) const CAN_READ: &str = "Ethernet, Linux cooked (SLL, SLL2), raw IP and BSD loopback can be read";

/// The source of a frame whose file does not tell it: a locally administered address.
const SOME_HOST: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// The destination of a frame that did not come to the host that captured.
const OTHER_HOST: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
/// Stands for the host that captured.
const THE_HOST: MacAddr = MacAddr([0; 6]);

/// Smallest number that is an EtherType and not a length or one of Linux's own.
const ETHERTYPE_MIN: u16 = 0x600;
/// Hardware types whose protocol field is no EtherType: netlink, and radio.
const ARPHRD_NETLINK: u16 = 824;
const ARPHRD_RADIO: std::ops::RangeInclusive<u16> = 801..=805;

/// A link type that is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet.
    Ethernet,
    /// Linux cooked: a capture on all interfaces, or on one without a link layer.
    Sll,
    /// The same, second version.
    Sll2,
    /// IPv4 and IPv6 packets: a tunnel.
    Raw,
    /// IPv4 packets.
    Ipv4,
    /// IPv6 packets.
    Ipv6,
    /// BSD loopback: a protocol family in the byte order of the host that captured.
    Null,
    /// The same in network byte order.
    Loop,
}

/// A frame that was made.
pub(super) struct Made {
    pub frame: Vec<u8>,
    /// See [`super::Packet::to_host`].
    pub to_host: bool,
}

impl Link {
    /// The one with this number in files; what it is called if it is not understood.
    pub(super) fn of(number: u32) -> Result<Self, String> {
        Ok(match number {
            0 => Self::Null,
            1 => Self::Ethernet,
            // As numbered by files and, in files of old, by systems.
            12 | 14 | 101 => Self::Raw,
            108 => Self::Loop,
            113 => Self::Sll,
            228 => Self::Ipv4,
            229 => Self::Ipv6,
            276 => Self::Sll2,
            _ => return Err(name(number)),
        })
    }

    /// The Ethernet frame that the octets of a file are.
    pub(super) fn frame(self, octets: &[u8]) -> Result<Made, String> {
        let short = || format!("has {} octets, fewer than a header of link type {self}", octets.len());
        let ip = |version: Option<u8>| match version {
            Some(4) => Ok(ETHERTYPE_IPV4),
            Some(6) => Ok(ETHERTYPE_IPV6),
            _ => Err("is no packet of IPv4 or IPv6".to_owned()),
        };
        let (header, ethertype, sent) = match self {
            Self::Ethernet => {
                return Ok(Made { frame: octets.to_vec(), to_host: false });
            }
            Self::Raw => (0, ip(octets.first().map(|first| first >> 4))?, Sent::TO_HOST),
            Self::Ipv4 => (0, ETHERTYPE_IPV4, Sent::TO_HOST),
            Self::Ipv6 => (0, ETHERTYPE_IPV6, Sent::TO_HOST),
            Self::Null | Self::Loop => {
                let family = u32::from_be_bytes(*octets.first_chunk().ok_or_else(short)?);
                let family = if self == Self::Null { family.min(family.swap_bytes()) } else { family };
                (4, ip(version_of(family))?, Sent::TO_HOST)
            }
            Self::Sll => {
                let header = octets.first_chunk::<16>().ok_or_else(short)?;
                let [k0, k1, h0, h1, _, len, addr @ .., p0, p1] = *header;
                let hardware = u16::from_be_bytes([h0, h1]);
                let sent = Sent { kind: u16::from_be_bytes([k0, k1]), src: source(len, addr) };
                (16, ethertype(hardware, u16::from_be_bytes([p0, p1]))?, sent)
            }
            Self::Sll2 => {
                let header = octets.first_chunk::<20>().ok_or_else(short)?;
                let [p0, p1, _, _, _, _, _, _, h0, h1, kind, len, addr @ ..] = *header;
                let hardware = u16::from_be_bytes([h0, h1]);
                let sent = Sent { kind: u16::from(kind), src: source(len, addr) };
                (20, ethertype(hardware, u16::from_be_bytes([p0, p1]))?, sent)
            }
        };
        let payload = &octets[header..];
        let dst = sent.destination(ethertype, payload);
        let mut frame = EtherHeader { dst, src: sent.src, ethertype }.emit().to_vec();
        frame.extend_from_slice(payload);
        Ok(Made { frame, to_host: dst == THE_HOST })
    }
}

/// What a cooked header says of sender and receiver.
struct Sent {
    /// Linux's packet type.
    kind: u16,
    src: MacAddr,
}

impl Sent {
    const TO_HOST: Self = Self { kind: 0, src: SOME_HOST };

    fn destination(&self, ethertype: u16, payload: &[u8]) -> MacAddr {
        match (self.kind, ethertype) {
            (0, _) => THE_HOST,
            (2, ETHERTYPE_IPV4) if payload.len() >= 20 => {
                MacAddr([1, 0, 0x5e, payload[17] & 0x7f, payload[18], payload[19]])
            }
            (2, ETHERTYPE_IPV6) if payload.len() >= 40 => {
                MacAddr([0x33, 0x33, payload[36], payload[37], payload[38], payload[39]])
            }
            (1 | 2, _) => MacAddr::BROADCAST,
            _ => OTHER_HOST,
        }
    }
}

/// The sender's MAC address, of which a cooked header has room for eight octets.
fn source(len: u8, addr: [u8; 8]) -> MacAddr {
    match addr {
        [0, 0, 0, 0, 0, 0, ..] => SOME_HOST,
        [a, b, c, d, e, f, ..] if len == 6 => MacAddr([a, b, c, d, e, f]),
        _ => SOME_HOST,
    }
}

fn ethertype(hardware: u16, protocol: u16) -> Result<u16, String> {
    if hardware == ARPHRD_NETLINK || ARPHRD_RADIO.contains(&hardware) {
        return Err(format!("is of hardware type {hardware}, which is no network of Ethernet or IP"));
    }
    if protocol < ETHERTYPE_MIN {
        return Err(format!("is of protocol {protocol:#06x}, which is no EtherType"));
    }
    Ok(protocol)
}

/// The IP version of a protocol family: `AF_INET` is 2 everywhere, `AF_INET6` what each system has chosen.
const fn version_of(family: u32) -> Option<u8> {
    match family {
        2 => Some(4),
        10 | 24 | 28 | 30 => Some(6),
        _ => None,
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ethernet => "ETHERNET",
            Self::Sll => "LINUX_SLL",
            Self::Sll2 => "LINUX_SLL2",
            Self::Raw => "RAW",
            Self::Ipv4 => "IPV4",
            Self::Ipv6 => "IPV6",
            Self::Null => "NULL",
            Self::Loop => "LOOP",
        })
    }
}

/// Names of link types that are met, as <https://www.tcpdump.org/linktypes.html> has them without `LINKTYPE_`.
const NAMES: [(u32, &str); 24] = [
    (6, "IEEE802_5"),
    (7, "ARCNET_BSD"),
    (8, "SLIP"),
    (9, "PPP"),
    (10, "FDDI"),
    (50, "PPP_HDLC"),
    (51, "PPP_ETHER"),
    (104, "C_HDLC"),
    (105, "IEEE802_11"),
    (107, "FRELAY"),
    (119, "IEEE802_11_PRISM"),
    (127, "IEEE802_11_RADIOTAP"),
    (166, "PPP_PPPD"),
    (187, "BLUETOOTH_HCI_H4"),
    (189, "USB_LINUX"),
    (192, "PPI"),
    (195, "IEEE802_15_4_WITHFCS"),
    (201, "BLUETOOTH_HCI_H4_WITH_PHDR"),
    (220, "USB_LINUX_MMAPPED"),
    (227, "CAN_SOCKETCAN"),
    (239, "NFLOG"),
    (249, "USBPCAP"),
    (252, "WIRESHARK_UPPER_PDU"),
    (253, "NETLINK"),
];

fn name(number: u32) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("number {number}"), |(_, name)| format!("{name} ({number})"))
}
