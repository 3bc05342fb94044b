//! Which NUMA nodes cores and devices are on. A worker on another node than its NIC fetches every frame and every
//! descriptor across the machine, so that is refused unless `workers.allow_remote` says otherwise. Memory follows by
//! itself: DPDK takes mempools and rings from the NIC's node, and tables are made on a worker's core.

use std::fs;
use std::path::Path;

use crate::config::{Config, ConfigError, Cores, Device};

/// A core that is not where a port's device is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Remote {
    core: usize,
    core_node: usize,
    port: String,
    port_node: usize,
}

/// A port by its name, and the node of its device where it has one.
type PortNode = (String, Option<usize>);

/// The cores of `cores` that are on the node of every device of `config`, or all of them if the configuration allows it.
/// `sys` is where `/sys` is.
///
/// # Errors
/// A core that was asked for is on another node; or with `cores = "auto"`, all are.
pub fn local(config: &Config, cores: Vec<usize>, sys: &Path) -> Result<Vec<usize>, ConfigError> {
    let ports: Vec<PortNode> = config
        .port
        .iter()
        .map(|port| (port.name.get_ref().clone(), node_of_device(port.device.get_ref(), sys)))
        .collect();
    let remote = |core: usize| remote(core, node_of_core(core, sys), &ports);
    let Some(first) = cores.iter().find_map(|core| remote(*core)) else { return Ok(cores) };
    if config.workers.allow_remote {
        tracing::warn!("{}: allowed by workers.allow_remote", first.sentence());
        return Ok(cores);
    }
    if *config.workers.cores.get_ref() == Cores::Auto {
        let here: Vec<usize> = cores.iter().copied().filter(|core| remote(*core).is_none()).collect();
        if !here.is_empty() {
            let (kept, of) = (super::cores::list(&here), super::cores::list(&cores));
            tracing::info!("workers on cores {kept} of {of}: those on the NIC's NUMA node");
            return Ok(here);
        }
    }
    let node = first.port_node;
    let message = format!(
        "{}, so every frame would cross from one to the other; give cores of node {node} (see \"lscpu\"), or set \
         workers.allow_remote = true",
        first.sentence()
    );
    Err(config.error(&config.workers.cores, message))
}

impl Remote {
    fn sentence(&self) -> String {
        let Self { core, core_node, port, port_node } = self;
        format!(
            "core {core} is on NUMA node {core_node}, and the device of port \"{port}\" on node {port_node}"
        )
    }
}

/// The first of `ports` that is on another node than `core`. What is on no known node is near to all.
fn remote(core: usize, core_node: Option<usize>, ports: &[PortNode]) -> Option<Remote> {
    let core_node = core_node?;
    let far = |(port, node): &PortNode| {
        let port_node = node.filter(|node| *node != core_node)?;
        Some(Remote { core, core_node, port: port.clone(), port_node })
    };
    ports.iter().find_map(far)
}

/// The node of a core, as the kernel says.
fn node_of_core(core: usize, sys: &Path) -> Option<usize> {
    let entries = fs::read_dir(sys.join(format!("devices/system/cpu/cpu{core}"))).ok()?;
    let node = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok();
    entries.flatten().find_map(node)
}

/// The node of the hardware behind a device, if there is any and the kernel knows its node.
fn node_of_device(device: &Device, sys: &Path) -> Option<usize> {
    let Device::Dpdk(device) = device else { return None };
    let place = match (device.pci(), device.arg("iface")) {
        (Some(pci), _) => sys.join("bus/pci/devices").join(pci),
        (None, Some(iface)) => sys.join("class/net").join(iface).join("device"),
        (None, None) => return None,
    };
    // The kernel writes -1 where it knows of no node.
    fs::read_to_string(place.join("numa_node")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `/sys` with cores 0 and 1 on node 0, 2 and 3 on node 1; a NIC and the interface `eth0` on node 0, a NIC on node
    /// 1, and one that is on none.
    fn sys() -> tempfile::TempDir {
        let sys = tempfile::tempdir().expect("a directory");
        for core in 0..4 {
            let cpu = sys.path().join(format!("devices/system/cpu/cpu{core}"));
            fs::create_dir_all(cpu.join(format!("node{}", core / 2))).expect("a directory");
            fs::create_dir_all(cpu.join("topology")).expect("a directory");
        }
        for (device, node) in [
            ("bus/pci/devices/0000:01:00.0", "0\n"),
            ("bus/pci/devices/0000:81:00.0", "1\n"),
            ("bus/pci/devices/0000:02:00.0", "-1\n"),
            ("class/net/eth0/device", "0\n"),
        ] {
            let dir = sys.path().join(device);
            fs::create_dir_all(&dir).expect("a directory");
            fs::write(dir.join("numa_node"), node).expect("a file");
        }
        sys
    }

    fn local_of(devices: &[&str], workers: &str, cores: &[usize]) -> Result<Vec<usize>, String> {
        let port =
            |(at, device): (usize, &&str)| format!("[[port]]\nname = \"p{at}\"\ndevice = \"{device}\"\n");
        let ports: String = devices.iter().enumerate().map(port).collect();
        let text = format!("{ports}[workers]\n{workers}\n");
        let config = Config::parse(Path::new("h.toml"), text).expect("a configuration");
        local(&config, cores.to_vec(), sys().path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_core_of_another_node_is_refused_unless_allowed() {
        let nic = ["0000:01:00.0"];
        assert_eq!(local_of(&nic, "cores = [0, 1]", &[0, 1]), Ok(vec![0, 1]));
        assert_eq!(
            local_of(&nic, "cores = [1, 2]", &[1, 2]),
            Err("h.toml:5: core 2 is on NUMA node 1, and the device of port \"p0\" on node 0, so every frame would \
                 cross from one to the other; give cores of node 0 (see \"lscpu\"), or set workers.allow_remote = true"
                .into())
        );
        assert_eq!(local_of(&nic, "cores = [1, 2]\nallow_remote = true", &[1, 2]), Ok(vec![1, 2]));
        assert!(local_of(&["net_af_packet0,iface=eth0"], "cores = [3]", &[3]).is_err());
    }

    #[test]
    fn cores_that_nobody_named_are_those_of_the_node() {
        assert_eq!(local_of(&["0000:01:00.0"], "", &[1, 2, 3]), Ok(vec![1]));
        assert_eq!(local_of(&["81:00.0"], "", &[1, 2, 3]), Ok(vec![2, 3]));
        let both = local_of(&["0000:01:00.0", "0000:81:00.0"], "", &[1, 2, 3]);
        assert!(both.as_ref().is_err_and(|error| error.contains("port \"p1\" on node 1")), "{both:?}");
    }

    #[test]
    fn what_is_on_no_node_is_near() {
        for device in ["0000:02:00.0", "0000:09:00.0", "net_ring0", "net_af_packet0,iface=veth0"] {
            assert_eq!(local_of(&[device], "cores = [0, 3, 7]", &[0, 3, 7]), Ok(vec![0, 3, 7]), "{device}");
        }
        assert_eq!(remote(7, None, &[("p0".into(), Some(1))]), None);
        assert_eq!(remote(7, Some(1), &[("p0".into(), None), ("p1".into(), Some(1))]), None);
    }

    #[test]
    fn this_machine_says_where_its_first_core_is() {
        let core = super::super::cores::allowed()[0];
        let sys = Path::new("/sys");
        assert_eq!(node_of_core(core, sys).is_some(), sys.join("devices/system/node/node0").exists());
    }
}
