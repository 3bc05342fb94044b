//! A dry run: a frame goes through the stages that run, and TCP is answered by a core that shares nothing with those that
//! run ([`listener::core::dry_run`]). Counters, tables and queues are as before.

use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use listener::Stack;
use listener::columns::Answers;
use listener::core::dry_run::{Belongs, DryRun, HandedOver, Peek, Peeked};
use listener::drop_reason::DropReason;
use listener::inet_hashtables::{BucketOf, ListenKey, Tried, compute_score};
use listener::segment::{Outcome, Segment, Verdict};
use listener::types::{CoreId, DevIndex, InetAddr, ListenerId, TcpState};
use listener::vector::Vectors;
use std::net::{IpAddr, SocketAddr};

use super::proto::{AskWhy, Refusal, Why, WhyCandidate, WhyListener, WhyTried};
use super::server::Peer;
use super::service::{Desk, Devices, dev_index, local};
use crate::burst::{Fate, Head, Lanes, Plain};
use crate::hex;
use crate::io::mem::{BUFFER_LEN, Mem, MemConfig, MemFrame};
use crate::io::{Capabilities, Frame, PacketIo};
use crate::local::LocalTable;
use crate::stage::{self, parse::Columns};
use crate::summary::Summary;

/// How long cores may take to say what they know of a flow.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a dry run needs beyond the stack.
#[derive(Debug, Default)]
pub struct DryRuns {
    locals: Vec<Arc<LocalTable>>,
    ticket: u32,
    asking: Option<Asking>,
}

/// A question to the cores that is under way. There is one at a time: a core keeps one answer.
#[derive(Debug)]
struct Asking {
    client: u64,
    ticket: u32,
    since: Instant,
    /// By core.
    answers: Vec<Option<Peeked>>,
}

impl DryRuns {
    /// With what is local to each port, in their order.
    pub fn new(locals: Vec<Arc<LocalTable>>) -> Self {
        Self { locals, ticket: 0, asking: None }
    }

    /// The client does not wait any more.
    pub(super) fn gone(&mut self, client: u64) {
        self.asking.take_if(|asking| asking.client == client);
    }

    /// Begins to ask all cores what they know of the segment's flow.
    fn ask(&mut self, stack: &Stack, (client, cores): (u64, usize), seg: &Segment) {
        self.ticket = self.ticket.wrapping_add(1);
        let (ticket, since) = (self.ticket, Instant::now());
        for core in cores_of(cores) {
            stack.peek(core, Peek { ticket, flow: seg.flow, dev: seg.dev });
        }
        self.asking = Some(Asking { client, ticket, since, answers: vec![None; cores] });
    }

    /// What the cores have answered to this client's question, once all have or the patience with them is over; none if
    /// nobody has asked.
    fn answers(&mut self, stack: &Stack, client: u64) -> Poll<Option<Vec<Option<Peeked>>>> {
        let Some(asking) = &mut self.asking else { return Poll::Ready(None) };
        if asking.client != client {
            return Poll::Pending;
        }
        for (core, answer) in cores_of(asking.answers.len()).zip(&mut asking.answers) {
            *answer = answer.take().or_else(|| stack.peeked(core, asking.ticket));
        }
        if asking.answers.iter().any(Option::is_none) && asking.since.elapsed() < PATIENCE {
            return Poll::Pending;
        }
        Poll::Ready(self.asking.take().map(|asking| asking.answers))
    }
}

fn cores_of(count: usize) -> impl Iterator<Item = CoreId> {
    (0..u16::MAX).map(CoreId).take(count)
}

/// A frame on its way through the stages.
struct Walk {
    frames: [Option<MemFrame>; 1],
    vectors: Vectors,
    heads: [Head; 1],
    plain: Box<Plain>,
    segs: [Segment; 1],
    fates: [Fate; 1],
    lanes: Lanes,
}

impl Walk {
    /// Reads `bytes` as the port `dev` with `local` does; `to_us` as if they were sent to its MAC address.
    fn parse(bytes: &[u8], to_us: bool, local: &LocalTable, dev: DevIndex) -> Self {
        let (mut memory, _peer) = Mem::new(MemConfig { ring: 1, buffers: 1, ..MemConfig::default() });
        let mut frame = memory.alloc();
        if let Some(frame) = &mut frame {
            // The caller has seen to it that it fits.
            let _ = frame.fill(bytes);
            if let Some(dst) = frame.bytes_mut().first_chunk_mut::<6>().filter(|_| to_us) {
                *dst = local.mac().0;
            }
        }
        let mut walk = Self {
            frames: [frame],
            vectors: Vectors::best(),
            heads: [Head::default()],
            plain: Box::new(Plain::EMPTY),
            segs: [Segment::default()],
            fates: [Fate::Pending],
            lanes: Lanes::EMPTY,
        };
        let Self { frames, vectors, heads, plain, segs, fates, lanes } = &mut walk;
        stage::parse(frames, *vectors, local, dev, Columns { heads, plain, segs, fates, lanes });
        if !lanes.bare().is_empty() {
            plain.bare(0, dev, lanes, &mut segs[0]);
        }
        walk
    }

    /// Answers what is no TCP.
    fn others(&mut self, local: &LocalTable) {
        let Self { frames, heads, fates, lanes, .. } = self;
        stage::neighbour(frames, heads, fates, lanes, local);
        stage::echo(frames, heads, fates, lanes, local);
        // Whether it ends a handshake is not asked.
        if let (false, Some(frame)) = (lanes.errors.is_empty(), &frames[0]) {
            fates[0] = match stage::icmp_error::read(frame.bytes(), &heads[0], DevIndex::NONE) {
                Ok(_) => Fate::Consume(Outcome::Other),
                Err(reason) => Fate::Drop(reason),
            };
        }
    }

    /// Writes the answer to a segment.
    fn reply(&mut self, verdict: Verdict, local: &LocalTable) {
        self.fates[0] = Fate::Tcp(verdict);
        let Self { frames, vectors, heads, plain, segs, fates, lanes } = self;
        let mut answers = Answers::EMPTY;
        let columns = stage::reply::Columns { heads, plain, segs, answers: &mut answers, fates };
        stage::reply(frames, *vectors, columns, lanes, local, Capabilities::default());
        stage::reply::tell(&answers, fates);
    }

    /// True if no worker would see it where only SYNs come to workers. A SYN that is broken or not sent to us does.
    fn is_for_the_kernel(&self) -> bool {
        use DropReason::{EtherType, IpFragment, IpProto};
        match self.fates[0] {
            Fate::Drop(reason) => matches!(reason, EtherType | IpFragment | IpProto),
            _ => true,
        }
    }

    fn is_tcp(&self) -> bool {
        !self.lanes.tcp.is_empty()
    }
}

impl<D: Devices> Desk<D> {
    /// What would become of the frame: at once, or when the cores have said what they know of its flow.
    ///
    /// An error: it is no frame, it is too long (`EMSGSIZE`), there is no such port or core, or the core does not answer.
    pub fn why(&mut self, peer: Peer, ask: &AskWhy) -> Poll<Result<Why, Refusal>> {
        let answers = ready!(self.dry_runs.answers(&self.stack, peer.client));
        let (place, walk) = match self.walk(ask) {
            Ok(walk) => walk,
            Err(refusal) => return Poll::Ready(Err(refusal)),
        };
        if answers.is_none() && walk.is_tcp() {
            self.dry_runs.ask(&self.stack, (peer.client, self.cpus.len()), &walk.segs[0]);
            return Poll::Pending;
        }
        Poll::Ready(self.conclude(ask, (place, walk), &answers.unwrap_or_default()))
    }

    /// The frame's way up to what only cores know, and the port that it comes in on.
    fn walk(&self, ask: &AskWhy) -> Result<(usize, Walk), Refusal> {
        let bytes = hex::decode(&ask.frame).ok_or_else(|| Refusal::new("frame is not hexadecimal"))?;
        if bytes.len() > BUFFER_LEN {
            let len = bytes.len();
            let message = format!(
                "has {len} octets, and at most {BUFFER_LEN} can be tried; a capture on a host holds what its segmentation \
                 offload has put together, one on the wire does not"
            );
            return Err(Refusal { errno: Some("EMSGSIZE".into()), message });
        }
        let last = u16::try_from(self.cpus.len()).unwrap_or(u16::MAX).saturating_sub(1);
        if let Some(core) = ask.core.filter(|core| *core > last) {
            return Err(Refusal::new(format!("there is no core {core}; the cores are 0 to {last}")));
        }
        self.read(ask, &bytes)
    }

    /// The rest of the frame's way. `peeked` is what each core knows of its flow, as far as they have answered.
    fn conclude(
        &self,
        ask: &AskWhy,
        (place, mut walk): (usize, Walk),
        peeked: &[Option<Peeked>],
    ) -> Result<Why, Refusal> {
        let local = Arc::clone(&self.dry_runs.locals[place]);
        let bytes = hex::decode(&ask.frame).unwrap_or_default();
        let mut why = Why {
            frame: Summary::of(&bytes).to_string(),
            device: self.ports[place].clone(),
            core: ask.core.unwrap_or_default(),
            ..Why::default()
        };
        let seg = walk.is_tcp().then_some(&walk.segs[0]);
        if walk.is_for_the_kernel() && self.tell_way(&mut why, (place, &bytes), seg) {
            return Ok(why);
        }
        if walk.is_tcp() {
            let seg = walk.segs[0];
            let core = comes_to(ask.core, peeked)?;
            let HandedOver { dry, to } =
                self.stack.dry_run_among(core, &seg, peeked).map_err(|core| silent(Some(core)))?;
            why.core = core.0;
            why.owner = owner(peeked);
            why.counters = dry.counters.iter().map(|name| (*name).to_owned()).collect();
            if !to.is_empty() {
                why.counters.extend(["handed_over".to_owned(), "taken_over".to_owned()]);
            }
            why.handed_to = to.iter().map(|core| core.0).collect();
            self.explain(&mut why, core, &seg, &dry);
            walk.reply(dry.verdict, &local);
        } else {
            walk.others(&local);
        }
        tell(&mut why, &walk);
        Ok(why)
    }

    /// The port that takes the frame, and how it reads it: the one that is named, or else the first whose address it
    /// is sent to.
    fn read(&self, ask: &AskWhy, bytes: &[u8]) -> Result<(usize, Walk), Refusal> {
        let walk = |place: usize| {
            let local = &self.dry_runs.locals[place];
            (place, Walk::parse(bytes, ask.to_us, local, dev_index(place)))
        };
        if let Some(name) = &ask.device {
            let place = self.ports.iter().position(|port| port == name);
            let ports = self.ports.join(", ");
            let unknown = || Refusal::new(format!("there is no port \"{name}\"; the ports are: {ports}"));
            return place.map(walk).ok_or_else(unknown);
        }
        let ours = |(_, walk): &(usize, Walk)| matches!(walk.fates[0], Fate::Pending);
        let places = 0..self.dry_runs.locals.len();
        let found = places.map(walk).find(ours).or_else(|| (!self.ports.is_empty()).then(|| walk(0)));
        found.ok_or_else(|| Refusal::new("there is no port"))
    }

    fn explain(&self, why: &mut Why, core: CoreId, seg: &Segment, dry: &DryRun) {
        let key = ListenKey { flow: seg.flow, dev: seg.dev, core };
        let (belongs, id) = match dry.belongs {
            Belongs::Nobody => ("nobody: neither a connection nor a listener".to_owned(), None),
            Belongs::Listener(id) => ("a listener".to_owned(), Some(id)),
            Belongs::Request(id) => ("a half-open handshake of a listener".to_owned(), Some(id)),
            Belongs::Connection(state) => (format!("a connection in {}", state_name(state)), None),
        };
        why.belongs = Some(belongs);
        let looked = matches!(dry.belongs, Belongs::Nobody | Belongs::Listener(_));
        let first = dry.tried.iter().position(|tried| tried.found.is_some()).unwrap_or(1);
        let tried = if looked { &dry.tried[..=first] } else { &[] };
        let candidates = tried.iter().flat_map(|tried| tried.list.entries()).map(|entry| entry.id);
        let ids: Vec<ListenerId> = candidates.chain(id).collect();
        let rows = self.stack.rows_of(&ids);
        let fd_of = |id: ListenerId| {
            let place = ids.iter().position(|other| *other == id)?;
            rows[place].map(|row| row.fd.0)
        };
        why.tried = tried
            .iter()
            .zip(["exact", "any"])
            .map(|(tried, kind)| say_tried(tried, kind, &key, fd_of))
            .collect();
        if let (Some(id), Some(row)) = (id, id.and_then(|_| rows.last().copied().flatten())) {
            let half_open =
                self.stack.listen_socks().get(id).map_or(0, listener::listen_sock::ListenSock::qlen);
            why.listener = Some(WhyListener {
                fd: row.fd.0,
                local: local(&row),
                recv_q: row.recv_q,
                send_q: row.backlog,
                half_open,
            });
        }
    }
}

/// The core that the segment comes to: the one that is `wanted`, or that has an entry, or else the first that has answered.
fn comes_to(wanted: Option<u16>, peeked: &[Option<Peeked>]) -> Result<CoreId, Refusal> {
    let answered = || (0..).zip(peeked).find(|(_, answer)| answer.is_some()).map(|(core, _)| core);
    wanted.or_else(|| owner(peeked)).or_else(answered).map(CoreId).ok_or_else(|| silent(None))
}

/// The core that knows the flow.
fn owner(peeked: &[Option<Peeked>]) -> Option<u16> {
    let knows = |(_, peeked): &(u16, &Option<Peeked>)| peeked.as_ref().is_some_and(Peeked::has_entry);
    (0..).zip(peeked).find(knows).map(|(core, _)| core)
}

/// A core that was asked has not answered.
fn silent(core: Option<CoreId>) -> Refusal {
    let who = core.map_or_else(|| "no core".to_owned(), |core| format!("core {} has not", core.0));
    Refusal::new(format!("{who} answered within {PATIENCE:?}; see \"hearken stats\""))
}

fn say_tried(
    tried: &Tried,
    kind: &str,
    key: &ListenKey,
    fd_of: impl Fn(ListenerId) -> Option<u32>,
) -> WhyTried {
    let ipv4 = key.flow.is_v4();
    let entries = tried.list.entries();
    let candidates = entries.iter().map(|entry| WhyCandidate {
        fd: fd_of(entry.id),
        score: compute_score(entry, key, ipv4),
        reuseport: entry.reuseport,
        chosen: tried.found == Some(entry.id),
    });
    let chosen_by = tried.found.map(|id| match tried.list.group_of(id) {
        Some(group) if group.members().len() > 1 => {
            let place = group.members().iter().position(|member| member.id == id).unwrap_or(0);
            let (place, members) = (place + 1, group.members().len());
            format!(
                "member {place} of {members} of its reuseport group, by the flow's hash or the group's rule"
            )
        }
        _ if entries.len() > 1 => "the highest score".to_owned(),
        _ => "nobody else listens there".to_owned(),
    });
    let addr = tried.key.addr();
    let port = tried.key.port().0;
    let key = if addr == InetAddr::ANY_V4 {
        format!("*:{port}")
    } else {
        SocketAddr::new(IpAddr::from(addr), port).to_string()
    };
    let bucket = match tried.bucket {
        BucketOf::Port(port) => format!("place {port} of the array of wildcards"),
        BucketOf::Hashed { first, second, displaced: false, buckets } => {
            format!("bucket {first} of {buckets} (overflow to {second})")
        }
        BucketOf::Hashed { first, second, displaced: true, buckets } => {
            format!("bucket {second} of {buckets} (its first, {first}, was full)")
        }
    };
    WhyTried { kind: kind.to_owned(), key, bucket, candidates: candidates.collect(), chosen_by }
}

/// What the stages have made of the frame.
fn tell(why: &mut Why, walk: &Walk) {
    let (verdict, outcome) = match walk.fates[0] {
        Fate::Drop(reason) | Fate::Tcp(Verdict::Drop(reason)) => {
            why.verdict = "drop".into();
            why.reason = Some(reason.name().into());
            why.sentence = reason.sentence().into();
            return;
        }
        Fate::Ready(outcome) | Fate::Tcp(Verdict::Reply(outcome, _)) => ("reply", outcome),
        Fate::Consume(outcome) | Fate::Tcp(Verdict::Consume(outcome)) => ("consume", outcome),
        Fate::Pending => ("consume", Outcome::Other),
    };
    why.verdict = verdict.into();
    why.outcome = Some(outcome.name().into());
    why.sentence = outcome.sentence().into();
    if let (Fate::Ready(_), Some(frame)) = (walk.fates[0], &walk.frames[0]) {
        why.reply = Some(Summary::of(frame.bytes()).to_string());
        why.reply_frame = Some(hex::encode(frame.bytes()));
    }
}

const fn state_name(state: TcpState) -> &'static str {
    match state {
        TcpState::Close => "CLOSE",
        TcpState::Listen => "LISTEN",
        TcpState::SynSent => "SYN-SENT",
        TcpState::SynRecv => "SYN-RECEIVED",
        TcpState::Established => "ESTABLISHED",
        TcpState::CloseWait => "CLOSE-WAIT",
        TcpState::LastAck => "LAST-ACK",
        TcpState::FinWait1 => "FIN-WAIT-1",
        TcpState::FinWait2 => "FIN-WAIT-2",
        TcpState::Closing => "CLOSING",
        TcpState::TimeWait => "TIME-WAIT",
    }
}
