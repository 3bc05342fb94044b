//! Packet I/O on a queue pair of a DPDK port.
//!
//! The frame is DPDK's own mbuf, so nothing is copied, and an answer goes out in the mbuf that the question came
//! in. Offloads are the port's, fixed when it was configured; the VLAN tag stays in the frame but on drivers that
//! take it out whatever they are told.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dpdk::{Checksum, Mbuf, Mempool, Offloads, RxQueue, RxTimestampField, Started, TxQueue, TxRequest};

use super::arrival::ArrivalClock;
use crate::clock::{RealClock, Ticking, Ticks};

use super::{Capabilities, Csum, Frame, HEAD, HeadInfo, PacketIo, RxMeta, Sent, TxOffload};

impl Frame for Mbuf {
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.data()
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.data_mut()
    }

    #[inline]
    fn set_len(&mut self, len: usize) -> bool {
        Mbuf::set_len(self, len)
    }

    #[inline(always)]
    fn room<const N: usize>(&self) -> Option<&[u8; N]> {
        Mbuf::room(self)
    }

    #[inline(always)]
    fn head(&self) -> Option<(&[u8; HEAD], HeadInfo)> {
        let octets = Mbuf::room(self)?;
        // A device says nothing of all its frames, or something of most: one branch, and it is foreseen.
        let info =
            if self.is_unmarked() { HeadInfo(HeadInfo::PLAIN | self.len() as u32) } else { marked(self) };
        Some((octets, info))
    }

    #[inline(always)]
    fn rewrite<const N: usize>(&mut self, len: usize, offload: TxOffload) -> Option<&mut [u8; N]> {
        Mbuf::rewrite(self, len, request(offload))
    }

    #[inline]
    fn rx_meta(&self) -> RxMeta {
        RxMeta {
            ip_csum: csum(self.ip_checksum()),
            l4_csum: csum(self.l4_checksum()),
            vlan_tci: self.vlan_stripped(),
            chained: !self.is_contiguous(),
        }
    }

    #[inline]
    fn set_tx_offload(&mut self, offload: TxOffload) {
        self.request_tx(request(offload));
    }

    #[inline]
    fn free(frames: &mut [Option<Self>]) {
        Mbuf::free(frames);
    }

    #[inline]
    fn prefetch(&self) {
        Mbuf::prefetch(self);
    }
}

/// Out of line, for it to stay out of the registers of the loop that asks.
#[inline(never)]
fn marked(mbuf: &Mbuf) -> HeadInfo {
    HeadInfo::of(&mbuf.rx_meta(), mbuf.len())
}

#[inline]
const fn request(offload: TxOffload) -> TxRequest {
    let TxOffload { ip_csum, tcp_csum, ipv6, l2_len, l3_len, vlan_tci } = offload;
    TxRequest {
        l2_len,
        l3_len: l3_len as u16,
        ipv6,
        ipv4_checksum: ip_csum,
        tcp_checksum: tcp_csum,
        vlan_tci,
    }
}

const fn csum(said: Checksum) -> Csum {
    match said {
        Checksum::Unknown => Csum::Unknown,
        Checksum::Good => Csum::Good,
        Checksum::Bad => Csum::Bad,
        Checksum::Absent => Csum::None,
    }
}

/// The counter that the kernel tells the time by, if it trusts it.
#[derive(Clone, Copy, Debug)]
pub struct Tsc;

impl Ticks for Tsc {
    #[inline]
    fn now() -> u64 {
        dpdk::rdtsc()
    }
}

/// The machine's clock, which begins now: by the time stamp counter if that is what the kernel's clock is made of.
pub fn clock() -> Ticking<Tsc, RealClock> {
    let source = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let steady = source.is_ok_and(|source| matches!(source.trim(), "tsc" | "arch_sys_counter"));
    Ticking::new(RealClock::begin(), steady)
}

/// One queue pair of a started port, for one thread.
///
/// The port runs until its last queue is dropped; frames that are still out then are safe to drop later.
#[derive(Debug)]
pub struct DpdkIo {
    rx: RxQueue,
    tx: TxQueue,
    pool: Mempool,
    capabilities: Capabilities,
    stamps: Option<(RxTimestampField, Arc<ArrivalClock>)>,
    /// Lowered by the control thread while the link is down.
    link: Arc<AtomicBool>,
}

impl DpdkIo {
    /// Takes all queue pairs out of `port`, in order of queue id; `pool` is where frames from nothing come from.
    pub fn take_all(port: &mut Started, pool: &Mempool) -> Vec<Self> {
        let Offloads { tx_ipv4_checksum, tx_tcp_checksum, tx_vlan_insert, .. } = port.offloads();
        let capabilities =
            Capabilities { tx_ip_csum: tx_ipv4_checksum, tx_tcp_csum: tx_tcp_checksum, tx_vlan_insert };
        let (rx, tx) = (std::mem::take(&mut port.rx), std::mem::take(&mut port.tx));
        let link = Arc::new(AtomicBool::new(true));
        let queue = |(rx, tx)| {
            let (pool, link) = (pool.clone(), Arc::clone(&link));
            Self { rx, tx, pool, capabilities, stamps: None, link }
        };
        rx.into_iter().zip(tx).map(queue).collect()
    }

    /// The driver leaves the time of arrival at `field`, by the device's `clock`.
    pub fn stamp(&mut self, field: RxTimestampField, clock: Arc<ArrivalClock>) {
        self.stamps = Some((field, clock));
    }

    /// `link` says whether the link is up from now on.
    pub fn follow_link(&mut self, link: Arc<AtomicBool>) {
        self.link = link;
    }
}

impl DpdkIo {
    /// True if [`PacketIo::wait`] can wait for this queue.
    pub fn has_interrupt(&self) -> bool {
        self.rx.has_interrupt()
    }
}

impl PacketIo for DpdkIo {
    type Frame = Mbuf;

    #[inline]
    fn rx_burst(&mut self, into: &mut [Option<Mbuf>]) -> usize {
        self.rx.rx_burst(into)
    }

    #[inline]
    fn tx_burst(&mut self, from: &mut [Option<Mbuf>]) -> Sent {
        let dpdk::TxBurst { done, rejected } = self.tx.tx_burst(from);
        Sent { done, rejected }
    }

    #[inline]
    fn waited(&self, frames: &[Option<Mbuf>], waited: &mut [u64]) -> bool {
        let Some((field, clock)) = &self.stamps else { return false };
        clock.waited(frames.iter().flatten().map(|frame| frame.rx_timestamp(*field)), waited);
        true
    }

    #[inline]
    fn alloc(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }

    fn add_interrupt(&mut self) -> Result<(), String> {
        self.rx.add_interrupt().map_err(|error| error.to_string())
    }

    fn arm_interrupt(&mut self, on: bool) {
        self.rx.arm_interrupt(on);
    }

    fn wait(limit: Duration) {
        dpdk::wait_for_interrupt(limit);
    }

    #[inline]
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    #[inline]
    fn is_link_up(&self) -> bool {
        self.link.load(Ordering::Relaxed)
    }
}
