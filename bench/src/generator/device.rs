//! What the generator sends on: a DPDK device, or the far end of a server in this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use dataplane::config::Config;
use dataplane::control::client::Client;
use dataplane::control::proto::{Latency, Request, Stats};
use dataplane::io::PacketIo;
use dataplane::io::dpdk::DpdkIo;
use dataplane::start::{self, machine};
use dataplane::wire::ether::MacAddr;
use dpdk::Eal;
use listener::Stack;
use listener::sockaddr::{Caller, Family};
use listener::sockopt::SockOpt;
use listener::types::Then;

use super::spec::Net;

/// The device string that stands for a server in this process.
pub const SELF: &str = "self";
/// Octets of the longest packet on the way to a server in this process: its port's MTU.
const MTU: u16 = 1500;
/// MAC address of the client's end of a server in this process.
const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// How often a server's worker that is late with its numbers is asked again.
const LATE_MAX: usize = 50;

/// Queue pairs, and what keeps them alive.
pub struct Wire {
    /// One per core of the generator.
    pub queues: Vec<(usize, DpdkIo)>,
    /// Our MAC address.
    pub mac: MacAddr,
    /// Octets of the longest packet.
    pub mtu: u16,
    /// What it is, for reports.
    pub name: String,
    /// The generator's threads have to offer their CPUs to others when they are idle.
    pub yields: bool,
    /// The server, if it is in this process.
    pub own: Option<OwnServer>,
    eal: Eal,
    /// Last, because devices stop only when their queues are gone.
    _device: Option<start::dpdk::Running>,
}

/// A server in this process.
pub struct OwnServer {
    running: start::Running,
    /// CPUs of its workers.
    pub cpus: Vec<usize>,
}

/// Numbers of a server, at the start or the end of a run.
pub type ServerState = (Stats, Latency);

impl OwnServer {
    /// Its socket calls.
    pub fn stack(&self) -> &Arc<Stack> {
        &self.running.desk.stack
    }

    /// Its counters and latencies.
    ///
    /// # Errors
    /// It has none to tell.
    pub fn state(&mut self) -> anyhow::Result<ServerState> {
        let mut stats = self.running.desk.stats();
        // Where others want its CPU too, a worker may be late with its answer.
        for _ in 0..LATE_MAX {
            if !stats.total.late {
                break;
            }
            stats = self.running.desk.stats();
        }
        let latency = self.running.desk.latency(None).map_err(|refusal| anyhow!(refusal.message))?;
        Ok((stats, latency))
    }

    /// Opens a listener on `addr`.
    ///
    /// # Errors
    /// What the listen API says.
    pub fn listen(&self, addr: SocketAddr, backlog: i32, then: Then) -> anyhow::Result<()> {
        listen(self.stack(), addr, backlog, then).map(|_| ())
    }
}

/// Opens a listener on `addr`; its descriptor.
///
/// # Errors
/// What the listen API says.
pub fn listen(
    stack: &Stack,
    addr: SocketAddr,
    backlog: i32,
    then: Then,
) -> anyhow::Result<listener::types::SockFd> {
    let fail = |error: listener::error::ListenError| anyhow!("cannot listen on {addr}: {}", error.sentence());
    let family = if addr.is_ipv4() { Family::Inet } else { Family::Inet6 };
    let fd = stack.socket(family, 0).map_err(fail)?;
    stack.set_then(fd, then).map_err(fail)?;
    // So that a listener of each family can stand on all addresses.
    if family == Family::Inet6 {
        stack.setsockopt(fd, SockOpt::V6Only(true)).map_err(fail)?;
    }
    stack.bind(fd, addr.into(), Caller::ROOT).map_err(fail)?;
    stack.listen(fd, backlog).map_err(fail)?;
    Ok(fd)
}

/// Counters of the server behind the control socket at `path`.
///
/// # Errors
/// Nobody answers there.
pub fn ask(path: &Path) -> anyhow::Result<ServerState> {
    let mut client = Client::connect(path)?;
    Ok((client.call(&Request::Stats {})?, client.call(&Request::Latency { core: None })?))
}

/// The CPUs that the generator and, with [`SELF`], the server get: those that were asked for, or one for the generator,
/// and one more for the server.
fn cpus(asked: &[usize], own: bool) -> anyhow::Result<(Vec<usize>, Vec<usize>)> {
    let allowed = start::cores::allowed();
    for cpu in asked {
        ensure!(
            allowed.contains(cpu),
            "--cores {cpu} is none that this process may use; those are {}",
            start::cores::list(&allowed)
        );
    }
    let ours = if asked.is_empty() { allowed[..1].to_vec() } else { asked.to_vec() };
    if !own {
        return Ok((ours, Vec::new()));
    }
    let mut theirs: Vec<usize> = allowed.iter().copied().filter(|cpu| !ours.contains(cpu)).collect();
    theirs.truncate(ours.len());
    if theirs.is_empty() {
        theirs = ours[..1].to_vec();
    }
    Ok((ours, theirs))
}

/// Opens `device` with one queue pair for each of `cores`.
///
/// # Errors
/// What DPDK or the machine refuses.
pub fn open(device: &str, cores: &[usize]) -> anyhow::Result<Wire> {
    let (cpus, _) = cpus(cores, false)?;
    let count = cpus.len();
    let text = format!(
        "name = \"hearken-load\"\n[eal]\nfile_prefix = \"hearken-load-{pid}\"\n[[port]]\nname = \"load\"\ndevice = {device:?}\nqueues = {count}\n\
         rx_descriptors = 2048\ntx_descriptors = 2048\n",
        pid = std::process::id()
    );
    let config =
        Config::parse(Path::new("--device"), text).map_err(|error| anyhow!("{device}: {}", error.message))?;
    if let Some(problem) = machine::problems(&config).into_iter().next() {
        bail!("{problem}");
    }
    let (mut opened, running) = start::dpdk::open(&config, count).map_err(|error| anyhow!("{error}"))?;
    let port = opened.pop().context("a device has a port")?;
    let (queues, mac, mtu) = (port.queues, port.mac, port.mtu);
    if queues.len() < count {
        crate::output::noteln!(
            "hearken-load: {device} has {} queue pairs, so {} cores send",
            queues.len(),
            queues.len()
        );
    }
    let yields = start::cores::allowed().len() <= count;
    let eal = running.eal.clone();
    let queues = cpus.into_iter().zip(queues).collect();
    Ok(Wire { queues, mac, mtu, name: device.to_owned(), yields, own: None, eal, _device: Some(running) })
}

/// What a server in this process is to be.
#[derive(Clone, Debug)]
pub struct OwnSetup {
    /// `tcp_syncookies`
    pub syncookies: u8,
    /// Prefixes that are local.
    pub local: Vec<Net>,
    /// Further lines of its configuration.
    pub extra: String,
}

/// Starts a server in this process, on DPDK rings, and takes the other end of them.
///
/// # Errors
/// What DPDK or the machine refuses.
pub fn open_self(setup: &OwnSetup, cores: &[usize]) -> anyhow::Result<Wire> {
    let (ours, theirs) = cpus(cores, true)?;
    let queues = ours.len();
    let list =
        |prefixes: &[String]| prefixes.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ");
    let single = |net: &Net| net.len == if net.addr.is_v4() { 32 } else { 128 };
    // A subnet of its own for each address, so that no source is inside one: those answers would have to go on the link.
    let (own, any): (Vec<Net>, Vec<Net>) = setup.local.iter().partition(|net| single(net));
    let text = |nets: &[Net]| nets.iter().map(|net| format!("{}/{}", net.addr, net.len)).collect::<Vec<_>>();
    let config = format!(
        "[eal]\nfile_prefix = \"hearken-load-{pid}\"\n[workers]\ncores = {theirs:?}\n[sysctl]\ntcp_syncookies = {cookies}\nip_unprivileged_port_start = 0\n\
         {extra}\n[[port]]\nname = \"self\"\ndevice = \"ring_pair,queues={queues}\"\naddresses = [{own}]\nany_ip = [{any}]\n",
        pid = std::process::id(),
        cookies = setup.syncookies,
        extra = setup.extra,
        own = list(&text(&own)),
        any = list(&text(&any)),
    );
    let config = Config::parse(Path::new("self"), config).map_err(|error| anyhow!("{error}"))?;
    let mut running = start::start(&config).map_err(|error| anyhow!("{error}"))?;
    let eal = running.eal.clone().context("rings run on DPDK")?;
    let peers = std::mem::take(&mut running.peers);
    ensure!(peers.len() == queues, "{} of {queues} rings are there", peers.len());
    let name = format!(
        "self: a hearken in this process, over DPDK rings; generator on CPU {}, server on CPU {}",
        start::cores::list(&ours),
        start::cores::list(&theirs)
    );
    let own = OwnServer { running, cpus: theirs.clone() };
    let taken = ours.iter().chain(&theirs).collect::<std::collections::BTreeSet<_>>().len();
    let yields = start::cores::allowed().len() <= taken;
    let queues = ours.into_iter().zip(peers).collect();
    Ok(Wire { queues, mac: CLIENT_MAC, mtu: MTU, name, yields, own: Some(own), eal, _device: None })
}

impl Wire {
    /// A buffer of the device, if it has one to spare.
    pub fn alloc(&mut self) -> Option<<DpdkIo as PacketIo>::Frame> {
        self.queues.first_mut()?.1.alloc()
    }

    /// What threads do before they use a queue.
    pub fn enter(&self) -> impl Fn() -> Result<dpdk::Lcore, String> + Sync + use<> {
        let eal = self.eal.clone();
        move || eal.register_thread().map_err(|error| error.to_string())
    }

    /// The server's numbers: of the one in this process, or of the one behind `socket`.
    ///
    /// # Errors
    /// `socket` is given and nobody answers there.
    pub fn server_state(&mut self, socket: Option<&PathBuf>) -> anyhow::Result<Option<ServerState>> {
        match (&mut self.own, socket) {
            (Some(own), _) => own.state().map(Some),
            (None, Some(socket)) => ask(socket).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Stops whatever runs.
    ///
    /// # Errors
    /// What a worker of the server in this process ended by.
    pub fn close(self) -> anyhow::Result<()> {
        let Self { queues, own, eal, _device, .. } = self;
        drop(queues);
        let ended = match own {
            Some(own) => own.running.stop().1.map_err(|why| anyhow!("the server ended: {why}")),
            None => Ok(()),
        };
        drop(eal);
        ended
    }
}

/// The differences of the counters of two states, by name, without those that are 0.
pub fn grown(before: &Stats, after: &Stats) -> BTreeMap<String, u64> {
    let maps = |stats: &Stats| {
        let total = &stats.total;
        let mut all: BTreeMap<String, u64> =
            total.plain().into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        for map in [&total.outcomes, &total.drops, &total.snmp] {
            all.extend(map.iter().map(|(name, count)| (name.clone(), *count)));
        }
        all
    };
    let before = maps(before);
    let mut after = maps(after);
    after.retain(|name, count| {
        *count = count.saturating_sub(before.get(name).copied().unwrap_or(0));
        *count > 0
    });
    after
}
