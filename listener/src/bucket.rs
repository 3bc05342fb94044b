//! The table under the listening hash: cache-line buckets of 64-bit words, read without locks. The crate's one door to
//! `unsafe`, with [`simd`], [`memory`], [`slab`] and [`write`] behind it. Its soundness rests on safe code as well:
//! [`epoch`] decides when memory is given back.
//!
//! # Why a reader can never see half a listener
//! A key and its answer are *one* 64-bit word. An IPv4 address and a port are 48 bits. A keyed permutation ([`Mix`])
//! scrambles these into 48 other bits; the upper `b` of them choose one of `2^b` buckets, and what remains, 48 - `b` <=
//! 39 bits, names the key *exactly*: no two keys share both bucket and remainder, because a permutation maps no two to
//! one. So a word has room for the remainder, three flags and a 22-bit listener number:
//!
//! ```text
//!   63                       25  24        23         22    21        0
//!  [ remainder, left-aligned   | OCCUPIED | DISPLACED | LIST | number   ]
//! ```
//!
//! A reader loads the word with one load, and has the key and the answer of the same moment or has neither. There is no
//! second field that a writer could have changed in between, hence nothing to retry and no version to check; a slot
//! may be given to another key at once, since no reader ever combines two loads of it.
//!
//! Where the answer does not fit into the word (several listeners, a device, reuseport; always for IPv6, whose keys do
//! not fit either), LIST is set and the number is that of a node in a [`slab`]. A node is written completely, then the
//! word that names it is stored (Release); a reader that loads the word (Acquire) therefore sees the node complete. A
//! node never changes afterwards: an edit writes another node and stores another word. The old node is given back by
//! [`epoch::defer`] after every guard that was held at that moment is gone, so a reader, who holds one, may look
//! at it as long as it likes. The listener's own slot is held back in the same way by the hash above.
//!
//! # Where a key may stand, and why nobody overlooks one that stays
//! In a free slot of its first bucket; if there is none, DISPLACED in its second ([`Probe::second`]), which lies in the
//! same stripe. A reader scans the first bucket; if it does not find the key, it loads, afterwards, the bucket's byte of
//! [`Spilled`]; if that has the bit of the key's class, it scans the second. Three cache lines at most: no key, however
//! chosen, makes a lookup longer. Keys fall into eight classes, so that a miss seldom looks further.
//! A bit is set before the first key of its class is displaced from the bucket, and all are cleared after the last
//! displaced key is gone. To make room, a writer may displace a key that readers are looking for: it stores the copy in
//! the second bucket first, then the bit, and overwrites the first copy after (Release). A reader that misses the first
//! copy has loaded the overwriting word or a later one (Acquire), so it meets the bit, and its scan of the second bucket
//! finds the copy. Keys never move back, except by growth.
//!
//! # Growth
//! A writer that finds more than [`keys_before_growth`], or no room, takes all stripe locks, copies every word
//! into a table of twice the buckets, and publishes it with one pointer store (Release). Readers load the pointer once a
//! burst and go on in the old table if they are in it: its words stay as they were, and it is unmapped only after their
//! guards are gone. Numbers, nodes and their epochs are common to both. A table never shrinks.
//!
//! # Hash and attack
//! The permutation is multiply, fold, multiply modulo 2^48 with secret odd factors: two multiplications, which vector
//! units do eight at a time. CRC32-C is as fast but linear: whoever knows two colliding keys knows all, whatever the
//! seed. Here the fold between the products makes differences of keys depend on the secret. Nothing that the packet path
//! sends shows a hash; what is left to an attacker is time, and a lookup varies by one cache line. Someone who
//! can open listeners may hope to fill two buckets: the table then grows, but not below an eighth of its
//! room taken, so that even known factors buy [`Full`], not memory.

mod direct;
mod explain;
mod lanes;
mod memory;
mod simd;
mod slab;
#[cfg(all(test, not(loom)))]
mod tests;
mod write;

use std::marker::PhantomData;

use crate::sync::epoch::{self, Guard};
use crate::sync::{Arc, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Mutex, Ordering};
use crate::types::{InetAddr, ListenerId, TcpPort};

pub(crate) use direct::{Direct, Wild, Wilds};
pub(crate) use lanes::{LaneSet, Lanes};
pub(crate) use simd::{Columns, Kernel, Keys};
pub use simd::{Row, Square};

use memory::Memory;
use slab::Slab;

/// Words in a bucket: one cache line. loom's buckets are small, as each word costs the model time.
const SLOTS: usize = if cfg!(loom) { 2 } else { 8 };
/// Keys that a table of `2^bits` buckets takes before it grows. With 3.5 a bucket, one key in 250 is displaced, and costs a
/// lookup 40 ns more; with 5 it is one in 40. Above 2 MiB a smaller table is worth that, for it leaves the cache later.
const fn keys_before_growth(bits: u32) -> usize {
    match bits {
        _ if cfg!(loom) => 2 << bits,
        ..15 => (7 << bits) / 2,
        _ => 5 << bits,
    }
}
/// Buckets at least, as a power of two: with fewer, a remainder would not fit its word. 32 KiB.
const BITS_MIN: u32 = if cfg!(loom) { 2 } else { 9 };
/// Buckets at most, as a power of two: 256 MiB, room for five times the numbers there are.
const BITS_MAX: u32 = 22;
/// Writers' locks, as a power of two: the upper bits of a bucket's number choose.
const STRIPE_BITS: u32 = if cfg!(loom) { 0 } else { 6 };
/// Keys of one pass of a burst: their hashes lie in four cache lines.
pub(crate) const LANES: usize = if cfg!(loom) { 1 } else { 32 };

const NUMBER: u64 = (1 << 22) - 1;
const LIST: u64 = 1 << 22;
const DISPLACED: u64 = 1 << 23;
const OCCUPIED: u64 = 1 << 24;
const REMAINDER: u64 = !((1 << 25) - 1);

/// The table has no room for a key, or its slab none for a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Eight words in one cache line.
#[derive(Default)]
#[repr(C, align(64))]
struct Bucket([AtomicU64; SLOTS]);

/// The size of a bucket, as a power of two: 64 bytes, if loom does not watch.
const BUCKET_SHIFT: u32 = size_of::<Bucket>().trailing_zeros();
const _: () = assert!(size_of::<Bucket>() == 1 << BUCKET_SHIFT && (cfg!(loom) || BUCKET_SHIFT == 6));

/// The keyed functions that scatter keys. Hashes are 48 bits, left-aligned.
#[derive(Clone, Copy)]
pub(crate) struct Mix {
    add: u64,
    factors: [u64; 2],
    six: [u64; 3],
}

impl Mix {
    /// The functions that belong to `secret`.
    pub(crate) fn new(secret: &[u64; 6]) -> Self {
        let [add, one, two, six @ ..] = *secret;
        // Multiplied are left-aligned 48-bit numbers: an odd factor is then a bijection modulo 2^48.
        Self { add: add & !0xffff, factors: [one | 1, two | 1], six: six.map(|word| word | 1) }
    }

    /// An IPv4 key before the permutation.
    #[inline(always)]
    const fn raw_v4(addr: u32, port: TcpPort) -> u64 {
        (addr as u64) << 32 | (port.0 as u64) << 16
    }

    /// The permutation: bijective on left-aligned 48-bit numbers.
    #[inline(always)]
    const fn v4(&self, raw: u64) -> u64 {
        let once = (raw ^ self.add).wrapping_mul(self.factors[0]);
        // The upper half goes into the lower, which the second product carries up again.
        let folded = once ^ (once >> 24 & !0xffff);
        let hash = folded.wrapping_mul(self.factors[1]);
        // loom's tables are too small for remainders of 39 bits; its few test keys do without the last bits.
        if cfg!(loom) { hash & REMAINDER } else { hash }
    }

    /// Where an address and port stand: exact for IPv4; for IPv6 others may share it.
    #[inline]
    pub(crate) fn hash(&self, addr: InetAddr, port: TcpPort) -> u64 {
        match addr.as_v4() {
            Some(v4) => self.v4(Self::raw_v4(v4, port)),
            None => self.v6(addr, port),
        }
    }

    /// First and second bucket of a key in the smallest table, for tests that want keys to meet.
    #[cfg(loom)]
    pub(crate) fn buckets(&self, addr: InetAddr, port: TcpPort) -> (usize, usize) {
        let hash = self.hash(addr, port);
        let first = (hash >> (64 - BITS_MIN)) as usize;
        (first, Probe::second(BITS_MIN, first, (hash << BITS_MIN) & REMAINDER))
    }

    /// The number of the lock of the stripe that a hash belongs to.
    const fn stripe(hash: u64) -> usize {
        (hash >> 1 >> (63 - STRIPE_BITS)) as usize
    }

    #[inline]
    fn v6(&self, addr: InetAddr, port: TcpPort) -> u64 {
        let [a, b, c] = self.six;
        let net = fold(addr.hi() ^ a, b);
        let host = fold(addr.lo() ^ b ^ net, c);
        fold(host ^ u64::from(port.0), a) & if cfg!(loom) { REMAINDER } else { !0xffff }
    }
}

/// Both halves of the 128-bit product, folded together.
#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// What a word is compared with.
struct Probe;

impl Probe {
    /// From this bit up a word equals [`Probe::one`] if it names one listener outright.
    const ONE_BITS: u32 = LIST.trailing_zeros();
    /// From this bit up a word equals [`Probe::one`] if it holds the key, in whatever form.
    const ANY_BITS: u32 = DISPLACED.trailing_zeros();

    /// Three bits from here up are a key's class.
    const CLASS_BIT: u32 = 40;

    /// The key in its first bucket.
    #[inline(always)]
    const fn one(bits: u32, hash: u64) -> u64 {
        hash << bits | OCCUPIED
    }

    /// The bit of the key's class in [`Spilled`]: of bits that remainders have in the largest table too, and that do not
    /// choose the second bucket.
    #[inline(always)]
    const fn class(probe: u64) -> u32 {
        (probe >> Self::CLASS_BIT) as u32 & 7
    }

    /// The number of the other bucket of the key with this remainder, seen from either: in the same stripe.
    #[inline]
    const fn second(bits: u32, bucket: usize, remainder: u64) -> usize {
        bucket ^ ((remainder >> (64 - (bits - STRIPE_BITS))) as usize | 1)
    }
}

/// A word per lane. On line borders: a vector that straddles two lines is stored and loaded in two.
#[repr(align(64))]
struct Column([u64; LANES]);

impl Column {
    const ZERO: Self = Self([0; LANES]);

    /// The words of step `at`.
    #[inline(always)]
    fn step(&self, at: usize) -> &[u64; simd::STEP] {
        &self.0.as_chunks().0[at]
    }

    #[inline(always)]
    fn step_mut(&mut self, at: usize) -> &mut [u64; simd::STEP] {
        &mut self.0.as_chunks_mut().0[at]
    }
}

/// How many bytes from the first bucket of all the first bucket of a hash lies.
#[inline(always)]
const fn place(bits: u32, hash: u64) -> u64 {
    (hash >> (64 - bits)) << BUCKET_SHIFT
}

/// A byte per bucket: bit `c` is set if a key of class `c` may be displaced from it.
type Spilled = [AtomicU8];

/// True if the key may be displaced from the bucket whose byte this is. Acquire; to be asked after the bucket was looked at.
#[inline(always)]
fn may_be_displaced(spilled: &AtomicU8, probe: u64) -> bool {
    spilled.load(Ordering::Acquire) >> Probe::class(probe) & 1 != 0
}

/// A table of one size. Its buckets are read by everybody and written under the stripes' locks.
///
/// Invariant, set up by [`Buckets::new`] and never changed: `memory` and `spilled` have `2^bits` elements each.
struct Buckets {
    bits: u32,
    memory: Memory,
    spilled: Box<Spilled>,
}

/// What a key holds.
#[derive(Debug)]
pub(crate) enum Held<N> {
    /// One listener, named in the word.
    One(ListenerId),
    /// What `N` says.
    List(N),
}

/// A table; see the module's head. `N` is what a node holds.
pub(crate) struct Table<N> {
    buckets: AtomicPtr<Buckets>,
    keys: AtomicUsize,
    keys_max: usize,
    stripes: Box<[Mutex<write::Stripe>]>,
    nodes: Arc<Slab<N>>,
    /// The pointer above owns its table.
    owns: PhantomData<Box<Buckets>>,
}

impl<N> Drop for Table<N> {
    fn drop(&mut self) {
        // SAFETY: lifetime: `&mut self` says that no reader is left; the pointer is the last table published, made by
        // `Box::into_raw`, and those before it went to `epoch::defer`.
        drop(unsafe { Box::from_raw(self.buckets.load(Ordering::Relaxed)) });
    }
}

impl<N> Table<N> {
    /// Keys in the table; a hint while writers are at work, but never 0 while a key stays.
    #[inline]
    pub(crate) fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// The table as it is now. What it answers is valid while `guard` is held.
    #[inline]
    pub(crate) fn view<'g>(&'g self, _guard: &'g Guard) -> View<'g, N> {
        let buckets = self.buckets.load(Ordering::Acquire);
        // SAFETY:
        // - Validity: the pointer came from `Box::into_raw` of a complete table, stored with Release.
        // - Lifetime: a table is dropped through `epoch::defer` after its successor was published, hence after the
        //   guard that the caller has held since before the load; the last one goes with `self`.
        let buckets = unsafe { &*buckets };
        View::of(buckets, &self.nodes)
    }
}

/// A table of one size, with its nodes, under a guard.
///
/// Invariant, that of [`Buckets`], from which [`View::of`] alone makes it: `memory` and `spilled` have `2^bits` elements each.
pub(crate) struct View<'g, N> {
    memory: &'g [Bucket],
    spilled: &'g Spilled,
    bits: u32,
    nodes: &'g Slab<N>,
}

impl<N> Clone for View<'_, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N> Copy for View<'_, N> {}

/// A word that held the key when it was loaded.
///
/// Invariant, the duty of [`Entry::new`]'s callers: the word was loaded from a table of these nodes within 'g.
pub(crate) struct Entry<'g, N> {
    word: u64,
    nodes: &'g Slab<N>,
}

impl<'g, N> Entry<'g, N> {
    /// # Safety
    /// Lifetime: `word` was loaded (Acquire, or under its stripe's lock) from a bucket of the table that `nodes` belongs
    /// to, after the guard or lock was taken that 'g stands for.
    #[inline(always)]
    unsafe fn new(word: u64, nodes: &'g Slab<N>) -> Self {
        Self { word, nodes }
    }

    /// What it says.
    #[inline]
    pub(crate) fn held(&self) -> Option<Held<&'g N>> {
        let number = (self.word & NUMBER) as u32;
        if self.word & LIST == 0 {
            return Some(Held::One(ListenerId(number)));
        }
        // SAFETY: lifetime: by the invariant the word named the node under the guard or lock that 'g stands for; the node is
        // released through `epoch::defer` after its word was overwritten, hence after 'g.
        unsafe { self.nodes.get(number) }.map(Held::List)
    }

    /// Asks for the node's line, if it is a list.
    #[inline]
    pub(crate) fn prefetch(&self) {
        if self.word & LIST != 0 {
            self.nodes.prefetch((self.word & NUMBER) as u32);
        }
    }
}

impl<'g, N> View<'g, N> {
    fn of(buckets: &'g Buckets, nodes: &'g Slab<N>) -> Self {
        Self { memory: &buckets.memory, spilled: &buckets.spilled, bits: buckets.bits, nodes }
    }

    /// The number of the first bucket: below `2^bits`.
    #[inline(always)]
    fn first(&self, hash: u64) -> usize {
        (hash >> (64 - self.bits)) as usize
    }

    /// The number of the second bucket: below `2^bits`, for [`Probe::second`] flips fewer bits than that.
    #[inline(always)]
    fn second(&self, hash: u64) -> usize {
        Probe::second(self.bits, self.first(hash), hash << self.bits)
    }

    #[inline(always)]
    fn first_bucket(&self, hash: u64) -> &'g Bucket {
        // SAFETY: bounds: the invariant, and the promise of `first`.
        unsafe { self.memory.get_unchecked(self.first(hash)) }
    }

    #[inline(always)]
    fn second_bucket(&self, hash: u64) -> &'g Bucket {
        // SAFETY: bounds: the invariant, and the promise of `second`.
        unsafe { self.memory.get_unchecked(self.second(hash)) }
    }

    /// [`may_be_displaced`] of the key with this hash.
    #[inline(always)]
    fn may_be_displaced(&self, hash: u64) -> bool {
        // SAFETY: bounds: the invariant, and the promise of `first`.
        may_be_displaced(unsafe { self.spilled.get_unchecked(self.first(hash)) }, Probe::one(self.bits, hash))
    }

    /// Asks for the first bucket's line.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        simd::prefetch(std::ptr::from_ref(self.first_bucket(hash)).cast());
    }

    /// Asks for the second bucket's line.
    #[inline]
    pub(crate) fn prefetch_second(&self, hash: u64) {
        simd::prefetch(std::ptr::from_ref(self.second_bucket(hash)).cast());
    }

    /// Asks for the node that the first bucket names for this hash, if it does.
    #[inline]
    pub(crate) fn prefetch_node(&self, hash: u64) {
        let probe = Probe::one(self.bits, hash);
        for word in &self.first_bucket(hash).0 {
            let word = word.load(Ordering::Acquire);
            if (word ^ probe) >> Probe::ANY_BITS == 0 {
                // SAFETY: loaded just now, under the guard of 'g.
                unsafe { Entry::new(word, self.nodes) }.prefetch();
            }
        }
    }

    /// Looks the keys of a burst up as far as single words answer; see [`simd`]'s pass.
    #[inline]
    pub(crate) fn exact_pass(
        &self,
        kernel: Kernel,
        wild: Option<Wilds<'_>>,
        mix: &Mix,
        keys: impl Keys,
        found: &mut [Option<ListenerId>],
    ) -> Lanes {
        kernel.exact_pass(*self, wild, mix, keys, found)
    }

    /// The word that holds the key with this hash, in its first bucket or its second. A list is asked by `same` whether
    /// it is that key's: with IPv4 it always is.
    #[inline]
    pub(crate) fn find(&self, hash: u64, same: impl Fn(&N) -> bool) -> Option<Entry<'g, N>> {
        let probe = Probe::one(self.bits, hash);
        if let Some(entry) = self.scan(self.first_bucket(hash), probe, &same) {
            return Some(entry);
        }
        // Only now, see the module's head.
        if !self.may_be_displaced(hash) {
            return None;
        }
        self.scan(self.second_bucket(hash), probe | DISPLACED, &same)
    }

    #[inline]
    fn scan(&self, bucket: &'g Bucket, probe: u64, same: &impl Fn(&N) -> bool) -> Option<Entry<'g, N>> {
        bucket.0.iter().find_map(|word| {
            let word = word.load(Ordering::Acquire);
            if (word ^ probe) >> Probe::ANY_BITS != 0 {
                return None;
            }
            // SAFETY: loaded just now, under the guard of 'g, from a bucket of this view: the callers' are.
            let entry = unsafe { Entry::new(word, self.nodes) };
            match entry.held()? {
                Held::List(node) if !same(node) => None,
                _ => Some(entry),
            }
        })
    }
}
