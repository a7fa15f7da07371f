//! No text of a stranger's file acts on the terminal that it reaches, and none changes on its way into JSON.
//!
//! Titles, descriptions, licences, architectures, manifests, file names and error messages that quote them go
//! through the binary with every character that acts in them.

#[path = "harness/tiny.rs"]
mod tiny;

use std::process::Output;

use serde_json::{Value, json};
use tiny::{Meta, Place, tiny_llama};

/// What acts on a terminal: controls (Cc), separators of lines and paragraphs, and what changes directions.
fn acts(character: char) -> bool {
    let others =
        "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
    character.is_control() || others.contains(character) || matches!(character, '\u{2028}' | '\u{2029}')
}

/// Every character that acts, between honest words; a TOML or JSON string holds them escaped.
fn hostile(mark: &str) -> String {
    let all = (0..=0x2069_u32).filter_map(char::from_u32).filter(|&c| acts(c) && c != '\0');
    let mut text = format!("{mark} ");
    for character in all {
        text.push(character);
        text.push('.');
    }
    // What clears a screen, sets a title, writes to the clipboard, and moves up.
    text + "\u{1b}[2J\u{1b}]0;title\u{7}\u{1b}]52;c;QQ==\u{7}\u{9b}1A" + mark
}

/// What was written, line by line, without what acts: only line ends and tabs may be there.
#[track_caller]
fn is_harmless(output: &Output, what: &str) -> String {
    let mut all = String::new();
    for stream in [&output.stdout, &output.stderr] {
        let text = String::from_utf8(stream.clone()).expect("UTF-8");
        let bad = text.chars().find(|&c| acts(c) && !matches!(c, '\n' | '\t'));
        assert_eq!(bad, None, "{what}: {text:?}");
        all += &text;
    }
    assert!(!all.contains("panicked"), "{what}: {all}");
    all
}

/// A basic string of TOML.
fn toml(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|character| match character {
            '"' | '\\' => format!("\\{character}"),
            character if acts(character) => format!("\\u{:04x}", u32::from(character)),
            character => character.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

/// A registry in which every text that can be free is hostile.
fn registry(place: &Place) {
    place.file("tiny.gguf", tiny_llama().to_bytes());
    place.registry(&format!(
        "[encoders.start]\npackage = {0}\ndescription = {1}\n\
         [decoders.tiny]\nsource = \"file:tiny.gguf\"\ndescription = {1}\nlicence = {2}\n\
         [decoders.strange]\nsource = {3}\narchitecture = {4}\ndescription = {1}\nadapter = {0}\n\
         encoder = {4}\noptions = {{ prompt_template = {5} }}\n",
        toml(&hostile("folder")),
        toml(&hostile("description")),
        toml(&hostile("licence")),
        toml(&format!("file:{}", hostile("source"))),
        toml(&hostile("architecture")),
        toml(&format!("{{{{ document }}}} {{% {} %}}", hostile("template"))),
    ));
}

#[test]
fn what_a_registry_says_reaches_the_terminal_as_text() {
    let place = Place::empty();
    registry(&place);
    for arguments in [
        &["models"] as &[&str],
        &["adapters", "list"],
        &["adapters", "list", "--all"],
        &["adapters", "doctor", "--all"],
        &["adapters", "verify", "strange"],
        &["adapters", "inspect", "strange"],
        &["pull", "strange"],
        &["pull", "start"],
        &["generate", "--decoder", "strange", "--prompt", "x"],
        &["ask", "--decoder", "strange", "--document", "text.txt", "why"],
        &["compress", "text.txt", "-o", "x.arc.safetensors", "--encoder", "start"],
        &["plan", "--decoder", "strange", "--context", "10"],
        &["adapters", "alias", "strange", "other"],
        &["adapters", "remove", "strange", "--adapter-only"],
    ] {
        place.file("text.txt", "a text");
        let output = place.arc(arguments).output().expect("the binary runs");
        let shown = is_harmless(&output, &format!("{arguments:?}"));
        assert!(!shown.trim().is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_line_of_a_table_stays_one_line() {
    let place = Place::empty();
    registry(&place);
    let output = place.arc(&["models"]).output().expect("the binary runs");
    let shown = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(shown.lines().count(), 3, "two decoders and an encoder: {shown}");
    assert!(
        shown.contains("description") && shown.contains(r"\u{1b}[2J") && shown.contains(r"\n."),
        "{shown}"
    );
    let output = place.arc(&["adapters", "list", "--all"]).output().expect("the binary runs");
    let shown = String::from_utf8(output.stdout).expect("UTF-8");
    // Two headers, two decoders of which one has an adapter for other encoders, an encoder, and a blank line
    // between the tables.
    assert_eq!(shown.lines().filter(|line| !line.starts_with('`')).count(), 7, "{shown}");
}

#[test]
fn json_has_the_very_text_and_nothing_that_acts() {
    let place = Place::empty();
    registry(&place);
    let output = place.arc(&["models", "--json"]).output().expect("the binary runs");
    let shown = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert!(!shown.trim_end_matches('\n').contains(acts), "{shown:?}");
    let models: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let decoders = models["decoders"].as_array().expect("a list");
    let tiny = decoders.iter().find(|entry| entry["name"] == "tiny").expect("the decoder");
    assert_eq!(tiny["description"], json!(hostile("description")));
    assert_eq!(tiny["licence"], json!(hostile("licence")));
}

#[test]
fn what_manifests_model_files_and_data_say_is_quoted_as_text() {
    let place = Place::with_adapter();
    place.file("text.txt", "a text");
    let ask = ["ask", "--decoder", "tiny", "--document", "text.txt", "--max-tokens", "1", "why"];
    let manifest = std::fs::read_to_string(place.path("adapter/adapter.json")).expect("the adapter");
    let check = |what: &str, arguments: &[&str]| {
        let output = place.arc(arguments).output().expect("the binary runs");
        is_harmless(&output, what)
    };
    // Each text of the manifest in turn.
    for field in [
        "/name",
        "/decoder/name",
        "/decoder/architecture",
        "/encoder/name",
        "/encoder/encoder_id",
        "/prompt_template",
        "/weights/file",
        "/weights/sha256",
        "/append",
        "/projector/layers/0/kind",
        "/training/method",
    ] {
        let mut changed: Value = serde_json::from_str(&manifest).expect("JSON");
        *changed.pointer_mut(field).unwrap_or_else(|| panic!("no {field}")) = json!(hostile(field));
        place.file("adapter/adapter.json", changed.to_string());
        for arguments in [
            &ask as &[&str],
            &["adapters", "inspect", "tiny"],
            &["adapters", "verify", "tiny"],
            &["adapters", "doctor"],
            &["adapters", "add", "./adapter", "--name", "tiny", "--replace"],
            &["adapters", "verify", "./adapter"],
        ] {
            check(&format!("{field} {arguments:?}"), arguments);
        }
    }
    place.file("adapter/adapter.json", &manifest);

    // Unknown keys, which errors name.
    let mut changed: Value = serde_json::from_str(&manifest).expect("JSON");
    changed[hostile("key")] = json!(1);
    place.file("adapter/adapter.json", changed.to_string());
    check("an unknown key", &ask);
    place.file("adapter/adapter.json", &manifest);

    // The model's own words.
    // What it answers is exact as text, so that JSON is asked for.
    let generate = ["generate", "--decoder", "tiny", "--prompt", "hello", "--max-tokens", "1", "--json"];
    for (key, value) in [
        ("general.architecture", Meta::Text(hostile("architecture"))),
        ("tokenizer.ggml.model", Meta::Text(hostile("tokenizer"))),
        ("tokenizer.ggml.pre", Meta::Text(hostile("pre"))),
        ("llama.embedding_length", Meta::Text(hostile("width"))),
    ] {
        let mut model = tiny_llama();
        model.set(key, value);
        place.file("tiny.gguf", model.to_bytes());
        check(key, &generate);
    }
    let mut model = tiny_llama();
    model.tensors[3].name = format!("{}.weight", hostile("tensor"));
    place.file("tiny.gguf", model.to_bytes());
    check("a tensor's name", &generate);
    place.file("tiny.gguf", tiny_llama().to_bytes());

    // Data and latents.
    place.file("rows.jsonl", format!("{}\n", json!({ hostile("field"): 1 })));
    check("a row", &["fit", "--decoder", "tiny", "--text", "rows.jsonl", "-o", "new"]);
    let mut metadata = place.latents_metadata();
    for field in ["schema", "factor", "text_sha256", "encoder_id", "chunk_lengths"] {
        let right = metadata[field].clone();
        metadata[field] = json!(hostile(field));
        place.latents([2, tiny::WIDTH], 0.5, &metadata);
        check(field, &["ask", "--decoder", "tiny", "--document", tiny::LATENTS, "--max-tokens", "1", "why"]);
        metadata[field] = right;
    }
}

#[test]
fn what_was_typed_is_said_back_as_text() {
    let place = Place::with_model(&tiny_llama());
    let hostile = hostile("typed").replace('\0', "");
    for arguments in [
        &["generate", "--decoder", &hostile, "--prompt", "x"] as &[&str],
        &[&hostile],
        &["models", &hostile],
        &["pull", &hostile],
        &["ask", "--decoder", "tiny", "--document", &hostile, "why"],
        &["adapters", "alias", "tiny", &hostile],
        &["adapters", "verify", &hostile],
        &["train", &hostile, "--out", "x"],
        &["generate", "--decoder", "tiny", "--prompt", "x", "--top-p", &hostile],
    ] {
        let output = place.arc(arguments).output().expect("the binary runs");
        assert!(!output.status.success());
        is_harmless(&output, &format!("{arguments:?}"));
    }
}

#[test]
fn an_answer_is_exact_where_a_program_reads_it() {
    // Nearly all tokens are bytes, so that hot sampling writes some that act.
    let place = Place::with_model(&tiny_llama());
    let generate =
        ["generate", "--decoder", "tiny", "--prompt", "hi", "--max-tokens", "200", "--temperature", "5"];
    let told = place.succeeds(&generate);
    let text = told["text"].as_str().expect("a text");
    assert!(text.contains(|c: char| acts(c) && !matches!(c, '\n' | '\t')), "nothing to see: {text:?}");
    let output = place.arc(&generate).output().expect("the binary runs");
    assert_eq!(String::from_utf8(output.stdout).expect("UTF-8"), format!("{text}\n"));
}

/// At a terminal, which `script` of util-linux makes.
#[cfg(target_os = "linux")]
#[test]
fn an_answer_does_not_act_on_a_terminal() {
    let has_script = std::process::Command::new("script")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_script {
        tiny::notice::notice("left out: there is no `script` to make a terminal with");
        return;
    }
    let place = Place::with_model(&tiny_llama());
    let arc = env!("CARGO_BIN_EXE_arc");
    let command =
        format!("{arc} generate --decoder tiny --prompt hi --max-tokens 200 --temperature 5 2>/dev/null");
    let mut script = std::process::Command::new("script");
    script.args(["-q", "-e", "-c", &command, "/dev/null"]).current_dir(place.path("."));
    script.stdin(std::process::Stdio::null());
    let output =
        script.env("ARC_OFFLINE", "1").env("HOME", place.path("home")).output().expect("script runs");
    let shown = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success() && shown.trim().len() > 50, "{shown:?}");
    // The terminal's own driver ends lines in CR LF.
    let bad = shown.chars().find(|&c| acts(c) && !matches!(c, '\n' | '\t' | '\r'));
    assert_eq!(bad, None, "{shown:?}");
}
