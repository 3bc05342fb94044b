//! The compares of a lookup, once per instruction set, and the choice among them at run time.
//!
//! All sets run the same passes, [`exact_pass`], and differ in [`Isa`] alone: how eight words are compared with a
//! probe. A test holds every set that the machine has against the portable one. The answer of a hit is read by one
//! atomic load of the slot that the compare pointed at, and is checked again in that very word; so a vector compare
//! decides *where* to look, and a single 64-bit word *what* is there.
//!
//! # Vector loads and races
//! Writers change words while vector loads read them. A plain vector load would be a data race in Rust's memory model,
//! so the loads are inline assembly: to the model, eight atomic loads of unsaid order. The hardware keeps its side:
//! x86-64 never tears an aligned 64-bit element of a vector load that stays within one cache line, and does not let a
//! later load pass an earlier one.

use super::{Bucket, LANES, Lanes, Mix, Probe, View};
use crate::inet_hashtables::ListenKey;
use crate::sync::Ordering;
use crate::types::ListenerId;

/// An instruction set that this machine has been seen to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel(Choice);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    Avx512,
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    Avx2,
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    Sse42,
    Portable,
}

impl Kernel {
    /// The portable set: any machine, eight scalar loads per bucket.
    pub(crate) const PORTABLE: Self = Self(Choice::Portable);

    /// Every set that this machine has, the best first and [`Kernel::PORTABLE`] last.
    pub(crate) fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut sets = Vec::new();
        #[cfg(all(target_arch = "x86_64", not(loom)))]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("bmi2")
            {
                sets.push(Self(Choice::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
                sets.push(Self(Choice::Avx2));
            }
            if is_x86_feature_detected!("sse4.2") {
                sets.push(Self(Choice::Sse42));
            }
        }
        sets.push(Self::PORTABLE);
        sets
    }

    /// The best set that this machine has.
    pub(crate) fn best() -> Self {
        Self::available()[0]
    }

    /// As the bench prints it.
    pub(crate) const fn name(self) -> &'static str {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", not(loom)))]
            Choice::Avx512 => "avx512",
            #[cfg(all(target_arch = "x86_64", not(loom)))]
            Choice::Avx2 => "avx2",
            #[cfg(all(target_arch = "x86_64", not(loom)))]
            Choice::Sse42 => "sse4.2",
            Choice::Portable => "portable",
        }
    }

    /// [`exact_pass`] in this set.
    #[inline]
    pub(super) fn exact_pass<N>(
        self,
        view: View<'_, N>,
        mix: &Mix,
        keys: &[ListenKey],
        found: &mut [Option<ListenerId>],
        lanes: &mut Lanes,
    ) {
        // SAFETY: a `Kernel` of a set is made by `available` only, after the machine was seen to have it.
        unsafe {
            match self.0 {
                #[cfg(all(target_arch = "x86_64", not(loom)))]
                Choice::Avx512 => x86::exact_avx512(view, mix, keys, found, lanes),
                #[cfg(all(target_arch = "x86_64", not(loom)))]
                Choice::Avx2 => x86::exact_avx2(view, mix, keys, found, lanes),
                #[cfg(all(target_arch = "x86_64", not(loom)))]
                Choice::Sse42 => x86::exact_sse42(view, mix, keys, found, lanes),
                Choice::Portable => exact_pass::<Portable, N>(view, mix, keys, found, lanes),
            }
        }
    }
}

/// How one instruction set compares a bucket.
pub(super) trait Isa {
    /// Bit `i` is set if word `i` equals `probe` in all bits from `BITS` up. Acquire.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn equal<const BITS: u32>(bucket: &Bucket, probe: u64) -> u32;

    /// True if some word is zero. Loads the bucket anew, after whatever was loaded before.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn has_zero(bucket: &Bucket) -> bool;
}

/// Words compared one by one.
pub(super) struct Portable;

impl Isa for Portable {
    #[inline(always)]
    unsafe fn equal<const BITS: u32>(bucket: &Bucket, probe: u64) -> u32 {
        let bit = |(at, word): (usize, &crate::sync::AtomicU64)| {
            u32::from((word.load(Ordering::Acquire) ^ probe) >> BITS == 0) << at
        };
        bucket.0.iter().enumerate().map(bit).sum()
    }

    #[inline(always)]
    unsafe fn has_zero(bucket: &Bucket) -> bool {
        bucket.0.iter().any(|word| word.load(Ordering::Acquire) == 0)
    }
}

/// Looks up to [`LANES`] keys up by exact IPv4 address and port. What is answered in the first bucket by its one word
/// is written to `found`; of the rest, `lanes.missed` are those that are certainly not in the table and `lanes.slow`
/// those that a list or a second bucket may answer. A lane that is not IPv4 gets no answer of meaning, and sets
/// `lanes.other_family`.
///
/// # Safety
/// The machine has the instruction set of `I`.
#[inline(always)]
unsafe fn exact_pass<I: Isa, N>(
    view: View<'_, N>,
    mix: &Mix,
    keys: &[ListenKey],
    found: &mut [Option<ListenerId>],
    lanes: &mut Lanes,
) {
    assert!(keys.len() <= LANES && keys.len() == found.len(), "one answer per key, one burst at a time");
    let mut not_v4 = 0;
    for (hash, key) in lanes.hash.iter_mut().zip(keys) {
        let daddr = key.flow.daddr;
        not_v4 |= daddr.hi() | (daddr.lo() >> 32 ^ 0xffff);
        *hash = Mix::raw_v4(daddr.lo() as u32, key.flow.dport);
    }
    // All of them, used or not: a fixed count is what the compiler turns into vectors.
    for hash in &mut lanes.hash {
        *hash = mix.v4(*hash);
    }
    for &hash in &lanes.hash[..keys.len()] {
        prefetch(std::ptr::from_ref(view.bucket(view.first(hash))).cast());
    }
    lanes.other_family = not_v4 != 0;

    let mut rest = 0;
    for (lane, found) in found.iter_mut().enumerate() {
        let hash = lanes.hash[lane];
        let bucket = view.bucket(view.first(hash));
        let probe = Probe::one(view.bits, hash);
        // SAFETY: the caller's word on the instruction set.
        let at = unsafe { I::equal::<{ Probe::ONE_BITS }>(bucket, probe) };
        let word = bucket.0[at.trailing_zeros() as usize % super::SLOTS].load(Ordering::Acquire);
        let differ = word ^ probe;
        let hit = differ >> Probe::ONE_BITS == 0;
        *found = if hit { Some(ListenerId(differ as u32)) } else { None };
        lanes.slow[rest] = lane as u8;
        rest += usize::from(!hit);
    }
    let (mut slow, mut missed) = (0, 0);
    for at in 0..rest {
        let lane = lanes.slow[at];
        let hash = lanes.hash[usize::from(lane)];
        let bucket = view.bucket(view.first(hash));
        // SAFETY: the caller's word on the instruction set.
        let gone = unsafe {
            I::equal::<{ Probe::ANY_BITS }>(bucket, Probe::one(view.bits, hash)) == 0 && I::has_zero(bucket)
        };
        lanes.missed[missed] = lane;
        missed += usize::from(gone);
        lanes.slow[slow] = lane;
        slow += usize::from(!gone);
    }
    (lanes.slow_len, lanes.missed_len) = (slow, missed);
}

/// Asks for the cache line at `line`. Any address will do: a prefetch never faults.
#[inline(always)]
pub(super) fn prefetch(line: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    // SAFETY: a prefetch reads nothing that the program can see.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(loom)))]
    // SAFETY: a prefetch reads nothing that the program can see.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
    }
    let _ = line;
}

#[cfg(all(target_arch = "x86_64", not(loom)))]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    use super::{Bucket, Isa, Lanes, ListenKey, ListenerId, Mix, View, exact_pass};

    pub(super) struct Avx512;
    pub(super) struct Avx2;
    pub(super) struct Sse42;

    macro_rules! pass {
        ($name:ident, $isa:ty, $features:literal) => {
            /// [`exact_pass`] with these features.
            #[target_feature(enable = $features)]
            pub(super) fn $name<N>(
                view: View<'_, N>,
                mix: &Mix,
                keys: &[ListenKey],
                found: &mut [Option<ListenerId>],
                lanes: &mut Lanes,
            ) {
                // SAFETY: this function's own features are those of the set.
                unsafe { exact_pass::<$isa, N>(view, mix, keys, found, lanes) }
            }
        };
    }
    pass!(exact_avx512, Avx512, "avx512f,avx512dq,bmi1,bmi2,popcnt");
    pass!(exact_avx2, Avx2, "avx2,bmi1,bmi2,popcnt");
    pass!(exact_sse42, Sse42, "sse4.2,popcnt");

    // The loads below share one argument.
    // SAFETY:
    // - Bounds: a `&Bucket` is 64 bytes at a 64-byte border, and offsets stay within.
    // - Race: see the module's head, "Vector loads and races".

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load_512(bucket: &Bucket) -> __m512i {
        let words;
        // SAFETY: see above.
        unsafe {
            asm!("vmovdqa64 {words}, [{at}]", words = out(zmm_reg) words, at = in(reg) bucket,
                options(nostack, preserves_flags, readonly));
        }
        words
    }

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

    impl Isa for Avx512 {
        #[inline]
        #[target_feature(enable = "avx512f,avx512dq,bmi1,bmi2,popcnt")]
        unsafe fn equal<const BITS: u32>(bucket: &Bucket, probe: u64) -> u32 {
            let differ = _mm512_xor_si512(load_512(bucket), _mm512_set1_epi64(probe.cast_signed()));
            u32::from(_mm512_cmplt_epu64_mask(differ, _mm512_set1_epi64(1 << BITS)))
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512dq,bmi1,bmi2,popcnt")]
        unsafe fn has_zero(bucket: &Bucket) -> bool {
            let words = load_512(bucket);
            _mm512_testn_epi64_mask(words, words) != 0
        }
    }

    impl Isa for Avx2 {
        #[inline]
        #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
        unsafe fn equal<const BITS: u32>(bucket: &Bucket, probe: u64) -> u32 {
            let probe = _mm256_set1_epi64x(probe.cast_signed());
            let half = |words| {
                let differ =
                    _mm256_srl_epi64(_mm256_xor_si256(words, probe), _mm_cvtsi32_si128(BITS.cast_signed()));
                let equal = _mm256_cmpeq_epi64(differ, _mm256_setzero_si256());
                _mm256_movemask_pd(_mm256_castsi256_pd(equal)).cast_unsigned()
            };
            let [low, high] = load_256(bucket);
            half(low) | half(high) << 4
        }

        #[inline]
        #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
        unsafe fn has_zero(bucket: &Bucket) -> bool {
            let [low, high] = load_256(bucket);
            let zero = |words| _mm256_cmpeq_epi64(words, _mm256_setzero_si256());
            let any = _mm256_or_si256(zero(low), zero(high));
            _mm256_movemask_epi8(any) != 0
        }
    }

    impl Isa for Sse42 {
        #[inline]
        #[target_feature(enable = "sse4.2,popcnt")]
        unsafe fn equal<const BITS: u32>(bucket: &Bucket, probe: u64) -> u32 {
            let probe = _mm_set1_epi64x(probe.cast_signed());
            let pair = |words| {
                let differ =
                    _mm_srl_epi64(_mm_xor_si128(words, probe), _mm_cvtsi32_si128(BITS.cast_signed()));
                let equal = _mm_cmpeq_epi64(differ, _mm_setzero_si128());
                _mm_movemask_pd(_mm_castsi128_pd(equal)).cast_unsigned()
            };
            let [a, b, c, d] = load_128(bucket);
            pair(a) | pair(b) << 2 | pair(c) << 4 | pair(d) << 6
        }

        #[inline]
        #[target_feature(enable = "sse4.2,popcnt")]
        unsafe fn has_zero(bucket: &Bucket) -> bool {
            let [a, b, c, d] = load_128(bucket);
            let zero = |words| _mm_cmpeq_epi64(words, _mm_setzero_si128());
            let any = _mm_or_si128(_mm_or_si128(zero(a), zero(b)), _mm_or_si128(zero(c), zero(d)));
            _mm_movemask_epi8(any) != 0
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::AtomicU64;

    /// Bit masks of `equal` for both widths and `has_zero`, in the set `kernel`.
    fn compare(kernel: Kernel, bucket: &Bucket, probe: u64) -> (u32, u32, bool) {
        fn all<I: Isa>(bucket: &Bucket, probe: u64) -> (u32, u32, bool) {
            // SAFETY: called for sets that `available` named.
            unsafe {
                (
                    I::equal::<{ Probe::ONE_BITS }>(bucket, probe),
                    I::equal::<{ Probe::ANY_BITS }>(bucket, probe),
                    I::has_zero(bucket),
                )
            }
        }
        match kernel.0 {
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512 => all::<x86::Avx512>(bucket, probe),
            #[cfg(target_arch = "x86_64")]
            Choice::Avx2 => all::<x86::Avx2>(bucket, probe),
            #[cfg(target_arch = "x86_64")]
            Choice::Sse42 => all::<x86::Sse42>(bucket, probe),
            Choice::Portable => all::<Portable>(bucket, probe),
        }
    }

    proptest::proptest! {
        /// Words are the probe with few bits changed, so that near misses are the rule.
        #[test]
        fn all_sets_agree(
            probe: u64,
            flips in proptest::array::uniform8((0..70u32, 0..70u32)),
            low in proptest::array::uniform8(0..1u64 << 23),
            zero in 0..20usize,
        ) {
            let bit = |at: u32| if at < 64 { 1u64 << at } else { 0 };
            let bucket = Bucket(std::array::from_fn(|at| {
                let word = probe ^ low[at] ^ bit(flips[at].0) ^ bit(flips[at].1);
                AtomicU64::new(if at == zero { 0 } else { word })
            }));
            let want = compare(Kernel::PORTABLE, &bucket, probe);
            for kernel in Kernel::available() {
                proptest::prop_assert_eq!(compare(kernel, &bucket, probe), want, "{}", kernel.name());
            }
        }
    }

    #[test]
    fn the_best_set_comes_first_and_the_portable_one_last() {
        let sets = Kernel::available();
        assert_eq!(sets.first(), Some(&Kernel::best()));
        assert_eq!(sets.last(), Some(&Kernel::PORTABLE));
        println!("sets here: {:?}", sets.iter().map(|set| set.name()).collect::<Vec<_>>());
    }
}
