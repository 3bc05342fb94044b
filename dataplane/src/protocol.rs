//! What the packet path asks of TCP. [`listener`]'s core is the one that runs; tests of the path script their own.

use listener::columns::{Answers, Columns, Sets};
use listener::core::{Core, Found};
use listener::drop_reason::DropReason;
use listener::icmp::IcmpError;
use listener::segment::{Originated, Segment, Verdict};
use listener::types::{DevIndex, Nanos, Route};

/// The per-core half of a TCP stack, as one worker drives it.
pub trait Protocol: Send {
    /// What a lookup leaves for [`Protocol::rcv`]; the default is "nothing found".
    type Found: Copy + Default + Send;

    /// Looks up the segments `segs[i]` for every bit `i` of `set`, and leaves the answers in `found[i]`. Once a burst, also
    /// if it has no such segment.
    fn lookup_burst(&mut self, segs: &[Segment], set: u64, found: &mut [Self::Found]);

    /// Looks up the rows `sets` of `columns`, after [`Protocol::lookup_burst`].
    fn lookup_columns(&mut self, columns: &Columns, sets: Sets, dev: DevIndex);

    /// What the lookup left for a row.
    fn found_row(&self, row: usize) -> Self::Found;

    /// Answers rows `set`, which are SYNs, in order, up to the first that has to go through [`Protocol::rcv`]. Returns
    /// those that were answered.
    fn answer_syns(
        &mut self,
        _columns: &Columns,
        _set: u64,
        _route: impl Fn(usize) -> Route,
        _now: Nanos,
        _answers: &mut Answers,
    ) -> u64 {
        0
    }

    /// Takes the rows `set`, which are bare RSTs, in order, up to the first that is not just the end of a request. Returns
    /// those that were, which are in [`Answers::ended`] as well.
    fn end_requests(&mut self, _columns: &Columns, _set: u64, _now: Nanos, _answers: &mut Answers) -> u64 {
        0
    }

    /// One segment, in order of arrival, and what becomes of it.
    fn rcv(&mut self, seg: &Segment, found: Self::Found, now: Nanos) -> Verdict;

    /// As [`Protocol::rcv`], with the verdict put where it is to stay.
    #[inline]
    fn rcv_into(&mut self, seg: &Segment, found: Self::Found, now: Nanos, verdict: &mut Verdict) {
        *verdict = self.rcv(seg, found, now);
    }

    /// An ICMP error about a segment of ours.
    fn icmp_err(&mut self, _error: &IcmpError, _now: Nanos) -> Verdict {
        Verdict::Drop(DropReason::IcmpNoSocket)
    }

    /// Counts a segment that was dropped before it got here, for a wrong checksum or a wrong header.
    fn count_bad_segment(&mut self, checksum: bool);

    /// Whether segments that belong to no flow here, and may to one of another worker, are dropped as
    /// [`HandoffFull`](listener::drop_reason::DropReason::HandoffFull) instead of being answered, so that the worker can
    /// ask others.
    fn set_hand_off(&mut self, _on: bool) {}

    /// A segment that came to another worker, of which this one may know the flow; with `last`, nobody else is left to
    /// be asked. The same drop reason says that it is not known here either.
    fn rcv_handed_over(&mut self, seg: &Segment, _last: bool, now: Nanos) -> Verdict {
        self.rcv(seg, Self::Found::default(), now)
    }

    /// When [`Protocol::tick`] next has something to do for a timer, if any runs.
    fn next_timer(&self) -> Option<Nanos> {
        None
    }

    /// At most `budget` timers and commands that are due. `send` gets each segment that no frame asked for; false means
    /// that there is no room for it now. Returns true if there may be more.
    fn tick(&mut self, now: Nanos, budget: usize, send: impl FnMut(&Originated) -> bool) -> bool;
}

impl Protocol for Core {
    type Found = Found;

    #[inline]
    fn lookup_burst(&mut self, segs: &[Segment], set: u64, found: &mut [Found]) {
        Self::lookup_burst(self, segs, set, found);
    }

    #[inline]
    fn lookup_columns(&mut self, columns: &Columns, sets: Sets, dev: DevIndex) {
        Self::lookup_columns(self, columns, sets, dev);
    }

    #[inline]
    fn found_row(&self, row: usize) -> Found {
        Self::found_row(self, row)
    }

    #[inline]
    fn answer_syns(
        &mut self,
        columns: &Columns,
        set: u64,
        route: impl Fn(usize) -> Route,
        now: Nanos,
        answers: &mut Answers,
    ) -> u64 {
        Self::answer_syns(self, columns, set, route, now, answers)
    }

    #[inline]
    fn end_requests(&mut self, columns: &Columns, set: u64, now: Nanos, answers: &mut Answers) -> u64 {
        Self::end_requests(self, columns, set, now, answers)
    }

    #[inline]
    fn rcv(&mut self, seg: &Segment, found: Found, now: Nanos) -> Verdict {
        Self::rcv(self, seg, found, now)
    }

    #[inline]
    fn rcv_into(&mut self, seg: &Segment, found: Found, now: Nanos, verdict: &mut Verdict) {
        Self::rcv_into(self, seg, found, now, verdict);
    }

    fn icmp_err(&mut self, error: &IcmpError, now: Nanos) -> Verdict {
        Self::icmp_err(self, error, now)
    }

    #[inline]
    fn count_bad_segment(&mut self, checksum: bool) {
        Self::count_bad_segment(self, checksum);
    }

    fn next_timer(&self) -> Option<Nanos> {
        Self::next_timer(self)
    }

    fn set_hand_off(&mut self, on: bool) {
        Self::set_hand_off(self, on);
    }

    #[inline]
    fn rcv_handed_over(&mut self, seg: &Segment, last: bool, now: Nanos) -> Verdict {
        Self::rcv_handed_over(self, seg, last, now)
    }

    #[inline]
    fn tick(&mut self, now: Nanos, budget: usize, send: impl FnMut(&Originated) -> bool) -> bool {
        Self::tick(self, now, budget, send)
    }
}
