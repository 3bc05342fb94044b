//! Device strings: what a `[[port]]` receives from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::value::deserialize_from_str;

/// Where a port's frames come from and go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A DPDK device.
    Dpdk(DpdkDevice),
    /// One end of a wire inside this process: two DPDK ports joined by rings, `ring_pair` or `ring_pair,queues=2`. The
    /// other end is given to whoever starts the server as a library.
    RingPair {
        /// Queue pairs of each end.
        queues: u16,
    },
    /// A file of frames to read and one to write the answers to, without DPDK: `pcap:IN.pcap,OUT.pcap`.
    Pcap {
        /// Frames that come in, once, in their order.
        input: PathBuf,
        /// Where frames that are sent go; none: they are counted and forgotten.
        output: Option<PathBuf>,
    },
}

/// A device string as DPDK takes it: the device's name, then its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DpdkDevice {
    /// For `--allow`: a device on a bus, such as `0000:01:00.0,rxq_pkt_pad_en=1` or `auxiliary:mlx5_core.sf.4`.
    Bus(String),
    /// For `--vdev`: a virtual device such as `net_af_packet0,iface=eth1`.
    Virtual(String),
}

/// Queues of DPDK's ring driver.
const RING_QUEUES_MAX: u16 = 16;

/// How a device string looks, for messages.
const WANTED: &str = "wanted a PCI address such as \"0000:01:00.0\", a virtual device such as \
     \"net_af_packet0,iface=eth1,qpairs=2\", or \"pcap:IN.pcap,OUT.pcap\"";

impl DpdkDevice {
    /// The whole string.
    pub fn devargs(&self) -> &str {
        match self {
            Self::Bus(text) | Self::Virtual(text) => text,
        }
    }

    /// The device's name as DPDK shows it: what stands before the first comma, a PCI address with its domain.
    pub fn name(&self) -> String {
        let name = self.devargs().split(',').next().unwrap_or_default();
        match name.strip_prefix("pci:").unwrap_or(name) {
            name if matches!(self, Self::Bus(_)) && is_pci(name) && name.matches(':').count() == 1 => {
                format!("0000:{name}")
            }
            name => name.to_owned(),
        }
    }

    /// The PCI address with its domain, if it is a PCI device.
    pub fn pci(&self) -> Option<String> {
        Some(self.name()).filter(|name| matches!(self, Self::Bus(_)) && is_pci(name))
    }

    /// The driver of a virtual device: its name without the number, such as `net_af_packet`.
    pub fn driver(&self) -> Option<String> {
        match self {
            Self::Virtual(_) => Some(self.name().trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()),
            Self::Bus(_) => None,
        }
    }

    /// The value of the argument `key`.
    pub fn arg(&self, key: &str) -> Option<&str> {
        self.devargs()
            .split(',')
            .skip(1)
            .filter_map(|arg| arg.split_once('='))
            .find(|arg| arg.0 == key)
            .map(|arg| arg.1)
    }
}

/// DPDK's drivers of virtual network devices (22.11 to 25.11), without those for one SoC.
const DRIVERS: [&str; 17] = [
    "net_af_packet",
    "net_af_xdp",
    "net_bonding",
    "net_failsafe",
    "net_memif",
    "net_mvneta",
    "net_mvpp2",
    "net_null",
    "net_pcap",
    "net_ring",
    "net_softnic",
    "net_tap",
    "net_tun",
    "net_vdev_netvsc",
    "net_vhost",
    "net_virtio_user",
    "virtio_user",
];

/// If DPDK has no driver called `driver`, the names that are most like it.
pub(super) fn nearest_drivers(driver: &str) -> Option<String> {
    // Older names of the same drivers, which DPDK still takes.
    let driver = driver.strip_prefix("eth_").map_or_else(|| driver.to_owned(), |rest| format!("net_{rest}"));
    if DRIVERS.contains(&driver.as_str()) || driver == "net_bond" {
        return None;
    }
    let mut names = DRIVERS;
    names.sort_by_key(|name| strsim::damerau_levenshtein(name, &driver));
    Some(names[..3].join(", "))
}

/// True for `0000:01:00.0` and `01:00.0`.
fn is_pci(text: &str) -> bool {
    let hex = |part: &str, digits: usize| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
    let Some((address, function)) = text.rsplit_once('.') else { return false };
    let parts: Vec<&str> = address.split(':').collect();
    let address = match parts[..] {
        [bus, device] => hex(bus, 2) && hex(device, 2),
        [domain, bus, device] => (hex(domain, 4) || hex(domain, 8)) && hex(bus, 2) && hex(device, 2),
        _ => false,
    };
    address && matches!(function.as_bytes(), [b'0'..=b'7'])
}

impl FromStr for DpdkDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.split(',').next().unwrap_or_default();
        if text.contains(char::is_whitespace) || text.contains('\0') {
            return Err(format!("\"{text}\" contains blanks; a device string has none"));
        }
        if is_pci(name) || ["pci:", "auxiliary:", "vmbus:", "cdx:"].iter().any(|bus| name.starts_with(bus)) {
            return Ok(Self::Bus(text.to_owned()));
        }
        if !["net_", "eth_", "virtio_user"].iter().any(|prefix| name.starts_with(prefix)) {
            return Err(format!("\"{text}\" is no device; {WANTED}"));
        }
        let device = Self::Virtual(text.to_owned());
        let iface = matches!(device.driver().as_deref(), Some("net_af_packet" | "net_af_xdp"));
        if iface && device.arg("iface").is_none_or(str::is_empty) {
            return Err(format!(
                "\"{text}\" names no interface; add it, such as \"{name},iface=eth1\" (see \"ip link\")"
            ));
        }
        Ok(device)
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("ring_pair") {
            let queues = if rest.is_empty() { Some("1") } else { rest.strip_prefix(",queues=") };
            return match queues.and_then(|queues| queues.parse().ok()) {
                Some(queues @ 1..=RING_QUEUES_MAX) => Ok(Self::RingPair { queues }),
                _ => Err(format!(
                    "\"{text}\" wants 1 to {RING_QUEUES_MAX} queues; write \"ring_pair,queues=2\""
                )),
            };
        }
        let Some(files) = text.strip_prefix("pcap:") else {
            return text.parse().map(Self::Dpdk);
        };
        let (input, output) = match files.split_once(',') {
            Some((input, output)) => (input, Some(output)),
            None => (files, None),
        };
        if input.is_empty() || output.is_some_and(|output| output.is_empty() || output == input) {
            return Err(format!("\"{text}\" wants two different files; write \"pcap:IN.pcap,OUT.pcap\""));
        }
        Ok(Self::Pcap { input: input.into(), output: output.map(PathBuf::from) })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dpdk(device) => f.write_str(device.devargs()),
            Self::RingPair { queues } => write!(f, "ring_pair,queues={queues}"),
            Self::Pcap { input, output: None } => write!(f, "pcap:{}", input.display()),
            Self::Pcap { input, output: Some(output) } => {
                write!(f, "pcap:{},{}", input.display(), output.display())
            }
        }
    }
}

deserialize_from_str!(Device, "a device string, such as \"net_af_packet0,iface=eth1\"");
