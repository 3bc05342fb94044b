//! Linux as a host: a namespace of its own, and a TUN device whose other end is the peer.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode as FileMode, OFlags};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};

use super::run::{Failed, Host, Mode, PEER_V4, PEER_V6, SERVER_PORT, SERVER_V4, SERVER_V6, errno_name};
use crate::frame;
use crate::lab::Namespace;

/// Longer than any packet of the scripts.
const PACKET_MAX: usize = 4096;
/// Knobs that are the whole machine's: no script may set them.
const OF_THE_MACHINE: [&str; 2] = ["net.core.rmem_max", "net.core.wmem_max"];

/// A namespace under a script.
pub struct KernelHost {
    mode: Mode,
    begin: Instant,
    tun: File,
    /// By descriptor; `None` was closed.
    socks: Vec<Option<OwnedFd>>,
    came: VecDeque<(Duration, Vec<u8>)>,
    namespace: Namespace,
}

impl KernelHost {
    /// A namespace with nothing but the device in it.
    ///
    /// # Errors
    /// No right to make one.
    pub fn new(mode: Mode) -> io::Result<Self> {
        let namespace = Namespace::new()?;
        let tun = namespace.enter(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0")?;
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0")?;
            std::fs::write("/proc/sys/net/ipv6/conf/default/router_solicitations", "0")?;
            open_tun("tun0")
        })??;
        namespace.ip(&format!("link set tun0 mtu {} up", mode.mtu()))?;
        for (server, peer) in [(SERVER_V4.into(), PEER_V4.into()), (SERVER_V6.into(), PEER_V6.into())] {
            let (server, peer): (std::net::IpAddr, std::net::IpAddr) = (server, peer);
            let nodad = if server.is_ipv6() { "nodad" } else { "" };
            namespace.ip(&format!("addr add {server} peer {peer} dev tun0 {nodad}"))?;
        }
        Ok(Self { mode, begin: Instant::now(), tun, socks: Vec::new(), came: VecDeque::new(), namespace })
    }

    /// Notes what comes, and when, up to `until` or the first packet.
    fn listen_to_tun(&mut self, until: Duration) {
        loop {
            let mut packet = vec![0; PACKET_MAX];
            match self.tun.read(&mut packet) {
                Ok(len) => {
                    packet.truncate(len);
                    // The kernel's multicast listener reports come as well.
                    if is_tcp(&packet) {
                        let now = self.begin.elapsed();
                        self.came.push_back((now, packet));
                        return;
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("the TUN device: {error}"),
            }
            let left = until.saturating_sub(self.begin.elapsed());
            if left.is_zero() {
                return;
            }
            let left = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.tun.as_fd(), PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("poll: {error}"),
            }
        }
    }

    fn sock(&self, fd: i64) -> Result<&OwnedFd, Failed> {
        let sock = usize::try_from(fd).ok().and_then(|fd| self.socks.get(fd)?.as_ref());
        sock.ok_or_else(|| "EBADF".to_owned())
    }

    fn add(&mut self, sock: OwnedFd) -> i64 {
        self.socks.push(Some(sock));
        self.socks.len() as i64 - 1
    }
}

fn is_tcp(packet: &[u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(9) == Some(&frame::TCP),
        Some(6) => packet.get(6) == Some(&frame::TCP),
        _ => false,
    }
}

fn failed(error: rustix::io::Errno) -> Failed {
    errno_name(error.raw_os_error())
}

/// Makes the TUN device `name` in this thread's namespace, without packet information; no crate in use can.
fn open_tun(name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tun = rustix::fs::open("/dev/net/tun", flags, FileMode::empty())?;
    // SAFETY:
    // - An `ifreq` of zeros is one with an empty name and no flags; the name written is shorter than its field, and
    //   `ifru_flags` is a plain number.
    // - Bounds: TUNSETIFF reads and writes one `ifreq`, which is what `request` points to.
    // - Lifetime: `tun` is open and `request` alive until the call returns; neither is kept.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request)
    };
    if result == 0 { Ok(File::from(tun)) } else { Err(io::Error::last_os_error()) }
}

/// Level and number of an option.
fn option(name: &str) -> Option<(libc::c_int, libc::c_int)> {
    Some(match name {
        "SO_REUSEADDR" => (libc::SOL_SOCKET, libc::SO_REUSEADDR),
        "SO_REUSEPORT" => (libc::SOL_SOCKET, libc::SO_REUSEPORT),
        "SO_LINGER" => (libc::SOL_SOCKET, libc::SO_LINGER),
        "SO_ERROR" => (libc::SOL_SOCKET, libc::SO_ERROR),
        "IPV6_V6ONLY" => (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
        "TCP_DEFER_ACCEPT" => (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
        "TCP_SYNCNT" => (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
        "TCP_MAXSEG" => (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
        _ => return None,
    })
}

/// setsockopt(2) with numbers, as packetdrill's scripts write them.
fn set_option(fd: &OwnedFd, (level, name): (libc::c_int, libc::c_int), value: &[i32]) -> Result<i64, Failed> {
    let len = size_of_val(value) as libc::socklen_t;
    // SAFETY:
    // - Bounds: the kernel reads `len` octets from `value`, which has as many.
    // - Lifetime: `fd` is open and `value` alive until the call returns; neither is kept.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if result == 0 { Ok(0) } else { Err(last_error()) }
}

/// getsockopt(2) of a number.
fn get_option(fd: &OwnedFd, (level, name): (libc::c_int, libc::c_int)) -> Result<i32, Failed> {
    let mut value: i32 = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY:
    // - Bounds: the kernel writes at most `len` octets to `value`, which has as many, and one length to `len`.
    // - Lifetime: `fd` is open, `value` and `len` alive until the call returns; none is kept.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    if result == 0 { Ok(value) } else { Err(last_error()) }
}

fn last_error() -> Failed {
    errno_name(io::Error::last_os_error().raw_os_error().unwrap_or_default())
}

impl Host for KernelHost {
    fn wait(&mut self, until: Duration) {
        while self.begin.elapsed() < until {
            self.listen_to_tun(until);
        }
    }

    fn now(&mut self) -> Duration {
        self.begin.elapsed()
    }

    fn send(&mut self, packet: &[u8]) {
        let sent = self.tun.write(packet).expect("the TUN device takes it");
        assert_eq!(sent, packet.len());
    }

    fn recv(&mut self, until: Duration) -> Option<(Duration, Vec<u8>)> {
        if self.came.is_empty() {
            self.listen_to_tun(until);
        }
        self.came.pop_front()
    }

    fn sysctl(&mut self, name: &str, value: &str) -> Result<(), String> {
        if OF_THE_MACHINE.contains(&name) {
            return Err(format!("{name} is the whole machine's"));
        }
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        let written = self.namespace.enter(|| std::fs::write(&file, value)).and_then(|written| written);
        written.map_err(|error| format!("{}: {error}", file.display()))
    }

    fn socket(&mut self) -> Result<i64, Failed> {
        let family = if self.mode == Mode::V4 { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let made = self.namespace.enter(|| net::socket_with(family, SocketType::STREAM, flags, None));
        let sock = made.expect("the namespace is there").map_err(failed)?;
        Ok(self.add(sock))
    }

    fn setsockopt(&mut self, fd: i64, name: &str, value: &[i32]) -> Result<i64, Failed> {
        let option = option(name).ok_or_else(|| format!("no option is known by {name}"))?;
        set_option(self.sock(fd)?, option, value)
    }

    fn getsockopt(&mut self, fd: i64, name: &str) -> Result<i32, Failed> {
        let option = option(name).ok_or_else(|| format!("no option is known by {name}"))?;
        get_option(self.sock(fd)?, option)
    }

    fn bind(&mut self, fd: i64) -> Result<i64, Failed> {
        let any = if self.mode == Mode::V4 { "0.0.0.0" } else { "::" };
        let addr = SocketAddr::new(any.parse().expect("an address"), SERVER_PORT);
        net::bind(self.sock(fd)?, &addr).map(|()| 0).map_err(failed)
    }

    fn listen(&mut self, fd: i64, backlog: i32) -> Result<i64, Failed> {
        net::listen(self.sock(fd)?, backlog).map(|()| 0).map_err(failed)
    }

    fn accept(&mut self, fd: i64) -> Result<i64, Failed> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let sock = net::accept_with(self.sock(fd)?, flags).map_err(failed)?;
        Ok(self.add(sock))
    }

    fn shutdown(&mut self, fd: i64, how: &str) -> Result<i64, Failed> {
        let how = match how {
            "SHUT_RD" => Shutdown::Read,
            "SHUT_WR" => Shutdown::Write,
            "SHUT_RDWR" => Shutdown::Both,
            _ => return Err(format!("no half is known by {how}")),
        };
        net::shutdown(self.sock(fd)?, how).map(|()| 0).map_err(failed)
    }

    fn close(&mut self, fd: i64) -> Result<i64, Failed> {
        self.sock(fd)?;
        self.socks[fd as usize] = None;
        Ok(0)
    }

    fn read(&mut self, fd: i64, len: usize) -> Result<i64, Failed> {
        let mut buffer = vec![0; len];
        let read = net::recv(self.sock(fd)?, &mut buffer[..], RecvFlags::empty());
        read.map(|(len, _)| len as i64).map_err(failed)
    }

    fn write(&mut self, fd: i64, len: usize) -> Result<i64, Failed> {
        let sent = net::send(self.sock(fd)?, &vec![0; len], SendFlags::NOSIGNAL);
        sent.map(|len| len as i64).map_err(failed)
    }
}
