//! One turn of a contestant, step by step.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use hearken_bpf::flood::Flood;
use hearken_bpf::wire::{Does, OnXdp};

use super::clients::{self, Seen};
use super::site::{Server, Site, kernel_counter};
use super::{Contestant, Flooding};

/// Frames of one call at the most, so that a stop is heard.
const SLICE: u64 = 16_384;
/// How often a flood of a given rate sends what is due.
const TICK: Duration = Duration::from_millis(1);
/// `/proc/stat` counts in these: `USER_HZ` is 100 on every architecture that DPDK is on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is done in a turn.
#[derive(Debug)]
pub struct Plan {
    /// The steps.
    pub floods: Vec<Flooding>,
    /// Seconds of each.
    pub seconds: f64,
    /// Clients a second.
    pub clients: f64,
    /// The flood's CPU, the server's CPU.
    pub cpus: [usize; 2],
    /// hearken's binary, if not the one beside us.
    pub hearken: Option<PathBuf>,
    /// When all began.
    pub begun: String,
}

/// Median, 99th percentile and longest, in µs.
pub type Times = [f64; 3];

/// One step of one turn.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Forged SYNs a second that were given to the wire.
    pub offered: f64,
    /// SYN-ACKs a second that came back for them.
    pub answered: f64,
    /// SYNs a second that came out of the wire; of the wire's own turn, where a program counts them.
    pub carried: Option<f64>,
    /// Clients that began, and those that had the whole page.
    pub clients: [u64; 2],
    /// SYNs that a client's kernel had to send again.
    pub syns_again: u64,
    /// From connect() until it returned.
    pub connect: Times,
    /// From connect() until the first octet of the answer.
    pub first_byte: Times,
    /// p99 of how late clients began, in µs.
    pub late: f64,
    /// Seconds of CPU time in a second, of both CPUs.
    pub busy: f64,
    /// SYN cookies that the server's kernel sent.
    pub cookies_sent: u64,
    /// Handshakes that hearken handed over.
    pub handed_over: u64,
}

/// One turn on a wire of its own, so that nobody inherits another's half-open handshakes.
pub fn turn(plan: &Plan, contestant: Contestant, stop: &AtomicBool) -> anyhow::Result<Vec<Sample>> {
    let site = Site::new()?;
    let server = Server::start(&site, contestant, plan.cpus[1], plan.hearken.as_deref())?;
    let (dropping, flood) = (dropping(&site, contestant)?, flood(&site)?);
    let mut samples = Vec::new();
    for flooding in &plan.floods {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let step = Step {
            plan,
            contestant,
            site: &site,
            server: &server,
            flood: &flood,
            dropping: dropping.as_ref(),
        };
        samples.push(step.run(*flooding, stop).with_context(|| format!("a flood of {flooding} SYNs/s"))?);
    }
    if let Some(dropping) = &dropping {
        ensure!(
            plan.floods.len() == 1 || dropping.dropped()? > 0,
            "the wire carries no flood: frames that are redirected into a veth need Linux 5.18"
        );
    }
    Ok(samples)
}

fn dropping(site: &Site, contestant: Contestant) -> anyhow::Result<Option<OnXdp>> {
    if contestant != Contestant::Wire {
        return Ok(None);
    }
    let index = site.server_interface()?;
    Ok(Some(site.server.enter(|| OnXdp::attach(index, Does::Drop))??))
}

/// The flood at the clients' end.
///
/// # Errors
/// The kernel refuses its programs.
pub fn flood(site: &Site) -> anyhow::Result<Flood> {
    let ([index, parking], template) = (site.flood_interfaces()?, site.template()?);
    let made = site.client.enter(|| {
        let flood = Flood::with_sink(index, &template)?;
        flood.park(parking)?;
        Ok::<_, hearken_bpf::BpfError>(flood)
    })?;
    Ok(made?)
}

/// What a step is measured with.
struct Step<'a> {
    plan: &'a Plan,
    contestant: Contestant,
    site: &'a Site,
    server: &'a Server,
    flood: &'a Flood,
    dropping: Option<&'a OnXdp>,
}

/// What has been counted until now.
struct Counted {
    answers: u64,
    carried: Option<u64>,
    unused: f64,
    at: Instant,
}

impl Step<'_> {
    fn run(&self, flooding: Flooding, stop: &AtomicBool) -> anyhow::Result<Sample> {
        let Self { plan, site, .. } = self;
        let [again, cookies, handed] = self.totals()?;
        let time = Duration::from_secs_f64(plan.seconds);
        let rate = if self.contestant == Contestant::Wire { 0.0 } else { plan.clients };
        let before = self.counted()?;
        let (seen, sent, after) = std::thread::scope(|scope| -> anyhow::Result<_> {
            let clients = scope.spawn(|| clients::run(&site.client, rate, plan.seconds, stop));
            let flood = scope.spawn(|| {
                site.client.enter(|| {
                    core_affinity::set_for_current(core_affinity::CoreId { id: plan.cpus[0] });
                    send(self.flood, flooding, time, stop)
                })
            });
            let sent = flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
            // Clients that are late have no flood beside them any more; their CPU is not counted.
            let after = self.counted()?;
            let seen = clients.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok((seen, sent, after))
        })?;
        let seconds = (after.at - before.at).as_secs_f64();
        let [again_after, cookies_after, handed_after] = self.totals()?;
        Ok(Sample {
            offered: sent as f64 / seconds,
            answered: (after.answers - before.answers) as f64 / seconds,
            carried: after
                .carried
                .zip(before.carried)
                .map(|(after, before)| (after - before) as f64 / seconds),
            clients: [seen.started, seen.completed],
            syns_again: again_after - again,
            connect: times(&seen.connect),
            first_byte: times(&seen.first_byte),
            late: late(&seen),
            busy: (seconds * plan.cpus.len() as f64 - (after.unused - before.unused)).max(0.0) / seconds,
            cookies_sent: cookies_after - cookies,
            handed_over: handed_after - handed,
        })
    }

    /// SYNs sent again by clients, SYN cookies sent by the server's kernel, handshakes that were handed over.
    fn totals(&self) -> anyhow::Result<[u64; 3]> {
        let Self { site, server, .. } = self;
        Ok([
            kernel_counter(&site.client, "TcpExt", "TCPSynRetrans")?,
            kernel_counter(&site.server, "TcpExt", "SyncookiesSent")?,
            server.handed_over()?,
        ])
    }

    fn counted(&self) -> anyhow::Result<Counted> {
        let answers = self.flood.answers()?.syn_acks;
        let carried = self.dropping.map(OnXdp::dropped).transpose()?;
        Ok(Counted { answers, carried, unused: unused(self.plan.cpus)?, at: Instant::now() })
    }
}

/// Sends `rate` SYNs a second for `time`; how many the wire was given.
///
/// # Errors
/// The kernel refuses to run the program.
pub fn send_at(flood: &Flood, rate: f64, time: Duration, stop: &AtomicBool) -> anyhow::Result<u64> {
    send(flood, Flooding::Rate(rate), time, stop)
}

/// Sends for `time`; how many SYNs the wire was given.
fn send(flood: &Flood, flooding: Flooding, time: Duration, stop: &AtomicBool) -> anyhow::Result<u64> {
    let (mut sent, mut asked, begin) = (0, 0, Instant::now());
    while begin.elapsed() < time && !stop.load(Ordering::Relaxed) {
        let (due, most) = match flooding {
            Flooding::None => (0, 0),
            // A sender that was late makes up for it at twice the rate: a burst would overrun rings that the rate does not.
            Flooding::Rate(rate) => (
                (begin.elapsed().as_secs_f64() * rate) as u64 - asked,
                ((2.0 * rate * TICK.as_secs_f64()) as u64).clamp(1, SLICE),
            ),
            Flooding::Max => (SLICE, SLICE),
        };
        let frames = due.min(most);
        if frames > 0 {
            sent += flood.run(frames, None, time)?;
            asked += frames;
        }
        if flooding != Flooding::Max {
            std::thread::sleep(TICK.min(time.saturating_sub(begin.elapsed())));
        }
    }
    Ok(sent)
}

fn times(histogram: &Histogram<u64>) -> Times {
    [0.5, 0.99, 1.0].map(|quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0)
}

fn late(seen: &Seen) -> f64 {
    seen.late.value_at_quantile(0.99) as f64 / 1000.0
}

/// Seconds in which `cpus` were idle, or not ours, since the machine's start.
fn unused(cpus: [usize; 2]) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let mut ticks = 0;
    for cpu in cpus {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("cpu{cpu} ")));
        let line = line.with_context(|| format!("there is no CPU {cpu}; choose others with --cpus"))?;
        // user nice system idle iowait irq softirq steal guest guest_nice
        let numbers: Vec<u64> =
            line.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
        ticks += [3, 4, 7].iter().filter_map(|&column| numbers.get(column)).sum::<u64>();
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}
