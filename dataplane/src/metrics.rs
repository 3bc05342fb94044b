//! Prometheus' page: every number of [`crate::names`] under the same name, and latency histograms per core and outcome.
//!
//! The text is OpenMetrics 1.0, which has classic buckets only; Prometheus makes native ones of them if the scrape says
//! `convert_classic_histograms_to_nhcb: true`.

use std::fmt;

use listener::drop_reason::DropReason;
use listener::segment::Outcome;
use listener::snmp::Mib;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::control::proto::{CoreStats, Stats};
use crate::histogram::CoreReport;
use crate::names::{self, Name};

/// What the page is served as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the latency buckets, in nanoseconds: 1, 2, 5 a decade from 100 ns to 1 s.
const BOUNDS_NS: [u64; 22] = [
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];
const NS_PER_S: f64 = 1e9;

/// What one page shows.
#[derive(Clone, Debug)]
pub struct Page {
    /// Counters of cores and devices.
    pub stats: Stats,
    /// Latencies of the cores.
    pub reports: Vec<CoreReport>,
    /// Every worker makes progress.
    pub healthy: bool,
    /// The version of DPDK, or that there is none.
    pub dpdk: String,
}

impl Page {
    /// The page as text.
    pub fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut page, &registry);
        page
    }

    /// The cores by their label, and what the control thread counted beside them.
    fn cores(&self) -> impl Iterator<Item = (String, &CoreStats)> {
        self.stats.cores.iter().filter_map(|core| Some((core.core?.to_string(), core)))
    }

    /// What the control thread counted: the total without the cores.
    fn control_snmp(&self, name: &str) -> u64 {
        let of = |core: &CoreStats| core.snmp.get(name).copied().unwrap_or_default();
        self.stats.cores.iter().fold(of(&self.stats.total), |rest, core| rest.wrapping_sub(of(core)))
    }

    fn plain(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (index, counter) in crate::stats::CORE_COUNTERS.iter().enumerate() {
            let series = self.cores().map(|(core, stats)| ([("core", core)], stats.plain()[index].1));
            family(out, &format!("hearken_{}", counter.name), counter.sentence, MetricType::Counter, series)?;
        }
        let outcomes = Outcome::ALL.map(Outcome::name);
        let series = self.cores().flat_map(|(core, stats)| {
            outcomes.map(|name| {
                ([("core", core.clone()), ("outcome", name.into())], count(&stats.outcomes, name))
            })
        });
        let about = "Frames in that were answered or handled, by outcome.";
        family(out, "hearken_outcomes", about, MetricType::Counter, series)?;
        let series = self.cores().flat_map(|(core, stats)| {
            DropReason::ALL.iter().map(move |reason| {
                let labels = [("core", core.clone()), ("reason", reason.name().to_owned())];
                (labels, count(&stats.drops, reason.name()))
            })
        });
        family(out, "hearken_drops", "Frames in that got no answer, by reason.", MetricType::Counter, series)
    }

    fn snmp(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for counter in Mib::ALL {
            let kind = if *counter == Mib::CurrEstab { MetricType::Gauge } else { MetricType::Counter };
            let control = [([("core", "control".to_owned())], self.control_snmp(counter.name()))];
            let series =
                self.cores().map(|(core, stats)| ([("core", core)], count(&stats.snmp, counter.name())));
            let name = format!("hearken_snmp_{}", counter.name());
            family(out, &name, counter.sentence(), kind, series.chain(control))?;
        }
        Ok(())
    }

    fn devices(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let devices = || self.stats.devices.iter();
        for Name { name, sentence, .. } in names::DEVICE_COUNTERS {
            let series = devices()
                .filter_map(|device| Some(([("port", device.name.clone())], *device.counters.get(name)?)));
            family(out, &format!("hearken_device_{name}"), sentence, MetricType::Counter, series)?;
        }
        let series = devices().flat_map(|device| {
            let own = device.counters.iter().filter(|(name, _)| names::device_sentence(name).is_none());
            own.map(|(name, count)| ([("port", device.name.clone()), ("xstat", name.clone())], *count))
        });
        let about = "What a device's driver counts beside, by its own names.";
        family(out, "hearken_device_xstat", about, MetricType::Gauge, series)
    }

    fn state(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let series = self.cores().map(|(core, stats)| ([("core", core)], u64::from(stats.late)));
        let about = "1 if the core did not hand its numbers over in time, so that they are older.";
        family(out, "hearken_late", about, MetricType::Gauge, series)?;
        let healthy = [([("check", "workers".to_owned())], u64::from(self.healthy))];
        family(out, "hearken_healthy", "1 if every worker makes progress.", MetricType::Gauge, healthy)?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let build = [([("version", version), ("dpdk", self.dpdk.clone())], 1)];
        family(out, "hearken_build_info", "The program that runs; always 1.", MetricType::Gauge, build)
    }

    fn latency(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let about = "From the end of rx_burst to the end of tx_burst, by the worker's clock.";
        let mut encoder =
            out.encode_descriptor("hearken_latency_seconds", about, None, MetricType::Histogram)?;
        for report in &self.reports {
            for outcome in Outcome::ALL {
                let labels = [("core", report.core.0.to_string()), ("outcome", outcome.name().to_owned())];
                let (sum, count, buckets) = buckets(report.latency.of(outcome));
                encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

impl Collector for Page {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        self.plain(&mut out)?;
        self.snmp(&mut out)?;
        self.devices(&mut out)?;
        self.state(&mut out)?;
        self.latency(&mut out)
    }
}

fn count(map: &std::collections::BTreeMap<String, u64>, name: &str) -> u64 {
    map.get(name).copied().unwrap_or_default()
}

/// One metric with all its series.
fn family<L: EncodeLabelSet>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    series: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut encoder = out.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in series {
        let mut encoder = encoder.encode_family(&labels)?;
        match kind {
            MetricType::Counter => encoder.encode_counter::<NoLabelSet, u64, u64>(&value, None)?,
            _ => encoder.encode_gauge(&value)?,
        }
    }
    Ok(())
}

/// Sum in seconds, count, and the records of each bucket with its upper bound in seconds.
fn buckets(histogram: &hdrhistogram::Histogram<u64>) -> (f64, u64, Vec<(f64, u64)>) {
    let mut buckets: Vec<(f64, u64)> = BOUNDS_NS.iter().map(|ns| (*ns as f64 / NS_PER_S, 0)).collect();
    buckets.push((f64::INFINITY, 0));
    let mut sum = 0.0;
    for step in histogram.iter_recorded() {
        let (ns, records) = (step.value_iterated_to(), step.count_at_value());
        let at = BOUNDS_NS.partition_point(|bound| *bound < ns);
        buckets[at].1 += records;
        sum += ns as f64 / NS_PER_S * records as f64;
    }
    (sum, histogram.len(), buckets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use listener::types::CoreId;

    fn page() -> Page {
        let mut latency = crate::histogram::Latency::new();
        latency.record(Outcome::Rst, 150, 2);
        latency.record(Outcome::Rst, 5_000_000_000, 1);
        let counters = Default::default();
        let report = CoreReport { core: CoreId(0), counters, latency, fresh: true };
        let mut core = CoreStats { core: Some(0), ..Default::default() };
        core.snmp.insert("CurrEstab".into(), 5);
        let mut total = core.clone();
        total.snmp.insert("CurrEstab".into(), 4);
        let stats = Stats { cores: vec![core], total, devices: vec![] };
        Page { stats, reports: vec![report], healthy: true, dpdk: "none".into() }
    }

    #[test]
    fn every_name_is_on_the_page_with_its_sentence() {
        let text = page().text();
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
        let text = page().text();
        let line = |le: &str| {
            let start = format!("hearken_latency_seconds_bucket{{le=\"{le}\",core=\"0\",outcome=\"rst\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.unwrap_or_else(|| panic!("no {start} in:\n{text}"))
        };
        assert_eq!((line("1e-7"), line("2e-7"), line("1.0"), line("+Inf")), ("0", "2", "2", "3"));
        assert!(text.contains("hearken_latency_seconds_count{core=\"0\",outcome=\"rst\"} 3\n"), "{text}");
    }
}
