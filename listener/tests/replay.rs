//! Recorded kernel behaviour against the stack: a handful of scenarios always, all of them where they are at hand.

mod common;

use std::path::Path;

use common::scenario::{Report, replay_text};

fn replay(text: &str) -> Report {
    let mut report = Report::default();
    replay_text(text, &mut report).expect("a scenario file");
    for mismatch in &report.mismatches {
        eprintln!("{mismatch}");
    }
    report
}

#[test]
fn the_fixtures_replay_without_a_difference() {
    let report = replay(include_str!("fixtures/scenarios.json"));
    assert!(report.scenarios >= 10, "{} scenarios", report.scenarios);
    assert!(report.mismatches.is_empty(), "{} mismatches", report.mismatches.len());
}

#[test]
fn a_wrong_expectation_is_found() {
    let text = include_str!("fixtures/scenarios.json").replacen("\"EADDRINUSE\"", "\"OK\"", 1);
    assert_eq!(replay(&text).mismatches.len(), 1);
}

#[test]
fn the_whole_recording_replays_without_a_difference() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle/scenarios-public.json");
    let Ok(text) = std::fs::read_to_string(&file) else {
        eprintln!("not replayed: {} is not there", file.display());
        return;
    };
    let report = replay(&text);
    assert!(report.scenarios > 1000, "{} scenarios", report.scenarios);
    assert!(report.mismatches.is_empty(), "{} mismatches", report.mismatches.len());
}
