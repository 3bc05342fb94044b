//! The obvious model of listening, for tests: vectors, scanned from the front.
//!
//! Written from the rules and not from the code that is tested: no hash, no chain, no cache of classes. It keeps what a
//! kernel's lists keep (sockets, the order of listeners, groups, children) and answers by looking at all of them.
//! It knows loopback addresses only: 127.0.0.0/8 and ::1.

mod ports;

use crate::error::Errno;
use crate::segment::FlowKey;
use crate::sockaddr::{Caller, Family, SockAddr};
use crate::sysctl::Sysctl;
use crate::types::{DevIndex, InetAddr, SockFd, TcpPort};

/// A socket that is not a connection.
#[derive(Clone, Debug)]
struct Model {
    fd: SockFd,
    v6: bool,
    uid: u32,
    addr: InetAddr,
    /// 0: unbound.
    port: TcpPort,
    name_port: TcpPort,
    port_chosen_by_user: bool,
    reuse: bool,
    reuseport: bool,
    v6only: bool,
    dev: DevIndex,
    no_port: bool,
    listening: bool,
    backlog: u32,
    /// Peers of the children that wait for accept, oldest first.
    queue: Vec<FlowKey>,
}

/// A connection or what is left of it: it holds its local address and port.
#[derive(Clone, Debug)]
struct ModelChild {
    flow: FlowKey,
    fd: Option<SockFd>,
    uid: u32,
    dev: DevIndex,
    reuse: bool,
    reuseport: bool,
    time_wait: bool,
}

/// A representative of a port whose match spares a newcomer the conflict rule.
#[derive(Clone, Debug)]
struct Representative {
    port: TcpPort,
    addr: InetAddr,
    v6: bool,
    v6only: bool,
    uid: u32,
}

/// What a SYN comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SynOutcome {
    /// Nobody listens.
    Refused,
    /// This listener's accept queue is full.
    Dropped(SockFd),
    /// It becomes a child of this listener.
    Accepted(SockFd),
}

/// An option that the model knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelOpt {
    /// SO_REUSEADDR
    Reuse(bool),
    /// SO_REUSEPORT
    Reuseport(bool),
    /// IPV6_V6ONLY
    V6Only(bool),
    /// SO_BINDTODEVICE
    Dev(DevIndex),
    /// IP_BIND_ADDRESS_NO_PORT
    NoPort(bool),
}

/// The model. Each call answers what the system call would; what chance decides is asked for or checked.
#[derive(Clone, Debug)]
pub struct Oracle {
    sysctl: Sysctl,
    socks: Vec<Model>,
    children: Vec<ModelChild>,
    /// Listeners in the order in which a lookup meets them.
    order: Vec<SockFd>,
    /// Reuseport groups; members in the order in which a hash counts them.
    groups: Vec<Vec<SockFd>>,
    representatives: Vec<Representative>,
}

impl Oracle {
    /// No sockets.
    pub fn new(sysctl: Sysctl) -> Self {
        let (socks, children, order) = (Vec::new(), Vec::new(), Vec::new());
        Self { sysctl, socks, children, order, groups: Vec::new(), representatives: Vec::new() }
    }

    /// A new socket, under the descriptor that the stack gave.
    pub fn socket(&mut self, fd: SockFd, family: Family, uid: u32) {
        let v6 = family == Family::Inet6;
        self.socks.push(Model {
            fd,
            v6,
            uid,
            addr: if v6 { InetAddr::ANY_V6 } else { InetAddr::ANY_V4 },
            port: TcpPort(0),
            name_port: TcpPort(0),
            port_chosen_by_user: false,
            reuse: false,
            reuseport: false,
            v6only: v6 && self.sysctl.bindv6only,
            dev: DevIndex::NONE,
            no_port: false,
            listening: false,
            backlog: 0,
            queue: Vec::new(),
        });
    }

    fn at(&self, fd: SockFd) -> usize {
        self.socks.iter().position(|sock| sock.fd == fd).expect("the test names sockets that are open")
    }

    /// setsockopt
    ///
    /// # Errors
    /// ENOPROTOOPT, EINVAL.
    pub fn setsockopt(&mut self, fd: SockFd, opt: ModelOpt) -> Result<(), Errno> {
        let at = self.at(fd);
        let sock = &mut self.socks[at];
        match opt {
            ModelOpt::Reuse(on) => sock.reuse = on,
            ModelOpt::Reuseport(on) => sock.reuseport = on,
            ModelOpt::Dev(dev) => sock.dev = dev,
            ModelOpt::NoPort(on) => sock.no_port = on,
            ModelOpt::V6Only(_) if !sock.v6 => return Err(Errno::ENOPROTOOPT),
            ModelOpt::V6Only(_) if sock.port.0 != 0 => return Err(Errno::EINVAL),
            ModelOpt::V6Only(on) => sock.v6only = on,
        }
        Ok(())
    }

    /// bind. `chosen` is the port that the stack took, which must be one that chance may give.
    ///
    /// # Errors
    /// What bind(2) answers.
    pub fn bind(
        &mut self,
        fd: SockFd,
        addr: &SockAddr,
        caller: Caller,
        chosen: TcpPort,
    ) -> Result<(), Errno> {
        let at = self.at(fd);
        let sock = self.socks[at].clone();
        let local =
            if sock.v6 { self.check_v6(&sock, addr, caller)? } else { self.check_v4(&sock, addr, caller)? };
        let before = sock.v6only;
        self.socks[at].addr = local;
        if sock.v6 && !local.is_v4() && local != InetAddr::ANY_V6 {
            self.socks[at].v6only = true;
        }
        let wants_port = addr.port.0 != 0 || !sock.no_port;
        if wants_port && let Err(errno) = self.get_port(at, addr.port, chosen) {
            self.socks[at].addr = if sock.v6 { InetAddr::ANY_V6 } else { InetAddr::ANY_V4 };
            self.socks[at].v6only = before;
            return Err(errno);
        }
        let sock = &mut self.socks[at];
        sock.port_chosen_by_user |= addr.port.0 != 0;
        sock.name_port = sock.port;
        Ok(())
    }

    /// listen. `chosen` as for [`Self::bind`], if the socket has no port yet.
    ///
    /// # Errors
    /// What listen(2) answers.
    pub fn listen(&mut self, fd: SockFd, backlog: i32, chosen: TcpPort) -> Result<(), Errno> {
        let at = self.at(fd);
        self.socks[at].backlog = (backlog as u32).min(self.sysctl.somaxconn);
        if self.socks[at].listening {
            return Ok(());
        }
        self.socks[at].listening = true;
        let port = self.socks[at].port;
        if let Err(errno) = self.get_port(at, port, chosen) {
            self.socks[at].listening = false;
            return Err(errno);
        }
        self.socks[at].name_port = self.socks[at].port;
        self.hash(at);
        Ok(())
    }

    fn hash(&mut self, at: usize) {
        let sock = self.socks[at].clone();
        if sock.reuseport {
            let friend = self.order.iter().copied().find(|&fd| {
                let other = &self.socks[self.at(fd)];
                other.reuseport
                    && (other.v6, other.v6only, other.dev, other.port)
                        == (sock.v6, sock.v6only, sock.dev, sock.port)
                    && (other.uid, other.addr) == (sock.uid, sock.addr)
            });
            match friend.and_then(|friend| self.groups.iter_mut().find(|group| group.contains(&friend))) {
                Some(group) => group.push(sock.fd),
                None => self.groups.push(friend.into_iter().chain([sock.fd]).collect()),
            }
        }
        let place = if sock.v6 && sock.reuseport { self.order.len() } else { 0 };
        self.order.insert(place, sock.fd);
    }

    /// The listener that a segment finds; `hash` is asked for if a group has to choose.
    pub fn lookup(&self, flow: &FlowKey, dev: DevIndex, hash: impl Fn() -> u32) -> Option<SockFd> {
        let v4 = flow.daddr.is_v4();
        for wildcard in [false, true] {
            let (mut best, mut found) = (0, None);
            for &fd in &self.order {
                let sock = &self.socks[self.at(fd)];
                let addr = if wildcard { sock.addr.is_any() } else { sock.addr == flow.daddr };
                let family = if v4 { !sock.v6only } else { sock.v6 && !sock.addr.is_v4() };
                let device = sock.dev == DevIndex::NONE || sock.dev == dev;
                if sock.port != flow.dport || !addr || !family || !device {
                    continue;
                }
                let score = 1 + u32::from(sock.dev != DevIndex::NONE) + u32::from(v4 && !sock.v6);
                if score <= best {
                    continue;
                }
                (best, found) = (score, Some(fd));
                let group = self.groups.iter().find(|group| group.contains(&fd));
                if let (true, Some(group)) = (sock.reuseport, group) {
                    return Some(group[((u64::from(hash()) * group.len() as u64) >> 32) as usize]);
                }
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// A whole handshake.
    pub fn connect(&mut self, flow: FlowKey, dev: DevIndex, hash: impl Fn() -> u32) -> SynOutcome {
        let Some(fd) = self.lookup(&flow, dev, hash) else { return SynOutcome::Refused };
        let at = self.at(fd);
        let sock = &mut self.socks[at];
        if sock.queue.len() as u64 > u64::from(sock.backlog) {
            return SynOutcome::Dropped(fd);
        }
        sock.queue.push(flow);
        let Model { uid, dev, reuse, reuseport, .. } = *sock;
        self.children.push(ModelChild { flow, fd: None, uid, dev, reuse, reuseport, time_wait: false });
        SynOutcome::Accepted(fd)
    }

    /// accept; the child gets the descriptor that the stack gave it.
    ///
    /// # Errors
    /// EINVAL, EAGAIN.
    pub fn accept(&mut self, fd: SockFd, child: SockFd) -> Result<FlowKey, Errno> {
        let at = self.at(fd);
        let sock = &mut self.socks[at];
        if !sock.listening {
            return Err(Errno::EINVAL);
        }
        if sock.queue.is_empty() {
            return Err(Errno::EAGAIN);
        }
        let flow = sock.queue.remove(0);
        self.children.iter_mut().filter(|known| known.flow == flow).for_each(|known| known.fd = Some(child));
        Ok(flow)
    }

    /// close of a child with a RST, or through FINs of both sides, ours first.
    pub fn close_child(&mut self, child: SockFd, reset: bool) {
        let Some(at) = self.children.iter().position(|known| known.fd == Some(child)) else { return };
        if reset {
            self.children.remove(at);
        } else {
            self.children[at].fd = None;
            self.children[at].time_wait = true;
        }
    }

    fn stop(&mut self, at: usize) {
        let fd = self.socks[at].fd;
        self.order.retain(|&other| other != fd);
        for group in &mut self.groups {
            if let Some(place) = group.iter().position(|&member| member == fd) {
                group.swap_remove(place);
            }
        }
        self.groups.retain(|group| !group.is_empty());
        let sock = &mut self.socks[at];
        sock.listening = false;
        let queue = std::mem::take(&mut sock.queue);
        self.children.retain(|child| !queue.contains(&child.flow));
    }

    /// shutdown of the receiving half.
    ///
    /// # Errors
    /// ENOTCONN.
    pub fn shutdown(&mut self, fd: SockFd) -> Result<(), Errno> {
        let at = self.at(fd);
        if !self.socks[at].listening {
            return Err(Errno::ENOTCONN);
        }
        self.stop(at);
        if !self.socks[at].port_chosen_by_user {
            self.release(at);
        }
        Ok(())
    }

    fn release(&mut self, at: usize) {
        let port = std::mem::take(&mut self.socks[at].port);
        if self.owners(port, None).is_empty() {
            self.representatives.retain(|known| known.port != port);
        }
    }

    /// close of a socket that is not a connection.
    pub fn close(&mut self, fd: SockFd) {
        let at = self.at(fd);
        self.stop(at);
        self.release(at);
        self.socks.remove(at);
    }

    /// getsockname and whether it listens, with the accept queue's length.
    pub fn show(&self, fd: SockFd) -> (InetAddr, TcpPort, Option<usize>) {
        let sock = &self.socks[self.at(fd)];
        (sock.addr, sock.name_port, sock.listening.then_some(sock.queue.len()))
    }
}
