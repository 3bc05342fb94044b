//! A listener's SYN queue that two cores take places of, some at a time, under every interleaving.
//!
//! Two cores and a control thread that closes are explored with two preemptions instead of three.
//! Not covered: more than two cores, more listeners than one, queues of real size (here four places, in batches of two).
//! Run: RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p hearken-listener --release --test loom_credits
#![cfg(loom)]

use listener::listen_sock::{CREDIT_IDLE, Credits, ListenParams, ListenSocks, Refused};
use listener::sync::{Arc, AtomicU32, Ordering};
use listener::types::{Backlog, ListenerRef, Nanos};
use loom::thread;

const PLACES: u32 = 4;

struct Stage {
    socks: ListenSocks,
    listener: ListenerRef,
    /// Requests that there are, counted beside.
    requests: AtomicU32,
}

fn stage() -> Arc<Stage> {
    let socks = ListenSocks::new(1);
    let id = socks.alloc().expect("room");
    let params = ListenParams { backlog: Backlog(PLACES - 1), ..ListenParams::default() };
    let listener = socks.get(id).expect("just made").open(id, &params);
    Arc::new(Stage { socks, listener, requests: AtomicU32::new(0) })
}

impl Stage {
    /// One SYN more; false if there is no place.
    fn take(&self, credits: &mut Credits) -> bool {
        let slot = self.socks.get(self.listener.id).expect("never freed");
        let taken = credits.take(&self.socks, slot, self.listener, Nanos(0)).is_ok();
        if taken {
            let before = self.requests.fetch_add(1, Ordering::Relaxed);
            assert!(before < PLACES, "over the limit");
        }
        taken
    }

    fn give(&self, credits: &mut Credits) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
        let slot = self.socks.get(self.listener.id).expect("never freed");
        credits.give(&self.socks, slot, self.listener, Nanos(0));
    }

    /// Time passes, and nothing comes.
    fn idle(&self, credits: &mut Credits) {
        for _ in 0..2 {
            credits.sweep(&self.socks, CREDIT_IDLE);
            credits.sweep(&self.socks, CREDIT_IDLE + CREDIT_IDLE);
        }
    }
}

/// Whatever they take and give, there are never more than the queue has places; and once both have been idle, the count is
/// that of the requests, so that either may have all the rest.
#[test]
fn never_over_the_limit_and_all_comes_back() {
    loom::model(|| {
        let stage = stage();
        let other = {
            let stage = Arc::clone(&stage);
            thread::spawn(move || {
                let mut credits = Credits::new(2);
                let taken = (0..2).filter(|_| stage.take(&mut credits)).count() as u32;
                if taken > 0 {
                    stage.give(&mut credits);
                }
                stage.idle(&mut credits);
                taken.saturating_sub(1)
            })
        };
        let mut credits = Credits::new(2);
        let mut mine = (0..3).filter(|_| stage.take(&mut credits)).count() as u32;
        assert!(mine >= 1, "the other cannot have all in hand");
        stage.idle(&mut credits);
        let theirs = other.join().expect("the other core does not panic");
        let slot = stage.socks.get(stage.listener.id).expect("never freed");
        assert_eq!((slot.qlen(), slot.young()), (mine + theirs, mine + theirs));
        while stage.take(&mut credits) {
            mine += 1;
        }
        assert_eq!(mine + theirs, PLACES, "to the last place");
    });
}

/// A listener that closes meanwhile takes all its places with it.
#[test]
fn a_closed_listener_leaves_nothing_behind() {
    loom::model(|| {
        let stage = stage();
        let worker = {
            let stage = Arc::clone(&stage);
            thread::spawn(move || {
                let mut credits = Credits::new(2);
                let slot = stage.socks.get(stage.listener.id).expect("never freed");
                let taken = credits.take(&stage.socks, slot, stage.listener, Nanos(0));
                assert!(matches!(taken, Ok(()) | Err(Refused::Gone)));
                if taken.is_ok() {
                    credits.give(&stage.socks, slot, stage.listener, Nanos(0));
                }
                stage.idle(&mut credits);
            })
        };
        let slot = stage.socks.get(stage.listener.id).expect("never freed");
        slot.close(&[], |_| panic!("no children"));
        let params = ListenParams { backlog: Backlog(PLACES - 1), ..ListenParams::default() };
        slot.open(stage.listener.id, &params);
        worker.join().expect("the worker does not panic");
        assert_eq!((slot.qlen(), slot.young()), (0, 0));
    });
}

/// Two cores take and give while the listener closes and opens anew: nothing of the old one counts for the new one.
#[test]
fn two_cores_and_a_listener_that_closes() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let stage = stage();
        let workers = [0, 1].map(|_| {
            let stage = Arc::clone(&stage);
            thread::spawn(move || {
                let mut credits = Credits::new(2);
                let slot = stage.socks.get(stage.listener.id).expect("never freed");
                let taken = credits.take(&stage.socks, slot, stage.listener, Nanos(0));
                assert!(matches!(taken, Ok(()) | Err(Refused::Gone)), "four places for two: {taken:?}");
                if taken.is_ok() {
                    credits.give(&stage.socks, slot, stage.listener, Nanos(0));
                }
                stage.idle(&mut credits);
            })
        });
        let slot = stage.socks.get(stage.listener.id).expect("never freed");
        slot.close(&[], |_| panic!("no children"));
        let params = ListenParams { backlog: Backlog(PLACES - 1), ..ListenParams::default() };
        slot.open(stage.listener.id, &params);
        for worker in workers {
            worker.join().expect("no worker panics");
        }
        assert_eq!((slot.qlen(), slot.young()), (0, 0));
    });
}
