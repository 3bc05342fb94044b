//! The writers' side of a table: one lock per stripe, growth under all of them.
//!
//! Every change that a reader can see is one store of one word, or of the table's pointer; the head of [`super`] says
//! why their order is enough.

use std::marker::PhantomData;

use super::*;
use crate::sync::{MutexGuard, lock};

/// A stripe's share of what writers know and readers need not.
pub(super) struct Stripe {
    /// Per bucket of the stripe, how many keys are displaced from it.
    spilled: Vec<u16>,
}

/// A slot, and whether a key stands there displaced.
#[derive(Clone, Copy)]
struct Place {
    bucket: usize,
    slot: usize,
    displaced: bool,
}

/// A stripe under its lock, in the table that was current then and stays so until the lock is gone.
struct Locked<'t, N> {
    view: View<'t, N>,
    stripe: MutexGuard<'t, Stripe>,
}

impl Buckets {
    fn new(bits: u32) -> Self {
        let spilled = (0..1usize << bits).map(|_| AtomicU8::new(0)).collect();
        Self { bits, memory: Memory::zeroed(1 << bits), spilled }
    }
}

impl Stripe {
    fn new(bits: u32) -> Self {
        Self { spilled: vec![0; 1 << (bits - STRIPE_BITS)] }
    }

    /// How many keys are displaced from `bucket`. `Probe::second` flips bits below 6 stripe bits only, so a key's
    /// buckets are both of this stripe.
    fn spilled(&mut self, bucket: usize) -> &mut u16 {
        let mask = self.spilled.len() - 1;
        &mut self.spilled[bucket & mask]
    }
}

impl<N> Locked<'_, N> {
    fn word(&self, place: Place) -> u64 {
        self.view.memory[place.bucket].0[place.slot].load(Ordering::Relaxed)
    }

    fn store(&self, place: Place, word: u64) {
        self.view.memory[place.bucket].0[place.slot].store(word, Ordering::Release);
    }

    fn find(&self, hash: u64, same: impl Fn(&N) -> bool) -> Option<Place> {
        let bits = self.view.bits;
        let first = self.view.first(hash);
        let probe = Probe::one(bits, hash);
        let second = self.view.second(hash);
        let at = |bucket, probe, displaced| {
            (0..SLOTS).map(|slot| Place { bucket, slot, displaced }).find(|&place| {
                let word = self.word(place);
                (word ^ probe) >> Probe::ANY_BITS == 0
                    // SAFETY: loaded just now, under the stripe's lock, which outlives `self`.
                    && match unsafe { Entry::new(word, self.view.nodes) }.held() {
                        Some(Held::List(node)) => same(node),
                        Some(Held::One(_)) => true,
                        None => false,
                    }
            })
        };
        at(first, probe, false).or_else(|| at(second, probe | DISPLACED, true))
    }

    fn free_slot(&self, bucket: usize, displaced: bool) -> Option<Place> {
        (0..SLOTS)
            .map(|slot| Place { bucket, slot, displaced })
            .find(|&place| self.word(place) & OCCUPIED == 0)
    }

    /// A slot that may be overwritten for a new key: a free one of the first bucket, a free one of the second, or one of
    /// the first whose key now also stands in its own second bucket.
    fn make_room(&mut self, hash: u64) -> Option<Place> {
        let bits = self.view.bits;
        let first = self.view.first(hash);
        let second = self.view.second(hash);
        if let Some(place) = self.free_slot(first, false).or_else(|| self.free_slot(second, true)) {
            return Some(place);
        }
        for place in (0..SLOTS).map(|slot| Place { bucket: first, slot, displaced: false }) {
            let word = self.word(place);
            if word & DISPLACED != 0 {
                continue;
            }
            if let Some(room) = self.free_slot(Probe::second(bits, first, word & REMAINDER), true) {
                self.store(room, word | DISPLACED);
                self.spill(first, word);
                return Some(place);
            }
        }
        None
    }

    /// Tells readers and the stripe that a key is displaced from `first`, before its word there goes.
    fn spill(&mut self, first: usize, probe: u64) {
        *self.stripe.spilled(first) += 1;
        let byte = &self.view.spilled[first];
        byte.store(byte.load(Ordering::Relaxed) | 1 << Probe::class(probe), Ordering::Release);
    }

    /// Gives back what `make_room` returned and nobody filled.
    fn leave_room(&mut self, place: Place) {
        if self.word(place) & OCCUPIED != 0 {
            self.store(place, 0);
        }
    }

    /// Fills what `make_room` returned. `payload` is the word's LIST flag and number.
    fn fill(&mut self, place: Place, hash: u64, payload: u64) {
        let probe = Probe::one(self.view.bits, hash);
        if place.displaced {
            self.spill(self.view.first(hash), probe);
            self.store(place, probe | DISPLACED | payload);
        } else {
            self.store(place, probe | payload);
        }
    }

    fn remove(&mut self, place: Place, hash: u64) {
        self.store(place, 0);
        if !place.displaced {
            return;
        }
        let first = self.view.first(hash);
        *self.stripe.spilled(first) -= 1;
        if *self.stripe.spilled(first) == 0 {
            self.view.spilled[first].store(0, Ordering::Release);
        }
    }
}

impl<N: Send + Sync + 'static> Table<N> {
    /// An empty table for at most `keys_max` keys, whose lists lie in `nodes`.
    pub(crate) fn new(keys_max: usize, lists_max: u32) -> Self {
        let stripes = (0..1 << STRIPE_BITS).map(|_| Mutex::new(Stripe::new(BITS_MIN))).collect();
        Self {
            buckets: AtomicPtr::new(Box::into_raw(Box::new(Buckets::new(BITS_MIN)))),
            keys: AtomicUsize::new(0),
            keys_max,
            stripes,
            nodes: Arc::new(Slab::new(lists_max)),
            owns: PhantomData,
        }
    }

    /// Bytes that the buckets take.
    pub(crate) fn bucket_bytes(&self, guard: &Guard) -> usize {
        size_of_val(self.view(guard).memory)
    }

    fn lock_stripe<'t>(&'t self, hash: u64, guard: &'t Guard) -> Locked<'t, N> {
        let stripe = lock(&self.stripes[Mix::stripe(hash)]);
        // After the lock: growth takes it too, so the table stays current while it is held.
        Locked { view: self.view(guard), stripe }
    }

    /// Edits what the key with this hash holds. `edit` gets what is there and returns what shall be: `None` for nothing,
    /// `Some(None)` to leave it. `same` tells this key's list from another's. Readers see the one or the other.
    ///
    /// # Errors
    /// [`Full`], from this function or from `edit`; the table is then as before.
    pub(crate) fn update<R>(
        &self,
        hash: u64,
        same: impl Fn(&N) -> bool,
        edit: impl FnOnce(Option<Held<&N>>) -> Result<(Option<Held<N>>, R), Full>,
    ) -> Result<R, Full> {
        let guard = epoch::pin();
        let mut grown = Ok(());
        let (mut locked, place, is_new) = loop {
            let mut locked = self.lock_stripe(hash, &guard);
            if let Some(place) = locked.find(hash, &same) {
                break (locked, place, false);
            }
            // A table that does not grow has the room that others have made since the last look, or none.
            if (grown.is_err() || self.keys() < keys_before_growth(locked.view.bits))
                && let Some(place) = locked.make_room(hash)
            {
                break (locked, place, true);
            }
            grown?;
            let bits = locked.view.bits;
            drop(locked);
            grown = self.grow(bits, &guard);
        };
        let old = if is_new { 0 } else { locked.word(place) };
        // SAFETY: loaded just now, under the stripe's lock, which is held beyond `edit`.
        let held = if is_new { None } else { unsafe { Entry::new(old, locked.view.nodes) }.held() };
        let stored = edit(held).and_then(|(new, result)| Ok((self.payload(new, is_new)?, result)));
        match &stored {
            Ok((Some(payload), _)) if is_new => {
                self.keys.fetch_add(1, Ordering::Relaxed);
                locked.fill(place, hash, *payload);
            }
            Ok((Some(payload), _)) => locked.store(place, old & !(LIST | NUMBER) | payload),
            Ok((None, _)) if !is_new => {
                locked.remove(place, hash);
                self.keys.fetch_sub(1, Ordering::Relaxed);
            }
            _ if is_new => locked.leave_room(place),
            _ => {}
        }
        drop(locked);
        if stored.is_ok() && old & LIST != 0 {
            self.retire_node((old & NUMBER) as u32);
        }
        stored.map(|(_, result)| result)
    }

    /// The LIST flag and number of a word for `held`; stores its node.
    fn payload(&self, held: Option<Held<N>>, is_new: bool) -> Result<Option<u64>, Full> {
        if held.is_some() && is_new && self.keys() >= self.keys_max {
            return Err(Full);
        }
        match held {
            None => Ok(None),
            Some(Held::One(id)) if u64::from(id.0) <= NUMBER => Ok(Some(u64::from(id.0))),
            Some(Held::One(_)) => Err(Full),
            Some(Held::List(node)) => match self.nodes.insert(node) {
                Ok(number) => Ok(Some(LIST | u64::from(number))),
                Err(_) => Err(Full),
            },
        }
    }

    fn retire_node(&self, number: u32) {
        let nodes = Arc::clone(&self.nodes);
        epoch::defer(move || {
            // SAFETY: the only word that named the node was overwritten before this was deferred, so no reference was
            // made since, and those made before lived under guards that are gone. Each word is overwritten once.
            unsafe { nodes.release(number) }
        });
    }

    /// Moves all keys to a table of twice the buckets, unless somebody else has replaced the one of `2^bits` already.
    fn grow(&self, bits: u32, guard: &Guard) -> Result<(), Full> {
        let mut stripes: Vec<_> = self.stripes.iter().map(lock).collect();
        let old = self.view(guard);
        if old.bits != bits {
            return Ok(());
        }
        let mut bits = bits;
        let (buckets, filled) = loop {
            let sparse = self.keys() < 1 << bits;
            if bits == BITS_MAX || sparse {
                return Err(Full);
            }
            bits += 1;
            if let Some(copy) = self.copy(old, bits) {
                break copy;
            }
        };
        for (stripe, filled) in stripes.iter_mut().zip(filled) {
            stripe.spilled = filled.spilled;
        }
        let old = self.buckets.swap(Box::into_raw(Box::new(buckets)), Ordering::AcqRel);
        // SAFETY: ownership: `old` came from `Box::into_raw` and was the published table; no other thread can swap
        // it out, all stripes being locked.
        let old = unsafe { Box::from_raw(old) };
        // Readers that loaded the pointer before hold guards; `epoch::defer` waits for them.
        epoch::defer(move || drop(old));
        Ok(())
    }

    /// All keys of `old` in a new table of `2^bits` buckets; `None` if one finds no room there.
    fn copy(&self, old: View<'_, N>, bits: u32) -> Option<(Buckets, Vec<Stripe>)> {
        let buckets = Buckets::new(bits);
        let view = View::of(&buckets, &self.nodes);
        let fresh: Vec<_> = self.stripes.iter().map(|_| Mutex::new(Stripe::new(bits))).collect();
        for (at, bucket) in old.memory.iter().enumerate() {
            for word in &bucket.0 {
                let word = word.load(Ordering::Relaxed);
                if word & OCCUPIED == 0 {
                    continue;
                }
                let remainder = word & REMAINDER;
                let home = if word & DISPLACED == 0 { at } else { Probe::second(old.bits, at, remainder) };
                let hash = (home as u64) << (64 - old.bits) | remainder >> old.bits;
                let stripe = lock(&fresh[Mix::stripe(hash)]);
                let mut locked = Locked { view, stripe };
                let place = locked.make_room(hash)?;
                locked.fill(place, hash, word & (LIST | NUMBER));
            }
        }
        let stripes = fresh
            .into_iter()
            .map(|stripe| stripe.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let stripes = stripes.collect();
        Some((buckets, stripes))
    }
}
