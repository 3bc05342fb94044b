//! A host under test with its cores, and the clients that talk to it, on one virtual clock.

use listener::Stack;
use listener::config::{Device, Secret, StackConfig};
use listener::core::{Core, Found};
use listener::limits::Limits;
use listener::segment::{FlowKey, OutSegment, Segment, Verdict, flag};
use listener::sysctl::Sysctl;
use listener::types::{DevIndex, InetAddr, Nanos, TcpPort, TcpState};

use super::client::Client;

/// Clients get even ports of the ephemeral range, as connect(2) prefers them.
const FIRST_CLIENT_PORT: u16 = 32_768;

/// A client by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub usize);

pub struct World {
    pub stack: Stack,
    pub cores: Vec<Core>,
    pub now: Nanos,
    pub clients: Vec<Client>,
    /// What the clients' own host would have counted; it shares its counters with ours on a loopback.
    pub client_rsts: u64,
    pub client_resets: u64,
    next_port: u16,
}

/// A loopback as every host has one.
pub fn loopback() -> Device {
    Device {
        name: "lo".to_owned(),
        index: DevIndex(1),
        addresses: vec![(ip("127.0.0.1"), 8), (ip("::1"), 128)],
        any_ip: vec![(ip("127.0.0.0"), 8)],
        mtu: 65_535,
    }
}

/// An address from text that a program wrote.
pub fn ip(text: &str) -> InetAddr {
    text.parse::<std::net::IpAddr>().unwrap_or_else(|_| panic!("{text:?} is no address")).into()
}

impl World {
    pub fn new(sysctl: Sysctl, devices: Vec<Device>, cores: u16, seed: u64) -> Self {
        let secret = Secret::from_seed(seed);
        let config = StackConfig { sysctl, devices, cores, limits: Limits::TINY, secret };
        let (stack, cores) = Stack::new(config).expect("a good configuration");
        Self {
            stack,
            cores,
            now: Nanos::from_secs(1000),
            clients: Vec::new(),
            client_rsts: 0,
            client_resets: 0,
            next_port: FIRST_CLIENT_PORT,
        }
    }

    /// Starts a connection and lets the wire come to rest.
    pub fn connect(&mut self, from: InetAddr, to: InetAddr, port: TcpPort, dev: DevIndex) -> ClientId {
        let flow = FlowKey { saddr: from, daddr: to, sport: TcpPort(self.next_port), dport: port };
        self.next_port += 2;
        self.add(Client::new(flow, dev, 1000 + u32::from(flow.sport.0) * 7919))
    }

    /// Lets a new client send its SYN.
    pub fn add(&mut self, mut client: Client) -> ClientId {
        let syn = client.syn(self.now);
        self.clients.push(client);
        let id = ClientId(self.clients.len() - 1);
        self.deliver(id, Some(syn));
        id
    }

    pub fn client(&self, id: ClientId) -> &Client {
        &self.clients[id.0]
    }

    pub fn send(&mut self, id: ClientId, data: &[u8]) {
        let segment = self.clients[id.0].send(data, self.now);
        self.deliver(id, Some(segment));
    }

    pub fn fin(&mut self, id: ClientId) {
        let segment = self.clients[id.0].send_fin(self.now);
        self.deliver(id, segment);
    }

    pub fn abort(&mut self, id: ClientId) {
        let before = self.clients[id.0].state;
        let segment = self.clients[id.0].abort();
        if matches!(before, TcpState::Established | TcpState::CloseWait) {
            self.client_resets += 1;
        }
        self.deliver(id, segment);
    }

    /// Hands segments back and forth until nobody has anything to say.
    fn deliver(&mut self, id: ClientId, segment: Option<Segment>) {
        let mut next = segment;
        while let Some(segment) = next {
            if segment.has(flag::RST) {
                self.client_rsts += 1;
            }
            next = match self.rcv(&segment) {
                Verdict::Reply(_, reply) => self.input(id, &reply),
                Verdict::Drop(_) | Verdict::Consume(_) => None,
            };
        }
        self.settle();
    }

    fn input(&mut self, id: ClientId, segment: &OutSegment) -> Option<Segment> {
        let client = &mut self.clients[id.0];
        let before = client.state;
        let answer = client.input(segment);
        let lived = matches!(before, TcpState::Established | TcpState::CloseWait);
        if lived && client.state == TcpState::Close && segment.flags & flag::RST != 0 {
            self.client_resets += 1;
        }
        answer
    }

    /// One segment through the core that its flow belongs to, as a burst of one.
    pub fn rcv(&mut self, segment: &Segment) -> Verdict {
        let core = usize::from(segment.flow.sport.0 / 2) % self.cores.len();
        let mut found = [Found::default()];
        self.cores[core].lookup_burst(&[*segment], 1, &mut found);
        self.cores[core].rcv(segment, found[0], self.now)
    }

    /// Lets the cores do what is due, and the clients answer, until all is quiet.
    pub fn settle(&mut self) {
        loop {
            self.stack.flush();
            let mut sent = Vec::new();
            for core in &mut self.cores {
                core.tick(self.now, usize::MAX, |originated| {
                    sent.push(*originated);
                    true
                });
            }
            let mut answered = false;
            for originated in sent {
                let to = |client: &Client| client.flow == originated.flow;
                let Some(id) = self.clients.iter().rposition(to).map(ClientId) else { continue };
                if let Some(answer) = self.input(id, &originated.segment) {
                    self.deliver(id, Some(answer));
                    answered = true;
                }
            }
            if !answered {
                return;
            }
        }
    }

    /// Lets time pass: timers of both sides in their order.
    pub fn advance(&mut self, by: Nanos) {
        let end = self.now + by;
        loop {
            let cores = self.cores.iter().filter_map(Core::next_timer);
            let clients = self.clients.iter().filter_map(Client::timer);
            let next = cores.chain(clients).min().filter(|&at| at <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            for id in (0..self.clients.len()).map(ClientId) {
                let segment = self.clients[id.0].on_timer(self.now);
                if segment.is_some() {
                    self.deliver(id, segment);
                }
            }
            self.settle();
            if self.cores.iter().filter_map(Core::next_timer).any(|at| at <= self.now) {
                // A wheel may name its slot's beginning: step past it.
                self.now = self.now + Nanos::from_millis(1);
            }
        }
        self.now = self.now.max(end);
        self.settle();
    }
}
