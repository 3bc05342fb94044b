//! The passes of a lookup over a burst, the same for all instruction sets.

use super::super::{DISPLACED, REMAINDER};
use super::*;

/// Looks up to [`LANES`] keys up by exact IPv4 address and port, and by `wild` those that are not there. What one word of
/// the first bucket, of the second or of the wildcards answers is in `found` afterwards, the rest is in the result.
///
/// # Safety
/// The machine has the instruction set of `I`.
#[inline(always)]
pub(super) unsafe fn exact_pass<I: Isa, K: Keys, N>(
    view: View<'_, N>,
    wild: Option<Wilds<'_>>,
    mix: &Mix,
    keys: K,
    found: &mut [Option<ListenerId>],
) -> Lanes {
    assert!(keys.len() <= LANES && keys.len() == found.len(), "one answer per key, one burst at a time");
    let (mut places, mut probes) = (Column::ZERO, Column::ZERO);
    let mut not_v4 = 0;
    for at in 0..keys.len().div_ceil(STEP) {
        let located = Located { places: places.step_mut(at), probes: probes.step_mut(at) };
        // SAFETY: the caller's word on the instruction set.
        not_v4 |= unsafe { keys.locate::<I>(at, mix, view.bits, located) };
    }
    // What lies in the second-level cache anyway is not asked for: it comes soon enough.
    if view.bits > PREFETCH_ABOVE {
        for &place in &places.0[..keys.len()] {
            prefetch_place(view, place);
        }
    }

    let mut differs = Column::ZERO;
    let mut misses = 0;
    for (at, found) in (0..STEPS).zip(found.chunks_mut(STEP)) {
        // SAFETY: bounds: `locate` made the places for the view's bits; lanes beyond the keys have place 0.
        let step = unsafe { Step::new(view, places.step(at), probes.step(at)) };
        // SAFETY: as above.
        let step_misses = unsafe { I::nearest(step, differs.step_mut(at)) };
        match found.first_chunk_mut() {
            // SAFETY: as above.
            Some(found) => unsafe { I::answer(step_misses, differs.step(at), found) },
            None => answer_scalar(step_misses, differs.step(at), found),
        }
        misses |= step_misses << (at * STEP);
    }
    misses &= LaneSet::first(keys.len()).0;
    let mut lanes = Lanes { missed: LaneSet(0), slow: LaneSet(0), other_family: not_v4 != 0 };
    if misses == 0 {
        return lanes;
    }

    // From here on no branch depends on a single lane: which ones miss cannot be foreseen, and a branch that was foreseen
    // wrongly would end the overlap of this burst's cache misses with the next one's.
    let (mut lists, mut displaced) = (0, 0);
    for at in 0..STEPS {
        // SAFETY: as above. Lanes beyond the keys are masked out below.
        let (list, away) = unsafe {
            let step = Step::new(view, places.step(at), probes.step(at));
            (I::lists(differs.step(at)), I::may_be_displaced(step))
        };
        // A list differs in less than another key; only a key that is neither can be elsewhere or nowhere.
        lists |= list << (at * STEP);
        displaced |= away << (at * STEP);
    }
    lists &= misses;
    displaced &= misses & !lists;
    let mut gone = misses & !lists & !displaced;
    if displaced != 0 {
        // SAFETY: as above.
        let (open, nowhere) = unsafe { second_pass::<I, N>(view, &places, &probes, displaced, found) };
        gone |= nowhere;
        lists |= open;
    }
    lanes.slow = LaneSet(lists);
    if let Some(wild) = wild {
        // SAFETY: as above.
        lanes.missed = unsafe { ask_wild::<I, K>(wild, keys, gone, found) };
    }
    lanes
}

/// Looks keys up among the wildcards alone: what a table without exact IPv4 keys answers.
///
/// # Safety
/// The machine has the instruction set of `I`.
#[inline(always)]
pub(super) unsafe fn wild_pass<I: Isa, K: Keys>(
    wild: Option<Wilds<'_>>,
    keys: K,
    found: &mut [Option<ListenerId>],
) -> Lanes {
    found.fill(None);
    let other_family = keys.other_family();
    // SAFETY: the caller's word on the instruction set.
    let ask = |wild| unsafe { ask_wild::<I, K>(wild, keys, LaneSet::first(keys.len()).0, found) };
    Lanes { missed: wild.map_or(LaneSet(0), ask), slow: LaneSet(0), other_family }
}

/// [`Isa::wild`] for the lanes `asks` of a burst.
///
/// # Safety
/// The machine has the instruction set of `I`.
#[inline(always)]
unsafe fn ask_wild<I: Isa, K: Keys>(
    wild: Wilds<'_>,
    keys: K,
    asks: u32,
    found: &mut [Option<ListenerId>],
) -> LaneSet {
    let mut lists = 0;
    let (steps, rest) = found.as_chunks_mut::<STEP>();
    let whole = steps.len();
    for (at, found) in steps.iter_mut().enumerate() {
        // SAFETY: the caller's word on the instruction set.
        let list = unsafe { I::wild(wild, keys.ports(at), asks >> (at * STEP), found) };
        lists |= list << (at * STEP);
    }
    if !rest.is_empty() {
        let at = whole * STEP;
        lists |= wild_scalar(wild, |lane| keys.port(at + lane), asks >> at, rest) << at;
    }
    LaneSet(lists)
}

/// Looks lanes up in their second bucket, a step's worth at most. Returns those that it did not answer, and those that are
/// certainly not in the table.
///
/// # Safety
/// The machine has the instruction set of `I`.
#[inline(always)]
unsafe fn second_pass<I: Isa, N>(
    view: View<'_, N>,
    firsts: &Column,
    first_probes: &Column,
    lanes: u32,
    found: &mut [Option<ListenerId>],
) -> (u32, u32) {
    let (mut places, mut probes, mut of) = ([0; STEP], [0; STEP], [0; STEP]);
    let mut rest = lanes;
    for slot in 0..STEP {
        // With fewer lanes than slots the last stands in the others too.
        let lane = rest.trailing_zeros() as usize % LANES;
        let first = (firsts.0[lane] >> BUCKET_SHIFT) as usize;
        let probe = first_probes.0[lane];
        let second = Probe::second(view.bits, first, probe & REMAINDER);
        of[slot] = lane;
        places[slot] = (second as u64) << BUCKET_SHIFT;
        probes[slot] = probe | DISPLACED;
        prefetch_place(view, places[slot]);
        let next = rest & rest.wrapping_sub(1);
        rest = if next == 0 { rest } else { next };
    }
    // SAFETY: bounds: `second` gave the places.
    let step = unsafe { Step::new(view, &places, &probes) };
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

/// Asks for the line of the bucket at a place. A place outside of the table would ask for a line in vain.
#[inline(always)]
fn prefetch_place<N>(view: View<'_, N>, place: u64) {
    prefetch(view.memory.as_ptr().cast::<u8>().wrapping_add(place as usize));
}
