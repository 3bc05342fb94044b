//! A hierarchical timer wheel: eight levels of 64 slots, one tick a millisecond, so any `Nanos` has a slot.
//!
//! Arming, cancelling and firing cost the same whatever the number of timers: lists are intrusive and doubly linked,
//! a bitmap per level finds the next slot. A timer moves down at most once per level; each move is a step of its own
//! ([`Popped::Moved`]), so that a caller with a budget never meets a long cascade. Timers never fire early; they fire
//! at most one tick late if the wheel is asked often enough.
//!
//! The links live in the entries ([`TimerStore`]); the wheel only knows their ids. Time is an argument: no clock.

use crate::types::Nanos;

/// Nanoseconds per tick.
const TICK_NS: u64 = 1_000_000;
const LEVELS: usize = 8;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// The list of what is due and not yet handed out.
const DUE: usize = LEVELS * SLOTS;

const NIL: u32 = u32::MAX;
/// In [`TimerLink::prev`]: the entry is first in the list whose number follows.
const FIRST: u32 = 0xff00_0000;

/// Ids of entries lie below this; the rest of the number space is the wheel's.
pub const TIMER_IDS: u32 = FIRST;

/// An entry's place in the wheel.
#[derive(Clone, Copy, Debug)]
pub struct TimerLink {
    prev: u32,
    next: u32,
    /// Low 32 bits of the tick at which it fires.
    deadline: u32,
}

impl Default for TimerLink {
    fn default() -> Self {
        Self { prev: NIL, next: NIL, deadline: 0 }
    }
}

impl TimerLink {
    /// True while the timer runs.
    #[inline]
    pub const fn is_armed(&self) -> bool {
        self.prev != NIL
    }
}

/// Where the links are.
pub trait TimerStore {
    /// The link of entry `id`, which is below [`TIMER_IDS`].
    fn link(&mut self, id: u32) -> &mut TimerLink;
}

/// One step of the wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Popped {
    /// This timer fired; it is no longer armed.
    Fired(u32),
    /// A timer came closer, and is still armed.
    Moved,
    /// Nothing is due.
    Nothing,
}

/// The wheel.
#[derive(Debug)]
pub struct TimerWheel {
    heads: Box<[u32; DUE + 1]>,
    occupied: [u64; LEVELS],
    /// The tick up to which slots were emptied.
    current: u64,
}

impl Default for TimerWheel {
    fn default() -> Self {
        Self { heads: Box::new([NIL; DUE + 1]), occupied: [0; LEVELS], current: 0 }
    }
}

impl TimerWheel {
    /// Arms timer `id` to fire at `at`, or at the next tick if that is past; re-arms it if it runs.
    #[inline]
    pub fn arm(&mut self, store: &mut impl TimerStore, id: u32, at: Nanos) {
        debug_assert!(id < TIMER_IDS, "timer ids end at TIMER_IDS");
        self.cancel(store, id);
        let tick = at.0.div_ceil(TICK_NS).max(self.current + 1);
        store.link(id).deadline = tick as u32;
        self.link_into(store, id, self.slot_of(tick));
    }

    /// Stops timer `id`; a no-op if it does not run.
    #[inline]
    pub fn cancel(&mut self, store: &mut impl TimerStore, id: u32) {
        let TimerLink { prev, next, .. } = *store.link(id);
        if prev == NIL {
            return;
        }
        if prev >= FIRST {
            let list = (prev - FIRST) as usize;
            self.heads[list] = next;
            if next == NIL && list != DUE {
                self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
            }
        } else {
            store.link(prev).next = next;
        }
        if next != NIL {
            store.link(next).prev = prev;
        }
        store.link(id).prev = NIL;
    }

    /// Takes one step towards `now`. Call until it answers [`Popped::Nothing`], or a budget is used up.
    pub fn pop(&mut self, store: &mut impl TimerStore, now: Nanos) -> Popped {
        let now = now.0 / TICK_NS;
        if self.heads[DUE] == NIL {
            match self.next_slot() {
                Some((list, tick)) if tick <= now => {
                    self.current = tick;
                    self.detach(store, list);
                }
                _ => {
                    self.current = self.current.max(now);
                    return Popped::Nothing;
                }
            }
        }
        let id = self.heads[DUE];
        self.cancel(store, id);
        let deadline = self.full_tick(store.link(id).deadline);
        if deadline <= self.current {
            return Popped::Fired(id);
        }
        self.link_into(store, id, self.slot_of(deadline));
        Popped::Moved
    }

    /// When [`Self::pop`] next has something to do: not after the next timer fires, perhaps before.
    pub fn next_event(&self) -> Option<Nanos> {
        if self.heads[DUE] != NIL {
            return Some(Nanos(self.current * TICK_NS));
        }
        self.next_slot().map(|(_, tick)| Nanos(tick.saturating_mul(TICK_NS)))
    }

    /// Deadlines lie within 2^31 ticks (24 days) of the current one.
    fn full_tick(&self, low: u32) -> u64 {
        let ahead = low.wrapping_sub(self.current as u32) as i32;
        self.current.wrapping_add_signed(i64::from(ahead))
    }

    /// The level is that of the highest six bits in which the tick differs from the current one.
    #[inline]
    fn slot_of(&self, tick: u64) -> usize {
        let differ = tick ^ self.current;
        let level = ((63 - (differ | 1).leading_zeros()) / SLOT_BITS).min(LEVELS as u32 - 1);
        level as usize * SLOTS + (tick >> (level * SLOT_BITS)) as usize % SLOTS
    }

    fn link_into(&mut self, store: &mut impl TimerStore, id: u32, list: usize) {
        let first = self.heads[list];
        let link = store.link(id);
        link.prev = FIRST + list as u32;
        link.next = first;
        if first != NIL {
            store.link(first).prev = id;
        }
        self.heads[list] = id;
        self.occupied[list / SLOTS] |= 1 << (list % SLOTS);
    }

    /// The earliest slot in use, and the tick at which it starts. All slots in use lie after the current tick's.
    fn next_slot(&self) -> Option<(usize, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = level as u32 * SLOT_BITS;
        let above = self.current >> shift >> SLOT_BITS << SLOT_BITS;
        Some((level * SLOTS + slot as usize, (above | u64::from(slot)) << shift))
    }

    /// Makes a slot's list the due list, in one step whatever its length.
    fn detach(&mut self, store: &mut impl TimerStore, list: usize) {
        let first = std::mem::replace(&mut self.heads[list], NIL);
        self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        self.heads[DUE] = first;
        store.link(first).prev = FIRST + DUE as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Links(Vec<TimerLink>);

    impl TimerStore for Links {
        fn link(&mut self, id: u32) -> &mut TimerLink {
            &mut self.0[id as usize]
        }
    }

    fn links(count: usize) -> Links {
        Links(vec![TimerLink::default(); count])
    }

    fn fired(wheel: &mut TimerWheel, links: &mut Links, now: Nanos) -> Vec<u32> {
        let mut ids = Vec::new();
        loop {
            match wheel.pop(links, now) {
                Popped::Fired(id) => ids.push(id),
                Popped::Moved => {}
                Popped::Nothing => break,
            }
        }
        ids.sort_unstable();
        ids
    }

    #[test]
    fn fires_at_its_time_and_not_before() {
        let (mut wheel, mut links) = (TimerWheel::default(), links(3));
        let start = Nanos::from_secs(1_000_000);
        assert!(fired(&mut wheel, &mut links, start).is_empty());
        wheel.arm(&mut links, 0, start + Nanos::from_secs(1));
        wheel.arm(&mut links, 1, start + Nanos::from_secs(63));
        wheel.arm(&mut links, 2, start);
        assert_eq!(
            fired(&mut wheel, &mut links, start + Nanos::from_millis(1)),
            [2],
            "the past is the next tick"
        );
        assert!(fired(&mut wheel, &mut links, start + Nanos(999_999_999)).is_empty());
        assert_eq!(fired(&mut wheel, &mut links, start + Nanos::from_secs(1)), [0]);
        wheel.arm(&mut links, 0, start + Nanos::from_secs(70));
        wheel.cancel(&mut links, 0);
        wheel.cancel(&mut links, 0);
        assert_eq!(fired(&mut wheel, &mut links, start + Nanos::from_secs(80)), [1]);
        assert_eq!(wheel.next_event(), None);
    }

    #[test]
    fn cascades_are_single_steps() {
        let (mut wheel, mut links) = (TimerWheel::default(), links(1000));
        for id in 0..1000 {
            wheel.arm(&mut links, id, Nanos::from_millis(100));
        }
        let now = Nanos::from_millis(100);
        assert_eq!(wheel.next_event(), Some(Nanos::from_millis(64)));
        let moved = (0..1000).filter(|_| wheel.pop(&mut links, now) == Popped::Moved).count();
        assert_eq!(moved, 1000);
        assert_eq!(fired(&mut wheel, &mut links, now).len(), 1000);
    }

    #[test]
    fn due_timers_can_still_be_cancelled() {
        let (mut wheel, mut links) = (TimerWheel::default(), links(4));
        for id in 0..4 {
            wheel.arm(&mut links, id, Nanos::from_millis(5));
        }
        let now = Nanos::from_millis(9);
        let Popped::Fired(first) = wheel.pop(&mut links, now) else { panic!("four are due") };
        for id in (0..4).filter(|&id| id != first) {
            wheel.cancel(&mut links, id);
        }
        assert_eq!(wheel.pop(&mut links, now), Popped::Nothing);
        assert_eq!(wheel.next_event(), None);
    }

    proptest! {
        /// Against a list of deadlines that is searched whole.
        #[test]
        fn agrees_with_a_plain_list(
            start in prop::sample::select(vec![0u64, 63, 4095, (1 << 24) - 3, (1 << 36) - 2]),
            ops in prop::collection::vec((0u32..8, 0u64..300_000, any::<bool>()), 1..200),
        ) {
            let (mut wheel, mut links) = (TimerWheel::default(), links(8));
            let mut model: [Option<u64>; 8] = [None; 8];
            let mut now = start;
            fired(&mut wheel, &mut links, Nanos::from_millis(now));
            for (id, ms, arm) in ops {
                if arm {
                    wheel.arm(&mut links, id, Nanos::from_millis(now + ms));
                    model[id as usize] = Some((now + ms).max(now + 1));
                } else {
                    // Stop at every event on the way, as a worker with nothing else to do.
                    now += ms / 8;
                    let due = |at: &Option<u64>| at.is_some_and(|at| at <= now);
                    let expected: Vec<u32> = (0..8).filter(|&id| due(&model[id as usize])).collect();
                    prop_assert_eq!(fired(&mut wheel, &mut links, Nanos::from_millis(now)), expected);
                    model.iter_mut().filter(|at| due(at)).for_each(|at| *at = None);
                }
                let next = model.iter().flatten().min();
                match (wheel.next_event(), next) {
                    (Some(event), Some(&next)) => {
                        prop_assert!(event > Nanos::from_millis(now) && event <= Nanos::from_millis(next));
                    }
                    (event, next) => prop_assert!(event.is_none() && next.is_none()),
                }
            }
        }
    }
}
