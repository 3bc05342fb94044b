//! Eight threads bind, listen, close and look up at once; 2 s by default, `THREADS_SECONDS` for more.
//!
//! Each thread has addresses of its own, where it knows what must be found, and shares one reuseport port and one
//! exclusive port with all others. No listener may be lost, none may be found that does not listen, and the exclusive
//! port never has two listeners.

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::world::loopback;
use listener::Stack;
use listener::config::{Secret, StackConfig};
use listener::error::ListenError;
use listener::inet_hashtables::ListenKey;
use listener::limits::Limits;
use listener::segment::FlowKey;
use listener::sockaddr::{Caller, Family, SockAddr};
use listener::sockopt::SockOpt;
use listener::sysctl::Sysctl;
use listener::types::{CoreId, DevIndex, InetAddr, ListenerId, SockFd, TcpPort};

const THREADS: u8 = 8;
const OWN_PORTS: u16 = 16;
const SHARED_PORT: u16 = 9000;
const EXCLUSIVE_PORT: u16 = 9001;

fn stack() -> Stack {
    let config = StackConfig {
        sysctl: Sysctl::default(),
        devices: vec![loopback()],
        cores: 1,
        limits: Limits::TINY,
        secret: Secret::from_seed(3),
    };
    Stack::new(config).expect("a good configuration").0
}

fn local(thread: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, thread)
}

fn sockaddr(addr: Ipv4Addr, port: u16) -> SockAddr {
    SocketAddr::new(addr.into(), port).into()
}

fn lookup(stack: &Stack, addr: Ipv4Addr, port: u16, client: u16) -> Option<ListenerId> {
    let flow = FlowKey {
        saddr: IpAddr::from(Ipv4Addr::LOCALHOST).into(),
        daddr: InetAddr::from(addr),
        sport: TcpPort(client),
        dport: TcpPort(port),
    };
    let hash = stack.listen_hash();
    hash.inet_lookup_listener(&hash.pin(), &ListenKey { flow, dev: DevIndex(1), core: CoreId(0) })
}

/// Opens a listener, or says why not and leaves nothing behind.
fn open(
    stack: &Stack,
    addr: Ipv4Addr,
    port: u16,
    option: Option<SockOpt<'_>>,
) -> Result<SockFd, ListenError> {
    let fd = stack.socket(Family::Inet, 0)?;
    let listens = option
        .map_or(Ok(()), |option| stack.setsockopt(fd, option))
        .and_then(|()| stack.bind(fd, sockaddr(addr, port), Caller::ROOT))
        .and_then(|()| stack.listen(fd, 16));
    match listens {
        Ok(()) => Ok(fd),
        Err(error) => {
            stack.close(fd, false)?;
            Err(error)
        }
    }
}

/// One round on the thread's own address: what it opened is found, what it closed is not.
fn own_round(stack: &Stack, thread: u8, round: u16) {
    let (addr, port) = (local(thread), 1000 + round % OWN_PORTS);
    assert_eq!(lookup(stack, addr, port, round), None, "nobody listens here yet");
    let fd = open(stack, addr, port, None).expect("the address is this thread's alone");
    let id = stack.listener_id(fd);
    assert!(id.is_some() && lookup(stack, addr, port, round) == id, "a lost listener");
    assert_eq!(lookup(stack, addr, port + OWN_PORTS, round), None, "a wrong hit");
    assert_eq!(open(stack, addr, port, None), Err(ListenError::AddrInUse));
    stack.close(fd, false).expect("it was open");
    assert_eq!(lookup(stack, addr, port, round), None, "a listener outlived its close");
}

/// One round in the group that all threads share: there is always somebody while we are in it.
fn shared_round(stack: &Stack, round: u16) {
    let fd = open(stack, Ipv4Addr::LOCALHOST, SHARED_PORT, Some(SockOpt::ReusePort(true)));
    let fd = fd.expect("the group takes everybody");
    for client in 0..8 {
        let found = lookup(stack, Ipv4Addr::LOCALHOST, SHARED_PORT, round.wrapping_add(client));
        assert!(found.is_some(), "the group lost its members");
    }
    stack.close(fd, false).expect("it was open");
}

/// One round on the port that only one may have.
fn exclusive_round(stack: &Stack, holders: &AtomicU64) -> bool {
    let reuse = Some(SockOpt::ReuseAddr(true));
    match open(stack, Ipv4Addr::LOCALHOST, EXCLUSIVE_PORT, reuse) {
        Ok(fd) => {
            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two listeners on one port");
            assert_eq!(lookup(stack, Ipv4Addr::LOCALHOST, EXCLUSIVE_PORT, 1), stack.listener_id(fd));
            holders.fetch_sub(1, Ordering::SeqCst);
            stack.close(fd, false).expect("it was open");
            true
        }
        Err(error) => {
            assert_eq!(error, ListenError::AddrInUse);
            false
        }
    }
}

#[test]
fn eight_threads_share_a_stack() {
    let seconds = std::env::var("THREADS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let (stack, stop, holders, won, lost) =
        (stack(), AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 1..=THREADS {
            let (stack, stop, holders, won, lost) = (&stack, &stop, &holders, &won, &lost);
            scope.spawn(move || {
                let mut round = u16::from(thread);
                while !stop.load(Ordering::Relaxed) {
                    own_round(stack, thread, round);
                    shared_round(stack, round);
                    let counter = if exclusive_round(stack, holders) { won } else { lost };
                    counter.fetch_add(1, Ordering::Relaxed);
                    round = round.wrapping_add(1) % 20_000;
                }
            });
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(seconds) {
            std::thread::sleep(Duration::from_millis(100));
            stack.assert_invariants();
        }
        stop.store(true, Ordering::Relaxed);
    });
    stack.assert_invariants();
    assert!(stack.listeners().is_empty());
    let rounds = won.into_inner() + lost.into_inner();
    assert!(rounds > u64::from(THREADS), "only {rounds} rounds");
    // Every slot came back: as many as there ever are can listen again.
    let fds: Vec<_> = (0..Limits::TINY.listeners_max)
        .map(|number| {
            open(&stack, Ipv4Addr::from_bits(0x7f02_0000 + number), 80, None).expect("a slot is free")
        })
        .collect();
    assert_eq!(open(&stack, Ipv4Addr::LOCALHOST, 80, None), Err(ListenError::ListenersFull));
    fds.into_iter().for_each(|fd| stack.close(fd, false).expect("it was open"));
}
