//! Ethernet ports: found or attached, taken once, configured, started.

mod clock;
mod configure;
mod counters;
mod sockets;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpdk_sys as sys;

pub use configure::{Configured, PortConfig};
pub use counters::PortCounters;
pub use sockets::open_descriptors;

use crate::{DpdkError, Eal, NumaNode, PortId, QueueId, RxQueue, TxQueue, log};

const EBUSY: i32 = 16;
const EINVAL: i32 = 22;
const ENODEV: i32 = 19;

/// What a device can do, as far as this crate makes use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Queue pairs: the lesser of its receive and transmit queues.
    pub queues_max: u16,
    /// Least and greatest MTU, in bytes without the link header.
    pub mtu: (u16, u16),
    /// Offloads that it lists.
    pub offloads: Offloads,
    /// Bytes of the RSS key; 0 where there is none to set.
    pub rss_key_len: u8,
    /// Entries of the redirection table; 0 where there is none.
    pub reta_size: u16,
}

/// Offloads that a device lists, or that a port has enabled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Verifies the IPv4 header checksum.
    pub rx_ipv4_checksum: bool,
    /// Verifies the TCP checksum.
    pub rx_tcp_checksum: bool,
    /// Spreads received flows over the queues by a hash over addresses and TCP ports.
    pub rss: bool,
    /// Delivers that hash with the frame.
    pub rx_rss_hash: bool,
    /// Writes the time of arrival into the frame's mbuf ([`crate::Mbuf::rx_timestamp`]), by a clock of its own
    /// ([`Started::read_clock`], [`Started::timesync_read_time`]).
    pub rx_timestamp: bool,
    /// Receives frames that are longer than an mbuf as several segments.
    pub rx_scatter: bool,
    /// Fills in the IPv4 header checksum.
    pub tx_ipv4_checksum: bool,
    /// Fills in the TCP checksum.
    pub tx_tcp_checksum: bool,
    /// Puts in a VLAN tag.
    pub tx_vlan_insert: bool,
    /// Sends frames of several segments.
    pub tx_multi_segs: bool,
}

/// The key of RSS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RssKey {
    /// Both directions of a flow have one hash: the device took the key that makes it so, and tells that key when it is asked.
    pub symmetric: bool,
    /// The key as the device reports it; empty where it does not.
    pub key: Vec<u8>,
}

/// What DPDK knows of a port before anything is configured.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// Its id in this process.
    pub port_id: PortId,
    /// Name of the device: PCI address, or the name of the virtual device.
    pub name: String,
    /// Name of the driver, `net_ixgbe` or `net_tap`.
    pub driver: String,
    /// Where the device sits.
    pub numa_node: NumaNode,
    /// The number of the kernel's interface that it stands on, where the driver names one.
    pub interface: Option<u32>,
    /// What it can do.
    pub capabilities: Capabilities,
}

/// State of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether frames can pass.
    pub up: bool,
    /// Megabits a second; `u32::MAX` where the device does not know.
    pub speed_mbps: u32,
    /// Both directions at once.
    pub full_duplex: bool,
}

/// A MAC address; displayed as `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Eal {
    /// All ports that exist now.
    pub fn ports(&self) -> Vec<PortId> {
        let _one_at_a_time = self.state();
        port_ids()
    }

    /// The port of the device called `name`.
    ///
    /// # Errors
    /// ENODEV: there is none; the error names those that exist.
    pub fn port_by_name(&self, name: &str) -> Result<PortId, DpdkError> {
        let _one_at_a_time = self.state();
        find_port(name)
    }

    /// Finds or creates the device of a DPDK device string, and returns its ports: a PCI address, or a
    /// virtual device with its arguments (`net_tap0,iface=x`, `net_pcap0,rx_pcap=f`, ...).
    ///
    /// # Errors
    /// What `rte_dev_probe` said, naming the device, with the lines that it printed.
    pub fn attach(&self, device: &str) -> Result<Vec<PortId>, DpdkError> {
        const CALL: &str = "rte_dev_probe";
        let mut state = self.state();
        let name = device.split(',').next().unwrap_or(device);
        if let Ok(port_id) = find_port(name) {
            return Ok(vec![port_id]);
        }
        let devargs = c_string(CALL, device)?;
        let before = port_ids();
        // SAFETY: a C string that DPDK copies; the EAL runs while `self` lives; `state` is locked, so no
        // other probe, configure or close of ours runs.
        let (rc, printed) = log::captured(|| unsafe { sys::rte_dev_probe(devargs.as_ptr()) });
        DpdkError::check(CALL, device, rc).map_err(|error| error.hint(printed.clone()))?;
        let fresh: Vec<PortId> = port_ids().into_iter().filter(|id| !before.contains(id)).collect();
        if fresh.is_empty() {
            return Err(DpdkError::from_rc(CALL, ENODEV).on(device).hint(printed).hint([
                "DPDK took the device string but no port came of it: is the driver's package installed, \
                 is the device bound to it?"
                    .into(),
            ]));
        }
        if let [only] = fresh[..] {
            state.attached.insert(only);
        }
        Ok(fresh)
    }

    /// What DPDK knows of a port.
    ///
    /// # Errors
    /// ENODEV: there is no such port.
    pub fn port_info(&self, port_id: PortId) -> Result<PortInfo, DpdkError> {
        let _one_at_a_time = self.state();
        let info = dev_info(port_id)?;
        Ok(PortInfo {
            port_id,
            name: port_name(port_id),
            driver: string_at(info.driver_name),
            numa_node: numa_node(port_id),
            interface: Some(info.if_index).filter(|index| *index != 0),
            capabilities: capabilities(&info),
        })
    }

    /// Takes the port for this caller alone.
    ///
    /// # Errors
    /// ENODEV: there is no such port. EBUSY: somebody has it.
    pub fn open(&self, port_id: PortId) -> Result<Port, DpdkError> {
        const CALL: &str = "rte_eth_dev_configure";
        let mut state = self.state();
        dev_info(port_id)?;
        let name = port_name(port_id);
        if !state.taken.insert(port_id) {
            return Err(DpdkError::from_rc(CALL, EBUSY).on(&name).hint(["the port is open already".into()]));
        }
        Ok(Port { eal: self.clone(), id: port_id, name, started: false })
    }
}

/// A port that is ours alone. Dropping it stops and closes the device.
///
/// [`Port::configure`] is the way on; after the start this is what queues and [`Started`] share.
#[derive(Debug)]
pub struct Port {
    eal: Eal,
    id: PortId,
    name: String,
    started: bool,
}

impl Port {
    /// Its id.
    pub fn id(&self) -> PortId {
        self.id
    }

    /// Name of its device.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut state = self.eal.state();
        let device = dev_info(self.id).map_or(std::ptr::null_mut(), |info| info.device);
        // SAFETY:
        // - We are the only owner (`taken`), and the last: queues and `Started` hold us by Arc. So nobody
        //   polls, and nobody will.
        // - Race: `state` is locked. Lifetime: `self.eal` is still up.
        let rc = unsafe {
            if self.started {
                sys::rte_eth_dev_stop(self.id.0);
            }
            sys::rte_eth_dev_close(self.id.0)
        };
        if let Err(error) = DpdkError::check("rte_eth_dev_close", &self.name, rc) {
            tracing::warn!(%error, "the port stays half closed");
        }
        if state.attached.remove(&self.id) && !device.is_null() {
            // SAFETY: the device outlives its port, which was its only one (see `attach`).
            let (rc, _) = log::captured(|| unsafe { sys::rte_dev_remove(device) });
            if let Err(error) = DpdkError::check("rte_dev_remove", &self.name, rc) {
                tracing::warn!(%error, "the device stays");
            }
        }
        state.taken.remove(&self.id);
    }
}

/// A port that runs, and its queues. It runs until this and all queues are dropped.
#[derive(Debug)]
pub struct Started {
    pub(crate) port: Arc<Port>,
    /// One per queue pair, in order of queue id; take them out and give each to its thread.
    pub rx: Vec<RxQueue>,
    /// As `rx`.
    pub tx: Vec<TxQueue>,
    pub(crate) offloads: Offloads,
    pub(crate) clamps: Vec<String>,
    pub(crate) reta: Vec<QueueId>,
    pub(crate) rss: Option<RssKey>,
    pub(crate) sockets: Vec<sockets::RingSocket>,
    /// Descriptors of the queues' own for sockets of the driver's.
    pub(crate) duplicates: BTreeSet<i32>,
}

impl Started {
    /// Its id.
    pub fn id(&self) -> PortId {
        self.port.id
    }

    /// Name of its device.
    pub fn name(&self) -> &str {
        &self.port.name
    }

    /// What is enabled, which may be less than was asked for.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// What was asked for and not had, a sentence each.
    pub fn clamps(&self) -> &[String] {
        &self.clamps
    }

    /// How the device spreads flows over the queues, if by RSS.
    pub fn rss(&self) -> Option<&RssKey> {
        self.rss.as_ref()
    }

    /// The redirection table as the device reports it: the receive queue of each hash bucket. Empty where
    /// there is none to read.
    pub fn reta(&self) -> &[QueueId] {
        &self.reta
    }

    /// The port's MAC address.
    ///
    /// # Errors
    /// ENODEV: the device is gone.
    pub fn mac(&self) -> Result<MacAddr, DpdkError> {
        let _one_at_a_time = self.port.eal.state();
        let mut mac = sys::rte_ether_addr::default();
        // SAFETY: DPDK writes six bytes to `mac`, which is ours; the port is open.
        let rc = unsafe { sys::rte_eth_macaddr_get(self.port.id.0, &mut mac) };
        DpdkError::check("rte_eth_macaddr_get", &self.port.name, rc)?;
        Ok(MacAddr(mac.addr_bytes))
    }

    /// The MTU in force, in bytes without the link header.
    ///
    /// # Errors
    /// ENODEV: the device is gone.
    pub fn mtu(&self) -> Result<u16, DpdkError> {
        let _one_at_a_time = self.port.eal.state();
        let mut mtu = 0;
        // SAFETY: DPDK writes one u16 to `mtu`, which is ours; the port is open.
        let rc = unsafe { sys::rte_eth_dev_get_mtu(self.port.id.0, &mut mtu) };
        DpdkError::check("rte_eth_dev_get_mtu", &self.port.name, rc).map(|()| mtu)
    }

    /// The link now.
    ///
    /// # Errors
    /// ENODEV: the device is gone.
    pub fn link(&self) -> Result<Link, DpdkError> {
        let _one_at_a_time = self.port.eal.state();
        let mut link = sys::shim_link::default();
        // SAFETY: the shim writes `link`, which is ours; the port is open.
        let rc = unsafe { sys::shim_rte_eth_link_get_nowait(self.port.id.0, &mut link) };
        DpdkError::check("rte_eth_link_get_nowait", &self.port.name, rc)?;
        Ok(Link { up: link.up != 0, speed_mbps: link.speed_mbps, full_duplex: link.full_duplex != 0 })
    }

    /// True once the driver knows that its device is gone for good. Most drivers never say so.
    pub fn is_removed(&self) -> bool {
        let _one_at_a_time = self.port.eal.state();
        // SAFETY: the port is open; the call asks its driver and changes the port's state alone.
        unsafe { sys::rte_eth_dev_is_removed(self.port.id.0) == 1 }
    }

    /// Waits until the link is up, for at most `limit`; returns how it is then, up or not.
    ///
    /// # Errors
    /// ENODEV: the device is gone.
    pub fn wait_for_link(&self, limit: Duration) -> Result<Link, DpdkError> {
        const STEP: Duration = Duration::from_millis(20);
        let until = Instant::now() + limit;
        loop {
            let link = self.link()?;
            let left = until.saturating_duration_since(Instant::now());
            if link.up || left.is_zero() {
                return Ok(link);
            }
            std::thread::sleep(STEP.min(left));
        }
    }
}

fn port_ids() -> Vec<PortId> {
    let mut ids = Vec::new();
    let mut next = 0;
    loop {
        // SAFETY: reads the table of ports; the callers hold the EAL's lock.
        let found = unsafe { sys::rte_eth_find_next(next) };
        if u32::from(found) >= sys::RTE_MAX_ETHPORTS {
            return ids;
        }
        ids.push(PortId(found));
        next = found + 1;
    }
}

fn find_port(name: &str) -> Result<PortId, DpdkError> {
    const CALL: &str = "rte_eth_dev_get_port_by_name";
    let c_name = c_string(CALL, name)?;
    let mut port_id = 0;
    // SAFETY: a C string, and one u16 of ours to write to; the callers hold the EAL's lock.
    let rc = unsafe { sys::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &mut port_id) };
    DpdkError::check(CALL, name, rc).map(|()| PortId(port_id)).map_err(|error| {
        let known: Vec<String> = port_ids().into_iter().map(port_name).collect();
        error.hint([format!(
            "ports there are: {}",
            if known.is_empty() { "none".into() } else { known.join(", ") }
        )])
    })
}

fn port_name(port_id: PortId) -> String {
    let mut name = [0; sys::RTE_ETH_NAME_MAX_LEN as usize];
    // SAFETY: `name` has the RTE_ETH_NAME_MAX_LEN bytes that the call may write, the last a NUL.
    let rc = unsafe { sys::rte_eth_dev_get_name_by_port(port_id.0, name.as_mut_ptr()) };
    if rc < 0 { format!("port {port_id}") } else { string_at(name.as_ptr()) }
}

fn dev_info(port_id: PortId) -> Result<sys::rte_eth_dev_info, DpdkError> {
    let mut info = sys::rte_eth_dev_info::default();
    // SAFETY: DPDK writes one struct of the headers that we were built with to `info`, which is ours.
    let rc = unsafe { sys::rte_eth_dev_info_get(port_id.0, &mut info) };
    DpdkError::check("rte_eth_dev_info_get", &format!("port {port_id}"), rc).map(|()| info)
}

fn numa_node(port_id: PortId) -> NumaNode {
    // SAFETY: reads one int of the table of ports, or answers -1.
    NumaNode::new(unsafe { sys::rte_eth_dev_socket_id(port_id.0) })
}

fn capabilities(info: &sys::rte_eth_dev_info) -> Capabilities {
    Capabilities {
        queues_max: info.max_rx_queues.min(info.max_tx_queues),
        mtu: (info.min_mtu, info.max_mtu),
        offloads: Offloads::from_bits(
            info.rx_offload_capa,
            info.tx_offload_capa,
            info.flow_type_rss_offloads & (sys::SHIM_ETH_RSS_IP | sys::SHIM_ETH_RSS_TCP) != 0,
        ),
        rss_key_len: info.hash_key_size,
        reta_size: info.reta_size,
    }
}

fn c_string(call: &'static str, text: &str) -> Result<CString, DpdkError> {
    CString::new(text)
        .map_err(|_| DpdkError::from_rc(call, EINVAL).on(text).hint(["the name holds a NUL byte".into()]))
}

/// Copies a C string of DPDK's; null gives an empty one.
fn string_at(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, so a C string of DPDK's that lives at least as long as the port.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
