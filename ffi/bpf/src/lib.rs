//! The kernel's side of hearken, as safe handles over libbpf.
//!
//! - [`Claim`]: an XDP program that sends the SYNs of claimed endpoints to hearken's AF_XDP socket, and all else the kernel's way.
//! - [`Handover`]: a tc program that turns a verified ACK into a connection of the kernel's own listener.
//! - [`Listeners`]: the kernel's listeners, and word of changes.
//! - [`support`]: what of this the running kernel can do.
//!
//! The programs are C (`src/bpf`), compiled when this crate is built, and relocated to the running kernel by its BTF when
//! they are loaded.
//!
//! # Errors
//! [`BpfError`] names the step that failed and what to do next.
#![forbid(unsafe_code)]

pub mod claim;
mod error;
pub mod flood;
pub mod handover;
pub mod listeners;
mod maps;
pub mod support;
pub mod wire;

use std::net::{IpAddr, SocketAddr};

pub use claim::Claim;
pub use error::BpfError;
pub use handover::{CookieKey, Handover, Settings};
pub use listeners::{KernelListener, Listeners};

/// Aligns an object file for libbpf, which reads its ELF headers in place.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

/// Sends what libbpf has to say to the log, at level debug: of what fails, errors tell more.
pub fn log_to_tracing() {
    libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Debug, |_, line| {
        tracing::debug!("{}", line.trim_end())
    })));
}

/// An address as the programs read it: 16 octets in network order, IPv4 as `::ffff:a.b.c.d`.
pub fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An address and port whose SYNs are hearken's; `0.0.0.0` and `::` stand for every address of their family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint(pub SocketAddr);

impl Endpoint {
    /// `struct endpoint` of `kernel.h`.
    fn octets(self) -> [u8; 20] {
        let mut key = [0; 20];
        key[..16].copy_from_slice(&octets(self.0.ip()));
        key[16..18].copy_from_slice(&self.0.port().to_ne_bytes());
        key
    }
}
