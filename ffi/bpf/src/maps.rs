//! Maps by name, and the two shapes in which the programs use them.

use std::collections::HashSet;

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};

use crate::{BpfError, Endpoint};

/// The map `name` of a loaded object.
pub(crate) fn map_of(object: &Object, name: &'static str) -> Result<MapHandle, BpfError> {
    let map = object.maps().find(|map| map.name() == name);
    let map = map.ok_or_else(|| BpfError::Map {
        map: name,
        source: crate::error::missing("there is none of this name in the object"),
    })?;
    MapHandle::try_from(&map).map_err(|source| BpfError::Map { map: name, source })
}

/// The sums over all CPUs of a per-CPU array of counters.
pub(crate) fn sums(map: &MapHandle, name: &'static str, count: usize) -> Result<Vec<u64>, BpfError> {
    let one = |index: u32| {
        let value = map.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY);
        let value = value.map_err(|source| BpfError::Map { map: name, source })?.unwrap_or_default();
        let number = |bytes: &Vec<u8>| bytes.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        Ok(value.iter().map(number).sum())
    };
    (0..count as u32).map(one).collect()
}

/// A map whose keys are a set that is held here as well, so that a new set is written as the difference.
pub(crate) struct KeySet<K> {
    map: MapHandle,
    name: &'static str,
    keys: HashSet<K>,
}

/// What a key of a [`KeySet`] looks like in the map.
pub(crate) trait Key: Copy + Eq + std::hash::Hash {
    /// Its octets.
    fn octets(&self) -> Vec<u8>;
    /// Of its value.
    fn value(&self) -> u32;
}

impl Key for Endpoint {
    fn octets(&self) -> Vec<u8> {
        self.key().to_vec()
    }

    fn value(&self) -> u32 {
        1
    }
}

impl<K: Key> KeySet<K> {
    pub(crate) fn new(map: MapHandle, name: &'static str) -> Self {
        Self { map, name, keys: HashSet::new() }
    }

    /// Makes the map hold `wanted` and nothing else.
    pub(crate) fn set(&mut self, wanted: HashSet<K>) -> Result<(), BpfError> {
        let Self { map, name, keys } = self;
        let err = |source| BpfError::Map { map: name, source };
        for key in wanted.difference(keys) {
            map.update(&key.octets(), &key.value().to_ne_bytes(), MapFlags::ANY).map_err(err)?;
        }
        for key in
            keys.difference(&wanted).filter(|key| !wanted.iter().any(|new| new.octets() == key.octets()))
        {
            map.delete(&key.octets()).map_err(err)?;
        }
        *keys = wanted;
        Ok(())
    }
}
