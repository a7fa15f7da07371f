//! The architectures that are read: a file each, and a line each in the table below.

use std::path::Path;

use serde_json::Value;

use super::config::DecoderConfig;
use super::fields::ConfigFields;
use super::stored_form::StoredForm;
use super::text_part::text_part;
use super::{gemma3, llama, olmo, qwen2, qwen3, smollm3};
use crate::weights::{GgufFile, TensorSource as _};
use crate::{Error, Result};

/// Makes [`Architecture`] of a table: a variant, the module that reads its configuration, the name that
/// checkpoints and the registry use, and others that a `config.json` may have for it.
macro_rules! architectures {
    ($($(#[doc = $doc:literal])+ $variant:ident in $module:ident: $name:literal $(| $other:literal)*;)+) => {
        /// The architecture of a decoder.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Architecture {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Architecture {
            /// The name that checkpoints and the registry use.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// The architecture that a GGUF file or a `config.json` (`model_type`) names.
            fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name $(| $other)* => Some(Self::$variant),)+
                    _ => None,
                }
            }

            fn read_gguf(self, file: &GgufFile) -> Result<DecoderConfig> {
                match self {
                    $(Self::$variant => $module::from_gguf(file),)+
                }
            }

            fn read_hugging_face(self, fields: &ConfigFields<'_>) -> Result<(DecoderConfig, StoredForm)> {
                match self {
                    $(Self::$variant => $module::from_hugging_face(fields),)+
                }
            }
        }
    };
}

architectures! {
    /// Llama 2 and 3, Mistral, SmolLM2.
    Llama in llama: "llama" | "mistral";
    /// Qwen 2 and 2.5, and the text of its vision models, whose rotation is the usual one then.
    Qwen2 in qwen2: "qwen2" | "qwen2_vl" | "qwen2_vl_text" | "qwen2_5_vl" | "qwen2_5_vl_text";
    /// Qwen 3, dense.
    Qwen3 in qwen3: "qwen3";
    /// SmolLM3.
    SmolLm3 in smollm3: "smollm3";
    /// Gemma 3, text only.
    Gemma3 in gemma3: "gemma3" | "gemma3_text";
    /// OLMo (the first one).
    Olmo in olmo: "olmo";
}

/// Reads the configuration of a GGUF file.
///
/// # Errors
///
/// [`Error::UnsupportedArchitecture`], and [`Error::InvalidFile`] for a missing or senseless value.
pub(super) fn of_gguf(file: &GgufFile) -> Result<DecoderConfig> {
    let found = file.architecture()?;
    let architecture = Architecture::from_name(found).ok_or_else(|| unsupported(file.path(), found))?;
    architecture.read_gguf(file)
}

/// Reads a Hugging Face `config.json`, and how its checkpoint stores the weights. Of a multimodal model it
/// is the text model's part.
///
/// # Errors
///
/// [`Error::UnsupportedArchitecture`], and [`Error::InvalidConfig`] for a missing, unknown or senseless
/// value.
pub(super) fn of_hugging_face(config: &Value, path: &Path) -> Result<(DecoderConfig, StoredForm)> {
    let text = text_part(config);
    let fields = ConfigFields::new(&text, path);
    let found = fields.str("model_type")?;
    let architecture = Architecture::from_name(found).ok_or_else(|| unsupported(path, found))?;
    architecture.read_hugging_face(&fields)
}

fn unsupported(path: &Path, found: &str) -> Error {
    Error::UnsupportedArchitecture { path: path.to_owned(), found: found.to_owned() }
}
