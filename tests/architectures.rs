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
use arc_core::nn::{Precision, Residence};
use arc_core::{Error, Result};
use burn::tensor::Device;
use reading::Reading;
use serde::Deserialize;
use serde_json::{Value, json};

const MODELS: [&str; 9] =
    ["llama3", "llama-linear", "mistral", "mistral-window", "qwen2", "qwen3", "smollm3", "gemma3", "olmo"];

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
            [(&cpu(), Residence::Packed(Precision::Exact), TOLERANCE), (&device, Residence::Dense, tolerance)]
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

    /// Calls the tensors by other names, and adds `more`, of one value each.
    fn renamed(self, rename: impl Fn(&str) -> String, more: &[&str]) -> Self {
        let path = self.0.path().join("model.safetensors");
        let bytes = std::fs::read(&path).expect("a checkpoint");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a checkpoint");
        let one = 1.0_f32.to_le_bytes();
        let view = || safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &one);
        let renamed = file.tensors().into_iter().map(|(name, tensor)| (rename(&name), tensor));
        let more = more.iter().map(|name| ((*name).to_owned(), view().expect("a tensor")));
        let renamed = safetensors::serialize(renamed.chain(more), None).expect("a checkpoint");
        std::fs::write(path, renamed).expect("a copy");
        self
    }

    fn open(&self) -> Result<Decoder> {
        Decoder::open("copy", self.0.path(), &cpu())
    }
}

/// Checks a decoder against the golden data of a model.
fn assert_is(model: &str, place: &str, decoder: &Decoder) {
    let text = std::fs::read(folder(model).join("expected.json")).expect("golden data");
    let golden: Vec<Golden> = serde_json::from_slice(&text).expect("golden data");
    for golden in golden {
        let reading = reading::streamed(decoder, &golden.ids, golden.greedy.len());
        assert_golden(&format!("{place} of {model}"), &golden, &reading, TOLERANCE);
    }
}

/// Tensors of a multimodal model that are not about text.
const OF_OTHER_SENSES: [&str; 3] = [
    "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
    "audio_tower.conv1.weight",
    "multi_modal_projector.x",
];

#[test]
fn a_text_model_inside_a_multimodal_one_is_the_text_model() {
    for (model, wrapper, kind) in [
        ("gemma3", "gemma3", "gemma3_text"),
        ("mistral", "llava", "mistral"),
        ("llama-linear", "idefics3", "llama"),
    ] {
        let wrapped = || {
            Copy::of(model).config(|config| {
                let mut text = config.take();
                text["model_type"] = json!(kind);
                let tied = text.get("tie_word_embeddings").cloned();
                *config = json!({ "model_type": wrapper, "text_config": text, "vision_config": {} });
                // Some say it above alone.
                if let (Some(tied), false) = (tied, kind == "gemma3_text") {
                    config["text_config"].as_object_mut().expect("an object").remove("tie_word_embeddings");
                    config["tie_word_embeddings"] = tied;
                }
            })
        };
        // As transformers 4 wrote them, as 5 does, and as Idefics does.
        for (model_prefix, head_prefix) in [
            ("language_model.model.", "language_model."),
            ("model.language_model.", ""),
            ("model.text_model.", ""),
        ] {
            let copy = wrapped().renamed(
                |name| match name.strip_prefix("model.") {
                    Some(rest) => format!("{model_prefix}{rest}"),
                    None => format!("{head_prefix}{name}"),
                },
                &OF_OTHER_SENSES,
            );
            let decoder = copy.open().unwrap_or_else(|error| panic!("{model} as {model_prefix}: {error}"));
            assert_is(model, model_prefix, &decoder);
        }
        // What belongs to the text model and is read by nothing is still refused.
        let bias = "model.language_model.layers.0.self_attn.o_proj.bias";
        let copy = wrapped().renamed(|name| name.replacen("model.", "model.language_model.", 1), &[bias]);
        assert_refused(copy.open(), &["does not use its tensors `model.layers.0.self_attn.o_proj.bias`"]);
    }
}

#[test]
fn a_base_model_saved_by_itself_has_names_without_a_prefix() {
    for model in ["llama-linear", "gemma3"] {
        let bare = |name: &str| name.strip_prefix("model.").unwrap_or(name).to_owned();
        let decoder = Copy::of(model).renamed(bare, &[]).open().expect("a model");
        assert_is(model, "bare names", &decoder);
        let refusal = Copy::of(model).renamed(bare, &["vision.x"]).open();
        assert_refused(refusal, &["does not use its tensors `vision.x`"]);
    }
}

#[test]
fn what_qwens_vision_models_call_the_rotation_is_the_usual_one_in_text() {
    // Qwen2-VL keeps the text model's values at the top, beside `vision_config`.
    let vision = Copy::of("qwen2")
        .config(|config| {
            let object = config.as_object_mut().expect("an object");
            let theta = object.remove("rope_parameters").expect("a rotation")["rope_theta"].clone();
            object.insert("rope_theta".into(), theta);
            object.insert("rope_scaling".into(), json!({ "type": "mrope", "mrope_section": [2, 1, 1] }));
            object.insert("vision_config".into(), json!({}));
            object.insert("model_type".into(), json!("qwen2_vl"));
        })
        .renamed(str::to_owned, &["visual.patch_embed.proj.weight"]);
    assert_is("qwen2", "mrope", &vision.open().expect("a model"));
}

#[test]
fn a_tied_head_that_is_stored_as_well_is_read() {
    let path = |copy: &Copy| copy.0.path().join("model.safetensors");
    let copy = Copy::of("llama-linear");
    let bytes = std::fs::read(path(&copy)).expect("a checkpoint");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a checkpoint");
    let mut tensors = file.tensors();
    tensors.push(("lm_head.weight".into(), file.tensor("model.embed_tokens.weight").expect("a table")));
    std::fs::write(path(&copy), safetensors::serialize(tensors, None).expect("a checkpoint"))
        .expect("a copy");
    assert_is("llama-linear", "a stored head", &copy.open().expect("a model"));
}

#[test]
fn formats_that_are_not_read_are_called_by_their_names() {
    let without_weights = |model: &str| {
        let copy = Copy::of(model);
        std::fs::remove_file(copy.0.path().join("model.safetensors")).expect("weights");
        copy
    };
    for (file, name) in [
        ("pytorch_model.bin", "a PyTorch checkpoint"),
        ("pytorch_model.bin.index.json", "a PyTorch checkpoint"),
        ("model.onnx", "an ONNX model"),
        ("adapter_model.safetensors", "a LoRA adapter"),
        ("weights.npz", "an MLX checkpoint"),
    ] {
        let copy = without_weights("mistral");
        std::fs::write(copy.0.path().join(file), "x").expect("a file");
        assert_refused(copy.open(), &[file, name, "which is not supported"]);
    }
    for (method, name) in
        [("gptq", "GPTQ"), ("awq", "AWQ"), ("bitsandbytes", "bitsandbytes"), ("exl2", "EXL2")]
    {
        let quantised = Copy::of("mistral").field("/quantization_config", json!({ "quant_method": method }));
        assert_refused(quantised.open(), &["quantised by", name, "which is not supported"]);
    }
    let mlx = Copy::of("mistral").field("/quantization", json!({ "group_size": 64, "bits": 4 }));
    assert_refused(mlx.open(), &["quantised by MLX"]);
    let hidden = Copy::of("mistral").tensor("model.layers.0.mlp.up_proj.qzeros");
    assert_refused(hidden.open(), &["quantised by GPTQ or AWQ"]);
    let folder = tempfile::tempdir().expect("a folder");
    for (name, start, found) in [
        ("m.bin", &b"PK\x03\x04"[..], "a PyTorch checkpoint"),
        ("m.gguf", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("m.gguf", b"lmggxxxx", "a GGML file"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, start).expect("a file");
        assert_refused(Decoder::open("m", &path, &cpu()), &[name, found]);
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

    /// Writes parts of a model as `m-00001-of-0000N.gguf` and so on.
    fn write(folder: &Path, parts: &[Vec<u8>]) -> Vec<PathBuf> {
        let name = |number| folder.join(format!("m-{number:05}-of-{:05}.gguf", parts.len()));
        let written = parts.iter().zip(1..).map(|(part, number)| {
            std::fs::write(name(number), part).expect("a part");
            name(number)
        });
        written.collect()
    }

    #[test]
    fn a_model_in_parts_is_opened_by_any_of_them() {
        let model = tiny_llama();
        let whole = open(&model).expect("a model");
        let ids = whole.tokenizer.encode_prompt("hi there").expect("a text");
        let expected = reading::streamed(&whole, &ids, 4);
        let folder = tempfile::tempdir().expect("a folder");
        for path in write(folder.path(), &model.to_parts(3)) {
            let decoder = Decoder::open("tiny", &path, &cpu()).expect("a model in parts");
            let found = reading::streamed(&decoder, &ids, 4);
            assert_eq!(
                (found.loss, found.logits, &found.greedy),
                (expected.loss, expected.logits.clone(), &expected.greedy)
            );
            assert!(!decoder.is_one_file());
            assert_eq!(decoder.embedding_sha256(), whole.embedding_sha256());
            // Of the parts, whatever lies beside them.
            let hash = decoder.files_sha256().expect("a hash");
            std::fs::write(folder.path().join("other"), "x").expect("a file");
            assert_eq!(decoder.files_sha256().expect("a hash"), hash);
        }
    }

    #[test]
    fn parts_that_are_missing_or_of_another_model_are_named() {
        let model = tiny_llama();
        let refused = |change: &dyn Fn(&[PathBuf]) -> PathBuf, parts: &[&str]| {
            let folder = tempfile::tempdir().expect("a folder");
            let path = change(&write(folder.path(), &model.to_parts(3)));
            assert_refused(Decoder::open("tiny", &path, &cpu()), parts);
        };
        let remove = |path: &Path| std::fs::remove_file(path).expect("a part");
        refused(
            &|paths| {
                remove(&paths[1]);
                remove(&paths[2]);
                paths[0].clone()
            },
            &["it is one of 3 parts", "`m-00002-of-00003.gguf`, `m-00003-of-00003.gguf` is missing"],
        );
        refused(
            &|paths| {
                std::fs::copy(&paths[1], &paths[2]).expect("a part");
                paths[0].clone()
            },
            &["m-00003-of-00003.gguf", "`split.no` is 1, expected 2"],
        );
        refused(
            &|paths| {
                let other = paths[0].with_file_name("renamed.gguf");
                std::fs::rename(&paths[0], &other).expect("a part");
                other
            },
            &["renamed.gguf", "a part of a model of 3 parts", "-00001-of-00003.gguf"],
        );
        // A part of a model with fewer tensors.
        let mut smaller = tiny_llama();
        smaller.tensors.pop();
        let last = smaller.to_parts(3).remove(2);
        refused(
            &|paths| {
                std::fs::write(&paths[2], &last).expect("a part");
                paths[0].clone()
            },
            &["its parts have 10 tensors, but `split.tensors.count` is 11"],
        );
    }

    #[test]
    fn a_name_like_a_parts_is_only_a_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("m-00001-of-00002.gguf");
        std::fs::write(&path, tiny_llama().to_bytes()).expect("a model");
        Decoder::open("tiny", &path, &cpu()).expect("a whole model");
    }

    #[test]
    fn an_id_that_no_token_has_is_none() {
        for (key, beginning, end) in [
            ("tokenizer.ggml.bos_token_id", Some(1), Some(2)),
            ("tokenizer.ggml.eos_token_id", Some(1), Some(2)),
            ("tokenizer.ggml.padding_token_id", Some(1), Some(2)),
        ] {
            let mut model = tiny_llama();
            model.set(key, Meta::U32(u32::MAX));
            let tokenizer = open(&model).expect("a model").tokenizer;
            // SentencePiece's `<s>` and `</s>` are where they always are.
            assert_eq!((tokenizer.bos(), tokenizer.eos()), (beginning, end), "{key}");
        }
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
