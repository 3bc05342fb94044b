//! A device that is open, and one run after another on it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use dataplane::savefile::{Retarget, To};
use dataplane::wire::ether::{HEADER_LEN, MacAddr};
use listener::types::{InetAddr, Then};

use super::cli::{RunArgs, utc};
use super::device::{self, OwnSetup, SELF, Wire};
use super::neighbour::{self, resolve};
use super::plan::{Plan, Stream};
use super::replay::{Frames, Replay};
use super::report::{self, About, Report};
use super::run::{Outcome, Sample, run};
use super::spec::{Manner, Net, Rate, Spec, disjoint};
use super::tally::{Count, Counts};
use super::template::Link;

/// How long a neighbour may take to say its MAC address.
const PATIENCE: Duration = Duration::from_secs(3);
/// Addresses of a file that a server in this process has.
const TARGETS_MAX: usize = 256;

/// A device that is open, and the streams that it is to carry.
pub struct Session {
    /// The device.
    pub wire: Wire,
    link: Link,
    /// Behind the flows of all earlier runs: what comes late of them is then known for that.
    next_flow: u64,
    plan: Plan,
    specs: Vec<Spec>,
    args: RunArgs,
    /// What there is to say of every run.
    notes: Vec<String>,
    stop: Arc<AtomicBool>,
}

impl Session {
    /// Opens the device and finds the server.
    ///
    /// # Errors
    /// A device that does not open, a server that does not answer, streams that make no sense.
    pub fn open(mut wire: Wire, specs: &[Spec], args: &RunArgs) -> anyhow::Result<Self> {
        ensure!(args.seconds > 0.0 && args.drain >= 0.0, "--for and --drain are spans of time");
        let stop = stop_flag()?;
        let first = specs.first().context("a run has a stream")?;
        let own = args.address.map(InetAddr::from);
        let dst = mac_of_neighbour(&mut wire, args, (first.to().addr, host(first.from())))?;
        let link = Link { src: wire.mac, dst, vlan: args.vlan };
        let plan = Plan {
            streams: Vec::new(),
            mac: wire.mac,
            own: own.into_iter().collect(),
            seconds: args.seconds,
            drain: args.drain,
        };
        let mut session = Self {
            wire,
            link,
            next_flow: 0,
            plan,
            specs: Vec::new(),
            args: args.clone(),
            notes: Vec::new(),
            stop,
        };
        session.load(specs)?;
        Ok(session)
    }

    /// Opens the device for the frames of `file`, at `rate` a second.
    ///
    /// # Errors
    /// As [`Session::open`], or a file that cannot be read.
    fn for_replay(wire: Wire, (replay, rate): (Replay, f64), args: &RunArgs) -> anyhow::Result<Self> {
        let spec = Spec { rate: Some(Rate(rate)), ..Spec::default() };
        let link = Link { src: wire.mac, dst: wire.mac, vlan: None };
        let stream = Stream::replay("replay", spec.schedule(args.seconds, 1.0), Arc::new(replay));
        let plan = Plan {
            streams: vec![Arc::new(stream)],
            mac: wire.mac,
            own: args.address.map(InetAddr::from).into_iter().collect(),
            seconds: args.seconds,
            drain: args.drain,
        };
        let stop = stop_flag()?;
        let (args, notes) = (args.clone(), Vec::new());
        Ok(Self { wire, link, next_flow: 0, plan, specs: vec![spec], args, notes, stop })
    }

    /// Takes other streams.
    ///
    /// # Errors
    /// Streams that make no sense, alone or together.
    pub fn load(&mut self, specs: &[Spec]) -> anyhow::Result<()> {
        disjoint(specs)?;
        let mut streams = Vec::with_capacity(specs.len());
        for (spec, seed) in specs.iter().zip(self.args.seed..) {
            let stream = spec.stream(&self.link, self.args.seconds, seed)?;
            streams.push(Arc::new(stream.again(stream.schedule, self.next_flow)));
        }
        self.plan.streams = streams;
        self.specs = specs.to_vec();
        Ok(())
    }

    /// True once the run is to end early.
    pub fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Runs the streams for `seconds`, after those of earlier runs; `scale` times their rates.
    ///
    /// # Errors
    /// A thread that fails, or a server that cannot be asked.
    pub fn measure(
        &mut self,
        title: &str,
        (seconds, scale): (f64, f64),
    ) -> anyhow::Result<(Report, Outcome)> {
        let before = self.wire.server_state(self.args.socket.as_ref())?;
        let begun = utc(SystemTime::now());
        let outcome = self.once(seconds, scale)?;
        let after = self.wire.server_state(self.args.socket.as_ref())?;
        let mut notes = self.notes.clone();
        if self.wire.own.is_some() {
            notes.push(
                "Generator and server share one process and one machine, and DPDK rings stand for the wire: the numbers \
                 are of this machine's CPUs and caches, not of a NIC."
                    .to_owned(),
            );
        }
        if let Some(off) = report::worst_second(&self.plan, &outcome) {
            let off = off * 100.0;
            notes.push(format!("The rate of the worst second differed by {off:.2} % from the one due."));
        }
        let about = About { title: title.to_owned(), device: self.wire.name.clone(), begun, notes };
        let report = Report::new(&self.plan, &outcome, about, before.zip(after));
        Ok((report, outcome))
    }

    /// One run.
    fn once(&mut self, seconds: f64, scale: f64) -> anyhow::Result<Outcome> {
        let streams = self.plan.streams.iter().zip(&self.specs);
        let streams = streams
            .map(|(stream, spec)| Arc::new(stream.again(spec.schedule(seconds, scale), self.next_flow)));
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
        self.next_flow = self.plan.streams.iter().map(|stream| stream.end()).max().unwrap_or(0);
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

/// Opens what `--device` names.
///
/// # Errors
/// A device that does not open.
pub fn open_wire(specs: &[Spec], args: &RunArgs) -> anyhow::Result<Wire> {
    if args.device == SELF { open_self(specs, args) } else { device::open(&args.device, &args.cores) }
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

/// Rises with SIGINT or SIGTERM.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// The MAC address that frames to `target` go to, asked for from `source` unless the command line says who asks.
fn mac_of_neighbour(
    wire: &mut Wire,
    args: &RunArgs,
    (target, source): (InetAddr, InetAddr),
) -> anyhow::Result<MacAddr> {
    if let Some(mac) = args.to_mac {
        return Ok(mac);
    }
    let target = args.via.map_or(target, InetAddr::from);
    let source = args.address.map_or(source, InetAddr::from);
    let mut ios: Vec<_> = wire.queues.iter_mut().map(|(_, io)| Borrowed(io)).collect();
    resolve(&mut ios, target, (source, wire.mac, args.vlan), PATIENCE)
}

/// Sends the frames of `file` over and over at `rate` a second, to the addresses `to` if there are any.
///
/// # Errors
/// A file or device that does not open, or a server that does not say its MAC address.
pub fn replay(file: &Path, (rate, to): (f64, &[To]), args: &RunArgs) -> anyhow::Result<(Report, Outcome)> {
    ensure!(args.cores.len() < 2, "a file is replayed by one core, in its order; --cores wants one");
    ensure!(!args.search.find_max, "--find-max goes with syn, connect and mix");
    let to = Retarget::new(to).map_err(anyhow::Error::msg)?;
    let mut frames = Frames::read(file, &to)?;
    let targets = frames.targets();
    let specs = targets.iter().take(TARGETS_MAX).map(|(addr, _)| Spec {
        to: Some(Net { addr: *addr, len: if addr.is_v4() { 32 } else { 128 } }),
        ..Spec::default()
    });
    let specs: Vec<Spec> = specs.collect();
    let mut wire = open_wire(&specs, args)?;
    let (mtu, mut probe) = (usize::from(wire.mtu), wire.alloc());
    frames.keep(file, |frame| {
        let (packet, len) =
            (frame.len() - neighbour::packet(frame).map_or(HEADER_LEN, |(_, at)| at), frame.len());
        if packet > mtu {
            return Err(format!(
                "has {len} octets, {packet} of them a packet, and the device's MTU is {mtu}"
            ));
        }
        let fits = probe.as_mut().is_none_or(|probe| probe.set_len(len));
        fits.then_some(()).ok_or_else(|| format!("has {len} octets, more than a buffer of the device holds"))
    })?;
    drop(probe);
    let dst = match (args.to_mac, targets.first()) {
        (Some(mac), _) => mac,
        (None, Some(first)) => mac_of_neighbour(&mut wire, args, *first)?,
        (None, None) => bail!("{} holds no TCP segment to find the server by; give --to-mac", file.display()),
    };
    frames.address(Some(wire.mac), dst);
    let notes = frames.notes();
    if !args.quiet {
        notes.iter().for_each(|note| crate::output::noteln!("{note}"));
    }
    let replay = Replay::new(frames);
    let title = format!("{}: {} frames", file.display(), replay.len());
    let mut session = Session::for_replay(wire, (replay, rate), args)?;
    session.notes = notes;
    let measured = session.measure(&title, (args.seconds, 1.0));
    session.close()?;
    measured
}

/// A queue pair that is lent.
struct Borrowed<'a, I>(&'a mut I);

impl<I: dataplane::io::PacketIo> dataplane::io::PacketIo for Borrowed<'_, I> {
    type Frame = I::Frame;

    fn rx_burst(&mut self, into: &mut [Option<I::Frame>]) -> usize {
        self.0.rx_burst(into)
    }

    fn tx_burst(&mut self, from: &mut [Option<I::Frame>]) -> dataplane::io::Sent {
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
            crate::output::note!("\r\x1b[K{line}")
        } else {
            crate::output::noteln!("{line}")
        }
        self.last = (sample.at, now);
    }

    fn end(&self) {
        if self.terminal && !self.quiet {
            crate::output::note!("\r\x1b[K");
        }
    }
}
