//! Listeners, as `ss -ltn` shows them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::KernelListener;
use crate::config::ThenName;

/// Reply to `ss`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Ss {
    /// At most [`super::SS_ROWS_MAX`] rows in the order of descriptors.
    pub listeners: Vec<ListenerRow>,
    /// Beside the kernel, on the first page: the kernel's own listeners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel: Vec<KernelListener>,
    /// `from` of the request that continues; none: this was the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u32>,
}

/// A listener as `ss -ltn` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ListenerRow {
    /// `LISTEN`
    pub state: String,
    /// Connections that wait for accept.
    pub recv_q: u32,
    /// The backlog.
    pub send_q: u32,
    /// Local address and port.
    pub local: SocketAddr,
    /// The port's name it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Descriptor.
    pub fd: u32,
    /// What becomes of a finished handshake.
    pub then: ThenName,
    /// `SO_REUSEPORT`
    pub reuseport: bool,
    /// `IPV6_V6ONLY`
    pub v6only: bool,
}
