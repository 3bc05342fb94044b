//! Hugepages, files that killed runs left, limits of locked memory, transparent hugepages.

use std::os::unix::fs::MetadataExt;

use super::{Finding, Grade, Machine};
use crate::config::Huge;

/// Megabytes of hugepages that the configuration needs; none without one, or where it needs none.
fn need_mb(machine: &Machine<'_>) -> Option<(u64, Huge)> {
    let config = machine.config?;
    #[cfg(feature = "dpdk")]
    {
        use crate::config::Device;
        let files = config.port.iter().all(|port| matches!(port.device.get_ref(), Device::Pcap { .. }));
        let cores = crate::start::cores::choose(config, &crate::start::cores::allowed()).ok()?;
        let (need, _) = crate::start::dpdk::memory_need(config, cores.len());
        (!files).then_some((need.into(), config.eal.huge))
    }
    #[cfg(not(feature = "dpdk"))]
    {
        let _ = config;
        None
    }
}

/// One line a NUMA node, and one for the sum against the need.
pub(super) fn hugepages(machine: &Machine<'_>) -> Vec<Finding> {
    const CHECK: &str = "hugepages";
    let nodes = machine.list("sys/devices/system/node");
    let nodes =
        nodes.iter().filter(|name| name.strip_prefix("node").is_some_and(|n| n.parse::<u16>().is_ok()));
    let mut dirs: Vec<(String, String)> =
        nodes.map(|node| (node.clone(), format!("sys/devices/system/node/{node}/hugepages"))).collect();
    if dirs.is_empty() {
        dirs.push(("all nodes".into(), "sys/kernel/mm/hugepages".into()));
    }
    let (mut free_mb, mut lines) = (0, Vec::new());
    for (node, dir) in dirs {
        for size in machine.list(&dir) {
            let kb =
                size.strip_prefix("hugepages-").and_then(|size| size.strip_suffix("kB")?.parse::<u64>().ok());
            let Some(kb) = kb else { continue };
            let at = |file: &str| machine.number(&format!("{dir}/{size}/{file}")).unwrap_or_default();
            let (total, free) = (at("nr_hugepages"), at("free_hugepages"));
            free_mb += free * kb / 1024;
            if total > 0 {
                lines.push(format!("{node}: {free} of {total} pages of {} MB free", kb / 1024));
            }
        }
    }
    let found = if lines.is_empty() { "none reserved".into() } else { lines.join("; ") };
    let need = need_mb(machine);
    let (need, huge) = need.unwrap_or((64, Huge::Auto));
    if (huge == Huge::Never && machine.pci_on_uio().is_empty()) || free_mb >= need {
        return vec![Finding::ok(CHECK, format!("{found}; {need} MB needed"))];
    }
    let uio = machine.pci_on_uio();
    let instead = match uio.first() {
        Some(pci) => format!("and {pci} on uio takes nothing else"),
        None => "so ordinary pages are used, which are slower".into(),
    };
    vec![Finding {
        check: CHECK,
        grade: if huge == Huge::Require || !uio.is_empty() { Grade::Fail } else { Grade::Warn },
        found: format!("{found}; {need} MB needed, {instead}"),
        next: Some(format!("sysctl vm.nr_hugepages={}", need.div_ceil(2))),
    }]
}

/// Files in hugetlbfs that a killed program left: hearken makes none, others do.
pub(super) fn stale_files(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "stale files";
    let mounts = machine.read("proc/mounts").unwrap_or_default();
    let dirs = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (dir, kind) = (words.nth(1)?, words.next()?);
        (kind == "hugetlbfs").then(|| dir.trim_start_matches('/').to_owned())
    });
    let mut stale = Vec::new();
    for dir in dirs {
        for file in machine.list(&dir).into_iter().filter(|name| name.contains("map_")) {
            let path = format!("/{dir}/{file}");
            let owner = std::fs::metadata(machine.root.join(&dir).join(&file)).map(|meta| meta.uid());
            stale.push((path, owner.unwrap_or_default()));
        }
    }
    match &stale[..] {
        [] => Finding::ok(CHECK, "no hugepage files of other programs"),
        [(first, uid), rest @ ..] => Finding::warn(
            CHECK,
            format!(
                "{first} of user {uid} and {} more hold hugepages, maybe for a program that is gone",
                rest.len()
            ),
            format!(
                "fuser -v {first}; if nobody uses it: rm {}*",
                first.trim_end_matches(|c: char| c.is_ascii_digit())
            ),
        ),
    }
}

pub(super) fn memlock(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "memlock";
    let limits = machine.read("proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    match line.and_then(|line| line.split_whitespace().next()) {
        None => Finding::ok(CHECK, "the kernel does not say"),
        Some("unlimited") => Finding::ok(CHECK, "unlimited"),
        Some(bytes) => {
            let mb = bytes.parse::<u64>().unwrap_or_default() >> 20;
            let root = rustix::process::geteuid().is_root();
            Finding {
                check: CHECK,
                // Root's capabilities pass the limit.
                grade: if root || machine.pci_wanted().is_empty() { Grade::Ok } else { Grade::Fail },
                found: format!("{mb} MB; a NIC on vfio-pci locks all memory of DPDK"),
                next: Some("ulimit -l unlimited; in a unit: LimitMEMLOCK=infinity".into()),
            }
        }
    }
}

pub(super) fn transparent_hugepages(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "thp";
    let Some(text) = machine.read("sys/kernel/mm/transparent_hugepage/enabled") else {
        return Finding::ok(CHECK, "this kernel has none");
    };
    let mode = text.split('[').nth(1).and_then(|rest| rest.split(']').next()).unwrap_or("unknown").to_owned();
    if mode == "never" {
        return Finding::warn(
            CHECK,
            "never: large listener tables take more TLB misses",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        );
    }
    Finding::ok(CHECK, mode)
}
