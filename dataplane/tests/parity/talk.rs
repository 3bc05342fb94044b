//! One case's conversation with a server: frames go out, and all that comes back before the answer to an echo request
//! sent behind them is their answer. A server takes frames in order, so silence needs no waiting.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::frame::{self, ACK, FIN, Ip, Link, PSH, RST, SYN, Tcp, option};
use super::reply::{Body, Origin, Packet, Reply};
use super::server::{CLIENT_V4, CLIENT_V6, SERVER_V4, SERVER_V6, Server};

/// The client's initial sequence number: close to the wrap, so that every case passes it.
pub const ISN: u32 = u32::MAX - 20;
/// The TSval of a client that sends timestamps.
pub const TSVAL: u32 = 1_000_000;
/// The client's window field.
pub const WINDOW: u16 = 64_000;
/// Identifier of the echo requests that end an exchange.
const FENCE_ID: u16 = 0x6864;
/// A server that has not answered an echo request by then is dead.
const PATIENCE: Duration = Duration::from_secs(10);
/// An exchange that took longer may have met a timer of the server: the shortest is the delayed ACK's, 40 ms.
const SLOW: Duration = Duration::from_millis(30);

/// What was sent, in a word, and what came back.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub label: String,
    pub replies: Vec<Reply>,
}

/// A conversation.
pub struct Talk<'a> {
    server: &'a Server,
    pub v6: bool,
    pub sport: u16,
    pub dport: u16,
    pub origin: Origin,
    /// Whether segments carry timestamps once the server does.
    pub timestamps: bool,
    /// What the server acknowledged last.
    pub rcv_nxt: Option<u32>,
    fences: u16,
    pub slow: bool,
    pub trace: Vec<Exchange>,
}

impl<'a> Talk<'a> {
    /// One from `sport` to `dport`.
    pub fn new(server: &'a Server, v6: bool, sport: u16, dport: u16) -> Self {
        let origin = Origin { isn: ISN, ..Origin::default() };
        let trace = Vec::new();
        Self {
            server,
            v6,
            sport,
            dport,
            origin,
            timestamps: false,
            rcv_nxt: None,
            fences: 0,
            slow: false,
            trace,
        }
    }

    /// The link header of a right frame.
    pub fn link(&self) -> Link {
        Link { src: self.server.wire.mac(), dst: self.server.mac, ethertype: None, padding: 0, cut: 0 }
    }

    /// The IP header of a right packet.
    pub fn ip(&self, protocol: u8) -> Ip {
        let (client, server) = if self.v6 {
            (IpAddr::V6(CLIENT_V6), IpAddr::V6(SERVER_V6))
        } else {
            (IpAddr::V4(CLIENT_V4), IpAddr::V4(SERVER_V4))
        };
        Ip::new(client, server, protocol)
    }

    /// A segment with `flags` where the conversation stands: a SYN has the initial sequence number, everything else
    /// the one behind; acknowledged is the server's SYN.
    pub fn tcp(&self, flags: u16) -> Tcp {
        let first = flags & SYN != 0 && flags & ACK == 0;
        let seq = if first { ISN } else { ISN.wrapping_add(1) };
        let ack =
            if flags & ACK == 0 { 0 } else { self.origin.iss.map_or(0x1111_1111, |iss| iss.wrapping_add(1)) };
        let options = match self.origin.tsval {
            Some(tsval) if self.timestamps && !first => {
                [option::nop(), option::nop(), option::timestamps(TSVAL + 1, tsval)].concat()
            }
            _ => Vec::new(),
        };
        let (sport, dport, window) = (self.sport, self.dport, WINDOW);
        Tcp { sport, dport, seq, ack, flags, window, options, ..Tcp::default() }
    }

    /// The same with `len` octets of data, `offset` octets behind the SYN.
    pub fn data(&self, flags: u16, offset: i32, len: usize) -> Tcp {
        let tcp = self.tcp(flags);
        Tcp { seq: ISN.wrapping_add(1).wrapping_add_signed(offset), payload: vec![b'x'; len], ..tcp }
    }

    /// Sends a segment.
    pub fn send(&mut self, label: &str, tcp: &Tcp) {
        self.send_in(label, tcp, |_, _| {});
    }

    /// Sends a segment in headers that `change` has changed.
    pub fn send_in(&mut self, label: &str, tcp: &Tcp, change: impl FnOnce(&mut Link, &mut Ip)) {
        let (mut link, mut ip) = (self.link(), self.ip(frame::TCP));
        change(&mut link, &mut ip);
        self.transmit(label, &[frame::frame(&link, &ip, &frame::segment(&ip, tcp))]);
    }

    /// Sends frames, and takes what comes back.
    pub fn transmit(&mut self, label: &str, frames: &[Vec<u8>]) {
        let start = Instant::now();
        for octets in frames {
            self.server.wire.send(octets).expect("the wire takes a frame");
        }
        let replies = self.until_fence();
        self.slow |= start.elapsed() > SLOW;
        self.trace.push(Exchange { label: label.into(), replies });
    }

    /// Takes what comes back without having sent anything, until a segment with one of `flags` has come or `patience`
    /// is over.
    pub fn wait_for(&mut self, label: &str, flags: u16, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut replies = Vec::new();
        while let Some(octets) = self.server.wire.recv(deadline).expect("the wire") {
            let Some(packet) = Packet::read(&octets).filter(|packet| self.is_mine(packet)) else { continue };
            let done = matches!(&packet.body, Body::Tcp(tcp) if tcp.flags & flags != 0);
            replies.push(self.take(&packet));
            if done {
                break;
            }
        }
        self.trace.push(Exchange { label: label.into(), replies });
    }

    /// SYN with `options`, and the final ACK.
    pub fn handshake(&mut self, options: Vec<u8>) {
        self.syn(options);
        self.send("final ACK", &self.tcp(ACK));
    }

    /// SYN with `options`.
    pub fn syn(&mut self, options: Vec<u8>) {
        self.send("SYN", &Tcp { options, ..self.tcp(SYN) });
    }

    /// Ends what is left of a connection, unseen by the comparison; what comes then is a new one.
    pub fn clean_up(&mut self) {
        let Some(seq) = self.rcv_nxt else { return };
        let rst = Tcp { seq, options: Vec::new(), ..self.tcp(RST) };
        self.send("", &rst);
        self.trace.pop();
        self.forget();
    }

    /// What comes is a new connection.
    pub fn forget(&mut self) {
        (self.origin.iss, self.origin.tsval, self.rcv_nxt) = (None, None, None);
    }

    /// Sends our FIN and waits for the server's, whose moment a program may choose.
    pub fn fin_and_wait(&mut self) {
        let seq = self.rcv_nxt.unwrap_or(ISN.wrapping_add(1));
        let fin = Tcp { seq, ..self.tcp(FIN | ACK) };
        self.send_and_wait("FIN, until it closes too", &fin, FIN | RST, Duration::from_secs(2));
    }

    /// Sends a segment that is to be acknowledged, now or, as Linux does with FINs, 40 ms later.
    pub fn send_for_ack(&mut self, label: &str, tcp: &Tcp) {
        self.send_and_wait(label, tcp, ACK, Duration::from_secs(1));
    }

    /// Sends a segment and takes what comes back until a segment with one of `flags` has come or `patience` is over.
    pub fn send_and_wait(&mut self, label: &str, tcp: &Tcp, flags: u16, patience: Duration) {
        let (link, ip) = (self.link(), self.ip(frame::TCP));
        let octets = frame::frame(&link, &ip, &frame::segment(&ip, tcp));
        self.server.wire.send(&octets).expect("the wire takes a frame");
        self.wait_for(label, flags, patience);
    }

    fn until_fence(&mut self) -> Vec<Reply> {
        self.fences += 1;
        let fence = self.fences;
        let protocol = if self.v6 { frame::ICMPV6 } else { frame::ICMP };
        let ip = self.ip(protocol);
        let mark = [FENCE_ID.to_be_bytes(), fence.to_be_bytes()].concat();
        let kind = if self.v6 { 128 } else { 8 };
        let octets = frame::frame(&self.link(), &ip, &frame::icmp(&ip, kind, 0, &mark));
        self.server.wire.send(&octets).expect("the wire takes a frame");
        let deadline = Instant::now() + PATIENCE;
        let mut replies = Vec::new();
        loop {
            let octets = self.server.wire.recv(deadline).expect("the wire");
            let name = self.server.name;
            let octets = octets.unwrap_or_else(|| panic!("{name} answers no echo request any more"));
            let Some(packet) = Packet::read(&octets) else { continue };
            match &packet.body {
                Body::Icmp(0 | 129, 0, rest) if *rest == mark => return replies,
                _ if self.is_mine(&packet) => replies.push(self.take(&packet)),
                _ => {}
            }
        }
    }

    /// Puts a reply into words and remembers what later segments build on.
    fn take(&mut self, packet: &Packet) -> Reply {
        if let Body::Tcp(tcp) = &packet.body {
            if tcp.flags & (SYN | ACK | RST) == SYN | ACK && self.origin.iss.is_none() {
                self.origin.iss = Some(tcp.seq);
            }
            if tcp.flags & ACK != 0 && tcp.flags & RST == 0 {
                self.rcv_nxt = Some(tcp.ack);
            }
        }
        let mut reply = Reply::new(packet, &self.origin);
        if let Body::Tcp(tcp) = &packet.body
            && let Some((tsval, _)) = tcp.timestamps()
        {
            self.origin.tsval = Some(tsval);
        }
        let macs = packet.src_mac == self.server.mac && packet.dst_mac == self.server.wire.mac();
        reply.0.push(("macs", if macs { "turned round".into() } else { format!("{:02x?}", packet.dst_mac) }));
        reply
    }

    /// Whether a frame answers this case: not a late one of another, nor what a kernel says by itself.
    fn is_mine(&self, packet: &Packet) -> bool {
        match &packet.body {
            Body::Tcp(tcp) => {
                tcp.dport == self.sport && packet.dst.is_some_and(|dst| dst.is_ipv6() == self.v6)
            }
            // Router and neighbour solicitations, multicast listener reports.
            Body::Icmp(kind, ..) if packet.dst.is_some_and(|dst| dst.is_ipv6()) => {
                !matches!(kind, 130..=135 | 143) && self.v6
            }
            Body::Icmp(_, _, rest) => !self.v6 && !rest.starts_with(&FENCE_ID.to_be_bytes()),
            Body::Arp(operation, _) => *operation == 2,
            Body::Other(_) => false,
        }
    }
}

/// The flags of data.
pub const PUSH: u16 = PSH | ACK;
