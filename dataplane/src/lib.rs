//! hearken's packet path and control plane.
#![forbid(unsafe_code)]

pub mod burst;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod doctor;
pub mod hex;
pub mod histogram;
pub mod http;
pub mod io;
#[cfg(feature = "kernel")]
pub mod kernel;
pub mod local;
pub mod log;
pub mod metrics;
pub mod names;
pub mod output;
pub mod protocol;
pub mod report;
pub mod savefile;
pub mod stage;
pub mod start;
pub mod stats;
pub mod summary;
pub mod wire;
pub mod worker;
