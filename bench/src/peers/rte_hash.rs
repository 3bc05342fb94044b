//! DPDK's `rte_hash`, lock-free readers, CRC32-C of eight-byte keys: in bulk, and one by one. One key per segment.

use dpdk::{DpdkError, Eal, Memory, NumaNode, Pci, RteHash};
use listener::types::ListenerId;

use super::{BASELINE, BURST, Peer};
use crate::load::{CHURN_KEYS, Chunk, Key, Load};

/// Megabytes that the largest table takes, with room to spare.
const MEMORY_MB: u32 = 384;

/// Starts DPDK for its memory alone; on ordinary pages where there are no hugepages, and says so.
///
/// # Errors
/// What DPDK says.
pub fn start_eal() -> Result<Eal, DpdkError> {
    let (memory, why) = Memory::choose(MEMORY_MB);
    crate::output::noteln!("rte_hash: {why}");
    // Taken at once: pages that are taken as they are needed may be somebody else's by then.
    let memory = match memory {
        Memory::Hugepages { .. } => Memory::Hugepages { mb: Some(MEMORY_MB) },
        other => other,
    };
    Eal::builder().memory(memory).pci(Pci::Off).start()
}

/// The table.
pub struct RteTable(RteHash<8>);

impl RteTable {
    /// With `load`'s listeners.
    ///
    /// # Errors
    /// What DPDK says: most likely too little memory.
    pub fn new(eal: &Eal, load: &Load) -> Result<Self, DpdkError> {
        let entries = load.len() + load.len() / 4 + CHURN_KEYS;
        let table = Self(eal.rte_hash(entries, NumaNode::ANY)?);
        for (key, id) in load.listeners() {
            table.0.add(&key.packed().to_le_bytes(), id.0 as usize)?;
        }
        Ok(table)
    }
}

/// 32 keys at once.
pub(super) struct Bulk<'t>(pub(super) &'t RteTable);

impl Peer for Bulk<'_> {
    fn name(&self) -> &str {
        BASELINE
    }

    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
        let mut values = [0; BURST];
        for (keys, found) in chunk.bytes.chunks(BURST).zip(found.chunks_mut(BURST)) {
            let hits = self.0.0.lookup_bulk(keys, &mut values);
            for (lane, found) in found.iter_mut().enumerate() {
                *found = (hits >> lane & 1 != 0).then_some(ListenerId(values[lane] as u32));
            }
        }
    }

    fn open(&self, key: Key, id: ListenerId) {
        open(self.0, key, id);
    }

    fn close(&self, key: Key, _: ListenerId) {
        close(self.0, key);
    }
}

/// One key at a time.
pub(super) struct Single<'t>(pub(super) &'t RteTable);

impl Peer for Single<'_> {
    fn name(&self) -> &str {
        "rte_hash single"
    }

    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
        for (key, found) in chunk.bytes.iter().zip(found) {
            *found = self.0.0.lookup(key).map(|value| ListenerId(value as u32));
        }
    }

    fn open(&self, key: Key, id: ListenerId) {
        open(self.0, key, id);
    }

    fn close(&self, key: Key, _: ListenerId) {
        close(self.0, key);
    }
}

fn open(table: &RteTable, key: Key, id: ListenerId) {
    let added = table.0.add(&key.packed().to_le_bytes(), id.0 as usize);
    assert!(added.is_ok(), "rte_hash has room: {added:?}");
}

fn close(table: &RteTable, key: Key) {
    assert!(table.0.remove(&key.packed().to_le_bytes()), "{key:?}");
}
