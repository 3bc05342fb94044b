//! Frames longer than Ethernet's 1,500 octets, on a packet socket over a veth pair: as long as the interface takes, or said to be
//! shorter in all places alike.

#![cfg(feature = "dpdk")]

mod lab;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::{Mutex, PoisonError};

use lab::{Hearken, SERVER, Wire, connect, run, skip};

const DISCARD: u16 = 9;

/// Polling workers want a core each.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn config(socket: &std::path::Path) -> String {
    lab::config(socket, "net_af_packet0,iface=hk0", 1, &[(DISCARD, "discard")])
        .replace("addresses = [", "mtu = 9000\naddresses = [")
}

/// A wire with the client's end at 9,000 octets and hearken's at `mtu`, and the hearken that asks for 9,000.
fn begin(mtu: u16) -> io::Result<(Wire, Hearken)> {
    let wire = Wire::new()?;
    wire.client.ip("link set hk1 mtu 9000")?;
    wire.server.ip(&format!("link set hk0 mtu {mtu}"))?;
    let hearken = Hearken::start(&lab::program()?, &wire.server, config)?;
    Ok((wire, hearken))
}

/// 300,000 octets through a connection; the octets of the client's longest segments, as `ss` says.
fn transfer(wire: &Wire) -> io::Result<usize> {
    wire.client.enter(|| {
        let mut stream = connect(DISCARD)?;
        stream.write_all(&vec![7; 300_000])?;
        let said = run(wire.client.command("ss").args([
            "-tinH",
            "state",
            "connected",
            &format!("dport = :{DISCARD}"),
        ]))?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new())?;
        let mss = said.split_whitespace().find_map(|word| word.strip_prefix("mss:")?.parse().ok());
        mss.ok_or_else(|| io::Error::other(format!("no mss in {said}")))
    })?
}

#[test]
fn jumbo_frames_come_in_and_go_out_whole() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (wire, mut hearken) = match begin(9000) {
        Ok(begun) => begun,
        Err(error) => return skip("a test with jumbo frames", error),
    };
    // 9,000 less two headers is announced; 12 octets of timestamps come off it.
    assert_eq!(transfer(&wire).expect("a transfer"), 8960 - 12);
    let target = SERVER.to_string();
    for octets in ["8000", "8972"] {
        let mut ping = wire.client.command("ping");
        let said = run(ping.args(["-M", "do", "-s", octets, "-c", "3", "-i", "0.2", "-W", "5", &target]));
        let said = said.expect("pings that come back");
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
    let stats = hearken.json("stats --all").expect("counters");
    assert_eq!(stats["total"]["drops"]["multi_segment"], 0);
    let interface = wire.server.ip("link show hk0").expect("the interface");
    assert!(interface.contains("mtu 9000"), "left as it was: {interface}");
    let (_, said) = hearken.stop().expect("it ends");
    assert!(said.contains("mtu=9000") && !said.contains("mtu 9000 asked for"), "{said}");
}

#[test]
fn an_interface_of_ordinary_frames_is_said_once_and_holds_everywhere() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (wire, mut hearken) = match begin(1500) {
        Ok(begun) => begun,
        Err(error) => return skip("a test with a clamped MTU", error),
    };
    const CLAMP: &str = "mtu 9000 asked for, the interface hk0 has 1500 (to change that: ip link set dev hk0 mtu 9000): \
        using 1500";
    assert_eq!(transfer(&wire).expect("a transfer"), 1460 - 12);
    let program = lab::program().expect("it is built");
    let mut check = wire.server.command(program);
    let said = run(check.args(["check", "--config"]).arg(hearken.file())).expect("it is right");
    assert_eq!(said.matches(CLAMP).count(), 1, "{said}");
    let (_, said) = hearken.stop().expect("it ends");
    assert_eq!(said.matches(CLAMP).count(), 1, "{said}");
    assert!(said.contains("mtu=1500"), "{said}");
}
