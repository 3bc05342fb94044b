//! Linux's listen() and passive open as a library: no device, no I/O, no clock, no threads.
#![deny(unsafe_code)]

pub mod drop_reason;
pub mod segment;
pub mod types;
