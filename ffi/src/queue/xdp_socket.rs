//! The sockets of `net_af_xdp`, which the driver keeps to itself (DPDK 22.11, drivers/net/af_xdp/rte_eth_af_xdp.c): a thread can sleep
//! until one has a frame, as with a receive interrupt.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{AddressFamily, sockopt};

use crate::open_descriptors;

/// The AF_XDP sockets of this process, by their descriptors.
pub(crate) fn all() -> BTreeSet<RawFd> {
    open_descriptors().into_iter().filter(|&fd| duplicate(fd).is_some()).collect()
}

/// A descriptor of its own for the one socket that is open now and was not `before`, if there is just one.
pub(crate) fn opened_since(before: &BTreeSet<RawFd>) -> Option<OwnedFd> {
    let now = all();
    let mut new = now.difference(before);
    match (new.next(), new.next()) {
        (Some(&fd), None) => duplicate(fd),
        _ => None,
    }
}

/// A descriptor of its own for `fd`, if that is an AF_XDP socket.
fn duplicate(fd: RawFd) -> Option<OwnedFd> {
    if fd < 0 {
        return None;
    }
    // SAFETY: lifetime: the descriptor is used within this function only. Should another thread close it meanwhile, dup fails; should
    // it stand for something else by then, what it is is looked at after.
    let theirs = unsafe { BorrowedFd::borrow_raw(fd) };
    let own = fcntl_dupfd_cloexec(theirs, 0).ok()?;
    (sockopt::socket_domain(own.as_fd()) == Ok(AddressFamily::XDP)).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SocketType, socket};
    use std::os::fd::AsRawFd;

    #[test]
    fn the_new_socket_is_found_and_others_are_not() {
        let before = all();
        let _udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        assert!(opened_since(&before).is_none());
        let open = || socket(AddressFamily::XDP, SocketType::RAW, None);
        let Ok(one) = open() else {
            assert!(std::env::var_os("CI").is_none(), "AF_XDP sockets need CAP_NET_RAW");
            eprintln!("SKIPPED: AF_XDP sockets need CAP_NET_RAW");
            return;
        };
        let found = opened_since(&before).expect("it is new");
        assert_ne!(found.as_raw_fd(), one.as_raw_fd());
        drop(found);
        let _two = open().expect("another one");
        assert!(opened_since(&before).is_none(), "which of two it is cannot be told");
        assert!(duplicate(-1).is_none() && duplicate(RawFd::MAX).is_none());
    }
}
