//! The kernel's half of rich cookies against the listener's: the program runs in the kernel (`BPF_PROG_TEST_RUN`) on frames
//! whose cookies `listener::syncookies::rich` made, and on frames that were tampered with.
//!
//! Needs root, or CAP_BPF and CAP_NET_ADMIN, and Linux 6.9.

use hearken_bpf::handover::{Checked, Verdict};
use hearken_bpf::{CookieKey, Handover, Settings};
use listener::segment::FlowKey;
use listener::syncookies::rich::{self, Asked, EPOCH_NS};
use listener::syncookies::{self, CookieKeys, CookieOptions};
use listener::types::{InetAddr, Nanos, SegSeq, TcpPort};

const CASES: u32 = 100_000;

/// Numbers from a seed: xorshift64* (Vigna, 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.next().is_multiple_of(of)
    }

    fn flow(&mut self) -> FlowKey {
        let ports = self.next();
        let (saddr, daddr) = if self.one_in(2) {
            let both = self.next();
            (InetAddr::v4(both as u32), InetAddr::v4((both >> 32) as u32))
        } else {
            (
                InetAddr::v6(self.next() | 1 << 61, self.next()),
                InetAddr::v6(self.next() | 1 << 61, self.next()),
            )
        };
        FlowKey { saddr, daddr, sport: TcpPort(ports as u16), dport: TcpPort((ports >> 16) as u16) }
    }

    fn asked(&mut self) -> Asked {
        let bits = self.next();
        let wscale = (bits >> 16 & 0xf) as u8;
        let options = CookieOptions {
            wscale: (wscale < 15).then_some(wscale),
            sack: bits >> 20 & 1 == 1,
            ecn: bits >> 21 & 1 == 1,
        };
        Asked { mss: bits as u16, options, timestamps: bits >> 22 & 1 == 1 }
    }

    fn key(&mut self) -> syncookies::CookieKey {
        let mut bytes = [0; syncookies::COOKIE_KEY_LEN];
        bytes.fill_with(|| self.next() as u8);
        syncookies::CookieKey::from_bytes(&bytes)
    }
}

fn key_of(key: &syncookies::CookieKey) -> CookieKey {
    let [hash, timestamps] = rich::words(key);
    CookieKey { hash, timestamps }
}

/// An Ethernet frame with the ACK of `flow`; `stamps` is the timestamp option, behind `pad` other options.
fn frame(flow: &FlowKey, (seq, ack): (u32, u32), stamps: Option<(u32, u32)>, pad: u8) -> Vec<u8> {
    let mut options = Vec::new();
    if stamps.is_some() {
        // NOPs, an unknown option, or a SACK block in front.
        match pad % 3 {
            0 => options.extend([1, 1]),
            1 => options.extend([253, 4, 0, 0, 1, 1]),
            _ => options.extend([1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1]),
        }
    }
    if let Some((tsval, tsecr)) = stamps {
        options.extend([8, 10]);
        options.extend(tsval.to_be_bytes());
        options.extend(tsecr.to_be_bytes());
    }
    let mut tcp = Vec::new();
    tcp.extend(flow.sport.0.to_be_bytes());
    tcp.extend(flow.dport.0.to_be_bytes());
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    tcp.extend([(((20 + options.len()) / 4) << 4) as u8, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(options);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match (flow.saddr.as_v4(), flow.daddr.as_v4()) {
        (Some(saddr), Some(daddr)) => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + tcp.len() as u16).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, 6, 0, 0]);
            frame.extend(saddr.to_be_bytes());
            frame.extend(daddr.to_be_bytes());
        }
        _ => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((tcp.len() as u16).to_be_bytes());
            frame.extend([6, 64]);
            for addr in [flow.saddr, flow.daddr] {
                frame.extend(addr.hi().to_be_bytes());
                frame.extend(addr.lo().to_be_bytes());
            }
        }
    }
    frame.extend(tcp);
    frame
}

/// One case: what is asked for, how it is spoilt, and what must come out.
fn case(random: &mut Random, handover: &Handover, keys: &CookieKeys, now: Nanos) {
    let (flow, asked, isn) = (random.flow(), random.asked(), random.next() as u32);
    // Away from the ends of an epoch: the program reads a clock of its own.
    let age = random.next() % 4;
    let made_at = Nanos(now.0.wrapping_sub(age * EPOCH_NS));
    let maker = if random.one_in(4) { keys.other.unwrap_or(keys.current) } else { keys.current };
    let cookie = rich::cookie(&maker, &flow, SegSeq(isn), &asked, made_at);
    let mut pair = (isn.wrapping_add(1), cookie.0.wrapping_add(1));
    if random.one_in(3) {
        let bit = 1 << (random.next() % 32);
        if random.one_in(2) { pair.0 ^= bit } else { pair.1 ^= bit }
    }
    let offset = rich::timestamp_offset(&maker, &flow);
    let rtt = (random.next() % 60_000) as u32;
    let stamps = asked
        .timestamps
        .then(|| ((isn ^ 7), ((made_at.0 / 1_000_000) as u32).wrapping_add(offset).wrapping_sub(rtt)));
    let found = handover.check(&frame(&flow, pair, stamps, isn as u8)).expect("the program runs");
    let found = found.unwrap_or_else(|| panic!("{flow:?} is a segment"));
    let expected = rich::check(keys, &flow, (SegSeq(pair.0), SegSeq(pair.1)), asked.timestamps, now);
    let Some(expected) = expected else {
        let outdated = age == 2 && pair == (isn.wrapping_add(1), cookie.0.wrapping_add(1));
        assert_eq!(
            found.verdict,
            if outdated { Verdict::Outdated } else { Verdict::Bad },
            "{flow:?} {asked:?}"
        );
        return;
    };
    let CookieOptions { wscale, sack, ecn } = expected.options;
    let Checked { verdict, rtt_ms, .. } = found;
    assert_eq!(
        found,
        Checked { verdict: Verdict::Good, mss: expected.mss, wscale, sack, ecn, rtt_ms },
        "{flow:?}"
    );
    assert_eq!(verdict, Verdict::Good);
    if stamps.is_some() {
        let expected = u64::from(rtt) + age * (EPOCH_NS / 1_000_000);
        assert!(u64::from(rtt_ms).abs_diff(expected) < 20_000, "{rtt_ms} ms instead of {expected}");
    }
}

fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[test]
fn the_kernels_half_agrees_with_the_listeners() {
    let handover = Handover::load().expect("Linux 6.9 with BTF, and the right to load programs");
    println!("{} instructions", handover.instructions());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..20 {
        let keys = CookieKeys {
            current: random.key(),
            other: (round % 2 == 1).then(|| random.key()),
            shared: round % 4 >= 2,
        };
        // Both clocks in the middle of an epoch, far from its ends for as long as a round takes.
        let now = Nanos((1000 + round) * EPOCH_NS + EPOCH_NS / 2);
        let settings = Settings {
            current: key_of(&keys.current),
            other: keys.other.as_ref().map(key_of),
            clock_offset_ns: now.0.wrapping_sub(monotonic()),
            expires_ns: 0,
            shared: keys.shared,
            rcv_wscale: 7,
            random_offsets: true,
        };
        handover.set(&settings).expect("the map takes it");
        for _ in 0..CASES / 20 {
            case(&mut random, &handover, &keys, now);
        }
    }
}

#[test]
fn a_timestamp_that_is_not_ours_is_told_from_a_bad_cookie() {
    let handover = Handover::load().expect("Linux 6.9 with BTF, and the right to load programs");
    let mut random = Random(5);
    let keys = CookieKeys { current: random.key(), other: None, shared: false };
    let now = Nanos(77 * EPOCH_NS + EPOCH_NS / 2);
    let settings = Settings {
        current: key_of(&keys.current),
        clock_offset_ns: now.0.wrapping_sub(monotonic()),
        random_offsets: true,
        ..Settings::default()
    };
    handover.set(&settings).expect("the map takes it");
    let flow = random.flow();
    let asked = Asked { mss: 1460, options: CookieOptions::default(), timestamps: true };
    let cookie = rich::cookie(&keys.current, &flow, SegSeq(1), &asked, now);
    let clock = ((now.0 / 1_000_000) as u32).wrapping_add(rich::timestamp_offset(&keys.current, &flow));
    let verdict = |tsecr: u32| {
        let frame = frame(&flow, (2, cookie.0.wrapping_add(1)), Some((9, tsecr)), 0);
        handover.check(&frame).expect("the program runs").expect("a segment").verdict
    };
    assert_eq!(verdict(clock), Verdict::Good);
    assert_eq!(verdict(clock.wrapping_add(1 << 20)), Verdict::Timestamp);
    assert_eq!(verdict(clock.wrapping_sub(1 << 20)), Verdict::Timestamp);
    assert_eq!(verdict(0), Verdict::Timestamp);
}
