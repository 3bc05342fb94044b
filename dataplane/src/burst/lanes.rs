//! Which frames of a burst are of which kind.

use listener::columns::rows;

/// Frames of one kind, in order of arrival: bit `i` is frame `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lane(u64);

impl Lane {
    /// Without frames.
    pub const EMPTY: Self = Self(0);

    /// The frames whose bits are set.
    #[inline]
    pub const fn of(frames: u64) -> Self {
        Self(frames)
    }

    /// Adds frame `index`, one of a burst.
    #[inline]
    pub const fn push(&mut self, index: u8) {
        self.0 |= 1 << (index % u64::BITS as u8);
    }

    /// One bit a frame.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// True if there are none.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The frames, the first one first.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = usize> {
        rows(self.0)
    }
}

/// One lane a kind of frame, and of TCP some within others; those that [`crate::stage::parse()`] dropped are on none.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    /// ARP packets.
    pub arp: Lane,
    /// Neighbour solicitations.
    pub ndp: Lane,
    /// Echo requests of both families.
    pub echo: Lane,
    /// ICMP errors of both families.
    pub errors: Lane,
    /// TCP segments.
    pub tcp: Lane,
    /// Those of them whose headers stand in [`Plain`](super::Plain).
    pub plain: Lane,
    /// Those of these that are SYNs.
    pub opens: Lane,
    /// Those of these with an MSS at most and nothing else. They have no [`Segment`](listener::segment::Segment) yet.
    pub syns: Lane,
    /// Likewise those with the options that Linux's SYNs have.
    pub full: Lane,
    /// Plain segments that are a RST and nothing else; they have none either.
    pub resets: Lane,
}

impl Lanes {
    /// Plain segments that have no [`Segment`](listener::segment::Segment) unless
    /// [`Plain::bare`](super::Plain::bare) made one.
    #[inline]
    pub const fn bare(&self) -> Lane {
        Lane(self.syns.0 | self.full.0 | self.resets.0)
    }

    /// Without frames.
    pub const EMPTY: Self = Self {
        arp: Lane::EMPTY,
        ndp: Lane::EMPTY,
        echo: Lane::EMPTY,
        errors: Lane::EMPTY,
        tcp: Lane::EMPTY,
        plain: Lane::EMPTY,
        opens: Lane::EMPTY,
        syns: Lane::EMPTY,
        full: Lane::EMPTY,
        resets: Lane::EMPTY,
    };
}
