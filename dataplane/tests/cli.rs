//! The binary as its users meet it: exit codes, messages, and whole runs on capture files and on a DPDK ring.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use etherparse::PacketBuilder;
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use serde_json::Value;

const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 9];
const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn hearken(args: &[&str]) -> Output {
    Command::new(cargo_bin("hearken")).args(args).output().expect("hearken starts")
}

/// Exit code and what stands on stderr after `hearken: `.
#[track_caller]
fn refused(args: &[&str]) -> (Option<i32>, String) {
    let output = hearken(args);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    let message = stderr.lines().find_map(|line| line.strip_prefix("hearken: "));
    (output.status.code(), message.unwrap_or(&stderr).to_owned())
}

/// A directory with a configuration on `device`, whose socket is in the directory too.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(port: &str, rest: &str) -> Self {
        let place = Self { dir: tempfile::tempdir().expect("a directory") };
        let socket = place.path("h.sock");
        let text = format!(
            "[control]\nsocket = \"{}\"\n[[port]]\nname = \"p0\"\n{port}\naddresses = [\"198.18.0.1/24\"]\n{rest}\n",
            socket.display()
        );
        fs::write(place.path("h.toml"), text).expect("a file");
        place
    }

    /// On files: three SYNs, to an open port, to a closed one, and one with a broken checksum.
    fn on_files(rest: &str) -> Self {
        let place = Self::new("", "");
        let (input, output) = (place.path("in.pcap"), place.path("out.pcap"));
        write_frames(&input, &[syn(80), syn(81), broken(syn(80))]);
        let device = format!("device = \"pcap:{},{}\"", input.display(), output.display());
        let text = fs::read_to_string(place.path("h.toml")).expect("a file");
        let text = text.replace("name = \"p0\"\n", &format!("name = \"p0\"\n{device}\n"));
        fs::write(place.path("h.toml"), format!("{text}{rest}\n")).expect("a file");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> String {
        self.path("h.toml").display().to_string()
    }

    fn run(&self, args: &[&str]) -> Server<'_> {
        let mut command = Command::new(cargo_bin("hearken"));
        command.args(["run", "--config", &self.config()]).args(args);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("hearken starts");
        Server { place: self, child: Some(child) }
    }
}

struct Server<'a> {
    place: &'a Place,
    child: Option<Child>,
}

impl Server<'_> {
    /// Asks it, by `hearken ARGS --config …`, once its socket is there.
    fn ask(&self, args: &[&str]) -> Output {
        let begun = Instant::now();
        while !self.place.path("h.sock").exists() {
            assert!(begun.elapsed() < Duration::from_secs(30), "no control socket");
            std::thread::sleep(Duration::from_millis(20));
        }
        hearken(&[args, &["--config", &self.place.config()]].concat())
    }

    #[track_caller]
    fn answer(&self, args: &[&str]) -> String {
        let output = self.ask(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.answer(args)).expect("JSON")
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid =
            self.child.as_ref().and_then(|child| rustix::process::Pid::from_raw(child.id().try_into().ok()?));
        rustix::process::kill_process(pid.expect("a process"), signal).expect("it lives");
    }

    fn end(mut self) -> (Option<i32>, String, String) {
        let output = self.child.take().expect("a process").wait_with_output().expect("it ends");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn syn(port: u16) -> Vec<u8> {
    let packet = PacketBuilder::ethernet2(CLIENT, SERVER)
        .ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64)
        .tcp(40_000, port, 1000, 64_240)
        .syn();
    let mut frame = Vec::new();
    packet.write(&mut frame, &[]).expect("a frame");
    frame
}

fn broken(mut frame: Vec<u8>) -> Vec<u8> {
    // The TCP checksum.
    frame[14 + 20 + 16] ^= 0x55;
    frame
}

fn write_frames(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = PcapWriter::new(fs::File::create(path).expect("a file")).expect("a header");
    for frame in frames {
        let len = u32::try_from(frame.len()).expect("a short frame");
        writer.write_packet(&PcapPacket::new(Duration::ZERO, len, frame)).expect("a frame");
    }
}

/// The flags of each TCP segment in a file, and the port it came from.
fn answers(path: &Path) -> Vec<(u16, &'static str)> {
    let mut reader = PcapReader::new(fs::File::open(path).expect("a file")).expect("a header");
    let mut answers = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.expect("a frame");
        let parsed = etherparse::PacketHeaders::from_ethernet_slice(&packet.data).expect("a frame");
        let Some(etherparse::TransportHeader::Tcp(tcp)) = parsed.transport else { continue };
        let flags = match (tcp.syn, tcp.ack, tcp.rst) {
            (true, true, false) => "syn ack",
            (false, true, true) => "rst ack",
            _ => "other",
        };
        answers.push((tcp.source_port, flags));
    }
    answers
}

const LISTENER: &str = "[[listener]]\naddr = \"198.18.0.1:80\"\n";

#[test]
fn usage_is_exit_code_2() {
    let output = hearken(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: hearken [OPTIONS] <COMMAND>"));
    for args in [&["lissen"][..], &["ss", "--jsn"], &["listen"], &["run", "--config", "x", "--for", "10"]] {
        assert_eq!(refused(args).0, Some(2), "{args:?}");
    }
    let (code, message) = refused(&["listen", "198.18.0.1:0"]);
    assert_eq!(code, Some(2));
    assert!(message.contains("port 0 is none to listen on; give ports from 1 to 65535"), "{message}");
    let (code, message) = refused(&["listen", "198.18.0.256:80"]);
    assert_eq!(code, Some(2));
    assert!(message.contains("write one such as \"198.18.0.1:80\""), "{message}");
    assert_eq!(
        refused(&["listen", "198.18.0.1:80", "--v6only"]),
        (Some(2), "--v6only on the IPv4 address 198.18.0.1:80; leave it out".into())
    );
    for args in [["--help"], ["--version"]] {
        assert_eq!(hearken(&args).status.code(), Some(0));
    }
}

#[test]
fn a_wrong_configuration_is_exit_code_2() {
    let place = Place::new("device = \"net_ring0\"", &format!("{LISTENER}{LISTENER}"));
    let config = place.config();
    for command in ["check", "run"] {
        let wanted = format!(
            "{config}:10: listener 198.18.0.1:80 is there already, line 8; remove one, or set reuseport = true in both \
             to share it"
        );
        assert_eq!(refused(&[command, "--config", &config]), (Some(2), wanted));
    }
    // A client looks for the socket alone, however many listeners there are.
    let (code, message) = refused(&["ss", "--config", &config]);
    assert_eq!(code, Some(1));
    assert!(message.starts_with("no server listens at"), "{message}");
    let place = Place::new("device = \"net_ring0\"", "[workers]\ncores = [100000]");
    let (code, message) = refused(&["run", "--config", &place.config()]);
    assert_eq!(code, Some(2));
    assert!(message.contains(":8: core 100000 is none that this process may use"), "{message}");
    let place = Place::new("device = \"net_ring0\"", "[[listener]]\naddr = \"198.18.0.9:80\"\n");
    for command in ["check", "run"] {
        let (code, message) = refused(&[command, "--config", &place.config()]);
        assert_eq!(code, Some(2));
        assert!(message.contains(":8: EADDRNOTAVAIL: cannot listen on 198.18.0.9:80"), "{message}");
    }
    let (code, message) = refused(&["run", "--config", "/nonexistent.toml"]);
    assert_eq!(code, Some(2));
    assert!(message.starts_with("/nonexistent.toml: cannot read it"), "{message}");
}

#[test]
fn what_the_machine_lacks_is_exit_code_1() {
    let place = Place::new("device = \"0000:ff:1f.7\"", LISTENER);
    for command in ["check", "run"] {
        let (code, message) = refused(&[command, "--config", &place.config()]);
        assert_eq!(code, Some(1));
        assert!(message.contains("port \"p0\": there is no PCI device 0000:ff:1f.7;"), "{message}");
    }
    assert!(!place.path("h.sock").exists(), "a run that fails leaves no socket");
    let (code, message) = refused(&["ss", "--socket", "/nonexistent/h.sock"]);
    assert_eq!(code, Some(1));
    assert!(
        message.starts_with("no server listens at /nonexistent/h.sock: there is no such socket; start one"),
        "{message}"
    );
}

#[test]
fn the_doctor_looks_at_this_machine() {
    let place = Place::on_files(LISTENER);
    let output = hearken(&["doctor", "--json", "--config", &place.config()]);
    let findings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let worst = |grade: &str| findings.as_array().expect("findings").iter().any(|f| f["grade"] == grade);
    let code = if worst("fail") {
        1
    } else if worst("warn") {
        3
    } else {
        0
    };
    assert_eq!(output.status.code(), Some(code), "{findings}");
    let text = String::from_utf8(hearken(&["doctor"]).stdout).expect("UTF-8");
    for check in ["cpu", "hugepages", "memlock", "vfio", "nic", "capabilities", "clock source"] {
        assert!(
            text.lines().any(|line| line.get(6..).is_some_and(|rest| rest.starts_with(check))),
            "{check}: {text}"
        );
    }
    // Whatever interface the kernel has on a PCI device, its own or virtio's, stands in its device's line.
    for interface in std::fs::read_dir("/sys/class/net").expect("the kernel has some").flatten() {
        let Ok(device) = interface.path().join("device").canonicalize() else { continue };
        let name = interface.file_name().into_string().expect("UTF-8");
        let is_nic = |dir: &Path| {
            std::fs::read_to_string(dir.join("class")).is_ok_and(|class| class.starts_with("0x02"))
        };
        let on_pci = device.ancestors().take(2).any(is_nic);
        let line = |line: &str| line.contains(": on ") && line.contains(&format!(" {name} ("));
        assert!(!on_pci || text.lines().any(line), "{name}: {text}");
    }
}

#[test]
fn files_are_answered_and_counted_to_the_end() {
    let place = Place::on_files(LISTENER);
    let (code, stdout, stderr) = place.run(&[]).end();
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(answers(&place.path("out.pcap")), [(80, "syn ack"), (81, "rst ack")]);
    let line = |name: &str| {
        let line = stdout.lines().find(|line| line.trim_start().starts_with(name));
        line.map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(line("rx_frames").as_deref(), Some("rx_frames 3 3"), "{stdout}");
    assert_eq!(line("synack").as_deref(), Some("synack 1 1"), "{stdout}");
    assert_eq!(line("tcp_csum").as_deref(), Some("tcp_csum 1 1"), "{stdout}");
    assert!(stdout.lines().any(|line| line.contains("p50") && line.contains("p99.99")), "{stdout}");
    assert!(stderr.contains("all files are replayed"), "{stderr}");
    assert!(!place.path("h.sock").exists(), "the socket goes with its server");
}

#[test]
fn a_running_server_is_asked_and_steered() {
    let place = Place::on_files(LISTENER);
    let server = place.run(&["--for", "60s"]);
    let ss = server.answer(&["ss"]);
    assert!(ss.contains("LISTEN"), "{ss}");

    let opened = server.answer(&[
        "listen",
        "198.18.0.1:8080",
        "--backlog",
        "7",
        "--then",
        "discard",
        "--device",
        "p0",
    ]);
    assert_eq!(opened, "listening fd=1 198.18.0.1:8080 backlog=7\n");
    let again = server.ask(&["listen", "198.18.0.1:8080"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("EADDRINUSE"), "{again:?}");
    let ss = server.json(&["ss", "--json"]);
    let row = &ss["listeners"][1];
    assert_eq!((&row["state"], &row["local"]), (&"LISTEN".into(), &"198.18.0.1:8080".into()));
    assert_eq!((&row["recv_q"], &row["send_q"], &row["then"]), (&0.into(), &7.into(), &"discard".into()));
    assert_eq!(row["device"], "p0");
    assert_eq!(server.answer(&["close", "198.18.0.1:8080"]), "closed fd=1 198.18.0.1:8080\n");
    assert_eq!(server.json(&["ss", "--json"])["listeners"].as_array().map(Vec::len), Some(1));
    let empty = server.ask(&["accept", "198.18.0.1:80"]);
    assert_eq!(empty.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&empty.stderr).contains("EAGAIN"), "{empty:?}");

    let stats = server.json(&["stats", "--json"]);
    let sum = |map: &Value| map.as_object().expect("a map").values().filter_map(Value::as_u64).sum::<u64>();
    let core = &stats["cores"][0];
    assert_eq!(core["rx_frames"], 3);
    assert_eq!(sum(&core["outcomes"]) + sum(&core["drops"]), 3);
    assert_eq!(stats["total"]["drops"]["tcp_csum"], 1);
    assert_eq!(stats["total"]["snmp"]["OutRsts"], 1);
    let latency = server.json(&["latency", "--json", "--core", "0"]);
    for row in latency["cores"][0]["outcomes"].as_array().expect("rows") {
        assert_eq!(row["count"], row["frames"], "{row}");
        assert_eq!(row["frames"], core["outcomes"][row["outcome"].as_str().expect("a name")], "{row}");
    }
    let hgrm = server.answer(&["latency", "--hgrm", "--outcome", "synack"]);
    assert!(hgrm.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n"), "{hgrm}");
    assert!(hgrm.contains("Total count    =            1]"), "{hgrm}");
    let picture = place.path("latency.svg");
    assert_eq!(server.answer(&["latency", "--plot", &picture.display().to_string()]), "");
    let svg = fs::read_to_string(&picture).expect("a picture");
    for wanted in ["synack", "frames, in the ", "s since the start, on host "] {
        assert!(svg.contains(wanted), "of one core a line an outcome, and what they are of: no {wanted}");
    }
    let intervals = server.answer(&["latency", "--interval", "10ms", "--count", "2", "--json"]);
    assert_eq!(intervals.lines().count(), 2, "{intervals}");
    for line in intervals.lines() {
        let interval: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(interval["total"][0]["count"], 0, "the files were replayed before: {interval}");
    }
    assert!(server.answer(&["stats", "--all"]).contains("ListenOverflows"));
    assert_eq!(server.ask(&["latency", "--core", "9"]).status.code(), Some(1));

    let (code, message) = refused(&["run", "--config", &place.config()]);
    assert_eq!(code, Some(1));
    assert!(message.contains("is in use by another server"), "{message}");

    server.signal(rustix::process::Signal::TERM);
    let (code, stdout, stderr) = server.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("p99.99"), "{stdout}");
    assert!(!place.path("h.sock").exists());
}

/// What stands behind `name` at the start of a line.
fn behind<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim()
}

/// Counters and listeners, without what goes on by itself.
fn settled(server: &Server<'_>) -> (Value, Value) {
    let mut stats = server.json(&["stats", "--json"]);
    // What goes on by itself: idle turns, and the SYN-ACK that nobody acknowledges.
    for name in ["turns_idle", "idle_ns", "taken_ns", "originated", "tx_frames", "tx_bytes"] {
        stats["total"][name] = 0.into();
    }
    for name in ["OutSegs", "RetransSegs", "TCPSynRetrans", "TCPTimeouts"] {
        stats["total"]["snmp"][name] = 0.into();
    }
    (stats["total"].take(), server.json(&["ss", "--json"]))
}

#[test]
fn why_says_what_would_happen_and_leaves_no_trace() {
    let any = "[[listener]]\naddr = \"0.0.0.0:90\"\nreuseport = true\n";
    let place = Place::on_files(&format!("{LISTENER}{any}{any}"));
    let server = place.run(&["--for", "60s"]);
    let settled = || settled(&server);
    let begun = Instant::now();
    // On a machine that is busy otherwise the worker may not have run yet.
    let patient = |what: &str| assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
    while settled().0["rx_frames"] != 3 {
        patient("the frames are not read");
    }
    let before = settled();
    let ask = |src: &str, dst: &str, more: &[&str]| loop {
        let output = server.ask(&[&["why", src, dst], more].concat());
        if output.status.success() {
            break String::from_utf8(output.stdout).expect("UTF-8");
        }
        patient(&String::from_utf8_lossy(&output.stderr));
    };
    let mut open = ask("198.18.0.2:5", "198.18.0.1:80", &[]);
    // Within 20 ms the worker gives back the places in the SYN queue that it took in advance.
    while behind(&open, "queues") == "0 of 4096 wait for accept, 64 half-open" {
        patient("the places are not given back");
        open = ask("198.18.0.2:5", "198.18.0.1:80", &[]);
    }
    assert_eq!(behind(&open, "frame"), "198.18.0.2:5 > 198.18.0.1:80 [S] seq 1000 win 64240 on p0, core 0");
    assert!(behind(&open, "lookup").starts_with("198.18.0.1:80: 1 listener, bucket "), "{open}");
    assert_eq!(behind(&open, "listener"), "fd=0 198.18.0.1:80: exact address, nobody else listens there");
    assert_eq!(behind(&open, "queues"), "0 of 4096 wait for accept, 1 half-open");
    assert!(behind(&open, "verdict").starts_with("reply synack: "), "{open}");
    assert!(behind(&open, "answer").starts_with("198.18.0.1:80 > 198.18.0.2:5 [S.] seq "), "{open}");
    assert!(behind(&open, "answer").contains(" ack 1001 win "), "{open}");

    let closed = ask("198.18.0.2:5", "198.18.0.1:81", &[]);
    assert_eq!(behind(&closed, "belongs"), "to nobody: neither a connection nor a listener");
    assert_eq!(closed.lines().filter(|line| line.starts_with("lookup")).count(), 2, "{closed}");
    assert!(
        behind(&closed, "answer").contains("[R.]") && behind(&closed, "verdict").starts_with("reply rst"),
        "{closed}"
    );
    let reset = ask("198.18.0.2:5", "198.18.0.1:80", &["--flags", "R"]);
    assert_eq!(behind(&reset, "verdict"), "drop listen_rst: A RST at a listener: never answered.");
    let known = ask("198.18.0.2:40000", "198.18.0.1:80", &["--flags", "R", "--seq", "1001"]);
    assert_eq!(behind(&known, "belongs"), "to a half-open handshake of a listener");
    assert!(behind(&known, "counters").contains("EmbryonicRsts"), "{known}");
    let group = ask("198.18.0.2:5", "198.18.0.1:90", &[]);
    assert!(behind(&group, "listener").contains("any-address, member "), "{group}");
    assert!(group.contains("of 2 of its reuseport group") && group.contains("  <- this one"), "{group}");
    let foreign = ask("198.18.0.2:5", "198.18.7.7:80", &[]);
    assert!(behind(&foreign, "verdict").starts_with("drop ip_not_local: "), "{foreign}");

    let file = place.path("in.pcap").display().to_string();
    let lines = server.answer(&["why", "--pcap", &file, "--json"]);
    let verdicts: Vec<(String, String)> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .map(|why| (why["belongs"].to_string(), why["reason"].to_string() + &why["outcome"].to_string()))
        .collect();
    let text = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        verdicts,
        [
            text("\"a half-open handshake of a listener\"", "null\"synack\""),
            text("\"nobody: neither a connection nor a listener\"", "null\"rst\""),
            text("null", "\"tcp_csum\"null")
        ]
    );
    assert_eq!(settled(), before, "asking left a trace");
    captures_of_all_kinds_are_explained(&server);
    what_cannot_be_tried_is_refused(&server);
    server.signal(rustix::process::Signal::INT);
    assert_eq!(server.end().0, Some(0));
}

/// A pcap file of frames of the link type `link`, each with the octets that it had on the wire.
fn capture(link: u32, frames: &[(&[u8], usize)]) -> Vec<u8> {
    let mut file = [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 96, link].map(u32::to_le_bytes).concat();
    for (octets, len) in frames {
        file.extend([0, 0, octets.len() as u32, *len as u32].map(u32::to_le_bytes).concat());
        file.extend_from_slice(octets);
    }
    file
}

/// What `why` says of each frame of a file: everything is explained that can be, and named what cannot.
fn captures_of_all_kinds_are_explained(server: &Server<'_>) {
    let file = server.place.path("kind.pcap").display().to_string();
    let explain = |octets: &[u8], more: &[&str]| {
        fs::write(&file, octets).expect("a file");
        let output = server.ask(&[&["why", "--pcap", &file], more].concat());
        let text = |octets: Vec<u8>| String::from_utf8(octets).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (open, closed, long) = (syn(80), syn(81), vec![0; 2554]);
    let mut data = Vec::new();
    let packet = PacketBuilder::ethernet2(CLIENT, SERVER).ipv4([198, 18, 0, 2], [198, 18, 0, 1], 64);
    packet.tcp(5, 80, 1000, 64_240).ack(1).write(&mut data, &[7; 1000]).expect("a frame");

    // Snapshot length 96, which all but the first is above, one frame beyond what a buffer holds, and the last one cut.
    let mut all = capture(1, &[(&open, 54), (&data[..96], data.len()), (&long, 2554), (&closed, 54)]);
    all.extend_from_slice(&capture(1, &[(&open, 54)])[24..70]);
    let (code, said, notes) = explain(&all, &[]);
    let heads: Vec<&str> = said.lines().filter(|line| line.starts_with("file ")).collect();
    assert_eq!(
        (code, heads.len(), heads[0], heads[3]),
        (Some(0), 4, "file      frame 1", "file      frame 4")
    );
    assert!(heads[1].contains("frame 2: the capture kept 96 of its 1054 octets"), "{said}");
    assert!(heads[2].contains("frame 3, not tried: it has 2554 octets"), "{said}");
    let verdicts: Vec<&str> = said.lines().filter(|line| line.starts_with("verdict ")).collect();
    assert!(verdicts.len() == 3 && verdicts.iter().all(|line| line.contains("reply ")), "{said}");
    assert!(notes.contains("in the middle of a frame behind frame 4"), "{notes}");
    let (_, json, _) = explain(&all, &["--json"]);
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines[1]["note"].is_string() && lines[2]["not_tried"].is_string(), "{json}");
    assert!((1..).zip(&lines).all(|(number, line)| line["number"] == number), "{json}");

    // Without a link header; cooked, and cut in its headers; another network.
    let (code, said, _) = explain(&capture(101, &[(&open[14..], 40)]), &[]);
    assert!(
        code == Some(0)
            && said.contains("of link type RAW")
            && behind(&said, "verdict").starts_with("reply synack")
    );
    let cooked = [&[0, 0, 0, 1, 0, 6][..], &CLIENT, &[0, 0, 8, 0], &open[14..50]].concat();
    let (code, said, failed) = explain(&capture(113, &[(&cooked, 56)]), &[]);
    assert!(
        code == Some(1) && said.contains("cut in its headers") && failed.contains("cannot be tried"),
        "{said}"
    );
    let (code, _, refused) = explain(&capture(105, &[(&open, 54)]), &[]);
    assert!(code == Some(2) && refused.contains("IEEE802_11 (105)"), "{refused}");
    let (code, _, empty) = explain(&capture(1, &[]), &[]);
    assert!(code == Some(0) && empty.contains("holds no frame"), "{empty}");
    // Longer than a request may be.
    let (code, said, _) = explain(&capture(1, &[(&[0; 65_000], 65_000), (&open, 54)]), &[]);
    assert!(code == Some(0) && said.contains("frame 1, not tried: it has 65000 octets"), "{said}");

    let elsewhere = [&open[..30], &[198, 18, 9, 9], &open[34..]].concat();
    let (_, said, _) = explain(&capture(1, &[(&elsewhere, 54)]), &["--to-us"]);
    assert!(behind(&said, "verdict").starts_with("drop "), "{said}");
    let elsewhere = capture(1, &[(&elsewhere, 54)]);
    // The checksum was of another address.
    let (_, said, _) = explain(&elsewhere, &["--to", "198.18.0.1:81"]);
    assert!(behind(&said, "verdict").starts_with("drop ip_csum"), "{said}");
    let mut moved = syn(80);
    moved[..6].fill(4);
    let (_, said, _) =
        explain(&capture(1, &[(&moved, 54)]), &["--to", "198.18.0.1:81", "--to", "2001:db8::1"]);
    assert!(behind(&said, "frame").contains("> 198.18.0.1:81 [S]"), "{said}");
    assert!(behind(&said, "verdict").starts_with("reply rst"), "{said}");
    let (code, said, _) = explain(&elsewhere, &["--to", "2001:db8::1"]);
    assert!(code == Some(1) && said.contains("is of IPv4, and no --to is"), "{said}");
}

fn what_cannot_be_tried_is_refused(server: &Server<'_>) {
    for (args, message) in [
        (&["why", "198.18.0.2:5", "[2001:db8::1]:80"][..], "are of two families"),
        (&["why", "198.18.0.2:5", "198.18.0.1:80", "--flags", "Z"], "is no flag"),
        (&["why", "198.18.0.2:5", "198.18.0.1:80", "--core", "3"], "there is no core 3"),
        (&["why", "198.18.0.2:5", "198.18.0.1:80", "--device", "lan"], "the ports are: p0"),
        (&["why", "--pcap", "/nonexistent"], "cannot read it: No such file"),
        (&["why", "--pcap", &server.place.config()], "is no capture file"),
        (&["why", "198.18.0.2:5"], "required"),
    ] {
        let output = server.ask(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(message), "{args:?}: {said}");
    }
}

/// The binary run by the user `nobody`.
fn by_nobody(place: &Place, args: &[&str]) -> Output {
    use std::os::unix::process::CommandExt;
    let copy = place.path("hearken");
    if !copy.exists() {
        // By another process: a file that this one writes is open, and so busy, in whatever another test forks meanwhile.
        let cp = Command::new("cp").arg(cargo_bin("hearken")).arg(&copy).status().expect("cp");
        assert!(cp.success(), "room for the binary");
    }
    let socket = place.path("h.sock").display().to_string();
    let mut command = Command::new(copy);
    command.args(args).args(["--socket", &socket]).uid(65_534).gid(65_534);
    command.output().expect("hearken starts")
}

#[test]
fn others_read_if_they_are_allowed_to_and_change_nothing() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "only root can become another user, and CI skips nothing");
        eprintln!("SKIPPED others on the control socket: only root can become another user");
        return;
    }
    let place = Place::on_files(LISTENER);
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).expect("our directory");
    let server = place.run(&["--for", "60s"]);
    server.answer(&["ss"]);
    let stderr = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = by_nobody(&place, &["ss"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("it belongs to another user"), "{refused:?}");

    let text = fs::read_to_string(place.path("h.toml")).expect("a file");
    let reload = |readers: &str| {
        let text = text.replace("[control]\n", &format!("[control]\nreaders = {readers}\n"));
        fs::write(place.path("h.toml"), text).expect("a file");
        server.answer(&["reload"])
    };
    assert!(reload("[65534]").starts_with("~ control.readers: (default) -> [65534]\n"));
    let mode = || fs::metadata(place.path("h.sock")).expect("a socket").permissions().mode() & 0o777;
    let begun = Instant::now();
    while mode() != 0o666 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the socket stays closed");
        std::thread::sleep(Duration::from_millis(5));
    }
    for read in [&["ss"][..], &["stats"], &["latency"]] {
        let output = by_nobody(&place, read);
        assert!(output.status.success(), "{read:?}: {output:?}");
    }
    for change in [&["listen", "198.18.0.1:8080"][..], &["close", "198.18.0.1:80"], &["reload"]] {
        let output = by_nobody(&place, change);
        assert_eq!(output.status.code(), Some(1), "{change:?}");
        assert!(stderr(&output).contains("EPERM: only root and the user that runs the server"), "{output:?}");
    }
    reload("[7]");
    let begun = Instant::now();
    while by_nobody(&place, &["ss"]).status.success() {
        assert!(begun.elapsed() < Duration::from_secs(10), "a reader that is none any more");
    }
    let refused = by_nobody(&place, &["ss"]);
    assert!(stderr(&refused).contains("whom control.readers names"), "{refused:?}");
    server.signal(rustix::process::Signal::INT);
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn an_interrupt_ends_the_run_with_its_report() {
    let place = Place::on_files(LISTENER);
    let server = place.run(&["--for", "60s"]);
    server.answer(&["ss"]);
    let begun = Instant::now();
    server.signal(rustix::process::Signal::INT);
    let (code, stdout, stderr) = server.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(20), "it waited for --for");
    assert!(stdout.contains("rx_frames"), "{stdout}");
    assert!(stderr.contains("stopped by a signal: ended"), "{stderr}");
}

#[test]
fn a_socket_that_a_killed_run_left_is_replaced() {
    let place = Place::on_files(LISTENER);
    let server = place.run(&["--for", "60s"]);
    server.answer(&["ss"]);
    server.signal(rustix::process::Signal::KILL);
    let (code, ..) = server.end();
    assert_eq!(code, None);
    assert!(place.path("h.sock").exists());
    let (code, message) = refused(&["ss", "--config", &place.config()]);
    assert_eq!(code, Some(1));
    assert!(message.contains("the socket was left by a run that was killed"), "{message}");
    let (code, _, stderr) = place.run(&[]).end();
    assert_eq!(code, Some(0), "{stderr}");
}

#[cfg(feature = "dpdk")]
#[test]
fn a_ring_runs_without_hugepages_for_as_long_as_told() {
    let eal = format!("[eal]\nhuge = \"never\"\nfile_prefix = \"hearken-test-{}\"", std::process::id());
    let place = Place::new("device = \"net_ring0\"", &format!("{eal}\n{LISTENER}"));
    let begun = Instant::now();
    let (code, stdout, stderr) = place.run(&["--for", "1s"]).end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(stderr.contains("driver=\"net_ring\""), "{stderr}");
    assert!(stdout.contains("device p0"), "{stdout}");
    assert!(stdout.contains("imissed"), "{stdout}");
    assert!(!place.path("h.sock").exists());
}

#[test]
fn a_device_without_interrupts_is_refused_by_its_drivers_name() {
    let idle = "[workers]\nidle = \"interrupt\"\n";
    let files = Place::on_files(idle);
    let (code, _, stderr) = files.run(&["--for", "1s"]).end();
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("h.toml:5: a file raises no interrupts; set workers.idle to"), "{stderr}");
    if cfg!(feature = "dpdk") {
        let eal = format!("[eal]\nhuge = \"never\"\nfile_prefix = \"hearken-test-{}\"", std::process::id());
        let ring = Place::new("device = \"net_ring0\"", &format!("{eal}\n{idle}"));
        let (code, _, stderr) = ring.run(&["--for", "1s"]).end();
        assert_eq!(code, Some(1), "{stderr}");
        assert!(
            stderr.contains("the driver net_ring has no receive interrupts for this device; choose"),
            "{stderr}"
        );
    }
}

/// But for numbers, the book's sample of `hearken why` is what it prints.
#[test]
fn the_book_shows_what_why_prints() {
    let place = Place::on_files(LISTENER);
    let server = place.run(&["--for", "60s"]);
    let said = server.answer(&["why", "198.18.0.2:41000", "198.18.0.1:80"]).replace(" on p0,", " on wan,");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/asking-why.md");
    let page = fs::read_to_string(page).expect("the page");
    let sample = page.split("```text\nframe ").nth(1).and_then(|rest| rest.split("```").next());
    let sample = format!("frame {}", sample.expect("a sample"));
    let without_numbers = |text: &str| {
        let mut last = ' ';
        let mut kept = |c: char| {
            let c = if c.is_ascii_digit() { '0' } else { c };
            let again = c == '0' && last == '0';
            last = c;
            (!again).then_some(c)
        };
        text.chars().filter_map(&mut kept).collect::<String>()
    };
    assert_eq!(without_numbers(&said), without_numbers(&sample));
}
