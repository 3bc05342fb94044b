//! The keyed hashes of a burst, many flows at once: those of the established table for every segment, and for SYNs at a
//! listener the one that their answer will ask for.
//!
//! Which one that will be, a cookie or an initial sequence number, is a guess from the answer to the last SYN; whoever
//! finds the wrong one, or none, hashes by itself. IPv6 flows have other words to hash, and do so one by one.

use crate::bucket::Kernel;
use crate::limits::BURST_MAX;
use crate::segment::{FlowKey, Segment};
use crate::siphash::SipKey;

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

/// Words and hashes of a burst: memory that is used again for each.
#[derive(Debug)]
pub(crate) struct FlowHashes {
    kernel: Kernel,
    addrs: [u64; BURST_MAX],
    ports: [u64; BURST_MAX],
    out: [[u64; BURST_MAX]; 2],
}

/// The two words of an IPv4 flow: addresses; ports in the low half.
#[inline]
fn words(flow: &FlowKey) -> Option<(u64, u64)> {
    let (saddr, daddr) = (flow.saddr.as_v4()?, flow.daddr.as_v4()?);
    let ports = u64::from(flow.sport.0) << 16 | u64::from(flow.dport.0);
    Some((u64::from(saddr) << 32 | u64::from(daddr), ports))
}

impl FlowHashes {
    pub fn new() -> Self {
        let zero = [0; BURST_MAX];
        Self { kernel: Kernel::best(), addrs: zero, ports: zero, out: [zero; 2] }
    }

    /// SipHash-1-3 of the flow of each segment on `lane`, in its order, as the established table wants it; `one` hashes
    /// what is not IPv4.
    #[inline]
    pub fn established(
        &mut self,
        key: SipKey,
        segs: &[Segment],
        lane: &[u8],
        one: impl Fn(&FlowKey) -> u32,
    ) -> &[u64] {
        let mut other_family = false;
        for ((&at, addrs), ports) in lane.iter().zip(&mut self.addrs).zip(&mut self.ports) {
            match words(&segs[usize::from(at)].flow) {
                Some(both) => (*addrs, *ports) = both,
                None => other_family = true,
            }
        }
        let count = lane.len().min(BURST_MAX);
        let out = &mut self.out[0][..count];
        self.kernel.siphash::<true>(key, [&self.addrs[..count], &self.ports[..count]], out);
        if other_family {
            for (&at, out) in lane.iter().zip(&mut *out) {
                let flow = &segs[usize::from(at)].flow;
                if !flow.is_v4() {
                    *out = u64::from(one(flow));
                }
            }
        }
        out
    }

    /// The hashes of `guess` for each segment on `lane`, handed to `put` with its index; IPv4 only.
    #[inline]
    pub fn ahead(&mut self, guess: Guess, segs: &[Segment], lane: &[u8], mut put: impl FnMut(u8, Ahead)) {
        let mut count = 0;
        let mut at = [0u8; BURST_MAX];
        for &index in lane {
            let Some((addrs, ports)) = words(&segs[usize::from(index)].flow) else { continue };
            (self.addrs[count], self.ports[count], at[count]) = (addrs, ports, index);
            count += 1;
        }
        let Self { kernel, addrs, ports, out: [first, second] } = self;
        let (addrs, ports, at) = (&addrs[..count], &mut ports[..count], &at[..count]);
        match guess {
            Guess::Isn(key) => {
                kernel.siphash::<false>(key, [addrs, ports], first);
                for (&at, &hash) in at.iter().zip(&*first) {
                    put(at, Ahead::Isn(hash as u32));
                }
            }
            Guess::Cookie { keys, count } => {
                for word in &mut *ports {
                    *word <<= 32;
                }
                kernel.siphash::<false>(keys[0], [addrs, ports], first);
                for word in &mut *ports {
                    *word |= u64::from(count);
                }
                kernel.siphash::<false>(keys[1], [addrs, ports], second);
                for ((&at, &first), &second) in at.iter().zip(&*first).zip(&*second) {
                    put(at, Ahead::Cookie { count, hashes: [first as u32, second as u32] });
                }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::siphash::{siphash_1_3, siphash_2_4};
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

    /// Every set of instructions, every length, a lane with gaps.
    #[test]
    fn many_at_once_are_the_same_as_one_by_one() {
        let (segs, key, other) = (segs(), SipKey([1, 2]), SipKey([3, 4]));
        for kernel in Kernel::available() {
            for len in 0..=BURST_MAX {
                let lane: Vec<u8> = (0..BURST_MAX as u8).rev().take(len).collect();
                let mut hashes = FlowHashes { kernel, ..FlowHashes::new() };
                let got = hashes.established(key, &segs, &lane, |_| 7).to_vec();
                let want =
                    |at: u8| words(&segs[usize::from(at)].flow).map_or(7, |(a, b)| siphash_1_3(key, [a, b]));
                assert_eq!(got, lane.iter().map(|&at| want(at)).collect::<Vec<_>>(), "{}", kernel.name());
                let v4 = || lane.iter().filter_map(|&at| Some((at, words(&segs[usize::from(at)].flow)?)));
                let mut got = Vec::new();
                hashes.ahead(Guess::Isn(key), &segs, &lane, |at, ahead| got.push((at, ahead)));
                let isn = v4().map(|(at, (a, b))| (at, Ahead::Isn(siphash_2_4(key, [a, b]) as u32)));
                assert_eq!(got, isn.collect::<Vec<_>>());
                got.clear();
                let guess = Guess::Cookie { keys: [key, other], count: 9 };
                hashes.ahead(guess, &segs, &lane, |at, ahead| got.push((at, ahead)));
                let cookie = v4().map(|(at, (a, b))| {
                    let hashes = [siphash_2_4(key, [a, b << 32]), siphash_2_4(other, [a, b << 32 | 9])];
                    (at, Ahead::Cookie { count: 9, hashes: hashes.map(|hash| hash as u32) })
                });
                assert_eq!(got, cookie.collect::<Vec<_>>());
            }
        }
    }
}
