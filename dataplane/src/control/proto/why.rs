//! What is said about a dry run.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// `why`: what would become of a frame that came in now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskWhy {
    /// The frame from the destination MAC address on, in hexadecimal.
    pub frame: String,
    /// Read it as if it were sent to the port's own MAC address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub to_us: bool,
    /// The port it comes in on; none: the first for which it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The worker that takes it; none: the one that knows its connection, or the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<u16>,
}

/// Reply to `why`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Why {
    /// The frame in one line.
    pub frame: String,
    /// The port's name.
    pub device: String,
    /// The number of the worker that it comes to.
    pub core: u16,
    /// The worker that knows the flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<u16>,
    /// The workers that it is handed to from there, in order; the last one decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handed_to: Vec<u16>,
    /// `reply`, `consume` or `drop`; of a frame that comes to no worker, `handover` if hearken's programs have the kernel make a
    /// connection of it, `kernel` if it is the kernel's matter alone.
    pub verdict: String,
    /// Unless it is dropped, the outcome's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// If it is dropped, the reason's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The reason's or the outcome's sentence, or what becomes of the frame on the kernel's path.
    pub sentence: String,
    /// What it belongs to, of a TCP segment that is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub belongs: Option<String>,
    /// The listener that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<WhyListener>,
    /// Where listeners were looked for, in order, up to where one was found.
    #[serde(default)]
    pub tried: Vec<WhyTried>,
    /// What would be sent, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// The same, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_frame: Option<String>,
    /// Counters that would grow: those with the kernel's names, and those of the hand-over.
    #[serde(default)]
    pub counters: Vec<String>,
}

/// A listener, and how full its queues are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WhyListener {
    /// Descriptor.
    pub fd: u32,
    /// Local address.
    pub local: SocketAddr,
    /// Connections that wait for accept.
    pub recv_q: u32,
    /// The backlog.
    pub send_q: u32,
    /// Half-open handshakes.
    pub half_open: u32,
}

/// One key of the listening hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WhyTried {
    /// `exact` or `any`.
    pub kind: String,
    /// Address and port.
    pub key: String,
    /// Where it stands.
    pub bucket: String,
    /// Who listens on it, in the kernel's order.
    pub candidates: Vec<WhyCandidate>,
    /// How one was chosen; none if nobody was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_by: Option<String>,
}

/// A listener that was considered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WhyCandidate {
    /// Descriptor; none if it was closed meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<u32>,
    /// `compute_score`: 0 does not fit; family, device and worker add to it.
    pub score: u32,
    /// It is a member of a reuseport group.
    pub reuseport: bool,
    /// It gets the segment.
    pub chosen: bool,
}
