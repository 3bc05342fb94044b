//! `hearken-bench packets`: how many frames one core answers, beside `dpdk-testpmd` on the same device.
//!
//! # How it is measured
//! Both programs receive from `net_pcap` with `infinite_rx=1`, which hands out copies of the same 4,000 frames as fast
//! as it is asked, and send to the same port, which frees what it gets. Both run with the same kind of memory, on the
//! same core, with the same burst, one after the other, round by round. The rate is the port's own counter over the
//! time that the polling thread had the CPU, by the kernel's account, which on an undisturbed core is all of it: where
//! others want the core too, all contestants are judged by what they did while they had it. Nothing is lost on such a device, so there is no loss rule; hearken must have answered every frame, which its
//! counters say and a sample of its replies shows.

pub(crate) mod on_cpu;
mod replies;
pub(crate) mod server;
mod testpmd;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::frames::{self, FRAMES, Kind, SERVER_MAC};
use crate::{machine, pcap};
use on_cpu::OnCpu;
use replies::Checked;
use server::Setup;

/// MB that either program asks for.
const MEMORY_MB: u64 = 512;
/// The least share of frames that must have the outcome of their kind.
const ANSWERED: f64 = 0.9999;

/// Frames a second on one core, beside dpdk-testpmd on the same device
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long each contestant is measured in each round
    #[arg(long = "for", alias = "seconds", default_value_t = 3.0, value_parser = crate::time::seconds, value_name = "TIME")]
    seconds: f64,
    /// How often each contestant has its turn
    #[arg(long, default_value_t = 5, value_name = "ROUNDS")]
    rounds: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Memory of both programs; default: hugepages if enough are free
    #[arg(long, value_enum)]
    memory: Option<Memory>,
    /// Frames in a burst
    #[arg(long, default_value_t = 32, value_name = "FRAMES")]
    burst: u16,
    /// CPU of the control threads, CPU that is measured
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1], value_name = "CPU,CPU")]
    cpus: Vec<usize>,
    /// Only contestants whose name contains this; testpmd csum and 5tswap always run
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// hearken's binary; default: the one beside this
    #[arg(long, value_name = "FILE")]
    hearken: Option<PathBuf>,
}

/// Where a program's memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Memory {
    /// 2 MB pages
    Hugepages,
    /// Ordinary pages
    Pages,
}

impl Memory {
    /// Hugepages if enough are free.
    pub(crate) fn here() -> Self {
        if dpdk::hugepages_free_mb() >= MEMORY_MB { Self::Hugepages } else { Self::Pages }
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hugepages => "hugepages",
            Self::Pages => "ordinary pages",
        })
    }
}

/// One turn of one contestant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job<'a> {
    pub(crate) hearken: &'a Path,
    pub(crate) pcap: &'a Path,
    pub(crate) memory: Memory,
    pub(crate) burst: u16,
    pub(crate) cpus: [usize; 2],
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
}

impl Job<'_> {
    pub(crate) fn device(&self) -> String {
        format!("net_pcap0,rx_pcap={},infinite_rx=1", self.pcap.display())
    }
}

/// Rates by a port's own counters, per second that the polling thread ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    rx_pps: f64,
    tx_pps: f64,
    /// Share of the time in which the polling thread had the CPU.
    cpu_share: f64,
}

impl Sample {
    /// From threads, frames received and frames sent, read at the start and at the end.
    fn between(from: &(OnCpu, u64, u64), to: &(OnCpu, u64, u64)) -> Self {
        let (busy, cpu_share) = to.0.busiest_since(&from.0);
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / busy.as_secs_f64();
        Self { rx_pps: rate(from.1, to.1), tx_pps: rate(from.2, to.2), cpu_share }
    }
}

/// A child that does not outlive us.
pub(crate) struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Who takes part, on which frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contestant {
    Hearken { name: &'static str, kind: Kind, setup: Setup, outcomes: &'static [&'static str] },
    Testpmd { name: &'static str, mode: &'static str },
}

const CSUM: &str = "testpmd csum";
const FIVE_TUPLE_SWAP: &str = "testpmd 5tswap";

const CONTESTANTS: [Contestant; 10] = [
    Contestant::Testpmd { name: CSUM, mode: "csum" },
    Contestant::Hearken {
        name: "hearken cookies",
        kind: Kind::Syn,
        setup: Setup::COOKIES,
        outcomes: &["synack"],
    },
    Contestant::Hearken {
        name: "hearken requests",
        kind: Kind::Requests,
        setup: Setup::REQUESTS,
        outcomes: &["synack", "req_rst"],
    },
    Contestant::Hearken {
        name: "hearken closed",
        kind: Kind::Closed,
        setup: Setup::COOKIES,
        outcomes: &["rst"],
    },
    Contestant::Hearken { name: "hearken mix", kind: Kind::Mix, setup: Setup::MIX, outcomes: &[] },
    Contestant::Hearken { name: "hearken v6", kind: Kind::V6, setup: Setup::COOKIES, outcomes: &["synack"] },
    Contestant::Hearken {
        name: "hearken linux",
        kind: Kind::Linux,
        setup: Setup::COOKIES,
        outcomes: &["synack"],
    },
    Contestant::Testpmd { name: FIVE_TUPLE_SWAP, mode: "5tswap" },
    Contestant::Testpmd { name: "testpmd io", mode: "io" },
    Contestant::Testpmd { name: "testpmd macswap", mode: "macswap" },
];

impl Contestant {
    const fn name(&self) -> &'static str {
        match self {
            Self::Hearken { name, .. } | Self::Testpmd { name, .. } => name,
        }
    }

    /// The frames it runs on; testpmd's modes are on the plain SYNs.
    const fn kind(&self) -> Kind {
        match self {
            Self::Hearken { kind, .. } => *kind,
            Self::Testpmd { .. } => Kind::Syn,
        }
    }

    fn turn(&self, job: &Job<'_>) -> anyhow::Result<Sample> {
        let sample = match self {
            Self::Testpmd { mode, .. } => testpmd::run(job, mode)?,
            Self::Hearken { setup, outcomes, .. } => {
                let answers = server::run(job, *setup)?;
                let shares: BTreeMap<_, _> =
                    answers.shares.iter().map(|(name, share)| (&**name, share)).collect();
                let answered: f64 = outcomes.iter().filter_map(|name| shares.get(name).copied()).sum();
                ensure!(
                    outcomes.is_empty() || answered >= ANSWERED,
                    "{}: shares are {shares:?}",
                    self.name()
                );
                if outcomes.is_empty() {
                    crate::output::noteln!("{}: {shares:?}", self.name());
                }
                answers.sample
            }
        };
        Ok(sample)
    }
}

/// What is said of one contestant.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    contestant: &'static str,
    /// Median of the rounds, millions of frames received a second.
    mpps: f64,
    mpps_min: f64,
    mpps_max: f64,
    cycles_per_frame: f64,
    /// Median, least and greatest of the rounds' ratios: both ran within one round.
    ratio_to_csum: f64,
    ratio_to_csum_min: f64,
    ratio_to_csum_max: f64,
    ratio_to_5tswap: f64,
    /// Least share of the time in which the polling thread had the CPU.
    cpu_share_min: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    machine: machine::Machine,
    memory: Memory,
    frames: usize,
    burst: u16,
    seconds: f64,
    rounds: usize,
    checked: Checked,
    rows: Vec<Row>,
}

impl Args {
    /// Runs the rounds and prints the table, or JSON.
    ///
    /// # Errors
    /// A program that does not run, or a reply that is wrong.
    pub fn run(&self) -> anyhow::Result<()> {
        ensure!(self.cpus.len() == 2, "--cpus wants two numbers, such as 0,1");
        ensure!(self.rounds > 0 && self.seconds > 0.0, "--rounds and --for want more than 0");
        let memory = self.memory.unwrap_or_else(Memory::here);
        let dir = tempfile::Builder::new().prefix("hearken-packets").tempdir()?;
        let file = |kind: Kind| dir.path().join(format!("{kind:?}.pcap").to_lowercase());
        for kind in [Kind::Syn, Kind::Requests, Kind::Closed, Kind::Mix, Kind::V6, Kind::Linux] {
            pcap::write(&file(kind), &frames::frames(kind, FRAMES, SERVER_MAC))?;
        }
        let hearken = self.hearken.clone().unwrap_or_else(server::beside_us);
        let job = Job {
            hearken: &hearken,
            pcap: Path::new(""),
            memory,
            burst: self.burst,
            cpus: [self.cpus[0], self.cpus[1]],
            warm_up: Duration::from_millis(500),
            measure: Duration::from_secs_f64(self.seconds),
        };
        let checked = replies::run(&job).context("hearken's replies")?;
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); CONTESTANTS.len()];
        for round in 1..=self.rounds {
            for (contestant, samples) in CONTESTANTS.iter().zip(&mut samples) {
                if !self.takes_part(contestant) {
                    continue;
                }
                let pcap = file(contestant.kind());
                let sample =
                    contestant.turn(&Job { pcap: &pcap, ..job }).with_context(|| contestant.name())?;
                crate::output::noteln!(
                    "round {round}/{}: {:17} {:7.3} Mpps in, {:7.3} Mpps out, {:3.0} % of the CPU",
                    self.rounds,
                    contestant.name(),
                    sample.rx_pps / 1e6,
                    sample.tx_pps / 1e6,
                    sample.cpu_share * 100.0
                );
                samples.push(sample);
            }
        }
        let report = Report {
            bench: "packets",
            machine: machine::Machine::here(),
            memory,
            frames: FRAMES,
            burst: self.burst,
            seconds: self.seconds,
            rounds: self.rounds,
            checked,
            rows: rows(&samples, machine::tsc_hz()),
        };
        if self.json {
            crate::output::sayln!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            crate::output::say!("{}", table(&report));
        }
        Ok(())
    }

    fn takes_part(&self, contestant: &Contestant) -> bool {
        let name = contestant.name();
        name == CSUM
            || name == FIVE_TUPLE_SWAP
            || self.only.as_ref().is_none_or(|only| name.contains(&**only))
    }
}

/// The middle one, or the mean of the two middle ones; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

pub(crate) fn spread(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, 0.0), |(min, max), value| (value.min(min), value.max(max)))
}

fn rows(samples: &[Vec<Sample>], tsc_hz: f64) -> Vec<Row> {
    let rates = |samples: &[Sample]| samples.iter().map(|sample| sample.rx_pps).collect::<Vec<f64>>();
    let of = |name: &str| {
        let at = CONTESTANTS.iter().position(|contestant| contestant.name() == name);
        at.and_then(|at| samples.get(at)).map_or_else(Vec::new, |samples| rates(samples))
    };
    let ratios = |samples: &[f64], to: &[f64]| -> Vec<f64> {
        samples.iter().zip(to).map(|(pps, reference)| pps / reference).collect()
    };
    let taken = CONTESTANTS.iter().zip(samples).filter(|(_, samples)| !samples.is_empty());
    taken
        .map(|(contestant, samples)| {
            let (share_min, _) = spread(&samples.iter().map(|sample| sample.cpu_share).collect::<Vec<_>>());
            let samples = rates(samples);
            let to_csum = ratios(&samples, &of(CSUM));
            let ((min, max), (ratio_min, ratio_max)) = (spread(&samples), spread(&to_csum));
            let pps = median(&samples);
            Row {
                contestant: contestant.name(),
                mpps: pps / 1e6,
                mpps_min: min / 1e6,
                mpps_max: max / 1e6,
                cycles_per_frame: tsc_hz / pps,
                ratio_to_csum: median(&to_csum),
                ratio_to_csum_min: ratio_min,
                ratio_to_csum_max: ratio_max,
                ratio_to_5tswap: median(&ratios(&samples, &of(FIVE_TUPLE_SWAP))),
                cpu_share_min: share_min,
            }
        })
        .collect()
}

fn table(report: &Report) -> String {
    let Report { machine, memory, frames, burst, seconds, rounds, checked, rows, .. } = report;
    let mut out = comfy_table::Table::new();
    out.load_style(comfy_table::presets::NOTHING);
    out.set_header([
        "contestant",
        "Mpps",
        "min",
        "max",
        "cycles/frame",
        "to csum",
        "min",
        "max",
        "to 5tswap",
    ]);
    for row in rows {
        out.add_row([
            row.contestant.to_owned(),
            format!("{:.2}", row.mpps),
            format!("{:.2}", row.mpps_min),
            format!("{:.2}", row.mpps_max),
            format!("{:.0}", row.cycles_per_frame),
            format!("{:.2}", row.ratio_to_csum),
            format!("{:.2}", row.ratio_to_csum_min),
            format!("{:.2}", row.ratio_to_csum_max),
            format!("{:.2}", row.ratio_to_5tswap),
            format!("{:.0}%", row.cpu_share_min * 100.0),
        ]);
    }
    for column in 1..=9 {
        if let Some(column) = out.column_mut(column) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    format!(
        "{machine}\none core, net_pcap with infinite_rx=1, {frames} frames, {memory}, bursts of {burst}; medians of \
         {rounds} rounds of {seconds} s\nreplies checked: {} SYN-ACKs, {} RSTs, {} cookies accepted\n{out}\n",
        checked.synacks, checked.rsts, checked.cookies
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut samples = vec![Vec::new(); CONTESTANTS.len()];
        let at = |name| {
            CONTESTANTS.iter().position(|contestant| contestant.name() == name).expect("it takes part")
        };
        let rates =
            |rates: [f64; 3]| rates.map(|rx_pps| Sample { rx_pps, tx_pps: rx_pps, cpu_share: 0.9 }).to_vec();
        samples[at(CSUM)] = rates([10e6, 20e6, 30e6]);
        samples[at("hearken cookies")] = rates([20e6, 20e6, 60e6]);
        samples[at(FIVE_TUPLE_SWAP)] = rates([40e6, 40e6, 40e6]);
        let rows = rows(&samples, 2e9);
        assert_eq!(rows.len(), 3, "those that did not run have no row");
        let row = rows.iter().find(|row| row.contestant == "hearken cookies").expect("it ran");
        assert_eq!((row.mpps, row.mpps_min, row.mpps_max), (20.0, 20.0, 60.0));
        assert_eq!((row.ratio_to_csum, row.ratio_to_csum_min, row.ratio_to_csum_max), (2.0, 1.0, 2.0));
        assert_eq!((row.cycles_per_frame, row.ratio_to_5tswap, row.cpu_share_min), (100.0, 0.5, 0.9));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[3.0, 1.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
    }
}
