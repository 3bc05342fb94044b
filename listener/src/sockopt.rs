//! Socket options: what they take, what they give, and what they do to a socket that lives already.

/// An option with the value it is set to. Numbers are as setsockopt(2) takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SockOpt<'a> {
    /// SO_REUSEADDR
    ReuseAddr(bool),
    /// SO_REUSEPORT
    ReusePort(bool),
    /// IPV6_V6ONLY; not once the socket has a port.
    V6Only(bool),
    /// SO_BINDTODEVICE by name; an empty name unbinds.
    BindToDevice(&'a str),
    /// SO_INCOMING_CPU: a worker's number; negative for none.
    IncomingCpu(i32),
    /// TCP_DEFER_ACCEPT in seconds; rounded up to whole SYN-ACK retransmit periods.
    DeferAccept(i32),
    /// IP_FREEBIND
    Freebind(bool),
    /// IP_BIND_ADDRESS_NO_PORT
    BindAddressNoPort(bool),
    /// IP_LOCAL_PORT_RANGE: lowest port in the lower 16 bits, highest in the upper; 0 leaves that end as it is.
    LocalPortRange(u32),
    /// TCP_MAXSEG in octets, 88 to 32767; 0 for the device's.
    MaxSeg(i32),
    /// TCP_SYNCNT, 1 to 127: retransmissions of a SYN-ACK.
    SynCnt(i32),
}

/// An option by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SockOptName {
    /// SO_REUSEADDR
    ReuseAddr,
    /// SO_REUSEPORT
    ReusePort,
    /// IPV6_V6ONLY
    V6Only,
    /// SO_BINDTOIFINDEX: the device's number, 0 for none.
    BindToIfIndex,
    /// SO_INCOMING_CPU, -1 for none.
    IncomingCpu,
    /// TCP_DEFER_ACCEPT in seconds.
    DeferAccept,
    /// IP_FREEBIND
    Freebind,
    /// IP_BIND_ADDRESS_NO_PORT
    BindAddressNoPort,
    /// IP_LOCAL_PORT_RANGE
    LocalPortRange,
    /// TCP_MAXSEG
    MaxSeg,
    /// TCP_SYNCNT
    SynCnt,
    /// SO_ACCEPTCONN: 1 on a listening socket.
    AcceptConn,
    /// SO_ERROR: the pending errno's number, which reading clears.
    Error,
}
