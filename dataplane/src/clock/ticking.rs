//! A clock that counts ticks between looks at another clock.

use std::marker::PhantomData;

use listener::types::Nanos;

use super::Clock;

/// Nanoseconds between two looks.
const PERIOD_NS: u64 = 10_000_000;
/// Binary digits of a tick's nanoseconds behind the point.
const RATE_BITS: u32 = 32;

/// A counter that goes at a steady rate, such as the CPU's time stamp counter.
pub trait Ticks {
    /// What it shows now.
    fn now() -> u64;
}

/// As `R`, for a fraction of what that costs to read: the C library's clock waits for every instruction before it, which a
/// worker that reads it in the middle of a burst feels.
///
/// The counter is compared with the real clock every 10 ms, and its rate chosen such that both meet at the next look: what
/// is off at one look is gone by the next, and this clock never runs backwards. Until the rate is known, and where the
/// counter is not to be trusted, the real clock is read.
#[derive(Debug)]
pub struct Ticking<T, R> {
    real: R,
    steady: bool,
    /// Ticks, and the real time then.
    looked: (u64, u64),
    /// Ticks, and the time that is counted on from there.
    from: (u64, u64),
    /// Nanoseconds a tick, fixed point.
    rate: u64,
    /// Ticks after `from` at which the next look is due; 0 while there is no rate.
    look_after: u64,
    ticks: PhantomData<fn() -> T>,
}

impl<T, R: Copy> Copy for Ticking<T, R> {}

impl<T, R: Copy> Clone for Ticking<T, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Ticks, R: Clock> Ticking<T, R> {
    /// As `real`, by ticks if they are `steady`.
    pub fn new(mut real: R, steady: bool) -> Self {
        let looked = (T::now(), real.now().0);
        Self { real, steady, looked, from: looked, rate: 0, look_after: 0, ticks: PhantomData }
    }

    /// The time `ticks` after `from`.
    #[inline]
    fn after(&self, ticks: u64) -> u64 {
        self.from.1 + (ticks.wrapping_mul(self.rate) >> RATE_BITS)
    }

    /// Compares with the real clock.
    #[cold]
    fn look(&mut self) -> Nanos {
        let (real, ticks) = (self.real.now().0, T::now());
        // Not below what was said before. A counter that was set back has told nothing since.
        let since = ticks.wrapping_sub(self.from.0);
        let since = if since.cast_signed() < 0 { 0 } else { since.min(self.look_after) };
        let now = real.max(self.after(since));
        self.from = (ticks, now);
        self.look_after = 0;
        let (elapsed_ns, elapsed) = (real.saturating_sub(self.looked.1), ticks.wrapping_sub(self.looked.0));
        if !self.steady || elapsed_ns < PERIOD_NS / 2 {
            return Nanos(now);
        }
        self.looked = (ticks, real);
        let period = u128::from(elapsed) * u128::from(PERIOD_NS) / u128::from(elapsed_ns);
        // Less is no counter to tell nanoseconds by; more, and a product would not fit.
        if (1000..1 << 32).contains(&period) {
            self.look_after = period as u64;
            self.rate = ((real + PERIOD_NS).saturating_sub(now) << RATE_BITS) / self.look_after;
        }
        Nanos(now)
    }
}

impl<T: Ticks, R: Clock> Clock for Ticking<T, R> {
    #[inline]
    fn now(&mut self) -> Nanos {
        let ticks = T::now().wrapping_sub(self.from.0);
        if ticks < self.look_after { Nanos(self.after(ticks)) } else { self.look() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::VirtualClock;
    use proptest::prelude::*;
    use std::cell::Cell;

    thread_local! {
        static COUNTER: Cell<u64> = const { Cell::new(0) };
    }

    struct Counter;

    impl Ticks for Counter {
        fn now() -> u64 {
            COUNTER.get()
        }
    }

    fn go_on(real: &VirtualClock, ns: u64, ticks: u64) {
        real.advance(ns);
        COUNTER.set(COUNTER.get().wrapping_add(ticks));
    }

    proptest! {
        /// Whatever the counter's rate, and when it wavers: never backwards, never far from the real clock.
        #[test]
        fn ticks_tell_the_time(
            khz in 100_000u64..6_000_000,
            start: u64,
            steps in prop::collection::vec((1u64..30_000_000, 0u64..20), 1..400),
        ) {
            COUNTER.set(start);
            let mut real = VirtualClock::default();
            real.advance(1 << 60);
            let mut clock = Ticking::<Counter, _>::new(real.clone(), true);
            let mut before = clock.now();
            for (ns, ppm) in steps {
                go_on(&real, ns, ns * khz / 1_000_000 * (1_000_000 + ppm) / 1_000_000);
                let (now, is) = (clock.now(), real.now());
                prop_assert!(now >= before, "{now:?} after {before:?}");
                let off = now.0.abs_diff(is.0);
                prop_assert!(off < 3_000, "{off} ns from the real clock");
                before = now;
            }
        }
    }

    #[test]
    fn between_looks_the_real_clock_is_left_alone() {
        let mut real = VirtualClock::default();
        let mut clock = Ticking::<Counter, _>::new(real.clone(), true);
        go_on(&real, PERIOD_NS, 2 * PERIOD_NS);
        assert_eq!(clock.now(), real.now());
        go_on(&real, 0, 2_000);
        assert_eq!(clock.now().0, real.now().0 + 1_000);
    }

    #[test]
    fn a_counter_that_is_set_back_tells_nothing() {
        let mut real = VirtualClock::default();
        let mut clock = Ticking::<Counter, _>::new(real.clone(), true);
        go_on(&real, PERIOD_NS, 2 * PERIOD_NS);
        clock.now();
        go_on(&real, 0, 0u64.wrapping_sub(1));
        assert_eq!(clock.now(), real.now());
        go_on(&real, PERIOD_NS, 2 * PERIOD_NS);
        assert!(clock.now().0.abs_diff(real.now().0) < 100);
    }

    #[test]
    fn without_steady_ticks_the_real_clock_is_read() {
        let mut real = VirtualClock::default();
        let mut clock = Ticking::<Counter, _>::new(real.clone(), false);
        for step in 0..100 {
            go_on(&real, 1_000_000, step * 1_000_000_000);
            assert_eq!(clock.now(), real.now());
        }
    }

    /// A counter that changes its rate, or stops, is found out.
    #[test]
    fn a_wrong_rate_is_corrected() {
        let mut real = VirtualClock::default();
        let mut clock = Ticking::<Counter, _>::new(real.clone(), true);
        let mut before = clock.now();
        for ticks in [260_000, 520_000, 100_000, 2_600_000] {
            for _ in 0..2000 {
                go_on(&real, 100_000, ticks);
                let now = clock.now();
                assert!(now >= before);
                before = now;
            }
            let off = clock.now().0.abs_diff(real.now().0);
            assert!(off < 100_000, "{off} ns at {ticks} ticks");
        }
    }
}
