//! The control side of hearken beside the kernel; without the feature, nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::task::Poll;

use super::cookie_keys::CookieKeysReply;
use listener::segment::Segment;

use super::proto::{KernelListener, KernelStats, Refusal, Why};
use super::server::Peer;
use super::service::{Desk, Devices};

#[cfg(feature = "kernel")]
impl<D: Devices> Desk<D> {
    /// Begins to stand in front of the kernel's listeners, where the configuration asks for it. `clock` is the workers'.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn begin_kernel(
        &mut self,
        clock: impl FnMut() -> listener::types::Nanos + Send + 'static,
    ) -> Result<(), String> {
        let config = &self.loaded.config;
        let around = around(&self.stack, &self.cookies, config);
        self.kernel = crate::kernel::KernelSide::begin(config, &around, clock)?.map(Box::new);
        Ok(())
    }

    /// One round.
    pub fn turn_kernel(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            kernel.turn(&around(&self.stack, &self.cookies, &self.loaded.config));
        }
    }

    /// What to wait for: a listener of the kernel has come or gone.
    ///
    /// # Errors
    /// There is no free descriptor.
    pub fn kernel_fd(&self) -> io::Result<Option<OwnedFd>> {
        self.kernel.as_ref().map(|kernel| kernel.fd().try_clone_to_owned()).transpose()
    }

    /// Changes the keys of cookies, as [`super::cookie_keys::CookieDesk::rotate`]; what checks them on the kernel's path learns
    /// the new ones before any is made.
    pub fn rotate_cookie_keys(&mut self, peer: Peer) -> Poll<Result<CookieKeysReply, Refusal>> {
        let Self { kernel, cookies, stack, loaded, .. } = self;
        cookies.rotate(stack, peer.client, |keys| {
            let Some(kernel) = kernel else { return Ok(()) };
            let (wanted, sysctl) = (&loaded.config.kernel, loaded.config.sysctl.values());
            let around = crate::kernel::Around { stack, keys, wanted, sysctl };
            kernel.learn(&around).map_err(|error| Refusal::new(error.to_string()))
        })
    }

    /// What the kernel's path counted.
    pub fn kernel_stats(&self) -> Option<KernelStats> {
        let kernel = self.kernel.as_ref()?;
        Some(KernelStats { counters: kernel.counters(), rtt_below_ms: kernel.round_trips() })
    }

    /// The kernel's listeners, with what hearken does for each.
    pub fn kernel_listeners(&self) -> Vec<KernelListener> {
        let Some(kernel) = &self.kernel else { return Vec::new() };
        let rows = kernel.rows(&self.loaded.config.kernel).into_iter();
        let row = |row: crate::kernel::KernelRow| KernelListener {
            local: row.listener.addr,
            v6only: row.listener.v6only,
            recv_q: row.listener.recv_q,
            send_q: row.listener.backlog,
            inode: row.listener.inode,
            uid: row.listener.uid,
            left: row.left,
        };
        rows.map(row).collect()
    }

    /// Says in `why` what becomes of a frame on the port `place` that the kernel's path keeps; false if it comes to a worker.
    pub(super) fn tell_way(
        &self,
        why: &mut Why,
        (place, frame): (usize, &[u8]),
        seg: Option<&Segment>,
    ) -> bool {
        let beside = self.loaded.config.port.get(place).is_some_and(crate::config::Port::is_beside_kernel);
        let kernel = self.kernel.as_ref().filter(|_| beside);
        let Some(way) = kernel.and_then(|kernel| kernel.way(&self.stack, frame, seg)) else { return false };
        why.verdict = way.verdict.into();
        why.sentence = way.sentence;
        why.counters.extend(way.counter.map(str::to_owned));
        true
    }

    /// The server is to end: the kernel answers SYNs from now on. True if that was asked of anyone.
    pub fn release_kernel(&mut self) -> bool {
        self.kernel.as_mut().map(|kernel| kernel.release()).is_some()
    }

    /// Waits until handshakes in flight have ended.
    pub fn linger_kernel(&self) {
        std::thread::sleep(crate::kernel::LINGER);
    }

    /// The server has ended.
    pub fn end_kernel(&mut self) {
        if let Some(mut kernel) = self.kernel.take() {
            kernel.end();
        }
    }
}

#[cfg(feature = "kernel")]
fn around<'a>(
    stack: &'a listener::Stack,
    cookies: &super::cookie_keys::CookieDesk,
    config: &'a crate::config::Config,
) -> crate::kernel::Around<'a> {
    crate::kernel::Around {
        stack,
        keys: cookies.keys(),
        wanted: &config.kernel,
        sysctl: config.sysctl.values(),
    }
}

#[cfg(not(feature = "kernel"))]
impl<D: Devices> Desk<D> {
    /// Nothing to do.
    pub fn turn_kernel(&mut self) {}

    /// Nothing to wait for.
    ///
    /// # Errors
    /// None.
    pub fn kernel_fd(&self) -> io::Result<Option<OwnedFd>> {
        Ok(None)
    }

    /// Changes the keys of cookies, as [`super::cookie_keys::CookieDesk::rotate`].
    pub fn rotate_cookie_keys(&mut self, peer: Peer) -> Poll<Result<CookieKeysReply, Refusal>> {
        self.cookies.rotate(&self.stack, peer.client, |_| Ok(()))
    }

    /// Nothing counted.
    pub fn kernel_stats(&self) -> Option<KernelStats> {
        None
    }

    /// None that are known.
    pub fn kernel_listeners(&self) -> Vec<KernelListener> {
        Vec::new()
    }

    /// Every frame comes to a worker.
    pub(super) fn tell_way(&self, _why: &mut Why, _frame: (usize, &[u8]), _seg: Option<&Segment>) -> bool {
        false
    }

    /// Nothing to release.
    pub fn release_kernel(&mut self) -> bool {
        false
    }

    /// Nothing to wait for.
    pub fn linger_kernel(&self) {}

    /// Nothing to end.
    pub fn end_kernel(&mut self) {}
}
