//! The shape of the kernel's lhash2: 65,536 buckets at most, a singly linked chain in each, readers without locks,
//! exact address before wildcard, the best score of the chain.
//!
//! Links are numbers of nodes, all fields atomic, writers behind a lock: as good as RCU for a bench in which the nodes
//! that change are never those that are asked for.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use listener::types::ListenerId;

use super::{Peer, any_of, wildcard};
use crate::load::{CHURN_KEYS, Chunk, Key, Load};

/// No node.
const END: u32 = u32::MAX;
const BUCKETS_MAX: u32 = 1 << 16;

/// What the lookup reads of a socket: one cache line, as in the kernel at best.
#[derive(Debug)]
#[repr(align(64))]
struct Node {
    key: AtomicU64,
    id: AtomicU32,
    dev: AtomicU32,
    next: AtomicU32,
}

/// The table.
#[derive(Debug)]
pub struct Chained {
    buckets: Box<[AtomicU32]>,
    nodes: Box<[Node]>,
    free: Mutex<Vec<u32>>,
}

impl Chained {
    /// With `load`'s listeners.
    pub fn new(load: &Load) -> Self {
        let buckets = load.len().next_power_of_two().clamp(512, BUCKETS_MAX);
        let count = load.len() + CHURN_KEYS + 1;
        let node = |_| Node {
            key: AtomicU64::new(0),
            id: AtomicU32::new(0),
            dev: AtomicU32::new(0),
            next: AtomicU32::new(END),
        };
        let table = Self {
            buckets: (0..buckets).map(|_| AtomicU32::new(END)).collect(),
            nodes: (0..count).map(node).collect(),
            free: Mutex::new((0..count).rev().collect()),
        };
        for (key, id) in load.listeners() {
            table.open(key, id);
        }
        let (port, id) = wildcard(load);
        table.open(Key { addr: 0, port }, id);
        table
    }

    /// One multiplication: no slower than the kernel's jhash.
    fn bucket(&self, key: u64) -> &AtomicU32 {
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.buckets[hash as usize & (self.buckets.len() - 1)]
    }

    fn walk(&self, key: u64) -> Option<ListenerId> {
        let (mut best, mut found) = (0, None);
        let mut at = self.bucket(key).load(Ordering::Acquire);
        while let Some(node) = self.nodes.get(at as usize) {
            let dev = node.dev.load(Ordering::Relaxed);
            if node.key.load(Ordering::Relaxed) == key && dev == 0 && best < 2 {
                (best, found) = (2, Some(ListenerId(node.id.load(Ordering::Relaxed))));
            }
            at = node.next.load(Ordering::Acquire);
        }
        found
    }
}

impl Peer for Chained {
    fn name(&self) -> &str {
        "chain per bucket (lhash2)"
    }

    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
        for (&key, found) in chunk.packed.iter().zip(found) {
            *found = self.walk(key).or_else(|| self.walk(any_of(key)));
        }
    }

    fn open(&self, key: Key, id: ListenerId) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(number) = free.pop() else { return };
        let (node, head) = (&self.nodes[number as usize], self.bucket(key.packed()));
        node.key.store(key.packed(), Ordering::Relaxed);
        node.id.store(id.0, Ordering::Relaxed);
        node.next.store(head.load(Ordering::Relaxed), Ordering::Relaxed);
        head.store(number, Ordering::Release);
    }

    fn close(&self, key: Key, _: ListenerId) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut link = self.bucket(key.packed());
        while let Some(node) = self.nodes.get(link.load(Ordering::Relaxed) as usize) {
            if node.key.load(Ordering::Relaxed) == key.packed() {
                free.push(link.load(Ordering::Relaxed));
                link.store(node.next.load(Ordering::Relaxed), Ordering::Release);
                return;
            }
            link = &node.next;
        }
    }
}
