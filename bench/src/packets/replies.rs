//! A fast wrong answer is none: the replies of a sample are read by another library, and their cookies are sent back.
//!
//! hearken runs here as it does in the contest, on `net_pcap`, but the two files are pipes. So the ACKs that
//! acknowledge its cookies can be made of its own SYN-ACKs while it runs.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::Job;
use super::server::{Server, Setup};
use crate::frames::{CLIENT_MAC, CLOSED_PORT, Client, OPEN_PORT, SERVER_MAC, SERVER_V4};

/// SYNs to a listener: so many that its accept queue holds all connections. The driver reads whole bursts from a pipe
/// before it hands one over, so both numbers are multiples of every burst.
const OPEN: usize = 3968;
/// SYNs to a port on which nobody listens.
const CLOSED: usize = 320;
/// Replies that the driver's own buffer of 4,096 octets may hold back.
const HELD_BACK: usize = 4096 / (54 + 16) + 1;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Checked {
    /// SYN-ACKs: both checksums, addresses, ports, flags, ACK number.
    pub synacks: usize,
    /// RSTs from closed ports: the same.
    pub rsts: usize,
    /// Cookies that came back in an ACK and made a connection.
    pub cookies: u64,
}

/// A reply, as far as it is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reply {
    client: (Ipv4Addr, u16),
    port: u16,
    seq: u32,
    ack: u32,
    /// SYN, ACK, RST.
    flags: [bool; 3],
}

/// Reads a reply, which must be whole. None: what hearken says unasked, that its address is its own.
fn read(frame: &[u8]) -> anyhow::Result<Option<Reply>> {
    let packet = SlicedPacket::from_ethernet(frame)?;
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport) else {
        return Ok(None);
    };
    ensure!(frame[..6] == CLIENT_MAC && frame[6..12] == SERVER_MAC, "wrong MAC addresses");
    let header = ip.header();
    ensure!(header.header_checksum() == header.to_header().calc_header_checksum(), "wrong IP checksum");
    let sum = tcp.calc_checksum_ipv4(header.source(), header.destination())?;
    ensure!(tcp.checksum() == sum, "TCP checksum {:#06x}, not {sum:#06x}", tcp.checksum());
    ensure!(header.source_addr() == SERVER_V4, "it came from {}", header.source_addr());
    Ok(Some(Reply {
        client: (header.destination_addr(), tcp.destination_port()),
        port: tcp.source_port(),
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        flags: [tcp.syn(), tcp.ack(), tcp.rst()],
    }))
}

/// Checks the reply to `client`'s SYN.
fn check(reply: &Reply, client: &Client) -> anyhow::Result<()> {
    ensure!(reply.ack == client.isn.wrapping_add(1), "ACK {} to the SYN {}", reply.ack, client.isn);
    let wanted = match reply.port {
        OPEN_PORT => [true, true, false],
        CLOSED_PORT => [false, true, true],
        port => bail!("it came from port {port}"),
    };
    ensure!(reply.flags == wanted, "SYN, ACK, RST are {:?}", reply.flags);
    Ok(())
}

/// Two pipes that hearken takes for files.
struct Pipes {
    to_server: PcapWriter<File>,
    replies: Receiver<io::Result<Vec<u8>>>,
    /// Keeps the other pipe open until hearken has opened it.
    opener: File,
}

impl Pipes {
    fn new(dir: &Path) -> anyhow::Result<(Self, String)> {
        let (input, output) = (dir.join("in.pcap"), dir.join("out.pcap"));
        for pipe in [&input, &output] {
            mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).context("cannot make a pipe")?;
        }
        // Open for reading too, an end does not wait for its peer.
        let both = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let (to_server, opener) = (PcapWriter::new(both(&input)?)?, both(&output)?);
        let reader = File::open(&output)?;
        let (sender, replies) = mpsc::channel();
        thread::spawn(move || {
            let Ok(mut reader) = PcapReader::new(BufReader::new(reader)) else { return };
            while let Some(packet) = reader.next_packet() {
                let frame = packet.map(|packet| packet.data.into_owned()).map_err(io::Error::other);
                if sender.send(frame).is_err() {
                    break;
                }
            }
        });
        let device = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
        Ok((Self { to_server, replies, opener }, device))
    }

    fn send(to_server: &mut PcapWriter<File>, frame: &[u8]) -> anyhow::Result<()> {
        let len = u32::try_from(frame.len())?;
        to_server
            .write_packet(&PcapPacket::new(Duration::ZERO, len, frame))
            .context("hearken closed its file")?;
        Ok(())
    }
}

/// Checks hearken's replies with cookies on.
///
/// # Errors
/// The first wrong reply, or a reply or connection that did not come.
pub fn run(job: &Job<'_>) -> anyhow::Result<Checked> {
    let dir = tempfile::Builder::new().prefix("hearken-replies").tempdir()?;
    let (Pipes { mut to_server, replies, opener }, device) = Pipes::new(dir.path())?;
    let clients: Vec<Client> = (0..OPEN + CLOSED).map(Client::new).collect();
    let sending = {
        let syns: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(at, client)| client.syn(SERVER_MAC, if at < OPEN { OPEN_PORT } else { CLOSED_PORT }))
            .collect();
        // A pipe holds less than this, so somebody else has to read meanwhile.
        thread::spawn(move || {
            let sent = syns.iter().try_for_each(|syn| Pipes::send(&mut to_server, syn));
            sent.map(|()| to_server)
        })
    };
    let mut server = Server::start(job, &device, Setup::COOKIES)?;
    drop(opener);
    let waiting: HashMap<_, _> = clients.iter().map(|client| ((client.v4, client.port), client)).collect();
    let mut checked = Checked::default();
    let mut acks = Vec::new();
    while checked.synacks + checked.rsts < clients.len() - HELD_BACK {
        let frame = replies.recv_timeout(PATIENCE).with_context(|| {
            format!("{} SYNs sent, then no more replies after {checked:?}", clients.len())
        })??;
        let Some(reply) = read(&frame)? else { continue };
        let client = waiting.get(&reply.client).with_context(|| format!("nobody asked for {reply:?}"))?;
        check(&reply, client).with_context(|| format!("reply {reply:?} to {client:?}"))?;
        if reply.port == OPEN_PORT {
            checked.synacks += 1;
            acks.push(client.ack(SERVER_MAC, OPEN_PORT, reply.seq.wrapping_add(1)));
        } else {
            checked.rsts += 1;
        }
    }
    let mut to_server = sending.join().map_err(|_| anyhow::anyhow!("the sending thread died"))??;
    for ack in &acks {
        Pipes::send(&mut to_server, ack)?;
    }
    // The end of the file lets the driver hand over a burst that is not full.
    drop(to_server);
    checked.cookies = connections(&mut server, acks.len() as u64)?;
    server.stop()?;
    Ok(checked)
}

/// Waits for `wanted` connections.
fn connections(server: &mut Server, wanted: u64) -> anyhow::Result<u64> {
    let until = Instant::now() + PATIENCE;
    loop {
        let accepted = server.stats()?.total.outcomes.get("accept").copied().unwrap_or(0);
        if accepted >= wanted {
            return Ok(accepted);
        }
        ensure!(Instant::now() < until, "{wanted} cookies sent back made {accepted} connections");
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn synack(client: &Client, ack: u32) -> Vec<u8> {
        let step = PacketBuilder::ethernet2(SERVER_MAC, CLIENT_MAC)
            .ipv4(SERVER_V4.octets(), client.v4.octets(), 64)
            .tcp(OPEN_PORT, client.port, 7, 64_240);
        let mut frame = Vec::new();
        step.syn().ack(ack).write_to_vec(&mut frame, &[]).expect("a Vec takes it");
        frame
    }

    #[test]
    fn wrong_replies_are_found() {
        let client = Client::new(1);
        let good = synack(&client, client.isn.wrapping_add(1));
        let reply = read(&good).expect("whole").expect("TCP");
        check(&reply, &client).expect("right");
        let off_by_one = read(&synack(&client, client.isn)).expect("whole").expect("TCP");
        assert!(check(&off_by_one, &client).is_err());
        assert!(check(&Reply { flags: [false, true, true], ..reply }, &client).is_err());
        assert!(check(&Reply { port: CLOSED_PORT, ..reply }, &client).is_err());
        assert!(check(&Reply { port: 1, ..reply }, &client).is_err());
        // A bit in the MAC addresses, the IP header, the TCP header.
        for at in [3, 26, 45] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(read(&bad).is_err(), "octet {at}");
        }
        assert!(read(&client.syn_v6(SERVER_MAC, 80)).expect("whole").is_none());
    }
}
