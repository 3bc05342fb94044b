//! Timers under a clock that the test moves.

use super::*;

fn times(sent: &[(u64, OutSegment)]) -> Vec<u64> {
    sent.iter().map(|(at, _)| at / 1000).collect()
}

#[test]
fn synacks_go_out_at_1_3_7_15_and_31_seconds_and_no_more_at_63() {
    let mut world = World::new();
    let listener = world.listen_backlog(16, Then::Queue);
    let first = world.reply(syn_full(4000, 5));
    let sent = world.pass(Nanos::from_millis(62_999));
    assert_eq!(sent.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1000, 3000, 7000, 15_000, 31_000]);
    let (tsval, tsecr) = first.options.timestamps.expect("asked for");
    for (at, synack) in sent {
        let timestamps = Some((tsval + at as u32, tsecr));
        assert_eq!(synack, OutSegment { options: TcpOptions { timestamps, ..first.options }, ..first });
    }
    let socks = Arc::clone(&world.socks);
    let slot = socks.get(listener.id).expect("open");
    assert_eq!((slot.qlen(), slot.young(), world.core.in_use()), (1, 0, (1, 0)));
    assert_eq!(world.pass(Nanos::from_millis(1)), []);
    assert_eq!((slot.qlen(), slot.young()), (0, 0));
    assert_eq!((world.core.in_use(), world.core.next_timer()), ((0, 0), None));
    assert_eq!(world.counts(), [("RetransSegs", 5), ("TCPTimeouts", 6), ("TCPSynRetrans", 5)]);
}

#[test]
fn tcp_syncnt_and_the_sysctl_limit_retransmissions() {
    for (syn_retries, sysctl, expected) in
        [(0, 1, vec![1]), (2, 1, vec![1, 3]), (0, 0, vec![]), (8, 5, vec![1, 3, 7, 15, 31, 63, 127, 247])]
    {
        let mut world = World::with_sysctl(|knobs| knobs.tcp_synack_retries = sysctl);
        world.listen(ListenParams { backlog: Backlog(16), syn_retries, ..ListenParams::default() });
        world.reply(syn(4000));
        assert_eq!(times(&world.pass(Nanos::from_secs(1000))), expected);
        assert_eq!(world.core.in_use(), (0, 0));
    }
}

/// SYNs from `requests` ports, starting at port `from`.
fn syns(world: &mut World, from: u16, requests: u16) {
    for port in from..from + requests {
        world.reply(syn(port));
    }
}

/// 2 * qlen > max(8, backlog): the limit falls while young requests are few, until half the queue is free.
#[test]
fn old_requests_leave_early_when_the_queue_is_crowded() {
    for (requests, at_7s) in [(4, 4), (5, 4), (8, 4)] {
        let mut world = World::new();
        let listener = world.listen_backlog(8, Then::Queue);
        syns(&mut world, 4000, requests);
        let sent = times(&world.pass(Nanos::from_millis(62_999)));
        let at = |second| sent.iter().filter(|&&time| time == second).count();
        // None is young after a second, so the limit is 2 for as long as the queue is crowded.
        assert_eq!([at(1), at(3), at(7), at(15), at(31)], [requests.into(), requests.into(), at_7s, 4, 4]);
        assert_eq!(world.slot(listener.id).qlen(), 4);
    }
}

#[test]
fn young_requests_slow_the_pruning() {
    let mut world = World::new();
    let listener = world.listen_backlog(8, Then::Queue);
    syns(&mut world, 4000, 5);
    world.pass(Nanos::from_millis(6_900));
    syns(&mut world, 5000, 3);
    // Of qlen 8 three are young: 8 >= 6, 8 < 12, so the limit is one lower than 5, and a third timeout is below it.
    assert_eq!(world.pass(Nanos::from_millis(100)).len(), 5);
    assert_eq!(world.slot(listener.id).qlen(), 8);
}

#[test]
fn a_deferred_request_is_left_alone_until_its_last_period() {
    let mut world = World::new();
    let listener = world.listen(ListenParams { backlog: Backlog(16), defer: 3, ..ListenParams::default() });
    let synack = world.reply(syn(4000));
    assert_eq!(world.dropped(ack_of(4000, &synack)), DropReason::ReqDeferred);
    // Timeouts at 1, 3 and 7 s; the third is the first with timeouts >= 2, and sends.
    assert_eq!(times(&world.pass(Nanos::from_millis(7_500))), [7]);
    assert_eq!(world.rcv(ack_of(4000, &synack)), Verdict::Consume(Outcome::Accept), "the period is over");
    assert_eq!(world.slot(listener.id).ack_backlog(), 1);
}

#[test]
fn a_deferred_request_that_nobody_finishes_expires() {
    let mut world = World::new();
    world.listen(ListenParams { backlog: Backlog(16), defer: 3, ..ListenParams::default() });
    let synack = world.reply(syn(4000));
    world.dropped(ack_of(4000, &synack));
    assert_eq!(times(&world.pass(Nanos::from_secs(63))), [7, 15, 31]);
    assert_eq!(world.core.in_use(), (0, 0));
}

#[test]
fn a_synack_that_finds_no_room_is_tried_again() {
    let mut world = World::new();
    world.listen_backlog(16, Then::Queue);
    world.reply(syn(4000));
    world.now = world.now + Nanos::from_secs(1);
    world.core.tick(world.now, 10, |_| false);
    assert_eq!(world.count(Mib::TCPTimeouts), 0);
    world.now = world.now + Nanos::from_millis(1);
    assert_eq!(world.tick().len(), 1);
    assert_eq!(world.count(Mib::TCPTimeouts), 1);
}

#[test]
fn a_tick_does_no_more_than_its_budget() {
    let mut world = World::new();
    world.listen_backlog(600, Then::Queue);
    world.tick();
    syns(&mut world, 4000, 500);
    world.now = world.now + Nanos::from_secs(1);
    let mut total = 0;
    let mut ticks = 0;
    while world.core.next_timer().is_some_and(|next| next <= world.now) {
        let mut sent = 0;
        world.core.tick(world.now, 16, |_| {
            sent += 1;
            true
        });
        assert!(sent <= 16);
        total += sent;
        ticks += 1;
    }
    assert_eq!(total, 500);
    assert!(ticks <= 2 * 500 / 16 + 4, "{ticks} ticks");
}

#[test]
fn our_fin_goes_out_again_and_is_given_up() {
    let mut world = World::new();
    world.listen_backlog(4, Then::Close);
    let synack = world.connect(4000);
    let sent = world.pass(Nanos::from_secs(1000));
    // 0.2 s after a round trip of no time, then doubled.
    assert_eq!(times(&sent), [0, 0, 1, 3, 6, 12, 25, 51, 102]);
    for (_, fin) in &sent {
        assert_eq!((fin.flags, fin.seq, fin.ack), (FIN | ACK, synack.seq.plus(1), SegSeq(1001)));
    }
    assert_eq!((world.core.in_use(), world.count(Mib::TCPAbortOnTimeout)), ((0, 0), 1));
}

#[test]
fn fin_wait_2_ends_after_tcp_fin_timeout() {
    let mut world = World::new();
    world.listen_backlog(4, Then::Close);
    let synack = world.connect(4000);
    world.rcv(seg(4000, ACK, SegSeq(1001), synack.seq.plus(2)));
    assert_eq!(world.pass(Nanos::from_millis(59_999)), []);
    assert_eq!(world.core.in_use(), (0, 1));
    assert_eq!(world.pass(Nanos::from_millis(1)), []);
    assert_eq!(world.core.in_use(), (0, 0));
}

#[test]
fn idle_discard_connections_are_reset() {
    let mut world = World::new();
    world.core.set_idle_timeout(Nanos::from_secs(10));
    world.listen_backlog(4, Then::Discard);
    let synack = world.connect(4000);
    assert_eq!(world.pass(Nanos::from_secs(6)), []);
    world.reply(data(ack_of(4000, &synack), 100));
    let sent = world.pass(Nanos::from_secs(20));
    assert_eq!(times(&sent), [10], "ten seconds after the last segment");
    assert_eq!((sent[0].1.flags, sent[0].1.ack), (RST | ACK, SegSeq(1101)));
    assert_eq!((world.core.in_use(), world.core.next_timer()), ((0, 0), None));
}
