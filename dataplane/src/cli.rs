//! The command line: arguments are types, a subcommand's body is a call.

mod cookie_keys;
mod doctor;
mod latency;

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::config::{ConfigError, ListenAddr, ThenName};
use crate::control::client::ClientError;
use crate::control::proto::{self, Accepted, Closed, Listen, Listening, Request, Ss, Stats, Which};
use crate::{log, report};
use latency::LatencyArgs;
use place::{ConfigArgs, ServerArgs};

mod capture;
mod generate;
mod place;
mod reload;
mod shield;
mod top;
mod why;

/// The listening half of TCP, on DPDK.
#[derive(Debug, Parser)]
#[command(name = "hearken", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

/// What goes to standard error.
#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
struct LogArgs {
    /// Form of the log on standard error
    #[arg(long, value_enum, default_value_t, value_name = "FORM", global = true)]
    log: log::Format,
    /// Log more: -v debug, -vv trace; overrides HEARKEN_LOG
    #[arg(short, long, action = clap::ArgAction::Count, global = true, conflicts_with = "quiet")]
    verbose: u8,
    /// Log less: -q warnings and errors, -qq errors, -qqq nothing; overrides HEARKEN_LOG
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    quiet: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server until SIGINT, or until SIGTERM and the end of its connections; then print what it counted
    Run(RunArgs),
    /// Stand in front of every listener of an interface: meet its SYNs, hand verified handshakes to the kernel
    Shield(shield::ShieldArgs),
    /// Check a configuration file, and whether this machine can run it
    Check(CheckArgs),
    /// Open a listener on the running server, as listen(2) would
    Listen(ListenArgs),
    /// Close a listener; connections that wait in its accept queue are reset
    Close(CloseArgs),
    /// Accept the connection that has waited longest, print its peer, close it
    Accept(AcceptArgs),
    /// Read the configuration file again and take over what changed, as a whole or not at all; as SIGHUP does
    Reload(reload::ReloadArgs),
    /// Say what would become of a segment, and why: a dry run that changes nothing
    Why(why::WhyArgs),
    /// Write frames that come in to a pcapng file, each with its verdict as a comment
    Capture(capture::CaptureArgs),
    /// Watch cores, drops, listeners and floods live
    Top(top::TopArgs),
    /// Show the listeners, as ss -ltn does
    Ss(SsArgs),
    /// Show the counters of each core and device
    Stats(StatsArgs),
    /// Look at this machine and, where there is a configuration, for what it asks: what DPDK will miss, what mends it
    Doctor(doctor::DoctorArgs),
    /// Show how long answers took, per core and outcome
    Latency(LatencyArgs),
    /// Show or change the keys of SYN cookies
    CookieKeys(cookie_keys::CookieKeysArgs),
    /// Make man pages, completions and the reference of commands
    #[command(hide = true)]
    Generate(generate::GenerateArgs),
}

/// Why the program ends with another code than 0.
#[derive(Debug)]
pub enum CliError {
    /// Exit code 2: the command line or the configuration.
    Usage(String),
    /// Exit code 1: the run.
    Run(String),
    /// Exit code 3: nothing failed, and something could be better.
    Warn(String),
    /// Nobody reads standard output any more: dies of SIGPIPE, or exit code 141, as a shell shows that.
    ReaderGone,
}

impl CliError {
    /// The exit code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Run(_) => 1,
            Self::Warn(_) => 3,
            Self::ReaderGone => 141,
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Run(message) | Self::Warn(message) => f.write_str(message),
            Self::ReaderGone => f.write_str("nobody reads standard output"),
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        Self::Run(error.to_string())
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::ReaderGone;
        }
        Self::Run(format!("cannot write the answer: {error}"))
    }
}

type Done = Result<(), CliError>;

impl Cli {
    /// True for what runs until it is told to end.
    pub fn is_server(&self) -> bool {
        match &self.command {
            Command::Run(_) => true,
            Command::Shield(args) => args.is_server(),
            _ => false,
        }
    }

    /// What is logged, and how.
    pub fn log_options(&self) -> log::Options {
        let steps = |count: u8| i8::try_from(count).unwrap_or(i8::MAX);
        let verbosity = steps(self.log.verbose) - steps(self.log.quiet);
        log::Options { format: self.log.log, verbosity }
    }

    /// Does what the command line says; answers go to `out`.
    ///
    /// # Errors
    /// What went wrong, for people, and the exit code.
    pub fn run(self, out: &mut impl Write) -> Done {
        match self.command {
            Command::Run(args) => args.run(out),
            Command::Shield(args) => args.run(out),
            Command::Check(args) => args.run(out),
            Command::Listen(args) => args.run(out),
            Command::Close(args) => args.run(out),
            Command::Accept(args) => args.run(out),
            Command::Reload(args) => args.run(out),
            Command::Why(args) => args.run(out),
            Command::Capture(args) => args.run(out),
            Command::Top(args) => args.run(out),
            Command::Ss(args) => args.run(out),
            Command::Stats(args) => args.run(out),
            Command::Latency(args) => args.run(out),
            Command::Doctor(args) => args.run(out),
            Command::CookieKeys(args) => args.run(out),
            Command::Generate(args) => args.run(out),
        }
    }
}

/// A span of time: `10s`, `500ms`, `2m`, `1h`.
#[derive(Clone, Copy, Debug)]
struct Span(Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (count, unit) = text.split_at(digits);
        let ms_per_unit: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err("write a number with its unit, such as 10s, 500ms, 2m or 1h".into()),
        };
        let ms = count.parse::<u64>().ok().and_then(|count| count.checked_mul(ms_per_unit));
        ms.map(|ms| Self(Duration::from_millis(ms))).ok_or_else(|| format!("\"{count}\" is no usable number"))
    }
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// End by itself after this time
    #[arg(long = "for", value_name = "TIME")]
    duration: Option<Span>,
}

impl RunArgs {
    fn run(&self, out: &mut impl Write) -> Done {
        let config = self.config.load()?;
        crate::start::run(&config, self.duration.map(|span| span.0), out)
    }
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

impl CheckArgs {
    fn run(&self, out: &mut impl Write) -> Done {
        let config = self.config.load()?;
        crate::start::check(&config, out)
    }
}

#[derive(Debug, Args)]
struct ListenArgs {
    /// Local address and ports, as 198.18.0.1:80 or 0.0.0.0:80,443,8000-8100, a listener for each; 0.0.0.0 means every IPv4
    /// address, [::] or * every address
    #[arg(value_name = "ADDR:PORTS")]
    addr: ListenAddr,
    /// Finished connections that may wait for accept; the server clamps it to somaxconn
    #[arg(long, default_value_t = proto::backlog_default(), value_name = "CONNECTIONS", allow_hyphen_values = true)]
    backlog: i32,
    /// Share the port with other listeners that also ask to (SO_REUSEPORT)
    #[arg(long)]
    reuseport: bool,
    /// Take IPv6 only, not IPv4 too (IPV6_V6ONLY)
    #[arg(long)]
    v6only: bool,
    /// Listen on this port of the configuration only (SO_BINDTODEVICE)
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// What becomes of a finished connection
    #[arg(long, value_enum, default_value_t, value_name = "ACTION")]
    then: ThenName,
    /// Seconds to wait for data before a connection counts as finished (TCP_DEFER_ACCEPT)
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    defer_accept: i32,
    #[command(flatten)]
    server: ServerArgs,
}

impl ListenArgs {
    /// Prints `listening fd=3 198.18.0.1:80 backlog=4096`, of several ports also how many; or fails with the errno's name.
    fn run(self, out: &mut impl Write) -> Done {
        let Self { addr, backlog, reuseport, v6only, device, then, defer_accept, server } = self;
        if v6only && addr.ip.is_ipv4() {
            return Err(CliError::Usage(format!("--v6only on the IPv4 address {addr}; leave it out")));
        }
        let v6only = v6only.then_some(true);
        let listen = Listen { addr: addr.clone(), backlog, reuseport, v6only, device, then, defer_accept };
        let Listening { fd, backlog, listeners, .. } = server.connect()?.call(&Request::Listen(listen))?;
        let count = if listeners == 1 { String::new() } else { format!(" listeners={listeners}") };
        writeln!(out, "listening fd={fd} {addr} backlog={backlog}{count}")?;
        Ok(())
    }
}

/// An address as `hearken ss` shows it: with `%wan` before the port, that of a listener on this device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ShownAddr {
    addr: ListenAddr,
    device: Option<String>,
}

impl FromStr for ShownAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // In brackets it would be the scope of an address.
        let split = text.rsplit_once('%').filter(|(_, rest)| !rest.contains(']'));
        let Some((ip, (device, ports))) = split.and_then(|(ip, rest)| Some((ip, rest.split_once(':')?)))
        else {
            return text.parse().map(|addr| Self { addr, device: None });
        };
        let addr = format!("{ip}:{ports}").parse()?;
        Ok(Self { addr, device: Some(device.to_owned()) })
    }
}

#[derive(Debug, Args)]
struct WhichArgs {
    /// Local address of the listener, as hearken ss shows it, or one with several ports such as 198.18.0.1:80,8000-8100
    #[arg(value_name = "ADDR:PORTS")]
    addr: ShownAddr,
    /// Of several, the one on this device
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Of several, the one with this descriptor (see hearken ss --json)
    #[arg(long, value_name = "NUMBER")]
    fd: Option<u32>,
}

impl WhichArgs {
    fn which(self, all: bool) -> Result<Which, CliError> {
        let ShownAddr { addr, device } = self.addr;
        if let (Some(shown), Some(given)) = (&device, &self.device)
            && shown != given
        {
            return Err(CliError::Usage(format!(
                "two devices, %{shown} and --device {given}; leave one out"
            )));
        }
        Ok(Which { addr, device: self.device.or(device), fd: self.fd, all })
    }
}

#[derive(Debug, Args)]
struct CloseArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Of several, all
    #[arg(long, conflicts_with = "fd")]
    all: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl CloseArgs {
    fn run(self, out: &mut impl Write) -> Done {
        let which = self.which.which(self.all)?;
        let addr = which.addr.clone();
        let closed: Closed = self.server.connect()?.call(&Request::Close(which))?;
        match addr.ports.only() {
            Some(_) => closed.closed.iter().try_for_each(|fd| writeln!(out, "closed fd={fd} {addr}"))?,
            None => writeln!(out, "closed {addr} listeners={}", closed.closed.len())?,
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
struct AcceptArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Close it with a RST instead of a FIN
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl AcceptArgs {
    /// Prints the peer's `ADDR:PORT`.
    fn run(self, out: &mut impl Write) -> Done {
        let which = self.which.which(false)?;
        let mut server = self.server.connect()?;
        let accepted: Accepted = server.call(&Request::Accept(which))?;
        writeln!(out, "{}", accepted.peer)?;
        let Empty {} = server.call(&Request::CloseConnection { fd: accepted.fd, reset: self.reset })?;
        Ok(())
    }
}

/// A reply that says nothing but yes.
#[derive(serde::Deserialize)]
struct Empty {}

#[derive(Debug, Args)]
struct SsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl SsArgs {
    fn run(&self, out: &mut impl Write) -> Done {
        let mut server = self.server.connect()?;
        let mut all = Ss::default();
        let mut from = Some(0);
        while let Some(fd) = from {
            let page: Ss = server.call(&Request::Ss { from: fd })?;
            all.listeners.extend(page.listeners);
            all.kernel.extend(page.kernel);
            // A server that does not move on would be asked for ever.
            from = page.next.filter(|next| *next > fd);
        }
        print(out, self.json, &all, || report::ss(&all))
    }
}

#[derive(Debug, Args)]
struct StatsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show also what is 0 everywhere
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl StatsArgs {
    fn run(&self, out: &mut impl Write) -> Done {
        let stats: Stats = self.server.connect()?.call(&Request::Stats {})?;
        print(out, self.json, &stats, || report::stats(&stats, self.all))
    }
}

/// `value` as one line of JSON, or the text for people.
fn print(out: &mut impl Write, json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Done {
    if json {
        let line = serde_json::to_string(value).map_err(std::io::Error::from)?;
        writeln!(out, "{line}")?;
    } else {
        write!(out, "{}", text())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn spans_have_units() {
        let span = |text: &str| text.parse::<Span>().map(|span| span.0.as_millis());
        assert_eq!(span("10s"), Ok(10_000));
        assert_eq!(span("500ms"), Ok(500));
        assert_eq!((span("2m"), span("1h")), (Ok(120_000), Ok(3_600_000)));
        for bad in ["", "s", "10", "10 s", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_taken_as_they_are_shown() {
        let shown =
            |text: &str| text.parse::<ShownAddr>().map(|shown| (shown.addr.to_string(), shown.device));
        let on = |device: &str| Some(device.to_owned());
        assert_eq!(shown("*:80"), Ok(("[::]:80".into(), None)));
        assert_eq!(shown("*%wan:80"), Ok(("[::]:80".into(), on("wan"))));
        assert_eq!(shown("[::]%wan:80-90"), Ok(("[::]:80-90".into(), on("wan"))));
        assert_eq!(shown("198.18.0.1%w.0:80"), Ok(("198.18.0.1:80".into(), on("w.0"))));
        assert_eq!(shown("198.18.0.1:80"), Ok(("198.18.0.1:80".into(), None)));
        for bad in ["[fe80::1%wan]:80", "198.18.0.1%wan", "%wan:80", "*:0"] {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_negative_backlog_is_the_kernels_business() {
        let cli =
            Cli::try_parse_from(["hearken", "listen", "198.18.0.1:80", "--backlog", "-1"]).expect("valid");
        assert!(matches!(cli.command, Command::Listen(ListenArgs { backlog: -1, .. })));
    }
}
