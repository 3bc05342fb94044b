//! Changes under traffic: the configuration read again, and the end of a server that has connections, with Linux's own
//! TCP as the client.

#![cfg(feature = "dpdk")]

mod lab;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lab::{Hearken, Namespace, SERVER, Wire, connect, skip};

/// Polling workers want a core each: one wire at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const CLOSE: u16 = 7001;
const DISCARD: u16 = 9;
/// A listener that comes and goes.
const SOMETIMES: u16 = 7003;

struct Bench {
    hearken: Hearken,
    client: Namespace,
    _server: Namespace,
    _turn: MutexGuard<'static, ()>,
}

/// hearken on a veth pair, with `[control]` keys `control`; `None` (said aloud) without the right to lay it.
fn bench(control: &str) -> Option<Bench> {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => {
            skip("a change under traffic", error);
            return None;
        }
    };
    let hearken = Hearken::start(Path::new(env!("CARGO_BIN_EXE_hearken")), &wire.server, |socket| {
        let listeners = [(CLOSE, "close"), (DISCARD, "discard")];
        let text = lab::config(socket, "net_af_packet0,iface=hk0,qpairs=1", 1, &listeners);
        text.replace("[control]\n", &format!("[control]\n{control}\n"))
    });
    let hearken = hearken.expect("hearken starts on net_af_packet");
    Some(Bench { hearken, client: wire.client, _server: wire.server, _turn: turn })
}

/// A whole connection: handshake, and the server's FIN.
fn whole_connection() -> io::Result<()> {
    let mut stream = connect(CLOSE)?;
    let got = stream.read(&mut [0; 16])?;
    assert_eq!(got, 0, "a FIN at once is an end of stream");
    Ok(())
}

/// The configuration with `rest` behind it.
fn write_config(bench: &Bench, original: &str, rest: &str) {
    fs::write(bench.hearken.file(), format!("{original}{rest}")).expect("a file");
}

fn open_listeners(bench: &Bench) -> usize {
    let ss = bench.hearken.json("ss").expect("ss");
    ss["listeners"].as_array().expect("rows").len()
}

#[test]
fn no_connection_is_lost_while_the_configuration_changes() {
    let Some(bench) = bench("") else { return };
    let original = fs::read_to_string(bench.hearken.file()).expect("a file");
    let (stop, done) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            bench.client.enter(|| {
                while !stop.load(Ordering::Relaxed) {
                    whole_connection()?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                io::Result::Ok(())
            })
        });
        let mut kept = bench.client.enter(|| connect(DISCARD)).expect("entered").expect("connects");
        let extra = format!(
            "[sysctl]\nsomaxconn = 64\ntcp_timestamps = 0\n[[listener]]\naddr = \"{SERVER}:{SOMETIMES}\"\n"
        );
        for round in 0..10 {
            let before = done.load(Ordering::Relaxed);
            let rest = if round % 2 == 0 { extra.as_str() } else { "" };
            write_config(&bench, &original, rest);
            if round < 6 {
                let said = bench.hearken.ctl("reload").expect("reload");
                let sign = if round % 2 == 0 { '+' } else { '-' };
                assert!(said.contains(&format!("{sign} listener {SERVER}:{SOMETIMES}")), "{said}");
                assert!(said.contains("~ sysctl.tcp_timestamps: "), "{said}");
            } else {
                bench.hearken.signal("HUP").expect("it runs");
            }
            let wanted = if rest.is_empty() { 2 } else { 3 };
            let deadline = Instant::now() + Duration::from_secs(10);
            while open_listeners(&bench) != wanted || done.load(Ordering::Relaxed) < before + 20 {
                assert!(Instant::now() < deadline, "round {round}: {} listeners", open_listeners(&bench));
                assert!(!client.is_finished(), "a connection failed");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // A file that is wrong: why, on which line, and nothing is different.
        write_config(&bench, &original, "[[listener]]\naddr = \"198.18.0.77:80\"\n");
        let line = original.lines().count() + 2;
        let error = bench.hearken.ctl("reload").expect_err("a foreign address").to_string();
        assert!(error.contains(&format!("hearken.toml:{line}: EADDRNOTAVAIL")), "{error}");
        assert!(error.contains("Nothing was changed."), "{error}");
        assert_eq!(open_listeners(&bench), 2);
        kept.write_all(&[7; 1000]).expect("a connection from before all changes lives");
        stop.store(true, Ordering::Relaxed);
        client.join().expect("no panic").expect("entered").expect("every connection was served");
    });
    assert!(done.load(Ordering::Relaxed) >= 200);
}

fn drops(report: &str, reason: &str) -> u64 {
    let line = report.lines().find(|line| line.trim_start().starts_with(reason));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// A connection attempt that nobody answers within `patience`.
fn unanswered(bench: &Bench, patience: Duration) {
    let addr = (SERVER, CLOSE).into();
    let tried = bench.client.enter(|| TcpStream::connect_timeout(&addr, patience)).expect("entered");
    assert_eq!(tried.expect_err("the server drains").kind(), io::ErrorKind::TimedOut);
}

/// Returns once a SYN has met silence.
fn wait_until_draining(bench: &Bench) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while bench.hearken.json("stats").expect("stats")["total"]["drops"]["draining"] == 0 {
        assert!(Instant::now() < deadline, "SYNs are still answered");
        let addr = (SERVER, CLOSE).into();
        let try_once = || TcpStream::connect_timeout(&addr, Duration::from_millis(50));
        let _ = bench.client.enter(try_once).expect("entered");
    }
}

#[test]
fn a_server_that_is_told_to_end_finishes_what_has_begun() {
    let Some(mut bench) = bench("drain_seconds = 20") else { return };
    let mut kept = bench.client.enter(|| connect(DISCARD)).expect("entered").expect("connects");
    bench.hearken.signal("TERM").expect("it runs");
    wait_until_draining(&bench);
    unanswered(&bench, Duration::from_millis(300));
    kept.write_all(&[7; 100_000]).expect("the connection from before goes on");
    kept.shutdown(Shutdown::Write).expect("and ends");
    assert_eq!(kept.read(&mut [0; 16]).expect("cleanly"), 0);
    let ended = Instant::now();
    let (status, said) = bench.hearken.wait().expect("it ends");
    assert!(status.is_some_and(|status| status.success()), "{said}");
    assert!(ended.elapsed() < Duration::from_secs(10), "it did not see that all had ended");
    assert!(said.contains("stopped by a signal, all connections ended"), "{said}");
    assert!(drops(&said, "draining") >= 2, "{said}");
}

#[test]
fn waiting_has_a_bound_and_a_second_signal_ends_at_once() {
    let Some(mut first) = bench("drain_seconds = 1") else { return };
    let kept = first.client.enter(|| connect(DISCARD)).expect("entered").expect("connects");
    first.hearken.signal("TERM").expect("it runs");
    let begun = Instant::now();
    let (status, said) = first.hearken.wait().expect("it ends");
    assert!(status.is_some_and(|status| status.success()), "{said}");
    assert!(begun.elapsed() >= Duration::from_millis(900), "it did not wait");
    assert!(said.contains("0 handshakes and 1 connections were left"), "{said}");
    drop((kept, first));

    let Some(mut second) = bench("drain_seconds = 3600") else { return };
    let _kept = second.client.enter(|| connect(DISCARD)).expect("entered").expect("connects");
    second.hearken.signal("TERM").expect("it runs");
    wait_until_draining(&second);
    second.hearken.signal("TERM").expect("it still runs");
    let (status, _) = second.hearken.wait().expect("it ends");
    assert_eq!(status.and_then(|status| status.code()), Some(1));
}
