//! An encoder with its tokenizer and identity, from an encoder package.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_adapters::{ENCODER_FILE, EncoderManifest, EncoderWeights};
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::json;

use super::trained_weights::{MEMORY_TENSOR, TrainedWeights};
use super::{ArcEncoder, ArcEncoderConfig, EncoderNetwork, Pooling, PoolingRate, TokenRarity};
use crate::decoder::{Architecture, DecoderCheckpoint, DecoderConfig};
use crate::nn::{Loader, Precision, Residence, RopeConfig};
use crate::tokenizer::Tokenizer;
use crate::weights::{ModelArgs, SafetensorsFile, TensorNames, TensorSource};
use crate::{Error, Hint, Result};

/// Chunks of a long document are encoded this many at a time, which bounds the memory.
pub(crate) const CHUNKS_AT_ONCE: usize = 4;

/// How to compress.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CompressOptions {
    /// How many tokens a latent stands for; the package's own rate where `None`.
    pub factor: Option<usize>,
}

impl CompressOptions {
    /// With latents that stand for `factor` tokens each.
    #[must_use]
    pub const fn at_factor(factor: usize) -> Self {
        Self { factor: Some(factor) }
    }

    /// The same, with the encoder's own rates where there is no factor.
    #[must_use]
    pub const fn with_factor(self, factor: Option<usize>) -> Self {
        Self { factor }
    }
}

/// A shared encoder, ready to compress text.
#[derive(Debug)]
#[non_exhaustive]
pub struct Encoder {
    /// The registry's name.
    pub name: String,
    /// The identity that latents and adapters name.
    pub id: String,
    /// The forward pass.
    pub network: EncoderNetwork,
    /// Text to the encoder's token ids.
    pub tokenizer: Tokenizer,
    chunk_tokens: usize,
    device: Device,
    weight_bytes: u64,
}

/// The identity of an encoder: the sha256 of everything that its latents depend on. The pooling
/// rates are not in it, since one encoder serves several, and neither is its name.
#[must_use]
pub fn encoder_id(manifest: &EncoderManifest) -> String {
    let weights = match &manifest.weights {
        EncoderWeights::Full { sha256, .. } => json!({ "sha256": sha256 }),
        EncoderWeights::Lora { sha256, rank, alpha, .. } => {
            json!({ "sha256": sha256, "rank": rank, "alpha": format!("{alpha:e}") })
        }
        EncoderWeights::Published { source } => json!({ "source": source }),
        _ => json!(null),
    };
    // Numbers with a fraction as text: how JSON writers print them is their own affair.
    let shape = manifest.shape.as_ref().map(|shape| {
        let mut value = json!(shape);
        value["norm_eps"] = json!(format!("{:e}", shape.norm_eps));
        value["rope_theta"] = json!(format!("{:e}", shape.rope_theta));
        value
    });
    let mut identity = json!({
        "architecture": manifest.architecture,
        "d_encoder": manifest.d_encoder,
        "n_truncated_layers": manifest.n_truncated_layers,
        "pool_type": manifest.pool_type,
        "where": manifest.place,
        "causal": manifest.causal,
        "memory_tokens": manifest.memory_tokens,
        "chunk_tokens": manifest.chunk_tokens,
        "backbone_sha256": manifest.backbone.as_ref().map(|backbone| &backbone.sha256),
        "shape": shape,
        "tokenizer_sha256": manifest.tokenizer.as_ref().map(|tokenizer| &tokenizer.sha256),
        "weights": weights,
    });
    // Only where there is such a file: other encoders keep the identity that they have.
    if let Some(memory) = &manifest.memory {
        identity["memory_sha256"] = json!(memory.sha256);
    }
    if let Some(rarity) = &manifest.rarity {
        identity["rarity_sha256"] = json!(rarity.sha256);
    }
    arc_adapters::sha256_hex(identity.to_string().as_bytes())
}

/// How many tokens a latent of a package stands for where the caller says nothing, without loading it; `None`
/// where that does not follow from factors alone: see [`Encoder::pools_by_factor`].
///
/// # Errors
///
/// [`Error::InvalidValue`] for a pooling that there is not.
pub fn factor_of_package(manifest: &EncoderManifest) -> Result<Option<usize>> {
    let pooling = Pooling { pool_type: manifest.pool_type.parse()?, place: manifest.place };
    let rates = pooling.rates(&manifest.compress_rates)?;
    let factors = rates.iter().map(|rate| match rate {
        PoolingRate::Factor(factor) => Some(*factor),
        PoolingRate::Off => Some(1),
        _ => None,
    });
    let factor = factors.product::<Option<usize>>();
    Ok(factor.filter(|_| manifest.memory_tokens == 0))
}

/// Checks that a package still has the settings that it was made with.
fn check_encoder_id(manifest: &EncoderManifest) -> Result<()> {
    let id = encoder_id(manifest);
    if manifest.encoder_id == id {
        return Ok(());
    }
    Err(Error::Mismatch {
        what: format!("`encoder_id` of encoder `{}`", manifest.name),
        expected: id,
        found: manifest.encoder_id.clone(),
        hint: "the package was changed after it was made: install it again".into(),
    })
}

/// What a manifest describes, of which no weights are read: the backbone, if it has one, and the shape.
fn described(
    manifest: &EncoderManifest,
    folder: &Path,
    backbone: Option<&Path>,
) -> Result<(Option<DecoderCheckpoint>, ArcEncoderConfig)> {
    let invalid = |reason: String| Error::InvalidConfig { path: folder.join(ENCODER_FILE), reason };
    check_encoder_id(manifest)?;
    let checkpoint = match (&manifest.backbone, backbone) {
        (Some(_), Some(path)) => Some(DecoderCheckpoint::open(path)?),
        (None, None) => None,
        _ => return Err(invalid("a backbone is given where there is none, or the other way".into())),
    };
    let base = match (&checkpoint, &manifest.shape) {
        (Some(checkpoint), _) => checkpoint.config().clone(),
        (None, Some(shape)) => {
            let olmo = manifest.architecture == Architecture::Olmo.name();
            DecoderConfig::from_meta(&ModelArgs::from_shape(shape, olmo))
        }
        (None, None) => return Err(invalid("it has neither `backbone` nor `shape`".into())),
    };
    let config = encoder_config(manifest, &base).map_err(|error| match error {
        Error::InvalidEncoder { reason, .. } => invalid(reason),
        value @ Error::InvalidValue { .. } => invalid(value.to_string()),
        other => other,
    })?;
    Ok((checkpoint, config))
}

/// How many layers the encoder of a package has, of which no weights are read.
///
/// # Errors
///
/// As [`Encoder::open_as`], for what it is told.
pub(crate) fn layers_of_package(
    manifest: &EncoderManifest,
    folder: &Path,
    backbone: Option<&Path>,
) -> Result<usize> {
    Ok(described(manifest, folder, backbone)?.1.n_layers)
}

/// What the encoder of a package computes, cut from a model that computes `base`.
///
/// # Errors
///
/// [`Error::InvalidEncoder`], and [`Error::InvalidValue`] for a field that is wrong by itself.
pub(crate) fn encoder_config(manifest: &EncoderManifest, base: &DecoderConfig) -> Result<ArcEncoderConfig> {
    let invalid = |reason: String| Err(Error::InvalidEncoder { encoder: manifest.name.clone(), reason });
    let architecture = base.architecture.name();
    if !matches!(base.architecture, Architecture::Llama | Architecture::Olmo) {
        return invalid(format!("its backbone is of architecture `{architecture}`, expected `llama`"));
    }
    if manifest.architecture != architecture {
        return invalid(format!(
            "`architecture` is `{}`, but the backbone is of `{architecture}`",
            manifest.architecture
        ));
    }
    if base.d_model() != manifest.d_encoder {
        return invalid(format!(
            "`d_encoder` is {}, but the backbone's width is {}",
            manifest.d_encoder,
            base.d_model()
        ));
    }
    let Some(n_layers) = base
        .n_layers
        .checked_sub(manifest.n_truncated_layers)
        .filter(|&kept| kept >= manifest.compress_rates.len().max(1))
    else {
        return invalid(format!(
            "`n_truncated_layers` is {} of the backbone's {} layers",
            manifest.n_truncated_layers, base.n_layers
        ));
    };
    if manifest.memory_tokens > 0 && !manifest.compress_rates.is_empty() {
        return invalid(format!(
            "`compress_rates` is {:?}, expected none beside `memory_tokens`, which is {}",
            manifest.compress_rates, manifest.memory_tokens
        ));
    }
    let pooling = Pooling { pool_type: manifest.pool_type.parse()?, place: manifest.place };
    Ok(ArcEncoderConfig {
        block: base.block,
        // The reference's encoders know no scaling, whatever their backbones were stretched by.
        rope: RopeConfig { scaling: None, divisors: None, ..base.rope.clone() },
        n_layers,
        compress_rates: pooling.rates(&manifest.compress_rates)?,
        pooling,
        causal: manifest.causal,
        memory_tokens: manifest.memory_tokens,
    })
}

/// An encoder whose weights are all in its package, under the reference's names.
fn load_full(
    config: ArcEncoderConfig,
    file: &SafetensorsFile,
    memory: Option<&SafetensorsFile>,
    device: &Device,
    residence: Residence,
) -> Result<(EncoderNetwork, u64)> {
    let memory = memory_vectors(&config, memory.unwrap_or(file), device)?;
    let loader = Loader::new(file, &TensorNames::META, residence);
    Ok((EncoderNetwork::load(config, &loader, memory, device, residence)?, loader.loaded_bytes()))
}

/// The memory vectors of a package, if it has any.
fn memory_vectors(
    config: &ArcEncoderConfig,
    file: &dyn TensorSource,
    device: &Device,
) -> Result<Option<Tensor<2>>> {
    if config.memory_tokens == 0 {
        return Ok(None);
    }
    let shape = [config.memory_tokens, config.block.d_model];
    let tensor = file.tensor(MEMORY_TENSOR)?;
    tensor.expect_shape(&shape)?;
    Ok(Some(Tensor::from_data(TensorData::new(tensor.to_f32(), shape), device)))
}

/// The path of a file of a package that has the sha256 that the package names.
fn verified(folder: &Path, file: &str, expected: &str) -> Result<PathBuf> {
    let path = folder.join(file);
    let found = arc_adapters::sha256_file(&path)?;
    if found == expected {
        return Ok(path);
    }
    Err(Error::Checksum { path, expected: expected.to_owned(), found })
}

impl Encoder {
    /// Loads an encoder package for exact inference; `backbone` is the file or folder of its backbone, for one that
    /// has a backbone.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] if the package's `encoder_id` is not what its settings give,
    /// [`Error::Checksum`] for a file of the package that is not the one it names,
    /// [`Error::InvalidConfig`] for settings that contradict the backbone or each other, and
    /// whatever is wrong with the files.
    pub fn open(
        manifest: &EncoderManifest,
        folder: &Path,
        backbone: Option<&Path>,
        device: &Device,
    ) -> Result<Self> {
        Self::open_as(manifest, folder, backbone, device, Residence::for_inference(device, Precision::Exact))
    }

    /// As [`Encoder::open`], with the weights packed or dense.
    ///
    /// # Errors
    ///
    /// As [`Encoder::open`].
    pub fn open_as(
        manifest: &EncoderManifest,
        folder: &Path,
        backbone: Option<&Path>,
        device: &Device,
        residence: Residence,
    ) -> Result<Self> {
        let invalid = |reason: String| Error::InvalidConfig { path: folder.join(ENCODER_FILE), reason };
        let (checkpoint, config) = described(manifest, folder, backbone)?;
        let (network, weight_bytes) = match (&manifest.weights, &checkpoint) {
            (EncoderWeights::Backbone {}, Some(_)) if config.memory_tokens > 0 => {
                return Err(invalid(
                    "`memory_tokens` needs weights: a backbone has no memory vectors".into(),
                ));
            }
            (EncoderWeights::Backbone {}, Some(checkpoint)) => {
                let loader = Loader::new(checkpoint.source(), checkpoint.names(), residence)
                    .with_norm_offset(checkpoint.norm_offset());
                (EncoderNetwork::load(config, &loader, None, device, residence)?, loader.loaded_bytes())
            }
            (EncoderWeights::Full { file, sha256 }, None) => {
                let file = SafetensorsFile::open(verified(folder, file, sha256)?)?;
                let memory = manifest.memory.as_ref();
                let memory =
                    memory.map(|memory| verified(folder, &memory.file, &memory.sha256)).transpose()?;
                let memory = memory.map(SafetensorsFile::open).transpose()?;
                load_full(config, &file, memory.as_ref(), device, residence)?
            }
            (
                EncoderWeights::Full { file, sha256 } | EncoderWeights::Lora { file, sha256, .. },
                Some(checkpoint),
            ) => {
                let scale = match &manifest.weights {
                    EncoderWeights::Lora { rank, alpha, .. } => Some((alpha / *rank as f64) as f32),
                    _ => None,
                };
                let path = verified(folder, file, sha256)?;
                let trained = TrainedWeights::open(&path, checkpoint.source(), checkpoint.names(), scale)?;
                let loader = Loader::new(&trained, &TensorNames::META, residence);
                let memory = memory_vectors(&config, &trained, device)?;
                (EncoderNetwork::load(config, &loader, memory, device, residence)?, loader.loaded_bytes())
            }
            (EncoderWeights::Published { source }, _) => {
                return Err(Error::Mismatch {
                    what: format!("encoder `{}`", manifest.name),
                    expected: "its weights".into(),
                    found: format!("only their description, published as `{source}`"),
                    hint: Hint::Import { encoder: manifest.name.clone() },
                });
            }
            _ => return Err(invalid("its weights are of a kind that this build cannot read".into())),
        };
        let network = match &manifest.rarity {
            Some(rarity) => {
                let path = verified(folder, &rarity.file, &rarity.sha256)?;
                let rarity = TokenRarity::open(&path, network.vocabulary())?;
                network.with_rarity(Arc::new(rarity))
            }
            None => network,
        };
        let tokenizer = match (&manifest.tokenizer, &checkpoint) {
            (Some(tokenizer), _) => {
                Tokenizer::from_file(verified(folder, &tokenizer.file, &tokenizer.sha256)?)?
            }
            (None, Some(checkpoint)) => checkpoint.tokenizer()?,
            (None, None) => {
                return Err(Error::Mismatch {
                    what: format!("encoder `{}`", manifest.name),
                    expected: "a tokenizer".into(),
                    found: "none in its package".into(),
                    hint: Hint::ImportWithTokenizer,
                });
            }
        };
        Ok(Self {
            name: manifest.name.clone(),
            id: manifest.encoder_id.clone(),
            network,
            tokenizer,
            chunk_tokens: manifest.chunk_tokens,
            device: device.clone(),
            weight_bytes,
        })
    }

    /// The forward pass in burn, which can be trained.
    ///
    /// # Errors
    ///
    /// [`Error::NotTrainable`] for an encoder whose weights stay as stored.
    pub fn trainable(&self) -> Result<&ArcEncoder> {
        match &self.network {
            EncoderNetwork::Graph(network) => Ok(network),
            EncoderNetwork::Host(_) => Err(Error::NotTrainable {
                what: format!("encoder `{}`", self.name),
                reason: "its weights stay as stored, and would have to be opened as dense ones",
            }),
        }
    }

    /// What the weights take, in bytes: as stored where they are packed, in float32 where dense.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Where the encoder runs.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The most tokens that are encoded as one sequence.
    #[must_use]
    pub fn chunk_tokens(&self) -> usize {
        self.chunk_tokens
    }

    /// [`ArcEncoderConfig::default_factor`].
    #[must_use]
    pub fn default_factor(&self) -> usize {
        self.network.config().default_factor()
    }

    /// [`ArcEncoderConfig::pools_by_factor`].
    #[must_use]
    pub fn pools_by_factor(&self) -> bool {
        self.network.config().pools_by_factor()
    }

    /// [`ArcEncoderConfig::merges`].
    #[must_use]
    pub fn merges(&self) -> bool {
        self.network.config().merges()
    }
}
