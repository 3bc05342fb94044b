//! What is said on the control socket.
//!
//! # Protocol
//! One JSON object a line, UTF-8, ended by `\n`; a request gets one reply, in order. Version 1:
//! ```text
//! → {"v":1,"request":"listen","addr":"198.18.0.1:80","backlog":128}
//! ← {"v":1,"ok":{"fd":3,"addr":"198.18.0.1:80","backlog":128}}
//! → {"v":1,"request":"listen","addr":"198.18.0.1:80"}
//! ← {"v":1,"error":{"errno":"EADDRINUSE","message":"…"}}
//! ```
//! `v` comes with every request and reply. Requests and their fields are [`Request`]; unknown ones are refused. What
//! stands under `ok` is named at each request. `errno` is there where listen(2) and its kin would have set it;
//! `message` is for people. New fields may be added to replies within a version, so a reader skips what it does not
//! know.
//!
//! # Limits
//! A request has at most [`LINE_MAX`] bytes; a longer one is answered by an error and the connection is closed, as
//! nobody knows where the next one starts. At most [`CLIENTS_MAX`] clients are served at a time: the one that has
//! said nothing for longest goes when another comes. A client that leaves a line half done, or a reply unread, for
//! [`PATIENCE`] is cut off.
//!
//! # Rights
//! The peer's uid (`SO_PEERCRED`) decides. Root and the server's own user may ask for everything; others are turned away,
//! unless `control.readers` names them: then they may ask for what changes nothing ([`Request::is_for_owner`]), and are
//! [`READERS_MAX`] at a time at most, so that they cannot crowd the owner out. The socket has mode 0600, with readers
//! 0666. The peer owns the listeners that it opens. Connections from `accept` are closed with their client, as descriptors are with their process;
//! listeners stay.

mod histograms;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

mod beside;
mod capture;
mod link;
mod ss;
mod steer;
mod top;
mod why;

use serde::{Deserialize, Serialize};

pub use beside::{KernelListener, KernelStats};
pub use capture::{Capture, Captured, CapturedFrame, SNAPLEN_DEFAULT};
pub use link::PortLink;
pub use ss::{ListenerRow, Ss};
pub use steer::{Change, ChangeKind, Reloaded};
pub use top::{Top, TopCore, TopDrop, TopListener};
pub use why::{AskWhy, Why, WhyCandidate, WhyListener, WhyTried};

use super::cookie_keys::CookieKeysReply;
use crate::config::{ListenAddr, ThenName};
use crate::stats::{CORE_COUNTERS, Counters, core_counters};

pub use histograms::{CoreHistograms, Histograms, OutcomeHistogram, histograms_of};

/// The version that this server speaks.
pub const VERSION: u64 = 1;
/// Bytes of one request line, its end not counted: room for any request many times over.
pub const LINE_MAX: usize = 64 * 1024;
/// Clients that are served at a time: people and exporters, not load.
pub const CLIENTS_MAX: usize = 64;
/// Clients among them that are neither root nor the server's user.
pub const READERS_MAX: usize = CLIENTS_MAX / 2;
/// How long half a request may stay half, and a reply unread.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Rows in one reply to `ss`: so that a million listeners neither fill a buffer nor keep the control thread.
pub const SS_ROWS_MAX: usize = 2000;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// socket, bind and listen; → [`Listening`].
    Listen(Listen),
    /// Closes listeners; → [`Closed`].
    Close(Which),
    /// The listeners by descriptor, from `from` on; → [`Ss`].
    Ss {
        /// First descriptor of interest.
        #[serde(default)]
        from: u32,
    },
    /// Takes the oldest connection out of an accept queue; → [`Accepted`].
    Accept(Which),
    /// Closes a connection that this client accepted; → an empty object.
    CloseConnection {
        /// Its descriptor.
        fd: u32,
        /// With a RST instead of a FIN.
        #[serde(default)]
        reset: bool,
    },
    /// The configuration file once more; → [`Reloaded`].
    Reload {
        /// Only say what would change.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        check: bool,
    },
    /// What would become of a frame; → [`Why`].
    Why(AskWhy),
    /// What happened in the last second or so; → [`Top`].
    Top {},
    /// Begins to copy frames; → an empty object.
    Capture(Capture),
    /// The frames that were copied; → [`Captured`].
    Captured {},
    /// Counters; → [`Stats`].
    Stats {},
    /// Latency since start; → [`Latency`].
    Latency {
        /// Only this core.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        core: Option<u16>,
    },
    /// The keys of SYN cookies; → [`CookieKeysReply`].
    CookieKeys {
        /// Changes them first.
        #[serde(default)]
        rotate: bool,
    },
    /// All that the latency histograms hold, since start; → [`Histograms`].
    Histograms {
        /// Only this core.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        core: Option<u16>,
    },
}

/// `listen`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Local address with its port; of several (`198.18.0.1:80,8000-8100`) each gets a listener.
    pub addr: ListenAddr,
    /// As listen(2) takes it: compared unsigned with `somaxconn`.
    #[serde(default = "backlog_default")]
    pub backlog: i32,
    /// `SO_REUSEPORT`
    #[serde(default)]
    pub reuseport: bool,
    /// `IPV6_V6ONLY`; none: `sysctl.bindv6only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6only: Option<bool>,
    /// `SO_BINDTODEVICE`: a port's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What becomes of a finished handshake.
    #[serde(default)]
    pub then: ThenName,
    /// `TCP_DEFER_ACCEPT` in seconds.
    #[serde(default)]
    pub defer_accept: i32,
}

/// The backlog that stands for "as much as `somaxconn` allows" when nothing is said.
pub const fn backlog_default() -> i32 {
    4096
}

/// Which listeners are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Those with this local address, exactly, and one of its ports.
    pub addr: ListenAddr,
    /// Of those, the ones bound to this device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Of those, the one with this descriptor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<u32>,
    /// `close` only: all of them. Without it, more than one at a port is an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// Reply to `listen`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Listening {
    /// Descriptor; of several listeners, that of the first.
    pub fd: u32,
    /// Local address, likewise.
    pub addr: SocketAddr,
    /// Backlog after the clamp to `somaxconn`.
    pub backlog: u32,
    /// How many listeners there are, one for each port; not told if it is one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub listeners: usize,
}

const fn one() -> usize {
    1
}
const fn is_one(count: &usize) -> bool {
    *count == 1
}

/// Reply to `close`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Closed {
    /// The descriptors that are no more.
    pub closed: Vec<u32>,
}

/// Reply to `accept`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Accepted {
    /// Descriptor, to close it.
    pub fd: u32,
    /// The far end.
    pub peer: SocketAddr,
    /// The near end.
    pub local: SocketAddr,
}

/// Reply to `stats`. All numbers count from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Stats {
    /// One per core.
    pub cores: Vec<CoreStats>,
    /// Their sums.
    pub total: CoreStats,
    /// One per port.
    pub devices: Vec<DeviceStats>,
    /// Beside the kernel, what its path counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelStats>,
}

macro_rules! define_core_stats {
    ($($name:ident: $unit:literal, $sentence:literal;)*) => {
        /// Counters of one core, or of all.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
        pub struct CoreStats {
            /// Worker's number; none in the total.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub core: Option<u16>,
            /// The CPU that the worker is pinned to; none in the total.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub cpu: Option<usize>,
            /// The core did not answer in time: its numbers are read as they stand, perhaps amid a burst.
            #[serde(default, skip_serializing_if = "std::ops::Not::not")]
            pub late: bool,
            $(#[doc = $sentence] #[serde(default)] pub $name: u64,)*
            /// Frames in by outcome: synack, rst, accept, other.
            pub outcomes: BTreeMap<String, u64>,
            /// Frames in that got no answer, by reason; all reasons, also those that never happened.
            pub drops: BTreeMap<String, u64>,
            /// The kernel's counters by the kernel's names.
            pub snmp: BTreeMap<String, u64>,
        }

        impl CoreStats {
            /// The plain numbers with their names, in the order in which they are shown.
            pub fn plain(&self) -> [(&'static str, u64); CORE_COUNTERS.len()] {
                [$((stringify!($name), self.$name),)*]
            }

            /// The plain numbers of `counters`; the maps are empty.
            pub fn of(counters: &Counters) -> Self {
                Self { $($name: counters.$name,)* ..Self::default() }
            }

            fn add_plain(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}
core_counters!(define_core_stats);

impl CoreStats {
    /// Adds the numbers of `other`.
    pub fn add(&mut self, other: &Self) {
        self.late |= other.late;
        self.add_plain(other);
        let maps = [
            (&mut self.outcomes, &other.outcomes),
            (&mut self.drops, &other.drops),
            (&mut self.snmp, &other.snmp),
        ];
        for (sum, parts) in maps {
            for (name, count) in parts {
                *sum.entry(name.clone()).or_default() += count;
            }
        }
    }
}

/// Counters of a port, by the device's own account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeviceStats {
    /// The port's name.
    pub name: String,
    /// Its driver's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// Its link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<PortLink>,
    /// Nobody counts the frames that are lost in front of the driver, so `imissed` says nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub losses_uncounted: bool,
    /// Counters by DPDK's names: `ipackets`, `imissed`, `rx_nombuf`, …; then the driver's own (xstats).
    #[serde(flatten)]
    pub counters: BTreeMap<String, u64>,
}

/// Reply to `latency`. Time to the end of `tx_burst`, since start; [`PortClock`] says from when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Latency {
    /// One per core.
    pub cores: Vec<CoreLatency>,
    /// All cores together.
    pub total: Vec<OutcomeLatency>,
    /// By port, when the times of its frames begin, and by whose clock.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clocks: BTreeMap<String, PortClock>,
    /// Of an interval of `hearken latency --interval`: when it ended (RFC 3339), and how long it was. The server says neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

/// A span of time that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Interval {
    /// When, in UTC, as RFC 3339 has it.
    pub until: String,
    /// How long it was.
    pub seconds: f64,
}

/// When the time of a port's frames begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct PortClock {
    /// At which moment.
    pub begin: Begin,
    /// Ticks a second of the stamps' clock, as measured against the machine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hz: Option<u64>,
    /// Frames without a stamp that could be used, whose times begin in the worker.
    pub unusable: u64,
    /// The device stamps frames, or would if `rx_timestamps` asked it to.
    pub could: bool,
}

/// What a latency begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Begin {
    /// The end of `rx_burst`, by the worker's clock.
    #[default]
    Worker,
    /// The kernel's stamp, of a device that is an interface of the kernel's.
    Kernel,
    /// The device's stamp.
    Device,
}

/// Latency on one core.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CoreLatency {
    /// Worker's number.
    pub core: u16,
    /// The core did not answer in time, and these are its numbers of an earlier report.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// One per outcome, in their order.
    pub outcomes: Vec<OutcomeLatency>,
}

/// Latency of the frames of one outcome; all times in nanoseconds, 0 where there was no frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[allow(missing_docs)]
pub struct OutcomeLatency {
    /// synack, rst, accept or other.
    pub outcome: String,
    /// Records in the histogram.
    pub count: u64,
    /// The outcome's counter at the same turn: always the same number.
    pub frames: u64,
    pub min_ns: u64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p99_9_ns: u64,
    pub p99_99_ns: u64,
    pub max_ns: u64,
}

/// A request that was understood and not fulfilled, or not understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, thiserror::Error)]
#[error("{}{message}", errno.as_ref().map(|name| format!("{name}: ")).unwrap_or_default())]
pub struct Refusal {
    /// The errno's name, where the system call would have set one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// What was wanted, what was found, what to do.
    pub message: String,
}

impl Refusal {
    /// One without an errno.
    pub fn new(message: impl Into<String>) -> Self {
        Self { errno: None, message: message.into() }
    }
}

/// What stands under `ok`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum Reply {
    Listening(Listening),
    Closed(Closed),
    Ss(Ss),
    Accepted(Accepted),
    Reloaded(Reloaded),
    Why(Box<Why>),
    Captured(Captured),
    Top(Box<Top>),
    Stats(Box<Stats>),
    Latency(Latency),
    CookieKeys(CookieKeysReply),
    Histograms(Box<Histograms>),
    Done {},
}

/// A line that the server sends.
#[derive(Deserialize)]
pub(super) struct ReplyLine<T> {
    pub(super) v: u64,
    pub(super) ok: Option<T>,
    pub(super) error: Option<Refusal>,
}

/// The line for `request`, with its end.
pub fn request_line(request: &Request) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        v: u64,
        #[serde(flatten)]
        request: &'a Request,
    }
    line(&Line { v: VERSION, request })
}

/// The line for a reply, with its end.
pub fn reply_line(reply: &Result<Reply, Refusal>) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "lowercase")]
    enum Body<'a> {
        Ok(&'a Reply),
        Error(&'a Refusal),
    }
    #[derive(Serialize)]
    struct Line<'a> {
        v: u64,
        #[serde(flatten)]
        body: Body<'a>,
    }
    let body = match reply {
        Ok(reply) => Body::Ok(reply),
        Err(refusal) => Body::Error(refusal),
    };
    line(&Line { v: VERSION, body })
}

fn line(value: &impl Serialize) -> Vec<u8> {
    // Only maps with keys that are no strings fail to become JSON; there are none here.
    let mut line = serde_json::to_vec(value).unwrap_or_else(|error| {
        format!("{{\"v\":{VERSION},\"error\":{{\"message\":\"{error}\"}}}}").into_bytes()
    });
    line.push(b'\n');
    line
}

/// Reads a request line without its end.
///
/// # Errors
/// Not JSON, another version, no such request, a field that is missing, unknown or wrong.
pub fn parse_request(line: &[u8]) -> Result<Request, Refusal> {
    const WANTED: &str = "wanted one JSON object such as {\"v\":1,\"request\":\"ss\"}";
    let mut object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(line).map_err(|error| Refusal::new(format!("{WANTED}, found {error}")))?;
    match object.remove("v") {
        Some(version) if version.as_u64() == Some(VERSION) => {}
        Some(other) => {
            return Err(Refusal::new(format!(
                "this server speaks version {VERSION}, the request version {other}"
            )));
        }
        None => return Err(Refusal::new(format!("no \"v\" in the request; {WANTED}"))),
    }
    serde_json::from_value(object.into()).map_err(|error| Refusal::new(format!("in the request: {error}")))
}

#[cfg(test)]
mod tests;
