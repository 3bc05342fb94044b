//! SYN, SYN-ACK, final ACK, and what else meets a half-open request. Where it says "6.18.44", the answers were read
//! off a running kernel with the same segments.

use super::*;
use crate::error::Errno;
use crate::types::TcpState;

#[test]
fn three_segments_make_a_child() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let synack = world.reply(syn(4000));
    let expected = OutSegment {
        flags: SYN | ACK,
        tos: 0,
        wnd: 64_240,
        seq: synack.seq,
        ack: SegSeq(1001),
        options: TcpOptions { mss: 1460, ..TcpOptions::default() },
    };
    assert_eq!(synack, expected);
    assert_eq!((world.slot(listener.id).qlen(), world.core.in_use()), (1, (1, 0)));

    assert_eq!(world.rcv(ack_of(4000, &synack)), Verdict::Consume(Outcome::Accept));
    let slot = world.slot(listener.id);
    assert_eq!((slot.qlen(), slot.young(), slot.ack_backlog()), (0, 0, 1));
    assert_eq!(world.core.in_use(), (0, 1));
    let children = world.accept_all(listener);
    let info = world.shared.child(children[0]).expect("alive");
    assert_eq!((info.flow, info.state), (flow(4000), TcpState::Established));
    assert_eq!(world.counts(), [("PassiveOpens", 1), ("CurrEstab", 1)]);
}

/// SYN options in, SYN-ACK options and window out.
#[test]
fn options_are_answered_where_they_were_asked() {
    let mut world = World::new();
    world.listen_backlog(64, Then::Queue);
    let none = TcpOptions::default();
    let ts = Some((500, 0));
    let cases = [
        (none, 64_240, TcpOptions { mss: 1460, ..none }),
        (TcpOptions { mss: 536, ..none }, 64_240, TcpOptions { mss: 1460, ..none }),
        (TcpOptions { sack_perm: true, ..none }, 64_240, TcpOptions { mss: 1460, sack_perm: true, ..none }),
        (TcpOptions { wscale: Some(3), ..none }, 64_240, TcpOptions { mss: 1460, wscale: Some(10), ..none }),
        (TcpOptions { timestamps: ts, ..none }, 65_160, TcpOptions { mss: 1460, timestamps: ts, ..none }),
        (
            TcpOptions { mss: 1460, wscale: Some(15), sack_perm: true, timestamps: ts },
            65_160,
            TcpOptions { mss: 1460, wscale: Some(10), sack_perm: true, timestamps: ts },
        ),
    ];
    for (port, (options, wnd, mut answer)) in (5000..).zip(cases) {
        let synack = world.reply(Segment { options, ..syn(port) });
        // TSecr is the SYN's TSval; TSval is the clock with an offset of the peer's own, checked elsewhere.
        answer.timestamps =
            answer.timestamps.zip(synack.options.timestamps).map(|((tsval, _), (ours, _))| (ours, tsval));
        assert_eq!((synack.wnd, synack.options), (wnd, answer), "{options:?}");
    }
}

#[test]
fn sysctls_switch_options_off() {
    let mut world = World::with_sysctl(|sysctl| {
        sysctl.tcp_timestamps = 0;
        sysctl.tcp_sack = false;
        sysctl.tcp_window_scaling = false;
    });
    world.listen_backlog(4, Then::Queue);
    assert_eq!(world.reply(syn_full(4000, 1)).options, TcpOptions { mss: 1460, ..TcpOptions::default() });
}

#[test]
fn timestamps_start_at_an_offset_per_pair_of_hosts() {
    let mut world = World::new();
    world.listen_backlog(64, Then::Queue);
    let tsval = |world: &mut World, seg| world.reply(seg).options.timestamps.map(|(tsval, _)| tsval);
    let clock = world.now.as_millis() as u32;
    let first = tsval(&mut world, syn_full(4000, 1));
    assert_ne!(first, Some(clock), "an offset of 0 would tell the uptime");
    assert_eq!(first, tsval(&mut world, syn_full(4001, 1)), "the same for all ports of a peer");
    let mut other = syn_full(4000, 1);
    other.flow.saddr = InetAddr::v4(0xc612_0003);
    assert_ne!(first, tsval(&mut world, other));

    let mut world = World::with_sysctl(|sysctl| sysctl.tcp_timestamps = 2);
    world.listen_backlog(64, Then::Queue);
    assert_eq!(tsval(&mut world, syn_full(4000, 1)), Some(clock));
}

#[test]
fn the_mss_follows_mtu_family_and_tcp_maxseg() {
    let mut world = World::new();
    world.listen(ListenParams { backlog: Backlog(9), mss_clamp: 1000, ..ListenParams::default() });
    world.listen(ListenParams { backlog: Backlog(9), v6_family: true, ..ListenParams::default() });
    assert_eq!(world.reply(syn(4000)).options.mss, 1000);
    let synack = world.reply(Segment { flow: flow6(4000), ..syn(4000) });
    assert_eq!((synack.options.mss, synack.wnd), (1440, 64_800));
}

#[test]
fn sequence_numbers_run_with_the_clock_and_differ_by_flow() {
    let mut world = World::new();
    world.listen_backlog(64, Then::Queue);
    let first = world.reply(syn(4000)).seq;
    assert_ne!(first, world.reply(syn(4001)).seq);
    let mut later = World::new();
    later.listen_backlog(64, Then::Queue);
    later.now = later.now + Nanos(64_000);
    assert_eq!(later.reply(syn(4000)).seq, first.plus(1000), "one every 64 ns");
}

#[test]
fn ecn_is_agreed_when_asked_for_on_an_unmarked_packet() {
    let asks = SYN | flag::ECE | flag::CWR;
    for (ecn, tos, flags_in, agreed) in [
        (2, 0, asks, true),
        (1, 0, asks, true),
        (0, 0, asks, false),
        (2, 2, asks, false),
        (2, 0, SYN | flag::ECE, false),
    ] {
        let mut world = World::with_sysctl(|sysctl| sysctl.tcp_ecn = ecn);
        world.listen_backlog(4, Then::Queue);
        let synack = world.reply(Segment { tos, ..flags(syn(4000), flags_in) });
        assert_eq!(synack.flags & flag::ECE != 0, agreed, "tcp_ecn {ecn}, TOS {tos}, flags {flags_in:#x}");
    }
}

#[test]
fn tos_is_the_listeners_or_the_syns() {
    for (reflect, tos) in [(false, 0x10), (true, 0xb8)] {
        let mut world = World::with_sysctl(|sysctl| sysctl.tcp_reflect_tos = reflect);
        let listener =
            world.listen(ListenParams { backlog: Backlog(4), tos: 0x10, ..ListenParams::default() });
        assert_eq!(world.reply(Segment { tos: 0xb8, ..syn(4000) }).tos, tos);
        world.slot(listener.id).set_then(Then::Discard);
        let synack = world.reply(Segment { tos: 0xb8, ..syn(4001) });
        world.rcv(Segment { tos: 0xb8, ..ack_of(4001, &synack) });
        let ack = world.reply(data(ack_of(4001, &synack), 5));
        assert_eq!(ack.tos, tos, "the connection keeps it");
    }
}

/// Test 1: the same SYN again.
#[test]
fn a_repeated_syn_gets_the_same_synack() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let first = world.reply(syn_full(4000, 7));
    world.now = world.now + Nanos::from_millis(10);
    let mut again = world.reply(syn_full(4000, 9));
    let (tsval, tsecr) = again.options.timestamps.expect("asked for");
    assert_eq!(
        (tsval, tsecr),
        (first.options.timestamps.expect("asked for").0 + 10, 7),
        "fresh TSval, old TSecr"
    );
    again.options.timestamps = first.options.timestamps;
    assert_eq!(again, first);
    assert_eq!(world.dropped(syn_full(4000, 9)), DropReason::ReqDuplicateSyn);
    world.now = world.now + Nanos::from_millis(500);
    world.reply(flags(syn_full(4000, 9), SYN | FIN));
    assert_eq!(world.slot(listener.id).qlen(), 1);
    assert_eq!(world.counts(), [("RetransSegs", 2), ("TCPACKSkippedSynRecv", 1), ("TCPSynRetrans", 2)]);
}

#[test]
fn a_repeated_syn_starts_the_timer_anew() {
    let mut world = World::new();
    world.listen_backlog(4, Then::Queue);
    world.reply(syn(4000));
    assert_eq!(world.pass(Nanos::from_millis(900)), []);
    world.reply(syn(4000));
    assert_eq!(world.pass(Nanos::from_millis(999)), []);
    assert_eq!(world.pass(Nanos::from_millis(1)).len(), 1);
}

/// Tests 2 to 6 on one request after the other; answers as 6.18.44 gives them.
#[test]
fn what_does_not_fit_a_request_is_answered_as_the_kernel_answers() {
    let mut world = World::new();
    let listener = world.listen_backlog(64, Then::Queue);
    let plain = |flags, seq, ack| OutSegment { flags, seq, ack, ..OutSegment::default() };
    let pure = |iss: SegSeq| OutSegment { wnd: 64_240, ..plain(ACK, iss.plus(1), SegSeq(1001)) };
    // (what comes: flags, seq, ack - iss, octets; the answer; whether the request is still there)
    type Answer<'a> = &'a dyn Fn(SegSeq) -> Option<OutSegment>;
    type Case<'a> = (&'a str, (u8, u32, u32, u16), Answer<'a>, bool);
    let nothing: Answer = &|_| None;
    let pure_ack: Answer = &|iss| Some(pure(iss));
    let cases: [Case; 12] = [
        ("ACK of something else", (ACK, 1001, 7, 0), &|iss| Some(plain(RST, iss.plus(7), SegSeq(0))), true),
        ("RST with another ACK", (RST | ACK, 1001, 7, 0), nothing, false),
        ("SYN+ACK at the ISN", (SYN | ACK, 1000, 1, 0), pure_ack, true),
        (
            "SYN+ACK behind it",
            (SYN | ACK, 1001, 1, 0),
            &|iss| Some(plain(RST, iss.plus(1), SegSeq(0))),
            false,
        ),
        ("ACK at the ISN", (ACK, 1000, 1, 0), pure_ack, true),
        ("data before the window", (ACK, 1000, 1, 1), pure_ack, true),
        ("ACK behind the window", (ACK, 1001 + 64_241, 1, 0), pure_ack, true),
        ("SYN in the window", (SYN, 1005, 0, 0), &|_| Some(plain(RST | ACK, SegSeq(0), SegSeq(1006))), false),
        ("RST at the ISN", (RST, 1000, 0, 0), nothing, true),
        ("RST in the window", (RST, 1005, 0, 0), pure_ack, true),
        ("RST+ACK", (RST | ACK, 1001, 1, 0), nothing, false),
        ("FIN without ACK", (FIN, 1001, 0, 0), nothing, true),
    ];
    for (port, (what, (flags, seq, ack, len), answer, stays)) in (4000..).zip(cases) {
        let iss = world.reply(syn(port)).seq;
        let before = world.core.in_use().0;
        let ack = if flags & ACK == 0 { SegSeq(0) } else { iss.plus(ack) };
        let verdict = world.rcv(data(seg(port, flags, SegSeq(seq), ack), len));
        let replied = if let Verdict::Reply(_, segment) = verdict { Some(segment) } else { None };
        assert_eq!(replied, answer(iss), "{what}: {verdict:?}");
        assert_eq!(world.core.in_use(), (before - u32::from(!stays), 0), "{what}");
        assert_eq!(world.slot(listener.id).qlen(), world.core.in_use().0, "{what}");
    }
    assert_eq!((world.count(Mib::EmbryonicRsts), world.count(Mib::AttemptFails)), (4, 4));
}

/// 6.18.44: the child is made, and its answer is a challenge ACK.
#[test]
fn a_synack_with_data_makes_a_child() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let iss = world.reply(syn(4000)).seq;
    let answer = world.reply(data(seg(4000, SYN | ACK, IRS, iss.plus(1)), 1));
    assert_eq!((answer.flags, answer.seq, answer.ack), (ACK, iss.plus(1), SegSeq(1001)));
    assert_eq!(world.accept_all(listener).len(), 1);
}

#[test]
fn answers_at_a_request_are_rate_limited() {
    let mut world = World::new();
    world.listen_backlog(4, Then::Queue);
    let iss = world.reply(syn(4000)).seq;
    let old = seg(4000, ACK, SegSeq(900), iss.plus(1));
    world.reply(old);
    assert_eq!(world.dropped(old), DropReason::ReqOutOfWindow);
    world.reply(data(old, 3));
    world.now = world.now + Nanos::from_millis(500);
    world.reply(old);
    assert_eq!(world.count(Mib::TCPACKSkippedSynRecv), 1);
}

#[test]
fn timestamps_at_a_request_are_checked_both_ways() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let synack = world.reply(syn_full(4000, 700));
    let (tsval, _) = synack.options.timestamps.expect("asked for");
    let with = |timestamps| {
        let ack = ack_of(4000, &synack);
        Segment { options: TcpOptions { timestamps: Some(timestamps), ..ack.options }, ..ack }
    };
    let answer = world.reply(with((699, tsval)));
    assert_eq!(
        (answer.flags, answer.wnd, answer.options.timestamps),
        (ACK, 65_160 >> 10, Some((tsval, 700)))
    );
    assert_eq!(world.count(Mib::PAWSEstab), 1);
    world.now = world.now + Nanos::from_millis(500);
    world.reply(with((701, tsval + 1)));
    assert_eq!(world.dropped(with((701, tsval.wrapping_sub(1)))), DropReason::ReqOutOfWindow);
    assert_eq!(world.count(Mib::TSEcrRejected), 2);
    // An old RST does not end it; TSecr 0 says nothing, and the second SYN-ACK's TSval is as good as the first's.
    world.dropped(Segment { flags: RST, ..with((699, 0)) });
    world.now = world.now + Nanos::from_millis(500);
    assert_eq!(world.tick().len(), 1);
    assert_eq!(world.slot(listener.id).qlen(), 1);
    assert_eq!(world.rcv(with((701, tsval + 1000))), Verdict::Consume(Outcome::Accept));
}

#[test]
fn a_final_ack_without_timestamps_is_taken() {
    let mut world = World::new();
    world.listen_backlog(4, Then::Queue);
    let synack = world.reply(syn_full(4000, 700));
    let bare = Segment { options: TcpOptions::default(), ..ack_of(4000, &synack) };
    assert_eq!(world.rcv(bare), Verdict::Consume(Outcome::Accept));
}

/// A FIN with the final ACK is a fine final ACK; 6.18.44 answers with a window that is one smaller.
#[test]
fn a_fin_with_the_final_ack_ends_in_close_wait() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let synack = world.reply(syn(4000));
    let fin = flags(ack_of(4000, &synack), FIN | ACK);
    let expected = OutSegment {
        flags: ACK,
        wnd: 64_239,
        seq: synack.seq.plus(1),
        ack: SegSeq(1002),
        ..OutSegment::default()
    };
    assert_eq!(world.rcv(fin), Verdict::Reply(Outcome::Accept, expected));
    let child = world.accept_all(listener)[0];
    assert_eq!(world.shared.child(child).map(|info| info.state), Some(TcpState::CloseWait));
}

#[test]
fn backlog_n_holds_n_plus_one_children() {
    for backlog in [0u32, 1, 2, 5] {
        let mut world = World::new();
        let listener = world.listen_backlog(backlog, Then::Queue);
        for port in 0..=backlog as u16 {
            world.connect(4000 + port);
        }
        assert_eq!(world.dropped(syn(5000)), DropReason::ListenOverflow);
        assert_eq!(world.slot(listener.id).ack_backlog(), backlog + 1);
        assert_eq!((world.count(Mib::ListenOverflows), world.count(Mib::ListenDrops)), (1, 1));
        assert_eq!(world.accept_all(listener).len(), backlog as usize + 1);
        world.connect(5000);
    }
}

#[test]
fn a_final_ack_meets_a_full_queue_and_gets_in_later() {
    let mut world = World::new();
    let listener = world.listen_backlog(0, Then::Queue);
    let late = world.reply(syn(4001));
    // One half-open request is allowed; the first child comes by cookie.
    world.connect(4000);
    assert_eq!(world.dropped(ack_of(4001, &late)), DropReason::AcceptOverflow);
    assert_eq!((world.count(Mib::ListenOverflows), world.count(Mib::ListenDrops)), (1, 1));
    assert_eq!(world.core.in_use(), (1, 1));
    // The SYN-ACK goes out again although an ACK came; the ACK to it tries once more.
    assert_eq!(world.pass(Nanos::from_secs(1)).len(), 1);
    assert_eq!(world.dropped(ack_of(4001, &late)), DropReason::AcceptOverflow);
    world.accept_all(listener);
    assert_eq!(world.rcv(ack_of(4001, &late)), Verdict::Consume(Outcome::Accept));
}

#[test]
fn abort_on_overflow_resets_instead() {
    let mut world = World::with_sysctl(|sysctl| sysctl.tcp_abort_on_overflow = true);
    world.listen_backlog(0, Then::Queue);
    let late = world.reply(syn(4001));
    world.connect(4000);
    let rst = world.reply(ack_of(4001, &late));
    assert_eq!(rst, OutSegment { flags: RST, seq: late.seq.plus(1), ..OutSegment::default() });
    assert_eq!((world.core.in_use().0, world.count(Mib::EmbryonicRsts)), (0, 1));
    assert_eq!(world.dropped(syn(4002)), DropReason::ListenOverflow, "a SYN is dropped all the same");
}

#[test]
fn accept_is_first_in_first_out_and_keeps_reset_children() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let synacks: Vec<_> = (4000..4003).map(|port| world.connect(port)).collect();
    world.dropped(seg(4001, RST, synacks[1].ack, SegSeq(0)));
    assert_eq!(world.slot(listener.id).ack_backlog(), 3, "a reset child keeps its place");
    let children = world.accept_all(listener);
    let infos: Vec<_> = children.iter().map(|&child| world.shared.child(child).expect("held")).collect();
    let ports: Vec<_> = infos.iter().map(|info| info.flow.sport.0).collect();
    assert_eq!(ports, [4000, 4001, 4002]);
    assert_eq!(infos[1].state, TcpState::Close);
    assert_eq!([infos[0].error, infos[1].error], [None, Some(Errno::ECONNRESET)]);
    // Its four-tuple is free for a new connection already.
    world.reply(syn(4001));
    world.shared.push(Command::Release(children[1])).expect("room");
    assert_eq!(world.tick(), []);
    assert_eq!(world.shared.child(children[1]), None);
}

#[test]
fn a_bare_ack_waits_while_accept_is_deferred() {
    let mut world = World::new();
    let listener = world.listen(ListenParams { backlog: Backlog(9), defer: 3, ..ListenParams::default() });
    let synacks: Vec<_> = (4000..4003).map(|port| world.reply(syn(port))).collect();
    for (port, synack) in (4000..).zip(&synacks) {
        assert_eq!(world.dropped(ack_of(port, synack)), DropReason::ReqDeferred);
    }
    assert_eq!((world.slot(listener.id).ack_backlog(), world.slot(listener.id).qlen()), (0, 3));
    assert_eq!(world.count(Mib::TCPDeferAcceptDrop), 3);
    let verdict = world.rcv(data(ack_of(4000, &synacks[0]), 5));
    assert!(matches!(verdict, Verdict::Reply(Outcome::Accept, _)), "data ends the wait: {verdict:?}");
    let verdict = world.rcv(flags(ack_of(4001, &synacks[1]), FIN | ACK));
    assert!(matches!(verdict, Verdict::Reply(Outcome::Accept, _)), "a FIN as well: {verdict:?}");
    assert_eq!(world.dropped(flags(ack_of(4002, &synacks[2]), RST | ACK)), DropReason::ReqRst);
    assert_eq!(world.core.in_use(), (0, 2));
}

#[test]
fn data_in_a_syn_is_ignored() {
    let mut world = World::new();
    world.listen_backlog(4, Then::Queue);
    assert_eq!(world.reply(data(syn(4000), 100)).ack, SegSeq(1001));
}

/// SYN, RST and SYN of one flow, all looked up before any is answered.
#[test]
fn a_burst_is_answered_in_order_of_arrival() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let segs =
        [syn(4000), seg(4000, RST, SegSeq(1001), SegSeq(0)), Segment { seq: SegSeq(5000), ..syn(4000) }];
    let mut found = [Found::default(); 3];
    world.core.lookup_burst(&segs, 0b111, &mut found);
    let verdicts: Vec<_> =
        segs.iter().zip(found).map(|(seg, found)| world.core.rcv(seg, found, world.now)).collect();
    assert!(matches!(verdicts[0], Verdict::Reply(Outcome::SynAck, out) if out.ack == SegSeq(1001)));
    assert_eq!(verdicts[1], Verdict::Drop(DropReason::ReqRst));
    assert!(matches!(verdicts[2], Verdict::Reply(Outcome::SynAck, out) if out.ack == SegSeq(5001)));
    assert_eq!(world.slot(listener.id).qlen(), 1);
}

#[test]
fn a_full_table_of_connections_drops_the_final_ack() {
    let limits = Limits { connections_per_core: 1, ..Limits::TINY };
    let mut world = World::with(Sysctl::default(), limits);
    let listener = world.listen_backlog(4, Then::Queue);
    world.connect(4000);
    let synack = world.reply(syn(4001));
    assert_eq!(world.dropped(ack_of(4001, &synack)), DropReason::ConnTableFull);
    assert_eq!((world.slot(listener.id).ack_backlog(), world.core.in_use()), (1, (1, 1)));
    assert_eq!(world.count(Mib::ListenDrops), 1);
}

/// A RST in the window, but not at its edge, is challenged once in a while and then ignored (6.18.44).
#[test]
fn a_rst_at_a_request_must_be_exact() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let iss = world.reply(syn(4000)).seq;
    let near = seg(4000, RST, SegSeq(1005), SegSeq(0));
    let challenge = world.reply(near);
    assert_eq!((challenge.flags, challenge.seq, challenge.ack), (ACK, iss.plus(1), SegSeq(1001)));
    assert_eq!(world.dropped(data(near, 10)), DropReason::TcpChallengeLimit);
    assert_eq!(world.dropped(Segment { seq: SegSeq(900), ..near }), DropReason::ReqOutOfWindow);
    assert_eq!(world.dropped(syn(4000)), DropReason::ReqDuplicateSyn, "one limit for all");
    assert_eq!(world.slot(listener.id).qlen(), 1);
    assert_eq!(world.dropped(seg(4000, RST | ACK, SegSeq(1001), iss.plus(99))), DropReason::ReqRst);
    assert_eq!(world.slot(listener.id).qlen(), 0);
    let limits = (world.count(Mib::TCPChallengeACK), world.count(Mib::TCPACKSkippedChallenge));
    assert_eq!(limits, (1, 1));
}

/// What asks for AccECN gets the older ECN, marked or not (6.18.44 with `tcp_ecn` = 2).
#[test]
fn an_accurate_ecn_syn_falls_back() {
    let mut world = World::new();
    world.listen_backlog(4, Then::Queue);
    for (port, (reserved, tos, granted)) in
        (4000..).zip([(0, 0, true), (0, 2, false), (1, 2, true), (1, 3, true)])
    {
        let asked = Segment { reserved, tos, ..flags(syn(port), SYN | flag::ECE | flag::CWR) };
        assert_eq!(world.reply(asked).flags & flag::ECE != 0, granted, "{reserved} {tos}");
    }
}
