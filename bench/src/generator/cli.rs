//! The command line of `hearken-load`.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use dataplane::savefile::To;
use dataplane::wire::ether::MacAddr;

use super::cost::CostArgs;
use super::device::SELF;
use super::find_max::{self, Search};
use super::report::{self, Parts, Report, table, write_page};
use super::run::Outcome;
use super::scenario::{self, Scenario};
use super::session::{self, Session};
use super::shield::ShieldArgs;
use super::spec::{Manner, Rate, Spec};
use super::throughput::ThroughputArgs;
use super::versus::{KernelArgs, ListenerArgs};

/// Loads a TCP listener with SYNs or connections at a rate held against the clock, and judges every answer
#[derive(Debug, Parser)]
#[command(name = "hearken-load", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// SYNs alone, from as many sources as a prefix has: a flood whose answers are counted and timed
    Syn(StreamArgs),
    /// Whole connections: SYN, ACK, data if asked for, then FIN or RST
    Connect(StreamArgs),
    /// Several streams at once, from a file
    Mix(MixArgs),
    /// The frames of a capture file, over and over at a rate of their own; SYNs among them are expected to be answered
    Replay(ReplayArgs),
    /// What one wants to know of a server, each a command with a report; on a server in this process
    Scenario(ScenarioArgs),
    Kernel(KernelArgs),
    Shield(ShieldArgs),
    Throughput(ThroughputArgs),
    Cost(CostArgs),
    #[command(hide = true)]
    KernelListener(ListenerArgs),
}

impl Command {
    /// How a run is done, where the command is one.
    const fn run_args(&self) -> Option<&RunArgs> {
        match self {
            Self::Syn(args) | Self::Connect(args) => Some(&args.run),
            Self::Mix(args) => Some(&args.run),
            Self::Replay(args) => Some(&args.run),
            Self::Scenario(args) => Some(&args.run),
            Self::Kernel(_)
            | Self::Shield(_)
            | Self::Throughput(_)
            | Self::Cost(_)
            | Self::KernelListener(_) => None,
        }
    }
}

/// One stream on the command line.
#[derive(Debug, clap::Args)]
pub struct StreamArgs {
    #[command(flatten)]
    spec: Spec,
    #[command(flatten)]
    run: RunArgs,
}

/// Frames from a file.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// Capture file (pcap or pcapng; Ethernet, Linux cooked, raw IP or BSD loopback)
    file: PathBuf,
    /// Send its packets to this address, and port if there is one; once for each family [where they say]
    #[arg(long, value_name = "ADDR[:PORT]")]
    to: Vec<To>,
    /// Frames a second
    #[arg(long, default_value = "100k", value_name = "RATE")]
    rate: Rate,
    #[command(flatten)]
    run: RunArgs,
}

/// A scenario.
#[derive(Debug, clap::Args)]
pub struct ScenarioArgs {
    /// Which
    #[arg(value_enum)]
    name: Scenario,
    #[command(flatten)]
    run: RunArgs,
}

/// Streams from a file.
#[derive(Debug, clap::Args)]
pub struct MixArgs {
    /// TOML: [[stream]] tables, whose keys are the options of syn and connect, and name and mode
    file: PathBuf,
    #[command(flatten)]
    run: RunArgs,
}

/// A file of streams.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct MixFile {
    stream: Vec<Spec>,
}

/// Reads the streams in `file`.
fn read_mix(file: &std::path::Path) -> anyhow::Result<Vec<Spec>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mix: MixFile = toml::from_str(&text).with_context(|| format!("{} is no scenario", file.display()))?;
    ensure!(!mix.stream.is_empty(), "{} has no [[stream]]", file.display());
    Ok(mix.stream)
}

/// How a run is done, whatever it sends.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// A DPDK device such as net_af_packet0,iface=eth1 or 0000:01:00.0; self: a server in this process
    #[arg(long, default_value = SELF)]
    pub device: String,
    /// CPUs that send, one queue pair each [the first]
    #[arg(long, value_delimiter = ',', value_name = "CPU")]
    pub cores: Vec<usize>,
    /// How long SYNs leave: seconds, or with a unit as in 500ms, 10s, 2m
    #[arg(long = "for", alias = "seconds", default_value_t = 10.0, value_parser = crate::time::seconds, value_name = "TIME")]
    pub seconds: f64,
    /// Seconds that answers may take after that
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    pub drain: f64,
    /// Our own address, which asks for the server's MAC address [the first source]
    #[arg(long, value_name = "ADDR")]
    pub address: Option<std::net::IpAddr>,
    /// The router to the server, if it is not on this wire
    #[arg(long, value_name = "ADDR")]
    pub via: Option<std::net::IpAddr>,
    /// The server's or router's MAC address; default: asked for
    #[arg(long, value_name = "MAC")]
    pub to_mac: Option<MacAddr>,
    /// VLAN that all frames are in
    #[arg(long, value_name = "ID")]
    pub vlan: Option<u16>,
    /// Another order of sources and destinations
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// hearken's control socket, to show its counters beside ours
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// With --device self: tcp_syncookies of the server
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub syncookies: u8,
    /// Write the report as JSON to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as one page, to look at and to print
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Write HdrHistogram percentile files: PREFIX.hgrm and one per core
    #[arg(long, value_name = "PREFIX")]
    pub hgrm: Option<String>,
    /// No progress line
    #[arg(long)]
    pub quiet: bool,
    /// Search for the largest rate.
    #[command(flatten)]
    pub search: Search,
}

impl RunArgs {
    /// Looks whether what is to be written at the end can be: a run is too dear to find that out behind it.
    ///
    /// # Errors
    /// A folder that is not there, or may not be written to.
    fn check_outputs(&self) -> anyhow::Result<()> {
        let json = self.json.as_deref().filter(|file| file.as_os_str() != "-");
        let hgrm = self.hgrm.as_ref().map(|prefix| PathBuf::from(format!("{prefix}.hgrm")));
        check_writable(json.into_iter().chain(self.report.as_deref()).chain(hgrm.as_deref()))
    }
}

/// Looks whether `files` can be written, and leaves them as they are.
///
/// # Errors
/// One is a folder, its folder is not there, or there is no right.
pub fn check_writable<'a>(files: impl IntoIterator<Item = &'a Path>) -> anyhow::Result<()> {
    for file in files {
        let cannot = || format!("cannot write {}", file.display());
        ensure!(!file.is_dir(), "cannot write {}: it is a folder", file.display());
        if file.exists() {
            std::fs::OpenOptions::new().append(true).open(file).with_context(cannot)?;
            continue;
        }
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        tempfile::tempfile_in(folder.unwrap_or(Path::new("."))).with_context(cannot)?;
    }
    Ok(())
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub fn run(self) -> anyhow::Result<()> {
        if let Some(args) = self.command.run_args() {
            args.check_outputs()?;
        }
        let (title, specs, args) = match self.command {
            Command::Syn(args) => {
                ("SYNs".to_owned(), vec![Spec { mode: Manner::Syn, ..args.spec }], args.run)
            }
            Command::Connect(args) => {
                ("Connections".to_owned(), vec![Spec { mode: Manner::Connect, ..args.spec }], args.run)
            }
            Command::Kernel(args) => return args.run(),
            Command::Shield(args) => return args.run(),
            Command::Throughput(args) => return args.run(),
            Command::Cost(args) => return args.run(),
            Command::KernelListener(args) => return args.run(),
            Command::Replay(args) => {
                let (report, outcome) = session::replay(&args.file, (args.rate.0, &args.to), &args.run)?;
                return publish(&report, &outcome, &args.run);
            }
            Command::Scenario(args) => return scenario::run(args.name, &args.run),
            Command::Mix(args) => (args.file.display().to_string(), read_mix(&args.file)?, args.run),
        };
        let mut session = Session::open(session::open_wire(&specs, &args)?, &specs, &args)?;
        let (report, outcome) = if args.search.find_max {
            find_max::find(&mut session, &title, &args.search)?
        } else {
            session.measure(&title, (args.seconds, 1.0))?
        };
        session.close()?;
        publish(&report, &outcome, &args)
    }
}

/// Shows `report` and writes what was asked for.
///
/// # Errors
/// A file that cannot be written.
pub fn publish(report: &Report, outcome: &Outcome, args: &RunArgs) -> anyhow::Result<()> {
    let to_stdout = args.json.as_ref().is_some_and(|file| file.as_os_str() == "-");
    match &args.json {
        Some(_) if to_stdout => crate::output::sayln!("{}", serde_json::to_string_pretty(report)?),
        Some(file) => report.write_json(file)?,
        None => {}
    }
    if !to_stdout {
        crate::output::say!("{}", table(report));
    }
    if let Some(file) = &args.report {
        write_page(report, file)?;
        crate::output::noteln!("written: {}", file.display());
    }
    if let Some(prefix) = &args.hgrm {
        crate::output::noteln!("written: {}", report::write_hgrm(outcome, prefix)?.join(", "));
    }
    Ok(())
}

/// Shows the parts of a scenario and writes what was asked for.
///
/// # Errors
/// A file that cannot be written.
pub fn publish_parts(parts: &Parts, args: &RunArgs) -> anyhow::Result<()> {
    let to_stdout = args.json.as_ref().is_some_and(|file| file.as_os_str() == "-");
    let json = serde_json::to_string_pretty(parts)? + "\n";
    match &args.json {
        Some(_) if to_stdout => crate::output::say!("{json}"),
        Some(file) => {
            std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?
        }
        None => {}
    }
    if !to_stdout {
        crate::output::say!("{}", parts.table());
    }
    if let Some(file) = &args.report {
        std::fs::write(file, parts.page()?).with_context(|| format!("cannot write {}", file.display()))?;
        crate::output::noteln!("written: {}", file.display());
    }
    Ok(())
}

/// `2026-11-23 21:40:07`, by the civil calendar.
pub fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of year 0, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, year) } else { (month - 9, year + 1) };
    let year = year + era * 400;
    format!("{year}-{month:02}-{date:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00:00");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(at(1_798_761_599), "2026-12-31 23:59:59");
    }
}
