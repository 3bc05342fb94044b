//! The demo where namespaces may not be made: hearken's own workers on one port of a pair of DPDK rings, and a small
//! client on the other that builds and reads its frames with etherparse.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dataplane::config::Config;
use dataplane::control::client::Client;
use dataplane::control::proto::{Latency, Request, Ss, Stats};
use dataplane::control::server::Server;
use dataplane::io::dpdk::DpdkIo;
use dataplane::io::{Frame, PacketIo, TxOffload};
use dataplane::{report, start};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TcpSlice, TransportSlice};
use hdrhistogram::Histogram;

use crate::LISTENERS;
use crate::lab::{self, CLIENT, SERVER};

const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PATIENCE: Duration = Duration::from_secs(2);

/// What came back for a TCP segment.
#[derive(Clone, Copy, Debug)]
struct Reply {
    sport: u16,
    seq: u32,
    ack: u32,
    syn: bool,
    fin: bool,
    rst: bool,
}

/// A client without a stack: it knows what it sent and says what came back.
struct Peer<I> {
    io: I,
    server_mac: [u8; 6],
}

impl<I: PacketIo> Peer<I> {
    /// Asks for the server's MAC address by ARP.
    fn new(io: I) -> Result<Self, Box<dyn Error>> {
        let mut peer = Self { io, server_mac: [0xff; 6] };
        let mut request = vec![0xff; 6];
        request.extend(PEER_MAC);
        request.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
        request.extend(PEER_MAC);
        request.extend(CLIENT.octets());
        request.extend([0; 6]);
        request.extend(SERVER.octets());
        peer.send(&request)?;
        peer.server_mac = peer.wait_for("an ARP reply", |frame| {
            let reply = frame.get(12..14)? == [0x08, 0x06] && frame.get(20..22)? == [0, 2];
            if reply { frame.get(22..28)?.try_into().ok() } else { None }
        })?;
        Ok(peer)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        let mut frame = self.io.alloc().ok_or("no free buffer")?;
        if !frame.set_len(bytes.len()) {
            return Err("the frame does not fit its buffer".into());
        }
        frame.bytes_mut().copy_from_slice(bytes);
        frame.set_tx_offload(TxOffload::default());
        let mut slot = [Some(frame)];
        let deadline = Instant::now() + PATIENCE;
        while self.io.tx_burst(&mut slot).done == 0 {
            if Instant::now() > deadline {
                return Err("the ring takes no frame".into());
            }
        }
        Ok(())
    }

    /// The first frame that `want` makes something of.
    fn wait_for<R>(&mut self, what: &str, want: impl Fn(&[u8]) -> Option<R>) -> Result<R, Box<dyn Error>> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut slots = [const { None }; 32];
            let received = self.io.rx_burst(&mut slots);
            if let Some(found) = slots[..received].iter().flatten().find_map(|frame| want(frame.bytes())) {
                return Ok(found);
            }
            std::thread::yield_now();
        }
        Err(format!("wanted {what}; nothing came for {PATIENCE:?}").into())
    }

    fn segment(
        &mut self,
        ports: (u16, u16),
        seq: u32,
        ack: Option<u32>,
        flags: &str,
    ) -> Result<(), Box<dyn Error>> {
        let builder = PacketBuilder::ethernet2(PEER_MAC, self.server_mac)
            .ipv4(CLIENT.octets(), SERVER.octets(), 64)
            .tcp(ports.0, ports.1, seq, 64240);
        let builder = match ack {
            Some(ack) => builder.ack(ack),
            None => builder,
        };
        let builder = if flags.contains('F') { builder.fin() } else { builder };
        let builder = if flags.contains('S') {
            builder.syn().options(&[TcpOptionElement::MaximumSegmentSize(1460)])?
        } else {
            builder
        };
        let mut bytes = Vec::with_capacity(builder.size(0));
        builder.write(&mut bytes, &[])?;
        self.send(&bytes)
    }

    fn reply(&mut self, what: &str, sport: u16) -> Result<Reply, Box<dyn Error>> {
        self.wait_for(what, |frame| tcp_reply(frame).filter(|reply| reply.sport == sport))
    }

    /// SYN, SYN-ACK, ACK, their FIN, ours, the last ACK; returns the time from SYN to SYN-ACK.
    fn connect_and_close(&mut self, sport: u16, dport: u16) -> Result<Duration, Box<dyn Error>> {
        let (ports, iss) = ((sport, dport), 0x1000_0000 + u32::from(sport));
        let start = Instant::now();
        self.segment(ports, iss, None, "S")?;
        let synack = self.reply("a SYN-ACK", sport)?;
        let took = start.elapsed();
        if !synack.syn || synack.ack != iss + 1 {
            return Err(format!("wanted a SYN-ACK of {}, found {synack:?}", iss + 1).into());
        }
        self.segment(ports, iss + 1, Some(synack.seq.wrapping_add(1)), "")?;
        let fin = self.reply("its FIN", sport)?;
        if !fin.fin || fin.seq != synack.seq.wrapping_add(1) {
            return Err(format!("wanted a FIN after the handshake, found {fin:?}").into());
        }
        self.segment(ports, iss + 1, Some(fin.seq.wrapping_add(1)), "F")?;
        let last = self.reply("the ACK of our FIN", sport)?;
        if last.ack != iss + 2 {
            Err(format!("wanted an ACK of {}, found {last:?}", iss + 2).into())
        } else {
            Ok(took)
        }
    }

    /// True if a SYN to `dport` meets a RST.
    fn is_refused(&mut self, sport: u16, dport: u16) -> Result<bool, Box<dyn Error>> {
        self.segment((sport, dport), 7, None, "S")?;
        let reply = self.reply("a RST", sport)?;
        Ok(reply.rst && reply.ack == 8)
    }

    /// SYN and ACK, and no more: the connection waits for accept.
    fn connect_and_wait(&mut self, sport: u16, dport: u16) -> Result<(), Box<dyn Error>> {
        self.segment((sport, dport), 1, None, "S")?;
        let synack = self.reply("a SYN-ACK", sport)?;
        self.segment((sport, dport), 2, Some(synack.seq.wrapping_add(1)), "")
    }

    /// One echo request and its reply.
    fn ping(&mut self, seq: u16) -> Result<(), Box<dyn Error>> {
        let builder = PacketBuilder::ethernet2(PEER_MAC, self.server_mac)
            .ipv4(CLIENT.octets(), SERVER.octets(), 64)
            .icmpv4_echo_request(1, seq);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, b"hearken")?;
        self.send(&bytes)?;
        self.wait_for("an echo reply", |frame| {
            let packet = SlicedPacket::from_ethernet(frame).ok()?;
            let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else { return None };
            (icmp.type_u8() == 0 && icmp.payload() == b"hearken").then_some(())
        })
    }
}

fn tcp_reply(frame: &[u8]) -> Option<Reply> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (&packet.net, &packet.transport) else {
        return None;
    };
    let sum = tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).ok()?;
    (sum == tcp.checksum()).then(|| read(tcp))
}

fn read(tcp: &TcpSlice<'_>) -> Reply {
    Reply {
        sport: tcp.destination_port(),
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
    }
}

/// Runs the demo in this process.
///
/// # Errors
/// What did not happen as it should; all is taken down when it returns.
pub fn demo(connections: usize, stop: &AtomicBool) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("control.sock");
    // Whoever runs this has no rights, so the kernel's rule of privileged ports would refuse port 80.
    let extra = "\n[eal]\nhuge = \"never\"\n\n[sysctl]\nip_unprivileged_port_start = 0\n";
    let text = lab::config(&socket, "ring_pair", 1, &LISTENERS) + extra;
    let config = Config::parse(&dir.path().join("demo.toml"), text)?;
    let mut server = Server::bind(&config.socket())?;
    let mut running = start::start(&config)?;
    let io = running.peers.pop().ok_or("the ring pair has no other end")?;
    println!("The wire:   {SERVER} (hearken) ── net_ring ── {CLIENT} (a client in this process)");

    let done = AtomicBool::new(false);
    let visit = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            // Raised on every way out, so that the control thread's loop below ends.
            let visit = visit(io, &socket, connections, stop).map_err(|error| error.to_string());
            done.store(true, Ordering::Relaxed);
            visit
        });
        while !done.load(Ordering::Relaxed) && !client.is_finished() {
            running.turn(&mut server, &[], Duration::from_millis(10))?;
        }
        client.join().unwrap_or_else(|_| Err("the client panicked".into())).map_err(Box::<dyn Error>::from)
    });
    let (_, ended) = running.stop();
    visit?;
    ended?;
    println!("\nhearken has ended.");
    Ok(())
}

/// What the client does, and what the control socket then says.
fn visit(io: DpdkIo, socket: &Path, connections: usize, stop: &AtomicBool) -> Result<(), Box<dyn Error>> {
    let mut peer = Peer::new(io)?;
    let mut took = Histogram::<u64>::new(3)?;
    for sport in (20_000u16..).take(connections) {
        if stop.load(Ordering::Relaxed) {
            return Err("interrupted; all is taken down".into());
        }
        let nanos = peer.connect_and_close(sport, 80)?.as_nanos();
        took.record(u64::try_from(nanos).unwrap_or(u64::MAX))?;
    }
    println!(
        "connect():  {} of {connections} to {SERVER}:80 done; SYN to SYN-ACK: median {} us, p99 {} us",
        took.len(),
        took.value_at_quantile(0.5) / 1000,
        took.value_at_quantile(0.99) / 1000,
    );
    if !peer.is_refused(19_000, 81)? {
        return Err(format!("{SERVER}:81 should refuse").into());
    }
    println!("closed:     {SERVER}:81 answers with a RST");
    for seq in 0..3 {
        peer.ping(seq)?;
    }
    println!("ping:       3 of 3 echoed");
    for sport in 19_001..=19_003 {
        peer.connect_and_wait(sport, 7000)?;
    }
    println!("waiting:    3 connections to {SERVER}:7000, which nobody accepts");

    let mut client = Client::connect(socket)?;
    let all = client.call::<Ss>(&Request::Ss { from: 0 })?;
    println!("\n$ hearken ss\n{}", report::ss(&all).trim_end());
    println!(
        "\n$ hearken stats\n{}",
        report::stats(&client.call::<Stats>(&Request::Stats {})?, false).trim_end()
    );
    let latency = client.call::<Latency>(&Request::Latency { core: None })?;
    println!("\n$ hearken latency\n{}", report::latency(&latency).trim_end());
    Ok(())
}
