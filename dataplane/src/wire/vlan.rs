//! IEEE 802.1Q tags: one behind the two MAC addresses.

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

/// Reads the tag of a frame whose EtherType is a TPID, and the EtherType behind it; `None` if the frame ends first.
#[inline]
pub fn parse(frame: &[u8]) -> Option<(Tci, u16)> {
    let [c0, c1, t0, t1] = *frame.get(ether::HEADER_LEN..)?.first_chunk()?;
    Some((Tci(u16::from_be_bytes([c0, c1])), u16::from_be_bytes([t0, t1])))
}

/// The four octets behind a TPID: `tci`, and the EtherType of what follows.
#[inline]
pub const fn emit(tci: Tci, ethertype: u16) -> [u8; TAG_LEN] {
    let ([c0, c1], [t0, t1]) = (tci.0.to_be_bytes(), ethertype.to_be_bytes());
    [c0, c1, t0, t1]
}
