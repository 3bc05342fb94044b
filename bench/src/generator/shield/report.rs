//! What `hearken-load shield` found, as table, page, picture and JSON.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};

use super::Flooding;
use super::step::Sample;
use crate::compare::spread;
use crate::generator::report::page::{self, escape};
use crate::generator::report::plots::{self, Axes, Line};
use crate::generator::report::rate;
use crate::machine::Machine;

/// Seconds of CPU time in a second, of both CPUs, that an idle machine stays below.
const DISTURBED: f64 = 0.2;

/// Median, least and greatest of the rounds.
pub type Spread = [f64; 3];

/// Medians of p50, p99 and longest over the rounds, each with least and greatest; µs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Times {
    /// The median client.
    pub p50: Spread,
    /// One in a hundred.
    pub p99: Spread,
    /// The last one.
    pub max: Spread,
}

/// One step of one contestant, all rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// SYNs a second that were asked for: a rate, or `max`.
    pub flood: String,
    /// Forged SYNs a second that the wire was given.
    pub offered: Spread,
    /// SYN-ACKs a second that came back for them.
    pub answered: Spread,
    /// Of the wire's own row: SYNs a second that came out of it; its ring loses the others.
    #[serde(default)]
    pub carried: Option<Spread>,
    /// Clients that began, all rounds.
    pub started: u64,
    /// Clients that had the whole page, all rounds.
    pub completed: u64,
    /// SYNs that clients' kernels had to send again, all rounds.
    pub syns_again: u64,
    /// From connect() until it returned.
    pub connect_us: Times,
    /// From connect() until the first octet of the answer.
    pub first_byte_us: Times,
    /// p99 of how late clients began: what the machine itself adds.
    pub late_p99_us: Spread,
    /// Seconds of CPU time in a second, of both CPUs.
    pub busy: Spread,
    /// CPU time for each SYN of the flood, ns, without that of the clients and the wire (of the wire's own row: with it); none
    /// without a flood.
    pub cpu_per_syn_ns: Option<Spread>,
    /// The same for each SYN-ACK.
    pub cpu_per_answer_ns: Option<Spread>,
    /// SYN cookies that the server's kernel sent, all rounds.
    pub cookies_sent: u64,
    /// Handshakes that hearken handed over, all rounds.
    pub handed_over: u64,
}

/// One contestant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Who.
    pub contestant: String,
    /// The steps, the first without a flood.
    pub steps: Vec<Step>,
}

/// A row.
pub fn row(contestant: &str, steps: Vec<Step>) -> Row {
    Row { contestant: contestant.to_owned(), steps }
}

/// The comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shield {
    /// The machine.
    pub machine: Machine,
    /// The command line.
    pub command: String,
    /// When it began, UTC.
    pub begun: String,
    /// Rounds.
    pub rounds: usize,
    /// Seconds of a step.
    pub seconds: f64,
    /// Clients that began in a second.
    pub clients_per_second: f64,
    /// The flood's CPU, and the server's.
    pub cpus: Vec<usize>,
    /// The same floods against an XDP program that drops them.
    pub wire: Vec<Step>,
    /// The contestants.
    pub rows: Vec<Row>,
}

/// The steps of a contestant from the samples of its turns; `wire` has the wire's of the same rounds.
pub(super) fn steps(floods: &[Flooding], turns: &[Vec<Sample>], wire: &[Vec<Sample>]) -> Vec<Step> {
    floods.iter().enumerate().map(|(at, flood)| step(at, *flood, turns, wire)).collect()
}

/// CPU time for each frame that was offered, beyond that of the same turn without a flood, ns.
fn per_frame(turn: &[Sample], at: usize) -> f64 {
    (turn[at].busy - turn[0].busy) / turn[at].offered * 1e9
}

fn step(at: usize, flood: Flooding, turns: &[Vec<Sample>], wire: &[Vec<Sample>]) -> Step {
    let over = |number: &dyn Fn(&Sample) -> f64| {
        spread(&turns.iter().map(|turn| number(&turn[at])).collect::<Vec<_>>())
    };
    let total = |number: &dyn Fn(&Sample) -> u64| turns.iter().map(|turn| number(&turn[at])).sum();
    let times = |of: fn(&Sample) -> super::step::Times| Times {
        p50: over(&|sample| of(sample)[0]),
        p99: over(&|sample| of(sample)[1]),
        max: over(&|sample| of(sample)[2]),
    };
    let is_wire = std::ptr::eq(turns, wire);
    let server = |turn: &[Sample], wire: &[Sample]| {
        per_frame(turn, at) - if is_wire { 0.0 } else { per_frame(wire, at) }
    };
    let cpu = |scale: &dyn Fn(&Sample) -> f64| {
        let each = turns.iter().zip(wire).map(|(turn, wire)| server(turn, wire) * scale(&turn[at]));
        spread(&each.collect::<Vec<_>>())
    };
    let floods = flood != Flooding::None;
    let answers = turns.iter().all(|turn| turn[at].answered > 0.0);
    Step {
        flood: flood.to_string(),
        offered: over(&|sample| sample.offered),
        answered: over(&|sample| sample.answered),
        carried: is_wire.then(|| over(&|sample| sample.carried.unwrap_or(f64::NAN))),
        started: total(&|sample| sample.clients[0]),
        completed: total(&|sample| sample.clients[1]),
        syns_again: total(&|sample| sample.syns_again),
        connect_us: times(|sample| sample.connect),
        first_byte_us: times(|sample| sample.first_byte),
        late_p99_us: over(&|sample| sample.late),
        busy: over(&|sample| sample.busy),
        cpu_per_syn_ns: floods.then(|| cpu(&|_| 1.0)),
        cpu_per_answer_ns: (floods && answers).then(|| cpu(&|sample| sample.offered / sample.answered)),
        cookies_sent: total(&|sample| sample.cookies_sent),
        handed_over: total(&|sample| sample.handed_over),
    }
}

const HEAD: [&str; 12] = [
    "flood/s",
    "",
    "offered/s",
    "SYN-ACKs/s",
    "served",
    "of",
    "2nd SYNs",
    "connect ms",
    "first byte ms",
    "ns/SYN",
    "ns/SYN-ACK",
    "cookies sent",
];

fn cells(who: &str, step: &Step) -> [String; 12] {
    let ms = |times: &Times| {
        let [p50, p99, max] = [&times.p50, &times.p99, &times.max].map(|spread| spread[0] / 1000.0);
        format!("{p50:.2} / {p99:.2} / {max:.1}")
    };
    let ns = |spread: &Option<Spread>| {
        spread.map_or_else(
            || "-".to_owned(),
            |[median, least, most]| format!("{median:.0} [{least:.0}, {most:.0}]"),
        )
    };
    [
        step.flood.clone(),
        who.to_owned(),
        rate(step.offered[0]),
        rate(step.answered[0]),
        page::grouped(step.completed),
        page::grouped(step.started),
        page::grouped(step.syns_again),
        ms(&step.connect_us),
        ms(&step.first_byte_us),
        ns(&step.cpu_per_syn_ns),
        ns(&step.cpu_per_answer_ns),
        page::grouped(step.cookies_sent),
    ]
}

impl Shield {
    /// Step by step, the contestants below each other.
    fn lines(&self) -> impl Iterator<Item = [String; 12]> + '_ {
        let steps = 0..self.wire.len();
        steps.flat_map(|at| self.rows.iter().map(move |row| cells(&row.contestant, &row.steps[at])))
    }

    fn what(&self) -> String {
        format!(
            "nginx behind one veth pair; medians of {} rounds of {} s a step (counts: sums), {} clients/s; connect and first byte: p50 / p99 / \
             longest; ns: CPU of the server's side, median [least, greatest]",
            self.rounds, self.seconds, self.clients_per_second
        )
    }

    /// What the wire itself costs, a step each.
    fn wire_line(&self) -> String {
        let each = self.wire.iter().filter_map(|step| {
            let [ns, ..] = step.cpu_per_syn_ns?;
            let carried = step.carried.map_or(step.offered[0], |carried| carried[0]);
            Some(format!("{ns:.0} ns at {}/s, of which {}/s came out", rate(step.offered[0]), rate(carried)))
        });
        let each: Vec<String> = each.collect();
        if each.is_empty() {
            return "no flood was asked for".to_owned();
        }
        format!("the wire itself, sender and XDP_DROP, has cost for each SYN: {}", each.join("; "))
    }

    /// Without a flood the clients need little; what is busy then beyond that is other work on the machine.
    fn disturbed(&self) -> Option<String> {
        let busy = self.wire.first().map_or(0.0, |step| step.busy[2]);
        let says = || {
            format!(
                "the two CPUs were busy for up to {:.0} % with nothing to do: other work on the machine disturbs these figures",
                busy / 2.0 * 100.0
            )
        };
        (busy > DISTURBED).then(says)
    }

    /// For a terminal.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(HEAD);
        for line in self.lines() {
            table.add_row(line);
        }
        for column in (0..HEAD.len()).filter(|column| *column != 1) {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let note = self.disturbed().map(|note| note + "\n").unwrap_or_default();
        format!("{}\n{}\n\n{table}\n\n{}\n{note}", self.machine, self.what(), self.wire_line())
    }

    /// A line a contestant over the SYNs that were offered.
    fn over_flood(&self, number: impl Fn(&Step) -> f64) -> Vec<Line> {
        let line = |row: &Row| {
            let points = row.steps.iter().map(|step| (step.offered[0] / 1000.0, number(step)));
            (row.contestant.clone(), points.collect())
        };
        self.rows.iter().map(line).collect()
    }

    /// The clients' p99 of connect() over the flood.
    ///
    /// # Errors
    /// What the drawing library says.
    pub fn plot(&self) -> anyhow::Result<String> {
        let axes = Axes { x: "thousand forged SYNs a second", y: "p99 of connect(), ms" };
        plots::lines_over(&self.over_flood(|step| step.connect_us.p99[0] / 1000.0), &axes)
    }

    /// As one page.
    ///
    /// # Errors
    /// A plot that cannot be drawn.
    pub fn page(&self) -> anyhow::Result<String> {
        let mut html = page::head("A flood in front of nginx");
        let _ = write!(
            html,
            "<p class=\"soft\">{} UTC</p>\n<p>{}</p>\n<table><tr>",
            escape(&self.begun),
            escape(&self.what())
        );
        for head in HEAD {
            let _ = write!(html, "<th>{head}</th>");
        }
        html += "</tr>\n";
        for line in self.lines() {
            html += "<tr>";
            for cell in line {
                let _ = write!(html, "<td>{}</td>", escape(&cell));
            }
            html += "</tr>\n";
        }
        let _ = write!(html, "</table>\n<p>{}</p>\n", escape(&self.wire_line()));
        if let Some(note) = self.disturbed() {
            let _ = writeln!(html, "<p class=\"note\">{}</p>", escape(&note));
        }
        let answers = Axes { x: "thousand forged SYNs a second", y: "SYN-ACKs a second" };
        let _ = write!(
            html,
            "<h2>Clients</h2>\n<figure>{}</figure>\n<h2>Answers</h2>\n<figure>{}</figure>\n",
            self.plot()?,
            plots::lines_over(&self.over_flood(|step| step.answered[0].max(1.0)), &answers)?
        );
        let _ = write!(
            html,
            "<h2>Where and how</h2>\n<p>{}</p>\n<code>{}</code>\n</body></html>\n",
            escape(&self.machine.to_string()),
            escape(&self.command)
        );
        Ok(html)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(offered: f64, answered: f64, busy: f64) -> Sample {
        Sample {
            offered,
            answered,
            carried: (answered == 0.0).then_some(offered * 0.75),
            clients: [10, 9],
            syns_again: 1,
            connect: [1.0, 2.0, 3.0],
            first_byte: [2.0, 3.0, 4.0],
            late: 5.0,
            busy,
            cookies_sent: 7,
            handed_over: 8,
        }
    }

    #[test]
    fn the_servers_cpu_is_what_clients_and_wire_leave() {
        let floods = [Flooding::None, Flooding::Max];
        let wire = vec![vec![sample(0.0, 0.0, 0.01), sample(2e6, 0.0, 1.01)]; 3];
        let turns = vec![vec![sample(0.0, 0.0, 0.1), sample(1e6, 0.5e6, 1.6)]; 3];
        let steps_of = |turns: &[Vec<Sample>]| steps(&floods, turns, &wire);
        let near = |got: Option<Spread>, wanted: f64| got.is_some_and(|got| (got[0] - wanted).abs() < 1e-6);
        let own = steps_of(&wire);
        assert!(near(own[1].cpu_per_syn_ns, 500.0), "{own:?}");
        assert_eq!(own[1].cpu_per_answer_ns, None, "nobody answered");
        let theirs = steps_of(&turns);
        assert_eq!(theirs[0].cpu_per_syn_ns, None, "there was no flood");
        assert!(near(theirs[1].cpu_per_syn_ns, 1000.0), "{theirs:?}");
        assert!(near(theirs[1].cpu_per_answer_ns, 2000.0), "{theirs:?}");
        assert_eq!((theirs[1].started, theirs[1].completed, theirs[1].syns_again), (30, 27, 3));
        let result = Shield {
            machine: Machine { cpu: "CPU".into(), cpus: 2, kernel: "6".into(), dpdk: "DPDK".into() },
            command: "hearken-load shield <now>".into(),
            begun: "2026-11-23 00:00:00".into(),
            rounds: 3,
            seconds: 1.0,
            clients_per_second: 10.0,
            cpus: vec![0, 1],
            wire: own,
            rows: vec![row("Linux alone", theirs)],
        };
        let (table, page) = (result.table(), result.page().expect("it can be drawn"));
        assert!(
            table.contains("1000 [1000, 1000]")
                && table.contains("500 ns at 2.000M/s, of which 1.500M/s came out"),
            "{table}"
        );
        assert!(!table.contains("disturbs"), "{table}");
        assert!(page.matches("<svg").count() == 2 && page.contains("&lt;now&gt;") && !page.contains("NaN"));
        let mut busy = result;
        busy.wire[0].busy = [2.0; 3];
        assert!(busy.table().contains("busy for up to 100 %"), "{}", busy.table());
    }
}
