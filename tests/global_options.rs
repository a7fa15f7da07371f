//! Options that every command takes mean the same before the command, after it, and on both sides of it.

#[path = "harness/tiny.rs"]
mod tiny;

use serde_json::Value;
use tiny::{Place, USAGE, tiny_llama};

/// The output of a command that should do well.
fn run(place: &Place, arguments: &[&str]) -> String {
    let output = place.arc(arguments).output().expect("the binary runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(place, arguments)).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

#[test]
fn json_before_the_command_is_what_options_that_need_it_see() {
    let place = Place::with_model(&tiny_llama());
    let generate = ["generate", "--decoder", "tiny", "--prompt", "hi", "--max-tokens", "1"];
    for more in [&["--logits", "3"] as &[&str], &["--loss"]] {
        let after = json(&place, &[&generate as &[&str], more, &["--json"]].concat());
        for arguments in [
            [&["--json"] as &[&str], &generate, more].concat(),
            [&["--json"] as &[&str], &generate, more, &["--json"]].concat(),
            [&["--device", "cpu", "--json", "-y"] as &[&str], &generate, more].concat(),
            [&["--device=cpu", "--json"] as &[&str], &generate, more, &["--device", "cpu"]].concat(),
        ] {
            let found = json(&place, &arguments);
            for key in ["prompt_ids", "token_ids", "logits", "loss"] {
                assert_eq!(found[key], after[key], "{arguments:?}: {key}");
            }
        }
        place.arc(&[&generate as &[&str], more].concat()).output().map_or_else(
            |error| panic!("{error}"),
            |output| assert_eq!(output.status.code(), Some(USAGE), "{more:?} without --json"),
        );
    }
}

#[test]
fn registries_of_both_sides_are_read_in_the_order_in_which_they_stand() {
    let place = Place::with_model(&tiny_llama());
    let entry = |name: &str, about: &str| {
        format!("schema = 1\n[decoders.{name}]\nsource = \"file:tiny.gguf\"\ndescription = \"{about}\"\n")
    };
    place.file("a.toml", entry("both", "of a") + "[decoders.a]\nsource = \"file:tiny.gguf\"\n");
    place.file("b.toml", entry("both", "of b") + "[decoders.b]\nsource = \"file:tiny.gguf\"\n");
    let names = |arguments: &[&str]| -> Vec<String> {
        let models = json(&place, arguments);
        let decoders = models["decoders"].as_array().expect("a list").iter();
        decoders
            .map(|entry| format!("{} {}", entry["name"].as_str().unwrap(), entry["description"]))
            .collect()
    };
    let expected = ["a null", "b null", "both \"of b\"", "tiny null"];
    for arguments in [
        &["models", "--registry", "a.toml", "--registry", "b.toml", "--json"] as &[&str],
        &["--registry", "a.toml", "models", "--registry", "b.toml", "--json"],
        &["--registry=a.toml", "--json", "--registry", "b.toml", "models"],
        &["--json", "--registry", "a.toml", "models", "--registry=b.toml"],
    ] {
        assert_eq!(names(arguments), expected, "{arguments:?}");
    }
    let reversed = names(&["--registry", "b.toml", "models", "--json", "--registry", "a.toml"]);
    assert_eq!(reversed[2], "both \"of a\"", "the later one wins");
}

#[test]
fn commands_of_two_words_take_them_in_every_place() {
    let place = Place::with_model(&tiny_llama());
    place.file("a.toml", "schema = 1\n[decoders.a]\nsource = \"file:tiny.gguf\"\n");
    let count = |arguments: &[&str]| json(&place, arguments)["decoders"].as_array().expect("a list").len();
    for arguments in [
        &["adapters", "list", "--json", "--registry", "a.toml"] as &[&str],
        &["adapters", "--json", "list", "--registry", "a.toml"],
        &["--json", "adapters", "--registry", "a.toml", "list"],
        &["--registry", "a.toml", "--json", "adapters", "list"],
    ] {
        assert_eq!(count(arguments), 2, "{arguments:?}");
    }
    // Its subcommand stands in the place of its arguments.
    for arguments in [
        &["data", "prepare", "--json", "eval", "--out", "d"] as &[&str],
        &["--json", "data", "prepare", "eval", "--out", "d"],
    ] {
        place.fails(1, arguments).says(&["`ARC_OFFLINE` is set"]);
    }
}

#[test]
fn a_value_that_is_called_as_a_command_is_a_value() {
    let place = Place::with_model(&tiny_llama());
    place.file("models", "schema = 1\n[decoders.a]\nsource = \"file:tiny.gguf\"\n");
    let found = json(&place, &["--registry", "models", "--json", "models"]);
    assert_eq!(found["decoders"].as_array().expect("a list").len(), 2);
    let prompted = ["--json", "generate", "--decoder", "tiny", "--prompt", "--json", "--max-tokens", "1"];
    place.fails(USAGE, &prompted).says(&["--prompt"]);
}

#[test]
fn a_mistake_before_the_command_is_hinted_at_with_the_command() {
    let place = Place::with_model(&tiny_llama());
    place.fails(USAGE, &["--device", "abacus", "models"]).says(&["abacus"]);
    let refusal = place.fails(USAGE, &["--json", "generate", "--decoder", "tiny"]);
    refusal.says(&["required arguments were not provided"]);
    refusal.hints(&["`arc generate --help`"]);
    // Where a number is wrong, it is the command at hand that says what it takes.
    let senseless = ["generate", "--decoder", "tiny", "--prompt", "a", "--temperature", "-1"];
    place.fails(USAGE, &senseless).hints(&["`arc generate --help`"]);
}
