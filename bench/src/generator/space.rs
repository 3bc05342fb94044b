//! Which flow number stands for which source, and back.

use listener::types::InetAddr;

/// Sequence numbers that one flow may use: data and both control bits fit in, and the next flow of the same source
/// starts so far behind, as a listener that still remembers the last one asks for (RFC 9293 §3.10.7.4, TIME-WAIT).
pub const SEQ_SPAN_BITS: u32 = 20;
/// Rounds through all sources that can be told apart by an ACK number.
const ROUNDS: u64 = 1 << (32 - SEQ_SPAN_BITS);
/// Most bits of a prefix that vary.
const ADDR_BITS_MAX: u32 = 47;

/// A prefix of sources and a range of ports, both powers of two. Flow `n` gets the `n`-th source of a fixed permutation;
/// when all have had their turn it starts again with other sequence numbers.
#[derive(Clone, Debug)]
pub struct Space {
    network: InetAddr,
    addr_bits: u32,
    port: u16,
    port_bits: u32,
    mask: u64,
    factor: u64,
    inverse: u64,
    offset: u64,
    seed: u64,
}

/// What an ACK number says of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    /// The flow.
    pub flow: u64,
    /// Sequence numbers of the flow that are acknowledged: 1 is the SYN.
    pub octets: u32,
}

impl Space {
    /// The sources `network/len` with ports from `ports.0` to `ports.1`, of which the first power of two are taken.
    pub fn new(network: InetAddr, len: u8, ports: (u16, u16), seed: u64) -> Self {
        let width = if network.is_v4() { 32 } else { 128 };
        let addr_bits = (width - u32::from(len).min(width)).min(ADDR_BITS_MAX);
        let port_bits = (u32::from(ports.1.max(ports.0) - ports.0) + 1).ilog2();
        let bits = addr_bits + port_bits;
        let mask = (1 << bits) - 1;
        // The golden section spreads any run of numbers; odd, so that it permutes.
        let factor = 0x9e37_79b9_7f4a_7c15_u64.checked_shr(64 - bits).unwrap_or(0) | 1;
        // Newton's iteration doubles the bits that are right, and an odd number is its own inverse to three.
        let inverse = (0..5).fold(factor, |inverse: u64, _| {
            inverse.wrapping_mul(2u64.wrapping_sub(factor.wrapping_mul(inverse)))
        });
        // IPv4 addresses are IPv6 ones of a prefix of 96 bits (RFC 4291 §2.5.5.2), here too.
        let network = InetAddr::v6(network.hi(), network.lo() & !((1 << addr_bits) - 1));
        Self { network, addr_bits, port: ports.0, port_bits, mask, factor, inverse, offset: mix(seed), seed }
    }

    /// Different sources.
    pub const fn sources(&self) -> u64 {
        self.mask + 1
    }

    /// True for IPv4.
    pub const fn is_v4(&self) -> bool {
        self.network.is_v4()
    }

    /// Address and port of `flow`.
    #[inline]
    pub fn source(&self, flow: u64) -> (InetAddr, u16) {
        let index = flow.wrapping_mul(self.factor).wrapping_add(self.offset) & self.mask;
        let (addr, port) = (index >> self.port_bits, index & ((1 << self.port_bits) - 1));
        (InetAddr::v6(self.network.hi(), self.network.lo() | addr), self.port + port as u16)
    }

    /// True if `addr` is one of the sources' addresses.
    #[inline]
    pub fn owns(&self, addr: InetAddr) -> bool {
        addr.hi() == self.network.hi() && addr.lo() >> self.addr_bits == self.network.lo() >> self.addr_bits
    }

    /// The flow of the first round that has this source.
    #[inline]
    pub fn first_flow(&self, addr: InetAddr, port: u16) -> Option<u64> {
        let port = u64::from(port.wrapping_sub(self.port));
        if !self.owns(addr) || port >> self.port_bits != 0 {
            return None;
        }
        let addr = addr.lo() & ((1 << self.addr_bits) - 1);
        let index = addr << self.port_bits | port;
        Some(index.wrapping_sub(self.offset).wrapping_mul(self.inverse) & self.mask)
    }

    /// The initial sequence number of `flow`.
    #[inline]
    pub fn isn(&self, flow: u64) -> u32 {
        let round = flow >> self.mask.count_ones();
        self.base(flow & self.mask).wrapping_add((round << SEQ_SPAN_BITS) as u32)
    }

    #[inline]
    fn base(&self, first: u64) -> u32 {
        mix(first ^ self.seed.rotate_left(32)) as u32
    }

    /// The flow that `ack` acknowledges, of those with the source of `first` and below `limit`; the last one if the
    /// numbers come again. None if it is none of theirs.
    #[inline]
    pub fn acked(&self, first: u64, ack: u32, limit: u64) -> Option<Acked> {
        let behind = ack.wrapping_sub(self.base(first));
        let (round, octets) = (u64::from(behind >> SEQ_SPAN_BITS), behind & ((1 << SEQ_SPAN_BITS) - 1));
        let last = limit.checked_sub(first + 1)? >> self.mask.count_ones();
        let back = last.wrapping_sub(round) % ROUNDS;
        let round = last.checked_sub(back)?;
        Some(Acked { flow: round << self.mask.count_ones() | first, octets })
    }
}

/// SplitMix64's finisher: every bit of the answer depends on every bit of `word`.
#[inline]
pub const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn spaces() -> [Space; 5] {
        let v6 = InetAddr::v6(0x2001_0db8_0000_0001, 0);
        [
            Space::new(InetAddr::v4(0xc613_0000), 16, (1024, 65535), 1),
            Space::new(InetAddr::v4(0xc613_0105), 32, (1024, 65535), 2),
            Space::new(InetAddr::v4(0xc613_0105), 32, (7, 7), 3),
            Space::new(InetAddr::v4(0), 0, (0, 65535), 4),
            Space::new(v6, 64, (32768, 65535), 5),
        ]
    }

    #[test]
    fn every_source_leads_back_to_its_flow() {
        for space in spaces() {
            for flow in (0..5000).map(|n| mix(n) % space.sources()).chain([0, space.sources() - 1]) {
                let (addr, port) = space.source(flow);
                assert!(space.owns(addr) && addr.is_v4() == space.is_v4());
                assert_eq!(space.first_flow(addr, port), Some(flow), "{space:?}");
            }
        }
    }

    #[test]
    fn all_sources_have_their_turn_before_one_comes_again() {
        let space = Space::new(InetAddr::v4(0xc613_0000), 28, (5000, 5999), 9);
        assert_eq!(space.sources(), 16 * 512);
        let all: HashSet<_> = (0..space.sources()).map(|flow| space.source(flow)).collect();
        assert_eq!(all.len() as u64, space.sources());
        assert!(all.iter().all(|(addr, port)| space.owns(*addr) && (5000..5512).contains(port)));
        assert_eq!(space.source(3), space.source(3 + space.sources()));
        assert!(space.first_flow(InetAddr::v4(0xc613_0010), 5000).is_none());
        assert!(space.first_flow(InetAddr::v4(0xc613_0001), 5512).is_none());
        assert!(space.first_flow(InetAddr::v4(0xc613_0001), 4999).is_none());
    }

    #[test]
    fn an_ack_names_its_flow_and_what_it_acknowledges() {
        for space in spaces() {
            let later = space.sources().checked_mul(5).map(|flow| flow + 3);
            for flow in [0, 1, 77].into_iter().chain(later) {
                let first = flow & (space.sources() - 1);
                let isn = space.isn(flow);
                for octets in [1, 2, 1001] {
                    let acked = space.acked(first, isn.wrapping_add(octets), flow + 1);
                    assert_eq!(acked, Some(Acked { flow, octets }), "{space:?}");
                }
                // A flow that has not begun cannot be acknowledged.
                assert_ne!(space.acked(first, isn.wrapping_add(1), flow).map(|acked| acked.flow), Some(flow));
                let off = space.acked(first, isn, flow + 1).expect("in the flow's span");
                assert_eq!(off.octets, 0, "the SYN itself is not acknowledged");
            }
        }
    }
}
