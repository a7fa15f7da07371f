//! Byte-level BPE (GPT-2, Llama 3, Qwen 2, SmolLM2, OLMo): words are cut by a pre-tokenizer, and
//! the bytes of each word are merged in the order of the merge list.

use std::collections::{HashMap, HashSet};

use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizer::{NormalizedString, Range};
use tokenizers::utils::SysRegex;

use super::Encoding;
use super::byte_alphabet;
use super::parts::Around;
use super::pre_tokenizer::{self, PreTokenizer};
use super::token_bytes::TokenBytes;

/// A byte-level BPE without its added tokens.
pub(super) struct ByteLevelBpe {
    bpe: BPE,
    expressions: Vec<SysRegex>,
    nfc: bool,
}

impl ByteLevelBpe {
    /// A model of `tokens`, spelt in the byte alphabet, with their ids, and `merges`, best first. No
    /// text becomes a token that is `left_out`, neither by merging nor as a word of its own.
    ///
    /// # Errors
    /// The reason, for example a merge of tokens that are not in the vocabulary.
    pub(super) fn new<'a>(
        tokens: impl Iterator<Item = (&'a str, u32)>,
        left_out: &HashSet<&str>,
        merges: &[String],
        pre_tokenizer: PreTokenizer,
    ) -> std::result::Result<Self, String> {
        let vocabulary: Vocab = tokens
            .filter(|(token, _)| !left_out.contains(token))
            .map(|(token, id)| (token.to_owned(), id))
            .collect();
        let merges = merges
            .iter()
            .enumerate()
            .filter_map(|(rank, merge)| {
                let Some((left, right)) = merge.split_once(' ') else {
                    return Some(Err(format!("merge {rank}, `{merge}`, is not two tokens")));
                };
                let made = [left, right].concat();
                if [left, right, &made].iter().any(|token| left_out.contains(token)) {
                    return None;
                }
                // The crate relies on this and would panic.
                Some(if vocabulary.contains_key(made.as_str()) {
                    Ok((left.to_owned(), right.to_owned()))
                } else {
                    Err(format!("merge {rank}, `{merge}`, makes a token that is not there"))
                })
            })
            .collect::<std::result::Result<_, _>>()?;
        let bpe = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .ignore_merges(pre_tokenizer.ignore_merges)
            // Words that repeat are looked up in the encoding itself.
            .cache_capacity(0)
            .build()
            .map_err(|error| error.to_string())?;
        let expressions = pre_tokenizer
            .expressions
            .iter()
            .map(|expression| SysRegex::new(expression).map_err(|error| error.to_string()))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self { bpe, expressions, nfc: pre_tokenizer.nfc })
    }

    /// Whether a text becomes the same words in two parts, cut there, as in one.
    ///
    /// It does before a space that follows something else: no expression of [`pre_tokenizer`] matches a
    /// space behind anything but blanks, or looks beyond what is not blank. And it does after a line feed
    /// between something else and a letter, for scripts without spaces: only at the beginning of a match stands
    /// anything before a letter, and there no line feed may. Nothing is composed with either character.
    pub(super) fn is_cut(around: Around) -> bool {
        let Around { before_last, last, next } = around;
        match (last, next) {
            ('\n', next) => {
                next.is_alphabetic() && before_last.is_some_and(|character| !character.is_whitespace())
            }
            (last, ' ') => !last.is_whitespace(),
            _ => false,
        }
    }

    /// Appends the tokens of `text`, which begins `start` bytes into the whole text. Where
    /// characters were composed, or bytes are not in the vocabulary, ranges leave gaps.
    ///
    /// # Errors
    /// The model's reason.
    pub(super) fn encode(
        &self,
        text: &str,
        start: usize,
        bytes: &TokenBytes,
        encoding: &mut Encoding,
    ) -> std::result::Result<(), String> {
        if !self.nfc || text.is_ascii() {
            return self.merge(text, start, bytes, encoding);
        }
        let mut normalized = NormalizedString::from(text);
        normalized.nfc();
        if normalized.get() == text {
            return self.merge(text, start, bytes, encoding);
        }
        let mut of_normalized = Encoding::default();
        self.merge(normalized.get(), 0, bytes, &mut of_normalized)?;
        for (from, to) in &mut of_normalized.offsets {
            if let Some(original) = normalized.convert_offsets(Range::Normalized(*from..*to)) {
                (*from, *to) = (original.start, original.end);
            }
        }
        for (id, (from, to)) in of_normalized.ids.into_iter().zip(of_normalized.offsets) {
            encoding.push(id, start + from, start + to);
        }
        Ok(())
    }

    /// Appends the tokens of a text that needs no normalisation.
    fn merge(
        &self,
        text: &str,
        start: usize,
        bytes: &TokenBytes,
        encoding: &mut Encoding,
    ) -> std::result::Result<(), String> {
        let mut outcome = Ok(());
        let mut spelt = String::new();
        let mut seen: HashMap<&str, (std::ops::Range<usize>, usize)> = HashMap::new();
        let mut at = start;
        pre_tokenizer::words(&self.expressions, text, &mut |word| {
            let begin = at;
            at += word.len();
            if outcome.is_err() {
                return;
            }
            if let Some((tokens, first)) = seen.get(word) {
                encoding.repeat(tokens.clone(), *first, begin);
                return;
            }
            spelt.clear();
            byte_alphabet::spell(word.as_bytes(), &mut spelt);
            let before = encoding.ids.len();
            match self.bpe.tokenize(&spelt) {
                Ok(tokens) => {
                    let mut rest = word.as_bytes();
                    for token in tokens {
                        let token_bytes = bytes.get(token.id);
                        // A byte that the vocabulary lacks is left out, as in the original.
                        while !rest.is_empty() && !rest.starts_with(token_bytes) {
                            rest = &rest[1..];
                        }
                        let from = at - rest.len();
                        rest = rest.get(token_bytes.len()..).unwrap_or_default();
                        encoding.push(token.id, from, at - rest.len());
                    }
                    seen.insert(word, (before..encoding.ids.len(), begin));
                }
                Err(error) => outcome = Err(error.to_string()),
            }
        });
        outcome
    }
}
