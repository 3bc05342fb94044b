//! IEEE 802.1Q tags: one or two behind the two MAC addresses.

use listener::drop_reason::DropReason;

use super::ether;

/// TPID of a customer tag (802.1Q).
pub const TPID_8021Q: u16 = 0x8100;
/// TPID of a service tag (802.1ad).
pub const TPID_8021AD: u16 = 0x88a8;

/// Octets of a tag.
pub const TAG_LEN: usize = 4;

/// True for an EtherType that announces a tag.
#[inline]
pub const fn is_tpid(ethertype: u16) -> bool {
    matches!(ethertype, TPID_8021Q | TPID_8021AD)
}

/// Tag control information: priority (3 bits), drop eligible (1), VLAN identifier (12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tci(pub u16);

impl Tci {
    /// The VLAN identifier; 0 is a priority tag, 0xfff is reserved.
    #[inline]
    pub const fn vid(self) -> u16 {
        self.0 & 0xfff
    }
}

/// The reserved VLAN identifier.
const VID_RESERVED: u16 = 0xfff;

/// The tags of a frame, those that the device took out included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tags {
    /// The TPID and the tag control information of the outer one of two (802.1ad, "QinQ").
    pub outer: Option<(u16, Tci)>,
    /// The only tag, or the inner one.
    pub tci: Option<Tci>,
}

impl Tags {
    /// None.
    pub const NONE: Self = Self { outer: None, tci: None };

    /// At most one.
    #[inline]
    pub const fn one(tci: Option<Tci>) -> Self {
        Self { outer: None, tci }
    }

    /// Octets that they take in a frame.
    #[inline]
    pub const fn len(self) -> usize {
        (self.outer.is_some() as usize + self.tci.is_some() as usize) * TAG_LEN
    }

    /// True if there is none.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Reads those of `frame`, whose first EtherType is `ethertype`, and of which the device took out one with `stripped`
    /// if any. Returns them with the EtherType behind, and the octets of the link header.
    ///
    /// # Errors
    /// `EtherTooShort`, `VlanNested` for three and for an inner one that is not a customer's, `VlanReserved`, and
    /// `EtherType` for a lone service tag, which is a provider's: nothing that a host would answer. `VlanTpid` for two of which
    /// the device took one out: its driver says the tag and not the TPID (DPDK 22.11 `net_af_packet`), so an answer might go
    /// out with the wrong one. A lone tag that was taken out is taken for a customer's.
    #[inline]
    pub fn read(
        frame: &[u8],
        ethertype: u16,
        stripped: Option<Tci>,
    ) -> Result<(Self, u16, usize), DropReason> {
        if !is_tpid(ethertype) {
            return Self::one(stripped).unreserved(ethertype, ether::HEADER_LEN);
        }
        let first = ether::HEADER_LEN;
        let (tci, next) = parse(frame, first).ok_or(DropReason::EtherTooShort)?;
        let second = first + TAG_LEN;
        if stripped.is_some() {
            return Err(if is_tpid(next) { DropReason::VlanNested } else { DropReason::VlanTpid });
        }
        let (outer, tpid, (tci, next), l2_len) = if is_tpid(next) {
            let inner = parse(frame, second).ok_or(DropReason::EtherTooShort)?;
            (Some((ethertype, tci)), next, inner, second + TAG_LEN)
        } else {
            (None, ethertype, (tci, next), second)
        };
        if is_tpid(next) || outer.is_some() && tpid != TPID_8021Q {
            return Err(DropReason::VlanNested);
        }
        if tpid != TPID_8021Q {
            return Err(DropReason::EtherType);
        }
        Self { outer, tci: Some(tci) }.unreserved(next, l2_len)
    }

    #[inline]
    fn unreserved(self, ethertype: u16, l2_len: usize) -> Result<(Self, u16, usize), DropReason> {
        let reserved = |tci: Tci| tci.vid() == VID_RESERVED;
        if self.tci.is_some_and(reserved) || self.outer.is_some_and(|(_, tci)| reserved(tci)) {
            return Err(DropReason::VlanReserved);
        }
        Ok((self, ethertype, l2_len))
    }
}

/// Reads the tag whose TPID ends in front of octet `at`, and the EtherType behind it; `None` if the frame ends first.
#[inline]
fn parse(frame: &[u8], at: usize) -> Option<(Tci, u16)> {
    let [c0, c1, t0, t1] = *frame.get(at..)?.first_chunk()?;
    Some((Tci(u16::from_be_bytes([c0, c1])), u16::from_be_bytes([t0, t1])))
}

/// The four octets behind a TPID: `tci`, and the EtherType of what follows.
#[inline]
pub const fn emit(tci: Tci, ethertype: u16) -> [u8; TAG_LEN] {
    let ([c0, c1], [t0, t1]) = (tci.0.to_be_bytes(), ethertype.to_be_bytes());
    [c0, c1, t0, t1]
}
