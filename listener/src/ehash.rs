//! The established table of one core: half-open requests, connections and TIME_WAIT entries by their four-tuple.
//!
//! One index of chains over two slabs ([`crate::request_sock`]); twice as many chains as entries, so a lookup that
//! misses mostly reads one word. The hash is keyed and strongly universal: whatever flows somebody who does not know the
//! key chooses, two of them meet as seldom as chance has it, so nobody outside can make chains long. All memory is taken
//! at construction. No lock and no atomic: a flow belongs to one core.

use crate::limits::BURST_MAX;
use crate::request_sock::{Conn, EntryHead, NO_ENTRY, Request, Slab};
use crate::segment::FlowKey;
use crate::siphash::{SipKey, siphash_2_4};
use crate::timer::{TIMER_IDS, TimerLink, TimerStore};
use crate::types::{DevIndex, TcpState};
use crate::vector;

/// Bit of an entry's number that tells connections from requests.
const CONN: u32 = 1 << 30;

const _: () = assert!(CONN * 2 < TIMER_IDS);

/// Requests per core at most.
pub const REQUESTS_PER_CORE_MAX: u32 = CONN;

/// An entry of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryId(pub u32);

/// An entry by its kind and its place in that kind's slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request(u32),
    Conn(u32),
}

impl EntryId {
    #[inline]
    pub const fn request(index: u32) -> Self {
        Self(index)
    }

    #[inline]
    pub const fn conn(index: u32) -> Self {
        Self(index | CONN)
    }

    #[inline]
    pub const fn kind(self) -> Kind {
        if self.0 & CONN == 0 { Kind::Request(self.0) } else { Kind::Conn(self.0 & !CONN) }
    }
}

/// A keyed hash of four-tuples: words of 32 bits, each times a secret of 64, and the upper half of the sum
/// ("multilinear"; Lemire and Kaser, Strongly universal string hashing is fast, 2014). The last step is a bijection of
/// the sum, for keys that follow each other. It never shows outside, so it need not be hard to invert.
struct FlowMix {
    add: u64,
    factors: [u64; 9],
    last: u64,
}

impl std::fmt::Debug for FlowMix {
    /// A secret does not show.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowMix(..)")
    }
}

impl FlowMix {
    fn new(key: SipKey) -> Self {
        let secret = |at: u64| siphash_2_4(key, [at]);
        Self {
            add: secret(0),
            factors: std::array::from_fn(|at| secret(at as u64 + 1)),
            last: secret(10) | 1,
        }
    }

    #[inline]
    fn hash(&self, flow: &FlowKey) -> u32 {
        let [a, b, c, rest @ ..] = &self.factors;
        let ports = u64::from(flow.sport.0) << 16 | u64::from(flow.dport.0);
        let low = |word: u64| word & 0xffff_ffff;
        let term = |factor: &u64, word: u64| factor.wrapping_mul(word);
        let mut sum = self.add.wrapping_add(term(c, ports));
        sum = sum.wrapping_add(term(a, low(flow.saddr.lo()))).wrapping_add(term(b, low(flow.daddr.lo())));
        if !flow.is_v4() {
            let upper = |word: u64| word >> 32;
            let (saddr, daddr) = (flow.saddr, flow.daddr);
            let words = [
                upper(saddr.lo()),
                upper(daddr.lo()),
                low(saddr.hi()),
                low(daddr.hi()),
                upper(saddr.hi()),
                upper(daddr.hi()),
            ];
            for (factor, word) in rest.iter().zip(words) {
                sum = sum.wrapping_add(term(factor, word));
            }
        }
        self.finish(sum)
    }

    #[inline(always)]
    const fn finish(&self, sum: u64) -> u32 {
        ((sum ^ sum >> 32).wrapping_mul(self.last) >> 32) as u32
    }

    /// [`FlowMix::hash`] of IPv4 flows that stand in columns.
    #[inline(always)]
    fn hash_columns(
        &self,
        [saddr, daddr, ports]: [&[u32; BURST_MAX]; 3],
        rows: usize,
        out: &mut [u32; BURST_MAX],
    ) {
        let [a, b, c, ..] = self.factors;
        for row in 0..vector::whole(rows) {
            let term = |factor: u64, words: &[u32; BURST_MAX]| factor.wrapping_mul(u64::from(words[row]));
            let sum = self.add.wrapping_add(term(c, ports));
            let sum = sum.wrapping_add(term(a, saddr)).wrapping_add(term(b, daddr));
            out[row] = self.finish(sum);
        }
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Ehash {
    mix: FlowMix,
    chains: Box<[u32]>,
    pub requests: Slab<Request>,
    pub conns: Slab<Conn>,
}

impl Ehash {
    pub fn new(key: SipKey, requests: u32, conns: u32) -> Self {
        let chains = (2 * (requests as usize + conns as usize)).next_power_of_two();
        Self {
            mix: FlowMix::new(key),
            chains: vec![NO_ENTRY; chains].into_boxed_slice(),
            requests: Slab::new(requests),
            conns: Slab::new(conns),
        }
    }

    /// Keyed hash of a four-tuple.
    #[inline]
    pub fn hash(&self, flow: &FlowKey) -> u32 {
        self.mix.hash(flow)
    }

    /// [`Ehash::hash`] of the IPv4 flows in the first `rows` rows of columns, for [`vector::Vectors::run`]; `ports` has the
    /// peer's in the upper half, ours in the lower. What `out` holds beyond those rows means nothing.
    #[inline(always)]
    pub fn hash_columns(
        &self,
        saddr: &[u32; BURST_MAX],
        daddr: &[u32; BURST_MAX],
        ports: &[u32; BURST_MAX],
        rows: usize,
        out: &mut [u32; BURST_MAX],
    ) {
        self.mix.hash_columns([saddr, daddr, ports], rows, out);
    }

    /// True if no flow is in the table.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.requests.in_use() == 0 && self.conns.in_use() == 0
    }

    #[inline]
    fn chain(&self, hash: u32) -> usize {
        hash as usize & (self.chains.len() - 1)
    }

    /// First entry of a hash's chain; reading it early warms the line for the lookup that follows.
    #[inline]
    pub fn first(&self, hash: u32) -> u32 {
        self.chains[self.chain(hash)]
    }

    /// True if a hash's chain has an entry.
    #[inline]
    pub fn has_chain(&self, hash: u32) -> bool {
        self.first(hash) != NO_ENTRY
    }

    #[inline]
    pub fn head(&self, id: EntryId) -> &EntryHead {
        match id.kind() {
            Kind::Request(index) => &self.requests.entry(index).head,
            Kind::Conn(index) => &self.conns.entry(index).head,
        }
    }

    #[inline]
    pub fn head_mut(&mut self, id: EntryId) -> &mut EntryHead {
        match id.kind() {
            Kind::Request(index) => &mut self.requests.entry_mut(index).head,
            Kind::Conn(index) => &mut self.conns.entry_mut(index).head,
        }
    }

    /// The entry that a segment of `flow` from `dev` belongs to.
    ///
    /// # Source
    /// Linux v6.18 `__inet_lookup_established`.
    #[inline]
    pub fn lookup(&self, hash: u32, flow: &FlowKey, dev: DevIndex) -> Option<EntryId> {
        let mut at = self.first(hash);
        while at != NO_ENTRY {
            let head = self.head(EntryId(at));
            if head.hash == hash && head.matches(flow, dev) {
                return Some(EntryId(at));
            }
            at = head.next;
        }
        None
    }

    /// True while the entry of this generation is in the table. A closed connection that is still held is not.
    #[inline]
    pub fn is_current(&self, id: EntryId, generation: u32) -> bool {
        let closed = match id.kind() {
            Kind::Request(_) => false,
            Kind::Conn(index) => self.conns.entry(index).body.state == TcpState::Close,
        };
        !closed && self.head(id).generation == generation
    }

    /// Puts an entry in front of its chain.
    #[inline]
    pub fn insert(&mut self, id: EntryId, hash: u32) {
        let chain = self.chain(hash);
        let first = std::mem::replace(&mut self.chains[chain], id.0);
        let head = self.head_mut(id);
        head.hash = hash;
        head.next = first;
    }

    /// Takes an entry out of its chain; a no-op if it is in none.
    pub fn remove(&mut self, id: EntryId) {
        let (hash, next) = (self.head(id).hash, self.head(id).next);
        let chain = self.chain(hash);
        if self.chains[chain] == id.0 {
            self.chains[chain] = next;
            return;
        }
        let mut at = self.chains[chain];
        while at != NO_ENTRY {
            let after = self.head(EntryId(at)).next;
            if after == id.0 {
                self.head_mut(EntryId(at)).next = next;
                return;
            }
            at = after;
        }
    }
}

impl TimerStore for Ehash {
    #[inline]
    fn link(&mut self, id: u32) -> &mut TimerLink {
        &mut self.head_mut(EntryId(id)).timer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{InetAddr, TcpPort};

    fn flow(n: u32) -> FlowKey {
        FlowKey {
            saddr: InetAddr::v4(0xc612_0000 + n),
            daddr: InetAddr::v4(0xc613_0001),
            sport: TcpPort(1024 + n as u16),
            dport: TcpPort(80),
        }
    }

    /// Fills both slabs, so chains of two and more occur, and takes all out again in another order.
    #[test]
    fn entries_are_found_until_they_leave() {
        let mut table = Ehash::new(SipKey([1, 2]), 64, 64);
        let ids: Vec<EntryId> = (0..128)
            .map(|n| {
                let id = if n % 2 == 0 {
                    EntryId::request(table.requests.alloc(&flow(n), Request::default()).expect("room"))
                } else {
                    EntryId::conn(table.conns.alloc(&flow(n), Conn::default()).expect("room"))
                };
                let hash = table.hash(&flow(n));
                table.insert(id, hash);
                id
            })
            .collect();
        assert!(table.requests.is_full() && table.conns.is_full());
        let find = |table: &Ehash, n| table.lookup(table.hash(&flow(n)), &flow(n), DevIndex(1));
        for n in 0..128 {
            assert_eq!(find(&table, n), Some(ids[n as usize]));
        }
        assert_eq!(find(&table, 500), None);
        for n in (0..128).rev().step_by(3).chain((0..128).filter(|n| (127 - n) % 3 != 0)) {
            table.remove(ids[n as usize]);
            match ids[n as usize].kind() {
                Kind::Request(index) => table.requests.free(index),
                Kind::Conn(index) => table.conns.free(index),
            }
            assert_eq!(find(&table, n), None);
        }
        assert_eq!((table.requests.in_use(), table.conns.in_use()), (0, 0));
        assert!(table.chains.iter().all(|&chain| chain == NO_ENTRY));
    }

    proptest::proptest! {
        #[test]
        fn columns_hash_as_flows_do(
            columns: [[u32; BURST_MAX]; 3],
            secret: [u64; 2],
            rows in 0..=BURST_MAX,
        ) {
            let table = Ehash::new(SipKey(secret), 1, 0);
            let [saddr, daddr, ports] = &columns;
            for vectors in vector::Vectors::available() {
                let mut out = [0; BURST_MAX];
                vectors.run(#[inline(always)] |_| table.hash_columns(saddr, daddr, ports, rows, &mut out));
                for row in 0..rows {
                    let flow = FlowKey {
                        saddr: InetAddr::v4(saddr[row]),
                        daddr: InetAddr::v4(daddr[row]),
                        sport: TcpPort((ports[row] >> 16) as u16),
                        dport: TcpPort(ports[row] as u16),
                    };
                    proptest::prop_assert_eq!(out[row], table.hash(&flow), "{}, row {}", vectors.name(), row);
                }
            }
        }
    }

    #[test]
    fn a_bound_entry_takes_its_devices_segments_only() {
        let mut table = Ehash::new(SipKey([1, 2]), 1, 0);
        let index = table.requests.alloc(&flow(1), Request::default()).expect("room");
        table.requests.entry_mut(index).head.bound_dev = DevIndex(2);
        let hash = table.hash(&flow(1));
        table.insert(EntryId::request(index), hash);
        assert!(table.lookup(hash, &flow(1), DevIndex(2)).is_some());
        assert!(table.lookup(hash, &flow(1), DevIndex(1)).is_none());
    }

    /// 2^16 flows that differ as a flood's do, in the ports or in the addresses, by one or by a power of two: under every
    /// key no chain is much longer than chance makes it.
    #[test]
    fn a_flood_spreads() {
        let v4 = |n: u32| InetAddr::v4(n);
        let far = FlowKey { saddr: InetAddr::v6(1, 1), daddr: InetAddr::v6(2, 2), ..flow(0) };
        // Every word of the key, one at a time: with it left out of the hash, all flows would meet.
        let step = |word: u32, by: u32, n: u32| match word {
            0 => FlowKey { sport: TcpPort(n as u16), ..flow(0) },
            1 => FlowKey { dport: TcpPort(n as u16), ..flow(0) },
            2 => FlowKey { saddr: v4(n << by), ..flow(0) },
            3 => FlowKey { daddr: v4(n << by), ..flow(0) },
            4 => FlowKey { saddr: InetAddr::v6(u64::from(n) << by, 1), ..far },
            5 => FlowKey { saddr: InetAddr::v6(1, u64::from(n) << (32 + by / 2)), ..far },
            6 => FlowKey { daddr: InetAddr::v6(u64::from(n) << by, 1), ..far },
            7 => FlowKey { daddr: InetAddr::v6(1, u64::from(n) << (32 + by / 2)), ..far },
            8 => FlowKey { saddr: InetAddr::v6(u64::from(n) << (32 + by / 2), 1), ..far },
            9 => FlowKey { daddr: InetAddr::v6(u64::from(n) << (32 + by / 2), 1), ..far },
            10 => FlowKey { saddr: InetAddr::v6(1, u64::from(n)), ..far },
            _ => FlowKey { daddr: InetAddr::v6(1, u64::from(n)), ..far },
        };
        for secret in 0..8 {
            let table = Ehash::new(SipKey([3, secret]), 1 << 15, 0);
            for (word, by) in (0..12).flat_map(|word| (0..=16).step_by(4).map(move |by| (word, by))) {
                let mut lengths = vec![0u32; table.chains.len()];
                for n in 0..1 << 16 {
                    lengths[table.chain(table.hash(&step(word, by, n)))] += 1;
                }
                let longest = lengths.iter().max().copied();
                assert!(
                    longest < Some(24),
                    "{longest:?} flows in a chain, key {secret}, word {word} by 2^{by}"
                );
            }
        }
    }
}
