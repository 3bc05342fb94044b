//! What one core lets the control side see of its connections, and what the control side asks of it.
//!
//! # Protocol
//! One 64-byte record per connection slot. The core is its only writer (but for the accept link, which belongs to the
//! accept queue). A record's generation is odd while the slot is in use; the core makes it even, writes the fields, and
//! makes it odd with Release. A reader compares the generation before and after, so it never mixes two connections; it
//! repeats only if the core made progress meanwhile, and the core never waits for it.
//!
//! Commands go through a bounded ring. A full ring refuses the command and the control side keeps it.

use crossbeam::queue::ArrayQueue;

use crate::core::dry_run::Peek;
use crate::error::Errno;
use crate::limits::CORES_MAX;
use crate::live::Live;
use crate::segment::FlowKey;
use crate::snmp::Snmp;
use crate::sync::{Arc, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use crate::syncookies::CookieKeys;
use crate::types::{CoreId, DevIndex, InetAddr, ListenerRef, TcpPort, TcpState};

/// Connections per core at most; a [`ChildNode`] has 24 bits for the slot.
pub const CONNECTIONS_PER_CORE_MAX: u32 = 1 << 24;

/// Commands that may wait for one core.
const COMMANDS: usize = 4096;
/// Listeners under their first flood that one core remembers until somebody asks.
const FLOODS: usize = 64;
const PORTS: usize = if cfg!(loom) { 128 } else { 1 << 16 };

// A node has 8 bits for the core, and the highest value means "none".
const _: () = assert!(CORES_MAX < 255);

/// A connection, for as long as its slot is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChildRef {
    /// The core that owns it.
    pub core: CoreId,
    /// Slot on that core.
    pub index: u32,
    /// Generation of the slot; odd.
    pub generation: u32,
}

/// A child in 32 bits, for the accept queue's links: 8 bits core, 24 bits slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildNode(pub u32);

impl ChildNode {
    /// End of the queue.
    pub const NIL: Self = Self(u32::MAX);

    /// The node of slot `index` on `core`.
    #[inline]
    pub const fn new(core: CoreId, index: u32) -> Self {
        Self((core.0 as u32) << 24 | index)
    }

    /// The core and slot it names; `None` at the end.
    pub fn locate(self, cores: &[Arc<CoreShared>]) -> Option<(&Arc<CoreShared>, u32)> {
        Some((cores.get((self.0 >> 24) as usize)?, self.0 & 0xff_ffff))
    }
}

/// What the control side asks of a core. Handled at its next tick, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send a RST and forget the child at once: its listener was closed before `accept`, or SO_LINGER 0.
    Reset(ChildRef),
    /// Send our FIN; the child is still held. As shutdown(SHUT_WR).
    Close(ChildRef),
    /// The control side reads nothing more from the child; it is still held. As shutdown(SHUT_RD): once our FIN was sent,
    /// data is answered by a RST.
    ShutRd(ChildRef),
    /// The control side holds the child no longer. As close(2): our FIN if it was not sent yet; data that comes
    /// from now on is answered by a RST.
    Release(ChildRef),
    /// Data that comes is taken in order and dropped from now on; the child is still held. As a reader that wants
    /// nothing: recv(2) with MSG_TRUNC.
    Discard(ChildRef),
    /// The keys for SYN cookies from now on.
    CookieKeys(CookieKeys),
    /// New settings wait in [`CoreShared`].
    Settings,
    /// No SYN is answered at a listener from now on.
    Drain,
    /// Say what is known of a flow, see [`crate::core::dry_run`].
    Peek(Peek),
}

/// A child as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildInfo {
    /// Its two ends.
    pub flow: FlowKey,
    /// Its state; `Close` once it was reset.
    pub state: TcpState,
    /// The device it is bound to, if its listener was.
    pub dev: DevIndex,
    /// Why it ended, if not in good order (`sk_err`): ECONNRESET, EPIPE or ETIMEDOUT.
    pub error: Option<Errno>,
    /// SO_REUSEADDR: its listener's, unless it was set since.
    pub reuse: bool,
    /// SO_REUSEPORT, likewise.
    pub reuseport: bool,
}

/// Something that holds a local port: a living child or a TIME_WAIT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortOwner {
    /// Which one.
    pub child: ChildRef,
    /// Its local address.
    pub addr: InetAddr,
    /// The device it is bound to, if any.
    pub dev: DevIndex,
    /// SO_REUSEADDR, from its listener.
    pub reuse: bool,
    /// SO_REUSEPORT, from its listener.
    pub reuseport: bool,
    /// True if its listener is an AF_INET6 socket.
    pub v6_family: bool,
    /// True in TIME_WAIT.
    pub time_wait: bool,
    /// Its listener's owner.
    pub uid: u32,
}

/// What a core writes down about a new child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildRecord {
    /// Its two ends.
    pub flow: FlowKey,
    /// The device it is bound to, if any.
    pub dev: DevIndex,
    /// State to begin with.
    pub state: TcpState,
    /// SO_REUSEADDR, from its listener.
    pub reuse: bool,
    /// SO_REUSEPORT, from its listener.
    pub reuseport: bool,
    /// True if its listener is an AF_INET6 socket.
    pub v6_family: bool,
    /// Its listener's owner.
    pub uid: u32,
}

const REUSE: u8 = 1;
const REUSEPORT: u8 = 2;
const V6_FAMILY: u8 = 4;
/// Two bits for what is in [`ERRORS`], counted from 1; 0 = no error.
const ERROR_SHIFT: u8 = 3;
const ERROR_BITS: u8 = 3 << ERROR_SHIFT;
const ERRORS: [Errno; 3] = [Errno::ECONNRESET, Errno::EPIPE, Errno::ETIMEDOUT];

#[repr(align(64))]
#[derive(Debug, Default)]
struct Record {
    saddr: [AtomicU64; 2],
    daddr: [AtomicU64; 2],
    sport: AtomicU16,
    dport: AtomicU16,
    /// Odd: in use.
    generation: AtomicU32,
    accept_next: AtomicU32,
    uid: AtomicU32,
    dev: AtomicU16,
    state: AtomicU8,
    flags: AtomicU8,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Record>() == 64);

/// The shared part of one core; written by its worker, read by the control side.
#[derive(Debug)]
pub struct CoreShared {
    core: CoreId,
    records: Box<[Record]>,
    /// Slots from here on were never used.
    high_water: AtomicU32,
    /// Living children and TIME_WAIT entries per local port.
    children: Box<[AtomicU32]>,
    snmp: Snmp,
    commands: ArrayQueue<Command>,
    /// Listeners whose SYN queue was full for the first time, for the control side to tell.
    floods: ArrayQueue<ListenerRef>,
    pub(crate) live: Live,
    /// How often the core took other cookie keys.
    keys_taken: AtomicU32,
}

impl CoreShared {
    /// Records for `connections` slots, all free.
    ///
    /// # Panics
    /// If `core` or `connections` is beyond [`CORES_MAX`] or [`CONNECTIONS_PER_CORE_MAX`].
    pub fn new(core: CoreId, connections: u32) -> Self {
        assert!(core.0 < CORES_MAX, "at most {CORES_MAX} cores");
        assert!(
            connections <= CONNECTIONS_PER_CORE_MAX,
            "at most {CONNECTIONS_PER_CORE_MAX} connections per core"
        );
        Self {
            core,
            records: (0..connections).map(|_| Record::default()).collect(),
            high_water: AtomicU32::new(0),
            children: (0..PORTS).map(|_| AtomicU32::new(0)).collect(),
            snmp: Snmp::default(),
            commands: ArrayQueue::new(COMMANDS),
            floods: ArrayQueue::new(FLOODS),
            live: Live::default(),
            keys_taken: AtomicU32::new(0),
        }
    }

    /// Whose part this is.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Connection slots.
    pub fn capacity(&self) -> u32 {
        self.records.len() as u32
    }

    /// Its counters.
    #[inline]
    pub fn snmp(&self) -> &Snmp {
        &self.snmp
    }

    // ---- control side

    /// Asks something of the core. Nothing is lost: if the ring is full the command comes back, for another try.
    pub fn push(&self, command: Command) -> Result<(), Command> {
        self.commands.push(command)
    }

    /// How often the core has carried out [`Command::CookieKeys`].
    pub fn keys_taken(&self) -> u32 {
        self.keys_taken.load(Ordering::Acquire)
    }

    /// The next listener whose SYN queue this core found full for the first time.
    pub fn next_flood(&self) -> Option<ListenerRef> {
        self.floods.pop()
    }

    /// The child as it stands, if its slot was not used again.
    pub fn child(&self, child: ChildRef) -> Option<ChildInfo> {
        let record = self.records.get(child.index as usize)?;
        let (generation, _, info) = record.read(self.core, child.index)?;
        (generation == child.generation).then_some(info)
    }

    /// Sets SO_REUSEADDR and SO_REUSEPORT of a child that the control side holds: its slot is not used again meanwhile.
    pub fn set_reuse(&self, child: ChildRef, reuse: bool, reuseport: bool) {
        let Some(record) = self.records.get(child.index as usize) else { return };
        if record.generation.load(Ordering::Acquire) != child.generation {
            return;
        }
        let on = if reuse { REUSE } else { 0 } | if reuseport { REUSEPORT } else { 0 };
        record.flags.fetch_or(on, Ordering::Relaxed);
        record.flags.fetch_and(on | !(REUSE | REUSEPORT), Ordering::Relaxed);
    }

    /// Shows all that hold the local port: living children and TIME_WAIT entries. Costs nothing but one load if there
    /// are none; else a walk over the records, for a bind(2) that somebody waits for.
    pub fn owners_of_port(&self, port: TcpPort, mut owner: impl FnMut(PortOwner)) {
        if self.children[usize::from(port.0)].load(Ordering::Acquire) == 0 {
            return;
        }
        let used = self.high_water.load(Ordering::Acquire) as usize;
        for (index, record) in self.records[..used].iter().enumerate() {
            if record.dport.load(Ordering::Relaxed) != port.0 {
                continue;
            }
            if let Some((_, held, info)) = record.read(self.core, index as u32)
                && info.flow.dport == port
                && info.state != TcpState::Close
            {
                owner(held);
            }
        }
    }

    /// Living children and TIME_WAIT entries on a local port.
    pub fn children_on_port(&self, port: TcpPort) -> u32 {
        self.children[usize::from(port.0)].load(Ordering::Acquire)
    }

    /// The child that uses a slot now.
    pub fn child_ref(&self, index: u32) -> ChildRef {
        let generation = self.records[index as usize].generation.load(Ordering::Acquire);
        ChildRef { core: self.core, index, generation }
    }

    // ---- the core: its worker is the only caller

    /// The link of the accept queue.
    #[inline]
    pub fn accept_next(&self, index: u32) -> &AtomicU32 {
        &self.records[index as usize].accept_next
    }

    /// The next command, if any.
    #[inline]
    pub fn pop(&self) -> Option<Command> {
        self.commands.pop()
    }

    /// Leaves word of a listener whose SYN queue is full; who comes too often is not heard.
    pub fn flood(&self, listener: ListenerRef) {
        let _ = self.floods.push(listener);
    }

    /// Counts one [`Command::CookieKeys`] as carried out.
    pub fn cookie_keys_taken(&self) {
        self.keys_taken.fetch_add(1, Ordering::Release);
    }

    /// Writes down a new child; returns its generation.
    pub fn publish(&self, index: u32, child: &ChildRecord) -> u32 {
        let record = &self.records[index as usize];
        let generation = record.generation.load(Ordering::Relaxed) | 1;
        record.saddr[0].store(child.flow.saddr.hi(), Ordering::Relaxed);
        record.saddr[1].store(child.flow.saddr.lo(), Ordering::Relaxed);
        record.daddr[0].store(child.flow.daddr.hi(), Ordering::Relaxed);
        record.daddr[1].store(child.flow.daddr.lo(), Ordering::Relaxed);
        record.sport.store(child.flow.sport.0, Ordering::Relaxed);
        record.dport.store(child.flow.dport.0, Ordering::Relaxed);
        record.uid.store(child.uid, Ordering::Relaxed);
        record.dev.store(child.dev.0, Ordering::Relaxed);
        record.state.store(child.state as u8, Ordering::Relaxed);
        let flags = if child.reuse { REUSE } else { 0 }
            | if child.reuseport { REUSEPORT } else { 0 }
            | if child.v6_family { V6_FAMILY } else { 0 };
        record.flags.store(flags, Ordering::Relaxed);
        record.generation.store(generation, Ordering::Release);
        if index >= self.high_water.load(Ordering::Relaxed) {
            self.high_water.store(index + 1, Ordering::Release);
        }
        self.count_port(child.flow.dport, 1);
        generation
    }

    /// Follows the child's state. In CLOSE it no longer holds its port.
    #[inline]
    pub fn set_state(&self, index: u32, state: TcpState, error: Option<Errno>) {
        let record = &self.records[index as usize];
        let before = TcpState::from_u8(record.state.load(Ordering::Relaxed));
        if let Some(error) = error
            && let Some((_, number)) = ERRORS.iter().zip(1..).find(|(known, _)| **known == error)
        {
            record.flags.fetch_or(number << ERROR_SHIFT, Ordering::Relaxed);
        }
        record.state.store(state as u8, Ordering::Release);
        if state == TcpState::Close && before != TcpState::Close {
            self.count_port(TcpPort(record.dport.load(Ordering::Relaxed)), u32::MAX);
        }
    }

    /// Frees the record; the slot's next child has another generation.
    pub fn retire(&self, index: u32) {
        self.set_state(index, TcpState::Close, None);
        let record = &self.records[index as usize];
        let generation = record.generation.load(Ordering::Relaxed);
        record.generation.store(generation.wrapping_add(1), Ordering::Relaxed);
        // Orders the even generation before the fields that the next `publish` writes.
        fence(Ordering::Release);
    }

    /// Single writer, so a load and a store do.
    fn count_port(&self, port: TcpPort, amount: u32) {
        let count = &self.children[usize::from(port.0)];
        count.store(count.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Release);
    }
}

impl Record {
    /// Generation, owner and info of the connection that uses the slot; `None` if it is free.
    fn read(&self, core: CoreId, index: u32) -> Option<(u32, PortOwner, ChildInfo)> {
        loop {
            let generation = self.generation.load(Ordering::Acquire);
            if generation & 1 == 0 {
                return None;
            }
            let addr = |words: &[AtomicU64; 2]| {
                InetAddr::v6(words[0].load(Ordering::Relaxed), words[1].load(Ordering::Relaxed))
            };
            let flow = FlowKey {
                saddr: addr(&self.saddr),
                daddr: addr(&self.daddr),
                sport: TcpPort(self.sport.load(Ordering::Relaxed)),
                dport: TcpPort(self.dport.load(Ordering::Relaxed)),
            };
            let state = TcpState::from_u8(self.state.load(Ordering::Relaxed));
            let flags = self.flags.load(Ordering::Relaxed);
            let dev = DevIndex(self.dev.load(Ordering::Relaxed));
            let uid = self.uid.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if self.generation.load(Ordering::Relaxed) != generation {
                continue;
            }
            let (reuse, reuseport) = (flags & REUSE != 0, flags & REUSEPORT != 0);
            let owner = PortOwner {
                child: ChildRef { core, index, generation },
                addr: flow.daddr,
                dev,
                reuse,
                reuseport,
                v6_family: flags & V6_FAMILY != 0,
                time_wait: state == TcpState::TimeWait,
                uid,
            };
            let number = usize::from((flags & ERROR_BITS) >> ERROR_SHIFT);
            let error = number.checked_sub(1).and_then(|error| ERRORS.get(error)).copied();
            let info = ChildInfo { flow, state, dev, error, reuse, reuseport };
            return Some((generation, owner, info));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
