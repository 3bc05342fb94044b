//! The counters of `/proc/net/snmp` and `/proc/net/netstat` that a listening stack moves, by their kernel names
//! (net/ipv4/proc.c, Linux v6.18), one set per core. Each has a single writer; anybody may read at any time.

use crate::sync::{AtomicU64, Ordering};

macro_rules! counters {
    ($($name:ident: $sentence:literal,)*) => {
        /// One counter; as a number its index.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
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

            /// One sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }
        }
    };
}

counters! {
    // Tcp
    PassiveOpens: "Connections that a final ACK made.",
    AttemptFails: "Half-open handshakes that a RST or a stray SYN ended.",
    EstabResets: "Connections that ended by a RST, in or out, from ESTABLISHED or CLOSE-WAIT.",
    CurrEstab: "Connections in ESTABLISHED or CLOSE-WAIT now.",
    InSegs: "Segments received, bad ones included.",
    OutSegs: "Segments sent, retransmissions and RSTs included.",
    RetransSegs: "Segments sent again.",
    InErrs: "Segments received with a bad checksum or header.",
    InCsumErrors: "Segments received with a bad checksum.",
    OutRsts: "RSTs sent.",
    // TcpExt
    SyncookiesSent: "SYNs answered with a cookie.",
    SyncookiesRecv: "ACKs whose cookie was valid.",
    SyncookiesFailed: "ACKs whose cookie was not valid, while cookies were out.",
    EmbryonicRsts: "Half-open handshakes that a RST or SYN removed, or an overflow with tcp_abort_on_overflow.",
    ListenOverflows: "SYNs and final ACKs that met a full accept queue.",
    ListenDrops: "SYNs and final ACKs that a listener dropped, for any reason.",
    TCPReqQFullDoCookies: "SYNs that got a cookie because the SYN queue was full or tcp_syncookies is 2.",
    TCPReqQFullDrop: "SYNs dropped because the SYN queue was full and tcp_syncookies is 0.",
    TCPDeferAcceptDrop: "Bare ACKs dropped while TCP_DEFER_ACCEPT waits for data.",
    TCPACKSkippedSynRecv: "Answers in SYN-RECV left out by tcp_invalid_ratelimit.",
    TCPACKSkippedPAWS: "Answers to old timestamps left out by tcp_invalid_ratelimit.",
    TCPACKSkippedSeq: "Answers to sequence numbers out of window left out by tcp_invalid_ratelimit.",
    TCPACKSkippedFinWait2: "Answers in FIN-WAIT-2 left out by tcp_invalid_ratelimit.",
    TCPACKSkippedTimeWait: "Answers in TIME-WAIT left out by tcp_invalid_ratelimit.",
    TCPACKSkippedChallenge: "Challenge ACKs left out by tcp_invalid_ratelimit.",
    TSEcrRejected: "Segments in SYN-RECV that echo a timestamp never sent.",
    PAWSEstab: "Segments with a timestamp older than the last one, at a request or a connection.",
    PAWSOldAck: "ACKs with an old timestamp and an old sequence number, ignored.",
    PAWSTimewait: "Segments in TIME-WAIT with a timestamp older than the last one.",
    TCPTimeouts: "Retransmission timers that ran out.",
    TCPSynRetrans: "SYN-ACKs sent again.",
    TCPChallengeACK: "Challenge ACKs sent (RFC 5961).",
    TCPSYNChallenge: "SYNs on a connection answered by a challenge ACK.",
    TCPAbortOnData: "Connections reset because data came after close.",
    TCPAbortOnClose: "Connections reset by close.",
    TCPAbortOnTimeout: "Connections given up after their last retransmission.",
    TCPZeroWindowDrop: "Segments with data that met a zero window.",
    TCPTimeWaitOverflow: "Connections that skipped TIME-WAIT because tcp_max_tw_buckets were in use.",
    TW: "TIME-WAIT entries that ran out.",
    TWRecycled: "TIME-WAIT entries that a new SYN replaced.",
    DiscardedOctets: "Octets of data that listeners with `discard` took in order and dropped; hearken's own.",
    TCPMigrateReqSuccess: "Requests and children that moved to another listener of their group.",
    TCPMigrateReqFailure: "Requests and children that found no listener to move to.",
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
