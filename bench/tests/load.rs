//! `hearken-load` and the other generators as their users run them: against Linux's TCP and hearken over a real wire, and
//! against a server of its own.
//!
//! How many of the answers come, and how fast, is the machine's affair; that what comes is right, and that the books are
//! kept, is asserted.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

#[path = "../../dataplane/tests/lab/mod.rs"]
mod lab;

use bench::generator::report::{Parts, Report};
use lab::{CLIENT, Hearken, SERVER, Wire, run, skip};

const LOAD: &str = env!("CARGO_BIN_EXE_hearken-load");

/// The binary that `cargo test --workspace` puts beside ours.
fn hearken() -> PathBuf {
    let path = Path::new(LOAD).with_file_name("hearken");
    assert!(path.exists(), "{} is not there; run cargo build -p dataplane first", path.display());
    path
}

fn count(report: &Report, name: &str) -> u64 {
    report.streams.iter().map(|stream| stream.counts[name]).sum()
}

/// Nothing is wrong, and every SYN is in the books once.
#[track_caller]
fn assert_right(report: &Report) {
    for stream in &report.streams {
        assert_eq!(stream.wrong, 0, "{stream:?}");
        let answered = ["synack", "rst", "refused"].map(|name| stream.counts[name]).iter().sum::<u64>();
        assert_eq!(stream.counts["sent"], answered + stream.silent, "{stream:?}");
        assert!(answered > 0, "{stream:?}");
    }
}

fn read(file: &Path) -> Report {
    serde_json::from_str(&std::fs::read_to_string(file).expect("a report")).expect("its JSON")
}

/// Runs hearken-load with `words` and a JSON file; its report.
fn load(command: &mut Command, words: &str, dir: &Path) -> io::Result<Report> {
    let file = dir.join("report.json");
    run(command.args(words.split_whitespace()).args(["--quiet", "--json"]).arg(&file))?;
    Ok(read(&file))
}

/// Linux listens where the tests' client lives otherwise; the generator has the end without an address.
#[test]
fn against_linux_over_a_wire() {
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => return skip("a load on Linux's TCP", error),
    };
    wire.client.ip(&format!("route add 198.19.0.0/16 via {SERVER}")).expect("a route");
    let listener =
        wire.client.enter(|| TcpListener::bind((CLIENT, 80))).expect("entered").expect("a listener");
    listener.set_nonblocking(true).expect("a socket");
    let dir = tempfile::tempdir().expect("a directory");
    let (stop, device) =
        (AtomicBool::new(false), "--device net_af_packet0,iface=hk0,framecnt=4096 --drain 1");
    let (connections, syns) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if listener.accept().is_err() {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        });
        let common = format!("{device} --address {SERVER} --to {CLIENT} --seconds 1");
        let words = format!("connect {common} --from 198.19.0.0/24 --rate 200 --end fin");
        let connections = load(&mut wire.server.command(LOAD), &words, dir.path());
        let words = format!("syn {common} --from 198.19.1.0/24 --rate 2k --hit 50");
        let syns = load(&mut wire.server.command(LOAD), &words, dir.path());
        stop.store(true, Ordering::Relaxed);
        (connections.expect("connections"), syns.expect("SYNs"))
    });
    assert_right(&connections);
    assert!(count(&connections, "closed") > 100, "{:?}", connections.streams);
    assert_eq!(count(&connections, "handshakes"), count(&connections, "synack"));
    assert_right(&syns);
    assert!(count(&syns, "rst") > 100 && count(&syns, "refused") == 0, "{:?}", syns.streams);
}

/// A file for another server, with frames that no wire takes, sent to the one at the other end.
fn replayed(wire: &Wire, dir: &Path) {
    let mut frames = bench::frames::frames(bench::frames::Kind::Syn, 40, [6; 6]);
    frames.insert(1, vec![0; 2554]);
    frames.insert(7, vec![0; 9]);
    // Not of the address that is asked for, and of none that the other end has.
    for frame in frames.iter_mut().filter(|frame| frame.len() < 1000 && frame.len() > 34) {
        let to = "198.18.9.9:81".parse().expect("an address");
        dataplane::savefile::Retarget::new(&[to]).expect("one").apply(frame).expect("IPv4");
    }
    let file = dir.join("other.pcap");
    bench::pcap::write(&file, &frames).expect("a file");
    let words = format!(
        "replay {} --to {SERVER}:80 --device net_af_packet0,iface=hk1,framecnt=4096 --rate 1k --seconds 1 --drain 1",
        file.display()
    );
    let report = load(&mut wire.client.command(LOAD), &words, dir).expect("a replay");
    let note =
        "2 frames of the file are left out; the first, frame 2, has 2554 octets, 2540 of them a packet";
    assert!(report.notes[0].starts_with(note), "{:?}", report.notes);
    let stream = &report.streams[0];
    assert!(count(&report, "sent") == 1000 && stream.wrong == 0, "{stream:?}");
    // Copies of a SYN come 40 ms apart, and the server keeps its request: none of that is loss.
    assert!(stream.silent == 0 && stream.loss == 0.0 && stream.copies > 0, "{stream:?}");
}

/// hearken's own counters agree with the generator's, and testpmd's frames are answered.
#[test]
fn against_hearken_over_a_wire() {
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => return skip("a load on hearken", error),
    };
    let device = "net_af_packet0,iface=hk0,qpairs=1,framecnt=4096";
    let listeners = [(80, "close")];
    let mut server =
        Hearken::start(&hearken(), &wire.server, |socket| lab::config(socket, device, 1, &listeners))
            .expect("hearken");
    let dir = tempfile::tempdir().expect("a directory");
    wire.client.ip(&format!("addr del {CLIENT}/24 dev hk1")).expect("an address less");
    let words = "connect --device net_af_packet0,iface=hk1,framecnt=4096 --seconds 1 --drain 1 --rate 200";
    let report = load(&mut wire.client.command(LOAD), words, dir.path()).expect("a load");
    assert_right(&report);
    assert!(count(&report, "closed") > 100, "{:?}", report.streams);
    let stats = server.json("stats").expect("stats");
    assert_eq!(stats["total"]["snmp"]["PassiveOpens"].as_u64(), Some(count(&report, "handshakes")));

    let mac = run(wire.server.command("cat").arg("/sys/class/net/hk0/address")).expect("a MAC address");
    let mac: dataplane::wire::ether::MacAddr = mac.trim().parse().expect("a MAC address");
    let file = dir.path().join("syn.pcap");
    bench::pcap::write(&file, &bench::frames::frames(bench::frames::Kind::Syn, 4000, mac.0)).expect("a file");
    replayed(&wire, dir.path());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/pktgen/testpmd.sh");
    let mut testpmd = wire.client.command(&script);
    let said = run(testpmd.arg(&file).args(["net_af_packet0,iface=hk1", "1"])).expect("dpdk-testpmd");
    assert!(said.contains("TX-packets"), "{said}");
    let synacks = |stats: &serde_json::Value| stats["total"]["outcomes"]["synack"].as_u64().expect("a count");
    let after = server.json("stats").expect("stats");
    assert!(synacks(&after) > synacks(&stats) + 1000, "{after}");
    server.stop().expect("it ends");
}

/// A server in the generator's process; all that can be written is written.
#[test]
fn against_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let (page, prefix) = (dir.path().join("report.html"), dir.path().join("latency"));
    let words = format!(
        "syn --rate 5k --seconds 1 --hit 80 --port 80-83 --to 198.18.0.0/28 --report {} --hgrm {}",
        page.display(),
        prefix.display()
    );
    let report = load(&mut Command::new(LOAD), &words, dir.path()).expect("a run");
    assert_right(&report);
    let server = report.server.as_ref().expect("its server's numbers");
    assert_eq!(server.counters["synack"], count(&report, "synack"));
    assert!(report.notes.iter().any(|note| note.contains("share one process")), "{:?}", report.notes);
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.contains("<svg") && page.ends_with("</html>\n"));
    let hgrm = std::fs::read_to_string(dir.path().join("latency.hgrm")).expect("a histogram");
    assert!(
        hgrm.contains("Percentile")
            && hgrm.contains(&format!("Total count    = {:12}", count(&report, "synack"))),
        "{hgrm}"
    );

    let mix = dir.path().join("mix.toml");
    let text = "[[stream]]\nname = \"clients\"\nmode = \"connect\"\nfrom = \"198.19.1.0/24\"\nrate = \"500\"\n\
                [[stream]]\nname = \"flood\"\nfrom = \"198.19.128.0/17\"\nrate = \"5k\"\n";
    std::fs::write(&mix, text).expect("a file");
    let report = load(&mut Command::new(LOAD), &format!("mix {} --seconds 0.5", mix.display()), dir.path())
        .expect("a mix");
    assert_right(&report);
    assert_eq!(
        report.streams.iter().map(|stream| stream.name.as_str()).collect::<Vec<_>>(),
        ["clients", "flood"]
    );
    assert!(count(&report, "closed") > 0);
}

/// Those whose outcome is more than a number.
#[test]
fn scenarios_show_what_they_are_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let scenario = |name: &str| -> Parts {
        let file = dir.path().join("parts.json");
        let words = format!("scenario {name} --seconds 0.5 --quiet --json {}", file.display());
        run(Command::new(LOAD).args(words.split_whitespace())).expect(name);
        serde_json::from_str(&std::fs::read_to_string(&file).expect("a report")).expect("its JSON")
    };
    let overflow = scenario("overflow");
    let [full, emptied] = &overflow.parts[..] else { panic!("two parts") };
    let counters = &full.server.as_ref().expect("counters").counters;
    assert!(counters["ListenOverflows"] > 0 && count(full, "refused") == 0, "{counters:?}");
    assert!(full.streams[0].silent > 0, "{:?}", full.streams);
    assert!(emptied.notes.iter().any(|note| note.ends_with("were accepted.")), "{:?}", emptied.notes);
    for stream in [&full.streams[0], &emptied.streams[0]] {
        assert_eq!(stream.completed, Some(stream.counts["handshakes"]), "{stream:?}");
        assert_eq!(stream.curves.keys().collect::<Vec<_>>(), stream.latency.keys().collect::<Vec<_>>());
    }
    for part in scenario("churn").parts.iter().chain(&scenario("closed").parts) {
        assert_right(part);
    }
}

/// `hearken-load … | head -0`, with the progress on a terminal that was closed: the files are written all the same.
#[test]
fn a_reader_that_is_gone_ends_no_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let json = dir.path().join("report.json");
    let gone = || {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        writer
    };
    let mut command = Command::new(LOAD);
    command.args(["syn", "--rate", "1k", "--seconds", "0.2", "--json"]).arg(&json);
    let status = command.stdout(gone()).stderr(gone()).status().expect("it starts");
    assert!(status.success(), "{status}");
    assert_right(&read(&json));
    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let output = command.stdout(full).stderr(std::process::Stdio::piped()).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("cannot write to standard output"), "{said}");
}

#[test]
fn what_cannot_be_is_said() {
    let refused = |words: &str| {
        let output = Command::new(LOAD).args(words.split_whitespace()).output().expect("it starts");
        assert!(!output.status.success(), "{words}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused("syn --device net_af_packet0,iface=none0").contains("none0"));
    assert!(refused("syn --cores 4711").contains("4711 is none that this process may use"));
    assert!(refused("mix /nowhere.toml").contains("cannot read /nowhere.toml"));
    assert!(refused("syn --rate fast").contains("write a number a second"));
    // Before the run: none of these has a server to start.
    let begun = std::time::Instant::now();
    assert!(
        refused("scenario overview --seconds 100 --hgrm F")
            .contains("--hgrm: a scenario has several histograms")
    );
    for option in ["--json", "--report", "--hgrm"] {
        let said = refused(&format!("syn --seconds 100 {option} /nowhere/F"));
        assert!(said.contains("cannot write /nowhere/F"), "{said}");
    }
    assert!(refused("syn --seconds 100 --json /tmp").contains("it is a folder"));
    assert!(begun.elapsed() < std::time::Duration::from_secs(100));
}

#[test]
fn the_scripts_of_other_generators_are_well_formed() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/pktgen");
    let compile = "import ast, sys; ast.parse(open(sys.argv[1]).read())";
    run(Command::new("python3").args(["-c", compile]).arg(dir.join("trex_syn.py"))).expect("Python");
    for script in ["testpmd.sh", "pcap.sh"] {
        run(Command::new("bash").arg("-n").arg(dir.join(script))).expect(script);
    }
}
