//! How many floating-point operations a pass takes, from shapes alone, as the engine issues them.
//!
//! A product of an `[m, k]` and a `[k, n]` matrix counts `2·m·k·n`. Attention is dense: every query with
//! every key that it is given, whatever the mask hides. Norms, activations, rotations and look-ups are left
//! out: they are below one per cent. [`trace_flops`](crate::nn::trace_flops) counts the same where products
//! are issued, and tests compare the two.

use arc_adapters::ProjectorLayer;

use crate::decoder::{DecoderConfig, PREFILL_CHUNK};
use crate::encoder::{ArcEncoderConfig, PoolingPlace};
use crate::nn::BlockConfig;

/// What a block works on.
struct Work {
    /// Positions with queries.
    queries: usize,
    /// Positions whose keys and values are made.
    new_keys: usize,
    /// Positions that are attended to.
    keys: usize,
    /// Positions that go through the feed-forward part.
    fed: usize,
}

impl Work {
    fn flops(&self, block: &BlockConfig) -> u128 {
        let (d, f) = (wide(block.d_model), wide(block.d_ff));
        let heads = wide(block.attention.n_heads) * wide(block.attention.head_dim);
        let kv_heads = wide(block.attention.n_kv_heads) * wide(block.attention.head_dim);
        let (queries, keys) = (wide(self.queries), wide(self.keys));
        let projections = 2 * queries * d * heads + 2 * wide(self.new_keys) * d * kv_heads;
        let attention = 2 * queries * keys * heads;
        2 * (projections + attention + 3 * wide(self.fed) * d * f)
    }
}

/// A decoder reads `new` positions after `past` ones, piece by piece, without the head.
#[must_use]
pub(crate) fn reading(config: &DecoderConfig, past: usize, new: usize) -> u128 {
    let piece = |start: usize| {
        let s = PREFILL_CHUNK.min(new - start);
        Work { queries: s, new_keys: s, keys: past + start + s, fed: s }.flops(&config.block)
    };
    wide(config.n_layers) * (0..new).step_by(PREFILL_CHUNK).map(piece).sum::<u128>()
}

/// A decoder reads `tokens` that it has written after `past` positions, one after the other, without the
/// head.
#[must_use]
pub(crate) fn writing(config: &DecoderConfig, past: usize, tokens: usize) -> u128 {
    let step = |step: usize| Work { queries: 1, new_keys: 1, keys: past + step, fed: 1 }.flops(&config.block);
    // Each token adds the same to the work of the one before.
    wide(config.n_layers) * wide(tokens) * (step(1) + step(tokens)) / 2
}

/// The logits of so many positions.
#[must_use]
pub(crate) fn head(config: &DecoderConfig, vocabulary: usize, positions: usize) -> u128 {
    2 * wide(config.d_model()) * wide(vocabulary) * wide(positions)
}

/// An encoder reads a text of `tokens` in chunks of `chunk`.
#[must_use]
pub(crate) fn encoding(config: &ArcEncoderConfig, tokens: usize, chunk: usize) -> u128 {
    let chunk = chunk.max(1);
    wide(tokens / chunk) * encoding_chunk(config, chunk) + encoding_chunk(config, tokens % chunk)
}

/// A chunk of `tokens`, whose positions are pooled on the way; nothing for none.
fn encoding_chunk(config: &ArcEncoderConfig, tokens: usize) -> u128 {
    if tokens == 0 {
        return 0;
    }
    let mut s = tokens + config.memory_tokens;
    let mut flops = 0;
    for layer in 0..config.n_layers {
        let n = config.pooling.count(s, config.rate(layer));
        let work = match config.pooling.place {
            PoolingPlace::Between => Work { queries: s, new_keys: s, keys: s, fed: n },
            PoolingPlace::Before if config.pooling.pool_type.queries_only => {
                Work { queries: n, new_keys: s, keys: s, fed: n }
            }
            PoolingPlace::Before => Work { queries: n, new_keys: n, keys: n, fed: n },
        };
        flops += work.flops(&config.block);
        s = n;
    }
    flops
}

/// A projector maps so many rows. A plugin's own layers are not known and count nothing.
#[must_use]
pub(crate) fn projecting(layers: &[ProjectorLayer], rows: usize) -> u128 {
    layers
        .iter()
        .map(|layer| match layer {
            ProjectorLayer::Linear { d_in, d_out, .. } => 2 * wide(rows) * wide(*d_in) * wide(*d_out),
            ProjectorLayer::Residual { layers } => projecting(layers, rows),
            _ => 0,
        })
        .sum()
}

/// The values of the keys and values of so many positions.
#[must_use]
pub(crate) fn kv_values(config: &DecoderConfig, positions: usize) -> u128 {
    let attention = config.block.attention;
    2 * wide(config.n_layers) * wide(attention.n_kv_heads) * wide(attention.head_dim) * wide(positions)
}

/// Products of several sizes do not fit 64 bits if someone asks for absurd ones.
fn wide(size: usize) -> u128 {
    size as u128
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
        let per_token = (reading(&config(), 0, 1) + head(&config(), 49_152, 1)) as f64;
        assert!((per_token / (2.0 * 134.5e6) - 1.0).abs() < 0.01, "{per_token}");
    }

    #[test]
    fn writing_takes_what_reading_one_token_at_a_time_takes() {
        let one_by_one: u128 = (0..7).map(|step| reading(&config(), 300 + step, 1)).sum();
        assert_eq!(writing(&config(), 300, 7), one_by_one);
        assert_eq!(writing(&config(), 300, 0), 0);
    }

    #[test]
    fn reading_after_a_prefix_takes_what_is_left_of_reading_at_once() {
        let piece = PREFILL_CHUNK;
        let in_parts = reading(&config(), 0, 2 * piece) + reading(&config(), 2 * piece, 180);
        assert_eq!(in_parts, reading(&config(), 0, 2 * piece + 180));
    }

    #[test]
    fn a_position_of_smollm2_takes_46_kilobytes() {
        assert_eq!(4 * kv_values(&config(), 1), 46_080);
    }
}
