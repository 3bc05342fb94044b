//! Unmodified servers behind hearken: what they serve, and what clients see while hearken starts, stops, dies and is replaced.

#![cfg(feature = "kernel")]

mod beside;
mod lab;
#[path = "parity/mod.rs"]
mod parity;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use beside::{Program, SERVER_V6, Site, kernel_counter, targets, turn, wait_for, wait_until_adopted};
use lab::{Hearken, SERVER, run, skip};
use parity::frame;

/// A site with hearken and these listeners' addresses adopted; none, said aloud, without the right to make one.
fn shielded(more: &str) -> Option<(Site, Hearken)> {
    let made = Site::new().and_then(|site| {
        let hearken = site.shield(more)?;
        Ok((site, hearken))
    });
    made.map_err(|error| skip("a server behind hearken", error)).ok()
}

/// Octets that no compression or repetition hides a mistake in.
fn octets(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Every connection of the kernel's came through hearken, none through a SYN-ACK of the kernel's own.
fn all_through_hearken(site: &Site, hearken: &Hearken) {
    assert_eq!(site.counter("TcpExt", "SyncookiesSent"), 0);
    assert_eq!(site.counter("Tcp", "PassiveOpens"), kernel_counter(hearken, "handed_over_to_kernel"));
    assert_eq!(kernel_counter(hearken, "handover_refused"), 0);
}

#[test]
fn nginx_serves_files_and_keeps_connections() {
    let _turn = turn();
    let Some((site, hearken)) = shielded("") else { return };
    let root = tempfile::tempdir().expect("a directory");
    let file = octets(10_000_000);
    std::fs::write(root.path().join("file"), &file).expect("a file");
    let _nginx = beside::nginx(&site, root.path()).expect("nginx runs");
    wait_until_adopted(&hearken, (Ipv4Addr::UNSPECIFIED, 80).into());
    wait_until_adopted(&hearken, (Ipv6Addr::UNSPECIFIED, 80).into());
    for target in targets() {
        let url = format!("http://{}/file", SocketAddr::new(target, 80));
        let mut curl = site.client.command("curl");
        // Two requests on one connection.
        let got = curl.args(["-sS", "--max-time", "30", &url, &url]).output().expect("curl runs");
        assert!(got.status.success(), "{target}: {}", String::from_utf8_lossy(&got.stderr));
        assert!(
            got.stdout.len() == 2 * file.len()
                && got.stdout[..file.len()] == file
                && got.stdout[file.len()..] == file
        );
    }
    assert_eq!(site.counter("Tcp", "PassiveOpens"), 2, "one connection for two requests");
    all_through_hearken(&site, &hearken);
    let ss = hearken.ctl("ss").expect("ss");
    assert!(
        ss.lines()
            .any(|line| line.contains("0.0.0.0:80") && line.contains("kernel") && line.contains("nginx (")),
        "{ss}"
    );
    let stats = hearken.ctl("stats").expect("stats");
    assert!(stats.contains("handed_over_to_kernel") && stats.contains("round trip from SYN-ACK"), "{stats}");
}

/// The last segment of the handshake of `why`'s SYN to port 7.
fn ack_frame(ack: u32, tsecr: u32) -> Vec<u8> {
    let ip = frame::Ip::new(Ipv4Addr::new(198, 18, 0, 2).into(), SERVER.into(), 6);
    let options = [frame::option::nop(), frame::option::nop(), frame::option::timestamps(2, tsecr)].concat();
    let tcp = frame::Tcp {
        sport: 4000,
        dport: 7,
        seq: 1001,
        ack,
        flags: 0x10,
        window: 501,
        options,
        ..frame::Tcp::default()
    };
    let link =
        frame::Link { src: [2, 0, 0, 0, 0, 9], dst: [2, 0, 0, 0, 0, 1], ethertype: None, padding: 0, cut: 0 };
    frame::frame(&link, &ip, &frame::segment(&ip, &tcp))
}

/// Writes a capture file with one frame.
fn capture_of(file: &Path, octets: &[u8]) {
    let mut writer =
        pcap_file::pcap::PcapWriter::new(std::fs::File::create(file).expect("a file")).expect("a capture");
    let len = octets.len() as u32;
    writer.write_packet(&pcap_file::pcap::PcapPacket::new(Duration::ZERO, len, octets)).expect("a frame");
}

#[test]
fn why_says_what_the_hand_over_makes_of_an_ack() {
    let _turn = turn();
    let Some((site, hearken)) = shielded("") else { return };
    let _listener = site.listen((Ipv4Addr::UNSPECIFIED, 7)).expect("a listener");
    wait_until_adopted(&hearken, (Ipv4Addr::UNSPECIFIED, 7).into());
    let why = |port: u16, more: &str| {
        let asked = format!("why 198.18.0.2:4000 {} {more}", SocketAddr::new(SERVER.into(), port));
        hearken.json(&asked).expect("an answer")
    };
    let syn = why(7, "");
    assert_eq!((&syn["verdict"], &syn["outcome"]), (&"reply".into(), &"synack".into()), "{syn}");
    let reply = syn["reply_frame"].as_str().expect("a SYN-ACK");
    let cookie = u32::from_str_radix(&reply[2 * 38..2 * 42], 16).expect("a sequence number");
    let tsval = u32::from_str_radix(&reply[2 * 62..2 * 66], 16).expect("a timestamp");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("ack.pcap");
    let ack = |ack: u32, tsecr: u32, more: &str| {
        let octets = ack_frame(ack, tsecr);
        capture_of(&file, &octets);
        hearken.ctl(&format!("why --pcap {} --to-us {more}", file.display())).expect("an answer")
    };
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
    let good = json(ack(cookie.wrapping_add(1), tsval, "--json"));
    assert_eq!(good["verdict"], "handover", "{good}");
    assert_eq!(good["counters"], serde_json::json!(["handed_over_to_kernel"]));
    let sentence = good["sentence"].as_str().expect("a sentence");
    assert!(sentence.contains("MSS 1460, window scale 7, SACK, no ECN"), "{sentence}");
    let text = ack(cookie.wrapping_add(1), tsval, "");
    assert!(
        text.contains("before the workers") && text.contains("verdict   handover: Its cookie is good"),
        "{text}"
    );
    for (number, tsecr, counter) in [
        (cookie.wrapping_add(2), tsval, "handover_bad_cookie"),
        (cookie.wrapping_add(1), tsval ^ 1 << 30, "handover_bad_timestamp"),
    ] {
        let refused = json(ack(number, tsecr, "--json"));
        assert_eq!((&refused["verdict"], &refused["counters"][0]), (&"kernel".into(), &counter.into()));
    }
    // Not in front of that port; nor of what is no SYN and no ACK.
    for told in [why(8, ""), why(8, "--flags A --ack 1"), why(7, "--flags R")] {
        assert_eq!((&told["verdict"], told["reply"].is_null()), (&"kernel".into(), true), "{told}");
    }
    assert_eq!(kernel_counter(&hearken, "handed_over_to_kernel"), 0, "nothing was counted");
}

#[test]
fn ten_megabytes_go_both_ways_and_half_a_connection_closes() {
    let _turn = turn();
    let Some((site, hearken)) = shielded("") else { return };
    let listener = site.listen((Ipv6Addr::UNSPECIFIED, 7)).expect("a dual-stack listener");
    wait_until_adopted(&hearken, (Ipv6Addr::UNSPECIFIED, 7).into());
    let (stop, sent) = (AtomicBool::new(false), octets(10_000_000));
    std::thread::scope(|scope| {
        scope.spawn(|| beside::serve_echo(&listener, &stop));
        let outcome: io::Result<()> = targets().into_iter().try_for_each(|target| {
            let back = beside::echo(site.connect((target, 7), Duration::from_secs(5))?, &sent)?;
            assert!(back == sent, "{target}: {} of {} octets came back", back.len(), sent.len());
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        outcome.expect("both ways");
    });
    all_through_hearken(&site, &hearken);
}

#[test]
fn many_connections_one_by_one_and_at_once() {
    let _turn = turn();
    let Some((site, hearken)) = shielded("") else { return };
    let listener = site.server.enter(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 9)).into())?;
        socket.listen(4096).map(|()| std::net::TcpListener::from(socket))
    });
    let listener = listener.expect("entered").expect("a listener");
    wait_until_adopted(&hearken, (Ipv6Addr::UNSPECIFIED, 9).into());
    let (stop, accepted) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            listener.set_nonblocking(true).expect("a listener");
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok(_) => drop(accepted.fetch_add(1, Ordering::Relaxed)),
                    Err(_) => std::thread::yield_now(),
                }
            }
        });
        let connects = |times: usize| -> io::Result<()> {
            for at in 0..times {
                let target = targets()[at % 2];
                let mut stream =
                    std::net::TcpStream::connect_timeout(&(target, 9).into(), Duration::from_secs(5))?;
                // The server closes first, so that its side keeps the TIME-WAIT and client ports can be used again.
                stream.read_to_end(&mut Vec::new())?;
            }
            Ok(())
        };
        let one_by_one = site.client.enter(|| connects(10_000));
        let at_once = site.client.enter(|| {
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..500).map(|_| scope.spawn(|| connects(1))).collect();
                all.into_iter().try_for_each(|one| one.join().expect("no panic"))
            })
        });
        stop.store(true, Ordering::Relaxed);
        one_by_one.expect("entered").expect("10,000 connections one by one");
        at_once.expect("entered").expect("500 connections at once");
    });
    assert_eq!(accepted.load(Ordering::Relaxed), 10_500);
    // SYNs that meet a TIME-WAIT entry are the kernel's, and it answers those itself.
    let by_kernel = kernel_counter(&hearken, "claim_known_flow");
    let handed = kernel_counter(&hearken, "handed_over_to_kernel");
    assert!(handed + by_kernel >= 10_500 && handed > 9_000, "{handed} handed over, {by_kernel} left");
    assert_eq!(site.counter("TcpExt", "SyncookiesSent"), 0);
}

/// The keys of sshd and of its user.
fn make_keys(path: &impl Fn(&str) -> String) {
    for key in ["host", "user"] {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]))
            .expect("a key");
    }
}

#[test]
fn sshd_and_python_serve_as_they_are_packaged() {
    let _turn = turn();
    let Some((site, hearken)) = shielded("") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    make_keys(&path);
    std::fs::create_dir_all("/run/sshd").expect("sshd's directory");
    let mut sshd = site.server.command(Path::new("/usr/sbin/sshd"));
    sshd.args([
        "-D",
        "-f",
        "/dev/null",
        "-h",
        &path("host"),
        "-p",
        "22",
        "-o",
        "UsePAM=no",
        "-o",
        "StrictModes=no",
    ]);
    sshd.args([
        "-o",
        "PermitRootLogin=yes",
        "-o",
        &format!("AuthorizedKeysFile={}", path("user.pub")),
        "-o",
        "PidFile=none",
    ]);
    let _sshd = Program::start(&site.server, &mut sshd, 22).expect("sshd runs");
    std::fs::write(dir.path().join("page"), "by python\n").expect("a file");
    let mut python = site.server.command(Path::new("python3"));
    python.args(["-m", "http.server", "-b", "::", "-d", &path(""), "8000"]);
    let _python = Program::start(&site.server, &mut python, 8000).expect("python runs");
    wait_until_adopted(&hearken, (Ipv6Addr::UNSPECIFIED, 22).into());
    wait_until_adopted(&hearken, (Ipv6Addr::UNSPECIFIED, 8000).into());
    for target in targets() {
        let mut ssh = site.client.command("ssh");
        ssh.args([
            "-F",
            "none",
            "-i",
            &path("user"),
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]);
        let said = run(ssh.args([
            "-o",
            "ConnectTimeout=10",
            "-l",
            "root",
            &target.to_string(),
            "echo",
            "by",
            "sshd",
        ]));
        assert_eq!(said.expect("a session"), "by sshd\n");
        let mut curl = site.client.command("curl");
        let said = run(curl.args([
            "-sS",
            "--max-time",
            "20",
            &format!("http://{}/page", SocketAddr::new(target, 8000)),
        ]));
        assert_eq!(said.expect("a page"), "by python\n");
    }
    all_through_hearken(&site, &hearken);
}

/// A server in Go: its runtime opens sockets and waits for them in its own way.
#[test]
fn prometheus_serves_as_it_is_packaged() {
    let _turn = turn();
    let Some((site, hearken)) = shielded("") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("prometheus.yml"), "scrape_configs: []\n").expect("a file");
    let mut prometheus = site.server.command(Path::new("prometheus"));
    prometheus.args(["--web.listen-address=:9090", &format!("--config.file={}", path("prometheus.yml"))]);
    prometheus.arg(format!("--storage.tsdb.path={}", path("data")));
    let _prometheus = Program::start(&site.server, &mut prometheus, 9090).expect("prometheus runs");
    wait_until_adopted(&hearken, (Ipv6Addr::UNSPECIFIED, 9090).into());
    for target in targets() {
        let url = format!("http://{}/-/healthy", SocketAddr::new(target, 9090));
        let mut curl = site.client.command("curl");
        let said = run(curl.args(["-sS", "--max-time", "20", &url, &url])).expect("a page");
        assert_eq!(said.matches("Healthy").count(), 2, "{said}");
    }
    assert_eq!(site.counter("Tcp", "PassiveOpens"), 2, "connections are kept for the second request");
    all_through_hearken(&site, &hearken);
}

/// Connections a client makes, one every five milliseconds, until told to stop: how many, which failed, and the longest one.
fn keep_connecting(site: &Site, stop: &AtomicBool) -> (u32, Vec<String>, Duration) {
    let connect = || {
        let (mut count, mut failed, mut longest) = (0, Vec::new(), Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let target = targets()[count as usize % 2];
            let got = std::net::TcpStream::connect_timeout(&(target, 9).into(), Duration::from_secs(10))
                .and_then(|mut stream| {
                    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                    stream.write_all(b"x")?;
                    let mut back = [0];
                    stream.read_exact(&mut back)
                });
            if let Err(error) = got {
                failed.push(format!("connection {count} after {:?}: {error}", begin.elapsed()));
            }
            count += 1;
            longest = longest.max(begin.elapsed());
            std::thread::sleep(Duration::from_millis(5).saturating_sub(begin.elapsed()));
        }
        (count, failed, longest)
    };
    site.client.enter(connect).expect("entered")
}

/// A server that echoes, clients that come 200 a second, and `change` in the midst of them: no client may fail.
fn no_client_fails(
    site: &Site,
    hearken: Hearken,
    change: impl FnOnce(&Site, Hearken) -> Option<Hearken> + Send,
) {
    let listener = site.listen((Ipv6Addr::UNSPECIFIED, 9)).expect("a listener");
    wait_until_adopted(&hearken, (Ipv6Addr::UNSPECIFIED, 9).into());
    let (stop, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (count, failed, longest) = std::thread::scope(|scope| {
        scope.spawn(|| beside::serve_echo(&listener, &done));
        let clients = scope.spawn(|| keep_connecting(site, &stop));
        std::thread::sleep(Duration::from_millis(500));
        let hearken = change(site, hearken);
        std::thread::sleep(Duration::from_millis(700));
        stop.store(true, Ordering::Relaxed);
        let seen = clients.join().expect("no panic");
        done.store(true, Ordering::Relaxed);
        drop(hearken);
        seen
    });
    assert!(failed.is_empty(), "{} of {count} failed: {failed:?}", failed.len());
    assert!(count > 50, "{count} connections");
    // One retransmission of a SYN at the most.
    assert!(longest < Duration::from_secs(3), "{longest:?}");
}

#[test]
fn clients_come_through_while_hearken_is_killed() {
    let _turn = turn();
    let Some((site, hearken)) = shielded("") else { return };
    no_client_fails(&site, hearken, |_, hearken| {
        hearken.signal("KILL").expect("it runs");
        None
    });
}

#[test]
fn clients_come_through_while_hearken_ends_and_another_begins() {
    let _turn = turn();
    let Some((site, hearken)) = shielded("") else { return };
    no_client_fails(&site, hearken, |site, mut hearken| {
        hearken.signal("TERM").expect("it runs");
        let (status, said) = hearken.wait().expect("it ends");
        assert!(status.is_some_and(|status| status.success()), "{said}");
        let hearken = site.shield("").expect("another one");
        wait_until_adopted(&hearken, (Ipv6Addr::UNSPECIFIED, 9).into());
        Some(hearken)
    });
}

#[test]
fn a_start_replaces_what_a_killed_one_left_and_a_stop_leaves_nothing() {
    let _turn = turn();
    let Some((site, mut hearken)) = shielded("") else { return };
    let attached = || run(site.server.command("bpftool").args(["net", "show"])).expect("bpftool runs");
    assert!(attached().contains("hearken_claim") || attached().contains("hk0"), "{}", attached());
    hearken.signal("KILL").expect("it runs");
    hearken.wait().expect("it ends");
    assert!(attached().contains("hk0"), "programs outlive a killed process: {}", attached());
    let mut hearken = site.shield("").expect("a start on what was left");
    let (status, said) = hearken.stop().expect("it ends");
    assert!(status.is_some_and(|status| status.success()), "{said}");
    assert!(said.contains("removed the XDP program that an earlier hearken left"), "{said}");
    assert!(!attached().contains("hk0"), "{}", attached());
}

#[test]
fn a_second_one_on_the_interface_and_a_strangers_program_are_refused_by_name() {
    let _turn = turn();
    let Some((site, mut hearken)) = shielded("") else { return };
    let second = site.shield("").map(drop).expect_err("the interface is taken").to_string();
    let pid = hearken.pid().expect("it runs");
    assert!(second.contains(&format!("another hearken (process {pid}) has this interface")), "{second}");
    hearken.stop().expect("it ends");

    let dir = tempfile::tempdir().expect("a directory");
    let (source, object) = (dir.path().join("pass.c"), dir.path().join("pass.o"));
    let text = "__attribute__((section(\"xdp\"), used)) int strangers(void *ctx) { return 2; }\n";
    std::fs::write(&source, text).expect("a file");
    run(Command::new("clang")
        .args(["-target", "bpf", "-O2", "-g", "-c"])
        .arg(&source)
        .arg("-o")
        .arg(&object))
    .expect("clang");
    let object = object.display();
    site.server.ip(&format!("link set dev hk0 xdpdrv obj {object} sec xdp")).expect("a program");
    let refused = site.shield("").map(drop).expect_err("a stranger's program").to_string();
    assert!(
        refused.contains("is on the interface and is not hearken's") && refused.contains("xdp off"),
        "{refused}"
    );
    assert!(site.server.ip("link show dev hk0").expect("a link").contains("xdp"), "it is still there");
}

#[test]
fn listeners_come_and_go_and_some_are_left_to_the_kernel() {
    let _turn = turn();
    let Some((site, hearken)) = shielded("except = [\"8080\"]\n") else { return };
    let plain: SocketAddr = (SERVER, 80).into();
    let first = site.listen(plain).expect("a listener");
    let _excepted = site.listen((SERVER, 8080)).expect("a listener");
    let _six = site.listen((SERVER_V6, 80)).expect("a listener");
    let mptcp = site.server.enter(|| {
        let protocol = socket2::Protocol::from(262);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, Some(protocol))?;
        socket.bind(&SocketAddr::from((SERVER, 8443)).into())?;
        socket.listen(10).map(|()| socket)
    });
    let mptcp = mptcp.expect("entered");
    wait_until_adopted(&hearken, plain);
    wait_until_adopted(&hearken, (SERVER_V6, 80).into());
    let ss = hearken.json("ss").expect("ss");
    let left = |port: u16| {
        let rows = ss["kernel"].as_array().cloned().unwrap_or_default();
        let row = rows.into_iter().find(|row| row["local"] == format!("{SERVER}:{port}"));
        row.unwrap_or_else(|| panic!("no {port} in {ss}"))["left"].clone()
    };
    assert_eq!(left(80), serde_json::Value::Null);
    assert_eq!(left(8080), "the configuration leaves it out");
    if mptcp.is_ok() {
        assert_eq!(left(8443), "it speaks MPTCP");
        let before = site.counter("Tcp", "PassiveOpens");
        drop(site.connect((SERVER, 8443), Duration::from_secs(5)).expect("the kernel answers"));
        wait_for("a connection of the kernel's", Duration::from_secs(5), || {
            site.counter("Tcp", "PassiveOpens") > before
        });
    }
    drop(site.connect((SERVER, 8080), Duration::from_secs(5)).expect("the kernel answers"));
    drop(site.connect(plain, Duration::from_secs(5)).expect("hearken answers"));
    wait_for("one handed over", Duration::from_secs(5), || {
        kernel_counter(&hearken, "handed_over_to_kernel") == 1
    });
    drop(first);
    let refused = site.connect(plain, Duration::from_secs(5)).expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "at once, whoever knows it first");
    wait_for("one listener less", Duration::from_secs(5), || {
        let rows = hearken.json("ss").expect("ss")["listeners"].as_array().cloned().unwrap_or_default();
        !rows.iter().any(|row| row["local"] == plain.to_string())
    });
    let _again = site.listen(plain).expect("a listener");
    wait_until_adopted(&hearken, plain);
    drop(site.connect(plain, Duration::from_secs(5)).expect("hearken answers"));
}

#[test]
fn ten_thousand_listeners_come_and_go() {
    let _turn = turn();
    let Some((site, hearken)) = shielded("") else { return };
    let kept = site.listen((SERVER, 80)).expect("a listener");
    let open = || {
        site.server.enter(|| {
            (20_000..30_000)
                .map(|port| std::net::TcpListener::bind((SERVER, port)))
                .collect::<io::Result<Vec<_>>>()
        })
    };
    let all = open().expect("entered").expect("10,000 listeners");
    wait_until_adopted(&hearken, (SERVER, 29_999).into());
    drop(site.connect((SERVER, 29_999), Duration::from_secs(5)).expect("hearken answers"));
    drop(all);
    wait_for("the listeners to go", Duration::from_secs(20), || {
        hearken.json("ss").expect("ss")["listeners"].as_array().map(Vec::len) == Some(1)
    });
    drop(site.connect((SERVER, 80), Duration::from_secs(5)).expect("hearken answers"));
    drop(kept);
    all_through_hearken(&site, &hearken);
}

#[test]
fn a_syn_in_another_vlan_than_its_address_is_left_to_the_kernel() {
    let _turn = turn();
    let Some((site, hearken)) = shielded("") else { return };
    let _listener = site.listen((SERVER, 80)).expect("a listener");
    wait_until_adopted(&hearken, (SERVER, 80).into());
    let link = |namespace: &lab::Namespace, device: &str| {
        let mut raw = parity::raw::RawSocket::open(namespace, device).expect("a raw socket");
        raw.tci = Some(5);
        raw
    };
    let (client, server) = (link(&site.client, "hk1"), link(&site.server, "hk0"));
    let ip = frame::Ip::new([198, 18, 0, 2].into(), SERVER.into(), 6);
    let tcp =
        frame::Tcp { sport: 40_000, dport: 80, seq: 1, flags: 2, window: 1000, ..frame::Tcp::default() };
    let link = frame::Link { src: client.mac(), dst: server.mac(), ethertype: None, padding: 0, cut: 0 };
    client.send(&frame::frame(&link, &ip, &frame::segment(&ip, &tcp))).expect("sent");
    wait_for("the claim to see the tag", Duration::from_secs(5), || {
        kernel_counter(&hearken, "claim_other_vlan") == 1
    });
    assert_eq!(kernel_counter(&hearken, "claim_redirected"), 0);
}
