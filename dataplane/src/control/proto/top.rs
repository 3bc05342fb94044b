//! What is said about the last second.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::ThenName;

/// Reply to `top`: what happened in the last window, which is as long as the time between two questions, a second at
/// least. The first question of a client begins to count by listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Top {
    /// Length of the window; 0 if there was none before.
    pub seconds: f64,
    /// One per core.
    pub cores: Vec<TopCore>,
    /// Frames a second by outcome.
    pub outcomes: BTreeMap<String, f64>,
    /// Drops by reason that ever happened, the fastest first.
    pub drops: Vec<TopDrop>,
    /// Kernel-named counters a second.
    pub snmp: BTreeMap<String, f64>,
    /// Beside the kernel, what its programs counted, a second.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kernel: BTreeMap<String, f64>,
    /// Listeners, those that were asked for most first.
    pub listeners: Vec<TopListener>,
    /// Ports whose links are down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links_down: Vec<String>,
}

/// One core in the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TopCore {
    /// Worker's number.
    pub core: u16,
    /// The CPU it is pinned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<usize>,
    /// It did not answer in time; its numbers are older.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// Frames a second that came in.
    pub rx_frames: f64,
    /// Frames a second that were sent.
    pub tx_frames: f64,
    /// Bits a second that came in, without FCS.
    pub rx_bits: f64,
    /// Per cent of the time in turns that received something.
    pub busy_percent: f64,
    /// Latency of all outcomes in the window, in nanoseconds; 0 without frames.
    pub p50_ns: u64,
    /// As above.
    pub p99_ns: u64,
    /// As above.
    pub p99_9_ns: u64,
}

/// One drop reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TopDrop {
    /// Its name.
    pub reason: String,
    /// Frames a second.
    pub rate: f64,
    /// Frames since the start.
    pub total: u64,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TopListener {
    /// Descriptor.
    pub fd: u32,
    /// Local address.
    pub local: SocketAddr,
    /// The port's name it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What becomes of a finished handshake.
    pub then: ThenName,
    /// Connections that wait for accept.
    pub recv_q: u32,
    /// The backlog.
    pub send_q: u32,
    /// Segments a second that were looked up to it: SYNs, and ACKs that bring cookies back.
    pub rate: f64,
}
