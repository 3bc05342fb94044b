//! What the lookup bench asks for: listeners, a stream of segments, and listeners that come and go.
//!
//! All addresses lie in 198.18.0.0/15 (RFC 2544). Keys are computed from numbers, so that preparing a chunk of
//! segments touches no memory that a contestant may want to keep in its cache.

use listener::inet_hashtables::{HashKey, ListenKey};
use listener::segment::FlowKey;
use listener::types::{DevIndex, InetAddr, ListenerId, TcpPort};

use crate::frames::Scatter;

/// Segments that are timed at once: their keys stay in the first-level cache, as those of a burst do that has just been
/// parsed.
pub const CHUNK: usize = 256;

/// Listeners that the churn keeps open at most, and the number of keys that it goes round.
pub const CHURN_KEYS: u32 = 4096;

const NET: u32 = 0xc612_0000;

/// A key of the population in the forms that contestants take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// IPv4 address.
    pub addr: u32,
    /// Port.
    pub port: u16,
}

impl Key {
    /// Listener `number`: 65,536 addresses, then the next port.
    pub const fn of_listener(number: u32) -> Self {
        Self { addr: NET + (number & 0xffff), port: 1024 + (number >> 16) as u16 }
    }

    /// A key where nobody listens: the other half of the network, the same ports.
    const fn of_miss(number: u32) -> Self {
        Self { addr: NET + 0x1_0000 + (number & 0xffff), port: 1024 + (number >> 16 & 0xf) as u16 }
    }

    /// A key of the churn: addresses of the population, ports of its own.
    pub const fn of_churn(number: u32) -> Self {
        Self { addr: NET + (number & 0xff), port: 40_000 + (number >> 8 & 0xff) as u16 }
    }

    /// As one number.
    pub const fn packed(self) -> u64 {
        (self.addr as u64) << 16 | self.port as u64
    }

    /// As hearken's key.
    pub const fn hash_key(self) -> HashKey {
        HashKey::new(InetAddr::v4(self.addr), TcpPort(self.port))
    }
}

/// Listeners and a stream of segments. The stream is computed, not stored: megabytes of it would take the cache from
/// the contestants' tables.
#[derive(Clone, Debug)]
pub struct Load {
    listeners: u32,
    hit_percent: u32,
    seed: u64,
    /// Hits go to these listeners only.
    only: Option<Vec<u32>>,
    /// Segments come in on one of three devices and from any port, and have no known answer.
    varied: bool,
}

impl Load {
    /// `listeners` listeners; of the segments, `hit_percent` in a hundred go to one of them, all in random order.
    pub const fn new(listeners: u32, hit_percent: u32, seed: u64) -> Self {
        Self { listeners, hit_percent, seed, only: None, varied: false }
    }

    /// The same listeners, of which only those with a number in `only` are asked for; it names one at least.
    pub fn only(&self, only: Vec<u32>) -> Self {
        Self { hit_percent: 100, only: Some(only), ..self.clone() }
    }

    /// The same listeners, asked for from three devices and many ports. [`Chunk::want`] then says nothing.
    pub fn varied(&self) -> Self {
        Self { varied: true, ..self.clone() }
    }

    /// The listeners. Ids are their numbers.
    pub fn listeners(&self) -> impl Iterator<Item = (Key, ListenerId)> {
        (0..self.listeners).map(|number| (Key::of_listener(number), ListenerId(number)))
    }

    /// How many listeners there are.
    pub fn len(&self) -> u32 {
        self.listeners
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.listeners == 0
    }

    /// The id of the churn's `number`-th listener.
    pub fn churn_id(&self, number: u32) -> ListenerId {
        ListenerId(self.listeners + number % CHURN_KEYS)
    }

    /// Fills `chunk` with the `at`-th of the stream's chunks.
    pub fn fill(&self, at: usize, chunk: &mut Chunk) {
        let mut random =
            Scatter::new(self.seed.wrapping_add((at as u64).wrapping_mul(0xd134_2543_de82_ef95)));
        for lane in 0..CHUNK {
            let word = random.draw();
            let hit = below(word as u32, 100) < self.hit_percent;
            let number = (word >> 32) as u32;
            let number = match &self.only {
                Some(only) => only[below(number, only.len() as u32) as usize],
                None => below(number, if hit { self.listeners } else { 1 << 20 }),
            };
            let key = if hit { Key::of_listener(number) } else { Key::of_miss(number) };
            chunk.set(lane, key);
            if self.varied {
                let flow = &mut chunk.listen[lane].flow;
                flow.sport = TcpPort((word >> 8) as u16);
                chunk.listen[lane].dev = DevIndex((word >> 24) as u16 % 3);
            }
            chunk.want[lane] = hit.then_some(ListenerId(number));
        }
    }
}

/// Segments in every form that a contestant wants.
#[derive(Debug)]
pub struct Chunk {
    /// hearken's.
    pub listen: Vec<ListenKey>,
    /// Packed numbers, for maps.
    pub packed: Vec<u64>,
    /// Eight bytes, for rte_hash: the length that it is fastest with.
    pub bytes: Vec<[u8; 8]>,
    /// The right answers.
    pub want: Vec<Option<ListenerId>>,
}

impl Default for Chunk {
    fn default() -> Self {
        Self {
            listen: vec![ListenKey::default(); CHUNK],
            packed: vec![0; CHUNK],
            bytes: vec![[0; 8]; CHUNK],
            want: vec![None; CHUNK],
        }
    }
}

impl Chunk {
    fn set(&mut self, lane: usize, key: Key) {
        let flow = FlowKey {
            saddr: InetAddr::v4(NET + 0x1_ffff),
            daddr: InetAddr::v4(key.addr),
            sport: TcpPort(lane as u16),
            dport: TcpPort(key.port),
        };
        self.listen[lane] = ListenKey { flow, ..ListenKey::default() };
        self.packed[lane] = key.packed();
        self.bytes[lane] = key.packed().to_le_bytes();
    }
}

/// Maps 32 random bits evenly onto the numbers below `bound`.
const fn below(random: u32, bound: u32) -> u32 {
    ((random as u64 * bound as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn listeners_misses_and_churn_are_apart() {
        let listeners: HashSet<u64> = (0..1 << 20).map(|number| Key::of_listener(number).packed()).collect();
        assert_eq!(listeners.len(), 1 << 20);
        let churn: HashSet<u64> = (0..CHURN_KEYS).map(|number| Key::of_churn(number).packed()).collect();
        assert_eq!(churn.len(), CHURN_KEYS as usize);
        assert!(listeners.is_disjoint(&churn));
        assert!((0..1 << 20).all(|number| !listeners.contains(&Key::of_miss(number).packed())));
    }

    #[test]
    fn all_that_were_named_are_asked_for_and_no_others() {
        let named: Vec<u32> = (0..1000).step_by(7).collect();
        let load = Load::new(1000, 0, 42).only(named.clone());
        let (mut chunk, mut seen) = (Chunk::default(), HashSet::new());
        for at in 0..64 {
            load.fill(at, &mut chunk);
            seen.extend(chunk.want.iter().flatten().map(|id| id.0));
        }
        assert_eq!(seen, named.into_iter().collect());
    }

    #[test]
    fn the_stream_hits_as_often_as_asked() {
        for percent in [0, 90, 100] {
            let load = Load::new(1000, percent, 42);
            let mut chunk = Chunk::default();
            let mut hits = 0;
            for at in 0..64 {
                load.fill(at, &mut chunk);
                hits += chunk.want.iter().flatten().count();
            }
            let found = 100.0 * hits as f64 / (64 * CHUNK) as f64;
            assert!((found - f64::from(percent)).abs() < 1.0, "{found} of {percent}");
        }
    }
}
