//! The receive half of a connection (RFC 9293 §3.10.7.4) as the kernel does it: sequence and timestamp tests, RST and
//! SYN with their challenge ACKs (RFC 5961), acknowledgements of our FIN, data in order, the peer's FIN.
//!
//! One call changes one [`Conn`] and says what to answer and what becomes of it; timers and tables are the caller's.
//!
//! # Departures from the kernel
//! Data out of order is not kept: it is answered by a duplicate ACK, and the peer sends it again. Every segment with
//! data is acknowledged at once. No SACK blocks are sent.

use crate::core::{Env, clock_ms};
use crate::drop_reason::DropReason;
use crate::error::Errno;
use crate::ratelimit::PerSecond;
use crate::request_sock::Conn;
use crate::segment::{Outcome, Segment, Verdict, flag};
use crate::snmp::Mib;
use crate::tcp_minisocks::TIMEWAIT_LEN;
use crate::tcp_output::{tcp_send_ack, tcp_send_fin, tcp_send_reset};
use crate::tcp_rtt::{tcp_fin_time, tcp_tsval_replay};
use crate::tcp_window::tcp_select_window;
use crate::types::{Nanos, TcpState, Then};

/// Milliseconds after which a timestamp is too old to compare with (RFC 7323 §5.5).
const PAWS_24DAYS_MS: u32 = 24 * 24 * 60 * 60 * 1000;
/// Milliseconds after which a RST with an old timestamp is believed (`TCP_PAWS_MSL`).
const PAWS_MSL_MS: u32 = 60_000;

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes on, perhaps in another state.
    Stay,
    /// It has ended in good order.
    Done,
    /// It was reset, by the peer or by us; what its holder is told.
    Aborted(Errno),
}

/// What one segment did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub verdict: Verdict,
    pub fate: Fate,
}

impl Step {
    fn stay(verdict: Verdict) -> Self {
        Self { verdict, fate: Fate::Stay }
    }

    fn drop(reason: DropReason) -> Self {
        Self::stay(Verdict::Drop(reason))
    }

    fn done() -> Self {
        Self { verdict: Verdict::Consume(Outcome::Other), fate: Fate::Done }
    }

    fn consume() -> Self {
        Self::stay(Verdict::Consume(Outcome::Other))
    }
}

/// What a step may use besides the connection.
pub(crate) struct Cx<'a> {
    pub env: &'a Env,
    pub challenges: &'a mut PerSecond,
    /// The segment is the one that made the connection.
    pub first: bool,
    pub now: Nanos,
}

impl Cx<'_> {
    fn ack(&self, conn: &mut Conn) -> Step {
        Step::stay(Verdict::Reply(Outcome::Other, tcp_send_ack(conn, self.now)))
    }

    /// A duplicate ACK for a segment out of window, unless one was sent just before.
    fn dupack(&self, conn: &mut Conn, seg: &Segment, skipped: Mib, reason: DropReason) -> Step {
        if oow_rate_limited(self.env, skipped, &mut conn.last_oow_ack, seg, self.now) {
            return Step::drop(reason);
        }
        self.ack(conn)
    }

    /// # Source
    /// Linux v6.18 `tcp_send_challenge_ack` (RFC 5961 §5, §7).
    fn challenge_ack(&mut self, conn: &mut Conn) -> Step {
        let limit = self.env.sysctl.tcp_challenge_ack_limit;
        let skipped = Mib::TCPACKSkippedChallenge;
        if rate_limited(self.env, skipped, &mut conn.last_oow_ack, self.now)
            || !self.challenges.take(limit, self.now)
        {
            return Step::drop(DropReason::TcpChallengeLimit);
        }
        self.env.snmp().inc(Mib::TCPChallengeACK);
        self.ack(conn)
    }
}

/// One answer per `tcp_invalid_ratelimit`; true if this one is to be left out. `last` is 0 if there was none.
pub(crate) fn rate_limited(env: &Env, skipped: Mib, last: &mut u32, now: Nanos) -> bool {
    let clock = clock_ms(now).max(1);
    if *last != 0 && clock.wrapping_sub(*last) < env.sysctl.tcp_invalid_ratelimit {
        env.snmp().inc(skipped);
        return true;
    }
    *last = clock;
    false
}

/// The same for answers to segments out of window; data is always answered, for it is no part of a loop of ACKs.
///
/// # Source
/// Linux v6.18 `tcp_oow_rate_limited`.
pub(crate) fn oow_rate_limited(env: &Env, skipped: Mib, last: &mut u32, seg: &Segment, now: Nanos) -> bool {
    if seg.seg_len() != 0 && !seg.has(flag::SYN) {
        return false;
    }
    rate_limited(env, skipped, last, now)
}

/// True if the segment's timestamp is older than `ts_recent`. `stamp` is when that was taken, in ms; `None` = just now.
///
/// # Source
/// Linux v6.18 `tcp_paws_check`, `tcp_paws_reject`; RFC 7323 §5.
pub(crate) fn paws_reject(ts_recent: u32, seg: &Segment, stamp: Option<u32>, now: Nanos) -> bool {
    let Some((tsval, _)) = seg.options.timestamps else { return false };
    let age = stamp.map_or(0, |stamp| clock_ms(now).wrapping_sub(stamp));
    if ts_recent.wrapping_sub(tsval) as i32 <= 0 || ts_recent == 0 || age >= PAWS_24DAYS_MS {
        return false;
    }
    !(seg.has(flag::RST) && age >= PAWS_MSL_MS)
}

/// Takes the segment's timestamp if it is newer and the segment does not start behind what was acknowledged.
///
/// # Source
/// Linux v6.18 `tcp_replace_ts_recent`; RFC 7323 §4.3.
pub(crate) fn tcp_replace_ts_recent(conn: &mut Conn, seg: &Segment, now: Nanos) {
    if let Some((tsval, _)) = seg.options.timestamps
        && conn.tstamp_ok()
        && !seg.seq.after(conn.rcv_nxt)
        && (conn.ts_recent == 0 || conn.ts_recent.wrapping_sub(tsval) as i32 <= 0)
    {
        conn.ts_recent = tsval;
        conn.ts_recent_stamp = clock_ms(now);
    }
}

/// One segment on a connection that is neither in TIME_WAIT nor closed.
///
/// # Source
/// Linux v6.18 `tcp_rcv_established`, `tcp_rcv_state_process` (net/ipv4/tcp_input.c).
pub(crate) fn tcp_rcv_state_process(cx: &mut Cx<'_>, conn: &mut Conn, seg: &Segment) -> Step {
    if seg.flags & (flag::ACK | flag::RST | flag::SYN) == 0 {
        return Step::drop(DropReason::TcpNoAck);
    }
    if let Some(step) = tcp_validate_incoming(cx, conn, seg) {
        return step;
    }
    if let Some(step) = tcp_ack(cx, conn, seg) {
        return step;
    }
    conn.route = seg.route;
    if !conn.fin_sent() {
        conn.stamp = clock_ms(cx.now);
    }
    tcp_replace_ts_recent(conn, seg, cx.now);
    if conn.ecn_ok() {
        let marked = seg.tos & 3 == 3;
        conn.set_ecn_echo(marked || (conn.ecn_echo() && !seg.has(flag::CWR)));
    }
    if conn.fin_sent()
        && seg.ack == conn.snd_nxt()
        && let Some(step) = fin_acked(cx, conn, seg)
    {
        return step;
    }
    tcp_data(cx, conn, seg)
}

/// Our FIN was acknowledged, perhaps long ago. `None` = the segment may go on.
///
/// # Source
/// Linux v6.18 `tcp_rcv_state_process`, step 5.
fn fin_acked(cx: &mut Cx<'_>, conn: &mut Conn, seg: &Segment) -> Option<Step> {
    match conn.state {
        TcpState::FinWait1 => {
            conn.state = TcpState::FinWait2;
            if !conn.orphan() {
                return None;
            }
            if brings_data(conn, seg) {
                return Some(abort_on_data(cx, conn, seg));
            }
            // A time-wait entry from here on, which has no use for the rest; but a FIN must not be lost.
            let lasts = tcp_fin_time(conn, cx.env.sysctl.tcp_fin_timeout);
            (!seg.has(flag::FIN) && lasts <= TIMEWAIT_LEN).then(Step::consume)
        }
        TcpState::Closing => {
            conn.state = TcpState::TimeWait;
            Some(Step::consume())
        }
        TcpState::LastAck => Some(Step::done()),
        _ => None,
    }
}

/// True if the segment brings data, or a FIN behind a hole, that nobody will read.
fn brings_data(conn: &Conn, seg: &Segment) -> bool {
    let data_end = seg.seq.plus(u32::from(seg.payload_len) + u32::from(seg.has(flag::SYN)));
    seg.seg_len() != 0 && data_end.after(conn.rcv_nxt)
}

/// Data came where nobody reads it any more.
///
/// # Source
/// Linux v6.18 `tcp_reset`, `tcp_v4_do_rcv`, label `reset`.
fn abort_on_data(cx: &Cx<'_>, conn: &Conn, seg: &Segment) -> Step {
    cx.env.snmp().inc(Mib::TCPAbortOnData);
    Step {
        verdict: Verdict::Reply(Outcome::Rst, tcp_send_reset(seg)),
        fate: Fate::Aborted(reset_error(conn)),
    }
}

/// What the holder of a connection that is reset is told.
fn reset_error(conn: &Conn) -> Errno {
    if conn.state == TcpState::CloseWait { Errno::EPIPE } else { Errno::ECONNRESET }
}

/// Timestamps, sequence, RST, SYN, in this order. `None` = the segment may go on.
///
/// # Source
/// Linux v6.18 `tcp_validate_incoming`, `tcp_sequence`, `tcp_reset_check`.
fn tcp_validate_incoming(cx: &mut Cx<'_>, conn: &mut Conn, seg: &Segment) -> Option<Step> {
    let rst = seg.has(flag::RST);
    // One tick of grace, as the kernel gives to segments that overtook each other (TCP_PAWS_WINDOW). A RST is
    // believed whatever its timestamp.
    let old = conn.tstamp_ok()
        && paws_reject(conn.ts_recent.wrapping_sub(1), seg, Some(conn.ts_recent_stamp), cx.now);
    if old && conn.ts_recent != 0 && !rst {
        match old_segment(conn, seg) {
            Old::Overtaken => {}
            Old::Challenged => return Some(syn_challenge(cx, conn)),
            Old::Ignored => {
                cx.env.snmp().inc(Mib::PAWSOldAck);
                return Some(Step::drop(DropReason::TcpPaws));
            }
            Old::Answered => {
                cx.env.snmp().inc(Mib::PAWSEstab);
                return Some(cx.dupack(conn, seg, Mib::TCPACKSkippedPAWS, DropReason::TcpPaws));
            }
        }
    }
    let window_end = conn.rcv_nxt.plus(conn.rcv_wnd);
    let end_seq = seg.seq.plus(seg.seg_len());
    // Across the window's end, but for a FIN, only as long as nothing else waits to be read.
    let crosses = end_seq.after(window_end) && seg.seq.plus(u32::from(seg.payload_len)).after(window_end);
    if end_seq.before(conn.rcv_nxt) || seg.seq.after(window_end) || (crosses && has_unread_fin(conn)) {
        if !rst {
            if seg.has(flag::SYN) {
                return Some(syn_challenge(cx, conn));
            }
            return Some(cx.dupack(conn, seg, Mib::TCPACKSkippedSeq, DropReason::TcpOutOfWindow));
        }
        return Some(if tcp_reset_check(conn, seg) {
            tcp_reset(conn)
        } else {
            Step::drop(DropReason::TcpOutOfWindow)
        });
    }
    if rst {
        return Some(if seg.seq == conn.rcv_nxt || tcp_reset_check(conn, seg) {
            tcp_reset(conn)
        } else {
            cx.challenge_ack(conn)
        });
    }
    seg.has(flag::SYN).then(|| syn_challenge(cx, conn))
}

/// True if the peer's FIN waits in the receive queue: nobody reads, or it came after close(2).
fn has_unread_fin(conn: &Conn) -> bool {
    match conn.state {
        TcpState::Closing => conn.orphan() || conn.then == Then::Queue,
        TcpState::CloseWait | TcpState::LastAck => conn.then == Then::Queue,
        _ => false,
    }
}

/// True for a RST from a peer that does not count its FIN.
///
/// # Source
/// Linux v6.18 `tcp_reset_check`.
fn tcp_reset_check(conn: &Conn, seg: &Segment) -> bool {
    matches!(conn.state, TcpState::CloseWait | TcpState::LastAck | TcpState::Closing)
        && seg.seq.plus(1) == conn.rcv_nxt
}

/// # Source
/// Linux v6.18 `tcp_reset`.
fn tcp_reset(conn: &Conn) -> Step {
    Step { verdict: Verdict::Drop(DropReason::TcpReset), fate: Fate::Aborted(reset_error(conn)) }
}

/// What is to be done with a segment whose timestamp is old.
enum Old {
    /// Pure ACKs overtake each other: as if it were in order.
    Overtaken,
    Challenged,
    Ignored,
    Answered,
}

/// # Source
/// Linux v6.18 `tcp_validate_incoming`, `tcp_disordered_ack_check`.
fn old_segment(conn: &Conn, seg: &Segment) -> Old {
    let pure_ack = seg.has(flag::ACK) && seg.seg_len() == 0;
    let age = seg.options.timestamps.map_or(0, |(tsval, _)| conn.ts_recent.wrapping_sub(tsval));
    if pure_ack
        && seg.seq == conn.rcv_nxt
        && seg.ack == conn.snd_una()
        && !tcp_may_update_window(conn, seg)
        && age <= tcp_tsval_replay(conn.rto)
    {
        Old::Overtaken
    } else if seg.has(flag::SYN) {
        Old::Challenged
    } else if pure_ack && seg.seq.before(conn.rcv_nxt) {
        Old::Ignored
    } else {
        Old::Answered
    }
}

/// # Source
/// Linux v6.18 `tcp_may_update_window`.
fn tcp_may_update_window(conn: &Conn, seg: &Segment) -> bool {
    seg.ack.after(conn.snd_una())
        || seg.seq.after(conn.snd_wl1)
        || (seg.seq == conn.snd_wl1 && (seg.wnd > conn.snd_wnd || seg.wnd == 0))
}

fn syn_challenge(cx: &mut Cx<'_>, conn: &mut Conn) -> Step {
    if conn.state == TcpState::Established && !cx.first {
        cx.env.snmp().inc(Mib::InErrs);
    }
    cx.env.snmp().inc(Mib::TCPSYNChallenge);
    cx.challenge_ack(conn)
}

/// The acknowledgement field. `None` = the segment may go on.
///
/// # Source
/// Linux v6.18 `tcp_ack`; RFC 5961 §5. Since we send no data, whatever is before our SYN's end is too old.
fn tcp_ack(cx: &mut Cx<'_>, conn: &mut Conn, seg: &Segment) -> Option<Step> {
    if seg.ack.before(conn.snd_start) || seg.ack.after(conn.snd_nxt()) {
        return Some(cx.challenge_ack(conn));
    }
    if !seg.ack.before(conn.snd_una()) && tcp_may_update_window(conn, seg) {
        (conn.snd_wl1, conn.snd_wnd) = (seg.seq, seg.wnd);
    }
    None
}

/// Data and FIN.
///
/// # Source
/// Linux v6.18 `tcp_rcv_state_process` from step 7 on, `tcp_data_queue`, `tcp_fin`.
fn tcp_data(cx: &mut Cx<'_>, conn: &mut Conn, seg: &Segment) -> Step {
    let len = u32::from(seg.payload_len);
    let fin = seg.has(flag::FIN);
    if len == 0 && !fin {
        return Step::consume();
    }
    let data_end = seg.seq.plus(len);
    let fin_taken = matches!(conn.state, TcpState::CloseWait | TcpState::LastAck | TcpState::Closing);
    if fin_taken && !seg.seq.before(conn.rcv_nxt) {
        return Step::drop(DropReason::TcpClosed);
    }
    if conn.state != TcpState::Established && conn.is_rcv_shutdown() && brings_data(conn, seg) {
        return abort_on_data(cx, conn, seg);
    }
    let news = seg.seq.plus(seg.seg_len()).after(conn.rcv_nxt) && !fin_taken;
    if !news || seg.seq.after(conn.rcv_nxt) {
        return cx.ack(conn);
    }
    if data_end.after(conn.rcv_nxt) {
        if conn.then == Then::Queue {
            cx.env.snmp().inc(Mib::TCPZeroWindowDrop);
            conn.set_stuffed(true);
            return cx.ack(conn);
        }
        let octets = data_end.distance_from(conn.rcv_nxt);
        cx.env.snmp().add(Mib::DiscardedOctets, u64::from(octets));
        receive(conn, octets);
    }
    if fin {
        return tcp_fin(cx, conn);
    }
    cx.ack(conn)
}

/// Takes `octets` of the sequence, which the segment that follows acknowledges.
fn receive(conn: &mut Conn, octets: u32) {
    conn.rcv_nxt = conn.rcv_nxt.plus(octets);
    tcp_select_window(conn, octets);
}

/// The peer's FIN, in order.
fn tcp_fin(cx: &mut Cx<'_>, conn: &mut Conn) -> Step {
    receive(conn, 1);
    let step = cx.ack(conn);
    conn.state = match conn.state {
        TcpState::FinWait1 => TcpState::Closing,
        TcpState::FinWait2 => TcpState::TimeWait,
        TcpState::Established if conn.then == Then::Discard => {
            conn.state = TcpState::LastAck;
            let segment = tcp_send_fin(conn, cx.now);
            return Step::stay(Verdict::Reply(Outcome::Other, segment));
        }
        _ => TcpState::CloseWait,
    };
    step
}
