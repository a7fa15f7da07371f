//! What every command prints, as text and as JSON, and every page of help: `SNAPSHOTS=overwrite` writes the files
//! in `tests/snapshots` anew, and the difference is read before it is kept.
//!
//! What differs between machines and runs stands for itself in brackets: fractions, hashes, the text that random
//! weights write, and where the test ran.

#[path = "harness/tiny.rs"]
mod tiny;

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};
use snapbox::{Assert, Data};
use tiny::Place;

/// Holds a text against the file of a name.
fn check(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    let expected = Data::read_from(&path, Some(snapbox::data::DataFormat::Text));
    Assert::new().action_env("SNAPSHOTS").eq(text.to_owned(), expected.raw());
}

/// A text without what differs between runs: fractions, hashes and ages.
fn steady(place: &Place, text: &str) -> String {
    let folder = place.folder().canonicalize().expect("the folder");
    let text = text.replace(&*folder.to_string_lossy(), "[PLACE]");
    let text = text.replace(&*place.folder().to_string_lossy(), "[PLACE]");
    let text = text.replace(env!("CARGO_BIN_EXE_arc"), "[ARC]");
    let mut steady = String::new();
    for line in text.split_inclusive('\n') {
        match (line.find(", used "), line.find(" ago")) {
            (Some(start), Some(end)) => {
                steady += &words(&line[..start]);
                steady += ", used [AGE]";
                steady += &words(&line[end..]);
            }
            _ => steady += &words(line),
        }
    }
    steady
}

/// Fractions and hashes in brackets.
fn words(line: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
    let (mut shown, mut word) = (String::new(), String::new());
    for character in line.chars().chain(['\0']) {
        if is_word(character) {
            word.push(character);
            continue;
        }
        shown += &word_without_numbers(&std::mem::take(&mut word));
        shown.extend(Some(character).filter(|&c| c != '\0'));
    }
    shown
}

fn word_without_numbers(word: &str) -> String {
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let has = |of: fn(&char) -> bool| word.chars().any(|c| of(&c));
    if word.len() >= 12 && word.chars().all(is_hex) && has(char::is_ascii_digit) {
        return "[HASH]".to_owned();
    }
    // A number with a fraction, perhaps at the end of a sentence, perhaps with an exponent.
    let number = word.trim_end_matches('.');
    let is_number = number.contains('.') && number.replace("e.", "").parse::<f64>().is_ok();
    if is_number { format!("[X]{}", &word[number.len()..]) } else { word.to_owned() }
}

/// JSON without what differs between runs and machines.
fn steady_json(place: &Place, value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                match key.as_str() {
                    "token_ids" | "text" | "logits" | "losses" | "finish" | "processor" | "found"
                    | "loss" | "used_unix" | "unix_time" | "peak_memory" | "version" | "auto"
                    | "new_tokens_written" | "seconds" | "examples" | "divergence" => {
                        *value = format!("[{}]", key.to_uppercase()).into();
                    }
                    _ => steady_json(place, value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| steady_json(place, value)),
        Value::String(text) => *text = steady(place, text),
        Value::Number(number) if number.is_f64() => *value = "[X]".into(),
        _ => {}
    }
}

/// Runs a command and holds what it prints, as text and as JSON, against the files of its name.
fn both(place: &Place, name: &str, arguments: &[&str]) {
    text(place, name, arguments);
    as_json(place, name, arguments);
}

fn text(place: &Place, name: &str, arguments: &[&str]) {
    text_without(place, name, arguments, &[]);
}

/// What it says as text; answers, which random weights write, are taken out.
fn text_without(place: &Place, name: &str, arguments: &[&str], answers: &[String]) {
    let output = place.arc(arguments).output().expect("the binary runs");
    let text = |bytes: &[u8]| {
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        for answer in answers.iter().filter(|answer| !answer.is_empty()) {
            text = text.replacen(answer, "[ANSWER]", 1);
        }
        steady(place, &text)
    };
    let typed: Vec<String> = arguments
        .iter()
        .map(|word| if word.contains(' ') { format!("\"{word}\"") } else { (*word).to_owned() })
        .collect();
    let code = output.status.code().unwrap_or(-1);
    let all = format!(
        "$ arc {}\n{}--- standard error\n{}--- exit code {code}\n",
        typed.join(" "),
        text(&output.stdout),
        text(&output.stderr)
    );
    check(&format!("text/{name}.txt"), &all);
}

fn as_json(place: &Place, name: &str, arguments: &[&str]) -> Value {
    let output = place.arc(arguments).arg("--json").output().expect("the binary runs");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{arguments:?}: {error}: {}", String::from_utf8_lossy(&output.stderr))
    });
    match printed["error"].is_object() {
        true => tiny::recorded::record_as("error", &output.stdout),
        false => tiny::recorded::record(arguments, &output.stdout),
    }
    let mut steady = printed.clone();
    steady_json(place, &mut steady);
    check(&format!("json/{name}.json"), &format!("{steady:#}\n"));
    printed
}

/// Two decoders, of which `tiny` is the default one, and a text.
fn place() -> Place {
    let place = Place::with_adapter();
    let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
    place.file("registry.toml", registry.replacen('\n', "\ndefault_decoder = \"tiny\"\n", 1));
    place.add_to_registry(
        "[decoders.twin]\nsource = \"file:tiny.gguf\"\nadapter = \"adapter\"\naliases = [\"second\"]\n\
         [decoders.far]\nsource = \"pip:far==1#far/far.gguf\"\nadapter = \"adapter\"\n\
         [decoders.bare]\nsource = \"file:tiny.gguf\"\ndescription = \"without an adapter\"\n",
    );
    place.file("text.txt", "a text of a few words");
    place
}

#[test]
fn every_page_of_help() {
    fn pages(place: &Place, path: &[String]) {
        let words: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let output = place.arc(&words).env_remove("ARC_PRECISION").output().expect("the binary runs");
        assert!(output.status.success(), "{words:?}");
        let help = String::from_utf8(output.stdout).expect("UTF-8");
        let name = if path.is_empty() { "arc".to_owned() } else { path.join("-") };
        check(&format!("help/{name}.txt"), &help);
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        for line in listed.take_while(|line| !line.is_empty()) {
            // What is wrapped is further in.
            let Some(inner) = line.strip_prefix("  ").filter(|line| !line.starts_with(' ')) else { continue };
            let inner = inner.split_whitespace().next().expect("a command").to_owned();
            if inner != "help" {
                pages(place, &[path, &[inner]].concat());
            }
        }
    }
    pages(&Place::empty(), &[]);
}

#[test]
fn asking() {
    let place = place();
    let answers = |arguments: &[&str]| -> Vec<String> {
        let answers = place.succeeds(arguments)["answers"].as_array().expect("answers").clone();
        answers.iter().map(|answer| answer["text"].as_str().expect("a text").to_owned()).collect()
    };
    let one = ["ask", "text.txt", "--max-tokens", "4", "--no-cache", "why"];
    text_without(&place, "ask", &one, &answers(&one));
    as_json(&place, "ask", &one);
    let two =
        ["ask", "text.txt", "--decoder", "tiny,second", "--max-tokens", "4", "--no-cache", "why", "how"];
    text_without(&place, "ask-several", &two, &answers(&two));
    as_json(&place, "ask-several", &two);
    place.file("questions.jsonl", "{\"question\": \"why\", \"id\": 1}\n{\"question\": \"how\"}\n");
    let batch =
        ["ask", "text.txt", "--questions", "questions.jsonl", "--out", "answers.jsonl", "--max-tokens", "2"];
    as_json(&place, "ask-questions", &batch);
    text(&place, "ask-questions", &batch);
    let written = std::fs::read_to_string(place.path("answers.jsonl")).expect("the answers");
    lines(&place, "answer-line", &written);
    let generate = ["generate", "--decoder", "tiny", "--prompt", "hello", "--max-tokens", "4"];
    let answer = place.succeeds(&generate)["text"].as_str().expect("a text").to_owned();
    text_without(&place, "generate", &generate, &[answer]);
    as_json(&place, "generate", &[&generate[..], &["--logits", "2", "--loss"]].concat());
}

/// Objects a line, each recorded by its kind.
fn lines(place: &Place, kind: &str, printed: &str) {
    let mut shown = String::new();
    for line in printed.lines() {
        tiny::recorded::record_as(kind, line.as_bytes());
        let mut object: Value = serde_json::from_str(line).expect("an object a line");
        steady_json(place, &mut object);
        // How many pieces a text comes in is the model's.
        if object["type"] != json!("text") {
            shown += &format!("{object}\n");
        }
    }
    check(&format!("json/{kind}s.jsonl"), &shown);
}

#[test]
fn streams_and_conversations() {
    let place = place();
    let ask = ["ask", "text.txt", "--max-tokens", "4", "--stream", "--no-cache", "why", "how"];
    let output = place.arc(&ask).output().expect("the binary runs");
    lines(&place, "ask-event", &String::from_utf8(output.stdout).expect("UTF-8"));
    let chat = |more: &[&str]| {
        let mut command = place.arc(&[&["chat", "text.txt", "--max-tokens", "4"], more].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("arc starts");
        let typed = "why\n/decoder twin\nhow\n/open-book\nhow\n/save turns.json\n/nothing\n/help\n/quit\n";
        child.stdin.take().expect("a pipe").write_all(typed.as_bytes()).expect("it is read");
        child.wait_with_output().expect("arc ends")
    };
    let output = chat(&["--json"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    lines(&place, "chat-event", &text);
    let output = chat(&[]);
    check("text/chat-said.txt", &steady(&place, &String::from_utf8_lossy(&output.stderr)));
    let saved = std::fs::read_to_string(place.path("turns.json")).expect("the turns");
    lines(&place, "chat-saved", &saved);
}

#[test]
fn compressed_documents_and_settings() {
    let place = place();
    place.file("notes/a.txt", "the first note");
    place.file("notes/b.md", "# the second");
    let one = ["compress", "text.txt", "-o", "text.arc.safetensors", "--replace"];
    both(&place, "compress", &one);
    both(&place, "compress-several", &["compress", "notes", "-o", "latents"]);
    place.succeeds(&["ask", "text.txt", "--max-tokens", "1", "why"]);
    both(&place, "cache-list", &["cache", "list"]);
    as_json(&place, "cache-clean", &["cache", "clean"]);
    text(&place, "cache-clean", &["cache", "clean"]);
    both(&place, "config-set", &["config", "set", "max-tokens", "64"]);
    both(&place, "config-get", &["config", "get", "max-tokens"]);
    both(&place, "config-list", &["config", "list"]);
}

#[test]
fn models_and_what_they_cost() {
    let place = place();
    both(&place, "models", &["models"]);
    both(&place, "pull", &["pull", "tiny", "start"]);
    place.file("cache/models/far/far.gguf", "pulled");
    as_json(&place, "models-remove", &["models", "remove", "far"]);
    place.file("cache/models/far/far.gguf", "pulled");
    text(&place, "models-remove", &["models", "remove", "far"]);
    text(&place, "models-remove-nothing", &["models", "remove", "far"]);
    both(&place, "plan", &["plan", "--decoder", "tiny", "--context", "100", "--device-memory", "1G"]);
    as_json(&place, "devices", &["devices"]);
    for (name, what) in [("decoder", ["--decoder", "tiny"]), ("encoder", ["--encoder", "start"])] {
        let bench = [&["bench", "--prompt-tokens", "16", "--rounds", "1"], &what[..]].concat();
        as_json(&place, &format!("bench-{name}"), &bench);
        text(&place, &format!("bench-{name}"), &bench);
    }
    as_json(&place, "bench-divergence", &["bench", "--decoder", "tiny", "--divergence", "text.txt"]);
    text(&place, "man", &["man", "pages"]);
    as_json(&place, "man", &["man", "pages"]);
}

#[test]
fn the_registry_and_its_adapters() {
    let place = place();
    both(&place, "adapters-list", &["adapters", "list"]);
    text(&place, "adapters-list-all", &["adapters", "list", "--all"]);
    both(&place, "adapters-inspect", &["adapters", "inspect", "tiny"]);
    both(&place, "adapters-verify", &["adapters", "verify", "tiny"]);
    both(&place, "adapters-doctor", &["adapters", "doctor"]);
    text(&place, "adapters-doctor-all", &["adapters", "doctor", "--all"]);
    both(&place, "adapters-pack", &["adapters", "pack", "tiny", "--replace"]);
    as_json(&place, "adapters-new", &["adapters", "new", "mine", "--decoder", "tiny"]);
    text(&place, "adapters-new", &["adapters", "new", "yours", "--decoder", "tiny"]);
    as_json(&place, "adapters-add", &["adapters", "add", "./mine", "--name", "twin", "--replace"]);
    text(&place, "adapters-add", &["adapters", "add", "./yours", "--name", "bare"]);
    as_json(
        &place,
        "adapters-add-archive",
        &["adapters", "add", "tiny.arc.tar.zst", "--name", "bare", "--replace"],
    );
    as_json(
        &place,
        "adapters-add-decoder",
        &["adapters", "add", "--name", "more", "--source", "file:tiny.gguf"],
    );
    as_json(&place, "adapters-alias", &["adapters", "alias", "tiny", "small"]);
    text(&place, "adapters-alias", &["adapters", "alias", "small", "--remove"]);
    text(&place, "adapters-remove", &["adapters", "remove", "twin", "--delete-files"]);
    as_json(&place, "adapters-remove", &["adapters", "remove", "bare", "--delete-files"]);
    as_json(&place, "adapters-remove-encoder", &["adapters", "remove", "start"]);
}

#[test]
fn fitting_and_evaluation() {
    let place = place();
    let rows: String = (0..6)
        .map(|row| {
            format!("{}\n", json!({ "document": format!("text {row}"), "question": "why", "answers": ["a"] }))
        })
        .collect();
    place.file("rows.jsonl", rows);
    let task = |name: &str| {
        format!(
            "schema = 1\nname = \"{name}\"\ndescription = \"what there is\"\ndata = \"rows.jsonl\"\n[generate]\n\
             prompt = \"{{{{ document }}}} {{{{ question }}}}:\"\nclosed_book = \"{{{{ question }}}}:\"\n\
             max_tokens = 4\nmetrics = [\"f1\"]\n"
        )
    };
    place.file("t.toml", task("t"));
    place.file("u.toml", task("u"));
    both(&place, "eval", &["eval", "--decoder", "tiny", "--task", "t.toml", "--timed", "0"]);
    let several =
        ["eval", "--decoder", "tiny,twin", "--task", "t.toml,u.toml", "--timed", "0", "--out", "report"];
    text(&place, "eval-several", &several);
    let fit = ["fit", "--decoder", "tiny", "--text", "texts.jsonl", "-o", "fitted", "--replace"];
    both(&place, "fit", &fit);
    let prepare = ["data", "prepare", "--tokenizer", "tiny", "--source", "texts.jsonl=CC0-1.0", "--out"];
    as_json(&place, "data-prepare", &[&prepare[..], &["shards"]].concat());
    text(&place, "data-prepare", &[&prepare[..], &["again"]].concat());
    let row = |question: &str| {
        format!("{}\n", json!({ "document": "a text", "question": question, "answer": "an answer" }))
    };
    place.file("q.jsonl", [row("why"), row("how"), row("why")].concat());
    both(&place, "data-prepare-questions", &["data", "prepare", "questions", "q.jsonl", "--out", "clean"]);
}

#[test]
fn failures() {
    let place = place();
    for (name, arguments) in [
        ("no-document", &["ask", "none.txt", "why"] as &[&str]),
        ("no-decoder", &["ask", "text.txt", "--decoder", "tniy", "why"]),
        ("no-option", &["ask", "text.txt", "--colour", "red", "why"]),
        ("no-adapter", &["ask", "text.txt", "--decoder", "bare", "why"]),
    ] {
        both(&place, &format!("failure-{name}"), arguments);
    }
}
