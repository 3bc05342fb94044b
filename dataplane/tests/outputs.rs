//! Standard output and standard error on a full disk, on a pipe whose reader is gone, and on one whose reader does not
//! read: a server serves on and ends as it would, a command that prints ends as programs do.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use dataplane::control::client::Client;
use dataplane::control::proto::{Closed, Listen, Listening, Request, Which, backlog_default};
use pcap_file::pcap::{PcapPacket, PcapWriter};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const SIGPIPE: i32 = 13;
/// Each leaves a line in the log: together several times what a pipe holds.
const REQUESTS: u16 = 1500;

/// What a descriptor leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Full,
    Closed,
    /// Full already, and never read.
    Slow,
    /// Read at the end.
    Read,
}

impl End {
    /// The end to write to, and the one that is read, if there is one.
    fn open(self) -> (Stdio, Option<io::PipeReader>) {
        if self == Self::Full {
            let full = File::options().write(true).open("/dev/full").expect("every Linux has it");
            return (full.into(), None);
        }
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let has_room =
            |writer: &io::PipeWriter| poll(&mut [PollFd::new(writer, PollFlags::OUT)], Some(&at_once));
        while self == Self::Slow && has_room(&writer).expect("a pipe") == 1 {
            writer.write_all(&[b'.'; 4096]).expect("room");
        }
        let reader = (self != Self::Closed).then_some(reader);
        (OwnedFd::from(writer).into(), reader)
    }
}

/// A hearken on a file with one frame.
struct Server {
    child: Child,
    dir: tempfile::TempDir,
    stdout: Option<io::PipeReader>,
    stderr: Option<io::PipeReader>,
}

fn configuration() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let mut input = PcapWriter::new(File::create(path("in.pcap")).expect("a file")).expect("a header");
    input.write_packet(&PcapPacket::new(Duration::ZERO, 60, &[0; 60])).expect("a frame");
    let text = format!(
        "[control]\nsocket = {:?}\n[[port]]\nname = \"p0\"\ndevice = \"pcap:{}\"\naddresses = [\"198.18.0.1/24\"]\n\
         [workers]\ncores = [0]\nidle = \"yield\"\n",
        path("h.sock"),
        path("in.pcap").display()
    );
    fs::write(path("h.toml"), text).expect("a file");
    dir
}

impl Server {
    fn start(stdout: End, stderr: End) -> Self {
        let dir = configuration();
        let mut command = Command::new(cargo_bin("hearken"));
        command.args(["run", "--for", "120s", "--config"]).arg(dir.path().join("h.toml"));
        let ((out, stdout), (err, stderr)) = (stdout.open(), stderr.open());
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("hearken starts");
        // Our copies of the writing ends go with the command.
        drop(command);
        Self { child, dir, stdout, stderr }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("h.sock")
    }

    /// Opens and closes a listener, often: each time is told in the log.
    fn ask(&mut self) {
        let begun = Instant::now();
        let mut client = loop {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none() && begun.elapsed() < Duration::from_secs(60), "no server: {ended:?}");
            match Client::connect(&self.socket()) {
                Ok(client) => break client,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let addr: dataplane::config::ListenAddr = "198.18.0.1:7000".parse().expect("an address");
        let (reuseport, v6only, device, defer_accept) = (false, None, None, 0);
        let (backlog, then) = (backlog_default(), Default::default());
        let listen = Listen { addr: addr.clone(), backlog, reuseport, v6only, device, then, defer_accept };
        let which = Which { addr, device: None, fd: None, all: false };
        for _ in 0..REQUESTS {
            let _: Listening = client.call(&Request::Listen(listen.clone())).expect("it listens");
            let _: Closed = client.call(&Request::Close(which.clone())).expect("it closes");
        }
    }

    /// Ends it by SIGINT; its status, and what stands on its outputs that are read.
    fn end(mut self) -> (ExitStatus, String, String) {
        let readers = [self.stdout.take(), self.stderr.take()];
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it lives");
        // Who is not read until the end must not be waited for.
        let status = self.child.wait().expect("a child");
        let texts = readers.map(|reader| {
            let mut text = String::new();
            let read = reader.map(|mut reader| reader.read_to_string(&mut text));
            read.transpose().expect("UTF-8");
            text
        });
        let [stdout, stderr] = texts;
        (status, stdout, stderr)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    for stderr in [End::Full, End::Closed, End::Slow] {
        let mut server = Server::start(End::Read, stderr);
        server.ask();
        let (status, stdout, _) = server.end();
        assert_eq!(status.code(), Some(0), "{stderr:?}");
        assert!(stdout.contains("rx_frames"), "{stderr:?}: the report is there: {stdout}");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_told() {
    for (stdout, code, told) in [
        (End::Full, 1, "hearken: the report is lost, standard output cannot be written: No space left"),
        (End::Closed, 0, "nobody reads standard output any more: the report is lost"),
        (End::Slow, 1, "hearken: the report is lost, standard output cannot be written: nobody reads it"),
    ] {
        let mut server = Server::start(stdout, End::Read);
        let stderr = server.stderr.take().expect("it is read");
        let reader = std::thread::spawn(move || io::read_to_string(stderr).expect("UTF-8"));
        server.ask();
        let (status, ..) = server.end();
        let stderr = reader.join().expect("no panic");
        assert_eq!(status.code(), Some(code), "{stdout:?}: {stderr}");
        assert!(stderr.contains(told), "{stdout:?}: {stderr}");
        assert!(stderr.contains("stopped by a signal: ended"), "{stdout:?}: {stderr}");
    }
}

#[test]
fn both_at_once_end_nothing_either() {
    for end in [End::Full, End::Closed, End::Slow] {
        let mut server = Server::start(end, end);
        server.ask();
        let (status, ..) = server.end();
        assert_eq!(status.code(), Some(if end == End::Closed { 0 } else { 1 }), "{end:?}");
    }
}

/// How a command that prints ends on these outputs, and what it says on standard error if that is read.
fn command(args: &[&str], stdout: End, stderr: End) -> (ExitStatus, String) {
    let dir = configuration();
    let mut command = Command::new(cargo_bin("hearken"));
    command.args(args).arg("--config").arg(dir.path().join("h.toml"));
    let ((out, _reader), (err, stderr)) = (stdout.open(), stderr.open());
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("hearken starts");
    drop(command);
    let status = child.wait().expect("a child");
    let text = stderr.map(|stderr| io::read_to_string(stderr).expect("UTF-8"));
    (status, text.unwrap_or_default())
}

#[test]
fn a_command_whose_reader_is_gone_dies_of_sigpipe_without_a_word() {
    for args in [&["check"][..], &["doctor"], &["doctor", "--json"]] {
        let (status, said) = command(args, End::Closed, End::Read);
        // A doctor that finds something says so by its exit code, before that.
        let found = args[0] == "doctor" && matches!(status.code(), Some(1 | 3));
        assert!(status.signal() == Some(SIGPIPE) || found, "{args:?}: {status:?}");
        assert!(!said.contains("panicked"), "{said}");
        assert!(said.is_empty() || found, "{args:?}: {said}");
        let (status, _) = command(args, End::Closed, End::Closed);
        assert!(status.signal() == Some(SIGPIPE) || found, "{args:?}: {status:?}");
    }
}

#[test]
fn a_full_disk_is_told_with_exit_code_1() {
    let (status, said) = command(&["check"], End::Full, End::Read);
    assert_eq!(status.code(), Some(1));
    assert_eq!(said.trim_end(), "hearken: cannot write the answer: No space left on device (os error 28)");
    let (status, _) = command(&["check"], End::Full, End::Full);
    assert_eq!(status.code(), Some(1));
    // The message of an error goes where it can go, and its exit code stays.
    let (status, _) = command(&["ss"], End::Read, End::Full);
    assert_eq!(status.code(), Some(1), "no server");
}
