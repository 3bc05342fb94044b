//! A worker makes no system call while it polls: it runs in a child under `strace`, between two marks.
//!
//! A mark is a look for a file that is not there, whose name strace shows. Between the marks nothing of the worker's thread
//! may stand in the trace, on memory and on files alike.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use dataplane::clock::RealClock;
use dataplane::io::mem::{Mem, MemConfig, MemFrame, MemPeer};
use dataplane::io::pcap::{Pcap, PcapConfig};
use dataplane::io::{Frame, PacketIo};
use dataplane::worker::{Port, Worker, WorkerConfig};
use listener::Stack;
use listener::core::Core;
use listener::limits::Limits;
use listener::segment::{Outcome, flag};
use listener::sysctl::Sysctl;
use listener::types::{CoreId, Then};
use pcap_file::pcap::{PcapPacket, PcapWriter};

mod common;
mod lab;

use common::{CLOSE, CLOSED, DISCARD, OUR_V4, QUEUE, Tcp, peer_addr};

/// Set in the child, to the folder that it may write to.
const CHILD: &str = "HEARKEN_UNDER_STRACE";
const TEST: &str = "a_worker_makes_no_system_call_while_it_polls";
const WINDOWS: [&str; 4] = ["idle", "syns", "acks", "files"];
const CONNECTIONS: u16 = 8;

#[test]
fn a_worker_makes_no_system_call_while_it_polls() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return child(Path::new(&dir));
    }
    let dir = tempfile::tempdir().expect("a folder");
    let trace = dir.path().join("trace");
    let strace = Command::new("strace")
        .args(["-f", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", TEST, "--nocapture"])
        .env(CHILD, dir.path())
        .output();
    let output = match strace {
        Ok(output) => output,
        Err(error) => return lab::skip(TEST, format!("strace: {error}; .ci/setup build test installs it")),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("PTRACE") && !output.status.success() {
        return lab::skip(TEST, said);
    }
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
    let trace = std::fs::read_to_string(&trace).expect("strace wrote it");
    for window in WINDOWS {
        let calls = calls_between(&trace, window);
        assert!(
            calls.is_empty(),
            "{window}: {} system calls: {:?}",
            calls.len(),
            &calls[..calls.len().min(5)]
        );
    }
    // The guard sees what it is there for.
    assert_eq!(calls_between(&trace, "a call").len(), 1, "{trace}");
}

/// What the thread that set `window`'s marks called between them.
fn calls_between<'t>(trace: &'t str, window: &str) -> Vec<&'t str> {
    let at = |edge: &str| {
        let mark = format!("/hearken {window} {edge}\"");
        trace.lines().position(|line| line.contains(&mark)).unwrap_or_else(|| panic!("no {mark} in {trace}"))
    };
    let (begin, end) = (at("begins"), at("ends"));
    let lines: Vec<&str> = trace.lines().collect();
    let own = |line: &&str| thread_of(line) == thread_of(lines[begin]);
    lines[begin + 1..end].iter().copied().filter(own).collect()
}

/// The thread's number, which begins a line.
fn thread_of(line: &str) -> Option<&str> {
    line.split_whitespace().next()
}

fn window<R>(name: &str, work: impl FnOnce() -> R) -> R {
    let (begins, ends) = (format!("/hearken {name} begins"), format!("/hearken {name} ends"));
    assert!(std::fs::metadata(&begins).is_err());
    let result = work();
    assert!(std::fs::metadata(&ends).is_err());
    result
}

fn worker<I: PacketIo>(io: I, then: &[(u16, Then)]) -> (Stack, Worker<I, Core>) {
    let (stack, core) = common::stack(Sysctl::default(), Limits::TINY);
    for &(port, then) in then {
        common::listen(&stack, port, 64, then);
    }
    let ports = vec![Port::new(io, common::DEV, common::local(), true)];
    (stack, Worker::new(WorkerConfig::new(CoreId(0)), core, ports))
}

fn child(dir: &Path) {
    window("a call", || std::fs::metadata("/hearken calls").is_err());
    in_memory();
    on_files(&dir.join("frames.pcap"));
}

fn in_memory() {
    let (io, wire) = Mem::new(MemConfig::default());
    let then = [(QUEUE, Then::Queue), (CLOSE, Then::Close), (DISCARD, Then::Discard)];
    let (_stack, mut worker) = worker(io, &then);
    let mut clock = RealClock::new(Instant::now());
    let mut answers = Vec::with_capacity(256);
    // What a thread sets up once.
    exchange(&mut worker, &wire, &mut clock, &syns(10_000), &mut answers);
    answers.clear();

    window("idle", || (0..10_000).for_each(|_| assert_eq!(worker.poll(&mut clock), 0)));
    let frames = syns(20_000);
    window("syns", || exchange(&mut worker, &wire, &mut clock, &frames, &mut answers));
    let acks = answers.iter().flat_map(finish).collect::<Vec<_>>();
    answers.clear();
    window("acks", || exchange(&mut worker, &wire, &mut clock, &acks, &mut answers));
    let counters = worker.stats().snapshot();
    assert_eq!(counters.outcome(Outcome::Accept), 3 * u64::from(CONNECTIONS));
    assert!(counters.outcome(Outcome::Rst) >= 2 * u64::from(CONNECTIONS));
    assert!(counters.outcome(Outcome::Other) >= 2 * u64::from(CONNECTIONS));
}

fn exchange(
    worker: &mut Worker<Mem, Core>,
    wire: &MemPeer,
    clock: &mut RealClock,
    frames: &[Vec<u8>],
    answers: &mut Vec<MemFrame>,
) {
    assert!(frames.iter().all(|frame| wire.send(frame)));
    while worker.poll(clock) > 0 {
        answers.extend(std::iter::from_fn(|| wire.recv()));
    }
}

/// SYNs to listeners and to a closed port, a ping and a request for our address.
fn syns(first: u16) -> Vec<Vec<u8>> {
    let clients = (first..first + CONNECTIONS).map(|port| SocketAddr::new(peer_addr(false, 1), port));
    let to = [QUEUE, CLOSE, DISCARD, CLOSED];
    let mut frames: Vec<_> =
        clients.flat_map(|peer| to.map(|dport| Tcp::new(peer, dport, flag::SYN, 1, 0).frame())).collect();
    frames.push(common::ping(peer_addr(false, 1), b"ping"));
    if let std::net::IpAddr::V4(peer) = peer_addr(false, 1) {
        frames.push(common::arp_request(peer, OUR_V4));
    }
    frames
}

/// What a peer says to a SYN-ACK: that it has it, and a little data.
fn finish(answer: &MemFrame) -> Vec<Vec<u8>> {
    let bytes = answer.bytes();
    if bytes[12..14] != [8, 0] || bytes[23] != 6 || bytes[47] != flag::SYN | flag::ACK {
        return Vec::new();
    }
    let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let peer = SocketAddr::new(peer_addr(false, 1), port(36));
    let mut ack = Tcp::new(peer, port(34), flag::ACK, word(42), word(38).wrapping_add(1));
    let bare = ack.frame();
    ack.payload = vec![1; 100];
    vec![bare, ack.frame()]
}

fn on_files(path: &Path) {
    let file = std::fs::File::create(path).expect("the folder is ours");
    let mut writer = PcapWriter::new(file).expect("a header");
    for frame in syns(30_000) {
        let packet = PcapPacket::new(std::time::Duration::ZERO, frame.len() as u32, &frame);
        writer.write_packet(&packet).expect("a frame");
    }
    drop(writer);
    let config = PcapConfig { rx: Some(path.to_owned()), looped: true, ..PcapConfig::default() };
    let (_stack, mut worker) =
        worker(Pcap::open(&config).expect("it was just written"), &[(QUEUE, Then::Queue)]);
    let mut clock = RealClock::new(Instant::now());
    worker.poll(&mut clock);
    let polled = window("files", || (0..1000).map(|_| worker.poll(&mut clock)).sum::<usize>());
    assert!(polled > 10_000, "{polled} frames");
}
