//! The forward pass that all decoders share.
//!
//! Shapes: `b` batch, `s` positions of this step, `d` model width.

use std::path::Path;

use burn::module::{Module as _, ModuleVisitor, Param};
use burn::tensor::{Device, FloatDType, Tensor};
use sha2::{Digest as _, Sha256};

use super::checkpoint::Checkpoint;
use super::config::{DecoderConfig, Layout};
use super::generate::TokenScore;
use super::host::HostDecoder;
use super::kv_cache::KvCache;
use super::llama::ROPE_DIVISORS;
use crate::Result;
use crate::nn::{Block, Embedding, Linear, Loader, Norm, Residence, Visibility};
use crate::weights::{GgufFile, HfFolder, MetaFolder, TensorSource};

/// Logits are made for at most this many positions at once when a loss is taken: a vocabulary of
/// 262,144 takes a megabyte per position.
const LOSS_CHUNK: usize = 64;

/// The logarithm of the sum of the exponentials, of which `highest` is the highest. One pass over
/// logits that are on the host anyway: a vocabulary of log-probabilities is not made for the sake of
/// one of them.
fn log_sum_exp(logits: &[f32], highest: f32) -> f32 {
    // Lanes that add apart, so that they can run side by side.
    let mut sums = [0.0_f32; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, &logit)| *sum += (logit - highest).exp());
    }
    let sum: f64 = sums.iter().map(|&sum| f64::from(sum)).sum();
    let rest: f64 = rest.iter().map(|&logit| f64::from((logit - highest).exp())).sum();
    highest + (sum + rest).ln() as f32
}

/// Hashes float parameters in the order in which they are visited.
struct WeightsHash(Sha256);

impl ModuleVisitor for WeightsHash {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let data = param.val().inner().into_data();
        let bytes: &[u8] = data.bytes();
        self.0.update(bytes);
    }
}

/// A frozen causal language model: token or latent embeddings in, hidden states and logits out.
#[derive(Debug)]
pub struct Transformer {
    config: DecoderConfig,
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: Norm,
    head: Linear,
    device: Device,
    weight_bytes: u64,
    /// Dense weights on the CPU as training reads them.
    host: Option<HostDecoder>,
}

impl Transformer {
    /// Loads a GGUF file.
    ///
    /// # Errors
    ///
    /// Errors of the configuration, of each tensor that is missing or misshapen, and of tensors that
    /// the architecture has no place for.
    pub fn from_gguf(file: &GgufFile, device: &Device, residence: Residence) -> Result<Self> {
        let config = DecoderConfig::from_gguf(file)?;
        Self::load(config, file, &Layout::GGUF, device, residence)
    }

    /// Loads a Hugging Face folder.
    ///
    /// # Errors
    ///
    /// As [`Transformer::from_gguf`].
    pub fn from_hugging_face(folder: &HfFolder, device: &Device, residence: Residence) -> Result<Self> {
        let config_path = TensorSource::path(folder).join("config.json");
        let (config, layout) = DecoderConfig::from_hugging_face(folder.config(), Path::new(&config_path))?;
        Self::load(config, folder, &layout, device, residence)
    }

    /// Loads a folder in Meta's layout (`params.json` and `consolidated.safetensors`).
    ///
    /// # Errors
    ///
    /// As [`Transformer::from_gguf`].
    pub fn from_meta(folder: &MetaFolder, device: &Device, residence: Residence) -> Result<Self> {
        Self::load(DecoderConfig::from_meta(folder.args()), folder, &Layout::META, device, residence)
    }

    /// Loads a checkpoint in any layout.
    ///
    /// # Errors
    ///
    /// As [`Transformer::from_gguf`].
    pub(crate) fn from_checkpoint(
        checkpoint: &Checkpoint,
        device: &Device,
        residence: Residence,
    ) -> Result<Self> {
        let config = checkpoint.config().clone();
        Self::load(config, checkpoint.source(), checkpoint.layout(), device, residence)
    }

    fn load(
        config: DecoderConfig,
        source: &dyn TensorSource,
        layout: &Layout,
        device: &Device,
        residence: Residence,
    ) -> Result<Self> {
        let loader =
            Loader::new(source, &layout.names, device, residence).with_norm_offset(layout.norm_offset);
        let d = config.d_model();
        let embedding = loader.embedding(layout.names.embedding, d)?;
        let [vocabulary, _] = embedding.dims();
        let blocks =
            (0..config.n_layers).map(|layer| loader.block(layer, &config.block)).collect::<Result<_>>()?;
        let norm = loader.norm(layout.names.output_norm, d, config.block.norm)?;
        let head = if layout.tied_head && !loader.has(layout.names.head) {
            None
        } else {
            let name = layout.names.head.trim_end_matches(".weight");
            Some(loader.linear(name, [d, vocabulary], false)?)
        };
        loader.expect_all_read(config.rope.divisors.as_ref().map(|_| ROPE_DIVISORS))?;
        let weight_bytes = loader.loaded_bytes();
        Ok(Self::from_parts(config, embedding, blocks, norm, head, device, weight_bytes))
    }

    /// Puts a decoder together; without a head of its own, the embedding table is the head.
    pub(super) fn from_parts(
        config: DecoderConfig,
        mut embedding: Embedding,
        mut blocks: Vec<Block>,
        norm: Norm,
        mut head: Option<Linear>,
        device: &Device,
        weight_bytes: u64,
    ) -> Self {
        let host = HostDecoder::sharing(&config, &mut embedding, &mut blocks, &norm, head.as_mut(), device);
        let head = head.unwrap_or_else(|| embedding.tied_head());
        Self { config, embedding, blocks, norm, head, device: device.clone(), weight_bytes, host }
    }

    /// Keeps the matrices in this type and multiplies in it. The embedding table stays as it is, so
    /// that a head which shared it has a copy of its own then.
    #[must_use]
    pub fn with_matrices_in(mut self, products: FloatDType) -> Self {
        self.host = None;
        self.blocks.iter_mut().flat_map(Block::linears_mut).for_each(|linear| linear.keep_in(products));
        self.head.keep_in(products);
        self
    }

    /// What the checkpoint states about the model.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Where the model runs.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What the weights take, in bytes: as stored where they are packed, in float32 where dense.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// The number of token embeddings.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.embedding.dims()[0]
    }

    /// What the first block reads for these tokens, `[ids.len(), d]`: the space that projectors
    /// map into. It includes the scale that some models put on their embeddings.
    #[must_use]
    pub fn embed(&self, ids: &[u32]) -> Tensor<2> {
        let embedded = self.embedding.forward(ids, &self.device);
        match self.config.embedding_scale {
            Some(scale) => embedded * scale,
            None => embedded,
        }
    }

    /// An empty cache for rows of a batch that begin in the slots `starts`.
    #[must_use]
    pub fn new_cache(&self, starts: Vec<usize>) -> KvCache {
        let packed = self.blocks.first().is_some_and(|block| block.attention.output.is_packed());
        if packed {
            KvCache::on_host(self.blocks.len(), starts)
        } else {
            KvCache::new(self.blocks.len(), starts)
        }
    }

    /// Reads the next positions and returns their normalised hidden states.
    ///
    /// # Shapes
    ///
    /// - input and output: `[b, s, d]`, `b` as in the cache
    #[must_use]
    pub fn forward(&self, embeddings: Tensor<3>, cache: &mut KvCache) -> Tensor<3> {
        let s = embeddings.dims()[1];
        let positions = cache.next_positions(s);
        let rotation = self.config.rope.at(&positions, &self.device);
        let visibility = cache.visibility(s, None, &self.device);
        let local = self.config.local.as_ref().map(|local| {
            let rotation = local.rope.at(&positions, &self.device);
            (local, rotation, cache.visibility(s, Some(local.window), &self.device))
        });

        let mut x = embeddings;
        for (layer, block) in self.blocks.iter().enumerate() {
            let (rotation, visibility) = match &local {
                Some((local, rotation, visibility)) if local.contains(layer) => (rotation, visibility),
                _ => (&rotation, &visibility),
            };
            let cache = &mut *cache;
            x = block.attend(x, rotation, visibility, move |new| cache.append(layer, new));
            x = block.feed_forward(x);
        }
        cache.advance(s);
        self.norm.forward(x)
    }

    /// Reads whole sequences at once and returns their normalised hidden states: what training
    /// uses, since gradients pass through it and nothing is cached. Rows that are shorter than the
    /// longest are padded on the right, where padding is seen by no position before it.
    ///
    /// # Shapes
    ///
    /// - input and output: `[b, s, d]`
    #[must_use]
    pub fn read(&self, embeddings: Tensor<3>) -> Tensor<3> {
        let s = embeddings.dims()[1];
        let positions = [(0..s).collect()];
        let rotation = self.config.rope.at(&positions, &self.device);
        let local = self.config.local.as_ref().map(|local| {
            let visibility = KvCache::new(0, vec![0]).visibility(s, Some(local.window), &self.device);
            (local, local.rope.at(&positions, &self.device), visibility)
        });
        let x = self.blocks.iter().enumerate().fold(embeddings, |x, (layer, block)| {
            let (rotation, visibility) = match &local {
                Some((local, rotation, visibility)) if local.contains(layer) => (rotation, visibility),
                _ => (&rotation, &Visibility::Causal),
            };
            block.feed_forward(block.attend(x, rotation, visibility, |new| new))
        });
        self.norm.forward(x)
    }

    /// The decoder on host memory, if its weights are dense and on the CPU.
    pub(crate) fn host(&self) -> Option<&HostDecoder> {
        self.host.as_ref()
    }

    /// The weight of the output head, `[d, vocabulary]`, unless it is packed.
    #[must_use]
    pub fn head_weight(&self) -> Option<Tensor<2>> {
        self.head.weight()
    }

    /// The sha256 of all dense weights as they are in memory, in hexadecimal: that a decoder was
    /// not changed is shown by it.
    #[must_use]
    pub fn weights_sha256(&self) -> String {
        let mut hash = WeightsHash(Sha256::new());
        self.embedding.visit(&mut hash);
        self.blocks.visit(&mut hash);
        self.norm.visit(&mut hash);
        self.head.visit(&mut hash);
        hash.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The logits of hidden states, `[b, s, d] → [b, s, vocabulary]`.
    #[must_use]
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.head.forward(hidden)
    }

    /// The negative log-likelihood of each target, in nats, `[s, d] → [s]`.
    ///
    /// # Panics
    ///
    /// Panics unless there is one target per hidden state.
    #[must_use]
    pub fn token_losses(&self, hidden: Tensor<2>, targets: &[u32]) -> Vec<f32> {
        self.token_scores(hidden, targets).into_iter().map(|score| score.loss).collect()
    }

    /// How well each hidden state foresees its target, `[s, d] → [s]`.
    ///
    /// # Panics
    ///
    /// Panics unless there is one target per hidden state.
    #[must_use]
    pub fn token_scores(&self, hidden: Tensor<2>, targets: &[u32]) -> Vec<TokenScore> {
        let [s, d] = hidden.dims();
        assert_eq!(s, targets.len(), "one target per hidden state");
        let mut scores = Vec::with_capacity(s);
        for (chunk, targets) in targets.chunks(LOSS_CHUNK).enumerate() {
            let hidden = hidden.clone().narrow(0, chunk * LOSS_CHUNK, targets.len());
            let logits = self.logits(hidden.reshape([1, targets.len(), d]));
            let data = logits.into_data().convert::<f32>();
            let rows = data.as_slice::<f32>().expect("converted to f32");
            let vocabulary = rows.len() / targets.len();
            scores.extend(rows.chunks_exact(vocabulary).zip(targets).map(|(row, &target)| {
                let found = row[target as usize];
                let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                TokenScore { loss: log_sum_exp(row, highest) - found, is_best: found >= highest }
            }));
        }
        scores
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation;

    use super::*;

    #[test]
    fn log_sum_exp_is_what_log_softmax_takes_off() {
        let logits: Vec<f32> =
            (0..49_157_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 2048.0 - 12.0).collect();
        let row = Tensor::<1>::from_data(logits.as_slice(), &Device::flex()).unsqueeze::<2>();
        let expected = activation::log_softmax(row, 1).into_data();
        let expected = expected.as_slice::<f32>().unwrap();
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let found = log_sum_exp(&logits, highest);
        for (logit, expected) in logits.iter().zip(expected) {
            assert!((logit - found - expected).abs() < 1e-5, "{}, expected {expected}", logit - found);
        }
    }
}
