//! Below TCP: what is wrong with a packet, where it goes and where it comes from. `ip_rcv_core`, `ip_rcv_options`,
//! `ip_route_input_slow`, `ip6_rcv_core`, `tcp_v4_rcv`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ANY, CLOSED, Cases, DISCARD, QUEUE, plain};
use crate::parity::compare::Families;
use crate::parity::frame::{self, ACK, Ip, Link, SYN, Tcp};
use crate::parity::server::{SERVER_V4, SERVER_V6};
use crate::parity::talk::Talk;

pub fn add(cases: &mut Cases) {
    add_broken(cases);
    add_addresses(cases);
    add_options(cases);
    add_extensions(cases);
    add_fragments(cases);
    add_links(cases);
}

/// A SYN in changed headers, to a listener and to nobody.
fn both_ports(
    cases: &mut Cases,
    families: Families,
    name: &str,
    change: impl Fn(&mut Link, &mut Ip) + Copy + 'static,
) {
    for (dport, which) in [(ANY, "listener"), (CLOSED, "nobody")] {
        cases.add_for(families, format!("{name}, {which}"), dport, move |talk| {
            let syn = Tcp { options: plain(), ..talk.tcp(SYN) };
            talk.send_in("SYN", &syn, change);
            let ack = talk.tcp(ACK);
            talk.send_in("ACK", &ack, change);
        });
    }
}

fn add_broken(cases: &mut Cases) {
    use Families::{Both, V4, V6};
    cases.group("broken");
    for (dport, which) in [(DISCARD, "listener"), (CLOSED, "nobody")] {
        let mut case = |name: &str, change: fn(&mut Tcp)| {
            cases.add(format!("{name}, {which}"), dport, move |talk| {
                for flags in [SYN, ACK] {
                    let mut tcp = Tcp { options: plain(), ..talk.tcp(flags) };
                    change(&mut tcp);
                    talk.send("segment", &tcp);
                }
            });
        };
        case("wrong checksum", |tcp| tcp.bad_checksum = true);
        case("wrong checksum and data", |tcp| (tcp.bad_checksum, tcp.payload) = (true, vec![1; 33]));
        case("odd length", |tcp| tcp.payload = vec![1; 33]);
        case("offset 0", |tcp| tcp.header_words = Some(0));
        case("offset 4", |tcp| tcp.header_words = Some(4));
        case("offset 5 with options behind", |tcp| tcp.header_words = Some(5));
        case("offset one beyond the end", |tcp| tcp.header_words = Some(7));
        case("offset 15 beyond the end", |tcp| tcp.header_words = Some(15));
        case("offset 15", |tcp| (tcp.header_words, tcp.payload) = (Some(15), vec![1; 50]));
        case("no octet of TCP", |tcp| tcp.truncate = Some(0));
        case("8 octets of TCP", |tcp| tcp.truncate = Some(8));
        case("19 octets of TCP", |tcp| tcp.truncate = Some(19));
        case("20 octets of 24", |tcp| tcp.truncate = Some(20));
    }
    both_ports(cases, V4, "wrong IP checksum", |_, ip| ip.bad_checksum = true);
    both_ports(cases, Both, "IP version 0", |_, ip| ip.version = Some(0));
    both_ports(cases, Both, "IP version 5", |_, ip| ip.version = Some(5));
    both_ports(cases, V4, "IP version 6", |_, ip| ip.version = Some(6));
    both_ports(cases, V6, "IP version 4", |_, ip| ip.version = Some(4));
    both_ports(cases, V4, "IP header of 4 words", |_, ip| ip.header_words = Some(4));
    both_ports(cases, V4, "IP header of 15 words", |_, ip| ip.header_words = Some(15));
    both_ports(cases, Both, "IP length one too long", |_, ip| ip.length_error = 1);
    both_ports(cases, Both, "IP length one too short", |_, ip| ip.length_error = -1);
    both_ports(cases, V4, "IP length below its header", |_, ip| ip.length_error = -30);
    both_ports(cases, V6, "IP length 0", |_, ip| ip.length_error = -24);
    both_ports(cases, Both, "IP protocol 6 with TTL 1", |_, ip| ip.ttl = 1);
    both_ports(cases, Both, "TTL 0", |_, ip| ip.ttl = 0);
    both_ports(cases, Both, "UDP", |_, ip| ip.protocol = frame::UDP);
    both_ports(cases, Both, "unknown protocol", |_, ip| ip.protocol = 253);
}

fn add_addresses(cases: &mut Cases) {
    use Families::{V4, V6};
    cases.group("addresses");
    let multicast = [0x01, 0, 0x5e, 0, 0, 1];
    both_ports(cases, V4, "to the subnet's broadcast", |link, ip| {
        (link.dst, ip.dst) = ([0xff; 6], Ipv4Addr::new(198, 18, 0, 255).into());
    });
    both_ports(cases, V4, "to the subnet's broadcast by unicast", |_, ip| {
        ip.dst = Ipv4Addr::new(198, 18, 0, 255).into();
    });
    both_ports(cases, V4, "to the subnet's old broadcast", |_, ip| {
        ip.dst = Ipv4Addr::new(198, 18, 0, 0).into()
    });
    both_ports(cases, V4, "to all", |link, ip| (link.dst, ip.dst) = ([0xff; 6], Ipv4Addr::BROADCAST.into()));
    both_ports(cases, V4, "to all by unicast", |_, ip| ip.dst = Ipv4Addr::BROADCAST.into());
    both_ports(cases, V4, "to a group", move |link, ip| {
        (link.dst, ip.dst) = (multicast, Ipv4Addr::new(224, 0, 0, 1).into());
    });
    both_ports(cases, V4, "to a group by unicast", |_, ip| ip.dst = Ipv4Addr::new(224, 0, 0, 1).into());
    both_ports(cases, V4, "to another host", |_, ip| ip.dst = Ipv4Addr::new(198, 18, 0, 77).into());
    both_ports(cases, V4, "to another network", |_, ip| ip.dst = Ipv4Addr::new(198, 19, 0, 77).into());
    both_ports(cases, V4, "to 0.0.0.0", |_, ip| ip.dst = Ipv4Addr::UNSPECIFIED.into());
    both_ports(cases, V4, "to 127.0.0.1", |_, ip| ip.dst = Ipv4Addr::LOCALHOST.into());
    both_ports(cases, V4, "to 240.0.0.1", |_, ip| ip.dst = Ipv4Addr::new(240, 0, 0, 1).into());
    for (name, src) in [
        ("0.0.0.0", Ipv4Addr::UNSPECIFIED),
        ("0.0.0.1", Ipv4Addr::new(0, 0, 0, 1)),
        ("127.0.0.1", Ipv4Addr::LOCALHOST),
        ("the server itself", SERVER_V4),
        ("all", Ipv4Addr::BROADCAST),
        ("the subnet's broadcast", Ipv4Addr::new(198, 18, 0, 255)),
        ("a group", Ipv4Addr::new(224, 0, 0, 1)),
        ("class E", Ipv4Addr::new(240, 0, 0, 1)),
        ("another network", Ipv4Addr::new(198, 19, 0, 77)),
        ("a link-local address", Ipv4Addr::new(169, 254, 1, 1)),
    ] {
        both_ports(cases, V4, &format!("from {name}"), move |_, ip| ip.src = src.into());
    }
    let group: Ipv6Addr = "ff02::1".parse().expect("an address");
    both_ports(cases, V6, "to all nodes", move |link, ip| {
        (link.dst, ip.dst) = ([0x33, 0x33, 0, 0, 0, 1], group.into());
    });
    both_ports(cases, V6, "to all nodes by unicast", move |_, ip| ip.dst = group.into());
    for (name, dst) in [
        ("another host", "2001:db8::77"),
        ("another network", "2001:db8:1::77"),
        ("::", "::"),
        ("::1", "::1"),
        ("a mapped address", "::ffff:198.18.0.1"),
    ] {
        let dst: IpAddr = dst.parse().expect("an address");
        both_ports(cases, V6, &format!("to {name}"), move |_, ip| ip.dst = dst);
    }
    for (name, src) in [
        ("::", "::"),
        ("::1", "::1"),
        ("a group", "ff02::1"),
        ("a mapped address", "::ffff:198.18.0.2"),
        ("a compatible address", "::198.18.0.2"),
        ("another network", "2001:db8:1::77"),
    ] {
        let src: IpAddr = src.parse().expect("an address");
        both_ports(cases, V6, &format!("from {name}"), move |_, ip| ip.src = src);
    }
    both_ports(cases, V6, "from the server itself", |_, ip| ip.src = SERVER_V6.into());
}

fn add_options(cases: &mut Cases) {
    cases.group("IP options");
    let sets: [(&str, &[u8]); 24] = [
        ("nops", &[1, 1, 1, 1]),
        ("end", &[0, 0, 0, 0]),
        ("nop, end, rubbish", &[1, 0, 9, 9]),
        ("record route", &[7, 7, 4, 0, 0, 0, 0, 0]),
        ("record route, full", &[7, 7, 8, 1, 1, 1, 1, 0]),
        ("record route, bad pointer", &[7, 7, 3, 0, 0, 0, 0, 0]),
        ("timestamps", &[68, 8, 5, 0, 0, 0, 0, 0]),
        ("timestamps, full and overflowing", &[68, 8, 9, 0xf0, 0, 0, 0, 0]),
        ("loose source route, at its end", &[131, 7, 8, 198, 18, 0, 9, 0]),
        ("loose source route, to come", &[131, 7, 4, 198, 18, 0, 9, 0]),
        ("strict source route, at its end", &[137, 7, 8, 198, 18, 0, 9, 0]),
        ("router alert", &[148, 4, 0, 0]),
        ("security", &[130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("unknown", &[222, 4, 1, 2]),
        ("length 0", &[222, 0, 1, 2]),
        ("length beyond the end", &[222, 9, 1, 2]),
        ("record route twice", &[7, 7, 8, 1, 1, 1, 1, 7, 7, 8, 1, 1, 1, 1, 0, 0]),
        ("timestamps twice", &[68, 4, 5, 0, 68, 4, 5, 0]),
        ("timestamps of no known kind", &[68, 8, 5, 2, 0, 0, 0, 0]),
        ("timestamps of addresses, full and overflowing", &[68, 8, 9, 0xf3, 0, 0, 0, 0]),
        ("router alert, too short", &[148, 3, 0, 0]),
        ("labels of domain 0", &[134, 8, 0, 0, 0, 0, 1, 2]),
        ("labels of another domain", &[134, 10, 0, 0, 0, 3, 1, 4, 0, 0, 0, 0]),
        ("labels, too short", &[134, 4, 0, 0]),
    ];
    for (name, options) in sets {
        for (dport, which) in [(QUEUE, "listener"), (CLOSED, "nobody")] {
            cases.add_for(Families::V4, format!("{name}, {which}"), dport, move |talk| {
                let syn = Tcp { options: plain(), ..talk.tcp(SYN) };
                talk.send_in("SYN", &syn, |_, ip| ip.options = options.to_vec());
                let ack = talk.tcp(ACK);
                talk.send_in("ACK", &ack, |_, ip| ip.options = options.to_vec());
                talk.send("ACK without", &ack);
            });
        }
    }
}

fn add_extensions(cases: &mut Cases) {
    cases.group("extension headers");
    let sets: [(&str, u8, &[u8]); 31] = [
        ("hop-by-hop", 0, &[6, 0, 1, 4, 0, 0, 0, 0]),
        ("hop-by-hop with pads of one", 0, &[6, 0, 0, 0, 0, 0, 0, 0]),
        ("hop-by-hop, router alert", 0, &[6, 0, 5, 2, 0, 0, 1, 0]),
        ("hop-by-hop, unknown to skip", 0, &[6, 0, 0x1e, 4, 0, 0, 0, 0]),
        ("hop-by-hop, unknown to discard", 0, &[6, 0, 0x5e, 4, 0, 0, 0, 0]),
        ("hop-by-hop, unknown to report", 0, &[6, 0, 0x9e, 4, 0, 0, 0, 0]),
        ("hop-by-hop, option beyond its end", 0, &[6, 0, 1, 9, 0, 0, 0, 0]),
        ("destination options", 60, &[6, 0, 1, 4, 0, 0, 0, 0]),
        ("destination options of two words", 60, &[6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("destination options, unknown to discard", 60, &[6, 0, 0x5e, 4, 0, 0, 0, 0]),
        ("destination options, unknown to report", 60, &[6, 0, 0x9e, 4, 0, 0, 0, 0]),
        ("hop-by-hop and destination options", 0, &[60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0]),
        ("destination options, then hop-by-hop", 60, &[0, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0]),
        (
            "destination options, eight",
            60,
            &[6, 2, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 1, 4, 0, 0, 0, 0],
        ),
        (
            "destination options, nine",
            60,
            &[6, 2, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 1, 2, 0, 0],
        ),
        (
            "hop-by-hop, eight",
            0,
            &[6, 2, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 1, 4, 0, 0, 0, 0],
        ),
        (
            "hop-by-hop, nine",
            0,
            &[6, 2, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 30, 0, 1, 2, 0, 0],
        ),
        ("hop-by-hop, router alert of three", 0, &[6, 0, 5, 3, 0, 0, 0, 0]),
        ("hop-by-hop, IOAM", 0, &[6, 0, 1, 0, 49, 2, 0, 0]),
        ("hop-by-hop, IOAM misaligned", 0, &[6, 0, 0, 49, 3, 0, 0, 0]),
        ("hop-by-hop, CALIPSO", 0, &[6, 1, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0]),
        ("hop-by-hop, CALIPSO too short", 0, &[6, 0, 7, 4, 0, 0, 0, 0]),
        ("routing of type 0, done", 43, &[6, 0, 0, 0, 0, 0, 0, 0]),
        ("routing of type 2, done", 43, &[6, 0, 2, 0, 0, 0, 0, 0]),
        ("routing of type 4, done", 43, &[6, 0, 4, 0, 0, 0, 0, 0]),
        ("routing of an unknown type, done", 43, &[6, 0, 99, 0, 0, 0, 0, 0]),
        ("routing of an unknown type, to come", 43, &[6, 0, 99, 1, 0, 0, 0, 0]),
        ("atomic fragment", 44, &[6, 0, 0, 0, 0, 0, 0, 7]),
        ("authentication", 51, &[6, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]),
        ("no next header", 59, &[0, 0, 0, 0, 0, 0, 0, 0]),
        ("mobility", 135, &[59, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (name, first, headers) in sets {
        for (dport, which) in [(QUEUE, "listener"), (CLOSED, "nobody")] {
            cases.add_for(Families::V6, format!("{name}, {which}"), dport, move |talk| {
                let syn = Tcp { options: plain(), ..talk.tcp(SYN) };
                talk.send_in("SYN", &syn, |_, ip| {
                    (ip.first_extension, ip.options) = (first, headers.to_vec())
                });
                let ack = talk.tcp(ACK);
                talk.send("ACK without", &ack);
            });
        }
    }
}

fn add_fragments(cases: &mut Cases) {
    cases.group("fragments");
    for (name, fragment) in
        [("first", 0x2000), ("middle", 0x2001), ("last", 0x0001), ("reserved bit", 0x8000), ("may be", 0)]
    {
        cases.add_for(Families::V4, format!("one alone: {name}"), QUEUE, move |talk| {
            let syn = Tcp { options: plain(), ..talk.tcp(SYN) };
            let id = talk.sport;
            talk.send_in("SYN", &syn, |_, ip| (ip.fragment, ip.id) = (fragment, id));
        });
    }
    cases.add_for(Families::V4, "a SYN in two", QUEUE, |talk| {
        let frames = in_two(talk, |talk, ip, offset, more| {
            ip.id = talk.sport;
            ip.fragment = (offset / 8) | if more { 0x2000 } else { 0 };
        });
        talk.transmit("both", &frames);
    });
    cases.add_for(Families::V6, "a SYN in two", QUEUE, |talk| {
        let frames = in_two(talk, |talk, ip, offset, more| {
            ip.first_extension = 44;
            let at = (offset | u16::from(more)).to_be_bytes();
            let id = talk.sport.to_be_bytes();
            ip.options = [&[frame::TCP, 0][..], &at, &[0, 0], &id].concat();
        });
        talk.transmit("both", &frames);
    });
}

/// A SYN with data as two fragments, the header in the first.
fn in_two(talk: &Talk<'_>, mark: impl Fn(&Talk<'_>, &mut Ip, u16, bool)) -> Vec<Vec<u8>> {
    let whole = talk.ip(frame::TCP);
    let octets = frame::segment(&whole, &Tcp { options: plain(), payload: vec![1; 20], ..talk.tcp(SYN) });
    let halves = [(&octets[..24], 0, true), (&octets[24..], 24, false)];
    let frame = |(part, offset, more): (&[u8], u16, bool)| {
        let mut ip = talk.ip(frame::TCP);
        mark(talk, &mut ip, offset, more);
        frame::frame(&talk.link(), &ip, part)
    };
    halves.into_iter().map(frame).collect()
}

fn add_links(cases: &mut Cases) {
    use Families::Both;
    cases.group("links");
    both_ports(cases, Both, "padded to the least length", |link, _| link.padding = 6);
    both_ports(cases, Both, "padded by 100 octets", |link, _| link.padding = 100);
    both_ports(cases, Both, "cut by one octet", |link, _| link.cut = 1);
    both_ports(cases, Both, "cut inside the TCP header", |link, _| link.cut = 10);
    both_ports(cases, Both, "cut inside the IP header", |link, _| link.cut = 30);
    both_ports(cases, Both, "to the broadcast MAC address", |link, _| link.dst = [0xff; 6]);
    both_ports(cases, Both, "to a group's MAC address", |link, _| link.dst = [0x33, 0x33, 0, 0, 0, 1]);
    both_ports(cases, Both, "to another MAC address", |link, _| link.dst = [2, 0, 0, 0, 0, 9]);
    both_ports(cases, Both, "of an unknown EtherType", |link, _| link.ethertype = Some(0x88b5));
    both_ports(cases, Families::V4, "of the other family's EtherType", |link, _| {
        link.ethertype = Some(0x86dd)
    });
    both_ports(cases, Families::V6, "of the other family's EtherType", |link, _| {
        link.ethertype = Some(0x0800)
    });
    both_ports(cases, Both, "of an EtherType that is a length", |link, _| link.ethertype = Some(40));
}
