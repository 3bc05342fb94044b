//! A worker allocates nothing once it has begun.

use std::net::SocketAddr;

use dataplane::clock::RealClock;
use dataplane::io::Frame;
use dataplane::io::mem::{Mem, MemConfig, MemPeer};
use dataplane::worker::{Port, Worker, WorkerConfig};
use etherparse::TcpOptionElement;
use listener::core::Core;
use listener::limits::Limits;
use listener::segment::{Outcome, flag};
use listener::sysctl::Sysctl;
use listener::types::{CoreId, Then};

mod common;

use common::{CLOSE, CLOSED, DISCARD, OUR_V4, OUR_V6, RESET, Tcp, peer_addr};

/// One round of traffic of every kind, its connections on client ports from `first` on.
fn round(
    worker: &mut Worker<Mem, Core>,
    wire: &MemPeer,
    clock: &mut RealClock,
    requests: &[Vec<u8>],
) -> usize {
    let mut acks = Vec::new();
    for frame in requests {
        assert!(wire.send(frame));
    }
    let mut allocations = poll(worker, clock);
    while let Some(frame) = wire.recv() {
        let bytes = frame.bytes();
        let is_syn_ack = bytes[12..14] == [8, 0] && bytes[23] == 6 && bytes[47] == flag::SYN | flag::ACK;
        if is_syn_ack {
            let number =
                |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let peer = SocketAddr::from(([bytes[30], bytes[31], bytes[32], bytes[33]], port(36)));
            let mut ack = Tcp::new(peer, port(34), flag::ACK, number(42), number(38).wrapping_add(1));
            acks.push(ack.frame());
            ack.payload = vec![1; 100];
            acks.push(ack.frame());
            ack.payload.clear();
            (ack.flags, ack.seq) = (flag::ACK | flag::FIN, ack.seq.wrapping_add(100));
            acks.push(ack.frame());
        }
    }
    for frame in &acks {
        assert!(wire.send(frame));
    }
    allocations += poll(worker, clock);
    while wire.recv().is_some() {}
    allocations
}

/// Polls until nothing comes; returns the allocations that this made.
fn poll(worker: &mut Worker<Mem, Core>, clock: &mut RealClock) -> usize {
    let info = allocation_counter::measure(|| while worker.poll(clock) > 0 {});
    info.count_total as usize
}

fn requests(first: u16) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for port in first..first + 8 {
        let peer = SocketAddr::new(peer_addr(false, 1), port);
        for dport in [DISCARD, CLOSE, RESET, CLOSED] {
            let mut syn = Tcp::new(peer, dport, flag::SYN, 1, 0);
            syn.options = vec![TcpOptionElement::MaximumSegmentSize(1460)];
            frames.push(syn.frame());
        }
    }
    let IpPair { v4, v6 } = IpPair::default();
    frames.push(common::ping(v4.into(), b"ping"));
    frames.push(common::ping(v6.into(), b"ping"));
    frames.push(common::arp_request(v4, OUR_V4));
    frames.push(common::solicitation(v6, OUR_V6));
    frames.push(vec![0xee; 100]);
    frames.push(Tcp::new(SocketAddr::new(v6.into(), first), DISCARD, flag::SYN, 1, 0).frame());
    frames
}

struct IpPair {
    v4: std::net::Ipv4Addr,
    v6: std::net::Ipv6Addr,
}

impl Default for IpPair {
    fn default() -> Self {
        match (peer_addr(false, 1), peer_addr(true, 1)) {
            (std::net::IpAddr::V4(v4), std::net::IpAddr::V6(v6)) => Self { v4, v6 },
            _ => unreachable!("asked for one of each"),
        }
    }
}

#[test]
fn nothing_is_allocated_after_the_start() {
    let (stack, core) = common::stack(Sysctl::default(), Limits::TINY);
    for (port, then) in [(DISCARD, Then::Discard), (CLOSE, Then::Close), (RESET, Then::Reset)] {
        common::listen(&stack, port, 64, then);
    }
    let (io, wire) = Mem::new(MemConfig::default());
    let ports = vec![Port::new(io, common::DEV, common::local(), true)];
    let mut worker = Worker::new(WorkerConfig::new(CoreId(0)), core, ports);
    let mut clock = RealClock::begin();
    let stats = worker.stats();

    // The first turns may set up what a thread needs once.
    round(&mut worker, &wire, &mut clock, &requests(10_000));
    let before = stats.snapshot();
    let mut allocations = 0;
    for first in (20_000..20_800).step_by(8) {
        allocations += round(&mut worker, &wire, &mut clock, &requests(first));
    }
    let counters = stats.snapshot();
    let accepted = counters.outcome(Outcome::Accept) - before.outcome(Outcome::Accept);
    assert!(accepted >= 800, "the rounds made connections: {accepted}");
    assert!(counters.outcome(Outcome::Rst) > 800 && counters.dropped() > 90);
    assert_eq!(allocations, 0);
}
