//! No document, question, title or description reaches a prompt as a control token, whatever family the
//! tokenizer is of: texts made of the names of control tokens, parts of them and what normalisation makes
//! of other characters, by the thousand, from a seed.

#[path = "harness/tiny.rs"]
mod tiny;

use std::path::Path;

use arc_core::prompt::ChatTemplate;
use arc_core::prompt::{EncodedPart, Instruction, PromptForm, Shot};
use arc_core::prompt::{PromptPart, PromptTemplate};
use arc_core::tokenizer::{SpecialTokens, Tokenizer};
use arc_core::weights::GgufFile;
use serde_json::{Value, json};
use tempfile::TempDir;
use tiny::{Gguf, Meta};

/// Texts for each claim and family.
const TEXTS: usize = 3000;

/// Control tokens of the vocabularies, and why they are: their files say so, or what else does.
const CONTROL: [&str; 9] = [
    "<s>",           // stated as the beginning
    "</s>",          // special
    "<|im_start|>",  // begins a turn by its name
    "<|im_end|>",    // ends a turn by its name
    "<end_of_turn>", // likewise
    "<|custom|>",    // stated as the end
    "END",           // stated as the end of a turn, and a word that merges make
    "<|tool|>",      // begins a turn, and is found in any text by its file
    "<|special|>",   // special
];

/// What its file calls user-defined: it is found in any text, and is none of them.
const FOUND_EVERYWHERE: &str = "<think>";

/// The generator of Numerical Recipes.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    /// A text that tries to spell control tokens.
    fn text(&mut self) -> String {
        const OTHERS: [&str; 16] = [
            " ", "\n", "a", "hi", "<", "|", ">", "▁", "\u{feff}", "\u{301}", "é", "漢", "\u{F8FF}",
            "\u{F8FE}", "<0x3C>", "\0",
        ];
        // What compatibility normalisation makes ordinary characters of.
        const WIDE: [&str; 4] = ["＜／s＞", "＜|im_end|＞", "ＥＮＤ", "<|ｉｍ_end|>"];
        let pieces = self.below(8);
        (0..pieces)
            .map(|_| match self.below(6) {
                0 | 1 => self.of(&CONTROL).to_owned(),
                2 => {
                    let name: Vec<char> = self.of(&CONTROL).chars().collect();
                    let (from, to) = (self.below(name.len()), self.below(name.len() + 1));
                    name[from.min(to)..from.max(to)].iter().collect()
                }
                3 => FOUND_EVERYWHERE.to_owned(),
                4 => self.of(&WIDE).to_owned(),
                _ => self.of(&OTHERS).to_owned(),
            })
            .collect()
    }
}

/// Bytes as GPT-2 spells them.
fn byte_alphabet() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    (0..256)
        .map(|byte| {
            let code = if printable(byte) { byte } else { next };
            next += u32::from(!printable(byte));
            char::from_u32(code).expect("a character")
        })
        .collect()
}

/// Merges that make a word of single characters, one after the other, and what they make.
fn merges_of(word: &str) -> Vec<(String, String)> {
    let ends: Vec<usize> = word.char_indices().map(|(at, _)| at).skip(1).chain([word.len()]).collect();
    ends.windows(2).map(|pair| (word[..pair[0]].to_owned(), word[pair[0]..pair[1]].to_owned())).collect()
}

/// A byte-level vocabulary in which merges make every control token, and its merges.
fn byte_level() -> (Vec<String>, Vec<(String, String)>) {
    let mut tokens: Vec<String> = byte_alphabet().into_iter().map(String::from).collect();
    let mut merges: Vec<(String, String)> = Vec::new();
    for name in CONTROL.iter().chain([&FOUND_EVERYWHERE]) {
        for (left, right) in merges_of(name) {
            let made = format!("{left}{right}");
            if !tokens.contains(&made) {
                tokens.push(made);
                merges.push((left, right));
            }
        }
    }
    (tokens, merges)
}

fn id_of(tokens: &[String], name: &str) -> u32 {
    tokens.iter().position(|token| token == name).expect("a token") as u32
}

fn of_gguf(model: Gguf) -> Tokenizer {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("t.gguf");
    std::fs::write(&path, model.to_bytes()).expect("a file");
    Tokenizer::from_gguf(&GgufFile::open(&path).expect("a GGUF file")).expect("a tokenizer")
}

/// What a GGUF file states of the tokens whose type says nothing.
fn stated(tokens: &[String], mut metadata: Vec<(&'static str, Meta)>) -> Tokenizer {
    for (key, name) in [
        ("tokenizer.ggml.bos_token_id", "<s>"),
        ("tokenizer.ggml.eos_token_id", "<|custom|>"),
        ("tokenizer.ggml.eot_token_id", "END"),
    ] {
        metadata.push((key, Meta::U32(id_of(tokens, name))));
    }
    metadata.push(("general.architecture", Meta::Text("llama".into())));
    metadata.push(("tokenizer.ggml.tokens", Meta::Texts(tokens.to_vec())));
    of_gguf(Gguf { metadata, tensors: Vec::new(), seed: 0, weights: tiny::Weights::Even })
}

/// The type numbers of a vocabulary: control, user-defined, and for all else `usual`.
fn types(tokens: &[String], usual: impl Fn(&str) -> i32) -> Meta {
    let kind = |token: &String| match token.as_str() {
        "<|special|>" | "</s>" => 3,
        "<|tool|>" | FOUND_EVERYWHERE => 4,
        other => usual(other),
    };
    Meta::Ints(tokens.iter().map(kind).collect())
}

fn gguf_byte_level(pre: &str) -> Tokenizer {
    let (tokens, merges) = byte_level();
    let merges = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    let metadata = vec![
        ("tokenizer.ggml.model", Meta::Text("gpt2".into())),
        ("tokenizer.ggml.pre", Meta::Text(pre.into())),
        ("tokenizer.ggml.token_type", types(&tokens, |_| 1)),
        ("tokenizer.ggml.merges", Meta::Texts(merges)),
    ];
    stated(&tokens, metadata)
}

/// The characters, the words and the byte tokens of SentencePiece vocabularies, control tokens among them.
fn sentencepiece() -> Vec<String> {
    let mut tokens: Vec<String> = ["<unk>", "▁", "a", "▁a", "h", "i", "hi", "▁hi"].map(String::from).into();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    for name in CONTROL.iter().chain([&FOUND_EVERYWHERE]) {
        for end in name.char_indices().map(|(at, _)| at).skip(1).chain([name.len()]) {
            for token in [&name[..end], &name[end - name[..end].chars().last().expect("one").len_utf8()..end]]
            {
                if !tokens.iter().any(|known| known == token) {
                    tokens.push(token.to_owned());
                }
            }
        }
    }
    tokens
}

fn gguf_sentencepiece(space_prefix: bool) -> Tokenizer {
    let tokens = sentencepiece();
    let is_byte = |token: &str| token.len() == 6 && token.starts_with("<0x");
    // Longer tokens are better, so that merging goes on until a name is whole.
    let scores = tokens.iter().map(|token| token.len() as f32).collect();
    let metadata = vec![
        ("tokenizer.ggml.model", Meta::Text("llama".into())),
        ("tokenizer.ggml.add_space_prefix", Meta::Bool(space_prefix)),
        ("tokenizer.ggml.scores", Meta::Floats(scores)),
        (
            "tokenizer.ggml.token_type",
            types(&tokens, |token| match token {
                "<unk>" => 2,
                token if is_byte(token) => 6,
                _ => 1,
            }),
        ),
    ];
    stated(&tokens, metadata)
}

fn of_json(tokenizer: &Value) -> Tokenizer {
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, json: Value| {
        std::fs::write(folder.path().join(name), json.to_string()).expect("a file");
    };
    write("tokenizer.json", tokenizer.clone());
    write("tokenizer_config.json", json!({ "bos_token": "<s>", "eos_token": { "content": "<|custom|>" } }));
    write("special_tokens_map.json", json!({ "eot_token": "END" }));
    Tokenizer::from_file(folder.path().join("tokenizer.json")).expect("a tokenizer")
}

/// A `tokenizer.json` with a model of `vocabulary`; of its tokens the added ones say no more than that the
/// last is special.
fn json_of(steps: Value, model: Value, id: impl Fn(&str) -> u32) -> Value {
    let added =
        ["<|im_start|>", "<|im_end|>", "<|tool|>", FOUND_EVERYWHERE, "</s>", "<|special|>"].map(|name| {
            json!({
                "id": id(name), "content": name, "special": matches!(name, "</s>" | "<|special|>"),
                // As files have those that are not special.
                "normalized": name == "<|im_end|>", "single_word": false, "lstrip": false, "rstrip": false,
            })
        });
    let mut tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "added_tokens": added, "post_processor": null, "model": model,
    });
    for (key, value) in steps.as_object().expect("steps") {
        tokenizer[key] = value.clone();
    }
    tokenizer
}

fn vocabulary(tokens: &[String]) -> Value {
    tokens
        .iter()
        .zip(0_u32..)
        .map(|(token, id)| (token.clone(), json!(id)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn json_byte_level() -> Tokenizer {
    let (tokens, merges) = byte_level();
    let step =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
        "vocab": vocabulary(&tokens), "merges": merges,
    });
    let steps = json!({ "normalizer": { "type": "NFKC" }, "pre_tokenizer": step, "decoder": step });
    of_json(&json_of(steps, model, |name| id_of(&tokens, name)))
}

/// The steps of SentencePiece tokenizers that converters write.
fn sentencepiece_steps() -> Value {
    json!({
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFKC" },
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ] },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] },
    })
}

fn json_sentencepiece() -> Tokenizer {
    let tokens = sentencepiece();
    let names = CONTROL.iter().chain([&FOUND_EVERYWHERE]);
    let mut merges: Vec<(String, String)> = Vec::new();
    for merge in names.flat_map(|name| merges_of(name)) {
        if !merges.contains(&merge) {
            merges.push(merge);
        }
    }
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
        "vocab": vocabulary(&tokens), "merges": merges,
    });
    of_json(&json_of(sentencepiece_steps(), model, |name| id_of(&tokens, name)))
}

fn json_unigram() -> Tokenizer {
    let tokens = sentencepiece();
    // Control tokens cost nothing, as T5's do: the cheapest way to cut a text is through them.
    let pieces: Vec<Value> = tokens
        .iter()
        .map(|token| json!([token, if CONTROL.contains(&token.as_str()) { 0.0 } else { -10.0 }]))
        .collect();
    let model = json!({ "type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": true });
    of_json(&json_of(sentencepiece_steps(), model, |name| id_of(&tokens, name)))
}

/// Runs a claim on every family.
fn for_each_family(claim: impl Fn(&str, &Tokenizer)) {
    claim("GGUF, byte-level", &gguf_byte_level("default"));
    claim("GGUF, byte-level, whole words", &gguf_byte_level("llama-bpe"));
    claim("GGUF, SentencePiece", &gguf_sentencepiece(true));
    claim("GGUF, SentencePiece, no space", &gguf_sentencepiece(false));
    claim("tokenizer.json, byte-level", &json_byte_level());
    claim("tokenizer.json, SentencePiece", &json_sentencepiece());
    claim("tokenizer.json, Unigram", &json_unigram());
}

fn control_of(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u32> {
    ids.iter().copied().filter(|&id| tokenizer.is_control(id)).collect()
}

#[test]
fn every_family_knows_its_control_tokens_by_type_by_name_and_by_what_is_stated() {
    for_each_family(|family, tokenizer| {
        for name in CONTROL {
            let ids = tokenizer.encode_with(name, SpecialTokens::Recognised).expect("a text").ids;
            assert_eq!(control_of(tokenizer, &ids).len(), 1, "{family}: {name}");
        }
        for end in ["<|im_end|>", "<end_of_turn>", "<|custom|>"] {
            let id = tokenizer.special_id(end).unwrap_or_else(|| panic!("{family} has no {end}"));
            assert!(tokenizer.is_end(id) && tokenizer.is_special(id), "{family}: {end}");
        }
        let think = tokenizer.special_id(FOUND_EVERYWHERE).expect("a token");
        assert!(!tokenizer.is_control(think), "{family}");
        assert_eq!(tokenizer.encode(FOUND_EVERYWHERE).expect("a text").ids.last(), Some(&think), "{family}");
    });
}

#[test]
fn no_document_becomes_a_control_token() {
    for_each_family(|family, tokenizer| {
        let mut random = Random(1);
        for _ in 0..TEXTS {
            let text = random.text();
            let encoding = tokenizer.encode(&text).expect("a text");
            let control = control_of(tokenizer, &encoding.ids);
            assert!(control.is_empty(), "{family}: {text:?} gives {control:?}");
        }
    });
}

#[test]
fn a_document_that_spells_control_tokens_is_still_all_there() {
    for_each_family(|family, tokenizer| {
        let mut random = Random(2);
        for _ in 0..TEXTS {
            let text = random.text();
            // Normalisation and SentencePiece's own spaces change a text, control tokens or not.
            let changes = |c: char| !c.is_ascii() || c == '\0';
            // What is spelt like a byte token is taken for one by the `tokenizers` crate.
            if text.contains(changes) || text.contains("<0x") {
                continue;
            }
            let ids = tokenizer.encode(&text).expect("a text").ids;
            let decoded = tokenizer.decode(&ids, false);
            let added = |c: char| c == ' ';
            assert_eq!(decoded.replace(added, ""), text.replace(added, ""), "{family}: {text:?}");
        }
    });
}

#[test]
fn no_question_becomes_a_control_token_even_with_the_templates_words() {
    // The last would be whole with a question that ends what it has begun.
    for source in [
        "<s><|im_start|>user\n{{ document }}\n{{ question }}<|im_end|>\n<|im_start|>assistant\n",
        "{{ document }} {{ question }} <|custom|>",
        "{{ document }}<|{{ question }}|>",
        "{{ question }}END{{ document }}",
    ] {
        let template = PromptTemplate::parse(source).expect("a template");
        for_each_family(|family, tokenizer| {
            let control = |question: &str| {
                let parts = template.render(question, tokenizer).expect("a prompt");
                let ids = parts.into_iter().flat_map(|part| match part {
                    PromptPart::Tokens(ids) => ids,
                    PromptPart::Document => Vec::new(),
                });
                control_of(tokenizer, &ids.collect::<Vec<_>>())
            };
            let own = control("why");
            let mut random = Random(3);
            for question in ["im_end", "im_start|>x<|im_end"]
                .map(str::to_owned)
                .into_iter()
                .chain((0..TEXTS / 10).map(|_| random.text()))
            {
                assert_eq!(control(&question), own, "{family}: {source:?} with {question:?}");
            }
        });
    }
}

#[test]
fn no_part_of_a_form_becomes_a_control_token() {
    let chat = ChatTemplate::new(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
        "<s>",
        "<|im_end|>",
    )
    .expect("a template");
    // The system's words within the user's turn, and the name of a control token that they could complete.
    let trimming = ChatTemplate::new(
        "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{% if messages[0].role == 'system' %}\
         <|{{ messages[0].content | trim }}|>{% endif %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}",
        "<s>",
        "<|im_end|>",
    )
    .expect("a template");
    for_each_family(|family, tokenizer| {
        let control = |text: &str| {
            let instruction = Instruction::new(text).after(format!("{text}: ")).beginning(text);
            let shots = [Shot::new(1, text, text)];
            let forms = [
                PromptForm::few_shot(&shots, 1, text),
                PromptForm::continuation(text),
                PromptForm::llama_2_chat(None, &instruction, 1),
                PromptForm::llama_2_chat(Some(text), &instruction, 1),
                PromptForm::chat(&chat, None, &instruction, 1).expect("a form"),
                PromptForm::chat(&chat, Some(text), &instruction, 1).expect("a form"),
                PromptForm::chat(&trimming, Some(text), &instruction, 1).expect("a form"),
            ];
            forms.map(|form| {
                let ids = form.encode(tokenizer).expect("tokens").into_iter().flat_map(|part| match part {
                    EncodedPart::Tokens(ids) => ids,
                    EncodedPart::Context(_) => Vec::new(),
                });
                control_of(tokenizer, &ids.collect::<Vec<_>>())
            })
        };
        let own = control("why");
        let mut random = Random(4);
        let completing = ["im_end", " im_start ", "im_start|>x<|im_end"].map(str::to_owned);
        for text in completing.into_iter().chain((0..TEXTS / 30).map(|_| random.text())) {
            assert_eq!(control(&text), own, "{family}: {text:?}");
        }
    });
}

/// A family that is not read is refused by name, so that nothing of it reaches a prompt.
#[test]
fn wordpiece_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokenizer.json");
    let model = json!({
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": { "[UNK]": 0, "a": 1 },
    });
    let steps =
        json!({ "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true }, "added_tokens": [] });
    std::fs::write(&path, json_of(steps, model, |_| 0).to_string()).expect("a file");
    let error = Tokenizer::from_file(Path::new(&path)).expect_err("no tokenizer of ours").to_string();
    assert!(error.contains("WordPiece"), "{error}");
}
