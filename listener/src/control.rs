//! The two halves of a [`crate::Stack`]: what does not change, and what its lock guards.

use crate::sync::{Arc, Mutex, lock};
use std::collections::{HashMap, HashSet, VecDeque};

use crate::bind_table::BindTable;
use crate::conn_shared::{ChildRef, Command, CoreShared};
use crate::devices::Devices;
use crate::inet_connection_sock::{key_of, list_entry};
use crate::inet_hashtables::{HashKey, ListenHash};
use crate::listen_sock::{ListenSock, ListenSocks};
use crate::snmp::Snmp;
use crate::sock::{Entry, SockTable};
use crate::sock_reuseport::Select;
use crate::sysctl::Sysctl;
use crate::types::{CoreId, ListenerId, TcpPort};

/// What does not change while a stack runs but for its knobs, and what it shares with its cores: the kernel's `struct net`.
#[derive(Debug)]
pub(crate) struct Net {
    /// Read through [`Net::sysctl`]; the lock is held for a copy of the pointer only.
    pub sysctl: Mutex<Arc<Sysctl>>,
    pub devices: Devices,
    pub hash: Arc<ListenHash>,
    pub listeners: Arc<ListenSocks>,
    pub listeners_max: u32,
    pub cores: Vec<Arc<CoreShared>>,
    /// What the control side counts, under the lock.
    pub snmp: Snmp,
}

impl Net {
    /// The knobs as they are now.
    pub(crate) fn sysctl(&self) -> Arc<Sysctl> {
        Arc::clone(&lock(&self.sysctl))
    }

    /// The slot of a listener; ids come from the slab, so there always is one.
    pub(crate) fn slot(&self, id: ListenerId) -> &ListenSock {
        self.listeners.get(id).expect("the slab gave this id out")
    }

    pub(crate) fn children_on_port(&self, port: TcpPort) -> bool {
        self.cores.iter().any(|core| core.children_on_port(port) != 0)
    }
}

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct Control {
    pub socks: SockTable,
    pub binds: BindTable,
    /// Children taken from a listener's shared queue that no `accept` asked for yet, oldest first. Only listeners
    /// that have some stand here.
    pub queues: HashMap<ListenerId, VecDeque<ChildRef>>,
    /// Children whose end was ordered and whose core has not come round to it: they hold no port any more.
    pub condemned: HashSet<ChildRef>,
    condemned_checked: usize,
    /// Commands that found a core's ring full, in order.
    pending: Vec<VecDeque<Command>>,
    /// Closed members of reuseport groups that wait for their half-open requests, oldest first.
    pub parked: VecDeque<(HashKey, ListenerId)>,
    /// Slots of listeners and of closed group members.
    pub slots_used: u32,
    /// Rules for groups, by the descriptor of the member that brought them.
    pub selectors: HashMap<u32, std::sync::Arc<dyn Select>>,
    pub random: u64,
    /// How often all cores were given other cookie keys.
    pub keys_given: u32,
}

impl Control {
    pub(crate) fn new(cores: usize, secret: [u8; 16]) -> Self {
        Self {
            socks: SockTable::default(),
            binds: BindTable::new(secret),
            queues: HashMap::new(),
            condemned: HashSet::new(),
            condemned_checked: 0,
            pending: vec![VecDeque::new(); cores],
            parked: VecDeque::new(),
            slots_used: 0,
            selectors: HashMap::new(),
            random: u64::from_le_bytes(std::array::from_fn(|byte| secret[8 + byte])),
            keys_given: 0,
        }
    }

    /// Orders a core to reset a child. From here on the child holds no port.
    pub(crate) fn reset_child(&mut self, net: &Net, child: ChildRef) {
        self.condemned.insert(child);
        self.command(net, child.core, Command::Reset(child));
        if self.condemned.len() > 2 * self.condemned_checked.max(32) {
            let lives = |child: &ChildRef| {
                net.cores.get(usize::from(child.core.0)).is_some_and(|core| core.child(*child).is_some())
            };
            self.condemned.retain(lives);
            self.condemned_checked = self.condemned.len();
        }
    }

    /// Asks something of a core; what finds the ring full waits here, in order.
    pub(crate) fn command(&mut self, net: &Net, core: CoreId, command: Command) {
        let core = usize::from(core.0);
        let (Some(pending), Some(shared)) = (self.pending.get_mut(core), net.cores.get(core)) else { return };
        if !pending.is_empty() {
            pending.push_back(command);
        } else if let Err(command) = shared.push(command) {
            pending.push_back(command);
        }
    }

    /// Hands over what waited for room in a ring; returns how many still wait.
    pub(crate) fn flush(&mut self, net: &Net) -> usize {
        for (pending, core) in self.pending.iter_mut().zip(&net.cores) {
            while let Some(command) = pending.pop_front() {
                if let Err(command) = core.push(command) {
                    pending.push_front(command);
                    break;
                }
            }
        }
        self.pending.iter().map(VecDeque::len).sum()
    }

    /// Compares sockets, slots and the listening hash; for tests.
    ///
    /// # Panics
    /// If a listener stands in two places or none, or a group names somebody who does not listen.
    pub(crate) fn assert_invariants(&self, net: &Net) {
        let mut ids = HashSet::new();
        for (fd, entry) in self.socks.iter() {
            let Entry::Sock(sock) = entry else { continue };
            let Some(listener) = sock.listener else { continue };
            let id = listener.id();
            assert!(ids.insert(id), "{fd:?} shares its slot");
            assert!(net.slot(id).generation() & 1 == 1, "{fd:?} listens in a closed slot");
            let found = net.hash.update(key_of(sock), |list| {
                let places: Vec<_> = list.entries().iter().filter(|entry| entry.id == id).copied().collect();
                let grouped = list.groups().iter().filter(|group| group.holds(id)).count();
                for member in list.groups().iter().flat_map(|group| group.members()) {
                    assert!(
                        list.entries().iter().any(|entry| entry.id == member.id),
                        "{member:?} is unhashed"
                    );
                }
                (places, grouped)
            });
            let (places, grouped) = found.expect("nothing was added");
            assert_eq!(places.len(), 1, "{fd:?} stands once in its key");
            let want = list_entry(sock, id);
            assert_eq!((places[0].dev, places[0].reuseport), (want.dev, want.reuseport), "{fd:?}");
            assert!(grouped <= 1, "{fd:?} is in {grouped} groups");
        }
        for queue in self.queues.keys() {
            assert!(ids.contains(queue), "a queue without a listener");
        }
        assert_eq!(self.slots_used as usize, ids.len() + self.parked.len(), "slots in use");
        assert!(self.parked.iter().all(|(_, id)| !ids.contains(id)), "a parked slot listens");
    }
}
