//! Time as the worker sees it: nanoseconds that somebody hands in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use listener::types::Nanos;

/// A monotonic clock, read twice per burst.
pub trait Clock {
    /// The time now.
    fn now(&mut self) -> Nanos;
}

/// The machine's clock. All workers take the same start, since they leave each other time stamps.
#[derive(Clone, Copy, Debug)]
pub struct RealClock {
    start: Instant,
}

impl RealClock {
    /// Nanoseconds since `start`.
    pub const fn new(start: Instant) -> Self {
        Self { start }
    }
}

impl Clock for RealClock {
    #[inline]
    fn now(&mut self) -> Nanos {
        // 64 bits of nanoseconds last for 584 years.
        Nanos(self.start.elapsed().as_nanos() as u64)
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
