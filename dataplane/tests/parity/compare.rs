//! Runs cases against two servers and sets what they said side by side. A difference is either listed, with its
//! reason, or an error; and so is a listed one that is not there any more.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use super::reply::Reply;
use super::server::Server;
use super::talk::{Exchange, Talk};

/// Runs of a case in one run of its group before slowness is no longer an excuse.
const CASE_ATTEMPTS: u16 = 4;
/// Runs of a case altogether, at most.
pub const ATTEMPTS: u16 = 12;
/// Kinds of differences that a failure shows.
const SHOWN: usize = 300;

/// Which families a case is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    Both,
    V4,
    V6,
}

/// What one case does.
type Script = Box<dyn Fn(&mut Talk<'_>)>;

/// One conversation that every server is to answer alike.
pub struct Case {
    /// Cases whose counters are compared together.
    pub group: &'static str,
    pub name: String,
    pub families: Families,
    /// The server's port.
    pub dport: u16,
    /// What to add to `dport` for each further attempt: listeners that a case fills up are good for one.
    pub stride: u16,
    pub script: Script,
}

/// What one server said in one case.
pub struct Trace {
    name: String,
    exchanges: Vec<Exchange>,
}

impl Trace {
    /// Whether it could not be measured.
    fn is_unknown(&self) -> bool {
        self.exchanges.is_empty()
    }
}

/// A difference that is meant to be: `*` in a pattern stands for anything.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub cases: &'static str,
    pub label: &'static str,
    pub field: &'static str,
    pub kernel: &'static str,
    pub hearken: &'static str,
    pub why: &'static str,
}

/// Everything that `server` said.
pub fn run(server: &Server, cases: &[Case]) -> Vec<Trace> {
    let mut runner = Runner { server, sport: 1024, attempts: HashMap::new() };
    let groups = cases.chunk_by(|a, b| a.group == b.group);
    groups.flat_map(|group| runner.group(group)).collect()
}

struct Runner<'a> {
    server: &'a Server,
    /// The last client's port; each case has one of its own.
    sport: u16,
    /// Runs so far, by case.
    attempts: HashMap<String, u16>,
}

impl Runner<'_> {
    /// Runs a group. Its counters are of use only if no case had to be run again.
    fn group(&mut self, group: &[Case]) -> Vec<Trace> {
        for _ in 1..ATTEMPTS / CASE_ATTEMPTS {
            let before = self.server.counters();
            let (mut traces, disturbed) = self.cases(group);
            if !disturbed {
                traces.push(counters(group[0].group, &before, &self.server.counters()));
                return traces;
            }
        }
        let (mut traces, _) = self.cases(group);
        eprintln!("{}: {}: too busy to compare counters", self.server.name, group[0].group);
        traces.push(Trace { name: format!("counters/{}", group[0].group), exchanges: Vec::new() });
        traces
    }

    fn cases(&mut self, group: &[Case]) -> (Vec<Trace>, bool) {
        let mut disturbed = false;
        let mut traces = Vec::new();
        for case in group {
            for v6 in [false, true] {
                if case.families == (if v6 { Families::V4 } else { Families::V6 }) {
                    continue;
                }
                let name = format!("{}/{}/{}", if v6 { "v6" } else { "v4" }, case.group, case.name);
                let exchanges = (0..CASE_ATTEMPTS).find_map(|_| {
                    let exchanges = self.case(case, v6, &name);
                    disturbed |= exchanges.is_none();
                    exchanges
                });
                let exchanges = exchanges.unwrap_or_else(|| {
                    panic!("{}: {name} needs more time than its timers leave", self.server.name)
                });
                traces.push(Trace { name, exchanges });
            }
        }
        (traces, disturbed)
    }

    /// Runs one case; `None` if it took so long that timers may have had their say.
    fn case(&mut self, case: &Case, v6: bool, name: &str) -> Option<Vec<Exchange>> {
        let attempt = self.attempts.entry(name.into()).or_insert(0);
        self.sport = self.sport.checked_add(1).expect("ports are left");
        let mut talk = Talk::new(self.server, v6, self.sport, case.dport + *attempt * case.stride);
        *attempt += 1;
        (case.script)(&mut talk);
        talk.clean_up();
        (!talk.slow).then_some(talk.trace)
    }
}

/// Everything in one text, a line for each reply.
pub fn text(traces: &[Trace]) -> String {
    let mut text = String::new();
    for Trace { name, exchanges } in traces {
        for Exchange { label, replies } in exchanges {
            let _ = writeln!(text, "{name} [{label}] {}", if replies.is_empty() { "silence" } else { "" });
            for reply in replies {
                let _ = writeln!(text, "    {reply}");
            }
        }
    }
    text
}

/// What the counters went up by, as if it were a reply.
fn counters(group: &str, before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Trace {
    let fields = COUNTERS.iter().map(|name| {
        let count = |counters: &BTreeMap<String, u64>| counters.get(*name).copied().unwrap_or(0);
        (*name, count(after).wrapping_sub(count(before)).to_string())
    });
    let replies = vec![Reply(fields.collect())];
    Trace {
        name: format!("counters/{group}"),
        exchanges: vec![Exchange { label: "afterwards".into(), replies }],
    }
}

/// Counters that both have.
const COUNTERS: &[&str] = &[
    "InSegs",
    "OutSegs",
    "RetransSegs",
    "InErrs",
    "InCsumErrors",
    "OutRsts",
    "PassiveOpens",
    "AttemptFails",
    "EstabResets",
    "SyncookiesSent",
    "SyncookiesRecv",
    "SyncookiesFailed",
    "EmbryonicRsts",
    "ListenOverflows",
    "ListenDrops",
    "TCPReqQFullDoCookies",
    "TCPReqQFullDrop",
    "TCPDeferAcceptDrop",
    "TCPACKSkippedSynRecv",
    "TCPACKSkippedPAWS",
    "TCPACKSkippedSeq",
    "TCPACKSkippedFinWait2",
    "TCPACKSkippedTimeWait",
    "TCPACKSkippedChallenge",
    "TSEcrRejected",
    "PAWSEstab",
    "PAWSOldAck",
    "PAWSTimewait",
    "TCPChallengeACK",
    "TCPSYNChallenge",
    "TCPAbortOnData",
    "TCPAbortOnClose",
    "TCPZeroWindowDrop",
    "TWRecycled",
];

/// One field that differs.
struct Difference {
    case: String,
    label: String,
    field: &'static str,
    kernel: String,
    other: String,
}

/// Sets `other` beside `kernel`.
///
/// # Errors
/// What differs and is not in `known`, and what is in `known` and does not differ.
pub fn compare(kernel: &[Trace], other: &[Trace], known: &[Known]) -> Result<(), String> {
    assert_eq!(kernel.len(), other.len(), "both ran the same cases");
    let mut used = vec![0usize; known.len()];
    let mut unlisted = Vec::new();
    let mut unknown: Vec<&str> = Vec::new();
    for (a, b) in kernel.iter().zip(other) {
        assert_eq!(a.name, b.name);
        if a.is_unknown() || b.is_unknown() {
            unknown.push(&a.name);
            continue;
        }
        for difference in differences(a, b) {
            match known.iter().position(|known| known.fits(&difference)) {
                Some(index) => used[index] += 1,
                None => unlisted.push(difference),
            }
        }
    }
    // Alike but for the case: shown once.
    let mut kinds: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for Difference { case, label, field, kernel, other } in &unlisted {
        let group = case.rsplit_once('/').map_or(&**case, |(group, _)| group);
        kinds.entry((group, label, field, kernel, other)).or_default().push(case);
    }
    let mut said = String::new();
    for ((_, label, field, kernel, other), cases) in kinds.iter().take(SHOWN) {
        let more = if cases.len() > 1 { format!(" and {} more", cases.len() - 1) } else { String::new() };
        let _ =
            writeln!(said, "{}{more} [{label}] {field}\n    kernel: {kernel}\n     other: {other}", cases[0]);
    }
    if kinds.len() > SHOWN {
        let _ = writeln!(said, "… and {} kinds more", kinds.len() - SHOWN);
    }
    for (known, _) in known.iter().zip(used).filter(|(_, used)| *used == 0) {
        if unknown.iter().any(|name| fits(known.cases, name)) {
            continue;
        }
        let _ = writeln!(said, "listed, but there is no such difference any more: {known:?}");
    }
    if said.is_empty() { Ok(()) } else { Err(format!("{} differences:\n{said}", unlisted.len())) }
}

fn differences(a: &Trace, b: &Trace) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut differ = |label: &str, field, kernel: &str, other: &str| {
        found.push(Difference {
            case: a.name.clone(),
            label: label.into(),
            field,
            kernel: kernel.into(),
            other: other.into(),
        });
    };
    for (x, y) in a.exchanges.iter().zip(&b.exchanges) {
        if x.replies.len() != y.replies.len() {
            differ(&x.label, "replies", &in_short(&x.replies), &in_short(&y.replies));
            continue;
        }
        for (p, q) in x.replies.iter().zip(&y.replies) {
            for (name, value) in &p.0 {
                let other = q.get(name).unwrap_or("none");
                if value != other {
                    differ(&x.label, name, value, other);
                }
            }
        }
    }
    if a.exchanges.len() != b.exchanges.len() {
        differ("", "exchanges", &a.exchanges.len().to_string(), &b.exchanges.len().to_string());
    }
    found
}

fn in_short(replies: &[Reply]) -> String {
    let short = |reply: &Reply| {
        let names = ["flags", "seq", "ack", "window", "data", "options"];
        let fields: Vec<_> =
            names.iter().filter_map(|name| Some(format!("{name}={}", reply.get(name)?))).collect();
        if fields.is_empty() { reply.get("kind").unwrap_or("?").into() } else { fields.join(" ") }
    };
    let all: Vec<_> = replies.iter().map(short).collect();
    if all.is_empty() { "silence".into() } else { all.join(" | ") }
}

impl Known {
    fn fits(&self, difference: &Difference) -> bool {
        fits(self.cases, &difference.case)
            && fits(self.label, &difference.label)
            && fits(self.field, difference.field)
            && fits(self.kernel, &difference.kernel)
            && fits(self.hearken, &difference.other)
    }
}

/// Whether `text` is `pattern`, in which `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| fits(tail, &rest[at..]))
        }),
    }
}
