//! The short way of a SYN: answered as a row of columns.
//!
//! What is answered here is what nearly all SYNs of a port are answered alike: a SYN-ACK with a cookie, a SYN-ACK with a
//! request, the RST of a port where nobody listens. What they have in common is made once, by the functions that make
//! the answer to a segment. Anything else (a flow in the table, a queue that becomes full, the first cookie of a flood)
//! stops the row, and [`Core::rcv`] decides.

use super::{ColumnLookup, Hashed};
use crate::columns::{Answers, Carries, Columns, Words, rows};
use crate::core::{Core, Env, Flows, clock_ms};
use crate::flow_hash::Ahead;
use crate::limits::BURST_MAX;
use crate::listen_sock::ListenSock;
use crate::request_sock::Request;
use crate::segment::{OutSegment, Outcome, Segment, flag};
use crate::snmp::Mib;
use crate::syncookies::{self, CookieOptions};
use crate::tcp_input::{
    Place, Syn, TCP_MAX_WSCALE, inet_csk_reqsk_queue_hash_add, peer_mss, tcp_openreq_init,
};
use crate::tcp_output::{DSCP, mss_of, seq_scale, tcp_make_synack};
use crate::types::{DevIndex, ListenerRef, Nanos, Route, SegSeq, Then};
use crate::vector;

/// What the answers to the SYNs of a listener, or of none, have in common.
#[derive(Clone, Copy)]
struct Template<'e> {
    control: u32,
    option: u32,
    tos: u32,
    carries: Carries,
    /// Our window scale, with all options.
    wscale: u32,
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
    /// `None` if `segment` is not one of columns, or has all options though the SYN was not `full`, or the other way round.
    #[inline(always)]
    fn of(segment: &OutSegment, full: bool, how: How<'e>) -> Option<Self> {
        let words = Words::of(segment).filter(|words| full == (words.carries == Carries::All))?;
        let Words { control, option, carries, wscale } = words;
        Some(Self { control, option, tos: u32::from(segment.tos), carries, wscale, how })
    }

    /// The RSTs of a port where nobody listens; their TOS is that of the SYN.
    const RESET: Self = Self {
        control: crate::columns::control(flag::RST | flag::ACK, 0, Carries::Nothing),
        option: 0,
        tos: 0,
        carries: Carries::Nothing,
        wscale: 0,
        how: How::Reset,
    };
}

/// What an answer with a cookie depends on where the listener does not clamp the MSS, and what it is then.
#[derive(Clone, Copy, Debug)]
pub(super) struct CookieAnswer {
    dev: DevIndex,
    listener_tos: u8,
    rcvbuf: u32,
    words: [u32; 4],
    carries: Carries,
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

impl Answered {
    /// The rows `run` have their answers, all by `template`.
    #[inline(always)]
    fn add(&mut self, run: u64, template: Option<&Template<'_>>, answers: &mut Answers) {
        let Some(Template { how, carries, .. }) = template else { return };
        let count = u64::from(run.count_ones());
        let outcome = match how {
            How::Reset => Outcome::Rst,
            How::Cookie | How::Request { .. } => Outcome::SynAck,
        };
        self.rows |= run;
        match how {
            How::Reset => self.resets += count,
            How::Cookie => self.cookies += count,
            How::Request { .. } => {}
        }
        answers.add(run, outcome, *carries);
    }
}

impl Core {
    /// Answers the rows `set`, which are SYNs, all of [`crate::columns::Sets::full`] or all of
    /// [`crate::columns::Sets::syns`], in order, up to the first that only [`Core::rcv`] can answer. Returns those that were
    /// answered, each as [`Core::rcv`] would have; `route` says where the answer of a row goes.
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
        let Template { control, option, tos, carries, wscale, how } = template;
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
        if carries == Carries::All {
            self.stamp_alike(cx, set, wscale, answers);
        }
        answers.add(set, outcome, carries);
        let count = u64::from(set.count_ones());
        let (resets, cookies) = if reset { (count, 0) } else { (0, count) };
        Some(Answered { rows: set, resets, cookies })
    }

    /// What answers with cookies have besides where SYNs have all options.
    #[inline(never)]
    fn stamp_alike(&self, cx: Cx<'_, '_>, set: u64, scale: u32, answers: &mut Answers) {
        let Cx { columns, now, .. } = cx;
        let (clock, ts_off) = (clock_ms(now), &self.ts_off);
        self.vectors.run(
            #[inline(always)]
            |_| {
                let Answers { tsval, tsecr, wscale, .. } = &mut *answers;
                stamp(columns, (clock, ts_off), set, tsval);
                *tsecr = columns.tsval;
                *wscale = [scale; BURST_MAX];
            },
        );
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
        let Cx { columns, now, .. } = cx;
        if !self.flow_hashed {
            self.hash_flows(&flows.table, columns);
        }
        let full = self.full & set != 0;
        let (mut answered, mut run) = (Answered::default(), 0);
        // Of the rows of `run`.
        let (mut of, mut template) = (None, None);
        for row in rows(set) {
            let known = |hash| flows.table.lookup(hash, &columns.flow(row), self.dev).is_some();
            if flows.is_fresh(self.hash[row]) && known(self.hash[row]) {
                break;
            }
            let (id, generation) = self.listener_of(row);
            let listener = if generation & 1 == 1 { id } else { None };
            if of != Some((listener, generation)) {
                answered.add(std::mem::take(&mut run), template.as_ref(), answers);
                of = Some((listener, generation));
                template = match listener {
                    Some(_) => self.template_of(cx, flows, row),
                    None => Some(Template::RESET),
                };
            }
            let Some(Template { control, option, tos, wscale, how, .. }) = &template else { break };
            let (mut tos, mut ts) = (*tos, clock_ms(now));
            answers.seq[row] = match how {
                How::Reset if !flows.rst_limit.take(now) => break,
                How::Reset => {
                    tos = columns.tos[row] & u32::from(DSCP);
                    0
                }
                How::Cookie => {
                    ts = cookie_ts(ts, columns.wscale[row]);
                    self.cookies[row]
                }
                How::Request { slot, listener, request } => {
                    let request = Request { route: route(row), ..*request };
                    let request = self.request_of(columns, row, (request, full), slot, now);
                    let (hash, dev) = (self.hash[row], self.dev);
                    let place = Place { flow: columns.flow(row), hash, dev, listener: *listener, slot };
                    if !queue(cx.env, flows, &place, &request, now) {
                        break;
                    }
                    request.iss.0
                }
            };
            answers.ack[row] = columns.seq[row].wrapping_add(1);
            answers.control[row] = *control;
            answers.option[row] = *option;
            answers.tos[row] = tos;
            if full {
                answers.tsval[row] = ts.wrapping_add(self.ts_off[row]);
                answers.tsecr[row] = columns.tsval[row];
                answers.wscale[row] = *wscale;
            }
            run |= 1 << row;
        }
        answered.add(run, template.as_ref(), answers);
        answered
    }

    /// The request of row `row`, of what is the same for all of its listener's.
    #[inline(always)]
    fn request_of(
        &self,
        columns: &Columns,
        row: usize,
        (request, full): (Request, bool),
        slot: &ListenSock,
        now: Nanos,
    ) -> Request {
        let mut request = request;
        request.iss = seq_scale(self.hashes[0][row], now);
        request.mss = peer_mss(true, columns.mss[row] as u16, slot.mss_clamp());
        request.irs = SegSeq(columns.seq[row]);
        if full {
            request.ts_recent = columns.tsval[row];
            request.ts_off = self.ts_off[row];
            request.snd_wscale = Some((columns.wscale[row] as u8).min(TCP_MAX_WSCALE));
        }
        request
    }

    /// What the answers of the listener of row `row` have in common. One that has no such answers now is not asked again
    /// in the burst.
    #[inline]
    fn template_of<'e>(&mut self, cx: Cx<'e, '_>, flows: &Flows, row: usize) -> Option<Template<'e>> {
        let (id, generation) = self.listener_of(row);
        let listener = ListenerRef { id: id?, generation };
        let full = self.full >> row & 1 == 1;
        if self.refused == Some((listener, full)) {
            return None;
        }
        let template = self.template(cx, flows, row, (listener, full));
        if template.is_none() {
            self.refused = Some((listener, full));
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
        (listener, full): (ListenerRef, bool),
    ) -> Option<Template<'e>> {
        let Cx { env, now, .. } = cx;
        let slot = env.listening(listener)?;
        let syncookies = env.sysctl.tcp_syncookies;
        if env.draining
            || syncookies == 0
            || slot.then() == Then::Kernel
            || env.sysctl.tcp_reflect_tos
            || slot.acceptq_is_full()
        {
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
            if let Some(answer) = &self.cookie_answers[usize::from(full)]
                && (answer.dev, answer.listener_tos, answer.rcvbuf) == (self.dev, slot.tos(), slot.rcvbuf())
            {
                let CookieAnswer { words: [control, option, tos, wscale], carries, .. } = *answer;
                return Some(Template { control, option, tos, carries, wscale, how: How::Cookie });
            }
        }
        let mut request = self.request(cx, row, (listener, slot), cookie);
        let segment = tcp_make_synack(&request, 0);
        if cookie {
            let made = Template::of(&segment, full, How::Cookie)?;
            let (words, carries) = ([made.control, made.option, made.tos, made.wscale], made.carries);
            // The listener's clamp may have changed since it was asked for.
            if request.advmss == mss_of(env.mtu(self.dev), true) {
                let (dev, listener_tos, rcvbuf) = (self.dev, request.tos, slot.rcvbuf());
                self.cookie_answers[usize::from(full)] =
                    Some(CookieAnswer { dev, listener_tos, rcvbuf, words, carries });
            }
            return Some(made);
        }
        request.snt_tsval_first = clock_ms(now);
        request.snt_tsval_last = request.snt_tsval_first;
        Template::of(&segment, full, How::Request { slot, listener, request })
    }

    /// The request of the SYN in row `row`.
    fn request(
        &self,
        cx: Cx<'_, '_>,
        row: usize,
        (listener, slot): (ListenerRef, &ListenSock),
        cookie: bool,
    ) -> Request {
        let options = cx.columns.options(row, self.full >> row & 1 == 1);
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

/// TSval, before the offset, of a cookie for a SYN with all options.
#[inline(always)]
const fn cookie_ts(clock: u32, wscale: u32) -> u32 {
    let greatest = TCP_MAX_WSCALE as u32;
    let wscale = if wscale < greatest { wscale } else { greatest };
    let options = CookieOptions { wscale: Some(wscale as u8), sack: true, ecn: false };
    syncookies::cookie_init_timestamp(clock, options)
}

/// TSval of cookies for rows of SYNs with all options.
#[inline(always)]
fn stamp(
    columns: &Columns,
    (clock, ts_off): (u32, &[u32; BURST_MAX]),
    set: u64,
    tsval: &mut [u32; BURST_MAX],
) {
    for row in 0..vector::whole(BURST_MAX - set.leading_zeros() as usize) {
        tsval[row] = cookie_ts(clock, columns.wscale[row]).wrapping_add(ts_off[row]);
    }
}

/// True if a SYN of this listener would get a cookie.
#[inline]
fn is_crowded(flows: &Flows, slot: &ListenSock, listener: ListenerRef) -> bool {
    flows.table.requests.is_full() || flows.credits.request_queue_is_full(slot, listener)
}

/// Makes a request, if there is a place for it: if not, its SYN would get a cookie ([`is_crowded`]).
#[inline(always)]
fn queue(env: &Env, flows: &mut Flows, place: &Place<'_>, request: &Request, now: Nanos) -> bool {
    let Place { slot, listener, .. } = *place;
    !flows.table.requests.is_full()
        && flows.credits.take(&env.socks, slot, listener, now).is_ok()
        && inet_csk_reqsk_queue_hash_add(env, flows, place, request, now)
}
