//! DPDK's side of the start: memory, devices, queues.

mod interfaces;
mod links;
mod losses;
mod memory;
mod queues;
mod stamps;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::time::Instant;

use dpdk::{
    Configured, DpdkError, Eal, Memory, Mempool, NumaNode, Offloads, Pci, PortConfig, PortId, PortInfo,
    Started,
};

use super::{StartError, frames};
use crate::config::{self, Config, Device, DpdkDevice, Huge, Port, Queues};
use crate::control::proto::PortClock;
use crate::control::service::{DeviceState, Devices};
use crate::io::dpdk::DpdkIo;
use crate::wire::ether::MacAddr;
use links::{Followed, Links};
use losses::InterfaceDrops;
pub use memory::{memory, memory_need};
use memory::{pool_need, queues_wanted};
use queues::Queues as SilentQueues;
use stamps::Arrival;

/// The driver whose MTU is its interface's.
const PACKET_SOCKET: &str = "net_af_packet";

/// One device that runs.
pub struct Opened {
    /// Its queue pairs.
    pub queues: Vec<DpdkIo>,
    /// Of a ring pair, the queue pairs of the other end; else none.
    pub peers: Vec<DpdkIo>,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its MTU, which may be less than was asked for.
    pub mtu: u16,
}

/// The devices that run, for their counters and to be stopped.
pub struct Running {
    ports: Vec<Started>,
    /// By which clock their frames are stamped, if at all.
    arrivals: Vec<Arrival>,
    links: Links,
    watched: Vec<Watched>,
    /// The other ends of ring pairs.
    _far_ends: Vec<Started>,
    /// DPDK itself; last, because it stops only when nothing of it is in use.
    pub eal: Eal,
}

/// What else is looked at of a port.
struct Watched {
    driver: String,
    queues: SilentQueues,
    drops: Option<InterfaceDrops>,
}

impl Running {
    /// Becomes readable when a link changes, where the kernel tells; none elsewhere.
    ///
    /// # Errors
    /// There is no free descriptor.
    pub fn link_news(&self) -> std::io::Result<Option<OwnedFd>> {
        self.links.fd().map(|fd| fd.try_clone_to_owned()).transpose()
    }

    /// A driver that keeps no counters has none to show.
    fn counters_of(&self, place: usize) -> BTreeMap<String, u64> {
        let (port, watched) = (&self.ports[place], &self.watched[place]);
        let mut all: BTreeMap<String, u64> = port.xcounters().unwrap_or_default().into_iter().collect();
        if let Ok(basic) = port.counters() {
            all.extend(basic.named().map(|(name, count)| (name.to_owned(), count)));
        }
        all.extend(port.socket_losses().map(|lost| ("ring_full".to_owned(), lost)));
        if let Some(drops) = &watched.drops {
            drops.add_to(&mut all, self.links.name(place));
        }
        all
    }
}

impl Devices for Running {
    fn counters(&self) -> Vec<BTreeMap<String, u64>> {
        (0..self.ports.len()).map(|place| self.counters_of(place)).collect()
    }

    fn states(&self) -> Vec<DeviceState> {
        let state = |(watched, link): (&Watched, _)| DeviceState {
            driver: watched.driver.clone(),
            losses_uncounted: !losses::are_counted(&watched.driver),
            link,
        };
        self.watched.iter().zip(self.links.states()).map(state).collect()
    }

    fn clocks(&self) -> Vec<PortClock> {
        self.arrivals.iter().map(Arrival::clock).collect()
    }

    fn tick(&mut self) {
        let now = Instant::now();
        for (port, arrival) in self.ports.iter().zip(&mut self.arrivals) {
            arrival.tick(port, now);
        }
        self.links.turn(&self.ports);
        for (port, watched) in self.ports.iter().zip(&mut self.watched) {
            if !watched.queues.is_due(now) {
                continue;
            }
            let counters = port.xcounters().unwrap_or_default();
            let counters = counters.iter().map(|(name, count)| (name.as_str(), *count));
            if let Some(silent) = watched.queues.look(counters, now) {
                tracing::warn!(port = port.name(), "{silent}");
            }
        }
    }

    fn gone(&self) -> Option<String> {
        self.links.gone()
    }
}

/// Starts DPDK and every device of `config`. `cores` are those that may carry workers.
///
/// # Errors
/// What DPDK refuses, with the port's name.
pub fn open(config: &Config, cores: usize) -> Result<(Vec<Opened>, Running), StartError> {
    let (need_mb, sum) = memory_need(config, cores);
    let (memory, why) = memory(config, need_mb)?;
    match memory {
        Memory::NoHuge { .. } if config.eal.huge == Huge::Auto => tracing::warn!("{why}"),
        _ => tracing::info!("{why}"),
    }
    tracing::debug!("memory: {sum}");
    let eal =
        start_eal(config, memory).map_err(|error| StartError::Run(format!("DPDK did not start: {error}")))?;
    let opening = Opening {
        config,
        eal: &eal,
        cores,
        #[cfg(feature = "kernel")]
        claim: crate::kernel::ProgramFile::new()
            .map_err(|error| StartError::Run(format!("no memory for a program: {error}")))?,
    };
    let mut opened = Vec::with_capacity(config.port.len());
    let (mut ports, mut far_ends, mut arrivals, mut followed) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for port in &config.port {
        let (mut port, one) = opening
            .open(port)
            .map_err(|error| StartError::Run(format!("port \"{}\": {error}", port.name.get_ref())))?;
        for queue in &mut port.queues {
            if let Arrival::Stamped(stamps) = &one.arrival {
                queue.stamp(stamps.field, stamps.clock());
            }
            queue.follow_link(one.followed.flag());
        }
        opened.push(port);
        ports.push(one.started);
        far_ends.extend(one.far_end);
        arrivals.push(one.arrival);
        followed.push(one.followed);
    }
    // Together, so that they come up in the same time.
    let mut links = Links::new(followed);
    links.wait(&ports, links::START_PATIENCE);
    let watched = links.ports.iter().enumerate().map(|(place, followed)| {
        let drops = followed.below.map(|_| InterfaceDrops::begin(followed.driver(), links.name(place)));
        Watched { driver: followed.driver().to_owned(), queues: SilentQueues::new(Instant::now()), drops }
    });
    let watched = watched.collect();
    Ok((opened, Running { ports, arrivals, links, watched, _far_ends: far_ends, eal }))
}

fn start_eal(config: &Config, memory: Memory) -> Result<Eal, DpdkError> {
    let devices = config.port.iter().filter_map(|port| match port.device.get_ref() {
        Device::Dpdk(DpdkDevice::Bus(devargs)) => Some(devargs.clone()),
        _ => None,
    });
    let prefix = config.eal.file_prefix.as_ref().map_or("hearken", |prefix| prefix.get_ref());
    let builder = Eal::builder().memory(memory).pci(Pci::Allow(devices.collect())).file_prefix(prefix);
    let builder = builder.telemetry(config.eal.telemetry);
    config.eal.args.iter().fold(builder, |builder, arg| builder.arg(arg)).start()
}

/// What opening a port needs besides the port.
struct Opening<'a> {
    config: &'a Config,
    eal: &'a Eal,
    cores: usize,
    /// Held until the drivers have read it.
    #[cfg(feature = "kernel")]
    claim: crate::kernel::ProgramFile,
}

/// What is kept of a port that runs.
struct Kept {
    started: Started,
    far_end: Option<Started>,
    arrival: Arrival,
    followed: Followed,
}

impl Opening<'_> {
    fn open(&self, port: &Port) -> Result<(Opened, Kept), String> {
        let descriptors = dpdk::open_descriptors();
        let (near, far) = match port.device.get_ref() {
            Device::Dpdk(device) if port.is_beside_kernel() => (self.attach_beside_kernel(device)?, None),
            Device::Dpdk(device) => {
                let devargs = frames::devargs(device, frames::mtu(port).octets);
                (self.attach(&devargs, device)?, None)
            }
            Device::RingPair { queues } => {
                let frames = u32::from(*port.rx_descriptors.get_ref()).next_power_of_two();
                let ends = self.eal.ring_pair(port.name.get_ref(), *queues, frames, NumaNode::ANY);
                let [near, far] = ends.map_err(text)?;
                (near, Some(far))
            }
            Device::Pcap { .. } => return Err("is a file, not a device of DPDK".into()),
        };
        let PortInfo { driver, interface, .. } = self.eal.port_info(near).map_err(text)?;
        let (queues, mut started) = self.open_port(port, near)?;
        started.adopt_sockets(&descriptors);
        let mtu = match driver.as_str() {
            _ if port.is_beside_kernel() => kernels_mtu(port)?,
            PACKET_SOCKET => frames::mtu(port).octets,
            _ => started.mtu().map_err(text)?,
        };
        say(port, &driver, &started, (queues.len(), mtu));
        let followed = Followed::new(port, &driver, interface);
        let arrival = Arrival::of(self.eal, port, &driver, &started).unwrap_or_else(|why| {
            tracing::warn!(
                port = port.name.get_ref(),
                driver,
                "rx_timestamps = true, and {why}: latencies begin in the worker"
            );
            Arrival::Unstamped { could: false }
        });
        let (peers, far_end) = far.map(|far| self.open_port(port, far)).transpose()?.unzip();
        let mac = started.mac().map_err(text)?;
        let opened = Opened { queues, peers: peers.unwrap_or_default(), mac: MacAddr(mac.0), mtu };
        Ok((opened, Kept { started, far_end, arrival, followed }))
    }

    /// Attaches a device whose driver puts hearken's claim on its interface.
    #[cfg(feature = "kernel")]
    fn attach_beside_kernel(&self, device: &DpdkDevice) -> Result<PortId, String> {
        crate::kernel::prepare(device.arg("iface").unwrap_or_default())?;
        let program = self.claim.path();
        self.attach(&format!("{},xdp_prog={program}", device.devargs()), device)
    }

    #[cfg(not(feature = "kernel"))]
    fn attach_beside_kernel(&self, _device: &DpdkDevice) -> Result<PortId, String> {
        Err("this hearken was built without the feature \"kernel\", which take = \"claimed\" needs".into())
    }

    fn attach(&self, devargs: &str, device: &DpdkDevice) -> Result<PortId, String> {
        let ids = self.eal.attach(devargs).map_err(|error| match device.driver() {
            Some(driver) => format!(
                "{error}. Next: look {driver} and its arguments up in DPDK's NIC guide; drivers are plugins of libdpdk \
                 and packages of their own on some systems"
            ),
            None => format!("{error}. Next: see that it is bound to vfio-pci, \"dpdk-devbind.py --status\""),
        })?;
        match ids[..] {
            [id] => Ok(id),
            _ => Err(format!(
                "{} has {} ports; name one of them, see its driver's page",
                device.name(),
                ids.len()
            )),
        }
    }

    fn open_port(&self, port: &Port, id: PortId) -> Result<(Vec<DpdkIo>, Started), String> {
        let info = self.eal.port_info(id).map_err(text)?;
        let offloads = port.offloads == config::Offloads::Auto;
        let mtu = frames::mtu(port);
        if let Some(clamp) = &mtu.clamp {
            tracing::warn!(port = port.name.get_ref(), driver = info.driver, "{clamp}");
        }
        let wish = PortConfig {
            // What nobody asked for is not a wish that was clamped.
            queues: match port.queues.get_ref() {
                Queues::Fixed(queues) => *queues,
                Queues::Auto => queues_wanted(port, self.cores).min(info.capabilities.queues_max).max(1),
            },
            rx_desc: *port.rx_descriptors.get_ref(),
            tx_desc: *port.tx_descriptors.get_ref(),
            // Where it is the interface's, the driver would change it there.
            mtu: (!port.is_beside_kernel() && info.driver != PACKET_SOCKET).then_some(mtu.octets),
            rx_checksum: offloads,
            tx_checksum: offloads,
            vlan_insert: offloads,
            promiscuous: port.promiscuous,
            rx_timestamp: port.rx_timestamps,
            rx_interrupts: self.config.workers.idle == config::Idle::Interrupt,
            ..PortConfig::default()
        };
        let configured = self.eal.open(id).and_then(|port| port.configure(&wish)).map_err(text)?;
        let pool = self.pool(port, &info.driver, &configured)?;
        let mut started = configured.start(&pool).map_err(text)?;
        let queues = DpdkIo::take_all(&mut started, &pool);
        if wish.rx_interrupts && !queues.iter().all(DpdkIo::has_interrupt) {
            return Err(no_interrupts(&info.driver));
        }
        Ok((queues, started))
    }

    fn pool(&self, port: &Port, driver: &str, configured: &Configured) -> Result<Mempool, String> {
        let mut need = pool_need(self.config, port, configured.config().queues, self.cores);
        need.rx_desc = configured.config().rx_desc.into();
        need.tx_desc = configured.config().tx_desc.into();
        let mtu = configured.config().mtu.unwrap_or_else(|| frames::mtu(port).octets);
        need.data_room = frames::room(port.device.get_ref(), Some(driver), mtu);
        let pool = self.eal.mempool_for(need.data_room, need.mbufs(), configured.numa_node());
        pool.map_err(|error| {
            format!("no memory for {need}: {error}; raise eal.memory_mib or lower the descriptors")
        })
    }
}

/// MTU of the interface of a port beside the kernel.
#[cfg(feature = "kernel")]
fn kernels_mtu(port: &Port) -> Result<u16, String> {
    crate::kernel::mtu(port.interface().unwrap_or_default())
}

#[cfg(not(feature = "kernel"))]
fn kernels_mtu(port: &Port) -> Result<u16, String> {
    Ok(*port.mtu.get_ref())
}

fn no_interrupts(driver: &str) -> String {
    format!(
        "workers.idle = \"interrupt\", and the driver {driver} has no receive interrupts for this device; choose \
         \"spin\", \"pause\" or \"yield\""
    )
}

fn text(error: DpdkError) -> String {
    error.to_string()
}

/// The line that tells the operator what became of the port.
fn say(port: &Port, driver: &str, started: &Started, (queues, mtu): (usize, u16)) {
    let mac = started.mac().map(|mac| mac.to_string()).unwrap_or_default();
    tracing::info!(
        port = port.name.get_ref(),
        device = %port.device.get_ref(),
        driver,
        %mac,
        addresses = super::addresses(port),
        queues,
        mtu,
        offloads = offload_names(started.offloads()),
        rss = rss_text(started),
        clamps = started.clamps().join("; "),
        "port"
    );
    if !losses::are_counted(driver) {
        let port = port.name.get_ref();
        tracing::warn!(
            port,
            driver,
            "this driver counts no losses: frames that find no descriptor are missed by nobody"
        );
    }
}

/// How frames come to their queues.
fn rss_text(started: &Started) -> String {
    let Some(rss) = started.rss() else { return "none".into() };
    let kind = match (rss.symmetric, &rss.key[..]) {
        (true, _) => "symmetric",
        (false, []) => "not told",
        (false, _) => "the device's own",
    };
    let mut text = format!("{kind}, key ");
    match &rss.key[..] {
        [] => text += "not told",
        key => key.iter().for_each(|byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }),
    }
    let queues: Vec<u16> = started.reta().iter().map(|queue| queue.0).collect();
    text + &table_text(&queues)
}

/// A redirection table, of which mostly a few entries repeat: `, table 128 x 0 1 2 3`.
fn table_text(queues: &[u16]) -> String {
    if queues.is_empty() {
        return ", table not told".into();
    }
    let repeats = |len: &usize| queues.iter().enumerate().all(|(at, queue)| *queue == queues[at % len]);
    let len = (1..queues.len()).find(repeats).unwrap_or(queues.len());
    let period: Vec<String> = queues[..len].iter().map(u16::to_string).collect();
    format!(", table of {}: {} and so on", queues.len(), period.join(" "))
}

fn offload_names(offloads: Offloads) -> String {
    let names = [
        (offloads.rx_ipv4_checksum, "rx_ipv4_checksum"),
        (offloads.rx_tcp_checksum, "rx_tcp_checksum"),
        (offloads.tx_ipv4_checksum, "tx_ipv4_checksum"),
        (offloads.tx_tcp_checksum, "tx_tcp_checksum"),
        (offloads.tx_vlan_insert, "tx_vlan_insert"),
        (offloads.rss, "rss"),
        (offloads.rx_timestamp, "rx_timestamp"),
    ];
    let on: Vec<&str> = names.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
    if on.is_empty() { "none".into() } else { on.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_table_is_told_by_what_repeats() {
        assert_eq!(table_text(&[0, 1, 0, 1, 0]), ", table of 5: 0 1 and so on");
        assert_eq!(table_text(&[2, 2]), ", table of 2: 2 and so on");
        assert_eq!(table_text(&[]), ", table not told");
    }
}
