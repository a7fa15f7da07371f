//! Encoders, projectors and special vectors from checkpoints in the reference's layouts.

use arc_adapters::{ProjectorLayer, ProjectorSpec, TensorF32};
use burn::tensor::{Device, Tensor, TensorData};

use super::{ArcEncoder, ArcEncoderConfig, Pooling, PoolingPlace};
use crate::decoder::DecoderConfig;
use crate::nn::{Loader, Residence};
use crate::projector::Projector;
use crate::weights::{ArcCheckpoint, RawTensor, Special, TensorNames, TensorSource};
use crate::{Error, Result};

/// What the reference adds to the mean square in a projector's own normalisation, whatever the
/// backbone adds.
const PROJECTOR_EPSILON: f64 = 1e-5;

impl ArcEncoder {
    /// The encoder of a checkpoint; where it has memory vectors, those of the given decoder.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for a pooling that does not exist, and an error for each tensor
    /// that is missing or misshapen.
    pub fn from_checkpoint(checkpoint: &ArcCheckpoint, decoder: usize, device: &Device) -> Result<Self> {
        let config = checkpoint.config();
        let embedder = &config.embedder_args;
        let backbone = DecoderConfig::from_meta(&config.model_args);
        let pooling = pooling(checkpoint)?;
        let encoder = ArcEncoderConfig {
            block: backbone.block,
            rope: backbone.rope,
            n_layers: config.n_layers(),
            compress_rates: pooling.rates(&embedder.compress_rates)?,
            pooling,
            causal: embedder.causal_embedder,
            memory_tokens: embedder.memory_tokens,
        };
        let memory = checkpoint.memory(decoder)?.map(|memory| matrix(&memory, device));
        let loader = Loader::new(checkpoint, &TensorNames::META, Residence::Dense).with_prefix("embedder.");
        Self::load(encoder, &loader, memory, device)
    }
}

impl Projector {
    /// The projector of one of a checkpoint's decoders; `None` where latents go to it as they are.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such decoder.
    pub fn from_checkpoint(
        checkpoint: &ArcCheckpoint,
        decoder: usize,
        device: &Device,
    ) -> Result<Option<Self>> {
        let Some(spec) = projector_spec(checkpoint, decoder)? else { return Ok(None) };
        let tensors = checkpoint.projector(decoder)?;
        let weights: Vec<&RawTensor> =
            tensors.iter().flat_map(|tensors| tensors.norm.iter().chain(&tensors.layers)).collect();
        let load = |name: &str| {
            weights
                .iter()
                .enumerate()
                .find(|(index, _)| name == format!("projector.{index}.weight"))
                .map(|(_, tensor)| TensorF32 { shape: tensor.shape().to_vec(), values: tensor.to_f32() })
                .ok_or_else(|| checkpoint.missing(name))
        };
        Self::from_weights(spec, &load, device).map(Some)
    }
}

/// How a checkpoint pools.
///
/// # Errors
///
/// [`Error::InvalidConfig`] for a pooling that does not exist.
pub(crate) fn pooling(checkpoint: &ArcCheckpoint) -> Result<Pooling> {
    let module = &checkpoint.config().embedder_args.pooling_module;
    let invalid = |reason: String| Error::InvalidConfig { path: checkpoint.path().to_owned(), reason };
    let place = match module.place.as_str() {
        "before" => PoolingPlace::Before,
        "between" => PoolingPlace::Between,
        other => return Err(invalid(format!("`where` is `{other}`, expected `before` or `between`"))),
    };
    let pool_type = module.pool_type.parse().map_err(|error: Error| invalid(error.to_string()))?;
    Ok(Pooling { pool_type, place })
}

/// What the projector of one of a checkpoint's decoders computes; `None` where latents go to it as
/// they are. Layer `i` has the `i`-th of the checkpoint's tensors, the norm first.
///
/// # Errors
///
/// [`Error::NotFound`] if there is no such decoder.
pub(crate) fn projector_spec(checkpoint: &ArcCheckpoint, decoder: usize) -> Result<Option<ProjectorSpec>> {
    let Some(tensors) = checkpoint.projector(decoder)? else { return Ok(None) };
    let mut layers = Vec::new();
    layers.extend(tensors.norm.map(|norm| ProjectorLayer::RmsNorm { d: norm.len(), eps: PROJECTOR_EPSILON }));
    for linear in &tensors.layers {
        let &[d_out, d_in] = linear.shape() else {
            return Err(Error::InvalidFile {
                path: checkpoint.path().to_owned(),
                format: "checkpoint",
                reason: format!("tensor `{}` has shape {:?}, not of a matrix", linear.name(), linear.shape()),
            });
        };
        layers.push(ProjectorLayer::Linear { d_in, d_out, bias: false });
    }
    Ok(Some(ProjectorSpec::new(layers)))
}

/// A special vector of one of a checkpoint's decoders, `[1, d_encoder]`.
///
/// # Errors
///
/// [`Error::NotFound`] if there is no such decoder.
pub fn special_vector(
    checkpoint: &ArcCheckpoint,
    special: Special,
    decoder: usize,
    device: &Device,
) -> Result<Option<Tensor<2>>> {
    Ok(checkpoint.special(special, decoder)?.map(|vector| matrix(&vector, device)))
}

/// A checkpoint's matrix on a device; its shape was checked when the checkpoint was opened.
fn matrix(tensor: &RawTensor, device: &Device) -> Tensor<2> {
    let columns = tensor.shape().last().copied().unwrap_or(1).max(1);
    let data = TensorData::new(tensor.to_f32(), [tensor.len() / columns, columns]);
    Tensor::from_data(data, device)
}
