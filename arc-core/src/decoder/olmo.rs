//! OLMo (Groeneveld et al., 2024): llama's block with layer normalisation that has no parameters.

use super::config::{Architecture, DecoderConfig, Fields, GgufFields, Layout};
use super::llama;
use crate::nn::{NormConfig, RopeLayout};
use crate::weights::{GgufFile, TensorNames};
use crate::{Error, Result};

/// OLMo's configurations do not state it.
const EPSILON: f64 = 1e-5;

pub(super) fn from_gguf(file: &GgufFile) -> Result<DecoderConfig> {
    if let Some(limit) = GgufFields::new(file, "olmo").optional_f64("attention.clamp_kqv")?
        && limit > 0.0
    {
        return Err(Error::InvalidConfig {
            path: crate::weights::TensorSource::path(file).to_owned(),
            reason: format!("`olmo.attention.clamp_kqv` is {limit}; clamped projections are not supported"),
        });
    }
    // Converters permute its heads as they do llama's.
    let config = llama::from_gguf_as(file, "olmo", Architecture::Olmo, RopeLayout::Interleaved)?;
    Ok(without_norm_weights(config))
}

pub(super) fn from_hugging_face(fields: &Fields) -> Result<(DecoderConfig, Layout)> {
    if let Some(limit) = fields.optional_f64("clip_qkv")? {
        return Err(fields.error(format!("`clip_qkv` is {limit}; clamped projections are not supported")));
    }
    let config = llama::from_hugging_face_as(fields, Architecture::Olmo)?;
    Ok((without_norm_weights(config), Layout { names: TensorNames::HUGGING_FACE, norm_offset: 0.0 }))
}

fn without_norm_weights(mut config: DecoderConfig) -> DecoderConfig {
    config.block.norm = NormConfig::NonParametricLayer { epsilon: EPSILON };
    config
}
