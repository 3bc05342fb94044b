//! Frames from a capture file and back into one, octet for octet.

mod common;

use std::fs::File;

use common::{eal, no_slots, pool, start};
use dpdk::{Mbuf, PortConfig};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

#[test]
fn a_capture_comes_in_and_goes_out_unchanged() {
    let dir = tempfile::tempdir().expect("a place to write");
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let frames: Vec<Vec<u8>> =
        (0..100usize).map(|i| (0..60 + i * 14).map(|j| (i * 7 + j) as u8).collect()).collect();
    let mut writer = PcapWriter::new(File::create(&input).expect("new file")).expect("header");
    let micros = |index: usize| 1_700_000_000_123_456 + 1_000_001 * index as u64;
    for (index, frame) in frames.iter().enumerate() {
        let time = std::time::Duration::from_micros(micros(index));
        let packet = PcapPacket::new(time, frame.len() as u32, frame);
        writer.write_packet(&packet).expect("written");
    }
    drop(writer);

    let pool = pool(2047);
    let field = eal().rx_timestamp_field().expect("an mbuf has room");
    let device = format!("net_pcap_io0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let mut started = start(&device, &PortConfig::default(), &pool);
    let (mut rx, mut tx) = (started.rx.remove(0), started.tx.remove(0));
    let (mut seen, mut stamps) = (Vec::new(), Vec::new());
    loop {
        let mut slots: [Option<Mbuf>; 32] = no_slots();
        let received = rx.rx_burst(&mut slots);
        if received == 0 {
            break;
        }
        stamps.extend(slots.iter().flatten().map(|mbuf| mbuf.rx_timestamp(field)));
        seen.extend(slots.iter().flatten().map(|mbuf| mbuf.data().to_vec()));
        assert_eq!(tx.tx_burst(&mut slots).done, received);
    }
    assert_eq!(seen, frames);
    let expected: Vec<_> = (0..frames.len()).map(|index| Some(micros(index))).collect();
    assert_eq!(stamps, expected, "net_pcap stamps unasked, with the capture's time in microseconds");
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
