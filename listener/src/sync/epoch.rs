//! Deferred reclaim: what a writer has taken out of readers' sight is given back once nobody can look at it any more.
//!
//! There is no `unsafe` in this file, but what stands behind the crate's door to it, `bucket.rs`, is sound only while this file
//! keeps its promise: nothing deferred runs while a guard lives that was taken before the deferral. A change here is to be
//! reviewed like a change there.
//!
//! # Protocol
//! A global epoch, one slot a thread. [`pin`] writes the epoch it read into the thread's slot; dropping the last guard
//! writes 0. A writer first takes an object out of every reader's way, then [`defer`]s its reclaim, which raises the
//! epoch to `s` and files the object under `s`. Whoever reclaims reads the epoch, then looks at the slots. The object may be
//! reclaimed when the epoch that was read was `s` or more, and every slot holds 0 or `s` or more:
//! - A reader whose slot holds `s` or more read the epoch after it was raised (Acquire, paired with the raising),
//!   hence after the object was out of the way: it cannot have found it.
//! - A reader whose slot holds less may have; it is waited for. Guards live for a burst.
//! - A reader whose slot was seen as 0, and that pinned all the same: between its slot's store and its first load stands a
//!   barrier, as between the reading of the epoch, by which the object was out of the way, and the look at the slots. So either
//!   the look sees the slot, or the reader sees the object gone. The unlinking writer may be a third thread.
//!
//! # Why not crossbeam's
//! It does the same, with two differences that the packet path feels. Its readers pay a full fence per pin, which at a
//! burst of 32 is a quarter of the lookup, and which keeps a burst's cache misses from overlapping the next one's. Here the
//! reader's barrier is the compiler's alone and the writer's is membarrier(2), which makes every running thread of
//! the process pass a full barrier; where the kernel has none, both sides fence. And its readers now and then run what was
//! deferred; here only writers do, so a worker never frees memory or takes a lock on somebody else's behalf.
//!
//! # Cost to writers
//! A membarrier interrupts the workers for about a microsecond, so it is made once per `BATCH` objects: up to so many
//! wait, until the next are deferred or [`reclaim`] is called. With no other thread registered all go at once.
//!
//! # Checked by
//! `tests/loom_epoch.rs`, both sides fencing; membarrier itself is the kernel's word.

use std::marker::PhantomData;

use super::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering, fence, lock};

/// Deferred objects per look at the slots.
const BATCH: usize = if cfg!(loom) { 1 } else { 64 };
/// Threads with a slot of their own; those beyond share a counter, and hold all reclaim back while they are pinned.
const SLOTS: usize = if cfg!(loom) { 4 } else { 512 };

type Reclaim = Box<dyn FnOnce() + Send>;

/// One thread's announcement, on a line of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Slot {
    /// The epoch that the thread is pinned at; 0 if it is not. Written by the thread alone.
    epoch: AtomicU64,
    /// Guards that the thread holds. Read and written by the thread alone.
    guards: AtomicU32,
    taken: AtomicBool,
}

struct Domain {
    /// Where `pin` reads it: on a line that only writers change.
    epoch: AtomicU64,
    slots: [Slot; SLOTS],
    /// Slots from here on have never been taken.
    used: AtomicUsize,
    /// Guards of threads without a slot.
    shared: AtomicU64,
    garbage: Mutex<Garbage>,
}

struct Garbage {
    objects: Vec<(u64, Reclaim)>,
    /// So many objects, and it is worth looking at the slots again.
    next_look: usize,
}

impl Domain {
    /// The slot of a thread that has none yet.
    #[cold]
    fn take_slot(&self) -> Option<&Slot> {
        barrier::choose();
        let slot = self.slots.iter().find(|slot| !slot.taken.swap(true, Ordering::AcqRel))?;
        let used = self.slots.iter().take_while(|&other| !std::ptr::eq(other, slot)).count() + 1;
        self.used.fetch_max(used, Ordering::SeqCst);
        Some(slot)
    }

    /// Everything filed under the result or less may be reclaimed: the least epoch that somebody is pinned at, and never more than
    /// the epoch before the look at the slots. What is deferred after the look, a reader may have found that pinned after it.
    fn oldest_reader(&self) -> u64 {
        // Acquire: what is filed up to this epoch was out of every reader's way before the barrier.
        let before = self.epoch.load(Ordering::Acquire);
        barrier::heavy();
        if self.shared.load(Ordering::Acquire) > 0 {
            return 0;
        }
        let slots = &self.slots[..self.used.load(Ordering::SeqCst)];
        let pinned = slots.iter().map(|slot| slot.epoch.load(Ordering::Acquire)).filter(|&epoch| epoch > 0);
        pinned.min().map_or(before, |oldest| oldest.min(before))
    }

    /// Runs what nobody can look at any more.
    fn reclaim(&self) {
        let oldest = self.oldest_reader();
        let ready = {
            let mut garbage = lock(&self.garbage);
            // Filed in order: the ready ones are in front.
            let count = garbage.objects.partition_point(|(epoch, _)| *epoch <= oldest);
            let kept = garbage.objects.split_off(count);
            garbage.next_look = kept.len() + BATCH;
            std::mem::replace(&mut garbage.objects, kept)
        };
        for (_, reclaim) in ready {
            reclaim();
        }
    }
}

/// Holds reclaim back while it lives.
#[derive(Debug)]
pub struct Guard {
    slot: Option<&'static Slot>,
    /// A guard stays in its thread, whose slot it speaks for.
    thread: PhantomData<*const ()>,
}

/// What is found from here on stays valid while the guard lives. Nests.
#[inline]
pub fn pin() -> Guard {
    let slot = place::own_slot();
    match slot {
        Some(slot) => {
            let guards = slot.guards.load(Ordering::Relaxed);
            // Guards that were forgotten add up; were the count to wrap, an outer guard would protect nothing.
            let Some(more) = guards.checked_add(1) else { too_many_guards() };
            slot.guards.store(more, Ordering::Relaxed);
            if guards == 0 {
                // Release: a writer that sees this pin must also know the thread's earlier guards to be over.
                slot.epoch.store(place::domain().epoch.load(Ordering::Acquire), Ordering::Release);
                barrier::light();
            }
        }
        None => pin_shared(),
    }
    Guard { slot, thread: PhantomData }
}

#[cold]
fn too_many_guards() -> ! {
    panic!("a thread holds 2^32 - 1 guards; guards must be dropped, not forgotten");
}

#[cold]
fn pin_shared() {
    place::domain().shared.fetch_add(1, Ordering::SeqCst);
    fence(Ordering::SeqCst);
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        let Some(slot) = self.slot else {
            place::domain().shared.fetch_sub(1, Ordering::Release);
            return;
        };
        let guards = slot.guards.load(Ordering::Relaxed) - 1;
        slot.guards.store(guards, Ordering::Relaxed);
        if guards == 0 {
            slot.epoch.store(0, Ordering::Release);
        }
    }
}

/// Runs `reclaim` once every guard that is held now is gone: at once, or in a later call of this function or of
/// [`reclaim`], whoever makes it; never in a thread that only pins.
pub fn defer<F: FnOnce() + Send + 'static>(reclaim: F) {
    let domain = place::domain();
    let look = {
        let mut garbage = lock(&domain.garbage);
        let epoch = domain.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        garbage.objects.push((epoch, Box::new(reclaim)));
        garbage.objects.len() >= garbage.next_look
    };
    if look {
        domain.reclaim();
    }
}

/// Runs what was deferred and can no longer be looked at, without waiting for a batch.
pub fn reclaim() {
    place::domain().reclaim();
}

/// The two halves of the barrier between a reader's slot and its loads.
#[cfg(all(target_os = "linux", not(loom)))]
mod barrier {
    use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};
    use std::sync::Once;
    use std::sync::atomic::compiler_fence;

    use super::{AtomicBool, Ordering, fence};

    /// The kernel makes the writer's half do for both. Set before the first slot is taken.
    static ASYMMETRIC: AtomicBool = AtomicBool::new(false);

    /// Asks the kernel once.
    pub(super) fn choose() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let has = membarrier_query().contains(MembarrierQuery::PRIVATE_EXPEDITED);
            let registered = has && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
            ASYMMETRIC.store(registered, Ordering::SeqCst);
            // A writer that still reads `false` makes no membarrier: its fence must then pair with this one, in front of the
            // first pin of this thread, whose own half is the compiler's alone already.
            fence(Ordering::SeqCst);
        });
    }

    #[inline(always)]
    pub(super) fn light() {
        if ASYMMETRIC.load(Ordering::Relaxed) {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    pub(super) fn heavy() {
        fence(Ordering::SeqCst);
        if ASYMMETRIC.load(Ordering::Relaxed) {
            // Registered, so it cannot fail; were it to, nothing may be reclaimed any more.
            assert!(
                membarrier(MembarrierCommand::PrivateExpedited).is_ok(),
                "membarrier(2) was there before"
            );
        }
    }
}

#[cfg(not(all(target_os = "linux", not(loom))))]
mod barrier {
    use super::{Ordering, fence};

    pub(super) fn choose() {}

    pub(super) fn light() {
        fence(Ordering::SeqCst);
    }

    pub(super) fn heavy() {
        fence(Ordering::SeqCst);
    }
}

#[cfg(not(loom))]
mod place {
    use std::cell::Cell;

    use super::*;

    static DOMAIN: Domain = Domain {
        epoch: AtomicU64::new(1),
        slots: [const {
            Slot { epoch: AtomicU64::new(0), guards: AtomicU32::new(0), taken: AtomicBool::new(false) }
        }; SLOTS],
        used: AtomicUsize::new(0),
        shared: AtomicU64::new(0),
        garbage: Mutex::new(Garbage { objects: Vec::new(), next_look: BATCH }),
    };

    /// A thread's slot, given back when the thread ends.
    struct Own(Cell<Option<&'static Slot>>);

    impl Drop for Own {
        fn drop(&mut self) {
            // A guard that outlives this (another thread-local's) keeps the slot: better lost than shared.
            if let Some(slot) = self.0.take()
                && slot.guards.load(Ordering::Relaxed) == 0
            {
                slot.taken.store(false, Ordering::Release);
            }
        }
    }

    thread_local! {
        static OWN: Own = const { Own(Cell::new(None)) };
    }

    #[inline(always)]
    pub(super) fn domain() -> &'static Domain {
        &DOMAIN
    }

    /// `None` if all slots are taken, or the thread is past the end of its life.
    #[inline(always)]
    pub(super) fn own_slot() -> Option<&'static Slot> {
        OWN.try_with(|own| own.0.get().or_else(|| take(own))).ok().flatten()
    }

    #[cold]
    fn take(own: &Own) -> Option<&'static Slot> {
        own.0.set(domain().take_slot());
        own.0.get()
    }
}

#[cfg(loom)]
mod place {
    use std::cell::Cell;

    use super::*;

    loom::lazy_static! {
        static ref DOMAIN: Domain = Domain {
            epoch: AtomicU64::new(1),
            slots: std::array::from_fn(|_| Slot {
                epoch: AtomicU64::new(0),
                guards: AtomicU32::new(0),
                taken: AtomicBool::new(false),
            }),
            used: AtomicUsize::new(0),
            shared: AtomicU64::new(0),
            garbage: Mutex::new(Garbage { objects: Vec::new(), next_look: BATCH }),
        };
    }

    loom::thread_local! {
        static OWN: Cell<Option<&'static Slot>> = Cell::new(None);
    }

    pub(super) fn domain() -> &'static Domain {
        &DOMAIN
    }

    pub(super) fn own_slot() -> Option<&'static Slot> {
        OWN.with(|own| {
            own.set(own.get().or_else(|| domain().take_slot()));
            own.get()
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;

    /// The domain is the process's: the tests below must not see each other's guards.
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

    /// Reclaims until `flag` is up, for `patience` at most: other tests of this process pin for moments, and a
    /// moment is long when their thread has to wait for a core.
    fn ran(flag: &Arc<AtomicBool>, patience: Duration) -> bool {
        let begun = Instant::now();
        loop {
            reclaim();
            if flag.load(Ordering::SeqCst) {
                return true;
            }
            if begun.elapsed() > patience {
                return false;
            }
            std::thread::yield_now();
        }
    }

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(50);

    fn deferred() -> Arc<AtomicBool> {
        let flag = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&flag);
        defer(move || set.store(true, Ordering::SeqCst));
        flag
    }

    #[test]
    fn a_guard_holds_back_what_came_after_it_only() {
        let _alone = lock(&ONE_AT_A_TIME);
        let before = deferred();
        assert!(ran(&before, LONG));
        let (hold, release) = channel::<()>();
        let (held, is_held) = channel();
        let reader = std::thread::spawn(move || {
            let _outer = pin();
            drop(pin());
            held.send(()).expect("the test waits");
            let _ = release.recv();
        });
        is_held.recv().expect("the reader pins");
        let after = deferred();
        assert!(!ran(&after, SHORT), "the reader's inner guard is gone, its outer is not");
        drop(hold);
        reader.join().expect("the reader ends");
        assert!(ran(&after, LONG));
    }

    #[test]
    fn threads_give_their_slots_back() {
        let _alone = lock(&ONE_AT_A_TIME);
        for _ in 0..3 * SLOTS {
            std::thread::spawn(|| drop(pin())).join().expect("the thread ends");
        }
        assert!(place::domain().used.load(Ordering::SeqCst) < SLOTS);
    }
}
