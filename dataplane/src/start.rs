//! Configuration in, running workers out; and the run itself, from the first check to the last report.
//!
//! [`start`] makes what runs ([`Running`]) and knows nothing of sockets or signals, so a test or an example can do the
//! same; [`run`] is `hearken run`: it adds the control socket, the signals and the report at the end. The only match
//! on what kind of I/O a port is stands here.

pub mod cookie_secret;
pub mod cores;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod frames;
mod health;
pub mod machine;
mod notify;
pub mod numa;
mod run;
mod signals;
pub mod stack;
pub mod surroundings;
pub mod team;
#[cfg(feature = "dpdk")]
mod telemetry;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use listener::Core;

use crate::clock::{Clock, RealClock};
use crate::config::{self, Config, ConfigError, Cores, Device, Port};
use crate::control::capture::Captures;
use crate::control::cookie_keys::CookieDesk;
use crate::control::numbers::Numbers;
use crate::control::proto::{Latency, PortClock, Stats};
use crate::control::reload::Loaded;
use crate::control::server::{BindError, Server};
use crate::control::service::{Desk, DeviceState, Devices, dev_index};
use crate::control::top::TopWindow;
use crate::control::why::DryRuns;
use crate::histogram::Reporter;
use crate::io::PacketIo;
use crate::io::pcap::{Pcap, PcapConfig};
use crate::local::LocalTable;
use crate::stats::CoreStats;
use crate::wire::ether::MacAddr;
use crate::worker::{self, HandOff, Idle, Worker, WorkerConfig};
use team::Team;

pub use run::{check, run};

/// The MAC address of a `pcap:` port that has none: a locally administered one.
const PCAP_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// Why nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration does not fit this machine, or itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The control socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The machine or DPDK.
    #[error("{0}")]
    Run(String),
}

/// Workers that poll, and everything that belongs to them.
pub struct Running {
    /// The other ends of `ring_pair` ports, queue by queue, for a client in this process. To be dropped before
    /// [`Running::stop`], or taken out and dropped on the thread that started.
    #[cfg(feature = "dpdk")]
    pub peers: Vec<crate::io::dpdk::DpdkIo>,
    /// DPDK, where it runs: for threads of the caller that use [`Running::peers`].
    #[cfg(feature = "dpdk")]
    pub eal: Option<::dpdk::Eal>,
    /// What control requests are answered from.
    pub desk: Desk<Box<dyn Devices>>,
    stats: Vec<Arc<CoreStats>>,
    team: Team,
    /// Becomes readable when a link changes, where the kernel tells.
    links: Option<OwnedFd>,
}

/// What there is to say at the end.
#[derive(Clone, Debug)]
pub struct FinalReport {
    /// All counters.
    pub stats: Stats,
    /// All latencies.
    pub latency: Latency,
}

/// Starts the devices, the stack with its listeners, and the workers; returns once all of them poll.
///
/// # Errors
/// What keeps it from running; nothing is left running then.
pub fn start(config: &Config) -> Result<Running, StartError> {
    stack::rehearse(config)?;
    let cores = numa::local(config, cores::choose(config, &cores::allowed())?, Path::new("/sys"))?;
    if let Some(problem) = machine::problems(config).into_iter().next() {
        return Err(StartError::Run(problem));
    }
    match config.port.first().map(|port| port.device.get_ref()) {
        Some(Device::Dpdk(_) | Device::RingPair { .. }) => start_dpdk(config, cores),
        Some(Device::Pcap { .. }) | None => start_pcap(config, cores),
    }
}

#[cfg(feature = "dpdk")]
fn start_dpdk(config: &Config, cores: Vec<usize>) -> Result<Running, StartError> {
    let (opened, devices) = dpdk::open(config, cores.len())?;
    let (mut ports, mut peers) = (Vec::with_capacity(opened.len()), Vec::new());
    for port in opened {
        peers.extend(port.peers);
        ports.push(OpenPort { queues: port.queues, mac: port.mac, mtu: port.mtu });
    }
    let (eal, handle) = (devices.eal.clone(), Some(devices.eal.clone()));
    let links =
        devices.link_news().map_err(|error| StartError::Run(format!("no descriptor is left: {error}")))?;
    let lcores = telemetry::Lcores::default();
    let entered = lcores.clone();
    let enter = move |worker: usize| {
        let lcore = eal.register_thread().map_err(|error| error.to_string())?;
        entered.add(lcore.id(), worker);
        Ok(lcore)
    };
    let clock = crate::io::dpdk::clock();
    #[cfg_attr(not(feature = "kernel"), allow(unused_mut))]
    let mut running = start_workers(config, cores, ports, Box::new(devices), (clock, enter))?;
    #[cfg(feature = "kernel")]
    {
        let mut clock = clock;
        if let Err(error) = running.desk.begin_kernel(move || clock.now()) {
            let _ = running.stop();
            return Err(StartError::Run(error));
        }
    }
    if let Some(eal) = handle.as_ref().filter(|_| config.eal.telemetry) {
        let registered = telemetry::register(eal, &running.stats, &running.desk, lcores);
        registered.map_err(|error| StartError::Run(error.to_string()))?;
    }
    Ok(Running { peers, eal: handle, links, ..running })
}

#[cfg(not(feature = "dpdk"))]
fn start_dpdk(_config: &Config, _cores: Vec<usize>) -> Result<Running, StartError> {
    Err(StartError::Run(
        "this hearken was built without DPDK; use pcap: files, or build it with the feature \"dpdk\"".into(),
    ))
}

fn start_pcap(config: &Config, cores: Vec<usize>) -> Result<Running, StartError> {
    let mut ports = Vec::with_capacity(config.port.len());
    for port in &config.port {
        let Device::Pcap { input, output } = port.device.get_ref() else { continue };
        let mac = port.mac.as_ref().map_or(PCAP_MAC, |mac| mac.get_ref().0);
        let files = PcapConfig { rx: Some(input.clone()), mac, looped: false, tx: output.clone() };
        let name = port.name.get_ref();
        let io = Pcap::open(&files).map_err(|error| StartError::Run(format!("port \"{name}\": {error}")))?;
        let (frames, addresses) = (io.frames(), addresses(port));
        tracing::info!(port = name, device = %port.device.get_ref(), frames, %mac, addresses, "port");
        ports.push(OpenPort { queues: vec![io], mac, mtu: *port.mtu.get_ref() });
    }
    start_workers(config, cores, ports, Box::new(NoDevices), (RealClock::begin(), |_| Ok(())))
}

/// Files count nothing.
struct NoDevices;

impl Devices for NoDevices {
    fn counters(&self) -> Vec<BTreeMap<String, u64>> {
        Vec::new()
    }
}

impl Devices for Box<dyn Devices> {
    fn counters(&self) -> Vec<BTreeMap<String, u64>> {
        (**self).counters()
    }

    fn clocks(&self) -> Vec<PortClock> {
        (**self).clocks()
    }

    fn states(&self) -> Vec<DeviceState> {
        (**self).states()
    }

    fn tick(&mut self) {
        (**self).tick();
    }

    fn gone(&self) -> Option<String> {
        (**self).gone()
    }
}

/// A port that is ready to be polled.
struct OpenPort<I> {
    queues: Vec<I>,
    mac: MacAddr,
    mtu: u16,
}

fn start_workers<I, C, G, E>(
    config: &Config,
    cores: Vec<usize>,
    ports: Vec<OpenPort<I>>,
    devices: Box<dyn Devices>,
    (clock, enter): (C, E),
) -> Result<Running, StartError>
where
    I: PacketIo + 'static,
    C: Clock + Copy + Send + 'static,
    E: Fn(usize) -> Result<G, String> + Clone + Send + 'static,
{
    let queues = ports.iter().map(|port| port.queues.len()).sum();
    let auto = *config.workers.cores.get_ref() == Cores::Auto;
    let cpus = cores::fit(cores, queues, auto);
    let count = u16::try_from(cpus.len()).unwrap_or(u16::MAX);
    let mtus: Vec<u16> = ports.iter().map(|port| port.mtu).collect();
    let secret = stack::random_secret()
        .map_err(|error| StartError::Run(format!("no random numbers: {error}; is /dev/urandom there?")))?;
    let secret_file = config.cookies.secret_file.as_ref().map(|file| file.get_ref().clone());
    let cookies = CookieDesk::open(secret_file).map_err(|error| StartError::Run(error.to_string()))?;
    if let Some(file) = &config.cookies.secret_file {
        let (file, current) = (file.get_ref().display(), cookies.show().current);
        // A request is in one worker's memory, and ends with it.
        let survive = if config.sysctl.values().tcp_syncookies == 2 { "all" } else { "those with a cookie" };
        tracing::info!(%file, current, survive, "cookie keys from a file: handshakes may end at another server");
    }
    let (stack, mut protocols) = on_core(cpus[0], || stack::build(config, &mtus, count, secret))?;
    protocols.iter_mut().for_each(|core| core.set_cookie_keys(cookies.keys()));
    let listeners = stack::open_listeners(&stack, config)?;

    let locals = locals(config, &ports);
    let workers = workers(config, &cpus, ports, &locals, protocols);
    let stats: Vec<Arc<CoreStats>> = workers.iter().map(|(_, worker)| worker.stats()).collect();
    let taps = workers.iter().map(|(_, worker)| worker.tap()).collect();
    let reporter = Reporter::new(workers.iter().map(|(_, worker)| worker.mailbox()));
    let reporter = reporter.watch(stats.iter().cloned()).into();
    let team = Team::start(workers, clock, enter).map_err(StartError::Run)?;
    tracing::info!(workers = count, cores = cores::list(&cpus), listeners = config.listeners(), "running");
    let ports = stack::port_names(config);
    let loaded = Loaded { config: config.clone(), listeners };
    let captures = Captures::new(taps);
    let (stack, accepted, dry_runs) = (Arc::new(stack), HashMap::new(), DryRuns::new(locals));
    let desk = Desk {
        stack,
        reporter,
        numbers: Numbers::default(),
        devices,
        ports,
        cpus,
        cookies,
        accepted,
        loaded,
        dry_runs,
        captures,
        top: TopWindow::default(),
        #[cfg(feature = "kernel")]
        kernel: None,
    };
    Ok(Running {
        #[cfg(feature = "dpdk")]
        peers: Vec::new(),
        #[cfg(feature = "dpdk")]
        eal: None,
        desk,
        stats,
        team,
        links: None,
    })
}

/// Runs `make` on a core, so that the memory that it fills is on that core's NUMA node: the kernel puts a page where it is
/// first touched.
fn on_core<T: Send>(cpu: usize, make: impl FnOnce() -> T + Send) -> T {
    let pinned = || {
        // A core that cannot be had is refused when its worker begins.
        let _ = team::pin(cpu);
        make()
    };
    std::thread::scope(|scope| match scope.spawn(pinned).join() {
        Ok(made) => made,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// What is local to each port.
fn locals<I>(config: &Config, ports: &[OpenPort<I>]) -> Vec<Arc<LocalTable>> {
    let local = |(open, port): (&OpenPort<I>, &Port)| {
        if port.is_beside_kernel() {
            return Arc::new(LocalTable::beside_kernel(open.mac));
        }
        let (addresses, any_ip) = (stack::prefixes(&port.addresses), stack::prefixes(&port.any_ip));
        Arc::new(LocalTable::new(open.mac, &addresses, &any_ip))
    };
    ports.iter().zip(&config.port).map(local).collect()
}

/// One worker for each of `cpus`, with its share of every port's queues.
fn workers<I: PacketIo>(
    config: &Config,
    cpus: &[usize],
    ports: Vec<OpenPort<I>>,
    locals: &[Arc<LocalTable>],
    protocols: Vec<Core>,
) -> Vec<(usize, Worker<I, Core>)> {
    let mut shares: Vec<Vec<worker::Port<I>>> = cpus.iter().map(|_| Vec::new()).collect();
    let pollers = cores::shares(ports.iter().map(|port| port.queues.len()), cpus.len());
    for (place, ((open, local), pollers)) in ports.into_iter().zip(locals).zip(pollers).enumerate() {
        say_pollers(config.port[place].name.get_ref(), &pollers, cpus);
        for ((queue, io), worker) in open.queues.into_iter().enumerate().zip(pollers) {
            let announce = queue == 0;
            let share = &mut shares[worker];
            share.push(worker::Port::new(io, dev_index(place), Arc::clone(local), announce));
        }
    }
    let beside = config.port.iter().any(Port::is_beside_kernel);
    let idle = idle((config.workers.idle, beside), cpus, &cores::allowed());
    let (burst, rst_per_second) =
        (usize::from(*config.workers.burst.get_ref()), config.limits.rst_per_second);
    let mut workers = Vec::with_capacity(cpus.len());
    let mut circle = HandOff::circle(cpus.len()).into_iter();
    for ((cpu, share), mut core) in cpus.iter().zip(shares).zip(protocols) {
        core.set_rst_limit(rst_per_second, rst_per_second);
        let worker = WorkerConfig { burst, idle, ..WorkerConfig::new(core.id()) };
        let mut worker = Worker::new(worker, core, share);
        if let Some(circle) = circle.next() {
            worker.join(circle);
        }
        workers.push((*cpu, worker));
    }
    workers
}

/// Says who polls a port with fewer queues than there are workers.
fn say_pollers(port: &str, pollers: &[usize], cpus: &[usize]) {
    if pollers.len() >= cpus.len() {
        return;
    }
    let (queues, workers) = (pollers.len(), cpus.len());
    let polling: Vec<usize> = pollers.iter().map(|worker| cpus[*worker]).collect();
    tracing::info!(
        port,
        queues,
        workers,
        cores = cores::list(&polling),
        "fewer queues than workers: these cores poll it, the others serve other ports"
    );
}

/// What workers on `cpus` do without frames.
fn idle((wanted, beside_kernel): (config::Idle, bool), cpus: &[usize], allowed: &[usize]) -> Idle {
    match wanted {
        config::Idle::Adaptive => Idle::Adaptive,
        config::Idle::Auto if beside_kernel => Idle::Adaptive,
        config::Idle::Spin => Idle::Spin,
        config::Idle::Pause => Idle::Pause,
        config::Idle::Yield => Idle::Yield,
        config::Idle::Interrupt => Idle::Interrupt,
        config::Idle::Auto if allowed.iter().all(|core| cpus.contains(core)) => {
            tracing::info!(
                "the workers take every core, so idle ones yield to the control thread (workers.idle)"
            );
            Idle::Yield
        }
        config::Idle::Auto => Idle::Spin,
    }
}

/// `198.18.0.1/24 198.19.0.0/16(any)`
fn addresses(port: &Port) -> String {
    let own = port.addresses.iter().map(|prefix| prefix.get_ref().to_string());
    let any = port.any_ip.iter().map(|prefix| format!("{}(any)", prefix.get_ref()));
    own.chain(any).collect::<Vec<_>>().join(" ")
}

impl Running {
    /// One round of the control thread: answers clients, waiting for them or for one of `others` up to `timeout`, and
    /// hands over commands that found a worker's ring full.
    ///
    /// # Errors
    /// What makes waiting itself impossible.
    pub fn turn(
        &mut self,
        server: &mut Server,
        others: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> io::Result<()> {
        let Self { desk, team, links, .. } = self;
        let mut others: Vec<BorrowedFd<'_>> = others.iter().copied().chain([team.wake_fd()]).collect();
        let kernel = desk.kernel_fd().map_err(|error| io::Error::other(error.to_string()))?;
        others.extend(kernel.iter().chain(&*links).map(AsFd::as_fd));
        server.turn(desk, &others, timeout)?;
        desk.devices.tick();
        desk.turn_kernel();
        desk.stack.flush();
        for listener in desk.stack.floods() {
            let addr = SocketAddr::from(listener);
            tracing::warn!(%addr, "possible SYN flooding: the SYN queue was full; see \"hearken stats\"");
        }
        Ok(())
    }

    /// True once no frame will ever come again: all files are replayed to their end.
    pub fn exhausted(&self) -> bool {
        self.stats.iter().all(|stats| stats.exhausted())
    }

    /// Why the run must end, if a worker has ended by itself, or a device is gone for good.
    pub fn failure(&mut self) -> Option<String> {
        self.team.failure().map(str::to_owned).or_else(|| self.desk.devices.gone())
    }

    /// Stops the workers, then the devices, and says what was counted, and as an error what a worker ended by, if not
    /// by this.
    pub fn stop(mut self) -> (FinalReport, Result<(), String>) {
        if self.desk.release_kernel() {
            // For handshakes in flight: their SYN-ACKs are sent, their ACKs still come.
            self.desk.linger_kernel();
        }
        let ended = self.team.stop();
        let stats = self.desk.stats();
        // Without a core to choose there is nothing to refuse.
        let latency = self.desk.latency(None).unwrap_or_default();
        self.desk.end_kernel();
        (FinalReport { stats, latency }, ended)
    }
}
