//! The ARC-Encoder's forward pass (arXiv 2510.20535, section 3).
//!
//! Shapes: `b` sequences in a batch, `s` positions, `n` latents, `d` model width.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::{PoolType, Pooling, PoolingGroups, PoolingPlace, PoolingRate, TokenRarity};
use crate::Result;
use crate::nn::{Block, BlockConfig, Embedding, Loader, RopeConfig, Rotation, Visibility};

/// What an encoder computes, besides its weights.
#[derive(Clone, Debug, PartialEq)]
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

/// The encoder: a truncated llama without its last normalisation, whose last layers pool.
#[derive(Module, Debug)]
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
    pub fn load(config: ArcEncoderConfig, loader: &Loader, memory: Option<Tensor<2>>) -> Result<Self> {
        let embedding = loader.embedding(loader.names().embedding, config.block.d_model)?;
        let blocks =
            (0..config.n_layers).map(|layer| loader.block(layer, &config.block)).collect::<Result<_>>()?;
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
        let even = PoolingGroups::new(ids.len(), rate);
        match (&self.rarity, rate) {
            (Some(rarity), PoolingRate::Factor(_)) => rarity.groups(ids, even.len()),
            _ => even,
        }
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
        assert!(sequences.iter().all(|ids| !ids.is_empty()), "sequences are not empty");
        let d = self.d_model();
        let ids = sequences.concat();
        let memory = self.memory.as_ref().map(Param::val);
        let memory_tokens = memory.as_ref().map_or(0, |memory| memory.dims()[0]);
        let lengths: Vec<usize> = sequences.iter().map(|ids| ids.len() + memory_tokens).collect();
        let longest = lengths.iter().copied().max().expect("there is a sequence");
        let table = self.embedding.forward(&ids, device);
        if memory_tokens == 0 && lengths.iter().all(|&length| length == longest) {
            return (table.reshape([sequences.len(), longest, d]), lengths);
        }
        // One table of all tokens, the memory vectors and a zero row, and places in it: as many
        // operations for many sequences as for one.
        let (first_memory, zero) = (ids.len(), ids.len() + memory_tokens);
        let parts = [Some(table), memory, Some(Tensor::zeros([1, d], device))];
        let table = Tensor::cat(parts.into_iter().flatten().collect(), 0);
        let mut places = Vec::with_capacity(sequences.len() * longest);
        let mut start = 0;
        for (sequence, length) in sequences.iter().zip(&lengths) {
            let own = (start..start + sequence.len()).chain(first_memory..zero);
            places.extend(own.chain(std::iter::repeat_n(zero, longest - length)).map(|place| place as i64));
            start += sequence.len();
        }
        let count = places.len();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), device);
        (table.select(0, places).reshape([sequences.len(), longest, d]), lengths)
    }

    /// The blocks that come before any that pools.
    pub(crate) fn layers_before_pooling(&self) -> usize {
        (0..self.blocks.len()).take_while(|&layer| self.config.rate(layer) == PoolingRate::Off).count()
    }

    /// The latents from what block `first` reads of the sequences, `[b, s, d]`, before any block that
    /// pools.
    pub(crate) fn forward_from(
        &self,
        first: usize,
        mut x: Tensor<3>,
        mut lengths: Vec<usize>,
        sequences: &[Vec<u32>],
        device: &Device,
    ) -> EncodedBatch {
        let memory_tokens = self.memory.as_ref().map_or(0, |memory| memory.dims()[0]);
        let mut frame = Frame::new(self, &lengths, device);
        for (layer, block) in self.blocks.iter().enumerate().skip(first) {
            let rate = self.config.rate(layer);
            if rate == PoolingRate::Off {
                x = block.attend(x, &frame.rotation, &frame.visibility, |new| new);
                x = block.feed_forward(x);
            } else {
                let groups =
                    self.rarity.is_some().then(|| sequences.iter().map(|ids| self.groups(ids, rate)));
                let groups: Option<Vec<PoolingGroups>> = groups.map(Iterator::collect);
                let pool = Pool { rate, groups: groups.as_deref() };
                (x, lengths) = self.pooling_block(block, x, &lengths, pool, &frame, device);
                frame = Frame::new(self, &lengths, device);
            }
        }
        if memory_tokens == 0 {
            return EncodedBatch { states: x, lengths };
        }
        let latents = lengths
            .iter()
            .enumerate()
            .map(|(row, &length)| {
                x.clone().narrow(0, row, 1).narrow(1, length - memory_tokens, memory_tokens)
            })
            .collect();
        EncodedBatch { states: Tensor::cat(latents, 0), lengths: vec![memory_tokens; lengths.len()] }
    }

    /// A block that pools; returns the pooled states and their lengths.
    fn pooling_block(
        &self,
        block: &Block,
        x: Tensor<3>,
        lengths: &[usize],
        pool: Pool,
        frame: &Frame,
        device: &Device,
    ) -> (Tensor<3>, Vec<usize>) {
        let Pooling { pool_type: PoolType { kind, queries_only }, place } = self.config.pooling;
        let pooled_states = |states: Tensor<3>| match pool.groups {
            Some(groups) => kind.pool_groups(states, groups),
            None => kind.pool(states, lengths, pool.rate),
        };
        match place {
            PoolingPlace::Between => {
                let attended = block.attend(x, &frame.rotation, &frame.visibility, |new| new);
                let pooled = pooled_states(attended);
                (block.feed_forward(pooled.states), pooled.lengths)
            }
            PoolingPlace::Before if queries_only => {
                let pooled = pooled_states(x.clone());
                let after = Frame::of_pooled(self, &pooled.lengths, pool.groups, device);
                let queries = block
                    .attention
                    .queries(block.attention_norm.forward(pooled.states.clone()), &after.rotation);
                let context = block.attention.keys_values(block.attention_norm.forward(x), &frame.rotation);
                let visibility = self.visibility_of_pooled(&pooled.lengths, lengths, device);
                let attended = block.attention.attend(queries, context, &visibility);
                let states = block.add_attention(pooled.states, attended);
                (block.feed_forward(states), pooled.lengths)
            }
            PoolingPlace::Before => {
                let pooled = pooled_states(x);
                let after = Frame::of_pooled(self, &pooled.lengths, pool.groups, device);
                let attended = block.attend(pooled.states, &after.rotation, &after.visibility, |new| new);
                (block.feed_forward(attended), pooled.lengths)
            }
        }
    }

    /// What pooled queries see of the unpooled keys.
    ///
    /// In a causal encoder pooled query `i` sees the keys `0..=i`, as in the reference, which
    /// aligns the mask at its top left corner; not the keys of its own group.
    fn visibility_of_pooled(&self, queries: &[usize], keys: &[usize], device: &Device) -> Visibility {
        let n = queries.iter().copied().max().unwrap_or(0);
        padding_mask(n, keys, self.config.causal, device).map_or(Visibility::All, Visibility::Masked)
    }
}

/// How a layer pools.
#[derive(Clone, Copy)]
struct Pool<'a> {
    rate: PoolingRate,
    /// The groups of each sequence, where they are not of equal size.
    groups: Option<&'a [PoolingGroups]>,
}

/// Positions and visibility at one length of the sequences, shared by the layers between two
/// pooling layers.
struct Frame {
    rotation: Rotation,
    visibility: Visibility,
}

impl Frame {
    fn new(encoder: &ArcEncoder, lengths: &[usize], device: &Device) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        Self::at(encoder, lengths, &[(0..longest).collect()], device)
    }

    /// Of pooled states. They count their own positions from zero, as in the reference, though the keys
    /// that pooled queries see keep theirs; groups of unequal size are where they end, since their
    /// number says nothing of the place.
    fn of_pooled(
        encoder: &ArcEncoder,
        lengths: &[usize],
        groups: Option<&[PoolingGroups]>,
        device: &Device,
    ) -> Self {
        let Some(groups) = groups else { return Self::new(encoder, lengths, device) };
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let ends = |groups: &PoolingGroups| {
            let ends = groups.ranges().map(|group| group.end - 1);
            ends.chain(std::iter::repeat(0)).take(longest).collect()
        };
        Self::at(encoder, lengths, &groups.iter().map(ends).collect::<Vec<_>>(), device)
    }

    fn at(encoder: &ArcEncoder, lengths: &[usize], positions: &[Vec<usize>], device: &Device) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let rotation = encoder.config.rope.at(positions, device);
        let uniform = lengths.iter().all(|&length| length == longest);
        let visibility = match (uniform, encoder.config.causal) {
            (true, false) => Visibility::All,
            (true, true) => Visibility::Causal,
            (false, causal) => {
                padding_mask(longest, lengths, causal, device).map_or(Visibility::All, Visibility::Masked)
            }
        };
        Self { rotation, visibility }
    }
}

/// Hides the padding after each sequence's keys, and later keys where `causal`; `None` where
/// nothing is hidden. `[b, 1, s, n]`, `true` hides.
fn padding_mask(s: usize, keys: &[usize], causal: bool, device: &Device) -> Option<Tensor<4, Bool>> {
    let n = keys.iter().copied().max().unwrap_or(0);
    if !causal && keys.iter().all(|&length| length == n) {
        return None;
    }
    let mut hidden = Vec::with_capacity(keys.len() * s * n);
    for &length in keys {
        for query in 0..s {
            hidden.extend((0..n).map(|key| key >= length || (causal && key > query)));
        }
    }
    Some(Tensor::from_data(TensorData::new(hidden, [keys.len(), 1, s, n]), device))
}
