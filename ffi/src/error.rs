//! The one error of this crate: which DPDK call, on what, and what DPDK printed meanwhile.

use std::ffi::CStr;
use std::fmt;

use dpdk_sys as sys;

/// A DPDK call that said no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DpdkError {
    /// The function of DPDK, by its name.
    pub call: &'static str,
    /// Positive errno; DPDK's own start at 1001.
    pub errno: i32,
    subject: Box<str>,
    hints: Box<[String]>,
}

impl DpdkError {
    /// From a return value that is a negative errno.
    pub(crate) fn from_rc(call: &'static str, rc: i32) -> Self {
        Self { call, errno: rc.saturating_abs(), subject: Box::default(), hints: Box::default() }
    }

    /// From this thread's `rte_errno`, for calls that answer -1 or a null pointer.
    pub(crate) fn from_rte_errno(call: &'static str) -> Self {
        // SAFETY: reads a thread-local int.
        Self::from_rc(call, unsafe { sys::shim_rte_errno() })
    }

    /// `rc` as a result: a negative one is the error of `call` on `subject`.
    pub(crate) fn check(call: &'static str, subject: &str, rc: i32) -> Result<(), Self> {
        if rc < 0 { Err(Self::from_rc(call, rc).on(subject)) } else { Ok(()) }
    }

    /// Names what the call was about: a device, a port, an option.
    pub(crate) fn on(mut self, subject: &str) -> Self {
        self.subject = subject.into();
        self
    }

    /// Adds what DPDK printed, or a next step of ours.
    pub(crate) fn hint(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        let mut hints = std::mem::take(&mut self.hints).into_vec();
        hints.extend(lines);
        self.hints = hints.into();
        self
    }

    /// What the call was about, or an empty string.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What DPDK printed during the call, then our own advice; one sentence each.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

impl fmt::Display for DpdkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.call)?;
        if !self.subject.is_empty() {
            write!(f, " on {:?}", self.subject)?;
        }
        write!(f, ": {} (errno {})", strerror(self.errno), self.errno)?;
        for hint in &self.hints {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DpdkError {}

fn strerror(errno: i32) -> String {
    // Half of DPDK returns a bare -1 for any failure.
    if errno == 1 {
        return "failed, or not permitted".into();
    }
    // SAFETY: `rte_strerror` answers with a per-lcore buffer or a literal, never null; copied at once.
    unsafe { CStr::from_ptr(sys::rte_strerror(errno)) }.to_string_lossy().into_owned()
}
