//! Pre-tokenizers of byte-level BPE, by the name that GGUF gives them.
//!
//! A GGUF file does not hold the expressions that cut a text into words, only a name for them
//! (`tokenizer.ggml.pre`). The names are those of llama.cpp's `llama-vocab.cpp`; the expressions
//! are the models' own, as their `tokenizer.json` states them.

use tokenizers::utils::SysRegex;

/// Every digit by itself (`Digits` with `individual_digits` in `tokenizer.json`).
const SINGLE_DIGITS: &str = r"\p{N}";

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Llama 3: digits in groups of at most three.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 2: as Llama 3, with every digit by itself.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Tekken (Mistral NeMo and later): words are also cut where a lower-case run ends.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a byte-level BPE prepares text before it merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    /// Expressions applied one after the other: each cuts every piece that the ones before have
    /// left, keeping matches and what lies between them.
    pub(super) expressions: &'static [&'static str],
    /// Text is brought to Unicode normalisation form C first.
    pub(super) nfc: bool,
    /// A word that is itself a token is not taken apart and merged.
    pub(super) ignore_merges: bool,
    /// Whether a beginning-of-sequence token is added where the file does not say.
    pub(super) adds_bos: bool,
}

/// The names understood, grouped by what they mean; for error messages.
pub(super) const KNOWN: &str = "default, gpt-2, olmo, smollm, starcoder, refact, command-r, \
                                llama-bpe, dbrx, smaug-bpe, qwen2, deepseek-r1-qwen, tekken";

/// The pre-tokenizer of that name, if it is known.
///
/// `default` is what converters write when they do not recognise a model; GPT-2's expression is
/// what such models most often use.
pub(super) fn by_name(name: &str) -> Option<PreTokenizer> {
    let plain = PreTokenizer { expressions: &[GPT2], nfc: false, ignore_merges: false, adds_bos: false };
    Some(match name {
        "default" | "gpt-2" | "phi-2" | "mpt" => plain,
        "olmo" => PreTokenizer { nfc: true, ..plain },
        "smollm" | "starcoder" | "refact" | "command-r" => {
            PreTokenizer { expressions: &[SINGLE_DIGITS, GPT2], ..plain }
        }
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => {
            PreTokenizer { expressions: &[LLAMA3], ignore_merges: true, adds_bos: true, ..plain }
        }
        "dbrx" | "smaug-bpe" => PreTokenizer { expressions: &[LLAMA3], ..plain },
        "qwen2" | "deepseek-r1-qwen" => PreTokenizer { expressions: &[QWEN2], nfc: true, ..plain },
        "tekken" => PreTokenizer { expressions: &[TEKKEN], ignore_merges: true, adds_bos: true, ..plain },
        _ => return None,
    })
}

/// Cuts `text` into words, in order; together they are the text.
pub(super) fn words<'t>(expressions: &[SysRegex], text: &'t str, each: &mut impl FnMut(&'t str)) {
    let Some((first, rest)) = expressions.split_first() else {
        if !text.is_empty() {
            each(text);
        }
        return;
    };
    let mut done = 0;
    for (start, end) in first.find_iter(text) {
        words(rest, &text[done..start], each);
        words(rest, &text[start..end], each);
        done = end;
    }
    words(rest, &text[done..], each);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        let expressions: Vec<_> = by_name(name)
            .unwrap()
            .expressions
            .iter()
            .map(|expression| SysRegex::new(expression).unwrap())
            .collect();
        let mut cut = Vec::new();
        words(&expressions, text, &mut |word| cut.push(word));
        cut
    }

    #[test]
    fn digits_are_grouped_as_each_model_does() {
        assert_eq!(cut("gpt-2", "in 1969"), ["in", " 1969"]);
        assert_eq!(cut("smollm", "in 1969"), ["in", " ", "1", "9", "6", "9"]);
        assert_eq!(cut("qwen2", "in 1969"), ["in", " ", "1", "9", "6", "9"]);
        assert_eq!(cut("llama-bpe", "in 1969"), ["in", " ", "196", "9"]);
    }

    #[test]
    fn words_always_make_up_the_text() {
        let text = " a  b\t\n\n c's 12,5€ 漢字 \u{301}x  ";
        for name in KNOWN.split(", ") {
            assert_eq!(cut(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn every_name_in_the_error_message_is_known_and_others_are_not() {
        assert!(KNOWN.split(", ").all(|name| by_name(name).is_some()));
        assert_eq!(by_name("no-such-pre"), None);
    }
}
