//! The whole on a wire: hearken on a real DPDK driver, Linux's own TCP as the client, in namespaces made for it.
//!
//! Each test lays its wire, so they need root (or the rights to make namespaces and devices) and say so aloud
//! when they have none.

#![cfg(feature = "dpdk")]

mod lab;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lab::{CLIENT, Hearken, Namespace, SERVER, Wire, connect, run, skip};
use serde_json::Value;

/// Polling workers want a core each: one wire at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const QUEUE: u16 = 7000;
const DISCARD: u16 = 9;
const CLOSE: u16 = 7001;
const RESET: u16 = 7002;
const NOBODY: u16 = 7009;

const LISTENERS: [(u16, &str); 4] =
    [(QUEUE, "queue"), (DISCARD, "discard"), (CLOSE, "close"), (RESET, "reset")];

const SEQUENTIAL: usize = 10_000;
const CONCURRENT: usize = 200;
const MEGABYTE: usize = 1_000_000;

/// A running hearken and the namespace its clients live in.
struct Bench {
    hearken: Hearken,
    client: Namespace,
    _server: Option<Namespace>,
    _turn: MutexGuard<'static, ()>,
}

fn hearken_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_hearken"))
}

fn my_turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// hearken on one end of a veth pair, through `net_af_packet`; `None` (said aloud) without the right to lay it.
fn on_af_packet(workers: usize) -> Option<Bench> {
    let turn = my_turn();
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => {
            skip("a test on net_af_packet", error);
            return None;
        }
    };
    let device = format!("net_af_packet0,iface=hk0,qpairs={workers}");
    let hearken = Hearken::start(hearken_program(), &wire.server, |socket| {
        lab::config(socket, &device, workers, &LISTENERS)
    })
    .expect("hearken starts on net_af_packet");
    Some(Bench { hearken, client: wire.client, _server: Some(wire.server), _turn: turn })
}

/// hearken on a tap device whose other end is the kernel of the same namespace; `idle` is what its workers do then.
fn on_tap(workers: usize, idle: &str) -> Option<Bench> {
    let turn = my_turn();
    if !Path::new("/dev/net/tun").exists() {
        skip("a test on net_tap", "there is no /dev/net/tun");
        return None;
    }
    let namespace = match Namespace::new() {
        Ok(namespace) => namespace,
        Err(error) => {
            skip("a test on net_tap", error);
            return None;
        }
    };
    let hearken = Hearken::start(hearken_program(), &namespace, |socket| {
        let text = lab::config(socket, "net_tap0,iface=hk0", workers, &LISTENERS);
        text.replace("[workers]\n", &format!("[workers]\nidle = \"{idle}\"\n"))
    })
    .expect("hearken starts on net_tap");
    namespace.no_offloads("hk0").expect("the tap's offloads can be turned off");
    namespace.ip(&format!("addr add {CLIENT}/24 dev hk0")).expect("the tap takes an address");
    namespace.ip("link set hk0 up").expect("the tap goes up");
    Some(Bench { hearken, client: namespace, _server: None, _turn: turn })
}

#[test]
fn af_packet_with_one_worker() {
    whole_life(on_af_packet(1));
}

#[test]
fn af_packet_with_two_workers() {
    whole_life(on_af_packet(2));
}

#[test]
fn tap_with_one_worker() {
    whole_life(on_tap(1, "auto"));
}

#[test]
fn tap_with_two_workers() {
    whole_life(on_tap(2, "auto"));
}

/// A worker that sleeps hardly turns while nothing comes, and is there at once when something does.
#[test]
fn tap_with_a_worker_that_sleeps() {
    let Some(bench) = on_tap(1, "interrupt") else { return };
    let idle =
        |name: &str| bench.hearken.json("stats").expect("stats")["total"][name].as_u64().expect("a number");
    let (turns, slept) = (idle("turns_idle"), idle("idle_ns"));
    std::thread::sleep(Duration::from_millis(500));
    let (turns, slept) = (idle("turns_idle") - turns, idle("idle_ns") - slept);
    assert!(slept > 200_000_000 && turns < 20_000, "{turns} turns in {slept} ns: it does not sleep");
    whole_life(Some(bench));
}

/// All that a user would try, in one life of the server; then its books have to balance.
fn whole_life(bench: Option<Bench>) {
    let Some(mut bench) = bench else { return };
    ping(&bench);
    sequential(&bench);
    concurrent(&bench);
    refused(&bench);
    discard_takes_a_megabyte(&bench);
    close_and_reset(&bench);
    recv_q_grows_and_accept_empties_it(&bench);
    listeners_come_and_go(&bench);
    tools_of_others(&bench);
    books_balance(
        &bench.hearken.json("stats").expect("stats"),
        &bench.hearken.json("latency").expect("latency"),
    );
    let (status, said) = bench.hearken.stop().expect("hearken ends");
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{said}");
    assert!(said.contains("p99.99"), "the last report has the histograms:\n{said}");
    assert!(!said.contains("panic"), "{said}");
}

fn ping(bench: &Bench) {
    let mut ping = bench.client.command("ping");
    let said =
        run(ping.args(["-c", "5", "-i", "0.01", "-W", "5", &SERVER.to_string()])).expect("ping is answered");
    assert!(said.contains("5 received"), "{said}");
}

fn sequential(bench: &Bench) {
    let failed =
        bench.client.enter(|| (0..SEQUENTIAL).find_map(|n| connect(CLOSE).err().map(|error| (n, error))));
    assert!(matches!(failed, Ok(None)), "a connection failed: {failed:?}");
}

fn concurrent(bench: &Bench) {
    let streams = bench.client.enter(|| {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..CONCURRENT).map(|_| scope.spawn(|| connect(DISCARD))).collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).collect::<io::Result<Vec<_>>>()
        })
    });
    let streams = streams.expect("the namespace can be entered").expect("all connect");
    assert_eq!(streams.len(), CONCURRENT);
    for mut stream in streams {
        stream.write_all(b"hello").expect("it takes data");
        finish(&mut stream).expect("it closes without an error");
    }
}

/// Sends our FIN and waits for the peer's.
fn finish(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    if rest.is_empty() { Ok(()) } else { Err(io::Error::other(format!("{} octets came back", rest.len()))) }
}

fn refused(bench: &Bench) {
    let error = bench.client.enter(|| connect(NOBODY).map(drop)).expect("the namespace can be entered");
    assert_eq!(error.expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
}

fn discard_takes_a_megabyte(bench: &Bench) {
    let before = discarded_octets(bench);
    let sent = bench.client.enter(|| {
        let mut stream = connect(DISCARD)?;
        stream.write_all(&vec![0x5a; MEGABYTE])?;
        // Its FIN answers ours, and ours comes after the last octet: an end of stream means all arrived in order.
        finish(&mut stream)
    });
    sent.expect("the namespace can be entered").expect("a megabyte arrives whole");
    assert_eq!(discarded_octets(bench) - before, MEGABYTE as u64);
}

fn discarded_octets(bench: &Bench) -> u64 {
    let stats = bench.hearken.json("stats").expect("stats");
    number(&stats["total"]["snmp"], "DiscardedOctets")
}

fn close_and_reset(bench: &Bench) {
    let (closed, reset) = bench
        .client
        .enter(|| {
            let closed = connect(CLOSE).and_then(|mut stream| finish(&mut stream));
            let reset = connect(RESET).and_then(|mut stream| stream.read(&mut [0; 1]));
            (closed, reset)
        })
        .expect("the namespace can be entered");
    closed.expect("a FIN at once is an end of stream");
    assert_eq!(reset.expect_err("a RST at once").kind(), io::ErrorKind::ConnectionReset);
}

fn recv_q(bench: &Bench, port: u16) -> u64 {
    let table = bench.hearken.json("ss").expect("ss");
    let rows = table["listeners"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["local"] == format!("{SERVER}:{port}")).expect("the listener's row");
    row["recv_q"].as_u64().expect("a number")
}

/// Waits until `value` is `wanted`; the final ACK may still be on its way when connect() has returned.
fn eventually(what: &str, wanted: u64, mut value: impl FnMut() -> u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while value() != wanted {
        assert!(Instant::now() < deadline, "{what}: wanted {wanted}, found {}", value());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn recv_q_grows_and_accept_empties_it(bench: &Bench) {
    assert_eq!(recv_q(bench, QUEUE), 0);
    let mut streams = Vec::new();
    for waiting in 1..=3 {
        streams.push(bench.client.enter(|| connect(QUEUE)).expect("entered").expect("connects"));
        eventually("Recv-Q", waiting, || recv_q(bench, QUEUE));
    }
    let local = streams[0].local_addr().expect("a bound socket").to_string();
    let said = bench.hearken.ctl(&format!("accept {SERVER}:{QUEUE}")).expect("accept");
    assert!(said.contains(&local), "first come, first served: {local} in {said}");
    assert_eq!(recv_q(bench, QUEUE), 2);
    finish(&mut streams[0]).expect("an accepted connection closes cleanly");
}

fn listeners_come_and_go(bench: &Bench) {
    let port = 7100;
    let try_connect = || bench.client.enter(|| connect(port).map(drop)).expect("entered");
    assert!(try_connect().is_err(), "nobody listens yet");
    bench.hearken.ctl(&format!("listen {SERVER}:{port} --backlog 16 --then close")).expect("listen");
    try_connect().expect("it listens at once");
    let again = bench.hearken.ctl(&format!("listen {SERVER}:{port}")).expect_err("the port is taken");
    assert!(again.to_string().contains("EADDRINUSE"), "{again}");
    bench.hearken.ctl(&format!("close {SERVER}:{port}")).expect("close");
    assert_eq!(try_connect().expect_err("closed at once").kind(), io::ErrorKind::ConnectionRefused);
}

/// What others would point at it: netcat and curl.
fn tools_of_others(bench: &Bench) {
    let in_client = |program: &str, args: &[&str]| {
        let mut command: Command = bench.client.command(program);
        command.args(args).stdin(std::process::Stdio::null());
        command.output().unwrap_or_else(|error| panic!("{program}: {error}"))
    };
    let (server, discard) = (SERVER.to_string(), DISCARD.to_string());
    let nc = in_client("nc", &["-z", "-v", "-w", "5", &server, &discard]);
    assert!(nc.status.success(), "{nc:?}");
    // A server that closes at once has sent no HTTP: curl calls that an empty reply (52).
    let curl = in_client("curl", &["-sS", "--max-time", "10", &format!("http://{SERVER}:{CLOSE}/")]);
    assert!(matches!(curl.status.code(), Some(52 | 56)), "{curl:?}");
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} is a number in {value}"))
}

fn sum(object: &Value) -> u64 {
    object
        .as_object()
        .expect("an object of counters")
        .values()
        .map(|count| count.as_u64().expect("a count"))
        .sum()
}

/// Frames in = answered + dropped by name on each core, and each histogram holds as many records as its counter.
fn books_balance(stats: &Value, latency: &Value) {
    let cores = stats["cores"].as_array().expect("cores");
    assert!(!cores.is_empty());
    for core in cores {
        let (outcomes, drops) = (sum(&core["outcomes"]), sum(&core["drops"]));
        assert_eq!(number(core, "rx_frames"), outcomes + drops, "{core}");
    }
    assert!(number(&stats["total"], "rx_frames") > SEQUENTIAL as u64 * 3);
    for core in latency["cores"].as_array().expect("cores") {
        for outcome in core["outcomes"].as_array().expect("outcomes") {
            assert_eq!(number(outcome, "count"), number(outcome, "frames"), "{core}");
        }
    }
}
