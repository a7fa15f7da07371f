//! What was trained of an encoder, over the backbone that it was cut from.
//!
//! A package holds the trained tensors alone, under the names of Meta's llama layout, which the
//! published encoders have too. Everything else is the backbone's. A LoRA package holds for a
//! matrix `NAME.weight` the factors `NAME.lora_a` `[rank, d_in]` and `NAME.lora_b` `[d_out, rank]`.

use std::path::Path;

use crate::weights::{RawTensor, SafetensorsFile, TensorNames, TensorSource};
use crate::{Error, Result};

/// The memory vectors in the weights of a package, `[memory_tokens, d_encoder]`.
pub(crate) const MEMORY_TENSOR: &str = "mem_embeddings.weight";

/// What a layout calls one of a layer's parameters.
type NameOf = fn(&TensorNames) -> &'static str;

/// Each name of a parameter in [`ArcEncoder`](super::ArcEncoder) below its layer, and what a layout
/// calls it.
const LAYER_NAMES: [(&str, NameOf); 9] = [
    ("attention_norm.weight", |names| names.attention_norm),
    ("attention.query.weight", |names| names.query),
    ("attention.key.weight", |names| names.key),
    ("attention.value.weight", |names| names.value),
    ("attention.output.weight", |names| names.output),
    ("feed_forward_norm.weight", |names| names.feed_forward_norm),
    ("feed_forward.gate.weight", |names| names.gate),
    ("feed_forward.up.weight", |names| names.up),
    ("feed_forward.down.weight", |names| names.down),
];

/// The name in a package of a parameter of [`ArcEncoder`](super::ArcEncoder), by its path in the
/// module; `None` for one that has no place in a package.
#[must_use]
pub fn package_tensor_name(path: &str) -> Option<String> {
    match path {
        "embedding.table" => return Some(TensorNames::META.embedding.to_owned()),
        "memory" => return Some(MEMORY_TENSOR.to_owned()),
        _ => {}
    }
    let (layer, path) = path.strip_prefix("blocks.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (path, factor) = match path.strip_suffix(".lora.a") {
        Some(path) => (path, Some("lora_a")),
        None => path.strip_suffix(".lora.b").map_or((path, None), |path| (path, Some("lora_b"))),
    };
    let (_, name) = LAYER_NAMES.iter().find(|(own, _)| *own == path)?;
    let stem = TensorNames::of_layer(name(&TensorNames::META).trim_end_matches(".weight"), layer);
    Some(format!("{stem}.{}", factor.unwrap_or("weight")))
}

/// What a backbone whose layout is `backbone` calls a tensor of Meta's layout.
fn backbone_name(backbone: &TensorNames, name: &str) -> Option<String> {
    if name == TensorNames::META.embedding {
        return Some(backbone.embedding.to_owned());
    }
    let (layer, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (_, own) = LAYER_NAMES.iter().find(|(_, of)| {
        let pattern = of(&TensorNames::META).trim_start_matches("layers.{}.").trim_end_matches(".weight");
        rest == format!("{pattern}.weight")
    })?;
    Some(format!("{}.weight", TensorNames::of_layer(own(backbone).trim_end_matches(".weight"), layer)))
}

/// A backbone's tensors with the trained ones in their place, under Meta's names.
pub(super) struct TrainedWeights<'a> {
    trained: SafetensorsFile,
    backbone: &'a dyn TensorSource,
    backbone_names: &'a TensorNames,
    /// `alpha / rank`, for a LoRA delta.
    lora_scale: Option<f32>,
}

impl<'a> TrainedWeights<'a> {
    pub(super) fn open(
        path: &Path,
        backbone: &'a dyn TensorSource,
        backbone_names: &'a TensorNames,
        lora_scale: Option<f32>,
    ) -> Result<Self> {
        let trained = SafetensorsFile::open(path)?;
        let weights = Self { trained, backbone, backbone_names, lora_scale };
        for name in weights.trained.names() {
            let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
            let is_known =
                backbone_name(backbone_names, &format!("{stem}.weight")).is_some() || name == MEMORY_TENSOR;
            let is_factor = name.ends_with(".lora_a") || name.ends_with(".lora_b");
            if !is_known || is_factor != lora_scale.is_some() {
                return Err(Error::InvalidFile {
                    path: path.to_owned(),
                    format: "encoder weights",
                    reason: format!("the encoder has no use for its tensor `{name}`"),
                });
            }
        }
        Ok(weights)
    }

    /// A backbone's matrix `[d_out, d_in]` with its delta added.
    fn with_delta(&self, base: &RawTensor, name: &str, stem: &str, scale: f32) -> Result<RawTensor> {
        let &[d_out, d_in] = base.shape() else {
            return Err(self.missing(name));
        };
        let a = self.trained.tensor(&format!("{stem}.lora_a"))?;
        let rank = a.shape().first().copied().unwrap_or(0);
        a.expect_shape(&[rank, d_in])?;
        let b = self.trained.tensor_of_shape(&format!("{stem}.lora_b"), &[d_out, rank])?.to_f32();
        let a = a.to_f32();
        let mut values = base.to_f32();
        for (row, factors) in values.chunks_exact_mut(d_in.max(1)).zip(b.chunks_exact(rank.max(1))) {
            for (factor, direction) in factors.iter().zip(a.chunks_exact(d_in.max(1))) {
                for (value, &along) in row.iter_mut().zip(direction) {
                    *value += scale * factor * along;
                }
            }
        }
        RawTensor::from_f32(name, vec![d_out, d_in], &values)
    }
}

impl TensorSource for TrainedWeights<'_> {
    fn tensor(&self, name: &str) -> Result<RawTensor> {
        if self.trained.has(name) {
            return self.trained.tensor(name);
        }
        let base = self
            .backbone
            .tensor(&backbone_name(self.backbone_names, name).ok_or_else(|| self.missing(name))?)?;
        match (self.lora_scale, name.strip_suffix(".weight")) {
            (Some(scale), Some(stem)) if self.trained.has(&format!("{stem}.lora_a")) => {
                self.with_delta(&base, name, stem, scale)
            }
            _ => Ok(base),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.trained.has(name)
            || backbone_name(self.backbone_names, name).is_some_and(|name| self.backbone.has(&name))
    }

    fn names(&self) -> Vec<&str> {
        self.trained.names()
    }

    fn path(&self) -> &Path {
        TensorSource::path(&self.trained)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_the_module_have_names_in_packages_and_in_backbones() {
        for (path, package, backbone) in [
            ("embedding.table", "tok_embeddings.weight", Some("token_embd.weight")),
            ("blocks.3.attention.query.weight", "layers.3.attention.wq.weight", Some("blk.3.attn_q.weight")),
            (
                "blocks.11.feed_forward_norm.weight",
                "layers.11.ffn_norm.weight",
                Some("blk.11.ffn_norm.weight"),
            ),
            ("blocks.0.feed_forward.up.weight.lora.a", "layers.0.feed_forward.w3.lora_a", None),
        ] {
            assert_eq!(package_tensor_name(path).as_deref(), Some(package));
            assert_eq!(backbone_name(&TensorNames::GGUF, package).as_deref(), backbone);
        }
        assert_eq!(package_tensor_name("blocks.0.attention.query.bias"), None);
    }
}
