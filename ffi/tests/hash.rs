//! The `rte_hash` handle against a `HashMap`.
#![cfg(feature = "hash")]

mod common;

use std::collections::HashMap;

use dpdk::{HASH_BULK_MAX, NumaNode};

fn key(n: u32) -> [u8; 8] {
    u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
}

#[test]
fn agrees_with_a_hash_map() {
    let table = common::eal().rte_hash::<8>(4096, NumaNode::ANY).expect("it fits");
    let mut model = HashMap::new();
    for n in 0..3000 {
        table.add(&key(n), n as usize).expect("room");
        model.insert(key(n), n as usize);
    }
    for n in (0..3000).step_by(3) {
        assert!(table.remove(&key(n)) && !table.remove(&key(n)));
        model.remove(&key(n));
    }
    table.add(&key(1), 77).expect("replaced");
    model.insert(key(1), 77);
    assert_eq!(table.len(), model.len());
    for first in (0..4000u32).step_by(HASH_BULK_MAX) {
        let keys: Vec<[u8; 8]> = (first..first + HASH_BULK_MAX as u32).map(key).collect();
        let mut values = [0; HASH_BULK_MAX];
        let hits = table.lookup_bulk(&keys, &mut values);
        for (index, key) in keys.iter().enumerate() {
            let bulk = (hits >> index & 1 == 1).then(|| values[index]);
            assert_eq!(bulk, model.get(key).copied());
            assert_eq!(table.lookup(key), bulk);
        }
    }
}

#[test]
fn removed_slots_come_back() {
    let table = common::eal().rte_hash::<8>(1024, NumaNode::ANY).expect("it fits");
    for n in 0..100_000 {
        table.add(&key(n), 1).expect("one key at a time never fills it");
        assert!(table.remove(&key(n)));
    }
    assert!(table.is_empty());
}
