//! `hearken-load cost`: what an exchange costs the generator, and what it costs the server, in the same run.
//!
//! # How it is measured
//! Both ends of a pair of DPDK rings are turned by one thread, in turn, with the time stamp counter read in between: the generator
//! sends a burst of SYNs and judges the answers to the last one; the server receives, decides and answers. So both do their part
//! of as many exchanges, on the same core, in the same memory. The figure is the median of all turns with a full burst,
//! so that turns in which the core was taken away count as one turn each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dataplane::clock::RealClock;
use dataplane::io::dpdk::DpdkIo;
use dataplane::wire::ether::MacAddr;
use dataplane::worker::{Port, Worker, WorkerConfig};
use dpdk::{Eal, NumaNode, PortConfig};
use hdrhistogram::Histogram;
use listener::types::{CoreId, DevIndex};
use serde::Serialize;

use super::engine::{BURST, Engine};
use super::plan::Plan;
use super::spec::{Rate, Spec};
use super::tally::{Count, Shared};
use super::template::Link;
use crate::frames::{CLIENT_MAC, Kind, SERVER_MAC};
use crate::{machine, stack};

/// More SYNs a second than any core sends: there is always a burst of them due.
const ENDLESS: f64 = 1e9;
/// Megabytes for rings and buffers.
const MEMORY_MB: u32 = 128;

/// Cycles of one exchange, of the generator and of the server it loads, on one core in one run
#[derive(Debug, clap::Args)]
pub struct CostArgs {
    /// How long
    #[arg(long = "for", alias = "seconds", default_value_t = 3.0, value_parser = crate::time::seconds, value_name = "TIME")]
    seconds: f64,
    /// CPU
    #[arg(long, default_value_t = 0, value_name = "CPU")]
    cpu: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Cost {
    machine: machine::Machine,
    exchanges: u64,
    generator_cycles: f64,
    server_cycles: f64,
    generator_ns: f64,
    server_ns: f64,
}

impl CostArgs {
    /// Measures and prints.
    ///
    /// # Errors
    /// DPDK does not start, or an answer is wrong.
    pub fn run(&self) -> anyhow::Result<()> {
        core_affinity::set_for_current(core_affinity::CoreId { id: self.cpu });
        let (memory, why) = dpdk::Memory::choose(MEMORY_MB);
        crate::output::noteln!("{why}");
        let prefix = format!("hearken-cost-{}", std::process::id());
        let eal = Eal::builder().memory(memory).file_prefix(&prefix).start()?;
        let [near, far] = eal.ring_pair("cost", 1, 1024, NumaNode::ANY)?;
        let pool = eal.mempool(8192, NumaNode::ANY)?;
        let open = |id| -> anyhow::Result<DpdkIo> {
            let config = PortConfig { queues: 1, rx_desc: 512, tx_desc: 512, ..PortConfig::default() };
            let mut port = eal.open(id)?.configure(&config)?.start(&pool)?;
            DpdkIo::take_all(&mut port, &pool).pop().context("a ring has a queue")
        };
        let (server, client) = (open(near)?, open(far)?);
        let cost = self.measure(server, client)?;
        if self.json {
            crate::output::sayln!("{}", serde_json::to_string_pretty(&cost)?);
            return Ok(());
        }
        crate::output::sayln!("{}", cost.machine);
        crate::output::sayln!(
            "{} exchanges of SYN and SYN-ACK with a cookie, over DPDK rings, one core",
            cost.exchanges
        );
        for (who, cycles, ns) in [
            ("generator", cost.generator_cycles, cost.generator_ns),
            ("server", cost.server_cycles, cost.server_ns),
        ] {
            crate::output::sayln!("{who:10} {cycles:6.0} cycles, {ns:5.1} ns an exchange");
        }
        Ok(())
    }

    fn measure(&self, server: DpdkIo, client: DpdkIo) -> anyhow::Result<Cost> {
        let (_stack, core) = stack::for_kind(Kind::Syn)?;
        let port = Port::new(server, DevIndex(1), Arc::new(stack::local_table()), false);
        let mut worker = Worker::new(WorkerConfig::new(CoreId(0)), core, vec![port]);
        let link = Link { src: MacAddr(CLIENT_MAC), dst: MacAddr(SERVER_MAC), vlan: None };
        let spec = Spec { rate: Some(Rate(ENDLESS)), ..Spec::default() };
        let plan = Plan {
            streams: vec![Arc::new(spec.stream(&link, self.seconds + 1.0, 1)?)],
            mac: MacAddr(CLIENT_MAC),
            own: Vec::new(),
            seconds: self.seconds + 1.0,
            drain: 0.0,
        };
        let mut engine = Engine::new(client, &Arc::new(plan), (0, 1), &[Arc::new(Shared::default())]);
        let ticks = || Histogram::<u64>::new_with_max(1 << 32, 3).context("the bounds are in order");
        let (mut ours, mut theirs) = (ticks()?, ticks()?);
        let start = Instant::now();
        let mut clock = RealClock::new(start);
        while start.elapsed() < Duration::from_secs_f64(self.seconds) {
            for _ in 0..1000 {
                let begin = dpdk::rdtsc();
                let moved = engine.poll(&mut clock);
                let between = dpdk::rdtsc();
                let received = worker.poll(&mut clock);
                let end = dpdk::rdtsc();
                if moved == 2 * BURST && received == BURST {
                    ours.saturating_record(between.wrapping_sub(begin));
                    theirs.saturating_record(end.wrapping_sub(between));
                }
            }
        }
        let done = engine.finish();
        let counts = done.tallies.first().map(|tally| tally.counts).unwrap_or_default();
        drop(done.io);
        ensure!(counts.wrong() == 0, "{} answers were wrong: {counts:?}", counts.wrong());
        let hz = machine::tsc_hz();
        let each = |ticks: &Histogram<u64>| ticks.value_at_quantile(0.5) as f64 / BURST as f64;
        Ok(Cost {
            machine: machine::Machine::here(),
            exchanges: counts.of(Count::SynAck),
            generator_cycles: each(&ours),
            server_cycles: each(&theirs),
            generator_ns: each(&ours) / hz * 1e9,
            server_ns: each(&theirs) / hz * 1e9,
        })
    }
}
