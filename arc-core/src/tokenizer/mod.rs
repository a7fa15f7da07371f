//! Text to token ids and back.
//!
//! A [`Tokenizer`] is built from a model's GGUF metadata or from a `tokenizer.json`. Every token
//! carries the range of bytes of the original text that it stands for, so that two tokenizers of
//! the same text can be aligned.

mod added_tokens;
mod byte_alphabet;
mod byte_level_bpe;
mod control_tokens;
mod decode_stream;
mod first_line;
mod from_gguf;
mod from_json;
#[cfg(test)]
mod golden_tests;
mod parts;
mod pre_tokenizer;
mod repeated_line;
mod scored_bpe;
mod stop_strings;
mod token_bytes;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use added_tokens::{AddedTokens, TextPiece};
use byte_level_bpe::ByteLevelBpe;
use from_json::JsonPipeline;
use parts::Around;
use scored_bpe::ScoredBpe;
use token_bytes::TokenBytes;

pub use decode_stream::DecodeStream;
pub use first_line::FirstLine;
pub use repeated_line::RepeatedLine;
pub use stop_strings::StopStrings;

use crate::{Error, Result};

/// How SentencePiece spells a space: U+2581, lower one eighth block.
const SPACE_MARK: char = '▁';

/// Bytes of a text that are taken apart at once: long enough that words which come again are mostly found among
/// those that were merged.
const PART_BYTES: usize = 1 << 18;

/// A model's tokenizer. Cloning is cheap: the tables are shared.
#[derive(Clone)]
pub struct Tokenizer(Arc<Tables>);

struct Tables {
    path: PathBuf,
    pipeline: Pipeline,
    bytes: TokenBytes,
    /// By id: control tokens and the unknown token, which are not text.
    special: Vec<bool>,
    /// By id: what no document may spell.
    control: Vec<bool>,
    /// Ids of special and user-defined tokens by name.
    names: HashMap<String, u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Every token that ends a generation, sorted.
    ends: Vec<u32>,
    adds_bos: bool,
    /// A space is put before the text and after each special or user-defined token in it, and the first
    /// space of a decoded text is dropped.
    space_prefix: bool,
    sha256: String,
}

/// How text becomes ids. In the first two, `plain` are the added tokens that are found in any text
/// and `all` are those and the special ones.
#[expect(clippy::large_enum_variant, reason = "a tokenizer has one, and it is never moved")]
enum Pipeline {
    ByteLevel { plain: AddedTokens, all: AddedTokens, model: ByteLevelBpe },
    Scored { plain: AddedTokens, all: AddedTokens, model: ScoredBpe },
    Json(Box<JsonPipeline>),
}

/// Tokens of a text, and where each comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encoding {
    /// Token ids, in order.
    pub ids: Vec<u32>,
    /// For each token the bytes of the original text that it stands for, `start..end`.
    ///
    /// Each range starts where the one before ends, and together they cover the text. Tokens that
    /// are parts of one character split its bytes between them. Where the text was changed first
    /// (Unicode normalisation), the range is that of the original characters, and tokens of one
    /// character may share it.
    pub offsets: Vec<(usize, usize)>,
}

impl Encoding {
    fn push(&mut self, id: u32, start: usize, end: usize) {
        self.ids.push(id);
        self.offsets.push((start, end));
    }

    /// Appends tokens that are already there, of a text that was at `from` and is now at `to`.
    fn repeat(&mut self, tokens: Range<usize>, from: usize, to: usize) {
        for index in tokens {
            let (start, end) = self.offsets[index];
            self.push(self.ids[index], start - from + to, end - from + to);
        }
    }

    /// Widens ranges until they cover a text of `len` bytes: what was composed or dropped before
    /// tokens were made belongs to the token before it.
    fn close_gaps(&mut self, len: usize) {
        let mut next = len;
        for (start, end) in self.offsets.iter_mut().rev() {
            *end = (*end).max(next);
            next = *start;
        }
        if let Some((start, _)) = self.offsets.first_mut() {
            *start = 0;
        }
    }
}

/// What the names of special tokens in a text mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpecialTokens {
    /// Nothing: they are text like any other. For documents, which must not steer the model.
    AsText,
    /// The tokens themselves. For prompts that were written with them.
    Recognised,
}

impl Tokenizer {
    /// Text to tokens: no beginning or end token is added, and names of special tokens in the text
    /// are text. None of the tokens [is control](Self::is_control), whatever the text spells.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a `tokenizer.json` describes a step that fails on this text.
    pub fn encode(&self, text: &str) -> Result<Encoding> {
        self.encode_with(text, SpecialTokens::AsText)
    }

    /// The ids of [`encode`](Self::encode) alone. What memory it takes beside them does not grow with the
    /// text, unless the tokenizer is of a `tokenizer.json`.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_ids(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_ids_by(text, SpecialTokens::AsText, PART_BYTES)
    }

    fn encode_ids_by(&self, text: &str, specials: SpecialTokens, part_bytes: usize) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.encode_parts(text, specials, part_bytes, |mut encoding| ids.append(&mut encoding.ids))?;
        Ok(ids)
    }

    /// As [`encode`](Self::encode), with a choice of what names of special tokens mean. Tokens that
    /// the model calls user-defined (Gemma's line feeds, `<tool_call>`) are always found.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with(&self, text: &str, specials: SpecialTokens) -> Result<Encoding> {
        let mut whole = Encoding::default();
        // In one part: how exact places are depends on whether a part must be normalised.
        self.encode_parts(text, specials, usize::MAX, |mut part| {
            whole.ids.append(&mut part.ids);
            whole.offsets.append(&mut part.offsets);
        })?;
        match &self.0.pipeline {
            Pipeline::ByteLevel { .. } => whole.close_gaps(text.len()),
            Pipeline::Scored { .. } => {}
            Pipeline::Json(_) => self.make_offsets_exact(text, &mut whole),
        }
        Ok(whole)
    }

    /// The tokens of a text, part after part of at least `part_bytes` bytes, with places in the whole text.
    /// Their ids are those of the whole: it is cut where no token could reach across, whatever is on either side.
    fn encode_parts(
        &self,
        text: &str,
        specials: SpecialTokens,
        part_bytes: usize,
        mut each: impl FnMut(Encoding),
    ) -> Result<()> {
        let as_text = specials == SpecialTokens::AsText;
        match &self.0.pipeline {
            Pipeline::ByteLevel { plain, all, model } => {
                let added = if as_text { plain } else { all };
                let is_cut = |around: Around| ByteLevelBpe::is_cut(around) && !added.joins(around);
                for (start, part) in parts::of(text, part_bytes, is_cut) {
                    each(self.encode_byte_level(part, start, added, model)?);
                }
            }
            Pipeline::Scored { plain, all, model } => {
                let added = if as_text { plain } else { all };
                let is_cut = |around: Around| {
                    let around =
                        around.map(|character| if character == SPACE_MARK { ' ' } else { character });
                    model.is_cut(around) && !added.joins(around)
                };
                // Pieces of text never follow each other but at a cut: each begins the text, follows a token, or
                // goes on.
                let mut goes_on = false;
                for (start, part) in parts::of(text, part_bytes, is_cut) {
                    each(self.encode_scored(part, start, &mut goes_on, added, model));
                }
            }
            // What its steps look at is not known.
            Pipeline::Json(pipeline) => {
                let control = &self.0.control;
                each(pipeline.encode(text, specials, control).map_err(|reason| self.error(reason))?);
            }
        }
        Ok(())
    }

    /// A prompt to tokens: special tokens are recognised, and the beginning token is added where
    /// the tokenizer's own rule adds one and the text does not have it already. An end token that
    /// the rule would append is not added: a prompt is there to be continued.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode_with(text, SpecialTokens::Recognised)?.ids;
        if let Some(bos) = self.0.bos
            && self.0.adds_bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The tokens of a part that begins `start` bytes into the text. Ranges may leave gaps.
    fn encode_byte_level(
        &self,
        part: &str,
        start: usize,
        added: &AddedTokens,
        model: &ByteLevelBpe,
    ) -> Result<Encoding> {
        let mut encoding = Encoding::default();
        let mut at = start;
        for piece in added.split(part) {
            at += match piece {
                TextPiece::Token(id, name) => {
                    encoding.push(id, at, at + name.len());
                    name.len()
                }
                TextPiece::Text(text) => {
                    model
                        .encode(text, at, &self.0.bytes, &mut encoding)
                        .map_err(|reason| self.error(reason))?;
                    text.len()
                }
            };
        }
        Ok(encoding)
    }

    /// The tokens of a part that begins `start` bytes into the text; `goes_on` says whether text came right
    /// before it.
    fn encode_scored(
        &self,
        part: &str,
        start: usize,
        goes_on: &mut bool,
        added: &AddedTokens,
        model: &ScoredBpe,
    ) -> Encoding {
        // SentencePiece spells spaces as `▁`, so to it a `▁` in the text is a space too.
        if part.contains(SPACE_MARK) {
            let spaced = part.replace(SPACE_MARK, " ");
            let mut encoding = self.encode_scored(&spaced, 0, goes_on, added, model);
            let mut origins = Vec::with_capacity(spaced.len() + 1);
            for (at, character) in part.char_indices() {
                let bytes = if character == SPACE_MARK { 1 } else { character.len_utf8() };
                origins.extend(start + at..start + at + bytes);
            }
            origins.push(start + part.len());
            for (start, end) in &mut encoding.offsets {
                (*start, *end) = (origins[*start], origins[*end]);
            }
            return encoding;
        }
        let mut encoding = Encoding::default();
        let mut at = start;
        for piece in added.split(part) {
            at += match piece {
                TextPiece::Token(id, name) => {
                    *goes_on = false;
                    encoding.push(id, at, at + name.len());
                    name.len()
                }
                TextPiece::Text(text) if self.0.space_prefix && !*goes_on => {
                    *goes_on = true;
                    let before = encoding.offsets.len();
                    model.encode(&format!(" {text}"), at, &mut encoding);
                    for (start, end) in &mut encoding.offsets[before..] {
                        // The space is not in the text.
                        (*start, *end) = (start.saturating_sub(1).max(at), end.saturating_sub(1).max(at));
                    }
                    text.len()
                }
                TextPiece::Text(text) => {
                    *goes_on = true;
                    model.encode(text, at, &mut encoding);
                    text.len()
                }
            };
        }
        encoding
    }

    /// Gives each token its own bytes where the tokens spell the text byte for byte; the crate
    /// gives every part of a character the whole character. Else it only closes gaps.
    fn make_offsets_exact(&self, text: &str, encoding: &mut Encoding) {
        let spelt: Vec<u8> = encoding.ids.iter().flat_map(|&id| self.0.bytes.get(id)).copied().collect();
        let added = match spelt.strip_suffix(text.as_bytes()) {
            Some(b"") => 0,
            Some(b" ") if self.0.space_prefix => 1,
            _ => return encoding.close_gaps(text.len()),
        };
        let mut end = 0_usize;
        for (&id, offsets) in encoding.ids.iter().zip(&mut encoding.offsets) {
            let start = end;
            end += self.0.bytes.get(id).len();
            *offsets = (start.saturating_sub(added), end.saturating_sub(added));
        }
    }

    /// Tokens to text. Ids outside the vocabulary are nothing, bytes that are not UTF-8 are U+FFFD.
    /// With `skip_special`, control tokens are left out; else their names are in the text.
    #[must_use]
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = self.decode_stream(skip_special);
        let mut text = String::new();
        for &id in ids {
            stream.push_into(id, &mut text);
        }
        text + &stream.finish()
    }

    /// A decoder for the tokens of a text that arrive one at a time.
    #[must_use]
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream::new(self.clone(), skip_special, true)
    }

    /// A decoder for tokens that continue a text. The space that a SentencePiece tokenizer puts before a
    /// text is dropped from the beginning of the text alone: a continuation that begins with a word of
    /// its own begins with the space.
    #[must_use]
    pub fn continuation_stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream::new(self.clone(), skip_special, false)
    }

    /// The bytes that a token stands for, often a part of a character; for a special token its
    /// name, for an id outside the vocabulary nothing.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.0.bytes.get(id)
    }

    /// The id of a special or user-defined token, by its name.
    #[must_use]
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.0.names.get(name).copied()
    }

    /// Whether a token is a control token, not text.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        usize::try_from(id).ok().and_then(|id| self.0.special.get(id)).copied().unwrap_or(false)
    }

    /// Whether a token steers the model, so that no document may spell it: a special token other than
    /// the unknown one, or one that begins a turn.
    #[must_use]
    pub fn is_control(&self, id: u32) -> bool {
        usize::try_from(id).ok().and_then(|id| self.0.control.get(id)).copied().unwrap_or(false)
    }

    /// Whether a token ends a generation: an end token that the model's files state, or one that ends a
    /// turn by its name.
    #[must_use]
    pub fn is_end(&self, id: u32) -> bool {
        self.0.ends.binary_search(&id).is_ok()
    }

    /// The beginning token, whether or not the rule adds it to prompts.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.0.bos
    }

    /// The end token.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.0.eos
    }

    /// What a text begins with: the beginning token where the model's rule puts one there, else nothing.
    #[must_use]
    pub fn beginning(&self) -> Vec<u32> {
        self.0.bos.filter(|_| self.0.adds_bos).into_iter().collect()
    }

    /// The number of ids. The model's embedding table may have more rows.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.0.bytes.len()
    }

    /// What this tokenizer is, as a sha256 in hexadecimal. From GGUF: of the tokens, their types,
    /// the scores or merges and the pre-tokenizer, so that files that differ only in their weights
    /// agree. From `tokenizer.json`: of the file.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.0.sha256
    }

    /// The file that it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    fn drops_first_space(&self) -> bool {
        self.0.space_prefix
    }

    fn error(&self, reason: String) -> Error {
        Error::Tokenizer { path: self.0.path.clone(), reason }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Tokenizer")
            .field("path", &self.0.path)
            .field("vocab_size", &self.vocab_size())
            .field("sha256", &self.0.sha256)
            .finish_non_exhaustive()
    }
}
