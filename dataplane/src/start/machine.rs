//! What the machine must have before DPDK is asked, whose own messages tell little: interfaces, PCI devices and their
//! drivers, capabilities.

use std::fs;
use std::path::Path;

use rustix::thread::CapabilitySet;

use super::cookie_secret;
use crate::config::{Config, Device, DpdkDevice, Port};

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
    problems_in(config, Path::new("/sys"), capabilities())
}

fn problems_in(config: &Config, sys: &Path, has: CapabilitySet) -> Vec<String> {
    let secret = config.cookies.secret_file.as_ref();
    let secret = secret.and_then(|file| cookie_secret::read(file.get_ref()).err());
    let ports = config.port.iter().filter_map(|port| problem(port, sys, has));
    ports.chain(secret.map(|error| error.to_string())).collect()
}

fn problem(port: &Port, sys: &Path, has: CapabilitySet) -> Option<String> {
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
                None => vdev_problem(device, sys, has),
            };
            found.map(|problem| format!("{about}: {problem}"))
        }
    }
}

/// A virtual device over an interface needs the interface and the right to open it.
fn vdev_problem(device: &DpdkDevice, sys: &Path, has: CapabilitySet) -> Option<String> {
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
    let interfaces = sys.join("class/net");
    if interfaces.join(iface).exists() {
        return None;
    }
    Some(format!("there is no interface \"{iface}\"; there are: {} (see \"ip link\")", names_in(&interfaces)))
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

fn names_in(dir: &Path) -> String {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    if names.is_empty() { "none".into() } else { names.join(", ") }
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
        problems_in(&config, sys().path(), has).pop()
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
