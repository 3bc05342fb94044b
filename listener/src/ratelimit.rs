//! Limits on what a core says without being asked twice.

use crate::types::Nanos;

/// A limit on answers without a connection: so many a second, and so many at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TokenBucket {
    /// Nanoseconds per token; 0 = no limit.
    period_ns: u64,
    depth_ns: u64,
    /// The time up to which tokens were used.
    used: u64,
}

impl TokenBucket {
    pub fn new(per_second: u32, at_once: u32) -> Self {
        let period_ns = 1_000_000_000u64.checked_div(u64::from(per_second)).unwrap_or(0);
        Self { period_ns, depth_ns: period_ns * u64::from(at_once.max(1)), used: 0 }
    }

    /// Takes over the rate of `other`; what was used stays used.
    pub fn set(&mut self, other: Self) {
        (self.period_ns, self.depth_ns) = (other.period_ns, other.depth_ns);
    }

    /// True if there is no limit.
    #[inline]
    pub fn is_off(&self) -> bool {
        self.period_ns == 0
    }

    #[inline]
    pub fn take(&mut self, now: Nanos) -> bool {
        if self.period_ns == 0 {
            return true;
        }
        let from = self.used.max(now.0.saturating_sub(self.depth_ns));
        if from + self.period_ns > now.0 {
            return false;
        }
        self.used = from + self.period_ns;
        true
    }
}

/// A limit per second of the clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerSecond {
    second: u64,
    count: u32,
}

impl PerSecond {
    #[inline]
    pub fn take(&mut self, limit: u32, now: Nanos) -> bool {
        let second = now.0 / 1_000_000_000;
        if second != self.second {
            *self = Self { second, count: 0 };
        }
        if limit != u32::MAX && self.count >= limit {
            return false;
        }
        self.count = self.count.saturating_add(1);
        true
    }
}
