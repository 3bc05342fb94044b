//! The frames that packet benches are fed with: built by another library than the one under test, the same ones at
//! every run.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader, TcpOptionElement};
use serde::Serialize;

/// MAC address of the first `net_pcap` port of a process (DPDK 22.11, `pmd_init_internals`).
pub const SERVER_MAC: [u8; 6] = [0x02, 0x70, 0x63, 0x61, 0x70, 0x00];
/// MAC address that all frames come from.
pub const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
/// The address that is listened on, in a subnet of 24 bits.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The same for IPv6, in a subnet of 64 bits.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Where all kinds of frames but [`Kind::Mix`] find a listener.
pub const OPEN_PORT: u16 = 80;
/// Listeners of [`Kind::Mix`]: this many ports from [`OPEN_PORT`] on.
pub const MIX_PORTS: u16 = 16;
/// Nobody listens from here on.
pub const CLOSED_PORT: u16 = 9000;
/// Maximum segment size that SYNs offer.
pub const MSS: u16 = 1460;
/// Frames in a file by default.
pub const FRAMES: usize = 4000;
/// Most frames of a kind: sources are told apart by 16 bits of their address.
pub const FRAMES_MAX: usize = 1 << 16;

/// What a file of frames holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// SYNs with an MSS option, 58 octets, each from another address and port
    Syn,
    /// Half of them such SYNs, then the RST that removes the entry of each
    Requests,
    /// SYNs to a port on which nobody listens
    Closed,
    /// 70 % SYNs to 16 listeners, 10 % to closed ports, 10 % stray ACKs, 5 % ARP and ping, 5 % garbage
    Mix,
    /// SYNs over IPv6, 78 octets
    V6,
    /// SYNs with all options that Linux sends, 74 octets
    Linux,
}

/// SplitMix64: enough to scatter test data, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Scatter(u64);

impl Scatter {
    /// Numbers from `seed` on.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() % end.max(1) as u64) as usize
    }
}

/// One client: no two of the first [`FRAMES_MAX`] share an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// 198.19.0.0/16
    pub v4: Ipv4Addr,
    /// 2001:db8:1::/112
    pub v6: Ipv6Addr,
    /// Source port.
    pub port: u16,
    /// Initial sequence number.
    pub isn: u32,
}

impl Client {
    /// Client number `index`.
    pub fn new(index: usize) -> Self {
        // An odd factor permutes the 16-bit numbers.
        let low = (index as u16).wrapping_mul(40_503);
        let [hi, lo] = low.to_be_bytes();
        let mut scatter = Scatter::new(index as u64);
        Self {
            v4: Ipv4Addr::new(198, 19, hi, lo),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, low),
            port: 1024 + scatter.below(64_000) as u16,
            isn: scatter.draw() as u32,
        }
    }

    fn v4(&self, server_mac: [u8; 6], port: u16, seq: u32) -> PacketBuilderStep<TcpHeader> {
        PacketBuilder::ethernet2(CLIENT_MAC, server_mac)
            .ipv4(self.v4.octets(), SERVER_V4.octets(), 64)
            .tcp(self.port, port, seq, 64_240)
    }

    /// A SYN to `port`, from here, over IPv4.
    pub fn syn(&self, server_mac: [u8; 6], port: u16) -> Vec<u8> {
        finish(with_mss(self.v4(server_mac, port, self.isn).syn()), &[])
    }

    /// A SYN to `port`, from here, over IPv4, with the options of Linux's SYNs.
    pub fn syn_of_linux(&self, server_mac: [u8; 6], port: u16) -> Vec<u8> {
        let options = [
            TcpOptionElement::MaximumSegmentSize(MSS),
            TcpOptionElement::SelectiveAcknowledgementPermitted,
            TcpOptionElement::Timestamp(self.isn.rotate_left(9), 0),
            TcpOptionElement::Noop,
            TcpOptionElement::WindowScale(7),
        ];
        let step = self.v4(server_mac, port, self.isn).syn();
        finish(step.options(&options).expect("twenty octets fit"), &[])
    }

    /// A SYN to `port`, from here, over IPv6.
    pub fn syn_v6(&self, server_mac: [u8; 6], port: u16) -> Vec<u8> {
        let step = PacketBuilder::ethernet2(CLIENT_MAC, server_mac)
            .ipv6(self.v6.octets(), SERVER_V6.octets(), 64)
            .tcp(self.port, port, self.isn, 64_240);
        finish(with_mss(step.syn()), &[])
    }

    /// The RST that takes this client's SYN back.
    pub fn rst(&self, server_mac: [u8; 6], port: u16) -> Vec<u8> {
        finish(self.v4(server_mac, port, self.isn.wrapping_add(1)).rst(), &[])
    }

    /// The ACK that follows this client's SYN and acknowledges `ack`.
    pub fn ack(&self, server_mac: [u8; 6], port: u16, ack: u32) -> Vec<u8> {
        finish(self.v4(server_mac, port, self.isn.wrapping_add(1)).ack(ack), &[])
    }

    fn ping(&self, server_mac: [u8; 6]) -> Vec<u8> {
        let step = PacketBuilder::ethernet2(CLIENT_MAC, server_mac)
            .ipv4(self.v4.octets(), SERVER_V4.octets(), 64)
            .icmpv4_echo_request(self.port, 1);
        let mut frame = Vec::new();
        step.write_to_vec(&mut frame, &[0x55; 56]).expect("a Vec takes it");
        frame
    }

    fn arp(&self) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend(CLIENT_MAC);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(CLIENT_MAC);
        frame.extend(self.v4.octets());
        frame.extend([0; 6]);
        frame.extend(SERVER_V4.octets());
        frame
    }
}

fn with_mss(step: PacketBuilderStep<TcpHeader>) -> PacketBuilderStep<TcpHeader> {
    step.options(&[TcpOptionElement::MaximumSegmentSize(MSS)]).expect("one option fits")
}

fn finish(step: PacketBuilderStep<TcpHeader>, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    step.write_to_vec(&mut frame, payload).expect("a Vec takes it");
    frame
}

/// `count` frames of `kind` to a server at `server_mac`, in the order in which they are sent.
///
/// # Panics
/// If `count` is more than [`FRAMES_MAX`].
pub fn frames(kind: Kind, count: usize, server_mac: [u8; 6]) -> Vec<Vec<u8>> {
    assert!(count <= FRAMES_MAX, "{count} frames; there are clients for {FRAMES_MAX}");
    let clients = (0..count).map(Client::new);
    match kind {
        Kind::Syn => clients.map(|client| client.syn(server_mac, OPEN_PORT)).collect(),
        Kind::Closed => clients.map(|client| client.syn(server_mac, CLOSED_PORT)).collect(),
        Kind::V6 => clients.map(|client| client.syn_v6(server_mac, OPEN_PORT)).collect(),
        Kind::Linux => clients.map(|client| client.syn_of_linux(server_mac, OPEN_PORT)).collect(),
        Kind::Requests => {
            let half =
                clients.clone().take(count.div_ceil(2)).map(|client| client.syn(server_mac, OPEN_PORT));
            half.chain(clients.take(count / 2).map(|client| client.rst(server_mac, OPEN_PORT))).collect()
        }
        Kind::Mix => {
            let mut frames: Vec<_> = clients
                .enumerate()
                .map(|(index, client)| mixed(index * 100 / count, &client, server_mac))
                .collect();
            let mut scatter = Scatter::new(7);
            for last in (1..count).rev() {
                frames.swap(last, scatter.below(last + 1));
            }
            frames
        }
    }
}

/// The frame at `percent` of a mix that is not yet shuffled.
fn mixed(percent: usize, client: &Client, server_mac: [u8; 6]) -> Vec<u8> {
    let mut scatter = Scatter::new(u64::from(client.isn));
    let open = OPEN_PORT + scatter.below(usize::from(MIX_PORTS)) as u16;
    match percent {
        0..70 => client.syn(server_mac, open),
        70..80 => client.syn(server_mac, CLOSED_PORT + scatter.below(1000) as u16),
        80..90 => client.ack(server_mac, open, scatter.draw() as u32),
        90..95 => {
            if client.isn & 1 == 0 {
                client.arp()
            } else {
                client.ping(server_mac)
            }
        }
        _ => garbage(client, server_mac, &mut scatter),
    }
}

/// What nobody answers: cut off, flipped, of another protocol, or noise.
fn garbage(client: &Client, server_mac: [u8; 6], scatter: &mut Scatter) -> Vec<u8> {
    let mut frame = client.syn(server_mac, OPEN_PORT);
    match scatter.below(4) {
        0 => frame.truncate(15 + scatter.below(38)),
        // One bit of addresses or TCP: a checksum must find it.
        1 => frame[26 + scatter.below(30)] ^= 1 << scatter.below(8),
        2 => frame[12..14].copy_from_slice(&[0x88, 0xcc]),
        _ => frame[14..].fill_with(|| scatter.draw() as u8),
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use std::collections::HashSet;

    fn all(kind: Kind) -> Vec<Vec<u8>> {
        frames(kind, FRAMES, SERVER_MAC)
    }

    #[test]
    fn syns_are_distinct_whole_and_as_long_as_promised() {
        for (kind, len) in [(Kind::Syn, 58), (Kind::Closed, 58), (Kind::V6, 78), (Kind::Linux, 74)] {
            let frames = all(kind);
            assert_eq!(frames.iter().collect::<HashSet<_>>().len(), FRAMES);
            for frame in &frames {
                assert_eq!(frame.len(), len);
                let packet = SlicedPacket::from_ethernet(frame).expect("well formed");
                let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("{kind:?} holds TCP") };
                assert!(tcp.syn() && !tcp.ack());
                let sum = match packet.net {
                    Some(NetSlice::Ipv4(ip)) => {
                        assert_eq!(
                            ip.header().header_checksum(),
                            ip.header().to_header().calc_header_checksum()
                        );
                        tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
                    }
                    Some(NetSlice::Ipv6(ip)) => {
                        tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
                    }
                    _ => panic!("{kind:?} holds IP"),
                };
                assert_eq!(Ok(tcp.checksum()), sum);
            }
        }
    }

    #[test]
    fn every_request_is_taken_back_by_its_own_rst() {
        let frames = all(Kind::Requests);
        let (syns, rsts) = frames.split_at(FRAMES / 2);
        assert_eq!(syns.len(), rsts.len());
        for (syn, rst) in syns.iter().zip(rsts) {
            let tcp = |frame| match SlicedPacket::from_ethernet(frame).expect("well formed").transport {
                Some(TransportSlice::Tcp(tcp)) => tcp.to_header(),
                _ => panic!("no TCP"),
            };
            assert_eq!(syn[26..36], rst[26..36], "addresses and source port");
            let (syn, rst) = (tcp(syn), tcp(rst));
            assert!(syn.syn && rst.rst && !rst.ack);
            assert_eq!(rst.sequence_number, syn.sequence_number.wrapping_add(1));
        }
    }

    #[test]
    fn a_mix_is_a_mix_and_the_same_each_time() {
        let frames = all(Kind::Mix);
        assert_eq!(frames, all(Kind::Mix));
        let whole_syns = frames
            .iter()
            .filter(|frame| {
                match SlicedPacket::from_ethernet(frame).ok().and_then(|packet| packet.transport) {
                    Some(TransportSlice::Tcp(tcp)) => {
                        tcp.syn() && tcp.destination_port() < OPEN_PORT + MIX_PORTS
                    }
                    _ => false,
                }
            })
            .count();
        let percent = whole_syns * 100 / FRAMES;
        assert!((70..=73).contains(&percent), "{percent} % SYNs, some of them spoiled");
        assert_eq!(frames.iter().filter(|frame| frame[12..14] == [8, 6]).count() * 1000 / FRAMES / 10, 2);
    }
}
