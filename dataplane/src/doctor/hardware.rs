//! DPDK and its drivers, the CPU, the IOMMU and vfio, the NICs.

use std::collections::BTreeSet;

use super::{Finding, Grade, Machine};

/// Drivers that leave a PCI device to DPDK.
const USERSPACE: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Drivers of the kernel that DPDK shares a device with.
const SHARED: [&str; 2] = ["mlx5_core", "mlx4_core"];

pub(super) fn dpdk(_machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "dpdk";
    #[cfg(feature = "dpdk")]
    return Finding::ok(CHECK, dpdk::version());
    #[cfg(not(feature = "dpdk"))]
    Finding::warn(
        CHECK,
        "this hearken was built without DPDK: only pcap: files work",
        "cargo build --release -p dataplane",
    )
}

/// DPDK's drivers are plugins in one directory per ABI.
pub(super) fn drivers(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "drivers";
    for lib in ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/local/lib"] {
        let dir = format!("{lib}/dpdk");
        for plugins in machine.list(&dir).iter().filter(|name| name.starts_with("pmds-")) {
            let files = machine.list(&format!("{dir}/{plugins}"));
            let nets: Vec<&str> = files
                .iter()
                .filter_map(|file| file.strip_prefix("librte_net_")?.split_once(".so").map(|(name, _)| name))
                .collect::<BTreeSet<&str>>()
                .into_iter()
                .collect();
            if !nets.is_empty() {
                let found = format!("{} for networks in /{dir}/{plugins}: {}", nets.len(), nets.join(" "));
                return Finding::ok(CHECK, found);
            }
        }
    }
    Finding::warn(CHECK, "no plugins of DPDK's found; a static DPDK needs none", "apt-get install dpdk")
}

pub(super) fn cpu(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "cpu";
    let Some(flags) = machine.field("proc/cpuinfo", "flags") else {
        return Finding::ok(CHECK, "the kernel lists no flags for this architecture");
    };
    let has = |flag: &str| flags.split(' ').any(|found| found == flag);
    let fast: Vec<&str> =
        ["sse4_2", "avx2", "avx512f", "avx512bw", "avx512vl"].into_iter().filter(|flag| has(flag)).collect();
    let model = machine.field("proc/cpuinfo", "model name").unwrap_or_default();
    if !has("sse4_2") {
        return Finding::fail(
            CHECK,
            format!("{model}: no SSE4.2, which DPDK asks for"),
            "use another machine, or in a VM -cpu host",
        );
    }
    let found = format!("{model}: {}", fast.join(" "));
    if !has("avx2") {
        return Finding::warn(CHECK, found + "; lookups are faster with AVX2", "in a VM: -cpu host");
    }
    Finding::ok(CHECK, found)
}

pub(super) fn iommu(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "iommu";
    let groups = machine.list("sys/kernel/iommu_groups").len();
    if groups > 0 {
        return Finding::ok(CHECK, format!("{groups} groups"));
    }
    let (wanted, uio) = (machine.pci_wanted(), machine.pci_on_uio());
    if !wanted.is_empty() && uio == wanted {
        return Finding::ok(CHECK, "none, and uio does without: a NIC can write to all memory");
    }
    let parameter = match machine.field("proc/cpuinfo", "vendor_id").as_deref() {
        Some("GenuineIntel") => "intel_iommu=on iommu=pt",
        _ => "iommu=pt",
    };
    Finding {
        check: CHECK,
        // Virtual devices do without.
        grade: if machine.pci_wanted().is_empty() { Grade::Ok } else { Grade::Warn },
        found: "none: a NIC on vfio-pci then needs its unsafe mode, which not all kernels have (Debian's have not)".into(),
        next: Some(format!(
            "switch it on in the firmware and add \"{parameter}\" to the kernel's command line; or {}",
            match machine.driver_to_bind() {
                "vfio-pci" => "echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
                _ => "give the NIC to uio: modprobe uio_pci_generic; dpdk-devbind.py --bind=uio_pci_generic PCI",
            }
        )),
    }
}

pub(super) fn vfio(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "vfio";
    let loaded = machine.exists("sys/bus/pci/drivers/vfio-pci");
    let unsafe_mode = machine.read("sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
    match (loaded, unsafe_mode.as_deref()) {
        (true, Some("Y")) => Finding::warn(
            CHECK,
            "vfio-pci is loaded in its unsafe mode: a NIC can write to all memory",
            "switch the IOMMU on, then: echo 0 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
        ),
        (true, _) => Finding::ok(CHECK, "vfio-pci is loaded"),
        (false, _) if machine.pci_wanted().is_empty() => {
            Finding::ok(CHECK, "vfio-pci is not loaded; virtual devices and mlx5 do without")
        }
        (false, _) if machine.pci_on_uio() == machine.pci_wanted() => {
            Finding::ok(CHECK, "vfio-pci is not loaded; NICs on uio do without")
        }
        (false, _) if machine.driver_to_bind() != "vfio-pci" => Finding::warn(
            CHECK,
            "vfio-pci is not loaded, and there is no IOMMU for it",
            "modprobe uio_pci_generic, and bind the NIC to that",
        ),
        (false, _) => Finding::fail(CHECK, "vfio-pci is not loaded", "modprobe vfio-pci"),
    }
}

/// The kernel's interfaces on a PCI device: its own, or those of the virtio device on it.
fn interfaces(machine: &Machine<'_>, dir: &str) -> Vec<String> {
    let virtio = machine.list(dir).into_iter().filter(|name| name.starts_with("virtio"));
    let nets = virtio.map(|name| format!("{dir}/{name}/net")).chain([format!("{dir}/net")]);
    nets.flat_map(|net| machine.list(&net)).collect()
}

/// Whether the kernel's way to other networks goes through `interface`, in either family.
fn has_default_route(machine: &Machine<'_>, interface: &str) -> bool {
    let rows = |path: &str| {
        let text = machine.read(path).unwrap_or_default();
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect::<Vec<Vec<_>>>()
    };
    let is = |row: &[String], column: usize, text: &str| row.get(column).is_some_and(|found| found == text);
    // Interface, destination, five more, mask; numbers in hexadecimal digits.
    let ipv4 = rows("proc/net/route");
    let ipv4 =
        ipv4.iter().any(|row| is(row, 0, interface) && is(row, 1, "00000000") && is(row, 7, "00000000"));
    // Destination, length of its prefix, seven more, interface.
    let anywhere = "0".repeat(32);
    let ipv6 = rows("proc/net/ipv6_route");
    ipv4 || ipv6.iter().any(|row| is(row, 0, &anywhere) && is(row, 1, "00") && is(row, 9, interface))
}

/// Every network controller on the PCI bus, and those that the configuration names.
pub(super) fn nics(machine: &Machine<'_>) -> Vec<Finding> {
    let wanted = machine.pci_wanted();
    let mut nics: Vec<String> = machine
        .list("sys/bus/pci/devices")
        .into_iter()
        .filter(|pci| {
            machine
                .read(&format!("sys/bus/pci/devices/{pci}/class"))
                .is_some_and(|class| class.starts_with("0x02"))
        })
        .collect();
    nics.extend(wanted.iter().filter(|pci| !nics.contains(pci)).cloned().collect::<Vec<_>>());
    if nics.is_empty() {
        return vec![Finding::ok("nic", "none on the PCI bus; virtual devices work")];
    }
    nics.iter().map(|pci| nic(machine, pci, wanted.contains(pci))).collect()
}

fn nic(machine: &Machine<'_>, pci: &str, wanted: bool) -> Finding {
    const CHECK: &str = "nic";
    let dir = format!("sys/bus/pci/devices/{pci}");
    if !machine.exists(&dir) {
        return Finding::fail(CHECK, format!("{pci} is configured and not there"), "lspci -D");
    }
    let bind = format!("dpdk-devbind.py --bind={} {pci}", machine.driver_to_bind());
    let (group, others) = group(machine, pci);
    let node = machine.read(&format!("{dir}/numa_node")).filter(|node| node != "-1");
    let node = node.map(|node| format!(", NUMA node {node}")).unwrap_or_default();
    let Some(driver) = machine.link(&format!("{dir}/driver")) else {
        let found = format!("{pci}{node}{group}: bound to no driver");
        return match wanted {
            true => Finding::fail(CHECK, found, bind),
            false => Finding::ok(CHECK, format!("{found}; for DPDK: {bind}")),
        };
    };
    let interfaces = interfaces(machine, &dir);
    let shown: Vec<String> = interfaces
        .iter()
        .map(|name| match machine.read(&format!("sys/class/net/{name}/operstate")) {
            Some(state) => format!(" {name} ({state})"),
            None => format!(" {name}"),
        })
        .collect();
    let found = format!("{pci}{node}{group}: on {driver}{}", shown.concat());
    if SHARED.contains(&driver.as_str()) {
        return Finding::ok(CHECK, found + ", which DPDK shares with the kernel");
    }
    if USERSPACE.contains(&driver.as_str()) {
        return match others.is_empty() {
            true => Finding::ok(CHECK, found),
            false => Finding {
                check: CHECK,
                grade: if wanted { Grade::Fail } else { Grade::Warn },
                found: format!(
                    "{found}; its group holds {} too, on a driver of the kernel",
                    others.join(" ")
                ),
                next: Some(format!("dpdk-devbind.py --bind=vfio-pci {}", others.join(" "))),
            },
        };
    }
    kernels(machine, found, &interfaces, bind, wanted)
}

/// A NIC that the kernel drives: DPDK can have it, and its interfaces go away.
fn kernels(
    machine: &Machine<'_>,
    found: String,
    interfaces: &[String],
    bind: String,
    wanted: bool,
) -> Finding {
    let way_out = interfaces.iter().any(|name| has_default_route(machine, name));
    let found = if way_out { found + ", with this machine's default route" } else { found };
    let next = match (wanted, way_out) {
        (true, true) => format!("configure another NIC; or, from a console, {}", bind + " --force"),
        (true, false) => bind,
        (false, true) => return Finding::ok("nic", found + ": not for DPDK"),
        (false, false) => return Finding::ok("nic", format!("{found}; for DPDK: {bind}")),
    };
    Finding { check: "nic", grade: Grade::Fail, found, next: Some(next) }
}

/// The IOMMU group in words, and its other devices that the kernel still drives (bridges aside).
fn group(machine: &Machine<'_>, pci: &str) -> (String, Vec<String>) {
    let Some(group) = machine.link(&format!("sys/bus/pci/devices/{pci}/iommu_group")) else {
        return (String::new(), Vec::new());
    };
    let held = |other: &String| {
        let dir = format!("sys/bus/pci/devices/{other}");
        let bridge = machine.read(&format!("{dir}/class")).is_some_and(|class| class.starts_with("0x06"));
        let driver = machine.link(&format!("{dir}/driver"));
        other != pci && !bridge && driver.is_some_and(|driver| !USERSPACE.contains(&driver.as_str()))
    };
    let members = machine.list(&format!("sys/kernel/iommu_groups/{group}/devices"));
    (format!(", IOMMU group {group}"), members.into_iter().filter(held).collect())
}
