use std::net::SocketAddr;

use super::*;
use crate::config::{Device, Secret};
use crate::limits::Limits;
use crate::types::DevIndex;

fn addr(text: &str) -> SockAddr {
    text.parse::<SocketAddr>().expect("a test address").into()
}

fn stack_with(change: impl FnOnce(&mut Sysctl)) -> Stack {
    let mut sysctl = Sysctl::default();
    change(&mut sysctl);
    let ip = |text: &str| text.parse::<std::net::IpAddr>().expect("a test address").into();
    let lo = Device {
        name: "lo".to_owned(),
        index: DevIndex(1),
        addresses: vec![(ip("127.0.0.1"), 8), (ip("::1"), 128)],
        any_ip: vec![(ip("127.0.0.0"), 8)],
        mtu: 65_535,
    };
    let secret = Secret::from_seed(1);
    let config = StackConfig { sysctl, devices: vec![lo], cores: 1, limits: Limits::TINY, secret };
    Stack::new(config).expect("a good configuration").0
}

fn stack() -> Stack {
    stack_with(|_| ())
}

fn bound(stack: &Stack, text: &str, options: &[SockOpt<'_>]) -> Result<SockFd, ListenError> {
    let addr = addr(text);
    let family = if addr.len == SockAddr::LEN_V4 { Family::Inet } else { Family::Inet6 };
    let fd = stack.socket(family, 0)?;
    for &option in options {
        stack.setsockopt(fd, option)?;
    }
    match stack.bind(fd, addr, Caller::ROOT) {
        Ok(()) => Ok(fd),
        Err(error) => {
            stack.close(fd, false)?;
            Err(error)
        }
    }
}

#[test]
fn reuse_binds_twice_and_listens_once() {
    let stack = stack();
    let reuse = [SockOpt::ReuseAddr(true)];
    let first = bound(&stack, "127.0.0.1:80", &reuse).expect("free");
    let second = bound(&stack, "127.0.0.1:80", &reuse).expect("shared");
    assert_eq!(bound(&stack, "0.0.0.0:80", &[]), Err(ListenError::AddrInUse));
    assert_eq!(stack.listen(first, 5), Ok(()));
    assert_eq!(stack.listen(second, 5), Err(ListenError::AddrInUse));
    assert_eq!(stack.tcp_info(second).expect("open").state, TcpState::Close);
    assert_eq!(bound(&stack, "127.0.0.1:80", &reuse), Err(ListenError::AddrInUse));
    stack.assert_invariants();
    assert_eq!(stack.close(first, false), Ok(()));
    assert_eq!(stack.listen(second, 5), Ok(()));
    assert_eq!(stack.listeners().len(), 1);
    stack.assert_invariants();
}

#[test]
fn a_group_of_reuseport_listeners_follows_uid() {
    let stack = stack();
    let reuseport = [SockOpt::ReusePort(true)];
    for _ in 0..3 {
        let member = bound(&stack, "127.0.0.1:80", &reuseport).expect("shared");
        assert_eq!(stack.listen(member, -1), Ok(()));
    }
    let other = stack.socket(Family::Inet, 1000).expect("room");
    stack.setsockopt(other, reuseport[0]).expect("known");
    assert_eq!(stack.bind(other, addr("127.0.0.1:80"), Caller::ROOT), Err(ListenError::AddrInUse));
    let rows = stack.listeners();
    assert!(rows.len() == 3 && rows.iter().all(|row| row.backlog == 4096 && row.reuseport));
    stack.assert_invariants();
}

#[test]
fn autobind_takes_the_parity_opposite_to_the_lowest_port() {
    let stack = stack_with(|sysctl| sysctl.ip_local_port_range = (TcpPort(40_000), TcpPort(40_003)));
    let ports: Vec<u16> = (0..4)
        .map(|_| {
            let fd = bound(&stack, "127.0.0.1:0", &[]).expect("free");
            stack.getsockname(fd).expect("open").port.0
        })
        .collect();
    assert!(
        ports[..2].iter().all(|port| port % 2 == 1) && ports[2..].iter().all(|port| port % 2 == 0),
        "{ports:?}"
    );
    assert_eq!(bound(&stack, "127.0.0.1:0", &[]), Err(ListenError::NoFreePort));
    assert!(bound(&stack, "127.0.0.2:0", &[]).is_ok());
}

#[test]
fn a_sockets_own_range_and_reserved_ports_narrow_the_choice() {
    let stack =
        stack_with(|sysctl| sysctl.ip_local_reserved_ports = vec![(TcpPort(50_000), TcpPort(50_001))]);
    // Of an odd number of ports the last is never visited: passes begin at odd and even offsets of pairs.
    let three = SockOpt::LocalPortRange(50_002 << 16 | 50_000);
    assert_eq!(bound(&stack, "127.0.0.1:0", &[three]), Err(ListenError::NoFreePort));
    let four = SockOpt::LocalPortRange(50_003 << 16 | 50_000);
    let fd = bound(&stack, "127.0.0.1:0", &[four]).expect("two are left");
    assert_eq!(stack.getsockname(fd).expect("open").port, TcpPort(50_003));
    assert_eq!(stack.getsockopt(fd, SockOptName::LocalPortRange), Ok((50_003_u32 << 16 | 50_000) as i32));
    let refused = SockOpt::LocalPortRange(50_000 << 16 | 50_002);
    assert_eq!(stack.setsockopt(fd, refused), Err(ListenError::BadOptionValue));
}

#[test]
fn shutdown_releases_only_a_port_that_was_not_asked_for() {
    let stack = stack();
    let fd = stack.socket(Family::Inet, 0).expect("room");
    assert_eq!(stack.shutdown(fd, How::RdWr), Err(ListenError::NotConnected));
    assert_eq!(stack.listen(fd, 1), Ok(()));
    let port = stack.getsockname(fd).expect("open").port;
    assert_eq!(stack.shutdown(fd, How::Wr), Ok(()));
    assert_eq!(stack.tcp_info(fd).expect("open").state, TcpState::Listen);
    assert_eq!(stack.shutdown(fd, How::Rd), Ok(()));
    assert_eq!(stack.getsockname(fd).expect("open").port, port);
    assert!(bound(&stack, &format!("0.0.0.0:{port}"), &[]).is_ok());
    stack.assert_invariants();
}

#[test]
fn a_closed_descriptor_is_bad() {
    let stack = stack();
    let fd = stack.socket(Family::Inet6, 0).expect("room");
    assert_eq!(stack.close(fd, false), Ok(()));
    assert_eq!(stack.close(fd, false), Err(ListenError::BadDescriptor));
    assert_eq!(stack.listen(fd, 1), Err(ListenError::BadDescriptor));
    assert_eq!(stack.accept(fd), Err(ListenError::BadDescriptor));
    assert_eq!(stack.getsockname(fd), Err(ListenError::BadDescriptor));
}

#[test]
fn a_listener_keeps_its_place_when_options_change() {
    let stack = stack();
    let fd = bound(&stack, "[::]:80", &[SockOpt::ReusePort(true)]).expect("free");
    stack.listen(fd, 1).expect("alone");
    for option in [SockOpt::BindToDevice("lo"), SockOpt::ReusePort(false), SockOpt::IncomingCpu(0)] {
        assert_eq!(stack.setsockopt(fd, option), Ok(()));
        stack.assert_invariants();
    }
    assert_eq!(stack.setsockopt(fd, SockOpt::BindToDevice("none")), Err(ListenError::NoSuchDevice));
    assert_eq!(stack.setsockopt(fd, SockOpt::V6Only(true)), Err(ListenError::OptionAfterBind));
    assert_eq!(stack.getsockopt(fd, SockOptName::AcceptConn), Ok(1));
}

#[test]
fn closed_group_members_give_their_slots_back() {
    let stack = stack_with(|sysctl| sysctl.tcp_migrate_req = true);
    let reuseport = [SockOpt::ReusePort(true)];
    for _ in 0..2 {
        let members: Vec<_> = (0..1100)
            .map(|_| {
                let fd = bound(&stack, "127.0.0.1:80", &reuseport).expect("shared");
                stack.listen(fd, 1).expect("there is room");
                fd
            })
            .collect();
        stack.assert_invariants();
        members.into_iter().for_each(|fd| stack.close(fd, false).expect("open"));
    }
    let max = Limits::TINY.listeners_max;
    let open = |number: u32| {
        let fd = bound(&stack, &format!("127.1.{}.{}:80", number / 200, number % 200), &[])?;
        stack.listen(fd, 1)
    };
    assert!((0..max).all(|number| open(number) == Ok(())), "a slot is lost");
    assert_eq!(open(max), Err(ListenError::ListenersFull));
}

#[test]
fn listeners_are_listed_page_by_page() {
    let stack = stack();
    let open = |n| {
        let fd = bound(&stack, &format!("127.0.0.1:{}", 8000 + n), &[]).expect("a free port");
        stack.listen(fd, 5).expect("bound");
        fd
    };
    let fds: Vec<SockFd> = (0..7).map(open).collect();
    stack.close(fds[2], false).expect("it is open");
    let page = |from, max| -> Vec<u32> {
        stack.listeners_from(SockFd(from), max).iter().map(|row| row.fd.0).collect()
    };
    assert_eq!((page(0, 3), page(2, 3), page(5, 9)), (vec![0, 1, 3], vec![3, 4, 5], vec![5, 6]));
    assert_eq!((page(7, 3), page(u32::MAX, 3), page(0, 0)), (vec![], vec![], vec![]));
    assert_eq!(page(0, usize::MAX).len(), stack.listeners().len());
}
