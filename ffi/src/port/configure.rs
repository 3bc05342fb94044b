//! From wishes to a running port: what the device cannot do is left out, logged, and told.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use dpdk_sys as sys;

use super::{Offloads, Port, RssKey, Started, dev_info, numa_node};
use crate::queue::xdp_socket;
use crate::{DpdkError, Mempool, NumaNode, QueueId, RxQueue, TxQueue, log};

/// What ethdev takes a frame to be longer than its MTU, where the driver does not say: Ethernet's header and checksum.
const OVERHEAD: u32 = 14 + 4;

/// What is wanted of a port. Every member is a wish: see [`Configured::clamps`] for what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Receive and transmit queues, one pair per poller.
    pub queues: u16,
    /// Descriptors per receive queue.
    pub rx_desc: u16,
    /// Descriptors per transmit queue.
    pub tx_desc: u16,
    /// MTU in bytes without the link header; `None` leaves the device's own, 1,500 as a rule. The pool's mbufs must hold a frame
    /// of it ([`crate::PoolNeed::data_room`]): no port is configured to scatter one over several.
    pub mtu: Option<u16>,
    /// Let the device verify IPv4 and TCP checksums.
    pub rx_checksum: bool,
    /// Let the device fill in IPv4 and TCP checksums.
    pub tx_checksum: bool,
    /// Let the device put VLAN tags in.
    pub vlan_insert: bool,
    /// Spread flows over the queues by a symmetric hash.
    pub rss: bool,
    /// Let a thread sleep until a queue has a frame, see [`RxQueue::has_interrupt`].
    pub rx_interrupts: bool,
    /// Let the device write the time of arrival into frames. Some drivers then leave their vector receive path.
    pub rx_timestamp: bool,
    /// Receive frames for any MAC address.
    pub promiscuous: bool,
    /// Receive all multicast frames.
    pub allmulticast: bool,
}

impl Default for PortConfig {
    /// One pair of 1,024 descriptors, every offload but time stamps, multicast (neighbour discovery needs it), not
    /// promiscuous.
    fn default() -> Self {
        Self {
            queues: 1,
            rx_desc: 1024,
            tx_desc: 1024,
            mtu: None,
            rx_checksum: true,
            tx_checksum: true,
            vlan_insert: true,
            rss: true,
            rx_interrupts: false,
            rx_timestamp: false,
            promiscuous: false,
            allmulticast: true,
        }
    }
}

impl Offloads {
    pub(super) fn from_bits(rx: u64, tx: u64, rss: bool) -> Self {
        Self {
            rx_ipv4_checksum: rx & sys::SHIM_ETH_RX_OFFLOAD_IPV4_CKSUM != 0,
            rx_tcp_checksum: rx & sys::SHIM_ETH_RX_OFFLOAD_TCP_CKSUM != 0,
            rss,
            rx_rss_hash: rx & sys::SHIM_ETH_RX_OFFLOAD_RSS_HASH != 0,
            rx_timestamp: rx & sys::SHIM_ETH_RX_OFFLOAD_TIMESTAMP != 0,
            rx_scatter: rx & sys::SHIM_ETH_RX_OFFLOAD_SCATTER != 0,
            tx_ipv4_checksum: tx & sys::SHIM_ETH_TX_OFFLOAD_IPV4_CKSUM != 0,
            tx_tcp_checksum: tx & sys::SHIM_ETH_TX_OFFLOAD_TCP_CKSUM != 0,
            tx_vlan_insert: tx & sys::SHIM_ETH_TX_OFFLOAD_VLAN_INSERT != 0,
            tx_multi_segs: tx & sys::SHIM_ETH_TX_OFFLOAD_MULTI_SEGS != 0,
        }
    }

    fn rx_bits(self) -> u64 {
        bit(self.rx_ipv4_checksum, sys::SHIM_ETH_RX_OFFLOAD_IPV4_CKSUM)
            | bit(self.rx_tcp_checksum, sys::SHIM_ETH_RX_OFFLOAD_TCP_CKSUM)
            | bit(self.rx_rss_hash, sys::SHIM_ETH_RX_OFFLOAD_RSS_HASH)
            | bit(self.rx_timestamp, sys::SHIM_ETH_RX_OFFLOAD_TIMESTAMP)
            | bit(self.rx_scatter, sys::SHIM_ETH_RX_OFFLOAD_SCATTER)
    }

    fn tx_bits(self) -> u64 {
        bit(self.tx_ipv4_checksum, sys::SHIM_ETH_TX_OFFLOAD_IPV4_CKSUM)
            | bit(self.tx_tcp_checksum, sys::SHIM_ETH_TX_OFFLOAD_TCP_CKSUM)
            | bit(self.tx_vlan_insert, sys::SHIM_ETH_TX_OFFLOAD_VLAN_INSERT)
            | bit(self.tx_multi_segs, sys::SHIM_ETH_TX_OFFLOAD_MULTI_SEGS)
    }
}

const fn bit(on: bool, bits: u64) -> u64 {
    if on { bits } else { 0 }
}

/// A port that the device has accepted the configuration of, not yet started: now the pool can be sized.
#[derive(Debug)]
pub struct Configured {
    port: Port,
    config: PortConfig,
    offloads: Offloads,
    clamps: Vec<String>,
    reta_size: u16,
    key_size: u8,
    symmetric: bool,
}

/// Wishes against one device, collecting what had to give.
struct Fitting<'a> {
    info: &'a sys::rte_eth_dev_info,
    name: &'a str,
    clamps: Vec<String>,
}

impl Fitting<'_> {
    fn clamp(&mut self, what: String) {
        tracing::warn!(port = self.name, driver = super::string_at(self.info.driver_name), "{what}");
        self.clamps.push(what);
    }

    /// As `clamp`, for what software does as well, if slower.
    fn forgo(&mut self, what: String) {
        tracing::info!(port = self.name, driver = super::string_at(self.info.driver_name), "{what}");
        self.clamps.push(what);
    }

    fn fit_queues(&mut self, wanted: u16) -> u16 {
        let most = self.info.max_rx_queues.min(self.info.max_tx_queues).max(1);
        let wanted = wanted.max(1);
        if wanted > most {
            self.clamp(format!("{wanted} queue pairs asked for, the device has {most}: using {most}"));
        }
        wanted.min(most)
    }

    fn fit_mtu(&mut self, wanted: u16) -> u16 {
        let (least, most) = (self.info.min_mtu, mtu_max(self.info));
        // Some drivers leave the limits at 0.
        let fitted = if most == 0 { wanted } else { wanted.clamp(least.min(most), most) };
        if fitted != wanted {
            self.clamp(format!("MTU {wanted} asked for, the device takes {least} to {most}: using {fitted}"));
        }
        fitted
    }

    fn fit_offloads(&mut self, config: &PortConfig) -> Offloads {
        let can = super::capabilities(self.info).offloads;
        let mut fit = |wanted: bool, can: bool, what: &str, then: &str| {
            if wanted && !can {
                self.forgo(format!("no {what} in the device: {then}"));
            }
            wanted && can
        };
        Offloads {
            rx_ipv4_checksum: fit(
                config.rx_checksum,
                can.rx_ipv4_checksum,
                "IPv4 receive checksum",
                "verified in software",
            ),
            rx_tcp_checksum: fit(
                config.rx_checksum,
                can.rx_tcp_checksum,
                "TCP receive checksum",
                "verified in software",
            ),
            rss: fit(
                config.rss && config.queues > 1,
                can.rss,
                "RSS",
                "flows are spread as the driver does it, if at all",
            ),
            rx_rss_hash: config.rss && config.queues > 1 && can.rss && can.rx_rss_hash,
            // Whoever wishes for it looks whether it is there, for some drivers stamp unasked.
            rx_timestamp: config.rx_timestamp && can.rx_timestamp,
            rx_scatter: false,
            tx_ipv4_checksum: fit(
                config.tx_checksum,
                can.tx_ipv4_checksum,
                "IPv4 transmit checksum",
                "filled in by software",
            ),
            tx_tcp_checksum: fit(
                config.tx_checksum,
                can.tx_tcp_checksum,
                "TCP transmit checksum",
                "filled in by software",
            ),
            tx_vlan_insert: fit(config.vlan_insert, can.tx_vlan_insert, "VLAN insertion", "done in software"),
            tx_multi_segs: false,
        }
    }
}

/// The greatest MTU that `rte_eth_dev_configure` lets pass: by the driver's MTU, and by its longest frame, which some drivers
/// name alone (net_af_packet, net_tap).
fn mtu_max(info: &sys::rte_eth_dev_info) -> u16 {
    let told = info.max_mtu != u16::MAX && info.max_rx_pktlen > u32::from(info.max_mtu);
    let overhead = if told { info.max_rx_pktlen - u32::from(info.max_mtu) } else { OVERHEAD };
    let longest = u16::try_from(info.max_rx_pktlen.saturating_sub(overhead)).unwrap_or(u16::MAX);
    // Some drivers leave the limits at 0.
    if longest == 0 { info.max_mtu } else { info.max_mtu.min(longest) }
}

impl Port {
    /// Fits `config` to the device and configures it.
    ///
    /// RSS gets a symmetric key, so that both directions of a flow meet on one queue; a device that refuses
    /// the key keeps its own, one that refuses RSS goes without.
    ///
    /// # Errors
    /// What `rte_eth_dev_configure` said, with the lines that it printed.
    pub fn configure(self, config: &PortConfig) -> Result<Configured, DpdkError> {
        const CALL: &str = "rte_eth_dev_configure";
        let state = self.eal.state();
        let info = dev_info(self.id)?;
        let mut fitting = Fitting { info: &info, name: &self.name, clamps: Vec::new() };
        let mut config = config.clone();
        config.queues = fitting.fit_queues(config.queues);
        let mut offloads = fitting.fit_offloads(&config);
        let mtu = config.mtu.map(|mtu| fitting.fit_mtu(mtu));
        config.mtu = mtu;

        let mut printed = Vec::new();
        let mut rc = -1;
        let mut symmetric = false;
        for rss in rss_attempts(offloads.rss, usize::from(info.hash_key_size) <= KEY.len()) {
            let mut conf = eth_conf(mtu, offloads, rss, &info);
            conf.intr_conf.set_rxq(config.rx_interrupts.into());
            if rss == Rss::Symmetric {
                conf.rx_adv_conf.rss_conf.rss_key = KEY.as_ptr().cast::<u8>().cast_mut();
                conf.rx_adv_conf.rss_conf.rss_key_len = info.hash_key_size;
            }
            // SAFETY:
            // - Lifetime: `conf` outlives the call, which copies it, but not the key: it keeps the pointer in
            //   `dev_conf.rx_adv_conf` (22.11 rte_ethdev.c), and drivers read the key when the port starts (igb, ixgbe, i40e,
            //   ena, vmxnet3). `KEY` lives as long as the process.
            // - Bounds: drivers read `rss_key_len` octets, no more than `KEY` has; see `rss_attempts`.
            // - Race: the port is ours alone and not started; `state` is locked.
            (rc, printed) = log::captured(|| unsafe {
                sys::rte_eth_dev_configure(self.id.0, config.queues, config.queues, &conf)
            });
            if rc >= 0 {
                symmetric = rss == Rss::Symmetric;
                break;
            }
            match rss {
                Rss::Symmetric => {
                    fitting.clamp("the device refuses a symmetric RSS key: it keeps its own".into())
                }
                Rss::OwnKey => {
                    fitting.clamp("the device refuses RSS: flows are spread as the driver does it".into());
                    offloads.rss = false;
                    offloads.rx_rss_hash = false;
                }
                Rss::Off => {}
            }
        }
        DpdkError::check(CALL, &self.name, rc).map_err(|error| error.hint(printed))?;

        let (mut rx_desc, mut tx_desc) = (config.rx_desc, config.tx_desc);
        // SAFETY: two u16 of ours to adjust; the port is configured.
        let rc = unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.id.0, &mut rx_desc, &mut tx_desc) };
        DpdkError::check("rte_eth_dev_adjust_nb_rx_tx_desc", &self.name, rc)?;
        for (what, wanted, got) in
            [("receive", config.rx_desc, rx_desc), ("transmit", config.tx_desc, tx_desc)]
        {
            if wanted != got {
                fitting.clamp(format!("{wanted} {what} descriptors asked for: the device makes it {got}"));
            }
        }
        (config.rx_desc, config.tx_desc) = (rx_desc, tx_desc);
        let clamps = fitting.clamps;
        drop(state);
        let (reta_size, key_size) = (info.reta_size, info.hash_key_size);
        Ok(Configured { port: self, config, offloads, clamps, reta_size, key_size, symmetric })
    }
}

/// Repeated, this key hashes both directions of a flow alike: S. Woo, K. Park, "Scalable TCP Session
/// Monitoring with Symmetric Receive-side Scaling", KAIST, 2012.
const SYMMETRIC_KEY: [u8; 2] = [0x6d, 0x5a];

/// [`SYMMETRIC_KEY`], repeated: what the devices' configurations point to for as long as they exist. Atomic, so that it lies in
/// memory that may be written, as the driver interface's type would have it; no driver was seen to.
static KEY: [AtomicU8; 64] = {
    let mut key = [const { AtomicU8::new(SYMMETRIC_KEY[0]) }; 64];
    let mut at = 1;
    while at < key.len() {
        key[at] = AtomicU8::new(SYMMETRIC_KEY[1]);
        at += 2;
    }
    key
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rss {
    Symmetric,
    OwnKey,
    Off,
}

fn rss_attempts(wanted: bool, key_fits: bool) -> impl Iterator<Item = Rss> {
    [(wanted && key_fits, Rss::Symmetric), (wanted, Rss::OwnKey), (true, Rss::Off)]
        .into_iter()
        .filter_map(|(try_it, rss)| try_it.then_some(rss))
}

/// VLAN strip stays off, so that the parser sees the tag where it stands; but where the kernel takes the tag out of the frame the driver
/// would put it back as 802.1Q's, whatever it was (DPDK 22.11 `eth_af_packet_rx`). There the frame comes without it and with its TCI.
fn strip(info: &sys::rte_eth_dev_info) -> u64 {
    let puts_back = super::string_at(info.driver_name) == "net_af_packet";
    bit(puts_back, sys::SHIM_ETH_RX_OFFLOAD_VLAN_STRIP) & info.rx_offload_capa
}

fn eth_conf(
    mtu: Option<u16>,
    offloads: Offloads,
    rss: Rss,
    info: &sys::rte_eth_dev_info,
) -> sys::rte_eth_conf {
    let mut conf = sys::rte_eth_conf::default();
    conf.rxmode.offloads = offloads.rx_bits() | strip(info);
    conf.txmode.offloads = offloads.tx_bits();
    conf.rxmode.mtu = u32::from(mtu.unwrap_or(0));
    conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_NONE;
    if rss == Rss::Off {
        conf.rxmode.offloads &= !sys::SHIM_ETH_RX_OFFLOAD_RSS_HASH;
    } else {
        conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf =
            (sys::SHIM_ETH_RSS_IP | sys::SHIM_ETH_RSS_TCP) & info.flow_type_rss_offloads;
    }
    conf
}

impl Configured {
    /// What will be in force: queues, descriptors and MTU as fitted.
    pub fn config(&self) -> &PortConfig {
        &self.config
    }

    /// What was asked for and not had so far, a sentence each.
    pub fn clamps(&self) -> &[String] {
        &self.clamps
    }

    /// Where the device sits, and where its pool should.
    pub fn numa_node(&self) -> NumaNode {
        numa_node(self.port.id)
    }

    /// Sets the queues up on `pool` and starts the device.
    ///
    /// # Errors
    /// What the failing call said, with the lines that it printed; the port is closed.
    pub fn start(mut self, pool: &Mempool) -> Result<Started, DpdkError> {
        let state = self.port.eal.state();
        let (id, name) = (self.port.id, self.port.name.clone());
        let mut sockets = Vec::new();
        for queue_id in 0..self.config.queues {
            let before = xdp_socket::all();
            // SAFETY: the port is ours, configured with these queues, and stopped; a null conf means the
            // driver's default; the pool lives until the EAL stops, and the port is closed before.
            let (rc, printed) = log::captured(|| unsafe {
                let node = numa_node(id).socket_id() as u32;
                let rc = sys::rte_eth_rx_queue_setup(
                    id.0,
                    queue_id,
                    self.config.rx_desc,
                    node,
                    std::ptr::null(),
                    pool.as_ptr(),
                );
                if rc < 0 {
                    return ("rte_eth_rx_queue_setup", rc);
                }
                let rc =
                    sys::rte_eth_tx_queue_setup(id.0, queue_id, self.config.tx_desc, node, std::ptr::null());
                ("rte_eth_tx_queue_setup", rc)
            });
            DpdkError::check(rc.0, &format!("{name} queue {queue_id}"), rc.1)
                .map_err(|error| error.hint(printed))?;
            sockets.push(xdp_socket::opened_since(&before));
        }
        if let Some(mtu) = self.config.mtu {
            // SAFETY: the port is ours and stopped.
            let (rc, _) = log::captured(|| unsafe { sys::rte_eth_dev_set_mtu(id.0, mtu) });
            wish(&mut self.clamps, &name, rc, &format!("the driver does not set MTU {mtu} on its device"));
        }
        // SAFETY: the port is ours, and all its queues are set up.
        let (rc, printed) = log::captured(|| unsafe { sys::rte_eth_dev_start(id.0) });
        DpdkError::check("rte_eth_dev_start", &name, rc).map_err(|error| error.hint(printed))?;
        self.port.started = true;
        // SAFETY: the port is ours and started.
        let (promiscuous, allmulticast) = unsafe {
            (
                if self.config.promiscuous { sys::rte_eth_promiscuous_enable(id.0) } else { 0 },
                if self.config.allmulticast { sys::rte_eth_allmulticast_enable(id.0) } else { 0 },
            )
        };
        wish(
            &mut self.clamps,
            &name,
            promiscuous,
            "not promiscuous: only frames for the port's own MAC come in",
        );
        wish(
            &mut self.clamps,
            &name,
            allmulticast,
            "no all-multicast: IPv6 neighbours may not find this port",
        );
        let reta = if self.offloads.rss { read_reta(id.0, self.reta_size) } else { Vec::new() };
        let rss = self.offloads.rss.then(|| {
            let key = read_rss_key(id.0, self.key_size);
            // A driver may take any key and keep its own; of one that tells none nothing is known.
            let kept = !key.is_empty() && key.chunks(2).all(|pair| SYMMETRIC_KEY.starts_with(pair));
            RssKey { symmetric: self.symmetric && kept, key }
        });
        drop(state);
        Ok(self.into_started(reta, rss, sockets))
    }

    fn into_started(self, reta: Vec<QueueId>, rss: Option<RssKey>, sockets: Vec<Option<OwnedFd>>) -> Started {
        let Self { port, config, offloads, clamps, .. } = self;
        let port = Arc::new(port);
        let queues = 0..config.queues;
        // Drivers may want the pseudo-header sum or cleared fields of their own: tx_prepare knows.
        let prepare = offloads.tx_ipv4_checksum || offloads.tx_tcp_checksum;
        let duplicates = sockets.iter().flatten().map(AsRawFd::as_raw_fd).collect();
        Started {
            rx: queues
                .clone()
                .zip(sockets)
                .map(|(q, socket)| RxQueue::new(Arc::clone(&port), QueueId(q), socket))
                .collect(),
            tx: queues.map(|q| TxQueue::new(Arc::clone(&port), QueueId(q), prepare)).collect(),
            port,
            offloads,
            clamps,
            reta,
            rss,
            sockets: Vec::new(),
            duplicates,
        }
    }
}

/// A wish that the device refused is logged and told, and the port goes on without.
fn wish(clamps: &mut Vec<String>, port: &str, rc: i32, refused: &str) {
    if let Err(error) = DpdkError::check("wish", port, rc) {
        let what = format!("{refused} (errno {})", error.errno);
        tracing::warn!(port, "{what}");
        clamps.push(what);
    }
}

/// The key in force, or nothing where the device does not tell.
fn read_rss_key(port_id: u16, size: u8) -> Vec<u8> {
    // Longer than any device's, for drivers that write as much as they have.
    let mut key = [0; u8::MAX as usize];
    let mut conf =
        sys::rte_eth_rss_conf { rss_key: key.as_mut_ptr(), rss_key_len: size, ..Default::default() };
    // SAFETY: `conf` is ours, and its key has room for any length that fits in `rss_key_len`.
    let rc = unsafe { sys::rte_eth_dev_rss_hash_conf_get(port_id, &mut conf) };
    let len = usize::from(if rc < 0 { 0 } else { conf.rss_key_len });
    key[..len].to_vec()
}

/// The receive queue of each hash bucket, or nothing where the device has no table to read.
fn read_reta(port_id: u16, size: u16) -> Vec<QueueId> {
    let group = sys::RTE_ETH_RETA_GROUP_SIZE as usize;
    let mut table = vec![
        sys::rte_eth_rss_reta_entry64 { mask: u64::MAX, ..Default::default() };
        usize::from(size).div_ceil(group)
    ];
    // SAFETY: `table` has the groups for `size` entries that the call writes to.
    if size == 0 || unsafe { sys::rte_eth_dev_rss_reta_query(port_id, table.as_mut_ptr(), size) } < 0 {
        return Vec::new();
    }
    table.iter().flat_map(|group| group.reta).map(QueueId).take(usize::from(size)).collect()
}
