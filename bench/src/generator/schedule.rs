//! When flow `n` of a stream should leave: at a constant rate, after a ramp if there is one.

/// Nanoseconds in a second.
const SECOND: f64 = 1e9;

/// A rate over time, from time 0 on. Rates are per nanosecond inside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    from: f64,
    to: f64,
    /// Length of the ramp in nanoseconds.
    ramp: f64,
    /// Flows that the ramp starts.
    ramped: f64,
    period: f64,
    /// Flows up to the end.
    total: u64,
}

impl Schedule {
    /// `rate` flows a second for `seconds`, of which the first `ramp` climb evenly from `from` to it.
    pub fn new(from: f64, rate: f64, ramp: f64, seconds: f64) -> Self {
        let ramp = ramp.min(seconds) * SECOND;
        let (from, to) = (from / SECOND, rate / SECOND);
        let ramped = (from + to) / 2.0 * ramp;
        let mut schedule = Self { from, to, ramp, ramped, period: to.recip(), total: 0 };
        schedule.total = schedule.due((seconds * SECOND) as u64);
        schedule
    }

    /// Flows that should have left `ns` after the start: flow 0 leaves at once.
    pub fn due(&self, ns: u64) -> u64 {
        let t = ns as f64;
        let flows = if t < self.ramp {
            (self.from + (self.to - self.from) / (2.0 * self.ramp) * t) * t
        } else {
            self.ramped + (t - self.ramp) * self.to
        };
        flows.ceil().max(0.0) as u64
    }

    /// Flows in all.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Nanoseconds from the start to the time of flow `flow`.
    #[inline]
    pub fn at(&self, flow: u64) -> u64 {
        let n = flow as f64;
        if n >= self.ramped { (self.ramp + (n - self.ramped) * self.period) as u64 } else { self.in_ramp(n) }
    }

    #[cold]
    fn in_ramp(&self, n: f64) -> u64 {
        // from·t + (to-from)/(2·ramp)·t² = n, in the form that does not cancel.
        let a = (self.to - self.from) / (2.0 * self.ramp);
        (2.0 * n / (self.from + (self.from * self.from + 4.0 * a * n).max(0.0).sqrt())) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_rate_is_even() {
        let schedule = Schedule::new(0.0, 1e6, 0.0, 2.0);
        assert_eq!(schedule.total(), 2_000_000);
        assert_eq!((schedule.at(0), schedule.at(1), schedule.at(1_999_999)), (0, 1000, 1_999_999_000));
        assert_eq!((schedule.due(0), schedule.due(1), schedule.due(1000), schedule.due(1001)), (0, 1, 1, 2));
    }

    #[test]
    fn a_ramp_climbs_evenly() {
        let schedule = Schedule::new(100.0, 300.0, 2.0, 4.0);
        assert_eq!(schedule.due(1_000_000_000), 150, "100 to 200 in the first second");
        assert_eq!((schedule.due(2_000_000_000), schedule.total()), (400, 1000));
        for flow in 1..schedule.total() {
            let at = schedule.at(flow);
            assert!(at > schedule.at(flow - 1));
            assert!(schedule.due(at + 2) > flow && schedule.due(at - 2) <= flow, "flow {flow} at {at}");
        }
        assert_eq!(Schedule::new(0.0, 1000.0, 1.0, 1.0).total(), 500);
    }
}
