//! hearken in front of a server that is not there yet, goes, reloads, or changes to what cannot be handed over.

#![cfg(feature = "kernel")]

mod beside;
mod lab;
#[path = "parity/mod.rs"]
mod parity;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use beside::{SERVER_V6, Site, kernel_counter, targets, turn, wait_for, wait_until_adopted};
use lab::{Hearken, SERVER, run, skip};

const PATIENCE: Duration = Duration::from_secs(5);

fn shielded() -> Option<(Site, Hearken)> {
    let made = Site::new().and_then(|site| site.shield("").map(|hearken| (site, hearken)));
    made.map_err(|error| skip("a server behind hearken", error)).ok()
}

/// The status of the answer to a request on a connection of its own.
fn get(site: &Site, target: SocketAddr) -> io::Result<String> {
    let mut stream = site.connect(target, PATIENCE)?;
    write!(stream, "GET /page HTTP/1.0\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

fn nginx_in(dir: &Path, site: &Site, hearken: &Hearken) -> beside::Program {
    std::fs::write(dir.join("page"), "served").expect("a file");
    let nginx = beside::nginx(site, dir).expect("nginx runs");
    for target in [SocketAddr::from(([0, 0, 0, 0], 80)), "[::]:80".parse().expect("an address")] {
        wait_until_adopted(hearken, target);
    }
    nginx
}

/// Asks for the page over and over until told to stop; how many were served, and what went wrong.
fn keep_asking(site: &Site, stop: &AtomicBool) -> (u64, Vec<String>) {
    let ask = || {
        let (mut served, mut failed) = (0, Vec::new());
        while !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let target = SocketAddr::new(targets()[served as usize % 2], 80);
            let said = TcpStream::connect_timeout(&target, PATIENCE).and_then(|mut stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                write!(stream, "GET /page HTTP/1.0\r\n\r\n")?;
                let mut said = String::new();
                stream.read_to_string(&mut said).map(|_| said)
            });
            match said {
                Ok(said) if said.ends_with("served") => served += 1,
                other => failed.push(format!("after {:?}: {other:?}", begin.elapsed())),
            }
            std::thread::sleep(Duration::from_millis(3).saturating_sub(begin.elapsed()));
        }
        (served, failed)
    };
    site.client.enter(ask).expect("entered")
}

#[test]
fn a_server_that_comes_late_or_again_is_served_as_soon_as_it_listens() {
    let _turn = turn();
    let Some((site, hearken)) = shielded() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    for round in 1..=2 {
        for target in targets() {
            let refused = get(&site, SocketAddr::new(target, 80)).expect_err("nobody listens yet");
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "the kernel says so at once");
        }
        let nginx = nginx_in(dir.path(), &site, &hearken);
        for target in targets() {
            assert_eq!(get(&site, SocketAddr::new(target, 80)).expect("served"), "HTTP/1.1 200 OK");
        }
        assert_eq!(kernel_counter(&hearken, "handed_over_to_kernel"), 2 * round);
        drop(nginx);
    }
    assert_eq!(site.counter("TcpExt", "SyncookiesSent"), 0);
}

#[test]
fn no_client_notices_that_nginx_reloads() {
    let _turn = turn();
    let Some((site, hearken)) = shielded() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let nginx = nginx_in(dir.path(), &site, &hearken);
    let stop = AtomicBool::new(false);
    let workers = || {
        let children = format!("/proc/{0}/task/{0}/children", nginx.pid());
        std::fs::read_to_string(children).unwrap_or_default()
    };
    let (served, failed) = std::thread::scope(|scope| {
        let clients = scope.spawn(|| keep_asking(&site, &stop));
        for _ in 0..3 {
            let before = workers();
            let conf = dir.path().join("nginx.conf");
            run(site.server.command("nginx").arg("-c").arg(conf).args(["-s", "reload"])).expect("it reloads");
            wait_for("other workers of nginx's", Duration::from_secs(10), || {
                let now = workers();
                !before.split_whitespace().any(|pid| now.split_whitespace().any(|other| other == pid))
            });
        }
        stop.store(true, Ordering::Relaxed);
        clients.join().expect("no panic")
    });
    assert!(failed.is_empty() && served > 10, "{served} served; {failed:?}");
    assert_eq!(kernel_counter(&hearken, "handed_over_to_kernel"), served);
    assert_eq!(site.counter("TcpExt", "SyncookiesSent"), 0);
}

/// A listener of protocol `protocol`, 0 or MPTCP's.
fn listener(site: &Site, addr: SocketAddr, protocol: Option<i32>) -> io::Result<socket2::Socket> {
    site.server.enter(|| {
        let domain = socket2::Domain::for_address(addr);
        let protocol = protocol.map(socket2::Protocol::from);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, protocol)?;
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(10).map(|()| socket)
    })?
}

/// The client's connection and the server's, both at work.
fn serves_one(site: &Site, listener: &socket2::Socket, addr: SocketAddr) {
    let mut client = site.connect(addr, PATIENCE).expect("somebody answers");
    let (mut server, _) = listener.accept().expect("it is accepted");
    client.write_all(b"x").expect("it is sent");
    let mut octet = [0];
    server.read_exact(&mut octet).expect("it comes");
    assert_eq!(octet, *b"x");
}

/// Clients are served, and from some time on through hearken.
fn is_behind_hearken(site: &Site, hearken: &Hearken, listener: &socket2::Socket, addr: SocketAddr) {
    wait_until_adopted(hearken, addr);
    let before = kernel_counter(hearken, "handed_over_to_kernel");
    wait_for("a connection that is handed over", PATIENCE, || {
        serves_one(site, listener, addr);
        kernel_counter(hearken, "handed_over_to_kernel") > before
    });
}

#[test]
fn a_listener_that_turns_to_mptcp_is_the_kernels_and_comes_back() {
    const IPPROTO_MPTCP: i32 = 262;
    let _turn = turn();
    let Some((site, hearken)) = shielded() else { return };
    for addr in [SocketAddr::from((SERVER, 9)), SocketAddr::from((SERVER_V6, 9))] {
        let plain = listener(&site, addr, None).expect("a listener");
        is_behind_hearken(&site, &hearken, &plain, addr);
        drop(plain);
        let Ok(multipath) = listener(&site, addr, Some(IPPROTO_MPTCP)) else {
            skip("a listener with MPTCP", "the kernel has none");
            return;
        };
        // At once, whether hearken knows of the change already or not.
        serves_one(&site, &multipath, addr);
        let left = || {
            let ss = hearken.json("ss").expect("ss");
            let rows = ss["kernel"].as_array().cloned().unwrap_or_default();
            rows.iter().any(|row| row["local"] == addr.to_string() && row["left"] == "it speaks MPTCP")
        };
        wait_for("the row of a listener that is left to the kernel", PATIENCE, left);
        serves_one(&site, &multipath, addr);
        drop(multipath);
        let plain = listener(&site, addr, None).expect("a listener");
        is_behind_hearken(&site, &hearken, &plain, addr);
        assert_eq!(kernel_counter(&hearken, "handover_refused"), 0);
    }
}
