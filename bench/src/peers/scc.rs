//! scc: a lock per bucket, taken per key.

use ::scc::HashMap;
use foldhash::fast::RandomState;
use listener::types::ListenerId;

use super::{Peer, any_of, wildcard};
use crate::load::{Chunk, Key, Load};

/// The table.
pub(super) struct Scc(HashMap<u64, ListenerId, RandomState>);

impl Scc {
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

impl Peer for Scc {
    fn name(&self) -> &str {
        "scc"
    }

    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
        for (key, found) in chunk.packed.iter().zip(found) {
            let exact = self.0.read_sync(key, |_, &id| id);
            *found = exact.or_else(|| self.0.read_sync(&any_of(*key), |_, &id| id));
        }
    }

    fn open(&self, key: Key, id: ListenerId) {
        let _ = self.0.insert_sync(key.packed(), id);
    }

    fn close(&self, key: Key, _: ListenerId) {
        self.0.remove_sync(&key.packed());
    }
}
