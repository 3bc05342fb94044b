//! [`Isa`] for x86-64.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::{offset_of, transmute};

use super::{
    Bucket, Isa, Keys, LANES, Lanes, ListenKey, ListenerId, Located, Mix, STEP, Step, TcpPort, View, Wilds,
    exact_pass, miss, wild_pass,
};
use crate::sync::Ordering;
use crate::types::InetAddr;

pub(super) struct Avx512;
pub(super) struct Avx2;
pub(super) struct Sse42;

macro_rules! pass {
    ($name:ident, $isa:ty, $features:literal) => {
        /// [`exact_pass`] with these features.
        #[target_feature(enable = $features)]
        pub(super) fn $name<K: Keys, N>(
            view: View<'_, N>,
            wild: Option<Wilds<'_>>,
            mix: &Mix,
            keys: K,
            found: &mut [Option<ListenerId>],
        ) -> Lanes {
            // SAFETY: this function's own features are those of the set.
            unsafe {
                // Whole bursts are the rule.
                match <&mut [_; LANES]>::try_from(&mut *found) {
                    Ok(found) => exact_pass::<$isa, K, N>(view, wild, mix, keys.whole(), found),
                    Err(_) => exact_pass::<$isa, K, N>(view, wild, mix, keys, found),
                }
            }
        }
    };
}
pass!(exact_avx512, Avx512, "avx512f,avx512dq,bmi1,bmi2,popcnt");
pass!(exact_avx2, Avx2, "avx2,bmi1,bmi2,popcnt");
pass!(exact_sse42, Sse42, "sse4.2,popcnt");

/// [`wild_pass`] with AVX-512.
#[target_feature(enable = "avx512f,avx512dq,bmi1,bmi2,popcnt")]
pub(super) fn wild_avx512<K: Keys>(
    wild: Option<Wilds<'_>>,
    keys: K,
    found: &mut [Option<ListenerId>],
) -> Lanes {
    // SAFETY: this function's own features are those of the set.
    unsafe { wild_pass::<Avx512, K>(wild, keys, found) }
}

/// Where in a key the AVX-512 path finds our address, upper word first, and the ports, peer's first.
const DADDR: usize = offset_of!(ListenKey, flow.daddr);
const PORTS: usize = offset_of!(ListenKey, flow.sport);
const _: () = {
    assert!(offset_of!(ListenKey, flow.dport) == PORTS + 2);
    // SAFETY: two words without padding are any two words.
    let words: [u64; 2] = unsafe { transmute(InetAddr::v6(1, 2)) };
    assert!(words[0] == 1 && words[1] == 2);
};

/// `Some(ListenerId(0))` as a word; the id is its upper half, and in a `None` the lower is zero. The language does not say
/// so, hence the asserts: a compiler that lays it out otherwise will not compile this.
const SOME: i64 = 1;
const _: () = {
    let (sample, none) = (Some(ListenerId(0x1234_5678)), None::<ListenerId>);
    assert!(size_of::<Option<ListenerId>>() == 8);
    // SAFETY: a `Some` of four bytes and a tag of four has no byte that is not written; of the `None` the first four bytes
    // are read only, which hold the tag if the assert above them holds.
    unsafe {
        assert!(transmute::<Option<ListenerId>, i64>(sample) == 0x1234_5678 << 32 | SOME);
        assert!((&raw const none).cast::<u32>().read() == 0);
    }
};

// SAFETY (the two loads below):
// - Bounds: a `&Bucket` is 64 bytes at a 64-byte border, and offsets stay within.
// - Race: see the head of the module above, "Vector loads and races".

#[inline]
#[target_feature(enable = "avx")]
fn load_256(bucket: &Bucket) -> [__m256i; 2] {
    let (low, high);
    // SAFETY: see above.
    unsafe {
        asm!("vmovdqa {low}, [{at}]", "vmovdqa {high}, [{at} + 32]", low = out(ymm_reg) low,
            high = out(ymm_reg) high, at = in(reg) bucket, options(nostack, preserves_flags, readonly));
    }
    [low, high]
}

#[inline]
fn load_128(bucket: &Bucket) -> [__m128i; 4] {
    let (a, b, c, d);
    // SAFETY: see above.
    unsafe {
        asm!("movdqa {a}, [{at}]", "movdqa {b}, [{at} + 16]", "movdqa {c}, [{at} + 32]", "movdqa {d}, [{at} + 48]",
            a = out(xmm_reg) a, b = out(xmm_reg) b, c = out(xmm_reg) c, d = out(xmm_reg) d,
            at = in(reg) bucket, options(nostack, preserves_flags, readonly));
    }
    [a, b, c, d]
}

/// How the words of lane `LANE`'s bucket differ from its probe.
#[inline]
#[target_feature(enable = "avx512f")]
fn differ_512<const LANE: usize>(step: Step<'_>) -> __m512i {
    const { assert!(LANE < STEP) };
    let differ;
    // SAFETY: bounds: by a step's invariant its places lie within `memory`, each 64 bytes at a 64-byte border; there are more
    // places and probes than LANE. Race: as above.
    // The place is loaded here, for the compiler would take it out of the vector that it was stored from, which is slower.
    unsafe {
        asm!("mov {place}, [{places} + {lane}]", "vmovdqa64 {differ}, [{memory} + {place}]",
            "vpxorq {differ}, {differ}, qword ptr [{probes} + {lane}]{{1to8}}",
            differ = out(zmm_reg) differ, memory = in(reg) step.memory.as_ptr(), place = out(reg) _,
            places = in(reg) step.places, probes = in(reg) step.probes, lane = const 8 * LANE,
            options(nostack, preserves_flags, readonly));
    }
    differ
}

/// Our address of `key`: upper word, lower word.
#[inline]
fn daddr(key: &ListenKey) -> __m128i {
    // SAFETY: bounds and layout: 16 bytes of the key's two words, see the asserts at `DADDR`.
    unsafe { _mm_loadu_si128(std::ptr::from_ref(key).byte_add(DADDR).cast()) }
}

/// Both ports of `key`, ours in the upper half.
#[inline]
fn ports(key: &ListenKey) -> i32 {
    // SAFETY: bounds and layout: 4 bytes of the two ports, see the asserts at `PORTS`.
    unsafe { std::ptr::from_ref(key).byte_add(PORTS).cast::<i32>().read_unaligned() }
}

/// The addresses of four keys, side by side.
#[inline]
#[target_feature(enable = "avx512f")]
fn daddrs(keys: [&ListenKey; 4]) -> __m512i {
    let [a, b, c, d] = keys;
    let all = _mm512_castsi128_si512(daddr(a));
    let all = _mm512_inserti32x4::<1>(all, daddr(b));
    let all = _mm512_inserti32x4::<2>(all, daddr(c));
    _mm512_inserti32x4::<3>(all, daddr(d))
}

/// Word `i` of the result is the least word of vector `i`.
#[inline]
#[target_feature(enable = "avx512f")]
fn least_of_each([a, b, c, d, e, f, g, h]: [__m512i; STEP]) -> __m512i {
    // Each step halves the words that a lane is spread over: 8 lanes of 8 words end as one vector of 8 lanes.
    let pair = |one, two| _mm512_min_epu64(_mm512_unpacklo_epi64(one, two), _mm512_unpackhi_epi64(one, two));
    let halve = |one, two| {
        let (even, odd) = (_mm512_shuffle_i64x2::<0x88>(one, two), _mm512_shuffle_i64x2::<0xdd>(one, two));
        _mm512_min_epu64(even, odd)
    };
    halve(halve(pair(a, b), pair(c, d)), halve(pair(e, f), pair(g, h)))
}

/// `Mix::v4`, `place` and `Probe::one` of keys as `Mix::raw_v4` makes them.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,bmi1,bmi2,popcnt")]
fn put_512(raw: __m512i, mix: &Mix, bits: u32, lanes: Located<'_>) {
    let word = |word: u64| _mm512_set1_epi64(word.cast_signed());
    let once = _mm512_mullo_epi64(_mm512_xor_si512(raw, word(mix.add)), word(mix.factors[0]));
    let upper = _mm512_and_si512(_mm512_srli_epi64::<24>(once), word(!0xffff));
    let hash = _mm512_mullo_epi64(_mm512_xor_si512(once, upper), word(mix.factors[1]));
    let place = _mm512_srl_epi64(hash, _mm_cvtsi32_si128(64 - bits.cast_signed()));
    let place = _mm512_slli_epi64::<{ super::super::BUCKET_SHIFT }>(place);
    let probe = _mm512_sll_epi64(hash, _mm_cvtsi32_si128(bits.cast_signed()));
    let probe = _mm512_or_si512(probe, word(super::super::OCCUPIED));
    // SAFETY: bounds: each array is 64 bytes.
    unsafe {
        _mm512_storeu_si512(lanes.places.as_mut_ptr().cast(), place);
        _mm512_storeu_si512(lanes.probes.as_mut_ptr().cast(), probe);
    }
}

// SAFETY: a place is a hash shifted right by 64 - bits and left by a bucket's size: `put_512`.
unsafe impl Isa for Avx512 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,bmi1,bmi2,popcnt")]
    unsafe fn locate(keys: &[ListenKey; STEP], mix: &Mix, bits: u32, lanes: Located<'_>) -> u64 {
        let [a, b, c, d, e, f, g, h] = keys;
        // Upper and lower words alternate; of evens and odds they fall into order.
        let (even, odd) = (daddrs([a, c, e, g]), daddrs([b, d, f, h]));
        let (upper, lower) = (_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd));
        let ports =
            _mm256_setr_epi32(ports(a), ports(b), ports(c), ports(d), ports(e), ports(f), ports(g), ports(h));
        let dports = _mm512_and_si512(_mm512_cvtepu32_epi64(ports), _mm512_set1_epi64(0xffff_0000));
        let raw = _mm512_or_si512(_mm512_slli_epi64::<32>(lower), dports);
        let mapped = _mm512_xor_si512(_mm512_srli_epi64::<32>(lower), _mm512_set1_epi64(0xffff));
        let not_v4 = _mm512_or_si512(upper, mapped);

        put_512(raw, mix, bits, lanes);
        u64::from(_mm512_test_epi64_mask(not_v4, not_v4))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,bmi1,bmi2,popcnt")]
    unsafe fn locate_columns(
        daddr: &[u32; STEP],
        ports: &[u32; STEP],
        mix: &Mix,
        bits: u32,
        lanes: Located<'_>,
    ) {
        // SAFETY: bounds: each array is 32 bytes.
        let [daddr, ports] =
            [daddr, ports].map(|column| unsafe { _mm256_loadu_si256(column.as_ptr().cast()) });
        let daddr = _mm512_slli_epi64::<32>(_mm512_cvtepu32_epi64(daddr));
        let dports = _mm512_cvtepu32_epi64(_mm256_slli_epi32::<16>(ports));
        put_512(_mm512_or_si512(daddr, dports), mix, bits, lanes);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,bmi1,bmi2,popcnt")]
    unsafe fn nearest(step: Step<'_>, differ: &mut [u64; STEP]) -> u32 {
        let least = least_of_each([
            differ_512::<0>(step),
            differ_512::<1>(step),
            differ_512::<2>(step),
            differ_512::<3>(step),
            differ_512::<4>(step),
            differ_512::<5>(step),
            differ_512::<6>(step),
            differ_512::<7>(step),
        ]);
        // SAFETY: bounds: `differ` is 64 bytes.
        unsafe { _mm512_storeu_si512(differ.as_mut_ptr().cast(), least) };
        let limit = _mm512_set1_epi64(1 << super::Probe::ONE_BITS);
        u32::from(_mm512_cmpge_epu64_mask(least, limit))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,bmi1,bmi2,popcnt")]
    unsafe fn answer(misses: u32, differs: &[u64; STEP], found: &mut [Option<ListenerId>; STEP]) {
        // SAFETY: bounds: `differs` is 64 bytes.
        let differs = unsafe { _mm512_loadu_si512(differs.as_ptr().cast()) };
        let some = _mm512_or_si512(_mm512_slli_epi64::<32>(differs), _mm512_set1_epi64(SOME));
        // SAFETY: bounds and layout: `found` is 64 bytes, and each word is a `Some` or zero, which is a `None`: see `SOME`.
        unsafe {
            _mm512_storeu_si512(found.as_mut_ptr().cast(), _mm512_maskz_mov_epi64(!misses as __mmask8, some));
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,bmi1,bmi2,popcnt")]
    unsafe fn lists(differs: &[u64; STEP]) -> u32 {
        // SAFETY: bounds: `differs` is 64 bytes.
        let differs = unsafe { _mm512_loadu_si512(differs.as_ptr().cast()) };
        u32::from(_mm512_cmplt_epu64_mask(differs, _mm512_set1_epi64(1 << super::Probe::ANY_BITS)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,bmi1,bmi2,popcnt")]
    unsafe fn may_be_displaced(step: Step<'_>) -> u32 {
        let byte = |lane: usize| i64::from(step.spilled(lane).load(Ordering::Acquire));
        let bytes = _mm512_setr_epi64(byte(0), byte(1), byte(2), byte(3), byte(4), byte(5), byte(6), byte(7));
        // SAFETY: bounds: there are 64 bytes of probes.
        let probes = unsafe { _mm512_loadu_si512(step.probes.as_ptr().cast()) };
        let class =
            _mm512_and_si512(_mm512_srli_epi64::<{ super::Probe::CLASS_BIT }>(probes), _mm512_set1_epi64(7));
        u32::from(_mm512_test_epi64_mask(_mm512_srlv_epi64(bytes, class), _mm512_set1_epi64(1)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,bmi1,bmi2,popcnt")]
    unsafe fn wild(
        wild: Wilds<'_>,
        port: impl Fn(usize) -> TcpPort,
        asks: u32,
        found: &mut [Option<ListenerId>; STEP],
    ) -> u32 {
        let word = |lane: usize| wild.word(port(lane)).cast_signed();
        let words = _mm256_setr_epi32(word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7));
        let words = _mm512_cvtepu32_epi64(words);
        let has = |bits: u32| _mm512_test_epi64_mask(words, _mm512_set1_epi64(i64::from(bits)));
        let asks = asks as __mmask8;
        let id = _mm512_and_si512(words, _mm512_set1_epi64(i64::from(Wilds::NUMBER)));
        let some = _mm512_or_si512(_mm512_slli_epi64::<32>(id), _mm512_set1_epi64(SOME));
        // SAFETY: bounds and layout: `found` is 64 bytes, and each word that is written is a `Some`: see `SOME`.
        unsafe { _mm512_mask_storeu_epi64(found.as_mut_ptr().cast(), asks & has(Wilds::IPV4), some) };
        u32::from(asks & has(Wilds::OCCUPIED) & !has(Wilds::IPV4 | Wilds::IPV6))
    }
}

/// The greater of both words, by halves.
#[inline]
#[target_feature(enable = "sse4.2")]
fn greater(words: __m128i) -> u64 {
    _mm_cvtsi128_si64(_mm_max_epu32(words, _mm_unpackhi_epi64(words, words))).cast_unsigned()
}

/// A difference that reaches this bit is no match. SSE4.2 cannot compare words of 64 bits without sign, but halves: so a difference that is no match becomes 0 and one that is becomes its complement, whose upper half is all
/// ones. The greatest of each half then belong to one word, the one of the least difference.
const MATCH_BITS: i32 = super::Probe::ANY_BITS.cast_signed();

/// The lesser of each pair of words; there is no such instruction before AVX-512. With sign.
#[inline]
#[target_feature(enable = "avx2")]
fn lesser(one: __m256i, two: __m256i) -> __m256i {
    let two_is = _mm256_castsi256_pd(_mm256_cmpgt_epi64(one, two));
    let (one, two) = (_mm256_castsi256_pd(one), _mm256_castsi256_pd(two));
    _mm256_castpd_si256(_mm256_blendv_pd(one, two, two_is))
}

/// The products modulo 2^64; there is no such instruction before AVX-512.
#[inline]
#[target_feature(enable = "avx2")]
fn product(words: __m256i, factor: u64) -> __m256i {
    let lower = _mm256_set1_epi64x(factor.cast_signed());
    let upper = _mm256_set1_epi64x((factor >> 32).cast_signed());
    let crossed = _mm256_add_epi64(
        _mm256_mul_epu32(_mm256_srli_epi64::<32>(words), lower),
        _mm256_mul_epu32(words, upper),
    );
    _mm256_add_epi64(_mm256_mul_epu32(words, lower), _mm256_slli_epi64::<32>(crossed))
}

/// As [`put_512`], for one half of a step.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn put_256(raw: __m256i, mix: &Mix, bits: u32, half: usize, lanes: &mut Located<'_>) {
    let word = |word: u64| _mm256_set1_epi64x(word.cast_signed());
    let once = product(_mm256_xor_si256(raw, word(mix.add)), mix.factors[0]);
    let upper = _mm256_and_si256(_mm256_srli_epi64::<24>(once), word(!0xffff));
    let hash = product(_mm256_xor_si256(once, upper), mix.factors[1]);
    let place = _mm256_srl_epi64(hash, _mm_cvtsi32_si128(64 - bits.cast_signed()));
    let place = _mm256_slli_epi64::<{ super::super::BUCKET_SHIFT.cast_signed() }>(place);
    let probe = _mm256_sll_epi64(hash, _mm_cvtsi32_si128(bits.cast_signed()));
    let probe = _mm256_or_si256(probe, word(super::super::OCCUPIED));
    for (column, words) in [(&mut *lanes.places, place), (&mut *lanes.probes, probe)] {
        // SAFETY: bounds: a column is 64 bytes, of which this is the first or second half.
        unsafe { _mm256_storeu_si256(column.as_mut_ptr().add(4 * half).cast(), words) };
    }
}

// SAFETY: a place is a hash shifted right by 64 - bits and left by a bucket's size: `put_256`.
unsafe impl Isa for Avx2 {
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    unsafe fn locate(keys: &[ListenKey; STEP], mix: &Mix, bits: u32, mut lanes: Located<'_>) -> u64 {
        let word = |word: u64| _mm256_set1_epi64x(word.cast_signed());
        let mut not_v4 = word(0);
        for (half, [a, b, c, d]) in keys.as_chunks().0.iter().enumerate() {
            // As with AVX-512, four at a time.
            let (even, odd) = (_mm256_set_m128i(daddr(c), daddr(a)), _mm256_set_m128i(daddr(d), daddr(b)));
            let (upper, lower) = (_mm256_unpacklo_epi64(even, odd), _mm256_unpackhi_epi64(even, odd));
            let ports = _mm_setr_epi32(ports(a), ports(b), ports(c), ports(d));
            let dports = _mm256_and_si256(_mm256_cvtepu32_epi64(ports), word(0xffff_0000));
            let raw = _mm256_or_si256(_mm256_slli_epi64::<32>(lower), dports);
            let mapped = _mm256_xor_si256(_mm256_srli_epi64::<32>(lower), word(0xffff));
            not_v4 = _mm256_or_si256(not_v4, _mm256_or_si256(upper, mapped));
            put_256(raw, mix, bits, half, &mut lanes);
        }
        u64::from(_mm256_testz_si256(not_v4, not_v4) == 0)
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    unsafe fn locate_columns(
        daddr: &[u32; STEP],
        ports: &[u32; STEP],
        mix: &Mix,
        bits: u32,
        mut lanes: Located<'_>,
    ) {
        for (half, (daddr, ports)) in
            daddr.as_chunks::<4>().0.iter().zip(ports.as_chunks::<4>().0).enumerate()
        {
            // SAFETY: bounds: each array is 16 bytes.
            let [daddr, ports] =
                [daddr, ports].map(|column| unsafe { _mm_loadu_si128(column.as_ptr().cast()) });
            let daddr = _mm256_slli_epi64::<32>(_mm256_cvtepu32_epi64(daddr));
            let dports = _mm256_cvtepu32_epi64(_mm_slli_epi32::<16>(ports));
            put_256(_mm256_or_si256(daddr, dports), mix, bits, half, &mut lanes);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    unsafe fn nearest(step: Step<'_>, differ: &mut [u64; STEP]) -> u32 {
        // The compare has a sign, the differences have none: they are looked at with their highest bit turned.
        let turn = 1u64 << 63;
        let each = |lane: usize| {
            let probe = _mm256_set1_epi64x((step.probes[lane] ^ turn).cast_signed());
            let [low, high] = load_256(step.bucket(lane));
            lesser(_mm256_xor_si256(low, probe), _mm256_xor_si256(high, probe))
        };
        let pair = |one, two| lesser(_mm256_unpacklo_epi64(one, two), _mm256_unpackhi_epi64(one, two));
        let halve = |one, two| {
            lesser(_mm256_permute2x128_si256::<0x20>(one, two), _mm256_permute2x128_si256::<0x31>(one, two))
        };
        let limit = _mm256_set1_epi64x((((1 << super::Probe::ONE_BITS) - 1) ^ turn).cast_signed());
        let mut misses = 0;
        for half in 0..2 {
            let from = half * 4;
            let least = halve(pair(each(from), each(from + 1)), pair(each(from + 2), each(from + 3)));
            let over = _mm256_castsi256_pd(_mm256_cmpgt_epi64(least, limit));
            misses |= _mm256_movemask_pd(over).cast_unsigned() << from;
            let least = _mm256_xor_si256(least, _mm256_set1_epi64x(turn.cast_signed()));
            // SAFETY: bounds: `differ` is 64 bytes, of which this is the first or second half.
            unsafe { _mm256_storeu_si256(differ.as_mut_ptr().add(from).cast(), least) };
        }
        misses
    }
}

// SAFETY: the functions that the trait brings take their places from `place`.
unsafe impl Isa for Sse42 {
    #[inline]
    #[target_feature(enable = "sse4.2,popcnt")]
    unsafe fn nearest(step: Step<'_>, differ: &mut [u64; STEP]) -> u32 {
        let mut misses = 0;
        for (lane, differ) in differ.iter_mut().enumerate() {
            let probe = _mm_set1_epi64x(step.probes[lane].cast_signed());
            let pair = |words| {
                let apart = _mm_xor_si128(words, probe);
                let equal = _mm_cmpeq_epi64(_mm_srli_epi64::<MATCH_BITS>(apart), _mm_setzero_si128());
                _mm_andnot_si128(apart, equal)
            };
            let [a, b, c, d] = load_128(step.bucket(lane));
            let kept = _mm_max_epu32(_mm_max_epu32(pair(a), pair(b)), _mm_max_epu32(pair(c), pair(d)));
            *differ = !greater(kept);
            misses |= miss(*differ, lane);
        }
        misses
    }
}
