//! Loops over columns in the widest vectors that the machine has, for callers that forbid `unsafe`.
//!
//! The crates are compiled for any x86-64, whose vectors hold four words. A loop over columns is written as a plain loop
//! and given to [`Vectors::run`], where the compiler makes it into code for each set of instructions, and the machine
//! chooses. Which sets there are and which one a machine has is decided where the lookup decides it,
//! `bucket.rs`, the crate's one door to `unsafe`.
//!
//! # What makes a loop fast there
//! - It is inlined: the closure is written `#[inline(always)] |vectors| ...`, and so is marked every function that it calls.
//!   What is called without being inlined is compiled for any machine.
//! - Its bounds are seen to hold: columns are arrays of [`BURST_MAX`], and the count is [`whole`].
//! - What it writes is seen to be apart from what it reads: columns that are written are each a `&mut` parameter of an
//!   `#[inline(always)]` function. Of those that a closure borrows, or that stand in an array of references, the compiler
//!   knows no more than of pointers.

use crate::bucket::Kernel;
pub use crate::bucket::{Row, Square};
use crate::limits::BURST_MAX;
use crate::siphash::SipKey;

/// Rows that a loop over the first `rows` rows of columns goes over: whole vectors, of whatever set, but no more than
/// there are. What it does for the rows beyond must be harmless.
#[inline(always)]
pub const fn whole(rows: usize) -> usize {
    let rows = rows.next_multiple_of(16);
    // Last, for the compiler to see that no row is beyond a column.
    if rows < BURST_MAX { rows } else { BURST_MAX }
}
const _: () = assert!(BURST_MAX.is_multiple_of(16));

/// A set of instructions that this machine has been seen to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors(Kernel);

impl Vectors {
    /// The best set that this machine has.
    pub fn best() -> Self {
        Self(Kernel::best())
    }

    /// Every set that this machine has, the best first and the one that any machine has last.
    pub fn available() -> Vec<Self> {
        Kernel::available().into_iter().map(Self).collect()
    }

    /// As the benches print it.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Runs `f` compiled for these instructions, as far as it is inlined into this call: see the module's head. What it gets
    /// is `self`, known to the compiler there: by that the other functions of this type choose without a branch.
    ///
    /// ```
    /// use listener::vector::Vectors;
    ///
    /// let (seq, mut ack) = ([7; 64], [0; 64]);
    /// Vectors::best().run(#[inline(always)] |_| {
    ///     for row in 0..32 {
    ///         ack[row] = seq[row] + 1;
    ///     }
    /// });
    /// assert!(ack[..32] == [8; 32] && ack[32..] == [0; 32]);
    /// ```
    #[inline]
    pub fn run<R>(self, f: impl FnOnce(Self) -> R) -> R {
        self.0.run(
            #[inline(always)]
            |kernel| f(Self(kernel)),
        )
    }

    /// Sixteen rows as columns: word `i` of column `j` is word `j` of row `i`, in the order of its octets. Within
    /// [`Vectors::run`] or without.
    #[inline(always)]
    pub fn read_rows(self, rows: &[&Row; 16]) -> Square {
        self.0.read_rows(rows)
    }

    /// Columns as sixteen rows, the other way round; those of None are not written.
    #[inline(always)]
    pub fn write_rows(self, columns: &Square, rows: [Option<&mut Row>; 16]) {
        self.0.write_rows(columns, rows);
    }

    /// [`Kernel::siphash_columns`].
    #[inline(always)]
    pub(crate) fn siphash_columns(
        self,
        key: SipKey,
        columns: [&[u32; BURST_MAX]; 3],
        rows: usize,
        out: &mut [u32; BURST_MAX],
    ) {
        self.0.siphash_columns(key, columns, rows, out);
    }

    /// Bit `i` is set if word `i` is not 0. Within [`Vectors::run`] or without.
    #[inline(always)]
    pub fn nonzero(self, words: &[u32; 16]) -> u32 {
        self.0.nonzero(words)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_sets_read_and_write_rows_alike(octets in prop::collection::vec(any::<u8>(), 16 * 64)) {
            let rows: Vec<&Row> = octets.as_chunks().0.iter().collect();
            for vectors in Vectors::available() {
                let columns = vectors.read_rows(rows.as_array().expect("sixteen"));
                for (row, octets) in rows.iter().enumerate() {
                    let word = |at: usize| u32::from_ne_bytes(octets.as_chunks().0[at]);
                    let read = columns.0.map(|column| column[row]);
                    prop_assert_eq!(read, std::array::from_fn(word), "{}, row {}", vectors.name(), row);
                }
                let mut written = [[0; 64]; 16];
                let mut to = written.each_mut().map(Some);
                to[5] = None;
                vectors.write_rows(&columns, to);
                for (row, (written, octets)) in written.iter().zip(octets.as_chunks().0).enumerate() {
                    let want = if row == 5 { &[0; 64] } else { octets };
                    prop_assert_eq!(written, want, "{}, row {}", vectors.name(), row);
                }
            }
        }

        #[test]
        fn all_sets_find_what_is_not_0(words in proptest::array::uniform16(0..3u32)) {
            let want = (0..16).filter(|&lane| words[lane] != 0).fold(0, |set, lane| set | 1 << lane);
            for vectors in Vectors::available() {
                prop_assert_eq!(vectors.nonzero(&words), want, "{}", vectors.name());
            }
        }

        /// Rotations, swaps and products, whose instructions differ among the sets.
        #[test]
        fn a_loop_means_the_same_in_all_sets(a: [u32; BURST_MAX], b: [u32; BURST_MAX], rows in 0..=BURST_MAX) {
            let step = |a: u32, b: u32| {
                let wide = u64::from(a).wrapping_mul(u64::from(b) << 32 | 5).rotate_left(13);
                (wide as u32).swap_bytes() ^ a.rotate_left(b) ^ b.leading_zeros() ^ wide.count_ones()
            };
            for vectors in Vectors::available() {
                let mut out = [0; BURST_MAX];
                vectors.run(#[inline(always)] |_| {
                    for row in 0..whole(rows) {
                        out[row] = step(a[row], b[row]);
                    }
                });
                let want = |row| if row < whole(rows) { step(a[row], b[row]) } else { 0 };
                prop_assert_eq!(out, std::array::from_fn(want), "{}", vectors.name());
            }
        }
    }
}
