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

/// The options of a segment that stands in columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// None.
    Nothing,
    /// An MSS.
    Mss,
    /// All that a SYN of Linux has, laid out as Linux does: MSS, SACK permitted, timestamps, window scale.
    All,
}

impl Carries {
    /// Words of them.
    const fn words(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Mss => 1,
            Self::All => 5,
        }
    }
}

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
    /// The MSS that a SYN names in a row of [`Sets::syns`] or [`Sets::full`]; 0 if it names none.
    pub mss: [u32; BURST_MAX],
    /// DSCP and ECN.
    pub tos: [u32; BURST_MAX],
    /// SEG.TSval in a row of [`Sets::full`].
    pub tsval: [u32; BURST_MAX],
    /// The window scale there.
    pub wscale: [u32; BURST_MAX],
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
        tsval: [0; BURST_MAX],
        wscale: [0; BURST_MAX],
    };

    /// The options of the SYN in row `row`, which is in [`Sets::full`] or, if not, in [`Sets::syns`].
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub fn options(&self, row: usize, full: bool) -> TcpOptions {
        let mss = self.mss[row] as u16;
        if !full {
            return TcpOptions { mss, ..TcpOptions::default() };
        }
        let timestamps = Some((self.tsval[row], 0));
        TcpOptions { mss, wscale: Some(self.wscale[row] as u8), sack_perm: true, timestamps }
    }

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
    /// Likewise those with [all options](Carries::All), TSecr being 0.
    pub full: u64,
}

/// What of an answer does not change from row to row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    /// The header's fourth word.
    pub control: u32,
    /// The MSS option.
    pub option: u32,
    pub carries: Carries,
    /// The window scale, with all options.
    pub wscale: u32,
}

impl Words {
    /// Those of `segment`; None if its options are none of [`Carries`].
    #[inline(always)]
    pub const fn of(segment: &OutSegment) -> Option<Self> {
        let TcpOptions { mss, wscale, sack_perm, timestamps } = segment.options;
        let (carries, wscale) = match (mss, sack_perm, timestamps, wscale) {
            (0, false, None, None) => (Carries::Nothing, 0),
            (_, false, None, None) => (Carries::Mss, 0),
            (1.., true, Some(_), Some(wscale)) => (Carries::All, wscale as u32),
            _ => return None,
        };
        let control = control(segment.flags, segment.wnd, carries);
        Some(Self { control, option: mss_option(mss), carries, wscale })
    }
}

/// Answers over IPv4 with options as [`Carries`] has them. Rows that are not in `rows` hold anything.
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
    /// SEG.TSval in a row of `full`.
    pub tsval: [u32; BURST_MAX],
    /// SEG.TSecr there.
    pub tsecr: [u32; BURST_MAX],
    /// The window scale there.
    pub wscale: [u32; BURST_MAX],
    /// Bit `i`: row `i` holds an answer.
    pub rows: u64,
    /// Likewise those with an MSS option.
    pub long: u64,
    /// Those of these with [all options](Carries::All).
    pub full: u64,
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
        tsval: [0; BURST_MAX],
        tsecr: [0; BURST_MAX],
        wscale: [0; BURST_MAX],
        rows: 0,
        long: 0,
        full: 0,
        ended: 0,
        outcomes: [0; Outcome::ALL.len()],
    };

    /// Puts `segment` into row `row`; false, and no change, if its options are none of [`Carries`].
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub fn put(&mut self, row: usize, outcome: Outcome, segment: &OutSegment) -> bool {
        let Some(words) = Words::of(segment) else { return false };
        self.seq[row] = segment.seq.0;
        self.ack[row] = segment.ack.0;
        self.option[row] = words.option;
        self.control[row] = words.control;
        self.tos[row] = u32::from(segment.tos);
        self.add(1 << row, outcome, words.carries);
        if words.carries == Carries::All {
            let (tsval, tsecr) = segment.options.timestamps.unwrap_or_default();
            self.stamp(row, [tsval, tsecr, words.wscale]);
        }
        true
    }

    /// Row `row`, which has an MSS option, has all options.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub(crate) fn stamp(&mut self, row: usize, [tsval, tsecr, wscale]: [u32; 3]) {
        (self.tsval[row], self.tsecr[row], self.wscale[row]) = (tsval, tsecr, wscale);
        self.full |= 1 << row;
    }

    /// The rows `set` are answered with this outcome and such options.
    #[inline(always)]
    pub const fn add(&mut self, set: u64, outcome: Outcome, carries: Carries) {
        self.rows |= set;
        self.long |= if let Carries::Nothing = carries { 0 } else { set };
        self.full |= if let Carries::All = carries { set } else { 0 };
        self.outcomes[outcome as usize] |= set;
    }

    /// No row is.
    #[inline(always)]
    pub const fn clear(&mut self) {
        self.rows = 0;
        self.long = 0;
        self.full = 0;
        self.ended = 0;
        self.outcomes = [0; Outcome::ALL.len()];
    }

    /// Row `row` has no answer after all.
    pub fn remove(&mut self, row: usize) {
        let keep = !(1 << row);
        self.rows &= keep;
        self.long &= keep;
        self.full &= keep;
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

/// The header's fourth word, with room for the options.
#[inline(always)]
pub(crate) const fn control(flags: u8, wnd: u16, carries: Carries) -> u32 {
    (HEADER_WORDS + carries.words()) << 28 | (flags as u32) << 16 | wnd as u32
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
