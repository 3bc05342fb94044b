use etherparse::PacketBuilder;

use super::super::testing::*;
use super::*;
use crate::burst::Lane;

/// The segment that errors quote: from our port 80 to the peer's 40000, number 0x01020304; its first eight octets.
const SEGMENT: [u8; 8] = [0, 80, 0x9c, 0x40, 1, 2, 3, 4];

fn quoted_packet_v4() -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, PROTO_TCP, 0, 0];
    packet.extend(OUR_V4.iter().chain(&PEER_V4).chain(&SEGMENT));
    packet
}

fn quoted_packet_v6() -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 20, PROTO_TCP, 64];
    packet.extend(OUR_V6.iter().chain(&PEER_V6).chain(&SEGMENT));
    packet
}

fn error_v4(kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    let icmp = PacketBuilder::ethernet2(PEER_MAC, OUR_MAC).ipv4(PEER_V4, OUR_V4, 64);
    let mut frame = Vec::new();
    icmp.icmpv4_raw(kind, code, [0; 4]).write(&mut frame, quoted).expect("a Vec takes it");
    frame
}

fn error_v6(kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    icmpv6(OUR_MAC, PEER_V6, OUR_V6, 64, &[&[kind, code, 0, 0, 0, 0, 0, 0], quoted].concat())
}

fn read_frame(frame: &[u8]) -> Result<IcmpError, DropReason> {
    let parsed = parse(&[frame.to_vec()]);
    match parsed.fates[0] {
        Fate::Drop(reason) => return Err(reason),
        _ => assert_eq!(parsed.lanes.errors, Lane::of(1)),
    }
    read(frame, &parsed.heads[0], DEV)
}

#[test]
fn an_error_names_our_flow_and_number() {
    let flow = |saddr: InetAddr, daddr: InetAddr| FlowKey {
        saddr,
        daddr,
        sport: TcpPort(40_000),
        dport: TcpPort(80),
    };
    let v4 = |octets: [u8; 4]| InetAddr::v4(u32::from_be_bytes(octets));
    for (kind, code, fatal) in
        [(3, 0, true), (3, 1, true), (3, 3, false), (3, 13, false), (11, 0, true), (12, 0, true)]
    {
        let error = read_frame(&error_v4(kind, code, &quoted_packet_v4()));
        let flow = flow(v4(PEER_V4), v4(OUR_V4));
        assert_eq!(error, Ok(IcmpError { flow, dev: DEV, seq: SegSeq(0x0102_0304), fatal }), "{kind}/{code}");
    }
    for (kind, code, fatal) in
        [(1, 0, false), (1, 1, true), (1, 3, false), (1, 4, true), (3, 0, false), (4, 1, true)]
    {
        let error = read_frame(&error_v6(kind, code, &quoted_packet_v6()));
        let flow = flow(v6(PEER_V6), v6(OUR_V6));
        assert_eq!(error, Ok(IcmpError { flow, dev: DEV, seq: SegSeq(0x0102_0304), fatal }), "{kind}/{code}");
    }
}

#[test]
fn other_messages_are_turned_away() {
    let with = |at: usize, octet: u8| {
        let mut packet = quoted_packet_v4();
        packet[at] = octet;
        packet
    };
    for (what, quoted) in [
        ("UDP", with(9, 17)),
        ("version 6", with(0, 0x65)),
        ("a header of four words", with(0, 0x44)),
        ("options that are cut off", with(0, 0x46)),
        ("seven octets of the segment", quoted_packet_v4()[..27].to_vec()),
        ("nothing", Vec::new()),
    ] {
        assert_eq!(read_frame(&error_v4(3, 1, &quoted)), Err(DropReason::IcmpMalformed), "{what}");
    }
    assert_eq!(read_frame(&error_v6(1, 4, &quoted_packet_v6()[..47])), Err(DropReason::IcmpMalformed));
    // Reassembly is none of TCP's.
    assert_eq!(read_frame(&error_v4(11, 1, &quoted_packet_v4())), Err(DropReason::IcmpType));
    assert_eq!(read_frame(&error_v4(3, 16, &quoted_packet_v4())), Err(DropReason::IcmpType));
    let mut spoilt = error_v4(3, 1, &quoted_packet_v4());
    spoilt[36] ^= 1;
    assert_eq!(read_frame(&spoilt), Err(DropReason::IcmpCsum));
    let mut spoilt = error_v6(1, 4, &quoted_packet_v6());
    spoilt[56] ^= 1;
    assert_eq!(read_frame(&spoilt), Err(DropReason::IcmpCsum));
}
