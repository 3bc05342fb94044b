//! Prometheus, systemd and the files for them: a running server is scraped over loopback and read by Prometheus' own
//! parser; its notifications are caught; dashboards and alerts name only what is there.

mod lab;
mod scraped;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use dataplane::names::KERNEL_COUNTERS;
use lab::skip;
use scraped::{Server, get};
use serde_json::Value;

/// Reads a page by the strict parser of Prometheus' Python client, a package of the system's Python; prints JSON.
const PARSER: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
print(json.dumps([[s.name, s.labels, s.value] for f in parse(sys.stdin.read()) for s in f.samples]))
";

/// The samples of a page: name, labels, value.
fn parse(page: &str) -> Option<Vec<(String, Value, f64)>> {
    let mut command = Command::new("/usr/bin/python3");
    let command =
        command.args(["-c", PARSER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut parser = command.spawn().ok()?;
    parser.stdin.take()?.write_all(page.as_bytes()).ok()?;
    let output = parser.wait_with_output().ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("ModuleNotFoundError") {
        return None;
    }
    assert!(output.status.success(), "Prometheus cannot read this: {said}\n{page}");
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

#[test]
fn prometheus_reads_every_number() {
    let server = Server::start(&[]);
    assert_eq!(server.get("/healthz"), ("HTTP/1.1 200 OK".into(), "ok\n".into()));
    assert_eq!(server.get("/nothing").0, "HTTP/1.1 404 Not Found");
    let (status, page) = server.get("/metrics");
    assert_eq!(status, "HTTP/1.1 200 OK");
    let Some(samples) = parse(&page) else {
        return skip("reading the metrics", "python3-prometheus-client is not installed");
    };
    let value = |name: &str, label: &str, wanted: &str| {
        let found =
            samples.iter().find(|(n, labels, _)| n == name && (label.is_empty() || labels[label] == wanted));
        found.unwrap_or_else(|| panic!("no {name} {label}={wanted}")).2
    };
    for reason in listener::drop_reason::DropReason::ALL {
        let dropped = if reason.name() == "otherhost" { 1.0 } else { 0.0 };
        assert_eq!(value("hearken_drops_total", "reason", reason.name()), dropped, "{reason:?}");
    }
    assert_eq!(value("hearken_snmp_SyncookiesSent_total", "core", "control"), 0.0);
    assert_eq!(value("hearken_healthy", "", ""), 1.0);
    assert!(value("hearken_turns_idle_total", "core", "0") > 0.0);
    assert_eq!(value("hearken_latency_seconds_bucket", "le", "+Inf"), 0.0);
}

#[test]
fn who_asks_for_a_format_gets_it() {
    let server = Server::start(&[]);
    let protobuf =
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    for (accept, kind, begin) in [
        ("*/*", "application/openmetrics-text; version=1.0.0; charset=utf-8", "# HELP hearken_rx_frames "),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8", "# HELP hearken_rx_frames_total "),
        (
            protobuf,
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
            "\n\x17hearken_rx_frames_total\x12",
        ),
    ] {
        let (head, body) = get(server.metrics, "/metrics", accept);
        assert!(head.contains(&format!("\r\nContent-Type: {kind}\r\n")), "{head}");
        // A protobuf's length is in front of it, in one octet.
        let body: String = body.chars().skip(usize::from(accept == protobuf)).take(60).collect();
        assert!(body.starts_with(begin), "{body:?}");
    }
}

#[test]
fn slow_clients_harm_nobody() {
    let server = Server::start(&[]);
    let slow: Vec<TcpStream> = (0..40)
        .map(|number| {
            let mut stream = TcpStream::connect(server.metrics).expect("it listens");
            // Half a question, or a whole one whose answer is never read.
            let question: &[u8] =
                if number % 2 == 0 { b"GET /met" } else { b"GET /metrics HTTP/1.1\r\n\r\n" };
            stream.write_all(question).expect("it takes it");
            stream
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(server.get("/metrics").0, "HTTP/1.1 200 OK");
    }
    let socket = server.dir.path().join("h.sock");
    let ss =
        Command::new(cargo_bin("hearken")).args(["ss", "--socket"]).arg(socket).output().expect("it runs");
    assert!(ss.status.success(), "{ss:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(slow);
}

#[test]
fn systemd_hears_of_the_start_the_progress_and_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let server = Server::start(&[("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", Path::new("200000"))]);
    let next = || {
        let mut bytes = [0; 1000];
        let len = socket.recv(&mut bytes).expect("a notification");
        String::from_utf8_lossy(&bytes[..len]).trim().to_owned()
    };
    assert_eq!([next(), next(), next()], ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]);
    let pid = rustix::process::Pid::from_raw(server.child.id().try_into().expect("a pid"));
    rustix::process::kill_process(pid.expect("a process"), rustix::process::Signal::TERM).expect("it lives");
    let mut seen = next();
    while seen == "WATCHDOG=1" {
        seen = next();
    }
    assert_eq!(seen, "STOPPING=1");
}

fn configs(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(path)
}

#[test]
fn dashboard_and_alerts_name_only_what_is_on_the_page() {
    let page = Server::start(&[]).get("/metrics").1;
    // A counter's series end in _total, a histogram's in _bucket, _sum and _count. What has no device has no series.
    let mut known: BTreeSet<String> = BTreeSet::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        // One that is native in Prometheus has the name itself.
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count", ""],
            _ => &[""],
        };
        known.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    // Those of hearken beside the kernel, which this server is not.
    known.extend(KERNEL_COUNTERS.iter().map(|counter| format!("hearken_kernel_{}_total", counter.name)));
    known.insert("hearken_handover_rtt_total".to_owned());
    assert!(known.len() > 60, "{known:?}");
    for file in ["monitoring/dashboard.json", "monitoring/alerts.yml"] {
        let text = fs::read_to_string(configs(file)).expect(file);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let used: BTreeSet<&str> = words.filter(|word| word.starts_with("hearken_")).collect();
        assert!(used.len() > 6, "{file}: {used:?}");
        for name in used {
            assert!(known.contains(name), "{file} names {name}, which is not on the page");
        }
    }
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(configs("monitoring/dashboard.json")).expect("a file"))
            .expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.iter().all(|panel| panel["targets"][0]["expr"].is_string()));
    let alerts = fs::read_to_string(configs("monitoring/alerts.yml")).expect("a file");
    let count = |word: &str| alerts.lines().filter(|line| line.trim_start().starts_with(word)).count();
    assert_eq!(count("- alert: "), count("expr: "));
    assert_eq!(count("- alert: "), count("severity: "));
}

#[test]
fn systemd_takes_the_units() {
    let dir = tempfile::tempdir().expect("a directory");
    // systemd looks for the programs where the units say; here they are this build's.
    let hearken = cargo_bin("hearken").display().to_string();
    let mut units = Vec::new();
    for (file, to) in [
        ("hearken.service", "hearken.service"),
        ("hearken-shield@.service", "hearken-shield@eth0.service"),
        ("hearken-bind@.service", "hearken-bind@0000:01:00.0.service"),
        ("hearken-bind-uio@.service", "hearken-bind-uio@0000:01:00.0.service"),
    ] {
        let text = fs::read_to_string(configs("systemd").join(file)).expect(file);
        let text = text.replace("/usr/bin/hearken ", &format!("{hearken} "));
        let text =
            text.replace("/usr/bin/dpdk-devbind.py", "/bin/true").replace("/sbin/modprobe", "/bin/true");
        fs::write(dir.path().join(to), text).expect("a file");
        units.push(dir.path().join(to));
    }
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output();
    let Ok(output) = verified else {
        return skip("checking the units", "there is no systemd-analyze");
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("hearken")).collect();
    assert!(about_ours.is_empty(), "{about_ours:#?}");
}

/// What `dpdk-telemetry.py` does: one packet a command, one answer.
#[cfg(feature = "dpdk")]
#[test]
fn dpdks_telemetry_has_our_numbers() {
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, connect, recv, send, socket,
    };

    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    // DPDK keeps its sockets below RUNTIME_DIRECTORY, where systemd's services have theirs too.
    let text = format!(
        "[control]\nsocket = {:?}\n[eal]\nhuge = \"never\"\ntelemetry = true\nfile_prefix = \"t\"\n[workers]\n\
         cores = [0]\nidle = \"yield\"\n[[port]]\nname = \"p0\"\ndevice = \"net_ring0\"\naddresses = [\"198.18.0.1/24\"]\n",
        path("h.sock")
    );
    fs::write(path("h.toml"), text).expect("a file");
    let mut command = Command::new(cargo_bin("hearken"));
    command
        .args(["run", "--for", "60s", "--config"])
        .arg(path("h.toml"))
        .env("RUNTIME_DIRECTORY", dir.path());
    let log = fs::File::create(path("log")).expect("a file");
    let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("hearken starts");
    let server = Server { child, metrics: ([127, 0, 0, 1], 0).into(), dir };
    let path = |name: &str| server.dir.path().join(name);
    let begun = Instant::now();
    let ask = |question: &str| -> Option<Value> {
        let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
        let telemetry = path("dpdk/t/dpdk_telemetry.v2");
        connect(&socket, &SocketAddrUnix::new(telemetry).expect("short enough")).ok()?;
        let mut bytes = vec![0; 1 << 16];
        // First it says who it is.
        recv(&socket, &mut bytes[..], RecvFlags::empty()).ok()?;
        send(&socket, question.as_bytes(), SendFlags::empty()).ok()?;
        let (len, _) = recv(&socket, &mut bytes[..], RecvFlags::empty()).ok()?;
        let answer: Value = serde_json::from_slice(&bytes[..len]).ok()?;
        Some(answer[question.split(',').next()?].clone())
    };
    let counters = loop {
        match ask("/hearken/counters").filter(|answer| answer["rx_frames"].as_u64() > Some(0)) {
            Some(counters) => break counters,
            None => assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{}",
                fs::read_to_string(path("log")).unwrap_or_default()
            ),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(counters["turns_busy"].as_u64() > Some(0), "{counters}");
    let drops = ask("/hearken/drops,0").expect("an answer");
    assert_eq!(drops.as_object().map(serde_json::Map::len), Some(listener::drop_reason::DropReason::COUNT));
    let outcomes = ask("/hearken/outcomes").expect("an answer");
    assert_eq!(outcomes["synack"], 0, "{outcomes}");
    let snmp = ask("/hearken/snmp").expect("an answer");
    assert_eq!(snmp["ListenOverflows"], 0, "{snmp}");
    latency_is_shown(&ask);
    assert_eq!(ask("/hearken/drops,7"), Some(Value::Null), "there is no core 7");
    let help = ask("/").expect("the commands");
    assert!(
        help.as_array().is_some_and(|all| all.iter().any(|command| command == "/hearken/snmp")),
        "{help}"
    );
    let log = fs::read_to_string(path("log")).expect("a log");
    lcore_usage_is_shown(&ask, &log);
}

#[cfg(feature = "dpdk")]
fn latency_is_shown(ask: &impl Fn(&str) -> Option<Value>) {
    let latency = ask("/hearken/latency,0").expect("an answer");
    let outcomes = ask("/hearken/outcomes").expect("an answer");
    for outcome in ["synack", "rst", "accept", "other"] {
        let of = |name: &str| {
            latency[format!("{outcome}_{name}")].as_u64().unwrap_or_else(|| panic!("{name}: {latency}"))
        };
        assert!(of("count") <= outcomes[outcome].as_u64().expect("a number"), "{latency} {outcomes}");
        let times = ["p50_ns", "p90_ns", "p99_ns", "p99_9_ns", "max_ns"].map(of);
        assert!(times.is_sorted() && (of("count") > 0) == (times[0] > 0), "{latency}");
    }
    assert_eq!(latency.as_object().map(serde_json::Map::len), Some(4 * 6));
    let all = ask("/hearken/latency").expect("an answer");
    assert!(
        all.as_object().is_some_and(|all| all.keys().eq(latency.as_object().expect("checked").keys())),
        "{all}"
    );
    assert_eq!(ask("/hearken/latency,7"), Some(Value::Null), "there is no core 7");
}

/// The command is DPDK's, from 23.03 on; the start says where it is missing.
#[cfg(feature = "dpdk")]
fn lcore_usage_is_shown(ask: &impl Fn(&str) -> Option<Value>, log: &str) {
    let ask = |question| ask(question).expect("an answer");
    let commands = ask("/");
    let has_usage =
        commands.as_array().is_some_and(|all| all.iter().any(|command| command == "/eal/lcore/usage"));
    assert_eq!(has_usage, !log.contains("/eal/lcore/usage is not there"), "{log}");
    if !has_usage {
        return;
    }
    let (before, usage, after) =
        (ask("/hearken/counters"), ask("/eal/lcore/usage"), ask("/hearken/counters"));
    let cycles = |name: &str| match usage[name].as_array().map(Vec::as_slice) {
        Some([one]) => one.as_f64().expect("a number"),
        _ => panic!("one worker, and not the main lcore: {usage}"),
    };
    let ns = |counters: &Value, names: &[&str]| -> f64 {
        names.iter().map(|name| counters[*name].as_f64().expect("a number")).sum()
    };
    // Of the same counters, between two moments; the clock's rate is not known here, but the share is.
    let (busy, total) = (cycles("busy_cycles"), cycles("total_cycles"));
    assert!(0.0 < busy && busy < total, "{usage}");
    let least = ns(&before, &["busy_ns"]) / ns(&after, &["busy_ns", "idle_ns", "taken_ns"]);
    let most = ns(&after, &["busy_ns"]) / ns(&before, &["busy_ns", "idle_ns", "taken_ns"]);
    assert!((least * 0.999..=most * 1.001).contains(&(busy / total)), "{before} {usage} {after}");
}
