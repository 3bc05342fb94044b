//! What one key of the listening hash holds: its listeners in the kernel's list order, and their groups.
//!
//! A [`KeyList`] is a plain value and its functions are pure; [`super::ListenHash`] shows readers one whole list
//! after another. This is the full rule of `inet_lookup_listener`; the hash has a shortcut for lists of one.

use crate::sock_reuseport::{GroupFull, GroupMember, ReuseportGroup};
use crate::types::{CoreId, DevIndex, InetAddr, ListenerId, TcpPort};

use super::ListenKey;

/// Where listeners are looked up: (address, port). `0.0.0.0`, `::ffff:0.0.0.0` and `::` are one key, as they share
/// a bucket in the kernel; a mapped address and its IPv4 address are one key because [`InetAddr`] makes them one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HashKey {
    addr: InetAddr,
    port: TcpPort,
}

impl HashKey {
    /// The key of a socket bound to `addr` and `port`.
    pub const fn new(addr: InetAddr, port: TcpPort) -> Self {
        Self { addr: if addr.is_any() { InetAddr::ANY_V4 } else { addr }, port }
    }

    /// The address; [`InetAddr::ANY_V4`] for all wildcards.
    #[inline]
    pub const fn addr(self) -> InetAddr {
        self.addr
    }

    /// The port.
    #[inline]
    pub const fn port(self) -> TcpPort {
        self.port
    }
}

/// [`ListEntry::group`] of a listener that is in no group.
pub const NO_GROUP: u32 = u32::MAX;

/// One listener on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// Which listener.
    pub id: ListenerId,
    /// An AF_INET6 socket.
    pub ipv6: bool,
    /// An AF_INET6 socket that does not take IPv4.
    pub v6only: bool,
    /// An AF_INET6 socket bound to an IPv4-mapped address (`::ffff:0.0.0.0` counts): it takes IPv4 only.
    pub mapped: bool,
    /// SO_REUSEPORT, as it is set now.
    pub reuseport: bool,
    /// The device it is bound to.
    pub dev: DevIndex,
    /// SO_INCOMING_CPU.
    pub incoming_cpu: Option<CoreId>,
    /// Owner. Kept only while `reuseport` is set or the listener is in a group; may read 0 otherwise.
    pub uid: u32,
    /// Place of its group in [`KeyList::groups`], or [`NO_GROUP`]. Set by [`KeyList::inet_hash`].
    pub group: u32,
}

impl ListEntry {
    /// An IPv4 listener `id` with no option set.
    pub const fn v4(id: ListenerId) -> Self {
        Self {
            id,
            ipv6: false,
            v6only: false,
            mapped: false,
            reuseport: false,
            dev: DevIndex::NONE,
            incoming_cpu: None,
            uid: 0,
            group: NO_GROUP,
        }
    }

    /// A dual-stack IPv6 listener `id` with no option set.
    pub const fn v6(id: ListenerId) -> Self {
        Self { ipv6: true, ..Self::v4(id) }
    }

    /// True if it takes segments of this family at all.
    #[inline]
    pub const fn serves(&self, ipv4: bool) -> bool {
        if ipv4 { !self.v6only } else { self.ipv6 && !self.mapped }
    }

    fn member(&self) -> GroupMember {
        GroupMember { id: self.id, incoming_cpu: self.incoming_cpu }
    }

    /// The socket that `inet_reuseport_add_sock` (Linux v6.18) would join: same family, v6only, device, address, owner.
    fn shares_group_with(&self, other: &Self) -> bool {
        self.id != other.id
            && other.reuseport
            && (self.ipv6, self.v6only, self.mapped) == (other.ipv6, other.v6only, other.mapped)
            && self.dev == other.dev
            && self.uid == other.uid
    }
}

/// How well `entry` fits a segment; 0 is not at all. `ipv4` is the segment's family.
///
/// # Source
/// Linux v6.18 `compute_score` (net/ipv4/inet_hashtables.c, net/ipv6/inet6_hashtables.c); address and port are the
/// key's and have been compared.
#[inline]
pub fn compute_score(entry: &ListEntry, key: &ListenKey, ipv4: bool) -> u32 {
    let bound = entry.dev != DevIndex::NONE;
    if !entry.serves(ipv4) || (bound && entry.dev != key.dev) {
        return 0;
    }
    1 + u32::from(bound) + u32::from(ipv4 && !entry.ipv6) + u32::from(entry.incoming_cpu == Some(key.core))
}

/// The listeners on one key. Readers meet it as a snapshot that never changes.
#[derive(Clone, Debug, Default)]
pub struct KeyList {
    entries: Vec<ListEntry>,
    groups: Vec<ReuseportGroup>,
}

impl KeyList {
    /// A list of one listener in no group.
    pub(super) fn of_one(entry: ListEntry) -> Self {
        Self { entries: vec![entry], groups: Vec::new() }
    }

    /// The only entry, if there is nothing to choose: one listener, no device, no reuseport, no group, no worker.
    pub(super) fn plain(&self) -> Option<&ListEntry> {
        match self.entries.as_slice() {
            [only]
                if self.groups.is_empty()
                    && !only.reuseport
                    && only.dev == DevIndex::NONE
                    && only.incoming_cpu.is_none() =>
            {
                Some(only)
            }
            _ => None,
        }
    }

    /// Listeners in list order.
    pub fn entries(&self) -> &[ListEntry] {
        &self.entries
    }

    /// Groups, in no order that means anything.
    pub fn groups(&self) -> &[ReuseportGroup] {
        &self.groups
    }

    /// The group that listener `id` is in, listening or closed.
    pub fn group_of(&self, id: ListenerId) -> Option<&ReuseportGroup> {
        self.groups.iter().find(|group| group.holds(id))
    }

    /// As [`KeyList::group_of`], to set a selection rule.
    pub fn group_of_mut(&mut self, id: ListenerId) -> Option<&mut ReuseportGroup> {
        self.groups.iter_mut().find(|group| group.holds(id))
    }

    /// True if the key has neither listeners nor closed group members: it leaves the hash.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.groups.is_empty()
    }

    /// Adds a listener: joins or makes its reuseport group, then links it, IPv6 with reuseport at the tail and all
    /// else at the head. `entry.group` is ignored.
    ///
    /// # Errors
    /// [`GroupFull`] (ENOMEM); the list is then as before.
    ///
    /// # Source
    /// Linux v6.18 `inet_hash`, `inet_reuseport_add_sock`.
    pub fn inet_hash(&mut self, mut entry: ListEntry) -> Result<(), GroupFull> {
        entry.group = if entry.reuseport { self.join(&entry)? } else { NO_GROUP };
        let place = if entry.ipv6 && entry.reuseport { self.entries.len() } else { 0 };
        self.entries.insert(place, entry);
        Ok(())
    }

    /// Puts `entry` into the group of the first socket that it matches, or into a new one.
    fn join(&mut self, entry: &ListEntry) -> Result<u32, GroupFull> {
        let group = match self.entries.iter().position(|other| entry.shares_group_with(other)) {
            Some(place) => {
                if self.entries[place].group == NO_GROUP {
                    // It set reuseport after it began to listen: its group begins now, with it in front.
                    let first = self.entries[place].member();
                    self.entries[place].group = self.new_group(first)?;
                }
                let group = self.entries[place].group;
                self.groups[group as usize].add(entry.member())?;
                group
            }
            None => self.new_group(entry.member())?,
        };
        // A closed member that listens again leaves the place where it was parked.
        let parked = self.groups.iter().position(|parked| parked.closed().contains(&entry.id));
        if let Some(parked) = parked {
            self.groups[parked].detach_closed(entry.id);
            return Ok(self.drop_group_if_empty(parked, group));
        }
        Ok(group)
    }

    fn new_group(&mut self, first: GroupMember) -> Result<u32, GroupFull> {
        let mut group = ReuseportGroup::default();
        group.add(first)?;
        self.groups.push(group);
        Ok(self.groups.len() as u32 - 1)
    }

    /// Removes group `place` if nobody is left in it, and keeps the entries' places right. Returns the place where
    /// group `watched` stands afterwards.
    fn drop_group_if_empty(&mut self, place: usize, watched: u32) -> u32 {
        if !self.groups[place].is_empty() {
            return watched;
        }
        self.groups.swap_remove(place);
        let (moved, into) = (self.groups.len() as u32, place as u32);
        for entry in &mut self.entries {
            if entry.group == moved {
                entry.group = into;
            }
        }
        if watched == moved { into } else { watched }
    }

    /// Removes listener `id` and returns what it was. With `migrate` a group member is parked as closed, see
    /// [`KeyList::reuseport_migrate`]; without, it leaves its group.
    ///
    /// # Source
    /// Linux v6.18 `inet_unhash`, `reuseport_stop_listen_sock`.
    pub fn inet_unhash(&mut self, id: ListenerId, migrate: bool) -> Option<ListEntry> {
        let place = self.entries.iter().position(|entry| entry.id == id)?;
        let entry = self.entries.remove(place);
        if entry.group != NO_GROUP {
            let group = entry.group as usize;
            if migrate {
                self.groups[group].stop_listen(id);
            } else {
                self.groups[group].detach(id);
            }
            self.drop_group_if_empty(group, NO_GROUP);
        }
        Some(entry)
    }

    /// Forgets closed member `id` once nothing of it is left to migrate. False if it is none.
    pub fn detach_closed(&mut self, id: ListenerId) -> bool {
        let Some(group) = self.groups.iter().position(|group| group.closed().contains(&id)) else {
            return false;
        };
        self.groups[group].detach_closed(id);
        self.drop_group_if_empty(group, NO_GROUP);
        true
    }

    /// Changes one listener's device, reuseport flag or owner on the spot, as setsockopt on a listener does: no rule
    /// is run again. False if `id` is not here. SO_INCOMING_CPU goes to its group as well.
    pub fn edit(&mut self, id: ListenerId, edit: impl FnOnce(&mut ListEntry)) -> bool {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) else { return false };
        let group = entry.group;
        edit(entry);
        entry.id = id;
        entry.group = group;
        let incoming_cpu = entry.incoming_cpu;
        if group != NO_GROUP {
            self.groups[group as usize].set_incoming_cpu(id, incoming_cpu);
        }
        true
    }

    /// The listener for `key`: the first with the highest score; but the first reuseport one on the way up sends the
    /// segment into its group and ends the search. `hash` is the flow's hash and is asked for only then.
    ///
    /// # Source
    /// Linux v6.18 `inet_lhash2_lookup`.
    pub fn inet_lookup(&self, key: &ListenKey, hash: impl FnOnce() -> u32) -> Option<ListenerId> {
        let ipv4 = key.flow.is_v4();
        let (mut best, mut found) = (0, None);
        for entry in &self.entries {
            let score = compute_score(entry, key, ipv4);
            if score <= best {
                continue;
            }
            if entry.reuseport
                && let Some(group) = self.groups.get(entry.group as usize)
            {
                return group.select(key, hash());
            }
            (best, found) = (score, Some(entry.id));
        }
        found
    }

    /// The listener that takes over what closed member `closed` has queued; `None` if its group has nobody left.
    ///
    /// # Source
    /// Linux v6.18 `reuseport_migrate_sock`.
    pub fn reuseport_migrate(&self, closed: ListenerId, core: CoreId, hash: u32) -> Option<ListenerId> {
        self.group_of(closed)?.migrate(closed, core, hash)
    }
}
