//! Receive and transmit queues, each with one owner: the poll-mode half of a port.

use std::cell::Cell;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dpdk_sys as sys;

use crate::port::Port;
use crate::{Mbuf, PortId, QueueId};

mod interrupt;
#[cfg(test)]
mod tests;
pub(crate) mod xdp_socket;

pub use interrupt::wait_for_interrupt;

/// One receive queue. `Send`, neither `Sync` nor `Clone`: one poller at a time is DPDK's rule.
#[derive(Debug)]
pub struct RxQueue {
    port: Arc<Port>,
    queue_id: QueueId,
    /// What becomes readable when it has a frame, of a device that is an AF_XDP socket.
    socket: Option<OwnedFd>,
    _one_poller: PhantomData<Cell<()>>,
}

impl RxQueue {
    pub(crate) fn new(port: Arc<Port>, queue_id: QueueId, socket: Option<OwnedFd>) -> Self {
        Self { port, queue_id, socket, _one_poller: PhantomData }
    }

    /// The port that it is a queue of.
    pub fn port_id(&self) -> PortId {
        self.port.id()
    }

    /// Its index within the port.
    pub fn queue_id(&self) -> QueueId {
        self.queue_id
    }

    /// Moves received frames into a prefix of `slots`, all of which must be empty; returns its length.
    ///
    /// Some vector drivers receive in groups of four and nothing for less room: offer a multiple of four.
    #[inline]
    pub fn rx_burst(&mut self, slots: &mut [Option<Mbuf>]) -> usize {
        debug_assert!(slots.iter().all(Option::is_none), "a full slot would leak its mbuf");
        let room = u16::try_from(slots.len()).unwrap_or(u16::MAX);
        let pkts = slots.as_mut_ptr().cast::<*mut sys::rte_mbuf>();
        // SAFETY:
        // - Layout: `Mbuf` is transparent over `NonNull<rte_mbuf>`, so a slot is one nullable pointer
        //   (const-asserted in mbuf.rs).
        // - Bounds: DPDK writes at most `room` pointers; `slots` has at least that many.
        // - Ownership: the pointers before the count are live mbufs, now ours alone. For the rest, see
        //   `forget_tail`.
        // - Race: one poller per rx queue is DPDK's rule; `&mut self` on a type neither Clone nor Sync is it.
        // - Lifetime: `self.port` keeps the port started; it stops after its last queue is dropped.
        let received = unsafe { sys::shim_rte_eth_rx_burst(self.port.id().0, self.queue_id.0, pkts, room) };
        let received = usize::from(received);
        forget_tail(slots, received);
        received
    }
}

/// The slots in front of the first empty one: nearly always all, which is seen many at a time.
#[inline]
fn full_slots(slots: &[Option<Mbuf>]) -> usize {
    // Less 1, only an empty slot is in the upper half of the address space.
    let address = |slot: &Option<Mbuf>| slot.as_ref().map_or(0, |mbuf| mbuf.address() as u64);
    let any = slots.iter().fold(0, |any, slot| any | address(slot).wrapping_sub(1));
    if any >> 63 == 0 { slots.len() } else { slots.iter().take_while(|slot| slot.is_some()).count() }
}

/// Empties the slots from `count` on without freeing what is in them.
///
/// Vector drivers store groups of four pointers and count afterwards (DPDK 22.11
/// drivers/net/ixgbe/ixgbe_rxtx_vec_sse.c): those past the count still belong to the NIC's ring, and
/// dropping one would free it twice.
#[inline]
fn forget_tail(slots: &mut [Option<Mbuf>], count: usize) {
    for slot in slots.iter_mut().skip(count) {
        std::mem::forget(slot.take());
    }
}

/// Frames that one [`TxQueue::tx_burst`] handles at most: a bit each.
pub const TX_BURST_MAX: usize = u64::BITS as usize;

/// What became of the frames of a [`TxQueue::tx_burst`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxBurst {
    /// So many slots in front are empty now.
    pub done: usize,
    /// Bit `i` is set if the driver's preparation rejected the frame in slot `i`, which was freed; the others were sent.
    pub rejected: u64,
}

/// One transmit queue. `Send`, neither `Sync` nor `Clone`: one sender at a time is DPDK's rule.
#[derive(Debug)]
pub struct TxQueue {
    port: Arc<Port>,
    queue_id: QueueId,
    prepare: bool,
    _one_sender: PhantomData<Cell<()>>,
}

impl TxQueue {
    pub(crate) fn new(port: Arc<Port>, queue_id: QueueId, prepare: bool) -> Self {
        Self { port, queue_id, prepare, _one_sender: PhantomData }
    }

    /// The port that it is a queue of.
    pub fn port_id(&self) -> PortId {
        self.port.id()
    }

    /// Its index within the port.
    pub fn queue_id(&self) -> QueueId {
        self.queue_id
    }

    /// Sends a prefix of `slots`: the frames up to the first empty slot, or as many as the device takes, [`TX_BURST_MAX`]
    /// at most. Empties the slots that it is done with; the rest stays the caller's.
    ///
    /// A frame that the driver's preparation rejects (`rte_eth_tx_prepare` stops in front of it) is freed, and the frames
    /// behind it are sent.
    #[inline]
    pub fn tx_burst(&mut self, slots: &mut [Option<Mbuf>]) -> TxBurst {
        let full = full_slots(slots).min(TX_BURST_MAX);
        let mut burst = TxBurst { done: 0, rejected: 0 };
        loop {
            let rest = &mut slots[burst.done..full];
            let (prepared, sent) = self.prepare_and_send(rest);
            burst.done += sent;
            if sent < prepared || burst.done == full {
                return burst;
            }
            slots[burst.done] = None;
            burst.rejected |= 1 << burst.done;
            burst.done += 1;
        }
    }

    /// How many frames in front the driver prepared, and how many of these it took. `slots`, [`TX_BURST_MAX`] at most, are full.
    #[inline]
    fn prepare_and_send(&mut self, slots: &mut [Option<Mbuf>]) -> (usize, usize) {
        let mut count = slots.len() as u16;
        let pkts = slots.as_mut_ptr().cast::<*mut sys::rte_mbuf>();
        let (port_id, queue_id) = (self.port.id().0, self.queue_id.0);
        // SAFETY:
        // - Layout: as in `rx_burst`; `tx_burst` saw that the slots hold non-null pointers, and they are few.
        // - Ownership: the mbufs before the answer's count belong to the driver from now on, and
        //   the loop below makes us forget them; the others stay ours, unchanged but for what
        //   tx_prepare writes into headers.
        // - Race and lifetime: as in `rx_burst`.
        let sent = unsafe {
            if self.prepare {
                count = sys::shim_rte_eth_tx_prepare(port_id, queue_id, pkts, count);
            }
            sys::shim_rte_eth_tx_burst(port_id, queue_id, pkts, count)
        };
        for slot in slots.iter_mut().take(usize::from(sent)) {
            std::mem::forget(slot.take());
        }
        (usize::from(count), usize::from(sent))
    }
}
