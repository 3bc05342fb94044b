//! Numbers as people read them, and one interval as plain text.

use comfy_table::{Cell, CellAlignment};

use crate::control::proto::{Top, TopListener};
use crate::report;

/// `0`, `12`, `1.23 k`, `45.6 M`: three digits.
pub(super) fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        v if v >= 1e9 => (v / 1e9, " G"),
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e3 => (v / 1e3, " k"),
        v => (v, ""),
    };
    let digits = match scaled {
        s if unit.is_empty() && (s >= 10.0 || s == 0.0) => 0,
        s if s < 10.0 => 2,
        s if s < 100.0 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{unit}")
}

/// `-`, `950 ns`, `1.23 us`, `45.6 ms`
pub(super) fn time(ns: u64) -> String {
    match ns {
        0 => "-".into(),
        ns if ns < 1000 => format!("{ns} ns"),
        ns if ns < 1_000_000 => format!("{} us", short(ns as f64 / 1e3)),
        ns if ns < 1_000_000_000 => format!("{} ms", short(ns as f64 / 1e6)),
        ns => format!("{} s", short(ns as f64 / 1e9)),
    }
}

/// The columns of a core: header, rank when not all fit on the screen, and the characters that their cells take.
pub(super) const CORE_COLUMNS: [(&str, u8, usize); 9] = [
    ("core", 10, 4),
    ("cpu", 5, 3),
    ("rx/s", 9, 6),
    ("tx/s", 6, 6),
    ("rx bit/s", 2, 8),
    ("busy %", 8, 6),
    ("p50", 4, 7),
    ("p99", 7, 7),
    ("p99.9", 3, 7),
];

/// The cells under [`CORE_COLUMNS`].
pub(super) fn core_cells(core: &crate::control::proto::TopCore) -> [String; 9] {
    [
        core.core.to_string(),
        core.cpu.map_or_else(String::new, |cpu| cpu.to_string()),
        short(core.rx_frames),
        short(core.tx_frames),
        short(core.rx_bits),
        if core.late { "late".into() } else { format!("{:.1}", core.busy_percent) },
        time(core.p50_ns),
        time(core.p99_ns),
        time(core.p99_9_ns),
    ]
}

/// How SYN cookies fare: counters, and what they are called here.
const COOKIES: [(&str, &str); 5] = [
    ("SyncookiesSent", "cookies sent"),
    ("SyncookiesRecv", "validated"),
    ("SyncookiesFailed", "failed"),
    ("ListenOverflows", "accept queue full"),
    ("PassiveOpens", "connections made"),
];

/// How SYNs fare in front of the kernel's listeners, where each is answered by a cookie: counters, and what they are called here.
const BESIDE: [(&str, &str); 5] = [
    ("claim_redirected", "SYNs to workers"),
    ("claim_answered", "answered earlier"),
    ("handed_over_to_kernel", "connections made"),
    ("handover_bad_cookie", "ACKs refused"),
    ("claim_accept_queue_full", "accept queue full"),
];
/// SYNs a second in front of the kernel's listeners that are a flood if hardly any client is behind them.
const FLOOD_SYNS: f64 = 1_000.0;

/// The rows about SYNs: what they are called, and events a second.
pub(super) fn syn_rows(top: &Top) -> [(&'static str, f64); 5] {
    let (rows, rates) = if top.kernel.is_empty() { (COOKIES, &top.snmp) } else { (BESIDE, &top.kernel) };
    rows.map(|(name, label)| (label, rates.get(name).copied().unwrap_or_default()))
}

/// True while SYNs are answered by cookies, or where all are, while hardly any of them makes a connection.
pub(super) fn flooded(top: &Top) -> bool {
    let rate = |name: &str| top.kernel.get(name).copied().unwrap_or_default();
    if top.kernel.is_empty() {
        return top.snmp.get("SyncookiesSent").is_some_and(|rate| *rate > 0.0);
    }
    let syns = rate("claim_redirected") + rate("claim_answered");
    syns > FLOOD_SYNS && rate("handed_over_to_kernel") < syns / 10.0
}

/// `198.18.0.1:80`, or with its device `198.18.0.1:80 on wan`.
pub(super) fn listener_name(listener: &TopListener) -> String {
    let device = listener.device.as_ref().map(|name| format!(" on {name}")).unwrap_or_default();
    format!("{}{device}", listener.local)
}

/// `link down: wan, lan`; none while all are up.
pub(super) fn links_down(top: &Top) -> Option<String> {
    (!top.links_down.is_empty()).then(|| format!("link down: {}", top.links_down.join(", ")))
}

/// One interval.
pub(super) fn once(top: &Top) -> String {
    let mut cores = table(&CORE_COLUMNS.map(|(header, ..)| header));
    for core in &top.cores {
        cores.add_row(core_cells(core).map(right));
    }
    let mut drops = table(&["drops/s", "since start", "reason"]);
    for drop in &top.drops {
        let numbers = [short(drop.rate), drop.total.to_string()].map(right);
        drops.add_row(numbers.into_iter().chain([Cell::new(&drop.reason)]).collect::<Vec<_>>());
    }
    let mut listeners = table(&["segs/s", "Recv-Q", "Send-Q", "listener", "then"]);
    for listener in &top.listeners {
        let numbers =
            [short(listener.rate), listener.recv_q.to_string(), listener.send_q.to_string()].map(right);
        let then = crate::config::then_name(listener.then);
        let texts = [Cell::new(listener_name(listener)), Cell::new(then)];
        listeners.add_row(numbers.into_iter().chain(texts).collect::<Vec<_>>());
    }
    let cookies = syn_rows(top).map(|(label, rate)| format!("{label} {}/s", short(rate)));
    let outcomes = top.outcomes.iter().map(|(name, rate)| format!("{name} {}/s", short(*rate)));
    format!(
        "over {:.1} s: {}\n{}\n{}\nflood: {}, {}\n\n{}\n{}",
        top.seconds,
        outcomes.collect::<Vec<_>>().join(", "),
        links_down(top).map(|links| links + "\n").unwrap_or_default(),
        report::text(&mut cores),
        if flooded(top) { "yes" } else { "no" },
        cookies.join(", "),
        if top.drops.is_empty() { "no drops\n".to_owned() } else { report::text(&mut drops) },
        report::text(&mut listeners),
    )
}

fn table(header: &[&str]) -> comfy_table::Table {
    report::table(header.iter().map(|name| (*name).to_owned()).collect())
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let values = [0.0, 0.5, 7.25, 42.0, 999.0, 1234.0, 45_600.0, 789_000.0, 12_345_678.0, 2.5e9];
        let texts = values.map(short);
        assert_eq!(
            texts,
            ["0", "0.50", "7.25", "42", "999", "1.23 k", "45.6 k", "789 k", "12.3 M", "2.50 G"]
        );
        assert_eq!(
            [0, 950, 1500, 45_600_000, 2_000_000_000].map(time),
            ["-", "950 ns", "1.50 us", "46 ms", "2.00 s"]
        );
    }
}
