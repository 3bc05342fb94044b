//! Carries a script out on a host, whatever that is.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TcpSlice, TransportSlice};

use nix::errno::Errno;

use super::script::{Call, Event, Opt, Packet, Script, Tcp, What, When};
use crate::frame::{self, Ip};

/// The port that scripts bind to, and the peer's.
pub const SERVER_PORT: u16 = 8080;
pub const PEER_PORT: u16 = 53_055;
/// What a script without expectations takes the server's clock for when it shows first.
const FIRST_TSVAL: u32 = 1000;
/// The peer's first number.
const PEER_ISN: u32 = 0xffff_f000;

/// Whose addresses a script is run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    V4,
    V6,
    /// An IPv6 socket that an IPv4 peer talks to.
    Mapped,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    /// As scripts call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
            Self::Mapped => "ipv4-mapped-ipv6",
        }
    }

    /// Octets of a packet at most: what leaves an MSS of 1460.
    pub fn mtu(self) -> u16 {
        if self == Self::V6 { 1520 } else { 1500 }
    }
}

pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
pub const PEER_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const PEER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Why a call failed: the errno's name.
pub type Failed = String;

/// A server under a script. Times are since the script began.
pub trait Host {
    /// Lets the time come.
    fn wait(&mut self, until: Duration);
    /// The time.
    fn now(&mut self) -> Duration;
    /// Sends an IP packet to it.
    fn send(&mut self, packet: &[u8]);
    /// The next IP packet that it sent up to `until`, and when.
    fn recv(&mut self, until: Duration) -> Option<(Duration, Vec<u8>)>;
    /// Sets a knob.
    fn sysctl(&mut self, name: &str, value: &str) -> Result<(), String>;
    /// socket(2), for stream sockets of the script's family.
    fn socket(&mut self) -> Result<i64, Failed>;
    fn setsockopt(&mut self, fd: i64, name: &str, value: &[i32]) -> Result<i64, Failed>;
    /// The value of an option that is a number.
    fn getsockopt(&mut self, fd: i64, name: &str) -> Result<i32, Failed>;
    /// bind(2) to any address and [`SERVER_PORT`].
    fn bind(&mut self, fd: i64) -> Result<i64, Failed>;
    fn listen(&mut self, fd: i64, backlog: i32) -> Result<i64, Failed>;
    fn accept(&mut self, fd: i64) -> Result<i64, Failed>;
    fn shutdown(&mut self, fd: i64, how: &str) -> Result<i64, Failed>;
    fn close(&mut self, fd: i64) -> Result<i64, Failed>;
    /// read(2) without waiting.
    fn read(&mut self, fd: i64, len: usize) -> Result<i64, Failed>;
    /// write(2) without waiting.
    fn write(&mut self, fd: i64, len: usize) -> Result<i64, Failed>;
}

/// The name of an errno's number.
pub fn errno_name(number: i32) -> Failed {
    format!("{:?}", Errno::from_raw(number))
}

/// The number that SO_ERROR gives for `text`: a number, or an errno's name.
fn errno_number(text: &str) -> Result<i32, String> {
    let number = text.parse().ok().or_else(|| (1..256).find(|number| errno_name(*number) == text));
    number.ok_or(format!("{text} is neither a number nor an errno"))
}

/// A script under way.
struct Run<'h, H> {
    host: &'h mut H,
    mode: Mode,
    tolerance: Duration,
    /// When the last event was.
    last: Duration,
    /// Descriptors by the script's numbers.
    fds: HashMap<i64, i64>,
    /// The server's first number, once it was seen.
    isn: Option<u32>,
    /// What the server's timestamps are ahead of the script's.
    clock: Option<u32>,
}

/// Runs `script` on `host`.
///
/// # Errors
/// The line at which the host did something else.
pub fn run<H: Host>(script: &Script, host: &mut H, mode: Mode, tolerance: Duration) -> Result<(), String> {
    let mut run = Run::new(host, mode, tolerance);
    for event in &script.events {
        run.event(event).map_err(|why| format!("line {}: {}\n    {why}", event.line, event.text))?;
    }
    Ok(())
}

/// What `host` says to what happens in `script`, in lines as scripts have them, but without the values of its clock. What it
/// sends within `settle` belongs to the event before.
///
/// # Errors
/// The line that cannot be carried out.
pub fn transcript<H: Host>(
    script: &Script,
    host: &mut H,
    mode: Mode,
    settle: Duration,
) -> Result<Vec<String>, String> {
    let (mut run, mut said) = (Run::new(host, mode, Duration::ZERO), Vec::new());
    for event in &script.events {
        if let When::At(from, _, true) = event.when {
            run.host.wait(run.last + from);
        }
        said.push(event.text.clone());
        match &event.what {
            What::In(packet) => run.send(packet)?,
            What::Call(call) => said.push(match run.make(call)? {
                Ok(result) => format!("    = {result}"),
                Err(errno) => format!("    = -1 {errno}"),
            }),
            What::Sysctls(_) => run.event(event)?,
            What::Out(_) => return Err(format!("{} is not asked here", event.text)),
        }
        run.last = run.host.now();
        while let Some((_, packet)) = run.host.recv(run.last + settle) {
            let tcp = run.tcp_of(&packet)?;
            run.clock = run.clock.or_else(|| Some(tsval(&tcp)?.wrapping_sub(FIRST_TSVAL)));
            said.push(format!("    > {tcp}"));
        }
        run.last = run.host.now();
    }
    Ok(said)
}

impl<'h, H: Host> Run<'h, H> {
    fn new(host: &'h mut H, mode: Mode, tolerance: Duration) -> Self {
        Self { host, mode, tolerance, last: Duration::ZERO, fds: HashMap::new(), isn: None, clock: None }
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        let (from, to) = match event.when {
            When::Any => (Duration::ZERO, Duration::from_secs(3600)),
            When::At(from, to, true) => (self.last + from, self.last + to),
            When::At(from, to, false) => (from, to),
        };
        if let What::Out(expected) = &event.what {
            return self.expect(expected, from, to);
        }
        if event.when != When::Any {
            self.host.wait(from);
        }
        self.last = self.host.now();
        match &event.what {
            What::In(packet) => self.send(packet),
            What::Call(call) => self.call(call),
            What::Sysctls(knobs) => knobs.iter().try_for_each(|(name, value)| self.host.sysctl(name, value)),
            What::Out(_) => Ok(()),
        }
    }

    fn ip(&self, protocol: u8) -> Ip {
        match self.mode {
            Mode::V6 => Ip::new(PEER_V6.into(), SERVER_V6.into(), protocol),
            Mode::V4 | Mode::Mapped => Ip::new(PEER_V4.into(), SERVER_V4.into(), protocol),
        }
    }

    fn send(&mut self, packet: &Packet) -> Result<(), String> {
        let packet = match packet {
            Packet::Tcp(tcp) => {
                let ip = self.ip(frame::TCP);
                frame::packet(&ip, &frame::segment(&ip, &self.segment(tcp)?))
            }
            Packet::Icmp { code, seq } => self.icmp(code, *seq)?,
        };
        self.host.send(&packet);
        Ok(())
    }

    /// The segment that a line means.
    fn segment(&mut self, tcp: &Tcp) -> Result<frame::Tcp, String> {
        let letters = [
            ('F', frame::FIN),
            ('S', frame::SYN),
            ('R', frame::RST),
            ('P', frame::PSH),
            ('.', frame::ACK),
            ('U', frame::URG),
            ('E', frame::ECE),
            ('W', frame::CWR),
        ];
        let set = letters.iter().filter(|(letter, _)| tcp.flags.contains(*letter));
        let flags = set.fold(0, |flags, (_, bit)| flags | bit);
        let ack = match tcp.ack {
            Some(ack) => self.isn.ok_or("the server has not said its first number yet")?.wrapping_add(ack),
            None => 0,
        };
        let clock = self.clock.unwrap_or(0);
        let options = tcp.options.iter().flatten().flat_map(|option| match *option {
            Opt::Nop => frame::option::nop(),
            Opt::End => vec![0],
            Opt::Mss(mss) => frame::option::mss(mss),
            Opt::SackOk => frame::option::sack_permitted(),
            Opt::WindowScale(shift) => frame::option::window_scale(shift),
            Opt::Sack(from, to) => [vec![5, 10], from.to_be_bytes().into(), to.to_be_bytes().into()].concat(),
            Opt::Timestamps(value, 0) => frame::option::timestamps(value, 0),
            Opt::Timestamps(value, echo) => frame::option::timestamps(value, echo.wrapping_add(clock)),
        });
        Ok(frame::Tcp {
            sport: PEER_PORT,
            dport: SERVER_PORT,
            seq: PEER_ISN.wrapping_add(tcp.seq),
            ack,
            flags,
            window: tcp.window.unwrap_or(0),
            options: options.collect(),
            payload: vec![0x61; tcp.len as usize],
            ..frame::Tcp::default()
        })
    }

    /// An ICMP error about a segment of the server's, of which it quotes the header.
    fn icmp(&self, code: &str, seq: u32) -> Result<Vec<u8>, String> {
        let unreachable = match (self.mode, code) {
            (Mode::V6, "net_unreachable") => (1, 0),
            (Mode::V6, "host_unreachable") => (1, 3),
            (Mode::V6, "port_unreachable") => (1, 4),
            (_, "net_unreachable") => (3, 0),
            (_, "host_unreachable") => (3, 1),
            (_, "protocol_unreachable") => (3, 2),
            (_, "port_unreachable") => (3, 3),
            _ => return Err(format!("no ICMP code is known by {code}")),
        };
        let protocol = if self.mode == Mode::V6 { frame::ICMPV6 } else { frame::ICMP };
        let there = self.ip(protocol);
        let quoted = Ip { src: there.dst, dst: there.src, ..self.ip(frame::TCP) };
        let isn = self.isn.ok_or("the server has not said its first number yet")?;
        let segment = frame::Tcp {
            sport: SERVER_PORT,
            dport: PEER_PORT,
            seq: isn.wrapping_add(seq),
            ..frame::Tcp::default()
        };
        let quote = frame::packet(&quoted, &frame::segment(&quoted, &segment));
        let rest = [&[0; 4][..], &quote].concat();
        Ok(frame::packet(&there, &frame::icmp(&there, unreachable.0, unreachable.1, &rest)))
    }

    fn expect(&mut self, expected: &Tcp, from: Duration, to: Duration) -> Result<(), String> {
        let Some((at, packet)) = self.host.recv(to + self.tolerance) else {
            return Err(format!("nothing came from {from:?} to {to:?}"));
        };
        let found = self.tcp_of(&packet)?;
        if at + self.tolerance < from {
            return Err(format!("it came at {at:?}, not from {from:?} to {to:?}: {found:?}"));
        }
        self.last = at;
        let (mut wanted, mut got) = (expected.clone(), found.clone());
        // What the script leaves open.
        if wanted.window.is_none() {
            got.window = None;
        }
        if wanted.options.is_none() && got.options.as_ref().is_some_and(Vec::is_empty) {
            got.options = None;
        }
        self.compare_clocks(&wanted, &mut got, to.saturating_sub(from));
        wanted.flags = sorted(&wanted.flags);
        got.flags = sorted(&got.flags);
        if wanted == got { Ok(()) } else { Err(format!("wanted {wanted:?}\n    found  {got:?} at {at:?}")) }
    }

    /// Takes the server's first timestamp for the script's; later ones may differ by the time that is left open.
    fn compare_clocks(&mut self, wanted: &Tcp, got: &mut Tcp, open: Duration) {
        let (Some(said), Some(is)) = (tsval(wanted), tsval(got)) else { return };
        let clock = *self.clock.get_or_insert(is.wrapping_sub(said));
        let is = is.wrapping_sub(clock);
        let away = is.wrapping_sub(said) as i32;
        let open = (open + self.tolerance).as_millis() as i32;
        let shown = if away.abs() <= open { said } else { is };
        for option in got.options.iter_mut().flatten() {
            if let Opt::Timestamps(value, _) = option {
                *value = shown;
            }
        }
    }

    /// A packet of the server's as a line would say it.
    fn tcp_of(&mut self, packet: &[u8]) -> Result<Tcp, String> {
        let sliced = SlicedPacket::from_ip(packet).map_err(|error| format!("{error}: {packet:02x?}"))?;
        let there = self.ip(frame::TCP);
        let addrs = match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                (IpAddr::from(ip.header().source_addr()), IpAddr::from(ip.header().destination_addr()))
            }
            Some(NetSlice::Ipv6(ip)) => {
                (IpAddr::from(ip.header().source_addr()), IpAddr::from(ip.header().destination_addr()))
            }
            _ => return Err(format!("no IP packet: {packet:02x?}")),
        };
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
            return Err(format!("no segment: {packet:02x?}"));
        };
        let ports = (tcp.source_port(), tcp.destination_port());
        if addrs != (there.dst, there.src) || ports != (SERVER_PORT, PEER_PORT) {
            return Err(format!("from {addrs:?} {ports:?}, another flow"));
        }
        if tcp.syn() {
            self.isn = Some(tcp.sequence_number());
        }
        // A RST for a segment without ACK has no number of its own.
        let bare = tcp.rst() && tcp.ack() && tcp.sequence_number() == 0;
        let isn = self.isn.filter(|_| !bare).unwrap_or(tcp.sequence_number());
        let ack = tcp.ack().then(|| tcp.acknowledgment_number().wrapping_sub(PEER_ISN));
        Ok(Tcp {
            flags: letters(tcp),
            seq: tcp.sequence_number().wrapping_sub(isn),
            len: tcp.payload().len() as u32,
            ack,
            window: Some(tcp.window_size()),
            options: Some(options(tcp)?),
        })
    }

    fn call(&mut self, call: &Call) -> Result<(), String> {
        let said = self.make(call)?;
        if call.name == "getsockopt" && said.is_ok() {
            let wanted = call.args.get(3).ok_or("argument 3 is missing")?.trim_matches(['[', ']']);
            let wanted = i64::from(errno_number(wanted)?);
            return said.map_or(Ok(()), |found| {
                if found == wanted { Ok(()) } else { Err(format!("wanted {wanted}, found {found}")) }
            });
        }
        let found = match &said {
            Ok(result) => (*result, None),
            Err(errno) => (-1, Some(errno.clone())),
        };
        if found == (call.result, call.errno.clone()) {
            Ok(())
        } else {
            Err(format!("wanted {} {:?}, found {} {:?}", call.result, call.errno, found.0, found.1))
        }
    }

    /// Makes a call: what the host says, or why the script is wrong. A descriptor's number is the script's.
    fn make(&mut self, call: &Call) -> Result<Result<i64, Failed>, String> {
        let said = self.ask(call)?;
        let new = call.result >= 0 && matches!(call.name.as_str(), "socket" | "accept");
        Ok(said.map(|result| {
            if new {
                self.fds.insert(call.result, result);
                call.result
            } else {
                result
            }
        }))
    }

    fn ask(&mut self, call: &Call) -> Result<Result<i64, Failed>, String> {
        let arg =
            |at: usize| call.args.get(at).map(String::as_str).ok_or(format!("argument {at} is missing"));
        let number = |text: &str| text.parse::<i64>().map_err(|_| format!("{text} is no number"));
        let fd = |at: usize| {
            let known = number(arg(at)?)?;
            self.fds.get(&known).copied().ok_or(format!("no descriptor {known} was given"))
        };
        Ok(match call.name.as_str() {
            "socket" => self.host.socket(),
            "bind" => self.host.bind(fd(0)?),
            "listen" => self.host.listen(fd(0)?, number(arg(1)?)? as i32),
            "accept" => self.host.accept(fd(0)?),
            "close" => self.host.close(fd(0)?),
            "shutdown" => self.host.shutdown(fd(0)?, arg(1)?),
            "read" | "recv" => self.host.read(fd(0)?, number(arg(2)?)? as usize),
            "write" | "send" => self.host.write(fd(0)?, number(arg(2)?)? as usize),
            "setsockopt" => {
                let value = arg(3)?.trim_matches(['[', ']', '{', '}']);
                let value = value.split([',', '=']).filter_map(|word| word.trim().parse().ok());
                self.host.setsockopt(fd(0)?, arg(2)?, &value.collect::<Vec<_>>())
            }
            "getsockopt" => self.host.getsockopt(fd(0)?, arg(2)?).map(i64::from),
            name => return Err(format!("no call is known by {name}")),
        })
    }
}

/// What a segment says of its sender's clock.
fn tsval(tcp: &Tcp) -> Option<u32> {
    tcp.options.iter().flatten().find_map(|option| match option {
        Opt::Timestamps(value, _) => Some(*value),
        _ => None,
    })
}

fn sorted(flags: &str) -> String {
    let mut letters: Vec<_> = flags.chars().filter(|letter| *letter != '-').collect();
    letters.sort_unstable();
    letters.into_iter().collect()
}

fn letters(tcp: &TcpSlice<'_>) -> String {
    let bits = [
        ('F', tcp.fin()),
        ('S', tcp.syn()),
        ('R', tcp.rst()),
        ('P', tcp.psh()),
        ('.', tcp.ack()),
        ('U', tcp.urg()),
        ('E', tcp.ece()),
        ('W', tcp.cwr()),
    ];
    bits.iter().filter(|(_, set)| *set).map(|(letter, _)| *letter).collect()
}

fn options(tcp: &TcpSlice<'_>) -> Result<Vec<Opt>, String> {
    let read = |option: TcpOptionElement| match option {
        TcpOptionElement::Noop => Ok(Opt::Nop),
        TcpOptionElement::MaximumSegmentSize(mss) => Ok(Opt::Mss(mss)),
        TcpOptionElement::WindowScale(shift) => Ok(Opt::WindowScale(shift)),
        TcpOptionElement::SelectiveAcknowledgementPermitted => Ok(Opt::SackOk),
        TcpOptionElement::Timestamp(value, echo) => Ok(Opt::Timestamps(value, echo)),
        TcpOptionElement::SelectiveAcknowledgement((from, to), _) => {
            Ok(Opt::Sack(from.wrapping_sub(PEER_ISN), to.wrapping_sub(PEER_ISN)))
        }
    };
    tcp.options_iterator().map(|option| option.map_err(|error| error.to_string()).and_then(read)).collect()
}
