//! Packet I/O: bursts of owned frames from and to one (port, queue) pair.
//!
//! [`crate::worker::Worker`] is generic over [`PacketIo`], so the choice of device costs no dispatch per packet. A frame is
//! owned by whoever holds it: dropping it gives its buffer back, and a frame that was handed to
//! [`PacketIo::tx_burst`] and not taken stays with the caller.
//!
//! # Who implements it
//! [`mem`] (queues in memory), [`pcap`] (replay and record a file), [`faulty`] (wraps another one and spoils frames by
//! seed), and with feature `dpdk` an rx and tx queue of a DPDK port.

use std::time::Duration;

pub mod arrival;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod faulty;
pub mod mem;
pub mod pcap;

/// What a device says about a checksum of a frame that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Csum {
    /// Nothing: it has to be checked in software.
    #[default]
    Unknown,
    /// It is right.
    Good,
    /// It is wrong.
    Bad,
    /// The field is not filled in, but the data is known to be whole (a peer on the same host).
    None,
}

/// What the device knows about a frame beyond its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RxMeta {
    /// IPv4 header checksum.
    pub ip_csum: Csum,
    /// TCP checksum.
    pub l4_csum: Csum,
    /// The tag control information of a VLAN tag that the device took out of the frame. A device may do so only if it
    /// can also insert one ([`Capabilities::tx_vlan_insert`]): answers go out with the tag they came with.
    pub vlan_tci: Option<u16>,
    /// The frame is spread over several buffers, and [`Frame::bytes`] is only the first of them.
    pub chained: bool,
}

/// What the device is asked to do with a frame that goes out. Whoever writes a frame sets it, also to the default,
/// because a frame that came in may still carry the device's marks of its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TxOffload {
    /// Fill in the IPv4 header checksum; the field holds 0.
    pub ip_csum: bool,
    /// Fill in the TCP checksum; the field holds the pseudo-header's sum, not inverted.
    pub tcp_csum: bool,
    /// The network header is IPv6, not IPv4. Of interest only with one of the two above.
    pub ipv6: bool,
    /// Octets of the link header, a VLAN tag in the frame included.
    pub l2_len: u8,
    /// Octets of the network header.
    pub l3_len: u8,
    /// Insert a VLAN tag with this tag control information.
    pub vlan_tci: Option<u16>,
}

/// What a device does by itself, after every clamp to what it can. Fixed once it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// [`TxOffload::ip_csum`] is honoured.
    pub tx_ip_csum: bool,
    /// [`TxOffload::tcp_csum`] is honoured.
    pub tx_tcp_csum: bool,
    /// [`TxOffload::vlan_tci`] is honoured.
    pub tx_vlan_insert: bool,
}

/// Octets of a frame that [`Frame::head`] shows: one cache line.
pub const HEAD: usize = 64;

/// What [`Frame::head`] says of a frame, as one word that vectors can look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadInfo(pub u32);

impl HeadInfo {
    /// Nothing that the device says speaks against the frame: there is one buffer, no tag was taken out, and no checksum is
    /// known to be wrong.
    pub const PLAIN: u32 = 1 << 31;
    /// The IPv4 header is known to be right.
    pub const IP_WHOLE: u32 = 1 << 30;
    /// The TCP segment is.
    pub const L4_WHOLE: u32 = 1 << 29;
    /// The octets of the frame, as far as they fit.
    pub const LEN: u32 = 0xffff;

    /// Of a frame of `len` octets.
    #[inline]
    pub fn of(meta: &RxMeta, len: usize) -> Self {
        let whole = |said| matches!(said, Csum::Good | Csum::None);
        let bad = meta.ip_csum == Csum::Bad || meta.l4_csum == Csum::Bad;
        let plain = !meta.chained && meta.vlan_tci.is_none() && !bad;
        Self(
            (len as u32).min(Self::LEN)
                | if plain { Self::PLAIN } else { 0 }
                | if whole(meta.ip_csum) { Self::IP_WHOLE } else { 0 }
                | if whole(meta.l4_csum) { Self::L4_WHOLE } else { 0 },
        )
    }
}

/// One frame in a buffer that is owned by whoever holds it, from the destination MAC address on, without FCS.
pub trait Frame: Send {
    /// Its octets; of a chained frame those of the first buffer.
    fn bytes(&self) -> &[u8];

    /// Its octets, to be changed in place.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Makes the frame `len` octets long by cutting or growing its end, and says whether the buffer has room for that;
    /// if not, nothing changes. New octets hold whatever the buffer held.
    #[must_use]
    fn set_len(&mut self, len: usize) -> bool;

    /// What the device said about it on arrival.
    fn rx_meta(&self) -> RxMeta;

    /// Asks the device for help on the way out, and forgets what it said on arrival.
    fn set_tx_offload(&mut self, offload: TxOffload);

    /// What the buffer holds from the frame's first octet on, whether the frame is so long or not: octets behind the end of
    /// [`Frame::bytes`] mean nothing. None if the buffer ends before.
    fn room<const N: usize>(&self) -> Option<&[u8; N]>;

    /// [`Frame::room`] of a head, and what there is to say of it.
    fn head(&self) -> Option<(&[u8; HEAD], HeadInfo)>;

    /// Makes the frame `len` octets long, `N` at most, asks the device for help with it, as [`Frame::set_tx_offload`] does,
    /// and returns its first `N` octets to be written. None, and nothing changes, if the buffer has no room for them.
    #[must_use]
    fn rewrite<const N: usize>(&mut self, len: usize, offload: TxOffload) -> Option<&mut [u8; N]>;

    /// Gives the buffers of all `frames` back.
    #[inline]
    fn free(frames: &mut [Option<Self>])
    where
        Self: Sized,
    {
        frames.fill_with(|| None);
    }

    /// Starts to load the first cache line of the octets. A hint: may do nothing.
    #[inline]
    fn prefetch(&self) {}
}

/// What became of the frames that a device was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// So many slots in front are empty now.
    pub done: usize,
    /// Bit `i` is set if the device rejected the frame in slot `i`, which is lost; the others were taken.
    pub rejected: u64,
}

impl Sent {
    /// The first `count` were taken.
    #[inline]
    pub const fn all(count: usize) -> Self {
        Self { done: count, rejected: 0 }
    }

    /// Frames that the device took.
    #[inline]
    pub const fn taken(self) -> usize {
        self.done - self.rejected.count_ones() as usize
    }
}

/// One rx queue and one tx queue, for one thread.
pub trait PacketIo: Send {
    /// Its frames.
    type Frame: Frame;

    /// Fills a prefix of `into`, whose slots are all empty, and returns its length. Never waits.
    fn rx_burst(&mut self, into: &mut [Option<Self::Frame>]) -> usize;

    /// Empties the prefix of `from` that the device is done with. `from` holds a frame in every slot, [`crate::burst::BURST_MAX`] at most;
    /// those that are left still belong to the caller.
    fn tx_burst(&mut self, from: &mut [Option<Self::Frame>]) -> Sent;

    /// A frame of length 0 with room for at least [`ALLOC_ROOM`] octets, if a buffer is free.
    fn alloc(&mut self) -> Option<Self::Frame>;

    /// What the device does by itself.
    fn capabilities(&self) -> Capabilities;

    /// False while nothing can be sent because the link is down.
    #[inline]
    fn is_link_up(&self) -> bool {
        true
    }

    /// Where the device stamps frames with their time of arrival: writes how long each of `frames`, which have just been
    /// received, had waited by then, in ns, and returns true; 0 for one without a stamp that can be used. Elsewhere writes
    /// nothing and returns false, which is all that it then costs.
    #[inline]
    fn waited(&self, _frames: &[Option<Self::Frame>], _waited: &mut [u64]) -> bool {
        false
    }

    /// Lets the queue's receive interrupt end [`PacketIo::wait`] on this thread. Once, on the thread that polls.
    ///
    /// # Errors
    /// Why it has none.
    fn add_interrupt(&mut self) -> Result<(), String> {
        Err("has no receive interrupts".into())
    }

    /// Has the device raise an interrupt when the next frame comes, or none.
    fn arm_interrupt(&mut self, _on: bool) {}

    /// Waits until a queue of this thread raises an interrupt, for at most `limit`.
    fn wait(limit: Duration) {
        std::thread::sleep(limit);
    }

    /// True if no frame will ever come again: the end of a file that is replayed once.
    fn exhausted(&self) -> bool {
        false
    }
}

/// Octets that a fresh frame has room for: the longest frame that is built from nothing, with some to spare.
pub const ALLOC_ROOM: usize = 256;
