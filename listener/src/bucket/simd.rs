//! The compares of a lookup, once per instruction set, and the choice among them at run time.
//!
//! All sets run the same passes, [`exact_pass`], and differ in [`Isa`] alone. A test holds every set that the machine has
//! against the portable one.
//!
//! # The compare
//! A word that names the probed key outright differs from the probe in its lowest 22 bits only, which are the answer;
//! a list differs below bit 23, anything else above. So the least of a bucket's eight differences tells all there is
//! to tell: no mask, no search, no second load. AVX-512 takes the least of eight buckets at once.
//!
//! # Vector loads and races
//! Writers change words while vector loads read them. A plain vector load would be a data race in Rust's memory model,
//! so the loads are inline assembly: to the model, eight atomic loads of unsaid order. The hardware keeps its side:
//! x86-64 never tears an aligned 64-bit element of a vector load that stays within one cache line, and does not let a
//! later load pass an earlier one. No conclusion is drawn from two words of one vector load: a hit is one word, and
//! whether a key is displaced is asked in another load, later.

use super::{BUCKET_SHIFT, Bucket, Column, LANES, LaneSet, Lanes, Mix, Probe, Spilled, View, Wilds};
use crate::inet_hashtables::ListenKey;
use crate::sync::{AtomicU8, Ordering};
use crate::types::{ListenerId, TcpPort};
pub(crate) use keys::{Columns, Keys};
use pass::{exact_pass, wild_pass};

/// An instruction set that this machine has been seen to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel(Choice);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
    Avx512,
    #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
    Avx2,
    #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
    Sse42,
    Portable,
}

impl Kernel {
    /// The portable set: any machine, eight scalar loads per bucket.
    pub(crate) const PORTABLE: Self = Self(Choice::Portable);

    /// Every set that this machine has, the best first and [`Kernel::PORTABLE`] last.
    pub(crate) fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut sets = Vec::new();
        #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("popcnt")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("movbe")
            {
                sets.push(Self(Choice::Avx512));
            }
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("popcnt")
            {
                sets.push(Self(Choice::Avx2));
            }
            if is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt") {
                sets.push(Self(Choice::Sse42));
            }
        }
        sets.push(Self::PORTABLE);
        sets
    }

    /// The best set that this machine has.
    pub(crate) fn best() -> Self {
        Self::available()[0]
    }

    /// As the bench prints it.
    pub(crate) const fn name(self) -> &'static str {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
            Choice::Avx512 => "avx512",
            #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
            Choice::Avx2 => "avx2",
            #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
            Choice::Sse42 => "sse4.2",
            Choice::Portable => "portable",
        }
    }

    /// [`exact_pass`] in this set.
    #[inline]
    pub(super) fn exact_pass<N>(
        self,
        view: View<'_, N>,
        wild: Option<Wilds<'_>>,
        mix: &Mix,
        keys: impl Keys,
        found: &mut [Option<ListenerId>],
    ) -> Lanes {
        // SAFETY: a `Kernel` of a set is made by `available` only, after the machine was seen to have it.
        unsafe {
            match self.0 {
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx512 => x86::exact_avx512(view, wild, mix, keys, found),
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx2 => x86::exact_avx2(view, wild, mix, keys, found),
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Sse42 => x86::exact_sse42(view, wild, mix, keys, found),
                Choice::Portable => exact_pass::<Portable, _, N>(view, wild, mix, keys, found),
            }
        }
    }

    /// [`wild_pass`] in this set.
    #[inline]
    #[allow(unused_unsafe, reason = "the portable set has no duty to discharge")]
    pub(crate) fn wild_pass(
        self,
        wild: Option<Wilds<'_>>,
        keys: impl Keys,
        found: &mut [Option<ListenerId>],
    ) -> Lanes {
        // SAFETY: a `Kernel` of a set is made by `available` only, after the machine was seen to have it.
        unsafe {
            match self.0 {
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx512 => x86::wild_avx512(wild, keys, found),
                _ => wild_pass::<Portable, _>(wild, keys, found),
            }
        }
    }
}

/// Keys that one step takes: a vector of 64-bit words.
pub(crate) const STEP: usize = if cfg!(loom) { 1 } else { 8 };
const _: () = assert!(LANES.is_multiple_of(STEP));
/// Steps of a burst.
const STEPS: usize = LANES / STEP;
/// Tables of more than 2^this buckets, 512 KiB, are prefetched.
const PREFETCH_ABOVE: u32 = 13;

/// What the lookup of a step's keys goes by.
///
/// Invariant, the duty of [`Step::new`]'s callers: each place lies within `memory`, on a bucket's border, and `spilled` has as
/// many elements as `memory`.
#[derive(Clone, Copy)]
pub(crate) struct Step<'g> {
    memory: &'g [Bucket],
    spilled: &'g Spilled,
    places: &'g [u64; STEP],
    probes: &'g [u64; STEP],
}

impl<'g> Step<'g> {
    /// # Safety
    /// Bounds: `places` are [`super::place`]s of `view`'s size, or numbers that [`Probe::second`] made of them, shifted alike.
    #[inline(always)]
    unsafe fn new<N>(view: View<'g, N>, places: &'g [u64; STEP], probes: &'g [u64; STEP]) -> Self {
        debug_assert!(places.iter().all(|place| place >> BUCKET_SHIFT < view.memory.len() as u64));
        Self { memory: view.memory, spilled: view.spilled, places, probes }
    }

    /// The bucket at a lane's place.
    #[inline(always)]
    fn bucket(&self, lane: usize) -> &'g Bucket {
        // SAFETY: bounds: the invariant.
        unsafe { &*self.memory.as_ptr().byte_add(self.places[lane] as usize) }
    }

    /// The byte of [`Spilled`] of the bucket at a lane's place.
    #[inline(always)]
    fn spilled(&self, lane: usize) -> &'g AtomicU8 {
        // SAFETY: bounds: the invariant.
        unsafe { self.spilled.get_unchecked((self.places[lane] >> BUCKET_SHIFT) as usize) }
    }
}

/// What instruction sets do each in their way. All functions have one safety rule: the machine has the set.
///
/// # Safety
/// Bounds, the duty of who implements it: [`Isa::locate`] and [`Isa::locate_columns`] write [`super::place`]s of `bits` and
/// nothing else, for lookups read there without a check.
pub(crate) unsafe trait Isa {
    /// Hashes `keys`, which are IPv4: see [`super::place`] and [`Probe::one`]. Returns a word that is not 0
    /// if some key is not IPv4.
    ///
    /// # Safety
    /// The machine has the instruction set.
    #[inline(always)]
    unsafe fn locate(keys: &[ListenKey; STEP], mix: &Mix, bits: u32, lanes: Located<'_>) -> u64 {
        let mut not_v4 = 0;
        for (lane, key) in keys.iter().enumerate() {
            let daddr = key.flow.daddr;
            not_v4 |= daddr.hi() | (daddr.lo() >> 32 ^ 0xffff);
            let hash = mix.v4(Mix::raw_v4(daddr.lo() as u32, key.flow.dport));
            lanes.places[lane] = super::place(bits, hash);
            lanes.probes[lane] = Probe::one(bits, hash);
            keep_scalar();
        }
        not_v4
    }

    /// [`Isa::locate`] of IPv4 keys in columns; our port is the lower half of `ports`.
    ///
    /// # Safety
    /// The machine has the instruction set.
    #[inline(always)]
    unsafe fn locate_columns(
        daddr: &[u32; STEP],
        ports: &[u32; STEP],
        mix: &Mix,
        bits: u32,
        lanes: Located<'_>,
    ) {
        for lane in 0..STEP {
            let hash = mix.v4(Mix::raw_v4(daddr[lane], TcpPort(ports[lane] as u16)));
            lanes.places[lane] = super::place(bits, hash);
            lanes.probes[lane] = Probe::one(bits, hash);
        }
    }

    /// Per lane, how the word of its bucket that is nearest to its probe differs from it: the least of the words' exclusive
    /// ors. Words that name the key differ in less than any other. Acquire. Bit `i` of the result is set if lane `i`
    /// differs in [`Probe::ONE_BITS`] or above.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn nearest(step: Step<'_>, differ: &mut [u64; STEP]) -> u32;

    /// Writes a step's answers: lanes in `misses` get none, the others the number that they differ by.
    ///
    /// # Safety
    /// The machine has the instruction set.
    #[inline(always)]
    unsafe fn answer(misses: u32, differs: &[u64; STEP], found: &mut [Option<ListenerId>; STEP]) {
        answer_scalar(misses, differs, found);
    }

    /// Bit `i` is set if lane `i` differs by a list at most.
    ///
    /// # Safety
    /// The machine has the instruction set.
    #[inline(always)]
    unsafe fn lists(differs: &[u64; STEP]) -> u32 {
        let list = |(lane, differ): (usize, &u64)| u32::from(differ >> Probe::ANY_BITS == 0) << lane;
        differs.iter().enumerate().map(list).sum()
    }

    /// Answers those of the lanes `asks` whose `port`'s wildcard is one listener that takes IPv4; the others are left as they
    /// are. Returns the lanes, of `asks`, whose wildcard is a list.
    ///
    /// # Safety
    /// The machine has the instruction set.
    #[inline(always)]
    unsafe fn wild(
        wild: Wilds<'_>,
        port: impl Fn(usize) -> TcpPort,
        asks: u32,
        found: &mut [Option<ListenerId>; STEP],
    ) -> u32 {
        wild_scalar(wild, port, asks, found)
    }

    /// Bit `i` is set if lane `i`'s key may be displaced. Acquire; to be asked after its bucket was looked at.
    ///
    /// # Safety
    /// The machine has the instruction set.
    #[inline(always)]
    unsafe fn may_be_displaced(step: Step<'_>) -> u32 {
        let may = |lane: usize| super::may_be_displaced(step.spilled(lane), step.probes[lane]);
        (0..STEP).fold(0, |lanes, lane| lanes | u32::from(may(lane)) << lane)
    }
}

/// What [`Isa::locate`] fills.
pub(crate) struct Located<'a> {
    places: &'a mut [u64; STEP],
    probes: &'a mut [u64; STEP],
}

/// Words compared one by one.
pub(super) struct Portable;

// SAFETY: the functions that the trait brings take their places from `place`.
unsafe impl Isa for Portable {
    #[inline(always)]
    unsafe fn nearest(step: Step<'_>, differ: &mut [u64; STEP]) -> u32 {
        let mut misses = 0;
        for (lane, differ) in differ.iter_mut().enumerate() {
            let words = step.bucket(lane).0.iter();
            let differs = words.map(|word| word.load(Ordering::Acquire) ^ step.probes[lane]);
            *differ = differs.fold(u64::MAX, u64::min);
            misses |= miss(*differ, lane);
        }
        misses
    }
}

/// [`Isa::nearest`]'s bit for one lane.
#[inline(always)]
fn miss(differ: u64, lane: usize) -> u32 {
    u32::from(differ >> Probe::ONE_BITS != 0) << lane
}

/// [`Isa::answer`] lane by lane, for as many lanes as `found` has.
#[inline(always)]
fn answer_scalar(misses: u32, differs: &[u64; STEP], found: &mut [Option<ListenerId>]) {
    for (lane, (found, &differ)) in found.iter_mut().zip(differs).enumerate() {
        let hit = misses >> lane & 1 == 0;
        *found = if hit { Some(ListenerId(differ as u32)) } else { None };
    }
}

/// [`Isa::wild`] lane by lane, for as many lanes as `found` has.
#[inline(always)]
fn wild_scalar(
    wild: Wilds<'_>,
    port: impl Fn(usize) -> TcpPort,
    asks: u32,
    found: &mut [Option<ListenerId>],
) -> u32 {
    let mut lists = 0;
    for (lane, found) in found.iter_mut().enumerate() {
        let word = wild.word(port(lane));
        let asks = asks >> lane & 1 != 0;
        *found = if asks & Wilds::is_one_v4(word) { Some(Wilds::id(word)) } else { *found };
        lists |= u32::from(asks & Wilds::is_list(word)) << lane;
    }
    lists
}

/// Keeps the compiler from making gathers of a loop's loads: they are slower than the loads (Zen 4 and 5).
#[inline(always)]
fn keep_scalar() {
    #[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(loom)))]
    // SAFETY: no instruction at all.
    unsafe {
        std::arch::asm!("", options(nomem, nostack, preserves_flags));
    }
}

/// Asks for the cache line at `line`. Any address will do: a prefetch never faults.
#[inline(always)]
pub(super) fn prefetch(line: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    // SAFETY: a prefetch reads nothing that the program can see.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(loom)))]
    // SAFETY: a prefetch reads nothing that the program can see.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
    }
    let _ = line;
}

mod hash;
mod keys;
mod pass;
mod run;
pub use run::{Row, Square};
#[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
mod x86;

#[cfg(all(test, not(loom)))]
mod tests;
