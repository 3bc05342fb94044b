//! hearken as a host: one worker on frames in memory, under a clock that the script moves.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dataplane::clock::{Clock, VirtualClock};
use dataplane::io::Frame;
use dataplane::io::mem::{Mem, MemConfig, MemPeer};
use dataplane::local::LocalTable;
use dataplane::wire::ether::MacAddr;
use dataplane::worker::{Port, Worker, WorkerConfig};
use listener::Stack;
use listener::config::{Device, Secret, StackConfig};
use listener::core::Core;
use listener::error::ListenError;
use listener::limits::Limits;
use listener::sockaddr::{Caller, Family, How};
use listener::sockopt::{SockOpt, SockOptName};
use listener::sysctl::Sysctl;
use listener::types::{CoreId, DevIndex, InetAddr, Nanos, SockFd, TcpState};

use super::run::{Failed, Host, Mode, SERVER_PORT, SERVER_V4, SERVER_V6, errno_name};
use crate::frame::{self, Link};

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const DEV: DevIndex = DevIndex(1);
/// The clock's step: timers count in milliseconds.
const STEP: Duration = Duration::from_millis(1);
/// Long after the clock's zero, as a server's is.
const BEGIN: u64 = 1_000_000_000_000;

/// A stack with one core, and the other end of its wire.
pub struct MemHost {
    mode: Mode,
    clock: VirtualClock,
    stack: Stack,
    sysctl: Sysctl,
    worker: Worker<Mem, Core>,
    wire: MemPeer,
    came: VecDeque<(Duration, Vec<u8>)>,
    accepted: HashMap<i64, Accepted>,
    /// Octets that were read.
    read: u64,
}

/// What the system calls of a connection need to know besides what hearken says.
#[derive(Default)]
struct Accepted {
    /// It ends with a RST (SO_LINGER with no time).
    abrupt: bool,
    /// The peer's FIN came.
    ended: bool,
    /// The program wants no more data.
    shut: bool,
    /// SO_ERROR, as long as nobody was told.
    error: i32,
}

impl MemHost {
    pub fn new(mode: Mode) -> Self {
        let addresses: Vec<(InetAddr, u8)> = vec![(SERVER_V4.into(), 24), (SERVER_V6.into(), 64)];
        let device = Device {
            name: "wire0".into(),
            index: DEV,
            addresses: addresses.clone(),
            any_ip: vec![],
            mtu: mode.mtu(),
        };
        let sysctl = Sysctl::default();
        let config = StackConfig {
            sysctl: sysctl.clone(),
            devices: vec![device],
            cores: 1,
            limits: Limits::TINY,
            secret: Secret::from_seed(15),
        };
        let (stack, mut cores) = Stack::new(config).expect("a good configuration");
        let (io, wire) = Mem::new(MemConfig::default());
        let local = Arc::new(LocalTable::new(MacAddr(OUR_MAC), &addresses, &[]));
        let ports = vec![Port::new(io, DEV, local, false)];
        let core = cores.pop().expect("one core was asked for");
        let worker = Worker::new(WorkerConfig::new(CoreId(0)), core, ports);
        let clock = VirtualClock::default();
        clock.advance(BEGIN);
        Self {
            mode,
            clock,
            stack,
            sysctl,
            worker,
            wire,
            came: VecDeque::new(),
            accepted: HashMap::new(),
            read: 0,
        }
    }

    /// Lets the worker do what there is to do now, and notes what it sends.
    fn turn(&mut self) {
        // Commands of the control side, what they lead to, and what timers are due.
        for _ in 0..3 {
            self.worker.poll(&mut self.clock);
        }
        let now = self.now();
        while let Some(frame) = self.wire.recv() {
            self.came.push_back((now, frame.bytes()[14..].to_vec()));
        }
        for (&fd, accepted) in &mut self.accepted {
            if let Ok(info) = self.stack.tcp_info(sock(fd)) {
                use TcpState::{CloseWait, Closing, LastAck};
                accepted.ended |= matches!(info.state, CloseWait | Closing | LastAck);
            }
        }
    }

    /// Asks what became of a connection. The kernel tells each error once, whichever call it is that hears of it.
    fn accepted(&mut self, fd: i64) -> Result<&mut Accepted, Failed> {
        let error = self.pending(sock(fd))?;
        let accepted = self.accepted.entry(fd).or_default();
        if error != 0 {
            accepted.error = error;
        }
        Ok(accepted)
    }

    /// Octets that came and were not read.
    fn unread(&self) -> u64 {
        let dropped = self.stack.snmp().into_iter().find(|(name, _)| *name == "DiscardedOctets");
        dropped.map_or(0, |(_, octets)| octets) - self.read
    }

    /// Gives a descriptor or a number, after the worker has heard of it.
    fn done<T>(&mut self, said: Result<T, ListenError>, number: impl Fn(T) -> i64) -> Result<i64, Failed> {
        self.turn();
        said.map(number).map_err(failed)
    }

    fn pending(&self, fd: SockFd) -> Result<i32, Failed> {
        self.stack.getsockopt(fd, SockOptName::Error).map_err(failed)
    }
}

fn failed(error: ListenError) -> Failed {
    error.errno().name().to_owned()
}

fn sock(fd: i64) -> SockFd {
    SockFd(fd as u32)
}

impl Host for MemHost {
    fn wait(&mut self, until: Duration) {
        while self.now() < until {
            let step = STEP.min(until - self.now());
            self.clock.advance(step.as_nanos() as u64);
            self.turn();
        }
    }

    fn now(&mut self) -> Duration {
        let Nanos(now) = self.clock.now();
        Duration::from_nanos(now - BEGIN)
    }

    fn send(&mut self, packet: &[u8]) {
        let link = Link { src: PEER_MAC, dst: OUR_MAC, ethertype: None, padding: 0, cut: 0 };
        let ethertype = if self.mode == Mode::V6 { 0x86dd } else { 0x0800 };
        assert!(self.wire.send(&frame::ether(&link, ethertype, packet)), "the wire has room");
        self.turn();
    }

    fn recv(&mut self, until: Duration) -> Option<(Duration, Vec<u8>)> {
        loop {
            if let Some(packet) = self.came.pop_front() {
                return Some(packet);
            }
            let now = self.now();
            if now >= until {
                return None;
            }
            self.wait((now + STEP).min(until));
        }
    }

    fn sysctl(&mut self, name: &str, value: &str) -> Result<(), String> {
        let numbers: Result<Vec<u32>, _> = value.split_whitespace().map(str::parse).collect();
        let numbers = numbers.map_err(|_| format!("{value} is no number"))?;
        let [first, ..] = numbers[..] else { return Err(format!("{name} without a value")) };
        let knobs = &mut self.sysctl;
        match name.rsplit('.').next().unwrap_or_default() {
            "tcp_rmem" => {
                knobs.tcp_rmem = numbers.try_into().map_err(|_| "tcp_rmem has three numbers".to_owned())?;
            }
            "somaxconn" => knobs.somaxconn = first,
            "tcp_max_syn_backlog" => knobs.tcp_max_syn_backlog = first,
            "tcp_syncookies" => knobs.tcp_syncookies = first as u8,
            "tcp_synack_retries" => knobs.tcp_synack_retries = first as u8,
            "tcp_abort_on_overflow" => knobs.tcp_abort_on_overflow = first != 0,
            "tcp_timestamps" => knobs.tcp_timestamps = first as u8,
            "tcp_sack" => knobs.tcp_sack = first != 0,
            "tcp_window_scaling" => knobs.tcp_window_scaling = first != 0,
            "tcp_ecn" => knobs.tcp_ecn = first as u8,
            "tcp_fastopen" => knobs.tcp_fastopen = first,
            "tcp_invalid_ratelimit" => knobs.tcp_invalid_ratelimit = first,
            "tcp_rfc1337" => knobs.tcp_rfc1337 = first != 0,
            "tcp_fin_timeout" => knobs.tcp_fin_timeout = first,
            "tcp_retries2" => knobs.tcp_retries2 = first as u8,
            "tcp_orphan_retries" => knobs.tcp_orphan_retries = first as u8,
            "tcp_max_tw_buckets" => knobs.tcp_max_tw_buckets = first,
            _ => return Err(format!("no knob is known by {name}")),
        }
        self.stack.set_sysctl(self.sysctl.clone());
        self.stack.tell_cores(0);
        self.turn();
        Ok(())
    }

    fn socket(&mut self) -> Result<i64, Failed> {
        let family = if self.mode == Mode::V4 { Family::Inet } else { Family::Inet6 };
        let said = self.stack.socket(family, 0);
        self.done(said, |fd| i64::from(fd.0))
    }

    fn setsockopt(&mut self, fd: i64, name: &str, value: &[i32]) -> Result<i64, Failed> {
        let number = value.first().copied().unwrap_or_default();
        if name == "SO_LINGER" {
            self.accepted.entry(fd).or_default().abrupt = value == [1, 0];
            return Ok(0);
        }
        let opt = match name {
            "SO_REUSEADDR" => SockOpt::ReuseAddr(number != 0),
            "SO_REUSEPORT" => SockOpt::ReusePort(number != 0),
            "IPV6_V6ONLY" => SockOpt::V6Only(number != 0),
            "TCP_DEFER_ACCEPT" => SockOpt::DeferAccept(number),
            "TCP_SYNCNT" => SockOpt::SynCnt(number),
            "TCP_MAXSEG" => SockOpt::MaxSeg(number),
            _ => return Err(format!("no option is known by {name}")),
        };
        let said = self.stack.setsockopt(sock(fd), opt);
        self.done(said, |()| 0)
    }

    fn getsockopt(&mut self, fd: i64, name: &str) -> Result<i32, Failed> {
        match name {
            "SO_ERROR" => Ok(std::mem::take(&mut self.accepted(fd)?.error)),
            "TCP_DEFER_ACCEPT" => self.stack.getsockopt(sock(fd), SockOptName::DeferAccept).map_err(failed),
            _ => Err(format!("no option is known by {name}")),
        }
    }

    fn bind(&mut self, fd: i64) -> Result<i64, Failed> {
        let any = if self.mode == Mode::V4 { "0.0.0.0" } else { "::" };
        let addr = std::net::SocketAddr::new(any.parse().expect("an address"), SERVER_PORT);
        let said = self.stack.bind(sock(fd), addr.into(), Caller::ROOT);
        self.done(said, |()| 0)
    }

    fn listen(&mut self, fd: i64, backlog: i32) -> Result<i64, Failed> {
        let said = self.stack.listen(sock(fd), backlog);
        self.done(said, |()| 0)
    }

    /// What is accepted takes data at once: scripts read it, or leave less unread than a window.
    fn accept(&mut self, fd: i64) -> Result<i64, Failed> {
        let said = self.stack.accept(sock(fd));
        if let Ok(accepted) = &said {
            self.stack.discard(accepted.fd).map_err(failed)?;
            self.accepted.insert(i64::from(accepted.fd.0), Accepted::default());
        }
        self.done(said, |accepted| i64::from(accepted.fd.0))
    }

    fn shutdown(&mut self, fd: i64, how: &str) -> Result<i64, Failed> {
        let how = match how {
            "SHUT_RD" => How::Rd,
            "SHUT_WR" => How::Wr,
            "SHUT_RDWR" => How::RdWr,
            _ => return Err(format!("no half is known by {how}")),
        };
        let said = self.stack.shutdown(sock(fd), how);
        if said.is_ok() && how != How::Wr {
            self.accepted.entry(fd).or_default().shut = true;
        }
        self.done(said, |()| 0)
    }

    fn close(&mut self, fd: i64) -> Result<i64, Failed> {
        let abrupt = self.accepted.remove(&fd).is_some_and(|accepted| accepted.abrupt);
        let said = self.stack.close(sock(fd), abrupt);
        self.done(said, |()| 0)
    }

    /// Of data only the amount is known.
    fn read(&mut self, fd: i64, len: usize) -> Result<i64, Failed> {
        let unread = self.unread().min(len as u64);
        if unread != 0 {
            self.read += unread;
            return Ok(unread as i64);
        }
        let closed = self.stack.tcp_info(sock(fd)).map_err(failed)?.state == TcpState::Close;
        let accepted = self.accepted(fd)?;
        if accepted.ended {
            return Ok(0);
        }
        match std::mem::take(&mut accepted.error) {
            0 if closed || accepted.shut => Ok(0),
            0 => Err("EAGAIN".to_owned()),
            error => Err(errno_name(error)),
        }
    }

    /// hearken sends no data.
    fn write(&mut self, fd: i64, _len: usize) -> Result<i64, Failed> {
        match std::mem::take(&mut self.accepted(fd)?.error) {
            0 => Err("EPIPE".to_owned()),
            error => Err(errno_name(error)),
        }
    }
}
