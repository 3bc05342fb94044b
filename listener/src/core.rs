//! One worker's half of the stack: [`Core`] looks segments up, answers them, and keeps their timers.
//!
//! A core owns its flows (`Flows`: the established table and the timer wheel) and shares the rest (`Env`): the
//! listening hash and the listeners, which it reads, and its [`CoreShared`], which the control side reads. Nothing
//! here locks, allocates, reads a clock or makes a system call; time comes in as an argument.
//!
//! # Order
//! A burst is looked up as one batch, or two where some of it stands in columns, and then answered in order of arrival:
//! segment by segment, but for runs of SYNs, and of RSTs, in columns. What a segment of the
//! burst puts into the table is seen by the segments after it: see [`Found`].

use crate::config::StackConfig;
use crate::conn_shared::{Command, CoreShared};
use crate::ehash::{Ehash, EntryId, Kind};
use crate::flow_hash::{Ahead, FlowHashes};
use crate::inet_hashtables::{ListenHash, ListenKey};
use crate::limits::BURST_MAX;
use crate::listen_sock::{Credits, ListenSock, ListenSocks};
use crate::live::count_if_draining;
use crate::ratelimit::{PerSecond, TokenBucket};
use crate::segment::{FlowKey, Originated, OutSegment, Outcome, Segment, Verdict, flag};
use crate::siphash::SipKey;
use crate::snmp::{Mib, Snmp};
use crate::sync::Arc;
use crate::syncookies::{self, CookieKeys, Minute};
use crate::sysctl::Sysctl;
use crate::tcp_timer;
use crate::tcp_window::{InitialWindows, field, select_initial_window};
use crate::timer::{Popped, TimerWheel};
use crate::types::{CoreId, DevIndex, InetAddr, ListenerRef, Nanos};
use crate::{tcp, tcp_ipv4};
use columns::ColumnLookup;

mod columns;
pub mod dry_run;
pub(crate) mod hand_off;
mod lookup;

/// What [`Core::lookup_burst`] or [`Core::lookup_columns`] found for one segment: a hint for [`Core::rcv`].
///
/// [`Core::rcv`] checks it: an entry may have left the table since, and one may have come that the lookup could not
/// see. So a hint of an earlier burst, or none at all, costs a lookup and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Found {
    /// The burst that it was found in; 0 = no lookup was made.
    burst: u32,
    pub(crate) hash: u32,
    pub(crate) what: What,
}

impl Found {
    /// True if an entry of the established table was found.
    pub const fn is_flow(&self) -> bool {
        matches!(self.what, What::Flow { .. })
    }

    /// The listener, if one was found and no entry of the established table.
    pub const fn listener(&self) -> Option<ListenerRef> {
        match self.what {
            What::Listener(listener, _) => Some(listener),
            _ => None,
        }
    }
}

/// What a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum What {
    #[default]
    None,
    Listener(ListenerRef, Ahead),
    Flow {
        id: EntryId,
        generation: u32,
    },
}

/// What a core reads and does not change, its counters aside.
#[derive(Debug)]
pub(crate) struct Env {
    pub core: CoreId,
    pub sysctl: Sysctl,
    pub isn_key: SipKey,
    /// For cookies, and for the timestamp offsets of all connections.
    pub cookies: CookieKeys,
    /// Of the last tick, with the keys that the cookies of the next burst are made with.
    pub minute: Minute,
    pub socks: Arc<ListenSocks>,
    pub hash: Arc<ListenHash>,
    pub shared: Arc<CoreShared>,
    /// MTU by device index.
    mtu: Box<[u16]>,
    /// By device index.
    windows: Box<[InitialWindows]>,
    /// Nanoseconds without a segment after which a connection of a `discard` listener is reset.
    pub idle_ns: u64,
    /// TIME_WAIT entries at most.
    pub tw_max: u32,
    /// No SYN is answered at a listener any more.
    pub draining: bool,
}

impl Env {
    #[inline]
    pub fn snmp(&self) -> &Snmp {
        self.shared.snmp()
    }

    /// MTU of a device; Ethernet's for one that was not configured.
    #[inline]
    pub fn mtu(&self, dev: DevIndex) -> u16 {
        self.mtu.get(usize::from(dev.0)).copied().unwrap_or(1500)
    }

    /// What [`select_initial_window`] says to a SYN of this family on device `dev` at a listener that clamps no MSS and has
    /// the receive buffer of `tcp_rmem`.
    #[inline]
    pub fn initial_window(
        &self,
        (dev, v4): (DevIndex, bool),
        advmss: u16,
        tstamp: bool,
        wscale: bool,
    ) -> (u16, u8) {
        match self.windows.get(usize::from(dev.0)) {
            Some(windows) => windows.get(v4, tstamp, wscale),
            None => {
                let rcvbuf = self.sysctl.tcp_rmem[1];
                let (window, scale) = select_initial_window(&self.sysctl, rcvbuf, advmss, tstamp, wscale);
                (field(window), scale)
            }
        }
    }

    /// Takes other knobs, and gives back those that it had.
    pub fn take_sysctl(&mut self, sysctl: &mut Sysctl) {
        std::mem::swap(&mut self.sysctl, sysctl);
        self.tw_max = self.sysctl.tcp_max_tw_buckets.min(self.shared.capacity() / 2);
        for (windows, &mtu) in self.windows.iter_mut().zip(&self.mtu) {
            *windows = InitialWindows::new(&self.sysctl, mtu);
        }
    }

    /// The listener for one segment, by a lookup of its own.
    pub fn lookup_listener(&self, seg: &Segment) -> Option<ListenerRef> {
        let guard = self.hash.pin();
        let key = ListenKey { flow: seg.flow, dev: seg.dev, core: self.core };
        let id = self.hash.inet_lookup_listener(&guard, &key)?;
        let generation = self.socks.get(id)?.generation();
        (generation & 1 == 1).then_some(ListenerRef { id, generation })
    }

    /// The listener, if it still listens.
    #[inline]
    pub fn listening(&self, listener: ListenerRef) -> Option<&ListenSock> {
        self.socks.listening(listener)
    }
}

/// What belongs to a core alone.
#[derive(Debug)]
pub(crate) struct Flows {
    pub table: Ehash,
    pub wheel: TimerWheel,
    pub tw_count: u32,
    /// Places in listeners' SYN queues.
    pub credits: Credits,
    pub rst_limit: TokenBucket,
    pub challenges: PerSecond,
    /// Whether the last SYN was answered by a cookie.
    pub cookies: bool,
    /// Whether other cores are asked about unknown flows, see [`hand_off`].
    hands_off: bool,
    /// Bloom filter of the hashes that were put into the table since the last lookup of a burst.
    fresh: [u64; 4],
}

impl Flows {
    /// Puts an entry into the table, visible to the rest of the burst.
    #[inline]
    pub fn insert(&mut self, id: EntryId, hash: u32) {
        self.fresh[hash as usize >> 6 & 3] |= 1 << (hash & 63);
        self.table.insert(id, hash);
    }

    #[inline]
    fn is_fresh(&self, hash: u32) -> bool {
        self.fresh[hash as usize >> 6 & 3] & 1 << (hash & 63) != 0
    }

    /// Whether anything was put into the table since.
    #[inline]
    fn has_fresh(&self) -> bool {
        self.fresh != [0; 4]
    }

    /// Arms an entry's timer.
    #[inline]
    pub fn arm(&mut self, id: EntryId, at: Nanos) {
        self.wheel.arm(&mut self.table, id.0, at);
    }

    /// Stops an entry's timer.
    #[inline]
    pub fn cancel(&mut self, id: EntryId) {
        self.wheel.cancel(&mut self.table, id.0);
    }
}

/// One worker's half of the stack. `Send`, not shared.
#[derive(Debug)]
pub struct Core {
    env: Env,
    flows: Flows,
    burst: u32,
    /// A command that could not be carried out for want of room to send.
    pending: Option<Command>,
    keys: Box<[ListenKey; BURST_MAX]>,
    hashes: Box<FlowHashes>,
    columns: Box<ColumnLookup>,
}

impl Core {
    /// A core with all its memory. `shared` must have `limits.connections_per_core` slots.
    ///
    /// # Panics
    /// If `shared` has another number of slots.
    pub fn new(
        config: &StackConfig,
        socks: Arc<ListenSocks>,
        hash: Arc<ListenHash>,
        shared: Arc<CoreShared>,
    ) -> Self {
        let connections = config.limits.connections_per_core;
        assert_eq!(shared.capacity(), connections, "one record per connection slot");
        let devices = config.devices.iter().map(|device| usize::from(device.index.0) + 1).max().unwrap_or(0);
        let mut mtu = vec![1500; devices].into_boxed_slice();
        for device in &config.devices {
            mtu[usize::from(device.index.0)] = device.mtu;
        }
        let secret = &config.secret;
        let windows = mtu.iter().map(|&mtu| InitialWindows::new(&config.sysctl, mtu)).collect();
        let env = Env {
            core: shared.core(),
            sysctl: config.sysctl.clone(),
            isn_key: SipKey::from_bytes(secret.isn),
            cookies: CookieKeys { current: secret.cookie_key(), other: None, shared: false },
            minute: Minute::default(),
            socks,
            hash,
            shared,
            mtu,
            windows,
            idle_ns: 60_000_000_000,
            tw_max: config.sysctl.tcp_max_tw_buckets.min(connections / 2),
            draining: false,
        };
        let table =
            Ehash::new(SipKey::from_bytes(secret.established), config.limits.requests_per_core, connections);
        let flows = Flows {
            table,
            wheel: TimerWheel::default(),
            tw_count: 0,
            credits: Credits::new(config.cores),
            rst_limit: TokenBucket::default(),
            challenges: PerSecond::default(),
            cookies: config.sysctl.tcp_syncookies == 2,
            hands_off: false,
            fresh: [0; 4],
        };
        Self {
            env,
            flows,
            burst: 0,
            pending: None,
            keys: Box::new([ListenKey::default(); BURST_MAX]),
            hashes: Box::new(FlowHashes::new()),
            columns: Box::default(),
        }
    }

    /// Limits RSTs that belong to no connection to `per_second`, at most `at_once` in a row. 0 = no limit, which is
    /// how a core starts.
    pub fn set_rst_limit(&mut self, per_second: u32, at_once: u32) {
        self.flows.rst_limit = TokenBucket::new(per_second, at_once);
    }

    /// Makes and checks SYN cookies with these keys, before the first segment; later ones come by
    /// [`crate::Stack::set_cookie_keys`].
    pub fn set_cookie_keys(&mut self, keys: CookieKeys) {
        self.env.cookies = keys;
    }

    /// Resets connections of `discard` listeners that were silent for `idle`; 60 s to start with.
    pub fn set_idle_timeout(&mut self, idle: Nanos) {
        self.env.idle_ns = idle.0;
    }

    /// What it shares, and what is its own.
    pub(crate) fn halves(&mut self) -> (&Env, &mut Flows) {
        (&self.env, &mut self.flows)
    }

    /// The worker that this core is.
    pub fn id(&self) -> CoreId {
        self.env.core
    }

    /// Counts a segment that never became a [`Segment`]: a bad header, or a bad checksum.
    ///
    /// # Source
    /// Linux v6.18 `tcp_v4_rcv`, labels `csum_error` and `bad_packet`.
    pub fn count_bad_segment(&mut self, checksum: bool) {
        let snmp = self.env.snmp();
        snmp.inc(Mib::InSegs);
        snmp.inc(Mib::InErrs);
        if checksum {
            snmp.inc(Mib::InCsumErrors);
        }
    }

    /// Half-open requests, and connections with TIME_WAIT entries, that are in use.
    pub fn in_use(&self) -> (u32, u32) {
        (self.flows.table.requests.in_use(), self.flows.table.conns.in_use())
    }

    /// Answers one segment, in order of arrival.
    pub fn rcv(&mut self, seg: &Segment, found: Found, now: Nanos) -> Verdict {
        let mut verdict = Verdict::Consume(Outcome::Other);
        self.rcv_into(seg, found, now, &mut verdict);
        verdict
    }

    /// As [`Core::rcv`], with the answer put where it is to stay: a copy of what was just written would be slow.
    #[inline]
    pub fn rcv_into(&mut self, seg: &Segment, found: Found, now: Nanos, verdict: &mut Verdict) {
        self.env.snmp().inc(Mib::InSegs);
        let found = self.revalidate(seg, found);
        tcp_ipv4::tcp_v4_rcv(&self.env, &mut self.flows, seg, found, now, verdict);
        if let Verdict::Reply(_, segment) = verdict {
            count_out(self.env.snmp(), segment);
        }
    }

    /// Carries out commands of the control side and timers that are due, `budget` steps at most. `send` gets each
    /// segment that no frame asked for; it answers false if there is no room now, and the step is tried again at the
    /// next tick. Returns true if there may be more to do now.
    pub fn tick(&mut self, now: Nanos, budget: usize, mut send: impl FnMut(&Originated) -> bool) -> bool {
        self.env.minute.be(&self.env.cookies.current, syncookies::count(now));
        count_if_draining(&self.env, &self.flows);
        self.flows.credits.sweep(&self.env.socks, now);
        let mut send = |env: &Env, originated: &Originated| {
            let sent = send(originated);
            if sent {
                count_out(env.snmp(), &originated.segment);
            }
            sent
        };
        let mut left = budget;
        while left > 0 {
            let Some(command) = self.pending.take().or_else(|| self.env.shared.pop()) else { break };
            left -= 1;
            if command == Command::Settings {
                self.columns.forget_answers();
            }
            if !tcp::command(&mut self.env, &mut self.flows, command, now, &mut send) {
                self.pending = Some(command);
                return true;
            }
        }
        while left > 0 {
            left -= 1;
            let id = match self.flows.wheel.pop(&mut self.flows.table, now) {
                Popped::Fired(id) => EntryId(id),
                Popped::Moved => continue,
                Popped::Nothing => return false,
            };
            let done = match id.kind() {
                Kind::Request(index) => {
                    tcp_timer::reqsk_timer_handler(&self.env, &mut self.flows, index, now, &mut send)
                }
                Kind::Conn(index) => {
                    tcp_timer::tcp_write_timer(&self.env, &mut self.flows, index, now, &mut send)
                }
            };
            if !done {
                self.flows.arm(id, now);
                return true;
            }
        }
        true
    }

    /// When [`Self::tick`] next has something to do for a timer; `None` if none runs. Commands may come any time.
    pub fn next_timer(&self) -> Option<Nanos> {
        [self.flows.wheel.next_event(), self.flows.credits.next_sweep()].into_iter().flatten().min()
    }
}

/// How [`Core::tick`] passes on `send`: with the counters.
pub(crate) trait Send: FnMut(&Env, &Originated) -> bool {}

impl<F: FnMut(&Env, &Originated) -> bool> Send for F {}

#[inline]
fn count_out(snmp: &Snmp, segment: &OutSegment) {
    snmp.inc(Mib::OutSegs);
    if segment.flags & flag::RST != 0 {
        snmp.inc(Mib::OutRsts);
    }
}

/// The device that a flow's segments must come from: the one it came in on if the listener is bound, or the peer's
/// address is link-local and so means nothing elsewhere.
#[inline]
pub(crate) fn bound_dev(slot: &ListenSock, flow: &FlowKey, dev: DevIndex) -> DevIndex {
    let link_local = |addr: InetAddr| addr.hi() >> 54 == 0xfe80 >> 6;
    if slot.dev() != DevIndex::NONE || link_local(flow.saddr) { dev } else { DevIndex::NONE }
}

/// Milliseconds of the clock in 32 bits: what timestamps and rate limits count in.
#[inline]
pub(crate) fn clock_ms(now: Nanos) -> u32 {
    now.as_millis() as u32
}

const _: fn() = || {
    fn is_send<T: std::marker::Send>() {}
    is_send::<Core>();
};

#[cfg(all(test, not(loom)))]
pub(crate) mod tests;
