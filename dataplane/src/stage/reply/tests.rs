use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use listener::segment::{Outcome, TcpOptions, flag};
use listener::types::{InetAddr, SegSeq, TcpPort};
use proptest::prelude::*;

use super::super::testing::*;
use super::*;
use crate::io::RxMeta;
use crate::wire::checksum::pseudo_v4;

fn syn_ack() -> OutSegment {
    OutSegment {
        flags: flag::SYN | flag::ACK,
        tos: 0,
        wnd: 64240,
        seq: SegSeq(0x0102_0304),
        ack: SegSeq(1001),
        options: TcpOptions { mss: 1460, ..TcpOptions::default() },
    }
}

fn answer(frame: Vec<u8>, meta: RxMeta, capabilities: Capabilities) -> (Vec<u8>, TxOffload) {
    let mut parsed = parse_with(&[frame], meta);
    assert_eq!(parsed.fates[0], Fate::Pending);
    parsed.fates[0] = Fate::Tcp(Verdict::Reply(Outcome::SynAck, syn_ack()));
    let columns = (&parsed.heads[..], &parsed.segs[..]);
    reply(&mut parsed.frames, columns, &mut parsed.fates, &parsed.lanes, &local(), capabilities);
    assert_eq!(parsed.fates[0], Fate::Ready(Outcome::SynAck));
    let frame = parsed.frames[0].as_ref().expect("the frame is still there");
    (frame.bytes().to_vec(), frame.tx_offload())
}

/// 198.18.0.1:80 → 198.18.0.2:40000, SYN ACK, seq 0x01020304, ack 1001, window 64240, MSS 1460.
#[rustfmt::skip]
const SYN_ACK: [u8; 58] = [
    2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0,
    0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6, 0xae, 0xa4, 198, 18, 0, 1, 198, 18, 0, 2,
    0, 80, 0x9c, 0x40, 1, 2, 3, 4, 0, 0, 3, 0xe9, 0x60, 0x12, 0xfa, 0xf0, 0x6c, 0x7e, 0, 0, 2, 4, 5, 0xb4,
];

#[test]
fn a_syn_ack_stands_in_the_syns_frame() {
    let (bytes, offload) = answer(syn_v4(), RxMeta::default(), Capabilities::default());
    assert_eq!(bytes, SYN_ACK);
    assert_eq!(offload, TxOffload::default(), "nothing is left to the device");
    let mut padded = syn_v4();
    padded.resize(64, 0xee);
    assert_eq!(answer(padded, RxMeta::default(), Capabilities::default()).0, SYN_ACK);
}

#[test]
fn the_tags_go_back() {
    let in_frame = answer(tagged(syn_v4(), 0x8100, 0x6005), RxMeta::default(), Capabilities::default());
    assert_eq!(in_frame.0, tagged(SYN_ACK.to_vec(), 0x8100, 0x6005));
    assert_eq!((in_frame.1.l2_len, in_frame.1.vlan_tci), (18, None));
    let two = |frame| tagged(tagged(frame, 0x8100, 0x6005), 0x88a8, 7);
    assert_eq!(answer(two(syn_v4()), RxMeta::default(), Capabilities::default()).0, two(SYN_ACK.to_vec()));
    let stripped = RxMeta { vlan_tci: Some(0x6005), ..RxMeta::default() };
    let (bytes, offload) = answer(syn_v4(), stripped, Capabilities::default());
    assert_eq!((&bytes[..], offload.vlan_tci), (&SYN_ACK[..], Some(0x6005)));
}

#[test]
fn a_device_gets_what_it_needs_to_complete_checksums() {
    let capabilities = Capabilities { tx_ip_csum: true, tx_tcp_csum: true, ..Capabilities::default() };
    let (bytes, offload) = answer(syn_v4(), RxMeta::default(), capabilities);
    assert_eq!(bytes[24..26], [0, 0]);
    let pseudo = pseudo_v4(u32::from_be_bytes(OUR_V4), u32::from_be_bytes(PEER_V4), 6, 24).folded();
    assert_eq!(bytes[50..52], pseudo.to_be_bytes());
    assert!(offload.ip_csum && offload.tcp_csum && !offload.ipv6);
    let (_, offload) = answer(syn_v6(), RxMeta::default(), capabilities);
    assert!(!offload.ip_csum && offload.tcp_csum && offload.ipv6 && offload.l3_len == 40);
}

#[test]
fn ipv6_answers_are_whole() {
    let (bytes, _) = answer(syn_v6(), RxMeta::default(), Capabilities::default());
    let sliced = SlicedPacket::from_ethernet(&bytes).expect("well formed");
    let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("IPv6") };
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("TCP") };
    assert_eq!((ip.header().source(), ip.header().destination()), (OUR_V6, PEER_V6));
    assert_eq!((tcp.source_port(), tcp.destination_port(), ip.header().hop_limit()), (80, 40000, 64));
    assert_eq!(tcp.calc_checksum_ipv6(OUR_V6, PEER_V6), Ok(tcp.checksum()));
}

proptest! {
    /// The short way writes what the long one does, and takes all that it is there for.
    #[test]
    fn plain_answers_are_written_alike(
        (saddr, daddr, sport, dport) in any::<(u32, u32, u16, u16)>(),
        (flags, tos, wnd, seq, ack) in any::<(u8, u8, u16, u32, u32)>(),
        mss in prop_oneof![Just(0), any::<u16>()],
    ) {
        let (saddr, daddr) = (InetAddr::v4(saddr), InetAddr::v4(daddr));
        let flow = FlowKey { saddr, daddr, sport: TcpPort(sport), dport: TcpPort(dport) };
        let options = TcpOptions { mss, ..TcpOptions::default() };
        let segment = OutSegment { flags, tos, wnd, seq: SegSeq(seq), ack: SegSeq(ack), options };
        let mut parsed = parse(&[syn_v4(), syn_v4()]);
        let head = parsed.heads[0];
        let [Some(plain), Some(long)] = &mut parsed.frames[..] else { panic!("two frames") };
        prop_assert!(write_plain(plain, &head, &flow, &segment, MacAddr(OUR_MAC)));
        let offload = write_segment(long, head.l2_len, &flow, &segment, Capabilities::default());
        L2::of(&head).answer_with(long, MacAddr(OUR_MAC), head.src_mac, offload.expect("room"));
        prop_assert_eq!(plain.bytes(), long.bytes());
    }
}
