//! hearken: the listening half of TCP, on DPDK.
#![forbid(unsafe_code)]

use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use dataplane::cli::{Cli, CliError};
use dataplane::log;
use dataplane::output::Output;

/// How long a server waits at its end for who reads its report; a command waits for as long as it takes.
const REPORT_PATIENCE: Duration = Duration::from_secs(5);
/// How long the end waits for who reads the log.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let installed = log::install(cli.log_options());
    let code = match installed.map_err(|error| CliError::Run(format!("cannot log: {error}"))) {
        Ok(()) => run(cli),
        Err(error) => Err(error),
    };
    let code = code.err().map_or(0, |error| {
        match error {
            CliError::ReaderGone => die_of_sigpipe(),
            _ => log::say(format_args!("hearken: {error}")),
        }
        error.code()
    });
    log::flush(LOG_PATIENCE);
    ExitCode::from(code)
}

fn run(cli: Cli) -> Result<(), CliError> {
    let is_server = cli.is_server();
    let mut out = BufWriter::new(Output::stdout(is_server.then_some(REPORT_PATIENCE))?);
    let ended = cli.run(&mut out);
    // What was printed before it failed is worth reading. A server has seen to its report itself.
    let flushed = if is_server { Ok(()) } else { out.flush() };
    // Dropped, it would try to write once more.
    let _ = out.into_parts();
    ended.and_then(|()| flushed.map_err(CliError::from))
}

/// Ends as a program does that writes to a pipe nobody reads (`hearken ss | head -1`): without a word.
fn die_of_sigpipe() {
    log::flush(LOG_PATIENCE);
    // Returns only where the signal is blocked: then the exit code says it.
    let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE);
}
