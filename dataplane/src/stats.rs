//! Per-core counters: one writer, any number of readers at any time, no lock and no atomic read-modify-write.
//!
//! # Law
//! Received frames = Σ outcomes + Σ drops, at the end of every turn. A reader who needs the law to hold exactly asks
//! for a report ([`crate::histogram::Reporter`]), whose counters were copied between two turns; one who reads
//! [`CoreStats`] itself may see a burst half counted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use listener::drop_reason::DropReason;
use listener::segment::Outcome;

use crate::io::Sent;
use crate::names::Name;

/// The one list of what a core counts beside outcomes, drops and the kernel's counters. `$with` is called with it: name,
/// unit, sentence. The atomics, their copies, the control protocol and every page that shows them are made from it.
macro_rules! core_counters {
    ($with:ident) => {
        $with! {
            rx_frames: "frames", "Frames received; always the sum of all outcomes and drops.";
            rx_bytes: "bytes", "Octets received, without FCS.";
            tx_frames: "frames", "Frames that a device took, those that no frame asked for included.";
            tx_bytes: "bytes", "Their octets, without FCS.";
            originated: "frames", "Frames that no frame asked for and a device took: retransmissions, FINs, gratuitous ARP.";
            originated_rejected: "frames", "Frames that no frame asked for and that the device's driver rejected (rte_eth_tx_prepare).";
            originated_lost: "segments", "Segments that no frame asked for and that had no device of this worker to go to.";
            originated_link_down: "frames", "Frames that no frame asked for and that were given up because the link of their device was down.";
            handed_over: "segments", "Segments of unknown flows that were given to the next worker, those that were taken over before included.";
            taken_over: "segments", "Segments of unknown flows that another worker gave to this one.";
            handoff_lost: "segments", "Segments taken over that were lost: no buffer for the answer, or no room at the next worker.";
            turns_busy: "turns", "Bursts received.";
            turns_idle: "turns", "Turns in which no device had a frame.";
            busy_ns: "nanoseconds", "Time spent in turns with frames; times the TSC's rate, the cycles. Not that of turns beyond a millisecond, see taken_ns.";
            idle_ns: "nanoseconds", "Time spent in turns without frames, asleep or not.";
            taken_ns: "nanoseconds", "Time of turns that took more than a millisecond, which no burst takes: the core was given to somebody else meanwhile, by the kernel or by what the machine runs on.";
        }
    };
}
pub(crate) use core_counters;

/// Longer takes no turn by itself: a full burst of each of a dozen devices that make a system call a frame stays below.
const TURN_NS_MAX: u64 = 1_000_000;

/// A counter with one writer.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    #[inline]
    fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! define {
    ($($name:ident: $unit:literal, $sentence:literal;)*) => {
        /// The list with its units and sentences.
        pub const CORE_COUNTERS: &[Name] =
            &[$(Name { name: stringify!($name), unit: $unit, sentence: $sentence },)*];

        /// What one core has counted since its start, for everybody to read. Aligned so that no other core's writes
        /// share a cache line with it.
        #[derive(Debug)]
        #[repr(align(128))]
        pub struct CoreStats {
            $($name: Counter,)*
            outcomes: [Counter; Outcome::ALL.len()],
            drops: [Counter; DropReason::COUNT],
            exhausted: AtomicBool,
        }

        impl Default for CoreStats {
            fn default() -> Self {
                Self {
                    $($name: Counter::default(),)*
                    outcomes: std::array::from_fn(|_| Counter::default()),
                    drops: std::array::from_fn(|_| Counter::default()),
                    exhausted: AtomicBool::new(false),
                }
            }
        }

        impl CoreStats {
            pub(crate) fn copy_to(&self, copy: &mut Counters) {
                $(copy.$name = self.$name.get();)*
                for (to, from) in copy.outcomes.iter_mut().zip(&self.outcomes) {
                    *to = from.get();
                }
                for (to, from) in copy.drops.iter_mut().zip(&self.drops) {
                    *to = from.get();
                }
            }
        }

        /// A copy of a core's counters, or the sum of several.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Counters {
            $(#[doc = $sentence] pub $name: u64,)*
            /// Frames by [`Outcome`].
            pub outcomes: [u64; Outcome::ALL.len()],
            /// Frames by [`DropReason`].
            pub drops: [u64; DropReason::COUNT],
        }

        impl Default for Counters {
            fn default() -> Self {
                Self { $($name: 0,)* outcomes: [0; Outcome::ALL.len()], drops: [0; DropReason::COUNT] }
            }
        }

        impl Counters {
            /// Adds another core's numbers.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                for (to, from) in self.outcomes.iter_mut().zip(&other.outcomes) {
                    *to += from;
                }
                for (to, from) in self.drops.iter_mut().zip(&other.drops) {
                    *to += from;
                }
            }
        }
    };
}
core_counters!(define);

impl CoreStats {
    /// A copy. Each number is one that the counter had; together they need not be of one moment.
    pub fn snapshot(&self) -> Counters {
        let mut copy = Counters::default();
        self.copy_to(&mut copy);
        copy
    }

    /// True once none of the worker's devices will ever bring a frame again: files that were replayed to their end.
    pub fn exhausted(&self) -> bool {
        self.exhausted.load(Relaxed)
    }

    #[inline]
    pub(crate) fn received(&self, frames: usize, bytes: usize) {
        self.rx_frames.add(frames as u64);
        self.rx_bytes.add(bytes as u64);
        self.turns_busy.add(1);
    }

    #[inline]
    pub(crate) fn idle(&self, exhausted: bool) {
        self.turns_idle.add(1);
        if exhausted {
            self.exhausted.store(true, Relaxed);
        }
    }

    #[inline]
    pub(crate) fn sent(&self, frames: usize, bytes: usize) {
        self.tx_frames.add(frames as u64);
        self.tx_bytes.add(bytes as u64);
    }

    #[inline]
    pub(crate) fn originated(&self, sent: Sent, bytes: usize) {
        self.originated.add(sent.taken() as u64);
        self.sent(sent.taken(), bytes);
        if sent.rejected != 0 {
            self.originated_rejected.add(u64::from(sent.rejected.count_ones()));
        }
    }

    /// A turn took `ns`.
    #[inline]
    pub(crate) fn spent(&self, busy: bool, ns: u64) {
        let time = match busy {
            _ if ns > TURN_NS_MAX => &self.taken_ns,
            true => &self.busy_ns,
            false => &self.idle_ns,
        };
        time.add(ns);
    }

    /// The worker slept for `ns`, or had offered its core to others.
    #[inline]
    pub(crate) fn slept(&self, ns: u64) {
        self.idle_ns.add(ns);
    }

    pub(crate) fn handed_over(&self) {
        self.handed_over.add(1);
    }

    pub(crate) fn taken_over(&self) {
        self.taken_over.add(1);
    }

    #[cold]
    pub(crate) fn handoff_lost(&self) {
        self.handoff_lost.add(1);
    }

    #[cold]
    pub(crate) fn originated_lost(&self) {
        self.originated_lost.add(1);
    }

    #[inline]
    pub(crate) fn originated_link_down(&self, frames: usize) {
        self.originated_link_down.add(frames as u64);
    }

    #[inline]
    pub(crate) fn outcome(&self, outcome: Outcome, frames: u64) {
        self.outcomes[outcome as usize].add(frames);
    }

    #[inline]
    pub(crate) fn dropped(&self, reason: DropReason, frames: u32) {
        self.drops[reason as usize].add(u64::from(frames));
    }
}

impl Counters {
    /// Frames with this outcome.
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Frames dropped for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Frames that were handled, answered or not.
    pub fn handled(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Frames that were dropped, for any reason.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_was_taken_from_the_worker_is_neither_busy_nor_idle() {
        let stats = CoreStats::default();
        for (busy, ns) in [(true, 40_000), (false, 100), (true, 4_000_000), (false, 5_000_000)] {
            stats.spent(busy, ns);
        }
        stats.slept(10_000_000);
        let Counters { busy_ns, idle_ns, taken_ns, .. } = stats.snapshot();
        assert_eq!((busy_ns, idle_ns, taken_ns), (40_000, 10_000_100, 9_000_000));
    }
}
