//! Wire parity: one list of conversations, held with Linux and with hearken, compared field by field.
//!
//! A case ([`compare::Case`]) is a function over a [`talk::Talk`]: it sends frames made by [`frame`] through a raw
//! socket ([`raw`]) and records what comes back in words ([`reply`]) in which random numbers do not show. The
//! client's kernel takes no part: its end of the wire has no address.

#![allow(dead_code, reason = "the tests that share this use different parts")]

pub mod cases;
pub mod compare;
pub mod frame;
pub mod known;
pub mod raw;
pub mod reply;
pub mod server;
pub mod talk;
pub mod times;
