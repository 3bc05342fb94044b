//! What the kernel says of this network namespace: interfaces, and the addresses that are local. By rtnetlink, which unlike
//! `/sys` always speaks of the namespace of the process.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use hearken_bpf::claim::Local;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Octets of IP in a frame.
    pub mtu: u32,
    /// Of a VLAN interface: the interface below and the VLAN identifier.
    pub vlan: Option<(u32, u16)>,
    /// It is one end of a veth.
    pub is_veth: bool,
}

/// A destination that is delivered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LocalRoute {
    addr: IpAddr,
    prefix_len: u8,
    interface: u32,
}

/// Interfaces and local destinations.
#[derive(Clone, Debug, Default)]
pub struct Net {
    links: Vec<Link>,
    locals: Vec<LocalRoute>,
}

/// The table of local destinations (`RT_TABLE_LOCAL`).
const TABLE_LOCAL: u8 = 255;

impl Net {
    /// As it is now.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn read() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut net = Self::default();
        dump(&socket, RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                net.links.push(read_link(&link));
            }
        })?;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.table = TABLE_LOCAL;
            dump(&socket, RouteNetlinkMessage::GetRoute(request), |message| {
                if let RouteNetlinkMessage::NewRoute(route) = message {
                    net.locals.extend(read_local(&route));
                }
            })?;
        }
        Ok(net)
    }

    /// The interface `name`.
    ///
    /// # Errors
    /// There is none; says which there are.
    pub fn link(&self, name: &str) -> Result<Link, String> {
        self.links.iter().find(|link| link.name == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = self.links.iter().map(|link| link.name.as_str()).collect();
            format!("there is no interface \"{name}\"; there are: {} (see \"ip link\")", names.join(", "))
        })
    }

    /// The interface of number `index`.
    pub fn of_index(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The addresses of this host itself, loopback and link-local ones aside, each with its interface.
    pub fn own_addresses(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        let host = |addr: IpAddr| if addr.is_ipv4() { 32 } else { 128 };
        let own = self.locals.iter().filter(move |local| local.prefix_len == host(local.addr));
        own.filter(|local| is_served(local.addr))
            .map(|local| (local.addr, self.of_index(local.interface).map_or("", |link| link.name.as_str())))
    }

    /// True if nothing was read: there is always a loopback interface.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// True if there is an interface of this number.
    pub fn has(&self, index: u32) -> bool {
        self.links.iter().any(|link| link.index == index)
    }

    /// The VLAN interfaces on top of `base`.
    pub fn vlans_of(&self, base: u32) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |link| link.vlan.is_some_and(|(below, _)| below == base))
    }

    /// What is local to frames that come in by the interface `index`: every local destination but loopback and link-local
    /// ones, with the VLAN that it is in on this interface.
    pub fn locals_for(&self, index: u32) -> HashSet<Local> {
        let vid = |interface: u32| {
            let link = self.links.iter().find(|link| link.index == interface);
            link.and_then(|link| link.vlan).filter(|(below, _)| *below == index).map_or(0, |(_, vid)| vid)
        };
        let routes = self.locals.iter().filter(|route| is_served(route.addr));
        routes
            .map(|route| Local { addr: route.addr, prefix_len: route.prefix_len, vid: vid(route.interface) })
            .collect()
    }
}

/// Loopback never comes by a wire; link-local addresses mean something together with their interface only.
fn is_served(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, ..Link::default() };
    let (mut below, mut vid) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                link.is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                for info in infos {
                    let LinkInfo::Data(InfoData::Vlan(data)) = info else { continue };
                    vid = data.iter().find_map(|data| match data {
                        InfoVlan::Id(id) => Some(*id),
                        _ => None,
                    });
                }
            }
            _ => {}
        }
    }
    link.vlan = below.zip(vid);
    link
}

fn read_local(message: &RouteMessage) -> Option<LocalRoute> {
    let header = &message.header;
    if header.table != TABLE_LOCAL || header.kind != RouteType::Local {
        return None;
    }
    let (mut addr, mut interface) = (None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => addr = Some(IpAddr::V4(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => addr = Some(IpAddr::V6(*v6)),
            RouteAttribute::Oif(index) => interface = *index,
            _ => {}
        }
    }
    Some(LocalRoute { addr: addr?, prefix_len: header.destination_prefix_length, interface })
}

/// Asks for everything of a kind; `each` gets the answers.
fn dump(
    socket: &Socket,
    request: RouteNetlinkMessage,
    mut each: impl FnMut(RouteNetlinkMessage),
) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut octets = vec![0; message.buffer_len()];
    message.serialize(&mut octets);
    socket.send(&octets, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = &answer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // Aligned as the kernel packs them.
            let len = (message.header.length as usize).next_multiple_of(4).min(rest.len());
            if len == 0 {
                return Ok(());
            }
            rest = &rest[len..];
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(inner) => each(inner),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there_and_serves_nothing() {
        let net = Net::read().expect("rtnetlink");
        let lo = net.link("lo").expect("every namespace has one");
        assert!(net.has(lo.index) && lo.mtu > 0 && lo.vlan.is_none());
        assert!(net.locals_for(lo.index).iter().all(|local| is_served(local.addr)));
        assert!(net.link("nosuch0").expect_err("no such").contains("lo"));
    }

    #[test]
    fn addresses_stand_in_their_vlan() {
        let link =
            |index: u32, name: &str, vlan| Link { index, name: name.into(), mtu: 1500, vlan, is_veth: false };
        let local = |text: &str, prefix_len, interface| LocalRoute {
            addr: text.parse().expect("an address"),
            prefix_len,
            interface,
        };
        let net = Net {
            links: vec![
                link(1, "lo", None),
                link(2, "a", None),
                link(3, "a.5", Some((2, 5))),
                link(4, "b", None),
            ],
            locals: vec![
                local("127.0.0.0", 8, 1),
                local("198.18.0.1", 32, 2),
                local("198.18.5.1", 32, 3),
                local("198.19.0.0", 16, 1),
                local("fe80::1", 128, 2),
                local("2001:db8::1", 128, 4),
            ],
        };
        let mut vids: Vec<(String, u8, u16)> = net
            .locals_for(2)
            .iter()
            .map(|local| (local.addr.to_string(), local.prefix_len, local.vid))
            .collect();
        vids.sort();
        let expected =
            [("198.18.0.1", 32, 0), ("198.18.5.1", 32, 5), ("198.19.0.0", 16, 0), ("2001:db8::1", 128, 0)];
        assert_eq!(vids, expected.map(|(addr, len, vid)| (addr.to_owned(), len, vid)));
        assert!(
            net.locals_for(4).iter().all(|local| local.vid == 0),
            "another interface's VLAN is none here"
        );
        assert_eq!(net.vlans_of(2).map(|link| link.index).collect::<Vec<_>>(), [3]);
    }
}
