//! Where a segment goes: to a connection, a request, a listener, or nobody; and the RST that nobody sends.

use crate::core::hand_off::STRAY;
use crate::core::{Env, Flows, Found, What};
use crate::drop_reason::DropReason;
use crate::ehash::{EntryId, Kind};
use crate::flow_hash::Ahead;
use crate::segment::{Outcome, Segment, Verdict, flag};
use crate::snmp::Mib;
use crate::tcp;
use crate::tcp_input::{Syn, tcp_conn_request};
use crate::tcp_minisocks::{tcp_check_req, tcp_v4_cookie_check};
use crate::tcp_output::tcp_send_reset;
use crate::tcp_timewait::timewait_rcv;
use crate::types::{ListenerRef, Nanos, SegSeq, Then};

/// What a step says about a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// It is dealt with.
    Done(Verdict),
    /// It goes on to this listener.
    Listen(ListenerRef),
    /// It is a SYN that takes the place of a TIME_WAIT entry, with this ISN of ours.
    Recycle(ListenerRef, SegSeq),
    /// What it belonged to is gone; it is looked up once more among the listeners.
    Lookup,
}

/// Answers one segment.
///
/// # Source
/// Linux v6.18 `tcp_v4_rcv`, `tcp_v4_do_rcv` (net/ipv4/tcp_ipv4.c), `tcp_v6_rcv`, `tcp_v6_do_rcv`.
#[inline]
pub(crate) fn tcp_v4_rcv(
    env: &Env,
    flows: &mut Flows,
    seg: &Segment,
    found: Found,
    now: Nanos,
    verdict: &mut Verdict,
) {
    let Found { hash, what, .. } = found;
    let mut ahead = Ahead::None;
    let mut next = match what {
        What::None => return no_socket(flows, seg, now, verdict),
        What::Listener(listener, hashed) => {
            ahead = hashed;
            Next::Listen(listener)
        }
        What::Flow { id, .. } => flow(env, flows, id, seg, now),
    };
    // A listener that closes under our hands is looked for once more, as in the kernel; then there is none.
    for _ in 0..2 {
        let (listener, tw_isn) = match next {
            Next::Done(done) => {
                // By kind: of most kinds a few octets, where a copy of the whole would wait for them to be written.
                *verdict = match done {
                    Verdict::Drop(reason) => Verdict::Drop(reason),
                    Verdict::Consume(outcome) => Verdict::Consume(outcome),
                    reply @ Verdict::Reply(..) => reply,
                };
                return;
            }
            Next::Listen(listener) => (listener, None),
            Next::Recycle(listener, isn) => (listener, Some(isn)),
            Next::Lookup => match env.lookup_listener(seg) {
                Some(listener) => (listener, None),
                None => break,
            },
        };
        match env.listening(listener) {
            Some(slot) => {
                return listen(env, flows, Syn { seg, hash, listener, slot, tw_isn, ahead }, now, verdict);
            }
            None => next = Next::Lookup,
        }
    }
    no_socket(flows, seg, now, verdict);
}

/// A segment of a flow that is in the table.
#[inline(never)]
fn flow(env: &Env, flows: &mut Flows, id: EntryId, seg: &Segment, now: Nanos) -> Next {
    match id.kind() {
        Kind::Request(index) => tcp_check_req(env, flows, index, seg, now),
        Kind::Conn(index) if flows.table.conns.entry(index).body.is_time_wait() => {
            timewait_rcv(env, flows, index, seg, now)
        }
        Kind::Conn(index) => Next::Done(tcp::rcv(env, flows, index, seg, now)),
    }
}

/// A segment at a listener.
///
/// # Source
/// Linux v6.18 `tcp_rcv_state_process`, case `TCP_LISTEN` (net/ipv4/tcp_input.c).
#[inline]
fn listen(env: &Env, flows: &mut Flows, syn: Syn<'_>, now: Nanos, verdict: &mut Verdict) {
    let seg = syn.seg;
    let bare = seg.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN;
    if !bare && syn.slot.then() == Then::Kernel {
        *verdict = Verdict::Drop(DropReason::KernelFlow);
    } else if seg.has(flag::RST) {
        *verdict = if flows.is_stray(seg) { STRAY } else { Verdict::Drop(DropReason::ListenRst) };
    } else if seg.has(flag::ACK) {
        let checked = if seg.has(flag::SYN) { None } else { tcp_v4_cookie_check(env, flows, &syn, now) };
        *verdict =
            checked.unwrap_or_else(|| if flows.is_stray(seg) { STRAY } else { send_reset(flows, seg, now) });
    } else if !seg.has(flag::SYN) || seg.has(flag::FIN) {
        *verdict = Verdict::Drop(DropReason::ListenFlags);
    } else {
        tcp_conn_request(env, flows, syn, now, verdict);
    }
}

/// A segment that belongs to no socket.
///
/// # Source
/// Linux v6.18 `tcp_v4_rcv`, label `no_tcp_socket`; RFC 9293 §3.10.7.1.
#[inline]
fn no_socket(flows: &mut Flows, seg: &Segment, now: Nanos, verdict: &mut Verdict) {
    if flows.is_stray(seg) {
        *verdict = STRAY;
    } else {
        unknown(flows, seg, now, verdict);
    }
}

/// A segment that no core knows.
#[inline]
pub(crate) fn unknown(flows: &mut Flows, seg: &Segment, now: Nanos, verdict: &mut Verdict) {
    *verdict =
        if seg.has(flag::RST) { Verdict::Drop(DropReason::NoSocketRst) } else { send_reset(flows, seg, now) };
}

/// The RST for a segment that is none itself, if the limit allows it.
#[inline(always)]
pub(crate) fn send_reset(flows: &mut Flows, seg: &Segment, now: Nanos) -> Verdict {
    if flows.rst_limit.take(now) {
        Verdict::Reply(Outcome::Rst, tcp_send_reset(seg))
    } else {
        Verdict::Drop(DropReason::RstLimit)
    }
}

/// Counts a final ACK that met a full accept queue.
pub(crate) fn listen_overflow(env: &Env) -> DropReason {
    env.snmp().inc(Mib::ListenOverflows);
    env.snmp().inc(Mib::ListenDrops);
    DropReason::AcceptOverflow
}
