//! The segments that hearken sends: SYN-ACK, ACK, FIN and RST, as values. Pure functions.

use crate::core::{Env, clock_ms};
use crate::flow_hash::flow_hash;
use crate::listen_sock::ListenSock;
use crate::request_sock::{Conn, Request};
use crate::segment::{FlowKey, OutSegment, Segment, TcpOptions, flag};
use crate::siphash::{siphash_2_4, siphash_2_4_tail};
use crate::syncookies::CookieKey;
use crate::sysctl::Sysctl;
use crate::tcp_window::tcp_select_window;
use crate::types::{DevIndex, Nanos, SegSeq};

/// First retransmission timeout of a SYN-ACK (RFC 6298 §2.1; Linux v6.18 `TCP_TIMEOUT_INIT`).
pub(crate) const TCP_TIMEOUT_INIT: Nanos = Nanos::from_secs(1);
/// Longest retransmission timeout (`TCP_RTO_MAX`).
const TCP_RTO_MAX: Nanos = Nanos::from_secs(120);

/// What an answer without a connection takes over from the TOS byte (`INET_DSCP_MASK`): not the ECN codepoint.
pub(crate) const DSCP: u8 = 0xfc;
/// Timeout number `timeouts` of a SYN-ACK, from 0: doubling, with a cap.
pub(crate) fn rto(timeouts: u8) -> Nanos {
    Nanos((TCP_TIMEOUT_INIT.0 << timeouts.min(7)).min(TCP_RTO_MAX.0))
}

/// The MSS that an MTU leaves.
#[inline]
pub(crate) const fn mss_of(mtu: u16, v4: bool) -> u16 {
    mtu.saturating_sub(if v4 { 40 } else { 60 })
}

/// The MSS that we advertise: what the device's MTU leaves, lowered by TCP_MAXSEG.
#[inline]
pub(crate) fn advertised_mss(env: &Env, slot: &ListenSock, dev: DevIndex, v4: bool) -> u16 {
    let mss = mss_of(env.mtu(dev), v4);
    match slot.mss_clamp() {
        0 => mss,
        clamp => mss.min(clamp),
    }
}

/// Our initial sequence number: a keyed hash of the four-tuple and a clock of 64 ns (RFC 6528).
///
/// # Source
/// Linux v6.18 `secure_tcp_seq`, `seq_scale` (net/core/secure_seq.c).
#[inline]
pub(crate) fn secure_tcp_seq(env: &Env, flow: &FlowKey, now: Nanos) -> SegSeq {
    seq_scale(flow_hash(env.isn_key, flow), now)
}

/// The initial sequence number whose hash is known.
#[inline]
pub(crate) fn seq_scale(hash: u32, now: Nanos) -> SegSeq {
    SegSeq(hash.wrapping_add((now.0 >> 6) as u32))
}

/// What is added to the clock in TSval for a pair of hosts.
///
/// # Source
/// Linux v6.18 `secure_tcp_ts_off`; 0 with `tcp_timestamps` = 2.
#[inline]
pub(crate) fn secure_tcp_ts_off(sysctl: &Sysctl, key: &CookieKey, flow: &FlowKey) -> u32 {
    if sysctl.tcp_timestamps != 1 {
        return 0;
    }
    let hash = match (flow.saddr.as_v4(), flow.daddr.as_v4()) {
        (Some(saddr), Some(daddr)) => {
            // As of a flow without ports, for them to be hashed many at a time.
            siphash_2_4_tail(key.timestamps, [u64::from(saddr) << 32 | u64::from(daddr)], 0)
        }
        _ => {
            siphash_2_4(key.timestamps, [flow.saddr.hi(), flow.saddr.lo(), flow.daddr.hi(), flow.daddr.lo()])
        }
    };
    hash as u32
}

/// The SYN-ACK of a request; `ts` is TSval before the offset.
///
/// # Source
/// Linux v6.18 `tcp_make_synack`, `tcp_synack_options`.
#[inline(always)]
pub(crate) fn tcp_make_synack(req: &Request, ts: u32) -> OutSegment {
    OutSegment {
        flags: flag::SYN | flag::ACK | if req.ecn_ok { flag::ECE } else { 0 },
        tos: req.tos,
        wnd: req.rcv_wnd,
        seq: req.iss,
        ack: req.irs.plus(1),
        options: TcpOptions {
            mss: req.advmss,
            wscale: req.snd_wscale.map(|_| req.rcv_wscale),
            sack_perm: req.sack_ok,
            timestamps: req.tstamp_ok.then(|| (ts.wrapping_add(req.ts_off), req.ts_recent)),
        },
    }
}

/// The ACK that answers a segment which does not fit a request.
///
/// # Source
/// Linux v6.18 `tcp_v4_reqsk_send_ack`.
pub(crate) fn reqsk_send_ack(req: &Request, seg: &Segment, now: Nanos) -> OutSegment {
    let timestamps = req.tstamp_ok.then(|| (clock_ms(now).wrapping_add(req.ts_off), req.ts_recent));
    OutSegment {
        flags: flag::ACK,
        tos: seg.tos & DSCP,
        wnd: req.rcv_wnd >> req.rcv_wscale,
        seq: req.iss.plus(1),
        ack: req.irs.plus(1),
        options: TcpOptions { timestamps, ..TcpOptions::default() },
    }
}

/// A segment of a connection that starts at `seq`; what it offers as its window is offered from now on.
///
/// # Source
/// Linux v6.18 `tcp_transmit_skb`; of a time-wait entry `tcp_v4_timewait_ack`, whose window stays what it was.
pub(crate) fn conn_segment(conn: &mut Conn, flags: u8, seq: SegSeq, now: Nanos) -> OutSegment {
    let timestamps = conn.tstamp_ok().then(|| (clock_ms(now).wrapping_add(conn.ts_off), conn.ts_recent));
    let rst = flags & flag::RST != 0;
    OutSegment {
        flags: flags | if conn.ecn_echo() && !rst { flag::ECE } else { 0 },
        tos: conn.tos,
        wnd: match (conn.stuffed(), conn.is_time_wait()) {
            (true, _) => 0,
            (false, true) => (conn.rcv_wnd >> conn.rcv_wscale) as u16,
            (false, false) => tcp_select_window(conn, 0),
        },
        seq,
        ack: conn.rcv_nxt,
        options: TcpOptions { timestamps, ..TcpOptions::default() },
    }
}

/// An ACK of what was received so far.
#[inline]
pub(crate) fn tcp_send_ack(conn: &mut Conn, now: Nanos) -> OutSegment {
    conn_segment(conn, flag::ACK, conn.snd_nxt(), now)
}

/// Our FIN, sent for the first time: the caller moves to a state in which it was sent.
pub(crate) fn tcp_send_fin(conn: &mut Conn, now: Nanos) -> OutSegment {
    conn.stamp = 0;
    conn_segment(conn, flag::FIN | flag::ACK, conn.snd_start, now)
}

/// A RST that we send of our own accord.
///
/// # Source
/// Linux v6.18 `tcp_send_active_reset`: with ACK and window, at SND.NXT.
pub(crate) fn tcp_send_active_reset(conn: &mut Conn, now: Nanos) -> OutSegment {
    conn_segment(conn, flag::RST | flag::ACK, conn.snd_nxt(), now)
}

/// The RST that answers a segment of no connection. The caller has made sure that the segment is not a RST itself.
///
/// # Source
/// Linux v6.18 `tcp_v4_send_reset`; RFC 9293 §3.5.2 group 1.
#[inline(always)]
pub(crate) fn tcp_send_reset(seg: &Segment) -> OutSegment {
    let tos = seg.tos & DSCP;
    if seg.has(flag::ACK) {
        OutSegment { flags: flag::RST, tos, seq: seg.ack, ..OutSegment::default() }
    } else {
        let ack = seg.seq.plus(seg.seg_len());
        OutSegment { flags: flag::RST | flag::ACK, tos, ack, ..OutSegment::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_double_up_to_two_minutes() {
        let secs: Vec<u64> = (0..9).map(|timeouts| rto(timeouts).0 / 1_000_000_000).collect();
        assert_eq!(secs, [1, 2, 4, 8, 16, 32, 64, 120, 120]);
    }
}
