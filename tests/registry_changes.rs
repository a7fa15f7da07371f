//! Changes to a registry keep what they are not about, take away what was added, and take no longer for many
//! entries than reading them does.

#[path = "harness/tiny.rs"]
mod tiny;

use std::time::{Duration, Instant};

use serde_json::json;
use tiny::{FAILURE, Place, USAGE, tiny_llama};

fn registry(place: &Place) -> String {
    std::fs::read_to_string(place.path("registry.toml")).expect("the registry")
}

#[test]
fn each_line_keeps_its_end() {
    let place = Place::with_encoder();
    let text = registry(&place);
    let lines = |text: &str| (text.matches("\r\n").count(), text.matches('\n').count());

    place.file("registry.toml", text.replace('\n', "\r\n"));
    let before = lines(&registry(&place)).1;
    place.succeeds(&["adapters", "alias", "tiny", "other"]);
    let (with_cr, all) = lines(&registry(&place));
    assert_eq!((with_cr, all), (before + 1, before + 1), "one line more, and all as they were");
    place.succeeds(&["adapters", "add", "--name", "second", "--source", "file:tiny.gguf"]);
    let (with_cr, all) = lines(&registry(&place));
    assert_eq!(with_cr, all);

    // Mixed ends, and no end at all.
    let mixed =
        "schema = 1\r\n# a\n[decoders.a]\nsource = \"file:m\"\r\n\r\n[decoders.b]\r\nsource = \"file:m\"";
    place.file("registry.toml", mixed);
    place.succeeds(&["adapters", "alias", "b", "bb"]);
    place.succeeds(&["adapters", "alias", "--remove", "bb"]);
    let after = registry(&place);
    for line in mixed.split_inclusive('\n').take(6) {
        assert!(after.contains(line), "no {line:?} in {after:?}");
    }
    // A mark that some editors begin a file with.
    place.file("registry.toml", format!("\u{feff}{text}"));
    place.succeeds(&["adapters", "alias", "tiny", "other"]);
    assert!(registry(&place).starts_with("\u{feff}schema"), "{:?}", &registry(&place)[..20]);
}

#[test]
fn an_encoder_that_was_added_is_removed_by_name_or_alias() {
    let place = Place::with_adapter();
    let before = registry(&place);
    place.succeeds(&["adapters", "add", "encoder", "--name", "again"]);
    let removed = place.succeeds(&["adapters", "remove", "again"]);
    assert_eq!((&removed["encoder"], &removed["default"]), (&json!("again"), &json!(false)));
    assert_eq!(registry(&place), before);

    // The default, by an alias, while a decoder names it.
    let text = before.replace("[encoders.start]\n", "[encoders.start]\naliases = [\"s\"]\n");
    let text = text.replace("default_encoder = \"start\"", "default_encoder = \"s\"");
    let source = "source = \"file:tiny.gguf\"\n";
    place.file("registry.toml", text.replace(source, &format!("{source}encoder = \"start\"\n")));
    let output = place.arc(&["adapters", "remove", "s"]).output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("warning: decoder `tiny` names encoder `start`"), "{stderr}");
    let after = registry(&place);
    assert!(!after.contains("encoders.start") && !after.contains("default_encoder"), "{after}");
    assert!(place.path("encoder/encoder.json").exists(), "no files are deleted");
}

#[test]
fn an_encoder_gets_another_name_and_loses_it() {
    let place = Place::with_adapter();
    let before = registry(&place);
    place.succeeds(&["adapters", "alias", "start", "begin"]);
    assert!(registry(&place).contains("aliases = [\"begin\"]"), "{}", registry(&place));
    place.file("document.txt", "a river of stone");
    let compressed = |encoder: &str| {
        place.succeeds(&[
            "compress",
            "document.txt",
            "--encoder",
            encoder,
            "-o",
            "l.arc.safetensors",
            "--replace",
        ]);
        std::fs::read(place.path("l.arc.safetensors")).expect("latents")
    };
    assert_eq!(compressed("begin"), compressed("start"));
    place.succeeds(&["adapters", "alias", "--remove", "begin"]);
    let gone = ["compress", "document.txt", "--encoder", "begin", "-o", "no.arc.safetensors"];
    place.fails(FAILURE, &gone).says(&["`begin`"]);
    assert_eq!(registry(&place).replace("aliases = []\n", ""), before);
}

#[test]
fn a_name_of_both_kinds_is_not_guessed_at() {
    let place = Place::with_encoder();
    place.succeeds(&["adapters", "add", "encoder", "--name", "tiny"]);
    let before = registry(&place);
    let refusal = place.fails(USAGE, &["adapters", "remove", "tiny"]);
    refusal.says(&["names a decoder and an encoder"]);
    refusal.hints(&["--decoder", "--encoder"]);
    assert_eq!(registry(&place), before);
    place.succeeds(&["adapters", "remove", "tiny", "--encoder"]);
    assert!(registry(&place).contains("[decoders.tiny]"));
    place.succeeds(&["adapters", "remove", "tiny"]);
    assert!(!registry(&place).contains("[decoders.tiny]"));
    let refusal = place.fails(FAILURE, &["adapters", "remove", "strat"]);
    refusal.says(&["no decoder or encoder is called `strat`", "`start`"]);
    place
        .fails(USAGE, &["adapters", "remove", "start", "--encoder", "--adapter-only"])
        .says(&["cannot be used"]);
}

#[test]
fn hints_name_the_command_at_hand() {
    let place = Place::with_adapter();
    for arguments in [
        &["generate", "--decoder", "tiny", "--prompt", "x", "--top-p", "7"] as &[&str],
        &["train", "none.toml", "--out", "x", "--processes", "0"],
        &["adapters", "verify", "--none"],
    ] {
        let refusal = place.fails(USAGE, arguments);
        assert!(!refusal.hint.contains("COMMAND"), "{}", refusal.hint);
    }
}

#[test]
fn ten_thousand_entries_are_examined_about_as_fast_as_they_are_listed() {
    let place = Place::with_adapter();
    let text = registry(&place);
    let entries: String = (0..10_000)
        .map(|number| format!("[decoders.d{number}]\nsource = \"file:tiny.gguf\"\nadapter = \"adapter\"\n"))
        .collect();
    place.file("registry.toml", text + &entries);
    let timed = |arguments: &[&str]| -> Duration {
        let start = Instant::now();
        let output = place.arc(arguments).output().expect("the binary runs");
        assert!(
            output.status.code().is_some_and(|code| code < 2),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        start.elapsed()
    };
    let listed = timed(&["adapters", "list"]);
    let examined = timed(&["adapters", "doctor"]);
    // Reading one adapter and one model ten thousand times took forty seconds and more.
    assert!(examined < Duration::from_secs(8).max(12 * listed), "{examined:?}, listing takes {listed:?}");
}

#[test]
fn what_was_allowed_is_not_warned_of() {
    // Without a compiler there is no plugin to add.
    let place = Place::with_model(&tiny_llama());
    place.file("plugin.so", "no library");
    let add = ["adapters", "add", "plugin.so", "--name", "tiny"];
    place.fails(FAILURE, &add).says(&["code plugins are not allowed"]);
    let refusal = place.fails(FAILURE, &[&add as &[&str], &["--allow-plugins"]].concat());
    assert!(!refusal.message.contains("not allowed"), "{}", refusal.message);
}

#[test]
fn files_are_deleted_where_that_is_asked_for_and_nobody_else_names_them() {
    let place = Place::with_adapter();
    place.add_to_registry("[decoders.twin]\nsource = \"file:tiny.gguf\"\nadapter = \"adapter\"\n");
    let remove =
        |more: &[&str]| place.succeeds(&[&["adapters", "remove"], more, &["--delete-files"]].concat());
    let count = |list: &serde_json::Value| list.as_array().expect("a list").len();
    let removed = remove(&["twin"]);
    assert_eq!((count(&removed["files_deleted"]), count(&removed["files_left"])), (0, 1), "tiny names it");
    place.succeeds(&["adapters", "verify", "tiny"]);
    // Somebody's notes stay, and the folder with them.
    place.file("adapter/notes.txt", "mine");
    let removed = remove(&["tiny", "--adapter-only"]);
    assert_eq!((count(&removed["files_deleted"]), count(&removed["files_left"])), (0, 1));
    let left: Vec<_> =
        std::fs::read_dir(place.path("adapter")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["notes.txt"]);
    let removed = remove(&["start"]);
    assert_eq!((count(&removed["files_deleted"]), count(&removed["files_left"])), (1, 0));
    assert!(!place.path("encoder").exists());
    // A model is no file of an adapter.
    remove(&["tiny"]);
    assert!(place.path("tiny.gguf").exists());
}

#[test]
fn what_was_pulled_is_deleted_and_its_entry_stays() {
    let place = Place::with_adapter();
    place.add_to_registry("[decoders.far]\naliases = [\"f\"]\nsource = \"pip:far==1#far/far.gguf\"\n");
    for name in ["far", "gone-from-registries"] {
        place.file(&format!("cache/models/{name}/{name}.gguf"), "pulled");
    }
    // Nothing is deleted where one of the names is wrong.
    place.fails(USAGE, &["models", "remove", "far", "fra"]).says(&["`fra` is not in the cache"]);
    let removed = place.succeeds(&["models", "remove", "f", "gone-from-registries"]);
    assert_eq!(removed["removed"][0], serde_json::json!({ "name": "far", "bytes": 6 }));
    assert!(
        !place.path("cache/models/far").exists() && !place.path("cache/models/gone-from-registries").exists()
    );
    let refusal = place.fails(USAGE, &["models", "remove", "far"]);
    refusal.hints(&["nothing was pulled"]);
    place.fails(USAGE, &["models", "remove", "tiny"]).says(&["was not pulled"]);
    let models = place.succeeds(&["models"]);
    assert!(models["decoders"].as_array().unwrap().iter().any(|entry| entry["name"] == "far"));
}
