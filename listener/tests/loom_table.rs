//! The listening hash under every interleaving: lookups that race with inet_hash, inet_unhash, a group's join and leave,
//! a slot's reuse, displaced keys and growth.
//!
//! loom's tables have four buckets of two words, so that a handful of keys displaces and grows; its burst has one lane.
//! Three threads, a reader beside two writers, are explored with two preemptions instead of three: a model with three runs for minutes.
//! Not covered: the vector loads (x86-64's promise, see `bucket/simd.rs`), the prefetch, membarrier (both sides fence here),
//! four threads at once.
//! Run: RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p hearken-listener --release --test loom_table
#![cfg(loom)]

use listener::inet_hashtables::{HashKey, ListEntry, ListenHash, ListenKey};
use listener::segment::FlowKey;
use listener::types::{InetAddr, ListenerId, TcpPort};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

const ANY: InetAddr = InetAddr::ANY_V4;

fn v4(number: u32) -> InetAddr {
    InetAddr::v4(0xc612_0000 + number)
}

fn v6(number: u64) -> InetAddr {
    InetAddr::v6(0x2001_0db8_0000_0000, number)
}

fn table(secret: u8) -> Arc<ListenHash> {
    Arc::new(ListenHash::new(1 << 10, [secret; 16]))
}

fn hash(table: &ListenHash, addr: InetAddr, entry: ListEntry) {
    let hashed = table.update(HashKey::new(addr, TcpPort(1)), |list| list.inet_hash(entry));
    assert_eq!(hashed, Ok(Ok(())));
}

fn open(table: &ListenHash, addr: InetAddr, id: u32) {
    let id = ListenerId(id);
    hash(table, addr, if addr.is_v4() { ListEntry::v4(id) } else { ListEntry::v6(id) });
}

fn close(table: &ListenHash, addr: InetAddr, id: u32) {
    let gone = table.update(HashKey::new(addr, TcpPort(1)), |list| list.inet_unhash(ListenerId(id), false));
    assert!(matches!(gone, Ok(Some(_))));
}

fn segment(daddr: InetAddr) -> ListenKey {
    let daddr = if daddr.is_any() { v4(99) } else { daddr };
    let flow = FlowKey { saddr: daddr, daddr, sport: TcpPort(7), dport: TcpPort(1) };
    ListenKey { flow, ..ListenKey::default() }
}

fn lookup(table: &ListenHash, daddr: InetAddr) -> Option<u32> {
    let key = segment(daddr);
    table.inet_lookup_listener(&table.pin(), &key).map(|id| id.0)
}

fn lookup_burst(table: &ListenHash, daddr: InetAddr) -> Option<u32> {
    let mut found = [Some(ListenerId(77))];
    table.inet_lookup_listener_burst(&table.pin(), &[segment(daddr)], &mut found);
    found[0].map(|id| id.0)
}

/// How often the reader came before the writer and how often after: an exploration that saw one only explored nothing.
#[derive(Clone, Copy)]
struct Seen(&'static [std::sync::atomic::AtomicU32; 2]);

impl Seen {
    fn count(self, which: bool) {
        self.0[usize::from(which)].fetch_add(1, Ordering::Relaxed);
    }

    fn assert_both(self) {
        let [no, yes] = self.0.each_ref().map(|count| count.load(Ordering::Relaxed));
        assert!(no > 0 && yes > 0, "not explored: {no} and {yes}");
        println!("{no} and {yes} interleavings");
    }
}

/// `loom::model` with a count of what was seen.
fn explore(model: impl Fn(Seen) + Send + Sync + 'static) -> Seen {
    let seen = Seen(Box::leak(Box::default()));
    loom::model(move || model(seen));
    seen
}

/// Runs `read` in a thread of its own, while this one runs `write`.
///
/// The writer has to be the thread that loom runs first. loom remembers one last access per atomic, and writers
/// look at a word before they store it: reads of a thread that ran before would be forgotten, and with them all
/// interleavings but one.
fn race(table: &Arc<ListenHash>, read: impl FnOnce(&ListenHash) + 'static, write: impl FnOnce(&ListenHash)) {
    let reader = thread::spawn({
        let table = Arc::clone(table);
        move || read(&table)
    });
    write(table);
    reader.join().expect("the reader does not panic");
}

/// The lookups that every test tries: both ways.
const LOOKUPS: [fn(&ListenHash, InetAddr) -> Option<u32>; 2] = [lookup, lookup_burst];

/// A segment that races with listen() meets no listener or the whole listener, and meets it afterwards.
#[test]
fn lookup_races_with_inet_hash() {
    for (addr, look) in [v4(1), v6(1), ANY].into_iter().flat_map(|addr| LOOKUPS.map(|look| (addr, look))) {
        let counts = explore(move |seen| {
            let table = table(1);
            let read = move |table: &ListenHash| {
                let found = look(table, addr);
                assert!(matches!(found, None | Some(5)), "half a listener: {found:?}");
                seen.count(found.is_some());
            };
            race(&table, read, |table| open(table, addr, 5));
            assert_eq!(look(&table, addr), Some(5));
        });
        counts.assert_both();
    }
}

/// One listener goes and another comes, perhaps into the same word: nobody takes the one for the other.
#[test]
fn lookup_races_with_inet_unhash_and_the_words_next_key() {
    for (gone, next) in [(v4(1), v4(2)), (v6(1), v6(2)), (ANY, v4(2))] {
        let counts = explore(move |seen| {
            let table = table(2);
            open(&table, gone, 5);
            let read = move |table: &ListenHash| {
                let (old, new) = (lookup(table, gone), lookup(table, next));
                assert!(matches!(old, None | Some(5)), "{old:?}");
                assert!(matches!(new, None | Some(6)) || (gone.is_any() && new == Some(5)), "{new:?}");
                seen.count(old.is_some());
            };
            let write = move |table: &ListenHash| {
                close(table, gone, 5);
                open(table, next, 6);
            };
            race(&table, read, write);
            assert_eq!(lookup(&table, next), Some(6));
            assert!(gone.is_any() || lookup(&table, gone).is_none());
        });
        counts.assert_both();
    }
}

/// A listener's slot is used again only when no lookup can still hold its number.
#[test]
fn a_found_number_names_its_listener_while_the_guard_lives() {
    for addr in [v4(1), v6(1), ANY] {
        let counts = explore(move |seen| {
            let table = table(3);
            let slot = Arc::new(AtomicU32::new(100));
            open(&table, addr, 5);
            let read = {
                let slot = Arc::clone(&slot);
                move |table: &ListenHash| {
                    let guard = table.pin();
                    let found = table.inet_lookup_listener(&guard, &segment(addr)).is_some();
                    if found {
                        assert_eq!(slot.load(Ordering::Relaxed), 100, "the slot is another listener's");
                    }
                    seen.count(found);
                }
            };
            let write = {
                let slot = Arc::clone(&slot);
                move |table: &ListenHash| {
                    close(table, addr, 5);
                    table.defer_slot_reuse(move || slot.store(200, Ordering::Relaxed));
                    table.reclaim();
                }
            };
            race(&table, read, write);
            table.reclaim();
            assert_eq!(slot.load(Ordering::Relaxed), 200, "the slot came back");
        });
        counts.assert_both();
    }
}

/// A member joins a group and another leaves it: every lookup finds a member of that moment.
#[test]
fn lookup_races_with_a_groups_join_and_leave() {
    for addr in [v4(1), ANY] {
        let counts = explore(move |seen| {
            let table = table(4);
            let member = |id| ListEntry { reuseport: true, ..ListEntry::v4(ListenerId(id)) };
            hash(&table, addr, member(5));
            let read = move |table: &ListenHash| {
                let found = lookup(table, addr);
                assert!(matches!(found, Some(5 | 6)), "{found:?}");
                seen.count(found == Some(5));
            };
            let write = move |table: &ListenHash| {
                hash(table, addr, member(6));
                close(table, addr, 5);
            };
            race(&table, read, write);
            assert_eq!(lookup(&table, addr), Some(6));
        });
        counts.assert_both();
    }
}

/// Addresses whose keys have these buckets.
fn meeting<const COUNT: usize>(table: &ListenHash, first: usize, second: usize) -> [InetAddr; COUNT] {
    let mut addrs =
        (1..).map(v4).filter(|&addr| table.buckets(HashKey::new(addr, TcpPort(1))) == (first, second));
    std::array::from_fn(|_| addrs.next().expect("addresses enough"))
}

/// Keys leave the full bucket that another is displaced from: the displaced one is never missed.
#[test]
fn a_displaced_key_is_found_while_its_first_bucket_empties() {
    for look in LOOKUPS {
        let counts = explore(move |seen| {
            let table = table(5);
            let [a, b, displaced] = meeting(&table, 0, 1);
            open(&table, a, 51);
            open(&table, b, 52);
            open(&table, displaced, 53);
            let read = move |table: &ListenHash| {
                assert_eq!(look(table, displaced), Some(53), "it stays");
                seen.count(lookup(table, b).is_some());
            };
            let write = move |table: &ListenHash| {
                close(table, a, 51);
                close(table, b, 52);
            };
            race(&table, read, write);
            assert_eq!(look(&table, displaced), Some(53));
        });
        counts.assert_both();
    }
}

/// Both buckets of a new key are full and a key that stays makes room: it is never missed.
#[test]
fn a_key_is_found_while_it_is_displaced() {
    for (look, closes) in LOOKUPS.into_iter().flat_map(|look| [(look, false), (look, true)]) {
        let counts = explore(move |seen| {
            let table = table(6);
            let [a, b] = meeting(&table, 0, 1);
            let [c, d] = meeting(&table, 3, 2);
            let [new] = meeting(&table, 0, 3);
            let old = [(a, 51), (c, 53), (d, 54)];
            old.iter().for_each(|&(addr, id)| open(&table, addr, id));
            let read = move |table: &ListenHash| {
                // The one in the first slot makes room.
                assert_eq!(look(table, a), Some(51), "it stays");
                seen.count(lookup(table, new).is_some());
            };
            let write = move |table: &ListenHash| {
                // Fills the first bucket: until here it had a zero word.
                open(table, b, 52);
                open(table, new, 55);
                if closes {
                    close(table, new, 55);
                }
            };
            race(&table, read, write);
            old.iter().for_each(|&(addr, id)| assert_eq!(look(&table, addr), Some(id)));
            assert_eq!(look(&table, new), (!closes).then_some(55));
        });
        counts.assert_both();
    }
}

/// No room is left and the table grows: keys that stay are never missed, neither in place nor displaced.
#[test]
fn keys_are_found_while_the_table_grows() {
    for (look, which) in LOOKUPS.into_iter().flat_map(|look| [(look, 0), (look, 3)]) {
        let counts = explore(move |seen| {
            let table = table(7);
            let [a, b, c, d, new] = meeting(&table, 2, 3);
            let old = [(a, 51), (b, 52), (c, 53), (d, 54)];
            let bytes = table.bucket_bytes();
            old.iter().for_each(|&(addr, id)| open(&table, addr, id));
            assert_eq!(table.bucket_bytes(), bytes);
            let read = move |table: &ListenHash| {
                let (addr, id) = old[which];
                assert_eq!(look(table, addr), Some(id), "it stays");
                seen.count(lookup(table, new).is_some());
            };
            race(&table, read, |table| open(table, new, 55));
            assert!(table.bucket_bytes() > bytes);
            old.iter().for_each(|&(addr, id)| assert_eq!(look(&table, addr), Some(id)));
            assert_eq!(look(&table, new), Some(55));
        });
        counts.assert_both();
    }
}

/// `explore` for three threads.
fn explore_three(model: impl Fn(Seen) + Send + Sync + 'static) -> Seen {
    let seen = Seen(Box::leak(Box::default()));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || model(seen));
    seen
}

/// As [`race`], with `other` as a writer in a thread of its own besides.
fn race_of_three(
    table: &Arc<ListenHash>,
    read: impl FnOnce(&ListenHash) + 'static,
    write: impl FnOnce(&ListenHash),
    other: impl FnOnce(&ListenHash) + 'static,
) {
    let other = thread::spawn({
        let table = Arc::clone(table);
        move || other(&table)
    });
    race(table, read, write);
    other.join().expect("the other writer does not panic");
}

/// Two writers change a bucket at once: a key that stays is never missed, and what either did is there afterwards.
#[test]
fn lookup_races_with_two_writers_of_its_bucket() {
    for look in LOOKUPS {
        let counts = explore_three(move |seen| {
            let table = table(8);
            let [stays, goes, comes] = meeting(&table, 0, 1);
            open(&table, stays, 51);
            open(&table, goes, 52);
            let read = move |table: &ListenHash| {
                assert_eq!(look(table, stays), Some(51), "it stays");
                seen.count(lookup(table, comes).is_some());
            };
            race_of_three(
                &table,
                read,
                move |table| open(table, comes, 53),
                move |table| close(table, goes, 52),
            );
            let found = [stays, goes, comes].map(|addr| look(&table, addr));
            assert_eq!(found, [Some(51), None, Some(53)]);
        });
        counts.assert_both();
    }
}

/// One writer makes the table grow while another takes a key out of it: what stays is never missed, what went does not come back.
#[test]
fn lookup_races_with_a_writer_and_with_growth() {
    let counts = explore_three(|seen| {
        let table = table(9);
        let [stays, goes, c, d, comes] = meeting(&table, 2, 3);
        for (addr, id) in [(stays, 51), (goes, 52), (c, 53), (d, 54)] {
            open(&table, addr, id);
        }
        let read = move |table: &ListenHash| {
            assert_eq!(lookup(table, stays), Some(51), "it stays");
            seen.count(lookup(table, comes).is_some());
        };
        race_of_three(&table, read, move |table| open(table, comes, 55), move |table| close(table, goes, 52));
        let found = [stays, goes, c, d, comes].map(|addr| lookup(&table, addr));
        assert_eq!(found, [Some(51), None, Some(53), Some(54), Some(55)]);
    });
    counts.assert_both();
}

/// Two listeners go at once and a third takes a word of theirs, while a lookup still holds the number of the first: the slot
/// comes back only after the guard.
#[test]
fn a_found_number_names_its_listener_while_two_writers_reclaim() {
    let counts = explore_three(|seen| {
        let table = table(10);
        let slot = Arc::new(AtomicU32::new(100));
        let (addr, second) = (v4(1), v4(2));
        open(&table, addr, 5);
        open(&table, second, 6);
        let read = {
            let slot = Arc::clone(&slot);
            move |table: &ListenHash| {
                let guard = table.pin();
                let found = table.inet_lookup_listener(&guard, &segment(addr)).is_some();
                if found {
                    assert_eq!(slot.load(Ordering::Relaxed), 100, "the slot is another listener's");
                }
                seen.count(found);
            }
        };
        let write = {
            let slot = Arc::clone(&slot);
            move |table: &ListenHash| {
                close(table, addr, 5);
                table.defer_slot_reuse(move || slot.store(200, Ordering::Relaxed));
            }
        };
        let other = move |table: &ListenHash| {
            close(table, second, 6);
            table.reclaim();
        };
        race_of_three(&table, read, write, other);
        table.reclaim();
        assert_eq!(slot.load(Ordering::Relaxed), 200, "the slot came back");
    });
    counts.assert_both();
}
