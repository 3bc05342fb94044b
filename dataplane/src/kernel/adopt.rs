//! Listeners that follow the kernel's.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use hearken_bpf::{Endpoint, KernelListener};
use listener::Stack;
use listener::types::SockFd;

use crate::config::{self, ThenName};
use crate::control::listeners::open;
use crate::control::proto::Listen;
use crate::start::stack::caller;

/// How long a listener outlives its claim: SYNs that were redirected meanwhile lie in a ring for microseconds.
const GRACE: Duration = Duration::from_millis(200);

/// What hearken does for a listener of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRow {
    /// The listener.
    pub listener: KernelListener,
    /// Why hearken leaves its SYNs to the kernel; none: it answers them.
    pub left: Option<String>,
}

/// A listener of the kernel, but for what may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    addr: SocketAddr,
    v6only: bool,
}

impl Key {
    fn of(listener: &KernelListener) -> Self {
        Self { addr: listener.addr, v6only: listener.v6only }
    }

    /// The endpoints that it stands for.
    fn endpoints(self) -> impl Iterator<Item = Endpoint> {
        let both = self.addr.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) && !self.v6only;
        let v4 = both.then(|| Endpoint(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.addr.port())));
        [Endpoint(self.addr)].into_iter().chain(v4)
    }
}

/// Ours, for the kernel's.
#[derive(Default)]
pub(super) struct Adopted {
    open: BTreeMap<Key, (SockFd, u32)>,
    closing: Vec<(Instant, SockFd)>,
    /// Those that were said to be refused, so that it is said once.
    refused: HashSet<Key>,
    indices: Vec<u32>,
}

/// What a round has changed.
pub(super) struct Opened {
    /// Endpoints that are to be claimed no more; their listeners close a little later.
    pub gone: HashSet<Endpoint>,
}

impl Adopted {
    /// Opens listeners for what is in `list` and `wanted`, and marks those for closing that are not. `indices` are the interfaces
    /// that hearken sits on.
    pub(super) fn open(
        &mut self,
        stack: &Stack,
        wanted: &config::Kernel,
        list: &[KernelListener],
        indices: &[u32],
    ) -> Opened {
        self.indices = indices.to_vec();
        let mut target: BTreeMap<Key, u32> = BTreeMap::new();
        for listener in list.iter().filter(|listener| self.why_not(listener, wanted).is_none()) {
            // Of a group of SO_REUSEPORT the claim asks the kernel's own choice; here one stands for all.
            let backlog = target.entry(Key::of(listener)).or_default();
            *backlog = listener.backlog.max(*backlog);
        }
        self.refused.retain(|key| target.contains_key(key));
        let (mut gone, now) = (HashSet::new(), Instant::now());
        let left: Vec<Key> = self.open.keys().filter(|key| !target.contains_key(key)).copied().collect();
        for key in left {
            if let Some((fd, _)) = self.open.remove(&key) {
                tracing::info!(addr = %key.addr, "the kernel listens there no more");
                gone.extend(key.endpoints());
                self.closing.push((now + GRACE, fd));
            }
        }
        for (key, backlog) in target {
            self.open_one(stack, key, backlog);
        }
        let still = self.open.keys().flat_map(|key| key.endpoints()).collect::<HashSet<_>>();
        gone.retain(|endpoint| !still.contains(endpoint));
        let closing = self.closing.iter().any(|(until, _)| *until > now);
        Opened { gone: if closing { gone } else { HashSet::new() } }
    }

    fn open_one(&mut self, stack: &Stack, key: Key, backlog: u32) {
        match self.open.get_mut(&key) {
            Some((_, known)) if *known == backlog => {}
            Some((fd, known)) => {
                // listen() again changes the backlog.
                if stack.listen(*fd, as_backlog(backlog)).is_ok() {
                    *known = backlog;
                }
            }
            None => {
                let listen = Listen {
                    addr: key.addr.into(),
                    backlog: as_backlog(backlog),
                    // Where the kernel let several in, so do we.
                    reuseport: true,
                    v6only: key.addr.is_ipv6().then_some(key.v6only),
                    device: None,
                    then: ThenName::Kernel,
                    defer_accept: 0,
                };
                match open(stack, key.addr, &listen, caller()) {
                    Ok(fd) => {
                        tracing::info!(addr = %key.addr, backlog, "in front of the kernel's listener");
                        self.open.insert(key, (fd, backlog));
                    }
                    Err(error) if self.refused.insert(key) => {
                        let why = error.sentence();
                        tracing::warn!(addr = %key.addr, "left to the kernel: {why}");
                    }
                    Err(_) => {}
                }
            }
        }
    }

    /// Closes those whose time has come.
    pub(super) fn close_due(&mut self, stack: &Stack, now: Instant) {
        self.closing.retain(|(due, fd)| {
            let wait = *due > now;
            if !wait {
                let _ = stack.close(*fd, false);
            }
            wait
        });
    }

    /// Why hearken does not stand in front of `listener`; none if it is to.
    fn why_not(&self, listener: &KernelListener, wanted: &config::Kernel) -> Option<String> {
        if !wanted.wants(listener.addr) {
            return Some("the configuration leaves it out".into());
        }
        if let Some(reason) = listener.left.reason() {
            return Some(reason.into());
        }
        if listener.bound_dev != 0 && !self.indices.contains(&listener.bound_dev) {
            return Some("it is bound to another interface".into());
        }
        let loopback = listener.addr.ip().to_canonical().is_loopback();
        let link_local = matches!(listener.addr.ip(), IpAddr::V6(v6) if v6.is_unicast_link_local());
        (loopback || link_local).then(|| "its address is reached from this host or link only".into())
    }

    /// The kernel's listeners, with what hearken does for each.
    pub(super) fn rows(&self, list: &[KernelListener], wanted: &config::Kernel) -> Vec<KernelRow> {
        let mut rows: Vec<KernelRow> = list
            .iter()
            .map(|listener| KernelRow { listener: *listener, left: self.why_not(listener, wanted) })
            .collect();
        rows.sort_by_key(|row| (row.listener.addr.port(), row.listener.addr.ip(), row.listener.inode));
        rows
    }
}

/// As listen(2) takes it: compared unsigned.
fn as_backlog(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}
