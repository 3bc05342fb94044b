//! A server's namespace with hearken beside the kernel, and a client's: both ends of the wire have addresses, and the
//! programs that serve are the distribution's own.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::lab::{CLIENT, Hearken, Namespace, SERVER, run};

/// The server's IPv6 address.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The client's.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Two polling workers on two cores leave none for the clients.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// One wire test at a time in a process.
pub fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The addresses that clients connect to.
pub fn targets() -> [IpAddr; 2] {
    [SERVER.into(), SERVER_V6.into()]
}

/// The namespaces and the wire: `hk0` at the server, `hk1` at the client.
pub struct Site {
    pub client: Namespace,
    pub server: Namespace,
}

impl Site {
    /// Lays the wire. The client's checksums are left to its device, as local peers do.
    pub fn new() -> io::Result<Self> {
        let site = Self { client: Namespace::new()?, server: Namespace::new()? };
        let Self { client, server } = &site;
        for namespace in [client, server] {
            namespace.enter(|| {
                std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0")?;
                std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0")
            })??;
        }
        server.ip(&format!("link add hk0 type veth peer name hk1 netns {}", client.name()))?;
        for (namespace, device, v4, v6) in
            [(server, "hk0", SERVER, SERVER_V6), (client, "hk1", CLIENT, CLIENT_V6)]
        {
            namespace.ip(&format!("addr add {v4}/24 dev {device}"))?;
            namespace.ip(&format!("addr add {v6}/64 dev {device} nodad"))?;
            namespace.ip(&format!("link set {device} up"))?;
            // For floods, which come as frames that are redirected into the wire.
            run(namespace.command("ethtool").args(["-K", device, "gro", "on"]))?;
        }
        // Where answers to forged sources go: the client's end, and no further.
        server.ip(&format!("route add 198.19.0.0/16 via {CLIENT}"))?;
        server.ip(&format!("route add 2001:db8:f::/48 via {CLIENT_V6}"))?;
        Ok(site)
    }

    /// hearken in front of the server's listeners, with `more` in its configuration.
    pub fn shield(&self, more: &str) -> io::Result<Hearken> {
        self.shield_idle("yield", more)
    }

    /// As [`Site::shield`], with `workers.idle`.
    pub fn shield_idle(&self, idle: &str, more: &str) -> io::Result<Hearken> {
        let core = std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1);
        Hearken::start(&crate::lab::program()?, &self.server, |socket| {
            format!(
                "[control]\nsocket = {socket:?}\ndrain_seconds = 3\n[workers]\ncores = [{core}]\nidle = {idle:?}\n\
                 [eal]\nhuge = \"never\"\n[shield]\ninterface = \"hk0\"\n{more}"
            )
        })
    }

    /// A counter of the server's kernel, such as `TcpExt SyncookiesSent`.
    pub fn counter(&self, group: &str, name: &str) -> u64 {
        let read = || {
            let text = ["/proc/thread-self/net/netstat", "/proc/thread-self/net/snmp"]
                .map(|file| std::fs::read_to_string(file).unwrap_or_default());
            text.concat()
        };
        let text = self.server.enter(read).expect("entered");
        let mut lines = text.lines().filter(|line| line.starts_with(&format!("{group}:")));
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let at = names.split_ascii_whitespace().position(|column| column == name);
            if let Some(value) = at.and_then(|at| values.split_ascii_whitespace().nth(at)) {
                return value.parse().expect("a number");
            }
        }
        panic!("no counter {group} {name}");
    }

    /// A TCP connection from the client.
    pub fn connect(&self, addr: impl Into<SocketAddr>, patience: Duration) -> io::Result<TcpStream> {
        let addr = addr.into();
        let stream = self.client.enter(|| TcpStream::connect_timeout(&addr, patience))??;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    }

    /// A listener of the server's kernel.
    pub fn listen(&self, addr: impl Into<SocketAddr>) -> io::Result<TcpListener> {
        let addr = addr.into();
        self.server.enter(|| TcpListener::bind(addr))?
    }
}

/// The number `kernel.counters.NAME` of hearken's.
pub fn kernel_counter(hearken: &Hearken, name: &str) -> u64 {
    let stats = hearken.json("stats").expect("stats");
    stats["kernel"]["counters"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {stats}"))
}

/// Waits until `done` says so; `what` is for the message of a test that waits in vain.
pub fn wait_for(what: &str, patience: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until hearken stands in front of `addr`.
pub fn wait_until_adopted(hearken: &Hearken, addr: SocketAddr) {
    wait_for(&format!("hearken in front of {addr}"), Duration::from_secs(10), || {
        let ss = hearken.json("ss").expect("ss");
        let rows = ss["listeners"].as_array().cloned().unwrap_or_default();
        rows.iter().any(|row| row["local"] == addr.to_string() && row["then"] == "kernel")
    });
}

/// A program of the distribution that serves; ended when dropped.
pub struct Program(Child);

impl Program {
    /// Starts it in `namespace`, and waits until it listens on `port`.
    pub fn start(namespace: &Namespace, command: &mut Command, port: u16) -> io::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let program = Self(child);
        wait_for(&format!("a listener on port {port}"), Duration::from_secs(20), || {
            let mut ss = namespace.command("ss");
            run(ss.args(["-ltnH", &format!("sport = :{port}")])).is_ok_and(|said| !said.is_empty())
        });
        Ok(program)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // nginx and sshd end their own workers when they are asked.
        let _ = run(Command::new("kill").arg(self.0.id().to_string()));
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// nginx as it is packaged, on port 80 of both families, with the files of `root`.
pub fn nginx(site: &Site, root: &Path) -> io::Result<Program> {
    let file = root.join("nginx.conf");
    let dir = root.display();
    std::fs::write(
        &file,
        format!(
            "daemon off; pid {dir}/nginx.pid; error_log {dir}/error.log; worker_processes 1; user root;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;\n\
             uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; client_max_body_size 100m;\n\
             server {{ listen 80 backlog=4096; listen [::]:80 ipv6only=on backlog=4096; root {dir}; }} }}\n"
        ),
    )?;
    Program::start(&site.server, site.server.command("nginx").arg("-c").arg(&file), 80)
}

/// Sends a line, gives up the sending half, and reads to the end: what an echo server must give back.
pub fn echo(mut stream: TcpStream, octets: &[u8]) -> io::Result<Vec<u8>> {
    let mut back = Vec::with_capacity(octets.len());
    std::thread::scope(|scope| {
        let mut reader = stream.try_clone()?;
        let read = scope.spawn(move || reader.read_to_end(&mut back).map(|_| back));
        stream.write_all(octets)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        read.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Echoes every connection of `listener`, each to its end, until the listener is shut down by `stop`.
pub fn serve_echo(listener: &TcpListener, stop: &std::sync::atomic::AtomicBool) {
    listener.set_nonblocking(true).expect("a listener");
    std::thread::scope(|scope| {
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, _)) => {
                    scope.spawn(move || {
                        stream.set_nonblocking(false)?;
                        let mut reader = stream.try_clone()?;
                        io::copy(&mut reader, &mut stream)
                    });
                }
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    });
}
