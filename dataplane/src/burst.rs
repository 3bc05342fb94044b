//! A burst as columns: one array a property, index `i` is the `i`-th frame that came in. Stages are free functions over
//! the columns that they read and write; which frames a stage looks at is a [`Lane`].

use listener::columns::Answers;
use listener::drop_reason::DropReason;
use listener::segment::{Outcome, Segment, Verdict};

use crate::io::PacketIo;
use crate::wire::ether::MacAddr;

mod lanes;
mod plain;

pub use lanes::{Lane, Lanes};
pub use plain::Plain;
pub(crate) use plain::{GROUP, part};

/// Frames in a burst at most.
pub const BURST_MAX: usize = 64;
const _: () = assert!(BURST_MAX == listener::limits::BURST_MAX && BURST_MAX == u64::BITS as usize);
/// Frames in a burst by default: DPDK's own, and few enough to stay in the first-level cache.
pub const BURST_DEFAULT: usize = 32;

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
    /// Frames; in the end those with answers, a prefix.
    pub frames: [Option<I::Frame>; BURST_MAX],
    /// Where things are in them, but in plain ones: see [`Plain::head`].
    pub heads: [Head; BURST_MAX],
    /// The headers of plain segments.
    pub plain: Plain,
    /// TCP segments; only those on the lane have a meaning, and bare ones only where the TCP stage needed one.
    pub segs: [Segment; BURST_MAX],
    /// What the lookup found for them; for plain ones only where the TCP stage asked.
    pub found: [Found; BURST_MAX],
    /// What becomes of the frames, but those that are in `answers`.
    pub fates: [Fate; BURST_MAX],
    /// Plain answers.
    pub answers: Answers,
    /// Which frames are of which kind.
    pub lanes: Lanes,
    /// Octets of the answers that are not plain.
    pub octets: [usize; BURST_MAX],
    /// How long each frame had waited when it was received, in ns, where [`PacketIo::waited`] says.
    pub waited: [u64; BURST_MAX],
}

impl<I: PacketIo, Found: Copy + Default> Burst<I, Found> {
    /// Columns without frames.
    pub fn new() -> Self {
        Self {
            frames: [const { None }; BURST_MAX],
            heads: [Head::default(); BURST_MAX],
            plain: Plain::EMPTY,
            segs: [Segment::default(); BURST_MAX],
            found: [Found::default(); BURST_MAX],
            fates: [Fate::Pending; BURST_MAX],
            answers: Answers::EMPTY,
            lanes: Lanes::EMPTY,
            octets: [0; BURST_MAX],
            waited: [0; BURST_MAX],
        }
    }
}

impl<I: PacketIo, Found: Copy + Default> Default for Burst<I, Found> {
    fn default() -> Self {
        Self::new()
    }
}
