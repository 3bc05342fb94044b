//! Safe handles for the part of DPDK that a poll-mode packet server needs.
//!
//! # Order of life
//! [`Eal`] (once per process) → [`Mempool`] and [`Port`] → [`Configured`] → [`Started`] with one [`RxQueue`]
//! and one [`TxQueue`] per pair → [`Mbuf`]. Every handle but `Mbuf` keeps the EAL alive. An `Mbuf` is one
//! bare pointer and keeps nothing alive, so a pool lives until the EAL stops, and the EAL stops only when
//! no handle is left and all pools are whole again.
//!
//! # Threads
//! Threads are std's. One that polls is pinned first and then calls [`Eal::register_thread`], which gives it
//! an lcore id and with it the per-lcore caches of the pools. Control calls (attach, configure, start, stop,
//! counters) may come from any thread; they take one lock per EAL.
//!
//! # Not here
//! Multi-process, flow rules, LRO and TSO, `MBUF_FAST_FREE` (it needs all frames of a queue to be of one
//! pool, which nobody checks), interrupts.
#![deny(clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

mod clock;
mod eal;
mod error;
#[cfg(feature = "hash")]
mod hash;
mod hugepages;
mod ids;
mod lcore;
mod log;
mod mbuf;
mod mempool;
mod port;
mod queue;
mod ring_pair;
mod telemetry;

pub use clock::{rdtsc, tsc_hz};
pub use eal::{Eal, EalBuilder, Memory, Pci, version};
pub use error::DpdkError;
#[cfg(feature = "hash")]
pub use hash::{HASH_BULK_MAX, RteHash};
pub use hugepages::hugepages_free_mb;
pub use ids::{LcoreId, NumaNode, PortId, QueueId};
pub use lcore::{Lcore, LcoreUsage};
pub use mbuf::{Checksum, Mbuf, RxTimestampField, TxRequest};
pub use mempool::{DATA_ROOM, Mempool, PoolNeed};
pub use port::{
    Capabilities, Configured, Link, MacAddr, Offloads, Port, PortConfig, PortCounters, PortInfo, RssKey,
    Started, open_descriptors,
};
pub use queue::{RxQueue, TX_BURST_MAX, TxBurst, TxQueue, wait_for_interrupt};
