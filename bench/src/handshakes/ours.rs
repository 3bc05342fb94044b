//! hearken's side: worker, stack and clients in one thread.

use super::*;

use dataplane::clock::RealClock;
use dataplane::io::Frame;
use dataplane::io::mem::{Mem, MemConfig, MemFrame, MemPeer};
use dataplane::worker::{Port, Worker, WorkerConfig};
use listener::sockaddr::Family;
use listener::types::{CoreId, DevIndex, SockFd};
use listener::{Core, Stack};

use crate::frames::{Client, Kind, SERVER_MAC, SERVER_V4};
use crate::stack;

/// Clients that there are; so many at a time connect as were asked for.
const CLIENTS: usize = 1 << 12;
const PORT: u16 = 8000;
/// Turns without an answer before the bench gives up.
const PATIENCE: usize = 100_000;

/// Where a frame without IP options has what.
const TCP: usize = 34;
const SYN_ACK: u8 = 0x12;
const FIN_ACK: u8 = 0x11;

/// What a client sends, in this order; the ACK's number is filled in.
struct Frames {
    syn: Vec<u8>,
    ack: Vec<u8>,
    rst: Vec<u8>,
}

/// A worker with its stack, and the clients at the other end of the wire.
pub(super) struct Ours {
    stack: Stack,
    listener: SockFd,
    worker: Worker<Mem, Core>,
    peer: MemPeer,
    clock: RealClock,
    clients: Vec<Frames>,
    at_a_time: usize,
    next: usize,
}

impl Ours {
    /// For so many clients at a time.
    pub(super) fn new(at_a_time: usize) -> Result<Self> {
        let (stack, core) = stack::for_kind(Kind::Requests)?;
        let listener = stack::open(&stack, Family::Inet, SocketAddr::new(IpAddr::V4(SERVER_V4), PORT))?;
        let (io, peer) = Mem::new(MemConfig::default());
        let ports = vec![Port::new(io, DevIndex(1), Arc::new(stack::local_table()), false)];
        let worker = Worker::new(WorkerConfig::new(CoreId(0)), core, ports);
        let client = |number| {
            let client = Client::new(number);
            Frames {
                syn: client.syn(SERVER_MAC, PORT),
                ack: client.ack(SERVER_MAC, PORT, 0),
                rst: client.rst(SERVER_MAC, PORT),
            }
        };
        let clients = (0..CLIENTS).map(client).collect();
        Ok(Self { stack, listener, worker, peer, clock: RealClock::begin(), clients, at_a_time, next: 0 })
    }

    /// Connections a second, over `turn`.
    pub(super) fn turn(&mut self, turn: Duration) -> Result<f64> {
        let (mut count, begin) = (0, Instant::now());
        while begin.elapsed() < turn {
            count += self.batch()?;
        }
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    /// So many clients as go at a time connect, are accepted and closed, and reset.
    fn batch(&mut self) -> Result<usize> {
        let first = self.next;
        let batch = first..(first + self.at_a_time).min(CLIENTS);
        self.next = batch.end % CLIENTS;
        for number in batch.clone() {
            ensure!(self.peer.send(&self.clients[number].syn), "the wire is full");
        }
        for number in batch.clone() {
            let seq = self.answer(SYN_ACK, number)?;
            let ack = &mut self.clients[number].ack;
            set_ack(ack, seq.wrapping_add(1));
            ensure!(self.peer.send(ack), "the wire is full");
        }
        self.worker.poll(&mut self.clock);
        self.worker.poll(&mut self.clock);
        for _ in batch.clone() {
            let accepted = self.stack.accept(self.listener);
            let accepted = accepted.map_err(|error| anyhow::anyhow!("accept: {error:?}"))?;
            let closed = self.stack.close(accepted.fd, false);
            closed.map_err(|error| anyhow::anyhow!("close: {error:?}"))?;
        }
        for number in batch.clone() {
            self.answer(FIN_ACK, number)?;
            ensure!(self.peer.send(&self.clients[number].rst), "the wire is full");
        }
        Ok(batch.len())
    }

    /// The next answer, which is one with these flags to client `number`; returns its sequence number.
    fn answer(&mut self, flags: u8, number: usize) -> Result<u32> {
        let frame = (0..PATIENCE).find_map(|_| {
            self.peer.recv().or_else(|| {
                self.worker.poll(&mut self.clock);
                None
            })
        });
        let Some(frame) = frame else { bail!("client {number} waits for flags {flags:#x} in vain") };
        let (bytes, syn) = (MemFrame::bytes(&frame), &self.clients[number].syn);
        let to_client = bytes[TCP + 2..TCP + 4] == syn[TCP..TCP + 2];
        ensure!(
            to_client && bytes[TCP + 13] == flags,
            "client {number} waits for flags {flags:#x}, got {bytes:x?}"
        );
        Ok(u32::from_be_bytes([bytes[TCP + 4], bytes[TCP + 5], bytes[TCP + 6], bytes[TCP + 7]]))
    }
}

/// Fills the acknowledged number in, and the checksum (RFC 1624).
fn set_ack(frame: &mut [u8], ack: u32) {
    let half = |frame: &[u8], at: usize| u32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let mut sum = !half(frame, TCP + 16) & 0xffff;
    sum +=
        (!half(frame, TCP + 8) & 0xffff) + (!half(frame, TCP + 10) & 0xffff) + (ack >> 16) + (ack & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    frame[TCP + 8..TCP + 12].copy_from_slice(&ack.to_be_bytes());
    frame[TCP + 16..TCP + 18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
