//! Floods of forged segments at a server behind hearken: its clients notice nothing, and nothing forged becomes a connection.

#![cfg(feature = "kernel")]

mod beside;
mod lab;
#[path = "parity/mod.rs"]
mod parity;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use beside::{SERVER_V6, Site, kernel_counter, targets, turn, wait_until_adopted};
use hearken_bpf::flood::{Flood, Template};
use lab::{Hearken, SERVER, skip};
use parity::frame::{Ip, Link, Tcp, frame, option, segment};
use parity::raw::RawSocket;

/// Forged sources: 65,536 that nobody has.
const FORGED_V4: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
const FORGED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0);
const FORGED: u32 = 65_536;

const SYN: u16 = 0x02;
const ACK: u16 = 0x10;

/// A segment with the options of Linux from forged sources to port 9 of `target`.
fn template(site: &Site, target: IpAddr, flags: u16) -> Template {
    let mac = |namespace, device| RawSocket::open(namespace, device).expect("a raw socket").mac();
    let (src, dst) = (mac(&site.client, "hk1"), mac(&site.server, "hk0"));
    let forged: IpAddr = if target.is_ipv4() { FORGED_V4.into() } else { FORGED_V6.into() };
    let ip = Ip::new(forged, target, 6);
    let options = if flags == SYN {
        option::all(1000)
    } else {
        [option::nop(), option::nop(), option::timestamps(1, 2)].concat()
    };
    let tcp = Tcp {
        sport: 1024,
        dport: 9,
        seq: 7,
        ack: u32::from(flags == ACK),
        flags,
        window: 64_240,
        options,
        ..Tcp::default()
    };
    let link = Link { src, dst, ethertype: None, padding: 0, cut: 0 };
    Template { frame: frame(&link, &ip, &segment(&ip, &tcp)), hosts: FORGED, forge_ack: flags == ACK }
}

fn ifindex(site: &Site) -> u32 {
    let text = site.client.ip("-o link show dev hk1").expect("the wire");
    text.split(':').next().and_then(|index| index.parse().ok()).expect("an index")
}

/// Sends `frames` segments from the client's end; how many the wire was given, and in what time.
fn flood(site: &Site, template: &Template, frames: u64, patience: Duration) -> (u64, Duration) {
    let index = ifindex(site);
    let run = || -> Result<(u64, Duration), hearken_bpf::BpfError> {
        let flood = Flood::new(index, template)?;
        let begin = Instant::now();
        Ok((flood.run(frames, None, patience)?, begin.elapsed()))
    };
    site.client.enter(run).expect("entered").expect("live frames (Linux 5.18)")
}

fn shielded() -> Option<(Site, Hearken, std::net::TcpListener)> {
    let made = Site::new().and_then(|site| {
        let hearken = site.shield("redirect_per_ms = 64\n")?;
        let listener = site.listen((Ipv6Addr::UNSPECIFIED, 9))?;
        Ok((site, hearken, listener))
    });
    let made = made.map_err(|error| skip("a flood at a server behind hearken", error)).ok()?;
    wait_until_adopted(&made.1, (Ipv6Addr::UNSPECIFIED, 9).into());
    Some(made)
}

/// Connects, sends and receives one octet, again and again until told to stop: how many, and the longest.
fn clients(site: &Site, stop: &AtomicBool) -> io::Result<(u32, Duration)> {
    let mut count = 0;
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let target = targets()[count as usize % 2];
        let stream = site.connect((target, 9), Duration::from_secs(10))?;
        let back = beside::echo(stream, b"x")?;
        assert_eq!(back, b"x");
        longest = longest.max(begin.elapsed());
        count += 1;
    }
    Ok((count, longest))
}

#[test]
fn clients_are_served_during_a_flood_of_syns() {
    let _turn = turn();
    let Some((site, hearken, listener)) = shielded() else { return };
    let (stop, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let ((count, longest), sent, took) = std::thread::scope(|scope| {
        scope.spawn(|| beside::serve_echo(&listener, &done));
        let clients = scope.spawn(|| clients(&site, &stop));
        let (mut sent, mut took) = (0, Duration::ZERO);
        for target in [IpAddr::from(SERVER), SERVER_V6.into()] {
            let (frames, time) =
                flood(&site, &template(&site, target, SYN), 10_000_000, Duration::from_millis(1500));
            sent += frames;
            took += time;
        }
        stop.store(true, Ordering::Relaxed);
        let seen = clients.join().expect("no panic");
        done.store(true, Ordering::Relaxed);
        (seen.expect("every client is served"), sent, took)
    });
    let redirected = kernel_counter(&hearken, "claim_redirected");
    let stats = hearken.json("stats").expect("stats");
    let by_worker = stats["total"]["outcomes"]["synack"].as_u64().expect("a number");
    let answered = by_worker + kernel_counter(&hearken, "claim_answered");
    println!(
        "{sent} SYNs in {took:?} ({:.0} a second): {redirected} to a worker, {answered} answered; {count} clients, the longest {longest:?}",
        sent as f64 / took.as_secs_f64()
    );
    assert!(count >= 10, "{count} clients");
    // A veth drops what finds its ring full, in front of every program; of what came through nearly all is answered.
    let seen = redirected + kernel_counter(&hearken, "claim_answered");
    assert!(answered > seen / 10 * 9 && seen > 10_000, "{answered} of {seen} answered");
    assert_eq!(site.counter("TcpExt", "SyncookiesSent"), 0, "the kernel answers no claimed SYN");
    let opened = site.counter("Tcp", "PassiveOpens");
    assert_eq!(opened, kernel_counter(&hearken, "handed_over_to_kernel"));
    // One each, also where a client's data comes right behind its ACK, in one batch; nothing forged opens any.
    assert_eq!(opened, u64::from(count), "one connection a client");
}

#[test]
fn a_million_forged_acks_open_nothing_and_are_counted() {
    let _turn = turn();
    let Some((site, hearken, _listener)) = shielded() else { return };
    let mut sent = 0;
    for target in [IpAddr::from(SERVER), SERVER_V6.into()] {
        sent += flood(&site, &template(&site, target, ACK), 500_000, Duration::from_secs(20)).0;
    }
    assert_eq!(sent, 1_000_000, "the wire takes them in time");
    assert_eq!(site.counter("Tcp", "PassiveOpens"), 0);
    assert_eq!(kernel_counter(&hearken, "handed_over_to_kernel"), 0);
    let refused: u64 = ["handover_bad_cookie", "handover_outdated_cookie", "handover_bad_timestamp"]
        .into_iter()
        .map(|name| kernel_counter(&hearken, name))
        .sum();
    // A full ring of the veth drops some in front of everything.
    assert!(refused <= sent && refused > sent / 10, "{refused} of {sent} seen");
}
