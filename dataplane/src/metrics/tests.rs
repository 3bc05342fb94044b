use super::*;
use listener::types::CoreId;

pub(super) fn page() -> Page {
    let mut latency = crate::histogram::Latency::new();
    latency.record(Outcome::Rst, 150, 2);
    latency.record(Outcome::Rst, 5_000_000_000, 1);
    let counters = Default::default();
    let report = CoreReport { core: CoreId(0), counters, latency, fresh: true };
    let mut core = CoreStats { core: Some(0), ..Default::default() };
    core.snmp.insert("CurrEstab".into(), 5);
    let mut total = core.clone();
    total.snmp.insert("CurrEstab".into(), 4);
    let stats = Stats { cores: vec![core], total, devices: vec![], kernel: None };
    Page { stats, reports: vec![report], healthy: true, linked: true, dpdk: "none".into() }
}

#[test]
fn every_name_is_on_the_page_with_its_sentence() {
    let text = page().open_metrics();
    let has = |wanted: &str| assert!(text.contains(wanted), "no {wanted:?} in:\n{text}");
    for counter in crate::stats::CORE_COUNTERS {
        has(&format!("# HELP hearken_{} {}\n", counter.name, counter.sentence));
        has(&format!("\nhearken_{}_total{{core=\"0\"}} 0\n", counter.name));
    }
    for reason in DropReason::ALL {
        has(&format!("hearken_drops_total{{core=\"0\",reason=\"{}\"}} 0\n", reason.name()));
    }
    for counter in Mib::ALL.iter().filter(|counter| **counter != Mib::CurrEstab) {
        has(&format!("\nhearken_snmp_{}_total{{core=\"0\"}} 0\n", counter.name()));
    }
    has("\nhearken_snmp_CurrEstab{core=\"0\"} 5\n");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn buckets_add_up() {
    let text = page().open_metrics();
    let line = |le: &str| {
        let start = format!("hearken_latency_seconds_bucket{{le=\"{le}\",core=\"0\",outcome=\"rst\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {start} in:\n{text}"))
    };
    assert_eq!((line("1e-7"), line("2e-7"), line("1.0"), line("+Inf")), ("0", "2", "2", "3"));
    assert!(text.contains("hearken_latency_seconds_count{core=\"0\",outcome=\"rst\"} 3\n"), "{text}");
}
