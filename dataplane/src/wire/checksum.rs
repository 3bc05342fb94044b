//! The Internet checksum: in full (RFC 1071), with a pseudo-header, and incrementally (RFC 1624).

/// A ones' complement sum that is not folded yet. Sums of parts add up if every part but the last has even length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Sum(u64);

/// Octets up to which [`Sum::of`] goes without vectors.
const SHORT: usize = 64;

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// The sum of `bytes` as big-endian 16-bit words, with a zero octet behind an odd end.
    #[inline(always)]
    pub fn of(bytes: &[u8]) -> Self {
        // Most headers: too short for the vectors of a plain loop to pay for their set-up.
        if bytes.len() <= SHORT { Self::of_short(bytes) } else { Self::of_long(bytes) }
    }

    /// As [`Sum::of`], by a loop that the compiler makes vectors of.
    #[inline(never)]
    fn of_long(bytes: &[u8]) -> Self {
        // Summed as it lies in memory, 32 bits at a time: byte order and word size only rotate the ones' complement
        // sum (RFC 1071 §2). The sum of one frame's words cannot overflow 64 bits.
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        let mut tail = [0; 4];
        for (to, from) in tail.iter_mut().zip(rest) {
            *to = *from;
        }
        sum += u64::from(u32::from_ne_bytes(tail));
        Self(u64::from(u16::from_be(fold(sum))))
    }

    /// As [`Sum::of`]: two words at a time, their carry added back.
    #[inline(always)]
    fn of_short(bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut sum = 0u64;
        for word in words {
            let (low, carry) = sum.overflowing_add(u64::from_ne_bytes(*word));
            sum = low + u64::from(carry);
        }
        // An octet is in the place of its memory: of four at once, then of those that are left.
        let (words, rest) = rest.as_chunks::<4>();
        let mut tail: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        if !rest.is_empty() {
            let mut last = [0; 4];
            for (to, from) in last.iter_mut().zip(rest) {
                *to = *from;
            }
            tail += u64::from(u32::from_ne_bytes(last));
        }
        let (low, carry) = sum.overflowing_add(tail);
        Self(u64::from(u16::from_be(fold(low + u64::from(carry)))))
    }

    /// The sum of both.
    #[inline]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// With the 16-bit word `word` added.
    #[inline]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// With both halves of `word` added: as one number, which the folding takes apart.
    #[inline]
    pub const fn word32(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// With the four 16-bit words of `word` added.
    #[inline]
    pub const fn word64(self, word: u64) -> Self {
        self.word32((word >> 32) as u32).word32(word as u32)
    }

    /// Not folded: a number of which only its remainder modulo 2^16 - 1 means anything, and whether it is 0.
    #[inline]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// Folded to 16 bits, not inverted: what a device wants in the field it is to complete.
    #[inline]
    pub const fn folded(self) -> u16 {
        fold(self.0)
    }

    /// The checksum field's value for data with this sum.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }

    /// True if data with this sum, its checksum field included, is whole.
    #[inline]
    pub const fn is_whole(self) -> bool {
        self.folded() == 0xffff
    }
}

/// The sum of both halves of a word.
#[inline(always)]
pub const fn halves(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

/// Adds the carries in until 16 bits are left.
#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The sum of an IPv4 pseudo-header (RFC 9293 §3.1). Addresses are big-endian numbers, `len` counts header and data.
#[inline]
pub const fn pseudo_v4(src: u32, dst: u32, protocol: u8, len: u16) -> Sum {
    Sum::ZERO.word32(src).word32(dst).word(protocol as u16).word(len)
}

/// The sum of an IPv6 pseudo-header (RFC 8200 §8.1). Addresses are pairs of big-endian numbers.
#[inline]
pub const fn pseudo_v6(src: (u64, u64), dst: (u64, u64), next_header: u8, len: u32) -> Sum {
    Sum::ZERO.word64(src.0).word64(src.1).word64(dst.0).word64(dst.1).word(next_header as u16).word32(len)
}

/// The checksum `field` after one 16-bit word of the data has changed from `old` to `new` (RFC 1624 §3, equation 3).
#[inline]
pub const fn update(field: u16, old: u16, new: u16) -> u16 {
    Sum::ZERO.word(!field).word(!old).word(new).checksum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §4.1 in its plainest form.
    fn obvious(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn rfc_1071_example() {
        let sum = Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
        assert_eq!(Sum::of(&[]).checksum(), 0xffff);
    }

    #[test]
    fn rfc_1624_example() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn agrees_with_the_obvious(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(Sum::of(&bytes).checksum(), obvious(&bytes));
        }

        #[test]
        fn parts_add_up(bytes in prop::collection::vec(any::<u8>(), 2..200), at in 0usize..100) {
            let at = (at * 2).min(bytes.len() & !1);
            let (head, tail) = bytes.split_at(at);
            prop_assert_eq!(Sum::of(head).plus(Sum::of(tail)).checksum(), obvious(&bytes));
        }

        #[test]
        fn update_keeps_data_whole(mut bytes in prop::collection::vec(any::<u8>(), 4..100), at in 1usize..50, new in any::<u16>()) {
            bytes.truncate(bytes.len() & !1);
            let at = 2 + (at * 2) % (bytes.len() - 2);
            bytes[..2].fill(0);
            let field = obvious(&bytes);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[..2].copy_from_slice(&update(field, old, new).to_be_bytes());
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            // Data of zeros only has no whole form but 0xffff; equation 3 keeps it so.
            prop_assert!(Sum::of(&bytes).is_whole());
        }
    }
}
