//! Listeners as the workers see them: a slab of [`ListenSock`] slots, written by the control side and by all workers.
//!
//! # Protocol
//! A slot's generation is odd while it listens and even while it does not; [`ListenSock::open`] and
//! [`ListenSock::close`] each add one. A [`ListenerRef`] is a slot and an odd generation, so a reference that outlived
//! its listener is told from the slot's next listener by one comparison. The three words that workers change (half-open
//! requests, children waiting for `accept`, top of the accept queue) carry the generation too and are changed by
//! compare-and-swap only: a worker that is late by one close() cannot touch the next listener's numbers.
//!
//! The accept queue is a stack of children, linked through their shared records ([`crate::conn_shared`]): workers push,
//! the control side takes the whole stack with one swap and turns it round. So order of arrival is kept, nothing is
//! allocated, and a node cannot come back while it is being pushed (no ABA).
//!
//! Places in the SYN queue are counted one by one while it is small; of a large one each core takes some at a time
//! ([`Credits`]), so that cores do not take the line from each other with every SYN.
//!
//! # Limits
//! [`QLEN_MAX`] half-open requests per listener; beyond that its SYN queue counts as full.
//!
//! # Checked by
//! `tests/loom_accept_queue.rs`, `tests/loom_credits.rs`, and the tests below.

mod credits;
mod params;
mod reqsk_queue;
mod slab;

pub use credits::{CREDIT_IDLE, Credits};
pub use params::ListenParams;
pub use reqsk_queue::QLEN_MAX;
pub use slab::ListenSocks;

use crate::conn_shared::{ChildNode, ChildRef, CoreShared};
use crate::sync::{Arc, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use crate::types::{Backlog, DevIndex, ListenerId, ListenerRef, Nanos, Then};

/// One listener; a cache line that is mostly read.
#[repr(align(64))]
#[derive(Debug)]
pub struct ListenSock {
    /// Odd: listening.
    generation: AtomicU32,
    sk_max_ack_backlog: AtomicU32,
    /// Generation (low 24 bits), young, qlen.
    requests: AtomicU64,
    /// Generation, children waiting for accept.
    sk_ack_backlog: AtomicU64,
    /// Generation, newest child.
    accept_top: AtomicU64,
    /// Time of the last SYN cookie plus one, in ns; 0 = none. That of slot `synq_slot` counts.
    synq_overflow_ts: AtomicU64,
    synq_slot: AtomicU32,
    uid: AtomicU32,
    rcvbuf: AtomicU32,
    dev: AtomicU16,
    mss_clamp: AtomicU16,
    then: AtomicU8,
    flags: AtomicU8,
    defer: AtomicU8,
    syn_retries: AtomicU8,
    tos: AtomicU8,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<ListenSock>() == 64);

const REUSE: u8 = 1;
const REUSEPORT: u8 = 2;
const V6_FAMILY: u8 = 4;
const SYNFLOOD_WARNED: u8 = 8;

/// Why a child or a request was not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The queue is at its limit.
    Full,
    /// The listener was closed.
    Gone,
}

const fn tagged(generation: u32, low: u32) -> u64 {
    ((generation as u64) << 32) | low as u64
}

/// Changes a word as `next` says, or leaves it and says why.
#[inline]
fn change(word: &AtomicU64, mut next: impl FnMut(u64) -> Result<u64, Refused>) -> Result<(), Refused> {
    let mut now = word.load(Ordering::Relaxed);
    loop {
        match word.compare_exchange_weak(now, next(now)?, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(other) => now = other,
        }
    }
}

impl ListenSock {
    fn new(id: u32) -> Self {
        Self {
            generation: AtomicU32::new(0),
            sk_max_ack_backlog: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            sk_ack_backlog: AtomicU64::new(0),
            accept_top: AtomicU64::new(tagged(0, ChildNode::NIL.0)),
            synq_overflow_ts: AtomicU64::new(0),
            synq_slot: AtomicU32::new(id),
            uid: AtomicU32::new(0),
            rcvbuf: AtomicU32::new(0),
            dev: AtomicU16::new(0),
            mss_clamp: AtomicU16::new(0),
            then: AtomicU8::new(0),
            flags: AtomicU8::new(0),
            defer: AtomicU8::new(0),
            syn_retries: AtomicU8::new(0),
            tos: AtomicU8::new(0),
        }
    }

    /// Becomes a copy of `other` with an empty accept queue: its counts, and none of its children.
    fn copy_from(&self, other: &Self) {
        let generation = other.generation();
        self.generation.store(generation, Ordering::Relaxed);
        self.set_max_ack_backlog(Backlog(other.max_ack_backlog()));
        self.requests.store(other.requests.load(Ordering::Relaxed), Ordering::Relaxed);
        self.sk_ack_backlog.store(other.sk_ack_backlog.load(Ordering::Relaxed), Ordering::Relaxed);
        self.accept_top.store(tagged(generation, ChildNode::NIL.0), Ordering::Relaxed);
        self.synq_overflow_ts.store(other.synq_overflow_ts.load(Ordering::Relaxed), Ordering::Relaxed);
        self.synq_slot.store(other.synq_slot.load(Ordering::Relaxed), Ordering::Relaxed);
        self.uid.store(other.uid(), Ordering::Relaxed);
        self.set_dev(other.dev());
        self.set_mss_clamp(other.mss_clamp());
        self.rcvbuf.store(other.rcvbuf(), Ordering::Relaxed);
        self.set_then(other.then());
        self.flags.store(other.flags.load(Ordering::Relaxed), Ordering::Relaxed);
        self.set_defer(other.defer());
        self.set_syn_retries(other.syn_retries());
        self.set_tos(other.tos());
    }

    /// Makes a slot listen and returns its generation. Control side only; not visible before it is hashed.
    ///
    /// # Source
    /// Linux v6.18 `inet_csk_listen_start` (net/ipv4/inet_connection_sock.c): queues reset, counts 0, state LISTEN.
    pub fn open(&self, id: ListenerId, params: &ListenParams) -> ListenerRef {
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1) | 1;
        self.set_max_ack_backlog(params.backlog);
        self.set_then(params.then);
        self.set_reuse(params.reuse);
        self.set_reuseport(params.reuseport);
        self.set_flag(V6_FAMILY, params.v6_family);
        self.set_flag(SYNFLOOD_WARNED, false);
        self.uid.store(params.uid, Ordering::Relaxed);
        self.set_dev(params.dev);
        self.set_defer(params.defer);
        self.set_syn_retries(params.syn_retries);
        self.set_mss_clamp(params.mss_clamp);
        self.rcvbuf.store(params.rcvbuf, Ordering::Relaxed);
        self.set_tos(params.tos);
        self.synq_overflow_ts.store(0, Ordering::Relaxed);
        self.synq_slot.store(id.0, Ordering::Relaxed);
        self.start_words(generation);
        self.generation.store(generation, Ordering::Release);
        ListenerRef { id, generation }
    }

    /// Ends LISTEN and gives the children that no `accept` took to `child`, oldest first; a no-op on a closed slot.
    /// Control side only, after the listener was unhashed. A worker that comes later finds the generation changed and
    /// resets its child itself.
    pub fn close(&self, cores: &[Arc<CoreShared>], child: impl FnMut(ChildRef)) {
        let generation = self.generation.load(Ordering::Relaxed);
        if generation & 1 == 0 {
            return;
        }
        let next = generation.wrapping_add(1);
        self.generation.store(next, Ordering::Release);
        let top = self.start_words(next);
        unwind(top as u32, cores, child);
    }

    /// Gives the three words of the workers a new generation; returns the old top. Exchanges, not stores: each takes its
    /// place among the workers' own, so that what a late worker compares with is never an old value.
    fn start_words(&self, generation: u32) -> u64 {
        self.requests.swap(reqsk_queue::word(generation), Ordering::Relaxed);
        self.sk_ack_backlog.swap(tagged(generation, 0), Ordering::Relaxed);
        self.accept_top.swap(tagged(generation, ChildNode::NIL.0), Ordering::AcqRel)
    }

    /// Generation as of now: odd = LISTEN.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// True while the listener of this generation listens.
    #[inline]
    pub fn is_listening(&self, generation: u32) -> bool {
        generation & 1 == 1 && self.generation() == generation
    }

    /// `sk_max_ack_backlog`
    #[inline]
    pub fn max_ack_backlog(&self) -> u32 {
        self.sk_max_ack_backlog.load(Ordering::Relaxed)
    }

    /// A later listen() on a listener changes this and nothing else.
    pub fn set_max_ack_backlog(&self, backlog: Backlog) {
        self.sk_max_ack_backlog.store(backlog.0, Ordering::Relaxed);
    }

    /// `sk_ack_backlog`: children that wait for `accept`.
    #[inline]
    pub fn ack_backlog(&self) -> u32 {
        self.sk_ack_backlog.load(Ordering::Relaxed) as u32
    }

    /// `sk_acceptq_is_full`: strict, so backlog N holds N + 1.
    #[inline]
    pub fn acceptq_is_full(&self) -> bool {
        self.ack_backlog() > self.max_ack_backlog()
    }

    /// Counts one child more, unless the queue is full or the listener is another one by now.
    #[inline]
    pub fn acceptq_reserve(&self, generation: u32) -> Result<(), Refused> {
        let max = self.max_ack_backlog();
        change(&self.sk_ack_backlog, |word| match (word >> 32) as u32 {
            current if current != generation => Err(Refused::Gone),
            _ if word as u32 > max => Err(Refused::Full),
            _ => Ok(word + 1),
        })
    }

    /// Counts one child more whatever the limit says: one that migrates here from a closed listener of the group.
    pub fn acceptq_reserve_migrated(&self, generation: u32) -> Result<(), Refused> {
        let more = |word: u64| ((word >> 32) as u32 == generation).then_some(word.wrapping_add(1));
        let counted = self.sk_ack_backlog.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.map(drop).map_err(|_| Refused::Gone)
    }

    /// Counts one child less: `accept` took it, or it could not be queued.
    pub fn acceptq_release(&self, generation: u32) {
        // Gone: the count died with its listener.
        let _ = change(&self.sk_ack_backlog, |word| match (word >> 32) as u32 {
            current if current != generation || word as u32 == 0 => Err(Refused::Gone),
            _ => Ok(word - 1),
        });
    }

    /// Appends a child that was counted by [`Self::acceptq_reserve`]; `next` is the link in its shared record.
    #[inline]
    pub fn acceptq_add(&self, generation: u32, child: ChildNode, next: &AtomicU32) -> Result<(), Refused> {
        let mut top = self.accept_top.load(Ordering::Relaxed);
        loop {
            if (top >> 32) as u32 != generation {
                return Err(Refused::Gone);
            }
            next.store(top as u32, Ordering::Relaxed);
            match self.accept_top.compare_exchange_weak(
                top,
                tagged(generation, child.0),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(now) => top = now,
            }
        }
    }

    /// Takes all queued children, oldest first. Control side only (single consumer); counts stay until each is
    /// really accepted: call [`Self::acceptq_release`] then.
    pub fn acceptq_take(&self, cores: &[Arc<CoreShared>], child: impl FnMut(ChildRef)) {
        let top = self.accept_top.load(Ordering::Relaxed);
        if top as u32 == ChildNode::NIL.0 {
            return;
        }
        let empty = top & !0xffff_ffff | u64::from(ChildNode::NIL.0);
        let top = self.accept_top.swap(empty, Ordering::Acquire);
        unwind(top as u32, cores, child);
    }

    /// What becomes of its connections.
    #[inline]
    pub fn then(&self) -> Then {
        Then::from_u8(self.then.load(Ordering::Relaxed))
    }

    /// Holds for handshakes that end from now on.
    pub fn set_then(&self, then: Then) {
        self.then.store(then as u8, Ordering::Relaxed);
    }

    fn flag(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    fn set_flag(&self, flag: u8, on: bool) {
        if on {
            self.flags.fetch_or(flag, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!flag, Ordering::Relaxed);
        }
    }

    /// True when it is asked for the first time since the listener opened, by whichever worker.
    #[inline]
    pub fn synflood_unwarned(&self) -> bool {
        !self.flag(SYNFLOOD_WARNED)
            && self.flags.fetch_or(SYNFLOOD_WARNED, Ordering::Relaxed) & SYNFLOOD_WARNED == 0
    }

    /// True once it was asked.
    #[inline]
    pub fn synflood_warned(&self) -> bool {
        self.flag(SYNFLOOD_WARNED)
    }

    /// SO_REUSEADDR, which children take over.
    #[inline]
    pub fn reuse(&self) -> bool {
        self.flag(REUSE)
    }

    /// Sets SO_REUSEADDR.
    pub fn set_reuse(&self, on: bool) {
        self.set_flag(REUSE, on);
    }

    /// SO_REUSEPORT, which children take over.
    #[inline]
    pub fn reuseport(&self) -> bool {
        self.flag(REUSEPORT)
    }

    /// Sets SO_REUSEPORT.
    pub fn set_reuseport(&self, on: bool) {
        self.set_flag(REUSEPORT, on);
    }

    /// True for an AF_INET6 socket.
    #[inline]
    pub fn v6_family(&self) -> bool {
        self.flag(V6_FAMILY)
    }

    /// Owner's uid.
    #[inline]
    pub fn uid(&self) -> u32 {
        self.uid.load(Ordering::Relaxed)
    }

    /// SO_BINDTODEVICE; its children are bound to the device they came in on if this is one.
    #[inline]
    pub fn dev(&self) -> DevIndex {
        DevIndex(self.dev.load(Ordering::Relaxed))
    }

    /// Sets SO_BINDTODEVICE.
    pub fn set_dev(&self, dev: DevIndex) {
        self.dev.store(dev.0, Ordering::Relaxed);
    }

    /// TCP_DEFER_ACCEPT in SYN-ACK timeouts.
    #[inline]
    pub fn defer(&self) -> u8 {
        self.defer.load(Ordering::Relaxed)
    }

    /// Sets TCP_DEFER_ACCEPT, in SYN-ACK timeouts.
    pub fn set_defer(&self, timeouts: u8) {
        self.defer.store(timeouts, Ordering::Relaxed);
    }

    /// TCP_SYNCNT; 0 = the sysctl.
    #[inline]
    pub fn syn_retries(&self) -> u8 {
        self.syn_retries.load(Ordering::Relaxed)
    }

    /// Sets TCP_SYNCNT.
    pub fn set_syn_retries(&self, retries: u8) {
        self.syn_retries.store(retries, Ordering::Relaxed);
    }

    /// TCP_MAXSEG; 0 = none.
    #[inline]
    pub fn mss_clamp(&self) -> u16 {
        self.mss_clamp.load(Ordering::Relaxed)
    }

    /// Sets TCP_MAXSEG.
    pub fn set_mss_clamp(&self, mss: u16) {
        self.mss_clamp.store(mss, Ordering::Relaxed);
    }

    /// `sk_rcvbuf`
    #[inline]
    pub fn rcvbuf(&self) -> u32 {
        self.rcvbuf.load(Ordering::Relaxed)
    }

    /// IP_TOS or IPV6_TCLASS.
    #[inline]
    pub fn tos(&self) -> u8 {
        self.tos.load(Ordering::Relaxed)
    }

    /// Sets IP_TOS or IPV6_TCLASS.
    pub fn set_tos(&self, tos: u8) {
        self.tos.store(tos, Ordering::Relaxed);
    }

    /// The slot whose cookie stamp counts for this listener.
    #[inline]
    pub fn synq_slot(&self) -> ListenerId {
        ListenerId(self.synq_slot.load(Ordering::Relaxed))
    }

    /// Lets this listener share the cookie stamp of `slot`, as members of a reuseport group do.
    pub fn set_synq_slot(&self, slot: ListenerId) {
        self.synq_slot.store(slot.0, Ordering::Relaxed);
    }

    /// Takes over the cookie stamp of `other`, which shared its own with this listener and now goes away.
    pub fn inherit_synq_overflow(&self, other: &Self) {
        let stamp = other.synq_overflow_ts.load(Ordering::Relaxed);
        self.synq_overflow_ts.fetch_max(stamp, Ordering::Relaxed);
    }

    /// Remembers that a cookie was sent; written once a second at most, so the line stays shared in a flood.
    ///
    /// # Source
    /// Linux v6.18 `tcp_synq_overflow` (include/net/tcp.h).
    #[inline]
    pub fn synq_overflow(&self, now: Nanos) {
        let last = self.synq_overflow_ts.load(Ordering::Relaxed);
        if last == 0 || now.0.saturating_sub(last) > 1_000_000_000 {
            self.synq_overflow_ts.store(now.0.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// True if no cookie was sent within `valid_ns`.
    #[inline]
    pub fn synq_no_recent_overflow(&self, now: Nanos, valid_ns: u64) -> bool {
        let last = self.synq_overflow_ts.load(Ordering::Relaxed);
        last == 0 || now.0.saturating_sub(last) > valid_ns
    }
}

/// Turns a stack of children round and hands them out, oldest first.
fn unwind(top: u32, cores: &[Arc<CoreShared>], mut child: impl FnMut(ChildRef)) {
    let mut children = Vec::new();
    let mut node = ChildNode(top);
    while let Some((shared, index)) = node.locate(cores) {
        children.push(shared.child_ref(index));
        node = ChildNode(shared.accept_next(index).load(Ordering::Relaxed));
    }
    children.into_iter().rev().for_each(&mut child);
}

#[cfg(all(test, not(loom)))]
mod tests;
