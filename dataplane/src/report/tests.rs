use super::*;
use crate::config::ThenName;
use crate::control::proto::CoreLatency;

fn row(local: &str) -> ListenerRow {
    ListenerRow {
        state: "LISTEN".into(),
        recv_q: 3,
        send_q: 4096,
        local: local.parse().expect("an address"),
        device: None,
        fd: 3,
        then: ThenName::Queue,
        reuseport: false,
        v6only: false,
    }
}

#[test]
fn listeners_look_as_in_ss() {
    let rows = [
        row("198.18.0.1:80"),
        ListenerRow { device: Some("wan".into()), then: ThenName::Discard, ..row("0.0.0.0:9") },
        row("[::]:443"),
        ListenerRow { v6only: true, ..row("[::]:444") },
        row("[2001:db8::1]:443"),
    ];
    let lines: Vec<String> = ss(&Ss { listeners: rows.to_vec(), ..Ss::default() })
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines,
        [
            "State Recv-Q Send-Q Local Address:Port Peer Address:Port Then",
            "LISTEN 3 4096 198.18.0.1:80 0.0.0.0:* queue",
            "LISTEN 3 4096 0.0.0.0%wan:9 0.0.0.0:* discard",
            "LISTEN 3 4096 *:443 *:* queue",
            "LISTEN 3 4096 [::]:444 [::]:* queue",
            "LISTEN 3 4096 [2001:db8::1]:443 [::]:* queue",
        ]
    );
}

fn core(core: u16, csum: u64) -> CoreStats {
    CoreStats {
        core: Some(core),
        rx_frames: 100,
        outcomes: BTreeMap::from([("synack".to_owned(), 100 - csum)]),
        drops: BTreeMap::from([("tcp_csum".to_owned(), csum), ("otherhost".to_owned(), 0)]),
        snmp: BTreeMap::from([("PassiveOpens".to_owned(), 7)]),
        ..Default::default()
    }
}

#[test]
fn counters_that_never_moved_are_shown_on_demand() {
    let mut all = Stats { cores: vec![core(0, 1), core(1, 2)], ..Default::default() };
    for core in &all.cores {
        all.total.add(core);
    }
    let counters =
        BTreeMap::from([("imissed".to_owned(), 0), ("ipackets".to_owned(), 5), ("tx_err".to_owned(), 0)]);
    all.devices.push(DeviceStats { name: "wan".into(), counters, ..DeviceStats::default() });
    let text = stats(&all, false);
    let line = |name: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(name));
        line.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    assert_eq!(line("counter").as_deref(), Some("counter core 0 core 1 total"));
    assert_eq!(
        line("rx_frames").as_deref(),
        Some("rx_frames 100 100 200 Frames received; always the sum of all outcomes and drops.")
    );
    assert_eq!(line("synack").as_deref(), Some("synack 99 98 197 A SYN that was answered by a SYN-ACK."));
    assert_eq!(line("tcp_csum").as_deref(), Some("tcp_csum 1 2 3 The TCP checksum is wrong."));
    assert_eq!(
        line("PassiveOpens").as_deref(),
        Some("PassiveOpens 7 7 14 Connections that a final ACK made.")
    );
    assert_eq!(line("otherhost"), None);
    assert_eq!(line("ListenDrops"), None);
    assert!(line("imissed").is_some_and(|line| line.starts_with("imissed 0 Lost in the device")), "{text}");
    assert_eq!(line("tx_err"), None);
    assert!(!text.contains("did not answer"));
    all.cores[1].late = true;
    let text = stats(&all, true);
    assert!(
        text.starts_with(
            "core 1 did not answer in time: its counters are read as they stand, perhaps amid a burst\n"
        ),
        "{text}"
    );
    for reason in DropReason::ALL {
        assert!(text.contains(&format!("\n  {} ", reason.name())), "{} is missing", reason.name());
    }
}

#[test]
fn latencies_have_a_line_per_core_and_outcome() {
    let outcome = |outcome: &str, count| OutcomeLatency {
        outcome: outcome.into(),
        count,
        frames: count,
        min_ns: 1,
        p50_ns: 2,
        p90_ns: 3,
        p99_ns: 4,
        p99_9_ns: 5,
        p99_99_ns: 6,
        max_ns: 7,
    };
    let all = Latency {
        cores: vec![CoreLatency {
            core: 4,
            late: false,
            outcomes: vec![outcome("synack", 9), outcome("rst", 0)],
        }],
        total: vec![outcome("synack", 9)],
        clocks: BTreeMap::from([
            ("lan".to_owned(), PortClock::default()),
            ("wan".to_owned(), PortClock { could: true, ..PortClock::default() }),
        ]),
        interval: None,
    };
    let interval = Some(Interval { until: "2026-01-02T03:04:05.678901Z".into(), seconds: 1.0004 });
    let text = latency(&Latency { interval, ..all.clone() });
    assert!(text.starts_with("until 2026-01-02T03:04:05.678901Z, over 1.000 s\nlatency in ns"), "{text}");
    let text = latency(&all);
    let lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        [
            "latency in ns, from the end of rx_burst to the end of tx_burst",
            "clock: the worker's, monotonic; the wait in the device's queue is not in it",
            "port wan: the device could stamp arrivals; rx_timestamps = true has it do so",
            "core outcome count min p50 p90 p99 p99.9 p99.99 max",
            "4 synack 9 1 2 3 4 5 6 7",
            "4 rst 0 - - - - - - -",
            "all synack 9 1 2 3 4 5 6 7",
        ]
    );
}

#[test]
fn each_port_has_its_clock() {
    let clock = |begin, hz, unusable| PortClock { begin, hz, unusable, could: true };
    let clocks = [
        ("lan", PortClock::default()),
        ("tap", clock(Begin::Kernel, Some(1_000_000), 3)),
        ("wan", clock(Begin::Device, Some(78_125_000), 0)),
        ("wan2", clock(Begin::Device, None, 0)),
    ];
    let clocks = clocks.map(|(port, clock)| (port.to_owned(), clock)).into();
    let text = latency(&Latency { clocks, ..Latency::default() });
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..6],
        [
            "latency in ns, to the end of tx_burst",
            "port lan: from the end of rx_burst; clock: the worker's, monotonic; the wait in the device's queue is not in it",
            "port tap: from the kernel's stamp on arrival; clock: the date, 1000000 Hz",
            "port tap: 3 frames had no usable stamp; theirs from the end of rx_burst",
            "port wan: from the device's stamp on arrival; clock: the device's, 78125000 Hz",
            "port wan2: from the device's stamp on arrival; clock: the device's, not measured yet",
        ]
    );
}
