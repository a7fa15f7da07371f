//! An encoder package and its adapters become a checkpoint in the released layout of the public
//! ARC-Encoder code.

use std::path::{Path, PathBuf};

use arc_adapters::{Adapter, EncoderManifest, EncoderWeights, ProjectorLayer};
use serde_json::{Map, Value};

use crate::encoder::MEMORY_TENSOR;
use crate::import::{Origin, encoder_name};
use crate::weights::{ArcCheckpoint, RawTensor, SafetensorsFile, StorageType, TensorSource as _};
use crate::{Error, Hint, Result};

/// The names of an encoder's decoders in the order of the checkpoint that it was imported from.
///
/// # Errors
///
/// [`Error::Mismatch`] for an encoder that was not imported.
pub fn decoders_of(encoder: &EncoderManifest) -> Result<Vec<String>> {
    Ok(origin(encoder)?.decoders)
}

/// The name of the encoder package of one of an encoder's decoders; `None` where they share this one,
/// since the checkpoint had no memory vectors for each.
///
/// # Errors
///
/// [`Error::Mismatch`] for an encoder that was not imported.
pub fn own_encoder_of(encoder: &EncoderManifest, decoder: &str) -> Result<Option<String>> {
    Ok(origin(encoder)?.name.map(|name| encoder_name(&name, decoder)))
}

/// Writes `config.json` and `model.safetensors` into `output`, from one adapter for each decoder, in
/// the checkpoint's order, and the encoder packages with their folders: one, or one for each adapter
/// where decoders have memory vectors of their own (see [`own_encoder_of`]).
///
/// What was not changed since the import keeps its bytes, types and configuration values. Nothing
/// is written unless the tensors are the ones that the configuration asks for.
///
/// # Errors
///
/// [`Error::Mismatch`] for an encoder that was not imported, encoders with different weights, an
/// adapter of another encoder, and adapters whose projectors differ where the checkpoint has one for
/// all; [`Error::MissingTensor`], [`Error::TensorShape`] and [`Error::InvalidFile`] for tensors that
/// do not fit; [`Error::Io`].
pub fn export(encoders: &[(EncoderManifest, PathBuf)], adapters: &[Adapter], output: &Path) -> Result<()> {
    let (encoder, encoder_folder) = encoders.first().ok_or_else(|| Error::NotEnough {
        what: "encoders to export".into(),
        found: 0,
        needed: 1,
    })?;
    let mut origin = origin(encoder)?;
    let EncoderWeights::Full { file, .. } = &encoder.weights else {
        return Err(not_imported(encoder));
    };
    let indexed =
        origin.config.pointer("/bridge_args/bridge_type").and_then(Value::as_str) == Some("multi_module");

    let mut tensors = Vec::new();
    let weights = SafetensorsFile::open(encoder_folder.join(file))?;
    for name in weights.names() {
        let tensor = weights.tensor(name)?;
        let released = match name {
            MEMORY_TENSOR => "embedder.mem_embeddings.0.weight".to_owned(),
            name => format!("embedder.{name}"),
        };
        tensors.push(tensor.relabelled(released, tensor.shape().to_vec())?);
    }
    for (index, (other, folder)) in encoders.iter().enumerate() {
        if other.weights != encoder.weights {
            return Err(Error::Mismatch {
                what: format!("encoder `{}` beside `{}`", other.name, encoder.name),
                expected: "the same weights".into(),
                found: "others".into(),
                hint: Hint::ExportOne,
            });
        }
        if let Some(memory) = &other.memory {
            let memory = SafetensorsFile::open(folder.join(&memory.file))?.tensor(MEMORY_TENSOR)?;
            let released = format!("embedder.mem_embeddings.{index}.weight");
            tensors.push(memory.relabelled(released, memory.shape().to_vec())?);
        }
    }
    for (index, adapter) in adapters.iter().enumerate() {
        let (read, _) = encoders.get(index).unwrap_or(&encoders[0]);
        adapter.manifest.check_encoder(&read.encoder_id)?;
        let weights = SafetensorsFile::open(adapter.origin.join(&adapter.manifest.weights.file))?;
        for (name, special) in [("tokens.cont", "cont_tok"), ("tokens.rec", "rec_tok")] {
            if weights.has(name) {
                let vector = weights.tensor(name)?;
                let released = format!("embedder.{special}.{index}.weight");
                tensors.push(vector.relabelled(released, vec![1, vector.len()])?);
            }
        }
        let projector = projector(adapter, &weights)?;
        for (part, tensor) in projector {
            let released = if indexed {
                format!("bridge_module.{index}.{part}.weight")
            } else {
                format!("bridge_module.{part}.weight")
            };
            let tensor = tensor.relabelled(released, tensor.shape().to_vec())?;
            match tensors.iter().find(|other: &&RawTensor| other.name() == tensor.name()) {
                None => tensors.push(tensor),
                Some(other) if **other.bytes() == **tensor.bytes() => {}
                Some(_) => {
                    return Err(Error::Mismatch {
                        what: format!("a checkpoint with one projector (`{}`)", tensor.name()),
                        expected: "the same in every adapter".into(),
                        found: format!("another in adapter `{}`", adapter.manifest.name),
                        hint: Hint::ExportOne,
                    });
                }
            }
        }
    }

    let path = encoder_folder.join(arc_adapters::ENCODER_FILE);
    if let Some(adapter) = adapters.first() {
        set_widths(&mut origin.config, adapter);
    }
    let config = serde_json::to_string_pretty(&origin.config)
        .map_err(|error| Error::InvalidConfig { path: path.clone(), reason: error.to_string() })?;
    // Released checkpoints have no blocks of 8 bits: those come out as the numbers that they mean.
    let plain = |tensor: RawTensor| match tensor.dtype() {
        StorageType::Q8_0 => RawTensor::from_f32(tensor.name(), tensor.shape().to_vec(), &tensor.to_f32()),
        _ => Ok(tensor),
    };
    let tensors = tensors.into_iter().map(plain).collect::<Result<Vec<_>>>()?;
    ArcCheckpoint::from_tensors(&path, config, origin.metadata, tensors)?.write_released(output, &[])
}

/// Has the configuration say the widths of an adapter's projector, where they are not what it says:
/// the decoder may be another than the checkpoint was trained for. Adapters of several widths do not
/// fit one configuration, which the check of their shapes says.
fn set_widths(config: &mut Value, adapter: &Adapter) {
    let widths = adapter.manifest.projector.layers.iter().filter_map(|layer| match layer {
        ProjectorLayer::Linear { d_out, .. } => Some(*d_out),
        _ => None,
    });
    let (hidden, out) = match widths.collect::<Vec<_>>()[..] {
        [hidden, out] => (Some(hidden), out),
        [out] => (None, out),
        _ => return,
    };
    let Some(bridge) = config.get_mut("bridge_args").and_then(Value::as_object_mut) else { return };
    let stated = |bridge: &Map<String, Value>, field: &str| bridge.get(field).and_then(Value::as_u64);
    if stated(bridge, "out_dim") != Some(out as u64) {
        bridge.insert("out_dim".into(), out.into());
    }
    // The width between the layers is that of the output where none is stated.
    let between = stated(bridge, "hidden_dim").or(stated(bridge, "out_dim"));
    if let Some(hidden) = hidden.filter(|&hidden| between != Some(hidden as u64)) {
        bridge.insert("hidden_dim".into(), hidden.into());
    }
}

/// An adapter's projector under the names of the reference, in order.
fn projector(adapter: &Adapter, weights: &SafetensorsFile) -> Result<Vec<(&'static str, RawTensor)>> {
    let mut linear = ["layer1", "layer2"].into_iter();
    let mut parts = Vec::new();
    for (index, layer) in adapter.manifest.projector.layers.iter().enumerate() {
        let part = match layer {
            ProjectorLayer::RmsNorm { .. } if parts.is_empty() => Some("norm"),
            ProjectorLayer::Linear { bias: false, .. } => linear.next(),
            // Nothing to write: latents go to the decoder as they are.
            ProjectorLayer::Scale { factor: 1.0 } => continue,
            _ => None,
        };
        let part = part.ok_or_else(|| Error::Mismatch {
            what: format!("the released layout (projector of adapter `{}`)", adapter.manifest.name),
            expected: "an RMS norm at most, and one or two linear layers without bias".into(),
            found: format!("{layer:?} as layer {index}"),
            hint: "such a projector cannot be exported".into(),
        })?;
        parts.push((part, weights.tensor(&format!("projector.{index}.weight"))?));
    }
    Ok(parts)
}

fn origin(encoder: &EncoderManifest) -> Result<Origin> {
    let origin = encoder.provenance.get("checkpoint").cloned().ok_or_else(|| not_imported(encoder))?;
    serde_json::from_value(origin).map_err(|_| not_imported(encoder))
}

fn not_imported(encoder: &EncoderManifest) -> Error {
    Error::Mismatch {
        what: format!("an export of encoder `{}`", encoder.name),
        expected: "an imported checkpoint".into(),
        found: "a package without the checkpoint's configuration".into(),
        hint: "encoders that came with `arc import` can be exported".into(),
    }
}
