//! What of hand-over the running kernel can do.

use std::path::Path;

use libbpf_rs::btf::Btf;

use crate::BpfError;

/// The kernel function that makes a connection of a verified ACK.
const FUNCTION: &str = "bpf_sk_assign_tcp_reqsk";

/// The kernel's types are there.
///
/// # Errors
/// They are not.
pub fn btf() -> Result<(), BpfError> {
    if Path::new("/sys/kernel/btf/vmlinux").exists() { Ok(()) } else { Err(BpfError::NoBtf) }
}

/// Hand-over is there: asked for by the function's presence, since distributions backport.
///
/// # Errors
/// What is missing.
pub fn handover() -> Result<(), BpfError> {
    btf()?;
    let btf = Btf::from_vmlinux().map_err(|_| BpfError::NoBtf)?;
    let found = btf.type_by_name::<libbpf_rs::btf::types::Func<'_>>(FUNCTION);
    if found.is_some() { Ok(()) } else { Err(BpfError::NoFunction { function: FUNCTION, since: "6.9" }) }
}
