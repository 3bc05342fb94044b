//! bind(2), listen(2) and shutdown(2) of both families, each check in the kernel's order.
//!
//! # Source
//! Linux v6.18 net/ipv4/af_inet.c and net/ipv6/af_inet6.c.

use crate::control::{Control, Net};
use crate::devices::is_linklocal;
use crate::error::ListenError;
use crate::sockaddr::{AddrFamily, Caller, How, SockAddr};
use crate::types::{Backlog, DevIndex, InetAddr, TcpPort};

/// Octets of a `sockaddr_in6` that an older caller passes: all but `sin6_scope_id` (RFC 2133).
const SIN6_LEN_RFC2133: u8 = 24;

/// Binds an IPv4 socket.
///
/// # Errors
/// In this order: [`ListenError::AddrTooShort`], [`ListenError::AddrFamily`], [`ListenError::AddrNotLocal`],
/// [`ListenError::PrivilegedPort`], [`ListenError::AlreadyBound`], [`ListenError::AddrInUse`]. The socket is then as
/// before, but for an address that waited for its port: that goes back to the wildcard when the port is refused.
///
/// # Source
/// Linux v6.18 `inet_bind_sk`, `__inet_bind`.
pub(crate) fn inet_bind(
    control: &mut Control,
    net: &Net,
    fd: u32,
    addr: &SockAddr,
    caller: Caller,
) -> Result<(), ListenError> {
    let sock = control.socks.linked(fd);
    check_inet_addr(net, addr, sock.freebind())?;
    check_port(net, addr.port, caller)?;
    if sock.listener.is_some() || sock.num.0 != 0 {
        return Err(ListenError::AlreadyBound);
    }
    let addr_lock = addr.v4 != 0;
    take_port(control, net, fd, InetAddr::v4(addr.v4), addr.port, addr_lock)
}

/// Binds an IPv6 socket. Privilege and state are asked before the address, unlike IPv4.
///
/// # Errors
/// In this order: [`ListenError::AddrTooShort`], [`ListenError::AddrFamily`], [`ListenError::AddrMulticast`],
/// [`ListenError::PrivilegedPort`], [`ListenError::AlreadyBound`], [`ListenError::AddrMappedV6Only`],
/// [`ListenError::AddrNeedsScope`], [`ListenError::NoSuchDevice`], [`ListenError::AddrNotLocal`],
/// [`ListenError::AddrInUse`]. The socket is then as before; see [`inet_bind`].
///
/// # Source
/// Linux v6.18 `inet6_bind_sk`, `__inet6_bind`.
pub(crate) fn inet6_bind(
    control: &mut Control,
    net: &Net,
    fd: u32,
    addr: &SockAddr,
    caller: Caller,
) -> Result<(), ListenError> {
    let local = check_inet6_shape(addr)?;
    check_port(net, addr.port, caller)?;
    let sock = control.socks.linked(fd);
    if sock.listener.is_some() || sock.num.0 != 0 {
        return Err(ListenError::AlreadyBound);
    }
    check_inet6_addr(control, net, fd, addr, local)?;
    let specific = !local.is_v4() && local != InetAddr::ANY_V6;
    let v6only = control.socks.linked(fd).v6only();
    if specific {
        control.socks.linked_mut(fd).set_v6only(true);
    }
    let taken = take_port(control, net, fd, local, addr.port, local != InetAddr::ANY_V6);
    if taken.is_err() {
        control.socks.linked_mut(fd).set_v6only(v6only);
    }
    taken
}

/// Why an accepted connection does not bind: the checks that come before "already bound".
///
/// # Errors
/// Always; [`ListenError::AlreadyBound`] if nothing else is wrong.
pub(crate) fn bind_connected(
    net: &Net,
    inet6: bool,
    addr: &SockAddr,
    caller: Caller,
) -> Result<(), ListenError> {
    if inet6 {
        check_inet6_shape(addr)?;
    } else {
        check_inet_addr(net, addr, false)?;
    }
    check_port(net, addr.port, caller)?;
    Err(ListenError::AlreadyBound)
}

/// Length, family and kind of address of an IPv6 bind.
fn check_inet6_shape(addr: &SockAddr) -> Result<InetAddr, ListenError> {
    if addr.len < SIN6_LEN_RFC2133 {
        return Err(ListenError::AddrTooShort);
    }
    if addr.family != AddrFamily::Inet6 {
        return Err(ListenError::AddrFamily);
    }
    let local = InetAddr::from(addr.v6);
    if local.is_multicast() && !local.is_v4() {
        return Err(ListenError::AddrMulticast);
    }
    Ok(local)
}

/// Length, family and address of an IPv4 bind.
fn check_inet_addr(net: &Net, addr: &SockAddr, freebind: bool) -> Result<(), ListenError> {
    if addr.len < SockAddr::LEN_V4 {
        return Err(ListenError::AddrTooShort);
    }
    let unspec_any = addr.family == AddrFamily::Unspec && addr.v4 == 0;
    if addr.family != AddrFamily::Inet && !unspec_any {
        return Err(ListenError::AddrFamily);
    }
    let anywhere = net.sysctl().ip_nonlocal_bind || freebind;
    let valid = anywhere || net.devices.inet_addr_valid(addr.v4);
    if valid { Ok(()) } else { Err(ListenError::AddrNotLocal) }
}

/// Whether the address may be bound to: the family-specific half of [`inet6_bind`].
fn check_inet6_addr(
    control: &mut Control,
    net: &Net,
    fd: u32,
    addr: &SockAddr,
    local: InetAddr,
) -> Result<(), ListenError> {
    let sock = control.socks.linked_mut(fd);
    let anywhere_v4 = net.sysctl().ip_nonlocal_bind || sock.freebind();
    let anywhere_v6 = net.sysctl().ipv6_ip_nonlocal_bind || sock.freebind();
    if let Some(v4) = local.as_v4() {
        if sock.v6only() {
            return Err(ListenError::AddrMappedV6Only);
        }
        let valid = anywhere_v4 || net.devices.inet_addr_valid(v4);
        return if valid { Ok(()) } else { Err(ListenError::AddrNotLocal) };
    }
    if local == InetAddr::ANY_V6 {
        return Ok(());
    }
    if is_linklocal(local) {
        if addr.len >= SockAddr::LEN_V6 && addr.scope_id != 0 {
            let scope = u16::try_from(addr.scope_id).map(DevIndex).unwrap_or(DevIndex(u16::MAX));
            sock.dev = scope;
        }
        if sock.dev == DevIndex::NONE {
            return Err(ListenError::AddrNeedsScope);
        }
    }
    let dev = bound(sock.dev);
    if dev.is_some_and(|dev| !net.devices.exists(dev)) {
        return Err(ListenError::NoSuchDevice);
    }
    if anywhere_v6 || net.devices.ipv6_chk_addr(local, dev) { Ok(()) } else { Err(ListenError::AddrNotLocal) }
}

fn bound(dev: DevIndex) -> Option<DevIndex> {
    (dev != DevIndex::NONE).then_some(dev)
}

/// `inet_port_requires_bind_service`
fn check_port(net: &Net, port: TcpPort, caller: Caller) -> Result<(), ListenError> {
    let privileged = port.0 != 0 && port.0 < net.sysctl().ip_unprivileged_port_start;
    if privileged && !caller.cap_net_bind_service { Err(ListenError::PrivilegedPort) } else { Ok(()) }
}

/// The half of bind that both families share: address, port, locks.
fn take_port(
    control: &mut Control,
    net: &Net,
    fd: u32,
    addr: InetAddr,
    port: TcpPort,
    addr_lock: bool,
) -> Result<(), ListenError> {
    let sock = control.socks.linked_mut(fd);
    sock.addr = addr;
    if (port.0 != 0 || !sock.no_port())
        && let Err(error) = control.get_port(net, fd, port)
    {
        control.socks.linked_mut(fd).reset_saddr();
        return Err(error);
    }
    let sock = control.socks.linked_mut(fd);
    sock.set_addr_lock(sock.addr_lock() || addr_lock);
    sock.set_port_lock(sock.port_lock() || port.0 != 0);
    sock.sport = sock.num;
    Ok(())
}

/// Moves a socket to LISTEN, or changes the backlog of one that is there. `backlog` is clamped already.
///
/// # Errors
/// Those of [`Control::listen_start`].
///
/// # Source
/// Linux v6.18 `inet_listen`, `__inet_listen_sk`. That the caller names an unconnected stream socket in CLOSE or LISTEN
/// is in the type of what `fd` stands for: connections are another kind of entry.
pub(crate) fn inet_listen(
    control: &mut Control,
    net: &Net,
    fd: u32,
    backlog: Backlog,
) -> Result<(), ListenError> {
    if let Some(slot) = control.socks.linked(fd).listener {
        // A second listen() may only change the backlog.
        net.slot(slot.id()).set_max_ack_backlog(backlog);
        return Ok(());
    }
    control.listen_start(net, fd, backlog)
}

/// Ends LISTEN without closing the socket; a port that was not asked for is released.
///
/// # Errors
/// [`ListenError::NotConnected`] in CLOSE.
///
/// # Source
/// Linux v6.18 `inet_shutdown`, `tcp_disconnect`.
pub(crate) fn inet_shutdown(control: &mut Control, net: &Net, fd: u32, how: How) -> Result<(), ListenError> {
    if control.socks.linked(fd).listener.is_none() {
        return Err(ListenError::NotConnected);
    }
    if how == How::Wr {
        return Ok(());
    }
    control.listen_stop(net, fd);
    // An address that was not chosen is the wildcard already, so only the port may have to go.
    if !control.socks.linked(fd).port_lock() {
        control.put_port(net, fd);
    }
    Ok(())
}
