//! What `arc generate` and `arc ask` print with `--json`: other programs are built on it.

#[path = "harness/tiny.rs"]
mod tiny;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tiny::notice::left_out_offline;
use tiny::{Meta, Place, VOCABULARY, tiny_llama};

const GENERATE: [&str; 5] = ["generate", "--decoder", "tiny", "--prompt", "hello"];

/// `arc generate` with a prompt, and with more options.
fn generate(place: &Place, options: &[&str]) -> Value {
    place.succeeds(&[&GENERATE as &[&str], options].concat())
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id")).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

mod generation {
    use super::*;

    #[test]
    fn the_object_has_these_keys_and_no_others() {
        let place = Place::with_model(&tiny_llama());
        let mut expected = BTreeSet::from([
            "schema",
            "decoder",
            "prompt_ids",
            "token_ids",
            "text",
            "finish",
            "prompt_tokens",
            "latents",
            "timings",
        ]);
        let generated = generate(&place, &["--max-tokens", "4"]);
        assert_eq!(keys(&generated), expected);
        assert_eq!(generated["prompt_tokens"], ids(&generated["prompt_ids"]).len());
        assert_eq!((&generated["decoder"], &generated["latents"]), (&"tiny".into(), &0.into()));
        let timings = BTreeSet::from(["prefill_seconds", "first_token_seconds", "decode_seconds"]);
        assert_eq!(keys(&generated["timings"]), timings);

        expected.extend(["logits", "loss"]);
        assert_eq!(keys(&generate(&place, &["--max-tokens", "1", "--logits", "3", "--loss"])), expected);
    }

    #[test]
    fn the_prompt_is_the_beginning_token_and_a_token_for_each_byte() {
        let generated = generate(&Place::with_model(&tiny_llama()), &["--max-tokens", "1"]);
        let bytes = b"hello".iter().map(|&byte| 3 + u64::from(byte));
        assert_eq!(ids(&generated["prompt_ids"]), [1].into_iter().chain(bytes).collect::<Vec<_>>());
    }

    #[test]
    fn the_end_token_is_among_the_tokens_and_not_in_the_text() {
        let unended = generate(&Place::with_model(&tiny_llama()), &["--max-tokens", "8"]);
        assert_eq!(unended["finish"], "length");
        let all = ids(&unended["token_ids"]);
        assert_eq!(all.len(), 8);
        // The same weights, with the third token as the one that ends.
        let end = all[2];
        let place = {
            let mut model = tiny_llama();
            model.set("tokenizer.ggml.eos_token_id", Meta::U32(end.try_into().expect("an id")));
            Place::with_model(&model)
        };
        let ended = generate(&place, &["--max-tokens", "8"]);
        let first = all.iter().position(|&id| id == end).expect("it is there");
        assert_eq!(ids(&ended["token_ids"]), all[..=first]);
        assert_eq!(ended["finish"], "end");
        let before = generate(&Place::with_model(&tiny_llama()), &["--max-tokens", &first.to_string()]);
        assert_eq!(ended["text"], before["text"]);
    }

    #[test]
    fn logits_come_best_first_and_the_first_is_what_greedy_takes() {
        let place = Place::with_model(&tiny_llama());
        let generated = generate(&place, &["--max-tokens", "1", "--logits", "12"]);
        let logits = generated["logits"].as_array().expect("a list");
        assert_eq!(logits.len(), 12);
        assert!(logits.iter().all(|logit| keys(logit) == BTreeSet::from(["id", "logit"])));
        assert!(logits.is_sorted_by(|a, b| number(&a["logit"]) >= number(&b["logit"])), "{logits:?}");
        assert_eq!(logits[0]["id"], generated["token_ids"][0]);
    }

    #[test]
    fn the_loss_is_the_surprise_at_the_token_that_follows() {
        let place = Place::with_model(&tiny_llama());
        let all = VOCABULARY.to_string();
        let start = place.succeeds(&[
            "generate",
            "--decoder",
            "tiny",
            "--prompt",
            "",
            "--max-tokens",
            "1",
            "--logits",
            &all,
        ]);
        let logits = start["logits"].as_array().expect("a list");
        assert_eq!(logits.len(), VOCABULARY);
        let total = logits.iter().map(|logit| number(&logit["logit"]).exp()).sum::<f64>().ln();
        let of_a = logits.iter().find(|logit| logit["id"] == 3 + u64::from(b'a')).expect("its logit");

        let one = ["generate", "--decoder", "tiny", "--prompt", "a", "--max-tokens", "1", "--loss"];
        let loss = number(&place.succeeds(&one)["loss"]);
        let expected = total - number(&of_a["logit"]);
        assert!((loss - expected).abs() < 1e-4, "{loss}, expected {expected}");
    }

    #[test]
    fn equal_seeds_write_equal_texts_and_other_seeds_others() {
        let place = Place::with_model(&tiny_llama());
        let text = |seed| {
            let options = ["--max-tokens", "24", "--temperature", "1", "--top-k", "50", "--seed", seed];
            generate(&place, &options)["text"].clone()
        };
        assert_eq!(text("7"), text("7"));
        assert_ne!(text("7"), text("8"));
    }

    #[test]
    fn a_stop_string_ends_the_text_before_it() {
        let place = Place::with_model(&tiny_llama());
        let options = ["--max-tokens", "24", "--temperature", "1", "--seed", "3"];
        let whole = generate(&place, &options);
        let whole = whole["text"].as_str().expect("a text");
        let stop = whole.chars().nth(3).expect("some characters").to_string();
        let stopped = generate(&place, &[&options as &[&str], &["--stop", &stop]].concat());
        let expected = whole.split(&stop).next();
        assert_eq!((stopped["text"].as_str(), stopped["finish"].as_str()), (expected, Some("stop")));
    }

    #[test]
    fn standard_input_is_a_prompt_like_any_other() {
        let place = Place::with_model(&tiny_llama());
        let mut command = place.arc(&["generate", "--decoder", "tiny", "--file", "-", "--max-tokens", "4"]);
        command.arg("--json").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("arc starts");
        child.stdin.take().expect("a pipe").write_all(b"hello").expect("it is read");
        let output = child.wait_with_output().expect("arc ends");
        let piped: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        let given = generate(&place, &["--max-tokens", "4"]);
        for key in ["prompt_ids", "token_ids", "text"] {
            assert_eq!(piped[key], given[key], "{key}");
        }
    }
}

mod answers {
    use super::*;

    #[test]
    fn the_object_has_these_keys_and_no_others() {
        let place = Place::with_adapter();
        let text = place.file("text.txt", "a text of a few words");
        let ask = ["ask", "--decoder", "tiny", "--document", &text, "--max-tokens", "4"];
        let answer = BTreeSet::from([
            "decoder",
            "encoder",
            "adapter",
            "question",
            "text",
            "token_ids",
            "finish",
            "prompt_tokens",
            "latents",
            "positions_read_before",
            "timings",
        ]);
        let summary = BTreeSet::from(["schema", "source_tokens", "compress_seconds", "answers"]);

        let one = place.succeeds(&[&ask as &[&str], &["why"]].concat());
        assert_eq!(keys(&one), &answer | &summary);
        // One answer stands in the object itself, as it did before there was a schema, and among the answers.
        assert_eq!((keys(&one["answers"][0]), &one["schema"]), (answer.clone(), &1.into()));
        assert_eq!(one["question"], "why");
        assert_eq!(one["source_tokens"], 21, "one for each byte");

        // Each question, of one reading of the document.
        let two = place.succeeds(&[&ask as &[&str], &["why", "how"]].concat());
        assert_eq!(keys(&two), summary);
        let answers = two["answers"].as_array().expect("a list");
        assert_eq!(answers.iter().map(|a| &a["question"]).collect::<Vec<_>>(), ["why", "how"]);
        assert!(answers.iter().all(|one| keys(one) == answer));
        assert_eq!(answers[0]["text"], one["text"]);
    }

    #[test]
    fn a_question_keeps_its_private_use_characters() {
        let place = Place::with_adapter();
        let text = place.file("text.txt", "a text of a few words");
        let answer = |question: &str| {
            place.succeeds(&["ask", "--decoder", "tiny", "--document", &text, "--max-tokens", "4", question])
        };
        let plain = answer("why");
        let tokens = |answer: &Value| answer["prompt_tokens"].as_u64().expect("a number");
        // Private-use characters among them, by which nothing stands for anything else: a token for each byte.
        for more in ["\u{F8FE}", "\u{F8FF}", "\u{100000}", "\u{10FFFD}"] {
            for question in [format!("w{more}hy"), format!("why{more}"), format!("{more}why")] {
                let other = answer(&question);
                assert_eq!(tokens(&other), tokens(&plain) + more.len() as u64, "{question:?}");
                assert_eq!(other["question"], question);
            }
        }
    }

    #[test]
    fn a_rate_that_the_adapter_was_not_made_for_is_said_on_both_outputs() {
        let place = Place::with_adapter();
        let text = place.file("text.txt", "a text of a few words");
        let ask = ["ask", "--decoder", "tiny", "--document", &text, "--max-tokens", "2", "why", "--json"];
        for (factor, warned) in [("1", false), ("4", true)] {
            let output = place.arc(&ask).args(["--factor", factor]).output().expect("the binary runs");
            let stderr = String::from_utf8_lossy(&output.stderr);
            let answer: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
            let told = answer["warnings"][0].as_str().unwrap_or_default();
            assert_eq!(told.contains("made for pooling factor 1, the latents have 4"), warned, "{answer}");
            assert_eq!(stderr.contains("warning: adapter `tiny` was made for"), warned, "{stderr}");
        }
    }

    #[test]
    fn equal_seeds_answer_equally() {
        let place = Place::with_adapter();
        let text = place.file("text.txt", "a text of a few words");
        let answer = |seed| {
            let ask = ["ask", "--decoder", "tiny", "--document", &text, "--temperature", "1", "--seed", seed];
            place.succeeds(&[&ask as &[&str], &["--max-tokens", "24", "why"]].concat())["text"].clone()
        };
        assert_eq!(answer("7"), answer("7"));
        assert_ne!(answer("7"), answer("8"));
    }
}

/// What transformers computed for a prompt (`golden/decoders.json`), through the binary.
#[test]
fn a_real_model_gives_transformers_ids_loss_logits_and_tokens() {
    if left_out_offline("smollm2-135m") {
        return;
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = std::fs::read(repository.join("tests/golden/decoders.json")).expect("golden data");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    let golden = &golden["smol"][0];
    let output = Command::new(env!("CARGO_BIN_EXE_arc"))
        .current_dir(repository)
        .args(["generate", "--json", "--yes", "--decoder", "smollm2-135m", "--temperature", "0"])
        .args(["--precision", "exact"])
        .args(["--max-tokens", "32", "--loss", "--logits", "8", "--prompt"])
        .arg(golden["prompt"].as_str().expect("a prompt"))
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");

    assert_eq!(found["prompt_ids"], golden["ids"]);
    assert_eq!(found["token_ids"], golden["greedy"], "the end token included");
    assert_eq!(found["finish"], "end");
    let (loss, expected) = (number(&found["loss"]), number(&golden["nll"]));
    assert!((loss - expected).abs() < 1e-3, "{loss}, expected {expected}");
    let logits = found["logits"].as_array().expect("a list");
    assert_eq!(logits.iter().map(|logit| logit["id"].clone()).collect::<Value>(), golden["top_ids"]);
    for (found, expected) in logits.iter().zip(golden["top_logits"].as_array().expect("a list")) {
        let (found, expected) = (number(&found["logit"]), number(expected));
        assert!((found - expected).abs() < 1e-2, "{found}, expected {expected}");
    }
}

#[cfg(not(feature = "server"))]
#[test]
fn a_build_without_a_server_says_how_to_get_one() {
    let place = Place::empty();
    let refusal = place.fails(tiny::USAGE, &["serve"]);
    refusal.says(&["no server"]);
    refusal.hints(&["cargo install --path . --features server"]);
}
