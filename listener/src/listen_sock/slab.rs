//! The slots of all listeners.

use std::sync::OnceLock;

use crossbeam::queue::ArrayQueue;

use super::ListenSock;
use crate::sync::{AtomicU32, Ordering};
use crate::types::{ListenerId, ListenerRef};

/// Slots that are made at once when the slab grows.
const CHUNK: usize = if cfg!(loom) { 1 } else { 1024 };

/// Slots beyond the limit, for closed listeners whose slots readers still hold back: a reader that the scheduler took
/// its core from for 100 ms must not make a table that is nearly empty look full. Made as they are needed.
const PENDING: u32 = if cfg!(loom) { 1 } else { 1 << 16 };

/// The slab. It grows in chunks that never move and are never freed, so a reader needs neither lock nor epoch.
#[derive(Debug)]
pub struct ListenSocks {
    chunks: Box<[OnceLock<Box<[ListenSock]>>]>,
    /// Slots that were given back, in the order they came.
    free: ArrayQueue<u32>,
    fresh: AtomicU32,
    capacity: u32,
    listeners_max: u32,
    /// Slots that were given out and not retired.
    live: AtomicU32,
}

impl ListenSocks {
    /// A slab for `listeners_max` listeners; memory for the slots comes as they are used.
    pub fn new(listeners_max: u32) -> Self {
        let capacity = listeners_max.saturating_add(PENDING);
        let chunks = (capacity as usize).div_ceil(CHUNK);
        Self {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            free: ArrayQueue::new(capacity as usize),
            fresh: AtomicU32::new(0),
            capacity,
            listeners_max,
            live: AtomicU32::new(0),
        }
    }

    /// A free slot, or `None` if `listeners_max` are in use, or if all others wait for readers. Control side only.
    pub fn alloc(&self) -> Option<ListenerId> {
        let live = self.live.load(Ordering::Relaxed);
        if live >= self.listeners_max {
            return None;
        }
        let id = self.free.pop().map(ListenerId).or_else(|| self.make())?;
        self.live.store(live + 1, Ordering::Relaxed);
        Some(id)
    }

    /// A slot that was never used.
    fn make(&self) -> Option<ListenerId> {
        let id = self.fresh.load(Ordering::Relaxed);
        if id >= self.capacity {
            return None;
        }
        let first = id as usize / CHUNK * CHUNK;
        let make = || (first..first + CHUNK).map(|slot| ListenSock::new(slot as u32)).collect();
        self.chunks[id as usize / CHUNK].get_or_init(make);
        self.fresh.store(id + 1, Ordering::Relaxed);
        Some(ListenerId(id))
    }

    /// Says that the listener of one slot is closed, so that another may be opened; the slot itself comes back by
    /// [`ListenSocks::free`]. Control side only.
    pub fn retire(&self) {
        self.live.store(self.live.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }

    /// Gives back a slot that was retired. Any thread; lock-free, because it runs when the epoch has passed.
    pub fn free(&self, id: ListenerId) {
        let stored = self.free.push(id.0);
        debug_assert!(stored.is_ok(), "a slot was freed twice");
    }

    /// Slots that there may be.
    pub(crate) fn slots(&self) -> usize {
        self.capacity as usize
    }

    /// Slots that were ever given out.
    pub(crate) fn slots_used(&self) -> usize {
        self.fresh.load(Ordering::Relaxed) as usize
    }

    /// A slab with copies of these slots alone, to try things on: it gives none out.
    pub(crate) fn copy_of(&self, ids: &[ListenerId]) -> Self {
        let copy = Self {
            chunks: self.chunks.iter().map(|_| OnceLock::new()).collect(),
            free: ArrayQueue::new(1),
            fresh: AtomicU32::new(0),
            capacity: 0,
            listeners_max: 0,
            live: AtomicU32::new(0),
        };
        for id in ids {
            let first = id.0 as usize / CHUNK * CHUNK;
            let make = || (first..first + CHUNK).map(|slot| ListenSock::new(slot as u32)).collect();
            copy.chunks[id.0 as usize / CHUNK].get_or_init(make);
            if let (Some(from), Some(to)) = (self.get(*id), copy.get(*id)) {
                to.copy_from(from);
            }
        }
        copy
    }

    /// The slot, if it was ever given out.
    #[inline]
    pub fn get(&self, id: ListenerId) -> Option<&ListenSock> {
        self.chunks.get(id.0 as usize / CHUNK)?.get()?.get(id.0 as usize % CHUNK)
    }

    /// The listener, if it still listens.
    #[inline]
    pub fn listening(&self, listener: ListenerRef) -> Option<&ListenSock> {
        self.get(listener.id).filter(|slot| slot.is_listening(listener.generation))
    }
}
