//! The text format 0.0.4, for whoever does not know OpenMetrics: `promtool check metrics`, Prometheus before 2.5.
//!
//! # Source
//! prometheus.io/docs/instrumenting/exposition_formats.

use std::fmt::Write as _;

use super::{Family, Kind, Labels, Value, classic};

/// The page with these families.
pub(super) fn page(families: &[Family<'_>]) -> String {
    let mut page = String::new();
    for family in families {
        let (name, help) = (family.sample_name(), family.help.replace('\\', "\\\\").replace('\n', "\\n"));
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in &family.series {
            let _ = write_series(&mut page, &name, labels, value);
        }
    }
    page
}

fn write_series(page: &mut String, name: &str, labels: &Labels, value: &Value<'_>) -> std::fmt::Result {
    let labels: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    let labels = labels.join(",");
    match value {
        Value::Number(number) => writeln!(page, "{name}{{{labels}}} {number}"),
        Value::Latency(latency) => {
            let classic = classic(latency);
            for (bound, records) in classic.cumulative() {
                let le = if bound.is_finite() { bound.to_string() } else { "+Inf".into() };
                writeln!(page, "{name}_bucket{{{labels},le=\"{le}\"}} {records}")?;
            }
            writeln!(page, "{name}_sum{{{labels}}} {}", classic.sum)?;
            writeln!(page, "{name}_count{{{labels}}} {}", classic.count)
        }
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_has_its_suffix_in_its_name_and_labels_are_escaped() {
        let labels = [("port", "a\"b\\c\nd".to_owned())];
        let family = Family::numbers("hearken_x", "One\nline.", Kind::Counter, [(labels, 7)]);
        let wanted = "# HELP hearken_x_total One\\nline.\n# TYPE hearken_x_total counter\n\
                      hearken_x_total{port=\"a\\\"b\\\\c\\nd\"} 7\n";
        assert_eq!(page(&[family]), wanted);
    }

    #[test]
    fn buckets_are_added_up() {
        let text = page(&super::super::tests::page().families());
        for line in [
            "hearken_latency_seconds_bucket{core=\"0\",outcome=\"rst\",le=\"0.0000001\"} 0\n",
            "hearken_latency_seconds_bucket{core=\"0\",outcome=\"rst\",le=\"0.0000002\"} 2\n",
            "hearken_latency_seconds_bucket{core=\"0\",outcome=\"rst\",le=\"+Inf\"} 3\n",
            "hearken_latency_seconds_count{core=\"0\",outcome=\"rst\"} 3\n",
        ] {
            assert!(text.contains(line), "no {line} in:\n{text}");
        }
    }
}
