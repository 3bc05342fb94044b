//! Frames on the wrong worker: whatever a device does with them, a flow has one answer.

use std::net::{IpAddr, SocketAddr};

use dataplane::burst::{Fate, Head, Lanes, Plain};
use dataplane::clock::VirtualClock;
use dataplane::io::mem::{Mem, MemConfig, MemPeer};
use dataplane::io::{Frame, PacketIo};
use dataplane::stage::{self, parse::Columns};
use dataplane::stats::Counters;
use dataplane::worker::{HandOff, Port, Worker, WorkerConfig};
use listener::Stack;
use listener::core::Core;
use listener::core::dry_run::{Belongs, HandedOver, Peek};
use listener::drop_reason::DropReason;
use listener::limits::Limits;
use listener::segment::{Outcome, Segment, Verdict, flag};
use listener::sysctl::Sysctl;
use listener::types::{CoreId, SockFd, Then};
use listener::vector::Vectors;

mod common;

use common::{CLOSED, DEV, DISCARD, QUEUE, Tcp, peer_addr};

const ACK: u8 = flag::ACK;
const ROOM: usize = 64;

/// Workers that share one stack, each with a wire of its own.
struct Rig {
    stack: Stack,
    queue: SockFd,
    workers: Vec<Worker<Mem, Core>>,
    wires: Vec<MemPeer>,
    clock: VirtualClock,
}

/// What came out of a wire, as far as the tests ask.
#[derive(Clone, Copy, Debug)]
struct Seen {
    wire: usize,
    flags: u8,
    seq: u32,
    ack: u32,
    dport: u16,
}

impl Rig {
    fn new(count: u16, room: usize, tcp_syncookies: u8) -> Self {
        let sysctl = Sysctl { tcp_syncookies, ..Sysctl::default() };
        let (stack, cores) = common::stack_of(count, sysctl, Limits::TINY);
        let queue = common::listen(&stack, QUEUE, 512, Then::Queue);
        common::listen(&stack, DISCARD, 512, Then::Discard);
        let mut circle = HandOff::circle_of(usize::from(count), room).into_iter();
        let (mut workers, mut wires) = (Vec::new(), Vec::new());
        for core in cores {
            let (io, wire) = Mem::new(MemConfig::default());
            let config = WorkerConfig::new(core.id());
            let mut worker = Worker::new(config, core, vec![Port::new(io, DEV, common::local(), false)]);
            if let Some(circle) = circle.next() {
                worker.join(circle);
            }
            workers.push(worker);
            wires.push(wire);
        }
        Self { stack, queue, workers, wires, clock: VirtualClock::default() }
    }

    /// Puts segments on wires and lets all workers turn until nothing moves; returns what they sent.
    fn send(&mut self, segments: &[(usize, &Tcp)]) -> Vec<Seen> {
        for (wire, tcp) in segments {
            assert!(self.wires[*wire].send(&tcp.frame()));
        }
        for _ in 0..2 * self.workers.len() + 2 {
            for worker in &mut self.workers {
                worker.poll(&mut self.clock);
            }
        }
        let mut seen = Vec::new();
        for (wire, peer) in self.wires.iter().enumerate() {
            seen.extend(std::iter::from_fn(|| peer.recv()).map(|frame| read(wire, frame.bytes())));
        }
        for (core, counters) in self.counters().iter().enumerate() {
            let done = counters.handled() + counters.dropped();
            assert_eq!(counters.rx_frames, done, "core {core}: frames in = answered + dropped");
        }
        seen
    }

    /// What would become of a segment on that wire; nothing becomes of it.
    fn would(&mut self, wire: usize, tcp: &Tcp) -> HandedOver {
        let seg = segment(tcp);
        let cores: Vec<CoreId> = (0..).take(self.workers.len()).map(CoreId).collect();
        let before = (self.stack.snmp(), self.total().handed_over);
        for core in &cores {
            self.stack.peek(*core, Peek { ticket: 7, flow: seg.flow, dev: seg.dev });
        }
        let mut peeked = vec![None; cores.len()];
        for _ in 0..100 {
            for ((core, worker), peeked) in cores.iter().zip(&mut self.workers).zip(&mut peeked) {
                worker.poll(&mut self.clock);
                *peeked = peeked.take().or_else(|| self.stack.peeked(*core, 7));
            }
        }
        let said = self.stack.dry_run_among(cores[wire], &seg, &peeked).expect("every core has answered");
        assert_eq!((self.stack.snmp(), self.total().handed_over), before, "{tcp:?}");
        said
    }

    fn counters(&self) -> Vec<Counters> {
        self.workers.iter().map(|worker| worker.stats().snapshot()).collect()
    }

    fn total(&self) -> Counters {
        self.counters().iter().fold(Counters::default(), |mut sum, counters| {
            sum.add(counters);
            sum
        })
    }

    fn snmp(&self, name: &str) -> u64 {
        let snmp = self.stack.snmp();
        snmp.iter().find(|(known, _)| *known == name).map(|(_, count)| *count).expect("a counter's name")
    }
}

/// A frame as a worker reads it.
fn segment(tcp: &Tcp) -> Segment {
    let (mut io, _wire) = Mem::new(MemConfig { ring: 1, buffers: 1, ..MemConfig::default() });
    let mut frame = io.alloc().expect("a buffer");
    assert!(frame.fill(&tcp.frame()));
    let (mut heads, mut segs) = ([Head::default()], [Segment::default()]);
    let (mut fates, mut lanes) = ([Fate::Pending], Lanes::EMPTY);
    let mut plain = Box::new(Plain::EMPTY);
    let columns = Columns {
        heads: &mut heads,
        plain: &mut plain,
        segs: &mut segs,
        fates: &mut fates,
        lanes: &mut lanes,
    };
    stage::parse(&[Some(frame)], Vectors::best(), &common::local(), DEV, columns);
    if !lanes.bare().is_empty() {
        plain.bare(0, DEV, &lanes, &mut segs[0]);
    }
    assert!(matches!(fates[0], Fate::Pending), "a whole segment: {:?}", fates[0]);
    segs[0]
}

/// The TCP header behind an Ethernet and an IP header without options.
fn read(wire: usize, frame: &[u8]) -> Seen {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).expect("well formed");
    let Some(etherparse::TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("not TCP") };
    let (seq, ack) = (tcp.sequence_number(), tcp.acknowledgment_number());
    Seen { wire, flags: tcp.slice()[13], seq, ack, dport: tcp.destination_port() }
}

fn peer(number: u16, v6: bool) -> SocketAddr {
    let addr: IpAddr = peer_addr(v6, 1);
    SocketAddr::from((addr, 2000 + number))
}

/// The SYN of a client, which begins at 1000.
fn syn(src: SocketAddr, dport: u16) -> Tcp {
    Tcp::new(src, dport, flag::SYN, 1000, 0)
}

/// What follows the SYN-ACK `synack`.
fn after(src: SocketAddr, dport: u16, flags: u8, synack: Seen) -> Tcp {
    assert_eq!((synack.flags, synack.ack), (flag::SYN | ACK, 1001));
    Tcp::new(src, dport, flags, 1001, synack.seq.wrapping_add(1))
}

#[test]
fn a_final_ack_at_another_worker_makes_the_connection() {
    for v6 in [false, true] {
        let mut rig = Rig::new(2, ROOM, 1);
        let src = peer(0, v6);
        let [synack] = rig.send(&[(0, &syn(src, QUEUE))])[..] else { panic!("one SYN-ACK") };
        let answers = rig.send(&[(1, &after(src, QUEUE, ACK, synack))]);
        assert!(answers.is_empty(), "{answers:?}");
        assert!(rig.stack.accept(rig.queue).is_ok_and(|accepted| accepted.peer.port.0 == src.port()));
        let [first, second] = &rig.counters()[..] else { panic!("two") };
        assert_eq!((first.taken_over, first.handed_over, first.rx_frames), (1, 0, 1));
        assert_eq!((second.taken_over, second.handed_over, second.outcome(Outcome::Other)), (0, 1, 1));
        assert_eq!((rig.snmp("PassiveOpens"), rig.snmp("InSegs"), rig.snmp("OutRsts")), (1, 2, 0));
    }
}

#[test]
fn a_rst_at_another_worker_ends_the_request() {
    let mut rig = Rig::new(2, ROOM, 1);
    let src = peer(0, false);
    let [synack] = rig.send(&[(1, &syn(src, QUEUE))])[..] else { panic!("one SYN-ACK") };
    assert_eq!(rig.workers[1].protocol_mut().in_use(), (1, 0));
    let rst = Tcp { ack: 0, ..after(src, QUEUE, flag::RST, synack) };
    assert!(rig.send(&[(0, &rst)]).is_empty());
    assert_eq!(rig.workers[1].protocol_mut().in_use(), (0, 0));
    assert_eq!(rig.snmp("EmbryonicRsts"), 1);
}

/// The request of the second SYN is another one, and either SYN-ACK may be the one that is acknowledged.
#[test]
fn a_repeated_syn_at_another_worker_does_no_harm() {
    for acknowledged in 0..2 {
        let mut rig = Rig::new(2, ROOM, 1);
        let src = peer(0, false);
        let first = rig.send(&[(0, &syn(src, QUEUE))])[0];
        rig.clock.advance(1_000_000);
        let second = rig.send(&[(1, &syn(src, QUEUE))])[0];
        assert_ne!(first.seq, second.seq, "the ISN grows with time");
        let ack = after(src, QUEUE, ACK, [first, second][acknowledged]);
        assert!(rig.send(&[(1 - acknowledged, &ack)]).is_empty());
        assert_eq!((rig.snmp("PassiveOpens"), rig.snmp("OutRsts")), (1, 0));
    }
}

#[test]
fn what_nobody_knows_gets_one_rst() {
    let mut rig = Rig::new(3, ROOM, 1);
    for (number, dport) in [(0, QUEUE), (1, CLOSED)] {
        let stray = Tcp::new(peer(number, false), dport, ACK, 5, 77);
        let [rst] = rig.send(&[(1, &stray)])[..] else { panic!("one answer") };
        assert_eq!((rst.flags, rst.seq, rst.wire), (flag::RST, 77, 0), "the last one that is asked answers");
    }
    let rst = Tcp::new(peer(2, false), QUEUE, flag::RST, 5, 0);
    assert!(rig.send(&[(1, &rst)]).is_empty());
    let total = rig.total();
    assert_eq!((total.handed_over, total.taken_over, total.handoff_lost), (6, 6, 0));
    assert_eq!((total.originated, total.outcome(Outcome::Other), rig.snmp("OutRsts")), (2, 3, 2));
    let refused = rig.send(&[(1, &syn(peer(3, false), CLOSED))]);
    assert_eq!((refused[0].wire, rig.total().handed_over), (1, 6), "SYNs stay where they are");
}

#[test]
fn a_full_ring_is_a_drop_by_name() {
    let mut rig = Rig::new(2, 2, 1);
    let strays: Vec<Tcp> = (0..5).map(|number| Tcp::new(peer(number, false), QUEUE, ACK, 5, 77)).collect();
    let sent: Vec<_> = strays.iter().map(|stray| (0, stray)).collect();
    assert_eq!(rig.send(&sent).len(), 2);
    let first = &rig.counters()[0];
    assert_eq!((first.drops(DropReason::HandoffFull), first.handed_over), (3, 2));
}

#[test]
fn a_cookie_is_checked_where_its_ack_comes() {
    let mut rig = Rig::new(2, ROOM, 2);
    let src = peer(0, false);
    let [synack] = rig.send(&[(0, &syn(src, QUEUE))])[..] else { panic!("one SYN-ACK") };
    assert!(rig.send(&[(1, &after(src, QUEUE, ACK, synack))]).is_empty());
    assert_eq!((rig.snmp("PassiveOpens"), rig.total().handed_over), (1, 0));
}

#[test]
fn a_worker_alone_answers_itself() {
    let mut rig = Rig::new(1, ROOM, 1);
    let [rst] = rig.send(&[(0, &Tcp::new(peer(0, false), QUEUE, ACK, 5, 77))])[..] else { panic!("one") };
    assert_eq!((rst.flags, rig.total().outcome(Outcome::Rst)), (flag::RST, 1));
}

/// Every segment of every connection goes to a worker that is drawn anew.
#[test]
fn a_device_may_spread_frames_as_it_likes() {
    let mut rig = Rig::new(3, ROOM, 1);
    let mut random = 7u64;
    let mut draw = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % 3
    };
    for number in 0..100 {
        let src = peer(number, number % 2 == 1);
        let synack = rig.send(&[(draw(), &syn(src, DISCARD))])[0];
        assert!(rig.send(&[(draw(), &after(src, DISCARD, ACK, synack))]).is_empty());
        let data = Tcp { payload: vec![1; 100], ..after(src, DISCARD, ACK, synack) };
        let [ack] = rig.send(&[(draw(), &data)])[..] else { panic!("data is acknowledged") };
        assert_eq!((ack.flags, ack.ack, ack.dport), (ACK, 1101, src.port()));
        let fin = Tcp { seq: 1101, ..after(src, DISCARD, ACK | flag::FIN, synack) };
        let answers = rig.send(&[(draw(), &fin)]);
        assert!(answers.iter().any(|answer| answer.ack == 1102), "{answers:?}");
        assert!(answers.iter().all(|answer| answer.flags & flag::RST == 0), "{answers:?}");
    }
    assert_eq!((rig.snmp("PassiveOpens"), rig.snmp("OutRsts")), (100, 0));
    let total = rig.total();
    assert!(total.handed_over > 100 && total.handed_over == total.taken_over && total.handoff_lost == 0);
}

/// Six flows, each wherever its segments happen to come; what is said of each segment beforehand is what it meets.
#[test]
fn a_dry_run_says_whose_flow_it_is_and_what_that_worker_would_do() {
    let (mut random, mut met) = (11u64, std::collections::BTreeMap::new());
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for tcp_syncookies in [1, 2] {
        let mut rig = Rig::new(3, ROOM, tcp_syncookies);
        let mut theirs = [0u32; 6];
        for step in 0..600 {
            let number = draw(6);
            let src = peer(number as u16, number % 2 == 1);
            let dport = if draw(8) == 0 { CLOSED } else { QUEUE };
            let (flags, seq) = [
                (flag::SYN, 1000),
                (ACK, 1001),
                (ACK, 1001),
                (ACK | flag::PSH, 1001),
                (ACK | flag::FIN, 1001),
                (flag::RST, 1001),
                (ACK, 77),
                (flag::RST | ACK, 1002),
                (flag::FIN, 1001),
            ][draw(9) as usize];
            let ack = if flags & ACK == 0 { 0 } else { theirs[number as usize].wrapping_add(1) };
            let tcp = Tcp::new(src, dport, flags, seq, ack);
            let wire = draw(3) as usize;
            let HandedOver { dry, to } = rig.would(wire, &tcp);
            let (snmp, handed_over) = (rig.stack.snmp(), rig.total().handed_over);
            let seen = rig.send(&[(wire, &tcp)]);
            let what = format!(
                "cookies {tcp_syncookies}, step {step}: {tcp:?} on wire {wire}: {dry:?} {to:?} {seen:?}"
            );
            assert_eq!(rig.total().handed_over - handed_over, to.len() as u64, "{what}");
            let grown = rig.stack.snmp().into_iter().zip(snmp).filter(|(after, before)| after.1 != before.1);
            assert_eq!(dry.counters, grown.map(|(after, _)| after.0).collect::<Vec<_>>(), "{what}");
            let last = to.last().map_or(wire, |core| usize::from(core.0));
            match dry.verdict {
                Verdict::Reply(_, answer) => {
                    let [only] = seen[..] else { panic!("one answer: {what}") };
                    let (seq, ack) = (answer.seq.0, answer.ack.0);
                    assert_eq!(
                        (only.wire, only.flags, only.seq, only.ack),
                        (last, answer.flags, seq, ack),
                        "{what}"
                    );
                    if answer.flags & flag::SYN != 0 {
                        theirs[number as usize] = answer.seq.0;
                    }
                }
                _ => assert!(seen.is_empty(), "{what}"),
            }
            let known = matches!(dry.belongs, Belongs::Request(_) | Belongs::Connection(_));
            *met.entry((to.len(), known)).or_insert(0) += 1;
        }
    }
    for wanted in [(0, true), (1, true), (2, true), (2, false), (0, false)] {
        assert!(met.get(&wanted).is_some_and(|count| *count > 10), "{wanted:?} was hardly met: {met:?}");
    }
}
