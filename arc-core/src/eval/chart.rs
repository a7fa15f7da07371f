//! Charts as SVG.

use plotters::prelude::*;

/// Points of one name.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// For each point the interval of its height, if it has one.
    pub(super) bars: Vec<(f64, f64)>,
}

/// The size of a chart, in pixels.
const SIZE: (u32, u32) = (720, 400);

/// Points by series. Nothing if there is nothing to draw or it cannot be drawn.
pub(super) fn scatter(title: &str, x: &str, y: &str, series: &[Series]) -> Option<String> {
    let xs = series.iter().flat_map(|series| series.points.iter().map(|point| point.0));
    let bars = series.iter().flat_map(|series| series.bars.iter().flat_map(|&(low, high)| [low, high]));
    let ys = series.iter().flat_map(|series| series.points.iter().map(|point| point.1)).chain(bars);
    let (x_range, y_range) = (range(xs)?, range(ys)?);
    let mut svg = String::new();
    draw(&mut svg, title, (x, x_range), (y, y_range), series).ok()?;
    Some(svg)
}

/// A range with room around the values; nothing without finite values.
fn range(values: impl Iterator<Item = f64>) -> Option<std::ops::Range<f64>> {
    let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    let low = values.iter().copied().reduce(f64::min)?;
    let high = values.iter().copied().reduce(f64::max)?;
    let room = if high > low { 0.08 * (high - low) } else { 1.0 };
    Some(low - room..high + room)
}

type Axis<'a> = (&'a str, std::ops::Range<f64>);

fn draw(
    svg: &mut String,
    title: &str,
    (x, x_range): Axis<'_>,
    (y, y_range): Axis<'_>,
    series: &[Series],
) -> Result<(), Box<dyn std::error::Error>> {
    let failed = |error: DrawingAreaErrorKind<_>| error.to_string();
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(x_range, y_range)
        .map_err(failed)?;
    chart.configure_mesh().x_desc(x).y_desc(y).light_line_style(WHITE).draw().map_err(failed)?;
    for (index, series) in series.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let bars = series.points.iter().zip(&series.bars);
        chart
            .draw_series(bars.map(|(&(x, _), &(low, high))| PathElement::new([(x, low), (x, high)], colour)))
            .map_err(failed)?;
        chart
            .draw_series(series.points.iter().map(|&point| Circle::new(point, 4, colour.filled())))
            .map_err(failed)?
            .label(&series.name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .position(SeriesLabelPosition::UpperRight)
        .draw()
        .map_err(failed)?;
    root.present().map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_draws_every_point_and_names_every_series() {
        let series = [
            Series { name: "open-book".into(), points: vec![(1.0, 2.0)], bars: vec![(1.5, 2.5)] },
            Series { name: "arc-4".into(), points: vec![(3.0, 4.0), (5.0, 6.0)], bars: Vec::new() },
        ];
        let svg = scatter("title", "x", "y", &series).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        // Three points and two in the legend.
        assert_eq!(svg.matches("<circle").count(), 5, "{svg}");
        assert!(svg.contains("open-book") && svg.contains("arc-4"));
    }

    #[test]
    fn nothing_to_draw_is_no_chart() {
        let series = [Series { name: "a".into(), points: vec![(f64::NAN, 1.0)], bars: Vec::new() }];
        assert!(scatter("t", "x", "y", &series).is_none());
        assert!(scatter("t", "x", "y", &[]).is_none());
    }
}
