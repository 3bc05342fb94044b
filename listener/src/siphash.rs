//! SipHash, a keyed hash that an attacker without the key can neither predict nor make collide (Aumasson and Bernstein,
//! 2012): SipHash-2-4.
//!
//! The input is a fixed number of 64-bit words, and four bytes behind them or none, hashed as little-endian bytes: so there
//! is no tail to assemble.

/// A 128-bit key.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SipKey(pub [u64; 2]);

impl SipKey {
    /// The key whose 16 bytes these are, little-endian as in the reference implementation.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let bytes = u128::from_le_bytes(bytes);
        Self([bytes as u64, (bytes >> 64) as u64])
    }
}

impl std::fmt::Debug for SipKey {
    /// A secret does not show.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SipKey(..)")
    }
}

struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

/// The state before the first block.
#[inline(always)]
pub(crate) const fn start(key: SipKey) -> [u64; 4] {
    let SipKey([k0, k1]) = key;
    [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ]
}

impl State {
    #[inline(always)]
    const fn new(key: SipKey) -> Self {
        let [v0, v1, v2, v3] = start(key);
        Self { v0, v1, v2, v3 }
    }

    #[inline(always)]
    fn block(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
    }

    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }
}

/// SipHash-2-4 of `words`.
#[inline(always)]
pub fn siphash_2_4<const WORDS: usize>(key: SipKey, words: [u64; WORDS]) -> u64 {
    last_block(key, words, length::<WORDS>(0))
}

/// SipHash-2-4 of `words` and the four bytes of `tail` behind them: two rounds less than with another word.
#[inline(always)]
pub fn siphash_2_4_tail<const WORDS: usize>(key: SipKey, words: [u64; WORDS], tail: u32) -> u64 {
    last_block(key, words, length::<WORDS>(4) | tail as u64)
}

/// The last block of so many words and bytes behind them, without these: it holds the length in its top byte.
#[inline(always)]
pub(crate) const fn length<const WORDS: usize>(bytes: u64) -> u64 {
    (8 * WORDS as u64 + bytes) << 56
}

#[inline(always)]
fn last_block<const WORDS: usize>(key: SipKey, words: [u64; WORDS], last: u64) -> u64 {
    let mut state = State::new(key);
    for word in words {
        state.block(word);
    }
    state.block(last);
    state.v2 ^= 0xff;
    for _ in 0..4 {
        state.round();
    }
    state.v0 ^ state.v1 ^ state.v2 ^ state.v3
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::Hasher;

    const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    #[test]
    fn reference_vectors_of_whole_words() {
        // vectors.h of the reference implementation, input 00 01 02 ..: lengths 0, 8 and 16.
        let key = SipKey::from_bytes(KEY);
        assert_eq!(siphash_2_4(key, []), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash_2_4(key, [0x0706_0504_0302_0100]), 0x93f5_f579_9a93_2462);
        assert_eq!(siphash_2_4(key, [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]), 0x3f2a_cc7f_57c2_9bdb);
    }

    proptest! {
        #[test]
        fn agrees_with_siphasher(key: [u8; 16], words: [u64; 5], tail: u32) {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let whole = |bytes: &[u8]| {
                let mut sip24 = siphasher::sip::SipHasher24::new_with_key(&key);
                sip24.write(bytes);
                sip24.finish()
            };
            let key = SipKey::from_bytes(key);
            prop_assert_eq!(siphash_2_4(key, words), whole(&bytes));
            bytes.extend(tail.to_le_bytes());
            prop_assert_eq!(siphash_2_4_tail(key, words, tail), whole(&bytes));
        }
    }
}
