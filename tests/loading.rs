//! Loading takes the weights and one tensor more, however many files they come from.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_core::decoder::Transformer;
use arc_core::device::DeviceName;
use arc_core::nn::Residence;
use arc_core::weights::HfFolder;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::json;

const LAYERS: usize = 6;
const WIDTH: usize = 768;
const HIDDEN: usize = 2048;
/// Chosen so that the table is by far the largest tensor.
const VOCABULARY: usize = 20_000;

/// Allocators keep a little of what is freed, and threads have stacks.
const SLACK: usize = 16 << 20;

/// Writes a llama in bfloat16, each layer in a file of its own.
fn write_model(folder: &Path) {
    let config = json!({
        "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS, "num_attention_heads": 12, "num_key_value_heads": 12,
        "rms_norm_eps": 1e-5, "vocab_size": VOCABULARY, "max_position_embeddings": 128,
        "tie_word_embeddings": true,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a config");
    let square = vec![WIDTH, WIDTH];
    let mut shards: Vec<Vec<(String, Vec<usize>)>> = vec![vec![
        ("model.embed_tokens.weight".into(), vec![VOCABULARY, WIDTH]),
        ("model.norm.weight".into(), vec![WIDTH]),
    ]];
    for layer in 0..LAYERS {
        let parts = [
            ("input_layernorm", vec![WIDTH]),
            ("self_attn.q_proj", square.clone()),
            ("self_attn.k_proj", square.clone()),
            ("self_attn.v_proj", square.clone()),
            ("self_attn.o_proj", square.clone()),
            ("post_attention_layernorm", vec![WIDTH]),
            ("mlp.gate_proj", vec![HIDDEN, WIDTH]),
            ("mlp.up_proj", vec![HIDDEN, WIDTH]),
            ("mlp.down_proj", vec![WIDTH, HIDDEN]),
        ];
        let named = parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape));
        shards.push(named.into());
    }
    let mut weight_map = BTreeMap::new();
    for (number, shard) in shards.iter().enumerate() {
        let file = format!("model-{number}.safetensors");
        let tensors: Vec<(&str, &[usize], Vec<u8>)> = shard
            .iter()
            .map(|(name, shape)| {
                let count: usize = shape.iter().product();
                weight_map.insert(name.clone(), file.clone());
                (name.as_str(), shape.as_slice(), vec![0x3c; 2 * count])
            })
            .collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (*name, TensorView::new(Dtype::BF16, shape.to_vec(), bytes).expect("a view"))
        });
        std::fs::write(folder.join(file), serialize(views, None).expect("a file")).expect("a file");
    }
    let index = json!({ "metadata": {}, "weight_map": weight_map });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).expect("an index");
}

/// The memory of this process that is not a file's, in bytes.
fn anonymous_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("the process's status");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("a line for it");
    let kilobytes: usize =
        line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number");
    kilobytes << 10
}

/// Names the model to a process of its own, which has held nothing else before.
const MODEL: &str = "ARC_TEST_LOADING_MODEL";

#[test]
fn the_peak_while_loading_is_the_weights_and_one_tensor() {
    if let Some(folder) = std::env::var_os(MODEL) {
        return measure(Path::new(&folder));
    }
    let folder = tempfile::tempdir().expect("a folder");
    write_model(folder.path());
    let status = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "the_peak_while_loading_is_the_weights_and_one_tensor", "--nocapture"])
        .env(MODEL, folder.path())
        .status()
        .expect("the test runs again");
    assert!(status.success());
}

fn measure(folder: &Path) {
    let layer = 2 * WIDTH + 4 * WIDTH * WIDTH + 3 * WIDTH * HIDDEN;
    let weights = 4 * (VOCABULARY * WIDTH + WIDTH + LAYERS * layer);
    let largest = 4 * VOCABULARY * WIDTH;
    let device = DeviceName::CPU.open().expect("the CPU");
    let before = anonymous_memory();
    let loaded = AtomicBool::new(false);
    let (model, peak) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = 0;
            while !loaded.load(Ordering::Relaxed) {
                peak = peak.max(anonymous_memory());
                std::thread::sleep(Duration::from_micros(200));
            }
            peak
        });
        let files = HfFolder::open(folder).expect("a folder");
        let model = Transformer::from_hugging_face(&files, &device, Residence::Dense).expect("a model");
        loaded.store(true, Ordering::Relaxed);
        (model, watcher.join().expect("the watcher"))
    });
    assert_eq!(model.vocabulary(), VOCABULARY);
    let held = anonymous_memory() - before;
    assert!(held + SLACK >= weights, "{held} bytes cannot be the {weights} of the weights");
    // Less than a second copy of the table that is both embedding and output.
    assert!(held <= weights + SLACK, "{held} bytes are more than the {weights} of the weights");
    let more = (peak - before).saturating_sub(weights);
    assert!(more <= largest + SLACK, "{more} bytes more than the weights, the largest tensor has {largest}");
}
