//! hearken's packet path and control plane.
#![forbid(unsafe_code)]

pub mod config;
pub mod control;
pub mod io;
pub mod wire;
