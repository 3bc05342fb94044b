//! hearken's listening hash: in bursts as the workers ask, and one by one.

use listener::inet_hashtables::{HashKey, ListEntry, ListenHash};
use listener::types::{InetAddr, ListenerId, TcpPort};

use super::{BURST, Peer, wildcard};
use crate::load::{Chunk, Key, Load};

/// The table.
pub struct Hearken(pub ListenHash);

impl Hearken {
    /// With `load`'s listeners.
    ///
    /// # Panics
    /// If they do not fit, which is a fault in the table.
    pub fn new(load: &Load, kernel: Option<&str>) -> Self {
        let mut table = ListenHash::new(1 << 22, *b"the bench secret");
        if let Some(kernel) = kernel {
            assert!(table.set_kernel(kernel), "{kernel}: this machine has {:?}", ListenHash::kernels());
        }
        let table = Self(table);
        for (key, id) in load.listeners() {
            table.open(key.hash_key(), id);
        }
        let (port, id) = wildcard(load);
        table.open(HashKey::new(InetAddr::ANY_V4, TcpPort(port)), id);
        table
    }

    fn open(&self, key: HashKey, id: ListenerId) {
        let opened = self.0.update(key, |list| list.inet_hash(ListEntry::v4(id)));
        assert_eq!(opened, Ok(Ok(())), "{key:?}");
    }

    fn close(&self, key: HashKey, id: ListenerId) {
        let gone = self.0.update(key, |list| list.inet_unhash(id, false).is_some());
        assert_eq!(gone, Ok(true), "{key:?}");
    }
}

/// 32 keys at once under one guard.
pub(super) struct Burst<'t>(pub(super) &'t Hearken);

impl Peer for Burst<'_> {
    fn name(&self) -> &str {
        "hearken"
    }

    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
        let table = &self.0.0;
        for (keys, found) in chunk.listen.chunks(BURST).zip(found.chunks_mut(BURST)) {
            table.inet_lookup_listener_burst(&table.pin(), keys, found);
        }
    }

    fn open(&self, key: Key, id: ListenerId) {
        self.0.open(key.hash_key(), id);
    }

    fn close(&self, key: Key, id: ListenerId) {
        self.0.close(key.hash_key(), id);
    }
}

/// One key at a time, one guard per 32.
pub(super) struct Single<'t>(pub(super) &'t Hearken);

impl Peer for Single<'_> {
    fn name(&self) -> &str {
        "hearken single"
    }

    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
        let table = &self.0.0;
        for (keys, found) in chunk.listen.chunks(BURST).zip(found.chunks_mut(BURST)) {
            let guard = table.pin();
            for (key, found) in keys.iter().zip(found) {
                *found = table.inet_lookup_listener(&guard, key);
            }
        }
    }

    fn open(&self, key: Key, id: ListenerId) {
        self.0.open(key.hash_key(), id);
    }

    fn close(&self, key: Key, id: ListenerId) {
        self.0.close(key.hash_key(), id);
    }
}
