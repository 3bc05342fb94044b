//! A whole server in this process, over DPDK rings: a handshake by hand from the other end of the wire, and everything
//! that the control socket says about it. One test, because DPDK starts once per process.
#![cfg(feature = "dpdk")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::config::Config;
use dataplane::control::client::{Client, ClientError};
use dataplane::control::proto::{Accepted, Latency, ListenerRow, Request, Ss, Stats, Which};
use dataplane::control::server::Server;
use dataplane::io::dpdk::DpdkIo;
use dataplane::io::{Frame, PacketIo, TxOffload};
use dataplane::start::start;
use etherparse::{PacketBuilder, PacketHeaders, TcpHeader, TransportHeader};

const PEER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 2)), 40_000);
const ISS: u32 = 1000;

/// The far end of the wire: writes segments by hand, reads what comes back.
struct Wire {
    queues: Vec<DpdkIo>,
}

impl Wire {
    fn send(&mut self, port: u16, seq: u32, ack: Option<u32>, flags: fn(&mut TcpHeader)) {
        let mut tcp = TcpHeader::new(PEER.port(), port, seq, 64_240);
        tcp.ack = ack.is_some();
        tcp.acknowledgment_number = ack.unwrap_or(0);
        flags(&mut tcp);
        let packet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [0; 6])
            .ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64)
            .tcp_header(tcp);
        let mut bytes = Vec::new();
        packet.write(&mut bytes, &[]).expect("a frame");
        let io = &mut self.queues[0];
        let mut frame = io.alloc().expect("a buffer");
        assert!(frame.set_len(bytes.len()));
        frame.bytes_mut().copy_from_slice(&bytes);
        frame.set_tx_offload(TxOffload::default());
        assert_eq!(io.tx_burst(&mut [Some(frame)]).taken(), 1, "the ring is full");
    }

    /// The next TCP segment that comes.
    #[track_caller]
    fn receive(&mut self) -> TcpHeader {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            for io in &mut self.queues {
                let mut slots = [const { None }; 4];
                io.rx_burst(&mut slots);
                for frame in slots.iter().flatten() {
                    let headers = PacketHeaders::from_ethernet_slice(frame.bytes()).expect("a frame");
                    if let Some(TransportHeader::Tcp(tcp)) = headers.transport {
                        return tcp;
                    }
                }
            }
            thread::yield_now();
        }
        panic!("nothing came back");
    }
}

/// What the control socket says, step by step, while the client end plays TCP.
fn play(wire: &mut Wire, server: &mut Client) {
    let addr: SocketAddr = "198.18.0.1:80".parse().expect("an address");
    let which = Which { addr: addr.into(), device: None, fd: None, all: false };
    let row = |server: &mut Client| -> ListenerRow {
        server.call::<Ss>(&Request::Ss { from: 0 }).expect("ss").listeners.remove(0)
    };
    assert_eq!(row(server).recv_q, 0);

    wire.send(80, ISS, None, |tcp| tcp.syn = true);
    let synack = wire.receive();
    assert!(synack.syn && synack.ack && synack.acknowledgment_number == ISS + 1);
    let their_next = synack.sequence_number.wrapping_add(1);
    wire.send(80, ISS + 1, Some(their_next), |_| {});
    let begun = Instant::now();
    while row(server).recv_q == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the connection never queued");
    }

    let accepted: Accepted = server.call(&Request::Accept(which.clone())).expect("a connection");
    assert_eq!((accepted.peer, accepted.local), (PEER, addr));
    assert_eq!(row(server).recv_q, 0);
    let empty = server.call::<Accepted>(&Request::Accept(which)).expect_err("only one was there");
    assert!(
        matches!(&empty, ClientError::Refused(refusal) if refusal.errno.as_deref() == Some("EAGAIN")),
        "{empty}"
    );
    let _: serde_json::Value =
        server.call(&Request::CloseConnection { fd: accepted.fd, reset: false }).expect("a close");
    let fin = wire.receive();
    assert!(fin.fin && fin.ack && !fin.rst && fin.sequence_number == their_next, "{fin:?}");
    wire.send(80, ISS + 1, Some(their_next.wrapping_add(1)), |tcp| tcp.fin = true);
    let last = wire.receive();
    assert!(last.ack && !last.fin && last.acknowledgment_number == ISS + 2, "{last:?}");

    wire.send(81, ISS, None, |tcp| tcp.syn = true);
    let rst = wire.receive();
    assert!(rst.rst && rst.ack && rst.acknowledgment_number == ISS + 1, "{rst:?}");

    let stats: Stats = server.call(&Request::Stats {}).expect("stats");
    let total = &stats.total;
    assert_eq!(total.rx_frames, 4);
    assert_eq!(total.rx_frames, total.outcomes.values().chain(total.drops.values()).sum::<u64>());
    assert_eq!((total.outcomes["synack"], total.outcomes["accept"], total.outcomes["rst"]), (1, 1, 1));
    assert_eq!(total.snmp["PassiveOpens"], 1);
    assert_eq!((stats.devices[0].name.as_str(), stats.devices[0].counters["ipackets"]), ("lan", 4));
    let latency: Latency = server.call(&Request::Latency { core: None }).expect("latency");
    for row in latency.cores.iter().flat_map(|core| &core.outcomes) {
        assert_eq!(row.count, row.frames, "{row:?}");
    }
}

/// A client that leaves without closing what it accepted: the connection goes with it.
fn leave(wire: &mut Wire, mut server: Client) {
    wire.send(80, 5000, None, |tcp| tcp.syn = true);
    let synack = wire.receive();
    wire.send(80, 5001, Some(synack.sequence_number.wrapping_add(1)), |_| {});
    let which =
        Which { addr: "198.18.0.1:80".parse().expect("an address"), device: None, fd: None, all: false };
    let begun = Instant::now();
    while server.call::<Accepted>(&Request::Accept(which.clone())).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the connection never queued");
    }
    drop(server);
    assert!(wire.receive().fin, "the connection outlives its client");
}

#[test]
fn a_server_as_a_library_answers_over_rings() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("h.sock");
    let text = format!(
        "[control]\nsocket = \"{}\"\n[eal]\nhuge = \"never\"\n[[port]]\nname = \"lan\"\ndevice = \"ring_pair,queues=2\"\n\
         addresses = [\"198.18.0.1/24\"]\n[[listener]]\naddr = \"198.18.0.1:80\"\n",
        socket.display()
    );
    let config = Config::parse(&dir.path().join("h.toml"), text).expect("a configuration");
    let mut server = Server::bind(&config.socket()).expect("a control socket");
    let mut running = start(&config).expect("a server");
    let mut wire = Wire { queues: std::mem::take(&mut running.peers) };
    assert_eq!(wire.queues.len(), 2);

    let done = AtomicBool::new(false);
    let wire = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let end = Done(&done);
            play(&mut wire, &mut Client::connect(&socket).expect("a server that listens"));
            leave(&mut wire, Client::connect(&socket).expect("a server that listens"));
            drop(end);
            wire
        });
        while !done.load(Ordering::Relaxed) {
            running.turn(&mut server, &[], Duration::from_millis(10)).expect("poll works");
        }
        client.join()
    });
    // Buffers go back before DPDK stops.
    drop(wire.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    assert_eq!(running.failure(), None);
    let (report, ended) = running.stop();
    assert_eq!(ended, Ok(()));
    assert_eq!(report.stats.total.outcomes["synack"], 2);
    assert_eq!(report.latency.total[0].count, 2);
}

/// Raises the flag also when the client's thread panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
