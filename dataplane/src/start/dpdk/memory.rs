//! What DPDK's memory must hold, and where it comes from.

use std::fmt::Write as _;
use std::path::Path;

use dpdk::{Memory, PoolNeed, hugepages_free_mb};

use super::super::{StartError, frames, machine};
use crate::config::{self, Config, Device, Huge, Port, Queues};

/// Megabytes for what drivers allocate beside the mempool.
const DRIVERS_MB: u32 = 64;

/// Queues that `port` will have if `cores` cores are there: what the device string fixes, what the configuration
/// fixes, or one a core.
pub(super) fn queues_wanted(port: &Port, cores: usize) -> u16 {
    let fixed = match (port.device.get_ref(), port.queues.get_ref()) {
        (_, Queues::Fixed(queues)) | (Device::RingPair { queues }, _) => Some(*queues),
        (Device::Dpdk(device), Queues::Auto) => match device.driver().as_deref() {
            Some("net_af_packet") => {
                Some(device.arg("qpairs").and_then(|pairs| pairs.parse().ok()).unwrap_or(1))
            }
            _ => None,
        },
        _ => None,
    };
    fixed.unwrap_or_else(|| u16::try_from(cores).unwrap_or(config::QUEUES_MAX))
}

pub(super) fn pool_need(config: &Config, port: &Port, queues: u16, workers: usize) -> PoolNeed {
    PoolNeed {
        rx_queues: queues.into(),
        rx_desc: (*port.rx_descriptors.get_ref()).into(),
        tx_queues: queues.into(),
        tx_desc: (*port.tx_descriptors.get_ref()).into(),
        // And the control thread, which frees what is left at the end.
        workers: u32::try_from(workers).unwrap_or(u32::MAX).saturating_add(1),
        burst: (*config.workers.burst.get_ref()).into(),
        data_room: frames::room(port.device.get_ref(), None, frames::mtu(port).octets),
    }
}

/// Megabytes that DPDK needs for `config` on `cores` cores, and how they come about.
pub fn memory_need(config: &Config, cores: usize) -> (u32, String) {
    let mut sum = DRIVERS_MB;
    let mut text = String::new();
    for port in &config.port {
        let need = pool_need(config, port, queues_wanted(port, cores), cores);
        let ends = if matches!(port.device.get_ref(), Device::RingPair { .. }) { 2 } else { 1 };
        sum = sum.saturating_add(need.megabytes().saturating_mul(ends));
        let _ = write!(text, "{}: {need}; ", port.name.get_ref());
    }
    match &config.eal.memory_mib {
        Some(memory) => (*memory.get_ref(), "as configured".into()),
        None => (sum, format!("{text}drivers: {DRIVERS_MB} MB")),
    }
}

/// Hugepages or not, and why, for people.
///
/// # Errors
/// `eal.huge = "require"` and too few are free, or more is needed than the machine has.
pub fn memory(config: &Config, need_mb: u32) -> Result<(Memory, String), StartError> {
    let (memory, why) = match config.eal.huge {
        Huge::Auto => Memory::choose(need_mb),
        Huge::Never => (Memory::NoHuge { mb: need_mb }, "ordinary pages, as configured".into()),
        Huge::Require => {
            let free = hugepages_free_mb();
            if free < need_mb.into() {
                let pages = need_mb.div_ceil(2);
                return Err(StartError::Run(format!(
                    "eal.huge = \"require\", and of the {need_mb} MB of hugepages that are needed {free} MB are free; \
                     reserve them with \"sysctl vm.nr_hugepages={pages}\", or set eal.huge = \"auto\""
                )));
            }
            (Memory::Hugepages { mb: None }, format!("hugepages: {free} MB free, {need_mb} MB wanted"))
        }
    };
    if let (Memory::NoHuge { .. }, Some(why)) = (memory, machine::needs_hugepages(config, Path::new("/sys")))
    {
        let pages = need_mb.div_ceil(2);
        return Err(StartError::Run(format!(
            "{why}: {need_mb} MB; reserve them with \"sysctl vm.nr_hugepages={pages}\", and leave eal.huge out"
        )));
    }
    // DPDK maps what it is told to and finds out by a fault.
    match (memory, machine::memory_available_mb()) {
        (Memory::NoHuge { .. }, Some(available)) if available < need_mb.into() => {
            Err(StartError::Run(format!(
                "{need_mb} MB of memory are needed and {available} MB are there; lower descriptors, queues or cores \
             (see \"hearken check\" for the sum), or eal.memory_mib if it is set"
            )))
        }
        _ => Ok((memory, why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(eal: &str, port: &str) -> Config {
        let text = format!("[[port]]\nname = \"p0\"\n{port}\n[eal]\n{eal}\n");
        Config::parse(std::path::Path::new("h.toml"), text).expect("a configuration")
    }

    #[test]
    fn memory_that_is_not_there_is_refused_before_dpdk_is_asked() {
        let message = |eal: &str| {
            memory(&config(eal, "device = \"net_ring0\""), 1 << 24).expect_err("16 TB").to_string()
        };
        let required = message("huge = \"require\"");
        assert!(
            required.starts_with("eal.huge = \"require\", and of the 16777216 MB of hugepages"),
            "{required}"
        );
        assert!(required.contains("sysctl vm.nr_hugepages=8388608"), "{required}");
        for eal in ["huge = \"never\"", "huge = \"auto\""] {
            let refused = message(eal);
            assert!(refused.starts_with("16777216 MB of memory are needed and "), "{refused}");
        }
        let (small, _) = memory(&config("huge = \"never\"", "device = \"net_ring0\""), 16).expect("16 MB");
        assert_eq!(small, Memory::NoHuge { mb: 16 });
    }

    #[test]
    fn the_mempool_follows_from_queues_and_descriptors() {
        let ring = "device = \"net_ring0\"\nrx_descriptors = 512\ntx_descriptors = 256";
        let (need_mb, sum) = memory_need(&config("", ring), 2);
        assert_eq!(
            sum,
            "p0: 2 rx queues x 512 + 2 tx queues x 256 + 3 workers x (384 cached + 32 in a burst) = 2784 mbufs, 7 MB; \
             drivers: 64 MB"
        );
        assert_eq!(need_mb, 71);
        assert_eq!(memory_need(&config("memory_mib = 100", ring), 2), (100, "as configured".into()));
    }

    #[test]
    fn the_device_string_fixes_the_queues_of_packet_sockets() {
        let queues = |port: &str| queues_wanted(&config("", port).port[0], 3);
        assert_eq!(queues("device = \"net_ring0\""), 3);
        assert_eq!(queues("device = \"net_ring0\"\nqueues = 2"), 2);
        assert_eq!(queues("device = \"net_af_packet0,iface=x,qpairs=4\""), 4);
        assert_eq!(queues("device = \"net_af_packet0,iface=x\""), 1);
        assert_eq!(queues("device = \"ring_pair,queues=5\""), 5);
    }
}
