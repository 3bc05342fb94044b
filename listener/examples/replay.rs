//! Replays recorded kernel behaviour: `cargo run --release -p hearken-listener --features oracle --example replay -- FILE…`
//!
//! Prints each difference and a last line `replayed N scenarios: M mismatches`. Exit code 1 if M is not 0, 2 if a
//! file cannot be read.

#[path = "../tests/common/mod.rs"]
mod common;

use std::process::ExitCode;

use common::scenario::{Report, replay_text};

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("no file given: replay FILE…, each in the format of tests/fixtures/scenarios.json");
        return ExitCode::from(2);
    }
    let mut report = Report::default();
    for file in &files {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string());
        if let Err(error) = text.and_then(|text| replay_text(&text, &mut report)) {
            eprintln!("{file}: {error}");
            return ExitCode::from(2);
        }
    }
    for mismatch in &report.mismatches {
        println!("{mismatch}");
    }
    let skipped: usize = report.skipped.values().sum();
    let reasons: Vec<String> =
        report.skipped.iter().map(|(reason, steps)| format!("{steps} {reason}")).collect();
    println!("skipped {skipped} steps that only a kernel client can answer: {}", reasons.join("; "));
    println!("replayed {} scenarios: {} mismatches", report.scenarios, report.mismatches.len());
    if report.mismatches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
