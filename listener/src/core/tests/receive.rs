//! The receive half on a connection that nobody closed: answers as 6.18.44 gives them to the same segments, but for
//! data, which a `queue` listener's child refuses.

use super::*;
use crate::types::TcpState;

/// An established child of a `queue` listener; ISS + 1.
fn established(world: &mut World, port: u16) -> SegSeq {
    world.connect(port).seq.plus(1)
}

fn state(world: &World) -> TcpState {
    let mut states = Vec::new();
    for index in 0..world.shared.capacity() {
        if let Some(info) = world.shared.child(world.shared.child_ref(index)) {
            states.push(info.state);
        }
    }
    assert_eq!(states.len(), 1);
    states[0]
}

#[test]
fn what_meets_an_established_connection() {
    // (what comes: flags, seq, ack - (ISS + 1), octets; whether a plain ACK answers; the state after)
    let cases = [
        ("a bare ACK", (ACK, 1001, 0, 0), false, TcpState::Established),
        ("an ACK of what was not sent", (ACK, 1001, 99, 0), true, TcpState::Established),
        ("an ACK of our SYN's number", (ACK, 1001, u32::MAX, 0), true, TcpState::Established),
        ("a SYN at RCV.NXT", (SYN, 1001, 0, 0), true, TcpState::Established),
        ("a SYN at the ISN", (SYN, 1000, 0, 0), true, TcpState::Established),
        ("a SYN far outside", (SYN, 900_000, 0, 0), true, TcpState::Established),
        ("a RST in the window", (RST, 1010, 0, 0), true, TcpState::Established),
        ("a RST outside", (RST, 900, 0, 0), false, TcpState::Established),
        ("a RST at RCV.NXT", (RST, 1001, 0, 0), false, TcpState::Close),
        ("no flags", (0, 1001, 0, 0), false, TcpState::Established),
        ("a FIN without ACK", (FIN, 1001, 0, 0), false, TcpState::Established),
        ("data without ACK", (PSH, 1001, 0, 5), false, TcpState::Established),
        ("data out of order", (ACK, 1011, 0, 5), true, TcpState::Established),
        ("a FIN out of order", (FIN | ACK, 1011, 0, 0), true, TcpState::Established),
        ("an ACK behind the window", (ACK, 101_001, 0, 0), true, TcpState::Established),
        ("an ACK before the window", (ACK, 900, 0, 0), true, TcpState::Established),
        ("data before the window", (ACK, 900, 0, 5), true, TcpState::Established),
        ("a keep-alive", (ACK, 1000, 0, 0), true, TcpState::Established),
    ];
    for (what, (bits, seq, ack, len), answered, after) in cases {
        let mut world = World::new();
        world.listen_backlog(4, Then::Queue);
        let next = established(&mut world, 4000);
        let ack = if bits & ACK == 0 { SegSeq(0) } else { next.plus(ack) };
        let verdict = world.rcv(data(seg(4000, bits, SegSeq(seq), ack), len));
        let plain =
            OutSegment { flags: ACK, wnd: 64_240, seq: next, ack: SegSeq(1001), ..OutSegment::default() };
        let replied = if let Verdict::Reply(Outcome::Other, out) = verdict { Some(out) } else { None };
        assert_eq!(replied, answered.then_some(plain), "{what}: {verdict:?}");
        assert_eq!(state(&world), after, "{what}");
    }
}

#[test]
fn a_fin_is_acknowledged_each_time() {
    let mut world = World::new();
    world.listen_backlog(4, Then::Queue);
    let next = established(&mut world, 4000);
    let expected =
        OutSegment { flags: ACK, wnd: 64_239, seq: next, ack: SegSeq(1002), ..OutSegment::default() };
    for _ in 0..3 {
        assert_eq!(world.reply(seg(4000, FIN | ACK, SegSeq(1001), next)), expected);
    }
    assert_eq!(state(&world), TcpState::CloseWait);
    assert_eq!(world.dropped(data(seg(4000, ACK, SegSeq(1002), next), 2)), DropReason::TcpClosed);
    assert_eq!(world.reply(seg(4000, ACK, SegSeq(1002), next.plus(55))), expected);
    assert_eq!(world.dropped(seg(4000, RST, SegSeq(1001), SegSeq(0))), DropReason::TcpReset);
    assert_eq!(state(&world), TcpState::Close);
}

#[test]
fn challenge_acks_are_limited_per_connection_and_per_core() {
    let mut world = World::with_sysctl(|sysctl| sysctl.tcp_challenge_ack_limit = 2);
    world.listen_backlog(9, Then::Queue);
    for port in 4000..4003 {
        established(&mut world, port);
    }
    let rst = |port| seg(port, RST, SegSeq(1010), SegSeq(0));
    world.reply(rst(4000));
    assert_eq!(world.dropped(rst(4000)), DropReason::TcpChallengeLimit);
    assert_eq!(world.count(Mib::TCPACKSkippedChallenge), 1);
    world.reply(rst(4001));
    assert_eq!(world.dropped(rst(4002)), DropReason::TcpChallengeLimit);
    world.now = world.now + Nanos::from_secs(1);
    world.reply(rst(4002));
    assert_eq!(world.count(Mib::TCPChallengeACK), 3);
}

#[test]
fn old_timestamps_are_rejected_but_not_from_a_rst() {
    let mut world = World::new();
    world.listen_backlog(9, Then::Discard);
    let synack = world.reply(syn_full(4000, 100));
    world.rcv(ack_of(4000, &synack));
    let ack = ack_of(4000, &synack);
    let with = |tsval, segment: Segment| Segment {
        options: TcpOptions { timestamps: Some((tsval, 0)), ..segment.options },
        ..segment
    };
    assert_eq!(world.reply(with(200, data(ack, 10))).ack, SegSeq(1011));
    // One tick of grace, then no more.
    let next = Segment { seq: SegSeq(1011), ..ack };
    assert_eq!(world.reply(with(199, data(next, 10))).ack, SegSeq(1021));
    let next = Segment { seq: SegSeq(1021), ..ack };
    let dupack = world.reply(with(198, data(next, 10)));
    assert_eq!((dupack.ack, dupack.options.timestamps.map(|(_, tsecr)| tsecr)), (SegSeq(1021), Some(200)));
    assert_eq!(world.count(Mib::PAWSEstab), 1);
    // 24 days later any timestamp is as good as another.
    assert_eq!(
        world.dropped(with(5, flags(Segment { seq: SegSeq(1021), ..ack }, RST))),
        DropReason::TcpReset
    );
    assert_eq!(world.core.in_use(), (0, 0));
}

#[test]
fn congestion_marks_are_echoed_until_the_peer_has_slowed_down() {
    let mut world = World::new();
    world.listen_backlog(9, Then::Discard);
    let synack = world.reply(flags(syn(4000), SYN | flag::ECE | flag::CWR));
    world.rcv(ack_of(4000, &synack));
    let mut seq = SegSeq(1001);
    let mut octet = |world: &mut World, tos, bits| {
        let segment = Segment { tos, ..data(seg(4000, ACK | bits, seq, synack.seq.plus(1)), 1) };
        seq = seq.plus(1);
        world.reply(segment).flags & flag::ECE != 0
    };
    assert!(!octet(&mut world, 2, 0));
    assert!(octet(&mut world, 3, 0));
    assert!(octet(&mut world, 2, 0));
    assert!(!octet(&mut world, 2, flag::CWR));
    assert!(octet(&mut world, 3, flag::CWR));
}

#[test]
fn the_overlap_with_old_data_is_skipped() {
    let mut world = World::new();
    world.listen_backlog(9, Then::Discard);
    let next = established(&mut world, 4000);
    world.reply(data(seg(4000, ACK, SegSeq(1001), next), 100));
    assert_eq!(world.reply(data(seg(4000, ACK, SegSeq(1051), next), 100)).ack, SegSeq(1151));
    let fin = world.reply(data(seg(4000, FIN | ACK, SegSeq(1101), next), 50));
    assert_eq!((fin.flags, fin.ack), (FIN | ACK, SegSeq(1152)));
    assert_eq!(world.count(Mib::DiscardedOctets), 150);
}

#[test]
fn a_reset_ends_every_state() {
    /// The state, the kind of listener, and what leads there: flags, seq, ack - (ISS + 1).
    type Path<'a> = (&'a str, Then, &'a [(u8, u32, u32)]);
    let steps: [Path; 4] = [
        ("FIN-WAIT-1", Then::Close, &[]),
        // Nobody holds it: a time-wait entry.
        ("TIME-WAIT", Then::Close, &[(ACK, 1001, 1)]),
        ("CLOSING", Then::Close, &[(FIN | ACK, 1001, 0)]),
        ("LAST-ACK", Then::Discard, &[(FIN | ACK, 1001, 0)]),
    ];
    for (what, then, segments) in steps {
        let mut world = World::new();
        world.listen_backlog(9, then);
        let next = established(&mut world, 4000);
        let mut rcv_nxt = SegSeq(1001);
        for &(bits, seq, ack) in segments {
            world.rcv(seg(4000, bits, SegSeq(seq), next.plus(ack)));
            rcv_nxt = SegSeq(seq + u32::from(bits & FIN));
        }
        assert_eq!(state(&world).name(), what);
        assert_eq!(world.dropped(seg(4000, RST, rcv_nxt, SegSeq(0))), DropReason::TcpReset, "{what}");
        assert_eq!((world.core.in_use(), world.core.next_timer()), ((0, 0), None), "{what}");
    }
}

/// Old timestamps on a connection (`tcp_disordered_ack_check`): answers as 6.18.44 gives them.
#[test]
fn old_acks_are_not_answered_and_old_syns_are_challenged() {
    let mut world = World::new();
    world.listen_backlog(4, Then::Discard);
    let synack = world.reply(syn_full(4000, 1000));
    let ack = ack_of(4000, &synack);
    let (_, echo) = ack.options.timestamps.expect("agreed");
    let with = |tsval, segment: Segment| Segment {
        options: TcpOptions { timestamps: Some((tsval, echo)), ..TcpOptions::default() },
        ..segment
    };
    world.rcv(with(1000, ack));
    assert_eq!(world.rcv(with(990, ack)), Verdict::Consume(Outcome::Other), "overtaken");
    assert_eq!(world.dropped(with(990, Segment { seq: SegSeq(900), ..ack })), DropReason::TcpPaws);
    assert_eq!((world.count(Mib::PAWSEstab), world.count(Mib::PAWSOldAck)), (0, 1));
    let challenge = world.reply(with(990, Segment { flags: SYN, ack: SegSeq(0), ..ack }));
    assert_eq!((challenge.flags, world.count(Mib::TCPSYNChallenge), world.count(Mib::InErrs)), (ACK, 1, 1));
    world.now = world.now + Nanos::from_secs(1);
    assert_eq!(world.reply(with(1, ack)).flags, ACK, "too old to have been overtaken");
    assert_eq!(world.count(Mib::PAWSEstab), 1);
}
