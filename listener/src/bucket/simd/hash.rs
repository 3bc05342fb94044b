//! SipHash of many flows at once, in the set's instructions.

#[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
use super::Choice;
use super::{Kernel, STEP};
use crate::limits::BURST_MAX;
use crate::siphash::{SipKey, siphash_2_4_tail};

impl Kernel {
    /// SipHash-2-4 of the first `lanes` lanes of `words`, each of which is one word of all lanes, and of `tails`, the four bytes
    /// behind them. What `out` holds beyond those means nothing.
    #[inline]
    #[allow(unused_unsafe, reason = "the portable set has no duty to discharge")]
    pub(crate) fn siphash<const WORDS: usize>(
        self,
        key: SipKey,
        words: &[[u64; BURST_MAX]; WORDS],
        tails: &[u32; BURST_MAX],
        lanes: usize,
        out: &mut [u64; BURST_MAX],
    ) {
        // SAFETY: a `Kernel` of a set is made by `available` only, after the machine was seen to have it.
        unsafe {
            match self.0 {
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx512 => x86::siphash_avx512(key, words, tails, lanes, out),
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx2 => x86::siphash_avx2(key, words, tails, lanes, out),
                _ => siphash_lanes(key, words, tails, lanes, out),
            }
        }
    }

    /// The lower halves of SipHash-2-4 of the first `rows` rows of three columns: of the word that the first two make, the
    /// first its upper half, and the four bytes of the third. What `out` holds beyond those means nothing. Within
    /// [`Kernel::run`].
    #[inline(always)]
    #[allow(unused_unsafe, reason = "the portable set has no duty to discharge")]
    pub(crate) fn siphash_columns(
        self,
        key: SipKey,
        columns: [&[u32; BURST_MAX]; 3],
        rows: usize,
        out: &mut [u32; BURST_MAX],
    ) {
        // SAFETY: a `Kernel` of a set is made by `available` only, after the machine was seen to have it.
        unsafe {
            match self.0 {
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx512 => x86::siphash_columns_avx512(key, columns, rows, out),
                _ => siphash_columns(key, columns, rows, out),
            }
        }
    }
}

/// [`Kernel::siphash_columns`] in the instruction set of the function that it is inlined into.
#[inline(always)]
fn siphash_columns(
    key: SipKey,
    [upper, lower, tail]: [&[u32; BURST_MAX]; 3],
    rows: usize,
    out: &mut [u32; BURST_MAX],
) {
    for row in 0..crate::vector::whole(rows) {
        let word = u64::from(upper[row]) << 32 | u64::from(lower[row]);
        out[row] = siphash_2_4_tail(key, [word], tail[row]) as u32;
    }
}

/// [`Kernel::siphash`] in the instruction set of the function that it is inlined into: the compiler makes vectors of it.
#[inline(always)]
fn siphash_lanes<const WORDS: usize>(
    key: SipKey,
    words: &[[u64; BURST_MAX]; WORDS],
    tails: &[u32; BURST_MAX],
    lanes: usize,
    out: &mut [u64; BURST_MAX],
) {
    // Whole vectors: no lane is left for a loop of its own.
    let lanes = lanes.next_multiple_of(STEP).min(BURST_MAX);
    for lane in 0..lanes {
        let words: [u64; WORDS] = std::array::from_fn(|word| words[word][lane]);
        out[lane] = siphash_2_4_tail(key, words, tails[lane]);
    }
}

#[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
mod x86 {
    use std::arch::x86_64::*;

    use super::{STEP, siphash_lanes};
    use crate::limits::BURST_MAX;
    use crate::siphash::{SipKey, length, start};

    macro_rules! siphash {
        ($name:ident, $features:literal) => {
            /// [`siphash_lanes`] with these features.
            #[target_feature(enable = $features)]
            pub(super) fn $name<const WORDS: usize>(
                key: SipKey,
                words: &[[u64; BURST_MAX]; WORDS],
                tails: &[u32; BURST_MAX],
                lanes: usize,
                out: &mut [u64; BURST_MAX],
            ) {
                siphash_lanes(key, words, tails, lanes, out);
            }
        };
    }
    siphash!(siphash_avx512, "avx512f,avx512dq,bmi1,bmi2,popcnt");
    siphash!(siphash_avx2, "avx2,bmi1,bmi2,popcnt");

    /// Vectors that [`siphash_columns_avx512`] hashes side by side: an operation's result is there two cycles later, and four may
    /// begin in each (Zen 5). What two of them take is a third more.
    const SIDE_BY_SIDE: usize = 4;

    /// [`super::siphash_columns`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,bmi1,bmi2,popcnt")]
    pub(super) fn siphash_columns_avx512(
        key: SipKey,
        [upper, lower, tail]: [&[u32; BURST_MAX]; 3],
        rows: usize,
        out: &mut [u32; BURST_MAX],
    ) {
        type Side = [__m512i; SIDE_BY_SIDE];
        let word = |word: u64| _mm512_set1_epi64(word.cast_signed());
        let half = |a: &mut Side, b: &mut Side, c: &mut Side, d: &mut Side, second: bool| {
            for side in 0..SIDE_BY_SIDE {
                a[side] = _mm512_add_epi64(a[side], b[side]);
                c[side] = _mm512_add_epi64(c[side], d[side]);
            }
            for side in 0..SIDE_BY_SIDE {
                let (one, two) = if second {
                    (_mm512_rol_epi64::<17>(b[side]), _mm512_rol_epi64::<21>(d[side]))
                } else {
                    (_mm512_rol_epi64::<13>(b[side]), _mm512_rol_epi64::<16>(d[side]))
                };
                b[side] = _mm512_xor_si512(one, a[side]);
                d[side] = _mm512_xor_si512(two, c[side]);
                a[side] = _mm512_rol_epi64::<32>(a[side]);
            }
        };
        for first in (0..rows.min(BURST_MAX)).step_by(SIDE_BY_SIDE * STEP) {
            let load = |column: &[u32; BURST_MAX], side: usize| {
                let words = &column.as_chunks::<STEP>().0[first / STEP + side];
                // SAFETY: bounds: eight words are 32 bytes.
                _mm512_cvtepu32_epi64(unsafe { _mm256_loadu_si256(words.as_ptr().cast()) })
            };
            let [start0, start1, start2, start3] = start(key);
            let mut blocks = [[word(length::<1>(4)); SIDE_BY_SIDE]; 2];
            let [whole, last] = &mut blocks;
            for (side, (whole, last)) in whole.iter_mut().zip(last).enumerate() {
                *whole = _mm512_or_si512(_mm512_slli_epi64::<32>(load(upper, side)), load(lower, side));
                *last = _mm512_or_si512(*last, load(tail, side));
            }
            let [mut v0, mut v1, mut v2, mut v3] =
                [start0, start1, start2, start3].map(|start| [word(start); SIDE_BY_SIDE]);
            for block in blocks {
                for side in 0..SIDE_BY_SIDE {
                    v3[side] = _mm512_xor_si512(v3[side], block[side]);
                }
                for _ in 0..2 {
                    half(&mut v0, &mut v1, &mut v2, &mut v3, false);
                    half(&mut v2, &mut v1, &mut v0, &mut v3, true);
                }
                for side in 0..SIDE_BY_SIDE {
                    v0[side] = _mm512_xor_si512(v0[side], block[side]);
                }
            }
            for v2 in &mut v2 {
                *v2 = _mm512_xor_si512(*v2, word(0xff));
            }
            for _ in 0..4 {
                half(&mut v0, &mut v1, &mut v2, &mut v3, false);
                half(&mut v2, &mut v1, &mut v0, &mut v3, true);
            }
            let hash = |side: usize| {
                let (one, two) = (_mm512_xor_si512(v0[side], v1[side]), _mm512_xor_si512(v2[side], v3[side]));
                _mm512_cvtepi64_epi32(_mm512_xor_si512(one, two))
            };
            for pair in 0..SIDE_BY_SIDE / 2 {
                // Together, for what is loaded as one vector soon and was stored as two has to wait.
                let lower = _mm512_castsi256_si512(hash(2 * pair));
                let both = _mm512_inserti64x4::<1>(lower, hash(2 * pair + 1));
                let to = &mut out.as_chunks_mut::<{ 2 * STEP }>().0[first / (2 * STEP) + pair];
                // SAFETY: bounds: sixteen words are 64 bytes.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), both) };
            }
        }
    }
    const _: () = assert!(BURST_MAX.is_multiple_of(SIDE_BY_SIDE * STEP));
}
