//! Llama (Touvron et al., 2023; Grattafiori et al., 2024) and its kin: Mistral, SmolLM2.
//!
//! Pre-normalised blocks, grouped-query attention, SwiGLU; Llama 3.1 stretches the rotation.

use super::architecture::Architecture;
use super::config::{DecoderConfig, LocalLayers};
use super::fields::{ConfigFields, GgufFields, rope_scaling};
use super::stored_form::StoredForm;
use crate::Result;
use crate::nn::{Activation, AttentionConfig, BlockConfig, NormConfig, RopeConfig, RopeLayout};
use crate::weights::{GgufFile, TensorNames, TensorSource};

/// Where a file states no base of the rotation.
const THETA: f64 = 10_000.0;
/// Mistral's window where the field is left out; `null` is none.
const MISTRAL_WINDOW: usize = 4096;
/// Where llama.cpp stores Llama 3.1's scaling, as one divisor per frequency.
pub(super) const ROPE_DIVISORS: &str = "rope_freqs.weight";

pub(super) fn from_gguf(file: &GgufFile) -> Result<DecoderConfig> {
    from_gguf_as(file, "llama", Architecture::Llama, RopeLayout::Interleaved)
}

/// The values that llama shares with qwen2 and olmo.
pub(super) fn from_gguf_as(
    file: &GgufFile,
    prefix: &str,
    architecture: Architecture,
    layout: RopeLayout,
) -> Result<DecoderConfig> {
    let fields = GgufFields::new(file, prefix);
    let d_model = fields.usize("embedding_length")?;
    let n_heads = fields.usize("attention.head_count")?;
    let head_dim = match fields.optional_usize("attention.key_length")? {
        Some(width) => width,
        None => d_model / n_heads.max(1),
    };
    let epsilon = match fields.optional_f64("attention.layer_norm_rms_epsilon")? {
        Some(epsilon) => epsilon,
        None => fields.f64("attention.layer_norm_epsilon")?,
    };
    let mut rope = fields.rope(THETA, head_dim, layout)?;
    if file.has(ROPE_DIVISORS) {
        rope.divisors = Some(file.tensor_of_shape(ROPE_DIVISORS, &[head_dim / 2])?.to_f32());
    }
    Ok(DecoderConfig {
        architecture,
        n_layers: fields.usize("block_count")?,
        block: BlockConfig {
            d_model,
            d_ff: fields.usize("feed_forward_length")?,
            attention: AttentionConfig {
                n_heads,
                n_kv_heads: fields.optional_usize("attention.head_count_kv")?.unwrap_or(n_heads),
                head_dim,
                scale: 1.0 / (head_dim as f64).sqrt(),
            },
            norm: NormConfig::Rms { epsilon },
            activation: Activation::Silu,
            sandwich: false,
            qk_norm: false,
            qkv_bias: false,
        },
        rope,
        local: None,
        embedding_scale: None,
        context_length: fields.usize("context_length")?,
    })
}

pub(super) fn from_hugging_face(fields: &ConfigFields) -> Result<(DecoderConfig, StoredForm)> {
    let mut config = from_hugging_face_as(fields, Architecture::Llama)?;
    let window = match fields.str("model_type")? {
        "mistral" if fields.states("sliding_window") => fields.optional_usize("sliding_window")?,
        "mistral" => Some(MISTRAL_WINDOW),
        _ => None,
    };
    config.local =
        window.map(|window| LocalLayers { window, period: LocalLayers::ALL, rope: config.rope.clone() });
    Ok((config, StoredForm::hugging_face(TensorNames::HUGGING_FACE, fields, false)?))
}

/// The values that llama shares with qwen2 and olmo.
pub(super) fn from_hugging_face_as(
    fields: &ConfigFields,
    architecture: Architecture,
) -> Result<DecoderConfig> {
    fields.expect_only("attention_bias", false)?;
    fields.expect_only("mlp_bias", false)?;
    fields.expect_only("hidden_act", "silu")?;
    fields.expect_only("partial_rotary_factor", 1.0)?;
    let d_model = fields.usize("hidden_size")?;
    let n_heads = fields.usize("num_attention_heads")?;
    let head_dim = fields.optional_usize("head_dim")?.unwrap_or(d_model / n_heads.max(1));
    let epsilon = fields.optional_f64("rms_norm_eps")?.unwrap_or(1e-6);
    let mut rope =
        RopeConfig::new(fields.optional_f64("rope_theta")?.unwrap_or(THETA), head_dim, RopeLayout::HalfSplit);
    // Transformers 5 moved the rotation into one object; 4 had it at the top.
    if let Some(parameters) = fields.object("rope_parameters")
        && let Some(theta) = parameters.optional_f64("rope_theta")?
    {
        rope.theta = theta;
    }
    if let Some(scaling) = fields.object("rope_scaling").or_else(|| fields.object("rope_parameters")) {
        rope.scaling = rope_scaling(&scaling)?;
    }
    Ok(DecoderConfig {
        architecture,
        n_layers: fields.usize("num_hidden_layers")?,
        block: BlockConfig {
            d_model,
            d_ff: fields.usize("intermediate_size")?,
            attention: AttentionConfig {
                n_heads,
                n_kv_heads: fields.optional_usize("num_key_value_heads")?.unwrap_or(n_heads),
                head_dim,
                scale: 1.0 / (head_dim as f64).sqrt(),
            },
            norm: NormConfig::Rms { epsilon },
            activation: Activation::Silu,
            sandwich: false,
            qk_norm: false,
            qkv_bias: false,
        },
        rope,
        local: None,
        embedding_scale: None,
        context_length: fields.usize("max_position_embeddings")?,
    })
}
