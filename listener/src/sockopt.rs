//! Socket options: what they take, what they give, and what they do to a socket that lives already.

use std::sync::Arc;

use crate::control::{Control, Net};
use crate::error::{Errno, ListenError};
use crate::inet_connection_sock::{key_of, list_entry};
use crate::listen_sock::ListenSock;
use crate::sock::{Child, Sock};
use crate::sock_reuseport::Select;
use crate::types::{DevIndex, TcpState};

/// An option with the value it is set to. Numbers are as setsockopt(2) takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
#[non_exhaustive]
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

/// Smallest TCP_MAXSEG (`TCP_MIN_MSS`), and the largest (`MAX_TCP_WINDOW`).
const MAXSEG: std::ops::RangeInclusive<i32> = 88..=32_767;
/// `MAX_TCP_SYNCNT`
const SYNCNT: std::ops::RangeInclusive<i32> = 1..=127;
/// `TCP_MSS_DEFAULT`: what TCP_MAXSEG says before there is a connection.
const MSS_DEFAULT: i32 = 536;
/// `TCP_TIMEOUT_INIT` and `TCP_RTO_MAX` in seconds.
const TIMEOUT_INIT: i32 = 1;
const RTO_MAX: i32 = 120;
/// `net.ipv4.tcp_syn_retries`, which only TCP_SYNCNT of a socket without its own shows.
const TCP_SYN_RETRIES: i32 = 6;

/// Sets an option of a socket. In LISTEN the workers follow the new value at once; conflict rules are not run again.
///
/// # Errors
/// [`ListenError::OptionAfterBind`], [`ListenError::NoSuchDevice`], [`ListenError::NoSuchOption`],
/// [`ListenError::BadOptionValue`]; nothing changed then.
///
/// # Source
/// Linux v6.18 `sk_setsockopt` (net/core/sock.c), `do_tcp_setsockopt`, `do_ip_setsockopt`, `do_ipv6_setsockopt`.
pub(crate) fn setsockopt(
    control: &mut Control,
    net: &Net,
    fd: u32,
    opt: SockOpt<'_>,
) -> Result<(), ListenError> {
    match opt {
        SockOpt::ReuseAddr(on) => {
            control.binds.reclass(&mut control.socks, fd, |sock| sock.set_reuse(on));
            slot(control, net, fd, |slot| slot.set_reuse(on));
        }
        SockOpt::ReusePort(on) => {
            control.binds.reclass(&mut control.socks, fd, |sock| sock.set_reuseport(on));
            slot(control, net, fd, |slot| slot.set_reuseport(on));
            rehash(control, net, fd);
        }
        SockOpt::V6Only(on) => {
            let sock = control.socks.linked_mut(fd);
            if !sock.inet6() {
                return Err(ListenError::NoSuchOption);
            }
            if sock.num.0 != 0 {
                return Err(ListenError::OptionAfterBind);
            }
            sock.set_v6only(on);
        }
        SockOpt::BindToDevice(name) => {
            let dev = match name {
                "" => DevIndex::NONE,
                name => net.devices.by_name(name).ok_or(ListenError::NoSuchDevice)?,
            };
            control.binds.reclass(&mut control.socks, fd, |sock| sock.dev = dev);
            slot(control, net, fd, |slot| slot.set_dev(dev));
            rehash(control, net, fd);
        }
        SockOpt::IncomingCpu(core) => {
            control.socks.linked_mut(fd).incoming_cpu = i16::try_from(core).unwrap_or(-1).max(-1);
            rehash(control, net, fd);
        }
        SockOpt::DeferAccept(seconds) => {
            let timeouts = secs_to_retrans(seconds);
            control.socks.linked_mut(fd).defer = timeouts;
            slot(control, net, fd, |slot| slot.set_defer(timeouts));
        }
        SockOpt::Freebind(on) => control.socks.linked_mut(fd).set_freebind(on),
        SockOpt::BindAddressNoPort(on) => control.socks.linked_mut(fd).set_no_port(on),
        SockOpt::LocalPortRange(range) => {
            let (low, high) = (range as u16, (range >> 16) as u16);
            if low != 0 && high != 0 && low > high {
                return Err(ListenError::BadOptionValue);
            }
            control.socks.linked_mut(fd).port_range = (low, high);
        }
        SockOpt::MaxSeg(octets) => {
            if octets != 0 && !MAXSEG.contains(&octets) {
                return Err(ListenError::BadOptionValue);
            }
            control.socks.linked_mut(fd).user_mss = octets as u16;
            slot(control, net, fd, |slot| slot.set_mss_clamp(octets as u16));
        }
        SockOpt::SynCnt(retries) => {
            if !SYNCNT.contains(&retries) {
                return Err(ListenError::BadOptionValue);
            }
            control.socks.linked_mut(fd).syn_retries = retries as u8;
            slot(control, net, fd, |slot| slot.set_syn_retries(retries as u8));
        }
    }
    Ok(())
}

/// Changes the slot of a listening socket; nothing if it does not listen.
fn slot(control: &Control, net: &Net, fd: u32, change: impl FnOnce(&ListenSock)) {
    if let Some(listener) = control.socks.linked(fd).listener {
        change(net.slot(listener.id()));
    }
}

/// Shows a listening socket's changed options to lookups. Its place and its group stay.
fn rehash(control: &Control, net: &Net, fd: u32) {
    let sock = control.socks.linked(fd);
    let Some(listener) = sock.listener else { return };
    let now = list_entry(sock, listener.id());
    // An entry that is there already needs no room.
    let _ = net.hash.update(key_of(sock), |list| {
        list.edit(listener.id(), |entry| {
            entry.reuseport = now.reuseport;
            entry.dev = now.dev;
            entry.incoming_cpu = now.incoming_cpu;
            entry.uid = now.uid;
        })
    });
}

/// Remembers a socket's rule for its group, and puts it in force if the socket listens.
pub(crate) fn attach_selector(control: &mut Control, net: &Net, fd: u32, selector: Option<Arc<dyn Select>>) {
    let sock = control.socks.linked(fd);
    if let Some(listener) = sock.listener {
        let rule = selector.clone();
        // A group that is there already needs no room.
        let _ = net.hash.update(key_of(sock), |list| {
            if let Some(group) = list.group_of_mut(listener.id()) {
                group.set_selector(rule);
            }
        });
    }
    match selector {
        Some(selector) => control.selectors.insert(fd, selector),
        None => control.selectors.remove(&fd),
    };
}

/// Reads an option of a socket that is not a connection.
///
/// # Errors
/// [`ListenError::NoSuchOption`]: IPV6_V6ONLY of an IPv4 socket.
pub(crate) fn getsockopt(sock: &Sock, name: SockOptName) -> Result<i32, ListenError> {
    Ok(match name {
        SockOptName::ReuseAddr => sock.reuse().into(),
        SockOptName::ReusePort => sock.reuseport().into(),
        SockOptName::V6Only if !sock.inet6() => return Err(ListenError::NoSuchOption),
        SockOptName::V6Only => sock.v6only().into(),
        SockOptName::BindToIfIndex => sock.dev.0.into(),
        SockOptName::IncomingCpu => sock.incoming_cpu.into(),
        SockOptName::DeferAccept => retrans_to_secs(sock.defer),
        SockOptName::Freebind => sock.freebind().into(),
        SockOptName::BindAddressNoPort => sock.no_port().into(),
        SockOptName::LocalPortRange => i32::from(sock.port_range.1) << 16 | i32::from(sock.port_range.0),
        SockOptName::MaxSeg if sock.user_mss == 0 => MSS_DEFAULT,
        SockOptName::MaxSeg => sock.user_mss.into(),
        SockOptName::SynCnt if sock.syn_retries == 0 => TCP_SYN_RETRIES,
        SockOptName::SynCnt => sock.syn_retries.into(),
        SockOptName::AcceptConn => sock.listener.is_some().into(),
        SockOptName::Error => 0,
    })
}

/// Sets an option of a connection: those that its local port depends on.
///
/// # Errors
/// [`ListenError::NoSuchOption`] for all others.
pub(crate) fn setsockopt_child(child: &Child, net: &Net, opt: SockOpt<'_>) -> Result<(), ListenError> {
    let Some(core) = net.cores.get(usize::from(child.child.core.0)) else { return Ok(()) };
    let info = core.child(child.child);
    let (reuse, reuseport) = info.map_or((false, false), |info| (info.reuse, info.reuseport));
    match opt {
        SockOpt::ReuseAddr(on) => core.set_reuse(child.child, on, reuseport),
        SockOpt::ReusePort(on) => core.set_reuse(child.child, reuse, on),
        _ => return Err(ListenError::NoSuchOption),
    }
    Ok(())
}

/// Reads an option of a connection: only those that a connection answers by itself.
///
/// # Errors
/// [`ListenError::NoSuchOption`] for all others.
pub(crate) fn getsockopt_child(child: &mut Child, net: &Net, name: SockOptName) -> Result<i32, ListenError> {
    let info = net.cores.get(usize::from(child.child.core.0)).and_then(|core| core.child(child.child));
    match name {
        SockOptName::AcceptConn => Ok(0),
        SockOptName::ReuseAddr => Ok(info.is_some_and(|info| info.reuse).into()),
        SockOptName::ReusePort => Ok(info.is_some_and(|info| info.reuseport).into()),
        SockOptName::Error => {
            let error = match info {
                Some(info) if info.state == TcpState::Close => info.error,
                Some(_) => None,
                None => Some(Errno::ECONNRESET),
            };
            let unread = error.filter(|_| !child.error_read);
            child.error_read |= error.is_some();
            Ok(unread.map_or(0, Errno::number).into())
        }
        _ => Err(ListenError::NoSuchOption),
    }
}

/// Seconds as a number of SYN-ACK timeouts, rounded up.
///
/// # Source
/// Linux v6.18 `secs_to_retrans` (net/ipv4/tcp.c).
fn secs_to_retrans(seconds: i32) -> u8 {
    if seconds <= 0 {
        return 0;
    }
    let (mut timeouts, mut timeout, mut period) = (1_u8, TIMEOUT_INIT, TIMEOUT_INIT);
    while seconds > period && timeouts < u8::MAX {
        timeouts += 1;
        timeout = (timeout << 1).min(RTO_MAX);
        period += timeout;
    }
    timeouts
}

/// The other way round: `retrans_to_secs` (Linux v6.18).
fn retrans_to_secs(timeouts: u8) -> i32 {
    let (mut period, mut timeout) = (0, TIMEOUT_INIT);
    for _ in 0..timeouts {
        period += timeout;
        timeout = (timeout << 1).min(RTO_MAX);
    }
    period
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_round_up_to_periods() {
        for (seconds, shown) in
            [(-1, 0), (0, 0), (1, 1), (2, 3), (4, 7), (5, 7), (30, 31), (100, 127), (128, 247)]
        {
            assert_eq!(retrans_to_secs(secs_to_retrans(seconds)), shown, "{seconds} s");
        }
        assert_eq!(secs_to_retrans(i32::MAX), u8::MAX);
    }
}
