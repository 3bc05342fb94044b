//! The control plane: one thread that owns the stack and answers on a Unix socket.
//!
//! [`proto`] is what is said there, [`server`] the end that must survive anybody, [`client`] the other,
//! and [`service`] what each request does; [`reload`] changes what runs, [`cookie_keys`] the keys of SYN cookies, and
//! [`why`] tries a frame without a trace; [`capture`] shows frames with their verdicts.
//! [`numbers`] asks the workers without waiting for them.

mod beside;
pub mod capture;
pub mod client;
pub mod cookie_keys;
pub mod listeners;
pub mod numbers;
pub mod proto;
pub mod reload;
pub mod schema;
pub mod server;
pub mod service;
pub mod top;
pub mod why;
