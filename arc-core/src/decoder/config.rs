//! What a decoder is, as its checkpoint states it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::nn::{Activation, AttentionConfig, BlockConfig, NormConfig, RopeConfig, RopeLayout, RopeScaling};
use crate::weights::{GgufFile, ModelArgs, TensorNames, TensorSource as _};
use crate::{Error, Result};

use super::text_part::text_part;
use super::{gemma3, llama, olmo, qwen2};

/// The reference tabulates its rotation for so many positions.
const META_CONTEXT: usize = 128_000;

/// The architecture of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 2 and 3, Mistral, SmolLM2.
    Llama,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Gemma 3, text only.
    Gemma3,
    /// OLMo (the first one).
    Olmo,
}

impl Architecture {
    /// The name that checkpoints and the registry use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Gemma3 => "gemma3",
            Self::Olmo => "olmo",
        }
    }

    /// The architecture that a GGUF file or a `config.json` (`model_type`) names.
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "llama" | "mistral" => Some(Self::Llama),
            // Of Qwen's vision models, whose rotation is the usual one where all is text.
            "qwen2" | "qwen2_vl" | "qwen2_vl_text" | "qwen2_5_vl" | "qwen2_5_vl_text" => Some(Self::Qwen2),
            "gemma3" | "gemma3_text" => Some(Self::Gemma3),
            "olmo" => Some(Self::Olmo),
            _ => None,
        }
    }
}

/// Layers that see only the nearest keys.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalLayers {
    /// A query sees the keys less than this many positions back, itself included.
    pub window: usize,
    /// Every `period`-th layer is global, the others are local; `1` makes none local, and
    /// [`LocalLayers::ALL`] makes all local.
    pub period: usize,
    /// The rotation of local layers.
    pub rope: RopeConfig,
}

impl LocalLayers {
    /// The period of a model without global layers.
    pub const ALL: usize = usize::MAX;

    /// Whether a layer is local.
    #[must_use]
    pub fn contains(&self, layer: usize) -> bool {
        self.period == Self::ALL || !(layer + 1).is_multiple_of(self.period)
    }
}

/// What layers of one kind share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerKind<'a> {
    pub(crate) rope: &'a RopeConfig,
    /// A query sees the keys less than this many positions back, itself included; all without one.
    pub(crate) window: Option<usize>,
}

/// Everything that a forward pass needs to know besides the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The architecture.
    pub architecture: Architecture,
    /// The number of blocks.
    pub n_layers: usize,
    /// The shape of each block.
    pub block: BlockConfig,
    /// The rotation of global layers.
    pub rope: RopeConfig,
    /// Layers with a sliding window, if any.
    pub local: Option<LocalLayers>,
    /// What token embeddings are multiplied by (`√d` for Gemma).
    pub embedding_scale: Option<f64>,
    /// The longest context, in positions.
    pub context_length: usize,
}

/// How a checkpoint stores a configuration's weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// The names of the tensors.
    pub names: TensorNames,
    /// What to add to normalisation weights.
    pub norm_offset: f32,
    /// Whether the embedding table serves as the head where there is none.
    pub tied_head: bool,
}

impl Layout {
    /// GGUF, whose names do not depend on the architecture; it leaves out a head that is tied.
    pub(super) const GGUF: Self = Self { names: TensorNames::GGUF, norm_offset: 0.0, tied_head: true };
    /// Meta's names, which OLMo's own are mapped to as well.
    pub(super) const META: Self = Self { names: TensorNames::META, norm_offset: 0.0, tied_head: false };

    /// Hugging Face's, where every architecture has its own default for a field that is left out.
    pub(super) fn hugging_face(names: TensorNames, fields: &Fields, tied_by_default: bool) -> Result<Self> {
        let tied_head = fields.optional_bool("tie_word_embeddings")?.unwrap_or(tied_by_default);
        Ok(Self { names, norm_offset: 0.0, tied_head })
    }
}

impl DecoderConfig {
    /// Reads the configuration of a GGUF file.
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedArchitecture`], and [`Error::InvalidFile`] for a missing or senseless
    /// value.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let found = file.architecture()?;
        let architecture = Architecture::from_name(found).ok_or_else(|| unsupported(file.path(), found))?;
        let config = match architecture {
            Architecture::Llama => llama::from_gguf(file),
            Architecture::Qwen2 => qwen2::from_gguf(file),
            Architecture::Gemma3 => gemma3::from_gguf(file),
            Architecture::Olmo => olmo::from_gguf(file),
        }?;
        config.validate(file.path())
    }

    /// Reads a Hugging Face `config.json`, and how its checkpoint stores the weights. Of a multimodal
    /// model it is the text model's part.
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedArchitecture`], and [`Error::InvalidConfig`] for a missing, unknown or
    /// senseless value.
    pub(super) fn from_hugging_face(config: &Value, path: &Path) -> Result<(Self, Layout)> {
        let text = text_part(config);
        let fields = Fields { value: &text, path };
        let found = fields.str("model_type")?;
        let architecture = Architecture::from_name(found).ok_or_else(|| unsupported(path, found))?;
        let (config, layout) = match architecture {
            Architecture::Llama => llama::from_hugging_face(&fields),
            Architecture::Qwen2 => qwen2::from_hugging_face(&fields),
            Architecture::Gemma3 => gemma3::from_hugging_face(&fields),
            Architecture::Olmo => olmo::from_hugging_face(&fields),
        }?;
        Ok((config.validate(path)?, layout))
    }

    /// The configuration of a backbone in Meta's layout, which states no context length.
    #[must_use]
    pub fn from_meta(args: &ModelArgs) -> Self {
        let layout = if args.non_parametric_norm { RopeLayout::HalfSplit } else { RopeLayout::Interleaved };
        let epsilon = args.norm_eps;
        Self {
            architecture: if args.non_parametric_norm { Architecture::Olmo } else { Architecture::Llama },
            n_layers: args.n_layers,
            block: BlockConfig {
                d_model: args.dim,
                d_ff: args.hidden_dim,
                attention: AttentionConfig {
                    n_heads: args.n_heads,
                    n_kv_heads: args.n_kv_heads,
                    head_dim: args.head_dim,
                    scale: 1.0 / (args.head_dim as f64).sqrt(),
                },
                norm: if args.non_parametric_norm {
                    NormConfig::NonParametricLayer { epsilon }
                } else {
                    NormConfig::Rms { epsilon }
                },
                activation: Activation::Silu,
                sandwich: false,
                qk_norm: false,
                qkv_bias: false,
            },
            rope: RopeConfig::new(args.theta(), args.head_dim, layout),
            local: None,
            embedding_scale: None,
            context_length: META_CONTEXT,
        }
    }

    /// The kinds of layers: global ones, then local ones where there are any.
    pub(crate) fn layer_kinds(&self) -> Vec<LayerKind<'_>> {
        let local = self.local.as_ref();
        let local = local.map(|local| LayerKind { rope: &local.rope, window: Some(local.window) });
        [LayerKind { rope: &self.rope, window: None }].into_iter().chain(local).collect()
    }

    /// The kind of each layer, a place in [`DecoderConfig::layer_kinds`].
    pub(crate) fn kinds_of_layers(&self) -> Vec<usize> {
        let is_local = |layer| self.local.as_ref().is_some_and(|local| local.contains(layer));
        (0..self.n_layers).map(|layer| usize::from(is_local(layer))).collect()
    }

    /// The width of the model, and of the embeddings that it reads.
    #[must_use]
    pub fn d_model(&self) -> usize {
        self.block.d_model
    }

    /// Refuses values that no forward pass could run with.
    fn validate(self, path: &Path) -> Result<Self> {
        let attention = self.block.attention;
        let problem = if self.n_layers == 0 || self.block.d_model == 0 || self.block.d_ff == 0 {
            Some("layers and widths must be positive".to_owned())
        } else if attention.n_heads == 0
            || attention.n_kv_heads == 0
            || !attention.n_heads.is_multiple_of(attention.n_kv_heads)
        {
            Some(format!("{} query heads cannot share {} key heads", attention.n_heads, attention.n_kv_heads))
        } else if attention.head_dim == 0 || !attention.head_dim.is_multiple_of(2) {
            Some(format!("a head width of {} cannot be rotated", attention.head_dim))
        } else {
            None
        };
        match problem {
            None => Ok(self),
            Some(reason) => Err(Error::InvalidConfig { path: path.to_owned(), reason }),
        }
    }
}

fn unsupported(path: &Path, found: &str) -> Error {
    Error::UnsupportedArchitecture { path: path.to_owned(), found: found.to_owned() }
}

/// A JSON object whose fields are read with errors that name them.
pub(super) struct Fields<'a> {
    value: &'a Value,
    path: &'a Path,
}

impl<'a> Fields<'a> {
    /// A field that may be absent or `null`.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.value.get(name).filter(|value| !value.is_null())
    }

    /// A sub-object that may be absent.
    pub(super) fn object(&self, name: &str) -> Option<Fields<'a>> {
        self.get(name).filter(|value| value.is_object()).map(|value| Fields { value, path: self.path })
    }

    /// A positive integer.
    pub(super) fn usize(&self, name: &str) -> Result<usize> {
        self.optional_usize(name)?.ok_or_else(|| self.error(format!("field `{name}` is missing")))
    }

    /// A positive integer that may be absent.
    pub(super) fn optional_usize(&self, name: &str) -> Result<Option<usize>> {
        self.get(name)
            .map(|value| {
                value
                    .as_u64()
                    .and_then(|number| usize::try_from(number).ok())
                    .ok_or_else(|| self.error(format!("field `{name}` is {value}, expected a whole number")))
            })
            .transpose()
    }

    /// A number.
    pub(super) fn f64(&self, name: &str) -> Result<f64> {
        self.optional_f64(name)?.ok_or_else(|| self.error(format!("field `{name}` is missing")))
    }

    /// A number that may be absent.
    pub(super) fn optional_f64(&self, name: &str) -> Result<Option<f64>> {
        self.get(name)
            .map(|value| {
                value
                    .as_f64()
                    .ok_or_else(|| self.error(format!("field `{name}` is {value}, expected a number")))
            })
            .transpose()
    }

    /// Yes or no, which may be absent.
    pub(super) fn optional_bool(&self, name: &str) -> Result<Option<bool>> {
        self.get(name)
            .map(|value| {
                value
                    .as_bool()
                    .ok_or_else(|| self.error(format!("field `{name}` is {value}, expected true or false")))
            })
            .transpose()
    }

    /// Refuses a field that asks for what is not implemented: it is `only`, `null` or absent.
    pub(super) fn expect_only(&self, name: &str, only: impl Into<Value>) -> Result<()> {
        let only = only.into();
        match self.get(name) {
            // `1` and `1.0` are two JSON values and one number.
            Some(found)
                if *found != only && (found.as_f64().is_none() || found.as_f64() != only.as_f64()) =>
            {
                Err(self.error(format!("field `{name}` is {found}, only {only} is supported")))
            }
            _ => Ok(()),
        }
    }

    /// Whether a field is there, be it `null`.
    pub(super) fn states(&self, name: &str) -> bool {
        self.value.get(name).is_some()
    }

    /// A text.
    pub(super) fn str(&self, name: &str) -> Result<&'a str> {
        self.get(name)
            .and_then(Value::as_str)
            .ok_or_else(|| self.error(format!("field `{name}` is missing or not a text")))
    }

    /// An error about this file.
    pub(super) fn error(&self, reason: String) -> Error {
        Error::InvalidConfig { path: PathBuf::from(self.path), reason }
    }
}

/// The values that every GGUF architecture states under its own prefix.
pub(super) struct GgufFields<'a> {
    file: &'a GgufFile,
    prefix: &'a str,
}

impl<'a> GgufFields<'a> {
    /// The values under `prefix.`.
    pub(super) fn new(file: &'a GgufFile, prefix: &'a str) -> Self {
        Self { file, prefix }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// A whole number.
    pub(super) fn usize(&self, name: &str) -> Result<usize> {
        Ok(self.file.u32(&self.key(name))? as usize)
    }

    /// A whole number that may be absent.
    pub(super) fn optional_usize(&self, name: &str) -> Result<Option<usize>> {
        self.file.meta(&self.key(name)).is_some().then(|| self.usize(name)).transpose()
    }

    /// A number.
    pub(super) fn f64(&self, name: &str) -> Result<f64> {
        Ok(f64::from(self.file.f32(&self.key(name))?))
    }

    /// A number that may be absent.
    pub(super) fn optional_f64(&self, name: &str) -> Result<Option<f64>> {
        self.file.meta(&self.key(name)).is_some().then(|| self.f64(name)).transpose()
    }

    /// A text that may be absent.
    fn optional_str(&self, name: &str) -> Result<Option<&'a str>> {
        let key = self.key(name);
        self.file.meta(&key).is_some().then(|| self.file.str(&key)).transpose()
    }

    /// Refuses a limit on intermediate values, which no forward pass here applies; 0 is none.
    pub(super) fn expect_no_limit(&self, name: &str) -> Result<()> {
        match self.optional_f64(name)? {
            Some(limit) if limit > 0.0 => {
                Err(self.error(format!("`{}` is {limit}; clamped values are not supported", self.key(name))))
            }
            _ => Ok(()),
        }
    }

    /// The base, width and scaling of a rotation; llama.cpp reads the keys by the same rules.
    pub(super) fn rope(&self, theta: f64, head_dim: usize, layout: RopeLayout) -> Result<RopeConfig> {
        if let Some(rotated) = self.optional_usize("rope.dimension_count")?
            && rotated != head_dim
        {
            let key = self.key("rope.dimension_count");
            return Err(self.error(format!(
                "`{key}` is {rotated}, only heads rotated whole, {head_dim}, are supported"
            )));
        }
        let mut rope =
            RopeConfig::new(self.optional_f64("rope.freq_base")?.unwrap_or(theta), head_dim, layout);
        let factor = match self.optional_f64("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            // The key's first name.
            None => self.optional_f64("rope.scale_linear")?,
        };
        rope.scaling = match self.optional_str("rope.scaling.type")? {
            None | Some("linear") => {
                factor.filter(|&factor| factor != 0.0).map(|factor| RopeScaling::Linear { factor })
            }
            Some("none") => None,
            Some(other) => {
                let key = self.key("rope.scaling.type");
                return Err(self.error(format!("`{key}` is `{other}`, only `linear` is supported")));
            }
        };
        Ok(rope)
    }

    /// An error about this file's configuration.
    fn error(&self, reason: String) -> Error {
        Error::InvalidConfig { path: self.file.path().to_owned(), reason }
    }
}
