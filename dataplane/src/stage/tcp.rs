//! TCP segments → verdicts, one by one in order of arrival: a RST and the SYN behind it must not change places.

use listener::segment::{Segment, Verdict};
use listener::types::Nanos;

use crate::burst::{Fate, Lanes};
use crate::protocol::Protocol;

/// Lets `protocol` decide on the frames of the TCP lane.
#[inline]
pub fn tcp<P: Protocol>(
    protocol: &mut P,
    segs: &[Segment],
    found: &[P::Found],
    lanes: &Lanes,
    fates: &mut [Fate],
    now: Nanos,
) {
    for index in lanes.tcp.iter() {
        fates[index] = match protocol.rcv(&segs[index], found[index], now) {
            Verdict::Drop(reason) => Fate::Drop(reason),
            Verdict::Consume(outcome) => Fate::Consume(outcome),
            Verdict::Reply(outcome, segment) => Fate::Tcp(outcome, segment),
        };
    }
}
