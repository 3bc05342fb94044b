//! Beside the kernel: SYNs are hearken's, everything else is the kernel's.
//!
//! Three parts stand on the kernel's path (crate `hearken-bpf`): the claim, an XDP program per interface, sends SYNs of claimed
//! endpoints to a worker; the hand-over, a tc program, makes a connection of the kernel's listener from the ACK that ends a
//! handshake; the watch lists the kernel's listeners. [`KernelSide`] keeps them up to date, on the control thread: what is
//! claimed is what hearken listens on with `then = "kernel"`, and with `[kernel] adopt` that follows the kernel's listeners.
//!
//! # Order
//! A listener is opened in hearken's table before it is claimed, and claimed no more before it is closed, with a pause in
//! between: a SYN that was redirected finds its listener. What is not claimed, the kernel answers.
//!
//! # At the end
//! Nothing is claimed any more, handshakes in flight have [`LINGER`] to finish, then the programs go. After `kill -9` the sockets
//! of the claim are closed and it passes everything on; the hand-over keeps working with the keys it has.

mod adopt;
pub mod net;
mod vlan;
mod way;

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hearken_bpf::handover::{RTT_BUCKETS, Settings};
use hearken_bpf::{BpfError, Claim, CookieKey, Endpoint, Handover, Listeners, claim, handover};
use listener::Stack;
use listener::syncookies::{self, CookieKeys, rich};
use listener::sysctl::Sysctl;
use listener::types::{Nanos, Then};
use rustix::time::{ClockId, clock_gettime};

use crate::config::{self, Config};
use adopt::Adopted;
pub use adopt::KernelRow;
pub use way::Way;

/// How long handshakes in flight may take after the last SYN was answered.
pub const LINGER: Duration = Duration::from_secs(1);
/// SYNs that come to a worker per millisecond and CPU if nothing else is said: ten times what a busy server gets, and a fraction of
/// what a worker answers.
const REDIRECT_PER_MS: u32 = 64;
/// After a look at all listeners, so many times as long passes before the next.
const PAUSE: u32 = 4;
/// How often clocks, addresses and listeners are looked at even if nobody says that they have changed.
const ROUND: Duration = Duration::from_secs(1);
/// For how long after hearken's end its cookies are handed over, should it not come to remove the program: as long as one counts.
const EXPIRY_NS: u64 = 2 * rich::EPOCH_NS;

/// The claim program as a file for DPDK to load, while it is held.
pub struct ProgramFile(OwnedFd);

impl ProgramFile {
    /// Writes the program into memory.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new() -> std::io::Result<Self> {
        let fd = rustix::fs::memfd_create("hearken-claim", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut left = claim::object();
        while !left.is_empty() {
            left = &left[rustix::io::write(&fd, left)?..];
        }
        Ok(Self(fd))
    }

    /// Its path, for this process.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

/// Makes the interface `name` ready for DPDK to put the claim on it.
///
/// # Errors
/// There is no such interface, another hearken or a program of somebody else has it, or the kernel cannot hand over.
pub fn prepare(name: &str) -> Result<(), String> {
    hearken_bpf::log_to_tracing();
    hearken_bpf::support::handover().map_err(|error| error.to_string())?;
    let link =
        net::Net::read().map_err(|error| format!("cannot list the interfaces: {error}"))?.link(name)?;
    let cleared = Claim::clear(link.index).map_err(|error| format!("{name}: {error}"))?;
    if cleared {
        tracing::info!(interface = name, "removed the XDP program that an earlier hearken left");
    }
    Ok(())
}

/// MTU of the interface `name`, in octets of IP.
///
/// # Errors
/// There is no such interface.
pub fn mtu(name: &str) -> Result<u16, String> {
    let link =
        net::Net::read().map_err(|error| format!("cannot list the interfaces: {error}"))?.link(name)?;
    Ok(u16::try_from(link.mtu).unwrap_or(u16::MAX))
}

/// What a round needs to know of the server.
pub struct Around<'a> {
    /// The sockets.
    pub stack: &'a Stack,
    /// The keys of cookies.
    pub keys: CookieKeys,
    /// `[kernel]`
    pub wanted: &'a config::Kernel,
    /// The knobs that SYN-ACKs go by.
    pub sysctl: Sysctl,
}

/// The programs on the kernel's path, and what they know.
pub struct KernelSide {
    claims: Vec<(String, Claim)>,
    handover: Handover,
    listeners: Listeners,
    adopted: Adopted,
    /// Of the hearken before this one, whose handshakes may be in flight.
    inherited: Option<CookieKey>,
    settings: Settings,
    clock: Box<dyn FnMut() -> Nanos + Send>,
    due: Instant,
    /// Listeners have changed, and are read from then on.
    pending: bool,
    not_before: Instant,
    released: bool,
}

impl KernelSide {
    /// Takes over what DPDK has put on the interfaces of `config`, and begins; none if no port is beside the kernel. `clock` is
    /// the workers'.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn begin(
        config: &Config,
        around: &Around<'_>,
        clock: impl FnMut() -> Nanos + Send + 'static,
    ) -> Result<Option<Self>, String> {
        let names: Vec<&str> = config
            .port
            .iter()
            .filter(|port| port.is_beside_kernel())
            .filter_map(|port| port.interface())
            .collect();
        if names.is_empty() {
            return Ok(None);
        }
        warn_of_sysctls();
        let net = net::Net::read().map_err(|error| format!("cannot list the interfaces: {error}"))?;
        let text = |error: BpfError| error.to_string();
        let (mut claims, handover, mut inherited) = (Vec::new(), Handover::load().map_err(text)?, None);
        for name in names {
            let link = net.link(name)?;
            inherited = inherited.or_else(|| Handover::keys_left_on(link.index));
            let claim = Claim::find(link.index).map_err(text)?;
            say(name, &link, claim.mode());
            claims.push((name.to_owned(), claim));
        }
        let listeners = Listeners::watch().map_err(text)?;
        let mut side = Self {
            claims,
            inherited,
            settings: Settings::default(),
            listeners,
            adopted: Adopted::default(),
            clock: Box::new(clock),
            due: Instant::now(),
            pending: false,
            not_before: Instant::now(),
            released: false,
            handover: {
                handover.set(&Settings::default()).map_err(text)?;
                handover
            },
        };
        side.refresh(around).map_err(text)?;
        side.sync(around)?;
        side.attach(&net).map_err(text)?;
        Ok(Some(side))
    }

    /// Becomes readable when a listener of the kernel has come or gone.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.listeners.fd()
    }

    /// A round of the control thread: follows the kernel's listeners, addresses and clock.
    pub fn turn(&mut self, around: &Around<'_>) {
        self.adopted.close_due(around.stack, Instant::now());
        self.pending |= self.listeners.changed();
        let begin = Instant::now();
        if begin >= self.due {
            self.pending = true;
            self.due = begin + ROUND;
            let refreshed = self.refresh(around).and_then(|()| {
                let net = net::Net::read().unwrap_or_default();
                self.attach(&net)
            });
            if let Err(error) = refreshed {
                tracing::warn!("{error}");
            }
        }
        if self.pending && !self.released && begin >= self.not_before {
            self.pending = false;
            if let Err(error) = self.sync(around) {
                tracing::warn!("{error}");
            }
            // Listeners that come and go by the thousand get a part of this thread, not all of it.
            self.not_before = Instant::now() + begin.elapsed() * PAUSE;
        }
    }

    /// Follows a change of listeners that hearken itself was asked for, or of `[kernel]`.
    pub fn listeners_changed(&mut self) {
        self.due = Instant::now();
    }

    /// Teaches the hand-over keys before a worker makes cookies with them.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn learn(&mut self, around: &Around<'_>) -> Result<(), BpfError> {
        self.inherited = None;
        self.refresh(around)
    }

    /// Claims nothing any more: the kernel answers from now on. Handshakes in flight are still handed over.
    pub fn release(&mut self) {
        self.released = true;
        for (name, claim) in &mut self.claims {
            if let Err(error) = claim.set(&HashSet::new()) {
                tracing::warn!("{name}: {error}");
            }
        }
    }

    /// Takes the hand-over off the interfaces.
    pub fn end(&mut self) {
        self.handover.detach();
    }

    /// Counters of the programs, by their names.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        let mut add = |names: &[&str], counts: Result<Vec<u64>, BpfError>| {
            for (name, count) in names.iter().zip(counts.unwrap_or_default()) {
                *all.entry((*name).to_owned()).or_default() += count;
            }
        };
        for (_, claim) in &self.claims {
            add(&claim::COUNTERS, claim.counters());
        }
        add(&handover::COUNTERS, self.handover.counters());
        all
    }

    /// Round trips from SYN-ACK to verified ACK of clients with timestamps: entry `n` counts those below `2^n` ms.
    pub fn round_trips(&self) -> Vec<u64> {
        self.handover.round_trips().unwrap_or_else(|_| vec![0; RTT_BUCKETS])
    }

    /// The kernel's listeners as they are now, with what hearken does for each.
    pub fn rows(&self, wanted: &config::Kernel) -> Vec<KernelRow> {
        self.adopted.rows(&self.listeners.list().unwrap_or_default(), wanted)
    }

    fn sync(&mut self, around: &Around<'_>) -> Result<(), String> {
        let text = |error: BpfError| error.to_string();
        let list = self.listeners.list().map_err(text)?;
        let indices: Vec<u32> = self.claims.iter().map(|(_, claim)| claim.ifindex()).collect();
        let opened = self.adopted.open(around.stack, around.wanted, &list, &indices);
        let claimed = endpoints(around.stack);
        let kept: HashSet<Endpoint> =
            claimed.iter().copied().filter(|endpoint| !opened.gone.contains(endpoint)).collect();
        // The hand-over goes on looking for cookies of endpoints that are claimed no more: handshakes in flight.
        self.handover.set_claims(&claimed).map_err(text)?;
        for (_, claim) in &mut self.claims {
            claim.set(&kept).map_err(text)?;
        }
        Ok(())
    }

    /// What the hand-over goes by, and what is local.
    fn refresh(&mut self, around: &Around<'_>) -> Result<(), BpfError> {
        let key = |key: &syncookies::CookieKey| {
            let [hash, timestamps] = rich::words(key);
            CookieKey { hash, timestamps }
        };
        let monotonic = monotonic_ns();
        let now = (self.clock)();
        self.settings = Settings {
            current: key(&around.keys.current),
            other: around.keys.other.as_ref().map(key).or(self.inherited),
            clock_offset_ns: now.0.wrapping_sub(monotonic),
            expires_ns: monotonic + EXPIRY_NS,
            shared: around.keys.shared,
            rcv_wscale: rich::announced_wscale(&around.sysctl),
            random_offsets: around.sysctl.tcp_timestamps == 1,
        };
        self.handover.set(&self.settings)?;
        let net = net::Net::read().unwrap_or_default();
        for (_, claim) in &mut self.claims {
            let locals = net.locals_for(claim.ifindex());
            claim.set_locals(&locals)?;
            if let Some(link) = net.of_index(claim.ifindex()) {
                claim.set_answering(&answering(around, link, &self.settings))?;
            }
        }
        Ok(())
    }

    /// Puts the hand-over on the interfaces and on their VLANs, where it is not yet.
    fn attach(&mut self, net: &net::Net) -> Result<(), BpfError> {
        for link in vlan::interfaces(net, self.claims.iter().map(|(_, claim)| claim.ifindex())) {
            if !self.handover.interfaces().any(|ifindex| ifindex == link) {
                self.handover.attach(link)?;
            }
        }
        let gone: Vec<u32> = self.handover.interfaces().filter(|index| !net.has(*index)).collect();
        if !net.is_empty() {
            gone.into_iter().for_each(|ifindex| self.handover.forget(ifindex));
        }
        Ok(())
    }
}

/// What SYNs are answered with that do not come to a worker, on `link`.
fn answering(around: &Around<'_>, link: &net::Link, settings: &Settings) -> claim::Answering {
    let sysctl = &around.sysctl;
    let (mss, windows) = rich::announced(sysctl, u16::try_from(link.mtu).unwrap_or(u16::MAX));
    let default = if link.is_veth { 0 } else { REDIRECT_PER_MS };
    claim::Answering {
        key: settings.current,
        clock_offset_ns: settings.clock_offset_ns,
        // The hand-over of the last of these cookies must outlive them.
        expires_ns: settings.expires_ns - rich::EPOCH_NS,
        redirect_per_ms: around.wanted.redirect_per_ms.unwrap_or(default),
        rcv_wscale: settings.rcv_wscale,
        random_offsets: settings.random_offsets,
        timestamps: sysctl.tcp_timestamps != 0,
        sack: sysctl.tcp_sack,
        wscale: sysctl.tcp_window_scaling,
        ecn: sysctl.tcp_ecn != 0,
        mss,
        windows,
        by_redirect: link.is_veth,
    }
}

/// Where hearken listens for the kernel.
fn endpoints(stack: &Stack) -> HashSet<Endpoint> {
    let mut all = HashSet::new();
    for row in stack.listeners().iter().filter(|row| row.then == Then::Kernel) {
        let addr = crate::control::service::local(row);
        all.insert(Endpoint(addr));
        if addr.ip() == IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED) && !row.v6only {
            all.insert(Endpoint(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port())));
        }
    }
    all
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// Says what is on the interface.
fn say(name: &str, link: &net::Link, xdp: &str) {
    tracing::info!(
        interface = name,
        index = link.index,
        mtu = link.mtu,
        xdp,
        "beside the kernel: claimed SYNs come here, all else goes the kernel's way"
    );
}

/// The kernel takes a handed-over handshake as one of its own cookies.
fn warn_of_sysctls() {
    let off =
        std::fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies").is_ok_and(|text| text.trim() == "0");
    if off {
        tracing::warn!(
            "net.ipv4.tcp_syncookies is 0, and the kernel then takes no handshake that hearken has verified: \
             sysctl -w net.ipv4.tcp_syncookies=1"
        );
    }
}
