use listener::drop_reason::DropReason;
use listener::segment::Outcome;

use super::super::testing::*;
use super::*;
use crate::io::TxOffload;

const BROADCAST: [u8; 6] = [0xff; 6];
/// 33:33:ff:00:00:01 and ff02::1:ff00:1, the solicited-node group of 2001:db8::1.
const GROUP_MAC: [u8; 6] = [0x33, 0x33, 0xff, 0, 0, 1];
const GROUP: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1];

fn request(dst: [u8; 6], spa: [u8; 4], tpa: [u8; 4]) -> Vec<u8> {
    [&dst[..], &PEER_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &PEER_MAC, &spa, &[0; 6], &tpa].concat()
}

fn solicitation(target: [u8; 16], option: &[u8]) -> Vec<u8> {
    [&[135, 0, 0, 0, 0, 0, 0, 0], &target[..], option].concat()
}

/// The SLLA option of the peer.
const SLLA: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 2];

fn answer(frame: Vec<u8>) -> Result<(Vec<u8>, TxOffload), DropReason> {
    let mut parsed = parse(&[frame]);
    if let Fate::Drop(reason) = parsed.fates[0] {
        return Err(reason);
    }
    neighbour(&mut parsed.frames, &parsed.heads, &mut parsed.fates, &parsed.lanes, &local());
    match parsed.fates[0] {
        Fate::Ready(Outcome::Other) => {
            let offload = parsed.frames[0].as_ref().map(crate::io::mem::MemFrame::tx_offload);
            Ok((parsed.bytes(0).to_vec(), offload.expect("the frame is still there")))
        }
        Fate::Drop(reason) => Err(reason),
        fate => panic!("{fate:?}"),
    }
}

fn octets(frame: Vec<u8>) -> Result<Vec<u8>, DropReason> {
    answer(frame).map(|(bytes, _)| bytes)
}

#[test]
fn an_arp_request_is_answered_to_its_sender() {
    let reply =
        [&PEER_MAC[..], &OUR_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &OUR_MAC, &OUR_V4, &PEER_MAC, &PEER_V4]
            .concat();
    let mut padded = request(BROADCAST, PEER_V4, OUR_V4);
    padded.resize(60, 0);
    assert_eq!(octets(padded), Ok(reply.clone()));
    assert_eq!(octets(request(OUR_MAC, PEER_V4, OUR_V4)), Ok(reply.clone()));
    assert_eq!(octets(tagged(request(BROADCAST, PEER_V4, OUR_V4), 0x8100, 5)), Ok(tagged(reply, 0x8100, 5)));
    let probe = octets(request(BROADCAST, [0; 4], OUR_V4)).expect("a probe is answered");
    assert_eq!(probe[38..], [0; 4]);
}

#[test]
fn arp_that_gets_no_answer() {
    let with = |at: usize, octet: u8| {
        let mut frame = request(BROADCAST, PEER_V4, OUR_V4);
        frame[at] = octet;
        octets(frame)
    };
    assert_eq!(octets(request(BROADCAST, PEER_V4, [198, 18, 0, 9])), Err(DropReason::ArpNotForUs));
    assert_eq!(
        octets(request(BROADCAST, OUR_V4, OUR_V4)),
        Err(DropReason::ArpNotForUs),
        "a claim to our address"
    );
    for nobody in [[224, 0, 0, 5], [239, 255, 255, 250], [255; 4], [127, 0, 0, 5]] {
        assert_eq!(octets(request(BROADCAST, nobody, OUR_V4)), Err(DropReason::ArpNotForUs), "{nobody:?}");
    }
    for odd in [[240, 0, 0, 1], [0, 1, 2, 3], [203, 0, 113, 9]] {
        assert!(octets(request(BROADCAST, odd, OUR_V4)).is_ok(), "as Linux does: {odd:?}");
    }
    assert_eq!(with(21, 2), Err(DropReason::ArpNotForUs), "a reply");
    assert_eq!(with(22, 1), Err(DropReason::ArpNotForUs), "from a group");
    for at in [15, 17, 18, 19] {
        assert_eq!(with(at, 9), Err(DropReason::ArpMalformed));
    }
    assert_eq!(octets(request(BROADCAST, PEER_V4, OUR_V4)[..41].to_vec()), Err(DropReason::ArpMalformed));
}

#[test]
fn a_solicitation_is_answered_to_its_sender() {
    let advertisement = [&[136, 0, 0, 0, 0x60, 0, 0, 0], &OUR_V6[..], &[2, 1], &OUR_MAC].concat();
    let mut reply = icmpv6(PEER_MAC, OUR_V6, PEER_V6, 255, &advertisement);
    reply[6..12].copy_from_slice(&OUR_MAC);
    let asked = icmpv6(GROUP_MAC, PEER_V6, GROUP, 255, &solicitation(OUR_V6, &SLLA));
    let (bytes, offload) = answer(asked).expect("it is answered");
    assert_eq!((bytes, offload), (reply.clone(), TxOffload::default()));
    let unicast = icmpv6(OUR_MAC, PEER_V6, OUR_V6, 255, &solicitation(OUR_V6, &[]));
    assert_eq!(octets(tagged(unicast, 0x8100, 9)), Ok(tagged(reply, 0x8100, 9)));
}

#[test]
fn a_duplicate_probe_is_answered_to_all_nodes() {
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let advertisement = [&[136, 0, 0, 0, 0x20, 0, 0, 0], &OUR_V6[..], &[2, 1], &OUR_MAC].concat();
    let mut reply = icmpv6([0x33, 0x33, 0, 0, 0, 1], OUR_V6, all_nodes, 255, &advertisement);
    reply[6..12].copy_from_slice(&OUR_MAC);
    assert_eq!(octets(icmpv6(GROUP_MAC, [0; 16], GROUP, 255, &solicitation(OUR_V6, &[]))), Ok(reply));
}

#[test]
fn solicitations_that_get_no_answer() {
    let mut bad_sum = icmpv6(GROUP_MAC, PEER_V6, GROUP, 255, &solicitation(OUR_V6, &[]));
    bad_sum[56] ^= 1;
    for (frame, reason) in [
        (icmpv6(GROUP_MAC, PEER_V6, GROUP, 254, &solicitation(OUR_V6, &[])), DropReason::NdpMalformed),
        (icmpv6(GROUP_MAC, PEER_V6, GROUP, 255, &solicitation(OUR_V6, &[1, 0])), DropReason::NdpMalformed),
        (icmpv6(GROUP_MAC, [0; 16], GROUP, 255, &solicitation(OUR_V6, &SLLA)), DropReason::NdpMalformed),
        (icmpv6(OUR_MAC, [0; 16], OUR_V6, 255, &solicitation(OUR_V6, &[])), DropReason::NdpMalformed),
        (icmpv6(GROUP_MAC, PEER_V6, GROUP, 255, &solicitation(PEER_V6, &[])), DropReason::NdpNotForUs),
        (bad_sum, DropReason::IcmpCsum),
    ] {
        assert_eq!(octets(frame.clone()), Err(reason), "{frame:02x?}");
    }
}
