//! Every architecture from Hugging Face's layout against transformers in float32, on tiny random
//! models (`golden/architectures`, made by `scripts/golden/architectures.py`), with weights that
//! stay as stored on the CPU, and dense on the device of `ARC_TEST_DEVICE`. What a checkpoint asks
//! for and no decoder does is refused.

#[path = "harness/device.rs"]
mod device;
#[path = "harness/reading.rs"]
mod reading;
#[path = "harness/tiny.rs"]
mod tiny;

use std::path::{Path, PathBuf};

use arc_core::decoder::Decoder;
use arc_core::device::DeviceName;
use arc_core::nn::Residence;
use arc_core::{Error, Result};
use burn::tensor::Device;
use reading::Reading;
use serde::Deserialize;
use serde_json::{Value, json};

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
    // A GPU tunes its kernels anew for each length. An odd stride, so that every other cut forgets.
    let stride = if std::env::var_os("ARC_TEST_DEVICE").is_some() { 7 } else { 1 };
    for_each_model(|decoder, all, check| {
        for golden in all {
            for at in (1..golden.ids.len()).step_by(stride) {
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
            let hidden = network.hidden_states(network.embed(&golden.ids).unsqueeze());
            let (loss, logits) = reading::score(decoder, hidden, &golden.ids);
            check(golden, &Reading { loss, logits, greedy: golden.greedy.clone() });
        }
    });
}

/// A copy of a golden model that can be changed.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(name: &str) -> Self {
        let copy = Self(tempfile::tempdir().expect("a folder"));
        for entry in std::fs::read_dir(folder(name)).expect("golden data") {
            let entry = entry.expect("golden data");
            std::fs::copy(entry.path(), copy.0.path().join(entry.file_name())).expect("a copy");
        }
        copy
    }

    /// Changes the configuration.
    fn config(self, change: impl Fn(&mut Value)) -> Self {
        let path = self.0.path().join("config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&path).expect("a config")).expect("JSON");
        change(&mut config);
        std::fs::write(path, config.to_string()).expect("a config");
        self
    }

    /// Gives a field, found by its JSON pointer, another value, or adds it.
    fn field(self, pointer: &str, value: Value) -> Self {
        let (object, field) = pointer.rsplit_once('/').expect("a pointer");
        self.config(|config| config.pointer_mut(object).expect("an object")[field] = value.clone())
    }

    /// Adds a tensor of one value.
    fn tensor(self, name: &str) -> Self {
        let path = self.0.path().join("model.safetensors");
        let bytes = std::fs::read(&path).expect("a checkpoint");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a checkpoint");
        let mut tensors = file.tensors();
        let one = 1.0_f32.to_le_bytes();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &one);
        tensors.push((name.to_owned(), view.expect("a tensor")));
        std::fs::write(path, safetensors::serialize(tensors, None).expect("a checkpoint")).expect("a copy");
        self
    }

    fn open(&self) -> Result<Decoder> {
        Decoder::open("copy", self.0.path(), &cpu())
    }
}

#[track_caller]
fn assert_refused(refusal: Result<Decoder>, parts: &[&str]) {
    let error = refusal.err().unwrap_or_else(|| panic!("it opens, without {parts:?}"));
    let text = error.to_string();
    assert!(!text.contains('\n') && error.hint().is_some(), "{text}");
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

#[test]
fn a_configuration_that_asks_for_another_computation_is_refused() {
    for (model, pointer, value) in [
        ("llama3", "/attention_bias", json!(true)),
        ("llama3", "/mlp_bias", json!(true)),
        ("llama3", "/hidden_act", json!("gelu")),
        ("llama3", "/partial_rotary_factor", json!(0.5)),
        ("llama3", "/rope_parameters/partial_rotary_factor", json!(0.5)),
        ("llama3", "/tie_word_embeddings", json!("no")),
        ("qwen2", "/use_sliding_window", json!(true)),
        ("qwen2", "/hidden_act", json!("relu")),
        ("gemma3", "/attention_bias", json!(true)),
        ("gemma3", "/hidden_activation", json!("gelu")),
        ("gemma3", "/use_bidirectional_attention", json!(true)),
        ("gemma3", "/attn_logit_softcapping", json!(50.0)),
        ("gemma3", "/final_logit_softcapping", json!(30.0)),
        ("olmo", "/attention_bias", json!(true)),
        ("olmo", "/clip_qkv", json!(8.0)),
    ] {
        let (_, field) = pointer.rsplit_once('/').expect("a pointer");
        let value_text = value.to_string();
        let refusal = Copy::of(model).field(pointer, value).open();
        assert_refused(refusal, &["config.json", &format!("`{field}` is {value_text}")]);
    }
    for (model, pointer) in [
        ("llama3", "/rope_parameters/rope_type"),
        ("gemma3", "/rope_parameters/full_attention/rope_type"),
        ("gemma3", "/rope_parameters/sliding_attention/rope_type"),
    ] {
        let refusal = Copy::of(model).field(pointer, json!("yarn")).open();
        assert_refused(refusal, &["config.json", "rotation scaling `yarn` is not supported"]);
    }
}

#[test]
fn a_head_is_the_embedding_table_only_where_the_configuration_says_so() {
    let refusal = Copy::of("llama-linear").field("/tie_word_embeddings", json!(false)).open();
    assert_refused(refusal, &["has no tensor `lm_head.weight`"]);
    let without = |config: &mut Value| {
        config.as_object_mut().expect("an object").remove("tie_word_embeddings");
    };
    // Left out, it is false for llama and true for gemma3.
    assert_refused(Copy::of("llama-linear").config(without).open(), &["has no tensor `lm_head.weight`"]);
    Copy::of("gemma3").config(without).open().expect("a tied head");
}

#[test]
fn a_tensor_that_no_part_reads_is_refused_by_name() {
    let bias = "model.layers.1.self_attn.o_proj.bias";
    for model in ["mistral", "qwen2", "gemma3", "olmo"] {
        let refusal = Copy::of(model).tensor(bias).open();
        assert!(matches!(refusal, Err(Error::UnusedTensors { .. })));
        assert_refused(refusal, &["does not use its tensors", bias]);
    }
    // The biases of another architecture, under this one's name.
    let refusal = Copy::of("qwen2").field("/model_type", json!("llama")).open();
    assert_refused(refusal, &["`model.layers.0.self_attn.k_proj.bias`", "and 5 more"]);
    // A norm beyond the last layer.
    let refusal = Copy::of("mistral").field("/num_hidden_layers", json!(2)).open();
    assert_refused(refusal, &["`model.layers.2.input_layernorm.weight`"]);
    // Old checkpoints store what the configuration gives.
    Copy::of("mistral").tensor("model.layers.0.self_attn.rotary_emb.inv_freq").open().expect("a model");
}

#[test]
fn the_fields_of_transformers_4_say_the_same_as_those_of_5() {
    let flat = |model: &str, fields: Value| {
        Copy::of(model).config(|config| {
            let config = config.as_object_mut().expect("an object");
            config.remove("rope_parameters");
            config.remove("layer_types");
            config.extend(fields.as_object().expect("fields").clone());
        })
    };
    let llama3 = json!({ "rope_theta": 10_000.0, "rope_scaling": {
        "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }});
    let linear = json!({ "rope_theta": 5_000.0, "rope_scaling": { "type": "linear", "factor": 4.0 } });
    let gemma3 = json!({
        "rope_theta": 1e6, "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 2,
        "rope_scaling": { "rope_type": "linear", "factor": 8.0 },
    });
    for (model, fields) in [
        ("llama3", llama3),
        ("llama-linear", linear),
        ("gemma3", gemma3),
        ("qwen2", json!({ "rope_theta": 1e6, "rope_scaling": null })),
    ] {
        let (four, five) = (flat(model, fields).open(), Copy::of(model).open());
        let (four, five) = (four.expect("a model"), five.expect("a model"));
        assert_eq!(four.network.config(), five.network.config(), "{model}");
    }
}

#[test]
fn mistral_has_a_window_unless_the_field_is_null() {
    let window = |copy: Copy| {
        let decoder = copy.open().expect("a model");
        decoder.network.config().local.as_ref().map(|local| local.window)
    };
    assert_eq!(window(Copy::of("mistral")), None);
    assert_eq!(window(Copy::of("mistral-window")), Some(8));
    let without = |config: &mut Value| {
        config.as_object_mut().expect("an object").remove("sliding_window");
    };
    assert_eq!(window(Copy::of("mistral").config(without)), Some(4096));
    // Llama has none, whatever the field says.
    assert_eq!(window(Copy::of("llama3").field("/sliding_window", json!(8))), None);
}

mod gguf {
    use arc_core::nn::RopeScaling;

    use super::*;
    use crate::tiny::{Gguf, Meta, Tensor, tiny_llama};

    fn open(model: &Gguf) -> Result<Decoder> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tiny.gguf");
        std::fs::write(&path, model.to_bytes()).expect("a model");
        Decoder::open("tiny", &path, &cpu())
    }

    #[test]
    fn a_rotation_that_is_not_linear_is_refused() {
        for kind in ["yarn", "longrope"] {
            let mut model = tiny_llama();
            model.set("llama.rope.scaling.type", Meta::Text(kind.into()));
            model.set("llama.rope.scaling.factor", Meta::F32(4.0));
            assert_refused(open(&model), &["tiny.gguf", "`llama.rope.scaling.type`", kind]);
        }
        let mut model = tiny_llama();
        model.set("llama.rope.dimension_count", Meta::U32(2));
        assert_refused(open(&model), &["tiny.gguf", "`llama.rope.dimension_count` is 2"]);
    }

    #[test]
    fn a_linear_rotation_is_read_as_llama_cpp_reads_it() {
        let scaling = |fields: &[(&'static str, Meta)]| {
            let mut model = tiny_llama();
            for (key, value) in fields {
                model.metadata.push((key, value.clone()));
            }
            open(&model).expect("a model").network.config().rope.scaling
        };
        let (kind, factor) = ("llama.rope.scaling.type", "llama.rope.scaling.factor");
        let text = |kind: &str| Meta::Text(kind.into());
        let linear = Some(RopeScaling::Linear { factor: 4.0 });
        assert_eq!(scaling(&[(kind, text("linear")), (factor, Meta::F32(4.0))]), linear);
        // The type is linear where there is none, and the factor had another name.
        assert_eq!(scaling(&[(factor, Meta::F32(4.0))]), linear);
        assert_eq!(scaling(&[("llama.rope.scale_linear", Meta::F32(4.0))]), linear);
        assert_eq!(scaling(&[(kind, text("none")), (factor, Meta::F32(4.0))]), None);
        assert_eq!(scaling(&[(kind, text("linear")), (factor, Meta::F32(0.0))]), None);
    }

    #[test]
    fn a_tensor_that_no_part_reads_is_refused_by_name() {
        let bias = "blk.0.attn_q.bias";
        let mut model = tiny_llama();
        model.tensors.push(Tensor { name: bias.into(), shape: vec![tiny::WIDTH], kind: 0 });
        assert_refused(open(&model), &["tiny.gguf", "does not use its tensors", bias]);
        // The divisors of Llama 3.1's rotation are read, as part of the configuration.
        let mut model = tiny_llama();
        let divisors = Tensor { name: "rope_freqs.weight".into(), shape: vec![2], kind: 0 };
        model.tensors.push(divisors);
        let decoder = open(&model).expect("a model");
        assert_eq!(decoder.network.config().rope.divisors.as_ref().map(Vec::len), Some(2));
    }
}
