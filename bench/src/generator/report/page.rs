//! A report as one self-contained page, also for paper.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;

use super::{Percentiles, Report, StreamReport, findings, plots, rate, table};
use crate::generator::tally::Count;

const STYLE: &str = "
:root{--ink:#1b1f24;--soft:#5b6672;--line:#d9dee4;--good:#1a7f4b;--bad:#b3261e;--back:#f6f8fa}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,'DejaVu Sans',sans-serif;color:var(--ink);max-width:980px;margin:2.5rem auto;padding:0 1.25rem}
h1{font-size:1.7rem;margin:0 0 .25rem}
.part{margin-top:3rem;break-before:page}
h2{font-size:1.1rem;margin:2.2rem 0 .6rem;padding-bottom:.25rem;border-bottom:2px solid var(--ink)}
p{margin:.4rem 0}
.soft,caption{color:var(--soft)}
code{font:13px/1.45 ui-monospace,'DejaVu Sans Mono',monospace;background:var(--back);padding:.5rem .7rem;display:block;overflow-wrap:anywhere;border:1px solid var(--line);border-radius:6px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.75rem;margin:1.2rem 0}
.tile{border:1px solid var(--line);border-radius:8px;padding:.7rem .9rem}
.tile b{display:block;font-size:1.45rem;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.85rem}
.good b{color:var(--good)}.bad b{color:var(--bad)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
caption{text-align:left;padding:.2rem 0;font-size:.85rem}
th,td{text-align:right;padding:.28rem .55rem;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft)}
th:first-child,td:first-child,td.text,th.text{text-align:left}
td.text{color:var(--soft)}
.parts td:nth-child(n+3){white-space:nowrap}
figure{margin:.8rem 0}
svg{width:100%;height:auto;display:block}
.disturbed{border-left:4px solid var(--bad);background:#fdecea;padding:.5rem .8rem;margin:.8rem 0}
.disturbed ul,.found{margin:.3rem 0;padding-left:1.2rem}
.note{border-left:4px solid #d29922;background:#fff8e6;padding:.5rem .8rem;margin:.8rem 0;white-space:pre-line}
.columns{columns:2;column-gap:2.5rem}
.columns div{display:flex;justify-content:space-between;break-inside:avoid;border-bottom:1px solid var(--line);padding:.2rem .3rem;font-size:.9rem;font-variant-numeric:tabular-nums}
@media print{@page{size:A4;margin:14mm}body{margin:0;max-width:none;padding:0;font-size:10pt}h1{font-size:17pt}
figure,.tiles,tr,.note{break-inside:avoid}h2{break-after:avoid;margin-top:1.2rem}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
";

/// Writes the page to `file`.
///
/// # Errors
/// What the file system says, or a plot that cannot be drawn.
pub fn write_page(report: &Report, file: &Path) -> anyhow::Result<()> {
    std::fs::write(file, page(report)?).with_context(|| format!("cannot write {}", file.display()))
}

/// The page.
///
/// # Errors
/// A plot that cannot be drawn.
pub fn page(report: &Report) -> anyhow::Result<String> {
    let mut html = head(&report.title);
    let _ = writeln!(
        html,
        "<p class=\"soft\">{} UTC · hearken-load {} · {} s of load, then {} s for late answers{}</p>",
        escape(&report.begun),
        escape(&report.version),
        report.seconds,
        report.drain,
        if report.interrupted { " · <b>interrupted</b>" } else { "" }
    );
    html += &body(report)?;
    html += &foot(report);
    Ok(html)
}

/// The page up to its title.
pub fn head(title: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    )
}

/// Machine, device and command.
pub fn foot(report: &Report) -> String {
    format!(
        "<h2>Where and how</h2>\n<p>{}</p>\n<p>{}</p>\n<code>{}</code>\n</body></html>\n",
        escape(&report.machine.to_string()),
        escape(&report.device),
        escape(&report.command)
    )
}

/// Everything between head and foot that is about numbers.
pub fn body(report: &Report) -> anyhow::Result<String> {
    let mut html = disturbed(&report.disturbed);
    html += &list("found", &findings::sentences(report));
    for note in &report.notes {
        let _ = writeln!(html, "<p class=\"note\">{}</p>", escape(note));
    }
    html += &tiles(report);
    // What is behind the last SYN is no rate any more.
    let end = report.seconds + 0.05;
    let samples: Vec<_> = report.samples.iter().copied().filter(|sample| sample.at < end).collect();
    let together = if report.streams.len() > 1 { ", all streams together" } else { "" };
    if samples.len() > 1 {
        let plot = plots::rates(&samples)?;
        let _ = write!(html, "<h2>Rates over time{together}</h2>\n<figure>{plot}</figure>\n");
    }
    for (answer, what) in [("synack", "SYN-ACK"), ("rst", "RST")] {
        html +=
            &figure(&format!("Time to the {what}, per stream"), &plots::streams(&report.streams, answer))?;
    }
    if report.cores.len() > 1 {
        html += &figure(&format!("Time to the SYN-ACK, per core{together}"), &plots::cores(&report.cores))?;
    }
    html += &latency(report);
    for stream in &report.streams {
        html += &counts(stream);
    }
    html += &cores(report);
    html += &server(report);
    Ok(html)
}

/// Why a run says less of the server than it should.
pub fn disturbed(why: &[String]) -> String {
    if why.is_empty() {
        return String::new();
    }
    format!("<div class=\"disturbed\"><b>{}</b>\n{}</div>\n", findings::DISTURBED, list("", why))
}

/// Sentences, one below the other.
pub fn list(class: &str, sentences: &[String]) -> String {
    let rows: String = sentences.iter().map(|text| format!("<li>{}</li>\n", escape(text))).collect();
    format!("<ul class=\"{class}\">\n{rows}</ul>\n")
}

/// Percentile curves below a heading; nothing without one.
pub fn figure(title: &str, lines: &[plots::Line]) -> anyhow::Result<String> {
    if lines.is_empty() {
        return Ok(String::new());
    }
    Ok(format!(
        "<h2>{}</h2>\n<figure>{}</figure>\n<p class=\"soft\">From the time at which a SYN should have left; the further right, \
         the rarer.</p>\n",
        escape(title),
        plots::percentile_lines(lines)?
    ))
}

fn tiles(report: &Report) -> String {
    let mut html = String::from("<div class=\"tiles\">");
    let mut tile = |class: &str, value: String, what: &str| {
        let _ = write!(html, "<div class=\"tile {class}\"><b>{value}</b><span>{}</span></div>", escape(what));
    };
    for stream in &report.streams {
        let name = &stream.name;
        tile(
            "",
            format!("{}/s", rate(stream.rate)),
            &format!("{name}: SYNs sent, of {}/s due", rate(stream.due_rate)),
        );
        let class = if stream.loss == 0.0 { "good" } else { "" };
        tile(class, format!("{:.4} %", stream.loss * 100.0), &format!("{name}: without a right answer"));
        let class = if stream.wrong == 0 { "good" } else { "bad" };
        tile(class, stream.wrong.to_string(), &format!("{name}: wrong answers"));
        if let Some(completed) = stream.completed {
            let sent = stream.counts.get(Count::Sent.name()).copied().unwrap_or(0);
            let what = format!("{name}: connections completed, {}", findings::percent(completed, sent));
            tile("", grouped(completed), &what);
        }
        if let Some((answer, latency)) = findings::main_answer(stream) {
            tile("", us(latency.p50), &format!("{name}: median to the {answer}, us"));
            tile("", us(latency.p99_9), &format!("{name}: 99.9 % of {answer}s within, us"));
        }
    }
    html + "</div>\n"
}

/// `1,234,567`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn us(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1000.0)
}

const HEAD: &str = "<tr><th></th><th>count</th><th>min</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>p99.99</th>\
                    <th>max</th></tr>\n";

fn row(name: &str, p: &Percentiles) -> String {
    if p.count == 0 {
        return String::new();
    }
    let cells =
        [p.min, p.p50, p.p90, p.p99, p.p99_9, p.p99_99, p.max].map(|ns| format!("<td>{}</td>", us(ns)));
    format!("<tr><td>{}</td><td>{}</td>{}</tr>\n", escape(name), grouped(p.count), cells.concat())
}

fn latency(report: &Report) -> String {
    let mut rows = String::new();
    for stream in &report.streams {
        for (what, latency) in &stream.latency {
            rows += &row(&format!("{}: to {what}", stream.name), latency);
        }
    }
    for core in &report.cores {
        rows += &row(&format!("CPU {}: to synack", core.cpu), &core.synack);
        rows += &row(&format!("CPU {}: SYNs left late by", core.cpu), &core.lag);
    }
    format!(
        "<h2>Latency</h2>\n<table><caption>microseconds, from the scheduled time</caption>\n{HEAD}{rows}</table>\n"
    )
}

fn counts(stream: &StreamReport) -> String {
    let mut rows = String::new();
    for &count in Count::ALL {
        let number = stream.counts.get(count.name()).copied().unwrap_or(0);
        if number == 0 && !matches!(count, Count::Sent | Count::SynAck) {
            continue;
        }
        let number = grouped(number);
        let _ = writeln!(
            rows,
            "<tr><td>{}</td><td>{number}</td><td class=\"text\">{}</td></tr>",
            count.name(),
            escape(count.sentence())
        );
    }
    let mut row = |name: &str, number: u64, text: &str| {
        let number = grouped(number);
        let _ = writeln!(rows, "<tr><td>{name}</td><td>{number}</td><td class=\"text\">{text}</td></tr>");
    };
    if let Some(completed) = stream.completed {
        row("completed", completed, "Connections that came to their end.");
    }
    if stream.copies > 0 {
        row("copies", stream.copies, table::COPIES);
    }
    let _ = writeln!(
        rows,
        "<tr><td>silence</td><td>{}</td><td class=\"text\">SYNs without any answer.</td></tr>",
        grouped(stream.silent)
    );
    format!(
        "<h2>What became of stream “{}”</h2>\n<p class=\"soft\">{}; {} sources, {} destinations</p>\n<table>{rows}</table>\n",
        escape(&stream.name),
        escape(&stream.mode),
        grouped(stream.sources),
        grouped(stream.destinations)
    )
}

fn cores(report: &Report) -> String {
    let mut rows = String::new();
    for core in &report.cores {
        let _ = writeln!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1} %</td><td>{:.1} %</td></tr>",
            core.cpu,
            grouped(core.tx_frames),
            grouped(core.rx_frames),
            grouped(core.other),
            core.on_cpu * 100.0,
            core.busy * 100.0
        );
    }
    format!(
        "<h2>The generator's cores</h2>\n<table><tr><th>CPU</th><th>frames out</th><th>frames in</th><th>of no stream</th>\
         <th>had its CPU</th><th>busy</th></tr>\n{rows}</table>\n"
    )
}

fn server(report: &Report) -> String {
    let Some(server) = &report.server else {
        return "<h2>The server</h2>\n<p class=\"soft\">Its counters were not asked for (--socket).</p>\n"
            .to_owned();
    };
    let mut html = String::from("<h2>The server's counters meanwhile</h2>\n<div class=\"columns\">");
    for (name, count) in &server.counters {
        let _ = writeln!(html, "<div><span>{}</span><span>{}</span></div>", escape(name), grouped(*count));
    }
    html += "</div>\n<table><caption>microseconds that it held a frame, since its start</caption>\n";
    html += HEAD;
    for latency in &server.latency {
        html += &row(&format!("core {} {}", latency.core, latency.outcome), &latency.time);
    }
    html + "</table>\n"
}

/// `text` between tags.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::report::{CoreReport, SampleReport};
    use crate::machine::Machine;

    const CURVE: [(f64, u64); 4] = [(0.0, 1000), (0.5, 2000), (0.99, 10_000), (1.0, 20_000)];

    fn report() -> Report {
        let latency =
            Percentiles { count: 9, min: 1000, p50: 2000, p99_9: 3_000_000, ..Percentiles::default() };
        let stream = StreamReport {
            name: "a<b".into(),
            mode: "syn".into(),
            due: 10,
            due_rate: 10.0,
            rate: 10.0,
            sources: 1,
            destinations: 1,
            counts: [("sent".to_owned(), 4711)].into(),
            silent: 1,
            loss: 0.1,
            latency: [("synack".to_owned(), latency)].into(),
            curves: [("synack".to_owned(), CURVE.to_vec())].into(),
            ..StreamReport::default()
        };
        let core = CoreReport {
            cpu: 3,
            rx_frames: 9,
            tx_frames: 10,
            other: 0,
            no_buffer: 0,
            on_cpu: 1.0,
            busy: 0.5,
            lag: latency,
            synack: latency,
            curve: CURVE.to_vec(),
        };
        let sample = |at| SampleReport { at, sent: 10.0, synack: 9.0, rst: 0.0, wrong: 0.0 };
        Report {
            title: "a \"title\" & more".into(),
            command: "hearken-load syn".into(),
            version: "0".into(),
            begun: "2026-11-23 00:00:00".into(),
            machine: Machine { cpu: "CPU".into(), cpus: 2, kernel: "6".into(), dpdk: "DPDK".into() },
            device: "self".into(),
            seconds: 1.0,
            drain: 0.5,
            interrupted: false,
            disturbed: vec!["a <reason>".into()],
            streams: vec![stream],
            cores: vec![core],
            cpu_busy: vec![(0, 0.5)],
            samples: vec![sample(0.25), sample(0.5)],
            server: None,
            notes: vec!["a note".into()],
        }
    }

    #[test]
    fn a_page_is_whole_and_needs_nothing_from_elsewhere() {
        let page = page(&report()).expect("it can be drawn");
        assert!(page.contains("a &quot;title&quot; &amp; more") && page.contains("a&lt;b"), "escaped");
        assert_eq!(page.matches("<svg").count(), 2);
        let (head, _) = page.split_once("<svg").expect("a picture");
        assert!(head.contains("A disturbed run") && head.contains("a &lt;reason&gt;"), "in its head");
        assert!(page.contains("4,711") && page.contains("3000.0") && page.contains("a note"));
        for elsewhere in ["<script", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
        assert!(!page.contains("NaN"));
    }

    #[test]
    fn a_report_is_the_same_after_json() {
        let json = serde_json::to_string(&report()).expect("JSON");
        let read: Report = serde_json::from_str(&json).expect("a report");
        assert_eq!(serde_json::to_string(&read).expect("JSON"), json);
    }
}
