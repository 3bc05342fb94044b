//! Prometheus' page: every number of [`crate::names`] under the same name, and latency histograms per core and outcome.
//!
//! The same families go out in the format that the scrape asks for ([`Format::negotiate`]): OpenMetrics 1.0, the older
//! text, or protobuf, the only one with native histograms ([`native`]). Nothing is in one that is not in the others but those.

use std::fmt;

use listener::drop_reason::DropReason;
use listener::segment::Outcome;
use listener::snmp::Mib;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::control::proto::{CoreStats, PortLink, Stats};
use crate::histogram::CoreReport;
use crate::names::{self, Name};

mod format;
pub mod native;
mod plain;
pub mod protobuf;

pub use format::Format;

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
    /// No link is down.
    pub linked: bool,
    /// The version of DPDK, or that there is none.
    pub dpdk: String,
}

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric with all its series.
struct Family<'a> {
    /// As OpenMetrics has it: a counter's without `_total`.
    name: String,
    help: &'a str,
    kind: Kind,
    series: Vec<(Labels, Value<'a>)>,
}

type Labels = Vec<(&'static str, String)>;

enum Value<'a> {
    Number(u64),
    Latency(&'a hdrhistogram::Histogram<u64>),
}

impl<'a> Family<'a> {
    fn numbers<const N: usize>(
        name: impl Into<String>,
        help: &'a str,
        kind: Kind,
        series: impl IntoIterator<Item = ([(&'static str, String); N], u64)>,
    ) -> Self {
        let series =
            series.into_iter().map(|(labels, number)| (labels.into(), Value::Number(number))).collect();
        Self { name: name.into(), help, kind, series }
    }

    /// What the formats before OpenMetrics call it.
    fn sample_name(&self) -> String {
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{suffix}", self.name)
    }
}

impl Page {
    /// The page in `format`.
    pub fn bytes(self, format: Format) -> Vec<u8> {
        match format {
            Format::OpenMetrics => self.open_metrics().into_bytes(),
            Format::Plain => plain::page(&self.families()).into_bytes(),
            Format::Protobuf => protobuf::page(&self.families()),
        }
    }

    fn open_metrics(self) -> String {
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

    /// Everything on the page.
    fn families(&self) -> Vec<Family<'_>> {
        let mut families = self.counters();
        families.extend(self.snmp());
        families.extend(self.devices());
        families.extend(self.links());
        families.extend(self.kernel());
        families.extend(self.state());
        families.push(self.latency());
        families
    }

    fn counters(&self) -> Vec<Family<'_>> {
        let mut families = Vec::new();
        for (index, counter) in crate::stats::CORE_COUNTERS.iter().enumerate() {
            let series = self.cores().map(|(core, stats)| ([("core", core)], stats.plain()[index].1));
            let name = format!("hearken_{}", counter.name);
            families.push(Family::numbers(name, counter.sentence, Kind::Counter, series));
        }
        let outcomes = Outcome::ALL.map(Outcome::name);
        let series = self.cores().flat_map(|(core, stats)| {
            outcomes.map(|name| {
                ([("core", core.clone()), ("outcome", name.into())], count(&stats.outcomes, name))
            })
        });
        let about = "Frames in that were answered or handled, by outcome.";
        families.push(Family::numbers("hearken_outcomes", about, Kind::Counter, series));
        let series = self.cores().flat_map(|(core, stats)| {
            DropReason::ALL.iter().map(move |reason| {
                let labels = [("core", core.clone()), ("reason", reason.name().to_owned())];
                (labels, count(&stats.drops, reason.name()))
            })
        });
        let about = "Frames in that got no answer, by reason.";
        families.push(Family::numbers("hearken_drops", about, Kind::Counter, series));
        families
    }

    fn snmp(&self) -> impl Iterator<Item = Family<'_>> {
        Mib::ALL.iter().map(|counter| {
            let kind = if *counter == Mib::CurrEstab { Kind::Gauge } else { Kind::Counter };
            let control = [([("core", "control".to_owned())], self.control_snmp(counter.name()))];
            let series =
                self.cores().map(|(core, stats)| ([("core", core)], count(&stats.snmp, counter.name())));
            let name = format!("hearken_snmp_{}", counter.name());
            Family::numbers(name, counter.sentence(), kind, series.chain(control))
        })
    }

    fn devices(&self) -> impl Iterator<Item = Family<'_>> {
        let devices = || self.stats.devices.iter();
        let own = names::DEVICE_COUNTERS.iter().map(move |Name { name, sentence, .. }| {
            let series = devices()
                .filter_map(|device| Some(([("port", device.name.clone())], *device.counters.get(*name)?)));
            Family::numbers(format!("hearken_device_{name}"), sentence, Kind::Counter, series)
        });
        let xstats = devices().flat_map(|device| {
            let own = device.counters.iter().filter(|(name, _)| names::device_sentence(name).is_none());
            own.map(|(name, count)| ([("port", device.name.clone()), ("xstat", name.clone())], *count))
        });
        let about = "What a device's driver counts beside, by its own names.";
        own.chain([Family::numbers("hearken_device_xstat", about, Kind::Gauge, xstats)])
    }

    fn links(&self) -> [Family<'_>; 2] {
        let family = |name: &'static Name, kind, of: fn(&PortLink) -> u64| {
            let links =
                self.stats.devices.iter().filter_map(|device| Some((&device.name, device.link.as_ref()?)));
            let series = links.map(|(port, link)| ([("port", port.clone())], of(link)));
            Family::numbers(format!("hearken_link_{}", name.name), name.sentence, kind, series)
        };
        let [up, changes] = &names::LINK;
        [
            family(up, Kind::Gauge, |link| u64::from(link.up)),
            family(changes, Kind::Counter, |link| link.changes),
        ]
    }

    /// What the programs on the kernel's path counted, where there are any.
    fn kernel(&self) -> Vec<Family<'_>> {
        let Some(kernel) = &self.stats.kernel else { return Vec::new() };
        let one = |Name { name, sentence, .. }: &'static Name| {
            let series = [([], count(&kernel.counters, name))];
            Family::numbers(format!("hearken_kernel_{name}"), sentence, Kind::Counter, series)
        };
        let mut families: Vec<_> = names::KERNEL_COUNTERS.iter().map(one).collect();
        let last = kernel.rtt_below_ms.len().saturating_sub(1);
        let series = kernel.rtt_below_ms.iter().enumerate().map(|(bucket, count)| {
            let below = if bucket == last { "more".to_owned() } else { (1u64 << bucket).to_string() };
            ([("below_ms", below)], *count)
        });
        let about = "Round trips from SYN-ACK to verified ACK of clients with timestamps, each in the first bucket that it fits.";
        families.push(Family::numbers("hearken_handover_rtt", about, Kind::Counter, series));
        families
    }

    fn state(&self) -> [Family<'_>; 3] {
        let late = self.cores().map(|(core, stats)| ([("core", core)], u64::from(stats.late)));
        let about = "1 if the core did not answer in time: its counters are read as they stand, its latencies are older.";
        let late = Family::numbers("hearken_late", about, Kind::Gauge, late);
        let checks = [("workers", self.healthy), ("links", self.linked)];
        let healthy = checks.map(|(check, is)| ([("check", check.to_owned())], u64::from(is)));
        let about =
            "1 if every worker makes progress (workers), and if the links of all ports are up (links).";
        let healthy = Family::numbers("hearken_healthy", about, Kind::Gauge, healthy);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let build = [([("version", version), ("dpdk", self.dpdk.clone())], 1)];
        let about = "The program that runs; always 1.";
        [late, healthy, Family::numbers("hearken_build_info", about, Kind::Gauge, build)]
    }

    fn latency(&self) -> Family<'_> {
        let help = "To the end of tx_burst, from the end of rx_burst, or from the device's stamp where rx_timestamps is set.";
        let series = self.reports.iter().flat_map(|report| {
            Outcome::ALL.map(|outcome| {
                let labels =
                    vec![("core", report.core.0.to_string()), ("outcome", outcome.name().to_owned())];
                (labels, Value::Latency(report.latency.of(outcome)))
            })
        });
        Family {
            name: "hearken_latency_seconds".into(),
            help,
            kind: Kind::Histogram,
            series: series.collect(),
        }
    }
}

impl Collector for Page {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.families() {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = out.encode_descriptor(&family.name, family.help, None, kind)?;
            for (labels, value) in &family.series {
                let mut series = metric.encode_family(labels)?;
                match (value, family.kind) {
                    (Value::Latency(latency), _) => {
                        let Classic { sum, count, buckets } = classic(latency);
                        series.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                    }
                    (Value::Number(number), Kind::Counter) => {
                        series.encode_counter::<NoLabelSet, u64, u64>(number, None)?;
                    }
                    (Value::Number(number), _) => series.encode_gauge(number)?,
                }
            }
        }
        Ok(())
    }
}

fn count(map: &std::collections::BTreeMap<String, u64>, name: &str) -> u64 {
    map.get(name).copied().unwrap_or_default()
}

/// A histogram with [`BOUNDS_NS`].
struct Classic {
    /// In seconds.
    sum: f64,
    count: u64,
    /// The records of each bucket, not added up, with its upper bound in seconds; the last is infinity.
    buckets: Vec<(f64, u64)>,
}

impl Classic {
    /// The bounds with the records up to each.
    fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        self.buckets.iter().scan(0, |below, (bound, records)| {
            *below += records;
            Some((*bound, *below))
        })
    }
}

fn classic(histogram: &hdrhistogram::Histogram<u64>) -> Classic {
    let mut buckets: Vec<(f64, u64)> = BOUNDS_NS.iter().map(|ns| (*ns as f64 / NS_PER_S, 0)).collect();
    buckets.push((f64::INFINITY, 0));
    let mut sum = 0.0;
    for step in histogram.iter_recorded() {
        let (ns, records) = (step.value_iterated_to(), step.count_at_value());
        let at = BOUNDS_NS.partition_point(|bound| *bound < ns);
        buckets[at].1 += records;
        sum += ns as f64 / NS_PER_S * records as f64;
    }
    Classic { sum, count: histogram.len(), buckets }
}

#[cfg(test)]
mod tests;
