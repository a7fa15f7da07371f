//! The decoders against transformers in float32 on the same GGUF files (`golden/decoders.json`):
//! token ids, and for every way to read a prompt its loss, logits and greedy tokens.

mod harness;
#[path = "harness/reading.rs"]
mod reading;

use std::sync::Arc;

use arc_core::decoder::Decoder;
use arc_core::prompt::Prompt;
use harness::notice::notice;
use harness::{decoder, repository};
use reading::Reading;
use serde::Deserialize;

/// What transformers computed for one prompt.
#[derive(Deserialize)]
struct Golden {
    prompt: String,
    ids: Vec<u32>,
    nll: f64,
    top_ids: Vec<u32>,
    top_logits: Vec<f32>,
    greedy: Vec<u32>,
}

const MODELS: [(&str, &str); 3] =
    [("smollm2-135m", "smol"), ("gemma3-270m", "gemma"), ("qwen2.5-coder-0.5b", "qwen")];

/// How many greedy tokens the golden data has, or fewer where the text ends.
const STEPS: usize = 32;
/// How many are written after each of many cuts.
const FEW_STEPS: usize = 8;

/// Logits closer than this are a tie: rounding decides between them.
const TIE: f32 = 1e-3;

fn golden(key: &str) -> Vec<Golden> {
    let text = std::fs::read_to_string(repository("tests/golden/decoders.json")).expect("golden data");
    let mut all: std::collections::HashMap<String, Vec<Golden>> =
        serde_json::from_str(&text).expect("golden data");
    all.remove(key).expect("a model's golden data")
}

/// Runs a claim on each model and each of its prompts.
fn for_each_prompt(claim: impl Fn(&Arc<Decoder>, &Golden)) {
    for (name, key) in MODELS {
        let Some(decoder) = decoder(name) else { return };
        for golden in golden(key) {
            claim(&decoder, &golden);
        }
    }
}

/// Asserts that a reading of the prompt, with `steps` greedy tokens, is that of transformers.
#[track_caller]
fn assert_golden(decoder: &Decoder, golden: &Golden, reading: &Reading, steps: usize) {
    let place = format!("{} `{}`", decoder.name, golden.prompt);
    let Reading { loss, logits, greedy } = reading;
    assert!((loss - golden.nll).abs() < 1e-3, "{place}: loss {loss}, expected {}", golden.nll);

    let mut ranked: Vec<u32> = (0..logits.len() as u32).collect();
    ranked.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    assert_eq!(golden.top_ids.len(), 8, "{place}");
    for (rank, (&id, &logit)) in golden.top_ids.iter().zip(&golden.top_logits).enumerate() {
        let found = logits[ranked[rank] as usize];
        assert!((found - logit).abs() < 1e-2, "{place}: rank {rank}: {found}, expected {logit}");
        let tied = (logits[id as usize] - found).abs() < TIE;
        assert!(ranked[rank] == id || tied, "{place}: rank {rank} is {}, expected {id}", ranked[rank]);
    }
    assert_greedy(&place, decoder, golden, greedy, steps);
}

/// Asserts that `found` are the greedy tokens, save that they may part at a tie, which is shown.
#[track_caller]
fn assert_greedy(place: &str, decoder: &Decoder, golden: &Golden, found: &[u32], steps: usize) {
    let expected = &golden.greedy[..golden.greedy.len().min(steps)];
    let Some(step) = (0..expected.len().max(found.len())).find(|&step| expected.get(step) != found.get(step))
    else {
        return;
    };
    let (Some(&expected), Some(&found)) = (expected.get(step), found.get(step)) else {
        panic!("{place}: one ends at step {step}");
    };
    let ids = [&golden.ids, &golden.greedy[..step]].concat();
    let (hidden, _) = decoder.prefill(&[Prompt::from_tokens(ids.clone())]);
    let (_, logits) = reading::score(decoder, hidden, &ids);
    let gap = (logits[expected as usize] - logits[found as usize]).abs();
    notice(format_args!("{place}: tie at step {step}, {expected} against {found}, {gap:e} apart"));
    assert!(gap < TIE, "{place}: step {step} is {found}, expected {expected}, {gap} apart");
}

#[test]
fn token_ids_equal_transformers() {
    for_each_prompt(|decoder, golden| {
        let ids = decoder.tokenizer.encode_prompt(&golden.prompt).expect("a prompt");
        assert_eq!(ids, golden.ids, "{} `{}`", decoder.name, golden.prompt);
    });
}

#[test]
fn losses_logits_and_greedy_tokens_equal_transformers_streamed() {
    for_each_prompt(|decoder, golden| {
        assert_golden(decoder, golden, &reading::streamed(decoder, &golden.ids, STEPS), STEPS);
    });
}

#[test]
fn a_prompt_of_embeddings_is_the_prompt_of_its_tokens() {
    for_each_prompt(|decoder, golden| {
        assert_golden(decoder, golden, &reading::as_embeddings(decoder, &golden.ids, STEPS), STEPS);
    });
}

#[test]
fn a_batch_of_other_lengths_changes_nothing() {
    for (name, key) in MODELS {
        let Some(decoder) = decoder(name) else { return };
        let all = golden(key);
        let rows: Vec<&[u32]> = all.iter().map(|golden| golden.ids.as_slice()).collect();
        for (golden, reading) in all.iter().zip(reading::batch(&decoder, &rows, STEPS)) {
            assert_golden(&decoder, golden, &reading, STEPS);
        }
    }
}

#[test]
fn the_cache_may_be_cut_at_every_place_of_a_prompt() {
    let (name, key) = MODELS[0];
    let Some(decoder) = decoder(name) else { return };
    let golden = golden(key).into_iter().max_by_key(|golden| golden.ids.len()).expect("a prompt");
    for at in 1..golden.ids.len() {
        let reading = reading::cut(&decoder, &golden.ids, at, &[], FEW_STEPS);
        assert_golden(&decoder, &golden, &reading, FEW_STEPS);
    }
}

#[test]
fn the_cache_of_every_prompt_may_be_cut_and_what_it_read_beyond_forgotten() {
    for_each_prompt(|decoder, golden| {
        let n = golden.ids.len();
        for (at, forgotten) in [(1, &[][..]), (n / 2, &golden.greedy), (n - 1, &golden.ids)] {
            let reading = reading::cut(decoder, &golden.ids, at, forgotten, FEW_STEPS);
            assert_golden(decoder, golden, &reading, FEW_STEPS);
        }
    });
}
