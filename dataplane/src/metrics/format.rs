//! Which format a scrape wants: its `Accept` (RFC 9110 §12.5.1), as far as Prometheus and people with curl use it.

/// The formats of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0: what is sent to whoever asks for nothing in particular.
    OpenMetrics,
    /// The text format 0.0.4 of before.
    Plain,
    /// `io.prometheus.client.MetricFamily`, each with its length in front of it.
    Protobuf,
}

impl Format {
    /// All of them, each at its own number.
    pub const ALL: [Self; 3] = [Self::OpenMetrics, Self::Plain, Self::Protobuf];

    /// What the page is served as.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// The format for `accept`: the one of the greatest quality, the first of several with the same. Who accepts nothing
    /// that there is gets OpenMetrics: a page is worth more than a refusal.
    pub fn negotiate(accept: &str) -> Self {
        let mut best = (Self::OpenMetrics, 0.0);
        for range in accept.split(',') {
            let Some((format, quality)) = Self::of_range(range) else { continue };
            if quality > best.1 {
                best = (format, quality);
            }
        }
        best.0
    }

    /// What one media range asks for, and how much.
    fn of_range(range: &str) -> Option<(Self, f32)> {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next()?.to_ascii_lowercase();
        let parameters: Vec<(String, &str)> = parts
            .filter_map(|part| part.split_once('='))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"')))
            .collect();
        let parameter =
            |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        let is = |name: &str, wanted: &[&str]| {
            parameter(name).is_none_or(|value| wanted.iter().any(|known| value.eq_ignore_ascii_case(known)))
        };
        let format = match kind.as_str() {
            // Both must be said: a protobuf of something else is no page.
            "application/vnd.google.protobuf"
                if parameter("proto") == Some("io.prometheus.client.MetricFamily")
                    && parameter("encoding") == Some("delimited") =>
            {
                Self::Protobuf
            }
            // 0.0.1 is what Prometheus called it before it was a standard.
            "application/openmetrics-text" if is("version", &["1.0.0", "0.0.1"]) => Self::OpenMetrics,
            "*/*" | "application/*" => Self::OpenMetrics,
            "text/plain" | "text/*" if is("version", &["0.0.4"]) => Self::Plain,
            _ => return None,
        };
        let quality = parameter("q").map_or(Some(1.0), |q| q.parse().ok())?;
        Some((format, quality))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_gets_what_it_asked_for() {
        let protobuf =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        // Prometheus 2.42 with and without native histograms, and 3.
        let text = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                    text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let native =
            format!("{protobuf},application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5,*/*;q=0.1");
        let third = format!(
            "{protobuf};q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,*/*;q=0.1"
        );
        for (accept, format) in [
            (text, Format::OpenMetrics),
            (&native, Format::Protobuf),
            (&third, Format::Protobuf),
            ("", Format::OpenMetrics),
            ("*/*", Format::OpenMetrics),
            ("text/html, application/xhtml+xml, */*;q=0.8", Format::OpenMetrics),
            ("text/plain", Format::Plain),
            ("Text/Plain; Version=\"0.0.4\"", Format::Plain),
            ("text/plain;version=0.0.3", Format::OpenMetrics),
            ("application/vnd.google.protobuf", Format::OpenMetrics),
            (
                "text/plain;q=0.5,application/vnd.google.protobuf;proto=other;encoding=delimited",
                Format::Plain,
            ),
            (&format!("text/plain;q=0.9, {protobuf};q=0.8"), Format::Plain),
            (&format!("{protobuf};q=0"), Format::OpenMetrics),
            (&format!("{protobuf};q=high, text/plain;q=0.1"), Format::Plain),
            (",,;;q=,", Format::OpenMetrics),
        ] {
            assert_eq!(Format::negotiate(accept), format, "{accept}");
        }
    }
}
