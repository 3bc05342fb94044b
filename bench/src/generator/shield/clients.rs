//! Clients of a step: each connects anew, asks for the page, and reads it to the end. Client number `n` starts at its time, whatever
//! has become of those before it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;

use super::site::{PAGE, SERVER};
use crate::generator::netns::Namespace;

/// Clients at a time. More than this wait for a second SYN only where nothing works any more.
const THREADS: usize = 96;
/// A client gives up after this time without an answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// Longest time that is told apart, in ns: more than any client's patience.
const LONGEST: u64 = 60_000_000_000;

/// What the clients of a step saw; times in ns.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Clients that began.
    pub started: u64,
    /// Those that had the whole page.
    pub completed: u64,
    /// From connect() until it returned.
    pub connect: Histogram<u64>,
    /// From connect() until the first octet of the answer.
    pub first_byte: Histogram<u64>,
    /// From the time at which a client was due until it called connect(): this machine's lateness, not the server's.
    pub late: Histogram<u64>,
}

impl Seen {
    fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_max(LONGEST, 3).context("the bounds are in order");
        Ok(Self {
            started: 0,
            completed: 0,
            connect: histogram()?,
            first_byte: histogram()?,
            late: histogram()?,
        })
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.started += other.started;
        self.completed += other.completed;
        self.connect.add(&other.connect)?;
        self.first_byte.add(&other.first_byte)?;
        self.late.add(&other.late)?;
        Ok(())
    }

    fn one(&mut self, late: Duration) {
        self.started += 1;
        self.late.saturating_record(ns(late));
        let begin = Instant::now();
        let served = || -> std::io::Result<(Duration, Duration, bool)> {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::from((SERVER, 80)), PATIENCE)?;
            let connected = begin.elapsed();
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = vec![0];
            stream.read_exact(&mut answer)?;
            let first = begin.elapsed();
            stream.read_to_end(&mut answer)?;
            Ok((connected, first, answer.ends_with(PAGE.as_bytes())))
        };
        // A client that fails is one that has not completed; what it saw is no time.
        if let Ok((connected, first, whole)) = served() {
            self.connect.saturating_record(ns(connected));
            self.first_byte.saturating_record(ns(first));
            self.completed += u64::from(whole);
        }
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// `rate` clients a second for `seconds`, from `namespace`; returns when the last one has ended.
///
/// # Errors
/// A thread cannot enter the namespace.
pub fn run(namespace: &Namespace, rate: f64, seconds: f64, stop: &AtomicBool) -> anyhow::Result<Seen> {
    let total = (rate * seconds) as u64;
    let (next, begin) = (AtomicU64::new(0), Instant::now());
    let work = || -> anyhow::Result<Seen> {
        let mut seen = Seen::new()?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= total || stop.load(Ordering::Relaxed) {
                return Ok(seen);
            }
            let due = Duration::from_secs_f64(number as f64 / rate);
            std::thread::sleep(due.saturating_sub(begin.elapsed()));
            seen.one(begin.elapsed().saturating_sub(due));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| namespace.enter(work))).collect();
        let mut all = Seen::new()?;
        for thread in threads {
            all.add(&thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??)?;
        }
        Ok(all)
    })
}
