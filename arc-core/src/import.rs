//! A checkpoint of the public ARC-Encoder code becomes packages: one encoder, and an adapter for
//! each decoder that it was trained with.
//!
//! The checkpoint numbers its decoders; the packages name them. Tensors keep their bytes and types,
//! and the encoder's package remembers the configuration, so that [`export`](crate::export) gives
//! the checkpoint back.

use std::path::{Path, PathBuf};

use arc_adapters::{
    AdapterManifest, AdapterPackage, AdapterTensor, Append, DecoderPin, EncoderManifest, EncoderWeights,
    ProjectorLayer, ProjectorSpec, WeightType, WeightsFile, setters, sha256_file,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bounded_file::{TOKENIZER as TOKENIZER_FILE, read_bytes};
use crate::decoder::{Architecture, DecoderCheckpoint};
use crate::encoder::{MEMORY_TENSOR, Pooling, PoolingRate, encoder_id, pooling, projector_spec};
use crate::tokenizer::Tokenizer;
use crate::weights::{
    ArcCheckpoint, ArcConfig, RawTensor, Special, StorageType, TensorSource, write_tensors,
};
use crate::{Error, Result};

/// The name of the weights in an encoder package.
const ENCODER_WEIGHTS: &str = "encoder.safetensors";
/// The name of the memory vectors in an encoder package that shares its weights with others.
const MEMORY: &str = "memory.safetensors";
/// The name of the tokenizer in an encoder package.
const TOKENIZER: &str = "tokenizer.json";

/// The factors that a manifest may name.
const FACTORS: std::ops::RangeInclusive<usize> = 1..=4096;

/// What a checkpoint does not say of itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
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

setters!(ImportOptions {
    tokenizer: Option<PathBuf>,
    chunk_tokens: usize,
});

impl ImportOptions {
    /// An encoder under a name, with its decoders in the checkpoint's order; chunks of 1024 tokens.
    #[must_use]
    pub fn new(name: impl Into<String>, decoders: Vec<ImportedDecoder>) -> Self {
        Self { name: name.into(), decoders, tokenizer: None, chunk_tokens: 1024 }
    }
}

/// A decoder that a checkpoint has a projector for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportedDecoder {
    /// Its name, and what of its model is known.
    pub pin: DecoderPin,
    /// The width of its token embeddings, where it is known.
    pub d_model: Option<usize>,
    /// The prompt as Jinja source, with `document` and `question`.
    pub prompt_template: String,
}

impl ImportedDecoder {
    /// A decoder of width `d_model`, where that is known, with the prompt template of its adapter.
    #[must_use]
    pub fn new(pin: DecoderPin, d_model: Option<usize>, prompt_template: impl Into<String>) -> Self {
        Self { pin, d_model, prompt_template: prompt_template.into() }
    }
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
        let checkpoint = DecoderCheckpoint::open(model)?;
        let tokenizer = match tokenizer {
            Some(path) => Tokenizer::from_file(path)?,
            None => checkpoint.tokenizer()?,
        };
        let pin = DecoderPin::new(name, checkpoint.config().architecture.name())
            .embedding_sha256(checkpoint.embedding_table()?.sha256())
            .tokenizer_sha256(tokenizer.sha256().to_owned());
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
    /// The name that it was imported as, where each decoder has an encoder package of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What was written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Imported {
    /// The encoder packages' manifests, as [`encoder_names`] lists them.
    pub encoders: Vec<EncoderManifest>,
    /// The adapter packages' manifests, in the checkpoint's order.
    pub adapters: Vec<AdapterManifest>,
}

/// What the encoder packages of a checkpoint are called: one name, or `NAME.DECODER` for each decoder
/// where they have memory vectors of their own, so that they share no latents.
#[must_use]
pub fn encoder_names(checkpoint: &ArcCheckpoint, options: &ImportOptions) -> Vec<String> {
    if !has_memory_per_decoder(checkpoint) {
        return vec![options.name.clone()];
    }
    options.decoders.iter().map(|decoder| encoder_name(&options.name, &decoder.pin.name)).collect()
}

/// The name of the encoder package of one decoder.
pub(crate) fn encoder_name(name: &str, decoder: &str) -> String {
    format!("{name}.{decoder}")
}

fn has_memory_per_decoder(checkpoint: &ArcCheckpoint) -> bool {
    checkpoint.config().embedder_args.memory_tokens > 0 && checkpoint.decoders() > 1
}

/// Writes a checkpoint as packages: each encoder into the folder that `encoder` gives for its name
/// (see [`encoder_names`]), each adapter into the folder that `adapter` gives for its decoder's name.
///
/// Everything is checked, every value too, before anything is written. Encoders of one checkpoint
/// have the same file of weights, which is one file on a disk that can link it.
///
/// # Errors
///
/// [`Error::WrongCount`] if there are more or fewer names than decoders, [`Error::InvalidValue`] if one
/// is named twice; [`Error::Mismatch`] for a decoder of another width than its projector gives, and for a
/// tokenizer with more tokens than the encoder has embeddings; [`Error::InvalidFile`] for a value
/// that is not finite; [`Error::InvalidConfig`] for a configuration that packages cannot express;
/// and whatever the system refuses.
pub fn import(
    checkpoint: &ArcCheckpoint,
    options: &ImportOptions,
    encoder: impl Fn(&str) -> PathBuf,
    adapter: impl Fn(&str) -> PathBuf,
) -> Result<Imported> {
    check_decoders(checkpoint, &options.decoders)?;
    let config = checkpoint.config();
    let described = encoder_manifest(checkpoint, options)?;
    let specs = (0..options.decoders.len())
        .map(|decoder| {
            // Latents may go to the decoder as they are.
            let identity = || ProjectorSpec::new(vec![ProjectorLayer::Scale { factor: 1.0 }]);
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

    let names = encoder_names(checkpoint, options);
    let mut encoders: Vec<EncoderManifest> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let folder = encoder(name);
        let mut manifest = described.clone();
        manifest.name.clone_from(name);
        match encoders.first() {
            None => manifest.weights = write_encoder(checkpoint, &folder)?,
            Some(first) => {
                manifest.weights = first.weights.clone();
                link_or_copy(&encoder(&first.name).join(ENCODER_WEIGHTS), &folder.join(ENCODER_WEIGHTS))?;
            }
        }
        if names.len() > 1 {
            let memory = folder.join(MEMORY);
            write_tensors(&memory, &memory_tensor(checkpoint, index)?, &Default::default())?;
            manifest.memory = Some(WeightsFile::new(MEMORY, sha256_file(&memory)?));
        }
        if let Some(path) = &options.tokenizer {
            let copy = folder.join(TOKENIZER);
            let bytes = read_bytes(path, TOKENIZER_FILE)?;
            arc_adapters::write_atomically(&copy, |file| {
                std::io::Write::write_all(file, &bytes).map_err(Error::io("write", &copy))
            })?;
            manifest.tokenizer = Some(WeightsFile::new(TOKENIZER, sha256_file(&copy)?));
        }
        manifest.encoder_id = encoder_id(&manifest);
        encoders.push(manifest);
    }

    let mut adapters = Vec::new();
    for (index, (decoder, spec)) in options.decoders.iter().zip(specs).enumerate() {
        let tensors = adapter_tensors(checkpoint, index)?;
        let read = encoders.get(index).filter(|_| names.len() > 1).unwrap_or(&encoders[0]);
        let described = adapter_manifest(config, decoder, spec, &options.name, read)?;
        adapters.push(AdapterPackage::write(&adapter(&decoder.pin.name), &described, &tensors)?);
    }
    // The manifests come last: a folder without one is no package.
    for manifest in &encoders {
        manifest.write(&encoder(&manifest.name))?;
    }
    Ok(Imported { encoders, adapters })
}

/// Writes the encoder's own tensors, and the memory vectors where there is one decoder.
fn write_encoder(checkpoint: &ArcCheckpoint, folder: &Path) -> Result<EncoderWeights> {
    let mut tensors = Vec::new();
    for name in checkpoint.encoder_names() {
        let tensor = checkpoint.tensor(name)?;
        tensors.push(tensor.relabelled(name.trim_start_matches("embedder."), tensor.shape().to_vec())?);
    }
    if !has_memory_per_decoder(checkpoint) {
        tensors.extend(memory_tensor(checkpoint, 0)?);
    }
    let weights = folder.join(ENCODER_WEIGHTS);
    write_tensors(&weights, &tensors, &Default::default())?;
    Ok(EncoderWeights::Full { file: ENCODER_WEIGHTS.to_owned(), sha256: sha256_file(&weights)? })
}

fn memory_tensor(checkpoint: &ArcCheckpoint, decoder: usize) -> Result<Vec<RawTensor>> {
    let memory = checkpoint.memory(decoder)?;
    memory.into_iter().map(|memory| memory.relabelled(MEMORY_TENSOR, memory.shape().to_vec())).collect()
}

/// The same file at another path: gigabytes are not written twice where the file system can link.
fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    if to.exists() {
        std::fs::remove_file(to).map_err(Error::io("replace", to))?;
    }
    if std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to).map(drop).map_err(Error::io("write", to))
}

fn check_decoders(checkpoint: &ArcCheckpoint, decoders: &[ImportedDecoder]) -> Result<()> {
    if decoders.len() != checkpoint.decoders() {
        return Err(Error::WrongCount {
            what: format!("names for the decoders that `{}` was trained with", checkpoint.path().display()),
            found: decoders.len(),
            expected: checkpoint.decoders(),
        });
    }
    for (index, decoder) in decoders.iter().enumerate() {
        let name = &decoder.pin.name;
        if decoders.iter().take(index).any(|other| other.pin.name == *name) {
            return Err(Error::InvalidValue {
                what: "the name of a decoder".into(),
                found: name.clone(),
                expected: "one that no other decoder has".into(),
            });
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
    let olmo = config.model_args.non_parametric_norm;
    let origin = Origin {
        config: serde_json::from_str(checkpoint.config_text()).map_err(|error| invalid(error.to_string()))?,
        metadata: checkpoint.metadata().clone(),
        decoders: options.decoders.iter().map(|decoder| decoder.pin.name.clone()).collect(),
        name: has_memory_per_decoder(checkpoint).then(|| options.name.clone()),
    };
    let architecture = if olmo { Architecture::Olmo } else { Architecture::Llama }.name();
    let (d_encoder, weights) = (config.model_args.dim, EncoderWeights::Backbone {});
    let mut manifest =
        EncoderManifest::new(&options.name, architecture, d_encoder, options.chunk_tokens, weights);
    manifest.n_truncated_layers = embedder.n_truncated_layers;
    manifest.compress_rates.clone_from(&embedder.compress_rates);
    manifest.pool_type = pool_type.to_string();
    manifest.place = place;
    manifest.causal = embedder.causal_embedder;
    manifest.memory_tokens = embedder.memory_tokens;
    manifest.shape = Some(config.model_args.shape());
    manifest.provenance = json!({ "checkpoint": origin });
    Ok(manifest)
}

fn adapter_manifest(
    config: &ArcConfig,
    decoder: &ImportedDecoder,
    spec: ProjectorSpec,
    name: &str,
    encoder: &EncoderManifest,
) -> Result<AdapterManifest> {
    let d_encoder = config.model_args.dim;
    let width = spec.layers.iter().rev().find_map(|layer| match layer {
        ProjectorLayer::Linear { d_out, .. } => Some(*d_out),
        _ => None,
    });
    let d_decoder = width.unwrap_or(d_encoder);
    let append = if config.embedder_args.cont_tok { Append::Cont } else { Append::None };
    Ok(AdapterManifest::new((decoder.pin.clone(), d_decoder), (encoder.pin(), d_encoder), spec)
        .name(format!("{name}.{}", decoder.pin.name))
        .pooling_factors(vec![u32::try_from(factor(encoder)?).unwrap_or(u32::MAX)])
        .append(append)
        .prompt_template(&decoder.prompt_template)
        .training(json!({ "method": "imported from a checkpoint of the public ARC-Encoder code" })))
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
