//! Two network namespaces joined by a veth pair, made for a comparison and taken down after it.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The server's end of the wire.
pub const SERVER_DEV: &str = "hk0";
/// The generator's end.
pub const CLIENT_DEV: &str = "hk1";

/// Runs a command to its end; an error names the command and what it said.
///
/// # Errors
/// It does not start, or ends with another code than 0.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        bail!("{command:?} ended with {status}: {}", said.trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

fn ip(words: &str) -> anyhow::Result<String> {
    run(Command::new("ip").args(words.split_whitespace()))
}

/// A namespace; gone, with every device in it, when dropped.
#[derive(Debug)]
pub struct Namespace(String);

impl Namespace {
    /// Makes one for `role`, with its loopback up.
    ///
    /// # Errors
    /// No right to.
    pub fn new(role: &str) -> anyhow::Result<Self> {
        let name = format!("hearken-{}-{role}", std::process::id());
        ip(&format!("netns add {name}")).context(
            "a comparison needs the right to make network namespaces (root, or CAP_SYS_ADMIN and CAP_NET_ADMIN) and \
             iproute2",
        )?;
        let namespace = Self(name);
        namespace.ip("link set lo up")?;
        // No router solicitations: the frames on the wire are the comparison's alone.
        namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        Ok(namespace)
    }

    /// `program`, to be run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Calls `work` on a thread inside, so that the sockets and programs that it makes belong there.
    ///
    /// # Errors
    /// The thread may not enter.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> anyhow::Result<R> {
        let path = Path::new("/run/netns").join(&self.0);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("cannot enter a network namespace")?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` inside.
    ///
    /// # Errors
    /// What it says.
    pub fn ip(&self, words: &str) -> anyhow::Result<String> {
        ip(&format!("-n {} {words}", self.0))
    }

    /// Writes below /proc/sys/net.
    ///
    /// # Errors
    /// It is not there, or takes no such value.
    pub fn sysctl(&self, name: &str, value: &str) -> anyhow::Result<()> {
        self.write(&format!("/proc/sys/net/{name}"), value)
    }

    fn write(&self, file: &str, value: &str) -> anyhow::Result<()> {
        run(self.command("sh").args(["-c", "echo \"$1\" > \"$2\"", "sh", value, file])).map(|_| ())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns del {}", self.0)) {
            crate::output::noteln!("hearken-load: {error:#}");
        }
    }
}

/// The wire: no end has an address yet, and none leaves checksums to hardware that is not there.
#[derive(Debug)]
pub struct Wire {
    /// The generator's side.
    pub client: Namespace,
    /// The server's side.
    pub server: Namespace,
}

impl Wire {
    /// Lays it.
    ///
    /// # Errors
    /// No right to.
    pub fn new() -> anyhow::Result<Self> {
        let wire = Self { client: Namespace::new("client")?, server: Namespace::new("server")? };
        let far = &wire.client.0;
        wire.server.ip(&format!("link add {SERVER_DEV} type veth peer name {CLIENT_DEV} netns {far}"))?;
        for (namespace, device) in [(&wire.server, SERVER_DEV), (&wire.client, CLIENT_DEV)] {
            let off = ["tx", "off", "tso", "off", "gso", "off", "gro", "off"];
            run(namespace.command("ethtool").args(["-K", device]).args(off))?;
            namespace.ip(&format!("link set {device} up"))?;
        }
        Ok(wire)
    }

    /// Has the server's kernel handle on `cpu` what its end receives; else the CPU does that sent it.
    ///
    /// # Errors
    /// The kernel has no receive packet steering.
    pub fn steer(&self, cpu: usize) -> anyhow::Result<()> {
        let mask = format!("{:x}", 1u64 << cpu.min(63));
        self.server.write(&format!("/sys/class/net/{SERVER_DEV}/queues/rx-0/rps_cpus"), &mask)
    }
}

/// A child that is ended when dropped.
#[derive(Debug)]
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
