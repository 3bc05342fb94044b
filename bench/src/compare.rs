//! Contestants that take turns: round by round on the same keys, so that clock, cache and neighbours hit all alike.
//!
//! Before anything is timed every contestant answers the whole stream, and one that answers wrongly ends the bench: a
//! fast wrong table is no peer.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::load::{CHUNK, CHURN_KEYS, Chunk, Key, Load};
use crate::peers::Peer;

/// Listeners of the churn that are open at a time.
const CHURN_OPEN: u32 = 512;
/// Nobody's table is churned.
const IDLE: usize = usize::MAX;

/// A contestant that answered wrongly.
#[derive(Debug)]
pub struct Disagreement {
    contestant: String,
    lane: String,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} disagrees: {}", self.contestant, self.lane)
    }
}

impl std::error::Error for Disagreement {}

/// Fails if some contestant answers some segment of `load` wrongly.
///
/// # Errors
/// The first [`Disagreement`].
pub fn agree(load: &Load, peers: &[Box<dyn Peer + '_>], chunks: usize) -> Result<(), Disagreement> {
    let mut chunk = Chunk::default();
    let mut found = vec![None; CHUNK];
    for at in 0..chunks {
        load.fill(at, &mut chunk);
        for peer in peers {
            found.fill(Some(listener::types::ListenerId(u32::MAX)));
            peer.lookup(&chunk, &mut found);
            if let Some(lane) = (0..CHUNK).find(|&lane| found[lane] != chunk.want[lane]) {
                let (key, found, want) = (&chunk.listen[lane], found[lane], chunk.want[lane]);
                let lane = format!("{key:?} gave {found:?}, not {want:?}");
                return Err(Disagreement { contestant: peer.name().to_owned(), lane });
            }
        }
    }
    Ok(())
}

/// Fails if some contestant answers some segment of `load` otherwise than the last one does.
///
/// # Errors
/// The first [`Disagreement`].
pub fn agree_among(load: &Load, peers: &[Box<dyn Peer + '_>], chunks: usize) -> Result<(), Disagreement> {
    let Some((last, others)) = peers.split_last() else { return Ok(()) };
    let mut chunk = Chunk::default();
    let (mut want, mut found) = (vec![None; CHUNK], vec![None; CHUNK]);
    for at in 0..chunks {
        load.fill(at, &mut chunk);
        last.lookup(&chunk, &mut want);
        for peer in others {
            peer.lookup(&chunk, &mut found);
            if let Some(lane) = (0..CHUNK).find(|&lane| found[lane] != want[lane]) {
                let (key, found, want) = (&chunk.listen[lane], found[lane], want[lane]);
                let lane = format!("{key:?} gave {found:?}, and {} says {want:?}", last.name());
                return Err(Disagreement { contestant: peer.name().to_owned(), lane });
            }
        }
    }
    Ok(())
}

/// The times of one contestant under one churn.
#[derive(Clone, Debug)]
pub struct Series {
    /// Place of the contestant.
    pub peer: usize,
    /// Listeners opened and closed per second, as asked for.
    pub churn: u32,
    /// Nanoseconds per lookup, by round.
    pub ns: Vec<f64>,
    /// Listeners opened and closed while it was timed.
    pub churned: u64,
    /// Time in which they were.
    pub churn_time: Duration,
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Turns of each contestant.
    pub rounds: usize,
    /// Time spent in lookups per turn; as much again goes into preparing the keys.
    pub turn: Duration,
}

/// Times all contestants under all churns, interleaved.
pub fn measure(load: &Load, peers: &[Box<dyn Peer + '_>], churns: &[u32], plan: Plan) -> Vec<Series> {
    let mut series: Vec<Series> = churns
        .iter()
        .flat_map(|&churn| {
            let empty =
                move |peer| Series { peer, churn, ns: Vec::new(), churned: 0, churn_time: Duration::ZERO };
            (0..peers.len()).map(empty)
        })
        .collect();
    let writer = Writer::default();
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Some(&core) = cores.get(1) {
                core_affinity::set_for_current(core);
            }
            writer.run(load, peers);
        });
        // A thread of its own: it is pinned, and the caller shall not be.
        scope.spawn(|| {
            if let Some(&core) = cores.first() {
                core_affinity::set_for_current(core);
            }
            for round in 0..plan.rounds {
                for series in &mut series {
                    let (before, begin) = (writer.begin(series.peer, series.churn), Instant::now());
                    series.ns.push(turn(load, peers[series.peer].as_ref(), plan, round));
                    series.churn_time += begin.elapsed();
                    series.churned += writer.end() - before;
                }
            }
            writer.stop();
        });
    });
    series
}

/// A chunk that took so many times the turn's median was not computing: the thread had been put aside.
const PUT_ASIDE: u32 = 8;

/// Nanoseconds per lookup of one turn: the mean over its chunks, without those in which the thread was put aside.
pub fn turn(load: &Load, peer: &dyn Peer, plan: Plan, round: usize) -> f64 {
    static CLOCK: OnceLock<Duration> = OnceLock::new();
    let clock = *CLOCK.get_or_init(clock_cost);
    let mut chunk = Chunk::default();
    let mut found = vec![None; CHUNK];
    let mut times = Vec::with_capacity(1 << 16);
    let mut at = round << 20;
    let mut spend = |times: &mut Vec<Duration>, time: Duration| {
        let mut spent = Duration::ZERO;
        while spent < time {
            load.fill(at, &mut chunk);
            let begin = Instant::now();
            peer.lookup(std::hint::black_box(&chunk), std::hint::black_box(&mut found));
            let took = begin.elapsed();
            spent += took;
            times.push(took.saturating_sub(clock));
            at += 1;
        }
    };
    // It follows another contestant: its code, and as far as they go its caches, are warmed first.
    spend(&mut times, plan.turn / 4);
    times.clear();
    spend(&mut times, plan.turn);
    times.sort_unstable();
    let limit = times[times.len() / 2] * PUT_ASIDE;
    times.retain(|&time| time <= limit);
    times.iter().sum::<Duration>().as_secs_f64() * 1e9 / (times.len() * CHUNK) as f64
}

/// What reading the clock twice costs: taken off every chunk of every contestant.
fn clock_cost() -> Duration {
    let mut costs: Vec<Duration> = (0..10_001)
        .map(|_| {
            let begin = Instant::now();
            begin.elapsed()
        })
        .collect();
    costs.sort_unstable();
    costs[costs.len() / 2]
}

/// The thread that opens and closes listeners in the table whose turn it is.
#[derive(Debug)]
struct Writer {
    peer: AtomicUsize,
    rate: AtomicUsize,
    /// Listeners opened and closed so far.
    churned: AtomicU64,
    /// The table that the thread is in, or [`IDLE`].
    busy: AtomicUsize,
    stop: AtomicUsize,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            peer: AtomicUsize::new(IDLE),
            rate: AtomicUsize::new(0),
            churned: AtomicU64::new(0),
            busy: AtomicUsize::new(IDLE),
            stop: AtomicUsize::new(0),
        }
    }
}

impl Writer {
    /// Sets the churn of `peer`'s turn on; returns the count so far.
    fn begin(&self, peer: usize, rate: u32) -> u64 {
        if rate > 0 {
            self.rate.store(rate as usize, Ordering::SeqCst);
            self.peer.store(peer, Ordering::SeqCst);
            while self.busy.load(Ordering::SeqCst) != peer {
                std::hint::spin_loop();
            }
        }
        self.churned.load(Ordering::SeqCst)
    }

    /// Ends it; returns the count so far.
    fn end(&self) -> u64 {
        let churned = self.churned.load(Ordering::SeqCst);
        self.peer.store(IDLE, Ordering::SeqCst);
        while self.busy.load(Ordering::SeqCst) != IDLE {
            std::hint::spin_loop();
        }
        churned
    }

    fn stop(&self) {
        self.stop.store(1, Ordering::SeqCst);
    }

    fn run(&self, load: &Load, peers: &[Box<dyn Peer + '_>]) {
        while self.stop.load(Ordering::SeqCst) == 0 {
            let Some(peer) = peers.get(self.peer.load(Ordering::SeqCst)) else {
                std::thread::sleep(Duration::from_micros(100));
                continue;
            };
            self.churn(load, peer.as_ref());
            self.busy.store(IDLE, Ordering::SeqCst);
        }
    }

    /// Opens one and closes the one opened [`CHURN_OPEN`] before, evenly over time, while it is the table's turn.
    fn churn(&self, load: &Load, peer: &dyn Peer) {
        let turn = self.peer.load(Ordering::SeqCst);
        let mut opened = CHURN_OPEN;
        (0..opened).for_each(|new| peer.open(Key::of_churn(new), load.churn_id(new)));
        self.busy.store(turn, Ordering::SeqCst);
        let (begin, rate) = (Instant::now(), self.rate.load(Ordering::SeqCst) as f64);
        while turn != IDLE && self.peer.load(Ordering::SeqCst) == turn {
            let due = CHURN_OPEN + (begin.elapsed().as_secs_f64() * rate) as u32;
            while opened < due {
                peer.open(Key::of_churn(opened % CHURN_KEYS), load.churn_id(opened));
                let old = opened - CHURN_OPEN;
                peer.close(Key::of_churn(old % CHURN_KEYS), load.churn_id(old));
                self.churned.fetch_add(1, Ordering::Relaxed);
                opened += 1;
            }
            std::hint::spin_loop();
        }
        for old in opened - CHURN_OPEN..opened {
            peer.close(Key::of_churn(old % CHURN_KEYS), load.churn_id(old));
        }
    }
}

/// Median, least and greatest of some numbers; NaN of none.
pub fn spread(numbers: &[f64]) -> [f64; 3] {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
    [at(sorted.len() / 2), at(0), at(sorted.len().saturating_sub(1))]
}

/// `over[round] / under[round]`.
pub fn ratios(over: &[f64], under: &[f64]) -> Vec<f64> {
    over.iter().zip(under).map(|(over, under)| over / under).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use listener::types::ListenerId;

    struct Wrong;

    impl Peer for Wrong {
        fn name(&self) -> &str {
            "wrong"
        }

        fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
            found.copy_from_slice(&chunk.want);
            found[77] = None;
        }

        fn open(&self, _: Key, _: ListenerId) {}

        fn close(&self, _: Key, _: ListenerId) {}
    }

    #[test]
    fn a_wrong_answer_ends_the_bench() {
        let load = Load::new(16, 100, 1);
        let split = agree(&load, &[Box::new(Wrong)], 1).expect_err("77 is wrong");
        assert!(split.to_string().starts_with("wrong disagrees"), "{split}");
        assert!(agree(&load, &[Box::new(crate::peers::Chained::new(&load))], 4).is_ok());
    }

    #[test]
    fn medians_and_ratios() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), [2.0, 1.0, 3.0]);
        assert_eq!(ratios(&[6.0, 8.0], &[3.0, 2.0]), [2.0, 4.0]);
        assert!(spread(&[])[0].is_nan());
    }
}
