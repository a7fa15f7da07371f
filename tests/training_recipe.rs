//! What a recipe may ask of a run: to begin from another's packages, to draw factors and lengths by weights, to
//! come to an end when it is told to, and to store what it made in 8 bits.

#[path = "harness/training_place.rs"]
mod training_place;

use std::process::{Command, Stdio};

use arc_adapters::sha256_file;
use arc_core::weights::{SafetensorsFile, TensorSource as _};
use serde_json::{Value, json};
use training_place::*;

/// A run of a few steps that is measured at its end.
fn short(steps: u32) -> String {
    CONFIG.replace("steps = 40", &format!("steps = {steps}")).replace("every = 20", "every = 0")
}

/// The same with nothing that moves, to measure packages.
fn frozen() -> String {
    short(4).replace("layers = 2", "layers = 2\ntrain = \"none\"").replace("1e-3", "0.0")
}

/// The steps of a run as its metrics have them.
fn steps(place: &Place, run: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(place.path(run).join("metrics.jsonl")).expect("metrics");
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON object"));
    rows.filter(|row| row["event"] == "step").collect()
}

fn json_file(place: &Place, name: &str) -> Value {
    let text = std::fs::read_to_string(place.path(name)).expect("a file");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_run_goes_on_from_what_another_ended_with_and_its_card_tells_of_both() {
    let place = Place::new();
    place.file("run.toml", short(6));
    let first = place.succeeds(&["train", "run.toml", "--out", "first"]);

    // What the packages compute is what the first run measured last.
    place.file("frozen.toml", frozen());
    let start = ["--start-from", "first/final"];
    let measured = place.succeeds(&[&["train", "frozen.toml", "--out", "measured"], &start[..]].concat());
    same_scores(&measured, &first, "started from a run's final folder");
    // The same configuration, from the folder, by the encoder's name, and from a key of its own.
    let from_folder = place.succeeds(&[&["train", "run.toml", "--out", "folder"], &start[..]].concat());
    place.succeeds(&[
        "train",
        "run.toml",
        "--out",
        "name",
        "--registry",
        "first/final/registry.toml",
        "--start-from",
        "tiny-encoder",
    ]);
    place.file("key.toml", format!("start_from = {{ folder = \"first/final\" }}\n{}", short(6)));
    place.succeeds(&["train", "key.toml", "--out", "key"]);
    assert_eq!(place.losses("folder"), place.losses("name"));
    assert_eq!(place.losses("folder"), place.losses("key"));

    // It reads on behind the text that the first has read, as one run of twelve steps would.
    place.file("long.toml", short(12));
    place.succeeds(&["train", "long.toml", "--out", "long"]);
    let drawn = |run: &str, from: usize| -> Vec<(Value, Value)> {
        let of = |step: &Value| (step["tokens"].clone(), step["objective"].clone());
        steps(&place, run).iter().skip(from).map(of).collect()
    };
    assert_eq!(drawn("folder", 0), drawn("long", 6));
    assert_ne!(drawn("folder", 0), drawn("first", 0));

    let card = &json_file(&place, "folder/final/encoder/encoder.json")["provenance"];
    let parts = card["parts"].as_array().expect("parts");
    let sum = |field: &str| parts.iter().map(|part| part[field].as_u64().expect("a number")).sum::<u64>();
    assert_eq!((parts.len(), sum("steps"), sum("samples")), (2, 12, 12 * 4 * 2));
    let tokens = |report: &Value| report["tokens"].as_u64().expect("tokens");
    assert_eq!(sum("tokens"), tokens(&first) + tokens(&from_folder));
    assert_eq!(card["tokens_in_all"], from_folder["tokens_in_all"]);
    assert!(card["context_tokens_in_all"].as_u64().is_some_and(|context| context < sum("tokens")));
    assert_eq!(parts[0]["precision"], "f32");
    let seen = steps(&place, "folder").last().map(|step| step["tokens_seen"].clone());
    assert_eq!(seen, Some(card["tokens_in_all"].clone()));

    // Resumed, it is the run that it was.
    place.file("run.toml", short(12));
    let begun = place.path("resumed");
    let mut run = place
        .arc(&["train", "run.toml", "--out", "resumed", "--start-from", "first/final"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary runs");
    wait_for_steps(&place, "resumed", &mut run, 3);
    run.kill().expect("a kill");
    run.wait().expect("its end");
    let config = begun.join("config.json");
    place.succeeds(&["train", config.to_str().expect("UTF-8"), "--out", "resumed", "--resume"]);
    place.succeeds(&["train", "run.toml", "--out", "whole", "--start-from", "first/final"]);
    assert_eq!(place.losses("resumed"), place.losses("whole"));
}

#[test]
fn an_encoder_alone_is_a_start_too_and_one_of_another_shape_is_refused() {
    let place = Place::new();
    place.file("run.toml", short(4));
    place.succeeds(&["train", "run.toml", "--out", "first"]);
    let from = |start: &str, run: &str| -> Vec<String> {
        ["train", "run.toml", "--out", run, "--start-from", start].map(str::to_owned).to_vec()
    };
    let alone = from("first/final/encoder", "alone");
    place.succeeds(&alone.iter().map(String::as_str).collect::<Vec<_>>());
    // Its adapter was fitted, as the configuration says.
    assert!(place.path("alone/start/tiny").is_dir());
    for (change, start, says) in [
        (("layers = 2", "layers = 1"), "first/final", "(`encoder.layers`)"),
        (("layers = 2", "layers = 2\ncausal = true"), "first/final", "(`causal`)"),
        (("layers = 2", "layers = 2"), "first", "registry.toml with a default encoder"),
        (("layers = 2", "layers = 2"), "nobody", "`nobody`"),
    ] {
        place.file("run.toml", short(4).replace(change.0, change.1));
        let arguments = from(start, "refused");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = place.arc(&arguments).output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(says), "{start}: {stderr}");
        assert!(!place.path("refused").exists(), "{start}");
    }
}

#[test]
fn a_start_may_get_more_of_its_backbones_layers_which_change_nothing_at_first() {
    let place = Place::new();
    let shallow = short(6).replace("layers = 2", "layers = 1");
    place.file("run.toml", &shallow);
    let first = place.succeeds(&["train", "run.toml", "--out", "first"]);
    let start = ["--start-from", "first/final"];

    place.file("still.toml", short(6).replace("1e-3", "0.0"));
    let still = place.succeeds(&[&["train", "still.toml", "--out", "still"], &start[..]].concat());
    same_scores(&still, &first, "with a layer that is silent");
    place.file("run.toml", short(6));
    place.succeeds(&[&["train", "run.toml", "--out", "moved"], &start[..]].concat());
    let package = |run: &str| {
        SafetensorsFile::open(place.path(run).join("final/encoder/encoder.safetensors")).expect("weights")
    };
    let largest = |run: &str, name: &str| {
        let values = package(run).tensor(name).expect("a tensor").to_f32();
        values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()))
    };
    for name in ["attention.wo", "feed_forward.w2"] {
        // The layer that pools has moved to the end, and the one before it begins in zeros.
        let (new, old) = (format!("layers.0.{name}.weight"), format!("layers.1.{name}.weight"));
        assert_eq!(largest("still", &new), 0.0);
        assert!(largest("moved", &new) > 0.0);
        assert_eq!(largest("still", &old), largest("first", &new));
    }
    for (change, says) in [
        (("layers = 2", "layers = 3"), "its backbone 1 more"),
        (("layers = 2", "layers = 2\ntrain = { last_layers = 1 }"), "train = \"all\""),
    ] {
        place.file("run.toml", short(4).replace(change.0, change.1));
        let output = place.arc(&[&["train", "run.toml", "--out", "no"], &start[..]].concat()).output();
        refuses(&output.expect("the binary runs"), USAGE, &[says]);
    }
}

#[test]
fn a_learned_scale_is_a_part_of_the_projector_that_is_stored() {
    let place = Place::new();
    place.file("run.toml", short(6));
    place.succeeds(&["train", "run.toml", "--out", "plain"]);
    let scaled = short(6).replace("[optimizer]", "[optimizer]\nscale_rate = 0.1");
    place.file("run.toml", &scaled);
    let report = place.succeeds(&["train", "run.toml", "--out", "scaled"]);
    // The scale is 1 in the first step, and has moved in the second.
    let (plain, losses) = (place.losses("plain"), place.losses("scaled"));
    assert_eq!(plain[0], losses[0]);
    assert_ne!(plain[2], losses[2]);
    place.file("frozen.toml", frozen());
    let arguments = ["train", "frozen.toml", "--out", "measured", "--start-from", "scaled/final"];
    let measured = place.succeeds(&arguments);
    same_scores(&measured, &report, "a scale in the package");
    let manifest = json_file(&place, "scaled/final/adapters/tiny/adapter.json");
    assert_eq!(
        manifest["projector"],
        json_file(&place, "plain/final/adapters/tiny/adapter.json")["projector"]
    );
}

#[test]
fn a_decoder_may_have_a_rate_of_its_own() {
    let place = Place::with_twin();
    let still = SECOND_DECODER
        .replace("\"twin\"", "\"twin\"\nprojector_rate = 0.0")
        .replace("\"scratch\"", "\"ridge\"");
    place.file("run.toml", short(8).replace("[data]", &still));
    place.succeeds(&["train", "run.toml", "--out", "run"]);
    let projector = |folder: &str| {
        let adapter = arc_adapters::Adapter::open(&place.path(folder)).expect("an adapter");
        adapter.weights.tensor("projector.2.weight").expect("a projector").values
    };
    assert_eq!(projector("run/start/twin"), projector("run/final/adapters/twin"));
    assert_ne!(projector("run/start/tiny"), projector("run/final/adapters/tiny"));
}

#[test]
fn factors_are_drawn_by_their_weights_and_by_others_while_the_rate_comes_down() {
    let place = Place::new();
    let schedule = "shape = \"warmup_stable_decay\"\ndecay_steps = 8\nsteps = 20";
    let factors = "pooling_factors = [2, 4]\nfactor_weights = [0, 3]\nfactor_weights_in_decay = [1, 0]";
    let text = short(20).replace("steps = 20", schedule).replace("pooling_factors = [2, 4]", factors);
    place.file("run.toml", text);
    let report = place.succeeds(&["train", "run.toml", "--out", "run"]);
    assert_eq!(report["steps"], 20);
    for step in steps(&place, "run") {
        let (number, factor) = (step["step"].as_u64().expect("a step"), step["factor"].as_u64());
        assert_eq!(factor, Some(if number < 12 { 4 } else { 2 }), "step {number}");
        let rate = step["rate"].as_f64().expect("a rate");
        assert_eq!(rate == 1.0, (4..12).contains(&number), "step {number} at {rate}");
    }
}

#[test]
fn an_open_ended_run_ends_when_it_is_told_to_and_goes_on_for_longer_until_then() {
    let place = Place::new();
    let open = |steps: u64| {
        let schedule = format!("shape = \"warmup_stable_decay\"\ndecay_steps = 6\nsteps = {steps}");
        short(40).replace("steps = 40", &schedule)
    };
    // Ended before anything was learned at the full rate.
    place.file("run.toml", open(100_000));
    let at_once = place.succeeds(&["train", "run.toml", "--out", "short", "--decay-after", "0"]);
    assert_eq!((at_once["steps"].clone(), at_once["finished"].clone()), (json!(6), json!(true)));

    let mut run = place
        .arc(&["train", "run.toml", "--out", "run"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    wait_for_steps(&place, "run", &mut run, 12);
    Command::new("kill").args(["-INT", &run.id().to_string()]).status().expect("a signal");
    run.wait().expect("its end");
    let done = steps(&place, "run").len() as u64;
    // Other steps are no other run, as long as it has not begun to end.
    place.file("run.toml", open(200_000));
    let ended = place.succeeds(&["train", "run.toml", "--out", "run", "--resume", "--decay-after", "0"]);
    assert_eq!(ended["steps"], done + 6);
    let rates: Vec<f64> = steps(&place, "run").iter().filter_map(|step| step["rate"].as_f64()).collect();
    assert!(rates[4..done as usize].iter().all(|&rate| rate == 1.0));
    assert!(rates[done as usize..].is_sorted_by(|a, b| a > b));
    // It is over: more steps change nothing.
    place.file("run.toml", open(300_000));
    let again = place.succeeds(&["train", "run.toml", "--out", "run", "--resume"]);
    assert_eq!(again["steps"], done + 6);

    place.file("run.toml", short(4));
    place.fails(
        USAGE,
        &["train", "run.toml", "--out", "cycle", "--decay-after", "1"],
        &["`schedule.shape` is `one_cycle`, expected `warmup_stable_decay`"],
    );
}

#[test]
fn contexts_are_of_several_lengths_and_long_ones_are_several_contexts() {
    let place = Place::new();
    let text = short(24)
        .replace("context_tokens = 24", "context_tokens = 24\ncontext_lengths = [16, 40]")
        .replace("batch = 4\naccumulation = 2", "batch = 1\naccumulation = 1");
    place.file("run.toml", text);
    place.succeeds(&["train", "run.toml", "--out", "run"]);
    // Of context and targets, of which there are at most 24.
    let tokens: Vec<u64> = steps(&place, "run").iter().filter_map(|step| step["tokens"].as_u64()).collect();
    let (short, long) = tokens.iter().partition::<Vec<u64>, _>(|&&tokens| tokens <= 16 + 24);
    assert!(short.len() > 3 && long.len() > 3, "{tokens:?}");
    assert!(long.iter().all(|&tokens| tokens <= 40 + 24) && long.iter().any(|&tokens| tokens > 24 + 24));
}

#[test]
fn an_encoder_in_8_bits_takes_half_of_16_and_computes_nearly_the_same() {
    // Rows of whole blocks.
    let place = Place::with_model(llama(64, 128));
    let reports = ["f16", "q8"].map(|weights| {
        place.file(
            "run.toml",
            short(6).replace("layers = 2", &format!("layers = 2\nweights = \"{weights}\"")),
        );
        place.succeeds(&["train", "run.toml", "--out", weights])
    });
    assert_eq!(place.losses("f16"), place.losses("q8"));
    let file = |run: &str| place.path(run).join("final/encoder/encoder.safetensors");
    let bytes = |run: &str| std::fs::metadata(file(run)).expect("weights").len() as f64;
    assert!(bytes("q8") < 0.6 * bytes("f16"), "{} and {}", bytes("q8"), bytes("f16"));
    let stored = std::fs::read(file("q8")).expect("weights");
    let stored = safetensors::SafeTensors::deserialize(&stored).expect("a safetensors file");
    let matrix = stored.tensor("layers.0.attention.wq.weight").expect("a matrix");
    assert_eq!((matrix.dtype(), matrix.shape()), (safetensors::Dtype::I8, &[64, 64][..]));
    let scales = stored.tensor("layers.0.attention.wq.weight.scales").expect("its scales");
    assert_eq!((scales.dtype(), scales.shape()), (safetensors::Dtype::F16, &[64, 1][..]));

    place.file("frozen.toml", frozen());
    let start = ["train", "frozen.toml", "--out", "measured", "--start-from", "q8/final"];
    let measured = place.succeeds(&start);
    close_scores(&measured, &reports[1], 5e-3, "8 bits");
    // What a later run does not move keeps its bytes, and with them its identity.
    assert_eq!(sha256_file(&file("q8")).expect("weights"), sha256_file(&file("measured")).expect("weights"),);
    place.file("document.txt", "old house and green wind in the river");
    let asked = ["ask", "--registry", "q8/final/registry.toml", "--decoder", "tiny", "--document"];
    place.succeeds(&[&asked[..], &["document.txt", "--max-tokens", "3", "where"]].concat());
}

/// Questions with an answer of their own and one of the decoder `tiny`.
fn questions(answered: bool) -> String {
    let row = |row: usize| {
        let word = |place: usize| WORDS[(row * 5 + place * 3) % 16];
        let document: Vec<&str> = (0..10).map(word).collect();
        let mut question = json!({
            "document": document.join(" "), "question": format!("what is {row}"), "answer": word(1),
        });
        if answered {
            question["answered_by"] = json!({ "tiny": word(2) });
        }
        format!("{question}\n")
    };
    (0..40).map(row).collect()
}

#[test]
fn a_decoder_learns_what_it_says_itself_where_that_is_asked_for() {
    let place = Place::new();
    let run = |name: &str, targets: &str, more: &str| {
        let data = format!(
            "questions = [{{ path = \"questions.jsonl\", held_out = 4, shots = 2{targets} }}]\n{more}\n[objective]\n\
             reconstruction = 0.0\nanswer = 1.0\n[optimizer]"
        );
        place.file("run.toml", short(4).replace("[optimizer]", &data));
        place.arc(&["train", "run.toml", "--out", name]).output().expect("the binary runs")
    };
    place.file("questions.jsonl", questions(true));
    for (name, targets, more) in [
        ("own", "", ""),
        ("said", ", targets = \"decoder\"", ""),
        ("template", "", "question_form = \"template\"\none_special = true"),
    ] {
        let output = run(name, targets, more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_ne!(place.losses("own"), place.losses("said"));
    assert_ne!(place.losses("own"), place.losses("template"));
    // A file whose answers are the decoder's is the same run.
    let text = questions(true);
    let swapped: String = text
        .lines()
        .map(|line| {
            let mut row: Value = serde_json::from_str(line).expect("JSON");
            row["answer"] = row["answered_by"]["tiny"].clone();
            format!("{row}\n")
        })
        .collect();
    place.file("questions.jsonl", swapped);
    assert!(run("swapped", "", "").status.success());
    assert_eq!(place.losses("said"), place.losses("swapped"));

    place.file("questions.jsonl", questions(false));
    let output = run("none", ", targets = \"decoder\"", "");
    refuses(&output, FAILURE, &["no answer of `tiny` in line 1"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--answered-by tiny"));
}
