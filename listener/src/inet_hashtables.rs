//! The listening hash: which listener answers a segment for (our address, our port).
//!
//! # Layout
//! Three tables of `bucket.rs`. IPv4 keys stand in a hash table whose words name key and listener exactly, so the
//! common case, one listener on the key with no device and no reuseport, is answered by one cache line. IPv6 keys stand
//! in a table of the same kind whose words name a node of one more line, with the whole key. The wildcards, `0.0.0.0` and
//! `::` together, are an array by port. What has more to say (several listeners, devices, groups) is a [`KeyList`] in a
//! node. Readers take no lock, wait for nobody and retry nothing; writers take one lock of 64.
//!
//! # Order
//! Exact address first, then the wildcard, as `__inet_lookup_listener` does. A family or wildcard without any listener
//! is not looked at.
//!
//! # A burst
//! [`ListenHash::inet_lookup_listener_burst`] goes over 32 keys in flat passes: hash and prefetch all; compare all; and
//! for the lanes that one word did not answer, prefetch the next line that each needs before the first of them is read.
//! [`ListenHash::inet_lookup_listener_columns`] does the same where addresses and ports stand in columns.
//!
//! # Departures from the kernel
//! No namespaces, no BPF `sk_lookup`, no VRF. Selection within a group uses our own keyed hash.
//!
//! # Checked by
//! `tests/prop_table.rs` against a map and a linear walk; `tests/loom_table.rs` for the order of the stores;
//! `tests/stress_table.rs` on real threads.

mod explain;
mod key_list;
mod node;
#[cfg(all(test, not(loom)))]
mod tests;

use std::fmt;

pub use crate::sync::epoch::Guard;
pub use explain::{BucketOf, Tried};
pub use key_list::{HashKey, KeyList, ListEntry, NO_GROUP, compute_score};

use crate::bucket::{
    Columns, Direct, Full, Held, Kernel, Keys, LANES, LaneSet, Lanes, Mix, Table, View, Wild,
};
use crate::segment::FlowKey;
use crate::sync::epoch;
use crate::types::{CoreId, DevIndex, InetAddr, ListenerId, TcpPort};
use node::{KeyNode, any_list, edit_any, edit_exact, exact_list};

/// Ids of listeners lie below this: so many fit into a word of the table.
pub const LISTENER_IDS: u32 = 1 << 22;

/// The hash has no room for another key, or the listener's id is not below [`LISTENER_IDS`]: ENOBUFS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

/// What a segment is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ListenKey {
    /// The two ends.
    pub flow: FlowKey,
    /// The device it came in on.
    pub dev: DevIndex,
    /// The worker that asks.
    pub core: CoreId,
}

/// IPv4 keys as columns, all of one length: row `i` of each is key `i`. In host byte order.
#[derive(Clone, Copy, Debug)]
pub struct KeyColumns<'a> {
    /// The peers' addresses.
    pub saddr: &'a [u32],
    /// Our addresses.
    pub daddr: &'a [u32],
    /// The peer's port in the upper half, ours in the lower.
    pub ports: &'a [u32],
    /// The device they came in on.
    pub dev: DevIndex,
    /// The worker that asks.
    pub core: CoreId,
}

impl KeyColumns<'_> {
    fn key(&self, row: usize) -> ListenKey {
        let ports = self.ports[row];
        let flow = FlowKey {
            saddr: InetAddr::v4(self.saddr[row]),
            daddr: InetAddr::v4(self.daddr[row]),
            sport: TcpPort((ports >> 16) as u16),
            dport: TcpPort(ports as u16),
        };
        ListenKey { flow, dev: self.dev, core: self.core }
    }
}

/// The listening hash. One for all workers; see the module's head.
pub struct ListenHash {
    mix: Mix,
    select: [u64; 4],
    kernel: Kernel,
    v4: Table<KeyNode>,
    v6: Table<KeyNode>,
    any: Direct<KeyNode>,
}

impl fmt::Debug for ListenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenHash")
            .field("kernel", &self.kernel_name())
            .field("v4", &self.v4.keys())
            .field("v6", &self.v6.keys())
            .field("any", &self.any.ports())
            .finish()
    }
}

impl ListenHash {
    /// An empty hash for at most `keys_max` keys of each family. `secret` is random and kept from everybody: where keys
    /// stand depends on it.
    pub fn new(keys_max: u32, secret: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, select @ ..] = expand(secret);
        Self {
            mix: Mix::new(&[a, b, c, d, e, f]),
            select,
            kernel: Kernel::best(),
            v4: Table::new(keys_max as usize, LISTENER_IDS),
            v6: Table::new(keys_max as usize, LISTENER_IDS),
            any: Direct::new(LISTENER_IDS),
        }
    }

    /// Instruction sets that this machine has, by name, the best (which is chosen by itself) first.
    pub fn kernels() -> Vec<&'static str> {
        Kernel::available().into_iter().map(Kernel::name).collect()
    }

    /// Takes another of the [`ListenHash::kernels`]. False if there is none of that name.
    pub fn set_kernel(&mut self, name: &str) -> bool {
        let kernel = Kernel::available().into_iter().find(|kernel| kernel.name() == name);
        self.kernel = kernel.unwrap_or(self.kernel);
        kernel.is_some()
    }

    /// The instruction set in use.
    pub fn kernel_name(&self) -> &'static str {
        self.kernel.name()
    }

    /// Bytes that the buckets take, nodes and lists not counted.
    pub fn bucket_bytes(&self) -> usize {
        let guard = self.pin();
        self.v4.bucket_bytes(&guard) + self.v6.bucket_bytes(&guard)
    }

    /// Edits what `key` holds: `f` gets the list (empty if there is none), and readers see the list before or the list
    /// after. An empty list leaves the hash. Returns what `f` returned. `f` runs under a lock of the hash and must not
    /// call it.
    ///
    /// # Errors
    /// [`TableFull`]; the hash is then as before.
    pub fn update<R>(&self, key: HashKey, f: impl FnOnce(&mut KeyList) -> R) -> Result<R, TableFull> {
        if key.addr().is_any() {
            return self.any.update(key.port(), |held| edit_any(key, held, f)).map_err(|Full| TableFull);
        }
        let ipv4 = key.addr().is_v4();
        let table = if ipv4 { &self.v4 } else { &self.v6 };
        let hash = self.mix.hash(key.addr(), key.port());
        table.update(hash, |node| node.key == key, |held| edit_exact(key, held, f)).map_err(|Full| TableFull)
    }

    /// What `key` holds now.
    pub fn key_list(&self, key: HashKey) -> KeyList {
        let guard = self.pin();
        if key.addr().is_any() {
            return self.any.find(key.port(), &guard).map(any_list).unwrap_or_default();
        }
        let table = if key.addr().is_v4() { &self.v4 } else { &self.v6 };
        let hash = self.mix.hash(key.addr(), key.port());
        let entry = table.view(&guard).find(hash, |node| node.key == key);
        entry.and_then(|entry| entry.held()).map(exact_list).unwrap_or_default()
    }

    /// First and second bucket of a key in the smallest table, for tests that want keys to meet.
    #[cfg(loom)]
    pub fn buckets(&self, key: HashKey) -> (usize, usize) {
        self.mix.buckets(key.addr(), key.port())
    }

    /// Holds reclaim back while it lives: one per burst. Ids found under it name the listener that was found until it is
    /// dropped.
    #[inline]
    pub fn pin(&self) -> Guard {
        epoch::pin()
    }

    /// Runs `reclaim` once no guard that is held now is left: gives the slot of an unhashed listener back. It runs here or
    /// in a later call that defers or reclaims, whoever makes it, so it must not call the hash.
    pub fn defer_slot_reuse<F: FnOnce() + Send + 'static>(&self, reclaim: F) {
        epoch::defer(reclaim);
    }

    /// Gives back at once what has been deferred and is no longer looked at, instead of in batches: for a writer that has
    /// run out of slots. Costs the workers a microsecond.
    pub fn reclaim(&self) {
        epoch::reclaim();
    }

    /// The hash by which a flow chooses among a group, and by which what it left migrates.
    ///
    /// Stands for `inet_ehashfn` with `inet_ehash_secret` (Linux v6.18); any keyed hash of the four values serves.
    #[inline]
    pub fn flow_hash(&self, flow: &FlowKey) -> u32 {
        let [a, b, c, d] = self.select;
        let ports = u64::from(flow.sport.0) << 16 | u64::from(flow.dport.0);
        let peer = fold(flow.saddr.hi() ^ a, flow.saddr.lo() ^ b);
        let local = fold(flow.daddr.hi() ^ c, flow.daddr.lo() ^ d);
        (fold(peer ^ ports ^ d, local ^ a) >> 32) as u32
    }

    /// Answers `keys[i]` in `found[i]`, each as [`ListenHash::inet_lookup_listener`] does.
    ///
    /// # Panics
    /// If the slices differ in length.
    #[inline]
    pub fn inet_lookup_listener_burst(
        &self,
        guard: &Guard,
        keys: &[ListenKey],
        found: &mut [Option<ListenerId>],
    ) {
        assert_eq!(keys.len(), found.len(), "one answer per key");
        for (keys, found) in keys.chunks(LANES).zip(found.chunks_mut(LANES)) {
            let lanes = self.pass(guard, keys, found);
            if lanes.unanswered() {
                self.burst_rest(guard, |lane| keys[lane], found, lanes);
            }
        }
    }

    /// The listener of every IPv4 segment to `daddr` and `dport`, or none, if that is the same wherever it comes from; `None`
    /// if it is not: there are several, or a device is asked for.
    #[inline]
    pub fn inet_lookup_listener_alike(
        &self,
        guard: &Guard,
        daddr: InetAddr,
        dport: TcpPort,
    ) -> Option<Option<ListenerId>> {
        if self.v4.keys() > 0
            && let Some(entry) = self.v4.view(guard).find(self.mix.hash(daddr, dport), |_| true)
        {
            return match entry.held()? {
                Held::One(id) => Some(Some(id)),
                Held::List(_) => None,
            };
        }
        match self.any.find(dport, guard) {
            None => Some(None),
            Some(Wild::One { id, ipv4, .. }) => Some(ipv4.then_some(id)),
            Some(Wild::List(_)) => None,
        }
    }

    /// As [`ListenHash::inet_lookup_listener_burst`], of IPv4 keys that stand in columns. Any words will do where the answer
    /// is of no interest.
    ///
    /// # Panics
    /// If the columns and `found` differ in length.
    #[inline]
    pub fn inet_lookup_listener_columns(
        &self,
        guard: &Guard,
        keys: &KeyColumns<'_>,
        found: &mut [Option<ListenerId>],
    ) {
        let rows = found.len();
        let columns = [keys.saddr.len(), keys.daddr.len(), keys.ports.len()];
        assert_eq!(columns, [rows; 3], "one answer per key");
        for (pass, found) in found.chunks_mut(LANES).enumerate() {
            let from = pass * LANES;
            let rows = from..from + found.len();
            let columns = Columns { daddr: &keys.daddr[rows.clone()], ports: &keys.ports[rows] };
            let lanes = self.pass(guard, columns, found);
            if lanes.unanswered() {
                self.burst_rest(guard, |lane| keys.key(from + lane), found, lanes);
            }
        }
    }

    /// What single words answer of up to [`LANES`] keys.
    #[inline(always)]
    fn pass(&self, guard: &Guard, keys: impl Keys, found: &mut [Option<ListenerId>]) -> Lanes {
        let wild = self.any.wilds(guard);
        if self.v4.keys() > 0 {
            self.v4.view(guard).exact_pass(self.kernel, wild, &self.mix, keys, found)
        } else {
            self.kernel.wild_pass(wild, keys, found)
        }
    }

    /// The lanes of a burst that need more than one word: lists, second buckets, IPv6, the wildcard.
    #[inline(never)]
    fn burst_rest(
        &self,
        guard: &Guard,
        key: impl Fn(usize) -> ListenKey,
        found: &mut [Option<ListenerId>],
        lanes: Lanes,
    ) {
        let mut wild = lanes.missed;
        if !lanes.slow.is_empty() {
            wild.0 |= self.rest_slow(guard, &key, found, lanes).0;
        }
        if lanes.other_family {
            let six = (0..found.len()).filter(|&lane| !key(lane).flow.is_v4());
            let six = LaneSet(six.fold(0, |six, lane| six | 1 << lane));
            wild.0 = wild.0 & !six.0 | self.rest_v6(guard, &key, found, six).0;
        }
        if self.any.ports() == 0 {
            return;
        }
        for lane in wild.iter() {
            self.any.prefetch(key(lane).flow.dport);
        }
        for lane in wild.iter() {
            if let Some(id) = self.lookup_any(guard, &key(lane)) {
                found[lane] = Some(id);
            }
        }
    }

    /// Looks the slow lanes up and returns those that found nothing.
    fn rest_slow(
        &self,
        guard: &Guard,
        key: impl Fn(usize) -> ListenKey,
        found: &mut [Option<ListenerId>],
        lanes: Lanes,
    ) -> LaneSet {
        let view = self.v4.view(guard);
        let mut hashes = [0; LANES];
        for lane in lanes.slow.iter() {
            let flow = key(lane).flow;
            hashes[lane] = self.mix.hash(flow.daddr, flow.dport);
            view.prefetch_node(hashes[lane]);
            view.prefetch_second(hashes[lane]);
        }
        let mut entries = [const { None }; LANES];
        for lane in lanes.slow.iter() {
            entries[lane] = view.find(hashes[lane], |_| true);
            if let Some(entry) = &entries[lane] {
                entry.prefetch();
            }
        }
        let mut nothing = LaneSet(0);
        for lane in lanes.slow.iter() {
            found[lane] = match entries[lane].as_ref().and_then(|entry| entry.held()) {
                Some(Held::One(id)) => Some(id),
                Some(Held::List(node)) => node.lookup(self, &key(lane)),
                None => None,
            };
            nothing.0 |= u32::from(found[lane].is_none()) << lane;
        }
        nothing
    }

    /// Looks the IPv6 lanes `six` up by exact address and returns those that found nothing.
    fn rest_v6(
        &self,
        guard: &Guard,
        key: impl Fn(usize) -> ListenKey,
        found: &mut [Option<ListenerId>],
        six: LaneSet,
    ) -> LaneSet {
        if self.v6.keys() == 0 {
            six.iter().for_each(|lane| found[lane] = None);
            return six;
        }
        let view = self.v6.view(guard);
        let mut hashes = [0; LANES];
        for lane in six.iter() {
            let flow = key(lane).flow;
            hashes[lane] = self.mix.hash(flow.daddr, flow.dport);
            view.prefetch(hashes[lane]);
        }
        for lane in six.iter() {
            view.prefetch_node(hashes[lane]);
        }
        let mut nothing = LaneSet(0);
        for lane in six.iter() {
            found[lane] = self.lookup_v6(view, hashes[lane], &key(lane));
            nothing.0 |= u32::from(found[lane].is_none()) << lane;
        }
        nothing
    }

    #[inline]
    fn lookup_v6(&self, view: View<'_, KeyNode>, hash: u64, key: &ListenKey) -> Option<ListenerId> {
        let wanted = HashKey::new(key.flow.daddr, key.flow.dport);
        match view.find(hash, |node| node.key == wanted)?.held()? {
            Held::One(_) => None,
            Held::List(node) => node.lookup(self, key),
        }
    }

    #[inline]
    fn lookup_any(&self, guard: &Guard, key: &ListenKey) -> Option<ListenerId> {
        match self.any.find(key.flow.dport, guard)? {
            Wild::One { id, ipv4, ipv6 } => {
                let serves = if key.flow.is_v4() { ipv4 } else { ipv6 };
                serves.then_some(id)
            }
            Wild::List(node) => node.lookup(self, key),
        }
    }

    /// The listener for one segment: exact address first, then the wildcard.
    ///
    /// # Source
    /// Linux v6.18 `__inet_lookup_listener`, `inet6_lookup_listener`.
    #[inline]
    pub fn inet_lookup_listener(&self, guard: &Guard, key: &ListenKey) -> Option<ListenerId> {
        self.lookup_exact(guard, key).or_else(|| self.lookup_any(guard, key))
    }

    #[inline]
    fn lookup_exact(&self, guard: &Guard, key: &ListenKey) -> Option<ListenerId> {
        let flow = &key.flow;
        if !flow.is_v4() {
            if self.v6.keys() == 0 {
                return None;
            }
            return self.lookup_v6(self.v6.view(guard), self.mix.hash(flow.daddr, flow.dport), key);
        }
        if self.v4.keys() == 0 {
            return None;
        }
        match self.v4.view(guard).find(self.mix.hash(flow.daddr, flow.dport), |_| true)?.held()? {
            Held::One(id) => Some(id),
            Held::List(node) => node.lookup(self, key),
        }
    }

    /// The listener that takes over the flow from closed group member `closed` of `key`; see
    /// [`KeyList::reuseport_migrate`].
    pub fn reuseport_migrate(
        &self,
        guard: &Guard,
        key: HashKey,
        closed: ListenerId,
        core: CoreId,
        hash: u32,
    ) -> Option<ListenerId> {
        let node = if key.addr().is_any() {
            match self.any.find(key.port(), guard)? {
                Wild::List(node) => node,
                Wild::One { .. } => return None,
            }
        } else {
            let table = if key.addr().is_v4() { &self.v4 } else { &self.v6 };
            let at = self.mix.hash(key.addr(), key.port());
            match table.view(guard).find(at, |node| node.key == key)?.held()? {
                Held::List(node) => node,
                Held::One(_) => return None,
            }
        };
        node.reuseport_migrate(closed, core, hash)
    }
}

/// Both halves of the 128-bit product, folded together.
#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// Ten words from sixteen bytes: a counter, mixed with both halves (the finalizer is that of SplitMix64).
fn expand(secret: [u8; 16]) -> [u64; 10] {
    let secret = u128::from_le_bytes(secret);
    let mix = |mut word: u64| {
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    };
    std::array::from_fn(|at| {
        let step = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mix(mix(secret as u64 ^ step).wrapping_add((secret >> 64) as u64))
    })
}
