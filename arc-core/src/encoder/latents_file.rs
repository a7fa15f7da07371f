//! Latents in a file: written as they come, and read a chunk at a time.
//!
//! A latents file (`*.arc.safetensors`) is a safetensors file with one tensor, `latents`, `[n, d_encoder]`, the
//! chunks one after the other, in float32, float16, or in 8 bits with a scale (float16) for each block of a
//! row in `latents.scales`, as encoder packages store matrices. Its metadata says what they are of. Files of
//! [`DocumentCache`](crate::document_cache::DocumentCache) have `pooled` too, `[chunks, d_encoder]` in float32:
//! the mean of each chunk's latents.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use arc_adapters::is_sha256_hex;
use burn::tensor::{Device, Tensor, TensorData};
use half::f16;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{CompressOptions, Encoder, Latents, TokenisedText};
use crate::weights::eight_bit_blocks::{self, EIGHT_BIT_BLOCK};
use crate::weights::{RawTensor, SafetensorsFile, TensorSource};
use crate::{Error, Result};

/// The version of the file format that this build writes and reads.
pub(super) const SCHEMA: &str = "1";

/// What a latents file calls itself.
pub(super) const FORMAT: &str = "arc-latents";

/// The tensor of the latents.
pub(super) const LATENTS: &str = "latents";

/// The mean of each chunk's latents, in files of a cache.
const POOLED: &str = "pooled";

/// The key of metadata that says that similar states were merged.
const MERGED: &str = "merged";

/// Latents that are read at once where all are looked at.
const ROWS_AT_ONCE: usize = 1024;

/// How a latents file stores its values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LatentsType {
    /// As they were computed: 4 bytes.
    #[default]
    F32,
    /// 2 bytes.
    F16,
    /// A signed byte, and a scale of 2 bytes for each 32 or 64 values of a latent.
    Q8,
}

impl LatentsType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Q8];

    /// Its name: `f32`, `f16` or `q8`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
        }
    }
}

impl std::fmt::Display for LatentsType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LatentsType {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let names = Self::ALL.map(Self::name);
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| format!("expected one of `{}`", names.join("`, `")))
    }
}

/// What a latents file is of, as its metadata says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatentsDescription {
    /// The identity of the encoder.
    pub encoder_id: String,
    /// How many tokens a latent stands for, at most.
    pub factor: usize,
    /// How many latents each chunk has; of a file that is to be written, at most.
    pub chunk_lengths: Vec<usize>,
    /// How many encoder tokens the text had.
    pub source_tokens: usize,
    /// The sha256 of the text's UTF-8 bytes.
    pub text_sha256: String,
    /// Whether similar states were merged (k-means), which may leave fewer latents than `factor` says.
    pub merged: bool,
}

impl LatentsDescription {
    /// The number of latents.
    #[must_use]
    pub fn latents(&self) -> usize {
        self.chunk_lengths.iter().sum()
    }

    /// The metadata of a file of values with this digest.
    pub(super) fn metadata(&self, values_sha256: &str) -> BTreeMap<&'static str, String> {
        let mut metadata = BTreeMap::from([
            ("format", FORMAT.to_owned()),
            ("schema", SCHEMA.to_owned()),
            ("encoder_id", self.encoder_id.clone()),
            ("factor", self.factor.to_string()),
            ("chunk_lengths", json!(self.chunk_lengths).to_string()),
            ("source_tokens", self.source_tokens.to_string()),
            ("text_sha256", self.text_sha256.clone()),
            ("values_sha256", values_sha256.to_owned()),
        ]);
        // Where nothing was merged the file is what it was before there was the key.
        if self.merged {
            metadata.insert(MERGED, true.to_string());
        }
        metadata
    }

    /// What it says and no encoder could have made, if there is such a thing; `n` is the number of latents
    /// that are there.
    pub(super) fn contradiction(&self, n: usize) -> Option<String> {
        let (factor, tokens) = (self.factor, self.source_tokens);
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
        if !self.merged && n.checked_mul(factor).is_some_and(|most| tokens > most) {
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

/// A latents file in the making. What is in the file counts only after [`LatentsWriter::finish`]: its header
/// is written last.
#[derive(Debug)]
pub struct LatentsWriter<'a, W> {
    file: &'a mut W,
    /// What errors call the file.
    path: PathBuf,
    description: LatentsDescription,
    width: usize,
    kind: LatentsType,
    keeps_pooled: bool,
    /// Bytes before the first value.
    header_room: usize,
    chunk_lengths: Vec<usize>,
    scales: Vec<u8>,
    pooled: Vec<f32>,
    digest: Sha256,
}

impl<'a, W: Write + Seek> LatentsWriter<'a, W> {
    /// Begins a file of latents of a width, at the place where `file` stands: its beginning. `path` is what
    /// errors call it; `description` has the most latents that each chunk can get.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`] for a width that is no whole number of blocks, in 8 bits; [`Error::Io`].
    pub fn begin(
        file: &'a mut W,
        path: &Path,
        description: LatentsDescription,
        width: usize,
        kind: LatentsType,
    ) -> Result<Self> {
        if kind == LatentsType::Q8 && block(width).is_none() {
            return Err(Error::InvalidValue {
                what: "the width of latents in 8 bits".into(),
                found: width.to_string(),
                expected: "whole blocks of 32 values: `f16` takes any".into(),
            });
        }
        let mut writer = Self {
            file,
            path: path.to_owned(),
            description,
            width,
            kind,
            keeps_pooled: false,
            header_room: 0,
            chunk_lengths: Vec::new(),
            scales: Vec::new(),
            pooled: Vec::new(),
            digest: Sha256::new(),
        };
        writer.make_room()?;
        Ok(writer)
    }

    /// The same with the mean of each chunk beside the latents.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn with_pooled(mut self) -> Result<Self> {
        self.keeps_pooled = true;
        self.make_room()?;
        Ok(self)
    }

    /// Leaves as much room as the header can take.
    fn make_room(&mut self) -> Result<()> {
        let header = self.header(&self.description, &"0".repeat(64));
        // Data begins at a multiple of 8, as in every safetensors file.
        self.header_room = (8 + header.len()).next_multiple_of(8);
        let zeros = vec![0; self.header_room];
        let start = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&zeros));
        start.map_err(Error::io("write", &self.path))
    }

    /// The header of a file of such latents.
    fn header(&self, description: &LatentsDescription, values_sha256: &str) -> String {
        let (n, d) = (description.latents(), self.width);
        let mut tensors = Vec::new();
        match self.kind {
            LatentsType::F32 => tensors.push((LATENTS.to_owned(), "F32", [n, d], 4)),
            LatentsType::F16 => tensors.push((LATENTS.to_owned(), "F16", [n, d], 2)),
            LatentsType::Q8 => {
                let blocks = d / block(d).unwrap_or(d.max(1));
                tensors.push((LATENTS.to_owned(), "I8", [n, d], 1));
                tensors.push((eight_bit_blocks::scales_name(LATENTS), "F16", [n, blocks], 2));
            }
        }
        if self.keeps_pooled {
            tensors.push((POOLED.to_owned(), "F32", [description.chunk_lengths.len(), d], 4));
        }
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), json!(description.metadata(values_sha256)));
        let mut start = 0;
        for (name, dtype, [rows, columns], bytes) in tensors {
            let end = start + rows * columns * bytes;
            let tensor = json!({ "dtype": dtype, "shape": [rows, columns], "data_offsets": [start, end] });
            header.insert(name, tensor);
            start = end;
        }
        serde_json::Value::from(header).to_string()
    }

    /// Adds the latents of the next chunk, `[n, width]`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] for a value that is no number; [`Error::Io`].
    pub fn push(&mut self, chunk: Tensor<2>) -> Result<()> {
        let [n, d] = chunk.dims();
        let data = chunk.into_data().convert::<f32>();
        let values = data.as_slice::<f32>().expect("converted to f32");
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::NotFinite {
                reason: format!("latent {} of chunk {} is not finite", at / d, self.chunk_lengths.len()),
            });
        }
        let write = |file: &mut W, bytes: &[u8]| file.write_all(bytes);
        let written = match self.kind {
            LatentsType::F32 => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                self.digest.update(&bytes);
                write(self.file, &bytes)
            }
            LatentsType::F16 => {
                let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
                if let Some(at) = halves.iter().position(|value| !value.is_finite()) {
                    return Err(Error::NotFinite {
                        reason: format!("a latent has the value {}, which is beyond float16", values[at]),
                    });
                }
                for half in &halves {
                    self.digest.update(half.to_f32().to_le_bytes());
                }
                let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
                write(self.file, &bytes)
            }
            LatentsType::Q8 => {
                let quantised = eight_bit_blocks::quantise_rows(LATENTS, n, d, values)?;
                for value in quantised.to_f32() {
                    self.digest.update(value.to_le_bytes());
                }
                let (integers, scales) =
                    eight_bit_blocks::split_by(&quantised, block(d).unwrap_or(EIGHT_BIT_BLOCK));
                self.scales.extend(scales);
                write(self.file, &integers)
            }
        };
        written.map_err(Error::io("write", &self.path))?;
        if self.keeps_pooled {
            self.pooled.extend(mean_of_rows(values, d));
        }
        self.chunk_lengths.push(n);
        Ok(())
    }

    /// Writes what follows the latents, and then the header. Returns what the file is of.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::WrongCount`] if more chunks or latents came than were described.
    pub fn finish(self) -> Result<LatentsDescription> {
        let pooled: Vec<u8> = self.pooled.iter().flat_map(|value| value.to_le_bytes()).collect();
        let description =
            LatentsDescription { chunk_lengths: self.chunk_lengths.clone(), ..self.description.clone() };
        let values_sha256: String =
            self.digest.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let header = self.header(&description, &values_sha256);
        let Some(spaces) = self.header_room.checked_sub(8 + header.len()) else {
            return Err(Error::WrongCount {
                what: "latents to write".into(),
                found: description.latents(),
                expected: self.description.latents(),
            });
        };
        let header = format!("{header}{}", " ".repeat(spaces));
        let length = (header.len() as u64).to_le_bytes();
        let Self { file, path, scales, .. } = self;
        let written = file
            .write_all(&scales)
            .and_then(|()| file.write_all(&pooled))
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(&length))
            .and_then(|()| file.write_all(header.as_bytes()))
            .and_then(|()| file.seek(SeekFrom::End(0)));
        written.map_err(Error::io("write", path))?;
        Ok(description)
    }
}

/// The values of a latent of this width that share a scale; none where they are no whole number of blocks.
fn block(width: usize) -> Option<usize> {
    [EIGHT_BIT_BLOCK, 32].into_iter().find(|&block| width > 0 && width.is_multiple_of(block))
}

/// The mean of rows of a width.
fn mean_of_rows(values: &[f32], width: usize) -> Vec<f32> {
    let mut mean = vec![0.0; width];
    for row in values.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value);
    }
    let rows = (values.len() / width).max(1) as f32;
    mean.iter_mut().for_each(|mean| *mean /= rows);
    mean
}

impl Encoder {
    /// What a file of a text's latents says of itself; chunks have at most so many latents.
    ///
    /// # Errors
    ///
    /// As [`Encoder::compress_tokens`].
    pub fn describe(&self, text: &TokenisedText, options: CompressOptions) -> Result<LatentsDescription> {
        let chunk_lengths = self.chunk_latents(text.ids.len(), options)?;
        Ok(LatentsDescription {
            encoder_id: self.id.clone(),
            factor: self.factor_of(text.ids.len(), &chunk_lengths, options),
            chunk_lengths,
            source_tokens: text.ids.len(),
            text_sha256: text.text_sha256.clone(),
            merged: self.merges(),
        })
    }
}

/// The latents of one text, decoder-agnostic, in a file that is mapped: only what is asked for is read.
#[derive(Clone, Debug)]
pub struct LatentsFile {
    description: LatentsDescription,
    path: PathBuf,
    file: SafetensorsFile,
    tensor: RawTensor,
}

impl LatentsFile {
    /// Opens a file and checks what it says of itself; its values are checked by [`LatentsFile::verify`].
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and [`Error::InvalidFile`] for a file that is cut off, corrupt or no latents file, or
    /// that says of itself what cannot be.
    pub fn open(path: &Path) -> Result<Self> {
        let invalid = |reason: String| invalid(path, reason);
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
        let tensor = file.tensor(LATENTS)?;
        let &[n, d] = tensor.shape() else {
            return Err(invalid(format!("`latents` has shape {:?}, expected [n, d]", tensor.shape())));
        };
        if n == 0 || d == 0 {
            return Err(invalid(format!("`latents` has shape [{n}, {d}], which holds nothing")));
        }
        let chunk_lengths: Vec<usize> = serde_json::from_str(&field("chunk_lengths")?)
            .map_err(|error| invalid(format!("its `chunk_lengths` cannot be read: {error}")))?;
        let known = [LATENTS, POOLED];
        if let Some(other) = file.names().into_iter().find(|name| !known.contains(name)) {
            return Err(invalid(format!("it has a tensor `{other}` beside `latents`")));
        }
        let description = LatentsDescription {
            chunk_lengths,
            encoder_id: field("encoder_id")?,
            factor: number("factor")?,
            source_tokens: number("source_tokens")?,
            text_sha256: field("text_sha256")?,
            merged: match file.meta(MERGED) {
                None => false,
                Some("true") => true,
                Some(other) => return Err(invalid(format!("its `{MERGED}` is `{other}`, expected `true`"))),
            },
        };
        if let Some(reason) = description.contradiction(n) {
            return Err(invalid(reason));
        }
        Ok(Self { description, path: path.to_owned(), file, tensor })
    }

    /// What the file says of itself.
    #[must_use]
    pub fn description(&self) -> &LatentsDescription {
        &self.description
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The width of the latents.
    #[must_use]
    pub fn width(&self) -> usize {
        self.tensor.shape()[1]
    }

    /// The number of latents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensor.shape()[0]
    }

    /// Whether there are none, which no such file has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads all values once: they must be finite, and those that the file was made with.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFile`].
    pub fn verify(&self) -> Result<()> {
        let mut digest = Sha256::new();
        for start in (0..self.len()).step_by(ROWS_AT_ONCE) {
            let values = self.rows(start..self.len().min(start + ROWS_AT_ONCE))?;
            self.check_finite(&values, start)?;
            digest.update(bytemuck::cast_slice::<f32, u8>(&values));
        }
        self.check_digest(&digest.finalize())
    }

    /// All latents, on a device, and verified.
    ///
    /// # Errors
    ///
    /// As [`LatentsFile::verify`].
    pub fn read(&self, device: &Device) -> Result<Latents> {
        let values = self.tensor.to_f32();
        self.check_finite(&values, 0)?;
        self.check_digest(&Sha256::digest(bytemuck::cast_slice::<f32, u8>(&values)))?;
        Ok(self.latents(values, self.description.chunk_lengths.clone(), device))
    }

    /// The latents of some chunks, in the order given, on a device.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`] for a chunk that is not there.
    pub fn read_chunks(&self, chunks: &[usize], device: &Device) -> Result<Latents> {
        let mut values = Vec::new();
        let mut lengths = Vec::with_capacity(chunks.len());
        for &chunk in chunks {
            let range = self.range(chunk)?;
            lengths.push(range.len());
            values.extend(self.rows(range)?);
        }
        Ok(self.latents(values, lengths, device))
    }

    /// The mean of each chunk's latents, `width` values each.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFile`] for a file whose means are not of its chunks.
    pub fn pooled(&self) -> Result<Vec<Vec<f32>>> {
        let chunks = self.description.chunk_lengths.len();
        if self.file.has(POOLED) {
            let pooled = self.file.tensor(POOLED)?;
            if pooled.shape() != [chunks, self.width()] {
                let reason = format!("`pooled` has shape {:?}, and it has {chunks} chunks", pooled.shape());
                return Err(invalid(&self.path, reason));
            }
            return Ok(pooled.to_f32().chunks_exact(self.width()).map(<[f32]>::to_vec).collect());
        }
        let of_chunk = |chunk| Ok(mean_of_rows(&self.rows(self.range(chunk)?)?, self.width()));
        (0..chunks).map(of_chunk).collect()
    }

    fn latents(&self, values: Vec<f32>, chunk_lengths: Vec<usize>, device: &Device) -> Latents {
        let LatentsDescription { encoder_id, factor, source_tokens, text_sha256, merged, .. } =
            self.description.clone();
        let shape = [values.len() / self.width(), self.width()];
        let values = Tensor::from_data(TensorData::new(values, shape), device);
        Latents { values, chunk_lengths, encoder_id, factor, source_tokens, text_sha256, merged }
    }

    /// Where the latents of a chunk are.
    fn range(&self, chunk: usize) -> Result<Range<usize>> {
        let lengths = &self.description.chunk_lengths;
        let Some(&length) = lengths.get(chunk) else {
            return Err(Error::InvalidValue {
                what: "the number of a chunk".into(),
                found: chunk.to_string(),
                expected: format!("less than the {} that the text has", lengths.len()),
            });
        };
        let start: usize = lengths[..chunk].iter().sum();
        Ok(start..start + length)
    }

    fn rows(&self, range: Range<usize>) -> Result<Vec<f32>> {
        Ok(self.tensor.rows(range)?.to_f32())
    }

    fn check_finite(&self, values: &[f32], first: usize) -> Result<()> {
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => {
                Err(invalid(&self.path, format!("latent {} is not finite", first + at / self.width())))
            }
            None => Ok(()),
        }
    }

    fn check_digest(&self, found: &[u8]) -> Result<()> {
        let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        // Files that were made before have no checksum of the values.
        match self.file.meta("values_sha256") {
            Some(expected) if expected != found => {
                Err(invalid(&self.path, "its values are not those that it was made with".into()))
            }
            _ => Ok(()),
        }
    }
}

fn invalid(path: &Path, reason: String) -> Error {
    Error::InvalidFile { path: path.to_owned(), format: "latents", reason }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Chunks of random-looking latents, `[length, width]` each.
    fn chunks(lengths: &[usize], width: usize) -> Vec<Tensor<2>> {
        let mut state = 1_u32;
        let mut value = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let chunk = |&length: &usize| {
            let values: Vec<f32> = (0..length * width).map(|_| value()).collect();
            Tensor::from_data(TensorData::new(values, [length, width]), &Device::flex())
        };
        lengths.iter().map(chunk).collect()
    }

    fn description(chunk_lengths: &[usize]) -> LatentsDescription {
        LatentsDescription {
            encoder_id: "e".into(),
            factor: 4,
            chunk_lengths: chunk_lengths.to_vec(),
            source_tokens: 2 * chunk_lengths.iter().sum::<usize>(),
            text_sha256: "0".repeat(64),
            merged: false,
        }
    }

    fn written(kind: LatentsType, planned: &[usize], lengths: &[usize], pooled: bool) -> (Vec<u8>, Vec<f32>) {
        let mut file = Cursor::new(Vec::new());
        let writer = LatentsWriter::begin(&mut file, Path::new("x"), description(planned), 64, kind).unwrap();
        let mut writer = if pooled { writer.with_pooled().unwrap() } else { writer };
        let chunks = chunks(lengths, 64);
        for chunk in &chunks {
            writer.push(chunk.clone()).unwrap();
        }
        writer.finish().unwrap();
        (file.into_inner(), Tensor::cat(chunks, 0).into_data().try_into_vec().unwrap())
    }

    fn opened(bytes: &[u8]) -> (tempfile::TempDir, Result<LatentsFile>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.arc.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let file = LatentsFile::open(&path);
        (folder, file)
    }

    #[test]
    fn what_is_written_in_pieces_is_read_whole_and_by_chunks() {
        let device = Device::flex();
        for (kind, most) in [(LatentsType::F32, 0.0), (LatentsType::F16, 1e-3), (LatentsType::Q8, 1e-2)] {
            for pooled in [false, true] {
                // Merging by similarity leaves fewer latents than were planned.
                let (bytes, values) = written(kind, &[16, 16, 16], &[16, 9, 3], pooled);
                let (_folder, file) = opened(&bytes);
                let file = file.unwrap();
                file.verify().unwrap();
                assert_eq!(file.description().chunk_lengths, [16, 9, 3]);
                let all: Vec<f32> = file.read(&device).unwrap().values.into_data().try_into_vec().unwrap();
                let far = |(a, b): (&f32, &f32)| (a - b).abs();
                let error = all.iter().zip(&values).map(far).fold(0.0, f32::max);
                assert!(error <= most, "{kind}: {error}");
                let some = file.read_chunks(&[2, 0], &device).unwrap();
                assert_eq!(some.chunk_lengths, [3, 16]);
                let some: Vec<f32> = some.values.into_data().try_into_vec().unwrap();
                assert_eq!(some, [&all[25 * 64..], &all[..16 * 64]].concat());
                // Kept means are of the values before they were rounded.
                let mean = file.pooled().unwrap()[1][5];
                let expected: f32 = (16..25).map(|row| values[row * 64 + 5]).sum::<f32>() / 9.0;
                assert!((mean - expected).abs() <= most.max(1e-6), "{kind}: {mean}, expected {expected}");
            }
        }
    }

    #[test]
    fn a_written_file_is_what_latents_save_says() {
        let (bytes, values) = written(LatentsType::F32, &[5, 2], &[5, 2], false);
        let (folder, file) = opened(&bytes);
        let latents = file.unwrap().read(&Device::flex()).unwrap();
        let other = folder.path().join("y.arc.safetensors");
        latents.save(&other).unwrap();
        let again = Latents::load(&other, &Device::flex()).unwrap();
        assert_eq!(again.chunk_lengths, latents.chunk_lengths);
        assert_eq!(again.values.into_data().try_into_vec::<f32>().unwrap(), values);
    }

    #[test]
    fn merging_may_leave_fewer_latents_than_the_factor_says_and_nothing_else_may() {
        // Two chunks of 64 tokens at 4: 16 latents each at most, of which merging left 9 and 3.
        let planned = LatentsDescription { source_tokens: 128, merged: true, ..description(&[16, 16]) };
        let write = |description: LatentsDescription| {
            let mut file = Cursor::new(Vec::new());
            let path = Path::new("x");
            let mut writer =
                LatentsWriter::begin(&mut file, path, description, 64, LatentsType::F32).unwrap();
            chunks(&[9, 3], 64).into_iter().for_each(|chunk| writer.push(chunk).unwrap());
            writer.finish().unwrap();
            opened(&file.into_inner())
        };
        let (folder, file) = write(planned.clone());
        let file = file.unwrap();
        file.verify().unwrap();
        assert_eq!((file.len(), file.description().merged), (12, true));
        // In memory and back.
        let latents = file.read(&Device::flex()).unwrap();
        let other = folder.path().join("y.arc.safetensors");
        latents.save(&other).unwrap();
        assert!(LatentsFile::open(&other).unwrap().description().merged);

        let (_folder, refused) = write(LatentsDescription { merged: false, ..planned });
        assert!(refused.unwrap_err().to_string().contains("stands for 4 at most"));
    }

    #[test]
    fn a_file_that_was_not_finished_or_was_changed_is_refused() {
        let (bytes, _) = written(LatentsType::F16, &[8], &[8], true);
        for kept in [0, 8, 100, bytes.len() - 1] {
            assert!(opened(&bytes[..kept]).1.is_err(), "cut to {kept}");
        }
        let mut unfinished = bytes.clone();
        unfinished[..8].fill(0);
        assert!(opened(&unfinished).1.is_err());
        let mut changed = bytes;
        let middle = changed.len() - 8 * 64 * 2;
        changed[middle] ^= 1;
        let (_folder, file) = opened(&changed);
        let error = file.unwrap().verify().unwrap_err().to_string();
        assert!(error.contains("not those that it was made with"), "{error}");
    }

    #[test]
    fn a_width_without_whole_blocks_is_refused_in_eight_bits() {
        let mut file = Cursor::new(Vec::new());
        let refused = LatentsWriter::begin(&mut file, Path::new("x"), description(&[1]), 40, LatentsType::Q8);
        assert!(refused.unwrap_err().to_string().contains("whole blocks of 32"));
    }

    fn contradiction(chunk_lengths: &[usize], factor: usize, source_tokens: usize) -> Option<String> {
        let description = LatentsDescription { factor, source_tokens, ..description(chunk_lengths) };
        description.contradiction(chunk_lengths.iter().sum())
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
            assert_eq!(contradiction(chunks, factor, tokens), None, "{chunks:?} {factor} {tokens}");
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
            let found = contradiction(chunks, factor, tokens).unwrap_or_default();
            assert!(found.contains(says), "{chunks:?} {factor} {tokens}: {found}");
        }
    }
}
