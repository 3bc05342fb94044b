//! Code of others in a set's instructions, and what the compiler does not find by itself.

use super::{Choice, Kernel};

/// Sixteen rows of sixteen words, or as many columns: each a cache line, so that no vector lies across two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Square(pub [[u32; 16]; 16]);

/// A row of sixteen words, anywhere in memory.
pub type Row = [u8; 64];

impl Square {
    /// All words 0.
    pub const ZERO: Self = Self([[0; 16]; 16]);
}

impl Kernel {
    /// Runs `f` in this set's instructions, as far as it is inlined into this call. It gets the set once more, as the
    /// constant that it is there.
    #[inline]
    pub(crate) fn run<R>(self, f: impl FnOnce(Self) -> R) -> R {
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
                Choice::Portable => run_portable(f),
            }
        }
    }

    /// Word `i` of column `j` is word `j` of row `i`, in the order of its octets.
    #[inline(always)]
    pub(crate) fn read_rows(self, rows: &[&Row; 16]) -> Square {
        // SAFETY: a `Kernel` of a set is made by `available` only, after the machine was seen to have it.
        #[allow(unused_unsafe, reason = "the portable set has no duty to discharge")]
        unsafe {
            match self.0 {
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx512 => x86::read_rows_avx512(rows),
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx2 => x86::transpose_avx2(&words(rows)),
                // SSE4.2 has no wider vectors than any x86-64.
                _ => transpose(&words(rows)),
            }
        }
    }

    /// The other way round, for the rows that there are.
    #[inline(always)]
    pub(crate) fn write_rows(self, columns: &Square, rows: [Option<&mut Row>; 16]) {
        // SAFETY: as above.
        #[allow(unused_unsafe, reason = "the portable set has no duty to discharge")]
        let made = unsafe {
            match self.0 {
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx512 => return x86::write_rows_avx512(columns, rows),
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx2 => x86::transpose_avx2(columns),
                _ => transpose(columns),
            }
        };
        for (row, words) in rows.into_iter().zip(&made.0) {
            let Some(row) = row else { continue };
            for (octets, word) in row.as_chunks_mut().0.iter_mut().zip(words) {
                *octets = word.to_ne_bytes();
            }
        }
    }

    /// Bit `i` is set if word `i` is not 0.
    #[inline(always)]
    pub(crate) fn nonzero(self, words: &[u32; 16]) -> u32 {
        // SAFETY: as above.
        #[allow(unused_unsafe, reason = "the portable set has no duty to discharge")]
        unsafe {
            match self.0 {
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx512 => x86::nonzero_avx512(words),
                _ => {
                    words.iter().enumerate().fold(0, |set, (lane, word)| set | u32::from(*word != 0) << lane)
                }
            }
        }
    }
}

/// [`Kernel::run`] without a set. Not inlined, for where it is called is where other sets' code is called from.
#[inline(never)]
fn run_portable<R>(f: impl FnOnce(Kernel) -> R) -> R {
    f(Kernel(Choice::Portable))
}

/// Rows as words.
#[inline(always)]
fn words(rows: &[&Row; 16]) -> Square {
    let word = |row: &Row, at: usize| u32::from_ne_bytes(row.as_chunks().0[at]);
    Square(std::array::from_fn(|row| std::array::from_fn(|at| word(rows[row], at))))
}

/// Word by word.
#[inline(always)]
fn transpose(rows: &Square) -> Square {
    Square(std::array::from_fn(|column| std::array::from_fn(|row| rows.0[row][column])))
}

#[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
mod x86 {
    use super::{Choice, Kernel, Row, Square};
    use std::arch::x86_64::*;

    macro_rules! run {
        ($name:ident, $choice:ident, $features:literal) => {
            /// [`super::Kernel::run`] with these features.
            #[target_feature(enable = $features)]
            pub(super) fn $name<R>(f: impl FnOnce(Kernel) -> R) -> R {
                f(Kernel(Choice::$choice))
            }
        };
    }
    run!(run_avx512, Avx512, "avx512f,avx512dq,avx512bw,avx512vl,bmi1,bmi2,popcnt,lzcnt,movbe");
    run!(run_avx2, Avx2, "avx2,bmi1,bmi2,popcnt");
    run!(run_sse42, Sse42, "sse4.2,popcnt");

    /// Sixteen columns of sixteen rows, by shuffles for each of four distances: neighbours, pairs, quarters, halves.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,bmi1,bmi2,popcnt,lzcnt,movbe")]
    fn transpose_avx512(rows: [__m512i; 16]) -> [__m512i; 16] {
        let mut quarters = [[_mm512_setzero_si512(); 4]; 4];
        // Of four rows each: vector `word` has, in quarter `n`, word `4 n + word` of the four rows.
        for (four, &[a, b, c, d]) in quarters.iter_mut().zip(rows.as_chunks().0) {
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
        let mut columns = rows;
        for word in 0..4 {
            let even = [
                _mm512_shuffle_i32x4::<0x88>(a[word], b[word]),
                _mm512_shuffle_i32x4::<0x88>(c[word], d[word]),
            ];
            let odd = [
                _mm512_shuffle_i32x4::<0xdd>(a[word], b[word]),
                _mm512_shuffle_i32x4::<0xdd>(c[word], d[word]),
            ];
            columns[word] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
            columns[4 + word] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
            columns[8 + word] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
            columns[12 + word] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
        }
        columns
    }

    /// [`Kernel::read_rows`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,bmi1,bmi2,popcnt,lzcnt,movbe")]
    pub(super) fn read_rows_avx512(rows: &[&Row; 16]) -> Square {
        // SAFETY: bounds: a row is 64 bytes.
        let columns = transpose_avx512(rows.map(|row| unsafe { _mm512_loadu_si512(row.as_ptr().cast()) }));
        let mut square = Square::ZERO;
        for (to, column) in square.0.iter_mut().zip(columns) {
            // SAFETY: bounds: a column is 64 bytes.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), column) };
        }
        square
    }

    /// [`Kernel::write_rows`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,bmi1,bmi2,popcnt,lzcnt,movbe")]
    pub(super) fn write_rows_avx512(columns: &Square, rows: [Option<&mut Row>; 16]) {
        let mut made = [_mm512_setzero_si512(); 16];
        for (made, column) in made.iter_mut().zip(&columns.0) {
            // SAFETY: bounds: a column is 64 bytes.
            *made = unsafe { _mm512_loadu_si512(column.as_ptr().cast()) };
        }
        for (to, row) in rows.into_iter().zip(transpose_avx512(made)) {
            if let Some(to) = to {
                // SAFETY: bounds: a row is 64 bytes.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), row) };
            }
        }
    }

    /// [`Kernel::nonzero`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,bmi1,bmi2,popcnt,lzcnt,movbe")]
    pub(super) fn nonzero_avx512(words: &[u32; 16]) -> u32 {
        // SAFETY: bounds: sixteen words are 64 bytes.
        let words = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        u32::from(_mm512_test_epi32_mask(words, words))
    }

    /// Eight squares of four columns by eight rows. Not inlined, for code of the other sets would hold it too.
    #[inline(never)]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    pub(super) fn transpose_avx2(rows: &Square) -> Square {
        let mut columns = Square::ZERO;
        transpose_eight(rows, &mut columns, 0, 0);
        transpose_eight(rows, &mut columns, 0, 4);
        transpose_eight(rows, &mut columns, 0, 8);
        transpose_eight(rows, &mut columns, 0, 12);
        transpose_eight(rows, &mut columns, 8, 0);
        transpose_eight(rows, &mut columns, 8, 4);
        transpose_eight(rows, &mut columns, 8, 8);
        transpose_eight(rows, &mut columns, 8, 12);
        columns
    }

    /// The four columns from `column` on of the eight rows from `row` on.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    fn transpose_eight(rows: &Square, columns: &mut Square, row: usize, column: usize) {
        let load = |row: usize| {
            let words = &rows.0[row].as_chunks::<4>().0[column / 4];
            // SAFETY: bounds: four words are 16 bytes.
            unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
        };
        // The fourth row after each beside it: what is shuffled within halves then ends as whole columns.
        let pair = |of: usize| _mm256_set_m128i(load(row + of + 4), load(row + of));
        let (a, b, c, d) = (pair(0), pair(1), pair(2), pair(3));
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ab_upper, cd_upper) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        let made = [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ab_upper, cd_upper),
            _mm256_unpackhi_epi64(ab_upper, cd_upper),
        ];
        for (words, column) in made.into_iter().zip(&mut columns.0[column..]) {
            let to = &mut column.as_chunks_mut::<8>().0[row / 8];
            // SAFETY: bounds: eight words are 32 bytes.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), words) };
        }
    }
}
