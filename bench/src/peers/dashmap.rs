//! dashmap: shards with a lock each, taken per key.

use ::dashmap::DashMap;
use foldhash::fast::RandomState;
use listener::types::ListenerId;

use super::{Peer, any_of, wildcard};
use crate::load::{Chunk, Key, Load};

/// The table.
pub(super) struct Dash(DashMap<u64, ListenerId, RandomState>);

impl Dash {
    /// With `load`'s listeners.
    pub(super) fn new(load: &Load) -> Self {
        let table = Self(DashMap::default());
        for (key, id) in load.listeners() {
            table.open(key, id);
        }
        let (port, id) = wildcard(load);
        table.open(Key { addr: 0, port }, id);
        table
    }
}

impl Peer for Dash {
    fn name(&self) -> &str {
        "dashmap"
    }

    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
        for (&key, found) in chunk.packed.iter().zip(found) {
            *found = self.0.get(&key).or_else(|| self.0.get(&any_of(key))).map(|id| *id);
        }
    }

    fn open(&self, key: Key, id: ListenerId) {
        self.0.insert(key.packed(), id);
    }

    fn close(&self, key: Key, _: ListenerId) {
        self.0.remove(&key.packed());
    }
}
