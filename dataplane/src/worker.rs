//! The loop of one core: receive, decide, answer, and now and then what no frame asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use listener::columns::{Answers, rows};
use listener::drop_reason::DropReason;
use listener::segment::{Originated, Outcome, Verdict};
use listener::types::{CoreId, DevIndex, Nanos};
use listener::vector::Vectors;

use crate::burst::{BURST_DEFAULT, BURST_MAX, Burst, Fate, Lanes};
use crate::capture::{Capturer, Tap};
use crate::clock::Clock;
use crate::histogram::{Interval, Latency, Mailbox};
use crate::io::{Capabilities, Frame, PacketIo, Sent};
use crate::local::LocalTable;
use crate::protocol::Protocol;
use crate::stage;
use crate::stats::CoreStats;

/// Of turns that bring a burst's worth of frames, and so follow each other at once, one in so many looks for timers,
/// commands and segments of other workers, unless there was more to do than it did: some microseconds pass in between, and
/// timers count in milliseconds.
const TICK_EVERY: u32 = 8;

mod hand_off;
mod idle;
mod originate;
mod stamped;

pub use hand_off::HandOff;
pub use idle::Idle;
use originate::Outbox;

/// How a worker is set up.
#[derive(Clone, Copy, Debug)]
pub struct WorkerConfig {
    /// Its number.
    pub core: CoreId,
    /// Frames in a burst: 4 to [`BURST_MAX`], a multiple of 4, because vector receive paths return nothing below.
    pub burst: usize,
    /// Timers and commands per tick at most, of which a turn has one or none.
    pub tick_budget: usize,
    /// What to do without frames.
    pub idle: Idle,
}

impl WorkerConfig {
    /// The defaults for `core`: as many timers a turn as frames in a burst, so that neither starves the other.
    pub const fn new(core: CoreId) -> Self {
        Self { core, burst: BURST_DEFAULT, tick_budget: BURST_DEFAULT, idle: Idle::Spin }
    }
}

/// One (port, queue) pair of a worker.
pub struct Port<I: PacketIo> {
    io: I,
    dev: DevIndex,
    local: Arc<LocalTable>,
    capabilities: Capabilities,
    outbox: Outbox<I>,
}

impl<I: PacketIo> Port<I> {
    /// A queue pair of device `dev` with the addresses `local`. The one that shall `announce` them at the start (gratuitous
    /// ARP, unsolicited neighbour advertisements) is one queue of each device.
    pub fn new(io: I, dev: DevIndex, local: Arc<LocalTable>, announce: bool) -> Self {
        let capabilities = io.capabilities();
        let outbox = Outbox::new(announce);
        Self { io, dev, local, capabilities, outbox }
    }
}

/// One core: its devices' queues, its half of the stack, its counters.
pub struct Worker<I: PacketIo, P: Protocol> {
    config: WorkerConfig,
    ports: Vec<Port<I>>,
    protocol: P,
    burst: Box<Burst<I, P::Found>>,
    vectors: Vectors,
    stats: Arc<CoreStats>,
    mailbox: Arc<Mailbox>,
    interval: Box<Interval>,
    hand_off: Option<HandOff>,
    /// When the last turn ended.
    turned: Option<Nanos>,
    /// Every device can end the worker's sleep, with [`Idle::Adaptive`].
    waits: bool,
    /// Turns since the last tick, and whether that one had more to do.
    unticked: u32,
    more_due: bool,
    capturer: Capturer,
}

impl<I: PacketIo, P: Protocol> Worker<I, P> {
    /// A worker that has not begun.
    ///
    /// # Panics
    /// If `config.burst` is none that [`WorkerConfig::burst`] allows.
    pub fn new(config: WorkerConfig, protocol: P, ports: Vec<Port<I>>) -> Self {
        let burst = config.burst;
        assert!((4..=BURST_MAX).contains(&burst) && burst.is_multiple_of(4), "a burst of {burst} frames");
        Self {
            config,
            ports,
            protocol,
            burst: Box::default(),
            vectors: Vectors::best(),
            stats: Arc::default(),
            mailbox: Arc::default(),
            interval: Box::default(),
            hand_off: None,
            turned: None,
            waits: false,
            unticked: 0,
            more_due: false,
            capturer: Capturer::default(),
        }
    }

    /// Gives segments of unknown flows to other workers from now on, and takes theirs.
    pub fn join(&mut self, circle: HandOff) {
        self.protocol.set_hand_off(true);
        self.hand_off = Some(circle);
    }

    /// Its counters.
    pub fn stats(&self) -> Arc<CoreStats> {
        Arc::clone(&self.stats)
    }

    /// Where [`crate::histogram::Reporter`] asks it.
    pub fn mailbox(&self) -> (CoreId, Arc<Mailbox>) {
        (self.config.core, Arc::clone(&self.mailbox))
    }

    /// Where captures of its frames begin.
    pub fn tap(&self) -> Arc<Tap> {
        self.capturer.tap()
    }

    /// Its half of the stack.
    pub fn protocol_mut(&mut self) -> &mut P {
        &mut self.protocol
    }

    /// The I/O of port `index`, for tests that account for every frame.
    ///
    /// # Panics
    /// If there is no such port.
    pub fn io(&self, index: usize) -> &I {
        &self.ports[index].io
    }

    /// Turns until `stop`, then leaves the last report.
    pub fn run<C: Clock>(mut self, stop: &AtomicBool, clock: &mut C) {
        // Before the first frame, so that timers count from the clock's present.
        let begin = clock.now();
        self.tick(begin);
        self.turned = Some(begin);
        let mut idle_turns = 0u32;
        while !stop.load(Ordering::Relaxed) {
            if self.poll(clock) == 0 {
                idle_turns = idle_turns.saturating_add(1);
                self.idle(idle_turns, clock);
            } else {
                idle_turns = 0;
            }
        }
        self.finish();
    }

    /// Leaves the last report: nothing is counted after it.
    pub fn finish(mut self) {
        self.stats.copy_to(&mut self.interval.counters);
        self.mailbox.finish(self.interval);
    }

    /// One turn over all ports. Returns the frames received; 0 means an idle turn.
    ///
    /// Never blocks, locks, allocates or logs; reads the clock twice per burst, once in an idle turn.
    pub fn poll<C: Clock>(&mut self, clock: &mut C) -> usize {
        let (mut received, mut now) = (0, None);
        for index in 0..self.ports.len() {
            let (frames, end) = self.poll_port(index, clock);
            received += frames;
            now = end.or(now);
        }
        if received == 0 {
            self.stats.idle(self.ports.iter().all(|port| port.io.exhausted()));
        }
        let now = now.unwrap_or_else(|| clock.now());
        self.unticked += 1;
        if received < self.config.burst || self.unticked >= TICK_EVERY || self.more_due {
            self.tick(now);
        }
        if let Some(before) = self.turned.replace(now) {
            self.stats.spent(received != 0, now.since(before));
        }
        if self.mailbox.is_asked() {
            self.stats.copy_to(&mut self.interval.counters);
            self.mailbox.hand_over(&mut self.interval);
        }
        received
    }

    /// One burst of one port. Returns the frames received, and the time after their answers were handed over.
    #[inline(never)]
    fn poll_port<C: Clock>(&mut self, index: usize, clock: &mut C) -> (usize, Option<Nanos>) {
        let Self { ports, protocol, burst, stats, interval, config, hand_off, capturer, vectors, .. } = self;
        let Port { io, dev, local, capabilities, .. } = &mut ports[index];
        let Burst { frames, heads, plain, segs, found, fates, answers, lanes, octets, waited } = &mut **burst;
        let received = io.rx_burst(&mut frames[..config.burst]);
        if received == 0 {
            return (0, None);
        }
        let now = clock.now();
        let frames = &mut frames[..received];
        let stamped = io.waited(frames, waited);
        capturer.before(frames, *dev, now);
        let columns = stage::parse::Columns { heads, plain, segs, fates, lanes };
        let rx_octets = stage::parse(frames, *vectors, local, *dev, columns);
        stats.received(received, rx_octets);
        stage::neighbour(frames, heads, fates, lanes, local);
        stage::echo(frames, heads, fates, lanes, local);
        if !lanes.errors.is_empty() {
            stage::icmp_error(protocol, (frames, heads, fates), *dev, lanes, now);
        }
        stage::lookup(protocol, (segs, plain), *dev, lanes, found);
        let columns = stage::tcp::Columns { plain, segs, found, answers, fates };
        stage::tcp(protocol, columns, *dev, lanes, now);
        if let Some(hand_off) = hand_off {
            hand_off.give(segs, lanes.tcp.bits() & !(answers.rows | answers.ended), fates, stats);
        }
        let columns = stage::reply::Columns { heads, plain, segs, answers, fates };
        stage::reply(frames, *vectors, columns, lanes, local, *capabilities);

        count_bad_segments(protocol, &fates[..received], lanes);
        let mut tally = Tally { stats, outcomes: [0; Outcome::ALL.len()] };
        let ready = collect(frames, fates, answers, octets, &mut tally);
        let count = ready.count_ones() as usize;
        let sent = if count == 0 { Sent::default() } else { io.tx_burst(&mut frames[..count]) };
        let rejected = tally.sent(answers, octets, ready, sent);
        if stamped || capturer.is_waiting() {
            stage::reply::tell(answers, &mut fates[..received]);
            rows(rejected).for_each(|row| fates[row] = Fate::Drop(DropReason::TxRejected));
        }
        capturer.after(&fates[..received], sent.taken());
        frames[sent.done..count].fill_with(|| None);
        let end = clock.now();
        let ns = end.since(now);
        if stamped {
            stamped::record(&mut interval.latency, &fates[..received], waited, sent.taken(), ns);
        }
        tally.record((!stamped).then_some(&mut interval.latency), ns);
        (received, Some(end))
    }

    /// Timers, commands, segments of other workers and announcements.
    fn tick(&mut self, now: Nanos) {
        let Self { ports, protocol, stats, config, hand_off, unticked, more_due, .. } = self;
        *unticked = 0;
        *more_due = protocol.tick(now, config.tick_budget, |originated| send(ports, stats, originated));
        if let Some(hand_off) = hand_off {
            *more_due |= hand_off.take(ports, protocol, stats, config.tick_budget, now);
        }
        for port in ports {
            let Port { io, local, outbox, .. } = port;
            if !io.is_link_up() {
                stats.originated_link_down(outbox.give_up());
                continue;
            }
            outbox.announce(io, local);
            outbox.flush(io, stats);
        }
    }
}

/// Puts `originated` into the outbox of its device; false if there is no room or no buffer. One for a device of which this
/// worker has no queue can never be sent: it is counted and forgotten.
fn send<I: PacketIo>(ports: &mut [Port<I>], stats: &CoreStats, originated: &Originated) -> bool {
    let Some(port) = ports.iter_mut().find(|port| port.dev == originated.dev) else {
        stats.originated_lost();
        return true;
    };
    port.outbox.push(&mut port.io, &port.local, port.capabilities, originated)
}

/// Tells `protocol` of the segments that the parser dropped and the kernel counts as errors.
#[inline]
fn count_bad_segments<P: Protocol>(protocol: &mut P, fates: &[Fate], lanes: &Lanes) {
    let all = u64::MAX >> (BURST_MAX - fates.len());
    for fate in rows(all & !lanes.tcp.bits()).map(|index| &fates[index]) {
        if let Fate::Drop(reason @ (DropReason::TcpCsum | DropReason::TcpHeader)) = fate {
            protocol.count_bad_segment(*reason == DropReason::TcpCsum);
        }
    }
}

/// Moves the answers to the front, in order, frees all other frames, and counts what is final. `answers` gets those that are
/// not plain as well, and `octets` their octets. Returns the rows of the answers.
#[inline]
fn collect<F: Frame>(
    frames: &mut [Option<F>],
    fates: &[Fate],
    answers: &mut Answers,
    octets: &mut [usize],
    tally: &mut Tally<'_>,
) -> u64 {
    let all = u64::MAX >> (BURST_MAX - frames.len());
    let mut ready = answers.rows;
    if answers.ended != 0 {
        tally.stats.dropped(DropReason::ReqRst, answers.ended.count_ones());
        if answers.ended == all {
            F::free(frames);
            return 0;
        }
        rows(answers.ended).for_each(|index| frames[index] = None);
    }
    for index in rows(all & !ready & !answers.ended) {
        match (&fates[index], &frames[index]) {
            (Fate::Ready(outcome), Some(frame)) => {
                ready |= 1 << index;
                answers.outcomes[*outcome as usize] |= 1 << index;
                octets[index] = frame.bytes().len();
                continue;
            }
            (Fate::Consume(outcome) | Fate::Tcp(Verdict::Consume(outcome)), _) => {
                tally.outcomes[*outcome as usize] += 1;
            }
            (Fate::Drop(reason) | Fate::Tcp(Verdict::Drop(reason)), _) => tally.stats.dropped(*reason, 1),
            // No stage leaves these behind; counted, so that the law holds even if one did.
            (Fate::Pending | Fate::Ready(_) | Fate::Tcp(Verdict::Reply(..)), _) => {
                tally.stats.dropped(DropReason::NoBuffer, 1)
            }
        }
        frames[index] = None;
    }
    if ready != all {
        for (to, from) in rows(ready).enumerate() {
            if to != from {
                frames.swap(to, from);
            }
        }
    }
    ready
}

/// The first `count` rows of `set`.
#[inline]
fn first(mut set: u64, count: usize) -> u64 {
    for _ in count..set.count_ones() as usize {
        set &= !(1 << (u64::BITS - 1 - set.leading_zeros()));
    }
    set
}

/// The outcomes of one burst, before they are added to the counters and the histograms.
struct Tally<'a> {
    stats: &'a CoreStats,
    outcomes: [u64; Outcome::ALL.len()],
}

impl Tally<'_> {
    /// Counts the answers in the rows `ready`, which the device was given in this order; `octets` are of those that are not
    /// plain. Returns the rows whose answers it rejected.
    #[inline(always)]
    fn sent(&mut self, answers: &Answers, octets: &[usize], ready: u64, sent: Sent) -> u64 {
        let done = first(ready, sent.done);
        let rejected = if sent.rejected == 0 { 0 } else { self.rejected(ready, sent.rejected) };
        let gone = done & !rejected;
        for (count, rows) in self.outcomes.iter_mut().zip(&answers.outcomes) {
            *count += u64::from((rows & gone).count_ones());
        }
        let others: usize = rows(gone & !answers.rows).map(|row| octets[row]).sum();
        self.stats.sent(sent.taken(), stage::reply::octets(answers, gone) + others);
        self.stats.dropped(DropReason::TxFull, ready.count_ones() - sent.done as u32);
        rejected
    }

    /// Counts rejected answers, bit `i` of `rejected` the `i`th of the rows `ready`; returns their rows.
    #[cold]
    fn rejected(&mut self, ready: u64, rejected: u64) -> u64 {
        self.stats.dropped(DropReason::TxRejected, rejected.count_ones());
        let was = |&(slot, _): &(usize, usize)| rejected >> slot & 1 != 0;
        rows(ready).enumerate().filter(was).fold(0, |set, (_, row)| set | 1 << row)
    }

    /// One addition and one record per outcome, so that counters and histograms cannot part; no record where each frame
    /// has had its own.
    #[inline(always)]
    fn record(self, mut latency: Option<&mut Latency>, ns: u64) {
        for (outcome, frames) in Outcome::ALL.into_iter().zip(self.outcomes) {
            if frames != 0 {
                self.stats.outcome(outcome, frames);
                if let Some(latency) = &mut latency {
                    latency.record(outcome, ns, frames);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
