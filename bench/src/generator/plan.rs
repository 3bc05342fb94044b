//! What a run sends: streams, each with its own sources, destinations, rate and manner.

use std::sync::Arc;

use listener::types::InetAddr;

use super::schedule::Schedule;
use super::space::{Acked, Space};
use super::targets::{Target, Targets};
use super::template::{Ends, Link, Offer, Template};

/// Flows that are remembered as answered at most: 8 MiB a core.
const WINDOW_MAX: u64 = 1 << 26;
/// Seconds of flows that are remembered.
const WINDOW_SECONDS: f64 = 8.0;
/// What TSvals begin at: 0 stands for none in Linux.
const TSVAL_FIRST: u32 = 1_000_000;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// With a FIN
    Fin,
    /// With a RST
    Rst,
    /// Not at all
    Open,
}

/// What follows a SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: forged SYNs.
    Syn,
    /// The ACK, then data, then the end.
    Connect {
        /// Octets of data, 0 for none.
        data: u16,
        /// The end.
        end: End,
    },
}

/// One stream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its name in tables.
    pub name: String,
    /// When flows leave, counted from `first_flow`.
    pub schedule: Schedule,
    /// Number of the first flow: a later run goes on where an earlier one ended, so that a server's memory of it does no
    /// harm.
    pub first_flow: u64,
    /// Sources.
    pub space: Space,
    /// Destinations.
    pub targets: Targets,
    /// What SYNs offer.
    pub offer: Offer,
    /// What follows.
    pub mode: Mode,
    template: Template,
}

impl Stream {
    /// A stream whose frames are made from `link`.
    pub fn new(
        name: &str,
        link: &Link,
        (schedule, first_flow): (Schedule, u64),
        (space, targets): (Space, Targets),
        (offer, mode): (Offer, Mode),
    ) -> Self {
        let template = Template::new(link, !space.is_v4(), &offer);
        Self { name: name.to_owned(), schedule, first_flow, space, targets, offer, mode, template }
    }

    /// The same with another schedule, its flows numbered from `first_flow` on.
    pub fn again(&self, schedule: Schedule, first_flow: u64) -> Self {
        Self { schedule, first_flow, ..self.clone() }
    }

    /// The number behind the last flow.
    pub const fn end(&self) -> u64 {
        self.first_flow + self.schedule.total()
    }

    /// Nanoseconds from the start at which `flow` should leave.
    #[inline]
    pub fn at(&self, flow: u64) -> u64 {
        self.schedule.at(flow - self.first_flow)
    }

    /// The number behind the last flow that should have left by `ns`.
    #[inline]
    pub fn due(&self, ns: u64) -> u64 {
        self.first_flow + self.schedule.due(ns).min(self.schedule.total())
    }

    /// The time stamp of a flow that should leave at `at`.
    #[inline]
    pub fn tsval(&self, at: u64) -> u32 {
        TSVAL_FIRST.wrapping_add((at / 1000) as u32)
    }

    /// Both ends of `flow`, and its destination.
    #[inline]
    pub fn ends(&self, flow: u64) -> (Ends, Target) {
        let target = self.targets.pick(flow);
        (Ends { src: self.space.source(flow), dst: (target.addr, target.port) }, target)
    }

    /// Octets of a SYN.
    pub const fn syn_len(&self) -> usize {
        self.template.syn_len()
    }

    /// Writes the SYN of `flow`, which should leave at `at`.
    #[inline]
    pub fn write_syn(&self, flow: u64, at: u64, out: &mut [u8]) {
        let (ends, _) = self.ends(flow);
        self.template.syn(out, &ends, self.space.isn(flow), self.tsval(at));
    }

    /// Makes the frames of what follows a SYN-ACK.
    pub const fn template(&self) -> &Template {
        &self.template
    }

    /// The flow of which `ack` came to `dst`, of those below `limit`; it may be one of an earlier run.
    #[inline]
    pub fn acked(&self, dst: (InetAddr, u16), ack: u32, limit: u64) -> Option<Acked> {
        let first = self.space.first_flow(dst.0, dst.1)?;
        self.space.acked(first, ack, limit)
    }

    /// Flows that a core remembers.
    pub fn window(&self, rate: f64) -> u64 {
        ((rate * WINDOW_SECONDS) as u64).min(self.schedule.total()).clamp(1, WINDOW_MAX)
    }
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its streams; their sources are disjoint.
    pub streams: Vec<Arc<Stream>>,
    /// Our MAC address.
    pub mac: dataplane::wire::ether::MacAddr,
    /// Addresses that we have besides the sources.
    pub own: Vec<InetAddr>,
    /// Seconds in which SYNs leave.
    pub seconds: f64,
    /// Seconds that answers may take after that.
    pub drain: f64,
}

impl Plan {
    /// True if `addr` is ours.
    pub fn owns(&self, addr: InetAddr) -> bool {
        self.own.contains(&addr) || self.streams.iter().any(|stream| stream.space.owns(addr))
    }
}
