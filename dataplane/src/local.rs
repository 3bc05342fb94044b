//! What is local to a device: its MAC address, its addresses, its broadcasts. Read-only once built, so that every
//! worker of the device shares one.

use listener::types::{InetAddr, Route};

use crate::wire::ether::MacAddr;
use crate::wire::vlan::{Tags, Tci};

/// What an address is to a device that a packet arrived on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddrKind {
    /// An address of ours, or inside a prefix that is local as a whole.
    Local,
    /// The broadcast address of a subnet of ours, or 255.255.255.255.
    Broadcast,
    /// A multicast group, ours or not.
    Multicast,
    /// Somebody else's.
    Other,
}

/// A prefix whose addresses are all local.
#[derive(Clone, Copy, Debug)]
struct PrefixV4 {
    network: u32,
    mask: u32,
}

/// What of a [`LocalTable`] can be told at a glance, so that vectors can.
#[derive(Clone, Copy, Debug)]
pub struct Glance {
    /// The first four octets of the MAC address, as a big-endian number.
    pub mac_first: u32,
    /// The last two, likewise.
    pub mac_last: u32,
    /// One of the device's own IPv4 addresses; all ones, which is nobody's, if there is none.
    pub first: u32,
    /// The addresses of ours and broadcast addresses, if they are that few; the last one fills the places that are left.
    pub few: Option<[u32; FEW]>,
    /// Bit `n` is set if one of them ends in octet `n`.
    listed: [u32; 8],
    /// False beside the kernel, where what comes is not for many frames at once.
    tells: bool,
}

/// So many addresses are compared one by one.
pub const FEW: usize = 4;

impl Glance {
    /// True for an IPv4 address that can be told at a glance to be a host's, and none of ours by name unless it is
    /// [`Glance::is_near`]: nearly every source. Of the others, [`LocalTable::kind_v4`] knows more.
    #[inline(always)]
    pub const fn is_host(&self, addr: u32) -> bool {
        // 1.0.0.0 to 223.255.255.255.
        let unicast = addr.wrapping_sub(1 << 24) < 0xdf << 24;
        unicast & (addr >> 24 != 127) & self.tells
    }

    /// True for one that ends in the octet of an address of ours, or of a broadcast address.
    #[inline(always)]
    pub const fn is_near(&self, addr: u32) -> bool {
        // The word of the octet, chosen without a load that depends on it.
        let (at, mut word, mut index) = (addr >> 5 & 7, 0, 0);
        while index < self.listed.len() {
            word |= self.listed[index] & ((at == index as u32) as u32).wrapping_neg();
            index += 1;
        }
        word >> (addr & 31) & 1 != 0
    }
}

/// The addresses of one device.
#[derive(Clone, Debug)]
pub struct LocalTable {
    mac: MacAddr,
    /// Sorted.
    v4: Box<[u32]>,
    /// Directed broadcasts, sorted.
    v4_broadcast: Box<[u32]>,
    v4_prefixes: Box<[PrefixV4]>,
    /// The first of `v4`; all ones, which is nobody's, if there is none.
    v4_first: u32,
    glance: Glance,
    /// With their prefix lengths, sorted.
    v6: Box<[(InetAddr, u8)]>,
    v6_prefixes: Box<[(InetAddr, u8)]>,
    /// Somebody else has seen to it that the destination is local and the source is not.
    beside_kernel: bool,
}

impl LocalTable {
    /// The table of a port that only claimed frames come to: every unicast destination is local, and every unicast source is
    /// somebody else's, because the claim has asked the kernel.
    pub fn beside_kernel(mac: MacAddr) -> Self {
        let all = [(InetAddr::ANY_V4, 0), (InetAddr::ANY_V6, 0)];
        let mut table = Self { beside_kernel: true, ..Self::new(mac, &[], &all) };
        table.glance.tells = false;
        table
    }

    /// True for a table that [`LocalTable::beside_kernel`] made.
    #[inline]
    pub fn is_beside_kernel(&self) -> bool {
        self.beside_kernel
    }

    /// The table of a device with `mac`, its own `addresses` with the prefix lengths of their subnets, and the prefixes
    /// `any_ip` that are local as a whole.
    pub fn new(mac: MacAddr, addresses: &[(InetAddr, u8)], any_ip: &[(InetAddr, u8)]) -> Self {
        let v4 = |&(addr, len): &(InetAddr, u8)| Some((addr.as_v4()?, mask_v4(len)));
        let v6 = |list: &[(InetAddr, u8)]| {
            let mut list: Vec<_> = list.iter().copied().filter(|(addr, _)| !addr.is_v4()).collect();
            list.sort_unstable();
            list.into_boxed_slice()
        };
        // Subnets of 31 and 32 bits have no broadcast address (RFC 3021).
        let subnets = addresses.iter().filter(|(_, len)| *len < 31).filter_map(v4);
        let prefixes = any_ip.iter().filter_map(v4);
        let own = sorted(addresses.iter().filter_map(v4).map(|(addr, _)| addr));
        let v4_broadcast = sorted(subnets.map(|(addr, mask)| addr | !mask));
        let mut listed = [0; 8];
        for addr in own.iter().chain(&v4_broadcast) {
            listed[*addr as usize >> 5 & 7] |= 1 << (addr & 31);
        }
        let v4_prefixes: Box<[_]> =
            prefixes.map(|(addr, mask)| PrefixV4 { network: addr & mask, mask }).collect();
        let v4_first = own.first().copied().unwrap_or(u32::MAX);
        let all: Vec<u32> = own.iter().chain(&v4_broadcast).copied().collect();
        let last = all.last().copied().unwrap_or(u32::MAX);
        let is_few = all.len() <= FEW;
        let glance = Glance {
            mac_first: (mac.to_bits() >> 16) as u32,
            mac_last: mac.to_bits() as u32 & 0xffff,
            first: v4_first,
            few: is_few.then(|| std::array::from_fn(|at| all.get(at).copied().unwrap_or(last))),
            listed,
            tells: true,
        };
        Self {
            mac,
            v4_first,
            v4: own,
            v4_broadcast,
            glance,
            v4_prefixes,
            v6: v6(addresses),
            v6_prefixes: v6(any_ip),
            beside_kernel: false,
        }
    }

    /// The device's MAC address.
    #[inline]
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// The device's own IPv4 addresses, as big-endian numbers.
    pub fn v4(&self) -> &[u32] {
        &self.v4
    }

    /// The device's own IPv6 addresses and their prefix lengths.
    pub fn v6(&self) -> &[(InetAddr, u8)] {
        &self.v6
    }

    /// What the IPv4 address `addr` is here.
    ///
    /// # Source
    /// Linux v6.18 `ip_route_input_slow`, with a local table of these addresses.
    #[inline]
    pub fn kind_v4(&self, addr: u32) -> AddrKind {
        if self.v4.binary_search(&addr).is_ok() {
            AddrKind::Local
        } else if addr == u32::MAX || self.v4_broadcast.binary_search(&addr).is_ok() {
            AddrKind::Broadcast
        } else if addr >> 28 == 0xe {
            AddrKind::Multicast
        } else if self.is_in_prefix_v4(addr) {
            AddrKind::Local
        } else {
            AddrKind::Other
        }
    }

    #[inline]
    fn is_in_prefix_v4(&self, addr: u32) -> bool {
        self.v4_prefixes.iter().any(|prefix| addr & prefix.mask == prefix.network)
    }

    /// True for an IPv4 address that is [`AddrKind::Local`].
    #[inline]
    pub fn is_local_v4(&self, addr: u32) -> bool {
        (addr == self.v4_first && addr != u32::MAX) || self.is_another_local_v4(addr)
    }

    #[inline(never)]
    fn is_another_local_v4(&self, addr: u32) -> bool {
        self.kind_v4(addr) == AddrKind::Local
    }

    /// True for an IPv4 address that somebody else may send from. One of a prefix that is local as a whole is such a one, unless it
    /// is this device's by name: whoever stands for a whole network (`0.0.0.0/0`: a telescope) still answers its senders, where
    /// Linux's `fib_validate_source` turns all of them away.
    #[inline]
    pub fn is_foreign_v4(&self, addr: u32) -> bool {
        match self.kind_v4(addr) {
            AddrKind::Other => true,
            AddrKind::Local => self.v4.binary_search(&addr).is_err(),
            AddrKind::Broadcast | AddrKind::Multicast => false,
        }
    }

    /// The same of an IPv6 address.
    #[inline]
    pub fn is_foreign_v6(&self, addr: InetAddr) -> bool {
        match self.kind_v6(addr) {
            AddrKind::Other => true,
            AddrKind::Local => self.v6.binary_search_by_key(&addr, |(own, _)| *own).is_err(),
            AddrKind::Broadcast | AddrKind::Multicast => false,
        }
    }

    /// What the checks of many frames at once go by.
    #[inline]
    pub fn glance(&self) -> &Glance {
        &self.glance
    }

    /// What the IPv6 address `addr` is here. A mapped address is never local: it has no place on the wire.
    #[inline]
    pub fn kind_v6(&self, addr: InetAddr) -> AddrKind {
        if addr.is_v4() {
            AddrKind::Other
        } else if addr.is_multicast() {
            AddrKind::Multicast
        } else if self.v6.binary_search_by_key(&addr, |(own, _)| *own).is_ok()
            || self.v6_prefixes.iter().any(|&(prefix, len)| addr.same_prefix(prefix, len))
        {
            AddrKind::Local
        } else {
            AddrKind::Other
        }
    }

    /// The address of ours to answer `peer` from, when it asked a group: one of its subnet if there is one.
    pub fn source_v6(&self, peer: InetAddr) -> Option<InetAddr> {
        let near = self.v6.iter().find(|&&(addr, len)| addr.same_prefix(peer, len));
        near.or(self.v6.first()).map(|(addr, _)| *addr)
    }
}

fn sorted(numbers: impl Iterator<Item = u32>) -> Box<[u32]> {
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_boxed_slice()
}

fn mask_v4(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0)
}

/// Says "no tag" in a [`Route`]. As a tag it would carry the reserved VLAN identifier 0xfff, and frames with that are
/// dropped.
const NO_TAG: u16 = u16::MAX;

/// Packs where a frame came from: its source MAC address, and its VLAN tags if it had any.
#[inline]
pub fn pack_route(mac: MacAddr, tags: Tags) -> Route {
    let mac = mac.to_bits();
    let (tpid, outer) = tags.outer.map_or((0, NO_TAG), |(tpid, tci)| (tpid, tci.0));
    let tci = tags.tci.map_or(NO_TAG, |tci| tci.0);
    Route([(mac >> 32) as u16, (mac >> 16) as u16, mac as u16, tci, outer, tpid])
}

/// What [`pack_route`] packed.
#[inline]
pub fn unpack_route(route: Route) -> (MacAddr, Tags) {
    let [a, b, c, tci, outer, tpid] = route.0;
    let tag = |tci: u16| (tci != NO_TAG).then_some(Tci(tci));
    let mac = u64::from(a) << 32 | u64::from(b) << 16 | u64::from(c);
    (MacAddr::from_bits(mac), Tags { outer: tag(outer).map(|tci| (tpid, tci)), tci: tag(tci) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn addr(text: &str) -> InetAddr {
        text.parse::<IpAddr>().expect("a test address").into()
    }

    fn v4(text: &str) -> u32 {
        addr(text).as_v4().expect("IPv4")
    }

    fn table() -> LocalTable {
        let own = [("198.18.0.1", 24), ("198.18.9.9", 32), ("2001:db8::1", 64), ("fe80::1", 64)];
        let any_ip = [("198.19.0.0", 16), ("2001:db8:1::", 48)];
        let parse =
            |list: &[(&str, u8)]| list.iter().map(|&(text, len)| (addr(text), len)).collect::<Vec<_>>();
        LocalTable::new(MacAddr([2, 0, 0, 0, 0, 1]), &parse(&own), &parse(&any_ip))
    }

    #[test]
    fn ipv4_addresses_by_kind() {
        let table = table();
        for (text, kind) in [
            ("198.18.0.1", AddrKind::Local),
            ("198.18.0.2", AddrKind::Other),
            ("198.18.0.255", AddrKind::Broadcast),
            ("198.18.9.9", AddrKind::Local),
            ("198.18.9.255", AddrKind::Other),
            ("255.255.255.255", AddrKind::Broadcast),
            ("224.0.0.1", AddrKind::Multicast),
            ("198.19.200.7", AddrKind::Local),
            ("127.0.0.1", AddrKind::Other),
            ("0.0.0.0", AddrKind::Other),
        ] {
            assert_eq!(table.kind_v4(v4(text)), kind, "{text}");
        }
        assert_eq!(table.v4(), [v4("198.18.0.1"), v4("198.18.9.9")]);
    }

    #[test]
    fn what_is_told_at_a_glance_is_told_right() {
        let table = table();
        let near = [v4("198.18.0.1"), v4("198.18.9.9"), v4("198.19.0.0"), v4("127.0.0.1"), v4("224.0.0.0")];
        let near = near.into_iter().flat_map(|addr| addr.wrapping_sub(600)..addr.wrapping_add(600));
        let far = (0..=u32::MAX).step_by(0x0001_0203);
        let mut others = 0;
        for addr in near.chain(far).chain([0, u32::MAX]) {
            assert_eq!(table.is_local_v4(addr), table.kind_v4(addr) == AddrKind::Local);
            let glance = table.glance();
            if let Some(few) = glance.few
                && few.contains(&addr)
            {
                assert!(glance.is_near(addr));
            }
            let near = glance.few.map_or(glance.is_near(addr), |few| few.contains(&addr));
            if glance.is_host(addr) && !near {
                assert!(table.is_foreign_v4(addr) && addr != 0 && addr >> 24 != 127);
                others += 1;
            }
        }
        assert!(others > 30_000, "nearly all are: {others}");
        let without = LocalTable::new(MacAddr([2, 0, 0, 0, 0, 1]), &[], &[(addr("198.19.0.0"), 16)]);
        for addr in [u32::MAX, 0, v4("198.19.0.1"), v4("198.18.0.1")] {
            assert_eq!(without.is_local_v4(addr), without.kind_v4(addr) == AddrKind::Local);
        }
    }

    #[test]
    fn ipv6_addresses_by_kind() {
        let table = table();
        for (text, kind) in [
            ("2001:db8::1", AddrKind::Local),
            ("2001:db8::2", AddrKind::Other),
            ("2001:db8:1:2::3", AddrKind::Local),
            ("ff02::1", AddrKind::Multicast),
            ("::1", AddrKind::Other),
            ("::ffff:198.18.0.1", AddrKind::Other),
        ] {
            assert_eq!(table.kind_v6(addr(text)), kind, "{text}");
        }
        assert_eq!(table.source_v6(addr("fe80::99")), Some(addr("fe80::1")));
        assert_eq!(table.source_v6(addr("2001:db8::99")), Some(addr("2001:db8::1")));
        assert_eq!(table.source_v6(addr("2001:db8:7::99")), Some(addr("2001:db8::1")));
    }

    #[test]
    fn a_prefix_of_no_bits_is_everything_but_groups() {
        let table = LocalTable::new(MacAddr::default(), &[], &[(InetAddr::ANY_V4, 0)]);
        assert_eq!(table.kind_v4(v4("10.1.2.3")), AddrKind::Local);
        assert_eq!(table.kind_v4(v4("224.0.0.1")), AddrKind::Multicast);
        assert_eq!(table.kind_v6(addr("2001:db8::1")), AddrKind::Other);
        assert!(table.is_foreign_v4(v4("10.1.2.3")) && !table.is_foreign_v4(v4("224.0.0.1")));
        let both = [(InetAddr::ANY_V4, 0), (InetAddr::ANY_V6, 0)];
        let own = [(addr("198.18.0.1"), 24), (addr("2001:db8::1"), 64)];
        let table = LocalTable::new(MacAddr::default(), &own, &both);
        for (text, foreign) in [("2001:db8::2", true), ("2001:db8::1", false), ("ff02::1", false)] {
            assert_eq!(table.is_foreign_v6(addr(text)), foreign, "{text}");
        }
        assert!(table.is_foreign_v4(v4("198.18.0.2")) && !table.is_foreign_v4(v4("198.18.0.1")));
        assert!(!table.is_foreign_v4(v4("198.18.0.255")), "a broadcast is no sender");
    }

    #[test]
    fn routes_keep_address_and_tag() {
        let mac = MacAddr([2, 0xff, 0, 1, 2, 3]);
        for tci in [None, Some(Tci(0)), Some(Tci(5)), Some(Tci(0xeffe))] {
            for outer in [None, Some((0x88a8, Tci(0))), Some((0x8100, Tci(7)))] {
                let tags = Tags { outer, tci };
                assert_eq!(unpack_route(pack_route(mac, tags)), (mac, tags));
            }
        }
    }
}
