//! An encoder with its tokenizer and identity, from an encoder package.

use std::path::Path;

use arc_adapters::{EncoderManifest, EncoderWeights};
use burn::tensor::{Device, Tensor};
use sha2::{Digest as _, Sha256};

use super::{
    ArcEncoder, ArcEncoderConfig, Latents, PoolType, Pooling, PoolingKind, PoolingPlace, PoolingRate,
};
use crate::decoder::{Architecture, DecoderConfig};
use crate::nn::{Loader, Residence};
use crate::tokenizer::Tokenizer;
use crate::weights::{GgufFile, TensorNames};
use crate::{Error, Result};

/// Chunks of a long document are encoded this many at a time, which bounds the memory.
const CHUNKS_AT_ONCE: usize = 4;

/// How to compress.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompressOptions {
    /// How many tokens a latent stands for; the package's own rate where `None`.
    pub factor: Option<usize>,
}

/// A shared encoder, ready to compress text.
#[derive(Debug)]
pub struct Encoder {
    /// The registry's name.
    pub name: String,
    /// The identity that latents and adapters name.
    pub id: String,
    /// The forward pass.
    pub network: ArcEncoder,
    /// Text to the encoder's token ids.
    pub tokenizer: Tokenizer,
    chunk_tokens: usize,
    device: Device,
    weight_bytes: u64,
}

/// The identity of an encoder: the sha256 of everything that its latents depend on. The pooling
/// rate is not in it, since one encoder serves several.
#[must_use]
pub fn encoder_id(manifest: &EncoderManifest) -> String {
    let weights_sha256 = match &manifest.weights {
        EncoderWeights::Full { sha256, .. } | EncoderWeights::Lora { sha256, .. } => sha256.as_str(),
        _ => "",
    };
    let identity = serde_json::json!({
        "architecture": manifest.architecture,
        "d_encoder": manifest.d_encoder,
        "n_truncated_layers": manifest.n_truncated_layers,
        "pooling": manifest.pooling,
        "where": manifest.place,
        "causal": manifest.causal,
        "memory_tokens": manifest.memory_tokens,
        "chunk_tokens": manifest.chunk_tokens,
        "backbone_sha256": manifest.backbone.sha256,
        "weights_sha256": weights_sha256,
    });
    format!("{:x}", HexDigest(Sha256::digest(identity.to_string()).into()))
}

/// Prints a digest as lowercase hexadecimal.
struct HexDigest([u8; 32]);

impl std::fmt::LowerHex for HexDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Encoder {
    /// Loads an encoder whose weights are its backbone's, from the backbone's GGUF file.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] if the package's `encoder_id` is not what its settings give,
    /// [`Error::InvalidConfig`] for settings that contradict the backbone, and whatever is wrong
    /// with the backbone's file.
    pub fn open(manifest: &EncoderManifest, folder: &Path, backbone: &Path, device: &Device) -> Result<Self> {
        Self::open_as(manifest, folder, backbone, device, Residence::for_inference(device))
    }

    /// As [`Encoder::open`], with the weights packed or dense.
    ///
    /// # Errors
    ///
    /// As [`Encoder::open`].
    pub fn open_as(
        manifest: &EncoderManifest,
        folder: &Path,
        backbone: &Path,
        device: &Device,
        residence: Residence,
    ) -> Result<Self> {
        let invalid = |reason: String| Error::InvalidConfig { path: folder.join("encoder.json"), reason };
        let id = encoder_id(manifest);
        if manifest.encoder_id != id {
            return Err(Error::Mismatch {
                what: format!("`encoder_id` of encoder `{}`", manifest.name),
                expected: id,
                found: manifest.encoder_id.clone(),
                hint: "the package was changed after it was made: install it again".into(),
            });
        }
        if !matches!(manifest.weights, EncoderWeights::Backbone {}) {
            return Err(invalid("its weights are of a kind that this build cannot read".into()));
        }
        let file = GgufFile::open(backbone)?;
        let decoder = DecoderConfig::from_gguf(&file)?;
        if decoder.architecture != Architecture::Llama || manifest.architecture != "llama" {
            return Err(invalid(format!(
                "its backbone is of architecture `{}`, expected `llama`",
                decoder.architecture.name()
            )));
        }
        if decoder.d_model() != manifest.d_encoder {
            return Err(invalid(format!(
                "`d_encoder` is {}, but the backbone's width is {}",
                manifest.d_encoder,
                decoder.d_model()
            )));
        }
        let n_layers = decoder.n_layers.checked_sub(manifest.n_truncated_layers);
        let n_layers =
            n_layers.filter(|&kept| kept >= manifest.compress_rates.len().max(1)).ok_or_else(|| {
                invalid(format!(
                    "`n_truncated_layers` is {} of the backbone's {} layers",
                    manifest.n_truncated_layers, decoder.n_layers
                ))
            })?;
        let compress_rates = manifest
            .compress_rates
            .iter()
            .map(|&rate| PoolingRate::try_from(i64::from(rate)))
            .collect::<Result<_>>()?;
        let config = ArcEncoderConfig {
            block: decoder.block,
            rope: decoder.rope,
            n_layers,
            compress_rates,
            pooling: Pooling {
                pool_type: PoolType {
                    kind: match manifest.pooling {
                        arc_adapters::Pooling::Mean => PoolingKind::Mean,
                        arc_adapters::Pooling::Last => PoolingKind::Last,
                        arc_adapters::Pooling::Sum => PoolingKind::Sum,
                        _ => return Err(invalid("`pooling` is of a kind that this build lacks".into())),
                    },
                    queries_only: manifest.place == arc_adapters::PoolingPlace::Before,
                },
                place: match manifest.place {
                    arc_adapters::PoolingPlace::Before => PoolingPlace::Before,
                    arc_adapters::PoolingPlace::Between => PoolingPlace::Between,
                    _ => return Err(invalid("`where` is of a kind that this build lacks".into())),
                },
            },
            causal: manifest.causal,
            memory_tokens: 0,
        };
        let loader = Loader::new(&file, &TensorNames::GGUF, device, residence);
        let network = ArcEncoder::load(config, &loader, None)?;
        Ok(Self {
            name: manifest.name.clone(),
            id,
            network,
            tokenizer: Tokenizer::from_gguf(&file)?,
            chunk_tokens: manifest.chunk_tokens,
            device: device.clone(),
            weight_bytes: loader.loaded_bytes(),
        })
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

    /// How many tokens a latent stands for where the caller says nothing: the product of the
    /// pooling layers' factors.
    #[must_use]
    pub fn default_factor(&self) -> usize {
        self.network
            .config()
            .compress_rates
            .iter()
            .map(|rate| if let PoolingRate::Factor(p) = rate { *p } else { 1 })
            .product()
    }

    /// Compresses a text.
    ///
    /// The text is cut into chunks of at most [`Encoder::chunk_tokens`] tokens, which are encoded
    /// as a batch; their latents follow each other.
    ///
    /// # Errors
    ///
    /// [`Error::Document`] if the text has no tokens, [`Error::InvalidArgument`] for factor 0.
    pub fn compress(&self, text: &str, options: CompressOptions) -> Result<Latents> {
        let ids = self.tokenizer.encode(text)?.ids;
        if ids.is_empty() {
            return Err(Error::Document {
                name: "text".into(),
                reason: "is empty".into(),
                hint: "give a text with at least one character".into(),
            });
        }
        let chunks = self.encode_chunks(&ids, options)?;
        let chunk_lengths = chunks.iter().map(|chunk| chunk.dims()[0]).collect();
        Ok(Latents {
            values: Tensor::cat(chunks, 0),
            chunk_lengths,
            encoder_id: self.id.clone(),
            factor: options.factor.unwrap_or_else(|| self.default_factor()),
            source_tokens: ids.len(),
            text_sha256: format!("{:x}", HexDigest(Sha256::digest(text.as_bytes()).into())),
        })
    }

    /// The latents of each chunk of a sequence of token ids, `[n, d_encoder]` each.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for factor 0.
    pub fn encode_chunks(&self, ids: &[u32], options: CompressOptions) -> Result<Vec<Tensor<2>>> {
        let network = match options.factor {
            None => &self.network,
            Some(0) => return Err(Error::InvalidArgument("a pooling factor of 0 leaves nothing".into())),
            Some(1) => &self.network.with_rates(vec![PoolingRate::Off]),
            Some(factor) => &self.network.with_rates(vec![PoolingRate::Factor(factor)]),
        };
        // Whole chunks are of one length, so that only the last batch can need a mask.
        let (whole, rest) = ids.split_at(ids.len() - ids.len() % self.chunk_tokens);
        let whole: Vec<Vec<u32>> = whole.chunks(self.chunk_tokens).map(<[u32]>::to_vec).collect();
        let rest: Vec<Vec<u32>> = (!rest.is_empty()).then(|| rest.to_vec()).into_iter().collect();
        let mut latents = Vec::new();
        for batch in whole.chunks(CHUNKS_AT_ONCE).chain(rest.chunks(1)) {
            let encoded = network.forward(batch, &self.device);
            latents.extend((0..batch.len()).map(|row| encoded.row(row)));
        }
        Ok(latents)
    }
}
