use super::*;
use std::sync::atomic::AtomicBool;

fn record(last: u32, dport: u16) -> ChildRecord {
    ChildRecord {
        flow: FlowKey {
            saddr: InetAddr::v4(0xc612_0000 | last),
            daddr: InetAddr::v4(0xc613_0000 | last),
            sport: TcpPort(last as u16),
            dport: TcpPort(dport),
        },
        dev: DevIndex(last as u16),
        state: TcpState::Established,
        reuse: true,
        reuseport: false,
        v6_family: true,
        uid: last,
    }
}

fn owners(shared: &CoreShared, port: u16) -> Vec<u32> {
    let mut uids = Vec::new();
    shared.owners_of_port(TcpPort(port), |owner| uids.push(owner.uid));
    uids
}

#[test]
fn a_record_tells_what_was_written() {
    let shared = CoreShared::new(CoreId(3), 4);
    let generation = shared.publish(2, &record(9, 80));
    let child = ChildRef { core: CoreId(3), index: 2, generation };
    assert_eq!(shared.child_ref(2), child);
    let info = shared.child(child).expect("in use");
    assert_eq!(info.flow, record(9, 80).flow);
    assert_eq!((info.state, info.error), (TcpState::Established, None));
    shared.owners_of_port(TcpPort(80), |owner| {
        let expected = PortOwner {
            child,
            addr: InetAddr::v4(0xc613_0009),
            dev: DevIndex(9),
            reuse: true,
            reuseport: false,
            v6_family: true,
            time_wait: false,
            uid: 9,
        };
        assert_eq!(owner, expected);
    });
    shared.set_state(2, TcpState::TimeWait, None);
    shared.owners_of_port(TcpPort(80), |owner| assert!(owner.time_wait));
    shared.retire(2);
    assert_eq!(shared.child(child), None);
    shared.publish(2, &record(1, 80));
    assert_eq!(shared.child(child), None, "the slot's next child is another one");
}

#[test]
fn ports_are_held_by_the_living_only() {
    let shared = CoreShared::new(CoreId(0), 4);
    for (index, port) in [(0, 80), (1, 80), (3, 443)] {
        shared.publish(index, &record(index + 1, port));
    }
    assert_eq!(owners(&shared, 80), [1, 2]);
    assert_eq!(owners(&shared, 443), [4]);
    shared.set_state(0, TcpState::Close, Some(Errno::EPIPE));
    assert_eq!(owners(&shared, 80), [2], "a reset child keeps its slot, not its port");
    assert_eq!(shared.children_on_port(TcpPort(80)), 1);
    assert_eq!(shared.child(shared.child_ref(0)).expect("still there").error, Some(Errno::EPIPE));
    shared.retire(0);
    shared.retire(1);
    shared.retire(3);
    assert_eq!([shared.children_on_port(TcpPort(80)), shared.children_on_port(TcpPort(443))], [0, 0]);
}

#[test]
fn a_full_ring_gives_the_command_back() {
    let shared = CoreShared::new(CoreId(0), 1);
    let command = |index| Command::Release(ChildRef { core: CoreId(0), index, generation: 1 });
    for index in 0..COMMANDS as u32 {
        assert_eq!(shared.push(command(index)), Ok(()));
    }
    assert_eq!(shared.push(command(7)), Err(command(7)));
    assert_eq!(shared.pop(), Some(command(0)));
    assert_eq!(shared.push(command(7)), Ok(()));
}

#[test]
fn nodes_name_core_and_slot() {
    let cores = [Arc::new(CoreShared::new(CoreId(0), 1)), Arc::new(CoreShared::new(CoreId(1), 1))];
    let node = ChildNode::new(CoreId(1), 0xff_fffe);
    let (shared, index) = node.locate(&cores).expect("a core");
    assert_eq!((shared.core(), index), (CoreId(1), 0xff_fffe));
    assert!(ChildNode::NIL.locate(&cores).is_none());
}

/// A reader beside a core that uses one slot again and again never sees a mixture of two children.
#[test]
fn a_reader_never_mixes_two_children() {
    let shared = CoreShared::new(CoreId(0), 1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for last in 1..50_000 {
                shared.publish(0, &record(last & 0x7fff | 1, 80));
                shared.retire(0);
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            shared.owners_of_port(TcpPort(80), |owner| {
                assert_eq!(owner.addr, InetAddr::v4(0xc613_0000 | owner.uid));
                assert_eq!(u32::from(owner.dev.0), owner.uid);
            });
        }
    });
}
