//! The memory that buckets lie in: zeroed, on cache-line borders, in huge pages where it is large.
//!
//! A random lookup in a table of megabytes misses the TLB as often as the cache; with 2-MiB pages a table of a million
//! keys takes eight TLB entries instead of four thousand. Transparent huge pages are asked for by madvise(2), which
//! needs no set-up and no right; where the kernel refuses, the table works on small pages. Pages come from the NUMA
//! node of the thread that touches them first, which is the writer that grew the table: on a machine with several
//! nodes, run the control thread on the workers' node.

use std::ops::Deref;

use super::Bucket;

/// An array of buckets.
pub(super) struct Memory(Kind);

enum Kind {
    Heap(Box<[Bucket]>),
    #[cfg(all(target_os = "linux", not(loom)))]
    Mapped(mapped::Mapped),
}

impl Memory {
    /// `buckets` empty buckets.
    pub(super) fn zeroed(buckets: usize) -> Self {
        #[cfg(all(target_os = "linux", not(loom)))]
        if let Some(mapped) = mapped::Mapped::new(buckets) {
            return Self(Kind::Mapped(mapped));
        }
        Self(Kind::Heap((0..buckets).map(|_| Bucket::default()).collect()))
    }
}

impl Deref for Memory {
    type Target = [Bucket];

    #[inline]
    fn deref(&self) -> &[Bucket] {
        match &self.0 {
            Kind::Heap(buckets) => buckets,
            #[cfg(all(target_os = "linux", not(loom)))]
            Kind::Mapped(mapped) => mapped.buckets(),
        }
    }
}

#[cfg(all(target_os = "linux", not(loom)))]
mod mapped {
    use std::ffi::c_void;
    use std::ptr::{self, NonNull};

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    use super::Bucket;

    const HUGE_PAGE: usize = 2 << 20;
    /// From this size on a table gets huge pages, of which it may leave the rest of the last unused: with small ones
    /// it would take more TLB entries than the first level has.
    const WORTH_IT: usize = 256 << 10;

    /// A private anonymous mapping that holds buckets from the first huge-page border on.
    pub(super) struct Mapped {
        mapping: NonNull<c_void>,
        mapping_len: usize,
        buckets: NonNull<Bucket>,
        len: usize,
    }

    impl Mapped {
        /// `None` for small tables, and where the kernel gives no memory.
        pub(super) fn new(len: usize) -> Option<Self> {
            let bytes = len.checked_mul(size_of::<Bucket>())?;
            if bytes < WORTH_IT {
                return None;
            }
            let bytes = bytes.checked_next_multiple_of(HUGE_PAGE)?;
            // Room to move up to a border.
            let mapping_len = bytes.checked_add(HUGE_PAGE)?;
            // SAFETY: a new private mapping at an address of the kernel's choice replaces nothing of ours.
            let mapping = unsafe {
                mmap_anonymous(
                    ptr::null_mut(),
                    mapping_len,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::PRIVATE,
                )
            };
            let mapping = NonNull::new(mapping.ok()?)?;
            let skip = mapping.as_ptr().cast::<u8>().align_offset(HUGE_PAGE);
            // SAFETY: bounds: `align_offset` skips less than HUGE_PAGE, by which the mapping is longer.
            let start = unsafe { mapping.cast::<u8>().add(skip) };
            // SAFETY: the range lies in our own new mapping; huge-page advice never changes what it holds. A refusal
            // costs speed only, so it is not looked at.
            let _ = unsafe { madvise(start.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
            Some(Self { mapping, mapping_len, buckets: start.cast(), len })
        }

        #[inline]
        pub(super) fn buckets(&self) -> &[Bucket] {
            // SAFETY:
            // - Bounds: `new` mapped `len` buckets from `buckets` on.
            // - Validity: the kernel zeroed them, and zero is a valid `Bucket`; they are aligned to a huge page.
            // - Aliasing: only shared references to the atomics in them are ever made.
            // - Lifetime: the mapping goes with `self`.
            unsafe { std::slice::from_raw_parts(self.buckets.as_ptr(), self.len) }
        }
    }

    // SAFETY: `Mapped` owns its mapping alone, and hands out shared references to atomics only.
    unsafe impl Send for Mapped {}
    // SAFETY: as above.
    unsafe impl Sync for Mapped {}

    impl Drop for Mapped {
        fn drop(&mut self) {
            // SAFETY: lifetime: the mapping is ours, and `&mut self` says that nobody looks at it any more. An error
            // would leave it mapped, which harms nobody.
            let _ = unsafe { munmap(self.mapping.as_ptr(), self.mapping_len) };
        }
    }
}
