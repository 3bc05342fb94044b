//! One frame: an owning pointer to an `rte_mbuf`.
//!
//! Members are reached at offsets that the C compiler computed (dpdk-sys, bindings.h), so that reading a
//! frame costs no call and no layout of one release is copied here.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use dpdk_sys as sys;

/// A frame of which we are the only owner; dropping it gives all its segments back to their pool.
///
/// Pointer-sized, and so is `Option<Mbuf>`: a slice of them is DPDK's array of packets.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

const _: () = assert!(size_of::<Option<Mbuf>>() == size_of::<*mut sys::rte_mbuf>());
const _: () = assert!(align_of::<Option<Mbuf>>() == align_of::<*mut sys::rte_mbuf>());

// SAFETY: an mbuf has one owner (we never raise its reference count), and free is safe from any thread.
unsafe impl Send for Mbuf {}

/// Where in an mbuf a driver leaves the time of arrival, and how it says so: [`crate::Eal::rx_timestamp_field`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxTimestampField {
    /// Octets from the mbuf's begin to the 64-bit member.
    offset: usize,
    /// The bit in `ol_flags` of a frame that has one.
    flag: u64,
}

impl RxTimestampField {
    /// # Safety
    /// DPDK has given `offset` for a member of `rte_mbuf_timestamp_t` in every mbuf.
    pub(crate) const unsafe fn new(offset: usize, flag: u64) -> Self {
        Self { offset, flag }
    }
}

/// What the device says about a checksum of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The device did not look: verify it.
    Unknown,
    /// Looked at and wrong.
    Bad,
    /// Looked at and right.
    Good,
    /// Not right in the frame, but the data are known to be whole (a virtual link that left it out).
    Absent,
}

const _: () = {
    let (bad, good) = (sys::SHIM_MBUF_F_RX_IP_CKSUM_BAD, sys::SHIM_MBUF_F_RX_IP_CKSUM_GOOD);
    assert!(bad.count_ones() == 1 && good.count_ones() == 1);
    assert!(sys::SHIM_MBUF_F_RX_IP_CKSUM_NONE == bad | good);
    let (bad, good) = (sys::SHIM_MBUF_F_RX_L4_CKSUM_BAD, sys::SHIM_MBUF_F_RX_L4_CKSUM_GOOD);
    assert!(bad.count_ones() == 1 && good.count_ones() == 1);
    assert!(sys::SHIM_MBUF_F_RX_L4_CKSUM_NONE == bad | good);
};

/// What the device shall do to a frame on its way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxRequest {
    /// Bytes of the link header, tags in the data included; at most 127.
    pub l2_len: u8,
    /// Bytes of the IP header; at most 511.
    pub l3_len: u16,
    /// IPv6; otherwise IPv4.
    pub ipv6: bool,
    /// Fill in the IPv4 header checksum; the field must be 0.
    pub ipv4_checksum: bool,
    /// Fill in the TCP checksum; the field must hold the pseudo-header sum.
    pub tcp_checksum: bool,
    /// Put a VLAN tag with this TCI in.
    pub vlan_tci: Option<u16>,
}

impl Mbuf {
    /// # Safety
    /// `raw` is null, or a live mbuf with reference count 1 that nobody else will use or free.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: *mut sys::rte_mbuf) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    /// Where it lies; never 0.
    #[inline]
    pub(crate) fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// Pointer to the member at `offset`, one of `SHIM_MBUF_*`.
    #[inline]
    fn member<T>(&self, offset: sys::shim_mbuf_offset) -> *mut T {
        // SAFETY: the offsets are those of the C compiler, so inside the `rte_mbuf`, which is live while
        // `self` is.
        unsafe { self.0.as_ptr().cast::<u8>().add(offset as usize).cast::<T>() }
    }

    /// Reads the member at `offset`; `T` is the member's type at each call in this file.
    #[inline]
    fn get<T: Copy>(&self, offset: sys::shim_mbuf_offset) -> T {
        // SAFETY: live (see `member`), aligned as the compiler laid it out, and initialised by the pool or
        // the driver. No race: we are the only owner.
        unsafe { ptr::read(self.member::<T>(offset)) }
    }

    /// Writes the member at `offset`; the caller keeps the mbuf's invariants.
    #[inline]
    fn set<T: Copy>(&mut self, offset: sys::shim_mbuf_offset, value: T) {
        // SAFETY: as in `get`; `&mut self` excludes readers.
        unsafe { ptr::write(self.member::<T>(offset), value) }
    }

    /// Bytes of the first segment: the whole frame if [`Mbuf::is_contiguous`].
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.get::<u16>(sys::SHIM_MBUF_DATA_LEN))
    }

    /// Whether the first segment holds no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the whole frame, all segments together.
    #[inline]
    pub fn pkt_len(&self) -> usize {
        self.get::<u32>(sys::SHIM_MBUF_PKT_LEN) as usize
    }

    /// Segments of the frame; 1 but for scattered jumbo frames.
    #[inline]
    pub fn segments(&self) -> u16 {
        self.get(sys::SHIM_MBUF_NB_SEGS)
    }

    /// Whether [`Mbuf::data`] is the whole frame.
    #[inline]
    pub fn is_contiguous(&self) -> bool {
        self.segments() == 1
    }

    #[inline]
    fn data_ptr(&self) -> *mut u8 {
        let base: NonNull<u8> = self.get(sys::SHIM_MBUF_BUF_ADDR);
        // SAFETY: `data_off` is at most `buf_len` (the pool and the drivers see to it, and `prepend` and
        // `trim_front` below), so the pointer stays inside the buffer or one past it.
        unsafe { base.add(self.headroom()) }.as_ptr()
    }

    /// The bytes of the first segment.
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY:
        // - Bounds: `data_off + data_len <= buf_len`, kept by drivers and by every setter below.
        // - Initialised: pool memory comes zeroed from the kernel and is written by devices and by us.
        // - Aliasing and lifetime: the buffer belongs to this mbuf, which `self` owns and borrows here.
        unsafe { std::slice::from_raw_parts(self.data_ptr(), self.len()) }
    }

    /// The bytes of the first segment, to be rewritten in place.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`; `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.data_ptr(), self.len()) }
    }

    /// The first `N` bytes from the start of the data, as far as the buffer goes: those behind the end of
    /// [`Mbuf::data`] are whatever it held. None if it ends before.
    #[inline(always)]
    pub fn room<const N: usize>(&self) -> Option<&[u8; N]> {
        // SAFETY: bounds: there are `N` bytes between the start of the data and the end of the buffer. Initialised:
        // behind the data too, since pools and drivers' own buffers are memory that the kernel gave out zeroed.
        // Aliasing and lifetime: as in `data`.
        self.has_room(N).then(|| unsafe { &*self.data_ptr().cast() })
    }

    /// Makes the frame `len` bytes long, `N` at most, asks the device as by [`Mbuf::request_tx`], and returns the first `N` bytes
    /// from the start of the data, to be written. `None`, and nothing is changed, if the buffer has no room for them, or the
    /// frame has more than one segment.
    #[inline(always)]
    #[must_use]
    pub fn rewrite<const N: usize>(&mut self, len: usize, ask: TxRequest) -> Option<&mut [u8; N]> {
        // A copy of the pointer: what is written through it is then seen not to change it.
        let mbuf = &mut *ManuallyDrop::new(Self(self.0));
        if !mbuf.is_contiguous() || !mbuf.has_room(N) || len > N {
            return None;
        }
        mbuf.put_len(len);
        mbuf.request_tx(ask);
        // SAFETY: bounds and initialised: as in `room`. Aliasing: as in `data_mut`; the copy is gone.
        Some(unsafe { &mut *mbuf.data_ptr().cast() })
    }

    /// Whether there are `count` bytes between the start of the data and the end of the buffer.
    #[inline(always)]
    fn has_room(&self, count: usize) -> bool {
        self.headroom() + count <= usize::from(self.get::<u16>(sys::SHIM_MBUF_BUF_LEN))
    }

    /// Free bytes in front of the data.
    #[inline]
    pub fn headroom(&self) -> usize {
        usize::from(self.get::<u16>(sys::SHIM_MBUF_DATA_OFF))
    }

    /// Free bytes behind the data of the first segment.
    #[inline]
    pub fn tailroom(&self) -> usize {
        usize::from(self.get::<u16>(sys::SHIM_MBUF_BUF_LEN)).saturating_sub(self.headroom() + self.len())
    }

    /// Cuts or extends the frame at its end; bytes that come in are whatever the buffer held.
    ///
    /// `false`, and nothing is changed, if the buffer has no room for `len` or the frame has more than one
    /// segment.
    #[inline]
    #[must_use]
    pub fn set_len(&mut self, len: usize) -> bool {
        if !self.is_contiguous() || len > self.len() + self.tailroom() {
            return false;
        }
        self.put_len(len);
        true
    }

    /// Moves the start of the frame `count` bytes to the front; `false`, and nothing is changed, if there is
    /// no room.
    #[must_use]
    pub fn prepend(&mut self, count: usize) -> bool {
        if !self.is_contiguous() || count > self.headroom() {
            return false;
        }
        self.set(sys::SHIM_MBUF_DATA_OFF, (self.headroom() - count) as u16);
        self.put_len(self.len() + count);
        true
    }

    /// Takes `count` bytes off the front; `false`, and nothing is changed, if there are not that many.
    #[must_use]
    pub fn trim_front(&mut self, count: usize) -> bool {
        if !self.is_contiguous() || count > self.len() {
            return false;
        }
        self.set(sys::SHIM_MBUF_DATA_OFF, (self.headroom() + count) as u16);
        self.put_len(self.len() - count);
        true
    }

    /// Stores the length of a contiguous frame; at most `buf_len`, a u16, as the callers have checked.
    #[inline]
    fn put_len(&mut self, len: usize) {
        self.set(sys::SHIM_MBUF_DATA_LEN, len as u16);
        self.set(sys::SHIM_MBUF_PKT_LEN, len as u32);
    }

    /// Replaces the frame by `bytes`; `false`, and nothing is changed, if they do not fit.
    #[must_use]
    pub fn copy_from(&mut self, bytes: &[u8]) -> bool {
        if !self.set_len(bytes.len()) {
            return false;
        }
        self.data_mut().copy_from_slice(bytes);
        true
    }

    /// Offload flags as DPDK defines them (`RTE_MBUF_F_*`).
    #[inline]
    pub fn ol_flags(&self) -> u64 {
        self.get(sys::SHIM_MBUF_OL_FLAGS)
    }

    /// Whether the frame has one segment, of which the device says nothing: neither of a checksum nor of a tag that it took
    /// out.
    #[inline(always)]
    pub fn is_unmarked(&self) -> bool {
        const MARKS: u64 = sys::SHIM_MBUF_F_RX_IP_CKSUM_MASK
            | sys::SHIM_MBUF_F_RX_L4_CKSUM_MASK
            | sys::SHIM_MBUF_F_RX_VLAN_STRIPPED;
        self.is_contiguous() && self.ol_flags() & MARKS == 0
    }

    /// What the device says about the IPv4 header checksum.
    #[inline]
    pub fn ip_checksum(&self) -> Checksum {
        match self.ol_flags() & sys::SHIM_MBUF_F_RX_IP_CKSUM_MASK {
            sys::SHIM_MBUF_F_RX_IP_CKSUM_GOOD => Checksum::Good,
            sys::SHIM_MBUF_F_RX_IP_CKSUM_BAD => Checksum::Bad,
            sys::SHIM_MBUF_F_RX_IP_CKSUM_NONE => Checksum::Absent,
            _ => Checksum::Unknown,
        }
    }

    /// What the device says about the TCP or UDP checksum.
    #[inline]
    pub fn l4_checksum(&self) -> Checksum {
        match self.ol_flags() & sys::SHIM_MBUF_F_RX_L4_CKSUM_MASK {
            sys::SHIM_MBUF_F_RX_L4_CKSUM_GOOD => Checksum::Good,
            sys::SHIM_MBUF_F_RX_L4_CKSUM_BAD => Checksum::Bad,
            sys::SHIM_MBUF_F_RX_L4_CKSUM_NONE => Checksum::Absent,
            _ => Checksum::Unknown,
        }
    }

    /// The TCI of a VLAN tag that the device took out of the data; a tag that is still in is not told here.
    #[inline]
    pub fn vlan_stripped(&self) -> Option<u16> {
        (self.ol_flags() & sys::SHIM_MBUF_F_RX_VLAN_STRIPPED != 0).then(|| self.get(sys::SHIM_MBUF_VLAN_TCI))
    }

    /// The RSS hash, where the device delivers it.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        (self.ol_flags() & sys::SHIM_MBUF_F_RX_RSS_HASH != 0).then(|| self.get(sys::SHIM_MBUF_RSS))
    }

    /// Says what the device shall do on transmit. Replaces all flags, those of reception included.
    ///
    /// Ask only for what the port has enabled ([`crate::Offloads`]): a device ignores the rest silently.
    #[inline]
    pub fn request_tx(&mut self, ask: TxRequest) {
        // INDIRECT and EXTERNAL say to whom the buffer belongs: they decide how it is freed.
        let mut flags = self.ol_flags() & (sys::SHIM_MBUF_F_INDIRECT | sys::SHIM_MBUF_F_EXTERNAL);
        if ask.ipv4_checksum {
            flags |= sys::SHIM_MBUF_F_TX_IP_CKSUM;
        }
        if ask.tcp_checksum {
            flags |= sys::SHIM_MBUF_F_TX_TCP_CKSUM;
        }
        if ask.ipv4_checksum || ask.tcp_checksum {
            flags |= if ask.ipv6 { sys::SHIM_MBUF_F_TX_IPV6 } else { sys::SHIM_MBUF_F_TX_IPV4 };
        }
        if let Some(tci) = ask.vlan_tci {
            flags |= sys::SHIM_MBUF_F_TX_VLAN;
            self.set(sys::SHIM_MBUF_VLAN_TCI, tci);
        }
        // Without a flag the lengths mean nothing.
        if flags & !(sys::SHIM_MBUF_F_INDIRECT | sys::SHIM_MBUF_F_EXTERNAL) == 0 {
            self.set(sys::SHIM_MBUF_OL_FLAGS, flags);
            return;
        }
        let l2 = (u64::from(ask.l2_len) & mask(sys::RTE_MBUF_L2_LEN_BITS)) << sys::RTE_MBUF_L2_LEN_OFS;
        let l3 = (u64::from(ask.l3_len) & mask(sys::RTE_MBUF_L3_LEN_BITS)) << sys::RTE_MBUF_L3_LEN_OFS;
        self.set(sys::SHIM_MBUF_TX_OFFLOAD, l2 | l3);
        self.set(sys::SHIM_MBUF_OL_FLAGS, flags);
    }

    /// When the frame arrived, by the device's clock and in its unit, if the driver has said so.
    #[inline]
    pub fn rx_timestamp(&self, field: RxTimestampField) -> Option<u64> {
        // SAFETY: `field` was made of an offset at which DPDK keeps these eight octets of every mbuf free (its duty, see
        // `RxTimestampField::new`), aligned as they must be; the mbuf is live, and we are its only owner. A pool's memory
        // is initialised.
        let stamp = || unsafe { ptr::read(self.0.as_ptr().cast::<u8>().add(field.offset).cast::<u64>()) };
        (self.ol_flags() & field.flag != 0).then(stamp)
    }

    /// Stamps the frame as a driver does, for devices that a program is itself.
    #[inline]
    pub fn set_rx_timestamp(&mut self, field: RxTimestampField, stamp: u64) {
        // SAFETY: as in `rx_timestamp`; `&mut self` excludes readers.
        unsafe { ptr::write(self.0.as_ptr().cast::<u8>().add(field.offset).cast::<u64>(), stamp) };
        self.set(sys::SHIM_MBUF_OL_FLAGS, self.ol_flags() | field.flag);
    }

    /// Asks the CPU to bring the first cache line of the data closer. A hint: no effect but speed.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch never faults, whatever the address; SSE is part of x86-64.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.data_ptr().cast());
        }
    }
}

impl Mbuf {
    /// Gives all frames in `slots` back, as dropping each would, in one call.
    #[inline]
    pub fn free(slots: &mut [Option<Self>]) {
        let count = slots.len() as std::ffi::c_uint;
        // SAFETY: layout: a slot is one nullable pointer (asserted above), and DPDK passes over null ones. Ownership: as in
        // `drop`; all are forgotten below.
        unsafe { sys::rte_pktmbuf_free_bulk(slots.as_mut_ptr().cast(), count) };
        slots.iter_mut().for_each(|slot| std::mem::forget(slot.take()));
    }
}

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a live mbuf of ours alone, given back once: `self` is gone after this. Its pool is there
        // until the EAL stops, and the EAL does not stop while an mbuf is out.
        unsafe { sys::shim_rte_pktmbuf_free(self.0.as_ptr()) }
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("pkt_len", &self.pkt_len())
            .field("segments", &self.segments())
            .field("ol_flags", &format_args!("{:#x}", self.ol_flags()))
            .finish()
    }
}
