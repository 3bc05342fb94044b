//! Listeners that close while handshakes are on their way, and children of listeners of each kind.

use super::*;
use crate::types::TcpState;

#[test]
fn half_open_handshakes_die_at_their_next_segment() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let synack = world.reply(syn(4000));
    assert_eq!(world.unlisten(listener), []);
    assert_eq!(world.core.in_use(), (1, 0), "close does not walk them");
    let rst = world.reply(ack_of(4000, &synack));
    assert_eq!((rst.flags, rst.seq), (RST, synack.seq.plus(1)));
    assert_eq!(world.core.in_use(), (0, 0));
}

#[test]
fn a_client_that_retransmits_its_syn_is_refused() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    world.reply(syn(4000));
    world.unlisten(listener);
    let rst = world.reply(syn(4000));
    assert_eq!((rst.flags, rst.ack), (RST | ACK, SegSeq(1001)));
}

#[test]
fn half_open_handshakes_die_at_their_timer() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    world.reply(syn(4000));
    world.unlisten(listener);
    assert_eq!(world.pass(Nanos::from_secs(1)), [], "no SYN-ACK goes out");
    assert_eq!(world.core.in_use(), (0, 0));
}

#[test]
fn a_new_listener_on_the_port_takes_over() {
    let mut world = World::new();
    let old = world.listen_backlog(4, Then::Queue);
    let synack = world.reply(syn(4000));
    world.unlisten(old);
    let new = world.listen_backlog(4, Then::Queue);
    world.reply(syn(4001));
    assert_eq!(world.reply(ack_of(4000, &synack)).flags, RST, "an ACK of the old one means nothing to it");
    world.reply(syn(4000));
    assert_eq!(world.slot(new.id).qlen(), 2);
}

/// Found for a burst, closed before the segment's turn.
#[test]
fn a_listener_may_close_within_a_burst() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let mut found = [Found::default()];
    world.core.lookup_burst(&[syn(4000)], 1, &mut found);
    assert_eq!(found[0].listener(), Some(listener));
    world.unlisten(listener);
    let verdict = world.core.rcv(&syn(4000), found[0], world.now);
    assert!(matches!(verdict, Verdict::Reply(Outcome::Rst, _)), "{verdict:?}");
    assert_eq!(world.core.in_use(), (0, 0));
}

#[test]
fn queued_children_are_reset_by_command() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let synack = world.connect(4000);
    world.connect(4001);
    let accepted = world.accept_all(listener);
    world.connect(4002);
    let queued = world.unlisten(listener);
    assert_eq!(queued.len(), 1);
    world.shared.push(Command::Reset(queued[0])).expect("room");
    let sent = world.tick();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].flags, sent[0].ack, sent[0].wnd), (RST | ACK, SegSeq(1001), 64_240));
    assert_eq!(world.core.in_use(), (0, 2), "accepted children live on");
    assert_eq!(world.shared.children_on_port(TcpPort(80)), 2);
    assert_eq!(world.count(Mib::EstabResets), 1);
    world.reply(data(ack_of(4000, &synack), 1));
    world.shared.push(Command::Reset(queued[0])).expect("room");
    assert_eq!(world.tick(), [], "the slot is another's now");
    assert_eq!(accepted.len(), 2);
}

#[test]
fn commands_wait_for_room_to_send() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    world.connect(4000);
    world.connect(4001);
    let children = world.accept_all(listener);
    world.shared.push(Command::Reset(children[0])).expect("room");
    world.shared.push(Command::Release(children[1])).expect("room");
    for _ in 0..3 {
        world.core.tick(world.now, 10, |_| false);
    }
    assert_eq!(world.core.in_use(), (0, 2));
    let sent: Vec<_> = world.tick().iter().map(|out| out.flags).collect();
    assert_eq!(sent, [RST | ACK, FIN | ACK]);
    assert_eq!(world.count(Mib::OutRsts), 1);
}

#[test]
fn a_listener_that_resets() {
    let mut world = World::new();
    let listener = world.listen_backlog(0, Then::Reset);
    for port in 4000..4003 {
        let synack = world.reply(syn(port));
        let expected = OutSegment {
            flags: RST | ACK,
            wnd: 64_240,
            seq: synack.seq.plus(1),
            ack: SegSeq(1001),
            ..OutSegment::default()
        };
        assert_eq!(world.rcv(ack_of(port, &synack)), Verdict::Reply(Outcome::Accept, expected));
    }
    assert_eq!(world.core.in_use(), (0, 0));
    assert_eq!(world.slot(listener.id).ack_backlog(), 0);
    assert_eq!(
        world.counts(),
        [("PassiveOpens", 3), ("EstabResets", 3), ("OutRsts", 3), ("TCPAbortOnData", 3)]
    );
}

#[test]
fn a_listener_that_closes() {
    let mut world = World::new();
    world.listen_backlog(0, Then::Close);
    let synack = world.reply(syn(4000));
    let next = synack.seq.plus(1);
    let Verdict::Reply(Outcome::Accept, fin) = world.rcv(ack_of(4000, &synack)) else {
        panic!("a FIN was due")
    };
    assert_eq!((fin.flags, fin.seq, fin.ack, fin.wnd), (FIN | ACK, next, SegSeq(1001), 64_240));
    let last = world.reply(seg(4000, FIN | ACK, SegSeq(1001), next.plus(1)));
    assert_eq!((last.flags, last.seq, last.ack), (ACK, next.plus(1), SegSeq(1002)));
    assert_eq!(world.core.in_use(), (0, 1), "TIME_WAIT");
    assert_eq!(world.pass(Nanos::from_secs(60)), []);
    assert_eq!(world.core.in_use(), (0, 0));
    assert_eq!(world.counts(), [("PassiveOpens", 1), ("TW", 1)]);
}

/// Nobody is there to read what comes: answers as 6.18.44 gives them behind a program that accepts and closes.
#[test]
fn a_listener_that_closes_resets_when_data_comes() {
    let mut world = World::new();
    world.listen_backlog(0, Then::Close);
    let synack = world.reply(syn(4000));
    let next = synack.seq.plus(1);
    world.rcv(ack_of(4000, &synack));
    let answer = world.reply(data(seg(4000, ACK, SegSeq(1001), next.plus(1)), 10));
    assert_eq!(answer, OutSegment { flags: RST, seq: next.plus(1), ..OutSegment::default() });
    assert_eq!(world.core.in_use(), (0, 0));
    assert_eq!(world.count(Mib::TCPAbortOnData), 1);

    let synack = world.reply(syn(4001));
    let answer = world.reply(data(ack_of(4001, &synack), 10));
    assert_eq!((answer.flags, answer.seq, answer.ack), (RST | ACK, synack.seq.plus(1), SegSeq(1011)));
    assert_eq!(world.core.in_use(), (0, 0));
    assert_eq!(world.count(Mib::TCPAbortOnClose), 1);
}

#[test]
fn a_listener_that_discards() {
    let mut world = World::new();
    world.listen_backlog(0, Then::Discard);
    let synack = world.connect(4000);
    let next = synack.seq.plus(1);
    let mut seq = SegSeq(1001);
    for _ in 0..100 {
        let ack = world.reply(data(seg(4000, ACK | PSH, seq, next), 1460));
        seq = seq.plus(1460);
        let expected = OutSegment { flags: ACK, wnd: 64_240, seq: next, ack: seq, ..OutSegment::default() };
        assert_eq!(ack, expected, "the window never shrinks");
    }
    let fin = world.reply(seg(4000, FIN | ACK, seq, next));
    assert_eq!((fin.flags, fin.seq, fin.ack), (FIN | ACK, next, seq.plus(1)));
    assert_eq!(world.rcv(seg(4000, ACK, seq.plus(1), next.plus(1))), Verdict::Consume(Outcome::Other));
    assert_eq!(world.core.in_use(), (0, 0));
    assert_eq!(world.counts(), [("PassiveOpens", 1), ("DiscardedOctets", 146_000)]);
}

#[test]
fn what_happens_next_is_asked_when_the_handshake_ends() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let synack = world.reply(syn(4000));
    world.slot(listener.id).set_then(Then::Reset);
    assert!(
        matches!(world.rcv(ack_of(4000, &synack)), Verdict::Reply(Outcome::Accept, out) if out.flags == RST | ACK)
    );
}

#[test]
fn children_hold_their_port_and_take_over_the_listeners_flags() {
    let mut world = World::new();
    let params = ListenParams {
        backlog: Backlog(4),
        reuse: true,
        reuseport: true,
        uid: 42,
        ..ListenParams::default()
    };
    let listener = world.listen(params);
    world.connect(4000);
    let mut owners = Vec::new();
    world.shared.owners_of_port(TcpPort(80), |owner| owners.push(owner));
    assert_eq!(owners.len(), 1);
    let owner = owners[0];
    assert_eq!((owner.addr, owner.uid, owner.reuse, owner.reuseport), (local(), 42, true, true));
    assert_eq!((owner.dev, owner.time_wait, owner.v6_family), (DevIndex::NONE, false, false));
    assert_eq!(Some(&owner.child), world.accept_all(listener).first());
}

#[test]
fn a_bound_listeners_children_are_bound() {
    let mut world = World::new();
    let listener = world.listen(ListenParams { backlog: Backlog(4), dev: DEV, ..ListenParams::default() });
    let synack = world.connect(4000);
    let child = world.accept_all(listener)[0];
    assert_eq!(world.shared.child(child).map(|info| info.dev), Some(DEV));
    let elsewhere = Segment { dev: DevIndex(2), ..data(ack_of(4000, &synack), 5) };
    assert!(matches!(world.rcv(elsewhere), Verdict::Reply(Outcome::Rst, _)), "another device's segment");
}

/// A link-local address means another peer on every link.
#[test]
fn a_link_local_peers_request_belongs_to_its_device() {
    let mut world = World::new();
    world.listen(ListenParams { backlog: Backlog(4), v6_family: true, ..ListenParams::default() });
    let from = |segment: Segment, dev| {
        let saddr = InetAddr::v6(0xfe80 << 48, 2);
        Segment { flow: FlowKey { saddr, ..flow6(4000) }, dev: DevIndex(dev), ..segment }
    };
    let synack = world.reply(from(syn(4000), 1));
    let elsewhere = world.reply(from(ack_of(4000, &synack), 2));
    assert_eq!((elsewhere.flags, elsewhere.seq), (RST, synack.seq.plus(1)), "it knows of no request there");
    let other = world.reply(from(syn(4000), 2));
    assert_eq!(world.core.in_use(), (2, 0));
    for (synack, dev) in [(synack, 1), (other, 2)] {
        assert_eq!(world.rcv(from(ack_of(4000, &synack), dev)), Verdict::Consume(Outcome::Accept));
    }
    assert_eq!(world.core.in_use(), (0, 2));
}

/// 6.18.44: children in the queue stay there; nobody gets in until there are no more than the new backlog allows.
#[test]
fn a_lowered_backlog_keeps_what_is_queued() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    for port in 4000..4003 {
        world.connect(port);
    }
    let waiting = world.reply(syn(4003));
    world.slot(listener.id).set_max_ack_backlog(Backlog(1));
    assert_eq!(world.dropped(syn(4004)), DropReason::ListenOverflow);
    assert_eq!(world.dropped(ack_of(4003, &waiting)), DropReason::AcceptOverflow);
    assert_eq!((world.slot(listener.id).ack_backlog(), world.core.in_use()), (3, (1, 3)));
    assert_eq!(
        world.counts(),
        [("PassiveOpens", 3), ("CurrEstab", 3), ("ListenOverflows", 2), ("ListenDrops", 2)]
    );
    assert_eq!(world.accept_all(listener).len(), 3);
    assert_eq!(world.rcv(ack_of(4003, &waiting)), Verdict::Consume(Outcome::Accept));
    world.reply(syn(4004));
}

#[test]
fn shutdown_keeps_the_child_and_release_lets_go() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let synack = world.connect(4000);
    let child = world.accept_all(listener)[0];
    let next = synack.seq.plus(1);
    world.shared.push(Command::Close(child)).expect("room");
    assert_eq!(world.tick().iter().map(|out| (out.flags, out.seq)).collect::<Vec<_>>(), [(FIN | ACK, next)]);
    assert_eq!(world.rcv(seg(4000, ACK, SegSeq(1001), next.plus(1))), Verdict::Consume(Outcome::Other));
    assert_eq!(world.pass(Nanos::from_secs(1000)), [], "somebody may wait in FIN-WAIT-2 for ever");
    assert_eq!(world.shared.child(child).map(|info| info.state), Some(TcpState::FinWait2));
    world.shared.push(Command::Release(child)).expect("room");
    assert_eq!(world.tick(), []);
    world.pass(Nanos::from_secs(60));
    assert_eq!((world.shared.child(child), world.core.in_use()), (None, (0, 0)));
}

/// 6.18.44: data after close(2) is answered by a RST at SEG.ACK.
#[test]
fn data_after_close_is_answered_by_a_rst() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let synack = world.connect(4000);
    let child = world.accept_all(listener)[0];
    let next = synack.seq.plus(1);
    world.shared.push(Command::Release(child)).expect("room");
    assert_eq!(world.tick().len(), 1);
    let rst = world.reply(data(seg(4000, ACK, SegSeq(1001), next.plus(1)), 3));
    assert_eq!(rst, OutSegment { flags: RST, seq: next.plus(1), ..OutSegment::default() });
    assert_eq!((world.core.in_use(), world.count(Mib::TCPAbortOnData)), ((0, 0), 1));
}

#[test]
fn close_with_unread_data_resets() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let synack = world.connect(4000);
    let ack = world.reply(data(ack_of(4000, &synack), 3));
    assert_eq!((ack.wnd, ack.ack), (0, SegSeq(1001)), "nobody takes data before accept");
    let child = world.accept_all(listener)[0];
    world.shared.push(Command::Release(child)).expect("room");
    assert_eq!(world.tick().iter().map(|out| out.flags).collect::<Vec<_>>(), [RST | ACK]);
    assert_eq!((world.core.in_use(), world.count(Mib::TCPAbortOnClose)), ((0, 0), 1));
}
