//! Qwen 2 and 2.5 (Yang et al., 2024): llama's block with biases on queries, keys and values.

use super::architecture::Architecture;
use super::config::DecoderConfig;
use super::fields::ConfigFields;
use super::llama;
use super::stored_form::StoredForm;
use crate::Result;
use crate::nn::RopeLayout;
use crate::weights::{GgufFile, TensorNames};

pub(super) fn from_gguf(file: &GgufFile) -> Result<DecoderConfig> {
    let config = llama::from_gguf_as(file, "qwen2", Architecture::Qwen2, RopeLayout::HalfSplit)?;
    Ok(with_biases(config))
}

pub(super) fn from_hugging_face(fields: &ConfigFields) -> Result<(DecoderConfig, StoredForm)> {
    fields.expect_only("use_sliding_window", false)?;
    let config = llama::from_hugging_face_as(fields, Architecture::Qwen2)?;
    Ok((with_biases(config), StoredForm::hugging_face(TensorNames::HUGGING_FACE, fields, false)?))
}

fn with_biases(mut config: DecoderConfig) -> DecoderConfig {
    config.block.qkv_bias = true;
    config
}
