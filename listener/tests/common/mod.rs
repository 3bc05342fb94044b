//! What the replay example and several tests share: a host with clients in one process, on a virtual clock.
#![allow(dead_code, missing_docs, reason = "each user takes its part")]

pub mod client;
pub mod scenario;
pub mod world;
