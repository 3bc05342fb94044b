//! A whole worker under random traffic and random faults, by seed.
//!
//! Peers open, use and tear down connections, ping, ask for neighbours and send garbage; [`Faulty`] loses, flips, cuts and
//! repeats frames and takes answers only in part; time leaps; listeners come and go. After every step the law holds:
//! frames in = handled + dropped by name. At the end histograms hold as many records as the counters say, no buffer is
//! lost, and no entry is left in the tables.
//!
//! `HEARKEN_SIM_FRAMES` frames are sent (100,000 by default), the first seed is `HEARKEN_SIM_SEED` (1 by default). What a run
//! did wrong is repeated by its seed.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dataplane::clock::VirtualClock;
use dataplane::histogram::Reporter;
use dataplane::io::faulty::{FaultRates, Faulty, SplitMix64};
use dataplane::io::mem::{Mem, MemConfig, MemPeer};
use dataplane::io::{Frame, PacketIo};
use dataplane::worker::{Port, Worker, WorkerConfig};
use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TcpSlice, TransportSlice};
use listener::Stack;
use listener::core::Core;
use listener::limits::Limits;
use listener::segment::{Outcome, flag};
use listener::sysctl::Sysctl;
use listener::types::{CoreId, SockFd, Then};

mod common;

use common::{CLOSE, CLOSED, DISCARD, OUR_MAC, OUR_V4, OUR_V6, QUEUE, RESET, Tcp, peer_addr};

const BUFFERS: usize = 512;
const PORTS: [u16; 5] = [QUEUE, DISCARD, CLOSE, RESET, CLOSED];
const THEN: [Then; 4] = [Then::Queue, Then::Discard, Then::Close, Then::Reset];

/// A peer's end of a connection, as far as the peer knows.
#[derive(Clone, Copy, Debug)]
struct Conn {
    dport: u16,
    seq: u32,
    ack: u32,
    timestamp: Option<u32>,
}

struct Sim {
    seed: u64,
    rng: SplitMix64,
    clock: VirtualClock,
    stack: Stack,
    worker: Worker<Faulty<Mem>, Core>,
    wire: MemPeer,
    listeners: [SockFd; 4],
    accepted: Vec<SockFd>,
    conns: HashMap<SocketAddr, Conn>,
    /// What a SYN-ACK to this peer may acknowledge.
    acks: HashSet<(SocketAddr, u16, u32)>,
    sent: u64,
    received: u64,
    seen: HashMap<&'static str, u64>,
}

impl Sim {
    fn new(seed: u64, rates: FaultRates, sysctl: Sysctl) -> Self {
        let (stack, core) = common::stack(sysctl, Limits::TINY);
        let (io, wire) = Mem::new(MemConfig { ring: 128, buffers: BUFFERS, ..MemConfig::default() });
        let port = Port::new(Faulty::new(io, seed, rates), common::DEV, common::local(), true);
        let worker = Worker::new(WorkerConfig::new(CoreId(0)), core, vec![port]);
        let listeners = std::array::from_fn(|index| common::listen(&stack, PORTS[index], 8, THEN[index]));
        Self {
            seed,
            rng: SplitMix64::new(seed ^ 0x5eed),
            clock: VirtualClock::default(),
            stack,
            worker,
            wire,
            listeners,
            accepted: Vec::new(),
            conns: HashMap::new(),
            acks: HashSet::new(),
            sent: 0,
            received: 0,
            seen: HashMap::new(),
        }
    }

    fn send(&mut self, frame: &[u8]) {
        self.sent += u64::from(self.wire.send(frame));
    }

    fn random_peer(&mut self) -> SocketAddr {
        let addr = peer_addr(self.rng.chance(300), self.rng.below(8) as u8);
        SocketAddr::new(addr, 40_000 + self.rng.below(32) as u16)
    }

    fn known_peer(&mut self) -> Option<SocketAddr> {
        let skip = self.rng.below(self.conns.len());
        // The order of a hash map is not the seed's; the least address from a random one on is.
        let mut peers: Vec<_> = self.conns.keys().copied().collect();
        peers.sort_unstable();
        peers.get(skip).copied()
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..35 => self.syn(),
            35..70 => self.segment(),
            70..75 => {
                let peer = self.random_peer().ip();
                let data = [0x5a; 100];
                let len = self.rng.below(data.len());
                self.send(&common::ping(peer, &data[..len]));
            }
            75..80 => self.neighbour(),
            80..90 => self.garbage(),
            90..96 => self.odd_segment(),
            _ => self.control(),
        }
    }

    fn syn(&mut self) {
        let src = self.random_peer();
        let dport = PORTS[self.rng.below(PORTS.len())];
        let seq = self.rng.next_u64() as u32;
        let mut tcp = Tcp::new(src, dport, flag::SYN, seq, 0);
        let mut timestamp = None;
        if self.rng.chance(800) {
            tcp.options.push(TcpOptionElement::MaximumSegmentSize(1460));
        }
        if self.rng.chance(500) {
            tcp.options.push(TcpOptionElement::SelectiveAcknowledgementPermitted);
            tcp.options.push(TcpOptionElement::Timestamp(1, 0));
            timestamp = Some(0);
        }
        if self.rng.chance(500) {
            tcp.options.push(TcpOptionElement::Noop);
            tcp.options.push(TcpOptionElement::WindowScale(7));
        }
        self.acks.insert((src, dport, seq.wrapping_add(1)));
        self.conns.insert(src, Conn { dport, seq: seq.wrapping_add(1), ack: 0, timestamp });
        self.send(&tcp.frame());
    }

    /// Data, a FIN, a RST or a bare ACK on a connection that a peer believes in.
    fn segment(&mut self) {
        let Some(src) = self.known_peer() else { return };
        let conn = self.conns[&src];
        let mut tcp = Tcp::new(src, conn.dport, flag::ACK, conn.seq, conn.ack);
        if let Some(echo) = conn.timestamp {
            let value = 2 + self.rng.below(3) as u32;
            tcp.options = vec![
                TcpOptionElement::Noop,
                TcpOptionElement::Noop,
                TcpOptionElement::Timestamp(value, echo),
            ];
        }
        match self.rng.below(10) {
            0..4 => {}
            4..7 => tcp.payload = vec![0x61; 1 + self.rng.below(600)],
            7..9 => tcp.flags |= flag::FIN,
            _ => tcp.flags = flag::RST,
        }
        let len = tcp.payload.len() as u32 + u32::from(tcp.flags & flag::FIN);
        if tcp.flags & (flag::FIN | flag::RST) != 0 && self.rng.chance(500) {
            self.conns.remove(&src);
        } else if let Some(conn) = self.conns.get_mut(&src) {
            conn.seq = conn.seq.wrapping_add(len);
        }
        self.send(&tcp.frame());
    }

    /// Any flags, any numbers near a connection's.
    fn odd_segment(&mut self) {
        let src = self.known_peer().unwrap_or_else(|| SocketAddr::new(peer_addr(false, 1), 40_000));
        let conn = self.conns.get(&src).copied();
        let conn = conn.unwrap_or(Conn { dport: QUEUE, seq: 0, ack: 0, timestamp: None });
        let near = |rng: &mut SplitMix64, number: u32| {
            let away = [0, 1, 2, 1000, 70_000, 1 << 31][rng.below(6)];
            if rng.chance(500) { number.wrapping_add(away) } else { number.wrapping_sub(away) }
        };
        let (seq, ack) = (near(&mut self.rng, conn.seq), near(&mut self.rng, conn.ack));
        let flags = self.rng.below(64) as u8;
        if flags & flag::SYN != 0 {
            self.acks.insert((src, conn.dport, seq.wrapping_add(1)));
        }
        let mut tcp = Tcp::new(src, conn.dport, flags, seq, ack);
        tcp.payload = vec![0x62; self.rng.below(10)];
        self.send(&tcp.frame());
    }

    fn neighbour(&mut self) {
        let other = [OUR_V4.octets(), [198, 18, 0, 77]][self.rng.below(2)].into();
        let IpAddr::V4(from) = peer_addr(false, 1) else { return };
        let IpAddr::V6(from_v6) = peer_addr(true, 1) else { return };
        match self.rng.below(3) {
            0 => self.send(&common::arp_request(from, other)),
            1 => self.send(&common::solicitation(from_v6, OUR_V6)),
            _ => self.send(&common::solicitation(from_v6, from_v6)),
        }
    }

    /// Noise, or a good frame with some of its octets replaced.
    fn garbage(&mut self) {
        let mut frame = if self.rng.chance(500) {
            vec![0; self.rng.below(200)]
        } else {
            Tcp::new(self.random_peer(), QUEUE, flag::SYN, 1, 0).frame()
        };
        let all = self.rng.chance(500);
        for octet in &mut frame {
            if all || self.rng.chance(30) {
                *octet = self.rng.next_u64() as u8;
            }
        }
        if self.rng.chance(700) {
            for (to, from) in frame.iter_mut().zip(OUR_MAC) {
                *to = from;
            }
        }
        self.expect_answer(&frame);
        self.send(&frame);
    }

    /// Garbage may still be, or have become, a SYN: it may be answered as one.
    fn expect_answer(&mut self, frame: &[u8]) {
        let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return };
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { return };
        let src = match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => IpAddr::from(ip.header().source_addr()),
            Some(NetSlice::Ipv6(ip)) => IpAddr::from(ip.header().source_addr()),
            _ => return,
        };
        let src = SocketAddr::new(src, tcp.source_port());
        self.acks.insert((src, tcp.destination_port(), tcp.sequence_number().wrapping_add(1)));
    }

    /// What the control side does: accept, close, close and open a listener.
    fn control(&mut self) {
        match self.rng.below(10) {
            0..6 => {
                while let Ok(accepted) = self.stack.accept(self.listeners[0]) {
                    self.accepted.push(accepted.fd);
                }
            }
            6..9 => {
                if let Some(fd) = self.accepted.pop() {
                    let reset = self.rng.chance(300);
                    self.stack.close(fd, reset).expect("it is open");
                }
            }
            _ => {
                let index = self.rng.below(4);
                self.stack.close(self.listeners[index], false).expect("it is open");
                self.reopen(index);
            }
        }
    }

    /// Binds again; accepted children may hold the port, then they go first.
    fn reopen(&mut self, index: usize) {
        for fd in self.accepted.drain(..) {
            self.stack.close(fd, true).expect("it is open");
        }
        // Children hold the port until the core has carried the commands out, TIME_WAIT entries until they run out, and
        // a FIN that nobody acknowledges for as long as it is retransmitted: 1, 2, 4 … 120 s between the tries.
        for _ in 0..1_000 {
            if let Ok(fd) = common::try_listen(&self.stack, PORTS[index], 8, THEN[index]) {
                self.listeners[index] = fd;
                return;
            }
            self.turn();
            self.clock.advance(1_000_000_000);
        }
        panic!("seed {}: port {} never becomes free", self.seed, PORTS[index]);
    }

    fn turn(&mut self) {
        self.worker.poll(&mut self.clock);
        let counters = self.worker.stats().snapshot();
        assert_eq!(
            counters.rx_frames,
            counters.handled() + counters.dropped(),
            "seed {}: a frame is counted twice or not at all",
            self.seed
        );
        while let Some(frame) = self.wire.recv() {
            self.received += 1;
            self.answer(frame.bytes());
        }
    }

    /// Every frame that comes back is whole and ours.
    fn answer(&mut self, bytes: &[u8]) {
        let seed = self.seed;
        let sliced = SlicedPacket::from_ethernet(bytes)
            .unwrap_or_else(|error| panic!("seed {seed}: {error} {bytes:02x?}"));
        assert_eq!(bytes[6..12], OUR_MAC, "seed {seed}");
        let (net, transport) = (sliced.net.as_ref(), sliced.transport.as_ref());
        let peer = match net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum(), "seed {seed}");
                assert!(
                    header.dont_fragment && header.time_to_live == 64 && header.source == OUR_V4.octets()
                );
                IpAddr::from(header.destination)
            }
            Some(NetSlice::Ipv6(ip)) => {
                assert_eq!(ip.header().source_addr(), OUR_V6, "seed {seed}");
                IpAddr::from(ip.header().destination_addr())
            }
            Some(NetSlice::Arp(arp)) => {
                assert_eq!(arp.sender_protocol_addr(), OUR_V4.octets(), "seed {seed}");
                return self.saw("arp");
            }
            None => panic!("seed {seed}: neither IP nor ARP {bytes:02x?}"),
        };
        match transport {
            Some(TransportSlice::Tcp(tcp)) => {
                let sum = match net {
                    Some(NetSlice::Ipv4(ip)) => {
                        tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
                    }
                    Some(NetSlice::Ipv6(ip)) => {
                        tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
                    }
                    _ => unreachable!("TCP is over IP"),
                };
                assert_eq!(sum, Ok(tcp.checksum()), "seed {seed}: {bytes:02x?}");
                self.tcp_answer(SocketAddr::new(peer, tcp.destination_port()), tcp);
            }
            Some(TransportSlice::Icmpv4(icmp)) => {
                assert!(dataplane::wire::checksum::Sum::of(icmp.slice()).is_whole(), "seed {seed}");
                self.saw("echo");
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                let Some(NetSlice::Ipv6(ip)) = net else { panic!("seed {seed}: ICMPv6 over IPv4") };
                let (src, dst) = (ip.header().source(), ip.header().destination());
                assert!(icmp.is_checksum_valid(src, dst), "seed {seed}");
                self.saw(if icmp.type_u8() == 136 { "advertisement" } else { "echo6" });
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn tcp_answer(&mut self, peer: SocketAddr, tcp: &TcpSlice<'_>) {
        assert!(tcp.payload().is_empty(), "seed {}: data out of nowhere", self.seed);
        let (port, ack) = (tcp.source_port(), tcp.acknowledgment_number());
        if tcp.rst() {
            self.saw("rst");
            return;
        }
        assert!(tcp.ack(), "seed {}: neither ACK nor RST", self.seed);
        if tcp.syn() {
            self.saw("synack");
            assert!(self.acks.contains(&(peer, port, ack)), "seed {}: a SYN-ACK to no SYN", self.seed);
        } else {
            self.saw(if tcp.fin() { "fin" } else { "ack" });
        }
        let Some(conn) = self.conns.get_mut(&peer).filter(|conn| conn.dport == port) else { return };
        conn.ack = tcp.sequence_number().wrapping_add(u32::from(tcp.syn()) + u32::from(tcp.fin()));
        if let Some(TcpOptionElement::Timestamp(value, _)) =
            tcp.options_iterator().flatten().find(|option| matches!(option, TcpOptionElement::Timestamp(..)))
        {
            conn.timestamp = Some(value);
        }
        if tcp.syn() && conn.seq == ack && self.rng.chance(800) {
            let (conn, mut ack) = (*conn, Tcp::new(peer, port, flag::ACK, ack, 0));
            ack.ack = conn.ack;
            if let Some(echo) = conn.timestamp {
                let timestamp = TcpOptionElement::Timestamp(2, echo);
                ack.options = vec![TcpOptionElement::Noop, TcpOptionElement::Noop, timestamp];
            }
            self.send(&ack.frame());
        }
    }

    /// Closes everything, waits for every timer, and looks at what is left.
    fn end(mut self) -> HashMap<&'static str, u64> {
        while let Ok(accepted) = self.stack.accept(self.listeners[0]) {
            self.accepted.push(accepted.fd);
        }
        for fd in self.accepted.drain(..).chain(self.listeners) {
            self.stack.close(fd, true).expect("it is open");
        }
        for _ in 0..2_000 {
            self.turn();
            self.clock.advance(500_000_000);
        }
        let seed = self.seed;
        assert_eq!(self.worker.protocol_mut().in_use(), (0, 0), "seed {seed}: entries are left");
        let (stats, mut reporter) = (self.worker.stats(), Reporter::new([self.worker.mailbox()]));
        let counters = stats.snapshot();
        let io = self.worker.io(0);
        let faults = io.counts();
        assert_eq!(io.held(), 0, "seed {seed}");
        assert_eq!(counters.rx_frames, self.sent - faults.dropped + faults.repeated, "seed {seed}");
        assert_eq!(counters.tx_frames, self.received, "seed {seed}");
        assert!(!io.exhausted());
        self.worker.finish();
        assert_eq!(self.wire.free_buffers(), BUFFERS, "seed {seed}: a buffer is lost");
        let report = &reporter.snapshot(Duration::ZERO)[0];
        assert_eq!(report.counters, counters, "seed {seed}");
        for outcome in Outcome::ALL {
            assert_eq!(
                report.latency.of(outcome).len(),
                counters.outcome(outcome),
                "seed {seed} {outcome:?}"
            );
        }
        self.seen.insert("accept", counters.outcome(Outcome::Accept));
        self.seen
    }
}

fn run(seed: u64, frames: u64, rates: FaultRates, sysctl: Sysctl) -> HashMap<&'static str, u64> {
    let mut sim = Sim::new(seed, rates, sysctl);
    while sim.sent < frames {
        for _ in 0..=sim.rng.below(48) {
            sim.step();
        }
        sim.turn();
        let ns = [0, 1_000_000, 20_000_000, 300_000_000, 3_000_000_000][sim.rng.below(5)];
        sim.clock.advance(ns);
    }
    sim.end()
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs three seeds with a third of the frames each.
fn runs(rates: FaultRates, sysctl: &Sysctl) {
    let frames = from_env("HEARKEN_SIM_FRAMES", 100_000).div_ceil(3);
    let first = from_env("HEARKEN_SIM_SEED", 1);
    for seed in first..first + 3 {
        let seen = run(seed, frames, rates, sysctl.clone());
        // A simulation that reaches nothing proves nothing.
        for what in ["synack", "rst", "ack", "fin", "accept", "arp", "echo", "echo6", "advertisement"] {
            assert!(seen.get(what).copied().unwrap_or(0) > 10, "seed {seed}: hardly any {what}: {seen:?}");
        }
    }
}

#[test]
fn a_calm_wire() {
    runs(FaultRates::default(), &Sysctl::default());
}

#[test]
fn a_faulty_wire() {
    let rates = FaultRates { drop: 50, flip: 30, truncate: 20, repeat: 50, short_tx: 50, reject: 20 };
    runs(rates, &Sysctl::default());
}

#[test]
fn a_faulty_wire_with_cookies_only() {
    let rates = FaultRates { drop: 50, flip: 30, truncate: 20, repeat: 50, short_tx: 50, reject: 20 };
    runs(rates, &Sysctl { tcp_syncookies: 2, ..Sysctl::default() });
}
