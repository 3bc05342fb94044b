//! The links of the ports: waited for at the start, then followed, as long as the run lasts.
//!
//! # Whom to believe
//! A NIC's driver reads the link from the device. `net_af_packet`, `net_af_xdp` and `net_pcap` say "up" from start to stop
//! (their `eth_link_update` does nothing), so the kernel is asked for the interface below ([`Interfaces`]); `net_tap` asks the
//! kernel itself, and does not see its interface being deleted. The link is up if both say so.
//!
//! # Gone for good
//! The sockets of these drivers are bound to an interface, not to its name: once it is deleted they are deaf, whatever is
//! made in its place. A PCI device that was pulled or taken away is gone as well. The run then ends ([`Links::gone`]).

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dpdk::Started;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::interfaces::{Interfaces, State};
use crate::config::{Device, DpdkDevice, Port};
use crate::control::proto::PortLink;

/// How long the start waits for links: as long as most NICs need to agree with the other end on a speed.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(5);
/// How often drivers are asked.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often while the start waits.
const LOOK_EVERY_START: Duration = Duration::from_millis(20);
/// Drivers whose device is an interface of the kernel's.
const ON_INTERFACES: [&str; 4] = ["net_af_packet", "net_af_xdp", "net_tap", "net_pcap"];

/// One port, while it is followed.
pub(super) struct Followed {
    port: String,
    driver: String,
    /// The number of the interface below.
    pub(super) below: Option<u32>,
    /// The directory of the PCI device.
    pci: Option<PathBuf>,
    /// What its driver tells is the speed of something; a virtual device's is not.
    has_speed: bool,
    /// For the workers.
    flag: Arc<AtomicBool>,
    link: PortLink,
    since: Instant,
    gone: Option<String>,
}

impl Followed {
    /// A port of `driver`; `interface` is what the driver names as the one below.
    pub(super) fn new(port: &Port, driver: &str, interface: Option<u32>) -> Self {
        let pci = match port.device.get_ref() {
            Device::Dpdk(device) => device.pci().map(|pci| PathBuf::from("/sys/bus/pci/devices").join(pci)),
            _ => None,
        };
        Self {
            port: port.name.get_ref().clone(),
            driver: driver.to_owned(),
            below: interface.filter(|_| ON_INTERFACES.contains(&driver)),
            // Where /sys does not show it, it cannot be missed there.
            pci: pci.filter(|dir| dir.exists()),
            has_speed: matches!(port.device.get_ref(), Device::Dpdk(DpdkDevice::Bus(_))),
            flag: Arc::new(AtomicBool::new(true)),
            link: PortLink { up: true, ..PortLink::default() },
            since: Instant::now(),
            gone: None,
        }
    }

    /// Its driver's name.
    pub(super) fn driver(&self) -> &str {
        &self.driver
    }

    /// What workers read: false while the link is down.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Looks at the device and the interface below it. Returns why the link is down, if it is.
    fn look(&mut self, started: &Started, interfaces: Option<&Interfaces>) -> Option<String> {
        let below = self.below.zip(interfaces);
        let name = below.map(|(index, all)| all.name(index).to_owned()).unwrap_or_default();
        let state = below.and_then(|(index, all)| all.state(index));
        let removed = started.is_removed() || self.pci.as_ref().is_some_and(|dir| !dir.exists());
        let link = started.link();
        if state == Some(State::Gone) || removed {
            let what = if removed { "the device".to_owned() } else { format!("the interface {name}") };
            let Self { port, driver, .. } = self;
            self.gone.get_or_insert_with(|| {
                format!(
                    "port \"{port}\": {what} is gone, and {driver} cannot come back to one that is made anew; start \
                     hearken again when it is there (systemd does, see configs/systemd/hearken.service)"
                )
            });
            return Some(format!("{what} is gone"));
        }
        match (state, link) {
            (Some(State::SetDown), _) => {
                Some(format!("the interface {name} is set down (\"ip link set {name} up\")"))
            }
            (Some(State::NoCarrier), _) => {
                Some(format!("the interface {name} has no carrier; look at the cable, or the other end"))
            }
            (_, Ok(link)) if !link.up => Some("no carrier; look at the cable, or the other end".into()),
            (_, Err(error)) => Some(error.to_string()),
            (_, Ok(link)) => {
                let known = self.has_speed && !matches!(link.speed_mbps, 0 | u32::MAX);
                self.link.speed_mbps = known.then_some(link.speed_mbps);
                None
            }
        }
    }

    /// Takes what was seen, and tells workers and the log of a change.
    fn take(&mut self, down: Option<String>, now: Instant) {
        let (up, port) = (down.is_none(), self.port.as_str());
        if up == self.link.up {
            return;
        }
        let lasted = now.duration_since(self.since);
        (self.link.up, self.since) = (up, now);
        self.link.changes += 1;
        self.flag.store(up, Ordering::Relaxed);
        match down {
            Some(why) => tracing::warn!(port, "the link is down: {why}"),
            None => tracing::info!(
                port,
                speed_mbps = self.link.speed_mbps,
                "the link is up again after {:.1} s",
                lasted.as_secs_f64()
            ),
        }
    }

    fn state(&self) -> PortLink {
        PortLink { seconds: self.since.elapsed().as_secs(), ..self.link.clone() }
    }
}

/// All ports.
pub(super) struct Links {
    pub(super) ports: Vec<Followed>,
    interfaces: Option<Interfaces>,
    due: Instant,
}

impl Links {
    /// Follows `ports`.
    pub(super) fn new(ports: Vec<Followed>) -> Self {
        let below: Vec<u32> = ports.iter().filter_map(|port| port.below).collect();
        let follow = || {
            Interfaces::follow(below.iter().copied()).inspect_err(|error: &io::Error| {
                tracing::warn!(%error, "the kernel does not tell of its interfaces: their links count as up");
            })
        };
        let interfaces = (!below.is_empty()).then(follow).and_then(Result::ok);
        Self { ports, interfaces, due: Instant::now() }
    }

    /// Waits until all links are up that can come up by themselves, for at most `limit`, and says how each is. `started` are
    /// the ports in their order.
    pub(super) fn wait(&mut self, started: &[Started], limit: Duration) {
        let begun = Instant::now();
        let mut told = false;
        loop {
            self.interfaces.as_mut().map(Interfaces::turn);
            let Self { ports, interfaces, .. } = self;
            let look = |(port, started): (&mut Followed, &Started)| port.look(started, interfaces.as_ref());
            let down: Vec<Option<String>> = ports.iter_mut().zip(started).map(look).collect();
            let set_down = |port: &Followed| {
                let state = port.below.zip(interfaces.as_ref()).and_then(|(index, all)| all.state(index));
                matches!(state, Some(State::SetDown | State::Gone))
            };
            let awaited = ports.iter().zip(&down).filter(|(port, why)| why.is_some() && !set_down(port));
            let awaited: Vec<&str> = awaited.map(|(port, _)| port.port.as_str()).collect();
            if awaited.is_empty() || begun.elapsed() >= limit {
                return self.begin(down, begun.elapsed());
            }
            if !std::mem::replace(&mut told, true) {
                let ports = awaited.join(", ");
                tracing::info!(ports, "waiting for the link, {} s at most", limit.as_secs());
            }
            self.sleep(LOOK_EVERY_START);
        }
    }

    /// Takes the links as they are for what the run begins with.
    fn begin(&mut self, down: Vec<Option<String>>, waited: Duration) {
        for (followed, down) in self.ports.iter_mut().zip(down) {
            (followed.link.up, followed.since) = (down.is_none(), Instant::now());
            followed.flag.store(down.is_none(), Ordering::Relaxed);
            let (port, speed_mbps) = (followed.port.as_str(), followed.link.speed_mbps);
            match down {
                None => tracing::info!(port, speed_mbps, "the link is up"),
                Some(why) => {
                    let waited = waited.as_secs_f64();
                    tracing::warn!(port, "the link is down after {waited:.1} s, and is followed: {why}");
                }
            }
        }
    }

    fn sleep(&self, limit: Duration) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
        let mut fds: Vec<PollFd<'_>> =
            self.fd().iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        // Whatever ends it is a reason to look.
        let _ = poll(&mut fds, Some(&timeout));
    }

    /// What to wait for besides time: news of interfaces.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.interfaces.as_ref().map(Interfaces::fd)
    }

    /// One round of the control thread.
    pub(super) fn turn(&mut self, started: &[Started]) {
        let news = self.interfaces.as_mut().is_some_and(Interfaces::turn);
        let now = Instant::now();
        if !news && now < self.due {
            return;
        }
        self.due = now + LOOK_EVERY;
        for (port, started) in self.ports.iter_mut().zip(started) {
            let down = port.look(started, self.interfaces.as_ref());
            port.take(down, now);
        }
    }

    /// What the interface below port `place` is called, if there is one.
    pub(super) fn name(&self, place: usize) -> &str {
        let below = self.ports.get(place).and_then(|port| port.below).zip(self.interfaces.as_ref());
        below.map_or("", |(index, all)| all.name(index))
    }

    /// How each link is.
    pub(super) fn states(&self) -> Vec<PortLink> {
        self.ports.iter().map(Followed::state).collect()
    }

    /// Why the run must end, once a device is gone for good.
    pub(super) fn gone(&self) -> Option<String> {
        self.ports.iter().find_map(|port| port.gone.clone())
    }
}
