//! A [`Reporter`] for the control thread and those threads of DPDK's that answer telemetry.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{CoreReport, LOOK_EVERY, Reporter};

/// Clones share one reporter. Two that ask at once both wait until all workers have answered the later one.
#[derive(Clone, Debug)]
pub struct SharedReporter(Arc<Mutex<Reporter>>);

impl From<Reporter> for SharedReporter {
    fn from(reporter: Reporter) -> Self {
        Self(Arc::new(Mutex::new(reporter)))
    }
}

impl SharedReporter {
    /// The reporter, for one at a time. A snapshot that panicked half-way has left numbers of different moments, as any later
    /// one may find them.
    pub fn lock(&self) -> MutexGuard<'_, Reporter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Reporter::refresh`], and holds up no other thread meanwhile.
    pub fn refresh(&self, timeout: Duration) {
        let asked = Instant::now();
        self.lock().ask();
        while self.lock().collect() > 0 && asked.elapsed() < timeout {
            std::thread::sleep(LOOK_EVERY);
        }
        self.lock().settle();
    }

    /// For who may outlive the run: asks as [`Self::refresh`] as long as there is one.
    pub fn weak(&self) -> impl Fn(Duration) -> Option<Vec<CoreReport>> + Send + Sync + use<> {
        let weak: Weak<Mutex<Reporter>> = Arc::downgrade(&self.0);
        move |timeout| {
            let reporter = Self(weak.upgrade()?);
            reporter.refresh(timeout);
            Some(reporter.lock().reports())
        }
    }
}
