//! TCP segments → what they belong to, all at once, so that their cache misses overlap.

use listener::columns::Sets;
use listener::segment::Segment;
use listener::types::DevIndex;

use crate::burst::{Lanes, Plain};
use crate::protocol::Protocol;

/// Looks up the frames on the TCP lane, which came in on device `dev`: fills `found` for those that are not plain; what was
/// found for the others is with the protocol.
#[inline]
pub fn lookup<P: Protocol>(
    protocol: &mut P,
    (segs, plain): (&[Segment], &Plain),
    dev: DevIndex,
    lanes: &Lanes,
    found: &mut [P::Found],
) {
    if lanes.tcp.is_empty() {
        return;
    }
    let plain_rows = lanes.plain.bits();
    protocol.lookup_burst(segs, lanes.tcp.bits() & !plain_rows, found);
    if plain_rows != 0 {
        let Lanes { opens, syns, full, .. } = lanes;
        let sets = Sets { rows: plain_rows, opens: opens.bits(), syns: syns.bits(), full: full.bits() };
        protocol.lookup_columns(&plain.columns, sets, dev);
    }
}
