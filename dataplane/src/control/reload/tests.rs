use std::fs;
use std::path::Path;

use super::*;
use crate::control::proto::{Request, Which};
use crate::control::server::Peer;
use crate::control::service::tests::{TestDesk, ask, desk_on};

const ROOT: Peer = Peer { client: 1, uid: 0 };

const HEAD: &str = "[[port]]\nname = \"wan\"\ndevice = \"net_ring0\"\naddresses = [\"198.18.0.1/24\"]\n";

/// A desk that runs what `file` says.
fn start(file: &Path, rest: &str) -> TestDesk {
    write(file, rest);
    let config = Config::load(file).expect("a configuration");
    let mut desk = desk_on(config.sysctl.values());
    let listeners = crate::start::stack::open_listeners(&desk.stack, &config).expect("listeners");
    desk.loaded = Loaded { config, listeners };
    desk
}

fn write(file: &Path, rest: &str) {
    fs::write(file, format!("{HEAD}{rest}")).expect("a file");
}

fn changes(desk: &mut TestDesk, check: bool) -> Vec<String> {
    let reloaded = desk.reload(check).expect("a change that is allowed");
    assert_eq!((reloaded.applied, reloaded.total), (!check, reloaded.changes.len()));
    reloaded.changes.iter().map(ToString::to_string).collect()
}

/// Address, descriptor and backlog of each listener.
fn rows(desk: &TestDesk) -> Vec<String> {
    let rows = desk.stack.listeners();
    rows.iter().map(|row| format!("{} fd={} {}", local(row), row.fd.0, row.backlog)).collect()
}

/// Refused with `why`, and nothing is different.
#[track_caller]
fn refused(desk: &mut TestDesk, why: &str) {
    let before = (rows(desk), desk.stack.sysctl());
    let refusal = desk.reload(false).expect_err("a file that is refused").to_string();
    assert!(refusal.contains(why) && refusal.ends_with("\nNothing was changed."), "{refusal}");
    assert_eq!((rows(desk), desk.stack.sysctl()), before);
}

#[test]
fn listeners_come_go_and_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("h.toml");
    let two = "[[listener]]\naddr = \"198.18.0.1:80\"\n[[listener]]\naddr = \"198.18.0.1:81\"\n";
    let mut desk = start(&file, two);
    assert_eq!(changes(&mut desk, false), [""; 0]);
    write(
        &file,
        "[sysctl]\nsomaxconn = 100\n[[listener]]\naddr = \"198.18.0.1:81\"\nbacklog = 7\nthen = \"discard\"\n\
         [[listener]]\naddr = \"198.18.0.1:82\"\nreuseport = true\ndevice = \"wan\"\n",
    );
    let wanted = [
        "~ sysctl.somaxconn: (default) -> 100",
        "- listener 198.18.0.1:80, backlog 4096, then queue",
        "+ listener 198.18.0.1:82 on wan, backlog 4096, then queue, reuseport",
        "~ listener 198.18.0.1:81 backlog: 4096 -> 7",
        "~ listener 198.18.0.1:81 then: queue -> discard",
    ];
    assert_eq!(changes(&mut desk, true), wanted);
    assert_eq!(rows(&desk), ["198.18.0.1:80 fd=0 4096", "198.18.0.1:81 fd=1 4096"], "only asked");
    assert_eq!(changes(&mut desk, false), wanted);
    assert_eq!(rows(&desk), ["198.18.0.1:81 fd=1 7", "198.18.0.1:82 fd=2 100"]);
    assert_eq!(changes(&mut desk, false), [""; 0]);
    // A new clamp holds for those that stay, too.
    write(
        &file,
        "[sysctl]\nsomaxconn = 3\n[[listener]]\naddr = \"198.18.0.1:81\"\nthen = \"discard\"\nbacklog = 7\n",
    );
    assert_eq!(changes(&mut desk, false).len(), 2);
    assert_eq!(rows(&desk), ["198.18.0.1:81 fd=1 3"]);
    desk.stack.assert_invariants();
}

#[test]
fn ports_in_a_row_are_one_change() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("h.toml");
    let mut desk = start(&file, "[[listener]]\naddr = \"198.18.0.1:10-19\"\n");
    let moved = "[[listener]]\naddr = \"198.18.0.1:15-16,18-24,30\"\n";
    write(&file, moved);
    let wanted = [
        "- listener 198.18.0.1:10-14, backlog 4096, then queue",
        "- listener 198.18.0.1:17, backlog 4096, then queue",
        "+ listener 198.18.0.1:20-24, backlog 4096, then queue",
        "+ listener 198.18.0.1:30, backlog 4096, then queue",
    ];
    assert_eq!(changes(&mut desk, false), wanted);
    assert_eq!(desk.stack.listeners().len(), 10);
    write(&file, &format!("{moved}backlog = 7\n"));
    let wanted = [
        "~ listener 198.18.0.1:15-16 backlog: 4096 -> 7",
        "~ listener 198.18.0.1:18-24 backlog: 4096 -> 7",
        "~ listener 198.18.0.1:30 backlog: 4096 -> 7",
    ];
    assert_eq!(changes(&mut desk, false), wanted);
    assert_eq!(changes(&mut desk, false), [""; 0]);
}

#[test]
fn one_address_is_taken_over_from_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("h.toml");
    let mut desk = start(&file, "[[listener]]\naddr = \"198.18.0.1:80\"\n");
    write(&file, "[[listener]]\naddr = \"0.0.0.0:80\"\n[[listener]]\naddr = \"0.0.0.0:81\"\n");
    assert_eq!(changes(&mut desk, false).len(), 2);
    let mut addresses: Vec<String> =
        desk.stack.listeners().iter().map(|row| local(row).to_string()).collect();
    addresses.sort_unstable();
    assert_eq!(addresses, ["0.0.0.0:80", "0.0.0.0:81"]);
    desk.stack.assert_invariants();
}

#[test]
fn what_was_opened_or_closed_by_hand_is_known() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("h.toml");
    let mut desk = start(&file, "[[listener]]\naddr = \"198.18.0.1:80\"\n");
    let which =
        |addr: &str| Which { addr: addr.parse().expect("an address"), device: None, fd: None, all: false };
    let by_hand = Listen {
        addr: "198.18.0.1:90".parse().expect("an address"),
        ..Listen::clone(&desk.loaded.listeners[0].listen)
    };
    ask(&mut desk, ROOT, Request::Close(which("198.18.0.1:80"))).expect("it is there");
    ask(&mut desk, ROOT, Request::Listen(by_hand)).expect("a free port");
    assert_eq!(changes(&mut desk, false), ["+ listener 198.18.0.1:80, backlog 4096, then queue"]);
    assert_eq!(desk.stack.listeners().len(), 2, "the one opened by hand stays");
    write(&file, "[[listener]]\naddr = \"198.18.0.1:90\"\n");
    refused(&mut desk, "h.toml:6: EADDRINUSE: cannot listen on 198.18.0.1:90");
    ask(&mut desk, ROOT, Request::Close(which("198.18.0.1:90"))).expect("it is there");
    assert_eq!(changes(&mut desk, false).len(), 2);
}

#[test]
fn all_or_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("h.toml");
    let one = "[[listener]]\naddr = \"198.18.0.1:80\"\n";
    let mut desk = start(&file, one);
    for (rest, why) in [
        ("[sysctl]\nsomaxconn = 5\nsomaxcon = 5\n", "h.toml:7: unknown field `somaxcon`"),
        (
            "[[listener]]\naddr = \"198.18.0.1:81\"\n[[listener]]\naddr = \"198.18.0.9:80\"\n",
            "h.toml:8: EADDRNOTAVAIL",
        ),
        (
            "mtu = 9000\n[sysctl]\nsomaxconn = 5\n",
            "this needs a restart; restart, or take it back:\n  port \"wan\".mtu: (default) -> 9000 (",
        ),
        ("[limits]\nrequests_per_core = 5\nrst_per_second = 5\n", "limits.requests_per_core: (default) -> 5"),
        ("[workers]\ncores = [1]\n[eal]\nhuge = \"never\"\n", "eal.huge: (default) -> \"never\""),
        ("[sysctl]\nip_local_port_range = [9, 8]\n", "h.toml:6: ip_local_port_range must be two ports"),
    ] {
        write(&file, rest);
        refused(&mut desk, why);
    }
    fs::remove_file(&file).expect("a file");
    refused(&mut desk, "h.toml: cannot read it");
}

/// What the rehearsal cannot know: here, that no slot is left.
#[test]
fn what_fails_half_way_is_undone() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("h.toml");
    let mut desk = start(&file, "[[listener]]\naddr = \"198.18.0.1:80\"\n");
    let max = listener::limits::Limits::TINY.listeners_max;
    let many: String =
        (0..max + 1).map(|n| format!("[[listener]]\naddr = \"198.18.0.1:{}\"\n", 1000 + n)).collect();
    write(&file, &format!("[sysctl]\nsomaxconn = 5\n{many}"));
    refused(&mut desk, "ENOBUFS: cannot listen on 198.18.0.1:");
    desk.stack.assert_invariants();
}
