//! Frames that are lost in front of a worker are counted by somebody, on every driver that stands on an interface of the
//! kernel's: a hearken that is stopped while frames come accounts for each of them afterwards.

#![cfg(feature = "dpdk")]

mod lab;

use std::net::UdpSocket;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lab::{CLIENT, Hearken, Namespace, SERVER, Wire, connect, skip};
use serde_json::Value;

/// Polling workers want a core each: one wire at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const QUEUE: u16 = 7000;
/// More than the rings of all these drivers hold.
const FRAMES: u64 = 8_000;
/// What counts lost frames, by whoever counts them.
const LOSSES: [&str; 5] = ["imissed", "ierrors", "rx_nombuf", "ring_full", "interface_dropped"];

fn my_turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(namespace: &Namespace, device: &str) -> std::io::Result<Hearken> {
    Hearken::start(Path::new(env!("CARGO_BIN_EXE_hearken")), namespace, |socket| {
        lab::config(socket, device, 1, &[(QUEUE, "close")])
    })
}

/// Frames received, and frames lost by all accounts.
fn counted(hearken: &Hearken) -> (u64, u64) {
    let stats = hearken.json("stats").expect("stats");
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let device = &stats["devices"][0];
    (number(&stats["total"]["rx_frames"]), LOSSES.iter().map(|name| number(&device[*name])).sum())
}

fn accounts_for_every_frame(driver: &str, hearken: &Hearken, client: &Namespace) {
    // The neighbour is known before it falls silent.
    drop(client.enter(|| connect(QUEUE)).expect("entered").expect("a connection"));
    let (received_before, lost_before) = counted(hearken);
    assert_eq!(lost_before, 0, "{driver}: {}", hearken.ctl("stats").expect("stats"));
    hearken.freeze().expect("it is ours");
    let sent = client.enter(|| {
        let socket = UdpSocket::bind((CLIENT, 0)).expect("our address");
        (0..FRAMES).filter(|_| socket.send_to(b"lost?", (SERVER, 9)).is_ok()).count() as u64
    });
    let sent = sent.expect("entered");
    hearken.signal("CONT").expect("it is ours");
    let begun = Instant::now();
    loop {
        let (received, lost) = counted(hearken);
        if received - received_before + lost >= sent {
            let stats = hearken.ctl("stats").expect("stats");
            assert!(lost > 0 && lost <= sent, "{driver}: of {sent}, {lost} lost:\n{stats}");
            return;
        }
        let accounted = received - received_before + lost;
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{driver}: of {sent}, {accounted} are accounted for, {lost} as lost:\n{}",
            hearken.ctl("stats --all").expect("stats")
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn on_a_wire(driver: &str, device: &str) {
    let _turn = my_turn();
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => return skip(&format!("losses of {driver}"), error),
    };
    match start(&wire.server, device) {
        Ok(hearken) => accounts_for_every_frame(driver, &hearken, &wire.client),
        Err(error) if driver == "net_af_xdp" => skip("losses of net_af_xdp", error),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn net_af_packet_loses_nothing_unseen() {
    on_a_wire("net_af_packet", "net_af_packet0,iface=hk0");
}

#[test]
fn net_af_xdp_loses_nothing_unseen() {
    on_a_wire("net_af_xdp", "net_af_xdp0,iface=hk0");
}

#[test]
fn net_tap_loses_nothing_unseen() {
    let _turn = my_turn();
    if !Path::new("/dev/net/tun").exists() {
        return skip("losses of net_tap", "there is no /dev/net/tun");
    }
    let host = match Namespace::new() {
        Ok(host) => host,
        Err(error) => return skip("losses of net_tap", error),
    };
    let hearken = start(&host, "net_tap0,iface=hk0").expect("hearken starts on net_tap");
    host.ip(&format!("addr add {CLIENT}/24 dev hk0")).expect("our interface");
    host.no_offloads("hk0").expect("our interface");
    host.ip("link set hk0 up").expect("our interface");
    accounts_for_every_frame("net_tap", &hearken, &host);
}
