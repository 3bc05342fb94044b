//! Listeners opened and closed on request, one or as many as a range has ports.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use listener::Stack;
use listener::error::ListenError;
use listener::sockaddr::{Caller, Family, ListenerRow, SockAddr};
use listener::sockopt::SockOpt;
use listener::types::SockFd;

use super::proto::{Closed, Listen, Listening, Refusal, Reply, Which};
use super::server::Peer;
use super::service::{Desk, Devices, describe, dev_index, local, refuse};
use crate::config::then_name;

/// Descriptors that a refusal names.
const NAMED_MAX: usize = 16;

/// A listener that is open.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What was asked for, perhaps with many ports.
    pub listen: Arc<Listen>,
    /// Its descriptor.
    pub fd: SockFd,
}

/// Opens the listener of `listen` at `addr`: socket, options, bind, listen; what fails leaves nothing behind.
///
/// # Errors
/// The first call that said no.
pub fn open(stack: &Stack, addr: SocketAddr, listen: &Listen, caller: Caller) -> Result<SockFd, ListenError> {
    let family = if addr.is_ipv4() { Family::Inet } else { Family::Inet6 };
    let fd = stack.socket(family, caller.uid)?;
    let opened = (|| {
        stack.setsockopt(fd, SockOpt::ReusePort(listen.reuseport))?;
        // As servers do, so that connections in TIME-WAIT do not keep a listener from coming back.
        stack.setsockopt(fd, SockOpt::ReuseAddr(true))?;
        if let Some(v6only) = listen.v6only.filter(|_| family == Family::Inet6) {
            stack.setsockopt(fd, SockOpt::V6Only(v6only))?;
        }
        if let Some(device) = &listen.device {
            stack.setsockopt(fd, SockOpt::BindToDevice(device))?;
        }
        stack.setsockopt(fd, SockOpt::DeferAccept(listen.defer_accept))?;
        stack.set_then(fd, listen.then.into())?;
        stack.bind(fd, SockAddr::from(addr), caller)?;
        stack.listen(fd, listen.backlog)
    })();
    opened.map(|()| fd).inspect_err(|_| {
        let _ = stack.close(fd, false);
    })
}

/// Opens a listener at every port of `listen`, all of them or none.
///
/// # Errors
/// The first that the stack refused, and why.
pub fn open_each(
    stack: &Stack,
    listen: &Arc<Listen>,
    caller: Caller,
) -> Result<Vec<Opened>, (SocketAddr, ListenError)> {
    let mut opened = Vec::with_capacity(listen.addr.ports.count());
    for addr in listen.addr.each() {
        match open(stack, addr, listen, caller) {
            Ok(fd) => opened.push(Opened { addr, listen: Arc::clone(listen), fd }),
            Err(error) => {
                close_each(stack, &opened);
                return Err((addr, error));
            }
        }
    }
    Ok(opened)
}

/// Closes `opened` again.
pub fn close_each(stack: &Stack, opened: &[Opened]) {
    for open in opened {
        let _ = stack.close(open.fd, false);
    }
}

/// `error` of an attempt to listen on `addr`, with what to do about it. `ports` are the names that a device can have.
pub fn refuse_listen(error: ListenError, addr: SocketAddr, ports: &[String]) -> Refusal {
    let next = match error {
        ListenError::AddrInUse => "see \"hearken ss\"; close that one, or give both reuseport".to_owned(),
        ListenError::AddrNotLocal => {
            "add the address to addresses (or its prefix to any_ip) of a [[port]], or set sysctl.ip_nonlocal_bind".into()
        }
        ListenError::PrivilegedPort => {
            "run as root, or lower sysctl.ip_unprivileged_port_start in the configuration".into()
        }
        ListenError::AddrNeedsScope => "name the port with device".into(),
        ListenError::NoSuchDevice => format!("the ports are: {}", ports.join(", ")),
        ListenError::ListenersFull => "raise limits.listeners_max, or close some".into(),
        _ => "see listen(2)".into(),
    };
    let message = format!("cannot listen on {addr}: {} Next: {next}.", error.sentence());
    Refusal { errno: Some(error.errno().name().to_owned()), message }
}

impl<D: Devices> Desk<D> {
    pub(super) fn listen(&mut self, peer: Peer, listen: &Listen) -> Result<Reply, Refusal> {
        let caller = Caller { uid: peer.uid, cap_net_bind_service: peer.uid == 0 };
        let opened = open_each(&self.stack, &Arc::new(listen.clone()), caller)
            .map_err(|(addr, error)| refuse_listen(error, addr, &self.ports))?;
        let Some(&Opened { addr, fd, .. }) = opened.first() else {
            return Err(Refusal::new(format!("{} names no port", listen.addr)));
        };
        let (listeners, fd) = (opened.len(), fd.0);
        let backlog = self.stack.tcp_info(SockFd(fd)).map(|info| info.tcpi_sacked).unwrap_or_default();
        let (addrs, then) = (&listen.addr, then_name(listen.then));
        tracing::info!(addr = %addrs, fd, listeners, uid = peer.uid, then, "listening");
        Ok(Reply::Listening(Listening { fd, addr, backlog, listeners }))
    }

    /// The listeners that `which` names, oldest first.
    fn find(&self, which: &Which) -> Vec<ListenerRow> {
        let wanted = self.ports.iter().position(|port| Some(port) == which.device.as_ref());
        let mut rows = self.stack.listeners();
        rows.retain(|row| {
            which.addr.contains(local(row))
                && which.fd.is_none_or(|fd| fd == row.fd.0)
                && (which.device.is_none() || wanted.map(dev_index) == Some(row.dev))
        });
        rows
    }

    /// The same, at least one, and all of them `peer`'s to ask for.
    pub(super) fn find_some(&self, peer: Peer, which: &Which) -> Result<Vec<ListenerRow>, Refusal> {
        let rows = self.find(which);
        if rows.is_empty() {
            let message = format!("no such listener: {}; see \"hearken ss\"", describe(which));
            return Err(Refusal::new(message));
        }
        match rows.iter().find(|row| peer.uid != 0 && row.uid != peer.uid) {
            Some(row) => Err(Refusal {
                errno: Some("EPERM".into()),
                message: format!(
                    "the listener fd={} belongs to user {}; run this as that user or as root",
                    row.fd.0, row.uid
                ),
            }),
            None => Ok(rows),
        }
    }

    /// Closes what `which` names; of several ports, what there is at them.
    pub(super) fn close(&mut self, peer: Peer, which: &Which) -> Result<Reply, Refusal> {
        let rows = self.find_some(peer, which)?;
        if !which.all
            && let Some(alike) = several_at_one_address(&rows)
        {
            let fds: Vec<String> = alike.iter().take(NAMED_MAX).map(|row| row.fd.0.to_string()).collect();
            let more = if alike.len() > NAMED_MAX { ", …" } else { "" };
            return Err(Refusal::new(format!(
                "{} listeners are on {}: fd {}{more}; choose one with --fd, or all with --all",
                alike.len(),
                describe(&Which { addr: local(alike[0]).into(), ..which.clone() }),
                fds.join(", ")
            )));
        }
        let mut closed = HashSet::with_capacity(rows.len());
        let ended = rows.iter().try_for_each(|row| {
            self.stack.close(row.fd, false).map_err(|error| refuse(error, "cannot close"))?;
            closed.insert(row.fd);
            Ok(())
        });
        self.loaded.closed(&closed);
        tracing::info!(addr = %which.addr, listeners = closed.len(), uid = peer.uid, "closed");
        ended?;
        Ok(Reply::Closed(Closed { closed: rows.iter().map(|row| row.fd.0).collect() }))
    }
}

/// The first of `rows` that have one address, if there are such.
fn several_at_one_address(rows: &[ListenerRow]) -> Option<Vec<&ListenerRow>> {
    let mut seen = HashSet::with_capacity(rows.len());
    let twice = local(rows.iter().find(|row| !seen.insert(local(row)))?);
    Some(rows.iter().filter(|row| local(row) == twice).collect())
}
