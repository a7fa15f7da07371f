//! A folder with a registry of a llama so tiny that a run takes a second, a corpus, and the configuration of a
//! run.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const WIDTH: usize = 16;
pub(crate) const HIDDEN: usize = 32;
pub(crate) const LAYERS: usize = 2;
/// `<unk>`, `<s>`, `</s>` and a token for every byte.
pub(crate) const VOCABULARY: usize = 3 + 256;
pub(crate) const USAGE: i32 = 2;
pub(crate) const FAILURE: i32 = 1;
/// In place of a configuration's `[data]`: the decoder of [`Place::with_twin`] too.
pub(crate) const SECOND_DECODER: &str = "[[decoders]]\nname = \"twin\"\nstart = \"scratch\"\n[data]";

/// A folder with a registry of the tiny decoder, a corpus, and the configuration of a run.
pub(crate) struct Place(pub(crate) TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self::with_model(tiny_llama())
    }

    /// With another model than the tiny one, under its name.
    pub(crate) fn with_model(model: Vec<u8>) -> Self {
        let place = Self(TempDir::new().expect("a folder"));
        place.file("tiny.gguf", model);
        place.file("registry.toml", "schema = 1\n[decoders.tiny]\nsource = \"file:tiny.gguf\"\n");
        let texts: String = (0..120_u32)
            .map(|row| {
                let words = (0..30_u32).map(|place| WORDS[((row * 31 + place * place * 7) % 16) as usize]);
                format!("{}\n", json!({ "text": words.collect::<Vec<_>>().join(" ") }))
            })
            .collect();
        place.file("texts.jsonl", texts);
        place.succeeds(&[
            "data",
            "prepare",
            "--tokenizer",
            "tiny",
            "--source",
            "texts.jsonl=CC0-1.0",
            "--out",
            "corpus",
            "--held-out",
            "0.1",
        ]);
        place.config("");
        place
    }

    /// A second decoder, `twin`, has the same weights.
    pub(crate) fn with_twin() -> Self {
        let place = Self::new();
        std::fs::copy(place.path("tiny.gguf"), place.path("twin.gguf")).expect("a copy");
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        let twin = "[decoders.twin]\nsource = \"file:twin.gguf\"\n";
        place.file("registry.toml", registry + twin);
        place
    }

    pub(crate) fn config(&self, more: &str) {
        self.file("run.toml", format!("{CONFIG}{more}"));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).expect("a file is written");
    }

    pub(crate) fn arc(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arc"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command.env_remove("ARC_DEVICE").env("ARC_OFFLINE", "1").env("ARC_HOME", self.path("cache"));
        command.env("HOME", self.path("home")).env("XDG_CONFIG_HOME", self.path("home"));
        command
    }

    pub(crate) fn succeeds(&self, arguments: &[&str]) -> Value {
        let output = self.arc(arguments).arg("--json").output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    }

    /// Runs a command that should fail and returns its error and hint.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, arguments: &[&str], says: &[&str]) {
        refuses(&self.arc(arguments).output().expect("the binary runs"), code, says);
    }

    /// The losses of a run, step by step.
    pub(crate) fn losses(&self, run: &str) -> Vec<(u64, f64)> {
        let text = std::fs::read_to_string(self.path(run).join("metrics.jsonl")).expect("metrics");
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON object"));
        rows.filter(|row| row["event"] == "step")
            .map(|row| (row["step"].as_u64().expect("a step"), row["loss"].as_f64().expect("a loss")))
            .collect()
    }

    /// The mean share of positions that were padding.
    pub(crate) fn padding(&self, run: &str) -> f64 {
        let text = std::fs::read_to_string(self.path(run).join("metrics.jsonl")).expect("metrics");
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON object"));
        let shares: Vec<f64> = rows.filter_map(|row| row["padding"].as_f64()).collect();
        shares.iter().sum::<f64>() / shares.len() as f64
    }
}

/// Waits until a run has written so many steps, and fails if it ends before.
pub(crate) fn wait_for_steps(place: &Place, run: &str, process: &mut std::process::Child, steps: usize) {
    let metrics = place.path(run).join("metrics.jsonl");
    while std::fs::read_to_string(&metrics).unwrap_or_default().lines().count() < steps {
        assert!(process.try_wait().expect("a process").is_none(), "the run ended before its step {steps}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
pub(crate) fn refuses(output: &Output, code: i32, says: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let error = stderr.lines().find(|line| line.starts_with("error: ")).expect("an error");
    for part in says {
        assert!(error.contains(part), "no `{part}` in: {error}");
    }
}

pub(crate) const WORDS: [&str; 16] = [
    "river", "stone", "of", "the", "light", "a", "house", "and", "green", "old", "in", "bread", "wind", "to",
    "bell", "sea",
];

pub(crate) const CONFIG: &str = r#"
seed = 3
[encoder]
name = "tiny-encoder"
backbone = "tiny"
layers = 2
pooling_factors = [2, 4]
[[decoders]]
name = "tiny"
start = "ridge"
[data]
sources = [{ path = "corpus" }]
context_tokens = 24
target_tokens = 24
prefix_tokens = 4
[optimizer]
encoder_rate = 1e-3
projector_rate = 1e-3
special_rate = 1e-3
[schedule]
steps = 40
batch = 4
accumulation = 2
warmup = 4
checkpoint_every = 5
[evaluation]
every = 20
samples = 6
"#;

/// A llama with a token for every byte and small random weights, as a GGUF file (version 3, after
/// ggml's `docs/gguf.md`).
pub(crate) fn tiny_llama() -> Vec<u8> {
    llama(WIDTH, HIDDEN)
}

/// The same of other widths.
pub(crate) fn llama(width: usize, hidden: usize) -> Vec<u8> {
    let mut tensors =
        vec![("token_embd".to_owned(), vec![VOCABULARY, width]), ("output_norm".into(), vec![width])];
    for layer in 0..LAYERS {
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
            tensors.push((format!("blk.{layer}.{name}"), shape));
        }
    }
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let number = |value: u32| [4_u32.to_le_bytes(), value.to_le_bytes()].concat();
    let array = |kind: u32, items: Vec<Vec<u8>>| {
        let head = [9_u32.to_le_bytes(), kind.to_le_bytes()].concat();
        [head, (items.len() as u64).to_le_bytes().to_vec(), items.concat()].concat()
    };
    let string = |value: &str| [8_u32.to_le_bytes().to_vec(), text(value)].concat();
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter().chain(bytes).collect();
    let kinds: Vec<i32> = [2, 3, 3].into_iter().chain([6; 256]).collect();
    let metadata = [
        ("general.architecture", string("llama")),
        ("llama.block_count", number(LAYERS as u32)),
        ("llama.embedding_length", number(width as u32)),
        ("llama.feed_forward_length", number(hidden as u32)),
        ("llama.attention.head_count", number(2)),
        ("llama.attention.head_count_kv", number(1)),
        ("llama.attention.layer_norm_rms_epsilon", [6_u32.to_le_bytes(), 1e-5_f32.to_le_bytes()].concat()),
        ("llama.context_length", number(256)),
        ("tokenizer.ggml.model", string("llama")),
        ("tokenizer.ggml.tokens", array(8, tokens.iter().map(|token| text(token)).collect())),
        (
            "tokenizer.ggml.token_type",
            array(5, kinds.iter().map(|kind| kind.to_le_bytes().to_vec()).collect()),
        ),
        ("tokenizer.ggml.scores", array(6, vec![0_f32.to_le_bytes().to_vec(); VOCABULARY])),
        ("tokenizer.ggml.bos_token_id", number(1)),
        ("tokenizer.ggml.eos_token_id", number(2)),
        ("tokenizer.ggml.add_space_prefix", [&7_u32.to_le_bytes()[..], &[0]].concat()),
    ];
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        file.extend(text(key));
        file.extend(value);
    }
    let mut random = 1_u32;
    let mut data = Vec::new();
    for (name, shape) in tensors {
        file.extend(text(&format!("{name}.weight")));
        file.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&extent| file.extend((extent as u64).to_le_bytes()));
        file.extend(0_u32.to_le_bytes());
        file.extend((data.len() as u64).to_le_bytes());
        let is_norm = shape.len() == 1;
        for _ in 0..shape.iter().product() {
            // The generator of Numerical Recipes; its high bits are random enough.
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = (random >> 8) as f32 / (1 << 23) as f32 - 1.0;
            data.extend(if is_norm { 1.0_f32 } else { 0.3 * value }.to_le_bytes());
        }
        data.resize(data.len().next_multiple_of(32), 0);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    file
}

/// The weights are the same to the last bit, and products of them as good as: where a weight lies in
/// memory decides in which order its products are added up.
#[track_caller]
pub(crate) fn same_scores(found: &Value, expected: &Value, what: &str) {
    close_scores(found, expected, 2e-6, what);
}

/// The losses are the same up to a share of them.
#[track_caller]
pub(crate) fn close_scores(found: &Value, expected: &Value, tolerance: f64, what: &str) {
    let losses = |report: &Value| -> Vec<f64> {
        let evaluations = report["evaluations"].as_array().expect("scores").iter();
        let pointers = ["/continuation/loss_latents", "/reconstruction/loss"];
        evaluations
            .flat_map(|scores| pointers.map(|pointer| scores.pointer(pointer).and_then(Value::as_f64)))
            .map(|loss| loss.expect("a loss"))
            .collect()
    };
    let (found, expected) = (losses(found), losses(expected));
    assert!(!expected.is_empty() && found.len() == expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < tolerance * expected, "{what}: {found} for {expected}");
    }
}
