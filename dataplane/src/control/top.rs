//! What `hearken top` shows: counters, latencies and listeners of the last second, from one snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use listener::drop_reason::DropReason;
use listener::segment::Outcome;
use listener::types::SockFd;

use super::proto::{Top, TopCore, TopDrop, TopListener};
use super::server::Peer;
use super::service::{Desk, Devices, local};
use crate::histogram::{CoreReport, LATENCY_NS_MAX};

/// The shortest window: who asks sooner gets the last one again, so that several may watch.
const WINDOW: Duration = Duration::from_millis(900);
/// Listeners that are shown.
const LISTENERS: usize = 50;

/// The last window, and where the next one begins.
#[derive(Debug, Default)]
pub struct TopWindow {
    began: Option<Instant>,
    reports: Vec<CoreReport>,
    snmp: BTreeMap<&'static str, u64>,
    kernel: BTreeMap<String, u64>,
    listeners: Vec<u32>,
    last: Top,
    watchers: BTreeSet<u64>,
}

impl<D: Devices> Desk<D> {
    /// What happened since the last window began.
    pub fn top(&mut self, peer: Peer) -> Poll<Top> {
        if self.top.watchers.insert(peer.client) && self.top.watchers.len() == 1 {
            self.stack.watch_listeners(true);
            // What was counted before anybody watched is no part of a window.
            self.stack.busiest(&mut self.top.listeners, 0);
            self.top.began = None;
        }
        let now = Instant::now();
        if self.top.began.is_some_and(|began| now.duration_since(began) < WINDOW) {
            return Poll::Ready(self.top.last.clone());
        }
        ready!(self.numbers.poll(&self.reporter, peer.client));
        let reports = self.reporter.lock().reports();
        let seconds = self.top.began.map_or(0.0, |began| now.duration_since(began).as_secs_f64());
        let snmp: BTreeMap<&'static str, u64> = self.stack.snmp().into_iter().collect();
        let per_second = |now: u64, before: u64| {
            if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 }
        };
        let before = |name: &str| self.top.snmp.get(name).copied().unwrap_or_default();
        let kernel = self.kernel_stats().map(|stats| stats.counters).unwrap_or_default();
        let passed = |name: &str| self.top.kernel.get(name).copied().unwrap_or_default();
        let top = Top {
            seconds,
            cores: self.top_cores(&reports, per_second),
            outcomes: outcomes(&reports, &self.top.reports, per_second),
            drops: drops(&reports, &self.top.reports, per_second),
            snmp: snmp
                .iter()
                .map(|(name, count)| ((*name).into(), per_second(*count, before(name))))
                .collect(),
            kernel: kernel
                .iter()
                .map(|(name, count)| (name.clone(), per_second(*count, passed(name))))
                .collect(),
            listeners: self.top_listeners(seconds),
            links_down: self.links_down().into_iter().map(|(port, _)| port).collect(),
        };
        self.top = TopWindow {
            began: Some(now),
            reports,
            snmp,
            kernel,
            last: top.clone(),
            watchers: std::mem::take(&mut self.top.watchers),
            listeners: std::mem::take(&mut self.top.listeners),
        };
        Poll::Ready(top)
    }

    /// A client that watched is gone; without any, the cores no longer count by listener.
    pub(super) fn top_gone(&mut self, client: u64) {
        if self.top.watchers.remove(&client) && self.top.watchers.is_empty() {
            self.stack.watch_listeners(false);
        }
    }

    fn top_cores(&self, reports: &[CoreReport], per_second: impl Fn(u64, u64) -> f64) -> Vec<TopCore> {
        let core = |(index, now): (usize, &CoreReport)| {
            let before = self.top.reports.get(index);
            let grown = |of: fn(&CoreReport) -> u64| (of(now), before.map_or(0, of));
            let rate = |of: fn(&CoreReport) -> u64| {
                let (now, before) = grown(of);
                per_second(now, before)
            };
            let difference = |of: fn(&CoreReport) -> u64| {
                let (now, before) = grown(of);
                now.saturating_sub(before) as f64
            };
            let busy = difference(|report| report.counters.busy_ns);
            let all = busy + difference(|report| report.counters.idle_ns);
            let latency = window_latency(now, before);
            let at = |quantile| if latency.is_empty() { 0 } else { latency.value_at_quantile(quantile) };
            TopCore {
                core: now.core.0,
                cpu: self.cpus.get(index).copied(),
                late: !now.fresh,
                rx_frames: rate(|report| report.counters.rx_frames),
                tx_frames: rate(|report| report.counters.tx_frames),
                rx_bits: 8.0 * rate(|report| report.counters.rx_bytes),
                busy_percent: if all > 0.0 { 100.0 * busy / all } else { 0.0 },
                p50_ns: at(0.5),
                p99_ns: at(0.99),
                p99_9_ns: at(0.999),
            }
        };
        reports.iter().enumerate().map(core).collect()
    }

    /// The busiest; if they are few, others behind them.
    fn top_listeners(&mut self, seconds: f64) -> Vec<TopListener> {
        let busy = self.stack.busiest(&mut self.top.listeners, LISTENERS);
        let ids: Vec<_> = busy.iter().map(|(id, _)| *id).collect();
        let rows = self.stack.rows_of(&ids);
        let rate = |count: u32| if seconds > 0.0 { f64::from(count) / seconds } else { 0.0 };
        let mut shown: Vec<_> =
            rows.into_iter().zip(&busy).filter_map(|(row, (_, count))| Some((row?, rate(*count)))).collect();
        let quiet = self.stack.listeners_from(SockFd(0), LISTENERS);
        let quiet = quiet.into_iter().filter(|row| !shown.iter().any(|(busy, _)| busy.fd == row.fd));
        let quiet: Vec<_> = quiet.map(|row| (row, 0.0)).collect();
        shown.extend(quiet);
        shown.truncate(LISTENERS);
        let row = |(row, rate): (listener::sockaddr::ListenerRow, f64)| {
            let device = usize::from(row.dev.0).checked_sub(1).and_then(|place| self.ports.get(place));
            TopListener {
                fd: row.fd.0,
                local: local(&row),
                device: device.cloned(),
                then: row.then.into(),
                recv_q: row.recv_q,
                send_q: row.backlog,
                rate,
            }
        };
        shown.into_iter().map(row).collect()
    }
}

/// All outcomes of the window in one histogram.
fn window_latency(now: &CoreReport, before: Option<&CoreReport>) -> Histogram<u64> {
    let mut sum = now.latency.of(Outcome::SynAck).clone();
    sum.reset();
    for outcome in Outcome::ALL {
        // Both have the same bounds, and what was counted before is a part of what is now: these cannot fail.
        let _ = sum.add(now.latency.of(outcome));
        if let Some(before) = before {
            let _ = sum.subtract(before.latency.of(outcome));
        }
    }
    debug_assert!(sum.max() <= 2 * LATENCY_NS_MAX);
    sum
}

fn total(reports: &[CoreReport], of: impl Fn(&CoreReport) -> u64) -> u64 {
    reports.iter().map(of).sum()
}

fn outcomes(
    now: &[CoreReport],
    before: &[CoreReport],
    rate: impl Fn(u64, u64) -> f64,
) -> BTreeMap<String, f64> {
    let count = |reports, outcome| total(reports, |report| report.counters.outcome(outcome));
    let row =
        |outcome: &Outcome| (outcome.name().to_owned(), rate(count(now, *outcome), count(before, *outcome)));
    Outcome::ALL.iter().map(row).collect()
}

fn drops(now: &[CoreReport], before: &[CoreReport], rate: impl Fn(u64, u64) -> f64) -> Vec<TopDrop> {
    let count = |reports, reason| total(reports, |report: &CoreReport| report.counters.drops(reason));
    let row = |reason: &DropReason| TopDrop {
        reason: reason.name().to_owned(),
        rate: rate(count(now, *reason), count(before, *reason)),
        total: count(now, *reason),
    };
    let mut drops: Vec<TopDrop> = DropReason::ALL.iter().map(row).filter(|drop| drop.total > 0).collect();
    drops.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)));
    drops
}
