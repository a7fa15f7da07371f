//! Prepared text: shards of documents with their encoder tokens, mapped and read in windows.
//!
//! A corpus is a folder with `manifest.json` and shards. A shard is a safetensors file of `text`
//! (u8, the documents one after the other), `ids` and `starts` (u32: each token, and the byte of
//! its document that it begins at), `document_tokens` and `document_bytes` (u64: where each
//! document begins, and the end of the last). Nothing is read before it is asked for.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rand::seq::SliceRandom as _;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use super::draw::{Permutation, Purpose, generator};
use crate::bounded_file::{DESCRIPTION, read_json};
use crate::tokenizer::Tokenizer;
use crate::weights::MappedBytes;
use crate::{Error, Result};

/// The version of the format that this build writes and reads.
pub(super) const SCHEMA: u32 = 1;
/// The file that describes a corpus.
pub(super) const MANIFEST: &str = "manifest.json";

/// What `manifest.json` says about a corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CorpusManifest {
    /// The version of the format.
    pub schema: u32,
    /// The tokenizer of `ids`, by the name of its model.
    pub tokenizer: String,
    /// The sha256 of that tokenizer.
    pub tokenizer_sha256: String,
    /// What the order of documents was drawn from.
    pub seed: u64,
    /// Where the text came from.
    pub sources: Vec<SourceRecord>,
    /// Text to train on.
    pub shards: Vec<ShardRecord>,
    /// Text that is kept from training.
    pub held_out: Option<ShardRecord>,
}

/// A source as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SourceRecord {
    /// Its name: the file's, without folder.
    pub name: String,
    /// The licence of its text, as given.
    pub licence: String,
    /// The sha256 of the file.
    pub sha256: String,
    /// Documents in it.
    pub documents: u64,
    /// Documents that were left out since an equal one came before.
    pub duplicates: u64,
    /// Documents that were left out since they share 13 words with an evaluation set.
    pub overlapping: u64,
    /// Bytes of the text that was kept.
    pub bytes: u64,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ShardRecord {
    /// Its file, in the corpus's folder.
    pub file: String,
    /// The sha256 of the file.
    pub sha256: String,
    /// Documents in it.
    pub documents: u64,
    /// Encoder tokens in it.
    pub tokens: u64,
    /// Bytes of text in it.
    pub bytes: u64,
}

/// One shard, mapped.
#[derive(Clone, Debug)]
struct Shard {
    path: PathBuf,
    bytes: MappedBytes,
    text: std::ops::Range<usize>,
    ids: std::ops::Range<usize>,
    starts: std::ops::Range<usize>,
    document_tokens: std::ops::Range<usize>,
    document_bytes: std::ops::Range<usize>,
}

/// A piece of a document, at most as long as a step asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// Encoder tokens.
    pub ids: Vec<u32>,
    /// The byte of `text` that each token begins at.
    pub starts: Vec<usize>,
    /// Its text; a little longer than its tokens where a character was cut.
    pub text: String,
    /// Corpus, file, document and token that it begins at.
    pub origin: String,
}

impl Window {
    /// Where a token begins in the text; the end of the text for the place after the last.
    #[must_use]
    pub fn byte_of(&self, token: usize) -> usize {
        self.starts.get(token).copied().unwrap_or(self.text.len())
    }

    /// Whether a token begins a character, so that the text can be cut before it.
    #[must_use]
    pub fn can_cut_before(&self, token: usize) -> bool {
        self.text.is_char_boundary(self.byte_of(token))
    }

    /// Whether a token begins a word: the text can be cut there without changing how either side
    /// is read.
    #[must_use]
    pub fn begins_word(&self, token: usize) -> bool {
        let byte = self.byte_of(token);
        self.text.get(byte..).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self> {
        let bytes = MappedBytes::map_file(path)?;
        let invalid = |reason: String| Error::InvalidFile { path: path.to_owned(), format: "shard", reason };
        let header = SafeTensors::deserialize(&bytes).map_err(|error| invalid(error.to_string()))?;
        let base = bytes.as_ptr() as usize;
        let range = |name: &str, dtype: Dtype| {
            let tensor = header.tensor(name).map_err(|error| invalid(error.to_string()))?;
            if tensor.dtype() != dtype {
                return Err(invalid(format!("`{name}` is stored as {}", tensor.dtype())));
            }
            let start = tensor.data().as_ptr() as usize - base;
            Ok(start..start + tensor.data().len())
        };
        let text = range("text", Dtype::U8)?;
        let ids = range("ids", Dtype::U32)?;
        let starts = range("starts", Dtype::U32)?;
        let document_tokens = range("document_tokens", Dtype::U64)?;
        let document_bytes = range("document_bytes", Dtype::U64)?;
        let shard = Self {
            path: path.to_owned(),
            bytes: bytes.clone(),
            text,
            ids,
            starts,
            document_tokens,
            document_bytes,
        };
        let (tokens, texts) = (shard.offsets(&shard.document_tokens)?, shard.offsets(&shard.document_bytes)?);
        let fits = |offsets: &[u64], len: usize| {
            offsets.first() == Some(&0)
                && offsets.last().is_some_and(|&last| last == len as u64)
                && offsets.is_sorted()
        };
        if shard.ids.len() != shard.starts.len()
            || tokens.len() != texts.len()
            || !fits(tokens, shard.ids.len() / 4)
            || !fits(texts, shard.text.len())
        {
            return Err(invalid("its documents do not add up to its tokens and text".into()));
        }
        Ok(shard)
    }

    fn offsets(&self, range: &std::ops::Range<usize>) -> Result<&[u64]> {
        bytemuck::try_cast_slice(&self.bytes[range.clone()]).map_err(|_| self.misaligned())
    }

    fn misaligned(&self) -> Error {
        Error::InvalidFile {
            path: self.path.clone(),
            format: "shard",
            reason: "its numbers are misaligned".into(),
        }
    }

    /// The lengths of its documents, in tokens.
    fn document_lengths(&self) -> Result<impl Iterator<Item = u64> + '_> {
        Ok(self.offsets(&self.document_tokens)?.windows(2).map(|pair| pair[1] - pair[0]))
    }

    fn numbers(&self, range: &std::ops::Range<usize>) -> Result<&[u32]> {
        bytemuck::try_cast_slice(&self.bytes[range.clone()]).map_err(|_| self.misaligned())
    }

    /// The tokens `tokens` of a document.
    fn window(&self, document: usize, tokens: std::ops::Range<usize>) -> Result<Window> {
        let (document_tokens, document_bytes) =
            (self.offsets(&self.document_tokens)?, self.offsets(&self.document_bytes)?);
        let invalid = || Error::InvalidFile {
            path: self.path.clone(),
            format: "shard",
            reason: format!("document {document} is not what its offsets say"),
        };
        let bounds = |offsets: &[u64]| -> Option<std::ops::Range<usize>> {
            Some(
                usize::try_from(*offsets.get(document)?).ok()?
                    ..usize::try_from(*offsets.get(document + 1)?).ok()?,
            )
        };
        let of_document = bounds(document_tokens).ok_or_else(invalid)?;
        let first = of_document.start + tokens.start;
        let end = (of_document.start + tokens.end).min(of_document.end);
        let ids = self.numbers(&self.ids)?.get(first..end).ok_or_else(invalid)?;
        let starts = self.numbers(&self.starts)?;
        let text = self.bytes[self.text.clone()].get(bounds(document_bytes).ok_or_else(invalid)?);
        let text = text.ok_or_else(invalid)?;
        let mut from = *starts.get(first).ok_or_else(invalid)? as usize;
        let mut to = if end < of_document.end { starts[end] as usize } else { text.len() };
        // A character that is cut belongs to the window as a whole.
        let begins_character = |at: usize| text.get(at).is_none_or(|byte| byte & 0xc0 != 0x80);
        while from > 0 && !begins_character(from) {
            from -= 1;
        }
        while to < text.len() && !begins_character(to) {
            to += 1;
        }
        // A document may be a book: no more of it is looked at than the window.
        let text = text.get(from..to).and_then(|text| std::str::from_utf8(text).ok()).ok_or_else(invalid)?;
        // The folder's name too: every corpus has a first shard.
        let mut names: Vec<_> =
            self.path.iter().rev().take(2).map(std::ffi::OsStr::to_string_lossy).collect();
        names.reverse();
        let name = names.join("/");
        Ok(Window {
            ids: ids.to_vec(),
            starts: starts[first..end].iter().map(|&start| (start as usize).saturating_sub(from)).collect(),
            text: text.to_owned(),
            origin: format!("{name} document {document} token {}", tokens.start),
        })
    }
}

/// A folder of shards, as windows of a length.
#[derive(Debug)]
#[non_exhaustive]
pub struct Corpus {
    /// What the folder says about itself.
    pub manifest: CorpusManifest,
    folder: PathBuf,
    shards: Vec<Shard>,
    held_out: Option<Shard>,
    windows: Windowing,
    /// Windows in each shard.
    counts: Vec<u64>,
    /// The number of the first window of each document, in the shard read last.
    index: Mutex<Option<(usize, Vec<u64>)>>,
}

/// Where a window is in a corpus.
#[derive(Clone, Debug)]
struct Place {
    shard: usize,
    document: usize,
    /// Tokens of the document.
    tokens: std::ops::Range<usize>,
}

/// Where a window is in a mixture.
#[derive(Clone, Debug)]
pub(super) struct PlaceInMixture {
    corpus: usize,
    place: Place,
}

impl PlaceInMixture {
    /// How long the window is.
    pub(super) fn tokens(&self) -> usize {
        self.place.tokens.len()
    }
}

/// How documents are cut.
#[derive(Clone, Copy, Debug)]
struct Windowing {
    length: u64,
    shortest: u64,
}

impl Windowing {
    /// The windows of a document: whole ones, and one more for a rest that is long enough.
    fn count(self, tokens: u64) -> u64 {
        tokens / self.length + u64::from(tokens % self.length >= self.shortest)
    }
}

impl CorpusManifest {
    /// Reads what a folder of prepared text says of itself.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] where the folder holds none, [`Error::Io`] and [`Error::InvalidFile`].
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        if !path.exists() {
            return Err(Error::Mismatch {
                what: format!("corpus `{}`", folder.display()),
                expected: MANIFEST.into(),
                found: "no such file".into(),
                hint:
                    "make a corpus with `arc data prepare`; `scripts/data/build data` makes the repository's"
                        .into(),
            });
        }
        let manifest: Self = read_json(&path, DESCRIPTION.called("corpus manifest"))?;
        if manifest.schema != SCHEMA {
            return Err(Error::InvalidFile {
                path,
                format: "corpus manifest",
                reason: format!("its schema is {}, this build reads {SCHEMA}", manifest.schema),
            });
        }
        Ok(manifest)
    }
}

impl Corpus {
    /// Opens a folder of text in the tokens of `tokenizer`; a window has at most `length` tokens and at least
    /// `shortest`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::InvalidFile`] for what is not a prepared corpus; [`Error::Mismatch`] for one
    /// that was prepared with another tokenizer; [`Error::Document`] if no document has `shortest` tokens.
    pub fn open(folder: &Path, tokenizer: &Tokenizer, length: usize, shortest: usize) -> Result<Self> {
        let manifest = CorpusManifest::open(folder)?;
        if manifest.tokenizer_sha256 != tokenizer.sha256() {
            return Err(Error::Mismatch {
                what: format!("corpus `{}` (sha256 of its tokenizer)", folder.display()),
                expected: tokenizer.sha256().to_owned(),
                found: manifest.tokenizer_sha256,
                hint: "prepare it again with the tokenizer of the encoder's backbone".into(),
            });
        }
        Self::of_manifest(folder, manifest, length, shortest)
    }

    /// Opens a folder for its text alone, whatever its tokens are of; as [`Corpus::open`].
    pub(super) fn open_for_text(folder: &Path, length: usize, shortest: usize) -> Result<Self> {
        Self::of_manifest(folder, CorpusManifest::open(folder)?, length, shortest)
    }

    fn of_manifest(folder: &Path, manifest: CorpusManifest, length: usize, shortest: usize) -> Result<Self> {
        let open = |record: &ShardRecord| Shard::open(&folder.join(&record.file));
        let shards: Vec<Shard> = manifest.shards.iter().map(open).collect::<Result<_>>()?;
        let held_out = manifest.held_out.as_ref().map(open).transpose()?;
        let windows = Windowing { length: length.max(1) as u64, shortest: shortest.max(1) as u64 };
        let counts: Vec<u64> = shards
            .iter()
            .map(|shard| Ok(shard.document_lengths()?.map(|tokens| windows.count(tokens)).sum()))
            .collect::<Result<_>>()?;
        if counts.iter().sum::<u64>() == 0 {
            return Err(Error::Document {
                name: folder.display().to_string(),
                reason: format!("has no text of {shortest} tokens"),
                hint: "prepare more text with `arc data prepare`, or ask for shorter contexts".into(),
            });
        }
        Ok(Self {
            manifest,
            folder: folder.to_owned(),
            shards,
            held_out,
            windows,
            counts,
            index: Mutex::default(),
        })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The number of windows in an epoch.
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// A window by its number in an endless sequence: every window once in each epoch, shard by
    /// shard, in an order drawn from `seed`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFile`] for a shard that was changed after it was written.
    pub fn window(&self, seed: u64, number: u64) -> Result<Window> {
        self.read(&self.place(seed, number)?)
    }

    /// Where a window by its number is, without reading it.
    fn place(&self, seed: u64, number: u64) -> Result<Place> {
        let (epoch, mut rest) = (number / self.windows(), number % self.windows());
        let mut random = generator(seed, Purpose::Epoch, epoch);
        let mut order: Vec<usize> = (0..self.shards.len()).collect();
        order.shuffle(&mut random);
        let mut shard = order[0];
        for candidate in order {
            shard = candidate;
            if rest < self.counts[candidate] {
                break;
            }
            rest -= self.counts[candidate];
        }
        let mut random = generator(seed ^ shard as u64, Purpose::Epoch, epoch);
        let place = Permutation::new(self.counts[shard], &mut random).at(rest);
        self.nth_window(shard, place)
    }

    fn nth_window(&self, shard: usize, place: u64) -> Result<Place> {
        let mut index = self.index.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if index.as_ref().is_none_or(|(indexed, _)| *indexed != shard) {
            let mut first = 0;
            let mut firsts = Vec::new();
            for tokens in self.shards[shard].document_lengths()? {
                firsts.push(first);
                first += self.windows.count(tokens);
            }
            *index = Some((shard, firsts));
        }
        let firsts = index.as_ref().map_or(&[][..], |(_, firsts)| firsts);
        // The last document that begins at or before the window: those without windows share the
        // number of the next.
        let document = firsts.partition_point(|&first| first <= place).saturating_sub(1);
        let nth = place - firsts.get(document).copied().unwrap_or(0);
        let start = nth * self.windows.length;
        let offsets = self.shards[shard].offsets(&self.shards[shard].document_tokens)?;
        let of_document =
            offsets.get(document + 1).zip(offsets.get(document)).map_or(0, |(end, first)| end - first);
        let end = of_document.min(start + self.windows.length);
        Ok(Place { shard, document, tokens: start as usize..end.max(start) as usize })
    }

    fn read(&self, place: &Place) -> Result<Window> {
        self.shards[place.shard].window(place.document, place.tokens.clone())
    }

    /// The beginnings of the held-out documents, at most `limit` of them, in order.
    ///
    /// # Errors
    ///
    /// As [`Corpus::window`].
    pub fn held_out(&self, limit: usize) -> Result<Vec<Window>> {
        let Some(shard) = &self.held_out else { return Ok(Vec::new()) };
        shard
            .document_lengths()?
            .enumerate()
            .filter(|&(_, tokens)| tokens >= self.windows.shortest)
            .take(limit)
            .map(|(document, _)| shard.window(document, 0..self.windows.length as usize))
            .collect()
    }
}

/// Several corpora, read in proportion to their weights.
#[derive(Debug)]
pub struct Mixture {
    corpora: Vec<(Corpus, f64)>,
    seed: u64,
}

impl Mixture {
    /// A mixture of corpora with weights of any scale.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`] if a weight is not above 0.
    pub fn new(corpora: Vec<(Corpus, f64)>, seed: u64) -> Result<Self> {
        let total: f64 = corpora.iter().map(|(_, weight)| weight).sum();
        if corpora.iter().any(|(_, weight)| *weight <= 0.0) || !total.is_finite() {
            let weights: Vec<_> = corpora.iter().map(|(_, weight)| weight).collect();
            return Err(Error::InvalidValue {
                what: "the weights of the sources of a mixture".into(),
                found: format!("{weights:?}"),
                expected: "numbers above 0".into(),
            });
        }
        Ok(Self {
            corpora: corpora.into_iter().map(|(corpus, weight)| (corpus, weight / total)).collect(),
            seed,
        })
    }

    /// The corpora with their shares.
    #[must_use]
    pub fn corpora(&self) -> &[(Corpus, f64)] {
        &self.corpora
    }

    /// The windows `first..first + count` of the mixture's endless sequence, source by source. Any
    /// stretch has each source in its share, to within one window.
    ///
    /// # Errors
    ///
    /// As [`Corpus::window`].
    pub fn windows(&self, first: u64, count: u64) -> Result<Vec<Window>> {
        self.places(first, count)?.iter().map(|place| self.read(place)).collect()
    }

    /// Reads a window.
    pub(super) fn read(&self, place: &PlaceInMixture) -> Result<Window> {
        self.corpora[place.corpus].0.read(&place.place)
    }

    /// Where the windows of [`Mixture::windows`] are, without reading them.
    pub(super) fn places(&self, first: u64, count: u64) -> Result<Vec<PlaceInMixture>> {
        let mut places = Vec::new();
        let mut below = 0.0;
        for (index, (corpus, share)) in self.corpora.iter().enumerate() {
            // How many of the first `n` windows are of this source: the difference of two rounded
            // cumulative counts, so that the sources' numbers add up to `n`.
            let up_to = |n: u64| {
                let count = |share: f64| (n as f64 * share).round() as u64;
                count((below + share).min(1.0)) - count(below)
            };
            let (from, to) = (up_to(first), up_to(first + count));
            for number in from..to {
                places.push(PlaceInMixture { corpus: index, place: corpus.place(self.seed, number)? });
            }
            below += share;
        }
        Ok(places)
    }

    /// Every token of the text to train on, all corpora alike.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFile`] for a damaged shard.
    pub fn tokens(&self) -> Result<impl Iterator<Item = u32>> {
        let shards = self.corpora.iter().flat_map(|(corpus, _)| &corpus.shards);
        let ids = shards.map(|shard| shard.numbers(&shard.ids)).collect::<Result<Vec<_>>>()?;
        Ok(ids.into_iter().flatten().copied())
    }

    /// Held-out windows of all sources in turn, at most `limit`.
    ///
    /// # Errors
    ///
    /// As [`Corpus::window`].
    pub fn held_out(&self, limit: usize) -> Result<Vec<Window>> {
        let each = limit.div_ceil(self.corpora.len().max(1));
        let mut windows = Vec::new();
        for (corpus, _) in &self.corpora {
            windows.extend(corpus.held_out(each)?);
        }
        windows.truncate(limit);
        Ok(windows)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use arc_adapters::write_atomically;

    /// A corpus of one shard, with a document of 16 tokens for each of `documents`.
    fn corpus(folder: &Path, documents: usize) -> Corpus {
        use std::io::Write as _;
        let text = vec![b'a'; 16 * documents];
        let ids: Vec<u32> = (0..16 * documents as u32).collect();
        let starts: Vec<u32> = (0..documents).flat_map(|_| 0..16).collect();
        let ends: Vec<u64> = (0..=documents as u64).map(|document| 16 * document).collect();
        let view = |dtype, len, bytes| safetensors::tensor::TensorView::new(dtype, vec![len], bytes).unwrap();
        let tensors = [
            ("text", view(Dtype::U8, text.len(), &text)),
            ("ids", view(Dtype::U32, ids.len(), bytemuck::cast_slice(&ids))),
            ("starts", view(Dtype::U32, starts.len(), bytemuck::cast_slice(&starts))),
            ("document_tokens", view(Dtype::U64, ends.len(), bytemuck::cast_slice(&ends))),
            ("document_bytes", view(Dtype::U64, ends.len(), bytemuck::cast_slice(&ends))),
        ];
        let bytes = safetensors::serialize(tensors, None).unwrap();
        let record = ShardRecord {
            file: "shard".into(),
            sha256: String::new(),
            documents: documents as u64,
            tokens: ids.len() as u64,
            bytes: text.len() as u64,
        };
        let manifest = CorpusManifest {
            schema: SCHEMA,
            tokenizer: "t".into(),
            tokenizer_sha256: String::new(),
            seed: 0,
            sources: Vec::new(),
            shards: vec![record],
            held_out: None,
        };
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            write_atomically(&path, |file| file.write_all(bytes).map_err(Error::io("write", &path))).unwrap();
        };
        write("shard", &bytes);
        write(MANIFEST, &serde_json::to_vec(&manifest).unwrap());
        Corpus::open_for_text(folder, 16, 16).unwrap()
    }

    #[test]
    fn a_mixture_has_each_source_in_its_share_and_every_window_once_in_an_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let mixture = Mixture::new(vec![(corpus(&first, 40), 3.0), (corpus(&second, 40), 1.0)], 5).unwrap();
        for start in [0, 7, 100] {
            let windows = mixture.windows(start, 40).unwrap();
            let of_first = windows.iter().filter(|window| window.origin.starts_with("first/")).count();
            assert!(windows.len().abs_diff(40) <= 1 && of_first.abs_diff(30) <= 1, "{of_first} from {start}");
        }
        // An epoch of the first source.
        let mut seen: Vec<u32> =
            (0..40).map(|number| mixture.corpora()[0].0.window(5, number).unwrap().ids[0]).collect();
        let drawn = seen.clone();
        seen.sort_unstable();
        assert_eq!(seen, (0..40).map(|document| 16 * document).collect::<Vec<_>>());
        assert_ne!(seen, drawn, "the order is drawn");
    }

    /// The corpus whose shard has a byte that is no UTF-8, in windows of 8 tokens.
    pub(in crate::train) fn damaged(folder: &Path, documents: usize, at: usize) -> Corpus {
        drop(corpus(folder, documents));
        let shard = folder.join("shard");
        let mut bytes = std::fs::read(&shard).unwrap();
        let text = bytes.windows(16 * documents).position(|run| run.iter().all(|&byte| byte == b'a'));
        bytes[text.unwrap() + at] = 0xff;
        std::fs::write(&shard, bytes).unwrap();
        Corpus::open_for_text(folder, 8, 8).unwrap()
    }

    #[test]
    fn a_window_is_read_without_the_rest_of_its_document() {
        let folder = tempfile::tempdir().unwrap();
        // The second half of the one document cannot be read.
        let corpus = damaged(folder.path(), 1, 12);
        let read: Vec<_> = (0..2).map(|number| corpus.window(3, number)).collect();
        assert_eq!(read.iter().filter(|window| window.is_ok()).count(), 1, "{read:?}");
        assert_eq!(read.into_iter().find_map(Result::ok).unwrap().ids[0], 0);
    }

    #[test]
    fn places_are_those_of_the_windows_and_need_no_text() {
        let folder = tempfile::tempdir().unwrap();
        let mixture = Mixture::new(vec![(damaged(folder.path(), 4, 20), 1.0)], 5).unwrap();
        let places = mixture.places(0, 8).unwrap();
        let read: Vec<_> = places.iter().map(|place| mixture.read(place)).collect();
        assert_eq!(read.iter().filter(|window| window.is_err()).count(), 1);
        for (place, window) in places.iter().zip(read) {
            assert!(window.is_err() || window.unwrap().ids.len() == place.tokens());
        }
    }
}
