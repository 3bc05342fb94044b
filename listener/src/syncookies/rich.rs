//! Rich SYN cookies: for listeners whose connections the kernel takes over (`then = kernel`). The client keeps window scale,
//! SACK and ECN, with timestamps or without.
//!
//! # Layout
//! Our ISN is `hash << 8 | attributes`. The attributes are, from the lowest bit: two of the MSS table's index, four of the
//! window scale (15: none), one of SACK, one of ECN. The hash is 24 bits of SipHash-2-4 over the four-tuple, the client's ISN, the
//! epoch, whether the SYN had timestamps, and the attributes. An epoch is 64 s long, and cookies of two count, so one is valid
//! for 64 to 128 s. With timestamps TSval is the clock in milliseconds plus the offset of the pair of hosts, with full
//! precision: nothing is hidden in its low bits.
//!
//! # Security
//! - **Guessing, with timestamps.** An ACK is taken if the hash is right in one of two epochs, 2^-23, and TSecr less a keyed
//!   offset lies in the last 192 s of a clock of milliseconds, 2^-14.4. Together 2^-37 for each forged ACK. The kernel's cookie:
//!   two of 256 counts and four of 2^24 MSS values, 2^-29.
//! - **Guessing, without timestamps.** 2^-23 for each forged ACK: 64 times as often as the kernel's cookie. At a million forged ACKs
//!   a second that is one connection in 8 s, whose source address is the forger's choice; it is an accepted connection without
//!   data, not memory in front of the listener. The bits went into options that real clients lose otherwise for as long as
//!   their connection lives. Whoever finds it too few sets `tcp_syncookies = 2` and `then = "queue"`, whose layout is the kernel's.
//! - **A SYN with timestamps cannot be finished without**: whether it had them is hashed, so the weaker test cannot be chosen
//!   for a cookie that was given away; it can be chosen for a guess.
//! - **Replay.** A cookie is good for its flow, its client ISN, its options and its epochs. Within them the same ACK opens a second
//!   connection once the first has ended, as with the kernel's cookies.
//! - **What the ISN shows.** The attributes are in the clear; they are those of the SYN, which an observer has seen. The other 24 bits
//!   differ from SYN to SYN, because the client's ISN is hashed (RFC 6528 asks for a keyed hash of the flow).
//! - **The client's ISN** is not in the ACK. It is taken to be `SEG.SEQ - 1`, as in the kernel: data may come with the ACK, but not
//!   in front of it.
//!
//! # Checked by
//! The kernel's half is C (`ffi/bpf/src/bpf/cookie.h`); `ffi/bpf/tests/cookie.rs` holds it to [`check`].

use super::{CookieKey, CookieKeys, CookieOptions, MSS_V4, MSS_V6};
use crate::segment::FlowKey;
use crate::siphash::{SipKey, siphash_2_4};
use crate::sysctl::Sysctl;
use crate::types::{Nanos, SegSeq};

/// Nanoseconds of an epoch.
pub const EPOCH_NS: u64 = 64_000_000_000;
/// Epochs of which cookies count.
pub const EPOCHS: u32 = 2;

const WSCALE_NONE: u32 = 15;
const ATTRIBUTE_BITS: u32 = 8;

/// What a SYN asks for, as far as a cookie keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// MSS of the client, in octets. The largest entry of the table that is not above it is kept, or the smallest.
    pub mss: u16,
    /// Window scale, SACK, ECN.
    pub options: CookieOptions,
    /// The SYN had timestamps.
    pub timestamps: bool,
}

/// The words of a generation that the kernel's half needs: of the cookies' hash, of the timestamps' offsets.
pub fn words(key: &CookieKey) -> [[u64; 2]; 2] {
    [key.hash[0].0, key.timestamps.0]
}

/// The window scale that SYN-ACKs announce to a client that scales; it does not depend on the client.
pub fn announced_wscale(sysctl: &Sysctl) -> u8 {
    crate::tcp_window::select_initial_window(sysctl, sysctl.tcp_rmem[1], 536, false, true).1
}

/// The MSS that SYN-ACKs announce over IPv4 and IPv6 where the MTU is `mtu`, and their windows: by bit 0, window scaling, bit 1,
/// timestamps, and bit 2, IPv6.
pub fn announced(sysctl: &Sysctl, mtu: u16) -> ([u16; 2], [u16; 8]) {
    use crate::tcp_window::{field, select_initial_window};
    let mss = [true, false].map(|v4| crate::tcp_output::mss_of(mtu, v4));
    let window = |bits: usize| {
        let mss = mss[bits >> 2];
        let (tstamp, wscale) = (bits & 2 != 0, bits & 1 != 0);
        field(select_initial_window(sysctl, sysctl.tcp_rmem[1], mss, tstamp, wscale).0)
    };
    (mss, std::array::from_fn(window))
}

/// What is added to the clock to make TSval for the pair of hosts of a SYN's flow, where `tcp_timestamps` is 1.
pub fn timestamp_offset(key: &CookieKey, flow: &FlowKey) -> u32 {
    let sysctl = Sysctl { tcp_timestamps: 1, ..Sysctl::default() };
    crate::tcp_output::secure_tcp_ts_off(&sysctl, key, flow)
}

/// Cookie for a SYN: our ISS.
pub fn cookie(key: &CookieKey, flow: &FlowKey, client_isn: SegSeq, asked: &Asked, now: Nanos) -> SegSeq {
    let attributes = attributes(flow, asked);
    let hash = hash(key.hash[0], flow, client_isn, epoch(now), attributes, asked.timestamps);
    SegSeq(hash << ATTRIBUTE_BITS | attributes)
}

/// What the SYN asked for if `ack` acknowledges a cookie for this flow that is not too old.
///
/// `seq` and `ack` are those of the segment that came, `timestamps` says whether it has that option. TSecr is the caller's to check.
pub fn check(
    keys: &CookieKeys,
    flow: &FlowKey,
    (seq, ack): (SegSeq, SegSeq),
    timestamps: bool,
    now: Nanos,
) -> Option<Asked> {
    let (cookie, client_isn) = (ack.0.wrapping_sub(1), SegSeq(seq.0.wrapping_sub(1)));
    let attributes = cookie & ((1 << ATTRIBUTE_BITS) - 1);
    // The clock of another box may be in the next epoch already.
    let ahead = u32::from(keys.shared);
    let newest = epoch(now).wrapping_add(ahead);
    let of = |key: &CookieKey| {
        (0..EPOCHS + ahead).any(|age| {
            let epoch = newest.wrapping_sub(age);
            hash(key.hash[0], flow, client_isn, epoch, attributes, timestamps) == cookie >> ATTRIBUTE_BITS
        })
    };
    (of(&keys.current) || keys.other.as_ref().is_some_and(of)).then(|| asked(flow, attributes, timestamps))
}

/// Epochs of the clock.
fn epoch(now: Nanos) -> u32 {
    (now.0 / EPOCH_NS) as u32
}

fn attributes(flow: &FlowKey, asked: &Asked) -> u32 {
    let table = if flow.is_v4() { &MSS_V4 } else { &MSS_V6 };
    let index = table[1..].iter().filter(|entry| **entry <= asked.mss).count() as u32;
    let CookieOptions { wscale, sack, ecn } = asked.options;
    let wscale = wscale.map_or(WSCALE_NONE, |wscale| u32::from(wscale) & 0xf);
    index | wscale << 2 | u32::from(sack) << 6 | u32::from(ecn) << 7
}

fn asked(flow: &FlowKey, attributes: u32, timestamps: bool) -> Asked {
    let table = if flow.is_v4() { &MSS_V4 } else { &MSS_V6 };
    let wscale = attributes >> 2 & 0xf;
    Asked {
        mss: table[(attributes & 3) as usize],
        options: CookieOptions {
            wscale: (wscale != WSCALE_NONE).then_some(wscale as u8),
            sack: attributes & 1 << 6 != 0,
            ecn: attributes & 1 << 7 != 0,
        },
        timestamps,
    }
}

/// 24 bits.
fn hash(
    key: SipKey,
    flow: &FlowKey,
    client_isn: SegSeq,
    epoch: u32,
    attributes: u32,
    timestamps: bool,
) -> u32 {
    let ports = u64::from(flow.sport.0) << 48 | u64::from(flow.dport.0) << 32 | u64::from(client_isn.0);
    let rest = u64::from(epoch) << 32 | u64::from(timestamps) << 8 | u64::from(attributes);
    let hash = match (flow.saddr.as_v4(), flow.daddr.as_v4()) {
        (Some(saddr), Some(daddr)) => {
            siphash_2_4(key, [u64::from(saddr) << 32 | u64::from(daddr), ports, rest])
        }
        _ => {
            let (saddr, daddr) = (flow.saddr, flow.daddr);
            siphash_2_4(key, [saddr.hi(), saddr.lo(), daddr.hi(), daddr.lo(), ports, rest])
        }
    };
    hash as u32 & 0xff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syncookies::COOKIE_KEY_LEN;
    use crate::types::{InetAddr, TcpPort};
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn keys(seed: u8) -> CookieKeys {
        let key = CookieKey::from_bytes(&std::array::from_fn::<u8, COOKIE_KEY_LEN, _>(|at| {
            (at as u8).wrapping_mul(37) ^ seed
        }));
        CookieKeys { current: key, other: None, shared: false }
    }

    fn flow() -> impl Strategy<Value = FlowKey> {
        let addr = prop_oneof![
            any::<u32>().prop_map(|bits| (InetAddr::from(Ipv4Addr::from_bits(bits)), InetAddr::v4(!bits))),
            any::<u128>().prop_map(|bits| {
                let addr = |bits| InetAddr::from(Ipv6Addr::from_bits(bits | 1 << 125));
                (addr(bits), addr(!bits))
            }),
        ];
        (addr, any::<u16>(), any::<u16>()).prop_map(|((saddr, daddr), sport, dport)| FlowKey {
            saddr,
            daddr,
            sport: TcpPort(sport),
            dport: TcpPort(dport),
        })
    }

    fn asked() -> impl Strategy<Value = Asked> {
        let options = (proptest::option::of(0..=14u8), any::<bool>(), any::<bool>());
        (any::<u16>(), options, any::<bool>()).prop_map(|(mss, (wscale, sack, ecn), timestamps)| Asked {
            mss,
            options: CookieOptions { wscale, sack, ecn },
            timestamps,
        })
    }

    proptest! {
        /// All that the SYN asked for comes back, for two epochs; the MSS as an entry of the table that is not above it.
        #[test]
        fn what_was_asked_comes_back(
            flow in flow(), asked in asked(), isn: u32, now in 0..1u64 << 60, later in 0..3 * EPOCH_NS,
        ) {
            let keys = keys(1);
            let made = cookie(&keys.current, &flow, SegSeq(isn), &asked, Nanos(now));
            let pair = (SegSeq(isn.wrapping_add(1)), made.plus(1));
            let found = check(&keys, &flow, pair, asked.timestamps, Nanos(now + later));
            let age = (now + later) / EPOCH_NS - now / EPOCH_NS;
            prop_assert_eq!(found.is_some(), age < 2);
            if let Some(found) = found {
                prop_assert_eq!(found.options, asked.options);
                let least = if flow.is_v4() { MSS_V4[0] } else { MSS_V6[0] };
                prop_assert!(found.mss <= asked.mss.max(least));
                prop_assert!(check(&keys, &flow, pair, !asked.timestamps, Nanos(now)).is_none());
            }
        }

        /// Another flow, ISN, key or attribute: no cookie. By chance one in 2^23 of these would be.
        #[test]
        fn nothing_else_is_a_cookie(flow in flow(), asked in asked(), isn: u32, bit in 0..32u32) {
            let (ours, now) = (keys(1), Nanos(1 << 40));
            let made = cookie(&ours.current, &flow, SegSeq(isn), &asked, now);
            let seq = SegSeq(isn.wrapping_add(1));
            let is = |keys: &CookieKeys, flow: &FlowKey, seq: SegSeq, made: SegSeq| {
                check(keys, flow, (seq, made.plus(1)), asked.timestamps, now).is_some()
            };
            prop_assert!(is(&ours, &flow, seq, made));
            prop_assert!(!is(&ours, &flow, seq, SegSeq(made.0 ^ 1 << bit)));
            prop_assert!(!is(&ours, &flow, SegSeq(seq.0 ^ 1 << bit), made));
            let other = FlowKey { sport: TcpPort(flow.sport.0 ^ 1 << (bit % 16)), ..flow };
            prop_assert!(!is(&ours, &other, seq, made));
            prop_assert!(!is(&keys(2), &flow, seq, made));
            let both = CookieKeys { current: keys(2).current, other: Some(ours.current), shared: false };
            prop_assert!(is(&both, &flow, seq, made), "the generation before still counts");
        }
    }

    #[test]
    fn a_box_whose_clock_is_ahead_is_heard_where_keys_are_shared() {
        let flow =
            FlowKey { saddr: InetAddr::v4(1), daddr: InetAddr::v4(2), sport: TcpPort(3), dport: TcpPort(4) };
        let asked = Asked { mss: 1460, options: CookieOptions::default(), timestamps: false };
        let (alone, now) = (keys(3), Nanos(10 * EPOCH_NS - 1));
        let made = cookie(&alone.current, &flow, SegSeq(7), &asked, Nanos(10 * EPOCH_NS));
        let pair = (SegSeq(8), made.plus(1));
        assert_eq!(check(&alone, &flow, pair, false, now), None);
        let shared = CookieKeys { shared: true, ..alone };
        assert_eq!(check(&shared, &flow, pair, false, now), Some(asked));
    }
}
