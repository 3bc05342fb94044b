//! Where the lists of a table lie: numbered cells of 64 bytes, written once before anybody can know their number, read
//! while a guard is held, and given back after the last such guard is gone.
//!
//! Numbers are small so that they fit into a bucket's word. Cells lie in chunks that double in size, so that a number
//! leads to its cell in two loads and no cell ever moves.

use crate::sync::{Mutex, UnsafeCell, lock};
use std::sync::OnceLock;

/// Cells of the first chunk; chunk `n` has `FIRST << n`.
const FIRST: u32 = if cfg!(loom) { 4 } else { 256 };
/// With these, `FIRST * (2^CHUNKS - 1)` cells: more than the 2^22 numbers that there are.
const CHUNKS: usize = if cfg!(loom) { 2 } else { 15 };

#[repr(align(64))]
struct Cell<N>(UnsafeCell<Option<N>>);

#[derive(Default)]
struct Free {
    numbers: Vec<u32>,
    /// All numbers from here on have never been used.
    fresh: u32,
}

pub(super) struct Slab<N> {
    chunks: [OnceLock<Box<[Cell<N>]>>; CHUNKS],
    free: Mutex<Free>,
    numbers_max: u32,
}

// SAFETY: cells are written by the one thread that took their number from `free`, and read shared only, see `get`.
unsafe impl<N: Send + Sync> Sync for Slab<N> {}
// SAFETY: as above; a slab owns what its cells hold.
unsafe impl<N: Send + Sync> Send for Slab<N> {}

impl<N> Slab<N> {
    /// A slab for at most `numbers_max` values; no memory is taken yet.
    pub(super) fn new(numbers_max: u32) -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS], free: Mutex::new(Free::default()), numbers_max }
    }

    /// Chunk and place in it.
    #[inline]
    const fn place(number: u32) -> (usize, usize) {
        let from_first = number + FIRST;
        let chunk = from_first.ilog2() - FIRST.ilog2();
        (chunk as usize, (from_first - (FIRST << chunk)) as usize)
    }

    fn cell(&self, number: u32) -> Option<&UnsafeCell<Option<N>>> {
        let (chunk, place) = Self::place(number);
        Some(&self.chunks.get(chunk)?.get()?.get(place)?.0)
    }

    /// Stores `value` and returns its number, or hands it back if all numbers are taken.
    pub(super) fn insert(&self, value: N) -> Result<u32, N> {
        let number = {
            let mut free = lock(&self.free);
            match free.numbers.pop() {
                Some(number) => number,
                None if free.fresh < self.numbers_max => {
                    free.fresh += 1;
                    free.fresh - 1
                }
                None => return Err(value),
            }
        };
        let (chunk, _) = Self::place(number);
        let Some(cells) = self.chunks.get(chunk) else { return Err(value) };
        cells.get_or_init(|| (0..FIRST << chunk).map(|_| Cell(UnsafeCell::new(None))).collect());
        if let Some(cell) = self.cell(number) {
            // SAFETY: race, aliasing: `number` came from `free` and was given to us only; no reader knows it, because
            // it went to `free` after the last guard was gone under which somebody could have read it.
            cell.with_mut(|held| unsafe { *held = Some(value) });
        }
        Ok(number)
    }

    /// The value under `number`.
    ///
    /// # Safety
    /// `number` came from `insert`, whose call happened before this one, and `release(number)` does not run while the
    /// answer lives: the caller holds a guard since before the number was withdrawn from readers, or the writers' lock.
    #[inline]
    pub(super) unsafe fn get(&self, number: u32) -> Option<&N> {
        // SAFETY: race, aliasing: by the contract above nobody writes the cell now, so shared references are sound.
        self.cell(number)?.with(|held| unsafe { (*held).as_ref() })
    }

    /// Asks for the line of `number`'s value.
    #[inline]
    pub(super) fn prefetch(&self, number: u32) {
        if let Some(cell) = self.cell(number) {
            super::simd::prefetch(std::ptr::from_ref(cell).cast());
        }
    }

    /// Drops the value under `number` and gives the number free.
    ///
    /// # Safety
    /// No reference from `get(number)` lives or will be made, and nobody releases it a second time.
    pub(super) unsafe fn release(&self, number: u32) {
        // SAFETY: race, aliasing: by the contract above the cell is ours alone now.
        let value = self.cell(number).map(|cell| cell.with_mut(|held| unsafe { (*held).take() }));
        drop(value);
        lock(&self.free).numbers.push(number);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_to_distinct_cells() {
        let mut at = (0, 0);
        for number in 1..100_000 {
            let next = Slab::<u64>::place(number);
            let step =
                next == (at.0, at.1 + 1) || (next == (at.0 + 1, 0) && at.1 + 1 == (FIRST as usize) << at.0);
            assert!(step, "{number}: {at:?} then {next:?}");
            at = next;
        }
        assert!(Slab::<u64>::place((1 << 22) - 1).0 < CHUNKS);
    }

    #[test]
    fn values_come_back_and_numbers_are_used_again() {
        let slab = Slab::new(300);
        let numbers: Vec<u32> = (0..300u64).map(|value| slab.insert(value).expect("there is room")).collect();
        assert_eq!(slab.insert(7), Err(7));
        for (value, &number) in (0..300u64).zip(&numbers) {
            // SAFETY: nothing is released here.
            assert_eq!(unsafe { slab.get(number) }, Some(&value));
        }
        // SAFETY: no reference lives.
        unsafe { slab.release(numbers[17]) };
        assert_eq!(slab.insert(1000), Ok(numbers[17]));
        // SAFETY: nothing is released from here on.
        assert_eq!(unsafe { slab.get(numbers[17]) }, Some(&1000));
    }
}
