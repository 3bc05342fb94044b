use super::*;
use crate::types::{InetAddr, TcpPort};
use proptest::prelude::*;

const KEYS: CookieKeys = CookieKeys { current: key(1), other: None, shared: false };
const NEXT: CookieKeys = CookieKeys { current: key(7), other: None, shared: false };

const fn key(n: u64) -> CookieKey {
    CookieKey { hash: [SipKey([n, n + 1]), SipKey([n + 2, n + 3])], timestamps: SipKey([n + 4, n + 5]) }
}

fn flow(v4: bool) -> FlowKey {
    let addr = |last: u32| {
        if v4 { InetAddr::v4(0xc612_0000 | last) } else { InetAddr::v6(0x2001_0db8 << 32, last.into()) }
    };
    FlowKey { saddr: addr(2), daddr: addr(1), sport: TcpPort(40_000), dport: TcpPort(80) }
}

fn mss_of(keys: &CookieKeys, flow: &FlowKey, seq: SegSeq, ack: SegSeq, now: Nanos) -> Option<u16> {
    cookie_check(keys, flow, seq, ack, now).map(|(mss, _)| mss)
}

/// Cookie for `mss` made at `made`, checked at `checked`, as the ACK that a client sends.
fn round(v4: bool, mss: u16, made: Nanos, checked: Nanos) -> Option<u16> {
    let seq = SegSeq(0xffff_fff0);
    let cookie = cookie_init_sequence(&KEYS, &flow(v4), seq, mss, made);
    mss_of(&KEYS, &flow(v4), seq.plus(1), cookie.plus(1), checked)
}

#[test]
fn mss_comes_back_from_the_kernels_tables() {
    let now = Nanos::from_secs(6000);
    for (mss, expected) in [
        (0, 536),
        (535, 536),
        (536, 536),
        (1299, 536),
        (1300, 1300),
        (1439, 1300),
        (1440, 1440),
        (1459, 1440),
        (1460, 1460),
        (9000, 1460),
    ] {
        assert_eq!(round(true, mss, now, now), Some(expected), "v4, client MSS {mss}");
    }
    for (mss, expected) in
        [(536, 1220), (1220, 1220), (1419, 1220), (1420, 1420), (1440, 1440), (8939, 1440), (8940, 8940)]
    {
        assert_eq!(round(false, mss, now, now), Some(expected), "v6, client MSS {mss}");
    }
}

#[test]
fn a_cookie_is_valid_for_one_to_two_minutes() {
    for v4 in [true, false] {
        let start = Nanos::from_secs(60 * 300);
        let end = Nanos::from_secs(60 * 301 - 1);
        assert!(round(v4, 1460, start, start + Nanos::from_secs(119)).is_some());
        assert!(round(v4, 1460, start, start + Nanos::from_secs(120)).is_none());
        assert!(round(v4, 1460, end, end + Nanos::from_secs(60)).is_some());
        assert!(round(v4, 1460, end, end + Nanos::from_secs(61)).is_none());
        // 256 minutes later the eight bits of the count are the same again, but H1 is not.
        assert!(round(v4, 1460, start, start + Nanos::from_secs(60 * 256)).is_none());
    }
}

#[test]
fn keys_change_without_losing_a_handshake() {
    let now = Nanos::from_secs(100);
    let seq = SegSeq(77);
    let check =
        |keys: &CookieKeys, cookie: SegSeq| mss_of(keys, &flow(true), seq.plus(1), cookie.plus(1), now);
    let both = CookieKeys { other: Some(NEXT.current), ..KEYS };
    let turned = CookieKeys { other: Some(KEYS.current), ..NEXT };
    let old = cookie_init_sequence(&both, &flow(true), seq, 1460, now);
    let new = cookie_init_sequence(&turned, &flow(true), seq, 1460, now);
    for keys in [&both, &turned] {
        assert_eq!([check(keys, old), check(keys, new)], [Some(1460), Some(1460)]);
    }
    assert_eq!([check(&KEYS, new), check(&NEXT, old)], [None, None]);
}

/// Only the generation that made it reads what is in the timestamp.
#[test]
fn the_generation_that_made_a_cookie_is_told() {
    let (now, seq) = (Nanos::from_secs(100), SegSeq(77));
    let turned = CookieKeys { other: Some(KEYS.current), ..NEXT };
    for (keys, made_by) in [(&KEYS, KEYS.current), (&NEXT, NEXT.current)] {
        let cookie = cookie_init_sequence(keys, &flow(true), seq, 1460, now);
        let found = cookie_check(&turned, &flow(true), seq.plus(1), cookie.plus(1), now);
        assert_eq!(found, Some((1460, &made_by)));
    }
    assert_ne!(KEYS.current.fingerprint(), NEXT.current.fingerprint());
    assert_eq!(format!("{:?}", KEYS.current), format!("CookieKey({:08x})", KEYS.current.fingerprint()));
}

/// Two clocks are never quite the same: with shared keys the one ahead may be in the next minute already.
#[test]
fn a_shared_cookie_may_come_from_a_clock_ahead() {
    let shared = CookieKeys { shared: true, ..KEYS };
    let seq = SegSeq(77);
    let check = |keys, made: u64, checked: u64| {
        let (made, checked) = (Nanos::from_secs(made), Nanos::from_secs(checked));
        let cookie = cookie_init_sequence(&KEYS, &flow(true), seq, 1460, made);
        mss_of(keys, &flow(true), seq.plus(1), cookie.plus(1), checked).is_some()
    };
    assert!(check(&shared, 60 * 256, 60 * 256 - 1) && !check(&KEYS, 60 * 256, 60 * 256 - 1));
    assert!(!check(&shared, 60 * 257, 60 * 256 - 1), "no more than one minute");
    assert!(check(&shared, 6000, 6119) && !check(&shared, 6000, 6120), "and it gets no older");
}

#[test]
fn timestamps_carry_options_and_never_run_ahead() {
    // Bits of the kernel's layout: scale 7, SACK, no ECN -> 0b010111.
    let options = CookieOptions { wscale: Some(7), sack: true, ecn: false };
    assert_eq!(cookie_init_timestamp(1000, options), 960 + 0b01_0111);
    assert_eq!(cookie_init_timestamp(960, options), 960 - 64 + 0b01_0111);
    let none = CookieOptions { wscale: None, sack: false, ecn: true };
    assert_eq!(cookie_init_timestamp(1023, none), 960 + 0b10_1111);
}

proptest! {
    #[test]
    fn timestamp_options_come_back(clock in 64u32.., wscale in prop::option::of(0u8..15), sack: bool, ecn: bool) {
        let options = CookieOptions { wscale, sack, ecn };
        let ts = cookie_init_timestamp(clock, options);
        prop_assert!(ts <= clock && clock - ts < 64);
        prop_assert_eq!(cookie_timestamp_decode(ts), options);
    }

    /// Four of 2^24 residues and two of 256 ages pass: about one guess in 500 million.
    #[test]
    fn guesses_fail(seq: u32, ack: u32) {
        prop_assert_eq!(cookie_check(&KEYS, &flow(true), SegSeq(seq), SegSeq(ack), Nanos::from_secs(9)), None);
    }

    #[test]
    fn another_flow_does_not_pass(sport in 0u16..40_000) {
        let cookie = cookie_init_sequence(&KEYS, &flow(true), SegSeq(5), 1460, Nanos(0));
        let other = FlowKey { sport: TcpPort(sport), ..flow(true) };
        prop_assert_eq!(cookie_check(&KEYS, &other, SegSeq(6), cookie.plus(1), Nanos(0)), None);
    }
}
