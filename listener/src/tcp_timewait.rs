//! Time-wait entries: TIME_WAIT itself, and FIN-WAIT-2 once nobody holds the connection.

use crate::core::{Env, Flows};
use crate::drop_reason::DropReason;
use crate::ehash::EntryId;
use crate::request_sock::Conn;
use crate::segment::{Outcome, Segment, Verdict, flag};
use crate::snmp::Mib;
use crate::tcp;
use crate::tcp_input::rcv_state::{oow_rate_limited, paws_reject, tcp_replace_ts_recent};
use crate::tcp_ipv4::Next;
use crate::tcp_minisocks::{TIMEWAIT_LEN, in_window};
use crate::tcp_output::{tcp_send_ack, tcp_send_reset};
use crate::types::{Nanos, SegSeq, TcpState};

/// A segment at a time-wait entry.
///
/// # Source
/// Linux v6.18 `tcp_timewait_state_process` (net/ipv4/tcp_minisocks.c).
pub(crate) fn timewait_rcv(env: &Env, flows: &mut Flows, index: u32, seg: &Segment, now: Nanos) -> Next {
    let tw = &flows.table.conns.entry(index).body;
    let paws = tw.tstamp_ok() && paws_reject(tw.ts_recent, seg, Some(tw.ts_recent_stamp), now);
    if tw.mini() {
        Next::Done(fin_wait2_rcv(env, flows, index, seg, paws, now))
    } else {
        time_wait_rcv(env, flows, index, seg, paws, now)
    }
}

/// In FIN-WAIT-2 only the peer's FIN moves on. What comes besides ends the entry, or says nothing.
///
/// # Source
/// Linux v6.18 `tcp_timewait_state_process`, substate `TCP_FIN_WAIT2`.
fn fin_wait2_rcv(env: &Env, flows: &mut Flows, index: u32, seg: &Segment, paws: bool, now: Nanos) -> Verdict {
    let tw = &mut flows.table.conns.entry_mut(index).body;
    if paws || !in_window(seg, tw.rcv_nxt, tw.rcv_wnd) {
        let reason = if paws { DropReason::TcpPaws } else { DropReason::TcpOutOfWindow };
        return answer(env, tw, seg, Mib::TCPACKSkippedFinWait2, reason, now);
    }
    if seg.has(flag::RST) {
        tcp::done(env, flows, index, None);
        return Verdict::Drop(DropReason::TcpReset);
    }
    let end = seg.seq.plus(seg.seg_len());
    let syn = seg.has(flag::SYN) && !seg.seq.before(tw.rcv_nxt);
    if !syn {
        if !seg.has(flag::ACK) {
            return Verdict::Drop(DropReason::TcpNoAck);
        }
        if !end.after(tw.rcv_nxt) || end == seg.seq {
            return Verdict::Consume(Outcome::Other);
        }
    }
    if syn || !seg.has(flag::FIN) || end != tw.rcv_nxt.plus(1) {
        tcp::done(env, flows, index, None);
        return Verdict::Reply(Outcome::Rst, tcp_send_reset(seg));
    }
    tw.set_mini(false);
    tw.state = TcpState::TimeWait;
    tcp_replace_ts_recent(tw, seg, now);
    tw.rcv_nxt = end;
    let ack = tcp_send_ack(tw, now);
    flows.arm(EntryId::conn(index), now + TIMEWAIT_LEN);
    Verdict::Reply(Outcome::Other, ack)
}

/// An ACK of what was received, unless one was sent just before.
fn answer(env: &Env, tw: &mut Conn, seg: &Segment, skipped: Mib, reason: DropReason, now: Nanos) -> Verdict {
    if oow_rate_limited(env, skipped, &mut tw.last_oow_ack, seg, now) {
        Verdict::Drop(reason)
    } else {
        Verdict::Reply(Outcome::Other, tcp_send_ack(tw, now))
    }
}

/// A segment in TIME_WAIT.
///
/// # Source
/// Linux v6.18 `tcp_timewait_state_process`, substate `TCP_TIME_WAIT`.
fn time_wait_rcv(env: &Env, flows: &mut Flows, index: u32, seg: &Segment, paws: bool, now: Nanos) -> Next {
    let tw = &mut flows.table.conns.entry_mut(index).body;
    let rst = seg.has(flag::RST);
    if !paws && seg.seq == tw.rcv_nxt && (seg.seg_len() == 0 || rst) {
        tcp_replace_ts_recent(tw, seg, now);
        return Next::Done(match (rst, env.sysctl.tcp_rfc1337) {
            (false, _) => {
                flows.arm(EntryId::conn(index), now + TIMEWAIT_LEN);
                Verdict::Consume(Outcome::Other)
            }
            (true, protect) => {
                if !protect {
                    tcp::done(env, flows, index, None);
                }
                Verdict::Drop(DropReason::TcpReset)
            }
        });
    }
    let newer = seg.seq.after(tw.rcv_nxt)
        || seg
            .options
            .timestamps
            .is_some_and(|(tsval, _)| tw.tstamp_ok() && (tw.ts_recent.wrapping_sub(tsval) as i32) < 0);
    if seg.flags & (flag::SYN | flag::RST | flag::ACK) == flag::SYN
        && !paws
        && newer
        && let Some(listener) = env.lookup_listener(seg)
    {
        let isn = tw.snd_nxt().plus(65_535 + 2).0.max(1);
        tcp::done(env, flows, index, None);
        env.snmp().inc(Mib::TWRecycled);
        return Next::Recycle(listener, SegSeq(isn));
    }
    if paws {
        env.snmp().inc(Mib::PAWSTimewait);
    }
    if rst {
        return Next::Done(Verdict::Drop(DropReason::TcpOutOfWindow));
    }
    let verdict = answer(env, tw, seg, Mib::TCPACKSkippedTimeWait, DropReason::TcpOldData, now);
    // A SYN may be an old duplicate or a new one with a small number: it does not prolong the wait.
    if paws || seg.has(flag::ACK) {
        flows.arm(EntryId::conn(index), now + TIMEWAIT_LEN);
    }
    Next::Done(verdict)
}
