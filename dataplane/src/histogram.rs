//! Latency per core and outcome, read live without stopping the worker.
//!
//! # Protocol
//! A worker records into an [`Interval`] that is its alone. The control side puts an empty one into the core's
//! [`Mailbox`] and raises a flag; the worker, at the end of a turn, takes it, leaves the full one with a copy of its
//! counters of that very turn, and goes on with the empty one. Nobody waits for anybody, the worker allocates and frees
//! nothing, and as long as nobody asks it costs one relaxed load a turn. [`Reporter`] asks again only when the last
//! interval has come back, so none is ever overwritten; at its end the worker leaves the rest in a place of its own.
//!
//! # Exact
//! Both halves of an interval are of the same turn, so the added-up histogram of an outcome holds exactly as many
//! records as the counter says.

mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::atomic::AtomicCell;
use hdrhistogram::Histogram;
use listener::segment::Outcome;
use listener::types::CoreId;

use crate::stats::{CoreStats, Counters};
pub use shared::SharedReporter;

/// Longest time that is told apart from a longer one: a minute.
pub const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Digits that are kept of each value: one part in a thousand.
const DIGITS: u8 = 3;
/// How often [`Reporter::snapshot`] looks for answers.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// One histogram an outcome, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Latency([Histogram<u64>; Outcome::ALL.len()]);

impl Latency {
    /// Empty, with all the memory that it will ever need.
    ///
    /// # Panics
    /// Never: the bounds are constants that `hdrhistogram` takes.
    pub fn new() -> Self {
        let empty = Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("constants within bounds");
        Self(std::array::from_fn(|_| empty.clone()))
    }

    /// Records `frames` frames with the same latency.
    #[inline]
    pub fn record(&mut self, outcome: Outcome, ns: u64, frames: u64) {
        self.0[outcome as usize].saturating_record_n(ns, frames);
    }

    /// The histogram of `outcome`.
    pub fn of(&self, outcome: Outcome) -> &Histogram<u64> {
        &self.0[outcome as usize]
    }

    /// Adds what `other` holds.
    pub fn add(&mut self, other: &Self) {
        for (to, from) in self.0.iter_mut().zip(&other.0) {
            // Cannot fail: both have the same bounds.
            let _ = to.add(from);
        }
    }

    /// Takes away what `other` holds, all of which is here as well: what is left was recorded since.
    pub fn subtract(&mut self, other: &Self) {
        for (from, part) in self.0.iter_mut().zip(&other.0) {
            // Fails, and changes nothing, where `other` is not a part of this.
            let _ = from.subtract(part);
        }
    }

    fn clear(&mut self) {
        for histogram in &mut self.0 {
            histogram.reset();
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

/// What a worker recorded between two hand-overs, and its counters at the later one.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// Since the worker's start.
    pub counters: Counters,
    /// Since the last hand-over.
    pub latency: Latency,
}

/// Where a worker and the control side meet.
#[derive(Default)]
pub struct Mailbox {
    asked: AtomicBool,
    fresh: AtomicCell<Option<Box<Interval>>>,
    full: AtomicCell<Option<Box<Interval>>>,
    last: AtomicCell<Option<Box<Interval>>>,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Mailbox {
    /// Worker's side: true if somebody waits for a hand-over.
    #[inline]
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Worker's side: exchanges `current` for the empty interval that waits here. `current` must have its counters.
    #[cold]
    pub(crate) fn hand_over(&self, current: &mut Box<Interval>) {
        let Some(fresh) = self.fresh.take() else { return };
        // Lowered before the answer is there: the next question may follow at once, and must not be lost.
        self.asked.store(false, Ordering::Relaxed);
        self.full.store(Some(std::mem::replace(current, fresh)));
    }

    /// Worker's side: leaves the last interval.
    pub(crate) fn finish(&self, last: Box<Interval>) {
        self.last.store(Some(last));
    }
}

/// One core's numbers since its start.
#[derive(Clone, Debug)]
pub struct CoreReport {
    /// The core.
    pub core: CoreId,
    /// Its counters.
    pub counters: Counters,
    /// Its latencies, up to the same turn.
    pub latency: Latency,
    /// False if the core did not answer in time: its latencies are of an earlier report, and its counters too, or, where they
    /// can be seen ([`Reporter::watch`]), as they stand, perhaps amid a burst.
    pub fresh: bool,
}

/// The control side of all mailboxes.
#[derive(Debug)]
pub struct Reporter {
    cores: Vec<CoreSlot>,
}

#[derive(Debug)]
struct CoreSlot {
    mailbox: Arc<Mailbox>,
    report: CoreReport,
    /// An empty interval to ask with, unless the worker has it.
    spare: Option<Box<Interval>>,
    /// The worker's counters as they stand.
    live: Option<Arc<CoreStats>>,
    /// The last question is answered.
    answered: bool,
    finished: bool,
}

impl Reporter {
    /// Reports on these cores.
    pub fn new(mailboxes: impl IntoIterator<Item = (CoreId, Arc<Mailbox>)>) -> Self {
        let slot = |(core, mailbox)| CoreSlot {
            mailbox,
            report: CoreReport { core, counters: Counters::default(), latency: Latency::new(), fresh: false },
            spare: Some(Box::default()),
            live: None,
            answered: false,
            finished: false,
        };
        Self { cores: mailboxes.into_iter().map(slot).collect() }
    }

    /// The reports as they were last handed over; nobody is asked.
    pub fn reports(&self) -> Vec<CoreReport> {
        self.cores.iter().map(|slot| slot.report.clone()).collect()
    }

    /// The same, to be looked at where they are: a copy of them takes longer than most questions need.
    pub fn each(&self) -> impl Iterator<Item = &CoreReport> {
        self.cores.iter().map(|slot| &slot.report)
    }

    /// As [`Reporter::refresh`], and returns the reports.
    pub fn snapshot(&mut self, timeout: Duration) -> Vec<CoreReport> {
        self.refresh(timeout);
        self.reports()
    }

    /// Has cores that do not answer shown by their counters as they stand: `live`, in the order of the cores.
    pub fn watch(mut self, live: impl IntoIterator<Item = Arc<CoreStats>>) -> Self {
        for (slot, live) in self.cores.iter_mut().zip(live) {
            slot.live = Some(live);
        }
        self
    }

    /// Asks all cores and waits until all have answered or have ended, `timeout` at most. A core that is late answers the
    /// next call.
    pub fn refresh(&mut self, timeout: Duration) {
        let asked = Instant::now();
        self.ask();
        while self.collect() > 0 && asked.elapsed() < timeout {
            std::thread::sleep(LOOK_EVERY);
        }
        self.settle();
    }

    /// Asks all cores.
    pub fn ask(&mut self) {
        self.cores.iter_mut().for_each(CoreSlot::ask);
    }

    /// Takes what has come back since [`Reporter::ask`]; returns how many cores have not answered.
    pub fn collect(&mut self) -> usize {
        // Every core is looked at, also behind one that is late.
        self.cores.iter_mut().map(CoreSlot::collect).filter(|answered| !answered).count()
    }

    /// Waits no longer: who has not answered by now is late.
    pub fn settle(&mut self) {
        self.cores.iter_mut().for_each(CoreSlot::settle);
    }
}

impl CoreSlot {
    fn ask(&mut self) {
        // An answer to a call that had stopped waiting is of the past: it is added, but does not answer this one.
        self.collect();
        self.answered = self.finished;
        if let Some(mut fresh) = self.spare.take_if(|_| !self.finished) {
            fresh.latency.clear();
            self.mailbox.fresh.store(Some(fresh));
            self.mailbox.asked.store(true, Ordering::Release);
        }
    }

    /// Adds up what has come back; true if the report is as fresh as it will get.
    fn collect(&mut self) -> bool {
        // The worker leaves its last interval after its last answer, so in this order none is passed over.
        let last = self.mailbox.last.take();
        if let Some(full) = self.mailbox.full.take() {
            self.add(&full);
            self.spare = Some(full);
        }
        if let Some(last) = last {
            self.add(&last);
            self.finished = true;
        }
        self.answered
    }

    fn settle(&mut self) {
        self.report.fresh = self.answered;
        if let Some(live) = self.live.as_ref().filter(|_| !self.answered) {
            live.copy_to(&mut self.report.counters);
        }
    }

    fn add(&mut self, interval: &Interval) {
        self.report.counters.clone_from(&interval.counters);
        self.report.latency.add(&interval.latency);
        self.answered = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker's side that records `frames` frames and answers if asked.
    fn turn(mailbox: &Mailbox, current: &mut Box<Interval>, total: &mut u64, frames: u64) {
        *total += frames;
        current.latency.record(Outcome::SynAck, 1000 + frames, frames);
        if mailbox.is_asked() {
            current.counters.outcomes[Outcome::SynAck as usize] = *total;
            mailbox.hand_over(current);
        }
    }

    #[test]
    fn no_lock_is_hidden_in_the_mailbox() {
        assert!(AtomicCell::<Option<Box<Interval>>>::is_lock_free());
    }

    #[test]
    fn intervals_add_up_to_the_counter_while_the_worker_runs() {
        let mailbox = Arc::new(Mailbox::default());
        let stop = Arc::new(AtomicBool::new(false));
        let worker = std::thread::spawn({
            let (mailbox, stop) = (Arc::clone(&mailbox), Arc::clone(&stop));
            move || {
                let (mut current, mut total) = (Box::<Interval>::default(), 0);
                while !stop.load(Ordering::Relaxed) {
                    let frames = total % 7 + 1;
                    turn(&mailbox, &mut current, &mut total, frames);
                }
                current.counters.outcomes[Outcome::SynAck as usize] = total;
                mailbox.finish(current);
                total
            }
        });
        let mut reporter = Reporter::new([(CoreId(3), mailbox)]);
        let mut before = 0;
        for _ in 0..50 {
            let [report] = &reporter.snapshot(Duration::from_secs(20))[..] else { panic!("one core") };
            assert!(report.fresh && report.core == CoreId(3));
            let count = report.counters.outcome(Outcome::SynAck);
            assert_eq!(report.latency.of(Outcome::SynAck).len(), count);
            assert!(count >= before);
            before = count;
        }
        stop.store(true, Ordering::Relaxed);
        let total = worker.join().expect("no panic");
        let [report] = &reporter.snapshot(Duration::from_secs(20))[..] else { panic!("one core") };
        assert!(report.fresh && report.counters.outcome(Outcome::SynAck) == total);
        assert_eq!(report.latency.of(Outcome::SynAck).len(), total);
        let [again] = &reporter.snapshot(Duration::ZERO)[..] else { panic!("one core") };
        assert!(again.fresh && again.latency.of(Outcome::SynAck).len() == total, "the end stays");
    }

    #[test]
    fn of_a_core_that_does_not_answer_the_live_counters_are_read() {
        let stats = Arc::<CoreStats>::default();
        stats.received(3, 180);
        let reporter = Reporter::new([(CoreId(0), Arc::default())]).watch([Arc::clone(&stats)]);
        let report = &mut { reporter }.snapshot(Duration::ZERO)[0];
        assert_eq!((report.fresh, report.counters.rx_frames), (false, 3));
    }

    #[test]
    fn a_late_answer_is_not_lost_and_not_taken_for_a_new_one() {
        let mailbox = Arc::new(Mailbox::default());
        let mut reporter = Reporter::new([(CoreId(0), Arc::clone(&mailbox))]);
        let (mut current, mut total) = (Box::<Interval>::default(), 0);
        assert!(!reporter.snapshot(Duration::ZERO)[0].fresh);
        assert!(!reporter.snapshot(Duration::ZERO)[0].fresh);
        turn(&mailbox, &mut current, &mut total, 5);
        assert!(!mailbox.is_asked());
        turn(&mailbox, &mut current, &mut total, 2);
        let late = reporter.snapshot(Duration::ZERO);
        assert!(!late[0].fresh, "asked before");
        assert_eq!(
            (late[0].counters.outcome(Outcome::SynAck), late[0].latency.of(Outcome::SynAck).len()),
            (5, 5)
        );
        turn(&mailbox, &mut current, &mut total, 1);
        let late = reporter.snapshot(Duration::ZERO);
        assert_eq!(
            (late[0].counters.outcome(Outcome::SynAck), late[0].latency.of(Outcome::SynAck).len()),
            (8, 8)
        );
    }
}
