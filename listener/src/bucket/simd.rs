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
//! whether a zero word is there is asked in another load, later.

use super::{Bucket, Column, LANES, LaneSet, Lanes, Mix, Probe, View};
use crate::inet_hashtables::ListenKey;
use crate::siphash::{SipKey, siphash_1_3, siphash_2_4};
use crate::sync::Ordering;
use crate::types::ListenerId;

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
                && is_x86_feature_detected!("bmi2")
            {
                sets.push(Self(Choice::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
                sets.push(Self(Choice::Avx2));
            }
            if is_x86_feature_detected!("sse4.2") {
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
        mix: &Mix,
        keys: &[ListenKey],
        found: &mut [Option<ListenerId>],
        lanes: &mut Lanes,
    ) {
        // SAFETY: a `Kernel` of a set is made by `available` only, after the machine was seen to have it.
        unsafe {
            match self.0 {
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx512 => x86::exact_avx512(view, mix, keys, found, lanes),
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx2 => x86::exact_avx2(view, mix, keys, found, lanes),
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Sse42 => x86::exact_sse42(view, mix, keys, found, lanes),
                Choice::Portable => exact_pass::<Portable, N>(view, mix, keys, found, lanes),
            }
        }
    }

    /// SipHash-2-4 of each lane of `words`, and SipHash-1-3 if `SHORT`: as many as all three slices have.
    #[inline]
    #[allow(unused_unsafe, reason = "the portable set has no duty to discharge")]
    pub(crate) fn siphash<const SHORT: bool>(self, key: SipKey, words: [&[u64]; 2], out: &mut [u64]) {
        // SAFETY: a `Kernel` of a set is made by `available` only, after the machine was seen to have it.
        unsafe {
            match self.0 {
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx512 => x86::siphash_avx512::<SHORT>(key, words, out),
                #[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
                Choice::Avx2 => x86::siphash_avx2::<SHORT>(key, words, out),
                _ => siphash_lanes::<SHORT>(key, words, out),
            }
        }
    }
}

/// [`Kernel::siphash`] in the instruction set of the function that it is inlined into: the compiler makes vectors of it.
#[inline(always)]
fn siphash_lanes<const SHORT: bool>(key: SipKey, [first, second]: [&[u64]; 2], out: &mut [u64]) {
    for ((out, first), second) in out.iter_mut().zip(first).zip(second) {
        let words = [*first, *second];
        *out = if SHORT { siphash_1_3(key, words) } else { siphash_2_4(key, words) };
    }
}

/// Keys that one step takes: a vector of 64-bit words.
pub(super) const STEP: usize = if cfg!(loom) { 1 } else { 8 };
const _: () = assert!(LANES.is_multiple_of(STEP));
/// Tables of more than 2^this buckets, 512 KiB, are prefetched.
const PREFETCH_ABOVE: u32 = 13;

/// What the lookup of a step's keys goes by.
#[derive(Clone, Copy)]
pub(super) struct Step<'g> {
    memory: &'g [Bucket],
    places: &'g [u64; STEP],
    probes: &'g [u64; STEP],
}

impl<'g> Step<'g> {
    /// The first bucket of a lane.
    #[inline(always)]
    fn bucket(&self, lane: usize) -> &'g Bucket {
        super::bucket_at(self.memory, self.places[lane])
    }
}

/// What instruction sets do each in their way. All have one safety rule: the machine has the set.
pub(super) trait Isa {
    /// Hashes `keys`, which are IPv4: see [`View::place`] and [`Probe::one`] for the other two. Returns a word that is not 0
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
            lanes.hashes[lane] = hash;
            lanes.places[lane] = super::place(bits, hash);
            lanes.probes[lane] = Probe::one(bits, hash);
            keep_scalar();
        }
        not_v4
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

    /// Bit `i` is set if some word of lane `i`'s bucket is zero. Loads the buckets anew, after whatever was loaded before.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn zeros(step: Step<'_>) -> u32;
}

/// What [`Isa::locate`] fills.
pub(super) struct Located<'a> {
    hashes: &'a mut [u64; STEP],
    places: &'a mut [u64; STEP],
    probes: &'a mut [u64; STEP],
}

/// Words compared one by one.
pub(super) struct Portable;

impl Isa for Portable {
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

    #[inline(always)]
    unsafe fn zeros(step: Step<'_>) -> u32 {
        let zero = |lane| step.bucket(lane).0.iter().any(|word| word.load(Ordering::Acquire) == 0);
        (0..STEP).fold(0, |zeros, lane| zeros | u32::from(zero(lane)) << lane)
    }
}

/// Looks up to [`LANES`] keys up by exact IPv4 address and port. What is answered in the first bucket by its one word
/// is written to `found`, the rest is in `lanes`.
///
/// # Safety
/// The machine has the instruction set of `I`.
#[inline(always)]
unsafe fn exact_pass<I: Isa, N>(
    view: View<'_, N>,
    mix: &Mix,
    keys: &[ListenKey],
    found: &mut [Option<ListenerId>],
    lanes: &mut Lanes,
) {
    assert!(keys.len() <= LANES && keys.len() == found.len(), "one answer per key, one burst at a time");
    let (mut places, mut probes) = (Column::ZERO, Column::ZERO);
    let mut not_v4 = 0;
    for (step, keys) in (0..LANES / STEP).zip(keys.chunks(STEP)) {
        let located = Located {
            hashes: &mut lanes.hash.0.as_chunks_mut().0[step],
            places: &mut places.0.as_chunks_mut().0[step],
            probes: &mut probes.0.as_chunks_mut().0[step],
        };
        let (bits, padded);
        bits = view.bits;
        let keys = match keys.first_chunk() {
            Some(keys) => keys,
            // Lanes beyond the keys look for one of these once more, and their answers are dropped.
            None => {
                padded = std::array::from_fn(|lane| keys[lane % keys.len()]);
                &padded
            }
        };
        // SAFETY: the caller's word on the instruction set.
        not_v4 |= unsafe { I::locate(keys, mix, bits, located) };
    }
    lanes.other_family = not_v4 != 0;
    // What lies in the second-level cache anyway is not asked for: it comes soon enough.
    if view.bits > PREFETCH_ABOVE {
        for &place in &places.0[..keys.len()] {
            prefetch(std::ptr::from_ref(super::bucket_at(view.memory, place)).cast());
        }
    }

    let (mut missed, mut lists, mut displaced) = (0, 0, 0);
    for (at, found) in (0..LANES / STEP).zip(found.chunks_mut(STEP)) {
        let (places, probes) = (&places.0.as_chunks().0[at], &probes.0.as_chunks().0[at]);
        let step = Step { memory: view.memory, places, probes };
        let mut differs = [0; STEP];
        // SAFETY: the caller's word on the instruction set.
        let mut misses = unsafe { I::nearest(step, &mut differs) };
        match found.first_chunk_mut() {
            // SAFETY: as above.
            Some(found) => unsafe { I::answer(misses, &differs, found) },
            None => {
                answer_scalar(misses, &differs, found);
                misses &= (1 << found.len()) - 1;
            }
        }
        if misses == 0 {
            continue;
        }
        // A list differs in less than another key; only a key that is neither can be elsewhere or nowhere.
        let is_list = |(lane, differ): (usize, &u64)| u32::from(differ >> Probe::ANY_BITS == 0) << lane;
        let named = misses & differs.iter().enumerate().map(is_list).sum::<u32>();
        // SAFETY: as above.
        let gone = misses & !named & unsafe { I::zeros(step) };
        missed |= gone << (at * STEP);
        lists |= named << (at * STEP);
        displaced |= (misses & !named & !gone) << (at * STEP);
    }
    if displaced != 0 {
        // SAFETY: as above.
        let (open, gone) = unsafe { second_pass::<I, N>(view, &lanes.hash, displaced, found) };
        (displaced, missed) = (open, missed | gone);
    }
    (lanes.missed, lanes.slow) = (LaneSet(missed), LaneSet(lists | displaced));
}

/// Looks lanes up in their second bucket, a step's worth at most. Returns those that it did not answer, and those that are
/// certainly not in the table.
///
/// # Safety
/// The machine has the instruction set of `I`.
#[inline(always)]
unsafe fn second_pass<I: Isa, N>(
    view: View<'_, N>,
    hashes: &Column,
    lanes: u32,
    found: &mut [Option<ListenerId>],
) -> (u32, u32) {
    let (mut places, mut probes, mut of) = ([0; STEP], [0; STEP], [0; STEP]);
    let mut rest = lanes;
    for slot in 0..STEP {
        // With fewer lanes than slots the last stands in the others too.
        let lane = rest.trailing_zeros() as usize % LANES;
        let hash = hashes.0[lane];
        let probe = Probe::one(view.bits, hash);
        let second = Probe::second(view.bits, view.first(hash), probe & super::REMAINDER);
        of[slot] = lane;
        places[slot] = (second as u64) << super::BUCKET_SHIFT;
        probes[slot] = probe | super::DISPLACED;
        prefetch(std::ptr::from_ref(super::bucket_at(view.memory, places[slot])).cast());
        let next = rest & rest.wrapping_sub(1);
        rest = if next == 0 { rest } else { next };
    }
    let step = Step { memory: view.memory, places: &places, probes: &probes };
    let mut differs = [0; STEP];
    // SAFETY: the caller's word on the instruction set.
    let misses = unsafe { I::nearest(step, &mut differs) };
    let (mut answered, mut gone) = (0, 0);
    for slot in 0..STEP {
        if misses >> slot & 1 == 0 {
            found[of[slot]] = Some(ListenerId(differs[slot] as u32));
            answered |= 1 << of[slot];
        }
        gone |= u32::from(differs[slot] >> Probe::ANY_BITS != 0) << of[slot];
    }
    (lanes & !answered & !gone, gone)
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

#[cfg(all(target_arch = "x86_64", not(any(loom, hearken_portable))))]
mod x86;

#[cfg(all(test, not(loom)))]
mod tests;
