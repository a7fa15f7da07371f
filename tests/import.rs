//! Checkpoints of the public code through the binary: import, use, export, and what is refused.
//!
//! The fixtures' vocabulary is numbers. The tests give it letters, so that a text spells the token ids
//! of the reference's cases and goes the whole way of a user's document.

#[path = "harness/tiny.rs"]
mod tiny;

use std::ops::Deref;
use std::path::{Path, PathBuf};

use arc_adapters::{Adapter, EncoderManifest};
use arc_core::device::DeviceName;
use arc_core::encoder::encoder_id;
use arc_core::projector::Projector;
use arc_core::weights::{
    ArcCheckpoint, RawTensor, SafetensorsFile, StorageType, TensorSource as _, TrainingSources,
};
use burn::tensor::{Tensor, TensorData};
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

/// As in `tests/reference.rs`.
const TOLERANCE: f32 = 1e-4;

/// The encoders of the fixtures know so many tokens.
const VOCABULARY: usize = 61;

/// Each fixture of the reference.
fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/reference");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root)
        .expect("golden data")
        .map(|entry| entry.expect("golden data").path())
        .collect();
    folders.sort();
    assert_eq!(folders.len(), 8);
    folders
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/reference").join(name)
}

/// The letter of a token id.
fn letter(id: usize) -> char {
    // Letters alone: the byte-level alphabet spells them as themselves.
    ('a'..='z').chain('A'..='Z').chain('0'..='8').nth(id).expect("an id of the fixtures")
}

/// A tokenizer with one token for each of so many characters.
fn tokenizer(size: usize) -> String {
    let character = |id: usize| match id {
        id if id < VOCABULARY => letter(id).to_string(),
        // The other printable bytes, then letters with accents, which the alphabet spells bytes with.
        id => char::from_u32(0xc0 + (id - VOCABULARY) as u32).expect("a letter").to_string(),
    };
    let vocabulary: serde_json::Map<String, Value> = (0..size).map(|id| (character(id), json!(id))).collect();
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary, "merges": [],
        },
    })
    .to_string()
}

/// A folder with a registry, a cache and a home of its own.
/// A place with the decoders of a fixture.
struct Place(tiny::Place);

impl Deref for Place {
    type Target = tiny::Place;

    fn deref(&self) -> &tiny::Place {
        &self.0
    }
}

struct Ran {
    success: bool,
    stderr: String,
}

impl Place {
    /// With the decoders of a fixture as `zero`, `one`, …
    fn with_decoders_of(fixture: &Path) -> Self {
        let place = Self(tiny::Place::empty());
        place.file("encoder-tokenizer.json", tokenizer(VOCABULARY));
        let mut registry = "schema = 1\n".to_owned();
        for (index, name) in ["zero", "one"].into_iter().enumerate() {
            let folder = fixture.join(format!("decoder{index}"));
            if folder.exists() {
                let params = std::fs::read_to_string(folder.join("params.json")).expect("sizes");
                let params: Value = serde_json::from_str(&params).expect("sizes");
                let size = params["vocab_size"].as_u64().expect("a vocabulary") as usize;
                place.file(&format!("{name}-tokenizer.json"), tokenizer(size));
                registry += &format!(
                    "[decoders.{name}]\nsource = {:?}\ntokenizer = {{ source = \"file:{name}-tokenizer.json\" }}\n",
                    format!("file:{}", folder.display()),
                );
            }
        }
        place.file("registry.toml", registry);
        place
    }

    fn arc(&self, arguments: &[&str]) -> Ran {
        let output = self.0.arc(arguments).arg("--json").output().expect("the binary runs");
        if output.status.success() {
            tiny::recorded::record(arguments, &output.stdout);
        }
        Ran { success: output.status.success(), stderr: String::from_utf8(output.stderr).expect("UTF-8") }
    }

    /// The first line of what a failing command says, which is the only line of the error.
    fn refuses(&self, arguments: &[&str]) -> String {
        let ran = self.arc(arguments);
        assert!(!ran.success, "{arguments:?} succeeds");
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        let error = ran.stderr.lines().find(|line| line.starts_with("error: "));
        error.unwrap_or_else(|| panic!("no error in {}", ran.stderr)).to_owned()
    }

    /// Imports a checkpoint as `imported`.
    fn import(&self, source: &Path, more: &[&str]) -> Value {
        self.succeeds(&[&self.import_arguments(source), more].concat())
    }

    fn import_arguments<'a>(&self, source: &'a Path) -> Vec<&'a str> {
        let names = if source.join("decoder1").exists() { "zero,one" } else { "zero" };
        vec![
            "import",
            source.to_str().expect("UTF-8"),
            "--name",
            "imported",
            "--decoder-names",
            names,
            "--tokenizer",
            "encoder-tokenizer.json",
        ]
    }
}

/// The first context token ids of each case, with the latents that the reference made of all of them.
fn cases(fixture: &Path) -> Vec<(String, Vec<String>)> {
    let cases = std::fs::read_to_string(fixture.join("cases.json")).expect("cases");
    let cases: Vec<Value> = serde_json::from_str(&cases).expect("cases");
    let text = |ids: &Value| -> String {
        let ids = ids.as_array().expect("token ids").iter();
        ids.map(|id| letter(id.as_u64().expect("an id") as usize)).collect()
    };
    let contexts = |case: &Value| -> Vec<String> {
        let sequences = case["contexts"].as_array().expect("sequences").iter();
        sequences.flat_map(|sequence| sequence.as_array().expect("contexts")).map(text).collect()
    };
    cases.iter().map(|case| (case["id"].as_str().expect("an id").to_owned(), contexts(case))).collect()
}

#[test]
fn an_imported_encoder_gives_the_latents_of_the_reference() {
    for fixture in fixtures() {
        let place = Place::with_decoders_of(&fixture);
        place.import(&fixture, &[]);
        let expected = SafetensorsFile::open(fixture.join("expected.safetensors")).expect("golden data");
        // The cases come in pairs, one for each special vector, over the same contexts.
        let mut seen = Vec::new();
        for (id, contexts) in cases(&fixture) {
            if seen.contains(&contexts) {
                continue;
            }
            let expected = expected.tensor(&format!("{id}.latents")).expect("golden data").to_f32();
            let mut found = Vec::new();
            for text in &contexts {
                place.file("text.txt", text);
                place.succeeds(&[
                    "compress",
                    "text.txt",
                    "-o",
                    "x.arc.safetensors",
                    "--replace",
                    "--encoder",
                    "imported",
                ]);
                let latents = SafetensorsFile::open(place.path("x.arc.safetensors")).expect("latents");
                found.extend(latents.tensor("latents").expect("latents").to_f32());
            }
            assert_eq!(found.len(), expected.len(), "{} {id}", fixture.display());
            let largest = expected.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst / largest <= TOLERANCE, "{} {id}: {worst}", fixture.display());
            seen.push(contexts);
        }
        assert!(seen.len() >= 5);
    }
}

/// An imported encoder has no backbone: its package must go on holding everything, tokenizer and
/// memory vectors too.
#[test]
fn an_imported_encoder_is_fine_tuned_into_a_package_that_is_whole_and_can_be_exported() {
    for name in ["arc4_multi", "memory_tokens"] {
        let fixture = fixture(name);
        let place = Place::with_decoders_of(&fixture);
        place.import(&fixture, &[]);
        // A decoder that spells as the encoder does, to prepare text with.
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        let letters = format!(
            "{registry}[decoders.letters]\nsource = {:?}\ntokenizer = {{ source = \"file:encoder-tokenizer.json\" }}\n",
            format!("file:{}", fixture.join("decoder0").display()),
        );
        place.file("registry.toml", letters);
        let texts: String = (0..40_usize)
            .map(|row| {
                let text: String =
                    (0..60).map(|place| letter((row * 7 + place * place) % VOCABULARY)).collect();
                format!("{}\n", json!({ "text": text }))
            })
            .collect();
        place.file("texts.jsonl", texts);
        place.prepare("letters", "texts.jsonl", "corpus", "0.2", &[]);
        let mut decoders = vec!["zero"];
        decoders.extend(fixture.join("decoder1").exists().then_some("one"));
        let run = |start: &str, registry: &str, out: &str, train: &str, rate: f64| {
            let decoders: String = decoders
                .iter()
                .map(|name| {
                    let adapter = match start {
                        "imported" => "\"scratch\"\nhidden = 16".to_owned(),
                        _ => format!("{{ package = \"run/final/adapters/{name}\" }}"),
                    };
                    format!("[[decoders]]\nname = \"{name}\"\nstart = {adapter}\n")
                })
                .collect();
            let text = format!(
                "[encoder]\nname = \"tuned\"\nstart = \"{start}\"\ntrain = \"{train}\"\npooling_factors = [4]\n{decoders}
                 [data]\nsources = [{{ path = \"corpus\" }}]\ncontext_tokens = 16\ntarget_tokens = 8\nprefix_tokens = 0
                 [optimizer]\nencoder_rate = {rate}\nprojector_rate = {rate}\nspecial_rate = {rate}
                 [schedule]\nsteps = 4\nbatch = 2\n[evaluation]\nsamples = 4\n"
            );
            place.file("run.toml", text);
            place.succeeds(&["train", "run.toml", "--registry", registry, "--out", out])
        };
        let report = run("imported", "registry.toml", "run", "all", 1e-3);
        let again = run("tuned", "run/final/registry.toml", "again", "none", 0.0);
        // As good as: in what order products are added up depends on where weights lie in memory.
        for decoder in 0..decoders.len() {
            let loss = |report: &Value| {
                let loss = report["evaluations"][decoder]["continuation"]["loss_latents"].as_f64();
                loss.expect("a loss")
            };
            let (found, expected) = (loss(&again), loss(&report));
            assert!((found - expected).abs() < 2e-6 * expected, "{name}: {found} for {expected}");
        }
        if name == "arc4_multi" {
            let registry = "run/final/registry.toml";
            place.succeeds(&["export", "--registry", registry, "tuned", "-o", "released"]);
            let released = ArcCheckpoint::open(place.path("released"), &TrainingSources::default());
            assert_eq!(released.expect("a checkpoint").decoders(), 2);
        }
    }
}

#[test]
fn what_was_imported_is_exported_byte_for_byte() {
    for fixture in fixtures() {
        let place = Place::with_decoders_of(&fixture);
        place.import(&fixture, &[]);
        place.succeeds(&["export", "imported", "-o", "out"]);
        let read = |path: PathBuf| std::fs::read(path).expect("a file");
        assert!(
            read(fixture.join("model.safetensors")) == read(place.path("out/model.safetensors")),
            "{}",
            fixture.display()
        );
        let config = |path| serde_json::from_slice::<Value>(&read(path)).expect("JSON");
        assert_eq!(config(fixture.join("config.json")), config(place.path("out/config.json")));
    }
}

#[test]
fn decoders_in_metas_and_olmos_layout_answer_about_latents_of_an_imported_encoder() {
    let fixture = fixture("arc4_multi");
    let place = Place::with_decoders_of(&fixture);
    let imported = place.import(&fixture, &[]);
    assert_eq!(imported["adapters"].as_array().map(Vec::len), Some(2));
    place.file("template.txt", "{{ document }}{{ question }}");
    place.import(&fixture, &["--template", "template.txt"]);
    place.file("text.txt", "abcdefghijklm");
    for decoder in ["zero", "one"] {
        let answer = place.succeeds(&[
            "ask",
            "--decoder",
            decoder,
            "--encoder",
            "imported",
            "--document",
            "text.txt",
            "--max-tokens",
            "3",
            "why",
        ]);
        // Three groups of 4 and 5 tokens rounded up, and the special vector.
        assert_eq!(
            answer["latents"].as_u64().or(answer["answers"][0]["latents"].as_u64()),
            Some(4 + 1),
            "{answer}"
        );
        let written =
            place.succeeds(&["generate", "--decoder", decoder, "--prompt", "abc", "--max-tokens", "2"]);
        assert_eq!(written["prompt_tokens"], 3);
    }
}

/// The tensors of a decoder in Meta's layout under OLMo's own names, some of them joined.
fn olmo_names(decoder: &SafetensorsFile, layers: usize) -> Vec<(String, RawTensor)> {
    let joined = |parts: &[String]| {
        let parts: Vec<RawTensor> =
            parts.iter().map(|name| decoder.tensor(name).expect("a tensor")).collect();
        let rows = parts.iter().map(|part| part.shape()[0]).sum();
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes().to_vec()).collect();
        let shape = vec![rows, parts[0].shape()[1]];
        RawTensor::new("x", StorageType::F32, shape, bytes.into(), "x").expect("a tensor")
    };
    let mut tensors = vec![
        ("model.transformer.wte.weight".to_owned(), joined(&["tok_embeddings.weight".to_owned()])),
        ("model.transformer.ff_out.weight".to_owned(), joined(&["output.weight".to_owned()])),
    ];
    for layer in 0..layers {
        for (olmo, meta) in [
            ("att_proj", &["attention.wq", "attention.wk", "attention.wv"] as &[&str]),
            // The linear part comes before the gate.
            ("ff_proj", &["feed_forward.w3", "feed_forward.w1"]),
            ("attn_out", &["attention.wo"]),
            ("ff_out", &["feed_forward.w2"]),
        ] {
            let parts: Vec<String> =
                meta.iter().map(|part| format!("layers.{layer}.{part}.weight")).collect();
            tensors.push((format!("model.transformer.blocks.{layer}.{olmo}.weight"), joined(&parts)));
        }
    }
    tensors
}

#[test]
fn olmos_own_names_are_read_as_a_decoder_and_as_an_encoder() {
    let fixture = fixture("arc4_multi");
    let place = Place::with_decoders_of(&fixture);
    let meta = fixture.join("decoder1");
    let weights = SafetensorsFile::open(meta.join("consolidated.safetensors")).expect("golden data");
    let olmo = place.path("olmo");
    std::fs::create_dir_all(&olmo).expect("a folder");
    write(&olmo.join("model.safetensors"), &olmo_names(&weights, 2));
    let sizes = json!({ "dim": 24, "n_layers": 2, "n_heads": 4, "norm_eps": 1e-5, "vocab_size": 101 });
    std::fs::write(olmo.join("params.json"), sizes.to_string()).expect("sizes");
    std::fs::copy(place.path("one-tokenizer.json"), olmo.join("tokenizer.json")).expect("a tokenizer");
    // The same model under Meta's names, with its tokenizer beside it as well.
    let copy = place.path("meta");
    std::fs::create_dir_all(&copy).expect("a folder");
    for file in ["params.json", "consolidated.safetensors"] {
        std::fs::copy(meta.join(file), copy.join(file)).expect("a copy");
    }
    std::fs::copy(place.path("one-tokenizer.json"), copy.join("tokenizer.json")).expect("a tokenizer");

    let mut registry = "schema = 1\n".to_owned();
    let mut latents = Vec::new();
    for (name, file) in [("meta", "consolidated.safetensors"), ("olmo", "model.safetensors")] {
        registry += &format!("[decoders.{name}]\nsource = \"file:{name}\"\n");
        registry += &format!("[encoders.{name}]\npackage = \"encoders/{name}\"\n");
        let weights = place.path(name).join(file);
        let manifest = json!({
            "schema": 1, "name": name, "encoder_id": "x", "architecture": "olmo", "d_encoder": 24,
            "n_truncated_layers": 0, "compress_rates": [-4], "pool_type": "fusion_pooled_queries",
            "where": "before", "chunk_tokens": 64,
            "backbone": {
                "source": format!("file:{}", weights.display()),
                "sha256": arc_adapters::sha256_file(&weights).expect("a hash"),
            },
            "weights": { "kind": "backbone" },
        });
        let mut manifest =
            EncoderManifest::parse(&manifest.to_string(), Path::new("test")).expect("a manifest");
        manifest.encoder_id = encoder_id(&manifest);
        manifest.write(&place.path(&format!("encoders/{name}"))).expect("a package");
    }
    place.file("registry.toml", registry);
    place.file("text.txt", "abcdefghijklmnopqrstuvwxyz");
    let mut logits = Vec::new();
    for name in ["meta", "olmo"] {
        let generate =
            ["generate", "--decoder", name, "--prompt", "abcdefg", "--max-tokens", "6", "--logits", "9"];
        let written = place.succeeds(&generate);
        logits.push((written["token_ids"].clone(), written["text"].clone(), written["logits"].clone()));
        place.succeeds(&["compress", "text.txt", "-o", "x.arc.safetensors", "--replace", "--encoder", name]);
        let file = SafetensorsFile::open(place.path("x.arc.safetensors")).expect("latents");
        latents.push(file.tensor("latents").expect("latents").to_f32());
    }
    assert_eq!(logits[0], logits[1]);
    assert_eq!(logits[0].2.as_array().map(Vec::len), Some(9), "{logits:?}");
    assert_eq!(latents[0].len(), 7 * 24);
    assert_eq!(latents[0], latents[1]);
}

#[test]
fn a_training_checkpoint_is_imported_with_its_backbone_and_its_frozen_encoder() {
    let fixture = fixture("arc8_single");
    let place = Place::with_decoders_of(&fixture);
    let released = SafetensorsFile::open(fixture.join("model.safetensors")).expect("golden data");
    let config: Value =
        serde_json::from_slice(&std::fs::read(fixture.join("config.json")).expect("a config")).expect("JSON");
    let run = place.path("run/checkpoints/checkpoint_000020");
    std::fs::create_dir_all(run.join("embedder")).expect("a folder");
    std::fs::create_dir_all(run.join("bridge_module")).expect("a folder");
    std::fs::create_dir_all(place.path("backbone")).expect("a folder");
    std::fs::create_dir_all(place.path("frozen")).expect("a folder");
    let params = json!({
        "param_dtype": "float32",
        "embedder_params": config["embedder_args"],
        "bridge_module": config["bridge_args"],
    });
    place.file("run/checkpoints/checkpoint_000020/params.json", params.to_string());
    place.file("backbone/params.json", config["model_args"].to_string());

    // The encoder was frozen: only the special vectors were trained, spelt as they once were.
    let (mut trained, mut frozen, mut projector) = (Vec::new(), Vec::new(), Vec::new());
    for name in released.names() {
        let tensor = released.tensor(name).expect("a tensor");
        if let Some(name) = name.strip_prefix("bridge_module.") {
            projector.push((name.to_owned(), tensor));
        } else if let Some(name) = name.strip_prefix("embedder.") {
            match name.strip_suffix("_tok.0.weight") {
                Some(which) => trained.push((format!("{which}_tok.weight"), tensor)),
                None => frozen.push((name.to_owned(), tensor)),
            }
        }
    }
    assert_eq!((trained.len(), projector.len()), (2, 2));
    write(&run.join("embedder/consolidated.safetensors"), &trained);
    write(&run.join("bridge_module/consolidated.safetensors"), &projector);
    write(&place.path("frozen/consolidated.safetensors"), &frozen);

    let run = place.path("run");
    place.import(&run, &["--backbone", "backbone", "--encoder-from", "frozen"]);
    place.succeeds(&["export", "imported", "-o", "out"]);
    let out = SafetensorsFile::open(place.path("out/model.safetensors")).expect("an export");
    assert_eq!(out.names(), released.names());
    for name in released.names() {
        assert!(
            **out.tensor(name).expect("a tensor").bytes()
                == **released.tensor(name).expect("a tensor").bytes()
        );
    }
    let error = place.refuses(&[
        "import",
        run.to_str().expect("UTF-8"),
        "--name",
        "other",
        "--decoder-names",
        "zero",
        "--encoder-from",
        "frozen",
    ]);
    assert!(error.contains("backbone"), "{error}");
}

#[test]
fn a_long_document_is_its_chunks_side_by_side() {
    let fixture = fixture("arc4_multi");
    let place = Place::with_decoders_of(&fixture);
    place.file("template.txt", "{{ document }}{{ question }}");
    place.import(&fixture, &["--chunk-tokens", "8", "--template", "template.txt"]);
    let latents = |text: &str| {
        place.file("text.txt", text);
        let made = place.succeeds(&[
            "compress",
            "text.txt",
            "-o",
            "x.arc.safetensors",
            "--replace",
            "--encoder",
            "imported",
        ]);
        let file = SafetensorsFile::open(place.path("x.arc.safetensors")).expect("latents");
        (made["chunks"].clone(), file.tensor("latents").expect("latents").to_f32())
    };
    let chunks = ["abcdefgh", "ZYXWVUTS", "00112233", "xyz"];
    let (lengths, together) = latents(&chunks.concat());
    assert_eq!(lengths, json!([2, 2, 2, 1]));
    let apart: Vec<f32> = chunks.iter().flat_map(|chunk| latents(chunk).1).collect();
    let close = |a: &[f32], b: &[f32]| {
        let largest = a.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= TOLERANCE * largest)
    };
    assert!(close(&together, &apart));
    // No chunk sees another, so that their order does not matter.
    let (_, swapped) = latents(&[chunks[1], chunks[0], chunks[2], chunks[3]].concat());
    let width = 2 * 32;
    assert!(close(&swapped, &[&apart[width..2 * width], &apart[..width], &apart[2 * width..]].concat()));

    place.file("text.txt", "a".repeat(33 * 8));
    let long = place.succeeds(&[
        "compress",
        "text.txt",
        "-o",
        "x.arc.safetensors",
        "--replace",
        "--encoder",
        "imported",
    ]);
    // More chunks than its makers had.
    assert_eq!(long["chunks"].as_array().map(Vec::len), Some(33));

    place.file("text.txt", "a".repeat(32 * 8));
    let ask = [
        "ask",
        "--decoder",
        "zero",
        "--encoder",
        "imported",
        "--document",
        "text.txt",
        "--max-tokens",
        "1",
        "x",
    ];
    assert_eq!(place.succeeds(&ask)["latents"], 32 * 2 + 1);
    assert_eq!(place.succeeds(&[&ask[..], &["--no-special"]].concat())["latents"], 32 * 2);
}

/// Numbers without a pattern, of magnitude 1 at most.
fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0) as f32
    })
    .take(count)
    .collect()
}

/// `x Wᵀ` in f64, with `W` of shape `[d_out, d_in]`.
fn linear(x: &[f64], weight: &[f32]) -> Vec<f64> {
    weight.chunks(x.len()).map(|row| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum()).collect()
}

#[test]
fn every_kind_of_projector_computes_its_definition_before_and_after_an_import() {
    const D_IN: usize = 32;
    const HIDDEN: usize = 16;
    const D_OUT: usize = 24;
    let fixture = fixture("arc8_single");
    let released = SafetensorsFile::open(fixture.join("model.safetensors")).expect("golden data");
    let config: Value =
        serde_json::from_slice(&std::fs::read(fixture.join("config.json")).expect("a config")).expect("JSON");
    let device = DeviceName::CPU.open().expect("the CPU");
    let norm = numbers(1, D_IN);
    let first = numbers(2, HIDDEN * D_IN);
    let second = numbers(3, D_OUT * HIDDEN);
    let only = numbers(4, D_OUT * D_IN);
    let x = numbers(5, D_IN);

    for kind in ["mlp", "rms", "linear"] {
        let place = Place::with_decoders_of(&fixture);
        let mut tensors: Vec<(String, RawTensor)> = released
            .names()
            .into_iter()
            .filter(|name| name.starts_with("embedder."))
            .map(|name| (name.to_owned(), released.tensor(name).expect("a tensor")))
            .collect();
        let mut add = |name: &str, shape: &[usize], values: &[f32]| {
            let name = format!("bridge_module.{name}.weight");
            let tensor = RawTensor::from_f32(name.as_str(), shape.to_vec(), values).expect("a tensor");
            tensors.push((name, tensor));
        };
        let mut expected: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        if kind == "linear" {
            add("layer1", &[D_OUT, D_IN], &only);
            expected = linear(&expected, &only);
        } else {
            if kind == "rms" {
                add("norm", &[D_IN], &norm);
                let mean_square = expected.iter().map(|x| x * x).sum::<f64>() / D_IN as f64;
                for (x, &weight) in expected.iter_mut().zip(&norm) {
                    *x *= f64::from(weight) / (mean_square + 1e-5).sqrt();
                }
            }
            add("layer1", &[HIDDEN, D_IN], &first);
            add("layer2", &[D_OUT, HIDDEN], &second);
            expected = linear(&linear(&expected, &first), &second);
        }
        let folder = place.path("checkpoint");
        std::fs::create_dir_all(&folder).expect("a folder");
        write(&folder.join("model.safetensors"), &tensors);
        let mut config = config.clone();
        config["bridge_args"]["bridge_type"] = json!(kind);
        std::fs::write(folder.join("config.json"), config.to_string()).expect("a config");

        let checkpoint = ArcCheckpoint::open(&folder, &TrainingSources::default()).expect("a checkpoint");
        let before = Projector::from_checkpoint(&checkpoint, 0, &device).expect("a projector");
        place.import(&folder, &[]);
        let adapter = Adapter::open(&place.path("plugins/imported/zero")).expect("an adapter");
        let after = Projector::from_adapter(&adapter, &device).expect("a projector");
        for projector in [before.expect("there is one"), after] {
            let rows = Tensor::from_data(TensorData::new(x.clone(), [1, D_IN]), &device);
            let data = projector.forward(rows).expect("projected").into_data();
            let found = data.as_slice::<f32>().expect("f32");
            assert_eq!(found.len(), D_OUT);
            for (found, expected) in found.iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-4, "{kind}: {found} {expected}");
            }
        }
        place.succeeds(&["export", "imported", "-o", "out"]);
        let out = std::fs::read(place.path("out/model.safetensors")).expect("an export");
        let own = std::fs::read(folder.join("model.safetensors")).expect("a checkpoint");
        assert!(out == own, "{kind}");
    }
}

/// The tensors of a checkpoint.
fn tensors_of(file: &Path) -> Vec<(String, RawTensor)> {
    let file = SafetensorsFile::open(file).expect("a file");
    let named = |name: &str| (name.to_owned(), file.tensor(name).expect("a tensor"));
    file.names().into_iter().map(named).collect()
}

/// A tensor of numbers.
fn numbered(seed: u32, shape: &[usize]) -> RawTensor {
    RawTensor::from_f32("x", shape.to_vec(), &numbers(seed, shape.iter().product())).expect("a tensor")
}

/// The latents of a text.
fn latents(place: &Place, encoder: &str, text: &str) -> Vec<f32> {
    place.file("text.txt", text);
    place.succeeds(&["compress", "text.txt", "-o", "x.arc.safetensors", "--replace", "--encoder", encoder]);
    let file = SafetensorsFile::open(place.path("x.arc.safetensors")).expect("latents");
    file.tensor("latents").expect("latents").to_f32()
}

/// Writes a decoder in Meta's layout as Hugging Face has it: other names, and the halves of each
/// head's pairs apart.
fn as_hugging_face(meta: &Path, folder: &Path, scaling: &Value) {
    let params = std::fs::read_to_string(meta.join("params.json")).expect("sizes");
    let params: Value = serde_json::from_str(&params).expect("sizes");
    let config = json!({
        "model_type": "llama", "hidden_size": params["dim"], "intermediate_size": params["hidden_dim"],
        "num_hidden_layers": params["n_layers"], "num_attention_heads": params["n_heads"],
        "num_key_value_heads": params["n_kv_heads"], "head_dim": params["head_dim"],
        "rms_norm_eps": params["norm_eps"], "vocab_size": params["vocab_size"],
        "rope_theta": params["rope_theta"], "rope_scaling": scaling, "max_position_embeddings": 256,
        "tie_word_embeddings": false,
    });
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a config");
    let k = params["head_dim"].as_u64().expect("a width") as usize;
    let apart = |tensor: &RawTensor| {
        let (width, values) = (tensor.shape()[1], tensor.to_f32());
        let rows: Vec<&[f32]> = values.chunks(width).collect();
        let order = |heads: &[&[f32]]| -> Vec<f32> {
            (0..2).flat_map(|half| (0..k / 2).flat_map(move |pair| heads[2 * pair + half].to_vec())).collect()
        };
        let values: Vec<f32> = rows.chunks(k).flat_map(order).collect();
        RawTensor::from_f32("x", tensor.shape().to_vec(), &values).expect("a tensor")
    };
    let renamed: Vec<(String, RawTensor)> = tensors_of(&meta.join("consolidated.safetensors"))
        .into_iter()
        .map(|(name, tensor)| {
            let tensor = if name.contains(".wq.") || name.contains(".wk.") { apart(&tensor) } else { tensor };
            let mut name = name;
            for (from, to) in [
                ("tok_embeddings", "model.embed_tokens"),
                ("output", "lm_head"),
                ("attention.wq", "self_attn.q_proj"),
                ("attention.wk", "self_attn.k_proj"),
                ("attention.wv", "self_attn.v_proj"),
                ("attention.wo", "self_attn.o_proj"),
                ("feed_forward.w1", "mlp.gate_proj"),
                ("feed_forward.w2", "mlp.down_proj"),
                ("feed_forward.w3", "mlp.up_proj"),
                ("attention_norm", "input_layernorm"),
                ("ffn_norm", "post_attention_layernorm"),
            ] {
                name = name.replace(from, to);
            }
            let name = match name.as_str() {
                "norm.weight" => "model.norm.weight".to_owned(),
                other if other.starts_with("layers.") => format!("model.{other}"),
                other => other.to_owned(),
            };
            (name, tensor)
        })
        .collect();
    write(&folder.join("model.safetensors"), &renamed);
}

/// Llama 3.1's scaling, for contexts as short as those of the tests.
fn llama_3_scaling() -> Value {
    json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    })
}

/// The public code rotates Llama 3.1 without its scaling, and its adapters were trained so.
#[test]
fn a_decoder_whose_scaling_is_left_out_gives_the_logits_of_the_unscaled_one() {
    let fixture = fixture("arc8_single");
    let place = Place::with_decoders_of(&fixture);
    as_hugging_face(&fixture.join("decoder0"), &place.path("hf"), &llama_3_scaling());
    std::fs::copy(place.path("zero-tokenizer.json"), place.path("hf/tokenizer.json")).expect("a tokenizer");
    place.add_to_registry(
        "[decoders.scaled]\nsource = \"file:hf\"\n\
         [decoders.unscaled]\nsource = \"file:hf\"\noptions = { rope_scaling = \"none\" }\n",
    );
    let logits = |decoder: &str| -> Vec<f64> {
        let prompt = "abcdefghijklmnopqrstuvwxyzabcdefghijklm";
        let generate =
            ["generate", "--decoder", decoder, "--prompt", prompt, "--max-tokens", "1", "--logits", "89"];
        let written = place.succeeds(&generate);
        let mut logits = vec![0.0; 89];
        for pair in written["logits"].as_array().expect("logits") {
            let id = pair["id"].as_u64().expect("an id") as usize;
            logits[id] = pair["logit"].as_f64().expect("a number");
        }
        logits
    };
    let meta = logits("zero");
    let worst = |other: &[f64]| meta.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let largest = meta.iter().fold(0.0_f64, |largest, logit| largest.max(logit.abs()));
    assert!(worst(&logits("unscaled")) <= 1e-5 * largest, "{}", worst(&logits("unscaled")));
    assert!(worst(&logits("scaled")) > 1e-3 * largest, "{}", worst(&logits("scaled")));
}

/// The reference's encoders know no scaling either, whichever layout their backbone comes in.
#[test]
fn an_encoder_is_not_scaled_by_its_backbones_configuration() {
    let fixture = fixture("arc8_single");
    let place = Place::with_decoders_of(&fixture);
    let meta = fixture.join("decoder0");
    as_hugging_face(&meta, &place.path("hf"), &llama_3_scaling());
    std::fs::create_dir_all(place.path("meta")).expect("a folder");
    for file in ["params.json", "consolidated.safetensors"] {
        std::fs::copy(meta.join(file), place.path("meta").join(file)).expect("a copy");
    }
    let mut found = Vec::new();
    for (name, file) in [("meta", "consolidated.safetensors"), ("hf", "model.safetensors")] {
        let folder = place.path(name);
        std::fs::copy(place.path("zero-tokenizer.json"), folder.join("tokenizer.json")).expect("a tokenizer");
        let weights = folder.join(file);
        let manifest = json!({
            "schema": 1, "name": name, "encoder_id": "x", "architecture": "llama", "d_encoder": 24,
            "n_truncated_layers": 0, "compress_rates": [-4], "pool_type": "mean_pooled_queries",
            "where": "before", "chunk_tokens": 64,
            "backbone": {
                "source": format!("file:{}", weights.display()),
                "sha256": arc_adapters::sha256_file(&weights).expect("a hash"),
            },
            "weights": { "kind": "backbone" },
        });
        let mut manifest =
            EncoderManifest::parse(&manifest.to_string(), Path::new("test")).expect("a manifest");
        manifest.encoder_id = encoder_id(&manifest);
        manifest.write(&place.path(&format!("encoders/{name}"))).expect("a package");
        place.add_to_registry(&format!("[encoders.{name}]\npackage = \"encoders/{name}\"\n"));
        found.push(latents(&place, name, "abcdefghijklmnopqrstuvwxyzabcdefghijklm"));
    }
    let largest = found[0].iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
    assert_eq!(found[0].len(), 10 * 24);
    assert!(found[0].iter().zip(&found[1]).all(|(a, b)| (a - b).abs() <= 1e-5 * largest));
}

#[test]
fn a_tokenizer_that_the_registry_names_is_used_by_every_command() {
    let fixture = fixture("arc8_single");
    let place = Place::with_decoders_of(&fixture);
    place.import(&fixture, &["--chunk-tokens", "64"]);
    let verified = place.succeeds(&["adapters", "verify", "plugins/imported/zero"]);
    let checks = verified["adapters"][0]["checks"].as_array().expect("checks").clone();
    let pins =
        checks.iter().find(|check| check["what"].as_str().is_some_and(|what| what.contains("tokenizer")));
    assert!(pins.is_some_and(|check| check.to_string().contains("passed")), "{checks:?}");

    // The same decoder, added with its tokenizer.
    let source = format!("file:{}", fixture.join("decoder0").display());
    place.succeeds(&[
        "adapters",
        "add",
        "--name",
        "added",
        "--source",
        &source,
        "--tokenizer",
        "file:zero-tokenizer.json",
    ]);
    let generate = |decoder: &str| {
        place.succeeds(&["generate", "--decoder", decoder, "--prompt", "abc", "--max-tokens", "3"])["token_ids"]
            .clone()
    };
    assert_eq!(generate("added"), generate("zero"));

    let rows: String = (0..60)
        .map(|row| {
            let text: String = (0..200).map(|i| letter((i * i + row * 7 + i * row) % 60)).collect();
            format!("{}\n", json!({ "text": text }))
        })
        .collect();
    place.file("texts.jsonl", rows);
    // Text is prepared with the encoder's tokenizer, which is another than the decoder's.
    place.add_to_registry(&format!(
        "[decoders.letters]\nsource = {source:?}\ntokenizer = {{ source = \"file:encoder-tokenizer.json\" }}\n"
    ));
    place.prepare("letters", "texts.jsonl=CC0-1.0", "corpus", "0.2", &[]);
    let registered = place.succeeds(&[
        "register",
        "--decoder",
        "added",
        "--encoder",
        "imported",
        "--text",
        "corpus",
        "--steps",
        "2",
        "--batches",
        "2",
        "--batch",
        "2",
        "--context-tokens",
        "16",
        "--target-tokens",
        "8",
        "--samples",
        "2",
    ]);
    assert_eq!(registered["decoder"], "added");
    let verified = place.succeeds(&["adapters", "verify", "added"]);
    assert_eq!(verified["passed"], true, "{verified}");
}

/// A checkpoint for two decoders that have memory vectors of their own.
fn two_memories(place: &Place) -> PathBuf {
    let fixture = fixture("memory_tokens");
    let mut tensors = tensors_of(&fixture.join("model.safetensors"));
    for (seed, (name, shape)) in
        (20..).zip([("mem_embeddings", [6, 32]), ("cont_tok", [1, 32]), ("rec_tok", [1, 32])])
    {
        tensors.push((format!("embedder.{name}.1.weight"), numbered(seed, &shape)));
    }
    let folder = place.path("two");
    std::fs::create_dir_all(&folder).expect("a folder");
    write(&folder.join("model.safetensors"), &tensors);
    std::fs::copy(fixture.join("config.json"), folder.join("config.json")).expect("a config");
    place.add_to_registry(&format!(
        "[decoders.one]\nsource = {:?}\ntokenizer = {{ source = \"file:zero-tokenizer.json\" }}\n",
        format!("file:{}", fixture.join("decoder0").display())
    ));
    folder
}

#[test]
fn memory_vectors_of_several_decoders_make_an_encoder_for_each_and_are_joined_again() {
    let fixture = fixture("memory_tokens");
    let place = Place::with_decoders_of(&fixture);
    let folder = two_memories(&place);
    let arguments = place.import_arguments(&folder);
    let arguments = arguments.iter().map(|&text| if text == "zero" { "zero,one" } else { text });
    let imported = place.succeeds(&arguments.collect::<Vec<_>>());
    let names: Vec<_> = imported["encoders"].as_array().expect("encoders").iter().collect();
    assert_eq!(
        names.iter().map(|encoder| &encoder["name"]).collect::<Vec<_>>(),
        ["imported.zero", "imported.one"]
    );
    assert_ne!(names[0]["encoder_id"], names[1]["encoder_id"]);

    // The first decoder's are the fixture's, and so are its latents, as the reference has them.
    let (id, contexts) = cases(&fixture).swap_remove(0);
    let golden = SafetensorsFile::open(fixture.join("expected.safetensors")).expect("golden data");
    let golden = golden.tensor(&format!("{id}.latents")).expect("latents").to_f32();
    let close = |a: &[f32], b: &[f32]| {
        let largest = b.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= TOLERANCE * largest)
    };
    assert_eq!(contexts.len(), 1);
    let first = latents(&place, "imported.zero", &contexts[0]);
    assert!(close(&first, &golden));
    // The second's are those of a checkpoint that has its vectors alone.
    let alone = Place::with_decoders_of(&fixture);
    let mut tensors = tensors_of(&fixture.join("model.safetensors"));
    for (name, tensor) in &mut tensors {
        if name == "embedder.mem_embeddings.0.weight" {
            *tensor = numbered(20, &[6, 32]);
        }
    }
    std::fs::create_dir_all(alone.path("alone")).expect("a folder");
    write(&alone.path("alone/model.safetensors"), &tensors);
    std::fs::copy(fixture.join("config.json"), alone.path("alone/config.json")).expect("a config");
    alone.import(&alone.path("alone"), &[]);
    let second = latents(&place, "imported.one", &contexts[0]);
    assert!(close(&second, &latents(&alone, "imported", &contexts[0])) && !close(&second, &golden));

    // One file of weights, whichever package names it.
    let weights = |name: &str| place.path(&format!("encoders/{name}/encoder.safetensors"));
    let content = |path: PathBuf| std::fs::read(path).expect("a file");
    assert!(content(weights("imported.zero")) == content(weights("imported.one")));
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let inode = |name: &str| std::fs::metadata(weights(name)).expect("a file").ino();
        assert_eq!(inode("imported.zero"), inode("imported.one"));
    }

    place.file("text.txt", &contexts[0]);
    let ask = |encoder| {
        [
            "ask",
            "--decoder",
            "one",
            "--encoder",
            encoder,
            "--document",
            "text.txt",
            "--max-tokens",
            "1",
            "abc",
        ]
    };
    place.file("template.txt", "{{ document }}{{ question }}");
    let arguments = [&place.import_arguments(&folder)[..], &["--template", "template.txt"]].concat();
    let arguments = arguments.iter().map(|&text| if text == "zero" { "zero,one" } else { text });
    place.succeeds(&arguments.collect::<Vec<_>>());
    assert_eq!(place.succeeds(&ask("imported.one"))["latents"], 6 + 1);
    let error = place.refuses(&ask("imported.zero"));
    assert!(error.contains("encoder"), "{error}");

    for name in ["imported.zero", "imported.one"] {
        place.succeeds(&["export", name, "-o", "out"]);
        assert!(content(place.path("out/model.safetensors")) == content(folder.join("model.safetensors")));
        let config = |path| serde_json::from_slice::<Value>(&content(path)).expect("JSON");
        assert_eq!(config(place.path("out/config.json")), config(folder.join("config.json")));
    }
    place.succeeds(&["export", "imported.zero", "-o", "one", "--decoder-names", "one"]);
    let one = SafetensorsFile::open(place.path("one/model.safetensors")).expect("an export");
    let memory = one.tensor("embedder.mem_embeddings.0.weight").expect("memory");
    assert_eq!(memory.to_f32(), numbers(20, 6 * 32));
}

#[test]
fn memory_vectors_in_the_old_spelling_are_those_of_the_only_decoder() {
    let fixture = fixture("memory_tokens");
    let place = Place::with_decoders_of(&fixture);
    let folder = place.path("old");
    std::fs::create_dir_all(&folder).expect("a folder");
    let tensors: Vec<_> = tensors_of(&fixture.join("model.safetensors"))
        .into_iter()
        .map(|(name, tensor)| (name.replace("mem_embeddings.0.", "mem_embeddings."), tensor))
        .collect();
    assert!(tensors.iter().any(|(name, _)| name == "embedder.mem_embeddings.weight"));
    write(&folder.join("model.safetensors"), &tensors);
    std::fs::copy(fixture.join("config.json"), folder.join("config.json")).expect("a config");
    place.import(&folder, &[]);
    place.succeeds(&["export", "imported", "-o", "out"]);
    let read = |path: PathBuf| std::fs::read(path).expect("a file");
    assert!(read(place.path("out/model.safetensors")) == read(fixture.join("model.safetensors")));
}

/// A copy of a released checkpoint with other tensors and another projector in its configuration.
fn rebuilt(place: &Place, name: &str, tensors: &[(String, RawTensor)], bridge: &Value) -> PathBuf {
    let folder = place.path(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    write(&folder.join("model.safetensors"), tensors);
    let config = std::fs::read(fixture("arc4_multi").join("config.json")).expect("a config");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    config["bridge_args"] = bridge.clone();
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a config");
    folder
}

/// The encoder and special vectors of the fixture with two decoders.
fn without_projectors() -> Vec<(String, RawTensor)> {
    let mut tensors = tensors_of(&fixture("arc4_multi").join("model.safetensors"));
    tensors.retain(|(name, _)| name.starts_with("embedder."));
    tensors
}

#[test]
fn a_projector_that_two_decoders_share_is_in_both_adapters_and_once_in_the_export() {
    let place = Place::with_decoders_of(&fixture("arc4_multi"));
    let mut tensors = without_projectors();
    tensors.push(("bridge_module.layer1.weight".into(), numbered(1, &[16, 32])));
    tensors.push(("bridge_module.layer2.weight".into(), numbered(2, &[24, 16])));
    let bridge = json!({ "bridge_type": "mlp", "in_dim": 32, "hidden_dim": 16, "out_dim": 24 });
    let folder = rebuilt(&place, "shared", &tensors, &bridge);
    place.succeeds(&[
        "import",
        "shared",
        "--name",
        "imported",
        "--decoder-names",
        "zero,one",
        "--tokenizer",
        "encoder-tokenizer.json",
    ]);
    let layer = |decoder: &str| {
        let file = place.path(&format!("plugins/imported/{decoder}/adapter.safetensors"));
        let file = SafetensorsFile::open(file).expect("an adapter");
        file.tensor("projector.1.weight").expect("a layer").to_f32()
    };
    assert_eq!(layer("zero"), numbers(2, 24 * 16));
    assert_eq!(layer("zero"), layer("one"));
    place.succeeds(&["export", "imported", "-o", "out"]);
    let read = |path: PathBuf| std::fs::read(path).expect("a file");
    assert!(read(place.path("out/model.safetensors")) == read(folder.join("model.safetensors")));

    // One that was trained on alone no longer fits a layout with one projector for all.
    let path = place.path("plugins/imported/one");
    rewrite(&path, |tensors, _| replace(tensors, "projector.1.weight", numbered(9, &[24, 16])));
    let error = place.refuses(&["export", "imported", "-o", "differing"]);
    assert!(error.contains("a checkpoint with one projector (`bridge_module.layer2.weight`)"), "{error}");
    assert!(error.contains("adapter `imported.one`") && !place.path("differing").exists(), "{error}");
    place.succeeds(&["export", "imported", "-o", "alone", "--decoder-names", "one"]);
}

#[test]
fn without_a_projector_latents_go_to_the_decoder_as_they_are() {
    let place = Place::with_decoders_of(&fixture("arc4_multi"));
    let shape = "shape = { n_layers = 1, d_model = 32, n_heads = 1, n_kv_heads = 1, d_head = 32, d_ff = 4, vocab_size = 9, norm_eps = 1e-5, rope_theta = 1e4 }";
    for name in ["a", "b"] {
        let source = "source = \"hf:o/r@main#x.gguf\"\narchitecture = \"llama\"";
        place.add_to_registry(&format!("[decoders.{name}]\n{source}\n{shape}\n"));
    }
    let bridge = json!({ "bridge_type": null, "in_dim": 32, "hidden_dim": null, "out_dim": null });
    let folder = rebuilt(&place, "bare", &without_projectors(), &bridge);
    let import = |names| {
        [
            "import",
            "bare",
            "--name",
            "imported",
            "--decoder-names",
            names,
            "--tokenizer",
            "encoder-tokenizer.json",
        ]
    };
    place.succeeds(&import("a,b"));
    let adapter = Adapter::open(&place.path("plugins/imported/a")).expect("an adapter");
    assert_eq!((adapter.manifest.d_encoder, adapter.manifest.d_decoder), (32, 32));
    let device = DeviceName::CPU.open().expect("the CPU");
    let projector = Projector::from_adapter(&adapter, &device).expect("a projector");
    let x = numbers(3, 64);
    let rows: Tensor<2> = Tensor::from_data(TensorData::new(x.clone(), [2, 32]), &device);
    let projected = projector.forward(rows).expect("projected").into_data();
    assert_eq!(projected.as_slice::<f32>().expect("f32"), x);
    place.succeeds(&["export", "imported", "-o", "out"]);
    let read = |path: PathBuf| std::fs::read(path).expect("a file");
    assert!(read(place.path("out/model.safetensors")) == read(folder.join("model.safetensors")));
    // Their width is 24 and the latents' 32.
    let error = place.refuses(&import("zero,one"));
    assert!(error.contains("`zero`") && error.contains("`24`") && error.contains("`32`"), "{error}");
}

/// Rewrites an adapter package with other tensors and another manifest.
fn rewrite(folder: &Path, change: impl FnOnce(&mut Vec<(String, RawTensor)>, &mut Value)) {
    let (weights, manifest) = (folder.join("adapter.safetensors"), folder.join("adapter.json"));
    let mut tensors = tensors_of(&weights);
    let mut described: Value =
        serde_json::from_slice(&std::fs::read(&manifest).expect("a manifest")).expect("JSON");
    change(&mut tensors, &mut described);
    // The new file is made in memory first: the tensors are mapped from the old one.
    write(&weights, &tensors);
    described["weights"]["sha256"] = json!(arc_adapters::sha256_file(&weights).expect("a hash"));
    std::fs::write(manifest, described.to_string()).expect("a manifest");
}

fn replace(tensors: &mut Vec<(String, RawTensor)>, name: &str, tensor: RawTensor) {
    tensors.retain(|(other, _)| other != name);
    tensors.push((name.to_owned(), tensor));
}

#[test]
fn a_decoder_of_another_width_is_exported_with_its_width_in_the_configuration() {
    const WIDE: usize = 40;
    let fixture = fixture("arc8_single");
    let place = Place::with_decoders_of(&fixture);
    place.import(&fixture, &[]);
    let package = place.path("plugins/imported/zero");
    rewrite(&package, |tensors, manifest| {
        replace(tensors, "projector.0.weight", numbered(1, &[20, 32]));
        replace(tensors, "projector.1.weight", numbered(2, &[WIDE, 20]));
        for (layer, [d_in, d_out]) in [[32, 20], [20, WIDE]].into_iter().enumerate() {
            manifest["projector"]["layers"][layer]["d_in"] = json!(d_in);
            manifest["projector"]["layers"][layer]["d_out"] = json!(d_out);
        }
        manifest["d_hidden"] = json!(20);
        manifest["d_decoder"] = json!(WIDE);
    });
    place.succeeds(&["export", "imported", "-o", "out"]);
    let config = |path: PathBuf| -> Value {
        serde_json::from_slice(&std::fs::read(path).expect("a config")).expect("JSON")
    };
    let (mut before, after) = (config(fixture.join("config.json")), config(place.path("out/config.json")));
    before["bridge_args"]["out_dim"] = json!(WIDE);
    before["bridge_args"]["hidden_dim"] = json!(20);
    assert_eq!(before, after, "nothing else is changed");
    let checkpoint =
        ArcCheckpoint::open(place.path("out"), &TrainingSources::default()).expect("a checkpoint");
    let layers = checkpoint.projector(0).expect("a projector").expect("a projector").layers;
    assert_eq!(layers[1].to_f32(), numbers(2, WIDE * 20));
}

mod refusals {
    use super::*;

    /// A copy of a fixture's checkpoint with one tensor changed, taken away or added.
    fn changed(place: &Place, change: impl Fn(&mut Vec<(String, RawTensor)>)) -> PathBuf {
        let fixture = fixture("arc8_single");
        let released = SafetensorsFile::open(fixture.join("model.safetensors")).expect("golden data");
        let mut tensors: Vec<_> = released
            .names()
            .into_iter()
            .map(|name| (name.to_owned(), released.tensor(name).expect("a tensor")))
            .collect();
        change(&mut tensors);
        let folder = place.path("changed");
        std::fs::create_dir_all(&folder).expect("a folder");
        write(&folder.join("model.safetensors"), &tensors);
        std::fs::copy(fixture.join("config.json"), folder.join("config.json")).expect("a config");
        folder
    }

    fn tensor(shape: &[usize], value: f32) -> RawTensor {
        let values = vec![value; shape.iter().product()];
        RawTensor::from_f32("x", shape.to_vec(), &values).expect("a tensor")
    }

    /// What importing a changed checkpoint says; nothing may be left of it.
    fn refusal(change: impl Fn(&mut Vec<(String, RawTensor)>)) -> String {
        let place = Place::with_decoders_of(&fixture("arc8_single"));
        let folder = changed(&place, change);
        let before = std::fs::read(place.path("registry.toml")).expect("a registry");
        let error = place.refuses(&place.import_arguments(&folder));
        assert_eq!(std::fs::read(place.path("registry.toml")).expect("a registry"), before);
        assert!(!place.path("encoders").exists() && !place.path("plugins").exists());
        error
    }

    const LAYER: &str = "embedder.layers.1.attention.wq.weight";

    #[test]
    fn a_missing_tensor_is_named() {
        let error = refusal(|tensors| tensors.retain(|(name, _)| name != LAYER));
        assert!(error.contains(LAYER) && error.contains("has no tensor"), "{error}");
    }

    #[test]
    fn an_extra_tensor_is_named() {
        let error = refusal(|tensors| tensors.push(("embedder.layers.1.extra".into(), tensor(&[2], 0.0))));
        assert!(error.contains("`embedder.layers.1.extra`") && error.contains("does not use"), "{error}");
    }

    #[test]
    fn a_misshapen_tensor_is_named_with_both_shapes() {
        let error = refusal(|tensors| {
            for (name, value) in tensors.iter_mut().filter(|(name, _)| name == LAYER) {
                assert_eq!(name, LAYER);
                *value = tensor(&[32, 31], 0.0);
            }
        });
        assert!(error.contains(LAYER) && error.contains("[32, 31]") && error.contains("[32, 32]"), "{error}");
    }

    #[test]
    fn a_value_that_is_not_a_number_is_named_with_its_place() {
        let error = refusal(|tensors| {
            for (_, value) in tensors.iter_mut().filter(|(name, _)| name == LAYER) {
                *value = tensor(&[32, 32], f32::NAN);
            }
        });
        assert!(error.contains(LAYER) && error.contains("NaN at 0"), "{error}");
    }

    #[test]
    fn a_config_that_contradicts_the_tensors_is_answered_with_the_tensor() {
        let place = Place::with_decoders_of(&fixture("arc8_single"));
        let folder = changed(&place, |_| {});
        let config = std::fs::read_to_string(folder.join("config.json")).expect("a config");
        let mut config: Value = serde_json::from_str(&config).expect("JSON");
        for (field, value, expected) in [
            ("/model_args/vocab_size", json!(62), "tok_embeddings.weight"),
            ("/model_args/n_layers", json!(5), "layers.2."),
            ("/embedder_args/n_truncated_layers", json!(3), "does not use"),
            ("/embedder_args/rec_tok", json!(false), "rec_tok.0.weight"),
            ("/bridge_args/hidden_dim", json!(17), "layer1.weight"),
            ("/bridge_args/in_dim", json!(33), "`in_dim`"),
            ("/embedder_args/n_truncated_layers", json!(9), "`n_truncated_layers` is 9"),
            ("/embedder_args/pooling_module/pool_type", json!("median"), "`median`"),
            ("/embedder_args/pooling_module/where", json!("after"), "`after`"),
        ] {
            let old = config.pointer(field).expect("a field").clone();
            *config.pointer_mut(field).expect("a field") = value;
            std::fs::write(folder.join("config.json"), config.to_string()).expect("a config");
            let error = place.refuses(&place.import_arguments(&folder));
            assert!(error.contains(expected), "{field}: {error}");
            *config.pointer_mut(field).expect("a field") = old;
        }
    }

    #[test]
    fn wrong_decoder_names_are_answered_with_the_right_ones_or_their_number() {
        let fixture = fixture("arc8_single");
        let place = Place::with_decoders_of(&fixture);
        let source = fixture.to_str().expect("UTF-8");
        let import =
            |names: &str| place.refuses(&["import", source, "--name", "imported", "--decoder-names", names]);
        let error = import("zerro");
        assert!(error.contains("no decoder is called `zerro`") && error.contains("`zero`"), "{error}");
        let error = import("zero,zero");
        assert!(
            error.contains("found 2 names for the decoders that") && error.contains("expected 1"),
            "{error}"
        );
        let error = place.refuses(&["import", source, "--name", "imported"]);
        assert!(error.contains("1 decoders"), "{error}");
        place.import(&fixture, &[]);
        let error = place.refuses(&["export", "imported", "-o", "out", "--decoder-names", "none"]);
        assert!(error.contains("no decoder is called `none`"), "{error}");
        let error = place.refuses(&["export", "import", "-o", "out"]);
        assert!(error.contains("no encoder is called `import`") && error.contains("`imported`"), "{error}");
    }

    #[test]
    fn a_decoder_that_is_named_twice_is_refused() {
        let fixture = fixture("arc4_multi");
        let place = Place::with_decoders_of(&fixture);
        let source = fixture.to_str().expect("UTF-8");
        let error = place.refuses(&["import", source, "--name", "imported", "--decoder-names", "one,one"]);
        assert!(
            error.contains("the name of a decoder is `one`, expected one that no other decoder has"),
            "{error}"
        );
    }

    #[test]
    fn a_tokenizer_with_more_tokens_than_the_encoder_has_embeddings_is_refused() {
        let fixture = fixture("arc8_single");
        let place = Place::with_decoders_of(&fixture);
        place.file("encoder-tokenizer.json", tokenizer(VOCABULARY + 1));
        let error = place.refuses(&place.import_arguments(&fixture));
        assert!(error.contains("tokens of its tokenizer") && error.contains("at most 61"), "{error}");
        assert!(error.contains("`62`") && !place.path("encoders").exists(), "{error}");
    }

    #[test]
    fn an_encoder_that_was_not_imported_is_not_exported() {
        let place = Place::with_decoders_of(&fixture("arc8_single"));
        let manifest = json!({
            "schema": 1, "name": "own", "encoder_id": "x", "architecture": "llama", "d_encoder": 24,
            "n_truncated_layers": 0, "compress_rates": [-2], "pool_type": "mean", "where": "before",
            "chunk_tokens": 64,
            "backbone": { "decoder": "zero", "sha256": "0".repeat(64) },
            "weights": { "kind": "backbone" },
        });
        let manifest = EncoderManifest::parse(&manifest.to_string(), Path::new("test")).expect("a manifest");
        manifest.write(&place.path("own")).expect("a package");
        place.add_to_registry("[encoders.own]\npackage = \"own\"\n");
        for more in [&[][..], &["--decoder-names", "zero"]] {
            let error = place.refuses(&[&["export", "own", "-o", "out"], more].concat());
            assert!(error.contains("encoder `own`") && error.contains("imported checkpoint"), "{error}");
        }
    }

    #[test]
    fn an_adapter_of_another_encoder_is_not_exported() {
        let fixture = fixture("arc8_single");
        let place = Place::with_decoders_of(&fixture);
        place.import(&fixture, &[]);
        rewrite(&place.path("plugins/imported/zero"), |_, manifest| {
            manifest["encoder"] = json!({ "name": "other", "encoder_id": "another" });
        });
        let error = place.refuses(&["export", "imported", "-o", "out"]);
        assert!(error.contains("another") && error.contains("encoder"), "{error}");
        assert!(!place.path("out").exists());
    }

    #[test]
    fn a_projector_that_the_released_layout_lacks_is_not_exported() {
        let fixture = fixture("arc8_single");
        let place = Place::with_decoders_of(&fixture);
        place.import(&fixture, &[]);
        rewrite(&place.path("plugins/imported/zero"), |_, manifest| {
            let layers = manifest["projector"]["layers"].as_array_mut().expect("layers");
            layers.push(json!({ "kind": "scale", "factor": 2.0 }));
        });
        let error = place.refuses(&["export", "imported", "-o", "out"]);
        assert!(error.contains("the released layout") && error.contains("as layer 2"), "{error}");
        assert!(!place.path("out").exists());
    }

    #[test]
    fn a_decoder_of_another_width_than_the_projector_is_refused() {
        let fixture = fixture("arc8_single");
        let place = Place::with_decoders_of(&fixture);
        let shape = "shape = { n_layers = 1, d_model = 32, n_heads = 1, n_kv_heads = 1, d_head = 32, d_ff = 4, vocab_size = 9, norm_eps = 1e-5, rope_theta = 1e4 }";
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("a registry");
        place.file(
            "registry.toml",
            format!("{registry}[decoders.wide]\nsource = \"hf:o/r@main#x.gguf\"\narchitecture = \"llama\"\n{shape}\n"),
        );
        let source = fixture.to_str().expect("UTF-8");
        let error = place.refuses(&["import", source, "--name", "imported", "--decoder-names", "wide"]);
        assert!(error.contains("`wide`") && error.contains("`32`") && error.contains("`24`"), "{error}");
    }
}

/// Writes tensors under other names.
fn write(path: &Path, tensors: &[(String, RawTensor)]) {
    let views = tensors.iter().map(|(name, tensor)| {
        assert_eq!(tensor.dtype(), StorageType::F32);
        (name.as_str(), TensorView::new(Dtype::F32, tensor.shape().to_vec(), tensor.bytes()).expect("a view"))
    });
    std::fs::write(path, serialize(views, None).expect("a file")).expect("a file");
}
