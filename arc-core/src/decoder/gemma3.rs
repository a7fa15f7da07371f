//! Gemma 3, text only (Gemma Team, 2025).
//!
//! Embeddings scaled by `√d`, normalisation before and after each half of a block, normalised
//! queries and keys, GeGLU, and five layers with a sliding window to each global one.

use serde_json::Value;

use super::architecture::Architecture;
use super::config::{DecoderConfig, LocalLayers};
use super::fields::{ConfigFields, GgufFields, rope_scaling};
use super::stored_form::StoredForm;
use crate::nn::{Activation, AttentionConfig, BlockConfig, NormConfig, RopeConfig, RopeLayout};
use crate::weights::{GgufFile, TensorNames};
use crate::{Error, Result};

/// Every sixth layer is global, where a file does not state it.
const PERIOD: usize = 6;
/// The rotation base of global layers, where a file does not state it.
const THETA: f64 = 1_000_000.0;
/// The rotation base of local layers; GGUF files rarely state it.
const LOCAL_THETA: f64 = 10_000.0;
/// Scores are divided by its root where `config.json` leaves out `query_pre_attn_scalar`.
const QUERY_SCALAR: f64 = 256.0;
/// The one size whose scores are not scaled by the head width (27B has this many layers).
const LAYERS_27B: usize = 62;

pub(super) fn from_gguf(file: &GgufFile) -> Result<DecoderConfig> {
    let fields = GgufFields::new(file, "gemma3");
    let d_model = fields.usize("embedding_length")?;
    let n_layers = fields.usize("block_count")?;
    let n_heads = fields.usize("attention.head_count")?;
    let head_dim = fields.usize("attention.key_length")?;
    // The reference scales by `query_pre_attn_scalar`, which is the head width save for 27B.
    let query_width = if n_layers == LAYERS_27B { d_model / n_heads.max(1) } else { head_dim };
    let scalar = query_width as f64;
    fields.expect_no_limit("attn_logit_softcapping")?;
    fields.expect_no_limit("final_logit_softcapping")?;
    let local_theta = fields.optional_f64("rope.freq_base_swa")?.unwrap_or(LOCAL_THETA);
    Ok(config(Values {
        d_model,
        n_layers,
        d_ff: fields.usize("feed_forward_length")?,
        attention: AttentionConfig {
            n_heads,
            n_kv_heads: fields.usize("attention.head_count_kv")?,
            head_dim,
            scale: 1.0 / scalar.sqrt(),
        },
        epsilon: fields.f64("attention.layer_norm_rms_epsilon")?,
        rope: fields.rope(THETA, head_dim, RopeLayout::HalfSplit)?,
        local_rope: RopeConfig::new(local_theta, head_dim, RopeLayout::HalfSplit),
        window: fields.usize("attention.sliding_window")?,
        period: fields.optional_usize("attention.sliding_window_pattern")?.unwrap_or(PERIOD).max(1),
        context_length: fields.usize("context_length")?,
    }))
}

pub(super) fn from_hugging_face(fields: &ConfigFields) -> Result<(DecoderConfig, StoredForm)> {
    fields.expect_only("attention_bias", false)?;
    fields.expect_only("hidden_activation", "gelu_pytorch_tanh")?;
    fields.expect_only("use_bidirectional_attention", false)?;
    fields.expect_only("attn_logit_softcapping", Value::Null)?;
    fields.expect_only("final_logit_softcapping", Value::Null)?;
    let head_dim = fields.usize("head_dim")?;
    let scalar = fields.optional_f64("query_pre_attn_scalar")?.unwrap_or(QUERY_SCALAR);
    let period = match fields.get("layer_types").and_then(Value::as_array) {
        Some(kinds) => {
            let is_global = |kind: &Value| kind.as_str() == Some("full_attention");
            LocalLayers::period_of(&kinds.iter().map(is_global).collect::<Vec<_>>())
                .ok_or_else(|| fields.error("field `layer_types` does not repeat with one period".into()))?
        }
        None => fields.optional_usize("sliding_window_pattern")?.unwrap_or(PERIOD),
    };
    // Transformers 5 has one object per kind of layer; 4 had flat fields.
    let parameters = fields.object("rope_parameters");
    let of_kind = |kind: &str| parameters.as_ref().and_then(|all| all.object(kind));
    let rope = |kind: Option<ConfigFields>, flat_theta: &str, default_theta: f64| {
        let theta = match &kind {
            Some(kind) => kind.optional_f64("rope_theta")?,
            None => fields.optional_f64(flat_theta)?,
        };
        let mut rope = RopeConfig::new(theta.unwrap_or(default_theta), head_dim, RopeLayout::HalfSplit);
        rope.scaling = kind.as_ref().map(rope_scaling).transpose()?.flatten();
        Ok::<_, Error>(rope)
    };
    let mut global = rope(of_kind("full_attention"), "rope_theta", THETA)?;
    if let Some(scaling) = fields.object("rope_scaling") {
        global.scaling = rope_scaling(&scaling)?;
    }
    let config = config(Values {
        d_model: fields.usize("hidden_size")?,
        n_layers: fields.usize("num_hidden_layers")?,
        d_ff: fields.usize("intermediate_size")?,
        attention: AttentionConfig {
            n_heads: fields.usize("num_attention_heads")?,
            n_kv_heads: fields.usize("num_key_value_heads")?,
            head_dim,
            scale: 1.0 / scalar.sqrt(),
        },
        epsilon: fields.optional_f64("rms_norm_eps")?.unwrap_or(1e-6),
        rope: global,
        local_rope: rope(of_kind("sliding_attention"), "rope_local_base_freq", LOCAL_THETA)?,
        window: fields.usize("sliding_window")?,
        period: period.max(1),
        context_length: fields.usize("max_position_embeddings")?,
    });
    // The reference multiplies by `1 + weight`; GGUF stores the sum.
    let form = StoredForm::hugging_face(TensorNames::HUGGING_FACE_GEMMA3, fields, true)?;
    Ok((config, StoredForm { norm_offset: 1.0, ..form }))
}

/// What the two formats state differently.
struct Values {
    d_model: usize,
    n_layers: usize,
    d_ff: usize,
    attention: AttentionConfig,
    epsilon: f64,
    rope: RopeConfig,
    local_rope: RopeConfig,
    window: usize,
    period: usize,
    context_length: usize,
}

fn config(values: Values) -> DecoderConfig {
    DecoderConfig {
        architecture: Architecture::Gemma3,
        n_layers: values.n_layers,
        block: BlockConfig {
            d_model: values.d_model,
            d_ff: values.d_ff,
            attention: values.attention,
            norm: NormConfig::Rms { epsilon: values.epsilon },
            activation: Activation::GeluTanh,
            sandwich: true,
            qk_norm: true,
            qkv_bias: false,
        },
        rope: values.rope,
        local: Some(LocalLayers { window: values.window, period: values.period, rope: values.local_rope }),
        embedding_scale: Some((values.d_model as f64).sqrt()),
        context_length: values.context_length,
    }
}
