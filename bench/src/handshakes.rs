//! `hearken-bench handshakes`: handshake, accept, close, per second, against the kernel's own listener.
//!
//! # What is compared
//! A client connects, the server accepts and closes at once, the client sees the end and resets, so that neither side is
//! left with a TIME-WAIT; so many clients at a time. hearken runs in memory on one core, and its clients, a loop that
//! answers its segments, run in the same thread and count with it. The kernel's listener is across a veth pair from
//! the kernel's own clients, one thread each, the server's thread on the first core and the clients on the second, as far
//! as there are two: so the kernel has the more cores, and pays for real clients, which hearken does not.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::compare::{ratios, spread};
use crate::machine::Machine;
use ours::Ours;

#[path = "../../dataplane/tests/lab/mod.rs"]
mod lab;
mod ours;

/// Handshake, accept and close per second, against a kernel listener over veth
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long a turn takes
    #[arg(long = "for", alias = "seconds", default_value_t = 1.0, value_parser = crate::time::seconds, value_name = "TIME")]
    seconds: f64,
    /// Turns of each side
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Clients that connect at the same time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=64))]
    clients: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    contestant: &'static str,
    handshakes_per_second: f64,
    handshakes_per_second_min: f64,
    handshakes_per_second_max: f64,
    ratio_to_kernel: f64,
    ratio_to_kernel_min: f64,
    ratio_to_kernel_max: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    machine: Machine,
    clients: u16,
    rows: [Row; 2],
}

impl Args {
    /// Runs both sides in turn and prints the rates.
    ///
    /// # Errors
    /// No right to make network namespaces; a connection that goes wrong, on either side.
    pub fn run(&self) -> Result<()> {
        ensure!(self.seconds > 0.0 && self.rounds > 0, "--for and --rounds want more than 0");
        let turn = Duration::from_secs_f64(self.seconds);
        // Before this thread is pinned: afterwards it may use one CPU.
        let machine = Machine::here();
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let pin = |core: usize| {
            if let Some(&core) = cores.get(core) {
                core_affinity::set_for_current(core);
            }
        };
        let wire = lab::Wire::new().context(
            "a veth pair in two network namespaces; next: run as root, or where namespaces may be made",
        )?;
        wire.server.ip(&format!("addr add {}/24 dev hk0", lab::SERVER))?;
        let mut ours = Ours::new(usize::from(self.clients))?;
        let (mut here, mut kernel) = (Vec::new(), Vec::new());
        let listener = wire.server.enter(|| TcpListener::bind((lab::SERVER, 0)))??;
        let addr = listener.local_addr()?;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            let server = scope.spawn(|| {
                pin(0);
                serve(&listener, &stop)
            });
            let rounds = (0..self.rounds).try_for_each(|_| -> Result<()> {
                // The kernel's server thread sleeps meanwhile.
                pin(0);
                here.push(ours.turn(turn)?);
                kernel.push(wire.client.enter(|| {
                    pin(1);
                    connect(addr, usize::from(self.clients), turn)
                })??);
                Ok(())
            });
            stop.store(true, Ordering::SeqCst);
            // Whoever waits in accept() is woken by a last connection.
            let _ = wire.client.enter(|| TcpStream::connect_timeout(&addr, Duration::from_secs(1)));
            server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
            rounds
        })?;
        self.print(machine, &here, &kernel)
    }

    fn print(&self, machine: Machine, here: &[f64], kernel: &[f64]) -> Result<()> {
        let row = |contestant, rates: &[f64]| {
            let [median, min, max] = spread(rates);
            let [ratio, ratio_min, ratio_max] = spread(&ratios(rates, kernel));
            Row {
                contestant,
                handshakes_per_second: median,
                handshakes_per_second_min: min,
                handshakes_per_second_max: max,
                ratio_to_kernel: ratio,
                ratio_to_kernel_min: ratio_min,
                ratio_to_kernel_max: ratio_max,
            }
        };
        let rows = [row("hearken, in memory", here), row("kernel, over veth", kernel)];
        let report = Report { bench: "handshakes", machine, clients: self.clients, rows };
        if self.json {
            crate::output::sayln!("{}", serde_json::to_string_pretty(&report)?);
            return Ok(());
        }
        crate::output::sayln!(
            "{}\n{} clients at a time, {} rounds",
            report.machine,
            self.clients,
            here.len()
        );
        for row in &report.rows {
            crate::output::sayln!(
                "{:20} {:9.0} handshakes/s [{:.0}, {:.0}]   {:6.2} x kernel [{:.2}, {:.2}]",
                row.contestant,
                row.handshakes_per_second,
                row.handshakes_per_second_min,
                row.handshakes_per_second_max,
                row.ratio_to_kernel,
                row.ratio_to_kernel_min,
                row.ratio_to_kernel_max
            );
        }
        Ok(())
    }
}

/// Accepts and closes until `stop`.
fn serve(listener: &TcpListener, stop: &AtomicBool) -> std::io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        drop(listener.accept()?);
    }
    Ok(())
}

/// `clients` threads connect, wait for the end and reset, for `turn`. Returns connections a second.
fn connect(addr: SocketAddr, clients: usize, turn: Duration) -> Result<f64> {
    let (count, begin) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| -> Result<()> {
        let client = || -> std::io::Result<()> {
            while begin.elapsed() < turn {
                let stream = TcpStream::connect(addr)?;
                if std::io::Read::read(&mut &stream, &mut [0])? != 0 {
                    return Err(std::io::Error::other("the server sends nothing"));
                }
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
                drop(stream);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?.context("a kernel client")?;
        }
        Ok(())
    })?;
    Ok(count.into_inner() as f64 / begin.elapsed().as_secs_f64())
}
