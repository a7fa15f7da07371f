//! A tokenizer out of a GGUF file's metadata (`tokenizer.ggml.*`).
//!
//! Source: the GGUF specification, section “Tokenizer”, and for what the fields mean where it is
//! silent, the behaviour of llama.cpp.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::added_tokens::AddedTokens;
use super::byte_level_bpe::ByteLevelBpe;
use super::control_tokens::{self, ControlTokens, Stated};
use super::scored_bpe::ScoredBpe;
use super::token_bytes::{TokenBytes, byte_token};
use super::{Pipeline, SPACE_MARK, Tables, Tokenizer, byte_alphabet, pre_tokenizer};
use crate::weights::{GgufFile, TensorSource};
use crate::{Error, Result};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
/// What else ends a turn or a message.
const OTHER_ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
/// What else has a role of its own; the names before and after llama.cpp renamed them.
const ROLES: [&str; 9] = [
    "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.cls_token_id",
    "tokenizer.ggml.mask_token_id",
    "tokenizer.ggml.fim_pre_token_id",
    "tokenizer.ggml.fim_suf_token_id",
    "tokenizer.ggml.fim_mid_token_id",
    "tokenizer.ggml.prefix_token_id",
    "tokenizer.ggml.suffix_token_id",
    "tokenizer.ggml.middle_token_id",
];
/// The beginning and the end token of SentencePiece where a file states none.
const SENTENCEPIECE_DEFAULTS: [u32; 2] = [1, 2];

/// What a token is, as `tokenizer.ggml.token_type` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl TokenType {
    fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            // `undefined`: neither found in a text nor shown as anything but its name.
            0 => Self::Unused,
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// Not text: left out of what a reader sees.
    fn is_special(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }
}

/// The value of a key that a file may lack.
fn optional<'g, T>(
    gguf: &'g GgufFile,
    key: &str,
    get: impl FnOnce(&'g GgufFile, &str) -> Result<T>,
) -> Result<Option<T>> {
    gguf.meta(key).map(|_| get(gguf, key)).transpose()
}

impl Tokenizer {
    /// The tokenizer of a GGUF model: byte-level BPE (`gpt2`) or SentencePiece BPE (`llama`).
    ///
    /// What the file states as the beginning or an end of a text, and what ends a turn by its name, is a
    /// control token whatever type the file gives it. An id that no token has (converters write −1 for a
    /// token that a model lacks) is none.
    ///
    /// Qwen 2 and OLMo normalise text to NFC first, as their `tokenizer.json` states; the GGUF file
    /// does not say so.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if a field is missing or of a wrong type; [`Error::Tokenizer`] if
    /// fields contradict each other, or the model or pre-tokenizer is not supported.
    pub fn from_gguf(gguf: &GgufFile) -> Result<Self> {
        let path = gguf.path().to_owned();
        let refuse = |reason: String| Error::Tokenizer { path: path.clone(), reason };

        let tokens = gguf.strings(TOKENS)?;
        let mut types = token_types(gguf, tokens.len()).map_err(|error| match error {
            TypesError::Other(error) => error,
            TypesError::Reason(reason) => refuse(reason),
        })?;
        let model = gguf.str("tokenizer.ggml.model")?;
        let mut hash = identity(model, tokens, &types);

        let is_control = |id: &u32| types.get(*id as usize) == Some(&TokenType::Control);
        let default = |id: u32| (model == "llama").then_some(id).filter(is_control);
        let [bos, eos] = [BOS, EOS].map(|key| stated_id(gguf, key, tokens.len()));
        let bos = bos?.or_else(|| default(SENTENCEPIECE_DEFAULTS[0]));
        let eos = eos?.or_else(|| default(SENTENCEPIECE_DEFAULTS[1]));
        let stated = |keys: &[&str]| -> Result<Vec<u32>> {
            let ids = keys.iter().map(|key| stated_id(gguf, key, tokens.len()));
            Ok(ids.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
        };
        let ids: HashMap<&str, u32> =
            numbered(tokens).filter(|(token, _)| control_tokens::has_a_role(token)).collect();
        let unknown = numbered(tokens).zip(&types).find(|(_, kind)| **kind == TokenType::Unknown);
        let unknown = match unknown {
            Some(((_, id), _)) => Some(id),
            None => stated_id(gguf, "tokenizer.ggml.unknown_token_id", tokens.len())?,
        };
        let ControlTokens { special, control, ends } = ControlTokens::resolve(Stated {
            id_of: &|name| ids.get(name).copied(),
            special: types.iter().map(|kind| kind.is_special()).collect(),
            unknown,
            ends: eos.into_iter().chain(stated(&OTHER_ENDS)?).collect(),
            roles: bos.into_iter().chain(stated(&ROLES)?).collect(),
        });
        let stated_types = types.clone();
        for (kind, special) in types.iter_mut().zip(&special) {
            if *special && *kind != TokenType::Unknown {
                *kind = TokenType::Control;
            }
        }
        let controls = || numbered(tokens).zip(&control).filter(|(_, control)| **control);

        let names: HashMap<String, u32> = numbered(tokens)
            .zip(&types)
            .filter(|(_, kind)| kind.is_special() || **kind == TokenType::UserDefined)
            .map(|((token, id), _)| (token.to_owned(), id))
            .collect();
        // What a token is looked for as: what it spells.
        let literal = |token: &str, id: u32, scored: bool| {
            if scored {
                return token.replace(SPACE_MARK, " ");
            }
            let is_spelt = stated_types.get(id as usize) == Some(&TokenType::Normal);
            let spelt = byte_alphabet::bytes_of(token).filter(|_| is_spelt);
            spelt.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| token.to_owned())
        };
        // User-defined tokens are found in any text, special and control ones in prompts alone.
        let added = |scored: bool, in_prompts: bool| {
            let literals: Vec<(String, u32)> = numbered(tokens)
                .zip(types.iter().zip(&control))
                .filter(|(_, (kind, control))| match kind {
                    TokenType::UserDefined => in_prompts || !**control,
                    kind => in_prompts && (kind.is_special() || **control),
                })
                .map(|((token, id), _)| (literal(token, id, scored), id))
                .collect();
            AddedTokens::new(literals.iter().map(|(token, id)| (token.as_str(), *id))).map_err(refuse)
        };

        let (pipeline, bytes, adds_bos, space_prefix) = match model {
            "gpt2" => {
                let name = optional(gguf, "tokenizer.ggml.pre", GgufFile::str)?.unwrap_or("default");
                let pre = pre_tokenizer::by_name(name).ok_or_else(|| {
                    refuse(format!(
                        "pre-tokenizer `{name}` is not supported, expected one of {}",
                        pre_tokenizer::KNOWN
                    ))
                })?;
                let merges = gguf.strings(MERGES)?;
                hash_list(&mut hash, merges);
                hash.update(format!("{pre:?}"));
                let left_out = controls().map(|((token, _), _)| token).collect();
                let model = ByteLevelBpe::new(numbered(tokens), &left_out, merges, pre).map_err(refuse)?;
                let mut bytes = TokenBytes::with_capacity(tokens.len());
                for (token, kind) in tokens.iter().zip(&stated_types) {
                    let spelt = match kind {
                        TokenType::Normal => byte_alphabet::bytes_of(token),
                        _ => None,
                    };
                    bytes.push(spelt.as_deref().unwrap_or(token.as_bytes()));
                }
                let (plain, all) = (added(false, false)?, added(false, true)?);
                (Pipeline::ByteLevel { plain, all, model }, bytes, pre.adds_bos, false)
            }
            "llama" => {
                let scores = gguf.f32s(SCORES)?;
                if scores.len() != tokens.len() {
                    return Err(refuse(format!(
                        "`{SCORES}` has {} values for {} tokens",
                        scores.len(),
                        tokens.len()
                    )));
                }
                for score in scores {
                    hash.update(score.to_le_bytes());
                }
                let mut byte_ids = [None; 256];
                let mut bytes = TokenBytes::with_capacity(tokens.len());
                for ((token, id), kind) in numbered(tokens).zip(&types) {
                    match byte_token(token).filter(|_| *kind == TokenType::Byte) {
                        Some(byte) => {
                            byte_ids[usize::from(byte)] = Some(id);
                            bytes.push(&[byte]);
                        }
                        None => bytes.push(literal(token, id, true).as_bytes()),
                    }
                }
                let merged = numbered(tokens)
                    .zip(types.iter().zip(&control))
                    .filter(|(_, (kind, control))| **kind == TokenType::Normal && !**control)
                    .map(|((token, id), _)| (literal(token, id, true), id));
                let model = ScoredBpe::new(merged, scores.to_vec(), byte_ids, unknown);
                let space_prefix =
                    optional(gguf, "tokenizer.ggml.add_space_prefix", GgufFile::bool)?.unwrap_or(true);
                hash.update([u8::from(space_prefix)]);
                let (plain, all) = (added(true, false)?, added(true, true)?);
                (Pipeline::Scored { plain, all, model }, bytes, true, space_prefix)
            }
            other => {
                return Err(refuse(format!(
                    "tokenizer model `{other}` is not supported, expected `gpt2` or `llama`"
                )));
            }
        };

        Ok(Self(Arc::new(Tables {
            pipeline,
            bytes,
            special,
            control,
            names,
            bos,
            eos,
            ends,
            adds_bos: optional(gguf, "tokenizer.ggml.add_bos_token", GgufFile::bool)?.unwrap_or(adds_bos),
            space_prefix,
            sha256: arc_adapters::hexadecimal(&hash.finalize()),
            path,
        })))
    }
}

/// Tokens with their ids. GGUF counts in 64 bits, but no vocabulary of over four billion tokens
/// fits the parser's own limits.
fn numbered(tokens: &[String]) -> impl Iterator<Item = (&str, u32)> {
    tokens.iter().map(String::as_str).zip(0..)
}

/// Why token types cannot be read.
enum TypesError {
    Other(Error),
    Reason(String),
}

/// The type of every token; all are normal where the file does not say.
fn token_types(gguf: &GgufFile, tokens: usize) -> std::result::Result<Vec<TokenType>, TypesError> {
    let Some(numbers) = optional(gguf, TYPES, GgufFile::i32s).map_err(TypesError::Other)? else {
        return Ok(vec![TokenType::Normal; tokens]);
    };
    if numbers.len() != tokens {
        return Err(TypesError::Reason(format!(
            "`{TYPES}` has {} values for {tokens} tokens",
            numbers.len()
        )));
    }
    numbers
        .iter()
        .map(|&number| {
            TokenType::from_number(number)
                .ok_or_else(|| TypesError::Reason(format!("`{TYPES}` holds {number}, expected 1 to 6")))
        })
        .collect()
}

/// The token id of a key that a file may lack. An id that no token has is none: converters write −1, as
/// a signed or an unsigned number, for a token that a model has not.
fn stated_id(gguf: &GgufFile, key: &str, tokens: usize) -> Result<Option<u32>> {
    let Some(value) = gguf.meta(key) else { return Ok(None) };
    match value.as_u32() {
        Some(id) => Ok(Some(id).filter(|&id| usize::try_from(id).is_ok_and(|id| id < tokens))),
        None if value.is_integer() => Ok(None),
        // Says of which type it is.
        None => gguf.u32(key).map(Some),
    }
}

/// The hash of what all kinds of tokenizers have; lengths go in too, so that no two lists of
/// strings look the same.
fn identity(model: &str, tokens: &[String], types: &[TokenType]) -> Sha256 {
    let mut hash = Sha256::new();
    hash.update(model.as_bytes());
    hash_list(&mut hash, tokens);
    hash.update(types.iter().map(|kind| *kind as u8).collect::<Vec<_>>());
    hash
}

fn hash_list(hash: &mut Sha256, strings: &[String]) {
    hash.update((strings.len() as u64).to_le_bytes());
    for string in strings {
        hash.update((string.len() as u64).to_le_bytes());
        hash.update(string.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::SpecialTokens;
    use super::*;

    /// Writes GGUF files with metadata and no tensors.
    struct Writer {
        fields: u64,
        bytes: Vec<u8>,
    }

    impl Writer {
        fn new() -> Self {
            let writer = Self { fields: 0, bytes: Vec::new() };
            writer.str("general.architecture", "llama")
        }

        fn text(&mut self, text: &str) {
            self.bytes.extend((text.len() as u64).to_le_bytes());
            self.bytes.extend(text.as_bytes());
        }

        /// Begins a field of ggml's type number `kind`.
        fn field(mut self, key: &str, kind: u32) -> Self {
            self.fields += 1;
            self.text(key);
            self.bytes.extend(kind.to_le_bytes());
            self
        }

        fn array(self, key: &str, kind: u32, len: usize) -> Self {
            let mut writer = self.field(key, 9);
            writer.bytes.extend(kind.to_le_bytes());
            writer.bytes.extend((len as u64).to_le_bytes());
            writer
        }

        fn str(self, key: &str, value: &str) -> Self {
            let mut writer = self.field(key, 8);
            writer.text(value);
            writer
        }

        fn u32(self, key: &str, value: u32) -> Self {
            let mut writer = self.field(key, 4);
            writer.bytes.extend(value.to_le_bytes());
            writer
        }

        fn bool(self, key: &str, value: bool) -> Self {
            let mut writer = self.field(key, 7);
            writer.bytes.push(value.into());
            writer
        }

        fn strs(self, key: &str, values: &[&str]) -> Self {
            let mut writer = self.array(key, 8, values.len());
            for value in values {
                writer.text(value);
            }
            writer
        }

        fn i32s(self, key: &str, values: &[i32]) -> Self {
            let mut writer = self.array(key, 5, values.len());
            writer.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            writer
        }

        fn f32s(self, key: &str, values: &[f32]) -> Self {
            let mut writer = self.array(key, 6, values.len());
            writer.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            writer
        }

        fn tokenizer(self) -> Result<Tokenizer> {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(b"GGUF").unwrap();
            file.write_all(&3_u32.to_le_bytes()).unwrap();
            file.write_all(&0_u64.to_le_bytes()).unwrap();
            file.write_all(&self.fields.to_le_bytes()).unwrap();
            file.write_all(&self.bytes).unwrap();
            file.flush().unwrap();
            Tokenizer::from_gguf(&GgufFile::open(file.path())?)
        }

        fn refusal(self) -> String {
            let message = self.tokenizer().unwrap_err().to_string();
            assert!(!message.contains('\n'));
            message
        }
    }

    /// A Llama 2 in small: a space before the text, bytes for what is not in the vocabulary.
    fn llama() -> Writer {
        let tokens =
            ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "h", "i", "▁h", "▁hi", "hi", "\u{e9}x"];
        Writer::new()
            .str("tokenizer.ggml.model", "llama")
            .strs(TOKENS, &tokens)
            .i32s(TYPES, &[2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1])
            .f32s(SCORES, &[0., 0., 0., 0., 0., -3., -4., -5., -1., -2., -1.5, -9.])
            .u32(BOS, 1)
            .u32(EOS, 2)
    }

    fn gpt2() -> Writer {
        Writer::new()
            .str("tokenizer.ggml.model", "gpt2")
            .str("tokenizer.ggml.pre", "gpt-2")
            .strs(TOKENS, &["h", "i", "hi", "Ġ", "Ġhi", "<|end|>"])
            .i32s(TYPES, &[1, 1, 1, 1, 1, 3])
    }

    /// A byte-level BPE of that pre-tokenizer: all bytes, merges of and across letters, digits and blanks, and
    /// tokens that are found in any text.
    fn byte_level(pre: &str) -> Tokenizer {
        let of = |text: &str| {
            let mut spelt = String::new();
            byte_alphabet::spell(text.as_bytes(), &mut spelt);
            spelt
        };
        let bytes = (0..=u8::MAX).map(|byte| {
            let mut spelt = String::new();
            byte_alphabet::spell(&[byte], &mut spelt);
            spelt
        });
        let pairs = [
            ("a", "b"),
            (" ", "a"),
            (" a", "b"),
            (" ", " "),
            ("\n", "\n"),
            ("5", "5"),
            ("!", "\n"),
            ("'", "s"),
        ];
        let merges: Vec<String> = pairs.iter().map(|(a, b)| format!("{} {}", of(a), of(b))).collect();
        let made = pairs.iter().map(|(a, b)| of(&format!("{a}{b}")));
        let added = ["<x y>", "b\na", "<|z|>"].map(str::to_owned);
        let tokens: Vec<String> = bytes.chain(made).chain(added).collect();
        let mut types = vec![1; tokens.len()];
        let ends = types.len() - 3;
        types[ends..].copy_from_slice(&[4, 4, 3]);
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let merges: Vec<&str> = merges.iter().map(String::as_str).collect();
        let writer = Writer::new().str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", pre);
        writer.strs(TOKENS, &tokens).i32s(TYPES, &types).strs(MERGES, &merges).tokenizer().unwrap()
    }

    /// A SentencePiece BPE with tokens that reach across a space, and a token that is found in any text.
    fn scored(space_prefix: bool) -> Tokenizer {
        let tokens = [
            "<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab", "▁ab", "!", "!▁", "!▁a", "▁▁", "5", "<x▁y>",
            "\n", "\n\n",
        ];
        let types = [2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 4, 4];
        let scores: Vec<f32> = (0_u8..17).map(|at| f32::from(at % 7) - 9.0).collect();
        let writer = Writer::new()
            .str("tokenizer.ggml.model", "llama")
            .strs(TOKENS, &tokens)
            .i32s(TYPES, &types)
            .f32s(SCORES, &scores)
            .u32(BOS, 1)
            .u32(EOS, 2)
            .bool("tokenizer.ggml.add_space_prefix", space_prefix);
        writer.tokenizer().unwrap()
    }

    /// Of what a text is made below: all that a cut could go wrong at.
    const PARTS: [&str; 30] = [
        "a", "b", "ab", "A", "5", "55", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\u{a0}", "\u{3000}", "!",
        "!\n", "/", "'s", "'", "é", "e\u{301}", "\u{301}", "漢", "。", "\u{9c7}", "\u{9be}", "▁", "<x y>",
        "<x y", "<|z|>",
    ];

    fn all_kinds() -> Vec<Tokenizer> {
        let names = pre_tokenizer::KNOWN.split(", ").map(byte_level);
        names.chain([true, false].map(scored)).collect()
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(512))]

        /// The whole is taken apart at once where a part is as long as may be.
        #[test]
        fn parts_make_the_tokens_of_the_whole(
            made_of in proptest::collection::vec(0..PARTS.len(), 0..40),
            bytes in 1..20_usize,
        ) {
            thread_local!(static KINDS: Vec<Tokenizer> = all_kinds());
            let text: String = made_of.into_iter().map(|at| PARTS[at]).collect();
            KINDS.with(|kinds| for tokenizer in kinds {
                for specials in [SpecialTokens::AsText, SpecialTokens::Recognised] {
                    let whole = tokenizer.encode_with(&text, specials).unwrap();
                    let ids = tokenizer.encode_ids_by(&text, specials, bytes).unwrap();
                    assert_eq!(ids, whole.ids, "{text:?}");
                }
            });
        }
    }

    #[test]
    fn a_text_has_many_parts_whatever_the_tokenizer() {
        for tokenizer in all_kinds() {
            let mut parts = 0;
            tokenizer.encode_parts("a b ab 5 b", SpecialTokens::AsText, 1, |_| parts += 1).unwrap();
            assert_eq!(parts, 5, "{tokenizer:?}");
        }
        // Scripts without spaces are cut at lines.
        let mut parts = 0;
        byte_level("qwen2")
            .encode_parts("漢漢。\n漢\n漢\n", SpecialTokens::AsText, 1, |_| parts += 1)
            .unwrap();
        assert_eq!(parts, 3);
    }

    #[test]
    fn sentencepiece_puts_a_space_first_and_offsets_do_not_count_it() {
        let tokenizer = llama().tokenizer().unwrap();
        let encoding = tokenizer.encode("hi hié").unwrap();
        assert_eq!(encoding.ids, [9, 9, 3, 4]);
        assert_eq!(encoding.offsets, [(0, 2), (2, 5), (5, 6), (6, 7)]);
        assert_eq!(tokenizer.decode(&encoding.ids, true), "hi hié");
        assert_eq!(tokenizer.encode_prompt("hi").unwrap(), [1, 9]);
        // A text after a special token begins like any other, as in llama.cpp.
        assert_eq!(tokenizer.encode_prompt("<s>hi").unwrap(), [1, 9]);
        let encoding = tokenizer.encode_with("hi</s><s>hi", SpecialTokens::Recognised).unwrap();
        assert_eq!(encoding.ids, [9, 2, 1, 9]);
        assert_eq!(encoding.offsets, [(0, 2), (2, 6), (6, 9), (9, 11)]);
        assert_eq!(tokenizer.encode("").unwrap(), super::super::Encoding::default());
        assert!(tokenizer.is_end(2) && !tokenizer.is_end(1));

        let bare = llama().bool("tokenizer.ggml.add_space_prefix", false).tokenizer().unwrap();
        assert_eq!(bare.encode("hi hi").unwrap().ids, [10, 9]);
        assert_eq!(bare.decode(&[9, 9], true), " hi hi");
        assert_ne!(bare.sha256(), tokenizer.sha256());
    }

    #[test]
    fn the_identity_changes_with_scores_merges_and_types() {
        let of = |merges: &[&str], kind| {
            let writer = Writer::new()
                .str("tokenizer.ggml.model", "gpt2")
                .strs(TOKENS, &["h", "i", "hi", "ih"])
                .i32s(TYPES, &[1, 1, 1, kind])
                .strs(MERGES, merges);
            writer.tokenizer().unwrap().sha256().to_owned()
        };
        let first = of(&["h i", "i h"], 1);
        assert_eq!(first, of(&["h i", "i h"], 1));
        assert_ne!(first, of(&["i h", "h i"], 1));
        assert_ne!(first, of(&["h i", "i h"], 4));
    }

    #[test]
    fn metadata_that_contradicts_itself_is_refused_in_one_line() {
        let merges = |merges: &[&str]| gpt2().strs(MERGES, merges).refusal();
        assert!(gpt2().strs(MERGES, &["h i", "Ġ hi"]).tokenizer().is_ok());
        assert!(merges(&["hi"]).ends_with("merge 0, `hi`, is not two tokens"));
        assert!(merges(&["h i", "hi hi"]).ends_with("merge 1, `hi hi`, makes a token that is not there"));
        assert!(merges(&["q hi"]).contains("is not there"));
        assert!(gpt2().refusal().contains(MERGES));

        let other = |model: &str| Writer::new().str("tokenizer.ggml.model", model).strs(TOKENS, &[]);
        assert!(other("rwkv").refusal().contains("tokenizer model `rwkv` is not supported"));
        let message = other("gpt2").str("tokenizer.ggml.pre", "new").strs(MERGES, &[]).refusal();
        assert!(message.contains("pre-tokenizer `new` is not supported, expected one of default,"));

        assert!(other("llama").f32s(SCORES, &[1.0]).refusal().contains("has 1 values for 0 tokens"));
        assert!(other("llama").i32s(TYPES, &[1]).refusal().contains("has 1 values for 0 tokens"));
        let message = other("llama").f32s(SCORES, &[]).str(EOS, "</s>").refusal();
        assert!(message.contains("is a string, expected an unsigned integer"), "{message}");
        let odd = Writer::new()
            .str("tokenizer.ggml.model", "llama")
            .strs(TOKENS, &["a"])
            .i32s(TYPES, &[9])
            .f32s(SCORES, &[0.0]);
        assert!(odd.refusal().contains("holds 9, expected 1 to 6"));
        assert!(Writer::new().refusal().contains(TOKENS));
    }
}
