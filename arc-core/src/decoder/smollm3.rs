//! SmolLM3 (Hugging Face, 2025): llama's block, of which every fourth is not rotated.

use super::architecture::Architecture;
use super::config::{DecoderConfig, LocalLayers};
use super::fields::ConfigFields;
use super::llama;
use super::stored_form::StoredForm;
use crate::Result;
use crate::nn::{RopeConfig, RopeLayout};
use crate::weights::{GgufFile, TensorNames};

/// The layers without rotation where a file does not state them: llama.cpp's always are these.
const PERIOD: usize = 4;

pub(super) fn from_gguf(file: &GgufFile) -> Result<DecoderConfig> {
    // Converters permute its heads as they do llama's.
    let config = llama::from_gguf_as(file, "smollm3", Architecture::SmolLm3, RopeLayout::Interleaved)?;
    Ok(without_rotation_every(config, PERIOD))
}

pub(super) fn from_hugging_face(fields: &ConfigFields) -> Result<(DecoderConfig, StoredForm)> {
    fields.expect_only("use_sliding_window", false)?;
    let config = llama::from_hugging_face_as(fields, Architecture::SmolLm3)?;
    let period = match fields.get("no_rope_layers").and_then(|layers| layers.as_array()) {
        // 1 for a layer that is rotated.
        Some(layers) => {
            let is_unrotated =
                |layer: usize| layers.get(layer).and_then(serde_json::Value::as_u64) == Some(0);
            let unrotated: Vec<bool> = (0..config.n_layers).map(is_unrotated).collect();
            LocalLayers::period_of(&unrotated).ok_or_else(|| {
                fields.error("field `no_rope_layers` does not repeat with one period".into())
            })?
        }
        None => fields.optional_usize("no_rope_layer_interval")?.unwrap_or(PERIOD).max(1),
    };
    let form = StoredForm::hugging_face(TensorNames::HUGGING_FACE, fields, false)?;
    Ok((without_rotation_every(config, period), form))
}

/// Every so many layers one is not rotated.
fn without_rotation_every(mut config: DecoderConfig, period: usize) -> DecoderConfig {
    let none = RopeConfig::none(config.rope.head_dim, config.rope.layout);
    let rope = std::mem::replace(&mut config.rope, none);
    config.local = Some(LocalLayers { window: LocalLayers::NO_WINDOW, period, rope });
    config
}
