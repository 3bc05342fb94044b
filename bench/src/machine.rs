//! What a figure was measured on.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The machine and the versions that matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model name by the kernel.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Kernel release.
    pub kernel: String,
    /// DPDK's version at run time.
    pub dpdk: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: model.map_or("unknown CPU", |(_, name)| name.trim()).to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: kernel.trim().to_owned(),
            dpdk: dpdk::version(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cpus, kernel, dpdk } = self;
        write!(f, "{cpu}, {cpus} CPUs, TSC {:.2} GHz, Linux {kernel}, {dpdk}", tsc_hz() / 1e9)
    }
}

/// Ticks of the time stamp counter in a second: measured, for it takes no running EAL.
pub fn tsc_hz() -> f64 {
    let (from, start) = (dpdk::rdtsc(), Instant::now());
    std::thread::sleep(Duration::from_millis(50));
    let (to, elapsed) = (dpdk::rdtsc(), start.elapsed());
    to.wrapping_sub(from) as f64 / elapsed.as_secs_f64()
}
