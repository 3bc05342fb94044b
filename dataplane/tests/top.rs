//! `hearken top` against a running server, in a terminal that the test looks at.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

const ROWS: u16 = 30;
const COLUMNS: u16 = 110;

/// A server that has read one frame; ended when dropped.
struct Server {
    child: Child,
    dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let input = File::create(path("in.pcap")).expect("a file");
        let mut input = PcapWriter::new(input).expect("a header");
        input.write_packet(&PcapPacket::new(Duration::ZERO, 60, &[0; 60])).expect("a frame");
        let text = format!(
            "[control]\nsocket = {:?}\n[[port]]\nname = \"p0\"\ndevice = \"pcap:{},{}\"\naddresses = [\"198.18.0.1/24\"]\n\
             [workers]\nidle = \"yield\"\n[[listener]]\naddr = \"198.18.0.1:80\"\nbacklog = 77\n",
            path("h.sock"),
            path("in.pcap").display(),
            path("out.pcap").display()
        );
        std::fs::write(path("h.toml"), text).expect("a file");
        let mut command = Command::new(cargo_bin("hearken"));
        command.args(["run", "--for", "60s", "--config"]).arg(path("h.toml"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("hearken starts");
        let begun = Instant::now();
        while !path("h.sock").exists() {
            assert!(begun.elapsed() < Duration::from_secs(30), "no control socket");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, dir }
    }

    fn top(&self) -> Command {
        let mut command = Command::new(cargo_bin("hearken"));
        command.arg("top").arg("--socket").arg(self.dir.path().join("h.sock"));
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nonzero(value: u16) -> NonZero<u16> {
    NonZero::new(value).expect("a size")
}

/// A pseudo-terminal, and what stands on it.
struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<vt100::Parser>>,
    line: File,
}

impl Terminal {
    fn open() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("its other end");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let line = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().expect("UTF-8"))
            .expect("its other end");
        let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("a size");
        let keyboard = File::from(master);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(nonzero(ROWS), nonzero(COLUMNS), 0)));
        let (mut from, to) = (keyboard.try_clone().expect("a descriptor"), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                to.lock().expect("no panic").process(&bytes[..count]);
            }
        });
        Self { keyboard, screen, line }
    }

    fn run(&self, mut command: Command) -> Child {
        let end = || Stdio::from(self.line.try_clone().expect("a descriptor"));
        command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("hearken starts")
    }

    fn press(&mut self, key: &str) {
        self.keyboard.write_all(key.as_bytes()).expect("a terminal takes keys");
    }

    fn text(&self) -> String {
        self.screen.lock().expect("no panic").screen().contents()
    }

    #[track_caller]
    fn shows(&self, wanted: &str) {
        let begun = Instant::now();
        while !self.text().contains(wanted) {
            assert!(begun.elapsed() < Duration::from_secs(20), "no \"{wanted}\" in\n{}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As a shell left it: no other screen, a cursor, lines and echo.
    fn is_restored(&self) {
        let begun = Instant::now();
        let shown = || {
            let parser = self.screen.lock().expect("no panic");
            parser.screen().alternate_screen() || parser.screen().hide_cursor()
        };
        // The last octets may still be on their way from a program that has ended.
        while shown() {
            assert!(begun.elapsed() < Duration::from_secs(20), "still another screen");
            std::thread::sleep(Duration::from_millis(10));
        }
        let modes = tcgetattr(&self.line).expect("a terminal").local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO));
    }
}

fn end(mut child: Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        if begun.elapsed() > Duration::from_secs(20) {
            let _ = child.kill();
            panic!("top does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn it_draws_listens_to_keys_and_leaves_the_terminal_as_it_was() {
    let server = Server::start();
    let mut terminal = Terminal::open();
    let top = terminal.run(server.top());
    for wanted in
        ["hearken top  rx ", "p99 over time", "no flood", "198.18.0.1:80", " 77 198.18.0.1:80", "q quit"]
    {
        terminal.shows(wanted);
    }
    assert!(terminal.screen.lock().expect("no panic").screen().alternate_screen());
    terminal.press("-");
    terminal.shows("every 2 s");
    terminal.press("p");
    terminal.shows("paused");
    terminal.press("q");
    assert_eq!(end(top), Some(0));
    terminal.is_restored();

    // A server that goes away, and a signal, leave it in order too.
    let top = terminal.run(server.top());
    terminal.shows("every 1 s");
    let pid = rustix::process::Pid::from_raw(top.id().try_into().expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    assert_eq!(end(top), Some(0));
    terminal.is_restored();
    let top = terminal.run(server.top());
    terminal.shows("every 1 s");
    drop(server);
    assert_eq!(end(top), Some(1));
    terminal.shows("did not answer");
    terminal.is_restored();
}

#[test]
fn once_is_text_and_no_terminal_is_said() {
    let server = Server::start();
    let run = |more: &[&str]| server.top().args(more).output().expect("hearken starts");
    let once = run(&["--once"]);
    let text = String::from_utf8(once.stdout).expect("UTF-8");
    assert!(
        once.status.success() && text.contains("flood: no, cookies sent 0/s") && text.contains("otherhost"),
        "{text}"
    );
    assert!(text.lines().any(|line| line.contains("198.18.0.1:80") && line.contains(" 77 ")), "{text}");
    let json = run(&["--once", "--json"]);
    let top: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert!(top["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.9), "{top}");
    assert_eq!((&top["listeners"][0]["send_q"], &top["cores"][0]["core"]), (&77.into(), &0.into()));
    let piped = run(&[]);
    assert_eq!(piped.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&piped.stderr).contains("use --once"), "{piped:?}");
}
