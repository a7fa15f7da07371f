//! From a trained model to packages that `arc ask` can use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use arc_adapters::{
    AdapterManifest, AdapterPackage, AdapterTensor, Backbone, EncoderManifest, EncoderWeights, EntryKind,
    NewAdapter, Registry, RegistryEditor, WeightType, WeightsFile, sha256_file,
};
use burn::tensor::{Tensor, TensorData};
use half::f16;

use super::config::{DEFAULT_CHUNK_TOKENS, DEFAULT_POOL_TYPE, EncoderConfig, StoredWeights, TrainedPart};
use super::model::{TrainedAdapter, TrainedModel};
use super::parameters::{effective_values, named_parameters};
use crate::decoder::Decoder;
use crate::encoder::{MEMORY_TENSOR, encoder_id, package_tensor_name};
use crate::weights::{
    RawTensor, SafetensorsFile, StorageType, TensorSource as _, eight_bit_blocks, write_tensors,
};
use crate::{Error, Result};
use arc_adapters::write_atomically;

/// The weights of an encoder package.
const ENCODER_WEIGHTS: &str = "encoder.safetensors";

/// How rare tokens are, in an encoder package.
const RARITY_FILE: &str = "rarity.safetensors";

/// The manifest of an encoder that is cut from a backbone and not trained yet.
pub(super) fn backbone_manifest(
    config: &EncoderConfig,
    backbone: &str,
    sha256: &str,
    d_encoder: usize,
    n_layers: usize,
) -> Result<EncoderManifest> {
    let invalid = |reason: String| Error::InvalidEncoder { encoder: config.name.clone(), reason };
    let layers = config.layers.unwrap_or(n_layers);
    let n_truncated = n_layers
        .checked_sub(layers)
        .ok_or_else(|| invalid(format!("`layers` is {layers}, but the backbone has {n_layers}")))?;
    let chunk_tokens = config.chunk_tokens.unwrap_or(DEFAULT_CHUNK_TOKENS);
    let weights = EncoderWeights::Backbone {};
    let mut manifest = EncoderManifest::new(&config.name, "llama", d_encoder, chunk_tokens, weights);
    manifest.n_truncated_layers = n_truncated;
    manifest.compress_rates = compress_rates(config);
    config.pool_type.as_deref().unwrap_or(DEFAULT_POOL_TYPE).clone_into(&mut manifest.pool_type);
    manifest.causal = config.causal.unwrap_or(false);
    manifest.backbone = Some(Backbone::of_decoder(backbone, sha256));
    manifest.encoder_id = encoder_id(&manifest);
    Ok(manifest)
}

/// The rates of a package that pools by the first factor of a run.
pub(super) fn compress_rates(config: &EncoderConfig) -> Vec<i64> {
    let factor = config.pooling_factors.first().copied().unwrap_or(1);
    vec![-i64::try_from(factor).unwrap_or(i64::MAX)]
}

/// What a run's encoder was before the run.
pub(super) struct EncoderStart {
    /// Its manifest; the name is the run's.
    pub(super) manifest: EncoderManifest,
    /// The folder of its package, for one that was not cut from a backbone just now.
    pub(super) package: Option<PathBuf>,
}

/// Writes an encoder package that computes what `model` does: what this run or one before it has
/// trained, over the backbone that the start names, if any. Returns the manifest as written.
///
/// A LoRA delta on a bare backbone stays a delta. On anything else it is added to the weights, as
/// is a delta that the run started from: a package holds one kind.
pub(super) fn write_encoder(
    folder: &Path,
    start: &EncoderStart,
    config: &EncoderConfig,
    model: &TrainedModel,
    provenance: serde_json::Value,
) -> Result<EncoderManifest> {
    let mut manifest = start.manifest.clone();
    let trained = named_parameters(&model.encoder);
    let before = match (&manifest.weights, &start.package) {
        (EncoderWeights::Full { file, .. } | EncoderWeights::Lora { file, .. }, Some(package)) => {
            Some(package.join(file))
        }
        _ => None,
    };
    let path = folder.join(ENCODER_WEIGHTS);
    if trained.is_empty() {
        if let Some(before) = before {
            copy(&before, &path)?;
            rename_weights(&mut manifest.weights);
        }
    } else {
        let (tensors, delta) = match (&config.train, &before) {
            (&TrainedPart::Lora { rank, alpha }, None) => {
                (stored(trained, config.weights)?, Some((rank, alpha)))
            }
            _ => (all_trained(before.as_deref(), &trained, config.weights, model)?, None),
        };
        let tensors: Vec<RawTensor> = tensors.into_values().collect();
        write_tensors(&path, &tensors, &BTreeMap::new())?;
        let (file, sha256) = (ENCODER_WEIGHTS.to_owned(), sha256_file(&path)?);
        manifest.weights = match delta {
            Some((rank, alpha)) => EncoderWeights::Lora { file, sha256, rank, alpha },
            None => EncoderWeights::Full { file, sha256 },
        };
    }
    if let Some(rarity) = model.encoder.rarity() {
        let path = folder.join(RARITY_FILE);
        rarity.write(&path)?;
        manifest.rarity = Some(WeightsFile::new(RARITY_FILE, sha256_file(&path)?));
    }
    if let (Some(tokenizer), Some(package)) = (&mut manifest.tokenizer, &start.package) {
        copy(&package.join(&tokenizer.file), &folder.join(&tokenizer.file))?;
    }
    manifest.provenance = with_origin(provenance, &manifest);
    manifest.encoder_id = encoder_id(&manifest);
    manifest.write(folder)?;
    Ok(manifest)
}

/// What a run did, with the checkpoint that its encoder was once imported from: `arc export` needs
/// that, in the pooling that the encoder now has.
fn with_origin(mut provenance: serde_json::Value, manifest: &EncoderManifest) -> serde_json::Value {
    if let Some(origin) = manifest.provenance.get("checkpoint") {
        let mut origin = origin.clone();
        if let Some(rates) = origin.pointer_mut("/config/embedder_args/compress_rates") {
            *rates = serde_json::json!(manifest.compress_rates);
        }
        provenance["checkpoint"] = origin;
    }
    provenance
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut from_file = std::fs::File::open(from).map_err(Error::io("read", from))?;
    write_atomically(to, |file| std::io::copy(&mut from_file, file).map_err(Error::io("write", to)))?;
    Ok(())
}

fn rename_weights(weights: &mut EncoderWeights) {
    if let EncoderWeights::Full { file, .. } | EncoderWeights::Lora { file, .. } = weights {
        ENCODER_WEIGHTS.clone_into(file);
    }
}

/// The tensors of a package that holds values: the start's, and the run's in their place. What the
/// run has not moved keeps its bytes.
fn all_trained(
    before: Option<&Path>,
    trained: &BTreeMap<String, (Vec<usize>, Tensor<1>)>,
    weights: StoredWeights,
    model: &TrainedModel,
) -> Result<BTreeMap<String, RawTensor>> {
    let stem = |name: &str| name.rsplit_once(".lora.").map_or(name, |(stem, _)| stem).to_owned();
    let mut moved: BTreeSet<String> =
        trained.keys().filter_map(|name| package_tensor_name(&stem(name))).collect();
    let mut tensors = BTreeMap::new();
    if let Some(before) = before {
        let before = SafetensorsFile::open(before)?;
        for name in before.names() {
            match name.strip_suffix(".lora_a").or(name.strip_suffix(".lora_b")) {
                Some(stem) => {
                    moved.insert(format!("{stem}.weight"));
                }
                None => {
                    tensors.insert(name.to_owned(), before.tensor(name)?);
                }
            }
        }
    }
    let is_moved = |path: &str| package_tensor_name(path).is_some_and(|name| moved.contains(&name));
    tensors.extend(stored(effective_values(&model.encoder, &is_moved), weights)?);
    Ok(tensors)
}

/// Parameters as tensors in torch's layout under their names in a package.
fn stored(
    parameters: BTreeMap<String, (Vec<usize>, Tensor<1>)>,
    weights: StoredWeights,
) -> Result<BTreeMap<String, RawTensor>> {
    let mut tensors = BTreeMap::new();
    for (path, (shape, value)) in parameters {
        let Some(name) = package_tensor_name(&path) else {
            return Err(Error::NotFound {
                kind: "tensor of an encoder package for",
                name: path,
                place: "among the reference's names".into(),
                known: Vec::new(),
            });
        };
        // Tables have a row for each token in burn as in torch.
        let (shape, values) = match path.as_str() {
            "embedding.table" | "memory" => (shape, host_values(value.into_data())?),
            _ => torch_layout(&shape, value)?,
        };
        tensors.insert(name.clone(), stored_tensor(name, shape, &values, weights)?);
    }
    Ok(tensors)
}

/// Vectors are always f32, and what does not fit into blocks of 8 bits is f16 in place of them.
fn stored_tensor(
    name: String,
    shape: Vec<usize>,
    values: &[f32],
    weights: StoredWeights,
) -> Result<RawTensor> {
    if shape.len() < 2 || weights == StoredWeights::F32 {
        return RawTensor::from_f32(name, shape, values);
    }
    if weights == StoredWeights::Q8 && name != MEMORY_TENSOR && eight_bit_blocks::fits(&shape) {
        return eight_bit_blocks::quantise(&name, shape, values);
    }
    if let Some(value) = values.iter().find(|value| !f16::from_f32(**value).is_finite()) {
        return Err(Error::DoesNotFit { tensor: name, value: *value, bits: 16 });
    }
    let bytes: Vec<u8> = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
    RawTensor::new(name, StorageType::F16, shape, bytes.into(), PathBuf::new())
}

/// burn's `[d_in, d_out]` as torch's `[d_out, d_in]`.
fn torch_layout(shape: &[usize], value: Tensor<1>) -> Result<(Vec<usize>, Vec<f32>)> {
    let (shape, value) = match *shape {
        [d_in, d_out] => {
            (vec![d_out, d_in], value.reshape([d_in, d_out]).transpose().reshape([d_in * d_out]))
        }
        _ => (shape.to_vec(), value),
    };
    Ok((shape, host_values(value.into_data())?))
}

fn host_values(data: TensorData) -> Result<Vec<f32>> {
    data.convert::<f32>()
        .try_into_vec::<f32>()
        .map_err(|error| Error::DeviceData { what: "a tensor", reason: format!("{error:?}") })
}

/// What an adapter package says besides its weights.
pub(super) struct AdapterCard<'a> {
    pub(super) decoder: &'a Decoder,
    pub(super) encoder: &'a EncoderManifest,
    pub(super) factors: &'a [usize],
    pub(super) template: &'a str,
    pub(super) training: serde_json::Value,
    pub(super) scores: serde_json::Value,
}

/// Writes an adapter package and returns its manifest.
pub(super) fn write_adapter(
    folder: &Path,
    adapter: &TrainedAdapter,
    card: &AdapterCard,
) -> Result<AdapterManifest> {
    let AdapterCard { decoder, encoder, .. } = *card;
    let spec = adapter.projector.spec().clone();
    let mut tensors = Vec::new();
    // The last layer is linear where there is a scale: see `TrainedAdapter::with_scale`.
    let (scale, last) = (adapter.scale(), format!("projector.{}.", spec.layers.len().saturating_sub(1)));
    for (name, (shape, value)) in adapter_parameters(adapter) {
        let value = if scale != 1.0 && name.starts_with(&last) { value * scale } else { value };
        let (shape, values) = torch_layout(&shape, value)?;
        tensors.push(AdapterTensor::new(&name, &shape, &values, WeightType::F32));
    }
    let factors = card.factors.iter().map(|&factor| u32::try_from(factor).unwrap_or(u32::MAX));
    let (d_encoder, d_decoder) = (encoder.d_encoder, decoder.network.config().d_model());
    let manifest = AdapterManifest::new((decoder.pin(), d_decoder), (encoder.pin(), d_encoder), spec)
        .pooling_factors(factors.collect())
        .prompt_template(card.template)
        .training(card.training.clone())
        .scores(card.scores.clone());
    Ok(AdapterPackage::write(folder, &manifest, &tensors)?)
}

/// An adapter's tensors under their names in a package.
fn adapter_parameters(adapter: &TrainedAdapter) -> BTreeMap<String, (Vec<usize>, Tensor<1>)> {
    named_parameters(adapter)
        .into_iter()
        // A scale is a part of the projector in a package.
        .filter(|(name, _)| name != "log_scale")
        .map(|(name, (shape, value))| match name.as_str() {
            // Vectors in a package.
            "cont" | "rec" => (format!("tokens.{name}"), (vec![shape.iter().product()], value)),
            _ => (projector_tensor_name(&name), (shape, value)),
        })
        .collect()
}

/// `projector.layers.0.matrix` as `projector.0.weight`, and inner layers of a residual likewise.
fn projector_tensor_name(name: &str) -> String {
    let parts = name.split('.').filter(|part| !matches!(*part, "layers" | "inner"));
    let parts = parts.map(|part| if matches!(part, "matrix" | "scale") { "weight" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

/// Writes a registry beside the packages of a run: its encoder as the default, and its decoders
/// and the encoder's backbone from where `registry` has them.
pub(super) fn write_registry(
    folder: &Path,
    registry: &Registry,
    encoder: &EncoderManifest,
    decoders: &[&str],
) -> Result<()> {
    let path = folder.join(arc_adapters::REGISTRY_FILE);
    let mut editor = RegistryEditor::open(&path)?;
    editor.add_encoder(&encoder.name, Path::new("encoder"))?;
    editor.set_default_encoder(&encoder.name)?;
    let backbone = encoder.backbone.as_ref().and_then(|backbone| backbone.decoder.as_deref());
    let backbone = backbone.map(|name| registry.decoder(name)).transpose()?;
    let alone = backbone.filter(|entry| !decoders.contains(&entry.name.as_str()));
    let adapted = decoders.iter().map(|name| registry.decoder(name)).collect::<Result<Vec<_>, _>>()?;
    for (entry, has_adapter) in
        adapted.into_iter().map(|entry| (entry, true)).chain(alone.map(|e| (e, false)))
    {
        let adapter = Path::new("adapters").join(&entry.name);
        // The run's encoder is this registry's default, and the only one that it knows.
        let entry = entry.clone().for_the_default_encoder();
        editor.copy_decoder(&entry.name, &entry)?;
        for alias in &entry.aliases {
            editor.add_alias(EntryKind::Decoder, &entry.name, alias)?;
        }
        if has_adapter {
            editor.set_adapter(&entry.name, &NewAdapter::Package(adapter))?;
        }
    }
    editor.save()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projector_parameters_have_their_names_in_packages() {
        for (path, name) in [
            ("projector.layers.0.matrix", "projector.0.weight"),
            ("projector.layers.2.scale", "projector.2.weight"),
            ("projector.layers.1.bias", "projector.1.bias"),
            ("projector.layers.1.inner.0.matrix", "projector.1.0.weight"),
        ] {
            assert_eq!(projector_tensor_name(path), name);
        }
    }
}
