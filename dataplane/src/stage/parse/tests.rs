use listener::drop_reason::DropReason;
use listener::segment::{FlowKey, Segment, TcpOptions, flag};
use listener::types::{InetAddr, SegSeq, TcpPort};
use listener::vector::Vectors;
use proptest::prelude::*;

use super::super::testing::*;
use super::{Row, any_frame, plain};
use crate::burst::{BURST_MAX, Fate, Head, Lane, Lanes, Plain};
use crate::io::mem::{Mem, MemConfig, MemFrame};
use crate::io::{Csum, PacketIo, RxMeta};
use crate::local::{LocalTable, pack_route};
use crate::wire::checksum::{Sum, pseudo_v4};
use crate::wire::ether::MacAddr;
use crate::wire::vlan::{Tags, Tci};

fn fate(frame: Vec<u8>) -> Fate {
    parse(&[frame]).fates[0]
}

/// A SYN with `edit` applied and the IP header checksum right again.
fn edited(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = syn_v4();
    edit(&mut frame);
    fix_ipv4(&mut frame);
    frame
}

/// An IPv4 header with four octets of options in front of the SYN's TCP header.
fn with_options(options: [u8; 4]) -> Vec<u8> {
    edited(|frame| {
        frame.splice(34..34, options);
        frame[14] = 0x46;
        frame[17] += 4;
    })
}

#[test]
fn a_syn_becomes_a_segment() {
    let parsed = parse(&[syn_v4(), tagged(syn_v6(), 0x8100, 0x2005)]);
    assert_eq!(parsed.lanes.tcp, Lane::of(0b11));
    let v4 = |octets: [u8; 4]| InetAddr::v4(u32::from_be_bytes(octets));
    let flow = |saddr, daddr| FlowKey { saddr, daddr, sport: TcpPort(40000), dport: TcpPort(80) };
    let syn = Segment {
        reserved: 0,
        flow: flow(v4(PEER_V4), v4(OUR_V4)),
        dev: DEV,
        flags: flag::SYN,
        tos: 0,
        wnd: 64240,
        payload_len: 0,
        seq: SegSeq(1000),
        ack: SegSeq(0),
        options: TcpOptions { mss: 1460, ..TcpOptions::default() },
        route: pack_route(MacAddr(PEER_MAC), Tags::NONE),
    };
    assert_eq!(parsed.segs[0], syn);
    let options = TcpOptions { mss: 1440, ..TcpOptions::default() };
    let route = pack_route(MacAddr(PEER_MAC), Tags::one(Some(Tci(0x2005))));
    assert_eq!(parsed.segs[1], Segment { flow: flow(v6(PEER_V6), v6(OUR_V6)), options, route, ..syn });
    let head = parsed.heads[1];
    assert_eq!((head.l2_len, head.l3_len, head.end, head.v6), (18, 40, 82, true));
}

#[test]
fn lanes_keep_the_order_of_arrival() {
    let arp = [&[0xff; 6][..], &PEER_MAC, &[8, 6], &[0; 28]].concat();
    let echo = icmpv6(OUR_MAC, PEER_V6, OUR_V6, 64, &[128, 0, 0, 0, 0, 1, 0, 1]);
    let ndp = icmpv6(OUR_MAC, PEER_V6, OUR_V6, 255, &[135, 0, 0, 0, 0, 0, 0, 0]);
    let parsed = parse(&[syn_v4(), arp, ping_v4(b"x"), syn_v6(), vec![], ndp, echo]);
    assert_eq!(parsed.lanes.tcp, Lane::of(0b1001));
    assert_eq!(parsed.lanes.arp, Lane::of(0b10));
    assert_eq!(parsed.lanes.echo, Lane::of(0b100_0100));
    assert_eq!(parsed.lanes.ndp, Lane::of(0b10_0000));
    assert_eq!(parsed.fates[4], Fate::Drop(DropReason::EtherTooShort));
}

#[test]
fn a_tag_within_a_tag() {
    for tpid in [0x8100, 0x88a8] {
        let parsed = parse(&[tagged(tagged(syn_v4(), 0x8100, 5), tpid, 0x6006)]);
        let tags = Tags { outer: Some((tpid, Tci(0x6006))), tci: Some(Tci(5)) };
        assert_eq!(parsed.segs[0].route, pack_route(MacAddr(PEER_MAC), tags));
        assert_eq!((parsed.fates[0], parsed.heads[0].l2_len, parsed.heads[0].end), (Fate::Pending, 22, 66));
    }
}

#[test]
fn padding_is_not_payload() {
    let mut frame = syn_v4();
    frame.resize(64, 0xaa);
    let parsed = parse(&[frame]);
    assert_eq!((parsed.fates[0], parsed.segs[0].payload_len, parsed.heads[0].end), (Fate::Pending, 0, 58));
}

#[test]
fn link_faults() {
    let long_mac = |dst: [u8; 6]| edited(|frame| frame[..6].copy_from_slice(&dst));
    for (frame, reason) in [
        (syn_v4()[..13].to_vec(), DropReason::EtherTooShort),
        (tagged(syn_v4(), 0x8100, 5)[..17].to_vec(), DropReason::EtherTooShort),
        (long_mac([2, 0, 0, 0, 0, 9]), DropReason::EtherOtherHost),
        (edited(|frame| frame[12] = 0x88), DropReason::EtherType),
        (tagged(syn_v4(), 0x88a8, 5), DropReason::EtherType),
        (tagged(tagged(syn_v4(), 0x88a8, 5), 0x8100, 6), DropReason::VlanNested),
        (tagged(tagged(tagged(syn_v4(), 0x8100, 5), 0x8100, 6), 0x88a8, 7), DropReason::VlanNested),
        (tagged(tagged(syn_v4(), 0x8100, 5), 0x88a8, 6)[..21].to_vec(), DropReason::EtherTooShort),
        (tagged(tagged(syn_v4(), 0x8100, 5), 0x88a8, 0xfff), DropReason::VlanReserved),
        (tagged(syn_v4(), 0x8100, 0x0fff), DropReason::VlanReserved),
        (tagged(syn_v4(), 0x8100, 0xffff), DropReason::VlanReserved),
        (long_mac([0xff; 6]), DropReason::IpNotUnicast),
        (long_mac([1, 0, 0x5e, 0, 0, 1]), DropReason::IpNotUnicast),
    ] {
        assert_eq!(fate(frame.clone()), Fate::Drop(reason), "{frame:02x?}");
    }
}

#[test]
fn ipv4_faults() {
    let src = |octets: [u8; 4]| edited(|frame| frame[26..30].copy_from_slice(&octets));
    let dst = |octets: [u8; 4]| edited(|frame| frame[30..34].copy_from_slice(&octets));
    let mut bad_sum = syn_v4();
    bad_sum[22] ^= 1;
    let ping_broadcast = {
        let mut frame = ping_v4(b"x");
        frame[33] = 255;
        fix_ipv4(&mut frame);
        frame
    };
    for (frame, reason) in [
        (syn_v4()[..33].to_vec(), DropReason::IpTruncated),
        (syn_v4()[..57].to_vec(), DropReason::IpTruncated),
        (edited(|frame| frame[14] = 0x55), DropReason::IpHeader),
        (edited(|frame| frame[14] = 0x44), DropReason::IpHeader),
        (edited(|frame| frame[17] = 19), DropReason::IpHeader),
        (bad_sum, DropReason::IpCsum),
        (edited(|frame| frame[20] = 0x20), DropReason::IpFragment),
        (edited(|frame| frame[21] = 9), DropReason::IpFragment),
        (with_options([131, 3, 4, 0]), DropReason::IpOptions),
        (with_options([137, 3, 4, 0]), DropReason::IpOptions),
        (with_options([7, 9, 4, 0]), DropReason::IpOptions),
        (dst([198, 18, 0, 9]), DropReason::IpNotLocal),
        (dst([127, 0, 0, 1]), DropReason::IpNotLocal),
        (dst([198, 18, 0, 255]), DropReason::IpNotUnicast),
        (dst([255; 4]), DropReason::IpNotUnicast),
        (dst([224, 0, 0, 1]), DropReason::IpNotUnicast),
        (src([0, 0, 0, 0]), DropReason::IpMartianSource),
        (src([127, 0, 0, 1]), DropReason::IpMartianSource),
        (src(OUR_V4), DropReason::IpMartianSource),
        (src([224, 0, 0, 1]), DropReason::IpNotUnicast),
        (src([198, 18, 0, 255]), DropReason::IpNotUnicast),
        (src([255; 4]), DropReason::IpNotUnicast),
        (edited(|frame| frame[23] = 17), DropReason::IpProto),
        (ping_broadcast, DropReason::IcmpType),
    ] {
        assert_eq!(fate(frame.clone()), Fate::Drop(reason), "{frame:02x?}");
    }
    assert_eq!(fate(with_options([1, 1, 1, 0])), Fate::Pending, "harmless options pass");
}

#[test]
fn ipv6_faults() {
    let with = |at: usize, octets: &[u8]| {
        let mut frame = syn_v6();
        frame[at..at + octets.len()].copy_from_slice(octets);
        frame
    };
    let (src, dst) = (22, 38);
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 18, 0, 1];
    let loopback = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    for (frame, reason) in [
        (syn_v6()[..53].to_vec(), DropReason::IpTruncated),
        (syn_v6()[..77].to_vec(), DropReason::IpTruncated),
        (with(14, &[0x40]), DropReason::IpHeader),
        (with(20, &[44]), DropReason::IpFragment),
        (with(20, &[60]), DropReason::Ipv6Ext),
        (with(20, &[17]), DropReason::IpProto),
        (with(dst, &[0x20, 1, 0xd, 0xb9]), DropReason::IpNotLocal),
        (with(dst, &mapped), DropReason::IpNotLocal),
        (with(dst, &loopback), DropReason::IpNotLocal),
        (with(dst, &all_nodes), DropReason::IpNotUnicast),
        (with(src, &mapped), DropReason::IpMartianSource),
        (with(src, &loopback), DropReason::IpMartianSource),
        (with(src, &[0; 16]), DropReason::IpMartianSource),
        (with(src, &OUR_V6), DropReason::IpMartianSource),
        (with(src, &all_nodes), DropReason::IpNotUnicast),
        (icmpv6(OUR_MAC, PEER_V6, OUR_V6, 255, &[136, 0, 0, 0, 0, 0, 0, 0]), DropReason::NdpNotForUs),
        (icmpv6(OUR_MAC, PEER_V6, OUR_V6, 255, &[134, 0, 0, 0, 0, 0, 0, 0]), DropReason::NdpNotForUs),
        (icmpv6(OUR_MAC, PEER_V6, OUR_V6, 64, &[129, 0, 0, 0, 0, 0, 0, 0]), DropReason::IcmpType),
        (icmpv6(OUR_MAC, PEER_V6, OUR_V6, 64, &[128, 0, 0, 0, 0, 0, 0]), DropReason::IcmpMalformed),
    ] {
        assert_eq!(fate(frame.clone()), Fate::Drop(reason), "{frame:02x?}");
    }
}

#[test]
fn tcp_faults() {
    let mut bad_sum = syn_v4();
    bad_sum[57] ^= 1;
    let mut bad_sum_v6 = syn_v6();
    bad_sum_v6[77] ^= 1;
    for (frame, reason) in [
        (edited(|frame| frame[17] = 39), DropReason::TcpTruncated),
        (edited(|frame| frame[46] = 0x70), DropReason::TcpTruncated),
        (edited(|frame| frame[46] = 0x40), DropReason::TcpHeader),
        (bad_sum, DropReason::TcpCsum),
        (bad_sum_v6, DropReason::TcpCsum),
    ] {
        assert_eq!(fate(frame.clone()), Fate::Drop(reason), "{frame:02x?}");
    }
}

#[test]
fn the_devices_word_on_checksums_counts() {
    let mut broken = syn_v4();
    broken[24] ^= 1;
    broken[57] ^= 1;
    let with = |frame: &Vec<u8>, ip_csum, l4_csum| {
        parse_with(std::slice::from_ref(frame), RxMeta { ip_csum, l4_csum, ..RxMeta::default() }).fates[0]
    };
    for word in [Csum::Good, Csum::None] {
        assert_eq!(with(&broken, word, word), Fate::Pending);
    }
    assert_eq!(with(&broken, Csum::Unknown, Csum::Good), Fate::Drop(DropReason::IpCsum));
    assert_eq!(with(&broken, Csum::Good, Csum::Unknown), Fate::Drop(DropReason::TcpCsum));
    assert_eq!(with(&syn_v4(), Csum::Bad, Csum::Good), Fate::Drop(DropReason::IpCsum));
    assert_eq!(with(&syn_v4(), Csum::Good, Csum::Bad), Fate::Drop(DropReason::TcpCsum));
}

#[test]
fn what_the_device_did_to_the_frame() {
    let chained = RxMeta { chained: true, ..RxMeta::default() };
    assert_eq!(parse_with(&[syn_v4()], chained).fates[0], Fate::Drop(DropReason::MultiSegment));
    let stripped = RxMeta { vlan_tci: Some(7), ..RxMeta::default() };
    let parsed = parse_with(&[syn_v4(), tagged(syn_v4(), 0x8100, 5)], stripped);
    assert_eq!(parsed.segs[0].route, pack_route(MacAddr(PEER_MAC), Tags::one(Some(Tci(7)))));
    assert_eq!((parsed.heads[0].l2_len, parsed.heads[0].stripped_tci), (14, Some(7)));
    // 8100 or 88a8? An answer would have one of them.
    assert_eq!(parsed.fates[1], Fate::Drop(DropReason::VlanTpid));
    let three = tagged(tagged(syn_v4(), 0x8100, 5), 0x8100, 6);
    assert_eq!(parse_with(&[three], stripped).fates[0], Fate::Drop(DropReason::VlanNested));
}

/// True if the options are those of Linux's SYNs, with nothing to echo.
fn has_full_options(frame: &[u8]) -> bool {
    frame[46] >> 4 == 10
        && frame[54..56] == [2, 4]
        && frame[58..62] == [4, 2, 8, 10]
        && frame[66..73] == [0, 0, 0, 0, 1, 3, 3]
}

/// TCP over IPv4 as it comes, with what the device said, and now and then an octet that is not as it should be.
fn segments() -> impl Strategy<Value = (Vec<u8>, RxMeta)> {
    let options = prop_oneof![
        Just(vec![]),
        Just(vec![2, 4, 5, 0xb4]),
        Just(vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
        (any::<(u16, u32, u8)>(), prop::option::weighted(0.2, 0..32u32)).prop_map(
            |((mss, tsval, scale), bit)| {
                let tsecr = bit.map_or(0, |bit| 1u32 << bit).to_be_bytes();
                let (mss, tsval) = (mss.to_be_bytes(), tsval.to_be_bytes());
                [&[2, 4], &mss[..], &[4, 2, 8, 10], &tsval, &tsecr, &[1, 3, 3, scale]].concat()
            }
        ),
        Just([&[1, 1, 19, 18][..], &[7; 16]].concat()),
        prop::collection::vec(any::<u32>(), 0..10)
            .prop_map(|words| { words.into_iter().flat_map(u32::to_be_bytes).collect() }),
    ];
    let csum = || prop_oneof![4 => Just(Csum::Unknown), 1 => Just(Csum::Good), 1 => Just(Csum::None), 1 => Just(Csum::Bad)];
    let meta = (csum(), csum(), prop::option::weighted(0.1, Just(7)), prop::bool::weighted(0.1));
    let wrong = prop::option::weighted(0.5, (14usize..76, any::<u8>(), any::<bool>()));
    let flags = prop_oneof![Just(flag::SYN), any::<u8>()];
    let data = prop_oneof![Just(vec![]), prop::collection::vec(any::<u8>(), 0..20)];
    (options, data, flags, 0usize..6, meta, wrong).prop_map(
        |(options, data, flags, padding, (ip_csum, l4_csum, vlan_tci, chained), wrong)| {
            let mut frame = syn_v4()[..54].to_vec();
            frame[46] = ((20 + options.len()) << 2) as u8;
            frame[47] = flags;
            frame.extend(options.iter().chain(&data));
            let total = frame.len() as u16 - 14;
            frame[16..18].copy_from_slice(&total.to_be_bytes());
            let sums = |frame: &mut Vec<u8>| {
                fix_ipv4(frame);
                frame[50..52].fill(0);
                let sum = pseudo_v4(0xc612_0002, 0xc612_0001, 6, total - 20).plus(Sum::of(&frame[34..]));
                frame[50..52].copy_from_slice(&sum.checksum().to_be_bytes());
            };
            sums(&mut frame);
            if let Some((at, octet, mend)) = wrong
                && at < frame.len()
            {
                frame[at] = octet;
                if mend {
                    sums(&mut frame);
                }
            }
            frame.extend(std::iter::repeat_n(0, padding));
            (frame, RxMeta { ip_csum, l4_csum, vlan_tci, chained })
        },
    )
}

#[test]
fn a_device_without_an_address_of_its_own_is_nobody_at_the_broadcast() {
    let local = LocalTable::new(MacAddr(OUR_MAC), &[], &[(InetAddr::v4(0xc613_0000), 16)]);
    let to = |daddr: [u8; 4]| {
        let mut frame = syn_v4();
        frame[30..34].copy_from_slice(&daddr);
        fix_ipv4(&mut frame);
        frame[50..52].fill(0);
        let daddr = u32::from_be_bytes(daddr);
        let tcp_len = frame.len() as u16 - 34;
        let sum = pseudo_v4(u32::from_be_bytes(PEER_V4), daddr, 6, tcp_len).plus(Sum::of(&frame[34..]));
        frame[50..52].copy_from_slice(&sum.checksum().to_be_bytes());
        (frame, RxMeta::default())
    };
    let frames = slots(&[to([255; 4]), to([198, 19, 3, 4]), to(OUR_V4)]);
    let taken = plain::read(&frames, Vectors::best(), &local, &mut Box::new(Plain::EMPTY), |_, _, _| {});
    assert_eq!(taken.plain, 0b010, "an address of the prefix alone");
}

/// The frames of a burst, as they come in.
fn slots(burst: &[(Vec<u8>, RxMeta)]) -> Vec<Option<MemFrame>> {
    let (mut io, peer) = Mem::new(MemConfig::default());
    assert!(burst.iter().all(|(frame, meta)| peer.send_with(frame, *meta)));
    let mut slots: Vec<_> = burst.iter().map(|_| None).collect();
    assert_eq!(io.rx_burst(&mut slots), burst.len());
    slots
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// What is read at a glance reads as it does check by check, whatever the machine's instructions and the frames around
    /// it; and of what is sound, nothing is left for those.
    #[test]
    fn plain_segments_read_alike(burst in prop::collection::vec(segments(), 1..40)) {
        let (local, frames) = (local(), slots(&burst));
        for vectors in Vectors::available() {
            let mut plain = Box::new(Plain::EMPTY);
            let mut read = vec![None; BURST_MAX];
            let taken = plain::read(&frames, vectors, &local, &mut plain, |row, options, plain| {
                let mut seg = Segment::default();
                plain.segment(row, DEV, options, &mut seg);
                read[row] = Some((plain.head(row), seg));
            });
            prop_assert_eq!((taken.syns | taken.full | taken.resets) & !taken.plain, 0);
            let full_rows = Lanes { full: Lane::of(taken.full), ..Lanes::EMPTY };
            for (row, (frame, meta)) in burst.iter().enumerate() {
                let (mut lanes, mut fate) = (Lanes::EMPTY, Fate::Pending);
                let (mut head, mut seg) = (Head::default(), Segment::default());
                let mut cells = Row { meta: *meta, local: &local, head: &mut head, seg: &mut seg };
                any_frame(frame, DEV, 0, &mut cells, &mut lanes, &mut fate);
                let is_segment = !lanes.tcp.is_empty();
                let source = u32::from_be_bytes([frame[26], frame[27], frame[28], frame[29]]);
                let special =
                    meta.vlan_tci.is_some() || frame[14] != 0x45 || !local.is_foreign_v4(source) || !local.glance().is_host(source);
                let syn = taken.syns >> row & 1 == 1;
                let reset = taken.resets >> row & 1 == 1;
                let full = taken.full >> row & 1 == 1;
                if syn || full || reset {
                    let mut seg = Segment::default();
                    plain.bare(row, DEV, &full_rows, &mut seg);
                    prop_assert!(read[row].replace((plain.head(row), seg)).is_none());
                }
                match (taken.plain >> row & 1, is_segment) {
                    (0, is_segment) => prop_assert!(!is_segment || special, "left for the long way"),
                    (_, false) => prop_assert!(false, "{:?}", fate),
                    (_, true) => {
                        prop_assert_eq!(read[row], Some((head, seg)), "{}, row {}", vectors.name(), row);
                        let mss = TcpOptions { mss: seg.options.mss, ..TcpOptions::default() };
                        let bare = frame[46] >> 4 == 5 || frame[46] >> 4 == 6 && frame[54..56] == [2, 4];
                        let short = seg.payload_len == 0 && bare && seg.options == mss;
                        prop_assert_eq!(syn, short && seg.flags == flag::SYN && seg.reserved == 0);
                        let is_syn = seg.flags == flag::SYN && seg.reserved == 0 && seg.payload_len == 0;
                        prop_assert_eq!(full, is_syn && has_full_options(frame));
                        let short = short && frame[46] >> 4 == 5;
                        prop_assert_eq!(reset, short && seg.flags == flag::RST && seg.reserved == 0);
                    }
                }
            }
        }
    }
}
