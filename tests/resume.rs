//! A run goes on: by the very command that it says, from the last sound checkpoint, and for more steps.

#[path = "harness/tiny.rs"]
mod tiny;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tiny::{FAILURE, Place, USAGE, tiny_llama};

/// A run of 12 steps with a checkpoint after every third.
const CONFIG: &str = r#"
seed = 3
[encoder]
name = "e"
backbone = "tiny"
layers = 1
pooling_factors = [2]
[[decoders]]
name = "tiny"
start = "scratch"
[data]
sources = [{ path = "corpus" }]
context_tokens = 16
target_tokens = 16
[schedule]
steps = 12
batch = 2
checkpoint_every = 3
keep = 9
[evaluation]
every = 0
samples = 2
"#;

const TRAIN: [&str; 4] = ["train", "run.toml", "--out", "run"];

fn place() -> Place {
    let place = Place::with_model(&tiny_llama());
    let texts: String = (0..60_usize)
        .map(|row| {
            let words = (0..20)
                .map(|word| ["river", "stone", "light", "house", "green"][(row * 7 + word * word) % 5]);
            format!("{}\n", json!({ "text": words.collect::<Vec<_>>().join(" ") + &format!(" {row}") }))
        })
        .collect();
    place.file("texts.jsonl", texts);
    place.prepare("tiny", "texts.jsonl", "corpus", "0.2", &[]);
    place.file("run.toml", CONFIG);
    place
}

fn checkpoint(place: &Place, step: u64) -> PathBuf {
    place.path(&format!("run/checkpoints/step-{step:08}.safetensors"))
}

/// Forgets what came after a step, but for what `also` keeps.
fn back_to(place: &Place, step: u64) {
    for later in (step + 1)..=12 {
        let _ = std::fs::remove_file(checkpoint(place, later));
    }
    let _ = std::fs::remove_dir_all(place.path("run/final"));
}

#[test]
fn a_checkpoint_with_a_flipped_bit_anywhere_is_gone_on_from_by_none() {
    let place = place();
    let whole = place.succeeds(&TRAIN);
    let sound = std::fs::read(checkpoint(&place, 9)).expect("a checkpoint");
    let length = sound.len();
    // In the length of the header, the header (its first key, the checksum, the state), and the tensors.
    for place_of_bit in [0, 8, 12, 30, 60, 110, 200, length / 2, length - 1] {
        back_to(&place, 9);
        let mut damaged = sound.clone();
        damaged[place_of_bit] ^= 1;
        std::fs::write(checkpoint(&place, 9), damaged).expect("written");
        let output =
            place.arc(&[&TRAIN as &[&str], &["--resume", "--json"]].concat()).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "byte {place_of_bit}: {stderr}");
        assert!(stderr.contains("step-00000009"), "byte {place_of_bit}: {stderr}");
        assert!(stderr.contains("warning: ") && stderr.contains("going on after step 6"), "{stderr}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(report["decoder_sha256"], whole["decoder_sha256"]);
        // What it ends with is what it would have been.
        let again = std::fs::read(checkpoint(&place, 9)).expect("a checkpoint");
        assert_eq!(tensors(&again), tensors(&sound), "byte {place_of_bit}");
    }
}

/// What stands behind the header, which has the seconds that steps took.
fn tensors(checkpoint: &[u8]) -> &[u8] {
    let header = u64::from_le_bytes(checkpoint[..8].try_into().unwrap()) as usize;
    &checkpoint[8 + header..]
}

#[test]
fn a_truncated_checkpoint_is_passed_over_and_where_none_is_sound_that_is_said() {
    let place = place();
    place.succeeds(&TRAIN);
    let resume = [&TRAIN as &[&str], &["--resume"]].concat();
    for kept in [0, 5, 500] {
        back_to(&place, 9);
        let bytes = std::fs::read(checkpoint(&place, 6)).expect("a checkpoint");
        std::fs::write(checkpoint(&place, 9), &bytes[..kept]).expect("written");
        let output = place.arc(&resume).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.contains("going on after step 6"), "{kept}: {stderr}");
    }
    for step in [0, 3, 6, 9, 12] {
        std::fs::write(checkpoint(&place, step), "x").expect("written");
    }
    let refusal = place.fails(FAILURE, &resume);
    refusal.says(&["step-00000012", "checkpoint"]);
    refusal.hints(&["begin again"]);
}

#[test]
fn a_checkpoint_of_a_build_without_checksums_is_gone_on_from() {
    let place = place();
    place.succeeds(&TRAIN);
    back_to(&place, 9);
    let bytes = std::fs::read(checkpoint(&place, 9)).expect("a checkpoint");
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let metadata = header["__metadata__"].as_object_mut().expect("metadata");
    assert!(metadata.remove("sha256").is_some() && metadata.remove("schema").is_some());
    let mut text = header.to_string();
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    let old = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &bytes[8 + length..]].concat();
    std::fs::write(checkpoint(&place, 9), old).expect("written");
    let output = place.arc(&[&TRAIN as &[&str], &["--resume"]].concat()).output().expect("it runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("going on after step 9"));
    assert!(output.status.success());
}

#[test]
fn the_command_that_an_interrupted_run_says_has_it_go_on() {
    let place = place();
    place.file("run.toml", CONFIG.replace("steps = 12", "steps = 100000").replace("keep = 9", "keep = 2"));
    let mut run = place.arc(&TRAIN).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    let metrics = place.path("run/metrics.jsonl");
    while std::fs::read_to_string(&metrics).unwrap_or_default().lines().count() < 4 {
        assert!(run.try_wait().expect("a process").is_none(), "the run ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::process::Command::new("kill").args(["-INT", &run.id().to_string()]).status().expect("a signal");
    let output = run.wait_with_output().expect("its output");
    assert_eq!(output.status.code(), Some(130), "as whatever SIGINT ends");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    let (_, command) = said.split_once("go on with `arc ").expect("what to do");
    let command = command.split('`').next().unwrap();
    assert_eq!(command, "train run/config.json --resume");
    // The same run, which ends sooner: it is asked to stop again.
    let arguments: Vec<&str> = command.split(' ').collect();
    let mut run = place.arc(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    let before = std::fs::read_to_string(&metrics).expect("metrics").lines().count();
    while std::fs::read_to_string(&metrics).unwrap_or_default().lines().count() < before + 3 {
        assert!(run.try_wait().expect("a process").is_none(), "it does not go on");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::process::Command::new("kill").args(["-INT", &run.id().to_string()]).status().expect("a signal");
    assert_eq!(run.wait().expect("it ends").code(), Some(130));
}

#[test]
fn where_a_run_is_has_to_be_said_or_known() {
    let place = place();
    place.fails(USAGE, &["train", "run.toml"]).says(&["--out"]);
    let refusal = place.fails(USAGE, &["train", "run.toml", "--resume"]);
    refusal.says(&["run.toml"]);
    refusal.hints(&["--out", "config.json"]);
    place.succeeds(&TRAIN);
    let report = place.succeeds(&["train", "run/config.json", "--resume"]);
    assert_eq!((&report["finished"], &report["steps"]), (&json!(true), &json!(12)));
}

#[test]
fn a_finished_run_is_given_more_steps() {
    let place = place();
    place.succeeds(&TRAIN);
    let final_before = std::fs::read(place.path("run/final/adapters/tiny/adapter.json")).expect("an adapter");
    let report = place.succeeds(&["train", "run/config.json", "--resume", "--steps", "18"]);
    assert_eq!((&report["finished"], &report["steps"]), (&json!(true), &json!(18)));
    assert!(checkpoint(&place, 18).exists());
    let final_after = std::fs::read(place.path("run/final/adapters/tiny/adapter.json")).expect("an adapter");
    assert_ne!(final_after, final_before, "the packages are of the longer run");
    let losses = std::fs::read_to_string(place.path("run/metrics.jsonl")).expect("metrics");
    assert_eq!(losses.lines().filter(|line| line.contains("\"event\":\"step\"")).count(), 18);
    // So does a configuration that says more; other settings are still other settings.
    place.file("run.toml", CONFIG.replace("steps = 12", "steps = 20"));
    assert_eq!(place.succeeds(&[&TRAIN as &[&str], &["--resume"]].concat())["steps"], 20);
    place.file("run.toml", CONFIG.replace("steps = 12", "steps = 20").replace("seed = 3", "seed = 4"));
    place.fails(FAILURE, &[&TRAIN as &[&str], &["--resume"]].concat()).says(&["sha256 of its configuration"]);
    // A run has no fewer steps than it has done.
    let refusal = place.fails(USAGE, &["train", "run/config.json", "--resume", "--steps", "5"]);
    refusal.says(&["`schedule.steps`", "`5`", "20"]);
}
