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
        let since =
            |(tid, ns): (&u32, &u64)| ns.saturating_sub(earlier.threads.get(tid).copied().unwrap_or(0));
        let busiest = Duration::from_nanos(self.threads.iter().map(since).max().unwrap_or(0));
        (busiest, busiest.as_secs_f64() / self.at.duration_since(earlier.at).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spinning_thread_is_the_busiest() {
        let pid = std::process::id();
        let before = OnCpu::of(pid).expect("we are there");
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let (busy, share) = OnCpu::of(pid).expect("still").busiest_since(&before);
        assert!(busy > Duration::from_micros(500), "{busy:?}");
        assert!(share > 0.0 && share <= 1.01, "{share}");
    }
}
