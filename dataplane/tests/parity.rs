//! hearken answers on the wire as Linux does: see `parity/mod.rs`.
//!
//! With `HEARKEN_PARITY_DIR` set to a folder, all that either said is written there as text.

#![cfg(feature = "dpdk")]

mod lab;
#[path = "parity/mod.rs"]
mod parity;

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use lab::skip;
use parity::cases;
use parity::compare::{Case, Known, Trace, compare, run, text};
use parity::known;
use parity::server::{Server, Setup};
use parity::times;

/// Polling workers want a core each.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits for this test's turn and stays on one core: frames sent from two may overtake each other.
fn my_turn() -> MutexGuard<'static, ()> {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut first = CpuSet::new();
    first.set(0).expect("there is a core");
    if let Err(error) = sched_setaffinity(Pid::from_raw(0), &first) {
        eprintln!("cannot stay on the first core: {error}");
    }
    turn
}

fn or_skip<T>(server: io::Result<T>) -> Option<T> {
    server.map_err(|error| skip("wire parity", error)).ok()
}

fn on_kernel(name: &'static str, setup: &Setup, cases: &[Case]) -> Option<Vec<Trace>> {
    let server = or_skip(Server::kernel(name, setup))?;
    Some(said(&server, cases))
}

/// What `server` says, written down if that is asked for.
fn said(server: &Server, cases: &[Case]) -> Vec<Trace> {
    let traces = run(server, cases);
    if let Some(dir) = std::env::var_os("HEARKEN_PARITY_DIR") {
        let file = format!("{} {}.txt", cases[0].group, server.name);
        std::fs::write(Path::new(&dir).join(file), text(&traces)).expect("the folder can be written to");
    }
    traces
}

/// Every conversation of `what` with Linux and with hearken: no difference but those in `known`.
fn parity(what: (Setup, Vec<Case>), known: &[Known]) {
    parity_in(None, what, known);
}

/// The same; hearken's frames all carry the tag `tci`, Linux's none.
fn parity_in(tci: Option<u16>, (setup, cases): (Setup, Vec<Case>), known: &[Known]) {
    let _turn = my_turn();
    let Some(kernel) = on_kernel("Linux", &setup, &cases) else { return };
    let program = Path::new(env!("CARGO_BIN_EXE_hearken"));
    let Some(mut server) = or_skip(Server::hearken(program, &setup)) else { return };
    server.wire.tci = tci;
    let hearken = said(&server, &cases);
    let (status, said) = server.hearken.take().expect("it runs").stop().expect("it ends");
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{said}");
    if let Err(said) = compare(&kernel, &hearken, known) {
        panic!("{said}");
    }
}

/// The method itself: Linux does not differ from Linux. Asked twice at most: an IPv6 flow label is a hash of 20 bits, so
/// of a hundred runs one or two meet one that is 0 by chance.
#[test]
fn linux_is_linux() {
    let _turn = my_turn();
    for (setup, cases) in [
        cases::with_defaults(),
        cases::with_cookies(),
        cases::with_abort_on_overflow(),
        cases::without_options(),
    ] {
        let mut differ = None;
        for _ in 0..2 {
            let Some(first) = on_kernel("Linux", &setup, &cases) else { return };
            let Some(second) = on_kernel("Linux again", &setup, &cases) else { return };
            eprintln!("{} cases", first.len());
            differ = compare(&first, &second, &[]).err();
            match &differ {
                Some(said) => eprintln!("{said}"),
                None => break,
            }
        }
        assert_eq!(differ, None);
    }
}

#[test]
fn with_defaults() {
    parity(cases::with_defaults(), known::WITH_DEFAULTS);
}

/// In a VLAN: hearken answers with the tag that it was asked with, and otherwise as if there were none. A kernel with VLAN
/// devices would be the better peer, but not every one has them; so the tag is put on and taken off here, and Linux speaks
/// without. The matrices are left out: a tag does not know them apart.
#[test]
fn in_a_vlan() {
    let (setup, mut cases) = cases::with_defaults();
    cases.retain(|case| !case.group.contains("matrix"));
    let known: Vec<_> =
        known::WITH_DEFAULTS.iter().filter(|known| !known.cases.contains("matrix")).copied().collect();
    parity_in(Some(0x6005), (setup, cases), &known);
}

/// When SYN-ACKs go out again, and when a request is given up: `parity/times.rs`.
#[test]
fn synacks_go_out_again_when_linuxs_do() {
    let _turn = my_turn();
    let long = std::env::var_os("HEARKEN_LONG").is_some();
    let setup = times::setup(long);
    let Some(linux) = or_skip(Server::kernel("Linux", &setup)) else { return };
    let program = Path::new(env!("CARGO_BIN_EXE_hearken"));
    let Some(hearken) = or_skip(Server::hearken(program, &setup)) else { return };
    times::compare(&linux, &hearken, long);
}

#[test]
fn with_cookies() {
    parity(cases::with_cookies(), known::WITH_COOKIES);
}

#[test]
fn with_abort_on_overflow() {
    parity(cases::with_abort_on_overflow(), known::WITH_ABORT_ON_OVERFLOW);
}

#[test]
fn without_options() {
    parity(cases::without_options(), known::WITHOUT_OPTIONS);
}
