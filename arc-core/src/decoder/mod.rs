//! Decoders: frozen language models that read tokens and latents.
//!
//! One file per architecture states how its checkpoints configure it; [`Transformer`] runs them
//! all. A decoder of a known architecture needs no code: it is a folder and a registry entry.

mod config;
mod gemma3;
mod generate;
mod kv_cache;
mod llama;
mod olmo;
mod qwen2;
mod throughput;
mod transformer;

use std::path::{Path, PathBuf};

use burn::tensor::Device;

pub use config::{Architecture, DecoderConfig, LocalLayers};
pub use generate::{FinishReason, GenerateOptions, Generation, Generations, Prefix, Timings, TokenScore};
pub use kv_cache::KvCache;
pub use throughput::Throughput;
pub use transformer::Transformer;

use crate::Result;
use crate::chat_template::ChatTemplate;
use crate::nn::Residence;
use crate::tokenizer::Tokenizer;
use crate::weights::{GgufFile, HfFolder, RawTensor, TensorNames, TensorSource};

/// A language model with its tokenizer, under the name that the registry gives it.
#[derive(Debug)]
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
    path: PathBuf,
}

impl Decoder {
    /// Loads a GGUF file, or a Hugging Face folder, for inference.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the file, by name: see [`crate::Error`].
    pub fn open(name: &str, path: &Path, device: &Device) -> Result<Self> {
        Self::open_as(name, path, device, Residence::for_inference(device))
    }

    /// Loads a model with its weights packed or dense.
    ///
    /// # Errors
    ///
    /// As [`Decoder::open`].
    pub fn open_as(name: &str, path: &Path, device: &Device, residence: Residence) -> Result<Self> {
        let (network, tokenizer, chat_template, embedding_table) = if path.is_dir() {
            let folder = HfFolder::open(path)?;
            (
                Transformer::from_hugging_face(&folder, device, residence)?,
                Tokenizer::from_file(path.join("tokenizer.json"))?,
                ChatTemplate::from_folder(path)?,
                folder.tensor(TensorNames::HUGGING_FACE.embedding)?,
            )
        } else {
            let file = GgufFile::open(path)?;
            (
                Transformer::from_gguf(&file, device, residence)?,
                Tokenizer::from_gguf(&file)?,
                ChatTemplate::from_gguf(&file)?,
                file.tensor(TensorNames::GGUF.embedding)?,
            )
        };
        Ok(Self {
            name: name.to_owned(),
            network,
            tokenizer,
            chat_template,
            embedding_table,
            path: path.to_owned(),
        })
    }

    /// The file or folder that the model was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The sha256 of the input-embedding table as stored: what an adapter was fitted to.
    #[must_use]
    pub fn embedding_sha256(&self) -> String {
        self.embedding_table.sha256()
    }
}
