//! Round-trip times, and the timeouts that follow from them. Pure functions.
//!
//! The only segments that a connection sends again are SYN-ACKs and FINs, so its round trip is measured once: by the
//! handshake. Timeouts are kept in ticks of 4 ms, as a kernel with `HZ` = 250 does.
//!
//! # Departures from the kernel
//! Nothing is remembered of a peer from one connection to the next (`tcp_metrics`). The round trip of our FIN is not
//! measured: it would only prolong FIN-WAIT-2, where `tcp_fin_timeout` is shorter than three and a half of it. An ICMP error
//! takes back no timeout (`tcp_ld_RTO_revert`, RFC 6069).

use crate::core::clock_ms;
use crate::request_sock::{Conn, Request};
use crate::segment::Segment;
use crate::types::Nanos;

/// One tick.
const TICK_MS: u32 = 4;
/// `TCP_RTO_MIN`, `TCP_RTO_MAX`
const RTO_MIN_MS: u32 = 200;
const RTO_MAX_MS: u32 = 120_000;
const RTO_MAX: u16 = (RTO_MAX_MS / TICK_MS) as u16;
/// `TCP_TIMEOUT_INIT`: the loss probe of a connection whose round trip is not known.
const TIMEOUT_INIT_MS: u32 = 1000;
/// `TCP_TIMEOUT_FALLBACK`: the timeout of such a connection (RFC 6298 §5.7).
const TIMEOUT_FALLBACK_MS: u32 = 3000;
/// `tcp_rtt_tsopt_us`: an echo is not believed from here on.
const ECHO_MAX_MS: u32 = i32::MAX as u32 / 1000;

/// The timeouts of a new connection, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// `icsk_rto`
    pub rto: u16,
    /// After which the FIN goes out once more before the first timeout (RFC 8985 §7); 0 = not at all.
    pub probe: u16,
}

const fn ticks(ms: u32) -> u16 {
    let ticks = ms.div_ceil(TICK_MS);
    if ticks < RTO_MAX as u32 { ticks as u16 } else { RTO_MAX }
}

/// A number of ticks as a time.
pub(crate) const fn ticks_to_nanos(ticks: u16) -> Nanos {
    Nanos::from_millis(ticks as u64 * TICK_MS as u64)
}

impl Timeouts {
    /// Of a connection whose handshake took `rtt_ms`, if that is known.
    ///
    /// # Source
    /// Linux v6.18 `tcp_rtt_estimator` with no measurement before, `tcp_set_rto`, `tcp_init_metrics`,
    /// `tcp_schedule_loss_probe` with one segment out.
    pub fn new(rtt_ms: Option<u32>, sack_ok: bool) -> Self {
        let (rto, probe) = match rtt_ms {
            Some(rtt) => {
                let rtt = rtt.min(RTO_MAX_MS);
                (rtt + (2 * rtt).max(RTO_MIN_MS), 2 * rtt + RTO_MIN_MS)
            }
            None => (TIMEOUT_FALLBACK_MS, TIMEOUT_INIT_MS),
        };
        Self { rto: ticks(rto), probe: if sack_ok { ticks(probe.min(rto)) } else { 0 } }
    }
}

/// What the answer `seg` says of the round trip: its delay if the SYN-ACK went out once (Karn's rule), else the age of the
/// timestamp that it echoes.
///
/// # Source
/// Linux v6.18 `tcp_synack_rtt_meas`, `tcp_ack_update_rtt`, `tcp_rtt_tsopt_us`.
pub(crate) fn tcp_synack_rtt_meas(req: &Request, cookie: bool, seg: &Segment, now: Nanos) -> Option<u32> {
    if !cookie && req.snt_tsval_first == req.snt_tsval_last {
        return Some(clock_ms(now).wrapping_sub(req.snt_tsval_first));
    }
    let (_, tsecr) = seg.options.timestamps.filter(|(_, tsecr)| req.tstamp_ok && *tsecr != 0)?;
    let age = clock_ms(now).wrapping_add(req.ts_off).wrapping_sub(tsecr);
    (age < ECHO_MAX_MS).then_some(age.max(1))
}

/// The timeout after one that ran out.
pub(crate) fn backed_off(rto: u16) -> u16 {
    rto.saturating_mul(2).min(RTO_MAX)
}

/// Whether the segment that was sent again first at `first_ms`, if it ever was, is given up after as long as `boundary`
/// timeouts that double from the shortest one.
///
/// # Source
/// Linux v6.18 `retransmits_timed_out`, `tcp_model_timeout`.
pub(crate) fn retransmits_timed_out(first_ms: Option<u32>, boundary: u8, now: Nanos) -> bool {
    const DOUBLINGS: u32 = (RTO_MAX_MS / RTO_MIN_MS).ilog2();
    let Some(first) = first_ms else { return false };
    let boundary = u32::from(boundary);
    let doubled = ((2 << boundary.min(DOUBLINGS)) - 1) * RTO_MIN_MS;
    let timeout = doubled + boundary.saturating_sub(DOUBLINGS) * RTO_MAX_MS;
    clock_ms(now).wrapping_sub(first) >= timeout
}

/// How often a connection that nobody holds sends its FIN again.
///
/// # Source
/// Linux v6.18 `tcp_orphan_retries`.
pub(crate) fn tcp_orphan_retries(sysctl: u8, rto: u16) -> u8 {
    /// With the shortest timeout more than 100 seconds.
    const RETRIES: u8 = 8;
    if sysctl == 0 && rto < RTO_MAX { RETRIES } else { sysctl }
}

/// How much older than the last one the timestamp of an ACK may be that was overtaken.
///
/// # Source
/// Linux v6.18 `tcp_tsval_replay`: clocks tick up to 1200 times a second.
pub(crate) fn tcp_tsval_replay(rto: u16) -> u32 {
    u32::from(rto) * TICK_MS * 12 / 10
}

/// Seconds in FIN-WAIT-2 once nobody holds the connection, as a time.
///
/// # Source
/// Linux v6.18 `tcp_fin_time`.
pub(crate) fn tcp_fin_time(conn: &Conn, tcp_fin_timeout: u32) -> Nanos {
    let rto = ticks_to_nanos(conn.rto).0;
    Nanos((u64::from(tcp_fin_timeout) * 1_000_000_000).max((rto << 2) - (rto >> 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ticks: u16) -> u32 {
        u32::from(ticks) * TICK_MS
    }

    #[test]
    fn timeouts_follow_the_round_trip() {
        for (rtt, rto, probe) in [
            (Some(0), 200, 200),
            (Some(10), 212, 212),
            (Some(100), 300, 300),
            (Some(500), 1500, 1200),
            (Some(200_000), 120_000, 120_000),
            (None, 3000, 1000),
        ] {
            let Timeouts { rto: found, probe: probe_found } = Timeouts::new(rtt, true);
            assert_eq!((ms(found), ms(probe_found)), (rto, probe), "{rtt:?}");
            assert_eq!(Timeouts::new(rtt, false).probe, 0, "without SACK there are no probes");
        }
        assert_eq!(ms(backed_off(ticks(212))), 424);
        assert_eq!(ms(backed_off(RTO_MAX)), RTO_MAX_MS);
    }

    /// 924.6 s with `tcp_retries2` 15, as ip-sysctl.rst says.
    #[test]
    fn retransmissions_end() {
        let at = |ms: u64| Nanos::from_millis(ms);
        assert!(!retransmits_timed_out(None, 0, at(1 << 40)), "nothing was sent again yet");
        for (boundary, timeout) in [(0, 200), (2, 1400), (8, 102_200), (9, 204_600), (15, 924_600)] {
            assert!(!retransmits_timed_out(Some(7), boundary, at(timeout + 6)), "{boundary}");
            assert!(retransmits_timed_out(Some(7), boundary, at(timeout + 7)), "{boundary}");
        }
        assert_eq!(tcp_orphan_retries(0, RTO_MAX), 0);
        assert_eq!((tcp_orphan_retries(0, 50), tcp_orphan_retries(3, RTO_MAX)), (8, 3));
    }

    #[test]
    fn a_round_trip_is_measured_once() {
        let req = Request { snt_tsval_first: 1000, snt_tsval_last: 1000, ..Request::default() };
        let seg = Segment::default();
        let now = Nanos::from_millis(1040);
        assert_eq!(tcp_synack_rtt_meas(&req, false, &seg, now), Some(40));
        assert_eq!(tcp_synack_rtt_meas(&req, true, &seg, now), None, "a cookie keeps no time");
        let again = Request { snt_tsval_last: 1030, tstamp_ok: true, ts_off: 5, ..req };
        assert_eq!(tcp_synack_rtt_meas(&again, false, &seg, now), None, "which SYN-ACK was it?");
        let mut echo = seg;
        echo.options.timestamps = Some((1, 1035));
        assert_eq!(tcp_synack_rtt_meas(&again, false, &echo, now), Some(10), "the second one");
        echo.options.timestamps = Some((1, 1100));
        assert_eq!(tcp_synack_rtt_meas(&again, false, &echo, now), None, "an echo of the future");
    }
}
