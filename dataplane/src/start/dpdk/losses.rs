//! Frames that are lost before a worker sees them, where the driver does not count them itself.

use std::collections::BTreeMap;
use std::fs;

/// Drivers that never set `imissed` (their `stats_get` in DPDK 22.11), and for which nobody else can be asked: what they or
/// the other end lose for want of descriptors is counted nowhere on this side.
const UNCOUNTED: [&str; 12] = [
    "net_avp",
    "net_gve",
    "net_kni",
    "net_liquidio",
    "net_memif",
    "net_mlx4",
    "net_nfb",
    "net_pfe",
    "net_softnic",
    "net_vhost",
    "net_virtio",
    "net_virtio_user",
];

/// True if `driver` counts the frames that are lost in its device, or somebody does whom hearken asks.
pub(super) fn are_counted(driver: &str) -> bool {
    !UNCOUNTED.contains(&driver)
}

/// What the kernel dropped at the interface below a virtual device, since the start.
#[derive(Debug)]
pub(super) struct InterfaceDrops {
    /// Frames to `net_tap` are sent by the interface, those to others received.
    sent: bool,
    before: u64,
}

impl InterfaceDrops {
    /// Of the interface `name` below a device of `driver`, from now on.
    pub(super) fn begin(driver: &str, name: &str) -> Self {
        let mut drops = Self { sent: driver == "net_tap", before: 0 };
        drops.before = drops.read(name).unwrap_or_default();
        drops
    }

    /// Dropped so far; none if the interface is not there.
    pub(super) fn now(&self, name: &str) -> Option<u64> {
        Some(self.read(name)?.saturating_sub(self.before))
    }

    /// The kernel's count. Unlike `/sys`, this file always speaks of the namespace of the process.
    fn read(&self, name: &str) -> Option<u64> {
        let text = fs::read_to_string("/proc/thread-self/net/dev").ok()?;
        drops_of(&text, name).map(|(received, sent)| if self.sent { sent } else { received })
    }

    /// Adds them to a port's counters.
    pub(super) fn add_to(&self, counters: &mut BTreeMap<String, u64>, name: &str) {
        counters.extend(self.now(name).map(|drops| ("interface_dropped".to_owned(), drops)));
    }
}

/// The frames that `interface` dropped on the way in and out, from a table such as `/proc/net/dev`.
fn drops_of(table: &str, interface: &str) -> Option<(u64, u64)> {
    let (_, row) =
        table.lines().filter_map(|line| line.rsplit_once(':')).find(|(name, _)| name.trim() == interface)?;
    let numbers: Vec<u64> = row.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // Eight of receiving, bytes packets errs drop first, then those of sending.
    Some((*numbers.get(3)?, *numbers.get(11)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_stand_in_the_fourth_column_of_either_half() {
        let table = "Inter-|   Receive                            |  Transmit\n face |bytes    packets errs drop\n    \
                     lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  hk0:17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32\n";
        assert_eq!(drops_of(table, "lo"), Some((4, 12)));
        assert_eq!(drops_of(table, "hk0"), Some((20, 28)));
        assert_eq!(drops_of(table, "hk1"), None);
        assert_eq!(InterfaceDrops::begin("net_tap", "lo").now("lo"), Some(0), "none since a moment ago");
    }
}
