//! A decoder on host memory: inference on the CPU, and what training there reads with.
//!
//! A decoder is frozen, so of its backward pass only the gradient at the embeddings is wanted, and
//! that is written out by hand (see [`HostStack`]).

use burn::tensor::{Device, Tensor, TensorData};
use sha2::{Digest as _, Sha256};

use super::config::DecoderConfig;
use super::graph::GraphDecoder;
use super::kv_cache::KvCache;
use super::stored::StoredDecoder;
use crate::Result;
use crate::host::{
    BatchFrame, HostBlock, HostFrame, HostLinear, HostLoss, HostMatrix, HostNorm, HostStack, HostTable,
    HostVisibility, HostWeight, Keep, NextFrame, StackTape, TiledHead, host_loss,
};
use crate::nn::{Block, Embedding, Linear, Norm, Precision, Residence};

/// The weights of a decoder.
#[derive(Debug)]
pub(crate) struct HostDecoder {
    embedding: HostTable,
    blocks: Vec<HostBlock>,
    norm: HostNorm,
    /// The output head, `[d, vocabulary]`.
    head: HostLinear,
    /// The same, where the loss multiplies in bfloat16.
    tiled_head: Option<TiledHead>,
    precision: Precision,
}

/// What reading left for [`HostDecoder::gradient`].
#[derive(Debug)]
pub(crate) struct HostTape {
    frames: Vec<HostFrame>,
    kinds: Vec<usize>,
    stack: StackTape,
    /// What the last normalisation read, `[r, d]`.
    last: Vec<f32>,
}

impl HostDecoder {
    pub(super) fn from_stored(stored: StoredDecoder, residence: Residence, d: usize) -> Result<Self> {
        let embedding = HostTable::from_stored(stored.embedding, residence)?;
        let head = match &stored.head {
            Some(head) => HostLinear::from_stored(head, residence)?,
            None => embedding.tied_head(),
        };
        let blocks = stored.blocks.iter().map(|block| HostBlock::from_stored(block, residence));
        let blocks = blocks.collect::<Result<_>>()?;
        let norm = HostNorm::from_stored(&stored.norm, d);
        let precision = match residence {
            Residence::Packed(precision) => precision,
            Residence::Dense => Precision::Exact,
        };
        Ok(Self { embedding, blocks, norm, head, tiled_head: None, precision })
    }

    /// How it reads.
    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.embedding.dims()[0]
    }

    /// The number of blocks.
    pub(super) fn layers(&self) -> usize {
        self.blocks.len()
    }

    /// `[ids.len(), d]`
    pub(super) fn embed(&self, ids: &[u32]) -> Vec<f32> {
        self.embedding.rows(ids)
    }

    /// Reads the next `s` positions of each row, `[b·s, d] → [b·s, d]`.
    pub(super) fn forward(
        &self,
        config: &DecoderConfig,
        x: Vec<f32>,
        s: usize,
        cache: &mut KvCache,
    ) -> Vec<f32> {
        let positions = cache.next_positions(s);
        let frames: Vec<BatchFrame> = config
            .layer_kinds()
            .into_iter()
            .map(|kind| BatchFrame::new(kind.rope, &positions, cache.visible(s, kind.window)))
            .collect();
        let (from, attention) = (cache.len(), config.block.attention);
        let contexts = cache.host(s, [attention.n_kv_heads, attention.head_dim]);
        let kinds = config.kinds_of_layers();
        let x = HostStack { blocks: &self.blocks, frames: &frames, kinds: &kinds }.read(x, contexts, from);
        cache.advance(s);
        self.norm.read(&x)
    }

    /// Reads the next position of each of several rows, which have caches of their own, `[b, d] → [b, d]`.
    pub(super) fn forward_next(
        &self,
        config: &DecoderConfig,
        x: Vec<f32>,
        caches: &mut [&mut KvCache],
    ) -> Vec<f32> {
        let positions: Vec<Vec<usize>> = caches.iter().flat_map(|cache| cache.next_positions(1)).collect();
        let frames: Vec<NextFrame> = config
            .layer_kinds()
            .into_iter()
            .map(|kind| {
                let visible = caches.iter().map(|cache| cache.visible(1, kind.window)).collect();
                NextFrame::new(kind.rope, &positions, visible)
            })
            .collect();
        let (kinds, attention) = (config.kinds_of_layers(), config.block.attention);
        let froms: Vec<usize> = caches.iter().map(|cache| cache.len()).collect();
        let width = [attention.n_kv_heads, attention.head_dim];
        let mut contexts: Vec<_> = caches.iter_mut().map(|cache| cache.host(1, width)).collect();
        let stack = HostStack { blocks: &self.blocks, frames: &frames, kinds: &kinds };
        let x = stack.read_next(x, &mut contexts, &froms);
        caches.iter_mut().for_each(|cache| cache.advance(1));
        self.norm.read(&x)
    }

    /// `[r, d] → [r, vocabulary]`
    pub(super) fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        self.head.read(hidden)
    }

    /// The same decoder, which training multiplies in bfloat16 where this machine has instructions for it.
    pub(super) fn in_bfloat16(mut self) -> Self {
        self.blocks = self.blocks.into_iter().map(HostBlock::in_bfloat16).collect();
        self.tiled_head = self.dense_head().and_then(TiledHead::new);
        self
    }

    /// The output head, `[vocabulary, d]`, unless it stays as stored.
    pub(super) fn dense_head(&self) -> Option<&HostMatrix> {
        match self.head.weight() {
            HostWeight::Dense { matrix, is_transposed: true } => Some(matrix),
            _ => None,
        }
    }

    /// The loss of hidden states, `[n, d]`, at targets, and its gradient; `None` if the head stays as stored.
    pub(crate) fn loss(&self, hidden: &[f32], targets: &[u32]) -> Option<HostLoss> {
        let head = self.dense_head()?;
        Some(host_loss(hidden, head, self.tiled_head.as_ref(), targets))
    }

    /// Reads whole sequences, one after another without padding, and returns their normalised
    /// hidden states, `[r, d] → [r, d]`. With `firsts`, the gradient can be had at the embeddings
    /// of each sequence from that position on.
    pub(crate) fn read(
        &self,
        config: &DecoderConfig,
        embeddings: &[f32],
        lengths: &[usize],
        firsts: Option<&[usize]>,
    ) -> (Vec<f32>, HostTape) {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let frame = |kind: super::config::LayerKind| {
            let visibility = kind.window.map_or(HostVisibility::Causal, HostVisibility::Window);
            HostFrame::new(kind.rope, longest, visibility)
        };
        let frames: Vec<HostFrame> = config.layer_kinds().into_iter().map(frame).collect();
        let kinds = config.kinds_of_layers();
        let stack = HostStack { blocks: &self.blocks, frames: &frames, kinds: &kinds };
        let keep = if firsts.is_some() { Keep::ForInput } else { Keep::Nothing };
        let all = vec![0; lengths.len()];
        let (last, stack) = stack.forward(embeddings, lengths, firsts.unwrap_or(&all), 0, keep);
        (self.norm.forward(&last), HostTape { frames, kinds, stack, last })
    }

    /// The gradient at the embeddings from that at the hidden states, `[r, d] → [r, d]`; zero where
    /// it was not asked for.
    pub(crate) fn gradient(&self, tape: &HostTape, d_hidden: &[f32]) -> Vec<f32> {
        let HostTape { frames, kinds, stack: tape, last } = tape;
        let mut d_last = vec![0.0; last.len()];
        self.norm.backward(last, d_hidden, &mut d_last);
        HostStack { blocks: &self.blocks, frames, kinds }.backward(tape, &d_last, Keep::ForInput).0
    }

    /// The same decoder in burn, as `f32`.
    pub(super) fn to_graph(&self, device: &Device) -> GraphDecoder {
        let table = match &self.embedding {
            HostTable::Dense(table) => table.tensor(device),
            HostTable::Packed(table) => {
                tensor(&table.tensor().to_f32(), [table.rows(), table.cols()], device)
            }
        };
        let linear = |map: &HostLinear| {
            let [d_in, d_out] = map.dims();
            let weight = match map.weight() {
                HostWeight::Dense { matrix, is_transposed: true } => matrix.tensor(device).transpose(),
                HostWeight::Dense { matrix, is_transposed: false } => matrix.tensor(device),
                HostWeight::Packed(matrix) => {
                    tensor(&matrix.tensor().to_f32(), [d_out, d_in], device).transpose()
                }
            };
            Linear::new(weight, map.bias().map(|bias| Tensor::from_data(bias, device)))
        };
        let norm = |norm: &HostNorm| match norm.weight() {
            Some(weight) => Norm::rms(Tensor::from_data(weight, device), norm.epsilon()),
            None => Norm::non_parametric_layer(norm.epsilon()),
        };
        let block = |block: &HostBlock| {
            let (attention, feed_forward) = (&block.attention, &block.feed_forward);
            let linears = [&attention.query, &attention.key, &attention.value, &attention.output];
            let norms = [&attention.query_norm, &attention.key_norm];
            Block {
                attention_norm: norm(&block.attention_norm),
                attention: crate::nn::Attention::new(
                    attention.config,
                    linears.map(linear),
                    norms.map(|own| own.as_ref().map(norm)),
                ),
                post_attention_norm: block.post_attention_norm.as_ref().map(norm),
                feed_forward_norm: norm(&block.feed_forward_norm),
                feed_forward: crate::nn::FeedForward::new(
                    [&feed_forward.gate, &feed_forward.up, &feed_forward.down].map(linear),
                    feed_forward.activation,
                ),
                post_feed_forward_norm: block.post_feed_forward_norm.as_ref().map(norm),
            }
        };
        let blocks = self.blocks.iter().map(block).collect();
        GraphDecoder::new(Embedding::new(table), blocks, norm(&self.norm), linear(&self.head), device)
    }

    pub(super) fn hash_weights(&self, hash: &mut Sha256) {
        match &self.embedding {
            HostTable::Dense(table) => hash.update(bytemuck::cast_slice(table.values())),
            HostTable::Packed(table) => hash.update(&**table.tensor().bytes()),
        }
        for block in &self.blocks {
            block.visit(&mut |values| hash.update(values));
        }
        self.norm.visit(&mut |values| hash.update(values));
        self.head.visit(&mut |values| hash.update(values));
    }
}

fn tensor(values: &[f32], shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tensor};

    use super::super::architecture::Architecture;
    use super::super::config::LocalLayers;
    use super::super::transformer::Transformer;
    use super::*;
    use crate::nn::{
        Activation, AttentionConfig, BlockConfig, NormConfig, RopeConfig, RopeLayout, StoredBlock,
        StoredLinear, StoredNorm,
    };
    use crate::weights::RawTensor;

    /// Small configurations with what each architecture has of its own.
    fn tiny(architecture: Architecture) -> DecoderConfig {
        let is_gemma = architecture == Architecture::Gemma3;
        let head_dim = if is_gemma { 12 } else { 8 };
        let layout = match architecture {
            Architecture::Llama => RopeLayout::Interleaved,
            _ => RopeLayout::HalfSplit,
        };
        DecoderConfig {
            architecture,
            n_layers: 3,
            block: BlockConfig {
                d_model: 32,
                d_ff: 56,
                attention: AttentionConfig {
                    n_heads: 4,
                    n_kv_heads: if architecture == Architecture::Olmo { 4 } else { 2 },
                    head_dim,
                    // Unlike 1/√k, as in Gemma's largest model.
                    scale: if is_gemma { 0.2 } else { 1.0 / (head_dim as f64).sqrt() },
                },
                norm: match architecture {
                    Architecture::Olmo => NormConfig::NonParametricLayer { epsilon: 1e-5 },
                    _ => NormConfig::Rms { epsilon: 1e-5 },
                },
                activation: if is_gemma { Activation::GeluTanh } else { Activation::Silu },
                sandwich: is_gemma,
                qk_norm: is_gemma,
                qkv_bias: architecture == Architecture::Qwen2,
            },
            rope: RopeConfig::new(1000.0, head_dim, layout),
            local: is_gemma.then(|| LocalLayers {
                window: 4,
                period: 2,
                rope: RopeConfig::new(50.0, head_dim, layout),
            }),
            embedding_scale: None,
            context_length: 64,
        }
    }

    /// The same random weights on host memory and in burn.
    fn random_decoders(config: DecoderConfig) -> (Transformer, GraphDecoder) {
        let mut state = 11_u64;
        let mut random = move |len: usize, low: f32, high: f32| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                low + (high - low) * (state >> 40) as f32 / (1 << 24) as f32
            };
            (0..len).map(|_| next()).collect()
        };
        let BlockConfig { d_model: d, d_ff: f, attention, qkv_bias, .. } = config.block;
        let (h, g) = (attention.n_heads * attention.head_dim, attention.n_kv_heads * attention.head_dim);
        let block = |random: &mut dyn FnMut(usize, f32, f32) -> Vec<f32>| {
            let mut linear = |[d_in, d_out]: [usize; 2], bias: bool| {
                let bound = 2.6 / (d_in as f32).sqrt();
                let weight = random(d_in * d_out, -bound, bound);
                StoredLinear {
                    weight: RawTensor::from_f32("w", vec![d_out, d_in], &weight).expect("as many values"),
                    bias: bias.then(|| random(d_out, -0.8, 0.8)),
                }
            };
            let query = linear([d, h], qkv_bias);
            let [key, value] = [(); 2].map(|()| linear([d, g], qkv_bias));
            let output = linear([h, d], false);
            let [gate, up] = [(); 2].map(|()| linear([d, f], false));
            let down = linear([f, d], false);
            let mut norm = |width: usize| match config.block.norm {
                NormConfig::Rms { epsilon } => StoredNorm { weight: Some(random(width, 0.5, 1.5)), epsilon },
                NormConfig::NonParametricLayer { epsilon } => StoredNorm { weight: None, epsilon },
            };
            StoredBlock {
                config: config.block,
                attention_norm: norm(d),
                query,
                key,
                value,
                output,
                query_norm: config.block.qk_norm.then(|| norm(attention.head_dim)),
                key_norm: config.block.qk_norm.then(|| norm(attention.head_dim)),
                post_attention_norm: config.block.sandwich.then(|| norm(d)),
                feed_forward_norm: norm(d),
                gate,
                up,
                down,
                post_feed_forward_norm: config.block.sandwich.then(|| norm(d)),
            }
        };
        let stored = StoredDecoder {
            blocks: (0..config.n_layers).map(|_| block(&mut random)).collect(),
            embedding: RawTensor::from_f32("e", vec![40, d], &random(40 * d, -1.7, 1.7)).expect("as many"),
            norm: match config.block.norm {
                NormConfig::Rms { epsilon } => StoredNorm { weight: Some(random(d, 0.5, 1.5)), epsilon },
                NormConfig::NonParametricLayer { epsilon } => StoredNorm { weight: None, epsilon },
            },
            head: None,
            bytes: 0,
        };
        let decoder = Transformer::from_stored(config, stored, &Device::flex(), Residence::Dense);
        let decoder = decoder.expect("matrices");
        let graph = decoder.host().expect("on host memory").to_graph(&Device::flex());
        (decoder, graph)
    }

    fn host(tensor: Tensor<3>) -> Vec<f32> {
        tensor.into_data().try_into_vec().expect("f32")
    }

    fn largest(values: &[f32]) -> f32 {
        values.iter().fold(0.0, |most, value| most.max(value.abs()))
    }

    #[test]
    fn states_and_gradients_are_those_of_autodiff_for_all_architectures() {
        for architecture in
            [Architecture::Llama, Architecture::Qwen2, Architecture::Gemma3, Architecture::Olmo]
        {
            let (decoder, graph) = random_decoders(tiny(architecture));
            let (config, device) = (decoder.config().clone(), Device::flex());
            let on_host = decoder.host().expect("dense weights on the CPU");
            let d = config.d_model();
            // The second sequence is shorter than the window, the third asks for nothing.
            let (lengths, firsts) = ([11, 3, 5], [4, 0, 5]);
            let random = |s| Tensor::<3>::random([1, s, d], Distribution::Normal(0.0, 1.0), &device);
            let (x, dy): (Vec<_>, Vec<_>) = lengths.map(|s| (random(s), random(s))).into_iter().unzip();
            let flat = |parts: &[Tensor<3>]| parts.iter().cloned().flat_map(host).collect::<Vec<f32>>();

            let (hidden, reading) = on_host.read(&config, &flat(&x), &lengths, Some(&firsts));
            let gradient = on_host.gradient(&reading, &flat(&dy));
            let (without, _) = on_host.read(&config, &flat(&x), &lengths, None);
            assert_eq!(hidden, without, "{architecture:?}: what is kept changes the states");

            let mut start = 0;
            for (((x, dy), length), first) in x.into_iter().zip(dy).zip(lengths).zip(firsts) {
                let x = x.autodiff().require_grad();
                let expected = graph.read(&config, x.clone());
                let mask: Vec<f32> =
                    (0..length * d).map(|i| if i / d >= first { 1.0 } else { 0.0 }).collect();
                // Earlier positions ask for no gradient, and later ones give them none.
                let masked = Tensor::<1>::from_data(&mask[..], &device).reshape([1, length, d]);
                let slopes = (expected.clone() * (dy * masked).autodiff()).sum().backward();
                let (expected, slope) = (host(expected.inner()), host(x.grad(&slopes).expect("a gradient")));
                let own = start * d..(start + length) * d;
                for (what, found, expected, from) in
                    [("states", &hidden, expected, 0), ("gradient", &gradient, slope, first * d)]
                {
                    let size = largest(&expected);
                    for (found, expected) in found[own.clone()].iter().zip(&expected).skip(from) {
                        assert!(
                            (found - expected).abs() <= 1e-5 * size,
                            "{architecture:?}, {what}: {found} for {expected}"
                        );
                    }
                }
                assert!(gradient[own.clone()][..first * d].iter().all(|&value| value == 0.0));
                assert!(first == length || largest(&gradient[own]) > 0.0);
                start += length;
            }
        }
    }

    /// Rows begin with nothing, with less than the window and with more, and one leaves before the others.
    #[test]
    fn rows_with_caches_of_their_own_read_what_they_read_alone() {
        for architecture in
            [Architecture::Llama, Architecture::Qwen2, Architecture::Gemma3, Architecture::Olmo]
        {
            let (decoder, graph) = random_decoders(tiny(architecture));
            let (config, device) = (decoder.config().clone(), Device::flex());
            let d = config.d_model();
            let (read_before, length) = ([0, 3, 9], 14);
            let rows: Vec<Tensor<3>> = (0..read_before.len())
                .map(|_| Tensor::random([1, length, d], Distribution::Normal(0.0, 1.0), &device))
                .collect();
            let expected: Vec<Vec<f32>> =
                rows.iter().map(|row| host(graph.read(&config, row.clone()))).collect();
            let mut caches: Vec<KvCache> = rows
                .iter()
                .zip(read_before)
                .map(|(row, n)| {
                    let mut cache = decoder.new_cache(vec![0]);
                    if n > 0 {
                        let _ = decoder.forward(row.clone().narrow(1, 0, n), &mut cache);
                    }
                    cache
                })
                .collect();
            for step in 0.. {
                let reading: Vec<usize> =
                    (0..rows.len()).filter(|&row| read_before[row] + step < length).collect();
                if reading.is_empty() {
                    break;
                }
                let next = reading.iter().map(|&row| rows[row].clone().narrow(1, read_before[row] + step, 1));
                let next = Tensor::cat(next.collect(), 1).squeeze_dim::<2>(0);
                let mut own: Vec<&mut KvCache> = caches
                    .iter_mut()
                    .enumerate()
                    .filter(|(row, _)| reading.contains(row))
                    .map(|(_, cache)| cache)
                    .collect();
                let hidden = host(decoder.forward_next(next, &mut own).unsqueeze());
                for (found, &row) in hidden.chunks_exact(d).zip(&reading) {
                    let expected = &expected[row][(read_before[row] + step) * d..][..d];
                    let size = largest(expected);
                    for (found, expected) in found.iter().zip(expected) {
                        assert!(
                            (found - expected).abs() <= 1e-5 * size,
                            "{architecture:?}, row {row}, step {step}: {found} for {expected}"
                        );
                    }
                }
            }
            assert!(caches.iter().all(|cache| cache.len() == length));
        }
    }
}
