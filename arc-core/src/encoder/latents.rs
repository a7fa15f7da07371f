//! Latents on their own: what an encoder made of a text, kept in memory or in a file.

use std::io::Write as _;
use std::path::Path;

use arc_adapters::sha256_hex;
use burn::tensor::{Device, Tensor};
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::latents_file::LATENTS;
use super::{LatentsDescription, LatentsFile};
use crate::{Error, Result};
use arc_adapters::{write_atomically, write_new_atomically};

/// The latents of one text, decoder-agnostic.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Latents {
    /// `[n, d_encoder]`, the chunks one after the other.
    pub values: Tensor<2>,
    /// How many latents each chunk of the text has.
    pub chunk_lengths: Vec<usize>,
    /// The identity of the encoder that made them.
    pub encoder_id: String,
    /// How many tokens a latent stands for, at most.
    pub factor: usize,
    /// How many encoder tokens the text had.
    pub source_tokens: usize,
    /// The sha256 of the text's UTF-8 bytes.
    pub text_sha256: String,
    /// Whether similar states were merged (k-means), which may leave fewer latents than `factor` says.
    pub merged: bool,
}

impl Latents {
    /// The number of latents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.dims()[0]
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes a latents file (`*.arc.safetensors`), complete or not at all, in the place of what is there.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let bytes = self.to_bytes(path)?;
        write_atomically(path, |file| file.write_all(&bytes).map_err(Error::io("write", path)))
    }

    /// The same where nothing is there yet, not even a link.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be written, or something of that name is there.
    pub fn save_new(&self, path: &Path) -> Result<()> {
        let bytes = self.to_bytes(path)?;
        write_new_atomically(path, |file| file.write_all(&bytes).map_err(Error::io("write", path)))
    }

    /// What a file of them says that it is of: to write one with [`LatentsWriter`](super::LatentsWriter).
    #[must_use]
    pub fn description(&self) -> LatentsDescription {
        LatentsDescription {
            encoder_id: self.encoder_id.clone(),
            factor: self.factor,
            chunk_lengths: self.chunk_lengths.clone(),
            source_tokens: self.source_tokens,
            text_sha256: self.text_sha256.clone(),
            merged: self.merged,
        }
    }

    /// What [`Latents::save`] writes, for those who send it elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFile`] for latents that no file can describe.
    pub fn to_file_bytes(&self) -> Result<Vec<u8>> {
        self.to_bytes(Path::new("latents"))
    }

    /// The file, which is called `path` in errors.
    fn to_bytes(&self, path: &Path) -> Result<Vec<u8>> {
        let [n, d] = self.values.dims();
        let data = self.values.to_data().convert::<f32>();
        let values: &[u8] = bytemuck::cast_slice(data.as_slice::<f32>().expect("converted to f32"));
        let invalid = |error: safetensors::SafeTensorError| Error::InvalidFile {
            path: path.to_owned(),
            format: "latents",
            reason: error.to_string(),
        };
        let latents = TensorView::new(Dtype::F32, vec![n, d], values).map_err(invalid)?;
        let metadata = self.description().metadata(&sha256_hex(values)).into_iter();
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).collect();
        serialize([(LATENTS, latents)], Some(metadata)).map_err(invalid)
    }

    /// Reads a latents file onto a device.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and [`Error::InvalidFile`] for a file that is cut off, corrupt or no latents
    /// file, or that says of itself what cannot be.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        LatentsFile::open(path)?.read(device)
    }
}
