//! The count of a listener's half-open requests: generation, young and all, in one word.

use super::{ListenSock, Refused, change};
use crate::sync::Ordering;

/// Half-open requests that one listener can count.
pub const QLEN_MAX: u32 = (1 << QLEN_BITS) - 1;

const QLEN_BITS: u32 = 20;
const QLEN_MASK: u64 = QLEN_MAX as u64;
const GENERATION_SHIFT: u32 = 2 * QLEN_BITS;
const GENERATION_MASK: u64 = (1 << (64 - GENERATION_SHIFT)) - 1;
/// One young request.
const YOUNG: u64 = 1 | 1 << QLEN_BITS;

/// The word of a listener without requests.
pub(super) const fn word(generation: u32) -> u64 {
    (generation as u64 & GENERATION_MASK) << GENERATION_SHIFT
}

impl ListenSock {
    /// Half-open requests, and places that cores have in hand for more.
    #[inline]
    pub fn qlen(&self) -> u32 {
        (self.requests.load(Ordering::Relaxed) & QLEN_MASK) as u32
    }

    /// Those that have not yet seen a timeout; places in hand count as such.
    #[inline]
    pub fn young(&self) -> u32 {
        (self.requests.load(Ordering::Relaxed) >> QLEN_BITS & QLEN_MASK) as u32
    }

    /// Half-open requests that there may be: the test is strict, so backlog N allows N + 1.
    #[inline]
    pub fn request_places(&self) -> u32 {
        self.max_ack_backlog().min(QLEN_MAX - 1) + 1
    }

    /// Counts up to `wanted` young requests more, as far as there is room, and at least one; never beyond the limit,
    /// whatever other workers do. Returns how many.
    #[inline]
    pub fn reqsk_queue_added(&self, generation: u32, wanted: u32) -> Result<u32, Refused> {
        let places = self.request_places();
        let mut added = 0;
        change(&self.requests, |word| {
            if word >> GENERATION_SHIFT != u64::from(generation) & GENERATION_MASK {
                return Err(Refused::Gone);
            }
            added = wanted.min(places.saturating_sub((word & QLEN_MASK) as u32));
            if added == 0 { Err(Refused::Full) } else { Ok(word + u64::from(added) * YOUNG) }
        })?;
        Ok(added)
    }

    /// Counts one young request more whatever the limit says.
    pub fn reqsk_queue_forced(&self, generation: u32) -> Result<(), Refused> {
        change(&self.requests, |word| match word >> GENERATION_SHIFT {
            current if current != u64::from(generation) & GENERATION_MASK => Err(Refused::Gone),
            _ if word & QLEN_MASK == QLEN_MASK => Err(Refused::Full),
            _ => Ok(word + YOUNG),
        })
    }

    /// Counts `requests` young requests less.
    #[inline]
    pub fn reqsk_queue_removed(&self, generation: u32, requests: u32) {
        self.requests_subtract(generation, u64::from(requests) * YOUNG);
    }

    /// Counts one request less that was not young any more.
    pub fn reqsk_queue_removed_old(&self, generation: u32) {
        self.requests_subtract(generation, 1);
    }

    /// A request saw its first timeout.
    pub fn reqsk_queue_aged(&self, generation: u32) {
        self.requests_subtract(generation, 1 << QLEN_BITS);
    }

    #[inline]
    fn requests_subtract(&self, generation: u32, amount: u64) {
        // Gone: the count died with its listener.
        let _ = change(&self.requests, |word| match word >> GENERATION_SHIFT {
            current if current != u64::from(generation) & GENERATION_MASK => Err(Refused::Gone),
            _ => Ok(word - amount),
        });
    }
}
