//! Comparisons and load for hearken.
#![forbid(unsafe_code)]

pub mod frames;
pub mod machine;
pub mod packets;
pub mod pcap;
pub mod stack;
pub mod stages;
