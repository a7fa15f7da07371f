//! The encoder's forward pass from embeddings to latents, on either engine.
//!
//! Which layers pool, in which groups, and what pooled queries see is written once here; an engine
//! runs the blocks ([`Layers`]).
//!
//! Shapes: `b` sequences in a batch, `s` positions, `n` latents, `d` model width.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{
    ArcEncoderConfig, EncodedBatch, PoolType, Pooling, PoolingGroups, PoolingPlace, PoolingRate, TokenRarity,
};
use crate::host::{BatchFrame, HostBlock, HostKeyValue, on_pool};
use crate::nn::{Block, RopeConfig, Rotation, Visibility, Visible};

/// An encoder's blocks on an engine. Tensors on the CPU device are moved to host memory and back.
pub(super) trait Layers {
    /// Positions and visibility at one length of the sequences, shared by the layers between two
    /// pooling layers.
    type Frame;

    /// The number of blocks.
    fn count(&self) -> usize;
    /// The frame of `rows` sequences at `positions`, one list for each, or one for all.
    fn frame(&self, rows: usize, positions: &[Vec<usize>], visible: Visible) -> Self::Frame;
    /// The attention half of a block, `[b, s, d] → [b, s, d]`.
    fn attend(&self, layer: usize, x: Tensor<3>, frame: &Self::Frame) -> Tensor<3>;
    /// The same from pooled states to those that they were pooled from,
    /// `[b, n, d]`, `[b, s, d]` → `[b, n, d]`.
    fn attend_pooled(
        &self,
        layer: usize,
        pooled: (Tensor<3>, &Self::Frame),
        x: (Tensor<3>, &Self::Frame),
        visible: Visible,
    ) -> Tensor<3>;
    /// The feed-forward half, `[b, s, d] → [b, s, d]`.
    fn feed(&self, layer: usize, x: Tensor<3>) -> Tensor<3>;
}

/// Blocks in burn.
pub(super) struct GraphLayers<'a> {
    pub(super) blocks: &'a [Block],
    pub(super) rope: &'a RopeConfig,
    pub(super) device: &'a Device,
}

impl Layers for GraphLayers<'_> {
    type Frame = (Rotation, Visibility);

    fn count(&self) -> usize {
        self.blocks.len()
    }

    fn frame(&self, rows: usize, positions: &[Vec<usize>], visible: Visible) -> Self::Frame {
        let s = positions.first().map_or(0, Vec::len);
        (self.rope.at(positions, self.device), visible.on([rows, s], self.device))
    }

    fn attend(&self, layer: usize, x: Tensor<3>, (rotation, visibility): &Self::Frame) -> Tensor<3> {
        self.blocks[layer].attend(x, rotation, visibility, |new| new)
    }

    fn attend_pooled(
        &self,
        layer: usize,
        (pooled, (after, _)): (Tensor<3>, &Self::Frame),
        (x, (before, _)): (Tensor<3>, &Self::Frame),
        visible: Visible,
    ) -> Tensor<3> {
        let block = &self.blocks[layer];
        let [b, n, _] = pooled.dims();
        let queries = block.attention.queries(block.attention_norm.forward(pooled.clone()), after);
        let context = block.attention.keys_values(block.attention_norm.forward(x), before);
        let visibility = visible.on([b, n], self.device);
        block.add_attention(pooled, block.attention.attend(queries, context, &visibility))
    }

    fn feed(&self, layer: usize, x: Tensor<3>) -> Tensor<3> {
        self.blocks[layer].feed_forward(x)
    }
}

/// Blocks on host memory.
pub(super) struct HostLayers<'a> {
    pub(super) blocks: &'a [HostBlock],
    pub(super) rope: &'a RopeConfig,
}

impl HostLayers<'_> {
    /// `run` on host memory.
    fn on_host(x: Tensor<3>, run: impl FnOnce(Vec<f32>) -> Vec<f32> + Send) -> Tensor<3> {
        let (shape, device) = (x.dims(), x.device());
        let x = values(x);
        Tensor::from_data(TensorData::new(on_pool(|| run(x)), shape), &device)
    }
}

/// A move, or a copy of what is not contiguous.
fn values(x: Tensor<3>) -> Vec<f32> {
    x.into_data().try_into_vec().expect("activations are f32 on the CPU device")
}

impl Layers for HostLayers<'_> {
    type Frame = BatchFrame;

    fn count(&self) -> usize {
        self.blocks.len()
    }

    fn frame(&self, _: usize, positions: &[Vec<usize>], visible: Visible) -> BatchFrame {
        BatchFrame::new(self.rope, positions, visible)
    }

    fn attend(&self, layer: usize, x: Tensor<3>, frame: &BatchFrame) -> Tensor<3> {
        let [b, s, _] = x.dims();
        let block = &self.blocks[layer];
        let heads = block.attention.config;
        let room = [b, heads.n_kv_heads, heads.head_dim];
        let mut context = HostKeyValue::default().with_capacity(room, 0, s);
        Self::on_host(x, |x| block.attend(x, frame, &mut context, 0))
    }

    fn attend_pooled(
        &self,
        layer: usize,
        (pooled, after): (Tensor<3>, &BatchFrame),
        (x, before): (Tensor<3>, &BatchFrame),
        visible: Visible,
    ) -> Tensor<3> {
        let x = values(x);
        let block = &self.blocks[layer];
        Self::on_host(pooled, |pooled| block.attend_pooled((pooled, after), (&x, before), &visible))
    }

    fn feed(&self, layer: usize, x: Tensor<3>) -> Tensor<3> {
        Self::on_host(x, |x| self.blocks[layer].feed(x))
    }
}

/// What an encoder computes, and what its groups end at.
#[derive(Clone, Copy)]
pub(super) struct PoolingPlan<'a> {
    pub(super) config: &'a ArcEncoderConfig,
    pub(super) rarity: Option<&'a TokenRarity>,
}

impl PoolingPlan<'_> {
    /// The groups that a layer which pools with `rate` makes of a sequence of token ids.
    pub(super) fn groups(&self, ids: &[u32], rate: PoolingRate) -> PoolingGroups {
        let even = PoolingGroups::new(ids.len(), rate);
        match (self.rarity, rate) {
            (Some(rarity), PoolingRate::Factor(_)) => rarity.groups(ids, even.len()),
            _ => even,
        }
    }

    /// The blocks that come before any that pools.
    pub(super) fn layers_before_pooling(&self) -> usize {
        (0..self.config.n_layers).take_while(|&layer| self.config.rate(layer) == PoolingRate::Off).count()
    }

    /// What the first block reads, `[b, s, d]`: token embeddings (`rows_of` finds those of all tokens),
    /// then the memory vectors, then zeros; and how many positions each sequence has of its own.
    pub(super) fn embed(
        &self,
        sequences: &[Vec<u32>],
        rows_of: impl FnOnce(&[u32]) -> Tensor<2>,
        memory: Option<Tensor<2>>,
        device: &Device,
    ) -> (Tensor<3>, Vec<usize>) {
        assert!(sequences.iter().all(|ids| !ids.is_empty()), "sequences are not empty");
        let d = self.config.block.d_model;
        let ids = sequences.concat();
        let memory_tokens = memory.as_ref().map_or(0, |memory| memory.dims()[0]);
        let lengths: Vec<usize> = sequences.iter().map(|ids| ids.len() + memory_tokens).collect();
        let longest = lengths.iter().copied().max().expect("there is a sequence");
        let table = rows_of(&ids);
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

    /// The latents from what block `first` reads of the sequences, `[b, s, d]`, before any block that
    /// pools.
    pub(super) fn run<L: Layers>(
        &self,
        layers: &L,
        first: usize,
        mut x: Tensor<3>,
        mut lengths: Vec<usize>,
        sequences: &[Vec<u32>],
    ) -> EncodedBatch {
        let memory_tokens = self.config.memory_tokens;
        let mut frame = self.frame(layers, &lengths, None);
        for layer in first..layers.count() {
            let rate = self.config.rate(layer);
            if rate == PoolingRate::Off {
                x = layers.feed(layer, layers.attend(layer, x, &frame));
            } else {
                let groups = self.rarity.map(|_| sequences.iter().map(|ids| self.groups(ids, rate)));
                let groups: Option<Vec<PoolingGroups>> = groups.map(Iterator::collect);
                let pool = Pool { rate, groups: groups.as_deref() };
                (x, lengths) = self.pooling_block(layers, layer, x, &lengths, pool, &frame);
                frame = self.frame(layers, &lengths, None);
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
    fn pooling_block<L: Layers>(
        &self,
        layers: &L,
        layer: usize,
        x: Tensor<3>,
        lengths: &[usize],
        pool: Pool,
        frame: &L::Frame,
    ) -> (Tensor<3>, Vec<usize>) {
        let Pooling { pool_type: PoolType { kind, queries_only }, place } = self.config.pooling;
        let pooled_states = |states: Tensor<3>| match pool.groups {
            Some(groups) => kind.pool_groups(states, groups),
            None => kind.pool(states, lengths, pool.rate),
        };
        match place {
            PoolingPlace::Between => {
                let pooled = pooled_states(layers.attend(layer, x, frame));
                (layers.feed(layer, pooled.states), pooled.lengths)
            }
            PoolingPlace::Before if queries_only => {
                let pooled = pooled_states(x.clone());
                let after = self.frame(layers, &pooled.lengths, pool.groups);
                let visible = self.visible_to_pooled(&pooled.lengths, lengths);
                let states = layers.attend_pooled(layer, (pooled.states, &after), (x, frame), visible);
                (layers.feed(layer, states), pooled.lengths)
            }
            PoolingPlace::Before => {
                let pooled = pooled_states(x);
                let after = self.frame(layers, &pooled.lengths, pool.groups);
                (layers.feed(layer, layers.attend(layer, pooled.states, &after)), pooled.lengths)
            }
        }
    }

    /// What pooled queries see of the unpooled keys.
    ///
    /// In a causal encoder pooled query `i` sees the keys `0..=i`, as in the reference, which
    /// aligns the mask at its top left corner; not the keys of its own group.
    fn visible_to_pooled(&self, queries: &[usize], keys: &[usize]) -> Visible {
        let n = queries.iter().copied().max().unwrap_or(0);
        padding_mask(n, keys, self.config.causal)
    }

    /// The frame of sequences of these lengths. Pooled states count their own positions from zero, as
    /// in the reference, though the keys that pooled queries see keep theirs; `groups` of unequal size
    /// are where they end, since their number says nothing of the place.
    fn frame<L: Layers>(&self, layers: &L, lengths: &[usize], groups: Option<&[PoolingGroups]>) -> L::Frame {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let ends = |groups: &PoolingGroups| {
            let ends = groups.ranges().map(|group| group.end - 1);
            ends.chain(std::iter::repeat(0)).take(longest).collect()
        };
        let positions: Vec<Vec<usize>> = match groups {
            Some(groups) => groups.iter().map(ends).collect(),
            None => vec![(0..longest).collect()],
        };
        let visible = match (lengths.iter().all(|&length| length == longest), self.config.causal) {
            (true, false) => Visible::All,
            (true, true) => Visible::Causal,
            (false, causal) => padding_mask(longest, lengths, causal),
        };
        layers.frame(lengths.len(), &positions, visible)
    }
}

/// How a layer pools.
#[derive(Clone, Copy)]
struct Pool<'a> {
    rate: PoolingRate,
    /// The groups of each sequence, where they are not of equal size.
    groups: Option<&'a [PoolingGroups]>,
}

/// Hides the padding after each sequence's keys, and later keys where `causal`.
fn padding_mask(s: usize, keys: &[usize], causal: bool) -> Visible {
    let n = keys.iter().copied().max().unwrap_or(0);
    if !causal && keys.iter().all(|&length| length == n) {
        return Visible::All;
    }
    let mut hidden = Vec::with_capacity(keys.len() * s * n);
    for &length in keys {
        for query in 0..s {
            hidden.extend((0..n).map(|key| key >= length || (causal && key > query)));
        }
    }
    Visible::Masked(hidden)
}
