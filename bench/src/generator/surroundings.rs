//! What else the machine did during a run, by the kernel's account: a run whose threads had to wait measures their waiting.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

/// Counters that grow, at one time.
#[derive(Debug)]
pub struct Snapshot {
    at: Instant,
    /// Of each thread of this process: its name, and nanoseconds that it was ready to run and had no CPU.
    threads: BTreeMap<u32, (String, u64)>,
    /// Ticks that a hypervisor took from all CPUs, and all ticks.
    stolen: (u64, u64),
    /// Microseconds in which some task of the machine was ready to run and had no CPU; none where the kernel does not count.
    pressure_us: Option<u64>,
}

/// What happened between two snapshots, in shares of the time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// Threads of this process that lived throughout, by name: how long they waited for a CPU.
    pub threads: Vec<(String, f64)>,
    /// What a hypervisor took of the CPUs.
    pub stolen: f64,
    /// How long some task of the machine waited for a CPU, if the kernel counts it.
    pub pressure: Option<f64>,
}

impl Snapshot {
    /// What the kernel says now. What it does not say counts as nothing.
    pub fn take() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let pressure = fs::read_to_string("/proc/pressure/cpu").ok();
        Self {
            at: Instant::now(),
            threads: threads(),
            stolen: stolen(&stat).unwrap_or_default(),
            pressure_us: pressure.as_deref().and_then(some_total),
        }
    }

    /// What has happened since `earlier`.
    pub fn since(&self, earlier: &Self) -> Surroundings {
        let ns = self.at.duration_since(earlier.at).as_nanos().max(1) as f64;
        let both = self.threads.iter().filter_map(|(id, (name, to))| {
            let (_, from) = earlier.threads.get(id)?;
            Some((name.clone(), to.saturating_sub(*from) as f64 / ns))
        });
        let (stolen, all) = (self.stolen.0 - earlier.stolen.0.min(self.stolen.0), self.stolen.1);
        let pressure = self.pressure_us.zip(earlier.pressure_us);
        Surroundings {
            threads: both.collect(),
            stolen: stolen as f64 / all.saturating_sub(earlier.stolen.1).max(1) as f64,
            pressure: pressure.map(|(to, from)| to.saturating_sub(from) as f64 * 1000.0 / ns),
        }
    }
}

fn threads() -> BTreeMap<u32, (String, u64)> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let thread = |task: fs::DirEntry| {
        let id = task.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let waited = schedstat.split_whitespace().nth(1)?.parse().ok()?;
        Some((id, (name.trim().to_owned(), waited)))
    };
    tasks.filter_map(thread).collect()
}

/// Ticks that were stolen, and all, of the line of all CPUs.
fn stolen(stat: &str) -> Option<(u64, u64)> {
    let ticks = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = ticks.split_whitespace().map_while(|tick| tick.parse().ok()).collect();
    // Behind "guest" they are counted a second time.
    Some((*ticks.get(7)?, ticks.iter().take(8).sum()))
}

/// `total` of the line `some`.
fn some_total(pressure: &str) -> Option<u64> {
    let line = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_accounts_are_read() {
        let stat = "cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 9 9 9 9 9 9 9 9 9 9\n";
        assert_eq!((stolen(stat), stolen("intr 5")), (Some((8, 36)), None));
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=4711\nfull avg10=0.00 total=0\n";
        assert_eq!((some_total(pressure), some_total("")), (Some(4711), None));
        let now = Snapshot::take();
        assert!(now.threads.keys().any(|id| *id == std::process::id()), "{now:?}");
    }

    #[test]
    fn what_happened_is_a_share_of_the_time() {
        let start = Instant::now();
        let at = |ms: u64, waited: u64, stolen: u64, pressure_us| Snapshot {
            at: start + std::time::Duration::from_millis(ms),
            threads: [(7, ("worker".to_owned(), waited))].into(),
            stolen: (stolen, 10 * ms),
            pressure_us,
        };
        let mut later = at(1000, 250_000_000, 500, Some(130_000));
        later.threads.insert(8, ("new".to_owned(), 5));
        let found = later.since(&at(500, 0, 0, Some(30_000)));
        let worker = ("worker".to_owned(), 0.5);
        assert_eq!(found, Surroundings { threads: vec![worker], stolen: 0.1, pressure: Some(0.2) });
        assert_eq!(later.since(&at(500, 0, 0, None)).pressure, None);
    }
}
