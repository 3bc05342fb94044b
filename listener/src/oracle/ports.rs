//! Addresses and ports of the model: who may bind where.

use super::{Model, Oracle, Representative};
use crate::error::Errno;
use crate::sockaddr::{AddrFamily, Caller, SockAddr};
use crate::types::{DevIndex, InetAddr, TcpPort};

/// What the conflict rule asks of an owner.
pub(super) struct Owner {
    addr: InetAddr,
    v6only: bool,
    dev: DevIndex,
    uid: u32,
    reuse: bool,
    reuseport: bool,
    listening: bool,
    time_wait: bool,
}

/// Which exemptions hold: for a port that was asked for, or for one that the stack chooses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Explicit,
    Automatic,
}

impl Oracle {
    pub(super) fn check_v4(&self, sock: &Model, addr: &SockAddr, caller: Caller) -> Result<InetAddr, Errno> {
        if addr.len < 16 {
            return Err(Errno::EINVAL);
        }
        if addr.family != AddrFamily::Inet && !(addr.family == AddrFamily::Unspec && addr.v4 == 0) {
            return Err(Errno::EAFNOSUPPORT);
        }
        let local = InetAddr::v4(addr.v4);
        if !bindable_v4(addr.v4) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        self.check_port(addr, caller)?;
        if sock.listening || sock.port.0 != 0 { Err(Errno::EINVAL) } else { Ok(local) }
    }

    pub(super) fn check_v6(&self, sock: &Model, addr: &SockAddr, caller: Caller) -> Result<InetAddr, Errno> {
        if addr.len < 24 {
            return Err(Errno::EINVAL);
        }
        if addr.family != AddrFamily::Inet6 {
            return Err(Errno::EAFNOSUPPORT);
        }
        if addr.v6.is_multicast() {
            return Err(Errno::EINVAL);
        }
        self.check_port(addr, caller)?;
        if sock.listening || sock.port.0 != 0 {
            return Err(Errno::EINVAL);
        }
        let local = InetAddr::from(addr.v6);
        if let Some(v4) = addr.v6.to_ipv4_mapped() {
            if sock.v6only {
                return Err(Errno::EINVAL);
            }
            return if bindable_v4(v4.to_bits()) { Ok(local) } else { Err(Errno::EADDRNOTAVAIL) };
        }
        if addr.v6.is_unicast_link_local() && addr.scope_id == 0 && sock.dev == DevIndex::NONE {
            return Err(Errno::EINVAL);
        }
        let on_loopback = sock.dev == DevIndex::NONE || sock.dev == DevIndex(1);
        match addr.v6.is_unspecified() || (addr.v6.is_loopback() && on_loopback) {
            true => Ok(local),
            false => Err(Errno::EADDRNOTAVAIL),
        }
    }

    fn check_port(&self, addr: &SockAddr, caller: Caller) -> Result<(), Errno> {
        let privileged = addr.port.0 != 0 && addr.port.0 < self.sysctl.ip_unprivileged_port_start;
        if privileged && !caller.cap_net_bind_service { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// Everybody else who holds the port.
    pub(super) fn owners(&self, port: TcpPort, but: Option<usize>) -> Vec<Owner> {
        let socks = self.socks.iter().enumerate().filter(|(at, sock)| Some(*at) != but && sock.port == port);
        let mut owners: Vec<Owner> = socks
            .map(|(_, sock)| Owner {
                addr: sock.addr,
                v6only: sock.v6only,
                dev: sock.dev,
                uid: sock.uid,
                reuse: sock.reuse,
                reuseport: sock.reuseport,
                listening: sock.listening,
                time_wait: false,
            })
            .collect();
        let children = self.children.iter().filter(|child| child.flow.dport == port);
        owners.extend(children.map(|child| Owner {
            addr: child.flow.daddr,
            v6only: false,
            dev: child.dev,
            uid: child.uid,
            reuse: child.reuse,
            reuseport: child.reuseport,
            listening: false,
            time_wait: child.time_wait,
        }));
        owners
    }

    fn conflicts(&self, at: usize, port: TcpPort, asked: Asked) -> bool {
        let sock = &self.socks[at];
        self.owners(port, Some(at)).iter().any(|owner| {
            let devices = sock.dev == DevIndex::NONE || owner.dev == DevIndex::NONE || sock.dev == owner.dev;
            let related = devices && overlap(sock.addr, sock.v6only, owner.addr, owner.v6only);
            let reuse = sock.reuse && owner.reuse && !owner.listening;
            let reuseport = sock.reuseport && owner.reuseport && (owner.time_wait || sock.uid == owner.uid);
            related && (asked == Asked::Automatic || !(reuse || reuseport))
        })
    }

    pub(super) fn get_port(&mut self, at: usize, asked: TcpPort, chosen: TcpPort) -> Result<(), Errno> {
        let port = if asked.0 == 0 {
            let choice = self.open_ports(at);
            if choice.is_empty() {
                return Err(Errno::EADDRINUSE);
            }
            assert!(choice.contains(&chosen), "{chosen} was chosen, open are {choice:?}");
            chosen
        } else {
            let sock = &self.socks[at];
            if self.owners(asked, None).is_empty() {
                self.representatives.retain(|known| known.port != asked);
            }
            let spared =
                self.representatives.iter().any(|known| known.port == asked && stands_for(known, sock));
            if !spared && self.conflicts(at, asked, Asked::Explicit) {
                return Err(Errno::EADDRINUSE);
            }
            asked
        };
        if self.owners(port, None).is_empty() {
            self.representatives.retain(|known| known.port != port);
        }
        let sock = &mut self.socks[at];
        sock.port = port;
        let sock = self.socks[at].clone();
        let matched = self.representatives.iter().any(|known| known.port == port && stands_for(known, &sock));
        if !matched {
            self.representatives.retain(|known| known.port != port);
            if sock.reuseport {
                let Model { addr, v6, v6only, uid, .. } = sock;
                self.representatives.push(Representative { port, addr, v6, v6only, uid });
            }
        }
        Ok(())
    }

    /// Ports that the first successful pass of a search for a free one may give.
    fn open_ports(&self, at: usize) -> Vec<TcpPort> {
        let (low, high) = self.sysctl.ip_local_port_range;
        let (low, high) = (u32::from(low.0), u32::from(high.0) + 1);
        let half = low + ((high - low) / 4) * 2;
        let halves = if self.socks[at].reuse && high - low >= 4 {
            vec![(low, half), (half, high)]
        } else {
            vec![(low, high)]
        };
        for (from, to) in halves {
            for parity in [1, 0] {
                let pass = (from..to).filter(|port| (port - from) % 2 == parity || to - from == 1);
                let reserved = |port: TcpPort| {
                    self.sysctl
                        .ip_local_reserved_ports
                        .iter()
                        .any(|&(first, last)| (first..=last).contains(&port))
                };
                let open = pass
                    .map(|port| TcpPort(port as u16))
                    .filter(|&port| !reserved(port) && !self.conflicts(at, port, Asked::Automatic));
                let open: Vec<_> = open.collect();
                if !open.is_empty() {
                    return open;
                }
            }
        }
        Vec::new()
    }
}

fn bindable_v4(addr: u32) -> bool {
    let [first, ..] = addr.to_be_bytes();
    matches!(first, 127 | 224..=239) || addr == 0 || addr == u32::MAX
}

/// True if the two endpoints have an address in common.
fn overlap(a: InetAddr, a_v6only: bool, b: InetAddr, b_v6only: bool) -> bool {
    match (a.is_v4(), b.is_v4()) {
        (true, true) => a == b || a.is_any() || b.is_any(),
        (false, false) => a == b || a.is_any() || b.is_any(),
        (true, false) => b.is_any() && !b_v6only,
        (false, true) => a.is_any() && !a_v6only,
    }
}

/// True if the representative's reuseport vouches for `sock`: same owner, same or covered address.
fn stands_for(known: &Representative, sock: &Model) -> bool {
    if !sock.reuseport || known.uid != sock.uid {
        return false;
    }
    let dual = sock.addr == InetAddr::ANY_V6 && !sock.v6only;
    match (known.v6, known.addr) {
        (false, InetAddr::ANY_V4) => sock.addr.is_v4() || dual,
        (false, addr) => sock.addr == addr,
        (true, InetAddr::ANY_V6) => !sock.addr.is_v4() || !known.v6only,
        (true, InetAddr::ANY_V4) => sock.addr.is_v4(),
        (true, addr) => sock.addr == addr,
    }
}
