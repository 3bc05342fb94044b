//! SYN cookies: a handshake whose only memory is our initial sequence number, and the timestamp the peer echoes.
//!
//! The layout is the kernel's (`secure_tcp_syn_cookie`, net/ipv4/syncookies.c, Linux v6.18):
//! `H0 + client_seq + (count << 24) + ((H1(count) + mss_index) & 0xffffff)`, `count` in minutes, so a cookie is valid
//! for 60 to 120 s. With timestamps, the low six bits of TSval carry window scale, SACK and ECN.
//!
//! # Departures from the kernel
//! The two hashes are of the four-tuple alone, and the minute is in the second one's key: each minute has its own, made from
//! the secret one (`Minute`). A second generation of keys may be checked beside the first,
//! so that the keys can change while handshakes are in flight; and the keys may be shared: see [`CookieKeys`]. The minutes
//! are those of the clock that is handed in, which all that share keys must have in common.

pub mod rich;

use crate::flow_hash::flow_hash;
use crate::limits::BURST_MAX;
use crate::segment::FlowKey;
use crate::siphash::{SipKey, siphash_2_4};
use crate::types::{Nanos, SegSeq};
use crate::vector;

/// Nanoseconds that a cookie is valid at most, and that a listener looks for cookies after it sent one.
pub const COOKIE_VALID_NS: u64 = MAX_SYNCOOKIE_AGE as u64 * COOKIE_PERIOD_NS;

const COOKIE_PERIOD_NS: u64 = 60_000_000_000;
const MAX_SYNCOOKIE_AGE: u32 = 2;
const COOKIE_BITS: u32 = 24;
const COOKIE_MASK: u32 = (1 << COOKIE_BITS) - 1;

const MSS_V4: [u16; 4] = [536, 1300, 1440, 1460];
const MSS_V6: [u16; 4] = [1220, 1420, 1440, 8940];

const TS_BITS: u32 = 6;
const TS_WSCALE_MASK: u32 = 0xf;
const TS_SACK: u32 = 1 << 4;
const TS_ECN: u32 = 1 << 5;

/// One generation of keys: all that is secret in a SYN-ACK with a cookie.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct CookieKey {
    /// For H0 and for H1.
    pub(crate) hash: [SipKey; 2],
    /// For the timestamp offset of a pair of hosts, without which the options in the timestamp cannot be read.
    pub(crate) timestamps: SipKey,
}

/// Octets that a [`CookieKey`] is made from.
pub const COOKIE_KEY_LEN: usize = 48;

impl CookieKey {
    /// From random octets: the keys of H0, H1 and the timestamp offsets.
    pub fn from_bytes(bytes: &[u8; COOKIE_KEY_LEN]) -> Self {
        let key = |index: usize| SipKey::from_bytes(std::array::from_fn(|byte| bytes[index * 16 + byte]));
        Self { hash: [key(0), key(1)], timestamps: key(2) }
    }

    /// What tells generations apart and gives nothing away: 32 bits of a hash.
    pub fn fingerprint(&self) -> u32 {
        let [SipKey([a, b]), SipKey([c, d])] = self.hash;
        let SipKey([e, f]) = self.timestamps;
        siphash_2_4(SipKey([0, 0]), [a, b, c, d, e, f]) as u32
    }
}

impl std::fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CookieKey({:08x})", self.fingerprint())
    }
}

/// The keys that cookies are made and checked with.
///
/// To change keys on several cores without losing a handshake: give all of them the new one as `other`; when all have
/// it, make it `current` and the old one `other`; drop that after 120 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CookieKeys {
    /// Makes cookies, and checks them.
    pub current: CookieKey,
    /// Only checks them: the generation before, or the next one.
    pub other: Option<CookieKey>,
    /// Others make cookies with these keys too: machines behind the same address, or this one before it was started
    /// again. So a listener looks for cookies though it sent none itself, and a cookie may be from a clock that is
    /// already in the next minute.
    pub shared: bool,
}

/// What a cookie's timestamp remembers of the SYN's options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CookieOptions {
    /// The client's window scale.
    pub wscale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// ECN agreed.
    pub ecn: bool,
}

/// Minutes of the clock: what a cookie's age is counted in.
#[inline]
pub(crate) fn count(now: Nanos) -> u32 {
    (now.0 / COOKIE_PERIOD_NS) as u32
}

/// The keys of the cookies that are made in one minute: kept while it lasts, since most cookies are of the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Minute {
    /// None if it is nobody's minute yet.
    made_from: Option<[SipKey; 2]>,
    /// Of the clock.
    pub count: u32,
    /// For H0 and H1.
    pub keys: [SipKey; 2],
}

impl Minute {
    /// Minute `count` of `key`.
    pub fn new(key: &CookieKey, count: u32) -> Self {
        let [first, second] = key.hash;
        let word = |word: u64| siphash_2_4(second, [word << 32 | u64::from(count)]);
        Self { made_from: Some(key.hash), count, keys: [first, SipKey([word(0), word(1)])] }
    }

    /// Makes it the minute `count` of `key`.
    #[inline]
    pub fn be(&mut self, key: &CookieKey, count: u32) {
        if !self.is(key, count) {
            *self = Self::new(key, count);
        }
    }

    #[inline]
    fn is(&self, key: &CookieKey, count: u32) -> bool {
        self.count == count && self.made_from == Some(key.hash)
    }

    /// The keys of the minute `count` of `key`: of this one, if it is that.
    #[inline]
    fn keys_of(&self, key: &CookieKey, count: u32) -> [SipKey; 2] {
        if self.is(key, count) { self.keys } else { Self::new(key, count).keys }
    }
}

/// Cookie for a SYN: our ISS. `mss` is the client's; the largest entry not above it goes in, or the smallest.
///
/// # Source
/// Linux v6.18 `__cookie_v4_init_sequence`, `__cookie_v6_init_sequence`.
pub fn cookie_init_sequence(
    keys: &CookieKeys,
    flow: &FlowKey,
    client_seq: SegSeq,
    mss: u16,
    now: Nanos,
) -> SegSeq {
    let count = count(now);
    let hashes = Minute::new(&keys.current, count).keys.map(|key| flow_hash(key, flow));
    cookie_of(hashes, flow.is_v4(), client_seq, mss, count)
}

/// The cookie whose two hashes are known, the second one made with `count`.
#[inline(always)]
pub(crate) fn cookie_of(hashes: [u32; 2], v4: bool, client_seq: SegSeq, mss: u16, count: u32) -> SegSeq {
    let table = if v4 { &MSS_V4 } else { &MSS_V6 };
    // How many of the upper entries are not above it: the table is sorted, and this has no branches.
    let index = table[1..].iter().map(|&entry| u32::from(entry <= mss)).sum::<u32>();
    SegSeq(
        hashes[0]
            .wrapping_add(client_seq.0)
            .wrapping_add(count << COOKIE_BITS)
            .wrapping_add(hashes[1].wrapping_add(index) & COOKIE_MASK),
    )
}

/// [`cookie_of`] over IPv4 for `rows` rows, whose MSS is 0 if absent: in the instruction set of the function that it is
/// inlined into.
#[inline(always)]
pub(crate) fn cookies_of(
    [first, second]: [&[u32; BURST_MAX]; 2],
    seq: &[u32; BURST_MAX],
    mss: &[u32; BURST_MAX],
    count: u32,
    rows: usize,
    out: &mut [u32; BURST_MAX],
) {
    for row in 0..vector::whole(rows) {
        // No MSS is as good as the least, which has the same entry.
        let hashes = [first[row], second[row]];
        out[row] = cookie_of(hashes, true, SegSeq(seq[row]), mss[row] as u16, count).0;
    }
}

/// MSS of the client if `ack` acknowledges a cookie for this flow that is not too old, and the generation of keys
/// that made it.
///
/// `seq` and `ack` are those of the segment that came: the cookie is `ack - 1`, the client's ISN `seq - 1`.
///
/// # Source
/// Linux v6.18 `check_tcp_syn_cookie`, `__cookie_v4_check`, `__cookie_v6_check`.
pub fn cookie_check<'k>(
    keys: &'k CookieKeys,
    flow: &FlowKey,
    seq: SegSeq,
    ack: SegSeq,
    now: Nanos,
) -> Option<(u16, &'k CookieKey)> {
    check(keys, &Minute::default(), flow, (seq, ack), now)
}

/// [`cookie_check`], with a minute whose keys are known.
pub(crate) fn check<'k>(
    keys: &'k CookieKeys,
    known: &Minute,
    flow: &FlowKey,
    (seq, ack): (SegSeq, SegSeq),
    now: Nanos,
) -> Option<(u16, &'k CookieKey)> {
    // The newest minute that a cookie may be from, and how many count.
    let ahead = u32::from(keys.shared);
    let (newest, ages) = (count(now).wrapping_add(ahead), MAX_SYNCOOKIE_AGE + ahead);
    let one = |key: &'k CookieKey| {
        let cookie = ack.0.wrapping_sub(1);
        let rest = cookie.wrapping_sub(flow_hash(key.hash[0], flow)).wrapping_sub(seq.0.wrapping_sub(1));
        let age = newest.wrapping_sub(rest >> COOKIE_BITS) & 0xff;
        if age >= ages {
            return None;
        }
        let [_, minutes] = known.keys_of(key, newest.wrapping_sub(age));
        let index = rest.wrapping_sub(flow_hash(minutes, flow)) & COOKIE_MASK;
        let table = if flow.is_v4() { &MSS_V4 } else { &MSS_V6 };
        Some((*table.get(index as usize)?, key))
    };
    one(&keys.current).or_else(|| keys.other.as_ref().and_then(one))
}

/// TSval, before the peer's offset, that carries `options`: at most 63 ms behind the clock, never in front of it.
///
/// # Source
/// Linux v6.18 `cookie_init_timestamp`.
#[inline(always)]
pub const fn cookie_init_timestamp(clock_ms: u32, options: CookieOptions) -> u32 {
    let wscale = match options.wscale {
        Some(wscale) => wscale as u32 & TS_WSCALE_MASK,
        None => TS_WSCALE_MASK,
    };
    let bits = wscale | if options.sack { TS_SACK } else { 0 } | if options.ecn { TS_ECN } else { 0 };
    let ts = clock_ms >> TS_BITS << TS_BITS | bits;
    if ts > clock_ms { ts.wrapping_sub(1 << TS_BITS) } else { ts }
}

/// What TSecr, less the peer's offset, says about the SYN's options.
///
/// # Source
/// Linux v6.18 `cookie_timestamp_decode`.
pub const fn cookie_timestamp_decode(tsecr: u32) -> CookieOptions {
    let wscale = tsecr & TS_WSCALE_MASK;
    CookieOptions {
        wscale: if wscale == TS_WSCALE_MASK { None } else { Some(wscale as u8) },
        sack: tsecr & TS_SACK != 0,
        ecn: tsecr & TS_ECN != 0,
    }
}

#[cfg(test)]
mod tests;
