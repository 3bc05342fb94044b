//! A load generator for TCP listeners that judges every answer.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match bench::generator::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            bench::note(&error, "hearken-load");
            ExitCode::FAILURE
        }
    }
}
