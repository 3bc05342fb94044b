//! What is counted, per core and stream.

use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

/// Longest latency that is told apart from a longer one: a minute.
pub const LATENCY_NS_MAX: u64 = 60_000_000_000;

macro_rules! counts {
    ($($name:ident $text:literal $sentence:literal)*) => {
        /// What can become of a flow, or of a segment of one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count {
            $(#[doc = $sentence] $name,)*
        }

        impl Count {
            /// All of them, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in tables and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it means.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }
        }
    };
}

counts! {
    Sent "sent" "SYNs that the device took."
    SynAck "synack" "Flows answered by a SYN-ACK with the right ACK number, flags, checksum and options."
    Rst "rst" "Flows answered by a right RST from where no listener was expected."
    Refused "refused" "Flows answered by a RST from where a listener was expected."
    Unexpected "unexpected_synack" "Flows answered by a SYN-ACK from where no listener was expected."
    Again "retransmission" "Further SYN-ACKs of a flow that had one."
    WrongAck "wrong_ack" "Answers whose ACK number is that of no SYN of this flow."
    WrongFlags "wrong_flags" "Segments with control bits that answer nothing that was sent."
    WrongChecksum "wrong_checksum" "Segments with a wrong checksum, or malformed."
    WrongOptions "wrong_options" "SYN-ACKs without an MSS, with an option that was not offered, or a wrong time stamp echo."
    WrongPeer "wrong_peer" "Answers from another address or port than the one that was asked."
    Forgotten "too_late" "Right answers so late that nobody knows whether they are the first."
    Stale "stale" "Answers to SYNs of an earlier run."
    Acked "handshakes" "Handshakes completed by our ACK."
    Data "data" "Segments that the server sent on connections, FINs among them."
    Closed "closed" "Connections whose FIN the server acknowledged."
    Reset "reset" "Connections, or handshakes after their SYN-ACK, that the server reset."
}

/// Number of [`Count`]s.
pub const COUNTS: usize = Count::ALL.len();

/// One stream's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts(pub [u64; COUNTS]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; COUNTS])
    }
}

impl Counts {
    /// One of them.
    pub const fn of(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    /// Adds one.
    #[inline]
    pub fn add(&mut self, count: Count) {
        self.0[count as usize] += 1;
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (to, from) in self.0.iter_mut().zip(other.0) {
            *to += from;
        }
    }

    /// Flows with a right answer.
    pub fn answered(&self) -> u64 {
        [Count::SynAck, Count::Rst, Count::Refused, Count::Unexpected]
            .map(|count| self.of(count))
            .iter()
            .sum()
    }

    /// Answers that are wrong in some way.
    pub fn wrong(&self) -> u64 {
        let wrong = [
            Count::WrongAck,
            Count::WrongFlags,
            Count::WrongChecksum,
            Count::WrongOptions,
            Count::WrongPeer,
            Count::Unexpected,
        ];
        wrong.map(|count| self.of(count)).iter().sum()
    }

    /// Flows without any answer, right or wrong. Wrong answers to flows that had a right one make it too small.
    pub fn silent(&self) -> u64 {
        let wrong = self.wrong() - self.of(Count::Unexpected);
        self.of(Count::Sent).saturating_sub(self.answered() + self.of(Count::Forgotten) + wrong)
    }

    /// Flows without a right answer, as a share of those sent.
    pub fn loss(&self) -> f64 {
        let sent = self.of(Count::Sent);
        if sent == 0 {
            0.0
        } else {
            sent.saturating_sub(self.answered() + self.of(Count::Forgotten)) as f64 / sent as f64
        }
    }
}

/// Counts that another thread may read while they grow.
#[derive(Debug, Default)]
pub struct Shared([AtomicU64; COUNTS]);

impl Shared {
    /// Replaces all by `counts`.
    #[inline]
    pub fn publish(&self, counts: &Counts) {
        for (to, from) in self.0.iter().zip(counts.0) {
            to.store(from, Ordering::Relaxed);
        }
    }

    /// What they are now.
    pub fn read(&self) -> Counts {
        let mut counts = Counts::default();
        for (to, from) in counts.0.iter_mut().zip(&self.0) {
            *to = from.load(Ordering::Relaxed);
        }
        counts
    }
}

/// What one core has of one stream.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Counts.
    pub counts: Counts,
    /// Nanoseconds from the time at which a SYN should have left to its SYN-ACK.
    pub synack: Histogram<u64>,
    /// The same, to its RST.
    pub rst: Histogram<u64>,
    /// The same, to the ACK of our FIN.
    pub closed: Histogram<u64>,
    /// SYNs without an answer that are no loss: copies of one that was answered ([`super::copies`]).
    pub excused: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            counts: Counts::default(),
            synack: histogram(),
            rst: histogram(),
            closed: histogram(),
            excused: 0,
        }
    }
}

impl Tally {
    /// Flows without any answer, right or wrong, those left out that need none.
    pub fn silent(&self) -> u64 {
        self.counts.silent() - self.copies()
    }

    /// SYNs without an answer that are no loss.
    pub fn copies(&self) -> u64 {
        // Wrong answers may be theirs.
        self.excused.min(self.counts.silent())
    }

    /// Flows without a right answer, those left out that need none, as a share of those sent.
    pub fn loss(&self) -> f64 {
        let sent = self.counts.of(Count::Sent).max(1) as f64;
        (self.counts.loss() - self.copies() as f64 / sent).max(0.0)
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.excused += other.excused;
        for (to, from) in [
            (&mut self.synack, &other.synack),
            (&mut self.rst, &other.rst),
            (&mut self.closed, &other.closed),
        ] {
            // Cannot fail: both have the same bounds.
            let _ = to.add(from);
        }
    }
}

/// A histogram of nanoseconds with all the memory that it will ever need.
///
/// # Panics
/// Never: the bounds are constants that `hdrhistogram` takes.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("constants within bounds")
}
