//! Packet I/O in memory: two bounded queues of frames between a [`Mem`] and its [`MemPeer`].
//!
//! Buffers come from one pool of fixed size and go back to it when a frame is dropped, on either side and on any
//! thread: nothing is allocated after [`Mem::new`]. So a [`Mem`] can also run out of buffers and of room to send, as a
//! device does.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::{Capabilities, Frame, HEAD, HeadInfo, PacketIo, RxMeta, Sent, TxOffload};

/// Octets in one buffer: the longest frame that [`Mem`] carries.
pub const BUFFER_LEN: usize = 2048;

type Buffer = Box<[u8; BUFFER_LEN]>;
/// Where the buffers of dropped frames go.
pub(super) type Pool = Arc<ArrayQueue<Buffer>>;

/// A pool of `buffers` buffers.
pub(super) fn pool(buffers: usize) -> Pool {
    let pool = ArrayQueue::new(buffers);
    for _ in 0..buffers {
        let _ = pool.push(Box::new([0; BUFFER_LEN]));
    }
    Arc::new(pool)
}

/// A frame in one of the pool's buffers.
#[derive(Debug)]
pub struct MemFrame {
    /// Empty only while it is dropped.
    buffer: Option<Buffer>,
    len: usize,
    meta: RxMeta,
    offload: TxOffload,
    pool: Pool,
}

impl MemFrame {
    pub(super) fn alloc(pool: &Pool) -> Option<Self> {
        let buffer = Some(pool.pop()?);
        let (meta, offload) = (RxMeta::default(), TxOffload::default());
        Some(Self { buffer, len: 0, meta, offload, pool: Arc::clone(pool) })
    }

    /// What was asked of the device on the way out.
    pub fn tx_offload(&self) -> TxOffload {
        self.offload
    }

    /// Sets what [`Frame::rx_meta`] says.
    pub fn set_rx_meta(&mut self, meta: RxMeta) {
        self.meta = meta;
    }

    /// Makes `bytes` the frame's octets; false, and no change, if they do not fit.
    #[must_use]
    pub fn fill(&mut self, bytes: &[u8]) -> bool {
        if !self.set_len(bytes.len()) {
            return false;
        }
        self.bytes_mut().copy_from_slice(bytes);
        true
    }
}

impl Frame for MemFrame {
    fn bytes(&self) -> &[u8] {
        self.buffer.as_deref().map_or(&[], |buffer| &buffer[..self.len])
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.as_deref_mut().map_or(&mut [], |buffer| &mut buffer[..self.len])
    }

    fn set_len(&mut self, len: usize) -> bool {
        let fits = len <= BUFFER_LEN;
        if fits {
            self.len = len;
        }
        fits
    }

    fn room<const N: usize>(&self) -> Option<&[u8; N]> {
        self.buffer.as_deref()?.first_chunk()
    }

    fn head(&self) -> Option<(&[u8; HEAD], HeadInfo)> {
        Some((self.room()?, HeadInfo::of(&self.meta, self.len)))
    }

    fn rewrite<const N: usize>(&mut self, len: usize, offload: TxOffload) -> Option<&mut [u8; N]> {
        if len > N || N > BUFFER_LEN || !self.set_len(len) {
            return None;
        }
        self.set_tx_offload(offload);
        self.buffer.as_deref_mut()?.first_chunk_mut()
    }

    fn rx_meta(&self) -> RxMeta {
        self.meta
    }

    fn set_tx_offload(&mut self, offload: TxOffload) {
        self.meta = RxMeta::default();
        self.offload = offload;
    }
}

impl Drop for MemFrame {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // The pool has a place for each of its buffers, so this cannot fail.
            let _ = self.pool.push(buffer);
        }
    }
}

/// How large a [`Mem`] is, and what it claims to do.
#[derive(Clone, Copy, Debug)]
pub struct MemConfig {
    /// Frames in each direction.
    pub ring: usize,
    /// Buffers, shared by both directions and both sides.
    pub buffers: usize,
    /// What [`PacketIo::capabilities`] says. Nothing is done about it: whoever claims a checksum offload finds the
    /// checksums as hearken left them, and [`MemFrame::tx_offload`] beside them.
    pub capabilities: Capabilities,
}

impl Default for MemConfig {
    fn default() -> Self {
        Self { ring: 256, buffers: 1024, capabilities: Capabilities::default() }
    }
}

/// The worker's end.
#[derive(Debug)]
pub struct Mem {
    rx: Arc<ArrayQueue<MemFrame>>,
    tx: Arc<ArrayQueue<MemFrame>>,
    pool: Pool,
    capabilities: Capabilities,
}

/// The other end of the wire, for the same thread or another.
#[derive(Clone, Debug)]
pub struct MemPeer {
    to_worker: Arc<ArrayQueue<MemFrame>>,
    from_worker: Arc<ArrayQueue<MemFrame>>,
    pool: Pool,
}

impl Mem {
    /// A wire and its two ends.
    ///
    /// # Panics
    /// If `ring` or `buffers` is 0.
    pub fn new(config: MemConfig) -> (Self, MemPeer) {
        let pool = pool(config.buffers);
        let (rx, tx) = (Arc::new(ArrayQueue::new(config.ring)), Arc::new(ArrayQueue::new(config.ring)));
        let peer =
            MemPeer { to_worker: Arc::clone(&rx), from_worker: Arc::clone(&tx), pool: Arc::clone(&pool) };
        (Self { rx, tx, pool, capabilities: config.capabilities }, peer)
    }
}

impl PacketIo for Mem {
    type Frame = MemFrame;

    fn rx_burst(&mut self, into: &mut [Option<MemFrame>]) -> usize {
        receive(&self.rx, into)
    }

    fn tx_burst(&mut self, from: &mut [Option<MemFrame>]) -> Sent {
        Sent::all(send(&self.tx, from))
    }

    fn alloc(&mut self) -> Option<MemFrame> {
        MemFrame::alloc(&self.pool)
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
}

impl MemPeer {
    /// Puts a frame on the wire; false if there is no buffer, no room, or `bytes` is longer than [`BUFFER_LEN`].
    #[must_use]
    pub fn send(&self, bytes: &[u8]) -> bool {
        self.send_with(bytes, RxMeta::default())
    }

    /// As [`MemPeer::send`], with what the device shall say about the frame.
    #[must_use]
    pub fn send_with(&self, bytes: &[u8], meta: RxMeta) -> bool {
        let Some(mut frame) = MemFrame::alloc(&self.pool) else { return false };
        frame.set_rx_meta(meta);
        frame.fill(bytes) && self.to_worker.push(frame).is_ok()
    }

    /// The next frame that the worker sent.
    pub fn recv(&self) -> Option<MemFrame> {
        self.from_worker.pop()
    }

    /// Buffers that no frame holds.
    pub fn free_buffers(&self) -> usize {
        self.pool.len()
    }
}

/// The far end as a device of its own, for a client that is written for devices.
impl PacketIo for MemPeer {
    type Frame = MemFrame;

    fn rx_burst(&mut self, into: &mut [Option<MemFrame>]) -> usize {
        receive(&self.from_worker, into)
    }

    fn tx_burst(&mut self, from: &mut [Option<MemFrame>]) -> Sent {
        Sent::all(send(&self.to_worker, from))
    }

    fn alloc(&mut self) -> Option<MemFrame> {
        MemFrame::alloc(&self.pool)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
}

/// Fills a prefix of `into` from `ring`.
#[inline]
fn receive(ring: &ArrayQueue<MemFrame>, into: &mut [Option<MemFrame>]) -> usize {
    let mut received = 0;
    for slot in into {
        let Some(frame) = ring.pop() else { break };
        *slot = Some(frame);
        received += 1;
    }
    received
}

/// Empties the prefix of `from` that `ring` has room for.
#[inline]
fn send(ring: &ArrayQueue<MemFrame>, from: &mut [Option<MemFrame>]) -> usize {
    let mut sent = 0;
    for slot in from {
        let Some(frame) = slot.take() else { break };
        if let Err(frame) = ring.push(frame) {
            *slot = Some(frame);
            break;
        }
        sent += 1;
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots<const N: usize>() -> [Option<MemFrame>; N] {
        [const { None }; N]
    }

    #[test]
    fn frames_go_both_ways_in_order_and_buffers_come_back() {
        let (mut io, peer) = Mem::new(MemConfig { ring: 2, buffers: 4, ..MemConfig::default() });
        assert!(peer.send(b"one") && peer.send(b"two"));
        assert!(!peer.send(b"three"), "the ring holds two");
        let mut burst = slots::<4>();
        assert_eq!(io.rx_burst(&mut burst), 2);
        assert_eq!(burst[0].as_ref().map(Frame::bytes), Some(&b"one"[..]));
        assert_eq!(io.tx_burst(&mut burst[..2]), Sent::all(2));
        assert_eq!(io.rx_burst(&mut burst), 0);
        assert_eq!(peer.recv().map(|frame| frame.bytes().to_vec()), Some(b"one".to_vec()));
        assert_eq!(peer.recv().map(|frame| frame.bytes().to_vec()), Some(b"two".to_vec()));
        assert!(peer.recv().is_none());
        assert_eq!(peer.free_buffers(), 4);
    }

    #[test]
    fn a_full_ring_leaves_frames_with_the_caller() {
        let (mut io, peer) = Mem::new(MemConfig { ring: 1, buffers: 4, ..MemConfig::default() });
        let mut burst = slots::<3>();
        burst.fill_with(|| io.alloc());
        assert_eq!(io.tx_burst(&mut burst), Sent::all(1));
        assert!(burst[0].is_none() && burst[1].is_some() && burst[2].is_some());
        assert_eq!(peer.free_buffers(), 1);
    }

    #[test]
    fn lengths_stay_inside_the_buffer() {
        let (mut io, _peer) = Mem::new(MemConfig { ring: 1, buffers: 1, ..MemConfig::default() });
        let mut frame = io.alloc().expect("one buffer is free");
        assert!(io.alloc().is_none());
        assert!(frame.set_len(BUFFER_LEN) && !frame.set_len(BUFFER_LEN + 1));
        assert_eq!(frame.bytes().len(), BUFFER_LEN);
        assert!(!frame.fill(&[0; BUFFER_LEN + 1]));
    }
}
