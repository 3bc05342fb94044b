use etherparse::{PacketBuilder, SlicedPacket};
use proptest::prelude::*;

use super::*;
use crate::wire::ipv4::Ipv4Packet;
use crate::wire::ipv6::Ipv6Packet;

/// Captures of other programs, one of each kind that once was not read.
const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/cases");

const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn frame(v6: bool, data: usize) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(PEER, HOST);
    let net = if v6 {
        let at = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        link.ipv6(at(2), at(1), 64)
    } else {
        link.ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64)
    };
    let mut frame = Vec::new();
    net.tcp(40_000, 80, 1000, 64_240).syn().write(&mut frame, &vec![7; data]).expect("a frame");
    frame
}

/// True if all checksums of the frame are right.
fn is_whole(frame: &[u8]) -> bool {
    use crate::wire::checksum::{Sum, pseudo_v4, pseudo_v6};
    let packet = &frame[14..];
    if frame[12..14] == [8, 0] {
        let Ok(ip) = Ipv4Packet::parse(packet, true) else { return false };
        let segment = &packet[usize::from(ip.header_len)..usize::from(ip.total_len)];
        pseudo_v4(ip.src, ip.dst, ip.protocol, segment.len() as u16).plus(Sum::of(segment)).is_whole()
    } else {
        let Ok(ip) = Ipv6Packet::parse(packet) else { return false };
        let segment = &packet[usize::from(ip.header_len)..ip.total_len as usize];
        let halves = |addr: listener::types::InetAddr| (addr.hi(), addr.lo());
        let pseudo = pseudo_v6(halves(ip.src), halves(ip.dst), ip.protocol, segment.len() as u32);
        pseudo.plus(Sum::of(segment)).is_whole()
    }
}

/// Octets of a file, in one byte order.
struct File {
    octets: Vec<u8>,
    big_endian: bool,
}

impl File {
    fn word(mut self, word: u32) -> Self {
        self.octets.extend(if self.big_endian { word.to_be_bytes() } else { word.to_le_bytes() });
        self
    }

    fn half(mut self, half: u16) -> Self {
        self.octets.extend(if self.big_endian { half.to_be_bytes() } else { half.to_le_bytes() });
        self
    }

    fn octets(mut self, octets: &[u8]) -> Self {
        self.octets.extend(octets);
        self
    }

    fn pcap(big_endian: bool, snaplen: u32, link: u32) -> Self {
        let file = Self { octets: Vec::new(), big_endian };
        file.word(0xa1b2_c3d4).half(2).half(4).word(0).word(0).word(snaplen).word(link)
    }

    fn record(self, octets: &[u8], len: usize) -> Self {
        self.word(1_700_000_000).word(0).word(octets.len() as u32).word(len as u32).octets(octets)
    }

    fn pcapng(big_endian: bool) -> Self {
        let file = Self { octets: Vec::new(), big_endian };
        file.block(0x0a0d_0d0a, |file| file.word(0x1a2b_3c4d).half(1).half(0).word(u32::MAX).word(u32::MAX))
    }

    fn block(self, kind: u32, body: impl FnOnce(Self) -> Self) -> Self {
        let big_endian = self.big_endian;
        let mut body = body(Self { octets: Vec::new(), big_endian }).octets;
        body.resize(body.len().next_multiple_of(4), 0);
        let len = body.len() as u32 + 12;
        self.word(kind).word(len).octets(&body).word(len)
    }

    fn interface(self, link: u16, snaplen: u32, options: &[u8]) -> Self {
        self.block(1, |file| file.half(link).half(0).word(snaplen).octets(options))
    }

    fn enhanced(self, interface: u32, octets: &[u8], len: usize, options: &[u8]) -> Self {
        self.block(6, |file| {
            let padded = octets.len().next_multiple_of(4) - octets.len();
            let file = file.word(interface).word(0).word(1000).word(octets.len() as u32).word(len as u32);
            file.octets(octets).octets(&vec![0; padded]).octets(options)
        })
    }

    fn read(&self) -> Vec<Result<Record, SavefileError>> {
        read(&self.octets)
    }

    /// Its packets, which are all that it holds.
    #[track_caller]
    fn packets(&self) -> Vec<Packet> {
        let packet = |record| match record {
            Ok(Record::Packet(packet)) => packet,
            other => panic!("{other:?}"),
        };
        self.read().into_iter().map(packet).collect()
    }

    #[track_caller]
    fn packet(&self) -> Packet {
        let packets = self.packets();
        assert_eq!(packets.len(), 1, "{packets:?}");
        packets[0].clone()
    }

    #[track_caller]
    fn unusable(&self) -> String {
        match self.read().remove(0) {
            Ok(Record::Unusable { number: 1, why }) => why,
            other => panic!("{other:?}"),
        }
    }
}

fn read(octets: &[u8]) -> Vec<Result<Record, SavefileError>> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("f.pcap");
    std::fs::write(&path, octets).expect("a file");
    match Savefile::open(&path) {
        Ok(file) => file.collect(),
        Err(error) => vec![Err(error)],
    }
}

/// What is said of a file that cannot be read, without its path.
fn refused(octets: &[u8]) -> String {
    let error = read(octets).pop().expect("an error").expect_err("an error");
    error.cause.to_string()
}

#[test]
fn both_formats_in_both_byte_orders_give_the_frames() {
    let (syn, other) = (frame(false, 0), frame(true, 33));
    for big_endian in [false, true] {
        let classic = File::pcap(big_endian, 262_144, 1).record(&syn, syn.len()).record(&other, other.len());
        let ng = File::pcapng(big_endian).interface(1, 262_144, &[]);
        let ng = ng.enhanced(0, &syn, syn.len(), &[]).enhanced(0, &other, other.len(), &[]);
        let simple = File::pcapng(big_endian).interface(1, 0, &[]);
        let simple = [&syn, &other]
            .into_iter()
            .fold(simple, |file, frame| file.block(3, |body| body.word(frame.len() as u32).octets(frame)));
        let obsolete = File::pcapng(big_endian).interface(1, 0, &[]);
        let obsolete = [&syn, &other].into_iter().fold(obsolete, |file, frame| {
            let len = frame.len() as u32;
            file.block(2, |body| body.half(0).half(0).word(0).word(0).word(len).word(len).octets(frame))
        });
        for file in [classic, ng, simple, obsolete] {
            let packets = file.packets();
            assert_eq!(packets.iter().map(|packet| packet.number).collect::<Vec<_>>(), [1, 2]);
            assert_eq!([&packets[0].frame, &packets[1].frame], [&syn, &other]);
            assert!(packets.iter().all(|packet| packet.note().is_none() && !packet.to_host), "{packets:?}");
        }
    }
}

#[test]
fn the_snapshot_length_of_the_file_is_not_believed() {
    let syn = frame(false, 100);
    for snaplen in [0, 1, 96, u32::MAX] {
        for len in [0, 1, syn.len()] {
            let file = File::pcap(false, snaplen, 1).record(&syn, len);
            assert_eq!(file.packet().frame, syn, "{snaplen} {len}");
            let file = File::pcapng(false).interface(1, snaplen, &[]).enhanced(0, &syn, len, &[]);
            assert_eq!(file.packet().frame, syn, "{snaplen} {len}");
        }
    }
    // A simple block has no other length.
    let kept = &syn[..97];
    let simple = File::pcapng(false).interface(1, 97, &[]);
    let packet = simple.block(3, |body| body.word(syn.len() as u32).octets(kept)).packet();
    assert_eq!((packet.kept, packet.frame.len(), &packet.frame[..50]), (97, syn.len(), &kept[..50]));
}

#[test]
fn what_a_capture_cut_of_the_data_is_filled_up() {
    for v6 in [false, true] {
        let whole = frame(v6, 600);
        let headers = whole.len() - 600;
        for kept in headers..whole.len() {
            let packet = File::pcap(false, 96, 1).record(&whole[..kept], whole.len()).packet();
            assert_eq!((packet.kept, packet.frame.len()), (kept, whole.len()));
            assert!(is_whole(&packet.frame), "{kept} of {}", whole.len());
            let note = packet.note().expect("it is not as in the file");
            assert!(note.contains(&format!("kept {kept} of its {} octets", whole.len())), "{note}");
        }
        for kept in 0..headers {
            let why = File::pcap(false, 96, 1).record(&whole[..kept], whole.len()).unusable();
            assert!(why.starts_with("was cut in its headers"), "{kept}: {why}");
        }
        // Only padding is missing, so a wrong checksum stays wrong.
        let mut broken = frame(v6, 0);
        let last = broken.len() - 1;
        broken[last] ^= 1;
        let packet = File::pcap(false, 96, 1).record(&broken, broken.len() + 6).packet();
        assert_eq!((&packet.frame[..=last], packet.frame.len()), (&broken[..], broken.len() + 6));
    }
    let why = File::pcap(false, 96, 1).record(&frame(false, 0), 1 << 30).unusable();
    assert!(why.contains("no frame has more"), "{why}");
}

/// Options that are not there end the list: none is half there, and none has a length of 0.
#[test]
fn what_a_capture_cut_of_the_options_is_none() {
    use etherparse::TcpOptionElement as Opt;
    let options = [
        Opt::MaximumSegmentSize(1460),
        Opt::SelectiveAcknowledgementPermitted,
        Opt::Timestamp(7, 8),
        Opt::Noop,
    ];
    let options = [&options[..], &[Opt::WindowScale(7)]].concat();
    let mut whole = Vec::new();
    let packet = PacketBuilder::ethernet2(PEER, HOST).ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64);
    let packet = packet.tcp(5, 80, 1000, 64_240).syn().options(&options).expect("they fit");
    packet.write(&mut whole, &[7; 9]).expect("a frame");
    for kept in 54..whole.len() {
        let packet = File::pcap(false, 0, 1).record(&whole[..kept], whole.len()).packet();
        assert!(
            packet.kept == kept && packet.frame.len() == whole.len() && is_whole(&packet.frame),
            "{kept}"
        );
        let sliced = SlicedPacket::from_ethernet(&packet.frame).expect("a frame");
        let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{sliced:?}") };
        let read: Vec<_> = tcp.options_iterator().map(|option| option.expect("whole")).collect();
        let there = [58, 60, 70, 71, 74].iter().filter(|end| **end <= kept).count();
        assert_eq!(read, options[..there], "{kept}");
    }
}

/// The packet behind each header that is no Ethernet header, and what becomes of it.
#[test]
fn other_link_types_become_ethernet() {
    let (v4, v6) = (frame(false, 5), frame(true, 5));
    let cooked = |kind: u16, protocol: u16, addr: [u8; 8]| {
        let be = u16::to_be_bytes;
        [&be(kind)[..], &be(1), &be(6), &addr, &be(protocol)].concat()
    };
    let cooked2 = |kind: u8, protocol: u16, addr: [u8; 8]| {
        [&protocol.to_be_bytes()[..], &[0, 0, 0, 0, 0, 2, 0, 1, kind, 6], &addr].concat()
    };
    let peer = [2, 0, 0, 0, 0, 9, 0, 0];
    let cases: Vec<(u32, Vec<u8>, &Vec<u8>)> = vec![
        (113, cooked(0, 0x0800, peer), &v4),
        (113, cooked(0, 0x86dd, peer), &v6),
        (276, cooked2(0, 0x0800, peer), &v4),
        (276, cooked2(0, 0x86dd, peer), &v6),
        (101, vec![], &v4),
        (101, vec![], &v6),
        (12, vec![], &v4),
        (14, vec![], &v6),
        (228, vec![], &v4),
        (229, vec![], &v6),
        (0, vec![2, 0, 0, 0], &v4),
        (0, vec![0, 0, 0, 2], &v4),
        (0, vec![30, 0, 0, 0], &v6),
        (0, vec![0, 0, 0, 10], &v6),
        (108, vec![0, 0, 0, 2], &v4),
        (108, vec![0, 0, 0, 24], &v6),
    ];
    for (link, header, whole) in cases {
        let octets = [&header[..], &whole[14..]].concat();
        let mut packet = File::pcap(false, 0, link).record(&octets, octets.len()).packet();
        assert!(packet.to_host && packet.frame[12..] == whole[12..], "{link}: {packet:?}");
        assert_eq!(packet.frame[6..12], if header.len() > 4 { [2, 0, 0, 0, 0, 9] } else { PEER }, "{link}");
        packet.address(HOST);
        assert_eq!(packet.frame[..6], HOST);
        let note = packet.note().expect("it was made");
        assert!(note.contains(&packet.link.to_string()), "{note}");
        // Cut by two octets, which are data.
        let packet = File::pcap(false, 0, link).record(&octets[..octets.len() - 2], octets.len()).packet();
        assert!(packet.frame.len() == whole.len() && is_whole(&packet.frame), "{link}: {packet:?}");
    }
    let sent = |kind: u16| {
        let octets = [&cooked(kind, 0x0800, peer)[..], &v4[14..]].concat();
        let packet = File::pcap(false, 0, 113).record(&octets, octets.len()).packet();
        (packet.to_host, packet.frame[0])
    };
    assert_eq!([sent(1), sent(2), sent(3), sent(4)], [(false, 0xff), (false, 1), (false, 2), (false, 2)]);
}

#[test]
fn what_is_not_understood_is_named() {
    let syn = frame(false, 0);
    for (link, name) in [(105, "IEEE802_11 (105)"), (127, "IEEE802_11_RADIOTAP (127)"), (4321, "number 4321")]
    {
        let said = refused(&File::pcap(false, 0, link).record(&syn, syn.len()).octets);
        assert!(said.contains(name) && said.contains("can be read"), "{said}");
    }
    let mixed = File::pcapng(false).interface(1, 0, &[]).interface(249, 0, &[]);
    let mixed = mixed.enhanced(1, &syn, syn.len(), &[]).enhanced(0, &syn, syn.len(), &[]);
    let mixed = mixed.enhanced(2, &syn, syn.len(), &[]).read();
    assert!(
        matches!(&mixed[0], Ok(Record::Unusable { number: 1, why }) if why.contains("USBPCAP (249)")),
        "{mixed:?}"
    );
    assert!(matches!(&mixed[1], Ok(Record::Packet(packet)) if packet.frame == syn), "{mixed:?}");
    assert!(
        matches!(&mixed[2], Ok(Record::Unusable { number: 3, why }) if why.contains("interface 2")),
        "{mixed:?}"
    );
    for (link, octets, said) in [
        (113, vec![0, 0, 3, 56, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "hardware type 824"),
        (113, vec![0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4], "no EtherType"),
        (113, vec![0; 15], "fewer than a header of link type LINUX_SLL"),
        (276, vec![8; 19], "fewer than a header"),
        (0, vec![2, 0, 0], "fewer than a header"),
        (0, vec![7, 0, 0, 0, 0x45], "no packet of IPv4 or IPv6"),
        (101, vec![], "no packet of IPv4 or IPv6"),
        (101, vec![0x90; 40], "no packet of IPv4 or IPv6"),
    ] {
        let why = File::pcap(false, 0, link).record(&octets, octets.len()).unusable();
        assert!(why.contains(said), "{link}: {why}");
    }
    let sections = File::pcapng(true).interface(105, 0, &[]).enhanced(0, &syn, syn.len(), &[]);
    let second = File::pcapng(false).interface(1, 0, &[]).enhanced(0, &syn, syn.len(), &[]);
    let both = read(&[sections.octets, second.octets].concat());
    assert!(matches!(both[..], [Ok(Record::Unusable { .. }), Ok(Record::Packet(_))]), "{both:?}");
}

#[test]
fn a_check_sequence_is_taken_off_where_there_is_one() {
    let syn = frame(false, 20);
    let sealed = [&syn[..], &[0xde, 0xad, 0xbe, 0xef]].concat();
    let announced = 1 | 2 << 28 | 0x0400_0000;
    assert_eq!(File::pcap(false, 0, announced).record(&sealed, sealed.len()).packet().frame, syn);
    assert_eq!(
        File::pcap(false, 0, announced).record(&syn, syn.len()).packet().frame,
        syn,
        "it is not there"
    );
    // As long as the wire had it: the capture kept one octet of it.
    let packet = File::pcap(false, 0, announced).record(&sealed[..syn.len() + 1], sealed.len()).packet();
    assert_eq!((packet.frame, packet.kept), (syn.clone(), syn.len()));
    let interface = [13, 0, 1, 0, 32, 0, 0, 0];
    let ng = File::pcapng(false).interface(1, 0, &interface);
    assert_eq!(ng.enhanced(0, &sealed, sealed.len(), &[]).packet().frame, syn);
    for (big_endian, flags) in [(false, [2, 0, 4, 0, 0x80, 0, 0, 0]), (true, [0, 2, 0, 4, 0, 0, 0, 0x80])] {
        let ng = File::pcapng(big_endian).interface(1, 0, &[]);
        assert_eq!(ng.enhanced(0, &sealed, sealed.len(), &flags).packet().frame, syn);
    }
}

#[test]
fn odd_options_do_no_harm() {
    let syn = frame(false, 0);
    for options in [
        &[1, 0, 3, 0, 0xff, 0xfe, 0xfd, 0, 0, 0, 0, 0][..],
        &[1, 0, 0, 0],
        &[1, 0, 255, 255, 0, 0, 0, 0],
        &[2, 0, 1, 0, 0x80, 0, 0, 0],
        &[9, 0, 0, 0, 13, 0, 0, 0],
        &[0xff, 0xff, 4, 0, 1, 2, 3, 4],
        &[1, 0, 1],
        &[0, 0, 9, 0, 1, 1, 1, 1],
    ] {
        let file = File::pcapng(false).interface(1, 0, options).enhanced(0, &syn, syn.len(), options);
        let file = file.block(0x0bad, |body| body.word(5)).enhanced(0, &syn, syn.len(), &[]);
        let packets = file.packets();
        assert!(packets.len() == 2 && packets.iter().all(|packet| packet.frame == syn), "{options:?}");
    }
}

#[test]
fn a_file_that_ends_early_gives_what_it_has() {
    let (syn, long) = (frame(false, 0), vec![0; LEN_MAX]);
    let classic = File::pcap(false, 0, 1).record(&syn, syn.len());
    let ng = File::pcapng(false).interface(1, 0, &[]).enhanced(0, &syn, syn.len(), &[]);
    for (first, second) in [
        (classic.octets.len(), classic.record(&long, long.len()).octets),
        (ng.octets.len(), ng.enhanced(0, &long, long.len(), &[]).octets),
    ] {
        assert_eq!(read(&second).len(), 2);
        for end in [first + 1, first + 15, first + 30, second.len() / 2, second.len() - 1] {
            let read = read(&second[..end]);
            assert!(matches!(&read[0], Ok(Record::Packet(packet)) if packet.frame == syn), "{end}");
            let error = read[1].as_ref().expect_err("it is cut");
            assert!(matches!(error.cause, Cause::Cut(1)) && read.len() == 2, "{end}: {error}");
        }
    }
    let broken = File::pcap(false, 0, 1).record(&syn, syn.len()).word(0).word(0).word(u32::MAX).word(60);
    let read = read(&broken.octets([0; 200].as_slice()).octets);
    assert!(
        matches!(&read[1], Err(SavefileError { cause: Cause::Broken(1) | Cause::Cut(1), .. })),
        "{read:?}"
    );
}

#[test]
fn what_is_no_capture_is_told_apart() {
    for (octets, said) in [
        (&b""[..], "is empty"),
        (b"\x1f\x8b\x08\0", "unpack it with gunzip"),
        (b"\x28\xb5\x2f\xfd\x04", "unpack it with unzstd"),
        (b"[control]\nsocket = \"/run/hearken/hearken.sock\"\n", "is no capture file"),
        (b"\xd4\xc3\xb2\xa1\x02\0", "is no capture file"),
        (b"\x0a\x0d\x0d\x0a\x1c\0\0\0", "is no capture file"),
    ] {
        let cause = refused(octets);
        assert!(cause.contains(said), "{cause}");
    }
    let missing = Savefile::open(Path::new("no/such.pcap")).expect_err("there is none").to_string();
    assert!(missing.starts_with("no/such.pcap: cannot read it: No such file"), "{missing}");
    assert!(Savefile::open(Path::new("/")).expect_err("a directory").to_string().contains("cannot read it"));
    assert!(read(&File::pcap(false, 0, 1).octets).is_empty());
    assert!(read(&File::pcapng(false).octets).is_empty());
}

#[test]
fn packets_are_sent_elsewhere_with_their_checksums() {
    let to = |text: &str| text.parse::<To>().expect(text);
    let both = Retarget::new(&[to("198.19.7.7:8080"), to("[2001:db8::77]:81")]).expect("one of each");
    for v6 in [false, true] {
        let mut moved = frame(v6, 9);
        both.apply(&mut moved).expect("of that family");
        assert!(is_whole(&moved));
        let sliced = SlicedPacket::from_ethernet(&moved).expect("a frame");
        let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{sliced:?}") };
        assert_eq!(tcp.destination_port(), if v6 { 81 } else { 8080 });
        let at = if v6 { 38..54 } else { 30..34 };
        let addr: &[u8] =
            if v6 { &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77] } else { &[198, 19, 7, 7] };
        assert_eq!(&moved[at], addr);
        // A wrong checksum stays wrong; a tag is no hindrance, and the port may stay.
        let mut broken = frame(v6, 9);
        *broken.last_mut().expect("octets") ^= 1;
        both.apply(&mut broken).expect("of that family");
        assert!(!is_whole(&broken));
        let mut tagged = frame(v6, 9);
        tagged.splice(12..12, [0x88, 0xa8, 0, 100, 0x81, 0, 0, 5]);
        let kept = Retarget::new(&[to("198.19.7.7"), to("2001:db8::77")]).expect("one of each");
        kept.apply(&mut tagged).expect("of that family");
        tagged.drain(12..20);
        assert!(is_whole(&tagged) && tagged[tagged.len() - 27..tagged.len() - 25] == [0, 80], "{tagged:?}");
    }
    let only = Retarget::new(&[to("[2001:db8::77]")]).expect("one");
    assert_eq!(only.apply(&mut frame(false, 0)).expect_err("the other"), "is of IPv4, and no --to is");
    assert!(Retarget::new(&[to("198.18.0.1"), to("198.18.0.2:5")]).is_err());
    let mut arp = [&HOST[..], &PEER, &[8, 6], &[0; 28]].concat();
    let before = arp.clone();
    assert_eq!((both.apply(&mut arp), arp), (Ok(()), before));
    assert!("198.18.0.1:".parse::<To>().is_err() && "eth0".parse::<To>().is_err());
}

/// As a capture on the sending host has it.
#[test]
fn a_checksum_that_was_left_to_the_device_is_completed() {
    use crate::wire::checksum::{pseudo_v4, pseudo_v6};
    for (v6, data) in [(false, 0), (true, 0), (false, 77), (true, 78)] {
        let whole = frame(v6, data);
        let (at, field) = if v6 { (54, 70) } else { (34, 50) };
        let len = whole.len() - at;
        let sum = if v6 {
            let half = |at: usize| u64::from_be_bytes(*whole[at..].first_chunk().expect("an address"));
            pseudo_v6((half(22), half(30)), (half(38), half(46)), 6, len as u32)
        } else {
            let word = |at: usize| u32::from_be_bytes(*whole[at..].first_chunk().expect("an address"));
            pseudo_v4(word(26), word(30), 6, len as u16)
        };
        let mut left = whole.clone();
        left[field..field + 2].copy_from_slice(&sum.folded().to_be_bytes());
        let packet = File::pcap(false, 0, 1).record(&left, left.len()).packet();
        assert!(packet.completed && packet.frame == whole, "{v6} {data}");
        assert!(packet.note().expect("it was completed").contains("left the checksum"));
        left[field] ^= 1;
        let packet = File::pcap(false, 0, 1).record(&left, left.len()).packet();
        assert!(
            !packet.completed && packet.frame == left && packet.note().is_none(),
            "a wrong one stays wrong"
        );
    }
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let build = |v6: bool| {
        let mut frame = Vec::new();
        let link = PacketBuilder::ethernet2(PEER, HOST);
        let net =
            if v6 { link.ipv6([1; 16], [2; 16], 9) } else { link.ipv4([198, 18, 0, 2], [198, 18, 0, 1], 9) };
        net.udp(53, 53).write(&mut frame, &[1, 2, 3, 4]).expect("a frame");
        frame
    };
    let to = [To { addr: [198, 18, 0, 9].into(), port: Some(54) }];
    let to = Retarget::new(&to).expect("one");
    let mut frame = build(false);
    to.apply(&mut frame).expect("IPv4");
    assert!(is_whole(&frame));
    frame[40..42].fill(0);
    to.apply(&mut frame).expect("IPv4");
    assert_eq!(frame[40..42], [0, 0]);
    let whole = build(true);
    let packet = File::pcap(false, 0, 1).record(&whole[..whole.len() - 1], whole.len()).packet();
    assert!(is_whole(&packet.frame));
}

/// Every capture beside this repository can be read to its end, or to where it was cut.
#[test]
fn captures_of_other_programs_are_read() {
    let Ok(entries) = std::fs::read_dir(CASES) else { return };
    let mut seen = 0;
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        if !name.ends_with(".pcap") && !name.ends_with(".pcapng") {
            continue;
        }
        seen += 1;
        let mut packets = Vec::new();
        for record in Savefile::open(&path).unwrap_or_else(|error| panic!("{error}")) {
            match record {
                Ok(Record::Packet(packet)) => packets.push(packet),
                Ok(Record::Unusable { number, why }) => panic!("{name}: frame {number} {why}"),
                Err(error) => {
                    assert!(
                        name == "cut-in-last-frame.pcap" && matches!(error.cause, Cause::Cut(2)),
                        "{error}"
                    );
                }
            }
        }
        let wanted = match name.as_str() {
            "empty.pcap" => 0,
            "dst9opts.pcap" | "qinq-88a8.pcap" | "sll.pcapng" => 1,
            "cut-in-last-frame.pcap" | "fcs-linktype.pcap" | "nonutf8-comment.pcapng" | "ok.pcapng" => 2,
            "badopt.pcap" => 9,
            "real-syns.pcap" => 144,
            _ => 3,
        };
        assert_eq!(packets.len(), wanted, "{name}");
        let whole = |packet: &Packet| match packet.frame[12..14] {
            [0x88, 0xa8] => true,
            _ => is_whole(&packet.frame),
        };
        assert!(name == "dst9opts.pcap" || packets.iter().all(whole), "{name}");
        let cooked = packets.iter().filter(|packet| packet.link == Link::Sll && packet.to_host).count();
        assert_eq!(cooked, usize::from(name.contains("sll")), "{name}");
    }
    assert!(seen == 0 || seen > 10, "{seen} captures");
}

proptest! {
    /// Whatever the octets, the reader comes to an end; what it hands out is no longer than it may be.
    #[test]
    fn no_file_breaks_the_reader(
        pick in 0..4usize,
        spoilt in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<proptest::sample::Index>(),
    ) {
        let (v4, v6) = (frame(false, 40), frame(true, 40));
        let file = match pick {
            0 => File::pcap(false, 0, 1).record(&v4, v4.len()).record(&v6[..70], v6.len()),
            1 => File::pcap(true, 0, 113).record(&v4, v4.len()).record(&v6[..70], v6.len()),
            2 => File::pcapng(false).interface(1, 0, &[13, 0, 1, 0, 32, 0, 0, 0])
                .enhanced(0, &v4, v4.len(), &[2, 0, 4, 0, 0x80, 0, 0, 0])
                .block(3, |body| body.word(60).octets(&v4)),
            _ => File::pcapng(true).interface(276, 90, &[]).interface(0, 0, &[])
                .enhanced(0, &v4, v4.len(), &[]).enhanced(1, &v6, 900, &[])
                .block(2, |body| body.word(1).word(0).word(0).word(60).word(60).octets(&v4)),
        };
        let mut octets = file.octets;
        for (at, octet) in spoilt {
            *at.get_mut(&mut octets) = octet;
        }
        octets.truncate(cut.index(octets.len() * 4).max(1));
        for record in read(&octets) {
            if let Ok(Record::Packet(mut packet)) = record {
                prop_assert!(packet.frame.len() <= LEN_MAX + 14);
                packet.address(HOST);
                let _ = packet.note();
                let to = [To { addr: [198, 18, 0, 9].into(), port: Some(54) }, To { addr: [9; 16].into(), port: None }];
                let _ = Retarget::new(&to).expect("two families").apply(&mut packet.frame);
            }
        }
    }
}
