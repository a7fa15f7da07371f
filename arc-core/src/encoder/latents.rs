//! Latents on their own: what an encoder made of a text, kept in memory or in a file.

use std::io::Write as _;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, TensorView, serialize};

use crate::atomic_file::write_atomically;
use crate::weights::{SafetensorsFile, TensorSource};
use crate::{Error, Result};

/// The version of the file format that this build writes and reads.
const SCHEMA: &str = "1";

/// The latents of one text, decoder-agnostic.
#[derive(Clone, Debug)]
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

    /// Writes a latents file (`*.arc.safetensors`), complete or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let [n, d] = self.values.dims();
        let data = self.values.to_data().convert::<f32>();
        let values: &[u8] = bytemuck::cast_slice(data.as_slice::<f32>().expect("converted to f32"));
        let invalid = |error: safetensors::SafeTensorError| Error::InvalidFile {
            path: path.to_owned(),
            format: "latents",
            reason: error.to_string(),
        };
        let latents = TensorView::new(Dtype::F32, vec![n, d], values).map_err(invalid)?;
        let metadata = [
            ("format", "arc-latents".to_owned()),
            ("schema", SCHEMA.to_owned()),
            ("encoder_id", self.encoder_id.clone()),
            ("factor", self.factor.to_string()),
            ("chunk_lengths", serde_json::json!(self.chunk_lengths).to_string()),
            ("source_tokens", self.source_tokens.to_string()),
            ("text_sha256", self.text_sha256.clone()),
        ]
        .map(|(key, value)| (key.to_owned(), value));
        let bytes =
            serialize([("latents", latents)], Some(metadata.into_iter().collect())).map_err(invalid)?;
        write_atomically(path, |file| file.write_all(&bytes).map_err(Error::io("write", path)))
    }

    /// Reads a latents file onto a device.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and [`Error::InvalidFile`] for a file that is cut off, corrupt or no latents
    /// file.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let invalid =
            |reason: String| Error::InvalidFile { path: path.to_owned(), format: "latents", reason };
        let file = SafetensorsFile::open(path).map_err(|error| match error {
            Error::InvalidFile { reason, .. } => invalid(reason),
            other => other,
        })?;
        let field = |key: &str| {
            file.meta(key).map(str::to_owned).ok_or_else(|| invalid(format!("its metadata has no `{key}`")))
        };
        let number = |key: &str| -> Result<usize> {
            let text = field(key)?;
            text.parse().map_err(|_| invalid(format!("its `{key}` is `{text}`, expected a number")))
        };
        let schema = field("schema")?;
        if schema != SCHEMA {
            return Err(invalid(format!("its schema is `{schema}`, this build reads `{SCHEMA}`")));
        }
        let latents = file.tensor("latents")?;
        let &[n, d] = latents.shape() else {
            return Err(invalid(format!("`latents` has shape {:?}, expected [n, d]", latents.shape())));
        };
        if n == 0 || d == 0 {
            return Err(invalid(format!("`latents` has shape [{n}, {d}], which holds nothing")));
        }
        let values = latents.to_f32();
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            return Err(invalid(format!("latent {} is not finite", place / d)));
        }
        let chunk_lengths: Vec<usize> = serde_json::from_str(&field("chunk_lengths")?)
            .map_err(|error| invalid(format!("its `chunk_lengths` cannot be read: {error}")))?;
        if chunk_lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length)) != Some(n) {
            return Err(invalid(format!("its chunk lengths do not add up to its {n} latents")));
        }
        Ok(Self {
            values: Tensor::from_data(TensorData::new(values, [n, d]), device),
            chunk_lengths,
            encoder_id: field("encoder_id")?,
            factor: number("factor")?,
            source_tokens: number("source_tokens")?,
            text_sha256: field("text_sha256")?,
        })
    }
}
