//! A tokenizer out of a Hugging Face `tokenizer.json`, run by the `tokenizers` crate.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::{AddedVocabulary, Model, OffsetType, PreTokenizer, Token, Tokenizer as HfTokenizer};

use super::token_bytes::{TokenBytes, byte_token};
use super::{END_NAMES, Encoding, Pipeline, SPACE_MARK, SpecialTokens, Tables, Tokenizer, byte_alphabet};
use crate::{Error, Result};

/// The crate's tokenizer, and its added tokens once more with special ones as text.
pub(super) struct JsonPipeline {
    tokenizer: HfTokenizer,
    plain: AddedVocabulary,
}

impl JsonPipeline {
    /// # Errors
    /// The crate's reason.
    pub(super) fn encode(
        &self,
        text: &str,
        specials: SpecialTokens,
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
            pieces.tokenize(|piece| model.tokenize(piece.get()))?;
            pieces.into_encoding(None, 0, OffsetType::Byte)
        };
        let encoding = run().map_err(|error| error.to_string())?;
        Ok(Encoding { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
    }
}

/// How the names of tokens spell text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    ByteLevel,
    SentencePiece,
}

impl Tokenizer {
    /// The tokenizer of a `tokenizer.json`. Which tokens begin and end a text is read from
    /// `tokenizer_config.json` and `generation_config.json` beside it, where they are there.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::InvalidFile`] if it is not JSON of that
    /// kind; [`Error::Tokenizer`] if its tokens are spelt neither in bytes nor as SentencePiece
    /// does.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let content = std::fs::read(path).map_err(Error::io("read", path))?;
        let mut tokenizer = HfTokenizer::from_bytes(&content).map_err(|error| {
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            Error::InvalidFile { path: path.to_owned(), format: "tokenizer.json", reason }
        })?;
        let refuse = |reason: String| Error::Tokenizer { path: path.to_owned(), reason };
        let decoder =
            serde_json::to_value(tokenizer.get_decoder()).map_err(|error| refuse(error.to_string()))?;
        let (spelling, space_prefix) = spelling(&decoder)
            .ok_or_else(|| refuse("its decoder is neither byte-level nor SentencePiece's".to_owned()))?;

        let folder = path.parent().unwrap_or(Path::new(""));
        let config = beside(folder, "tokenizer_config.json")?;
        let generation = beside(folder, "generation_config.json")?;
        let token = |key: &str| named_token(&config, key).and_then(|name| tokenizer.token_to_id(name));
        let mut bos = token("bos_token");
        let eos_ids = numbers(generation.get("eos_token_id"));
        let eos = token("eos_token").or_else(|| eos_ids.first().copied());
        let rule = beginning(&tokenizer).map_err(refuse)?;
        bos = rule.or(bos);

        let added = tokenizer.get_added_tokens_decoder();
        let names: HashMap<String, u32> =
            added.iter().map(|(id, token)| (token.content.clone(), *id)).collect();
        // Ids need not be without gaps: an added token may lie far beyond the others.
        let size = tokenizer
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |largest| largest as usize + 1)
            .min(1 << 24);
        let mut bytes = TokenBytes::with_capacity(size);
        let mut special = Vec::with_capacity(size);
        for id in (0..).take(size) {
            if let Some(token) = added.get(&id) {
                special.push(token.special);
                let content = match spelling {
                    Spelling::SentencePiece if !token.special => token.content.replace(SPACE_MARK, " "),
                    _ => token.content.clone(),
                };
                bytes.push(content.as_bytes());
                continue;
            }
            special.push(false);
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
        let is_special = |id: u32| special.get(id as usize).copied().unwrap_or(false);
        let mut ends: Vec<u32> = eos.into_iter().chain(eos_ids).collect();
        ends.extend(END_NAMES.iter().filter_map(|name| names.get(*name)).filter(|id| is_special(**id)));
        ends.sort_unstable();
        ends.dedup();

        tokenizer.set_encode_special_tokens(true);
        let plain = tokenizer.get_added_vocabulary().clone();
        tokenizer.set_encode_special_tokens(false);
        Ok(Self(Arc::new(Tables {
            path: path.to_owned(),
            pipeline: Pipeline::Json(Box::new(JsonPipeline { tokenizer, plain })),
            bytes,
            special,
            names,
            bos,
            eos,
            ends,
            adds_bos: rule.is_some(),
            space_prefix,
            sha256: Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect(),
        })))
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
    let path = folder.join(name);
    match std::fs::read(&path) {
        Ok(content) => serde_json::from_slice(&content).map_err(|error| Error::InvalidFile {
            path,
            format: "JSON",
            reason: error.to_string(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// The name of a token that a configuration gives as a string or as an object with `content`.
fn named_token<'c>(config: &'c Value, key: &str) -> Option<&'c str> {
    let token = config.get(key)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// One id or a list of ids.
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
        assert_eq!((tokenizer.bos(), tokenizer.adds_bos(), tokenizer.eos()), (Some(1), true, None));
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
