//! `hearken latency`: a table, JSON, percentiles for HdrHistogram's plotter, a picture; since start or by intervals.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use listener::segment::Outcome;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::{CliError, Done, ServerArgs, Span, print};
use crate::control::client::Client;
use crate::control::proto::{Begin, Histograms, Interval, Latency, Request, Stats};
use crate::control::service::latency_of;
use crate::histogram::CoreReport;
use crate::report;
use crate::report::percentiles;
use crate::report::plot::{self, Curve};

#[derive(Debug, Args)]
pub(super) struct LatencyArgs {
    /// Only this core, by the worker's number
    #[arg(long, value_name = "NUMBER")]
    core: Option<u16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print percentiles as HdrHistogram's plotter reads them, in nanoseconds, of all cores and outcomes that are asked for
    #[arg(long, conflicts_with_all = ["json", "plot", "interval"])]
    hgrm: bool,
    /// Draw percentile curves into this SVG file: a line a core, of one core a line an outcome
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "interval"])]
    plot: Option<PathBuf>,
    /// With --hgrm and --plot, only this outcome: synack, rst, accept or other
    #[arg(long, value_name = "NAME", value_parser = outcome)]
    outcome: Option<Outcome>,
    /// Print again every TIME what was measured since the last time
    #[arg(long, value_name = "TIME")]
    interval: Option<Span>,
    /// End after so many intervals
    #[arg(long, value_name = "NUMBER", requires = "interval")]
    count: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

fn outcome(text: &str) -> Result<Outcome, String> {
    let known = || Outcome::ALL.iter().map(|outcome| outcome.name());
    let found = Outcome::ALL.into_iter().find(|outcome| outcome.name() == text);
    found.ok_or_else(|| format!("the outcomes are: {}", known().collect::<Vec<_>>().join(", ")))
}

impl LatencyArgs {
    pub(super) fn run(&self, out: &mut impl Write) -> Done {
        let mut server = self.server.connect()?;
        if let Some(interval) = self.interval {
            return self.follow(&mut server, interval.0, out);
        }
        if !self.hgrm && self.plot.is_none() {
            let latency: Latency = server.call(&Request::Latency { core: self.core })?;
            return print(out, self.json, &latency, || report::latency(&latency));
        }
        let (reports, all) = self.reports(&mut server)?;
        let Some(file) = &self.plot else {
            let all = reports.iter().map(|report| self.merged(report));
            let sum = all.reduce(|sum, next| sum_of(sum, &next));
            write!(out, "{}", percentiles::hgrm(&sum.unwrap_or_else(empty)))?;
            return Ok(());
        };
        let stamped = all.clocks.values().any(|clock| clock.begin != Begin::Worker);
        let begin = if stamped { "arrival, where it is stamped," } else { "end of rx_burst" };
        let title = format!("hearken: {begin} to end of tx_burst, {}", self.what());
        let curves = self.curves(&reports);
        let frames: u64 = curves.iter().map(|curve| curve.histogram.len()).sum();
        let subtitle = format!("{frames} frames, {}", measured(&mut server)?);
        let svg = plot::svg(&title, &subtitle, &curves).map_err(CliError::Run)?;
        std::fs::write(file, svg).map_err(|error| {
            CliError::Run(format!("cannot write {}: {error}; give another path with --plot", file.display()))
        })
    }

    /// Prints what each interval brought, until `count` or the end of the server.
    fn follow(&self, server: &mut Client, interval: Duration, out: &mut impl Write) -> Done {
        let mut due = Instant::now();
        let ((mut before, _), mut began) = (self.reports(server)?, Instant::now());
        let mut printed = 0;
        while self.count.is_none_or(|count| printed < count) {
            due += interval;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let (now, all) = self.reports(server)?;
            let seconds = began.elapsed().as_secs_f64();
            began = Instant::now();
            let interval = Some(Interval { until: date(), seconds });
            let latency = Latency { clocks: all.clocks, interval, ..latency_of(&since(&before, &now)) };
            print(out, self.json, &latency, || report::latency(&latency))?;
            out.flush()?;
            (before, printed) = (now, printed + 1);
        }
        Ok(())
    }

    fn reports(&self, server: &mut Client) -> Result<(Vec<CoreReport>, Histograms), CliError> {
        let all: Histograms = server.call(&Request::Histograms { core: self.core })?;
        Ok((all.cores.iter().map(|core| core.report()).collect(), all))
    }

    /// The histogram of the outcome that was asked for, or of all.
    fn merged(&self, report: &CoreReport) -> Histogram<u64> {
        let wanted =
            Outcome::ALL.into_iter().filter(|outcome| self.outcome.is_none_or(|only| only == *outcome));
        wanted.map(|outcome| report.latency.of(outcome)).fold(empty(), sum_of)
    }

    fn curves(&self, reports: &[CoreReport]) -> Vec<Curve> {
        match (reports, self.outcome) {
            ([report], None) => Outcome::ALL
                .into_iter()
                .map(|outcome| Curve {
                    label: outcome.name().into(),
                    histogram: report.latency.of(outcome).clone(),
                })
                .collect(),
            _ => reports
                .iter()
                .map(|report| Curve {
                    label: format!("core {}", report.core.0),
                    histogram: self.merged(report),
                })
                .collect(),
        }
    }

    /// For the title.
    fn what(&self) -> String {
        let core = self.core.map(|core| format!("core {core}, ")).unwrap_or_default();
        format!("{core}{}", self.outcome.map_or("all outcomes", Outcome::name))
    }
}

/// Over which time, where, and when: `in the 12 s since the start, on host a, until 2026-11-23T10:00:00Z`.
fn measured(server: &mut Client) -> Result<String, CliError> {
    let stats: Stats = server.call(&Request::Stats {})?;
    // A worker's turns are all of its time.
    let run = stats.cores.iter().map(|core| core.busy_ns + core.idle_ns + core.taken_ns).max();
    let seconds = Duration::from_nanos(run.unwrap_or_default()).as_secs();
    // The control socket is of the same machine.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok(format!("in the {seconds} s since the start, on host {}, until {}", host.trim(), date()))
}

/// Now, in UTC, as the log writes it.
fn date() -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

fn empty() -> Histogram<u64> {
    crate::histogram::Latency::new().of(Outcome::Other).clone()
}

fn sum_of(mut sum: Histogram<u64>, next: &Histogram<u64>) -> Histogram<u64> {
    // Cannot fail: all have the same bounds.
    let _ = sum.add(next);
    sum
}

/// What `now` holds beyond `before`, core by core.
fn since(before: &[CoreReport], now: &[CoreReport]) -> Vec<CoreReport> {
    let mut reports = now.to_vec();
    for report in &mut reports {
        let Some(before) = before.iter().find(|before| before.core == report.core) else { continue };
        report.latency.subtract(&before.latency);
        for outcome in Outcome::ALL {
            report.counters.outcomes[outcome as usize] = report.latency.of(outcome).len();
        }
    }
    reports
}

#[cfg(test)]
mod tests {
    use super::*;
    use listener::types::CoreId;

    #[test]
    fn an_interval_holds_what_came_in_it() {
        let mut before = CoreReport {
            core: CoreId(1),
            counters: Default::default(),
            latency: crate::histogram::Latency::new(),
            fresh: true,
        };
        before.latency.record(Outcome::Rst, 1000, 5);
        let mut now = before.clone();
        now.latency.record(Outcome::Rst, 2000, 2);
        let delta = since(&[before], &[now]);
        let rst = delta[0].latency.of(Outcome::Rst);
        assert_eq!((rst.len(), delta[0].counters.outcome(Outcome::Rst)), (2, 2));
        assert!(rst.max() >= 2000 && rst.value_at_quantile(0.0) >= 2000);
    }
}
