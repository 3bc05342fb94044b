//! The pictures of a page, as SVG.

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{CoreReport, SampleReport, StreamReport, rate};

const SIZE: (u32, u32) = (960, 380);
const GRID: RGBColor = RGBColor(226, 230, 235);
const INK: RGBColor = RGBColor(91, 102, 114);
/// Told apart also by those who see fewer colours, and in print.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(120, 94, 0),
];

/// A line with its name.
pub type Line = (String, Vec<(f64, f64)>);

fn drawn(
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
    }
    // Sized by the page, so that it also fits on paper.
    let sized = format!("<svg width=\"{}\" height=\"{}\"", SIZE.0, SIZE.1);
    let svg = svg.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>").unwrap_or(&svg);
    Ok(svg.replacen(&sized, "<svg role=\"img\"", 1))
}

fn label<X, Y>(x: X, y: Y) -> impl Fn((i32, i32)) -> PathElement<(i32, i32)> + 'static
where
    X: Into<RGBColor>,
    Y: Into<u32>,
{
    let (colour, width) = (x.into(), y.into());
    move |(x, y)| PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(width))
}

/// Sent and answered a second, over time.
///
/// # Errors
/// What the drawing library says.
pub fn rates(samples: &[SampleReport]) -> anyhow::Result<String> {
    let of = |name: &str, value: fn(&SampleReport) -> f64| -> Line {
        (name.to_owned(), samples.iter().map(|sample| (sample.at, value(sample))).collect())
    };
    let lines = [
        of("SYNs sent", |sample| sample.sent),
        of("SYN-ACKs", |sample| sample.synack),
        of("RSTs", |sample| sample.rst),
        of("wrong or again", |sample| sample.wrong),
    ];
    let shown: Vec<&Line> =
        lines.iter().filter(|(_, points)| points.iter().any(|(_, value)| *value > 0.0)).collect();
    let end = samples.last().map_or(1.0, |sample| sample.at);
    let top = shown.iter().flat_map(|(_, points)| points).map(|(_, value)| *value).fold(1.0, f64::max);
    drawn(|area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(20)
            .x_label_area_size(38)
            .y_label_area_size(78)
            .build_cartesian_2d(0.0..end, 0.0..top * 1.12)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(("sans-serif", 14).into_font().color(&INK))
            .x_desc("seconds")
            .y_desc("a second")
            .x_labels(10)
            .y_labels(6)
            .y_label_formatter(&|value| rate(*value))
            .draw()?;
        for (at, (name, points)) in shown.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            // The first is drawn widest, so that it is seen below what equals it.
            let width = if at == 0 { 5u32 } else { 2 };
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(width)))?
                .label(name.as_str())
                .legend(label(colour, width));
        }
        legend(&mut chart, SeriesLabelPosition::LowerMiddle)
    })
}

/// Percentile curves of cores, each with all its streams.
pub fn cores(cores: &[CoreReport]) -> Vec<Line> {
    let cores = cores.iter().filter(|core| !core.curve.is_empty());
    cores.map(|core| (format!("CPU {}", core.cpu), odds(&core.curve))).collect()
}

/// Percentile curves of streams, each with all its cores, to the answer `answer`.
pub fn streams(streams: &[StreamReport], answer: &str) -> Vec<Line> {
    let curves = streams.iter().filter_map(|stream| Some((stream, stream.curves.get(answer)?)));
    curves.map(|(stream, curve)| (stream.name.clone(), odds(curve))).collect()
}

/// Quantiles as "one in so many", nanoseconds as microseconds.
pub fn odds(curve: &[(f64, u64)]) -> Vec<(f64, f64)> {
    let points = curve.iter().filter(|(quantile, _)| *quantile < 1.0);
    points.map(|(quantile, ns)| (1.0 / (1.0 - quantile), (*ns as f64 / 1000.0).max(0.001))).collect()
}

/// Curves over "one in so many", both axes logarithmic.
///
/// # Errors
/// What the drawing library says.
pub fn percentile_lines(lines: &[Line]) -> anyhow::Result<String> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let end = points().map(|point| point.0).fold(100.0, f64::max);
    let (low, high) =
        points().fold((f64::MAX, 1.0f64), |(low, high), point| (low.min(point.1), high.max(point.1)));
    let low = low.min(high / 10.0);
    drawn(|area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(38)
            .y_label_area_size(78)
            .build_cartesian_2d((1.0..end).log_scale(), (low * 0.8..high * 1.25).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(("sans-serif", 14).into_font().color(&INK))
            .x_desc("percentile")
            .y_desc("microseconds")
            .x_label_formatter(&|odds| percent(*odds))
            .y_label_formatter(&|us| format!("{us}"))
            .draw()?;
        for (at, (name, points)) in lines.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            // Narrower one by one, so that each is seen below what equals it.
            let width = 2 + 2 * (lines.len() - 1 - at).min(3) as u32;
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(width)))?
                .label(name.as_str())
                .legend(label(colour, width));
        }
        legend(&mut chart, SeriesLabelPosition::LowerRight)
    })
}

/// What the axes of [`lines_over`] are.
pub struct Axes {
    /// To the right.
    pub x: &'static str,
    /// Upwards.
    pub y: &'static str,
}

/// Lines with a mark at each point; upwards logarithmic.
///
/// # Errors
/// What the drawing library says.
pub fn lines_over(lines: &[Line], axes: &Axes) -> anyhow::Result<String> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let end = points().map(|point| point.0).fold(1.0, f64::max);
    let (low, high) = points()
        .fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), point| (low.min(point.1), high.max(point.1)));
    let low = low.min(high / 10.0).max(f64::MIN_POSITIVE);
    drawn(|area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(38)
            .y_label_area_size(78)
            .build_cartesian_2d(0.0..end * 1.02, (low * 0.8..high * 1.25).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(("sans-serif", 14).into_font().color(&INK))
            .x_desc(axes.x)
            .y_desc(axes.y)
            .draw()?;
        for (at, (name, points)) in lines.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(3)))?
                .label(name.as_str())
                .legend(label(colour, 3u32));
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
        }
        legend(&mut chart, SeriesLabelPosition::LowerRight)
    })
}

/// "one in so many" as the percentile that it is the rest of.
fn percent(odds: f64) -> String {
    if odds <= 1.0 {
        return "0 %".to_owned();
    }
    let digits = (odds.log10().round() as usize).saturating_sub(2);
    format!("{:.digits$} %", (1.0 - 1.0 / odds) * 100.0)
}

fn legend<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    place: SeriesLabelPosition,
) -> anyhow::Result<()>
where
    X: plotters::coord::ranged1d::Ranged,
    Y: plotters::coord::ranged1d::Ranged,
{
    chart
        .configure_series_labels()
        .position(place)
        .label_font(("sans-serif", 14))
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .draw()
        .map_err(|error| anyhow!("cannot draw a legend: {error}"))
}
