//! Frames on the wrong worker: whatever a device does with them, a flow has one answer.

use std::net::{IpAddr, SocketAddr};

use dataplane::clock::VirtualClock;
use dataplane::io::Frame;
use dataplane::io::mem::{Mem, MemConfig, MemPeer};
use dataplane::stats::Counters;
use dataplane::worker::{HandOff, Port, Worker, WorkerConfig};
use listener::Stack;
use listener::core::Core;
use listener::drop_reason::DropReason;
use listener::limits::Limits;
use listener::segment::{Outcome, flag};
use listener::sysctl::Sysctl;
use listener::types::{SockFd, Then};

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
