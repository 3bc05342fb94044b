//! A parsed TCP segment, and what is to be done about it: plain values between the wire and the protocol.

use crate::drop_reason::DropReason;
use crate::types::{DevIndex, InetAddr, Route, SegSeq, TcpPort};

/// TCP control bits, as in the header's 14th byte (RFC 9293 §3.1).
pub mod flag {
    #![allow(missing_docs)]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// The two ends of a connection, seen from here: `saddr`/`sport` is the peer, as it stands in the frames that come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)] // the vector lookup reads it
pub struct FlowKey {
    /// The peer's address.
    pub saddr: InetAddr,
    /// Our address.
    pub daddr: InetAddr,
    /// The peer's port.
    pub sport: TcpPort,
    /// Our port.
    pub dport: TcpPort,
}

impl FlowKey {
    /// True for an IPv4 flow.
    #[inline]
    pub const fn is_v4(&self) -> bool {
        self.daddr.is_v4()
    }
}

/// What the options of a segment said; options of no interest here are skipped by the parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpOptions {
    /// Maximum segment size, as sent; 0 if absent (RFC 9293 §3.7.1).
    pub mss: u16,
    /// Window scale, as sent (RFC 7323 §2).
    pub wscale: Option<u8>,
    /// SACK permitted (RFC 2018 §2).
    pub sack_perm: bool,
    /// Timestamps: TSval, TSecr (RFC 7323 §3).
    pub timestamps: Option<(u32, u32)>,
}

/// One segment that came in, checksum and lengths already found good, destination a local unicast address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Segment {
    /// Who to whom.
    pub flow: FlowKey,
    /// The device it arrived on.
    pub dev: DevIndex,
    /// Control bits, see [`flag`].
    pub flags: u8,
    /// The four bits between data offset and control bits; the lowest is AE (RFC 9768 §3.1).
    pub reserved: u8,
    /// DSCP and ECN: the IPv4 TOS byte or IPv6 traffic class.
    pub tos: u8,
    /// Window field, unscaled.
    pub wnd: u16,
    /// Octets of data.
    pub payload_len: u16,
    /// SEG.SEQ
    pub seq: SegSeq,
    /// SEG.ACK; 0 unless [`flag::ACK`].
    pub ack: SegSeq,
    /// Options.
    pub options: TcpOptions,
    /// Where an answer goes.
    pub route: Route,
}

impl Segment {
    /// True if all of `flags` are set.
    #[inline]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// SEG.LEN: octets of data, plus one for SYN and one for FIN (RFC 9293 §3.4).
    #[inline]
    pub const fn seg_len(&self) -> u32 {
        self.payload_len as u32 + (self.flags & flag::SYN != 0) as u32 + (self.flags & flag::FIN != 0) as u32
    }
}

/// A segment to send. Its two ends are those of the [`FlowKey`] it answers, turned round; it never carries data.
///
/// The wire writes the options in the kernel's order (`tcp_options_write`, Linux v6.18): MSS, SACK permitted joined
/// with timestamps where both are there, window scale last, NOPs in front to fill words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OutSegment {
    /// Control bits, see [`flag`].
    pub flags: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// Window field, as it goes on the wire.
    pub wnd: u16,
    /// SEG.SEQ
    pub seq: SegSeq,
    /// SEG.ACK; 0 unless [`flag::ACK`].
    pub ack: SegSeq,
    /// Options; `mss` 0 means none.
    pub options: TcpOptions,
}

/// Which kind of answer a frame got. Latency is kept per outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// A SYN was answered by a SYN-ACK.
    SynAck = 0,
    /// A segment was answered by a RST.
    Rst = 1,
    /// A final ACK made a connection.
    Accept = 2,
    /// Everything else that was handled: data, FINs and ACKs of connections, ARP, NDP, echo.
    Other = 3,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::SynAck, Self::Rst, Self::Accept, Self::Other];

    /// The name that the CLI, JSON and metrics show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynAck => "synack",
            Self::Rst => "rst",
            Self::Accept => "accept",
            Self::Other => "other",
        }
    }

    /// One sentence for people.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::SynAck => "A SYN that was answered by a SYN-ACK.",
            Self::Rst => "A segment that was answered by a RST.",
            Self::Accept => "A final ACK that made a connection.",
            Self::Other => "Handled otherwise: data, FINs and ACKs of connections, ARP, NDP, echo.",
        }
    }
}

/// What becomes of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No answer, and why.
    Drop(DropReason),
    /// Handled without an answer on the wire.
    Consume(Outcome),
    /// Answered with this segment.
    Reply(Outcome, OutSegment),
}

/// A segment that no frame asked for: a retransmission, a FIN or RST from the control side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Originated {
    /// The connection; the segment goes to `flow.saddr`.
    pub flow: FlowKey,
    /// The device to send it on.
    pub dev: DevIndex,
    /// Where on that device.
    pub route: Route,
    /// What to send.
    pub segment: OutSegment,
}
