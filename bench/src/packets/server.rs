//! hearken as its users run it: the binary, a configuration file, the control socket.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dataplane::control::client::Client;
use dataplane::control::proto::{Request, Stats};

use super::on_cpu::OnCpu;
use super::{Job, Memory, Reaped, Sample};
use crate::frames::{MIX_PORTS, OPEN_PORT, SERVER_V4, SERVER_V6};

/// The control socket's name in its directory.
const SOCKET: &str = "control.sock";
/// How long a start may take.
const START: Duration = Duration::from_secs(30);

/// A hearken that runs.
pub struct Server {
    child: Reaped,
    client: Client,
    said: JoinHandle<String>,
    dir: tempfile::TempDir,
}

/// What a contest asks of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// `tcp_syncookies`
    pub syncookies: u8,
    /// Listeners, on so many ports from [`OPEN_PORT`] on.
    pub listeners: u16,
}

impl Setup {
    /// Every SYN gets a cookie.
    pub const COOKIES: Self = Self { syncookies: 2, listeners: 1 };
    /// Every SYN gets a request entry.
    pub const REQUESTS: Self = Self { syncookies: 1, listeners: 1 };
    /// Cookies, and the listeners of [`crate::frames::Kind::Mix`].
    pub const MIX: Self = Self { syncookies: 2, listeners: MIX_PORTS };
}

fn config(job: &Job<'_>, device: &str, setup: Setup, socket: &Path, extra: &str) -> String {
    let huge = match job.memory {
        Memory::Hugepages => "require",
        Memory::Pages => "never",
    };
    // DPDK keeps every frame of an endless file in an mbuf, and the pool grows with the descriptors.
    let mut text = format!(
        "name = \"bench-{pid}\"\n[control]\nsocket = {socket:?}\n[eal]\nhuge = \"{huge}\"\nmemory_mib = 512\n\
         [workers]\ncores = [{cpu}]\nburst = {burst}\n[sysctl]\ntcp_syncookies = {cookies}\n\
         [[port]]\nname = \"pcap\"\ndevice = \"{device}\"\naddresses = [\"{SERVER_V4}/24\", \"{SERVER_V6}/64\"]\n\
         rx_descriptors = 8192\n{extra}",
        pid = std::process::id(),
        cpu = job.cpus[1],
        burst = job.burst,
        cookies = setup.syncookies,
    );
    for port in OPEN_PORT..OPEN_PORT + setup.listeners {
        for addr in [format!("{SERVER_V4}:{port}"), format!("[{SERVER_V6}]:{port}")] {
            // A String takes everything.
            let _ = write!(text, "[[listener]]\naddr = \"{addr}\"\nbacklog = 4096\n");
        }
    }
    text
}

impl Server {
    /// Starts `job.hearken` on `device` and waits until it answers.
    ///
    /// # Errors
    /// It is not there, or it ends instead; then with what it said.
    pub fn start(job: &Job<'_>, device: &str, setup: Setup) -> anyhow::Result<Self> {
        Self::start_with(job, device, setup, "")
    }

    /// The same with `extra` lines of configuration.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(job: &Job<'_>, device: &str, setup: Setup, extra: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("hearken-bench").tempdir()?;
        let socket = dir.path().join(SOCKET);
        let file = dir.path().join("hearken.toml");
        fs::write(&file, config(job, device, setup, &socket, extra))?;
        let mut command = Command::new(job.hearken);
        command.arg("run").arg("--config").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| {
            let path = job.hearken.display();
            format!("cannot start {path}; build it with \"cargo build --release -p dataplane\", or say --hearken PATH")
        })?;
        let mut child = Reaped(child);
        let mut stderr = child.0.stderr.take().context("hearken has no pipe")?;
        let said = thread::spawn(move || {
            let mut text = String::new();
            // What is not UTF-8 is no message that anybody could read.
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let until = Instant::now() + START;
        loop {
            if let Ok(client) = Client::connect(&socket) {
                let mut server = Self { child, client, said, dir };
                // The first answer comes when all workers poll.
                server.stats()?;
                return Ok(server);
            }
            let status = child.0.try_wait()?;
            if status.is_some() || Instant::now() > until {
                drop(child);
                bail!("hearken did not start: {}", said.join().unwrap_or_default().trim());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its counters now.
    ///
    /// # Errors
    /// It does not answer.
    pub fn stats(&mut self) -> anyhow::Result<Stats> {
        self.client.call(&Request::Stats {}).context("hearken's counters")
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }

    /// Its counters now, those of the device once more: received and sent.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) fn count(&mut self) -> anyhow::Result<(Stats, (OnCpu, u64, u64))> {
        let on_cpu = OnCpu::of(self.child.0.id())?;
        let stats = self.stats()?;
        let device = stats.devices.first().context("hearken shows no device")?;
        let counter = |name: &str| {
            device.counters.get(name).copied().with_context(|| format!("the device counts no {name}"))
        };
        let (received, sent) = (counter("ipackets")?, counter("opackets")?);
        Ok((stats, (on_cpu, received, sent)))
    }

    /// Ends it as its users do.
    ///
    /// # Errors
    /// It did not end well; with what it said.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.context("a process id")?, rustix::process::Signal::INT)?;
        let status = self.child.0.wait()?;
        let said = self.said.join().unwrap_or_default();
        if !status.success() {
            bail!("hearken ended with {status}: {}", said.trim());
        }
        Ok(())
    }
}

/// What hearken did while it was measured.
#[derive(Clone, Debug)]
pub struct Answers {
    /// By the device's counters.
    pub sample: Sample,
    /// Frames by outcome, then by drop reason, as shares of those received, in between.
    pub shares: Vec<(String, f64)>,
}

/// Runs hearken as `job` and `setup` say and reads the port's counters.
///
/// # Errors
/// It does not start, answer or end as it should.
pub fn run(job: &Job<'_>, setup: Setup) -> anyhow::Result<Answers> {
    let mut server = Server::start(job, &job.device(), setup)?;
    thread::sleep(job.warm_up);
    let (first, from) = server.count()?;
    thread::sleep(job.measure);
    let (last, to) = server.count()?;
    server.stop()?;
    let sample = Sample::between(&from, &to);
    let (first, last) = (first.total, last.total);
    let received = last.rx_frames.saturating_sub(first.rx_frames) as f64;
    let mut shares: Vec<(String, f64)> = Vec::new();
    for (last, first) in [(&last.outcomes, &first.outcomes), (&last.drops, &first.drops)] {
        for (name, count) in last {
            let count = count - first.get(name).copied().unwrap_or(0);
            if count != 0 {
                shares.push((name.clone(), count as f64 / received));
            }
        }
    }
    Ok(Answers { sample, shares })
}

/// `hearken` beside this binary.
pub fn beside_us() -> PathBuf {
    let us = std::env::current_exe().unwrap_or_default();
    us.with_file_name("hearken")
}
