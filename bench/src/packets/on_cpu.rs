//! How long a program's polling thread has had a CPU, by the kernel's own account.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// Nanoseconds on a CPU by thread id, and when that was read.
#[derive(Clone, Debug)]
pub struct OnCpu {
    at: Instant,
    threads: HashMap<u32, u64>,
}

impl OnCpu {
    /// The threads of process `pid` now.
    ///
    /// # Errors
    /// There is no such process, or the kernel keeps no such account (CONFIG_SCHED_INFO).
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let mut threads = HashMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            let tid = task.file_name().to_str().and_then(|tid| tid.parse().ok()).context("a thread id")?;
            // A thread may have ended since.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let ns = text.split_whitespace().next().and_then(|word| word.parse().ok());
            threads.insert(tid, ns.context("/proc/PID/task/TID/schedstat")?);
        }
        ensure!(!threads.is_empty(), "the kernel does not say how long threads have run");
        Ok(Self { at: Instant::now(), threads })
    }

    /// What the busiest thread has had since `earlier`, and the share that this is of the time that passed.
    pub fn busiest_since(&self, earlier: &Self) -> (Duration, f64) {
        let busiest = Duration::from_nanos(self.each_since(earlier).max().unwrap_or(0));
        (busiest, busiest.as_secs_f64() / self.at.duration_since(earlier.at).as_secs_f64())
    }

    /// What all other threads have had since `earlier`, as a share of the time that passed.
    pub fn others_since(&self, earlier: &Self) -> f64 {
        let all: u64 = self.each_since(earlier).sum();
        let passed = self.at.duration_since(earlier.at);
        Duration::from_nanos(all).saturating_sub(self.busiest_since(earlier).0).as_secs_f64()
            / passed.as_secs_f64()
    }

    fn each_since(&self, earlier: &Self) -> impl Iterator<Item = u64> {
        let since =
            |(tid, ns): (&u32, &u64)| ns.saturating_sub(earlier.threads.get(tid).copied().unwrap_or(0));
        self.threads.iter().map(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_thread_counts_and_new_ones_from_nothing() {
        let at = Instant::now();
        let ms = |ms: u64| ms * 1_000_000;
        let earlier = OnCpu { at, threads: HashMap::from([(1, ms(100)), (2, ms(7))]) };
        let at = at + Duration::from_millis(60);
        let later = OnCpu { at, threads: HashMap::from([(1, ms(130)), (3, ms(10))]) };
        let (busy, share) = later.busiest_since(&earlier);
        assert_eq!(busy, Duration::from_millis(30));
        assert!((share - 0.5).abs() < 1e-9, "{share}");
        let others = later.others_since(&earlier);
        assert!((others - 1.0 / 6.0).abs() < 1e-9, "{others}");
    }

    #[test]
    fn a_spinning_thread_is_seen() {
        let pid = std::process::id();
        let before = OnCpu::of(pid).expect("we are there");
        let start = Instant::now();
        while OnCpu::of(pid).expect("still").busiest_since(&before).0 < Duration::from_millis(1) {
            assert!(start.elapsed() < Duration::from_secs(30), "the kernel keeps no account of us");
        }
    }
}
