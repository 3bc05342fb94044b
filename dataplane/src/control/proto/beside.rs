//! What is said of hearken beside the kernel.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Counters of the programs on the kernel's path, since they were loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct KernelStats {
    /// By the names of [`crate::names::KERNEL_COUNTERS`].
    pub counters: BTreeMap<String, u64>,
    /// Round trips from SYN-ACK to verified ACK of clients with timestamps: entry `n` counts those below `2^n` ms, the last one
    /// all longer ones.
    pub rtt_below_ms: Vec<u64>,
}

/// A listener of the kernel, and what hearken does for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct KernelListener {
    /// Local address and port.
    pub local: SocketAddr,
    /// `IPV6_V6ONLY`
    pub v6only: bool,
    /// Connections that wait for accept, by the kernel's account.
    pub recv_q: u32,
    /// The backlog.
    pub send_q: u32,
    /// The socket's inode: `/proc/PID/fd` of its process links to `socket:[INODE]`.
    pub inode: u64,
    /// The socket's user.
    pub uid: u32,
    /// Why its SYNs stay with the kernel; none: hearken answers them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
}
