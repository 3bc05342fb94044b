//! `hearken doctor`: what the machine must have before DPDK is asked, line by line, each with the command that mends it.
//!
//! Everything is read below a root directory, `/` but in tests, and nothing is changed.

mod hardware;
mod kernel;
mod memory;
mod rights;

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::config::{Config, Device};
use crate::start::surroundings;

/// How bad it is; the worst one is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// hearken runs, but not as well as it could.
    Warn,
    /// hearken, or the configured device, does not run.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub grade: Grade,
    /// What was found.
    pub found: String,
    /// The command that mends it; none where there is nothing to mend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, found: found.into(), next: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, grade: Grade::Warn, found: found.into(), next: Some(next.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, grade: Grade::Fail, found: found.into(), next: Some(next.into()) }
    }
}

/// Drivers that give a NIC to a program without an IOMMU: it then reaches memory by physical addresses, so only hugepages do.
const UIO: [&str; 2] = ["uio_pci_generic", "igb_uio"];

/// A machine, and what is wanted of it.
struct Machine<'a> {
    root: &'a Path,
    config: Option<&'a Config>,
}

impl Machine<'_> {
    /// The file `path`, such as `proc/cmdline`, without blanks at its end; none if it cannot be read.
    fn read(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.root.join(path)).ok()?.trim_end().to_owned())
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// Names in the directory `path`, sorted.
    fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }

    /// The last name that the link `path` points to.
    fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.root.join(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// The value behind `key` in a file of `key: value` lines.
    fn field(&self, path: &str, key: &str) -> Option<String> {
        let text = self.read(path)?;
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    }

    /// PCI addresses of the configured ports.
    fn pci_wanted(&self) -> Vec<String> {
        let ports = self.config.iter().flat_map(|config| &config.port);
        let pci = ports.filter_map(|port| match port.device.get_ref() {
            Device::Dpdk(device) => device.pci(),
            _ => None,
        });
        pci.collect()
    }

    /// The kernel's driver of the PCI device `pci`, if it has one.
    fn driver_of(&self, pci: &str) -> Option<String> {
        self.link(&format!("sys/bus/pci/devices/{pci}/driver"))
    }

    /// Of the PCI addresses of the configured ports, those that are on a driver of uio's.
    fn pci_on_uio(&self) -> Vec<String> {
        let on_uio = |pci: &String| self.driver_of(pci).is_some_and(|driver| UIO.contains(&driver.as_str()));
        self.pci_wanted().into_iter().filter(on_uio).collect()
    }

    /// The driver that a NIC is best given to here: without an IOMMU vfio-pci needs a mode that Debian's kernels have not.
    fn driver_to_bind(&self) -> &'static str {
        let unsafe_mode = self.exists("sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
        let iommu = !self.list("sys/kernel/iommu_groups").is_empty();
        if iommu || unsafe_mode { "vfio-pci" } else { "uio_pci_generic" }
    }
}

/// All findings about this machine, for `config` if there is one.
pub fn examine(config: Option<&Config>) -> Vec<Finding> {
    let mut findings = examine_in(Path::new("/"), config);
    let advice = config.map(surroundings::advice).unwrap_or_default();
    findings
        .extend(advice.into_iter().map(|advice| Finding::warn("surroundings", advice.found, advice.next)));
    findings
}

fn examine_in(root: &Path, config: Option<&Config>) -> Vec<Finding> {
    let machine = Machine { root, config };
    let mut findings = vec![hardware::dpdk(&machine), hardware::drivers(&machine), hardware::cpu(&machine)];
    findings.extend(memory::hugepages(&machine));
    findings.push(memory::stale_files(&machine));
    findings.push(memory::memlock(&machine));
    findings.push(memory::transparent_hugepages(&machine));
    findings.push(hardware::iommu(&machine));
    findings.push(hardware::vfio(&machine));
    findings.extend(hardware::nics(&machine));
    findings.push(rights::capabilities(&machine));
    findings.push(rights::command_line(&machine));
    findings.push(rights::clock_source(&machine));
    findings.extend(kernel::beside(&machine));
    findings
}

/// The findings as lines: grade, check, what was found; below it the command, if any.
pub fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, grade, found, next } in findings {
        let word = match grade {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        };
        text += &format!("{word:<4}  {check:<13}  {found}\n");
        if let Some(next) = next.as_ref().filter(|_| *grade != Grade::Ok) {
            text += &format!("{:21}-> {next}\n", "");
        }
    }
    text
}

/// The lines that are not ok, for a start that failed; empty where there is none.
pub fn complaints(config: &Config) -> String {
    // The start has said what else is there, and is itself on the interfaces by now.
    let mut findings = examine_in(Path::new("/"), Some(config));
    findings.retain(|finding| finding.grade != Grade::Ok);
    text(&findings)
}

#[cfg(test)]
mod tests;
