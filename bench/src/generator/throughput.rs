//! `hearken-load throughput`: what connections that are established pay for what stands at the server's end of their wire.
//!
//! # How it is measured
//! The contestants take turns in every round, each on a veth pair of its own between two namespaces: the bare wire, the wire with an XDP
//! program at the server's end that passes every frame on (behind the driver, `generic`, and in it, `native`), and hearken in front of
//! the servers. In a turn iperf3 sends one stream each way, and wrk asks an unmodified nginx for a small page on connections that it
//! keeps; once on a calm wire and once beside a flood of forged SYNs. The servers are on one CPU; the clients and the flood are on the
//! other.
//!
//! The veth is a wire of memory: a native program costs it the conversion of every frame, which a NIC's driver does not have. So
//! hearken is compared with the program that only passes, in the same round; the bare wire stands beside it.

pub mod report;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hearken_bpf::flood::Flood;
use hearken_bpf::wire::{Does, Mode, OnXdp};

use super::netns::{Running, run};
use super::shield::site::{self, SERVER, Server, Site};
use super::shield::{Contestant, step};
use super::spec::Rate;
use crate::machine::Machine;
use report::{Row, Throughput};

/// How long iperf3's server may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// The port of iperf3's server.
const IPERF3: u16 = 5201;
/// Connections that wrk keeps.
const KEPT: &str = "16";

/// What stands at the server's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing
    Bare,
    /// An XDP program that passes all on
    Passing(Mode),
    /// hearken, with redirect_per_ms as it is on a NIC
    Hearken,
}

/// In the order of the report; the native program is the one that hearken is compared with, being native itself.
const ENDS: [End; 4] = [End::Bare, End::Passing(Mode::Generic), End::Passing(Mode::Native), End::Hearken];

impl End {
    const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare wire",
            Self::Passing(Mode::Generic) => "XDP_PASS, generic",
            Self::Passing(Mode::Native) => "XDP_PASS, native",
            Self::Hearken => "hearken",
        }
    }
}

/// Established connections on a wire that is bare, has an XDP program that only passes, or has hearken: iperf3 and wrk
#[derive(Debug, clap::Args)]
pub struct ThroughputArgs {
    /// Turns of each contestant
    #[arg(long, default_value_t = 5, value_name = "ROUNDS")]
    rounds: usize,
    /// Whole seconds of each measurement; there are six in a turn
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Forged SYNs a second beside the connections
    #[arg(long, default_value = "100k", value_name = "RATE")]
    flood: Rate,
    /// The clients' and the flood's CPU, and that of the servers and hearken's worker
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1], value_name = "CPU,CPU")]
    cpus: Vec<usize>,
    /// hearken's binary; default: the one beside this
    #[arg(long, value_name = "FILE")]
    hearken: Option<PathBuf>,
    /// Write the result as JSON; - is standard output, and then there is no table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One turn: to the server and from it in Gbit/s, and requests a second; calm, and beside the flood.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    calm: [f64; 3],
    flooded: [f64; 3],
}

impl ThroughputArgs {
    /// Runs the comparison and shows it.
    ///
    /// # Errors
    /// No right to make namespaces, a program that is missing, or one that fails.
    pub fn run(&self) -> anyhow::Result<()> {
        ensure!(self.cpus.len() == 2 && self.cpus[0] != self.cpus[1], "--cpus wants two numbers that differ");
        ensure!(self.rounds > 0, "--rounds wants 1 or more, found 0");
        for (program, package) in
            [("nginx", "nginx-light"), ("iperf3", "iperf3"), ("wrk", "wrk"), ("ethtool", "ethtool")]
        {
            site::need(program, package)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let mut samples = ENDS.map(|_| Vec::new());
        let mut load = Vec::new();
        for round in 1..=self.rounds {
            for (end, samples) in ENDS.into_iter().zip(&mut samples) {
                crate::output::noteln!("round {round}/{}: {}", self.rounds, end.name());
                load.push(site::load()?);
                let turn = self.turn(end, &stop).with_context(|| end.name());
                if stop.load(Ordering::Relaxed) {
                    bail!("interrupted; all is taken down");
                }
                samples.push(turn?);
            }
        }
        let passing = &samples[2];
        let rows = ENDS.into_iter().zip(&samples).map(|(end, samples)| Row {
            contestant: end.name().to_owned(),
            calm: report::figures(samples, passing, |sample| &sample.calm),
            flooded: report::figures(samples, passing, |sample| &sample.flooded),
        });
        let result = Throughput {
            machine: Machine::here(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            rounds: self.rounds,
            seconds: self.seconds,
            flood_per_second: self.flood.0,
            others: crate::compare::spread(&load),
            rows: rows.collect(),
        };
        self.publish(&result)
    }

    fn publish(&self, result: &Throughput) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(result)? + "\n";
        match &self.json {
            Some(file) if file.as_os_str() == "-" => crate::output::say!("{json}"),
            Some(file) => {
                crate::output::say!("{}", result.table());
                std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
            }
            None => crate::output::say!("{}", result.table()),
        }
        Ok(())
    }

    /// A turn, on a wire of its own.
    fn turn(&self, end: End, stop: &AtomicBool) -> anyhow::Result<Sample> {
        let site = Site::new()?;
        let iperf3 = iperf3_server(&site, self.cpus[1])?;
        let contestant = if end == End::Hearken { Contestant::Hearken } else { Contestant::Linux };
        let server = Server::start(&site, contestant, self.cpus[1], self.hearken.as_deref())?;
        server.wait_for(IPERF3)?;
        let passing = match end {
            End::Passing(mode) => {
                let index = site.server_interface()?;
                Some(site.server.enter(|| OnXdp::attach_as(index, Does::Pass, mode))??)
            }
            End::Bare | End::Hearken => None,
        };
        let calm = self.figures(&site)?;
        let flood = step::flood(&site)?;
        let done = AtomicBool::new(false);
        let flooded = std::thread::scope(|scope| {
            let sender = scope.spawn(|| self.send(&site, &flood, &done, stop));
            let figures = self.figures(&site);
            done.store(true, Ordering::Relaxed);
            sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            figures
        })?;
        if end == End::Hearken {
            // iperf3 makes two connections a measurement, wrk sixteen.
            let handed_over = server.handed_over()?;
            ensure!(
                handed_over >= 40,
                "hearken was not in front of all connections: {handed_over} were handed over, 40 are wanted"
            );
        }
        drop((passing, server, iperf3));
        Ok(Sample { calm, flooded })
    }

    /// The flood, in slices, until `done`.
    fn send(&self, site: &Site, flood: &Flood, done: &AtomicBool, stop: &AtomicBool) -> anyhow::Result<()> {
        let slice = Duration::from_millis(100);
        let sent = site.client.enter(|| {
            core_affinity::set_for_current(core_affinity::CoreId { id: self.cpus[0] });
            while !done.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                step::send_at(flood, self.flood.0, slice, stop)?;
            }
            Ok(())
        });
        sent?
    }

    fn figures(&self, site: &Site) -> anyhow::Result<[f64; 3]> {
        Ok([self.iperf3(site, false)?, self.iperf3(site, true)?, self.wrk(site)?])
    }

    /// A program of the clients' side, on its CPU.
    fn client(&self, site: &Site, program: &str) -> Command {
        let mut command = site.client.command("taskset");
        command.args(["-c", &self.cpus[0].to_string(), program]);
        command
    }

    /// Gbit/s of one stream to the server, or from it.
    fn iperf3(&self, site: &Site, from_server: bool) -> anyhow::Result<f64> {
        let mut command = self.client(site, "iperf3");
        command.args(["-J", "-c", &SERVER.to_string(), "-t", &self.seconds.to_string()]);
        if from_server {
            command.arg("-R");
        }
        let said: serde_json::Value = serde_json::from_str(&run(&mut command)?).context("iperf3's JSON")?;
        let rate = said["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(rate.with_context(|| format!("iperf3 says no rate: {said}"))? / 1e9)
    }

    /// Requests a second on connections that are kept.
    fn wrk(&self, site: &Site) -> anyhow::Result<f64> {
        let mut command = self.client(site, "wrk");
        command.args(["-t", "1", "-c", KEPT, "-d", &format!("{}s", self.seconds)]);
        requests_per_second(&run(command.arg(format!("http://{SERVER}/")))?)
    }
}

/// wrk's figure from what it prints.
fn requests_per_second(said: &str) -> anyhow::Result<f64> {
    if said.contains("Non-2xx") || said.contains("Socket errors") {
        bail!("wrk was not served well: {said}");
    }
    let line = said.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    line.and_then(|rate| rate.trim().parse().ok()).with_context(|| format!("wrk says no rate: {said}"))
}

fn iperf3_server(site: &Site, cpu: usize) -> anyhow::Result<Running> {
    let mut command = site.server.command("taskset");
    command.args(["-c", &cpu.to_string(), "iperf3", "-s"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = Running(command.spawn()?);
    let begin = Instant::now();
    while run(site.server.command("ss").args(["-ltnH", &format!("sport = :{IPERF3}")]))?.is_empty() {
        if server.0.try_wait()?.is_some() || begin.elapsed() > PATIENCE {
            bail!("iperf3 -s does not listen on port {IPERF3}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrks_words_are_read() {
        let said = "  1000 requests in 1.00s\nRequests/sec:  61234.50\nTransfer/sec:  1MB\n";
        assert!(requests_per_second(said).is_ok_and(|rate| rate == 61_234.5));
        let errors = "  Socket errors: connect 0, read 3, write 0, timeout 0\nRequests/sec:  6.50\n";
        assert!(requests_per_second(errors).is_err());
        assert!(requests_per_second("unable to connect").is_err());
    }
}
