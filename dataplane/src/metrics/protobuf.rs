//! The page as protobuf: `io.prometheus.client.MetricFamily`, one a metric, each with its length in front of it.
//!
//! The messages are those of `metrics.proto` (github.com/prometheus/client_model), proto2, with its field numbers. Left out
//! is what hearken never writes: summaries, untyped metrics, exemplars, floating counts and times.

use prost::{Enumeration, Message};

use super::native::{self, Native};
use super::{Family, Kind, Labels, Value, classic};

/// The page with these families. A counter's name ends in `_total` here.
pub(super) fn page(families: &[Family<'_>]) -> Vec<u8> {
    let mut page = Vec::new();
    for family in families {
        // A Vec takes what it is given.
        let _ = message(family).encode_length_delimited(&mut page);
    }
    page
}

fn message(family: &Family<'_>) -> MetricFamily {
    let kind = match family.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    };
    MetricFamily {
        name: Some(family.sample_name()),
        help: Some(family.help.to_owned()),
        kind: Some(kind.into()),
        metric: family.series.iter().map(|(labels, value)| metric(family.kind, labels, value)).collect(),
    }
}

fn metric(kind: Kind, labels: &Labels, value: &Value<'_>) -> Metric {
    let label = |(name, value): &(&str, String)| LabelPair {
        name: Some((*name).to_owned()),
        value: Some(value.clone()),
    };
    let mut metric = Metric { label: labels.iter().map(label).collect(), ..Default::default() };
    match value {
        Value::Latency(latency) => metric.histogram = Some(Histogram::of(latency)),
        Value::Number(number) => {
            // Exact up to 2^53, as every number in Prometheus.
            let value = Some(*number as f64);
            match kind {
                Kind::Counter => metric.counter = Some(Counter { value }),
                Kind::Gauge | Kind::Histogram => metric.gauge = Some(Gauge { value }),
            }
        }
    }
    metric
}

/// One metric with all its series.
#[derive(Clone, PartialEq, Message)]
pub struct MetricFamily {
    /// A counter's ends in `_total`.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// What it counts.
    #[prost(string, optional, tag = "2")]
    pub help: Option<String>,
    /// What its numbers are; `type` in the definition.
    #[prost(enumeration = "MetricType", optional, tag = "3")]
    pub kind: Option<i32>,
    /// Its series.
    #[prost(message, repeated, tag = "4")]
    pub metric: Vec<Metric>,
}

/// What the numbers of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum MetricType {
    /// Goes up only.
    Counter = 0,
    /// Goes up and down.
    Gauge = 1,
    /// Not written.
    Summary = 2,
    /// Not written.
    Untyped = 3,
    /// A distribution.
    Histogram = 4,
    /// Not written.
    GaugeHistogram = 5,
}

/// One series: its labels, and the one field that is of its family's kind.
#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    /// Its labels.
    #[prost(message, repeated, tag = "1")]
    pub label: Vec<LabelPair>,
    /// Of a gauge.
    #[prost(message, optional, tag = "2")]
    pub gauge: Option<Gauge>,
    /// Of a counter.
    #[prost(message, optional, tag = "3")]
    pub counter: Option<Counter>,
    /// Of a histogram.
    #[prost(message, optional, tag = "7")]
    pub histogram: Option<Histogram>,
}

/// A label.
#[derive(Clone, PartialEq, Message)]
pub struct LabelPair {
    /// Its name.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Its value.
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

/// A number that goes up and down.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Gauge {
    /// The number.
    #[prost(double, optional, tag = "1")]
    pub value: Option<f64>,
}

/// A number that goes up only.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Counter {
    /// The number.
    #[prost(double, optional, tag = "1")]
    pub value: Option<f64>,
}

/// A distribution, with classic buckets and native ones: Prometheus takes the native ones if it knows them.
#[derive(Clone, PartialEq, Message)]
pub struct Histogram {
    /// All records.
    #[prost(uint64, optional, tag = "1")]
    pub sample_count: Option<u64>,
    /// Their sum, in seconds.
    #[prost(double, optional, tag = "2")]
    pub sample_sum: Option<f64>,
    /// The classic buckets.
    #[prost(message, repeated, tag = "3")]
    pub bucket: Vec<Bucket>,
    /// [`native::SCHEMA`].
    #[prost(sint32, optional, tag = "5")]
    pub schema: Option<i32>,
    /// [`native::ZERO_THRESHOLD`].
    #[prost(double, optional, tag = "6")]
    pub zero_threshold: Option<f64>,
    /// Records of at most `zero_threshold`.
    #[prost(uint64, optional, tag = "7")]
    pub zero_count: Option<u64>,
    /// Which native buckets there are.
    #[prost(message, repeated, tag = "12")]
    pub positive_span: Vec<BucketSpan>,
    /// Their records, each as the difference to the bucket before it.
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    pub positive_delta: Vec<i64>,
}

/// A classic bucket.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Bucket {
    /// Records up to the bound.
    #[prost(uint64, optional, tag = "1")]
    pub cumulative_count: Option<u64>,
    /// In seconds, inclusive.
    #[prost(double, optional, tag = "2")]
    pub upper_bound: Option<f64>,
}

/// A run of native buckets.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct BucketSpan {
    /// Of the first span its first bucket's index, of another one the buckets skipped since the one before.
    #[prost(sint32, optional, tag = "1")]
    pub offset: Option<i32>,
    /// Its buckets.
    #[prost(uint32, optional, tag = "2")]
    pub length: Option<u32>,
}

impl Histogram {
    fn of(latency: &hdrhistogram::Histogram<u64>) -> Self {
        let classic = classic(latency);
        let bucket = |(bound, records)| Bucket { cumulative_count: Some(records), upper_bound: Some(bound) };
        let Native { zero_count, spans, deltas } = Native::of(latency);
        Self {
            sample_count: Some(classic.count),
            sample_sum: Some(classic.sum),
            bucket: classic.cumulative().map(bucket).collect(),
            schema: Some(native::SCHEMA),
            zero_threshold: Some(native::ZERO_THRESHOLD),
            zero_count: Some(zero_count),
            positive_span: spans,
            positive_delta: deltas,
        }
    }
}

#[cfg(test)]
mod tests;
