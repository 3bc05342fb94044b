//! How much hugepage memory the kernel could hand out now.

use std::fs;
use std::path::Path;

/// Free hugepage memory of all sizes, in megabytes; 0 where the kernel has no hugepages.
pub fn hugepages_free_mb() -> u64 {
    free_mb_in(Path::new("/sys/kernel/mm/hugepages"))
}

/// Sums `hugepages-<n>kB/free_hugepages` below `dir`.
fn free_mb_in(dir: &Path) -> u64 {
    let Ok(sizes) = fs::read_dir(dir) else { return 0 };
    sizes.flatten().filter_map(|entry| free_kb(&entry.path())).sum::<u64>() / 1024
}

fn free_kb(dir: &Path) -> Option<u64> {
    let page_kb: u64 =
        dir.file_name()?.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let free: u64 = fs::read_to_string(dir.join("free_hugepages")).ok()?.trim().parse().ok()?;
    Some(free * page_kb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_pages_of_all_sizes_add_up() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        for (name, free) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "2\n"), ("other", "9\n")] {
            fs::create_dir(dir.path().join(name))?;
            fs::write(dir.path().join(name).join("free_hugepages"), free)?;
        }
        fs::create_dir(dir.path().join("hugepages-64kB"))?;
        assert_eq!(free_mb_in(dir.path()), 3 * 2 + 2 * 1024);
        Ok(())
    }

    #[test]
    fn no_directory_is_no_memory() {
        assert_eq!(free_mb_in(Path::new("/nonexistent")), 0);
    }
}
