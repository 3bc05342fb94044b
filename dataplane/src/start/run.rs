//! `hearken run` and `hearken check`.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::signals::{Draining, Signals};
use super::surroundings::Presence;
use super::watch::Watch;
use super::{FinalReport, Running, StartError, cores, machine, numa, stack, start, surroundings};
use crate::cli::CliError;
use crate::config::{Config, Device};
use crate::control::server::Server;
use crate::doctor;
use crate::log;
use crate::report;

/// How long the control thread sleeps when nobody asks for anything: commands that found a worker's ring full are
/// tried again that often.
const ROUND: Duration = Duration::from_millis(100);
/// The same while the server drains: how late it may see that all has ended.
const ROUND_DRAINING: Duration = Duration::from_millis(10);

/// Memory that an open listener takes, with its place in the control thread's list. This and the next are measured, as what of the
/// process is resident with one more, in mebibytes or octets.
const LISTENER_BYTES: u64 = 300;
/// The program itself, its libraries and what each process has once.
const PROGRAM_MB: u64 = 50;
/// A half-open handshake's place, with its index.
const REQUEST_BYTES: u64 = 144;
/// A connection's place, with its index.
const CONNECTION_BYTES: u64 = 208;

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(error) => error.into(),
            StartError::Bind(_) | StartError::Run(_) => Self::Run(error.to_string()),
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
    let mut watch = Watch::bind(config)?;
    for advice in surroundings::advice(config) {
        tracing::warn!("{advice}");
    }
    let _presence = Presence::take(config, Path::new("/sys")).map_err(CliError::Run)?;
    let mut running = start(config).inspect_err(|error| complain(config, error))?;
    watch.begin(&running);
    tracing::info!(socket = %server.path().display(), "answering on the control socket");
    let why = serve(config, &mut server, &mut running, (&signals, &mut watch), duration);
    watch.stopping();
    let (report, ended) = running.stop();
    drop(server);
    let printed = print(&report, out);
    match why {
        Ok(why) => tracing::info!("{why}: ended"),
        Err(why) => return Err(CliError::Run(why)),
    }
    ended.map_err(CliError::Run)?;
    match printed {
        // The run was whole, and whoever left did not want to know.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            tracing::warn!("nobody reads standard output any more: the report is lost");
            Ok(())
        }
        printed => printed.map_err(|error| {
            CliError::Run(format!("the report is lost, standard output cannot be written: {error}"))
        }),
    }
}

/// Prints what else is wrong with the machine, for where it is that which kept it from running.
fn complain(config: &Config, error: &StartError) {
    if let StartError::Run(_) = error {
        let complaints = doctor::complaints(config);
        if !complaints.is_empty() {
            log::say(format_args!("what hearken doctor says of this machine:\n{}", complaints.trim_end()));
        }
    }
}

/// The control thread's loop. Returns why it is over.
fn serve(
    config: &Config,
    server: &mut Server,
    running: &mut Running,
    (signals, watch): (&Signals, &mut Watch),
    duration: Option<Duration>,
) -> Result<String, String> {
    let end = duration.map(|duration| Instant::now() + duration);
    let replays = config.port.iter().any(|port| matches!(port.device.get_ref(), Device::Pcap { .. }));
    let mut draining: Option<Draining> = None;
    loop {
        let readers = &running.desk.loaded.config.control.readers;
        server.set_readers(readers).map_err(|error| format!("cannot let others read: {error}"))?;
        let round = if draining.is_some() { ROUND_DRAINING } else { ROUND };
        let left = end.map_or(round, |end| end.saturating_duration_since(Instant::now()).min(round));
        let others = [&signals.fds()[..], &watch.fds()].concat();
        let turn = running.turn(server, &others, watch.round(left));
        turn.map_err(|error| format!("the control thread cannot wait: {error}"))?;
        watch.turn(running);
        if let Some(why) = running.failure() {
            return Err(why);
        }
        if signals.reload() {
            reload(running);
        }
        if signals.end() {
            return Ok("stopped by a signal".into());
        }
        if signals.drain() {
            watch.stopping();
            // What was reloaded counts.
            let seconds = running.desk.loaded.config.control.drain_seconds.0;
            draining = Some(Draining::begin(running, Duration::from_secs(seconds.into())));
        }
        if let Some(why) = draining.as_ref().and_then(|draining| draining.over(running)) {
            return Ok(why);
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok("the time is over".into());
        }
        if replays && end.is_none() && running.exhausted() {
            return Ok("all files are replayed".into());
        }
    }
}

/// SIGHUP: what `hearken reload` does, with the difference in the log.
fn reload(running: &mut Running) {
    match running.desk.reload(false) {
        Ok(reloaded) => {
            for change in reloaded.changes {
                tracing::info!("{change}");
            }
        }
        Err(refusal) => tracing::error!("not reloaded: {refusal}"),
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
    let cpus = numa::local(config, cores::choose(config, &cores::allowed())?, Path::new("/sys"))?;
    for port in &config.port {
        let (name, device) = (port.name.get_ref(), port.device.get_ref());
        writeln!(out, "port {name}: {device} {}", super::addresses(port))?;
        if let Some(clamp) = super::frames::mtu(port).clamp {
            writeln!(out, "port {name}: {clamp}")?;
        }
    }
    writeln!(out, "workers: on cores {}, as far as the devices have queues", cores::list(&cpus))?;
    writeln!(out, "listeners: {}", config.listeners())?;
    writeln!(out, "control socket: {}", config.socket().display())?;
    for advice in surroundings::advice(config) {
        writeln!(out, "warning: {advice}")?;
    }
    let (tables, sum) = tables(config, cpus.len());
    writeln!(out, "memory of tables: {tables} MB ({sum})")?;
    memory(config, (cpus.len(), tables), out)?;
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

/// Megabytes that the process needs beside DPDK's, and how they come about.
fn tables(config: &Config, cores: usize) -> (u64, String) {
    let limits = &config.limits;
    let (requests, connections) =
        (u64::from(*limits.requests_per_core.get_ref()), u64::from(*limits.connections_per_core.get_ref()));
    let listeners = u64::try_from(config.listeners()).unwrap_or(u64::MAX);
    let cores = u64::try_from(cores).unwrap_or(u64::MAX);
    let octets =
        cores * (requests * REQUEST_BYTES + connections * CONNECTION_BYTES) + listeners * LISTENER_BYTES;
    let sum = format!(
        "{cores} cores x ({requests} requests x {REQUEST_BYTES} + {connections} connections x {CONNECTION_BYTES} bytes), \
         {listeners} listeners x {LISTENER_BYTES} bytes, program: {PROGRAM_MB} MB"
    );
    (octets.div_ceil(1 << 20) + PROGRAM_MB, sum)
}

#[cfg(feature = "dpdk")]
fn memory(config: &Config, (cores, tables): (usize, u64), out: &mut impl Write) -> Result<(), CliError> {
    if config.port.iter().all(|port| matches!(port.device.get_ref(), Device::Pcap { .. })) {
        return Ok(());
    }
    let (need, sum) = super::dpdk::memory_need(config, cores);
    writeln!(out, "memory of DPDK: {need} MB ({sum})")?;
    writeln!(out, "memory in all: {} MB", tables + u64::from(need))?;
    let (_, why) = super::dpdk::memory(config, need)?;
    writeln!(out, "{why}")?;
    Ok(())
}

#[cfg(not(feature = "dpdk"))]
fn memory(_config: &Config, _tables: (usize, u64), _out: &mut impl Write) -> Result<(), CliError> {
    Ok(())
}
