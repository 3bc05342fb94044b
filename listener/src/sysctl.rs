//! The kernel's knobs under the kernel's names, with the kernel's defaults (Linux v6.18,
//! Documentation/networking/ip-sysctl.rst).

use crate::types::TcpPort;

/// What `/proc/sys/net` would hold. A [`crate::Stack`] is given one, each core keeps a copy; it does not change while
/// they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// `net.core.somaxconn`: the largest backlog; `listen` clamps to it, comparing unsigned.
    pub somaxconn: u32,
    /// `net.ipv4.tcp_max_syn_backlog`: with cookies off, the last quarter of it is kept for known peers.
    pub tcp_max_syn_backlog: u32,
    /// `net.ipv4.tcp_syncookies`: 0 never, 1 when a listener's request queue is full, 2 for every SYN.
    pub tcp_syncookies: u8,
    /// `net.ipv4.tcp_synack_retries`: retransmissions of a SYN-ACK.
    pub tcp_synack_retries: u8,
    /// `net.ipv4.tcp_abort_on_overflow`: a final ACK that meets a full accept queue is answered by a RST.
    pub tcp_abort_on_overflow: bool,
    /// `net.ipv4.tcp_migrate_req`: children of a closing listener move to another member of its reuseport group.
    pub tcp_migrate_req: bool,
    /// `net.ipv4.tcp_timestamps`: 0 off, 1 on with a random offset per connection, 2 on without it.
    pub tcp_timestamps: u8,
    /// `net.ipv4.tcp_sack`
    pub tcp_sack: bool,
    /// `net.ipv4.tcp_window_scaling`
    pub tcp_window_scaling: bool,
    /// `net.ipv4.tcp_ecn`: 0 off, 1 asked for and accepted, 2 accepted.
    pub tcp_ecn: u8,
    /// `net.ipv4.tcp_fastopen`: bits as in the kernel. hearken has no server side of it (bit 0x2): accepted, no effect.
    pub tcp_fastopen: u32,
    /// `net.ipv4.tcp_rmem`: smallest, default and largest receive buffer in bytes. Windows come from the default as it was
    /// when the listening socket was made, their scale from the largest as it is now.
    pub tcp_rmem: [u32; 3],
    /// `net.core.rmem_max`: the window scale is one for a buffer of this size too, which a program may ask for.
    pub rmem_max: u32,
    /// `net.ipv4.tcp_invalid_ratelimit`: milliseconds between answers to segments out of window.
    pub tcp_invalid_ratelimit: u32,
    /// `net.ipv4.tcp_challenge_ack_limit`: challenge ACKs per second and core; `u32::MAX` means no limit.
    pub tcp_challenge_ack_limit: u32,
    /// `net.ipv4.tcp_rfc1337`: a RST does not end TIME_WAIT (RFC 1337).
    pub tcp_rfc1337: bool,
    /// `net.ipv4.tcp_max_tw_buckets`: time-wait entries per core, TIME_WAIT and FIN-WAIT-2 that nobody holds; a connection
    /// beyond skips the state. Half of the
    /// connection slots at most.
    pub tcp_max_tw_buckets: u32,
    /// `net.ipv4.tcp_reflect_tos`: SYN-ACK and connection take the DSCP of the SYN.
    pub tcp_reflect_tos: bool,
    /// `net.ipv4.tcp_fin_timeout`: seconds in FIN-WAIT-2 once nobody holds the connection.
    pub tcp_fin_timeout: u32,
    /// `net.ipv4.tcp_retries2`: retransmissions on an established connection.
    pub tcp_retries2: u8,
    /// `net.ipv4.tcp_orphan_retries`: the same once nobody holds the connection; 0 means 8.
    pub tcp_orphan_retries: u8,
    /// `net.ipv4.ip_local_port_range`: first and last ephemeral port.
    pub ip_local_port_range: (TcpPort, TcpPort),
    /// `net.ipv4.ip_local_reserved_ports`: inclusive ranges that a bind to port 0 leaves alone.
    pub ip_local_reserved_ports: Vec<(TcpPort, TcpPort)>,
    /// `net.ipv4.ip_unprivileged_port_start`: ports below need CAP_NET_BIND_SERVICE.
    pub ip_unprivileged_port_start: u16,
    /// `net.ipv4.ip_autobind_reuse`: a bind to port 0 that finds nothing may share with other SO_REUSEADDR sockets.
    pub ip_autobind_reuse: bool,
    /// `net.ipv4.ip_nonlocal_bind`: any IPv4 address binds.
    pub ip_nonlocal_bind: bool,
    /// `net.ipv6.ip_nonlocal_bind`: any IPv6 address binds.
    pub ipv6_ip_nonlocal_bind: bool,
    /// `net.ipv6.bindv6only`: what IPV6_V6ONLY of a new socket is.
    pub bindv6only: bool,
}

impl Default for Sysctl {
    fn default() -> Self {
        Self {
            somaxconn: 4096,
            tcp_max_syn_backlog: 2048,
            tcp_syncookies: 1,
            tcp_synack_retries: 5,
            tcp_abort_on_overflow: false,
            tcp_migrate_req: false,
            tcp_timestamps: 1,
            tcp_sack: true,
            tcp_window_scaling: true,
            tcp_ecn: 2,
            tcp_fastopen: 1,
            tcp_rmem: [4096, 131_072, 33_554_432],
            rmem_max: 4_194_304,
            tcp_invalid_ratelimit: 500,
            tcp_challenge_ack_limit: u32::MAX,
            tcp_rfc1337: false,
            tcp_max_tw_buckets: 262_144,
            tcp_reflect_tos: false,
            tcp_fin_timeout: 60,
            tcp_retries2: 15,
            tcp_orphan_retries: 0,
            ip_local_port_range: (TcpPort(32_768), TcpPort(60_999)),
            ip_local_reserved_ports: Vec::new(),
            ip_unprivileged_port_start: 1024,
            ip_autobind_reuse: false,
            ip_nonlocal_bind: false,
            ipv6_ip_nonlocal_bind: false,
            bindv6only: false,
        }
    }
}
