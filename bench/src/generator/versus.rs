//! `hearken-load kernel`: the same load over the same veth pair against Linux's own TCP and against hearken, in turn.
//!
//! # How it is measured
//! Both servers own the same address behind `hk0`, listen with the same backlog and close what they accept. Both have one CPU: Linux
//! by receive packet steering, without which its work would fall to the generator's; hearken polls there. For hearken the kernel
//! must put frames into its ring on the other CPU, the sender's: on its own, interrupts would keep it from ever polling.
//! Each is offered far more than it can answer, first as SYNs, then as connections: the answers a second are its rate.
//! Then a moderate number of SYNs, which both can answer: how long that takes, and how busy the server's CPU is. (hearken
//! polls, so its CPU always is.) Every contestant has its turn in every round; the table has medians.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use super::cli::check_writable;
use super::netns::{CLIENT_DEV, Running, SERVER_DEV, Wire, run};
use super::report::plots::{Line, odds, percentile_lines};
use super::report::{Report, rate};
use crate::machine::Machine;

const SERVER: &str = "198.18.0.1";
const CLIENT: &str = "198.18.0.2";
/// Where SYNs come from; Linux gets a route there. Each measurement has sources of its own, so that what Linux sends again
/// for an earlier one disturbs none.
const SOURCES: &str = "198.19.0.0/16";
const MODERATE: &str = "198.19.0.0/18";
const CONNECTIONS: &str = "198.19.64.0/18";
const FLOOD: &str = "198.19.128.0/17";
const BACKLOG: i32 = 4096;
/// How long a server may take to start.
const START: Duration = Duration::from_secs(20);

/// The same load against Linux's own TCP and against hearken, over the same veth pair
#[derive(Debug, clap::Args)]
pub struct KernelArgs {
    /// Turns of each contestant
    #[arg(long, default_value_t = 3, value_name = "ROUNDS")]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long = "for", alias = "seconds", default_value_t = 1.0, value_parser = crate::time::seconds, value_name = "TIME")]
    seconds: f64,
    /// SYNs a second that are too many for all
    #[arg(long, default_value = "800k", value_name = "RATE")]
    flood: String,
    /// Connections a second that are too many for all
    #[arg(long, default_value = "200k", value_name = "RATE")]
    connections: String,
    /// SYNs a second that all can answer
    #[arg(long, default_value = "30k", value_name = "RATE")]
    moderate: String,
    /// The generator's CPU, the server's CPU
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1], value_name = "CPU,CPU")]
    cpus: Vec<usize>,
    /// hearken's binary; default: the one beside this
    #[arg(long, value_name = "FILE")]
    hearken: Option<PathBuf>,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the latencies as a picture
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// A listener of Linux's that closes what it accepts; for the comparison
#[derive(Debug, clap::Args)]
pub struct ListenerArgs {
    /// Where
    addr: SocketAddr,
}

impl ListenerArgs {
    /// Accepts and closes until it is ended.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn run(&self) -> anyhow::Result<()> {
        let listener =
            TcpListener::bind(self.addr).with_context(|| format!("cannot listen on {}", self.addr))?;
        // std asks for 128 (as of Rust 1.95), and listen(2) may be called again.
        rustix::net::listen(&listener, BACKLOG)?;
        crate::output::sayln!("listening");
        loop {
            // A connection that is gone before it is accepted is none.
            drop(listener.accept());
        }
    }
}

/// Who, with which `tcp_syncookies`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Contestant {
    hearken: bool,
    syncookies: u8,
}

const CONTESTANTS: [Contestant; 4] = [
    Contestant { hearken: false, syncookies: 1 },
    Contestant { hearken: true, syncookies: 1 },
    Contestant { hearken: false, syncookies: 2 },
    Contestant { hearken: true, syncookies: 2 },
];

impl Contestant {
    fn name(self) -> String {
        let who = if self.hearken { "hearken" } else { "Linux" };
        format!("{who}, syncookies {}", self.syncookies)
    }
}

/// One contestant's medians.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Who.
    pub contestant: String,
    /// SYN-ACKs a second when offered too many SYNs: median, least, greatest.
    pub synacks: [f64; 3],
    /// Handshakes a second that the server confirmed, when offered too many connections.
    pub connections: [f64; 3],
    /// Answers that were wrong, all measurements.
    pub wrong: u64,
    /// At the moderate rate: SYNs without an answer, all rounds, of those sent.
    pub moderate_silent: u64,
    /// See above.
    pub moderate_sent: u64,
    /// At the moderate rate, microseconds to the SYN-ACK: medians over the rounds of p50, p99, p99.9.
    pub latency_us: [f64; 3],
    /// At the moderate rate, share of the time in which the server's CPU was busy.
    pub cpu_busy: f64,
    /// At the moderate rate, the percentiles of the round in the middle.
    pub curve: Vec<(f64, u64)>,
}

/// The comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// The machine.
    pub machine: Machine,
    /// The command line.
    pub command: String,
    /// Rounds.
    pub rounds: usize,
    /// Seconds of a measurement.
    pub seconds: f64,
    /// SYNs, connections and SYNs offered a second.
    pub offered: [String; 3],
    /// The contestants.
    pub rows: Vec<Row>,
}

/// What one turn brought.
struct Turn {
    flood: Report,
    connections: Report,
    moderate: Report,
}

impl KernelArgs {
    /// Runs the comparison and shows it.
    ///
    /// # Errors
    /// No right to make namespaces, or a contestant that does not start.
    pub fn run(&self) -> anyhow::Result<()> {
        ensure!(self.cpus.len() == 2 && self.rounds > 0, "--cpus wants two numbers, --rounds more than 0");
        check_writable(self.json.as_deref().into_iter().chain(self.plot.as_deref()))?;
        let mut turns: Vec<Vec<Turn>> = CONTESTANTS.iter().map(|_| Vec::new()).collect();
        for round in 1..=self.rounds {
            for (contestant, turns) in CONTESTANTS.iter().zip(&mut turns) {
                let turn = self.turn(*contestant).with_context(|| contestant.name())?;
                crate::output::noteln!(
                    "round {round}/{}: {:22} {}/s SYN-ACKs, {}/s connections",
                    self.rounds,
                    contestant.name(),
                    rate(answered(&turn.flood)),
                    rate(connected(&turn.connections))
                );
                turns.push(turn);
            }
        }
        let comparison = Comparison {
            machine: Machine::here(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            rounds: self.rounds,
            seconds: self.seconds,
            offered: [self.flood.clone(), self.connections.clone(), self.moderate.clone()],
            rows: CONTESTANTS.iter().zip(&turns).map(|(who, turns)| row(*who, turns, self.cpus[1])).collect(),
        };
        crate::output::say!("{}", comparison.table());
        if let Some(file) = &self.json {
            let text = serde_json::to_string_pretty(&comparison)? + "\n";
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if let Some(file) = &self.plot {
            std::fs::write(file, comparison.plot()?)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// One turn on a wire of its own, so that nobody inherits another's half-open handshakes.
    fn turn(&self, contestant: Contestant) -> anyhow::Result<Turn> {
        let wire = Wire::new()?;
        let dir = tempfile::Builder::new().prefix("hearken-versus").tempdir()?;
        let _server = if contestant.hearken {
            self.hearken(&wire, contestant.syncookies, dir.path())?
        } else {
            self.linux(&wire, contestant.syncookies)?
        };
        let load = |mode: &str, from: &str, rate: &str| {
            self.load(&wire, (mode, from, rate), &dir.path().join("report.json"))
        };
        Ok(Turn {
            moderate: load("syn", MODERATE, &self.moderate)?,
            connections: load("connect", CONNECTIONS, &self.connections)?,
            flood: load("syn", FLOOD, &self.flood)?,
        })
    }

    fn linux(&self, wire: &Wire, syncookies: u8) -> anyhow::Result<Running> {
        let server = &wire.server;
        wire.steer(self.cpus[1])?;
        server.ip(&format!("addr add {SERVER}/24 dev {SERVER_DEV}"))?;
        server.ip(&format!("route add {SOURCES} via {CLIENT}"))?;
        server.sysctl("ipv4/tcp_syncookies", &syncookies.to_string())?;
        server.sysctl("core/somaxconn", &BACKLOG.to_string())?;
        server.sysctl("ipv4/tcp_max_syn_backlog", &BACKLOG.to_string())?;
        let us = std::env::current_exe()?;
        let mut command = server.command("taskset");
        command
            .args(["-c", &self.cpus[1].to_string()])
            .arg(us)
            .args(["kernel-listener", &format!("{SERVER}:80")]);
        let mut child = Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
        let mut said = String::new();
        let stdout = child.0.stdout.take().context("a pipe")?;
        BufReader::new(stdout).read_line(&mut said)?;
        ensure!(said.trim() == "listening", "Linux's listener did not start");
        Ok(child)
    }

    fn hearken(&self, wire: &Wire, syncookies: u8, dir: &Path) -> anyhow::Result<Running> {
        let (socket, file) = (dir.join("control.sock"), dir.join("hearken.toml"));
        let config = format!(
            "[control]\nsocket = {socket:?}\n[eal]\nfile_prefix = \"hearken-versus-{pid}\"\n[workers]\ncores = [{cpu}]\n\
             [sysctl]\ntcp_syncookies = {syncookies}\ntcp_max_syn_backlog = {BACKLOG}\n[[port]]\nname = \"wire\"\n\
             device = \"net_af_packet0,iface={SERVER_DEV},qpairs=1,framecnt=4096,qdisc_bypass=1\"\naddresses = [\"{SERVER}/24\"]\n\
             [[listener]]\naddr = \"{SERVER}:80\"\nbacklog = {BACKLOG}\nthen = \"close\"\n",
            pid = std::process::id(),
            cpu = self.cpus[1],
        );
        std::fs::write(&file, config)?;
        let binary = self.hearken.clone().unwrap_or_else(beside_us);
        let mut command = wire.server.command(&binary.display().to_string());
        command.args(["run", "--config"]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = Running(command.spawn()?);
        let begin = Instant::now();
        while super::device::ask(&socket).is_err() {
            if child.0.try_wait()?.is_some() || begin.elapsed() > START {
                bail!(
                    "hearken did not start; is {} built? (cargo build --release -p dataplane, or --hearken FILE)",
                    binary.display()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(child)
    }

    fn load(
        &self,
        wire: &Wire,
        (mode, from, rate): (&str, &str, &str),
        file: &Path,
    ) -> anyhow::Result<Report> {
        let us = std::env::current_exe()?;
        let mut command = wire.client.command(&us.display().to_string());
        let device = format!("net_af_packet0,iface={CLIENT_DEV},qpairs=1,framecnt=4096,qdisc_bypass=1");
        command.args([
            mode,
            "--device",
            &device,
            "--address",
            CLIENT,
            "--to",
            SERVER,
            "--from",
            from,
            "--rate",
            rate,
        ]);
        command.args(["--for", &self.seconds.to_string(), "--drain", "0.3", "--quiet"]);
        command.args(["--cores", &self.cpus[0].to_string(), "--json"]).arg(file);
        run(&mut command)?;
        serde_json::from_str(&std::fs::read_to_string(file)?).context("the generator's report")
    }
}

/// `hearken` beside this binary.
pub(super) fn beside_us() -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name("hearken")
}

fn count(report: &Report, name: &str) -> f64 {
    report.streams.iter().filter_map(|stream| stream.counts.get(name)).sum::<u64>() as f64
}

/// SYN-ACKs a second.
fn answered(report: &Report) -> f64 {
    count(report, "synack") / report.seconds
}

/// Connections a second whose end the server confirmed: a handshake that only we believe in does not count.
fn connected(report: &Report) -> f64 {
    count(report, "closed") / report.seconds
}

/// Median, least and greatest.
fn spread(turns: &[Turn], number: impl Fn(&Turn) -> f64) -> [f64; 3] {
    crate::compare::spread(&turns.iter().map(number).collect::<Vec<_>>())
}

fn row(contestant: Contestant, turns: &[Turn], cpu: usize) -> Row {
    let latency =
        |turn: &Turn| turn.moderate.streams.first().and_then(|stream| stream.latency.get("synack").copied());
    let us = |of: fn(&super::report::Percentiles) -> u64| {
        spread(turns, |turn| latency(turn).map_or(0.0, |latency| of(&latency) as f64 / 1000.0))[0]
    };
    let wrong = |report: &Report| report.streams.iter().map(|stream| stream.wrong).sum::<u64>();
    let busy =
        |turn: &Turn| turn.moderate.cpu_busy.iter().find(|(of, _)| *of == cpu).map_or(0.0, |(_, busy)| *busy);
    let mut by_tail: Vec<&Turn> = turns.iter().collect();
    by_tail.sort_by_key(|turn| latency(turn).map_or(0, |latency| latency.p99_9));
    let middle = by_tail.get(by_tail.len() / 2).and_then(|turn| turn.moderate.cores.first());
    Row {
        contestant: contestant.name(),
        synacks: spread(turns, |turn| answered(&turn.flood)),
        connections: spread(turns, |turn| connected(&turn.connections)),
        wrong: turns
            .iter()
            .map(|turn| wrong(&turn.flood) + wrong(&turn.connections) + wrong(&turn.moderate))
            .sum(),
        moderate_silent: turns
            .iter()
            .flat_map(|turn| &turn.moderate.streams)
            .map(|stream| stream.silent)
            .sum(),
        moderate_sent: turns.iter().map(|turn| count(&turn.moderate, "sent") as u64).sum(),
        latency_us: [us(|p| p.p50), us(|p| p.p99), us(|p| p.p99_9)],
        cpu_busy: spread(turns, busy)[0],
        curve: middle.map_or_else(Vec::new, |core| core.curve.clone()),
    }
}

impl Comparison {
    /// As Markdown, which is also good to read on a terminal.
    pub fn table(&self) -> String {
        let [flood, connections, moderate] = &self.offered;
        let mut text = format!(
            "{}\none veth pair, af_packet; medians [least, greatest] of {} rounds of {} s; offered {flood} SYNs/s, {connections} \
             connections/s, {moderate} SYNs/s\n\n\
             | | SYN-ACKs a second | connections a second | at {moderate} SYNs/s: p50, p99, p99.9 us | unanswered | server's CPU busy |\n\
             |---|---|---|---|---|---|\n",
            self.machine, self.rounds, self.seconds
        );
        for row in &self.rows {
            let of = |[median, least, most]: [f64; 3]| {
                format!("{} [{}, {}]", rate(median), rate(least), rate(most))
            };
            let [p50, p99, p999] = row.latency_us;
            text += &format!(
                "| {} | {} | {} | {p50:.0}, {p99:.0}, {p999:.0} | {} of {} | {:.0} % |\n",
                row.contestant,
                of(row.synacks),
                of(row.connections),
                row.moderate_silent,
                row.moderate_sent,
                row.cpu_busy * 100.0
            );
        }
        let wrong: u64 = self.rows.iter().map(|row| row.wrong).sum();
        text + &format!("\nwrong answers: {wrong}\n")
    }

    /// Latencies at the moderate rate.
    ///
    /// # Errors
    /// What the drawing library says.
    pub fn plot(&self) -> anyhow::Result<String> {
        let lines: Vec<Line> =
            self.rows.iter().map(|row| (row.contestant.clone(), odds(&row.curve))).collect();
        percentile_lines(&lines)
    }
}
