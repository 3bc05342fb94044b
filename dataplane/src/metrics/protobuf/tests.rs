use std::collections::{BTreeMap, BTreeSet};

use hdrhistogram::Histogram as Hdr;
use proptest::prelude::*;

use super::*;
use crate::histogram::LATENCY_NS_MAX;
use crate::metrics::native::{RELATIVE_ERROR, ZERO_THRESHOLD, index, upper_bound};

/// The families of a page, as a scraper reads them.
fn decode(mut page: &[u8]) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    while !page.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut page).expect("a family"));
    }
    families
}

/// The records of each native bucket by its index, read as the specification says.
fn native_buckets(histogram: &Histogram) -> Vec<(i32, u64)> {
    let (mut buckets, mut at, mut count) = (Vec::new(), 0, 0);
    let mut deltas = histogram.positive_delta.iter();
    for (number, span) in histogram.positive_span.iter().enumerate() {
        let offset = span.offset.expect("an offset");
        assert!(number == 0 || offset > 0, "spans neither touch nor overlap: {span:?}");
        at += offset;
        for _ in 0..span.length.expect("a length") {
            count += deltas.next().expect("a delta for each bucket");
            buckets.push((at, u64::try_from(count).expect("no bucket is negative")));
            at += 1;
        }
    }
    assert_eq!(deltas.next(), None, "a bucket for each delta");
    buckets
}

/// The bucket in which Prometheus looks for the quantile `q`, as its bounds in seconds.
fn quantile(histogram: &Histogram, q: f64) -> (f64, f64) {
    let rank = q * histogram.sample_count.expect("a count") as f64;
    let mut below = histogram.zero_count.expect("a count");
    if below as f64 >= rank && below > 0 {
        return (0.0, histogram.zero_threshold.expect("a threshold"));
    }
    for (index, records) in native_buckets(histogram) {
        below += records;
        if below as f64 >= rank && records > 0 {
            return (upper_bound(index - 1), upper_bound(index));
        }
    }
    panic!("no bucket holds the quantile {q} of {histogram:?}");
}

/// Latencies of every size: a few of their own, and octaves with many.
fn latencies() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let any = (0..37u32).prop_flat_map(|octave| 0..1u64 << octave);
    let value = prop_oneof![3 => any, 1 => 900..3_000u64, 1 => Just(0), 1 => Just(LATENCY_NS_MAX)];
    prop::collection::vec((value, 1..1_000u64), 1..200)
}

proptest! {
    /// Nothing is lost on the way, and every quantile's bucket holds what HDR says the quantile is.
    #[test]
    fn quantiles_are_those_of_the_hdr_histogram(values in latencies(), q in 0.0001..1.0f64) {
        let mut hdr = Hdr::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("good bounds");
        for (ns, frames) in values {
            hdr.saturating_record_n(ns, frames);
        }
        let sent = Histogram::of(&hdr).encode_to_vec();
        let histogram = Histogram::decode(&sent[..]).expect("a histogram");
        let buckets = native_buckets(&histogram);
        let records = histogram.zero_count.unwrap_or_default() + buckets.iter().map(|(_, records)| records).sum::<u64>();
        prop_assert_eq!(records, hdr.len());
        prop_assert_eq!(histogram.sample_count, Some(hdr.len()));
        for q in [q, 0.5, 0.9, 0.99, 0.999] {
            let wanted = hdr.value_at_quantile(q) as f64 / 1e9;
            let (lower, upper) = quantile(&histogram, q);
            prop_assert!(lower <= wanted && wanted <= upper * 1.000_000_1, "{q}: {wanted} in {lower}..{upper}");
            // So whatever Prometheus interpolates between the bounds is within the error of it.
            if wanted > ZERO_THRESHOLD {
                prop_assert!(upper / lower <= 1.0 + RELATIVE_ERROR, "{}", upper / lower);
            }
        }
    }

    /// A bucket holds its upper bound and not its lower one.
    #[test]
    fn values_lie_within_the_bounds_of_their_bucket(ns in 1..=LATENCY_NS_MAX) {
        let seconds = ns as f64 / 1e9;
        let at = index(seconds);
        prop_assert!(upper_bound(at - 1) < seconds && seconds <= upper_bound(at) * (1.0 + 1e-12));
    }
}

#[test]
fn powers_of_two_are_bounds() {
    for power in -30..6 {
        let seconds = f64::from(power).exp2();
        assert_eq!((index(seconds), upper_bound(power * 32)), (power * 32, seconds));
    }
    const { assert!(ZERO_THRESHOLD < 1e-9, "a nanosecond is no zero") };
}

#[test]
fn near_buckets_share_a_span_and_far_ones_do_not() {
    let mut hdr = Hdr::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("good bounds");
    hdr.record_n(0, 7).expect("in bounds");
    // Buckets of 2.2 %: one, none, one; then far away.
    for (ns, frames) in [(1000, 5), (1044, 2), (1_000_000, 1)] {
        hdr.record_n(ns, frames).expect("in bounds");
    }
    let native = Native::of(&hdr);
    let far = index(0.001) - index(1044e-9) - 1;
    let span = |offset, length| BucketSpan { offset: Some(offset), length: Some(length) };
    assert_eq!(native.spans, [span(index(1e-6), 3), span(far, 1)]);
    assert_eq!((native.deltas, native.zero_count), (vec![5, -5, 2, -1], 7));
}

#[test]
fn an_empty_histogram_is_a_native_one_too() {
    let hdr = Hdr::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("good bounds");
    let histogram = Histogram::of(&hdr);
    assert_eq!((histogram.sample_count, histogram.positive_span.len()), (Some(0), 0));
    assert!(histogram.zero_threshold > Some(0.0), "by which Prometheus tells it from a classic one");
}

#[test]
fn every_series_of_the_text_is_in_the_protobuf_with_its_number() {
    let page = crate::metrics::tests::page();
    let families = decode(&page.clone().bytes(crate::metrics::Format::Protobuf));
    let mut sent = BTreeMap::new();
    let labels_of = |metric: &Metric| -> BTreeSet<String> {
        let label = |label: &LabelPair| format!("{}=\"{}\"", label.name(), label.value());
        metric.label.iter().map(label).collect()
    };
    for family in &families {
        assert!(!family.help().is_empty(), "{}", family.name());
        for metric in &family.metric {
            let (name, labels) = (family.name(), labels_of(metric));
            match family.kind() {
                MetricType::Counter => {
                    sent.insert((name.to_owned(), labels), metric.counter.expect("a counter").value());
                }
                MetricType::Gauge => {
                    sent.insert((name.to_owned(), labels), metric.gauge.expect("a gauge").value());
                }
                _ => {
                    let histogram = metric.histogram.as_ref().expect("a histogram");
                    sent.insert((format!("{name}_sum"), labels.clone()), histogram.sample_sum());
                    let count = histogram.sample_count() as f64;
                    sent.insert((format!("{name}_count"), labels.clone()), count);
                    for bucket in &histogram.bucket {
                        let bound = bucket.upper_bound();
                        let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".into() };
                        let mut labels = labels.clone();
                        labels.insert(format!("le=\"{bound}\""));
                        let records = bucket.cumulative_count() as f64;
                        sent.insert((format!("{name}_bucket"), labels), records);
                    }
                }
            }
        }
    }
    let text = String::from_utf8(page.bytes(crate::metrics::Format::Plain)).expect("UTF-8");
    let mut lines = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.trim_end_matches('}').split_once('{').expect("labels");
        let labels: BTreeSet<String> = labels.split(',').map(str::to_owned).collect();
        let value: f64 = value.parse().expect("a number");
        assert_eq!(sent.get(&(name.to_owned(), labels)), Some(&value), "{line}");
        lines += 1;
    }
    assert_eq!(lines, sent.len());
}
