//! Latencies that begin at a device's time stamps: each frame has its own.

use listener::segment::Verdict;

use crate::burst::Fate;
use crate::histogram::Latency;

/// Records what each frame of a burst `waited` before it was received, and then `ns` until the answers were handed over.
/// Answers are in the order of their frames, and the device took the first `sent` of them.
pub(super) fn record(latency: &mut Latency, fates: &[Fate], waited: &[u64], sent: usize, ns: u64) {
    let mut answers = 0;
    for (fate, waited) in fates.iter().zip(waited) {
        let outcome = match *fate {
            Fate::Ready(outcome) => {
                answers += 1;
                if answers > sent {
                    continue;
                }
                outcome
            }
            Fate::Consume(outcome) | Fate::Tcp(Verdict::Consume(outcome)) => outcome,
            Fate::Drop(_) | Fate::Pending | Fate::Tcp(_) => continue,
        };
        latency.record(outcome, waited.saturating_add(ns), 1);
    }
}
