//! What of hand-over the running kernel can do.

use std::os::fd::AsFd;
use std::path::Path;

use libbpf_rs::btf::Btf;
use libbpf_rs::{Xdp, XdpFlags};

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

/// What an interface's driver does for XDP programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpDriver {
    /// It runs them itself, and carries out their redirections.
    pub native: bool,
    /// It fills AF_XDP sockets' memory without a copy.
    pub zero_copy: bool,
}

/// `NETDEV_XDP_ACT_BASIC | NETDEV_XDP_ACT_REDIRECT` of `linux/netdev.h`.
const NATIVE: u64 = 0b11;
/// `NETDEV_XDP_ACT_XSK_ZEROCOPY`.
const ZERO_COPY: u64 = 0b1000;

/// What the driver of the interface `ifindex` says that it does (netdev netlink, Linux 6.3 on).
///
/// # Errors
/// The interface is not there.
pub fn xdp_driver(ifindex: u32) -> Result<XdpDriver, BpfError> {
    // A query needs no program; the type wants some descriptor.
    let stdin = std::io::stdin();
    let index = i32::try_from(ifindex).unwrap_or(i32::MAX);
    let found = Xdp::new(stdin.as_fd()).query(index, XdpFlags::NONE);
    let flags =
        found.map_err(|source| BpfError::Attach { program: "a query", ifindex, source })?.feature_flags;
    Ok(XdpDriver { native: flags & NATIVE == NATIVE, zero_copy: flags & ZERO_COPY != 0 })
}
