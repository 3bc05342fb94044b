//! SYN cookies, and the SYN queue's limits.

use super::*;
use crate::syncookies::{CookieOptions, cookie_init_timestamp};
use crate::types::TcpState;

/// A world whose listener answers every SYN with a cookie.
fn always() -> (World, ListenerRef) {
    let world = World::with_sysctl(|sysctl| sysctl.tcp_syncookies = 2);
    let listener = world.listen_backlog(64, Then::Queue);
    (world, listener)
}

#[test]
fn cookies_start_with_the_second_syn_beyond_the_backlog() {
    for backlog in [0u32, 1, 5] {
        let mut world = World::new();
        let listener = world.listen_backlog(backlog, Then::Queue);
        for port in 0..=backlog as u16 {
            world.reply(syn(4000 + port));
        }
        assert_eq!(world.counts(), []);
        let synack = world.reply(syn(5000));
        assert_eq!(world.counts(), [("SyncookiesSent", 1), ("TCPReqQFullDoCookies", 1)]);
        assert_eq!(world.slot(listener.id).qlen(), backlog + 1, "a cookie keeps nothing");
        assert_eq!(world.core.in_use().0, backlog + 1);
        assert_eq!(world.rcv(ack_of(5000, &synack)), Verdict::Consume(Outcome::Accept));
        assert_eq!(world.count(Mib::SyncookiesRecv), 1);
    }
}

/// The kernel says "possible SYN flooding" once per listener, and nothing where every SYN gets a cookie.
#[test]
fn a_first_flood_is_told_once() {
    for (mode, told) in [(0, 1), (1, 1), (2, 0)] {
        let mut world = World::with_sysctl(|sysctl| sysctl.tcp_syncookies = mode);
        let listener = world.listen_backlog(0, Then::Queue);
        world.reply(syn(4000));
        assert_eq!(world.shared.next_flood(), None);
        (4001..4010).for_each(|port| {
            world.rcv(syn(port));
        });
        let floods: Vec<_> = std::iter::from_fn(|| world.shared.next_flood()).collect();
        assert_eq!(floods, vec![listener; told], "tcp_syncookies = {mode}");
    }
}

#[test]
fn without_cookies_a_full_queue_drops() {
    let mut world = World::with_sysctl(|sysctl| sysctl.tcp_syncookies = 0);
    world.listen_backlog(1, Then::Queue);
    world.reply(syn(4000));
    world.reply(syn(4001));
    assert_eq!(world.dropped(syn(4002)), DropReason::ReqQFull);
    assert_eq!(world.counts(), [("ListenDrops", 1), ("TCPReqQFullDrop", 1)]);
}

#[test]
fn without_cookies_the_last_quarter_is_reserved() {
    let mut world = World::with_sysctl(|sysctl| {
        sysctl.tcp_syncookies = 0;
        sysctl.tcp_max_syn_backlog = 16;
    });
    world.listen_backlog(64, Then::Queue);
    for port in 0..13 {
        world.reply(syn(4000 + port));
    }
    assert_eq!(world.dropped(syn(4013)), DropReason::SynBacklogReserve);
    assert_eq!(world.counts(), [("ListenDrops", 1)]);
}

#[test]
fn a_full_table_sends_cookies_too() {
    let limits = Limits { requests_per_core: 2, ..Limits::TINY };
    let mut world = World::with(Sysctl::default(), limits);
    world.listen_backlog(64, Then::Queue);
    world.reply(syn(4000));
    world.reply(syn(4001));
    world.connect(4002);
    assert_eq!(world.core.in_use(), (2, 1));
    let mut world = World::with(Sysctl { tcp_syncookies: 0, ..Sysctl::default() }, limits);
    world.listen_backlog(64, Then::Queue);
    world.reply(syn(4000));
    world.reply(syn(4001));
    assert_eq!(world.dropped(syn(4002)), DropReason::RequestTableFull);
}

/// Without timestamps the MSS is all that survives.
#[test]
fn options_without_timestamps_are_forgotten() {
    let (mut world, _) = always();
    let mut asked = syn_full(4000, 0);
    asked.options.timestamps = None;
    asked.flags |= flag::ECE | flag::CWR;
    let synack = world.reply(asked);
    assert_eq!((synack.flags, synack.wnd), (SYN | ACK, 64_240));
    assert_eq!(synack.options, TcpOptions { mss: 1460, ..TcpOptions::default() });
}

#[test]
fn options_travel_in_the_timestamp() {
    let (mut world, listener) = always();
    world.slot(listener.id).set_then(Then::Discard);
    let offset = {
        let plain = World::new();
        let mut plain = plain;
        plain.listen_backlog(4, Then::Queue);
        let (tsval, _) = plain.reply(syn_full(4000, 9)).options.timestamps.expect("asked for");
        tsval.wrapping_sub(plain.now.as_millis() as u32)
    };
    let synack = world.reply(flags(syn_full(4000, 9), SYN | flag::ECE | flag::CWR));
    let options = CookieOptions { wscale: Some(7), sack: true, ecn: true };
    let tsval = cookie_init_timestamp(world.now.as_millis() as u32, options).wrapping_add(offset);
    assert_eq!(synack.flags, SYN | ACK | flag::ECE);
    assert_eq!(
        synack.options,
        TcpOptions { mss: 1460, wscale: Some(10), sack_perm: true, timestamps: Some((tsval, 9)) }
    );
    assert_eq!(world.rcv(ack_of(4000, &synack)), Verdict::Consume(Outcome::Accept));
    // Scaling, timestamps and ECN are those of the SYN: 64,240 octets in units of 1024, a TSval, an echo of the CE mark.
    let ack = world.reply(Segment { tos: 3, ..data(ack_of(4000, &synack), 10) });
    assert_eq!((ack.wnd, ack.flags), (63, ACK | flag::ECE));
    assert!(ack.options.timestamps.is_some());
}

#[test]
fn an_option_that_was_never_agreed_refuses_the_cookie() {
    let (mut world, _) = always();
    let synack = world.reply(syn_full(4000, 9));
    let mut strict = World::with_sysctl(|sysctl| {
        sysctl.tcp_syncookies = 2;
        sysctl.tcp_sack = false;
    });
    strict.listen_backlog(64, Then::Queue);
    strict.reply(syn(1)); // opens the time in which cookies are looked for
    let rst = strict.reply(ack_of(4000, &synack));
    assert_eq!((rst.flags, rst.seq), (RST, synack.seq.plus(1)));
    assert_eq!(strict.core.in_use(), (0, 0));
}

#[test]
fn cookies_are_looked_for_only_after_one_was_sent() {
    let (mut world, _) = always();
    let stray = seg(4000, ACK, SegSeq(77), SegSeq(88));
    let rst = OutSegment { flags: RST, seq: SegSeq(88), ..OutSegment::default() };
    assert_eq!(world.reply(stray), rst);
    assert_eq!(world.count(Mib::SyncookiesFailed), 0, "no counter moves");
    let synack = world.reply(syn(4000));
    assert_eq!(world.reply(stray), rst);
    assert_eq!(world.count(Mib::SyncookiesFailed), 1);
    // A SYN+ACK is never tested.
    assert_eq!(world.reply(flags(stray, SYN | ACK)), rst);
    assert_eq!(world.dropped(flags(stray, RST | ACK)), DropReason::ListenRst);
    assert_eq!(world.count(Mib::SyncookiesFailed), 1);
    world.now = world.now + Nanos::from_secs(121);
    assert_eq!(world.reply(ack_of(4000, &synack)).flags, RST, "too old");
    assert_eq!(world.count(Mib::SyncookiesFailed), 1, "and the time in which they are looked for is over");
}

/// From the first second of a minute, when it lives for two, and from the last, when it lives for little more than one.
#[test]
fn cookies_of_both_families_grow_old() {
    for v6 in [false, true] {
        for (made, good, old) in [(1020, 119, 120), (1079, 60, 61)] {
            let mut world = World::with_sysctl(|sysctl| sysctl.tcp_syncookies = 2);
            world.listen(ListenParams { backlog: Backlog(64), v6_family: v6, ..ListenParams::default() });
            let to = |segment: Segment| {
                let sport = segment.flow.sport.0;
                Segment { flow: if v6 { flow6(sport) } else { flow(sport) }, ..segment }
            };
            world.now = Nanos::from_secs(made);
            let synacks = [4000, 4001].map(|port| world.reply(to(syn_full(port, 5))));
            // Another client's cookie keeps the listener looking.
            world.now = Nanos::from_secs(made + 30);
            world.reply(to(syn(4999)));
            world.now = Nanos::from_secs(made + good);
            assert_eq!(world.rcv(to(ack_of(4000, &synacks[0]))), Verdict::Consume(Outcome::Accept));
            world.now = Nanos::from_secs(made + old);
            let rst = OutSegment { flags: RST, seq: synacks[1].seq.plus(1), ..OutSegment::default() };
            assert_eq!(world.reply(to(ack_of(4001, &synacks[1]))), rst, "v6 {v6}, made at {made}");
            assert_eq!((world.count(Mib::SyncookiesRecv), world.count(Mib::SyncookiesFailed)), (1, 1));
        }
    }
}

#[test]
fn the_accept_queues_limit_holds_for_cookies() {
    let mut world = World::with_sysctl(|sysctl| {
        sysctl.tcp_syncookies = 2;
        sysctl.tcp_abort_on_overflow = true;
    });
    world.listen_backlog(0, Then::Queue);
    let synacks: Vec<_> = (4000..4002).map(|port| world.reply(syn(port))).collect();
    assert_eq!(world.rcv(ack_of(4000, &synacks[0])), Verdict::Consume(Outcome::Accept));
    assert_eq!(world.dropped(ack_of(4001, &synacks[1])), DropReason::AcceptOverflow, "silent, abort or not");
    assert_eq!(world.dropped(syn(4002)), DropReason::ListenOverflow);
    assert_eq!(world.count(Mib::ListenOverflows), 2);
    assert_eq!(world.count(Mib::TCPReqQFullDoCookies), 3, "counted before the accept queue is looked at");
}

#[test]
fn deferral_is_bypassed_by_cookies() {
    let mut world = World::new();
    let listener = world.listen(ListenParams { defer: 3, ..ListenParams::default() });
    let first = world.reply(syn(4000));
    assert_eq!(world.dropped(ack_of(4000, &first)), DropReason::ReqDeferred);
    world.connect(4001);
    assert_eq!((world.slot(listener.id).ack_backlog(), world.slot(listener.id).qlen()), (1, 1));
}

/// Two cores with one secret: the ACK may reach the other one.
#[test]
fn any_core_checks_any_cookie() {
    let (mut world, listener) = always();
    let config = StackConfig {
        sysctl: Sysctl { tcp_syncookies: 2, ..Sysctl::default() },
        devices: Vec::new(),
        cores: 2,
        limits: Limits::TINY,
        secret: Secret::from_seed(7),
    };
    let shared = Arc::new(CoreShared::new(CoreId(1), Limits::TINY.connections_per_core));
    let mut other =
        Core::new(&config, Arc::clone(&world.socks), Arc::clone(&world.hash), Arc::clone(&shared));
    let synack = world.reply(syn_full(4000, 5));
    let verdict = other.rcv(&ack_of(4000, &synack), Found::default(), world.now);
    assert_eq!(verdict, Verdict::Consume(Outcome::Accept));
    let mut children = Vec::new();
    let cores = [Arc::clone(&world.shared), shared];
    world.slot(listener.id).acceptq_take(&cores, |child| children.push(child.core));
    assert_eq!(children, [CoreId(1)]);
}

#[test]
fn keys_turn_over_by_command() {
    let (mut world, _) = always();
    let generation = |seed| Secret::from_seed(seed).cookie_key();
    let turn = |world: &mut World, current, other| {
        let keys = CookieKeys { current: generation(current), other: Some(generation(other)), shared: false };
        world.shared.push(Command::CookieKeys(keys)).expect("room");
        world.tick();
    };
    // With timestamps: their offsets change with the keys, and each cookie is read by its own.
    let first = world.reply(syn_full(4000, 5));
    let unused = world.reply(syn_full(5000, 5));
    turn(&mut world, 7, 8);
    turn(&mut world, 8, 7);
    assert_eq!(world.shared.keys_taken(), 2);
    let second = world.reply(syn_full(4001, 5));
    assert_ne!(first.options.timestamps, second.options.timestamps);
    let scaled = |world: &mut World, port, synack: &OutSegment| {
        assert_eq!(world.rcv(ack_of(port, synack)), Verdict::Consume(Outcome::Accept), "port {port}");
        let child = world.core.flows.table.conns.in_use() - 1;
        world.core.flows.table.conns.entry(child).body.rcv_wscale
    };
    assert_eq!(scaled(&mut world, 4000, &first), 10, "the generation before");
    assert_eq!(scaled(&mut world, 4001, &second), 10, "the present one");
    turn(&mut world, 9, 8);
    assert_eq!(world.reply(ack_of(5000, &unused)).flags, RST, "the one before that");
    assert_eq!(world.count(Mib::SyncookiesFailed), 1);
}

/// Another machine, or this one before a restart, made the cookie: no listener here sent any.
#[test]
fn shared_keys_are_looked_for_without_a_cookie_of_ones_own() {
    let (mut world, _) = always();
    let synack = world.reply(syn_full(4000, 5));
    for shared in [false, true] {
        let (mut other, listener) = always();
        let keys = CookieKeys { current: Secret::from_seed(7).cookie_key(), other: None, shared };
        other.core.set_cookie_keys(keys);
        // Its clock is a little behind.
        other.now = Nanos(world.now.0 - 5_000_000);
        let verdict = other.rcv(ack_of(4000, &synack));
        assert_eq!(verdict == Verdict::Consume(Outcome::Accept), shared, "{verdict:?}");
        assert_eq!(other.slot(listener.id).ack_backlog(), u32::from(shared));
    }
}

/// A client that lost its request's SYN-ACK may still hold a cookie; the cookie wins.
#[test]
fn a_cookie_takes_the_place_of_a_request() {
    let mut world = World::new();
    let listener = world.listen_backlog(0, Then::Queue);
    world.reply(syn(4000));
    let cookie = world.reply(syn(4001));
    world.dropped(seg(4000, RST, SegSeq(1001), SegSeq(0)));
    world.reply(syn(4001));
    assert_eq!(world.core.in_use(), (1, 0));
    assert_eq!(world.rcv(ack_of(4001, &cookie)), Verdict::Consume(Outcome::Accept));
    assert_eq!(world.core.in_use(), (0, 1));
    assert_eq!(world.slot(listener.id).qlen(), 0);
    let child = world.accept_all(listener)[0];
    assert_eq!(world.shared.child(child).map(|info| info.state), Some(TcpState::Established));
}
