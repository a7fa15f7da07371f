//! A language model's files in any layout that is known, opened and not read.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::architecture::{Architecture, of_gguf, of_hugging_face};
use super::config::DecoderConfig;
use super::stored_form::StoredForm;
use crate::nn::{Activation, AttentionConfig, BlockConfig, NormConfig, RopeConfig, RopeLayout};
use crate::prompt::ChatTemplate;
use crate::tokenizer::Tokenizer;
use crate::weights::{GgufFile, HfFolder, MetaFolder, ModelArgs, RawTensor, TensorNames, TensorSource};
use crate::{Error, Result};

/// The reference tabulates its rotation for so many positions.
const META_CONTEXT: usize = 128_000;

/// A GGUF file, or a folder in Hugging Face's, Meta's or OLMo's own layout.
pub(crate) struct DecoderCheckpoint {
    path: PathBuf,
    files: Files,
    config: DecoderConfig,
    form: StoredForm,
}

enum Files {
    Gguf(GgufFile),
    HuggingFace(HfFolder),
    Meta(MetaFolder),
}

/// Tokenizers in formats that are not read, by the names that they have in published folders.
const OTHER_TOKENIZERS: [(&str, &str); 7] = [
    ("tokenizer.model", "a SentencePiece model, or a tiktoken vocabulary"),
    ("tokenizer.model.v3", "a SentencePiece model"),
    ("spiece.model", "a SentencePiece model"),
    ("tekken.json", "a tekken vocabulary"),
    ("qwen.tiktoken", "a tiktoken vocabulary"),
    ("vocab.txt", "a WordPiece vocabulary"),
    ("vocab.json", "a vocabulary without its steps"),
];

impl DecoderCheckpoint {
    /// Opens a GGUF file, a folder, or the folder that a safetensors file or its index is in.
    ///
    /// A folder with `params.json` is in Meta's layout, which Mistral shares and where OLMo's own
    /// names are found too; any other is Hugging Face's.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the files or their configuration, by name.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let folder = folder_of(path);
        let (files, config, form) = match &folder {
            None => {
                let file = GgufFile::open(path)?;
                let config = DecoderConfig::from_gguf(&file)?;
                (Files::Gguf(file), config, StoredForm::GGUF)
            }
            Some(folder) if folder.join("params.json").exists() => {
                let folder = MetaFolder::open(folder)?;
                let config = DecoderConfig::from_meta(folder.args());
                (Files::Meta(folder), config, StoredForm::META)
            }
            Some(folder) => {
                let folder = if path.is_dir() { HfFolder::open(folder) } else { HfFolder::open_file(path) }?;
                let (config, form) =
                    DecoderConfig::from_hugging_face(folder.config(), &folder.config_path())?;
                (Files::HuggingFace(folder), config, form)
            }
        };
        Ok(Self { path: folder.unwrap_or_else(|| path.to_owned()), files, config, form })
    }

    /// The same model with its positions rotated as if it had not been stretched.
    pub(crate) fn without_rope_scaling(mut self) -> Self {
        let local = self.config.local.as_mut().map(|local| &mut local.rope);
        for rope in std::iter::once(&mut self.config.rope).chain(local) {
            rope.unscale();
        }
        self
    }

    /// What the model computes.
    pub(crate) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// What the checkpoint calls its tensors, and how it stores norms.
    pub(super) fn form(&self) -> &StoredForm {
        &self.form
    }

    /// What the checkpoint calls its tensors.
    pub(crate) fn names(&self) -> &TensorNames {
        &self.form.names
    }

    /// What to add to normalisation weights.
    pub(crate) fn norm_offset(&self) -> f32 {
        self.form.norm_offset
    }

    /// Its tensors.
    pub(crate) fn source(&self) -> &dyn TensorSource {
        match &self.files {
            Files::Gguf(file) => file,
            Files::HuggingFace(folder) => folder,
            Files::Meta(folder) => folder,
        }
    }

    /// The table of token embeddings, as stored.
    ///
    /// # Errors
    ///
    /// [`crate::Error::MissingTensor`].
    pub(crate) fn embedding_table(&self) -> Result<RawTensor> {
        self.source().tensor(self.names().embedding)
    }

    /// The tokenizer that is in the file, or beside the weights as `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::from_gguf`] and [`Tokenizer::from_file`]; [`Error::Tokenizer`] that names what is
    /// there in place of a `tokenizer.json`.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        if let Files::Gguf(file) = &self.files {
            return Tokenizer::from_gguf(file);
        }
        let path = self.path.join("tokenizer.json");
        let others = OTHER_TOKENIZERS.iter().filter(|_| !path.exists());
        let mut others = others.map(|(name, what)| (self.path.join(name), what));
        match others.find(|(other, _)| other.exists()) {
            Some((other, what)) => Err(Error::Tokenizer {
                path: other,
                reason: format!(
                    "it is {what}, which is not read; a registry entry can name a `tokenizer.json`"
                ),
            }),
            None => Tokenizer::from_file(path),
        }
    }

    /// The chat template, where there is one.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::from_folder`].
    pub(crate) fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        match &self.files {
            Files::Gguf(file) => Ok(ChatTemplate::from_gguf(file)),
            _ => ChatTemplate::from_folder(&self.path),
        }
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
        of_gguf(file)?.validate(file.path())
    }

    /// Reads a Hugging Face `config.json`, and how its checkpoint stores the weights. Of a multimodal
    /// model it is the text model's part.
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedArchitecture`], and [`Error::InvalidConfig`] for a missing, unknown or
    /// senseless value.
    pub(super) fn from_hugging_face(config: &Value, path: &Path) -> Result<(Self, StoredForm)> {
        let (config, form) = of_hugging_face(config, path)?;
        Ok((config.validate(path)?, form))
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

/// The folder of a checkpoint that is one; nothing for a single file that stands alone.
fn folder_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    if path.is_dir() {
        Some(path.to_owned())
    } else if name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
        path.parent().map(Path::to_owned)
    } else {
        None
    }
}
