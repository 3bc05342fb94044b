//! A flood of SYNs from forged addresses, as fast as a raw socket sends them, while ordinary clients connect: each of
//! them gets in within its first second, memory does not grow, and the counters add up afterwards.
//!
//! `HEARKEN_FLOOD_SECS` makes it last longer than its 4 seconds.

#![cfg(feature = "dpdk")]

mod lab;
#[path = "parity/mod.rs"]
mod parity;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::{Hearken, run, skip};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use parity::frame::{self, Ip, Link, SYN, Tcp, option};
use parity::server::{SERVER_V4, Server, Setup, Then};
use serde_json::Value;

const PORT: u16 = 7002;
const BACKLOG: i32 = 128;
/// Forged SYNs that are sent over and over.
const FORGED: u32 = 1 << 15;
/// What memory may grow by once everything was in use: pages of the process around the packet path.
const GROWTH_MAX_KIB: u64 = 4096;

/// Leaves the last core, on which hearken polls, to it alone; threads that this one starts do the same.
fn stay_off_the_workers_core() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut others = CpuSet::new();
    for core in 0..cores.max(2) - 1 {
        others.set(core).expect("a core of this machine");
    }
    if let Err(error) = sched_setaffinity(Pid::from_raw(0), &others) {
        eprintln!("cannot leave a core to hearken: {error}");
    }
}

/// SYNs from all over 198.18.128.0/17.
fn forged(server: &Server) -> Vec<Vec<u8>> {
    let link = Link { src: server.wire.mac(), dst: server.mac, ethertype: None, padding: 0, cut: 0 };
    let base = u32::from(Ipv4Addr::new(198, 18, 128, 0));
    let syn = |n: u32| {
        let ip = Ip::new(IpAddr::V4(Ipv4Addr::from(base | n & 0x7fff)), SERVER_V4.into(), frame::TCP);
        let options = if n.is_multiple_of(2) { option::all(n) } else { option::mss(1460) };
        let sport = 1024 + (n.wrapping_mul(2_654_435_761) >> 17) as u16;
        let seq = n.wrapping_mul(40_503);
        let tcp = Tcp { sport, dport: PORT, seq, flags: SYN, window: 64_240, options, ..Tcp::default() };
        frame::frame(&link, &ip, &frame::segment(&ip, &tcp))
    };
    (0..FORGED).map(syn).collect()
}

/// Sends until `stop`; the number of frames that the wire took.
fn flood(server: &Server, frames: &[Vec<u8>], stop: &AtomicBool) -> u64 {
    let mut sent = 0;
    for octets in frames.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // A full queue of the device is no reason to stop.
        sent += u64::from(server.wire.send(octets).is_ok());
    }
    sent
}

/// Connects every 10 ms until `until`; how long each took.
fn clients(server: &Server, until: Instant) -> io::Result<Vec<Duration>> {
    server.client.enter(|| {
        let mut times = Vec::new();
        while Instant::now() < until {
            let start = Instant::now();
            let stream = TcpStream::connect_timeout(
                &SocketAddr::new(SERVER_V4.into(), PORT),
                Duration::from_secs(10),
            )?;
            times.push(start.elapsed());
            drop(stream);
            std::thread::sleep(Duration::from_millis(10).saturating_sub(start.elapsed()));
        }
        Ok(times)
    })?
}

/// hearken's process.
fn pid_of(server: &Server) -> String {
    let pids = lab::ip(&format!("netns pids {}", server.namespace.name())).expect("the processes");
    pids.split_whitespace().next().expect("hearken runs there").into()
}

/// Puts hearken before whatever else runs on this machine: its worker is made for a core of its own.
fn prefer(pid: &str) -> io::Result<()> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        run(Command::new("renice").args(["-n", "-20", "-p"]).arg(thread?.file_name()))?;
    }
    Ok(())
}

/// Resident memory of the server in KiB.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid_of(server))).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

fn set_timestamps(server: &Server, on: bool) {
    let value = if on { "1" } else { "0" };
    let written = server.client.enter(|| std::fs::write("/proc/sys/net/ipv4/tcp_timestamps", value));
    written.expect("entered").expect("the sysctl can be set");
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} is a number in {value}"))
}

fn sum(object: &Value) -> u64 {
    object.as_object().expect("counters").values().map(|count| count.as_u64().expect("a count")).sum()
}

/// The counters, once nothing moves any more.
fn settled(hearken: &Hearken) -> Value {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut last = hearken.json("stats").expect("stats");
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let now = hearken.json("stats").expect("stats");
        if now["total"]["rx_frames"] == last["total"]["rx_frames"] {
            return now;
        }
        assert!(Instant::now() < deadline, "frames keep coming: {now}");
        last = now;
    }
}

#[test]
fn clients_get_in_during_a_flood() {
    let mut setup = Setup::default().listen(PORT, BACKLOG, Then::Close, 0);
    // What the wire loses is no fault of the server's: room for the time in which another program has its core.
    setup.device_options = ",framecnt=65536";
    let program = Path::new(env!("CARGO_BIN_EXE_hearken"));
    let mut server = match Server::hearken(program, &setup) {
        Ok(server) => server,
        Err(error) => return skip("a flood", error),
    };
    server.wake_client().expect("the client takes addresses");
    stay_off_the_workers_core();
    prefer(&pid_of(&server)).expect("renice");
    let secs = std::env::var("HEARKEN_FLOOD_SECS").ok().and_then(|secs| secs.parse().ok()).unwrap_or(4);
    let frames = forged(&server);
    let stop = AtomicBool::new(false);
    let (sent, times, growth) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| flood(&server, &frames, &stop));
        // What is in use for the first time is no growth: buffers, tables, the ports of the first clients.
        let mut times = clients(&server, Instant::now() + Duration::from_secs(1)).expect("clients connect");
        let before = resident(&server);
        for timestamps in [true, false] {
            set_timestamps(&server, timestamps);
            let until = Instant::now() + Duration::from_secs(secs) / 2;
            times.extend(clients(&server, until).expect("clients connect"));
        }
        let growth = resident(&server).saturating_sub(before);
        stop.store(true, Ordering::Relaxed);
        (sender.join().expect("the flood does not panic"), times, growth)
    });
    let slowest = times.iter().max().expect("clients");
    eprintln!("{sent} forged SYNs, {} clients, the slowest in {slowest:?}, {growth} KiB more", times.len());
    assert!(*slowest < Duration::from_secs(1), "a client had to send its SYN again: {slowest:?}");
    assert!(growth <= GROWTH_MAX_KIB, "memory grew by {growth} KiB");
    let hearken = server.hearken.as_ref().expect("it runs");
    balance(&settled(hearken), times.len() as u64);
    let filtered = run(server.client.command("ss").args(["-tanH", "state", "syn-sent"])).expect("ss");
    assert!(filtered.is_empty(), "nobody is left waiting: {filtered}");
    let (_, said) = server.hearken.take().expect("it runs").stop().expect("it ends");
    assert_eq!(said.matches("possible SYN flooding").count(), 1, "once for the listener: {said}");
}

/// What came in was answered or dropped by name; what was answered by a SYN-ACK had a cookie or a request.
fn balance(stats: &Value, clients: u64) {
    for core in stats["cores"].as_array().expect("cores") {
        assert_eq!(number(core, "rx_frames"), sum(&core["outcomes"]) + sum(&core["drops"]), "{core}");
    }
    let total = &stats["total"];
    let snmp = |name| number(&total["snmp"], name);
    let synacks = number(&total["outcomes"], "synack");
    assert!(snmp("SyncookiesSent") > 1000, "the flood was one: {total}");
    assert_eq!(snmp("SyncookiesSent"), snmp("TCPReqQFullDoCookies"), "{total}");
    assert_eq!(snmp("PassiveOpens"), clients, "{total}");
    // A request is answered when it is made and whenever its SYN comes again; requests leave the queue by a final ACK
    // or at their last timeout, so there cannot be many.
    let repeated = snmp("TCPSynRetrans");
    let requests = synacks - snmp("SyncookiesSent");
    let room = BACKLOG as u64 + 1 + clients + repeated;
    assert!(requests <= room, "{requests} SYN-ACKs for requests, room for {room}: {total}");
    assert_eq!(snmp("SyncookiesFailed"), 0, "{total}");
}
