//! Frames captured from a running server, with Linux's own TCP as the client; read back by tcpdump and by pcap-file.

#![cfg(feature = "dpdk")]

mod lab;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
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
    bench_of(1)
}

/// With so many workers, each with a queue of its own.
fn bench_of(workers: usize) -> Option<Bench> {
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => {
            skip("a capture", error);
            return None;
        }
    };
    let hearken = Hearken::start(Path::new(PROGRAM), &wire.server, |socket| {
        let device = format!("net_af_packet0,iface=hk0,qpairs={workers}");
        lab::config(socket, &device, workers, &[(CLOSE, "close")])
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

/// The workers that took the frames of a file, in the file's order, each frame no older than the one before.
fn workers_of(file: &Path) -> Vec<usize> {
    let mut reader = PcapNgReader::new(BufReader::new(File::open(file).expect("a file"))).expect("pcapng");
    let (mut workers, mut last) = (Vec::new(), Duration::ZERO);
    while let Some(block) = reader.next_block() {
        let Block::EnhancedPacket(packet) = block.expect("a block") else { continue };
        assert!(packet.timestamp >= last, "frame {} is older than the one before it", workers.len());
        last = packet.timestamp;
        let worker = packet.options.iter().find_map(|option| match option {
            EnhancedPacketOption::Comment(text) => text.rsplit("core ").next()?.parse().ok(),
            _ => None,
        });
        workers.push(worker.expect("a worker in the comment"));
    }
    workers
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
        // What the command line alone says wrong is usage.
        let usage = words.starts_with("--verdict") || words.starts_with("--filter");
        assert!(!usage || error.contains("exit status: 2"), "{words}: {error}");
    }
}

#[test]
fn frames_of_several_workers_are_in_order_and_as_many_as_asked_for() {
    let Some(bench) = bench_of(2) else { return };
    let file = bench.dir.path().join("f.pcapng");
    let capture = Capture::start(&bench, &["--count", "6001"], &file);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Each connection is another flow, and the device spreads flows.
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                talk(&bench);
            }
        });
        capture.end();
        ended.store(true, Ordering::Relaxed);
    });
    let workers = workers_of(&file);
    assert_eq!(workers.len(), 6001);
    assert!(workers.contains(&0) && workers.contains(&1), "{workers:?}");
}

/// Frames that each worker has received, once no more come.
fn received(bench: &Bench) -> Vec<u64> {
    let frames = || -> Vec<u64> {
        let stats = bench.hearken.json("stats").expect("stats");
        let cores = stats["cores"].as_array().expect("cores");
        cores.iter().map(|core| core["rx_frames"].as_u64().expect("a number")).collect()
    };
    let (mut seen, begun) = (Vec::new(), Instant::now());
    loop {
        let now = frames();
        if now == seen {
            return now;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "the wire does not come to rest");
        seen = now;
        // What is under way comes within the delay of an ACK.
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn an_interrupted_capture_has_every_frame_of_every_worker() {
    let Some(bench) = bench_of(2) else { return };
    let file = bench.dir.path().join("f.pcapng");
    // The neighbours have found each other, so that nothing else is on the wire.
    talk(&bench);
    let before = received(&bench);
    let capture = Capture::start(&bench, &[], &file);
    for _ in 0..60 {
        talk(&bench);
    }
    let seen: Vec<u64> = received(&bench).iter().zip(before).map(|(now, before)| now - before).collect();
    let pid = rustix::process::Pid::from_raw(capture.0.id().try_into().expect("a pid")).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it lives");
    let said = capture.end();
    assert!(said.contains(", 0 missed"), "{said}");
    let workers = workers_of(&file);
    let of = |worker: usize| workers.iter().filter(|other| **other == worker).count() as u64;
    assert_eq!([of(0), of(1)], seen[..], "{said}");
    assert!(of(0) > 0 && of(1) > 0);
}

#[test]
fn a_capture_without_a_frame_is_a_file_that_others_read() {
    let Some(bench) = bench() else { return };
    let file = bench.dir.path().join("none.pcapng");
    let said = Capture::start(&bench, &["--filter", "port 9", "--for", "100ms"], &file).end();
    assert!(said.starts_with("0 frames written to "), "{said}");
    assert_eq!(read(&file), (vec![], "wire0".into()));
    match Command::new("tcpdump").arg("-nr").arg(&file).output() {
        Ok(read) => assert!(read.status.success() && read.stdout.is_empty(), "{read:?}"),
        Err(error) => skip("reading it by tcpdump", error),
    }
}

#[test]
fn a_disk_that_is_full_is_called_that() {
    let Some(bench) = bench() else { return };
    let mut command = Command::new(PROGRAM);
    command.args(["capture", "--for", "10s", "--out", "/dev/full", "--socket"]).arg(bench.hearken.socket());
    let output = command.output().expect("hearken starts");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said, "hearken: cannot write /dev/full: No space left on device (os error 28)\n");
}
