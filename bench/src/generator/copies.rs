//! SYNs that are sent over and over, as those of a file are: which answer is to which copy, and what silence means.
//!
//! Copies of a SYN are alike, and so are their answers. As many answers count as there were copies, each as the answer to one of
//! them; more are repetitions. An answer is timed only where one copy waits, since nobody knows otherwise which one it
//! answers (Karn's rule, RFC 6298 §3).
//!
//! A server that keeps a request for a SYN does not answer every copy: Linux, and hearken with it, the first one, and then one
//! in [`LIMIT_NS`] (`tcp_invalid_ratelimit`). Where a SYN was answered, and never three times within less, its copies
//! without an answer are no loss. Where it was answered three times within less, the server limits nothing, and they are.

/// Nanoseconds within which Linux answers the copies of a SYN once.
pub const LIMIT_NS: u64 = 500_000_000;
/// Nanoseconds within which three answers show that there is no such limit: less by what a wire may shift them.
const SURELY_NS: u64 = LIMIT_NS - LIMIT_NS / 10;

/// A SYN, whatever the number of its copies.
#[derive(Clone, Copy, Debug, Default)]
struct Syn {
    sent: u64,
    answered: u64,
    /// When the last copy should have left.
    sent_at: u64,
    /// When its last answer came, and the one before that.
    answered_at: [u64; 2],
    unlimited: bool,
}

/// All SYNs of a file.
#[derive(Clone, Debug)]
pub struct Copies {
    syns: Box<[Syn]>,
}

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// One to a copy that had none; with the time at which that copy should have left, if it is known which one it is.
    First(Option<u64>),
    /// One more than there were copies.
    Again,
    /// To a SYN that was not sent in this run.
    Stale,
}

impl Copies {
    /// Of `syns` different SYNs.
    pub fn new(syns: usize) -> Self {
        Self { syns: vec![Syn::default(); syns].into() }
    }

    /// A copy of SYN `number` has left, which should have at `at`.
    #[inline]
    pub fn sent(&mut self, number: usize, at: u64) {
        if let Some(syn) = self.syns.get_mut(number) {
            syn.sent += 1;
            syn.sent_at = at;
        }
    }

    /// An answer to SYN `number` has come at `now`.
    #[inline]
    pub fn answered(&mut self, number: usize, now: u64) -> Answer {
        let Some(syn) = self.syns.get_mut(number).filter(|syn| syn.sent > 0) else { return Answer::Stale };
        let waiting = syn.sent - syn.answered;
        if waiting == 0 {
            return Answer::Again;
        }
        let [last, before] = syn.answered_at;
        syn.unlimited |= syn.answered > 1 && now.saturating_sub(before) < SURELY_NS;
        syn.answered += 1;
        syn.answered_at = [now, last];
        Answer::First((waiting == 1).then_some(syn.sent_at))
    }

    /// Copies without an answer that are no loss.
    pub fn excused(&self) -> u64 {
        let limited = self.syns.iter().filter(|syn| syn.answered > 0 && !syn.unlimited);
        limited.map(|syn| syn.sent - syn.answered).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn as_many_answers_count_as_there_were_copies() {
        let mut copies = Copies::new(2);
        assert_eq!(copies.answered(0, 1), Answer::Stale);
        copies.sent(0, 5);
        assert_eq!(copies.answered(0, 9), Answer::First(Some(5)));
        assert_eq!(copies.answered(0, 10), Answer::Again);
        // Two are on their way: each is answered, and neither is timed before the other has its answer.
        copies.sent(0, 20);
        copies.sent(0, 30);
        assert_eq!(
            [copies.answered(0, 31), copies.answered(0, 32)],
            [Answer::First(None), Answer::First(Some(30))]
        );
        assert_eq!((copies.answered(0, 33), copies.answered(1, 33)), (Answer::Again, Answer::Stale));
        assert_eq!((copies.answered(7, 33), copies.excused()), (Answer::Stale, 0));
    }

    #[test]
    fn silence_of_a_server_that_limits_is_no_loss() {
        let (mut limits, mut loses, mut dead) = (Copies::new(1), Copies::new(1), Copies::new(1));
        for copy in 0..1000 {
            let at = copy * 3 * MS;
            for copies in [&mut limits, &mut loses, &mut dead] {
                copies.sent(0, at);
            }
            if copy % 167 == 0 || copy == 1 {
                assert!(matches!(limits.answered(0, at + 1), Answer::First(_)));
            }
            if copy % 10 != 0 {
                assert!(matches!(loses.answered(0, at + 1), Answer::First(_)));
            }
        }
        assert_eq!((limits.excused(), loses.excused(), dead.excused()), (1000 - 7, 0, 0));
    }
}
