//! ARP for IPv4 over Ethernet (RFC 826).

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ether::{ETHERTYPE_IPV4, MacAddr};

/// Octets of a packet.
pub const PACKET_LEN: usize = 28;

/// `ares_op$REQUEST`
pub const REQUEST: u16 = 1;
/// `ares_op$REPLY`
pub const REPLY: u16 = 2;

const HTYPE_ETHERNET: u16 = 1;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    htype: U16,
    ptype: U16,
    hlen: u8,
    plen: u8,
    op: U16,
    sha: [u8; 6],
    spa: U32,
    tha: [u8; 6],
    tpa: U32,
}

/// A packet. IPv4 addresses are big-endian numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// [`REQUEST`], [`REPLY`] or another number.
    pub op: u16,
    /// Sender's MAC address.
    pub sha: MacAddr,
    /// Sender's IPv4 address; 0 in a probe (RFC 5227 §1.1).
    pub spa: u32,
    /// Target's MAC address; of no meaning in a request.
    pub tha: MacAddr,
    /// Target's IPv4 address.
    pub tpa: u32,
}

impl ArpPacket {
    /// Reads a packet; `None` if it is truncated, or not about IPv4 over Ethernet.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (raw, _) = Raw::ref_from_prefix(bytes).ok()?;
        let known =
            raw.htype == HTYPE_ETHERNET && raw.ptype == ETHERTYPE_IPV4 && raw.hlen == 6 && raw.plen == 4;
        known.then(|| Self {
            op: raw.op.get(),
            sha: MacAddr(raw.sha),
            spa: raw.spa.get(),
            tha: MacAddr(raw.tha),
            tpa: raw.tpa.get(),
        })
    }

    /// The packet's octets.
    pub fn emit(&self) -> [u8; PACKET_LEN] {
        let raw = Raw {
            htype: HTYPE_ETHERNET.into(),
            ptype: ETHERTYPE_IPV4.into(),
            hlen: 6,
            plen: 4,
            op: self.op.into(),
            sha: self.sha.0,
            spa: self.spa.into(),
            tha: self.tha.0,
            tpa: self.tpa.into(),
        };
        zerocopy::transmute!(raw)
    }
}
