//! What each request does: the control side of the stack, of the workers' reports and of the devices' counters.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::task::{Poll, ready};

use listener::Stack;
use listener::drop_reason::DropReason;
use listener::error::ListenError;
use listener::segment::Outcome;
use listener::sockaddr::Endpoint;
use listener::types::{DevIndex, SockFd, Then};

use super::capture::Captures;
use super::cookie_keys::CookieDesk;
use super::numbers::{self, Numbers};
use super::proto::{
    self, Accepted, CoreLatency, CoreStats, DeviceStats, Histograms, Latency, OutcomeLatency, PortClock,
    PortLink, Refusal, Reply, Request, Ss, Stats, Which, histograms_of,
};
use super::reload::Loaded;
use super::server::{Peer, Service};
use super::top::TopWindow;
use super::why::DryRuns;
use crate::config::then_name;
use crate::histogram::{self, CoreReport, SharedReporter};

/// Connections that one client may have accepted and not closed.
const ACCEPTED_MAX: usize = 1024;

/// The devices of the ports, as far as there is anything to know of them.
pub trait Devices {
    /// All counters of each port, in the order of the ports.
    fn counters(&self) -> Vec<BTreeMap<String, u64>>;

    /// What else there is to say of each port.
    fn states(&self) -> Vec<DeviceState> {
        Vec::new()
    }

    /// Of each port, when the time of its frames begins.
    fn clocks(&self) -> Vec<PortClock> {
        Vec::new()
    }

    /// What there is to do ten times a second.
    fn tick(&mut self) {}

    /// Why the run must end, once a device is gone for good.
    fn gone(&self) -> Option<String> {
        None
    }
}

/// What there is to say of a device besides its counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceState {
    /// Its driver's name.
    pub driver: String,
    /// Nobody counts what is lost in front of the driver.
    pub losses_uncounted: bool,
    /// Its link.
    pub link: PortLink,
}

/// Everything that the control thread has to do with.
pub struct Desk<D> {
    /// The sockets.
    pub stack: std::sync::Arc<Stack>,
    /// The workers' numbers.
    pub reporter: SharedReporter,
    /// Who has asked the workers for them.
    pub numbers: Numbers,
    /// The devices' numbers.
    pub devices: D,
    /// Names of the ports, in the order of their device numbers from 1.
    pub ports: Vec<String>,
    /// The CPU of each worker.
    pub cpus: Vec<usize>,
    /// The keys of SYN cookies.
    pub cookies: CookieDesk,
    /// Connections by the client that accepted them.
    pub accepted: HashMap<u64, Vec<SockFd>>,
    /// The configuration that runs.
    pub loaded: Loaded,
    /// For frames that are only tried.
    pub dry_runs: DryRuns,
    /// Frames that are shown.
    pub captures: Captures,
    /// For who watches.
    pub top: TopWindow,
    /// What stands on the kernel's path, if anything does.
    #[cfg(feature = "kernel")]
    pub kernel: Option<Box<crate::kernel::KernelSide>>,
}

pub(super) fn refuse(error: ListenError, what: &str) -> Refusal {
    Refusal { errno: Some(error.errno().name().to_owned()), message: format!("{what}: {}", error.sentence()) }
}

impl<D: Devices> Service for Desk<D> {
    fn round(&mut self) {
        self.cookies.turn(&self.stack);
    }

    fn call(&mut self, peer: Peer, request: &Request) -> Poll<Result<Reply, Refusal>> {
        Poll::Ready(match request {
            Request::Listen(listen) => self.listen(peer, listen),
            Request::Close(which) => self.close(peer, which),
            Request::Ss { from } => Ok(Reply::Ss(self.ss(*from))),
            Request::Accept(which) => self.accept(peer, which),
            Request::CloseConnection { fd, reset } => self.close_connection(peer, SockFd(*fd), *reset),
            Request::Reload { check } => self.reload(*check).map(Reply::Reloaded),
            Request::Capture(wanted) => self.capture(peer, wanted).map(|()| Reply::Done {}),
            Request::Captured {} => self.captured(peer).map(Reply::Captured),
            Request::Top {} => Ok(Reply::Top(Box::new(ready!(self.top(peer))))),
            Request::Why(ask) => ready!(self.why(peer, ask)).map(|why| Reply::Why(Box::new(why))),
            Request::Stats {} => {
                ready!(self.poll_numbers(peer.client));
                Ok(Reply::Stats(Box::new(self.known_stats())))
            }
            Request::Latency { core } => {
                ready!(self.poll_numbers(peer.client));
                self.latency(*core).map(Reply::Latency)
            }
            Request::Histograms { core } => {
                ready!(self.poll_numbers(peer.client));
                self.histograms(*core).map(|all| Reply::Histograms(Box::new(all)))
            }
            Request::CookieKeys { rotate: false } => Ok(Reply::CookieKeys(self.cookies.show())),
            Request::CookieKeys { rotate: true } => {
                ready!(self.rotate_cookie_keys(peer)).map(Reply::CookieKeys)
            }
        })
    }

    fn gone(&mut self, client: u64) {
        self.captures.gone(client);
        self.top_gone(client);
        self.numbers.gone(client);
        self.dry_runs.gone(client);
        self.cookies.gone(client);
        for fd in self.accepted.remove(&client).unwrap_or_default() {
            let _ = self.stack.close(fd, false);
        }
    }
}

impl<D: Devices> Desk<D> {
    fn ss(&self, from: u32) -> Ss {
        let mut rows = self.stack.listeners_from(SockFd(from), proto::SS_ROWS_MAX + 1);
        let next = rows.get(proto::SS_ROWS_MAX).map(|row| row.fd.0);
        rows.truncate(proto::SS_ROWS_MAX);
        let listeners = rows.iter().map(|row| self.ss_row(row)).collect();
        let kernel = if from == 0 { self.kernel_listeners() } else { Vec::new() };
        Ss { listeners, kernel, next }
    }

    fn ss_row(&self, row: &listener::sockaddr::ListenerRow) -> proto::ListenerRow {
        let device = usize::from(row.dev.0).checked_sub(1).and_then(|index| self.ports.get(index));
        proto::ListenerRow {
            state: "LISTEN".into(),
            recv_q: row.recv_q,
            send_q: row.backlog,
            local: local(row),
            device: device.cloned(),
            fd: row.fd.0,
            then: row.then.into(),
            reuseport: row.reuseport,
            v6only: row.v6only,
        }
    }

    fn accept(&mut self, peer: Peer, which: &Which) -> Result<Reply, Refusal> {
        let held = self.accepted.get(&peer.client).map_or(0, Vec::len);
        if held >= ACCEPTED_MAX {
            let message = format!("{held} connections are accepted and not closed; close some first");
            return Err(Refusal { errno: Some("EMFILE".into()), message });
        }
        let rows = self.find_some(peer, which)?;
        for row in &rows {
            match self.stack.accept(row.fd) {
                Ok(accepted) => {
                    self.accepted.entry(peer.client).or_default().push(accepted.fd);
                    let (peer, local) = (plain(accepted.peer), plain(accepted.local));
                    return Ok(Reply::Accepted(Accepted { fd: accepted.fd.0, peer, local }));
                }
                Err(ListenError::QueueEmpty) => {}
                Err(error) => return Err(refuse(error, "cannot accept")),
            }
        }
        let mut refusal = refuse(ListenError::QueueEmpty, &format!("on {}", describe(which)));
        if let Some(row) = rows.iter().find(|row| row.then != Then::Queue) {
            let then = then_name(row.then.into());
            refusal.message += &format!(" Its connections do not queue: it was opened with then = {then}.");
        }
        Err(refusal)
    }

    fn close_connection(&mut self, peer: Peer, fd: SockFd, reset: bool) -> Result<Reply, Refusal> {
        let held = self.accepted.entry(peer.client).or_default();
        let Some(index) = held.iter().position(|open| *open == fd) else {
            let what = format!("fd {} was not accepted by this client", fd.0);
            return Err(refuse(ListenError::BadDescriptor, &what));
        };
        held.swap_remove(index);
        self.stack.close(fd, reset).map_err(|error| refuse(error, "cannot close"))?;
        Ok(Reply::Done {})
    }

    /// All counters as of now. Waits for the workers: for who has nobody else to serve.
    pub fn stats(&mut self) -> Stats {
        self.reporter.refresh(numbers::PATIENCE);
        self.known_stats()
    }

    /// Ready once the workers have been asked for their numbers after `asker`'s first call, and have answered or are late.
    pub fn poll_numbers(&mut self, asker: u64) -> Poll<()> {
        self.numbers.poll(&self.reporter, asker)
    }

    /// All counters as the workers last told them.
    pub fn known_stats(&self) -> Stats {
        let reporter = self.reporter.lock();
        let reports = reporter.each().enumerate();
        let cores: Vec<CoreStats> = reports.map(|(index, report)| self.core_stats(index, report)).collect();
        drop(reporter);
        let mut total = CoreStats::default();
        for core in &cores {
            total.add(core);
        }
        // With what the control side itself counted.
        total.snmp = by_name(self.stack.snmp());
        Stats { cores, total, devices: self.device_stats(), kernel: self.kernel_stats() }
    }

    fn device_stats(&self) -> Vec<DeviceStats> {
        let mut states = self.devices.states().into_iter();
        let device = |(name, counters)| {
            let name = String::clone(name);
            match states.next() {
                None => DeviceStats { name, counters, ..DeviceStats::default() },
                Some(DeviceState { driver, losses_uncounted, link }) => {
                    DeviceStats { name, driver, link: Some(link), losses_uncounted, counters }
                }
            }
        };
        self.ports.iter().zip(self.devices.counters()).map(device).collect()
    }

    /// The ports whose links are down, each with how it is.
    pub fn links_down(&self) -> Vec<(String, PortLink)> {
        let states = self.ports.iter().cloned().zip(self.devices.states());
        states.map(|(port, state)| (port, state.link)).filter(|(_, link)| !link.up).collect()
    }

    fn core_stats(&self, index: usize, report: &CoreReport) -> CoreStats {
        let counters = &report.counters;
        let outcomes =
            Outcome::ALL.iter().map(|outcome| (outcome.name().to_owned(), counters.outcome(*outcome)));
        let drops = DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), counters.drops(*reason)));
        CoreStats {
            core: Some(report.core.0),
            cpu: self.cpus.get(index).copied(),
            late: !report.fresh,
            outcomes: outcomes.collect(),
            drops: drops.collect(),
            snmp: by_name(self.stack.snmp_of(report.core)),
            ..CoreStats::of(counters)
        }
    }

    /// Latencies as the workers last told them, of all cores or of one.
    ///
    /// # Errors
    /// There is no such core.
    pub fn latency(&self, core: Option<u16>) -> Result<Latency, Refusal> {
        let reports = self.reports(core)?;
        Ok(Latency { clocks: self.clocks(), ..latency_of(&reports) })
    }

    /// The whole histograms as the workers last told them, of all cores or of one.
    ///
    /// # Errors
    /// There is no such core.
    pub fn histograms(&self, core: Option<u16>) -> Result<Histograms, Refusal> {
        let reports = self.reports(core)?;
        Ok(Histograms { cores: histograms_of(&reports), clocks: self.clocks() })
    }

    /// The ports by name, and when the times of their frames begin.
    fn clocks(&self) -> BTreeMap<String, PortClock> {
        self.ports.iter().cloned().zip(self.devices.clocks()).collect()
    }

    fn reports(&self, core: Option<u16>) -> Result<Vec<CoreReport>, Refusal> {
        let mut reports = self.reporter.lock().reports();
        if let Some(core) = core {
            let last = reports.len().saturating_sub(1);
            reports.retain(|report| report.core.0 == core);
            if reports.is_empty() {
                return Err(Refusal::new(format!("there is no core {core}; the cores are 0 to {last}")));
            }
        }
        Ok(reports)
    }
}

/// The rows of a latency table.
pub fn latency_of(reports: &[CoreReport]) -> Latency {
    let mut total = (histogram::Latency::new(), crate::stats::Counters::default());
    let mut cores = Vec::with_capacity(reports.len());
    for report in reports {
        total.0.add(&report.latency);
        total.1.add(&report.counters);
        let row =
            |outcome: &Outcome| outcome_row(*outcome, &report.latency, report.counters.outcome(*outcome));
        let outcomes = Outcome::ALL.iter().map(row).collect();
        cores.push(CoreLatency { core: report.core.0, late: !report.fresh, outcomes });
    }
    let row = |outcome: &Outcome| outcome_row(*outcome, &total.0, total.1.outcome(*outcome));
    let total = Outcome::ALL.iter().map(row).collect();
    Latency { cores, total, ..Latency::default() }
}

fn outcome_row(outcome: Outcome, latency: &histogram::Latency, frames: u64) -> OutcomeLatency {
    let histogram = latency.of(outcome);
    let at = |quantile| if histogram.is_empty() { 0 } else { histogram.value_at_quantile(quantile) };
    OutcomeLatency {
        outcome: outcome.name().to_owned(),
        count: histogram.len(),
        frames,
        min_ns: if histogram.is_empty() { 0 } else { histogram.min() },
        p50_ns: at(0.5),
        p90_ns: at(0.9),
        p99_ns: at(0.99),
        p99_9_ns: at(0.999),
        p99_99_ns: at(0.9999),
        max_ns: histogram.max(),
    }
}

fn by_name(counters: Vec<(&'static str, u64)>) -> BTreeMap<String, u64> {
    counters.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

/// The device number of the port with this place in the configuration.
pub fn dev_index(place: usize) -> DevIndex {
    DevIndex(u16::try_from(place + 1).unwrap_or(u16::MAX))
}

/// Where a listener listens.
pub fn local(row: &listener::sockaddr::ListenerRow) -> SocketAddr {
    Endpoint { family: row.family, addr: row.addr, port: row.port }.into()
}

/// As people write it: the IPv4 address of an IPv4 peer, also under an IPv6 listener.
fn plain(end: Endpoint) -> SocketAddr {
    SocketAddr::new(end.addr.into(), end.port.0)
}

pub(super) fn describe(which: &Which) -> String {
    let device = which.device.as_ref().map(|name| format!(" on device {name}")).unwrap_or_default();
    let fd = which.fd.map(|fd| format!(" with fd {fd}")).unwrap_or_default();
    format!("{}{device}{fd}", which.addr)
}

#[cfg(test)]
pub(crate) mod tests;
