//! What becomes of handshakes and queued connections when a member of a reuseport group closes.

mod common;

use std::net::SocketAddr;

use common::client::Client;
use common::world::{ClientId, World, ip, loopback};
use listener::error::ListenError;
use listener::inet_hashtables::ListenKey;
use listener::segment::FlowKey;
use listener::sockaddr::{Caller, Family};
use listener::sockopt::SockOpt;
use listener::sysctl::Sysctl;
use listener::types::{CoreId, DevIndex, Nanos, SockFd, TcpPort, TcpState};

const PORT: TcpPort = TcpPort(80);

/// Two members that wait for data before they make a connection, so that handshakes stay half-open.
fn group(migrate: bool, addr: &str) -> (World, [SockFd; 2]) {
    let sysctl = Sysctl { tcp_migrate_req: migrate, ..Sysctl::default() };
    let world = World::new(sysctl, vec![loopback()], 2, 5);
    let members = [(), ()].map(|()| {
        let fd = world.stack.socket(Family::Inet, 0).expect("room");
        world.stack.setsockopt(fd, SockOpt::ReusePort(true)).expect("known");
        world.stack.setsockopt(fd, SockOpt::DeferAccept(30)).expect("known");
        let addr: SocketAddr = format!("{addr}:{PORT}").parse().expect("a test address");
        world.stack.bind(fd, addr.into(), Caller::ROOT).expect("shared");
        world.stack.listen(fd, 0).expect("shared");
        fd
    });
    (world, members)
}

/// A client whose SYN goes to `member`.
fn half_open(world: &mut World, member: SockFd) -> ClientId {
    let id = world.stack.listener_id(member);
    let flow = (1..1000).map(|sport| FlowKey {
        saddr: ip("127.0.0.1"),
        daddr: ip("127.0.0.1"),
        sport: TcpPort(sport),
        dport: PORT,
    });
    let hash = world.stack.listen_hash().clone();
    let meets = |flow: &FlowKey| {
        let key = ListenKey { flow: *flow, dev: DevIndex(1), core: CoreId(0) };
        hash.inet_lookup_listener(&hash.pin(), &key) == id
    };
    let flow = flow.into_iter().find(meets).expect("half of the flows go there");
    let client = world.add(Client::new(flow, DevIndex(1), 1));
    assert_eq!(world.client(client).state, TcpState::Established);
    client
}

fn counter(world: &World, name: &str) -> u64 {
    world.stack.snmp().into_iter().find(|(known, _)| *known == name).expect("a counter").1
}

#[test]
fn a_handshake_moves_with_its_next_segment() {
    for addr in ["127.0.0.1", "0.0.0.0"] {
        let (mut world, [closing, staying]) = group(true, addr);
        let client = half_open(&mut world, closing);
        world.stack.close(closing, false).expect("open");
        assert_eq!(world.stack.accept(staying), Err(ListenError::QueueEmpty));
        world.send(client, b"hello");
        let accepted = world.stack.accept(staying).expect("it moved");
        assert_eq!(accepted.peer.port, world.client(client).flow.sport);
        assert_eq!(counter(&world, "TCPMigrateReqSuccess"), 1);
    }
}

#[test]
fn a_handshake_moves_with_its_timer() {
    let (mut world, [closing, staying]) = group(true, "127.0.0.1");
    let client = half_open(&mut world, closing);
    world.stack.close(closing, false).expect("open");
    world.advance(Nanos::from_millis(1500));
    assert_eq!(counter(&world, "TCPMigrateReqSuccess"), 1);
    world.send(client, b"hello");
    assert!(world.stack.accept(staying).is_ok());
    assert_eq!(counter(&world, "TCPMigrateReqSuccess"), 1, "it moved before");
}

#[test]
fn without_migration_a_handshake_dies_with_its_listener() {
    let (mut world, [closing, staying]) = group(false, "127.0.0.1");
    let client = half_open(&mut world, closing);
    world.stack.close(closing, false).expect("open");
    world.send(client, b"hello");
    assert_eq!(world.client(client).error, Some("ECONNRESET"));
    assert_eq!(world.stack.accept(staying), Err(ListenError::QueueEmpty));
}

#[test]
fn nothing_moves_once_nobody_is_left() {
    let (mut world, members) = group(true, "127.0.0.1");
    let client = half_open(&mut world, members[0]);
    members.into_iter().for_each(|fd| world.stack.close(fd, false).expect("open"));
    world.send(client, b"hello");
    assert_eq!(world.client(client).error, Some("ECONNRESET"));
    assert_eq!(counter(&world, "TCPMigrateReqSuccess"), 0);
}
