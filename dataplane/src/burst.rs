//! A burst as columns: one array a property, index `i` is the `i`-th frame that came in. Stages are free functions over
//! the columns that they read and write; which frames a stage looks at is a [`Lane`].

use listener::drop_reason::DropReason;
use listener::segment::{Outcome, Segment, Verdict};

use crate::io::PacketIo;
use crate::wire::ether::MacAddr;

/// Frames in a burst at most.
pub const BURST_MAX: usize = 64;
/// Frames in a burst by default: DPDK's own, and few enough to stay in the first-level cache.
pub const BURST_DEFAULT: usize = 32;

/// Indices of the frames of one kind, in order of arrival.
#[derive(Clone, Debug)]
pub struct Lane {
    index: [u8; BURST_MAX],
    len: usize,
}

impl Lane {
    /// Without frames.
    pub const EMPTY: Self = Self { index: [0; BURST_MAX], len: 0 };

    /// Appends frame `index`. A lane holds every frame of a burst once, so one too many is left out.
    #[inline]
    pub fn push(&mut self, index: u8) {
        if let Some(slot) = self.index.get_mut(self.len) {
            *slot = index;
            self.len += 1;
        }
    }

    /// The indices.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.index[..self.len]
    }

    /// The indices, as such.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.as_slice().iter().map(|&index| usize::from(index))
    }
}

/// One lane a kind of frame; those that [`crate::stage::parse()`] dropped are on none.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// ARP packets.
    pub arp: Lane,
    /// Neighbour solicitations.
    pub ndp: Lane,
    /// Echo requests of both families.
    pub echo: Lane,
    /// TCP segments.
    pub tcp: Lane,
}

impl Lanes {
    /// Without frames.
    pub const EMPTY: Self = Self { arp: Lane::EMPTY, ndp: Lane::EMPTY, echo: Lane::EMPTY, tcp: Lane::EMPTY };
}

/// Where things are in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Head {
    /// Source MAC address.
    pub src_mac: MacAddr,
    /// The tag that the device took out of the frame.
    pub stripped_tci: Option<u16>,
    /// Octets of the link header, tags in the frame included: 14, 18 or 22.
    pub l2_len: u8,
    /// The network header is IPv6.
    pub v6: bool,
    /// Octets of the network header with its options or extension headers.
    pub l3_len: u16,
    /// Where the packet ends in the frame; padding may follow.
    pub end: u16,
}

/// What has become of a frame so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing yet.
    Pending,
    /// It gets no answer.
    Drop(DropReason),
    /// It is handled, and there is nothing to send.
    Consume(Outcome),
    /// What the protocol said of a segment. A reply is still to be written.
    Tcp(Verdict),
    /// The answer stands in the frame.
    Ready(Outcome),
}

/// The columns of the burst that is being worked on.
#[derive(Debug)]
pub struct Burst<I: PacketIo, Found> {
    /// Frames.
    pub frames: [Option<I::Frame>; BURST_MAX],
    /// Where things are in them.
    pub heads: [Head; BURST_MAX],
    /// TCP segments; only those on the lane have a meaning.
    pub segs: [Segment; BURST_MAX],
    /// What the lookup found for them.
    pub found: [Found; BURST_MAX],
    /// What becomes of the frames.
    pub fates: [Fate; BURST_MAX],
    /// Which frames are of which kind.
    pub lanes: Lanes,
    /// Answers, a prefix.
    pub tx: [Option<I::Frame>; BURST_MAX],
    /// The outcome of each answer, and its octets.
    pub tx_info: [(Outcome, u16); BURST_MAX],
    /// How long each frame had waited when it was received, in ns, where [`PacketIo::waited`] says.
    pub waited: [u64; BURST_MAX],
}

impl<I: PacketIo, Found: Copy + Default> Burst<I, Found> {
    /// Columns without frames.
    pub fn new() -> Self {
        Self {
            frames: [const { None }; BURST_MAX],
            heads: [Head::default(); BURST_MAX],
            segs: [Segment::default(); BURST_MAX],
            found: [Found::default(); BURST_MAX],
            fates: [Fate::Pending; BURST_MAX],
            lanes: Lanes::EMPTY,
            tx: [const { None }; BURST_MAX],
            tx_info: [(Outcome::Other, 0); BURST_MAX],
            waited: [0; BURST_MAX],
        }
    }
}

impl<I: PacketIo, Found: Copy + Default> Default for Burst<I, Found> {
    fn default() -> Self {
        Self::new()
    }
}
