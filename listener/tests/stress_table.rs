//! Real threads on the listening hash: writers open and close listeners and make the table grow; readers check that
//! listeners that stay are never missed and that every hit names a listener of the key that was asked for.
//!
//! A listener's id tells its key (see [`id_of`]), so half a listener, or a slot read for another key, shows at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use listener::inet_hashtables::{HashKey, ListEntry, ListenHash, ListenKey};
use listener::segment::FlowKey;
use listener::types::{InetAddr, ListenerId, TcpPort};

/// Keys that stay: every fourth. The others come and go.
const KEYS: u32 = 6000;

fn key_of(number: u32) -> (InetAddr, TcpPort) {
    let port = TcpPort(1000 + (number % 5) as u16);
    let addr = match number % 16 {
        // The wildcard's ports are others, so that they hide nobody.
        15 | 12 => return (InetAddr::ANY_V4, TcpPort(20_000 + number as u16)),
        13 | 8 => InetAddr::v6(0x2001_0db8_0000_0000, u64::from(number)),
        _ => InetAddr::v4(0xc612_0000 + number),
    };
    (addr, port)
}

fn id_of(number: u32, round: u32) -> ListenerId {
    ListenerId(number * 64 + round % 64)
}

fn stays(number: u32) -> bool {
    number.is_multiple_of(4)
}

fn entry(number: u32, round: u32) -> ListEntry {
    let (addr, _) = key_of(number);
    let id = id_of(number, round);
    // Some in groups, so that lists are made and reclaimed.
    let reuseport = number.is_multiple_of(3);
    ListEntry { reuseport, ..if addr.is_v4() { ListEntry::v4(id) } else { ListEntry::v6(id) } }
}

fn open(table: &ListenHash, number: u32, round: u32) {
    let (addr, port) = key_of(number);
    let opened = table.update(HashKey::new(addr, port), |list| list.inet_hash(entry(number, round)));
    assert_eq!(opened, Ok(Ok(())), "key {number}");
}

fn close(table: &ListenHash, number: u32, round: u32) {
    let (addr, port) = key_of(number);
    let gone = table.update(HashKey::new(addr, port), |list| list.inet_unhash(id_of(number, round), false));
    assert!(matches!(gone, Ok(Some(_))), "key {number}");
}

/// Opens and closes this half's keys that do not stay; a second member joins the groups of those that do.
fn write(table: &ListenHash, half: u32, stop: &AtomicBool) -> u64 {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let mine = || {
            (0..KEYS)
                .filter(move |number| number / 4 % 2 == half && (!stays(*number) || number.is_multiple_of(3)))
        };
        mine().for_each(|number| open(table, number, 1 + round % 63));
        mine().for_each(|number| close(table, number, 1 + round % 63));
        round += 1;
    }
    u64::from(round)
}

fn read(table: &ListenHash, start: u32, stop: &AtomicBool) -> u64 {
    let (mut at, mut looked_up) = (start, 0);
    while !stop.load(Ordering::Relaxed) {
        let numbers: [u32; 48] = std::array::from_fn(|lane| (at + lane as u32 * 7) % KEYS);
        let keys = numbers.map(|number| {
            let (addr, dport) = key_of(number);
            let daddr = if addr.is_any() { InetAddr::v4(0xc613_0001) } else { addr };
            let flow = FlowKey { saddr: daddr, daddr, sport: TcpPort(at as u16), dport };
            ListenKey { flow, ..ListenKey::default() }
        });
        let mut found = [None; 48];
        table.inet_lookup_listener_burst(&table.pin(), &keys, &mut found);
        for (number, found) in numbers.into_iter().zip(found) {
            match found {
                Some(id) => assert_eq!(id.0 / 64, number, "a listener of another key"),
                None => assert!(!stays(number), "listener {number} stays, and was missed"),
            }
        }
        at = at.wrapping_mul(5).wrapping_add(13) % KEYS;
        looked_up += 48;
    }
    looked_up
}

#[test]
fn readers_never_miss_what_stays() {
    let seconds = std::env::var("STRESS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let (mut tables, lookups, rounds) = (0, AtomicU64::new(0), AtomicU64::new(0));
    // A fresh table every 200 ms: it grows in its first milliseconds, under the readers' eyes.
    while Instant::now() < deadline {
        let table = ListenHash::new(1 << 20, [tables as u8; 16]);
        (0..KEYS).filter(|&number| stays(number)).for_each(|number| open(&table, number, 0));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (table, stop, lookups, rounds) = (&table, &stop, &lookups, &rounds);
            for half in 0..2 {
                scope.spawn(move || rounds.fetch_add(write(table, half, stop), Ordering::Relaxed));
            }
            for start in 0..2 {
                scope.spawn(move || lookups.fetch_add(read(table, start * 3001, stop), Ordering::Relaxed));
            }
            std::thread::sleep(Duration::from_millis(200));
            stop.store(true, Ordering::Relaxed);
        });
        tables += 1;
    }
    let (lookups, rounds) = (lookups.into_inner(), rounds.into_inner());
    println!("{tables} tables, {lookups} lookups, {rounds} rounds of open and close");
    assert!(lookups > 0 && rounds > 0);
}
