//! The forward pass that all decoders share.
//!
//! Shapes: `b` batch, `s` positions of this step, `d` model width.

use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use sha2::{Digest as _, Sha256};

use super::checkpoint::DecoderCheckpoint;
use super::config::DecoderConfig;
use super::generate::TokenScore;
use super::graph::GraphDecoder;
use super::host::HostDecoder;
use super::kv_cache::KvCache;
use super::reading::Reading;
use super::stored::StoredDecoder;
use super::stored_form::StoredForm;
use crate::Result;
use crate::host::on_pool;
use crate::nn::Residence;
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

/// A frozen causal language model: token or latent embeddings in, hidden states and logits out.
#[derive(Debug)]
pub struct Transformer {
    config: DecoderConfig,
    engine: Engine,
    device: Device,
    weight_bytes: u64,
}

/// What a decoder runs on.
#[derive(Debug)]
enum Engine {
    /// burn: GPUs.
    Graph(GraphDecoder),
    /// Host memory: the CPU.
    Host(HostDecoder),
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
        Self::load(config, file, &StoredForm::GGUF, device, residence)
    }

    /// Loads a Hugging Face folder.
    ///
    /// # Errors
    ///
    /// As [`Transformer::from_gguf`].
    pub fn from_hugging_face(folder: &HfFolder, device: &Device, residence: Residence) -> Result<Self> {
        let config_path = TensorSource::path(folder).join("config.json");
        let (config, form) = DecoderConfig::from_hugging_face(folder.config(), Path::new(&config_path))?;
        Self::load(config, folder, &form, device, residence)
    }

    /// Loads a folder in Meta's layout (`params.json` and `consolidated.safetensors`).
    ///
    /// # Errors
    ///
    /// As [`Transformer::from_gguf`].
    pub fn from_meta(folder: &MetaFolder, device: &Device, residence: Residence) -> Result<Self> {
        Self::load(DecoderConfig::from_meta(folder.args()), folder, &StoredForm::META, device, residence)
    }

    /// Loads a checkpoint in any layout.
    ///
    /// # Errors
    ///
    /// As [`Transformer::from_gguf`].
    pub(crate) fn from_checkpoint(
        checkpoint: &DecoderCheckpoint,
        device: &Device,
        residence: Residence,
    ) -> Result<Self> {
        let config = checkpoint.config().clone();
        Self::load(config, checkpoint.source(), checkpoint.form(), device, residence)
    }

    fn load(
        config: DecoderConfig,
        source: &dyn TensorSource,
        form: &StoredForm,
        device: &Device,
        residence: Residence,
    ) -> Result<Self> {
        let stored = StoredDecoder::find(&config, source, form, residence)?;
        Self::from_stored(config, stored, device, residence)
    }

    /// Puts a decoder together: on host memory on the CPU, in burn elsewhere.
    pub(super) fn from_stored(
        config: DecoderConfig,
        stored: StoredDecoder,
        device: &Device,
        residence: Residence,
    ) -> Result<Self> {
        let weight_bytes = stored.bytes;
        let is_on_cpu = *device == Device::flex() && !device.is_autodiff();
        let engine = match is_on_cpu {
            true => Engine::Host(HostDecoder::from_stored(stored, residence, config.d_model())?),
            false => Engine::Graph(GraphDecoder::from_stored(&stored, device)),
        };
        Ok(Self { config, engine, device: device.clone(), weight_bytes })
    }

    /// The same decoder in burn, on the CPU too, its weights in `f32`: what the engine on host memory
    /// is held against.
    #[must_use]
    pub fn through_graph(self) -> Self {
        self.with_engine(|graph| graph)
    }

    fn with_engine(self, change: impl FnOnce(GraphDecoder) -> GraphDecoder) -> Self {
        let Self { config, engine, device, weight_bytes } = self;
        let graph = match engine {
            Engine::Graph(graph) => graph,
            Engine::Host(host) => host.to_graph(&device),
        };
        Self { config, engine: Engine::Graph(change(graph)), device, weight_bytes }
    }

    /// Keeps the matrices in this type and multiplies in it. The embedding table stays as it is, so
    /// that a head which shared it has a copy of its own then. On host memory it is what training
    /// multiplies by in `BF16`, where the machine has instructions for it.
    #[must_use]
    pub fn with_matrices_in(self, products: FloatDType) -> Self {
        match self.engine {
            Engine::Host(host) if products == FloatDType::BF16 => {
                Self { engine: Engine::Host(host.in_bfloat16()), ..self }
            }
            _ => self.with_engine(|graph| graph.with_matrices_in(products)),
        }
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
        match &self.engine {
            Engine::Graph(graph) => graph.vocabulary(),
            Engine::Host(host) => host.vocabulary(),
        }
    }

    /// What the first block reads for these tokens, `[ids.len(), d]`: the space that projectors
    /// map into. It includes the scale that some models put on their embeddings.
    #[must_use]
    pub fn embed(&self, ids: &[u32]) -> Tensor<2> {
        let embedded = match &self.engine {
            Engine::Graph(graph) => graph.embed(ids),
            Engine::Host(host) => {
                let rows = TensorData::new(host.embed(ids), [ids.len(), self.config.d_model()]);
                Tensor::from_data(rows, &self.device)
            }
        };
        match self.config.embedding_scale {
            Some(scale) => embedded * scale,
            None => embedded,
        }
    }

    /// An empty cache for rows of a batch that begin in the slots `starts`.
    #[must_use]
    pub fn new_cache(&self, starts: Vec<usize>) -> KvCache {
        match &self.engine {
            Engine::Graph(graph) => KvCache::in_tensors(graph.layers(), starts),
            Engine::Host(host) => KvCache::on_host(host.layers(), starts, host.precision()),
        }
    }

    /// Reads the next positions and returns their normalised hidden states.
    ///
    /// # Shapes
    ///
    /// - input and output: `[b, s, d]`, `b` as in the cache
    ///
    /// # Panics
    ///
    /// Panics if the cache is that of another decoder.
    #[must_use]
    pub fn forward(&self, embeddings: Tensor<3>, cache: &mut KvCache) -> Tensor<3> {
        match &self.engine {
            Engine::Graph(graph) => graph.forward(&self.config, embeddings, cache),
            Engine::Host(host) => {
                let shape = embeddings.dims();
                let x = host_values(embeddings);
                let hidden = on_pool(|| host.forward(&self.config, x, shape[1], cache));
                Tensor::from_data(TensorData::new(hidden, shape), &self.device)
            }
        }
    }

    /// Reads the next position of each of several rows that have caches of their own, and so may begin, be of
    /// any length and end whenever they like: nothing is padded. Returns their normalised hidden states. The
    /// weights are read once for all rows on the CPU; in burn the rows are read one after another.
    ///
    /// # Shapes
    ///
    /// - input and output: `[b, d]`, one row for each cache
    ///
    /// # Panics
    ///
    /// Panics if a cache is that of another decoder or of several rows, or if there are not as many as there are
    /// embeddings.
    #[must_use]
    pub fn forward_next(&self, embeddings: Tensor<2>, caches: &mut [&mut KvCache]) -> Tensor<2> {
        let [b, d] = embeddings.dims();
        assert_eq!(b, caches.len(), "each row has a cache");
        assert!(caches.iter().all(|cache| cache.rows() == 1), "each cache is of one row");
        if b == 0 {
            return embeddings;
        }
        match &self.engine {
            Engine::Graph(_) => {
                let rows = caches.iter_mut().enumerate().map(|(row, cache)| {
                    let embedding = embeddings.clone().narrow(0, row, 1);
                    self.forward(embedding.unsqueeze(), cache).reshape([1, d])
                });
                Tensor::cat(rows.collect(), 0)
            }
            Engine::Host(host) => {
                let x = host_values(embeddings.unsqueeze());
                let hidden = on_pool(|| host.forward_next(&self.config, x, caches));
                Tensor::from_data(TensorData::new(hidden, [b, d]), &self.device)
            }
        }
    }

    /// Reads whole sequences of `lengths` at once, behind which rows are padded: what training uses.
    /// Nothing is cached. If the embeddings carry a graph, so does what is read; `firsts` says from
    /// which position of each row on its gradient is asked for.
    ///
    /// # Shapes
    ///
    /// - input: `[b, s, d]`
    #[must_use]
    pub fn read(&self, embeddings: Tensor<3>, lengths: &[usize], firsts: &[usize]) -> Reading<'_> {
        Reading::of(self, embeddings, lengths, firsts)
    }

    /// The normalised hidden states of whole sequences of one length, `[b, s, d] → [b, s, d]`, with
    /// their graph where they are read in burn.
    #[must_use]
    pub fn hidden_states(&self, embeddings: Tensor<3>) -> Tensor<3> {
        match &self.engine {
            Engine::Graph(graph) => graph.read(&self.config, embeddings),
            Engine::Host(host) => {
                let [b, s, d] = embeddings.dims();
                let (hidden, _) = host.read(&self.config, &host_values(embeddings), &vec![s; b], None);
                Tensor::from_data(TensorData::new(hidden, [b, s, d]), &self.device)
            }
        }
    }

    /// The decoder on host memory, if it is there.
    pub(crate) fn host(&self) -> Option<&HostDecoder> {
        match &self.engine {
            Engine::Graph(_) => None,
            Engine::Host(host) => Some(host),
        }
    }

    /// The weight of the output head, `[d, vocabulary]`, unless it stays as stored.
    #[must_use]
    pub fn head_weight(&self) -> Option<Tensor<2>> {
        match &self.engine {
            Engine::Graph(graph) => Some(graph.head_weight()),
            Engine::Host(host) => host.dense_head().map(|head| head.tensor(&self.device).transpose()),
        }
    }

    /// The sha256 of all weights as they are in memory, in hexadecimal: that a decoder was
    /// not changed is shown by it.
    #[must_use]
    pub fn weights_sha256(&self) -> String {
        let mut hash = Sha256::new();
        match &self.engine {
            Engine::Graph(graph) => graph.hash_weights(&mut hash),
            Engine::Host(host) => host.hash_weights(&mut hash),
        }
        arc_adapters::hexadecimal(&hash.finalize())
    }

    /// The logits of hidden states, `[b, s, d] → [b, s, vocabulary]`.
    #[must_use]
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        match &self.engine {
            Engine::Graph(graph) => graph.logits(hidden),
            Engine::Host(host) => {
                let [b, s, _] = hidden.dims();
                let hidden = host_values(hidden);
                let logits = on_pool(|| host.logits(&hidden));
                Tensor::from_data(TensorData::new(logits, [b, s, self.vocabulary()]), &self.device)
            }
        }
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

/// The values of activations on the CPU device: a move, or a copy of what is not contiguous.
pub(super) fn host_values(x: Tensor<3>) -> Vec<f32> {
    x.into_data().try_into_vec().expect("activations are f32 on the CPU device")
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
