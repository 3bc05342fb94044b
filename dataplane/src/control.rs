//! The control plane: one thread that owns the stack and answers on a Unix socket.
//!
//! [`proto`] is what is said there, [`server`] the end that must survive anybody, [`client`] the other,
//! and [`service`] what each request does; [`reload`] changes what runs.

pub mod client;
pub mod proto;
pub mod reload;
pub mod server;
pub mod service;
