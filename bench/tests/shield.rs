//! `hearken-load shield` in small. How fast who is, is the machine's affair; that every figure is there and that they agree with each
//! other, is asserted.

use std::path::Path;
use std::process::{Command, Stdio};

#[path = "../../dataplane/tests/lab/mod.rs"]
mod lab;

use bench::generator::shield::report::{Shield, Step};
use lab::skip;

const LOAD: &str = env!("CARGO_BIN_EXE_hearken-load");

fn fails(words: &str) -> String {
    let output = Command::new(LOAD).arg("shield").args(words.split_whitespace()).output().expect("it starts");
    assert!(!output.status.success(), "{words}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_ordered(times: &[f64]) {
    assert!(times.iter().all(|time| *time > 0.0) && times.is_sorted(), "{times:?}");
}

/// What holds for every contestant's step.
#[track_caller]
fn assert_consistent(step: &Step, clients: u64) {
    assert_eq!(step.started, clients, "{step:?}");
    assert!(step.completed <= step.started, "{step:?}");
    let (connect, first) = (&step.connect_us, &step.first_byte_us);
    for times in [connect, first] {
        assert_ordered(&[times.p50[0], times.p99[0], times.max[0]]);
    }
    assert!(connect.p50[0] <= first.p50[0] && connect.max[0] <= first.max[0], "{step:?}");
    for [median, least, most] in [step.offered, step.answered, step.busy, connect.p99, first.p99] {
        assert!(least <= median && median <= most, "{step:?}");
    }
    let flooded = step.flood != "0";
    assert_eq!(step.offered[1] > 0.0, flooded, "{step:?}");
    assert_eq!(step.answered[1] > 0.0, flooded, "{step:?}");
    assert_eq!(step.cpu_per_syn_ns.is_some(), flooded, "{step:?}");
    assert_eq!(step.cpu_per_answer_ns.is_some(), flooded, "{step:?}");
}

/// Three contestants, three floods, two rounds; and nothing of it is left.
#[test]
fn every_figure_is_there_and_they_agree() {
    if let Err(error) = lab::Namespace::new() {
        return skip("a flood in front of nginx", error);
    }
    if let Err(error) = hearken_bpf::support::handover() {
        return skip("a flood in front of nginx", error);
    }
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return skip("a flood in front of nginx", "it wants two CPUs");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let [json, page, plot] = ["shield.json", "shield.html", "shield.svg"].map(|name| dir.path().join(name));
    let words = "shield --rounds 2 --seconds 0.5 --clients 40 --rates 20k,max --contestants linux,synproxy,hearken,hearken-worker";
    let mut command = Command::new(LOAD);
    command.args(words.split_whitespace()).arg("--json").arg(&json).arg("--report").arg(&page);
    let child = command.arg("--plot").arg(&plot).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("it starts");
    let own = format!("hearken-{}-", child.id());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let read = |file: &Path| std::fs::read_to_string(file).expect("written");
    let result: Shield = serde_json::from_str(&read(&json)).expect("its JSON");

    let names: Vec<&str> = result.rows.iter().map(|row| row.contestant.as_str()).collect();
    assert_eq!(names, ["Linux alone", "Linux synproxy", "hearken", "hearken, worker only"]);
    for steps in result.rows.iter().map(|row| &row.steps).chain([&result.wire]) {
        let floods: Vec<&str> = steps.iter().map(|step| step.flood.as_str()).collect();
        assert_eq!(floods, ["0", "20.0k", "max"], "without a flood first, asked for or not");
    }
    for row in &result.rows {
        // 40 clients a second, for half a second, twice.
        row.steps.iter().for_each(|step| assert_consistent(step, 40));
        let calm = &row.steps[0];
        assert_eq!((calm.completed, calm.cookies_sent), (40, 0), "{}: {calm:?}", row.contestant);
        let hearken = row.contestant.starts_with("hearken");
        for step in &row.steps {
            assert_eq!(hearken, step.handed_over > 0, "{}: {step:?}", row.contestant);
            assert!(!hearken || step.cookies_sent == 0, "the kernel answers no claimed SYN: {step:?}");
            assert!(!hearken || step.handed_over >= step.completed, "{step:?}");
        }
    }
    let linux = &result.rows[0].steps[2];
    assert!(linux.cookies_sent > 0, "more SYNs than nginx's backlog: {linux:?}");
    for step in &result.wire {
        assert_eq!((step.started, step.completed, step.answered), (0, 0, [0.0; 3]), "{step:?}");
        assert_eq!(step.cpu_per_syn_ns.is_some(), step.flood != "0");
        let carried = step.carried.expect("counted")[0];
        assert!(carried <= step.offered[0] * 1.01 && (carried > 0.0) == (step.flood != "0"), "{step:?}");
    }
    let table = String::from_utf8_lossy(&output.stdout);
    for name in names {
        assert_eq!(table.matches(&format!("{name}  ")).count(), 3, "a line a step: {table}");
    }
    let page = read(&page);
    assert!(page.matches("<svg").count() == 2 && page.ends_with("</html>\n"));
    assert!(read(&plot).starts_with("<svg"));
    let left = lab::ip("netns list").expect("namespaces");
    assert!(!left.contains(&own), "{left}");
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_made() {
    assert!(fails("--rates fast").contains("\"fast\" is no rate"));
    assert!(fails("--cpus 0").contains("--cpus wants two numbers"));
    assert!(fails("--rounds 0").contains("--rounds wants 1 or more"));
    assert!(fails("--seconds 0").contains("--seconds wants 0.1 to 60, found 0"));
    assert!(fails("--clients 1M").contains("--clients wants at most"));
    assert!(
        fails("--contestants nobody").contains("possible values: linux, synproxy, hearken, hearken-worker")
    );
}
