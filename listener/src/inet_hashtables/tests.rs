use super::*;
use crate::types::{InetAddr, TcpPort};

const SECRET: [u8; 16] = *b"sixteen bytes of";

fn addr(text: &str) -> InetAddr {
    text.parse::<std::net::IpAddr>().expect("a test address").into()
}

fn segment(daddr: &str, dport: u16) -> ListenKey {
    let daddr = addr(daddr);
    let saddr = if daddr.is_v4() { addr("198.18.255.1") } else { addr("2001:db8::ffff") };
    let flow = FlowKey { saddr, daddr, sport: TcpPort(40_000), dport: TcpPort(dport) };
    ListenKey { flow, ..ListenKey::default() }
}

fn on(key: ListenKey, dev: u16, core: u16) -> ListenKey {
    ListenKey { dev: DevIndex(dev), core: CoreId(core), ..key }
}

fn id(number: u32) -> ListenerId {
    ListenerId(number)
}

fn reuseport(entry: ListEntry, uid: u32) -> ListEntry {
    ListEntry { reuseport: true, uid, ..entry }
}

fn list(entries: &[ListEntry]) -> KeyList {
    let mut list = KeyList::default();
    for &entry in entries {
        list.inet_hash(entry).expect("there is room");
    }
    list
}

fn ids(list: &KeyList) -> Vec<u32> {
    list.entries().iter().map(|entry| entry.id.0).collect()
}

struct Fixture(ListenHash);

impl Fixture {
    fn new() -> Self {
        Self(ListenHash::new(1000, SECRET))
    }

    fn hash(&self, at: &str, port: u16, entry: ListEntry) {
        let key = HashKey::new(addr(at), TcpPort(port));
        self.0
            .update(key, |list| list.inet_hash(entry))
            .expect("the table has room")
            .expect("the group has room");
    }

    fn unhash(&self, at: &str, port: u16, number: u32) {
        let key = HashKey::new(addr(at), TcpPort(port));
        let gone =
            self.0.update(key, |list| list.inet_unhash(id(number), false)).expect("removal needs no room");
        assert!(gone.is_some(), "listener {number} was on {at}");
    }

    /// The one answer of lookup and burst.
    fn lookup(&self, key: ListenKey) -> Option<u32> {
        let guard = self.0.pin();
        let one = self.0.inet_lookup_listener(&guard, &key);
        let mut found = [None; 5];
        self.0.inet_lookup_listener_burst(&guard, &[key; 5], &mut found);
        assert_eq!(found, [one; 5], "burst and single agree on {key:?}");
        one.map(|found| found.0)
    }
}

#[test]
fn what_does_not_depend_on_the_source_is_known_without_it() {
    let fixture = Fixture::new();
    let v6only = ListEntry { v6only: true, ..ListEntry::v6(id(4)) };
    fixture.hash("198.18.0.1", 80, ListEntry::v4(id(1)));
    fixture.hash("198.18.0.1", 81, reuseport(ListEntry::v4(id(2)), 0));
    fixture.hash("198.18.0.1", 82, ListEntry { dev: DevIndex(3), ..ListEntry::v4(id(3)) });
    fixture.hash("::", 83, v6only);
    fixture.hash("0.0.0.0", 84, ListEntry::v4(id(5)));
    fixture.hash("0.0.0.0", 85, reuseport(ListEntry::v4(id(6)), 0));
    let guard = fixture.0.pin();
    for (port, alike) in [
        (80, Some(Some(id(1)))),
        (81, None),
        (82, None),
        (83, Some(None)),
        (84, Some(Some(id(5)))),
        (85, None),
        (86, Some(None)),
    ] {
        let found = fixture.0.inet_lookup_listener_alike(&guard, addr("198.18.0.1"), TcpPort(port));
        assert_eq!(found, alike, "port {port}");
    }
}

#[test]
fn the_three_wildcards_are_one_key() {
    let keys = ["0.0.0.0", "::", "::ffff:0.0.0.0"].map(|any| HashKey::new(addr(any), TcpPort(80)));
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[0], keys[2]);
    assert_ne!(keys[0], HashKey::new(addr("0.0.0.0"), TcpPort(81)));
    assert_ne!(keys[0], HashKey::new(addr("::1"), TcpPort(80)));
}

#[test]
fn scores_are_the_kernels() {
    let v4 = ListEntry::v4(id(1));
    let v6 = ListEntry::v6(id(2));
    let v6only = ListEntry { v6only: true, ..v6 };
    let mapped = ListEntry { mapped: true, ..v6 };
    let bound = |entry| ListEntry { dev: DevIndex(3), ..entry };
    let cpu = |entry| ListEntry { incoming_cpu: Some(CoreId(1)), ..entry };
    let key = on(segment("198.18.0.1", 80), 3, 1);
    let elsewhere = on(key, 4, 2);
    for (entry, four, six) in [
        (v4, 2, 0),
        (v6, 1, 1),
        (v6only, 0, 1),
        (mapped, 1, 0),
        (bound(v4), 3, 0),
        (bound(v6), 2, 2),
        (cpu(bound(v4)), 4, 0),
        (cpu(v6), 2, 2),
    ] {
        assert_eq!(compute_score(&entry, &key, true), four, "IPv4, {entry:?}");
        assert_eq!(compute_score(&entry, &key, false), six, "IPv6, {entry:?}");
    }
    assert_eq!(compute_score(&bound(v4), &elsewhere, true), 0);
    assert_eq!(compute_score(&cpu(v4), &elsewhere, true), 2);
}

#[test]
fn only_ipv6_with_reuseport_goes_to_the_tail() {
    let four = list(&[
        ListEntry::v4(id(1)),
        reuseport(ListEntry::v6(id(2)), 0),
        ListEntry::v6(id(3)),
        reuseport(ListEntry::v4(id(4)), 0),
        reuseport(ListEntry::v6(id(5)), 0),
    ]);
    assert_eq!(ids(&four), [4, 3, 1, 2, 5]);
}

#[test]
fn groups_are_joined_by_family_device_owner_and_address() {
    let v4 = |number, uid| reuseport(ListEntry::v4(id(number)), uid);
    let v6 = reuseport(ListEntry::v6(id(3)), 0);
    let mut all = list(&[v4(1, 0), v4(2, 0), v6]);
    let others = [
        v4(4, 7),
        ListEntry { dev: DevIndex(1), ..v4(5, 0) },
        ListEntry { id: id(6), v6only: true, ..v6 },
        ListEntry { id: id(7), mapped: true, ..v6 },
    ];
    for other in others {
        all.inet_hash(other).expect("there is room");
    }
    assert_eq!(all.groups().len(), 6);
    let members = |number| all.group_of(id(number)).map(|group| group.members().len());
    assert_eq!(members(1), Some(2));
    assert_eq!(members(2), Some(2));
    assert!((3..8).all(|number| members(number) == Some(1)));
}

#[test]
fn groups_keep_their_members_while_others_come_and_go() {
    let member = |number, uid| reuseport(ListEntry::v4(id(number)), uid);
    let mut three = list(&[member(1, 1), member(2, 2), member(3, 3), member(4, 1)]);
    assert!(three.inet_unhash(id(2), false).is_some());
    assert_eq!(three.groups().len(), 2);
    for entry in three.entries() {
        let group = &three.groups()[entry.group as usize];
        assert!(group.holds(entry.id), "listener {} is in the group it names", entry.id.0);
    }
    assert!(three.inet_unhash(id(2), false).is_none());
    for number in [1, 3, 4] {
        assert!(three.inet_unhash(id(number), false).is_some());
    }
    assert!(three.is_empty());
}

#[test]
fn a_listener_that_sets_reuseport_late_gets_a_group_with_its_first_peer() {
    let mut two = list(&[ListEntry::v4(id(1))]);
    assert!(two.edit(id(1), |entry| (entry.reuseport, entry.uid) = (true, 5)));
    assert_eq!(two.inet_lookup(&segment("198.18.0.1", 80), || 0), Some(id(1)), "no group to choose from yet");
    two.inet_hash(reuseport(ListEntry::v4(id(2)), 5)).expect("there is room");
    let members: Vec<_> = two.groups()[0].members().iter().map(|member| member.id.0).collect();
    assert_eq!(members, [1, 2]);
}

#[test]
fn closed_members_migrate_and_listen_again() {
    let member = |number| reuseport(ListEntry::v4(id(number)), 0);
    let mut two = list(&[member(1), member(2)]);
    assert!(two.inet_unhash(id(1), true).is_some());
    assert_eq!(two.reuseport_migrate(id(1), CoreId(0), 9), Some(id(2)));
    assert_eq!(two.inet_lookup(&segment("198.18.0.1", 80), || 0), Some(id(2)));
    two.inet_hash(member(1)).expect("there is room");
    assert_eq!(two.groups().len(), 1);
    assert_eq!(two.groups()[0].members().len(), 2);

    assert!(two.inet_unhash(id(1), true).is_some() && two.inet_unhash(id(2), false).is_some());
    assert!(!two.is_empty(), "1 is still parked");
    // Nobody to join: a new group, and the old one is gone with its last parked member.
    two.inet_hash(member(1)).expect("there is room");
    assert_eq!(two.groups().len(), 1);
    assert_eq!(two.entries()[0].group, 0);
    assert!(two.inet_unhash(id(1), true).is_some() && two.detach_closed(id(1)) && two.is_empty());
}

#[test]
fn exact_address_comes_before_wildcard() {
    let table = Fixture::new();
    table.hash("0.0.0.0", 80, ListEntry::v4(id(1)));
    assert_eq!(table.lookup(segment("198.18.0.1", 80)), Some(1));
    table.hash("198.18.0.1", 80, ListEntry::v4(id(2)));
    assert_eq!(table.lookup(segment("198.18.0.1", 80)), Some(2));
    assert_eq!(table.lookup(segment("198.18.0.2", 80)), Some(1));
    assert_eq!(table.lookup(segment("198.18.0.2", 81)), None);
    assert_eq!(table.lookup(segment("2001:db8::1", 80)), None);
    table.unhash("198.18.0.1", 80, 2);
    assert_eq!(table.lookup(segment("198.18.0.1", 80)), Some(1));
    table.unhash("0.0.0.0", 80, 1);
    assert_eq!(table.lookup(segment("198.18.0.1", 80)), None);
}

#[test]
fn dual_stack_and_v6only_wildcards() {
    let table = Fixture::new();
    table.hash("::", 80, ListEntry::v6(id(1)));
    table.hash("::", 81, ListEntry { v6only: true, ..ListEntry::v6(id(2)) });
    table.hash("::ffff:0.0.0.0", 82, ListEntry { mapped: true, ..ListEntry::v6(id(3)) });
    table.hash("2001:db8::1", 80, ListEntry { v6only: true, ..ListEntry::v6(id(4)) });
    table.hash("::ffff:198.18.0.9", 80, ListEntry { mapped: true, ..ListEntry::v6(id(5)) });
    for (port, v4, v6) in [(80, Some(1), Some(1)), (81, None, Some(2)), (82, Some(3), None)] {
        assert_eq!(table.lookup(segment("198.18.0.1", port)), v4, "IPv4 to {port}");
        assert_eq!(table.lookup(segment("2001:db8::2", port)), v6, "IPv6 to {port}");
    }
    assert_eq!(table.lookup(segment("2001:db8::1", 80)), Some(4));
    assert_eq!(table.lookup(segment("2001:db8::1", 81)), Some(2));
    assert_eq!(table.lookup(segment("198.18.0.9", 80)), Some(5));
    table.hash("0.0.0.0", 81, ListEntry::v4(id(6)));
    assert_eq!(table.lookup(segment("198.18.0.1", 81)), Some(6));
    assert_eq!(table.lookup(segment("2001:db8::2", 81)), Some(2));
}

#[test]
fn bound_devices_win_where_they_match() {
    let table = Fixture::new();
    table.hash("198.18.0.1", 80, ListEntry { dev: DevIndex(2), ..ListEntry::v4(id(1)) });
    assert_eq!(table.lookup(on(segment("198.18.0.1", 80), 2, 0)), Some(1));
    assert_eq!(table.lookup(on(segment("198.18.0.1", 80), 3, 0)), None);
    table.hash("198.18.0.1", 80, ListEntry::v4(id(2)));
    assert_eq!(table.lookup(on(segment("198.18.0.1", 80), 2, 0)), Some(1));
    assert_eq!(table.lookup(on(segment("198.18.0.1", 80), 3, 0)), Some(2));
}

#[test]
fn the_group_nearest_the_head_wins() {
    let table = Fixture::new();
    let bound = |number| ListEntry { dev: DevIndex(2), ..reuseport(ListEntry::v4(id(number)), 0) };
    table.hash("198.18.0.1", 80, bound(1));
    table.hash("198.18.0.1", 80, reuseport(ListEntry::v4(id(2)), 0));
    // 2 listened last and is nearer the head, so it wins against the better score of 1.
    assert_eq!(table.lookup(on(segment("198.18.0.1", 80), 2, 0)), Some(2));
    table.unhash("198.18.0.1", 80, 2);
    assert_eq!(table.lookup(on(segment("198.18.0.1", 80), 2, 0)), Some(1));
    // IPv6 goes to the tail: there the first one wins.
    let six = |number| reuseport(ListEntry::v6(id(number)), 0);
    table.hash("2001:db8::1", 80, six(3));
    table.hash("2001:db8::1", 80, ListEntry { dev: DevIndex(2), ..six(4) });
    assert_eq!(table.lookup(on(segment("2001:db8::1", 80), 2, 0)), Some(3));
}

#[test]
fn flows_spread_over_a_group_and_stay_with_their_member() {
    let table = Fixture::new();
    for number in 1..=4 {
        table.hash("198.18.0.1", 80, reuseport(ListEntry::v4(id(number)), 0));
    }
    let mut hits = [0; 5];
    for sport in 1..=4000 {
        let mut key = segment("198.18.0.1", 80);
        key.flow.sport = TcpPort(sport);
        let found = table.lookup(key).expect("somebody listens");
        assert_eq!(table.lookup(key), Some(found));
        hits[found as usize] += 1;
    }
    assert!(hits[1..].iter().all(|&count| (800..1200).contains(&count)), "uneven: {hits:?}");
}

#[test]
fn a_full_table_says_so_and_is_as_before() {
    let table = ListenHash::new(2, SECRET);
    let key = |port| HashKey::new(addr("198.18.0.1"), TcpPort(port));
    for port in [1, 2] {
        let entry = ListEntry::v4(id(u32::from(port)));
        assert_eq!(table.update(key(port), |list| list.inet_hash(entry)), Ok(Ok(())));
    }
    assert_eq!(table.update(key(3), |list| list.inet_hash(ListEntry::v4(id(3)))), Err(TableFull));
    assert_eq!(table.update(key(1), |list| list.inet_unhash(id(1), false).is_some()), Ok(true));
    assert_eq!(table.update(key(3), |list| list.inet_hash(ListEntry::v4(id(3)))), Ok(Ok(())));
    let big = ListEntry::v4(ListenerId(LISTENER_IDS));
    assert_eq!(table.update(key(2), |list| list.inet_hash(big)), Err(TableFull));
    assert_eq!(table.inet_lookup_listener(&table.pin(), &segment("198.18.0.1", 2)), Some(id(2)));
}
