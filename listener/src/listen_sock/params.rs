//! What a listener is made with.

use crate::sysctl::Sysctl;
use crate::types::{Backlog, DevIndex, Then};

/// What a listener starts with; the setters of [`super::ListenSock`] change single values later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenParams {
    /// `sk_max_ack_backlog`: children that may wait for `accept`; the queue holds one more.
    pub backlog: Backlog,
    /// What becomes of its connections.
    pub then: Then,
    /// SO_REUSEADDR, for its children.
    pub reuse: bool,
    /// SO_REUSEPORT, for its children.
    pub reuseport: bool,
    /// True for an AF_INET6 socket.
    pub v6_family: bool,
    /// Owner, for its children.
    pub uid: u32,
    /// SO_BINDTODEVICE.
    pub dev: DevIndex,
    /// TCP_DEFER_ACCEPT as a number of SYN-ACK timeouts; 0 = off.
    pub defer: u8,
    /// TCP_SYNCNT; 0 = `tcp_synack_retries`.
    pub syn_retries: u8,
    /// `sk_rcvbuf`: windows come from it.
    pub rcvbuf: u32,
    /// TCP_MAXSEG; 0 = none.
    pub mss_clamp: u16,
    /// IP_TOS or IPV6_TCLASS.
    pub tos: u8,
}

impl Default for ListenParams {
    fn default() -> Self {
        Self {
            backlog: Backlog::default(),
            then: Then::default(),
            reuse: false,
            reuseport: false,
            v6_family: false,
            uid: 0,
            dev: DevIndex::NONE,
            defer: 0,
            syn_retries: 0,
            rcvbuf: Sysctl::default().tcp_rmem[1],
            mss_clamp: 0,
            tos: 0,
        }
    }
}
