//! The listening hash: which listener answers a segment for (our address, our port).

mod key_list;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

pub use crate::sync::epoch::Guard;
pub use key_list::{HashKey, KeyList, ListEntry, NO_GROUP, compute_score};

use crate::segment::FlowKey;
use crate::sync::epoch;
use crate::types::{CoreId, DevIndex, InetAddr, ListenerId};

/// Ids of listeners lie below this: so many fit into a word of the table.
pub const LISTENER_IDS: u32 = 1 << 22;

/// The hash has no room for another key, or the listener's id is not below [`LISTENER_IDS`]: ENOBUFS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

/// What a segment is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ListenKey {
    /// The two ends.
    pub flow: FlowKey,
    /// The device it came in on.
    pub dev: DevIndex,
    /// The worker that asks.
    pub core: CoreId,
}

/// The listening hash. One for all workers; see the module's head.
#[derive(Debug)]
pub struct ListenHash {
    secret: [u64; 4],
    keys: RwLock<HashMap<HashKey, Arc<KeyList>>>,
    keys_max: usize,
}

impl ListenHash {
    /// An empty hash for at most `keys_max` keys. `secret` is random and kept from everybody: hashes depend on it.
    pub fn new(keys_max: u32, secret: [u8; 16]) -> Self {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&secret[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (low, high) = (word(0), word(8));
        let secret = [low, high, low.rotate_left(32) ^ high, low ^ high.rotate_left(32)].map(|word| word | 1);
        Self { secret, keys: RwLock::default(), keys_max: keys_max as usize }
    }

    /// Edits what `key` holds: `f` gets the list (empty if there is none), and readers see the list before or the
    /// list after. An empty list leaves the hash. Returns what `f` returned.
    ///
    /// # Errors
    /// [`TableFull`]; the hash is then as before.
    pub fn update<R>(&self, key: HashKey, f: impl FnOnce(&mut KeyList) -> R) -> Result<R, TableFull> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let mut list = keys.get(&key).map(|list| KeyList::clone(list)).unwrap_or_default();
        let result = f(&mut list);
        if list.is_empty() {
            keys.remove(&key);
            return Ok(result);
        }
        let fits = list.entries().iter().all(|entry| entry.id.0 < LISTENER_IDS);
        if !fits || (!keys.contains_key(&key) && keys.len() >= self.keys_max) {
            return Err(TableFull);
        }
        keys.insert(key, Arc::new(list));
        Ok(result)
    }

    /// Holds reclaim back while it lives: one per burst. Ids found under it name the listener that was found until
    /// it is dropped.
    #[inline]
    pub fn pin(&self) -> Guard {
        epoch::pin()
    }

    /// Runs `reclaim` once no guard that is held now is left: gives the slot of an unhashed listener back.
    pub fn defer_slot_reuse<F: FnOnce() + Send + 'static>(&self, reclaim: F) {
        epoch::defer(&epoch::pin(), reclaim);
    }

    /// The hash by which a flow chooses among a group, and by which what it left migrates.
    ///
    /// Stands for `inet_ehashfn` with `inet_ehash_secret` (Linux v6.18); any keyed hash of the four values serves.
    #[inline]
    pub fn flow_hash(&self, flow: &FlowKey) -> u32 {
        let [a, b, c, d] = self.secret;
        let ports = u64::from(flow.sport.0) << 16 | u64::from(flow.dport.0);
        let peer = fold(flow.saddr.hi() ^ a, flow.saddr.lo() ^ b);
        let local = fold(flow.daddr.hi() ^ c, flow.daddr.lo() ^ d);
        (fold(peer ^ ports ^ d, local ^ a) >> 32) as u32
    }

    /// Answers `keys[i]` in `found[i]`.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn inet_lookup_listener_burst(
        &self,
        guard: &Guard,
        keys: &[ListenKey],
        found: &mut [Option<ListenerId>],
    ) {
        assert_eq!(keys.len(), found.len(), "one answer per key");
        for (key, found) in keys.iter().zip(found) {
            *found = self.inet_lookup_listener(guard, key);
        }
    }

    /// The listener for one segment: exact address first, then the wildcard.
    ///
    /// # Source
    /// Linux v6.18 `__inet_lookup_listener`, `inet6_lookup_listener`.
    pub fn inet_lookup_listener(&self, _guard: &Guard, key: &ListenKey) -> Option<ListenerId> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let at = |addr| keys.get(&HashKey::new(addr, key.flow.dport));
        [key.flow.daddr, InetAddr::ANY_V4]
            .into_iter()
            .find_map(|addr| at(addr)?.inet_lookup(key, || self.flow_hash(&key.flow)))
    }

    /// The listener that takes over the flow from closed group member `closed` of `key`; see
    /// [`KeyList::reuseport_migrate`].
    pub fn reuseport_migrate(
        &self,
        _guard: &Guard,
        key: HashKey,
        closed: ListenerId,
        core: CoreId,
        hash: u32,
    ) -> Option<ListenerId> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(&key)?.reuseport_migrate(closed, core, hash)
    }
}

/// Both halves of the 128-bit product, folded together.
#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}
