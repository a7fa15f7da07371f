//! What a person does every day: documents of any length and kind, questions without a decoder's name, a cache
//! that is shared, a conversation, many questions at once.

#[path = "harness/tiny.rs"]
mod tiny;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tiny::notice::notice;
use tiny::{FAILURE, LATENTS, Place, USAGE, WINDOW};

/// A text of so many bytes in which every line is another; the tiny tokenizer has a token for each byte.
fn text(bytes: usize) -> String {
    let mut text = String::new();
    for line in 0.. {
        if text.len() >= bytes {
            break;
        }
        text.push_str(&format!(
            "line {line} of a long text about {}\n",
            ["whales", "ships", "the sea"][line % 3]
        ));
    }
    text.truncate(bytes);
    text
}

fn run(command: &mut Command) -> (Output, String, String) {
    let output = command.output().expect("the binary runs");
    let (stdout, stderr) = (output.stdout.clone(), output.stderr.clone());
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output, text(stdout), text(stderr))
}

/// Runs a command that should do well: what it prints, and what it says.
fn said(place: &Place, arguments: &[&str]) -> (String, String) {
    let (output, stdout, stderr) = run(&mut place.arc(arguments));
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    (stdout, stderr)
}

fn with_default_decoder() -> Place {
    let place = Place::with_adapter();
    let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
    place.file("registry.toml", registry.replacen('\n', "\ndefault_decoder = \"tiny\"\n", 1));
    place
}

mod length {
    use super::*;

    #[test]
    fn a_text_has_as_many_chunks_as_it_needs() {
        let place = Place::with_encoder();
        // The encoder's makers had 1024 chunks of 64 tokens at most; this one has 32.
        let manifest = std::fs::read_to_string(place.path("encoder/encoder.json")).expect("the encoder");
        place.file("encoder/encoder.json", manifest.replace("\"max_chunks\": 1024", "\"max_chunks\": 32"));
        let long = place.file("long.txt", text(64 * 40 + 7));
        let made = place.succeeds(&["compress", &long, "-o", LATENTS]);
        assert_eq!(made["source_tokens"], 64 * 40 + 7);
        assert_eq!(made["latents"], 64 * 40 + 7);
        assert_eq!(made["chunks"].as_array().map(Vec::len), Some(41));
        assert_eq!(made["chunks"][40], 7);
    }

    #[test]
    fn what_does_not_fit_is_said_before_and_the_nearest_chunks_are_read() {
        let place = with_default_decoder();
        let filler = "x".repeat(64);
        let needle = format!("{:<64}", "the harpoon hangs in the captain's cabin");
        let long = format!("{}{needle}{}", filler.repeat(9), filler.repeat(10));
        let long = place.file("long.txt", long);
        let ask = ["ask", &long, "--max-tokens", "4", "Where does the harpoon hang?"];
        let (_, stderr) = said(&place, &ask);
        assert!(
            stderr.contains("1280 tokens make 1280 latents, and the window of `tiny` has room for"),
            "{stderr}"
        );
        assert!(stderr.contains("with `--factor"), "{stderr}");
        assert!(stderr.contains("of 20 chunks that are nearest"), "{stderr}");
        let told = stderr.find("has room for").expect("it is said");
        assert!(told < stderr.find("compressed to").expect("it is compressed"), "{stderr}");

        let answer = place.succeeds(&ask);
        let taken = &answer["taken"];
        let chunks: Vec<u64> = serde_json::from_value(taken["by_document"][0].clone()).expect("chunks");
        assert!(
            chunks.contains(&9) && chunks.is_sorted(),
            "the one with the words is among them: {chunks:?}"
        );
        assert_eq!((taken["chunks"].as_u64(), taken["of"].as_u64()), (Some(chunks.len() as u64), Some(20)));
        let positions =
            answer["latents"].as_u64().expect("a number") + answer["prompt_tokens"].as_u64().expect("one");
        assert_eq!(answer["latents"], chunks.len() * 64 + 1);
        assert!(positions + 4 <= u64::from(WINDOW) && positions + 64 + 4 > u64::from(WINDOW), "{positions}");

        let one = place.succeeds(&[&ask[..], &["--top", "1"]].concat());
        assert_eq!((&one["taken"]["by_document"], &one["latents"]), (&json!([[9]]), &json!(65)));
    }

    #[test]
    fn what_is_read_of_a_long_document_is_what_a_short_one_of_these_chunks_would_be() {
        let place = with_default_decoder();
        let (a, b) = (text(64), "harpoon ".repeat(8));
        let long = place.file("long.txt", format!("{a}{b}{}", "y".repeat(640)));
        let short = place.file("short.txt", &b);
        let ask = |document: &str, more: &[&str]| {
            let ask = ["ask", document, "--max-tokens", "8", "Where is the harpoon?"];
            place.succeeds(&[&ask[..], more].concat())["token_ids"].clone()
        };
        assert_eq!(ask(&long, &["--top", "1"]), ask(&short, &[]));
    }

    #[test]
    fn several_documents_and_latents_files_share_the_window() {
        let place = with_default_decoder();
        let first = place.file("first.txt", "z".repeat(256));
        let second = place.file("second.txt", format!("{}{}", "q".repeat(64), "harpoon ".repeat(8)));
        place.succeeds(&["compress", &second, "-o", LATENTS]);
        let ask = |second: &str| {
            place.succeeds(&[
                "ask",
                &first,
                second,
                "--top",
                "2",
                "--max-tokens",
                "2",
                "Where is the harpoon?",
            ])
        };
        let of_text = ask(&second)["taken"]["by_document"].clone();
        assert!(of_text[1].as_array().expect("chunks").contains(&json!(1)), "{of_text}");
        // Without the text the vectors alone decide; what is taken is within the number.
        let of_latents = ask(LATENTS);
        assert_eq!(of_latents["taken"]["chunks"], 2);
    }

    #[test]
    fn memory_does_not_grow_with_the_text() {
        let place = Place::with_encoder();
        let peak = |bytes: usize| {
            let text = place.file("long.txt", text(bytes));
            let (_, stderr) = said(&place, &["compress", &text, "-o", LATENTS, "--replace", "--verbose"]);
            let line = stderr.lines().find_map(|line| line.strip_prefix("memory: ")).expect("it is said");
            line.split(' ').next().and_then(|bytes| bytes.parse::<u64>().ok()).expect("a number")
        };
        if !cfg!(target_os = "linux") {
            return;
        }
        let (short, long) = (peak(500_000), peak(5_000_000));
        notice(format_args!("compressing 0.5 MB takes {short} bytes at most, 5 MB {long}"));
        // What grows is the text and its tokens, of which the tiny tokenizer has one for each byte: five bytes for
        // each, and half as many again where a list grows. Where each token stands, 16 bytes, would be 72 MB more,
        // and latents, 32 bytes, 144 MB.
        assert!(long < short + 40_000_000, "{short} and then {long}");
    }
}

mod arguments {
    use super::*;

    #[test]
    fn a_folder_that_was_compressed_is_asked_like_the_one_it_was_made_of() {
        let place = with_default_decoder();
        place.file("notes/a.txt", "the first note");
        place.file("notes/sub/b.md", "# the second");
        place.succeeds(&["compress", "notes", "-o", "made"]);
        let ask =
            |folder: &str| place.succeeds(&["ask", folder, "--max-tokens", "4", "why"])["token_ids"].clone();
        let of_texts = ask("notes");
        assert_eq!(ask("made"), of_texts);
        // Beside their texts they are not read a second time.
        place.succeeds(&["compress", "notes", "-o", "notes"]);
        assert_eq!(ask("notes"), of_texts);
        let again = place.succeeds(&["compress", "notes", "-o", "notes"]);
        assert_eq!(again["there_before"].as_array().map(Vec::len), Some(2), "{again}");
        // What was compressed has its rate, and is no text.
        let refusal = place.fails(USAGE, &["ask", "made", "--factor", "2", "why"]);
        refusal.says(&["`made/a.txt.arc.safetensors` is compressed already"]);
        let refusal = place.fails(USAGE, &["ask", "made", "--open-book", "why"]);
        refusal.says(&["`made/a.txt.arc.safetensors` holds latents"]);
    }

    #[test]
    fn a_question_needs_no_name_but_its_documents() {
        let place = with_default_decoder();
        place.file("notes/a.txt", "the first note");
        place.file("notes/b.md", "# the second");
        place.file("notes/c.png", b"\x89PNG\r\n\x1a\n");
        let text = place.file("text.txt", "a text of a few words");
        let named =
            place.succeeds(&["ask", "--decoder", "tiny", "--document", &text, "--max-tokens", "4", "why"]);
        let ask = |words: &[&str]| place.succeeds(&[&["ask", "--max-tokens", "4"], words].concat());
        assert_eq!(ask(&[&text, "why"])["token_ids"], named["token_ids"]);
        assert_eq!(ask(&["notes", "why"])["source_tokens"], 14 + 12);
        assert_eq!(ask(&["notes/*.txt", "why"])["source_tokens"], 14);
        let two = ask(&[&text, "notes/a.txt", "why", "how?"]);
        assert_eq!(two["source_tokens"], 21 + 14);
        let questions: Vec<_> =
            two["answers"].as_array().expect("answers").iter().map(|a| &a["question"]).collect();
        assert_eq!(questions, ["why", "how?"]);
        // A question that could be a pattern leads nowhere.
        assert_eq!(ask(&[&text, "who? what* where?"])["question"], "who? what* where?");
    }

    #[test]
    fn what_lacks_or_was_mistyped_is_said() {
        let place = with_default_decoder();
        let text = place.file("text.txt", "a text");
        place.fails(USAGE, &["ask", "why"]).says(&["no document"]);
        place.fails(USAGE, &["ask", &text]).says(&["no question"]);
        let refusal = place.fails(FAILURE, &["ask", &text, "tetx.md", "why"]);
        refusal.says(&["there is no document `tetx.md`"]);
        for blank in ["", "  ", "\n\t"] {
            place.fails(USAGE, &["ask", &text, "why", blank]).says(&["a question is empty"]);
            place.fails(USAGE, &["ask", "--document", &text, blank]).says(&["a question is empty"]);
        }
        place.registry("");
        let refusal = place.fails(USAGE, &["ask", &text, "why"]);
        refusal.says(&["no decoder is named"]);
        refusal.hints(&["--decoder", "arc config set decoder"]);
    }

    #[test]
    fn a_document_that_cannot_be_read_is_named_and_passed_over_where_that_is_asked_for() {
        let place = with_default_decoder();
        place.file("notes/a.txt", "the first note");
        place.file("notes/b.pdf", b"%PDF-1.7 and no more");
        let ask = ["ask", "notes", "--max-tokens", "2", "why"];
        let refusal = place.fails(FAILURE, &ask);
        refusal.says(&["notes/b.pdf"]);
        refusal.hints(&["`--skip-bad` passes over what cannot be read"]);
        // The note before it was compressed, and is said to be.
        let compressed = place.arc(&["compress", "notes", "-o", "made"]).output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&compressed.stderr);
        assert_eq!(compressed.status.code(), Some(FAILURE), "{stderr}");
        assert!(stderr.contains("notes/b.pdf") && stderr.contains("`--skip-bad`"), "{stderr}");
        let answer = place.succeeds(&[&ask[..], &["--skip-bad"]].concat());
        assert_eq!(answer["source_tokens"], 14);
        let (_, stderr) = said(&place, &[&ask[..], &["--skip-bad"]].concat());
        assert!(stderr.contains("warning: left out: document `notes/b.pdf`"), "{stderr}");
        std::fs::remove_file(place.path("notes/a.txt")).expect("the note");
        place.fails(FAILURE, &[&ask[..], &["--skip-bad"]].concat()).says(&["none of the documents"]);
    }

    #[test]
    fn settings_stand_below_the_environment_and_the_command_line() {
        let place = Place::with_adapter();
        let text = place.file("text.txt", "a text of a few words");
        place.fails(USAGE, &["ask", &text, "why"]);
        place.succeeds(&["config", "set", "decoder", "tiny"]);
        place.succeeds(&["config", "set", "max-tokens", "3"]);
        let written = |command: &mut Command| {
            let (output, stdout, stderr) = run(command.arg("--json"));
            assert!(output.status.success(), "{stderr}");
            let answer: Value = serde_json::from_str(&stdout).expect("one JSON object");
            answer["token_ids"].as_array().expect("ids").len()
        };
        let ask = ["ask", "--document", &text, "why"];
        assert_eq!(written(&mut place.arc(&ask)), 3);
        assert_eq!(written(place.arc(&ask).env("ARC_MAX_TOKENS", "5")), 5);
        assert_eq!(written(place.arc(&ask).env("ARC_MAX_TOKENS", "5").args(["--max-tokens", "2"])), 2);
        assert_eq!(place.succeeds(&["config", "get", "max-tokens"])["value"], "3");
        let listed = place.succeeds(&["config", "list"]);
        assert!(
            listed["file"].as_str().is_some_and(|file| listed["settings"][0]["from"] == file),
            "{listed}"
        );
        place.succeeds(&["config", "set", "max-tokens", "--unset"]);
        place.fails(FAILURE, &["config", "get", "max-tokens"]).says(&["`max-tokens` is not set"]);
        place.fails(USAGE, &["config", "set", "device", "toaster"]).says(&["toaster"]);
        place.fails(USAGE, &["config", "set", "colour", "red"]).says(&["colour"]);
    }
}

mod cache {
    use super::*;

    fn ask(place: &Place, more: &[&str]) -> Value {
        place.succeeds(&[&["ask", "text.txt", "--max-tokens", "4", "why"], more].concat())
    }

    #[test]
    fn the_second_question_costs_no_compression_and_gets_the_same_answer() {
        let place = with_default_decoder();
        place.file("text.txt", text(150));
        let first = ask(&place, &[]);
        let (_, stderr) = said(&place, &["ask", "text.txt", "--max-tokens", "4", "why"]);
        assert!(stderr.contains("150 latents of 150 tokens") && !stderr.contains("compressed"), "{stderr}");
        let again = ask(&place, &[]);
        assert_eq!((&again["token_ids"], &again["compress_seconds"]), (&first["token_ids"], &json!(0.0)));
        // Another rate, another text and no cache are not there.
        for more in [&["--factor", "2"][..], &["--no-cache"]] {
            assert!(ask(&place, more)["compress_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
        }
        assert_eq!(ask(&place, &["--no-cache"])["token_ids"], first["token_ids"]);
        let listed = place.succeeds(&["cache", "list"]);
        assert_eq!(listed["documents"].as_array().map(Vec::len), Some(2));
        assert_eq!(listed["documents"][1]["encoder"], "start");
        assert_eq!(place.succeeds(&["cache", "clean"])["deleted"], 2);
        assert_eq!(place.succeeds(&["cache", "list"])["documents"], json!([]));
    }

    #[test]
    fn a_damaged_document_is_compressed_again() {
        let place = with_default_decoder();
        place.file("text.txt", text(100));
        let first = ask(&place, &[]);
        let path =
            place.succeeds(&["cache", "list"])["documents"][0]["path"].as_str().expect("a path").to_owned();
        let mut bytes = std::fs::read(&path).expect("the document");
        let middle = bytes.len() - 32 * 50;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).expect("a damaged copy");
        let again = ask(&place, &[]);
        assert_eq!(again["token_ids"], first["token_ids"]);
        assert!(again["compress_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
        assert_eq!(ask(&place, &[])["compress_seconds"], 0.0);
    }

    #[test]
    fn a_limit_of_nothing_keeps_nothing() {
        let place = with_default_decoder();
        place.file("text.txt", text(100));
        place.succeeds(&["config", "set", "cache-limit", "0"]);
        let first = ask(&place, &[]);
        assert_eq!(ask(&place, &[])["token_ids"], first["token_ids"]);
        assert_eq!(place.succeeds(&["cache", "list"])["documents"], json!([]));
    }

    /// States in the registry what the file of the decoder hashes to.
    fn pin(place: &Place, model: &[u8]) {
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        let kept = registry.lines().filter(|line| !line.starts_with("sha256"));
        let source = "source = \"file:tiny.gguf\"";
        let pinned = format!("{source}\nsha256 = \"{}\"", arc_adapters::sha256_hex(model));
        place.file("registry.toml", kept.collect::<Vec<_>>().join("\n").replace(source, &pinned) + "\n");
    }

    #[test]
    fn what_a_decoder_has_read_of_a_document_it_does_not_read_again() {
        let place = with_default_decoder();
        place.file("text.txt", text(150));
        let before = |answer: &Value| answer["positions_read_before"].as_u64().expect("a count");
        let unpinned = ask(&place, &[]);
        assert_eq!(before(&ask(&place, &[])), 0, "of a file that nobody pins it is not known what it reads");

        pin(&place, &std::fs::read(place.path("tiny.gguf")).expect("the model"));
        let first = ask(&place, &[]);
        assert_eq!((before(&first), &first["token_ids"]), (0, &unpinned["token_ids"]));
        let again = ask(&place, &[]);
        assert!(before(&again) >= 150, "{again}");
        assert_eq!(again["token_ids"], first["token_ids"]);
        let other = ["ask", "text.txt", "--max-tokens", "4", "another question"];
        let answer = place.succeeds(&other);
        assert_eq!(before(&answer), before(&again));
        let alone = place.succeeds(&[&other[..], &["--no-cache"]].concat());
        assert_eq!((before(&alone), &alone["token_ids"]), (0, &answer["token_ids"]));
        // Another rate, and another text.
        assert_eq!(before(&ask(&place, &["--factor", "2"])), 0);
        place.file("other.txt", text(151));
        let other_text = ["ask", "other.txt", "--max-tokens", "4", "why"];
        assert_eq!(before(&place.succeeds(&other_text)), 0);

        let kept = place.succeeds(&["cache", "list"])["prefixes"].clone();
        assert_eq!(kept.as_array().map(Vec::len), Some(3), "{kept}");
        assert!(
            kept.as_array().is_some_and(|kept| kept.iter().all(|kept| kept["decoder"] == "tiny")),
            "{kept}"
        );
        for kept in kept.as_array().expect("a list") {
            let path = kept["path"].as_str().expect("a path");
            let mut bytes = std::fs::read(path).expect("keys and values");
            let last = bytes.len() - 9;
            bytes[last] ^= 1;
            std::fs::write(path, bytes).expect("a damaged copy");
        }
        let mended = ask(&place, &[]);
        assert_eq!((before(&mended), &mended["token_ids"]), (0, &first["token_ids"]));
        assert_eq!(before(&ask(&place, &[])), before(&again));

        place.succeeds(&["cache", "clean"]);
        assert_eq!(place.succeeds(&["cache", "list"])["prefixes"], json!([]));
        // Several questions of a command share it without the cache.
        let both = ["ask", "--document", "text.txt", "--max-tokens", "4", "--no-cache", "why", "how"];
        let both = place.succeeds(&both);
        let answers = both["answers"].as_array().expect("answers");
        assert_eq!([before(&answers[0]), before(&answers[1])], [0, before(&again)]);
        assert_eq!(answers[0]["token_ids"], first["token_ids"]);
    }

    /// What an adapter is checked against takes long to compute, and is noted of a file that is pinned.
    #[test]
    fn what_the_embedding_table_hashes_to_is_noted_of_a_files_content() {
        let place = with_default_decoder();
        let model = std::fs::read(place.path("tiny.gguf")).expect("the model");
        place.file("text.txt", "a text of a few words");
        let ask_tiny = ["ask", "text.txt", "--max-tokens", "4", "why"];
        let answer = place.succeeds(&ask_tiny)["token_ids"].clone();
        let notes = place.path("cache/embeddings");
        assert!(!notes.exists(), "what nobody pins has no name to note it under");
        pin(&place, &model);
        assert_eq!(place.succeeds(&ask_tiny)["token_ids"], answer);
        let note = notes.join(arc_adapters::sha256_hex(&model));
        let manifest = std::fs::read_to_string(place.path("adapter/adapter.json")).expect("the adapter");
        let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
        let noted = std::fs::read_to_string(&note).expect("the note");
        assert_eq!(manifest["decoder"]["embedding_sha256"], noted);

        // It is what counts from then on, and one that is none is written anew.
        std::fs::write(&note, "0".repeat(64)).expect("another note");
        let refusal = place.fails(FAILURE, &ask_tiny);
        refusal.says(&[&"0".repeat(64)[..12]]);
        std::fs::write(&note, "half a no").expect("a broken note");
        assert_eq!(place.succeeds(&ask_tiny)["token_ids"], answer);
        assert_eq!(std::fs::read_to_string(&note).expect("the note"), noted);

        // Another model in the same place has a note of its own, and is not the one of the adapter.
        let mut other = model.clone();
        let values = other.len() - 4 * 8 * tiny::VOCABULARY..;
        other[values].rotate_left(4);
        place.file("tiny.gguf", &other);
        pin(&place, &other);
        place.fails(FAILURE, &ask_tiny);
    }

    #[test]
    fn processes_share_it() {
        let place = with_default_decoder();
        place.file("text.txt", text(600));
        let first = ask(&place, &["--no-cache", "--factor", "4"]);
        let children: Vec<_> = (0..4)
            .map(|_| {
                let ask = ["ask", "text.txt", "--max-tokens", "4", "--factor", "4", "why", "--json"];
                let mut command = place.arc(&ask);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("arc starts")
            })
            .collect();
        for child in children {
            let output = child.wait_with_output().expect("arc ends");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let answer: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
            assert_eq!(answer["token_ids"], first["token_ids"]);
        }
        assert_eq!(place.succeeds(&["cache", "list"])["documents"].as_array().map(Vec::len), Some(1));
    }
}

mod cache_under_change {
    use super::*;

    /// Some ask and some delete, all at once: everybody is answered as if they were alone.
    #[test]
    fn processes_that_ask_and_processes_that_clean_are_in_nobodys_way() {
        let place = with_default_decoder();
        for name in ["a.txt", "b.txt"] {
            place.file(name, format!("{name}: {}", text(500)));
        }
        let ask = |name: &'static str| ["ask", name, "--max-tokens", "4", "--factor", "4", "why"];
        let expected = ["a.txt", "b.txt"].map(|name| place.succeeds(&ask(name))["token_ids"].clone());
        for round in 0..4 {
            let mut asking = Vec::new();
            let mut cleaning = Vec::new();
            for worker in 0..4 {
                let mut command = place.arc(&ask(["a.txt", "b.txt"][worker % 2]));
                // A cache that has room for nothing makes some, too, but for what is in use.
                command.arg("--json").env("ARC_CACHE_LIMIT", ["1", "2GiB"][(worker + round) % 2]);
                asking.push((worker % 2, command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()));
                let mut clean = place.arc(&["cache", "clean"]);
                cleaning.push(clean.stdout(Stdio::null()).stderr(Stdio::piped()).spawn());
            }
            for (which, child) in asking {
                let output = child.expect("arc starts").wait_with_output().expect("arc ends");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let answer: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
                assert_eq!(answer["token_ids"], expected[which]);
            }
            for child in cleaning {
                let output = child.expect("arc starts").wait_with_output().expect("arc ends");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
        }
    }
}

mod conversations {
    use super::*;

    fn chat(place: &Place, arguments: &[&str], typed: &str) -> (String, String) {
        let mut command = place.arc(&[&["chat"], arguments].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("arc starts");
        child.stdin.take().expect("a pipe").write_all(typed.as_bytes()).expect("it is read");
        let output = child.wait_with_output().expect("arc ends");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(output.status.success(), "{stderr}");
        (String::from_utf8(output.stdout).expect("UTF-8"), stderr)
    }

    fn answers(stdout: &str) -> Vec<Value> {
        let lines = stdout.lines().filter(|line| line.starts_with('{'));
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .filter(|o: &Value| o["type"] == "answer")
            .collect()
    }

    #[test]
    fn the_first_answer_is_that_of_ask_and_the_next_goes_on_from_it() {
        let place = with_default_decoder();
        let text = place.file("text.txt", "a text of a few words");
        let asked = place.succeeds(&["ask", &text, "--max-tokens", "6", "why"]);
        let (stdout, _) = chat(&place, &[&text, "--max-tokens", "6", "--json"], "why\nhow\nwhy\n");
        let answers = answers(&stdout);
        assert_eq!(answers.len(), 3);
        assert_eq!(answers[0]["text"], asked["text"]);
        // The document, then what was said: a longer and longer beginning that is not read again.
        let before: Vec<u64> =
            answers.iter().map(|a| a["positions_before"].as_u64().expect("a number")).collect();
        assert!(before.is_sorted() && before[0] < before[1] && before[1] < before[2], "{before:?}");
        let forgotten = chat(&place, &[&text, "--max-tokens", "6", "--json"], "why\n/forget\nwhy\n").0;
        let forgotten = super::conversations::answers(&forgotten);
        assert_eq!(forgotten[1]["text"], forgotten[0]["text"]);
        assert_eq!(forgotten[1]["positions_before"], forgotten[0]["positions_before"]);
    }

    #[test]
    fn commands_do_what_help_says_and_mistakes_end_nothing() {
        let place = with_default_decoder();
        place.file("a.txt", "the first text");
        place.file("b.txt", "and the second");
        place.add_to_registry("[decoders.twin]\nsource = \"file:tiny.gguf\"\nadapter = \"adapter\"\n");
        let typed = "why\n/doc a.txt b.txt\nwhy\n/stats\n/decoder twin\nwhy\n/open-book\nwhy\n/nothing\n/doc none.txt\n\
                     /decoder none\n/save out.json\n/save out.txt\n/help\n/quit\nnever asked\n";
        let (stdout, stderr) = chat(&place, &["--max-tokens", "4"], typed);
        for said in [
            "there is no document",
            "28 tokens in 28 latents",
            "`twin` answers now",
            "the plain text is read",
            "there is no `/nothing`",
            "none.txt",
            "no decoder is called `none`",
            "3 turns saved",
        ] {
            assert!(stderr.contains(said), "no {said:?} in {stderr}");
        }
        assert!(
            stdout.contains("a.txt: 14 tokens, 14 latents in 1 chunks") && stdout.contains("/open-book"),
            "{stdout}"
        );
        let saved = std::fs::read_to_string(place.path("out.json")).expect("it was saved");
        let saved: Value = serde_json::from_str(&saved).expect("JSON");
        let by: Vec<_> =
            saved["answers"].as_array().expect("turns").iter().map(|turn| &turn["decoder"]).collect();
        assert_eq!(by, ["tiny", "twin", "twin"]);
        let text = std::fs::read_to_string(place.path("out.txt")).expect("it was saved");
        assert_eq!(text.matches("> why").count(), 3);
        assert!(!stderr.contains("never asked"));
    }

    #[test]
    fn a_full_window_forgets_the_oldest_turns_and_goes_on() {
        let place = with_default_decoder();
        let text = place.file("text.txt", text(100));
        let typed = "why is this so, and why is it not otherwise?\n".repeat(6);
        let (stdout, stderr) = chat(&place, &[&text, "--max-tokens", "8", "--json"], &typed);
        let answers = answers(&stdout);
        assert_eq!(answers.len(), 6, "{stderr}");
        assert!(stderr.contains("earlier turns are forgotten"), "{stderr}");
        assert!(answers.iter().all(|a| a["positions_before"].as_u64() < Some(u64::from(WINDOW))));
    }
}

mod batches {
    use super::*;

    fn questions(place: &Place, count: usize) -> String {
        let line = |n: usize| format!("{}\n", json!({ "id": n, "question": format!("why {n}") }));
        place.file("questions.jsonl", (0..count).map(line).collect::<String>())
    }

    fn lines(place: &Place, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(place.path(name)).expect("the answers");
        text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
    }

    #[test]
    fn every_question_gets_the_answer_that_it_gets_alone_and_none_twice() {
        let place = with_default_decoder();
        let text = place.file("text.txt", "a text of a few words");
        let file = questions(&place, 7);
        let batch = [
            "ask",
            &text,
            "--questions",
            &file,
            "--out",
            "answers.jsonl",
            "--max-tokens",
            "4",
            "--batch",
            "3",
        ];
        let summary = place.succeeds(&batch);
        assert_eq!((&summary["written"], &summary["there_before"]), (&json!(7), &json!(0)));
        let answers = lines(&place, "answers.jsonl");
        assert_eq!(
            answers.iter().map(|a| a["id"].as_u64()).collect::<Vec<_>>(),
            (0..7).map(Some).collect::<Vec<_>>()
        );
        for n in [0, 3, 6] {
            let alone = place.succeeds(&["ask", &text, "--max-tokens", "4", &format!("why {n}")]);
            assert_eq!(answers[n]["token_ids"], alone["token_ids"], "{n}");
        }

        // As if it had been killed while it wrote: a whole line less, and a half one.
        let whole = std::fs::read_to_string(place.path("answers.jsonl")).expect("the answers");
        let kept: Vec<&str> = whole.lines().take(4).collect();
        place.file("answers.jsonl", format!("{}\n{{\"key\": \"ab", kept.join("\n")));
        let summary = place.succeeds(&batch);
        assert_eq!((&summary["written"], &summary["there_before"]), (&json!(3), &json!(4)));
        assert_eq!(std::fs::read_to_string(place.path("answers.jsonl")).expect("the answers"), whole);
        assert_eq!(place.succeeds(&batch)["written"], 0);
        // Asked otherwise they are other answers.
        assert_eq!(place.succeeds(&[&batch[..], &["--factor", "2"]].concat())["written"], 7);
    }

    #[test]
    fn a_question_may_have_a_document_of_its_own() {
        let place = with_default_decoder();
        let row = |text: &str| format!("{}\n", json!({ "question": "why", "document": text }));
        let file = place.file("q.jsonl", [row("one text"), row("another text"), row("one text")].concat());
        place.succeeds(&["ask", "--questions", &file, "--out", "a.jsonl", "--max-tokens", "4"]);
        let answers = lines(&place, "a.jsonl");
        assert_eq!(answers.len(), 3);
        let text = place.file("text.txt", "another text");
        let alone = place.succeeds(&["ask", &text, "--max-tokens", "4", "why"]);
        assert_eq!(answers[1]["token_ids"], alone["token_ids"]);
        assert_eq!(answers[0]["token_ids"], answers[2]["token_ids"]);
    }

    #[test]
    fn what_is_no_question_and_no_file_of_answers_is_refused() {
        let place = with_default_decoder();
        let text = place.file("text.txt", "a text");
        let ask = |file: &str, out: &str, says: &[&str]| {
            let code = if says[0].starts_with("not every") { USAGE } else { FAILURE };
            let documents: &[&str] = if code == USAGE { &[] } else { &[&text] };
            place
                .fails(code, &[&["ask"], documents, &["--questions", file, "--out", out]].concat())
                .says(says);
        };
        let good = questions(&place, 1);
        ask(&place.file("b.jsonl", "{\"question\": 1}"), "a.jsonl", &["b.jsonl", "line 1"]);
        ask(&place.file("c.jsonl", "{\"question\": \" \"}"), "a.jsonl", &["c.jsonl", "`question` is empty"]);
        ask(&good, "a.jsonl", &["not every question"]);
        let other = place.file("notes.txt", "precious\n");
        ask(&good, &other, &["line 1 of `notes.txt` is no answer"]);
        assert_eq!(std::fs::read_to_string(place.path("notes.txt")).expect("it stays"), "precious\n");
    }

    #[test]
    fn a_folder_is_compressed_into_a_folder_and_gone_on_with() {
        let place = Place::with_encoder();
        place.file("notes/a.txt", "the first note");
        place.file("notes/sub/b.html", "<p>the <b>second</b>");
        place.file("notes/c.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
        let compress = ["compress", "notes", "-o", "out"];
        let made = place.succeeds(&compress);
        let files = ["a.txt", "c.jsonl.1", "c.jsonl.2", "sub/b.html"]
            .map(|name| format!("out/{name}.arc.safetensors"));
        let outputs: Vec<_> =
            made["made"].as_array().expect("files").iter().map(|file| &file["output"]).collect();
        assert_eq!(outputs, files.iter().collect::<Vec<_>>());
        assert_eq!(made["made"][0]["source_tokens"], 14);
        let again = place.succeeds(&compress);
        assert_eq!(
            (again["made"].as_array().map(Vec::len), again["there_before"].as_array().map(Vec::len)),
            (Some(0), Some(4))
        );
        assert_eq!(
            place.succeeds(&[&compress[..], &["--replace"]].concat())["made"].as_array().map(Vec::len),
            Some(4)
        );
        place.fails(USAGE, &["compress", "notes", "-o", LATENTS]).says(&["several documents"]);
    }

    #[test]
    fn latents_go_to_standard_output_and_in_half_the_bytes() {
        let place = with_default_decoder();
        let text = place.file("text.txt", text(120));
        place.succeeds(&["compress", &text, "-o", LATENTS]);
        let (output, ..) = {
            let output = place.arc(&["compress", &text, "-o", "-"]).output().expect("the binary runs");
            (output, ())
        };
        assert!(output.status.success());
        assert_eq!(output.stdout, std::fs::read(place.path(LATENTS)).expect("the file"));
        place.succeeds(&["compress", &text, "-o", "half.arc.safetensors", "--dtype", "f16"]);
        let bytes = |name: &str| std::fs::metadata(place.path(name)).expect("a file").len();
        assert_eq!(bytes(LATENTS) - bytes("half.arc.safetensors"), 120 * 8 * 2);
        let answer =
            |file: &str| place.succeeds(&["ask", file, "--max-tokens", "1", "why"])["latents"].clone();
        assert_eq!(answer("half.arc.safetensors"), answer(LATENTS));
        // Eight values are no block.
        place
            .fails(USAGE, &["compress", &text, "-o", "x.arc.safetensors", "--dtype", "q8"])
            .says(&["`8`", "blocks of 32"]);
        assert!(!place.path("x.arc.safetensors").exists());
    }
}

mod output {
    use super::*;

    #[test]
    fn a_stream_is_text_as_it_comes_then_the_answer_then_a_summary() {
        let place = with_default_decoder();
        let text = place.file("text.txt", "a text of a few words");
        let (stdout, _) = said(&place, &["ask", &text, "--max-tokens", "6", "--stream", "why", "how"]);
        let events: Vec<Value> =
            stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
        let answers = of("answer");
        assert_eq!(answers.len(), 2);
        for (place, answer) in answers.iter().enumerate() {
            let pieces = of("text").into_iter().filter(|event| event["answer"] == place);
            let text: String = pieces.map(|event| event["text"].as_str().expect("a piece")).collect();
            assert_eq!(answer["text"], text.as_str());
        }
        assert_eq!(events.last().expect("a summary")["type"], "summary");
        let (output, stdout, _) =
            run(&mut place.arc(&["ask", &text, "--stream", "--decoder", "none", "why"]));
        assert_eq!(output.status.code(), Some(FAILURE));
        let error: Value = serde_json::from_str(&stdout).expect("one line");
        assert_eq!((&error["type"], &error["error"]["code"]), (&json!("error"), &json!("unknown-name")));
    }

    #[test]
    fn quiet_is_quiet_and_verbose_says_more() {
        let place = with_default_decoder();
        let text = place.file("text.txt", "a text of a few words");
        let ask = ["ask", &text, "--max-tokens", "4", "why"];
        let (plain, stderr) = said(&place, &ask);
        assert!(!stderr.is_empty());
        let (quiet, silence) = said(&place, &[&ask[..], &["-q"]].concat());
        assert_eq!((quiet, silence.as_str()), (plain, ""));
        let (_, verbose) = said(&place, &[&ask[..], &["-v"]].concat());
        for said in
            ["registry: ", "adapter of `tiny`: ", "`tiny` loaded in ", "positions read in", "memory: "]
        {
            assert!(verbose.contains(said), "no {said:?} in {verbose}");
        }
        let (_, fresh) = said(&place, &[&ask[..], &["-v", "--no-cache"]].concat());
        assert!(fresh.contains("encoder `start`: ") && fresh.contains("not in the cache"), "{fresh}");
        let (output, _, stderr) = run(&mut place.arc(&["ask", "--decoder", "none", &text, "why", "-q"]));
        assert!(!output.status.success() && stderr.starts_with("error: "), "failures are said: {stderr}");
    }

    #[test]
    fn completions_and_manual_pages_know_every_command() {
        let place = Place::empty();
        let (help, _) = said(&place, &["--help"]);
        let commands: Vec<&str> = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| line.starts_with("  "))
            // What is wrapped is further in.
            .filter(|line| !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-') && *name != "help")
            .collect();
        assert!(commands.contains(&"chat") && commands.contains(&"check-reference"), "{commands:?}");
        for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
            let (script, _) = said(&place, &["completions", shell]);
            assert!(commands.iter().all(|command| script.contains(command)), "{shell}");
        }
        said(&place, &["man", "pages"]);
        for command in commands {
            let page = std::fs::read_to_string(place.path(&format!("pages/arc-{command}.1")));
            assert!(page.expect("a page").contains(".SH"), "{command}");
        }
    }
}
