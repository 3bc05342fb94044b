//! From a request to a connection.

use crate::conn_shared::{ChildNode, ChildRecord};
use crate::core::{Env, Flows, bound_dev, clock_ms};
use crate::drop_reason::DropReason;
use crate::ehash::{EntryId, Kind};
use crate::error::Errno;
use crate::inet_hashtables::HashKey;
use crate::listen_sock::{ListenSock, Refused};
use crate::request_sock::{Conn, Request};
use crate::segment::{Outcome, Segment, Verdict, flag};
use crate::snmp::Mib;
use crate::syncookies::{self, COOKIE_VALID_NS, cookie_timestamp_decode};
use crate::tcp;
use crate::tcp_input::rcv_state::{oow_rate_limited, paws_reject, rate_limited};
use crate::tcp_input::{Syn, synack_tos};
use crate::tcp_ipv4::{Next, listen_overflow, send_reset};
use crate::tcp_output::{advertised_mss, reqsk_send_ack, rto, secure_tcp_ts_off, tcp_make_synack};
use crate::tcp_rtt::{Timeouts, tcp_synack_rtt_meas};
use crate::tcp_window::{field, select_initial_window, tcp_init_buffer_space};
use crate::types::{InetAddr, ListenerRef, Nanos, SegSeq, TcpState, Then};

/// How long TIME_WAIT lasts (`TCP_TIMEWAIT_LEN`).
pub(crate) const TIMEWAIT_LEN: Nanos = Nanos::from_secs(60);

/// Removes a request: from the table, the wheel, and its listener's count.
pub(crate) fn reqsk_queue_drop(env: &Env, flows: &mut Flows, index: u32, now: Nanos) {
    let slot = env.socks.get(flows.table.requests.entry(index).body.listener.id);
    reqsk_queue_drop_from(env, flows, slot, index, now);
}

/// [`reqsk_queue_drop`] where the slot of the request's listener is known.
#[inline]
pub(crate) fn reqsk_queue_drop_from(
    env: &Env,
    flows: &mut Flows,
    slot: Option<&ListenSock>,
    index: u32,
    now: Nanos,
) {
    let id = EntryId::request(index);
    flows.cancel(id);
    flows.table.remove(id);
    let Request { listener, num_timeout, .. } = flows.table.requests.entry(index).body;
    if let Some(slot) = slot {
        if num_timeout == 0 {
            flows.credits.give(&env.socks, slot, listener, now);
        } else {
            slot.reqsk_queue_removed_old(listener.generation);
        }
    }
    flows.table.requests.free(index);
}

/// The listener of a half-open request. One that was closed under `tcp_migrate_req` is replaced by another member of
/// its group, whatever that one's backlog.
///
/// # Source
/// Linux v6.18 `tcp_v4_rcv`, `reqsk_timer_handler`: the migration that both begin with, by `reuseport_migrate_sock`.
pub(crate) fn req_listener<'e>(env: &'e Env, flows: &mut Flows, index: u32) -> Option<&'e ListenSock> {
    let listener = flows.table.requests.entry(index).body.listener;
    let slot = env.listening(listener);
    if slot.is_some() || !env.sysctl.tcp_migrate_req { slot } else { reqsk_migrate(env, flows, index) }
}

#[cold]
fn reqsk_migrate<'e>(env: &'e Env, flows: &mut Flows, index: u32) -> Option<&'e ListenSock> {
    let entry = flows.table.requests.entry_mut(index);
    let (flow, closed) = (entry.head.flow(), entry.body.listener.id);
    let hash = env.hash.flow_hash(&flow);
    let guard = env.hash.pin();
    let heir = [flow.daddr, InetAddr::ANY_V4].into_iter().find_map(|addr| {
        env.hash.reuseport_migrate(&guard, HashKey::new(addr, flow.dport), closed, env.core, hash)
    });
    let moved = heir.and_then(|id| {
        let slot = env.socks.get(id)?;
        let generation = slot.generation();
        slot.reqsk_queue_forced(generation).ok()?;
        if entry.body.num_timeout != 0 {
            slot.reqsk_queue_aged(generation);
        }
        entry.body.listener = ListenerRef { id, generation };
        Some(slot)
    });
    let counter = if moved.is_some() { Mib::TCPMigrateReqSuccess } else { Mib::TCPMigrateReqFailure };
    env.snmp().inc(counter);
    moved
}

/// A segment at a half-open request.
///
/// # Source
/// Linux v6.18 `tcp_check_req` (net/ipv4/tcp_minisocks.c); the tests stand in its order.
pub(crate) fn tcp_check_req(env: &Env, flows: &mut Flows, index: u32, seg: &Segment, now: Nanos) -> Next {
    let Some(slot) = req_listener(env, flows, index) else {
        reqsk_queue_drop(env, flows, index, now);
        return Next::Lookup;
    };
    let listener = flows.table.requests.entry(index).body.listener;
    let req = &mut flows.table.requests.entry_mut(index).body;
    let rcv_nxt = req.irs.plus(1);
    let paws = paws_reject(req.ts_recent, seg, None, now);
    let tsecr_bad = req.tstamp_ok && tsecr_reject(req, seg);

    if seg.seq == req.irs && seg.flags & (flag::RST | flag::SYN | flag::ACK) == flag::SYN && !paws {
        return Next::Done(retransmitted_syn(env, flows, index, seg, now));
    }
    if seg.has(flag::RST) && !paws && !tsecr_bad {
        return Next::Done(reset_at_request(env, flows, index, seg, now));
    }
    if seg.has(flag::ACK) && seg.ack != req.iss.plus(1) {
        return Next::Listen(listener);
    }
    if paws || tsecr_bad || !in_window(seg, rcv_nxt, u32::from(req.rcv_wnd)) {
        let limited = seg.has(flag::RST)
            || oow_rate_limited(env, Mib::TCPACKSkippedSynRecv, &mut req.last_oow_ack, seg, now);
        if paws {
            env.snmp().inc(Mib::PAWSEstab);
        } else if tsecr_bad {
            env.snmp().inc(Mib::TSEcrRejected);
        }
        return Next::Done(if limited {
            Verdict::Drop(DropReason::ReqOutOfWindow)
        } else {
            Verdict::Reply(Outcome::Other, reqsk_send_ack(req, seg, now))
        });
    }
    // A SYN at the peer's ISN was taken already; the connection answers it with a challenge ACK.
    let taken = if seg.seq == req.irs { flag::SYN } else { 0 };
    if seg.flags & !taken & flag::SYN != 0 {
        env.snmp().inc(Mib::AttemptFails);
        return Next::Done(embryonic_reset(env, flows, index, seg, now));
    }
    if !seg.has(flag::ACK) {
        return Next::Done(Verdict::Drop(DropReason::ReqNoAck));
    }
    if req.num_timeout < slot.defer() && seg.seq.plus(seg.seg_len()) == rcv_nxt {
        req.acked = true;
        env.snmp().inc(Mib::TCPDeferAcceptDrop);
        return Next::Done(Verdict::Drop(DropReason::ReqDeferred));
    }
    final_ack(env, flows, slot, index, seg, now)
}

/// Turns a request into a connection, or says why not.
fn final_ack(env: &Env, flows: &mut Flows, slot: &ListenSock, index: u32, seg: &Segment, now: Nanos) -> Next {
    let hash = flows.table.requests.entry(index).head.hash;
    let mut req = flows.table.requests.entry(index).body;
    let rtt_ms = tcp_synack_rtt_meas(&req, false, seg, now);
    let rcv_wnd = if req.rcv_wnd == u16::MAX {
        let (tstamp, wscale) = (req.tstamp_ok, req.snd_wscale.is_some());
        select_initial_window(&env.sysctl, slot.rcvbuf(), req.advmss, tstamp, wscale).0
    } else {
        u32::from(req.rcv_wnd)
    };
    // The connection begins with the timestamp of this segment; a request that stays keeps that of its SYN.
    if let Some((tsval, _)) = seg.options.timestamps.filter(|_| req.tstamp_ok)
        && !seg.seq.after(req.irs.plus(1))
    {
        req.ts_recent = tsval;
    }
    match syn_recv_sock(env, flows, &Final { slot, req: &req, seg, hash, rtt_ms, rcv_wnd }, Some(index), now)
    {
        Ok(verdict) => Next::Done(verdict),
        Err(DropReason::ListenerGone) => {
            reqsk_queue_drop(env, flows, index, now);
            Next::Lookup
        }
        Err(_) if env.sysctl.tcp_abort_on_overflow => {
            Next::Done(embryonic_reset(env, flows, index, seg, now))
        }
        Err(reason) => {
            flows.table.requests.entry_mut(index).body.acked = true;
            Next::Done(Verdict::Drop(reason))
        }
    }
}

/// The same SYN again: the same SYN-ACK again, and the timer starts anew.
fn retransmitted_syn(env: &Env, flows: &mut Flows, index: u32, seg: &Segment, now: Nanos) -> Verdict {
    let req = &mut flows.table.requests.entry_mut(index).body;
    if oow_rate_limited(env, Mib::TCPACKSkippedSynRecv, &mut req.last_oow_ack, seg, now) {
        return Verdict::Drop(DropReason::ReqDuplicateSyn);
    }
    req.snt_tsval_last = clock_ms(now);
    let synack = tcp_make_synack(req, req.snt_tsval_last);
    let timeouts = req.num_timeout;
    env.snmp().inc(Mib::RetransSegs);
    env.snmp().inc(Mib::TCPSynRetrans);
    flows.arm(EntryId::request(index), now + rto(timeouts));
    Verdict::Reply(Outcome::SynAck, synack)
}

/// A RST at a request: exactly at the edge it ends the request, elsewhere in the window it is challenged (RFC 5961
/// §3.2), whatever it acknowledges.
///
/// # Source
/// Seen on Linux v6.18.44; older kernels ask for the right ACK and let any RST in the window end the request.
fn reset_at_request(env: &Env, flows: &mut Flows, index: u32, seg: &Segment, now: Nanos) -> Verdict {
    let req = &mut flows.table.requests.entry_mut(index).body;
    let rcv_nxt = req.irs.plus(1);
    if !in_window(seg, rcv_nxt, u32::from(req.rcv_wnd)) {
        return Verdict::Drop(DropReason::ReqOutOfWindow);
    }
    if seg.seq == rcv_nxt {
        env.snmp().inc(Mib::AttemptFails);
        return embryonic_reset(env, flows, index, seg, now);
    }
    if rate_limited(env, Mib::TCPACKSkippedChallenge, &mut req.last_oow_ack, now) {
        return Verdict::Drop(DropReason::TcpChallengeLimit);
    }
    env.snmp().inc(Mib::TCPChallengeACK);
    Verdict::Reply(Outcome::Other, reqsk_send_ack(req, seg, now))
}

fn embryonic_reset(env: &Env, flows: &mut Flows, index: u32, seg: &Segment, now: Nanos) -> Verdict {
    env.snmp().inc(Mib::EmbryonicRsts);
    reqsk_queue_drop(env, flows, index, now);
    if seg.has(flag::RST) { Verdict::Drop(DropReason::ReqRst) } else { send_reset(flows, seg, now) }
}

/// True if the timestamp that the segment echoes is none that our SYN-ACKs carried; 0 says nothing.
fn tsecr_reject(req: &Request, seg: &Segment) -> bool {
    let Some((_, tsecr)) = seg.options.timestamps else { return false };
    let sent = tsecr.wrapping_sub(req.ts_off).wrapping_sub(req.snt_tsval_first);
    tsecr != 0 && sent > req.snt_tsval_last.wrapping_sub(req.snt_tsval_first)
}

/// True if some of the segment lies in the window.
///
/// # Source
/// Linux v6.18 `tcp_in_window`.
pub(crate) fn in_window(seg: &Segment, start: SegSeq, window: u32) -> bool {
    let (end, end_seq) = (start.plus(window), seg.seq.plus(seg.seg_len()));
    seg.seq == start
        || (end_seq.after(start) && seg.seq.before(end))
        || (seg.seq == end && seg.seq == end_seq)
}

/// A final ACK, and the request that it ends.
pub(crate) struct Final<'a> {
    pub slot: &'a ListenSock,
    pub req: &'a Request,
    pub seg: &'a Segment,
    pub hash: u32,
    /// How long the handshake took, if that is known.
    pub rtt_ms: Option<u32>,
    /// The window that was offered; more than a request has room for.
    pub rcv_wnd: u32,
}

/// Makes the connection, lets it have the segment, and queues it for `accept`. `request` is the entry that it
/// replaces, if there is one.
///
/// # Errors
/// The reason why there is no connection. The request is still there then.
///
/// # Source
/// Linux v6.18 `tcp_v4_syn_recv_sock`, `inet_csk_complete_hashdance`, `tcp_create_openreq_child`.
pub(crate) fn syn_recv_sock(
    env: &Env,
    flows: &mut Flows,
    last: &Final<'_>,
    request: Option<u32>,
    now: Nanos,
) -> Result<Verdict, DropReason> {
    let Final { slot, req, seg, hash, .. } = *last;
    let generation = req.listener.generation;
    let then = slot.then();
    let queue = then == Then::Queue;
    let room = if queue {
        slot.acceptq_reserve(generation)
    } else if slot.acceptq_is_full() {
        Err(Refused::Full)
    } else {
        Ok(())
    };
    match room {
        Ok(()) => {}
        Err(Refused::Full) => return Err(listen_overflow(env)),
        Err(Refused::Gone) => return Err(DropReason::ListenerGone),
    }
    if flows.table.conns.is_full() {
        if queue {
            slot.acceptq_release(generation);
        }
        env.snmp().inc(Mib::ListenDrops);
        return Err(DropReason::ConnTableFull);
    }
    if let Some(request) = request {
        reqsk_queue_drop(env, flows, request, now);
    }
    let Some(index) = flows.table.conns.alloc(&seg.flow, create_openreq_child(env, last, then, now)) else {
        return Err(DropReason::ConnTableFull);
    };
    publish(env, flows, slot, index, seg);
    flows.insert(EntryId::conn(index), hash);
    env.snmp().inc(Mib::PassiveOpens);
    env.snmp().inc(Mib::CurrEstab);
    if queue {
        let node = ChildNode::new(env.core, index);
        if slot.acceptq_add(generation, node, env.shared.accept_next(index)).is_err() {
            flows.table.conns.entry_mut(index).body.set_held(false);
            tcp::done(env, flows, index, Some(Errno::ECONNRESET));
            return Ok(send_reset(flows, seg, now));
        }
    }
    Ok(tcp::first_segment(env, flows, index, seg, now))
}

fn create_openreq_child(env: &Env, last: &Final<'_>, then: Then, now: Nanos) -> Conn {
    let Final { slot, req, seg, rtt_ms, rcv_wnd, .. } = *last;
    let Timeouts { rto, probe } = Timeouts::new(rtt_ms, req.sack_ok);
    let rcv_ssthresh =
        tcp_init_buffer_space(slot.rcvbuf(), req.advmss, req.tstamp_ok, (rcv_wnd, req.rcv_wscale));
    let mut conn = Conn {
        route: seg.route,
        snd_start: req.iss.plus(1),
        rcv_nxt: req.irs.plus(1),
        rcv_wnd,
        rcv_ssthresh,
        ts_recent: req.ts_recent,
        ts_off: req.ts_off,
        ts_recent_stamp: clock_ms(now),
        stamp: clock_ms(now),
        snd_wl1: seg.seq,
        snd_wnd: seg.wnd,
        rto,
        probe,
        rcv_wscale: req.rcv_wscale,
        tos: if env.sysctl.tcp_reflect_tos { req.tos } else { synack_tos(&env.sysctl, slot, 0) },
        state: TcpState::Established,
        then,
        ..Conn::default()
    };
    conn.set_tstamp_ok(req.tstamp_ok);
    conn.set_ecn_ok(req.ecn_ok);
    conn.set_held(then == Then::Queue);
    conn
}

/// Writes the child down for the control side; both sides of the slot then have one generation.
fn publish(env: &Env, flows: &mut Flows, slot: &ListenSock, index: u32, seg: &Segment) {
    let head = &mut flows.table.conns.entry_mut(index).head;
    head.bound_dev = bound_dev(slot, &seg.flow, seg.dev);
    head.dev = seg.dev;
    let record = ChildRecord {
        flow: seg.flow,
        dev: head.bound_dev,
        state: TcpState::Established,
        reuse: slot.reuse(),
        reuseport: slot.reuseport(),
        v6_family: slot.v6_family(),
        uid: slot.uid(),
    };
    let generation = env.shared.publish(index, &record);
    debug_assert_eq!(generation, head.generation, "a slot and its record go in step");
}

/// An ACK at a listener: `Some` if it was for a cookie.
///
/// # Source
/// Linux v6.18 `cookie_v4_check`, `cookie_tcp_check`, `tcp_get_cookie_sock` (net/ipv4/syncookies.c).
pub(crate) fn tcp_v4_cookie_check(
    env: &Env,
    flows: &mut Flows,
    syn: &Syn<'_>,
    now: Nanos,
) -> Option<Verdict> {
    let Syn { seg, hash, slot, listener, .. } = *syn;
    if env.sysctl.tcp_syncookies == 0 {
        return None;
    }
    let stamp = env.socks.get(slot.synq_slot())?;
    if !env.cookies.shared && stamp.synq_no_recent_overflow(now, COOKIE_VALID_NS) {
        return None;
    }
    let Some((mss, key)) = syncookies::check(&env.cookies, &env.minute, &seg.flow, (seg.seq, seg.ack), now)
    else {
        env.snmp().inc(Mib::SyncookiesFailed);
        return None;
    };
    env.snmp().inc(Mib::SyncookiesRecv);
    let mut req = Request {
        listener,
        mss,
        irs: SegSeq(seg.seq.0.wrapping_sub(1)),
        iss: SegSeq(seg.ack.0.wrapping_sub(1)),
        advmss: advertised_mss(env, slot, seg.dev, seg.flow.is_v4()),
        tos: synack_tos(&env.sysctl, slot, seg.tos),
        ..Request::default()
    };
    if let Some((tsval, tsecr)) = seg.options.timestamps {
        if env.sysctl.tcp_timestamps == 0 {
            return None;
        }
        req.ts_off = secure_tcp_ts_off(&env.sysctl, key, &seg.flow);
        let options = cookie_timestamp_decode(tsecr.wrapping_sub(req.ts_off));
        // An option that a sysctl forbids was never agreed, so the cookie is not ours.
        if (options.sack && !env.sysctl.tcp_sack)
            || (options.wscale.is_some() && !env.sysctl.tcp_window_scaling)
        {
            return None;
        }
        req.tstamp_ok = true;
        req.ts_recent = tsval;
        req.snd_wscale = options.wscale;
        req.sack_ok = options.sack;
        req.ecn_ok = options.ecn && env.sysctl.tcp_ecn != 0;
    }
    // In whole segments of the size that the cookie remembers, timestamps not counted: not quite what the SYN-ACK said.
    let wscale = req.snd_wscale.is_some();
    let (rcv_wnd, rcv_wscale) = select_initial_window(&env.sysctl, slot.rcvbuf(), mss, false, wscale);
    (req.rcv_wnd, req.rcv_wscale) = (field(rcv_wnd), rcv_wscale);
    let rtt_ms = tcp_synack_rtt_meas(&req, true, seg, now);
    // A request of the same flow has lost: the peer chose the cookie.
    let request = match flows.table.lookup(hash, &seg.flow, seg.dev).map(EntryId::kind) {
        Some(Kind::Request(index)) => Some(index),
        _ => None,
    };
    let verdict =
        syn_recv_sock(env, flows, &Final { slot, req: &req, seg, hash, rtt_ms, rcv_wnd }, request, now);
    Some(verdict.unwrap_or_else(Verdict::Drop))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the numbers of segment and window written out one by one.
        #[test]
        fn in_window_counts_common_numbers(origin: u32, at in 0u32..40, len in 0u16..12, fin: bool, window in 0u32..20) {
            const START: u32 = 20;
            let seg = Segment {
                seq: SegSeq(origin).plus(at),
                payload_len: len,
                flags: if fin { flag::FIN | flag::ACK } else { flag::ACK },
                ..Segment::default()
            };
            let end = at + u32::from(len) + u32::from(fin);
            let common = (at..end).any(|number| (START..START + window).contains(&number));
            let empty_inside = at == end && (START..=START + window).contains(&at);
            // A closed window still lets the segment through that starts at it or reaches across it.
            let across = at == START || (at < START && end > START);
            prop_assert_eq!(in_window(&seg, SegSeq(origin).plus(START), window), common || empty_inside || across);
        }
    }
}
