//! `hearken-load`: SYNs at a given rate against any TCP listener, and a judgement of every answer.
//!
//! # Open loop
//! Flow number `n` has a time at which its SYN should leave ([`schedule`]), whatever has become of the flows before it.
//! Latency counts from that time, so a server that stalls cannot hide it by keeping the generator from asking.
//!
//! # No table of flows
//! Everything about a flow is a function of its number: source address and port ([`space`]), destination ([`targets`]),
//! initial sequence number ([`Space::isn`]), time stamp, scheduled time. An answer's addresses and ACK number lead back
//! to the number, whose whole answer is then known and compared field by field ([`answer`]). What is remembered is one
//! bit a flow, within a window: whether it has been answered ([`seen`]).
//!
//! # Threads
//! One [`engine::Engine`] a core and queue pair, generic over [`dataplane::io::PacketIo`]; it allocates nothing once it
//! runs. Any of them can judge any answer, so it does not matter which queue the device gives it to.

pub mod answer;
pub mod cli;
pub mod copies;
pub mod cost;
pub mod device;
pub mod engine;
pub mod find_max;
pub mod neighbour;
pub mod netns;
pub mod plan;
pub mod replay;
pub mod report;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod seen;
pub mod session;
pub mod shield;
pub mod space;
pub mod spec;
pub mod surroundings;
pub mod tally;
pub mod targets;
pub mod template;
pub mod throughput;
pub mod versus;

pub use space::Space;
