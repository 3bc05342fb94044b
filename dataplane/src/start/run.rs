//! `hearken run` and `hearken check`.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use super::{FinalReport, Running, StartError, cores, machine, stack, start, team};
use crate::cli::CliError;
use crate::config::{Config, Device};
use crate::control::server::Server;
use crate::report;

/// How long the control thread sleeps when nobody asks for anything: commands that found a worker's ring full are
/// tried again that often.
const ROUND: Duration = Duration::from_millis(100);

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(error) => error.into(),
            StartError::Bind(_) | StartError::Run(_) => Self::Run(error.to_string()),
        }
    }
}

/// SIGINT and SIGTERM: the first is noted and wakes the control thread, the second ends the process at once.
struct Signals {
    seen: Arc<AtomicBool>,
    wake: UnixStream,
    handlers: Vec<signal_hook::SigId>,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let seen = Arc::new(AtomicBool::new(false));
        let mut handlers = Vec::new();
        for signal in [SIGINT, SIGTERM] {
            // In this order: a first signal finds the flag down and raises it after.
            handlers.push(flag::register_conditional_shutdown(signal, 1, Arc::clone(&seen))?);
            handlers.push(flag::register(signal, Arc::clone(&seen))?);
            handlers.push(low_level::pipe::register(signal, waker.try_clone()?)?);
        }
        Ok(Self { seen, wake, handlers })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            low_level::unregister(handler);
        }
    }
}

/// Runs until a signal, `duration`, the end of all files, or a worker's failure; then prints the report to `out`.
///
/// # Errors
/// With exit code 2 what is wrong with the configuration, with 1 what else kept it from running or ended it.
pub fn run(config: &Config, duration: Option<Duration>, out: &mut impl Write) -> Result<(), CliError> {
    let signals =
        Signals::install().map_err(|error| CliError::Run(format!("cannot take signals: {error}")))?;
    // First of all, so that a second server with this name does not touch the devices of the first.
    let mut server = Server::bind(&config.socket()).map_err(StartError::Bind)?;
    let mut running = start(config)?;
    tracing::info!(socket = %server.path().display(), "answering on the control socket");
    let why = serve(config, &mut server, &mut running, &signals, duration);
    let (report, ended) = running.stop();
    drop(server);
    print(&report, out)?;
    match why {
        Ok(why) => tracing::info!("{why}: ended"),
        Err(why) => return Err(CliError::Run(why)),
    }
    ended.map_err(CliError::Run)
}

/// The control thread's loop. Returns why it is over.
fn serve(
    config: &Config,
    server: &mut Server,
    running: &mut Running,
    signals: &Signals,
    duration: Option<Duration>,
) -> Result<&'static str, String> {
    let end = duration.map(|duration| Instant::now() + duration);
    let replays = config.port.iter().any(|port| matches!(port.device.get_ref(), Device::Pcap { .. }));
    loop {
        let left = end.map_or(ROUND, |end| end.saturating_duration_since(Instant::now()).min(ROUND));
        let turn = running.turn(server, &[signals.wake.as_fd()], left);
        turn.map_err(|error| format!("the control thread cannot wait: {error}"))?;
        team::drain(&signals.wake);
        if let Some(why) = running.failure() {
            return Err(why.to_owned());
        }
        if signals.seen.load(Ordering::Relaxed) {
            return Ok("stopped by a signal");
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok("the time is over");
        }
        if replays && end.is_none() && running.exhausted() {
            return Ok("all files are replayed");
        }
    }
}

fn print(report: &FinalReport, out: &mut impl Write) -> std::io::Result<()> {
    let (latency, stats) = (report::latency(&report.latency), report::stats(&report.stats, false));
    writeln!(out, "{latency}\n{stats}")?;
    out.flush()
}

/// Says whether `config` is right, what it would run, and what this machine lacks for it.
///
/// # Errors
/// With exit code 2 what is wrong with the configuration, with 1 what the machine lacks.
pub fn check(config: &Config, out: &mut impl Write) -> Result<(), CliError> {
    stack::rehearse(config)?;
    let cpus = cores::choose(config, &cores::allowed())?;
    for port in &config.port {
        let (name, device) = (port.name.get_ref(), port.device.get_ref());
        writeln!(out, "port {name}: {device} {}", super::addresses(port))?;
    }
    writeln!(out, "workers: on cores {}, as far as the devices have queues", cores::list(&cpus))?;
    writeln!(out, "listeners: {}", config.listener.len())?;
    writeln!(out, "control socket: {}", config.socket().display())?;
    memory(config, cpus.len(), out)?;
    let problems = machine::problems(config);
    if problems.is_empty() {
        writeln!(out, "ok")?;
        return Ok(());
    }
    Err(CliError::Run(format!(
        "the configuration is right, but this machine cannot run it: {}",
        problems.join("; ")
    )))
}

#[cfg(feature = "dpdk")]
fn memory(config: &Config, cores: usize, out: &mut impl Write) -> Result<(), CliError> {
    if config.port.iter().all(|port| matches!(port.device.get_ref(), Device::Pcap { .. })) {
        return Ok(());
    }
    let (need, sum) = super::dpdk::memory_need(config, cores);
    writeln!(out, "memory: {need} MB ({sum})")?;
    let (_, why) = super::dpdk::memory(config, need)?;
    writeln!(out, "{why}")?;
    Ok(())
}

#[cfg(not(feature = "dpdk"))]
fn memory(_config: &Config, _cores: usize, _out: &mut impl Write) -> Result<(), CliError> {
    Ok(())
}
