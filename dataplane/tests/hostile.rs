//! Control clients that mean harm, against a whole hearken that has frames to answer: a thousand connections at once, garbage,
//! half lines, endless ones, answers that nobody reads. Whoever connects through it gets through, whoever asks as one should
//! is answered, and nothing is left behind.

#![cfg(feature = "dpdk")]

mod lab;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::control::client::Client;
use dataplane::control::proto::{Request, Ss, Stats, parse_request};
use lab::{Hearken, Wire, connect, skip};
use rustix::process::{Resource, getrlimit, setrlimit};

const DISCARD: u16 = 7001;
/// Nobody listens there.
const NOBODY: u16 = 7009;
/// A port that the well-behaved client opens and closes.
const OPENED: u16 = 7100;
const CROWD: usize = 1000;
const ENDLESS: usize = 100 << 20;
/// What goes into a line that nobody ends before it is cut off: what the server keeps, and the kernel's buffer.
const TAKEN_MAX: usize = 1 << 20;
/// What memory may grow by: 64 clients with a line, a read and a reply each, and what the allocator keeps of them.
const GROWTH_MAX_KIB: u64 = 48 * 1024;
const STATS: &[u8] = b"{\"v\":1,\"request\":\"stats\"}\n";

/// What was done, for the end of the test to wait for.
#[derive(Debug, Default)]
struct Done {
    stop: AtomicBool,
    crowds: AtomicU64,
    garbage: AtomicU64,
    endless: AtomicU64,
    unread: AtomicU64,
    connected: AtomicU64,
}

impl Done {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

fn open(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("the server takes connections");
    stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    stream
}

/// True once the server has closed it; reads what there is.
fn is_over(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0; 4096]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// A thousand at once: silent ones, half lines, and questions whose answers stay unread.
fn crowd(socket: &Path, done: &Done) {
    while done.goes_on() {
        let mut all = Vec::with_capacity(CROWD);
        for number in 0..CROWD {
            let mut stream = open(socket);
            // One that was sent away meanwhile takes nothing more.
            let _ = match number % 3 {
                0 => Ok(()),
                1 => stream.write_all(b"{\"v\":1,\"request\":\"st"),
                _ => stream.write_all(STATS),
            };
            all.push(stream);
            if !done.goes_on() {
                return;
            }
        }
        done.crowds.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is no request, line by line and without an end; each connection until the server has had enough.
fn garbage(socket: &Path, done: &Done) {
    let mut random = 7u64;
    let mut noise = vec![0u8; 32 * 1024];
    while done.goes_on() {
        for byte in &mut noise {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (random >> 56) as u8;
        }
        let mut stream = open(socket);
        while done.goes_on() && stream.write(&noise).is_ok() && !is_over(&mut stream) {
            done.garbage.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Lines of 100 MB, each to a server that has had enough of it soon.
fn endless(socket: &Path, done: &Done) {
    let piece = vec![b'x'; 64 * 1024];
    while done.goes_on() {
        let (mut stream, mut sent) = (open(socket), 0);
        while done.goes_on() && sent < ENDLESS {
            match stream.write(&piece) {
                Ok(count) => sent += count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => {
                    done.endless.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
        assert!(sent < TAKEN_MAX, "{sent} octets of one line were taken");
    }
}

/// Good questions by the thousand, and an octet of the answers now and then.
fn unread(socket: &Path, done: &Done) {
    let questions = STATS.repeat(1000);
    while done.goes_on() {
        let mut stream = open(socket);
        while done.goes_on() {
            match stream.write(&questions) {
                Ok(_) => {
                    done.unread.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
            let mut octet = [0];
            if stream.read(&mut octet).is_ok_and(|count| count == 0) {
                break;
            }
        }
    }
}

/// Linux's own clients, one after the other; each must get through.
fn traffic(done: &Done) {
    while done.goes_on() {
        let mut stream = connect(DISCARD).expect("a connection, whatever the control socket has to bear");
        stream.write_all(&[7; 1000]).expect("data is taken");
        let refused = connect(NOBODY).expect_err("nobody listens there");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        done.connected.fetch_add(1, Ordering::Relaxed);
    }
}

/// One who asks as one should: new connections, each with all its questions answered.
fn ask(socket: &Path) -> Stats {
    let mut client = Client::connect(socket).expect("the server takes connections");
    let stats: Stats = client.call(&Request::Stats {}).expect("stats");
    let addr = format!("{{\"v\":1,\"request\":\"listen\",\"addr\":\"198.18.0.1:{OPENED}\"}}");
    let listen = parse_request(addr.as_bytes()).expect("a request");
    let _: serde_json::Value = client.call(&listen).expect("listen");
    let ss: Ss = client.call(&Request::Ss { from: 0 }).expect("ss");
    assert_eq!(ss.listeners.len(), 2, "{ss:?}");
    let close = addr.replace("\"listen\"", "\"close\"");
    let close = parse_request(close.as_bytes()).expect("a request");
    let _: serde_json::Value = client.call(&close).expect("close");
    stats
}

/// Resident memory of process `pid` in KiB, and its open files.
fn held(pid: u32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    (kib, std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").count())
}

#[test]
fn neither_frames_nor_good_clients_wait_for_bad_ones() {
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => return skip("hostile control clients", error),
    };
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit })
        .expect("more open files");
    let mut hearken = Hearken::start(Path::new(env!("CARGO_BIN_EXE_hearken")), &wire.server, |socket| {
        lab::config(socket, "net_af_packet0,iface=hk0,qpairs=2", 2, &[(DISCARD, "discard")])
    })
    .expect("hearken starts on net_af_packet");
    let socket = hearken.socket().to_owned();
    // What is in use for the first time is no growth.
    let first = ask(&socket);
    let pid = hearken.pid().expect("it runs");
    let before = held(pid);
    let done = Done::default();
    let asked = thread::scope(|scope| {
        let bad: [fn(&Path, &Done); 4] = [crowd, garbage, endless, unread];
        for bad in bad {
            let (socket, done) = (&socket, &done);
            scope.spawn(move || bad(socket, done));
        }
        let clients = scope.spawn(|| wire.client.enter(|| traffic(&done)).expect("entered"));
        // For as long as each of them needs to have done its worst; a machine with other work takes longer.
        let (mut asked, begun) = (0, Instant::now());
        let enough = |asked: u64| {
            let reached = |counter: &AtomicU64, wanted| counter.load(Ordering::Relaxed) >= wanted;
            asked >= 12
                && reached(&done.connected, 100)
                && reached(&done.crowds, 2)
                && reached(&done.garbage, 20)
                && reached(&done.unread, 5)
                && reached(&done.endless, 5)
        };
        while !enough(asked) && !clients.is_finished() && begun.elapsed() < Duration::from_secs(300) {
            ask(&socket);
            asked += 1;
        }
        done.stop.store(true, Ordering::Relaxed);
        clients.join().expect("every client got through");
        assert!(enough(asked), "{asked} times asked in {:?}, {done:?}", begun.elapsed());
        asked
    });
    let stats = ask(&socket);
    let connected = done.connected.load(Ordering::Relaxed);
    eprintln!("{asked} times asked; {done:?}");
    for core in &stats.cores {
        let sum = core.outcomes.values().sum::<u64>() + core.drops.values().sum::<u64>();
        assert_eq!(core.rx_frames, sum, "frames in = answered + dropped: {core:?}");
    }
    let grown = |name: &str| stats.total.outcomes[name] - first.total.outcomes[name];
    assert!(grown("accept") >= connected && grown("rst") >= connected, "{:?}", stats.total);
    // Those who have left are forgotten, file by file.
    let begun = Instant::now();
    while held(pid).1 > before.1 {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{} files are open, not {}",
            held(pid).1,
            before.1
        );
        thread::sleep(Duration::from_millis(20));
    }
    let growth = held(pid).0.saturating_sub(before.0);
    assert!(growth <= GROWTH_MAX_KIB, "memory grew by {growth} KiB");
    let (status, said) = hearken.stop().expect("it ends");
    assert!(status.is_some_and(|status| status.success()), "{said}");
}
