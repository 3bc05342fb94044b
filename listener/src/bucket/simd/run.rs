//! Code of others in a set's instructions, and what the compiler does not find by itself.

use super::{Choice, Kernel};

/// Sixteen rows of sixteen words, or as many columns.
type Square = [[u32; 16]; 16];

impl Kernel {
    /// Runs `f` in this set's instructions, as far as it is inlined into this call.
    #[inline]
    pub(crate) fn run<R>(self, f: impl FnOnce() -> R) -> R {
        // SAFETY: a `Kernel` of a set is made by `available` only, after the machine was seen to have it.
        #[allow(unused_unsafe, reason = "the portable set has no duty to discharge")]
        unsafe {
            match self.0 {
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx512 => x86::run_avx512(f),
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx2 => x86::run_avx2(f),
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Sse42 => x86::run_sse42(f),
                Choice::Portable => f(),
            }
        }
    }

    /// `columns[j][i] = rows[i][j]`.
    #[inline]
    pub(crate) fn transpose(self, rows: &Square) -> Square {
        // SAFETY: a `Kernel` of a set is made by `available` only, after the machine was seen to have it.
        #[allow(unused_unsafe, reason = "the portable set has no duty to discharge")]
        unsafe {
            match self.0 {
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx512 => x86::transpose_avx512(rows),
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx2 => x86::transpose_avx2(rows),
                // SSE4.2 has no wider vectors than any x86-64.
                _ => transpose(rows),
            }
        }
    }
}

/// [`Kernel::transpose`] word by word.
#[inline(always)]
fn transpose(rows: &Square) -> Square {
    std::array::from_fn(|column| std::array::from_fn(|row| rows[row][column]))
}

#[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
mod x86 {
    use super::Square;
    use std::arch::x86_64::*;

    macro_rules! run {
        ($name:ident, $features:literal) => {
            /// [`super::Kernel::run`] with these features.
            #[target_feature(enable = $features)]
            pub(super) fn $name<R>(f: impl FnOnce() -> R) -> R {
                f()
            }
        };
    }
    run!(run_avx512, "avx512f,avx512dq,avx512bw,avx512vl,bmi1,bmi2,popcnt,lzcnt,movbe");
    run!(run_avx2, "avx2,bmi1,bmi2,popcnt");
    run!(run_sse42, "sse4.2,popcnt");

    /// Sixteen shuffles for each of four distances: neighbours, pairs, quarters, halves.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,bmi1,bmi2,popcnt,lzcnt,movbe")]
    pub(super) fn transpose_avx512(rows: &Square) -> Square {
        let mut columns = [[0; 16]; 16];
        let mut quarters = [[_mm512_setzero_si512(); 4]; 4];
        // Of four rows each: vector `word` has, in quarter `n`, word `4 n + word` of the four rows.
        for (four, rows) in quarters.iter_mut().zip(rows.as_chunks().0) {
            // SAFETY: bounds: a row is 64 bytes.
            let [a, b, c, d] =
                rows.each_ref().map(|row: &[u32; 16]| unsafe { _mm512_loadu_si512(row.as_ptr().cast()) });
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab_upper, cd_upper) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            *four = [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_upper, cd_upper),
                _mm512_unpackhi_epi64(ab_upper, cd_upper),
            ];
        }
        // The same with quarters as words.
        let [a, b, c, d] = quarters;
        for word in 0..4 {
            let even = [
                _mm512_shuffle_i32x4::<0x88>(a[word], b[word]),
                _mm512_shuffle_i32x4::<0x88>(c[word], d[word]),
            ];
            let odd = [
                _mm512_shuffle_i32x4::<0xdd>(a[word], b[word]),
                _mm512_shuffle_i32x4::<0xdd>(c[word], d[word]),
            ];
            let made = [
                _mm512_shuffle_i32x4::<0x88>(even[0], even[1]),
                _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]),
                _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]),
                _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]),
            ];
            for (quarter, column) in made.into_iter().enumerate() {
                // SAFETY: bounds: a column is 64 bytes.
                unsafe { _mm512_storeu_si512(columns[4 * quarter + word].as_mut_ptr().cast(), column) };
            }
        }
        columns
    }

    /// Four squares of eight by eight.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    pub(super) fn transpose_avx2(rows: &Square) -> Square {
        let mut columns = [[0; 16]; 16];
        for (row, column) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            let mut halves = [[_mm256_setzero_si256(); 4]; 2];
            for (four, rows) in halves.iter_mut().zip(rows[row..].as_chunks().0) {
                // SAFETY: bounds: 32 bytes of a row's 64, from the first or the middle one on.
                let load = |row: &[u32; 16]| unsafe { _mm256_loadu_si256(row[column..].as_ptr().cast()) };
                let [a, b, c, d] = <[_; 4]>::each_ref(rows).map(load);
                let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
                let (ab_upper, cd_upper) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
                *four = [
                    _mm256_unpacklo_epi64(ab, cd),
                    _mm256_unpackhi_epi64(ab, cd),
                    _mm256_unpacklo_epi64(ab_upper, cd_upper),
                    _mm256_unpackhi_epi64(ab_upper, cd_upper),
                ];
            }
            let [upper, lower] = halves;
            for word in 0..4 {
                let made = [
                    _mm256_permute2x128_si256::<0x20>(upper[word], lower[word]),
                    _mm256_permute2x128_si256::<0x31>(upper[word], lower[word]),
                ];
                for (half, words) in made.into_iter().enumerate() {
                    let to = &mut columns[column + 4 * half + word][row..];
                    // SAFETY: bounds: 32 bytes of a column's 64, from the first or the middle one on.
                    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), words) };
                }
            }
        }
        columns
    }
}
