//! Maps by name, and the two shapes in which the programs use them.

use std::collections::HashMap;
use std::marker::PhantomData;

use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions};
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

/// The maps of program `id`.
pub(crate) fn maps_of(id: u32) -> impl Iterator<Item = MapHandle> {
    let options = ProgInfoQueryOptions::default().include_map_ids(true);
    let info = ProgInfoIter::with_query_opts(options).find(|info| info.id == id);
    let ids = info.map(|info| info.map_ids).unwrap_or_default();
    ids.into_iter().filter_map(|id| MapHandle::from_map_id(id).ok())
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

/// A hash map whose entries are held here as well, so that new ones are written as the difference.
pub(crate) struct Entries<K> {
    map: MapHandle,
    name: &'static str,
    held: HashMap<Vec<u8>, u32>,
    kind: PhantomData<fn(K)>,
}

/// What an entry of [`Entries`] looks like in the map.
pub(crate) trait Entry {
    /// Its key.
    fn key(&self) -> Vec<u8>;
    /// Its value.
    fn value(&self) -> u32;
}

impl Entry for Endpoint {
    fn key(&self) -> Vec<u8> {
        self.octets().to_vec()
    }

    fn value(&self) -> u32 {
        1
    }
}

impl<K: Entry> Entries<K> {
    pub(crate) fn new(map: MapHandle, name: &'static str) -> Self {
        Self { map, name, held: HashMap::new(), kind: PhantomData }
    }

    /// Makes the map hold `wanted` and nothing else.
    pub(crate) fn set<'a>(&mut self, wanted: impl IntoIterator<Item = &'a K>) -> Result<(), BpfError>
    where
        K: 'a,
    {
        let Self { map, name, held, .. } = self;
        let err = |source| BpfError::Map { map: name, source };
        let wanted: HashMap<_, _> = wanted.into_iter().map(|entry| (entry.key(), entry.value())).collect();
        let gone: Vec<Vec<u8>> = held.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for key in gone {
            map.delete(&key).map_err(err)?;
            held.remove(&key);
        }
        for (key, value) in wanted {
            if held.get(&key) != Some(&value) {
                map.update(&key, &value.to_ne_bytes(), MapFlags::ANY).map_err(err)?;
                held.insert(key, value);
            }
        }
        Ok(())
    }
}
