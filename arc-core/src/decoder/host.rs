//! A dense decoder on host memory: what training on the CPU reads with.
//!
//! A decoder is frozen, so of its backward pass only the gradient at the embeddings is wanted, and
//! that is written out by hand (see [`HostStack`]). Weights lie in the memory of the tensors.

use burn::tensor::Device;

use super::config::DecoderConfig;
use crate::host::{
    HostBlock, HostFrame, HostMatrix, HostNorm, HostStack, HostVisibility, Keep, StackTape,
};
use crate::nn::{Block, Embedding, Linear, Norm};

/// The weights of a decoder, each in one place of memory with its tensor.
#[derive(Debug)]
pub(crate) struct HostDecoder {
    blocks: Vec<HostBlock>,
    norm: HostNorm,
    /// The output head, `[vocabulary, d]`
    head: HostMatrix,
}

/// What reading left for [`HostDecoder::gradient`].
#[derive(Debug)]
pub(crate) struct HostReading {
    frames: Vec<HostFrame>,
    kinds: Vec<usize>,
    stack: StackTape,
    /// What the last normalisation read, `[r, d]`.
    last: Vec<f32>,
}

impl HostDecoder {
    /// The weights of a decoder's parts and the head: its own or, where there is none, the
    /// embedding table. `None` unless they are dense and on the CPU device.
    pub(super) fn sharing(
        config: &DecoderConfig,
        embedding: &mut Embedding,
        blocks: &mut [Block],
        norm: &Norm,
        head: Option<&mut Linear>,
        device: &Device,
    ) -> Option<Self> {
        if *device != Device::flex() || device.is_autodiff() {
            return None;
        }
        let table = embedding.share_with_host()?;
        let head = match head {
            Some(head) => head.share_with_host(true)?.into_matrix(),
            None => table,
        };
        let blocks = blocks.iter_mut().map(HostBlock::sharing).collect::<Option<_>>()?;
        Some(Self { blocks, norm: HostNorm::of(norm, config.d_model()), head })
    }

    /// The output head, `[vocabulary, d]`.
    pub(crate) fn head(&self) -> &HostMatrix {
        &self.head
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
    ) -> (Vec<f32>, HostReading) {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut frames = vec![HostFrame::new(&config.rope, longest, HostVisibility::Causal)];
        let mut kinds = vec![0; self.blocks.len()];
        if let Some(local) = &config.local {
            frames.push(HostFrame::new(&local.rope, longest, HostVisibility::Window(local.window)));
            for (layer, kind) in kinds.iter_mut().enumerate() {
                *kind = usize::from(local.contains(layer));
            }
        }
        let stack = HostStack { blocks: &self.blocks, frames: &frames, kinds: &kinds };
        let keep = if firsts.is_some() { Keep::ForInput } else { Keep::Nothing };
        let all = vec![0; lengths.len()];
        let (last, stack) = stack.forward(embeddings, lengths, firsts.unwrap_or(&all), 0, keep);
        (self.norm.forward(&last), HostReading { frames, kinds, stack, last })
    }

    /// The gradient at the embeddings from that at the hidden states, `[r, d] → [r, d]`; zero where
    /// it was not asked for.
    pub(crate) fn gradient(&self, reading: &HostReading, d_hidden: &[f32]) -> Vec<f32> {
        let HostReading { frames, kinds, stack: tape, last } = reading;
        let mut d_last = vec![0.0; last.len()];
        self.norm.backward(last, d_hidden, &mut d_last);
        HostStack { blocks: &self.blocks, frames, kinds }.backward(tape, &d_last, Keep::ForInput).0
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tensor};

    use super::super::config::{Architecture, LocalLayers};
    use super::super::transformer::Transformer;
    use super::*;
    use crate::nn::{
        Activation, Attention, AttentionConfig, BlockConfig, FeedForward, NormConfig, RopeConfig, RopeLayout,
    };

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

    fn random_decoder(config: DecoderConfig) -> Transformer {
        let device = Device::flex();
        device.seed(11);
        let normal = |spread| Distribution::Normal(0.0, spread);
        let BlockConfig { d_model: d, d_ff: f, attention, qkv_bias, .. } = config.block;
        let linear = |d_in: usize, d_out: usize, bias: bool| {
            let weight = Tensor::random([d_in, d_out], normal(1.5 / (d_in as f64).sqrt()), &device);
            Linear::dense(weight, bias.then(|| Tensor::random([d_out], normal(0.5), &device)))
        };
        let norm = |width: usize| match config.block.norm {
            NormConfig::Rms { epsilon } => {
                Norm::rms(Tensor::random([width], Distribution::Uniform(0.5, 1.5), &device), epsilon)
            }
            NormConfig::NonParametricLayer { epsilon } => Norm::non_parametric_layer(epsilon),
        };
        let (h, g) = (attention.n_heads * attention.head_dim, attention.n_kv_heads * attention.head_dim);
        let block = || {
            let head_norm = || config.block.qk_norm.then(|| norm(attention.head_dim));
            let sandwich = || config.block.sandwich.then(|| norm(d));
            Block {
                attention_norm: norm(d),
                attention: Attention::new(
                    attention,
                    [
                        linear(d, h, qkv_bias),
                        linear(d, g, qkv_bias),
                        linear(d, g, qkv_bias),
                        linear(h, d, false),
                    ],
                    [head_norm(), head_norm()],
                ),
                post_attention_norm: sandwich(),
                feed_forward_norm: norm(d),
                feed_forward: FeedForward::new(
                    [linear(d, f, false), linear(d, f, false), linear(f, d, false)],
                    config.block.activation,
                ),
                post_feed_forward_norm: sandwich(),
            }
        };
        let blocks = (0..config.n_layers).map(|_| block()).collect();
        let table = Embedding::dense(Tensor::random([40, d], normal(1.0), &device));
        let last = norm(d);
        Transformer::from_parts(config, table, blocks, last, None, &device, 0)
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
            let decoder = random_decoder(tiny(architecture));
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
                let expected = decoder.read(x.clone());
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
}
