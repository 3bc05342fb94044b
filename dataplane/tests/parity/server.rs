//! The two that are compared: Linux's own TCP in one namespace and hearken in another, each with the same listeners
//! and the same client's end of a veth pair to speak from.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{self, AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};

use super::raw::RawSocket;
use crate::lab::{Hearken, Namespace, run};

/// The server's addresses.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The client's.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// MAC addresses of either end: the same for both servers, as frames quote them.
const MAC: &str = "02:00:00:00:00:01";
const PEER_MAC: &str = "02:00:00:00:00:02";
const PREFIX_V4: u8 = 24;
const PREFIX_V6: u8 = 64;

/// What becomes of a finished handshake, by hearken's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Queue,
    Discard,
    Close,
    Reset,
}

impl Then {
    fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Discard => "discard",
            Self::Close => "close",
            Self::Reset => "reset",
        }
    }
}

/// One listener, for either.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    pub addr: IpAddr,
    pub port: u16,
    pub backlog: i32,
    pub then: Then,
    /// `TCP_DEFER_ACCEPT` in seconds.
    pub defer: u32,
}

/// What both are started with.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub listeners: Vec<Listener>,
    /// What hearken's device string has at its end.
    pub device_options: &'static str,
    /// hearken's `cookies.secret_file`.
    pub secret_file: Option<PathBuf>,
    /// Names below `net.ipv4.` and their values.
    pub sysctls: Vec<(&'static str, &'static str)>,
}

impl Setup {
    /// Adds a listener on the server's address of either family.
    pub fn listen(mut self, port: u16, backlog: i32, then: Then, defer: u32) -> Self {
        for addr in [IpAddr::V4(SERVER_V4), IpAddr::V6(SERVER_V6)] {
            self.listeners.push(Listener { addr, port, backlog, then, defer });
        }
        self
    }

    /// Adds one on the wildcard of both families at once.
    pub fn listen_any(mut self, port: u16, then: Then) -> Self {
        let addr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        self.listeners.push(Listener { addr, port, backlog: 4096, then, defer: 0 });
        self
    }

    /// Sets a sysctl.
    pub fn sysctl(mut self, name: &'static str, value: &'static str) -> Self {
        self.sysctls.push((name, value));
        self
    }
}

/// A server under test and the wire to it.
pub struct Server {
    pub name: &'static str,
    pub wire: RawSocket,
    pub mac: [u8; 6],
    pub hearken: Option<Hearken>,
    kernel: Vec<App>,
    pub client: Namespace,
    pub namespace: Namespace,
}

impl Server {
    /// Lays the wire: `hk0` at the server's end, `hk1` at the client's. No kernel answers at either end yet.
    fn wire() -> io::Result<(Namespace, Namespace)> {
        let (client, server) = (Namespace::new()?, Namespace::new()?);
        let peer = client.name();
        server.ip(&format!(
            "link add hk0 address {MAC} type veth peer name hk1 address {PEER_MAC} netns {peer}"
        ))?;
        server.no_offloads("hk0")?;
        client.no_offloads("hk1")?;
        server.ip("link set hk0 up")?;
        client.ip("link set hk1 up")?;
        Ok((client, server))
    }

    /// Linux with the listeners of `setup`.
    ///
    /// # Errors
    /// No right to lay wires.
    pub fn kernel(name: &'static str, setup: &Setup) -> io::Result<Self> {
        let (client, namespace) = Self::wire()?;
        let wire = RawSocket::open(&client, "hk1")?;
        let mac = RawSocket::open(&namespace, "hk0")?.mac();
        // What hearken has for defaults; a distribution may have others, and scale some of them with memory.
        let defaults = [("ipv4/tcp_rmem", "4096 131072 33554432"), ("ipv4/tcp_max_syn_backlog", "2048")];
        // ICMP errors of earlier cases must not count against later ones.
        let limits = [
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv4/icmp_msgs_per_sec", "1000000"),
            ("ipv4/icmp_msgs_burst", "1000000"),
            ("ipv6/icmp/ratelimit", "0"),
        ];
        namespace.enter(|| {
            let write =
                |name: &str, value: &str| std::fs::write(Path::new("/proc/sys/net").join(name), value);
            write("ipv6/conf/all/disable_ipv6", "0")?;
            write("ipv6/conf/hk0/disable_ipv6", "0")?;
            for (name, value) in defaults.into_iter().chain(limits) {
                write(name, value)?;
            }
            for (name, value) in &setup.sysctls {
                write(&format!("ipv4/{name}"), value)?;
            }
            io::Result::Ok(())
        })??;
        namespace.ip(&format!("addr add {SERVER_V4}/{PREFIX_V4} brd + dev hk0"))?;
        namespace.ip(&format!("addr add {SERVER_V6}/{PREFIX_V6} dev hk0 nodad"))?;
        for client in [IpAddr::V4(CLIENT_V4), IpAddr::V6(CLIENT_V6)] {
            namespace.ip(&format!("neigh add {client} lladdr {PEER_MAC} nud permanent dev hk0"))?;
            // hearken answers whoever asks, without a routing table; this is the same.
            namespace.ip(&format!("route add default via {client} dev hk0"))?;
        }
        let apps =
            namespace.enter(|| setup.listeners.iter().map(App::start).collect::<io::Result<Vec<_>>>())??;
        Ok(Self { name, wire, mac, hearken: None, kernel: apps, client, namespace })
    }

    /// hearken with the listeners of `setup`, on `net_af_packet`.
    ///
    /// # Errors
    /// No right to lay wires.
    ///
    /// # Panics
    /// When there is a wire and hearken does not start on it.
    pub fn hearken(program: &Path, setup: &Setup) -> io::Result<Self> {
        let (client, namespace) = Self::wire()?;
        let wire = RawSocket::open(&client, "hk1")?;
        let mac = RawSocket::open(&namespace, "hk0")?.mac();
        let hearken =
            Hearken::start(program, &namespace, |socket| config(socket, setup)).expect("hearken starts");
        Ok(Self { name: "hearken", wire, mac, hearken: Some(hearken), kernel: Vec::new(), client, namespace })
    }
}

impl Server {
    /// Ends hearken and starts another in its place.
    ///
    /// # Panics
    /// When the first one does not end, or the second does not start.
    pub fn restart(&mut self, program: &Path, setup: &Setup) {
        let mut old = self.hearken.take().expect("a hearken");
        let (status, said) = old.stop().expect("it ends");
        assert!(status.is_some_and(|status| status.success()), "{status:?}\n{said}");
        let new = Hearken::start(program, &self.namespace, |socket| config(socket, setup));
        self.hearken = Some(new.expect("hearken starts again"));
    }

    /// Gives the client's kernel the client's addresses, so that ordinary programs can run there.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn wake_client(&self) -> io::Result<()> {
        self.client.enter(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0")?;
            std::fs::write("/proc/sys/net/ipv6/conf/hk1/disable_ipv6", "0")
        })??;
        self.client.ip(&format!("addr add {CLIENT_V4}/{PREFIX_V4} dev hk1"))?;
        self.client.ip(&format!("addr add {CLIENT_V6}/{PREFIX_V6} dev hk1 nodad"))?;
        Ok(())
    }

    /// Connections that wait for accept on the IPv4 listener of `port`.
    pub fn recv_q(&self, port: u16) -> u64 {
        let Some(hearken) = &self.hearken else {
            let mut ss = self.namespace.command("ss");
            let said = run(ss.args(["-4ltnH", &format!("sport = :{port}")])).expect("ss");
            let words: Vec<_> = said.split_whitespace().collect();
            return words.get(1).and_then(|word| word.parse().ok()).expect("a listener's Recv-Q");
        };
        let table = hearken.json("ss").expect("ss");
        let local = format!("{SERVER_V4}:{port}");
        let rows = table["listeners"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["local"] == *local).expect("the listener's row");
        row["recv_q"].as_u64().expect("a number")
    }

    /// Accepts one connection from the IPv4 listener of `port`, and closes it.
    pub fn accept(&self, port: u16) {
        match &self.hearken {
            Some(hearken) => {
                hearken.ctl(&format!("accept {SERVER_V4}:{port}")).expect("accept");
            }
            None => {
                let addr = SocketAddr::new(SERVER_V4.into(), port);
                let app = self.kernel.iter().find(|app| app.addr == addr).expect("a listener");
                net::accept(&*app.listener).expect("accept");
            }
        }
    }

    /// TCP's counters by the kernel's names, all families and cores together.
    ///
    /// # Panics
    /// When they cannot be read: the server is gone.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        if let Some(hearken) = &self.hearken {
            let stats = hearken.json("stats").expect("hearken's counters");
            let snmp = stats["total"]["snmp"].as_object().expect("an object");
            return snmp
                .iter()
                .map(|(name, count)| (name.clone(), count.as_u64().expect("a count")))
                .collect();
        }
        let read = |name| std::fs::read_to_string(Path::new("/proc/thread-self/net").join(name));
        let texts = self.namespace.enter(|| [read("snmp"), read("netstat")]).expect("the namespace is there");
        let mut counters = BTreeMap::new();
        for text in texts {
            let text = text.expect("the kernel's counters");
            let lines: Vec<_> = text.lines().filter(|line| line.starts_with("Tcp")).collect();
            for pair in lines.chunks_exact(2) {
                let (names, counts) =
                    (pair[0].split_whitespace().skip(1), pair[1].split_whitespace().skip(1));
                for (name, count) in names.zip(counts) {
                    counters.insert(name.into(), count.parse::<i64>().expect("a number").cast_unsigned());
                }
            }
        }
        counters
    }
}

/// hearken's configuration: one worker, on the last core, so that the first is the client's.
fn config(socket: &Path, setup: &Setup) -> String {
    let core = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    let mut text = format!(
        "[control]\nsocket = {socket:?}\n\n[workers]\ncores = [{core}]\n\n\
         [[port]]\nname = \"wire0\"\ndevice = \"net_af_packet0,iface=hk0{}\"\n\
         addresses = [\"{SERVER_V4}/{PREFIX_V4}\", \"{SERVER_V6}/{PREFIX_V6}\"]\n",
        setup.device_options
    );
    if let Some(file) = &setup.secret_file {
        text += &format!("\n[cookies]\nsecret_file = {file:?}\n");
    }
    text += "\n[sysctl]\n";
    for (name, value) in &setup.sysctls {
        text += &format!("{name} = {value}\n");
    }
    for Listener { addr, port, backlog, then, defer } in &setup.listeners {
        let (addr, then) = (SocketAddr::new(*addr, *port), then.name());
        text += &format!("\n[[listener]]\naddr = \"{addr}\"\nthen = \"{then}\"\nbacklog = {backlog}\n");
        text += &format!("defer_accept = {defer}\n");
    }
    text
}

/// Sets `TCP_DEFER_ACCEPT` to `seconds`; no crate in use has it.
fn set_defer_accept(fd: &OwnedFd, seconds: u32) -> io::Result<()> {
    let len = size_of::<u32>() as nix::libc::socklen_t;
    // SAFETY:
    // - Bounds: the kernel reads `len` octets from `seconds`, which has as many.
    // - Lifetime: `fd` is open and `seconds` alive until the call returns; neither is kept.
    let result = unsafe {
        nix::libc::setsockopt(
            fd.as_raw_fd(),
            nix::libc::IPPROTO_TCP,
            nix::libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A kernel listener and the program behind it.
struct App {
    addr: SocketAddr,
    listener: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl App {
    fn start(listener: &Listener) -> io::Result<Self> {
        let family = if listener.addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_defer_accept(&fd, listener.defer)?;
        let addr = SocketAddr::new(listener.addr, listener.port);
        net::bind(&fd, &addr)?;
        net::listen(&fd, listener.backlog)?;
        let fd = Arc::new(fd);
        let accepted = Arc::clone(&fd);
        let thread = match listener.then {
            Then::Queue => None,
            Then::Discard => Some(std::thread::spawn(move || discard(&accepted))),
            Then::Close => Some(std::thread::spawn(move || while net::accept(&*accepted).is_ok() {})),
            Then::Reset => Some(std::thread::spawn(move || reset(&accepted))),
        };
        Ok(Self { addr, listener: fd, thread })
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // Accept fails from now on, and that ends the thread.
        let _ = net::shutdown(&*self.listener, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn reset(listener: &OwnedFd) {
    while let Ok(stream) = net::accept(listener) {
        let _ = sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO));
    }
}

/// Reads all connections to their ends.
fn discard(listener: &OwnedFd) {
    let mut streams: Vec<OwnedFd> = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let fds = std::iter::once(listener.as_fd()).chain(streams.iter().map(AsFd::as_fd));
        let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        if poll(&mut fds, None).is_err() {
            continue;
        }
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut stream_ready = ready[1..].iter();
        streams.retain(|stream| {
            !stream_ready.next().is_some_and(|ready| *ready)
                || net::recv(stream, &mut buffer[..], net::RecvFlags::DONTWAIT)
                    .map_or_else(|error| error == rustix::io::Errno::AGAIN, |(read, _)| read > 0)
        });
        if ready[0] {
            match net::accept(listener) {
                Ok(stream) => streams.push(stream),
                Err(_) => return,
            }
        }
    }
}
