//! What is said about changes while the server runs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Request;

impl Request {
    /// True for requests that change something, or show what passes by: for the owner and root alone.
    pub const fn is_for_owner(&self) -> bool {
        match self {
            Self::Listen(_)
            | Self::Close(_)
            | Self::Accept(_)
            | Self::CloseConnection { .. }
            | Self::Reload { .. }
            | Self::Capture(_)
            | Self::Captured {} => true,
            Self::CookieKeys { rotate } => *rotate,
            Self::Ss { .. } | Self::Why(_) | Self::Top {} | Self::Stats {} => false,
            Self::Latency { .. } | Self::Histograms { .. } => false,
        }
    }
}

/// Reply to `reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Reloaded {
    /// The configuration file.
    pub file: String,
    /// True if the changes hold now; false if they were only asked for.
    pub applied: bool,
    /// How many changes there are.
    pub total: usize,
    /// The first of them.
    pub changes: Vec<Change>,
}

/// One difference between the file and what runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Change {
    /// Whether something comes, goes, or has another value.
    pub kind: ChangeKind,
    /// A listener, one of its values, or a key of the file.
    pub what: String,
    /// The old value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The new value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// See [`Change::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ChangeKind {
    Add,
    Remove,
    Change,
}

impl fmt::Display for Change {
    /// As a line of a difference: `+ listener …`, `- listener …`, `~ sysctl.tcp_ecn: 2 -> 1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            ChangeKind::Add => '+',
            ChangeKind::Remove => '-',
            ChangeKind::Change => '~',
        };
        write!(f, "{sign} {}", self.what)?;
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, ": {from} -> {to}"),
            _ => Ok(()),
        }
    }
}
