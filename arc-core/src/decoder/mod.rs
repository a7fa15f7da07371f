//! Decoders: frozen language models that read tokens and latents.
//!
//! One file per architecture states how its checkpoints configure it, and one line of a table names it; [`Transformer`] runs them
//! all. A decoder of a known architecture needs no code: it is a folder and a registry entry.

mod architecture;
mod checkpoint;
mod config;
mod divergence;
mod fields;
mod gemma3;
mod generate;
mod graph;
mod host;
mod kv_cache;
mod llama;
mod olmo;
mod prefix;
mod qwen2;
mod qwen3;
mod reading;
mod smollm3;
mod stored;
mod stored_form;
mod text_part;
mod throughput;
mod transformer;
mod writing;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use arc_adapters::{
    DecoderEntry, DecoderPin, RopeScalingOption, is_sha256_hex, setters, sha256_file, sha256_hex,
    write_atomically,
};
use burn::tensor::Device;

pub use architecture::Architecture;
pub(crate) use checkpoint::DecoderCheckpoint;
pub use config::{DecoderConfig, LocalLayers};
pub use divergence::Divergence;
pub(crate) use generate::PREFILL_CHUNK;
pub use generate::{FinishReason, GenerateOptions, Generation, Generations, Timings, TokenScore};

pub use kv_cache::KvCache;
pub use prefix::Prefix;
pub(crate) use prefix::described;
pub use reading::Reading;
pub use throughput::Throughput;
pub(crate) use throughput::ordinary_ids;
pub use transformer::Transformer;
pub use writing::Writing;

use crate::bounded_file::{NOTE, read_text};
use crate::hub::KnownContent;
use crate::nn::{Precision, Residence};
use crate::prompt::ChatTemplate;
use crate::tokenizer::Tokenizer;
use crate::weights::{PartName, RawTensor};
use crate::{Error, Result};

/// What a registry says of a model that its files do not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ModelSettings {
    /// A `tokenizer.json`, in place of the one in or beside the model's file.
    pub tokenizer: Option<PathBuf>,
    /// Rotates positions without the scaling that the checkpoint states.
    pub unscaled_rope: bool,
}

setters!(ModelSettings {
    tokenizer: Option<PathBuf>,
    unscaled_rope: bool,
});

impl ModelSettings {
    /// What an entry says; `tokenizer` is where the file is that it names.
    #[must_use]
    pub fn of_entry(entry: &DecoderEntry, tokenizer: Option<PathBuf>) -> Self {
        Self { tokenizer, unscaled_rope: entry.options.rope_scaling == RopeScalingOption::None }
    }
}

/// A language model with its tokenizer, under the name that the registry gives it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Decoder {
    /// The registry's name.
    pub name: String,
    /// The forward pass.
    pub network: Transformer,
    /// Text to token ids and back.
    pub tokenizer: Tokenizer,
    /// How a conversation becomes a prompt; base models have none.
    pub chat_template: Option<ChatTemplate>,
    embedding_table: RawTensor,
    /// Hashing a table of 60 MB takes longer than all else that an adapter's first use does.
    embedding_sha256: OnceLock<String>,
    /// What is known of the model's content without reading it.
    known_content: Option<KnownContent>,
    path: PathBuf,
    settings: ModelSettings,
}

impl Decoder {
    /// Loads a GGUF file, or a folder in Hugging Face's, Meta's or OLMo's layout, for exact inference.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the file, by name: see [`crate::Error`].
    pub fn open(name: &str, path: &Path, device: &Device) -> Result<Self> {
        Self::open_as(name, path, device, Residence::for_inference(device, Precision::Exact))
    }

    /// Loads a model with its weights packed or dense.
    ///
    /// # Errors
    ///
    /// As [`Decoder::open`].
    pub fn open_as(name: &str, path: &Path, device: &Device, residence: Residence) -> Result<Self> {
        Self::open_with(name, path, ModelSettings::default(), device, residence)
    }

    /// Loads a model as a registry says to.
    ///
    /// # Errors
    ///
    /// As [`Decoder::open`].
    pub fn open_with(
        name: &str,
        path: &Path,
        settings: ModelSettings,
        device: &Device,
        residence: Residence,
    ) -> Result<Self> {
        let mut checkpoint = DecoderCheckpoint::open(path)?;
        if settings.unscaled_rope {
            checkpoint = checkpoint.without_rope_scaling();
        }
        let tokenizer = || match &settings.tokenizer {
            Some(path) => Tokenizer::from_file(path),
            None => checkpoint.tokenizer(),
        };
        // A vocabulary takes one thread about as long as the weights take another.
        let (network, tokenizer) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(tokenizer);
            let network = Transformer::from_checkpoint(&checkpoint, device, residence);
            (network, tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        Ok(Self {
            name: name.to_owned(),
            network: network?,
            tokenizer: tokenizer?,
            chat_template: checkpoint.chat_template()?,
            embedding_table: checkpoint.embedding_table()?,
            embedding_sha256: OnceLock::new(),
            known_content: None,
            path: path.to_owned(),
            settings,
        })
    }

    /// Loads the same model again, on the same terms, with its weights packed or dense.
    ///
    /// # Errors
    ///
    /// As [`Decoder::open`].
    pub fn reopen(&self, device: &Device, residence: Residence) -> Result<Self> {
        Self::open_with(&self.name, &self.path, self.settings.clone(), device, residence)
    }

    /// The file or folder that the model was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The sha256 of the model's file, or of the names and hashes of its files where it is several: the
    /// parts of a GGUF file, else all that lie beside each other. Read anew with each call.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Io`] or [`crate::Error::Adapter`] if a file cannot be read.
    pub fn files_sha256(&self) -> Result<String> {
        if self.is_one_file() {
            return Ok(sha256_file(&self.path)?);
        }
        let folder = if self.path.is_dir() { &self.path } else { self.path.parent().unwrap_or(&self.path) };
        let mut files = match gguf_parts(&self.path) {
            Some(parts) => parts,
            None => std::fs::read_dir(folder)
                .and_then(|entries| {
                    entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()
                })
                .map_err(Error::io("read", folder))?,
        };
        // What the cache notes of a pull is no part of the model.
        files.retain(|file| file.is_file() && !file.to_string_lossy().ends_with(".pulled.json"));
        files.sort();
        let hashes = files
            .iter()
            .map(|file| Ok((file.file_name().unwrap_or_default().to_string_lossy(), sha256_file(file)?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(sha256_hex(serde_json::json!(hashes).to_string().as_bytes()))
    }

    /// Whether the path is all of the model, so that the hash of what lies there says which it is.
    #[must_use]
    pub fn is_one_file(&self) -> bool {
        // Safetensors have their configuration, and an index has its weights, in files beside them.
        let of_several = |extension: &std::ffi::OsStr| extension == "safetensors" || extension == "json";
        self.path.is_file()
            && !self.path.extension().is_some_and(of_several)
            && gguf_parts(&self.path).is_none()
    }

    /// What an adapter for it pins.
    #[must_use]
    pub fn pin(&self) -> DecoderPin {
        DecoderPin::new(&self.name, self.network.config().architecture.name())
            .embedding_sha256(self.embedding_sha256().to_owned())
            .tokenizer_sha256(self.tokenizer.sha256().to_owned())
    }

    /// The same, of a file whose content is known. It is all of the model, or it says nothing of it.
    pub(crate) fn with_known_content(self, known: Option<KnownContent>) -> Self {
        Self { known_content: known.filter(|_| self.is_one_file()), ..self }
    }

    /// The sha256 of the input-embedding table as stored: what an adapter was fitted to. Computed
    /// when first asked for.
    #[must_use]
    pub fn embedding_sha256(&self) -> &str {
        self.embedding_sha256.get_or_init(|| {
            let Some(KnownContent { embedding_note: note, .. }) = &self.known_content else {
                return self.embedding_table.sha256();
            };
            let noted = read_text(note, NOTE).ok();
            noted.filter(|noted| is_sha256_hex(noted)).unwrap_or_else(|| {
                let sha256 = self.embedding_table.sha256();
                // Where nothing can be noted it is computed each time.
                let folder = note.parent().map_or(Ok(()), std::fs::create_dir_all);
                let _ = folder.map(|()| {
                    write_atomically(note, |file| {
                        file.write_all(sha256.as_bytes()).map_err(Error::io("write", note))
                    })
                });
                sha256
            })
        })
    }
}

/// The files of a GGUF model that was cut into several, if `path` is one of them by its name.
fn gguf_parts(path: &Path) -> Option<Vec<PathBuf>> {
    let name = PartName::parse(path.file_name()?.to_str()?)?;
    let parts = name.all().into_iter().map(|name| path.with_file_name(name));
    (name.extension() == "gguf" && name.count > 1).then(|| parts.collect())
}
