//! Listeners of every kind on one table: of ten keys eight hold a plain listener, one two listeners of which one is bound
//! to a device, one a reuseport group of four. The peer that can do the same is a map of the kernel's lists.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use listener::inet_hashtables::{HashKey, KeyList, ListEntry, ListenHash};
use listener::types::{DevIndex, ListenerId};

use super::{BURST, Peer};
use crate::load::{Chunk, Key, Load};

const BOUND: DevIndex = DevIndex(1);
const GROUP: u32 = 4;

/// The same listeners in both tables.
pub struct Mixed {
    table: ListenHash,
    lists: HashMap<HashKey, KeyList, RandomState>,
}

impl Mixed {
    /// With `load`'s keys.
    ///
    /// # Panics
    /// If they do not fit, which is a fault in the table.
    pub fn new(load: &Load) -> Self {
        let table = ListenHash::new(1 << 22, *b"the bench secret");
        let mut lists: HashMap<HashKey, KeyList, RandomState> = HashMap::default();
        let mut fresh = load.len();
        for (key, id) in load.listeners() {
            let key = key.hash_key();
            for entry in entries(id, &mut fresh) {
                let hashed = table.update(key, |list| list.inet_hash(entry));
                assert_eq!(hashed, Ok(Ok(())), "{key:?}");
                let listed = lists.entry(key).or_default().inet_hash(entry);
                assert_eq!(listed, Ok(()), "{key:?}");
            }
        }
        Self { table, lists }
    }

    /// The contestants.
    pub fn peers(&self) -> Vec<Box<dyn Peer + '_>> {
        vec![Box::new(Burst(self)), Box::new(Single(self)), Box::new(Lists(self))]
    }
}

/// What the key of listener `id` holds; further ids are taken from `fresh` on.
fn entries(id: ListenerId, fresh: &mut u32) -> Vec<ListEntry> {
    let plain = ListEntry::v4(id);
    let mut another = || {
        *fresh += 1;
        ListenerId(*fresh)
    };
    match id.0 % 10 {
        8 => vec![plain, ListEntry { dev: BOUND, ..ListEntry::v4(another()) }],
        9 => {
            let member = |id| ListEntry { reuseport: true, ..ListEntry::v4(id) };
            std::iter::once(id).chain((1..GROUP).map(|_| another())).map(member).collect()
        }
        _ => vec![plain],
    }
}

macro_rules! unchanged {
    () => {
        fn open(&self, _: Key, _: ListenerId) {}

        fn close(&self, _: Key, _: ListenerId) {}
    };
}

struct Burst<'t>(&'t Mixed);

impl Peer for Burst<'_> {
    fn name(&self) -> &str {
        "hearken, mixed keys"
    }

    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
        let table = &self.0.table;
        for (keys, found) in chunk.listen.chunks(BURST).zip(found.chunks_mut(BURST)) {
            table.inet_lookup_listener_burst(&table.pin(), keys, found);
        }
    }

    unchanged!();
}

struct Single<'t>(&'t Mixed);

impl Peer for Single<'_> {
    fn name(&self) -> &str {
        "hearken single, mixed keys"
    }

    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
        let guard = self.0.table.pin();
        for (key, found) in chunk.listen.iter().zip(found) {
            *found = self.0.table.inet_lookup_listener(&guard, key);
        }
    }

    unchanged!();
}

struct Lists<'t>(&'t Mixed);

impl Peer for Lists<'_> {
    fn name(&self) -> &str {
        "map of lists, mixed keys"
    }

    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
        let Mixed { table, lists } = self.0;
        for (key, found) in chunk.listen.iter().zip(found) {
            let list = lists.get(&HashKey::new(key.flow.daddr, key.flow.dport));
            *found = list.and_then(|list| list.inet_lookup(key, || table.flow_hash(&key.flow)));
        }
    }

    unchanged!();
}
