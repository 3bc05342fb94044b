//! Conversations as text, in packetdrill's notation: each file is run on hearken and on Linux, for every family, and both must
//! follow it.
//!
//! hearken answers on frames in memory and under a clock that the script moves, so that a script of a minute takes no time.
//! Linux answers in a namespace of its own through a TUN device, all scripts at once.
//!
//! The project's own scripts stand in `packetdrill/cases`. `HEARKEN_PACKETDRILL` names more folders with scripts (as `PATH`
//! does), and `HEARKEN_PACKETDRILL_ONLY` a part of the names of those that shall run.

#[path = "parity/frame.rs"]
#[allow(dead_code, reason = "scripts write right packets only")]
mod frame;
mod lab;
#[path = "packetdrill/mod.rs"]
mod packetdrill;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use packetdrill::kernel::KernelHost;
use packetdrill::mem::MemHost;
use packetdrill::run::{Mode, run, transcript};
use packetdrill::script::{self, Script};
use packetdrill::walk::{OLD, PROBES, ROADS, conversation};

/// What passes for "at this time" on a host that nothing else disturbs.
const UNDISTURBED: Duration = Duration::from_millis(10);
/// The same on a machine that does other work as well.
const DISTURBED: Duration = Duration::from_millis(60);
/// What comes within this time belongs together: more than Linux puts off an ACK.
const SETTLED: Duration = Duration::from_millis(60);
/// Scripts that Linux is asked to follow at a time, and how often each at most: it may not get the CPU in time.
const AT_A_TIME: usize = 24;
const TRIES: usize = 4;

/// Scripts that hearken does not follow, and why.
const KNOWN: [(&str, &str); 0] = [];

/// Scripts beside the project's own.
const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/cases/packetdrill");

/// All scripts by name, in order.
fn scripts() -> Vec<(String, Script)> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packetdrill/cases");
    let shared = Some(PathBuf::from(SHARED)).filter(|shared| shared.is_dir());
    let more = std::env::var_os("HEARKEN_PACKETDRILL").unwrap_or_default();
    let only = std::env::var("HEARKEN_PACKETDRILL_ONLY").unwrap_or_default();
    let mut files: Vec<PathBuf> = Vec::new();
    let more = std::env::split_paths(&more).filter(|folder| !folder.as_os_str().is_empty());
    for folder in std::iter::once(own).chain(shared).chain(more) {
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

/// Fails with all that went wrong, if anything did.
fn all_right(wrong: &[String], runs: usize) {
    assert!(runs > 0, "there are no scripts");
    assert!(wrong.is_empty(), "{} of {runs}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn hearken_follows_the_scripts() {
    let (mut wrong, mut runs) = (Vec::new(), 0);
    for (name, script) in &scripts() {
        let known = KNOWN.iter().find(|(known, _)| known == name);
        for mode in modes(script) {
            runs += 1;
            match (run(script, &mut MemHost::new(mode), mode, UNDISTURBED), known) {
                (Ok(()), None) | (Err(_), Some(_)) => {}
                (Ok(()), Some((_, why))) => {
                    wrong.push(format!("{name} {mode:?} is followed now, not: {why}"))
                }
                (Err(said), None) => wrong.push(format!("{name} {mode:?}: {said}")),
            }
        }
    }
    all_right(&wrong, runs);
}

/// What Linux says to one script.
fn on_linux(script: &Script, mode: Mode) -> Result<(), String> {
    let mut said = Ok(());
    for _ in 0..TRIES {
        let mut host = KernelHost::new(mode).map_err(|error| error.to_string())?;
        said = run(script, &mut host, mode, DISTURBED);
        if said.is_ok() {
            break;
        }
    }
    said
}

/// Does `work` with all of `runs`, some at a time; what went wrong.
fn at_once<T: Sync>(runs: &[T], work: impl Fn(&T) -> Result<(), String> + Sync) -> Vec<String> {
    let (next, wrong) = (Mutex::new(runs.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let Some(run) = next.lock().expect("nobody fails").next() else { break };
                    if let Err(said) = work(run) {
                        wrong.lock().expect("nobody fails").push(said);
                    }
                }
            });
        }
    });
    wrong.into_inner().expect("nobody failed")
}

#[test]
fn linux_follows_the_scripts() {
    if let Err(error) = KernelHost::new(Mode::V4) {
        return lab::skip("scripts on Linux", error);
    }
    let scripts = scripts();
    let runs: Vec<_> = scripts
        .iter()
        .flat_map(|(name, script)| modes(script).map(move |mode| (name, script, mode)))
        .collect();
    let wrong = at_once(&runs, |(name, script, mode)| {
        on_linux(script, *mode).map_err(|said| format!("{name} {mode:?}: {said}"))
    });
    all_right(&wrong, runs.len());
}

/// All states by all roads, and what may come there: hearken answers as Linux.
#[test]
fn hearken_walks_as_linux() {
    if let Err(error) = KernelHost::new(Mode::V4) {
        return lab::skip("walks on Linux", error);
    }
    let plain = PROBES.iter().map(|probe| (probe, false));
    let full = PROBES.iter().chain(OLD).map(|probe| (probe, true));
    let probes: Vec<_> = plain.chain(full).collect();
    let runs: Vec<_> = ROADS.iter().flat_map(|road| probes.iter().map(move |probe| (road, *probe))).collect();
    let wrong = at_once(&runs, |&(road, (probe, full))| {
        let text = conversation(road, *probe, full);
        let script = script::parse(&text).expect("a right script");
        let ours = transcript(&script, &mut MemHost::new(Mode::V4), Mode::V4, SETTLED)?;
        let mut linux = Vec::new();
        for _ in 0..TRIES {
            let mut host = KernelHost::new(Mode::V4).map_err(|error| error.to_string())?;
            linux = transcript(&script, &mut host, Mode::V4, SETTLED)?;
            if linux == ours {
                return Ok(());
            }
        }
        let name = road.name;
        Err(format!("{name}\n  Linux:\n{}\n  hearken:\n{}", linux.join("\n"), ours.join("\n")))
    });
    all_right(&wrong, runs.len());
}
