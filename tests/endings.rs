//! Where an answer ends, and what of it is shown: end tokens by what files state and by their names, stop
//! texts that are names of tokens, and the space that an answer begins with.

#[path = "harness/tiny.rs"]
mod tiny;

use std::path::Path;

use arc_core::decoder::{Decoder, FinishReason, GenerateOptions, Generation};
use arc_core::device::DeviceName;
use arc_core::prompt::Prompt;
use serde_json::{Value, json};
use tiny::{Gguf, Meta, tiny_llama};

/// How many tokens are written.
const STEPS: usize = 4;

fn open(path: &Path) -> Decoder {
    Decoder::open("tiny", path, &DeviceName::CPU.open().expect("the CPU")).expect("a model")
}

fn write_on(decoder: &Decoder, ids: &[u32], stop: &[&str]) -> Generation {
    let stop = stop.iter().map(|text| (*text).to_owned()).collect();
    let options = GenerateOptions::default().max_tokens(STEPS).stop(stop);
    let mut streamed = String::new();
    let prompts = [Prompt::from_tokens(ids.to_vec())];
    let generations = decoder.generate(&prompts, &options, |_, text| streamed.push_str(text));
    let row = generations.expect("a prompt").rows.remove(0);
    assert_eq!(streamed, row.text);
    row
}

fn generate(model: &Gguf, ids: &[u32], stop: &[&str]) -> Generation {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, model.to_bytes()).expect("a model");
    write_on(&open(&path), ids, stop)
}

/// A prompt, and what a tiny llama writes after it, all of it different tokens.
fn prompt_and_answer() -> (Vec<u32>, Vec<u32>) {
    for first in 40..250 {
        let ids = vec![1, first];
        let answer = generate(&tiny_llama(), &ids, &[]).token_ids;
        let mut different = answer.clone();
        different.sort_unstable();
        different.dedup();
        if different.len() == STEPS && different[0] > 2 {
            return (ids, answer);
        }
    }
    panic!("no prompt gives {STEPS} different tokens");
}

/// The tiny llama with another name and another type for one of its tokens.
fn with_token(id: u32, name: &str, kind: i32) -> Gguf {
    let mut model = tiny_llama();
    for (_, value) in &mut model.metadata {
        match value {
            Meta::Texts(tokens) => tokens[id as usize] = name.to_owned(),
            Meta::Ints(kinds) => kinds[id as usize] = kind,
            _ => {}
        }
    }
    model
}

#[test]
fn an_answer_ends_at_a_token_that_ends_a_turn_by_its_name_whatever_its_type() {
    let (ids, answer) = prompt_and_answer();
    for name in ["<|im_end|>", "<end_of_turn>", "<|eot_id|>", "[EOS]", "<｜end▁of▁sentence｜>"] {
        for kind in [1, 3, 4] {
            let row = generate(&with_token(answer[2], name, kind), &ids, &[]);
            assert_eq!((&row.token_ids[..], row.finish), (&answer[..3], FinishReason::End), "{name}, {kind}");
            assert!(!row.text.contains(name));
        }
    }
}

#[test]
fn an_answer_ends_at_every_end_that_a_gguf_file_states() {
    let (ids, answer) = prompt_and_answer();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        let mut model = with_token(answer[1], "over", 1);
        model.set(key, Meta::U32(answer[1]));
        let row = generate(&model, &ids, &[]);
        assert_eq!((&row.token_ids[..], row.finish), (&answer[..2], FinishReason::End), "{key}");
    }
}

#[test]
fn a_stop_text_that_names_a_special_token_ends_the_answer_at_that_token() {
    let (ids, answer) = prompt_and_answer();
    let model = with_token(answer[2], "<|tool_use|>", 3);
    let row = generate(&model, &ids, &["<|tool_use|>"]);
    assert_eq!((&row.token_ids[..], row.finish), (&answer[..3], FinishReason::Stop));
    let without = generate(&model, &ids, &[]);
    assert_eq!((without.token_ids.len(), without.finish), (STEPS, FinishReason::Length));
    assert!(without.text.starts_with(&row.text) && !without.text.contains("tool"));
    // One that is text is found in the text.
    let model = with_token(answer[2], "<|tool_use|>", 4);
    let row = generate(&model, &ids, &["_use"]);
    assert_eq!((&row.token_ids[..], row.finish), (&answer[..3], FinishReason::Stop));
    assert!(row.text.ends_with("<|tool"));
}

#[test]
fn an_answer_keeps_the_space_that_it_begins_with() {
    let (ids, answer) = prompt_and_answer();
    let mut model = with_token(answer[0], "▁Paris", 1);
    model.set("tokenizer.ggml.add_space_prefix", Meta::Bool(true));
    assert!(generate(&model, &ids, &[]).text.starts_with(" Paris"));
    let row = generate(&model, &ids, &[" Paris"]);
    assert_eq!((row.text.as_str(), row.finish), ("", FinishReason::Stop));
    // A text by itself does not begin with it.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, model.to_bytes()).expect("a model");
    assert_eq!(open(&path).tokenizer.decode(&answer[..1], true), "Paris");
}

/// A copy of a golden model from Hugging Face's layout, with more files.
fn folder_with(files: &[(&str, Value)]) -> (tempfile::TempDir, Vec<u32>, Vec<u32>) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/architectures/llama-linear");
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(&golden).expect("golden data") {
        let entry = entry.expect("golden data");
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a copy");
    }
    for (name, json) in files {
        let path = folder.path().join(name);
        let mut whole: Value =
            std::fs::read(&path).map_or(json!({}), |text| serde_json::from_slice(&text).expect("JSON"));
        whole.as_object_mut().expect("an object").extend(json.as_object().expect("an object").clone());
        std::fs::write(&path, whole.to_string()).expect("a file");
    }
    let expected = std::fs::read(golden.join("expected.json")).expect("golden data");
    let expected: Value = serde_json::from_slice(&expected).expect("golden data");
    let ids = |name: &str| serde_json::from_value(expected[0][name].clone()).expect("ids");
    (folder, ids("ids"), ids("greedy"))
}

#[test]
fn end_tokens_come_from_every_file_of_a_folder_alike() {
    let (_, _, greedy) = folder_with(&[]);
    let at = greedy[1];
    let earlier = greedy.iter().position(|&id| id == at).expect("it is there");
    let none = || json!({ "eos_token_id": null });
    for files in [
        vec![("config.json", json!({ "eos_token_id": at }))],
        vec![("config.json", json!({ "eos_token_id": [60_000, at], "pad_token_id": -1 }))],
        vec![("config.json", none()), ("generation_config.json", json!({ "eos_token_id": [at] }))],
        vec![
            ("config.json", json!({ "eos_token_id": at })),
            ("generation_config.json", json!({ "eos_token_id": -1 })),
        ],
    ] {
        let place = format!("{files:?}");
        let (folder, ids, _) = folder_with(&files);
        let row = write_on(&open(folder.path()), &ids, &[]);
        assert_eq!((&row.token_ids[..], row.finish), (&greedy[..=earlier], FinishReason::End), "{place}");
    }
    // And what ends no text ends no answer.
    let (folder, ids, _) = folder_with(&[("config.json", json!({ "eos_token_id": -1 }))]);
    let row = write_on(&open(folder.path()), &ids, &[]);
    assert_eq!((&row.token_ids[..], row.finish), (&greedy[..STEPS], FinishReason::Length));
}
