//! The counters of `/proc/net/snmp` and `/proc/net/netstat` that a listening stack moves, by their kernel names
//! (net/ipv4/proc.c, Linux v6.18), one set per core. Each has a single writer; anybody may read at any time.

use crate::sync::{AtomicU64, Ordering};

macro_rules! counters {
    ($($name:ident $unit:ident: $sentence:literal,)*) => {
        /// One counter; as a number its index.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Mib {
            $(#[doc = $sentence] $name,)*
        }

        impl Mib {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The kernel's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What it counts, in the plural.
            pub const fn unit(self) -> &'static str {
                match self { $(Self::$name => stringify!($unit),)* }
            }

            /// One sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }
        }
    };
}

counters! {
    // Tcp
    PassiveOpens connections: "Connections that a final ACK made.",
    AttemptFails requests: "Half-open handshakes that a RST or a stray SYN ended.",
    EstabResets connections: "Connections that ended by a RST, in or out, from ESTABLISHED or CLOSE-WAIT.",
    CurrEstab connections: "Connections in ESTABLISHED or CLOSE-WAIT now.",
    InSegs segments: "Segments received, bad ones included.",
    OutSegs segments: "Segments sent, retransmissions and RSTs included.",
    RetransSegs segments: "Segments sent again.",
    InErrs segments: "Segments received with a bad checksum or header.",
    InCsumErrors segments: "Segments received with a bad checksum.",
    OutRsts segments: "RSTs sent.",
    // TcpExt
    SyncookiesSent segments: "SYNs answered with a cookie.",
    SyncookiesRecv segments: "ACKs whose cookie was valid.",
    SyncookiesFailed segments: "ACKs whose cookie was not valid, while cookies were out.",
    EmbryonicRsts requests: "Half-open handshakes that a RST or SYN removed, or an overflow with tcp_abort_on_overflow.",
    ListenOverflows segments: "SYNs and final ACKs that met a full accept queue.",
    ListenDrops segments: "SYNs and final ACKs that a listener dropped, for any reason.",
    TCPReqQFullDoCookies segments: "SYNs that got a cookie because the SYN queue was full or tcp_syncookies is 2.",
    TCPReqQFullDrop segments: "SYNs dropped because the SYN queue was full and tcp_syncookies is 0.",
    TCPDeferAcceptDrop segments: "Bare ACKs dropped while TCP_DEFER_ACCEPT waits for data.",
    TCPACKSkippedSynRecv segments: "Answers in SYN-RECV left out by tcp_invalid_ratelimit.",
    TCPACKSkippedPAWS segments: "Answers to old timestamps left out by tcp_invalid_ratelimit.",
    TCPACKSkippedSeq segments: "Answers to sequence numbers out of window left out by tcp_invalid_ratelimit.",
    TCPACKSkippedFinWait2 segments: "Answers in FIN-WAIT-2 left out by tcp_invalid_ratelimit.",
    TCPACKSkippedTimeWait segments: "Answers in TIME-WAIT left out by tcp_invalid_ratelimit.",
    TCPACKSkippedChallenge segments: "Challenge ACKs left out by tcp_invalid_ratelimit.",
    TSEcrRejected segments: "Segments in SYN-RECV that echo a timestamp never sent.",
    PAWSEstab segments: "Segments with a timestamp older than the last one, at a request or a connection.",
    PAWSOldAck segments: "ACKs with an old timestamp and an old sequence number, ignored.",
    PAWSTimewait segments: "Segments in TIME-WAIT with a timestamp older than the last one.",
    TCPTimeouts timeouts: "Retransmission timers that ran out.",
    TCPLossProbes segments: "FINs sent once more before the first timeout (RFC 8985).",
    TCPSynRetrans segments: "SYN-ACKs sent again.",
    TCPChallengeACK segments: "Challenge ACKs sent (RFC 5961).",
    TCPSYNChallenge segments: "SYNs on a connection answered by a challenge ACK.",
    TCPAbortOnData connections: "Connections reset because data came after close.",
    TCPAbortOnClose connections: "Connections reset by close.",
    TCPAbortOnTimeout connections: "Connections given up after their last retransmission.",
    TCPZeroWindowDrop segments: "Segments with data that met a zero window.",
    TCPTimeWaitOverflow connections: "Connections that skipped TIME-WAIT because tcp_max_tw_buckets were in use.",
    TW connections: "TIME-WAIT entries that ran out.",
    TWRecycled connections: "TIME-WAIT entries that a new SYN replaced.",
    DiscardedOctets bytes: "Octets of data that listeners with `discard` took in order and dropped; hearken's own.",
    OutOfWindowIcmps segments: "ICMP errors that quote a number which is not out.",
    TCPMigrateReqSuccess requests: "Requests and children that moved to another listener of their group.",
    TCPMigrateReqFailure requests: "Requests and children that found no listener to move to.",
}

/// The counters of one core.
#[derive(Debug)]
pub struct Snmp {
    values: [AtomicU64; Mib::COUNT],
}

impl Default for Snmp {
    fn default() -> Self {
        Self { values: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Snmp {
    /// Adds `amount`. The one writer only: a load and a store, no locked instruction.
    #[inline]
    pub fn add(&self, counter: Mib, amount: u64) {
        let value = &self.values[counter as usize];
        value.store(value.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Adds one.
    #[inline]
    pub fn inc(&self, counter: Mib) {
        self.add(counter, 1);
    }

    /// Takes one off; for [`Mib::CurrEstab`].
    #[inline]
    pub fn dec(&self, counter: Mib) {
        self.add(counter, u64::MAX);
    }

    /// Value as of now.
    pub fn get(&self, counter: Mib) -> u64 {
        self.values[counter as usize].load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_numbers_dense() {
        let names: HashSet<_> = Mib::ALL.iter().map(|counter| counter.name()).collect();
        assert_eq!(names.len(), Mib::COUNT);
        for (index, counter) in Mib::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
            assert!(counter.sentence().ends_with('.'));
        }
    }

    #[test]
    fn a_gauge_goes_down_again() {
        let snmp = Snmp::default();
        snmp.inc(Mib::CurrEstab);
        snmp.add(Mib::CurrEstab, 2);
        snmp.dec(Mib::CurrEstab);
        assert_eq!(snmp.get(Mib::CurrEstab), 2);
        assert_eq!(snmp.get(Mib::InSegs), 0);
    }
}
