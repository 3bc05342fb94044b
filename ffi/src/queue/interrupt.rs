//! Receive interrupts: a thread sleeps until one of its queues has a frame.

use std::time::Duration;

use dpdk_sys as sys;

use super::RxQueue;
use crate::{DpdkError, log};

/// Queues that one wait reports; more are reported by the next.
const EVENTS: usize = 16;

impl RxQueue {
    /// True if the port was configured with [`rx_interrupts`](crate::PortConfig::rx_interrupts) and its driver has them.
    pub fn has_interrupt(&self) -> bool {
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

/// Waits until a queue of this thread raises an interrupt, for at most `limit`, rounded up to milliseconds.
pub fn wait_for_interrupt(limit: Duration) {
    let mut events = [const { std::mem::MaybeUninit::<sys::rte_epoll_event>::zeroed() }; EVENTS];
    let ms = i32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    // SAFETY: DPDK writes at most EVENTS events to `events`; this thread's epoll instance is its own.
    unsafe { sys::rte_epoll_wait(sys::RTE_EPOLL_PER_THREAD, events.as_mut_ptr().cast(), EVENTS as i32, ms) };
}
