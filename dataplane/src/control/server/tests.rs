use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use super::*;
use crate::control::client::{Client as Asker, ClientError};
use crate::control::proto::{ListenerRow, Ss};

/// Answers `ss` with one row that carries the asker's uid, and `stats` with a megabyte.
#[derive(Default)]
struct Fake {
    gone: Arc<AtomicU64>,
    busy: Arc<AtomicBool>,
}

impl Service for Fake {
    fn call(&mut self, peer: Peer, request: &Request) -> Poll<Result<Reply, Refusal>> {
        let row = |local: &str| ListenerRow {
            state: "LISTEN".into(),
            recv_q: 0,
            send_q: 128,
            local: local.parse().expect("an address"),
            device: None,
            fd: peer.uid,
            then: Default::default(),
            reuseport: false,
            v6only: false,
        };
        Poll::Ready(match request {
            // Under way as long as the test says so.
            Request::Top {} if self.busy.load(Ordering::Relaxed) => return Poll::Pending,
            Request::Ss { .. } => {
                Ok(Reply::Ss(Ss { listeners: vec![row("198.18.0.1:80")], kernel: vec![], next: None }))
            }
            Request::Stats {} => Ok(Reply::Ss(Ss {
                listeners: vec![row("[2001:db8::1]:65535"); 8192],
                kernel: vec![],
                next: None,
            })),
            _ => Err(Refusal { errno: Some("EINVAL".into()), message: "not here".into() }),
        })
    }

    fn gone(&mut self, _client: u64) {
        self.gone.fetch_add(1, Ordering::Relaxed);
    }
}

/// A server on a thread of its own, with little patience.
struct Running {
    _dir: tempfile::TempDir,
    path: PathBuf,
    stop: Arc<AtomicBool>,
    gone: Arc<AtomicU64>,
    busy: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run").join("h.sock");
        let mut server = Server::bind(&path).expect("a free path");
        server.patience = Duration::from_millis(300);
        let (stop, mut service) = (Arc::new(AtomicBool::new(false)), Fake::default());
        let (gone, busy) = (Arc::clone(&service.gone), Arc::clone(&service.busy));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    server.turn(&mut service, &[], Duration::from_millis(20)).expect("poll works");
                    assert!(server.clients.len() <= CLIENTS_MAX);
                    for client in &server.clients {
                        assert!(client.input.len() <= LINE_MAX + READ_MAX, "unbounded input");
                    }
                }
            }
        });
        Self { _dir: dir, path, stop, gone, busy, thread: Some(thread) }
    }

    fn stream(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).expect("a server that listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    }

    /// A well-behaved client gets its answer.
    #[track_caller]
    fn serves(&self) {
        let mut asker = Asker::connect(&self.path).expect("a server that listens");
        let ss: Ss = asker.call(&Request::Ss { from: 0 }).expect("an answer");
        assert_eq!(ss.listeners.len(), 1);
        assert_eq!(ss.listeners[0].fd, rustix::process::geteuid().as_raw());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Err(panic)) = ended.filter(|_| !thread::panicking()) {
            std::panic::resume_unwind(panic);
        }
    }
}

fn line_of(stream: UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("a line");
    line
}

#[test]
fn requests_are_answered_in_order() {
    let server = Running::start();
    server.serves();
    let mut asker = Asker::connect(&server.path).expect("a server that listens");
    let refused = asker.call::<Ss>(&Request::Latency { core: None }).expect_err("a refusal");
    assert!(matches!(&refused, ClientError::Refused(refusal) if refusal.errno.as_deref() == Some("EINVAL")));
    assert_eq!(refused.to_string(), "EINVAL: not here");
    // The connection lives on, and lines that come together are answered one by one.
    let mut stream = server.stream();
    let line = proto::request_line(&Request::Ss { from: 0 });
    stream.write_all(&[&line[..], b"nonsense\n", &line[..]].concat()).expect("room to write");
    stream.shutdown(std::net::Shutdown::Write).expect("half a close");
    let lines: Vec<String> = BufReader::new(stream).lines().collect::<Result<_, _>>().expect("lines");
    let ok: Vec<bool> = lines.iter().map(|line| line.starts_with("{\"v\":1,\"ok\":")).collect();
    assert_eq!(ok, [true, false, true]);
}

#[test]
fn a_request_that_is_under_way_holds_up_nobody_and_keeps_its_order() {
    let server = Running::start();
    server.busy.store(true, Ordering::Relaxed);
    let mut stream = server.stream();
    let lines = [proto::request_line(&Request::Top {}), proto::request_line(&Request::Ss { from: 0 })];
    stream.write_all(&lines.concat()).expect("room to write");
    // One who leaves is seen to leave.
    let gone = server.gone.load(Ordering::Relaxed);
    let mut impatient = server.stream();
    impatient.write_all(&lines[0]).expect("room to write");
    server.serves();
    drop(impatient);
    let begun = Instant::now();
    while server.gone.load(Ordering::Relaxed) < gone + 2 {
        assert!(begun.elapsed() < Duration::from_secs(10), "a client that has left is kept");
        thread::sleep(Duration::from_millis(1));
    }
    // Longer than the patience with clients that dawdle.
    thread::sleep(Duration::from_millis(500));
    server.serves();
    stream.set_nonblocking(true).expect("a socket");
    assert_eq!(stream.read(&mut [0]).expect_err("not answered").kind(), ErrorKind::WouldBlock);
    stream.set_nonblocking(false).expect("a socket");
    server.busy.store(false, Ordering::Relaxed);
    let lines: Vec<_> = BufReader::new(stream).lines().take(2).collect::<Result<_, _>>().expect("lines");
    assert!(lines[0].contains("not here") && lines[1].starts_with("{\"v\":1,\"ok\":"), "{lines:?}");
}

#[test]
fn garbage_is_answered_and_survived() {
    let server = Running::start();
    for garbage in [&b"\n"[..], b"\0\xff\xfe\n", b"{}\n", b"GET / HTTP/1.1\r\n"] {
        let mut stream = server.stream();
        stream.write_all(garbage).expect("room to write");
        assert!(line_of(stream).starts_with("{\"v\":1,\"error\":{\"message\":\""));
    }
    server.serves();
}

#[test]
fn a_line_without_an_end_is_cut_off() {
    let server = Running::start();
    let mut stream = server.stream();
    stream.write_all(b"{\"v\":1,").expect("room to write");
    let begun = Instant::now();
    assert_eq!(line_of(stream), "", "half a request gets no answer");
    assert!(begun.elapsed() < Duration::from_secs(10));
    // Nor does dribbling help.
    let mut stream = server.stream();
    let begun = Instant::now();
    while stream.write_all(b" ").is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "a dribbler is never cut off");
        thread::sleep(Duration::from_millis(20));
    }
    server.serves();
}

#[test]
fn a_hundred_megabytes_are_not_kept() {
    let server = Running::start();
    let mut stream = server.stream();
    let chunk = vec![b'x'; 1 << 20];
    let mut written = 0;
    while written < 100 << 20 {
        match stream.write(&chunk) {
            Ok(count) => written += count,
            Err(_) => break,
        }
    }
    assert!(written < 10 << 20, "the server took {written} bytes of one line");
    server.serves();
}

#[test]
fn a_line_of_the_longest_length_is_still_read() {
    let server = Running::start();
    for (len, start) in [
        (LINE_MAX, "{\"v\":1,\"ok\":"),
        (LINE_MAX + 1, "{\"v\":1,\"error\":{\"message\":\"the request is longer than 65536 bytes\"}}"),
    ] {
        let mut line = proto::request_line(&Request::Ss { from: 0 });
        line.pop();
        line.resize(len, b' ');
        line.push(b'\n');
        let mut stream = server.stream();
        stream.write_all(&line).expect("room to write");
        let reply = line_of(stream);
        assert!(reply.starts_with(start), "{len}: {}", &reply[..reply.len().min(100)]);
    }
}

#[test]
fn one_who_never_reads_is_cut_off_and_holds_up_nobody() {
    let server = Running::start();
    let mut stream = server.stream();
    let request = proto::request_line(&Request::Stats {});
    stream.write_all(&request.repeat(100)).expect("room to write");
    for _ in 0..20 {
        server.serves();
    }
    let begun = Instant::now();
    while server.gone.load(Ordering::Relaxed) < 21 {
        assert!(begun.elapsed() < Duration::from_secs(10), "a client that never reads is kept");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_thousand_connections_shut_nobody_out() {
    let server = Running::start();
    let path = server.path.clone();
    let storm =
        thread::spawn(move || (0..1000).filter_map(|_| UnixStream::connect(&path).ok()).collect::<Vec<_>>());
    for _ in 0..10 {
        server.serves();
    }
    let held = storm.join().expect("a storm");
    assert!(held.len() > 500, "only {} connections came about", held.len());
    server.serves();
}

#[test]
fn the_socket_is_private_and_goes_with_its_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("h.sock");
    let server = Server::bind(&path).expect("a free path");
    assert_eq!(fs::metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o600);
    let in_use = Server::bind(&path).expect_err("a second server").to_string();
    let wanted = format!(
        "the control socket {} is in use by another server; stop that one, or give this one another name or control.socket",
        path.display()
    );
    assert_eq!(in_use, wanted);
    drop(server);
    assert!(!path.exists());
    let error = Asker::connect(&path).expect_err("no server");
    assert!(error.to_string().contains("there is no such socket"), "{error}");
}

#[test]
fn a_stale_socket_is_replaced_and_another_file_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("h.sock");
    // std leaves the file behind, as a killed server does.
    drop(UnixListener::bind(&path).expect("a socket"));
    let error = Asker::connect(&path).expect_err("nobody there");
    assert!(error.to_string().contains("left by a run that was killed"), "{error}");
    drop(Server::bind(&path).expect("a stale socket does not matter"));

    fs::write(&path, "precious").expect("a file");
    let error = Server::bind(&path).expect_err("a file in the way").to_string();
    assert!(
        error.ends_with("is there and is no socket; remove it, or set control.socket to another path"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");

    let long = dir.path().join("x".repeat(120));
    assert!(matches!(Server::bind(&long), Err(BindError::TooLong(_))));
    let error = Server::bind(Path::new("/proc/nonexistent/h.sock")).expect_err("no such place").to_string();
    assert!(error.starts_with("cannot create /proc/nonexistent: "), "{error}");
}
