//! Which flow goes where, and what it should meet there.

use listener::types::InetAddr;

use super::space::mix;

/// Entries of the table that a skewed choice is drawn from.
const DRAWS: usize = 1 << 16;

/// How destinations are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// All alike.
    Uniform,
    /// The `k`-th in proportion to `k` to the minus this.
    Zipf(f64),
}

/// What a SYN should meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// A listener
    Open,
    /// None: a RST
    Closed,
    /// Either: a scan
    Any,
}

/// Where one flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Address.
    pub addr: InetAddr,
    /// Port.
    pub port: u16,
    /// What it should meet.
    pub expect: Expect,
}

/// A prefix of addresses and two ranges of ports.
#[derive(Clone, Debug)]
pub struct Targets {
    network: InetAddr,
    addrs: u64,
    ports: (u16, u16),
    closed: (u16, u16),
    /// Of 2^16 flows so many go to `ports`, the rest to `closed`.
    hits: u32,
    expect: Expect,
    /// Ranks, as often as they are to be drawn.
    draws: Option<Box<[u32]>>,
    seed: u64,
}

impl Targets {
    /// Flows go to `network/len` and `ports`, all of which `expect` holds for; `hit_percent` of them at least, the others to
    /// the ports `closed`.
    pub fn new(
        (network, len): (InetAddr, u8),
        ports: (u16, u16),
        expect: Expect,
        (closed, hit_percent): ((u16, u16), f64),
        choice: Choice,
        seed: u64,
    ) -> Self {
        let width = if network.is_v4() { 32 } else { 128 };
        let bits = (width - u32::from(len).min(width)).min(32);
        let hits = (hit_percent / 100.0 * 65536.0).round().clamp(0.0, 65536.0) as u32;
        let addrs = 1u64 << bits;
        let network = InetAddr::v6(network.hi(), network.lo() & !(addrs - 1));
        let mut targets = Self { network, addrs, ports, closed, hits, expect, draws: None, seed: mix(!seed) };
        if let Choice::Zipf(exponent) = choice {
            targets.draws = Some(zipf(targets.count(), exponent));
        }
        targets
    }

    /// Different destinations that `expect` holds for.
    pub fn count(&self) -> u64 {
        self.addrs * u64::from(span(self.ports))
    }

    /// The first address.
    pub const fn first(&self) -> InetAddr {
        self.network
    }

    /// The destination of `flow`.
    #[inline]
    pub fn pick(&self, flow: u64) -> Target {
        let word = mix(flow ^ self.seed);
        let (low, high) = (word as u32, word >> 32);
        let hit = low & 0xffff < self.hits;
        let (ports, expect) = if hit { (self.ports, self.expect) } else { (self.closed, Expect::Closed) };
        let index = match &self.draws {
            Some(draws) if hit => u64::from(draws[(low >> 16) as usize & (DRAWS - 1)]),
            // Numbers below 2^32 in, a number below the count out, all nearly as often.
            _ => {
                ((u128::from(high << 16 | u64::from(low >> 16))
                    * u128::from(self.addrs * u64::from(span(ports))))
                    >> 48) as u64
            }
        };
        let span = u64::from(span(ports));
        let (addr, port) = if span == 1 { (index, 0) } else { (index / span, index % span) };
        let addr = InetAddr::v6(self.network.hi(), self.network.lo() | addr);
        Target { addr, port: ports.0 + port as u16, expect }
    }
}

const fn span(ports: (u16, u16)) -> u32 {
    ports.1 as u32 - ports.0 as u32 + 1
}

/// The ranks 0 to `count - 1`, each as often as Zipf's law with `exponent` has it in so many draws.
fn zipf(count: u64, exponent: f64) -> Box<[u32]> {
    let ranks = count.min(u64::from(u32::MAX)) as u32;
    let weight = |rank: u32| (f64::from(rank) + 1.0).powf(-exponent);
    let sum: f64 = (0..ranks).map(weight).sum();
    let (mut rank, mut reached) = (0, weight(0) / sum);
    (0..DRAWS)
        .map(|draw| {
            let quantile = (draw as f64 + 0.5) / DRAWS as f64;
            while reached < quantile && rank + 1 < ranks {
                rank += 1;
                reached += weight(rank) / sum;
            }
            rank
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn counts(targets: &Targets, flows: u64) -> HashMap<(u64, u16, bool), u64> {
        let mut counts = HashMap::new();
        for flow in 0..flows {
            let target = targets.pick(flow);
            let key = (target.addr.lo() & 0xffff_ffff, target.port, target.expect == Expect::Open);
            *counts.entry(key).or_default() += 1;
        }
        counts
    }

    #[test]
    fn uniform_targets_are_all_met_alike_and_misses_are_as_many_as_asked_for() {
        let network = (InetAddr::v4(0xc612_0000), 30);
        let targets = Targets::new(network, (80, 87), Expect::Open, ((9000, 9003), 75.0), Choice::Uniform, 1);
        assert_eq!(targets.count(), 32);
        let counts = counts(&targets, 64_000);
        let (open, closed): (Vec<_>, Vec<_>) = counts.iter().partition(|((_, _, open), _)| *open);
        assert_eq!((open.len(), closed.len()), (32, 16));
        assert!(open.iter().all(|(_, count)| (1300..1700).contains(*count)), "{open:?}");
        let missed: u64 = closed.iter().map(|(_, count)| **count).sum();
        assert!((15_500..16_500).contains(&missed), "{missed} of 64,000 should be a quarter");
        assert!(counts.keys().all(|(addr, port, open)| {
            (0xc612_0000..0xc612_0004).contains(addr)
                && if *open { (80..88).contains(port) } else { (9000..9004).contains(port) }
        }));
    }

    #[test]
    fn zipf_prefers_the_first() {
        let network = (InetAddr::v6(0x2001_0db8 << 32, 1), 128);
        let choice = Choice::Zipf(1.0);
        let targets = Targets::new(network, (1, 1000), Expect::Open, ((0, 0), 100.0), choice, 1);
        let counts = counts(&targets, 100_000);
        let of = |port| counts.get(&(1, port, true)).copied().unwrap_or(0) as f64;
        assert!((of(1) / of(2) - 2.0).abs() < 0.2, "{} {}", of(1), of(2));
        assert!((of(1) / of(10) - 10.0).abs() < 2.0, "{} {}", of(1), of(10));
        assert!(of(1000) > 0.0);
    }
}
