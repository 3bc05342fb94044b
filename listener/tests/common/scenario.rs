//! Recorded scenarios: what a kernel did, step by step, tried on a [`World`].
//!
//! The format: a file holds `meta.ports` (fixed port numbers by name) and `scenarios`; a scenario has `name`, `net`
//! ("lo" or "full"), `sysctl` and `ops`; an op has `op`, arguments, and in `out` what the kernel answered. Every field
//! of `out` is compared.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use listener::config::Device;
use listener::error::ListenError;
use listener::sockaddr::{AddrFamily, Caller, Family, How, SockAddr};
use listener::sockopt::{SockOpt, SockOptName};
use listener::sysctl::Sysctl;
use listener::types::{DevIndex, InetAddr, Nanos, SockFd, TcpPort, TcpState};
use serde_json::{Map, Value, json};

use super::world::{ClientId, World, ip, loopback};

/// Workers that the flows are spread over.
const CORES: u16 = 2;
/// Counters that only the clients' half of a host moves.
const CLIENT_COUNTERS: [&str; 2] = ["ActiveOpens", "AttemptFails"];

type Object = Map<String, Value>;

/// What came of a file.
#[derive(Debug, Default)]
pub struct Report {
    pub scenarios: usize,
    /// `scenario, step, expected, got` of each difference.
    pub mismatches: Vec<String>,
    /// Steps that have no counterpart here, by the reason.
    pub skipped: BTreeMap<&'static str, usize>,
}

/// Replays all scenarios of a file's text.
///
/// # Errors
/// What is wrong with the text.
pub fn replay_text(text: &str, report: &mut Report) -> Result<(), String> {
    let file: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let meta = file.pointer("/meta/ports").and_then(Value::as_object).ok_or("no meta.ports")?;
    let mut ports = HashMap::new();
    for (name, number) in meta {
        let number = number.as_u64().and_then(|number| u16::try_from(number).ok());
        ports.insert(name.clone(), number.ok_or_else(|| format!("meta.ports.{name} is no port"))?);
    }
    for scenario in file["scenarios"].as_array().ok_or("no scenarios")? {
        Replay::new(&ports, scenario)?.run(scenario, report)?;
        report.scenarios += 1;
    }
    Ok(())
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
enum Name {
    Sock(SockFd),
    /// An accepted connection and, if known, the client at its other end.
    Child(SockFd, Option<ClientId>),
    Client(ClientId),
    /// A socket of the server's that the recorder connected somewhere: a client that still holds its port here.
    Connected(ClientId, SockFd),
}

/// What a step came to: an answer to compare, or the reason why there is none.
type Answer = Result<Value, &'static str>;

struct Replay<'a> {
    world: World,
    ports: &'a HashMap<String, u16>,
    ephemeral: Vec<u16>,
    names: HashMap<String, Name>,
    /// Clients that the recorder could name as the peer of a child: connected in time, and not reset since.
    known: HashMap<ClientId, String>,
    /// Octets that recv has returned, by client.
    read: HashMap<ClientId, usize>,
}

impl<'a> Replay<'a> {
    fn new(ports: &'a HashMap<String, u16>, scenario: &Value) -> Result<Self, String> {
        let mut sysctl = Sysctl::default();
        if let Some(knobs) = scenario.get("sysctl").and_then(Value::as_object) {
            for (name, value) in knobs {
                set_sysctl(&mut sysctl, name, value).ok_or_else(|| format!("sysctl {name} = {value}"))?;
            }
        }
        let mut devices = vec![loopback()];
        if scenario["net"] == "full" {
            devices.extend([
                device("d0", 2, "10.77.0.1", "fd77:0::1"),
                device("d1", 3, "10.77.1.1", "fd77:1::1"),
            ]);
        }
        let seed = scenario["name"]
            .as_str()
            .unwrap_or_default()
            .bytes()
            .fold(7, |seed, byte| u64::wrapping_add(u64::wrapping_mul(seed, 31), byte.into()));
        Ok(Self {
            world: World::new(sysctl, devices, CORES, seed),
            ports,
            ephemeral: Vec::new(),
            names: HashMap::new(),
            known: HashMap::new(),
            read: HashMap::new(),
        })
    }

    fn run(mut self, scenario: &Value, report: &mut Report) -> Result<(), String> {
        let name = scenario["name"].as_str().ok_or("a scenario without name")?;
        for (step, op) in scenario["ops"].as_array().ok_or("a scenario without ops")?.iter().enumerate() {
            let op = op.as_object().ok_or("an op that is no object")?;
            let expected = op.get("out").ok_or("an op without out")?;
            let answer = self.step(op).map_err(|error| format!("{name}, step {step}: {error}"))?;
            self.world.settle();
            self.world.stack.assert_invariants();
            match answer {
                Err(reason) => *report.skipped.entry(reason).or_default() += 1,
                Ok(got) => {
                    let (expected, got) = comparable(expected, got);
                    if expected != got {
                        let op: Object = op
                            .iter()
                            .filter(|(key, _)| *key != "out")
                            .map(|(k, v)| (k.clone(), v.clone()))
                            .collect();
                        let op = Value::Object(op);
                        report
                            .mismatches
                            .push(format!("{name}, step {step} {op}: expected {expected}, got {got}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, op: &Object) -> Result<Answer, String> {
        let kind = text(op, "op")?;
        let s = op.get("s").and_then(Value::as_str).unwrap_or_default();
        let name = self.names.get(s).copied();
        let free_standing = matches!(kind, "socket" | "connect" | "probe" | "sleep" | "counters");
        if name.is_none() && !free_standing {
            return Ok(Ok(ret("SKIP")));
        }
        Ok(match (kind, name) {
            ("socket", _) => self.socket(s, op)?,
            ("connect", Some(Name::Sock(fd))) => self.connect_server_side(s, fd, op)?,
            ("connect", Some(Name::Client(_) | Name::Connected(..) | Name::Child(..))) => {
                Err("connect() again on one socket")
            }
            ("connect", None) => self.connect(s, op)?,
            ("probe", _) => Ok(self.probe(op)?),
            ("sleep", _) => {
                self.world.advance(Nanos::from_millis(number(op, "ms")? as u64));
                Ok(ret("OK"))
            }
            ("counters", _) => Ok(self.counters(op)),
            ("close", Some(Name::Connected(id, fd))) => {
                self.names.remove(s);
                self.world.fin(id);
                Ok(result(self.world.stack.close(fd, false)))
            }
            (_, Some(Name::Connected(..))) => Err("a server-side socket after connect()"),
            (kind, Some(Name::Client(id))) => self.on_client(kind, s, id, op)?,
            (kind, Some(Name::Sock(fd) | Name::Child(fd, _))) => self.on_server(kind, s, fd, op)?,
            (kind, None) => return Err(format!("op {kind:?} without a socket")),
        })
    }

    fn socket(&mut self, s: &str, op: &Object) -> Result<Answer, String> {
        let family = if text(op, "family")? == "inet6" { Family::Inet6 } else { Family::Inet };
        let uid = op.get("uid").and_then(Value::as_u64).unwrap_or(0);
        let made = self.world.stack.socket(family, uid as u32);
        Ok(Ok(result(made.map(|fd| {
            self.names.insert(s.to_owned(), Name::Sock(fd));
        }))))
    }

    // ---- ops on sockets of the stack

    fn on_server(&mut self, kind: &str, s: &str, fd: SockFd, op: &Object) -> Result<Answer, String> {
        let stack = &self.world.stack;
        Ok(match kind {
            "setsockopt" => Ok(result(stack.setsockopt(fd, option(op)?))),
            "getsockopt" => Ok(self.getsockopt(fd, op)?),
            "bind" => {
                let caller = match op.get("uid").and_then(Value::as_u64) {
                    None | Some(0) => Caller::ROOT,
                    Some(uid) => Caller::user(uid as u32),
                };
                let addr = self.sockaddr(op)?;
                Ok(result(self.world.stack.bind(fd, addr, caller)))
            }
            "listen" => Ok(result(stack.listen(fd, number(op, "backlog")? as i32))),
            "accept" => Ok(self.accept(fd, op)?),
            "close" => {
                let orderly = op.get("linger").is_some_and(Value::is_null);
                let child = matches!(self.names.get(s), Some(Name::Child(..)));
                self.names.remove(s);
                Ok(result(stack.close(fd, child && !orderly)))
            }
            "shutdown" => Ok(result(stack.shutdown(fd, how(op)?))),
            "getsockname" => Ok(self.getsockname(fd)),
            "queue" | "state" => Ok(self.tcp_info(fd, kind == "queue")),
            "poll" => self.poll(fd),
            "send" => match stack.tcp_info(fd) {
                Err(error) => Ok(result(Err(error))),
                Ok(info) if !sends(info.state) => Ok(ret("EPIPE")),
                Ok(_) => Err("send() on an accepted connection: hearken sends no data"),
            },
            "recv" => Ok(self.recv(s, fd, op)),
            kind => return Err(format!("unknown op {kind:?}")),
        })
    }

    fn getsockopt(&self, fd: SockFd, op: &Object) -> Result<Value, String> {
        let name = match text(op, "opt")? {
            "REUSEADDR" => SockOptName::ReuseAddr,
            "REUSEPORT" => SockOptName::ReusePort,
            "V6ONLY" => SockOptName::V6Only,
            "DEFER_ACCEPT" => SockOptName::DeferAccept,
            "FREEBIND" => SockOptName::Freebind,
            "BIND_ADDRESS_NO_PORT" => SockOptName::BindAddressNoPort,
            "ACCEPTCONN" => SockOptName::AcceptConn,
            "SOERROR" => SockOptName::Error,
            "BINDTODEVICE" => SockOptName::BindToIfIndex,
            opt => return Err(format!("unknown option {opt:?}")),
        };
        Ok(match self.world.stack.getsockopt(fd, name) {
            Ok(index) if name == SockOptName::BindToIfIndex => {
                let device = ["", "lo", "d0", "d1"].get(index as usize).copied().unwrap_or("?");
                json!({"ret": "OK", "val": device})
            }
            Ok(val) => json!({"ret": "OK", "val": val}),
            Err(error) => result(Err(error)),
        })
    }

    fn accept(&mut self, fd: SockFd, op: &Object) -> Result<Value, String> {
        let accepted = match self.world.stack.accept(fd) {
            Ok(accepted) => accepted,
            Err(error) => return Ok(result(Err(error))),
        };
        let client = self.client_at(SocketAddr::new(accepted.peer.addr.into(), accepted.peer.port.0));
        let peer = client.and_then(|client| self.known.get(&client).cloned());
        self.names.insert(text(op, "as")?.to_owned(), Name::Child(accepted.fd, client));
        Ok(json!({"ret": "OK", "peer": peer}))
    }

    fn client_at(&self, addr: SocketAddr) -> Option<ClientId> {
        let at = |client: &super::client::Client| {
            SocketAddr::new(client.flow.saddr.into(), client.flow.sport.0) == addr
        };
        self.world.clients.iter().rposition(at).map(ClientId)
    }

    fn getsockname(&mut self, fd: SockFd) -> Value {
        let end = match self.world.stack.getsockname(fd) {
            Ok(end) => SocketAddr::from(end),
            Err(error) => return result(Err(error)),
        };
        let port = end.port();
        let mut out = json!({"ret": "OK", "addr": end.ip().to_string()});
        if port == 0 {
            out["port"] = json!(0);
        } else if let Some((name, _)) = self.ports.iter().find(|(_, fixed)| **fixed == port) {
            out["port"] = json!(name);
        } else {
            if !self.ephemeral.contains(&port) {
                self.ephemeral.push(port);
            }
            let place = self.ephemeral.iter().position(|&known| known == port).unwrap_or_default();
            out["port"] = json!(format!("E{}", place + 1));
            out["parity"] = json!(if port % 2 == 0 { "even" } else { "odd" });
            out["in_range"] = json!((32_768..=60_999).contains(&port));
        }
        out
    }

    fn tcp_info(&self, fd: SockFd, queues: bool) -> Value {
        match self.world.stack.tcp_info(fd) {
            Ok(info) if queues && info.state == TcpState::Listen => json!({
                "ret": "OK", "state": state_name(info.state), "recvq": info.tcpi_unacked, "sendq": info.tcpi_sacked
            }),
            Ok(info) => json!({"ret": "OK", "state": state_name(info.state)}),
            Err(error) => result(Err(error)),
        }
    }

    fn poll(&self, fd: SockFd) -> Answer {
        match self.world.stack.tcp_info(fd) {
            Ok(info) if info.state == TcpState::Listen => {
                let events: &[&str] = if info.tcpi_unacked > 0 { &["IN"] } else { &[] };
                Ok(json!({"ret": "OK", "events": events}))
            }
            Ok(_) => Err("poll() of a socket that does not listen"),
            Err(error) => Ok(result(Err(error))),
        }
    }

    /// What recv(2) would say: data is what the core acknowledged of what the client sent.
    fn recv(&mut self, s: &str, fd: SockFd, op: &Object) -> Value {
        if let Err(error) = self.world.stack.discard(fd) {
            return result(Err(error));
        }
        let client = match self.names.get(s) {
            Some(Name::Child(_, client)) => *client,
            _ => None,
        };
        self.world.settle();
        let wait = op.get("timeout_ms").and_then(Value::as_u64).unwrap_or(100);
        for wait in [0, wait] {
            self.world.advance(Nanos::from_millis(wait));
            if let Some(client) = client {
                let (sent, acked) = (&self.world.client(client).sent, self.world.client(client).acked);
                let read = self.read.entry(client).or_default();
                if *read < acked {
                    let data = String::from_utf8_lossy(&sent[*read..acked]).into_owned();
                    *read = acked;
                    return json!({"ret": "OK", "data": data});
                }
            }
            if self.world.stack.getsockopt(fd, SockOptName::Error).is_ok_and(|error| error != 0) {
                return ret("ECONNRESET");
            }
            match self.world.stack.tcp_info(fd).map(|info| info.state) {
                Ok(TcpState::Established | TcpState::FinWait1 | TcpState::FinWait2) => {}
                Ok(_) => return json!({"ret": "OK", "data": ""}),
                Err(error) => return result(Err(error)),
            }
        }
        ret("EAGAIN")
    }

    // ---- clients

    fn connect(&mut self, s: &str, op: &Object) -> Result<Answer, String> {
        let id = self.start(op)?;
        self.names.insert(s.to_owned(), Name::Client(id));
        let outcome = self.wait_connected(id, timeout(op));
        if outcome == "OK" {
            self.known.insert(id, s.to_owned());
        }
        Ok(Ok(ret(outcome)))
    }

    /// The recorder connected a socket of the server's: it becomes a client. What it answers is a client's to say.
    fn connect_server_side(&mut self, s: &str, fd: SockFd, op: &Object) -> Result<Answer, String> {
        let state = self.world.stack.tcp_info(fd).map(|info| info.state);
        if state != Ok(TcpState::Listen) {
            let id = self.start(op)?;
            self.wait_connected(id, timeout(op));
            self.names.insert(s.to_owned(), Name::Connected(id, fd));
        }
        Ok(Err("connect() on a server-side socket"))
    }

    fn start(&mut self, op: &Object) -> Result<ClientId, String> {
        let to = address(text(op, "addr")?)?;
        let to = match to {
            to if to == InetAddr::ANY_V4 => ip("127.0.0.1"),
            to if to == InetAddr::ANY_V6 => ip("::1"),
            to => to,
        };
        let outside = op.get("via").is_some_and(|via| via != &json!(0) && !via.is_null());
        let (dev, peer) = arrival(to, outside);
        let from = match op.get("from").and_then(Value::as_str) {
            Some(from) => address(from)?,
            None => peer,
        };
        let port = self.port(op)?;
        Ok(self.world.connect(from, to, port, dev))
    }

    /// Waits as a blocking connect would, at most `limit`.
    fn wait_connected(&mut self, id: ClientId, limit: Nanos) -> &'static str {
        if self.world.client(id).state == TcpState::SynSent {
            self.world.advance(limit);
        }
        let client = self.world.client(id);
        match (client.state, client.error) {
            (TcpState::SynSent, _) => "TIMEOUT",
            (_, Some("ECONNREFUSED")) => "ECONNREFUSED",
            _ => "OK",
        }
    }

    fn probe(&mut self, op: &Object) -> Result<Value, String> {
        let times = op.get("n").and_then(Value::as_u64).unwrap_or(1);
        let (mut rets, mut to) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..times {
            let id = self.start(op)?;
            let outcome = self.wait_connected(id, timeout(op));
            rets.insert(outcome);
            if outcome == "OK" {
                to.insert(self.find_child(id));
            }
            self.world.abort(id);
        }
        let rets: Vec<_> = rets.into_iter().collect();
        Ok(json!({"ret": rets.join("|"), "to": to}))
    }

    /// Polls all listeners until the child of `client` is found; it and all others met on the way are reset.
    fn find_child(&mut self, client: ClientId) -> String {
        let mut listeners: Vec<(String, SockFd)> = self
            .names
            .iter()
            .filter_map(|(name, what)| match what {
                Name::Sock(fd) => Some((name.clone(), *fd)),
                _ => None,
            })
            .collect();
        listeners.sort();
        for (name, fd) in listeners {
            while let Ok(accepted) = self.world.stack.accept(fd) {
                let peer = SocketAddr::new(accepted.peer.addr.into(), accepted.peer.port.0);
                let found = self.client_at(peer) == Some(client);
                let closed = self.world.stack.close(accepted.fd, true);
                assert_eq!(closed, Ok(()), "it was just accepted");
                self.world.settle();
                if found {
                    return name;
                }
            }
        }
        "-".to_owned()
    }

    fn on_client(&mut self, kind: &str, s: &str, id: ClientId, op: &Object) -> Result<Answer, String> {
        Ok(match kind {
            "close" => {
                let orderly = op.get("linger").is_some_and(Value::is_null);
                if orderly {
                    self.world.fin(id);
                } else {
                    self.world.abort(id);
                    self.known.remove(&id);
                }
                self.names.remove(s);
                Ok(ret("OK"))
            }
            "shutdown" => {
                if how(op)? != How::Rd {
                    self.world.fin(id);
                }
                Ok(ret("OK"))
            }
            "send" => {
                let data = text(op, "data")?.as_bytes().to_vec();
                self.world.send(id, &data);
                Ok(ret("OK"))
            }
            "state" | "queue" => {
                let state = match self.world.client(id).state {
                    TcpState::TimeWait => TcpState::Close,
                    state => state,
                };
                Ok(json!({"ret": "OK", "state": state_name(state)}))
            }
            "recv" => Ok(self.client_recv(id, op)),
            "getsockopt" if text(op, "opt")? == "SOERROR" => {
                let number = match self.world.clients[id.0].error.take() {
                    Some("ECONNREFUSED") => 111,
                    Some("ECONNRESET") => 104,
                    _ => 0,
                };
                Ok(json!({"ret": "OK", "val": number}))
            }
            "getsockname" => Err("getsockname() of a client"),
            "poll" => Err("poll() of a client"),
            _ => Err("an option, bind or listen on a client"),
        })
    }

    fn client_recv(&mut self, id: ClientId, op: &Object) -> Value {
        let wait = op.get("timeout_ms").and_then(Value::as_u64).unwrap_or(100);
        for wait in [0, wait] {
            self.world.advance(Nanos::from_millis(wait));
            if let Some(error) = self.world.clients[id.0].error.take() {
                return ret(error);
            }
            let client = self.world.client(id);
            if client.eof || client.state == TcpState::Close {
                return json!({"ret": "OK", "data": ""});
            }
        }
        ret("EAGAIN")
    }

    fn counters(&self, op: &Object) -> Value {
        let totals: HashMap<_, _> = self.world.stack.snmp().into_iter().collect();
        let mut values = Map::new();
        for name in op.get("names").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        {
            let clients = match name {
                "OutRsts" => self.world.client_rsts,
                "EstabResets" => self.world.client_resets,
                "CurrEstab" => self.world.clients.iter().filter(|client| sends(client.state)).count() as u64,
                _ => 0,
            };
            let value = totals.get(name).map(|total| json!(total + clients));
            values.insert(name.to_owned(), value.unwrap_or(Value::Null));
        }
        json!({"ret": "OK", "values": values})
    }

    // ---- arguments

    fn port(&self, op: &Object) -> Result<TcpPort, String> {
        let port = op.get("port").ok_or("no port")?;
        if let Some(number) = port.as_u64() {
            return u16::try_from(number).map(TcpPort).map_err(|error| error.to_string());
        }
        let name = port.as_str().ok_or("a port that is neither number nor name")?;
        let ephemeral = || {
            let place: usize = name.strip_prefix('E')?.parse().ok()?;
            self.ephemeral.get(place.checked_sub(1)?)
        };
        self.ports.get(name).or_else(ephemeral).copied().map(TcpPort).ok_or_else(|| format!("port {name:?}"))
    }

    fn sockaddr(&self, op: &Object) -> Result<SockAddr, String> {
        let ip: IpAddr = text(op, "addr")?.parse().map_err(|_| "no address")?;
        let mut addr = SockAddr::from(SocketAddr::new(ip, self.port(op)?.0));
        match op.get("af").and_then(Value::as_str) {
            None => {}
            Some("inet") => addr = addr.with_family(AddrFamily::Inet),
            Some("inet6") => addr = addr.with_family(AddrFamily::Inet6),
            Some("unspec") => addr = addr.with_family(AddrFamily::Unspec),
            Some(af) => return Err(format!("af {af:?}")),
        }
        let len = op.get("addrlen").and_then(Value::as_u64);
        Ok(len.map_or(addr, |len| addr.truncated(len as u8)))
    }
}

fn text<'o>(op: &'o Object, key: &str) -> Result<&'o str, String> {
    op.get(key).and_then(Value::as_str).ok_or_else(|| format!("{key} is missing or no text"))
}

fn number(op: &Object, key: &str) -> Result<i64, String> {
    op.get(key).and_then(Value::as_i64).ok_or_else(|| format!("{key} is missing or no number"))
}

fn timeout(op: &Object) -> Nanos {
    Nanos::from_millis(op.get("timeout_ms").and_then(Value::as_u64).unwrap_or(1000))
}

fn address(text: &str) -> Result<InetAddr, String> {
    text.parse::<IpAddr>().map(InetAddr::from).map_err(|_| format!("address {text:?}"))
}

fn how(op: &Object) -> Result<How, String> {
    match text(op, "how")? {
        "RD" => Ok(How::Rd),
        "WR" => Ok(How::Wr),
        "RDWR" => Ok(How::RdWr),
        how => Err(format!("how {how:?}")),
    }
}

fn option(op: &Object) -> Result<SockOpt<'_>, String> {
    let opt = text(op, "opt")?;
    if opt == "BINDTODEVICE" {
        return Ok(SockOpt::BindToDevice(text(op, "val")?));
    }
    let val = number(op, "val")?;
    Ok(match opt {
        "REUSEADDR" => SockOpt::ReuseAddr(val != 0),
        "REUSEPORT" => SockOpt::ReusePort(val != 0),
        "V6ONLY" => SockOpt::V6Only(val != 0),
        "DEFER_ACCEPT" => SockOpt::DeferAccept(val as i32),
        "FREEBIND" => SockOpt::Freebind(val != 0),
        "BIND_ADDRESS_NO_PORT" => SockOpt::BindAddressNoPort(val != 0),
        opt => return Err(format!("unknown option {opt:?}")),
    })
}

fn ret(name: &str) -> Value {
    json!({ "ret": name })
}

fn result(result: Result<(), ListenError>) -> Value {
    ret(result.map_or_else(|error| error.errno().name(), |()| "OK"))
}

fn sends(state: TcpState) -> bool {
    matches!(state, TcpState::Established | TcpState::CloseWait)
}

/// The kernel's name of a state, without `TCP_`.
fn state_name(state: TcpState) -> &'static str {
    match state {
        TcpState::Established => "ESTABLISHED",
        TcpState::SynSent => "SYN_SENT",
        TcpState::SynRecv => "SYN_RECV",
        TcpState::FinWait1 => "FIN_WAIT1",
        TcpState::FinWait2 => "FIN_WAIT2",
        TcpState::TimeWait => "TIME_WAIT",
        TcpState::Close => "CLOSE",
        TcpState::CloseWait => "CLOSE_WAIT",
        TcpState::LastAck => "LAST_ACK",
        TcpState::Listen => "LISTEN",
        TcpState::Closing => "CLOSING",
    }
}

/// Where a segment to `to` comes in, and the address its sender has if it chose none. Inside one host an IPv4 segment
/// to a device's own address keeps that device as its incoming one, though it crosses the loopback; an IPv6 one does not.
fn arrival(to: InetAddr, outside: bool) -> (DevIndex, InetAddr) {
    let veths = [(2, "10.77.0.0", 24, "10.77.0.2"), (3, "10.77.1.0", 24, "10.77.1.2")];
    let veths6 = [(2, "fd77:0::", 64, "fd77:0::2"), (3, "fd77:1::", 64, "fd77:1::2")];
    let veth = veths.iter().chain(&veths6).find(|(_, net, len, _)| to.same_prefix(ip(net), *len));
    match veth {
        Some(&(index, _, _, peer)) if outside => (DevIndex(index), ip(peer)),
        Some(&(index, ..)) if to.is_v4() => (DevIndex(index), to),
        None if to.same_prefix(ip("127.0.0.0"), 8) => (DevIndex(1), ip("127.0.0.1")),
        _ => (DevIndex(1), to),
    }
}

fn device(name: &str, index: u16, v4: &str, v6: &str) -> Device {
    Device {
        name: name.to_owned(),
        index: DevIndex(index),
        addresses: vec![(ip(v4), 24), (ip(v6), 64)],
        any_ip: Vec::new(),
        mtu: 1500,
    }
}

fn set_sysctl(sysctl: &mut Sysctl, name: &str, value: &Value) -> Option<()> {
    let number = || value.as_u64();
    let flag = || value.as_u64().map(|value| value != 0);
    let range = |text: &str, separator| {
        let (low, high) = text.split_once(separator).unwrap_or((text, text));
        Some((TcpPort(low.trim().parse().ok()?), TcpPort(high.trim().parse().ok()?)))
    };
    match name {
        "net.core.somaxconn" => sysctl.somaxconn = number()? as u32,
        "net.ipv4.tcp_max_syn_backlog" => sysctl.tcp_max_syn_backlog = number()? as u32,
        "net.ipv4.tcp_syncookies" => sysctl.tcp_syncookies = number()? as u8,
        "net.ipv4.tcp_synack_retries" => sysctl.tcp_synack_retries = number()? as u8,
        "net.ipv4.tcp_abort_on_overflow" => sysctl.tcp_abort_on_overflow = flag()?,
        "net.ipv4.tcp_migrate_req" => sysctl.tcp_migrate_req = flag()?,
        "net.ipv4.tcp_timestamps" => sysctl.tcp_timestamps = number()? as u8,
        "net.ipv4.tcp_sack" => sysctl.tcp_sack = flag()?,
        "net.ipv4.tcp_window_scaling" => sysctl.tcp_window_scaling = flag()?,
        "net.ipv4.tcp_ecn" => sysctl.tcp_ecn = number()? as u8,
        "net.ipv4.tcp_fin_timeout" => sysctl.tcp_fin_timeout = number()? as u32,
        "net.ipv4.ip_autobind_reuse" => sysctl.ip_autobind_reuse = flag()?,
        "net.ipv4.ip_nonlocal_bind" => sysctl.ip_nonlocal_bind = flag()?,
        "net.ipv6.ip_nonlocal_bind" => sysctl.ipv6_ip_nonlocal_bind = flag()?,
        "net.ipv6.bindv6only" => sysctl.bindv6only = flag()?,
        "net.ipv4.ip_unprivileged_port_start" => sysctl.ip_unprivileged_port_start = number()? as u16,
        "net.ipv4.ip_local_port_range" => sysctl.ip_local_port_range = range(value.as_str()?, ' ')?,
        "net.ipv4.ip_local_reserved_ports" => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let parts = text.split(',').map(|part| range(part, '-'));
            sysctl.ip_local_reserved_ports = parts.collect::<Option<_>>()?;
        }
        _ => return None,
    }
    Some(())
}

/// Both sides without what only a kernel with clients of its own can say, and sets in one form.
fn comparable(expected: &Value, mut got: Value) -> (Value, Value) {
    let mut expected = expected.clone();
    for side in [&mut expected, &mut got] {
        if let Some(values) = side.get_mut("values").and_then(Value::as_object_mut) {
            CLIENT_COUNTERS.iter().for_each(|name| drop(values.remove(*name)));
        }
        if let Some(events) = side.get_mut("events")
            && let Some(text) = events.as_str()
        {
            let events_of = text.split('|').filter(|event| !event.is_empty());
            *events = json!(events_of.collect::<BTreeSet<_>>());
        }
    }
    (expected, got)
}
