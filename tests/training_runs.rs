//! Whole runs through the binary, on a llama so tiny that a run takes a second: what is written,
//! what survives a kill, and what is said when something is wrong.

#[path = "harness/notice.rs"]
mod notice;
#[path = "harness/training_place.rs"]
mod training_place;

use std::process::{Command, Stdio};
use std::time::Duration;

use arc_adapters::sha256_file;
use notice::notice;
use serde_json::{Value, json};
use training_place::*;

#[test]
fn a_run_ends_with_packages_that_answer() {
    let place = Place::new();
    let report = place.succeeds(&["train", "run.toml", "--out", "run"]);
    assert_eq!(report["finished"], true);
    assert_eq!(place.losses("run").len(), 40);
    // Both factors, for the one decoder.
    assert_eq!(report["evaluations"].as_array().expect("scores").len(), 2);
    let page = std::fs::read_to_string(place.path("run/report.html")).expect("a page");
    assert!(page.contains("<svg") && page.contains("tiny at 4, latents") && !page.contains("NaN"));
    assert!(!page.contains("http://") || page.contains("http://www.w3.org"), "the page is self-contained");
    // What is kept: the last two and the best.
    let checkpoints = std::fs::read_dir(place.path("run/checkpoints")).expect("checkpoints").count();
    assert!((2..=3).contains(&checkpoints), "{checkpoints} checkpoints");

    place.file("document.txt", "old house and green wind in the river");
    let registry = "run/final/registry.toml";
    let asked = ["ask", "--registry", registry, "--decoder", "tiny", "--document", "document.txt"];
    let answer = place.succeeds(&[&asked[..], &["--max-tokens", "3", "where"]].concat());
    assert!(answer["latents"].as_u64().is_some_and(|latents| latents > 0), "{answer}");
    // A finished run that is resumed does nothing and says the same.
    let again = place.succeeds(&["train", "run.toml", "--out", "run", "--resume"]);
    assert_eq!(again["evaluations"], report["evaluations"]);
    assert_eq!(again["checkpoint_sha256"], report["checkpoint_sha256"]);
}

#[test]
fn a_lora_run_ends_with_a_package_that_holds_its_factors_alone() {
    let place = Place::new();
    let text = CONFIG.replace("layers = 2", "layers = 2\ntrain = { lora = { rank = 2, alpha = 4.0 } }");
    place.file("run.toml", text.replace("steps = 40", "steps = 6"));
    place.succeeds(&["train", "run.toml", "--out", "run"]);
    let weights = std::fs::read(place.path("run/final/encoder/encoder.safetensors")).expect("weights");
    let weights = safetensors::SafeTensors::deserialize(&weights).expect("a safetensors file");
    assert_eq!(weights.len(), LAYERS * 7 * 2);
    assert!(weights.names().iter().all(|name| name.ends_with(".lora_a") || name.ends_with(".lora_b")));
    place.file("document.txt", "old house and green wind in the river");
    let registry = "run/final/registry.toml";
    place.succeeds(&["compress", "--registry", registry, "document.txt", "-o", "d.arc.safetensors"]);
}

#[test]
fn a_run_that_is_killed_ten_times_ends_with_the_same_bits() {
    let place = Place::new();
    let text = CONFIG.replace("steps = 40", "steps = 240").replace("every = 20", "every = 120");
    place.file("run.toml", text);
    let whole = place.succeeds(&["train", "run.toml", "--out", "whole"]);
    // Ten different steps out of the first hundred, so that the run is never done before its kill.
    let mut random = 7_u64;
    let mut steps = std::collections::BTreeSet::new();
    while steps.len() < 10 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        steps.insert((random >> 33) % 100);
    }
    let mut arguments = vec!["train", "run.toml", "--out", "killed"];
    for &step in &steps {
        let mut run = place
            .arc(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let metrics = place.path("killed/metrics.jsonl");
        let line = format!("\"step\":{step},");
        loop {
            // Before the file is read: it may end as soon as it has written this step.
            let ended = run.try_wait().expect("its state").is_some();
            if std::fs::read_to_string(&metrics).is_ok_and(|text| text.contains(&line)) {
                break;
            }
            assert!(!ended, "the run ended before step {step}");
            std::thread::sleep(Duration::from_millis(1));
        }
        run.kill().expect("a kill");
        run.wait().expect("its end");
        arguments = vec!["train", "run.toml", "--out", "killed", "--resume"];
    }
    // What a kill in the middle of a save leaves behind.
    place.file("killed/checkpoints/.tmpAbCdEf", "half a checkpoint");
    let report = place.succeeds(&arguments);
    assert_eq!(report["evaluations"], whole["evaluations"]);
    assert_eq!(place.losses("whole"), place.losses("killed"), "after kills at {steps:?}");
    for file in ["encoder/encoder.safetensors", "adapters/tiny/adapter.safetensors"] {
        let weights =
            |run: &str| sha256_file(&place.path(run).join("final").join(file)).expect("the weights");
        assert_eq!(weights("whole"), weights("killed"), "`{file}` after kills at {steps:?}");
    }
    let names = std::fs::read_dir(place.path("killed/checkpoints")).expect("checkpoints");
    let names: Vec<_> = names.map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with(".tmp")), "{names:?}");
}

/// A chain of runs: the second starts from what the first ends with, and the third, which trains
/// nothing, from what the second ends with. What the third measures is what the package holds.
#[test]
fn a_package_computes_what_its_run_did_whatever_it_started_from() {
    let place = Place::new();
    let short = CONFIG.replace("steps = 40", "steps = 6").replace("every = 20", "every = 0");
    let from_backbone = |name: &str, train: &str| {
        place.file("run.toml", short.replace("layers = 2", &format!("layers = 2\ntrain = {train}")));
        place.succeeds(&["train", "run.toml", "--out", name])
    };
    let go_on = |name: &str, start: &str, more: &str, rate: &str| {
        let text = short
            .replace("backbone = \"tiny\"\nlayers = 2", &format!("start = \"tiny-encoder\"\n{more}"))
            .replace("\"ridge\"", &format!("{{ package = \"{start}/final/adapters/tiny\" }}"))
            .replace("1e-3", rate);
        // A key that is given twice is an error.
        let text = if more.contains("pooling_factors") {
            text.replace("pooling_factors = [2, 4]", "")
        } else {
            text
        };
        place.file("run.toml", text);
        let registry = format!("{start}/final/registry.toml");
        place.succeeds(&["train", "run.toml", "--registry", &registry, "--out", name])
    };
    let all = "\"all\"";
    let lora = "{ lora = { rank = 2, alpha = 4.0 } }";
    for (first, train) in [("whole", all), ("delta", lora)] {
        from_backbone(first, train);
        for (number, second) in [all, "{ last_layers = 1 }", lora, "\"none\""].into_iter().enumerate() {
            let name = format!("{first}-{number}");
            let report = go_on(&name, first, &format!("train = {second}"), "1e-3");
            let frozen = "train = \"none\"";
            let again = go_on(&format!("{name}-again"), &name, frozen, "0.0");
            same_scores(&again, &report, &format!("{train} and then {second}"));
        }
    }
    // Not the raw backbone's: training went into the package.
    let weights = |run: &str| sha256_file(&place.path(run).join("final/encoder/encoder.safetensors"));
    assert_ne!(weights("whole").expect("weights"), weights("whole-1").expect("weights"));
    assert_eq!(weights("delta").expect("weights"), weights("delta-3").expect("weights"));
    // The rate of the package is that of the last run.
    let text = go_on("other-rate", "whole", "train = \"none\"\npooling_factors = [3]", "1e-3");
    assert_eq!(text["finished"], true);
    let manifest =
        std::fs::read_to_string(place.path("other-rate/final/encoder/encoder.json")).expect("a manifest");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    assert_eq!(manifest["compress_rates"], json!([-3]));
}

/// What a package groups by is in it, whatever was trained, and is passed on.
#[test]
fn a_package_whose_groups_end_at_rare_words_groups_as_its_run_did() {
    let place = Place::new();
    let short = CONFIG.replace("steps = 40", "steps = 6").replace("every = 20", "every = 0");
    let rare = "layers = 2\ngroups = \"rare_words\"\npool_type = \"last_pooled_queries\"";
    let manifest = |run: &str| -> Value {
        let path = place.path(run).join("final/encoder/encoder.json");
        serde_json::from_str(&std::fs::read_to_string(path).expect("a manifest")).expect("JSON")
    };
    for (name, train) in
        [("all", "\"all\""), ("none", "\"none\""), ("lora", "{ lora = { rank = 2, alpha = 4.0 } }")]
    {
        place.file("run.toml", short.replace("layers = 2", &format!("{rare}\ntrain = {train}")));
        let report = place.succeeds(&["train", "run.toml", "--out", name]);
        let text = short
            .replace("backbone = \"tiny\"\nlayers = 2", "start = \"tiny-encoder\"\ntrain = \"none\"")
            .replace("\"ridge\"", &format!("{{ package = \"{name}/final/adapters/tiny\" }}"))
            .replace("1e-3", "0.0");
        place.file("again.toml", text);
        let registry = format!("{name}/final/registry.toml");
        let again = format!("{name}-again");
        let repeated = place.succeeds(&["train", "again.toml", "--registry", &registry, "--out", &again]);
        same_scores(&repeated, &report, train);
        assert_eq!(manifest(&again)["rarity"], manifest(name)["rarity"]);
        assert_eq!(manifest(name)["rarity"]["file"], "rarity.safetensors");
    }
    place.file("run.toml", short.replace("layers = 2", &rare.replace("rare_words", "even")));
    let even = place.succeeds(&["train", "run.toml", "--out", "even"]);
    assert_eq!(manifest("even")["rarity"], Value::Null);
    let loss = |report: &Value| report["evaluations"][0]["continuation"]["loss_latents"].as_f64();
    let resumed = place.succeeds(&["train", "all/config.json", "--out", "all", "--resume"]);
    assert!(loss(&even).is_some() && loss(&even) != loss(&resumed), "the groups make a difference");

    place.file("document.txt", "old house and green wind in the river");
    let compress =
        ["compress", "--registry", "all/final/registry.toml", "document.txt", "-o", "d.arc.safetensors"];
    place.succeeds(&compress);
    let rarity = place.path("all/final/encoder/rarity.safetensors");
    let mut bytes = std::fs::read(&rarity).expect("the file");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(&rarity, bytes).expect("written");
    let again = [&compress as &[&str], &["--replace"]].concat();
    place.fails(FAILURE, &again, &["rarity.safetensors", "checksum"]);
    place.file(
        "run.toml",
        short.replace("layers = 2", &rare.replace("last_pooled_queries", "metric_kmeans_cosine")),
    );
    place.fails(
        FAILURE,
        &["train", "run.toml", "--out", "clusters"],
        &["rare_words", "metric_kmeans_cosine"],
    );
}

/// The first tokens of what is repeated stand in plain, and are not predicted.
#[test]
fn a_cue_takes_its_tokens_from_what_is_repeated() {
    let place = Place::new();
    let text = CONFIG.replace("steps = 40", "steps = 4").replace("every = 20", "every = 0");
    let predicted = |name: &str, cue: usize| -> f64 {
        let objective = format!("[objective]\nreconstruction = 1.0\ncue_tokens = {cue}\n[optimizer]");
        place.file("run.toml", text.replace("[optimizer]", &objective));
        place.succeeds(&["train", "run.toml", "--out", name]);
        let metrics = std::fs::read_to_string(place.path(name).join("metrics.jsonl")).expect("metrics");
        let rows = metrics.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON object"));
        rows.filter_map(|row| row["tokens"].as_f64()).sum()
    };
    let (without, with) = (predicted("without", 0), predicted("with", 5));
    // 4 steps of 2 batches of 4 samples.
    assert_eq!(without - with, 5.0 * 32.0, "{without} and {with}");
}

#[test]
fn a_start_that_a_run_cannot_go_on_from_is_refused_before_it_begins() {
    let place = Place::new();
    place.file("run.toml", CONFIG.replace("steps = 40", "steps = 4"));
    place.succeeds(&["train", "run.toml", "--out", "first"]);
    let start = CONFIG.replace("backbone = \"tiny\"\nlayers = 2", "start = \"tiny-encoder\"");
    let again = ["train", "run.toml", "--registry", "first/final/registry.toml", "--out", "again"];
    place.file(
        "run.toml",
        start.replace("start = \"tiny-encoder\"", "start = \"tiny-encoder\"\ntrain = { last_layers = 9 }"),
    );
    place.fails(USAGE, &again, &["the last 9 layers", "the 2 that the encoder has"]);
    place.file("run.toml", start.replace("context_tokens = 24", "context_tokens = 300"));
    place.fails(USAGE, &again, &["chunks of 256 tokens", "`data.context_tokens` is 300"]);
    let manifest = place.path("first/final/encoder/encoder.json");
    let text = std::fs::read_to_string(&manifest).expect("a manifest");
    let rates: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(rates["compress_rates"], json!([-2]));
    // The identity does not depend on the rates.
    std::fs::write(&manifest, text.replace("-2\n", "-2, -2\n")).expect("written");
    place.file("run.toml", start);
    place.fails(USAGE, &again, &["rates [-2, -2]", "only one layer"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_writes_a_checkpoint_and_leaves() {
    let place = Place::new();
    place
        .file("run.toml", CONFIG.replace("steps = 40", "steps = 100000").replace("warmup = 4", "warmup = 0"));
    let mut run = place
        .arc(&["train", "run.toml", "--out", "run", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    wait_for_steps(&place, "run", &mut run, 6);
    Command::new("kill").args(["-INT", &run.id().to_string()]).status().expect("a signal");
    let output = run.wait_with_output().expect("its output");
    assert_eq!(output.status.code(), Some(130), "as whatever SIGINT ends");
    tiny::recorded::record(&["train"], &output.stdout);
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["finished"], false);
    let steps = report["steps"].as_u64().expect("a number");
    assert!(place.path(&format!("run/checkpoints/step-{steps:08}.safetensors")).exists());
    assert!(!place.path("run/final").exists());
}

#[test]
fn a_run_that_was_interrupted_before_it_was_measured_is_measured_when_it_goes_on() {
    let place = Place::new();
    place.file("run.toml", CONFIG.replace("checkpoint_every = 5", "checkpoint_every = 5\nkeep = 9"));
    place.succeeds(&["train", "run.toml", "--out", "run"]);
    let metrics = place.path("run/metrics.jsonl");
    let whole = std::fs::read_to_string(&metrics).expect("metrics");
    // An interruption in step 20, after which it would have been measured.
    for step in [25, 30, 35, 40] {
        std::fs::remove_file(place.path(&format!("run/checkpoints/step-{step:08}.safetensors")))
            .expect("a checkpoint");
    }
    let is_step = |line: &&str| line.contains("\"event\":\"step\"");
    let steps: Vec<&str> = whole.lines().filter(is_step).take(20).collect();
    std::fs::write(&metrics, steps.join("\n") + "\n").expect("metrics");
    place.succeeds(&["train", "run.toml", "--out", "run", "--resume"]);
    let scores = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !is_step(line)).map(str::to_owned).collect()
    };
    assert_eq!(scores(&std::fs::read_to_string(&metrics).expect("metrics")), scores(&whole));
}

#[test]
fn preparation_leaves_out_what_is_repeated_or_must_stay_unseen_and_says_so() {
    let place = Place::new();
    let secret = "one two three four five six seven eight nine ten eleven twelve thirteen";
    let rows = [format!("before {secret} after"), "a text".into(), "a text".into(), "another text".into()];
    let rows: String = rows.iter().map(|text| format!("{}\n", json!({ "text": text }))).collect();
    place.file("more.jsonl", rows);
    place.file("unseen.txt", format!("It was {secret} again"));
    let prepare =
        |out: &str| place.prepare("tiny", "more.jsonl=CC0-1.0", out, "0", &["--unseen", "unseen.txt"]);
    let report = prepare("first");
    let source = &report["manifest"]["sources"][0];
    assert_eq!((&source["documents"], &source["duplicates"]), (&json!(4), &json!(1)));
    assert_eq!((&source["overlapping"], &source["licence"]), (&json!(1), &json!("CC0-1.0")));
    assert_eq!(report["removed"], json!([["more.jsonl", 0, "unseen.txt document 0"]]));
    // The same seed gives the same files, and a corpus is not written over.
    assert_eq!(prepare("second")["manifest"], report["manifest"]);
    let again = ["data", "prepare", "--tokenizer", "tiny", "--source", "more.jsonl", "--out", "first"];
    place.fails(USAGE, &again, &["`first` is not empty"]);
}

#[test]
fn a_document_is_held_out_of_every_corpus_or_of_none() {
    let place = Place::new();
    let rows: Vec<String> =
        (0..200).map(|row| format!("{}\n", json!({ "text": format!("a text, number {row}") }))).collect();
    // The documents that preparation holds out of rows of them.
    let held_out = |name: &str, rows: Vec<&String>| -> std::collections::BTreeSet<String> {
        let file = format!("{name}.jsonl");
        place.file(&file, rows.into_iter().map(String::as_str).collect::<String>());
        let prepare = ["data", "prepare", "--tokenizer", "tiny", "--held-out", "0.2", "--source"];
        place.succeeds(&[&prepare[..], &[&file, "--out", name]].concat());
        let shard = std::fs::read(place.path(name).join("held-out.safetensors")).expect("a shard");
        let shard = safetensors::SafeTensors::deserialize(&shard).expect("safetensors");
        let bytes = |name: &str| shard.tensor(name).expect(name).data().to_vec();
        let ends: Vec<usize> = bytes("document_bytes")
            .chunks_exact(8)
            .map(|end| {
                usize::try_from(u64::from_le_bytes(end.try_into().expect("8 bytes"))).expect("a place")
            })
            .collect();
        let text = String::from_utf8(bytes("text")).expect("text");
        ends.windows(2).map(|ends| text[ends[0]..ends[1]].to_owned()).collect()
    };
    let all = held_out("all", rows.iter().collect());
    // A fifth of 200, give or take four standard deviations.
    assert!((17..=63).contains(&all.len()), "{} documents", all.len());
    // The second half of them, last first.
    let half = held_out("half", rows.iter().skip(100).rev().collect());
    let number = |text: &str| text.rsplit(' ').next().and_then(|number| number.parse::<usize>().ok());
    let of_all = all.into_iter().filter(|text| number(text).expect("its number") >= 100);
    assert_eq!(half, of_all.collect());
}

#[test]
fn what_is_wrong_with_a_run_is_said_before_it_begins() {
    let place = Place::new();
    let train = ["train", "run.toml", "--out", "run"];
    place.config("speed = 3\n");
    place.fails(FAILURE, &train, &["run.toml", "unknown field `speed`"]);
    place.file("run.toml", CONFIG.replace("layers = 2", "layers = 9"));
    place.fails(USAGE, &train, &["`layers` is 9", "has 2"]);
    place.file("run.toml", CONFIG.replace("steps = 40", "steps = 0"));
    place.fails(FAILURE, &train, &["`schedule.steps` is 0"]);
    place.file("run.toml", CONFIG.replace("name = \"tiny\"\n", "name = \"huge\"\n"));
    place.fails(FAILURE, &train, &["no decoder is called `huge`"]);
    place.file("run.toml", CONFIG.replace("path = \"corpus\"", "path = \"nowhere\""));
    place.fails(FAILURE, &train, &["nowhere"]);
    place.config("");
    place.file("empty.txt", " \n");
    let empty = ["data", "prepare", "--tokenizer", "tiny", "--source", "empty.txt", "--out", "empty"];
    place.fails(FAILURE, &empty, &["empty.txt", "leaves no text"]);
    assert!(!place.path("empty/manifest.json").exists());
    let nowhere = ["data", "prepare", "--tokenizer", "tiny", "--source", "nowhere.txt", "--out", "new"];
    place.fails(FAILURE, &nowhere, &["nowhere.txt"]);
    assert!(!place.path("new").exists());
    // What a kill leaves behind is hidden, and named.
    std::fs::create_dir_all(place.path("killed/.buckets-Ab12")).expect("a folder");
    let again = ["data", "prepare", "--tokenizer", "tiny", "--source", "texts.jsonl", "--out", "killed"];
    place.fails(USAGE, &again, &["`killed` holds `.buckets-Ab12`"]);
    std::fs::create_dir_all(place.path("run/old")).expect("a folder");
    place.fails(USAGE, &train, &["`run` is not empty"]);
    std::fs::write(place.path("run/.tmpOld"), "somebody's").expect("a file");
    place.fails(USAGE, &[&train[..], &["--resume"]].concat(), &["`run` holds no run"]);
    assert!(place.path("run/.tmpOld").exists() && !place.path("run/config.json").exists());
}

#[test]
fn a_decoder_without_a_tokenizer_is_refused() {
    let place = Place::new();
    let gguf = tiny_llama();
    // Another key in place of the tokens' leaves a model without them.
    let key = b"tokenizer.ggml.tokens";
    let at = gguf.windows(key.len()).position(|window| window == key).expect("the key");
    let mut without = gguf;
    without[at..at + key.len()].copy_from_slice(b"tokenizer.ggml.tokend");
    place.file("tiny.gguf", without);
    place.fails(FAILURE, &["train", "run.toml", "--out", "run"], &["token"]);
}

#[test]
fn a_run_does_not_go_on_with_other_settings_or_other_text() {
    let place = Place::new();
    let short = CONFIG.replace("steps = 40", "steps = 5");
    place.file("run.toml", &short);
    let first = place.succeeds(&["train", "run.toml", "--out", "run"]);
    place.file("run.toml", short.replace("seed = 3", "seed = 4"));
    let resume = ["train", "run.toml", "--out", "run", "--resume"];
    place.fails(FAILURE, &resume, &["sha256 of its configuration"]);
    // Paths that are spelled otherwise are no other settings, nor is the run's own copy.
    place.file("run.toml", short.replace("path = \"corpus\"", "path = \"./cache/../corpus\""));
    std::fs::create_dir_all(place.path("cache")).expect("a folder");
    assert_eq!(place.succeeds(&resume)["checkpoint_sha256"], first["checkpoint_sha256"]);
    let own = ["train", "run/config.json", "--out", "run", "--resume"];
    assert_eq!(place.succeeds(&own)["checkpoint_sha256"], first["checkpoint_sha256"]);
    // Other text under the same name is.
    std::fs::remove_dir_all(place.path("corpus")).expect("deleted");
    place.prepare("tiny", "texts.jsonl", "corpus", "0.1", &["--seed", "9"]);
    place.fails(FAILURE, &resume, &["corpus 0 (sha256 since the run began)"]);
}

/// Questions whose answer is a word of a document, of very different lengths.
fn questions() -> String {
    (0..90_usize)
        .map(|row| {
            let words: Vec<&str> = (0..2 + row * 7 % 19).map(|place| WORDS[(row * 5 + place * 3) % 16]).collect();
            let row = json!({ "document": words.join(" "), "question": "which word is first?", "answer": words[0] });
            format!("{row}\n")
        })
        .collect()
}

#[test]
fn a_run_that_only_answers_needs_no_text_and_wastes_little_on_padding() {
    let place = Place::new();
    place.file("run.toml", CONFIG.replace("steps = 40", "steps = 4"));
    place.succeeds(&["train", "run.toml", "--out", "start"]);
    place.file("document.txt", "old house and green wind in the river");
    place.file("first.jsonl", questions());
    place.file("second.jsonl", questions().replace("first", "leading"));
    let text = CONFIG
        .replace("backbone = \"tiny\"\nlayers = 2", "start = \"tiny-encoder\"")
        .replace("\"ridge\"", "{ package = \"start/final/adapters/tiny\" }")
        .replace(
            "sources = [{ path = \"corpus\" }]",
            "questions = [{ path = \"first.jsonl\", weight = 3.0, shots = 2, held_out = 8 }, { path = \"second.jsonl\" }]",
        )
        .replace("[optimizer]", "[objective]\nreconstruction = 0.0\nanswer = 1.0\ndistillation = 0.5\n[optimizer]");
    place.file("run.toml", text);
    let run = ["train", "run.toml", "--registry", "start/final/registry.toml", "--out", "run"];
    let report = place.succeeds(&run);
    let score = &report["evaluations"][0]["answer"];
    assert_eq!(score["questions"], 6);
    for loss in ["loss_latents", "loss_another", "loss_no_context", "loss_full_context"] {
        assert!(score[loss].as_f64().is_some_and(|loss| loss > 0.0), "{score}");
    }
    assert!(report["evaluations"][0]["continuation"].is_null());
    assert!(place.padding("run") < 0.1, "{} of the positions are padding", place.padding("run"));
    let ask =
        ["ask", "--registry", "run/final/registry.toml", "--decoder", "tiny", "--document", "document.txt"];
    place.succeeds(&[&ask[..], &["--max-tokens", "2", "where"]].concat());
    // A document that is measured is trained on in no other question.
    let row = |question: &str| {
        format!("{}\n", json!({ "document": "a bell", "question": question, "answer": "a" }))
    };
    place.file("second.jsonl", row("first?") + &row("leading?"));
    place.fails(
        FAILURE,
        &["train", "run.toml", "--registry", "start/final/registry.toml", "--out", "one"],
        &["second.jsonl` has questions about the documents of held-out questions alone"],
    );
    // Of the same file and without text, so that a text is needed for the rest of the steps.
    let text = std::fs::read_to_string(place.path("run.toml")).expect("the configuration");
    place.file("run.toml", text.replace("answer = 1.0", "answer = 0.9"));
    place.fails(FAILURE, &["train", "run.toml", "--out", "other"], &["`data.sources` is empty"]);
}

#[test]
fn little_of_a_plain_run_is_padding_and_its_page_names_the_decoders_bytes() {
    let place = Place::new();
    // Texts of very different lengths.
    let texts: String = (0..200_usize)
        .map(|row| {
            let words: Vec<&str> =
                (0..8 + row * 11 % 31).map(|place| WORDS[(row * 7 + place * 3) % 16]).collect();
            format!("{}\n", json!({ "text": words.join(" ") }))
        })
        .collect();
    place.file("texts.jsonl", texts);
    place.prepare("tiny", "texts.jsonl", "uneven", "0.1", &[]);
    place.file("run.toml", CONFIG.replace("path = \"corpus\"", "path = \"uneven\""));
    let report = place.succeeds(&["train", "run.toml", "--out", "run"]);
    assert!(place.padding("run") < 0.1, "{} of the positions are padding", place.padding("run"));
    let page = std::fs::read_to_string(place.path("run/report.html")).expect("a page");
    assert!(page.contains(report["decoder_sha256"]["tiny"].as_str().expect("a hash")));
}

#[test]
fn losses_and_weights_do_not_depend_on_the_number_of_threads() {
    let place = Place::new();
    place.file(
        "run.toml",
        CONFIG
            .replace("steps = 40", "steps = 12")
            // So many positions that a batch is shared out to threads.
            .replace("batch = 4", "batch = 16")
            .replace("[optimizer]", "[objective]\ninstruct = 0.5\n[optimizer]"),
    );
    for threads in ["1", "2", "3"] {
        let run = format!("run-{threads}");
        let mut command = place.arc(&["train", "run.toml", "--out", &run]);
        let output = command.env("RAYON_NUM_THREADS", threads).output().expect("the binary runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(place.losses("run-1").len(), 12);
    // A loss has too few digits for what one more rounding changes.
    let weights =
        |run: &str| sha256_file(&place.path(run).join("final/encoder/encoder.safetensors")).expect("weights");
    for run in ["run-2", "run-3"] {
        assert_eq!(place.losses("run-1"), place.losses(run), "{run}");
        assert_eq!(weights("run-1"), weights(run), "{run}");
    }
}

#[test]
fn two_processes_share_a_run_and_end_with_the_bits_of_one() {
    let place = Place::with_twin();
    let lora = "layers = 2\ntrain = { lora = { rank = 2, alpha = 4.0 } }";
    let weights = ["final/encoder/encoder.safetensors", "final/adapters/tiny/adapter.safetensors"];
    for (name, text) in [("plain", CONFIG.to_owned()), ("lora", CONFIG.replace("layers = 2", lora))] {
        place.file("run.toml", text.replace("[data]", SECOND_DECODER));
        let (alone, shared) = (format!("{name}-alone"), format!("{name}-shared"));
        let by_one = place.succeeds(&["train", "run.toml", "--out", &alone]);
        let by_two = place.succeeds(&["train", "run.toml", "--out", &shared, "--processes", "2"]);
        assert_eq!(place.losses(&alone), place.losses(&shared));
        for field in ["tokens", "evaluations", "decoder_sha256"] {
            assert_eq!(by_one[field], by_two[field], "{field}");
        }
        for file in weights {
            let hash = |run: &str| sha256_file(&place.path(run).join(file)).expect(file);
            assert_eq!(hash(&alone), hash(&shared), "{file}");
        }
        let log = std::fs::read_to_string(place.path(&format!("{shared}.rank-1.log"))).expect("a log");
        assert!(!log.contains("error"), "{log}");
    }
    place.fails(
        USAGE,
        &["train", "run.toml", "--out", "three", "--processes", "3"],
        &["`schedule.accumulation` is `2`", "3 processes can share evenly"],
    );
    assert!(!place.path("three").exists() && !place.path("three.rank-1.log").exists());
}

#[test]
fn processes_started_by_hand_find_each_other_and_refuse_another_count() {
    let place = Place::new();
    place.succeeds(&["train", "run.toml", "--out", "alone"]);
    // A port that was free a moment ago.
    let port = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let rank = |config: &str, out: &str, rank: &str, leader: &str, processes: &str| {
        let arguments = ["train", config, "--out", out, "--rank", rank, "--leader", leader];
        let mut command = place.arc(&[&arguments[..], &["--processes", processes]].concat());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs")
    };
    let leader = port().expect("a port").to_string();
    let processes = ["0", "1"].map(|number| rank("run.toml", "run", number, &leader, "2"));
    for process in processes {
        let output = process.wait_with_output().expect("its output");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(place.losses("alone"), place.losses("run"));

    let leader = port().expect("a port").to_string();
    let first = rank("run.toml", "other", "0", &leader, "2");
    // A rank is below the count, which is a mistake that is seen at once.
    let second = rank("run.toml", "other", "1", &leader, "1");
    refuses(&second.wait_with_output().expect("its output"), USAGE, &["`--rank 1` is not below"]);
    // In a file of its own: the first process may not have read its configuration yet.
    place.file("four.toml", CONFIG.replace("accumulation = 2", "accumulation = 4"));
    let third = rank("four.toml", "other", "1", &leader, "2");
    refuses(&third.wait_with_output().expect("its output"), FAILURE, &["another configuration"]);
    refuses(&first.wait_with_output().expect("its output"), FAILURE, &["rank 1 of another run"]);
}

#[cfg(unix)]
#[test]
fn a_shared_run_whose_rank_is_killed_says_so_and_goes_on_with_another_number_of_processes() {
    let place = Place::new();
    let long = CONFIG.replace("steps = 40", "steps = 600").replace("every = 20", "every = 300");
    place.file("run.toml", &long);
    place.succeeds(&["train", "run.toml", "--out", "alone"]);
    let mut leader = place.arc(&["train", "run.toml", "--out", "run", "--processes", "2"]);
    let mut leader = leader.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    wait_for_steps(&place, "run", &mut leader, 1);
    let children = Command::new("pgrep").args(["-P", &leader.id().to_string()]).output().expect("pgrep");
    let child = String::from_utf8(children.stdout).expect("a number");
    wait_for_steps(&place, "run", &mut leader, 12);
    Command::new("kill").args(["-KILL", child.trim()]).status().expect("a signal");
    let output = leader.wait_with_output().expect("its output");
    refuses(&output, FAILURE, &["rank 0 of a shared run: lost rank 1"]);
    // One process goes on where two were: the run is the same.
    place.succeeds(&["train", "run.toml", "--out", "run", "--resume"]);
    assert_eq!(place.losses("alone"), place.losses("run"));
}

#[cfg(unix)]
#[test]
fn an_interruption_of_any_process_ends_a_shared_run_after_a_checkpoint() {
    let place = Place::new();
    place
        .file("run.toml", CONFIG.replace("steps = 40", "steps = 100000").replace("warmup = 4", "warmup = 0"));
    for of_child in [false, true] {
        let out = format!("long-{of_child}");
        let mut run = place
            .arc(&["train", "run.toml", "--out", &out, "--processes", "2", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        wait_for_steps(&place, &out, &mut run, 12);
        let leader = run.id().to_string();
        let child = Command::new("pgrep").args(["-P", &leader]).output().expect("pgrep").stdout;
        let child = String::from_utf8(child).expect("a number");
        let process = if of_child { child.trim() } else { &leader };
        Command::new("kill").args(["-INT", process]).status().expect("a signal");
        let output = run.wait_with_output().expect("its output");
        assert_eq!(output.status.code(), Some(130));
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(report["finished"], false);
        let steps = report["steps"].as_u64().expect("a number");
        assert!(place.path(&out).join(format!("checkpoints/step-{steps:08}.safetensors")).exists());
        let alive = Command::new("kill").args(["-0", child.trim()]).stderr(Stdio::null()).status();
        assert!(!alive.expect("a signal").success(), "the other process is left behind");
    }
}

#[test]
fn a_card_says_what_a_run_is_measured_on_and_a_lesser_cpu_refuses_bf16() {
    let place = Place::new();
    place.file("run.toml", CONFIG.replace("samples = 6", "samples = 6\non = \"training\""));
    let file = place.path("run.toml").display().to_string();
    place.succeeds(&["train", &file, "--out", "run"]);
    let card = std::fs::read(place.path("run/final/adapters/tiny/adapter.json")).expect("a manifest");
    let card: Value = serde_json::from_slice(&card).expect("JSON");
    assert!(card["scores"]["training"].is_array() && card["scores"]["held_out"].is_null(), "{card}");
    // Cards are handed on: where the text lay on this machine is nobody's business.
    assert_eq!(card["training"]["config"]["data"]["sources"][0]["path"], "corpus");
    let page = std::fs::read_to_string(place.path("run/report.html")).expect("a page");
    assert!(page.contains("Text that is trained on") && !page.contains("Held-out"));

    place.file("run.toml", CONFIG.replace("seed = 3", "seed = 3\nprecision = \"bf16\""));
    // With instructions that every processor has: some multiply in bfloat16.
    let mut half = place.arc(&["train", "run.toml", "--out", "half"]);
    let half = half.env("ARC_INSTRUCTIONS", "portable").output().expect("the binary runs");
    refuses(&half, FAILURE, &["device `cpu`", "bfloat16"]);
}

#[test]
fn each_decoder_of_a_run_gets_its_share_of_steps_and_stays_as_it_is() {
    let place = Place::with_twin();
    place.file("run.toml", CONFIG.replace("[data]", SECOND_DECODER).replace("steps = 40", "steps = 100"));
    let report = place.succeeds(&["train", "run.toml", "--out", "run"]);
    let text = std::fs::read_to_string(place.path("run/metrics.jsonl")).expect("metrics");
    let twins = text
        .lines()
        .filter(|line| line.contains("\"decoder\":\"twin\"") && line.contains("\"event\":\"step\""));
    // Four standard deviations of a fair coin.
    let twins = twins.count();
    assert!((30..=70).contains(&twins), "{twins} of 100 steps");
    assert_eq!(report["decoder_sha256"]["tiny"], report["decoder_sha256"]["twin"]);
    for name in ["tiny", "twin"] {
        let registry = "run/final/registry.toml";
        place.file("document.txt", "old house and green wind in the river");
        let ask = ["ask", "--registry", registry, "--decoder", name, "--document", "document.txt"];
        place.succeeds(&[&ask[..], &["--max-tokens", "2", "where"]].concat());
    }
}

#[test]
fn a_corpus_whose_texts_are_all_too_short_is_refused() {
    let place = Place::new();
    place.file("short.jsonl", format!("{}\n", json!({ "text": "a bell" })));
    place.prepare("tiny", "short.jsonl", "short", "0", &[]);
    place.file("run.toml", CONFIG.replace("path = \"corpus\"", "path = \"short\""));
    place.fails(FAILURE, &["train", "run.toml", "--out", "run"], &["short", "has no text of 32 tokens"]);
}

#[test]
fn questions_that_share_words_with_unseen_text_are_left_out() {
    let place = Place::new();
    let secret = "one two three four five six seven eight nine ten eleven twelve thirteen";
    let row = |document: &str| json!({ "document": document, "question": "who", "answer": "she" });
    let rows = [row("the sea"), row("the sea"), row(&format!("so {secret}")), row("a bell")];
    place.file("asked.jsonl", rows.map(|row| format!("{row}\n")).concat());
    place.file("unseen.txt", secret);
    let prepare = ["data", "prepare", "questions", "asked.jsonl", "--unseen", "unseen.txt", "--out", "clean"];
    let report = place.succeeds(&prepare);
    assert_eq!(report["files"], json!([{ "name": "asked.jsonl", "questions": 4, "left_out": 2 }]));
    let kept = std::fs::read_to_string(place.path("clean/asked.jsonl")).expect("questions");
    assert_eq!(kept.lines().count(), 2);
    assert!(!kept.contains("thirteen"));
}

#[test]
fn every_configuration_of_the_repository_can_be_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("configs") {
        let path = entry.expect("an entry").path();
        let config = arc_core::train::RunConfig::open(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!(
            config
                .data
                .sources
                .iter()
                .all(|source| source.path.starts_with(path.parent().expect("a folder")))
        );
        count += 1;
    }
    assert!(count >= 5, "{count} configurations");
}

#[test]
fn a_loss_that_leaps_stops_the_run_and_names_its_text() {
    let place = Place::new();
    let rates = CONFIG.replace("1e-3", "1e30").replace("warmup = 4", "warmup = 0");
    place.file("run.toml", rates);
    let train = ["train", "run.toml", "--out", "run"];
    place.fails(FAILURE, &train, &["the loss of step", "corpus/shard-00000.safetensors document"]);
    assert!(place.path("run/checkpoints/step-00000000.safetensors").exists());
}

#[test]
fn a_loss_far_above_its_running_mean_stops_the_run() {
    let place = Place::new();
    // After the first twenty losses of a task, any rise counts.
    let text =
        CONFIG.replace("steps = 40", "steps = 2000\nspike = 1e-9").replace("pooling_factors = [2, 4]", "");
    place.file("run.toml", text.replace("every = 20", "every = 0"));
    place.fails(FAILURE, &["train", "run.toml", "--out", "run"], &["the loss of step", "corpus/shard-00000"]);
    let steps = place.losses("run").len();
    assert!((20..2000).contains(&steps), "stopped after {steps} steps");
}

#[test]
fn a_decoder_is_registered_for_a_trained_encoder() {
    let place = Place::new();
    place.file("run.toml", CONFIG.replace("steps = 40", "steps = 5"));
    place.succeeds(&["train", "run.toml", "--out", "run"]);
    std::fs::copy(place.path("tiny.gguf"), place.path("other.gguf")).expect("a copy");
    let registry = "run/final/registry.toml";
    let register = [
        "register",
        "--registry",
        registry,
        "--decoder",
        "other",
        "--model",
        "file:other.gguf",
        "--text",
        "corpus",
        "--steps",
        "12",
        "--batches",
        "6",
        "--batch",
        "4",
        "--context-tokens",
        "24",
        "--target-tokens",
        "24",
        "--factor",
        "4",
        "--samples",
        "6",
    ];
    let report = place.succeeds(&register);
    assert_eq!(report["encoder_sha256"].as_str().map(str::len), Some(64));
    assert_eq!(report["steps"], 12);
    let scores = &report["scores"]["held_out"][0]["continuation"];
    for arm in ["loss_no_context", "loss_full_context", "loss_truncation", "loss_latents"] {
        assert!(scores[arm].as_f64().is_some_and(f64::is_finite), "{arm}: {scores}");
    }
    place.file("document.txt", "old house and green wind in the river");
    let ask = ["ask", "--registry", registry, "--decoder", "other", "--document", "document.txt"];
    place.succeeds(&[&ask[..], &["--max-tokens", "3", "where"]].concat());
    // A name that is taken, with a model and without.
    place.fails(USAGE, &register, &["has a decoder `other` already"]);
    let again = ["register", "--registry", registry, "--decoder", "other", "--text", "corpus"];
    place.fails(USAGE, &again, &["an adapter of encoder `tiny-encoder` for `other` exists already"]);
}

#[test]
fn an_encoder_that_merges_by_similarity_is_registered_from_scratch_alone() {
    let place = Place::new();
    let merging = "layers = 2\npool_type = \"metric_kmeans_cosine\"";
    let text = CONFIG.replace("steps = 40", "steps = 4").replace("layers = 2", merging);
    // Its groups end nowhere in the text, so that a regression would align them with the wrong words.
    place.file("run.toml", &text);
    place.fails(FAILURE, &["train", "run.toml", "--out", "run"], &["a decoder's `start` is `ridge`"]);
    place.file("run.toml", text.replace("\"ridge\"", "\"scratch\""));
    place.succeeds(&["train", "run.toml", "--out", "run"]);
    let register = "register --registry run/final/registry.toml --decoder tiny --text corpus --steps 2 --batches 2 \
                    --batch 4 --context-tokens 24 --target-tokens 24 --samples 6 --factor 4 --replace -o again";
    let register: Vec<&str> = register.split_whitespace().collect();
    place.fails(FAILURE, &register, &["for a regression", "clusters, pooled by"]);
    place.succeeds(&[&register[..], &["--from-scratch"]].concat());
}

#[test]
fn a_registration_is_for_one_encoder_and_in_the_nearest_registry() {
    let place = Place::new();
    place.file("run.toml", CONFIG.replace("steps = 40", "steps = 4"));
    place.succeeds(&["train", "run.toml", "--out", "run"]);
    place.file("run.toml", CONFIG.replace("steps = 40", "steps = 4").replace("tiny-encoder", "second"));
    place.succeeds(&["train", "run.toml", "--out", "other"]);
    let registry = "run/final/registry.toml";
    let before = std::fs::read_to_string(place.path(registry)).expect("the registry");
    let second = "\n[encoders.second]\npackage = \"../../other/final/encoder\"\n";
    place.file(registry, format!("{before}{second}"));
    fn register<'a>(options: &[&'a str]) -> Vec<&'a str> {
        let command = "register --registry run/final/registry.toml --decoder tiny --text corpus --steps 2 \
                       --batches 2 --batch 4 --context-tokens 24 --target-tokens 24 --samples 6 --from-scratch \
                       --factor 4";
        command.split_whitespace().chain(options.iter().copied()).collect()
    }
    place.file("document.txt", "old house and green wind in the river");
    let ask = |options: &[&str]| {
        let ask = ["ask", "--registry", registry, "--decoder", "tiny", "--document", "document.txt"];
        place.succeeds(&[&ask[..], options, &["--max-tokens", "2", "where"]].concat())
    };

    // For another encoder, beside the adapter that is there.
    place.succeeds(&register(&["--encoder", "second"]));
    let after = std::fs::read_to_string(place.path(registry)).expect("the registry");
    let adapter = |text: &str| text.lines().find(|line| line.starts_with("adapter = ")).map(str::to_owned);
    assert_eq!(adapter(&after), adapter(&before));
    assert!(place.path("run/final/plugins/second/tiny/adapter.json").exists());
    ask(&[]);
    ask(&["--encoder", "second"]);
    let again = register(&["--encoder", "second"]);
    place.fails(USAGE, &again, &["an adapter of encoder `second` for `tiny` exists already"]);

    // A registry that says nothing of the decoder takes over what the one before says.
    place.file("over.toml", "schema = 1\n");
    let report = place.succeeds(&register(&["--registry", "over.toml"]));
    assert_eq!(report["registry"], "over.toml");
    assert_eq!(std::fs::read_to_string(place.path(registry)).expect("the registry"), after);
    ask(&["--registry", "over.toml"]);
    for (option, value, says) in [
        ("--rate", "nan", "the rate is `NaN`"),
        ("--rate", "0", "the rate is `0`"),
        ("--reconstruction", "2", "the share of reconstruction is `2`"),
    ] {
        place.fails(USAGE, &register(&[option, value, "--replace"]), &[says]);
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_registration_keeps_what_it_has_trained() {
    let place = Place::new();
    place.file("run.toml", CONFIG.replace("steps = 40", "steps = 4"));
    place.succeeds(&["train", "run.toml", "--out", "run"]);
    std::fs::copy(place.path("tiny.gguf"), place.path("other.gguf")).expect("a copy");
    let registry = "run/final/registry.toml";
    let register = [
        "register",
        "--registry",
        registry,
        "--decoder",
        "other",
        "--model",
        "file:other.gguf",
        "--text",
        "corpus",
        "--steps",
        "1000000",
        "--batches",
        "4",
        "--batch",
        "4",
        "--context-tokens",
        "24",
        "--target-tokens",
        "24",
        "--factor",
        "4",
        "--samples",
        "6",
        "--from-scratch",
        "--json",
    ];
    let mut run =
        place.arc(&register).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = std::io::BufReader::new(run.stderr.take().expect("its messages"));
    let mut line = String::new();
    while !line.starts_with("step ") {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut lines, &mut line).expect("a line"), 0, "it ended");
    }
    Command::new("kill").args(["-INT", &run.id().to_string()]).status().expect("a signal");
    std::io::copy(&mut lines, &mut std::io::sink()).expect("the rest");
    let output = run.wait_with_output().expect("its output");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert!((1..1_000_000).contains(&report["steps"].as_u64().expect("steps")), "{report}");
    place.file("document.txt", "old house and green wind in the river");
    let ask = ["ask", "--registry", registry, "--decoder", "other", "--document", "document.txt"];
    place.succeeds(&[&ask[..], &["--max-tokens", "3", "where"]].concat());
}

#[test]
fn a_registration_that_is_killed_goes_on_to_the_same_bits() {
    let place = Place::new();
    place.file("run.toml", CONFIG.replace("steps = 40", "steps = 4"));
    place.succeeds(&["train", "run.toml", "--out", "run"]);
    let register = |options: &[&'static str]| {
        let command = "register --registry run/final/registry.toml --decoder tiny --text corpus --steps 260 \
                       --batches 6 --batch 4 --context-tokens 24 --target-tokens 24 --samples 6 --factor 4,2 \
                       --replace";
        command.split_whitespace().chain(options.iter().copied()).collect::<Vec<_>>()
    };
    place.fails(USAGE, &register(&["-o", "killed", "--resume"]), &["holds no registration of `tiny`"]);
    let whole = place.succeeds(&register(&["-o", "whole"]));
    let mut process = place
        .arc(&register(&["-o", "killed"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let checkpoint = || {
        let latents = place.path("cache/latents").read_dir().ok()?;
        let runs = latents.flatten().filter_map(|kept| kept.path().join("registrations").read_dir().ok());
        runs.flatten().flatten().map(|run| run.path().join("checkpoints/step-00000100.safetensors")).next()
    };
    while !checkpoint().is_some_and(|file| file.exists()) {
        assert!(process.try_wait().expect("a process").is_none(), "it ended before its step 100");
        std::thread::sleep(Duration::from_millis(2));
    }
    process.kill().expect("a kill");
    process.wait().expect("its end");
    assert!(!place.path("killed").exists(), "it is to be killed before it is done");
    let report = place.succeeds(&register(&["-o", "killed", "--resume"]));
    assert_eq!(report["steps"], 260);
    assert_eq!(report["weights_sha256"], whole["weights_sha256"]);
    assert!(checkpoint().is_none(), "what is done leaves no checkpoint");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_checkpoint_before_it() {
    let place = Place::new();
    place.succeeds(&["train", "run.toml", "--out", "whole"]);
    let size = std::fs::metadata(place.path("whole/checkpoints/step-00000040.safetensors")).expect("a file");
    // Room for two and a half checkpoints, in pages.
    let room = size.len() * 5 / 2 / 4096 * 4096;
    let script = format!(
        "mkdir disk && mount -t tmpfs -o size={room} none disk || exit 70
         \"$1\" train run.toml --out disk; code=$?; cp -r disk kept; exit $code"
    );
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_arc")]);
    inside.current_dir(place.folder()).env("ARC_HOME", place.path("cache")).env("HOME", place.path("home"));
    let output = inside.output().expect("unshare runs");
    // `unshare` itself fails with the same code where it is not permitted.
    if !String::from_utf8_lossy(&output.stderr).contains("error: ") {
        notice(format_args!("left out: a small disk cannot be mounted here: {output:?}"));
        return;
    }
    refuses(&output, FAILURE, &["cannot write", "No space left"]);
    let kept: Vec<_> = std::fs::read_dir(place.path("kept/checkpoints"))
        .expect("checkpoints")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    assert!(!kept.is_empty() && kept.iter().all(|name| name.starts_with("step-")), "{kept:?}");
    // On another disk the run goes on and ends as it would have.
    let resumed = place.succeeds(&["train", "run.toml", "--out", "kept", "--resume"]);
    assert_eq!(resumed["checkpoint_sha256"].as_str().map(str::len), Some(64));
    assert_eq!(place.losses("whole"), place.losses("kept"));
}

#[test]
fn a_run_uses_and_passes_on_the_tokenizer_that_the_registry_names() {
    let place = Place::new();
    let characters = ('a'..='z').chain(['Ġ']).enumerate();
    let vocabulary: serde_json::Map<String, Value> =
        characters.map(|(id, character)| (character.to_string(), json!(id))).collect();
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary, "merges": [],
        },
    });
    place.file("letters.json", tokenizer.to_string());
    place.file(
        "registry.toml",
        "schema = 1\n[decoders.tiny]\nsource = \"file:tiny.gguf\"\n[decoders.letters]\naliases = [\"l\"]\n\
         source = \"file:tiny.gguf\"\ntokenizer = { source = \"file:letters.json\" }\n\
         options = { rope_scaling = \"none\" }\n",
    );
    let config = CONFIG.replace("steps = 40", "steps = 5");
    place.file(
        "run.toml",
        config.replace("[[decoders]]\nname = \"tiny\"", "[[decoders]]\nname = \"letters\""),
    );
    place.succeeds(&["train", "run.toml", "--out", "run"]);
    // The run's registry lies in another folder, and says as much of the decoder.
    let file = place.path("run/final/registry.toml");
    let registry = arc_adapters::Registry::open(&file).expect("a registry");
    let entry = registry.decoder("l").expect("its alias");
    let found = entry.tokenizer.as_ref().map(|tokenizer| tokenizer.source.to_string());
    assert_eq!(found, Some(format!("file:{}", place.path("letters.json").display())));
    assert_eq!(entry.options.rope_scaling, arc_adapters::RopeScalingOption::None);
    let registry = file.to_str().expect("UTF-8");
    let verified = place.succeeds(&["adapters", "verify", "letters", "--registry", registry]);
    assert_eq!(verified["passed"], true, "{verified}");
}
