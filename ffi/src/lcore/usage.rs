//! How busy lcores are, for DPDK's own commands: `/eal/lcore/usage` and `/eal/lcore/info` of its telemetry.

use std::ffi::{c_int, c_uint};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use dpdk_sys as sys;

use crate::{DpdkError, Eal, LcoreId};

const ENOTSUP: i32 = 95;

/// What an lcore did with its time, in ticks of [`crate::tsc_hz`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LcoreUsage {
    /// Since it began to work.
    pub total_cycles: u64,
    /// Of these, with something to do.
    pub busy_cycles: u64,
}

type Answer = Arc<dyn Fn(LcoreId) -> Option<LcoreUsage> + Send + Sync>;

/// DPDK passes the callback nothing of ours, so it is global, as it is in DPDK.
static ANSWER: Mutex<Option<Answer>> = Mutex::new(None);

impl Eal {
    /// Has DPDK ask `answer` how busy an lcore is; none for those of which nothing is known. It takes the place of the one
    /// before, stays until the process ends, and is called on threads of DPDK's.
    ///
    /// # Errors
    /// ENOTSUP: built with a DPDK older than 23.03, which has nobody to ask.
    ///
    /// # Source
    /// `rte_lcore_register_usage_cb` (rte_lcore.h).
    pub fn report_lcore_usage(
        &self,
        answer: impl Fn(LcoreId) -> Option<LcoreUsage> + Send + Sync + 'static,
    ) -> Result<(), DpdkError> {
        let _one_at_a_time = self.state();
        *ANSWER.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(answer));
        // SAFETY:
        // - Lifetime: `dispatch` is a function of this program and captures nothing.
        // - Race: `state` is locked, so the shim's pointer has one writer, and it is written before DPDK has the shim's
        //   callback to read it; afterwards the same value is written.
        let rc = unsafe { sys::shim_rte_lcore_register_usage_cb(Some(dispatch)) };
        DpdkError::check("rte_lcore_register_usage_cb", "", rc).map_err(|error| match error.errno {
            ENOTSUP => error.hint(["DPDK has it from 23.03 on".into()]),
            _ => error,
        })
    }
}

/// DPDK's callback, by way of the shim: writes both numbers, or answers that there are none.
unsafe extern "C" fn dispatch(lcore_id: c_uint, total_cycles: *mut u64, busy_cycles: *mut u64) -> c_int {
    let answer = ANSWER.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // A panic must not reach C.
    let usage =
        answer.and_then(|answer| catch_unwind(AssertUnwindSafe(|| answer(LcoreId(lcore_id)))).ok().flatten());
    let Some(usage) = usage else { return -ENOTSUP };
    // SAFETY: the shim passes two members of a struct that is DPDK's caller's during the call, never null (rte_lcore.h).
    unsafe {
        total_cycles.write(usage.total_cycles);
        busy_cycles.write(usage.busy_cycles);
    }
    0
}
