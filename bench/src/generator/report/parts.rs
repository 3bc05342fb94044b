//! Several runs that differ in one thing, side by side.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};

use super::page::{self, escape};
use super::plots::{self, Line};
use super::{Percentiles, Report, StreamReport, findings, rate};

/// The parts of a scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Parts {
    /// What it is called.
    pub title: String,
    /// What is done, and what to look for.
    pub what: String,
    /// The runs, in order.
    pub parts: Vec<Report>,
}

const COLUMNS: usize = 12;
const HEAD: [&str; COLUMNS] = [
    "part",
    "stream",
    "sent/s",
    "SYN-ACKs",
    "RSTs",
    "completed",
    "wrong",
    "unanswered",
    "time to",
    "p50 us",
    "p99 us",
    "p99.9 us",
];

fn row(part: &Report, stream: &StreamReport) -> [String; COLUMNS] {
    let count = |name: &str| stream.counts.get(name).copied().unwrap_or(0);
    let of_sent =
        |number: u64| format!("{} ({})", page::grouped(number), findings::percent(number, count("sent")));
    let (answer, latency) = findings::main_answer(stream).unzip();
    let us = |of: fn(&Percentiles) -> u64| {
        latency.map_or_else(String::new, |latency| format!("{:.1}", of(latency) as f64 / 1000.0))
    };
    [
        part.title.clone(),
        stream.name.clone(),
        rate(stream.rate),
        page::grouped(count("synack")),
        page::grouped(count("rst") + count("refused")),
        stream.completed.map_or_else(|| "-".to_owned(), of_sent),
        page::grouped(stream.wrong),
        of_sent(stream.silent),
        answer.unwrap_or("-").to_owned(),
        us(|latency| latency.p50),
        us(|latency| latency.p99),
        us(|latency| latency.p99_9),
    ]
}

impl Parts {
    fn rows(&self) -> impl Iterator<Item = [String; COLUMNS]> + '_ {
        self.parts.iter().flat_map(|part| part.streams.iter().map(|stream| row(part, stream)))
    }

    /// Side by side, as text.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(HEAD);
        for row in self.rows() {
            table.add_row(row);
        }
        for column in 2..HEAD.len() {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = format!("{}\n{}\n", self.title, self.what);
        let disturbed = self.disturbed();
        if !disturbed.is_empty() {
            let _ = writeln!(text, "\n{}\n  {}", findings::DISTURBED, disturbed.join("\n  "));
        }
        let _ = write!(text, "\n{table}\n");
        for part in &self.parts {
            for sentence in findings::sentences(part) {
                let _ = writeln!(text, "\n{}: {sentence}", part.title);
            }
            let own = part.notes.iter().filter(|note| !self.is_common(note));
            for note in own {
                let _ = writeln!(text, "\n{}: {note}", part.title);
            }
            let Some(server) = &part.server else { continue };
            let _ = writeln!(text, "\n{}: the server counted", part.title);
            for (name, count) in &server.counters {
                let _ = writeln!(text, "  {name:<28}{count:>14}");
            }
        }
        if let Some(part) = self.parts.first() {
            let _ = writeln!(text, "\n{}\n{}; {} s a part", part.machine, part.device, part.seconds);
            for note in part.notes.iter().filter(|note| self.is_common(note)) {
                let _ = writeln!(text, "{note}");
            }
        }
        text
    }

    /// Why parts say less of the server than they should.
    fn disturbed(&self) -> Vec<String> {
        let parts = self.parts.iter().flat_map(|part| part.disturbed.iter().map(move |why| (part, why)));
        parts.map(|(part, why)| format!("{}: {why}", part.title)).collect()
    }

    /// Curves of the streams of all parts, to the answer `answer`.
    fn lines(&self, answer: &str) -> Vec<Line> {
        let lines = self.parts.iter().flat_map(|part| {
            let lines = plots::streams(&part.streams, answer).into_iter();
            lines.map(|(stream, points)| (format!("{}: {stream}", part.title), points))
        });
        lines.collect()
    }

    fn is_common(&self, note: &String) -> bool {
        self.parts.iter().all(|part| part.notes.contains(note))
    }

    /// Side by side and one by one, as a page.
    ///
    /// # Errors
    /// A plot that cannot be drawn.
    pub fn page(&self) -> anyhow::Result<String> {
        let mut html = page::head(&self.title);
        let begun = self.parts.first().map_or("", |part| &part.begun);
        let _ = write!(
            html,
            "<p class=\"soft\">{} UTC</p>\n<p>{}</p>\n{}<table class=\"parts\"><tr>",
            escape(begun),
            escape(&self.what),
            page::disturbed(&self.disturbed())
        );
        for head in HEAD {
            let _ = write!(html, "<th>{head}</th>");
        }
        html += "</tr>\n";
        for row in self.rows() {
            html += "<tr>";
            for cell in row {
                let _ = write!(html, "<td>{}</td>", escape(&cell));
            }
            html += "</tr>\n";
        }
        html += "</table>\n<p class=\"soft\">Shares are of the SYNs sent. Completed: connections whose FIN the server \
                 acknowledged; of a stream that sends none, handshakes that our ACK completed.</p>\n";
        let common = self.parts.first().map(|part| part.notes.clone()).unwrap_or_default();
        let common: Vec<String> = common.into_iter().filter(|note| self.is_common(note)).collect();
        for note in &common {
            let _ = writeln!(html, "<p class=\"note\">{}</p>", escape(note));
        }
        for (answer, what) in [("synack", "SYN-ACK"), ("rst", "RST")] {
            html += &page::figure(&format!("Time to the {what}, part by part"), &self.lines(answer))?;
        }
        for part in &self.parts {
            let mut part = part.clone();
            part.notes.retain(|note| !common.contains(note));
            let _ = write!(html, "<h1 class=\"part\">{}</h1>\n{}", escape(&part.title), page::body(&part)?);
        }
        if let Some(part) = self.parts.first() {
            html += &page::foot(part);
        }
        Ok(html)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    fn part(title: &str, streams: &[(&str, Option<u64>)]) -> Report {
        let curve = vec![(0.0, 1000), (0.5, 2000), (0.99, 10_000)];
        let stream = |(name, completed): &(&str, Option<u64>)| StreamReport {
            name: (*name).to_owned(),
            counts: [("sent".to_owned(), 3000), ("synack".to_owned(), 2500)].into(),
            silent: 500,
            completed: *completed,
            latency: [("synack".to_owned(), Percentiles { count: 1, p50: 2000, ..Percentiles::default() })]
                .into(),
            curves: [("synack".to_owned(), curve.clone())].into(),
            ..StreamReport::default()
        };
        Report {
            title: title.into(),
            command: String::new(),
            version: "0".into(),
            begun: "2026-11-23 00:00:00".into(),
            machine: Machine { cpu: "CPU".into(), cpus: 2, kernel: "6".into(), dpdk: "DPDK".into() },
            device: "self".into(),
            seconds: 1.0,
            drain: 0.5,
            interrupted: false,
            disturbed: Vec::new(),
            streams: streams.iter().map(stream).collect(),
            cores: Vec::new(),
            cpu_busy: Vec::new(),
            samples: Vec::new(),
            server: None,
            notes: Vec::new(),
        }
    }

    #[test]
    fn each_curve_is_one_stream_of_one_part_and_says_so() {
        let parts = [
            part("alone", &[("clients", Some(2000))]),
            part("flood", &[("clients", Some(9)), ("forged", None)]),
        ];
        let mut parts = Parts { title: "T".into(), what: "W".into(), parts: parts.into() };
        let names: Vec<String> = parts.lines("synack").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["alone: clients", "flood: clients", "flood: forged"]);
        assert!(parts.lines("rst").is_empty());
        let page = parts.page().expect("it can be drawn");
        for name in names {
            assert!(page.contains(&format!(">\n{name}\n<")), "{name} in the legend");
        }
        assert!(page.contains("<th>completed</th>") && page.contains("<td>2,000 (66.67 %)</td>"));
        assert!(!page.contains("disturbed\"") && !page.contains("to the RST"), "nothing of that");
        assert!(parts.table().contains("2,000 connections were completed (66.67 %)"), "{}", parts.table());
        parts.parts[1].disturbed.push("Something else runs.".into());
        let page = parts.page().expect("it can be drawn");
        let (head, _) = page.split_once("<table ").expect("a table");
        assert!(
            head.contains("A disturbed run") && head.contains("flood: Something else runs."),
            "in its head"
        );
        assert!(parts.table().contains("flood: Something else runs."));
    }
}
