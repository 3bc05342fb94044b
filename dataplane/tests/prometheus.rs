//! Prometheus itself, on loopback: it scrapes a running hearken for native histograms and answers for them; promtool
//! reads the page and the rules.

mod common;
mod lab;
mod scraped;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dataplane::metrics::native::RELATIVE_ERROR;
use lab::skip;
use scraped::{Server, get};
use serde_json::Value;

/// Frames to the listener, and to a port where nobody listens.
const SYNS: u64 = 4_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// A Prometheus that scrapes one address; killed when dropped.
struct Prometheus {
    child: Child,
    api: SocketAddr,
    dir: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

impl Prometheus {
    /// None if it is not installed.
    fn start(target: SocketAddr, arguments: &[&str]) -> Option<Self> {
        if !is_there("prometheus") {
            skip("scraping by Prometheus", "prometheus is not installed");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let config = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs:\n  - job_name: hearken\n    \
             static_configs: [{{targets: [\"{target}\"]}}]\n"
        );
        fs::write(path("p.yml"), config).expect("a file");
        let mut command = Command::new("prometheus");
        command.arg("--config.file").arg(path("p.yml")).arg("--storage.tsdb.path").arg(path("data"));
        command.args(["--web.listen-address=127.0.0.1:0"]).args(arguments).current_dir(dir.path());
        let log = fs::File::create(path("log")).expect("a file");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("prometheus starts");
        let mut prometheus = Self { child, api: SocketAddr::from(([127, 0, 0, 1], 0)), dir };
        let log =
            |prometheus: &Self| fs::read_to_string(prometheus.dir.path().join("log")).unwrap_or_default();
        prometheus.api = wait_for(
            || {
                let said = log(&prometheus);
                let line = said.lines().find(|line| line.contains("msg=\"Listening on\""))?;
                line.split("address=").nth(1)?.parse().ok()
            },
            || log(&prometheus),
        );
        // Questions before it has opened its database are refused.
        wait_for(
            || get(prometheus.api, "/-/ready", "*/*").0.starts_with("HTTP/1.0 200 ").then_some(()),
            || log(&prometheus),
        );
        Some(prometheus)
    }

    /// What the instant query `expr` has: the labels of each series, and its value.
    fn query(&self, expr: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let encoded: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (head, body) = get(self.api, &format!("/api/v1/query?query={encoded}"), "*/*");
        assert!(head.starts_with("HTTP/1.0 200 "), "{expr}: {head}\n{body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        let series = answer["data"]["result"].as_array().expect("a vector");
        let one = |series: &Value| {
            let labels = serde_json::from_value(series["metric"].clone()).expect("labels");
            // A histogram has another field.
            let value = series["value"][1].as_str().map_or(f64::NAN, |text| text.parse().expect("a number"));
            (labels, value)
        };
        series.iter().map(one).collect()
    }

    /// The value of the one series that `expr` has, if it has one.
    fn value(&self, expr: &str) -> Option<f64> {
        let series = self.query(expr);
        assert!(series.len() < 2, "{expr}: {series:?}");
        series.first().map(|(_, value)| *value)
    }
}

/// The first thing that `look` finds; else fails with what `otherwise` has to say.
fn wait_for<T>(mut look: impl FnMut() -> Option<T>, otherwise: impl Fn() -> String) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", otherwise());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A server that has answered [`SYNS`] SYNs at its listener and as many elsewhere.
fn busy_server() -> Server {
    let syn = |number: u64, dport| {
        let source = (common::peer_addr(false, (number % 100) as u8), 10_000 + (number / 100) as u16);
        common::Tcp::new(source.into(), dport, 0x02, 1000, 0).frame()
    };
    let frames: Vec<_> =
        (0..SYNS).flat_map(|number| [syn(number, common::QUEUE), syn(number, common::CLOSED)]).collect();
    Server::on(&frames, &[])
}

/// What `hearken latency` says of `outcome`: its fields by name.
fn latency(server: &Server, outcome: &str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearken"));
    let output = command.args(["latency", "--json", "--socket"]).arg(server.socket()).output();
    let output = output.expect("it runs");
    let latency: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let outcomes = latency["total"].as_array().expect("outcomes").clone();
    outcomes.into_iter().find(|row| row["outcome"] == outcome).expect("the outcome")
}

#[test]
fn quantiles_of_native_histograms_are_those_of_hearken() {
    let server = busy_server();
    let Some(prometheus) = Prometheus::start(server.metrics, &["--enable-feature=native-histograms"]) else {
        return;
    };
    for outcome in ["synack", "rst"] {
        let series = format!("hearken_latency_seconds{{outcome=\"{outcome}\"}}");
        wait_for(
            || prometheus.value(&format!("histogram_count({series})")).filter(|count| *count == SYNS as f64),
            || format!("{series}: {:?}\n{}", prometheus.query(&series), server.get("/metrics").1),
        );
        let ours = latency(&server, outcome);
        assert_eq!(ours["count"], SYNS, "{ours}");
        for (q, name) in [(0.5, "p50_ns"), (0.9, "p90_ns"), (0.99, "p99_ns"), (0.999, "p99_9_ns")] {
            let expr = format!("histogram_quantile({q}, {series})");
            let theirs = prometheus.value(&expr).unwrap_or_else(|| panic!("no {expr}")) * 1e9;
            let ours = ours[name].as_f64().expect("a number");
            // Both are in the same bucket, whose ends are that far apart.
            let ratio = theirs / ours;
            let within = 1.0 / (1.0 + RELATIVE_ERROR)..=1.0 + RELATIVE_ERROR;
            assert!(within.contains(&ratio), "{outcome} {name}: {theirs} by Prometheus, {ours} by hearken");
        }
    }
    // The classic buckets are another scrape's, and the rules find the native ones.
    assert_eq!(prometheus.query("hearken_latency_seconds_bucket"), []);
}

/// What Prometheus' own rate and quantile are asked for the alert and the dashboard must find either kind.
#[test]
fn the_alert_on_latency_sees_native_and_classic_histograms() {
    let server = busy_server();
    let rules = fs::read_to_string(configs("monitoring/alerts.yml")).expect("a file");
    let slow = rules.split("- alert: HearkenSlow").nth(1).expect("the alert");
    let slow =
        slow.split("expr: >-").nth(1).and_then(|rest| rest.split("for: ").next()).expect("its expression");
    // The frames came in one go, before any scrape: what is not there yet counts from nothing, its rate is 0, and the
    // quantile of nothing is no number. A series is there all the same, one a core.
    let slow = slow.replace(" > 0.001", "");
    for arguments in [&[][..], &["--enable-feature=native-histograms"]] {
        let Some(prometheus) = Prometheus::start(server.metrics, arguments) else { return };
        let found = wait_for(
            || Some(prometheus.query(&slow)).filter(|found| !found.is_empty()),
            || format!("{arguments:?}: nothing for {slow}"),
        );
        let cores: Vec<_> = found.iter().map(|(labels, _)| labels["core"].as_str()).collect();
        assert_eq!(cores, ["0"], "{arguments:?}");
    }
}

/// Name and labels of each sample on a page in the older text format.
fn samples(page: &str) -> impl Iterator<Item = (&str, BTreeMap<String, String>)> {
    page.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, rest) = line.split_once('{').expect("labels");
        let labels = rest.split_once('}').expect("labels").0;
        let label = |label: &str| {
            let (name, value) = label.split_once('=').expect("a value");
            (name.to_owned(), value.trim_matches('"').to_owned())
        };
        (name, labels.split(',').map(label).collect())
    })
}

#[test]
fn a_scrape_of_protobuf_loses_nothing() {
    let server = busy_server();
    let Some(prometheus) = Prometheus::start(server.metrics, &["--enable-feature=native-histograms"]) else {
        return;
    };
    let all = "{job=\"hearken\", __name__=~\"hearken_.*\"}";
    let scraped =
        wait_for(|| Some(prometheus.query(all)).filter(|found| !found.is_empty()), || "no scrape".to_owned());
    let scraped: Vec<_> = scraped
        .into_iter()
        .map(|(mut labels, _)| {
            labels.retain(|name, _| name != "job" && name != "instance");
            (labels.remove("__name__").expect("a name"), labels)
        })
        .collect();
    let page = get(server.metrics, "/metrics", "text/plain").1;
    let mut seen = 0;
    for (name, labels) in samples(&page) {
        let name = match name {
            "hearken_latency_seconds_bucket" | "hearken_latency_seconds_sum" => continue,
            "hearken_latency_seconds_count" => "hearken_latency_seconds",
            name => name,
        };
        assert!(scraped.contains(&(name.to_owned(), labels.clone())), "{name} {labels:?} was not scraped");
        seen += 1;
    }
    assert_eq!(seen, scraped.len(), "and nothing is there that is not on the page");
}

fn configs(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(path)
}

/// Standard output and error of `promtool ARGS`, and whether it was content; none if it is not installed.
fn promtool(args: &[&str], input: Stdio) -> Option<(bool, String)> {
    if !is_there("promtool") {
        skip("promtool", "prometheus is not installed");
        return None;
    }
    let output = Command::new("promtool").args(args).stdin(input).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Some((output.status.success(), said.into_owned()))
}

#[test]
fn promtool_takes_the_rules() {
    let rules = configs("monitoring/alerts.yml");
    let Some((content, said)) = promtool(&["check", "rules", rules.to_str().expect("UTF-8")], Stdio::null())
    else {
        return;
    };
    assert!(content && said.contains("SUCCESS: 13 rules found"), "{said}");
}

#[test]
fn promtool_takes_the_page_but_for_names_that_are_others() {
    let server = busy_server();
    let file = server.dir.path().join("page");
    fs::write(&file, get(server.metrics, "/metrics", "text/plain").1).expect("a file");
    let input = fs::File::open(&file).expect("a file");
    let Some((_, said)) = promtool(&["check", "metrics"], input.into()) else { return };
    // The kernel's names stay the kernel's, and the counters' those of every other output.
    let known = |line: &str| {
        line.starts_with("hearken_snmp_")
            && line.ends_with("should be written in 'snake_case' not 'camelCase'")
            || line.split(' ').next().is_some_and(|name| name.ends_with("_ns_total"))
                && line.ends_with("metric names should not contain abbreviated units")
    };
    let (known, other): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| known(line));
    assert!(other.is_empty(), "{other:#?}");
    assert!(known.len() > 20, "promtool has looked at the page: {known:?}");
}
