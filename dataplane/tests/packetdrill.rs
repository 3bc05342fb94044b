//! Conversations as text, in packetdrill's notation: `packetdrill/scripts`, each true of Linux 6.18. hearken answers on frames in
//! memory and under a clock that the script moves, so a script of a minute takes no time.
//!
//! `HEARKEN_PACKETDRILL` names more folders with scripts (as `PATH` does), and `HEARKEN_PACKETDRILL_ONLY` a part of the names of
//! those that shall run.

#[path = "parity/frame.rs"]
#[allow(dead_code, reason = "scripts write right packets only")]
mod frame;
#[path = "packetdrill/mod.rs"]
mod packetdrill;

use std::path::{Path, PathBuf};

use packetdrill::mem::MemHost;
use packetdrill::run::{Mode, TOLERANCE, run};
use packetdrill::script::{self, Script};

/// Scripts that hearken does not follow, and why.
const KNOWN: [(&str, &str); 1] = [("none", "")];

/// All scripts by name, in order.
fn scripts() -> Vec<(String, Script)> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packetdrill/scripts");
    let more = std::env::var_os("HEARKEN_PACKETDRILL").unwrap_or_default();
    let only = std::env::var("HEARKEN_PACKETDRILL_ONLY").unwrap_or_default();
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in std::iter::once(own).chain(std::env::split_paths(&more)) {
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        files.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "pkt"));
    files.sort();
    let read = |file: PathBuf| {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).expect("a text");
        let script = script::parse(&text).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        (name, script)
    };
    files.into_iter().map(read).filter(|(name, _)| name.contains(&only)).collect()
}

/// The families that a script is for.
fn modes(script: &Script) -> impl Iterator<Item = Mode> + '_ {
    Mode::ALL.into_iter().filter(|mode| script.only.as_ref().is_none_or(|only| only == mode.name()))
}

#[test]
fn hearken_follows_the_scripts() {
    let scripts = scripts();
    let (mut wrong, mut runs) = (Vec::new(), 0);
    for (name, script) in &scripts {
        let known = KNOWN.iter().find(|(known, _)| known == name);
        for mode in modes(script) {
            runs += 1;
            match (run(script, &mut MemHost::new(mode), mode, TOLERANCE), known) {
                (Ok(()), None) | (Err(_), Some(_)) => {}
                (Ok(()), Some((_, why))) => {
                    wrong.push(format!("{name} {mode:?} is followed now, not: {why}"))
                }
                (Err(said), None) => wrong.push(format!("{name} {mode:?}: {said}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {runs}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(runs > 0, "there are no scripts");
}
