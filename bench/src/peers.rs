//! The contestants of the lookup bench, one file each.
//!
//! What they do per segment differs, and not in hearken's favour: hearken and the chain answer as the kernel does (exact
//! address, then wildcard; devices and groups where there are any); the maps look a second key up where the first is not
//! there; `rte_hash` looks one key up and is done. All maps get the same fast keyed hasher (foldhash), their own
//! default being slower.

mod chained;
mod dashmap;
mod hearken;
mod mixed;
mod papaya;
mod rte_hash;
mod rwlock_hashmap;
mod scc;

use listener::types::ListenerId;

use crate::load::{Chunk, Key, Load};

pub use chained::Chained;
pub use hearken::Hearken;
pub use mixed::Mixed;
pub use rte_hash::{RteTable, start_eal};

/// The baseline of all ratios.
pub const BASELINE: &str = "rte_hash bulk";

/// Keys of one batched lookup.
pub const BURST: usize = 32;

/// Whatever answers lookups.
pub trait Peer: Sync {
    /// As the report prints it.
    fn name(&self) -> &str;

    /// Answers all segments of `chunk` in `found`.
    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]);

    /// A listener appears. Called by one thread at a time, while others look up.
    fn open(&self, key: Key, id: ListenerId);

    /// A listener goes.
    fn close(&self, key: Key, id: ListenerId);
}

/// Where every listener's wildcard twin would stand for the maps.
const fn any_of(packed: u64) -> u64 {
    packed & 0xffff
}

/// hearken in bursts.
pub fn burst(hearken: &Hearken) -> Box<dyn Peer + '_> {
    Box::new(hearken::Burst(hearken))
}

/// The baseline.
pub fn bulk(rte: &RteTable) -> Box<dyn Peer + '_> {
    Box::new(rte_hash::Bulk(rte))
}

/// All contestants, filled with `load`'s listeners, and one wildcard listener on a port that nobody asks for, so that
/// none may skip the wildcard (rte_hash has none and does).
pub fn all<'t>(load: &Load, hearken: &'t Hearken, rte: &'t RteTable) -> Vec<Box<dyn Peer + 't>> {
    let mut all: Vec<Box<dyn Peer + 't>> =
        vec![Box::new(hearken::Burst(hearken)), Box::new(hearken::Single(hearken))];
    all.push(Box::new(rte_hash::Bulk(rte)));
    all.push(Box::new(rte_hash::Single(rte)));
    others(load, &mut all);
    all
}

fn others(load: &Load, all: &mut Vec<Box<dyn Peer + '_>>) {
    all.push(Box::new(rwlock_hashmap::RwLockHashMap::new(load)));
    all.push(Box::new(dashmap::Dash::new(load)));
    all.push(Box::new(papaya::Papaya::new(load)));
    all.push(Box::new(scc::Scc::new(load)));
    all.push(Box::new(Chained::new(load)));
}

/// The wildcard listener of all tables: a port and an id of its own.
fn wildcard(load: &Load) -> (u16, ListenerId) {
    (9, ListenerId(load.len() + crate::load::CHURN_KEYS))
}
