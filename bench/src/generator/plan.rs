//! What a run sends: streams, each with its own sources, destinations, rate and manner.

use std::sync::Arc;

use listener::types::InetAddr;

use super::answer::Heard;
use super::replay::Replay;
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
    /// What follows.
    pub mode: Mode,
    flows: Flows,
}

/// Where the frames of a stream come from.
#[derive(Clone, Debug)]
enum Flows {
    Made(Arc<Made>),
    Replayed(Arc<Replay>),
}

/// Flows that are functions of their number.
#[derive(Debug)]
struct Made {
    space: Space,
    targets: Targets,
    offer: Offer,
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
        let flows = Flows::Made(Arc::new(Made { space, targets, offer, template }));
        Self { name: name.to_owned(), schedule, first_flow, mode, flows }
    }

    /// The frames of a file, as they are.
    pub fn replay(name: &str, schedule: Schedule, replay: Arc<Replay>) -> Self {
        let flows = Flows::Replayed(replay);
        Self { name: name.to_owned(), schedule, first_flow: 0, mode: Mode::Syn, flows }
    }

    /// Different sources, and different destinations if they are known.
    pub fn variety(&self) -> (u64, u64) {
        match &self.flows {
            Flows::Made(made) => (made.space.sources(), made.targets.count()),
            Flows::Replayed(replay) => (replay.sources(), 0),
        }
    }

    /// True if `addr` is the address of a source: somebody may ask for its MAC address.
    pub fn has_source(&self, addr: InetAddr) -> bool {
        match &self.flows {
            Flows::Made(made) => made.space.owns(addr),
            Flows::Replayed(replay) => replay.has_source(addr),
        }
    }

    /// Of a file, how many different SYNs it has: they are sent more than once.
    pub fn copied(&self) -> Option<usize> {
        match &self.flows {
            Flows::Made(_) => None,
            Flows::Replayed(replay) => Some(replay.syns()),
        }
    }

    /// Of a file, which of its SYNs the frame of `flow` is a copy of.
    #[inline]
    pub fn syn_number(&self, flow: u64) -> usize {
        match &self.flows {
            Flows::Made(_) => 0,
            Flows::Replayed(replay) => replay.syn_number(flow),
        }
    }

    /// True if `heard` came to a source of this stream.
    #[inline]
    pub fn owns(&self, heard: &Heard) -> bool {
        match &self.flows {
            Flows::Made(made) => made.space.owns(heard.dst.0),
            Flows::Replayed(replay) => replay.owns(heard),
        }
    }

    /// True if the frame of `flow` is a SYN, which is to be answered.
    #[inline]
    pub fn is_syn(&self, flow: u64) -> bool {
        match &self.flows {
            Flows::Made(_) => true,
            Flows::Replayed(replay) => replay.is_syn(flow),
        }
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

    /// The time stamp that is sent at `at`.
    #[inline]
    pub fn tsval(&self, at: u64) -> u32 {
        TSVAL_FIRST.wrapping_add((at / 1000) as u32)
    }

    /// What the SYN of `flow` offered, and its time stamp.
    #[inline]
    pub fn offered(&self, flow: u64) -> (Offer, u32) {
        match &self.flows {
            Flows::Made(made) => (made.offer, self.tsval(self.at(flow))),
            Flows::Replayed(replay) => replay.offer(flow).unwrap_or((Offer::NONE, 0)),
        }
    }

    /// Both ends of `flow`, and its destination; none of a frame that is no SYN.
    #[inline]
    pub fn ends(&self, flow: u64) -> Option<(Ends, Target)> {
        match &self.flows {
            Flows::Made(made) => Some(made.ends(flow)),
            Flows::Replayed(replay) => replay.ends(flow),
        }
    }

    /// Octets of the frame of `flow`.
    #[inline]
    pub fn frame_len(&self, flow: u64) -> usize {
        match &self.flows {
            Flows::Made(made) => made.template.syn_len(),
            Flows::Replayed(replay) => replay.frame(flow).len(),
        }
    }

    /// Writes the frame of `flow`, which should leave at `at`, into `out`, which is as long.
    #[inline]
    pub fn write_frame(&self, flow: u64, at: u64, out: &mut [u8]) {
        match &self.flows {
            Flows::Made(made) => {
                let (ends, _) = made.ends(flow);
                made.template.syn(out, &ends, made.space.isn(flow), self.tsval(at));
            }
            Flows::Replayed(replay) => out.copy_from_slice(replay.frame(flow)),
        }
    }

    /// Makes the frames of what follows a SYN-ACK, and the initial sequence number of `flow`; none where nothing follows.
    pub fn behind(&self, flow: u64) -> Option<(&Template, u32)> {
        match &self.flows {
            Flows::Made(made) => Some((&made.template, made.space.isn(flow))),
            Flows::Replayed(_) => None,
        }
    }

    /// The flow that `heard` acknowledges, of those below `limit`; it may be one of an earlier run.
    #[inline]
    pub fn acked(&self, heard: &Heard, limit: u64) -> Option<Acked> {
        match &self.flows {
            Flows::Made(made) => {
                let first = made.space.first_flow(heard.dst.0, heard.dst.1)?;
                made.space.acked(first, heard.ack, limit)
            }
            Flows::Replayed(replay) => replay.acked(heard),
        }
    }

    /// Flows that a core remembers.
    pub fn window(&self, rate: f64) -> u64 {
        ((rate * WINDOW_SECONDS) as u64).min(self.schedule.total()).clamp(1, WINDOW_MAX)
    }
}

impl Made {
    #[inline]
    fn ends(&self, flow: u64) -> (Ends, Target) {
        let target = self.targets.pick(flow);
        (Ends { src: self.space.source(flow), dst: (target.addr, target.port) }, target)
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
        self.own.contains(&addr) || self.streams.iter().any(|stream| stream.has_source(addr))
    }
}
