//! The encoder's forward pass on the engine of its device.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use super::forward::{HostLayers, PoolingPlan};
use super::{ArcEncoder, ArcEncoderConfig, EncodedBatch, PoolingGroups, PoolingRate, TokenRarity};
use crate::Result;
use crate::host::{HostBlock, HostTable};
use crate::nn::{Loader, Residence};

/// An encoder's weights with what they compute. Cloning is cheap.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EncoderNetwork {
    /// In burn: on GPUs, and wherever it is trained.
    Graph(ArcEncoder),
    /// On host memory: inference on the CPU.
    Host(HostEncoder),
}

/// An encoder on host memory, its weights as they are stored.
#[derive(Clone, Debug)]
pub struct HostEncoder {
    weights: Arc<HostWeights>,
    rarity: Option<Arc<TokenRarity>>,
    config: ArcEncoderConfig,
}

#[derive(Debug)]
struct HostWeights {
    embedding: HostTable,
    blocks: Vec<HostBlock>,
    /// `[memory_tokens, d]`
    memory: Option<Tensor<2>>,
}

impl EncoderNetwork {
    /// Reads the kept blocks and the embeddings of a backbone, or of an encoder's checkpoint.
    ///
    /// # Errors
    ///
    /// An error for each tensor that is missing or misshapen.
    pub(super) fn load(
        config: ArcEncoderConfig,
        loader: &Loader,
        memory: Option<Tensor<2>>,
        device: &Device,
        residence: Residence,
    ) -> Result<Self> {
        if residence == Residence::Dense {
            return Ok(Self::Graph(ArcEncoder::load(config, loader, memory, device)?));
        }
        let embedding = loader.embedding(loader.names().embedding, config.block.d_model)?;
        let embedding = HostTable::from_stored(embedding, residence)?;
        let block = |layer| HostBlock::from_stored(&loader.block(layer, &config.block)?, residence);
        let blocks = (0..config.n_layers).map(block).collect::<Result<_>>()?;
        let weights = Arc::new(HostWeights { embedding, blocks, memory });
        Ok(Self::Host(HostEncoder { weights, rarity: None, config }))
    }

    /// What the encoder computes.
    #[must_use]
    pub fn config(&self) -> &ArcEncoderConfig {
        match self {
            Self::Graph(encoder) => encoder.config(),
            Self::Host(encoder) => &encoder.config,
        }
    }

    /// The width of the latents.
    #[must_use]
    pub fn d_model(&self) -> usize {
        self.config().block.d_model
    }

    /// The number of token embeddings.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::Graph(encoder) => encoder.embedding.dims()[0],
            Self::Host(encoder) => encoder.weights.embedding.dims()[0],
        }
    }

    /// The same encoder with other pooling rates, sharing the weights.
    #[must_use]
    pub fn with_rates(&self, compress_rates: Vec<PoolingRate>) -> Self {
        match self {
            Self::Graph(encoder) => Self::Graph(encoder.with_rates(compress_rates)),
            Self::Host(encoder) => {
                let mut encoder = encoder.clone();
                encoder.config.compress_rates = compress_rates;
                Self::Host(encoder)
            }
        }
    }

    /// The same encoder with groups that end at rare words.
    #[must_use]
    pub fn with_rarity(self, rarity: Arc<TokenRarity>) -> Self {
        match self {
            Self::Graph(encoder) => Self::Graph(encoder.with_rarity(rarity)),
            Self::Host(encoder) => Self::Host(HostEncoder { rarity: Some(rarity), ..encoder }),
        }
    }

    /// The groups that a layer which pools with `rate` makes of a sequence of token ids.
    #[must_use]
    pub fn groups(&self, ids: &[u32], rate: PoolingRate) -> PoolingGroups {
        match self {
            Self::Graph(encoder) => encoder.groups(ids, rate),
            Self::Host(encoder) => encoder.plan().groups(ids, rate),
        }
    }

    /// The latents of each sequence of token ids, as [`ArcEncoder::forward`].
    ///
    /// # Panics
    ///
    /// Panics if there is no sequence, or if one is empty.
    #[must_use]
    pub fn forward(&self, sequences: &[Vec<u32>], device: &Device) -> EncodedBatch {
        match self {
            Self::Graph(encoder) => encoder.forward(sequences, device),
            Self::Host(encoder) => encoder.forward(sequences, device),
        }
    }
}

impl HostEncoder {
    fn plan(&self) -> PoolingPlan<'_> {
        PoolingPlan { config: &self.config, rarity: self.rarity.as_deref() }
    }

    fn forward(&self, sequences: &[Vec<u32>], device: &Device) -> EncodedBatch {
        let HostWeights { embedding, blocks, memory } = &*self.weights;
        let rows_of = |ids: &[u32]| {
            let shape = [ids.len(), self.config.block.d_model];
            Tensor::from_data(TensorData::new(embedding.rows(ids), shape), device)
        };
        let (x, lengths) = self.plan().embed(sequences, rows_of, memory.clone(), device);
        self.plan().run(&HostLayers { blocks, rope: &self.config.rope }, 0, x, lengths, sequences)
    }
}
