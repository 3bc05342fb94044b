//! The loop of one core: answers in, what is due out.
//!
//! # Rules
//! Never waits, locks, allocates, logs or asks the kernel; the clock is read once a turn, behind `rx_burst`. A frame
//! that the device does not take stays first in line, and its latency goes on counting.

use std::sync::Arc;

use dataplane::clock::Clock;
use dataplane::io::{Frame, PacketIo, TxOffload};
use hdrhistogram::Histogram;
use listener::segment::flag;

use super::answer::{Heard, hear};
use super::copies::{Answer, Copies};
use super::neighbour;
use super::plan::{End, Mode, Plan, Stream};
use super::seen::{Seen, Sight};
use super::space::Acked;
use super::tally::{Count, Shared, Tally, histogram};
use super::targets::{Expect, Target};
use super::template::{Ends, Segment};

/// Frames received or started in one turn.
pub const BURST: usize = 32;
/// Frames that can wait for the device.
const ROOM: usize = 256;
/// Frames that one that came in can cause: ACK, data, end.
const REPLIES_MAX: usize = 3;
/// How late SYNs may still leave after the end: a turn that was taken away at the last moment.
const GRACE_NS: u64 = 20_000_000;

const SYN_ACK: u8 = flag::SYN | flag::ACK;
const RST_ACK: u8 = flag::RST | flag::ACK;

/// Frames of a core, whatever their stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    /// Frames that came in.
    pub rx_frames: u64,
    /// Frames that the device took.
    pub tx_frames: u64,
    /// Frames that came in and have nothing to do with any stream.
    pub other: u64,
    /// Turns that did something.
    pub turns_busy: u64,
    /// Turns that did not.
    pub turns_idle: u64,
    /// Nanoseconds from the start of busy turns to the next one's.
    pub busy_ns: u64,
    /// Times that the device gave no buffer.
    pub no_buffer: u64,
}

/// A stream as one core has it.
struct Share {
    plan: Arc<Stream>,
    /// The next flow of this core, and its time.
    next: u64,
    at: u64,
    /// Flows below this should have left, by any core.
    limit: u64,
    seen: Seen,
    closed: Seen,
    /// Of a file, whose SYNs are sent more than once: stands for `seen`.
    copies: Option<Copies>,
    tally: Tally,
    shared: Arc<Shared>,
}

/// A SYN in line.
#[derive(Clone, Copy)]
struct Mark {
    share: u8,
    flow: u64,
    at: u64,
}

/// One core's part of a run.
pub struct Engine<I: PacketIo> {
    io: I,
    plan: Arc<Plan>,
    cores: u64,
    shares: Vec<Share>,
    /// Where filling starts, so that a stream that is late does not keep the others from leaving.
    turn: usize,
    rx: [Option<I::Frame>; BURST],
    tx: [Option<I::Frame>; ROOM],
    /// Of each frame in `tx` that is a SYN, which one.
    marks: [Option<Mark>; ROOM],
    pending: usize,
    traffic: Traffic,
    lag: Histogram<u64>,
    last: Option<u64>,
}

/// What a core brings home.
#[derive(Debug)]
pub struct Done<I> {
    /// The queue pair.
    pub io: I,
    /// One per stream.
    pub tallies: Vec<Tally>,
    /// Frames.
    pub traffic: Traffic,
    /// Nanoseconds by which SYNs left later than they should have; those of one burst count as its first.
    pub lag: Histogram<u64>,
}

impl<I: PacketIo> Engine<I> {
    /// Core `core` of `cores`; `shared` has a place for each stream.
    pub fn new(io: I, plan: &Arc<Plan>, (core, cores): (u64, u64), shared: &[Arc<Shared>]) -> Self {
        let share = |(stream, shared): (&Arc<Stream>, &Arc<Shared>)| {
            let next = stream.first_flow + core;
            let window = stream.window(stream.schedule.total() as f64 / plan.seconds.max(1e-9));
            Share {
                plan: Arc::clone(stream),
                next,
                at: stream.at(next),
                limit: stream.first_flow,
                seen: Seen::new(window),
                closed: Seen::new(if stream.mode == Mode::Syn { 1 } else { window }),
                copies: stream.copied().map(Copies::new),
                tally: Tally::default(),
                shared: Arc::clone(shared),
            }
        };
        Self {
            io,
            plan: Arc::clone(plan),
            cores,
            shares: plan.streams.iter().zip(shared).map(share).collect(),
            turn: 0,
            rx: [const { None }; BURST],
            tx: [const { None }; ROOM],
            marks: [None; ROOM],
            pending: 0,
            traffic: Traffic::default(),
            lag: histogram(),
            last: None,
        }
    }

    /// One turn. Returns the frames received and sent; `clock` counts from the start of the run.
    pub fn poll(&mut self, clock: &mut impl Clock) -> usize {
        let room = ROOM - self.pending >= BURST * REPLIES_MAX;
        let received = if room { self.io.rx_burst(&mut self.rx) } else { 0 };
        let now = clock.now().0;
        if let Some(last) = self.last.take() {
            self.traffic.busy_ns += now - last;
        }
        if received > 0 {
            self.receive(received, now);
        }
        self.fill(now);
        let sent = self.flush(now);
        if received + sent == 0 {
            self.traffic.turns_idle += 1;
            return 0;
        }
        self.traffic.turns_busy += 1;
        self.traffic.rx_frames += received as u64;
        self.last = Some(now);
        for share in &self.shares {
            share.shared.publish(&share.tally.counts);
        }
        received + sent
    }

    /// True once every SYN has left, or is too late to.
    pub fn is_over(&self, now: u64) -> bool {
        let end = (self.plan.seconds * 1e9) as u64;
        now > end + GRACE_NS
            || self.pending == 0 && self.shares.iter().all(|share| share.next >= share.plan.end())
    }

    /// Ends the run.
    pub fn finish(mut self) -> Done<I> {
        self.tx[..self.pending].fill_with(|| None);
        let Self { io, shares, traffic, lag, .. } = self;
        let tallies = shares.into_iter().map(|share| {
            let excused = share.copies.as_ref().map_or(0, Copies::excused);
            Tally { excused, ..share.tally }
        });
        Done { io, tallies: tallies.collect(), traffic, lag }
    }

    fn receive(&mut self, received: usize, now: u64) {
        for share in &mut self.shares {
            share.limit = share.plan.due(now);
            share.seen.advance(share.limit);
            if share.plan.mode != Mode::Syn {
                share.closed.advance(share.limit);
            }
        }
        for place in 0..received {
            let Some(frame) = self.rx[place].take() else { continue };
            self.answer(frame, now);
        }
    }

    fn answer(&mut self, mut frame: I::Frame, now: u64) {
        let bytes = frame.bytes();
        let heard = neighbour::packet(bytes).and_then(|packet| hear(bytes, packet, frame.rx_meta()));
        let Some(heard) = heard else {
            let plan = &self.plan;
            if neighbour::answer(&mut frame, plan.mac, |addr| plan.owns(addr)) {
                self.push(frame, None);
            } else {
                self.traffic.other += 1;
            }
            return;
        };
        let share = self.shares.iter_mut().enumerate().find(|(_, share)| share.plan.owns(&heard));
        let Some((index, share)) = share else {
            self.traffic.other += 1;
            return;
        };
        if let Some(reply) = share.judge(&heard, now) {
            self.reply(frame, index, &reply);
        }
    }

    /// Puts `frame` in line; the caller has seen that there is room.
    fn push(&mut self, frame: I::Frame, mark: Option<Mark>) {
        self.tx[self.pending] = Some(frame);
        self.marks[self.pending] = mark;
        self.pending += 1;
    }

    /// Writes what `reply` asks for, the first of it in the buffer that came in.
    fn reply(&mut self, frame: I::Frame, index: usize, reply: &Reply) {
        let stream = Arc::clone(&self.shares[index].plan);
        let Some((template, _)) = stream.behind(0) else { return };
        let mut buffer = Some(frame);
        for segment in reply.segments.iter().flatten() {
            let Some(mut frame) = buffer.take().or_else(|| self.io.alloc()) else {
                self.traffic.no_buffer += 1;
                return;
            };
            if !frame.set_len(template.segment_len(segment)) {
                self.traffic.no_buffer += 1;
                return;
            }
            template.segment(frame.bytes_mut(), &reply.ends, segment);
            frame.set_tx_offload(TxOffload::default());
            self.push(frame, None);
        }
    }

    /// Makes the SYNs that are due.
    fn fill(&mut self, now: u64) {
        self.turn = (self.turn + 1) % self.shares.len().max(1);
        let count = self.shares.len();
        for place in 0..count {
            let index = (self.turn + place) % count;
            let Self { io, shares, tx, marks, pending, traffic, cores, .. } = self;
            let share = &mut shares[index];
            let mut begun = 0;
            while share.at <= now && begun < BURST && *pending < ROOM / 2 && share.next < share.plan.end() {
                let Some(mut frame) = io.alloc() else {
                    traffic.no_buffer += 1;
                    break;
                };
                let (flow, at) = (share.next, share.at);
                // What fits in no buffer never will: the next one has its turn.
                if frame.set_len(share.plan.frame_len(flow)) {
                    share.plan.write_frame(flow, at, frame.bytes_mut());
                    frame.set_tx_offload(TxOffload::default());
                    let mark = Mark { share: index as u8, flow, at };
                    (tx[*pending], marks[*pending]) = (Some(frame), share.plan.is_syn(flow).then_some(mark));
                    *pending += 1;
                } else {
                    traffic.no_buffer += 1;
                }
                begun += 1;
                share.next += *cores;
                share.at = share.plan.at(share.next);
            }
        }
    }

    /// Hands over what waits.
    fn flush(&mut self, now: u64) -> usize {
        let Self { io, shares, tx, marks, pending, traffic, lag, .. } = self;
        if *pending == 0 {
            return 0;
        }
        let sent = io.tx_burst(&mut tx[..*pending]);
        let (mut syns, mut first) = (0, now);
        let marked = (0u32..).zip(&marks[..sent.done]);
        let taken = marked.filter(|(slot, _)| sent.rejected.checked_shr(*slot).unwrap_or(0) & 1 == 0);
        for Mark { share, flow, at } in taken.filter_map(|(_, mark)| mark.as_ref()) {
            let share = &mut shares[usize::from(*share)];
            share.tally.counts.add(Count::Sent);
            if let Some(copies) = &mut share.copies {
                copies.sent(share.plan.syn_number(*flow), *at);
            }
            syns += 1;
            first = first.min(*at);
        }
        if syns > 0 {
            lag.saturating_record_n((now - first).max(1), syns);
        }
        if sent.done < *pending {
            tx[..*pending].rotate_left(sent.done);
            marks[..*pending].rotate_left(sent.done);
        }
        *pending -= sent.done;
        traffic.tx_frames += sent.taken() as u64;
        sent.taken()
    }
}

/// Segments to send for one that came in.
struct Reply {
    ends: Ends,
    segments: [Option<Segment>; REPLIES_MAX],
}

impl Share {
    /// Counts what `heard` is, and says what to send for it.
    fn judge(&mut self, heard: &Heard, now: u64) -> Option<Reply> {
        if !heard.whole {
            self.tally.counts.add(Count::WrongChecksum);
            return None;
        }
        let kind = heard.kind();
        if kind == flag::RST {
            // Without an ACK number it can only end a connection.
            let connects = self.plan.mode != Mode::Syn;
            self.tally.counts.add(if connects { Count::Reset } else { Count::WrongFlags });
            return None;
        }
        let Some(acked) = self.plan.acked(heard, self.limit) else {
            self.tally.counts.add(Count::WrongAck);
            return None;
        };
        if acked.flow < self.plan.first_flow {
            self.tally.counts.add(Count::Stale);
            return None;
        }
        let (ends, target) = self.plan.ends(acked.flow)?;
        if ends.dst != heard.src {
            self.tally.counts.add(Count::WrongPeer);
            return None;
        }
        match kind {
            SYN_ACK => self.synack(heard, &acked, (ends, target), now),
            RST_ACK => {
                self.rst(&acked, target, now);
                None
            }
            _ => self.segment(heard, &acked, ends, now),
        }
    }

    fn synack(
        &mut self,
        heard: &Heard,
        acked: &Acked,
        (ends, target): (Ends, Target),
        now: u64,
    ) -> Option<Reply> {
        if acked.octets != 1 {
            self.tally.counts.add(Count::WrongAck);
            return None;
        }
        let (offer, tsval) = self.plan.offered(acked.flow);
        if !heard.options_fit(&offer, tsval) {
            self.tally.counts.add(Count::WrongOptions);
            return None;
        }
        let (sight, took) = self.sight(acked.flow, now);
        let counts = &mut self.tally.counts;
        match sight {
            Sight::First if target.expect == Expect::Closed => counts.add(Count::Unexpected),
            Sight::First => {
                counts.add(Count::SynAck);
                took.into_iter().for_each(|took| self.tally.synack.saturating_record(took));
                if self.plan.mode != Mode::Syn {
                    counts.add(Count::Acked);
                }
            }
            Sight::Again => counts.add(Count::Again),
            Sight::Forgotten => counts.add(Count::Forgotten),
        }
        self.follow(heard, acked.flow, ends, now)
    }

    /// Whether this answer to `flow` is the first, and the nanoseconds that it took if that is known.
    fn sight(&mut self, flow: u64, now: u64) -> (Sight, Option<u64>) {
        let took = |at: u64| now.saturating_sub(at).max(1);
        let Some(copies) = &mut self.copies else {
            return (self.seen.insert(flow), Some(took(self.plan.at(flow))));
        };
        match copies.answered(self.plan.syn_number(flow), now) {
            Answer::First(at) => (Sight::First, at.map(took)),
            Answer::Again => (Sight::Again, None),
            Answer::Stale => (Sight::Forgotten, None),
        }
    }

    /// What follows a SYN-ACK, also one that comes again: its server did not hear us.
    fn follow(&self, heard: &Heard, flow: u64, ends: Ends, now: u64) -> Option<Reply> {
        let Mode::Connect { data, end } = self.plan.mode else { return None };
        let timestamps = heard.options.timestamps.map(|(val, _)| (self.plan.tsval(now), val));
        let (_, isn) = self.plan.behind(flow)?;
        let (seq, ack) = (isn.wrapping_add(1), heard.seq.wrapping_add(1));
        let acks = Segment { seq, ack, flags: flag::ACK, timestamps, data: 0 };
        let text = (data > 0).then_some(Segment { flags: flag::ACK | flag::PSH, data, ..acks });
        let behind = Segment { seq: seq.wrapping_add(u32::from(data)), ..acks };
        let last = match end {
            End::Fin => Some(Segment { flags: flag::ACK | flag::FIN, ..behind }),
            End::Rst => Some(Segment { flags: flag::RST | flag::ACK, ..behind }),
            End::Open => None,
        };
        Some(Reply { ends, segments: [Some(acks), text, last] })
    }

    fn rst(&mut self, acked: &Acked, target: Target, now: u64) {
        if acked.octets > 1 && self.plan.mode != Mode::Syn {
            self.tally.counts.add(Count::Reset);
            return;
        }
        if acked.octets != 1 {
            self.tally.counts.add(Count::WrongAck);
            return;
        }
        let (sight, took) = self.sight(acked.flow, now);
        let counts = &mut self.tally.counts;
        match sight {
            Sight::First => {
                counts.add(if target.expect == Expect::Open { Count::Refused } else { Count::Rst });
                took.into_iter().for_each(|took| self.tally.rst.saturating_record(took));
            }
            Sight::Again => counts.add(Count::Reset),
            Sight::Forgotten => counts.add(Count::Forgotten),
        }
    }

    /// A segment of a connection: acknowledged if it takes sequence numbers.
    fn segment(&mut self, heard: &Heard, acked: &Acked, ends: Ends, now: u64) -> Option<Reply> {
        let Mode::Connect { data, end } = self.plan.mode else {
            self.tally.counts.add(Count::WrongFlags);
            return None;
        };
        let fin = heard.flags & flag::FIN != 0;
        let (last, counts) = (1 + u32::from(data) + u32::from(end == End::Fin), &mut self.tally.counts);
        if heard.flags & (flag::SYN | flag::ACK) != flag::ACK {
            counts.add(Count::WrongFlags);
            return None;
        }
        if acked.octets == 0 || acked.octets > last {
            counts.add(Count::WrongAck);
            return None;
        }
        if end == End::Fin && acked.octets == last && self.closed.insert(acked.flow) == Sight::First {
            counts.add(Count::Closed);
            let took = now.saturating_sub(self.plan.at(acked.flow));
            self.tally.closed.saturating_record(took.max(1));
        }
        if heard.data == 0 && !fin {
            return None;
        }
        counts.add(Count::Data);
        if end == End::Rst {
            return None;
        }
        let timestamps = heard.options.timestamps.map(|(val, _)| (self.plan.tsval(now), val));
        let seq = self.plan.behind(acked.flow)?.1.wrapping_add(last);
        let ack = heard.seq.wrapping_add(heard.data).wrapping_add(u32::from(fin));
        let acks = Segment { seq, ack, flags: flag::ACK, timestamps, data: 0 };
        Some(Reply { ends, segments: [Some(acks), None, None] })
    }
}
