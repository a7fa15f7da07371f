//! A folder with a registry of a llama so tiny that a run takes a second, a corpus, and the configuration of a
//! run.

#![allow(dead_code, reason = "each test binary uses a part of it")]

#[allow(clippy::duplicate_mod, reason = "a test binary may use both parts of the harness")]
#[path = "tiny.rs"]
pub(crate) mod tiny;

use std::ops::Deref;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use tiny::Weights;
pub(crate) use tiny::{FAILURE, USAGE};

pub(crate) const WIDTH: usize = 16;
pub(crate) const HIDDEN: usize = 32;
pub(crate) const LAYERS: usize = 2;
/// In place of a configuration's `[data]`: the decoder of [`Place::with_twin`] too.
pub(crate) const SECOND_DECODER: &str = "[[decoders]]\nname = \"twin\"\nstart = \"scratch\"\n[data]";

/// A place with a corpus and the configuration of a run.
pub(crate) struct Place(tiny::Place);

impl Deref for Place {
    type Target = tiny::Place;

    fn deref(&self) -> &tiny::Place {
        &self.0
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with_model(tiny_llama())
    }

    /// With another model than the tiny one, under its name.
    pub(crate) fn with_model(model: Vec<u8>) -> Self {
        let place = Self(tiny::Place::empty());
        place.decoder(&model, "");
        let texts: String = (0..120_u32)
            .map(|row| {
                let words = (0..30_u32).map(|place| WORDS[((row * 31 + place * place * 7) % 16) as usize]);
                format!("{}\n", json!({ "text": words.collect::<Vec<_>>().join(" ") }))
            })
            .collect();
        place.file("texts.jsonl", texts);
        place.prepare("tiny", "texts.jsonl=CC0-1.0", "corpus", "0.1", &[]);
        place.config("");
        place
    }

    /// A second decoder, `twin`, has the same weights.
    pub(crate) fn with_twin() -> Self {
        let place = Self::new();
        std::fs::copy(place.path("tiny.gguf"), place.path("twin.gguf")).expect("a copy");
        place.add_to_registry("[decoders.twin]\nsource = \"file:twin.gguf\"\n");
        place
    }

    pub(crate) fn config(&self, more: &str) {
        self.file("run.toml", format!("{CONFIG}{more}"));
    }

    /// Runs a command that should fail, once: a run leaves something behind.
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

/// A llama with a token for every byte and small random weights, as a GGUF file.
pub(crate) fn tiny_llama() -> Vec<u8> {
    llama(WIDTH, HIDDEN)
}

/// The same of other widths.
pub(crate) fn llama(width: usize, hidden: usize) -> Vec<u8> {
    let mut model = tiny::llama(width, hidden, LAYERS);
    model.weights = Weights::Small;
    model.to_bytes()
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
