//! What an encoder has been trained on, part by part: over runs that were continued from packages, machines
//! and precisions.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::{RunConfig, TrainPrecision};

/// A stretch of training in one precision on one kind of processor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TrainingPart {
    /// What products were computed in.
    #[serde(default)]
    pub precision: TrainPrecision,
    /// What computed them, as far as it is known.
    #[serde(default)]
    pub processor: Option<String>,
    /// Steps of the optimiser.
    pub steps: u64,
    /// Texts and questions seen.
    #[serde(default)]
    pub samples: u64,
    /// Encoder tokens read; `None` for what was trained before they were counted apart.
    #[serde(default)]
    pub context_tokens: Option<u64>,
    /// Encoder tokens and targets.
    pub tokens: u64,
    /// Seconds spent in steps.
    pub seconds: f64,
}

impl TrainingPart {
    /// A part that nothing was trained in yet.
    pub(super) fn beginning(precision: TrainPrecision, processor: Option<String>) -> Self {
        Self { precision, processor, context_tokens: Some(0), ..Self::default() }
    }

    /// Whether it can go on in this precision on this processor.
    pub(super) fn is_of(&self, precision: TrainPrecision, processor: Option<&str>) -> bool {
        self.precision == precision && self.processor.as_deref() == processor
    }
}

/// The parts that a package's provenance tells of. One that was written before parts were told apart is one.
pub(super) fn parts_of(provenance: &Value) -> Vec<TrainingPart> {
    if let Some(parts) = provenance.get("parts") {
        return serde_json::from_value(parts.clone()).unwrap_or_default();
    }
    let number = |pointer: &str| provenance.pointer(pointer).and_then(Value::as_u64);
    let (Some(steps), Some(tokens)) = (number("/steps"), number("/tokens")) else { return Vec::new() };
    let batch = number("/config/schedule/batch").unwrap_or(0);
    let precision = provenance.pointer("/config/precision").cloned().unwrap_or_default();
    vec![TrainingPart {
        precision: serde_json::from_value(precision).unwrap_or_default(),
        samples: steps * batch * number("/config/schedule/accumulation").unwrap_or(1),
        steps,
        tokens,
        seconds: provenance.get("seconds").and_then(Value::as_f64).unwrap_or(0.0),
        ..TrainingPart::default()
    }]
}

/// What cards say of all parts, those before the run first: each with its speed, and their sums.
pub(super) fn for_cards(parts: &[TrainingPart]) -> Value {
    let with_speed = |part: &TrainingPart| {
        let mut value = json!(part);
        value["tokens_per_second"] =
            json!((part.tokens as f64 / part.seconds.max(f64::MIN_POSITIVE)).round());
        value
    };
    let context = parts.iter().map(|part| part.context_tokens).sum::<Option<u64>>();
    json!({
        "parts": parts.iter().map(with_speed).collect::<Vec<_>>(),
        "context_tokens_in_all": context,
        "tokens_in_all": parts.iter().map(|part| part.tokens).sum::<u64>(),
        "hours_in_all": parts.iter().map(|part| part.seconds).sum::<f64>() / 3600.0,
    })
}

/// How many steps of a run its start has gone through, by the samples that it has seen: the run goes on with
/// the text behind those.
pub(super) fn steps_before(config: &RunConfig, parts: &[TrainingPart]) -> u64 {
    let samples: u64 = parts.iter().map(|part| part.samples).sum();
    samples.div_ceil((config.schedule.batch * config.schedule.accumulation).max(1) as u64)
}

/// The processor that runs on the CPU are computed by, where the system names it.
pub(super) fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'))?;
    Some(format!("{}, {} threads", model.1.trim(), rayon::current_num_threads()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_without_parts_is_one_part_and_what_is_written_is_read_back() {
        let old = json!({
            "config": { "schedule": { "batch": 8, "accumulation": 2 }, "precision": "bf16" },
            "steps": 10, "tokens": 1000, "seconds": 5.0,
        });
        let parts = parts_of(&old);
        assert_eq!(parts.len(), 1);
        assert_eq!(
            (parts[0].samples, parts[0].tokens, parts[0].precision),
            (160, 1000, TrainPrecision::Bf16)
        );
        let more = TrainingPart { steps: 1, tokens: 50, seconds: 5.0, ..TrainingPart::default() };
        let card = for_cards(&[parts[0].clone(), more.clone()]);
        assert_eq!(card["tokens_in_all"], 1050);
        assert_eq!(card["parts"][0]["tokens_per_second"], 200.0);
        // Nobody has counted the first part's.
        assert!(card["context_tokens_in_all"].is_null());
        assert_eq!(parts_of(&card), [parts[0].clone(), more]);
        assert!(parts_of(&json!({ "note": "untrained" })).is_empty());
    }
}
