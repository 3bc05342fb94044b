//! The peer: DPDK's own forwarder, in one of its modes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, bail};

use super::on_cpu::OnCpu;
use super::{Job, Memory, Reaped, Sample};

/// The line that `dpdk-testpmd` prints once its lcore forwards, after the name of the mode.
const FORWARDS: &str = "packet forwarding packets/burst=";

/// Runs testpmd in `mode` as `job` says and reads the port's counters.
///
/// # Errors
/// It is not there, does not start, or shows no rates.
pub fn run(job: &Job<'_>, mode: &str) -> anyhow::Result<Sample> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join("dpdk-testpmd").exists()) {
        bail!(
            "dpdk-testpmd is not in PATH; install the package dpdk-dev (apt-get install dpdk-dev), or build DPDK's app/test-pmd"
        );
    }
    // Standard output would otherwise sit in a buffer until the end, and with it the word that it forwards.
    let mut command = Command::new("stdbuf");
    command.args(["-oL", "dpdk-testpmd", "-l", &format!("{},{}", job.cpus[0], job.cpus[1])]);
    match job.memory {
        Memory::Hugepages => command.args(["--in-memory", "-m", "512"]),
        Memory::Pages => {
            let prefix = format!("hearken-bench-{}", std::process::id());
            command.args(["--no-huge", "--no-shconf", "-m", "512", "--file-prefix", &prefix])
        }
    };
    command.args(["--no-pci", "--no-telemetry", "--vdev", &job.device()]);
    command.args(["--", "-i", "--auto-start", "--total-num-mbufs=16384"]);
    command.args([format!("--burst={}", job.burst), format!("--forward-mode={mode}")]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command
        .spawn()
        .context("cannot start stdbuf, which runs dpdk-testpmd; install the package coreutils")?;
    let mut child = Reaped(child);
    let pid = child.0.id();
    let (stdin, stdout, stderr) = (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(mut stderr)) = (stdin, stdout, stderr) else {
        bail!("dpdk-testpmd has no pipes")
    };
    let errors = thread::spawn(move || {
        let mut text = String::new();
        // What is not UTF-8 is no message that anybody could read.
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let mut lines = BufReader::new(stdout).lines();
    let mut seen = Vec::new();
    let mut wait_for = |what: &str| -> anyhow::Result<String> {
        for line in lines.by_ref() {
            let line = line?;
            if line.contains(what) {
                return Ok(line);
            }
            seen.push(line);
        }
        bail!("dpdk-testpmd ended before it said \"{what}\":\n{}", seen.join("\n"))
    };
    let result = (|| -> anyhow::Result<Sample> {
        wait_for(FORWARDS)?;
        thread::sleep(job.warm_up);
        let mut count = || -> anyhow::Result<(OnCpu, u64, u64)> {
            writeln!(stdin, "show port stats 0")?;
            let on_cpu = OnCpu::of(pid)?;
            Ok((on_cpu, packets(&wait_for("RX-packets:")?)?, packets(&wait_for("TX-packets:")?)?))
        };
        let first = count()?;
        thread::sleep(job.measure);
        let last = count()?;
        let sample = Sample::between(&first, &last);
        writeln!(stdin, "quit")?;
        Ok(sample)
    })();
    drop(stdin);
    if result.is_ok() {
        child.0.wait()?;
    } else {
        drop(child);
    }
    result.with_context(|| format!("dpdk-testpmd said: {}", errors.join().unwrap_or_default()))
}

/// The first number of a line such as `  RX-packets: 188064     RX-missed: 0          RX-bytes:  10907712`.
fn packets(line: &str) -> anyhow::Result<u64> {
    let number = line.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    number.with_context(|| format!("no count in \"{}\"", line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_and_their_absence_is_told() {
        let line = "  RX-packets: 188064     RX-missed: 0          RX-bytes:  10907712";
        assert_eq!(packets(line).expect("a count"), 188_064);
        assert!(packets("  RX-packets:").is_err());
        assert!(packets("").is_err());
    }
}
