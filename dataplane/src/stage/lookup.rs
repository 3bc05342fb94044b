//! TCP segments → what they belong to, all at once, so that their cache misses overlap.

use listener::segment::Segment;

use crate::burst::Lanes;
use crate::protocol::Protocol;

/// Fills `found` for the frames on the TCP lane.
#[inline]
pub fn lookup<P: Protocol>(protocol: &mut P, segs: &[Segment], lanes: &Lanes, found: &mut [P::Found]) {
    let lane = lanes.tcp.as_slice();
    if !lane.is_empty() {
        protocol.lookup_burst(segs, lane, found);
    }
}
