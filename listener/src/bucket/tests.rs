use super::*;

/// A table without lists.
fn table() -> Table<()> {
    Table::new(1 << 20, 1 << 10)
}

/// The `number`-th of the keys whose first bucket is `bucket` and second is `bucket ^ flip`; `flip` is odd, below 8.
fn hash(bucket: usize, flip: usize, number: usize) -> u64 {
    let hash = (bucket as u64) << (64 - BITS_MIN) | ((flip as u64) << 61 | (number as u64) << 30) >> BITS_MIN;
    assert_eq!(Probe::second(BITS_MIN, bucket, hash << BITS_MIN), bucket ^ flip);
    hash
}

fn set(table: &Table<()>, hash: u64, id: Option<u32>) -> Result<(), Full> {
    table.update(hash, |_| true, |_| Ok((id.map(|id| Held::One(ListenerId(id))), ())))
}

fn get(table: &Table<()>, hash: u64) -> Option<u32> {
    let guard = epoch::pin();
    match table.view(&guard).find(hash, |_| true)?.held()? {
        Held::One(id) => Some(id.0),
        Held::List(()) => None,
    }
}

/// The words of a bucket: keys in place, keys displaced into it, zero. And whether keys are displaced from it.
fn census(table: &Table<()>, bucket: usize) -> ([usize; 3], bool) {
    let guard = epoch::pin();
    let mut counts = [0; 3];
    for word in &table.view(&guard).memory[bucket].0 {
        let kind = match word.load(Ordering::Relaxed) {
            0 => 2,
            word if word & DISPLACED != 0 => 1,
            _ => 0,
        };
        counts[kind] += 1;
    }
    (counts, table.view(&guard).spilled[bucket].load(Ordering::Relaxed) != 0)
}

#[test]
fn the_permutation_is_one() {
    let mix = Mix::new(&[0x1234_5678_9abc_def0, 3 << 40, 0xdead_beef_0123_4567, 5, 6, 7]);
    // Every key that differs in two bits at most from a few: no two share a hash.
    let mut hashes: Vec<u64> = Vec::new();
    for base in [0u64, 0xc612_0001_0050 << 16, 0xffff_ffff_ffff << 16] {
        for one in 0..48 {
            for two in one..48 {
                hashes.push(mix.v4(base ^ 1 << (16 + one) ^ 1 << (16 + two)));
            }
        }
    }
    let count = hashes.len() - 2 * 47;
    hashes.sort_unstable();
    hashes.dedup();
    // base ^ bit ^ bit is base: 48 times each.
    assert_eq!(hashes.len(), count - 47);
    assert!(hashes.iter().all(|hash| hash & 0xffff == 0));
}

#[test]
fn a_ninth_key_is_displaced_and_found() {
    let table = table();
    for number in 0..12 {
        set(&table, hash(40, 3, number), Some(number as u32)).expect("there is room");
    }
    assert_eq!(census(&table, 40), ([8, 0, 0], true));
    assert_eq!(census(&table, 43), ([0, 4, 4], false));
    for number in 0..12 {
        assert_eq!(get(&table, hash(40, 3, number)), Some(number as u32));
        assert_eq!(get(&table, hash(43, 3, number)), None, "the displaced key of another bucket");
    }
    assert_eq!(get(&table, hash(40, 3, 12)), None);
}

#[test]
fn a_bucket_says_until_the_last_that_keys_are_displaced() {
    let table = table();
    for number in 0..10 {
        set(&table, hash(40, 3, number), Some(number as u32)).expect("there is room");
    }
    set(&table, hash(40, 3, 0), None).expect("removal needs no room");
    assert_eq!(census(&table, 40), ([7, 0, 1], true));
    assert_eq!(get(&table, hash(40, 3, 9)), Some(9));
    // A new key takes the place at once.
    set(&table, hash(40, 5, 50), Some(50)).expect("there is room");
    assert_eq!(census(&table, 40), ([8, 0, 0], true));
    set(&table, hash(40, 3, 1), None).expect("removal needs no room");
    set(&table, hash(40, 3, 8), None).expect("removal needs no room");
    assert_eq!(census(&table, 40), ([7, 0, 1], true), "one is still displaced");
    set(&table, hash(40, 3, 9), None).expect("removal needs no room");
    assert_eq!(census(&table, 40), ([7, 0, 1], false), "nobody is displaced any more");
    assert_eq!(census(&table, 43), ([0, 0, 8], false));
    assert_eq!(table.keys(), 7);
}

#[test]
fn a_key_makes_room_for_another() {
    let table = table();
    // Bucket 43 is full of its own, 40 of keys that could go to 45.
    for number in 0..8 {
        set(&table, hash(43, 1, number), Some(100 + number as u32)).expect("there is room");
        set(&table, hash(40, 5, number), Some(200 + number as u32)).expect("there is room");
    }
    set(&table, hash(40, 3, 0), Some(300)).expect("a key moves to 45");
    assert_eq!(census(&table, 40), ([8, 0, 0], true));
    assert_eq!(census(&table, 45), ([0, 1, 7], false));
    assert_eq!(get(&table, hash(40, 3, 0)), Some(300));
    for number in 0..8 {
        assert_eq!(get(&table, hash(40, 5, number)), Some(200 + number as u32));
    }
    // Room that was made for a key that did not come.
    set(&table, hash(40, 3, 1), None).expect("nothing to remove");
    assert_eq!(census(&table, 40), ([7, 0, 1], true));
    assert_eq!(census(&table, 45), ([0, 2, 6], false));
    for number in 0..8 {
        assert_eq!(get(&table, hash(40, 5, number)), Some(200 + number as u32));
    }
}

#[test]
fn colliding_keys_buy_full_and_not_memory() {
    let table = table();
    let bytes = table.bucket_bytes(&epoch::pin());
    for number in 0..16 {
        set(&table, hash(40, 3, number), Some(number as u32)).expect("two buckets hold sixteen");
    }
    assert_eq!(set(&table, hash(40, 3, 16), Some(16)), Err(Full));
    assert_eq!(table.bucket_bytes(&epoch::pin()), bytes);
    assert!((0..16).all(|number| get(&table, hash(40, 3, number)) == Some(number as u32)));
    assert_eq!(table.keys(), 16);
}

#[test]
fn growth_keeps_every_key() {
    let table = table();
    let mix = Mix::new(&[1, 2, 3, 4, 5, 6].map(|word: u64| word.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let hash = |number: u32| mix.v4(Mix::raw_v4(number, TcpPort(80)));
    let before = table.bucket_bytes(&epoch::pin());
    for number in 0..100_000 {
        set(&table, hash(number), Some(number)).expect("there is room");
    }
    let bytes = table.bucket_bytes(&epoch::pin());
    assert!((100_000..).contains(&table.keys()));
    assert!(bytes > before && bytes <= 100_000 * 8 * 4, "{bytes} bytes");
    for number in 0..100_000 {
        assert_eq!(get(&table, hash(number)), Some(number));
    }
    assert_eq!(get(&table, hash(100_000)), None);
    for number in 0..100_000 {
        set(&table, hash(number), None).expect("removal needs no room");
    }
    assert_eq!(table.keys(), 0);
    let guard = epoch::pin();
    let left = table.view(&guard).memory.iter().flat_map(|bucket| &bucket.0);
    assert_eq!(left.filter(|word| word.load(Ordering::Relaxed) != 0).count(), 0);
}
