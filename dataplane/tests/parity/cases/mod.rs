//! The conversations, by what the server holds when they begin. `kernel-listen` names in comments are functions of
//! Linux v6.18.

mod closed;
mod established;
mod ip;
mod listen;
mod neighbour;
mod overflow;
mod request;
mod time_wait;

use super::compare::{ATTEMPTS, Case, Families};
use super::frame::{self, option};
use super::server::{Setup, Then};
use super::talk::Talk;

/// Nobody listens here.
pub const CLOSED: u16 = 7999;
/// Finished handshakes wait for an accept that does not come.
pub const QUEUE: u16 = 7000;
/// Data is read and dropped.
pub const DISCARD: u16 = 7001;
/// Closed at once.
pub const CLOSE: u16 = 7002;
/// Reset at once.
pub const RESET: u16 = 7003;
/// On every address of both families at once.
pub const ANY: u16 = 7004;
/// Waits for data for 3 s.
pub const DEFER: u16 = 7005;
/// From here on, one listener with a small backlog for each case that fills it, and for each attempt.
pub const SMALL: u16 = 7100;

/// The cases so far.
#[derive(Default)]
pub struct Cases {
    pub all: Vec<Case>,
    group: &'static str,
}

impl Cases {
    fn group(&mut self, group: &'static str) {
        self.group = group;
    }

    fn add(&mut self, name: impl Into<String>, dport: u16, script: impl Fn(&mut Talk<'_>) + 'static) {
        self.add_for(Families::Both, name, dport, script);
    }

    fn add_for(
        &mut self,
        families: Families,
        name: impl Into<String>,
        dport: u16,
        script: impl Fn(&mut Talk<'_>) + 'static,
    ) {
        let stride = u16::from(dport >= SMALL && dport != CLOSED);
        let (group, name) = (self.group, name.into());
        self.all.push(Case { group, name, families, dport, stride, script: Box::new(script) });
    }
}

/// With nothing but defaults.
pub fn with_defaults() -> (Setup, Vec<Case>) {
    let mut setup = Setup::default()
        .listen(QUEUE, 4096, Then::Queue, 0)
        .listen(DISCARD, 4096, Then::Discard, 0)
        .listen(CLOSE, 4096, Then::Close, 0)
        .listen(RESET, 4096, Then::Reset, 0)
        .listen(DEFER, 4096, Then::Queue, 3)
        .listen_any(ANY, Then::Queue);
    let mut cases = Cases::default();
    closed::add(&mut cases);
    listen::add(&mut cases);
    request::add(&mut cases);
    established::add(&mut cases);
    time_wait::add(&mut cases);
    ip::add(&mut cases);
    neighbour::add(&mut cases);
    for (slot, backlog) in (0..).zip(overflow::add(&mut cases)) {
        for attempt in 0..ATTEMPTS {
            setup = setup.listen(overflow::port(slot) + attempt, backlog, Then::Queue, 0);
        }
    }
    (setup, cases.all)
}

/// With `tcp_syncookies` = 2: every SYN gets a cookie.
pub fn with_cookies() -> (Setup, Vec<Case>) {
    let setup = Setup::default()
        .listen(QUEUE, 4096, Then::Queue, 0)
        .listen(DISCARD, 4096, Then::Discard, 0)
        .sysctl("tcp_syncookies", "2");
    let mut cases = Cases::default();
    listen::add_cookies(&mut cases);
    (setup, cases.all)
}

/// With `tcp_abort_on_overflow`, and without cookies.
pub fn with_abort_on_overflow() -> (Setup, Vec<Case>) {
    let mut setup = Setup::default().sysctl("tcp_syncookies", "0").sysctl("tcp_abort_on_overflow", "1");
    let mut cases = Cases::default();
    for (slot, backlog) in (0..).zip(overflow::add_without_cookies(&mut cases)) {
        for attempt in 0..ATTEMPTS {
            setup = setup.listen(overflow::port(slot) + attempt, backlog, Then::Queue, 0);
        }
    }
    (setup, cases.all)
}

/// With every option that a sysctl forbids forbidden.
pub fn without_options() -> (Setup, Vec<Case>) {
    let setup = Setup::default()
        .listen(QUEUE, 4096, Then::Queue, 0)
        .sysctl("tcp_sack", "0")
        .sysctl("tcp_timestamps", "0")
        .sysctl("tcp_window_scaling", "0")
        .sysctl("tcp_ecn", "0");
    let mut cases = Cases::default();
    listen::add_options(&mut cases, "options without sysctls", QUEUE);
    (setup, cases.all)
}

/// What a SYN carries in cases that are not about it.
fn plain() -> Vec<u8> {
    option::mss(1460)
}

/// Flags as letters.
fn letters(flags: u16) -> String {
    let names = ["F", "S", "R", "P", "A", "U", "E", "W", "e"];
    let set = names.iter().enumerate().filter(|(bit, _)| flags & 1 << bit != 0);
    let set: String = set.map(|(_, name)| *name).collect();
    if set.is_empty() { "none".into() } else { set }
}

/// All eight control bits in every combination.
fn all_flags() -> impl Iterator<Item = u16> {
    0..=0xff
}

/// The four that move a connection, in every combination.
fn main_flags() -> impl Iterator<Item = u16> {
    all_flags().filter(|flags| flags & !(frame::FIN | frame::SYN | frame::RST | frame::ACK) == 0)
}
