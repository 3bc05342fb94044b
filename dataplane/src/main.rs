//! hearken: the listening half of TCP, on DPDK.
#![forbid(unsafe_code)]

fn main() {}
