//! The page of a run: loss curves by task and decoder, and the held-out scores. It needs nothing
//! but itself.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use minijinja::{Value, context};
use plotters::prelude::*;

use super::RunConfig;
use super::metrics::Event;
use crate::{Error, Result};
use arc_adapters::write_atomically;

const PAGE: &str = include_str!("report_page.html");
const SIZE: (u32, u32) = (860, 320);
/// The weight of the newest value in a smoothed curve.
const SMOOTHING: f64 = 0.1;

/// Points of a curve: step, value.
type Curve = Vec<(f64, f64)>;

/// Writes the page, complete or not at all.
pub(super) fn write_page(
    path: &Path,
    config: &RunConfig,
    decoders: &BTreeMap<String, String>,
    events: &[Event],
) -> Result<()> {
    let mut losses: BTreeMap<String, Curve> = BTreeMap::new();
    let mut recovered: BTreeMap<String, Curve> = BTreeMap::new();
    let mut rows = Vec::new();
    for event in events {
        match event {
            Event::Step(step) => {
                let curve = losses.entry(format!("{}, {}", step.objective, step.decoder)).or_default();
                let value =
                    curve.last().map_or(step.loss, |&(_, last)| last + SMOOTHING * (step.loss - last));
                curve.push((step.step as f64, value));
            }
            Event::Evaluation { step, scores } => {
                let number = |pointer: &str| {
                    scores.pointer(pointer).and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN)
                };
                let decoder = scores["decoder"].as_str().unwrap_or_default();
                let factor = scores["factor"].as_u64().unwrap_or_default();
                let share = 100.0 * number("/continuation/recovered");
                let share_of_truncation = 100.0 * number("/continuation/recovered_by_truncation");
                let arms = [("latents", share), ("truncation", share_of_truncation)];
                // Where only answers are measured there is no gap, and nothing to draw.
                for (arm, value) in arms.into_iter().filter(|(_, value)| value.is_finite()) {
                    let name = format!("{decoder} at {factor}, {arm}");
                    recovered.entry(name).or_default().push((*step as f64, value));
                }
                rows.push(context! {
                    step,
                    decoder,
                    factor,
                    no_context => number("/continuation/loss_no_context"),
                    full_context => number("/continuation/loss_full_context"),
                    latents => number("/continuation/loss_latents"),
                    truncation => number("/continuation/loss_truncation"),
                    recovered => share,
                    recovered_by_truncation => share_of_truncation,
                    reconstruction => number("/reconstruction/loss"),
                    accuracy => 100.0 * number("/reconstruction/accuracy"),
                    answer => number("/answer/loss_latents"),
                });
            }
        }
    }
    let failed = |reason: String| Error::io("write", path)(std::io::Error::other(reason));
    let measured = config.evaluation.on.title();
    let measured_continuation =
        format!("{measured}, continuation: % of the gap between no context and full context");
    let mut figures = Vec::new();
    for (title, curves) in [
        ("Training loss, nats per token (running mean)", &losses),
        (measured_continuation.as_str(), &recovered),
    ] {
        if curves.values().any(|curve| curve.len() > 1) {
            let svg = Value::from_safe_string(draw(curves).map_err(failed)?);
            figures.push(context! { title, svg });
        }
    }
    let settings = serde_json::to_string_pretty(config).map_err(|error| failed(error.to_string()))?;
    let mut page = minijinja::Environment::new();
    page.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
    // A score that there is not: no text or no questions were measured.
    page.add_filter(
        "number",
        |value: f64, digits: usize| {
            if value.is_finite() { format!("{value:.digits$}") } else { "–".to_owned() }
        },
    );
    let html = page
        .render_str(
            PAGE,
            context! {
                name => config.encoder.name.as_str(),
                figures,
                measured,
                rows,
                settings,
                decoders,
                steps => config.schedule.steps,
            },
        )
        .map_err(|error| failed(error.to_string()))?;
    write_atomically(path, |file| file.write_all(html.as_bytes()).map_err(Error::io("write", path)))
}

/// Curves as an SVG image.
fn draw(curves: &BTreeMap<String, Curve>) -> Result<String, String> {
    let points = || curves.values().flatten().filter(|(_, value)| value.is_finite());
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        let margin = (0.03 * (high - low)).max(1e-6);
        low - margin..high + margin
    };
    let (x, y) = (range(&mut points().map(|p| p.0)), range(&mut points().map(|p| p.1)));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let text = |error: DrawingAreaErrorKind<_>| error.to_string();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(48)
            .build_cartesian_2d(x, y)
            .map_err(text)?;
        chart.configure_mesh().light_line_style(WHITE).draw().map_err(text)?;
        for (index, (name, curve)) in curves.iter().enumerate() {
            let colour = Palette99::pick(index).to_rgba();
            chart
                .draw_series(LineSeries::new(curve.iter().copied(), colour.stroke_width(2)))
                .map_err(text)?
                .label(name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.2))
            .draw()
            .map_err(text)?;
        area.present().map_err(text)?;
    }
    Ok(svg)
}
