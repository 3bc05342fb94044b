//! How a [`KeyList`] lies in a table: as a word where that says all, else in a node.

use super::key_list::{HashKey, KeyList, ListEntry};
use super::{LISTENER_IDS, ListenHash, ListenKey};
use crate::bucket::{Full, Held, Wild};
use crate::types::{CoreId, ListenerId};

/// What a key holds where a word of the table has no room for it.
pub(super) struct KeyNode {
    pub(super) key: HashKey,
    body: Body,
}

enum Body {
    One(ListEntry),
    Many(Box<KeyList>),
}

const _: () = assert!(size_of::<KeyNode>() < 64, "a node and its cell's flag are one cache line");

impl KeyNode {
    fn new(key: HashKey, list: KeyList) -> Self {
        let body = match list.plain() {
            Some(&one) => Body::One(one),
            None => Body::Many(Box::new(list)),
        };
        Self { key, body }
    }

    fn list(&self) -> KeyList {
        match &self.body {
            Body::One(entry) => KeyList::of_one(*entry),
            Body::Many(list) => KeyList::clone(list),
        }
    }

    #[inline]
    pub(super) fn lookup(&self, hash: &ListenHash, key: &ListenKey) -> Option<ListenerId> {
        match &self.body {
            Body::One(entry) => entry.serves(key.flow.is_v4()).then_some(entry.id),
            Body::Many(list) => list.inet_lookup(key, || hash.flow_hash(&key.flow)),
        }
    }

    /// See [`KeyList::reuseport_migrate`].
    pub(super) fn reuseport_migrate(
        &self,
        closed: ListenerId,
        core: CoreId,
        hash: u32,
    ) -> Option<ListenerId> {
        match &self.body {
            Body::Many(list) => list.reuseport_migrate(closed, core, hash),
            Body::One(_) => None,
        }
    }
}

pub(super) fn exact_list(held: Held<&KeyNode>) -> KeyList {
    match held {
        Held::One(id) => KeyList::of_one(ListEntry::v4(id)),
        Held::List(node) => node.list(),
    }
}

pub(super) fn any_list(held: Wild<&KeyNode>) -> KeyList {
    match held {
        Wild::One { id, ipv6: false, .. } => KeyList::of_one(ListEntry::v4(id)),
        Wild::One { id, ipv4, .. } => KeyList::of_one(ListEntry { v6only: !ipv4, ..ListEntry::v6(id) }),
        Wild::List(node) => node.list(),
    }
}

/// True if all ids fit into words.
fn fits(list: &KeyList) -> bool {
    list.entries().iter().all(|entry| entry.id.0 < LISTENER_IDS)
}

pub(super) fn edit_exact<R>(
    key: HashKey,
    held: Option<Held<&KeyNode>>,
    f: impl FnOnce(&mut KeyList) -> R,
) -> Result<(Option<Held<KeyNode>>, R), Full> {
    let mut list = held.map(exact_list).unwrap_or_default();
    let result = f(&mut list);
    if !fits(&list) {
        return Err(Full);
    }
    let held = match list.plain() {
        _ if list.is_empty() => None,
        // An IPv6 socket on a mapped address scores differently, which its word could not tell later.
        Some(one) if key.addr().is_v4() && !one.ipv6 => Some(Held::One(one.id)),
        _ => Some(Held::List(KeyNode::new(key, list))),
    };
    Ok((held, result))
}

pub(super) fn edit_any<R>(
    key: HashKey,
    held: Option<Wild<&KeyNode>>,
    f: impl FnOnce(&mut KeyList) -> R,
) -> Result<(Option<Wild<KeyNode>>, R), Full> {
    let mut list = held.map(any_list).unwrap_or_default();
    let result = f(&mut list);
    if !fits(&list) {
        return Err(Full);
    }
    let held = match list.plain() {
        _ if list.is_empty() => None,
        // As above, one bound to `::ffff:0.0.0.0`.
        Some(one) if !one.mapped => {
            Some(Wild::One { id: one.id, ipv4: one.serves(true), ipv6: one.serves(false) })
        }
        _ => Some(Wild::List(KeyNode::new(key, list))),
    };
    Ok((held, result))
}
