//! OLMo (Groeneveld et al., 2024): llama's block with layer normalisation that has no parameters.

use serde_json::Value;

use super::architecture::Architecture;
use super::config::DecoderConfig;
use super::fields::{ConfigFields, GgufFields};
use super::llama;
use super::stored_form::StoredForm;
use crate::Result;
use crate::nn::{NormConfig, RopeLayout};
use crate::weights::{GgufFile, TensorNames};

/// OLMo's configurations do not state it.
const EPSILON: f64 = 1e-5;

pub(super) fn from_gguf(file: &GgufFile) -> Result<DecoderConfig> {
    GgufFields::new(file, "olmo").expect_no_limit("attention.clamp_kqv")?;
    // Converters permute its heads as they do llama's.
    let config = llama::from_gguf_as(file, "olmo", Architecture::Olmo, RopeLayout::Interleaved)?;
    Ok(without_norm_weights(config))
}

pub(super) fn from_hugging_face(fields: &ConfigFields) -> Result<(DecoderConfig, StoredForm)> {
    fields.expect_only("clip_qkv", Value::Null)?;
    let config = llama::from_hugging_face_as(fields, Architecture::Olmo)?;
    Ok((without_norm_weights(config), StoredForm::hugging_face(TensorNames::HUGGING_FACE, fields, false)?))
}

fn without_norm_weights(mut config: DecoderConfig) -> DecoderConfig {
    config.block.norm = NormConfig::NonParametricLayer { epsilon: EPSILON };
    config
}
