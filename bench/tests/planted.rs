//! The generator finds what is planted: a server in memory whose answers are lost, falsified, repeated or late by a known
//! number, on a clock that goes when it is told to. Every count is exact.

use std::collections::VecDeque;
use std::sync::Arc;

use bench::frames::{CLIENT_MAC, CLOSED_PORT, Kind, OPEN_PORT, SERVER_MAC, SERVER_V4, SERVER_V6};
use bench::generator::engine::{Done, Engine};
use bench::generator::plan::{End, Mode, Plan, Stream};
use bench::generator::replay::Replay;
use bench::generator::schedule::Schedule;
use bench::generator::tally::{Count, Shared, Tally};
use bench::generator::targets::{Choice, Expect, Targets};
use bench::generator::template::{Link, Offer};
use bench::generator::{Space, device, neighbour};
use bench::stack;
use dataplane::clock::{Clock, VirtualClock};
use dataplane::io::mem::{Mem, MemConfig, MemPeer};
use dataplane::io::{Capabilities, Frame, PacketIo};
use dataplane::wire::checksum::update;
use dataplane::wire::ether::MacAddr;
use dataplane::worker::{Port, Worker, WorkerConfig};
use listener::types::{CoreId, DevIndex, InetAddr, Then};

/// What one turn of both sides takes.
const TURN_NS: u64 = 2_000;
/// Where connections are taken and ended: four ports from here on.
const DISCARD_PORT: u16 = 200;
const FULL: Offer = Offer { mss: Some(1460), wscale: Some(7), sack: true, timestamps: true };

/// What is done to every so-manieth SYN-ACK or RST.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Drop,
    /// The ACK number is one more; the checksum fits it.
    WrongAck,
    /// The same by some other number.
    WildAck,
    WrongChecksum,
    /// The PSH and FIN bits are set too.
    WrongFlags,
    /// The time stamp echo is another.
    WrongEcho,
    WrongPort,
    Repeat,
    Delay(u64),
}

/// The client's end of a wire on which something is wrong with one answer in `every`.
struct Planted {
    inner: MemPeer,
    fault: Fault,
    every: u64,
    seen: u64,
    planted: Arc<std::sync::atomic::AtomicU64>,
    clock: VirtualClock,
    held: VecDeque<(u64, <MemPeer as PacketIo>::Frame)>,
}

/// Changes the 16-bit word at `at` of the TCP header at `tcp`, and the checksum with it.
fn patch(bytes: &mut [u8], tcp: usize, at: usize, change: impl Fn(u16) -> u16) {
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (old, field) = (word(bytes, tcp + at), word(bytes, tcp + 16));
    let new = change(old);
    bytes[tcp + at..tcp + at + 2].copy_from_slice(&new.to_be_bytes());
    bytes[tcp + 16..tcp + 18].copy_from_slice(&update(field, old, new).to_be_bytes());
}

impl Planted {
    /// The frame, unless it is lost or held back.
    fn spoil(&mut self, mut frame: <MemPeer as PacketIo>::Frame) -> Option<<MemPeer as PacketIo>::Frame> {
        let (ethertype, l3) = neighbour::packet(frame.bytes())?;
        let l4 = l3 + if ethertype == 0x0800 { 20 } else { 40 };
        // SYN-ACKs and RSTs answer SYNs; ARP and the rest are left alone.
        if ethertype == 0x0806 || frame.bytes().get(l4 + 13).is_none_or(|flags| flags & 0x06 == 0) {
            return Some(frame);
        }
        self.seen += 1;
        if !self.seen.is_multiple_of(self.every) {
            return Some(frame);
        }
        self.planted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let bytes = frame.bytes_mut();
        match self.fault {
            Fault::None => {}
            Fault::Drop => return None,
            Fault::WrongAck => patch(bytes, l4, 10, |low| low.wrapping_add(1)),
            Fault::WildAck => patch(bytes, l4, 8, |high| high ^ 0x5aa5),
            Fault::WrongChecksum => bytes[l4 + 16] ^= 0x10,
            Fault::WrongFlags => patch(bytes, l4, 12, |word| word | 0x09),
            Fault::WrongEcho => patch(bytes, l4, 34, |low| low.wrapping_add(1)),
            Fault::WrongPort => patch(bytes, l4, 0, |port| port ^ 1),
            Fault::Repeat => {
                let mut copy = self.inner.alloc()?;
                assert!(copy.fill(frame.bytes()));
                self.held.push_back((0, copy));
            }
            Fault::Delay(ns) => {
                self.held.push_back((self.clock.now().0 + ns, frame));
                return None;
            }
        }
        Some(frame)
    }
}

impl PacketIo for Planted {
    type Frame = <MemPeer as PacketIo>::Frame;

    fn rx_burst(&mut self, into: &mut [Option<Self::Frame>]) -> usize {
        let mut kept = 0;
        let now = self.clock.now().0;
        while kept < into.len() && self.held.front().is_some_and(|(at, _)| *at <= now) {
            into[kept] = self.held.pop_front().map(|(_, frame)| frame);
            kept += 1;
        }
        let first = kept;
        let received = self.inner.rx_burst(&mut into[first..]);
        for place in first..first + received {
            let frame = into[place].take().expect("it is filled");
            if let Some(frame) = self.spoil(frame) {
                into[kept] = Some(frame);
                kept += 1;
            }
        }
        kept
    }

    fn tx_burst(&mut self, from: &mut [Option<Self::Frame>]) -> dataplane::io::Sent {
        self.inner.tx_burst(from)
    }

    fn alloc(&mut self) -> Option<Self::Frame> {
        self.inner.alloc()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

/// What is asked of a run.
#[derive(Clone, Copy)]
struct Setup {
    kind: Kind,
    v6: bool,
    mode: Mode,
    hit_percent: f64,
    /// Bits of the source prefix that vary, and ports.
    sources: (u8, (u16, u16)),
    fault: (Fault, u64),
    rate: f64,
    seconds: f64,
}

const SYNS: Setup = Setup {
    kind: Kind::Syn,
    v6: false,
    mode: Mode::Syn,
    hit_percent: 100.0,
    sources: (16, (1024, 65535)),
    fault: (Fault::None, 1),
    rate: 1e6,
    seconds: 0.1,
};

impl Setup {
    fn stream(&self) -> Stream {
        let link = Link { src: MacAddr(CLIENT_MAC), dst: MacAddr(SERVER_MAC), vlan: None };
        let (from, to, width) = if self.v6 {
            (InetAddr::v6(0x2001_0db8_0001_0000, 0), InetAddr::from(SERVER_V6), 128)
        } else {
            (InetAddr::v4(0xc613_0000), InetAddr::from(SERVER_V4), 32)
        };
        let space = Space::new(from, width - self.sources.0, self.sources.1, 1);
        let closed = ((CLOSED_PORT, CLOSED_PORT + 99), self.hit_percent);
        let port = if self.mode == Mode::Syn { OPEN_PORT } else { DISCARD_PORT };
        let ports = (port, port + 3);
        let targets = Targets::new((to, width), ports, Expect::Open, closed, Choice::Uniform, 1);
        let schedule = Schedule::new(0.0, self.rate, 0.0, self.seconds);
        Stream::new("test", &link, (schedule, 0), (space, targets), (FULL, self.mode))
    }

    /// Runs it to its end in memory; what was found, and how many faults were planted.
    fn run(self) -> (Tally, u64) {
        self.run_stream(self.stream())
    }

    fn run_stream(self, stream: Stream) -> (Tally, u64) {
        let (done, planted) = self.run_whole(stream);
        (done.tallies.into_iter().next().expect("one stream"), planted)
    }

    fn run_whole(self, stream: Stream) -> (Done<Planted>, u64) {
        let clock = VirtualClock::default();
        let (server, peer) = Mem::new(MemConfig { ring: 1024, buffers: 4096, ..MemConfig::default() });
        let (stack, core) = stack::for_kind(self.kind).expect("a stack");
        for port in DISCARD_PORT..DISCARD_PORT + 4 {
            device::listen(&stack, (SERVER_V4, port).into(), 4096, Then::Discard).expect("a listener");
        }
        let port = Port::new(server, DevIndex(1), Arc::new(stack::local_table()), false);
        let mut worker = Worker::new(WorkerConfig::new(CoreId(0)), core, vec![port]);
        let planted = Arc::default();
        let io = Planted {
            inner: peer,
            fault: self.fault.0,
            every: self.fault.1,
            seen: 0,
            planted: Arc::clone(&planted),
            clock: clock.clone(),
            held: VecDeque::new(),
        };
        let plan = Plan {
            streams: vec![Arc::new(stream)],
            mac: MacAddr(CLIENT_MAC),
            own: vec![],
            seconds: self.seconds,
            drain: 0.01,
        };
        let mut engine = Engine::new(io, &Arc::new(plan), (0, 1), &[Arc::new(Shared::default())]);
        let mut time = clock.clone();
        while clock.clone().now().0 < ((self.seconds + 0.01) * 1e9) as u64 {
            engine.poll(&mut time);
            worker.poll(&mut time);
            clock.advance(TURN_NS);
        }
        let planted = planted.load(std::sync::atomic::Ordering::Relaxed);
        (engine.finish(), planted)
    }
}

/// Every count that is not named is 0.
#[track_caller]
fn assert_counts(tally: &Tally, wanted: &[(Count, u64)]) {
    for &count in Count::ALL {
        let want = wanted.iter().find(|(name, _)| *name == count).map_or(0, |(_, number)| *number);
        assert_eq!(tally.counts.of(count), want, "{}: {:?}", count.name(), tally.counts);
    }
}

#[test]
fn without_a_fault_every_syn_is_answered_and_the_rate_is_held() {
    for v6 in [false, true] {
        let (tally, _) = Setup { v6, ..SYNS }.run();
        assert_counts(&tally, &[(Count::Sent, 100_000), (Count::SynAck, 100_000)]);
        assert_eq!(tally.synack.len(), 100_000);
        assert!(tally.synack.max() <= 3 * TURN_NS, "{}", tally.synack.max());
    }
}

#[test]
fn requests_and_closed_ports_are_told_apart() {
    let setup = Setup { kind: Kind::Requests, rate: 5e5, hit_percent: 75.0, ..SYNS };
    let (tally, _) = setup.run();
    let (synack, rst) = (tally.counts.of(Count::SynAck), tally.counts.of(Count::Rst));
    assert!((12_000..13_000).contains(&rst), "a quarter of 50,000: {rst}");
    assert_counts(&tally, &[(Count::Sent, 50_000), (Count::SynAck, synack), (Count::Rst, rst)]);
    assert_eq!((synack + rst, tally.rst.len()), (50_000, rst));
}

#[test]
fn one_lost_in_a_thousand_is_silence() {
    let (tally, planted) = Setup { fault: (Fault::Drop, 1000), ..SYNS }.run();
    assert_eq!(planted, 100);
    assert_counts(&tally, &[(Count::Sent, 100_000), (Count::SynAck, 99_900)]);
    assert_eq!(tally.counts.silent(), 100);
    assert!((tally.counts.loss() - 0.001).abs() < 1e-9);
}

#[test]
fn wrong_answers_are_counted_by_what_is_wrong() {
    let faults = [
        (Fault::WrongAck, Count::WrongAck),
        (Fault::WildAck, Count::WrongAck),
        (Fault::WrongChecksum, Count::WrongChecksum),
        (Fault::WrongFlags, Count::WrongFlags),
        (Fault::WrongEcho, Count::WrongOptions),
        (Fault::WrongPort, Count::WrongPeer),
    ];
    for (fault, count) in faults {
        let (tally, planted) = Setup { fault: (fault, 500), ..SYNS }.run();
        assert_eq!(planted, 200);
        assert_counts(&tally, &[(Count::Sent, 100_000), (Count::SynAck, 99_800), (count, 200)]);
        assert_eq!((tally.counts.silent(), tally.counts.wrong()), (0, 200), "{fault:?}");
    }
}

#[test]
fn one_in_a_hundred_late_by_a_millisecond_is_in_the_tail_and_nowhere_else() {
    let (tally, planted) = Setup { fault: (Fault::Delay(1_000_000), 100), ..SYNS }.run();
    assert_eq!(planted, 1000);
    assert_counts(&tally, &[(Count::Sent, 100_000), (Count::SynAck, 100_000)]);
    let late = tally.synack.count_between(1_000_000, u64::MAX);
    assert_eq!(late, 1000);
    assert!(tally.synack.value_at_quantile(0.989) <= 3 * TURN_NS);
    assert!((1_000_000..1_010_000).contains(&tally.synack.value_at_quantile(0.995)));
}

#[test]
fn an_answer_that_comes_twice_is_a_retransmission() {
    let (tally, planted) = Setup { fault: (Fault::Repeat, 100), ..SYNS }.run();
    assert_eq!(planted, 1000);
    assert_counts(&tally, &[(Count::Sent, 100_000), (Count::SynAck, 100_000), (Count::Again, 1000)]);
}

/// The ports of one address, over and over: a flow is told from the one before it that had the same port.
#[test]
fn sources_that_come_again_are_told_apart() {
    let (tally, _) = Setup { sources: (0, (1024, 5119)), ..SYNS }.run();
    assert_counts(&tally, &[(Count::Sent, 100_000), (Count::SynAck, 100_000)]);
}

#[test]
fn connections_are_made_used_and_ended() {
    for (end, data) in [(End::Fin, 0), (End::Fin, 100), (End::Rst, 1), (End::Open, 0)] {
        let mode = Mode::Connect { data, end };
        let setup = Setup { mode, rate: 1e5, ..SYNS };
        for kind in [Kind::Syn, Kind::Requests] {
            let (tally, _) = Setup { kind, ..setup }.run();
            let closed = if end == End::Fin { 10_000 } else { 0 };
            let wanted = [
                (Count::Sent, 10_000),
                (Count::SynAck, 10_000),
                (Count::Acked, 10_000),
                (Count::Closed, closed),
                // Its FINs.
                (Count::Data, closed),
            ];
            assert_counts(&tally, &wanted);
            assert_eq!(tally.closed.len(), closed, "{kind:?} {end:?} {data}");
        }
    }
}

/// SYNs of a file, sent ten times over, with a fault; then frames of which most are no SYNs.
#[test]
fn the_answers_to_a_file_are_judged_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let replay = |kind, count| {
        let file = dir.path().join("frames.pcap");
        bench::pcap::write(&file, &bench::frames::frames(kind, count, [2; 6])).expect("a file");
        let replay = Replay::read(&file, Some(MacAddr(SERVER_MAC))).expect("just written");
        Stream::replay("file", Schedule::new(0.0, 1e5, 0.0, 0.1), Arc::new(replay))
    };
    let setup = Setup { rate: 1e5, fault: (Fault::WrongAck, 100), ..SYNS };
    let (tally, planted) = setup.run_stream(replay(Kind::Syn, 1000));
    assert_eq!(planted, 100);
    assert_counts(&tally, &[(Count::Sent, 10_000), (Count::SynAck, 9_900), (Count::WrongAck, 100)]);
    assert!(tally.synack.max() <= 3 * TURN_NS, "{}", tally.synack.max());
    let (tally, _) = Setup { kind: Kind::Requests, fault: (Fault::None, 1), ..setup }
        .run_stream(replay(Kind::Requests, 1000));
    assert_counts(&tally, &[(Count::Sent, 5_000), (Count::SynAck, 5_000)]);
}

/// Three SYNs that repeat every 30 us: by a server that answers each after 2 ms, by one that loses some, and by one that keeps
/// requests and so answers the first copy of a SYN and then one in half a second.
#[test]
fn syns_that_repeat_faster_than_answers_come_are_no_loss() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("frames.pcap");
    bench::pcap::write(&file, &bench::frames::frames(Kind::Syn, 3, [2; 6])).expect("a file");
    let stream = || {
        let replay = Replay::read(&file, Some(MacAddr(SERVER_MAC))).expect("just written");
        Stream::replay("file", Schedule::new(0.0, 1e5, 0.0, 0.1), Arc::new(replay))
    };
    let slow = Setup { rate: 1e5, fault: (Fault::Delay(2_000_000), 1), ..SYNS };
    let (tally, planted) = slow.run_stream(stream());
    assert_eq!(planted, 10_000);
    assert_counts(&tally, &[(Count::Sent, 10_000), (Count::SynAck, 10_000)]);
    assert_eq!((tally.silent(), tally.copies(), tally.loss()), (0, 0, 0.0));
    // Which copy an answer is to is known of none but the last ones.
    assert!(tally.synack.len() <= 3, "{}", tally.synack.len());

    let (tally, planted) = Setup { fault: (Fault::Drop, 100), ..slow }.run_stream(stream());
    assert_eq!(planted, 100);
    assert_counts(&tally, &[(Count::Sent, 10_000), (Count::SynAck, 9_900)]);
    assert_eq!((tally.silent(), tally.copies(), tally.loss()), (100, 0, 0.01));

    let (tally, planted) = Setup { fault: (Fault::Repeat, 1), rate: 30.0, ..slow }
        .run_stream(stream().again(Schedule::new(0.0, 30.0, 0.0, 0.1), 0));
    assert_eq!(planted, 3);
    assert_counts(&tally, &[(Count::Sent, 3), (Count::SynAck, 3), (Count::Again, 3)]);

    let requests = Setup { kind: Kind::Requests, fault: (Fault::None, 1), ..slow };
    let (tally, _) = requests.run_stream(stream());
    assert_counts(&tally, &[(Count::Sent, 10_000), (Count::SynAck, 6)]);
    assert_eq!((tally.silent(), tally.copies(), tally.loss()), (0, 9_994, 0.0));
}

#[test]
fn our_addresses_are_told_to_whoever_asks() {
    let mac = MacAddr(CLIENT_MAC);
    let (mut io, peer) = Mem::new(MemConfig::default());
    let ask = |target: [u8; 4]| {
        let mut frame = vec![0xff; 6];
        frame.extend(SERVER_MAC);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(SERVER_MAC);
        frame.extend(SERVER_V4.octets());
        frame.extend([0; 6]);
        frame.extend(target);
        frame
    };
    let owned = |addr: InetAddr| addr == InetAddr::v4(0xc613_0007);
    for (target, answered) in [([198, 19, 0, 7], true), ([198, 19, 0, 8], false)] {
        assert!(peer.send(&ask(target)));
        let mut slots = [const { None }; 4];
        assert_eq!(io.rx_burst(&mut slots), 1);
        let mut frame = slots[0].take().expect("a frame");
        assert_eq!(neighbour::answer(&mut frame, mac, owned), answered);
        if answered {
            assert_eq!(frame.bytes()[..6], SERVER_MAC);
            assert_eq!(frame.bytes()[20..22], [0, 2], "a reply");
            assert_eq!(frame.bytes()[22..28], CLIENT_MAC);
            assert_eq!(frame.bytes()[28..32], target);
        }
    }
}
