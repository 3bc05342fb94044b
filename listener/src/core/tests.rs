//! Golden traces: literal segments in, literal segments out, under a clock that the test moves.

mod cookies;
mod dry_run;
mod handshake;
mod icmp;
mod listeners;
mod live;
mod prop_window;
mod random;
mod receive;
mod table_g;
mod time_wait;
mod timers;

use super::*;
use crate::config::{Device, Secret};
use crate::conn_shared::ChildRef;
use crate::drop_reason::DropReason;
use crate::inet_hashtables::{HashKey, ListEntry};
use crate::limits::Limits;
use crate::listen_sock::ListenParams;
use crate::segment::{FlowKey, Outcome, TcpOptions};
use crate::types::{Backlog, ListenerId, Route, SegSeq, TcpPort, Then};

pub const DEV: DevIndex = DevIndex(1);
pub const IRS: SegSeq = SegSeq(1000);

pub const SYN: u8 = flag::SYN;
pub const ACK: u8 = flag::ACK;
pub const FIN: u8 = flag::FIN;
pub const RST: u8 = flag::RST;
pub const PSH: u8 = flag::PSH;

/// One core, its listeners, and a clock.
pub struct World {
    pub core: Core,
    pub socks: Arc<ListenSocks>,
    pub hash: Arc<ListenHash>,
    pub shared: Arc<CoreShared>,
    pub now: Nanos,
}

impl World {
    pub fn new() -> Self {
        Self::with(Sysctl::default(), Limits::TINY)
    }

    pub fn with_sysctl(change: impl FnOnce(&mut Sysctl)) -> Self {
        let mut sysctl = Sysctl::default();
        change(&mut sysctl);
        Self::with(sysctl, Limits::TINY)
    }

    pub fn with(sysctl: Sysctl, limits: Limits) -> Self {
        let device = Device {
            name: "wire0".into(),
            index: DEV,
            addresses: vec![(local(), 24)],
            any_ip: Vec::new(),
            mtu: 1500,
        };
        let config =
            StackConfig { sysctl, devices: vec![device], cores: 1, limits, secret: Secret::from_seed(7) };
        let socks = Arc::new(ListenSocks::new(limits.listeners_max));
        let hash = Arc::new(ListenHash::new(limits.listeners_max, config.secret.listen_hash));
        let shared = Arc::new(CoreShared::new(CoreId(0), limits.connections_per_core));
        let core = Core::new(&config, Arc::clone(&socks), Arc::clone(&hash), Arc::clone(&shared));
        Self { core, socks, hash, shared, now: Nanos::from_secs(1000) }
    }

    /// Opens a listener on [`local`], port 80.
    pub fn listen(&self, params: ListenParams) -> ListenerRef {
        self.listen_at(TcpPort(80), params)
    }

    /// Opens a listener on [`local`].
    pub fn listen_at(&self, port: TcpPort, params: ListenParams) -> ListenerRef {
        let id = self.socks.alloc().expect("room");
        let listener = self.slot(id).open(id, &params);
        let entry = ListEntry { dev: params.dev, ipv6: params.v6_family, ..ListEntry::v4(id) };
        let key = HashKey::new(if params.v6_family { local6() } else { local() }, port);
        self.hash.update(key, |list| list.inet_hash(entry)).expect("room").expect("no group");
        listener
    }

    pub fn listen_backlog(&self, backlog: u32, then: Then) -> ListenerRef {
        self.listen(ListenParams { backlog: Backlog(backlog), then, ..ListenParams::default() })
    }

    /// What close(2) does, up to what becomes of the children.
    pub fn unlisten(&self, listener: ListenerRef) -> Vec<ChildRef> {
        for addr in [local(), local6()] {
            let key = HashKey::new(addr, TcpPort(80));
            self.hash.update(key, |list| list.inet_unhash(listener.id, false)).expect("no more than before");
        }
        let mut children = Vec::new();
        let cores = [Arc::clone(&self.shared)];
        self.slot(listener.id).close(&cores, |child| children.push(child));
        children
    }

    pub fn slot(&self, id: ListenerId) -> &ListenSock {
        self.socks.get(id).expect("a slot that was given out")
    }

    /// As the control side: takes the queue and accepts all of it.
    pub fn accept_all(&self, listener: ListenerRef) -> Vec<ChildRef> {
        let mut children = Vec::new();
        let slot = self.slot(listener.id);
        slot.acceptq_take(&[Arc::clone(&self.shared)], |child| children.push(child));
        children.iter().for_each(|_| slot.acceptq_release(listener.generation));
        children
    }

    pub fn rcv(&mut self, seg: Segment) -> Verdict {
        let mut found = [Found::default()];
        self.core.lookup_burst(&[seg], 1, &mut found);
        self.core.rcv(&seg, found[0], self.now)
    }

    /// The answer, which must be one.
    pub fn reply(&mut self, seg: Segment) -> OutSegment {
        match self.rcv(seg) {
            Verdict::Reply(_, segment) => segment,
            other => panic!("an answer was due to {seg:?}, not {other:?}"),
        }
    }

    pub fn dropped(&mut self, seg: Segment) -> DropReason {
        match self.rcv(seg) {
            Verdict::Drop(reason) => reason,
            other => panic!("{seg:?} was to be dropped, not {other:?}"),
        }
    }

    pub fn tick(&mut self) -> Vec<OutSegment> {
        let mut sent = Vec::new();
        self.core.tick(self.now, usize::MAX, |originated| {
            sent.push(originated.segment);
            true
        });
        sent
    }

    /// Lets time pass, from timer to timer; what was sent, and how many ms after the start.
    pub fn pass(&mut self, time: Nanos) -> Vec<(u64, OutSegment)> {
        let start = self.now;
        let end = start + time;
        let mut sent = Vec::new();
        loop {
            self.now = self.core.next_timer().unwrap_or(end).max(self.now).min(end);
            let at = self.now.since(start) / 1_000_000;
            sent.extend(self.tick().into_iter().map(|segment| (at, segment)));
            if self.now == end && self.core.next_timer().is_none_or(|next| next > end) {
                return sent;
            }
        }
    }

    /// A SYN and the ACK to what came back; the SYN-ACK.
    pub fn connect(&mut self, sport: u16) -> OutSegment {
        let synack = self.reply(syn(sport));
        let verdict = self.rcv(ack_of(sport, &synack));
        assert!(matches!(verdict, Verdict::Consume(Outcome::Accept) | Verdict::Reply(Outcome::Accept, _)));
        synack
    }

    pub fn count(&self, counter: Mib) -> u64 {
        self.shared.snmp().get(counter)
    }

    /// Counters that are not 0, but for the plain totals.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let totals = [Mib::InSegs, Mib::OutSegs];
        let counters = Mib::ALL.iter().filter(|counter| !totals.contains(counter));
        counters
            .map(|&counter| (counter.name(), self.count(counter)))
            .filter(|&(_, value)| value != 0)
            .collect()
    }
}

pub fn local() -> InetAddr {
    InetAddr::v4(0xc612_0001)
}

pub fn local6() -> InetAddr {
    InetAddr::v6(0x2001_0db8 << 32, 1)
}

pub fn flow(sport: u16) -> FlowKey {
    FlowKey { saddr: InetAddr::v4(0xc612_0002), daddr: local(), sport: TcpPort(sport), dport: TcpPort(80) }
}

pub fn flow6(sport: u16) -> FlowKey {
    let saddr = InetAddr::v6(0x2001_0db8 << 32, 2);
    FlowKey { saddr, daddr: local6(), sport: TcpPort(sport), dport: TcpPort(80) }
}

/// A segment without data and options.
pub fn seg(sport: u16, flags: u8, seq: SegSeq, ack: SegSeq) -> Segment {
    Segment {
        flow: flow(sport),
        dev: DEV,
        flags,
        wnd: 64_240,
        seq,
        ack,
        route: Route([9; 6]),
        ..Segment::default()
    }
}

/// A SYN with an MSS and nothing else.
pub fn syn(sport: u16) -> Segment {
    let options = TcpOptions { mss: 1460, ..TcpOptions::default() };
    Segment { options, ..seg(sport, SYN, IRS, SegSeq(0)) }
}

/// A SYN as Linux sends it.
pub fn syn_full(sport: u16, tsval: u32) -> Segment {
    let options = TcpOptions { mss: 1460, wscale: Some(7), sack_perm: true, timestamps: Some((tsval, 0)) };
    Segment { options, ..syn(sport) }
}

/// The client's next segment after `synack`, a bare ACK.
pub fn ack_of(sport: u16, synack: &OutSegment) -> Segment {
    let timestamps = synack.options.timestamps.map(|(tsval, tsecr)| (tsecr + 1, tsval));
    let options = TcpOptions { timestamps, ..TcpOptions::default() };
    Segment { options, ..seg(sport, ACK, synack.ack, synack.seq.plus(1)) }
}

pub fn data(mut seg: Segment, len: u16) -> Segment {
    seg.payload_len = len;
    seg
}

pub fn flags(mut seg: Segment, flags: u8) -> Segment {
    seg.flags = flags;
    seg
}
