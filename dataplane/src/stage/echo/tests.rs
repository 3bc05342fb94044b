use listener::drop_reason::DropReason;
use listener::segment::Outcome;

use super::super::testing::*;
use super::*;
use crate::burst::Lane;

fn answer(frame: Vec<u8>) -> Result<Vec<u8>, DropReason> {
    let mut parsed = parse(&[frame]);
    assert_eq!((parsed.fates[0], parsed.lanes.echo), (Fate::Pending, Lane::of(1)));
    echo(&mut parsed.frames, &parsed.heads, &mut parsed.fates, &parsed.lanes, &local());
    match parsed.fates[0] {
        Fate::Ready(Outcome::Other) => Ok(parsed.bytes(0).to_vec()),
        Fate::Drop(reason) => Err(reason),
        fate => panic!("{fate:?}"),
    }
}

/// What a reply with `data` looks like, as etherparse writes it.
fn reply_v4(data: &[u8], tos: u8) -> Vec<u8> {
    let icmp = etherparse::PacketBuilder::ethernet2(OUR_MAC, PEER_MAC)
        .ipv4(OUR_V4, PEER_V4, 64)
        .icmpv4_echo_reply(7, 1);
    let mut frame = Vec::new();
    icmp.write(&mut frame, data).expect("a Vec takes it");
    frame[15] = tos;
    fix_ipv4(&mut frame);
    frame
}

#[test]
fn a_ping_comes_back() {
    let data = [0x5a; 57];
    assert_eq!(answer(ping_v4(&data)), Ok(reply_v4(&data, 0)));
    let mut padded = ping_v4(b"");
    padded[15] = 0xb8;
    fix_ipv4(&mut padded);
    padded.resize(60, 0xee);
    assert_eq!(answer(padded), Ok(reply_v4(b"", 0xb8)), "padding does not come back");
    assert_eq!(answer(tagged(ping_v4(&data), 0x8100, 5)), Ok(tagged(reply_v4(&data, 0), 0x8100, 5)));
}

#[test]
fn ip_options_do_not_come_back() {
    let mut frame = ping_v4(b"data");
    frame.splice(34..34, [1, 1, 1, 0]);
    frame[14] = 0x46;
    frame[17] += 4;
    fix_ipv4(&mut frame);
    assert_eq!(answer(frame), Ok(reply_v4(b"data", 0)));
}

#[test]
fn a_broken_ping_does_not() {
    let mut frame = ping_v4(b"data");
    frame[45] ^= 1;
    assert_eq!(answer(frame), Err(DropReason::IcmpCsum));
    let mut frame = icmpv6(OUR_MAC, PEER_V6, OUR_V6, 64, &[128, 0, 0, 0, 0, 7, 0, 1]);
    frame[61] ^= 2;
    assert_eq!(answer(frame), Err(DropReason::IcmpCsum));
}

#[test]
fn an_ipv6_ping_comes_back_also_from_all_nodes() {
    let mut reply = icmpv6(PEER_MAC, OUR_V6, PEER_V6, 64, &[129, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3]);
    reply[6..12].copy_from_slice(&OUR_MAC);
    let request = [128, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3];
    assert_eq!(answer(icmpv6(OUR_MAC, PEER_V6, OUR_V6, 3, &request)), Ok(reply.clone()));
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    assert_eq!(answer(icmpv6([0x33, 0x33, 0, 0, 0, 1], PEER_V6, all_nodes, 3, &request)), Ok(reply.clone()));
    let other = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let to_other = icmpv6([0x33, 0x33, 0, 0, 0, 2], PEER_V6, other, 3, &request);
    assert_eq!(answer(to_other), Err(DropReason::IcmpType));

    let mut extended = icmpv6(OUR_MAC, PEER_V6, OUR_V6, 3, &request);
    extended.splice(54..54, [58, 0, 1, 4, 0, 0, 0, 0]);
    extended[20] = 60;
    extended[19] += 8;
    assert_eq!(answer(extended), Ok(reply), "extension headers do not come back");
}
