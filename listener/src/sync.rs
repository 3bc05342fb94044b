//! The one place where this crate chooses between std and loom.
//!
//! With `--cfg loom` the atomics, locks and cells below are loom's, so that `tests/loom_*.rs` run the code that
//! ships, under every interleaving that the memory model allows. Everything shared between threads in this crate
//! takes its primitives from here.
//!
//! # Reclaim
//! [`epoch`] is crossbeam's: memory that a reader may still look at is given back after every guard that was held
//! at that moment is gone. loom cannot see into crossbeam, so under loom a small model stands in for it that keeps
//! the same promise and no other: what is deferred runs once no guard is held.

#[cfg(not(loom))]
pub use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    },
};

#[cfg(loom)]
pub use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    },
};

#[cfg(loom)]
pub use loom::cell::UnsafeCell;

/// `std::cell::UnsafeCell` with loom's way of access, so that loom can watch every one.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    /// A cell that holds `value`.
    pub const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Calls `f` with a pointer for reading.
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// Calls `f` with a pointer for writing.
    #[inline]
    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Locks `mutex`; a writer that panicked does not take the others down with it.
///
/// What the locks of this crate guard is changed by single stores that are each valid on their own, so there is no
/// half-made state that poisoning would have to fence off.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Deferred reclaim, see the module's head.
#[cfg(not(loom))]
pub mod epoch {
    pub use crossbeam::epoch::{Guard, pin};

    /// Runs `reclaim` once every guard that is held now is gone; in which thread is not said.
    pub fn defer<F: FnOnce() + Send + 'static>(guard: &Guard, reclaim: F) {
        guard.defer(reclaim);
        // A control thread may close one listener and then sleep for a day: without this its garbage would
        // wait in a thread-local bag for 63 more.
        guard.flush();
    }
}

/// Deferred reclaim, see the module's head.
#[cfg(loom)]
pub mod epoch {
    use super::{Mutex, lock};

    type Reclaim = Box<dyn FnOnce() + Send>;

    struct State {
        guards: usize,
        garbage: Vec<Reclaim>,
    }

    loom::lazy_static! {
        static ref STATE: Mutex<State> = Mutex::new(State { guards: 0, garbage: Vec::new() });
    }

    /// Stands for crossbeam's guard.
    pub struct Guard(());

    /// Stands for crossbeam's `pin`.
    pub fn pin() -> Guard {
        lock(&STATE).guards += 1;
        Guard(())
    }

    /// Runs `reclaim` once no guard is held.
    pub fn defer<F: FnOnce() + Send + 'static>(_guard: &Guard, reclaim: F) {
        lock(&STATE).garbage.push(Box::new(reclaim));
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            let ready = {
                let mut state = lock(&STATE);
                state.guards -= 1;
                if state.guards == 0 { std::mem::take(&mut state.garbage) } else { Vec::new() }
            };
            for reclaim in ready {
                reclaim();
            }
        }
    }
}
