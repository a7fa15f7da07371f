//! The decoders against transformers in float32 on the same GGUF files (`golden/decoders.json`):
//! token ids, loss, logits and greedy tokens; and every way to read a prompt against the plain one.

mod harness;

use std::sync::Arc;

use arc_core::decoder::{Decoder, GenerateOptions, Transformer};
use arc_core::prompt::{Prompt, Span};
use arc_core::sampling::SamplingOptions;
use burn::tensor::Tensor;
use harness::notice::notice;
use harness::{decoder, repository};
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

/// Logits closer than this are a tie: rounding decides between them.
const TIE: f32 = 1e-3;

fn golden(key: &str) -> Vec<Golden> {
    let text = std::fs::read_to_string(repository("tests/golden/decoders.json")).expect("golden data");
    let mut all: std::collections::HashMap<String, Vec<Golden>> =
        serde_json::from_str(&text).expect("golden data");
    all.remove(key).expect("a model's golden data")
}

/// Runs a claim on each model and each of its prompts.
fn for_each_prompt(claim: impl Fn(&str, &Arc<Decoder>, &Golden)) {
    for (name, key) in MODELS {
        let Some(decoder) = decoder(name) else { return };
        for golden in golden(key) {
            claim(name, &decoder, &golden);
        }
    }
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, sampling: SamplingOptions::default(), stop: Vec::new() }
}

/// The largest absolute difference between two rows of logits.
fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The logits after `hidden`'s last position.
fn logits_at_end(network: &Transformer, hidden: Tensor<3>) -> Vec<f32> {
    let s = hidden.dims()[1];
    network.logits(hidden.narrow(1, s - 1, 1)).try_into_vec_as::<f32>().expect("f32")
}

/// Asserts that `found` are the greedy tokens, save that they may part at a tie, which is shown.
fn assert_greedy(name: &str, decoder: &Decoder, golden: &Golden, found: &[u32]) {
    let Some(step) =
        (0..golden.greedy.len().max(found.len())).find(|&step| golden.greedy.get(step) != found.get(step))
    else {
        return;
    };
    let mut ids = golden.ids.clone();
    ids.extend(&golden.greedy[..step]);
    let (hidden, _) = decoder.prefill(&[Prompt::from_tokens(ids)]);
    let logits = logits_at_end(&decoder.network, hidden);
    let (Some(&expected), Some(&found)) = (golden.greedy.get(step), found.get(step)) else {
        panic!("{name} `{}`: one ends at step {step}", golden.prompt);
    };
    let gap = (logits[expected as usize] - logits[found as usize]).abs();
    notice(format_args!(
        "{name} `{}`: tie at step {step}, {expected} against {found}, {gap:e} apart",
        golden.prompt
    ));
    assert!(
        gap < TIE,
        "{name} `{}`: step {step} is {found}, expected {expected}, {gap} apart",
        golden.prompt
    );
}

#[test]
fn token_ids_equal_transformers() {
    for_each_prompt(|name, decoder, golden| {
        let ids = decoder.tokenizer.encode_prompt(&golden.prompt).expect("a prompt");
        assert_eq!(ids, golden.ids, "{name} `{}`", golden.prompt);
    });
}

#[test]
fn losses_equal_transformers() {
    for_each_prompt(|name, decoder, golden| {
        let loss =
            decoder.loss(&Prompt::from_tokens(golden.ids.clone())).expect("a prompt").expect("targets");
        assert!(
            (loss - golden.nll).abs() < 1e-3,
            "{name} `{}`: {loss}, expected {}",
            golden.prompt,
            golden.nll
        );
    });
}

#[test]
fn logits_and_greedy_tokens_equal_transformers_streamed() {
    for_each_prompt(|name, decoder, golden| {
        let mut streamed = String::new();
        let prompt = Prompt::from_tokens(golden.ids.clone());
        let generated = decoder
            .generate(&[prompt], &greedy(32), |_, text| streamed.push_str(text))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let row = &generated.rows[0];
        let mut ranked: Vec<u32> = (0..row.prompt_logits.len() as u32).collect();
        ranked.sort_by(|&a, &b| row.prompt_logits[b as usize].total_cmp(&row.prompt_logits[a as usize]));
        for (rank, (&id, &logit)) in golden.top_ids.iter().zip(&golden.top_logits).enumerate() {
            let found = row.prompt_logits[ranked[rank] as usize];
            assert!(
                (found - logit).abs() < 1e-2,
                "{name} `{}`: rank {rank}: {found}, expected {logit}",
                golden.prompt
            );
            let tied = (row.prompt_logits[id as usize] - found).abs() < TIE;
            assert!(ranked[rank] == id || tied, "{name} `{}`: rank {rank}", golden.prompt);
        }
        assert_greedy(name, decoder, golden, &row.token_ids);
        assert_eq!(streamed, row.text, "{name}: what was streamed is the text");
        assert_eq!(row.text, decoder.tokenizer.decode(&row.token_ids, true), "{name}");
    });
}

#[test]
fn a_prompt_of_embeddings_is_the_prompt_of_its_tokens() {
    for_each_prompt(|name, decoder, golden| {
        let mut prompt = Prompt::new();
        let half = golden.ids.len() / 2;
        prompt.push(Span::Latents(decoder.network.embed(&golden.ids[..half])));
        prompt.push(Span::Tokens(golden.ids[half..].to_vec()));
        let generated = decoder.generate(&[prompt], &greedy(32), |_, _| {}).expect("a prompt");
        assert_greedy(name, decoder, golden, &generated.rows[0].token_ids);
    });
}

#[test]
fn the_cache_may_be_cut_at_any_place() {
    for_each_prompt(|name, decoder, golden| {
        let whole = Prompt::from_tokens(golden.ids.clone());
        let (hidden, _) = decoder.prefill(std::slice::from_ref(&whole));
        let expected = logits_at_end(&decoder.network, hidden);
        let embeddings = whole.embed(&decoder.network).unsqueeze::<3>();
        let n = golden.ids.len();
        for cut in [1, n / 2, n - 1] {
            let mut cache = decoder.network.new_cache(vec![0]);
            let _ = decoder.network.forward(embeddings.clone().narrow(1, 0, cut), &mut cache);
            let hidden = decoder.network.forward(embeddings.clone().narrow(1, cut, n - cut), &mut cache);
            let found = logits_at_end(&decoder.network, hidden);
            let worst = worst(&found, &expected);
            assert!(worst < 1e-2, "{name} `{}` cut at {cut}: {worst} apart", golden.prompt);
        }
        // What was read beyond a cut can be forgotten.
        let mut cache = decoder.network.new_cache(vec![0]);
        let _ = decoder.network.forward(embeddings.clone(), &mut cache);
        cache.truncate(n - 1);
        let hidden = decoder.network.forward(embeddings.narrow(1, n - 1, 1), &mut cache);
        let worst = worst(&logits_at_end(&decoder.network, hidden), &expected);
        assert!(worst < 1e-2, "{name} `{}` truncated: {worst} apart", golden.prompt);
    });
}

#[test]
fn a_batch_of_other_lengths_changes_nothing() {
    for (name, key) in MODELS {
        let Some(decoder) = decoder(name) else { return };
        let all = golden(key);
        let prompts: Vec<Prompt> = all.iter().map(|golden| Prompt::from_tokens(golden.ids.clone())).collect();
        let generated = decoder.generate(&prompts, &greedy(32), |_, _| {}).expect("a batch");
        for (golden, row) in all.iter().zip(&generated.rows) {
            assert_greedy(name, &decoder, golden, &row.token_ids);
        }
    }
}
