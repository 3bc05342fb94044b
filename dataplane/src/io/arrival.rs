//! From a device's time stamps to how long a frame has waited.
//!
//! # Clocks
//! A stamp is a number of ticks; where they begin and how fast they go is the driver's affair (rte_mbuf_dyn.h). So the control
//! thread reads the device's clock and the machine's side by side ([`Calibrator::tick`]) and leaves their relation in an
//! [`ArrivalClock`]; the worker computes with that and reads the machine's clock once a burst.
//!
//! # Protocol
//! Relations go round in `SLOTS` slots. The one writer fills the next slot and then stores its number (Release). A reader
//! loads the number (Acquire), reads the slot, and looks at the number again: unless it was away for `SLOTS` - 1
//! calibrations, the slot was not touched meanwhile. If it was, this burst has no usable stamps. Nobody waits or tries again.
//!
//! # Limits
//! As exact as the two clocks were read together: the half of one reading's duration, a microsecond or less for a clock in
//! the machine, some for one behind PCI; and for net_pcap the microsecond that is its unit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use crate::histogram::LATENCY_NS_MAX;

const SLOTS: usize = 4;
/// A reading that took longer, in ns, says nothing: the thread was put aside in the midst of it. So clocks may differ by half
/// of that, and a frame may seem to have come after it was received.
const READING_NS_MAX: u64 = 1_000_000;
/// Readings that the rate is taken over: it follows the temperature, and is exact to some parts in 10 million.
const READINGS: usize = 16;
/// How often the clocks are read side by side, at first and later.
const EVERY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// Of several readings in a row the quickest one counts.
const TRIES: usize = 3;
/// How often a first reading is tried on a machine that is too busy for one; it is tried again at every tick.
const FIRST_TRIES: usize = 20;
/// Two oscillators differ by a tenth of this; a clock that is a thousandth off has been set.
const RATE_ERROR_MAX: f64 = 1e-3;

/// At `ticks` of the device's clock it was `ns` by the machine's.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Relation {
    ticks: u64,
    ns: u64,
    ns_per_tick: f64,
}

#[derive(Debug, Default)]
struct Slot {
    ticks: AtomicU64,
    ns: AtomicU64,
    /// The bits of an f64.
    ns_per_tick: AtomicU64,
}

/// What the workers of a port know of its device's clock.
#[derive(Debug)]
pub struct ArrivalClock {
    /// Where the machine's clock is counted from.
    start: Instant,
    slots: [Slot; SLOTS],
    /// Relations that there have been; the newest is in the slot before. 0: none yet.
    written: AtomicU64,
    unusable: AtomicU64,
}

impl ArrivalClock {
    fn new(start: Instant) -> Self {
        let slots = std::array::from_fn(|_| Slot::default());
        Self { start, slots, written: AtomicU64::new(0), unusable: AtomicU64::new(0) }
    }

    /// Writes how long frames with these `stamps` have waited until now, in ns; 0 where there is no stamp, or one that does
    /// not fit the clock, and counts those.
    #[inline]
    pub fn waited(&self, stamps: impl Iterator<Item = Option<u64>>, waited: &mut [u64]) {
        let (relation, now) = (self.relation(), self.now());
        let mut unusable = 0;
        for (stamp, waited) in stamps.zip(waited) {
            let age = relation.zip(stamp).map(|(relation, stamp)| relation.age(stamp, now));
            *waited = match age {
                Some(age) if (-(READING_NS_MAX as f64)..=LATENCY_NS_MAX as f64).contains(&age) => {
                    age.max(0.0) as u64
                }
                _ => {
                    unusable += 1;
                    0
                }
            };
        }
        if unusable != 0 {
            self.unusable.fetch_add(unusable, Ordering::Relaxed);
        }
    }

    /// Frames without a usable stamp so far.
    pub fn unusable(&self) -> u64 {
        self.unusable.load(Ordering::Relaxed)
    }

    /// Ticks a second, once they have been measured.
    pub fn hz(&self) -> Option<f64> {
        self.relation().map(|relation| 1e9 / relation.ns_per_tick)
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    #[inline]
    fn relation(&self) -> Option<Relation> {
        let written = self.written.load(Ordering::Acquire);
        let slot = &self.slots[written.checked_sub(1)? as usize % SLOTS];
        let relation = Relation {
            ticks: slot.ticks.load(Ordering::Relaxed),
            ns: slot.ns.load(Ordering::Relaxed),
            ns_per_tick: f64::from_bits(slot.ns_per_tick.load(Ordering::Relaxed)),
        };
        // Orders the loads of the slot before this one: if the slot was overwritten, `written` has moved on as far.
        fence(Ordering::Acquire);
        let away = self.written.load(Ordering::Relaxed) - written;
        (away < SLOTS as u64 - 1 && relation.ns_per_tick > 0.0).then_some(relation)
    }

    /// For the one writer.
    fn publish(&self, relation: Relation) {
        let written = self.written.load(Ordering::Relaxed);
        let slot = &self.slots[written as usize % SLOTS];
        // Whoever meets the new words meets the last number too.
        fence(Ordering::Release);
        slot.ticks.store(relation.ticks, Ordering::Relaxed);
        slot.ns.store(relation.ns, Ordering::Relaxed);
        slot.ns_per_tick.store(relation.ns_per_tick.to_bits(), Ordering::Relaxed);
        self.written.store(written + 1, Ordering::Release);
    }
}

impl Relation {
    /// How long ago `stamp` was at `now`, in ns; negative if it is still to come.
    #[inline]
    fn age(&self, stamp: u64, now: u64) -> f64 {
        // Differences of counters that may wrap; small ones, which an f64 holds exactly.
        let ticks = stamp.wrapping_sub(self.ticks).cast_signed() as f64;
        now.wrapping_sub(self.ns).cast_signed() as f64 - ticks * self.ns_per_tick
    }
}

/// The control thread's side of an [`ArrivalClock`].
#[derive(Debug)]
pub struct Calibrator {
    clock: Arc<ArrivalClock>,
    /// What a tick is by the driver's own account, where it has one.
    known_ns_per_tick: Option<f64>,
    readings: VecDeque<(u64, u64)>,
    due: Instant,
}

impl Calibrator {
    /// For a device whose clock `read` reads, now and at every tick. Of one whose tick is known, stamps can be used at once; of
    /// others from the second reading on, for which this waits.
    pub fn new(known_ns_per_tick: Option<f64>, mut read: impl FnMut() -> Option<u64>) -> Self {
        let start = Instant::now();
        let clock = Arc::new(ArrivalClock::new(start));
        let mut calibrator =
            Self { clock, known_ns_per_tick, readings: VecDeque::new(), due: start + EVERY[0] };
        let wanted = if known_ns_per_tick.is_some() { 1 } else { 2 };
        for _ in 0..FIRST_TRIES {
            if calibrator.readings.len() == wanted {
                break;
            }
            if !calibrator.readings.is_empty() {
                std::thread::sleep(EVERY[0]);
            }
            if let Some(reading) = calibrator.reading(&mut read) {
                calibrator.learn(reading);
            }
        }
        calibrator
    }

    /// What the workers of the port get.
    pub fn clock(&self) -> Arc<ArrivalClock> {
        Arc::clone(&self.clock)
    }

    /// Reads both clocks if it is time.
    pub fn tick(&mut self, now: Instant, read: impl FnMut() -> Option<u64>) {
        if now < self.due {
            return;
        }
        if let Some(reading) = self.reading(read) {
            self.learn(reading);
        }
        self.due = now + EVERY[usize::from(self.readings.len() == READINGS)];
    }

    /// Both clocks at once: ticks, and the machine's ns in the middle of the quickest reading.
    fn reading(&self, mut read: impl FnMut() -> Option<u64>) -> Option<(u64, u64)> {
        let (mut quickest, mut best) = (READING_NS_MAX, None);
        for _ in 0..TRIES {
            let before = self.clock.now();
            let ticks = read()?;
            let took = self.clock.now() - before;
            if took < quickest {
                (quickest, best) = (took, Some((ticks, before + took / 2)));
            }
        }
        best
    }

    fn learn(&mut self, (ticks, ns): (u64, u64)) {
        let rate = |(first_ticks, first_ns): (u64, u64)| {
            (ns - first_ns) as f64 / ticks.wrapping_sub(first_ticks).cast_signed() as f64
        };
        let last = self.clock.relation();
        if let (Some(before), Some(last)) = (self.readings.back().copied(), last) {
            // A clock that was set, and maybe back, is a new one.
            if (rate(before) / last.ns_per_tick - 1.0).abs() > RATE_ERROR_MAX {
                self.readings.clear();
            }
        }
        let measured = self.readings.front().map(|first| rate(*first));
        let set = last.filter(|_| self.readings.is_empty()).map(|last| last.ns_per_tick);
        if self.readings.len() == READINGS {
            self.readings.pop_front();
        }
        self.readings.push_back((ticks, ns));
        let rate = measured.or(self.known_ns_per_tick).or(set);
        if let Some(ns_per_tick) = rate.filter(|rate| rate.is_finite() && *rate > 0.0) {
            self.clock.publish(Relation { ticks, ns, ns_per_tick });
        }
    }
}

#[cfg(test)]
mod tests;
