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
mod output;
pub mod packets;
pub mod pcap;
pub mod peers;
pub mod places;
pub mod plot;
pub mod service;
pub mod stack;
pub mod stages;
pub mod time;

/// Says on standard error, if that can be written to, why `program` ends; with its causes.
pub fn note(error: &anyhow::Error, program: &str) {
    output::on_stderr(format_args!("{program}: {error:#}\n"));
}
