//! A block on host memory, forward and backward, for training on the CPU.
//!
//! burn's CPU backend runs elementwise work on one thread, an operation at a time, and its graph
//! keeps every intermediate. Here a block is run for whole sequences on one thread (the next level
//! up shares sequences out), its forward pass keeps what the backward pass cannot have again for
//! little, and the backward pass is written out by hand. The products of matrices are those of
//! [`gemm`], as in the backend; autodiff through [`Block`] is what tests hold this against.
//!
//! Shapes: `r` positions of all sequences, one after another; `l` those of them from which on a
//! gradient is asked for; `d` model width, `h` query heads, `g` key/value heads, `k` head width,
//! `f` feed-forward width. `d_` before a name is the gradient of the loss at it.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::TensorData;

use super::kernels::{
    View, add, exponentials, gelu_tanh_gate, gelu_tanh_gate_backward, layer_norm, layer_norm_backward,
    multiply, multiply_into, rms_norm, rms_norm_backward, rms_norm_weight_gradient, rotate_half_split,
    rotate_interleaved, silu_gate, silu_gate_backward, softmax_backward,
};
use crate::nn::{Activation, AttentionConfig, Block, Linear, Norm, RopeConfig, RopeLayout};

/// Host data is what dense weights on the CPU device are.
const F32: &str = "dense weights are f32 on the CPU device";

/// A matrix in host memory, whose bytes may be those of a tensor.
#[derive(Clone, Debug)]
pub(crate) struct HostMatrix {
    /// `[rows, columns]`
    data: TensorData,
}

impl HostMatrix {
    /// A matrix of contiguous float32 data.
    pub(crate) fn new(data: TensorData) -> Self {
        assert_eq!(data.shape().len(), 2, "a matrix has two dimensions");
        Self { data }
    }

    pub(crate) fn rows(&self) -> usize {
        self.data.shape()[0]
    }

    pub(crate) fn columns(&self) -> usize {
        self.data.shape()[1]
    }

    /// All values, row after row.
    pub(crate) fn values(&self) -> &[f32] {
        self.data.as_slice::<f32>().expect(F32)
    }

    fn view(&self) -> View<'_> {
        View::rows_of(self.values(), self.rows(), self.columns())
    }
}

/// `y = x W + b`
#[derive(Clone, Debug)]
pub(crate) struct HostLinear {
    /// `[d_in, d_out]`, or `[d_out, d_in]` if `is_transposed`: as checkpoints have it.
    weight: HostMatrix,
    is_transposed: bool,
    bias: Option<Vec<f32>>,
}

impl HostLinear {
    pub(crate) fn new(weight: HostMatrix, is_transposed: bool, bias: Option<Vec<f32>>) -> Self {
        Self { weight, is_transposed, bias }
    }

    /// The matrix as it lies in memory.
    pub(crate) fn into_matrix(self) -> HostMatrix {
        self.weight
    }

    /// `[d_in, d_out]`
    fn weight(&self) -> View<'_> {
        if self.is_transposed { self.weight.view().transposed() } else { self.weight.view() }
    }

    /// `[r, d_in] → [r, d_out]`
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let weight = self.weight();
        let rows = x.len() / weight.rows;
        let mut y = vec![0.0; rows * weight.columns];
        multiply(View::rows_of(x, rows, weight.rows), weight, 1.0, &mut y);
        if let Some(bias) = &self.bias {
            y.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
        }
        y
    }

    /// `dx = dy Wᵀ`, or adds it to `dx`; `[r, d_out] → [r, d_in]`.
    fn backward(&self, dy: &[f32], sum: bool, dx: &mut [f32]) {
        let weight = self.weight().transposed();
        let rows = dy.len() / weight.rows;
        multiply_into(View::rows_of(dy, rows, weight.rows), weight, 1.0, sum, dx, weight.columns);
    }
}

/// A normalisation of rows of width `d`.
#[derive(Clone, Debug)]
pub(crate) struct HostNorm {
    weight: Option<Vec<f32>>,
    epsilon: f32,
    d: usize,
}

impl HostNorm {
    /// The values of a normalisation over rows of width `d`.
    pub(crate) fn of(norm: &Norm, d: usize) -> Self {
        let weight = norm.weight().map(|weight| weight.inner().into_data().try_into_vec().expect(F32));
        Self { weight, epsilon: norm.epsilon() as f32, d }
    }

    /// Normalises each row.
    pub(crate) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        match &self.weight {
            Some(weight) => rms_norm(x, weight, self.epsilon, &mut y),
            None => layer_norm(x, self.d, self.epsilon, &mut y),
        }
        y
    }

    /// Adds the gradient at `x` to `dx`.
    pub(crate) fn backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        match &self.weight {
            Some(weight) => rms_norm_backward(x, weight, self.epsilon, dy, dx),
            None => layer_norm_backward(x, self.d, self.epsilon, dy, dx),
        }
    }

    /// The gradient of the weight, where there is one.
    fn weight_gradient(&self, x: &[f32], dy: &[f32]) -> Option<Vec<f32>> {
        let weight = self.weight.as_ref()?;
        let mut gradient = vec![0.0; weight.len()];
        rms_norm_weight_gradient(x, self.epsilon, dy, &mut gradient);
        Some(gradient)
    }
}

/// One sequence of several that lie one after another.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// Its positions among all.
    rows: Range<usize>,
    /// Its own first position at which a gradient is asked for. Earlier ones depend on nothing that
    /// has a gradient, and keep nothing.
    first: usize,
}

/// The sequences that go through a block together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sequences(Vec<Sequence>);

impl Sequences {
    /// Sequences of these lengths, with the first position of each that a gradient is asked for at.
    pub(crate) fn new(lengths: &[usize], firsts: &[usize]) -> Self {
        let sequences = lengths.iter().zip(firsts).scan(0, |start, (&length, &first)| {
            let rows = *start..*start + length;
            *start = rows.end;
            Some(Sequence { rows, first: first.min(length) })
        });
        Self(sequences.collect())
    }

    /// The positions with a gradient, of all: `r → l`.
    pub(crate) fn later(&self, values: Vec<f32>, width: usize) -> Vec<f32> {
        if self.0.iter().all(|sequence| sequence.first == 0) {
            return values;
        }
        let mut later = Vec::with_capacity(values.len());
        for Sequence { rows, first } in &self.0 {
            later.extend_from_slice(&values[(rows.start + first) * width..rows.end * width]);
        }
        later
    }

    /// The other way: `l → r`, with zeros where no gradient was asked for.
    pub(crate) fn all(&self, later: Vec<f32>, width: usize) -> Vec<f32> {
        if self.0.iter().all(|sequence| sequence.first == 0) {
            return later;
        }
        let mut values = Vec::with_capacity(self.0.last().map_or(0, |last| last.rows.end * width));
        let mut rest = &later[..];
        for Sequence { rows, first } in &self.0 {
            let (own, others) = rest.split_at((rows.len() - first) * width);
            values.resize(values.len() + first * width, 0.0);
            values.extend_from_slice(own);
            rest = others;
        }
        values
    }

    /// The positions with a gradient of each sequence, among all of those.
    fn later_rows(&self) -> impl Iterator<Item = (&Sequence, Range<usize>)> {
        self.0.iter().scan(0, |start, sequence| {
            let rows = *start..*start + sequence.rows.len() - sequence.first;
            *start = rows.end;
            Some((sequence, rows))
        })
    }
}

/// Which keys of its own sequence a query sees.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostVisibility {
    /// All of them.
    All,
    /// Those up to its own place.
    Causal,
    /// Of those, so many at most.
    Window(usize),
}

impl HostVisibility {
    fn of(self, query: usize, keys: usize) -> Range<usize> {
        match self {
            Self::All => 0..keys,
            Self::Causal => 0..query + 1,
            Self::Window(window) => (query + 1).saturating_sub(window)..query + 1,
        }
    }
}

/// What the layers of one kind share in a pass.
#[derive(Clone, Debug)]
pub(crate) struct HostFrame {
    /// `[positions, k/2]`
    cos: Vec<f32>,
    /// `[positions, k/2]`
    sin: Vec<f32>,
    layout: RopeLayout,
    visibility: HostVisibility,
}

impl HostFrame {
    /// For sequences of up to `longest` positions.
    pub(crate) fn new(rope: &RopeConfig, longest: usize, visibility: HostVisibility) -> Self {
        let (cos, sin) = rope.table(0..longest);
        Self { cos, sin, layout: rope.layout, visibility }
    }

    /// Rotates heads `[r, heads·k]` at the positions of their rows, or with `sign` −1 back.
    fn rotate(&self, heads: &mut [f32], width: usize, positions: impl Iterator<Item = usize>, sign: f32) {
        let half = width / 2;
        let rotate = match self.layout {
            RopeLayout::HalfSplit => rotate_half_split,
            RopeLayout::Interleaved => rotate_interleaved,
        };
        let positions: Vec<usize> = positions.collect();
        let row = heads.len() / positions.len().max(1);
        for (heads, position) in heads.chunks_exact_mut(row.max(1)).zip(positions) {
            let place = position * half..(position + 1) * half;
            rotate(heads, &self.cos[place.clone()], &self.sin[place], sign);
        }
    }
}

/// A block's weights, and what it does with them.
#[derive(Clone, Debug)]
pub(crate) struct HostBlock {
    attention_norm: HostNorm,
    attention: HostAttention,
    post_attention_norm: Option<HostNorm>,
    feed_forward_norm: HostNorm,
    feed_forward: HostFeedForward,
    post_feed_forward_norm: Option<HostNorm>,
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

/// What a forward pass keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing: there is no backward pass.
    Nothing,
    /// What the gradient at the input takes.
    ForInput,
    /// What the gradients of the weights take besides.
    ForWeights,
}

/// The input of a linear map and the gradient at its output: what its weight's gradient is made of.
#[derive(Debug)]
struct LinearGradient {
    name: &'static str,
    /// `[l, d_in]`; maps of one input share it.
    x: Arc<Vec<f32>>,
    /// `[l, d_out]`
    dy: Vec<f32>,
    d_in: usize,
    d_out: usize,
    has_bias: bool,
}

impl LinearGradient {
    fn new(name: &'static str, linear: &HostLinear, x: &Arc<Vec<f32>>, dy: Vec<f32>) -> Self {
        let View { rows: d_in, columns: d_out, .. } = linear.weight();
        Self { name, x: Arc::clone(x), dy, d_in, d_out, has_bias: linear.bias.is_some() }
    }
}

/// What a block's backward pass finds for its parameters, by the parameter's name.
#[derive(Debug, Default)]
pub(crate) struct BlockGradients {
    linear: Vec<LinearGradient>,
    norm: Vec<(&'static str, Vec<f32>)>,
}

impl BlockGradients {
    fn add_norm(&mut self, name: &'static str, norm: &HostNorm, x: &[f32], dy: &[f32]) {
        self.norm.extend(norm.weight_gradient(x, dy).map(|gradient| (name, gradient)));
    }

    /// How many linear maps there are.
    pub(crate) fn maps(&self) -> usize {
        self.linear.len()
    }

    /// The gradients of one linear map, summed over the parts of a batch: of the weight,
    /// `[d_in, d_out]`, and of the bias.
    pub(crate) fn of_map(parts: &[&Self], map: usize) -> Vec<(String, Vec<f32>)> {
        let Some(&LinearGradient { name, d_in, d_out, has_bias, .. }) =
            parts.first().and_then(|part| part.linear.get(map))
        else {
            return Vec::new();
        };
        let mut weight = vec![0.0; d_in * d_out];
        let mut bias = vec![0.0; if has_bias { d_out } else { 0 }];
        for (number, part) in parts.iter().enumerate() {
            let LinearGradient { x, dy, .. } = &part.linear[map];
            let rows = dy.len() / d_out;
            let inputs = View::rows_of(x, rows, d_in).transposed();
            multiply_into(inputs, View::rows_of(dy, rows, d_out), 1.0, number > 0, &mut weight, d_out);
            if has_bias {
                dy.chunks_exact(d_out).for_each(|row| add(&mut bias, row));
            }
        }
        let mut sums = vec![(format!("{name}.weight"), weight)];
        if has_bias {
            sums.push((format!("{name}.bias"), bias));
        }
        sums
    }

    /// The gradients of the normalisations, summed over the parts of a batch.
    pub(crate) fn of_norms(parts: &[&Self]) -> Vec<(String, Vec<f32>)> {
        let Some((first, others)) = parts.split_first() else { return Vec::new() };
        let mut sums: Vec<(String, Vec<f32>)> =
            first.norm.iter().map(|(name, gradient)| (format!("{name}.weight"), gradient.clone())).collect();
        for other in others {
            for ((_, sum), (_, part)) in sums.iter_mut().zip(&other.norm) {
                add(sum, part);
            }
        }
        sums
    }
}

impl HostBlock {
    /// The weights of a block, copied; `None` if they are packed, or stand beside a LoRA delta.
    pub(crate) fn copied(block: &Block) -> Option<Self> {
        Self::of(block, &mut |linear| linear.copied_to_host())
    }

    /// The weights of a block in memory that tensors and this share; `None` if they are packed.
    pub(crate) fn sharing(block: &mut Block) -> Option<Self> {
        let share = |linear: &mut Linear| {
            // A weight is packed for a product by its inner width: where that is the longer one,
            // rows as checkpoints have them are so far apart that packing takes as long as a third
            // of the product.
            let [d_in, d_out] = linear.dims();
            linear.share_with_host(d_in <= d_out)
        };
        let shared: Option<Vec<HostLinear>> = block.linears_mut().into_iter().map(share).collect();
        let mut shared = shared?.into_iter();
        Self::of(block, &mut |_| shared.next())
    }

    /// `linear` is asked for the maps in the order of [`Block::linears_mut`].
    fn of(block: &Block, linear: &mut dyn FnMut(&Linear) -> Option<HostLinear>) -> Option<Self> {
        let attention = &block.attention;
        let config = attention.config();
        let query = linear(&attention.query)?;
        let d = query.weight().rows;
        let head_norm = |norm: &Option<Norm>| norm.as_ref().map(|norm| HostNorm::of(norm, config.head_dim));
        let sandwich = |norm: &Option<Norm>| norm.as_ref().map(|norm| HostNorm::of(norm, d));
        Some(Self {
            attention_norm: HostNorm::of(&block.attention_norm, d),
            attention: HostAttention {
                query,
                key: linear(&attention.key)?,
                value: linear(&attention.value)?,
                output: linear(&attention.output)?,
                query_norm: head_norm(&attention.query_norm),
                key_norm: head_norm(&attention.key_norm),
                config,
            },
            post_attention_norm: sandwich(&block.post_attention_norm),
            feed_forward_norm: HostNorm::of(&block.feed_forward_norm, d),
            feed_forward: HostFeedForward {
                gate: linear(&block.feed_forward.gate)?,
                up: linear(&block.feed_forward.up)?,
                down: linear(&block.feed_forward.down)?,
                activation: block.feed_forward.activation(),
            },
            post_feed_forward_norm: sandwich(&block.post_feed_forward_norm),
        })
    }

    /// The model width.
    pub(crate) fn width(&self) -> usize {
        self.attention_norm.d
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
struct HostFeedForward {
    /// `[d, f]`
    gate: HostLinear,
    /// `[d, f]`
    up: HostLinear,
    /// `[f, d]`
    down: HostLinear,
    activation: Activation,
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

    /// `[r, d] → [r, d]`
    fn forward(&self, x: &[f32], sequences: &Sequences, keeps: bool) -> (Vec<f32>, Option<FeedForwardTape>) {
        let (gate, up) = (self.gate.forward(x), self.up.forward(x));
        let (mut hidden, gate) = if keeps { (gate.clone(), Some(gate)) } else { (gate, None) };
        self.activate(&mut hidden, &up);
        let y = self.down.forward(&hidden);
        let f = self.gate.weight().columns;
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

/// Projections to queries, keys and values, attention, and the projection back.
#[derive(Clone, Debug)]
struct HostAttention {
    /// `[d, h·k]`
    query: HostLinear,
    /// `[d, g·k]`
    key: HostLinear,
    /// `[d, g·k]`
    value: HostLinear,
    /// `[h·k, d]`
    output: HostLinear,
    query_norm: Option<HostNorm>,
    key_norm: Option<HostNorm>,
    config: AttentionConfig,
}

#[derive(Debug)]
struct AttentionTape {
    /// As projected, `[l, h·k]`, if they are normalised then.
    plain_queries: Option<Vec<f32>>,
    /// As projected, `[l, g·k]`, if they are normalised then.
    plain_keys: Option<Vec<f32>>,
    /// Rotated, `[l, h·k]`
    queries: Vec<f32>,
    /// Rotated, `[r, g·k]`
    keys: Vec<f32>,
    /// `[r, g·k]`
    values: Vec<f32>,
    /// For each sequence and head, a row of its keys for each of its queries with a gradient.
    probabilities: Vec<f32>,
    /// The sums of values, `[l, h·k]`, where the output's weight is trained.
    attended: Option<Vec<f32>>,
}

impl HostAttention {
    /// `[r, d] → [r, d]`
    fn forward(
        &self,
        x: &[f32],
        sequences: &Sequences,
        frame: &HostFrame,
        keep: Keep,
    ) -> (Vec<f32>, Option<AttentionTape>) {
        let AttentionConfig { n_heads: h, n_kv_heads: g, head_dim: k, .. } = self.config;
        let heads = |linear: &HostLinear, norm: &Option<HostNorm>| {
            let plain = linear.forward(x);
            let (mut heads, plain) = match norm {
                Some(norm) => (norm.forward(&plain), Some(plain)),
                None => (plain, None),
            };
            let positions = sequences.0.iter().flat_map(|sequence| 0..sequence.rows.len());
            frame.rotate(&mut heads, k, positions, 1.0);
            (heads, plain)
        };
        let (queries, plain_queries) = heads(&self.query, &self.query_norm);
        let (keys, plain_keys) = heads(&self.key, &self.key_norm);
        let values = self.value.forward(x);

        let mut attended = vec![0.0; queries.len()];
        let mut probabilities = Vec::new();
        let mut scores = Vec::new();
        for Sequence { rows, first } in sequences.0.iter().filter(|sequence| !sequence.rows.is_empty()) {
            let n = rows.len();
            scores.resize(n * n, 0.0);
            for head in 0..h {
                let group = head * g / h;
                let queries = head_of(&queries, rows.clone(), h, k, head);
                let keys = head_of(&keys, rows.clone(), g, k, group);
                multiply(queries, keys.transposed(), self.config.scale as f32, &mut scores);
                for (query, scores) in scores.chunks_exact_mut(n).enumerate() {
                    let visible = frame.visibility.of(query, n);
                    scores[..visible.start].fill(0.0);
                    scores[visible.end..].fill(0.0);
                    let weight = exponentials(&mut scores[visible.clone()]).recip();
                    scores[visible].iter_mut().for_each(|score| *score *= weight);
                }
                let values = head_of(&values, rows.clone(), g, k, group);
                let out = &mut attended[rows.start * h * k + head * k..];
                multiply_into(View::rows_of(&scores, n, n), values, 1.0, false, out, h * k);
                if keep != Keep::Nothing {
                    probabilities.extend_from_slice(&scores[first * n..]);
                }
            }
        }
        let y = self.output.forward(&attended);
        let tape = (keep != Keep::Nothing).then(|| AttentionTape {
            plain_queries: plain_queries.map(|plain| sequences.later(plain, h * k)),
            plain_keys: plain_keys.map(|plain| sequences.later(plain, g * k)),
            queries: sequences.later(queries, h * k),
            keys,
            values,
            probabilities,
            attended: (keep == Keep::ForWeights).then(|| sequences.later(attended, h * k)),
        });
        (y, tape)
    }

    /// `[l, d] → [l, d]`; with `gradients` comes the input.
    fn backward(
        &self,
        tape: &AttentionTape,
        dy: &[f32],
        sequences: &Sequences,
        frame: &HostFrame,
        gradients: Option<(&mut BlockGradients, Arc<Vec<f32>>)>,
    ) -> Vec<f32> {
        let AttentionConfig { n_heads: h, n_kv_heads: g, head_dim: k, .. } = self.config;
        let mut d_attended = vec![0.0; tape.queries.len()];
        self.output.backward(dy, false, &mut d_attended);

        let later = tape.queries.len() / (h * k);
        let mut d_queries = vec![0.0; later * h * k];
        let mut d_keys = vec![0.0; later * g * k];
        let mut d_values = vec![0.0; later * g * k];
        let mut probabilities = &tape.probabilities[..];
        let mut d_scores = Vec::new();
        for (Sequence { rows, first }, later) in sequences.later_rows().filter(|(_, later)| !later.is_empty())
        {
            let (m, n) = (later.len(), rows.len());
            d_scores.resize(m * n, 0.0);
            for head in 0..h {
                let group = head * g / h;
                let (own, others) = probabilities.split_at(m * n);
                probabilities = others;
                let d_out = head_of(&d_attended, later.clone(), h, k, head);
                let queries = head_of(&tape.queries, later.clone(), h, k, head);
                let keys = head_of(&tape.keys, rows.clone(), g, k, group);
                let values = head_of(&tape.values, rows.clone(), g, k, group);

                multiply(d_out, values.transposed(), 1.0, &mut d_scores);
                softmax_backward(own, &mut d_scores, n, self.config.scale as f32);
                let place = |row: usize, heads: usize, head: usize| (row * heads + head) * k;
                let d_query = &mut d_queries[place(later.start, h, head)..];
                multiply_into(View::rows_of(&d_scores, m, n), keys, 1.0, false, d_query, h * k);
                // Keys and values without a gradient have none from any query.
                let d_key = &mut d_keys[place(later.start, g, group)..];
                let weights = last_columns(&d_scores, m, n, *first).transposed();
                multiply_into(weights, queries, 1.0, true, d_key, g * k);
                let d_value = &mut d_values[place(later.start, g, group)..];
                let weights = last_columns(own, m, n, *first).transposed();
                multiply_into(weights, d_out, 1.0, true, d_value, g * k);
            }
        }
        let back = |d_heads: &mut Vec<f32>, norm: &Option<HostNorm>, plain: &Option<Vec<f32>>| {
            let positions = sequences.0.iter().flat_map(|sequence| sequence.first..sequence.rows.len());
            frame.rotate(d_heads, k, positions, -1.0);
            let (norm, plain) = norm.as_ref().zip(plain.as_ref())?;
            let mut d_plain = vec![0.0; d_heads.len()];
            norm.backward(plain, d_heads, &mut d_plain);
            Some(std::mem::replace(d_heads, d_plain))
        };
        let d_normed_queries = back(&mut d_queries, &self.query_norm, &tape.plain_queries);
        let d_normed_keys = back(&mut d_keys, &self.key_norm, &tape.plain_keys);
        let mut dx = vec![0.0; dy.len()];
        self.query.backward(&d_queries, false, &mut dx);
        self.key.backward(&d_keys, true, &mut dx);
        self.value.backward(&d_values, true, &mut dx);
        if let Some((gradients, x)) = gradients {
            let attended = Arc::new(tape.attended.clone().expect("kept where weights are trained"));
            gradients.linear.extend([
                LinearGradient::new("attention.query", &self.query, &x, d_queries),
                LinearGradient::new("attention.key", &self.key, &x, d_keys),
                LinearGradient::new("attention.value", &self.value, &x, d_values),
                LinearGradient::new("attention.output", &self.output, &attended, dy.to_vec()),
            ]);
            for (name, norm, plain, d_normed) in [
                ("attention.query_norm", &self.query_norm, &tape.plain_queries, &d_normed_queries),
                ("attention.key_norm", &self.key_norm, &tape.plain_keys, &d_normed_keys),
            ] {
                if let (Some(norm), Some(plain), Some(d_normed)) = (norm, plain, d_normed) {
                    gradients.add_norm(name, norm, plain, d_normed);
                }
            }
        }
        dx
    }
}

/// The columns from `first` on of `[m, n]`.
fn last_columns(values: &[f32], m: usize, n: usize, first: usize) -> View<'_> {
    View { values: &values[first..], rows: m, columns: n - first, row_stride: n, column_stride: 1 }
}

/// One head, `[rows, k]`, of `[r, heads·k]`.
fn head_of(all: &[f32], rows: Range<usize>, heads: usize, k: usize, head: usize) -> View<'_> {
    let start = (rows.start * heads + head) * k;
    View { values: &all[start..], rows: rows.len(), columns: k, row_stride: heads * k, column_stride: 1 }
}
