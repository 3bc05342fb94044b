//! hearken: the listening half of TCP, on DPDK.
#![forbid(unsafe_code)]

use std::io::{BufWriter, IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use clap::Parser;
use dataplane::cli::{Cli, CliError};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("HEARKEN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .init();
    let mut out = BufWriter::new(stdout().lock());
    let ended = cli.run(&mut out).and_then(|()| out.flush().map_err(CliError::from));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = out.flush();
            eprintln!("hearken: {error}");
            ExitCode::from(error.code())
        }
    }
}
