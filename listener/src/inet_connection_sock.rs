//! Ports, and the way into LISTEN and out of it: `inet_csk_get_port`, `inet_csk_listen_start`, `inet_csk_listen_stop`.
//!
//! Everything here runs under the one lock of [`crate::Stack`], so two sockets never decide about one port at the same
//! time. What the workers see changes in single steps: a slot of [`crate::listen_sock`], a key of
//! [`crate::inet_hashtables`].
//!
//! # Source
//! Linux v6.18 net/ipv4/inet_connection_sock.c; the conflict rule is that of `inet_bind_conflict` there.

use crate::sync::Arc;
use std::collections::VecDeque;

use crate::bind_table::{Class, OwnerState, Strict};
use crate::config::splitmix64;
use crate::conn_shared::{ChildRef, CoreShared};
use crate::control::{Control, Net};
use crate::error::ListenError;
use crate::inet_hashtables::{HashKey, ListEntry, TableFull};
use crate::limits;
use crate::listen_sock::ListenParams;
use crate::snmp::Mib;
use crate::sock::{ListenerSlot, Sock};
use crate::sock_reuseport::GroupFull;
use crate::sysctl::Sysctl;
use crate::types::{Backlog, CoreId, DevIndex, InetAddr, ListenerId, TcpPort};

/// Which of the two exemptions of the conflict rule hold.
#[derive(Clone, Copy)]
struct Exempt {
    reuse: bool,
    reuseport: bool,
}

impl Exempt {
    /// A port that was asked for, or is validated again by listen().
    const EXPLICIT: Self = Self { reuse: true, reuseport: true };
    /// A port that the stack chooses.
    const AUTOBIND: Self = Self { reuse: false, reuseport: false };
    /// The same under `ip_autobind_reuse`, when nothing was free.
    const AUTOBIND_REUSE: Self = Self { reuse: true, reuseport: false };
}

impl Control {
    // ---- ports

    /// Gives socket `fd` port `snum`, or one of the ephemeral range for 0. A socket that holds the port already is
    /// validated again, as listen() does.
    ///
    /// # Errors
    /// [`ListenError::AddrInUse`], [`ListenError::NoFreePort`]; the socket is then as before.
    ///
    /// # Source
    /// Linux v6.18 `inet_csk_get_port`. `fastreuse` has no counterpart: it never becomes positive there, because the
    /// address bucket is linked before it is looked at. For the same reason `fastreuseport` is STRICT or nothing.
    pub(crate) fn get_port(&mut self, net: &Net, fd: u32, snum: TcpPort) -> Result<(), ListenError> {
        let port = if snum.0 == 0 {
            self.find_open_port(net, fd).ok_or(ListenError::NoFreePort)?
        } else {
            if !net.children_on_port(snum) {
                self.binds.forget_if_unowned(snum);
            }
            let sock = self.socks.linked(fd);
            let strict = self.binds.port(snum).and_then(|bucket| bucket.strict);
            if !strict.is_some_and(|strict| strict.matches(sock))
                && self.bind_conflict(net, fd, snum, Exempt::EXPLICIT)
            {
                return Err(ListenError::AddrInUse);
            }
            snum
        };
        if self.socks.linked(fd).num.0 == 0 {
            if !net.children_on_port(port) {
                self.binds.forget_if_unowned(port);
            }
            self.binds.link(&mut self.socks, fd, port);
        }
        self.update_fastreuse(fd, port);
        Ok(())
    }

    /// `inet_csk_update_fastreuse`
    fn update_fastreuse(&mut self, fd: u32, port: TcpPort) {
        let sock = self.socks.linked(fd);
        if !sock.reuseport() {
            self.binds.set_strict(port, None);
        } else if !self
            .binds
            .port(port)
            .and_then(|bucket| bucket.strict)
            .is_some_and(|strict| strict.matches(sock))
        {
            self.binds.set_strict(port, Some(Strict::of(sock)));
        }
    }

    /// `inet_put_port`
    pub(crate) fn put_port(&mut self, net: &Net, fd: u32) {
        let port = self.socks.linked(fd).num;
        if port.0 != 0 {
            let children = net.children_on_port(port);
            self.binds.unlink(&mut self.socks, fd, children);
        }
    }

    /// A free port: odd offsets from a random start, then the even ones; with SO_REUSEADDR the lower half first.
    ///
    /// # Source
    /// Linux v6.18 `inet_csk_find_open_port`, `inet_sk_get_local_port_range`.
    fn find_open_port(&mut self, net: &Net, fd: u32) -> Option<TcpPort> {
        let reuse = self.socks.linked(fd).reuse();
        let sysctl = net.sysctl();
        let (low, high) = port_range(&sysctl, self.socks.linked(fd));
        let half = if reuse && high - low >= 4 { Some(low + ((high - low) >> 2 << 1)) } else { None };
        let rounds: &[Exempt] = if sysctl.ip_autobind_reuse {
            &[Exempt::AUTOBIND, Exempt::AUTOBIND_REUSE]
        } else {
            &[Exempt::AUTOBIND]
        };
        for &exempt in rounds {
            let found = match half {
                None => self.scan_range(net, fd, low, high, exempt),
                Some(half) => self
                    .scan_range(net, fd, low, half, exempt)
                    .or_else(|| self.scan_range(net, fd, half, high, exempt)),
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Tries `low..high` in steps of two, twice.
    fn scan_range(&mut self, net: &Net, fd: u32, low: u32, high: u32, exempt: Exempt) -> Option<TcpPort> {
        let remaining = if high - low > 1 { (high - low) & !1 } else { high - low };
        let (sysctl, random) = (net.sysctl(), splitmix64(&mut self.random) >> 32);
        let start = ((random * u64::from(remaining)) >> 32) as u32 | 1;
        for offset in [start, start - 1] {
            let mut port = low + offset;
            for _ in 0..remaining.div_ceil(2) {
                if port >= high {
                    port -= remaining;
                }
                let candidate = TcpPort(port as u16);
                if !is_reserved(&sysctl, candidate) && !self.bind_conflict(net, fd, candidate, exempt) {
                    return Some(candidate);
                }
                port += 2;
            }
        }
        None
    }

    /// True if another owner of `port` stands in the way of `fd`.
    ///
    /// # Source
    /// Linux v6.18 `inet_csk_bind_conflict`, `inet_bhash2_addr_any_conflict`, `inet_rcv_saddr_equal`.
    fn bind_conflict(&self, net: &Net, fd: u32, port: TcpPort, exempt: Exempt) -> bool {
        let sock = self.socks.linked(fd);
        let class = Class::of(sock);
        if let Some(bucket) = self.binds.port(port) {
            let hits = |addr| {
                self.binds.chain(&self.socks, addr, port).any(|(other, owner)| {
                    other != fd
                        && overlap(sock, owner.addr, owner.v6only())
                        && conflict(&class, &Class::of(owner), exempt)
                })
            };
            if (!sock.addr.is_any() && hits(sock.addr)) || hits(InetAddr::ANY_V4) || hits(InetAddr::ANY_V6) {
                return true;
            }
            let hits = |inet6| bucket.specific(inet6).any(|owner| conflict(&class, owner, exempt));
            if sock.addr.is_any() && ((covers_v4(sock) && hits(false)) || (covers_v6(sock) && hits(true))) {
                return true;
            }
        }
        net.cores.iter().any(|core| self.child_conflict(core, sock, port, exempt))
    }

    /// The same for the living children and TIME_WAIT entries of one core.
    fn child_conflict(&self, core: &CoreShared, sock: &Sock, port: TcpPort, exempt: Exempt) -> bool {
        let (class, mut found) = (Class::of(sock), false);
        core.owners_of_port(port, |owner| {
            let state = if owner.time_wait { OwnerState::TimeWait } else { OwnerState::Other };
            let theirs = Class {
                uid: owner.uid,
                dev: owner.dev,
                reuse: owner.reuse,
                reuseport: owner.reuseport,
                state,
            };
            found |= overlap(sock, owner.addr, false)
                && conflict(&class, &theirs, exempt)
                && !self.condemned.contains(&owner.child);
        });
        found
    }

    // ---- LISTEN

    /// CLOSE to LISTEN. The slot says LISTEN before the port is validated; only hashing shows it to the workers.
    ///
    /// # Errors
    /// - [`ListenError::AddrInUse`], [`ListenError::NoFreePort`]: the port; `fd` is in CLOSE again and keeps the port
    ///   it had.
    /// - [`ListenError::ListenersFull`], [`ListenError::GroupFull`]: no room.
    ///
    /// # Source
    /// Linux v6.18 `inet_csk_listen_start`.
    pub(crate) fn listen_start(&mut self, net: &Net, fd: u32, backlog: Backlog) -> Result<(), ListenError> {
        let id = self.alloc_slot(net).ok_or(ListenError::ListenersFull)?;
        let Some(slot) = ListenerSlot::new(id) else { return Err(ListenError::ListenersFull) };
        let sock = self.socks.linked(fd);
        let params = ListenParams {
            backlog,
            then: sock.then,
            reuse: sock.reuse(),
            reuseport: sock.reuseport(),
            v6_family: sock.inet6(),
            uid: sock.uid,
            dev: sock.dev,
            defer: sock.defer,
            syn_retries: sock.syn_retries,
            rcvbuf: sock.rcvbuf,
            mss_clamp: sock.user_mss,
            tos: 0,
        };
        net.slot(id).open(id, &params);
        self.binds.reclass(&mut self.socks, fd, |sock| sock.listener = Some(slot));
        let num = self.socks.linked(fd).num;
        let started = self.get_port(net, fd, num).and_then(|()| {
            let sock = self.socks.linked_mut(fd);
            sock.sport = sock.num;
            self.inet_hash(net, fd, id)
        });
        if started.is_err() {
            self.binds.reclass(&mut self.socks, fd, |sock| sock.listener = None);
            net.slot(id).close(&net.cores, |_| ());
            net.listeners.retire();
            net.listeners.free(id);
            self.slots_used -= 1;
            if num.0 == 0 {
                self.put_port(net, fd);
            }
        }
        started
    }

    /// Publishes a listener: from here on the workers find it.
    ///
    /// # Source
    /// Linux v6.18 `inet_hash`.
    fn inet_hash(&mut self, net: &Net, fd: u32, id: ListenerId) -> Result<(), ListenError> {
        let sock = self.socks.linked(fd);
        let entry = list_entry(sock, id);
        let selector = if sock.reuseport() { self.selectors.get(&fd) } else { None };
        let hashed = net.hash.update(key_of(sock), |list| {
            list.inet_hash(entry)?;
            if let Some(group) = list.group_of_mut(id) {
                if let Some(selector) = selector {
                    group.set_selector(Some(selector.clone()));
                }
                // A flood that hits one member is a flood on all: its cookies are checked wherever the ACK goes.
                if let Some(first) = group.members().first() {
                    net.slot(id).set_synq_slot(net.slot(first.id).synq_slot());
                }
            }
            Ok(())
        });
        match hashed {
            Ok(Ok(())) => {}
            Ok(Err(GroupFull)) => return Err(ListenError::GroupFull),
            Err(TableFull) => return Err(ListenError::ListenersFull),
        }
        self.socks.linked_mut(fd).set_parked(false);
        Ok(())
    }

    /// LISTEN to CLOSE: nobody finds it any more, its queued children migrate or are reset.
    ///
    /// # Source
    /// Linux v6.18 `inet_csk_listen_stop`, `inet_unhash`, `reuseport_stop_listen_sock`. Half-open requests are not
    /// walked: their next event finds the slot's generation changed.
    pub(crate) fn listen_stop(&mut self, net: &Net, fd: u32) {
        let Some(slot) = self.socks.linked(fd).listener else { return };
        let (id, key) = (slot.id(), key_of(self.socks.linked(fd)));
        let migrate = net.sysctl().tcp_migrate_req;
        // No room is needed to take something out.
        let left = net.hash.update(key, |list| {
            let _ = list.inet_unhash(id, migrate);
            let parked = list.group_of(id).is_some();
            let heir = list.groups().iter().flat_map(|group| group.members()).map(|member| member.id);
            let sharers: Vec<_> = heir.filter(|&heir| net.slot(heir).synq_slot() == id).collect();
            (parked, sharers)
        });
        let (parked, sharers) = left.unwrap_or_default();
        if let Some(&heir) = sharers.first() {
            net.slot(heir).inherit_synq_overflow(net.slot(id));
            sharers.iter().for_each(|&member| net.slot(member).set_synq_slot(heir));
        }
        self.binds.reclass(&mut self.socks, fd, |sock| sock.listener = None);
        self.socks.linked_mut(fd).set_parked(parked);

        let mut children = self.queues.remove(&id).unwrap_or_default();
        net.slot(id).close(&net.cores, |child| children.push_back(child));
        for child in children {
            self.drain_child(net, key, parked.then_some(id), child);
        }
        if parked {
            self.park(net, key, id);
        } else {
            self.free_slot(net, id);
        }
    }

    /// A slot for a listener. Closed group members give way; slots that a worker may still look at are waited for, which
    /// takes no longer than its burst.
    fn alloc_slot(&mut self, net: &Net) -> Option<ListenerId> {
        while self.slots_used >= net.listeners_max {
            let (key, id) = self.parked.pop_front()?;
            self.unpark(net, key, id);
        }
        let mut slot = net.listeners.alloc();
        for _ in 0..limits::RECLAIM_TRIES {
            if slot.is_some() {
                break;
            }
            std::thread::yield_now();
            net.hash.reclaim();
            slot = net.listeners.alloc();
        }
        self.slots_used += u32::from(slot.is_some());
        slot
    }

    /// Gives a slot back once no worker can look at it any more.
    fn free_slot(&mut self, net: &Net, id: ListenerId) {
        self.slots_used -= 1;
        let listeners = Arc::clone(&net.listeners);
        listeners.retire();
        net.hash.defer_slot_reuse(move || listeners.free(id));
    }

    /// Forgets a closed group member and gives its slot back.
    fn unpark(&mut self, net: &Net, key: HashKey, id: ListenerId) {
        // No room is needed to take something out.
        let _ = net.hash.update(key, |list| list.detach_closed(id));
        self.free_slot(net, id);
    }

    /// One queued child of a listener that closes: to another member of the group, or reset.
    fn drain_child(&mut self, net: &Net, key: HashKey, closed: Option<ListenerId>, child: ChildRef) {
        let Some(closed) = closed else { return self.reset_child(net, child) };
        let info = net.cores.get(usize::from(child.core.0)).and_then(|core| core.child(child));
        let heir = info.and_then(|info| {
            let hash = net.hash.flow_hash(&info.flow);
            let heir = net.hash.reuseport_migrate(&net.hash.pin(), key, closed, child.core, hash)?;
            let slot = net.slot(heir);
            slot.acceptq_reserve_migrated(slot.generation()).ok().map(|()| heir)
        });
        match heir {
            Some(heir) => {
                net.snmp.inc(Mib::TCPMigrateReqSuccess);
                let queue = self.queues.entry(heir).or_default();
                net.slot(heir).acceptq_take(&net.cores, |child| queue.push_back(child));
                queue.push_back(child);
            }
            None => {
                net.snmp.inc(Mib::TCPMigrateReqFailure);
                self.reset_child(net, child);
            }
        }
    }

    /// Keeps a closed group member, so that its half-open requests find their way to the others. Without others, and
    /// beyond [`limits::PARKED_MAX`], there is no way.
    fn park(&mut self, net: &Net, key: HashKey, id: ListenerId) {
        let lonely = net.hash.update(key, |list| {
            let alone = list.group_of(id).is_some_and(|group| group.members().is_empty());
            let members = if alone { list.group_of(id).map(|group| group.closed().to_vec()) } else { None };
            members.unwrap_or_default()
        });
        self.parked.push_back((key, id));
        let lonely = lonely.unwrap_or_default();
        if !lonely.is_empty() {
            let (gone, kept): (VecDeque<_>, VecDeque<_>) =
                self.parked.drain(..).partition(|&(at, id)| at == key && lonely.contains(&id));
            self.parked = kept;
            gone.into_iter().for_each(|(key, id)| self.unpark(net, key, id));
        }
        while self.parked.len() > limits::PARKED_MAX {
            if let Some((key, id)) = self.parked.pop_front() {
                self.unpark(net, key, id);
            }
        }
    }
}

/// Where a socket stands in the listening hash.
pub(crate) fn key_of(sock: &Sock) -> HashKey {
    HashKey::new(sock.addr, sock.num)
}

/// A socket as the listening hash knows it.
pub(crate) fn list_entry(sock: &Sock, id: ListenerId) -> ListEntry {
    ListEntry {
        ipv6: sock.inet6(),
        v6only: sock.v6only(),
        mapped: sock.inet6() && sock.addr.is_v4(),
        reuseport: sock.reuseport(),
        dev: sock.dev,
        incoming_cpu: u16::try_from(sock.incoming_cpu).ok().map(CoreId),
        uid: sock.uid,
        ..ListEntry::v4(id)
    }
}

/// First port, and last port plus one.
fn port_range(sysctl: &Sysctl, sock: &Sock) -> (u32, u32) {
    let (TcpPort(mut low), TcpPort(mut high)) = sysctl.ip_local_port_range;
    let inside = low..=high;
    if inside.contains(&sock.port_range.0) {
        low = sock.port_range.0;
    }
    if inside.contains(&sock.port_range.1) {
        high = sock.port_range.1;
    }
    (low.into(), u32::from(high.max(low)) + 1)
}

fn is_reserved(sysctl: &Sysctl, port: TcpPort) -> bool {
    sysctl.ip_local_reserved_ports.iter().any(|&(first, last)| first <= port && port <= last)
}

/// True if a wildcard socket takes IPv4.
fn covers_v4(sock: &Sock) -> bool {
    sock.addr == InetAddr::ANY_V4 || !sock.v6only()
}

/// True if a wildcard socket takes IPv6.
fn covers_v6(sock: &Sock) -> bool {
    sock.addr == InetAddr::ANY_V6
}

/// True if the addresses of a socket and of another owner have an address in common.
///
/// # Source
/// Linux v6.18 `inet_rcv_saddr_equal` with wildcards matching.
fn overlap(sock: &Sock, addr: InetAddr, v6only: bool) -> bool {
    let (ours, theirs) = (sock.addr, addr);
    if ours.is_v4() && theirs.is_v4() {
        return ours == theirs || ours.is_any() || theirs.is_any();
    }
    match (ours == InetAddr::ANY_V6, theirs == InetAddr::ANY_V6) {
        (true, true) => true,
        (true, false) => !theirs.is_v4() || !sock.v6only(),
        (false, true) => !ours.is_v4() || !v6only,
        (false, false) => ours == theirs,
    }
}

/// True if an owner whose address overlaps stands in the way.
///
/// # Source
/// Linux v6.18 `inet_bind_conflict`. A socket that asks for a port is never in a group without closed members, so
/// `reuseport_cb_ok` always holds here.
fn conflict(sock: &Class, owner: &Class, exempt: Exempt) -> bool {
    if sock.dev != DevIndex::NONE && owner.dev != DevIndex::NONE && sock.dev != owner.dev {
        return false;
    }
    let both_reuseport =
        sock.reuseport && owner.reuseport && (owner.state == OwnerState::TimeWait || sock.uid == owner.uid);
    if sock.reuse && owner.reuse && owner.state != OwnerState::Listen {
        return !exempt.reuse || (!exempt.reuseport && both_reuseport);
    }
    !(exempt.reuseport && both_reuseport)
}
