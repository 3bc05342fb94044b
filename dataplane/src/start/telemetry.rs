//! Our numbers on DPDK's telemetry socket, by the names of [`crate::names`]: `/hearken/drops` for all cores, `/hearken/drops,1`
//! for worker 1. And how busy the workers are, for the commands that DPDK has for that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use dpdk::{DpdkError, Eal, LcoreId, LcoreUsage};
use listener::Stack;
use listener::drop_reason::DropReason;
use listener::segment::Outcome;
use listener::types::CoreId;

use crate::control::numbers;
use crate::control::proto::{self, OutcomeLatency};
use crate::control::service::{Desk, Devices, latency_of};
use crate::histogram::SharedReporter;
use crate::stats::{CoreStats, Counters};

type Numbers = Vec<(String, u64)>;
/// A command below `/hearken/`, its help, and what of a core's counters it shows.
type Group = (&'static str, &'static str, fn(&Counters) -> Numbers);

/// Which worker has which lcore.
#[derive(Clone, Debug, Default)]
pub(super) struct Lcores(Arc<Mutex<BTreeMap<LcoreId, usize>>>);

impl Lcores {
    /// The worker with this place runs on this lcore.
    pub(super) fn add(&self, lcore: LcoreId, worker: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(lcore, worker);
    }

    fn worker(&self, lcore: LcoreId) -> Option<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&lcore).copied()
    }
}

/// Registers the commands. They read the workers' counters as they are, on a thread of DPDK's, and ask nobody.
///
/// # Errors
/// What DPDK refuses.
pub(super) fn register(
    eal: &Eal,
    stats: &[Arc<CoreStats>],
    desk: &Desk<Box<dyn Devices>>,
    lcores: Lcores,
) -> Result<(), DpdkError> {
    report_usage(eal, stats.to_vec(), lcores);
    let groups: [Group; 3] = [
        ("counters", "Frames, bytes and turns", |counters| {
            proto::CoreStats::of(counters).plain().map(|(name, count)| (name.to_owned(), count)).to_vec()
        }),
        ("outcomes", "Frames that were answered or handled, by outcome", |counters| {
            Outcome::ALL.map(|outcome| (outcome.name().to_owned(), counters.outcome(outcome))).to_vec()
        }),
        ("drops", "Frames that got no answer, by reason", |counters| {
            let all = DropReason::ALL.iter();
            all.map(|reason| (reason.name().to_owned(), counters.drops(*reason))).collect()
        }),
    ];
    for (group, about, numbers) in groups {
        let stats = stats.to_vec();
        let help = format!("{about}. Parameters: none for all cores, or a worker's number");
        eal.telemetry_command(&format!("/hearken/{group}"), &help, move |params| {
            Some(numbers(&chosen(&stats, params)?))
        })?;
    }
    register_latency(eal, &desk.reporter)?;
    // The commands outlive the run, and must not keep its memory.
    let stack: Weak<Stack> = Arc::downgrade(&desk.stack);
    let help =
        "The kernel's counters by the kernel's names. Parameters: none for all cores, or a worker's number";
    eal.telemetry_command("/hearken/snmp", help, move |params| {
        let stack = stack.upgrade()?;
        let counters = match params {
            "" => stack.snmp(),
            number => stack.snmp_of(CoreId(number.parse().ok()?)),
        };
        let numbers = counters.into_iter().map(|(name, count)| (name.to_owned(), count));
        Some(numbers.collect()).filter(|numbers: &Numbers| !numbers.is_empty())
    })
}

/// What `hearken latency` shows, by outcome. It asks the workers, as that does.
fn register_latency(eal: &Eal, reporter: &SharedReporter) -> Result<(), DpdkError> {
    let ask = reporter.weak();
    let help = "Latencies by outcome, in ns. Parameters: none for all cores, or a worker's number";
    eal.telemetry_command("/hearken/latency", help, move |params| {
        let latency = latency_of(&ask(numbers::PATIENCE)?);
        let outcomes = match params {
            "" => latency.total,
            number => latency.cores.into_iter().nth(number.parse().ok()?)?.outcomes,
        };
        Some(outcomes.iter().flat_map(numbers).collect())
    })
}

fn numbers(row: &OutcomeLatency) -> [(String, u64); 6] {
    let OutcomeLatency { outcome, count, p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns, .. } = row;
    [
        ("count", count),
        ("p50_ns", p50_ns),
        ("p90_ns", p90_ns),
        ("p99_ns", p99_ns),
        ("p99_9_ns", p99_9_ns),
        ("max_ns", max_ns),
    ]
    .map(|(name, number)| (format!("{outcome}_{name}"), *number))
}

/// The counters of the worker that `params` names, or the sum of all.
fn chosen(stats: &[Arc<CoreStats>], params: &str) -> Option<Counters> {
    if !params.is_empty() {
        return Some(stats.get(params.parse::<usize>().ok()?)?.snapshot());
    }
    let mut sum = Counters::default();
    for stats in stats {
        sum.add(&stats.snapshot());
    }
    Some(sum)
}

/// Has `/eal/lcore/usage` show the workers' time in cycles, where DPDK has that.
fn report_usage(eal: &Eal, stats: Vec<Arc<CoreStats>>, lcores: Lcores) {
    let hz = dpdk::tsc_hz();
    let reported = eal.report_lcore_usage(move |lcore| {
        let counters = stats.get(lcores.worker(lcore)?)?.snapshot();
        // What was taken from the worker is no time of its own, and passes all the same.
        Some(usage(counters.busy_ns, counters.idle_ns.saturating_add(counters.taken_ns), hz))
    });
    if let Err(error) = reported {
        tracing::info!("/eal/lcore/usage is not there: {error}; /hearken/counters has busy_ns and idle_ns");
    }
}

/// Nanoseconds of work and without, in ticks of which there are `hz` a second.
fn usage(busy_ns: u64, idle_ns: u64, hz: u64) -> LcoreUsage {
    // As the clock's nanoseconds: 64 bits of ticks last for centuries.
    let cycles = |ns: u64| (u128::from(ns) * u128::from(hz) / 1_000_000_000) as u64;
    LcoreUsage { total_cycles: cycles(busy_ns.saturating_add(idle_ns)), busy_cycles: cycles(busy_ns) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_becomes_cycles() {
        let usage = usage(1_000_000_000, 3_000_000_000, 2_600_000_000);
        assert_eq!((usage.busy_cycles, usage.total_cycles), (2_600_000_000, 10_400_000_000));
        let century = super::usage(3_000_000_000_000_000_000, 0, 5_000_000_000);
        assert_eq!(century.busy_cycles, 15_000_000_000_000_000_000);
    }
}
