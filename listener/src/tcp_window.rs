//! Receive windows: what a SYN-ACK offers, and what later segments do. Pure functions.
//!
//! # Departure from the kernel
//! Data is dropped as it comes, so all of the receive buffer is always free, and nothing is counted against it. The kernel
//! learns from segments of 536 octets and more how much of its buffer they fill, and moves buffer and window by it
//! (`tcp_measure_rcv_mss`, `tcp_grow_window`, `tcp_rcv_space_adjust`); here the window stays as large as it was.

use crate::request_sock::Conn;
use crate::sysctl::Sysctl;
use crate::tcp_output::mss_of;

/// Octets that the timestamps option takes, with its padding.
const TIMESTAMP_LEN: u32 = 12;
/// Largest window scale (RFC 7323 §2.3).
const WSCALE_MAX: u32 = 14;
const FIELD_MAX: u32 = u16::MAX as u32;
/// What a peer's segments are taken to carry before one with more has come (`tcp_initialize_rcv_mss`).
const RCV_MSS: u32 = 536;

/// Of a receive buffer, what is for data (`tcp_win_from_space` with its starting ratio).
const fn win_from_space(rcvbuf: u32) -> u32 {
    rcvbuf / 2
}

/// The size of segments that windows are counted in.
const fn payload_of(advmss: u16, tstamp: bool) -> u32 {
    (advmss as u32).saturating_sub(if tstamp { TIMESTAMP_LEN } else { 0 })
}

/// Window and scale of a SYN-ACK at a listener whose receive buffer is `rcvbuf`; the field holds 65,535 at most.
///
/// # Source
/// Linux v6.18 `tcp_select_initial_window`, `tcp_openreq_init_rwin`.
#[inline]
pub(crate) fn select_initial_window(
    sysctl: &Sysctl,
    rcvbuf: u32,
    advmss: u16,
    tstamp: bool,
    wscale: bool,
) -> (u32, u8) {
    let largest = FIELD_MAX << WSCALE_MAX;
    let space = win_from_space(rcvbuf).min(largest);
    let mss = payload_of(advmss, tstamp).max(1);
    let window = if space > mss { space - space % mss } else { space };
    let scale = if wscale {
        let most = window.max(sysctl.tcp_rmem[2]).max(sysctl.rmem_max).min(largest);
        most.max(1).ilog2().saturating_sub(15).min(WSCALE_MAX)
    } else {
        0
    };
    (window, scale as u8)
}

/// The field of a window.
#[inline]
pub(crate) const fn field(window: u32) -> u16 {
    if window < FIELD_MAX { window as u16 } else { u16::MAX }
}

/// What [`select_initial_window`] says for the MSS of one device: it divides, and there are eight answers.
#[derive(Debug)]
pub(crate) struct InitialWindows([(u16, u8); 8]);

impl InitialWindows {
    pub fn new(sysctl: &Sysctl, mtu: u16) -> Self {
        Self(std::array::from_fn(|of| {
            let (v4, tstamp, wscale) = (of & 4 != 0, of & 2 != 0, of & 1 != 0);
            let rcvbuf = sysctl.tcp_rmem[1];
            let (window, scale) = select_initial_window(sysctl, rcvbuf, mss_of(mtu, v4), tstamp, wscale);
            (field(window), scale)
        }))
    }

    #[inline]
    pub fn get(&self, v4: bool, tstamp: bool, wscale: bool) -> (u16, u8) {
        self.0[usize::from(v4) << 2 | usize::from(tstamp) << 1 | usize::from(wscale)]
    }
}

/// What of a connection's first window `rcv_wnd` later ones may reach (`rcv_ssthresh`).
///
/// # Source
/// Linux v6.18 `tcp_init_buffer_space`, with `tcp_app_win` 31: one segment is kept back.
pub(crate) fn tcp_init_buffer_space(
    rcvbuf: u32,
    advmss: u16,
    tstamp: bool,
    (rcv_wnd, rcv_wscale): (u32, u8),
) -> u32 {
    let maxwin = win_from_space(rcvbuf);
    let advmss = payload_of(advmss, tstamp);
    let mut clamp = FIELD_MAX << rcv_wscale;
    if clamp >= maxwin {
        clamp = maxwin;
    }
    if clamp > 2 * advmss && clamp.saturating_add(advmss) > maxwin {
        clamp = (2 * advmss).max(maxwin.saturating_sub(advmss));
    }
    rcv_wnd.min(clamp)
}

/// The window field of a connection's next segment, after `taken` octets were received; with it the window is offered.
///
/// # Source
/// Linux v6.18 `tcp_select_window`, `__tcp_select_window`, with `tcp_shrink_window` 0.
pub(crate) fn tcp_select_window(conn: &mut Conn, taken: u32) -> u16 {
    let (unit, free, offered) = (1 << conn.rcv_wscale, conn.rcv_ssthresh, conn.rcv_wnd);
    let window = if conn.rcv_wscale != 0 {
        free.next_multiple_of(unit)
    } else if offered > free || offered.saturating_add(RCV_MSS) <= free {
        free - free % RCV_MSS.min(free).max(1)
    } else {
        offered
    };
    // What was offered is not taken back. The window goes along with segments as large as the kernel lets its buffer grow by.
    let left = if taken < RCV_MSS { offered.saturating_sub(taken) } else { offered };
    conn.rcv_wnd = window.max(left.next_multiple_of(unit));
    field(conn.rcv_wnd >> conn.rcv_wscale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_the_kernels() {
        let sysctl = Sysctl::default();
        let first = |mss, tstamp, wscale| select_initial_window(&sysctl, 131_072, mss, tstamp, wscale);
        assert_eq!(first(1460, false, true), (64_240, 10));
        assert_eq!(first(1460, true, true), (65_160, 10));
        assert_eq!(first(1460, true, false), (65_160, 0));
        assert_eq!(first(1440, false, true), (64_800, 10));
        // More than the field holds: 65536 is a multiple of 512.
        assert_eq!(first(512, false, false), (65_536, 0));
        assert_eq!(field(65_536), 65_535);
        let small = Sysctl { tcp_rmem: [4096, 131_072, 1 << 20], ..sysctl };
        assert_eq!(select_initial_window(&small, 131_072, 1460, false, true).1, 7, "rmem_max counts");
    }

    #[test]
    fn later_windows_are_the_kernels() {
        let conn = |rcvbuf, first: (u32, u8)| {
            let rcv_ssthresh = tcp_init_buffer_space(rcvbuf, 1460, false, first);
            Conn { rcv_wnd: first.0, rcv_wscale: first.1, rcv_ssthresh, ..Conn::default() }
        };
        // The default buffer without scaling: what comes is taken off until whole segments fit again.
        let mut plain = conn(131_072, (64_240, 0));
        assert_eq!(plain.rcv_ssthresh, 64_076);
        let seen: Vec<_> = [0, 1, 100, 400, 1].map(|taken| tcp_select_window(&mut plain, taken)).into();
        assert_eq!(seen, [64_240, 64_239, 64_139, 63_784, 63_784]);
        assert_eq!([1460, 10].map(|taken| tcp_select_window(&mut plain, taken)), [63_784; 2]);
        // Scaled, the first ACK rounds it up.
        let mut scaled = conn(131_072, (64_240, 10));
        assert_eq!((tcp_select_window(&mut scaled, 0), scaled.rcv_wnd), (63, 64_512));
        // More than the field says.
        let mut large = conn(540_000, (268_640, 0));
        assert_eq!((tcp_select_window(&mut large, 10), large.rcv_wnd), (65_535, 268_630));
    }
}
