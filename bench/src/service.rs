//! The service time at half load: from the moment when a frame should have been there to the end of the turn that
//! answered it, in memory.
//!
//! # How it is measured
//! Open loop: frames are due at even distances whether the worker is ready or not, and their time runs from when they
//! were due, so that a pause counts for every frame that it kept waiting. Half load is half of what generator and worker,
//! which share one thread and one core, do together at their best. The same schedule is kept once more without a worker:
//! what it finds then is what the machine (its kernel, its hypervisor) takes by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::clock::RealClock;
use dataplane::io::mem::{Mem, MemConfig, MemPeer};
use dataplane::worker::{Port, Worker, WorkerConfig};
use hdrhistogram::Histogram;
use listener::Core;
use listener::types::{CoreId, DevIndex};
use serde::Serialize;

use crate::frames::{self, FRAMES, Kind, SERVER_MAC};
use crate::stack;

/// Frames that wait in the device at most; those behind them wait in the schedule.
const WAITING_MAX: u64 = 128;
/// Turns by which the best rate is found.
const TRIAL: usize = 20_000;

/// What became of one schedule. Times are nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Service {
    kind: Kind,
    /// False: the schedule alone.
    worker: bool,
    mframes_per_second: f64,
    frames: u64,
    p50: u64,
    p99: u64,
    #[serde(rename = "p99.9")]
    p999: u64,
    #[serde(rename = "p99.99")]
    p9999: u64,
    max: u64,
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, worker, mframes_per_second: rate, p50, p99, p999, p9999, max, .. } = self;
        let kind = format!("{kind:?}").to_lowercase();
        let who = if *worker { "worker" } else { "nobody" };
        write!(
            f,
            "{kind:9} {who} {rate:6.2} M frames/s: p50 {p50} p99 {p99} p99.9 {p999} p99.99 {p9999} max {max} ns"
        )
    }
}

/// The worker and the wire to it.
struct Bench {
    worker: Worker<Mem, Core>,
    peer: MemPeer,
    frames: Vec<Vec<u8>>,
    clock: RealClock,
    burst: usize,
}

/// Both schedules for frames of `kind`, each for `length`; `hz` ticks are a second.
///
/// # Errors
/// What the listen API says.
pub fn half_load(kind: Kind, burst: usize, length: Duration, hz: f64) -> anyhow::Result<[Service; 2]> {
    let (_stack, core) = stack::for_kind(kind)?;
    let (io, peer) = Mem::new(MemConfig::default());
    let mut config = WorkerConfig::new(CoreId(0));
    config.burst = burst;
    let ports = vec![Port::new(io, DevIndex(1), Arc::new(stack::local_table()), false)];
    let worker = Worker::new(config, core, ports);
    let frames = frames::frames(kind, FRAMES, SERVER_MAC);
    let mut bench = Bench { worker, peer, frames, clock: RealClock::begin(), burst };
    let gap = 2.0 * bench.ticks_per_frame();
    Ok([true, false].map(|worker| {
        let times = bench.keep_schedule(gap, worker, length);
        let ns = |quantile| (times.value_at_quantile(quantile) as f64 / hz * 1e9) as u64;
        Service {
            kind,
            worker,
            mframes_per_second: hz / gap / 1e6,
            frames: times.len(),
            p50: ns(0.5),
            p99: ns(0.99),
            p999: ns(0.999),
            p9999: ns(0.9999),
            max: ns(1.0),
        }
    }))
}

impl Bench {
    /// Puts frame number `number` on the wire, for which there is room.
    fn send(&self, number: u64) {
        let _ = self.peer.send(&self.frames[number as usize % self.frames.len()]);
    }

    fn forget_answers(&self) {
        while self.peer.recv().is_some() {}
    }

    /// Ticks that generator and worker take for a frame in full bursts: the median.
    fn ticks_per_frame(&mut self) -> f64 {
        let mut ticks: Vec<u64> = (0..TRIAL as u64)
            .map(|turn| {
                let from = dpdk::rdtsc();
                let burst = self.burst as u64;
                (turn * burst..(turn + 1) * burst).for_each(|number| self.send(number));
                self.worker.poll(&mut self.clock);
                self.forget_answers();
                dpdk::rdtsc().wrapping_sub(from)
            })
            .collect();
        ticks.sort_unstable();
        ticks[ticks.len() / 2] as f64 / self.burst as f64
    }

    /// A frame is due every `gap` ticks; returns how long each took from then on, in ticks.
    fn keep_schedule(&mut self, gap: f64, with_worker: bool, length: Duration) -> Histogram<u64> {
        let mut times = Histogram::new_with_max(1 << 36, 3).expect("the bounds are in order");
        let (start, from) = (Instant::now(), dpdk::rdtsc());
        let due = |number: u64| from + (number as f64 * gap) as u64;
        let (mut sent, mut done, mut turns) = (0, 0, 0u32);
        while !turns.is_multiple_of(1 << 12) || start.elapsed() < length {
            turns = turns.wrapping_add(1);
            let now = dpdk::rdtsc();
            while due(sent) <= now && sent - done < WAITING_MAX {
                if with_worker {
                    self.send(sent);
                }
                sent += 1;
            }
            let taken = if with_worker {
                self.worker.poll(&mut self.clock) as u64
            } else {
                (sent - done).min(self.burst as u64)
            };
            let end = dpdk::rdtsc();
            for number in done..done + taken {
                times.saturating_record(end.saturating_sub(due(number)));
            }
            done += taken;
            self.forget_answers();
        }
        times
    }
}
