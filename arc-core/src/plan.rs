//! What a context costs in memory and work, from the shapes of encoder, projector and decoder.
//!
//! No weight is read. Work is counted as the engine issues it: matrix products, a multiplication
//! and an addition each, with dense attention (every query with every key). `docs/plan.md` lists
//! the terms. Shapes: `s` positions, `n` latents, `d` model width, `h` query heads, `g` key and value
//! heads, `k` head width, `f` feed-forward width.

use std::path::Path;

use arc_adapters::{EncoderManifest, ModelShape, ProjectorSpec, setters};
use serde::Serialize;

use crate::decoder::{Architecture, DecoderCheckpoint, DecoderConfig, PREFILL_CHUNK};
use crate::encoder::{ArcEncoderConfig, CHUNKS_AT_ONCE, encoder_config};
use crate::flops;
use crate::nn::{BlockConfig, NormConfig};
use crate::weights::ModelArgs;
use crate::{Error, Result};

/// A decoder's sizes.
#[derive(Clone, Debug)]
pub struct DecoderSizes {
    config: DecoderConfig,
    vocabulary: usize,
    tied_head: bool,
}

/// An encoder's sizes.
#[derive(Clone, Debug)]
pub struct EncoderSizes {
    config: ArcEncoderConfig,
    vocabulary: usize,
    chunk_tokens: usize,
}

/// What is to be planned.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PlanRequest {
    /// Tokens of the context, counted alike by encoder and decoder.
    pub context: usize,
    /// How many tokens a latent stands for; the encoder's own rates where `None`.
    pub factor: Option<usize>,
    /// Tokens to be written.
    pub new_tokens: usize,
    /// Bytes of a value: 4 for `f32`, which is what weights are on a device; 2 for `bf16`.
    pub bytes_per_value: usize,
}

setters!(PlanRequest {
    factor: Option<usize>,
    new_tokens: usize,
    bytes_per_value: usize,
});

impl PlanRequest {
    /// A context of so many tokens at the encoder's own rates, one token to be written, values of 4 bytes.
    #[must_use]
    pub fn new(context: usize) -> Self {
        Self { context, factor: None, new_tokens: 1, bytes_per_value: 4 }
    }
}

/// What a context costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// Tokens of the context.
    pub context: usize,
    /// Chunks that the encoder cuts it into.
    pub chunks: usize,
    /// Latents, without the special vector.
    pub latents: usize,
    /// Values of each part.
    pub parameters: Parameters,
    /// With compression: the decoder reads latents.
    pub compressed: ReadingCost,
    /// Without: the decoder reads the tokens.
    pub plain: ReadingCost,
    /// How many times fewer operations with compression, compressing included, before the first
    /// token is written.
    pub prefill_ratio: f64,
    /// The same after all tokens are written.
    pub total_ratio: f64,
    /// The paper's estimate of the former for contexts that are short against the model's width:
    /// `1 / (p + latents / context)`, where `p` is the encoder's share of the decoder's parameters
    /// (arXiv 2510.20535, equation 3).
    pub paper_ratio: f64,
}

/// Numbers of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Parameters {
    /// The encoder, its embedding table included.
    pub encoder: u64,
    /// The projector and the special vector.
    pub projector: u64,
    /// The decoder, its embedding table and head included.
    pub decoder: u64,
}

/// The cost of one way to read the context.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ReadingCost {
    /// Positions that the decoder reads.
    pub positions: usize,
    /// Whether they and the new tokens fit the decoder's window.
    pub fits_window: bool,
    /// Memory by part.
    pub bytes: Bytes,
    /// Work by stage.
    pub flops: Flops,
}

/// Bytes by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Bytes {
    /// The encoder's weights.
    pub encoder: u64,
    /// The projector's weights.
    pub projector: u64,
    /// The decoder's weights.
    pub decoder: u64,
    /// Keys and values of every position, new tokens included.
    pub kv_cache: u64,
    /// The largest set of intermediate values that is alive at once, estimated.
    pub activations: u64,
    /// All of it.
    pub total: u64,
}

/// Floating-point operations by stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Flops {
    /// Encoder and projector.
    pub compress: f64,
    /// The decoder reads the context, and makes the logits of the first new token.
    pub prefill: f64,
    /// The decoder writes the other new tokens.
    pub decode: f64,
    /// All of it.
    pub total: f64,
}

impl DecoderSizes {
    /// The sizes of a model that is described and not here; `architecture` is `llama` or `olmo`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`] for an architecture that such a description does not cover.
    pub fn from_shape(architecture: &str, shape: &ModelShape) -> Result<Self> {
        let olmo = architecture == Architecture::Olmo.name();
        if !olmo && architecture != Architecture::Llama.name() {
            return Err(Error::InvalidValue {
                what: "the architecture of a model that is described by its shape".into(),
                found: architecture.to_owned(),
                expected: "`llama` or `olmo`".into(),
            });
        }
        let mut config = DecoderConfig::from_meta(&ModelArgs::from_shape(shape, olmo));
        if let Some(length) = shape.context_length {
            config.context_length = length;
        }
        Ok(Self { config, vocabulary: shape.vocab_size, tied_head: shape.tied_head })
    }

    /// The sizes of a model's file or folder, from its header and configuration alone.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the file or folder.
    pub fn read(path: &Path) -> Result<Self> {
        let checkpoint = DecoderCheckpoint::open(path)?;
        let table = checkpoint.embedding_table()?;
        Ok(Self {
            config: checkpoint.config().clone(),
            vocabulary: table.shape().first().copied().unwrap_or(0),
            tied_head: !checkpoint.source().has(checkpoint.names().head),
        })
    }

    /// What the decoder computes.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn parameters(&self) -> u128 {
        let d = wide(self.config.block.d_model);
        let tables = if self.tied_head { 1 } else { 2 } * wide(self.vocabulary) * d;
        let norm = if has_norm_weights(&self.config.block) { d } else { 0 };
        tables + norm + wide(self.config.n_layers) * block_parameters(&self.config.block)
    }

    /// The work of reading `positions` positions and of the last one's logits.
    fn prefill_flops(&self, positions: usize) -> u128 {
        let head = flops::head(&self.config, self.vocabulary, usize::from(positions > 0));
        flops::reading(&self.config, 0, positions) + head
    }

    /// The work of writing one token after another, the first of which the prefill has given.
    fn decode_flops(&self, positions: usize, new_tokens: usize) -> u128 {
        let read = new_tokens.saturating_sub(1);
        flops::writing(&self.config, positions, read) + flops::head(&self.config, self.vocabulary, read)
    }

    /// Of a block at the last piece of the prefill, or the logits.
    fn activations(&self, positions: usize) -> u128 {
        let s = positions.min(PREFILL_CHUNK);
        block_activations(&self.config.block, 1, s, positions).max(wide(self.vocabulary))
    }
}

impl EncoderSizes {
    /// The sizes of an encoder package; `backbone` are those of its backbone, for one that has one.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEncoder`] for a package that contradicts its backbone, or whose backbone is
    /// not given.
    pub fn new(manifest: &EncoderManifest, backbone: Option<&DecoderSizes>) -> Result<Self> {
        let described = match &manifest.shape {
            Some(shape) => Some(DecoderSizes::from_shape(&manifest.architecture, shape)?),
            None => backbone.cloned(),
        };
        let base = described.ok_or_else(|| Error::InvalidEncoder {
            encoder: manifest.name.clone(),
            reason: "it has a backbone whose sizes are not known".into(),
        })?;
        Ok(Self {
            config: encoder_config(manifest, &base.config)?,
            vocabulary: base.vocabulary,
            chunk_tokens: manifest.chunk_tokens,
        })
    }

    fn parameters(&self) -> u128 {
        let d = wide(self.config.block.d_model);
        let rows = wide(self.vocabulary) + wide(self.config.memory_tokens);
        rows * d + wide(self.config.n_layers) * block_parameters(&self.config.block)
    }
}

/// What a context costs with compression and without, whatever memory there is.
///
/// # Errors
///
/// [`Error::InvalidValue`] for a context that is empty, for a factor that the encoder cannot pool by, and
/// for a projector that does not lie between the two.
pub fn plan(
    encoder: &EncoderSizes,
    projector: &ProjectorSpec,
    special_vector: bool,
    decoder: &DecoderSizes,
    request: &PlanRequest,
) -> Result<Plan> {
    let (d_encoder, d_decoder) = (encoder.config.block.d_model, decoder.config.block.d_model);
    projector.check(d_encoder, d_decoder)?;
    if request.context == 0 {
        return Err(Error::InvalidValue {
            what: "the context".into(),
            found: "0 tokens".into(),
            expected: "1 or more".into(),
        });
    }

    let config = encoder.config.at_factor(request.factor)?;
    let (whole, rest) = (request.context / encoder.chunk_tokens, request.context % encoder.chunk_tokens);
    let latents_of = |tokens: usize| if tokens > 0 { config.latents(tokens) } else { 0 };
    let latents = whole * latents_of(encoder.chunk_tokens) + latents_of(rest);
    let rows = latents + usize::from(special_vector);
    let compress = flops::encoding(&config, request.context, encoder.chunk_tokens)
        + flops::projecting(&projector.layers, rows);

    let projector_values: u128 = projector
        .weight_slots()
        .iter()
        .map(|slot| slot.shape.iter().map(|&n| wide(n)).product::<u128>())
        .sum();
    let special = if special_vector { wide(d_encoder) } else { 0 };
    let parameters = Parameters {
        encoder: narrow(encoder.parameters()),
        projector: narrow(projector_values + special),
        decoder: narrow(decoder.parameters()),
    };
    let longest = request.context.min(encoder.chunk_tokens) + encoder.config.memory_tokens;
    let encoder_activations =
        block_activations(&encoder.config.block, whole.clamp(1, CHUNKS_AT_ONCE), longest, longest);

    let arm = |positions: usize, compress: u128, with_encoder: bool| {
        let value = wide(request.bytes_per_value);
        let activations = decoder.activations(positions);
        let activations = if with_encoder { activations.max(encoder_activations) } else { activations };
        let of = |values: u128| if with_encoder { narrow(values * value) } else { 0 };
        let end = positions.saturating_add(request.new_tokens);
        let mut bytes = Bytes {
            encoder: of(wide64(parameters.encoder)),
            projector: of(wide64(parameters.projector)),
            decoder: narrow(wide64(parameters.decoder) * value),
            kv_cache: narrow(flops::kv_values(&decoder.config, end) * value),
            activations: narrow(activations * value),
            total: 0,
        };
        bytes.total = [bytes.encoder, bytes.projector, bytes.decoder, bytes.kv_cache, bytes.activations]
            .iter()
            .fold(0, |sum, &part| sum.saturating_add(part));
        let (prefill, decode) =
            (decoder.prefill_flops(positions), decoder.decode_flops(positions, request.new_tokens));
        let flops = Flops {
            compress: compress as f64,
            prefill: prefill as f64,
            decode: decode as f64,
            total: (compress + prefill + decode) as f64,
        };
        ReadingCost { positions, fits_window: end <= decoder.config.context_length, bytes, flops }
    };
    let compressed = arm(rows, compress, true);
    let plain = arm(request.context, 0, false);
    let share = parameters.encoder as f64 / parameters.decoder as f64;
    Ok(Plan {
        context: request.context,
        chunks: request.context.div_ceil(encoder.chunk_tokens),
        latents,
        parameters,
        prefill_ratio: plain.flops.prefill / (compressed.flops.compress + compressed.flops.prefill),
        total_ratio: plain.flops.total / compressed.flops.total,
        paper_ratio: 1.0 / (share + latents as f64 / request.context as f64),
        compressed,
        plain,
    })
}

fn has_norm_weights(block: &BlockConfig) -> bool {
    !matches!(block.norm, NormConfig::NonParametricLayer { .. })
}

fn block_parameters(block: &BlockConfig) -> u128 {
    let (d, f, k) = (wide(block.d_model), wide(block.d_ff), wide(block.attention.head_dim));
    let (heads, kv_heads) = (wide(block.attention.n_heads) * k, wide(block.attention.n_kv_heads) * k);
    let biases = if block.qkv_bias { heads + 2 * kv_heads } else { 0 };
    let norms = if has_norm_weights(block) {
        (if block.sandwich { 4 } else { 2 }) * d + if block.qk_norm { 2 * k } else { 0 }
    } else {
        0
    };
    2 * d * heads + 2 * d * kv_heads + 3 * d * f + biases + norms
}

/// The larger of the two sets that are alive at once in a block: the state, its norm, queries, and
/// keys and values for every query head, with the scores; or the state, its norm, and three rows of
/// the feed-forward part.
fn block_activations(block: &BlockConfig, batch: usize, s: usize, keys: usize) -> u128 {
    let (s, keys, d) = (wide(s), wide(keys), wide(block.d_model));
    let heads = wide(block.attention.n_heads) * wide(block.attention.head_dim);
    let attention = s * (2 * d + heads) + 2 * keys * heads + wide(block.attention.n_heads) * s * keys;
    let feed_forward = s * (2 * d + 3 * wide(block.d_ff));
    wide(batch) * attention.max(feed_forward)
}

/// Products of several sizes do not fit 64 bits if someone asks for absurd ones.
fn wide(size: usize) -> u128 {
    size as u128
}

fn wide64(size: u64) -> u128 {
    u128::from(size)
}

fn narrow(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama(
        d_model: usize,
        n_layers: usize,
        heads: [usize; 2],
        d_ff: usize,
        vocab_size: usize,
    ) -> ModelShape {
        ModelShape::default()
            .n_layers(n_layers)
            .d_model(d_model)
            .n_heads(heads[0])
            .n_kv_heads(heads[1])
            .d_head(128)
            .d_ff(d_ff)
            .vocab_size(vocab_size)
            .norm_eps(1e-5)
            .rope_theta(1e6)
            .context_length(Some(32_768))
    }

    /// The published encoder of 3 billion parameters, and Mistral 7B.
    fn published(factor: i64) -> (EncoderSizes, DecoderSizes) {
        let mut shape = llama(3072, 28, [24, 8], 8192, 128_256);
        shape.rope_theta = 5e5;
        let manifest = serde_json::json!({
            "schema": 1, "name": "arc", "encoder_id": "x", "architecture": "llama", "d_encoder": 3072,
            "n_truncated_layers": 2, "compress_rates": [factor], "pool_type": "mean_pooled_queries",
            "where": "before", "chunk_tokens": 1024, "shape": shape,
            "weights": {"kind": "published", "source": "hf:a/b@c#d"},
        });
        let manifest = EncoderManifest::parse(&manifest.to_string(), Path::new("test")).unwrap();
        let decoder = DecoderSizes::from_shape("llama", &llama(4096, 32, [32, 8], 14336, 32_768)).unwrap();
        (EncoderSizes::new(&manifest, None).unwrap(), decoder)
    }

    fn paper_plan(factor: i64, context: usize) -> Plan {
        let (encoder, decoder) = published(factor);
        let request = PlanRequest { context, factor: None, new_tokens: 1, bytes_per_value: 4 };
        plan(&encoder, &ProjectorSpec::two_linear(3072, 2048, 4096), true, &decoder, &request).unwrap()
    }

    #[test]
    fn parameters_are_those_of_the_published_models() {
        let plan = paper_plan(-8, 1024);
        // Mistral 7B v0.3, as its card says, and Llama 3.2 3B less two layers, without its head.
        assert_eq!(plan.parameters.decoder, 7_248_023_552);
        assert_eq!(plan.parameters.encoder, 3_212_749_824 - 2 * 100_669_440 - 3072);
        assert_eq!(plan.parameters.projector, 3072 * 2048 + 2048 * 4096 + 3072);
        assert_eq!(plan.latents, 128);
    }

    #[test]
    fn the_ratios_of_the_papers_appendix_come_out() {
        let (four, eight) = (paper_plan(-4, 1024), paper_plan(-8, 1024));
        assert!((four.paper_ratio - 1.5).abs() < 0.05, "{}", four.paper_ratio);
        assert!((eight.paper_ratio - 1.9).abs() < 0.06, "{}", eight.paper_ratio);
        // What is issued is a little less work: neither table of embeddings is multiplied by, logits
        // are made once, and the last layer of the encoder has few queries.
        assert!((1.5..1.75).contains(&four.prefill_ratio), "{}", four.prefill_ratio);
        assert!((1.9..2.2).contains(&eight.prefill_ratio), "{}", eight.prefill_ratio);
    }

    #[test]
    fn a_longer_context_gains_more_since_chunks_do_not_see_each_other() {
        let ratios: Vec<f64> = [1024, 8192, 32_000].map(|n| paper_plan(-8, n).prefill_ratio).to_vec();
        assert!(ratios.is_sorted(), "{ratios:?}");
    }

    #[test]
    fn a_window_counts_latents_and_tokens() {
        let plan = paper_plan(-8, 32_768);
        assert_eq!(plan.chunks, 32);
        assert!(plan.compressed.fits_window && !plan.plain.fits_window);
        // A rest is a chunk too.
        assert_eq!(paper_plan(-8, 32_769).chunks, 33);
    }

    #[test]
    fn the_cache_is_keys_and_values_of_each_layer() {
        let plan = paper_plan(-8, 1024);
        // Two sides, 32 layers, 8 heads of 128, 4 bytes, for 129 positions and a new one.
        assert_eq!(plan.compressed.bytes.kv_cache, 2 * 32 * 8 * 128 * 4 * 130);
        assert_eq!(plan.plain.bytes.encoder, 0);
    }
}
