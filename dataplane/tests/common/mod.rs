//! What the tests of a whole worker share: a stack with one core, its listeners, and frames to them.
#![allow(dead_code, reason = "each test uses its own part of it")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use dataplane::local::LocalTable;
use dataplane::wire::checksum::{Sum, pseudo_v6};
use dataplane::wire::ether::MacAddr;
use etherparse::{IpNumber, PacketBuilder, TcpOptionElement};
use listener::Stack;
use listener::config::{Device, Secret, StackConfig};
use listener::core::Core;
use listener::error::ListenError;
use listener::limits::Limits;
use listener::sockaddr::{Caller, Family};
use listener::sysctl::Sysctl;
use listener::types::{DevIndex, InetAddr, SockFd, Then};

pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const OUR_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
pub const OUR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const DEV: DevIndex = DevIndex(1);

pub const QUEUE: u16 = 7000;
pub const DISCARD: u16 = 7001;
pub const CLOSE: u16 = 7002;
pub const RESET: u16 = 7003;
/// Nobody listens there.
pub const CLOSED: u16 = 7004;

/// The address of a peer, by number.
pub fn peer_addr(v6: bool, number: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, u16::from(number)).into()
    } else {
        Ipv4Addr::new(198, 18, 0, 100 + number).into()
    }
}

/// A stack with one core and one device.
pub fn stack(sysctl: Sysctl, limits: Limits) -> (Stack, Core) {
    let (stack, mut cores) = stack_of(1, sysctl, limits);
    (stack, cores.pop().expect("one core was asked for"))
}

/// A stack with `cores` cores and one device.
pub fn stack_of(cores: u16, sysctl: Sysctl, limits: Limits) -> (Stack, Vec<Core>) {
    let config = StackConfig {
        sysctl,
        devices: vec![Device {
            name: "veth0".to_owned(),
            index: DEV,
            addresses: addresses(),
            any_ip: vec![],
            mtu: 1500,
        }],
        cores,
        limits,
        secret: Secret::from_seed(1),
    };
    Stack::new(config).expect("a good configuration")
}

fn addresses() -> Vec<(InetAddr, u8)> {
    vec![(OUR_V4.into(), 24), (OUR_V6.into(), 64)]
}

/// What is local to the device.
pub fn local() -> Arc<LocalTable> {
    Arc::new(LocalTable::new(MacAddr(OUR_MAC), &addresses(), &[]))
}

/// A dual-stack listener on `port`, or why not.
pub fn try_listen(stack: &Stack, port: u16, backlog: i32, then: Then) -> Result<SockFd, ListenError> {
    let fd = stack.socket(Family::Inet6, 0)?;
    let addr = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let opened = stack
        .bind(fd, addr.into(), Caller::ROOT)
        .and_then(|()| stack.set_then(fd, then))
        .and_then(|()| stack.listen(fd, backlog));
    match opened {
        Ok(()) => Ok(fd),
        Err(error) => {
            stack.close(fd, false)?;
            Err(error)
        }
    }
}

/// A dual-stack listener on `port`, which is free.
pub fn listen(stack: &Stack, port: u16, backlog: i32, then: Then) -> SockFd {
    try_listen(stack, port, backlog, then).expect("nothing is in the way")
}

/// A TCP segment from a peer to us.
#[derive(Clone, Debug)]
pub struct Tcp {
    pub src: SocketAddr,
    pub dport: u16,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub wnd: u16,
    pub options: Vec<TcpOptionElement>,
    pub payload: Vec<u8>,
}

impl Tcp {
    pub fn new(src: SocketAddr, dport: u16, flags: u8, seq: u32, ack: u32) -> Self {
        Self { src, dport, flags, seq, ack, wnd: 64240, options: vec![], payload: vec![] }
    }

    /// The frame that carries it.
    pub fn frame(&self) -> Vec<u8> {
        let link = PacketBuilder::ethernet2(PEER_MAC, OUR_MAC);
        let net = match self.src.ip() {
            IpAddr::V4(src) => link.ipv4(src.octets(), OUR_V4.octets(), 64),
            IpAddr::V6(src) => link.ipv6(src.octets(), OUR_V6.octets(), 64),
        };
        let mut tcp = net.tcp(self.src.port(), self.dport, self.seq, self.wnd);
        let has = |bit: u8| self.flags & bit != 0;
        if has(0x01) {
            tcp = tcp.fin();
        }
        if has(0x02) {
            tcp = tcp.syn();
        }
        if has(0x04) {
            tcp = tcp.rst();
        }
        if has(0x08) {
            tcp = tcp.psh();
        }
        if has(0x10) {
            tcp = tcp.ack(self.ack);
        }
        if has(0x20) {
            tcp = tcp.urg(0);
        }
        let tcp = tcp.options(&self.options).expect("they fit");
        let mut frame = Vec::with_capacity(tcp.size(self.payload.len()));
        tcp.write(&mut frame, &self.payload).expect("a Vec takes it");
        frame
    }
}

/// An echo request from `src`.
pub fn ping(src: IpAddr, data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    match src {
        IpAddr::V4(src) => PacketBuilder::ethernet2(PEER_MAC, OUR_MAC)
            .ipv4(src.octets(), OUR_V4.octets(), 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut frame, data)
            .expect("a Vec takes it"),
        IpAddr::V6(src) => PacketBuilder::ethernet2(PEER_MAC, OUR_MAC)
            .ipv6(src.octets(), OUR_V6.octets(), 64)
            .icmpv6_echo_request(1, 1)
            .write(&mut frame, data)
            .expect("a Vec takes it"),
    }
    frame
}

/// A request for the MAC address of `tpa`.
pub fn arp_request(spa: Ipv4Addr, tpa: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    [&[0xff; 6][..], &PEER_MAC, &[8, 6], &head, &PEER_MAC, &spa.octets(), &[0; 6], &tpa.octets()].concat()
}

/// A solicitation of `target`.
pub fn solicitation(src: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let low = target.octets();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, low[13], low[14], low[15]];
    let mut message = [&[135, 0, 0, 0, 0, 0, 0, 0], &low[..], &[1, 1], &PEER_MAC].concat();
    let half = |octets: [u8; 16]| {
        let bits = u128::from_be_bytes(octets);
        ((bits >> 64) as u64, bits as u64)
    };
    let pseudo = pseudo_v6(half(src.octets()), half(group), 58, message.len() as u32);
    let sum = pseudo.plus(Sum::of(&message)).checksum();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC, [0x33, 0x33, 0xff, low[13], low[14], low[15]])
        .ipv6(src.octets(), group, 255)
        .write(&mut frame, IpNumber::IPV6_ICMP, &message)
        .expect("a Vec takes it");
    frame
}
