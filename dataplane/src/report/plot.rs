//! Latency by percentile as a picture: the tail is what matters, so the percentiles are spread by their nines and the
//! times are logarithmic.

use hdrhistogram::Histogram;
use plotters::prelude::*;

/// One line of the picture.
#[derive(Clone, Debug)]
pub struct Curve {
    /// For the legend.
    pub label: String,
    /// Nanoseconds.
    pub histogram: Histogram<u64>,
}

/// Points for each halving of the distance to 100 %.
const POINTS_PER_HALF: u32 = 20;
/// Colours that are told apart on paper too: dark ones, and each line is dashed differently (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
];
/// Dash and gap, in pixels; the first is a solid line.
const DASHES: [(u32, u32); 4] = [(1, 0), (10, 4), (3, 3), (16, 8)];

/// The picture as SVG, with what was measured above, and how much, where and when below that.
///
/// # Errors
/// What the drawing library says.
pub fn svg(title: &str, subtitle: &str, curves: &[Curve]) -> Result<String, String> {
    let mut text = String::new();
    draw([title, subtitle], curves, SVGBackend::with_string(&mut text, (960, 600)).into_drawing_area())
        .map_err(|error| format!("cannot draw: {error}"))?;
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(titles: [&str; 2], curves: &[Curve], area: Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let area = area.titled(titles[0], ("sans-serif", 20))?.titled(titles[1], ("sans-serif", 16))?;
    let filled = || curves.iter().filter(|curve| !curve.histogram.is_empty());
    let most = filled().map(|curve| curve.histogram.len()).max().unwrap_or(1);
    // A percentile beyond one frame in all says nothing.
    let nines = (most as f64).max(100.0);
    let least_ns = filled().map(|curve| curve.histogram.min().max(1)).min().unwrap_or(100) as f64;
    let most_ns = filled().map(|curve| curve.histogram.max()).max().unwrap_or(1000) as f64;
    let (low, high) = (10f64.powf(least_ns.log10().floor()), 10f64.powf((most_ns * 1.05).log10().ceil()));

    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .margin_right(48)
        .x_label_area_size(52)
        .y_label_area_size(84)
        .build_cartesian_2d((1f64..nines).log_scale(), (low..high.max(low * 10.0)).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percentile of frames")
        .y_desc("latency")
        .x_label_formatter(&|x| percentile(*x))
        .y_label_formatter(&|ns| time(*ns))
        .axis_desc_style(("sans-serif", 18))
        .label_style(("sans-serif", 16))
        .bold_line_style(BLACK.mix(0.25))
        .light_line_style(BLACK.mix(0.08))
        .draw()?;
    for (at, curve) in filled().enumerate() {
        let style = COLOURS[at % COLOURS.len()].stroke_width(2);
        let (dash, gap) = DASHES[at % DASHES.len()];
        let points = points(&curve.histogram);
        let series = chart.draw_series(DashedLineSeries::new(points, dash, gap, style))?;
        series.label(curve.label.as_str()).legend(move |at| {
            let dash = |number| PathElement::new(legend_dash(number, dash, gap), style);
            EmptyElement::at(at) + dash(0) + dash(1) + dash(2) + dash(3) + dash(4) + dash(5)
        });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .legend_area_size(40)
        .margin(12)
        .label_font(("sans-serif", 16))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.4))
        .draw()?;
    area.present()?;
    Ok(())
}

/// Dash `number` of a line in the legend, from the line's start; without extent beyond its end.
fn legend_dash(number: i32, dash: u32, gap: u32) -> [(i32, i32); 2] {
    const LENGTH: i32 = 34;
    let (dash, gap) = if gap == 0 { (LENGTH, 0) } else { (dash as i32, gap as i32) };
    let start = (number * (dash + gap)).min(LENGTH);
    [(start, 0), ((start + dash).min(LENGTH), 0)]
}

/// `1 / (1 - quantile)` and nanoseconds.
fn points(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let last = histogram.len() as f64;
    let steps = histogram.iter_quantiles(POINTS_PER_HALF);
    let mut points: Vec<(f64, f64)> = steps
        .map(|step| {
            let beyond = 1.0 - step.quantile_iterated_to();
            (
                if beyond > 0.0 { (1.0 / beyond).min(last) } else { last },
                step.value_iterated_to().max(1) as f64,
            )
        })
        .collect();
    points.dedup();
    points
}

/// `90`, `99`, `99.9`: the percentile that stands at `x = 1 / (1 - quantile)`.
fn percentile(x: f64) -> String {
    let digits = (x.log10().round() as usize).saturating_sub(2);
    format!("{:.digits$} %", 100.0 * (1.0 - 1.0 / x))
}

/// `250 ns`, `10 us`, `1 ms`, `2 s`.
fn time(ns: f64) -> String {
    let (unit, per_unit) = match ns {
        ns if ns < 1e3 => ("ns", 1.0),
        ns if ns < 1e6 => ("us", 1e3),
        ns if ns < 1e9 => ("ms", 1e6),
        _ => ("s", 1e9),
    };
    format!("{} {unit}", ns / per_unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_labelled_by_nines_and_units() {
        assert_eq!(
            [1.0, 10.0, 100.0, 1e3, 1e4].map(percentile),
            ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]
        );
        assert_eq!([100.0, 1e3, 1e6, 2e9].map(time), ["100 ns", "1 us", "1 ms", "2 s"]);
    }

    #[test]
    fn every_line_with_records_is_in_the_picture() {
        let empty = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("good bounds");
        let mut full = empty.clone();
        for ns in 1..10_000 {
            full.record(ns * 7).expect("within bounds");
        }
        let curve = |label: &str, histogram: &Histogram<u64>| Curve {
            label: label.into(),
            histogram: histogram.clone(),
        };
        let text = svg("a title", "9,999 frames", &[curve("core 0", &full), curve("core 1", &empty)])
            .expect("a picture");
        for wanted in ["<svg", "a title", "9,999 frames", "core 0", "99.9 %", "10 us"] {
            assert!(text.contains(wanted), "no {wanted}");
        }
        assert!(!text.contains("core 1"));
        assert!(svg("nothing", "0 frames", &[curve("core 1", &empty)]).is_ok());
    }
}
