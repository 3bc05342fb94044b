//! Linux's listen() and passive open as a library: no device, no I/O, no clock, no threads.
#![deny(unsafe_code)]

mod af_inet;
pub mod api;
mod bind_table;
#[allow(unsafe_code)]
mod bucket;
pub mod config;
pub mod conn_shared;
mod control;
pub mod core;
mod devices;
pub mod drop_reason;
pub mod ehash;
pub mod error;
mod inet_connection_sock;
pub mod inet_hashtables;
pub mod limits;
pub mod listen_sock;
#[cfg(feature = "oracle")]
pub mod oracle;
pub mod request_sock;
pub mod segment;
pub mod siphash;
pub mod snmp;
mod sock;
pub mod sock_reuseport;
pub mod sockaddr;
pub mod sockopt;
pub mod sync;
pub mod syncookies;
pub mod sysctl;
mod tcp;
mod tcp_input;
mod tcp_ipv4;
mod tcp_minisocks;
mod tcp_output;
mod tcp_timer;
pub mod timer;
pub mod types;

pub use api::Stack;
pub use core::Core;
