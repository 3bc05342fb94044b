//! DPDK's `rte_hash` with lock-free readers: a peer for benchmarks, no part of the packet path.

use std::ffi::{CString, c_void};
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use dpdk_sys as sys;

use crate::{DpdkError, Eal, NumaNode};

/// Most keys of one [`RteHash::lookup_bulk`].
pub const HASH_BULK_MAX: usize = sys::RTE_HASH_LOOKUP_BULK_MAX as usize;

/// A cuckoo hash from keys of `N` bytes to one word. Readers take no lock; writers take the handle's.
///
/// DPDK's own writer lock (`MULTI_WRITER_ADD`) comes with caches that are indexed by lcore id, out of bounds
/// on a thread that DPDK does not know: hence ours.
pub struct RteHash<const N: usize> {
    raw: NonNull<sys::rte_hash>,
    writer: Mutex<()>,
    _eal: Eal,
}

// SAFETY: created with RW_CONCURRENCY_LF, so any number of readers may run beside one writer, and `writer`
// lets in one.
unsafe impl<const N: usize> Send for RteHash<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for RteHash<N> {}

impl Eal {
    /// Makes a table for `entries` keys (DPDK wants some room to spare: ask for a quarter more than needed).
    ///
    /// # Errors
    /// ENOMEM: not enough memory. EINVAL: more entries than DPDK takes (2^30).
    pub fn rte_hash<const N: usize>(&self, entries: u32, node: NumaNode) -> Result<RteHash<N>, DpdkError> {
        const CALL: &str = "rte_hash_create";
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = CString::new(format!("hash{}", NEXT.fetch_add(1, Ordering::Relaxed))).unwrap_or_default();
        let parameters = sys::rte_hash_parameters {
            name: name.as_ptr(),
            entries,
            key_len: N as u32,
            socket_id: node.socket_id(),
            extra_flag: sys::RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF as u8,
            ..Default::default()
        };
        let _one_at_a_time = self.state();
        // SAFETY: parameters and name outlive the call, which copies them; a null hash function means
        // DPDK's own; the EAL runs while `self` lives.
        let raw = unsafe { sys::rte_hash_create(&parameters) };
        let raw = NonNull::new(raw)
            .ok_or_else(|| DpdkError::from_rte_errno(CALL).on(&format!("{entries} keys of {N} bytes")))?;
        Ok(RteHash { raw, writer: Mutex::new(()), _eal: self.clone() })
    }
}

impl<const N: usize> RteHash<N> {
    /// Stores `value` under `key`, replacing what was there.
    ///
    /// # Errors
    /// ENOSPC: the table is full.
    pub fn add(&self, key: &[u8; N], value: usize) -> Result<(), DpdkError> {
        let _one_writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the table lives; it was made for keys of N bytes, which are copied; the value is never
        // followed as a pointer.
        let rc = unsafe {
            sys::rte_hash_add_key_data(
                self.raw.as_ptr(),
                key.as_ptr().cast(),
                std::ptr::without_provenance_mut::<c_void>(value),
            )
        };
        DpdkError::check("rte_hash_add_key_data", "", rc)
    }

    /// Removes `key`; whether it was there. Its slot is free for reuse at once, so a reader that is just
    /// comparing keys may miss or meet its successor.
    pub fn remove(&self, key: &[u8; N]) -> bool {
        let _one_writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as in `add`; the position is the one that the removal answered with.
        unsafe {
            let position = sys::rte_hash_del_key(self.raw.as_ptr(), key.as_ptr().cast());
            position >= 0 && sys::rte_hash_free_key_with_position(self.raw.as_ptr(), position) >= 0
        }
    }

    /// What `key` stands for.
    pub fn lookup(&self, key: &[u8; N]) -> Option<usize> {
        let mut value = std::ptr::null_mut();
        // SAFETY: as in `add`; DPDK writes one pointer to `value`.
        let rc = unsafe { sys::rte_hash_lookup_data(self.raw.as_ptr(), key.as_ptr().cast(), &mut value) };
        (rc >= 0).then(|| value.addr())
    }

    /// Looks up to [`HASH_BULK_MAX`] keys up at once. Bit `i` of the answer says whether `keys[i]` was
    /// there; then `values[i]` is what it stands for.
    ///
    /// # Panics
    /// If there are no keys, too many, or fewer values than keys.
    #[inline]
    pub fn lookup_bulk(&self, keys: &[[u8; N]], values: &mut [usize]) -> u64 {
        assert!(!keys.is_empty() && keys.len() <= HASH_BULK_MAX && values.len() >= keys.len());
        // Not zeroed first: that would cost every call, and DPDK reads `keys.len()` of them only.
        let mut pointers = [const { MaybeUninit::<*const c_void>::uninit() }; HASH_BULK_MAX];
        for (pointer, key) in pointers.iter_mut().zip(keys) {
            pointer.write(key.as_ptr().cast());
        }
        let mut hits = 0;
        // SAFETY:
        // - `keys.len()` pointers to N bytes each, written above, borrowed until the call is over.
        // - DPDK writes a word per hit to `values`, which has that many; a usize has a pointer's size.
        unsafe {
            sys::rte_hash_lookup_bulk_data(
                self.raw.as_ptr(),
                pointers.as_mut_ptr().cast(),
                keys.len() as u32,
                &mut hits,
                values.as_mut_ptr().cast(),
            );
        }
        hits
    }

    /// Keys in the table.
    pub fn len(&self) -> usize {
        // SAFETY: the table lives; the count is a snapshot.
        usize::try_from(unsafe { sys::rte_hash_count(self.raw.as_ptr()) }).unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<const N: usize> Drop for RteHash<N> {
    fn drop(&mut self) {
        let _one_at_a_time = self._eal.state();
        // SAFETY: the only owner; no borrow of ours is left; the EAL still runs.
        unsafe { sys::rte_hash_free(self.raw.as_ptr()) }
    }
}

impl<const N: usize> fmt::Debug for RteHash<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RteHash").field("len", &self.len()).finish_non_exhaustive()
    }
}
