//! Whole histograms on the control socket, sparse: what a client needs for percentiles of its own, plots and differences.

use std::collections::BTreeMap;

use listener::segment::Outcome;
use listener::types::CoreId;
use serde::{Deserialize, Serialize};

use super::PortClock;
use crate::histogram::{CoreReport, Latency};

/// Reply to `histograms`. Times as in [`super::Latency`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Histograms {
    /// One per core.
    pub cores: Vec<CoreHistograms>,
    /// As in [`super::Latency`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clocks: BTreeMap<String, PortClock>,
}

/// The histograms of one core.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CoreHistograms {
    /// Worker's number.
    pub core: u16,
    /// The core did not answer in time, and these are its numbers of an earlier report.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// One per outcome, in their order.
    pub outcomes: Vec<OutcomeHistogram>,
}

/// The histogram of one outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct OutcomeHistogram {
    /// synack, rst, accept or other.
    pub outcome: String,
    /// Nanoseconds, exact to one part in a thousand, and how many frames took that long; ascending.
    pub values: Vec<(u64, u64)>,
}

/// What goes over the socket for `reports`.
pub fn histograms_of(reports: &[CoreReport]) -> Vec<CoreHistograms> {
    let of_outcome = |latency: &Latency, outcome: Outcome| OutcomeHistogram {
        outcome: outcome.name().to_owned(),
        values: latency
            .of(outcome)
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect(),
    };
    let of_core = |report: &CoreReport| CoreHistograms {
        core: report.core.0,
        late: !report.fresh,
        outcomes: Outcome::ALL.iter().map(|outcome| of_outcome(&report.latency, *outcome)).collect(),
    };
    reports.iter().map(of_core).collect()
}

impl CoreHistograms {
    /// The report that this was made of; of the counters it has the outcomes. An outcome that this version does not know
    /// is left out.
    pub fn report(&self) -> CoreReport {
        let mut report = CoreReport {
            core: CoreId(self.core),
            counters: Default::default(),
            latency: Latency::new(),
            fresh: !self.late,
        };
        for OutcomeHistogram { outcome, values } in &self.outcomes {
            let Some(outcome) = Outcome::ALL.into_iter().find(|known| known.name() == outcome) else {
                continue;
            };
            for (ns, frames) in values {
                report.latency.record(outcome, *ns, *frames);
            }
            report.counters.outcomes[outcome as usize] = report.latency.of(outcome).len();
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_out_is_what_went_in() {
        let mut report = CoreHistograms { core: 3, ..Default::default() }.report();
        for ns in (0..2_000_000).step_by(37) {
            report.latency.record(Outcome::Rst, ns, 3);
        }
        let sent = histograms_of(std::slice::from_ref(&report));
        let back = sent[0].report();
        assert_eq!(back.latency.of(Outcome::Rst), report.latency.of(Outcome::Rst));
        assert_eq!(back.counters.outcome(Outcome::Rst), report.latency.of(Outcome::Rst).len());
        assert_eq!(back.latency.of(Outcome::SynAck).len(), 0);
    }
}
