//! Linux's listen() and passive open as a library: no device, no I/O, no clock, no threads.
#![deny(unsafe_code)]

pub mod config;
pub mod drop_reason;
pub mod error;
pub mod inet_hashtables;
pub mod limits;
pub mod segment;
pub mod sock_reuseport;
pub mod sockaddr;
pub mod sockopt;
pub mod sync;
pub mod sysctl;
pub mod types;
