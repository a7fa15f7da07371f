//! A decoder in burn: on GPUs, and wherever a gradient goes through its graph.
//!
//! Shapes: `b` batch, `s` positions of this step, `d` model width.

use burn::module::{Module as _, ModuleVisitor, Param};
use burn::tensor::{Device, FloatDType, Tensor};
use sha2::{Digest as _, Sha256};

use super::config::DecoderConfig;
use super::kv_cache::{KvCache, append};
use super::stored::StoredDecoder;
use crate::nn::{Block, Embedding, KeyValue, Linear, Norm, Rotation, Visibility};

/// The modules of a decoder.
#[derive(Debug)]
pub(crate) struct GraphDecoder {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: Norm,
    head: Linear,
    device: Device,
}

/// What the layers of one kind share in a pass.
type Frame = (Rotation, Visibility);

impl GraphDecoder {
    pub(super) fn from_stored(stored: &StoredDecoder, device: &Device) -> Self {
        let embedding = Embedding::from_stored(&stored.embedding, device);
        let head = match &stored.head {
            Some(head) => Linear::from_stored(head, device),
            None => embedding.tied_head(),
        };
        let blocks = stored.blocks.iter().map(|block| Block::from_stored(block, device)).collect();
        Self::new(embedding, blocks, Norm::from_stored(&stored.norm, device), head, device)
    }

    pub(super) fn new(
        embedding: Embedding,
        blocks: Vec<Block>,
        norm: Norm,
        head: Linear,
        device: &Device,
    ) -> Self {
        Self { embedding, blocks, norm, head, device: device.clone() }
    }

    /// Keeps the matrices in this type and multiplies in it. The embedding table stays as it is, so
    /// that a head which shared it has a copy of its own then.
    pub(super) fn with_matrices_in(mut self, products: FloatDType) -> Self {
        self.blocks.iter_mut().flat_map(Block::linears_mut).for_each(|linear| linear.keep_in(products));
        self.head.keep_in(products);
        self
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.embedding.dims()[0]
    }

    /// `[ids.len(), d]`
    pub(super) fn embed(&self, ids: &[u32]) -> Tensor<2> {
        self.embedding.forward(ids, &self.device)
    }

    /// Reads the next positions, `[b, s, d] → [b, s, d]`.
    pub(super) fn forward(&self, config: &DecoderConfig, x: Tensor<3>, cache: &mut KvCache) -> Tensor<3> {
        let s = x.dims()[1];
        let frames = self.frames(config, s, cache);
        let from = cache.len();
        let layers = cache.tensors();
        let hidden = self.run(config, x, &frames, |layer, new| append(&mut layers[layer], new, from));
        cache.advance(s);
        hidden
    }

    /// Reads whole sequences at once, `[b, s, d] → [b, s, d]`: gradients pass through it, and nothing
    /// is cached.
    pub(super) fn read(&self, config: &DecoderConfig, x: Tensor<3>) -> Tensor<3> {
        let frames = self.frames(config, x.dims()[1], &KvCache::in_tensors(0, vec![0]));
        self.run(config, x, &frames, |_, new| new)
    }

    fn frames(&self, config: &DecoderConfig, s: usize, cache: &KvCache) -> Vec<Frame> {
        let positions = cache.next_positions(s);
        let frame = |kind: crate::decoder::config::LayerKind| {
            let visible = cache.visible(s, kind.window);
            (kind.rope.at(&positions, &self.device), visible.on([cache.rows(), s], &self.device))
        };
        config.layer_kinds().into_iter().map(frame).collect()
    }

    /// The blocks one after another; `remember` makes of a layer's new keys and values all of them.
    fn run(
        &self,
        config: &DecoderConfig,
        x: Tensor<3>,
        frames: &[Frame],
        mut remember: impl FnMut(usize, KeyValue) -> KeyValue,
    ) -> Tensor<3> {
        let layers = self.blocks.iter().zip(config.kinds_of_layers()).enumerate();
        let x = layers.fold(x, |x, (layer, (block, kind))| {
            let (rotation, visibility) = &frames[kind];
            block.feed_forward(block.attend(x, rotation, visibility, |new| remember(layer, new)))
        });
        self.norm.forward(x)
    }

    /// `[b, s, d] → [b, s, vocabulary]`
    pub(super) fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.head.forward(hidden)
    }

    /// The weight of the output head, `[d, vocabulary]`.
    pub(super) fn head_weight(&self) -> Tensor<2> {
        self.head.weight()
    }

    /// The number of blocks.
    pub(super) fn layers(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn hash_weights(&self, hash: &mut Sha256) {
        let mut hash = WeightsHash(hash);
        self.embedding.visit(&mut hash);
        self.blocks.visit(&mut hash);
        self.norm.visit(&mut hash);
        self.head.visit(&mut hash);
    }
}

/// Hashes float parameters in the order in which they are visited.
struct WeightsHash<'a>(&'a mut Sha256);

impl ModuleVisitor for WeightsHash<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let data = param.val().inner().into_data();
        let bytes: &[u8] = data.bytes();
        self.0.update(bytes);
    }
}
