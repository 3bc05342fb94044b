//! A report as text.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table};

use super::{Percentiles, Report, StreamReport, findings};
use crate::generator::tally::Count;

/// What is said of copies.
pub(super) const COPIES: &str =
    "Copies of a SYN that was answered, themselves without an answer: no loss, Linux answers one in 500 ms.";

/// The summary.
pub fn table(report: &Report) -> String {
    let mut text = format!(
        "{}\n{}\n{}; {} s, then {} s for late answers{}\n",
        report.title,
        report.machine,
        report.device,
        report.seconds,
        report.drain,
        if report.interrupted { "; INTERRUPTED" } else { "" }
    );
    if !report.disturbed.is_empty() {
        let _ = writeln!(text, "\n{}\n  {}", findings::DISTURBED, report.disturbed.join("\n  "));
    }
    for stream in &report.streams {
        let _ = write!(text, "\n{}", stream_text(stream));
    }
    let _ = write!(text, "\n{}", latency_text(report));
    let _ = write!(text, "\n{}", cores_text(report));
    if let Some(server) = &report.server {
        let _ = writeln!(text, "\nserver: what it counted meanwhile");
        for (name, count) in &server.counters {
            let _ = writeln!(text, "  {name:<28}{count:>14}");
        }
    }
    for note in &report.notes {
        let _ = writeln!(text, "\n{note}");
    }
    text
}

fn stream_text(stream: &StreamReport) -> String {
    let mut text = format!(
        "{}: {} SYNs in all, {}/s of {}/s due; {} sources, {} destinations\n",
        stream.name,
        stream.counts.get(Count::Sent.name()).copied().unwrap_or(0),
        rate(stream.rate),
        rate(stream.due_rate),
        stream.sources,
        stream.destinations
    );
    for &count in Count::ALL {
        let number = stream.counts.get(count.name()).copied().unwrap_or(0);
        if number > 0 || matches!(count, Count::Sent | Count::SynAck) {
            let _ = writeln!(text, "  {:<18}{number:>14}  {}", count.name(), count.sentence());
        }
    }
    if stream.copies > 0 {
        let copies = stream.copies;
        let _ = writeln!(text, "  {:<18}{copies:>14}  {COPIES}", "copies");
    }
    if let Some(completed) = stream.completed {
        let of = findings::percent(completed, stream.counts.get(Count::Sent.name()).copied().unwrap_or(0));
        let _ = writeln!(
            text,
            "  {:<18}{completed:>14}  Connections that were completed, of the SYNs sent: {of}.",
            "completed"
        );
    }
    let (silent, percent) = (stream.silent, stream.loss * 100.0);
    let _ = writeln!(text, "  {:<18}{silent:>14}  SYNs without any answer.", "silence");
    let _ = writeln!(text, "  {:<18}{percent:>13.4}%  SYNs without a right answer, of those sent.", "loss");
    text
}

fn latency_text(report: &Report) -> String {
    let head = ["us", "count", "min", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let mut table = new_table(&head);
    for stream in &report.streams {
        for (what, latency) in &stream.latency {
            add_row(&mut table, format!("{} {what}", stream.name), latency);
        }
    }
    for core in &report.cores {
        add_row(&mut table, format!("cpu {} synack", core.cpu), &core.synack);
        add_row(&mut table, format!("cpu {} SYNs late", core.cpu), &core.lag);
    }
    for row in report.server.iter().flat_map(|server| &server.latency) {
        add_row(&mut table, format!("server {} {}", row.core, row.outcome), &row.time);
    }
    format!("latency in us, from the time at which a SYN should have left\n{}\n", finish(table))
}

fn cores_text(report: &Report) -> String {
    let mut table = new_table(&["cpu", "frames out", "frames in", "other", "on CPU", "busy"]);
    for core in &report.cores {
        table.add_row([
            core.cpu.to_string(),
            core.tx_frames.to_string(),
            core.rx_frames.to_string(),
            core.other.to_string(),
            format!("{:.1}%", core.on_cpu * 100.0),
            format!("{:.1}%", core.busy * 100.0),
        ]);
    }
    format!("{}\n", finish(table))
}

fn new_table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(head.iter().copied());
    table
}

fn finish(mut table: Table) -> Table {
    let columns = table.column_count();
    for column in 1..columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn add_row(table: &mut Table, name: String, p: &Percentiles) {
    if p.count == 0 {
        return;
    }
    let us = |ns: u64| format!("{:.1}", ns as f64 / 1000.0);
    table.add_row([
        name,
        p.count.to_string(),
        us(p.min),
        us(p.p50),
        us(p.p90),
        us(p.p99),
        us(p.p99_9),
        us(p.p99_99),
        us(p.max),
    ]);
}

/// A number a second, with a suffix.
pub fn rate(number: f64) -> String {
    match number {
        number if number >= 1e6 => format!("{:.3}M", number / 1e6),
        number if number >= 1e4 => format!("{:.1}k", number / 1e3),
        number => format!("{number:.1}"),
    }
}
