use super::*;
use crate::sync::{AtomicU8, AtomicU64};
use crate::types::{InetAddr, TcpPort};

type Compared = ([u64; STEP], u32, u32);

/// What the set `kernel` finds; of differences that are no match, only that they are none.
fn compare(kernel: Kernel, step: Step<'_>) -> Compared {
    fn all<I: Isa>(step: Step<'_>) -> Compared {
        let mut differ = [0; STEP];
        // SAFETY: called for sets that `available` named.
        let (misses, away) = unsafe { (I::nearest(step, &mut differ), I::may_be_displaced(step)) };
        (differ.map(|differ| if differ >> Probe::ANY_BITS == 0 { differ } else { u64::MAX }), misses, away)
    }
    match kernel.0 {
        #[cfg(all(target_arch = "x86_64", not(hearken_portable)))]
        Choice::Avx512 => all::<x86::Avx512>(step),
        #[cfg(all(target_arch = "x86_64", not(hearken_portable)))]
        Choice::Avx2 => all::<x86::Avx2>(step),
        #[cfg(all(target_arch = "x86_64", not(hearken_portable)))]
        Choice::Sse42 => all::<x86::Sse42>(step),
        Choice::Portable => all::<Portable>(step),
    }
}

proptest::proptest! {
    /// Words are the probe with few bits changed, so that near misses are the rule. Two words may match, as they do for a
    /// reader under whose eyes a key moves to another slot.
    #[test]
    fn all_sets_agree(
        probe: u64,
        lanes in proptest::array::uniform8((0..10usize, 0..41u32, 0..1u64 << 23, proptest::num::u8::ANY)),
    ) {
        let buckets = lanes.map(|(own, flip, low, _)| Bucket(std::array::from_fn(|at| {
            let near = probe ^ low.rotate_right(at as u32) & ((1 << 23) - 1);
            let word = if at % 6 == own { near } else { near ^ 1 << (23 + (at as u32 + flip) % 41) };
            AtomicU64::new(word)
        })));
        let spilled = lanes.map(|(.., spilled)| AtomicU8::new(spilled));
        let probes = [probe; STEP];
        let places = std::array::from_fn(|lane| (lane as u64) << crate::bucket::BUCKET_SHIFT);
        let step = Step { memory: &buckets, spilled: &spilled, places: &places, probes: &probes };
        let want = compare(Kernel::PORTABLE, step);
        for kernel in Kernel::available() {
            proptest::prop_assert_eq!(compare(kernel, step), want, "{}", kernel.name());
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

proptest::proptest! {
    /// Every set hashes alike, and as a single lookup does; a key that is not IPv4 is seen wherever it stands.
    #[test]
    fn all_sets_locate_alike(
        addrs: [u32; STEP],
        ports: [u16; STEP],
        secret: [u64; 6],
        bits in 9..23u32,
        six in proptest::option::of((0..STEP, 0..128u32)),
    ) {
        let mix = Mix::new(&secret);
        let mut keys: [ListenKey; STEP] = std::array::from_fn(|lane| {
            let mut key = ListenKey::default();
            key.flow.daddr = InetAddr::v4(addrs[lane]);
            (key.flow.sport, key.flow.dport) = (TcpPort(!ports[lane]), TcpPort(ports[lane]));
            key
        });
        let want = addrs.map(InetAddr::v4).into_iter().zip(ports).map(|(addr, port)| mix.hash(addr, TcpPort(port)));
        let want: Vec<u64> = want.collect();
        if let Some((lane, bit)) = six {
            let v4 = keys[lane].flow.daddr;
            let (hi, lo) = if bit < 64 { (1 << bit, 0) } else { (0, 1 << (bit - 64)) };
            keys[lane].flow.daddr = InetAddr::v6(v4.hi() ^ hi, v4.lo() ^ lo);
        }
        let not_v4 = keys.iter().any(|key| !key.flow.is_v4());
        for kernel in Kernel::available() {
            let (mut places, mut probes) = ([0; STEP], [0; STEP]);
            let located = Located { places: &mut places, probes: &mut probes };
            let seen = locate(kernel, &keys[..], &mix, bits, located);
            proptest::prop_assert_eq!(seen != 0, not_v4, "{}", kernel.name());
            for lane in 0..STEP {
                if keys[lane].flow.is_v4() && six.is_none() {
                    proptest::prop_assert_eq!(places[lane], crate::bucket::place(bits, want[lane]), "{}", kernel.name());
                    proptest::prop_assert_eq!(probes[lane], Probe::one(bits, want[lane]));
                }
            }

            // The same in columns, with other words in the upper halves of the ports; and short of a step.
            let column = ports.map(|port| u32::from(!port) << 16 | u32::from(port));
            for len in 1..=STEP {
                let located = Located { places: &mut places, probes: &mut probes };
                let columns = Columns { daddr: &addrs[..len], ports: &column[..len] };
                proptest::prop_assert_eq!(locate(kernel, columns, &mix, bits, located), 0);
                for lane in 0..len {
                    proptest::prop_assert_eq!(places[lane], crate::bucket::place(bits, want[lane]), "{}", kernel.name());
                    proptest::prop_assert_eq!(probes[lane], Probe::one(bits, want[lane]), "{}", kernel.name());
                }
            }
        }
    }
}

/// What the set `kernel` makes of the first step of `keys`.
fn locate(kernel: Kernel, keys: impl Keys, mix: &Mix, bits: u32, located: Located<'_>) -> u64 {
    // SAFETY: called for sets that `available` named.
    unsafe {
        match kernel.0 {
            #[cfg(all(target_arch = "x86_64", not(hearken_portable)))]
            Choice::Avx512 => keys.locate::<x86::Avx512>(0, mix, bits, located),
            #[cfg(all(target_arch = "x86_64", not(hearken_portable)))]
            Choice::Avx2 => keys.locate::<x86::Avx2>(0, mix, bits, located),
            #[cfg(all(target_arch = "x86_64", not(hearken_portable)))]
            Choice::Sse42 => keys.locate::<x86::Sse42>(0, mix, bits, located),
            Choice::Portable => keys.locate::<Portable>(0, mix, bits, located),
        }
    }
}
