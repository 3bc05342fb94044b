//! Whether every worker makes progress: what `/healthz` says, and what systemd's watchdog is fed by.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::stats::CoreStats;

/// How long a worker may stand still: far beyond what a scheduler takes a core away for, and short for an operator.
const PATIENCE: Duration = Duration::from_secs(5);

/// The workers' turns, seen from the control thread.
#[derive(Debug)]
pub(super) struct Health {
    workers: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    stats: Arc<CoreStats>,
    turns: u64,
    /// When the turns were last seen to move.
    moved: Instant,
}

impl Health {
    pub(super) fn new(stats: &[Arc<CoreStats>], now: Instant) -> Self {
        let seen = |stats: &Arc<CoreStats>| Seen { stats: Arc::clone(stats), turns: 0, moved: now };
        Self { workers: stats.iter().map(seen).collect() }
    }

    /// Looks at all workers; an error names those that have stood still for [`PATIENCE`].
    pub(super) fn check(&mut self, now: Instant) -> Result<(), String> {
        let mut stuck = Vec::new();
        for (number, seen) in self.workers.iter_mut().enumerate() {
            let counters = seen.stats.snapshot();
            let turns = counters.turns_busy.wrapping_add(counters.turns_idle);
            if turns != seen.turns {
                (seen.turns, seen.moved) = (turns, now);
            } else if now.duration_since(seen.moved) >= PATIENCE {
                stuck.push(number.to_string());
            }
        }
        if stuck.is_empty() {
            return Ok(());
        }
        Err(format!("worker {} has made no turn for {} s", stuck.join(", "), PATIENCE.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stands_still_is_named() {
        let stats: Vec<Arc<CoreStats>> = (0..2).map(|_| Arc::default()).collect();
        let begin = Instant::now();
        let mut health = Health::new(&stats, begin);
        for second in 1..20 {
            stats[0].idle(false);
            if second < 10 {
                stats[1].received(1, 60);
            }
            let said = health.check(begin + Duration::from_secs(second));
            let stuck = Err("worker 1 has made no turn for 5 s".to_owned());
            assert_eq!(said, if second < 14 { Ok(()) } else { stuck }, "second {second}");
        }
    }
}
