//! A tokenizer out of a Hugging Face `tokenizer.json`, run by the `tokenizers` crate.
//!
//! What the files beside it call special is special, as in transformers, whatever `tokenizer.json` says of
//! it; the end tokens of all of them count.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::{
    AddedToken, AddedVocabulary, Model, OffsetType, PreTokenizer, Token, Tokenizer as HfTokenizer,
};

use super::control_tokens::{self, ControlTokens, Stated};
use super::token_bytes::{TokenBytes, byte_token};
use super::{Encoding, Pipeline, SPACE_MARK, SpecialTokens, Tables, Tokenizer, byte_alphabet};
use crate::bounded_file::{BESIDE_TOKENIZER, TOKENIZER, if_there, read_json, read_text};
use crate::{Error, Result};

/// The crate's tokenizer, and its added tokens once more with control tokens as text.
pub(super) struct JsonPipeline {
    tokenizer: HfTokenizer,
    plain: AddedVocabulary,
}

impl JsonPipeline {
    /// As text, `text` becomes none of the `control` tokens, which are given by id.
    ///
    /// # Errors
    /// The crate's reason.
    pub(super) fn encode(
        &self,
        text: &str,
        specials: SpecialTokens,
        control: &[bool],
    ) -> std::result::Result<Encoding, String> {
        let added = match specials {
            SpecialTokens::AsText => &self.plain,
            SpecialTokens::Recognised => self.tokenizer.get_added_vocabulary(),
        };
        let run = || {
            let mut pieces = added.extract_and_normalize(self.tokenizer.get_normalizer(), text);
            if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut pieces)?;
            }
            let model = self.tokenizer.get_model();
            pieces.tokenize(|piece| match specials {
                SpecialTokens::AsText => tokenize_as_text(model, piece.get(), control),
                SpecialTokens::Recognised => model.tokenize(piece.get()),
            })?;
            pieces.into_encoding(None, 0, OffsetType::Byte)
        };
        let encoding = run().map_err(|error| error.to_string())?;
        Ok(Encoding { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
    }
}

/// The tokens of a word, without control tokens: a model may have their names among its words, and a
/// Unigram's are the cheapest of all. Such a token is cut in two until its parts are other tokens; a
/// single character becomes its bytes, or nothing where the model has none.
fn tokenize_as_text(model: &impl Model, word: &str, control: &[bool]) -> tokenizers::Result<Vec<Token>> {
    let is_control = |id: u32| control.get(id as usize).copied().unwrap_or(false);
    let tokens = model.tokenize(word)?;
    if !tokens.iter().any(|token| is_control(token.id)) {
        return Ok(tokens);
    }
    let mut kept = Vec::with_capacity(tokens.len() + 1);
    for token in tokens {
        let (start, end) = token.offsets;
        let spelt = word.get(start..end).unwrap_or_default();
        let middle =
            (spelt.char_indices().map(|(at, _)| at).skip(1)).min_by_key(|at| at.abs_diff(spelt.len() / 2));
        match middle {
            _ if !is_control(token.id) => kept.push(token),
            Some(middle) => {
                for (from, part) in [(start, &spelt[..middle]), (start + middle, &spelt[middle..])] {
                    kept.extend(tokenize_as_text(model, part, control)?.into_iter().map(|mut token| {
                        token.offsets = (token.offsets.0 + from, token.offsets.1 + from);
                        token
                    }));
                }
            }
            None => kept.extend(spelt.bytes().filter_map(|byte| {
                let name = format!("<0x{byte:02X}>");
                let id = model.token_to_id(&name).filter(|&id| !is_control(id))?;
                Some(Token::new(id, name, (start, end)))
            })),
        }
    }
    Ok(kept)
}

/// How the names of tokens spell text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    ByteLevel,
    SentencePiece,
}

impl Tokenizer {
    /// The tokenizer of a `tokenizer.json`. Which tokens begin and end a text is read from
    /// `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and `config.json`
    /// beside it, where they are there; the end tokens of all of them end a generation.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::InvalidFile`] if it is not JSON of that
    /// kind; [`Error::Tokenizer`] if its tokens are spelt neither in bytes nor as SentencePiece
    /// does.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // As text: of bytes that are none, the `tokenizers` crate panics.
        let content = read_text(path, TOKENIZER)?;
        let mut tokenizer = HfTokenizer::from_bytes(&content).map_err(|error| {
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            Error::InvalidFile { path: path.to_owned(), format: "tokenizer.json", reason }
        })?;
        let refuse = |reason: String| Error::Tokenizer { path: path.to_owned(), reason };
        let decoder =
            serde_json::to_value(tokenizer.get_decoder()).map_err(|error| refuse(error.to_string()))?;
        let (spelling, space_prefix) = spelling(&decoder).ok_or_else(|| refuse(unsupported(&decoder)))?;

        let beside = FilesBeside::read(path.parent().unwrap_or(Path::new("")))?;
        let token = |key: &str| beside.named(key).and_then(|name| tokenizer.token_to_id(name));
        let stated_ends = beside.end_ids();
        let eos = token("eos_token").or_else(|| stated_ends.first().copied());
        let rule = beginning(&tokenizer).map_err(refuse)?;
        let bos = rule.or(token("bos_token")).or_else(|| beside.beginning_id());

        let added = tokenizer.get_added_tokens_decoder();
        // Ids need not be without gaps: an added token may lie far beyond the others.
        let size = tokenizer
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |largest| largest as usize + 1)
            .min(1 << 24);
        let unknown = unknown_token(tokenizer.get_model());
        let roles = (beside.special_names().into_iter())
            .filter_map(|(key, name)| {
                let id = tokenizer.token_to_id(name)?;
                // Some files name an ordinary word, such as `!`, for what they have no token for.
                let is_filler = key == "pad_token" || key == "unk_token";
                (!is_filler || added.contains_key(&id)).then_some(id)
            })
            .chain(bos)
            .collect();
        let ControlTokens { special, control, ends } = ControlTokens::resolve(Stated {
            id_of: &|name| tokenizer.token_to_id(name),
            special: ids(size).map(|id| added.get(&id).is_some_and(|token| token.special)).collect(),
            unknown,
            ends: eos.into_iter().chain(stated_ends).collect(),
            roles,
        });

        // Those that `tokenizer.json` has among its words alone are looked for in prompts too, if they are
        // named: an id may be that of an ordinary word by mistake, which is then to be merged as ever.
        let named: HashSet<&str> = beside.special_names().into_iter().map(|(_, name)| name).collect();
        let words: Vec<AddedToken> = ids(size)
            .filter(|id| special[*id as usize] && !added.contains_key(id))
            .filter_map(|id| tokenizer.id_to_token(id))
            .filter(|name| named.contains(name.as_str()) || control_tokens::is_known(name))
            .map(|name| AddedToken::from(name, true))
            .collect();
        if !words.is_empty() {
            tokenizer.add_special_tokens(words).map_err(|error| refuse(error.to_string()))?;
        }
        let added = tokenizer.get_added_tokens_decoder();
        let names: HashMap<String, u32> =
            added.iter().map(|(id, token)| (token.content.clone(), *id)).collect();
        let mut bytes = TokenBytes::with_capacity(size);
        for (id, special) in ids(size).zip(&special) {
            if let Some(token) = added.get(&id) {
                let content = match spelling {
                    Spelling::SentencePiece if !special => token.content.replace(SPACE_MARK, " "),
                    _ => token.content.clone(),
                };
                bytes.push(content.as_bytes());
                continue;
            }
            let token = tokenizer.get_model().id_to_token(id).unwrap_or_default();
            match spelling {
                Spelling::ByteLevel => match byte_alphabet::bytes_of(&token) {
                    Some(spelt) => bytes.push(&spelt),
                    None => bytes.push(token.as_bytes()),
                },
                Spelling::SentencePiece => match byte_token(&token) {
                    Some(byte) => bytes.push(&[byte]),
                    None => bytes.push(token.replace(SPACE_MARK, " ").as_bytes()),
                },
            }
        }

        let mut plain = tokenizer.get_added_vocabulary().clone();
        let as_special = (added.iter())
            .filter(|(id, token)| !token.special && control.get(**id as usize).copied().unwrap_or(false))
            .map(|(_, token)| token.clone().special(true));
        let normalizer = tokenizer.get_normalizer();
        plain
            .add_special_tokens(as_special, tokenizer.get_model(), normalizer)
            .map_err(|error| refuse(error.to_string()))?;
        plain.set_encode_special_tokens(true);
        Ok(Self(Arc::new(Tables {
            path: path.to_owned(),
            pipeline: Pipeline::Json(Box::new(JsonPipeline { tokenizer, plain })),
            bytes,
            special,
            control,
            names,
            bos,
            eos,
            ends,
            adds_bos: rule.is_some(),
            space_prefix,
            sha256: arc_adapters::sha256_hex(content.as_bytes()),
        })))
    }
}

/// The first `size` ids.
fn ids(size: usize) -> impl Iterator<Item = u32> {
    (0..).take(size)
}

/// The token that a model gives for what it does not know: Unigram keeps it to itself, so it is asked
/// about a character that no vocabulary has.
fn unknown_token(model: &impl Model) -> Option<u32> {
    match model.tokenize("\u{10FFFF}").ok()?.as_slice() {
        [unknown] => Some(unknown.id),
        _ => None,
    }
}

/// What the files beside a `tokenizer.json` say of its tokens.
struct FilesBeside {
    tokenizer_config: Value,
    special_tokens_map: Value,
    generation_config: Value,
    config: Value,
}

impl FilesBeside {
    /// Reads those of `folder` that are there.
    fn read(folder: &Path) -> Result<Self> {
        Ok(Self {
            tokenizer_config: beside(folder, "tokenizer_config.json")?,
            special_tokens_map: beside(folder, "special_tokens_map.json")?,
            generation_config: beside(folder, "generation_config.json")?,
            config: beside(folder, "config.json")?,
        })
    }

    /// The files that name tokens; the first that names one of a kind counts.
    fn naming(&self) -> [&Value; 2] {
        [&self.tokenizer_config, &self.special_tokens_map]
    }

    /// The files that give ids, and the part of a multimodal model's that is about text.
    fn numbering(&self) -> [&Value; 3] {
        [&self.generation_config, &self.config, self.config.get("text_config").unwrap_or(&Value::Null)]
    }

    /// The name of the token of a role, such as `eos_token`.
    fn named(&self, role: &str) -> Option<&str> {
        self.naming().into_iter().find_map(|file| named_token(file.get(role)?))
    }

    /// The names of all special tokens, with the role that each has.
    fn special_names(&self) -> Vec<(&str, &str)> {
        let mut names = Vec::new();
        for (key, value) in self.naming().into_iter().filter_map(Value::as_object).flatten() {
            match (key.as_str(), value) {
                ("additional_special_tokens" | "extra_special_tokens", Value::Array(tokens)) => {
                    names.extend(tokens.iter().filter_map(named_token).map(|name| (key.as_str(), name)));
                }
                ("extra_special_tokens", Value::Object(tokens)) => {
                    names.extend(tokens.values().filter_map(named_token).map(|name| (key.as_str(), name)));
                }
                ("added_tokens_decoder", Value::Object(tokens)) => {
                    let special = tokens.values().filter(|token| token["special"] == Value::Bool(true));
                    names.extend(special.filter_map(named_token).map(|name| (key.as_str(), name)));
                }
                (key, value) if key.ends_with("_token") => {
                    names.extend(named_token(value).map(|name| (key, name)));
                }
                _ => {}
            }
        }
        names
    }

    /// The ids at which a generation ends, the first stated first.
    fn end_ids(&self) -> Vec<u32> {
        self.numbering().into_iter().flat_map(|file| numbers(file.get("eos_token_id"))).collect()
    }

    /// The id of the beginning token.
    fn beginning_id(&self) -> Option<u32> {
        self.numbering().into_iter().find_map(|file| numbers(file.get("bos_token_id")).first().copied())
    }
}

/// How tokens are spelt, and whether the first space is dropped, from the decoder's description.
fn spelling(decoder: &Value) -> Option<(Spelling, bool)> {
    match kind(decoder) {
        "ByteLevel" => Some((Spelling::ByteLevel, false)),
        "Metaspace" => {
            let never = decoder.get("prepend_scheme").and_then(Value::as_str) == Some("never");
            Some((Spelling::SentencePiece, !never))
        }
        "Sequence" => {
            let steps = decoder.get("decoders")?.as_array()?;
            if let Some(decoder) = steps.iter().find(|step| kind(step) == "ByteLevel") {
                return spelling(decoder);
            }
            steps.iter().any(|step| kind(step) == "ByteFallback").then(|| {
                let strips = steps.iter().any(|step| {
                    kind(step) == "Strip"
                        && step.get("start").and_then(Value::as_u64).is_some_and(|start| start > 0)
                });
                (Spelling::SentencePiece, strips)
            })
        }
        _ => None,
    }
}

/// Says of which kind a tokenizer is that is not read.
fn unsupported(decoder: &Value) -> String {
    let found = match kind(decoder) {
        "" => "it has no decoder".to_owned(),
        kind => format!("its decoder is `{kind}`"),
    };
    format!("{found}, expected one of byte-level BPE or of SentencePiece")
}

fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The token that the post-processor puts before a text, if it does.
fn beginning(tokenizer: &HfTokenizer) -> std::result::Result<Option<u32>, String> {
    const TEXT: u32 = u32::MAX;
    let text = tokenizers::Encoding::from_tokens(vec![Token::new(TEXT, "x".into(), (0, 1))], 0);
    let processed = tokenizer.post_process(text, None, true).map_err(|error| error.to_string())?;
    Ok(processed.get_ids().first().copied().filter(|&id| id != TEXT))
}

/// A JSON file of the same folder; null if there is none.
fn beside(folder: &Path, name: &str) -> Result<Value> {
    Ok(if_there(read_json(&folder.join(name), BESIDE_TOKENIZER))?.unwrap_or_default())
}

/// The name of a token that is given as a string or as an object with `content`.
fn named_token(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// One id or a list of ids; what is no id, such as −1 for a token that a model has not, is left out.
fn numbers(value: Option<&Value>) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SentencePiece tokenizer as converters write it: `▁` first, bytes as a last resort.
    fn sentencepiece() -> Value {
        serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{
                "id": 1, "content": "<s>", "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            }],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ]},
            "pre_tokenizer": null,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                           {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                         {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
            },
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": "<unk>",
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
                "byte_fallback": true,
                "vocab": {"<unk>": 0, "<s>": 1, "<0xC3>": 2, "<0xA9>": 3, "▁": 4, "h": 5, "i": 6,
                          "hi": 7, "▁hi": 8},
                "merges": [["h", "i"], ["▁", "hi"]],
            },
        })
    }

    fn write(content: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn sentencepiece_offsets_are_of_the_original_bytes() {
        let (_folder, path) = write(&sentencepiece().to_string());
        let tokenizer = Tokenizer::from_file(&path).unwrap();
        let encoding = tokenizer.encode("hi hié").unwrap();
        assert_eq!(encoding.ids, [8, 8, 2, 3]);
        assert_eq!(encoding.offsets, [(0, 2), (2, 5), (5, 6), (6, 7)]);
        assert_eq!(tokenizer.decode(&encoding.ids, true), "hi hié");
        // A space that is there already is a token of its own.
        let encoding = tokenizer.encode(" hi").unwrap();
        assert_eq!((encoding.ids, encoding.offsets), (vec![4, 8], vec![(0, 0), (0, 3)]));
        assert_eq!(tokenizer.decode(&[4, 8], true), " hi");
    }

    #[test]
    fn the_post_processor_says_whether_a_beginning_token_is_added() {
        let (folder, path) = write(&sentencepiece().to_string());
        let tokenizer = Tokenizer::from_file(&path).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.beginning(), tokenizer.eos()), (Some(1), vec![1], None));
        assert_eq!(tokenizer.encode_prompt("hi").unwrap(), [1, 8]);
        assert_eq!(tokenizer.encode("hi").unwrap().ids, [8]);
        std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [7, 0]}"#).unwrap();
        let tokenizer = Tokenizer::from_file(&path).unwrap();
        assert_eq!(tokenizer.eos(), Some(7));
        assert!(tokenizer.is_end(7) && tokenizer.is_end(0) && !tokenizer.is_end(8));
    }

    #[test]
    fn files_that_are_no_tokenizer_are_refused_in_one_line() {
        for content in ["", "{", "{\"model\": 3}", "[]", "\u{0}"] {
            let (_folder, path) = write(content);
            let error = Tokenizer::from_file(&path).unwrap_err();
            assert!(matches!(error, Error::InvalidFile { .. }), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        // In a key of the decoder, where the `tokenizers` crate panics of it.
        let (folder, path) = write("");
        let text = sentencepiece().to_string().replacen("\"start\":1", "\"st\u{1}rt\":1", 1);
        let bytes: Vec<u8> = text.bytes().map(|byte| if byte == 1 { 0xff } else { byte }).collect();
        assert!(bytes.contains(&0xff));
        std::fs::write(&path, bytes).unwrap();
        let error = Tokenizer::from_file(&path).unwrap_err();
        assert!(error.to_string().contains("is not UTF-8"), "{error}");
        drop(folder);
        let mut wordpiece = sentencepiece();
        wordpiece["decoder"] = serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
        let (_folder, path) = write(&wordpiece.to_string());
        assert!(matches!(Tokenizer::from_file(&path), Err(Error::Tokenizer { .. })));
        let (folder, path) = write(&sentencepiece().to_string());
        std::fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
        assert!(matches!(Tokenizer::from_file(&path), Err(Error::InvalidFile { .. })));
        assert!(matches!(Tokenizer::from_file("/nowhere/t.json"), Err(Error::Io { .. })));
    }
}
