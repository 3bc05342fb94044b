//! Sockets of the control side, by descriptor.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::conn_shared::ChildRef;
use crate::error::ListenError;
use crate::segment::FlowKey;
use crate::sockaddr::Family;
use crate::sysctl::Sysctl;
use crate::types::{DevIndex, InetAddr, ListenerId, SockFd, TcpPort, Then};

/// End of an owner chain.
pub(crate) const NO_SOCK: u32 = u32::MAX;

/// A socket that is not a connection. 64 bytes, because there may be a million.
#[derive(Debug)]
pub(crate) struct Sock {
    /// `sk_rcv_saddr`. A mapped address on an IPv6 socket is its IPv4 address; `inet6` tells the two apart.
    pub addr: InetAddr,
    /// Owner, fixed at socket().
    pub uid: u32,
    /// The slot that the workers see, in LISTEN only.
    pub listener: Option<ListenerSlot>,
    /// Neighbours in the chain of owners of (address, port).
    pub chain: Chain,
    /// `inet_num`: the port it holds; 0 for none.
    pub num: TcpPort,
    /// `inet_sport`: the port that getsockname shows, which outlives `num` after a shutdown.
    pub sport: TcpPort,
    /// `sk_bound_dev_if`
    pub dev: DevIndex,
    /// IP_LOCAL_PORT_RANGE, lowest and highest; 0 for no limit.
    pub port_range: (u16, u16),
    /// `sk_rcvbuf`: what `tcp_rmem` said when the socket was made.
    pub rcvbuf: u32,
    /// TCP_MAXSEG; 0 for none.
    pub user_mss: u16,
    /// SO_INCOMING_CPU; negative for none.
    pub incoming_cpu: i16,
    /// TCP_DEFER_ACCEPT in SYN-ACK timeouts.
    pub defer: u8,
    /// TCP_SYNCNT; 0 for the sysctl's.
    pub syn_retries: u8,
    /// What becomes of its connections.
    pub then: Then,
    flags: u16,
}

/// A [`ListenerId`] in which a million `Option`s cost nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenerSlot(std::num::NonZeroU32);

impl ListenerSlot {
    pub(crate) fn new(id: ListenerId) -> Option<Self> {
        id.0.checked_add(1).and_then(std::num::NonZeroU32::new).map(Self)
    }

    pub(crate) fn id(self) -> ListenerId {
        ListenerId(self.0.get() - 1)
    }
}

/// Links of a chain, as descriptors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub next: u32,
    pub prev: u32,
}

/// Names a bit of a socket and makes its getter and setter.
macro_rules! flags {
    ($($bit:literal $get:ident $set:ident: $doc:literal,)*) => {
        impl Sock {
            $(
                #[doc = $doc]
                #[inline]
                pub(crate) const fn $get(&self) -> bool { self.flags & (1 << $bit) != 0 }
                pub(crate) const fn $set(&mut self, on: bool) {
                    self.flags = if on { self.flags | 1 << $bit } else { self.flags & !(1 << $bit) };
                }
            )*
        }
    };
}

flags! {
    0 inet6 set_inet6: "AF_INET6.",
    1 reuse set_reuse: "`sk_reuse`",
    2 reuseport set_reuseport: "`sk_reuseport`",
    3 v6only set_v6only: "`sk_ipv6only`",
    4 freebind set_freebind: "IP_FREEBIND",
    5 no_port set_no_port: "IP_BIND_ADDRESS_NO_PORT",
    6 addr_lock set_addr_lock: "`SOCK_BINDADDR_LOCK`: the address was chosen by the user.",
    7 port_lock set_port_lock: "`SOCK_BINDPORT_LOCK`: the port was chosen by the user, and outlives a shutdown.",
    8 parked set_parked: "Stopped listening while `tcp_migrate_req` was on: it still counts as in its group.",
}

impl Sock {
    /// A new socket: CLOSE, unbound, no option set.
    pub(crate) fn new(family: Family, uid: u32, sysctl: &Sysctl) -> Self {
        let inet6 = family == Family::Inet6;
        let mut sock = Self {
            addr: if inet6 { InetAddr::ANY_V6 } else { InetAddr::ANY_V4 },
            uid,
            listener: None,
            chain: Chain { next: NO_SOCK, prev: NO_SOCK },
            num: TcpPort(0),
            sport: TcpPort(0),
            dev: DevIndex::NONE,
            port_range: (0, 0),
            rcvbuf: sysctl.tcp_rmem[1],
            user_mss: 0,
            incoming_cpu: -1,
            defer: 0,
            syn_retries: 0,
            then: Then::Queue,
            flags: 0,
        };
        sock.set_inet6(inet6);
        sock.set_v6only(inet6 && sysctl.bindv6only);
        sock
    }

    pub(crate) const fn family(&self) -> Family {
        if self.inet6() { Family::Inet6 } else { Family::Inet }
    }

    /// `inet_reset_saddr`: back to the wildcard of its family.
    pub(crate) fn reset_saddr(&mut self) {
        self.addr = if self.inet6() { InetAddr::ANY_V6 } else { InetAddr::ANY_V4 };
    }
}

/// An accepted connection; the core that owns it knows the rest.
#[derive(Debug)]
pub(crate) struct Child {
    pub child: ChildRef,
    pub flow: FlowKey,
    pub inet6: bool,
    /// SO_ERROR was read.
    pub error_read: bool,
}

/// What a descriptor stands for.
#[derive(Debug)]
pub(crate) enum Entry {
    Free,
    Sock(Sock),
    Child(Box<Child>),
}

const _: () = assert!(size_of::<Entry>() <= 64, "a million of them are a million times this");

/// Descriptors; the lowest free one is given out, as open(2) does.
#[derive(Debug, Default)]
pub(crate) struct SockTable {
    entries: Vec<Entry>,
    free: BinaryHeap<Reverse<u32>>,
}

impl SockTable {
    pub(crate) fn insert(&mut self, entry: Entry) -> Result<SockFd, ListenError> {
        if let Some(Reverse(fd)) = self.free.pop() {
            self.entries[fd as usize] = entry;
            return Ok(SockFd(fd));
        }
        let fd = u32::try_from(self.entries.len()).ok().filter(|&fd| fd != NO_SOCK);
        let fd = fd.ok_or(ListenError::TooManySockets)?;
        self.entries.push(entry);
        Ok(SockFd(fd))
    }

    pub(crate) fn remove(&mut self, fd: SockFd) -> Option<Entry> {
        let entry = self.entries.get_mut(fd.0 as usize)?;
        match std::mem::replace(entry, Entry::Free) {
            Entry::Free => None,
            entry => {
                self.free.push(Reverse(fd.0));
                Some(entry)
            }
        }
    }

    pub(crate) fn get(&self, fd: SockFd) -> Result<&Entry, ListenError> {
        match self.entries.get(fd.0 as usize) {
            None | Some(Entry::Free) => Err(ListenError::BadDescriptor),
            Some(entry) => Ok(entry),
        }
    }

    pub(crate) fn get_mut(&mut self, fd: SockFd) -> Result<&mut Entry, ListenError> {
        match self.entries.get_mut(fd.0 as usize) {
            None | Some(Entry::Free) => Err(ListenError::BadDescriptor),
            Some(entry) => Ok(entry),
        }
    }

    /// The socket of a chain link. Chains name sockets only, so there always is one.
    pub(crate) fn linked(&self, fd: u32) -> &Sock {
        match &self.entries[fd as usize] {
            Entry::Sock(sock) => sock,
            _ => unreachable!("a chain names descriptor {fd}, which is no socket"),
        }
    }

    /// As [`Self::linked`], to change it.
    pub(crate) fn linked_mut(&mut self, fd: u32) -> &mut Sock {
        match &mut self.entries[fd as usize] {
            Entry::Sock(sock) => sock,
            _ => unreachable!("a chain names descriptor {fd}, which is no socket"),
        }
    }

    /// All descriptors in use, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SockFd, &Entry)> {
        self.iter_from(SockFd(0))
    }

    /// The same from descriptor `from` on.
    pub(crate) fn iter_from(&self, from: SockFd) -> impl Iterator<Item = (SockFd, &Entry)> {
        let first = (from.0 as usize).min(self.entries.len());
        let used = self.entries.iter().enumerate().skip(first);
        let used = used.filter(|(_, entry)| !matches!(entry, Entry::Free));
        used.map(|(fd, entry)| (SockFd(fd as u32), entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_descriptor_is_given_out() {
        let mut table = SockTable::default();
        let open = || Entry::Sock(Sock::new(Family::Inet, 0, &Sysctl::default()));
        let fds: Vec<u32> = (0..4).map(|_| table.insert(open()).expect("there is room").0).collect();
        assert_eq!(fds, [0, 1, 2, 3]);
        assert!(table.remove(SockFd(2)).is_some() && table.remove(SockFd(1)).is_some());
        assert!(table.remove(SockFd(1)).is_none() && table.remove(SockFd(9)).is_none());
        assert_eq!(table.insert(open()), Ok(SockFd(1)));
        assert_eq!(table.insert(open()), Ok(SockFd(2)));
        assert_eq!(table.insert(open()), Ok(SockFd(4)));
    }

    #[test]
    fn a_new_socket_has_nothing_set() {
        let sysctl = Sysctl { bindv6only: true, ..Sysctl::default() };
        let sock = Sock::new(Family::Inet6, 7, &sysctl);
        assert!(sock.inet6() && sock.v6only() && !sock.reuse() && !sock.parked());
        assert!(!Sock::new(Family::Inet, 7, &sysctl).v6only(), "an IPv4 socket has no IPV6_V6ONLY");
        assert_eq!(sock.addr, InetAddr::ANY_V6);
    }
}
