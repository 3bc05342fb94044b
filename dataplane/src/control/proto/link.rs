//! What is said of the link of a port.

use serde::{Deserialize, Serialize};

/// The link of a port: of a NIC by its driver's account, of a virtual device by that of the interface below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct PortLink {
    /// Frames can pass.
    pub up: bool,
    /// How often that has changed since the start.
    pub changes: u64,
    /// Whole seconds since it changed last, or since the start.
    pub seconds: u64,
    /// Megabits a second, where the device knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_mbps: Option<u32>,
}

impl PortLink {
    /// `up for 12 s`
    pub fn text(&self) -> String {
        let state = if self.up { "up" } else { "down" };
        let speed = self.speed_mbps.filter(|_| self.up).map(|mbps| format!(" at {mbps} Mbit/s"));
        format!("{state}{} for {} s", speed.unwrap_or_default(), self.seconds)
    }
}
