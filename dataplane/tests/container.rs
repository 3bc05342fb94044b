//! The container file installs what hearken loads: its libraries, and DPDK's drivers, which are plugins that no library needs.

#![cfg(feature = "dpdk")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// What each stage of the container file installs.
fn stages() -> Vec<BTreeSet<String>> {
    let text =
        fs::read_to_string(root().join("configs/container/Containerfile")).expect("the container file");
    let text = text.replace("\\\n", " ");
    let stages = text.split("\nFROM ").skip(1);
    let installs = stages.map(|stage| {
        let lines = stage.lines().filter_map(|line| line.split_once("apt-get install"));
        let words =
            lines.flat_map(|(_, rest)| rest.split("&&").next().unwrap_or_default().split_whitespace());
        words.filter(|word| !word.starts_with('-')).map(str::to_owned).collect()
    });
    installs.collect()
}

/// What a command prints; none where there is no such command, or it fails.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the installed packages depend on, by name; recommendations are not followed, as in the container file.
fn dependencies() -> Option<BTreeMap<String, Vec<String>>> {
    let rows = output("dpkg-query", &["-W", "-f", "${Package}\t${Depends}, ${Pre-Depends}\n"])?;
    let each = rows.lines().filter_map(|row| {
        let (name, depends) = row.split_once('\t')?;
        let names = depends.split([',', '|']).filter_map(|one| one.trim().split([' ', ':']).next());
        Some((name.to_owned(), names.filter(|name| !name.is_empty()).map(str::to_owned).collect()))
    });
    Some(each.collect())
}

fn closure(packages: &BTreeSet<String>, depends: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    let (mut all, mut left) = (BTreeSet::new(), packages.iter().cloned().collect::<Vec<_>>());
    while let Some(package) = left.pop() {
        if all.insert(package.clone()) {
            left.extend(depends.get(&package).into_iter().flatten().cloned());
        }
    }
    all
}

/// The package that brought `file`.
fn owner(file: &Path) -> Option<String> {
    // Where /lib is a link to /usr/lib, packages name either.
    let real = file.canonicalize().ok()?;
    let shown = [real.clone(), Path::new("/").join(real.strip_prefix("/usr").unwrap_or(&real))];
    let said = shown.iter().find_map(|path| output("dpkg-query", &["-S", path.to_str()?]))?;
    Some(said.split([':', ',']).next()?.to_owned())
}

#[test]
fn the_image_has_what_the_binary_loads() {
    let stages = stages();
    let [build, run] = &stages[..] else { panic!("two stages: {stages:?}") };
    for package in ["gcc", "clang", "libbpf-dev", "libclang-dev", "libdpdk-dev", "libelf-dev", "pkg-config"] {
        assert!(build.contains(package), "the build needs {package}");
    }
    assert!(run.contains("librte-meta-net"), "drivers are what nothing depends on: {run:?}");
    let Some(depends) = dependencies().filter(|depends| depends.contains_key("librte-meta-net")) else {
        assert!(std::env::var_os("CI").is_none(), "in CI the packages are there");
        eprintln!("SKIPPED the packages' files: this machine has not DPDK from Debian's packages");
        return;
    };
    let there = closure(run, &depends);
    let libraries = output("ldd", &[env!("CARGO_BIN_EXE_hearken")]).expect("ldd");
    let libraries =
        libraries.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let plugins = fs::read_dir("/usr/lib/x86_64-linux-gnu/dpdk").into_iter().flatten().flatten();
    let plugins = plugins.flat_map(|dir| fs::read_dir(dir.path()).into_iter().flatten().flatten());
    let plugins = plugins.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The name without a version is the development package's.
        (name.starts_with("librte_net_") || name.starts_with("librte_mempool_ring")) && !name.ends_with(".so")
    });
    let mut drivers = 0;
    for file in libraries.map(PathBuf::from).chain(plugins) {
        let Some(package) = owner(&file) else { continue };
        assert!(
            there.contains(&package),
            "{} is {package}'s, which nothing in the image brings",
            file.display()
        );
        drivers += usize::from(package.starts_with("librte-net-"));
    }
    assert!(drivers > 10, "{drivers} drivers");
}

#[test]
fn what_was_built_here_is_not_copied() {
    let text = fs::read_to_string(root().join(".dockerignore")).expect("a .dockerignore");
    assert!(text.lines().any(|line| line == "**/target"), "{text}");
}
