//! Frames with two VLAN tags on a veth pair: the outer one is answered with its own kind, or not at all.

#![cfg(feature = "dpdk")]

mod lab;
#[path = "parity/mod.rs"]
mod parity;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lab::{CLIENT, Hearken, SERVER, Wire, skip};
use parity::frame::{Ip, Link, Tcp, frame, option, segment};
use parity::raw::RawSocket;

const PORT: u16 = 7000;
/// Polling workers want a core each: one wire at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A service provider's tag, and a customer's.
const TPID_8021AD: [u8; 2] = [0x88, 0xa8];
const TPID_8021Q: [u8; 2] = [0x81, 0x00];

/// A SYN from `sport`, with these tags in front of its EtherType.
fn syn(macs: [[u8; 6]; 2], sport: u16, tags: &[([u8; 2], u16)]) -> Vec<u8> {
    let ip = Ip::new(CLIENT.into(), SERVER.into(), 6);
    let tcp = Tcp {
        sport,
        dport: PORT,
        seq: 1000,
        flags: 2,
        window: 64_240,
        options: option::mss(1460),
        ..Tcp::default()
    };
    let link = Link { src: macs[0], dst: macs[1], ethertype: None, padding: 0, cut: 0 };
    let mut octets = frame(&link, &ip, &segment(&ip, &tcp));
    let tags: Vec<u8> = tags.iter().flat_map(|(tpid, vid)| [*tpid, vid.to_be_bytes()].concat()).collect();
    octets.splice(12..12, tags);
    octets
}

/// The tags of the SYN-ACK to `sport`: what stands between the addresses and IPv4's EtherType.
fn tags_of_the_answer(socket: &RawSocket, sport: u16) -> Option<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Some(octets) = socket.recv(deadline).expect("a socket") {
        let mut at = 12;
        while octets.get(at..at + 2).is_some_and(|tpid| tpid == TPID_8021AD || tpid == TPID_8021Q) {
            at += 4;
        }
        let is_ipv4 = octets.get(at..at + 2) == Some(&[8, 0][..]);
        let ports = octets.get(at + 22..at + 26);
        if is_ipv4 && ports == Some(&[PORT.to_be_bytes(), sport.to_be_bytes()].concat()[..]) {
            return Some(octets[12..at].to_vec());
        }
    }
    None
}

fn on_a_wire(device: &str, work: impl FnOnce(&Hearken, &RawSocket, [[u8; 6]; 2])) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = Wire::new().and_then(|wire| {
        let server = RawSocket::open(&wire.server, "hk0")?.mac();
        let socket = RawSocket::open(&wire.client, "hk1")?;
        let hearken = Hearken::start(Path::new(env!("CARGO_BIN_EXE_hearken")), &wire.server, |socket| {
            lab::config(socket, device, 1, &[(PORT, "close")])
        })?;
        Ok((wire, server, socket, hearken))
    });
    let (_wire, server, socket, hearken) = match begun {
        Ok(begun) => begun,
        Err(error) => return skip(&format!("tags on {device}"), error),
    };
    // The neighbour of the answers is the sender itself: no address has to be asked for.
    let macs = [socket.mac(), server];
    work(&hearken, &socket, macs);
}

fn dropped(hearken: &Hearken) -> u64 {
    let stats = hearken.json("stats --all").expect("counters");
    stats["total"]["drops"]["vlan_tpid"].as_u64().expect("a number")
}

/// The driver takes the outer tag out and does not say of which kind it was.
#[test]
fn net_af_packet_answers_no_frame_with_two_tags() {
    on_a_wire("net_af_packet0,iface=hk0", |hearken, socket, macs| {
        for (sport, outer) in [(4001, TPID_8021AD), (4002, TPID_8021Q)] {
            socket.send(&syn(macs, sport, &[(outer, 100), (TPID_8021Q, 5)])).expect("sent");
        }
        // Frames are answered in their order, so these come after what is not answered.
        socket.send(&syn(macs, 4003, &[(TPID_8021Q, 5)])).expect("sent");
        let one = [&TPID_8021Q[..], &5u16.to_be_bytes()].concat();
        assert_eq!(tags_of_the_answer(socket, 4003), Some(one));
        socket.send(&syn(macs, 4004, &[])).expect("sent");
        assert_eq!(tags_of_the_answer(socket, 4004), Some(Vec::new()));
        assert_eq!(dropped(hearken), 2, "{}", hearken.ctl("stats --all").expect("counters"));
    });
}

/// The driver leaves tags where they are.
#[test]
fn net_af_xdp_answers_with_the_tags_that_came() {
    on_a_wire("net_af_xdp0,iface=hk0", |hearken, socket, macs| {
        for (sport, outer) in [(4001, TPID_8021AD), (4002, TPID_8021Q)] {
            socket.send(&syn(macs, sport, &[(outer, 100), (TPID_8021Q, 5)])).expect("sent");
            let both = [&outer[..], &100u16.to_be_bytes(), &TPID_8021Q, &5u16.to_be_bytes()].concat();
            assert_eq!(tags_of_the_answer(socket, sport), Some(both));
        }
        assert_eq!(dropped(hearken), 0);
    });
}
