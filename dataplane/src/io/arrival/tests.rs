use super::*;

/// 78.125 MHz, as an mlx5 has it: 12.8 ns.
const TICK: f64 = 12.8;

fn calibrator(known: Option<f64>) -> Calibrator {
    let start = Instant::now();
    let clock = Arc::new(ArrivalClock::new(start));
    Calibrator { clock, known_ns_per_tick: known, readings: VecDeque::new(), due: start }
}

/// The reading at second `at` of a device whose clock began at `begin`.
fn reading(begin: u64, at: f64) -> (u64, u64) {
    (begin.wrapping_add((at * 1e9 / TICK) as u64), (at * 1e9) as u64)
}

fn age(clock: &ArrivalClock, stamp: u64, now: f64) -> f64 {
    clock.relation().expect("two readings").age(stamp, (now * 1e9) as u64)
}

#[test]
fn a_clock_of_unknown_rate_is_measured() {
    let mut calibrator = calibrator(None);
    let clock = calibrator.clock();
    calibrator.learn(reading(1 << 40, 1.0));
    assert_eq!((clock.relation(), clock.hz()), (None, None), "one reading says nothing of the rate");
    calibrator.learn(reading(1 << 40, 1.1));
    let hz = clock.hz().expect("two do");
    assert!((hz - 78.125e6).abs() < 100.0, "{hz}");
    let stamp = reading(1 << 40, 1.5).0;
    assert!((age(&clock, stamp, 1.500_050) - 50_000.0).abs() < 100.0);
    let earlier = reading(1 << 40, 0.5).0;
    assert!((age(&clock, earlier, 1.5) - 1e9).abs() < 2_000.0, "a stamp from before the last reading");
}

#[test]
fn a_known_tick_needs_one_reading_and_is_measured_all_the_same() {
    let mut calibrator = calibrator(Some(1000.0));
    let clock = calibrator.clock();
    calibrator.learn((5_000_000, 0));
    assert_eq!(clock.hz(), Some(1e6));
    // 100 parts in a million fast.
    for second in 1..=40u64 {
        calibrator.learn((5_000_000 + second * 1_000_100, second * 1_000_000_000));
    }
    let hz = clock.hz().expect("measured");
    assert!((hz - 1_000_100.0).abs() < 1.0, "{hz}");
    assert_eq!(calibrator.readings.len(), READINGS);
}

#[test]
fn a_counter_may_wrap() {
    let mut calibrator = calibrator(None);
    let begin = u64::MAX - 100_000_000;
    for at in [0.0, 1.0, 2.0] {
        calibrator.learn(reading(begin, at));
    }
    let stamp = reading(begin, 1.9).0;
    assert!(stamp < 1 << 40 && (age(&calibrator.clock(), stamp, 2.1) - 2e8).abs() < 100.0);
}

#[test]
fn a_clock_that_was_set_is_learnt_anew() {
    for known in [None, Some(TICK)] {
        let mut calibrator = calibrator(known);
        for at in [1.0, 2.0, 3.0] {
            calibrator.learn(reading(0, at));
        }
        // An hour on, then goes on as before.
        for at in [4.0, 5.0] {
            calibrator.learn(reading(3600 * 78_125_000, at));
            let stamp = reading(3600 * 78_125_000, at).0;
            assert!((age(&calibrator.clock(), stamp, at + 0.25) - 2.5e8).abs() < 1000.0, "{known:?} {at}");
        }
        assert_eq!(calibrator.readings.len(), 2, "what was read before is forgotten");
    }
}

#[test]
fn what_does_not_fit_the_clock_is_not_used_and_counted() {
    let mut calibrator = calibrator(Some(1.0));
    let (clock, mut waited) = (calibrator.clock(), [7; 6]);
    clock.waited([Some(1), None].into_iter(), &mut waited);
    assert_eq!((waited, clock.unusable()), ([0, 0, 7, 7, 7, 7], 2), "no reading yet");

    let unix = 1_700_000_000_000_000_000;
    let now = clock.now();
    calibrator.learn((unix + now, now));
    let just_now = unix + clock.now();
    let stamps = [
        Some(just_now),
        None,
        Some(just_now - 5_000_000_000),
        Some(just_now - LATENCY_NS_MAX - 1),
        Some(just_now + 60_000_000_000),
        Some(0),
    ];
    let before = clock.now();
    clock.waited(stamps.into_iter(), &mut waited);
    let took = clock.now() - (just_now - unix);
    assert!(before - (just_now - unix) <= waited[0] + 1 && waited[0] <= took + 1, "{waited:?} {took}");
    assert!((5_000_000_000..=5_000_000_000 + took + 1).contains(&waited[2]), "{waited:?}");
    assert_eq!((waited[1], &waited[3..], clock.unusable()), (0, &[0, 0, 0][..], 2 + 4));
}

#[test]
fn clocks_are_read_when_it_is_time() {
    let start = Instant::now();
    let wall = || Some(start.elapsed().as_nanos() as u64 / 10);
    let mut calibrator = Calibrator::new(None, wall);
    let hz = calibrator.clock().hz().expect("both readings are done");
    assert!((hz / 1e8 - 1.0).abs() < 0.02, "within the millisecond that a reading may take in 100: {hz}");
    let mut reads = 0;
    calibrator.tick(start, || {
        reads += 1;
        wall()
    });
    assert_eq!(reads, 0, "not yet");
    calibrator.tick(start + Duration::from_secs(10), || {
        reads += 1;
        wall()
    });
    assert_eq!(reads, TRIES);
    // A device that does not answer changes nothing.
    calibrator.tick(start + Duration::from_secs(20), || None);
    assert!(calibrator.clock().hz().is_some());
}

#[test]
fn a_reader_never_meets_half_a_relation() {
    let clock = ArrivalClock::new(Instant::now());
    let of = |n: u64| Relation { ticks: n, ns: n * 3, ns_per_tick: n as f64 };
    clock.publish(of(1));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (2..200_000).for_each(|n| clock.publish(of(n))));
        let (mut met, mut last) = (0u64, 0);
        while !writer.is_finished() || met == 0 {
            if let Some(relation) = clock.relation() {
                assert_eq!(relation, of(relation.ticks));
                assert!(relation.ticks >= last, "{} after {last}", relation.ticks);
                (met, last) = (met + 1, relation.ticks);
            }
        }
    });
    assert_eq!(clock.relation(), Some(of(199_999)));
}
