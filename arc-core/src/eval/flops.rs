//! How many floating-point operations a forward pass takes, by formula.
//!
//! A product of an `[m, k]` and a `[k, n]` matrix counts `2·m·k·n`; attention counts its two
//! products with the keys and the values that a query sees. Norms, activations, rotations and
//! look-ups are left out: they are below one per cent at these widths.

use crate::decoder::DecoderConfig;
use crate::encoder::ArcEncoderConfig;
use crate::nn::BlockConfig;

/// One position through the matrices of one block.
fn block(config: &BlockConfig) -> f64 {
    let attention = &config.attention;
    let (d, k) = (config.d_model as f64, attention.head_dim as f64);
    let (h, g) = (attention.n_heads as f64, attention.n_kv_heads as f64);
    let projections = 2.0 * d * h * k + 2.0 * d * g * k;
    2.0 * (projections + 3.0 * d * config.d_ff as f64)
}

/// The two products of one block's attention, for so many pairs of a query and a key.
fn attention(config: &BlockConfig, pairs: f64) -> f64 {
    4.0 * (config.attention.n_heads * config.attention.head_dim) as f64 * pairs
}

/// Reading `new` positions after `past` ones, without the head. Sliding windows are not counted
/// off.
#[must_use]
pub fn reading(config: &DecoderConfig, past: usize, new: usize) -> f64 {
    let (past, new) = (past as f64, new as f64);
    let pairs = new * past + new * (new + 1.0) / 2.0;
    config.n_layers as f64 * (new * block(&config.block) + attention(&config.block, pairs))
}

/// The logits of so many positions.
#[must_use]
pub fn head(config: &DecoderConfig, vocabulary: usize, positions: usize) -> f64 {
    2.0 * config.d_model() as f64 * vocabulary as f64 * positions as f64
}

/// Encoding a text in chunks. What pooling saves in the last layers is not counted off.
#[must_use]
pub fn encoding(config: &ArcEncoderConfig, tokens: usize, chunk: usize) -> f64 {
    let chunk = chunk.max(1);
    let (whole, rest) = ((tokens / chunk) as f64, (tokens % chunk) as f64);
    let pairs = whole * (chunk * chunk) as f64 + rest * rest;
    config.n_layers as f64 * (tokens as f64 * block(&config.block) + attention(&config.block, pairs))
}

/// Keys and values of so many positions, in bytes, as this build stores them (float32).
#[must_use]
pub fn kv_cache_bytes(config: &DecoderConfig, positions: usize) -> f64 {
    let attention = &config.block.attention;
    (2 * 4 * config.n_layers * attention.n_kv_heads * attention.head_dim * positions) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Activation, AttentionConfig, NormConfig, RopeConfig, RopeLayout};

    /// SmolLM2-135M.
    fn config() -> DecoderConfig {
        DecoderConfig {
            architecture: crate::decoder::Architecture::Llama,
            n_layers: 30,
            block: BlockConfig {
                d_model: 576,
                d_ff: 1536,
                attention: AttentionConfig { n_heads: 9, n_kv_heads: 3, head_dim: 64, scale: 0.125 },
                norm: NormConfig::Rms { epsilon: 1e-5 },
                activation: Activation::Silu,
                sandwich: false,
                qk_norm: false,
                qkv_bias: false,
            },
            rope: RopeConfig::new(100_000.0, 64, RopeLayout::HalfSplit),
            local: None,
            embedding_scale: None,
            context_length: 8192,
        }
    }

    #[test]
    fn a_position_takes_two_operations_for_each_weight() {
        // 134.5 M parameters, of which 28.3 M are the table, which the head uses once.
        let per_token = reading(&config(), 0, 1) + head(&config(), 49_152, 1);
        assert!((per_token / (2.0 * 134.5e6) - 1.0).abs() < 0.01, "{per_token}");
    }

    #[test]
    fn reading_in_two_parts_takes_what_reading_at_once_takes() {
        let at_once = reading(&config(), 0, 300);
        let in_parts = reading(&config(), 0, 120) + reading(&config(), 120, 180);
        assert!((at_once - in_parts).abs() < 1e-6 * at_once);
    }

    #[test]
    fn a_position_of_smollm2_takes_46_kilobytes() {
        assert_eq!(kv_cache_bytes(&config(), 1), 46_080.0);
    }
}
