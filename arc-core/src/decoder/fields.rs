//! The values that a model's files state, read with errors that name them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::nn::{RopeConfig, RopeLayout, RopeScaling};
use crate::weights::{GgufFile, TensorSource as _};
use crate::{Error, Result};

/// A JSON object whose fields are read with errors that name them.
pub(super) struct ConfigFields<'a> {
    value: &'a Value,
    path: &'a Path,
}

impl<'a> ConfigFields<'a> {
    /// The fields of the object `value` of the file `path`.
    pub(super) fn new(value: &'a Value, path: &'a Path) -> Self {
        Self { value, path }
    }

    /// A field that may be absent or `null`.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.value.get(name).filter(|value| !value.is_null())
    }

    /// A sub-object that may be absent.
    pub(super) fn object(&self, name: &str) -> Option<ConfigFields<'a>> {
        self.get(name).filter(|value| value.is_object()).map(|value| ConfigFields { value, path: self.path })
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

/// The scaling that an object of rotation parameters asks for.
pub(super) fn rope_scaling(fields: &ConfigFields<'_>) -> Result<Option<RopeScaling>> {
    fields.expect_only("partial_rotary_factor", 1.0)?;
    let kind = fields.get("rope_type").or_else(|| fields.get("type")).and_then(|kind| kind.as_str());
    match kind {
        None | Some("default") => Ok(None),
        // Qwen's vision models rotate by time, height and width, which are one and the same in text.
        Some("mrope") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear { factor: fields.f64("factor")? })),
        Some("llama3") => Ok(Some(RopeScaling::Llama3 {
            factor: fields.f64("factor")?,
            low_freq_factor: fields.f64("low_freq_factor")?,
            high_freq_factor: fields.f64("high_freq_factor")?,
            original_context: fields.f64("original_max_position_embeddings")?,
        })),
        Some(other) => Err(fields.error(format!("rotation scaling `{other}` is not supported"))),
    }
}
