//! `hearken-bench places`: what it costs to count a half-open request, alone and with other cores at the same listener.

use std::sync::Barrier;
use std::time::Instant;

use anyhow::Result;
use comfy_table::{CellAlignment, Table};
use listener::listen_sock::{Credits, ListenParams, ListenSock, ListenSocks};
use listener::types::{Backlog, ListenerRef, Nanos};

use crate::machine::Machine;

/// The largest backlog whose queue is counted one by one, and the usual one, of which cores take places in batches.
const BACKLOGS: [u32; 2] = [1022, 4096];

/// Count requests in and out of one listener's SYN queue, one by one and in batches, taking turns
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Turns of each
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Requests that each core counts in and out in a turn
    #[arg(long, default_value_t = 2_000_000)]
    requests: u32,
}

impl Args {
    /// Prints nanoseconds per request.
    ///
    /// # Errors
    /// None so far; as the other benches.
    pub fn run(&self) -> Result<()> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let most = cores.len().max(1);
        crate::output::sayln!("{}", Machine::here());
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["cores", "one by one, ns", "in batches, ns", "ratio"]);
        for count in [1, 2, 4, 8, 16].into_iter().filter(|count| *count <= most) {
            let mut times = BACKLOGS.map(|_| Vec::new());
            for _ in 0..self.rounds {
                for (backlog, times) in BACKLOGS.iter().zip(&mut times) {
                    times.push(turn(*backlog, &cores[..count], self.requests));
                }
            }
            let [single, batched] = times.map(median);
            let ratio = format!("{:.1}", single / batched);
            table.add_row([count.to_string(), format!("{single:.1}"), format!("{batched:.1}"), ratio]);
        }
        for column in table.column_iter_mut() {
            column.set_cell_alignment(CellAlignment::Right);
        }
        crate::output::sayln!("{table}");
        Ok(())
    }
}

/// Nanoseconds that a request took on the slowest of `cores`.
fn turn(backlog: u32, cores: &[core_affinity::CoreId], requests: u32) -> f64 {
    let socks = ListenSocks::new(1);
    let id = socks.alloc().expect("room for one");
    let slot = socks.get(id).expect("just made");
    let listener = slot.open(id, &ListenParams { backlog: Backlog(backlog), ..ListenParams::default() });
    let start = Barrier::new(cores.len());
    let slowest = std::thread::scope(|scope| {
        let count = |core: &core_affinity::CoreId| {
            let (core, start, socks) = (*core, &start, &socks);
            let cores = cores.len() as u16;
            scope.spawn(move || {
                core_affinity::set_for_current(core);
                let mut credits = Credits::new(cores);
                start.wait();
                let begin = Instant::now();
                (0..requests).for_each(|_| request(&mut credits, socks, slot, listener));
                begin.elapsed()
            })
        };
        let threads: Vec<_> = cores.iter().map(count).collect();
        threads.into_iter().map(|thread| thread.join().expect("it only counts")).max()
    });
    slowest.map_or(0.0, |time| time.as_nanos() as f64 / f64::from(requests))
}

/// A SYN, and the ACK that ends its request.
fn request(credits: &mut Credits, socks: &ListenSocks, slot: &ListenSock, listener: ListenerRef) {
    credits.take(socks, slot, listener, Nanos(1)).expect("there is room");
    credits.give(socks, slot, listener, Nanos(1));
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}
