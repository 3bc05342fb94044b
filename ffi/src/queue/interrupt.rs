//! Receive interrupts: a thread sleeps until one of its queues has a frame.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use dpdk_sys as sys;

use super::RxQueue;
use crate::{DpdkError, log};

/// `<sys/epoll.h>`
const EPOLL_CTL_ADD: i32 = 1;
/// As above.
const EPOLLIN: u32 = 1;

/// Queues that one wait reports; more are reported by the next.
const EVENTS: usize = 16;

impl RxQueue {
    /// True if the port was configured with [`rx_interrupts`](crate::PortConfig::rx_interrupts) and its driver has them, or
    /// if the queue is a socket that can be waited for.
    pub fn has_interrupt(&self) -> bool {
        if self.socket.is_some() {
            return true;
        }
        // SAFETY: reads what the driver has set up; the port is started while `self.port` lives.
        let (fd, _) = log::captured(|| unsafe {
            sys::rte_eth_dev_rx_intr_ctl_q_get_fd(self.port.id().0, self.queue_id.0)
        });
        fd >= 0
    }

    /// Lets the queue's interrupt end [`wait_for_interrupt`] on this thread. Once, on the thread that polls.
    ///
    /// # Errors
    /// ENOTSUP, EPERM: [`RxQueue::has_interrupt`] is false.
    pub fn add_interrupt(&mut self) -> Result<(), DpdkError> {
        if let Some(socket) = &self.socket {
            return wait_for_socket(self.port.name(), socket.as_fd());
        }
        // SAFETY: the port is started while `self.port` lives, one thread has the queue; the event carries no pointer.
        let (rc, printed) = log::captured(|| unsafe {
            sys::rte_eth_dev_rx_intr_ctl_q(
                self.port.id().0,
                self.queue_id.0,
                sys::RTE_EPOLL_PER_THREAD,
                sys::RTE_INTR_EVENT_ADD as i32,
                std::ptr::null_mut(),
            )
        });
        DpdkError::check("rte_eth_dev_rx_intr_ctl_q", self.port.name(), rc)
            .map_err(|error| error.hint(printed))
    }

    /// Has the device raise an interrupt when the next frame comes, or none. Drivers whose interrupt needs no arming
    /// (`net_tap`) refuse, and always raise it.
    pub fn arm_interrupt(&mut self, on: bool) {
        if self.socket.is_some() {
            return;
        }
        let (port_id, queue_id) = (self.port.id().0, self.queue_id.0);
        // SAFETY: as in `add_interrupt`.
        let _always_armed = unsafe {
            if on {
                sys::rte_eth_dev_rx_intr_enable(port_id, queue_id)
            } else {
                sys::rte_eth_dev_rx_intr_disable(port_id, queue_id)
            }
        };
    }
}

/// Has [`wait_for_interrupt`] on this thread end while `socket` is readable.
fn wait_for_socket(name: &str, socket: BorrowedFd<'_>) -> Result<(), DpdkError> {
    // SAFETY: all zeros is an event: no callback, no pointer.
    let mut event = Box::new(unsafe { std::mem::zeroed::<sys::rte_epoll_event>() });
    event.epdata.event = EPOLLIN;
    // SAFETY: lifetime: DPDK keeps the pointer for as long as the thread waits, which is for ever: it is never freed. Race: its
    // fields are the thread's own from here on, which is this one.
    let rc = unsafe {
        sys::rte_epoll_ctl(sys::RTE_EPOLL_PER_THREAD, EPOLL_CTL_ADD, socket.as_raw_fd(), Box::leak(event))
    };
    DpdkError::check("rte_epoll_ctl", name, rc)
}

/// Waits until a queue of this thread raises an interrupt, for at most `limit`, rounded up to milliseconds.
pub fn wait_for_interrupt(limit: Duration) {
    let mut events = [const { std::mem::MaybeUninit::<sys::rte_epoll_event>::zeroed() }; EVENTS];
    let ms = i32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    // SAFETY: DPDK writes at most EVENTS events to `events`; this thread's epoll instance is its own.
    unsafe { sys::rte_epoll_wait(sys::RTE_EPOLL_PER_THREAD, events.as_mut_ptr().cast(), EVENTS as i32, ms) };
}
