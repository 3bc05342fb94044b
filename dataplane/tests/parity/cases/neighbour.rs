//! Beside TCP: ARP, neighbour discovery, echo. `arp_process`, `ndisc_recv_ns`, `icmp_echo`, `icmpv6_echo_reply`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Cases, QUEUE};
use crate::parity::compare::Families;
use crate::parity::frame::{self, Ip, Link};
use crate::parity::server::{CLIENT_V4, SERVER_V4, SERVER_V6};
use crate::parity::talk::Talk;

pub fn add(cases: &mut Cases) {
    add_arp(cases);
    add_ndp(cases);
    add_echo(cases);
}

/// An ARP packet.
struct Arp {
    operation: u16,
    sender: Ipv4Addr,
    target: Ipv4Addr,
    /// Octets of its eight that say what it is about, if not Ethernet and IPv4.
    kind: [u8; 6],
    len: usize,
}

const REQUEST: Arp =
    Arp { operation: 1, sender: CLIENT_V4, target: SERVER_V4, kind: [0, 1, 8, 0, 6, 4], len: 28 };

fn arp(talk: &mut Talk<'_>, label: &str, dst: [u8; 6], arp: &Arp) {
    let link = Link { dst, ..talk.link() };
    let mut octets = arp.kind.to_vec();
    octets.extend(arp.operation.to_be_bytes());
    octets.extend(link.src);
    octets.extend(arp.sender.octets());
    octets.extend([0; 6]);
    octets.extend(arp.target.octets());
    octets.truncate(arp.len);
    talk.transmit(label, &[frame::ether(&link, 0x0806, &octets)]);
}

fn add_arp(cases: &mut Cases) {
    cases.group("ARP");
    let broadcast = [0xff; 6];
    cases.add_for(Families::V4, "requests", QUEUE, move |talk| {
        arp(talk, "by broadcast", broadcast, &REQUEST);
        let unicast = talk.link().dst;
        arp(talk, "by unicast", unicast, &REQUEST);
        arp(talk, "from 0.0.0.0", broadcast, &Arp { sender: Ipv4Addr::UNSPECIFIED, ..REQUEST });
        arp(
            talk,
            "from another network",
            broadcast,
            &Arp { sender: Ipv4Addr::new(198, 19, 0, 9), ..REQUEST },
        );
        for (from, sender) in [
            ("a group", Ipv4Addr::new(224, 0, 0, 5)),
            ("all", Ipv4Addr::BROADCAST),
            ("127.0.0.5", Ipv4Addr::new(127, 0, 0, 5)),
            ("class E", Ipv4Addr::new(240, 0, 0, 1)),
            ("0.1.2.3", Ipv4Addr::new(0, 1, 2, 3)),
            ("the subnet's broadcast", Ipv4Addr::new(198, 18, 0, 255)),
        ] {
            arp(talk, &format!("from {from}"), broadcast, &Arp { sender, ..REQUEST });
        }
        arp(talk, "for another", broadcast, &Arp { target: Ipv4Addr::new(198, 18, 0, 77), ..REQUEST });
        arp(talk, "for the broadcast", broadcast, &Arp { target: Ipv4Addr::new(198, 18, 0, 255), ..REQUEST });
        arp(talk, "for 127.0.0.1", broadcast, &Arp { target: Ipv4Addr::LOCALHOST, ..REQUEST });
        arp(talk, "to another MAC address", [2, 0, 0, 0, 0, 9], &REQUEST);
    });
    cases.add_for(Families::V4, "malformed and others", QUEUE, move |talk| {
        arp(talk, "reply", broadcast, &Arp { operation: 2, ..REQUEST });
        arp(talk, "operation 3", broadcast, &Arp { operation: 3, ..REQUEST });
        arp(talk, "not of Ethernet", broadcast, &Arp { kind: [0, 99, 8, 0, 6, 4], ..REQUEST });
        arp(talk, "not of IPv4", broadcast, &Arp { kind: [0, 1, 8, 1, 6, 4], ..REQUEST });
        arp(talk, "MAC of 5 octets", broadcast, &Arp { kind: [0, 1, 8, 0, 5, 4], ..REQUEST });
        arp(talk, "cut", broadcast, &Arp { len: 27, ..REQUEST });
    });
    cases.add_for(Families::V4, "claims to the server's address", QUEUE, move |talk| {
        arp(talk, "announcement", broadcast, &Arp { sender: SERVER_V4, ..REQUEST });
        arp(talk, "reply", broadcast, &Arp { sender: SERVER_V4, operation: 2, ..REQUEST });
    });
}

/// Sends a solicitation for `target`.
fn solicit(
    talk: &mut Talk<'_>,
    label: &str,
    target: Ipv6Addr,
    options: &[u8],
    change: impl FnOnce(&mut Link, &mut Ip),
) {
    let (mut link, mut ip) = (talk.link(), talk.ip(frame::ICMPV6));
    ip.ttl = 255;
    change(&mut link, &mut ip);
    let rest = [&[0; 4][..], &target.octets(), options].concat();
    talk.transmit(label, &[frame::frame(&link, &ip, &frame::icmp(&ip, 135, 0, &rest))]);
}

fn add_ndp(cases: &mut Cases) {
    cases.group("NDP");
    let group: IpAddr = "ff02::1:ff00:1".parse().expect("an address");
    let group_mac = [0x33, 0x33, 0xff, 0, 0, 1];
    let source = [1, 1, 2, 0, 0, 0, 0, 2];
    cases.add_for(Families::V6, "solicitations", QUEUE, move |talk| {
        solicit(talk, "by unicast", SERVER_V6, &source, |_, _| {});
        solicit(talk, "by unicast, without link address", SERVER_V6, &[], |_, _| {});
        solicit(talk, "by multicast", SERVER_V6, &source, |link, ip| (link.dst, ip.dst) = (group_mac, group));
        let another: Ipv6Addr = "2001:db8::77".parse().expect("an address");
        solicit(talk, "for another", another, &source, |_, _| {});
        solicit(talk, "for a group", "ff02::1".parse().expect("an address"), &source, |_, _| {});
        solicit(talk, "from another network", SERVER_V6, &source, |_, ip| {
            ip.src = "2001:db8:1::9".parse().expect("an address");
        });
    });
    cases.add_for(Families::V6, "probes for duplicates", QUEUE, move |talk| {
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        solicit(talk, "by multicast", SERVER_V6, &[], |link, ip| {
            (link.dst, ip.dst, ip.src) = (group_mac, group, any);
        });
        solicit(talk, "by unicast", SERVER_V6, &[], |_, ip| ip.src = any);
        solicit(talk, "with a link address", SERVER_V6, &source, |link, ip| {
            (link.dst, ip.dst, ip.src) = (group_mac, group, any);
        });
    });
    cases.add_for(Families::V6, "malformed", QUEUE, move |talk| {
        solicit(talk, "hop limit 254", SERVER_V6, &source, |_, ip| ip.ttl = 254);
        solicit(talk, "option of length 0", SERVER_V6, &[1, 0, 0, 0, 0, 0, 0, 0], |_, _| {});
        solicit(talk, "option beyond the end", SERVER_V6, &[1, 2, 0, 0, 0, 0, 0, 0], |_, _| {});
        solicit(talk, "unknown option", SERVER_V6, &[99, 1, 0, 0, 0, 0, 0, 0], |_, _| {});
        solicit(talk, "extension header", SERVER_V6, &[], |_, ip| {
            (ip.first_extension, ip.options) = (0, vec![58, 0, 1, 4, 0, 0, 0, 0]);
        });
    });
}

/// Sends an ICMP message.
fn icmp(
    talk: &mut Talk<'_>,
    label: &str,
    kinds: (u8, u8),
    rest: &[u8],
    change: impl FnOnce(&mut Link, &mut Ip),
) {
    let protocol = if talk.v6 { frame::ICMPV6 } else { frame::ICMP };
    let (mut link, mut ip) = (talk.link(), talk.ip(protocol));
    change(&mut link, &mut ip);
    let kind = if talk.v6 { kinds.1 } else { kinds.0 };
    talk.transmit(label, &[frame::frame(&link, &ip, &frame::icmp(&ip, kind, 0, rest))]);
}

fn add_echo(cases: &mut Cases) {
    cases.group("echo");
    let echo = (8, 128);
    cases.add("requests", QUEUE, move |talk| {
        for len in [0, 1, 2, 3, 56, 57, 1000, 1400] {
            let rest = [vec![7, 7, 0, 1], vec![b'e'; len]].concat();
            icmp(talk, &format!("{len} octets"), echo, &rest, |_, _| {});
        }
        let rest = [7, 7, 0, 2, 1, 2, 3, 4];
        icmp(talk, "TOS and TTL", echo, &rest, |_, ip| (ip.tos, ip.ttl) = (0xb8, 3));
        icmp(talk, "may be fragmented", echo, &rest, |_, ip| ip.fragment = 0);
        icmp(talk, "padded", echo, &rest, |link, _| link.padding = 10);
        icmp(talk, "to a broadcast MAC address", echo, &rest, |link, _| link.dst = [0xff; 6]);
    });
    cases.add("other messages", QUEUE, move |talk| {
        icmp(talk, "reply", (0, 129), &[7, 7, 0, 1], |_, _| {});
        icmp(talk, "timestamp", (13, 200), &[7, 7, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], |_, _| {});
        icmp(talk, "unknown", (200, 201), &[7, 7, 0, 1], |_, _| {});
        icmp(talk, "too short", echo, &[7, 7], |_, _| {});
    });
    cases.add("a wrong checksum", QUEUE, move |talk| {
        let protocol = if talk.v6 { frame::ICMPV6 } else { frame::ICMP };
        let ip = talk.ip(protocol);
        let mut message = frame::icmp(&ip, if talk.v6 { 128 } else { 8 }, 0, &[7, 7, 0, 1]);
        message[2] ^= 1;
        talk.transmit("request", &[frame::frame(&talk.link(), &ip, &message)]);
    });
    cases.add_for(Families::V4, "to more than one", QUEUE, move |talk| {
        let rest = [7, 7, 0, 1];
        icmp(talk, "subnet", echo, &rest, |link, ip| {
            (link.dst, ip.dst) = ([0xff; 6], Ipv4Addr::new(198, 18, 0, 255).into());
        });
        icmp(talk, "group", echo, &rest, |link, ip| {
            (link.dst, ip.dst) = ([1, 0, 0x5e, 0, 0, 1], Ipv4Addr::new(224, 0, 0, 1).into());
        });
    });
    cases.add_for(Families::V6, "to more than one", QUEUE, move |talk| {
        let rest = [7, 7, 0, 1];
        for (label, group) in [("all nodes", "ff02::1"), ("all routers", "ff02::2")] {
            let dst: IpAddr = group.parse().expect("an address");
            icmp(talk, label, echo, &rest, |link, ip| (link.dst, ip.dst) = ([0x33, 0x33, 0, 0, 0, 1], dst));
        }
    });
}
