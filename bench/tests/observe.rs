//! `hearken-bench observe` as its users run it: every look has its row, and has seen something.

use std::path::{Path, PathBuf};
use std::process::Command;

const BENCH: &str = env!("CARGO_BIN_EXE_hearken-bench");

/// The binary that `cargo test --workspace` puts beside ours.
fn hearken() -> PathBuf {
    let path = Path::new(BENCH).with_file_name("hearken");
    assert!(path.exists(), "no {}; build it: cargo build -p dataplane", path.display());
    path
}

#[test]
fn every_look_is_measured_and_sees_what_it_should() {
    let cpu = std::thread::available_parallelism().map_or(0, usize::from) - 1;
    let mut command = Command::new(BENCH);
    command.args(["observe", "--rounds", "2", "--seconds", "0.3", "--memory", "pages", "--json"]);
    command.arg(format!("--cpus=0,{cpu}")).arg("--hearken").arg(hearken());
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = report["rows"].as_array().expect("rows");
    let of = |look: &str| rows.iter().find(|row| row["look"] == look).unwrap_or_else(|| panic!("no {look}"));
    assert_eq!(rows.len(), 6);
    for row in rows {
        assert!(row["mpps"].as_f64() > Some(0.0) && row["ratio"].as_f64() > Some(0.0), "{row}");
    }
    assert_eq!((of("plain")["ratio"].as_f64(), of("plain")["looks"].as_u64()), (Some(1.0), Some(0)));
    assert!(of("10 snapshots a second")["looks"].as_u64() >= Some(4), "{rows:?}");
    assert!(of("a scrape a second")["looks"].as_u64() >= Some(2), "{rows:?}");
    assert_eq!(of("capture that takes nothing")["frames"], 0);
    assert!(of("capture, 1 frame of 1,000")["frames"].as_u64() > Some(0), "{rows:?}");
}
