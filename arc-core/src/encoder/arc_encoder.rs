//! The ARC-Encoder's forward pass (arXiv 2510.20535, section 3).
//!
//! Shapes: `b` sequences in a batch, `s` positions, `n` latents, `d` model width.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::forward::{GraphLayers, PoolingPlan};
use super::{Pooling, PoolingGroups, PoolingKind, PoolingRate, TokenRarity};
use crate::nn::{Block, BlockConfig, Embedding, Loader, RopeConfig};
use crate::{Error, Result};

/// What an encoder computes, besides its weights.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ArcEncoderConfig {
    /// The shape of each block.
    pub block: BlockConfig,
    /// The rotation of queries and keys.
    pub rope: RopeConfig,
    /// The number of blocks that are kept of the backbone, from its beginning.
    pub n_layers: usize,
    /// The rates of the last layers, one each, the last for the last layer.
    pub compress_rates: Vec<PoolingRate>,
    /// How and where those layers pool.
    pub pooling: Pooling,
    /// Whether a position sees only earlier ones.
    pub causal: bool,
    /// How many learned vectors are appended, whose final states are the latents; 0 to pool.
    pub memory_tokens: usize,
}

impl ArcEncoderConfig {
    /// How much a layer pools.
    #[must_use]
    pub fn rate(&self, layer: usize) -> PoolingRate {
        let first_pooling = self.n_layers.saturating_sub(self.compress_rates.len());
        let rate = layer.checked_sub(first_pooling).and_then(|j| self.compress_rates.get(j));
        rate.copied().unwrap_or(PoolingRate::Off)
    }

    /// How many tokens a latent stands for where nothing is asked for: the product of the pooling layers'
    /// factors. Layers that pool to a fixed count, and memory tokens, have none: they count as 1.
    #[must_use]
    pub fn default_factor(&self) -> usize {
        self.compress_rates
            .iter()
            .map(|rate| if let PoolingRate::Factor(p) = rate { *p } else { 1 })
            .product()
    }

    /// Whether the number of latents follows from factors alone, so that another one can be asked for.
    #[must_use]
    pub fn pools_by_factor(&self) -> bool {
        let by_factor = |rate: &PoolingRate| matches!(rate, PoolingRate::Factor(_) | PoolingRate::Off);
        self.memory_tokens == 0 && self.compress_rates.iter().all(by_factor)
    }

    /// Whether pooling merges similar states, wherever they stand: how many latents a text gets then depends on
    /// what it says.
    #[must_use]
    pub fn merges(&self) -> bool {
        self.memory_tokens == 0 && matches!(self.pooling.pool_type.kind, PoolingKind::KMeans(_))
    }

    /// The same encoder where a latent stands for `factor` tokens: the last layer alone pools then, unless
    /// the factor is the encoder's own.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`] for factor 0, and for any factor of an encoder with memory tokens.
    pub fn at_factor(&self, factor: Option<usize>) -> Result<Self> {
        let rate = match factor {
            None => return Ok(self.clone()),
            Some(factor) if self.pools_by_factor() && factor == self.default_factor() => {
                return Ok(self.clone());
            }
            Some(factor) if self.memory_tokens > 0 => {
                return Err(Error::InvalidValue {
                    what: "the pooling factor".into(),
                    found: factor.to_string(),
                    expected: "none: the encoder has memory tokens and pools nothing".into(),
                });
            }
            Some(0) => return Err(Error::factor_of_0()),
            Some(1) => PoolingRate::Off,
            Some(factor) => PoolingRate::Factor(factor),
        };
        Ok(Self { compress_rates: vec![rate], ..self.clone() })
    }

    /// The latents of a sequence of so many tokens; see [`Pooling::count`] for what merging by
    /// similarity may leave of them.
    #[must_use]
    pub fn latents(&self, tokens: usize) -> usize {
        if self.memory_tokens > 0 {
            return self.memory_tokens;
        }
        (0..self.n_layers).fold(tokens, |positions, layer| self.pooling.count(positions, self.rate(layer)))
    }
}

/// The encoder in burn: a truncated llama without its last normalisation, whose last layers pool.
#[derive(Module, Debug)]
#[non_exhaustive]
pub struct ArcEncoder {
    /// Token embeddings.
    pub embedding: Embedding,
    /// The kept blocks.
    pub blocks: Vec<Block>,
    /// The memory vectors, `[memory_tokens, d]`, where there are any.
    pub memory: Option<Param<Tensor<2>>>,
    /// What groups end at, where they are not of equal size.
    #[module(skip)]
    rarity: Option<Arc<TokenRarity>>,
    #[module(skip)]
    config: ArcEncoderConfig,
}

/// The latents of a batch of sequences.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EncodedBatch {
    /// `[b, n, d]`; a sequence's latents come first in its row, the rest is padding.
    pub states: Tensor<3>,
    /// The number of latents of each sequence.
    pub lengths: Vec<usize>,
}

impl EncodedBatch {
    /// The latents of one sequence, `[lengths[row], d]`.
    ///
    /// # Panics
    ///
    /// Panics if there is no such row.
    #[must_use]
    pub fn row(&self, row: usize) -> Tensor<2> {
        self.states.clone().narrow(0, row, 1).narrow(1, 0, self.lengths[row]).squeeze_dim(0)
    }
}

impl ArcEncoder {
    /// Reads the kept blocks and the embeddings of a backbone, or of an encoder's checkpoint.
    ///
    /// # Errors
    ///
    /// An error for each tensor that is missing or misshapen.
    pub fn load(
        config: ArcEncoderConfig,
        loader: &Loader,
        memory: Option<Tensor<2>>,
        device: &Device,
    ) -> Result<Self> {
        let embedding = loader.embedding(loader.names().embedding, config.block.d_model)?;
        let embedding = Embedding::from_stored(&embedding, device);
        let block = |layer| Ok(Block::from_stored(&loader.block(layer, &config.block)?, device));
        let blocks = (0..config.n_layers).map(block).collect::<Result<_>>()?;
        Ok(Self { embedding, blocks, memory: memory.map(Param::from_tensor), rarity: None, config })
    }

    /// What the encoder computes.
    #[must_use]
    pub fn config(&self) -> &ArcEncoderConfig {
        &self.config
    }

    /// The width of the latents.
    #[must_use]
    pub fn d_model(&self) -> usize {
        self.config.block.d_model
    }

    /// The same encoder with other pooling rates, sharing the weights.
    #[must_use]
    pub fn with_rates(&self, compress_rates: Vec<PoolingRate>) -> Self {
        let mut encoder = self.clone();
        encoder.config.compress_rates = compress_rates;
        encoder
    }

    /// The same encoder where the last `count` layers come after the first `first` ones, and add nothing: the
    /// layers between move to the end.
    #[must_use]
    pub(crate) fn with_silent_layers(mut self, first: usize, count: usize) -> Self {
        self.blocks[first..].rotate_right(count);
        for block in &mut self.blocks[first..first + count] {
            block.silence();
        }
        self
    }

    /// The same encoder with groups that end at rare words.
    #[must_use]
    pub fn with_rarity(mut self, rarity: Arc<TokenRarity>) -> Self {
        self.rarity = Some(rarity);
        self
    }

    /// What its groups end at, where they are not of equal size.
    #[must_use]
    pub fn rarity(&self) -> Option<&TokenRarity> {
        self.rarity.as_deref()
    }

    /// The groups that a layer which pools with `rate` makes of a sequence of token ids.
    #[must_use]
    pub fn groups(&self, ids: &[u32], rate: PoolingRate) -> PoolingGroups {
        self.plan().groups(ids, rate)
    }

    /// The latents of each sequence of token ids.
    ///
    /// A batch gives what its sequences give one by one.
    ///
    /// # Shapes
    ///
    /// - input: `b` sequences of any positive length
    /// - output: `[b, n, d]` with `n` the most latents of a sequence
    ///
    /// # Panics
    ///
    /// Panics if there is no sequence, or if one is empty.
    #[must_use]
    pub fn forward(&self, sequences: &[Vec<u32>], device: &Device) -> EncodedBatch {
        let (x, lengths) = self.embed(sequences, device);
        self.forward_from(0, x, lengths, sequences, device)
    }

    /// What the first block reads, `[b, s, d]`: token embeddings, then the memory vectors, then
    /// zeros; and how many positions each sequence has of its own.
    pub(crate) fn embed(&self, sequences: &[Vec<u32>], device: &Device) -> (Tensor<3>, Vec<usize>) {
        let memory = self.memory.as_ref().map(Param::val);
        self.plan().embed(sequences, |ids| self.embedding.forward(ids, device), memory, device)
    }

    /// The blocks that come before any that pools.
    pub(crate) fn layers_before_pooling(&self) -> usize {
        self.plan().layers_before_pooling()
    }

    /// The latents from what block `first` reads of the sequences, `[b, s, d]`, before any block that
    /// pools.
    pub(crate) fn forward_from(
        &self,
        first: usize,
        x: Tensor<3>,
        lengths: Vec<usize>,
        sequences: &[Vec<u32>],
        device: &Device,
    ) -> EncodedBatch {
        let layers = GraphLayers { blocks: &self.blocks, rope: &self.config.rope, device };
        self.plan().run(&layers, first, x, lengths, sequences)
    }

    fn plan(&self) -> PoolingPlan<'_> {
        PoolingPlan { config: &self.config, rarity: self.rarity.as_deref() }
    }
}
