//! `make demo`: first an unmodified nginx during a flood of forged SYNs, with hearken in front of it and without ([`shield`]). Then
//! hearken alone on one end of a virtual wire and Linux's own TCP client on the other: it connects, knocks on a closed port,
//! pings, and hearken shows what it counted and how long its answers took.
//!
//! Without the right to make network namespaces the same is done in one process, over a pair of DPDK rings.

#[path = "../tests/lab/mod.rs"]
mod lab;

#[cfg(feature = "kernel")]
#[path = "../tests/beside/mod.rs"]
mod beside;

#[path = "demo/in_process.rs"]
mod in_process;

#[cfg(feature = "kernel")]
#[path = "demo/shield.rs"]
mod shield;

use std::error::Error;
use std::io;
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
    #[cfg(feature = "kernel")]
    if let Err(error) = shield::demo(&stop) {
        println!("No server is shown behind hearken: {error}.\n");
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
    let mut hearken = Hearken::start(&lab::program()?, &wire.server, |socket| {
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

    for words in ["ss", "latency"] {
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
