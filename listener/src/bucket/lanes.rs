//! Which lanes of a burst are meant.

use super::LANES;

/// Some lanes of a burst: bit `i` is lane `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LaneSet(pub(crate) u32);

impl LaneSet {
    /// The first `len` lanes.
    #[inline]
    pub(crate) const fn first(len: usize) -> Self {
        Self(if len >= LANES { u32::MAX >> (32 - LANES) } else { (1 << len) - 1 })
    }

    /// True if there are none.
    #[inline]
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lanes, in order.
    #[inline]
    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let lane = (rest != 0).then(|| rest.trailing_zeros() as usize % LANES);
            rest &= rest.wrapping_sub(1);
            lane
        })
    }
}

/// What the passes over a burst leave to be looked up lane by lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lanes {
    /// Lanes to ask [`super::Direct::find`] about.
    pub(crate) missed: LaneSet,
    /// Lanes to ask [`super::View::find`] about.
    pub(crate) slow: LaneSet,
    /// Some key was not IPv4: its lane is in one of the sets or in none, and `found` says nothing about it.
    pub(crate) other_family: bool,
}

impl Lanes {
    /// True if some lane has no final answer yet.
    #[inline]
    pub(crate) fn unanswered(&self) -> bool {
        self.missed.0 | self.slow.0 != 0 || self.other_family
    }
}
