//! Segments and answers as columns: one array a field, row `i` is frame `i` of the burst.
//!
//! Nearly every segment is plain: IPv4 without options of its own. Plain segments are looked up as columns, many at a
//! time, with vectors; and under a flood, when nearly every frame is a SYN that says nothing but its MSS and nearly every
//! answer follows from the same few facts, such SYNs never become a [`crate::segment::Segment`]: what is the same for
//! all rows is made once. See [`crate::Core::lookup_columns`] and [`crate::Core::answer_syns`].

use crate::limits::BURST_MAX;
use crate::segment::{FlowKey, OutSegment, Outcome, TcpOptions};
use crate::types::{InetAddr, TcpPort};

/// Octets of a TCP header without options, in words.
const HEADER_WORDS: u32 = 5;
/// The head of an MSS option: kind and length.
const MSS_OPTION: u32 = 0x0204_0000;

/// Segments over IPv4. All numbers in the machine's byte order. Rows that hold no segment hold anything.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Columns {
    /// The peer's address.
    pub saddr: [u32; BURST_MAX],
    /// Our address.
    pub daddr: [u32; BURST_MAX],
    /// The peer's port in the upper half, ours in the lower.
    pub ports: [u32; BURST_MAX],
    /// SEG.SEQ
    pub seq: [u32; BURST_MAX],
    /// The MSS that a SYN without other options names; 0 if it names none.
    pub mss: [u32; BURST_MAX],
    /// DSCP and ECN.
    pub tos: [u32; BURST_MAX],
}

impl Columns {
    /// All rows 0.
    pub const EMPTY: Self = Self {
        saddr: [0; BURST_MAX],
        daddr: [0; BURST_MAX],
        ports: [0; BURST_MAX],
        seq: [0; BURST_MAX],
        mss: [0; BURST_MAX],
        tos: [0; BURST_MAX],
    };

    /// The two ends of row `row`.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub fn flow(&self, row: usize) -> FlowKey {
        FlowKey {
            saddr: InetAddr::v4(self.saddr[row]),
            daddr: InetAddr::v4(self.daddr[row]),
            sport: TcpPort((self.ports[row] >> 16) as u16),
            dport: TcpPort(self.ports[row] as u16),
        }
    }
}

/// Rows of [`Columns`] by what they hold, a bit each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sets {
    /// Those that hold a segment.
    pub rows: u64,
    /// Those of these that are SYNs, with any options.
    pub opens: u64,
    /// Those of these with an MSS at most, which [`crate::Core::answer_syns`] is asked about before
    /// [`crate::Core::found_row`] is.
    pub syns: u64,
}

/// Answers over IPv4 with an MSS option or none. Rows that are not in `rows` hold anything.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Answers {
    /// SEG.SEQ
    pub seq: [u32; BURST_MAX],
    /// SEG.ACK
    pub ack: [u32; BURST_MAX],
    /// Data offset, control bits and window, as the header's fourth word has them.
    pub control: [u32; BURST_MAX],
    /// The MSS option; 0 if there is none.
    pub option: [u32; BURST_MAX],
    /// DSCP and ECN.
    pub tos: [u32; BURST_MAX],
    /// Bit `i`: row `i` holds an answer.
    pub rows: u64,
    /// Likewise those with an MSS option.
    pub long: u64,
    /// Rows without an answer whose segment ended a request: [`ReqRst`](crate::drop_reason::DropReason::ReqRst).
    pub ended: u64,
    /// The answers that count as each outcome, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; Outcome::ALL.len()],
}

impl Answers {
    /// Without answers.
    pub const EMPTY: Self = Self {
        seq: [0; BURST_MAX],
        ack: [0; BURST_MAX],
        control: [0; BURST_MAX],
        option: [0; BURST_MAX],
        tos: [0; BURST_MAX],
        rows: 0,
        long: 0,
        ended: 0,
        outcomes: [0; Outcome::ALL.len()],
    };

    /// Puts `segment` into row `row`; false, and no change, if it has options beyond an MSS.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub fn put(&mut self, row: usize, outcome: Outcome, segment: &OutSegment) -> bool {
        let TcpOptions { mss, wscale, sack_perm, timestamps } = segment.options;
        if wscale.is_some() || sack_perm || timestamps.is_some() {
            return false;
        }
        self.seq[row] = segment.seq.0;
        self.ack[row] = segment.ack.0;
        self.option[row] = mss_option(mss);
        self.control[row] = control(segment.flags, segment.wnd, mss != 0);
        self.tos[row] = u32::from(segment.tos);
        self.add(1 << row, outcome, mss != 0);
        true
    }

    /// The rows `set` are answered with this outcome, with an MSS option or none.
    #[inline(always)]
    pub const fn add(&mut self, set: u64, outcome: Outcome, option: bool) {
        self.rows |= set;
        self.long |= if option { set } else { 0 };
        self.outcomes[outcome as usize] |= set;
    }

    /// No row is.
    #[inline(always)]
    pub const fn clear(&mut self) {
        self.rows = 0;
        self.long = 0;
        self.ended = 0;
        self.outcomes = [0; Outcome::ALL.len()];
    }

    /// Row `row` has no answer after all.
    pub fn remove(&mut self, row: usize) {
        let keep = !(1 << row);
        self.rows &= keep;
        self.long &= keep;
        self.outcomes.iter_mut().for_each(|rows| *rows &= keep);
    }

    /// What the answer in row `row` counts as, if there is one.
    pub fn outcome(&self, row: usize) -> Option<Outcome> {
        let is = |outcome: &Outcome| self.outcomes[*outcome as usize] >> row & 1 == 1;
        Outcome::ALL.into_iter().find(is)
    }
}

/// The option that names our MSS; 0, which is none, for 0.
#[inline(always)]
pub(crate) const fn mss_option(mss: u16) -> u32 {
    if mss == 0 { 0 } else { MSS_OPTION | mss as u32 }
}

/// The header's fourth word, with room for an option of four octets or none.
#[inline(always)]
pub(crate) const fn control(flags: u8, wnd: u16, option: bool) -> u32 {
    (HEADER_WORDS + option as u32) << 28 | (flags as u32) << 16 | wnd as u32
}

/// The rows of a set, the first one first.
#[inline(always)]
pub fn rows(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let row = (set != 0).then(|| set.trailing_zeros() as usize % BURST_MAX);
        set &= set.wrapping_sub(1);
        row
    })
}
