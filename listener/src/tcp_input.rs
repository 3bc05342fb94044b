//! A SYN at a listener: what gets a request, what gets a cookie, what is dropped, in the kernel's order.
//!
//! # Departures from the kernel
//! - No Fast Open, no saved SYN, no metrics of known peers (every peer is unproven).
//! - A core without a free request entry sends cookies, as if the listener's SYN queue were full; the kernel, whose
//!   entries come from the heap, drops only when that has no memory left.

pub(crate) mod rcv_state;

use crate::core::{Env, Flows, bound_dev, clock_ms};
use crate::drop_reason::DropReason;
use crate::ehash::EntryId;
use crate::flow_hash::Ahead;
use crate::listen_sock::{ListenSock, Refused};
use crate::request_sock::Request;
use crate::segment::{FlowKey, Outcome, Segment, Verdict, flag};
use crate::snmp::Mib;
use crate::syncookies::{self, CookieOptions, cookie_init_sequence, cookie_init_timestamp, cookie_of, rich};
use crate::sysctl::Sysctl;
use crate::tcp_output::{
    TCP_TIMEOUT_INIT, advertised_mss, secure_tcp_seq, secure_tcp_ts_off, seq_scale, tcp_make_synack,
};
use crate::tcp_window::{field, select_initial_window};
use crate::types::{DevIndex, ListenerRef, Nanos, SegSeq, Then};

/// MSS of a peer that names none (RFC 9293 §3.7.1).
const MSS_DEFAULT_V4: u16 = 536;
const MSS_DEFAULT_V6: u16 = 1220;

/// A SYN that reached a listener.
#[derive(Clone, Copy)]
pub(crate) struct Syn<'a> {
    pub seg: &'a Segment,
    /// Of the segment's flow, in the established table.
    pub hash: u32,
    pub listener: ListenerRef,
    pub slot: &'a ListenSock,
    /// Our ISN if the SYN recycles a TIME_WAIT entry.
    pub tw_isn: Option<SegSeq>,
    /// What was hashed for it already.
    pub ahead: Ahead,
}

/// Answers a SYN. What is tested here, `core/columns/answer.rs` tests once for many.
///
/// # Source
/// Linux v6.18 `tcp_conn_request`, `tcp_syn_flood_action` (net/ipv4/tcp_input.c).
#[inline]
pub(crate) fn tcp_conn_request(
    env: &Env,
    flows: &mut Flows,
    syn: Syn<'_>,
    now: Nanos,
    verdict: &mut Verdict,
) {
    let Syn { slot, listener, tw_isn, .. } = syn;
    if env.draining {
        *verdict = Verdict::Drop(DropReason::Draining);
        return;
    }
    let snmp = env.snmp();
    let table_full = flows.table.requests.is_full();
    let mut want_cookie = false;
    let crowded = table_full || flows.credits.request_queue_is_full(slot, listener);
    if (env.sysctl.tcp_syncookies == 2 || crowded) && tw_isn.is_none() {
        if env.sysctl.tcp_syncookies != 2 && slot.synflood_unwarned() {
            env.shared.flood(listener);
        }
        if env.sysctl.tcp_syncookies == 0 {
            *verdict = request_queue_full(env, table_full);
            return;
        }
        snmp.inc(Mib::TCPReqQFullDoCookies);
        want_cookie = true;
    }
    if slot.acceptq_is_full() {
        snmp.inc(Mib::ListenOverflows);
        snmp.inc(Mib::ListenDrops);
        *verdict = Verdict::Drop(DropReason::ListenOverflow);
        return;
    }
    if slot.then() == Then::Kernel {
        return send_rich_cookie(env, syn, now, verdict);
    }
    flows.cookies = want_cookie;
    if want_cookie {
        return send_cookie(env, syn, now, verdict);
    }
    if table_full {
        snmp.inc(Mib::ListenDrops);
        *verdict = Verdict::Drop(DropReason::RequestTableFull);
        return;
    }
    if tw_isn.is_none() && env.sysctl.tcp_syncookies == 0 {
        // The last quarter is for peers that proved themselves before; we remember none.
        let backlog = i64::from(env.sysctl.tcp_max_syn_backlog);
        if backlog - i64::from(flows.credits.qlen(slot, listener)) < backlog >> 2 {
            snmp.inc(Mib::ListenDrops);
            *verdict = Verdict::Drop(DropReason::SynBacklogReserve);
            return;
        }
    }
    send_synack(env, flows, syn, now, verdict);
}

fn request_queue_full(env: &Env, table_full: bool) -> Verdict {
    env.snmp().inc(Mib::TCPReqQFullDrop);
    env.snmp().inc(Mib::ListenDrops);
    Verdict::Drop(if table_full { DropReason::RequestTableFull } else { DropReason::ReqQFull })
}

/// Makes a request and answers the SYN.
#[inline]
fn send_synack(env: &Env, flows: &mut Flows, syn: Syn<'_>, now: Nanos, verdict: &mut Verdict) {
    let Syn { seg, hash, listener, slot, tw_isn, ahead } = syn;
    let counted = match tw_isn {
        Some(_) => slot.reqsk_queue_forced(listener.generation),
        None => flows.credits.take(&env.socks, slot, listener, now),
    };
    match counted {
        Ok(()) => {}
        // Another worker took the last place since the test above.
        Err(Refused::Full) if env.sysctl.tcp_syncookies != 0 => {
            env.snmp().inc(Mib::TCPReqQFullDoCookies);
            return send_cookie(env, syn, now, verdict);
        }
        Err(Refused::Full) => {
            *verdict = request_queue_full(env, false);
            return;
        }
        Err(Refused::Gone) => {
            *verdict = Verdict::Drop(DropReason::ListenerGone);
            return;
        }
    }
    let mut req = tcp_openreq_init(env, &syn, false);
    req.iss = match (tw_isn, ahead) {
        (Some(isn), _) => isn,
        (None, Ahead::Isn(hash)) => seq_scale(hash, now),
        (None, _) => secure_tcp_seq(env, &seg.flow, now),
    };
    req.snt_tsval_first = clock_ms(now);
    req.snt_tsval_last = req.snt_tsval_first;
    let place = Place { flow: seg.flow, hash, dev: seg.dev, listener, slot };
    if !inet_csk_reqsk_queue_hash_add(env, flows, &place, &req, now) {
        env.snmp().inc(Mib::ListenDrops);
        *verdict = Verdict::Drop(DropReason::RequestTableFull);
        return;
    }
    *verdict = Verdict::Reply(Outcome::SynAck, tcp_make_synack(&req, req.snt_tsval_first));
}

/// Where a request comes from, and where it belongs.
pub(crate) struct Place<'a> {
    pub flow: FlowKey,
    /// Of the flow, in the established table.
    pub hash: u32,
    pub dev: DevIndex,
    pub listener: ListenerRef,
    pub slot: &'a ListenSock,
}

/// Puts a request that its listener has counted into the table, and starts its timer. False if there is no room: it is
/// no longer counted then.
///
/// # Source
/// Linux v6.18 `inet_csk_reqsk_queue_hash_add`.
#[inline]
pub(crate) fn inet_csk_reqsk_queue_hash_add(
    env: &Env,
    flows: &mut Flows,
    place: &Place<'_>,
    req: &Request,
    now: Nanos,
) -> bool {
    let Place { flow, hash, dev, listener, slot } = *place;
    let Some(index) = flows.table.requests.alloc(&flow, *req) else {
        flows.credits.give(&env.socks, slot, listener, now);
        return false;
    };
    let head = &mut flows.table.requests.entry_mut(index).head;
    head.bound_dev = bound_dev(slot, &flow, dev);
    head.dev = dev;
    let id = EntryId::request(index);
    flows.insert(id, hash);
    flows.arm(id, now + TCP_TIMEOUT_INIT);
    true
}

/// Answers the SYN with a cookie and keeps nothing.
#[inline]
fn send_cookie(env: &Env, syn: Syn<'_>, now: Nanos, verdict: &mut Verdict) {
    let Syn { seg, listener, slot, ahead, .. } = syn;
    let mut req = tcp_openreq_init(env, &syn, true);
    req.iss = match ahead {
        Ahead::Cookie { count, hashes } if count == syncookies::count(now) => {
            cookie_of(hashes, seg.flow.is_v4(), seg.seq, req.mss, count)
        }
        _ => cookie_init_sequence(&env.cookies, &seg.flow, seg.seq, req.mss, now),
    };
    let options = CookieOptions { wscale: req.snd_wscale, sack: req.sack_ok, ecn: req.ecn_ok };
    let stamp = slot.synq_slot();
    if stamp == listener.id {
        slot.synq_overflow(now);
    } else if let Some(stamp) = env.socks.get(stamp) {
        stamp.synq_overflow(now);
    }
    env.snmp().inc(Mib::SyncookiesSent);
    let ts = cookie_init_timestamp(clock_ms(now), options);
    *verdict = Verdict::Reply(Outcome::SynAck, tcp_make_synack(&req, ts));
}

/// Answers the SYN at a listener whose connections are the kernel's; the cookie keeps all options.
#[inline(never)]
fn send_rich_cookie(env: &Env, syn: Syn<'_>, now: Nanos, verdict: &mut Verdict) {
    let Syn { seg, .. } = syn;
    let mut req = tcp_openreq_init(env, &syn, false);
    let asked = rich::Asked {
        mss: req.mss,
        options: CookieOptions { wscale: req.snd_wscale, sack: req.sack_ok, ecn: req.ecn_ok },
        timestamps: req.tstamp_ok,
    };
    req.iss = rich::cookie(&env.cookies.current, &seg.flow, seg.seq, &asked, now);
    env.snmp().inc(Mib::SyncookiesSent);
    *verdict = Verdict::Reply(Outcome::SynAck, tcp_make_synack(&req, clock_ms(now)));
}

/// The greatest window scale; a greater one counts as this (RFC 7323 §2.3).
pub(crate) const TCP_MAX_WSCALE: u8 = 14;

/// The request that a SYN asks for; ISS and timestamps sent are left to the caller.
///
/// # Source
/// Linux v6.18 `tcp_openreq_init`, `tcp_parse_options`, `tcp_clear_options`, `tcp_ecn_create_request`.
#[inline(always)]
pub(crate) fn tcp_openreq_init(env: &Env, syn: &Syn<'_>, cookie: bool) -> Request {
    let Syn { seg, slot, listener, .. } = *syn;
    let sysctl = &env.sysctl;
    let timestamps = seg.options.timestamps.filter(|_| sysctl.tcp_timestamps != 0);
    let tstamp_ok = timestamps.is_some();
    // Without timestamps a cookie has room for the MSS only.
    let keep = tstamp_ok || !cookie;
    let snd_wscale = seg
        .options
        .wscale
        .filter(|_| keep && sysctl.tcp_window_scaling)
        .map(|scale| scale.min(TCP_MAX_WSCALE));
    let advmss = advertised_mss(env, slot, seg.dev, seg.flow.is_v4());
    let wscale_ok = snd_wscale.is_some();
    let usual = slot.mss_clamp() == 0 && slot.rcvbuf() == sysctl.tcp_rmem[1];
    let (rcv_wnd, rcv_wscale) = if usual {
        env.initial_window((seg.dev, seg.flow.is_v4()), advmss, tstamp_ok, wscale_ok)
    } else {
        let (window, scale) = select_initial_window(sysctl, slot.rcvbuf(), advmss, tstamp_ok, wscale_ok);
        (field(window), scale)
    };
    Request {
        route: seg.route,
        listener,
        irs: seg.seq,
        iss: SegSeq(0),
        ts_recent: timestamps.map_or(0, |(tsval, _)| tsval),
        ts_off: if tstamp_ok { secure_tcp_ts_off(sysctl, &env.cookies.current, &seg.flow) } else { 0 },
        mss: peer_mss(seg.flow.is_v4(), seg.options.mss, slot.mss_clamp()),
        advmss,
        rcv_wnd,
        snd_wscale,
        rcv_wscale,
        tos: synack_tos(sysctl, slot, seg.tos),
        sack_ok: keep && sysctl.tcp_sack && seg.options.sack_perm,
        tstamp_ok,
        ecn_ok: keep && ecn_asked(sysctl, seg),
        ..Request::default()
    }
}

/// The MSS that we send with, of the one that the peer named, or 0.
#[inline]
pub(crate) fn peer_mss(v4: bool, named: u16, clamp: u16) -> u16 {
    let mss = match named {
        0 if v4 => return MSS_DEFAULT_V4,
        0 => return MSS_DEFAULT_V6,
        mss => mss,
    };
    if clamp == 0 { mss } else { mss.min(clamp) }
}

/// TOS of what we send: the listener's, with the SYN's DSCP under `tcp_reflect_tos`.
#[inline]
pub(crate) fn synack_tos(sysctl: &Sysctl, slot: &ListenSock, syn_tos: u8) -> u8 {
    if sysctl.tcp_reflect_tos { syn_tos & 0xfc | slot.tos() & 3 } else { slot.tos() }
}

/// True for a SYN that asks for ECN on a packet that is not marked itself (RFC 3168 §6.1.1), or in the manner of AccECN
/// (RFC 9768 §3.1.1), whose SYNs may be marked and which falls back to this.
#[inline]
fn ecn_asked(sysctl: &Sysctl, seg: &Segment) -> bool {
    sysctl.tcp_ecn != 0 && seg.has(flag::ECE | flag::CWR) && (seg.tos & 3 == 0 || seg.reserved != 0)
}
