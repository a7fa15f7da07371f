//! Every architecture from Hugging Face's layout against transformers in float32, on tiny random
//! models (`golden/architectures`, made by `scripts/golden/architectures.py`), with weights that
//! stay as stored on the CPU, and dense on the device of `ARC_TEST_DEVICE`.

#[path = "harness/device.rs"]
mod device;
#[path = "harness/reading.rs"]
mod reading;

use std::path::{Path, PathBuf};

use arc_core::decoder::Decoder;
use arc_core::device::DeviceName;
use arc_core::nn::Residence;
use burn::tensor::Device;
use reading::Reading;
use serde::Deserialize;

const MODELS: [&str; 7] = ["llama3", "llama-linear", "mistral", "mistral-window", "qwen2", "gemma3", "olmo"];

/// How far logits may be off, of their largest magnitude, and losses, in nats.
const TOLERANCE: f64 = 1e-3;

/// What transformers computed for one prompt.
#[derive(Deserialize)]
struct Golden {
    ids: Vec<u32>,
    loss: f64,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/architectures").join(name)
}

fn cpu() -> Device {
    DeviceName::CPU.open().expect("the CPU")
}

/// Runs a claim on each model, its weights packed and dense, with its golden data.
fn for_each_model(claim: impl Fn(&Decoder, &[Golden], &dyn Fn(&Golden, &Reading))) {
    let (device, tolerance) = device::device(TOLERANCE);
    for name in MODELS {
        let text = std::fs::read(folder(name).join("expected.json")).expect("golden data");
        let golden: Vec<Golden> = serde_json::from_slice(&text).expect("golden data");
        assert_eq!(golden.iter().map(|golden| golden.ids.len()).collect::<Vec<_>>(), [5, 40]);
        for (device, residence, tolerance) in
            [(&cpu(), Residence::Packed, TOLERANCE), (&device, Residence::Dense, tolerance)]
        {
            let decoder = Decoder::open_as(name, &folder(name), device, residence)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            claim(&decoder, &golden, &|golden, reading| {
                let place = format!("{name}, {residence:?}, {} tokens", golden.ids.len());
                assert_golden(&place, golden, reading, tolerance);
            });
        }
    }
}

fn assert_golden(place: &str, golden: &Golden, reading: &Reading, tolerance: f64) {
    let (found, expected) = (reading.loss, golden.loss);
    assert!((found - expected).abs() < tolerance, "{place}: loss {found}, expected {expected}");
    assert_eq!(reading.logits.len(), golden.logits.len(), "{place}");
    let largest = golden.logits.iter().map(|logit| logit.abs()).fold(0.0, f32::max);
    let pairs = reading.logits.iter().zip(&golden.logits);
    let worst = pairs.map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max);
    assert!(f64::from(worst / largest) < tolerance, "{place}: logits of {largest} are {worst} off");
    // The script chose weights that leave no two logits close.
    assert_eq!(reading.greedy, golden.greedy, "{place}");
}

#[test]
fn losses_logits_and_greedy_tokens_equal_transformers_streamed() {
    for_each_model(|decoder, all, check| {
        for golden in all {
            check(golden, &reading::streamed(decoder, &golden.ids, golden.greedy.len()));
        }
    });
}

#[test]
fn a_prompt_of_embeddings_is_the_prompt_of_its_tokens() {
    for_each_model(|decoder, all, check| {
        for golden in all {
            check(golden, &reading::as_embeddings(decoder, &golden.ids, golden.greedy.len()));
        }
    });
}

#[test]
fn a_batch_of_other_lengths_changes_nothing() {
    for_each_model(|decoder, all, check| {
        let rows: Vec<&[u32]> = all.iter().map(|golden| golden.ids.as_slice()).collect();
        for (golden, reading) in all.iter().zip(reading::batch(decoder, &rows, all[0].greedy.len())) {
            check(golden, &reading);
        }
    });
}

#[test]
fn the_cache_may_be_cut_at_every_place_and_what_it_read_beyond_forgotten() {
    for_each_model(|decoder, all, check| {
        for golden in all {
            for at in 1..golden.ids.len() {
                // Every other time, more is forgotten than a window holds.
                let forgotten = if at % 2 == 0 { &golden.greedy[..] } else { &[] };
                check(golden, &reading::cut(decoder, &golden.ids, at, forgotten, golden.greedy.len()));
            }
        }
    });
}

#[test]
fn what_training_reads_is_what_inference_reads() {
    for_each_model(|decoder, all, check| {
        for golden in all {
            let network = &decoder.network;
            let hidden = network.read(network.embed(&golden.ids).unsqueeze());
            let (loss, logits) = reading::score(decoder, hidden, &golden.ids);
            check(golden, &Reading { loss, logits, greedy: golden.greedy.clone() });
        }
    });
}
