//! The hash of a flow that cookies and initial sequence numbers are made of: SipHash-2-4 of its addresses and ports, twelve
//! octets of an IPv4 flow. And the hashes that the answers to a burst's SYNs will ask for, many flows at once.
//!
//! Which one that will be, a cookie or an initial sequence number, is a guess from the answer to the last SYN; whoever
//! finds the wrong one, or none, hashes by itself.

use crate::bucket::Kernel;
use crate::limits::BURST_MAX;
use crate::segment::{FlowKey, Segment};
use crate::siphash::{SipKey, siphash_2_4_tail};
use crate::vector::Vectors;

/// A hash that was made before it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Ahead {
    /// None.
    #[default]
    None,
    /// Of the initial sequence number.
    Isn(u32),
    /// Both of a cookie, the second for this minute.
    Cookie { count: u32, hashes: [u32; 2] },
}

/// Which hashes [`FlowHashes::ahead`] makes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guess {
    Isn(SipKey),
    /// With both keys, the second that of minute `count`.
    Cookie {
        keys: [SipKey; 2],
        count: u32,
    },
}

/// Words of an IPv4 flow's addresses.
const WORDS_V4: usize = 1;
/// Words of an IPv6 flow's addresses.
const WORDS_V6: usize = 4;

/// Words and hashes of a burst: memory that is used again for each.
#[derive(Debug)]
pub(crate) struct FlowHashes {
    kernel: Kernel,
    v4: Family<WORDS_V4>,
    v6: Family<WORDS_V6>,
}

/// The flows of one family, one column a word.
#[derive(Debug)]
struct Family<const WORDS: usize> {
    words: [[u64; BURST_MAX]; WORDS],
    ports: [u32; BURST_MAX],
    /// Where in the burst they stand.
    at: [u8; BURST_MAX],
    flows: usize,
    out: [[u64; BURST_MAX]; 2],
}

impl<const WORDS: usize> Family<WORDS> {
    const EMPTY: Self = Self {
        words: [[0; BURST_MAX]; WORDS],
        ports: [0; BURST_MAX],
        at: [0; BURST_MAX],
        flows: 0,
        out: [[0; BURST_MAX]; 2],
    };

    #[inline(always)]
    fn push(&mut self, at: u8, words: [u64; WORDS], ports: u32) {
        let row = self.flows % BURST_MAX;
        for (column, word) in self.words.iter_mut().zip(words) {
            column[row] = word;
        }
        self.ports[row] = ports;
        self.at[row] = at;
        self.flows = row + 1;
    }

    /// Puts what `guess` asks for, flow by flow, and forgets the flows.
    #[inline(always)]
    fn hash(&mut self, kernel: Kernel, guess: Guess, put: &mut impl FnMut(u8, Ahead)) {
        let Self { words, ports, at, flows, out: [first, second] } = self;
        let flows = std::mem::take(flows);
        match guess {
            Guess::Isn(key) => {
                kernel.siphash(key, words, ports, flows, first);
                for (&at, &hash) in at[..flows].iter().zip(&*first) {
                    put(at, Ahead::Isn(hash as u32));
                }
            }
            Guess::Cookie { keys, count } => {
                kernel.siphash(keys[0], words, ports, flows, first);
                kernel.siphash(keys[1], words, ports, flows, second);
                for ((&at, &first), &second) in at[..flows].iter().zip(&*first).zip(&*second) {
                    put(at, Ahead::Cookie { count, hashes: [first as u32, second as u32] });
                }
            }
        }
    }
}

/// The words of an IPv4 flow's addresses.
#[inline(always)]
fn words_v4(flow: &FlowKey) -> [u64; WORDS_V4] {
    [flow.saddr.lo() << 32 | flow.daddr.lo() & 0xffff_ffff]
}

/// The words of an IPv6 flow's addresses.
#[inline(always)]
fn words_v6(flow: &FlowKey) -> [u64; WORDS_V6] {
    [flow.saddr.hi(), flow.saddr.lo(), flow.daddr.hi(), flow.daddr.lo()]
}

#[inline(always)]
fn ports(flow: &FlowKey) -> u32 {
    u32::from(flow.sport.0) << 16 | u32::from(flow.dport.0)
}

/// The hash of one flow.
#[inline]
pub(crate) fn flow_hash(key: SipKey, flow: &FlowKey) -> u32 {
    let hash = if flow.is_v4() {
        siphash_2_4_tail(key, words_v4(flow), ports(flow))
    } else {
        siphash_2_4_tail(key, words_v6(flow), ports(flow))
    };
    hash as u32
}

impl FlowHashes {
    pub fn new() -> Self {
        Self { kernel: Kernel::best(), v4: Family::EMPTY, v6: Family::EMPTY }
    }

    /// The hashes of `guess` for each segment on `lane`, handed to `put` with its index.
    #[inline]
    pub fn ahead(&mut self, guess: Guess, segs: &[Segment], lane: &[u8], mut put: impl FnMut(u8, Ahead)) {
        for &at in lane {
            let flow = &segs[usize::from(at)].flow;
            if flow.is_v4() {
                self.v4.push(at, words_v4(flow), ports(flow));
            } else {
                self.v6.push(at, words_v6(flow), ports(flow));
            }
        }
        if self.v4.flows != 0 {
            self.v4.hash(self.kernel, guess, &mut put);
        }
        if self.v6.flows != 0 {
            self.v6.hash(self.kernel, guess, &mut put);
        }
    }
}

/// [`flow_hash`] of the IPv4 flows in the first `rows` rows of columns, within [`Vectors::run`]. The columns are the peer's
/// address, ours, and the ports, the peer's in the upper half. What `out` holds beyond those rows means nothing.
#[inline(always)]
pub(crate) fn flow_hash_columns(
    vectors: Vectors,
    key: SipKey,
    columns: [&[u32; BURST_MAX]; 3],
    rows: usize,
    out: &mut [u32; BURST_MAX],
) {
    vectors.siphash_columns(key, columns, rows, out);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::types::{InetAddr, TcpPort};

    fn segs() -> Vec<Segment> {
        let flow = |n: u32| FlowKey {
            saddr: if n.is_multiple_of(5) {
                InetAddr::v6(1, u64::from(n))
            } else {
                InetAddr::v4(0xc613_0000 + n * 77)
            },
            daddr: if n.is_multiple_of(5) { InetAddr::v6(2, 1) } else { InetAddr::v4(0xc612_0001) },
            sport: TcpPort(1024 + n as u16 * 331),
            dport: TcpPort(80),
        };
        (0..BURST_MAX as u32).map(|n| Segment { flow: flow(n), ..Segment::default() }).collect()
    }

    /// Every set of instructions, every length, both families in one burst.
    #[test]
    fn many_at_once_are_the_same_as_one_by_one() {
        let (segs, key, other) = (segs(), SipKey([1, 2]), SipKey([3, 4]));
        for kernel in Kernel::available() {
            for len in 0..=BURST_MAX {
                let lane: Vec<u8> = (0..BURST_MAX as u8).rev().take(len).collect();
                let mut hashes = FlowHashes { kernel, ..FlowHashes::new() };
                let mut ahead = |guess| {
                    let mut got = vec![None; BURST_MAX];
                    hashes.ahead(guess, &segs, &lane, |at, ahead| got[usize::from(at)] = Some(ahead));
                    got
                };
                let want = |one: &dyn Fn(&FlowKey) -> Ahead| {
                    let wanted = |at: usize| lane.contains(&(at as u8)).then(|| one(&segs[at].flow));
                    (0..BURST_MAX).map(wanted).collect::<Vec<_>>()
                };
                let name = kernel.name();
                assert_eq!(ahead(Guess::Isn(key)), want(&|flow| Ahead::Isn(flow_hash(key, flow))), "{name}");
                let cookie = |flow: &FlowKey| Ahead::Cookie {
                    count: 9,
                    hashes: [flow_hash(key, flow), flow_hash(other, flow)],
                };
                assert_eq!(ahead(Guess::Cookie { keys: [key, other], count: 9 }), want(&cookie), "{name}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn columns_are_the_same_as_one_by_one(
            columns: [[u32; BURST_MAX]; 3],
            key: [u64; 2],
            rows in 0..=BURST_MAX,
        ) {
            let ([saddr, daddr, ports], key) = (&columns, SipKey(key));
            for vectors in Vectors::available() {
                let mut out = [0; BURST_MAX];
                vectors.run(
                    #[inline(always)]
                    |vectors| flow_hash_columns(vectors, key, columns.each_ref(), rows, &mut out),
                );
                for row in 0..rows {
                    let flow = FlowKey {
                        saddr: InetAddr::v4(saddr[row]),
                        daddr: InetAddr::v4(daddr[row]),
                        sport: TcpPort((ports[row] >> 16) as u16),
                        dport: TcpPort(ports[row] as u16),
                    };
                    proptest::prop_assert_eq!(out[row], flow_hash(key, &flow), "{}, row {}", vectors.name(), row);
                }
            }
        }
    }
}
