//! Receive queues that get nothing while others of their port are busy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a queue may be without a frame.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// So many frames of a port in this time are not all of one flow by chance, or are, and that is worth knowing.
const BUSY: u64 = 10_000;

/// The queues of one port.
#[derive(Debug)]
pub(super) struct Queues {
    due: Instant,
    before: BTreeMap<u16, u64>,
    /// Those that were told of, until they get a frame.
    silent: BTreeSet<u16>,
}

impl Queues {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now + WINDOW, before: BTreeMap::new(), silent: BTreeSet::new() }
    }

    /// True if it is time to look.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// Looks at a driver's `counters`; says which queues are silent that were not before.
    pub(super) fn look<'a>(
        &mut self,
        counters: impl IntoIterator<Item = (&'a str, u64)>,
        now: Instant,
    ) -> Option<String> {
        self.due = now + WINDOW;
        let mut frames = BTreeMap::<u16, u64>::new();
        for (queue, count) in counters.into_iter().filter_map(|(name, count)| Some((queue_of(name)?, count)))
        {
            // A driver may count twice, under its own name and under DPDK's.
            let sum = frames.entry(queue).or_default();
            *sum = count.max(*sum);
        }
        let first = self.before.is_empty();
        let before = std::mem::replace(&mut self.before, frames);
        if first || self.before.len() < 2 {
            return None;
        }
        let grown = |(queue, now): (&u16, &u64)| {
            (*queue, now.saturating_sub(before.get(queue).copied().unwrap_or_default()))
        };
        let grown: BTreeMap<u16, u64> = self.before.iter().map(grown).collect();
        let total: u64 = grown.values().sum();
        if total < BUSY {
            return None;
        }
        let silent: BTreeSet<u16> =
            grown.into_iter().filter(|(_, count)| *count == 0).map(|(q, _)| q).collect();
        let fresh: Vec<String> = silent.difference(&self.silent).map(u16::to_string).collect();
        self.silent = silent;
        (!fresh.is_empty()).then(|| {
            format!(
                "queue {} got nothing in {} s while others got {total} frames: it is one flow, or the device does not \
                 spread flows over its queues (the start says how, under rss)",
                fresh.join(", "),
                WINDOW.as_secs()
            )
        })
    }
}

/// The queue whose received frames a counter of this name counts: `rx_q3_packets`, `rx_q3_good_packets`.
fn queue_of(name: &str) -> Option<u16> {
    let rest = name.strip_prefix("rx_q")?;
    let (queue, what) = rest.split_once('_')?;
    matches!(what, "packets" | "good_packets").then(|| queue.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_queue_is_told_of_once() {
        let begin = Instant::now();
        let mut queues = Queues::new(begin);
        assert!(!queues.is_due(begin) && queues.is_due(begin + WINDOW));
        let mut look = |first: u64, second: u64| {
            let counters =
                [("rx_q0_packets", first), ("rx_q1_packets", second), ("rx_q1_errors", 5), ("x", 1)];
            queues.look(counters, begin)
        };
        assert_eq!(look(0, 0), None);
        assert_eq!(look(BUSY - 1, 0), None, "too few to tell");
        let told = look(3 * BUSY, 0).expect("silent");
        assert!(told.starts_with("queue 1 got nothing in 10 s while others got 20001 frames"), "{told}");
        assert_eq!(look(5 * BUSY, 0), None, "told already");
        assert_eq!(look(6 * BUSY, 7), None);
        assert!(look(8 * BUSY, 7).is_some(), "silent again");
        assert_eq!(
            (queue_of("rx_q12_good_packets"), queue_of("rx_q1_bytes"), queue_of("tx_q0_packets")),
            (Some(12), None, None)
        );
    }
}
