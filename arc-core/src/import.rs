//! A checkpoint of the public ARC-Encoder code becomes packages: one encoder, and an adapter for
//! each decoder that it was trained with.
//!
//! The checkpoint numbers its decoders; the packages name them. Tensors keep their bytes and types,
//! and the encoder's package remembers the configuration, so that [`export`](crate::export) gives
//! the checkpoint back.

use std::path::{Path, PathBuf};

use arc_adapters::{
    ADAPTER_SCHEMA, AdapterManifest, AdapterPackage, AdapterTensor, Append, DecoderPin, ENCODER_SCHEMA,
    EncoderManifest, EncoderPin, EncoderWeights, ProjectorLayer, ProjectorSpec, WEIGHTS_FILE, WeightType,
    WeightsFile, sha256_file,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::decoder::{Architecture, Checkpoint};
use crate::encoder::{Pooling, PoolingRate, encoder_id, pooling, projector_spec};
use crate::tokenizer::Tokenizer;
use crate::weights::{
    ArcCheckpoint, ArcConfig, RawTensor, Special, StorageType, TensorSource, write_tensors,
};
use crate::{Error, Result};

/// The name of the weights in an encoder package.
const ENCODER_WEIGHTS: &str = "encoder.safetensors";
/// The name of the tokenizer in an encoder package.
const TOKENIZER: &str = "tokenizer.json";

/// The factors that a manifest may name.
const FACTORS: std::ops::RangeInclusive<usize> = 1..=4096;

/// What a checkpoint does not say of itself.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The name of the encoder.
    pub name: String,
    /// Its decoders, in the checkpoint's order.
    pub decoders: Vec<ImportedDecoder>,
    /// The `tokenizer.json` of the encoder; without one it can encode token ids, not text.
    pub tokenizer: Option<PathBuf>,
    /// Longer texts are cut into chunks of at most this many tokens; the paper's are of 1,024.
    pub chunk_tokens: usize,
}

/// A decoder that a checkpoint has a projector for.
#[derive(Clone, Debug)]
pub struct ImportedDecoder {
    /// Its name, and what of its model is known.
    pub pin: DecoderPin,
    /// The width of its token embeddings, where it is known.
    pub d_model: Option<usize>,
    /// The prompt as minijinja source, with `document` and `question`.
    pub prompt_template: String,
}

impl ImportedDecoder {
    /// Reads a decoder's width and hashes from its model, which is not loaded.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the model's file or folder.
    pub fn of_model(
        name: &str,
        model: &Path,
        tokenizer: Option<&Path>,
        prompt_template: String,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(model)?;
        let tokenizer = match tokenizer {
            Some(path) => Tokenizer::from_file(path)?,
            None => checkpoint.tokenizer()?,
        };
        let pin = DecoderPin {
            name: name.to_owned(),
            architecture: checkpoint.config().architecture.name().to_owned(),
            embedding_sha256: checkpoint.embedding_table()?.sha256(),
            tokenizer_sha256: tokenizer.sha256().to_owned(),
        };
        Ok(Self { pin, d_model: Some(checkpoint.config().d_model()), prompt_template })
    }
}

/// What an imported encoder package remembers of the checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Its configuration, as the released layout has it.
    pub config: Value,
    /// The `__metadata__` of its weights.
    #[serde(default)]
    pub metadata: std::collections::BTreeMap<String, String>,
    /// Its decoders, in its order.
    pub decoders: Vec<String>,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The encoder package's manifest.
    pub encoder: EncoderManifest,
    /// The adapter packages' manifests, in the checkpoint's order.
    pub adapters: Vec<AdapterManifest>,
}

/// Writes a checkpoint as packages: the encoder into the folder `encoder`, each adapter into the
/// folder that `adapter` gives for its decoder's name.
///
/// Everything is checked, every value too, before anything is written.
///
/// # Errors
///
/// [`Error::InvalidArgument`] if there are more or fewer names than decoders, or if one is named
/// twice; [`Error::Mismatch`] for a decoder of another width than its projector gives, and for a
/// tokenizer with more tokens than the encoder has embeddings; [`Error::InvalidFile`] for a value
/// that is not finite; [`Error::InvalidConfig`] for a configuration that packages cannot express;
/// and whatever the system refuses.
pub fn import(
    checkpoint: &ArcCheckpoint,
    options: &ImportOptions,
    encoder: &Path,
    adapter: impl Fn(&str) -> PathBuf,
) -> Result<Imported> {
    check_decoders(checkpoint, &options.decoders)?;
    let config = checkpoint.config();
    let mut manifest = encoder_manifest(checkpoint, options)?;
    let specs = (0..options.decoders.len())
        .map(|decoder| {
            // Latents may go to the decoder as they are.
            let identity = || ProjectorSpec { layers: vec![ProjectorLayer::Scale { factor: 1.0 }] };
            Ok(projector_spec(checkpoint, decoder)?.unwrap_or_else(identity))
        })
        .collect::<Result<Vec<_>>>()?;
    if let Some(path) = &options.tokenizer {
        let tokenizer = Tokenizer::from_file(path)?;
        if tokenizer.vocab_size() > config.model_args.vocab_size {
            return Err(Error::Mismatch {
                what: format!("encoder `{}` (tokens of its tokenizer)", options.name),
                expected: format!("at most {}", config.model_args.vocab_size),
                found: tokenizer.vocab_size().to_string(),
                hint: "give the tokenizer of the encoder, which may be another than the decoder's".into(),
            });
        }
    }
    checkpoint.check_finite()?;

    let mut tensors = Vec::new();
    for name in checkpoint.encoder_names() {
        let tensor = checkpoint.tensor(name)?;
        tensors.push(tensor.relabelled(name.trim_start_matches("embedder."), tensor.shape().to_vec())?);
    }
    if let Some(memory) = checkpoint.memory(0)? {
        tensors.push(memory.relabelled("mem_embeddings.weight", memory.shape().to_vec())?);
    }
    let weights = encoder.join(ENCODER_WEIGHTS);
    write_tensors(&weights, &tensors, &Default::default())?;
    manifest.weights =
        EncoderWeights::Full { file: ENCODER_WEIGHTS.to_owned(), sha256: sha256_file(&weights)? };
    if let Some(path) = &options.tokenizer {
        let copy = encoder.join(TOKENIZER);
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        crate::atomic_file::write_atomically(&copy, |file| {
            std::io::Write::write_all(file, &bytes).map_err(Error::io("write", &copy))
        })?;
        manifest.tokenizer = Some(WeightsFile { file: TOKENIZER.to_owned(), sha256: sha256_file(&copy)? });
    }
    manifest.encoder_id = encoder_id(&manifest);

    let mut adapters = Vec::new();
    for (index, (decoder, spec)) in options.decoders.iter().zip(specs).enumerate() {
        let tensors = adapter_tensors(checkpoint, index)?;
        let described = adapter_manifest(config, decoder, spec, &manifest)?;
        adapters.push(AdapterPackage::write(&adapter(&decoder.pin.name), &described, &tensors)?);
    }
    // The manifest comes last: a folder without it is no package.
    manifest.write(encoder)?;
    Ok(Imported { encoder: manifest, adapters })
}

fn check_decoders(checkpoint: &ArcCheckpoint, decoders: &[ImportedDecoder]) -> Result<()> {
    if decoders.len() != checkpoint.decoders() {
        return Err(Error::InvalidArgument(format!(
            "`{}` was trained with {} decoders, but {} names are given",
            checkpoint.path().display(),
            checkpoint.decoders(),
            decoders.len()
        )));
    }
    for (index, decoder) in decoders.iter().enumerate() {
        let name = &decoder.pin.name;
        if decoders.iter().take(index).any(|other| other.pin.name == *name) {
            return Err(Error::InvalidArgument(format!("decoder `{name}` is named twice")));
        }
        let bridge = &checkpoint.config().bridge_args;
        let gives = match bridge.bridge_type {
            Some(_) => bridge.out_dim.unwrap_or(0),
            None => checkpoint.config().model_args.dim,
        };
        if let Some(d_model) = decoder.d_model.filter(|&d_model| d_model != gives) {
            return Err(Error::Mismatch {
                what: format!("decoder `{name}` (width of its token embeddings)"),
                expected: d_model.to_string(),
                found: gives.to_string(),
                hint: "the checkpoint was trained with another decoder: check the names and their order"
                    .into(),
            });
        }
    }
    Ok(())
}

/// The manifest without its weights, tokenizer and identity.
fn encoder_manifest(checkpoint: &ArcCheckpoint, options: &ImportOptions) -> Result<EncoderManifest> {
    let config = checkpoint.config();
    let embedder = &config.embedder_args;
    let invalid = |reason: String| Error::InvalidConfig { path: checkpoint.path().to_owned(), reason };
    let Pooling { pool_type, place } = pooling(checkpoint)?;
    if embedder.memory_tokens > 0 && checkpoint.decoders() > 1 {
        return Err(invalid(format!(
            "it has memory vectors for each of {} decoders, so that latents are not shared; \
             an encoder package holds those of one",
            checkpoint.decoders()
        )));
    }
    let olmo = config.model_args.non_parametric_norm;
    let origin = Origin {
        config: serde_json::from_str(checkpoint.config_text()).map_err(|error| invalid(error.to_string()))?,
        metadata: checkpoint.metadata().clone(),
        decoders: options.decoders.iter().map(|decoder| decoder.pin.name.clone()).collect(),
    };
    Ok(EncoderManifest {
        schema: ENCODER_SCHEMA,
        name: options.name.clone(),
        encoder_id: String::new(),
        architecture: if olmo { Architecture::Olmo } else { Architecture::Llama }.name().to_owned(),
        d_encoder: config.model_args.dim,
        n_truncated_layers: embedder.n_truncated_layers,
        compress_rates: embedder.compress_rates.clone(),
        pool_type: pool_type.to_string(),
        place,
        causal: embedder.causal_embedder,
        memory_tokens: embedder.memory_tokens,
        chunk_tokens: options.chunk_tokens,
        max_chunks: 32,
        backbone: None,
        shape: Some(config.model_args.shape()),
        tokenizer: None,
        weights: EncoderWeights::Backbone {},
        provenance: json!({ "checkpoint": origin }),
    })
}

fn adapter_manifest(
    config: &ArcConfig,
    decoder: &ImportedDecoder,
    spec: ProjectorSpec,
    encoder: &EncoderManifest,
) -> Result<AdapterManifest> {
    let d_encoder = config.model_args.dim;
    let widths: Vec<usize> = spec
        .layers
        .iter()
        .filter_map(|layer| match layer {
            ProjectorLayer::Linear { d_out, .. } => Some(*d_out),
            _ => None,
        })
        .collect();
    Ok(AdapterManifest {
        schema: ADAPTER_SCHEMA,
        name: format!("{}.{}", encoder.name, decoder.pin.name),
        decoder: decoder.pin.clone(),
        encoder: EncoderPin { name: encoder.name.clone(), encoder_id: encoder.encoder_id.clone() },
        d_encoder,
        d_hidden: if let [hidden, _] = widths[..] { Some(hidden) } else { None },
        d_decoder: widths.last().copied().unwrap_or(d_encoder),
        projector: spec,
        pooling_factors: vec![u32::try_from(factor(encoder)?).unwrap_or(u32::MAX)],
        append: if config.embedder_args.cont_tok { Append::Cont } else { Append::None },
        prompt_template: decoder.prompt_template.clone(),
        weights: WeightsFile { file: WEIGHTS_FILE.to_owned(), sha256: String::new() },
        training: json!({ "method": "imported from a checkpoint of the public ARC-Encoder code" }),
        scores: Value::Null,
    })
}

/// How many tokens a latent stands for; with a fixed count, in a full chunk.
fn factor(encoder: &EncoderManifest) -> Result<usize> {
    let count = |k: usize| encoder.chunk_tokens.div_ceil(k.max(1));
    let pooling = Pooling { pool_type: encoder.pool_type.parse()?, place: encoder.place };
    let factor = if encoder.memory_tokens > 0 {
        count(encoder.memory_tokens)
    } else {
        let rates = pooling.rates(&encoder.compress_rates)?;
        rates.into_iter().fold(1_usize, |factor, rate| match rate {
            PoolingRate::Factor(p) => factor.saturating_mul(p),
            PoolingRate::Count(k) => count(k),
            PoolingRate::Whole => encoder.chunk_tokens,
            PoolingRate::Off => factor,
        })
    };
    Ok(factor.clamp(*FACTORS.start(), *FACTORS.end()))
}

/// A decoder's projector and learned vectors under an adapter's names, in the stored type.
fn adapter_tensors(checkpoint: &ArcCheckpoint, decoder: usize) -> Result<Vec<AdapterTensor>> {
    let mut tensors = Vec::new();
    if let Some(projector) = checkpoint.projector(decoder)? {
        for (index, tensor) in projector.norm.iter().chain(&projector.layers).enumerate() {
            tensors.push(adapter_tensor(&format!("projector.{index}.weight"), tensor, tensor.shape())?);
        }
    }
    for (name, special) in [("tokens.cont", Special::Cont), ("tokens.rec", Special::Rec)] {
        if let Some(vector) = checkpoint.special(special, decoder)? {
            tensors.push(adapter_tensor(name, &vector, &[vector.len()])?);
        }
    }
    Ok(tensors)
}

fn adapter_tensor(name: &str, tensor: &RawTensor, shape: &[usize]) -> Result<AdapterTensor> {
    let dtype = match tensor.dtype() {
        StorageType::F32 => WeightType::F32,
        StorageType::F16 => WeightType::F16,
        StorageType::BF16 => WeightType::Bf16,
        other => {
            return Err(Error::UnsupportedQuantisation {
                path: tensor.path().to_owned(),
                tensor: tensor.name().to_owned(),
                found: other.to_string(),
            });
        }
    };
    // Exact both ways: every value of the shorter types is one of float32's.
    Ok(AdapterTensor::new(name, shape, &tensor.to_f32(), dtype))
}
