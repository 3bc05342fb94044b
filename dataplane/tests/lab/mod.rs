//! A wire to test on: network namespaces joined by a veth pair, a hearken in one of them, and the kernel's own
//! client in the other. Everything in it carries this process's id in its name and is taken down on drop; what a
//! killed run left behind is removed by the next one.

#![allow(dead_code, reason = "the wire tests and the demo use different parts")]

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// hearken's own address on the wire.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Name of the configuration file in its directory.
const CONFIG: &str = "hearken.toml";
/// The kernel's address on the wire.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// The binary that was built beside this test or example.
pub fn program() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.ancestors().nth(2).unwrap_or(&own).join("hearken");
    if path.exists() { Ok(path) } else { Err(io::Error::other(format!("{} is not built", path.display()))) }
}

/// Runs a command to its end; an error names the command and what it said.
pub fn run(command: &mut Command) -> io::Result<String> {
    let output =
        command.output().map_err(|error| io::Error::new(error.kind(), format!("{command:?}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {}: {}", output.status, said.trim())))
}

/// Runs `ip` with the words of `words`.
pub fn ip(words: &str) -> io::Result<String> {
    run(Command::new("ip").args(words.split_whitespace()))
}

/// A network namespace with a name of its own; gone, with every device in it, when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one with its loopback up.
    ///
    /// # Errors
    /// What `ip netns add` says: mostly, no right to.
    pub fn new() -> io::Result<Self> {
        remove_stale();
        let name = format!("hearken-{}-{}", std::process::id(), NAMESPACES.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}"))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        // No router solicitations and duplicate address probes: the frames on the wire are the test's alone.
        namespace.enter(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
        })??;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `program`, to be run inside.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    /// Runs `ip` inside.
    pub fn ip(&self, words: &str) -> io::Result<String> {
        ip(&format!("-n {} {words}", self.name))
    }

    /// Turns off on `device` what would put partial checksums and super-sized segments on the wire.
    pub fn no_offloads(&self, device: &str) -> io::Result<()> {
        run(self
            .command("ethtool")
            .args(["-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off"]))?;
        Ok(())
    }

    /// Calls `work` on a thread inside the namespace, so that sockets it makes belong there.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> io::Result<R> {
        let file = File::open(Path::new("/run/netns").join(&self.name))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns del {}", self.name)) {
            eprintln!("could not remove the namespace: {error}");
        }
    }
}

/// Removes namespaces of runs that were killed before they could.
fn remove_stale() {
    for line in ip("netns list").unwrap_or_default().lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let owner = name.strip_prefix("hearken-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// Two namespaces, `server` and `client`, with a veth pair between them: `hk0` at the server's end, without an
/// address so that the kernel there stays silent, and `hk1` at the client's with [`CLIENT`].
pub struct Wire {
    pub client: Namespace,
    pub server: Namespace,
}

impl Wire {
    /// Lays the wire.
    pub fn new() -> io::Result<Self> {
        let wire = Self { client: Namespace::new()?, server: Namespace::new()? };
        let (client, server) = (&wire.client, &wire.server);
        server.ip(&format!("link add hk0 type veth peer name hk1 netns {}", client.name()))?;
        server.ip("link set hk0 up")?;
        client.ip(&format!("addr add {CLIENT}/24 dev hk1"))?;
        client.no_offloads("hk1")?;
        client.ip("link set hk1 up")?;
        Ok(wire)
    }
}

/// A running hearken; ended when dropped.
pub struct Hearken {
    child: Option<Child>,
    socket: PathBuf,
    program: PathBuf,
    stderr: Option<std::thread::JoinHandle<String>>,
    dir: tempfile::TempDir,
}

impl Hearken {
    /// Starts `program` inside `namespace` with a configuration that `config` makes from the control socket's
    /// path, and waits until it answers there.
    pub fn start(
        program: &Path,
        namespace: &Namespace,
        config: impl FnOnce(&Path) -> String,
    ) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("control.sock");
        let file = dir.path().join(CONFIG);
        std::fs::write(&file, config(&socket))?;
        let mut child = namespace
            .command(program)
            .args(["run", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let pipe = child.stderr.take().ok_or_else(|| io::Error::other("no pipe for stderr"))?;
        let stderr = std::thread::spawn(move || {
            let lines = BufReader::new(pipe).lines().map_while(Result::ok);
            lines.fold(String::new(), |all, line| all + &line + "\n")
        });
        let program = program.to_path_buf();
        let mut hearken = Self { child: Some(child), socket, program, stderr: Some(stderr), dir };
        hearken.wait_until_ready(Duration::from_secs(30))?;
        Ok(hearken)
    }

    fn wait_until_ready(&mut self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        // The socket is there before the devices are; an answer comes once the workers poll.
        while self.ctl("ss").is_err() {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || Instant::now() > deadline {
                let (_, said) = self.stop()?;
                return Err(io::Error::other(format!("hearken did not come up ({ended:?}):\n{said}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Runs `hearken WORDS --socket …` and returns what it printed.
    pub fn ctl(&self, words: &str) -> io::Result<String> {
        let mut command = Command::new(&self.program);
        run(command.args(words.split_whitespace()).arg("--socket").arg(&self.socket))
    }

    /// The same with `--json`, parsed.
    pub fn json(&self, words: &str) -> io::Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.ctl(&format!("{words} --json"))?)?)
    }

    /// Its configuration file.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join(CONFIG)
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        // `ip netns exec` replaces itself by the program, so this is hearken's own.
        self.child.as_ref().map(Child::id)
    }

    /// Sends it the signal `name`, such as `HUP`.
    pub fn signal(&self, name: &str) -> io::Result<String> {
        let pid = self.pid().ok_or_else(|| io::Error::other("it has ended"))?;
        run(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]))
    }

    /// Stops it where it stands, every thread of it, until it gets the signal `CONT`.
    pub fn freeze(&self) -> io::Result<()> {
        self.signal("STOP")?;
        let id = self.child.as_ref().map(Child::id).unwrap_or_default();
        let stopped = || -> io::Result<bool> {
            for task in std::fs::read_dir(format!("/proc/{id}/task"))? {
                let stat = std::fs::read_to_string(task?.path().join("stat"))?;
                // The state stands behind the name, which is in parentheses.
                if !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !stopped()? {
            if Instant::now() > deadline {
                return Err(io::Error::other("a thread does not stop"));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Asks it to end; returns its exit status and all it wrote, stdout first.
    pub fn stop(&mut self) -> io::Result<(Option<ExitStatus>, String)> {
        let _ = self.signal("INT");
        self.wait()
    }

    /// Waits until it has ended; returns its exit status and all it wrote, stdout first.
    pub fn wait(&mut self) -> io::Result<(Option<ExitStatus>, String)> {
        let Some(mut child) = self.child.take() else { return Ok((None, String::new())) };
        let mut said = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut said)?;
        }
        let status = child.wait()?;
        let logged = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        Ok((Some(status), said + &logged))
    }
}

impl Drop for Hearken {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Connects to hearken on `port` as any program would, within `patience`.
pub fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((SERVER, port)), Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// The configuration of a hearken on `device` with `workers` workers and nothing but defaults otherwise.
pub fn config(socket: &Path, device: &str, workers: usize, listeners: &[(u16, &str)]) -> String {
    let cores: Vec<usize> = (0..workers).collect();
    let mut text = format!(
        "[control]\nsocket = {socket:?}\n\n[workers]\ncores = {cores:?}\n\n\
         [[port]]\nname = \"wire0\"\ndevice = {device:?}\naddresses = [\"{SERVER}/24\"]\n"
    );
    for (port, then) in listeners {
        text += &format!("\n[[listener]]\naddr = \"{SERVER}:{port}\"\nthen = {then:?}\nbacklog = 4096\n");
    }
    text
}

/// Says aloud that something is skipped, and why; where nothing may be skipped (`CI` is set) that is a failure.
pub fn skip(what: &str, why: impl Display) {
    assert!(std::env::var_os("CI").is_none(), "{what} cannot run here, and in CI nothing is skipped: {why}");
    eprintln!("SKIPPED {what}: {why}");
}
