use std::borrow::Cow;

use pcap_file::DataLink;
use pcap_file::pcap::PcapHeader;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use tempfile::TempDir;

use super::*;

const FRAMES: [&[u8]; 3] = [&[1; 60], &[2; 14], &[3; 1514]];

fn pcap(frames: &[&[u8]], datalink: DataLink) -> Vec<u8> {
    let header = PcapHeader { datalink, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).expect("a Vec takes it");
    for frame in frames {
        let packet = PcapPacket::new(Duration::ZERO, frame.len() as u32, frame);
        writer.write_packet(&packet).expect("a Vec takes it");
    }
    writer.into_writer()
}

fn pcapng(frames: &[&[u8]], linktype: DataLink) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Vec::new()).expect("a Vec takes it");
    let interface = InterfaceDescriptionBlock { linktype, snaplen: 65535, options: vec![] };
    writer.write_pcapng_block(interface).expect("a Vec takes it");
    for frame in frames {
        let packet = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::ZERO,
            original_len: frame.len() as u32,
            data: Cow::Borrowed(frame),
            options: vec![],
        };
        writer.write_pcapng_block(packet).expect("a Vec takes it");
    }
    writer.into_inner()
}

fn open(file: &[u8], looped: bool) -> Result<Pcap, PcapIoError> {
    let dir = TempDir::new().expect("a temporary directory");
    let path = dir.path().join("in.pcap");
    std::fs::write(&path, file).expect("it can be written");
    Pcap::open(&PcapConfig { rx: Some(path), looped, ..PcapConfig::default() })
}

fn take<const N: usize>(io: &mut Pcap) -> Vec<Vec<u8>> {
    let mut slots: [Option<MemFrame>; N] = [const { None }; N];
    let received = io.rx_burst(&mut slots);
    assert!(slots[..received].iter().all(Option::is_some) && slots[received..].iter().all(Option::is_none));
    slots.iter().flatten().map(|frame| frame.bytes().to_vec()).collect()
}

#[test]
fn both_formats_are_replayed_once_or_for_ever() {
    for file in [pcap(&FRAMES, DataLink::ETHERNET), pcapng(&FRAMES, DataLink::ETHERNET)] {
        let mut once = open(&file, false).expect("well formed");
        assert_eq!(once.frames(), 3);
        assert_eq!(take::<2>(&mut once), &FRAMES[..2]);
        assert!(!once.exhausted());
        assert_eq!(take::<2>(&mut once), &FRAMES[2..]);
        assert!(once.exhausted() && take::<2>(&mut once).is_empty());

        let mut looped = open(&file, true).expect("well formed");
        let seen = take::<8>(&mut looped);
        assert_eq!(seen, FRAMES.iter().cycle().take(8).map(|frame| frame.to_vec()).collect::<Vec<_>>());
        assert!(!looped.exhausted());
    }
}

#[test]
fn what_is_sent_can_be_replayed() {
    let dir = TempDir::new().expect("a temporary directory");
    let path = dir.path().join("out.pcap");
    let mut io =
        Pcap::open(&PcapConfig { tx: Some(path.clone()), ..PcapConfig::default() }).expect("it opens");
    assert!(io.exhausted() && take::<4>(&mut io).is_empty());
    let mut slots: Vec<_> = FRAMES
        .iter()
        .map(|bytes| {
            let mut frame = io.alloc()?;
            frame.fill(bytes).then_some(frame)
        })
        .collect();
    assert_eq!(io.tx_burst(&mut slots), Sent::all(3));
    drop(io);
    let mut again = Pcap::open(&PcapConfig { rx: Some(path), ..PcapConfig::default() }).expect("it opens");
    assert_eq!(take::<4>(&mut again), FRAMES);
}

#[test]
fn files_that_are_refused() {
    for (file, words) in [
        (pcap(&[], DataLink::ETHERNET), "no frame in it"),
        (pcap(&[&[0; 2049]], DataLink::ETHERNET), "no frame in it that can be replayed"),
        (pcap(&FRAMES, DataLink::PPP), "link type PPP (9)"),
        (b"no capture at all, only text".to_vec(), "is no capture file"),
        (vec![], "is empty"),
    ] {
        let said = open(&file, false).expect_err("refused").to_string();
        assert!(said.contains(words) && said.contains("in.pcap: "), "{said}");
    }
    let missing = PcapConfig { rx: Some("no/such/file.pcap".into()), ..PcapConfig::default() };
    assert!(matches!(Pcap::open(&missing), Err(PcapIoError::Savefile(_))));
    let nowhere = PcapConfig { tx: Some("no/such/dir/out.pcap".into()), ..PcapConfig::default() };
    assert!(matches!(Pcap::open(&nowhere), Err(PcapIoError::Create { .. })));
}

#[test]
fn what_cannot_be_replayed_is_left_out() {
    let long: &[u8] = &[0; 2049];
    for whole in [pcap(&FRAMES, DataLink::ETHERNET), pcapng(&FRAMES, DataLink::ETHERNET)] {
        let mut cut = open(&whole[..whole.len() - 5], false).expect("two are whole");
        assert_eq!(take::<4>(&mut cut), &FRAMES[..2]);
    }
    let frames = [FRAMES[0], long, FRAMES[2]];
    let mut io = open(&pcap(&frames, DataLink::ETHERNET), false).expect("two fit");
    assert_eq!(take::<4>(&mut io), [FRAMES[0], FRAMES[2]]);
}

#[test]
fn packets_without_a_link_header_come_to_the_port() {
    let dir = TempDir::new().expect("a temporary directory");
    let path = dir.path().join("in.pcap");
    let packet: &[u8] = &[0x45; 40];
    std::fs::write(&path, pcap(&[packet], DataLink::RAW)).expect("it can be written");
    let mac = MacAddr([2, 0, 0, 0, 0, 0x11]);
    let config = PcapConfig { rx: Some(path), mac, ..PcapConfig::default() };
    let frame = take::<2>(&mut Pcap::open(&config).expect("it opens")).remove(0);
    assert_eq!((&frame[..6], &frame[12..14], &frame[14..]), (&mac.0[..], &[8, 0][..], packet));
}
