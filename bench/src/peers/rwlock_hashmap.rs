//! std's map behind std's lock, taken once per 32 keys.

use foldhash::fast::RandomState;
use listener::types::ListenerId;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::{BURST, Peer, any_of, wildcard};
use crate::load::{Chunk, Key, Load};

/// The table.
pub(super) struct RwLockHashMap(RwLock<HashMap<u64, ListenerId, RandomState>>);

impl RwLockHashMap {
    /// With `load`'s listeners.
    pub(super) fn new(load: &Load) -> Self {
        let table = Self(RwLock::default());
        for (key, id) in load.listeners() {
            table.open(key, id);
        }
        let (port, id) = wildcard(load);
        table.open(Key { addr: 0, port }, id);
        table
    }
}

impl Peer for RwLockHashMap {
    fn name(&self) -> &str {
        "RwLock<HashMap>"
    }

    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
        for (keys, found) in chunk.packed.chunks(BURST).zip(found.chunks_mut(BURST)) {
            let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
            for (&key, found) in keys.iter().zip(found) {
                *found = table.get(&key).or_else(|| table.get(&any_of(key))).copied();
            }
        }
    }

    fn open(&self, key: Key, id: ListenerId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key.packed(), id);
    }

    fn close(&self, key: Key, _: ListenerId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&key.packed());
    }
}
