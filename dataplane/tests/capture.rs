//! Frames captured from a running server, with Linux's own TCP as the client; read back by tcpdump and by pcap-file.

#![cfg(feature = "dpdk")]

mod lab;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Hearken, Namespace, Wire, connect, run, skip};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};

const CLOSE: u16 = 7001;
/// Nobody listens there.
const NOBODY: u16 = 7009;
const PROGRAM: &str = env!("CARGO_BIN_EXE_hearken");

struct Bench {
    hearken: Hearken,
    client: Namespace,
    _server: Namespace,
    dir: tempfile::TempDir,
}

fn bench() -> Option<Bench> {
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => {
            skip("a capture", error);
            return None;
        }
    };
    let hearken = Hearken::start(Path::new(PROGRAM), &wire.server, |socket| {
        lab::config(socket, "net_af_packet0,iface=hk0,qpairs=1", 1, &[(CLOSE, "close")])
    });
    let hearken = hearken.expect("hearken starts on net_af_packet");
    let dir = tempfile::tempdir().expect("a directory");
    Some(Bench { hearken, client: wire.client, _server: wire.server, dir })
}

/// A capture that runs; killed when dropped.
struct Capture(Child);

impl Capture {
    fn start(bench: &Bench, args: &[&str], file: &Path) -> Self {
        let mut command = Command::new(PROGRAM);
        command.arg("capture").args(args).arg("--out").arg(file);
        command.arg("--socket").arg(bench.hearken.socket()).stderr(Stdio::piped());
        let capture = Self(command.spawn().expect("hearken starts"));
        // The file's header is written once the server has begun.
        let begun = Instant::now();
        while std::fs::metadata(file).map_or(0, |file| file.len()) == 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "no capture begins");
            std::thread::sleep(Duration::from_millis(5));
        }
        capture
    }

    fn end(mut self) -> String {
        let status = self.0.wait().expect("it ends");
        let mut said = String::new();
        self.0.stderr.take().expect("a pipe").read_to_string(&mut said).expect("UTF-8");
        assert!(status.success(), "{said}");
        said
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The comment of each frame, its octets kept and on the wire; and the interface's name.
fn read(file: &Path) -> (Vec<(String, usize, usize)>, String) {
    let mut reader = PcapNgReader::new(BufReader::new(File::open(file).expect("a file"))).expect("pcapng");
    let (mut frames, mut interface) = (Vec::new(), String::new());
    while let Some(block) = reader.next_block() {
        match block.expect("a block") {
            Block::InterfaceDescription(block) => {
                for option in &block.options {
                    if let InterfaceDescriptionOption::IfName(name) = option {
                        interface = name.to_string();
                    }
                }
            }
            Block::EnhancedPacket(packet) => {
                let comment = packet.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::Comment(text) => Some(text.to_string()),
                    _ => None,
                });
                let comment = comment.expect("a verdict");
                frames.push((comment, packet.data.len(), packet.original_len as usize));
            }
            _ => {}
        }
    }
    (frames, interface)
}

fn talk(bench: &Bench) {
    let tried = bench.client.enter(|| (connect(CLOSE).map(drop), connect(NOBODY).map(drop)));
    let (open, closed) = tried.expect("entered");
    open.expect("somebody listens");
    assert_eq!(closed.expect_err("nobody listens").kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn frames_are_written_as_they_came_with_what_became_of_them() {
    let Some(bench) = bench() else { return };
    let file = bench.dir.path().join("f.pcapng");
    let capture = Capture::start(&bench, &["--filter", "tcp", "--count", "4", "--snaplen", "60"], &file);
    let second = bench.hearken.ctl("capture --out /nonexistent/f").expect_err("one at a time").to_string();
    assert!(second.contains("EBUSY: another client captures"), "{second}");
    talk(&bench);
    talk(&bench);
    let said = capture.end();
    assert!(said.contains("4 frames written to") && said.contains(", 0 missed"), "{said}");
    let (frames, interface) = read(&file);
    assert_eq!((frames.len(), interface.as_str()), (4, "wire0"));
    assert_eq!(frames[0].0, "reply synack, core 0");
    assert!(frames.iter().any(|frame| frame.0 == "reply accept, core 0"), "{frames:?}");
    assert!(frames.iter().all(|(_, kept, len)| *kept == 60.min(*len)), "{frames:?}");

    // As it came in: a SYN, and not the answer that was written over it.
    let tcpdump = run(Command::new("tcpdump").args(["-nr"]).arg(&file)).expect("tcpdump reads it");
    let first = tcpdump.lines().find(|line| line.contains("IP ")).expect("a frame");
    assert!(
        first.contains("198.18.0.2.") && first.contains("> 198.18.0.1.7001: Flags [S], seq"),
        "{tcpdump}"
    );
    assert_eq!(tcpdump.lines().filter(|line| line.contains("IP ")).count(), 4, "{tcpdump}");
    let age = run(Command::new("tcpdump").args(["-tt", "-n", "-r"]).arg(&file)).expect("tcpdump reads it");
    let mut times = age.lines().filter_map(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    let seconds = times.next().unwrap_or_else(|| panic!("no times in {age}"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    assert!((now.as_secs_f64() - seconds).abs() < 60.0, "the time of day is {seconds}");
    let why = bench.hearken.ctl(&format!("why --pcap {}", file.display())).expect("why reads it");
    assert_eq!(why.lines().filter(|line| line.starts_with("frame ")).count(), 4, "{why}");
}

#[test]
fn verdicts_filters_and_samples_choose() {
    let Some(bench) = bench() else { return };
    let file = bench.dir.path().join("f.pcapng");
    let port = format!("dst port {NOBODY}");
    let capture = Capture::start(
        &bench,
        &["--verdict", "rst", "--count", "2", "--sample", "2", "--filter", &port],
        &file,
    );
    for _ in 0..4 {
        talk(&bench);
    }
    capture.end();
    let (frames, _) = read(&file);
    assert_eq!(frames.iter().map(|frame| frame.0.as_str()).collect::<Vec<_>>(), ["reply rst, core 0"; 2]);
    for (words, said) in [
        ("--verdict lost", "\"lost\" is no verdict"),
        ("--filter portt", "nothing that can be filtered by"),
        ("--snaplen 3", "snaplen must be from 14 to"),
        ("--sample 0", "sample above 0"),
    ] {
        let error = bench.hearken.ctl(&format!("capture {words} --out -")).expect_err(words).to_string();
        assert!(error.contains(said), "{words}: {error}");
    }
}
