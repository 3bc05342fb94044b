//! hearken in front of a server while what it stands on goes away, or is not its own alone.

#![cfg(feature = "kernel")]

mod beside;
mod lab;
#[path = "parity/mod.rs"]
mod parity;

use std::net::{Ipv6Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use beside::{Site, kernel_counter, targets, turn, wait_until_adopted};
use lab::{Hearken, run, skip};

const PORT: u16 = 9;

fn shielded() -> Option<(Site, Hearken, TcpListener)> {
    let made = Site::new().and_then(|site| {
        let hearken = site.shield("")?;
        let listener = site.listen((Ipv6Addr::UNSPECIFIED, PORT))?;
        Ok((site, hearken, listener))
    });
    let made = made.map_err(|error| skip("a server behind hearken", error)).ok()?;
    wait_until_adopted(&made.1, (Ipv6Addr::UNSPECIFIED, PORT).into());
    Some(made)
}

/// One client of each family, served through hearken.
fn serves(site: &Site, hearken: &Hearken, listener: &TcpListener) {
    let before = kernel_counter(hearken, "handed_over_to_kernel");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| beside::serve_echo(listener, &stop));
        let seen = targets().map(|target| {
            let stream = site.connect((target, PORT), Duration::from_secs(5))?;
            beside::echo(stream, b"served")
        });
        stop.store(true, Ordering::Relaxed);
        for back in seen {
            assert_eq!(back.expect("it is served"), b"served");
        }
    });
    assert_eq!(kernel_counter(hearken, "handed_over_to_kernel"), before + 2);
}

#[test]
fn an_interface_that_is_deleted_ends_the_run_with_its_name() {
    let _turn = turn();
    let Some((site, mut hearken, listener)) = shielded() else { return };
    serves(&site, &hearken, &listener);
    site.server.ip("link del hk0").expect("the wire");
    let (status, said) = hearken.wait().expect("it ends by itself");
    assert!(status.is_some_and(|status| !status.success()), "{said}");
    assert!(said.contains("hk0") && said.contains("gone"), "{said}");
}

#[test]
fn an_interface_that_was_down_serves_again() {
    let _turn = turn();
    let Some((site, hearken, listener)) = shielded() else { return };
    site.server.ip("link set hk0 down").expect("the wire");
    site.server.ip("link set hk0 up").expect("the wire");
    // IPv6 addresses go with the link.
    site.server.ip(&format!("addr replace {}/64 dev hk0 nodad", beside::SERVER_V6)).expect("an address");
    serves(&site, &hearken, &listener);
}

/// Looks of the workers for frames in the time that `work` takes.
fn turns(hearken: &Hearken, work: impl FnOnce()) -> u64 {
    let count = || {
        let total = &hearken.json("stats").expect("stats")["total"];
        ["turns_idle", "turns_busy"].map(|name| total[name].as_u64().expect("a number")).iter().sum::<u64>()
    };
    let before = count();
    work();
    count() - before
}

#[test]
fn an_idle_worker_sleeps_until_its_socket_has_a_frame() {
    let _turn = turn();
    let made = Site::new().and_then(|site| {
        let hearken = site.shield_idle("adaptive", "")?;
        let listener = site.listen((Ipv6Addr::UNSPECIFIED, PORT))?;
        Ok((site, hearken, listener))
    });
    let made = made.map_err(|error| skip("an idle worker beside the kernel", error));
    let Ok((site, hearken, listener)) = made else { return };
    wait_until_adopted(&hearken, (Ipv6Addr::UNSPECIFIED, PORT).into());
    serves(&site, &hearken, &listener);
    // A second of nothing: one look every 10 ms, and the polling after the last frame. Naps of 100 us would be thousands.
    let idle = turns(&hearken, || std::thread::sleep(Duration::from_secs(1)));
    assert!(idle < 2_000, "{idle} looks in a second of nothing");
    serves(&site, &hearken, &listener);
}

#[test]
fn two_network_namespaces_each_have_their_own() {
    let _turn = turn();
    let Some((site, hearken, listener)) = shielded() else { return };
    let Some((other_site, mut other, other_listener)) = shielded() else { return };
    serves(&site, &hearken, &listener);
    serves(&other_site, &other, &other_listener);
    other.stop().expect("it ends");
    serves(&site, &hearken, &listener);
    let attached = run(other_site.server.command("bpftool").args(["net", "show"])).expect("bpftool runs");
    assert!(!attached.contains("hk0"), "{attached}");
}

#[test]
fn what_another_put_on_the_interfaces_tc_hook_stays() {
    let _turn = turn();
    let Ok(site) = Site::new().map_err(|error| skip("a server behind hearken", error)) else { return };
    let tc = |words: &str| {
        let mut tc = site.server.command("tc");
        run(tc.args(words.split_ascii_whitespace())).expect("tc runs")
    };
    let dir = tempfile::tempdir().expect("a directory");
    let (source, object) = (dir.path().join("count.c"), dir.path().join("count.o"));
    let text = "__attribute__((section(\"classifier\"), used)) int strangers(void *skb) { return -1; }\n";
    std::fs::write(&source, text).expect("a file");
    let mut clang = std::process::Command::new("clang");
    run(clang.args(["-target", "bpf", "-O2", "-g", "-c"]).arg(&source).arg("-o").arg(&object))
        .expect("clang");
    tc("qdisc add dev hk0 clsact");
    tc(&format!("filter add dev hk0 ingress prio 7 bpf da obj {} sec classifier", object.display()));
    let hearken = site.shield("").expect("it starts beside it");
    let listener = site.listen((Ipv6Addr::UNSPECIFIED, PORT)).expect("a listener");
    wait_until_adopted(&hearken, (Ipv6Addr::UNSPECIFIED, PORT).into());
    serves(&site, &hearken, &listener);
    let filters = tc("filter show dev hk0 ingress");
    assert!(filters.contains("strangers") && filters.contains("hearken_accept"), "{filters}");
    let mut hearken = hearken;
    hearken.stop().expect("it ends");
    let filters = tc("filter show dev hk0 ingress");
    assert!(filters.contains("strangers") && !filters.contains("hearken"), "{filters}");
}

#[test]
fn the_doctor_says_how_the_interfaces_driver_runs_the_program() {
    let _turn = turn();
    let Ok(site) = Site::new().map_err(|error| skip("a doctor for an interface", error)) else { return };
    // The loopback's driver has no XDP; a veth's has, at a price.
    let program = lab::program().expect("it is built");
    for (interface, wanted) in [
        ("hk0", "warn  xdp mode       hk0 is a veth"),
        ("lo", "warn  xdp mode       lo: its driver runs no XDP programs: generic"),
    ] {
        let mut doctor = site.server.command(&program);
        let output = doctor.args(["doctor", interface]).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(wanted) && said.contains("hearken-load throughput"), "{said}");
        assert!(said.contains("bpf_sk_assign_tcp_reqsk"), "{said}");
    }
}
