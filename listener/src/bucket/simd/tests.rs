use super::*;
use crate::sync::AtomicU64;

type Compared = ([u64; STEP], u32, u32);

/// What the set `kernel` finds of `probes` in `buckets`; of differences that are no match, only that they are none.
fn compare(kernel: Kernel, buckets: [&Bucket; STEP], probes: &[u64; STEP]) -> Compared {
    fn all<I: Isa>(buckets: [&Bucket; STEP], probes: &[u64; STEP]) -> Compared {
        let mut differ = [0; STEP];
        // SAFETY: called for sets that `available` named.
        let (misses, zeros) = unsafe { (I::nearest(buckets, probes, &mut differ), I::zeros(buckets)) };
        (differ.map(|differ| if differ >> Probe::ANY_BITS == 0 { differ } else { u64::MAX }), misses, zeros)
    }
    match kernel.0 {
        #[cfg(target_arch = "x86_64")]
        Choice::Avx512 => all::<x86::Avx512>(buckets, probes),
        #[cfg(target_arch = "x86_64")]
        Choice::Avx2 => all::<x86::Avx2>(buckets, probes),
        #[cfg(target_arch = "x86_64")]
        Choice::Sse42 => all::<x86::Sse42>(buckets, probes),
        Choice::Portable => all::<Portable>(buckets, probes),
    }
}

proptest::proptest! {
    /// Words are the probe with few bits changed, so that near misses are the rule. Two words may match, as they do for a
    /// reader under whose eyes a key moves to another slot.
    #[test]
    fn all_sets_agree(
        probe: u64,
        lanes in proptest::array::uniform8((0..10usize, 0..41u32, 0..1u64 << 23, 0..20usize)),
    ) {
        let buckets = lanes.map(|(own, flip, low, zero)| Bucket(std::array::from_fn(|at| {
            let near = probe ^ low.rotate_right(at as u32) & ((1 << 23) - 1);
            let word = if at % 6 == own { near } else { near ^ 1 << (23 + (at as u32 + flip) % 41) };
            AtomicU64::new(if at == zero { 0 } else { word })
        })));
        let probes = [probe; STEP];
        let buckets = buckets.each_ref();
        let want = compare(Kernel::PORTABLE, buckets, &probes);
        for kernel in Kernel::available() {
            proptest::prop_assert_eq!(compare(kernel, buckets, &probes), want, "{}", kernel.name());
        }
    }
}

#[test]
fn the_best_set_comes_first_and_the_portable_one_last() {
    let sets = Kernel::available();
    assert_eq!(sets.first(), Some(&Kernel::best()));
    assert_eq!(sets.last(), Some(&Kernel::PORTABLE));
    println!("sets here: {:?}", sets.iter().map(|set| set.name()).collect::<Vec<_>>());
}
