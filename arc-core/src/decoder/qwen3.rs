//! Qwen 3 (Yang et al., 2025), dense: llama's block with normalised queries and keys, and heads of a width of their own.

use super::architecture::Architecture;
use super::config::DecoderConfig;
use super::fields::ConfigFields;
use super::llama;
use super::stored_form::StoredForm;
use crate::Result;
use crate::nn::RopeLayout;
use crate::weights::{GgufFile, TensorNames};

pub(super) fn from_gguf(file: &GgufFile) -> Result<DecoderConfig> {
    let config = llama::from_gguf_as(file, "qwen3", Architecture::Qwen3, RopeLayout::HalfSplit)?;
    Ok(with_norms(config))
}

pub(super) fn from_hugging_face(fields: &ConfigFields) -> Result<(DecoderConfig, StoredForm)> {
    fields.expect_only("use_sliding_window", false)?;
    let config = llama::from_hugging_face_as(fields, Architecture::Qwen3)?;
    Ok((with_norms(config), StoredForm::hugging_face(TensorNames::HUGGING_FACE, fields, false)?))
}

fn with_norms(mut config: DecoderConfig) -> DecoderConfig {
    config.block.qk_norm = true;
    config
}
