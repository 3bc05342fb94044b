//! The listening hash against the obvious model: a map from key to list, walked from the front, exact address before
//! wildcard. One operation list, every instruction set, answers compared one by one, in bursts, and in bursts of
//! columns.

use std::collections::HashMap;

use listener::inet_hashtables::{HashKey, KeyColumns, KeyList, ListEntry, ListenHash, ListenKey};
use listener::segment::FlowKey;
use listener::types::{CoreId, DevIndex, InetAddr, ListenerId, TcpPort};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Hash {
        addr: u8,
        port: u16,
        entry: ListEntry,
    },
    Unhash {
        addr: u8,
        port: u16,
        nth: usize,
        migrate: bool,
    },
    Edit {
        addr: u8,
        port: u16,
        nth: usize,
        dev: u16,
        reuseport: bool,
    },
    /// So many plain listeners on addresses of their own: enough of them make the table grow.
    Many {
        count: u16,
        ipv6: bool,
    },
    Lookup {
        keys: Vec<(u8, u16, u16, u16)>,
    },
}

fn addr(number: u8) -> InetAddr {
    match number {
        0 => InetAddr::ANY_V4,
        1 => InetAddr::ANY_V6,
        2..5 => InetAddr::v4(0xc612_0000 + u32::from(number)),
        _ => InetAddr::v6(0x2001_0db8_0000_0000, u64::from(number)),
    }
}

/// An address of `Op::Many`.
fn one_of_many(number: u32, ipv6: bool) -> (InetAddr, TcpPort) {
    let addr = if ipv6 {
        InetAddr::v6(0x2001_0db8_0001_0000, u64::from(number / 4))
    } else {
        InetAddr::v4(0xc613_0000 + number / 4)
    };
    (addr, TcpPort(1000 + (number % 4) as u16))
}

fn op() -> impl Strategy<Value = Op> {
    let entry = (any::<[bool; 4]>(), 0..3u16, prop::option::weighted(0.2, 0..2u16), 0..2u32).prop_map(
        |([ipv6, v6only, reuseport, mapped], dev, cpu, uid)| ListEntry {
            ipv6,
            v6only: ipv6 && v6only && !mapped,
            mapped: ipv6 && mapped,
            reuseport,
            dev: DevIndex(dev),
            incoming_cpu: cpu.map(CoreId),
            uid,
            ..ListEntry::v4(ListenerId(0))
        },
    );
    let plain = any::<bool>().prop_map(|ipv6| {
        let id = ListenerId(0);
        if ipv6 { ListEntry::v6(id) } else { ListEntry::v4(id) }
    });
    let entry = prop_oneof![entry, plain];
    let (at, port) = (0..8u8, 80..84u16);
    prop_oneof![
        4 => (at.clone(), port.clone(), entry).prop_map(|(addr, port, entry)| Op::Hash { addr, port, entry }),
        3 => (at.clone(), port.clone(), 0..4usize, any::<bool>())
            .prop_map(|(addr, port, nth, migrate)| Op::Unhash { addr, port, nth, migrate }),
        1 => (at, port.clone(), 0..4usize, 0..3u16, any::<bool>())
            .prop_map(|(addr, port, nth, dev, reuseport)| Op::Edit { addr, port, nth, dev, reuseport }),
        1 => (1..6000u16, any::<bool>()).prop_map(|(count, ipv6)| Op::Many { count, ipv6 }),
        3 => prop::collection::vec((2..8u8, port, 0..3u16, 0..2u16), 1..70).prop_map(|keys| Op::Lookup { keys }),
    ]
}

/// What sockets can be: the listener's family fits its address.
fn fit(mut entry: ListEntry, addr: InetAddr, id: ListenerId) -> ListEntry {
    entry.id = id;
    if addr == InetAddr::ANY_V6 {
        entry.ipv6 = true;
        entry.mapped = false;
    } else if addr.is_v4() {
        entry.mapped = entry.ipv6;
        entry.v6only = false;
    } else {
        entry = ListEntry { ipv6: true, v6only: true, mapped: false, ..entry };
    }
    entry
}

#[derive(Default)]
struct Model {
    keys: HashMap<HashKey, KeyList>,
}

impl Model {
    fn update<R>(&mut self, key: HashKey, f: impl FnOnce(&mut KeyList) -> R) -> R {
        let list = self.keys.entry(key).or_default();
        let result = f(list);
        if list.is_empty() {
            self.keys.remove(&key);
        }
        result
    }

    fn lookup(&self, table: &ListenHash, key: &ListenKey) -> Option<ListenerId> {
        let exact = HashKey::new(key.flow.daddr, key.flow.dport);
        let wildcard = HashKey::new(InetAddr::ANY_V4, key.flow.dport);
        let at = |key_of: HashKey| self.keys.get(&key_of)?.inet_lookup(key, || table.flow_hash(&key.flow));
        at(exact).or_else(|| at(wildcard))
    }
}

struct Pair {
    table: ListenHash,
    model: Model,
    next_id: u32,
    many: Vec<(InetAddr, TcpPort)>,
}

impl Pair {
    fn both<R: PartialEq + std::fmt::Debug>(&mut self, key: HashKey, f: impl Fn(&mut KeyList) -> R) {
        let ours = self.table.update(key, &f).expect("the table has room");
        let theirs = self.model.update(key, f);
        assert_eq!(ours, theirs, "update of {key:?}");
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Hash { addr: at, port, entry } => {
                let entry = fit(entry, addr(at), ListenerId(self.next_id));
                self.next_id += 1;
                self.both(HashKey::new(addr(at), TcpPort(port)), |list| list.inet_hash(entry));
            }
            Op::Unhash { addr: at, port, nth, migrate } => {
                self.both(HashKey::new(addr(at), TcpPort(port)), |list| {
                    if let Some(id) = list.entries().get(nth).map(|entry| entry.id) {
                        return list.inet_unhash(id, migrate).map(|entry| entry.id);
                    }
                    let parked = list.groups().iter().find_map(|group| group.closed().first().copied());
                    parked.inspect(|&id| assert!(list.detach_closed(id)))
                });
            }
            Op::Edit { addr: at, port, nth, dev, reuseport } => {
                self.both(HashKey::new(addr(at), TcpPort(port)), |list| {
                    let id = list.entries().get(nth)?.id;
                    list.edit(id, |entry| {
                        (entry.dev, entry.reuseport, entry.uid) = (DevIndex(dev), reuseport, 0)
                    });
                    Some(id)
                });
            }
            Op::Many { count, ipv6 } => {
                for number in 0..u32::from(count) {
                    let (addr, port) = one_of_many(number, ipv6);
                    let entry = if ipv6 { ListEntry::v6 } else { ListEntry::v4 }(ListenerId(self.next_id));
                    self.next_id += 1;
                    // The second time round they close, so that the table also empties.
                    self.both(HashKey::new(addr, port), |list| {
                        match list.entries().first().map(|entry| entry.id) {
                            Some(id) => list.inet_unhash(id, false).is_some(),
                            None => list.inet_hash(entry).is_ok(),
                        }
                    });
                    self.many.push((addr, port));
                }
            }
            Op::Lookup { ref keys } => self.look_up(keys),
        }
    }

    fn look_up(&mut self, keys: &[(u8, u16, u16, u16)]) {
        let segment = |(at, &(to, port, dev, core)): (usize, &(u8, u16, u16, u16))| {
            let (daddr, dport) = if at % 3 == 0 && !self.many.is_empty() {
                self.many[at * 977 % self.many.len()]
            } else {
                (addr(to), TcpPort(port))
            };
            let saddr = if daddr.is_v4() { InetAddr::v4(0xc612_ff01) } else { InetAddr::v6(1 << 61, 9) };
            let flow = FlowKey { saddr, daddr, sport: TcpPort(at as u16), dport };
            ListenKey { flow, dev: DevIndex(dev), core: CoreId(core) }
        };
        let keys: Vec<ListenKey> = keys.iter().enumerate().map(segment).collect();
        let want: Vec<_> = keys.iter().map(|key| self.model.lookup(&self.table, key)).collect();
        for kernel in ListenHash::kernels() {
            assert!(self.table.set_kernel(kernel));
            let guard = self.table.pin();
            let mut found = vec![Some(ListenerId(77)); keys.len()];
            self.table.inet_lookup_listener_burst(&guard, &keys, &mut found);
            assert_eq!(found, want, "burst, {kernel}, of {keys:?}");
            let single: Vec<_> =
                keys.iter().map(|key| self.table.inet_lookup_listener(&guard, key)).collect();
            assert_eq!(single, want, "one by one, {kernel}, of {keys:?}");
            self.look_up_columns(&keys);
        }
    }
}

impl Pair {
    /// The IPv4 keys among these, as columns, all from the first one's device and for its core.
    fn look_up_columns(&self, keys: &[ListenKey]) {
        let Some(&ListenKey { dev, core, .. }) = keys.first() else { return };
        let four = keys.iter().filter(|key| key.flow.is_v4());
        let keys: Vec<ListenKey> = four.map(|&key| ListenKey { dev, core, ..key }).collect();
        let column = |word: fn(&FlowKey) -> u32| keys.iter().map(|key| word(&key.flow)).collect::<Vec<u32>>();
        let columns = KeyColumns {
            saddr: &column(|flow| flow.saddr.as_v4().expect("IPv4")),
            daddr: &column(|flow| flow.daddr.as_v4().expect("IPv4")),
            ports: &column(|flow| u32::from(flow.sport.0) << 16 | u32::from(flow.dport.0)),
            dev,
            core,
        };
        let guard = self.table.pin();
        let want: Vec<_> = keys.iter().map(|key| self.model.lookup(&self.table, key)).collect();
        let mut found = vec![Some(ListenerId(77)); keys.len()];
        self.table.inet_lookup_listener_columns(&guard, &columns, &mut found);
        assert_eq!(found, want, "columns, {}, of {keys:?}", self.table.kernel_name());
        for (key, want) in keys.iter().zip(&want) {
            let alike = self.table.inet_lookup_listener_alike(&guard, key.flow.daddr, key.flow.dport);
            assert!(alike.is_none_or(|alike| alike == *want), "whatever the source: {alike:?} of {key:?}");
        }
        let mut rows = vec![Some(ListenerId(77)); keys.len()];
        self.table.inet_lookup_listener_burst(&guard, &keys, &mut rows);
        assert_eq!(rows, found, "rows and columns, {}, of {keys:?}", self.table.kernel_name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn table_agrees_with_map(ops in prop::collection::vec(op(), 1..60), secret: [u8; 16]) {
        let mut pair =
            Pair { table: ListenHash::new(1 << 20, secret), model: Model::default(), next_id: 0, many: Vec::new() };
        for op in &ops {
            pair.apply(op);
        }
        for key in pair.model.keys.keys() {
            let list = pair.table.key_list(*key);
            let ids = |list: &KeyList| list.entries().iter().map(|entry| entry.id).collect::<Vec<_>>();
            prop_assert_eq!(ids(&list), ids(&pair.model.keys[key]));
        }
    }
}
