//! One sequence on both sides.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use listener::config::Device;
use listener::error::Errno;
use listener::inet_hashtables::ListenKey;
use listener::segment::FlowKey;
use listener::sockaddr::{Caller, Family, How, SockAddr};
use listener::sockopt::{SockOpt, SockOptName};
use listener::sysctl::Sysctl;
use listener::types::{CoreId, DevIndex, InetAddr, SockFd, TcpPort, TcpState};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::thread::{Uid, set_thread_res_uid};
use socket2::{Domain, SockAddr as RealAddr, Socket, Type};

use super::ops::{End, Knobs, Op, Opt, Port, SLOTS};
use crate::common::client::Client;
use crate::common::world::{ClientId, World, ip, loopback};

/// How long an answer may take that must come, and one that may not come at all.
const SURE: Duration = Duration::from_secs(3);
const UNSURE: Duration = Duration::from_millis(20);
const PRIVILEGED: u16 = 7;
const FIRST_PORT: u16 = 2000;
const LAST_PORT: u16 = 30_000;
/// Client ports that are tried on the stack's side to meet the group member that the kernel chose.
const STEERING: u16 = 4000;
const FIRST_CLIENT_PORT: u16 = 32_768;

/// A network namespace of this thread's own, with a loopback and a device without addresses.
#[derive(Debug)]
pub struct Namespace {
    next_port: u16,
    knobs: Option<Knobs>,
}

impl Namespace {
    /// # Errors
    /// Why there is none.
    pub fn enter() -> Result<Self, String> {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| format!("no network namespace of its own ({errno}); run as root"))?;
        let commands = ["link set lo up", "link add d0 type veth peer name p0"]
            .map(|line| line.split(' ').collect::<Vec<_>>());
        for words in commands {
            let done =
                Command::new("ip").args(&words).status().map_err(|error| format!("no ip(8): {error}"))?;
            if !done.success() {
                return Err(format!("ip {} failed", words.join(" ")));
            }
        }
        Ok(Self { next_port: FIRST_PORT, knobs: None })
    }

    /// Turns the kernel's knobs.
    fn set(&mut self, knobs: Knobs) -> Result<(), String> {
        if self.knobs.replace(knobs) == Some(knobs) {
            return Ok(());
        }
        let files = [
            ("ipv6/bindv6only", u32::from(knobs.bindv6only)),
            ("ipv4/ip_nonlocal_bind", knobs.ip_nonlocal_bind.into()),
            ("ipv6/ip_nonlocal_bind", knobs.ip_nonlocal_bind.into()),
            ("core/somaxconn", knobs.somaxconn),
            ("ipv4/ip_autobind_reuse", knobs.autobind_reuse.into()),
        ];
        files.into_iter().try_for_each(|(file, value)| {
            std::fs::write(format!("/proc/sys/net/{file}"), value.to_string())
                .map_err(|error| format!("/proc/sys/net/{file}: {error}"))
        })
    }

    fn ports(&mut self) -> u16 {
        assert!(self.next_port < LAST_PORT, "too many runs in one namespace");
        self.next_port += 4;
        self.next_port - 4
    }
}

/// A socket on both sides.
struct Pair {
    real: Socket,
    fd: SockFd,
    uid: u32,
}

struct ChildPair {
    real: Socket,
    fd: SockFd,
}

struct ClientPair {
    real: Socket,
    real_addr: SocketAddr,
    id: ClientId,
}

struct Run {
    world: World,
    base: u16,
    slots: [Option<Pair>; SLOTS],
    children: Vec<ChildPair>,
    clients: Vec<ClientPair>,
    /// Ephemeral ports that stand for each other: the kernel's, ours.
    ephemeral: HashMap<u16, u16>,
}

/// Runs `ops` on both sides.
///
/// # Errors
/// The first difference, in words.
pub fn run(namespace: &mut Namespace, knobs: &Knobs, ops: &[Op]) -> Result<(), String> {
    let base = namespace.ports();
    namespace.set(*knobs)?;
    let sysctl = Sysctl {
        bindv6only: knobs.bindv6only,
        ip_nonlocal_bind: knobs.ip_nonlocal_bind,
        ipv6_ip_nonlocal_bind: knobs.ip_nonlocal_bind,
        somaxconn: knobs.somaxconn,
        ip_autobind_reuse: knobs.autobind_reuse,
        ..Sysctl::default()
    };
    let d0 = Device {
        name: "d0".to_owned(),
        index: DevIndex(2),
        addresses: Vec::new(),
        any_ip: Vec::new(),
        mtu: 1500,
    };
    let mut run = Run {
        world: World::new(sysctl, vec![loopback(), d0], 2, base.into()),
        base,
        slots: [const { None }; SLOTS],
        children: Vec::new(),
        clients: Vec::new(),
        ephemeral: HashMap::new(),
    };
    let result = ops.iter().enumerate().try_for_each(|(step, op)| {
        run.step(*op).map_err(|difference| format!("step {step} {op:?} (port {base}): {difference}"))
    });
    let result = result.and_then(|()| run.queues().map_err(|difference| format!("at the end: {difference}")));
    run.abort_all();
    result
}

fn same<T: PartialEq + std::fmt::Debug>(kernel: T, stack: T) -> Result<(), String> {
    if kernel == stack { Ok(()) } else { Err(format!("kernel {kernel:?}, stack {stack:?}")) }
}

/// Both sides' results in one form: an errno's number, or 0.
fn errno_of<T>(result: io::Result<T>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_| 0)
}

fn errno_of_stack<T>(result: Result<T, listener::error::ListenError>) -> i32 {
    result.map_or_else(|error| error.errno().number().into(), |_| 0)
}

fn named(number: i32) -> String {
    let known = Errno::ALL.iter().find(|errno| i32::from(errno.number()) == number);
    known.map_or_else(
        || if number == 0 { "OK".to_owned() } else { format!("errno {number}") },
        Errno::to_string,
    )
}

fn same_errno<T, U>(
    kernel: io::Result<T>,
    stack: Result<U, listener::error::ListenError>,
) -> Result<(), String> {
    same(named(errno_of(kernel)), named(errno_of_stack(stack)))
}

/// Does `call` as user `uid`, without its capabilities unless that is root.
fn as_user<T>(uid: u32, call: impl FnOnce() -> T) -> T {
    let switch = |uid| {
        let keep = None::<Uid>;
        set_thread_res_uid(keep, Uid::from_raw(uid), keep).expect("root may become anybody, and root again");
    };
    if uid == 0 {
        return call();
    }
    switch(uid);
    let result = call();
    switch(0);
    result
}

impl Run {
    fn step(&mut self, op: Op) -> Result<(), String> {
        match op {
            Op::Socket { slot, v6, uid } => self.socket(slot, v6, uid),
            Op::Set { slot, opt, on } => self.set(slot, opt, on),
            Op::Device { slot, name } => self.device(slot, name),
            Op::Bind { slot, addr, port, uid } => self.bind(slot, addr, port, uid),
            Op::Listen { slot, backlog } => self.listen(slot, backlog),
            Op::Shutdown { slot, how } => self.shutdown(slot, how),
            Op::Close { slot } => self.close(slot),
            Op::Connect { addr, port } => self.connect(addr, port),
            Op::Accept { slot } => self.accept(slot),
            Op::CloseChild { nth, end } => self.close_child(nth, end),
            Op::CloseClient { nth, end } => self.close_client(nth, end),
            Op::SetChild { nth, opt, on } => self.set_child(nth, opt, on),
            Op::Name { slot } => self.name(slot),
            Op::Options { slot } => self.options(slot),
        }?;
        self.world.settle();
        self.world.stack.assert_invariants();
        self.listening()
    }

    fn socket(&mut self, slot: usize, v6: bool, uid: u32) -> Result<(), String> {
        self.close(slot)?;
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let real = as_user(uid, || Socket::new(domain, Type::STREAM.nonblocking(), None));
        let real = real.map_err(|error| error.to_string())?;
        let family = if v6 { Family::Inet6 } else { Family::Inet };
        let fd = self.world.stack.socket(family, uid).map_err(|error| error.to_string())?;
        self.slots[slot] = Some(Pair { real, fd, uid });
        Ok(())
    }

    fn set(&mut self, slot: usize, opt: Opt, on: bool) -> Result<(), String> {
        let Some(Pair { real, fd, .. }) = &self.slots[slot] else { return Ok(()) };
        let (kernel, opt) = match opt {
            Opt::Reuse => (real.set_reuse_address(on), SockOpt::ReuseAddr(on)),
            Opt::Reuseport => (real.set_reuse_port(on), SockOpt::ReusePort(on)),
            Opt::V6Only => (real.set_only_v6(on), SockOpt::V6Only(on)),
            Opt::Freebind => (real.set_freebind_v4(on), SockOpt::Freebind(on)),
            Opt::NoPort => {
                let set = setsockopt(&real.as_fd(), sockopt::IpBindAddressNoPort, &on);
                (set.map_err(io::Error::from), SockOpt::BindAddressNoPort(on))
            }
        };
        same_errno(kernel, self.world.stack.setsockopt(*fd, opt))
    }

    fn device(&mut self, slot: usize, name: &'static str) -> Result<(), String> {
        let Some(Pair { real, fd, .. }) = &self.slots[slot] else { return Ok(()) };
        let kernel = real.bind_device((!name.is_empty()).then_some(name.as_bytes()));
        same_errno(kernel, self.world.stack.setsockopt(*fd, SockOpt::BindToDevice(name)))
    }

    /// The port's number for the kernel and for the stack.
    fn port(&self, port: Port) -> (u16, u16) {
        match port {
            Port::Any => (0, 0),
            Port::Fixed(number) => (self.base + number, self.base + number),
            Port::Privileged => (PRIVILEGED, PRIVILEGED),
            Port::Of(slot) => {
                let name =
                    self.slots[slot].as_ref().and_then(|pair| pair.real.local_addr().ok()?.as_socket());
                let kernel = name.map_or(0, |name| name.port());
                (kernel, self.ephemeral.get(&kernel).copied().unwrap_or(kernel))
            }
        }
    }

    fn bind(&mut self, slot: usize, addr: &str, port: Port, uid: u32) -> Result<(), String> {
        let ports = self.port(port);
        let Some(Pair { real, fd, .. }) = &self.slots[slot] else { return Ok(()) };
        let addr: IpAddr = addr.parse().map_err(|_| "no address")?;
        let kernel = as_user(uid, || real.bind(&RealAddr::from(SocketAddr::new(addr, ports.0))));
        let caller = if uid == 0 { Caller::ROOT } else { Caller::user(uid) };
        let ours = self.world.stack.bind(*fd, SockAddr::from(SocketAddr::new(addr, ports.1)), caller);
        same_errno(kernel, ours)?;
        self.name(slot)
    }

    fn listen(&mut self, slot: usize, backlog: i32) -> Result<(), String> {
        let Some(Pair { real, fd, .. }) = &self.slots[slot] else { return Ok(()) };
        same_errno(real.listen(backlog), self.world.stack.listen(*fd, backlog))?;
        self.name(slot)
    }

    fn shutdown(&mut self, slot: usize, how: usize) -> Result<(), String> {
        let Some(Pair { real, fd, .. }) = &self.slots[slot] else { return Ok(()) };
        let (theirs, ours) = [
            (std::net::Shutdown::Read, How::Rd),
            (std::net::Shutdown::Write, How::Wr),
            (std::net::Shutdown::Both, How::RdWr),
        ][how];
        same_errno(real.shutdown(theirs), self.world.stack.shutdown(*fd, ours))?;
        self.name(slot)
    }

    fn close(&mut self, slot: usize) -> Result<(), String> {
        let Some(pair) = self.slots[slot].take() else { return Ok(()) };
        drop(pair.real);
        self.world.stack.close(pair.fd, false).map_err(|error| error.to_string())
    }

    /// Names must be equal; ephemeral ports stand for each other.
    fn name(&mut self, slot: usize) -> Result<(), String> {
        let Some(Pair { real, fd, .. }) = &self.slots[slot] else { return Ok(()) };
        let kernel = real.local_addr().ok().and_then(|name| name.as_socket()).ok_or("no name")?;
        let ours =
            self.world.stack.getsockname(*fd).map(SocketAddr::from).map_err(|error| error.to_string())?;
        same(kernel.ip(), ours.ip())?;
        let (kernel, ours) = (kernel.port(), ours.port());
        if kernel < 32_768 || ours < 32_768 {
            return same(kernel, ours);
        }
        same(kernel % 2, ours % 2).map_err(|parity| format!("parity of {kernel} and {ours}: {parity}"))?;
        let known = *self.ephemeral.entry(kernel).or_insert(ours);
        same(known, ours)
    }

    fn options(&mut self, slot: usize) -> Result<(), String> {
        let Some(Pair { real, fd, uid }) = &self.slots[slot] else { return Ok(()) };
        let ask = |name| self.world.stack.getsockopt(*fd, name).ok().map(|value| value != 0);
        same(real.reuse_address().ok(), ask(SockOptName::ReuseAddr))?;
        same(real.reuse_port().ok(), ask(SockOptName::ReusePort))?;
        same(real.is_listener().ok(), ask(SockOptName::AcceptConn))?;
        same(real.only_v6().ok(), ask(SockOptName::V6Only))
            .map_err(|difference| format!("IPV6_V6ONLY of uid {uid}: {difference}"))
    }

    // ---- connections

    fn connect(&mut self, addr: &str, port: Port) -> Result<(), String> {
        let ports = self.port(port);
        if ports.0 == 0 {
            return Ok(());
        }
        let addr: IpAddr = addr.parse().map_err(|_| "no address")?;
        let to = InetAddr::from(addr);
        // A read of the kernel's tables is slow, so they are asked only if there is a choice.
        let choice = self.candidates(to, TcpPort(ports.1));
        let before = if choice.len() > 1 { Some(self.kernel_queues()?) } else { None };
        let rows = self.world.stack.listeners();
        let full = |fd: &SockFd| rows.iter().any(|row| row.fd == *fd && row.recv_q > row.backlog);
        let full: Vec<SockFd> = choice.iter().copied().filter(full).collect();
        let domain = if addr.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let real =
            Socket::new(domain, Type::STREAM.nonblocking(), None).map_err(|error| error.to_string())?;
        real.set_linger(Some(Duration::ZERO)).map_err(|error| error.to_string())?;
        // A group hands a SYN to a member bound to another device, too; the kernel then finds no way back for its
        // answer. Hearken answers where the SYN came from.
        let wayless = rows.iter().any(|row| choice.contains(&row.fd) && row.dev.0 > 1);
        let patience = if full.is_empty() && !wayless { SURE } else { UNSURE };
        match connect_real(&real, SocketAddr::new(addr, ports.0), patience)? {
            Outcome::Connected => {
                let meant = match before {
                    Some(before) => vec![self.grown(&before)?],
                    None => choice,
                };
                self.connected(real, to, ports.1, &meant)
            }
            Outcome::Refused => {
                // Every port before the first client's is unused.
                let id = self.start(flow(to, TcpPort(ports.1), FIRST_CLIENT_PORT - 1));
                same("ECONNREFUSED", self.world.client(id).error.unwrap_or("no error"))
            }
            Outcome::Silence if wayless => Ok(()),
            Outcome::Silence => {
                drop(real);
                let flow = self.steer(to, TcpPort(ports.1), &full);
                let id = self.start(flow.ok_or("the kernel drops the SYN, here no listener is full")?);
                let state = self.world.client(id).state;
                self.world.abort(id);
                same(TcpState::SynSent, state)
            }
        }
    }

    fn connected(&mut self, real: Socket, to: InetAddr, port: u16, meant: &[SockFd]) -> Result<(), String> {
        let flow = self.steer(to, TcpPort(port), meant);
        let id = self.start(flow.ok_or("the kernel connects, here no such listener may get the SYN")?);
        same(TcpState::Established, self.world.client(id).state)?;
        let real_addr = real.local_addr().ok().and_then(|name| name.as_socket()).ok_or("no name")?;
        self.clients.push(ClientPair { real, real_addr, id });
        Ok(())
    }

    /// The listeners that the stack may give a SYN to, depending on the client's port.
    fn candidates(&self, to: InetAddr, port: TcpPort) -> Vec<SockFd> {
        let hash = self.world.stack.listen_hash();
        let guard = hash.pin();
        let found: HashSet<_> = (0..200)
            .filter_map(|sport| {
                let flow = flow(to, port, FIRST_CLIENT_PORT + sport);
                hash.inet_lookup_listener(&guard, &ListenKey { flow, dev: DevIndex(1), core: CoreId(0) })
            })
            .collect();
        let fds = self.slots.iter().flatten().map(|pair| pair.fd);
        fds.filter(|&fd| self.world.stack.listener_id(fd).is_some_and(|id| found.contains(&id))).collect()
    }

    /// Which listener's queue the kernel's child went to.
    fn grown(&self, before: &HashMap<u64, u32>) -> Result<SockFd, String> {
        let began = Instant::now();
        loop {
            let now = self.kernel_queues()?;
            for pair in self.slots.iter().flatten() {
                let inode = inode(&pair.real)?;
                if now.get(&inode).copied().unwrap_or(0) > before.get(&inode).copied().unwrap_or(0) {
                    return Ok(pair.fd);
                }
            }
            if began.elapsed() > SURE {
                return Err("the kernel connected, but no queue grew".to_owned());
            }
        }
    }

    /// A flow that the stack gives to one of `listeners`.
    fn steer(&self, to: InetAddr, port: TcpPort, listeners: &[SockFd]) -> Option<FlowKey> {
        let wanted: Vec<_> = listeners.iter().filter_map(|&fd| self.world.stack.listener_id(fd)).collect();
        let hash = self.world.stack.listen_hash();
        let guard = hash.pin();
        (0..STEERING).find_map(|sport| {
            let flow = flow(to, port, FIRST_CLIENT_PORT + sport);
            let used = self.world.clients.iter().any(|client| client.flow == flow);
            let key = ListenKey { flow, dev: DevIndex(1), core: CoreId(0) };
            let found = hash.inet_lookup_listener(&guard, &key);
            (!used && found.is_some_and(|found| wanted.contains(&found))).then_some(flow)
        })
    }

    fn start(&mut self, flow: FlowKey) -> ClientId {
        self.world.add(Client::new(flow, DevIndex(1), 77))
    }

    fn accept(&mut self, slot: usize) -> Result<(), String> {
        let Some(Pair { real, fd, uid }) = &self.slots[slot] else { return Ok(()) };
        // The kernel gives a connection to the user who accepts it; here it stays its listener's.
        let (kernel, ours) = (as_user(*uid, || real.accept()), self.world.stack.accept(*fd));
        let (kernel, ours) = match (kernel, ours) {
            (Ok(kernel), Ok(ours)) => (kernel, ours),
            (kernel, ours) => return same_errno(kernel, ours),
        };
        let peer = kernel.1.as_socket().ok_or("no peer")?;
        let client = self.clients.iter().find(|client| unmapped(client.real_addr) == unmapped(peer));
        let flow = client.map(|client| self.world.client(client.id).flow);
        let ours_peer = (ours.peer.addr, ours.peer.port);
        let local = kernel.0.local_addr().ok().and_then(|name| name.as_socket()).ok_or("no name")?;
        same(local.ip(), SocketAddr::from(ours.local).ip())?;
        kernel.0.set_linger(Some(Duration::ZERO)).map_err(|error| error.to_string())?;
        self.children.push(ChildPair { real: kernel.0, fd: ours.fd });
        match flow {
            Some(flow) => same((flow.saddr, flow.sport), ours_peer),
            // Its client was closed meanwhile.
            None => Ok(()),
        }
    }

    fn close_child(&mut self, nth: usize, end: End) -> Result<(), String> {
        if self.children.is_empty() {
            return Ok(());
        }
        let child = self.children.remove(nth % self.children.len());
        if end == End::Fin {
            child.real.set_linger(None).map_err(|error| error.to_string())?;
        }
        drop(child.real);
        self.world.stack.close(child.fd, end == End::Rst).map_err(|error| error.to_string())
    }

    fn set_child(&mut self, nth: usize, opt: Opt, on: bool) -> Result<(), String> {
        if self.children.is_empty() {
            return Ok(());
        }
        let child = &self.children[nth % self.children.len()];
        let (kernel, ours) = if opt == Opt::Reuse {
            (child.real.set_reuse_address(on), SockOpt::ReuseAddr(on))
        } else {
            (child.real.set_reuse_port(on), SockOpt::ReusePort(on))
        };
        same_errno(kernel, self.world.stack.setsockopt(child.fd, ours))
    }

    fn close_client(&mut self, nth: usize, end: End) -> Result<(), String> {
        if self.clients.is_empty() {
            return Ok(());
        }
        let client = self.clients.remove(nth % self.clients.len());
        if end == End::Fin {
            client.real.set_linger(None).map_err(|error| error.to_string())?;
            self.world.fin(client.id);
        } else {
            self.world.abort(client.id);
        }
        drop(client.real);
        Ok(())
    }

    // ---- queues

    /// Accept queues of the kernel's listeners by inode.
    fn kernel_queues(&self) -> Result<HashMap<u64, u32>, String> {
        let mut queues = HashMap::new();
        for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
            let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
            for line in text.lines().skip(1) {
                let words: Vec<&str> = line.split_whitespace().collect();
                let [_, _, _, "0A", queue, _, _, _, _, inode, ..] = words[..] else { continue };
                let waiting = queue.split(':').nth(1).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                queues.insert(inode.parse().map_err(|_| "no inode")?, waiting.ok_or("no queue")?);
            }
        }
        Ok(queues)
    }

    /// Both sides' sockets must agree on whether they listen.
    fn listening(&self) -> Result<(), String> {
        for pair in self.slots.iter().flatten() {
            let ours = self.world.stack.tcp_info(pair.fd).map(|info| info.state == TcpState::Listen);
            same(pair.real.is_listener().ok(), ours.ok())?;
        }
        Ok(())
    }

    /// Both sides' accept queues must be equally long.
    fn queues(&self) -> Result<(), String> {
        let kernel = self.kernel_queues()?;
        for (slot, pair) in self.slots.iter().enumerate() {
            let Some(pair) = pair else { continue };
            let theirs = kernel.get(&inode(&pair.real)?).copied();
            let info = self.world.stack.tcp_info(pair.fd).map_err(|error| error.to_string())?;
            let ours = (info.state == TcpState::Listen).then_some(info.tcpi_unacked);
            same(theirs, ours).map_err(|difference| format!("queue of slot {slot}: {difference}"))?;
        }
        Ok(())
    }

    /// Leaves nothing behind that outlives the sequence: all connections end by RST.
    fn abort_all(&mut self) {
        for client in self.clients.drain(..) {
            drop(client.real);
        }
        self.children.clear();
        self.slots = [const { None }; SLOTS];
    }
}

/// A flow from client port `sport`.
fn flow(to: InetAddr, port: TcpPort, sport: u16) -> FlowKey {
    let from = if to.is_v4() { ip("127.0.0.1") } else { to };
    FlowKey { saddr: from, daddr: to, sport: TcpPort(sport), dport: port }
}

enum Outcome {
    Connected,
    Refused,
    Silence,
}

fn connect_real(real: &Socket, to: SocketAddr, patience: Duration) -> Result<Outcome, String> {
    match real.connect(&RealAddr::from(to)) {
        Ok(()) => return Ok(Outcome::Connected),
        Err(error) if error.raw_os_error() == Some(115) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(Outcome::Refused),
        Err(error) => return Err(format!("connect: {error}")),
    }
    let began = Instant::now();
    loop {
        match real.take_error().map_err(|error| error.to_string())? {
            Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(Outcome::Refused),
            Some(error) => return Err(format!("connect: {error}")),
            None if real.peer_addr().is_ok() => return Ok(Outcome::Connected),
            None if began.elapsed() > patience => return Ok(Outcome::Silence),
            None => std::thread::sleep(Duration::from_micros(50)),
        }
    }
}

fn inode(socket: &Socket) -> Result<u64, String> {
    rustix::fs::fstat(socket.as_fd()).map(|stat| stat.st_ino).map_err(|error| error.to_string())
}

fn unmapped(addr: SocketAddr) -> (IpAddr, u16) {
    let ip = match addr.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    };
    (ip, addr.port())
}
