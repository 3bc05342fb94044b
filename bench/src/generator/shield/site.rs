//! The wire of a turn, an unmodified nginx behind it, and what stands in front of nginx.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use dataplane::control::client::Client;
use dataplane::control::proto::{Request, Ss, Stats};
use hearken_bpf::flood::Template;
use rustix::process::{Pid, Signal, kill_process};

use super::super::netns::{CLIENT_DEV, Namespace, Running, SERVER_DEV, run};
use super::Contestant;

/// nginx's address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// Where forged SYNs come from: a network that nobody is in.
const FORGED: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 19, 0, 0), 16);
/// A second wire at the client's side that carries nothing; see `Flood::park`.
const PARKING: &str = "hk2";
/// What nginx serves.
pub const PAGE: &str = "Hello from nginx, unmodified.\n";
/// How long a program may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two namespaces and the wire between them, both ends with GRO, as frames that are redirected into a veth want it.
#[derive(Debug)]
pub struct Site {
    /// The clients' and the flood's side.
    pub client: Namespace,
    /// nginx's side.
    pub server: Namespace,
}

impl Site {
    /// Lays the wire.
    ///
    /// # Errors
    /// No right to, or a program is missing.
    pub fn new() -> anyhow::Result<Self> {
        let site = Self { client: Namespace::new("client")?, server: Namespace::new("server")? };
        let Self { client, server } = &site;
        server
            .ip(&format!("link add {SERVER_DEV} type veth peer name {CLIENT_DEV} netns {}", client.name()))?;
        for (namespace, device, address) in [(server, SERVER_DEV, SERVER), (client, CLIENT_DEV, CLIENT)] {
            namespace.ip(&format!("addr add {address}/24 dev {device}"))?;
            namespace.ip(&format!("link set {device} up"))?;
            run(namespace.command("ethtool").args(["-K", device, "gro", "on"]))?;
        }
        client.ip(&format!("link add {PARKING} type veth peer name hk3"))?;
        // Answers to forged sources go to the client's end, and no further.
        server.ip(&format!("route add {}/{} via {CLIENT}", FORGED.0, FORGED.1))?;
        Ok(site)
    }

    /// The numbers of the flood's interface and of the one to park its program on.
    ///
    /// # Errors
    /// They are not there.
    pub fn flood_interfaces(&self) -> anyhow::Result<[u32; 2]> {
        Ok([index(&self.client, CLIENT_DEV)?, index(&self.client, PARKING)?])
    }

    /// The number of the server's end.
    ///
    /// # Errors
    /// It is not there.
    pub fn server_interface(&self) -> anyhow::Result<u32> {
        index(&self.server, SERVER_DEV)
    }

    /// A SYN with the options of Linux, from 65,536 forged sources.
    ///
    /// # Errors
    /// An end of the wire has no MAC address.
    pub fn template(&self) -> anyhow::Result<Template> {
        use etherparse::TcpOptionElement::{
            MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
        };
        let (from, to) = (mac(&self.client, CLIENT_DEV)?, mac(&self.server, SERVER_DEV)?);
        let options = [
            MaximumSegmentSize(1460),
            SelectiveAcknowledgementPermitted,
            Timestamp(1000, 0),
            Noop,
            WindowScale(7),
        ];
        let builder = etherparse::PacketBuilder::ethernet2(from, to)
            .ipv4(FORGED.0.octets(), SERVER.octets(), 64)
            .tcp(1024, 80, 7, 64_240)
            .syn();
        let mut frame = Vec::new();
        builder.options(&options)?.write(&mut frame, &[])?;
        Ok(Template { frame, hosts: 1 << (32 - FORGED.1), forge_ack: false })
    }
}

fn link(namespace: &Namespace, device: &str) -> anyhow::Result<String> {
    namespace.ip(&format!("-o link show dev {device}"))
}

fn index(namespace: &Namespace, device: &str) -> anyhow::Result<u32> {
    let said = link(namespace, device)?;
    let index = said.split(':').next().and_then(|index| index.parse().ok());
    index.with_context(|| format!("ip says no number of {device}: {said}"))
}

fn mac(namespace: &Namespace, device: &str) -> anyhow::Result<[u8; 6]> {
    let said = link(namespace, device)?;
    let mac = said.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    let mac: Option<dataplane::wire::ether::MacAddr> = mac.and_then(|mac| mac.parse().ok());
    mac.map(|mac| mac.0).with_context(|| format!("ip says no MAC address of {device}: {said}"))
}

/// A program that is asked to end when dropped, so that it ends its own children.
#[derive(Debug)]
struct Polite(Child);

impl Drop for Polite {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.0.try_wait() {
            return;
        }
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        let begin = Instant::now();
        while asked && begin.elapsed() < PATIENCE {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // It does not listen; nothing is left but to end it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What serves in a turn.
#[derive(Debug)]
pub struct Server {
    /// First, so that it goes before nginx.
    hearken: Option<(Running, PathBuf)>,
    _nginx: Option<Polite>,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Starts nginx, and what `contestant` has in front of it, on `cpu`.
    ///
    /// # Errors
    /// A program that is missing or does not start.
    pub fn start(
        site: &Site,
        contestant: Contestant,
        cpu: usize,
        hearken: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("hearken-shield").tempdir()?;
        site.server.sysctl("ipv4/tcp_syncookies", "1")?;
        let nginx = match contestant {
            Contestant::Wire => None,
            _ => Some(nginx(site, cpu, dir.path())?),
        };
        let hearken = match contestant {
            Contestant::Wire | Contestant::Linux => None,
            Contestant::Synproxy => {
                synproxy(site, dir.path())?;
                None
            }
            Contestant::Hearken => Some(shield(site, cpu, dir.path(), hearken, 64)?),
            Contestant::HearkenWorker => Some(shield(site, cpu, dir.path(), hearken, 0)?),
        };
        Ok(Self { hearken, _nginx: nginx, _dir: dir })
    }

    /// Waits until hearken, where there is one, stands in front of `port` too.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_for(&self, port: u16) -> anyhow::Result<()> {
        let Some((_, socket)) = &self.hearken else { return Ok(()) };
        let begin = Instant::now();
        while !adopted(socket, port) {
            ensure!(begin.elapsed() < PATIENCE, "hearken does not stand in front of port {port}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Handshakes that hearken has handed over to the kernel so far, where there is one.
    ///
    /// # Errors
    /// hearken does not answer.
    pub fn handed_over(&self) -> anyhow::Result<u64> {
        let Some((_, socket)) = &self.hearken else { return Ok(0) };
        let stats: Stats = Client::connect(socket)?.call(&Request::Stats {})?;
        let kernel = stats.kernel.context("hearken says nothing of the kernel's side")?;
        kernel
            .counters
            .get("handed_over_to_kernel")
            .copied()
            .context("hearken does not count what it hands over")
    }
}

/// nginx as it is packaged, with one worker, on port 80.
fn nginx(site: &Site, cpu: usize, dir: &Path) -> anyhow::Result<Polite> {
    let (conf, root) = (dir.join("nginx.conf"), dir.display());
    std::fs::write(dir.join("index.html"), PAGE)?;
    std::fs::write(
        &conf,
        format!(
            "daemon off; pid {root}/nginx.pid; error_log {root}/error.log; worker_processes 1; user root;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/p;\n\
             fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; keepalive_requests 1000000;\n\
             server {{ listen 80 backlog=4096; root {root}; }} }}\n"
        ),
    )?;
    let mut command = site.server.command("taskset");
    command.args(["-c", &cpu.to_string(), "nginx", "-c"]).arg(&conf);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut nginx = Polite(command.spawn()?);
    let begin = Instant::now();
    while run(site.server.command("ss").args(["-ltnH", "sport = :80"]))?.is_empty() {
        if nginx.0.try_wait()?.is_some() || begin.elapsed() > PATIENCE {
            let said = std::fs::read_to_string(dir.join("error.log")).unwrap_or_default();
            bail!("nginx does not serve (apt-get install nginx-light, if it is not there): {}", said.trim());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(nginx)
}

/// The kernel's own SYN proxy, as the manual of nft has it: SYNs are not tracked, and what is not tracked goes to the proxy.
fn synproxy(site: &Site, dir: &Path) -> anyhow::Result<()> {
    let file = dir.join("synproxy.nft");
    std::fs::write(
        &file,
        format!(
            "table ip hearken {{\n\
             chain raw {{ type filter hook prerouting priority raw;\n\
             iifname {SERVER_DEV} tcp dport 80 tcp flags & (fin|syn|rst|ack) == syn notrack; }}\n\
             chain input {{ type filter hook input priority filter;\n\
             tcp dport 80 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm;\n\
             ct state invalid drop; }}\n}}\n"
        ),
    )?;
    run(site.server.command("nft").arg("-f").arg(&file))
        .context("the kernel's synproxy needs nft (apt-get install nftables) and CONFIG_NFT_SYNPROXY")?;
    site.server.sysctl("netfilter/nf_conntrack_tcp_loose", "0")?;
    site.server.sysctl("ipv4/tcp_timestamps", "1")
}

/// hearken in front of all that listens, as `hearken shield` has it, with `redirect_per_ms`.
fn shield(
    site: &Site,
    cpu: usize,
    dir: &Path,
    binary: Option<&Path>,
    redirect_per_ms: u32,
) -> anyhow::Result<(Running, PathBuf)> {
    hearken_bpf::support::handover()?;
    let (socket, file) = (dir.join("control.sock"), dir.join("hearken.toml"));
    let (log, port) = (dir.join("hearken.log"), SERVER_DEV);
    std::fs::write(
        &file,
        format!(
            "[control]\nsocket = {socket:?}\ndrain_seconds = 0\n[eal]\nhuge = \"never\"\nfile_prefix = \"hearken-shield-{pid}\"\n\
             [workers]\ncores = [{cpu}]\nidle = \"adaptive\"\n[shield]\ninterface = {port:?}\nredirect_per_ms = {redirect_per_ms}\n",
            pid = std::process::id(),
        ),
    )?;
    let binary = binary.map_or_else(super::super::versus::beside_us, Path::to_path_buf);
    ensure!(
        binary.exists(),
        "{} is not there: cargo build --release -p dataplane, or --hearken FILE",
        binary.display()
    );
    let mut command = site.server.command(&binary.display().to_string());
    command.args(["run", "--config"]).arg(&file);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log)?);
    let mut hearken = Running(command.spawn()?);
    let begin = Instant::now();
    while !adopted(&socket, 80) {
        if hearken.0.try_wait()?.is_some() || begin.elapsed() > PATIENCE {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("hearken does not stand in front of nginx: {}", said.trim());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok((hearken, socket))
}

fn adopted(socket: &Path, port: u16) -> bool {
    let Ok(mut client) = Client::connect(socket) else { return false };
    let said: Result<Ss, _> = client.call(&Request::Ss { from: 0 });
    said.is_ok_and(|said| said.listeners.iter().any(|row| row.local.port() == port))
}

/// Counters of the kernel in `namespace`, such as `TcpExt SyncookiesSent`.
///
/// # Errors
/// There is none of that name.
pub fn kernel_counter(namespace: &Namespace, group: &str, name: &str) -> anyhow::Result<u64> {
    let read = || std::fs::read_to_string("/proc/thread-self/net/netstat");
    let text = namespace.enter(read)?.context("cannot read /proc/net/netstat")?;
    let mut lines = text.lines().filter(|line| line.split(':').next() == Some(group));
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let at = names.split_ascii_whitespace().position(|column| column == name);
        if let Some(value) = at.and_then(|at| values.split_ascii_whitespace().nth(at)) {
            return value.parse().with_context(|| format!("{group} {name}"));
        }
    }
    bail!("the kernel has no counter {group} {name}")
}

/// What `program` is needed for is asked before anything is made.
///
/// # Errors
/// It is not there.
pub fn need(program: &str, package: &str) -> anyhow::Result<()> {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output()?;
    ensure!(found.status.success(), "{program} is not installed. Next: apt-get install {package}");
    Ok(())
}

/// CPUs that are busy while nothing is measured, over 200 ms: other work on the machine.
///
/// # Errors
/// `/proc/stat` cannot be read.
pub fn load() -> anyhow::Result<f64> {
    let busy = || -> anyhow::Result<(f64, f64)> {
        let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let line = text.lines().next().unwrap_or_default();
        // user nice system idle iowait irq softirq steal, in ticks
        let ticks: Vec<f64> =
            line.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
        let unused: f64 = [3, 4].iter().filter_map(|&column| ticks.get(column)).sum();
        let all: f64 = ticks.iter().take(8).sum();
        Ok((all - unused, all))
    };
    let before = busy()?;
    std::thread::sleep(Duration::from_millis(200));
    let after = busy()?;
    let cpus = std::thread::available_parallelism().map_or(1.0, |cpus| cpus.get() as f64);
    Ok((after.0 - before.0) / (after.1 - before.1).max(1.0) * cpus)
}
