//! Who holds which port: the bind table.
//!
//! # Shape
//! Owners of one (address, port) form a chain through their sockets; the table holds the first of each chain. Owners
//! of one port on specific addresses are also counted by [`Class`], because a bind to a wildcard meets them all: it
//! asks each class instead of each owner. So a bind costs the length of its own chain and of the two wildcard chains,
//! whatever else there is. The kernel walks all owners of the port instead (`inet_csk_bind_conflict`, Linux v6.18);
//! the answers are the same.
//!
//! Children and TIME_WAIT entries hold ports too. They live in the cores' records ([`crate::conn_shared`]) and are
//! asked for there.
//!
//! # Checked by
//! `tests/prop_stack.rs` against [`crate::oracle`], `tests/live_kernel.rs` against the running kernel.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;

use crate::sock::{NO_SOCK, Sock, SockTable};
use crate::types::{DevIndex, InetAddr, TcpPort};

/// What the conflict rule asks about an owner besides its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub uid: u32,
    pub dev: DevIndex,
    pub reuse: bool,
    pub reuseport: bool,
    pub state: OwnerState,
}

/// What the conflict rule asks about an owner's TCP state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerState {
    Listen,
    TimeWait,
    Other,
}

impl Class {
    pub(crate) fn of(sock: &Sock) -> Self {
        let state = if sock.listener.is_some() { OwnerState::Listen } else { OwnerState::Other };
        Self { uid: sock.uid, dev: sock.dev, reuse: sock.reuse(), reuseport: sock.reuseport(), state }
    }
}

/// The socket that a later one may be compared with instead of all owners: `FASTREUSEPORT_STRICT`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strict {
    addr: InetAddr,
    uid: u32,
    inet6: bool,
    v6only: bool,
}

impl Strict {
    pub(crate) fn of(sock: &Sock) -> Self {
        Self { addr: sock.addr, uid: sock.uid, inet6: sock.inet6(), v6only: sock.v6only() }
    }

    /// True if `sock` may hold the port because this representative does.
    ///
    /// # Source
    /// Linux v6.18 `sk_reuseport_match`, `ipv6_rcv_saddr_equal`, `ipv4_rcv_saddr_equal`
    /// (net/ipv4/inet_connection_sock.c): the representative's wildcard covers, the newcomer's does not.
    pub(crate) fn matches(&self, sock: &Sock) -> bool {
        if !sock.reuseport() || sock.parked() || self.uid != sock.uid {
            return false;
        }
        if !self.inet6 {
            // `::` has 0.0.0.0 as its IPv4 side; other IPv6 addresses have none.
            let addr = if sock.addr == InetAddr::ANY_V6 { InetAddr::ANY_V4 } else { sock.addr };
            return !sock.v6only() && (self.addr == addr || (self.addr == InetAddr::ANY_V4 && addr.is_v4()));
        }
        match (self.addr.is_v4(), sock.addr.is_v4()) {
            (true, true) => self.addr == sock.addr || self.addr == InetAddr::ANY_V4,
            (true, false) => false,
            (false, true) => self.addr == InetAddr::ANY_V6 && !self.v6only,
            (false, false) => self.addr == InetAddr::ANY_V6 || self.addr == sock.addr,
        }
    }
}

/// All owners of one port.
#[derive(Debug, Default)]
pub(crate) struct PortBucket {
    /// Sockets; children are not counted.
    owners: u32,
    pub strict: Option<Strict>,
    /// Owners on specific IPv4 and IPv6 addresses, by class.
    specific: [Vec<(Class, u32)>; 2],
}

impl PortBucket {
    /// Classes of the owners on specific addresses of one family.
    pub(crate) fn specific(&self, inet6: bool) -> impl Iterator<Item = &Class> {
        self.specific[usize::from(inet6)].iter().map(|(class, _)| class)
    }

    fn count(&mut self, sock: &Sock) {
        if sock.addr.is_any() {
            return;
        }
        let (classes, class) = (&mut self.specific[usize::from(!sock.addr.is_v4())], Class::of(sock));
        match classes.iter_mut().find(|(known, _)| *known == class) {
            Some((_, count)) => *count += 1,
            None => classes.push((class, 1)),
        }
    }

    fn uncount(&mut self, sock: &Sock) {
        let (classes, class) = (&mut self.specific[usize::from(!sock.addr.is_v4())], Class::of(sock));
        let Some(place) = classes.iter().position(|(known, _)| *known == class) else { return };
        classes[place].1 -= 1;
        if classes[place].1 == 0 {
            classes.swap_remove(place);
        }
    }
}

/// Ports are small numbers that nobody outside chooses in bulk: one multiplication spreads them.
#[derive(Debug, Default)]
pub(crate) struct PortHasher(u64);

impl Hasher for PortHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn write_u16(&mut self, port: u16) {
        self.0 = u64::from(port).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

/// The bind table.
#[derive(Debug)]
pub(crate) struct BindTable {
    ports: HashMap<u16, PortBucket, BuildHasherDefault<PortHasher>>,
    /// First owner of each (address, port).
    chains: HashTable<u32>,
    key: u64,
}

impl BindTable {
    /// An empty table; `secret` keys its hash.
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        let key = u64::from_le_bytes(std::array::from_fn(|byte| secret[byte])) | 1;
        Self { ports: HashMap::default(), chains: HashTable::new(), key }
    }

    pub(crate) fn port(&self, port: TcpPort) -> Option<&PortBucket> {
        self.ports.get(&port.0)
    }

    /// Owners of exactly this address and port, newest first.
    pub(crate) fn chain<'a>(
        &self,
        socks: &'a SockTable,
        addr: InetAddr,
        port: TcpPort,
    ) -> impl Iterator<Item = (u32, &'a Sock)> + use<'a> {
        let first = self.chains.find(hash(self.key, addr, port), |&fd| is_at(socks, fd, addr, port)).copied();
        let mut next = first.unwrap_or(NO_SOCK);
        std::iter::from_fn(move || {
            let fd = (next != NO_SOCK).then_some(next)?;
            let sock = socks.linked(fd);
            next = sock.chain.next;
            Some((fd, sock))
        })
    }

    /// Makes `fd`, which is bound to no port yet, an owner of `port` on its address. A bucket that nobody holds any
    /// more begins anew: `revived` is false if no child kept it alive.
    ///
    /// # Source
    /// Linux v6.18 `inet_bind_hash`.
    pub(crate) fn link(&mut self, socks: &mut SockTable, fd: u32, port: TcpPort) {
        let addr = socks.linked(fd).addr;
        let key = self.key;
        let of = |socks: &SockTable, fd: u32| {
            let sock = socks.linked(fd);
            hash(key, sock.addr, sock.num)
        };
        let next = match self.chains.entry(
            hash(key, addr, port),
            |&first| is_at(socks, first, addr, port),
            |&first| of(socks, first),
        ) {
            Place::Occupied(mut first) => std::mem::replace(first.get_mut(), fd),
            Place::Vacant(place) => {
                place.insert(fd);
                NO_SOCK
            }
        };
        if next != NO_SOCK {
            socks.linked_mut(next).chain.prev = fd;
        }
        let sock = socks.linked_mut(fd);
        sock.num = port;
        (sock.chain.next, sock.chain.prev) = (next, NO_SOCK);
        let bucket = self.ports.entry(port.0).or_default();
        bucket.owners += 1;
        bucket.count(sock);
    }

    /// Releases the port that `fd` holds. `children` tells whether children still hold the port: then what the bucket
    /// knows of its representative stays.
    ///
    /// # Source
    /// Linux v6.18 `inet_put_port`.
    pub(crate) fn unlink(&mut self, socks: &mut SockTable, fd: u32, children: bool) {
        let sock = socks.linked_mut(fd);
        let (addr, port, chain) = (sock.addr, sock.num, sock.chain);
        if let Some(bucket) = self.ports.get_mut(&port.0) {
            if !addr.is_any() {
                bucket.uncount(sock);
            }
            bucket.owners -= 1;
            if bucket.owners == 0 && !children {
                self.ports.remove(&port.0);
            }
        }
        if chain.prev == NO_SOCK {
            let at = hash(self.key, addr, port);
            if let Ok(mut first) = self.chains.find_entry(at, |&first| first == fd) {
                if chain.next == NO_SOCK {
                    first.remove();
                } else {
                    *first.get_mut() = chain.next;
                }
            }
        } else {
            socks.linked_mut(chain.prev).chain.next = chain.next;
        }
        if chain.next != NO_SOCK {
            socks.linked_mut(chain.next).chain.prev = chain.prev;
        }
        let sock = socks.linked_mut(fd);
        sock.num = TcpPort(0);
        (sock.chain.next, sock.chain.prev) = (NO_SOCK, NO_SOCK);
    }

    /// Changes something of a socket that its [`Class`] shows.
    pub(crate) fn reclass(&mut self, socks: &mut SockTable, fd: u32, change: impl FnOnce(&mut Sock)) {
        let sock = socks.linked_mut(fd);
        let bucket = match self.ports.get_mut(&sock.num.0) {
            Some(bucket) if sock.num.0 != 0 && !sock.addr.is_any() => bucket,
            _ => return change(sock),
        };
        bucket.uncount(sock);
        change(sock);
        bucket.count(sock);
    }

    /// Remembers `sock` as representative of its port, or that there is none.
    pub(crate) fn set_strict(&mut self, port: TcpPort, strict: Option<Strict>) {
        if let Some(bucket) = self.ports.get_mut(&port.0) {
            bucket.strict = strict;
        }
    }

    /// Drops what is known of a port that only children held, and they are gone.
    pub(crate) fn forget_if_unowned(&mut self, port: TcpPort) {
        if self.ports.get(&port.0).is_some_and(|bucket| bucket.owners == 0) {
            self.ports.remove(&port.0);
        }
    }

    /// Counts everything again and compares; for tests.
    ///
    /// # Panics
    /// If something does not add up.
    pub(crate) fn assert_invariants(&self, socks: &SockTable) {
        let mut owners: HashMap<u16, u32> = HashMap::new();
        for first in &self.chains {
            let sock = socks.linked(*first);
            assert_eq!(sock.chain.prev, NO_SOCK, "{first} is first of its chain");
            let mut prev = NO_SOCK;
            for (fd, owner) in self.chain(socks, sock.addr, sock.num) {
                assert_eq!(owner.chain.prev, prev, "links of {fd}");
                assert_eq!((owner.addr, owner.num), (sock.addr, sock.num), "chain of {fd}");
                *owners.entry(owner.num.0).or_default() += 1;
                let classes = &self.ports[&owner.num.0].specific[usize::from(!owner.addr.is_v4())];
                let counted = classes.iter().any(|(class, _)| *class == Class::of(owner));
                assert!(owner.addr.is_any() || counted, "class of {fd}");
                prev = fd;
            }
        }
        for (port, bucket) in &self.ports {
            assert_eq!(bucket.owners, owners.remove(port).unwrap_or(0), "owners of {port}");
            let counted: u32 = bucket.specific.iter().flatten().map(|(_, count)| count).sum();
            let wild = |addr| self.chain(socks, addr, TcpPort(*port)).count() as u32;
            assert_eq!(
                counted + wild(InetAddr::ANY_V4) + wild(InetAddr::ANY_V6),
                bucket.owners,
                "classes of {port}"
            );
        }
        assert!(owners.is_empty(), "owners of ports without a bucket: {owners:?}");
    }
}

fn is_at(socks: &SockTable, fd: u32, addr: InetAddr, port: TcpPort) -> bool {
    let sock = socks.linked(fd);
    sock.addr == addr && sock.num == port
}

fn hash(key: u64, addr: InetAddr, port: TcpPort) -> u64 {
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let folded = fold(addr.lo() ^ key, addr.hi() ^ key.rotate_left(32) | 1);
    fold(folded ^ u64::from(port.0), 0x9e37_79b9_7f4a_7c15 ^ key)
}
