//! Commands of ours on DPDK's telemetry socket, which `dpdk-telemetry.py` asks.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use dpdk_sys as sys;

use crate::{DpdkError, Eal};

const EINVAL: i32 = 22;

/// What answers a command: from its parameters to names and numbers, or none for parameters that it does not know.
type Answer = Arc<dyn Fn(&str) -> Option<Vec<(String, u64)>> + Send + Sync>;

/// DPDK passes a callback nothing of ours but the command, so the commands are global, as they are in DPDK.
static ANSWERS: Mutex<BTreeMap<String, Answer>> = Mutex::new(BTreeMap::new());

impl Eal {
    /// Registers `command`, such as `/hearken/drops`, with a line of `help`. It stays until the process ends; `answer` is
    /// called on a thread of DPDK's and gets what stands behind the command's comma. Of its numbers the first 256 are
    /// shown.
    ///
    /// # Errors
    /// EINVAL: a command that does not begin with a slash, or one with a NUL byte. EEXIST: it is there already.
    pub fn telemetry_command(
        &self,
        command: &str,
        help: &str,
        answer: impl Fn(&str) -> Option<Vec<(String, u64)>> + Send + Sync + 'static,
    ) -> Result<(), DpdkError> {
        const CALL: &str = "rte_telemetry_register_cmd";
        let _one_at_a_time = self.state();
        let (Ok(name), Ok(help)) = (CString::new(command), CString::new(help)) else {
            return Err(DpdkError::from_rc(CALL, EINVAL).on(command));
        };
        // SAFETY:
        // - DPDK copies both strings.
        // - Lifetime: `dispatch` is a function of this program and captures nothing.
        let rc = unsafe { sys::rte_telemetry_register_cmd(name.as_ptr(), Some(dispatch), help.as_ptr()) };
        DpdkError::check(CALL, command, rc)?;
        let mut answers = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(command.to_owned(), Arc::new(answer));
        Ok(())
    }
}

/// DPDK's callback: finds the command's answer and writes it into `data`.
unsafe extern "C" fn dispatch(
    command: *const c_char,
    params: *const c_char,
    data: *mut sys::rte_tel_data,
) -> c_int {
    let text = |text: *const c_char| match text.is_null() {
        true => String::new(),
        // SAFETY: not null, so a C string of DPDK's that lives as long as this call.
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
    };
    let (command, params) = (text(command), text(params));
    let answer = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner).get(&command).cloned();
    // A panic must not reach C.
    let numbers = answer.and_then(|answer| catch_unwind(AssertUnwindSafe(|| answer(&params))).ok().flatten());
    let Some(numbers) = numbers else { return -EINVAL };
    // SAFETY: `data` is DPDK's, empty, and this thread's alone during the call.
    unsafe { sys::rte_tel_data_start_dict(data) };
    for (name, number) in numbers {
        let Ok(name) = CString::new(name) else { continue };
        // SAFETY: as above; the name is copied. A full dictionary, or a name with other signs than letters, digits,
        // `_` and `/`, is refused by DPDK and left out.
        unsafe { sys::shim_rte_tel_data_add_dict_uint(data, name.as_ptr(), number) };
    }
    0
}
