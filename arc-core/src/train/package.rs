//! From a trained model to packages that `arc ask` can use.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use arc_adapters::{
    ADAPTER_SCHEMA, AdapterManifest, AdapterPackage, AdapterTensor, Append, DecoderPin, EncoderManifest,
    EncoderPin, EncoderWeights, EntryKind, NewAdapter, Registry, RegistryEditor, WEIGHTS_FILE, WeightType,
    WeightsFile, sha256_hex,
};
use burn::tensor::{Tensor, TensorData};
use half::f16;
use safetensors::tensor::{Dtype, TensorView};

use super::config::{EncoderConfig, TrainedPart};
use super::model::{TrainedAdapter, TrainedModel};
use super::parameters::named_parameters;
use crate::atomic_file::write_atomically;
use crate::decoder::Decoder;
use crate::encoder::{encoder_id, package_tensor_name};
use crate::{Error, Result};

/// The weights of an encoder package.
const ENCODER_WEIGHTS: &str = "encoder.safetensors";

/// The manifest of an encoder that is cut from a backbone and not trained yet.
pub(super) fn backbone_manifest(
    config: &EncoderConfig,
    backbone: &str,
    sha256: &str,
    d_encoder: usize,
    n_layers: usize,
) -> Result<EncoderManifest> {
    let invalid = |reason: String| Error::InvalidArgument(format!("encoder `{}`: {reason}", config.name));
    let layers = config.layers.unwrap_or(n_layers);
    let n_truncated = n_layers
        .checked_sub(layers)
        .ok_or_else(|| invalid(format!("`layers` is {layers}, but the backbone has {n_layers}")))?;
    let factor = config.pooling_factors.first().copied().unwrap_or(1);
    let rate = i64::try_from(factor).unwrap_or(i64::MAX);
    let manifest = serde_json::json!({
        "schema": arc_adapters::ENCODER_SCHEMA,
        "name": config.name,
        "encoder_id": "-",
        "architecture": "llama",
        "d_encoder": d_encoder,
        "n_truncated_layers": n_truncated,
        "compress_rates": [-rate],
        "pool_type": config.pool_type,
        "where": "before",
        "causal": config.causal,
        "memory_tokens": 0,
        "chunk_tokens": config.chunk_tokens,
        "backbone": { "decoder": backbone, "sha256": sha256 },
        "weights": { "kind": "backbone" },
    });
    let mut manifest: EncoderManifest =
        serde_json::from_value(manifest).map_err(|error| invalid(error.to_string()))?;
    manifest.encoder_id = encoder_id(&manifest);
    Ok(manifest)
}

/// Writes an encoder package: what was trained, over the backbone that `manifest` names. Returns
/// the manifest as written.
pub(super) fn write_encoder(
    folder: &Path,
    manifest: &EncoderManifest,
    part: &TrainedPart,
    model: &TrainedModel,
    provenance: serde_json::Value,
) -> Result<EncoderManifest> {
    let mut manifest = manifest.clone();
    let mut tensors = BTreeMap::new();
    for (name, (shape, value)) in named_parameters(&model.encoder) {
        let Some(stored_name) = package_tensor_name(&name) else {
            return Err(Error::InvalidArgument(format!("`{name}` has no name in an encoder package")));
        };
        // Tables have a row for each token in burn as in torch.
        let is_table = matches!(name.as_str(), "embedding.table" | "memory");
        tensors.insert(stored_name, StoredTensor::new(&shape, value, is_table)?);
    }
    if !tensors.is_empty() {
        let path = folder.join(ENCODER_WEIGHTS);
        let bytes = serialize(&tensors, &path)?;
        let (file, sha256) = (ENCODER_WEIGHTS.to_owned(), sha256_hex(&bytes));
        write_atomically(&path, |file| file.write_all(&bytes).map_err(Error::io("write", &path)))?;
        manifest.weights = match *part {
            TrainedPart::Lora { rank, alpha } => EncoderWeights::Lora { file, sha256, rank, alpha },
            _ => EncoderWeights::Full { file, sha256 },
        };
    }
    manifest.provenance = provenance;
    manifest.encoder_id = encoder_id(&manifest);
    manifest.write(folder)?;
    Ok(manifest)
}

/// A tensor in torch layout, matrices as f16 and vectors as f32.
struct StoredTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl StoredTensor {
    fn new(shape: &[usize], value: Tensor<1>, is_table: bool) -> Result<Self> {
        let (shape, values) = match is_table {
            true => (shape.to_vec(), host_values(value.into_data())?),
            false => torch_layout(shape, value)?,
        };
        if shape.len() < 2 {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            return Ok(Self { dtype: Dtype::F32, shape, bytes });
        }
        if let Some(value) = values.iter().find(|value| !f16::from_f32(**value).is_finite()) {
            return Err(Error::InvalidArgument(format!("a weight of {value} does not fit into 16 bits")));
        }
        let bytes = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
        Ok(Self { dtype: Dtype::F16, shape, bytes })
    }
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
        .map_err(|error| Error::InvalidArgument(format!("a tensor cannot be read: {error:?}")))
}

fn serialize(tensors: &BTreeMap<String, StoredTensor>, path: &Path) -> Result<Vec<u8>> {
    let invalid = |error: safetensors::SafeTensorError| Error::InvalidFile {
        path: path.to_owned(),
        format: "safetensors",
        reason: error.to_string(),
    };
    let views = tensors
        .iter()
        .map(|(name, tensor)| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).map_err(invalid)?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<Vec<_>>>()?;
    safetensors::serialize(views, None).map_err(invalid)
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
    let slots = spec.weight_slots();
    let mut tensors = Vec::new();
    for (name, (shape, value)) in adapter_parameters(adapter) {
        let (shape, values) = torch_layout(&shape, value)?;
        tensors.push(AdapterTensor::new(&name, &shape, &values, WeightType::F32));
    }
    let d_hidden = match (slots.as_slice(), spec.layers.len()) {
        ([first, _], 2) => first.shape.first().copied(),
        _ => None,
    };
    let manifest = AdapterManifest {
        schema: ADAPTER_SCHEMA,
        name: decoder.name.clone(),
        decoder: DecoderPin {
            name: decoder.name.clone(),
            architecture: decoder.network.config().architecture.name().to_owned(),
            embedding_sha256: decoder.embedding_sha256().to_owned(),
            tokenizer_sha256: decoder.tokenizer.sha256().to_owned(),
        },
        encoder: EncoderPin { name: encoder.name.clone(), encoder_id: encoder.encoder_id.clone() },
        d_encoder: encoder.d_encoder,
        d_hidden,
        d_decoder: decoder.network.config().d_model(),
        projector: spec,
        pooling_factors: card
            .factors
            .iter()
            .map(|&factor| u32::try_from(factor).unwrap_or(u32::MAX))
            .collect(),
        append: Append::Cont,
        prompt_template: card.template.to_owned(),
        weights: WeightsFile { file: WEIGHTS_FILE.to_owned(), sha256: String::new() },
        training: card.training.clone(),
        scores: card.scores.clone(),
    };
    Ok(AdapterPackage::write(folder, &manifest, &tensors)?)
}

/// An adapter's tensors under their names in a package.
fn adapter_parameters(adapter: &TrainedAdapter) -> BTreeMap<String, (Vec<usize>, Tensor<1>)> {
    named_parameters(adapter)
        .into_iter()
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
        let mut entry = entry.clone();
        entry.encoder = None;
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
