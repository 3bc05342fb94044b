//! Segments that stand in columns: looked up many at a time, see [`crate::columns`].
//!
//! A row that is no plain SYN, or whose SYN needs more than [`Core::answer_syns`] does, goes on as a
//! [`crate::segment::Segment`], with what was found here.

use super::{Core, Env, Found, What};
use crate::columns::{Columns, rows};
use crate::ehash::Ehash;
use crate::flow_hash::{Ahead, cookie_columns, isn_columns};
use crate::inet_hashtables::KeyColumns;
use crate::limits::BURST_MAX;
use crate::listen_sock::ListenSock;
use crate::syncookies::cookies_of;
use crate::types::{DevIndex, ListenerId, ListenerRef};
use crate::vector::Vectors;

mod answer;

/// What was found for the rows of a burst.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct ColumnLookup {
    vectors: Vectors,
    /// The burst that the rest is of, and its rows.
    burst: u32,
    looked: u64,
    dev: DevIndex,
    /// In the established table.
    hash: [u32; BURST_MAX],
    ids: [Option<ListenerId>; BURST_MAX],
    /// Of the listener when it was found; even if there is none.
    generation: [u32; BURST_MAX],
    /// Rows whose flow is in the established table.
    known: u64,
    flow: [What; BURST_MAX],
    hashed: Hashed,
    /// The rows that have hashes.
    hashed_for: u64,
    /// All rows have the same listener, or none.
    alike: bool,
    /// A listener whose SYNs of this burst are answered one by one.
    refused: Option<ListenerRef>,
    /// Both of the cookies, or the first of the initial sequence numbers.
    hashes: [[u32; BURST_MAX]; 2],
    cookies: [u32; BURST_MAX],
}

/// What [`ColumnLookup::hashes`] are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hashed {
    Nothing,
    Isn,
    /// The second for this minute.
    Cookie(u32),
}

impl Default for ColumnLookup {
    fn default() -> Self {
        Self {
            vectors: Vectors::best(),
            burst: 0,
            looked: 0,
            dev: DevIndex::NONE,
            hash: [0; BURST_MAX],
            ids: [None; BURST_MAX],
            generation: [0; BURST_MAX],
            known: 0,
            flow: [What::None; BURST_MAX],
            hashed: Hashed::Nothing,
            hashed_for: 0,
            alike: false,
            refused: None,
            hashes: [[0; BURST_MAX]; 2],
            cookies: [0; BURST_MAX],
        }
    }
}

impl ColumnLookup {
    /// Finds the rows of `set` whose flows are in the table.
    #[inline]
    fn find_flows(&mut self, table: &Ehash, columns: &Columns, set: u64) {
        self.known = 0;
        if table.is_empty() {
            return;
        }
        // The first words of all chains before the first entry, so that the misses overlap.
        let maybe = rows(set).fold(0, |maybe, row| maybe | u64::from(table.has_chain(self.hash[row])) << row);
        for row in rows(maybe) {
            if let Some(id) = table.lookup(self.hash[row], &columns.flow(row), self.dev) {
                self.known |= 1 << row;
                self.flow[row] = What::Flow { id, generation: table.head(id).generation };
            }
        }
    }

    /// Finds the listeners of the rows of `set`, of which `opens` are SYNs. True if one of these has one.
    #[inline]
    fn find_listeners(&mut self, env: &Env, columns: &Columns, set: u64, opens: u64) -> bool {
        let len = BURST_MAX - set.leading_zeros() as usize;
        let Columns { saddr, daddr, ports, .. } = columns;
        let (saddr, daddr, ports) = (&saddr[..len], &daddr[..len], &ports[..len]);
        let keys = KeyColumns { saddr, daddr, ports, dev: self.dev, core: env.core };
        let guard = env.hash.pin();
        env.hash.inet_lookup_listener_columns(&guard, &keys, &mut self.ids[..len]);
        env.shared.live.watch.count(rows(set).filter_map(|row| self.ids[row]));
        // The generations are read under the pin that the ids were found under, so they are those listeners' or later.
        let of =
            |id: Option<ListenerId>| id.and_then(|id| env.socks.get(id)).map_or(0, ListenSock::generation);
        let first = self.ids[set.trailing_zeros() as usize % BURST_MAX];
        self.alike = self.ids[..len].iter().fold(true, |alike, id| alike & (*id == first));
        if self.alike {
            let generation = of(first);
            self.generation[..len].fill(generation);
            return generation & 1 == 1 && opens != 0;
        }
        let (mut last, mut generation, mut listened) = (first, of(first), 0);
        for row in rows(set) {
            if self.ids[row] != last {
                last = self.ids[row];
                generation = of(last);
            }
            self.generation[row] = generation;
            listened |= u64::from(generation & 1) << row;
        }
        listened & opens != 0
    }

    /// Makes the hashes that the answers to the SYNs will ask for: those of cookies if they are for this minute, or those
    /// of initial sequence numbers.
    #[inline]
    fn hash_ahead(&mut self, env: &Env, cookies: Option<u32>, columns: &Columns, opens: u64) {
        let len = BURST_MAX - opens.leading_zeros() as usize;
        self.hashed_for = opens;
        let Self { vectors, hashes: [first, second], cookies: made, .. } = self;
        let Columns { saddr, daddr, ports, seq, mss, .. } = columns;
        match cookies {
            Some(minute) => {
                vectors.run(
                    #[inline(always)]
                    |vectors| {
                        let keys = env.cookies.current.hash;
                        cookie_columns(
                            vectors,
                            keys,
                            minute,
                            [saddr, daddr, ports],
                            len,
                            [&mut *first, &mut *second],
                        );
                        cookies_of([first, second], seq, mss, minute, len, made);
                    },
                );
                self.hashed = Hashed::Cookie(minute);
            }
            None => {
                vectors.run(
                    #[inline(always)]
                    |vectors| isn_columns(vectors, env.isn_key, [saddr, daddr, ports], len, first),
                );
                self.hashed = Hashed::Isn;
            }
        }
    }
}

impl Core {
    /// Looks up the rows `set` of `columns`, of which `opens` are SYNs with any options, and which came in on device
    /// `dev`: once for a burst, after [`Core::lookup_burst`] for its other segments.
    pub fn lookup_columns(&mut self, columns: &Columns, set: u64, opens: u64, dev: DevIndex) {
        let Self { env, flows, columns: own, minute, burst, .. } = self;
        let len = BURST_MAX - set.leading_zeros() as usize;
        (own.burst, own.looked, own.dev) = (*burst, set, dev);
        own.hashed = Hashed::Nothing;
        own.refused = None;
        let Columns { saddr, daddr, ports, .. } = columns;
        own.vectors.run(
            #[inline(always)]
            |_| flows.table.hash_columns(saddr, daddr, ports, len, &mut own.hash),
        );
        own.find_flows(&flows.table, columns, set);
        let (set, opens) = (set & !own.known, opens & !own.known);
        if set != 0 && own.find_listeners(env, columns, set, opens) {
            own.hash_ahead(env, flows.cookies.then_some(*minute), columns, opens);
        }
    }

    /// What [`Core::lookup_columns`] found for a row of this burst, for [`Core::rcv`]; for any other row, nothing.
    #[inline]
    pub fn found_row(&self, row: usize) -> Found {
        let own = &*self.columns;
        if own.burst != self.burst || own.looked >> row & 1 == 0 {
            return Found::default();
        }
        let [first, second] = &own.hashes;
        let what = match (own.known >> row & 1, own.ids[row]) {
            (1, _) => own.flow[row],
            (_, Some(id)) if own.generation[row] & 1 == 1 => {
                let ahead = match own.hashed {
                    _ if own.hashed_for >> row & 1 == 0 => Ahead::None,
                    Hashed::Nothing => Ahead::None,
                    Hashed::Isn => Ahead::Isn(first[row]),
                    Hashed::Cookie(count) => Ahead::Cookie { count, hashes: [first[row], second[row]] },
                };
                What::Listener(ListenerRef { id, generation: own.generation[row] }, ahead)
            }
            _ => What::None,
        };
        Found { burst: self.burst, hash: own.hash[row], what }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
