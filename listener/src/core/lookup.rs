//! What the segments of a burst belong to.

use super::{Core, Found, What};
use crate::columns::rows;
use crate::flow_hash::{Ahead, Guess};
use crate::inet_hashtables::ListenKey;
use crate::limits::BURST_MAX;
use crate::listen_sock::ListenSock;
use crate::segment::{Segment, flag};
use crate::types::ListenerRef;

impl Core {
    /// Looks `segs[i]` up for each bit `i` of `set` and puts what was found into `found[i]`: the established table
    /// first, then the listening hash, for all that were not there, as one batch under one pin. A burst begins with
    /// this, whether it has such segments or not.
    ///
    /// # Panics
    /// If `set` names a segment that is not there.
    pub fn lookup_burst(&mut self, segs: &[Segment], set: u64, found: &mut [Found]) {
        self.burst = self.burst.wrapping_add(1).max(1);
        self.flows.fresh = [0; 4];
        // The keys may have changed since the tick that told the minute.
        self.env.minute.be(&self.env.cookies.current, self.env.minute.count);
        if set == 0 {
            return;
        }
        let table = &self.flows.table;
        // All hashes and first words of the chains before the first entry, so that the misses overlap.
        let empty = table.is_empty();
        let mut warm = 0;
        for at in rows(set) {
            let hash = table.hash(&segs[at].flow);
            if !empty {
                warm ^= table.first(hash);
            }
            found[at] = Found { burst: self.burst, hash, what: What::None };
        }
        std::hint::black_box(warm);
        let mut missed = [0u8; BURST_MAX];
        let mut misses = 0;
        for at in rows(set) {
            let (seg, found) = (&segs[at], &mut found[at]);
            let entry = if empty { None } else { table.lookup(found.hash, &seg.flow, seg.dev) };
            match entry {
                Some(id) => found.what = What::Flow { id, generation: table.head(id).generation },
                None => {
                    self.keys[misses] = ListenKey { flow: seg.flow, dev: seg.dev, core: self.env.core };
                    missed[misses] = at as u8;
                    misses += 1;
                }
            }
        }
        self.lookup_listeners(&missed[..misses], found);
        self.hash_ahead(segs, &missed[..misses], found);
    }

    /// Makes the hashes that the answers to SYNs will ask for.
    fn hash_ahead(&mut self, segs: &[Segment], missed: &[u8], found: &mut [Found]) {
        const CONTROL: u8 = flag::SYN | flag::ACK | flag::RST | flag::FIN;
        let mut syns = [0u8; BURST_MAX];
        let mut count = 0;
        for &at in missed {
            let place = usize::from(at);
            if segs[place].flags & CONTROL == flag::SYN && matches!(found[place].what, What::Listener(..)) {
                syns[count] = at;
                count += 1;
            }
        }
        if count == 0 {
            return;
        }
        let guess = if self.flows.cookies {
            Guess::Cookie { keys: self.env.minute.keys, count: self.env.minute.count }
        } else {
            Guess::Isn(self.env.isn_key)
        };
        self.hashes.ahead(guess, segs, &syns[..count], |at, hashed| {
            if let What::Listener(_, ahead) = &mut found[usize::from(at)].what {
                *ahead = hashed;
            }
        });
    }

    fn lookup_listeners(&self, missed: &[u8], found: &mut [Found]) {
        if missed.is_empty() {
            return;
        }
        let mut ids = [None; BURST_MAX];
        let ids = &mut ids[..missed.len()];
        let guard = self.env.hash.pin();
        self.env.hash.inet_lookup_listener_burst(&guard, &self.keys[..missed.len()], ids);
        self.env.shared.live.watch.count(ids.iter().flatten().copied());
        for (&at, id) in missed.iter().zip(ids) {
            // The generation is read under the pin that the id was found under, so it is that listener's or later.
            if let Some(id) = *id
                && let Some(generation) = self.env.socks.get(id).map(ListenSock::generation)
                && generation & 1 == 1
            {
                found[usize::from(at)].what = What::Listener(ListenerRef { id, generation }, Ahead::None);
            }
        }
    }

    /// The hint if it still holds, else a lookup.
    #[inline]
    pub(super) fn revalidate(&self, seg: &Segment, found: Found) -> Found {
        let same_burst = found.burst == self.burst && found.burst != 0;
        let holds = match found.what {
            What::Flow { id, generation } => self.flows.table.is_current(id, generation),
            What::None | What::Listener(..) => !self.flows.is_fresh(found.hash),
        };
        if same_burst && holds {
            return found;
        }
        let hash = self.flows.table.hash(&seg.flow);
        let what = match self.flows.table.lookup(hash, &seg.flow, seg.dev) {
            Some(id) => What::Flow { id, generation: self.flows.table.head(id).generation },
            None => match self.env.lookup_listener(seg) {
                Some(listener) => What::Listener(listener, Ahead::None),
                None => What::None,
            },
        };
        Found { burst: self.burst, hash, what }
    }
}
