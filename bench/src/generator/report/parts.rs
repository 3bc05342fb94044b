//! Several runs that differ in one thing, side by side.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};

use super::page::{self, escape};
use super::plots::{self, Line, odds};
use super::{Report, StreamReport, rate};

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

const HEAD: [&str; 10] =
    ["part", "stream", "sent/s", "SYN-ACKs", "RSTs", "wrong", "unanswered", "p50 us", "p99 us", "p99.9 us"];

fn row(part: &Report, stream: &StreamReport) -> [String; 10] {
    let count = |name: &str| stream.counts.get(name).copied().unwrap_or(0);
    let us = |ns: u64| format!("{:.1}", ns as f64 / 1000.0);
    let latency =
        stream.latency.get("synack").or_else(|| stream.latency.get("rst")).copied().unwrap_or_default();
    [
        part.title.clone(),
        stream.name.clone(),
        rate(stream.rate),
        page::grouped(count("synack")),
        page::grouped(count("rst") + count("refused")),
        page::grouped(stream.wrong),
        format!("{} ({:.3} %)", page::grouped(stream.silent), stream.loss * 100.0),
        us(latency.p50),
        us(latency.p99),
        us(latency.p99_9),
    ]
}

impl Parts {
    fn rows(&self) -> impl Iterator<Item = [String; 10]> + '_ {
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
        let mut text = format!("{}\n{}\n\n{table}\n", self.title, self.what);
        for part in &self.parts {
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
            "<p class=\"soft\">{} UTC</p>\n<p>{}</p>\n<table><tr>",
            escape(begun),
            escape(&self.what)
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
        html += "</table>\n";
        let common = self.parts.first().map(|part| part.notes.clone()).unwrap_or_default();
        let common: Vec<String> = common.into_iter().filter(|note| self.is_common(note)).collect();
        for note in &common {
            let _ = writeln!(html, "<p class=\"note\">{}</p>", escape(note));
        }
        let lines: Vec<Line> = self
            .parts
            .iter()
            .filter_map(|part| part.cores.first().map(|core| (part.title.clone(), odds(&core.curve))))
            .filter(|(_, points)| !points.is_empty())
            .collect();
        if !lines.is_empty() {
            let plot = plots::percentile_lines(&lines)?;
            let _ = write!(html, "<h2>Time to the SYN-ACK, part by part</h2>\n<figure>{plot}</figure>\n");
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
