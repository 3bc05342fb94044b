//! Tables for people: listeners, counters, latencies. The same names as in JSON and in the source.

pub mod percentiles;
pub mod plot;
mod processes;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use comfy_table::{Cell, CellAlignment, Table, presets};
use listener::drop_reason::DropReason;
use listener::segment::Outcome;
use listener::snmp::Mib;

use crate::config::ThenName;
use crate::control::proto::{
    Begin, CoreStats, DeviceStats, Interval, KernelStats, Latency, ListenerRow, OutcomeLatency, PortClock,
    Ss, Stats,
};
use crate::names;
use crate::stats::CORE_COUNTERS;

/// A table without lines, for terminals and for `awk` alike.
pub fn table(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

fn number(value: u64) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

/// Aligns the headers of all columns but the first to the right, above their numbers.
fn numbers_right(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// The text of `table` with no blanks at line ends.
pub fn text(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// `198.18.0.1:80`; with a device `198.18.0.1%wan:80`; as ss(8) does, `*:80` for all of both families.
fn local(addr: SocketAddr, v6only: bool, device: Option<&str>) -> String {
    let device = device.map(|name| format!("%{name}")).unwrap_or_default();
    let port = addr.port();
    match addr {
        SocketAddr::V6(v6) if v6.ip().is_unspecified() && !v6only => format!("*{device}:{port}"),
        SocketAddr::V6(v6) => format!("[{}]{device}:{port}", v6.ip()),
        SocketAddr::V4(v4) => format!("{}{device}:{port}", v4.ip()),
    }
}

/// Listeners with the columns of `ss -ltn`, and what becomes of a finished handshake; beside the kernel, the kernel's own
/// listeners instead of those that follow them.
pub fn ss(all: &Ss) -> String {
    let mut header = vec!["State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port", "Then"];
    if !all.kernel.is_empty() {
        header.push("Process");
    }
    let mut table = table(header.into_iter().map(str::to_owned).collect());
    let followed = |row: &ListenerRow| {
        row.then == ThenName::Kernel && all.kernel.iter().any(|kernel| kernel.local == row.local)
    };
    for row in all.listeners.iter().filter(|row| !followed(row)) {
        table.add_row([
            row.state.clone(),
            row.recv_q.to_string(),
            row.send_q.to_string(),
            local(row.local, row.v6only, row.device.as_deref()),
            peer(row.local, row.v6only).to_owned(),
            crate::config::then_name(row.then).to_owned(),
        ]);
    }
    let processes = processes::of(all.kernel.iter().map(|row| row.inode));
    for row in &all.kernel {
        let then = row.left.as_ref().map_or("kernel".into(), |why| format!("left to the kernel: {why}"));
        table.add_row([
            "LISTEN".into(),
            row.recv_q.to_string(),
            row.send_q.to_string(),
            local(row.local, row.v6only, None),
            peer(row.local, row.v6only).to_owned(),
            then,
            processes.get(&row.inode).cloned().unwrap_or_else(|| "-".into()),
        ]);
    }
    text(&mut table)
}

fn peer(local: SocketAddr, v6only: bool) -> &'static str {
    match local {
        SocketAddr::V4(_) => "0.0.0.0:*",
        SocketAddr::V6(v6) if v6.ip().is_unspecified() && !v6only => "*:*",
        SocketAddr::V6(_) => "[::]:*",
    }
}

/// Counters: one line a name, one column a core, then the sum; then the devices. Without `all`, counters that are 0
/// everywhere are left out.
pub fn stats(stats: &Stats, all: bool) -> String {
    let mut out = String::new();
    let late: Vec<String> =
        stats.cores.iter().filter(|core| core.late).filter_map(|c| Some(c.core?.to_string())).collect();
    if !late.is_empty() {
        out += &format!(
            "core {} did not answer in time: its counters are read as they stand, perhaps amid a burst\n",
            late.join(", ")
        );
    }
    let mut header = vec!["counter".to_owned()];
    header.extend(
        stats.cores.iter().map(|core| core.core.map(|core| format!("core {core}")).unwrap_or_default()),
    );
    header.extend(["total".to_owned(), String::new()]);
    let mut table = table(header);
    for (index, (name, total)) in stats.total.plain().into_iter().enumerate() {
        let cores = stats.cores.iter().map(|core| core.plain()[index].1);
        add_counter(&mut table, name, cores, total, CORE_COUNTERS[index].sentence);
    }
    let drops: Vec<_> = DropReason::ALL.iter().map(|reason| (reason.name(), reason.sentence())).collect();
    let snmp: Vec<_> = Mib::ALL.iter().map(|counter| (counter.name(), counter.sentence())).collect();
    let outcomes: Vec<_> = Outcome::ALL.iter().map(|outcome| (outcome.name(), outcome.sentence())).collect();
    add_section(&mut table, "outcomes", stats, |core| &core.outcomes, &outcomes, true);
    add_section(&mut table, "drops", stats, |core| &core.drops, &drops, all);
    add_section(&mut table, "snmp", stats, |core| &core.snmp, &snmp, all);
    numbers_right(&mut table);
    if let Some(sentences) = table.column_mut(stats.cores.len() + 2) {
        sentences.set_cell_alignment(CellAlignment::Left);
    }
    out += &text(&mut table);
    for device in &stats.devices {
        out += "\n";
        out += &device_text(device, all);
    }
    if let Some(kernel) = &stats.kernel {
        out += "\n";
        out += &kernel_text(kernel, all);
    }
    out
}

/// What the kernel's path counted, and the clients' round trips.
fn kernel_text(kernel: &KernelStats, all: bool) -> String {
    let mut table = table(vec!["beside the kernel".to_owned(), String::new(), String::new()]);
    for counter in &names::KERNEL_COUNTERS {
        let count = kernel.counters.get(counter.name).copied().unwrap_or_default();
        if count > 0 || all {
            let name = format!("  {}", counter.name);
            table.add_row([Cell::new(name), number(count), Cell::new(counter.sentence)]);
        }
    }
    let mut out = text(&mut table);
    let total: u64 = kernel.rtt_below_ms.iter().sum();
    // Writing to a String cannot fail.
    let _ = match total {
        0 => Ok(()),
        _ => writeln!(
            out,
            "  round trip from SYN-ACK to verified ACK, of {total} clients with timestamps: half below {}, 99 % below {}",
            below(&kernel.rtt_below_ms, total, 50),
            below(&kernel.rtt_below_ms, total, 99)
        ),
    };
    out
}

/// The bound of the first bucket up to which `percent` of all `total` round trips stand.
fn below(buckets: &[u64], total: u64, percent: u64) -> String {
    let mut sum = 0;
    let wanted = (total * percent).div_ceil(100);
    let at = buckets.iter().position(|count| {
        sum += count;
        sum >= wanted
    });
    match at {
        Some(bucket) if bucket + 1 < buckets.len() => format!("{} ms", 1u64 << bucket),
        _ => format!("more than {} ms", 1u64 << buckets.len().saturating_sub(2)),
    }
}

fn add_counter(table: &mut Table, name: &str, cores: impl Iterator<Item = u64>, total: u64, sentence: &str) {
    let mut row = vec![Cell::new(name)];
    row.extend(cores.map(number));
    row.push(number(total));
    row.push(Cell::new(sentence));
    table.add_row(row);
}

/// The counters of one map, in the order of `names`; a heading first if there is one to show.
fn add_section(
    table: &mut Table,
    title: &str,
    stats: &Stats,
    map: impl Fn(&CoreStats) -> &BTreeMap<String, u64>,
    names: &[(&str, &str)],
    all: bool,
) {
    let count = |core: &CoreStats, name: &str| map(core).get(name).copied().unwrap_or_default();
    let mut titled = false;
    for (name, sentence) in names {
        let total = count(&stats.total, name);
        if total == 0 && !all {
            continue;
        }
        if !std::mem::replace(&mut titled, true) {
            table.add_row([format!("{title}:")]);
        }
        add_counter(
            table,
            &format!("  {name}"),
            stats.cores.iter().map(|core| count(core, name)),
            total,
            sentence,
        );
    }
}

fn device_text(device: &DeviceStats, all: bool) -> String {
    let mut table = table(vec![format!("device {}", device.name), String::new(), String::new()]);
    for (name, count) in &device.counters {
        if *count > 0 || all || is_loss(name) {
            let sentence = Cell::new(names::device_sentence(name).unwrap_or_default());
            table.add_row([Cell::new(format!("  {name}")), number(*count), sentence]);
        }
    }
    let mut out = text(&mut table);
    // Writing to a String cannot fail.
    if let Some(link) = &device.link {
        let times = if link.changes == 1 { "once".to_owned() } else { format!("{} times", link.changes) };
        let _ = writeln!(out, "  driver {}, link {}, changed {times}", device.driver, link.text());
    }
    if device.losses_uncounted {
        let _ = writeln!(out, "  this driver counts no losses: imissed says nothing");
    }
    out
}

/// Counters of frames that a device lost: shown also when they are 0, because that is good news.
fn is_loss(name: &str) -> bool {
    matches!(name, "imissed" | "ierrors" | "oerrors" | "rx_nombuf" | "ring_full" | "interface_dropped")
}

/// Latencies in nanoseconds: one line per core and outcome, then all cores together.
pub fn latency(latency: &Latency) -> String {
    let header = ["core", "outcome", "count", "min", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let mut table = table(header.map(str::to_owned).to_vec());
    for core in &latency.cores {
        for outcome in &core.outcomes {
            add_latency(&mut table, &core.core.to_string(), outcome);
        }
    }
    for outcome in &latency.total {
        add_latency(&mut table, "all", outcome);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let late = latency
        .cores
        .iter()
        .filter(|core| core.late)
        .map(|core| format!("core {} did not answer in time: its latencies are older\n", core.core));
    let mut notes: String = late.collect();
    if let Some(Interval { until, seconds }) = &latency.interval {
        notes.insert_str(0, &format!("until {until}, over {seconds:.3} s\n"));
    }
    format!("{notes}{}{}", time_source(&latency.clocks), text(&mut table))
}

/// When the times begin and by whose clock: one line for all ports, or one for each.
fn time_source(clocks: &BTreeMap<String, PortClock>) -> String {
    const WORKER: &str = "the worker's, monotonic; the wait in the device's queue is not in it";
    if clocks.values().all(|clock| clock.begin == Begin::Worker) {
        let mut source =
            format!("latency in ns, from the end of rx_burst to the end of tx_burst\nclock: {WORKER}\n");
        for (port, _) in clocks.iter().filter(|(_, clock)| clock.could) {
            source +=
                &format!("port {port}: the device could stamp arrivals; rx_timestamps = true has it do so\n");
        }
        return source;
    }
    let mut source = String::from("latency in ns, to the end of tx_burst\n");
    for (port, clock) in clocks {
        let hz = clock.hz.map_or("not measured yet".into(), |hz| format!("{hz} Hz"));
        source += &match clock.begin {
            Begin::Worker => format!("port {port}: from the end of rx_burst; clock: {WORKER}\n"),
            Begin::Kernel => {
                format!("port {port}: from the kernel's stamp on arrival; clock: the date, {hz}\n")
            }
            Begin::Device => {
                format!("port {port}: from the device's stamp on arrival; clock: the device's, {hz}\n")
            }
        };
        if clock.unusable > 0 {
            let frames = clock.unusable;
            source += &format!(
                "port {port}: {frames} frames had no usable stamp; theirs from the end of rx_burst\n"
            );
        }
    }
    source
}

fn add_latency(table: &mut Table, core: &str, row: &OutcomeLatency) {
    let times = [row.min_ns, row.p50_ns, row.p90_ns, row.p99_ns, row.p99_9_ns, row.p99_99_ns, row.max_ns];
    let mut cells = vec![Cell::new(core), Cell::new(&row.outcome), number(row.count)];
    // No time is better than a time of 0.
    cells.extend(times.map(|ns| if row.count == 0 { Cell::new("-") } else { number(ns) }));
    table.add_row(cells);
}

#[cfg(test)]
mod tests;
