//! The parsers and emitters against etherparse, and against bytes of every kind.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use listener::drop_reason::DropReason;
use listener::segment::{OutSegment, TcpOptions, flag};
use listener::types::{InetAddr, SegSeq};
use proptest::prelude::*;

use super::arp::ArpPacket;
use super::checksum::{Sum, pseudo_v4, pseudo_v6};
use super::ether::{EtherHeader, MacAddr};
use super::ipv4::{Ipv4Out, Ipv4Packet, PROTO_TCP};
use super::ipv6::{Ipv6Out, Ipv6Packet};
use super::ndp::{Advertisement, Solicitation};
use super::tcp::{TcpHeader, TcpOut};
use super::{icmp, ipv4, vlan};

fn options() -> impl Strategy<Value = TcpOptions> {
    (any::<u16>(), any::<Option<u8>>(), any::<bool>(), any::<Option<(u32, u32)>>())
        .prop_map(|(mss, wscale, sack_perm, timestamps)| TcpOptions { mss, wscale, sack_perm, timestamps })
}

fn segment() -> impl Strategy<Value = OutSegment> {
    (any::<u8>(), any::<u8>(), any::<u16>(), any::<u32>(), any::<u32>(), options()).prop_map(
        |(flags, tos, wnd, seq, ack, options)| OutSegment {
            flags,
            tos,
            wnd,
            seq: SegSeq(seq),
            ack: SegSeq(ack),
            options,
        },
    )
}

fn elements(options: &TcpOptions) -> Vec<TcpOptionElement> {
    let mut elements = Vec::new();
    if options.mss != 0 {
        elements.push(TcpOptionElement::MaximumSegmentSize(options.mss));
    }
    if options.sack_perm {
        elements.push(TcpOptionElement::SelectiveAcknowledgementPermitted);
    }
    if let Some((value, echo)) = options.timestamps {
        elements.push(TcpOptionElement::Timestamp(value, echo));
    }
    if let Some(shift) = options.wscale {
        elements.push(TcpOptionElement::WindowScale(shift));
    }
    elements
}

proptest! {
    /// Frames that etherparse built mean the same to us, with and without a VLAN tag.
    #[test]
    fn we_read_what_etherparse_writes(
        macs in any::<([u8; 6], [u8; 6])>(),
        tci in any::<Option<u16>>(),
        addrs in any::<([u8; 4], [u8; 4])>(),
        ports in any::<(u16, u16)>(),
        numbers in any::<(u32, u32, u16)>(),
        options in options(),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let link = PacketBuilder::ethernet2(macs.0, macs.1);
        let vid = tci.map(|tci| etherparse::VlanId::try_new(tci & 0xfff).expect("12 bits"));
        let net = match vid {
            Some(vid) => link.single_vlan(vid).ipv4(addrs.0, addrs.1, 64),
            None => link.ipv4(addrs.0, addrs.1, 64),
        };
        let tcp = net.tcp(ports.0, ports.1, numbers.0, numbers.2).syn().ack(numbers.1);
        let tcp = tcp.options(&elements(&options)).expect("they fit");
        let mut frame = Vec::new();
        tcp.write(&mut frame, &payload).expect("a Vec takes it");

        let ether = EtherHeader::parse(&frame).expect("long enough");
        prop_assert_eq!((ether.src.0, ether.dst.0), macs);
        let mut at = 14;
        if let Some(vid) = vid {
            prop_assert!(vlan::is_tpid(ether.ethertype));
            let read = vlan::Tags::read(&frame, ether.ethertype, None);
            let vid = (vid.value() != 0xfff).then_some(vid.value()).ok_or(DropReason::VlanReserved);
            let read = read.map(|(tags, ethertype, l2_len)| (tags.tci.map(vlan::Tci::vid), ethertype, l2_len));
            prop_assert_eq!(read, vid.map(|vid| (Some(vid), 0x0800, 18)));
            at += 4;
        }
        let ip = Ipv4Packet::parse(&frame[at..], true).expect("well formed");
        prop_assert_eq!((ip.src.to_be_bytes(), ip.dst.to_be_bytes()), addrs);
        prop_assert_eq!(usize::from(ip.total_len), frame.len() - at);
        let l4 = &frame[at + usize::from(ip.header_len)..];
        let len = l4.len() as u16;
        prop_assert!(pseudo_v4(ip.src, ip.dst, PROTO_TCP, len).plus(Sum::of(l4)).is_whole());
        let read = TcpHeader::parse(l4).expect("well formed");
        prop_assert_eq!((read.sport, read.dport), ports);
        prop_assert_eq!((read.seq, read.ack, read.wnd), numbers);
        prop_assert_eq!(read.flags, flag::SYN | flag::ACK);
        let mut seen = TcpOptions::default();
        read.read_options(l4, &mut seen).expect("unsigned");
        prop_assert_eq!(seen, options);
        prop_assert_eq!(l4.len() - usize::from(read.header_len), payload.len());
    }

    /// Segments that we write mean the same to etherparse, and back to us, over both families.
    #[test]
    fn etherparse_reads_what_we_write(
        segment in segment(),
        ports in any::<(u16, u16)>(),
        addrs in any::<((u64, u64), (u64, u64))>(),
        v6 in any::<bool>(),
    ) {
        let tcp = TcpOut::new(&segment, ports.0, ports.1);
        let len = u16::from(tcp.header_len());
        let mut packet = Vec::new();
        let mut l4 = vec![0; usize::from(len)];
        let (src, dst) = addrs;
        if v6 {
            let (from, to) = (InetAddr::v6(src.0, src.1), InetAddr::v6(dst.0, dst.1));
            let ip = Ipv6Out { src: from, dst: to, protocol: PROTO_TCP, tclass: segment.tos, hop_limit: 64, payload_len: len };
            packet.extend_from_slice(&ip.emit());
            tcp.write(pseudo_v6(src, dst, PROTO_TCP, u32::from(len)), false, &mut l4);
        } else {
            let (src, dst) = (src.1 as u32, dst.1 as u32);
            let ip = Ipv4Out { src, dst, protocol: PROTO_TCP, tos: segment.tos, payload_len: len };
            packet.extend_from_slice(&ip.emit(false));
            tcp.write(pseudo_v4(src, dst, PROTO_TCP, len), false, &mut l4);
        }
        packet.extend_from_slice(&l4);

        let sliced = SlicedPacket::from_ip(&packet).expect("well formed");
        let Some(TransportSlice::Tcp(read)) = &sliced.transport else { panic!("TCP was written") };
        let checksum = match sliced.net.as_ref() {
            Some(NetSlice::Ipv4(net)) => {
                let header = net.header().to_header();
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                prop_assert!(header.dont_fragment && header.identification == 0 && header.time_to_live == ipv4::TTL);
                read.calc_checksum_ipv4(net.header().source(), net.header().destination())
            }
            Some(NetSlice::Ipv6(net)) => {
                prop_assert_eq!(net.header().traffic_class(), segment.tos);
                read.calc_checksum_ipv6(net.header().source(), net.header().destination())
            }
            _ => panic!("IP was written"),
        };
        prop_assert_eq!(checksum.expect("short enough"), read.checksum());
        prop_assert_eq!((read.source_port(), read.destination_port()), ports);
        prop_assert_eq!((read.sequence_number(), read.acknowledgment_number()), (segment.seq.0, segment.ack.0));
        prop_assert_eq!(read.window_size(), segment.wnd);
        let seen: Vec<_> = read.options_iterator().map(|option| option.expect("well formed")).filter(|o| *o != TcpOptionElement::Noop).collect();
        prop_assert_eq!(seen, elements(&segment.options));

        let back = TcpHeader::parse(read.slice()).expect("well formed");
        prop_assert_eq!((back.flags, back.wnd), (segment.flags, segment.wnd));
        let syn = segment.flags & flag::SYN != 0;
        let expected = if syn { segment.options } else { TcpOptions { timestamps: segment.options.timestamps, ..TcpOptions::default() } };
        let mut seen = TcpOptions::default();
        back.read_options(read.slice(), &mut seen).expect("unsigned");
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn arp_there_and_back(op in any::<u16>(), macs in any::<([u8; 6], [u8; 6])>(), spa in any::<u32>(), tpa in any::<u32>()) {
        let packet = ArpPacket { op, sha: MacAddr(macs.0), spa, tha: MacAddr(macs.1), tpa };
        let bytes = packet.emit();
        prop_assert_eq!(ArpPacket::parse(&bytes), Some(packet));
        prop_assert_eq!(ArpPacket::parse(&bytes[..27]), None);
        let theirs = etherparse::ArpPacketSlice::from_slice(&bytes).expect("well formed");
        prop_assert_eq!(theirs.operation().0, op);
        prop_assert_eq!(theirs.sender_protocol_addr(), &spa.to_be_bytes()[..]);
        prop_assert_eq!(theirs.target_hw_addr(), &macs.1[..]);
    }

    /// An advertisement is a whole ICMPv6 message to etherparse.
    #[test]
    fn advertisements_are_whole(target in any::<(u64, u64)>(), dst in any::<(u64, u64)>(), mac in any::<[u8; 6]>(), solicited in any::<bool>()) {
        let message = Advertisement {
            target: InetAddr::v6(target.0, target.1),
            mac: MacAddr(mac),
            dst: InetAddr::v6(dst.0, dst.1),
            solicited,
        }
        .emit();
        let octets = |(hi, lo): (u64, u64)| (u128::from(hi) << 64 | u128::from(lo)).to_be_bytes();
        let theirs = etherparse::Icmpv6Slice::from_slice(&message).expect("well formed");
        prop_assert!(theirs.is_checksum_valid(octets(target), octets(dst)));
        prop_assert_eq!(theirs.type_u8(), 136);
        prop_assert_eq!(message[4], if solicited { 0x60 } else { 0x20 });
        prop_assert_eq!(&message[8..24], &octets(target)[..]);
    }

    /// No parser panics or reads past its slice, whatever the octets.
    #[test]
    fn any_octets_at_all(mut bytes in prop::collection::vec(any::<u8>(), 0..128), first in any::<bool>()) {
        if let (true, Some(octet)) = (first, bytes.first_mut()) {
            *octet = *octet & 0x0f | 0x40;
        }
        let _ = EtherHeader::parse(&bytes);
        for ethertype in [vlan::TPID_8021Q, vlan::TPID_8021AD] {
            let _ = vlan::Tags::read(&bytes, ethertype, None);
        }
        let _ = ArpPacket::parse(&bytes);
        if let Ok(header) = TcpHeader::parse(&bytes) {
            let _ = header.read_options(&bytes, &mut TcpOptions::default());
        }
        let _ = Solicitation::parse(&bytes);
        let _ = icmp::kind(&bytes);
        let _ = ipv4::check_options(&bytes);
        if let Ok(ip) = Ipv4Packet::parse(&bytes, false) {
            prop_assert!(usize::from(ip.header_len) <= usize::from(ip.total_len) && usize::from(ip.total_len) <= bytes.len());
        }
        if let Some(octet) = bytes.first_mut() {
            *octet = 0x60;
        }
        if let Some(octet) = bytes.get_mut(4) {
            *octet = 0;
        }
        if let Ok(ip) = Ipv6Packet::parse(&bytes) {
            prop_assert!(u32::from(ip.header_len) <= ip.total_len && ip.total_len as usize <= bytes.len());
        }
    }
}
