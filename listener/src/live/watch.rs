//! Which listeners are asked for most, for as long as somebody watches.
//!
//! Each core counts the segments that its lookups give to a listener, in an array of its own by the listener's slot. While
//! nobody watches that costs one relaxed load a burst, and no memory before somebody first does.

use std::sync::OnceLock;

use crate::api::Stack;
use crate::sync::{AtomicBool, AtomicU32, Ordering};
use crate::types::ListenerId;

/// One core's counts.
#[derive(Debug)]
pub(crate) struct Watch {
    on: AtomicBool,
    counts: OnceLock<Box<[AtomicU32]>>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { on: AtomicBool::new(false), counts: OnceLock::new() }
    }
}

impl Watch {
    /// The core: counts what a lookup found.
    #[inline]
    pub(crate) fn count(&self, found: impl Iterator<Item = ListenerId>) {
        if self.on.load(Ordering::Relaxed) {
            self.add(found);
        }
    }

    #[cold]
    fn add(&self, found: impl Iterator<Item = ListenerId>) {
        let Some(counts) = self.counts.get() else { return };
        for id in found {
            // One writer, so a load and a store do.
            if let Some(count) = counts.get(id.0 as usize) {
                count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            }
        }
    }

    fn get(&self, slot: usize) -> u32 {
        self.counts.get().and_then(|counts| counts.get(slot)).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl Stack {
    /// Lets all cores count segments by listener, or no longer. The first time takes 4 bytes for each listener that
    /// there may be, on each core.
    pub fn watch_listeners(&self, on: bool) {
        for core in &self.net.cores {
            let watch = &core.live.watch;
            if on {
                let make = || (0..self.net.listeners.slots()).map(|_| AtomicU32::new(0)).collect();
                watch.counts.get_or_init(make);
            }
            watch.on.store(on, Ordering::Release);
        }
    }

    /// Segments that each slot was given since `before`, the `max` busiest first; `before` becomes what was counted now.
    pub fn busiest(&self, before: &mut Vec<u32>, max: usize) -> Vec<(ListenerId, u32)> {
        let slots = self.net.listeners.slots_used();
        before.resize(slots, 0);
        let mut busy = Vec::new();
        for (slot, before) in before.iter_mut().enumerate() {
            let cores = self.net.cores.iter().map(|core| core.live.watch.get(slot));
            let now = cores.fold(0, u32::wrapping_add);
            let grown = now.wrapping_sub(std::mem::replace(before, now));
            if grown > 0 {
                busy.push((ListenerId(slot as u32), grown));
            }
        }
        busy.sort_unstable_by_key(|&(id, grown)| (std::cmp::Reverse(grown), id.0));
        busy.truncate(max);
        busy
    }
}
