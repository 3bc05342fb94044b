//! Frames from a capture file and back into one, octet for octet.

mod common;

use std::fs::File;

use common::{no_slots, pool, start};
use dpdk::{Mbuf, PortConfig};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

#[test]
fn a_capture_comes_in_and_goes_out_unchanged() {
    let dir = tempfile::tempdir().expect("a place to write");
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let frames: Vec<Vec<u8>> =
        (0..100usize).map(|i| (0..60 + i * 14).map(|j| (i * 7 + j) as u8).collect()).collect();
    let mut writer = PcapWriter::new(File::create(&input).expect("new file")).expect("header");
    for frame in &frames {
        let packet = PcapPacket::new(std::time::Duration::ZERO, frame.len() as u32, frame);
        writer.write_packet(&packet).expect("written");
    }
    drop(writer);

    let pool = pool(2047);
    let device = format!("net_pcap_io0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let mut started = start(&device, &PortConfig::default(), &pool);
    let (mut rx, mut tx) = (started.rx.remove(0), started.tx.remove(0));
    let mut seen = Vec::new();
    loop {
        let mut slots: [Option<Mbuf>; 32] = no_slots();
        let received = rx.rx_burst(&mut slots);
        if received == 0 {
            break;
        }
        seen.extend(slots.iter().flatten().map(|mbuf| mbuf.data().to_vec()));
        assert_eq!(tx.tx_burst(&mut slots), received);
    }
    assert_eq!(seen, frames);
    assert_eq!(started.counters().expect("net_pcap counts").ipackets, 100);
    drop((rx, tx, started));
    assert_eq!(pool.in_use(), 0);

    let mut reader = PcapReader::new(File::open(&output).expect("written")).expect("header");
    let mut written = Vec::new();
    while let Some(packet) = reader.next_packet() {
        written.push(packet.expect("whole").data.into_owned());
    }
    assert_eq!(written, frames);
}
