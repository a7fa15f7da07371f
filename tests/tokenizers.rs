//! `tokenizer.json` of four families against the `tokenizers` Python package, on tiny vocabularies
//! and messy text (`golden/tokenizers`, made by `scripts/golden/tokenizer_families.py`).

use std::path::Path;

use arc_core::tokenizer::{SpecialTokens, Tokenizer};
use serde::Deserialize;

const FAMILIES: [&str; 4] = ["llama3", "qwen2", "olmo", "gemma3"];

/// What the Python package made of a text.
#[derive(Deserialize)]
struct Golden {
    of: String,
    /// Special tokens recognised.
    ids: Vec<u32>,
    /// Special tokens as text.
    plain: Vec<u32>,
    /// As `ids`, with what the post-processor adds.
    prompt: Vec<u32>,
    /// The text of `ids` without special tokens.
    text: String,
}

/// Runs a claim on each family and each of its texts.
fn for_each_text(claim: impl Fn(&str, &Tokenizer, &Golden)) {
    for family in FAMILIES {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers").join(family);
        let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).expect("a tokenizer");
        let text = std::fs::read(folder.join("expected.json")).expect("golden data");
        let all: Vec<Golden> = serde_json::from_slice(&text).expect("golden data");
        assert!(all.len() > 40 && all.iter().any(|golden| golden.ids != golden.plain), "{family}");
        for golden in all {
            claim(&format!("{family} {:?}", golden.of), &tokenizer, &golden);
        }
    }
}

#[test]
fn messy_text_has_the_ids_of_the_python_package() {
    for_each_text(|place, tokenizer, golden| {
        let recognised = tokenizer.encode_with(&golden.of, SpecialTokens::Recognised).expect("a text");
        assert_eq!(recognised.ids, golden.ids, "{place}");
        assert_eq!(tokenizer.encode(&golden.of).expect("a text").ids, golden.plain, "{place}");
    });
}

#[test]
fn a_prompt_begins_as_the_post_processor_says_and_only_once() {
    for_each_text(|place, tokenizer, golden| {
        let prompt = tokenizer.encode_prompt(&golden.of).expect("a text");
        // The package adds its token to a text that begins with it.
        let has_its_own = !tokenizer.beginning().is_empty() && golden.ids.starts_with(&tokenizer.beginning());
        let expected = if has_its_own { &golden.ids } else { &golden.prompt };
        assert_eq!(&prompt, expected, "{place}");
    });
}

#[test]
fn ids_become_the_text_of_the_python_package() {
    for_each_text(|place, tokenizer, golden| {
        assert_eq!(tokenizer.decode(&golden.ids, true), golden.text, "{place}");
    });
}
