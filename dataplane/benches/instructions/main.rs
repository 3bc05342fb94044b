//! How many instructions a burst of 32 takes: `make instructions`. A guard that no noise touches.
//!
//! Each row of [`ROWS`] is one burst, executed once under `valgrind --tool=callgrind` after others like it, and counted
//! from its first instruction to its last. The counts are compared with those in `counts.txt`, and one that has
//! grown by more than [`TOLERANCE`] fails. `HEARKEN_BLESS=1 make instructions` writes the file anew.
//!
//! It is the portable build that is counted (`--cfg hearken_portable`, the Makefile says it): the same code on every
//! machine, whatever vectors that has. The time is the virtual clock's, so no row depends on it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

#[path = "../../tests/common/mod.rs"]
mod common;
mod rows;

use rows::ROWS;

/// What a count may grow by before it fails.
const TOLERANCE: f64 = 0.03;
const BLESS: &str = "HEARKEN_BLESS=1 make instructions";
const HEAD: &str = "\
# Instructions of one burst of 32, portable build; written by `HEARKEN_BLESS=1 make instructions`.
# Another compiler makes other code, so the figures hold for the one named here.
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Under valgrind it is called with a row's name, by cargo with `--bench`.
    if let [row, name] = words.as_slice()
        && row == "--row"
    {
        rows::run(name);
        return ExitCode::SUCCESS;
    }
    if !cfg!(hearken_portable) {
        eprintln!("this is not the portable build; next: make instructions");
        return ExitCode::FAILURE;
    }
    match count_all().and_then(|counts| judge(&counts)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

type Count = (&'static str, u64);

fn count_all() -> Result<Vec<Count>, String> {
    ROWS.iter().map(|row| Ok((row.name, count(row.name)?))).collect()
}

/// Instructions between the first and the last of [`rows::burst`], of whatever row.
fn count(row: &str) -> Result<u64, String> {
    let own = std::env::current_exe().map_err(|error| format!("where am I: {error}"))?;
    let valgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted_*"])
        .arg(own)
        .args(["--row", row])
        // The C library takes the copying routines of the machine, unless told which.
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM")
        .output()
        .map_err(|error| format!("valgrind: {error}; next: .ci/setup build test"))?;
    let said = String::from_utf8_lossy(&valgrind.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    match collected {
        Some(count) if valgrind.status.success() && count > 0 => Ok(count),
        _ => Err(format!("{row}: valgrind counted nothing ({}):\n{said}", valgrind.status)),
    }
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/counts.txt")
}

fn compiler() -> String {
    let rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-V").output();
    rustc.map_or_else(
        |_| "an unknown rustc".to_owned(),
        |out| String::from_utf8_lossy(&out.stdout).trim().to_owned(),
    )
}

/// Compares the counts with the file's, prints both, and says which have grown too much.
fn judge(counts: &[Count]) -> Result<(), String> {
    if std::env::var_os("HEARKEN_BLESS").is_some() {
        return bless(counts);
    }
    let text = std::fs::read_to_string(file())
        .map_err(|error| format!("{}: {error}; next: {BLESS}", file().display()))?;
    let kept = |wanted: &str| {
        text.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
    };
    let mut grown = Vec::new();
    for &(name, count) in counts {
        let Some(before) = kept(name) else {
            grown.push(format!("{name}: {count}, and the file knows no such row"));
            continue;
        };
        let change = count as f64 / before as f64 - 1.0;
        let percent = 100.0 * change;
        println!("{name:24} {count:7} instructions, {before:7} before, {percent:+6.1} %");
        if change > TOLERANCE {
            grown
                .push(format!("{name}: {count} instructions, {percent:+.1} % over the {before} of the file"));
        } else if change < -TOLERANCE {
            println!("{name} is faster than the file says; hold it: {BLESS}");
        }
    }
    if grown.is_empty() {
        return Ok(());
    }
    let (then, now) =
        (text.lines().find_map(|line| line.strip_prefix("compiler ")).unwrap_or("?"), compiler());
    let why = if then == now {
        format!("Next: find out why; if it is worth it, renew the file: {BLESS}")
    } else {
        format!(
            "The file is of {then}, and this is {now}. Next: if nothing else has changed, renew it: {BLESS}"
        )
    };
    Err(format!(
        "{}\nWanted: at most {:.0} % more than {}.\n{why}",
        grown.join("\n"),
        100.0 * TOLERANCE,
        file().display()
    ))
}

fn bless(counts: &[Count]) -> Result<(), String> {
    let mut text = format!("{HEAD}compiler {}\n", compiler());
    for (name, count) in counts {
        let _ = writeln!(text, "{name} {count}");
    }
    std::fs::write(file(), &text).map_err(|error| format!("{}: {error}", file().display()))?;
    print!("{text}");
    Ok(())
}
