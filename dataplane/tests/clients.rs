//! What clients see of hearken and what they see of Linux, beside each other: connections with options on and off,
//! nmap's scans, and a crowd in front of a small backlog.

#![cfg(feature = "dpdk")]

mod lab;
#[path = "parity/mod.rs"]
mod parity;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lab::{run, skip};
use parity::server::{SERVER_V4, SERVER_V6, Server, Setup, Then};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Polling workers want a core each.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const QUEUE: u16 = 7000;
const DISCARD: u16 = 7001;
const CLOSE: u16 = 7002;
const SMALL: u16 = 7003;
const BACKLOG: i32 = 5;

/// Linux and hearken with the same listeners and kernel clients; `None` (said aloud) without the right to make them.
fn both() -> Option<(Vec<Server>, MutexGuard<'static, ()>)> {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let setup = Setup::default()
        .listen(QUEUE, 4096, Then::Queue, 0)
        .listen(DISCARD, 4096, Then::Discard, 0)
        .listen(CLOSE, 4096, Then::Close, 0)
        .listen(SMALL, BACKLOG, Then::Queue, 0);
    let program = Path::new(env!("CARGO_BIN_EXE_hearken"));
    let servers: io::Result<Vec<_>> =
        [Server::kernel("Linux", &setup), Server::hearken(program, &setup)].into_iter().collect();
    match servers {
        Ok(servers) => {
            for server in &servers {
                server.wake_client().expect("the client takes addresses");
            }
            Some((servers, turn))
        }
        Err(error) => {
            skip("a test with kernel clients", error);
            None
        }
    }
}

/// What both answer must be the same; returns it.
fn same<R: PartialEq + std::fmt::Debug>(servers: &[Server], what: &str, ask: impl Fn(&Server) -> R) -> R {
    let linux = ask(&servers[0]);
    let hearken = ask(&servers[1]);
    assert_eq!(linux, hearken, "{what}: Linux on the left, hearken on the right");
    linux
}

/// The server as a client may name it.
fn targets() -> [IpAddr; 3] {
    [SERVER_V4.into(), SERVER_V6.into(), SERVER_V4.to_ipv6_mapped().into()]
}

/// A megabyte through a connection; what `ss` says about its options, once it is through.
fn transfer(server: &Server, target: IpAddr) -> BTreeSet<String> {
    let sent = server.client.enter(|| {
        let mut stream =
            TcpStream::connect_timeout(&SocketAddr::new(target, DISCARD), Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(&vec![7; 300_000])?;
        let mut ss = server.client.command("ss");
        let said = run(ss.args(["-tionH", &format!("dport = :{DISCARD}")]))?;
        stream.shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        io::Result::Ok((said, rest.len()))
    });
    let (said, rest) =
        sent.expect("entered").unwrap_or_else(|error| panic!("{}: {target}: {error}", server.name));
    assert_eq!(rest, 0);
    let agreed = |word: &&str| matches!(*word, "ts" | "sack" | "ecn") || word.starts_with("wscale:");
    said.split_whitespace().filter(agreed).map(Into::into).collect()
}

#[test]
fn options_on_and_off() {
    let Some((servers, _turn)) = both() else { return };
    let mut seen = BTreeSet::new();
    for bits in 0..8u8 {
        for server in &servers {
            let knobs = ["tcp_sack", "tcp_timestamps", "tcp_window_scaling"];
            server
                .client
                .enter(|| {
                    knobs.iter().enumerate().try_for_each(|(bit, knob)| {
                        let value = if bits & 1 << bit == 0 { "0" } else { "1" };
                        std::fs::write(Path::new("/proc/sys/net/ipv4").join(knob), value)
                    })
                })
                .expect("entered")
                .expect("sysctls can be set");
        }
        for target in targets() {
            seen.insert(same(&servers, &format!("options {bits:03b} to {target}"), |server| {
                transfer(server, target)
            }));
        }
    }
    assert!(seen.len() >= 6, "the sysctls made a difference: {seen:?}");
}

/// nmap's table of ports, a line each.
fn scan(server: &Server, kind: &str, target: IpAddr, ports: &str) -> Vec<String> {
    let mut nmap = server.client.command("nmap");
    nmap.args([kind, "-n", "-Pn", "-T5", "--max-retries", "2", "-p", ports]);
    if target.is_ipv6() {
        nmap.arg("-6");
    }
    let said = run(nmap.arg(target.to_string())).expect("nmap");
    let is_row =
        |line: &&str| line.contains("/tcp") || line.starts_with("Not shown") || line.starts_with("All ");
    said.lines().filter(is_row).map(Into::into).collect()
}

/// The whole range of ports with `HEARKEN_LONG` set.
#[test]
fn nmap_sees_the_same_ports() {
    let Some((servers, _turn)) = both() else { return };
    let long = std::env::var_os("HEARKEN_LONG").is_some();
    let ports = if long { "1-65535" } else { "6995-7010" };
    for target in [IpAddr::from(SERVER_V4), SERVER_V6.into()] {
        for kind in ["-sS", "-sA", "-sF", "-sN", "-sX"] {
            let rows =
                same(&servers, &format!("nmap {kind} {target}"), |server| scan(server, kind, target, ports));
            assert!(!rows.is_empty(), "nmap {kind} says nothing");
            let open = rows.iter().filter(|row| row.contains("open")).count();
            assert!(kind == "-sA" || open >= 4, "four listeners: {rows:?}");
        }
    }
}

/// A crowd that connects at once.
struct Crowd(Vec<TcpStream>);

impl Crowd {
    fn connect(server: &Server, port: u16, people: usize) -> Self {
        let start = || {
            let fd = rustix::net::socket_with(
                AddressFamily::INET,
                SocketType::STREAM,
                SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
                None,
            )?;
            match rustix::net::connect(&fd, &SocketAddr::new(SERVER_V4.into(), port)) {
                Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(fd)),
                Err(error) => Err(io::Error::from(error)),
            }
        };
        let streams = server.client.enter(|| (0..people).map(|_| start()).collect::<io::Result<_>>());
        Self(streams.expect("entered").expect("connect() begins"))
    }

    /// How many believe that they are connected.
    fn connected(&self) -> usize {
        self.0.iter().filter(|stream| stream.peer_addr().is_ok()).count()
    }

    /// How many were told that they are not welcome.
    fn refused(&self) -> usize {
        self.0.iter().filter(|stream| matches!(stream.take_error(), Ok(Some(_)) | Err(_))).count()
    }
}

fn wait_for(what: &str, patience: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A backlog of 5 holds six. The others hear nothing and try again after a second: then as many get in as were
/// accepted meanwhile.
///
/// The six come first: of SYNs that arrive before any final ACK, either server answers as many as there are.
#[test]
fn a_crowd_before_a_small_backlog() {
    let Some((servers, _turn)) = both() else { return };
    let holds = BACKLOG as u64 + 1;
    let seen = same(&servers, "a crowd", |server| {
        let overflows = || server.counters()["ListenOverflows"];
        let before = overflows();
        let first = Crowd::connect(server, SMALL, holds as usize);
        wait_for("the queue fills", Duration::from_secs(3), || server.recv_q(SMALL) == holds);
        let others = Crowd::connect(server, SMALL, 100 - holds as usize);
        wait_for("their SYNs are dropped", Duration::from_secs(3), || overflows() >= before + 100 - holds);
        let at_once = (first.connected(), first.refused(), others.connected(), others.refused());
        for _ in 0..3 {
            server.accept(SMALL);
        }
        wait_for("others get in with their second SYN", Duration::from_secs(4), || {
            server.recv_q(SMALL) == holds
        });
        (at_once, others.connected() >= 3, others.refused())
    });
    assert_eq!(seen, ((6, 0, 0, 0), true, 0));
}

/// An address of the other family's kind reaches the same listeners.
#[test]
fn mapped_addresses_are_ipv4() {
    let Some((servers, _turn)) = both() else { return };
    same(&servers, "a mapped address", |server| {
        let mapped: Ipv6Addr = SERVER_V4.to_ipv6_mapped();
        let stream = server.client.enter(|| TcpStream::connect(SocketAddr::new(mapped.into(), QUEUE)));
        let stream = stream.expect("entered").expect("it connects");
        wait_for("the child is queued", Duration::from_secs(3), || server.recv_q(QUEUE) == 1);
        stream.peer_addr().expect("connected")
    });
}
