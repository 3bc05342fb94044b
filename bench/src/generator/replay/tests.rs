use super::*;
use crate::frames::{self, Kind, SERVER_MAC};
use crate::pcap;

fn frames_of(octets: &[Vec<u8>], to: &[&str]) -> anyhow::Result<Frames> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("f.pcap");
    pcap::write(&file, octets).expect("a file");
    let to: Vec<_> = to.iter().map(|to| to.parse().expect("an address")).collect();
    Frames::read(&file, &Retarget::new(&to).expect("of two families"))
}

/// An answer to the SYN `number` of `replay`.
fn answer(replay: &Replay, number: usize, flags: u8, octets: u32) -> Heard {
    let Syn { ends, isn, .. } = replay.syns[number];
    let ack = isn.wrapping_add(octets);
    let options = listener::segment::TcpOptions::default();
    Heard { src: ends.dst, dst: ends.src, seq: 1, ack, flags, data: 0, options, whole: true }
}

#[test]
fn what_cannot_be_sent_is_left_out_and_counted() {
    let good = frames::frames(Kind::Syn, 3, SERVER_MAC);
    let long = vec![0x11; 2554];
    let mut frames =
        frames_of(&[good[0].clone(), vec![1; 9], long.clone(), good[1].clone(), long], &[]).expect("two");
    frames
        .keep(Path::new("f"), |frame| if frame.len() > 1514 { Err("is long".into()) } else { Ok(()) })
        .expect("two");
    assert_eq!((frames.frames.len(), frames.left_out), (2, 3));
    assert_eq!(frames.numbers, [1, 4]);
    let notes = frames.notes();
    assert_eq!(
        notes,
        ["3 frames of the file are left out; the first, frame 2, has 9 octets, and a header has 14."]
    );
    let none = frames.keep(Path::new("f"), |_| Err("is long".into())).expect_err("none is left").to_string();
    assert!(none.contains("holds no frame that can be sent: frame 1 is long"), "{none}");
    assert!(frames_of(&[], &[]).expect_err("empty").to_string().ends_with("holds no frame"));
}

#[test]
fn copies_and_others_of_the_same_flow_are_told_apart() {
    let good = frames::frames(Kind::Syn, 2, SERVER_MAC);
    // The same addresses and ports, another sequence number, a checksum that fits.
    let mut later = good[0].clone();
    let at = later.len() - good[0].len() + 14 + 20;
    let field = u16::from_be_bytes([later[at + 16], later[at + 17]]);
    let old = u16::from_be_bytes([later[at + 4], later[at + 5]]);
    later[at + 4..at + 6].copy_from_slice(&old.wrapping_add(9).to_be_bytes());
    let sum = dataplane::wire::checksum::update(field, old, old.wrapping_add(9));
    later[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
    let mut broken = good[1].clone();
    broken[at + 16] ^= 1;
    let all = [good[0].clone(), good[1].clone(), good[0].clone(), later, broken];
    let frames = frames_of(&all, &[]).expect("frames");
    assert!(frames.notes()[0].ends_with("no answer is expected: 1."), "{:?}", frames.notes());
    let replay = Replay::new(frames);
    assert_eq!((replay.len(), replay.syns()), (5, 3));
    assert_eq!((0..5).map(|flow| replay.syn_number(flow)).collect::<Vec<_>>(), [0, 1, 0, 2, 3]);
    assert!(replay.is_syn(7) && !replay.is_syn(4) && !replay.is_syn(9));
    let flow = |number, flags, octets| {
        let acked = replay.acked(&answer(&replay, number, flags, octets)).expect("it was asked");
        (replay.syn_number(acked.flow), acked.octets)
    };
    for number in 0..3 {
        assert_eq!(flow(number, flag::SYN | flag::ACK, 1), (number, 1));
    }
    assert!(replay.has_source(replay.syns[0].ends.src.0) && !replay.has_source(InetAddr::ANY_V4));
}

#[test]
fn a_reset_acknowledges_the_data_of_a_syn() {
    let mut with_data = Vec::new();
    let packet =
        etherparse::PacketBuilder::ethernet2([2; 6], SERVER_MAC).ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64);
    packet.tcp(5, 81, 1000, 64_240).syn().write(&mut with_data, &[7; 30]).expect("a frame");
    let frames = frames_of(&[with_data], &["198.18.7.7:90"]).expect("a frame");
    assert_eq!(frames.targets(), [(InetAddr::v4(0xc612_0707), InetAddr::v4(0xc612_0002))]);
    let replay = Replay::new(frames);
    let octets = |flags, octets| replay.acked(&answer(&replay, 0, flags, octets)).map(|acked| acked.octets);
    assert_eq!(octets(flag::RST | flag::ACK, 31), Some(1));
    assert_eq!(octets(flag::RST | flag::ACK, 30), Some(30));
    assert_eq!(octets(flag::SYN | flag::ACK, 31), Some(31), "nobody offered to take data");
    assert_eq!(replay.ends(0).expect("a SYN").1.port, 90);
}
