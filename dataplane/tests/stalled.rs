//! A worker that stands still, for its device takes no frame and does not return: whoever asks for what only it can tell is
//! told late, and nobody else waits for that; the watchdog is not fed, the health page says so, and a signal is heard.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use dataplane::control::client::Client;
use dataplane::control::proto::{self, AskWhy, Latency, Request, Ss, Stats, Top};
use etherparse::PacketBuilder;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use rustix::fs::{FileType, Mode, OFlags};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Their answers are more than a pipe and the writer's buffer hold.
const SYNS: u16 = 3000;

fn syn(sport: u16) -> Vec<u8> {
    let packet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], MAC)
        .ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64)
        .tcp(sport, 81, 1000, 64_240)
        .syn();
    let mut frame = Vec::new();
    packet.write(&mut frame, &[]).expect("a frame");
    frame
}

/// A hearken of one worker, whose device is a pipe that is read only when the test says so.
struct Server {
    child: Child,
    dir: tempfile::TempDir,
    pipe: Option<File>,
    notified: UnixDatagram,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let mut input = PcapWriter::new(File::create(path("in.pcap")).expect("a file")).expect("a header");
        for number in 0..SYNS {
            let frame = syn(10_000 + number);
            let len = u32::try_from(frame.len()).expect("a short frame");
            input.write_packet(&PcapPacket::new(Duration::ZERO, len, &frame)).expect("a frame");
        }
        let (fifo, read_write) = (path("out.pcap"), Mode::RUSR | Mode::WUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, read_write, 0).expect("a pipe");
        let pipe = rustix::fs::open(&fifo, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).expect("a pipe");
        let text = format!(
            "[control]\nsocket = {:?}\n[metrics]\nlisten = \"127.0.0.1:0\"\n[limits]\nrst_per_second = 1000000\n[[port]]\n\
             name = \"p0\"\ndevice = \"pcap:{},{}\"\naddresses = [\"198.18.0.1/24\"]\n[workers]\ncores = [0]\n",
            path("h.sock"),
            path("in.pcap").display(),
            fifo.display()
        );
        fs::write(path("h.toml"), text).expect("a file");
        let notified = UnixDatagram::bind(path("notify")).expect("a socket");
        notified.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let mut command = Command::new(cargo_bin("hearken"));
        command.args(["run", "--for", "120s", "--config"]).arg(path("h.toml"));
        command.env("NOTIFY_SOCKET", path("notify")).env("WATCHDOG_USEC", "200000");
        let log = File::create(path("log")).expect("a file");
        let child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("hearken starts");
        let server = Self { child, dir, pipe: Some(pipe.into()), notified };
        server.until("a stalled worker", || {
            let Ok(mut client) = Client::connect(&server.path("h.sock")) else { return false };
            client.call::<Stats>(&Request::Stats {}).is_ok_and(|stats| stats.cores[0].late)
        });
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).expect("its log")
    }

    #[track_caller]
    fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < Duration::from_secs(60), "no {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks for `request` on a connection of its own, without waiting for the answer.
    fn asks(&self, request: &Request) -> UnixStream {
        let mut stream = UnixStream::connect(self.path("h.sock")).expect("it listens");
        stream.write_all(&proto::request_line(request)).expect("it takes it");
        stream.set_nonblocking(true).expect("a socket");
        stream
    }

    /// Head and body of what its health page says.
    fn health(&self) -> String {
        let log = self.log();
        let addr = log.split("health on http://").nth(1).and_then(|rest| rest.split_once('/')).expect("told");
        let mut stream = std::net::TcpStream::connect(addr.0).expect("it listens");
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").expect("it takes it");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    }

    /// Reads what the worker wrote, to the end: it goes on.
    fn go_on(&mut self) -> std::thread::JoinHandle<usize> {
        let pipe = self.pipe.take().expect("a pipe");
        rustix::fs::fcntl_setfl(&pipe, OFlags::empty()).expect("a pipe");
        std::thread::spawn(move || {
            let mut all = Vec::new();
            (&pipe).read_to_end(&mut all).expect("a pipe");
            all.len()
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_unanswered(mut stream: &UnixStream) -> bool {
    stream.read_exact(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn why() -> Request {
    let frame = dataplane::hex::encode(&syn(5000));
    Request::Why(AskWhy { frame, to_us: true, device: None, core: None })
}

#[test]
fn nobody_waits_for_a_worker_that_stands_still() {
    let mut server = Server::start();
    let socket = server.path("h.sock");
    let mut client = Client::connect(&socket).expect("it listens");
    // What is asked first is answered last; again, where the machine gave this test no time to see it.
    for request in
        [why(), Request::Stats {}, Request::Latency { core: None }, Request::CookieKeys { rotate: true }]
    {
        server.until("answer beside one that is under way", || {
            let slow = server.asks(&request);
            let _: Ss = client.call(&Request::Ss { from: 0 }).expect("an answer");
            is_unanswered(&slow)
        });
    }
    // Each is answered in the end, with what there is.
    let stats: Stats = client.call(&Request::Stats {}).expect("an answer");
    let core = &stats.cores[0];
    assert!(core.late && core.rx_frames > 0 && core.tx_frames < u64::from(SYNS), "{core:?}");
    let _: Latency = client.call(&Request::Latency { core: None }).expect("an answer");
    let _: Top = client.call(&Request::Top {}).expect("an answer");
    let refused = client.call::<serde_json::Value>(&why()).expect_err("the only core is silent");
    assert!(refused.to_string().starts_with("no core answered within 1s"), "{refused}");

    // The watchdog bites: a worker that stands still is a reason to start again.
    server.until("sick health", || server.health().starts_with("HTTP/1.1 503 "));
    assert!(server.health().ends_with("worker 0 has made no turn for 5 s\n"), "{}", server.health());
    let mut text = [0; 200];
    loop {
        let len = server.notified.recv(&mut text).expect("a notification");
        if text[..len].starts_with(b"STATUS=worker 0 has made no turn") {
            break;
        }
    }

    // When it can go on it does.
    let reader = server.go_on();
    server.until("health", || server.health().starts_with("HTTP/1.1 200 "));
    let why: serde_json::Value = client.call(&why()).expect("the core answers");
    assert_eq!(why["outcome"], "rst", "{why}");
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it lives");
    let mut report = String::new();
    server.child.stdout.take().expect("a pipe").read_to_string(&mut report).expect("UTF-8");
    assert!(server.child.wait().expect("a child").success(), "{}", server.log());
    let row = |name: &str| {
        let line = report.lines().find(|line| line.trim_start().starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u16>().ok())
    };
    assert_eq!((row("rx_frames"), row("rst ")), (Some(SYNS), Some(SYNS)), "{report}");
    assert!(!report.contains("did not answer"), "{report}");
    assert!(reader.join().expect("no panic") > usize::from(SYNS) * 54);
}

#[test]
fn a_signal_ends_a_server_whose_worker_stands_still_as_soon_as_it_can() {
    let mut server = Server::start();
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it lives");
    server.until("word of stopping", || {
        let mut text = [0; 200];
        let len = server.notified.recv(&mut text).expect("a notification");
        text[..len].starts_with(b"STOPPING=1")
    });
    let reader = server.go_on();
    assert!(server.child.wait().expect("a child").success(), "{}", server.log());
    assert!(reader.join().expect("no panic") > 0);
    assert!(!Path::new(&server.path("h.sock")).exists());
}
