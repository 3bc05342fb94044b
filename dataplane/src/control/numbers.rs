//! Asking the workers for their numbers without waiting for them: a question is asked in one round of the control thread
//! and answered in a later one, so a worker that stands still holds up nobody else.

use std::collections::BTreeMap;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::histogram::SharedReporter;

/// How long workers may take to hand their numbers over; a turn takes microseconds, a preempted one milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

/// The questions of all askers. One is under way at a time; who asks meanwhile waits for the next, because workers may have
/// answered this one before.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Questions that were asked.
    asked: u64,
    /// Questions that are over.
    over: u64,
    /// When the one was asked that is under way.
    since: Option<Instant>,
    /// By asker, the question that is awaited.
    awaited: BTreeMap<u64, u64>,
}

impl Numbers {
    /// Ready once all workers were asked after `asker`'s first call, and have answered or are late. To be called again every
    /// round until then.
    pub fn poll(&mut self, reporter: &SharedReporter, asker: u64) -> Poll<()> {
        let awaited = *self.awaited.entry(asker).or_insert(self.asked + 1);
        self.turn(reporter);
        if self.over < awaited {
            return Poll::Pending;
        }
        self.awaited.remove(&asker);
        Poll::Ready(())
    }

    /// `asker` has left.
    pub fn gone(&mut self, asker: u64) {
        self.awaited.remove(&asker);
    }

    fn turn(&mut self, reporter: &SharedReporter) {
        let mut reporter = reporter.lock();
        if let Some(since) = self.since {
            if reporter.collect() > 0 && since.elapsed() < PATIENCE {
                return;
            }
            reporter.settle();
            (self.over, self.since) = (self.asked, None);
        }
        if self.awaited.values().any(|awaited| *awaited > self.asked) {
            reporter.ask();
            self.asked += 1;
            self.since = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use listener::types::CoreId;

    use super::*;
    use crate::histogram::{Interval, Mailbox, Reporter};

    #[test]
    fn who_asks_later_gets_later_numbers() {
        let mailbox = Arc::<Mailbox>::default();
        let reporter: SharedReporter = Reporter::new([(CoreId(0), Arc::clone(&mailbox))]).into();
        let (mut numbers, mut interval) = (Numbers::default(), Box::<Interval>::default());
        let mut worker = |turns: u64| {
            interval.counters.turns_busy = turns;
            assert!(mailbox.is_asked());
            mailbox.hand_over(&mut interval);
        };
        let turns = || reporter.lock().reports()[0].counters.turns_busy;
        assert_eq!(numbers.poll(&reporter, 1), Poll::Pending);
        worker(7);
        // It came after the worker answered.
        assert_eq!(numbers.poll(&reporter, 2), Poll::Pending);
        assert_eq!((numbers.poll(&reporter, 1), turns()), (Poll::Ready(()), 7));
        assert_eq!(numbers.poll(&reporter, 2), Poll::Pending);
        worker(9);
        assert_eq!((numbers.poll(&reporter, 2), turns()), (Poll::Ready(()), 9));
        assert!(numbers.awaited.is_empty() && reporter.lock().reports()[0].fresh);
    }

    #[test]
    fn a_worker_that_stands_still_is_late_and_holds_up_nobody_for_ever() {
        let reporter: SharedReporter = Reporter::new([(CoreId(0), Arc::default())]).into();
        let mut numbers = Numbers::default();
        assert_eq!(numbers.poll(&reporter, 3), Poll::Pending);
        assert_eq!(numbers.poll(&reporter, 4), Poll::Pending);
        numbers.gone(4);
        let begun = Instant::now();
        while numbers.poll(&reporter, 3).is_pending() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it is waited for without end");
            std::thread::yield_now();
        }
        assert!(!reporter.lock().reports()[0].fresh);
        assert!(numbers.awaited.is_empty());
    }
}
