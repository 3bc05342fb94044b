//! `make demo`: hearken on one end of a virtual wire, Linux's own TCP client on the other. Connects a thousand
//! times, knocks on a closed port, pings, then shows what hearken counted and how long its answers took.
//!
//! Without the right to make network namespaces the same is done in one process, over a pair of DPDK rings.

#[path = "../tests/lab/mod.rs"]
mod lab;

#[path = "demo/in_process.rs"]
mod in_process;

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use lab::{Hearken, SERVER, Wire, connect, run};

const CONNECTIONS: usize = 1000;
const LISTENERS: [(u16, &str); 3] = [(80, "close"), (9, "discard"), (7000, "queue")];
const CLOSED: u16 = 81;

fn main() -> ExitCode {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            eprintln!("cannot watch for Ctrl-C: {error}");
            return ExitCode::FAILURE;
        }
    }
    let outcome = match Wire::new() {
        Ok(wire) => on_a_wire(wire, &stop),
        Err(error) => {
            println!("No right to make network namespaces here ({error}).");
            println!(
                "So this runs in one process, over a pair of DPDK rings, with a client of hearken's own.\n"
            );
            in_process::demo(CONNECTIONS, &stop)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The demo proper. The wire and hearken are taken down when they go out of scope, however this returns.
fn on_a_wire(wire: Wire, stop: &AtomicBool) -> Result<(), Box<dyn Error>> {
    println!(
        "The wire:   {} (hearken, hk0) ── veth ── {} (Linux, hk1)",
        wire.server.name(),
        wire.client.name()
    );
    let mut hearken = Hearken::start(&program()?, &wire.server, |socket| {
        lab::config(socket, "net_af_packet0,iface=hk0,qpairs=1", 1, &LISTENERS)
    })?;
    println!("hearken:    polling hk0 through net_af_packet as {SERVER}");

    let connects = wire.client.enter(|| connect_many(stop))??;
    println!(
        "connect():  {} of {CONNECTIONS} to {SERVER}:80 done; as the client sees it: median {} us, p99 {} us",
        connects.len(),
        connects.value_at_quantile(0.5) / 1000,
        connects.value_at_quantile(0.99) / 1000,
    );
    match wire.client.enter(|| connect(CLOSED))? {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            println!("closed:     {SERVER}:{CLOSED}: {error}")
        }
        other => return Err(format!("{SERVER}:{CLOSED} should refuse, but: {other:?}").into()),
    }
    let said =
        run(wire.client.command("ping").args(["-c", "3", "-i", "0.2", "-W", "5", &SERVER.to_string()]))?;
    println!("ping:       {}", said.lines().rev().nth(1).unwrap_or(&said));
    let waiting: Vec<_> =
        wire.client.enter(|| (0..3).map(|_| connect(7000)).collect::<io::Result<_>>())??;
    println!("waiting:    {} connections to {SERVER}:7000, which nobody accepts", waiting.len());

    for words in ["ss", "stats", "latency"] {
        println!("\n$ hearken {words}\n{}", hearken.ctl(words)?.trim_end());
    }
    drop(waiting);
    hearken.stop()?;
    drop(wire);
    println!("\nhearken has ended and the wire is taken down.");
    Ok(())
}

fn connect_many(stop: &AtomicBool) -> io::Result<Histogram<u64>> {
    let mut took = Histogram::new(3).map_err(io::Error::other)?;
    for _ in 0..CONNECTIONS {
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted; all is taken down"));
        }
        let start = Instant::now();
        connect(80)?;
        took.record(nanos(start.elapsed())).map_err(io::Error::other)?;
    }
    Ok(took)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The binary that was built beside this example.
fn program() -> io::Result<PathBuf> {
    let mut path = std::env::current_exe()?;
    path.pop();
    path.pop();
    path.push("hearken");
    if path.exists() {
        Ok(path)
    } else {
        Err(io::Error::other(format!("{} is not built: call `make demo`", path.display())))
    }
}
