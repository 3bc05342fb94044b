//! [`Stack`]: the only door for control.

use crate::af_inet;
use crate::config::{ConfigError, StackConfig};
use crate::conn_shared::{ChildInfo, Command, CoreShared};
use crate::control::{Control, Net};
use crate::core::Core;
use crate::devices::Devices;
use crate::error::ListenError;
use crate::inet_hashtables::ListenHash;
use crate::listen_sock::ListenSocks;
use crate::segment::FlowKey;
use crate::snmp::{Mib, Snmp};
use crate::sock::{Child, Entry, Sock};
use crate::sock_reuseport::Select;
use crate::sockaddr::{Accepted, Caller, Endpoint, Family, How, ListenerRow, SockAddr, TcpInfo};
use crate::sockopt::{self, SockOpt, SockOptName};
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use crate::syncookies::CookieKeys;
use crate::sysctl::Sysctl;
use crate::types::{Backlog, CoreId, InetAddr, ListenerId, SockFd, TcpPort, TcpState, Then};

/// The sockets of a host, as system calls see them. Any thread may call; one lock orders the calls, and workers never
/// take it.
#[derive(Debug)]
pub struct Stack {
    pub(crate) net: Net,
    /// What it was built from; the knobs may have changed since.
    pub(crate) config: StackConfig,
    control: Mutex<Control>,
}

impl Stack {
    /// A host without sockets, and one [`Core`] for each worker.
    ///
    /// # Errors
    /// [`ConfigError`] for values that no stack can be built from.
    pub fn new(config: StackConfig) -> Result<(Self, Vec<Core>), ConfigError> {
        config.check()?;
        let limits = config.limits;
        let shared = |core| Arc::new(CoreShared::new(CoreId(core), limits.connections_per_core));
        let net = Net {
            devices: Devices::new(&config.devices),
            hash: Arc::new(ListenHash::new(limits.listeners_max, config.secret.listen_hash)),
            listeners: Arc::new(ListenSocks::new(limits.listeners_max)),
            listeners_max: limits.listeners_max,
            cores: (0..config.cores).map(shared).collect(),
            snmp: Snmp::default(),
            sysctl: Mutex::new(Arc::new(config.sysctl.clone())),
        };
        let core = |shared: &Arc<CoreShared>| {
            Core::new(&config, Arc::clone(&net.listeners), Arc::clone(&net.hash), Arc::clone(shared))
        };
        let cores = net.cores.iter().map(core).collect();
        let control = Mutex::new(Control::new(usize::from(config.cores), config.secret.ports));
        Ok((Self { net, config, control }, cores))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Control> {
        let mut control = lock(&self.control);
        control.flush(&self.net);
        control
    }

    /// The knobs as they are now.
    pub fn sysctl(&self) -> Arc<Sysctl> {
        self.net.sysctl()
    }

    /// The listening hash, for lookups outside a core.
    pub fn listen_hash(&self) -> &Arc<ListenHash> {
        &self.net.hash
    }

    /// The slots of the listeners.
    pub fn listen_socks(&self) -> &Arc<ListenSocks> {
        &self.net.listeners
    }

    /// Hands commands over that found a core's ring full, as every other call does as well; returns how many still
    /// wait. To be called now and then while nothing else is.
    pub fn flush(&self) -> usize {
        lock(&self.control).flush(&self.net)
    }

    /// A new stream socket owned by `uid`: CLOSE, unbound, no option set.
    ///
    /// # Errors
    /// [`ListenError::TooManySockets`]
    pub fn socket(&self, family: Family, uid: u32) -> Result<SockFd, ListenError> {
        let sock = Sock::new(family, uid, &self.net.sysctl());
        self.lock().socks.insert(Entry::Sock(sock))
    }

    /// Sets an option. On a listener it holds from the next segment on; conflict rules are not run again.
    ///
    /// # Errors
    /// [`ListenError::BadDescriptor`], [`ListenError::NoSuchOption`] (an accepted connection knows SO_REUSEADDR and
    /// SO_REUSEPORT only), [`ListenError::NoSuchDevice`], [`ListenError::BadOptionValue`], [`ListenError::OptionAfterBind`].
    pub fn setsockopt(&self, fd: SockFd, opt: SockOpt<'_>) -> Result<(), ListenError> {
        let mut control = self.lock();
        match control.socks.get(fd)? {
            Entry::Child(child) => sockopt::setsockopt_child(child, &self.net, opt),
            _ => sockopt::setsockopt(&mut control, &self.net, fd.0, opt),
        }
    }

    /// Reads an option.
    ///
    /// # Errors
    /// [`ListenError::BadDescriptor`], [`ListenError::NoSuchOption`].
    pub fn getsockopt(&self, fd: SockFd, name: SockOptName) -> Result<i32, ListenError> {
        match self.lock().socks.get_mut(fd)? {
            Entry::Sock(sock) => sockopt::getsockopt(sock, name),
            Entry::Child(child) => sockopt::getsockopt_child(child, &self.net, name),
            Entry::Free => Err(ListenError::BadDescriptor),
        }
    }

    /// Gives a socket its address and port; port 0 means one of the ephemeral range.
    ///
    /// # Errors
    /// [`ListenError::BadDescriptor`], then those of the family's own order of checks: IPv4 length, family, address,
    /// privilege, state, port; IPv6 length, family, multicast, privilege, state, address, port.
    ///
    /// # Source
    /// Linux v6.18 `inet_bind_sk`, `inet6_bind_sk`.
    pub fn bind(&self, fd: SockFd, addr: SockAddr, caller: Caller) -> Result<(), ListenError> {
        let mut control = self.lock();
        match control.socks.get(fd)? {
            Entry::Sock(sock) if sock.inet6() => {
                af_inet::inet6_bind(&mut control, &self.net, fd.0, &addr, caller)
            }
            Entry::Sock(_) => af_inet::inet_bind(&mut control, &self.net, fd.0, &addr, caller),
            Entry::Child(child) => af_inet::bind_connected(&self.net, child.inet6, &addr, caller),
            Entry::Free => Err(ListenError::BadDescriptor),
        }
    }

    /// Moves a socket to LISTEN, or changes the backlog of a listener. `backlog` is compared unsigned with
    /// `somaxconn`, so a negative one means `somaxconn`; N lets N + 1 connections wait. An unbound socket gets an
    /// ephemeral port.
    ///
    /// # Errors
    /// - [`ListenError::BadDescriptor`]
    /// - [`ListenError::NotUnconnectedStream`]: an accepted connection.
    /// - [`ListenError::AddrInUse`], [`ListenError::NoFreePort`]: the socket is in CLOSE and keeps the port it had.
    /// - [`ListenError::ListenersFull`], [`ListenError::GroupFull`]
    ///
    /// # Source
    /// Linux v6.18 `__sys_listen`, `inet_listen`; passive OPEN, RFC 9293 §3.9.1.1.
    pub fn listen(&self, fd: SockFd, backlog: i32) -> Result<(), ListenError> {
        let mut control = self.lock();
        match control.socks.get(fd)? {
            Entry::Sock(_) => {
                let backlog = Backlog((backlog as u32).min(self.net.sysctl().somaxconn));
                af_inet::inet_listen(&mut control, &self.net, fd.0, backlog)
            }
            _ => Err(ListenError::NotUnconnectedStream),
        }
    }

    /// Takes the oldest connection of a listener's accept queue. Never blocks. A connection that its peer has reset
    /// meanwhile is given all the same.
    ///
    /// # Errors
    /// [`ListenError::BadDescriptor`], [`ListenError::NotListening`], [`ListenError::QueueEmpty`],
    /// [`ListenError::TooManySockets`].
    ///
    /// # Source
    /// Linux v6.18 `inet_csk_accept`.
    pub fn accept(&self, fd: SockFd) -> Result<Accepted, ListenError> {
        let mut control = self.lock();
        let (listener, inet6) = match control.socks.get(fd)? {
            Entry::Sock(sock) => (sock.listener.ok_or(ListenError::NotListening)?, sock.inet6()),
            _ => return Err(ListenError::NotListening),
        };
        let id = listener.id();
        let slot = self.net.slot(id);
        let queue = control.queues.entry(id).or_default();
        if queue.is_empty() {
            slot.acceptq_take(&self.net.cores, |child| queue.push_back(child));
        }
        let child = queue.pop_front();
        if queue.is_empty() {
            control.queues.remove(&id);
        }
        let child = child.ok_or(ListenError::QueueEmpty)?;
        slot.acceptq_release(slot.generation());
        let info = self.net.cores.get(usize::from(child.core.0)).and_then(|core| core.child(child));
        let flow = info.map(|info| info.flow).unwrap_or_default();
        let entry = Entry::Child(Box::new(Child { child, flow, inet6, error_read: false }));
        let fd = control.socks.insert(entry)?;
        Ok(Accepted { fd, peer: peer_of(&flow, inet6), local: local_of(&flow, inet6) })
    }

    /// Closes a socket. A listener's queued connections migrate under `tcp_migrate_req`, else they are reset; its
    /// half-open handshakes end at their next event; its port is free at once. A connection sends its FIN, or with
    /// `reset` (SO_LINGER with 0 seconds) a RST.
    ///
    /// # Errors
    /// [`ListenError::BadDescriptor`]
    ///
    /// # Source
    /// Linux v6.18 `__tcp_close`, `inet_csk_listen_stop`, `inet_put_port`.
    pub fn close(&self, fd: SockFd, reset: bool) -> Result<(), ListenError> {
        let mut control = self.lock();
        match control.socks.get(fd)? {
            Entry::Child(held) => {
                let child = held.child;
                if reset {
                    control.reset_child(&self.net, child);
                } else {
                    control.command(&self.net, child.core, Command::Release(child));
                }
            }
            _ => {
                control.listen_stop(&self.net, fd.0);
                control.put_port(&self.net, fd.0);
                control.selectors.remove(&fd.0);
            }
        }
        control.socks.remove(fd).map(drop).ok_or(ListenError::BadDescriptor)
    }

    /// Ends LISTEN ([`How::Rd`], [`How::RdWr`]; [`How::Wr`] does nothing to a listener), or sends a connection's FIN
    /// ([`How::Wr`], [`How::RdWr`]). A connection that was shut for reading ([`How::Rd`], [`How::RdWr`]) and has sent its
    /// FIN answers data with a RST.
    ///
    /// # Errors
    /// [`ListenError::BadDescriptor`], [`ListenError::NotConnected`] in CLOSE.
    ///
    /// # Source
    /// Linux v6.18 `inet_shutdown`.
    pub fn shutdown(&self, fd: SockFd, how: How) -> Result<(), ListenError> {
        let mut control = self.lock();
        match control.socks.get(fd)? {
            Entry::Child(held) => {
                let child = held.child;
                if self.child_state(held) == TcpState::Close {
                    return Err(ListenError::NotConnected);
                }
                if how != How::Wr {
                    control.command(&self.net, child.core, Command::ShutRd(child));
                }
                if how != How::Rd {
                    control.command(&self.net, child.core, Command::Close(child));
                }
                Ok(())
            }
            _ => af_inet::inet_shutdown(&mut control, &self.net, fd.0, how),
        }
    }

    /// Takes what the peer of an accepted connection sends, from now on, and drops it: hearken keeps no data. Until
    /// then the peer meets a closed window.
    ///
    /// # Errors
    /// [`ListenError::BadDescriptor`], [`ListenError::NotConnected`] if it is no connection.
    pub fn discard(&self, fd: SockFd) -> Result<(), ListenError> {
        let mut control = self.lock();
        let child = match control.socks.get(fd)? {
            Entry::Child(held) => held.child,
            _ => return Err(ListenError::NotConnected),
        };
        control.command(&self.net, child.core, Command::Discard(child));
        Ok(())
    }

    /// The local address and port. After a shutdown of a listener the port is still shown, also if it was released.
    ///
    /// # Errors
    /// [`ListenError::BadDescriptor`]
    pub fn getsockname(&self, fd: SockFd) -> Result<Endpoint, ListenError> {
        match self.lock().socks.get(fd)? {
            Entry::Sock(sock) => Ok(Endpoint { family: sock.family(), addr: sock.addr, port: sock.sport }),
            Entry::Child(child) => Ok(local_of(&child.flow, child.inet6)),
            Entry::Free => Err(ListenError::BadDescriptor),
        }
    }

    /// State, and in LISTEN the accept queue's length and limit.
    ///
    /// # Errors
    /// [`ListenError::BadDescriptor`]
    ///
    /// # Source
    /// Linux v6.18 `tcp_get_info`.
    pub fn tcp_info(&self, fd: SockFd) -> Result<TcpInfo, ListenError> {
        match self.lock().socks.get(fd)? {
            Entry::Sock(Sock { listener: Some(listener), .. }) => {
                let slot = self.net.slot(listener.id());
                let (tcpi_unacked, tcpi_sacked) = (slot.ack_backlog(), slot.max_ack_backlog());
                Ok(TcpInfo { state: TcpState::Listen, tcpi_unacked, tcpi_sacked })
            }
            Entry::Sock(_) => Ok(TcpInfo { state: TcpState::Close, tcpi_unacked: 0, tcpi_sacked: 0 }),
            Entry::Child(child) => {
                Ok(TcpInfo { state: self.child_state(child), tcpi_unacked: 0, tcpi_sacked: 0 })
            }
            Entry::Free => Err(ListenError::BadDescriptor),
        }
    }

    /// All listeners, by descriptor.
    pub fn listeners(&self) -> Vec<ListenerRow> {
        self.listeners_from(SockFd(0), usize::MAX)
    }

    /// The first `max` listeners from descriptor `from` on: a page that costs its own size, however many there are.
    pub fn listeners_from(&self, from: SockFd, max: usize) -> Vec<ListenerRow> {
        let control = self.lock();
        let row = |(fd, entry): (SockFd, &Entry)| {
            let Entry::Sock(sock) = entry else { return None };
            Some(self.row(fd, sock, sock.listener?.id()))
        };
        control.socks.iter_from(from).filter_map(row).take(max).collect()
    }

    /// The listeners in these slots, in the same order. Costs a walk over all sockets.
    pub fn rows_of(&self, ids: &[ListenerId]) -> Vec<Option<ListenerRow>> {
        let mut rows = vec![None; ids.len()];
        let control = self.lock();
        for (fd, entry) in control.socks.iter() {
            let Entry::Sock(sock) = entry else { continue };
            let Some(listener) = sock.listener else { continue };
            for (row, _) in rows.iter_mut().zip(ids).filter(|(_, id)| **id == listener.id()) {
                *row = Some(self.row(fd, sock, listener.id()));
            }
        }
        rows
    }

    fn row(&self, fd: SockFd, sock: &Sock, id: ListenerId) -> ListenerRow {
        let slot = self.net.slot(id);
        ListenerRow {
            fd,
            family: sock.family(),
            addr: sock.addr,
            port: sock.num,
            dev: sock.dev,
            backlog: slot.max_ack_backlog(),
            recv_q: slot.ack_backlog(),
            then: sock.then,
            reuseport: sock.reuseport(),
            v6only: sock.v6only(),
            uid: sock.uid,
        }
    }

    /// The slot of a listener, as lookups in [`Self::listen_hash`] name it; `None` if `fd` does not listen.
    pub fn listener_id(&self, fd: SockFd) -> Option<ListenerId> {
        match self.lock().socks.get(fd) {
            Ok(Entry::Sock(sock)) => sock.listener.map(|slot| slot.id()),
            _ => None,
        }
    }

    /// Chooses what becomes of a listener's connections; before or after `listen`.
    ///
    /// # Errors
    /// [`ListenError::BadDescriptor`], [`ListenError::NotListening`] for an accepted connection.
    pub fn set_then(&self, fd: SockFd, then: Then) -> Result<(), ListenError> {
        match self.lock().socks.get_mut(fd)? {
            Entry::Sock(sock) => {
                sock.then = then;
                if let Some(listener) = sock.listener {
                    self.net.slot(listener.id()).set_then(then);
                }
                Ok(())
            }
            _ => Err(ListenError::NotListening),
        }
    }

    /// Puts a rule of the user's in the place of the hash in this socket's reuseport group, as an attached program
    /// does: at once if it listens, else when it joins its group. `None` takes the rule away.
    ///
    /// # Errors
    /// [`ListenError::BadDescriptor`], [`ListenError::BadOptionValue`] without SO_REUSEPORT.
    ///
    /// # Source
    /// Linux v6.18 `reuseport_attach_prog`, `reuseport_detach_prog`.
    pub fn set_selector(
        &self,
        fd: SockFd,
        selector: Option<std::sync::Arc<dyn Select>>,
    ) -> Result<(), ListenError> {
        let mut control = self.lock();
        match control.socks.get(fd)? {
            Entry::Sock(sock) if sock.reuseport() => {}
            _ => return Err(ListenError::BadOptionValue),
        }
        sockopt::attach_selector(&mut control, &self.net, fd.0, selector);
        Ok(())
    }

    /// Listeners whose SYN queue was full for the first time since they opened, each told once: what the kernel calls
    /// possible SYN flooding. Not with `tcp_syncookies` = 2.
    pub fn floods(&self) -> Vec<Endpoint> {
        let mut floods = Vec::new();
        for flooded in self.net.cores.iter().flat_map(|core| std::iter::from_fn(|| core.next_flood())) {
            let control = self.lock();
            let listens = |sock: &Sock| sock.listener.is_some_and(|listener| listener.id() == flooded.id);
            let socks = control.socks.iter().filter_map(|(_, entry)| match entry {
                Entry::Sock(sock) if listens(sock) => Some(sock),
                _ => None,
            });
            floods.extend(socks.map(|sock| Endpoint {
                family: sock.family(),
                addr: sock.addr,
                port: sock.num,
            }));
        }
        floods
    }

    /// Gives all cores other keys for SYN cookies; each has them from its next tick on. In between some make cookies
    /// that others cannot check: [`CookieKeys`] says how to change without losing any.
    pub fn set_cookie_keys(&self, keys: CookieKeys) {
        let mut control = self.lock();
        control.keys_given = control.keys_given.wrapping_add(1);
        for core in 0..self.net.cores.len() {
            control.command(&self.net, CoreId(core as u16), Command::CookieKeys(keys));
        }
    }

    /// True once every core has the keys that [`Self::set_cookie_keys`] gave last.
    pub fn cookie_keys_taken(&self) -> bool {
        let given = self.lock().keys_given;
        self.net.cores.iter().all(|core| core.keys_taken() == given)
    }

    /// Counters by their kernel names, summed over the cores and the control side.
    pub fn snmp(&self) -> Vec<(&'static str, u64)> {
        let total = |counter: Mib| {
            let cores = self.net.cores.iter().map(|core| core.snmp().get(counter));
            cores.fold(self.net.snmp.get(counter), u64::wrapping_add)
        };
        Mib::ALL.iter().map(|&counter| (counter.name(), total(counter))).collect()
    }

    /// Counters of one worker by their kernel names; none if there is no such worker.
    pub fn snmp_of(&self, core: CoreId) -> Vec<(&'static str, u64)> {
        let Some(shared) = self.net.cores.get(usize::from(core.0)) else { return Vec::new() };
        Mib::ALL.iter().map(|&counter| (counter.name(), shared.snmp().get(counter))).collect()
    }

    /// What a connection's own socket would say: TIME-WAIT has left the socket, which is in CLOSE.
    fn child_state(&self, child: &Child) -> TcpState {
        match self.child_info(child).map(|info| info.state) {
            None | Some(TcpState::TimeWait) => TcpState::Close,
            Some(state) => state,
        }
    }

    fn child_info(&self, child: &Child) -> Option<ChildInfo> {
        self.net.cores.get(usize::from(child.child.core.0))?.child(child.child)
    }

    /// Counts everything again and compares; for tests.
    ///
    /// # Panics
    /// If something does not add up.
    pub fn assert_invariants(&self) {
        let control = self.lock();
        control.binds.assert_invariants(&control.socks);
        control.assert_invariants(&self.net);
    }
}

fn local_of(flow: &FlowKey, inet6: bool) -> Endpoint {
    endpoint(flow.daddr, flow.dport, inet6)
}

fn peer_of(flow: &FlowKey, inet6: bool) -> Endpoint {
    endpoint(flow.saddr, flow.sport, inet6)
}

fn endpoint(addr: InetAddr, port: TcpPort, inet6: bool) -> Endpoint {
    Endpoint { family: if inet6 { Family::Inet6 } else { Family::Inet }, addr, port }
}

#[cfg(all(test, not(loom)))]
mod tests;
