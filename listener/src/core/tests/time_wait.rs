//! TIME_WAIT: answers as 6.18.44 gives them to the same segments.

use super::*;

/// A connection that we closed first, in TIME_WAIT; the number after our FIN. The peer's next number is 1002.
fn time_wait(world: &mut World) -> SegSeq {
    let synack = world.connect(4000);
    let end = synack.seq.plus(2);
    let ack = world.reply(seg(4000, FIN | ACK, SegSeq(1001), end));
    assert_eq!((ack.flags, ack.seq, ack.ack, ack.wnd), (ACK, end, SegSeq(1002), 64_239));
    end
}

fn closing() -> World {
    let world = World::new();
    world.listen_backlog(16, Then::Close);
    world
}

#[test]
fn old_segments_are_acknowledged_and_a_bare_ack_is_not() {
    let mut world = closing();
    let end = time_wait(&mut world);
    let ack = OutSegment { flags: ACK, wnd: 64_239, seq: end, ack: SegSeq(1002), ..OutSegment::default() };
    let in_order = seg(4000, ACK, SegSeq(1002), end);
    for (what, segment, answer) in [
        ("the FIN again", seg(4000, FIN | ACK, SegSeq(1001), end), Some(ack)),
        ("a bare ACK in order", in_order, None),
        ("an old ACK", seg(4000, ACK, SegSeq(900), end), Some(ack)),
        ("data", data(in_order, 2), Some(ack)),
        ("an older SYN", Segment { seq: SegSeq(500), ..syn(4000) }, Some(ack)),
        ("a RST out of window", seg(4000, RST, SegSeq(1900), SegSeq(0)), None),
    ] {
        world.now = world.now + Nanos::from_secs(1);
        let verdict = world.rcv(segment);
        let replied = if let Verdict::Reply(Outcome::Other, out) = verdict { Some(out) } else { None };
        assert_eq!(replied, answer, "{what}: {verdict:?}");
        assert_eq!(world.core.in_use(), (0, 1), "{what}");
    }
}

#[test]
fn answers_are_rate_limited() {
    let mut world = closing();
    let end = time_wait(&mut world);
    let old = seg(4000, ACK, SegSeq(900), end);
    world.reply(old);
    assert_eq!(world.dropped(old), DropReason::TcpOldData);
    assert_eq!(world.count(Mib::TCPACKSkippedTimeWait), 1);
}

#[test]
fn a_rst_in_order_ends_it_unless_rfc_1337() {
    for protect in [false, true] {
        let mut world = World::with_sysctl(|sysctl| sysctl.tcp_rfc1337 = protect);
        world.listen_backlog(4, Then::Close);
        let end = time_wait(&mut world);
        assert_eq!(world.dropped(seg(4000, RST, SegSeq(1002), SegSeq(0))), DropReason::TcpReset);
        assert_eq!(world.core.in_use().1, u32::from(protect));
        let verdict = world.rcv(seg(4000, ACK, SegSeq(1002), end));
        assert_eq!(matches!(verdict, Verdict::Reply(Outcome::Rst, _)), !protect);
    }
}

#[test]
fn sixty_seconds_from_the_last_ack() {
    let mut world = closing();
    let end = time_wait(&mut world);
    world.pass(Nanos::from_secs(59));
    world.reply(Segment { seq: SegSeq(500), ..syn(4000) });
    world.pass(Nanos::from_millis(500));
    assert_eq!(world.core.in_use().1, 1);
    world.rcv(seg(4000, ACK, SegSeq(1002), end));
    world.pass(Nanos::from_millis(59_999));
    assert_eq!(world.core.in_use().1, 1, "an ACK prolongs it, an old SYN does not");
    world.pass(Nanos::from_millis(1));
    assert_eq!((world.core.in_use().1, world.count(Mib::TW)), (0, 1));
}

#[test]
fn a_newer_syn_starts_anew_with_a_higher_isn() {
    let mut world = closing();
    let end = time_wait(&mut world);
    let synack = world.reply(Segment { seq: SegSeq(5000), ..syn(4000) });
    assert_eq!((synack.flags, synack.seq, synack.ack), (SYN | ACK, end.plus(65_537), SegSeq(5001)));
    assert_eq!(world.core.in_use(), (1, 0));
    assert_eq!(world.count(Mib::TWRecycled), 1);
}

#[test]
fn a_syn_with_a_newer_timestamp_starts_anew_too() {
    let mut world = closing();
    let synack = world.reply(syn_full(4000, 100));
    let Verdict::Reply(_, fin) = world.rcv(ack_of(4000, &synack)) else { panic!("a FIN was due") };
    let last = ack_of(4000, &fin);
    world.reply(flags(Segment { seq: SegSeq(1001), ..last }, FIN | ACK));
    // Its number is older than what was received; only the timestamp says that it is new.
    assert_eq!(world.reply(Segment { seq: SegSeq(500), ..syn_full(4000, 90) }).flags, ACK);
    assert_eq!(world.count(Mib::PAWSTimewait), 1);
    let synack = world.reply(Segment { seq: SegSeq(500), ..syn_full(4000, 200) });
    assert_eq!((synack.flags, synack.ack), (SYN | ACK, SegSeq(501)));
}

#[test]
fn recycling_passes_a_full_syn_queue_but_not_a_full_accept_queue() {
    let mut world = World::with_sysctl(|sysctl| sysctl.tcp_syncookies = 0);
    let listener = world.listen_backlog(0, Then::Close);
    time_wait(&mut world);
    world.reply(syn(4001));
    assert_eq!(world.dropped(syn(4002)), DropReason::ReqQFull);
    world.reply(Segment { seq: SegSeq(5000), ..syn(4000) });
    assert_eq!(world.slot(listener.id).qlen(), 2);
}

#[test]
fn without_a_listener_a_newer_syn_is_old() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Close);
    time_wait(&mut world);
    world.unlisten(listener);
    assert_eq!(world.reply(Segment { seq: SegSeq(5000), ..syn(4000) }).flags, ACK);
    assert_eq!(world.core.in_use(), (0, 1));
}

#[test]
fn it_holds_the_port_and_says_so() {
    let mut world = closing();
    time_wait(&mut world);
    let mut owners = Vec::new();
    world.shared.owners_of_port(TcpPort(80), |owner| owners.push(owner.time_wait));
    assert_eq!(owners, [true]);
    world.pass(Nanos::from_secs(60));
    assert_eq!(world.shared.children_on_port(TcpPort(80)), 0);
}

#[test]
fn beyond_tcp_max_tw_buckets_the_state_is_skipped() {
    let mut world = World::with_sysctl(|sysctl| sysctl.tcp_max_tw_buckets = 0);
    world.listen_backlog(4, Then::Close);
    time_wait(&mut world);
    assert_eq!((world.core.in_use(), world.count(Mib::TCPTimeWaitOverflow)), ((0, 0), 1));
}

/// Both sides close at once: CLOSING, then TIME_WAIT.
#[test]
fn simultaneous_close_goes_through_closing() {
    let mut world = closing();
    let synack = world.connect(4000);
    let next = synack.seq.plus(1);
    let ack = world.reply(seg(4000, FIN | ACK, SegSeq(1001), next));
    assert_eq!((ack.flags, ack.seq, ack.ack), (ACK, next.plus(1), SegSeq(1002)));
    assert_eq!(world.pass(Nanos::from_millis(500)).len(), 1, "our FIN is not acknowledged yet");
    assert_eq!(world.rcv(seg(4000, ACK, SegSeq(1002), next.plus(1))), Verdict::Consume(Outcome::Other));
    assert_eq!(world.pass(Nanos::from_secs(59)), []);
    assert_eq!(world.core.in_use().1, 1);
    world.pass(Nanos::from_secs(1));
    assert_eq!(world.core.in_use().1, 0);
}
