//! Reuseport groups: listeners that share one key and split its connections among them.
//!
//! A group is a plain value. It lives in the [`crate::inet_hashtables::KeyList`] of its key; a change makes a new
//! list, so readers see a group before a change or after it, never within.
//!
//! # Order
//! Listening members stand in the order of their listen() calls; when one leaves, the last takes its place:
//! {A, B, C, D} minus B is {A, D, C}. Which member a flow gets depends on the hash, the number of members and this
//! order, and on nothing else. Closed members, kept for migration, stand apart.
//!
//! # Source
//! Linux v6.18 net/core/sock_reuseport.c.

use std::fmt;
use std::sync::Arc;

use crate::inet_hashtables::ListenKey;
use crate::limits::REUSEPORT_MEMBERS_MAX;
use crate::types::{CoreId, ListenerId};

/// The group is full: ENOMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupFull;

/// A listener in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Which listener.
    pub id: ListenerId,
    /// Its SO_INCOMING_CPU: the worker whose segments it prefers.
    pub incoming_cpu: Option<CoreId>,
}

/// A user's own rule for choosing a member, in the place of an SO_ATTACH_REUSEPORT program.
pub trait Select: Send + Sync + fmt::Debug {
    /// The place in `members` (listening members, in group order) that gets the flow of `key`. `None`, or a place
    /// that does not exist, leaves the choice to the hash. Called by workers for each such segment: it must neither
    /// block nor allocate.
    fn select(&self, key: &ListenKey, hash: u32, members: &[GroupMember]) -> Option<usize>;
}

/// The members of one group.
#[derive(Clone, Debug, Default)]
pub struct ReuseportGroup {
    members: Vec<GroupMember>,
    closed: Vec<ListenerId>,
    selector: Option<Arc<dyn Select>>,
    incoming_cpu: bool,
}

impl ReuseportGroup {
    /// Listening members, in group order.
    pub fn members(&self) -> &[GroupMember] {
        &self.members
    }

    /// Members that no longer listen and wait until their connections have moved on.
    pub fn closed(&self) -> &[ListenerId] {
        &self.closed
    }

    /// True if nobody is left.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.closed.is_empty()
    }

    /// True if `id` belongs to the group, listening or closed.
    pub fn holds(&self, id: ListenerId) -> bool {
        self.members.iter().any(|member| member.id == id) || self.closed.contains(&id)
    }

    /// Puts a rule of the user's in the place of the hash; `None` takes it away.
    pub fn set_selector(&mut self, selector: Option<Arc<dyn Select>>) {
        self.selector = selector;
    }

    /// Appends a listening member. One that was parked here as closed is taken back.
    ///
    /// # Errors
    /// [`GroupFull`] at [`REUSEPORT_MEMBERS_MAX`], unless a closed member can make room.
    ///
    /// # Source
    /// Linux v6.18 `reuseport_add_sock`, `reuseport_resurrect`.
    pub fn add(&mut self, member: GroupMember) -> Result<(), GroupFull> {
        self.detach_closed(member.id);
        if self.members.len() + self.closed.len() >= REUSEPORT_MEMBERS_MAX && self.closed.pop().is_none() {
            return Err(GroupFull);
        }
        self.members.push(member);
        self.incoming_cpu |= member.incoming_cpu.is_some();
        Ok(())
    }

    /// Takes a listening member out; the last one moves into its place. False if it is none.
    ///
    /// # Source
    /// Linux v6.18 `reuseport_detach_sock`.
    pub fn detach(&mut self, id: ListenerId) -> bool {
        let Some(place) = self.members.iter().position(|member| member.id == id) else { return false };
        self.members.swap_remove(place);
        self.incoming_cpu = self.members.iter().any(|member| member.incoming_cpu.is_some());
        true
    }

    /// Takes a listening member out and parks it as closed, so that what it has queued can migrate. False if it is
    /// none.
    ///
    /// # Source
    /// Linux v6.18 `reuseport_stop_listen_sock` with `tcp_migrate_req` on.
    pub fn stop_listen(&mut self, id: ListenerId) -> bool {
        let listened = self.detach(id);
        if listened {
            self.closed.push(id);
        }
        listened
    }

    /// Forgets a closed member. False if it is none.
    pub fn detach_closed(&mut self, id: ListenerId) -> bool {
        let Some(place) = self.closed.iter().position(|&closed| closed == id) else { return false };
        self.closed.swap_remove(place);
        true
    }

    /// Changes a listening member's SO_INCOMING_CPU. False if it is none.
    ///
    /// # Source
    /// Linux v6.18 `reuseport_update_incoming_cpu`.
    pub fn set_incoming_cpu(&mut self, id: ListenerId, incoming_cpu: Option<CoreId>) -> bool {
        let Some(member) = self.members.iter_mut().find(|member| member.id == id) else { return false };
        member.incoming_cpu = incoming_cpu;
        self.incoming_cpu = self.members.iter().any(|member| member.incoming_cpu.is_some());
        true
    }

    /// The member that gets the flow of `key`; `hash` is the flow's [`ListenKey`] hash. `None` if nobody listens.
    ///
    /// # Source
    /// Linux v6.18 `reuseport_select_sock`.
    #[inline]
    pub fn select(&self, key: &ListenKey, hash: u32) -> Option<ListenerId> {
        if let Some(selector) = &self.selector
            && let Some(member) =
                selector.select(key, hash, &self.members).and_then(|place| self.members.get(place))
        {
            return Some(member.id);
        }
        self.select_by_hash(key.core, hash)
    }

    /// The listening member that takes over from closed member `closed`; `None` if nobody listens.
    ///
    /// # Source
    /// Linux v6.18 `reuseport_migrate_sock`.
    pub fn migrate(&self, closed: ListenerId, core: CoreId, hash: u32) -> Option<ListenerId> {
        if self.closed.contains(&closed) { self.select_by_hash(core, hash) } else { None }
    }

    /// `reuseport_select_sock_by_hash` (Linux v6.18): scale, then once round the ring for a member of this worker.
    fn select_by_hash(&self, core: CoreId, hash: u32) -> Option<ListenerId> {
        let start = reciprocal_scale(hash, self.members.len());
        let first = self.members.get(start)?;
        if !self.incoming_cpu {
            return Some(first.id);
        }
        let (before, after) = self.members.split_at(start);
        let ours = after.iter().chain(before).find(|member| member.incoming_cpu == Some(core));
        Some(ours.unwrap_or(first).id)
    }
}

/// Maps a 32-bit hash evenly onto `0..places`; 0 for no places.
#[inline]
fn reciprocal_scale(hash: u32, places: usize) -> usize {
    ((u64::from(hash) * places as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u32) -> GroupMember {
        GroupMember { id: ListenerId(id), incoming_cpu: None }
    }

    fn group(ids: &[u32]) -> ReuseportGroup {
        let mut group = ReuseportGroup::default();
        for &id in ids {
            group.add(member(id)).expect("there is room");
        }
        group
    }

    fn ids(group: &ReuseportGroup) -> Vec<u32> {
        group.members().iter().map(|member| member.id.0).collect()
    }

    #[test]
    fn the_last_member_fills_the_hole() {
        let mut four = group(&[1, 2, 3, 4]);
        assert!(four.detach(ListenerId(2)));
        assert_eq!(ids(&four), [1, 4, 3]);
        assert!(!four.detach(ListenerId(2)));
        assert!(four.detach(ListenerId(3)));
        assert_eq!(ids(&four), [1, 4]);
    }

    #[test]
    fn selection_scales_the_hash() {
        let four = group(&[10, 11, 12, 13]);
        let key = ListenKey::default();
        for (hash, want) in [(0, 10), (0x3fff_ffff, 10), (0x4000_0000, 11), (0x8000_0000, 12), (u32::MAX, 13)]
        {
            assert_eq!(four.select(&key, hash), Some(ListenerId(want)), "hash {hash:#x}");
        }
        assert_eq!(ReuseportGroup::default().select(&key, 7), None);
    }

    #[test]
    fn a_member_of_this_worker_is_preferred() {
        let mut four = group(&[10, 11, 12, 13]);
        assert!(four.set_incoming_cpu(ListenerId(11), Some(CoreId(3))));
        let on = |core| ListenKey { core: CoreId(core), ..ListenKey::default() };
        // From place 2 round the ring: 12, 13, 10, 11.
        assert_eq!(four.select(&on(3), 0x8000_0000), Some(ListenerId(11)));
        assert_eq!(four.select(&on(4), 0x8000_0000), Some(ListenerId(12)));
        assert!(four.set_incoming_cpu(ListenerId(11), None));
        assert_eq!(four.select(&on(3), 0x8000_0000), Some(ListenerId(12)));
    }

    #[test]
    fn closed_members_take_no_flow_and_come_back() {
        let mut three = group(&[1, 2, 3]);
        assert!(three.stop_listen(ListenerId(1)));
        assert_eq!(ids(&three), [3, 2]);
        assert_eq!(three.closed(), [ListenerId(1)]);
        assert_eq!(three.migrate(ListenerId(1), CoreId(0), 0), Some(ListenerId(3)));
        assert_eq!(three.migrate(ListenerId(2), CoreId(0), 0), None, "it listens");
        three.add(member(1)).expect("there is room");
        assert_eq!(ids(&three), [3, 2, 1]);
        assert!(three.closed().is_empty());
        assert!(three.stop_listen(ListenerId(1)) && three.detach_closed(ListenerId(1)));
        assert!(!three.holds(ListenerId(1)));
    }

    #[test]
    fn a_full_group_lets_a_closed_member_go_first() {
        let mut full = ReuseportGroup::default();
        for id in 0..REUSEPORT_MEMBERS_MAX as u32 {
            full.members.push(member(id));
        }
        assert_eq!(full.add(member(70_000)), Err(GroupFull));
        assert!(full.stop_listen(ListenerId(5)));
        assert_eq!(full.add(member(70_000)), Ok(()));
        assert!(full.closed().is_empty());
    }

    #[test]
    fn a_users_rule_comes_before_the_hash() {
        #[derive(Debug)]
        struct Third;
        impl Select for Third {
            fn select(&self, _: &ListenKey, _: u32, _: &[GroupMember]) -> Option<usize> {
                Some(2)
            }
        }
        let mut three = group(&[1, 2, 3]);
        three.set_selector(Some(Arc::new(Third)));
        assert_eq!(three.select(&ListenKey::default(), 0), Some(ListenerId(3)));
        assert!(three.detach(ListenerId(1)));
        assert_eq!(three.select(&ListenKey::default(), 0), Some(ListenerId(3)), "no third: the hash chooses");
    }
}
