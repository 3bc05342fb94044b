//! What is said about captures.

use serde::{Deserialize, Serialize};

/// Octets of one frame that are kept when nothing is said: headers with all their options.
pub const SNAPLEN_DEFAULT: usize = 256;

/// `capture`: begins one, which lasts until its client leaves. One client at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// Which frames, see [`crate::capture::filter`].
    #[serde(default)]
    pub filter: String,
    /// With which verdict: `any`, `drop`, `reply`, `consume`, an outcome, or a drop reason.
    #[serde(default = "verdict_default")]
    pub verdict: String,
    /// Octets of each at most.
    #[serde(default = "snaplen_default")]
    pub snaplen: usize,
    /// One of so many, on each core.
    #[serde(default = "sample_default")]
    pub sample: u32,
}

fn verdict_default() -> String {
    "any".into()
}

fn snaplen_default() -> usize {
    SNAPLEN_DEFAULT
}

fn sample_default() -> u32 {
    1
}

/// Reply to `captured`: frames since the last time, the oldest of each core first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Captured {
    /// The frames.
    pub frames: Vec<CapturedFrame>,
    /// Frames since the beginning that found no buffer.
    pub missed: u64,
    /// Workers that copy. With several, a later reply may have older frames.
    #[serde(default)]
    pub workers: u16,
    /// The names of the ports that frames may come in on.
    #[serde(default)]
    pub devices: Vec<String>,
}

/// A frame that came in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CapturedFrame {
    /// Nanoseconds since 1970.
    pub unix_ns: u64,
    /// The port's name.
    pub device: String,
    /// The worker's number.
    pub core: u16,
    /// Its octets on the wire, without FCS.
    pub len: usize,
    /// `drop`, `reply` or `consume`.
    pub verdict: String,
    /// The drop reason or the outcome.
    pub name: String,
    /// What was kept of it, in hexadecimal.
    pub octets: String,
}
