//! Deferred reclaim under every interleaving, both sides fencing.
//!
//! Not covered: membarrier(2) in the place of the reader's fence, which is the kernel's word.
//! Run: RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p listener --release --test loom_epoch
#![cfg(loom)]

use listener::sync::epoch;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

/// Two objects and a link to one of them.
struct World {
    link: AtomicUsize,
    dead: [AtomicBool; 2],
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { link: AtomicUsize::new(0), dead: [AtomicBool::new(false), AtomicBool::new(false)] })
    }

    /// Follows the link under a guard; what it finds lives as long as the guard.
    fn read(&self) {
        let guard = epoch::pin();
        let object = self.link.load(Ordering::Acquire);
        assert!(!self.dead[object].load(Ordering::Relaxed), "object {object} was reclaimed under a guard");
        drop(guard);
    }

    /// Links object 1 and reclaims object 0.
    fn write(this: &Arc<Self>) {
        this.link.store(1, Ordering::Release);
        let world = Arc::clone(this);
        epoch::defer(move || world.dead[0].store(true, Ordering::Relaxed));
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
        epoch::reclaim();
        assert!(world.dead[0].load(Ordering::Relaxed), "nobody is left to wait for");
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
    });
}
