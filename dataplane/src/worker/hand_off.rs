//! Segments whose flow another worker may know, from worker to worker.
//!
//! The workers form a circle of rings: each gives what it does not know to the next, and the last one that is asked
//! answers as a single worker would. The segment goes, not its frame: the answer leaves through the outbox of the worker
//! that knows the flow. Rare by design, so an ordinary burst pays for it with one test a segment.
//!
//! # Counting
//! At the worker that received it, a frame whose segment is handed over is `other`; one that finds the ring full is
//! dropped as `handoff_full`. So frames in = answered + dropped on each core as ever. What comes of a segment that was
//! taken over is no frame of that core: an answer counts as `originated`. Over all cores, `handed_over` is `taken_over` and
//! what is still in the rings.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use listener::columns::rows;
use listener::drop_reason::DropReason;
use listener::segment::{Originated, Outcome, Segment, Verdict};
use listener::types::Nanos;

use crate::burst::Fate;
use crate::io::PacketIo;
use crate::protocol::Protocol;
use crate::stats::CoreStats;

use super::{Port, send};

/// Segments that may wait for one worker: some bursts, for a worker that does not run for a moment.
const RING: usize = 1024;

/// A segment, and how many workers are left to be asked after the one that takes it.
#[derive(Debug)]
struct Stray {
    seg: Segment,
    left: usize,
}

/// One worker's place in the circle.
#[derive(Debug)]
pub struct HandOff {
    inbox: Arc<ArrayQueue<Stray>>,
    next: Arc<ArrayQueue<Stray>>,
    others: usize,
}

impl HandOff {
    /// A circle of `workers`; none if there is nobody to hand anything to.
    pub fn circle(workers: usize) -> Vec<Self> {
        Self::circle_of(workers, RING)
    }

    /// As [`HandOff::circle`], with rings of `room` segments.
    pub fn circle_of(workers: usize, room: usize) -> Vec<Self> {
        if workers < 2 {
            return Vec::new();
        }
        let rings: Vec<_> = (0..workers).map(|_| Arc::new(ArrayQueue::new(room))).collect();
        let place = |worker: usize| Self {
            inbox: Arc::clone(&rings[worker]),
            next: Arc::clone(&rings[(worker + 1) % workers]),
            others: workers - 1,
        };
        (0..workers).map(place).collect()
    }

    /// Hands over the strays among the segments `set` of a burst, as far as there is room.
    #[inline]
    pub(super) fn give(&self, segs: &[Segment], set: u64, fates: &mut [Fate], stats: &CoreStats) {
        for index in rows(set) {
            if is_stray(&fates[index]) && self.pass_on(segs[index], self.others, stats) {
                fates[index] = Fate::Consume(Outcome::Other);
            }
        }
    }

    /// Gives a segment to the next worker, one of `left` that are still to be asked; false if there is no room.
    #[cold]
    fn pass_on(&self, seg: Segment, left: usize, stats: &CoreStats) -> bool {
        let taken = self.next.push(Stray { seg, left: left - 1 }).is_ok();
        if taken {
            stats.handed_over();
        }
        taken
    }

    /// Deals with up to `budget` segments of other workers, while there is room for the answers. Returns true if there may be
    /// more.
    #[inline]
    pub(super) fn take<I: PacketIo, P: Protocol>(
        &self,
        ports: &mut [Port<I>],
        protocol: &mut P,
        stats: &CoreStats,
        budget: usize,
        now: Nanos,
    ) -> bool {
        for _ in 0..budget {
            if !ports.iter().all(|port| port.outbox.has_room()) {
                return true;
            }
            let Some(Stray { seg, left }) = self.inbox.pop() else { return false };
            stats.taken_over();
            let done = match protocol.rcv_handed_over(&seg, left == 0, now) {
                Verdict::Reply(_, segment) => {
                    let Segment { flow, dev, route, .. } = seg;
                    send(ports, stats, &Originated { flow, dev, route, segment })
                }
                Verdict::Drop(DropReason::HandoffFull) => left != 0 && self.pass_on(seg, left, stats),
                Verdict::Drop(_) | Verdict::Consume(_) => true,
            };
            if !done {
                stats.handoff_lost();
            }
        }
        true
    }
}

#[inline]
fn is_stray(fate: &Fate) -> bool {
    matches!(fate, Fate::Tcp(Verdict::Drop(DropReason::HandoffFull)))
}
