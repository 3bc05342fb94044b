//! Links that go and come back, and interfaces that are deleted, below every driver that stands on one: what the log,
//! `hearken stats`, `hearken top`, the metrics and the health page say of them, what becomes of what is to be sent
//! meanwhile, and that hearken serves again when the link is back.

#![cfg(feature = "dpdk")]

mod lab;
mod scraped;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lab::{CLIENT, Hearken, Namespace, SERVER, Wire, connect, skip};
use serde_json::Value;

/// Polling workers want a core each: one wire at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const QUEUE: u16 = 7000;
/// Free in a namespace of our own.
const METRICS: &str = "127.0.0.1:9464";

fn my_turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn config(socket: &Path, device: &str) -> String {
    let rest = format!("\n[metrics]\nlisten = \"{METRICS}\"\n");
    lab::config(socket, device, 1, &[(QUEUE, "queue")]) + &rest
}

fn start(namespace: &Namespace, device: &str) -> std::io::Result<Hearken> {
    Hearken::start(Path::new(env!("CARGO_BIN_EXE_hearken")), namespace, |socket| config(socket, device))
}

/// Waits until `is` holds.
#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(30), "no {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Bench<'a> {
    hearken: &'a Hearken,
    server: &'a Namespace,
    client: &'a Namespace,
}

impl Bench<'_> {
    fn link(&self) -> Value {
        self.hearken.json("stats").expect("stats")["devices"][0]["link"].clone()
    }

    fn get(&self, path: &str) -> (String, String) {
        let addr = METRICS.parse().expect("an address");
        let answer = self.server.enter(|| scraped::get(addr, path, "text/plain")).expect("entered");
        (answer.0.lines().next().unwrap_or_default().to_owned(), answer.1)
    }

    /// A connection of Linux's own comes about.
    fn serves(&self) {
        let stream = self.client.enter(|| connect(QUEUE)).expect("entered");
        drop(stream.expect("a connection"));
        until("connection that waits", || {
            self.hearken.json("ss").expect("ss")["listeners"][0]["recv_q"] == 1
        });
    }

    /// Everything says that the link is `up`, after `changes`.
    fn says(&self, up: bool, changes: u64) {
        until(if up { "link" } else { "loss of the link" }, || self.link()["up"] == up);
        assert_eq!(self.link()["changes"], changes, "{}", self.link());
        let (status, text) = self.get("/healthz");
        let wanted = if up { "HTTP/1.1 200 OK" } else { "HTTP/1.1 503 Service Unavailable" };
        assert_eq!(status, wanted, "{text}");
        assert!(up || text.starts_with("the link of port \"wire0\" has been down for "), "{text}");
        let (_, page) = self.get("/metrics");
        let number = u8::from(up);
        for line in [
            format!("hearken_link_up{{port=\"wire0\"}} {number}\n"),
            format!("hearken_link_changes_total{{port=\"wire0\"}} {changes}\n"),
            format!("hearken_healthy{{check=\"links\"}} {number}\n"),
            "hearken_healthy{check=\"workers\"} 1\n".to_owned(),
        ] {
            assert!(page.contains(&line), "no {line} in {page}");
        }
        let stats = self.hearken.ctl("stats").expect("stats");
        let line = format!(", link {} for ", if up { "up" } else { "down" });
        assert!(stats.contains(&line), "{stats}");
        // It looks for a second.
        if changes < 2 {
            let top = self.hearken.ctl("top --once").expect("top");
            assert_eq!(top.contains("link down: wire0\n"), !up, "{top}");
        }
    }

    fn given_up(&self) -> u64 {
        self.hearken.json("stats").expect("stats")["total"]["originated_link_down"].as_u64().expect("a count")
    }

    /// The connection that waits is closed, into the void: its FIN is given up, again and again.
    fn closes_into_the_void(&self) {
        let before = self.given_up();
        let peer = self.hearken.ctl(&format!("accept {SERVER}:{QUEUE}")).expect("one waits");
        assert!(peer.starts_with(&CLIENT.to_string()), "{peer}");
        until("retransmission that is given up", || self.given_up() >= before + 2);
    }

    /// The same to a link that is there.
    fn closes(&self) {
        self.hearken.ctl(&format!("accept {SERVER}:{QUEUE}")).expect("one waits");
    }
}

/// It ends by itself, with a message and an exit code that has systemd start it again.
fn ends(mut hearken: Hearken, driver: &str) {
    let (status, said) = hearken.wait().expect("it ends");
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{said}");
    let wanted = format!("hearken: port \"wire0\": the interface hk0 is gone, and {driver} cannot come back");
    assert!(said.contains(&wanted), "{said}");
    assert!(said.contains("the link is down: ") && said.contains("the link is up again after "), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// On one end of a veth pair.
fn on_a_wire(driver: &str, device: &str) {
    let _turn = my_turn();
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => return skip(&format!("links below {driver}"), error),
    };
    let (client, server) = (&wire.client, &wire.server);
    server.ip("link set lo up").expect("our namespace");
    let hearken = match start(server, device) {
        Ok(hearken) => hearken,
        Err(error) if driver == "net_af_xdp" => return skip("links below net_af_xdp", error),
        Err(error) => panic!("{error}"),
    };
    let bench = Bench { hearken: &hearken, server, client };
    bench.says(true, 0);
    bench.serves();
    // The other end goes: the cable is pulled.
    client.ip("link set hk1 down").expect("our interface");
    bench.says(false, 1);
    bench.closes_into_the_void();
    client.ip("link set hk1 up").expect("our interface");
    bench.says(true, 2);
    bench.serves();
    bench.closes();
    // Its own end is set down.
    server.ip("link set hk0 down").expect("our interface");
    bench.says(false, 3);
    server.ip("link set hk0 up").expect("our interface");
    bench.says(true, 4);
    bench.serves();
    // Another interface is none of ours.
    server.ip("link add other0 type veth peer name other1").expect("our namespace");
    server.ip("link del other0").expect("our namespace");
    assert_eq!(bench.link()["up"], true);
    server.ip("link del hk0").expect("our interface");
    ends(hearken, driver);
    // Made again, it is there for whoever starts again.
    server
        .ip(&format!("link add hk0 type veth peer name hk1 netns {}", client.name()))
        .expect("our namespace");
    server.ip("link set hk0 up").expect("our interface");
    client.ip(&format!("addr add {CLIENT}/24 dev hk1")).expect("our namespace");
    client.no_offloads("hk1").expect("our interface");
    client.ip("link set hk1 up").expect("our interface");
    let hearken = start(server, device).expect("it starts");
    Bench { hearken: &hearken, server, client }.serves();
}

#[test]
fn links_below_net_af_packet() {
    on_a_wire("net_af_packet", "net_af_packet0,iface=hk0");
}

#[test]
fn links_below_net_af_xdp() {
    on_a_wire("net_af_xdp", "net_af_xdp0,iface=hk0");
}

#[test]
fn links_below_net_pcap() {
    on_a_wire("net_pcap", "net_pcap0,iface=hk0");
}

#[test]
fn links_below_net_tap() {
    let _turn = my_turn();
    if !Path::new("/dev/net/tun").exists() {
        return skip("links below net_tap", "there is no /dev/net/tun");
    }
    let host = match Namespace::new() {
        Ok(host) => host,
        Err(error) => return skip("links below net_tap", error),
    };
    host.ip("link set lo up").expect("our namespace");
    let hearken = start(&host, "net_tap0,iface=hk0").expect("hearken starts on net_tap");
    host.ip(&format!("addr add {CLIENT}/24 dev hk0")).expect("our interface");
    host.no_offloads("hk0").expect("our interface");
    host.ip("link set hk0 up").expect("our interface");
    let bench = Bench { hearken: &hearken, server: &host, client: &host };
    bench.says(true, 0);
    bench.serves();
    host.ip("link set hk0 down").expect("our interface");
    bench.says(false, 1);
    bench.closes_into_the_void();
    host.ip("link set hk0 up").expect("our interface");
    bench.says(true, 2);
    bench.serves();
    host.ip("link del hk0").expect("our interface");
    ends(hearken, "net_tap");
}

/// A link that is down at the start is waited for, and then followed.
#[test]
fn a_link_that_comes_late_is_taken() {
    let _turn = my_turn();
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => return skip("a late link", error),
    };
    let (client, server) = (&wire.client, &wire.server);
    server.ip("link set lo up").expect("our namespace");
    client.ip("link set hk1 down").expect("our interface");
    let mut hearken = start(server, "net_af_packet0,iface=hk0").expect("it starts without a link");
    let bench = Bench { hearken: &hearken, server, client };
    bench.says(false, 0);
    // What is to be announced at the start waits for the link.
    client.ip("link set hk1 up").expect("our interface");
    bench.says(true, 1);
    bench.serves();
    let (_, said) = hearken.stop().expect("it ends");
    for line in [
        "waiting for the link, 5 s at most",
        "the link is down after 5.0 s, and is followed: the interface hk0 has no carrier",
    ] {
        assert!(said.contains(line), "no {line} in {said}");
    }
}
