//! Segments that stand in columns: looked up many at a time, see [`crate::columns`].
//!
//! A row that is neither a plain SYN nor a RST that ends a request ([`Core::end_requests`]), or whose SYN needs more than
//! [`Core::answer_syns`] does, goes on as a [`crate::segment::Segment`], with what was found here.

use super::{Core, Env, Found, What};
use crate::columns::{Columns, Sets, rows};
use crate::ehash::Ehash;
use crate::flow_hash::{Ahead, flow_hash_columns};
use crate::inet_hashtables::KeyColumns;
use crate::limits::BURST_MAX;
use crate::listen_sock::ListenSock;
use crate::sync::epoch::Guard;
use crate::syncookies::{Minute, cookies_of};
use crate::types::{DevIndex, InetAddr, ListenerId, ListenerRef, TcpPort};
use crate::vector::{self, Vectors};

mod answer;
mod end;

use answer::CookieAnswer;

/// What was found for the rows of a burst.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct ColumnLookup {
    // First what vectors read and write, for none to lie across two cache lines.
    /// In the established table; not yet made if `flow_hashed` is false.
    hash: [u32; BURST_MAX],
    /// Both of the cookies, or the first of the initial sequence numbers.
    hashes: [[u32; BURST_MAX]; 2],
    cookies: [u32; BURST_MAX],
    /// What SYNs with all options add to the clock in TSval, once hashes were made.
    ts_off: [u32; BURST_MAX],
    ids: [Option<ListenerId>; BURST_MAX],
    /// Of the listener when it was found; even if there is none.
    generation: [u32; BURST_MAX],
    flow: [What; BURST_MAX],
    vectors: Vectors,
    /// The burst that the rest is of, its rows, and those of SYNs with all options.
    burst: u32,
    looked: u64,
    full: u64,
    dev: DevIndex,
    flow_hashed: bool,
    /// Rows whose flow is in the established table.
    known: u64,
    hashed: Hashed,
    /// The rows that have hashes.
    hashed_for: u64,
    /// What all rows have: the same listener, or none, and its generation; `ids` and `generation` then mean nothing.
    alike: Option<(Option<ListenerId>, u32)>,
    /// The last answer with a cookie that a listener's SYNs had in common, and that of its SYNs with all options.
    cookie_answers: [Option<CookieAnswer>; 2],
    /// A listener whose SYNs of this burst are answered one by one, or those with all options are.
    refused: Option<(ListenerRef, bool)>,
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
            hash: [0; BURST_MAX],
            hashes: [[0; BURST_MAX]; 2],
            cookies: [0; BURST_MAX],
            ts_off: [0; BURST_MAX],
            ids: [None; BURST_MAX],
            generation: [0; BURST_MAX],
            flow: [What::None; BURST_MAX],
            vectors: Vectors::best(),
            burst: 0,
            looked: 0,
            full: 0,
            dev: DevIndex::NONE,
            flow_hashed: false,
            known: 0,
            hashed: Hashed::Nothing,
            hashed_for: 0,
            alike: None,
            cookie_answers: [None; 2],
            refused: None,
        }
    }
}

impl ColumnLookup {
    /// Forgets answers that knobs went into.
    pub(super) fn forget_answers(&mut self) {
        self.cookie_answers = [None; 2];
    }

    /// Makes the hashes by which flows are found.
    #[inline]
    fn hash_flows(&mut self, table: &Ehash, columns: &Columns) {
        let Columns { saddr, daddr, ports, .. } = columns;
        let (len, hash) = (set_len(self.looked), &mut self.hash);
        self.vectors.run(
            #[inline(always)]
            |_| table.hash_columns(saddr, daddr, ports, len, hash),
        );
        self.flow_hashed = true;
    }

    /// Finds the rows of `set` whose flows are in the table.
    #[inline(never)]
    fn find_flows(&mut self, table: &Ehash, columns: &Columns, set: u64) {
        // The first words of all chains before the first entry, so that the misses overlap.
        let maybe = rows(set).fold(0, |maybe, row| maybe | u64::from(table.has_chain(self.hash[row])) << row);
        for row in rows(maybe) {
            if let Some(id) = table.lookup(self.hash[row], &columns.flow(row), self.dev) {
                self.known |= 1 << row;
                self.flow[row] = What::Flow { id, generation: table.head(id).generation };
            }
        }
    }

    /// The address and port that all rows of `set` are to, if they are to the same.
    #[inline]
    fn key_of_all(&self, columns: &Columns, set: u64) -> Option<(u32, TcpPort)> {
        let Columns { daddr: daddrs, ports, .. } = columns;
        let first = set.trailing_zeros() as usize % BURST_MAX;
        let (daddr, dport) = (daddrs[first], ports[first] & 0xffff);
        let others = self.vectors.run(
            #[inline(always)]
            |vectors| {
                let mut others = 0;
                let groups = daddrs.as_chunks::<16>().0.iter().zip(ports.as_chunks::<16>().0);
                for (at, (daddrs, ports)) in groups.enumerate().take(vector::whole(set_len(set)) / 16) {
                    let mut differ = [0; 16];
                    for lane in 0..16 {
                        differ[lane] = (daddrs[lane] ^ daddr) | (ports[lane] & 0xffff ^ dport);
                    }
                    others |= u64::from(vectors.nonzero(&differ)) << (16 * at);
                }
                others & set
            },
        );
        (others == 0).then_some((daddr, TcpPort(dport as u16)))
    }

    /// Finds the listeners of the rows of `set`, of which `opens` are SYNs. True if one of these has one.
    #[inline]
    fn find_listeners(&mut self, env: &Env, columns: &Columns, set: u64, opens: u64) -> bool {
        let len = set_len(set);
        let Columns { saddr, daddr, ports, .. } = columns;
        let (saddr, daddr, ports) = (&saddr[..len], &daddr[..len], &ports[..len]);
        let guard = env.hash.pin();
        let alike = self.key_of_all(columns, set).and_then(|(daddr, dport)| {
            env.hash.inet_lookup_listener_alike(&guard, InetAddr::v4(daddr), dport)
        });
        // The generations are read under the pin that the ids were found under, so they are those listeners' or later.
        let of =
            |id: Option<ListenerId>| id.and_then(|id| env.socks.get(id)).map_or(0, ListenSock::generation);
        self.alike = alike.map(|id| (id, of(id)));
        if let Some((id, generation)) = self.alike {
            env.shared.live.watch.count(rows(set).filter_map(|_| id));
            return generation & 1 == 1 && opens != 0;
        }
        let keys = KeyColumns { saddr, daddr, ports, dev: self.dev, core: env.core };
        look_up_each(env, &guard, &keys, &mut self.ids[..len]);
        env.shared.live.watch.count(rows(set).filter_map(|row| self.ids[row]));
        let first = self.ids[set.trailing_zeros() as usize % BURST_MAX];
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

    /// What was found for a row: a listener, if any, and its generation.
    #[inline]
    fn listener_of(&self, row: usize) -> (Option<ListenerId>, u32) {
        self.alike.unwrap_or((self.ids[row], self.generation[row]))
    }

    /// Makes the hashes that the answers to the SYNs will ask for: those of cookies if they are for this minute, or those
    /// of initial sequence numbers.
    #[inline]
    fn hash_ahead(&mut self, env: &Env, cookies: bool, columns: &Columns, opens: u64) {
        let len = set_len(opens);
        self.hashed_for = opens;
        if self.full != 0 {
            self.hash_hosts(env, columns);
        }
        let Self { vectors, hashes: [first, second], cookies: made, .. } = self;
        let Columns { saddr, daddr, ports, seq, mss, .. } = columns;
        let flows = [saddr, daddr, ports];
        if !cookies {
            vectors.run(
                #[inline(always)]
                |vectors| flow_hash_columns(vectors, env.isn_key, flows, len, first),
            );
            self.hashed = Hashed::Isn;
            return;
        }
        let Minute { keys, count, .. } = &env.minute;
        vectors.run(
            #[inline(always)]
            |vectors| {
                flow_hash_columns(vectors, keys[0], flows, len, first);
                flow_hash_columns(vectors, keys[1], flows, len, second);
                cookies_of([first, second], seq, mss, *count, len, made);
            },
        );
        self.hashed = Hashed::Cookie(*count);
    }

    /// Makes what the answers to SYNs with all options add to the clock, as [`crate::tcp_output::secure_tcp_ts_off`] does.
    #[inline(never)]
    fn hash_hosts(&mut self, env: &Env, columns: &Columns) {
        let (len, out) = (set_len(self.full), &mut self.ts_off);
        if env.sysctl.tcp_timestamps != 1 {
            *out = [0; BURST_MAX];
            return;
        }
        let Columns { saddr, daddr, .. } = columns;
        let key = env.cookies.current.timestamps;
        self.vectors.run(
            #[inline(always)]
            |vectors| flow_hash_columns(vectors, key, [saddr, daddr, &[0; BURST_MAX]], len, out),
        );
    }
}

/// Looks rows up that are to different addresses or ports.
#[inline(never)]
fn look_up_each(env: &Env, guard: &Guard, keys: &KeyColumns<'_>, ids: &mut [Option<ListenerId>]) {
    env.hash.inet_lookup_listener_columns(guard, keys, ids);
}

/// How many rows a loop over the rows of `set` goes over.
const fn set_len(set: u64) -> usize {
    BURST_MAX - set.leading_zeros() as usize
}

impl Core {
    /// Looks up the rows `sets` of `columns`, which came in on device `dev`: once for a burst, after [`Core::lookup_burst`] for
    /// its other segments.
    pub fn lookup_columns(&mut self, columns: &Columns, sets: Sets, dev: DevIndex) {
        let Self { env, flows, columns: own, burst, .. } = self;
        (own.burst, own.looked, own.dev) = (*burst, sets.rows, dev);
        own.hashed = Hashed::Nothing;
        own.refused = None;
        own.full = sets.full;
        (own.known, own.flow_hashed) = (0, false);
        let empty = flows.table.is_empty();
        // Nothing is to be found in an empty table, and most answers to SYNs put nothing into it.
        if !empty || sets.syns | sets.full != sets.rows {
            own.hash_flows(&flows.table, columns);
        }
        if !empty {
            own.find_flows(&flows.table, columns, sets.rows);
        }
        let (set, opens) = (sets.rows & !own.known, sets.opens & !own.known);
        if set != 0 && own.find_listeners(env, columns, set, opens) {
            own.hash_ahead(env, flows.cookies, columns, opens);
        }
    }

    /// What [`Core::lookup_columns`] found for a row of this burst, for [`Core::rcv`]; for any other row, nothing.
    #[inline]
    pub fn found_row(&self, row: usize) -> Found {
        let own = &*self.columns;
        if own.burst != self.burst || own.looked >> row & 1 == 0 || !own.flow_hashed {
            return Found::default();
        }
        let [first, second] = &own.hashes;
        let (id, generation) = own.listener_of(row);
        let what = match (own.known >> row & 1, id) {
            (1, _) => own.flow[row],
            (_, Some(id)) if generation & 1 == 1 => {
                let ahead = match own.hashed {
                    _ if own.hashed_for >> row & 1 == 0 => Ahead::None,
                    Hashed::Nothing => Ahead::None,
                    Hashed::Isn => Ahead::Isn(first[row]),
                    Hashed::Cookie(count) => Ahead::Cookie { count, hashes: [first[row], second[row]] },
                };
                What::Listener(ListenerRef { id, generation }, ahead)
            }
            _ => What::None,
        };
        Found { burst: self.burst, hash: own.hash[row], what }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
