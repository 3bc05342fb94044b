use listener::columns::{Columns, Sets, rows};
use listener::segment::{FlowKey, OutSegment, Segment, TcpOptions, Verdict, flag};
use listener::types::{InetAddr, SegSeq, TcpPort};

use super::*;
use crate::clock::VirtualClock;
use crate::histogram::Reporter;
use crate::io::mem::{Mem, MemConfig, MemPeer};
use crate::local::pack_route;
use crate::wire::ether::MacAddr;
use crate::wire::vlan::{Tags, Tci};
use std::time::Duration;

const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const OURS: InetAddr = InetAddr::v4(0xc612_0001);
const PEERS: InetAddr = InetAddr::v4(0xc612_0002);

/// Decides by the destination port, and originates what it is told to.
#[derive(Default)]
struct Script {
    originate: Vec<Originated>,
    seen: Vec<u16>,
    bad: Vec<bool>,
    dports: Vec<u16>,
    ticks: usize,
}

const RST: OutSegment = OutSegment {
    flags: flag::RST,
    tos: 0,
    wnd: 0,
    seq: SegSeq(0),
    ack: SegSeq(0),
    options: TcpOptions { mss: 0, wscale: None, sack_perm: false, timestamps: None },
};

impl Protocol for Script {
    type Found = u16;

    fn lookup_burst(&mut self, segs: &[Segment], set: u64, found: &mut [u16]) {
        for index in rows(set) {
            found[index] = segs[index].flow.dport.0;
        }
    }

    fn lookup_columns(&mut self, columns: &Columns, _sets: Sets, _dev: DevIndex) {
        self.dports = columns.ports.map(|ports| ports as u16).to_vec();
    }

    fn found_row(&self, row: usize) -> u16 {
        self.dports[row]
    }

    fn rcv(&mut self, seg: &Segment, found: u16, _: Nanos) -> Verdict {
        self.seen.push(seg.flow.sport.0);
        match found {
            80 => Verdict::Reply(Outcome::SynAck, OutSegment { flags: flag::SYN | flag::ACK, ..RST }),
            81 => Verdict::Consume(Outcome::Accept),
            82 => Verdict::Drop(DropReason::ListenOverflow),
            _ => Verdict::Reply(Outcome::Rst, RST),
        }
    }

    fn count_bad_segment(&mut self, checksum: bool) {
        self.bad.push(checksum);
    }

    fn tick(&mut self, _: Nanos, budget: usize, mut send: impl FnMut(&Originated) -> bool) -> bool {
        self.ticks += 1;
        for _ in 0..budget {
            let Some(next) = self.originate.last() else { break };
            if !send(next) {
                break;
            }
            self.originate.pop();
        }
        !self.originate.is_empty()
    }
}

fn worker(config: MemConfig, announce: bool) -> (Worker<Mem, Script>, MemPeer) {
    let (io, peer) = Mem::new(config);
    let local =
        Arc::new(LocalTable::new(OUR_MAC, &[(OURS, 24), (InetAddr::v6(0x2001_0db8 << 32, 1), 64)], &[]));
    let ports = vec![Port::new(io, DevIndex(1), local, announce)];
    (Worker::new(WorkerConfig::new(CoreId(0)), Script::default(), ports), peer)
}

fn syn(sport: u16, dport: u16) -> Vec<u8> {
    let tcp = etherparse::PacketBuilder::ethernet2(PEER_MAC.0, OUR_MAC.0)
        .ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64)
        .tcp(sport, dport, 1, 1000)
        .syn();
    let mut frame = Vec::new();
    tcp.write(&mut frame, &[]).expect("a Vec takes it");
    frame
}

fn originated(sport: u16, dev: u16, tags: Tags) -> Originated {
    Originated {
        flow: FlowKey { saddr: PEERS, daddr: OURS, sport: TcpPort(sport), dport: TcpPort(80) },
        dev: DevIndex(dev),
        route: pack_route(PEER_MAC, tags),
        segment: RST,
    }
}

#[test]
fn full_bursts_share_a_tick_unless_there_is_more_to_do() {
    let (mut worker, peer) = worker(MemConfig::default(), false);
    let mut clock = VirtualClock::default();
    let mut turn = |worker: &mut Worker<Mem, Script>, frames: u16| {
        (0..frames).for_each(|sport| assert!(peer.send(&syn(sport, 82))));
        assert_eq!(worker.poll(&mut clock), usize::from(frames));
        worker.protocol_mut().ticks
    };
    let ticks: Vec<_> = (0..17).map(|_| turn(&mut worker, 32)).collect();
    assert_eq!((ticks[6], ticks[7], ticks[14], ticks[15]), (0, 1, 1, 2));
    assert_eq!((turn(&mut worker, 31), turn(&mut worker, 0), turn(&mut worker, 32)), (3, 4, 4));
    // More than a tick's budget, and nobody who takes it away: it is asked again at the next turn.
    worker.protocol_mut().originate = vec![originated(1, 1, Tags::NONE); 70];
    assert_eq!((turn(&mut worker, 1), turn(&mut worker, 32), turn(&mut worker, 32)), (5, 6, 7));
}

#[test]
fn every_frame_is_counted_once_and_recorded_once() {
    let (mut worker, peer) = worker(MemConfig::default(), false);
    let (stats, mut reporter) = (worker.stats(), Reporter::new([worker.mailbox()]));
    let mut clock = VirtualClock::default();
    for (sport, dport) in [(1, 80), (2, 81), (3, 82), (4, 80), (5, 9)] {
        assert!(peer.send(&syn(sport, dport)));
    }
    assert!(peer.send(&[0; 13]));
    assert_eq!(worker.poll(&mut clock), 6);
    assert_eq!(worker.poll(&mut clock), 0);
    assert_eq!(worker.protocol.seen, [1, 2, 3, 4, 5], "in order of arrival");
    let counters = stats.snapshot();
    assert_eq!(counters.outcomes, [2, 1, 1, 0]);
    assert_eq!(counters.drops(DropReason::ListenOverflow), 1);
    assert_eq!(counters.drops(DropReason::EtherTooShort), 1);
    assert_eq!((counters.rx_frames, counters.handled() + counters.dropped()), (6, 6));
    assert_eq!((counters.tx_frames, counters.tx_bytes, counters.rx_bytes), (3, 3 * 54, 5 * 54 + 13));
    assert_eq!((counters.turns_busy, counters.turns_idle), (1, 1));
    let ports: Vec<_> = std::iter::from_fn(|| peer.recv()).map(|frame| frame.bytes()[37]).collect();
    assert_eq!(ports, [1, 4, 5]);
    worker.finish();
    let report = &reporter.snapshot(Duration::ZERO)[0];
    assert_eq!(report.counters, counters);
    for outcome in Outcome::ALL {
        assert_eq!(report.latency.of(outcome).len(), counters.outcome(outcome));
    }
}

#[test]
fn bad_segments_are_told_to_the_stack() {
    let (mut worker, peer) = worker(MemConfig::default(), false);
    let (mut bad_sum, mut bad_header) = (syn(1, 80), syn(1, 80));
    bad_sum[50] ^= 1;
    bad_header[46] = 0x40;
    assert!(peer.send(&bad_header) && peer.send(&bad_sum) && peer.send(&syn(1, 80)) && peer.send(&[0; 14]));
    worker.poll(&mut VirtualClock::default());
    assert_eq!(worker.protocol.bad, [false, true]);
}

#[test]
fn answers_that_the_device_refuses_are_drops() {
    let (mut worker, peer) = worker(MemConfig { ring: 8, buffers: 32, ..MemConfig::default() }, false);
    let (stats, mut reporter) = (worker.stats(), Reporter::new([worker.mailbox()]));
    let mut clock = VirtualClock::default();
    for round in 0..2 {
        for sport in 0..6 {
            assert!(peer.send(&syn(sport, if round == 0 { 80 } else { 9 })));
        }
        worker.poll(&mut clock);
    }
    let counters = stats.snapshot();
    assert_eq!((counters.outcomes, counters.drops(DropReason::TxFull)), ([6, 2, 0, 0], 4));
    assert_eq!((counters.rx_frames, counters.tx_frames), (12, 8));
    assert_eq!(peer.free_buffers(), 24, "refused frames are freed");
    worker.finish();
    assert_eq!(reporter.snapshot(Duration::ZERO)[0].latency.of(Outcome::Rst).len(), 2);
}

#[test]
fn originated_segments_wait_for_room_and_none_is_lost() {
    let (mut worker, peer) = worker(MemConfig { ring: 4, buffers: 64, ..MemConfig::default() }, false);
    let stats = worker.stats();
    let mut clock = VirtualClock::default();
    worker.protocol_mut().originate = (0..100).rev().map(|sport| originated(sport, 1, Tags::NONE)).collect();
    let mut seen = Vec::new();
    for _ in 0..40 {
        worker.poll(&mut clock);
        seen.extend(std::iter::from_fn(|| peer.recv()).map(|frame| frame.bytes()[37]));
    }
    assert_eq!(seen, (0..100).collect::<Vec<u8>>());
    let counters = stats.snapshot();
    assert_eq!((counters.originated, counters.tx_frames, counters.rx_frames), (100, 100, 0));
    assert_eq!(peer.free_buffers(), 64);
}

#[test]
fn an_originated_segment_has_its_tag_and_its_device() {
    let (mut worker, peer) = worker(MemConfig::default(), false);
    let mut clock = VirtualClock::default();
    let one = Tags::one(Some(Tci(0x2005)));
    let two = Tags { outer: Some((0x88a8, Tci(7))), ..one };
    worker.protocol_mut().originate =
        vec![originated(7, 2, Tags::NONE), originated(5, 1, two), originated(6, 1, one)];
    worker.poll(&mut clock);
    let frame = peer.recv().expect("one is sent");
    let twice = peer.recv().expect("and another");
    assert!(peer.recv().is_none() && worker.stats().snapshot().originated_lost == 1);
    assert_eq!(twice.bytes()[12..22], [0x88, 0xa8, 0, 7, 0x81, 0, 0x20, 5, 8, 0]);
    assert_eq!(twice.bytes().len(), frame.bytes().len() + 4);
    let bytes = frame.bytes();
    assert_eq!(bytes[..18], [&PEER_MAC.0[..], &OUR_MAC.0, &[0x81, 0, 0x20, 5, 8, 0]].concat());
    let sliced = etherparse::SlicedPacket::from_ethernet(bytes).expect("well formed");
    let Some(etherparse::TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("TCP") };
    assert!(tcp.rst() && tcp.destination_port() == 6);
    assert_eq!(tcp.calc_checksum_ipv4([198, 18, 0, 1], [198, 18, 0, 2]), Ok(tcp.checksum()));
}

#[test]
fn addresses_are_announced_once() {
    let (mut worker, peer) = worker(MemConfig::default(), true);
    let mut clock = VirtualClock::default();
    worker.poll(&mut clock);
    let arp = peer.recv().expect("IPv4 comes first");
    let body = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 198, 18, 0, 1, 0, 0, 0, 0, 0, 0, 198, 18, 0, 1];
    assert_eq!(arp.bytes(), [&[0xff; 6][..], &OUR_MAC.0, &[8, 6], &body].concat());
    let na = peer.recv().expect("then IPv6");
    assert_eq!(na.bytes()[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd]);
    assert_eq!((na.bytes()[54], na.bytes()[58]), (136, 0x20));
    worker.poll(&mut clock);
    assert!(peer.recv().is_none());
}

/// A clock that counts its readers.
#[derive(Default)]
struct Ticks(u64);

impl Clock for Ticks {
    fn now(&mut self) -> Nanos {
        self.0 += 1;
        Nanos(self.0 * 1000)
    }
}

#[test]
fn the_clock_is_read_twice_a_burst_and_latency_is_the_difference() {
    let (mut worker, peer) = worker(MemConfig::default(), false);
    let mut reporter = Reporter::new([worker.mailbox()]);
    let mut clock = Ticks::default();
    for sport in 0..40 {
        assert!(peer.send(&syn(sport, 80)));
    }
    assert_eq!((worker.poll(&mut clock), clock.0), (32, 2));
    assert_eq!((worker.poll(&mut clock), clock.0), (8, 4));
    assert_eq!((worker.poll(&mut clock), clock.0), (0, 5));
    worker.finish();
    let latency = &reporter.snapshot(Duration::ZERO)[0].latency;
    let synack = latency.of(Outcome::SynAck);
    assert!(
        synack.len() == 40 && synack.equivalent(synack.min(), 1000) && synack.equivalent(synack.max(), 1000)
    );
}

/// A [`Mem`] whose device says how long frames waited: as many microseconds as the last octet of their source port.
struct Stamping(Mem);

impl PacketIo for Stamping {
    type Frame = <Mem as PacketIo>::Frame;

    fn rx_burst(&mut self, into: &mut [Option<Self::Frame>]) -> usize {
        self.0.rx_burst(into)
    }

    fn tx_burst(&mut self, from: &mut [Option<Self::Frame>]) -> Sent {
        self.0.tx_burst(from)
    }

    fn alloc(&mut self) -> Option<Self::Frame> {
        self.0.alloc()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn waited(&self, frames: &[Option<Self::Frame>], waited: &mut [u64]) -> bool {
        for (frame, waited) in frames.iter().flatten().zip(waited) {
            *waited = 1000 * u64::from(frame.bytes()[35]);
        }
        true
    }
}

/// A device whose driver rejects the answers in some slots of a burst.
struct Rejecting(Mem, u64);

impl PacketIo for Rejecting {
    type Frame = <Mem as PacketIo>::Frame;

    fn rx_burst(&mut self, into: &mut [Option<Self::Frame>]) -> usize {
        self.0.rx_burst(into)
    }

    fn tx_burst(&mut self, from: &mut [Option<Self::Frame>]) -> Sent {
        let rejected = self.1 & ((1 << from.len()) - 1);
        for (slot, frame) in from.iter_mut().enumerate() {
            let frame = std::slice::from_mut(frame);
            if rejected >> slot & 1 != 0 {
                frame[0] = None;
            } else {
                assert_eq!(self.0.tx_burst(frame), Sent::all(1));
            }
        }
        Sent { done: from.len(), rejected }
    }

    fn alloc(&mut self) -> Option<Self::Frame> {
        self.0.alloc()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

#[test]
fn of_answers_that_the_driver_rejects_the_rest_is_sent() {
    let (io, peer) = Mem::new(MemConfig::default());
    let local = Arc::new(LocalTable::new(OUR_MAC, &[(OURS, 24)], &[]));
    let ports = vec![Port::new(Rejecting(io, 0b1010), DevIndex(1), local, false)];
    let mut worker = Worker::new(WorkerConfig::new(CoreId(0)), Script::default(), ports);
    let mut reporter = Reporter::new([worker.mailbox()]);
    // Port 9 has no listener in the script: SYN-ACKs and RSTs take turns. A frame without an answer stands between.
    assert!(peer.send(&syn(0, 80)) && peer.send(&[0; 14]));
    for sport in 1..5 {
        assert!(peer.send(&syn(sport, if sport % 2 == 0 { 80 } else { 9 })));
    }
    worker.poll(&mut VirtualClock::default());
    let ports: Vec<u8> = std::iter::from_fn(|| peer.recv()).map(|frame| frame.bytes()[37]).collect();
    assert_eq!(ports, [0, 2, 4], "the second and the fourth answer are lost, and no other");
    let counters = worker.stats().snapshot();
    assert_eq!((counters.drops(DropReason::TxRejected), counters.drops(DropReason::TxFull)), (2, 0));
    assert_eq!(
        (counters.tx_frames, counters.outcome(Outcome::SynAck), counters.outcome(Outcome::Rst)),
        (3, 3, 0)
    );
    assert_eq!(counters.rx_frames, counters.outcomes.iter().sum::<u64>() + counters.dropped());
    worker.finish();
    let report = &reporter.snapshot(Duration::ZERO)[0];
    assert_eq!(report.latency.of(Outcome::SynAck).len(), 3);
}

/// Every look at it takes 10 microseconds.
struct Slow(Nanos);

impl Clock for Slow {
    fn now(&mut self) -> Nanos {
        self.0.0 += 10_000;
        self.0
    }
}

#[test]
fn each_frames_time_begins_at_its_stamp() {
    let (io, peer) = Mem::new(MemConfig { ring: 4, ..MemConfig::default() });
    let local = Arc::new(LocalTable::new(OUR_MAC, &[(OURS, 24)], &[]));
    let ports = vec![Port::new(Stamping(io), DevIndex(1), local, false)];
    let mut worker = Worker::new(WorkerConfig::new(CoreId(0)), Script::default(), ports);
    let mut reporter = Reporter::new([worker.mailbox()]);
    // The last answer finds no room: what waited in vain is in no histogram.
    let mut clock = Slow(Nanos(0));
    for frames in [&[(40, 80), (200, 81), (7, 82)][..], &[(60, 80), (50, 9)], &[(30, 80), (20, 80)]] {
        for (sport, dport) in frames {
            assert!(peer.send(&syn(*sport, *dport)));
        }
        assert_eq!(worker.poll(&mut clock), frames.len());
    }
    let stats = worker.stats();
    worker.finish();
    let report = &reporter.snapshot(Duration::ZERO)[0];
    assert_eq!(stats.snapshot().drops(DropReason::TxFull), 1);
    for outcome in Outcome::ALL {
        assert_eq!(report.latency.of(outcome).len(), report.counters.outcome(outcome), "{outcome:?}");
    }
    let values = |outcome| -> Vec<u64> {
        let recorded = report.latency.of(outcome).iter_recorded();
        recorded.map(|step| step.value_iterated_to() / 1000).collect()
    };
    assert_eq!(values(Outcome::SynAck), [40, 50, 70], "10 us in the worker, and before it 30, 40 and 60");
    assert_eq!(values(Outcome::Rst), [60]);
    assert_eq!(values(Outcome::Accept), [210]);
}
