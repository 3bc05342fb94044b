//! TCP segments → verdicts, one by one in order of arrival: a RST and the SYN behind it must not change places.
//!
//! A run of plain SYNs, all with an MSS at most or all with the options of Linux's, is one step as far as nothing but
//! columns is needed to answer it, and so is a run of RSTs that end requests.

use listener::columns::Answers;
use listener::segment::{Outcome, Segment, Verdict};
use listener::types::{DevIndex, Nanos};

use crate::burst::{Fate, Lane, Lanes, Plain};
use crate::protocol::Protocol;

/// The columns that [`tcp`] reads and writes.
pub struct Columns<'a, Found> {
    /// The headers of plain segments.
    pub plain: &'a Plain,
    /// TCP segments; filled for the bare ones that become some here.
    pub segs: &'a mut [Segment],
    /// What the lookup found.
    pub found: &'a mut [Found],
    /// Answers in columns: those that are given here, and no others.
    pub answers: &'a mut Answers,
    /// Verdicts; of rows that are in `answers` they mean nothing.
    pub fates: &'a mut [Fate],
}

/// Lets `protocol` decide on the frames of the TCP lane, which came in on device `dev`.
#[inline(never)]
pub fn tcp<P: Protocol>(
    protocol: &mut P,
    columns: Columns<'_, P::Found>,
    dev: DevIndex,
    lanes: &Lanes,
    now: Nanos,
) {
    let mut columns = columns;
    columns.answers.clear();
    let mut rest = lanes.tcp.bits();
    while rest != 0 {
        let Columns { plain, answers, .. } = &mut columns;
        let resets = run(rest, lanes.resets);
        // One of both kinds at most begins here.
        let syns = run(rest, lanes.syns) | run(rest, lanes.full);
        if syns != 0 {
            rest &= !protocol.answer_syns(&plain.columns, syns, |row| plain.route(row), now, answers);
        } else if resets != 0 {
            rest &= !protocol.end_requests(&plain.columns, resets, now, answers);
        }
        // A whole run, and then perhaps one of the other kind.
        if rest & (syns | resets) == 0 && syns | resets != 0 {
            continue;
        }
        let index = rest.trailing_zeros() as usize % columns.fates.len();
        rest &= rest - 1;
        one(protocol, &mut columns, index, dev, lanes, now);
    }
}

/// The segments of `lane` in front of the first of `rest` that is none of them.
#[inline]
const fn run(rest: u64, lane: Lane) -> u64 {
    let others = rest & !lane.bits();
    rest & !(others | others.wrapping_neg())
}

/// One segment of any kind.
#[inline(never)]
fn one<P: Protocol>(
    protocol: &mut P,
    columns: &mut Columns<'_, P::Found>,
    index: usize,
    dev: DevIndex,
    lanes: &Lanes,
    now: Nanos,
) {
    let Columns { plain, segs, found, fates, .. } = columns;
    if lanes.bare().bits() >> index & 1 == 1 {
        plain.bare(index, dev, lanes, &mut segs[index]);
    }
    if lanes.plain.bits() >> index & 1 == 1 {
        found[index] = protocol.found_row(index);
    }
    // Decided on in place: a verdict is long, and a copy of what was just written is slow.
    fates[index] = Fate::Tcp(Verdict::Consume(Outcome::Other));
    if let Fate::Tcp(verdict) = &mut fates[index] {
        protocol.rcv_into(&segs[index], found[index], now, verdict);
    }
}
