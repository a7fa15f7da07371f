//! Latents on their own: what an encoder made of a text, kept in memory or in a file.

use std::io::Write as _;
use std::path::Path;

use arc_adapters::{is_sha256_hex, sha256_hex};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, TensorView, serialize};

use crate::weights::{SafetensorsFile, TensorSource};
use crate::{Error, Result};
use arc_adapters::{write_atomically, write_new_atomically};

/// The version of the file format that this build writes and reads.
const SCHEMA: &str = "1";

/// What a latents file calls itself.
const FORMAT: &str = "arc-latents";

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
        let metadata = [
            ("format", FORMAT.to_owned()),
            ("schema", SCHEMA.to_owned()),
            ("encoder_id", self.encoder_id.clone()),
            ("factor", self.factor.to_string()),
            ("chunk_lengths", serde_json::json!(self.chunk_lengths).to_string()),
            ("source_tokens", self.source_tokens.to_string()),
            ("text_sha256", self.text_sha256.clone()),
            ("values_sha256", sha256_hex(values)),
        ]
        .map(|(key, value)| (key.to_owned(), value));
        serialize([("latents", latents)], Some(metadata.into_iter().collect())).map_err(invalid)
    }

    /// Reads a latents file onto a device.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and [`Error::InvalidFile`] for a file that is cut off, corrupt or no latents
    /// file, or that says of itself what cannot be.
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
        if let Some(format) = file.meta("format").filter(|&format| format != FORMAT) {
            return Err(invalid(format!("its format is `{format}`, expected `{FORMAT}`")));
        }
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
        // Files that were made before have no checksum of the values.
        if let Some(expected) = file.meta("values_sha256")
            && expected != sha256_hex(bytemuck::cast_slice(&values))
        {
            return Err(invalid("its values are not those that it was made with".into()));
        }
        let chunk_lengths: Vec<usize> = serde_json::from_str(&field("chunk_lengths")?)
            .map_err(|error| invalid(format!("its `chunk_lengths` cannot be read: {error}")))?;
        if let Some(other) = file.names().into_iter().find(|&name| name != "latents") {
            return Err(invalid(format!("it has a tensor `{other}` beside `latents`")));
        }
        let latents = Self {
            values: Tensor::from_data(TensorData::new(values, [n, d]), device),
            chunk_lengths,
            encoder_id: field("encoder_id")?,
            factor: number("factor")?,
            source_tokens: number("source_tokens")?,
            text_sha256: field("text_sha256")?,
        };
        latents.contradiction().map_or(Ok(latents), |reason| Err(invalid(reason)))
    }

    /// What these latents say of themselves and no encoder could have made, if there is such a thing.
    fn contradiction(&self) -> Option<String> {
        let (n, factor, tokens) = (self.len(), self.factor, self.source_tokens);
        if self.chunk_lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length)) != Some(n) {
            return Some(format!("its chunk lengths do not add up to its {n} latents"));
        }
        if let Some(chunk) = self.chunk_lengths.iter().position(|&length| length == 0) {
            return Some(format!("its chunk {chunk} has no latents"));
        }
        if self.encoder_id.trim().is_empty() {
            return Some("its `encoder_id` is empty".into());
        }
        if !is_sha256_hex(&self.text_sha256) {
            return Some(format!("its `text_sha256` is `{}`, which is none", self.text_sha256));
        }
        if factor == 0 {
            return Some("its `factor` is 0, and a latent stands for a token at least".into());
        }
        let chunks = self.chunk_lengths.len();
        let impossible = |more: String| {
            Some(format!(
                "{n} latents in {chunks} chunks at factor {factor} are not of {tokens} tokens: {more}"
            ))
        };
        if tokens < chunks {
            return impossible("a chunk has a token at least".into());
        }
        if n.checked_mul(factor).is_some_and(|most| tokens > most) {
            return impossible(format!("a latent stands for {factor} at most"));
        }
        // Memory tokens make more latents than tokens of a short text, and then stand for one each; of a long
        // text only in its last chunk.
        let short = if chunks > 1 { self.chunk_lengths.last().copied().unwrap_or(0) } else { 0 };
        if factor > 1 && n - short > tokens {
            return impossible("there are fewer tokens than latents".into());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latents(chunk_lengths: &[usize], factor: usize, source_tokens: usize) -> Latents {
        let n: usize = chunk_lengths.iter().sum();
        Latents {
            values: Tensor::zeros([n.max(1), 2], &Device::flex()),
            chunk_lengths: chunk_lengths.to_vec(),
            encoder_id: "e".into(),
            factor,
            source_tokens,
            text_sha256: "0".repeat(64),
        }
    }

    #[test]
    fn what_no_encoder_makes_is_a_contradiction_and_all_that_one_makes_is_none() {
        // Pooled by a factor, whole and rest; unpooled; eight memory tokens of chunks of 64 tokens.
        for (chunks, factor, tokens) in [
            ([16usize, 16, 1].as_slice(), 4, 129),
            (&[16, 16, 1], 4, 132),
            (&[1], 4096, 3),
            (&[5], 1, 5),
            (&[8], 1, 3),
            (&[8, 8], 8, 65),
            (&[8], 8, 64),
        ] {
            assert_eq!(latents(chunks, factor, tokens).contradiction(), None, "{chunks:?} {factor} {tokens}");
        }
        for (chunks, factor, tokens, says) in [
            ([16usize, 16, 1].as_slice(), 4, 133, "stands for 4 at most"),
            (&[5], 1, usize::MAX, "stands for 1 at most"),
            (&[5], 1, 6, "stands for 1 at most"),
            (&[5], 4, 4, "fewer tokens than latents"),
            (&[8, 8], 8, 7, "fewer tokens than latents"),
            (&[1, 1, 1], 1, 2, "a chunk has a token at least"),
            (&[2, 0, 2], 1, 4, "its chunk 1 has no latents"),
            (&[3], 0, 3, "its `factor` is 0"),
        ] {
            let found = latents(chunks, factor, tokens).contradiction().unwrap_or_default();
            assert!(found.contains(says), "{chunks:?} {factor} {tokens}: {found}");
        }
        let mut other = latents(&[1], 1, 1);
        other.text_sha256 = "abc".into();
        assert!(other.contradiction().is_some_and(|reason| reason.contains("`text_sha256`")));
    }
}
