//! Pools of mbufs.

use std::ffi::CString;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use dpdk_sys as sys;

use crate::eal::PoolPtr;
use crate::{DpdkError, Eal, Mbuf, NumaNode};

/// DPDK's own advice for the per-lcore cache, and half of what it allows.
const CACHE: u32 = 256;
const EINVAL: i32 = 22;
/// Frame bytes of an mbuf: DPDK's default, and the least that some drivers take without scatter.
pub const DATA_ROOM: u16 = 2048;

/// How many mbufs a pool needs so that no queue can starve another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolNeed {
    /// Receive queues that are filled from the pool.
    pub rx_queues: u32,
    /// Descriptors of each; all hold an mbuf at all times.
    pub rx_desc: u32,
    /// Transmit queues that frames of the pool are sent on.
    pub tx_queues: u32,
    /// Descriptors of each; all may hold an mbuf that is sent but not yet given back.
    pub tx_desc: u32,
    /// Threads that alloc and free, each with a cache.
    pub workers: u32,
    /// Frames that a worker holds at a time.
    pub burst: u32,
    /// Frame bytes of an mbuf: [`DATA_ROOM`], or what a longer frame needs.
    pub data_room: u16,
}

impl PoolNeed {
    /// A cache holds up to one and a half times its size before it is flushed.
    const CACHED: u32 = CACHE + CACHE / 2;

    /// The sum that [`PoolNeed`]'s `Display` shows.
    pub fn mbufs(&self) -> u32 {
        (self.rx_queues * self.rx_desc)
            .saturating_add(self.tx_queues * self.tx_desc)
            .saturating_add(self.workers * (Self::CACHED + self.burst))
    }

    /// Memory of such a pool, in megabytes rounded up: per mbuf its header, headroom and data, and the
    /// pool's own bookkeeping.
    pub fn megabytes(&self) -> u32 {
        const REST: u64 = 128 + sys::RTE_PKTMBUF_HEADROOM as u64 + 128;
        u32::try_from((u64::from(self.mbufs()) * (REST + u64::from(self.data_room))).div_ceil(1 << 20))
            .unwrap_or(u32::MAX)
    }
}

impl fmt::Display for PoolNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let long = match self.data_room {
            DATA_ROOM => String::new(),
            room => format!(" for frames of up to {room} bytes"),
        };
        write!(
            f,
            "{} rx queues x {} + {} tx queues x {} + {} workers x ({} cached + {} in a burst) = {} mbufs{long}, {} MB",
            self.rx_queues,
            self.rx_desc,
            self.tx_queues,
            self.tx_desc,
            self.workers,
            Self::CACHED,
            self.burst,
            self.mbufs(),
            self.megabytes()
        )
    }
}

/// A pool of mbufs. Clones share it; it lives until the EAL stops, for an [`Mbuf`] does not keep it alive.
#[derive(Clone)]
pub struct Mempool {
    raw: NonNull<sys::rte_mempool>,
    size: u32,
    _eal: Eal,
}

// SAFETY: alloc, free and count are multi-producer, multi-consumer (the default ops of
// `rte_pktmbuf_pool_create`), and caches are per lcore; the pool outlives `_eal`.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Eal {
    /// Makes a pool of `mbufs` mbufs of [`DATA_ROOM`] data bytes on `node`; [`PoolNeed`] says how many.
    ///
    /// # Errors
    /// As [`Eal::mempool_for`].
    pub fn mempool(&self, mbufs: u32, node: NumaNode) -> Result<Mempool, DpdkError> {
        self.mempool_for(DATA_ROOM, mbufs, node)
    }

    /// The same with `data_room` bytes for the frame.
    ///
    /// # Errors
    /// ENOMEM, or ENOBUFS where what is left is in pieces too small: hugepages or the megabytes of [`crate::Memory::NoHuge`] do
    /// not suffice. EINVAL: the mbuf would be longer than its 16-bit length can say.
    pub fn mempool_for(&self, data_room: u16, mbufs: u32, node: NumaNode) -> Result<Mempool, DpdkError> {
        const CALL: &str = "rte_pktmbuf_pool_create";
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mbufs{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let subject = format!("{mbufs} mbufs on NUMA node {node}");
        let name = CString::new(name).unwrap_or_default();
        // The cache may hold 1.5 times its size and must leave the pool something.
        let cache = if mbufs >= 4 * CACHE { CACHE } else { 0 };
        let room = data_room.checked_add(sys::RTE_PKTMBUF_HEADROOM as u16).ok_or_else(|| {
            DpdkError::from_rc(CALL, EINVAL)
                .on(&subject)
                .hint([format!("{data_room} data bytes are too many")])
        })?;
        let mut state = self.state();
        // SAFETY: the name is a C string that DPDK copies; the EAL runs while `self` lives; `state` is locked.
        let raw =
            unsafe { sys::rte_pktmbuf_pool_create(name.as_ptr(), mbufs, cache, 0, room, node.socket_id()) };
        let raw = NonNull::new(raw).ok_or_else(|| {
            DpdkError::from_rte_errno(CALL)
                .on(&subject)
                .hint(["give the process more memory, or ask for fewer queues or descriptors".into()])
        })?;
        state.pools.push(PoolPtr(raw));
        Ok(Mempool { raw, size: mbufs, _eal: self.clone() })
    }
}

impl Mempool {
    /// An mbuf without data (`len` 0, default headroom), or `None` when the pool is empty.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives; an mbuf that DPDK hands out is live, reset, and ours alone.
        unsafe { Mbuf::from_raw(sys::shim_rte_pktmbuf_alloc(self.raw.as_ptr())) }
    }

    /// Fills `slots`, all of which must be empty, with mbufs: all of them or, `false`, none.
    pub fn alloc_bulk(&self, slots: &mut [Option<Mbuf>]) -> bool {
        assert!(slots.iter().all(Option::is_none), "a full slot would leak its mbuf");
        let Ok(count) = u32::try_from(slots.len()) else { return false };
        let pkts = slots.as_mut_ptr().cast::<*mut sys::rte_mbuf>();
        // SAFETY:
        // - Layout and bounds: an `Option<Mbuf>` is one nullable pointer, and `slots` has `count` of them.
        // - Ownership: on 0 all are live mbufs of ours alone; otherwise DPDK writes nothing.
        unsafe { sys::shim_rte_pktmbuf_alloc_bulk(self.raw.as_ptr(), pkts, count) == 0 }
    }

    /// Mbufs in the pool at its making.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Mbufs that are out: in queues, in bursts, in hands. Walks all caches: not for the packet path.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives; the count reads atomics and is a snapshot.
        unsafe { sys::rte_mempool_in_use_count(self.raw.as_ptr()) }
    }

    /// Mbufs that are there to be had. Walks all caches: not for the packet path.
    pub fn available(&self) -> u32 {
        // SAFETY: as in `in_use`.
        unsafe { sys::rte_mempool_avail_count(self.raw.as_ptr()) }
    }

    /// Data bytes of one mbuf behind the default headroom.
    pub fn data_room(&self) -> u16 {
        // SAFETY: the pool lives; reads a constant of it.
        let room = unsafe { sys::shim_rte_pktmbuf_data_room_size(self.raw.as_ptr()) };
        room.saturating_sub(sys::RTE_PKTMBUF_HEADROOM as u16)
    }

    /// DPDK's own pointer, for calls that this crate does not wrap.
    pub fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.raw.as_ptr()
    }
}

impl fmt::Debug for Mempool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mempool").field("size", &self.size).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_need_shows_its_sum() {
        let need = PoolNeed {
            rx_queues: 2,
            rx_desc: 1024,
            tx_queues: 2,
            tx_desc: 512,
            workers: 2,
            burst: 32,
            data_room: DATA_ROOM,
        };
        assert_eq!(need.mbufs(), 2048 + 1024 + 2 * (384 + 32));
        assert!(need.to_string().contains("= 3904 mbufs, 10 MB"), "{need}");
        let jumbo = PoolNeed { data_room: 9216, ..need };
        assert!(jumbo.to_string().contains("= 3904 mbufs for frames of up to 9216 bytes, 36 MB"), "{jumbo}");
    }
}
