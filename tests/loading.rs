//! Loading takes the weights and one tensor more, however many files they come from.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_adapters::{EncoderManifest, sha256_file};
use arc_core::decoder::Transformer;
use arc_core::device::DeviceName;
use arc_core::encoder::{Encoder, encoder_id};
use arc_core::nn::Residence;
use arc_core::weights::{HfFolder, MetaFolder};
use burn::tensor::Device;
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
        weight_map.extend(shard.iter().map(|(name, _)| (name.clone(), file.clone())));
        write_file(&folder.join(file), shard);
    }
    let index = json!({ "metadata": {}, "weight_map": weight_map });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).expect("an index");
}

/// Writes tensors in bfloat16.
fn write_file(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let tensors: Vec<(&str, &[usize], Vec<u8>)> = tensors
        .iter()
        .map(|(name, shape)| {
            (name.as_str(), shape.as_slice(), vec![0x3c; 2 * shape.iter().product::<usize>()])
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (*name, TensorView::new(Dtype::BF16, shape.to_vec(), bytes).expect("a view"))
    });
    std::fs::write(path, serialize(views, None).expect("a file")).expect("a file");
}

/// The table and the blocks of the same llama under Meta's names.
fn meta_tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![("tok_embeddings.weight".to_owned(), vec![VOCABULARY, WIDTH])];
    for layer in 0..LAYERS {
        let parts = [
            ("attention_norm", vec![WIDTH]),
            ("attention.wq", vec![WIDTH, WIDTH]),
            ("attention.wk", vec![WIDTH, WIDTH]),
            ("attention.wv", vec![WIDTH, WIDTH]),
            ("attention.wo", vec![WIDTH, WIDTH]),
            ("ffn_norm", vec![WIDTH]),
            ("feed_forward.w1", vec![HIDDEN, WIDTH]),
            ("feed_forward.w2", vec![WIDTH, HIDDEN]),
            ("feed_forward.w3", vec![HIDDEN, WIDTH]),
        ];
        tensors.extend(parts.map(|(part, shape)| (format!("layers.{layer}.{part}.weight"), shape)));
    }
    tensors
}

/// Writes a folder in Meta's layout, all in one file.
fn write_meta(folder: &Path) {
    let sizes = json!({
        "dim": WIDTH, "n_layers": LAYERS, "head_dim": 64, "hidden_dim": HIDDEN, "n_heads": 12,
        "n_kv_heads": 12, "norm_eps": 1e-5, "vocab_size": VOCABULARY, "rope_theta": 10000.0,
    });
    std::fs::write(folder.join("params.json"), sizes.to_string()).expect("sizes");
    let more =
        [("norm.weight".to_owned(), vec![WIDTH]), ("output.weight".to_owned(), vec![VOCABULARY, WIDTH])];
    write_file(&folder.join("consolidated.safetensors"), &[meta_tensors(), more.into()].concat());
}

/// Writes an encoder package that has all of its weights.
fn write_encoder(folder: &Path) {
    write_file(&folder.join("encoder.safetensors"), &meta_tensors());
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": { "a": 0, "b": 1 }, "merges": [],
        },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("a tokenizer");
    let sha256 = |file: &str| sha256_file(&folder.join(file)).expect("a hash");
    let manifest = json!({
        "schema": 1, "name": "large", "encoder_id": "to be computed", "architecture": "llama",
        "d_encoder": WIDTH, "n_truncated_layers": 0, "compress_rates": [-4],
        "pool_type": "mean_pooled_queries", "where": "before", "chunk_tokens": 64,
        "shape": {
            "n_layers": LAYERS, "d_model": WIDTH, "n_heads": 12, "n_kv_heads": 12, "d_head": 64,
            "d_ff": HIDDEN, "vocab_size": VOCABULARY, "norm_eps": 1e-5, "rope_theta": 10000.0,
        },
        "tokenizer": { "file": "tokenizer.json", "sha256": sha256("tokenizer.json") },
        "weights": { "kind": "full", "file": "encoder.safetensors", "sha256": sha256("encoder.safetensors") },
    });
    let mut manifest = EncoderManifest::parse(&manifest.to_string(), Path::new("test")).expect("a manifest");
    manifest.encoder_id = encoder_id(&manifest);
    manifest.write(folder).expect("a package");
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

/// The values of the blocks, and of the table.
const BLOCKS: usize = LAYERS * (2 * WIDTH + 4 * WIDTH * WIDTH + 3 * WIDTH * HIDDEN);
const TABLE: usize = VOCABULARY * WIDTH;

#[test]
fn the_peak_while_loading_shards_is_the_weights_and_one_tensor() {
    let test = "the_peak_while_loading_shards_is_the_weights_and_one_tensor";
    in_its_own_process(test, write_model, TABLE + WIDTH + BLOCKS, |folder, device| {
        let files = HfFolder::open(folder).expect("a folder");
        Transformer::from_hugging_face(&files, device, Residence::Dense).expect("a model")
    });
}

#[test]
fn the_peak_while_loading_metas_layout_is_the_weights_and_one_tensor() {
    let test = "the_peak_while_loading_metas_layout_is_the_weights_and_one_tensor";
    in_its_own_process(test, write_meta, 2 * TABLE + WIDTH + BLOCKS, |folder, device| {
        let files = MetaFolder::open(folder).expect("a folder");
        Transformer::from_meta(&files, device, Residence::Dense).expect("a model")
    });
}

#[test]
fn the_peak_while_loading_an_encoder_package_is_the_weights_and_one_tensor() {
    let test = "the_peak_while_loading_an_encoder_package_is_the_weights_and_one_tensor";
    in_its_own_process(test, write_encoder, TABLE + BLOCKS, |folder, device| {
        let manifest = EncoderManifest::open(folder).expect("a manifest");
        Encoder::open_as(&manifest, folder, None, device, Residence::Dense).expect("an encoder")
    });
}

/// Writes a model and runs `test` again, in a process that measures.
fn in_its_own_process<T>(
    test: &str,
    write: impl FnOnce(&Path),
    values: usize,
    load: impl FnOnce(&Path, &Device) -> T,
) {
    if let Some(folder) = std::env::var_os(MODEL) {
        return measure(Path::new(&folder), values, load);
    }
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path());
    let status = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", test, "--nocapture"])
        .env(MODEL, folder.path())
        // The kernel counts a process's memory on each processor, and sums up only now and then.
        .env("RAYON_NUM_THREADS", "2")
        .status()
        .expect("the test runs again");
    assert!(status.success());
}

fn measure<T>(folder: &Path, values: usize, load: impl FnOnce(&Path, &Device) -> T) {
    let (weights, largest) = (4 * values, 4 * TABLE);
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
        let model = load(folder, &device);
        loaded.store(true, Ordering::Relaxed);
        (model, watcher.join().expect("the watcher"))
    });
    let held = anonymous_memory() - before;
    drop(model);
    assert!(held + SLACK >= weights, "{held} bytes cannot be the {weights} of the weights");
    // Less than a second copy of the table that is both embedding and output.
    assert!(held <= weights + SLACK, "{held} bytes are more than the {weights} of the weights");
    let more = (peak - before).saturating_sub(weights);
    assert!(more <= largest + SLACK, "{more} bytes more than the weights, the largest tensor has {largest}");
}
