//! What happens when a timer fires: SYN-ACKs and FINs again, the end of TIME_WAIT, the reaping of the idle.

use crate::core::{Env, Flows, Send, clock_ms};
use crate::ehash::EntryId;
use crate::error::Errno;
use crate::listen_sock::ListenSock;
use crate::request_sock::{Conn, Request};
use crate::segment::{Originated, flag};
use crate::snmp::Mib;
use crate::tcp::{done, fin_wait2_entry, originated};
use crate::tcp_minisocks::{TIMEWAIT_LEN, req_listener, reqsk_queue_drop};
use crate::tcp_output::{conn_segment, rto, tcp_make_synack, tcp_send_active_reset};
use crate::tcp_rtt::{backed_off, retransmits_timed_out, tcp_fin_time, tcp_orphan_retries, ticks_to_nanos};
use crate::types::{Nanos, TcpState, Then};

/// SYN-ACK timeouts that a request may see: fewer while old requests fill the queue, so that about half of it is for
/// young ones. `in_hand` are places that this core has in hand and no request uses.
///
/// # Source
/// Linux v6.18 `reqsk_timer_handler` (net/ipv4/inet_connection_sock.c).
fn max_syn_ack_retries(env: &Env, slot: &ListenSock, in_hand: u32) -> u8 {
    let mut retries = match slot.syn_retries() {
        0 => env.sysctl.tcp_synack_retries,
        retries => retries,
    };
    let qlen = u64::from(slot.qlen().saturating_sub(in_hand));
    if qlen << 1 > u64::from(slot.max_ack_backlog().max(8)) {
        let mut young = u64::from(slot.young().saturating_sub(in_hand)) << 1;
        while retries > 2 && qlen >= young {
            retries -= 1;
            young <<= 1;
        }
    }
    retries
}

/// Whether a request that timed out is given up, and whether its SYN-ACK goes out again.
///
/// # Source
/// Linux v6.18 `syn_ack_recalc`.
fn syn_ack_recalc(req: &Request, retries: u8, defer: u8) -> (bool, bool) {
    let late = req.num_timeout >= retries;
    if defer == 0 {
        return (late, true);
    }
    let expire = late && (!req.acked || req.num_timeout >= defer);
    // While data is awaited the peer is left alone, until the last period gives it another chance.
    let resend = !req.acked || req.num_timeout >= defer - 1;
    (expire, resend)
}

/// A request timed out. False if there was no room to send; nothing has changed then but the timer, which fired.
///
/// # Source
/// Linux v6.18 `reqsk_timer_handler`.
pub(crate) fn reqsk_timer_handler(
    env: &Env,
    flows: &mut Flows,
    index: u32,
    now: Nanos,
    send: &mut impl Send,
) -> bool {
    let Some(slot) = req_listener(env, flows, index) else {
        reqsk_queue_drop(env, flows, index, now);
        return true;
    };
    let entry = flows.table.requests.entry_mut(index);
    let retries = max_syn_ack_retries(env, slot, flows.credits.in_hand(entry.body.listener));
    let (expire, resend) = syn_ack_recalc(&entry.body, retries, slot.defer());
    if !expire && resend {
        let tsval = clock_ms(now);
        let segment = tcp_make_synack(&entry.body, tsval);
        let (flow, dev, route) = (entry.head.flow(), entry.head.dev, entry.body.route);
        if !send(env, &Originated { flow, dev, route, segment }) {
            return false;
        }
        entry.body.snt_tsval_last = tsval;
        env.snmp().inc(Mib::RetransSegs);
        env.snmp().inc(Mib::TCPSynRetrans);
    }
    env.snmp().inc(Mib::TCPTimeouts);
    if expire {
        reqsk_queue_drop(env, flows, index, now);
        return true;
    }
    if entry.body.num_timeout == 0 {
        slot.reqsk_queue_aged(entry.body.listener.generation);
    }
    entry.body.num_timeout = entry.body.num_timeout.saturating_add(1);
    let timeouts = entry.body.num_timeout;
    flows.arm(EntryId::request(index), now + rto(timeouts));
    true
}

/// A connection's timer fired; which one, its state says. False if there was no room to send.
///
/// # Source
/// Linux v6.18 `tcp_write_timer_handler`, `tcp_out_of_resources` (net/ipv4/tcp_timer.c), `tw_timer_handler`.
pub(crate) fn tcp_write_timer(
    env: &Env,
    flows: &mut Flows,
    index: u32,
    now: Nanos,
    send: &mut impl Send,
) -> bool {
    let conn = &flows.table.conns.entry(index).body;
    match conn.state {
        _ if conn.is_time_wait() => {
            env.snmp().inc(Mib::TW);
            done(env, flows, index, None);
            true
        }
        // `tcp_keepalive_timer`: the first part of a long `tcp_fin_timeout` is over.
        TcpState::FinWait2 => {
            let lasts = tcp_fin_time(conn, env.sysctl.tcp_fin_timeout);
            fin_wait2_entry(env, flows, index, now + Nanos(lasts.0.saturating_sub(TIMEWAIT_LEN.0)));
            true
        }
        TcpState::FinWait1 | TcpState::Closing | TcpState::LastAck => {
            retransmit_fin(env, flows, index, now, send)
        }
        _ => reap_idle(env, flows, index, now, send),
    }
}

/// Sends our FIN again: as a probe first where there is SACK, then at timeouts that double.
///
/// # Source
/// Linux v6.18 `tcp_send_loss_probe`, `tcp_retransmit_timer`, `tcp_write_timeout`.
fn retransmit_fin(env: &Env, flows: &mut Flows, index: u32, now: Nanos, send: &mut impl Send) -> bool {
    let mut conn = flows.table.conns.entry(index).body;
    let probe = conn.probe != 0;
    if !probe && fin_timed_out(env, &conn, now) {
        env.snmp().inc(Mib::TCPTimeouts);
        env.snmp().inc(Mib::TCPAbortOnTimeout);
        done(env, flows, index, Some(Errno::ETIMEDOUT));
        return true;
    }
    let seq = conn.snd_start;
    let segment = conn_segment(&mut conn, flag::FIN | flag::ACK, seq, now);
    if !send(env, &originated(flows, index, segment)) {
        return false;
    }
    env.snmp().inc(Mib::RetransSegs);
    if probe {
        env.snmp().inc(Mib::TCPLossProbes);
        conn.probe = 0;
    } else {
        env.snmp().inc(Mib::TCPTimeouts);
        if conn.stamp == 0 {
            conn.stamp = clock_ms(now).max(1);
        }
        conn.rto = backed_off(conn.rto);
    }
    flows.table.conns.entry_mut(index).body = conn;
    flows.arm(EntryId::conn(index), now + ticks_to_nanos(conn.rto));
    true
}

fn fin_timed_out(env: &Env, conn: &Conn, now: Nanos) -> bool {
    let boundary = if conn.held() {
        env.sysctl.tcp_retries2
    } else {
        tcp_orphan_retries(env.sysctl.tcp_orphan_retries, conn.rto)
    };
    retransmits_timed_out((conn.stamp != 0).then_some(conn.stamp), boundary, now)
}

/// The idle timer is not moved by segments; it asks when it fires how long ago the last one was.
fn reap_idle(env: &Env, flows: &mut Flows, index: u32, now: Nanos, send: &mut impl Send) -> bool {
    let mut conn = flows.table.conns.entry(index).body;
    if conn.then != Then::Discard {
        return true;
    }
    let silent_ns = u64::from(clock_ms(now).wrapping_sub(conn.stamp)) * 1_000_000;
    if silent_ns < env.idle_ns {
        flows.arm(EntryId::conn(index), now + Nanos(env.idle_ns - silent_ns));
        return true;
    }
    let segment = tcp_send_active_reset(&mut conn, now);
    if !send(env, &originated(flows, index, segment)) {
        return false;
    }
    env.snmp().inc(Mib::TCPAbortOnTimeout);
    done(env, flows, index, Some(Errno::ETIMEDOUT));
    true
}
