//! What signals ask of a run: SIGHUP reloads, SIGTERM drains, SIGINT ends; a second SIGINT or SIGTERM ends the process at
//! once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use super::Running;
use super::team::drain as take_all;

/// How long a server at least drains that has answered SYNs by cookies: it does not know which of them are under way.
const COOKIE_GRACE: Duration = Duration::from_secs(1);

/// One pipe a signal; each becomes readable when its signal comes.
pub(super) struct Signals {
    hup: UnixStream,
    term: UnixStream,
    int: UnixStream,
    handlers: Vec<signal_hook::SigId>,
}

impl Signals {
    /// Takes the signals over until it is dropped.
    pub(super) fn install() -> io::Result<Self> {
        let mut handlers = Vec::new();
        let mut pipe = |signal| {
            let (wake, waker) = UnixStream::pair()?;
            wake.set_nonblocking(true)?;
            handlers.push(low_level::pipe::register(signal, waker)?);
            io::Result::Ok(wake)
        };
        let (hup, term, int) = (pipe(SIGHUP)?, pipe(SIGTERM)?, pipe(SIGINT)?);
        let seen = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: a first signal finds the flag down and raises it after.
            handlers.push(flag::register_conditional_shutdown(signal, 1, Arc::clone(&seen))?);
            handlers.push(flag::register(signal, Arc::clone(&seen))?);
        }
        Ok(Self { hup, term, int, handlers })
    }

    /// What to wait for.
    pub(super) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.hup.as_fd(), self.term.as_fd(), self.int.as_fd()]
    }

    /// True once for every time that SIGHUP came.
    pub(super) fn reload(&self) -> bool {
        take_all(&self.hup)
    }

    /// True when SIGTERM came.
    pub(super) fn drain(&self) -> bool {
        take_all(&self.term)
    }

    /// True when SIGINT came.
    pub(super) fn end(&self) -> bool {
        take_all(&self.int)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            low_level::unregister(handler);
        }
    }
}

/// A run that takes no new SYNs and waits for what has begun.
pub(super) struct Draining {
    until: Instant,
    not_before: Instant,
}

impl Draining {
    /// Begins; `patience` is the bound on waiting.
    pub(super) fn begin(running: &mut Running, patience: Duration) -> Self {
        let released = running.desk.release_kernel();
        let stack = &running.desk.stack;
        let cookies = stack.snmp().iter().any(|(name, count)| *name == "SyncookiesSent" && *count > 0);
        if released {
            // SYNs on their way through the ring are still answered; new ones do not come.
            tracing::info!(seconds = patience.as_secs(), "draining: the kernel answers new SYNs");
        } else {
            stack.drain();
            tracing::info!(seconds = patience.as_secs(), "draining: no new SYN is answered");
        }
        let (now, least) = (Instant::now(), if cookies { COOKIE_GRACE } else { Duration::ZERO });
        Self { until: now + patience, not_before: now + least.min(patience) }
    }

    /// Why it is over, once it is.
    pub(super) fn over(&self, running: &Running) -> Option<String> {
        let left = running.desk.stack.in_use();
        let nothing = left.is_some_and(|left| left.requests + left.connections == 0);
        let now = Instant::now();
        if (nothing && now >= self.not_before) || running.exhausted() {
            return Some("stopped by a signal, all connections ended".into());
        }
        let left = left.unwrap_or_default();
        (now >= self.until).then(|| {
            let (requests, connections) = (left.requests, left.connections);
            format!("stopped by a signal; after control.drain_seconds {requests} handshakes and {connections} connections were left")
        })
    }
}
