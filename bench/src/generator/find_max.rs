//! `--find-max`: the largest rate with a loss within a bound.

use std::fmt::Write as _;

use anyhow::bail;

use super::report::{Report, rate};
use super::run::Outcome;
use super::session::Session;

/// The generator must have sent at least this share of what was due: else the rate was never tried.
const HELD: f64 = 0.99;
/// The search ends when the bounds are this close.
const CLOSE: f64 = 1.02;
/// Doublings and halvings at most.
const STEPS_MAX: usize = 24;

/// The search.
#[derive(Clone, Debug, clap::Args)]
pub struct Search {
    /// Search for the largest rate with a loss within --loss, from --rate on; the report is that of the last good trial
    #[arg(long)]
    pub find_max: bool,
    /// With --find-max: percent of the SYNs that may stay without a right answer
    #[arg(long, default_value_t = 0.01, value_name = "PERCENT")]
    pub loss: f64,
    /// With --find-max: seconds of each trial
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub trial: f64,
}

/// Why a trial did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Too many SYNs without an answer.
    Loss,
    /// The generator or its device did not keep up.
    NotSent,
}

fn judge(report: &Report, loss_percent: f64) -> Verdict {
    let due: u64 = report.streams.iter().map(|stream| stream.due).sum();
    let sent: u64 = report.streams.iter().filter_map(|stream| stream.counts.get("sent")).sum();
    let lost: f64 = report.streams.iter().map(|stream| stream.loss * stream.rate * report.seconds).sum();
    match () {
        () if (sent as f64) < due as f64 * HELD => Verdict::NotSent,
        () if lost > sent as f64 * loss_percent / 100.0 => Verdict::Loss,
        () => Verdict::Good,
    }
}

/// The next rate to try, as a multiple of the first, between one that was good and one that was not.
fn next(good: Option<f64>, bad: Option<f64>) -> Option<f64> {
    match (good, bad) {
        (None, None) => Some(1.0),
        (Some(good), None) => Some(good * 2.0),
        (None, Some(bad)) => Some(bad / 2.0),
        (Some(good), Some(bad)) if bad / good > CLOSE => Some((good * bad).sqrt()),
        (Some(_), Some(_)) => None,
    }
}

/// Searches with `session`; the last good trial.
///
/// # Errors
/// No rate is good enough, or a trial fails.
pub fn find(session: &mut Session, title: &str, search: &Search) -> anyhow::Result<(Report, Outcome)> {
    let (mut good, mut bad, mut best, mut limit) = (None::<f64>, None, None, None);
    let mut trials = String::new();
    let rule = format!(
        "loss of at most {} % of the SYNs, and at least {:.0} % of those due sent, in trials of {} s",
        search.loss,
        HELD * 100.0,
        search.trial
    );
    crate::output::noteln!("largest rate with {rule}");
    for _ in 0..STEPS_MAX {
        let Some(scale) = next(good, bad) else { break };
        let (report, outcome) = session.measure(title, (search.trial, scale))?;
        let verdict = judge(&report, search.loss);
        let (due, loss) = report.streams.iter().fold((0.0, 0.0f64), |(due, loss), stream| {
            (due + stream.due_rate, loss.max(stream.loss * 100.0))
        });
        let said = match verdict {
            Verdict::Good => "good",
            Verdict::Loss => "too much loss",
            Verdict::NotSent => "the generator or its device does not keep up",
        };
        let line = format!("{:>9}/s: loss {loss:.4} %: {said}", rate(due));
        crate::output::noteln!("{line}");
        let _ = write!(trials, "\n  {line}");
        if outcome.interrupted {
            bail!("interrupted");
        }
        if verdict == Verdict::Good {
            good = Some(scale);
            best = Some((report, outcome));
        } else {
            (bad, limit) = (Some(scale), Some(verdict));
        }
    }
    let Some((mut report, outcome)) = best else {
        bail!(
            "no rate was good enough ({rule}); tried:{trials}\nstart lower with --rate, or allow more with --loss"
        )
    };
    let found: f64 = report.streams.iter().map(|stream| stream.rate).sum();
    let limit = match limit {
        Some(Verdict::NotSent) => {
            "above it the generator or its device does not keep up, so the server may do more"
        }
        Some(Verdict::Loss) => "above it answers are lost",
        Some(Verdict::Good) | None => "no larger one was tried, so the server may do more",
    };
    report.notes.insert(0, format!("Largest rate: {}/s, with {rule}; {limit}. Trials:{trials}", rate(found)));
    Ok((report, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_doubles_and_bisects() {
        let search = |limit: f64| {
            let (mut good, mut bad, mut steps) = (None, None, 0);
            while let Some(scale) = next(good, bad) {
                *(if scale <= limit { &mut good } else { &mut bad }) = Some(scale);
                steps += 1;
            }
            (good.expect("some rate is good"), steps)
        };
        for limit in [0.01, 0.5, 1.0, 37.0, 1000.0] {
            let (found, steps) = search(limit);
            assert!(
                found <= limit && found * CLOSE >= limit && steps < STEPS_MAX,
                "{limit}: {found} in {steps}"
            );
        }
    }
}
