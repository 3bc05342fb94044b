//! The hashes that the answers to a burst's SYNs will ask for, many flows at once.
//!
//! Which one that will be, a cookie or an initial sequence number, is a guess from the answer to the last SYN; whoever
//! finds the wrong one, or none, hashes by itself.

use crate::bucket::{Kernel, Pairs};
use crate::limits::BURST_MAX;
use crate::segment::{FlowKey, Segment};
use crate::siphash::SipKey;
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
    Cookie { keys: [SipKey; 2], count: u32 },
}

/// Words that an IPv4 flow is hashed as: addresses; ports.
const WORDS_V4: usize = 2;
/// Words that an IPv6 flow is hashed as: two an address; ports.
const WORDS_V6: usize = 5;

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
    /// Where in the burst they stand.
    at: [u8; BURST_MAX],
    flows: usize,
    out: [[u64; BURST_MAX]; 2],
}

impl<const WORDS: usize> Family<WORDS> {
    const EMPTY: Self =
        Self { words: [[0; BURST_MAX]; WORDS], at: [0; BURST_MAX], flows: 0, out: [[0; BURST_MAX]; 2] };

    #[inline(always)]
    fn push(&mut self, at: u8, words: [u64; WORDS]) {
        let row = self.flows % BURST_MAX;
        for (column, word) in self.words.iter_mut().zip(words) {
            column[row] = word;
        }
        self.at[row] = at;
        self.flows = row + 1;
    }

    /// Puts what `guess` asks for, flow by flow, and forgets the flows.
    #[inline(always)]
    fn hash(&mut self, kernel: Kernel, guess: Guess, put: &mut impl FnMut(u8, Ahead)) {
        let Self { words, at, flows, out: [first, second] } = self;
        let flows = std::mem::take(flows);
        match guess {
            Guess::Isn(key) => {
                kernel.siphash(key, words, flows, first);
                for (&at, &hash) in at[..flows].iter().zip(&*first) {
                    put(at, Ahead::Isn(hash as u32));
                }
            }
            Guess::Cookie { keys, count } => {
                // The ports are the last word, and the count goes below them: see `cookie_hash`.
                let ports = WORDS - 1;
                words[ports][..flows].iter_mut().for_each(|word| *word <<= 32);
                kernel.siphash(keys[0], words, flows, first);
                words[ports][..flows].iter_mut().for_each(|word| *word |= u64::from(count));
                kernel.siphash(keys[1], words, flows, second);
                for ((&at, &first), &second) in at[..flows].iter().zip(&*first).zip(&*second) {
                    put(at, Ahead::Cookie { count, hashes: [first as u32, second as u32] });
                }
            }
        }
    }
}

/// The words of an IPv4 flow.
#[inline(always)]
fn words_v4(flow: &FlowKey) -> [u64; WORDS_V4] {
    [flow.saddr.lo() << 32 | flow.daddr.lo() & 0xffff_ffff, ports(flow)]
}

/// The words of an IPv6 flow.
#[inline(always)]
fn words_v6(flow: &FlowKey) -> [u64; WORDS_V6] {
    [flow.saddr.hi(), flow.saddr.lo(), flow.daddr.hi(), flow.daddr.lo(), ports(flow)]
}

#[inline(always)]
fn ports(flow: &FlowKey) -> u64 {
    u64::from(flow.sport.0) << 16 | u64::from(flow.dport.0)
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
                self.v4.push(at, words_v4(flow));
            } else {
                self.v6.push(at, words_v6(flow));
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

/// Both hashes of the cookies of the IPv4 flows in the first `rows` rows of columns, the second for minute `count`, within
/// [`Vectors::run`]. The columns are the peer's address, ours, and the ports, the peer's in the upper half. What `out`
/// holds beyond those rows means nothing.
#[inline(always)]
pub(crate) fn cookie_columns(
    vectors: Vectors,
    keys: [SipKey; 2],
    count: u32,
    columns: [&[u32; BURST_MAX]; 3],
    rows: usize,
    [first, second]: [&mut [u32; BURST_MAX]; 2],
) {
    let [upper, lower, ports] = columns;
    let pairs = |below| Pairs { upper, lower, second: ports, shift: 32, below };
    vectors.siphash_pairs(keys[0], pairs(0), rows, first);
    vectors.siphash_pairs(keys[1], pairs(count), rows, second);
}

/// The hashes of the initial sequence numbers of IPv4 flows, as [`cookie_columns`].
#[inline(always)]
pub(crate) fn isn_columns(
    vectors: Vectors,
    key: SipKey,
    columns: [&[u32; BURST_MAX]; 3],
    rows: usize,
    out: &mut [u32; BURST_MAX],
) {
    let [upper, lower, second] = columns;
    vectors.siphash_pairs(key, Pairs { upper, lower, second, shift: 0, below: 0 }, rows, out);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::siphash::siphash_2_4;
    use crate::syncookies::cookie_hash;
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
        let isn = |flow: &FlowKey| match flow.is_v4() {
            true => siphash_2_4(key, words_v4(flow)),
            false => siphash_2_4(key, words_v6(flow)),
        };
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
                assert_eq!(ahead(Guess::Isn(key)), want(&|flow| Ahead::Isn(isn(flow) as u32)), "{name}");
                let cookie = |flow: &FlowKey| Ahead::Cookie {
                    count: 9,
                    hashes: [cookie_hash(key, flow, 0), cookie_hash(other, flow, 9)],
                };
                assert_eq!(ahead(Guess::Cookie { keys: [key, other], count: 9 }), want(&cookie), "{name}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn columns_are_the_same_as_one_by_one(
            columns: [[u32; BURST_MAX]; 3],
            keys: [[u64; 2]; 2],
            count: u32,
            rows in 0..=BURST_MAX,
        ) {
            let ([saddr, daddr, ports], keys) = (&columns, keys.map(SipKey));
            let of = columns.each_ref();
            for vectors in Vectors::available() {
                let (mut first, mut second, mut isn) = ([0; BURST_MAX], [0; BURST_MAX], [0; BURST_MAX]);
                vectors.run(#[inline(always)] |vectors| {
                    cookie_columns(vectors, keys, count, of, rows, [&mut first, &mut second]);
                    isn_columns(vectors, keys[0], of, rows, &mut isn);
                });
                for row in 0..rows {
                    let flow = FlowKey {
                        saddr: InetAddr::v4(saddr[row]),
                        daddr: InetAddr::v4(daddr[row]),
                        sport: TcpPort((ports[row] >> 16) as u16),
                        dport: TcpPort(ports[row] as u16),
                    };
                    let want = [cookie_hash(keys[0], &flow, 0), cookie_hash(keys[1], &flow, count)];
                    proptest::prop_assert_eq!([first[row], second[row]], want, "{}", vectors.name());
                    let want = siphash_2_4(keys[0], words_v4(&flow)) as u32;
                    proptest::prop_assert_eq!(isn[row], want, "{}, row {}", vectors.name(), row);
                }
            }
        }
    }
}
