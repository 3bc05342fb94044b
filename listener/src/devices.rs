//! Devices and the addresses that are local because of them.

use std::collections::{HashMap, HashSet};

use crate::config::Device;
use crate::types::{DevIndex, InetAddr};

/// Longest device name that is compared, without the end mark (IFNAMSIZ - 1).
const NAME_MAX: usize = 15;

/// Which addresses can be bound to.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    names: HashMap<String, DevIndex>,
    indices: HashSet<DevIndex>,
    local: HashSet<InetAddr>,
    assigned: HashSet<(InetAddr, DevIndex)>,
    any_ip: Vec<(InetAddr, u8, DevIndex)>,
    broadcast: HashSet<u32>,
}

impl Devices {
    pub(crate) fn new(devices: &[Device]) -> Self {
        let mut known = Self::default();
        for device in devices {
            known.names.insert(short(&device.name).to_owned(), device.index);
            known.indices.insert(device.index);
            for &(addr, prefix_len) in &device.addresses {
                known.local.insert(addr);
                known.assigned.insert((addr, device.index));
                if let Some(v4) = addr.as_v4()
                    && prefix_len < 31
                {
                    let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
                    known.broadcast.insert(v4 | host_bits);
                }
            }
            known.any_ip.extend(device.any_ip.iter().map(|&(addr, len)| (addr, len, device.index)));
        }
        known
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<DevIndex> {
        self.names.get(short(name)).copied()
    }

    pub(crate) fn exists(&self, index: DevIndex) -> bool {
        self.indices.contains(&index)
    }

    /// True if IPv4 address `addr` can be bound to: wildcard, local, multicast or broadcast. Which device it is on, and
    /// which one the socket is bound to, does not matter.
    ///
    /// # Source
    /// Linux v6.18 `inet_addr_valid_or_nonlocal`, `inet_addr_type_dev_table` (net/ipv4/fib_frontend.c).
    pub(crate) fn inet_addr_valid(&self, addr: u32) -> bool {
        const LIMITED_BROADCAST: u32 = u32::MAX;
        let multicast = addr >> 28 == 0xe;
        if addr == 0 || addr == LIMITED_BROADCAST || multicast {
            return true;
        }
        let key = InetAddr::v4(addr);
        self.local.contains(&key) || self.broadcast.contains(&addr) || self.in_any_ip(key, None)
    }

    /// True if IPv6 address `addr` is assigned. A device counts for host-scope and link-local addresses only.
    ///
    /// # Source
    /// Linux v6.18 `ipv6_chk_addr` (net/ipv6/addrconf.c).
    pub(crate) fn ipv6_chk_addr(&self, addr: InetAddr, dev: Option<DevIndex>) -> bool {
        let own_device_only = is_linklocal(addr) || addr == InetAddr::v6(0, 1);
        match dev {
            Some(dev) if own_device_only => {
                self.assigned.contains(&(addr, dev)) || self.in_any_ip(addr, Some(dev))
            }
            _ => self.local.contains(&addr) || self.in_any_ip(addr, None),
        }
    }

    fn in_any_ip(&self, addr: InetAddr, dev: Option<DevIndex>) -> bool {
        let fits = |&(prefix, len, owner): &(InetAddr, u8, DevIndex)| {
            addr.same_prefix(prefix, len) && dev.is_none_or(|dev| dev == owner)
        };
        self.any_ip.iter().any(fits)
    }
}

/// True for fe80::/10.
pub(crate) fn is_linklocal(addr: InetAddr) -> bool {
    addr.hi() >> 54 == 0xfe80 >> 6
}

fn short(name: &str) -> &str {
    let mut end = name.len().min(NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn addr(text: &str) -> InetAddr {
        text.parse::<IpAddr>().expect("a test address").into()
    }

    fn devices() -> Devices {
        let device = |name: &str, index, addresses: &[(&str, u8)], any_ip: &[(&str, u8)]| Device {
            name: name.to_owned(),
            index: DevIndex(index),
            addresses: addresses.iter().map(|&(text, len)| (addr(text), len)).collect(),
            any_ip: any_ip.iter().map(|&(text, len)| (addr(text), len)).collect(),
            mtu: 1500,
        };
        Devices::new(&[
            device("lo", 1, &[("127.0.0.1", 8), ("::1", 128)], &[("127.0.0.0", 8)]),
            device("d0", 2, &[("198.18.0.1", 24), ("2001:db8::1", 64), ("fe80::1", 64)], &[]),
        ])
    }

    #[test]
    fn local_multicast_and_broadcast_bind() {
        let valid = |text: &str| devices().inet_addr_valid(addr(text).as_v4().expect("IPv4"));
        for text in ["0.0.0.0", "127.7.7.7", "198.18.0.1", "198.18.0.255", "255.255.255.255", "224.0.0.1"] {
            assert!(valid(text), "{text}");
        }
        for text in ["198.18.0.2", "198.18.0.0", "240.0.0.1", "192.0.2.1", "0.1.2.3"] {
            assert!(!valid(text), "{text}");
        }
    }

    #[test]
    fn a_device_counts_for_narrow_scopes_only() {
        let known = devices();
        let (lo, d0) = (Some(DevIndex(1)), Some(DevIndex(2)));
        assert!(known.ipv6_chk_addr(addr("2001:db8::1"), lo));
        assert!(known.ipv6_chk_addr(addr("::1"), lo) && !known.ipv6_chk_addr(addr("::1"), d0));
        assert!(known.ipv6_chk_addr(addr("fe80::1"), d0) && !known.ipv6_chk_addr(addr("fe80::1"), lo));
        assert!(!known.ipv6_chk_addr(addr("2001:db8::2"), None));
    }

    #[test]
    fn names_are_cut_at_fifteen_bytes() {
        assert_eq!(devices().by_name("d0"), Some(DevIndex(2)));
        assert_eq!(devices().by_name("d1"), None);
        assert_eq!(short("a-name-that-is-too-long"), "a-name-that-is-");
        assert!(devices().exists(DevIndex(2)) && !devices().exists(DevIndex(9)));
    }
}
