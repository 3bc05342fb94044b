//! `hearken-bench stages`: where a frame's time goes, stage by stage, and how long frames take at half load.
//!
//! # How it is measured
//! The worker's own stages run on bursts as the worker runs them, with the time stamp counter read in between, which
//! costs about one cycle a frame. The figure is the median of all bursts, so that bursts in which the core was taken
//! away count as one burst each. `rx` and `tx` are the device's part: queues in memory, or DPDK's `net_pcap` with its
//! copy of every frame. `collect` moves answers to the transmit column and frees the rest. `worker` is a whole turn of
//! the real worker over the same frames, so that nothing hides between the stages.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dataplane::burst::{BURST_MAX, Burst, Fate};
use dataplane::clock::{Clock, RealClock, Ticking};
use dataplane::io::PacketIo;
use dataplane::io::dpdk::{self as dpdk_io, DpdkIo, Tsc};
use dataplane::io::mem::{Mem, MemConfig, MemPeer};
use dataplane::local::LocalTable;
use dataplane::stage;
use dataplane::worker::{Port, Worker, WorkerConfig};
use dpdk::{Eal, NumaNode, PortConfig};
use hdrhistogram::Histogram;
use listener::Core;
use listener::core::Found;
use listener::types::{CoreId, DevIndex};
use listener::vector::Vectors;
use serde::Serialize;

use crate::frames::{self, FRAMES, Kind, SERVER_MAC};
use crate::service::{self, Service};
use crate::{machine, pcap, stack};

const DEV: DevIndex = DevIndex(1);
const STAGES: [&str; 8] = ["rx", "parse", "neighbour, echo", "lookup", "tcp", "reply", "collect", "tx"];
/// So much longer than a stage runs the schedule of half load: its last percentile is of few frames.
const SERVICE_TIMES: f64 = 2.0;
/// Bursts between two looks at the clock.
const BLOCK: usize = 1000;

/// Where the time of a frame goes, stage by stage
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long each kind of frames runs
    #[arg(long = "for", alias = "seconds", default_value_t = 1.0, value_parser = crate::time::seconds, value_name = "TIME")]
    seconds: f64,
    /// Frames to run on; default: syn (with cookies), requests, closed
    #[arg(long, value_enum, value_delimiter = ',')]
    kind: Vec<Kind>,
    /// Receive them from
    #[arg(long, value_enum, default_value_t = On::Memory)]
    on: On,
    /// Frames in a burst
    #[arg(long, default_value_t = 32, value_name = "FRAMES")]
    burst: usize,
    /// Only the whole worker: for profilers
    #[arg(long)]
    worker: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Where frames come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum On {
    /// Queues in memory
    Memory,
    /// DPDK's net_pcap with infinite_rx=1; one kind of frames only
    Pcap,
}

#[derive(Debug, Serialize)]
struct Row {
    kind: Kind,
    stage: &'static str,
    ns_per_frame: f64,
    cycles_per_frame: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    machine: machine::Machine,
    on: On,
    burst: usize,
    rows: Vec<Row>,
    /// At half load, see [`crate::service`].
    service: Vec<Service>,
}

/// A device that always has frames.
trait Endless {
    type Io: PacketIo;
    /// Puts `burst` frames on the wire, and takes what came back from it.
    fn feed(&mut self, burst: usize);
}

/// Frames in memory, over and over.
struct Replay {
    peer: MemPeer,
    frames: Vec<Vec<u8>>,
    next: usize,
}

impl Endless for Replay {
    type Io = Mem;

    fn feed(&mut self, burst: usize) {
        while self.peer.recv().is_some() {}
        for _ in 0..burst {
            // Room and buffers are there for a burst, since the last one is gone.
            let _ = self.peer.send(&self.frames[self.next]);
            self.next = (self.next + 1) % self.frames.len();
        }
    }
}

/// A device that feeds itself.
struct ByItself;

impl Endless for ByItself {
    type Io = DpdkIo;

    fn feed(&mut self, _burst: usize) {}
}

impl Args {
    /// Runs the stages and prints the table, or JSON.
    ///
    /// # Errors
    /// DPDK does not start.
    pub fn run(&self) -> anyhow::Result<()> {
        ensure!((4..=BURST_MAX).contains(&self.burst), "--burst wants 4 to {BURST_MAX}");
        let kinds = match self.kind.as_slice() {
            [] => &[Kind::Syn, Kind::Requests, Kind::Closed][..],
            kinds => kinds,
        };
        let hz = machine::tsc_hz();
        let mut rows = Vec::new();
        for &kind in kinds {
            let ticks = match self.on {
                On::Memory => {
                    let config = MemConfig { buffers: 4 * BURST_MAX, ..MemConfig::default() };
                    let (io, peer) = Mem::new(config);
                    let frames = frames::frames(kind, FRAMES, SERVER_MAC);
                    self.measure(kind, io, Replay { peer, frames, next: 0 })?
                }
                On::Pcap => {
                    ensure!(kinds.len() == 1, "--on pcap wants one --kind: DPDK starts once per process");
                    let dir = tempfile::Builder::new().prefix("hearken-stages").tempdir()?;
                    let io = net_pcap(&dir.path().join("frames.pcap"), kind)?;
                    self.measure(kind, io, ByItself)?
                }
            };
            rows.extend(ticks.into_iter().map(|(stage, ticks)| Row {
                kind,
                stage,
                ns_per_frame: ticks / hz * 1e9,
                cycles_per_frame: ticks,
            }));
        }
        let machine = machine::Machine::here();
        let mut service = Vec::new();
        if self.on == On::Memory && !self.worker {
            for &kind in kinds {
                let length = Duration::from_secs_f64(self.seconds * SERVICE_TIMES);
                service.extend(service::half_load(kind, self.burst, length, hz)?);
            }
        }
        let report = Report { bench: "stages", machine, on: self.on, burst: self.burst, rows, service };
        if self.json {
            crate::output::sayln!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            crate::output::sayln!("{}, {:?}, bursts of {}", report.machine, report.on, report.burst);
            for Row { kind, stage, ns_per_frame, cycles_per_frame } in &report.rows {
                let kind = format!("{kind:?}").to_lowercase();
                crate::output::sayln!(
                    "{kind:9} {stage:16} {ns_per_frame:7.2} ns {cycles_per_frame:7.1} cycles a frame"
                );
            }
            if !report.service.is_empty() {
                crate::output::sayln!("service time at half load, from when a frame was due:");
            }
            for service in &report.service {
                crate::output::sayln!("{service}");
            }
        }
        Ok(())
    }

    fn measure<E: Endless>(
        &self,
        kind: Kind,
        io: E::Io,
        mut wire: E,
    ) -> anyhow::Result<Vec<(&'static str, f64)>> {
        let length = Duration::from_secs_f64(self.seconds);
        let (_stack, core) = stack::for_kind(kind)?;
        let local = stack::local_table();
        let mut rows = Vec::new();
        let (mut io, mut core) = (io, core);
        if !self.worker {
            let stages = Stages::new(&mut io, &mut core, &local).run(&mut wire, self.burst, length);
            let sum = stages.iter().sum();
            rows.extend(STAGES.into_iter().zip(stages));
            rows.push(("sum", sum));
        }
        let mut config = WorkerConfig::new(CoreId(0));
        config.burst = self.burst;
        let mut worker = Worker::new(config, core, vec![Port::new(io, DEV, Arc::new(local), false)]);
        let mut clock = dpdk_io::clock();
        let mut ticks = ticks_of_bursts();
        let start = Instant::now();
        while start.elapsed() < length {
            for _ in 0..BLOCK {
                wire.feed(self.burst);
                let from = dpdk::rdtsc();
                let received = worker.poll(&mut clock);
                if received == self.burst {
                    ticks.saturating_record(dpdk::rdtsc().wrapping_sub(from));
                }
            }
        }
        rows.push(("worker", ticks.value_at_quantile(0.5) as f64 / self.burst as f64));
        Ok(rows)
    }
}

/// The stages in the worker's order.
struct Stages<'a, I: PacketIo> {
    io: &'a mut I,
    core: &'a mut Core,
    local: &'a LocalTable,
    columns: Box<Burst<I, Found>>,
    vectors: Vectors,
    clock: Ticking<Tsc, RealClock>,
    ticks: [Histogram<u64>; STAGES.len()],
}

/// Ticks of a burst, to three digits; a burst of more than a second is as good as one of a second.
fn ticks_of_bursts() -> Histogram<u64> {
    Histogram::new_with_max(1 << 32, 3).expect("the bounds are in order")
}

impl<'a, I: PacketIo> Stages<'a, I> {
    fn new(io: &'a mut I, core: &'a mut Core, local: &'a LocalTable) -> Self {
        let clock = dpdk_io::clock();
        let ticks = std::array::from_fn(|_| ticks_of_bursts());
        Self { io, core, local, columns: Box::default(), vectors: Vectors::best(), clock, ticks }
    }

    /// Cycles per frame of each stage.
    fn run(mut self, wire: &mut impl Endless<Io = I>, burst: usize, length: Duration) -> [f64; STAGES.len()] {
        let start = Instant::now();
        while start.elapsed() < length {
            // The core learns the time from its ticks, and makes its hashes ahead for that.
            self.core.tick(self.clock.now(), 0, |_| true);
            for _ in 0..BLOCK {
                wire.feed(burst);
                self.turn(burst);
            }
        }
        self.ticks.map(|ticks| ticks.value_at_quantile(0.5) as f64 / burst as f64)
    }

    fn turn(&mut self, burst: usize) {
        let Self { io, core, local, columns, vectors, clock, .. } = self;
        let vectors = *vectors;
        let Burst { frames, heads, plain, segs, found, fates, answers, lanes, .. } = &mut **columns;
        let capabilities = io.capabilities();
        let mut times = [0; STAGES.len() + 1];
        times[0] = dpdk::rdtsc();
        let received = io.rx_burst(&mut frames[..burst]);
        times[1] = dpdk::rdtsc();
        let now = clock.now();
        let frames = &mut frames[..received];
        let columns = stage::parse::Columns { heads, plain, segs, fates, lanes };
        stage::parse(frames, vectors, local, DEV, columns);
        times[2] = dpdk::rdtsc();
        stage::neighbour(frames, heads, fates, lanes, local);
        stage::echo(frames, heads, fates, lanes, local);
        times[3] = dpdk::rdtsc();
        stage::lookup(*core, (segs, plain), DEV, lanes, found);
        times[4] = dpdk::rdtsc();
        let columns = stage::tcp::Columns { plain, segs, found, answers, fates };
        stage::tcp(*core, columns, DEV, lanes, now);
        times[5] = dpdk::rdtsc();
        let columns = stage::reply::Columns { heads, plain, segs, answers, fates };
        stage::reply(frames, vectors, columns, lanes, local, capabilities);
        times[6] = dpdk::rdtsc();
        let all = u64::MAX >> (BURST_MAX - received.max(1));
        let mut ready = if answers.rows == all { received } else { 0 };
        if ready == 0 {
            stage::reply::tell(answers, fates);
        }
        for (index, fate) in fates.iter().enumerate().take(received).skip(ready) {
            if matches!(fate, Fate::Ready(_)) {
                if ready != index {
                    frames.swap(ready, index);
                }
                ready += 1;
            } else {
                frames[index] = None;
            }
        }
        times[7] = dpdk::rdtsc();
        let sent = if ready == 0 { 0 } else { io.tx_burst(&mut frames[..ready]).done };
        times[8] = dpdk::rdtsc();
        frames[sent..ready].fill_with(|| None);
        if received == burst {
            for (ticks, pair) in self.ticks.iter_mut().zip(times.windows(2)) {
                ticks.saturating_record(pair[1].wrapping_sub(pair[0]));
            }
        }
    }
}

/// A `net_pcap` port that hands out the frames of `kind` for ever.
fn net_pcap(file: &Path, kind: Kind) -> anyhow::Result<DpdkIo> {
    pcap::write(file, &frames::frames(kind, FRAMES, SERVER_MAC))?;
    let (memory, why) = dpdk::Memory::choose(128);
    crate::output::noteln!("{why}");
    let eal = Eal::builder().memory(memory).start()?;
    let device = format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display());
    let id = *eal.attach(&device)?.first().context("net_pcap has a port")?;
    let pool = eal.mempool(16_384, NumaNode::ANY)?;
    let config = PortConfig { queues: 1, rx_desc: 1024, tx_desc: 1024, ..PortConfig::default() };
    let mut port = eal.open(id)?.configure(&config)?.start(&pool)?;
    DpdkIo::take_all(&mut port, &pool).pop().context("net_pcap has a queue")
}
