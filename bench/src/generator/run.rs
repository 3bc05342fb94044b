//! A run: one thread a queue pair, all from the same start, watched while they work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use dataplane::clock::{Clock, RealClock};
use dataplane::io::PacketIo;
use hdrhistogram::Histogram;

use super::engine::{Done, Engine, Traffic};
use super::plan::Plan;
use super::surroundings::{Snapshot, Surroundings};
use super::tally::{Counts, Shared, Tally};

/// Time between two samples.
const SAMPLE: Duration = Duration::from_millis(250);

/// Turns between two looks at the stop flag and the end.
const TURNS: u32 = 64;

/// All streams at one time, cores added up.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Seconds since the start.
    pub at: f64,
    /// One per stream.
    pub counts: Vec<Counts>,
}

/// What one core did.
#[derive(Debug)]
pub struct CoreResult {
    /// CPU that the thread was pinned to.
    pub cpu: usize,
    /// One per stream.
    pub tallies: Vec<Tally>,
    /// Frames.
    pub traffic: Traffic,
    /// Nanoseconds by which SYNs were late in leaving.
    pub lag: Histogram<u64>,
    /// Nanoseconds for which the thread had the CPU.
    pub on_cpu_ns: u64,
    /// Nanoseconds that passed meanwhile.
    pub wall_ns: u64,
}

/// What a run brought.
#[derive(Debug)]
pub struct Outcome {
    /// Every quarter of a second, the end included.
    pub samples: Vec<Sample>,
    /// One per queue pair.
    pub cores: Vec<CoreResult>,
    /// Share of the time in which each of the machine's CPUs was busy, with whatever, by the kernel's account.
    pub cpu_busy: Vec<(usize, f64)>,
    /// What else the machine did.
    pub around: Surroundings,
    /// It was ended before its time.
    pub interrupted: bool,
}

impl Outcome {
    /// Stream `index` on all cores.
    pub fn total(&self, index: usize) -> Tally {
        let mut total = Tally::default();
        for core in &self.cores {
            total.merge(&core.tallies[index]);
        }
        total
    }
}

/// Runs `plan` on `queues`, each on the CPU beside it, until its end or `stop`. Threads call `enter` first and keep
/// what it gives; `yields` makes idle ones offer their CPU to others. `watch` sees every sample.
///
/// # Errors
/// A thread that cannot be pinned or enter, or panics.
pub fn run<I, G, E>(
    queues: Vec<(usize, I)>,
    plan: &Arc<Plan>,
    (enter, yields): (E, bool),
    stop: &AtomicBool,
    mut watch: impl FnMut(&Sample),
) -> anyhow::Result<(Vec<I>, Outcome)>
where
    I: PacketIo,
    E: Fn() -> Result<G, String> + Sync,
{
    let cores = queues.len() as u64;
    let barrier = Barrier::new(queues.len() + 1);
    let (start, failed) = (OnceLock::new(), AtomicBool::new(false));
    let shared: Vec<Vec<Arc<Shared>>> =
        queues.iter().map(|_| plan.streams.iter().map(|_| Arc::default()).collect()).collect();
    let mut samples = Vec::new();
    let (mut cpus, mut before) = (Vec::new(), Snapshot::take());
    let ended_with = std::thread::scope(|scope| {
        let (barrier, start, failed, enter) = (&barrier, &start, &failed, &enter);
        let threads: Vec<_> = queues
            .into_iter()
            .zip(0..)
            .zip(&shared)
            .map(|(((cpu, io), core), shared)| {
                let engine = Engine::new(io, plan, (core, cores), shared);
                let body = move || {
                    let entered = pin(cpu).and_then(|()| enter());
                    if entered.is_err() {
                        failed.store(true, Ordering::SeqCst);
                    }
                    barrier.wait();
                    barrier.wait();
                    let entered = entered.map_err(|why| anyhow!("on core {cpu}: {why}"))?;
                    let start = *start.get().context("a run has a start")?;
                    let (done, wall) = (turns(engine, plan, start, (stop, failed, yields)), start.elapsed());
                    drop(entered);
                    done.map(|(done, on_cpu)| (cpu, done, on_cpu, wall))
                };
                std::thread::Builder::new().name(format!("load-{core}")).spawn_scoped(scope, body)
            })
            .collect::<Result<_, _>>()
            .context("cannot start a thread")?;
        barrier.wait();
        // In the future, so that no thread begins late.
        let begin = Instant::now() + Duration::from_millis(10);
        let _ = start.set(begin);
        cpus = cpu_times();
        before = Snapshot::take();
        barrier.wait();
        let mut next = begin + SAMPLE;
        while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(20)));
            if Instant::now() >= next {
                next += SAMPLE;
                samples.push(sample(begin.elapsed(), &shared));
                watch(&samples[samples.len() - 1]);
            }
        }
        samples.push(sample(begin.elapsed(), &shared));
        let joined =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        joined.collect::<anyhow::Result<Vec<_>>>()
    })?;
    let around = Snapshot::take().since(&before);
    let (mut queues, mut cores) = (Vec::new(), Vec::new());
    for (cpu, done, on_cpu_ns, wall) in ended_with {
        let Done { io, tallies, traffic, lag } = done;
        queues.push(io);
        cores.push(CoreResult { cpu, tallies, traffic, lag, on_cpu_ns, wall_ns: wall.as_nanos() as u64 });
    }
    let cpu_busy = busy_since(&cpus, &cpu_times());
    Ok((queues, Outcome { samples, cores, cpu_busy, around, interrupted: stop.load(Ordering::Relaxed) }))
}

/// Turns until all is sent and the answers had their time; the result, and nanoseconds on the CPU.
fn turns<I: PacketIo>(
    mut engine: Engine<I>,
    plan: &Plan,
    start: Instant,
    (stop, failed, yields): (&AtomicBool, &AtomicBool, bool),
) -> anyhow::Result<(Done<I>, u64)> {
    while Instant::now() < start {
        std::hint::spin_loop();
    }
    let before = on_cpu()?;
    let mut clock = RealClock::new(start);
    let end = ((plan.seconds + plan.drain) * 1e9) as u64;
    'run: loop {
        for _ in 0..TURNS {
            if engine.poll(&mut clock) == 0 {
                if yields {
                    std::thread::yield_now();
                }
                let now = clock.now().0;
                if now >= end && engine.is_over(now) {
                    break 'run;
                }
            }
        }
        let now = clock.now().0;
        if stop.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed) || now >= end && engine.is_over(now)
        {
            break;
        }
    }
    Ok((engine.finish(), on_cpu()? - before))
}

fn sample(at: Duration, shared: &[Vec<Arc<Shared>>]) -> Sample {
    let streams = shared.first().map_or(0, Vec::len);
    let mut counts = vec![Counts::default(); streams];
    for core in shared {
        for (to, from) in counts.iter_mut().zip(core) {
            to.merge(&from.read());
        }
    }
    Sample { at: at.as_secs_f64(), counts }
}

fn pin(cpu: usize) -> Result<(), String> {
    let known = core_affinity::get_core_ids().unwrap_or_default();
    match known.into_iter().find(|core| core.id == cpu) {
        Some(core) if core_affinity::set_for_current(core) => Ok(()),
        _ => Err("cannot be pinned there; see \"taskset -p $$\", and give others with --cores".into()),
    }
}

/// Nanoseconds for which the calling thread has had a CPU.
fn on_cpu() -> anyhow::Result<u64> {
    let text =
        std::fs::read_to_string("/proc/thread-self/schedstat").context("/proc/thread-self/schedstat")?;
    text.split_whitespace().next().and_then(|word| word.parse().ok()).context("/proc/thread-self/schedstat")
}

/// Ticks that each CPU was busy, and all of them.
fn cpu_times() -> Vec<(usize, u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = |line: &str| {
        let (cpu, ticks) = line.strip_prefix("cpu")?.split_once(' ')?;
        let ticks: Vec<u64> = ticks.split_whitespace().map_while(|tick| tick.parse().ok()).collect();
        // Behind "guest" they are counted a second time.
        let all: u64 = ticks.iter().take(8).sum();
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some((cpu.parse().ok()?, all - idle, all))
    };
    stat.lines().filter_map(line).collect()
}

fn busy_since(from: &[(usize, u64, u64)], to: &[(usize, u64, u64)]) -> Vec<(usize, f64)> {
    let share = |(from, to): (&(usize, u64, u64), &(usize, u64, u64))| {
        (to.0, (to.1.saturating_sub(from.1)) as f64 / to.2.saturating_sub(from.2).max(1) as f64)
    };
    from.iter().zip(to).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_busy_for_a_share_of_the_time() {
        let times = cpu_times();
        assert!(!times.is_empty() && times.iter().all(|(_, busy, all)| busy <= all), "{times:?}");
        assert_eq!(busy_since(&[(3, 10, 100)], &[(3, 60, 200)]), [(3, 0.5)]);
    }
}
