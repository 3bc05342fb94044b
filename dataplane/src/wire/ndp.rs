//! Neighbour solicitation and advertisement (RFC 4861 §4.3, §4.4).

use listener::types::InetAddr;
use zerocopy::byteorder::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::{Sum, pseudo_v6};
use super::ether::MacAddr;
use super::ipv6::PROTO_ICMPV6;

/// ICMPv6 type of a solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of an advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// First of the five types of neighbour discovery: router solicitation to redirect.
pub const FIRST_TYPE: u8 = 133;
/// Last of them.
pub const LAST_TYPE: u8 = 137;
/// Hop limit of every message: proof that no router has passed it on (RFC 4861 §11.2).
pub const HOP_LIMIT: u8 = 255;
/// ff02::1, all nodes of the link.
pub const ALL_NODES: InetAddr = InetAddr::v6(0xff02 << 48, 1);

/// Octets of an advertisement with its one option.
pub const ADVERTISEMENT_LEN: usize = 32;

const OPT_SOURCE_LINK_ADDR: u8 = 1;
const OPT_TARGET_LINK_ADDR: u8 = 2;
const FLAG_SOLICITED: u32 = 1 << 30;
const FLAG_OVERRIDE: u32 = 1 << 29;

/// ff02::1:ffXX:XXXX, the group that a node with `addr` hears solicitations on (RFC 4291 §2.7.1).
pub const fn solicited_node(addr: InetAddr) -> InetAddr {
    InetAddr::v6(0xff02 << 48, 0x1_ff00_0000 | (addr.lo() & 0xff_ffff))
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    kind: u8,
    code: u8,
    checksum: U16,
    flags: U32,
    target: [U64; 2],
}

/// A solicitation that passed the checks on its own octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// The address that is asked for.
    pub target: InetAddr,
    /// It tells the sender's MAC address.
    pub has_source_link_addr: bool,
}

impl Solicitation {
    /// Reads an ICMPv6 message of type 135; `None` if its code, length, target or options are wrong (RFC 4861 §7.1.1).
    /// Hop limit, checksum and addresses are the caller's affair.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (raw, mut options) = Raw::ref_from_prefix(message).ok()?;
        let target = InetAddr::v6(raw.target[0].get(), raw.target[1].get());
        if raw.kind != SOLICITATION || raw.code != 0 || target.is_multicast() {
            return None;
        }
        let mut has_source_link_addr = false;
        while !options.is_empty() {
            let [kind, len8] = *options.first_chunk()?;
            if len8 == 0 {
                return None;
            }
            options = options.get(usize::from(len8) * 8..)?;
            has_source_link_addr |= kind == OPT_SOURCE_LINK_ADDR;
        }
        Some(Self { target, has_source_link_addr })
    }
}

/// An advertisement to send, with the override bit and the target's link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The address that is told about; also the packet's source.
    pub target: InetAddr,
    /// Its MAC address.
    pub mac: MacAddr,
    /// The packet's destination.
    pub dst: InetAddr,
    /// It answers a solicitation.
    pub solicited: bool,
}

impl Advertisement {
    /// The ICMPv6 message's octets, checksum included.
    pub fn emit(&self) -> [u8; ADVERTISEMENT_LEN] {
        let flags = FLAG_OVERRIDE | if self.solicited { FLAG_SOLICITED } else { 0 };
        let raw = Raw {
            kind: ADVERTISEMENT,
            code: 0,
            checksum: 0.into(),
            flags: flags.into(),
            target: [self.target.hi().into(), self.target.lo().into()],
        };
        let fixed: [u8; 24] = zerocopy::transmute!(raw);
        let mut out = [0; ADVERTISEMENT_LEN];
        out[..24].copy_from_slice(&fixed);
        out[24..26].copy_from_slice(&[OPT_TARGET_LINK_ADDR, 1]);
        out[26..].copy_from_slice(&self.mac.0);
        let (src, dst) = ((self.target.hi(), self.target.lo()), (self.dst.hi(), self.dst.lo()));
        let sum = pseudo_v6(src, dst, PROTO_ICMPV6, ADVERTISEMENT_LEN as u32).plus(Sum::of(&out));
        out[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solicitations_and_their_faults() {
        let mut message =
            vec![135, 0, 0, 0, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let target = InetAddr::v6(0x2001_0db8 << 32, 1);
        assert_eq!(Solicitation::parse(&message), Some(Solicitation { target, has_source_link_addr: false }));
        assert_eq!(Solicitation::parse(&message[..23]), None);
        message.extend_from_slice(&[1, 1, 2, 0, 0, 0, 0, 2]);
        assert_eq!(Solicitation::parse(&message), Some(Solicitation { target, has_source_link_addr: true }));
        assert_eq!(Solicitation::parse(&message[..31]), None, "option past the end");
        message[25] = 0;
        assert_eq!(Solicitation::parse(&message), None, "option of length 0");
        message[25] = 1;
        message[1] = 1;
        assert_eq!(Solicitation::parse(&message), None, "code");
        message[1] = 0;
        message[8] = 0xff;
        assert_eq!(Solicitation::parse(&message), None, "multicast target");
    }

    #[test]
    fn groups_of_an_address() {
        let addr = InetAddr::v6(0x2001_0db8 << 32, 0x1234_5678_9abc_def0);
        assert_eq!(solicited_node(addr).to_string(), "ff02::1:ffbc:def0");
        assert_eq!(ALL_NODES.to_string(), "ff02::1");
    }
}
