//! The stack against the obvious model, operation by operation: 1,000 lists of 1 to 199 operations by default, in a space so
//! small that conflicts are the rule. `PROPTEST_CASES` makes more lists.
//!
//! The model decides everything but what chance decides: it is told the ephemeral port that the stack took and checks
//! that it may be taken, and asks for the flow's hash where a group has to choose.

mod common;

use std::net::{IpAddr, SocketAddr};

use common::world::{ClientId, World, ip, loopback};
use listener::config::Device;
use listener::inet_hashtables::ListenKey;
use listener::oracle::{ModelOpt, Oracle, SynOutcome};
use listener::segment::FlowKey;
use listener::sockaddr::{AddrFamily, Caller, Family, How, SockAddr};
use listener::sockopt::SockOpt;
use listener::sysctl::Sysctl;
use listener::types::{CoreId, DevIndex, SockFd, TcpPort, TcpState};
use proptest::prelude::*;

const SLOTS: usize = 6;
const ADDRS_V4: [&str; 6] = ["0.0.0.0", "127.0.0.1", "127.0.0.2", "192.0.2.1", "224.0.0.1", "::1"];
const ADDRS_V6: [&str; 7] =
    ["::", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "2001:db8::1", "ff02::1", "fe80::1"];
const TARGETS: [&str; 3] = ["127.0.0.1", "127.0.0.2", "::1"];
const PORTS: [u16; 5] = [80, 8080, 8080, 40_000, 0];

#[derive(Clone, Debug)]
enum Op {
    Open { slot: usize, v6: bool, uid: u32, reuse: bool, reuseport: bool },
    Set { slot: usize, opt: ModelOpt },
    Bind { slot: usize, addr: usize, port: usize, uid: u32, unspec: bool },
    Listen { slot: usize, backlog: i32 },
    Shutdown { slot: usize },
    Close { slot: usize },
    Connect { addr: usize, port: usize, dev: u16 },
    Accept { slot: usize },
    CloseChild { nth: usize, reset: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS;
    let opt = prop_oneof![
        any::<bool>().prop_map(ModelOpt::Reuse),
        any::<bool>().prop_map(ModelOpt::Reuseport),
        any::<bool>().prop_map(ModelOpt::V6Only),
        (0..3_u16).prop_map(|dev| ModelOpt::Dev(DevIndex(dev))),
        any::<bool>().prop_map(ModelOpt::NoPort),
    ];
    let uid = || prop_oneof![4 => Just(0_u32), 1 => Just(1000)];
    prop_oneof![
        3 => (slot(), any::<bool>(), uid(), any::<bool>(), any::<bool>())
            .prop_map(|(slot, v6, uid, reuse, reuseport)| Op::Open { slot, v6, uid, reuse, reuseport }),
        2 => (slot(), opt).prop_map(|(slot, opt)| Op::Set { slot, opt }),
        5 => (slot(), 0..7_usize, 0..PORTS.len(), uid(), prop::bool::weighted(0.05))
            .prop_map(|(slot, addr, port, uid, unspec)| Op::Bind { slot, addr, port, uid, unspec }),
        4 => (slot(), -1..3_i32).prop_map(|(slot, backlog)| Op::Listen { slot, backlog }),
        1 => slot().prop_map(|slot| Op::Shutdown { slot }),
        1 => slot().prop_map(|slot| Op::Close { slot }),
        5 => (0..TARGETS.len(), 0..PORTS.len(), prop_oneof![3 => Just(1_u16), 1 => Just(2)])
            .prop_map(|(addr, port, dev)| Op::Connect { addr, port, dev }),
        2 => slot().prop_map(|slot| Op::Accept { slot }),
        2 => (0..3_usize, any::<bool>()).prop_map(|(nth, reset)| Op::CloseChild { nth, reset }),
    ]
}

struct Both {
    world: World,
    oracle: Oracle,
    slots: [Option<(SockFd, bool)>; SLOTS],
    children: Vec<(SockFd, ClientId)>,
}

impl Both {
    fn new() -> Self {
        let sysctl = Sysctl {
            ip_local_port_range: (TcpPort(40_000), TcpPort(40_005)),
            ip_local_reserved_ports: vec![(TcpPort(40_003), TcpPort(40_003))],
            ..Sysctl::default()
        };
        let d0 = Device {
            name: "d0".to_owned(),
            index: DevIndex(2),
            addresses: Vec::new(),
            any_ip: Vec::new(),
            mtu: 1500,
        };
        let oracle = Oracle::new(sysctl.clone());
        let world = World::new(sysctl, vec![loopback(), d0], 2, 11);
        Self { world, oracle, slots: [None; SLOTS], children: Vec::new() }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Open { slot, v6, uid, reuse, reuseport } => {
                self.close(slot);
                let family = if v6 { Family::Inet6 } else { Family::Inet };
                let fd = self.world.stack.socket(family, uid).expect("there is room");
                self.oracle.socket(fd, family, uid);
                self.slots[slot] = Some((fd, v6));
                self.set(slot, ModelOpt::Reuse(reuse));
                self.set(slot, ModelOpt::Reuseport(reuseport));
            }
            Op::Set { slot, opt } => self.set(slot, opt),
            Op::Bind { slot, addr, port, uid, unspec } => self.bind(slot, addr, PORTS[port], uid, unspec),
            Op::Listen { slot, backlog } => {
                let Some((fd, _)) = self.slots[slot] else { return };
                let ours = self.world.stack.listen(fd, backlog).map_err(|error| error.errno());
                let chosen = self.world.stack.getsockname(fd).expect("open").port;
                assert_eq!(ours, self.oracle.listen(fd, backlog, chosen));
            }
            Op::Shutdown { slot } => {
                let Some((fd, _)) = self.slots[slot] else { return };
                let ours = self.world.stack.shutdown(fd, How::RdWr).map_err(|error| error.errno());
                assert_eq!(ours, self.oracle.shutdown(fd));
            }
            Op::Close { slot } => self.close(slot),
            Op::Connect { addr, port, dev } => self.connect(TARGETS[addr], PORTS[port], DevIndex(dev)),
            Op::Accept { slot } => self.accept(slot),
            Op::CloseChild { nth, reset } => {
                if self.children.is_empty() {
                    return;
                }
                let (fd, client) = self.children.remove(nth % self.children.len());
                self.world.stack.close(fd, reset).expect("it was open");
                self.world.settle();
                if !reset {
                    self.world.fin(client);
                }
                self.oracle.close_child(fd, reset);
            }
        }
        self.world.settle();
        self.compare();
    }

    fn set(&mut self, slot: usize, opt: ModelOpt) {
        let Some((fd, _)) = self.slots[slot] else { return };
        let ours = match opt {
            ModelOpt::Reuse(on) => SockOpt::ReuseAddr(on),
            ModelOpt::Reuseport(on) => SockOpt::ReusePort(on),
            ModelOpt::V6Only(on) => SockOpt::V6Only(on),
            ModelOpt::NoPort(on) => SockOpt::BindAddressNoPort(on),
            ModelOpt::Dev(dev) => SockOpt::BindToDevice(["", "lo", "d0"][usize::from(dev.0)]),
        };
        let ours = self.world.stack.setsockopt(fd, ours).map_err(|error| error.errno());
        assert_eq!(ours, self.oracle.setsockopt(fd, opt));
    }

    fn bind(&mut self, slot: usize, addr: usize, port: u16, uid: u32, unspec: bool) {
        let Some((fd, v6)) = self.slots[slot] else { return };
        let text = if v6 { ADDRS_V6[addr] } else { ADDRS_V4[addr % ADDRS_V4.len()] };
        let ip: IpAddr = text.parse().expect("a test address");
        let mut addr = SockAddr::from(SocketAddr::new(ip, port));
        if unspec {
            addr = addr.with_family(AddrFamily::Unspec);
        }
        let caller = if uid == 0 { Caller::ROOT } else { Caller::user(uid) };
        let ours = self.world.stack.bind(fd, addr, caller).map_err(|error| error.errno());
        let chosen = self.world.stack.getsockname(fd).expect("open").port;
        assert_eq!(ours, self.oracle.bind(fd, &addr, caller, chosen));
    }

    fn close(&mut self, slot: usize) {
        if let Some((fd, _)) = self.slots[slot].take() {
            self.world.stack.close(fd, false).expect("it was open");
            self.oracle.close(fd);
        }
    }

    fn connect(&mut self, to: &str, port: u16, dev: DevIndex) {
        let to = ip(to);
        let from = if to.is_v4() { ip("127.0.0.1") } else { to };
        let id = self.world.connect(from, to, TcpPort(port), dev);
        let flow: FlowKey = self.world.client(id).flow;
        let hash = self.world.stack.listen_hash().flow_hash(&flow);
        let expected = self.oracle.connect(flow, dev, || hash);
        let client = self.world.client(id);
        match expected {
            SynOutcome::Refused => assert_eq!(client.error, Some("ECONNREFUSED")),
            SynOutcome::Dropped(_) => assert_eq!(client.state, TcpState::SynSent),
            SynOutcome::Accepted(_) => assert_eq!(client.state, TcpState::Established),
        }
        if client.state == TcpState::SynSent {
            self.world.abort(id);
        }
        // The lookup alone must name the same listener as the whole way in.
        let key = ListenKey { flow, dev, core: CoreId(0) };
        let hash_table = self.world.stack.listen_hash();
        let found = hash_table.inet_lookup_listener(&hash_table.pin(), &key);
        let named = match expected {
            SynOutcome::Refused => None,
            SynOutcome::Dropped(fd) | SynOutcome::Accepted(fd) => self.world.stack.listener_id(fd),
        };
        assert_eq!(found, named);
    }

    fn accept(&mut self, slot: usize) {
        let Some((fd, _)) = self.slots[slot] else { return };
        let ours = self.world.stack.accept(fd);
        let child = ours.map(|accepted| accepted.fd).unwrap_or(SockFd(u32::MAX));
        let expected = self.oracle.accept(fd, child);
        let got =
            ours.map(|accepted| (accepted.peer.addr, accepted.peer.port)).map_err(|error| error.errno());
        assert_eq!(got, expected.map(|flow| (flow.saddr, flow.sport)));
        if let Ok(flow) = expected {
            let id = self.world.clients.iter().rposition(|client| client.flow == flow).map(ClientId);
            self.children.push((child, id.expect("it connected")));
        }
    }

    /// All sockets on both sides, and what must hold whatever happened.
    fn compare(&self) {
        for (fd, _) in self.slots.iter().flatten() {
            let name = self.world.stack.getsockname(*fd).expect("open");
            let info = self.world.stack.tcp_info(*fd).expect("open");
            let queue = (info.state == TcpState::Listen).then_some(info.tcpi_unacked as usize);
            assert_eq!((name.addr, name.port, queue), self.oracle.show(*fd), "{fd:?}");
        }
        self.world.stack.assert_invariants();
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_stack_agrees_with_the_obvious_model(ops in prop::collection::vec(op(), 1..200)) {
        let mut both = Both::new();
        for op in &ops {
            both.apply(op);
        }
        (0..SLOTS).for_each(|slot| both.close(slot));
        both.compare();
        prop_assert!(both.world.stack.listeners().is_empty());
    }
}
