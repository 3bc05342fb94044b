//! `hearken-load shield`: what a flood of forged SYNs does to the clients of an unmodified nginx, with Linux alone, with the kernel's own
//! SYN proxy, and with hearken in front.
//!
//! # How it is measured
//! Each contestant has its turn in every round, on a veth pair of its own between two namespaces. In a turn the flood goes up step
//! by step, the first without any; clients start at a fixed rate meanwhile, whatever has become of those before them
//! (`shield/clients.rs`). The flood is made by the kernel on one CPU ([`hearken_bpf::flood`]), in slices of a millisecond. nginx and
//! hearken's worker are on the other. A veth runs the receiver's softirq on the sender's CPU, so Linux alone and the proxy work
//! there, and hold the flood back when that CPU is full: the table says what was offered.
//!
//! # CPU of the server's side
//! Busy is all time in which the two CPUs were neither idle nor stolen. From that of a step is taken that of the same turn without
//! a flood (the clients, nginx, a worker that is idle), and what the wire itself costs: the same flood at the same step against an
//! XDP program at the server's end that drops it, measured in each round. What is left, for each SYN of the flood, is the server's.
//!
//! # Answers
//! An XDP program at the flood's end of the wire counts the SYN-ACKs for forged sources, and drops them for all contestants alike.

mod clients;
pub mod report;
pub(super) mod site;
pub(super) mod step;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail, ensure};

use super::spec::Rate;
use crate::machine::Machine;
use report::{Shield, Step, row};
use step::{Plan, Sample, turn};

/// Who is in front of nginx.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Contestant {
    /// Nobody and no nginx: an XDP program drops all; always measured, for the others' CPU
    #[value(skip)]
    Wire,
    /// Linux alone, with tcp_syncookies = 1
    Linux,
    /// Linux with nft's synproxy
    Synproxy,
    /// hearken, with redirect_per_ms = 64 as it is on a NIC: a flood is answered by its XDP program
    Hearken,
    /// hearken, with redirect_per_ms = 0 as it is on a veth: its worker answers all
    HearkenWorker,
}

impl Contestant {
    fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Linux => "Linux alone",
            Self::Synproxy => "Linux synproxy",
            Self::Hearken => "hearken",
            Self::HearkenWorker => "hearken, worker only",
        }
    }
}

/// How many forged SYNs a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Flooding {
    None,
    Rate(f64),
    Max,
}

impl FromStr for Flooding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "0" => Ok(Self::None),
            "max" => Ok(Self::Max),
            _ => {
                text.parse().map(|Rate(rate)| Self::Rate(rate)).map_err(|error| format!("{error}, 0, or max"))
            }
        }
    }
}

impl std::fmt::Display for Flooding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("0"),
            Self::Rate(wanted) => f.write_str(&super::report::rate(*wanted)),
            Self::Max => f.write_str("max"),
        }
    }
}

/// Clients of an unmodified nginx under a rising flood: Linux alone, the kernel's SYN proxy, and hearken in front
#[derive(Debug, clap::Args)]
pub struct ShieldArgs {
    /// Turns of each contestant
    #[arg(long, default_value_t = 3, value_name = "ROUNDS")]
    rounds: usize,
    /// Seconds of each step
    #[arg(long, default_value_t = 1.5, value_name = "SECONDS")]
    seconds: f64,
    /// Forged SYNs a second, a step each; max is as fast as the wire carries them; 0 always comes first
    #[arg(long, value_delimiter = ',', default_value = "0,50k,150k,300k,600k,max", value_name = "RATE,…")]
    rates: Vec<Flooding>,
    /// Clients that start in a second
    #[arg(long, default_value = "300", value_name = "RATE")]
    clients: Rate,
    /// Who takes part
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "linux,synproxy,hearken,hearken-worker",
        value_name = "NAME,…"
    )]
    contestants: Vec<Contestant>,
    /// The flood's CPU, and that of nginx and hearken's worker; clients have both
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1], value_name = "CPU,CPU")]
    cpus: Vec<usize>,
    /// hearken's binary; default: the one beside this
    #[arg(long, value_name = "FILE")]
    hearken: Option<PathBuf>,
    /// Write the result as JSON; - is standard output, and then there is no table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the result as one page, to look at and to print
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the clients' p99 over the flood as a picture
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

impl ShieldArgs {
    /// Runs the comparison and shows it.
    ///
    /// # Errors
    /// No right to make namespaces, a program that is missing, or a contestant that does not start.
    pub fn run(&self) -> anyhow::Result<()> {
        let plan = self.plan()?;
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let everyone: Vec<Contestant> =
            [Contestant::Wire].into_iter().chain(self.contestants.iter().copied()).collect();
        let mut turns: Vec<Vec<Vec<Sample>>> = everyone.iter().map(|_| Vec::new()).collect();
        for round in 1..=self.rounds {
            for (contestant, turns) in everyone.iter().zip(&mut turns) {
                crate::output::noteln!("round {round}/{}: {}", self.rounds, contestant.name());
                let turn = turn(&plan, *contestant, &stop).with_context(|| contestant.name());
                if stop.load(Ordering::Relaxed) {
                    bail!("interrupted; all is taken down");
                }
                turns.push(turn?);
            }
        }
        let (wire, others) = turns.split_first().context("the wire is first")?;
        let steps = |turns: &[Vec<Sample>]| -> Vec<Step> { report::steps(&plan.floods, turns, wire) };
        let result = Shield {
            machine: Machine::here(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            begun: plan.begun.clone(),
            rounds: self.rounds,
            seconds: self.seconds,
            clients_per_second: self.clients.0,
            cpus: self.cpus.clone(),
            wire: steps(wire),
            rows: self
                .contestants
                .iter()
                .zip(others)
                .map(|(who, turns)| row(who.name(), steps(turns)))
                .collect(),
        };
        self.publish(&result)
    }

    /// What is asked for, or a sentence why it cannot be done here.
    fn plan(&self) -> anyhow::Result<Plan> {
        ensure!(self.cpus.len() == 2 && self.cpus[0] != self.cpus[1], "--cpus wants two numbers that differ");
        ensure!(self.rounds > 0, "--rounds wants 1 or more, found 0");
        ensure!((0.1..=60.0).contains(&self.seconds), "--seconds wants 0.1 to 60, found {}", self.seconds);
        ensure!(
            self.clients.0 <= 20_000.0,
            "--clients wants at most 20,000 a second, found {}",
            self.clients.0
        );
        site::need("nginx", "nginx-light")?;
        for (program, package) in [("ip", "iproute2"), ("ethtool", "ethtool"), ("taskset", "util-linux")] {
            site::need(program, package)?;
        }
        if self.contestants.contains(&Contestant::Synproxy) {
            site::need("nft", "nftables").context(
                "the kernel's SYN proxy is set up by nft; or leave it out: --contestants linux,hearken",
            )?;
        }
        let mut floods = vec![Flooding::None];
        floods.extend(self.rates.iter().copied().filter(|flood| *flood != Flooding::None));
        Ok(Plan {
            floods,
            seconds: self.seconds,
            clients: self.clients.0,
            cpus: [self.cpus[0], self.cpus[1]],
            hearken: self.hearken.clone(),
            begun: super::cli::utc(std::time::SystemTime::now()),
        })
    }

    fn publish(&self, result: &Shield) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(result)? + "\n";
        let to_stdout = self.json.as_ref().is_some_and(|file| file.as_os_str() == "-");
        let files = [
            (self.json.as_ref().filter(|_| !to_stdout), json.clone()),
            (self.report.as_ref(), if self.report.is_some() { result.page()? } else { String::new() }),
            (self.plot.as_ref(), if self.plot.is_some() { result.plot()? } else { String::new() }),
        ];
        if to_stdout {
            crate::output::say!("{json}");
        } else {
            crate::output::say!("{}", result.table());
        }
        for (file, text) in files {
            let Some(file) = file else { continue };
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
            crate::output::noteln!("written: {}", file.display());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floods_are_rates_or_the_most_that_goes() {
        let read = |text: &str| text.parse::<Flooding>();
        assert_eq!(read("0"), Ok(Flooding::None));
        assert_eq!(read("150k"), Ok(Flooding::Rate(150_000.0)));
        assert_eq!(read("max"), Ok(Flooding::Max));
        assert!(
            read("fast")
                .is_err_and(|error| error.contains("\"fast\" is no rate") && error.ends_with("or max"))
        );
    }
}
