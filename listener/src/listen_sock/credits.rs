//! A core's places in SYN queues: taken from the listener's shared count some at a time, so that a SYN and the ACK that
//! ends its request mostly touch nothing that other cores write.
//!
//! # Protocol
//! The shared count ([`ListenSock::qlen`]) is that of all requests and of all places in hand, and never passes the limit;
//! so requests do not either. A core with no place in hand takes up to a batch, at the limit what is left; a request that
//! ends leaves its place in hand, and two batches in hand are one too many. Requests that have seen a timeout are counted
//! one by one: there is one a second of each at most.
//!
//! # How close to the limit
//! All cores together have at most an eighth of a queue in hand beyond their requests, so with some cores busy the
//! others find it full at seven eighths at the earliest. A core that did not touch a listener for [`CREDIT_IDLE`] has given
//! back what it had of it at the end of the next such time: then the others can fill the queue to the last place. Small
//! queues are counted one by one, and so is every place once a queue is nearly full.
//!
//! # Checked by
//! `tests/loom_credits.rs`, and the property below.

use super::{ListenSock, ListenSocks, Refused};
use crate::types::{ListenerId, ListenerRef, Nanos};

/// Places of the smallest queue of which cores take some at a time.
const PLACES_MIN: u32 = if cfg!(loom) { 4 } else { 1024 };
/// Places that are taken at a time at most: one SYN in so many meets the shared count.
const BATCH_MAX: u32 = 64;
/// Batches of all cores in a queue, as a power of two: each has less than two in hand, so together an eighth.
const BATCHES_SHIFT: u32 = if cfg!(loom) { 0 } else { 4 };
/// Listeners of which a core has places in hand at a time; a power of two.
const SHARES: usize = if cfg!(loom) { 1 } else { 64 };

/// How long a core keeps places of a listener that it does not use.
pub const CREDIT_IDLE: Nanos = Nanos::from_millis(10);

/// What one core has in hand of one listener.
#[derive(Clone, Copy, Debug)]
struct Share {
    listener: ListenerRef,
    places: u32,
    /// Not touched since the last [`Credits::sweep`].
    idle: bool,
}

/// What one core has in hand.
#[derive(Debug)]
pub struct Credits {
    shares: Box<[Share; SHARES]>,
    /// A batch is the queue's places shifted by this.
    shift: u32,
    /// When [`Self::sweep`] next looks; `None` while nothing is in hand.
    next_sweep: Option<Nanos>,
}

impl Credits {
    /// Nothing in hand, for one of `cores` cores.
    pub fn new(cores: u16) -> Self {
        let none = ListenerRef { id: ListenerId(0), generation: 0 };
        Self {
            shares: Box::new([Share { listener: none, places: 0, idle: true }; SHARES]),
            shift: u32::from(cores.max(1)).next_power_of_two().ilog2() + BATCHES_SHIFT,
            next_sweep: None,
        }
    }

    /// Places to take at a time; 1 means that this queue is counted one by one.
    #[inline]
    fn batch(&self, slot: &ListenSock) -> u32 {
        let places = slot.request_places();
        if places < PLACES_MIN { 1 } else { (places >> self.shift).clamp(1, BATCH_MAX) }
    }

    #[inline]
    fn share(&self, listener: ListenerRef) -> &Share {
        &self.shares[listener.id.0 as usize % SHARES]
    }

    /// Places in hand of `listener`.
    #[inline]
    pub fn in_hand(&self, listener: ListenerRef) -> u32 {
        let share = self.share(listener);
        if share.listener == listener { share.places } else { 0 }
    }

    /// Half-open requests of `listener`, with what other cores have in hand.
    #[inline]
    pub fn qlen(&self, slot: &ListenSock, listener: ListenerRef) -> u32 {
        slot.qlen().saturating_sub(self.in_hand(listener))
    }

    /// `inet_csk_reqsk_queue_is_full`, as far as this core can tell: strict, so backlog N allows N + 1.
    #[inline]
    pub fn request_queue_is_full(&self, slot: &ListenSock, listener: ListenerRef) -> bool {
        let (qlen, places) = (slot.qlen(), slot.request_places());
        // Beyond: the backlog was lowered since, and what is in hand is void.
        qlen >= places && (qlen > places || self.in_hand(listener) == 0)
    }

    /// Counts one young request more.
    ///
    /// # Errors
    /// No place is left, or the listener was closed.
    #[inline]
    pub fn take(
        &mut self,
        socks: &ListenSocks,
        slot: &ListenSock,
        listener: ListenerRef,
        now: Nanos,
    ) -> Result<(), Refused> {
        let batch = self.batch(slot);
        if self.in_hand(listener) > 0 && slot.qlen() <= slot.request_places() {
            let share = &mut self.shares[listener.id.0 as usize % SHARES];
            (share.places, share.idle) = (share.places - 1, false);
            return Ok(());
        }
        let added = slot.reqsk_queue_added(listener.generation, batch)?;
        if added > 1 {
            self.keep(socks, listener, added - 1, now);
        }
        Ok(())
    }

    /// Counts one young request less.
    #[inline]
    pub fn give(&mut self, socks: &ListenSocks, slot: &ListenSock, listener: ListenerRef, now: Nanos) {
        let batch = self.batch(slot);
        let in_hand = self.in_hand(listener);
        if batch < 2 || slot.generation() != listener.generation {
            return slot.reqsk_queue_removed(listener.generation, 1);
        }
        if in_hand + 1 >= 2 * batch {
            slot.reqsk_queue_removed(listener.generation, batch);
            self.shares[listener.id.0 as usize % SHARES].places = in_hand + 1 - batch;
            return;
        }
        self.keep(socks, listener, 1, now);
    }

    /// Takes `places` into the hand, which are counted; what was there of another listener goes back to it.
    fn keep(&mut self, socks: &ListenSocks, listener: ListenerRef, places: u32, now: Nanos) {
        let share = &mut self.shares[listener.id.0 as usize % SHARES];
        if share.listener != listener {
            give_back(socks, share);
            share.listener = listener;
        }
        (share.places, share.idle) = (share.places + places, false);
        self.next_sweep.get_or_insert(now + CREDIT_IDLE);
    }

    /// Gives back what was not used since the last time, if it is time again.
    #[inline]
    pub fn sweep(&mut self, socks: &ListenSocks, now: Nanos) {
        if self.next_sweep.is_some_and(|at| at <= now) {
            self.sweep_now(socks, now);
        }
    }

    #[cold]
    fn sweep_now(&mut self, socks: &ListenSocks, now: Nanos) {
        self.next_sweep = None;
        for share in self.shares.iter_mut().filter(|share| share.places > 0) {
            if share.idle {
                give_back(socks, share);
            } else {
                share.idle = true;
                self.next_sweep = Some(now + CREDIT_IDLE);
            }
        }
    }

    /// Has `places` of `listener` in hand, which somebody else has counted: for a copy of another core's.
    pub(crate) fn hold(&mut self, listener: ListenerRef, places: u32) {
        self.shares[listener.id.0 as usize % SHARES] = Share { listener, places, idle: false };
    }

    /// When [`Self::sweep`] next has something to do.
    pub fn next_sweep(&self) -> Option<Nanos> {
        self.next_sweep
    }
}

fn give_back(socks: &ListenSocks, share: &mut Share) {
    let places = std::mem::take(&mut share.places);
    if let Some(slot) = socks.get(share.listener.id).filter(|_| places > 0) {
        slot.reqsk_queue_removed(share.listener.generation, places);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
