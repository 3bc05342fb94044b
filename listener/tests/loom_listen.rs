//! listen() racing with listen() and with a lookup, under every interleaving of the stack's lock and of what the
//! workers read.
//!
//! Not covered: more than two sockets, ephemeral ports, commands to cores (crossbeam's ring is not loom's). Loom's
//! tables are the smallest there are, see [`listener::conn_shared`].
//! Run: RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 cargo test -p hearken-listener --release --test loom_listen
#![cfg(loom)]

use std::net::{Ipv4Addr, SocketAddr};

use listener::Stack;
use listener::config::{Device, Secret, StackConfig};
use listener::error::ListenError;
use listener::inet_hashtables::ListenKey;
use listener::limits::Limits;
use listener::segment::FlowKey;
use listener::sockaddr::{Caller, Family};
use listener::sockopt::SockOpt;
use listener::sync::Arc;
use listener::sysctl::Sysctl;
use listener::types::{CoreId, DevIndex, InetAddr, ListenerId, SockFd, TcpPort};
use loom::thread;

const ADDR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const PORT: u16 = 80;

fn stack() -> Arc<Stack> {
    let device = Device {
        name: "d0".to_owned(),
        index: DevIndex(1),
        addresses: vec![(InetAddr::from(ADDR), 15)],
        any_ip: Vec::new(),
        mtu: 1500,
    };
    let limits = Limits { listeners_max: 2, requests_per_core: 1, connections_per_core: 1 };
    let (sysctl, secret) = (Sysctl::default(), Secret::from_seed(1));
    let config = StackConfig { sysctl, devices: vec![device], cores: 1, limits, secret };
    Arc::new(Stack::new(config).expect("a good configuration").0)
}

/// Two sockets that may share the port as long as neither listens.
fn rivals(stack: &Stack) -> [SockFd; 2] {
    [(), ()].map(|()| {
        let fd = stack.socket(Family::Inet, 0).expect("room");
        stack.setsockopt(fd, SockOpt::ReuseAddr(true)).expect("known");
        stack.bind(fd, SocketAddr::new(ADDR.into(), PORT).into(), Caller::ROOT).expect("shared");
        fd
    })
}

fn lookup(stack: &Stack) -> Option<ListenerId> {
    let flow = FlowKey {
        saddr: InetAddr::v4(1),
        daddr: InetAddr::from(ADDR),
        sport: TcpPort(9),
        dport: TcpPort(PORT),
    };
    let hash = stack.listen_hash();
    hash.inet_lookup_listener(&hash.pin(), &ListenKey { flow, dev: DevIndex(1), core: CoreId(0) })
}

/// Of two listen() calls on one port one wins, and lookups find the winner.
#[test]
fn exactly_one_listens() {
    loom::model(|| {
        let stack = stack();
        let [ours, theirs] = rivals(&stack);
        let other = thread::spawn({
            let stack = Arc::clone(&stack);
            move || stack.listen(theirs, 1)
        });
        let (ours_listens, theirs_listens) = (stack.listen(ours, 1), other.join().expect("no panic"));
        let winner = match (ours_listens, theirs_listens) {
            (Ok(()), Err(ListenError::AddrInUse)) => ours,
            (Err(ListenError::AddrInUse), Ok(())) => theirs,
            both => panic!("{both:?}"),
        };
        assert!(lookup(&stack).is_some() && lookup(&stack) == stack.listener_id(winner));
    });
}

/// A lookup that races with listen() and close() finds nobody or the listener, never the loser of a validation: LISTEN
/// is said before the port is validated, but only hashing shows it.
#[test]
fn a_lookup_never_meets_the_loser() {
    loom::model(|| {
        let stack = stack();
        let [winner, loser] = rivals(&stack);
        stack.listen(winner, 1).expect("alone");
        let id = stack.listener_id(winner);
        let other = thread::spawn({
            let stack = Arc::clone(&stack);
            move || {
                assert_eq!(stack.listen(loser, 1), Err(ListenError::AddrInUse));
                stack.close(winner, false).expect("open");
            }
        });
        let seen = lookup(&stack);
        assert!(seen.is_none() || seen == id, "the loser was found: {seen:?}");
        other.join().expect("no panic");
        assert_eq!(lookup(&stack), None);
    });
}
