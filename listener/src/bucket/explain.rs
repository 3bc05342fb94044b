//! Where a key stands: for people, not for packets.

use super::{DISPLACED, Entry, Probe, REMAINDER, View};

impl<N> View<'_, N> {
    /// First and second bucket of a hash, and how many there are.
    pub(crate) fn places(&self, hash: u64) -> (usize, usize, usize) {
        let first = self.first(hash);
        (first, Probe::second(self.bits, first, hash << self.bits & REMAINDER), self.memory.len())
    }
}

impl<N> Entry<'_, N> {
    /// True if it stood in the key's second bucket.
    pub(crate) fn is_displaced(&self) -> bool {
        self.word & DISPLACED != 0
    }
}
