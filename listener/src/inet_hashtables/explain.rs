//! Why a lookup finds what it finds, step by step: for people, not for packets.

use super::{HashKey, KeyList, ListenHash, ListenKey};
use crate::types::{InetAddr, ListenerId};

/// One of the two keys that a segment is looked up by.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Address and port.
    pub key: HashKey,
    /// Where the key stands, or would stand.
    pub bucket: BucketOf,
    /// What stands there: listeners in list order, and their groups.
    pub list: KeyList,
    /// What the list answers.
    pub found: Option<ListenerId>,
}

/// A place in the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketOf {
    /// Of a table of `buckets` buckets: the key's first, the one that takes what finds no room there, and whether this
    /// key had to.
    Hashed {
        /// Number of the first bucket.
        first: usize,
        /// Number of the second.
        second: usize,
        /// The key stands in the second.
        displaced: bool,
        /// Buckets in the table, which doubles as it fills.
        buckets: usize,
    },
    /// Wildcards stand in an array by port.
    Port(u16),
}

impl ListenHash {
    /// How `key` is looked up now: exact address, then the wildcard.
    pub fn explain(&self, key: &ListenKey) -> [Tried; 2] {
        [key.flow.daddr, InetAddr::ANY_V4].map(|addr| {
            let at = HashKey::new(addr, key.flow.dport);
            let list = self.key_list(at);
            let found = list.inet_lookup(key, || self.flow_hash(&key.flow));
            Tried { key: at, bucket: self.bucket_of(at), list, found }
        })
    }

    /// True if `key` stands in its second bucket: the longest way that a lookup can take.
    pub fn is_displaced(&self, key: HashKey) -> bool {
        matches!(self.bucket_of(key), BucketOf::Hashed { displaced: true, .. })
    }

    fn bucket_of(&self, key: HashKey) -> BucketOf {
        if key.addr().is_any() {
            return BucketOf::Port(key.port().0);
        }
        let guard = self.pin();
        let table = if key.addr().is_v4() { &self.v4 } else { &self.v6 };
        let (view, hash) = (table.view(&guard), self.mix.hash(key.addr(), key.port()));
        let (first, second, buckets) = view.places(hash);
        let displaced = view.find(hash, |node| node.key == key).is_some_and(|entry| entry.is_displaced());
        BucketOf::Hashed { first, second, displaced, buckets }
    }
}
