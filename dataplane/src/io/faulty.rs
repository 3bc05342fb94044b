//! Packet I/O that spoils what another one carries: seeded, so that a run that failed can be run again.
//!
//! On the way in, frames are lost, get a bit flipped, are cut short, or come twice (the second time in a later burst, so
//! also out of order). On the way out, the device takes fewer frames than it was given, or rejects one. What was done is counted, so
//! that frames can still be accounted for.

use super::{Capabilities, Frame, PacketIo, Sent};

/// Copies that may wait for a later burst; made once, so that nothing is allocated later.
const HELD_MAX: usize = 64;

/// Vigna's SplitMix64: small, and good from any seed.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The generator of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// True in `per_mille` of 1,000 cases.
    pub fn chance(&mut self, per_mille: u16) -> bool {
        self.below(1000) < usize::from(per_mille)
    }
}

/// How often each fault happens, in 1,000 frames; `short_tx` in 1,000 bursts.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRates {
    /// A frame is lost.
    pub drop: u16,
    /// One bit is another.
    pub flip: u16,
    /// The frame ends early.
    pub truncate: u16,
    /// The frame comes again later.
    pub repeat: u16,
    /// The device takes only some of the frames.
    pub short_tx: u16,
    /// The device rejects a frame, and takes those behind it.
    pub reject: u16,
}

/// How often each fault happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Frames lost.
    pub dropped: u64,
    /// Frames with a bit flipped.
    pub flipped: u64,
    /// Frames cut short.
    pub truncated: u64,
    /// Frames that came again; those that still wait included.
    pub repeated: u64,
    /// Bursts of which the device took only some.
    pub short_tx: u64,
    /// Frames that the device rejected.
    pub rejected: u64,
}

/// `I`, spoilt.
#[derive(Debug)]
pub struct Faulty<I: PacketIo> {
    inner: I,
    rng: SplitMix64,
    rates: FaultRates,
    counts: FaultCounts,
    held: Vec<I::Frame>,
}

impl<I: PacketIo> Faulty<I> {
    /// Spoils `inner` at these rates; the same seed spoils the same frames.
    pub fn new(inner: I, seed: u64, rates: FaultRates) -> Self {
        let (rng, counts) = (SplitMix64::new(seed), FaultCounts::default());
        Self { inner, rng, rates, counts, held: Vec::with_capacity(HELD_MAX) }
    }

    /// What was done so far.
    pub fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// Copies that still wait to come in.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// False if the frame is lost.
    fn spoil(&mut self, frame: &mut I::Frame) -> bool {
        if self.rng.chance(self.rates.drop) {
            self.counts.dropped += 1;
            return false;
        }
        if self.rng.chance(self.rates.repeat) {
            self.repeat(frame);
        }
        let len = frame.bytes().len();
        if self.rng.chance(self.rates.flip) && len > 0 {
            let bit = self.rng.below(len * 8);
            frame.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            self.counts.flipped += 1;
        }
        if self.rng.chance(self.rates.truncate) && len > 0 && frame.set_len(self.rng.below(len)) {
            self.counts.truncated += 1;
        }
        true
    }

    fn repeat(&mut self, frame: &I::Frame) {
        if self.held.len() == HELD_MAX {
            return;
        }
        let Some(mut copy) = self.inner.alloc() else { return };
        if copy.set_len(frame.bytes().len()) {
            copy.bytes_mut().copy_from_slice(frame.bytes());
            self.held.push(copy);
            self.counts.repeated += 1;
        }
    }
}

impl<I: PacketIo> PacketIo for Faulty<I> {
    type Frame = I::Frame;

    fn rx_burst(&mut self, into: &mut [Option<I::Frame>]) -> usize {
        let mut kept = 0;
        while kept < into.len() {
            let Some(copy) = self.held.pop() else { break };
            into[kept] = Some(copy);
            kept += 1;
        }
        let received = self.inner.rx_burst(&mut into[kept..]);
        let first = kept;
        for index in first..first + received {
            let Some(mut frame) = into[index].take() else { continue };
            if self.spoil(&mut frame) {
                into[kept] = Some(frame);
                kept += 1;
            }
        }
        kept
    }

    fn tx_burst(&mut self, from: &mut [Option<I::Frame>]) -> Sent {
        let mut take = from.len();
        if self.rng.chance(self.rates.short_tx) {
            take = self.rng.below(from.len());
            self.counts.short_tx += 1;
        }
        let mut sent = Sent::default();
        while sent.done < take {
            if self.rng.chance(self.rates.reject) {
                from[sent.done] = None;
                sent.rejected |= 1 << sent.done;
                self.counts.rejected += 1;
            } else if self.inner.tx_burst(&mut from[sent.done..=sent.done]).done == 0 {
                break;
            }
            sent.done += 1;
        }
        sent
    }

    fn alloc(&mut self) -> Option<I::Frame> {
        self.inner.alloc()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn exhausted(&self) -> bool {
        self.held.is_empty() && self.inner.exhausted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::mem::{Mem, MemConfig, MemFrame};

    /// The lengths and octets of what comes in of `count` frames of 64 octets, whose first octet is their number.
    fn run(rates: FaultRates, seed: u64, count: u8) -> (Vec<Vec<u8>>, FaultCounts, usize) {
        let (io, peer) = Mem::new(MemConfig::default());
        let mut io = Faulty::new(io, seed, rates);
        let mut seen = Vec::new();
        let mut slots: [Option<MemFrame>; 8] = [const { None }; 8];
        let mut receive = |io: &mut Faulty<Mem>| {
            let received = io.rx_burst(&mut slots);
            assert!(slots[received..].iter().all(Option::is_none), "a prefix is filled");
            let mut frames = slots[..received].iter_mut().map(|slot| slot.take().expect("it is filled"));
            seen.extend(frames.by_ref().map(|frame| frame.bytes().to_vec()));
        };
        for number in 0..count {
            let mut frame = [0; 64];
            frame[0] = number;
            assert!(peer.send(&frame));
            receive(&mut io);
        }
        while io.held() > 0 {
            receive(&mut io);
        }
        (seen, io.counts(), peer.free_buffers())
    }

    #[test]
    fn without_rates_nothing_happens() {
        let (seen, counts, free) = run(FaultRates::default(), 1, 100);
        assert!(seen.iter().zip(0..).all(|(frame, number)| frame.len() == 64 && frame[0] == number));
        assert_eq!((seen.len(), counts, free), (100, FaultCounts::default(), 1024));
    }

    #[test]
    fn faults_are_counted_and_come_again_with_the_seed() {
        let rates = FaultRates { drop: 100, flip: 100, truncate: 100, repeat: 100, ..FaultRates::default() };
        let first = run(rates, 7, 200);
        assert_eq!(first, run(rates, 7, 200));
        assert_ne!(first.0, run(rates, 8, 200).0);
        let (seen, counts, free) = first;
        assert_eq!(seen.len() as u64, 200 - counts.dropped + counts.repeated);
        let short = seen.iter().filter(|frame| frame.len() < 64).count() as u64;
        assert_eq!(short, counts.truncated);
        let all = [counts.dropped, counts.flipped, counts.truncated, counts.repeated];
        assert!(all.iter().all(|&count| (5..60).contains(&count)), "{counts:?}");
        assert_eq!(free, 1024, "no buffer is lost");
    }

    #[test]
    fn a_short_burst_leaves_the_rest_with_the_caller() {
        let (io, peer) = Mem::new(MemConfig::default());
        let mut io = Faulty::new(io, 1, FaultRates { short_tx: 1000, ..FaultRates::default() });
        let mut frames: [Option<MemFrame>; 8] = std::array::from_fn(|_| io.alloc());
        let Sent { done: sent, rejected: 0 } = io.tx_burst(&mut frames) else {
            panic!("no frame is rejected")
        };
        assert!(sent < 8 && frames[sent..].iter().all(Option::is_some));
        assert_eq!(std::iter::from_fn(|| peer.recv()).count(), sent);
    }

    #[test]
    fn a_rejected_frame_is_lost_alone() {
        let (io, peer) = Mem::new(MemConfig::default());
        let mut io = Faulty::new(io, 1, FaultRates { reject: 500, ..FaultRates::default() });
        let mut frames: [Option<MemFrame>; 64] = std::array::from_fn(|_| io.alloc());
        let sent = io.tx_burst(&mut frames);
        assert!(frames.iter().all(Option::is_none) && sent.done == 64);
        assert!((16..48).contains(&sent.taken()), "{sent:?}");
        assert_eq!(io.counts().rejected as usize, 64 - sent.taken());
        assert_eq!(std::iter::from_fn(|| peer.recv()).count(), sent.taken());
    }
}
