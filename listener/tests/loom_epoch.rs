//! Deferred reclaim under every interleaving, both sides fencing.
//!
//! Not covered: membarrier(2) in the place of the reader's fence, which is the kernel's word.
//! Run: RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p hearken-listener --release --test loom_epoch
#![cfg(loom)]

use listener::sync::epoch;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

/// Two objects and a link to one of them. The objects are plain memory, so loom sees any access that is not ordered.
struct World {
    link: AtomicUsize,
    alive: [UnsafeCell<bool>; 2],
    reclaimed: AtomicUsize,
}

// SAFETY: what the tests are about; loom watches every access.
unsafe impl Sync for World {}
// SAFETY: as above.
unsafe impl Send for World {}

impl World {
    fn new() -> Arc<Self> {
        let alive = [UnsafeCell::new(true), UnsafeCell::new(true)];
        Arc::new(Self { link: AtomicUsize::new(0), alive, reclaimed: AtomicUsize::new(0) })
    }

    /// Follows the link under a guard; what it finds lives as long as the guard.
    fn read(&self) {
        let guard = epoch::pin();
        let object = self.link.load(Ordering::Acquire);
        // SAFETY: race: the guard's promise, which loom checks.
        let alive = self.alive[object].with(|alive| unsafe { *alive });
        assert!(alive, "object {object} was reclaimed under a guard");
        drop(guard);
    }

    /// With every guard gone, what was deferred is reclaimed.
    fn nobody_is_left(&self) {
        epoch::reclaim();
        assert!(self.reclaimed.load(Ordering::Relaxed) == 1, "nobody is left to wait for");
    }

    /// Links object 1 and reclaims object 0.
    fn write(this: &Arc<Self>) {
        this.link.store(1, Ordering::Release);
        let world = Arc::clone(this);
        epoch::defer(move || {
            // SAFETY: race: no guard is left under which somebody found it, which loom checks.
            world.alive[0].with_mut(|alive| unsafe { *alive = false });
            world.reclaimed.store(1, Ordering::Relaxed);
        });
    }
}

#[test]
fn nothing_is_reclaimed_under_a_guard() {
    loom::model(|| {
        let world = World::new();
        let reader = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                world.read();
                world.read();
            }
        });
        World::write(&world);
        reader.join().expect("the reader does not panic");
        world.nobody_is_left();
    });
}

#[test]
fn two_readers_are_waited_for() {
    loom::model(|| {
        let world = World::new();
        let readers = [0, 1].map(|_| {
            let world = Arc::clone(&world);
            thread::spawn(move || world.read())
        });
        World::write(&world);
        for reader in readers {
            reader.join().expect("the reader does not panic");
        }
        world.nobody_is_left();
    });
}

/// A reader, an unlinker and a reclaimer: what the reclaimer saw of the slots says nothing about an object that was deferred after
/// it looked.
#[test]
fn a_look_at_the_slots_is_no_leave_for_what_is_deferred_after_it() {
    loom::model(|| {
        let world = World::new();
        let reader = thread::spawn({
            let world = Arc::clone(&world);
            move || world.read()
        });
        let unlinker = thread::spawn({
            let world = Arc::clone(&world);
            move || World::write(&world)
        });
        epoch::reclaim();
        reader.join().expect("the reader does not panic");
        unlinker.join().expect("the unlinker does not panic");
        world.nobody_is_left();
    });
}

#[test]
fn two_writers_reclaim_each_others_garbage() {
    loom::model(|| {
        let world = World::new();
        let writer = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                world.read();
                epoch::reclaim();
            }
        });
        World::write(&world);
        epoch::reclaim();
        writer.join().expect("the writer does not panic");
        world.nobody_is_left();
    });
}
