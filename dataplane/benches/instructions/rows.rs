//! The bursts that are counted. A new row is a name and a function that makes its burst ready and executes it.

use std::net::SocketAddr;

use dataplane::clock::VirtualClock;
use dataplane::io::mem::{Mem, MemConfig, MemPeer};
use dataplane::worker::{Port, Worker, WorkerConfig};
use etherparse::TcpOptionElement;
use listener::Stack;
use listener::core::Core;
use listener::inet_hashtables::{HashKey, ListEntry, ListenHash, ListenKey};
use listener::limits::Limits;
use listener::segment::{FlowKey, Outcome, flag};
use listener::sysctl::Sysctl;
use listener::types::{CoreId, InetAddr, ListenerId, TcpPort, Then};

use crate::common::{self, CLOSED, QUEUE, Tcp};

/// Frames or keys of a burst.
const BURST: usize = 32;
/// Bursts before the one that is counted.
const WARM: u16 = 8;

/// A burst to count.
pub struct Row {
    /// As the file has it.
    pub name: &'static str,
    run: fn(),
}

/// All rows.
pub const ROWS: &[Row] = &[
    Row { name: "lookup/one", run: || lookup(1, Ask::Hits) },
    Row { name: "lookup/hits", run: || lookup(1024, Ask::Hits) },
    Row { name: "lookup/misses", run: || lookup(1024, Ask::Misses) },
    Row { name: "lookup/any", run: || lookup(1024, Ask::Any) },
    Row { name: "lookup/lists", run: || lookup(1024, Ask::Lists) },
    Row { name: "worker/cookies", run: cookies },
    Row { name: "worker/linux", run: linux },
    Row { name: "worker/requests", run: requests },
    Row { name: "worker/requests-reset", run: requests_reset },
    Row { name: "worker/handshakes", run: handshakes },
    Row { name: "worker/closed", run: closed },
    Row { name: "worker/idle", run: idle },
];

/// Executes the row of this name.
///
/// # Panics
/// If there is none.
pub fn run(name: &str) {
    let row = ROWS.iter().find(|row| row.name == name).expect("called with the name of a row");
    (row.run)();
}

/// What the keys of a burst meet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// A listener at the exact address.
    Hits,
    /// Nobody.
    Misses,
    /// The listener at the any-address.
    Any,
    /// A key with more than one listener.
    Lists,
}

/// Callgrind counts from here to the end, see the name it is given in `count`.
#[inline(never)]
fn counted_lookup(table: &ListenHash, keys: &[ListenKey], found: &mut [Option<ListenerId>]) {
    table.inet_lookup_listener_burst(&table.pin(), keys, found);
}

fn lookup(listeners: u32, ask: Ask) {
    const NET: u32 = 0xc612_0000;
    const PORT: TcpPort = TcpPort(80);
    let table = ListenHash::new(1 << 12, *b"the guard's keys");
    let open = |addr, port, id| {
        let opened = table.update(HashKey::new(addr, port), |list| {
            list.inet_hash(ListEntry::v4(ListenerId(id)))?;
            if ask == Ask::Lists {
                list.inet_hash(ListEntry::v4(ListenerId(listeners + 1 + id)))
            } else {
                Ok(())
            }
        });
        assert!(matches!(opened, Ok(Ok(()))), "there is room");
    };
    for id in 0..listeners {
        open(InetAddr::v4(NET + id), PORT, id);
    }
    open(InetAddr::ANY_V4, TcpPort(81), listeners);
    let keys: [ListenKey; BURST] = std::array::from_fn(|lane| {
        let number = (lane as u32 * 37) % listeners;
        let (addr, dport) = match ask {
            Ask::Hits | Ask::Lists => (NET + number, PORT),
            Ask::Misses => (NET + number, TcpPort(82)),
            Ask::Any => (NET + number, TcpPort(81)),
        };
        let flow = FlowKey {
            saddr: InetAddr::v4(NET + 0x1_0000),
            daddr: InetAddr::v4(addr),
            sport: TcpPort(1024 + lane as u16),
            dport,
        };
        ListenKey { flow, ..ListenKey::default() }
    });
    let mut found = [None; BURST];
    // Guards are set up at the first pin.
    drop(table.pin());
    counted_lookup(&table, &keys, &mut found);
    assert_eq!(found.iter().flatten().count(), if ask == Ask::Misses { 0 } else { BURST });
}

/// A worker on a wire in memory.
struct Wire {
    worker: Worker<Mem, Core>,
    peer: MemPeer,
    clock: VirtualClock,
    _stack: Stack,
}

#[inline(never)]
fn counted_poll(worker: &mut Worker<Mem, Core>, clock: &mut VirtualClock) -> usize {
    worker.poll(clock)
}

impl Wire {
    fn new(syncookies: u8) -> Self {
        let sysctl = Sysctl { tcp_syncookies: syncookies, ..Sysctl::default() };
        let limits =
            Limits { listeners_max: 1 << 8, requests_per_core: 1 << 12, connections_per_core: 1 << 12 };
        let (stack, core) = common::stack(sysctl, limits);
        common::listen(&stack, QUEUE, 4096, Then::Queue);
        let (io, peer) = Mem::new(MemConfig::default());
        let port = Port::new(io, common::DEV, common::local(), false);
        let worker = Worker::new(WorkerConfig::new(CoreId(0)), core, vec![port]);
        Self { worker, peer, clock: VirtualClock::default(), _stack: stack }
    }

    /// Hands a burst to the worker and returns the answers. The last burst is the one that is counted.
    fn burst(&mut self, frames: &[Vec<u8>], counted: bool) -> Vec<Vec<u8>> {
        self.clock.advance(100_000);
        assert!(frames.iter().all(|frame| self.peer.send(frame)), "the wire has room");
        let received = if counted {
            counted_poll(&mut self.worker, &mut self.clock)
        } else {
            self.worker.poll(&mut self.clock)
        };
        assert_eq!(received, frames.len());
        std::iter::from_fn(|| self.peer.recv())
            .map(|frame| dataplane::io::Frame::bytes(&frame).to_vec())
            .collect()
    }

    fn counts(&self, outcome: Outcome) -> u64 {
        self.worker.stats().snapshot().outcome(outcome)
    }
}

/// An MSS, and all options that Linux's SYNs have.
fn options(all: bool) -> Vec<TcpOptionElement> {
    let mss = TcpOptionElement::MaximumSegmentSize(1460);
    if !all {
        return vec![mss];
    }
    let sack = TcpOptionElement::SelectiveAcknowledgementPermitted;
    let timestamps = TcpOptionElement::Timestamp(7, 0);
    vec![mss, sack, timestamps, TcpOptionElement::Noop, TcpOptionElement::WindowScale(7)]
}

fn syns(burst: u16, dport: u16, all_options: bool) -> Vec<Vec<u8>> {
    let from = 1024 + burst * BURST as u16;
    let syn = |sport| {
        let mut syn =
            Tcp::new(SocketAddr::new(common::peer_addr(false, 1), sport), dport, flag::SYN, 1000, 0);
        syn.options = options(all_options);
        syn.frame()
    };
    (from..from + BURST as u16).map(syn).collect()
}

/// Bursts of SYNs to `dport`, of which the last is counted; checks that each was answered as `outcome`.
fn syn_bursts(syncookies: u8, dport: u16, all_options: bool, outcome: Outcome) {
    let mut wire = Wire::new(syncookies);
    for burst in 0..=WARM {
        wire.burst(&syns(burst, dport, all_options), burst == WARM);
    }
    assert_eq!(wire.counts(outcome), (u64::from(WARM) + 1) * BURST as u64);
}

fn cookies() {
    syn_bursts(2, QUEUE, false, Outcome::SynAck);
}

fn linux() {
    syn_bursts(2, QUEUE, true, Outcome::SynAck);
}

fn requests() {
    syn_bursts(1, QUEUE, false, Outcome::SynAck);
}

fn closed() {
    syn_bursts(1, CLOSED, false, Outcome::Rst);
}

/// What the peer says to a SYN-ACK.
fn reply(syn_ack: &[u8], flags: u8) -> Vec<u8> {
    let word =
        |at: usize| u32::from_be_bytes([syn_ack[at], syn_ack[at + 1], syn_ack[at + 2], syn_ack[at + 3]]);
    let port = u16::from_be_bytes([syn_ack[36], syn_ack[37]]);
    let peer = SocketAddr::new(common::peer_addr(false, 1), port);
    Tcp::new(peer, QUEUE, flags, word(42), word(38).wrapping_add(1)).frame()
}

/// Bursts that answer the SYN-ACKs of a burst before them; returns the wire.
fn answer_bursts(flags: u8) -> Wire {
    let mut wire = Wire::new(1);
    for burst in 0..=WARM {
        let syn_acks = wire.burst(&syns(burst, QUEUE, false), false);
        let answers: Vec<_> = syn_acks.iter().map(|syn_ack| reply(syn_ack, flags)).collect();
        assert_eq!(answers.len(), BURST);
        wire.burst(&answers, burst == WARM);
    }
    wire
}

fn requests_reset() {
    let wire = answer_bursts(flag::RST);
    assert_eq!(wire.counts(Outcome::Accept), 0);
}

fn handshakes() {
    let wire = answer_bursts(flag::ACK);
    assert_eq!(wire.counts(Outcome::Accept), (u64::from(WARM) + 1) * BURST as u64);
}

fn idle() {
    let mut wire = Wire::new(1);
    for turn in 0..=WARM {
        wire.burst(&[], turn == WARM);
    }
}
