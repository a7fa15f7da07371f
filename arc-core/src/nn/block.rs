//! One transformer block: pre-normalised attention and feed-forward, each with a residual.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::loader::StoredBlock;
use super::{
    Activation, Attention, AttentionConfig, FeedForward, KeyValue, Linear, Norm, NormConfig, Rotation,
    Visibility,
};

/// The widths and kinds of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockConfig {
    /// Model width.
    pub d_model: usize,
    /// Feed-forward width.
    pub d_ff: usize,
    /// Widths of the attention.
    pub attention: AttentionConfig,
    /// The normalisation before each half.
    pub norm: NormConfig,
    /// The feed-forward's activation.
    pub activation: Activation,
    /// Whether each half's output is normalised too, before the residual (Gemma 3).
    pub sandwich: bool,
    /// Whether queries and keys are normalised per head (Gemma 3).
    pub qk_norm: bool,
    /// Whether queries, keys and values have a bias (Qwen 2).
    pub qkv_bias: bool,
}

/// `x + attention(norm(x))`, then `x + feed_forward(norm(x))`.
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    pub attention_norm: Norm,
    /// Attention and its projections.
    pub attention: Attention,
    /// After attention, before the residual (Gemma 3).
    pub post_attention_norm: Option<Norm>,
    /// Before the feed-forward layer.
    pub feed_forward_norm: Norm,
    /// The gated feed-forward layer.
    pub feed_forward: FeedForward,
    /// After the feed-forward layer, before the residual (Gemma 3).
    pub post_feed_forward_norm: Option<Norm>,
}

impl Block {
    /// The block of a checkpoint, as `f32` on a device.
    #[must_use]
    pub(crate) fn from_stored(stored: &StoredBlock, device: &Device) -> Self {
        let linear = |stored| Linear::from_stored(stored, device);
        let norm = |stored| Norm::from_stored(stored, device);
        Self {
            attention_norm: norm(&stored.attention_norm),
            attention: Attention::new(
                stored.config.attention,
                [&stored.query, &stored.key, &stored.value, &stored.output].map(linear),
                [&stored.query_norm, &stored.key_norm].map(|stored| stored.as_ref().map(norm)),
            ),
            post_attention_norm: stored.post_attention_norm.as_ref().map(norm),
            feed_forward_norm: norm(&stored.feed_forward_norm),
            feed_forward: FeedForward::new(
                [&stored.gate, &stored.up, &stored.down].map(linear),
                stored.config.activation,
            ),
            post_feed_forward_norm: stored.post_feed_forward_norm.as_ref().map(norm),
        }
    }

    /// The attention half: `x + attention(norm(x))`, with the keys and values that `remember`
    /// makes of this step's (a cache appends them to the earlier ones).
    ///
    /// # Shapes
    ///
    /// - input and output: `[b, s, d]`
    #[must_use]
    pub fn attend(
        &self,
        x: Tensor<3>,
        rotation: &Rotation,
        visibility: &Visibility,
        remember: impl FnOnce(KeyValue) -> KeyValue,
    ) -> Tensor<3> {
        let normed = self.attention_norm.forward(x.clone());
        let queries = self.attention.queries(normed.clone(), rotation);
        let context = remember(self.attention.keys_values(normed, rotation));
        self.add_attention(x, self.attention.attend(queries, context, visibility))
    }

    /// Adds an attention output to the residual.
    #[must_use]
    pub fn add_attention(&self, residual: Tensor<3>, attended: Tensor<3>) -> Tensor<3> {
        residual
            + match &self.post_attention_norm {
                Some(norm) => norm.forward(attended),
                None => attended,
            }
    }

    /// Its linear maps: query, key, value, output, gate, up, down.
    pub(crate) fn linears_mut(&mut self) -> [&mut Linear; 7] {
        let (attention, feed_forward) = (&mut self.attention, &mut self.feed_forward);
        [
            &mut attention.query,
            &mut attention.key,
            &mut attention.value,
            &mut attention.output,
            &mut feed_forward.gate,
            &mut feed_forward.up,
            &mut feed_forward.down,
        ]
    }

    /// Zeros what its halves end in, so that it returns what it reads until it has learned something.
    pub(crate) fn silence(&mut self) {
        self.attention.output.silence();
        self.feed_forward.down.silence();
    }

    /// The feed-forward half: `x + feed_forward(norm(x))`, `[b, s, d] → [b, s, d]`.
    #[must_use]
    pub fn feed_forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = self.feed_forward.forward(self.feed_forward_norm.forward(x.clone()));
        x + match &self.post_feed_forward_norm {
            Some(norm) => norm.forward(y),
            None => y,
        }
    }
}
