//! Newtypes of the device side, so that a port of a NIC is never a TCP port.

use std::fmt;

use dpdk_sys as sys;

/// `port_id`: index of an Ethernet device in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// `queue_id`: index of a receive or transmit queue within a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u16);

/// `lcore_id`: DPDK's number for a thread that it knows; not a CPU number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LcoreId(pub u32);

/// `socket_id` in DPDK's words: a NUMA node, or [`NumaNode::ANY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NumaNode(i32);

impl NumaNode {
    /// No preference, or unknown.
    pub const ANY: Self = Self(sys::SOCKET_ID_ANY);

    /// Node `node` as Linux numbers it; a negative number means [`NumaNode::ANY`].
    pub const fn new(node: i32) -> Self {
        if node < 0 { Self::ANY } else { Self(node) }
    }

    /// The number that DPDK's calls take.
    pub const fn socket_id(self) -> i32 {
        self.0
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LcoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NumaNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ANY { f.write_str("any") } else { self.0.fmt(f) }
    }
}
