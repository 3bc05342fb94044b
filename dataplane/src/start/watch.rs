//! What watches the run from outside: Prometheus over HTTP, and systemd's notifications and watchdog. Both on the control
//! thread, so that they fail when it does.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::health::Health;
use super::notify::Notifier;
use super::{Running, StartError};
use crate::config::Config;
use crate::control::proto::PortLink;
use crate::http::{Answer, Http, Question};
use crate::metrics::{Format, Page};

/// Tells clients of HTTP from those of the control socket, who ask the workers too.
const HTTP_ASKER: u64 = 1 << 63;

/// The watchers, before and while there are workers.
pub(super) struct Watch {
    http: Option<Http>,
    health: Health,
    notifier: Notifier,
    watchdog: Option<Watchdog>,
    stopping: bool,
}

/// systemd's watchdog.
struct Watchdog {
    /// How often it wants to hear of us, halved.
    every: Duration,
    due: Instant,
}

impl Watch {
    /// Takes the address that `config` names for metrics.
    ///
    /// # Errors
    /// It cannot be had.
    pub(super) fn bind(config: &Config) -> Result<Self, StartError> {
        let bind = |listen: &toml::Spanned<std::net::SocketAddr>| {
            Http::bind(*listen.get_ref()).map_err(|error| {
                let message = format!(
                    "cannot listen on {}: {error}; set metrics.listen to an address of this machine with a free port \
                     (see \"ss -ltn\")",
                    listen.get_ref()
                );
                StartError::Run(config.error(listen, message).to_string())
            })
        };
        let http = config.metrics.listen.as_ref().map(bind).transpose()?;
        let health = Health::new(&[], Instant::now());
        Ok(Self { http, health, notifier: Notifier::from_env(), watchdog: None, stopping: false })
    }

    /// The workers run: watches them, and tells systemd, where that has asked.
    pub(super) fn begin(&mut self, running: &Running) {
        let now = Instant::now();
        self.health = Health::new(&running.stats, now);
        if let Some(Ok(addr)) = self.http.as_ref().map(Http::local_addr) {
            tracing::info!("metrics on http://{addr}/metrics, health on http://{addr}/healthz");
        }
        let every = sd_notify::watchdog_enabled().map(|every| every / 2);
        self.watchdog = every.map(|every| Watchdog { every, due: now });
        self.notifier.send("READY=1");
    }

    /// The run is to end: tells systemd, and those who ask for its health.
    pub(super) fn stopping(&mut self) {
        self.stopping = true;
        self.notifier.send("STOPPING=1");
    }

    /// What a round of the control thread is to wait for as well.
    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.http.iter().flat_map(Http::fds).collect()
    }

    /// The longest that a round of the control thread may wait.
    pub(super) fn round(&self, round: Duration) -> Duration {
        let watchdog = self.watchdog.as_ref().map_or(round, |watchdog| watchdog.every);
        // A client that takes its answer in pieces cannot be waited for together with those that ask.
        let http = self.http.as_ref().and_then(Http::look_again).unwrap_or(round);
        round.min(watchdog).min(http)
    }

    /// One round: answers who asks, feeds the watchdog if every worker makes progress.
    pub(super) fn turn(&mut self, running: &mut Running) {
        let now = Instant::now();
        let health = self.health.check(now);
        if let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.due <= now) {
            watchdog.due = now + watchdog.every;
            match &health {
                Ok(()) => self.notifier.send("WATCHDOG=1"),
                Err(stuck) => {
                    tracing::error!("the watchdog is not fed: {stuck}");
                    self.notifier.send(&format!("STATUS={stuck}"));
                }
            }
        }
        let Some(http) = &mut self.http else { return };
        // Made once a round and format, however many ask.
        let mut pages: [Option<Vec<u8>>; Format::ALL.len()] = Default::default();
        let down = running.desk.links_down();
        let desk = std::cell::RefCell::new(running);
        let answer = |client: u64, question: &Question| match (question.path.as_str(), &health) {
            ("/metrics", _) => {
                let mut running = desk.borrow_mut();
                if running.desk.poll_numbers(HTTP_ASKER | client).is_pending() {
                    return None;
                }
                let format = Format::negotiate(&question.accept);
                let page = &mut pages[format as usize];
                let body = page
                    .get_or_insert_with(|| running.page(health.is_ok(), down.is_empty()).bytes(format))
                    .clone();
                Some(Answer { status: "200 OK", content_type: format.content_type(), body })
            }
            ("/healthz", health) => Some(match sick(health, &down, self.stopping) {
                None => Answer::text("200 OK", "ok"),
                Some(why) => Answer::text("503 Service Unavailable", why),
            }),
            _ => Some(Answer::text("404 Not Found", "there are /metrics and /healthz")),
        };
        http.turn(answer, |client| desk.borrow_mut().desk.numbers.gone(HTTP_ASKER | client));
    }
}

/// Why a load balancer is to send new connections elsewhere, if it is.
fn sick(health: &Result<(), String>, down: &[(String, PortLink)], stopping: bool) -> Option<String> {
    if let Err(stuck) = health {
        return Some(stuck.clone());
    }
    if let Some((port, link)) = down.first() {
        return Some(format!("the link of port \"{port}\" has been {}", link.text()));
    }
    stopping.then(|| "draining: no new connection is taken".to_owned())
}

impl Running {
    /// The page for Prometheus, with what the workers last told.
    fn page(&self, healthy: bool, linked: bool) -> Page {
        let stats = self.desk.known_stats();
        let reports = self.desk.reporter.lock().reports();
        #[cfg(feature = "dpdk")]
        let dpdk = self.eal.as_ref().map_or_else(|| "none".into(), |_| ::dpdk::version());
        #[cfg(not(feature = "dpdk"))]
        let dpdk = "none".into();
        Page { stats, reports, healthy, linked, dpdk }
    }
}
