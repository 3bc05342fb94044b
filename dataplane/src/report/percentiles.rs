//! A histogram in the percentile format of HdrHistogram's tools, which its plotter reads
//! (`HistogramLogProcessor`, `outputPercentileDistribution`; hdrhistogram.github.io/HdrHistogram/plotFiles.html).

use std::fmt::Write as _;

use hdrhistogram::Histogram;

/// Lines for each halving of the distance to 100 %, as many as HdrHistogram's own tools print.
const TICKS_PER_HALF: u32 = 5;

/// `histogram` as text, values in nanoseconds.
pub fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    // Writing to a String cannot fail.
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        count += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let _ = write!(text, "{:>12.3} {quantile:>14.12} {count:>10}", step.value_iterated_to() as f64);
        if quantile < 1.0 {
            let _ = write!(text, " {:>14.2}", 1.0 / (1.0 - quantile));
        }
        text.push('\n');
    }
    let max = if histogram.is_empty() { 0 } else { histogram.max() };
    let _ = writeln!(
        text,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]\n#[Max     = {:>12.3}, Total count    = {:>12}]\n\
         #[Buckets = {:>12}, SubBuckets     = {:>12}]",
        histogram.mean(),
        histogram.stdev(),
        max as f64,
        histogram.len(),
        histogram.buckets(),
        2 * 10u32.pow(histogram.sigfig().into()).next_power_of_two()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_java_tool() {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("good bounds");
        for ns in 1..=1000 {
            histogram.record(ns).expect("within bounds");
        }
        let text = hgrm(&histogram);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[1], "");
        assert_eq!(lines[2], "       1.000 0.000000000000          1           1.00");
        assert!(lines.contains(&"     500.000 0.500000000000        500           2.00"), "{text}");
        let end = lines.iter().position(|line| line.starts_with("#[Mean")).expect("a footer");
        assert_eq!(lines[end - 1], "    1000.000 1.000000000000       1000");
        assert_eq!(lines[end], "#[Mean    =      500.500, StdDeviation   =      288.675]");
        assert_eq!(lines[end + 1], "#[Max     =     1000.000, Total count    =         1000]");
        assert_eq!(lines[end + 2], "#[Buckets =           26, SubBuckets     =         2048]");
    }

    #[test]
    fn nothing_recorded_is_no_division_by_zero() {
        let histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("good bounds");
        assert!(hgrm(&histogram).contains("Total count    =            0]"));
    }
}
