//! DPDK's log as `tracing` events (target `dpdk`), and the lines of one call for its error.
//!
//! One stream for the whole life of the process: to swap streams per call would free one under a driver's
//! own thread that is just printing.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_long, c_void};
use std::sync::Once;

use dpdk_sys as sys;

thread_local! {
    /// Lines of this thread while it is inside [`captured`]; `None` otherwise.
    static CAPTURE: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Sends DPDK's log here, from now on.
pub(crate) fn install() {
    static OPEN: Once = Once::new();
    OPEN.call_once(|| {
        let functions =
            sys::cookie_io_functions_t { read: None, write: Some(write), seek: None, close: None };
        // SAFETY:
        // - `write` keeps to fopencookie's contract and ignores the cookie; the mode is a C string.
        // - A null stream (no memory) makes DPDK fall back to stderr.
        // - Lifetime: the stream is never closed.
        unsafe {
            let stream = sys::fopencookie(std::ptr::null_mut(), c"w".as_ptr(), functions);
            sys::rte_openlog_stream(stream);
        }
    });
}

/// Runs `call`; also returns what DPDK printed on this thread meanwhile, from NOTICE up.
pub(crate) fn captured<R>(call: impl FnOnce() -> R) -> (R, Vec<String>) {
    let outer = CAPTURE.replace(Some(Vec::new()));
    let answer = call();
    (answer, CAPTURE.replace(outer).unwrap_or_default())
}

/// stdio's write function: whole lines, since DPDK flushes after each message.
unsafe extern "C" fn write(_cookie: *mut c_void, bytes: *const c_char, len: usize) -> c_long {
    // SAFETY: stdio passes `len` readable bytes that stay put during this call.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) };
    // SAFETY: reads a thread-local int.
    let level: c_int = unsafe { sys::rte_log_cur_msg_loglevel() };
    let level = u32::try_from(level).unwrap_or(sys::RTE_LOG_DEBUG);
    for line in String::from_utf8_lossy(bytes).lines().map(str::trim).filter(|line| !line.is_empty()) {
        record(level, line);
    }
    c_long::try_from(len).unwrap_or(c_long::MAX)
}

fn record(level: u32, line: &str) {
    if level <= sys::RTE_LOG_NOTICE {
        // A thread that is just ending has no slot any more: its line goes to tracing alone.
        let _ = CAPTURE.try_with(|capture| {
            if let Ok(mut capture) = capture.try_borrow_mut()
                && let Some(lines) = capture.as_mut()
            {
                lines.push(line.to_owned());
            }
        });
    }
    // DPDK prints ERR for much that it then lives with ("No bpffs"); an error that matters is returned.
    if level <= sys::RTE_LOG_WARNING && !is_of_no_interest(line) {
        tracing::warn!(target: "dpdk", "{line}");
    } else if level <= sys::RTE_LOG_NOTICE && !is_of_no_interest(line) {
        tracing::info!(target: "dpdk", "{line}");
    } else if level <= sys::RTE_LOG_INFO {
        tracing::debug!(target: "dpdk", "{line}");
    } else {
        tracing::trace!(target: "dpdk", "{line}");
    }
}

/// True for what stands in nearly every log: that there are no pages of one of several sizes. Which memory is used, and why,
/// is said by whoever starts the EAL.
fn is_of_no_interest(line: &str) -> bool {
    line.contains("No free ") && line.contains(" hugepages reported on node ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_of_hugepages_that_is_not_there_is_no_warning() {
        assert!(is_of_no_interest("EAL: No free 1048576 kB hugepages reported on node 0"));
        assert!(!is_of_no_interest("EAL: No available 2048 kB hugepages reported"));
        assert!(!is_of_no_interest("EAL: Cannot get hugepage information."));
    }
}
