//! What changes while a stack runs: the knobs, the limit on RSTs, and the end of taking SYNs.
//!
//! # Protocol
//! The control side leaves [`Settings`] beside a core and sends [`crate::conn_shared::Command::Settings`]; the core
//! exchanges them for its own at its next tick and leaves the old ones, which the control side frees. So a worker
//! allocates and frees nothing, and a segment meets the old knobs or the new ones, never some of each.

mod watch;

use crossbeam::atomic::AtomicCell;
use crossbeam::queue::ArrayQueue;

use crate::api::Stack;
use crate::conn_shared::Command;
use crate::core::dry_run::{PEEKED, Peeked};
use crate::core::{Env, Flows};
use crate::ratelimit::TokenBucket;
use crate::sync::{Arc, AtomicU32, Ordering, lock};
use crate::sysctl::Sysctl;
use crate::types::CoreId;

/// What a core is told anew.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Knobs.
    pub sysctl: Sysctl,
    /// As [`crate::core::Core::set_rst_limit`], with as many at once as in a second.
    pub rst_per_second: u32,
}

/// Where a core and the control side exchange settings, and what a core that drains still has.
pub(crate) struct Live {
    /// Answers to [`Command::Peek`].
    pub(crate) peeked: ArrayQueue<Peeked>,
    /// Segments by listener.
    pub(crate) watch: watch::Watch,
    next: AtomicCell<Option<Box<Settings>>>,
    done: AtomicCell<Option<Box<Settings>>>,
    requests: AtomicU32,
    connections: AtomicU32,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            peeked: ArrayQueue::new(PEEKED),
            watch: watch::Watch::default(),
            next: AtomicCell::default(),
            done: AtomicCell::default(),
            requests: AtomicU32::new(0),
            connections: AtomicU32::new(0),
        }
    }
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl Live {
    /// Control side: leaves new settings.
    fn leave(&self, settings: Settings) {
        drop(self.done.take());
        self.next.store(Some(Box::new(settings)));
    }

    /// The core: says what it still has.
    #[cold]
    fn count(&self, flows: &Flows) {
        let connections = flows.table.conns.in_use() - flows.tw_count;
        self.requests.store(flows.table.requests.in_use(), Ordering::Relaxed);
        self.connections.store(connections, Ordering::Relaxed);
    }
}

/// The core: exchanges its settings for those that wait.
#[cold]
pub(crate) fn take_settings(env: &mut Env, flows: &mut Flows) {
    let shared = Arc::clone(&env.shared);
    let Some(mut settings) = shared.live.next.take() else { return };
    env.take_sysctl(&mut settings.sysctl);
    flows.rst_limit.set(TokenBucket::new(settings.rst_per_second, settings.rst_per_second));
    shared.live.done.store(Some(settings));
}

/// The core: takes no SYN at a listener from now on.
#[cold]
pub(crate) fn drain(env: &mut Env, flows: &Flows) {
    env.draining = true;
    env.shared.live.count(flows);
}

/// The core: what it does at each tick while it drains.
#[inline]
pub(crate) fn count_if_draining(env: &Env, flows: &Flows) {
    if env.draining {
        env.shared.live.count(flows);
    }
}

/// What a stack that drains still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct InUse {
    /// Half-open handshakes. Those that were answered by a cookie are known to nobody.
    pub requests: u64,
    /// Connections, without TIME_WAIT.
    pub connections: u64,
}

impl Stack {
    /// Changes the knobs of the control side: what bind(2), listen(2) and close(2) go by from now on. The cores follow
    /// with [`Stack::tell_cores`]. Returns what they were.
    pub fn set_sysctl(&self, sysctl: Sysctl) -> Arc<Sysctl> {
        std::mem::replace(&mut *lock(&self.net.sysctl), Arc::new(sysctl))
    }

    /// Gives all cores the knobs as they are now, and a limit on RSTs; each takes them at its next tick.
    pub fn tell_cores(&self, rst_per_second: u32) {
        for core in &self.net.cores {
            let sysctl = Sysctl::clone(&self.sysctl());
            core.live.leave(Settings { sysctl, rst_per_second });
        }
        self.command_all(Command::Settings);
    }

    /// From the next tick of each core on, no SYN is answered at a listener; whatever has begun goes on.
    pub fn drain(&self) {
        for core in &self.net.cores {
            core.live.requests.store(u32::MAX, Ordering::Relaxed);
        }
        self.command_all(Command::Drain);
    }

    /// What is still under way; `None` before every core has begun to drain.
    pub fn in_use(&self) -> Option<InUse> {
        let mut sum = InUse::default();
        for core in &self.net.cores {
            let requests = core.live.requests.load(Ordering::Relaxed);
            if requests == u32::MAX {
                return None;
            }
            sum.requests += u64::from(requests);
            sum.connections += u64::from(core.live.connections.load(Ordering::Relaxed));
        }
        Some(sum)
    }

    fn command_all(&self, command: Command) {
        let mut control = self.lock();
        for core in 0..self.net.cores.len() as u16 {
            control.command(&self.net, CoreId(core), command);
        }
    }
}
