//! hearken against its peers, in turn and in the same run.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about = "hearken against its peers, in turn and in the same run")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    Handshakes(bench::handshakes::Args),
    Lookup(bench::lookup::LookupArgs),
    Observe(bench::observe::Args),
    Packets(bench::packets::Args),
    Pcap(bench::pcap::Args),
    Places(bench::places::Args),
    Stages(bench::stages::Args),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Causes, and no stack trace: what is wrong is mostly the machine.
            bench::note(&error, "hearken-bench");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    match Cli::parse().bench {
        Bench::Handshakes(args) => args.run(),
        Bench::Lookup(args) => args.run(&mut std::io::stdout().lock()),
        Bench::Observe(args) => args.run(),
        Bench::Packets(args) => args.run(),
        Bench::Pcap(args) => args.run(),
        Bench::Places(args) => args.run(),
        Bench::Stages(args) => args.run(),
    }
}
