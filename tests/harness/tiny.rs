//! A place to run the binary in, with a model that the test writes itself: a llama of one tiny layer.
//! Nothing is pulled, and nothing of this machine gets in.
#![allow(dead_code, reason = "each test binary uses a part of it")]

#[allow(clippy::duplicate_mod, reason = "a test binary may use both parts of the harness")]
#[path = "notice.rs"]
pub(crate) mod notice;
#[allow(clippy::duplicate_mod, reason = "a test binary may use both parts of the harness")]
#[path = "recorded.rs"]
pub(crate) mod recorded;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use arc_adapters::{EncoderManifest, sha256_hex};
use arc_core::encoder::encoder_id;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Wrong usage: nothing was tried.
pub(crate) const USAGE: i32 = 2;
/// It was tried, and failed.
pub(crate) const FAILURE: i32 = 1;

/// Width of the tiny model, `d`.
pub(crate) const WIDTH: usize = 8;
/// Width of its feed-forward layer, `f`.
pub(crate) const HIDDEN: usize = 16;
/// Its longest context, in positions.
pub(crate) const WINDOW: u32 = 256;

/// `<unk>`, `<s>`, `</s>` and a token for every byte.
pub(crate) const VOCABULARY: usize = 3 + 256;

/// The name of the latents file in a place.
pub(crate) const LATENTS: &str = "out.arc.safetensors";

/// A folder to work in, with a registry, a cache and a home of its own: nothing of this machine gets in.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn empty() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        place.registry("");
        place
    }

    /// With the decoder `tiny`.
    pub(crate) fn with_model(model: &Gguf) -> Self {
        let place = Self::empty();
        place.decoder(&model.to_bytes(), "");
        place
    }

    /// With the decoder `tiny`, and the encoder `start` made of it.
    pub(crate) fn with_encoder() -> Self {
        Self::with_encoder_of(&tiny_llama())
    }

    /// The same of another model.
    fn with_encoder_of(model: &Gguf) -> Self {
        let place = Self::with_model(model);
        place.encoder("start", 64);
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        place.file("registry.toml", registry.replacen('\n', "\ndefault_encoder = \"start\"\n", 1));
        place
    }

    /// With an adapter between the two, fitted on letters, that appends a special vector.
    pub(crate) fn with_adapter() -> Self {
        Self::with_adapter_of(&tiny_llama())
    }

    /// The same of another model.
    pub(crate) fn with_adapter_of(model: &Gguf) -> Self {
        let place = Self::with_encoder_of(model);
        let texts: String = (0..20_usize)
            .map(|row| {
                let letters = (0..24_usize)
                    .map(|place| char::from(b"etaoinshrdlucmfwypvbgkjqxz"[(row * 7 + place * place) % 26]));
                format!("{}\n", json!({ "text": letters.collect::<String>() }))
            })
            .collect();
        let texts = place.file("texts.jsonl", texts);
        place.succeeds(&["fit", "--decoder", "tiny", "--text", &texts, "-o", "adapter"]);
        // As a trained adapter has it: a fit appends nothing.
        let manifest = std::fs::read_to_string(place.path("adapter/adapter.json")).expect("the adapter");
        let appending = manifest.replacen("\"append\": \"none\"", "\"append\": \"cont\"", 1);
        assert_ne!(appending, manifest);
        place.file("adapter/adapter.json", appending);
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        let source = "source = \"file:tiny.gguf\"\n";
        place.file("registry.toml", registry.replace(source, &format!("{source}adapter = \"adapter\"\n")));
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and gives back its name.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("in the folder")).expect("its folder");
        std::fs::write(path, content).expect("a file is written");
        name.to_owned()
    }

    /// Writes a shell script that can be run.
    #[cfg(unix)]
    pub(crate) fn program(&self, name: &str, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;

        let written = self.path(&self.file(&format!("{name}.text"), format!("#!/bin/sh\n{script}\n")));
        let path = self.path(name);
        // Another process writes the program: a file that this one has open for writing could be so in a
        // child that another test's thread is starting, and then not be run ("text file busy").
        let copied = std::process::Command::new("cp").arg(written).arg(&path).status();
        assert!(copied.expect("cp runs").success());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it may be run");
        path
    }

    pub(crate) fn registry(&self, entries: &str) {
        self.file("registry.toml", format!("schema = 1\n{entries}"));
    }

    pub(crate) fn add_to_registry(&self, entry: &str) {
        let registry = std::fs::read_to_string(self.path("registry.toml")).expect("the registry");
        self.file("registry.toml", format!("{registry}{entry}"));
    }

    /// Makes `model` the decoder `tiny`, with more fields of its entry.
    pub(crate) fn decoder(&self, model: &[u8], fields: &str) {
        self.file("tiny.gguf", model);
        self.registry(&format!("[decoders.tiny]\nsource = \"file:tiny.gguf\"\n{fields}"));
    }

    /// Adds an encoder whose backbone is the decoder `tiny`; returns its identity.
    pub(crate) fn encoder(&self, name: &str, chunk_tokens: usize) -> String {
        let backbone = std::fs::read(self.path("tiny.gguf")).expect("the backbone");
        let manifest = json!({
            "schema": 1, "name": name, "encoder_id": "to be computed", "architecture": "llama",
            "d_encoder": WIDTH, "n_truncated_layers": 0, "compress_rates": [-1],
            "pool_type": "mean_pooled_queries",
            "where": "before", "causal": false, "memory_tokens": 0, "chunk_tokens": chunk_tokens,
            "max_chunks": 1024,
            "backbone": { "decoder": "tiny", "sha256": sha256_hex(&backbone) },
            "weights": { "kind": "backbone" },
        });
        let mut manifest =
            EncoderManifest::parse(&manifest.to_string(), Path::new("test")).expect("a manifest");
        manifest.encoder_id = encoder_id(&manifest);
        let folder = if name == "start" { "encoder".to_owned() } else { format!("encoder-{name}") };
        manifest.write(&self.path(&folder)).expect("an encoder package");
        self.add_to_registry(&format!("[encoders.{name}]\npackage = \"{folder}\"\n"));
        manifest.encoder_id
    }

    /// The identity of the encoder `start`.
    pub(crate) fn encoder_id(&self) -> String {
        EncoderManifest::open(&self.path("encoder")).expect("the encoder").encoder_id
    }

    /// What a latents file of two latents says of itself.
    pub(crate) fn latents_metadata(&self) -> Value {
        json!({
            "format": "arc-latents", "schema": "1", "encoder_id": self.encoder_id(), "factor": "1",
            "chunk_lengths": "[2]", "source_tokens": "2", "text_sha256": sha256_hex(b""),
        })
    }

    /// Writes a latents file in which every value is `value`.
    pub(crate) fn latents(&self, shape: [usize; 2], value: f32, metadata: &Value) {
        let values: Vec<u8> =
            std::iter::repeat_n(value.to_le_bytes(), shape[0] * shape[1]).flatten().collect();
        let latents = TensorView::new(Dtype::F32, shape.to_vec(), &values).expect("a tensor");
        let metadata = serde_json::from_value(metadata.clone()).expect("text fields");
        self.file(LATENTS, serialize([("latents", latents)], Some(metadata)).expect("a file"));
    }

    /// The path of a decoder's model in the cache, or null.
    pub(crate) fn cached(&self, decoder: &str) -> Value {
        let models = self.succeeds(&["models"]);
        let decoders = models["decoders"].as_array().expect("a list of decoders");
        decoders.iter().find(|entry| entry["name"] == decoder).expect("the decoder")["path"].clone()
    }

    /// The names of what is in the folder, sorted.
    pub(crate) fn listing(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("the folder");
        let mut names: Vec<_> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub(crate) fn arc(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arc"));
        command.args(arguments).current_dir(self.folder.path()).stdin(std::process::Stdio::null());
        for variable in ["ARC_DEVICE", "ARC_PIP", "CLICOLOR_FORCE"] {
            command.env_remove(variable);
        }
        // What other machines compute, too.
        command.env("ARC_PRECISION", "exact");
        for variable in ["ARC_DECODER", "ARC_MAX_TOKENS", "ARC_CACHE_LIMIT", "ARC_PDF_SECONDS"] {
            command.env_remove(variable);
        }
        for variable in ["HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH"] {
            command.env_remove(variable);
        }
        for variable in ["HUGGING_FACE_HUB_TOKEN", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME"] {
            command.env_remove(variable);
        }
        for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(variable).env_remove(variable.to_lowercase());
        }
        command.env("ARC_OFFLINE", "1").env("ARC_HOME", self.path("cache"));
        command.env("HOME", self.path("home")).env("XDG_CONFIG_HOME", self.path("home"));
        command
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Prepares `source` as the corpus `out` with a decoder's tokenizer, a share of it held out.
    pub(crate) fn prepare(
        &self,
        tokenizer: &str,
        source: &str,
        out: &str,
        held_out: &str,
        more: &[&str],
    ) -> Value {
        let prepare = ["data", "prepare", "--tokenizer", tokenizer, "--source", source, "--out", out];
        self.succeeds(&[&prepare[..], &["--held-out", held_out], more].concat())
    }

    /// Runs a command that should do well, and returns its JSON.
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> Value {
        let output = self.arc(arguments).arg("--json").output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        recorded::record(arguments, &output.stdout);
        let object: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(object["schema"], 1, "{arguments:?}");
        object
    }

    /// Runs a command that should fail, as text and as JSON: the two must say the same. One that asks for JSON
    /// itself is run as it is.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> Refusal {
        if arguments.contains(&"--json") {
            return Refusal::of_json(self.arc(arguments).output(), code);
        }
        let text = Refusal::of(self.arc(arguments).output(), code);
        let json = Refusal::of_json(self.arc(arguments).arg("--json").output(), code);
        assert_eq!((&text.message, &text.hint), (&json.message, &json.hint), "{arguments:?}");
        text
    }
}

/// What a failing command said.
pub(crate) struct Refusal {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Refusal {
    /// Checks the form that every failure has: the exit code, no data, one line with the error, a blank
    /// one, one with the hint; nothing else.
    pub(crate) fn of(output: std::io::Result<Output>, code: i32) -> Self {
        let output = output.expect("the binary runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "data on standard output");
        Self::on_standard_error(output, code)
    }

    /// The same of a command that was asked for JSON: standard output has one object that says the same.
    pub(crate) fn of_json(output: std::io::Result<Output>, code: i32) -> Self {
        let output = output.expect("the binary runs");
        let object: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        let refusal = Self::on_standard_error(output, code);
        let error = &object["error"];
        let told = (error["message"].as_str(), error["hint"].as_str(), error["exit"].as_i64());
        let expected = (refusal.message.as_str(), refusal.hint.as_str(), i64::from(code));
        assert_eq!(told, (Some(expected.0), Some(expected.1), Some(expected.2)), "{object}");
        assert!(error["code"].as_str().is_some_and(|code| !code.is_empty()), "{object}");
        assert_eq!(object["schema"], 1);
        recorded::record_as("error", object.to_string().as_bytes());
        refusal
    }

    fn on_standard_error(output: Output, code: i32) -> Self {
        let stderr = String::from_utf8(output.stderr).expect("UTF-8 on standard error");
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        // What a pull tells of its progress comes before.
        let failure = stderr.find("error: ").map_or("", |start| &stderr[start..]);
        let lines: Vec<_> = failure.lines().collect();
        let [message, "", hint] = lines.as_slice() else { panic!("expected an error and a hint: {stderr}") };
        let part = |line: &str, start| {
            let text = line.strip_prefix(start).unwrap_or_else(|| panic!("no `{start}`: {stderr}"));
            assert!(!text.trim().is_empty() && !text.ends_with('.'), "a full stop, or nothing: {text}");
            assert!(!text.starts_with(|first: char| first.is_uppercase()), "a capital: {text}");
            text.to_owned()
        };
        Self { message: part(message, "error: "), hint: part(hint, "hint: ") }
    }

    #[track_caller]
    pub(crate) fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.message.contains(part), "no `{part}` in: {}", self.message);
        }
    }

    #[track_caller]
    pub(crate) fn hints(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.hint.contains(part), "no `{part}` in the hint: {}", self.hint);
        }
    }
}

/// A GGUF file under construction.
pub(crate) struct Gguf {
    pub(crate) metadata: Vec<(&'static str, Meta)>,
    pub(crate) tensors: Vec<Tensor>,
    /// Chooses the weights.
    pub(crate) seed: u32,
    pub(crate) weights: Weights,
}

/// How large random weights are.
#[derive(Clone, Copy)]
pub(crate) enum Weights {
    /// From -1 to 1, norms too.
    Even,
    /// As of a model that is to be trained: small, and norms are 1.
    Small,
}

/// A metadata value.
#[derive(Clone)]
pub(crate) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<i32>),
    Floats(Vec<f32>),
}

pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Outermost first.
    pub(crate) shape: Vec<usize>,
    /// ggml's number of the storage type; whatever it says, four bytes per value are stored.
    pub(crate) kind: u32,
}

/// A llama of one layer with a token for every byte.
pub(crate) fn tiny_llama() -> Gguf {
    llama(WIDTH, HIDDEN, 1)
}

/// A llama of these widths and so many layers, with a token for every byte.
pub(crate) fn llama(width: usize, hidden: usize, layers: usize) -> Gguf {
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let tokens = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter().chain(bytes).collect();
    // 2 is the unknown token, 3 a control token, 6 a byte.
    let kinds = [2, 3, 3].into_iter().chain([6; 256]).collect();
    let metadata = vec![
        ("general.architecture", Meta::Text("llama".into())),
        ("llama.block_count", Meta::U32(layers as u32)),
        ("llama.embedding_length", Meta::U32(width as u32)),
        ("llama.feed_forward_length", Meta::U32(hidden as u32)),
        ("llama.attention.head_count", Meta::U32(2)),
        ("llama.attention.head_count_kv", Meta::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ("llama.context_length", Meta::U32(WINDOW)),
        ("tokenizer.ggml.model", Meta::Text("llama".into())),
        ("tokenizer.ggml.tokens", Meta::Texts(tokens)),
        ("tokenizer.ggml.token_type", Meta::Ints(kinds)),
        ("tokenizer.ggml.scores", Meta::Floats(vec![0.0; VOCABULARY])),
        ("tokenizer.ggml.bos_token_id", Meta::U32(1)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(2)),
        ("tokenizer.ggml.add_space_prefix", Meta::Bool(false)),
    ];
    let tensor = |name: String, shape| Tensor { name: format!("{name}.weight"), shape, kind: 0 };
    let mut tensors =
        vec![tensor("token_embd".into(), vec![VOCABULARY, width]), tensor("output_norm".into(), vec![width])];
    for layer in 0..layers {
        for (name, shape) in [
            ("attn_norm", vec![width]),
            ("attn_q", vec![width, width]),
            ("attn_k", vec![width / 2, width]),
            ("attn_v", vec![width / 2, width]),
            ("attn_output", vec![width, width]),
            ("ffn_norm", vec![width]),
            ("ffn_gate", vec![hidden, width]),
            ("ffn_up", vec![hidden, width]),
            ("ffn_down", vec![width, hidden]),
        ] {
            tensors.push(tensor(format!("blk.{layer}.{name}"), shape));
        }
    }
    Gguf { metadata, tensors, seed: 1, weights: Weights::Even }
}

impl Gguf {
    /// Gives a key another value, or adds it.
    pub(crate) fn set(&mut self, key: &'static str, value: Meta) {
        self.metadata.retain(|(other, _)| *other != key);
        self.metadata.push((key, value));
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor of that name")
    }

    /// Version 3, after ggml's `docs/gguf.md`.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        gguf_bytes(&self.metadata, &self.tensors.iter().zip(self.values()).collect::<Vec<_>>())
    }

    /// The same model in `count` parts as llama.cpp's `gguf-split` makes them: tensors in order, metadata
    /// in the first.
    pub(crate) fn to_parts(&self, count: u32) -> Vec<Vec<u8>> {
        let tensors: Vec<_> = self.tensors.iter().zip(self.values()).collect();
        let share = tensors.len().div_ceil(count as usize);
        let mut parts = tensors.chunks(share);
        (0..count)
            .map(|number| {
                let mut metadata = if number == 0 { self.metadata.clone() } else { Vec::new() };
                metadata.push(("split.no", Meta::U32(number)));
                metadata.push(("split.count", Meta::U32(count)));
                metadata.push(("split.tensors.count", Meta::U32(tensors.len() as u32)));
                gguf_bytes(&metadata, parts.next().unwrap_or_default())
            })
            .collect()
    }

    /// The bytes of each tensor.
    fn values(&self) -> Vec<Vec<u8>> {
        let mut random = self.seed;
        let mut value = || {
            // The generator of Numerical Recipes; its high bits are random enough.
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let of_tensor = |tensor: &Tensor| {
            let is_norm = tensor.shape.len() == 1;
            let mut weight = || match (self.weights, value()) {
                (Weights::Even, value) => value,
                (Weights::Small, _) if is_norm => 1.0,
                (Weights::Small, value) => 0.3 * value,
            };
            (0..tensor.shape.iter().product()).flat_map(|_| weight().to_le_bytes()).collect()
        };
        self.tensors.iter().map(of_tensor).collect()
    }
}

fn gguf_bytes(metadata: &[(&'static str, Meta)], tensors: &[(&Tensor, Vec<u8>)]) -> Vec<u8> {
    const ALIGNMENT: usize = 32;
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    put_len(&mut file, tensors.len());
    put_len(&mut file, metadata.len());
    for (key, value) in metadata {
        put_text(&mut file, key);
        value.put(&mut file);
    }
    let mut data = Vec::new();
    for (Tensor { name, shape, kind }, values) in tensors {
        put_text(&mut file, name);
        file.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&extent| put_len(&mut file, extent));
        file.extend(kind.to_le_bytes());
        put_len(&mut file, data.len());
        data.extend(values);
        data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
    }
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    file.extend(data);
    file
}

impl Meta {
    /// The number of the type, then the value.
    fn put(&self, file: &mut Vec<u8>) {
        const ARRAY: u32 = 9;
        match self {
            Self::U32(value) => put_numbers(file, &[4, *value]),
            Self::F32(value) => put_numbers(file, &[6, value.to_bits()]),
            Self::Bool(value) => {
                put_numbers(file, &[7]);
                file.push(u8::from(*value));
            }
            Self::Text(value) => {
                put_numbers(file, &[8]);
                put_text(file, value);
            }
            Self::Texts(values) => {
                put_numbers(file, &[ARRAY, 8]);
                put_len(file, values.len());
                values.iter().for_each(|value| put_text(file, value));
            }
            Self::Ints(values) => {
                put_numbers(file, &[ARRAY, 5]);
                put_len(file, values.len());
                file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::Floats(values) => {
                put_numbers(file, &[ARRAY, 6]);
                put_len(file, values.len());
                file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
    }
}

fn put_numbers(file: &mut Vec<u8>, numbers: &[u32]) {
    file.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
}

fn put_len(file: &mut Vec<u8>, len: usize) {
    file.extend((len as u64).to_le_bytes());
}

fn put_text(file: &mut Vec<u8>, text: &str) {
    put_len(file, text.len());
    file.extend(text.as_bytes());
}
