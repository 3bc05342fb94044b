//! What a connection has behind hearken is what Linux alone gives it: options of real clients, a full accept queue, replays.

#![cfg(feature = "kernel")]

mod beside;
mod lab;
#[path = "parity/mod.rs"]
mod parity;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use beside::{SERVER_V6, Site, kernel_counter, turn, wait_for, wait_until_adopted};
use lab::{Hearken, SERVER, run, skip};
use parity::frame::{Ip, Link, Tcp, frame, segment};
use parity::raw::RawSocket;

/// The SYNs of 144 real systems.
const REAL_SYNS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/cases/real-syns.pcap");
/// A client that no kernel answers for: the test is its stack.
const PEER_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 77);
const PEER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77);
const PATIENCE: Duration = Duration::from_secs(5);

/// What a SYN says besides its addresses and ports.
#[derive(Clone, Debug)]
struct Asked {
    flags: u16,
    window: u16,
    options: Vec<u8>,
}

/// The SYNs in the file; those of systems that the tests were written for, where it is not there.
fn real_syns() -> Vec<Asked> {
    let Ok(file) = std::fs::File::open(REAL_SYNS) else {
        let options = [parity::frame::option::all(1), parity::frame::option::mss(1460), Vec::new()];
        return options.map(|options| Asked { flags: 2, window: 64_240, options }).into();
    };
    let mut reader = pcap_file::pcap::PcapReader::new(file).expect("a capture");
    let (mut syns, mut packets) = (Vec::new(), 0);
    while let Some(packet) = reader.next_packet() {
        let packet = packet.expect("a packet");
        packets += 1;
        // A few say more octets of options than they have, which no system takes.
        let Ok(sliced) = etherparse::SlicedPacket::from_ethernet(&packet.data) else { continue };
        let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { continue };
        let flags = u16::from_be_bytes([tcp.slice()[12], tcp.slice()[13]]) & 0x0fff;
        syns.push(Asked { flags, window: tcp.window_size(), options: tcp.options().to_vec() });
    }
    assert!(packets == 144 && syns.len() > 135, "{} of {packets} packets are whole SYNs", syns.len());
    syns
}

/// The number behind the option `kind`, as far as it has one of `len` octets.
fn option_value(options: &[u8], kind: u8, len: u8) -> Option<u32> {
    let mut at = 0;
    while let Some(&found) = options.get(at) {
        match found {
            0 => return None,
            1 => at += 1,
            _ => {
                let size = *options.get(at + 1)?;
                if found == kind && size == len {
                    let value = options.get(at + 2..at + usize::from(size))?;
                    return Some(value.iter().take(4).fold(0, |value, octet| value << 8 | u32::from(*octet)));
                }
                at += usize::from(size.max(2));
            }
        }
    }
    None
}

/// A server with a listener and a raw peer at the other end of the wire; with hearken in front, or Linux alone.
struct End {
    site: Site,
    hearken: Option<Hearken>,
    listener: TcpListener,
    raw: RawSocket,
    server_mac: [u8; 6],
}

impl End {
    fn new(with_hearken: bool) -> io::Result<Self> {
        Self::with(with_hearken.then_some(""))
    }

    /// With hearken where there is something to configure, even if it is nothing.
    fn with(more: Option<&str>) -> io::Result<Self> {
        let site = Site::new()?;
        let hearken = more.map(|more| site.shield(more)).transpose()?;
        let listener = site.listen((Ipv6Addr::UNSPECIFIED, 9))?;
        if let Some(hearken) = &hearken {
            wait_until_adopted(hearken, (Ipv6Addr::UNSPECIFIED, 9).into());
        }
        let raw = RawSocket::open(&site.client, "hk1")?;
        let server_mac = RawSocket::open(&site.server, "hk0")?.mac();
        let mac = raw.mac().map(|octet| format!("{octet:02x}")).join(":");
        for peer in [IpAddr::from(PEER_V4), PEER_V6.into()] {
            site.server.ip(&format!("neigh replace {peer} lladdr {mac} dev hk0"))?;
        }
        Ok(Self { site, hearken, listener, raw, server_mac })
    }

    fn send(&self, v4: bool, tcp: &Tcp) {
        let (src, dst): (IpAddr, IpAddr) =
            if v4 { (PEER_V4.into(), SERVER.into()) } else { (PEER_V6.into(), SERVER_V6.into()) };
        let ip = Ip::new(src, dst, 6);
        let link = Link { src: self.raw.mac(), dst: self.server_mac, ethertype: None, padding: 0, cut: 0 };
        self.raw.send(&frame(&link, &ip, &segment(&ip, tcp))).expect("sent");
    }

    /// The next segment to `port` with these flags: its header and options.
    fn segment(&self, port: u16, flags: u16, patience: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + patience;
        while let Some(frame) = self.raw.recv(deadline).expect("the wire") {
            let Some((ethertype, at)) =
                frame.get(12..14).map(|ethertype| (ethertype, if ethertype == [8, 0] { 34 } else { 54 }))
            else {
                continue;
            };
            let protocol = if ethertype == [8, 0] { frame.get(23) } else { frame.get(20) };
            let Some(tcp) = frame.get(at..).filter(|tcp| tcp.len() >= 20 && protocol == Some(&6)) else {
                continue;
            };
            let found = u16::from_be_bytes([tcp[12], tcp[13]]) & 0x3f;
            if tcp[2..4] == port.to_be_bytes() && found & 0x3f & !0x08 == flags {
                return Some(tcp.to_vec());
            }
        }
        None
    }

    /// A handshake as `asked` by a client of port `sport`: what the accepted socket has; none if no SYN-ACK came.
    fn handshake(&self, v4: bool, sport: u16, asked: &Asked) -> Option<(Vec<String>, Tcp)> {
        let ack = self.half_open(v4, sport, asked)?;
        Some((self.finish(v4, asked, &ack), ack))
    }

    /// Sends a SYN as `asked`; the ACK that ends the handshake, which is not sent yet. None if no SYN-ACK came.
    fn half_open(&self, v4: bool, sport: u16, asked: &Asked) -> Option<Tcp> {
        let seq = 0x1000_0000 + u32::from(sport);
        let syn = Tcp {
            sport,
            dport: 9,
            seq,
            flags: asked.flags,
            window: asked.window,
            options: asked.options.clone(),
            ..Tcp::default()
        };
        self.send(v4, &syn);
        let answer = self
            .segment(sport, 0x12, Duration::from_millis(500))
            .or_else(|| self.segment(sport, 0x52, Duration::ZERO))?;
        let number =
            |at: usize| u32::from_be_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]]);
        let header = usize::from(answer[12] >> 4) * 4;
        let own = option_value(&asked.options, 8, 10).unwrap_or_default();
        let options = match option_value(&answer[20..header], 8, 10) {
            Some(tsval) => [
                parity::frame::option::nop(),
                parity::frame::option::nop(),
                parity::frame::option::timestamps(own.wrapping_add(1), tsval),
            ]
            .concat(),
            None => Vec::new(),
        };
        Some(Tcp {
            sport,
            dport: 9,
            seq: seq.wrapping_add(1),
            ack: number(4).wrapping_add(1),
            flags: 0x10,
            window: asked.window,
            options,
            ..Tcp::default()
        })
    }

    /// Sends the last ACK of a handshake, takes the connection and ends it: what its socket had.
    fn finish(&self, v4: bool, asked: &Asked, ack: &Tcp) -> Vec<String> {
        self.send(v4, ack);
        self.listener.set_nonblocking(true).expect("a listener");
        let deadline = Instant::now() + PATIENCE;
        let accepted = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(200)),
                Err(error) => {
                    let with = if self.hearken.is_some() { "behind hearken" } else { "with Linux alone" };
                    panic!(
                        "{asked:?}, {with}, IPv4 {v4}: no connection: {error}; the kernel: {}",
                        self.site
                            .server
                            .enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))
                            .expect("entered")
                            .expect("snmp")
                    )
                }
            }
        };
        let mut ss = self.site.server.command("ss");
        let said = run(ss.args(["-tinoH", &format!("dport = :{}", ack.sport)])).expect("ss");
        let agreed = |word: &&str| {
            matches!(*word, "ts" | "sack" | "ecn")
                || ["wscale:", "mss:", "rcvmss:", "advmss:"].iter().any(|name| word.starts_with(name))
        };
        // Which options there are, ss says with -o only.
        let mut words: Vec<String> = said.split_whitespace().filter(agreed).map(Into::into).collect();
        words.sort();
        socket2::SockRef::from(&accepted).set_linger(Some(Duration::ZERO)).expect("a socket");
        drop(accepted);
        words
    }
}

/// `mss:1448` less what timestamps take is what a cookie rounds down; the rest must be the same.
fn differs(linux: &[String], hearken: &[String]) -> Vec<String> {
    let rest = |words: &[String]| {
        words
            .iter()
            .filter(|word| !word.starts_with("mss:") && !word.starts_with("rcvmss:"))
            .cloned()
            .collect::<Vec<_>>()
    };
    let (left, right) = (rest(linux), rest(hearken));
    if left == right { Vec::new() } else { vec![format!("{left:?} by Linux, {right:?} behind hearken")] }
}

#[test]
fn real_clients_keep_their_options() {
    let _turn = turn();
    let ends = End::new(false).and_then(|linux| Ok((linux, End::new(true)?)));
    let Ok((linux, hearken)) = ends.map_err(|error| skip("options of real clients behind hearken", error))
    else {
        return;
    };
    let (mut sport, mut split, mut rounded, mut compared) = (20_000, Vec::new(), BTreeMap::new(), 0);
    for asked in real_syns() {
        for v4 in [true, false] {
            sport += 1;
            let seen = [&linux, &hearken].map(|end| end.handshake(v4, sport, &asked).map(|(words, _)| words));
            let [Some(left), Some(right)] = &seen else {
                if seen[0].is_some() != seen[1].is_some() {
                    split.push(format!(
                        "{asked:?}, IPv4 {v4}: answered by Linux {}, behind hearken {}",
                        seen[0].is_some(),
                        seen[1].is_some()
                    ));
                }
                continue;
            };
            compared += 1;
            split
                .extend(differs(left, right).into_iter().map(|what| format!("{asked:?}, IPv4 {v4}: {what}")));
            let mss = |words: &[String]| {
                words.iter().find_map(|word| word.strip_prefix("mss:")?.parse::<u32>().ok())
            };
            let (own, ours) = (mss(left), mss(right));
            // A cookie keeps one of four MSS, rounded down. The least is what the kernel takes at the least of a handshake that it has
            // not seen (bpf_sk_assign_tcp_reqsk), and what its own cookies have too: 536, over IPv6 1220.
            let least = if v4 { 536 } else { 1220 };
            assert!(ours <= own.max(Some(least)), "{asked:?}: MSS {ours:?} instead of {own:?}");
            if ours != own {
                *rounded.entry((own, ours)).or_insert(0) += 1;
            }
        }
    }
    println!("{compared} connections compared; MSS rounded: {rounded:?}");
    assert!(split.is_empty(), "{} differ:\n{}", split.len(), split.join("\n"));
    assert!(compared > 250 || !Path::new(REAL_SYNS).exists(), "{compared} connections");
    let front = hearken.hearken.as_ref().expect("it runs");
    assert_eq!(kernel_counter(front, "handover_refused"), 0);
}

/// A SYN-ACK without what depends on the moment: TSval and the checksum.
fn timeless(mut tcp: Vec<u8>) -> (Vec<u8>, Option<u32>) {
    let header = usize::from(tcp[12] >> 4) * 4;
    tcp.truncate(header);
    tcp[16..18].fill(0);
    let tsval = option_value(&tcp[20..], 8, 10);
    if let Some(at) = tcp[20..].windows(2).position(|two| two == [8, 10]) {
        tcp[20 + at + 2..20 + at + 6].fill(0);
    }
    (tcp, tsval)
}

/// Of two SYNs in one millisecond the first goes to the worker, the second is answered where it arrives: the same.
#[test]
fn an_answer_where_the_syn_arrives_is_the_workers_own() {
    let _turn = turn();
    let made = End::with(Some("redirect_per_ms = 1\n"));
    let Ok(end) = made.map_err(|error| skip("answers in place at a server behind hearken", error)) else {
        return;
    };
    let hearken = end.hearken.as_ref().expect("it runs");
    let (mut sport, mut compared) = (20_000, 0);
    for asked in real_syns() {
        for v4 in [true, false] {
            sport += 1;
            let syn = Tcp {
                sport,
                dport: 9,
                seq: 77,
                flags: asked.flags,
                window: asked.window,
                options: asked.options.clone(),
                ..Tcp::default()
            };
            end.send(v4, &syn);
            end.send(v4, &syn);
            let any = || {
                let ack = end.segment(sport, 0x12, Duration::from_millis(200));
                ack.map(timeless)
            };
            let (Some((first, before)), Some((second, after))) = (any(), any()) else { continue };
            assert_eq!(first, second, "{asked:?}, IPv4 {v4}");
            let apart = before.zip(after).map_or(0, |(before, after)| before.abs_diff(after));
            assert!(apart < 100, "{apart} ms between the two");
            compared += 1;
        }
    }
    let answered = kernel_counter(hearken, "claim_answered");
    println!("{compared} pairs compared, {answered} answered in place");
    assert!(compared > 200 && answered > 150, "{compared} pairs, {answered} in place");
}

#[test]
fn an_ack_is_good_for_its_own_flow_only() {
    let _turn = turn();
    let Ok(end) = End::new(true).map_err(|error| skip("replays at a server behind hearken", error)) else {
        return;
    };
    let asked = Asked { flags: 2, window: 64_240, options: parity::frame::option::all(1000) };
    let (_, ack) = end.handshake(true, 30_000, &asked).expect("an answer");
    let hearken = end.hearken.as_ref().expect("it runs");
    let handed = kernel_counter(hearken, "handed_over_to_kernel");
    for sport in 30_001..30_051 {
        end.send(true, &Tcp { sport, ..ack.clone() });
    }
    for other in 1..51 {
        end.send(true, &Tcp { seq: ack.seq.wrapping_add(other), ..ack.clone() });
        end.send(true, &Tcp { ack: ack.ack.wrapping_add(other << 8), ..ack.clone() });
    }
    wait_for("all to be counted", PATIENCE, || kernel_counter(hearken, "handover_bad_cookie") >= 150);
    assert_eq!(kernel_counter(hearken, "handed_over_to_kernel"), handed);
}

/// What clients, one after the other, see of a listener with a backlog of 5 that nobody accepts from.
fn crowd(with_hearken: bool) -> io::Result<(Vec<bool>, u64, u64)> {
    let site = Site::new()?;
    let hearken = with_hearken.then(|| site.shield("")).transpose()?;
    let addr = SocketAddr::from((SERVER, 9));
    let listener = site.server.enter(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&addr.into())?;
        socket.listen(5).map(|()| socket)
    })??;
    if let Some(hearken) = &hearken {
        wait_until_adopted(hearken, addr);
    }
    let mut held = Vec::new();
    let mut seen = Vec::new();
    for _ in 0..9 {
        let connected = site.connect(addr, Duration::from_millis(700));
        seen.push(connected.is_ok());
        held.extend(connected);
    }
    let (overflows, drops) =
        (site.counter("TcpExt", "ListenOverflows"), site.counter("TcpExt", "ListenDrops"));
    if let Some(hearken) = &hearken {
        let ss = hearken.json("ss").expect("ss");
        assert_eq!(ss["kernel"][0]["recv_q"], 6, "the kernel's own queue is shown: {ss}");
        assert!(kernel_counter(hearken, "claim_accept_queue_full") >= 3);
    }
    drop(listener);
    Ok((seen, overflows, drops))
}

#[test]
fn a_full_accept_queue_is_as_full_as_without_hearken() {
    let _turn = turn();
    let both = crowd(false).and_then(|linux| Ok((linux, crowd(true)?)));
    let Ok((linux, hearken)) = both.map_err(|error| skip("a crowd at a server behind hearken", error)) else {
        return;
    };
    assert_eq!(linux, hearken, "who gets in, ListenOverflows, ListenDrops: Linux alone on the left");
    assert_eq!(linux.0.iter().filter(|in_| **in_).count(), 6, "backlog and one more");
}

/// Handshakes of both families with and without timestamps, which `change` happens in the midst of: all become connections.
fn handshakes_outlive(more: &str, change: impl FnOnce(&Site, Hearken) -> Hearken) {
    let _turn = turn();
    let made = End::with(Some(more)).map_err(|error| skip("handshakes at a server behind hearken", error));
    let Ok(mut end) = made else { return };
    let kinds = [parity::frame::option::all(1000), parity::frame::option::mss(1460)];
    let asked = kinds.map(|options| Asked { flags: 2, window: 64_240, options });
    let begun: Vec<_> = (0..4u16)
        .map(|at| {
            let (v4, asked) = (at % 2 == 0, &asked[usize::from(at / 2)]);
            (v4, asked, end.half_open(v4, 31_000 + at, asked).expect("a SYN-ACK"))
        })
        .collect();
    let hearken = change(&end.site, end.hearken.take().expect("it runs"));
    for (v4, asked, ack) in begun {
        let has = end.finish(v4, asked, &ack);
        assert_eq!(has.iter().any(|word| word == "ts"), asked.options.len() > 4, "{has:?}");
    }
    wait_until_adopted(&hearken, (Ipv6Addr::UNSPECIFIED, 9).into());
    end.hearken = Some(hearken);
    end.handshake(true, 31_100, &asked[0]).expect("new ones are answered");
    assert_eq!(
        end.site.counter("TcpExt", "SyncookiesSent"),
        0,
        "none of these SYN-ACKs was the kernel's own"
    );
}

#[test]
fn handshakes_outlive_a_change_of_keys() {
    handshakes_outlive("", |_, hearken| {
        let before = hearken.json("cookie-keys show").expect("keys");
        hearken.ctl("cookie-keys rotate").expect("new keys");
        let after = hearken.json("cookie-keys show").expect("keys");
        assert_ne!(before["current"], after["current"]);
        hearken
    });
}

#[test]
fn handshakes_outlive_a_kill_and_a_start_with_other_keys() {
    handshakes_outlive("", |site, mut hearken| {
        hearken.signal("KILL").expect("it runs");
        hearken.wait().expect("it ends");
        site.shield("").expect("a start on what was left")
    });
}

#[test]
fn handshakes_outlive_a_stop_and_a_start_with_the_same_secret() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("secret");
    let secret: String = (0..48u8).map(|octet| format!("{:02x}", octet.wrapping_mul(37))).collect();
    std::fs::write(&file, secret).expect("a file");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a file");
    let more = format!("[cookies]\nsecret_file = {file:?}\n");
    handshakes_outlive(&more, |site, mut hearken| {
        hearken.signal("TERM").expect("it runs");
        let (status, said) = hearken.wait().expect("it ends");
        assert!(status.is_some_and(|status| status.success()), "{said}");
        site.shield(&more).expect("another one")
    });
}
