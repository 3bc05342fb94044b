//! `hearken-load throughput` in small: every figure is there, and hearken was in front. How high they are is the machine's affair.

use std::process::Command;

#[path = "../../dataplane/tests/lab/mod.rs"]
mod lab;

use bench::generator::throughput::report::Throughput;
use lab::skip;

fn throughput(words: &str) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearken-load"));
    command.arg("throughput").args(words.split_whitespace()).output().expect("it starts")
}

#[test]
fn every_figure_is_there() {
    if let Err(error) = lab::Namespace::new() {
        return skip("throughput behind hearken", error);
    }
    if let Err(error) = hearken_bpf::support::handover() {
        return skip("throughput behind hearken", error);
    }
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return skip("throughput behind hearken", "it wants two CPUs");
    }
    let output = throughput("--rounds 1 --seconds 1 --flood 20k --json -");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let result: Throughput = serde_json::from_slice(&output.stdout).expect("its JSON");
    let names: Vec<&str> = result.rows.iter().map(|row| row.contestant.as_str()).collect();
    assert_eq!(names, ["bare wire", "XDP_PASS, generic", "XDP_PASS, native", "hearken"]);
    for row in &result.rows {
        for figures in [&row.calm, &row.flooded] {
            for figure in [&figures.to_server, &figures.from_server, &figures.requests] {
                let ([value, ..], [ratio, ..]) = (figure.value, figure.to_passing);
                assert!(value > 0.0 && ratio > 0.0, "{row:?}");
                assert!(row.contestant != "XDP_PASS, native" || ratio == 1.0, "{row:?}");
            }
        }
    }
    assert_eq!(result.table().lines().filter(|line| line.contains("20.0k/s")).count(), 4);
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_made() {
    let fails = |words: &str| String::from_utf8_lossy(&throughput(words).stderr).into_owned();
    assert!(fails("--cpus 0").contains("--cpus wants two numbers"));
    assert!(fails("--rounds 0").contains("--rounds wants 1 or more"));
    assert!(fails("--seconds 0").contains("0 is not in 1..=60"));
}
