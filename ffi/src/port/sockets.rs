//! The kernel's sockets that virtual devices read from, and what is lost in front of them. `net_af_packet` (at least up to
//! 22.11) does not ask for it, `net_af_xdp` for a part only.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use dpdk_sys as sys;

use super::Started;

/// A packet or XDP socket of a driver.
#[derive(Debug)]
pub(crate) struct RingSocket {
    descriptor: i32,
    /// Frames that it has lost so far.
    lost: AtomicU64,
}

/// The descriptors that this process has open.
pub fn open_descriptors() -> BTreeSet<i32> {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

impl Started {
    /// Takes the packet and XDP sockets for this port's that are open now and were not among `before`, which was read before
    /// the port was attached.
    pub fn adopt_sockets(&mut self, before: &BTreeSet<i32>) {
        let known = |descriptor: &i32| before.contains(descriptor) || self.duplicates.contains(descriptor);
        let sockets = open_descriptors().into_iter().filter(|descriptor| !known(descriptor));
        let ring = |descriptor| {
            let socket = RingSocket { descriptor, lost: AtomicU64::new(0) };
            socket.losses().map(|_| socket)
        };
        self.sockets = sockets.filter_map(ring).collect();
    }

    /// Frames that the kernel lost because the rings of the port's sockets were full; none where it has no such sockets.
    pub fn socket_losses(&self) -> Option<u64> {
        (!self.sockets.is_empty()).then(|| self.sockets.iter().filter_map(RingSocket::losses).sum())
    }
}

impl RingSocket {
    /// Frames lost so far; none if it is no such socket.
    fn losses(&self) -> Option<u64> {
        let (mut lost, mut since_last) = (0, 0);
        // SAFETY: the shim writes to two numbers of ours. It asks for options of a descriptor, which changes nothing but the
        // kernel's own count; the driver keeps its socket open for as long as the port is, and so as long as we are.
        let rc = unsafe { sys::shim_socket_losses(self.descriptor, &mut lost, &mut since_last) };
        if rc < 0 {
            return None;
        }
        Some(match since_last {
            0 => lost,
            _ => self.lost.fetch_add(lost, Ordering::Relaxed) + lost,
        })
    }
}
