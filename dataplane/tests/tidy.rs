//! The house rules that a machine can check: where `unsafe` may stand, how long a file may be. What the documentation
//! names is looked up by `docs.rs`.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a source file, tests aside.
const FILE_LINES_MAX: usize = 500;

/// The only module with `unsafe` in it, its files included, beside the crate `ffi` whose job it is. It trusts
/// `listener/src/sync/epoch.rs`, which has none.
const UNSAFE_DOORS: [&str; 1] = ["listener/src/bucket"];

const CRATES: [&str; 6] = ["bench", "dataplane", "ffi", "ffi/bpf", "ffi/dpdk-sys", "listener"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// Every `.rs` file of the workspace with its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut dirs: Vec<PathBuf> = CRATES.iter().map(|name| root().join(name)).collect();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a folder of the workspace") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            if path.is_dir() {
                if !name.ends_with("target") && !CRATES.contains(&name.as_str()) {
                    dirs.push(path);
                }
            } else if name.ends_with(".rs") {
                found.push((name, fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    assert!(found.len() > 40, "only {} source files found", found.len());
    found
}

fn is_test(name: &str) -> bool {
    name.contains("/tests/") || name.ends_with("/tests.rs")
}

/// The text before the file's test module.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text)
}

#[test]
fn files_are_short() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|(name, _)| !is_test(name))
        .map(|(name, text)| (without_tests(&text).lines().count(), name))
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .collect();
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines: {long:?}");
}

#[test]
fn unsafe_stays_behind_its_doors() {
    for (name, text) in sources() {
        if name.starts_with("ffi/")
            || UNSAFE_DOORS.iter().any(|door| name.starts_with(door))
            || is_test(&name)
        {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let bare = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait"];
            assert!(!bare.iter().any(|word| code.contains(word)), "{name}:{}: {line}", number + 1);
        }
    }
}

#[test]
fn the_packet_path_forbids_unsafe_code() {
    for name in ["dataplane/src/lib.rs", "dataplane/src/main.rs", "bench/src/lib.rs"] {
        let text = fs::read_to_string(root().join(name)).expect(name);
        assert!(text.contains("#![forbid(unsafe_code)]"), "{name}");
    }
    let listener = fs::read_to_string(root().join("listener/src/lib.rs")).expect("listener");
    assert!(listener.contains("#![deny(unsafe_code)]"));
}

#[test]
fn nothing_is_left_undone() {
    // Put together here so that this file does not name them itself.
    let words = ["todo", "unimplemented"].map(|word| format!("{word}!"));
    for (name, text) in sources() {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{name} has {word}");
        }
        assert!(!text.contains(&format!("#[{}", "ignore")), "{name} has an ignored test");
    }
}
