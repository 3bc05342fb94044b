//! A [`Reporter`] for the control thread and those threads of DPDK's that answer telemetry.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::{CoreReport, Reporter};

/// Clones share one reporter; one of them asks the workers at a time, which takes as long as they take to answer.
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

    /// For who may outlive the run: asks as [`Reporter::snapshot`] as long as there is one.
    pub fn weak(&self) -> impl Fn(Duration) -> Option<Vec<CoreReport>> + Send + Sync + use<> {
        let weak: Weak<Mutex<Reporter>> = Arc::downgrade(&self.0);
        move |timeout| Some(Self(weak.upgrade()?).lock().snapshot(timeout))
    }
}
