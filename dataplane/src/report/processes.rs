//! Which process a socket belongs to, as ss(8) finds it: by the links below `/proc/PID/fd`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

/// `nginx (4711)` for each of `inodes` whose process can be seen. Of several the one with the lowest number, mostly the one that
/// opened it.
pub(super) fn of(inodes: impl Iterator<Item = u64>) -> HashMap<u64, String> {
    let wanted: HashSet<u64> = inodes.collect();
    if wanted.is_empty() {
        return HashMap::new();
    }
    let mut found: HashMap<u64, u32> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        for inode in sockets(&entry.path()).filter(|inode| wanted.contains(inode)) {
            let first = found.entry(inode).or_insert(pid);
            *first = pid.min(*first);
        }
    }
    found.into_iter().map(|(inode, pid)| (inode, name(pid))).collect()
}

/// Inodes of the sockets that a process has open, as far as they may be seen.
fn sockets(process: &Path) -> impl Iterator<Item = u64> {
    let links = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    links.filter_map(|link| {
        let target = fs::read_link(link.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{} ({pid})", name.trim())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_socket_of_ours_is_found_under_our_number() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).expect("a link");
        let inode: String = link.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
        let inode = inode.parse().expect("a number");
        let found = of([inode, 0].into_iter());
        assert!(found[&inode].ends_with(&format!("({})", std::process::id())), "{found:?}");
        assert_eq!(found.len(), 1);
    }
}
