//! What else is on an interface: the kernel with the same address, another hearken; and whether `/sys` speaks of this network
//! namespace. None of it keeps hearken from running, and each makes beginners look for a day.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::config::{Config, Device, Port};

/// Something to mend: what was found, and the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What is the matter.
    pub found: String,
    /// What mends it.
    pub next: String,
}

impl std::fmt::Display for Advice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.found, self.next)
    }
}

/// A destination that the kernel delivers to its own programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelAddress {
    /// The address.
    pub addr: IpAddr,
    /// The interface that has it.
    pub interface: String,
}

/// What this network namespace is made of.
#[derive(Clone, Debug, Default)]
struct Namespace {
    interfaces: BTreeSet<String>,
    addresses: Vec<KernelAddress>,
}

/// What there is to say of `config` on this machine, before anything is opened.
pub fn advice(config: &Config) -> Vec<Advice> {
    let here = Namespace { interfaces: interfaces(), addresses: kernel_addresses() };
    let mut advice: Vec<Advice> = sysfs(&here, Path::new("/sys")).into_iter().collect();
    advice.extend(config.port.iter().flat_map(|port| kernel_owns(port, &here)));
    advice.extend(config.port.iter().filter_map(another_on));
    advice
}

/// The interfaces of this thread's network namespace, which `/sys/class/net` need not be.
pub fn interfaces() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

#[cfg(feature = "kernel")]
fn kernel_addresses() -> Vec<KernelAddress> {
    let net = crate::kernel::net::Net::read().unwrap_or_default();
    net.own_addresses()
        .map(|(addr, interface)| KernelAddress { addr, interface: interface.to_owned() })
        .collect()
}

#[cfg(not(feature = "kernel"))]
fn kernel_addresses() -> Vec<KernelAddress> {
    Vec::new()
}

/// `/sys` stays that of the namespace in which it was mounted.
fn sysfs(here: &Namespace, sys: &Path) -> Option<Advice> {
    let shown: BTreeSet<String> = fs::read_dir(sys.join("class/net"))
        .ok()?
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if here.interfaces.is_empty() || shown == here.interfaces {
        return None;
    }
    let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
    Some(Advice {
        found: format!(
            "/sys shows another network namespace (interfaces {}) than the one that this runs in ({}), so what is read there \
             is wrong",
            names(&shown),
            names(&here.interfaces)
        ),
        next: "enter it with \"ip netns exec\", or after \"nsenter -n\" mount /sys anew: unshare -m sh -c 'mount -t sysfs sysfs \
               /sys; exec hearken …'"
            .into(),
    })
}

/// The interface of a port whose frames the kernel gets as well.
fn shared_interface(port: &Port) -> Option<&str> {
    let Device::Dpdk(device) = port.device.get_ref() else { return None };
    let shared = matches!(device.driver().as_deref(), Some("net_af_packet" | "net_pcap"));
    device.arg("iface").filter(|_| shared)
}

fn kernel_owns<'a>(port: &'a Port, here: &'a Namespace) -> impl Iterator<Item = Advice> + 'a {
    let shared = shared_interface(port);
    let ours = |addr: IpAddr| {
        let own = port.addresses.iter().any(|prefix| IpAddr::from(prefix.get_ref().addr) == addr);
        let any = port.any_ip.iter().any(|prefix| {
            let prefix = prefix.get_ref();
            prefix.addr.is_v4() == addr.is_ipv4()
                && listener::types::InetAddr::from(addr).same_prefix(prefix.addr, prefix.len)
        });
        own || any
    };
    let owned = here.addresses.iter().filter(move |kernel| shared.is_some() && ours(kernel.addr));
    owned.map(move |KernelAddress { addr, interface }| Advice {
        found: format!(
            "port \"{}\": the kernel has {addr} too, on {interface}: it answers every SYN with a RST that ends hearken's connection",
            port.name.get_ref()
        ),
        next: format!(
            "ip addr del {addr} dev {interface}; or stand before the kernel's own servers with \"hearken shield\" or take = \"claimed\""
        ),
    })
}

/// The name by which hearkens on one interface know of each other: in the abstract namespace of Unix sockets, which is the
/// network namespace's own, as interfaces are, and keeps nothing of a process that has ended.
fn socket_name(interface: &str) -> Option<SocketAddr> {
    SocketAddr::from_abstract_name(format!("hearken/interface/{interface}")).ok()
}

fn another_on(port: &Port) -> Option<Advice> {
    let interface = interface(port)?;
    let error = UnixDatagram::bind_addr(&socket_name(interface)?).err()?;
    (error.kind() == std::io::ErrorKind::AddrInUse).then(|| Advice {
        found: format!(
            "port \"{}\": another hearken is on {interface} already; both get every frame, and both answer for addresses that both have",
            port.name.get_ref()
        ),
        next: "end one of them, or give them different addresses (\"pgrep -a hearken\" shows both)".into(),
    })
}

fn interface(port: &Port) -> Option<&str> {
    match port.device.get_ref() {
        Device::Dpdk(device) => device.arg("iface"),
        _ => None,
    }
}

/// What tells other hearkens that this one is there, as long as it is kept.
#[derive(Debug, Default)]
pub struct Presence {
    _interfaces: Vec<UnixDatagram>,
    _devices: Vec<File>,
}

impl Presence {
    /// Of the interfaces and PCI devices of `config`.
    ///
    /// # Errors
    /// Another hearken has a PCI device: on uio nothing else would keep this one from taking it.
    pub fn take(config: &Config, sys: &Path) -> Result<Self, String> {
        let mut devices = Vec::new();
        for port in &config.port {
            let Device::Dpdk(device) = port.device.get_ref() else { continue };
            let Some(pci) = device.pci() else { continue };
            // A file of the device's own, so that none is left behind; nothing is read or written.
            let Ok(file) = File::open(sys.join("bus/pci/devices").join(&pci).join("config")) else {
                continue;
            };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                return Err(format!(
                    "port \"{}\": another hearken runs on {pci}; end it first (\"pgrep -a hearken\" shows it)",
                    port.name.get_ref()
                ));
            }
            devices.push(file);
        }
        let names = config.port.iter().filter_map(interface).filter_map(socket_name);
        let interfaces = names.filter_map(|name| UnixDatagram::bind_addr(&name).ok()).collect();
        Ok(Self { _interfaces: interfaces, _devices: devices })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(device: &str) -> Config {
        let text = format!(
            "[[port]]\nname = \"p0\"\ndevice = \"{device}\"\naddresses = [\"198.18.0.1/24\", \"2001:db8::1/64\"]\n\
             any_ip = [\"198.19.0.0/16\"]\n"
        );
        Config::parse(Path::new("h.toml"), text).expect("a configuration")
    }

    #[test]
    fn an_address_that_the_kernel_has_too_is_named() {
        let kernel =
            |addr: &str| KernelAddress { addr: addr.parse().expect("an address"), interface: "x0".into() };
        let addresses = ["198.18.0.1", "198.18.0.2", "198.19.7.7", "2001:db8::1", "2001:db8::2"].map(kernel);
        let here = Namespace { addresses: addresses.into(), ..Namespace::default() };
        let found = |device: &str| {
            let config = config(device);
            kernel_owns(&config.port[0], &here).map(|advice| advice.to_string()).collect::<Vec<_>>()
        };
        let said = found("net_af_packet0,iface=x0");
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(
            said[0].starts_with("port \"p0\": the kernel has 198.18.0.1 too, on x0: ")
                && said[0].contains("; ip addr del 198.18.0.1 dev x0; or "),
            "{said:?}"
        );
        assert!(
            said[1].contains("has 198.19.7.7 too") && said[2].contains("has 2001:db8::1 too"),
            "{said:?}"
        );
        assert_eq!(found("net_tap0"), [""; 0], "there the kernel is the other end");
    }

    #[test]
    fn a_sysfs_of_another_namespace_is_told() {
        let sys = tempfile::tempdir().expect("a directory");
        for name in ["eth0", "lo"] {
            fs::create_dir_all(sys.path().join("class/net").join(name)).expect("a directory");
        }
        // As /sys has it where bonding is loaded: no interface.
        fs::write(sys.path().join("class/net/bonding_masters"), "").expect("a file");
        let here = |names: &[&str]| Namespace {
            interfaces: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Namespace::default()
        };
        assert_eq!(sysfs(&here(&["lo", "eth0"]), sys.path()), None);
        let said = sysfs(&here(&["lo", "hk0"]), sys.path()).expect("they differ").to_string();
        assert!(said.contains("(interfaces eth0 lo)") && said.contains("(hk0 lo)"), "{said}");
        assert!(interfaces().contains("lo"));
    }

    #[test]
    fn one_hearken_a_device() {
        let sys = tempfile::tempdir().expect("a directory");
        let dir = sys.path().join("bus/pci/devices/0000:01:00.0");
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("config"), "").expect("a file");
        let config = config("0000:01:00.0");
        let first = Presence::take(&config, sys.path()).expect("the first");
        let refused = Presence::take(&config, sys.path()).expect_err("the second");
        assert!(refused.starts_with("port \"p0\": another hearken runs on 0000:01:00.0; "), "{refused}");
        drop(first);
        Presence::take(&config, sys.path()).expect("after the first");
    }

    #[test]
    fn another_on_the_same_interface_is_told() {
        // A name that no other test or machine has; it need not be there.
        let config = config(&format!("net_af_packet0,iface=hk{}", std::process::id()));
        assert_eq!(another_on(&config.port[0]), None);
        let first = Presence::take(&config, Path::new("/sys")).expect("the first");
        let said = another_on(&config.port[0]).expect("it is there").to_string();
        assert!(said.contains("another hearken is on hk"), "{said}");
        drop(first);
        assert_eq!(another_on(&config.port[0]), None);
    }
}
