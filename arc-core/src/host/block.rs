//! A block on host memory: as inference reads batches, and as training reads sequences, forward and
//! backward.
//!
//! burn's CPU backend runs elementwise work on one thread, an operation at a time, and its graph
//! keeps every intermediate. In training a block is run for whole sequences on one thread here (the
//! next level up shares sequences out), its forward pass keeps what the backward pass cannot have
//! again for little, and the backward pass is written out by hand; autodiff through
//! [`Block`](crate::nn::Block) is what tests hold this against.
//!
//! Shapes: `r` positions of all sequences, one after another; `l` those of them from which on a
//! gradient is asked for; `d` model width, `f` feed-forward width. `d_` before a name is the
//! gradient of the loss at it.

use std::sync::Arc;

use rayon::prelude::*;

use super::VALUES_OF_A_JOB;
use super::attention::{AttentionTape, HostAttention};
use super::frame::{BatchFrame, HostFrame, NextFrame};
use super::gradients::{BlockGradients, Keep, LinearGradient};
use super::kernels::{add, gelu_tanh_gate, gelu_tanh_gate_backward, silu_gate, silu_gate_backward};
use super::key_value::HostKeyValue;
use super::linear::{HostLinear, HostNorm};
use super::sequences::Sequences;
use crate::Result;
use crate::nn::{Activation, Block, Norm, Residence, StoredBlock, StoredNorm, Visible};

/// A block's weights, and what it does with them.
#[derive(Clone, Debug)]
pub(crate) struct HostBlock {
    pub(crate) attention_norm: HostNorm,
    pub(crate) attention: HostAttention,
    pub(crate) post_attention_norm: Option<HostNorm>,
    pub(crate) feed_forward_norm: HostNorm,
    pub(crate) feed_forward: HostFeedForward,
    pub(crate) post_feed_forward_norm: Option<HostNorm>,
}

/// What a block's forward pass keeps.
#[derive(Debug)]
pub(crate) struct BlockTape {
    /// The block's input, `[l, d]`
    x: Vec<f32>,
    attention: AttentionTape,
    /// What attention gave, `[l, d]`, if it is normalised then.
    attended: Option<Vec<f32>>,
    /// After attention, `[l, d]`
    middle: Vec<f32>,
    feed_forward: FeedForwardTape,
    /// What the feed-forward layer gave, `[l, d]`, if it is normalised then.
    fed: Option<Vec<f32>>,
}

impl HostBlock {
    /// The block of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFile`](crate::Error::InvalidFile) for a weight that is no matrix.
    pub(crate) fn from_stored(stored: &StoredBlock, residence: Residence) -> Result<Self> {
        let config = stored.config;
        let linear = |stored| HostLinear::from_stored(stored, residence);
        let wide = |stored: &StoredNorm| HostNorm::from_stored(stored, config.d_model);
        let head = |stored: &StoredNorm| HostNorm::from_stored(stored, config.attention.head_dim);
        Ok(Self {
            attention_norm: wide(&stored.attention_norm),
            attention: HostAttention {
                query: linear(&stored.query)?,
                key: linear(&stored.key)?,
                value: linear(&stored.value)?,
                output: linear(&stored.output)?,
                query_norm: stored.query_norm.as_ref().map(head),
                key_norm: stored.key_norm.as_ref().map(head),
                config: config.attention,
            },
            post_attention_norm: stored.post_attention_norm.as_ref().map(wide),
            feed_forward_norm: wide(&stored.feed_forward_norm),
            feed_forward: HostFeedForward {
                gate: linear(&stored.gate)?,
                up: linear(&stored.up)?,
                down: linear(&stored.down)?,
                activation: config.activation,
            },
            post_feed_forward_norm: stored.post_feed_forward_norm.as_ref().map(wide),
        })
    }

    /// The weights of a block that is trained, copied; `None` if they stand beside a LoRA delta.
    pub(crate) fn copied(block: &Block) -> Option<Self> {
        let (attention, feed_forward) = (&block.attention, &block.feed_forward);
        let config = attention.config();
        let d = attention.query.dims()[0];
        let head = |norm: &Option<Norm>| norm.as_ref().map(|norm| HostNorm::copied(norm, config.head_dim));
        let sandwich = |norm: &Option<Norm>| norm.as_ref().map(|norm| HostNorm::copied(norm, d));
        Some(Self {
            attention_norm: HostNorm::copied(&block.attention_norm, d),
            attention: HostAttention {
                query: HostLinear::copied(&attention.query)?,
                key: HostLinear::copied(&attention.key)?,
                value: HostLinear::copied(&attention.value)?,
                output: HostLinear::copied(&attention.output)?,
                query_norm: head(&attention.query_norm),
                key_norm: head(&attention.key_norm),
                config,
            },
            post_attention_norm: sandwich(&block.post_attention_norm),
            feed_forward_norm: HostNorm::copied(&block.feed_forward_norm, d),
            feed_forward: HostFeedForward {
                gate: HostLinear::copied(&feed_forward.gate)?,
                up: HostLinear::copied(&feed_forward.up)?,
                down: HostLinear::copied(&feed_forward.down)?,
                activation: feed_forward.activation(),
            },
            post_feed_forward_norm: sandwich(&block.post_feed_forward_norm),
        })
    }

    /// The same block, which training multiplies in bfloat16 where this machine has instructions for it.
    pub(crate) fn in_bfloat16(mut self) -> Self {
        let HostAttention { query, key, value, output, .. } = &mut self.attention;
        let HostFeedForward { gate, up, down, .. } = &mut self.feed_forward;
        for linear in [query, key, value, output, gate, up, down] {
            *linear = linear.clone().in_bfloat16();
        }
        self
    }

    /// Reads the next positions of a batch, `[b·s, d] → [b·s, d]`; their keys and values go into a
    /// context that has `from`.
    pub(crate) fn read(
        &self,
        x: Vec<f32>,
        frame: &BatchFrame,
        context: &mut HostKeyValue,
        from: usize,
    ) -> Vec<f32> {
        self.feed(self.attend(x, frame, context, from))
    }

    /// The same for the next position of each of several sequences, with contexts of their own,
    /// `[b, d] → [b, d]`.
    pub(super) fn read_next(
        &self,
        mut x: Vec<f32>,
        frame: &NextFrame,
        contexts: &mut [&mut HostKeyValue],
        froms: &[usize],
    ) -> Vec<f32> {
        let attended = self.attention.read_next(&self.attention_norm.read(&x), frame, contexts, froms);
        add_normed(&mut x, attended, &self.post_attention_norm);
        self.feed(x)
    }

    /// The attention half of [`HostBlock::read`].
    pub(crate) fn attend(
        &self,
        mut x: Vec<f32>,
        frame: &BatchFrame,
        context: &mut HostKeyValue,
        from: usize,
    ) -> Vec<f32> {
        let attended = self.attention.read(&self.attention_norm.read(&x), frame, context, from);
        add_normed(&mut x, attended, &self.post_attention_norm);
        x
    }

    /// The attention half from pooled positions to those that they were pooled from.
    pub(crate) fn attend_pooled(
        &self,
        (mut pooled, after): (Vec<f32>, &BatchFrame),
        (x, before): (&[f32], &BatchFrame),
        visible: &Visible,
    ) -> Vec<f32> {
        let (queries, context) = (self.attention_norm.read(&pooled), self.attention_norm.read(x));
        let attended = self.attention.read_pooled((&queries, after), (&context, before), visible);
        add_normed(&mut pooled, attended, &self.post_attention_norm);
        pooled
    }

    /// The feed-forward half, `[r, d] → [r, d]`, on all threads.
    pub(crate) fn feed(&self, mut x: Vec<f32>) -> Vec<f32> {
        let fed = self.feed_forward.read(&self.feed_forward_norm.read(&x));
        add_normed(&mut x, fed, &self.post_feed_forward_norm);
        x
    }

    /// Shows the bytes of all weights, in the order in which burn's [`Block`] has them.
    pub(crate) fn visit(&self, see: &mut dyn FnMut(&[u8])) {
        let HostAttention { query, key, value, output, query_norm, key_norm, .. } = &self.attention;
        let HostFeedForward { gate, up, down, .. } = &self.feed_forward;
        self.attention_norm.visit(see);
        [query, key, value, output].into_iter().for_each(|linear| linear.visit(see));
        let head_norms = query_norm.iter().chain(key_norm);
        head_norms.chain(&self.post_attention_norm).for_each(|norm| norm.visit(see));
        self.feed_forward_norm.visit(see);
        [gate, up, down].into_iter().for_each(|linear| linear.visit(see));
        self.post_feed_forward_norm.iter().for_each(|norm| norm.visit(see));
    }

    /// The model width.
    pub(crate) fn width(&self) -> usize {
        self.attention_norm.width()
    }

    /// `[r, d] → [r, d]`, and what the backward pass needs.
    pub(crate) fn forward(
        &self,
        x: Vec<f32>,
        sequences: &Sequences,
        frame: &HostFrame,
        keep: Keep,
    ) -> (Vec<f32>, Option<BlockTape>) {
        let d = self.width();
        let keeps = keep != Keep::Nothing;
        let normed = self.attention_norm.forward(&x);
        let (attended, attention) = self.attention.forward(&normed, sequences, frame, keep);
        let mut middle = x.clone();
        let attended = match &self.post_attention_norm {
            Some(norm) => {
                add(&mut middle, &norm.forward(&attended));
                keeps.then(|| sequences.later(attended, d))
            }
            None => {
                add(&mut middle, &attended);
                None
            }
        };

        let normed = self.feed_forward_norm.forward(&middle);
        let (fed, feed_forward) = self.feed_forward.forward(&normed, sequences, keeps);
        let mut y = middle.clone();
        let fed = match &self.post_feed_forward_norm {
            Some(norm) => {
                add(&mut y, &norm.forward(&fed));
                keeps.then(|| sequences.later(fed, d))
            }
            None => {
                add(&mut y, &fed);
                None
            }
        };
        let tape = attention.zip(feed_forward).map(|(attention, feed_forward)| BlockTape {
            x: sequences.later(x, d),
            attention,
            attended,
            middle: sequences.later(middle, d),
            feed_forward,
            fed,
        });
        (y, tape)
    }

    /// The gradient at the block's input from that at its output, both `[l, d]`; those of its
    /// parameters are put into `gradients` if they are asked for.
    pub(crate) fn backward(
        &self,
        tape: &BlockTape,
        dy: Vec<f32>,
        sequences: &Sequences,
        frame: &HostFrame,
        mut gradients: Option<&mut BlockGradients>,
    ) -> Vec<f32> {
        let BlockTape { x, middle, .. } = tape;
        // y = middle + [norm](feed_forward(norm(middle)))
        let through = |norm: &Option<HostNorm>, at: &Option<Vec<f32>>, dy: &[f32]| {
            let (norm, at) = norm.as_ref().zip(at.as_ref())?;
            let mut dx = vec![0.0; dy.len()];
            norm.backward(at, dy, &mut dx);
            Some(dx)
        };
        let d_fed = through(&self.post_feed_forward_norm, &tape.fed, &dy);
        let d_fed_ref = d_fed.as_deref().unwrap_or(&dy);
        let normed = gradients.is_some().then(|| Arc::new(self.feed_forward_norm.forward(middle)));
        let asked = gradients.as_deref_mut().zip(normed);
        let d_normed = self.feed_forward.backward(&tape.feed_forward, d_fed_ref, asked);
        if let Some(gradients) = gradients.as_deref_mut() {
            gradients.add_norm("feed_forward_norm", &self.feed_forward_norm, middle, &d_normed);
            if let (Some(norm), Some(fed)) = (&self.post_feed_forward_norm, &tape.fed) {
                gradients.add_norm("post_feed_forward_norm", norm, fed, &dy);
            }
        }
        let mut d_middle = dy;
        self.feed_forward_norm.backward(middle, &d_normed, &mut d_middle);

        // middle = x + [norm](attention(norm(x)))
        let d_attended = through(&self.post_attention_norm, &tape.attended, &d_middle);
        let d_attended_ref = d_attended.as_deref().unwrap_or(&d_middle);
        let normed = gradients.is_some().then(|| Arc::new(self.attention_norm.forward(x)));
        let asked = gradients.as_deref_mut().zip(normed);
        let d_normed = self.attention.backward(&tape.attention, d_attended_ref, sequences, frame, asked);
        if let Some(gradients) = gradients {
            gradients.add_norm("attention_norm", &self.attention_norm, x, &d_normed);
            if let (Some(norm), Some(attended)) = (&self.post_attention_norm, &tape.attended) {
                gradients.add_norm("post_attention_norm", norm, attended, &d_middle);
            }
        }
        let mut dx = d_middle;
        self.attention_norm.backward(x, &d_normed, &mut dx);
        dx
    }
}

/// `down(activation(gate(x)) · up(x))`
#[derive(Clone, Debug)]
pub(crate) struct HostFeedForward {
    /// `[d, f]`
    pub(crate) gate: HostLinear,
    /// `[d, f]`
    pub(crate) up: HostLinear,
    /// `[f, d]`
    pub(crate) down: HostLinear,
    pub(crate) activation: Activation,
}

#[derive(Debug)]
struct FeedForwardTape {
    /// Before the activation, `[l, f]`
    gate: Vec<f32>,
    /// `[l, f]`
    up: Vec<f32>,
}

impl HostFeedForward {
    /// `gate = activation(gate) · up`
    fn activate(&self, gate: &mut [f32], up: &[f32]) {
        match self.activation {
            Activation::Silu => silu_gate(gate, up),
            Activation::GeluTanh => gelu_tanh_gate(gate, up),
        }
    }

    /// `[r, d] → [r, d]` on all threads.
    fn read(&self, x: &[f32]) -> Vec<f32> {
        let [mut gate, up] = HostLinear::read_together([&self.gate, &self.up], x);
        if gate.len() <= VALUES_OF_A_JOB {
            self.activate(&mut gate, &up);
        } else {
            let jobs = gate.par_chunks_mut(VALUES_OF_A_JOB).zip(up.par_chunks(VALUES_OF_A_JOB));
            jobs.for_each(|(gate, up)| self.activate(gate, up));
        }
        self.down.read(&gate)
    }

    /// `[r, d] → [r, d]`
    fn forward(&self, x: &[f32], sequences: &Sequences, keeps: bool) -> (Vec<f32>, Option<FeedForwardTape>) {
        let [gate, up] = HostLinear::forward_together([&self.gate, &self.up], x);
        let (mut hidden, gate) = if keeps { (gate.clone(), Some(gate)) } else { (gate, None) };
        self.activate(&mut hidden, &up);
        let y = self.down.forward(&hidden);
        let [_, f] = self.gate.dims();
        let tape =
            gate.map(|gate| FeedForwardTape { gate: sequences.later(gate, f), up: sequences.later(up, f) });
        (y, tape)
    }

    /// `[l, d] → [l, d]`; with `gradients` comes the input.
    fn backward(
        &self,
        FeedForwardTape { gate, up }: &FeedForwardTape,
        dy: &[f32],
        gradients: Option<(&mut BlockGradients, Arc<Vec<f32>>)>,
    ) -> Vec<f32> {
        let mut d_gate = vec![0.0; gate.len()];
        self.down.backward(dy, false, &mut d_gate);
        let mut d_up = vec![0.0; up.len()];
        match self.activation {
            Activation::Silu => silu_gate_backward(gate, up, &mut d_gate, &mut d_up),
            Activation::GeluTanh => gelu_tanh_gate_backward(gate, up, &mut d_gate, &mut d_up),
        }
        let mut dx = vec![0.0; dy.len()];
        self.gate.backward(&d_gate, false, &mut dx);
        self.up.backward(&d_up, true, &mut dx);
        if let Some((gradients, x)) = gradients {
            let mut hidden = gate.clone();
            self.activate(&mut hidden, up);
            gradients.linear.extend([
                LinearGradient::new("feed_forward.gate", &self.gate, &x, d_gate),
                LinearGradient::new("feed_forward.up", &self.up, &x, d_up),
                LinearGradient::new("feed_forward.down", &self.down, &Arc::new(hidden), dy.to_vec()),
            ]);
        }
        dx
    }
}

/// `x += [norm](y)`
fn add_normed(x: &mut [f32], y: Vec<f32>, norm: &Option<HostNorm>) {
    match norm {
        Some(norm) => add(x, &norm.read(&y)),
        None => add(x, &y),
    }
}
