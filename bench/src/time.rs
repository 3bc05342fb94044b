//! Spans of time on the command line.

/// Seconds from `10`, `0.5`, or with a unit as `hearken run --for` has it: `500ms`, `10s`, `2m`, `1h`.
///
/// # Errors
/// It is no such span.
pub fn seconds(text: &str) -> Result<f64, String> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let per_unit = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("write seconds, or a number with its unit, such as 500ms, 10s, 2m or 1h".into()),
    };
    let count: f64 = count.parse().map_err(|_| format!("\"{count}\" is no number"))?;
    Some(count * per_unit)
        .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
        .ok_or_else(|| format!("\"{text}\" is no span of time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_a_unit() {
        assert_eq!(
            ["10", "0.5", "10s", "500ms", "2m", "1h"].map(seconds),
            [10.0, 0.5, 10.0, 0.5, 120.0, 3600.0].map(Ok)
        );
        for bad in ["", "s", "-1", "1 s", "1d", "1e999", "x"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
