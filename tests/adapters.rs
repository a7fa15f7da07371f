//! `arc adapters`, and what adapters do to the other commands, through the binary.

#[path = "harness/tiny.rs"]
mod tiny;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use arc_adapters::{
    Adapter, AdapterManifest, AdapterPackage, AdapterTensor, PluginEntry, PluginPolicy, ProjectorLayer,
    ProjectorSpec, WeightType, WeightsFile, sha256_file,
};
use arc_core::device::DeviceName;
use arc_core::projector::Projector;
use burn::tensor::Tensor;
use serde_json::Value;
use tiny::{FAILURE, Place, Refusal, USAGE, WIDTH, tiny_llama};

fn names(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|entry| entry["name"].as_str().expect("a name")).collect()
}

/// Runs a command that prints its result and then fails because of what the result is.
fn finds_fault(place: &Place, arguments: &[&str]) -> (Value, String) {
    let output = place.arc(arguments).arg("--json").output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(FAILURE), "{stderr}");
    tiny::recorded::record(arguments, &output.stdout);
    (serde_json::from_slice(&output.stdout).expect("one JSON object"), stderr)
}

fn ask(decoder: &str) -> [&str; 8] {
    ["ask", "--decoder", decoder, "--document", "text.txt", "--max-tokens", "6", "why"]
}

/// The answer of a decoder about a text.
fn answer(place: &Place, decoder: &str, flags: &[&str]) -> Value {
    place.file("text.txt", "a text of a few words");
    place.succeeds(&[&ask(decoder), flags].concat())["token_ids"].clone()
}

mod list {
    use super::*;

    #[test]
    fn each_entry_is_shown_with_the_file_that_it_comes_from() {
        let place = Place::with_adapter();
        place.file(
            "mine/registry.toml",
            "schema = 1\n[decoders.tiny]\naliases = ['t']\nsource = 'file:../tiny.gguf'\n\
             [decoders.other]\nsource = 'file:o.gguf'\n",
        );
        let list = place.succeeds(&["adapters", "list", "--registry", "mine/registry.toml"]);
        assert_eq!(names(&list["decoders"]), ["other", "tiny"]);
        let tiny = &list["decoders"][1];
        assert_eq!(tiny["origin"], "mine/registry.toml");
        let replaced = tiny["replaces"][0].as_str().expect("a path");
        assert!(Path::new(replaced).ends_with("registry.toml") && replaced != "mine/registry.toml");
        assert_eq!(list["encoders"][0]["default"], true);
        assert_eq!(list["registries"].as_array().expect("a list").len(), 2);

        let text = place.arc(&["adapters", "list"]).output().expect("the binary runs");
        let text = String::from_utf8(text.stdout).expect("UTF-8");
        let line = text.lines().find(|line| line.contains("tiny")).expect("its line");
        assert!(line.contains("package adapter") && line.contains("registry.toml"), "{text}");
    }

    #[test]
    fn the_projects_own_registry_named_on_the_command_line_is_read_once() {
        let place = Place::with_adapter();
        let list = place.succeeds(&["adapters", "list", "--registry", "registry.toml"]);
        assert_eq!(list["decoders"][0]["replaces"], serde_json::json!([]));
    }
}

mod inspect_and_verify {
    use super::*;

    #[test]
    fn an_adapter_is_described_alike_by_name_by_folder_and_in_its_archive() {
        let place = Place::with_adapter();
        place.succeeds(&["adapters", "pack", "tiny"]);
        let by_name = place.succeeds(&["adapters", "inspect", "tiny"]);
        assert_eq!(by_name["n_parameters"], 2 * WIDTH * WIDTH + 3 * WIDTH);
        assert_eq!(by_name["tensors"][0]["shape"], serde_json::json!([WIDTH]));
        assert_eq!(by_name["tensors"][1]["shape"], serde_json::json!([WIDTH, WIDTH]));
        for other in ["./adapter", "tiny.arc.tar.zst"] {
            let mut described = place.succeeds(&["adapters", "inspect", other]);
            described["origin"] = by_name["origin"].clone();
            // A name alone resolves to it for a reason.
            described["why"] = by_name["why"].clone();
            assert_eq!(described, by_name, "{other}");
        }
        place.fails(FAILURE, &["adapters", "inspect", "tinny"]).says(&["`tinny`", "`tiny`"]);
    }

    #[test]
    fn a_fitted_adapter_passes_every_check_with_its_model() {
        let place = Place::with_adapter();
        for adapter in [&["tiny"] as &[&str], &["./adapter"], &[]] {
            let verified = place.succeeds(&[&["adapters", "verify"], adapter].concat());
            assert_eq!(verified["passed"], true);
            let checks = verified["adapters"][0]["checks"].as_array().expect("checks").clone();
            let pins =
                checks.iter().find(|check| check["what"].as_str().expect("text").contains("tokenizer"));
            assert_eq!(pins.expect("the check of the pins")["outcome"], "passed");
        }
    }

    #[test]
    fn a_changed_weight_and_another_model_fail_the_check_that_is_about_them() {
        let place = Place::with_adapter();
        let weights = place.path("adapter/adapter.safetensors");
        let whole = std::fs::read(&weights).expect("the weights");
        let mut changed = whole.clone();
        *changed.last_mut().expect("a byte") ^= 1;
        std::fs::write(&weights, changed).expect("changed weights");
        let (verified, stderr) = finds_fault(&place, &["adapters", "verify", "tiny"]);
        assert_eq!(verified["passed"], false);
        assert_eq!(verified["adapters"][0]["checks"][0]["outcome"], "failed");
        assert!(stderr.contains("checks failed"), "{stderr}");

        std::fs::write(&weights, whole).expect("the weights again");
        let mut other = tiny_llama();
        other.seed += 1;
        place.file("tiny.gguf", other.to_bytes());
        let (verified, _) = finds_fault(&place, &["adapters", "verify", "tiny"]);
        let checks = verified["adapters"][0]["checks"].as_array().expect("checks");
        let failed: Vec<_> = checks.iter().filter(|check| check["outcome"] == "failed").collect();
        assert_eq!(failed.len(), 1, "{checks:?}");
        assert!(failed[0]["message"].as_str().expect("a message").contains("embedding table"));
    }
}

/// What a package is held against that no entry names, and prompts that cannot be made.
mod made_for {
    use super::*;

    /// What a command has checked with this outcome.
    fn checks<'a>(verified: &'a Value, outcome: &str) -> Vec<&'a str> {
        let checks = verified["adapters"][0]["checks"].as_array().expect("checks");
        let with_outcome = checks.iter().filter(|check| check["outcome"] == outcome);
        with_outcome.map(|check| check["what"].as_str().expect("text")).collect()
    }

    const PINS: &str = "adapter: embedding table and tokenizer are the model's";

    #[test]
    fn a_folder_is_held_against_the_encoder_and_the_decoder_that_are_here() {
        let place = Place::with_adapter();
        let verify = ["adapters", "verify", "./adapter"];
        let sound = place.succeeds(&verify);
        for what in ["adapter: prompt template", "adapter: made for encoder `start`", PINS] {
            assert!(checks(&sound, "passed").contains(&what), "{what}: {sound}");
        }
        // An encoder is known by its identity, whatever it is called.
        pins::change(&place, "\"name\": \"start\"", "\"name\": \"far\"");
        assert!(checks(&place.succeeds(&verify), "passed").contains(&"adapter: made for encoder `start`"));
        let zeros = "0".repeat(64);
        pins::change(&place, &place.encoder_id(), &zeros);
        assert_eq!(checks(&place.succeeds(&verify), "skipped"), ["adapter: made for an encoder"]);
        pins::change(&place, "\"name\": \"far\"", "\"name\": \"start\"");
        let (wrong, _) = finds_fault(&place, &verify);
        assert_eq!(checks(&wrong, "failed"), ["adapter: made for encoder `start`"]);

        pins::change(&place, &zeros, &place.encoder_id());
        let decoder = "\"name\": \"tiny\",\n    \"architecture\"";
        pins::change(&place, decoder, &decoder.replace("tiny", "none"));
        assert_eq!(checks(&place.succeeds(&verify), "skipped"), [PINS]);
        // Nothing is known where there is no registry, and that is said.
        std::fs::remove_file(place.path("registry.toml")).expect("it is removed");
        assert_eq!(checks(&place.succeeds(&verify), "skipped"), ["adapter: made for an encoder", PINS]);
    }

    #[test]
    fn a_prompt_that_cannot_be_made_is_found_before_it_is_asked_with() {
        let place = Place::with_adapter();
        place.file("text.txt", "a text");
        let manifest = std::fs::read_to_string(place.path("adapter/adapter.json")).expect("the manifest");
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        for (broken, says) in
            [("{% for", "template failed"), ("{{ doc }}", "undefined"), ("no place", "0 times")]
        {
            place.file("adapter/adapter.json", &manifest);
            pins::change(&place, "{{ document }}", broken);
            for adapter in ["./adapter", "tiny"] {
                let (verified, _) = finds_fault(&place, &["adapters", "verify", adapter]);
                assert_eq!(checks(&verified, "failed"), ["adapter: prompt template"], "{broken}");
                assert!(verified.to_string().contains(says), "{verified}");
            }
            let (examined, _) = finds_fault(&place, &["adapters", "doctor"]);
            assert_eq!(examined["findings"][0]["likelihood"], "likely");
            assert!(examined["findings"][0]["problem"].as_str().expect("text").contains(says), "{examined}");
            for force in [&[] as &[&str], &["--force"]] {
                let add = [&["adapters", "add", "adapter", "--replace"], force].concat();
                let refusal = place.fails(FAILURE, &add);
                refusal.says(&["adapter `tiny`", says]);
                refusal.hints(&["`prompt_template`", "adapter.json"]);
            }
            place.fails(FAILURE, &ask("tiny")).says(&[says]);
        }
        assert_eq!(std::fs::read_to_string(place.path("registry.toml")).expect("the registry"), registry);

        place.file("adapter/adapter.json", &manifest);
        let options = "options = { prompt_template = '{% for' }\n[encoders";
        place.file("registry.toml", registry.replacen("[encoders", options, 1));
        let (verified, _) = finds_fault(&place, &["adapters", "verify"]);
        assert_eq!(checks(&verified, "failed"), ["options: prompt template"]);
        let (examined, _) = finds_fault(&place, &["adapters", "doctor"]);
        let finding = &examined["findings"][0];
        assert!(
            finding["problem"].as_str().expect("text").contains("`options` of decoder `tiny`"),
            "{finding}"
        );
        assert!(finding["hint"].as_str().expect("text").contains("registry.toml"), "{finding}");
    }
}

/// The registry of this repository, as a clean clone has it: published encoders and decoders are only
/// described, and nothing was pulled or imported.
mod this_repository {
    use super::*;

    fn arc(arguments: &[&str]) -> Value {
        let registry = Path::new(env!("CARGO_MANIFEST_DIR")).join("registry.toml").display().to_string();
        Place::empty().succeeds(&[arguments, &["--registry", &registry]].concat())
    }

    #[test]
    fn nothing_is_wrong_with_a_clean_clone() {
        let sound = arc(&["adapters", "doctor"]);
        assert_eq!(sound["sound"], true, "{sound}");
        let findings = sound["findings"].as_array().expect("a list");
        let about = |name: &str, hint: &str| {
            findings.iter().any(|finding| {
                finding["subject"].as_str().is_some_and(|subject| subject.contains(name))
                    && finding["hint"].as_str().is_some_and(|text| text.contains(hint))
            })
        };
        assert!(about("decoder `llama-3.1-8b`", "arc import --name arc8-llama"), "{findings:?}");
        assert!(about("decoder `llama-3.1-8b` with encoder `arc8-multi`", "arc import"), "{findings:?}");
        assert!(about("decoder `smollm2-135m`", "arc pull"), "{findings:?}");
        let verified = arc(&["adapters", "verify"]);
        assert_eq!(verified["passed"], true, "{verified}");
    }

    #[test]
    fn an_adapter_that_was_not_imported_is_described() {
        let inspected = arc(&["adapters", "inspect", "llama-3.1-8b"]);
        assert_eq!(inspected["imported"], false);
        let tensors = inspected["tensors"].as_array().expect("tensors");
        let shape =
            |name: &str| &tensors.iter().find(|tensor| tensor["name"] == name).expect("its tensor")["shape"];
        assert_eq!(*shape("projector.0.weight"), serde_json::json!([2048, 3072]));
        assert_eq!(*shape("projector.1.weight"), serde_json::json!([4096, 2048]));
        assert_eq!(*shape("tokens.cont"), serde_json::json!([3072]));
        let other = inspected["adapters"]["arc8-multi"].as_str().expect("a folder");
        assert!(Path::new(other).ends_with("plugins/arc8-multi/llama-3.1-8b"));
    }
}

mod changes {
    use super::*;

    #[test]
    fn a_decoder_has_adapters_for_several_encoders() {
        let place = Place::with_adapter();
        place.encoder("other", 32);
        let new = ["adapters", "new", "second", "--decoder", "tiny", "--encoder", "other"];
        place.succeeds(&new);
        place.fails(FAILURE, &["adapters", "add", "second", "--for-encoder", "othr"]).says(&["`other`"]);
        let add = ["adapters", "add", "second", "--for-encoder", "other"];
        assert_eq!(place.succeeds(&add)["warnings"], serde_json::json!([]));
        place.fails(FAILURE, &add).says(&["`tiny` has an adapter for encoder `other` already"]);
        place.succeeds(&[&add[..], &["--replace"]].concat());

        let listed = place.succeeds(&["adapters", "list"])["decoders"][0].clone();
        let folder = |path: &Value| Path::new(path.as_str().expect("a path")).to_owned();
        assert!(folder(&listed["adapters"]["other"]).ends_with("second"), "{listed}");
        assert!(folder(&listed["adapter"]).ends_with("adapter"), "the usual one stays: {listed}");
        assert_eq!(listed["encoder"], "start");
        let inspected = place.succeeds(&["adapters", "inspect", "tiny"]);
        assert!(folder(&inspected["adapters"]["other"]).ends_with("second"));
        let verified = place.succeeds(&["adapters", "verify"]).to_string();
        assert!(verified.contains("adapter for encoder `other`: made for this encoder"), "{verified}");

        assert_ne!(answer(&place, "tiny", &["--encoder", "other"]), answer(&place, "tiny", &[]));
        // What is there is pinned, and what the registry names is missed when it is not there.
        std::fs::remove_dir_all(place.path("second")).expect("it is removed");
        let (found, _) = finds_fault(&place, &["adapters", "doctor"]);
        assert!(found.to_string().contains("decoder `tiny` with encoder `other`"), "{found}");
    }

    #[test]
    fn a_packed_adapter_is_added_elsewhere_and_answers_the_same() {
        let (maker, user) = (Place::with_adapter(), Place::with_encoder());
        let packed = maker.succeeds(&["adapters", "pack", "adapter/"]);
        assert_eq!(packed["sha256"], sha256_file(&maker.path("tiny.arc.tar.zst")).expect("its hash"));
        let archive = maker.path("tiny.arc.tar.zst").display().to_string();
        user.fails(FAILURE, &["adapters", "add", &archive, "--sha256", &"0".repeat(64)]).says(&["pinned"]);
        assert!(!user.path("plugins").exists());
        let added = user.succeeds(&["adapters", "add", &archive]);
        assert_eq!((&added["decoder"], &added["sha256"]), (&Value::from("tiny"), &packed["sha256"]));
        assert_eq!(added["warnings"], serde_json::json!([]));
        let registry = std::fs::read_to_string(user.path("registry.toml")).expect("the registry");
        assert!(registry.contains("adapter = \"plugins/tiny\""), "{registry}");
        assert_eq!(answer(&user, "tiny", &[]), answer(&maker, "tiny", &[]));
    }

    #[test]
    fn an_adapter_is_replaced_only_when_asked_to() {
        let place = Place::with_adapter();
        place.succeeds(&["adapters", "new", "fresh", "--decoder", "tiny"]);
        let refusal = place.fails(FAILURE, &["adapters", "add", "fresh"]);
        refusal.says(&["`tiny` has an adapter already"]);
        refusal.hints(&["--replace", "--name"]);
        place.succeeds(&["adapters", "add", "fresh", "--replace"]);
        assert_eq!(place.succeeds(&["adapters", "inspect", "tiny"])["manifest"]["name"], "fresh");

        // The same for an archive whose folder is there: the old one goes only if the new one is in.
        place.succeeds(&["adapters", "pack", "fresh"]);
        place.succeeds(&["adapters", "add", "fresh.arc.tar.zst", "--name", "second"]);
        let again = ["adapters", "add", "fresh.arc.tar.zst", "--name", "second"];
        let refusal = place.fails(FAILURE, &again);
        refusal.says(&["`", "plugins/second` exists already"]);
        refusal.hints(&["--into", "--name"]);
        let zeros = "0".repeat(64);
        let wrong_pin = [&again[..], &["--replace", "--sha256", &zeros]].concat();
        place.fails(FAILURE, &wrong_pin).says(&["pinned"]);
        Adapter::open(&place.path("plugins/second")).expect("the package is as it was");
        place.succeeds(&[&again[..], &["--replace"]].concat());
        let left: Vec<_> = std::fs::read_dir(place.path("plugins")).expect("the folder").collect();
        assert_eq!(left.len(), 1, "nothing else is left behind: {left:?}");
        // A folder that is more than a package, as a plugin's crate is, is not replaced.
        place.file("plugins/second/src/lib.rs", "// somebody's work");
        let refusal = place.fails(FAILURE, &[&again[..], &["--replace"]].concat());
        refusal.says(&["plugins/second` holds something else than an adapter package"]);
        refusal.hints(&["`--into DIR`"]);
        assert!(place.path("plugins/second/src/lib.rs").exists());
    }

    #[test]
    fn an_archive_is_unpacked_under_the_name_of_its_decoder() {
        let place = Place::with_adapter();
        place.succeeds(&["adapters", "pack", "tiny"]);
        // What lies there belongs to somebody.
        place.file("plugins/tiny/README.md", "a plugin's crate");
        let add = ["adapters", "add", "tiny.arc.tar.zst"];
        let into = [&add[..], &["--replace", "--into", "mine"]].concat();
        let refusal = place.fails(FAILURE, &add);
        refusal.says(&["plugins/tiny` exists already"]);
        refusal.hints(&["`--into DIR`", "`--name NAME`"]);
        // The hint helps.
        place.succeeds(&into);
        assert!(place.path("mine/tiny/adapter.json").exists());
        place.succeeds(&[&add[..], &["--name", "second"]].concat());
        assert!(place.path("plugins/second/adapter.json").exists());
        assert_eq!(answer(&place, "second", &[]), answer(&place, "tiny", &[]));
        let listed = std::fs::read_dir(place.path("plugins/tiny")).expect("the folder").count();
        assert_eq!(listed, 1, "it is as it was");
    }

    #[test]
    fn what_does_not_fit_replaces_nothing_unless_forced() {
        let place = Place::with_adapter();
        let mut other = tiny_llama();
        other.seed += 1;
        place.file("other.gguf", other.to_bytes());
        place.add_to_registry(
            "[decoders.other]\nsource = \"file:other.gguf\"\n\
             [decoders.gemma]\narchitecture = \"gemma3\"\nsource = \"file:gone.gguf\"\n",
        );
        place.encoder("second", 32);
        let new = |name: &str, decoder: &str, encoder: &str| {
            place.succeeds(&["adapters", "new", name, "--decoder", decoder, "--encoder", encoder]);
        };
        new("fresh", "tiny", "start");
        new("for-second", "tiny", "second");
        new("working", "other", "start");
        assert_eq!(place.succeeds(&["adapters", "add", "working"])["warnings"], serde_json::json!([]));
        place.succeeds(&["adapters", "pack", "fresh/"]);

        let registry = || std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        let before = registry();
        let replace = ["--name", "other", "--replace"];
        for (adapter, flags, says, hint) in [
            ("fresh", &replace as &[&str], "embedding table", "--force"),
            ("fresh", &["--name", "gemma"], "architecture `llama`", "--force"),
            ("fresh.arc.tar.zst", &["--name", "gemma"], "architecture `llama`", "--name"),
            ("for-second", &["--replace"], "encoder", "--for-encoder second"),
            ("fresh", &["--for-encoder", "second"], "encoder", "--for-encoder start"),
        ] {
            let refusal = place.fails(FAILURE, &[&["adapters", "add", adapter], flags].concat());
            refusal.says(&["adapter `", says]);
            refusal.hints(&[hint]);
            assert_eq!(registry(), before, "{adapter} {flags:?}");
        }
        assert!(!place.path("plugins/gemma").exists());

        // Whoever insists is told what, and not to do what was done.
        let forced = place.succeeds(&[&["adapters", "add", "fresh"], &replace[..], &["--force"]].concat());
        let warnings = forced["warnings"].as_array().expect("a list");
        let warning = warnings[0].as_str().expect("text");
        assert!(warnings.len() == 1 && warning.contains("embedding table"), "{forced}");
        assert!(warning.ends_with("added all the same") && !warning.contains("--force"), "{forced}");
    }

    #[test]
    fn an_adapter_for_an_encoder_that_is_not_here_is_added_with_a_remark() {
        let place = Place::with_adapter();
        place.encoder("far", 32);
        place.succeeds(&["adapters", "new", "fresh", "--decoder", "tiny", "--encoder", "far"]);
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        place.file("registry.toml", registry.replace("[encoders.far]\npackage = \"encoder-far\"\n", ""));
        let added = place.succeeds(&["adapters", "add", "fresh", "--name", "second"]);
        let warnings = added["warnings"].as_array().expect("a list");
        assert_eq!(warnings.len(), 1, "{added}");
        assert!(warnings[0].as_str().expect("text").contains("no encoder here is called `far`"), "{added}");
    }

    #[test]
    fn what_cannot_be_a_name_is_a_mistake_in_the_command_line() {
        let place = Place::with_adapter();
        for arguments in [
            &["adapters", "alias", "tiny", "a b"] as &[&str],
            &["adapters", "new", "a b", "--decoder", "tiny"],
            &["adapters", "add", "adapter", "--name", "a b"],
            &["adapters", "add", "--name", "x", "--source", "file:tiny.gguf", "--alias", "a b"],
        ] {
            let refusal = place.fails(USAGE, arguments);
            refusal.says(&["`a b`", "letters, digits"]);
            assert!(!refusal.message.contains("not a valid"), "{}", refusal.message);
        }
    }

    #[test]
    fn two_adapters_of_one_model_have_two_names_and_the_same_latents() {
        let place = Place::with_adapter();
        place.succeeds(&["adapters", "new", "fresh", "--decoder", "tiny"]);
        place.succeeds(&["adapters", "add", "fresh", "--name", "tiny-fresh"]);
        place.file("text.txt", "a text of a few words");
        let both = place.succeeds(&ask("tiny,tiny-fresh"));
        let ids = |i: usize| both["answers"][i]["token_ids"].clone();
        assert_ne!(ids(0), ids(1), "random weights say something else");
        assert_eq!(ids(0), answer(&place, "tiny", &[]));
    }

    #[test]
    fn a_decoder_is_added_by_its_source_and_comments_survive() {
        let place = Place::with_encoder();
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        place.file("registry.toml", registry.replace("[decoders.tiny]", "# the only one\n[decoders.tiny]"));
        let sha256 = sha256_file(&place.path("tiny.gguf")).expect("its hash");
        let add =
            ["adapters", "add", "--name", "copy", "--source", "file:tiny.gguf", "--model-sha256", &sha256];
        place.succeeds(&[&add[..], &["--alias", "c"]].concat());
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        assert!(registry.contains("# the only one\n[decoders.tiny]"), "{registry}");
        place.succeeds(&["generate", "--decoder", "c", "--prompt", "x", "--max-tokens", "1"]);
        let refusal = place.fails(FAILURE, &add);
        refusal.says(&["`copy` already names a decoder"]);
        refusal.hints(&["choose another name"]);
        place.fails(USAGE, &["adapters", "add", "--source", "file:x"]);
        place.fails(USAGE, &["adapters", "add", "x", "--source", "ftp:x"]);
        place.fails(USAGE, &["adapters", "add", "x", "--sha256", "abc"]);
    }

    #[test]
    fn the_file_that_is_changed_is_the_one_that_was_named() {
        let place = Place::with_adapter();
        let before = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        place.succeeds(&["adapters", "new", "fresh", "--decoder", "tiny"]);
        place.succeeds(&["adapters", "add", "fresh", "--name", "mine", "--user"]);
        place.succeeds(&["adapters", "add", "fresh", "--name", "other", "--registry", "new/registry.toml"]);
        assert_eq!(std::fs::read_to_string(place.path("registry.toml")).expect("the registry"), before);
        assert_eq!(names(&place.succeeds(&["adapters", "list"])["decoders"]), ["mine", "tiny"]);
        let with_new = ["adapters", "list", "--registry", "new/registry.toml"];
        assert_eq!(names(&place.succeeds(&with_new)["decoders"]), ["mine", "other", "tiny"]);
        // Both name the folder and the model wherever they lie themselves.
        answer(&place, "mine", &[]);
        answer(&place, "other", &["--registry", "new/registry.toml"]);

        let refusal = place.fails(FAILURE, &["adapters", "remove", "mine"]);
        refusal.says(&["`mine` is defined in"]);
        refusal.hints(&["--user"]);
        place.succeeds(&["adapters", "remove", "mine", "--user"]);
        assert_eq!(names(&place.succeeds(&["adapters", "list"])["decoders"]), ["tiny"]);
    }

    #[test]
    fn in_an_empty_folder_a_registry_is_begun() {
        let place = Place::with_adapter();
        let folder = place.path("empty");
        std::fs::create_dir(&folder).expect("a folder");
        let arc = |arguments: &[&str]| {
            let mut command = place.arc(arguments);
            // Above it is the place's own registry, which must not be found.
            let output = command.current_dir(&folder).arg("--json").output().expect("the binary runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        std::fs::rename(place.path("registry.toml"), place.path("r.toml")).expect("renamed");
        arc(&["adapters", "add", "--name", "tiny", "--source", "file:../tiny.gguf"]);
        arc(&["adapters", "add", "../encoder"]);
        arc(&["adapters", "add", "../adapter"]);
        std::fs::write(folder.join("text.txt"), "a text").expect("a text");
        arc(&ask("tiny"));
    }

    #[test]
    fn aliases_and_entries_come_and_go() {
        let place = Place::with_adapter();
        let aliased = place.succeeds(&["adapters", "alias", "tiny", "small"]);
        assert_eq!(aliased["aliases"], serde_json::json!(["small"]));
        assert_eq!(answer(&place, "small", &[]), answer(&place, "tiny", &[]));
        let refusal = place.fails(FAILURE, &["adapters", "alias", "tiny", "small"]);
        refusal.says(&["`small` already names this decoder, `tiny`"]);
        refusal.hints(&["nothing to do"]);
        place.fails(USAGE, &["adapters", "alias", "tiny", "../x"]).says(&["../x"]);
        place.succeeds(&["adapters", "alias", "--remove", "small"]);
        place.fails(FAILURE, &["adapters", "inspect", "small"]).says(&["no decoder is called `small`"]);

        place.succeeds(&["adapters", "remove", "tiny", "--adapter-only"]);
        place.file("text.txt", "a text");
        place.fails(FAILURE, &ask("tiny")).hints(&["arc fit --decoder tiny"]);
        assert!(place.path("adapter/adapter.json").exists(), "files are the user's");
        place.succeeds(&["adapters", "remove", "tiny"]);
        assert!(names(&place.succeeds(&["adapters", "list"])["decoders"]).is_empty());
    }

    #[test]
    fn a_name_that_is_taken_is_no_reason_to_remove_what_has_it() {
        let place = Place::with_adapter();
        place.add_to_registry("[decoders.other]\nsource = \"file:tiny.gguf\"\naliases = [\"o\"]\n");
        let refusal = place.fails(FAILURE, &["adapters", "alias", "tiny", "o"]);
        refusal.says(&["`o` already names a decoder"]);
        refusal.hints(&["choose another name", "adapters list"]);
        let refusal = place.fails(FAILURE, &["adapters", "add", "encoder"]);
        refusal.says(&["`start` already names an encoder"]);
        refusal.hints(&["--name", "adapters list"]);
        assert!(!refusal.hint.contains("adapters remove"), "{}", refusal.hint);
    }

    #[test]
    fn an_adapter_of_an_unknown_decoder_needs_a_source_or_a_name() {
        let place = Place::with_adapter();
        place.succeeds(&["adapters", "new", "fresh", "--decoder", "tiny"]);
        place.registry("[encoders.start]\npackage = \"encoder\"\n");
        let refusal = place.fails(FAILURE, &["adapters", "add", "fresh"]);
        refusal.says(&["no registry has decoder `tiny`"]);
        refusal.hints(&["--source", "--name"]);
        place.succeeds(&["adapters", "add", "fresh", "--source", "file:tiny.gguf"]);
        let listed = place.succeeds(&["adapters", "list"]);
        assert_eq!(listed["decoders"][0]["architecture"], "llama");
    }
}

mod addresses {
    use super::*;

    /// Serves `body` to every request, at the address that is returned.
    fn serve(body: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}/tiny.arc.tar.zst", listener.local_addr().expect("its address"));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(&stream);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                    line.clear();
                }
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(&body));
            }
        });
        address
    }

    #[test]
    fn an_archive_is_added_from_its_address_if_it_is_the_pinned_one() {
        let (maker, user) = (Place::with_adapter(), Place::with_encoder());
        maker.succeeds(&["adapters", "pack", "tiny"]);
        let archive = maker.path("tiny.arc.tar.zst");
        let sha256 = sha256_file(&archive).expect("its hash");
        let address = serve(std::fs::read(&archive).expect("the archive"));
        let add = |flags: &[&str]| {
            let mut command = user.arc(&[&["adapters", "add", &address], flags].concat());
            command.env_remove("ARC_OFFLINE").output()
        };
        Refusal::of(add(&[]), FAILURE).hints(&["--sha256"]);
        Refusal::of(add(&["--sha256", &"0".repeat(64)]), FAILURE).says(&["is pinned", &sha256]);
        user.fails(FAILURE, &["adapters", "add", &address, "--sha256", &sha256]).says(&["ARC_OFFLINE"]);
        assert!(!user.path("plugins").exists());
        let output = add(&["--sha256", &sha256]).expect("the binary runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(answer(&user, "tiny", &[]), answer(&maker, "tiny", &[]));
    }

    #[test]
    fn what_is_no_archive_is_refused_and_leaves_nothing() {
        let user = Place::with_encoder();
        let body = b"<html>not found</html>".to_vec();
        let sha256 = arc_adapters::sha256_hex(&body);
        let address = serve(body);
        let mut command = user.arc(&["adapters", "add", &address, "--sha256", &sha256]);
        let refusal = Refusal::of(command.env_remove("ARC_OFFLINE").output(), FAILURE);
        refusal.says(&[&address, "not a valid adapter archive"]);
        assert!(!user.path("plugins").exists());
    }
}

mod pins {
    use super::*;

    /// Changes the manifest of the package of `tiny` so that it is another one and still fits.
    pub(super) fn change(place: &Place, from: &str, to: &str) {
        let json = std::fs::read_to_string(place.path("adapter/adapter.json")).expect("the manifest");
        assert!(json.contains(from), "{json}");
        place.file("adapter/adapter.json", json.replace(from, to));
    }

    #[test]
    fn a_package_that_was_changed_since_it_was_added_is_refused_unless_forced() {
        let place = Place::with_adapter();
        place.succeeds(&["adapters", "add", "adapter", "--replace"]);
        let manifest = || sha256_file(&place.path("adapter/adapter.json")).expect("its hash");
        let pinned = manifest();
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        assert!(registry.contains(&format!("adapter_sha256 = \"{pinned}\"")), "{registry}");
        place.file("text.txt", "a text");
        place.succeeds(&ask("tiny"));

        change(&place, "\"name\": \"tiny\",\n  \"decoder\"", "\"name\": \"mine\",\n  \"decoder\"");
        let refusal = place.fails(FAILURE, &ask("tiny"));
        refusal.says(&["adapter `mine` of decoder `tiny` was changed", "adapter.json", &pinned, &manifest()]);
        refusal.hints(&["--replace", "--force"]);
        finds_fault(&place, &["adapters", "verify", "tiny"]);
        finds_fault(&place, &["adapters", "doctor"]);
        let forced = place.succeeds(&[&ask("tiny")[..], &["--force"]].concat());
        let pins = forced["overridden_pins"].as_array().expect("the pins");
        assert_eq!((pins.len(), &pins[0]["pin"]), (1, &Value::from("package")), "{pins:?}");
        assert_eq!((&pins[0]["expected"], &pins[0]["found"]), (&pinned.into(), &manifest().into()));

        place.succeeds(&["adapters", "add", "adapter", "--replace"]);
        assert_eq!(place.succeeds(&ask("tiny"))["overridden_pins"], Value::Null);
    }

    #[test]
    fn an_adapter_that_does_not_pin_its_decoder_is_remarked_on() {
        let place = Place::with_adapter();
        place.file("text.txt", "a text");
        assert_eq!(place.succeeds(&ask("tiny"))["unpinned"], Value::Null);
        let json = std::fs::read_to_string(place.path("adapter/adapter.json")).expect("the manifest");
        let mut manifest: Value = serde_json::from_str(&json).expect("JSON");
        manifest["decoder"].as_object_mut().expect("an object").remove("embedding_sha256");
        place.file("adapter/adapter.json", manifest.to_string());
        let output = place.arc(&ask("tiny")).arg("--json").output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("does not pin the embedding table of its decoder"), "{stderr}");
        let object: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(object["unpinned"], serde_json::json!(["embedding_table"]));
    }

    #[test]
    fn force_overrides_a_pin_and_the_output_says_which() {
        let place = Place::with_adapter();
        let mut other = tiny_llama();
        other.seed += 1;
        place.file("other.gguf", other.to_bytes());
        place.add_to_registry("[decoders.other]\nsource = \"file:other.gguf\"\nadapter = \"adapter\"\n");
        place.file("text.txt", "a text");
        place.fails(FAILURE, &ask("other")).hints(&["--force"]);
        let output = place.arc(&ask("other")).args(["--force", "--json"]).output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert!(stderr.contains("warning: adapter `tiny` was made for embedding table"), "{stderr}");
        let object: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let pins = object["overridden_pins"].as_array().expect("the pins");
        assert_eq!(pins.len(), 1, "the tokenizer and the architecture are the same: {pins:?}");
        assert_eq!(pins[0]["pin"], "embedding_table");
        assert_ne!(pins[0]["expected"], pins[0]["found"]);
        let sound = place.succeeds(&[&ask("tiny")[..], &["--force"]].concat());
        assert_eq!(sound["overridden_pins"], Value::Null, "nothing was overridden");
    }

    #[test]
    fn force_lets_latents_of_another_encoder_be_read() {
        let place = Place::with_adapter();
        place.encoder("other", 32);
        place.file("text.txt", "a text");
        place.succeeds(&["compress", "text.txt", "--encoder", "other", "-o", "o.arc.safetensors"]);
        let ask = ["ask", "--decoder", "tiny", "--document", "o.arc.safetensors", "--max-tokens", "2", "why"];
        place.fails(FAILURE, &ask).says(&["encoder"]);
        let forced = place.succeeds(&[&ask[..], &["--force"]].concat());
        assert_eq!(forced["overridden_pins"][0]["pin"], "encoder");
    }
}

/// Prompts of the paper. A byte is a token of the tiny decoder, and the encoder's factor is given.
mod forms {
    use super::*;

    const FEW_SHOT: &str = "Document: \nQuestion: why\nAnswer:";

    fn ask<'a>(form: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let usual =
            ["ask", "--decoder", "tiny", "--document", "text.txt", "--max-tokens", "2", "--factor", "3"];
        [&usual[..], &["--form", form], more].concat()
    }

    fn place() -> Place {
        let place = Place::with_adapter();
        place.file("text.txt", "123456789");
        place
    }

    #[test]
    fn every_document_of_a_few_shot_prompt_is_compressed() {
        let place = place();
        let alone = place.succeeds(&ask("few-shot", &["why"]));
        assert_eq!(alone["prompt_tokens"], 1 + FEW_SHOT.len());
        assert_eq!(alone["latents"], 3 + 1);
        place.file(
            "shots.jsonl",
            "{\"document\": \"123456\", \"question\": \"who\", \"answers\": [\"she\"]}\n",
        );
        let shown = place.succeeds(&ask("few-shot", &["--shots", "shots.jsonl", "why"]));
        let shot = "Document: \nQuestion: who\nAnswer: she\n\n";
        assert_eq!(shown["prompt_tokens"], 1 + shot.len() + FEW_SHOT.len());
        assert_eq!(shown["latents"], (2 + 1) + (3 + 1));
        let open = ask("few-shot", &["--shots", "shots.jsonl", "--open-book", "why"]);
        place.fails(USAGE, &open).says(&["`--factor <N>` cannot be used with `--open-book`"]);
        let open: Vec<&str> = open.into_iter().filter(|text| !["--factor", "3"].contains(text)).collect();
        let open = place.succeeds(&open);
        assert_eq!(open["prompt_tokens"], 1 + shot.len() + 6 + FEW_SHOT.len() + 9);
        assert_eq!(open["latents"], 0);
    }

    #[test]
    fn a_document_of_a_few_shot_prompt_is_stripped_as_the_reference_does() {
        let place = place();
        let documents = |form: &str| {
            let read = |content: &str| {
                place.file("text.txt", content);
                place.succeeds(&ask(form, &["why"]))
            };
            (read("123456789"), read(" \n123456789\n\n"))
        };
        let (bare, padded) = documents("few-shot");
        for field in ["source_tokens", "latents", "token_ids"] {
            assert_eq!(bare[field], padded[field], "{field}");
        }
        // Other forms take a document as it is.
        let (bare, padded) = documents("adapter");
        assert_ne!(bare["source_tokens"], padded["source_tokens"]);
    }

    #[test]
    fn a_document_is_continued_after_text_or_alone() {
        let place = place();
        let alone = place.succeeds(&ask("continuation", &[]));
        assert_eq!((&alone["prompt_tokens"], &alone["latents"]), (&1.into(), &(3 + 1).into()));
        let after = place.succeeds(&ask("continuation", &["--no-special", "before"]));
        assert_eq!((&after["prompt_tokens"], &after["latents"]), (&7.into(), &3.into()));
    }

    #[test]
    fn a_document_is_repeated_after_its_latents_and_the_vector_that_asks_for_it() {
        let place = place();
        let repeated = place.succeeds(&ask("reconstruction", &[]));
        assert_eq!((&repeated["prompt_tokens"], &repeated["latents"]), (&1.into(), &(3 + 1).into()));
    }

    #[test]
    fn an_instruction_stands_in_the_users_turn() {
        let place = place();
        let asked = place.succeeds(&ask("llama2-chat", &["Text:||Say it again.||Again:"]));
        assert_eq!(asked["prompt_tokens"], 1 + "[INST] Text:Say it again. [/INST] Again:".len());
        let system = place.succeeds(&ask("llama2-chat", &["--system", "Be brief.", "Sum it up."]));
        let around = "[INST] <<SYS>>\nBe brief.\n<</SYS>>Sum it up. [/INST] ";
        assert_eq!(system["prompt_tokens"], 1 + around.len());

        place.fails(USAGE, &ask("instruct", &["Sum it up."])).says(&["`tiny` has no chat template"]);
        let mut model = tiny_llama();
        let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>";
        model.set("tokenizer.chat_template", tiny::Meta::Text(template.into()));
        place.file("chat.gguf", model.to_bytes());
        place.add_to_registry("[decoders.chat]\nsource = 'file:chat.gguf'\nadapter = 'adapter'\n");
        let mut chat = ask("instruct", &["--system", "Be brief.", "Sum it up."]);
        chat[2] = "chat";
        let asked = place.succeeds(&chat);
        assert_eq!(asked["prompt_tokens"], 1 + "<system>Be brief.<user>Sum it up.<assistant>".len());
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let place = place();
        place.file("shots.jsonl", "{\"document\": \"123456\", \"question\": \"who\"}\n");
        place.fails(USAGE, &ask("adapter", &[])).says(&["no question"]);
        place.fails(USAGE, &ask("few-shot", &[])).says(&["no question"]);
        place.fails(USAGE, &ask("reconstruction", &["why"])).hints(&["leave out the question"]);
        place.fails(USAGE, &ask("reconstruction", &["--no-special"])).hints(&["--no-special"]);
        place.fails(USAGE, &ask("adapter", &["--system", "Be brief.", "why"])).hints(&["--form instruct"]);
        place.fails(USAGE, &ask("adapter", &["--shots", "shots.jsonl", "why"])).hints(&["--form few-shot"]);
        place.fails(USAGE, &ask("continuation", &["--document", "text.txt"])).says(&["2 documents"]);
        place.fails(FAILURE, &ask("few-shot", &["--shots", "shots.jsonl", "why"])).says(&[
            "shots.jsonl",
            "line 1",
            "answer",
        ]);
        place.fails(USAGE, &ask("llama2-chat", &["a||b"])).says(&["prefix, instruction and suffix"]);
    }
}

mod options {
    use super::*;

    #[test]
    fn an_entrys_options_hold_where_the_command_line_says_nothing() {
        let place = Place::with_adapter();
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        let options = "options = { factor = 3, prompt_template = '{{ document }}' }\n[encoders";
        place.file("registry.toml", registry.replacen("[encoders", options, 1));
        place.file("text.txt", "123456789");
        let asked = place.succeeds(&ask("tiny"));
        assert_eq!(asked["latents"], 3 + 1);
        assert_eq!(asked["prompt_tokens"], 1, "the template has nothing but the document: BOS");
        assert_eq!(place.succeeds(&[&ask("tiny")[..], &["--factor", "1"]].concat())["latents"], 9 + 1);
    }

    #[test]
    fn a_decoder_reads_the_encoder_that_its_entry_names() {
        let place = Place::with_adapter();
        place.encoder("other", 32);
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        place.file("registry.toml", registry.replacen("[encoders", "encoder = \"other\"\n[encoders", 1));
        place.file("text.txt", "a text");
        place.fails(FAILURE, &ask("tiny")).says(&["adapter `tiny` was made for encoder"]);
    }

    #[test]
    fn a_model_of_another_architecture_than_the_entry_says_is_refused() {
        let place = Place::empty();
        place.decoder(&tiny_llama().to_bytes(), "architecture = \"qwen2\"\n");
        let refusal = place.fails(FAILURE, &["generate", "--decoder", "tiny", "--prompt", "x"]);
        refusal.says(&["`qwen2`", "`llama`"]);
        refusal.hints(&["registry.toml"]);
    }
}

mod code {
    use super::*;

    /// The manifest of an adapter whose projector leaves vectors as they are.
    fn identity(place: &Place, name: &str, projector: ProjectorSpec) -> AdapterManifest {
        let fitted = Adapter::open(&place.path("adapter")).expect("the fitted adapter").manifest;
        AdapterManifest::new((fitted.decoder, WIDTH), (fitted.encoder, WIDTH), projector)
            .name(name.into())
            .prompt_template("{{ document }}{{ question }}")
            .weights(WeightsFile::new("adapter.safetensors", "0".repeat(64)))
    }

    fn token() -> AdapterTensor {
        AdapterTensor::new("tokens.cont", &[WIDTH], &[0.25; WIDTH], WeightType::F32)
    }

    /// Compiles a plugin in C whose `project` copies, and returns its path in the place.
    fn copying_plugin(place: &Place) -> PathBuf {
        let custom = ProjectorLayer::Custom { d_in: WIDTH, d_out: WIDTH };
        let manifest = identity(place, "copies", ProjectorSpec::new(vec![custom]));
        let package = place.path("copies");
        AdapterPackage::write(&package, &manifest, &[token()]).expect("a package");
        let array = |name: &str, file: &str| {
            let bytes = std::fs::read(package.join(file)).expect("a file of the package");
            let bytes: Vec<_> = bytes.iter().map(ToString::to_string).collect();
            format!("static const uint8_t {name}[] = {{{}}};\n", bytes.join(","))
        };
        let source = format!(
            "#include <string.h>\n#include \"arc_adapter.h\"\n{}{}\
             static ArcBytes manifest(void) {{ return (ArcBytes){{MANIFEST, sizeof MANIFEST}}; }}\n\
             static ArcBytes weights(void) {{ return (ArcBytes){{WEIGHTS, sizeof WEIGHTS}}; }}\n\
             static int64_t project(const float *x, size_t n, size_t d, float *y, size_t capacity) {{\n\
               if (d != {WIDTH}) return ARC_ERROR_SHAPE;\n\
               if (capacity < n * d) return ARC_ERROR_CAPACITY;\n\
               memcpy(y, x, n * d * sizeof *y);\n\
               return (int64_t)(n * d);\n\
             }}\n\
             static const ArcAdapter adapter = {{\n\
               sizeof(ArcAdapter), ARC_ABI_VERSION, manifest, weights, project}};\n\
             const ArcAdapter *arc_adapter(void) {{ return &adapter; }}\n",
            array("MANIFEST", "adapter.json"),
            array("WEIGHTS", "adapter.safetensors"),
        );
        place.file("code/copies.c", source);
        let library = place.path("code/libcopies.so");
        let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("arc-plugin/include");
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Werror", "-I"])
            .arg(include)
            .arg("-o")
            .arg(&library)
            .arg(place.path("code/copies.c"))
            .output()
            .expect("the system's compiler");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        library
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_projector_in_code_answers_as_the_same_one_described_in_process_and_isolated() {
        let place = Place::with_adapter();
        let library = copying_plugin(&place);
        let library = library.strip_prefix(place.path("")).expect("in the place").display().to_string();

        place.fails(FAILURE, &["adapters", "add", &library, "--name", "coded"]).hints(&["--allow-plugins"]);
        let added = place.succeeds(&["adapters", "add", &library, "--name", "coded", "--allow-plugins"]);
        assert_eq!(added["kind"], "plugin");
        let inspected = place.succeeds(&["adapters", "inspect", "coded", "--allow-plugins"]);
        assert_eq!(inspected["trainable"], false);

        let layer = ProjectorLayer::Linear { d_in: WIDTH, d_out: WIDTH, bias: false };
        let manifest = identity(&place, "described", ProjectorSpec::new(vec![layer]));
        let mut weight = vec![0.0; WIDTH * WIDTH];
        weight.iter_mut().step_by(WIDTH + 1).for_each(|one| *one = 1.0);
        let weight = AdapterTensor::new("projector.0.weight", &[WIDTH, WIDTH], &weight, WeightType::F32);
        AdapterPackage::write(&place.path("described"), &manifest, &[weight, token()]).expect("a package");
        place.succeeds(&["adapters", "add", "described", "--name", "described"]);

        let described = answer(&place, "described", &[]);
        assert_eq!(answer(&place, "coded", &["--allow-plugins"]), described);
        assert_eq!(answer(&place, "coded", &["--allow-plugins", "--isolate-plugins"]), described);
        assert_ne!(answer(&place, "tiny", &[]), described, "it matters what the projector does");
        place.fails(FAILURE, &ask("coded")).says(&["code plugins are not allowed"]);

        // A registry that lies around cannot allow it; the user can, by naming that registry or by
        // an own one. What the user forbids, only the flag of the moment allows.
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        place.file("registry.toml", registry.replacen('\n', "\nallow_code_plugins = true\n", 1));
        place.fails(FAILURE, &ask("coded")).says(&["code plugins are not allowed"]);
        let named = ["--registry", "registry.toml"];
        assert_eq!(answer(&place, "coded", &named), described);
        let own = "home/arc-encoder/registry.toml";
        place.file(own, "schema = 1\nallow_code_plugins = false\n");
        for flags in [&[][..], &named] {
            let refusal = place.fails(FAILURE, &[&ask("coded"), flags].concat());
            refusal.says(&["code plugins are not allowed"]);
        }
        assert_eq!(answer(&place, "coded", &["--allow-plugins"]), described);
        place.file(own, "schema = 1\nallow_code_plugins = true\n");
        assert_eq!(answer(&place, "coded", &[]), described);

        // Never is a changed file loaded.
        let mut bytes = std::fs::read(place.path(&library)).expect("the plugin");
        bytes.push(0);
        place.file(&library, bytes);
        place.fails(FAILURE, &ask("coded")).says(&["pinned is"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_projector_in_code_projects_and_refuses_to_be_trained() {
        let place = Place::with_adapter();
        let library = copying_plugin(&place);
        let policy = PluginPolicy::default().allow(true).folders(vec![place.path("code")]);
        let entry = PluginEntry::new(library.clone(), sha256_file(&library).expect("its hash"));
        let adapter = Adapter::load_plugin(&entry, &policy).expect("the plugin");
        let device = DeviceName::CPU.open().expect("the CPU");
        let projector = Projector::from_adapter(&adapter, &device).expect("its projector");
        let rows = Tensor::<2>::ones([3, WIDTH], &device);
        assert_eq!(projector.forward(rows.clone()).expect("rows").to_data(), rows.to_data(), "it copies");
        let error = projector.forward(rows.autodiff()).expect_err("no gradient passes through it");
        assert!(error.to_string().contains("a function of a code plugin"), "{error}");
        assert!(error.hint().expect("a hint").to_string().contains("describe the projector by its layers"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_plugin_lies_in_a_listed_folder_or_in_one_of_the_command_line() {
        let place = Place::with_adapter();
        let library = copying_plugin(&place);
        let sha256 = sha256_file(&library).expect("its hash");
        // The registry pins the plugin and lists no folder.
        place.add_to_registry(&format!(
            "[decoders.coded]\nsource = \"file:tiny.gguf\"\n\
             plugin = {{ path = \"code/{}\", sha256 = \"{sha256}\" }}\n",
            library.file_name().and_then(|name| name.to_str()).expect("a name")
        ));
        place.file("text.txt", "a text");
        let ask = [&ask("coded")[..], &["--allow-plugins"]].concat();
        let refusal = place.fails(FAILURE, &ask);
        refusal.says(&["in none of the listed plugin folders"]);
        refusal.hints(&["plugin_folders"]);
        place.fails(FAILURE, &[&ask[..], &["--plugin-folder", "adapter"]].concat()).says(&["in none of"]);
        place.succeeds(&[&ask[..], &["--plugin-folder", "adapter", "--plugin-folder", "code"]].concat());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_new_plugin_crate_builds_and_verifies_as_it_is() {
        let place = Place::with_adapter();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("arc-plugin").display().to_string();
        let new = ["adapters", "new", "fresh", "--decoder", "tiny", "--code", "-o", "fresh-crate"];
        place.fails(USAGE, &new).hints(&["--arc-plugin"]);
        place.succeeds(&[&new[..], &["--arc-plugin", &source]].concat());

        // From nothing, outside of the workspace: whoever writes a plugin waits for seconds at most. The
        // best of three, since other tests run beside this one.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = |target: &Path| {
            let started = std::time::Instant::now();
            let output = Command::new(&cargo)
                .args(["build", "--release", "--offline"])
                .current_dir(place.path("fresh-crate"))
                .env("CARGO_TARGET_DIR", target)
                .output()
                .expect("cargo runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            started.elapsed().as_secs_f64()
        };
        let target = place.path("target");
        let seconds =
            (0..3).map(|n| build(&place.path(&format!("target-{n}")))).fold(build(&target), f64::min);
        assert!(seconds < 5.0, "the crate takes {seconds:.1} s to build");
        let lock = std::fs::read_to_string(place.path("fresh-crate/Cargo.lock")).expect("the lock file");
        let packages: Vec<_> = lock.lines().filter(|line| line.starts_with("name = ")).collect();
        assert_eq!(packages, ["name = \"arc-adapter-fresh\"", "name = \"arc-plugin\""]);
        std::fs::create_dir(place.path("built")).expect("a folder");
        let library = "built/libfresh.so";
        std::fs::copy(target.join("release/libarc_adapter_fresh.so"), place.path(library))
            .expect("the library");

        let verified = place.succeeds(&["adapters", "verify", library, "--allow-plugins"]);
        assert_eq!(verified["passed"], true);
        place.succeeds(&["adapters", "verify", "./fresh-crate"]);
        place.succeeds(&["adapters", "add", library, "--name", "coded", "--allow-plugins"]);
        place.succeeds(&["adapters", "add", "fresh-crate", "--name", "data"]);
        assert_eq!(answer(&place, "coded", &["--allow-plugins"]), answer(&place, "data", &[]));
        let refusal = place.fails(USAGE, &["adapters", "pack", "coded"]);
        refusal.says(&["only data packages are packed"]);
    }
}

mod new {
    use super::*;

    #[test]
    fn a_new_package_verifies_as_it_is_and_answers() {
        let place = Place::with_encoder();
        let made = place.succeeds(&["adapters", "new", "fresh", "--decoder", "tiny", "--d-hidden", "4"]);
        assert_eq!(made["decoder"]["name"], "tiny");
        assert_eq!(place.succeeds(&["adapters", "verify", "./fresh"])["passed"], true);
        place.succeeds(&["adapters", "add", "fresh"]);
        answer(&place, "tiny", &[]);
        place.fails(FAILURE, &["adapters", "new", "fresh", "--decoder", "tiny"]).says(&["exists already"]);
        place
            .fails(USAGE, &["adapters", "new", "../up", "--decoder", "tiny", "-o", "up"])
            .says(&["`../up`", "`<NAME>`"]);
        assert!(!place.path("up").exists());
    }
}

mod doctor {
    use super::*;

    #[test]
    fn a_sound_setup_is_called_sound() {
        let examined = Place::with_adapter().succeeds(&["adapters", "doctor"]);
        assert_eq!(examined["sound"], true);
        assert_eq!(examined["findings"], serde_json::json!([]));
    }

    #[test]
    fn a_broken_setup_is_explained_the_likeliest_cause_first() {
        let place = Place::with_adapter();
        std::fs::remove_file(place.path("tiny.gguf")).expect("the model");
        place.file("encoder/encoder.json", "{");
        let (examined, stderr) = finds_fault(&place, &["adapters", "doctor"]);
        assert!(stderr.contains("faults in the setup"), "{stderr}");
        let findings = examined["findings"].as_array().expect("findings");
        assert_eq!(findings[0]["likelihood"], "certain");
        assert!(findings[0]["problem"].as_str().expect("text").contains("encoder.json"));
        let missing =
            findings.iter().find(|f| f["problem"].as_str().is_some_and(|p| p.contains("tiny.gguf")));
        assert_eq!(missing.expect("the missing model")["likelihood"], "likely");
    }

    #[test]
    fn an_adapter_of_another_architecture_is_found_by_the_model_where_the_entry_states_none() {
        let place = Place::with_adapter();
        pins::change(&place, "\"architecture\": \"llama\"", "\"architecture\": \"gemma3\"");
        let (examined, _) = finds_fault(&place, &["adapters", "doctor"]);
        let finding = &examined["findings"][0];
        assert_eq!(
            (&finding["likelihood"], &finding["subject"]),
            (&Value::from("certain"), &Value::from("decoder `tiny`"))
        );
        assert!(finding["problem"].as_str().expect("text").contains("gemma3"), "{finding}");
        // The same is what asking says.
        place.file("text.txt", "a text");
        place.fails(FAILURE, &ask("tiny")).says(&["gemma3"]);
    }

    #[test]
    fn an_architecture_that_the_registry_has_wrong_is_to_be_corrected_there() {
        let place = Place::with_adapter();
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        let source = "source = \"file:tiny.gguf\"\n";
        place.file("registry.toml", registry.replace(source, &format!("architecture = \"lama\"\n{source}")));
        let (examined, _) = finds_fault(&place, &["adapters", "doctor"]);
        let hint = examined["findings"][0]["hint"].as_str().expect("a hint");
        assert!(hint.contains("correct `architecture` in") && !hint.contains("--force"), "{examined}");
        // The same is what asking says.
        place.file("text.txt", "a text");
        place.fails(FAILURE, &ask("tiny")).hints(&["correct `architecture`"]);
    }

    #[test]
    fn a_registry_that_cannot_be_read_is_a_finding_and_no_failure_to_examine() {
        let place = Place::empty();
        place.file("registry.toml", "schema = 1\n[decoders.x\n");
        let (examined, _) = finds_fault(&place, &["adapters", "doctor"]);
        assert!(examined["findings"][0]["problem"].as_str().expect("text").contains("line 2"));
    }
}
