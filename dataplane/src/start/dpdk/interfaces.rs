//! The kernel's interfaces below virtual devices: whether they are up, down, or gone, as rtnetlink tells of every change.
//! Asked is only at the start, and again if news were lost, because the kernel answers under a lock that others may hold
//! for long.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The group of news about interfaces (`RTNLGRP_LINK`).
const LINK_NEWS: u32 = 1;
/// News were lost (`ENOBUFS`).
const LOST_NEWS: i32 = 105;

/// How an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Frames can pass.
    Up,
    /// It is set up and has no carrier.
    NoCarrier,
    /// It is set down.
    SetDown,
    /// It is deleted, or in another network namespace. One of the same name that comes later is another interface.
    Gone,
}

/// The interfaces that are followed.
pub(super) struct Interfaces {
    socket: Socket,
    known: BTreeMap<u32, Interface>,
}

struct Interface {
    name: String,
    state: State,
}

impl Interfaces {
    /// Follows the interfaces with these numbers.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) fn follow(indexes: impl IntoIterator<Item = u32>) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.add_membership(LINK_NEWS)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        let unseen = |index| (index, Interface { name: String::new(), state: State::Gone });
        let mut all = Self { socket, known: indexes.into_iter().map(unseen).collect() };
        all.ask()?;
        all.turn();
        Ok(all)
    }

    /// What to wait for: news.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// How the interface `index` is.
    pub(super) fn state(&self, index: u32) -> Option<State> {
        self.known.get(&index).map(|interface| interface.state)
    }

    /// What the interface `index` is called now, or was at last.
    pub(super) fn name(&self, index: u32) -> &str {
        self.known.get(&index).map_or("", |interface| &interface.name)
    }

    /// Reads the news; true if there were any.
    pub(super) fn turn(&mut self) -> bool {
        let mut any = false;
        loop {
            match self.socket.recv_from_full() {
                Ok((octets, _)) => self.read(&octets),
                Err(error) if error.raw_os_error() == Some(LOST_NEWS) => {
                    if let Err(error) = self.ask() {
                        tracing::warn!(%error, "cannot ask the kernel for its interfaces");
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // Nothing more; anything else is met again with the next news.
                Err(_) => return any,
            }
            any = true;
        }
    }

    /// Asks for each interface as it is now.
    fn ask(&self) -> io::Result<()> {
        for index in self.known.keys() {
            let mut request = LinkMessage::default();
            request.header.index = *index;
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST;
            let payload = NetlinkPayload::from(RouteNetlinkMessage::GetLink(request));
            let mut message = NetlinkMessage::new(header, payload);
            message.finalize();
            let mut octets = vec![0; message.buffer_len()];
            message.serialize(&mut octets);
            self.socket.send(&octets, 0)?;
        }
        Ok(())
    }

    fn read(&mut self, mut rest: &[u8]) {
        while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => self.take(&link, false),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => self.take(&link, true),
                _ => {}
            }
            // Aligned as the kernel packs them.
            let len = (message.header.length as usize).next_multiple_of(4).min(rest.len());
            rest = &rest[len..];
            if len == 0 {
                return;
            }
        }
    }

    fn take(&mut self, link: &LinkMessage, deleted: bool) {
        // A bridge that lets go of an interface says so in the same words, of its own family.
        if link.header.interface_family != AddressFamily::Unspec {
            return;
        }
        let Some(known) = self.known.get_mut(&link.header.index) else { return };
        let flags = link.header.flags;
        known.state = match (deleted, flags.contains(LinkFlags::Up), flags.contains(LinkFlags::Running)) {
            (true, ..) => State::Gone,
            (false, false, _) => State::SetDown,
            (false, true, false) => State::NoCarrier,
            (false, true, true) => State::Up,
        };
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        });
        if let Some(name) = name {
            known.name.clone_from(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_known_and_news_are_told_apart() {
        let mut all = Interfaces::follow([1, 0x7fff_fff0]).expect("rtnetlink");
        assert_eq!(all.name(1), "lo", "the first of every namespace");
        assert_ne!(all.state(1), Some(State::Gone));
        assert_eq!(all.state(0x7fff_fff0), Some(State::Gone), "there is none");
        assert_eq!(all.state(2), None, "not followed");
        let news = |family, flags| {
            let mut link = LinkMessage::default();
            (link.header.index, link.header.interface_family, link.header.flags) = (1, family, flags);
            link
        };
        let (up, running) = (LinkFlags::Up, LinkFlags::Up | LinkFlags::Running);
        for (family, flags, deleted, state) in [
            (AddressFamily::Unspec, running, false, State::Up),
            (AddressFamily::Bridge, up, true, State::Up),
            (AddressFamily::Unspec, up, false, State::NoCarrier),
            (AddressFamily::Unspec, LinkFlags::empty(), false, State::SetDown),
            (AddressFamily::Unspec, running, true, State::Gone),
        ] {
            all.take(&news(family, flags), deleted);
            assert_eq!(all.state(1), Some(state), "{family:?} {flags:?}");
        }
    }
}
