//! The lookup bench as a picture.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use crate::lookup::Row;
use crate::machine::Machine;

/// Writes million lookups per second over the number of listeners, one line a contestant, both axes logarithmic.
///
/// # Errors
/// A file that cannot be written.
pub fn lookup(path: &Path, rows: &[Row], hit_percent: u32, machine: &Machine) -> Result<()> {
    let rows: Vec<&Row> =
        rows.iter().filter(|row| row.churn_per_second == 0 && row.hit_percent == hit_percent).collect();
    let listeners_max = rows.iter().map(|row| row.listeners).max().unwrap_or(1).max(2);
    let speeds = || rows.iter().map(|row| row.mlookups_per_second);
    let (least, most) = (speeds().fold(f64::MAX, f64::min), speeds().fold(1.0, f64::max));
    let mut contestants: Vec<&str> = Vec::new();
    for row in &rows {
        if !contestants.contains(&row.contestant.as_str()) {
            contestants.push(&row.contestant);
        }
    }

    let area = SVGBackend::new(path, (900, 560)).into_drawing_area();
    area.fill(&WHITE)?;
    let title = format!("Listener lookups, {hit_percent} % hits, one core: {}", machine.cpu);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .margin_right(36)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d((1u32..listeners_max).log_scale(), (least * 0.7..most * 1.4).log_scale())?;
    chart.configure_mesh().x_desc("listeners").y_desc("million lookups per second").draw()?;
    for (at, contestant) in contestants.iter().enumerate() {
        let colour = Palette99::pick(at).to_rgba();
        let points: Vec<(u32, f64)> = rows
            .iter()
            .filter(|row| row.contestant == *contestant)
            .map(|row| (row.listeners, row.mlookups_per_second))
            .collect();
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
            .label(*contestant)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.4))
        .draw()?;
    area.present()?;
    Ok(())
}
