//! Text out of tokens that arrive one at a time.

use super::Tokenizer;

/// Turns tokens into text as they arrive, holding back bytes until they make whole characters.
///
/// All that [`push`](Self::push) and [`finish`](Self::finish) return, joined, is what
/// [`Tokenizer::decode`] makes of all the tokens at once; in a
/// [continuation](Tokenizer::continuation_stream) with the space that the text's first word would lose.
#[derive(Clone)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    at_start: bool,
    /// The beginning of a character that is not complete yet: at most three bytes.
    pending: Vec<u8>,
}

impl DecodeStream {
    /// A stream that begins a text, or one that continues it.
    pub(super) fn new(tokenizer: Tokenizer, skip_special: bool, at_start: bool) -> Self {
        Self { tokenizer, skip_special, at_start, pending: Vec::new() }
    }

    /// Takes the next token and returns the text that is complete with it, often a word, sometimes
    /// nothing. Bytes that cannot be UTF-8 come out as U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        let mut text = String::new();
        self.push_into(id, &mut text);
        text
    }

    /// As [`push`](Self::push), appending to `text`.
    pub(super) fn push_into(&mut self, id: u32, text: &mut String) {
        if self.skip_special && self.tokenizer.is_special(id) {
            return;
        }
        let mut bytes = self.tokenizer.token_bytes(id);
        if bytes.is_empty() {
            return;
        }
        if std::mem::take(&mut self.at_start) && self.tokenizer.drops_first_space() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            if done + invalid.len() == self.pending.len() && is_incomplete(invalid) {
                break;
            }
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                done += invalid.len();
            }
        }
        self.pending.drain(..done);
    }

    /// Ends the stream: what was held back can no longer become a character, and comes out as
    /// U+FFFD.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Whether more bytes could make these a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
