//! Comparisons and load for hearken.
#![forbid(unsafe_code)]

pub mod compare;
pub mod frames;
pub mod generator;
pub mod handshakes;
pub mod load;
pub mod lookup;
pub mod machine;
pub mod observe;
pub mod packets;
pub mod pcap;
pub mod peers;
pub mod places;
pub mod plot;
pub mod service;
pub mod stack;
pub mod stages;
pub mod time;
