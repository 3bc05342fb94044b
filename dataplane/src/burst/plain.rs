//! The headers of plain segments as columns: untagged, IPv4 without options, a whole TCP segment from a host's address to
//! an address of ours.

use listener::columns::Columns;
use listener::segment::{Segment, TcpOptions, flag};
use listener::types::{DevIndex, Route, SegSeq};

use super::{BURST_MAX, Head, Lanes};
use crate::io::HeadInfo;
use crate::local::pack_route;
use crate::wire::ether::{self, MacAddr};
use crate::wire::ipv4;
use crate::wire::tcp;
use crate::wire::vlan::Tags;

/// The columns: row `i` is frame `i`, numbers in the machine's byte order. Only rows of
/// [`Lanes::plain`] have a meaning.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Plain {
    /// What the protocol reads of them.
    pub columns: Columns,
    /// The source MAC address: its first two octets, in the lower half; and its last four.
    pub src_mac: [[u32; BURST_MAX]; 2],
    /// Acknowledgement number, also where the ACK bit is not set.
    pub ack: [u32; BURST_MAX],
    /// Data offset, reserved and control bits, window.
    pub control: [u32; BURST_MAX],
    /// Octets of the packet in the upper half.
    pub total_len: [u32; BURST_MAX],
    pub(crate) heads: Heads,
}

/// Frames that are read or written at a time: a vector of words.
pub(crate) const GROUP: usize = 16;

/// What one group of frames has of a column, from row `first` on.
#[inline(always)]
pub(crate) fn part(column: &[u32; BURST_MAX], first: usize) -> [u32; GROUP] {
    column.get(first..).and_then(|column| column.first_chunk()).copied().unwrap_or([0; GROUP])
}

/// What the parser needs of frames beyond their fields.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Heads {
    /// [`HeadInfo`]; 0 for a frame whose head could not be read.
    pub info: [u32; BURST_MAX],
    /// What the TCP headers add up to with their pseudo-headers; all ones where that is known to be right.
    pub sums: [u32; BURST_MAX],
}

impl Plain {
    /// All rows 0.
    pub const EMPTY: Self = Self {
        columns: Columns::EMPTY,
        src_mac: [[0; BURST_MAX]; 2],
        ack: [0; BURST_MAX],
        control: [0; BURST_MAX],
        total_len: [0; BURST_MAX],
        heads: Heads { info: [0; BURST_MAX], sums: [0; BURST_MAX] },
    };

    /// The source MAC address of row `row`.
    #[inline(always)]
    fn src_mac(&self, row: usize) -> MacAddr {
        let [first, last] = [self.src_mac[0][row], self.src_mac[1][row]];
        MacAddr::from_bits(u64::from(first & 0xffff) << 32 | u64::from(last))
    }

    /// Octets of frame `row`, as far as its head could be read.
    pub(crate) fn octets(&self, row: usize) -> usize {
        (self.heads.info[row] & HeadInfo::LEN) as usize
    }

    /// Where an answer to row `row` goes.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub fn route(&self, row: usize) -> Route {
        pack_route(self.src_mac(row), Tags::NONE)
    }

    /// Where things are in the frame of row `row`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn head(&self, row: usize) -> Head {
        Head {
            src_mac: self.src_mac(row),
            stripped_tci: None,
            l2_len: ether::HEADER_LEN as u8,
            v6: false,
            l3_len: ipv4::HEADER_LEN as u16,
            end: (ether::HEADER_LEN as u16).saturating_add((self.total_len[row] >> 16) as u16),
        }
    }

    /// Row `row` as a segment with `options` that came in on `dev`.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub fn segment(&self, row: usize, dev: DevIndex, options: TcpOptions, seg: &mut Segment) {
        let (control, total_len) = (self.control[row], (self.total_len[row] >> 16) as u16);
        let header_len = (control >> 28 << 2) as u16;
        let flags = (control >> 16) as u8;
        // Field by field: a segment that is put together elsewhere is copied.
        seg.flow = self.columns.flow(row);
        seg.dev = dev;
        seg.flags = flags;
        seg.reserved = (control >> 24 & 0xf) as u8;
        seg.tos = self.columns.tos[row] as u8;
        seg.wnd = control as u16;
        seg.payload_len = total_len - ipv4::HEADER_LEN as u16 - header_len;
        seg.seq = SegSeq(self.columns.seq[row]);
        seg.ack = SegSeq(if flags & flag::ACK != 0 { self.ack[row] } else { 0 });
        seg.options = options;
        seg.route = self.route(row);
    }

    /// A row of [`Lanes::bare`] as a segment.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub fn bare(&self, row: usize, dev: DevIndex, lanes: &Lanes, seg: &mut Segment) {
        let full = lanes.full.bits() >> row & 1 == 1;
        self.segment(row, dev, self.columns.options(row, full), seg);
    }
}

const _: () = assert!(tcp::HEADER_LEN == 20 && ipv4::HEADER_LEN == 20);
