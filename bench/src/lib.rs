//! Comparisons and load for hearken.
#![forbid(unsafe_code)]

pub mod frames;
pub mod pcap;
