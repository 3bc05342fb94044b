//! What the tests of the stages share: one device, its addresses, and frames to it.

use etherparse::{Ethernet2Header, IpNumber, PacketBuilder, TcpOptionElement};
use listener::types::{DevIndex, InetAddr};

use crate::burst::{BURST_MAX, Fate, Head, Lanes, Plain};
use crate::io::mem::{Mem, MemConfig, MemFrame};
use crate::io::{Frame, PacketIo, RxMeta};
use crate::local::LocalTable;
use crate::stage::{self, parse::Columns};
use crate::wire::checksum::{Sum, pseudo_v6};
use crate::wire::ether::MacAddr;
use listener::segment::Segment;
use listener::vector::Vectors;

pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const OUR_V4: [u8; 4] = [198, 18, 0, 1];
pub const PEER_V4: [u8; 4] = [198, 18, 0, 2];
pub const OUR_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub const PEER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
pub const DEV: DevIndex = DevIndex(1);

pub fn v6(octets: [u8; 16]) -> InetAddr {
    std::net::Ipv6Addr::from(octets).into()
}

pub fn local() -> LocalTable {
    let own = [(InetAddr::v4(u32::from_be_bytes(OUR_V4)), 24), (v6(OUR_V6), 64)];
    LocalTable::new(MacAddr(OUR_MAC), &own, &[])
}

/// A SYN to port 80 with an MSS option, from port 40000.
pub fn syn_v4() -> Vec<u8> {
    let tcp = PacketBuilder::ethernet2(PEER_MAC, OUR_MAC)
        .ipv4(PEER_V4, OUR_V4, 64)
        .tcp(40000, 80, 1000, 64240)
        .syn();
    let tcp = tcp.options(&[TcpOptionElement::MaximumSegmentSize(1460)]).expect("it fits");
    let mut frame = Vec::new();
    tcp.write(&mut frame, &[]).expect("a Vec takes it");
    frame
}

/// The same over IPv6.
pub fn syn_v6() -> Vec<u8> {
    let tcp = PacketBuilder::ethernet2(PEER_MAC, OUR_MAC)
        .ipv6(PEER_V6, OUR_V6, 64)
        .tcp(40000, 80, 1000, 64240)
        .syn();
    let tcp = tcp.options(&[TcpOptionElement::MaximumSegmentSize(1440)]).expect("it fits");
    let mut frame = Vec::new();
    tcp.write(&mut frame, &[]).expect("a Vec takes it");
    frame
}

/// An IPv4 echo request with `data`.
pub fn ping_v4(data: &[u8]) -> Vec<u8> {
    let icmp =
        PacketBuilder::ethernet2(PEER_MAC, OUR_MAC).ipv4(PEER_V4, OUR_V4, 64).icmpv4_echo_request(7, 1);
    let mut frame = Vec::new();
    icmp.write(&mut frame, data).expect("a Vec takes it");
    frame
}

/// An ICMPv6 message in a frame, its checksum filled in.
pub fn icmpv6(dst_mac: [u8; 6], src: [u8; 16], dst: [u8; 16], hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let (from, to) = (v6(src), v6(dst));
    let pseudo = pseudo_v6((from.hi(), from.lo()), (to.hi(), to.lo()), 58, message.len() as u32);
    let sum = pseudo.plus(Sum::of(&message)).checksum();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC, dst_mac)
        .ipv6(src, dst, hop_limit)
        .write(&mut frame, IpNumber::IPV6_ICMP, &message)
        .expect("a Vec takes it");
    frame
}

/// Puts a tag behind the MAC addresses.
pub fn tagged(mut frame: Vec<u8>, tpid: u16, tci: u16) -> Vec<u8> {
    let mut tag = tpid.to_be_bytes().to_vec();
    tag.extend_from_slice(&tci.to_be_bytes());
    frame.splice(Ethernet2Header::LEN - 2..Ethernet2Header::LEN - 2, tag);
    frame
}

/// Makes the checksum of the IPv4 header of an untagged frame right again.
pub fn fix_ipv4(frame: &mut [u8]) {
    let end = (14 + usize::from(frame[14] & 0xf) * 4).min(frame.len());
    frame[24..26].fill(0);
    let sum = Sum::of(&frame[14..end]).checksum();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// A burst behind [`stage::parse`].
pub struct Parsed {
    pub frames: Vec<Option<MemFrame>>,
    pub heads: [Head; BURST_MAX],
    pub plain: Box<Plain>,
    pub segs: [Segment; BURST_MAX],
    pub fates: [Fate; BURST_MAX],
    pub lanes: Lanes,
}

impl Parsed {
    /// The octets of a frame.
    pub fn bytes(&self, index: usize) -> &[u8] {
        self.frames[index].as_ref().expect("the frame is still there").bytes()
    }
}

/// Parses `frames`, about which the device says `meta`.
pub fn parse_with(frames: &[Vec<u8>], meta: RxMeta) -> Parsed {
    let (mut io, peer) = Mem::new(MemConfig::default());
    for frame in frames {
        assert!(peer.send_with(frame, meta));
    }
    let mut slots: Vec<_> = frames.iter().map(|_| None).collect();
    assert_eq!(io.rx_burst(&mut slots), frames.len());
    let mut parsed = Parsed {
        frames: slots,
        heads: [Head::default(); BURST_MAX],
        plain: Box::new(Plain::EMPTY),
        segs: [Segment::default(); BURST_MAX],
        fates: [Fate::Pending; BURST_MAX],
        lanes: Lanes::EMPTY,
    };
    let Parsed { frames, heads, plain, segs, fates, lanes } = &mut parsed;
    stage::parse(frames, Vectors::best(), &local(), DEV, Columns { heads, plain, segs, fates, lanes });
    // What later stages do where they have to.
    for row in lanes.bare().iter() {
        plain.bare(row, DEV, lanes, &mut segs[row]);
    }
    for row in lanes.plain.iter() {
        heads[row] = plain.head(row);
    }
    parsed
}

/// Parses `frames`, about which the device says nothing.
pub fn parse(frames: &[Vec<u8>]) -> Parsed {
    parse_with(frames, RxMeta::default())
}
