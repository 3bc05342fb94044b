//! Knobs that change and SYNs that are no longer taken, on one core and through a whole stack.

use super::*;
use crate::api::Stack;
use crate::live::InUse;
use crate::sockaddr::{Caller, Family, SockAddr};
use crate::types::SockFd;

/// A stack with one core and the device of [`local`].
pub fn stack_with(sysctl: Sysctl, limits: Limits) -> (Stack, Core) {
    let device = Device {
        name: "wire0".into(),
        index: DEV,
        addresses: vec![(local(), 24)],
        any_ip: Vec::new(),
        mtu: 1500,
    };
    let secret = Secret::from_seed(7);
    let config = StackConfig { sysctl, devices: vec![device], cores: 1, limits, secret };
    let (stack, mut cores) = Stack::new(config).expect("a good configuration");
    (stack, cores.remove(0))
}

/// Opens a listener on [`local`].
pub fn listen_on(stack: &Stack, port: u16, backlog: i32, then: Then) -> SockFd {
    let fd = stack.socket(Family::Inet, 0).expect("room");
    let addr = SockAddr::from(std::net::SocketAddr::from(([198, 18, 0, 1], port)));
    stack.bind(fd, addr, Caller::ROOT).expect("a free port");
    stack.set_then(fd, then).expect("a socket");
    stack.listen(fd, backlog).expect("a bound socket");
    fd
}

/// The same with a listener on port 80.
fn stack() -> (Stack, Core) {
    let (stack, core) = stack_with(Sysctl::default(), Limits::TINY);
    listen_on(&stack, 80, 8, Then::Queue);
    (stack, core)
}

fn rcv(core: &mut Core, seg: Segment) -> Verdict {
    let mut found = [Found::default()];
    core.lookup_burst(&[seg], 1, &mut found);
    core.rcv(&seg, found[0], Nanos::from_secs(1000))
}

fn reply(verdict: Verdict) -> OutSegment {
    match verdict {
        Verdict::Reply(_, segment) => segment,
        other => panic!("an answer was due, not {other:?}"),
    }
}

fn tick(core: &mut Core) {
    core.tick(Nanos::from_secs(1000), 8, |_| true);
}

#[test]
fn knobs_change_at_the_next_tick_and_keep_what_has_begun() {
    let (stack, mut core) = stack();
    let first = reply(rcv(&mut core, syn_full(1, 7)));
    assert!(first.options.timestamps.is_some());
    let before = stack.set_sysctl(Sysctl { tcp_timestamps: 0, somaxconn: 5, ..Sysctl::default() });
    assert_eq!((before.somaxconn, stack.sysctl().somaxconn), (4096, 5));
    assert!(reply(rcv(&mut core, syn_full(2, 7))).options.timestamps.is_some(), "the core was not told");
    stack.tell_cores(1);
    assert!(reply(rcv(&mut core, syn_full(3, 7))).options.timestamps.is_some(), "no tick has passed");
    tick(&mut core);
    assert_eq!(reply(rcv(&mut core, syn_full(4, 7))).options.timestamps, None);
    assert_eq!(rcv(&mut core, ack_of(1, &first)), Verdict::Consume(Outcome::Accept));
    // One RST a second.
    let stray = |sport| Segment { flow: FlowKey { dport: TcpPort(81), ..flow(sport) }, ..syn(sport) };
    reply(rcv(&mut core, stray(9)));
    assert_eq!(rcv(&mut core, stray(10)), Verdict::Drop(DropReason::RstLimit));
    // Twice without a tick: the last one counts.
    stack.tell_cores(0);
    stack.set_sysctl(Sysctl::default());
    stack.tell_cores(0);
    tick(&mut core);
    reply(rcv(&mut core, stray(10)));
    assert!(reply(rcv(&mut core, syn_full(5, 7))).options.timestamps.is_some());
}

#[test]
fn a_stack_that_drains_takes_no_syn_and_ends_what_has_begun() {
    let (stack, mut core) = stack();
    let first = reply(rcv(&mut core, syn(1)));
    reply(rcv(&mut core, syn(2)));
    stack.drain();
    assert_eq!(stack.in_use(), None, "the core does not know yet");
    tick(&mut core);
    assert_eq!(stack.in_use(), Some(InUse { requests: 2, connections: 0 }));
    assert_eq!(rcv(&mut core, syn(3)), Verdict::Drop(DropReason::Draining));
    assert_eq!(rcv(&mut core, ack_of(1, &first)), Verdict::Consume(Outcome::Accept));
    assert_eq!(rcv(&mut core, flags(syn(2), RST)), Verdict::Drop(DropReason::ReqOutOfWindow));
    rcv(&mut core, Segment { seq: IRS.plus(1), ..flags(syn(2), RST) });
    tick(&mut core);
    assert_eq!(stack.in_use(), Some(InUse { requests: 0, connections: 1 }));
}

#[test]
fn segments_are_counted_by_listener_while_somebody_watches() {
    let (stack, mut core) = stack();
    let other = listen_on(&stack, 81, 8, Then::Queue);
    let ids = [SockFd(0), other].map(|fd| stack.listener_id(fd).expect("it listens"));
    let at = |sport, port| Segment { flow: FlowKey { dport: TcpPort(port), ..flow(sport) }, ..syn(sport) };
    rcv(&mut core, at(1, 80));
    let mut before = Vec::new();
    assert_eq!(stack.busiest(&mut before, 9), []);
    stack.watch_listeners(true);
    for sport in 2..5 {
        rcv(&mut core, at(sport, 81));
    }
    rcv(&mut core, at(5, 80));
    rcv(&mut core, at(5, 82));
    assert_eq!(stack.busiest(&mut before, 9), [(ids[1], 3), (ids[0], 1)]);
    assert_eq!(stack.busiest(&mut before, 9), []);
    rcv(&mut core, at(6, 81));
    rcv(&mut core, at(7, 80));
    assert_eq!(stack.busiest(&mut before, 1), [(ids[0], 1)]);
    stack.watch_listeners(false);
    rcv(&mut core, at(8, 80));
    assert_eq!(stack.busiest(&mut before, 9), []);
}
