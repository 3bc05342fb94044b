//! papaya: lock-free readers, one guard per 32 keys.

use ::papaya::HashMap;
use foldhash::fast::RandomState;
use listener::types::ListenerId;

use super::{BURST, Peer, any_of, wildcard};
use crate::load::{Chunk, Key, Load};

/// The table.
pub(super) struct Papaya(HashMap<u64, ListenerId, RandomState>);

impl Papaya {
    /// With `load`'s listeners.
    pub(super) fn new(load: &Load) -> Self {
        let table = Self(HashMap::default());
        for (key, id) in load.listeners() {
            table.open(key, id);
        }
        let (port, id) = wildcard(load);
        table.open(Key { addr: 0, port }, id);
        table
    }
}

impl Peer for Papaya {
    fn name(&self) -> &str {
        "papaya"
    }

    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
        for (keys, found) in chunk.packed.chunks(BURST).zip(found.chunks_mut(BURST)) {
            let table = self.0.pin();
            for (&key, found) in keys.iter().zip(found) {
                *found = table.get(&key).or_else(|| table.get(&any_of(key))).copied();
            }
        }
    }

    fn open(&self, key: Key, id: ListenerId) {
        self.0.pin().insert(key.packed(), id);
    }

    fn close(&self, key: Key, _: ListenerId) {
        self.0.pin().remove(&key.packed());
    }
}
