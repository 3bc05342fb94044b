//! What the listen API takes and gives: plain values.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::types::{DevIndex, InetAddr, SockFd, TcpPort, TcpState, Then};

/// The family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// AF_INET
    Inet,
    /// AF_INET6; unless IPV6_V6ONLY is set such a socket takes IPv4 as well.
    Inet6,
}

/// The family field of a socket address, which may be any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddrFamily {
    /// AF_UNSPEC
    Unspec,
    /// AF_INET
    Inet,
    /// AF_INET6
    Inet6,
    /// Any other.
    Other(u16),
}

/// A socket address as bind(2) takes it: what stands at the fields' places, whatever the family field says.
///
/// `sin_port` and `sin6_port` are one place, and `sin_addr` is where `sin6_flowinfo` is; so an IPv6 address whose
/// family field says AF_INET is, to the kernel, an IPv4 address with the number of its flow info.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockAddr {
    /// Octets that are valid: 16 for a whole `sockaddr_in`, 28 for a whole `sockaddr_in6`.
    pub len: u8,
    /// Family field.
    pub family: AddrFamily,
    /// Port.
    pub port: TcpPort,
    /// `sin_addr` (or `sin6_flowinfo`), read as a big-endian number.
    pub v4: u32,
    /// `sin6_addr`; unspecified in a `sockaddr_in`.
    pub v6: Ipv6Addr,
    /// `sin6_scope_id`: the device of a link-local address, 0 for none.
    pub scope_id: u32,
}

impl SockAddr {
    /// Octets of a `sockaddr_in`.
    pub const LEN_V4: u8 = 16;
    /// Octets of a `sockaddr_in6`.
    pub const LEN_V6: u8 = 28;

    /// The same bytes under another family field.
    pub const fn with_family(self, family: AddrFamily) -> Self {
        Self { family, ..self }
    }

    /// The first `len` octets of it.
    pub fn truncated(self, len: u8) -> Self {
        Self { len: self.len.min(len), ..self }
    }
}

impl From<SocketAddr> for SockAddr {
    fn from(addr: SocketAddr) -> Self {
        let port = TcpPort(addr.port());
        match addr {
            SocketAddr::V4(v4) => Self {
                len: Self::LEN_V4,
                family: AddrFamily::Inet,
                port,
                v4: v4.ip().to_bits(),
                v6: Ipv6Addr::UNSPECIFIED,
                scope_id: 0,
            },
            SocketAddr::V6(v6) => Self {
                len: Self::LEN_V6,
                family: AddrFamily::Inet6,
                port,
                v4: v6.flowinfo(),
                v6: *v6.ip(),
                scope_id: v6.scope_id(),
            },
        }
    }
}

/// On whose behalf a call is made: what the kernel takes from the calling process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// May bind ports below `ip_unprivileged_port_start`.
    pub cap_net_bind_service: bool,
}

impl Caller {
    /// The super-user.
    pub const ROOT: Self = Self { uid: 0, cap_net_bind_service: true };

    /// A user without capabilities.
    pub const fn user(uid: u32) -> Self {
        Self { uid, cap_net_bind_service: false }
    }
}

/// Which half shutdown(2) ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// SHUT_RD
    Rd,
    /// SHUT_WR
    Wr,
    /// SHUT_RDWR
    RdWr,
}

/// An address and a port of one end, as getsockname(2) gives them. An `Inet6` socket names an IPv4 address by its
/// mapped form; [`InetAddr`] holds both alike, `family` says how to print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Family of the socket that was asked.
    pub family: Family,
    /// Address.
    pub addr: InetAddr,
    /// Port.
    pub port: TcpPort,
}

impl From<Endpoint> for SocketAddr {
    fn from(end: Endpoint) -> Self {
        let ip = match (end.family, end.addr.as_v4()) {
            (Family::Inet6, Some(v4)) => IpAddr::V6(std::net::Ipv4Addr::from_bits(v4).to_ipv6_mapped()),
            _ => end.addr.into(),
        };
        Self::new(ip, end.port.0)
    }
}

/// What `accept` gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// The new socket.
    pub fd: SockFd,
    /// The other end.
    pub peer: Endpoint,
    /// This end: the destination of the SYN, also under a wildcard listener.
    pub local: Endpoint,
}

/// The part of `struct tcp_info` that a listening socket fills (`tcp_get_info`, Linux v6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// State.
    pub state: TcpState,
    /// In LISTEN: connections in the accept queue (`ss` Recv-Q).
    pub tcpi_unacked: u32,
    /// In LISTEN: backlog (`ss` Send-Q).
    pub tcpi_sacked: u32,
}

/// One line of `ss -ltn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerRow {
    /// Descriptor.
    pub fd: SockFd,
    /// Family.
    pub family: Family,
    /// Local address.
    pub addr: InetAddr,
    /// Local port.
    pub port: TcpPort,
    /// Device it is bound to, or none.
    pub dev: DevIndex,
    /// Backlog (Send-Q).
    pub backlog: u32,
    /// Connections in the accept queue (Recv-Q).
    pub recv_q: u32,
    /// What becomes of its connections.
    pub then: Then,
    /// SO_REUSEPORT
    pub reuseport: bool,
    /// IPV6_V6ONLY
    pub v6only: bool,
    /// Owner.
    pub uid: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_prints_as_its_family_does() {
        let addr = "198.18.0.1".parse::<IpAddr>().expect("a test address").into();
        let end = |family| SocketAddr::from(Endpoint { family, addr, port: TcpPort(80) }).to_string();
        assert_eq!(end(Family::Inet), "198.18.0.1:80");
        assert_eq!(end(Family::Inet6), "[::ffff:198.18.0.1]:80");
    }
}
