//! The configuration file: TOML in, checked [`Config`] out.
//!
//! Every key and its default is a field below; keys that are not there are refused. Errors carry file and line and
//! say what to do ([`ConfigError`]). What can be known without a machine is checked here; what needs one (cores,
//! interfaces, hugepages, rights) is checked by [`crate::start`].

mod check;
mod control;
mod device;
mod diff;
mod error;
mod kernel;
mod listeners;
mod metrics;
mod ports;
mod sysctl;
#[cfg(test)]
mod tests;
mod value;

use std::path::{Path, PathBuf};

use serde::Deserialize;
pub use toml::Spanned;

pub use control::{Control, DrainSeconds, Readers};
pub use device::{Device, DpdkDevice};
pub use diff::Difference;
pub use error::{ConfigError, Place};
pub use kernel::{Adopt, Kernel, Pattern, Shield, Take};
pub use metrics::Metrics;
pub use ports::{ListenAddr, Ports};
pub use sysctl::Sysctl;
pub use value::{Cores, Huge, Idle, Mac, Offloads, Prefix, Queues, ThenName, then_name};

/// The machine's configuration: what is read when no file is named.
pub const DEFAULT_FILE: &str = "/etc/hearken/hearken.toml";
/// Queues that one device may have: one for each worker.
pub const QUEUES_MAX: u16 = listener::limits::CORES_MAX;
/// Frames that one turn may receive at most: what a burst's columns hold.
pub const BURST_MAX: u16 = listener::limits::BURST_MAX as u16;

/// A whole configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The server's name: its control socket and EAL file prefix carry it, so that two servers on one machine need
    /// two names. Default `hearken`, because most machines run one.
    /// Example: `name = "edge"`.
    pub name: Option<Spanned<String>>,
    /// The control socket.
    pub control: Control,
    /// The page for Prometheus.
    pub metrics: Metrics,
    /// DPDK's environment.
    pub eal: Eal,
    /// The devices; at least one.
    pub port: Vec<Port>,
    /// Which of the kernel's listeners to stand in front of.
    pub kernel: Kernel,
    /// In place of `port` and `kernel`: one interface, all its listeners.
    pub shield: Option<Shield>,
    /// Threads and bursts.
    pub workers: Workers,
    /// SYN cookies.
    pub cookies: Cookies,
    /// Listeners to open at start; more can be opened at run time.
    pub listener: Vec<Listener>,
    /// What the kernel tunes by sysctl, by the kernel's names and with its defaults.
    pub sysctl: Sysctl,
    /// Memory and rates that are fixed at start.
    pub limits: Limits,
    /// Where this came from, for messages about lines.
    #[serde(skip)]
    source: Source,
}

/// File name and text of a configuration.
#[derive(Clone, Debug, Default)]
struct Source {
    file: PathBuf,
    text: String,
}

/// `[eal]`: not used when all devices are `pcap:` files. Hugepages are always taken without files (`--in-memory`), so
/// that a killed run leaves none behind that the next one lacks.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Eal {
    /// Whether to use hugepages. Default `auto`: they are faster, and a start without them beats none at all.
    /// Example: `huge = "require"`.
    pub huge: Huge,
    /// Memory for DPDK in MiB. Default: what the mempool needs, and 64 MiB for drivers.
    /// Example: `memory_mib = 512`.
    pub memory_mib: Option<Spanned<u32>>,
    /// `--file-prefix`. Default `hearken`: nothing is shared under it, so all servers can have the same.
    /// Example: `file_prefix = "edge"`.
    pub file_prefix: Option<Spanned<String>>,
    /// Open DPDK's telemetry socket, which `dpdk-telemetry.py` asks. Default false: it leaves a directory behind.
    /// Example: `telemetry = true`.
    pub telemetry: bool,
    /// Further EAL arguments, added last. Default none.
    /// Example: `args = ["--log-level=lib.eal:debug"]`.
    pub args: Vec<String>,
}

/// `[[port]]`: one device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// What listeners, counters and log lines call it.
    /// Example: `name = "wan"`.
    pub name: Spanned<String>,
    /// Any DPDK device string (`0000:01:00.0`, `net_af_packet0,iface=eth1,qpairs=2`, …) or `pcap:IN.pcap,OUT.pcap`.
    /// Example: `device = "0000:01:00.0"`.
    pub device: Spanned<Device>,
    /// The port's MAC address, for `pcap:` files only: a device has its own. Default `02:00:00:00:00:01`, a locally
    /// administered one.
    /// Example: `mac = "02:00:00:00:00:02"`.
    #[serde(default)]
    pub mac: Option<Spanned<Mac>>,
    /// Own addresses with the length of their subnet's prefix. Default none.
    /// Example: `addresses = ["198.18.0.1/24", "2001:db8::1/64"]`.
    #[serde(default)]
    pub addresses: Vec<Spanned<Prefix>>,
    /// Whole prefixes whose every address is local, as `ip route add local PREFIX dev lo` makes it. Default none.
    /// Example: `any_ip = ["198.19.0.0/16"]`.
    #[serde(default)]
    pub any_ip: Vec<Spanned<Prefix>>,
    /// Which frames come to hearken: `all`, or on `net_af_xdp` only those that it has `claimed`, which leaves the kernel's traffic
    /// alone. Default `all`.
    /// Example: `take = "claimed"`.
    #[serde(default = "take_default")]
    pub take: Spanned<Take>,
    /// Receive queues. Default `auto`: one for each worker, as many as the device has.
    /// Example: `queues = 4`.
    #[serde(default = "queues_default")]
    pub queues: Spanned<Queues>,
    /// Frames that one receive queue holds; the device may round it. Default 1024: at 10 Mpps a queue then bridges
    /// 100 µs in which its worker does not run.
    /// Example: `rx_descriptors = 4096`.
    #[serde(default = "descriptors_default")]
    pub rx_descriptors: Spanned<u16>,
    /// Frames that one transmit queue holds. Default 1024: a burst's answers always find room when the wire keeps up.
    /// Example: `tx_descriptors = 2048`.
    #[serde(default = "descriptors_default")]
    pub tx_descriptors: Spanned<u16>,
    /// Octets of IP in one frame; the MSS follows from it. Default 1500, Ethernet's.
    /// Example: `mtu = 9000`.
    #[serde(default = "mtu_default")]
    pub mtu: Spanned<u16>,
    /// Ask the device for frames to other MAC addresses too. Default false; a device that cannot is not an error.
    /// Example: `promiscuous = true`.
    #[serde(default)]
    pub promiscuous: bool,
    /// Whether the device computes and checks checksums where it can. Default `auto`.
    /// Example: `offloads = "off"`.
    #[serde(default)]
    pub offloads: Offloads,
    /// Have the device stamp frames with their time of arrival, and begin latencies there. Default false: some drivers
    /// (net_ice) then leave their vector receive path. A device that cannot is not an error.
    /// Example: `rx_timestamps = true`.
    #[serde(default)]
    pub rx_timestamps: bool,
}

/// A value that stands nowhere in the file.
fn default_value<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

fn take_default() -> Spanned<Take> {
    default_value(Take::All)
}

fn queues_default() -> Spanned<Queues> {
    default_value(Queues::Auto)
}

fn descriptors_default() -> Spanned<u16> {
    default_value(1024)
}

fn mtu_default() -> Spanned<u16> {
    default_value(1500)
}

/// `[workers]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workers {
    /// Cores to poll on, one worker each. Default `auto`: all that this process may use but the first, which stays
    /// with the control thread and the kernel; no more than the devices have queues.
    /// Example: `cores = [1, 2, 3]`.
    pub cores: Spanned<Cores>,
    /// Whether a worker may run on another NUMA node than a device of its. Default false: each frame would cross from one
    /// to the other.
    /// Example: `allow_remote = true`.
    pub allow_remote: bool,
    /// Frames that one turn takes from one queue: a multiple of 4 (vector drivers return nothing for less), 64 at
    /// most. Default 32: beyond it throughput hardly grows, and latency does.
    /// Example: `burst = 64`.
    pub burst: Spanned<u16>,
    /// What a worker does while no device has a frame. Default `auto`: `adaptive` beside the kernel (`take = "claimed"`), whose servers
    /// want the cores; `yield` where the workers take every core that
    /// this process may use, so that the control thread gets a turn too; else `spin`.
    /// Example: `idle = "interrupt"`.
    pub idle: Idle,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            cores: default_value(Cores::Auto),
            allow_remote: false,
            burst: default_value(32),
            idle: Idle::Auto,
        }
    }
}

/// `[cookies]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cookies {
    /// A file with the secret of SYN cookies, for its owner's eyes only: one line of 96 hexadecimal digits (`openssl rand
    /// -hex 48`), and below it, if there is one, the generation before or the next. Servers with the same file can check
    /// each other's cookies, and after a restart their own. Default: random keys at each start, which nobody shares.
    /// Example: `secret_file = "/etc/hearken/cookie.secret"`.
    pub secret_file: Option<Spanned<PathBuf>>,
}

/// `[[listener]]`: socket, bind and listen at start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Local address and port; `0.0.0.0:80` or `[::]:80` means every address. With several ports, as in
    /// `0.0.0.0:80,443,8000-8100`, it stands for a listener at each of them.
    /// Example: `addr = "0.0.0.0:80,443"`.
    pub addr: Spanned<ListenAddr>,
    /// Finished handshakes that may wait for accept. Default 4096, the usual `somaxconn`, which also clamps it.
    /// Example: `backlog = 512`.
    #[serde(default = "backlog_default")]
    pub backlog: i32,
    /// `SO_REUSEPORT`: share the port with other listeners that also ask to. Default false, as in the kernel.
    /// Example: `reuseport = true`.
    #[serde(default)]
    pub reuseport: bool,
    /// `IPV6_V6ONLY`. Default: `sysctl.bindv6only`.
    /// Example: `v6only = true`.
    #[serde(default)]
    pub v6only: Option<Spanned<bool>>,
    /// `SO_BINDTODEVICE`: the name of a port. Default: all ports.
    /// Example: `device = "p0"`.
    #[serde(default)]
    pub device: Option<Spanned<String>>,
    /// What becomes of a finished handshake. Default `queue`, as in the kernel: it waits for accept.
    /// Example: `then = "discard"`.
    #[serde(default)]
    pub then: ThenName,
    /// `TCP_DEFER_ACCEPT` in seconds. Default 0: off.
    /// Example: `defer_accept = 5`.
    #[serde(default)]
    pub defer_accept: i32,
}

fn backlog_default() -> i32 {
    4096
}

/// `[limits]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Listeners that may be open at a time. Default 1,048,576, for listeners take memory only once they are there.
    /// Example: `listeners_max = 4096`.
    pub listeners_max: Spanned<u32>,
    /// Half-open handshakes that one core holds; SYNs beyond get cookies or nothing. Default 65,536: 16 backlogs of
    /// 4,096, and some tens of MiB, so that a laptop starts too.
    /// Example: `requests_per_core = 262144`.
    pub requests_per_core: Spanned<u32>,
    /// Connections that one core holds, with those in accept queues and in TIME_WAIT. Default 65,536: a thousand
    /// connections a second for the minute that TIME_WAIT lasts.
    /// Example: `connections_per_core = 131072`.
    pub connections_per_core: Spanned<u32>,
    /// RSTs that one core sends a second at most; 0 for no limit. Default 0, as the kernel has none either.
    /// Example: `rst_per_second = 1000`.
    pub rst_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            listeners_max: default_value(1 << 20),
            requests_per_core: default_value(1 << 16),
            connections_per_core: default_value(1 << 16),
            rst_per_second: 0,
        }
    }
}

impl Config {
    /// Reads and checks `file`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::parse(file, text_of(file)?)?;
        config.follow_kernel();
        Ok(config)
    }

    /// The control socket of the server that runs by `file`, of which nothing else is checked and no listener read.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, or its `name` or `[control]` is wrong.
    pub fn socket_in(file: &Path) -> Result<PathBuf, ConfigError> {
        let source = Source { file: file.to_owned(), text: text_of(file)? };
        source.read_socket()
    }

    /// Checks `text`; `file` is for messages only.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(file: &Path, text: String) -> Result<Self, ConfigError> {
        let source = Source { file: file.to_owned(), text };
        let mut config = source.read()?;
        config.source = source;
        config.expand_shield()?;
        check::check(&config)?;
        config.check_kernel()?;
        Ok(config)
    }

    /// How many listeners it opens: one for each port of each `[[listener]]`.
    pub fn listeners(&self) -> usize {
        self.listener.iter().map(|listener| listener.addr.get_ref().ports.count()).sum()
    }

    /// The file it came from.
    pub fn file(&self) -> &Path {
        &self.source.file
    }

    /// The server's name.
    pub fn name(&self) -> &str {
        self.name.as_ref().map_or("hearken", |name| name.get_ref())
    }

    /// Where the control socket is.
    pub fn socket(&self) -> PathBuf {
        self.control.socket.clone().unwrap_or_else(|| default_socket(self.name()))
    }

    /// The line that `value` stands on; none if it is a default.
    pub fn place<T>(&self, value: &Spanned<T>) -> Place {
        self.source.place(value.span())
    }

    /// An error about `value`.
    pub fn error<T>(&self, value: &Spanned<T>, message: impl Into<String>) -> ConfigError {
        ConfigError { place: self.place(value), message: message.into() }
    }

    /// An error about the file as a whole.
    pub fn file_error(&self, message: impl Into<String>) -> ConfigError {
        ConfigError { place: self.source.place(0..0), message: message.into() }
    }
}

fn text_of(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|error| ConfigError {
        place: Place { file: file.to_owned(), line: None },
        message: format!("cannot read it: {error}; give the path of a configuration file with --config"),
    })
}

/// The control socket of the server `name` when nothing else is said; see [`Control::socket`].
pub fn default_socket(name: &str) -> PathBuf {
    let root = rustix::process::geteuid().is_root();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !root && !dir.is_empty());
    let run = runtime.map_or_else(|| PathBuf::from("/run"), PathBuf::from);
    run.join("hearken").join(format!("{name}.sock"))
}
