//! Frames with what became of them, for who asks: a worker's tap.
//!
//! # Protocol
//! The control side makes a [`Session`] with all its buffers, leaves it in the worker's [`Tap`] and raises a flag. From then
//! on the worker copies what the filter takes as it comes in, before answers are written over it, adds the verdict when the
//! burst is done, and passes the buffer on through a ring; the control side gives it back through another. A ring that is
//! empty loses a frame and counts it. The worker neither waits nor allocates, and while nobody asks it costs one relaxed
//! load a burst.

pub mod filter;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::atomic::AtomicCell;
use crossbeam::queue::ArrayQueue;
use listener::drop_reason::DropReason;
use listener::segment::{Outcome, Verdict};
use listener::types::{DevIndex, Nanos};

use crate::burst::{BURST_MAX, Fate};
use crate::io::Frame;
use crate::summary::Summary;
use filter::{Filter, WantedVerdict};

/// Frames that one worker keeps for the control side at most.
pub const RING: usize = 1024;
/// Octets of a frame that can be kept.
pub const SNAPLEN_MAX: usize = 9728;

/// What is kept of which frames.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// By what stands in them.
    pub filter: Filter,
    /// By what became of them.
    pub verdict: WantedVerdict,
    /// Octets of each at most.
    pub snaplen: usize,
    /// One of so many.
    pub sample: u32,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was dropped.
    Drop(DropReason),
    /// It was handled without an answer.
    Consume(Outcome),
    /// It was answered.
    Reply(Outcome),
}

/// A frame that came in.
#[derive(Debug)]
pub struct Record {
    /// When, by the workers' clock.
    pub at: Nanos,
    /// On which device.
    pub dev: DevIndex,
    /// Its octets.
    pub len: usize,
    /// What became of it.
    pub ending: Ending,
    kept: usize,
    octets: Box<[u8]>,
}

impl Record {
    /// The octets that were kept.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..self.kept]
    }
}

/// The rings between a worker and the control side.
#[derive(Clone, Debug)]
pub struct Rings {
    /// Buffers that wait for a frame.
    pub empty: Arc<ArrayQueue<Box<Record>>>,
    /// Frames that wait for the control side.
    pub full: Arc<ArrayQueue<Box<Record>>>,
}

/// What one worker needs for one capture.
#[derive(Debug)]
pub struct Session {
    wanted: Wanted,
    rings: Rings,
    /// Frames of the burst that is worked on, by their place in it.
    pending: Vec<(u8, Box<Record>)>,
    matched: u32,
}

impl Session {
    /// With all memory that it will need; and the rings' other ends.
    pub fn new(wanted: Wanted) -> (Box<Self>, Rings) {
        let rings = Rings { empty: Arc::new(ArrayQueue::new(RING)), full: Arc::new(ArrayQueue::new(RING)) };
        for _ in 0..RING {
            let octets = vec![0; wanted.snaplen.min(SNAPLEN_MAX)].into_boxed_slice();
            let (at, dev, ending) = (Nanos(0), DevIndex::NONE, Ending::Consume(Outcome::Other));
            let _ = rings.empty.push(Box::new(Record { at, dev, len: 0, ending, kept: 0, octets }));
        }
        let pending = Vec::with_capacity(BURST_MAX);
        (Box::new(Self { wanted, rings: rings.clone(), pending, matched: 0 }), rings)
    }
}

/// True for the first of `sample` calls, and again for the first of the next.
fn next_of(matched: &mut u32, sample: u32) -> bool {
    let first = *matched == 0;
    *matched = (*matched + 1) % sample.max(1);
    first
}

/// Where a worker and the control side meet.
#[derive(Default)]
pub struct Tap {
    on: AtomicBool,
    next: AtomicCell<Option<Box<Session>>>,
    done: AtomicCell<Option<Box<Session>>>,
    missed: AtomicU64,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").field("on", &self.on).finish_non_exhaustive()
    }
}

impl Tap {
    /// Control side: begins.
    pub fn start(&self, session: Box<Session>) {
        drop(self.done.take());
        self.missed.store(0, Ordering::Relaxed);
        self.next.store(Some(session));
        self.on.store(true, Ordering::Release);
    }

    /// Control side: ends. The worker keeps its buffers until the next one begins.
    pub fn stop(&self) {
        self.on.store(false, Ordering::Relaxed);
    }

    /// Frames that found no buffer.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

/// A worker's side.
#[derive(Debug, Default)]
pub(crate) struct Capturer {
    tap: Arc<Tap>,
    session: Option<Box<Session>>,
    /// Frames of this burst were copied.
    copied: bool,
}

impl Capturer {
    /// Where the control side asks.
    pub(crate) fn tap(&self) -> Arc<Tap> {
        Arc::clone(&self.tap)
    }

    /// Copies what is wanted of a burst that has just come in.
    #[inline]
    pub(crate) fn before<F: Frame>(&mut self, frames: &[Option<F>], dev: DevIndex, now: Nanos) {
        if self.tap.on.load(Ordering::Relaxed) {
            self.copy(frames, dev, now);
        }
    }

    /// True if [`Capturer::after`] will look at the fates of this burst.
    #[inline]
    pub(crate) fn is_waiting(&self) -> bool {
        self.copied
    }

    /// Adds what became of the frames; the device took the first `sent` answers.
    #[inline]
    pub(crate) fn after(&mut self, fates: &[Fate], sent: usize) {
        if self.copied {
            self.tell(fates, sent);
        }
    }

    #[cold]
    fn copy<F: Frame>(&mut self, frames: &[Option<F>], dev: DevIndex, now: Nanos) {
        if let Some(next) = self.tap.next.take()
            && let Some(old) = self.session.replace(next)
        {
            self.tap.done.store(Some(old));
        }
        let Some(session) = &mut self.session else { return };
        for (index, frame) in (0u8..).zip(frames) {
            let Some(bytes) = frame.as_ref().map(Frame::bytes) else { continue };
            // Everything needs no reading, and what is not in the sample no copying.
            let filter = &session.wanted.filter;
            if !matches!(filter, Filter::All) && !filter.matches(&Summary::of(bytes)) {
                continue;
            }
            if session.wanted.verdict == WantedVerdict::Any
                && !next_of(&mut session.matched, session.wanted.sample)
            {
                continue;
            }
            let Some(mut record) = session.rings.empty.pop() else {
                self.tap.missed.store(self.tap.missed.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                continue;
            };
            (record.at, record.dev, record.len) = (now, dev, bytes.len());
            record.kept = bytes.len().min(record.octets.len());
            record.octets[..record.kept].copy_from_slice(&bytes[..record.kept]);
            session.pending.push((index, record));
        }
        self.copied = true;
    }

    #[cold]
    fn tell(&mut self, fates: &[Fate], sent: usize) {
        self.copied = false;
        let Some(session) = &mut self.session else { return };
        for (index, mut record) in session.pending.drain(..) {
            let index = usize::from(index);
            let ready = |fate: &&Fate| matches!(fate, Fate::Ready(_));
            record.ending = match fates[index] {
                Fate::Ready(_) if fates[..index].iter().filter(ready).count() >= sent => {
                    Ending::Drop(DropReason::TxFull)
                }
                Fate::Ready(outcome) => Ending::Reply(outcome),
                Fate::Consume(outcome) | Fate::Tcp(Verdict::Consume(outcome)) => Ending::Consume(outcome),
                Fate::Drop(reason) | Fate::Tcp(Verdict::Drop(reason)) => Ending::Drop(reason),
                // As the worker counts it.
                Fate::Pending | Fate::Tcp(Verdict::Reply(..)) => Ending::Drop(DropReason::NoBuffer),
            };
            // Of frames with any verdict the sample was taken before.
            let verdict = session.wanted.verdict;
            let wanted = verdict == WantedVerdict::Any
                || verdict.matches(record.ending) && next_of(&mut session.matched, session.wanted.sample);
            let ring = if wanted { &session.rings.full } else { &session.rings.empty };
            // Both rings have a place for each buffer.
            let _ = ring.push(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::PacketIo;
    use crate::io::mem::{Mem, MemConfig, MemFrame};

    fn frames(count: usize) -> Vec<Option<MemFrame>> {
        let (mut io, _peer) = Mem::new(MemConfig { buffers: count, ..MemConfig::default() });
        let mut frame = |number: usize| {
            let mut frame = io.alloc().expect("a buffer");
            assert!(frame.fill(&vec![number as u8; 60 + number]));
            frame
        };
        (0..count).map(|number| Some(frame(number))).collect()
    }

    fn session(verdict: &str, sample: u32) -> (Box<Session>, Rings) {
        let (filter, verdict) = (Filter::parse("").expect("all"), verdict.parse().expect("a verdict"));
        Session::new(Wanted { filter, verdict, snaplen: 32, sample })
    }

    fn taken(rings: &Rings) -> Vec<(usize, usize, Ending)> {
        let next = || {
            let record = rings.full.pop()?;
            let row = (record.len, record.octets().len(), record.ending);
            rings.empty.push(record).expect("its place");
            Some(row)
        };
        std::iter::from_fn(next).collect()
    }

    const FATES: [Fate; 5] = [
        Fate::Ready(Outcome::SynAck),
        Fate::Drop(DropReason::TcpCsum),
        Fate::Ready(Outcome::Rst),
        Fate::Tcp(Verdict::Consume(Outcome::Accept)),
        Fate::Ready(Outcome::Other),
    ];

    #[test]
    fn frames_are_kept_with_what_became_of_them() {
        let mut worker = Capturer::default();
        let (tap, frames) = (worker.tap(), frames(5));
        let mut burst = |sent| {
            worker.before(&frames, DevIndex(1), Nanos(7));
            worker.after(&FATES, sent);
        };
        burst(3);
        let (all, rings) = session("any", 1);
        tap.start(all);
        burst(2);
        let wanted = [
            (60, 32, Ending::Reply(Outcome::SynAck)),
            (61, 32, Ending::Drop(DropReason::TcpCsum)),
            (62, 32, Ending::Reply(Outcome::Rst)),
            (63, 32, Ending::Consume(Outcome::Accept)),
            (64, 32, Ending::Drop(DropReason::TxFull)),
        ];
        assert_eq!(taken(&rings), wanted);
        let (some, rings) = session("drop", 3);
        tap.start(some);
        for _ in 0..4 {
            burst(2);
        }
        let every_third = [wanted[1], wanted[4], wanted[1]];
        assert_eq!(taken(&rings), every_third);
        let (some, rings) = session("any", 3);
        tap.start(some);
        for _ in 0..2 {
            burst(2);
        }
        let every_third = [wanted[0], wanted[3], wanted[1], wanted[4]];
        assert_eq!(taken(&rings), every_third);
        tap.stop();
        burst(3);
        assert_eq!((taken(&rings), tap.missed()), (vec![], 0));
    }

    #[test]
    fn a_full_ring_loses_frames_and_counts_them() {
        let mut worker = Capturer::default();
        let (tap, frames) = (worker.tap(), frames(5));
        let (all, rings) = session("any", 1);
        tap.start(all);
        for _ in 0..RING {
            worker.before(&frames, DevIndex(1), Nanos(7));
            worker.after(&FATES, 5);
        }
        assert_eq!(taken(&rings).len(), RING);
        assert_eq!(tap.missed(), 4 * RING as u64);
        assert_eq!(rings.empty.len(), RING, "no buffer is lost");
    }
}
