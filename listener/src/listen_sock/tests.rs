use super::*;
use crate::conn_shared::ChildRecord;
use crate::segment::FlowKey;
use crate::types::{CoreId, TcpState};

fn params(backlog: u32) -> ListenParams {
    ListenParams { backlog: Backlog(backlog), uid: 7, tos: 0x10, ..ListenParams::default() }
}

fn child(shared: &CoreShared, index: u32) {
    let record = ChildRecord {
        flow: FlowKey::default(),
        dev: DevIndex::NONE,
        state: TcpState::Established,
        reuse: false,
        reuseport: false,
        v6_family: false,
        uid: 0,
    };
    shared.publish(index, &record);
}

#[test]
fn slots_grow_run_out_and_come_back() {
    let socks = ListenSocks::new(1030);
    let ids: Vec<_> = (0..1030).map(|_| socks.alloc().expect("room")).collect();
    assert_eq!(socks.alloc(), None);
    assert!(socks.get(ids[1029]).is_some());
    assert!(socks.get(ListenerId(1 << 20)).is_none());
    for id in [ids[3], ids[1]] {
        socks.retire();
        socks.free(id);
    }
    assert_eq!(socks.alloc(), Some(ids[3]), "freed slots come back in the order they went");
    assert_eq!(socks.alloc(), Some(ids[1]));
    assert_eq!(socks.alloc(), None);
    socks.retire();
    let other =
        socks.alloc().expect("a closed listener whose slot readers hold back leaves room for another");
    assert!(!ids.contains(&other));
}

#[test]
fn a_reference_does_not_outlive_its_listener() {
    let socks = ListenSocks::new(4);
    let id = socks.alloc().expect("room");
    let slot = socks.get(id).expect("just made");
    assert!(!slot.is_listening(slot.generation()), "a fresh slot does not listen");
    let first = slot.open(id, &params(4));
    assert!(socks.listening(first).is_some());
    slot.close(&[], |_| panic!("no children"));
    assert!(socks.listening(first).is_none());
    let second = slot.open(id, &params(4));
    assert!(socks.listening(first).is_none());
    assert!(socks.listening(second).is_some());
    assert_eq!((slot.uid(), slot.tos(), slot.max_ack_backlog()), (7, 0x10, 4));
}

#[test]
fn both_queue_tests_are_strict() {
    let slot = ListenSock::new(0);
    let listener = slot.open(ListenerId(0), &params(2));
    let generation = listener.generation;
    for _ in 0..3 {
        assert!(!slot.acceptq_is_full());
        assert_eq!(slot.acceptq_reserve(generation), Ok(()));
        assert_eq!(slot.reqsk_queue_added(generation, 1), Ok(1));
    }
    assert!(slot.acceptq_is_full());
    assert_eq!(slot.acceptq_reserve(generation), Err(Refused::Full));
    assert_eq!(slot.reqsk_queue_added(generation, 1), Err(Refused::Full));
    assert_eq!((slot.qlen(), slot.young(), slot.ack_backlog()), (3, 3, 3));
    slot.reqsk_queue_aged(generation);
    slot.reqsk_queue_removed_old(generation);
    slot.reqsk_queue_removed(generation, 1);
    assert_eq!((slot.qlen(), slot.young()), (1, 1));
    slot.acceptq_release(generation);
    assert_eq!(slot.ack_backlog(), 2);
}

#[test]
fn late_workers_do_not_touch_the_next_listener() {
    let slot = ListenSock::new(0);
    let old = slot.open(ListenerId(0), &params(8)).generation;
    slot.reqsk_queue_added(old, 1).expect("room");
    slot.acceptq_reserve(old).expect("room");
    slot.close(&[], |_| panic!("nothing was queued"));
    let new = slot.open(ListenerId(0), &params(8)).generation;
    slot.reqsk_queue_removed(old, 1);
    slot.acceptq_release(old);
    assert_eq!(slot.reqsk_queue_added(old, 1), Err(Refused::Gone));
    assert_eq!(slot.acceptq_reserve(old), Err(Refused::Gone));
    assert_eq!(slot.acceptq_add(old, ChildNode(1), &AtomicU32::new(0)), Err(Refused::Gone));
    assert_eq!((slot.qlen(), slot.young(), slot.ack_backlog()), (0, 0, 0));
    assert_ne!(old, new);
}

#[test]
fn children_come_out_in_order_of_arrival() {
    let cores = [Arc::new(CoreShared::new(CoreId(0), 8)), Arc::new(CoreShared::new(CoreId(1), 8))];
    let slot = ListenSock::new(0);
    let generation = slot.open(ListenerId(0), &params(8)).generation;
    let arrivals = [(0, 3), (1, 3), (0, 0), (1, 7)];
    for (core, index) in arrivals {
        let shared = &cores[core];
        child(shared, index);
        slot.acceptq_reserve(generation).expect("room");
        slot.acceptq_add(generation, ChildNode::new(shared.core(), index), shared.accept_next(index))
            .expect("open");
    }
    let mut taken = Vec::new();
    slot.acceptq_take(&cores, |child| taken.push((usize::from(child.core.0), child.index)));
    assert_eq!(taken, arrivals);
    slot.acceptq_take(&cores, |_| panic!("the queue is empty now"));
    assert_eq!(slot.ack_backlog(), 4, "taken off the stack is not accepted yet");

    slot.acceptq_add(generation, ChildNode::new(CoreId(1), 2), cores[1].accept_next(2)).expect("open");
    let mut rest = Vec::new();
    slot.close(&cores, |child| rest.push(child.index));
    assert_eq!(rest, [2]);
}

#[test]
fn cookies_are_remembered_for_their_time() {
    let slot = ListenSock::new(0);
    slot.open(ListenerId(0), &params(8));
    let valid = Nanos::from_secs(120).0;
    assert!(slot.synq_no_recent_overflow(Nanos(5), valid));
    slot.synq_overflow(Nanos(0));
    assert!(!slot.synq_no_recent_overflow(Nanos(0), valid));
    assert!(!slot.synq_no_recent_overflow(Nanos::from_secs(120), valid));
    assert!(slot.synq_no_recent_overflow(Nanos::from_secs(121), valid));
    slot.synq_overflow(Nanos::from_secs(121));
    assert!(!slot.synq_no_recent_overflow(Nanos::from_secs(240), valid));
}
