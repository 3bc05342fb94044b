//! What the machine must have before DPDK is asked, whose own messages tell little: interfaces, PCI devices and their
//! drivers, capabilities.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::thread::CapabilitySet;

use super::cookie_secret;
use super::surroundings::interfaces;
use crate::config::{Config, Device, DpdkDevice, Idle, Port};

/// Drivers that leave a PCI device to programs, and those that share it with them.
const FREE_DRIVERS: [&str; 5] = ["vfio-pci", "uio_pci_generic", "igb_uio", "mlx5_core", "mlx4_core"];

/// The capabilities that this thread has in effect.
pub fn capabilities() -> CapabilitySet {
    rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

/// Memory that the kernel could hand out without swapping, in MB; none where it does not say.
pub fn memory_available_mb() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kb: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kb / 1024)
}

/// What keeps `config` from running here, a sentence each.
pub fn problems(config: &Config) -> Vec<String> {
    problems_in(config, Path::new("/sys"), &interfaces(), capabilities())
}

fn problems_in(
    config: &Config,
    sys: &Path,
    interfaces: &BTreeSet<String>,
    has: CapabilitySet,
) -> Vec<String> {
    let secret = config.cookies.secret_file.as_ref();
    let secret = secret.and_then(|file| cookie_secret::read(file.get_ref()).err());
    let ports = config.port.iter().filter_map(|port| problem(port, sys, interfaces, has));
    let silent = config.port.iter().filter_map(|port| no_interrupts(config, port, sys));
    ports.chain(silent).chain(secret.map(|error| error.to_string())).collect()
}

/// PCI vendors whose devices raise no interrupt of a queue through uio (net_virtio, net_vmxnet3).
const SILENT_ON_UIO: [&str; 2] = ["0x1af4", "0x15ad"];

/// The port, PCI address and driver of a device of `config` that is on uio.
fn on_uio(port: &Port, sys: &Path) -> Option<(String, String)> {
    let Device::Dpdk(device) = port.device.get_ref() else { return None };
    let pci = device.pci()?;
    let driver = fs::read_link(sys.join("bus/pci/devices").join(&pci).join("driver")).ok()?;
    let driver = driver.file_name()?.to_string_lossy().into_owned();
    driver.contains("uio").then_some((pci, driver))
}

/// What keeps `config` from running on ordinary pages; none: it does.
pub fn needs_hugepages(config: &Config, sys: &Path) -> Option<String> {
    let (pci, driver) = config.port.iter().find_map(|port| on_uio(port, sys))?;
    Some(format!("{pci} is on {driver}, which reaches memory by physical addresses and so needs hugepages"))
}

fn no_interrupts(config: &Config, port: &Port, sys: &Path) -> Option<String> {
    let (pci, driver) = on_uio(port, sys).filter(|_| config.workers.idle == Idle::Interrupt)?;
    let vendor =
        fs::read_to_string(sys.join("bus/pci/devices").join(&pci).join("vendor")).unwrap_or_default();
    SILENT_ON_UIO.contains(&vendor.trim()).then(|| {
        format!(
            "port \"{}\": workers.idle = \"interrupt\", and {pci} is on {driver}, through which virtio and vmxnet3 raise no \
             receive interrupts; bind it to vfio-pci, or set workers.idle to \"adaptive\"",
            port.name.get_ref()
        )
    })
}

fn problem(port: &Port, sys: &Path, interfaces: &BTreeSet<String>, has: CapabilitySet) -> Option<String> {
    let about = format!("port \"{}\"", port.name.get_ref());
    match port.device.get_ref() {
        Device::Pcap { input, .. } => {
            let error = fs::File::open(input).err()?;
            Some(format!(
                "{about}: cannot read {}: {error}; name a capture file that is there",
                input.display()
            ))
        }
        Device::RingPair { .. } => None,
        Device::Dpdk(device) => {
            let found = match device.pci() {
                Some(pci) => pci_problem(&pci, sys),
                None => vdev_problem(device, interfaces, has),
            };
            found.map(|problem| format!("{about}: {problem}"))
        }
    }
}

/// A virtual device over an interface needs the interface and the right to open it.
fn vdev_problem(device: &DpdkDevice, interfaces: &BTreeSet<String>, has: CapabilitySet) -> Option<String> {
    let driver = device.driver()?;
    let (needs, needs_name) = match driver.as_str() {
        "net_af_packet" => (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
        "net_pcap" if device.arg("iface").is_some() => (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
        "net_af_xdp" => (CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN, "CAP_NET_RAW and CAP_NET_ADMIN"),
        "net_tap" => (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        _ => return None,
    };
    if !has.contains(needs) {
        return Some(format!(
            "{driver} needs {needs_name}, which this process lacks; run as root, or give the program the right with \
             \"setcap cap_net_raw,cap_net_admin+ep PATH\""
        ));
    }
    // A tap makes its interface.
    let iface = device.arg("iface").filter(|_| driver != "net_tap")?;
    if interfaces.is_empty() || interfaces.contains(iface) {
        return None;
    }
    let there = interfaces.iter().cloned().collect::<Vec<_>>().join(", ");
    Some(format!("there is no interface \"{iface}\"; there are: {there} (see \"ip link\")"))
}

fn pci_problem(pci: &str, sys: &Path) -> Option<String> {
    let devices = sys.join("bus/pci/devices");
    let device = devices.join(pci);
    if !device.exists() {
        let nics =
            fs::read_dir(&devices).into_iter().flatten().flatten().filter(|entry| is_nic(&entry.path()));
        let mut nics: Vec<String> =
            nics.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        nics.sort_unstable();
        let nics = if nics.is_empty() { "none".into() } else { nics.join(", ") };
        return Some(format!(
            "there is no PCI device {pci}; network devices here: {nics} (see \"lspci -D\")"
        ));
    }
    let driver = fs::read_link(device.join("driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    match driver {
        Some(driver) if FREE_DRIVERS.contains(&driver.as_str()) => None,
        Some(driver) => Some(format!(
            "{pci} is bound to the kernel's driver {driver}; give it to DPDK with \"dpdk-devbind.py --bind=vfio-pci \
             {pci}\" (its interface goes away)"
        )),
        None => Some(format!(
            "{pci} is bound to no driver; give it to DPDK with \"modprobe vfio-pci\" and \"dpdk-devbind.py \
             --bind=vfio-pci {pci}\""
        )),
    }
}

/// PCI class 2: network controllers.
fn is_nic(device: &Path) -> bool {
    fs::read_to_string(device.join("class")).is_ok_and(|class| class.starts_with("0x02"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A `/sys` with interfaces eth0 and lo, and PCI devices: a NIC on ixgbe, one on vfio-pci, one on nothing, a disk.
    fn sys() -> tempfile::TempDir {
        let sys = tempfile::tempdir().expect("a directory");
        let make = |path: &str| fs::create_dir_all(sys.path().join(path)).expect("a directory");
        make("class/net/lo");
        make("class/net/eth0");
        for driver in ["ixgbe", "vfio-pci"] {
            make(&format!("bus/pci/drivers/{driver}"));
        }
        let nic = [("0000:01:00.0", "0x020000", "ixgbe"), ("0000:01:00.1", "0x020000", "vfio-pci")];
        for (pci, class, driver) in
            nic.into_iter().chain([("0000:02:00.0", "0x020000", ""), ("0000:03:00.0", "0x010601", "")])
        {
            let device = sys.path().join("bus/pci/devices").join(pci);
            fs::create_dir_all(&device).expect("a directory");
            fs::write(device.join("class"), class).expect("a file");
            if !driver.is_empty() {
                symlink(format!("../../../bus/pci/drivers/{driver}"), device.join("driver")).expect("a link");
            }
        }
        sys
    }

    fn problem_of(device: &str, has: CapabilitySet) -> Option<String> {
        let text = format!("[[port]]\nname = \"p0\"\ndevice = \"{device}\"\n");
        let config = Config::parse(Path::new("h.toml"), text).expect("a configuration");
        let interfaces = ["eth0", "lo"].map(str::to_owned).into();
        problems_in(&config, sys().path(), &interfaces, has).pop()
    }

    #[test]
    fn the_kernel_says_how_much_memory_there_is() {
        assert!(memory_available_mb().is_some_and(|mb| mb > 0));
    }

    #[test]
    fn interfaces_must_be_there() {
        let has = CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN;
        assert_eq!(problem_of("net_af_packet0,iface=eth0", has), None);
        assert_eq!(
            problem_of("net_af_packet0,iface=eth9", has).as_deref(),
            Some("port \"p0\": there is no interface \"eth9\"; there are: eth0, lo (see \"ip link\")")
        );
        assert!(problem_of("net_af_xdp0,iface=eth9", has).is_some());
        assert_eq!(problem_of("net_tap0,iface=eth9", has), None, "a tap makes its interface");
        assert_eq!(problem_of("net_ring0", CapabilitySet::empty()), None);
    }

    #[test]
    fn rights_must_be_there() {
        assert_eq!(
            problem_of("net_af_packet0,iface=eth0", CapabilitySet::NET_ADMIN).as_deref(),
            Some(
                "port \"p0\": net_af_packet needs CAP_NET_RAW, which this process lacks; run as root, or give the \
                 program the right with \"setcap cap_net_raw,cap_net_admin+ep PATH\""
            )
        );
        assert!(
            problem_of("net_tap0", CapabilitySet::NET_RAW).is_some_and(|text| text.contains("CAP_NET_ADMIN"))
        );
        assert_eq!(problem_of("net_pcap0,rx_pcap=a.pcap", CapabilitySet::empty()), None);
    }

    #[test]
    fn pci_devices_must_be_there_and_free() {
        let none = CapabilitySet::empty();
        assert_eq!(problem_of("0000:01:00.1", none), None);
        assert_eq!(
            problem_of("0000:09:00.0", none).as_deref(),
            Some(
                "port \"p0\": there is no PCI device 0000:09:00.0; network devices here: 0000:01:00.0, 0000:01:00.1, \
                 0000:02:00.0 (see \"lspci -D\")"
            )
        );
        assert_eq!(
            problem_of("01:00.0", none).as_deref(),
            Some(
                "port \"p0\": 0000:01:00.0 is bound to the kernel's driver ixgbe; give it to DPDK with \
                 \"dpdk-devbind.py --bind=vfio-pci 0000:01:00.0\" (its interface goes away)"
            )
        );
        assert!(problem_of("0000:02:00.0", none).is_some_and(|text| text.contains("bound to no driver")));
    }

    #[test]
    fn uio_has_its_limits() {
        let sys = sys();
        let device = sys.path().join("bus/pci/devices/0000:04:00.0");
        fs::create_dir_all(&device).expect("a directory");
        symlink("../../../bus/pci/drivers/uio_pci_generic", device.join("driver")).expect("a link");
        fs::write(device.join("vendor"), "0x1af4\n").expect("a file");
        let text = "[[port]]\nname = \"p0\"\ndevice = \"0000:04:00.0\"\n[workers]\nidle = \"interrupt\"\n";
        let config = Config::parse(Path::new("h.toml"), text.to_owned()).expect("a configuration");
        let found =
            |config: &Config| problems_in(config, sys.path(), &BTreeSet::new(), CapabilitySet::empty());
        assert_eq!(
            found(&config),
            [
                "port \"p0\": workers.idle = \"interrupt\", and 0000:04:00.0 is on uio_pci_generic, through which virtio and \
              vmxnet3 raise no receive interrupts; bind it to vfio-pci, or set workers.idle to \"adaptive\""
            ]
        );
        let polling =
            Config::parse(Path::new("h.toml"), text.replace("interrupt", "spin")).expect("a configuration");
        assert_eq!(found(&polling), [""; 0]);
        let why = needs_hugepages(&polling, sys.path()).expect("it needs them");
        assert!(why.starts_with("0000:04:00.0 is on uio_pci_generic, which "), "{why}");
        fs::write(device.join("vendor"), "0x8086\n").expect("a file");
        assert_eq!(found(&config), [""; 0]);
    }

    #[test]
    fn capture_files_must_be_there() {
        assert_eq!(
            problem_of("pcap:/nonexistent/in.pcap", CapabilitySet::empty()).as_deref(),
            Some(
                "port \"p0\": cannot read /nonexistent/in.pcap: No such file or directory (os error 2); name a capture \
                 file that is there"
            )
        );
    }
}
