//! The short way of a SYN: answered as a row of columns.
//!
//! What is answered here is what nearly all SYNs of a port are answered alike: a SYN-ACK with a cookie, a SYN-ACK with a
//! request, the RST of a port where nobody listens. What they have in common is made once, by the functions that make
//! the answer to a segment. Anything else (a flow in the table, a queue that becomes full, the first cookie of a flood)
//! stops the row, and [`Core::rcv`] decides.

use super::{ColumnLookup, Hashed};
use crate::columns::{Answers, Columns, rows};
use crate::core::{Core, Env, Flows, clock_ms};
use crate::flow_hash::Ahead;
use crate::limits::BURST_MAX;
use crate::listen_sock::ListenSock;
use crate::request_sock::Request;
use crate::segment::{OutSegment, Outcome, Segment, TcpOptions, flag};
use crate::snmp::Mib;
use crate::syncookies;
use crate::tcp_input::{Place, Syn, inet_csk_reqsk_queue_hash_add, peer_mss, tcp_openreq_init};
use crate::tcp_output::{DSCP, mss_of, seq_scale, tcp_make_synack};
use crate::types::{DevIndex, ListenerRef, Nanos, Route, SegSeq};
use crate::vector;

/// What the answers to the SYNs of a listener, or of none, have in common.
#[derive(Clone, Copy)]
struct Template<'e> {
    control: u32,
    option: u32,
    tos: u32,
    how: How<'e>,
}

/// What else there is to be done.
#[derive(Clone, Copy)]
enum How<'e> {
    Reset,
    Cookie,
    Request { slot: &'e ListenSock, listener: ListenerRef, request: Request },
}

impl<'e> Template<'e> {
    /// `None` if `segment` is not one of columns.
    fn of(segment: &OutSegment, how: How<'e>) -> Option<Self> {
        let mut one = Answers::EMPTY;
        let plain = one.put(0, Outcome::Other, segment);
        plain.then_some(Self { control: one.control[0], option: one.option[0], tos: one.tos[0], how })
    }

    /// The RSTs of a port where nobody listens; their TOS is that of the SYN.
    const RESET: Self = Self {
        control: crate::columns::control(flag::RST | flag::ACK, 0, false),
        option: 0,
        tos: 0,
        how: How::Reset,
    };
}

/// What an answer with a cookie depends on where the listener does not clamp the MSS, and what it is then.
#[derive(Clone, Copy, Debug)]
pub(super) struct CookieAnswer {
    dev: DevIndex,
    listener_tos: u8,
    words: [u32; 3],
}

/// What all steps go by.
#[derive(Clone, Copy)]
struct Cx<'e, 'c> {
    env: &'e Env,
    columns: &'c Columns,
    now: Nanos,
}

/// SYNs that were answered, by kind.
#[derive(Clone, Copy, Default)]
struct Answered {
    rows: u64,
    resets: u64,
    cookies: u64,
}

impl Core {
    /// Answers the rows `set`, which are SYNs, in order, up to the first that only [`Core::rcv`] can answer. Returns those
    /// that were answered, each as [`Core::rcv`] would have; `route` says where the answer of a row goes.
    #[inline]
    pub fn answer_syns(
        &mut self,
        columns: &Columns,
        set: u64,
        route: impl Fn(usize) -> Route,
        now: Nanos,
        answers: &mut Answers,
    ) -> u64 {
        let Self { env, flows, columns: own, .. } = self;
        // All rows in front of the first one whose flow is known.
        let known = set & own.known;
        let set = set & !(known | known.wrapping_neg());
        if set == 0 {
            return 0;
        }
        let cx = Cx { env, columns, now };
        let alike =
            own.alike.is_some() && answers.rows == 0 && !flows.has_fresh() && flows.rst_limit.is_off();
        let answered = match if alike { own.answer_alike(cx, flows, set, answers) } else { None } {
            Some(answered) => answered,
            None => own.answer_each(cx, flows, set, route, answers),
        };
        let count = u64::from(answered.rows.count_ones());
        if count != 0 {
            let snmp = env.snmp();
            snmp.add(Mib::InSegs, count);
            snmp.add(Mib::OutSegs, count);
            snmp.add(Mib::OutRsts, answered.resets);
            snmp.add(Mib::TCPReqQFullDoCookies, answered.cookies);
            snmp.add(Mib::SyncookiesSent, answered.cookies);
        }
        answered.rows
    }
}

impl ColumnLookup {
    /// Answers rows that all have the same listener, or none, all at once, if nothing has to be kept of them. All other rows
    /// are written as well, so these must be the first of the burst.
    #[inline]
    fn answer_alike(
        &mut self,
        cx: Cx<'_, '_>,
        flows: &Flows,
        set: u64,
        answers: &mut Answers,
    ) -> Option<Answered> {
        let columns = cx.columns;
        let first = set.trailing_zeros() as usize % BURST_MAX;
        let reset = self.listener_of(first).1 & 1 == 0;
        let template = if reset { Template::RESET } else { self.template_of(cx, flows, first)? };
        let Template { control, option, tos, how } = template;
        let outcome = match how {
            How::Reset => Outcome::Rst,
            How::Cookie => Outcome::SynAck,
            How::Request { .. } => return None,
        };
        let numbers = if reset { &[0; BURST_MAX] } else { &self.cookies };
        let tos = if reset { Tos::OfSyn } else { Tos::Is(tos) };
        self.vectors.run(
            #[inline(always)]
            |_| {
                let Answers { seq, ack, control: controls, option: options, tos: all_tos, .. } =
                    &mut *answers;
                alike(columns, numbers, set, (control, option, tos), [seq, ack, controls, options, all_tos]);
            },
        );
        answers.add(set, outcome, option != 0);
        let count = u64::from(set.count_ones());
        let (resets, cookies) = if reset { (count, 0) } else { (0, count) };
        Some(Answered { rows: set, resets, cookies })
    }

    /// Answers rows one by one.
    #[inline]
    fn answer_each(
        &mut self,
        cx: Cx<'_, '_>,
        flows: &mut Flows,
        set: u64,
        route: impl Fn(usize) -> Route,
        answers: &mut Answers,
    ) -> Answered {
        let Cx { env, columns, now } = cx;
        if !self.flow_hashed {
            self.hash_flows(&flows.table, columns);
        }
        let (mut last, mut template) = (None, None);
        let mut answered = Answered::default();
        for row in rows(set) {
            let known = |hash| flows.table.lookup(hash, &columns.flow(row), self.dev).is_some();
            if flows.is_fresh(self.hash[row]) && known(self.hash[row]) {
                break;
            }
            let listener = self.listener_of(row);
            if listener.1 & 1 == 0 {
                template = flows.rst_limit.take(now).then_some(Template::RESET);
                last = None;
            } else if last != Some(listener) {
                template = self.template_of(cx, flows, row);
                last = Some(listener);
            }
            let Some(Template { control, option, tos, how }) = &template else { break };
            let (seq, tos, outcome) = match how {
                How::Reset => (0, columns.tos[row] & u32::from(DSCP), Outcome::Rst),
                How::Cookie => (self.cookies[row], *tos, Outcome::SynAck),
                How::Request { slot, listener, request } => {
                    let iss = seq_scale(self.hashes[0][row], now);
                    let mss = peer_mss(true, columns.mss[row] as u16, slot.mss_clamp());
                    let irs = SegSeq(columns.seq[row]);
                    let request = Request { route: route(row), irs, iss, mss, ..*request };
                    let (hash, dev) = (self.hash[row], self.dev);
                    let place = Place { flow: columns.flow(row), hash, dev, listener: *listener, slot };
                    if !queue(env, flows, &place, &request, now) {
                        break;
                    }
                    (iss.0, *tos, Outcome::SynAck)
                }
            };
            answers.seq[row] = seq;
            answers.ack[row] = columns.seq[row].wrapping_add(1);
            answers.control[row] = *control;
            answers.option[row] = *option;
            answers.tos[row] = tos;
            answers.add(1 << row, outcome, *option != 0);
            answered.rows |= 1 << row;
            answered.resets += u64::from(matches!(how, How::Reset));
            answered.cookies += u64::from(matches!(how, How::Cookie));
        }
        answered
    }

    /// What the answers of the listener of row `row` have in common. One that has no such answers now is not asked again
    /// in the burst.
    #[inline]
    fn template_of<'e>(&mut self, cx: Cx<'e, '_>, flows: &Flows, row: usize) -> Option<Template<'e>> {
        let (id, generation) = self.listener_of(row);
        let listener = ListenerRef { id: id?, generation };
        if self.refused == Some(listener) {
            return None;
        }
        let template = self.template(cx, flows, row, listener);
        if template.is_none() {
            self.refused = Some(listener);
        }
        template
    }

    /// What is tested here is what [`crate::tcp_input::tcp_conn_request`] tests, in its order; besides, that the hashes
    /// were made for what comes of it.
    #[inline(never)]
    fn template<'e>(
        &mut self,
        cx: Cx<'e, '_>,
        flows: &Flows,
        row: usize,
        listener: ListenerRef,
    ) -> Option<Template<'e>> {
        let Cx { env, now, .. } = cx;
        let slot = env.listening(listener)?;
        let syncookies = env.sysctl.tcp_syncookies;
        if env.draining || syncookies == 0 || env.sysctl.tcp_reflect_tos || slot.acceptq_is_full() {
            return None;
        }
        let crowded = is_crowded(flows, slot, listener);
        let cookie = syncookies == 2 || crowded;
        if syncookies != 2 && crowded && !slot.synflood_warned() {
            return None;
        }
        let made = if cookie { Hashed::Cookie(syncookies::count(now)) } else { Hashed::Isn };
        if self.hashed != made || flows.cookies != cookie || cookie && slot.mss_clamp() != 0 {
            return None;
        }
        if cookie {
            if let Some(stamp) = env.socks.get(slot.synq_slot()) {
                stamp.synq_overflow(now);
            }
            if let Some(CookieAnswer { dev, listener_tos, words: [control, option, tos] }) =
                self.cookie_answer
                && (dev, listener_tos) == (self.dev, slot.tos())
            {
                return Some(Template { control, option, tos, how: How::Cookie });
            }
        }
        let mut request = self.request(cx, row, (listener, slot), cookie);
        let segment = tcp_make_synack(&request, 0);
        if cookie {
            let made = Template::of(&segment, How::Cookie)?;
            let words = [made.control, made.option, made.tos];
            // The listener's clamp may have changed since it was asked for.
            if request.advmss == mss_of(env.mtu(self.dev), true) {
                let (dev, listener_tos) = (self.dev, request.tos);
                self.cookie_answer = Some(CookieAnswer { dev, listener_tos, words });
            }
            return Some(made);
        }
        request.snt_tsval_first = clock_ms(now);
        request.snt_tsval_last = request.snt_tsval_first;
        Template::of(&segment, How::Request { slot, listener, request })
    }

    /// The request of the SYN in row `row`.
    fn request(
        &self,
        cx: Cx<'_, '_>,
        row: usize,
        (listener, slot): (ListenerRef, &ListenSock),
        cookie: bool,
    ) -> Request {
        let options = TcpOptions { mss: cx.columns.mss[row] as u16, ..TcpOptions::default() };
        let (flow, dev) = (cx.columns.flow(row), self.dev);
        let seg = Segment { flow, dev, flags: flag::SYN, options, ..Segment::default() };
        let syn = Syn { seg: &seg, hash: 0, listener, slot, tw_isn: None, ahead: Ahead::None };
        tcp_openreq_init(cx.env, &syn, cookie)
    }
}

/// The TOS of answers.
#[derive(Clone, Copy)]
enum Tos {
    Is(u32),
    OfSyn,
}

/// The answers to rows that are all answered alike, but for their `numbers`.
#[inline(always)]
fn alike(
    columns: &Columns,
    numbers: &[u32; BURST_MAX],
    set: u64,
    (control, option, tos): (u32, u32, Tos),
    [seq, ack, controls, options, all_tos]: [&mut [u32; BURST_MAX]; 5],
) {
    let (mask, tos) = match tos {
        Tos::Is(tos) => (0, tos),
        Tos::OfSyn => (u32::from(DSCP), 0),
    };
    for row in 0..vector::whole(BURST_MAX - set.leading_zeros() as usize) {
        seq[row] = numbers[row];
        ack[row] = columns.seq[row].wrapping_add(1);
        controls[row] = control;
        options[row] = option;
        all_tos[row] = columns.tos[row] & mask | tos;
    }
}

/// True if a SYN of this listener would get a cookie.
#[inline]
fn is_crowded(flows: &Flows, slot: &ListenSock, listener: ListenerRef) -> bool {
    flows.table.requests.is_full() || flows.credits.request_queue_is_full(slot, listener)
}

/// Makes a request, if there is a place for it.
#[inline]
fn queue(env: &Env, flows: &mut Flows, place: &Place<'_>, request: &Request, now: Nanos) -> bool {
    let Place { slot, listener, .. } = *place;
    !is_crowded(flows, slot, listener)
        && flows.credits.take(&env.socks, slot, listener, now).is_ok()
        && inet_csk_reqsk_queue_hash_add(env, flows, place, request, now)
}
