//! The command line of `hearken-load`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use dataplane::wire::ether::MacAddr;
use listener::types::{InetAddr, Then};

use super::device::{self, OwnSetup, SELF, Wire};
use super::neighbour::resolve;
use super::plan::Plan;
use super::report::{self, About, Report, table};
use super::run::{Outcome, Sample, run};
use super::spec::{Manner, Net, Spec, disjoint};
use super::tally::{Count, Counts};
use super::template::Link;

/// How long a neighbour may take to say its MAC address.
const PATIENCE: Duration = Duration::from_secs(3);

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
}

/// One stream on the command line.
#[derive(Debug, clap::Args)]
pub struct StreamArgs {
    #[command(flatten)]
    spec: Spec,
    #[command(flatten)]
    run: RunArgs,
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
    /// Seconds in which SYNs leave
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
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
    /// Write HdrHistogram percentile files: PREFIX.hgrm and one per core
    #[arg(long, value_name = "PREFIX")]
    pub hgrm: Option<String>,
    /// No progress line
    #[arg(long)]
    pub quiet: bool,
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub fn run(self) -> anyhow::Result<()> {
        let (mode, args) = match self.command {
            Command::Syn(args) => (Manner::Syn, args),
            Command::Connect(args) => (Manner::Connect, args),
        };
        let spec = Spec { mode, ..args.spec };
        let title = format!("hearken-load {}", spec.name());
        let specs = [spec];
        let mut session = Session::open(&specs, &args.run)?;
        let (report, outcome) = session.measure(&title, args.run.seconds)?;
        session.close()?;
        publish(&report, &outcome, &args.run)
    }
}

/// Shows `report` and writes what was asked for.
///
/// # Errors
/// A file that cannot be written.
pub fn publish(report: &Report, outcome: &Outcome, args: &RunArgs) -> anyhow::Result<()> {
    let to_stdout = args.json.as_ref().is_some_and(|file| file.as_os_str() == "-");
    match &args.json {
        Some(_) if to_stdout => println!("{}", serde_json::to_string_pretty(report)?),
        Some(file) => report.write_json(file)?,
        None => {}
    }
    if !to_stdout {
        print!("{}", table(report));
    }
    if let Some(prefix) = &args.hgrm {
        eprintln!("written: {}", report::write_hgrm(outcome, prefix)?.join(", "));
    }
    Ok(())
}

/// A device that is open, and the streams that it is to carry.
pub struct Session {
    /// The device.
    pub wire: Wire,
    plan: Plan,
    specs: Vec<Spec>,
    args: RunArgs,
    stop: Arc<AtomicBool>,
}

impl Session {
    /// Opens the device and finds the server.
    ///
    /// # Errors
    /// A device that does not open, a server that does not answer, streams that make no sense.
    pub fn open(specs: &[Spec], args: &RunArgs) -> anyhow::Result<Self> {
        ensure!(args.seconds > 0.0 && args.drain >= 0.0, "--seconds and --drain are spans of time");
        disjoint(specs)?;
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second one ends the process at once.
            signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let mut wire = if args.device == SELF {
            open_self(specs, args)?
        } else {
            device::open(&args.device, &args.cores)?
        };
        let first = specs.first().context("a run has a stream")?;
        let own = args.address.map(InetAddr::from);
        let dst = match args.to_mac {
            Some(mac) => mac,
            None => {
                let target = args.via.map_or(first.to().addr, InetAddr::from);
                let source = own.unwrap_or_else(|| host(first.from()));
                let mut queues: Vec<_> = wire.queues.drain(..).collect();
                let mut ios: Vec<_> = queues.iter_mut().map(|(_, io)| Borrowed(io)).collect();
                let found = resolve(&mut ios, target, (source, wire.mac, args.vlan), PATIENCE);
                drop(ios);
                wire.queues = queues;
                found?
            }
        };
        let link = Link { src: wire.mac, dst, vlan: args.vlan };
        let streams = specs.iter().zip(args.seed..);
        let streams = streams.map(|(spec, seed)| spec.stream(&link, args.seconds, seed).map(Arc::new));
        let plan = Plan {
            streams: streams.collect::<anyhow::Result<_>>()?,
            mac: wire.mac,
            own: own.into_iter().collect(),
            seconds: args.seconds,
            drain: args.drain,
        };
        Ok(Self { wire, plan, specs: specs.to_vec(), args: args.clone(), stop })
    }

    /// Runs the streams for `seconds`, after those of earlier runs; `scale` times their rates.
    ///
    /// # Errors
    /// A thread that fails, or a server that cannot be asked.
    pub fn measure(&mut self, title: &str, seconds: f64) -> anyhow::Result<(Report, Outcome)> {
        let before = self.wire.server_state(self.args.socket.as_ref())?;
        let begun = utc(SystemTime::now());
        let outcome = self.once(seconds)?;
        let after = self.wire.server_state(self.args.socket.as_ref())?;
        let mut notes = Vec::new();
        if self.wire.own.is_some() {
            notes.push(
                "Generator and server share one process and one machine, and DPDK rings stand for the wire: the numbers \
                 are of this machine's CPUs and caches, not of a NIC."
                    .to_owned(),
            );
        }
        let about = About { title: title.to_owned(), device: self.wire.name.clone(), begun, notes };
        let report = Report::new(&self.plan, &outcome, about, before.zip(after));
        Ok((report, outcome))
    }

    /// One run.
    fn once(&mut self, seconds: f64) -> anyhow::Result<Outcome> {
        let streams = self.plan.streams.iter().zip(&self.specs);
        let streams = streams.map(|(stream, spec)| {
            let first = if stream.schedule.total() == 0 { 0 } else { stream.first_flow };
            Arc::new(stream.again(spec.schedule(seconds), first))
        });
        self.plan = Plan { streams: streams.collect(), seconds, ..self.plan.clone() };
        let plan = Arc::new(self.plan.clone());
        let queues = std::mem::take(&mut self.wire.queues);
        let cpus: Vec<usize> = queues.iter().map(|(cpu, _)| *cpu).collect();
        let mut progress = Progress::new(self.args.quiet);
        let ran = run(queues, &plan, (self.wire.enter(), self.wire.yields), &self.stop, |sample| {
            progress.show(sample)
        });
        progress.end();
        let (queues, outcome) = ran?;
        self.wire.queues = cpus.into_iter().zip(queues).collect();
        for stream in &mut self.plan.streams {
            *stream = Arc::new(stream.again(stream.schedule, stream.end()));
        }
        Ok(outcome)
    }

    /// Closes the device.
    ///
    /// # Errors
    /// What a server in this process ended by.
    pub fn close(self) -> anyhow::Result<()> {
        self.wire.close()
    }
}

/// A server in this process with the listeners that `specs` expect.
fn open_self(specs: &[Spec], args: &RunArgs) -> anyhow::Result<Wire> {
    ensure!(args.vlan.is_none(), "--vlan: a server in this process has no VLAN");
    let mut local: Vec<Net> = specs.iter().map(Spec::to).collect();
    local.dedup();
    let setup = OwnSetup { syncookies: args.syncookies, local, extra: String::new() };
    let wire = device::open_self(&setup, &args.cores)?;
    let own = wire.own.as_ref().context("it is a server in this process")?;
    let mut open = std::collections::BTreeSet::new();
    for spec in specs {
        let any = if spec.to().addr.is_v4() { InetAddr::ANY_V4 } else { InetAddr::ANY_V6 };
        let then = if spec.mode == Manner::Connect { Then::Close } else { Then::Queue };
        for port in spec.port().0..=spec.port().1 {
            if open.insert((any, port)) {
                own.listen((std::net::IpAddr::from(any), port).into(), 4096, then)?;
            }
        }
    }
    Ok(wire)
}

/// An address of `net` that may ask: not the network's own.
fn host(net: Net) -> InetAddr {
    let bits = if net.addr.is_v4() { 32 } else { 128 } - u32::from(net.len);
    if bits >= 2 && net.addr.lo() & 1 == 0 {
        InetAddr::v6(net.addr.hi(), net.addr.lo() | 1)
    } else {
        net.addr
    }
}

/// A queue pair that is lent.
struct Borrowed<'a, I>(&'a mut I);

impl<I: dataplane::io::PacketIo> dataplane::io::PacketIo for Borrowed<'_, I> {
    type Frame = I::Frame;

    fn rx_burst(&mut self, into: &mut [Option<I::Frame>]) -> usize {
        self.0.rx_burst(into)
    }

    fn tx_burst(&mut self, from: &mut [Option<I::Frame>]) -> usize {
        self.0.tx_burst(from)
    }

    fn alloc(&mut self) -> Option<I::Frame> {
        self.0.alloc()
    }

    fn capabilities(&self) -> dataplane::io::Capabilities {
        self.0.capabilities()
    }
}

/// The line that changes while a run lasts, on a terminal; a line a second elsewhere.
struct Progress {
    quiet: bool,
    terminal: bool,
    last: (f64, Counts),
}

impl Progress {
    fn new(quiet: bool) -> Self {
        use std::io::IsTerminal;
        Self { quiet, terminal: std::io::stderr().is_terminal(), last: (0.0, Counts::default()) }
    }

    fn show(&mut self, sample: &Sample) {
        if self.quiet || sample.at - self.last.0 < 0.99 {
            return;
        }
        let mut now = Counts::default();
        sample.counts.iter().for_each(|counts| now.merge(counts));
        let span = sample.at - self.last.0;
        let rate = |count| report::rate((now.of(count) - self.last.1.of(count)) as f64 / span);
        let answered = now.answered();
        let line = format!(
            "{:6.1} s  sent {}/s  SYN-ACK {}/s  RST {}/s  unanswered {}  wrong {}  again {}",
            sample.at,
            rate(Count::Sent),
            rate(Count::SynAck),
            rate(Count::Rst),
            now.of(Count::Sent).saturating_sub(answered),
            now.wrong(),
            now.of(Count::Again)
        );
        if self.terminal {
            eprint!("\r\x1b[K{line}")
        } else {
            eprintln!("{line}")
        }
        self.last = (sample.at, now);
    }

    fn end(&self) {
        if self.terminal && !self.quiet {
            eprint!("\r\x1b[K");
        }
    }
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

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00:00");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(at(1_798_761_599), "2026-12-31 23:59:59");
    }
}
