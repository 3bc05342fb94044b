//! Entries of the established table: half-open requests and connections, each in a slab of fixed size.
//!
//! Both start with the same cache line (`EntryHead`): key, hash chain, timer, generation. A lookup that misses touches
//! nothing else. A half-open request is [`REQUEST_BYTES`] bytes and 8 more in the table's index.

use crate::segment::FlowKey;
use crate::timer::TimerLink;
use crate::types::{DevIndex, InetAddr, ListenerId, ListenerRef, Route, SegSeq, TcpPort, TcpState, Then};

/// Memory of one half-open request, without its share of the index.
pub const REQUEST_BYTES: usize = size_of::<Entry<Request>>();

const _: () = assert!(REQUEST_BYTES == 128 && size_of::<Entry<Conn>>() == 128);

/// Link value: no entry.
pub(crate) const NO_ENTRY: u32 = u32::MAX;

/// What every entry starts with: one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryHead {
    saddr: InetAddr,
    daddr: InetAddr,
    sport: TcpPort,
    dport: TcpPort,
    /// Next in the hash chain, or in the free list.
    pub next: u32,
    pub hash: u32,
    pub timer: TimerLink,
    /// Odd while in use.
    pub generation: u32,
    /// The only device whose segments belong here; NONE = any.
    pub bound_dev: DevIndex,
    /// Where the last segment came in, and answers go out.
    pub dev: DevIndex,
}

const _: () = assert!(size_of::<EntryHead>() == 64);

impl EntryHead {
    #[inline]
    pub fn flow(&self) -> FlowKey {
        FlowKey { saddr: self.saddr, daddr: self.daddr, sport: self.sport, dport: self.dport }
    }

    /// True if a segment of `flow` that came in on `dev` belongs here.
    #[inline]
    pub fn matches(&self, flow: &FlowKey, dev: DevIndex) -> bool {
        self.saddr == flow.saddr
            && self.daddr == flow.daddr
            && self.sport == flow.sport
            && self.dport == flow.dport
            && (self.bound_dev == DevIndex::NONE || self.bound_dev == dev)
    }
}

/// An entry: the common line, and what its kind needs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<B> {
    pub head: EntryHead,
    pub body: B,
}

/// A half-open request: `struct tcp_request_sock` (include/linux/tcp.h, Linux v6.18), as far as it is needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// Where SYN-ACKs go.
    pub route: Route,
    pub listener: ListenerRef,
    /// `rcv_isn`
    pub irs: SegSeq,
    /// `snt_isn`
    pub iss: SegSeq,
    /// The peer's last TSval; only with `tstamp_ok`.
    pub ts_recent: u32,
    /// Added to our clock in TSval.
    pub ts_off: u32,
    /// First and last TSval sent, without the offset.
    pub snt_tsval_first: u32,
    pub snt_tsval_last: u32,
    /// Clock in ms of the last rate-limited answer; 0 = never.
    pub last_oow_ack: u32,
    /// The peer's MSS.
    pub mss: u16,
    /// The MSS that we advertise.
    pub advmss: u16,
    /// Window of the SYN-ACK, unscaled.
    pub rcv_wnd: u16,
    /// `None` if the SYN had none.
    pub snd_wscale: Option<u8>,
    pub rcv_wscale: u8,
    pub tos: u8,
    /// SYN-ACK timeouts so far.
    pub num_timeout: u8,
    pub sack_ok: bool,
    pub tstamp_ok: bool,
    pub ecn_ok: bool,
    /// A final ACK came, and could not be used yet.
    pub acked: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            route: Route::default(),
            listener: ListenerRef { id: ListenerId(0), generation: 0 },
            irs: SegSeq(0),
            iss: SegSeq(0),
            ts_recent: 0,
            ts_off: 0,
            snt_tsval_first: 0,
            snt_tsval_last: 0,
            last_oow_ack: 0,
            mss: 0,
            advmss: 0,
            rcv_wnd: 0,
            snd_wscale: None,
            rcv_wscale: 0,
            tos: 0,
            num_timeout: 0,
            sack_ok: false,
            tstamp_ok: false,
            ecn_ok: false,
            acked: false,
        }
    }
}

/// A connection, or its TIME_WAIT: the receive half of a transmission control block (RFC 9293 §3.3.1). It never sends
/// data, so of the send half only our SYN and FIN remain: what was sent and acknowledged follows from the state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conn {
    pub route: Route,
    /// ISS + 1: the first number after our SYN.
    pub snd_start: SegSeq,
    pub rcv_nxt: SegSeq,
    /// Octets that we take from `rcv_nxt` on; they may be more than the window field can say.
    pub rcv_wnd: u32,
    /// What later windows may reach.
    pub rcv_ssthresh: u32,
    pub ts_recent: u32,
    pub ts_off: u32,
    /// Clock in ms when `ts_recent` was taken.
    pub ts_recent_stamp: u32,
    /// Clock in ms of the last rate-limited answer; 0 = never.
    pub last_oow_ack: u32,
    /// Clock in ms: of the last segment in window, and once our FIN was sent, of its first retransmission; 0 = none yet.
    pub stamp: u32,
    /// The segment that `snd_wnd` is of.
    pub snd_wl1: SegSeq,
    /// The peer's window, unscaled.
    pub snd_wnd: u16,
    /// Retransmission timeout, and that of the probe that comes first; see [`crate::tcp_rtt`].
    pub rto: u16,
    pub probe: u16,
    /// What is yes or no, a bit each.
    pub flags: u16,
    pub rcv_wscale: u8,
    pub tos: u8,
    pub state: TcpState,
    pub then: Then,
}

/// Names a bit of a connection and makes its getter and setter.
macro_rules! flags {
    ($($bit:literal $get:ident $set:ident: $doc:literal,)*) => {
        impl Conn {
            $(
                #[doc = $doc]
                #[inline]
                pub const fn $get(&self) -> bool { self.flags & (1 << $bit) != 0 }
                #[inline]
                pub const fn $set(&mut self, on: bool) {
                    self.flags = if on { self.flags | 1 << $bit } else { self.flags & !(1 << $bit) };
                }
            )*
        }
    };
}

flags! {
    0 tstamp_ok set_tstamp_ok: "Timestamps were agreed on.",
    1 ecn_ok set_ecn_ok: "ECN was agreed on.",
    2 ecn_echo set_ecn_echo: "A CE mark came in and is echoed until the peer says CWR (RFC 3168 §6.1.3).",
    3 held set_held: "The control side, or an accept queue, holds it: its slot outlives CLOSE.",
    4 orphan set_orphan: "The control side let go of it: data from now on is answered by a RST.",
    5 rcv_shut set_rcv_shut: "The control side holds it and wants no more data: once our FIN was sent, it is answered by a RST.",
    6 stuffed set_stuffed: "Data came that nobody takes; our window is closed.",
    7 mini set_mini: "In FIN-WAIT-2: a time-wait entry (`tw_substate`), as nobody holds it.",
}

impl Default for Conn {
    fn default() -> Self {
        Self {
            route: Route::default(),
            snd_start: SegSeq(0),
            rcv_nxt: SegSeq(0),
            rcv_wnd: 0,
            rcv_ssthresh: 0,
            ts_recent: 0,
            ts_off: 0,
            ts_recent_stamp: 0,
            last_oow_ack: 0,
            stamp: 0,
            snd_wl1: SegSeq(0),
            snd_wnd: 0,
            rto: 0,
            probe: 0,
            flags: 0,
            rcv_wscale: 0,
            tos: 0,
            state: TcpState::Close,
            then: Then::Queue,
        }
    }
}

impl Conn {
    /// True once our FIN was sent.
    #[inline]
    pub const fn fin_sent(&self) -> bool {
        use TcpState::{Closing, FinWait1, FinWait2, LastAck, TimeWait};
        matches!(self.state, FinWait1 | FinWait2 | Closing | LastAck | TimeWait)
    }

    /// What we send next.
    #[inline]
    pub const fn snd_nxt(&self) -> SegSeq {
        self.snd_start.plus(self.fin_sent() as u32)
    }

    /// The first number that the peer has not acknowledged.
    #[inline]
    pub const fn snd_una(&self) -> SegSeq {
        self.snd_start.plus(matches!(self.state, TcpState::FinWait2 | TcpState::TimeWait) as u32)
    }

    /// True for a time-wait entry of either kind.
    #[inline]
    pub const fn is_time_wait(&self) -> bool {
        matches!(self.state, TcpState::TimeWait) || self.mini()
    }

    /// `RCV_SHUTDOWN`: nobody will read what comes now.
    #[inline]
    pub const fn is_rcv_shutdown(&self) -> bool {
        use TcpState::{CloseWait, Closing, LastAck};
        self.orphan() || self.rcv_shut() || matches!(self.state, CloseWait | Closing | LastAck)
    }
}

/// Entries of one kind. Memory is taken at construction and never grows.
#[derive(Debug)]
pub(crate) struct Slab<B> {
    entries: Box<[Entry<B>]>,
    free: u32,
    in_use: u32,
}

impl<B: Default + Copy> Slab<B> {
    pub fn new(capacity: u32) -> Self {
        let entry = |index: u32| Entry {
            head: EntryHead {
                saddr: InetAddr::ANY_V6,
                daddr: InetAddr::ANY_V6,
                sport: TcpPort(0),
                dport: TcpPort(0),
                next: if index + 1 < capacity { index + 1 } else { NO_ENTRY },
                hash: 0,
                timer: TimerLink::default(),
                generation: 0,
                bound_dev: DevIndex::NONE,
                dev: DevIndex::NONE,
            },
            body: B::default(),
        };
        let free = if capacity == 0 { NO_ENTRY } else { 0 };
        Self { entries: (0..capacity).map(entry).collect(), free, in_use: 0 }
    }

    #[inline]
    pub fn is_full(&self) -> bool {
        self.free == NO_ENTRY
    }

    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    #[inline]
    pub fn entry(&self, index: u32) -> &Entry<B> {
        &self.entries[index as usize]
    }

    #[inline]
    pub fn entry_mut(&mut self, index: u32) -> &mut Entry<B> {
        &mut self.entries[index as usize]
    }

    /// The slot that [`Self::alloc`] will give next.
    #[inline]
    pub fn peek(&self) -> Option<u32> {
        (!self.is_full()).then_some(self.free)
    }

    /// Takes a slot for `flow`; the last one freed, which is still warm. The caller sets the rest of the head.
    #[inline]
    pub fn alloc(&mut self, flow: &FlowKey, body: B) -> Option<u32> {
        let index = self.peek()?;
        let Entry { head, body: old } = &mut self.entries[index as usize];
        self.free = head.next;
        head.saddr = flow.saddr;
        head.daddr = flow.daddr;
        head.sport = flow.sport;
        head.dport = flow.dport;
        head.next = NO_ENTRY;
        head.timer = TimerLink::default();
        head.generation = head.generation.wrapping_add(1);
        *old = body;
        self.in_use += 1;
        Some(index)
    }

    /// Gives a slot back, which is in no chain and has no timer.
    #[inline]
    pub fn free(&mut self, index: u32) {
        let head = &mut self.entries[index as usize].head;
        debug_assert!(head.generation & 1 == 1, "a slot was freed twice");
        debug_assert!(!head.timer.is_armed(), "a timer outlived its entry");
        head.generation = head.generation.wrapping_add(1);
        head.next = self.free;
        self.free = index;
        self.in_use -= 1;
    }
}
