//! Time as the worker sees it: nanoseconds that somebody hands in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use listener::types::Nanos;

mod ticking;

pub use ticking::{Ticking, Ticks};

/// A monotonic clock, read twice per burst.
pub trait Clock {
    /// The time now.
    fn now(&mut self) -> Nanos;
}

/// The machine's clock: Unix time when it begins, and steady from there on, whatever becomes of the date. So the minutes of
/// SYN cookies are the same on every machine, and after a restart; and timestamps do not fall back.
///
/// All workers take copies of one, since they leave each other time stamps.
#[derive(Clone, Copy, Debug)]
pub struct RealClock {
    start: Instant,
    /// Unix time at `start`, in ns: 64 bits last until the year 2554.
    unix_ns: u64,
}

impl RealClock {
    /// Nanoseconds since `start`: for what needs no date.
    pub const fn new(start: Instant) -> Self {
        Self { start, unix_ns: 0 }
    }

    /// One that begins now, at the date.
    pub fn begin() -> Self {
        // A date before 1970 is no date; such a machine counts from its start.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), unix_ns: unix.as_nanos() as u64 }
    }
}

impl Clock for RealClock {
    #[inline]
    fn now(&mut self) -> Nanos {
        Nanos(self.unix_ns + self.start.elapsed().as_nanos() as u64)
    }
}

/// A clock that goes when it is told to, shared by its clones.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock {
    now: Arc<AtomicU64>,
}

impl VirtualClock {
    /// Moves the clock on by `ns`.
    pub fn advance(&self, ns: u64) {
        self.now.fetch_add(ns, Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&mut self) -> Nanos {
        Nanos(self.now.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_clock_goes_on_from_the_date() {
        let unix = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
        let before = unix();
        let mut clock = RealClock::begin();
        let mut copy = clock;
        let (first, second) = (clock.now(), copy.now());
        assert!(before <= first.0 && first <= second, "{before} {first:?} {second:?}");
        assert!(second.0 <= unix() + 1_000_000, "the date does not run backwards by a millisecond here");
    }
}
