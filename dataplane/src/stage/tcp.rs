//! TCP segments → verdicts, one by one in order of arrival: a RST and the SYN behind it must not change places.

use listener::segment::{Outcome, Segment, Verdict};
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
        // Decided on in place: a verdict is long, and a copy of what was just written is slow.
        fates[index] = Fate::Tcp(Verdict::Consume(Outcome::Other));
        if let Fate::Tcp(verdict) = &mut fates[index] {
            protocol.rcv_into(&segs[index], found[index], now, verdict);
        }
    }
}
