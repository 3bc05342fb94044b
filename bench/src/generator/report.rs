//! What a run brought, as numbers to keep: the JSON, from which the table and the page are made.

mod findings;
pub mod page;
mod parts;
pub mod plots;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::device::{ServerState, grown};
use super::plan::{End, Mode, Plan};
use super::run::Outcome;
use super::tally::{Count, Counts, Tally};
use crate::machine::Machine;

pub use page::{escape, write_page};
pub use parts::Parts;
pub use table::{rate, table};

/// Points of a percentile curve for every halving of what is left of it.
const CURVE_STEPS: u32 = 4;
/// What a histogram's file counts in: microseconds.
const HGRM_UNIT: f64 = 1000.0;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What it is called.
    pub title: String,
    /// The command line.
    pub command: String,
    /// hearken-load's version.
    pub version: String,
    /// When it began, UTC.
    pub begun: String,
    /// The machine.
    pub machine: Machine,
    /// What the frames went through.
    pub device: String,
    /// Seconds in which SYNs left, and that answers had after that.
    pub seconds: f64,
    /// See `seconds`.
    pub drain: f64,
    /// It was ended before its time.
    pub interrupted: bool,
    /// Why it says less of the server than it should.
    #[serde(default)]
    pub disturbed: Vec<String>,
    /// The streams, cores added up.
    pub streams: Vec<StreamReport>,
    /// The cores.
    pub cores: Vec<CoreReport>,
    /// Share of the time in which each CPU of the machine was busy, with whatever.
    pub cpu_busy: Vec<(usize, f64)>,
    /// Over time.
    pub samples: Vec<SampleReport>,
    /// The other side, where it could be asked.
    pub server: Option<ServerReport>,
    /// What there is to say beyond the numbers.
    pub notes: Vec<String>,
}

/// One stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StreamReport {
    /// Its name.
    pub name: String,
    /// syn or connect.
    pub mode: String,
    /// SYNs that were due.
    pub due: u64,
    /// Those, a second.
    pub due_rate: f64,
    /// SYNs that left, a second.
    pub rate: f64,
    /// Different source addresses and ports.
    pub sources: u64,
    /// Different destinations.
    pub destinations: u64,
    /// All counts by name.
    pub counts: BTreeMap<String, u64>,
    /// Copies of a SYN that was answered, themselves without an answer, from a server that answers copies now and then.
    #[serde(default)]
    pub copies: u64,
    /// SYNs without any answer, besides those.
    pub silent: u64,
    /// Wrong answers of all kinds.
    pub wrong: u64,
    /// Share of the SYNs without a right answer.
    pub loss: f64,
    /// Of a stream of connections, those that came to their end: the server acknowledged our FIN; or, if none is sent, our ACK
    /// completed the handshake.
    #[serde(default)]
    pub completed: Option<u64>,
    /// From the scheduled time, by what ended it: synack, rst, closed.
    pub latency: BTreeMap<String, Percentiles>,
    /// The same as curves: quantile, nanoseconds; all cores.
    #[serde(default)]
    pub curves: BTreeMap<String, Vec<(f64, u64)>>,
}

/// One core.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CoreReport {
    /// CPU.
    pub cpu: usize,
    /// Frames received.
    pub rx_frames: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Frames received that have nothing to do with the run.
    pub other: u64,
    /// Times that the device had no buffer for a frame.
    pub no_buffer: u64,
    /// Share of the time in which the thread had its CPU.
    pub on_cpu: f64,
    /// Share of the time in turns that did something.
    pub busy: f64,
    /// How late SYNs left, in nanoseconds.
    pub lag: Percentiles,
    /// Latency to the SYN-ACK, all streams.
    pub synack: Percentiles,
    /// The same as a curve: quantile, nanoseconds.
    pub curve: Vec<(f64, u64)>,
}

/// One moment: what there was a second since the one before, all streams.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SampleReport {
    /// Seconds since the start.
    pub at: f64,
    /// SYNs sent.
    pub sent: f64,
    /// SYN-ACKs.
    pub synack: f64,
    /// RSTs, also those that should not have been.
    pub rst: f64,
    /// Wrong answers and retransmissions.
    pub wrong: f64,
}

/// The other side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerReport {
    /// What grew during the run.
    pub counters: BTreeMap<String, u64>,
    /// Time that frames were held, per core and outcome, since the server's start.
    pub latency: Vec<ServerLatency>,
}

/// One core and outcome of the other side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerLatency {
    /// Its core.
    pub core: u16,
    /// Outcome.
    pub outcome: String,
    /// Nanoseconds.
    pub time: Percentiles,
}

/// A histogram in short; nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Percentiles {
    pub count: u64,
    pub min: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub p99_99: u64,
    pub max: u64,
}

impl From<&Histogram<u64>> for Percentiles {
    fn from(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            min: histogram.min(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: histogram.max(),
        }
    }
}

/// What a report is made from besides the outcome.
#[derive(Clone, Debug)]
pub struct About {
    /// What it is called.
    pub title: String,
    /// What the frames went through.
    pub device: String,
    /// When it began, UTC.
    pub begun: String,
    /// What there is to say beyond the numbers.
    pub notes: Vec<String>,
}

impl Report {
    /// The report of `outcome`, with the server's states before and after.
    pub fn new(
        plan: &Plan,
        outcome: &Outcome,
        about: About,
        server: Option<(ServerState, ServerState)>,
    ) -> Self {
        let streams: Vec<_> = (0..plan.streams.len()).map(|index| stream(plan, outcome, index)).collect();
        let cores = cores(outcome);
        Self {
            title: about.title,
            command: std::env::args().collect::<Vec<_>>().join(" "),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            begun: about.begun,
            machine: Machine::here(),
            device: about.device,
            seconds: plan.seconds,
            drain: plan.drain,
            interrupted: outcome.interrupted,
            disturbed: findings::disturbances(&streams, &cores, &outcome.around),
            streams,
            cores,
            cpu_busy: outcome.cpu_busy.clone(),
            samples: samples(outcome),
            server: server.map(|(before, after)| server_report(&before, &after)),
            notes: about.notes,
        }
    }

    /// Writes the report to `file` as JSON.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_json(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

fn stream(plan: &Plan, outcome: &Outcome, index: usize) -> StreamReport {
    let (stream, total) = (&plan.streams[index], outcome.total(index));
    let Tally { counts, synack, rst, closed, .. } = &total;
    let latency = [("synack", synack), ("rst", rst), ("closed", closed)];
    let latency = latency.into_iter().filter(|(_, histogram)| !histogram.is_empty());
    let completed = match stream.mode {
        Mode::Syn => None,
        Mode::Connect { end: End::Fin, .. } => Some(counts.of(Count::Closed)),
        Mode::Connect { .. } => Some(counts.of(Count::Acked)),
    };
    let due = stream.schedule.total();
    let (sources, destinations) = stream.variety();
    StreamReport {
        name: stream.name.clone(),
        mode: if stream.mode == Mode::Syn { "syn" } else { "connect" }.to_owned(),
        due,
        due_rate: due as f64 / plan.seconds,
        rate: counts.of(Count::Sent) as f64 / plan.seconds,
        sources,
        destinations,
        counts: Count::ALL.iter().map(|&count| (count.name().to_owned(), counts.of(count))).collect(),
        copies: total.copies(),
        silent: total.silent(),
        wrong: counts.wrong(),
        loss: total.loss(),
        completed,
        curves: latency.clone().map(|(name, histogram)| (name.to_owned(), curve(histogram))).collect(),
        latency: latency.map(|(name, histogram)| (name.to_owned(), histogram.into())).collect(),
    }
}

fn cores(outcome: &Outcome) -> Vec<CoreReport> {
    let core = |core: &super::run::CoreResult| {
        let mut all = Tally::default();
        core.tallies.iter().for_each(|tally| all.merge(tally));
        let share = |ns: u64| ns as f64 / core.wall_ns.max(1) as f64;
        CoreReport {
            cpu: core.cpu,
            rx_frames: core.traffic.rx_frames,
            tx_frames: core.traffic.tx_frames,
            other: core.traffic.other,
            no_buffer: core.traffic.no_buffer,
            on_cpu: share(core.on_cpu_ns),
            busy: share(core.traffic.busy_ns),
            lag: (&core.lag).into(),
            synack: (&all.synack).into(),
            curve: curve(&all.synack),
        }
    };
    outcome.cores.iter().map(core).collect()
}

/// Points from the median's half to the last value, evenly over the logarithm of what is beyond.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let steps = (histogram.len() as f64).log2().ceil() as u32 * CURVE_STEPS;
    let quantile = |step: u32| 1.0 - 0.5f64.powf(f64::from(step) / f64::from(CURVE_STEPS));
    (0..=steps).map(|step| (quantile(step), histogram.value_at_quantile(quantile(step)))).collect()
}

fn samples(outcome: &Outcome) -> Vec<SampleReport> {
    let sum = |counts: &[Counts]| {
        let mut sum = Counts::default();
        counts.iter().for_each(|counts| sum.merge(counts));
        sum
    };
    let mut before = (0.0, Counts::default());
    let mut samples = Vec::with_capacity(outcome.samples.len());
    for sample in &outcome.samples {
        let now = sum(&sample.counts);
        let rate = |count: fn(&Counts) -> u64| {
            count(&now).saturating_sub(count(&before.1)) as f64 / (sample.at - before.0).max(1e-3)
        };
        samples.push(SampleReport {
            at: sample.at,
            sent: rate(|counts| counts.of(Count::Sent)),
            synack: rate(|counts| counts.of(Count::SynAck)),
            rst: rate(|counts| counts.of(Count::Rst) + counts.of(Count::Refused)),
            wrong: rate(|counts| counts.wrong() + counts.of(Count::Again)),
        });
        before = (sample.at, now);
    }
    samples
}

fn server_report(before: &ServerState, after: &ServerState) -> ServerReport {
    let rows = after.1.cores.iter().flat_map(|core| core.outcomes.iter().map(|outcome| (core.core, outcome)));
    let latency = rows.filter(|(_, outcome)| outcome.count > 0).map(|(core, outcome)| ServerLatency {
        core,
        outcome: outcome.outcome.clone(),
        time: Percentiles {
            count: outcome.count,
            min: outcome.min_ns,
            p50: outcome.p50_ns,
            p90: outcome.p90_ns,
            p99: outcome.p99_ns,
            p99_9: outcome.p99_9_ns,
            p99_99: outcome.p99_99_ns,
            max: outcome.max_ns,
        },
    });
    ServerReport { counters: grown(&before.0, &after.0), latency: latency.collect() }
}

/// By how much the worst second's rate differed from the one due, as a share of it; none without a whole second, or where
/// the rate is to climb.
pub fn worst_second(plan: &Plan, outcome: &Outcome) -> Option<f64> {
    let sent =
        |sample: &super::run::Sample| sample.counts.iter().map(|counts| counts.of(Count::Sent)).sum::<u64>();
    let due = |at: f64| plan.streams.iter().map(|stream| stream.schedule.due((at * 1e9) as u64)).sum::<u64>();
    let steady = |at: f64| (due(at) - due(at - 1.0)) as f64;
    let rate = due(plan.seconds) as f64 / plan.seconds;
    let within: Vec<_> = outcome.samples.iter().filter(|sample| sample.at <= plan.seconds).collect();
    let mut worst = None;
    for (at, sample) in within.iter().enumerate() {
        let Some(before) = within[..at].iter().rfind(|before| sample.at - before.at >= 0.99) else {
            continue;
        };
        if (steady(sample.at) - rate).abs() > rate * 0.01 {
            return None;
        }
        let found = (sent(sample) - sent(before)) as f64 / (sample.at - before.at);
        let off = (found - rate).abs() / rate;
        worst = Some(worst.map_or(off, |worst: f64| worst.max(off)));
    }
    worst
}

/// Writes the SYN-ACK latencies of each core, and of all, as HdrHistogram's percentile files: `PREFIX-core0.hgrm`, ….
/// Returns their names.
///
/// # Errors
/// What the file system says.
pub fn write_hgrm(outcome: &Outcome, prefix: &str) -> anyhow::Result<Vec<String>> {
    let mut all = Tally::default();
    let mut parts = Vec::new();
    for core in &outcome.cores {
        let mut own = Tally::default();
        core.tallies.iter().for_each(|tally| own.merge(tally));
        all.merge(&own);
        parts.push((format!("{prefix}-cpu{}.hgrm", core.cpu), own.synack));
    }
    parts.push((format!("{prefix}.hgrm"), all.synack));
    for (file, histogram) in &parts {
        std::fs::write(file, hgrm(histogram)).with_context(|| format!("cannot write {file}"))?;
    }
    Ok(parts.into_iter().map(|(file, _)| file).collect())
}

/// The text that HdrHistogram's plotter reads, in microseconds.
fn hgrm(histogram: &Histogram<u64>) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let total = histogram.len();
    for value in histogram.iter_quantiles(5) {
        let quantile = value.quantile_iterated_to();
        let upto = histogram.count_between(0, value.value_iterated_to());
        let us = value.value_iterated_to() as f64 / HGRM_UNIT;
        let _ = if quantile < 1.0 {
            writeln!(text, "{us:12.3} {quantile:14.12} {upto:10} {:14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text, "{us:12.3} {quantile:14.12} {upto:10}")
        };
    }
    let (mean, deviation) = (histogram.mean() / HGRM_UNIT, histogram.stdev() / HGRM_UNIT);
    let max = histogram.max() as f64 / HGRM_UNIT;
    let _ = writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let _ = writeln!(text, "#[Max     = {max:12.3}, Total count    = {total:12}]");
    let (buckets, subs) = (histogram.buckets(), histogram.distinct_values());
    let _ = writeln!(text, "#[Buckets = {buckets:12}, SubBuckets     = {subs:12}]");
    text
}
