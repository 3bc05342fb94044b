//! Our numbers on DPDK's telemetry socket, by the names of [`crate::names`]: `/hearken/drops` for all cores, `/hearken/drops,1`
//! for worker 1.

use std::sync::{Arc, Weak};

use dpdk::{DpdkError, Eal};
use listener::Stack;
use listener::drop_reason::DropReason;
use listener::segment::Outcome;
use listener::types::CoreId;

use crate::control::proto;
use crate::stats::{CoreStats, Counters};

type Numbers = Vec<(String, u64)>;
/// A command below `/hearken/`, its help, and what of a core's counters it shows.
type Group = (&'static str, &'static str, fn(&Counters) -> Numbers);

/// Registers the commands. They read the workers' counters as they are, on a thread of DPDK's, and ask nobody.
///
/// # Errors
/// What DPDK refuses.
pub(super) fn register(eal: &Eal, stats: &[Arc<CoreStats>], stack: &Arc<Stack>) -> Result<(), DpdkError> {
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
    // The commands outlive the run, and must not keep its memory.
    let stack: Weak<Stack> = Arc::downgrade(stack);
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
