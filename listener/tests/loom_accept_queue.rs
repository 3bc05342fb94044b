//! The accept queue under every interleaving: workers push children, the control side takes or closes.
//!
//! Not covered: more than two workers, slots that are used again while the queue holds them (a held child keeps its
//! slot; `core/tests/random.rs` shows that), the crossbeam ring of commands.
//! Run: RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 cargo test -p hearken-listener --release --test loom_accept_queue
#![cfg(loom)]

use listener::conn_shared::{ChildNode, ChildRecord, CoreShared};
use listener::listen_sock::{ListenParams, ListenSocks, Refused};
use listener::segment::FlowKey;
use listener::sync::Arc;
use listener::types::{Backlog, CoreId, DevIndex, ListenerRef, TcpPort, TcpState};
use loom::thread;

struct Stage {
    socks: Arc<ListenSocks>,
    cores: [Arc<CoreShared>; 2],
    listener: ListenerRef,
}

fn stage(backlog: u32) -> Stage {
    let socks = Arc::new(ListenSocks::new(1));
    let id = socks.alloc().expect("room");
    let params = ListenParams { backlog: Backlog(backlog), ..ListenParams::default() };
    let listener = socks.get(id).expect("just made").open(id, &params);
    let core = |core| Arc::new(CoreShared::new(CoreId(core), 2));
    Stage { socks, cores: [core(0), core(1)], listener }
}

/// What a worker does when a handshake ends.
fn child(socks: &ListenSocks, shared: &CoreShared, listener: ListenerRef, index: u32) -> Result<(), Refused> {
    let slot = socks.get(listener.id).expect("never freed");
    slot.acceptq_reserve(listener.generation)?;
    let record = ChildRecord {
        flow: FlowKey { sport: TcpPort(index as u16), dport: TcpPort(80), ..FlowKey::default() },
        dev: DevIndex::NONE,
        state: TcpState::Established,
        reuse: false,
        reuseport: false,
        v6_family: false,
        uid: 0,
    };
    shared.publish(index, &record);
    slot.acceptq_add(listener.generation, ChildNode::new(shared.core(), index), shared.accept_next(index))
}

fn worker(stage: &Stage, core: usize, children: u32) -> thread::JoinHandle<Vec<Result<(), Refused>>> {
    let (socks, shared) = (Arc::clone(&stage.socks), Arc::clone(&stage.cores[core]));
    let listener = stage.listener;
    thread::spawn(move || (0..children).map(|index| child(&socks, &shared, listener, index)).collect())
}

/// All children come out, once, each worker's in its order, and whole: the record is there when the child is.
#[test]
fn nothing_is_lost_or_doubled() {
    loom::model(|| {
        let stage = stage(8);
        let workers = [worker(&stage, 0, 2), worker(&stage, 1, 1)];
        let slot = stage.socks.get(stage.listener.id).expect("never freed");
        let mut taken = Vec::new();
        let take = |taken: &mut Vec<_>| {
            slot.acceptq_take(&stage.cores, |child| {
                let info =
                    stage.cores[usize::from(child.core.0)].child(child).expect("a queued child is whole");
                assert_eq!(info.flow.sport, TcpPort(child.index as u16));
                slot.acceptq_release(stage.listener.generation);
                taken.push((child.core.0, child.index));
            });
        };
        // Without it the model starts no worker before the main thread waits for one.
        thread::yield_now();
        take(&mut taken);
        for worker in workers {
            assert!(worker.join().expect("no panic").iter().all(Result::is_ok));
        }
        take(&mut taken);
        let of =
            |core| taken.iter().filter(move |child| child.0 == core).map(|child| child.1).collect::<Vec<_>>();
        assert_eq!((of(0), of(1)), (vec![0, 1], vec![0]));
        assert_eq!(slot.ack_backlog(), 0);
    });
}

/// A child that races with close is drained by it or refused, never neither nor both; the next listener in the slot
/// starts empty.
#[test]
fn close_drains_or_refuses() {
    loom::model(|| {
        let stage = stage(8);
        let workers = [worker(&stage, 0, 1), worker(&stage, 1, 1)];
        let slot = stage.socks.get(stage.listener.id).expect("never freed");
        let mut drained = Vec::new();
        thread::yield_now();
        slot.close(&stage.cores, |child| drained.push(child.core.0));
        let next = slot.open(stage.listener.id, &ListenParams::default());
        for (core, worker) in (0..).zip(workers) {
            let queued = worker.join().expect("no panic")[0] == Ok(());
            assert_eq!(drained.contains(&core), queued);
        }
        slot.acceptq_take(&stage.cores, |_| panic!("an old child in the new queue"));
        assert_eq!(slot.ack_backlog(), 0);
        assert!(slot.is_listening(next.generation));
    });
}

/// Backlog 0 holds one child, however many workers try.
#[test]
fn the_limit_holds_between_workers() {
    loom::model(|| {
        let stage = stage(0);
        let workers = [worker(&stage, 0, 1), worker(&stage, 1, 1)];
        let mut queued = 0;
        for worker in workers {
            queued += worker.join().expect("no panic").iter().filter(|result| result.is_ok()).count();
        }
        let slot = stage.socks.get(stage.listener.id).expect("never freed");
        assert_eq!((queued, slot.ack_backlog()), (1, 1));
    });
}
