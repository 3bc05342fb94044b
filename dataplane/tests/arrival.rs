//! Latencies that begin when the device says that a frame arrived: a hearken that is stopped while a SYN waits for it.

#![cfg(feature = "dpdk")]

mod lab;

use std::path::Path;
use std::time::{Duration, Instant};

use lab::{Hearken, Wire, connect, skip};
use serde_json::Value;

const CLOSE: u16 = 7001;
/// Nobody listens there.
const NOBODY: u16 = 7009;
const PROGRAM: &str = env!("CARGO_BIN_EXE_hearken");
/// How long the SYN waits, at least.
const STOPPED: Duration = Duration::from_millis(50);
/// What both clocks may be apart: `READING_NS_MAX` of `io::arrival`, and the microsecond of a stamp.
const APART_NS: u64 = 1_001_000;

fn start(wire: &Wire, device: &str) -> Hearken {
    let hearken = Hearken::start(Path::new(PROGRAM), &wire.server, |socket| {
        let config = lab::config(socket, device, 1, &[(CLOSE, "close")]);
        config.replace("[[port]]\n", "[[port]]\nrx_timestamps = true\n")
    });
    hearken.unwrap_or_else(|error| panic!("hearken starts on {device}: {error}"))
}

/// Frames that have come to hearken's end of the wire.
fn arrived(wire: &Wire) -> u64 {
    let shown = wire.server.ip("-json -stats link show hk0").expect("the link is there");
    let links: Value = serde_json::from_str(&shown).expect("JSON");
    links[0]["stats64"]["rx"]["packets"].as_u64().unwrap_or_else(|| panic!("no count in {links}"))
}

fn refused(wire: &Wire) {
    let tried = wire.client.enter(|| connect(NOBODY).map(drop)).expect("entered");
    assert_eq!(tried.expect_err("nobody listens").kind(), std::io::ErrorKind::ConnectionRefused);
}

/// The longest time of all SYNs to a closed port, in ns.
fn rst_max(hearken: &Hearken) -> u64 {
    let latency = hearken.json("latency").expect("an answer");
    let total = latency["total"].as_array().expect("outcomes");
    let rst = total.iter().find(|row| row["outcome"] == "rst").expect("an outcome");
    rst["max_ns"].as_u64().expect("a number")
}

/// Has a SYN wait in the device's queue, and looks for that time in the histogram.
fn the_wait_in_the_queue_counts(wire: &Wire, hearken: &Hearken) {
    // Neighbours know each other from now on, so that the next frame is the SYN.
    refused(wire);
    let answered_at_once = rst_max(hearken);
    hearken.freeze().expect("it runs");
    let (before, asked) = (arrived(wire), Instant::now());
    let (least, most) = std::thread::scope(|scope| {
        let client = scope.spawn(|| refused(wire));
        while arrived(wire) == before {
            assert!(asked.elapsed() < Duration::from_secs(10), "no SYN comes");
            std::thread::yield_now();
        }
        let waits = Instant::now();
        std::thread::sleep(STOPPED);
        let least = waits.elapsed();
        hearken.signal("CONT").expect("it is stopped");
        client.join().expect("refused");
        (least.as_nanos() as u64, asked.elapsed().as_nanos() as u64)
    });
    let max = rst_max(hearken).max(answered_at_once);
    // The histogram keeps one part in a thousand.
    let bounds = least - least / 1000 - APART_NS..=most.max(answered_at_once) + most / 1000 + APART_NS;
    assert!(bounds.contains(&max), "{max} ns, and the SYN waited for {bounds:?}");
}

#[test]
fn net_pcap_stamps_what_it_captures() {
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => return skip("a stamp", error),
    };
    let hearken = start(&wire, "net_pcap0,iface=hk0");
    the_wait_in_the_queue_counts(&wire, &hearken);
    let clock = &hearken.json("latency").expect("an answer")["clocks"]["wire0"];
    assert_eq!((&clock["begin"], &clock["unusable"]), (&"kernel".into(), &0.into()), "{clock}");
    let hz = clock["hz"].as_u64().expect("measured");
    assert!((990_000..=1_010_000).contains(&hz), "microseconds, give or take the reading: {hz}");
    let text = hearken.ctl("latency").expect("an answer");
    assert!(text.contains("port wire0: from the kernel's stamp on arrival; clock: the date, "), "{text}");
}

#[test]
fn net_af_packet_stamps_where_its_release_can() {
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => return skip("a stamp", error),
    };
    let mut hearken = start(&wire, "net_af_packet0,iface=hk0");
    let begin = hearken.json("latency").expect("an answer")["clocks"]["wire0"]["begin"].clone();
    if begin == "kernel" {
        the_wait_in_the_queue_counts(&wire, &hearken);
    } else {
        refused(&wire);
        let text = hearken.ctl("latency").expect("an answer");
        assert!(
            text.starts_with("latency in ns, from the end of rx_burst to the end of tx_burst\n"),
            "{text}"
        );
    }
    let (_, log) = hearken.stop().expect("it ends");
    let without = log.contains("rx_timestamps = true, and the device stamps no frames");
    assert_eq!(without, begin == "worker", "{begin}\n{log}");
}
