//! Connections as a whole: what a segment, a command or the end of a handshake makes of one, with its timers, its
//! record for the control side, and the counters that follow its state.

use crate::conn_shared::{ChildRef, Command};
use crate::core::dry_run::peek;
use crate::core::{Env, Flows, Send};
use crate::ehash::EntryId;
use crate::error::Errno;
use crate::live::{drain, take_settings};
use crate::segment::{Originated, OutSegment, Outcome, Segment, Verdict};
use crate::snmp::Mib;
use crate::tcp_input::rcv_state::{Cx, Fate, tcp_rcv_state_process};
use crate::tcp_minisocks::TIMEWAIT_LEN;
use crate::tcp_output::{tcp_send_ack, tcp_send_active_reset, tcp_send_fin};
use crate::tcp_rtt::{tcp_fin_time, ticks_to_nanos};
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
        Fate::Done => done(env, flows, index, None),
        Fate::Aborted(error) => done(env, flows, index, Some(error)),
    }
    step.verdict
}

/// The segment that made a connection, and what its listener wants done with connections.
pub(crate) fn first_segment(env: &Env, flows: &mut Flows, index: u32, seg: &Segment, now: Nanos) -> Verdict {
    let then = flows.table.conns.entry(index).body.then;
    if then == Then::Reset {
        let reset = tcp_send_active_reset(&mut flows.table.conns.entry_mut(index).body, now);
        done(env, flows, index, Some(Errno::ECONNRESET));
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
    conn.set_orphan(true);
    if seg.payload_len > 0 && conn.rcv_nxt.after(seg.seq) {
        let reset = tcp_send_active_reset(conn, now);
        done(env, flows, index, Some(Errno::ECONNRESET));
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
    let after = match before {
        TcpState::Established => TcpState::FinWait1,
        TcpState::CloseWait => TcpState::LastAck,
        _ => return None,
    };
    let fin = tcp_send_fin(conn, now);
    conn.state = after;
    follow(env, flows, index, before, now);
    Some(fin)
}

/// Lets timers, record and counters follow a change of state.
fn follow(env: &Env, flows: &mut Flows, index: u32, before: TcpState, now: Nanos) {
    let conn = &flows.table.conns.entry(index).body;
    let state = conn.state;
    if state == before {
        return;
    }
    let id = EntryId::conn(index);
    count_state(env, before, state);
    env.shared.set_state(index, state, None);
    match state {
        TcpState::TimeWait => time_wait(env, flows, index, now + TIMEWAIT_LEN),
        TcpState::FinWait2 => fin_wait2(env, flows, index, now),
        TcpState::FinWait1 | TcpState::LastAck => {
            let first = if conn.probe != 0 { conn.probe } else { conn.rto };
            flows.arm(id, now + ticks_to_nanos(first));
        }
        TcpState::CloseWait => flows.cancel(id),
        _ => {}
    }
}

/// In FIN-WAIT-2 a connection that somebody holds may wait for ever. Any other becomes a time-wait entry that lasts for
/// `tcp_fin_timeout`, or for what is left of it beyond a minute once that much has passed.
///
/// # Source
/// Linux v6.18 `tcp_rcv_state_process`, `__tcp_close`.
fn fin_wait2(env: &Env, flows: &mut Flows, index: u32, now: Nanos) {
    let conn = &flows.table.conns.entry(index).body;
    if conn.held() {
        flows.cancel(EntryId::conn(index));
        return;
    }
    let lasts = tcp_fin_time(conn, env.sysctl.tcp_fin_timeout);
    if lasts > TIMEWAIT_LEN {
        flows.arm(EntryId::conn(index), now + Nanos(lasts.0 - TIMEWAIT_LEN.0));
    } else {
        fin_wait2_entry(env, flows, index, now + lasts);
    }
}

/// Nobody holds a connection in FIN-WAIT-2: a time-wait entry up to `end`.
pub(crate) fn fin_wait2_entry(env: &Env, flows: &mut Flows, index: u32, end: Nanos) {
    flows.table.conns.entry_mut(index).body.set_mini(true);
    // What holds its port is a time-wait entry.
    env.shared.set_state(index, TcpState::TimeWait, None);
    time_wait(env, flows, index, end);
}

/// A connection is a time-wait entry from here on, if there is room for one.
///
/// # Source
/// Linux v6.18 `tcp_time_wait`.
fn time_wait(env: &Env, flows: &mut Flows, index: u32, end: Nanos) {
    let conn = &mut flows.table.conns.entry_mut(index).body;
    conn.last_oow_ack = 0;
    if flows.tw_count >= env.tw_max {
        env.snmp().inc(Mib::TCPTimeWaitOverflow);
        conn.set_mini(false);
        conn.state = TcpState::Closing;
        done(env, flows, index, None);
        return;
    }
    flows.tw_count += 1;
    flows.arm(EntryId::conn(index), end);
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
pub(crate) fn done(env: &Env, flows: &mut Flows, index: u32, error: Option<Errno>) {
    let id = EntryId::conn(index);
    let conn = &mut flows.table.conns.entry_mut(index).body;
    flows.tw_count -= u32::from(conn.is_time_wait());
    let before = std::mem::replace(&mut conn.state, TcpState::Close);
    conn.set_mini(false);
    let held = conn.held();
    count_state(env, before, TcpState::Close);
    flows.cancel(id);
    flows.table.remove(id);
    env.shared.set_state(index, TcpState::Close, error);
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
        Command::ShutRd(child) => {
            if let Some(index) = live(env, flows, child) {
                flows.table.conns.entry_mut(index).body.set_rcv_shut(true);
            }
            true
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
    let mut conn = flows.table.conns.entry(index).body;
    // `tcp_need_reset`: where both FINs were sent, there is nothing left to break off.
    let silent =
        matches!(conn.state, TcpState::Close | TcpState::TimeWait | TcpState::LastAck | TcpState::Closing);
    if !silent {
        let segment = tcp_send_active_reset(&mut conn, now);
        if !send(env, &originated(flows, index, segment)) {
            return false;
        }
    }
    flows.table.conns.entry_mut(index).body.set_held(false);
    if conn.state == TcpState::Close {
        retire(env, flows, index);
    } else {
        done(env, flows, index, Some(Errno::ECONNRESET));
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
    if conn.stuffed() {
        conn.set_stuffed(false);
        let segment = tcp_send_ack(&mut conn, now);
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
    if conn.stuffed() && !matches!(conn.state, TcpState::Close | TcpState::TimeWait) {
        let done = reset(env, flows, index, now, send);
        env.snmp().add(Mib::TCPAbortOnClose, u64::from(done));
        return done;
    }
    if !shutdown(env, flows, index, now, send) {
        return false;
    }
    let conn = &mut flows.table.conns.entry_mut(index).body;
    conn.set_held(false);
    conn.set_orphan(true);
    match conn.state {
        TcpState::Close => retire(env, flows, index),
        TcpState::FinWait2 => fin_wait2(env, flows, index, now),
        _ => {}
    }
    true
}
