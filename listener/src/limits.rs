//! Fixed sizes, each with its reason.

/// Frames in one burst at most, and so keys in one batched lookup.
pub const BURST_MAX: usize = 64;

/// Workers at most: what a command ring, a copy of the cookie keys and a histogram set per worker still cost little for.
pub const CORES_MAX: u16 = 128;

/// Devices at most, so that a [`crate::types::DevIndex`] never meets its zero.
pub const DEVICES_MAX: usize = 1024;

/// Members of one reuseport group, closed ones counted; ENOMEM beyond. The kernel's array starts at 128 places,
/// doubles, and may not pass 65,535, which stops it here (`reuseport_grow`, Linux v6.18).
pub const REUSEPORT_MEMBERS_MAX: usize = 32_768;

/// Closed members of reuseport groups that are kept under `tcp_migrate_req`, so that their half-open requests can move
/// to other members. Nothing tells the control side when the last of them has moved, so the oldest give way.
pub const PARKED_MAX: usize = 1024;

/// How often `listen` asks again for a slot that a worker's burst still holds, yielding in between, before it gives up:
/// some tenths of a second. A burst is over much earlier, unless the caller itself holds a guard.
pub const RECLAIM_TRIES: u32 = 1 << 16;

/// How much fixed memory a [`crate::Stack`] and its cores take. Nothing on the packet path grows beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sockets in LISTEN at a time; `listen` answers ENOBUFS beyond.
    pub listeners_max: u32,
    /// Half-open handshakes per core; a SYN is dropped (or answered by a cookie) beyond.
    pub requests_per_core: u32,
    /// Connections and TIME_WAIT entries per core, those in accept queues included.
    pub connections_per_core: u32,
}

impl Limits {
    /// Small enough for a unit test to build many times a second.
    pub const TINY: Self =
        Self { listeners_max: 1 << 12, requests_per_core: 1 << 10, connections_per_core: 1 << 10 };
}

impl Default for Limits {
    /// A million listeners, and per core what one gigabyte of memory holds with room to spare.
    fn default() -> Self {
        Self { listeners_max: 1 << 20, requests_per_core: 1 << 18, connections_per_core: 1 << 18 }
    }
}
