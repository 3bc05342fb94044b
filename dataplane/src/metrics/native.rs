//! Native histograms: buckets whose bounds are powers of 2^(1/32), made from HDR histograms.
//!
//! # Error
//! A value and the bounds of its bucket are within 2.2 % of each other ([`RELATIVE_ERROR`]); so is every quantile that
//! Prometheus computes, to what `hearken latency` prints, whose own values are exact to one part in a thousand. 32
//! buckets an octave: from 100 ns to 10 ms are 532, and of them only those with records go over the wire.
//!
//! # Zero
//! Below a nanosecond, which is the unit of the workers' clocks, nothing is told apart: those records are in the zero bucket.
//!
//! # Source
//! prometheus.io/docs/specs/native_histograms, standard exponential schemas.

use super::NS_PER_S;
use super::protobuf::BucketSpan;

/// Each power of two is divided into 2^SCHEMA buckets.
pub const SCHEMA: i32 = 5;
/// Breadth of a bucket: its upper bound is at most this much above its lower one. 2^(1/32) - 1, rounded up.
pub const RELATIVE_ERROR: f64 = 0.021_9;
/// Upper bound of the zero bucket, in seconds: 2^-30, 0.93 ns.
pub const ZERO_THRESHOLD: f64 = 1.0 / (1u64 << 30) as f64;
/// Empty buckets that are rather sent than skipped: a new span takes more.
const GAP_MAX: i32 = 2;

/// The populated buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Native {
    /// Records of [`ZERO_THRESHOLD`] at most.
    pub zero_count: u64,
    /// Runs of buckets: the first offset is an index, each other one counts the buckets that are skipped.
    pub spans: Vec<BucketSpan>,
    /// The records of each bucket of the spans, as the difference to the bucket before it.
    pub deltas: Vec<i64>,
}

/// The bucket of `seconds`: bucket `i` reaches from 2^((i-1)/32), which is not in it, to 2^(i/32), which is.
pub fn index(seconds: f64) -> i32 {
    (seconds.log2() * f64::from(1 << SCHEMA)).ceil() as i32
}

/// The upper bound of bucket `index`, in seconds.
pub fn upper_bound(index: i32) -> f64 {
    (f64::from(index) / f64::from(1 << SCHEMA)).exp2()
}

impl Native {
    /// The buckets of `histogram`, whose values are nanoseconds.
    pub fn of(histogram: &hdrhistogram::Histogram<u64>) -> Self {
        let mut native = Self::default();
        // The bucket that is being filled.
        let mut open: Option<(i32, u64)> = None;
        // Records of the bucket before it.
        let mut before = 0;
        for step in histogram.iter_recorded() {
            let (seconds, records) = (step.value_iterated_to() as f64 / NS_PER_S, step.count_at_value());
            if seconds <= ZERO_THRESHOLD {
                native.zero_count += records;
                continue;
            }
            let at = index(seconds);
            match &mut open {
                Some((index, count)) if *index == at => *count += records,
                _ => {
                    native.close(open, &mut before);
                    native.skip_to(at, open.map(|(index, _)| index), &mut before);
                    open = Some((at, records));
                }
            }
        }
        native.close(open, &mut before);
        native
    }

    fn close(&mut self, bucket: Option<(i32, u64)>, before: &mut i64) {
        let Some((_, count)) = bucket else { return };
        self.push(i64::try_from(count).unwrap_or(i64::MAX), before);
    }

    fn push(&mut self, count: i64, before: &mut i64) {
        self.deltas.push(count - *before);
        *before = count;
    }

    /// Makes room for bucket `at` in the spans; `last` is the bucket before it.
    fn skip_to(&mut self, at: i32, last: Option<i32>, before: &mut i64) {
        let gap = last.map_or(i32::MAX, |last| at - last - 1);
        match self.spans.last_mut() {
            Some(span) if gap <= GAP_MAX => {
                span.length = span.length.map(|length| length + gap.unsigned_abs() + 1);
                for _ in 0..gap {
                    self.push(0, before);
                }
            }
            span => {
                let offset = if span.is_some() { gap } else { at };
                self.spans.push(BucketSpan { offset: Some(offset), length: Some(1) });
            }
        }
    }
}
