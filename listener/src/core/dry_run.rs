//! What would become of a segment, without anything becoming of it.
//!
//! # Protocol
//! What a core decides depends on what it alone knows: the flow's entry, how full its tables are, its limits. So the
//! control side asks it ([`Command::Peek`]), and at its next tick the core answers with a copy of just that, [`Peeked`].
//! The control side then builds a core of one entry from the copy, with copies of the listeners that matter and counters
//! of its own, and lets that one answer the segment by [`Core::lookup_burst`] and [`Core::rcv`]: the rules are those that
//! run, and nothing that runs is touched. Where cores hand segments over, all are asked, and [`Stack::dry_run_among`] goes
//! the segment's way from copy to copy, by [`Core::rcv_handed_over`].

use super::hand_off::STRAY;
use super::{Core, Env, Flows, Found, What};
use crate::api::Stack;
use crate::config::StackConfig;
use crate::conn_shared::{Command, CoreShared};
use crate::ehash::{EntryId, Kind};
use crate::inet_hashtables::{HashKey, ListenKey, Tried};
use crate::limits::Limits;
use crate::ratelimit::{PerSecond, TokenBucket};
use crate::request_sock::{Conn, Entry, Request, Slab};
use crate::segment::{FlowKey, Segment, Verdict};
use crate::snmp::Mib;
use crate::sync::Arc;
use crate::syncookies::{self, CookieKeys};
use crate::types::{CoreId, DevIndex, InetAddr, ListenerId, ListenerRef, Nanos, TcpState};

/// Answers that may wait for the control side.
pub(crate) const PEEKED: usize = 4;

/// A question to a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    /// Comes back with the answer.
    pub ticket: u32,
    /// The flow.
    pub flow: FlowKey,
    /// The device that the segment would come in on.
    pub dev: DevIndex,
}

#[derive(Clone, Copy, Debug)]
enum Copied {
    None,
    Request(Entry<Request>),
    Conn(Entry<Conn>),
}

/// What a core knew of a flow at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Peeked {
    ticket: u32,
    now: Nanos,
    entry: Copied,
    requests_full: bool,
    conns_full: bool,
    time_wait_full: bool,
    draining: bool,
    hands_off: bool,
    cookies: bool,
    cookie_keys: CookieKeys,
    rst_limit: TokenBucket,
    challenges: PerSecond,
    /// Places that the core has in hand of the listener's SYN queue.
    in_hand: Option<(ListenerRef, u32)>,
}

impl Peeked {
    /// True if the core has an entry for the flow.
    pub fn has_entry(&self) -> bool {
        !matches!(self.entry, Copied::None)
    }
}

/// The core: answers `peek`, unless nobody has taken the answers before.
#[cold]
pub(crate) fn peek(env: &Env, flows: &Flows, peek: &Peek, now: Nanos) {
    let table = &flows.table;
    let entry = match table.lookup(table.hash(&peek.flow), &peek.flow, peek.dev).map(EntryId::kind) {
        None => Copied::None,
        Some(Kind::Request(index)) => Copied::Request(*table.requests.entry(index)),
        Some(Kind::Conn(index)) => Copied::Conn(*table.conns.entry(index)),
    };
    let listener = match entry {
        Copied::Request(entry) => Some(entry.body.listener),
        _ => env.lookup_listener(&Segment { flow: peek.flow, dev: peek.dev, ..Segment::default() }),
    };
    let _ = env.shared.live.peeked.push(Peeked {
        in_hand: listener.map(|listener| (listener, flows.credits.in_hand(listener))),
        ticket: peek.ticket,
        now,
        entry,
        requests_full: table.requests.is_full(),
        conns_full: table.conns.is_full(),
        time_wait_full: flows.tw_count >= env.tw_max,
        draining: env.draining,
        hands_off: flows.hands_off,
        cookies: flows.cookies,
        cookie_keys: env.cookies,
        rst_limit: flows.rst_limit,
        challenges: flows.challenges,
    });
}

/// What a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// Nobody: no entry and no listener.
    Nobody,
    /// A listener, and no entry of the established table.
    Listener(ListenerId),
    /// A half-open handshake at this listener.
    Request(ListenerId),
    /// A connection in this state.
    Connection(TcpState),
}

/// What would become of a segment.
#[derive(Clone, Debug)]
pub struct DryRun {
    /// What the core would answer.
    pub verdict: Verdict,
    /// What the segment would find.
    pub belongs: Belongs,
    /// How it was looked for among the listeners: by exact address, then by any.
    pub tried: [Tried; 2],
    /// Counters of [`Mib`] that would grow.
    pub counters: Vec<&'static str>,
}

/// What would become of a segment that cores may hand over.
#[derive(Clone, Debug)]
pub struct HandedOver {
    /// What the core that has the last word would do, and what of it would be counted by all that had a say.
    pub dry: DryRun,
    /// The cores that would be asked after the first one, in order.
    pub to: Vec<CoreId>,
}

impl Stack {
    /// Asks `core` what it knows of `flow`; the answer comes by [`Stack::peeked`] with the same `ticket`.
    pub fn peek(&self, core: CoreId, peek: Peek) {
        let mut control = self.lock();
        if let Some(shared) = self.net.cores.get(usize::from(core.0)) {
            while shared.live.peeked.pop().is_some() {}
        }
        control.command(&self.net, core, Command::Peek(peek));
    }

    /// The answer with this ticket, once it is there. Answers to earlier questions are dropped.
    pub fn peeked(&self, core: CoreId, ticket: u32) -> Option<Peeked> {
        let queue = &self.net.cores.get(usize::from(core.0))?.live.peeked;
        std::iter::from_fn(|| queue.pop()).find(|peeked| peeked.ticket == ticket)
    }

    /// What `core` would do with `seg`, by what it said of the segment's flow.
    pub fn dry_run(&self, core: CoreId, seg: &Segment, peeked: &Peeked) -> DryRun {
        let key = ListenKey { flow: seg.flow, dev: seg.dev, core };
        let mut scratch = self.scratch(core, seg, peeked);
        let shared = Arc::clone(&scratch.env.shared);
        let mut found = [Found::default()];
        scratch.lookup_burst(std::slice::from_ref(seg), 1, &mut found);
        let belongs = belongs(&scratch, &found[0]);
        let verdict = scratch.rcv(seg, found[0], peeked.now);
        DryRun { verdict, belongs, tried: self.net.hash.explain(&key), counters: grown(&shared) }
    }

    /// What becomes of `seg` when it comes to core `first`: there, or at those that it is handed to from there. `peeked` has
    /// what each core said of the flow, by their numbers. Rings are taken to have room.
    ///
    /// # Errors
    /// The core that has a say and has said nothing.
    pub fn dry_run_among(
        &self,
        first: CoreId,
        seg: &Segment,
        peeked: &[Option<Peeked>],
    ) -> Result<HandedOver, CoreId> {
        let said = |core: CoreId| peeked.get(usize::from(core.0)).and_then(Option::as_ref).ok_or(core);
        let mut dry = self.dry_run(first, seg, said(first)?);
        let (mut to, others) = (Vec::new(), peeked.len().saturating_sub(1));
        while dry.verdict == STRAY && to.len() < others {
            let next = (usize::from(first.0) + to.len() + 1) % peeked.len();
            let core = CoreId(u16::try_from(next).unwrap_or(first.0));
            to.push(core);
            let peeked = said(core)?;
            let mut scratch = self.scratch(core, seg, peeked);
            let shared = Arc::clone(&scratch.env.shared);
            if peeked.has_entry() {
                let mut found = [Found::default()];
                scratch.lookup_burst(std::slice::from_ref(seg), 1, &mut found);
                dry.belongs = belongs(&scratch, &found[0]);
            }
            dry.verdict = scratch.rcv_handed_over(seg, to.len() == others, peeked.now);
            dry.counters.extend(grown(&shared));
        }
        dry.counters.sort_unstable_by_key(|name| Mib::ALL.iter().position(|counter| counter.name() == *name));
        dry.counters.dedup();
        Ok(HandedOver { dry, to })
    }

    /// A core that knows what `peeked` says, and shares nothing with those that run but the listening hash.
    fn scratch(&self, core: CoreId, seg: &Segment, peeked: &Peeked) -> Core {
        let (request, conn) = match peeked.entry {
            Copied::None => (0, 0),
            Copied::Request(_) => (1, 0),
            Copied::Conn(_) => (0, 1),
        };
        let limits = Limits {
            requests_per_core: request + u32::from(!peeked.requests_full),
            connections_per_core: conn + u32::from(!peeked.conns_full),
            ..self.config.limits
        };
        let sysctl = crate::sysctl::Sysctl::clone(&self.sysctl());
        let config = StackConfig { limits, sysctl, ..self.config.clone() };
        let socks = Arc::new(self.net.listeners.copy_of(&self.listeners_of(core, seg, peeked)));
        let shared = Arc::new(CoreShared::new(core, limits.connections_per_core));
        let mut scratch = Core::new(&config, socks, Arc::clone(&self.net.hash), shared);
        scratch.env.tw_max = u32::from(!peeked.time_wait_full);
        scratch.env.draining = peeked.draining;
        scratch.env.cookies = peeked.cookie_keys;
        scratch.env.minute.be(&peeked.cookie_keys.current, syncookies::count(peeked.now));
        let flows = &mut scratch.flows;
        flows.hands_off = peeked.hands_off;
        flows.cookies = peeked.cookies;
        flows.rst_limit = peeked.rst_limit;
        flows.challenges = peeked.challenges;
        if let Some((listener, places)) = peeked.in_hand {
            flows.credits.hold(listener, places);
        }
        // Brings the wheel to the present.
        flows.wheel.pop(&mut flows.table, peeked.now);
        match peeked.entry {
            Copied::None => {}
            Copied::Request(entry) => {
                if let Some(index) = copy(&mut flows.table.requests, &entry) {
                    flows.table.insert(EntryId::request(index), entry.head.hash);
                }
            }
            Copied::Conn(entry) => {
                flows.tw_count = u32::from(entry.body.is_time_wait());
                if let Some(index) = copy(&mut flows.table.conns, &entry) {
                    flows.table.insert(EntryId::conn(index), entry.head.hash);
                }
            }
        }
        scratch
    }

    /// All listeners that the decision may ask: the one found, the request's and its heir, and whose cookie time they
    /// share.
    fn listeners_of(&self, core: CoreId, seg: &Segment, peeked: &Peeked) -> Vec<ListenerId> {
        let hash = &self.net.hash;
        let guard = hash.pin();
        let key = ListenKey { flow: seg.flow, dev: seg.dev, core };
        let mut ids: Vec<ListenerId> = hash.inet_lookup_listener(&guard, &key).into_iter().collect();
        if let Copied::Request(entry) = peeked.entry {
            let listener = entry.body.listener.id;
            ids.push(listener);
            let flow = hash.flow_hash(&seg.flow);
            for addr in [seg.flow.daddr, InetAddr::ANY_V4] {
                let at = HashKey::new(addr, seg.flow.dport);
                ids.extend(hash.reuseport_migrate(&guard, at, listener, core, flow));
            }
        }
        let shared: Vec<_> = ids.iter().map(|id| self.net.slot(*id).synq_slot()).collect();
        ids.extend(shared);
        ids
    }
}

/// The counters of a core that counts one segment.
fn grown(shared: &CoreShared) -> Vec<&'static str> {
    let counters = Mib::ALL.iter().filter(|counter| shared.snmp().get(**counter) != 0);
    counters.map(|counter| counter.name()).collect()
}

/// Puts a copy of `entry` into a slab, in no chain and with no timer.
fn copy<B: Copy + Default>(slab: &mut Slab<B>, entry: &Entry<B>) -> Option<u32> {
    let index = slab.alloc(&entry.head.flow(), entry.body)?;
    let head = &mut slab.entry_mut(index).head;
    head.bound_dev = entry.head.bound_dev;
    head.dev = entry.head.dev;
    Some(index)
}

fn belongs(core: &Core, found: &Found) -> Belongs {
    match found.what {
        What::None => Belongs::Nobody,
        What::Listener(listener, _) => Belongs::Listener(listener.id),
        What::Flow { id, .. } => match id.kind() {
            Kind::Request(index) => Belongs::Request(core.flows.table.requests.entry(index).body.listener.id),
            Kind::Conn(index) => Belongs::Connection(core.flows.table.conns.entry(index).body.state),
        },
    }
}
