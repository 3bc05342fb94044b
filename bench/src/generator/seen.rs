//! Which flows have been answered: one bit each, for as many as lie behind the latest.

/// Bits in a word.
const WORD: u64 = u64::BITS as u64;

/// A window over the flows, moved on by [`Seen::advance`].
#[derive(Clone, Debug)]
pub struct Seen {
    words: Box<[u64]>,
    /// Words that the window has reached: those before it are clean or in use.
    head: u64,
}

/// What [`Seen::insert`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It was not there.
    First,
    /// It was there.
    Again,
    /// It is so long ago that nobody knows.
    Forgotten,
}

impl Seen {
    /// A window of at least `flows` flows.
    pub fn new(flows: u64) -> Self {
        let words = flows.div_ceil(WORD).next_power_of_two().max(64);
        Self { words: vec![0; words as usize].into_boxed_slice(), head: 0 }
    }

    /// Lets the window reach up to `limit`.
    #[inline]
    pub fn advance(&mut self, limit: u64) {
        let head = limit.div_ceil(WORD);
        if head <= self.head {
            return;
        }
        let from = self.head.max(head.saturating_sub(self.words.len() as u64));
        for word in from..head {
            self.words[word as usize & (self.words.len() - 1)] = 0;
        }
        self.head = head;
    }

    /// Notes `flow`, which must lie below the limit.
    #[inline]
    pub fn insert(&mut self, flow: u64) -> Sight {
        let word = flow / WORD;
        if word >= self.head || self.head - word > self.words.len() as u64 {
            return Sight::Forgotten;
        }
        let (place, bit) = (word as usize & (self.words.len() - 1), 1 << (flow % WORD));
        let before = self.words[place];
        self.words[place] = before | bit;
        if before & bit == 0 { Sight::First } else { Sight::Again }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_sight_is_told_from_the_first_while_it_is_in_the_window() {
        let mut seen = Seen::new(4096);
        seen.advance(4096);
        assert_eq!(
            (seen.insert(0), seen.insert(0), seen.insert(4095)),
            (Sight::First, Sight::Again, Sight::First)
        );
        assert_eq!(seen.insert(4096), Sight::Forgotten, "not reached yet");
        seen.advance(4097);
        assert_eq!((seen.insert(0), seen.insert(63)), (Sight::Forgotten, Sight::Forgotten));
        assert_eq!((seen.insert(64), seen.insert(4096)), (Sight::First, Sight::First), "cleaned");
        seen.advance(1 << 40);
        assert_eq!(
            (seen.insert((1 << 40) - 1), seen.insert((1 << 40) - 4097)),
            (Sight::First, Sight::Forgotten)
        );
    }
}
