//! Connections as a whole: what a segment, a command or the end of a handshake makes of one, with its timers, its
//! record for the control side, and the counters that follow its state.

use crate::conn_shared::{ChildRef, Command};
use crate::core::dry_run::peek;
use crate::core::{Env, Flows, Send};
use crate::ehash::EntryId;
use crate::live::{drain, take_settings};
use crate::segment::{Originated, OutSegment, Outcome, Segment, Verdict};
use crate::snmp::Mib;
use crate::tcp_input::rcv_state::{Cx, Fate, tcp_rcv_state_process};
use crate::tcp_minisocks::TIMEWAIT_LEN;
use crate::tcp_output::{rto, tcp_send_ack, tcp_send_active_reset, tcp_send_fin};
use crate::types::{Nanos, TcpState, Then};

/// One segment on a connection.
pub(crate) fn rcv(env: &Env, flows: &mut Flows, index: u32, seg: &Segment, now: Nanos) -> Verdict {
    process(env, flows, index, seg, false, now)
}

fn process(env: &Env, flows: &mut Flows, index: u32, seg: &Segment, first: bool, now: Nanos) -> Verdict {
    let conn = &mut flows.table.conns.entry_mut(index).body;
    let before = conn.state;
    let mut cx = Cx { env, challenges: &mut flows.challenges, first, now };
    let step = tcp_rcv_state_process(&mut cx, conn, seg);
    match step.fate {
        Fate::Stay => follow(env, flows, index, before, now),
        Fate::Done => done(env, flows, index, false),
        Fate::Aborted => done(env, flows, index, true),
    }
    step.verdict
}

/// The segment that made a connection, and what its listener wants done with connections.
pub(crate) fn first_segment(env: &Env, flows: &mut Flows, index: u32, seg: &Segment, now: Nanos) -> Verdict {
    let then = flows.table.conns.entry(index).body.then;
    if then == Then::Reset {
        let reset = tcp_send_active_reset(&flows.table.conns.entry(index).body, now);
        done(env, flows, index, true);
        // By this name the kernel counts a close with SO_LINGER 0 (`tcp_disconnect`).
        env.snmp().inc(Mib::TCPAbortOnData);
        return Verdict::Reply(Outcome::Accept, reset);
    }
    if then == Then::Discard {
        flows.arm(EntryId::conn(index), now + Nanos(env.idle_ns));
    }
    let verdict = process(env, flows, index, seg, true, now);
    // Our FIN acknowledges whatever the segment brought, so it takes the place of an ACK.
    let fin = if then == Then::Close { close_at_once(env, flows, index, seg, now) } else { None };
    match (fin, verdict) {
        (Some(segment), _) | (None, Verdict::Reply(_, segment)) => Verdict::Reply(Outcome::Accept, segment),
        (None, Verdict::Consume(_) | Verdict::Drop(_)) => Verdict::Consume(Outcome::Accept),
    }
}

/// What close(2) sends for a connection whose first segment is `seg`: a RST if that brought data, as nobody will read
/// it, else our FIN.
///
/// # Source
/// Linux v6.18 `tcp_close`.
fn close_at_once(env: &Env, flows: &mut Flows, index: u32, seg: &Segment, now: Nanos) -> Option<OutSegment> {
    let conn = &mut flows.table.conns.entry_mut(index).body;
    if !matches!(conn.state, TcpState::Established | TcpState::CloseWait) {
        return None;
    }
    conn.orphan = true;
    if seg.payload_len > 0 && conn.rcv_nxt.after(seg.seq) {
        let reset = tcp_send_active_reset(conn, now);
        done(env, flows, index, true);
        env.snmp().inc(Mib::TCPAbortOnClose);
        return Some(reset);
    }
    close(env, flows, index, now)
}

/// Sends our FIN, if the state has one to send.
///
/// # Source
/// Linux v6.18 `tcp_close_state`, `tcp_send_fin`.
fn close(env: &Env, flows: &mut Flows, index: u32, now: Nanos) -> Option<OutSegment> {
    let conn = &mut flows.table.conns.entry_mut(index).body;
    let before = conn.state;
    conn.state = match before {
        TcpState::Established => TcpState::FinWait1,
        TcpState::CloseWait => TcpState::LastAck,
        _ => return None,
    };
    let fin = tcp_send_fin(conn, now);
    follow(env, flows, index, before, now);
    Some(fin)
}

/// Lets timers, record and counters follow a change of state.
fn follow(env: &Env, flows: &mut Flows, index: u32, before: TcpState, now: Nanos) {
    let conn = &flows.table.conns.entry(index).body;
    let (state, fin_sent) = (conn.state, conn.fin_sent());
    if state == before {
        return;
    }
    let id = EntryId::conn(index);
    count_state(env, before, state);
    env.shared.set_state(index, state, false);
    match state {
        TcpState::TimeWait if flows.tw_count >= env.tw_max => {
            env.snmp().inc(Mib::TCPTimeWaitOverflow);
            flows.table.conns.entry_mut(index).body.state = TcpState::Closing;
            done(env, flows, index, false);
        }
        TcpState::TimeWait => {
            flows.tw_count += 1;
            flows.arm(id, now + TIMEWAIT_LEN);
        }
        TcpState::FinWait2 => fin_wait2(env, flows, index, now),
        TcpState::FinWait1 | TcpState::LastAck if fin_sent => flows.arm(id, now + rto(0)),
        TcpState::CloseWait => flows.cancel(id),
        _ => {}
    }
}

/// In FIN-WAIT-2 a connection that somebody holds may wait for ever; any other waits `tcp_fin_timeout`.
fn fin_wait2(env: &Env, flows: &mut Flows, index: u32, now: Nanos) {
    let id = EntryId::conn(index);
    if flows.table.conns.entry(index).body.held {
        flows.cancel(id);
    } else {
        flows.arm(id, now + Nanos::from_secs(u64::from(env.sysctl.tcp_fin_timeout)));
    }
}

fn count_state(env: &Env, before: TcpState, after: TcpState) {
    let counted = |state| matches!(state, TcpState::Established | TcpState::CloseWait);
    if counted(before) && !counted(after) {
        env.snmp().dec(Mib::CurrEstab);
        if after == TcpState::Close {
            env.snmp().inc(Mib::EstabResets);
        }
    }
}

/// Ends a connection: out of the table and the wheel. Its slot is free again unless the control side holds it.
///
/// # Source
/// Linux v6.18 `tcp_done`.
pub(crate) fn done(env: &Env, flows: &mut Flows, index: u32, aborted: bool) {
    let id = EntryId::conn(index);
    let conn = &mut flows.table.conns.entry_mut(index).body;
    let before = std::mem::replace(&mut conn.state, TcpState::Close);
    let held = conn.held;
    if before == TcpState::TimeWait {
        flows.tw_count -= 1;
    }
    count_state(env, before, TcpState::Close);
    flows.cancel(id);
    flows.table.remove(id);
    env.shared.set_state(index, TcpState::Close, aborted);
    if !held {
        retire(env, flows, index);
    }
}

fn retire(env: &Env, flows: &mut Flows, index: u32) {
    env.shared.retire(index);
    flows.table.conns.free(index);
}

/// A segment that no frame asked for.
pub(crate) fn originated(flows: &Flows, index: u32, segment: OutSegment) -> Originated {
    let entry = flows.table.conns.entry(index);
    Originated { flow: entry.head.flow(), dev: entry.head.dev, route: entry.body.route, segment }
}

/// Carries out a command; false if there was no room to send, and nothing was changed.
pub(crate) fn command(
    env: &mut Env,
    flows: &mut Flows,
    command: Command,
    now: Nanos,
    send: &mut impl Send,
) -> bool {
    match command {
        Command::CookieKeys(keys) => {
            env.cookies = keys;
            env.shared.cookie_keys_taken();
            true
        }
        Command::Settings => {
            take_settings(env, flows);
            true
        }
        Command::Peek(asked) => {
            peek(env, flows, &asked, now);
            true
        }
        Command::Drain => {
            drain(env, flows);
            true
        }
        Command::Reset(child) => {
            live(env, flows, child).is_none_or(|index| reset(env, flows, index, now, send))
        }
        Command::Close(child) => {
            live(env, flows, child).is_none_or(|index| shutdown(env, flows, index, now, send))
        }
        Command::Discard(child) => {
            live(env, flows, child).is_none_or(|index| discard(env, flows, index, now, send))
        }
        Command::Release(child) => {
            live(env, flows, child).is_none_or(|index| release(env, flows, index, now, send))
        }
    }
}

/// The slot of a child, if it still is that child's.
fn live(env: &Env, flows: &Flows, child: ChildRef) -> Option<u32> {
    let ours = child.core == env.core && child.index < env.shared.capacity();
    (ours && flows.table.conns.entry(child.index).head.generation == child.generation).then_some(child.index)
}

fn reset(env: &Env, flows: &mut Flows, index: u32, now: Nanos, send: &mut impl Send) -> bool {
    let state = flows.table.conns.entry(index).body.state;
    // `tcp_need_reset`: where both FINs were sent, there is nothing left to break off.
    let silent =
        matches!(state, TcpState::Close | TcpState::TimeWait | TcpState::LastAck | TcpState::Closing);
    if !silent {
        let segment = tcp_send_active_reset(&flows.table.conns.entry(index).body, now);
        if !send(env, &originated(flows, index, segment)) {
            return false;
        }
    }
    flows.table.conns.entry_mut(index).body.held = false;
    if state == TcpState::Close {
        retire(env, flows, index);
    } else {
        done(env, flows, index, true);
    }
    true
}

fn shutdown(env: &Env, flows: &mut Flows, index: u32, now: Nanos, send: &mut impl Send) -> bool {
    let mut conn = flows.table.conns.entry(index).body;
    if !matches!(conn.state, TcpState::Established | TcpState::CloseWait) {
        return true;
    }
    // Tried on a copy: if there is no room to send it, it was not sent.
    let segment = tcp_send_fin(&mut conn, now);
    if !send(env, &originated(flows, index, segment)) {
        return false;
    }
    close(env, flows, index, now);
    true
}

/// Opens the window of a child that waited for `accept`; tells the peer if it has run into it.
fn discard(env: &Env, flows: &mut Flows, index: u32, now: Nanos, send: &mut impl Send) -> bool {
    let mut conn = flows.table.conns.entry(index).body;
    if conn.then != Then::Queue || conn.state == TcpState::Close {
        return true;
    }
    // Unlike a `discard` listener's, it is held: its FIN is the holder's to send, and it may stay idle.
    conn.then = Then::Close;
    if std::mem::take(&mut conn.stuffed) {
        let segment = tcp_send_ack(&conn, now);
        if !send(env, &originated(flows, index, segment)) {
            return false;
        }
    }
    flows.table.conns.entry_mut(index).body = conn;
    true
}

fn release(env: &Env, flows: &mut Flows, index: u32, now: Nanos, send: &mut impl Send) -> bool {
    let conn = flows.table.conns.entry(index).body;
    // Data came that nobody will ever read: close(2) says so with a RST.
    if conn.stuffed && !matches!(conn.state, TcpState::Close | TcpState::TimeWait) {
        let done = reset(env, flows, index, now, send);
        env.snmp().add(Mib::TCPAbortOnClose, u64::from(done));
        return done;
    }
    if !shutdown(env, flows, index, now, send) {
        return false;
    }
    let conn = &mut flows.table.conns.entry_mut(index).body;
    conn.held = false;
    conn.orphan = true;
    match conn.state {
        TcpState::Close => retire(env, flows, index),
        TcpState::FinWait2 => fin_wait2(env, flows, index, now),
        _ => {}
    }
    true
}
