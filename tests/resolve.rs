//! One rule, one answer: whatever registries say, everything that resolves a decoder's name says the
//! same of it. The registries are generated: names, aliases, layers, default encoders, adapters for
//! several encoders, names that nothing has.

#[path = "harness/tiny.rs"]
mod tiny;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;

use arc_adapters::{
    AdapterManifest, Check, Chosen, EncoderManifest, Error, Finding, Likelihood, ModelFile, ModelSource,
    PluginPolicy, Registry, RegistryFile, list, verify,
};
use arc_core::Session;
use arc_core::device::DeviceName;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};
use serde_json::Value;
use tiny::{Place, USAGE};

/// The encoders that registries may have. Each has an adapter made for it, in a folder of its name.
const ENCODERS: [&str; 3] = ["start", "second", "third"];
/// Other names that they may have.
const ALIASES: [&str; 2] = ["first", "other"];
const DECODERS: [&str; 2] = ["tiny", "small"];

/// A place with three encoders of the tiny model and an adapter for each; its registry is written anew
/// by each case.
static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let place = Place::with_adapter();
    for (name, chunk_tokens) in [("second", 32), ("third", 16)] {
        let encoder_id = place.encoder(name, chunk_tokens);
        let from = place.path("adapter");
        let mut manifest = AdapterManifest::open(&from).expect("the adapter");
        manifest.encoder.name = name.to_owned();
        manifest.encoder.encoder_id = encoder_id;
        let folder = format!("for-{name}");
        let path = place.path(&place.file(&format!("{folder}/adapter.json"), ""));
        std::fs::write(&path, manifest.to_json(&path).expect("a manifest")).expect("it is written");
        std::fs::copy(from.join("adapter.safetensors"), place.path(&folder).join("adapter.safetensors"))
            .expect("the weights");
    }
    place
});

/// The folder of an encoder's package.
fn package(encoder: &str) -> String {
    if encoder == "start" { "encoder".to_owned() } else { format!("encoder-{encoder}") }
}

/// The folder of the adapter that was made for an encoder.
fn adapter(encoder: &str) -> String {
    if encoder == "start" { "adapter".to_owned() } else { format!("for-{encoder}") }
}

/// One registry file.
#[derive(Clone, Debug)]
struct File {
    default: Option<&'static str>,
    /// Which of [`ENCODERS`] it has, and which of [`ALIASES`] go to which of those.
    encoders: Vec<(&'static str, Vec<&'static str>)>,
    decoders: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    name: &'static str,
    encoder: Option<&'static str>,
    usual: Option<Usual>,
    /// By a name that is written there: for which encoder the adapter was made.
    adapters: Vec<(&'static str, &'static str)>,
}

#[derive(Clone, Debug)]
enum Usual {
    Package(&'static str),
    /// A code plugin that may not run.
    Plugin,
}

/// What may be written where an encoder is named; nothing has the last one.
fn written() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["start", "second", "third", "first", "other", "start", "second", "gone"])
}

fn file() -> impl Strategy<Value = File> {
    let encoders =
        (prop::sample::subsequence(ENCODERS.to_vec(), 1..=3), prop::collection::vec(0..4_usize, 2));
    let encoders = encoders.prop_map(|(names, owners)| {
        let aliases = |place: usize| {
            ALIASES
                .into_iter()
                .zip(&owners)
                .filter(move |(_, owner)| **owner == place)
                .map(|(alias, _)| alias)
        };
        names.iter().enumerate().map(|(place, name)| (*name, aliases(place).collect())).collect::<Vec<_>>()
    });
    let usual = prop_oneof![
        4 => prop::sample::select(ENCODERS.to_vec()).prop_map(|name| Some(Usual::Package(name))),
        1 => Just(Some(Usual::Plugin)),
        1 => Just(None),
    ];
    let adapters = prop::collection::btree_map(written(), prop::sample::select(ENCODERS.to_vec()), 0..=2);
    let entry = (prop::option::weighted(0.3, written()), usual, adapters);
    let decoders = (prop::sample::subsequence(DECODERS.to_vec(), 0..=2), prop::collection::vec(entry, 2));
    let decoders = decoders.prop_map(|(names, entries)| {
        let entry =
            |(name, (encoder, usual, adapters)): (&'static str, (_, _, std::collections::BTreeMap<_, _>))| {
                Entry { name, encoder, usual, adapters: adapters.into_iter().collect() }
            };
        names.into_iter().zip(entries).map(entry).collect()
    });
    (prop::option::weighted(0.7, written()), encoders, decoders)
        .prop_map(|(default, encoders, decoders)| File { default, encoders, decoders })
}

impl File {
    fn to_toml(&self) -> String {
        let mut text = "schema = 1\n".to_owned();
        if let Some(default) = self.default {
            text += &format!("default_encoder = '{default}'\n");
        }
        for (name, aliases) in &self.encoders {
            text += &format!("[encoders.{name}]\npackage = '{}'\naliases = {aliases:?}\n", package(name));
        }
        for Entry { name, encoder, usual, adapters } in &self.decoders {
            text += &format!("[decoders.{name}]\nsource = 'file:tiny.gguf'\n");
            if let Some(encoder) = encoder {
                text += &format!("encoder = '{encoder}'\n");
            }
            match usual {
                Some(Usual::Package(made_for)) => text += &format!("adapter = '{}'\n", adapter(made_for)),
                Some(Usual::Plugin) => {
                    text += &format!("plugin = {{ path = 'plugin.so', sha256 = '{}' }}\n", "a".repeat(64));
                }
                None => {}
            }
            let adapters: Vec<_> =
                adapters.iter().map(|(key, made_for)| format!("{key} = '{}'", adapter(made_for))).collect();
            text += &format!("adapters = {{ {} }}\n", adapters.join(", "));
        }
        text
    }
}

/// Writes the files of a case, and reads them one over the other.
fn layered(files: &[File]) -> (Vec<RegistryFile>, Registry) {
    let files: Vec<_> = files
        .iter()
        .enumerate()
        .map(|(index, file)| {
            let name = if index + 1 == files.len() { "registry.toml" } else { "below.toml" };
            let path = PLACE.path(&PLACE.file(name, file.to_toml()));
            RegistryFile::new(path, Chosen::Named)
        })
        .collect();
    let registry = Registry::layered(&files).expect("what is generated can be read");
    (files, registry)
}

fn files() -> impl Strategy<Value = Vec<File>> {
    // The encoders' backbone is in every registry.
    prop::collection::vec(file(), 1..=2).prop_map(|mut files| {
        if files.iter().all(|file| file.decoders.iter().all(|entry| entry.name != "tiny")) {
            let tiny = Entry {
                name: "tiny",
                encoder: None,
                usual: Some(Usual::Package("start")),
                adapters: Vec::new(),
            };
            files[0].decoders.push(tiny);
        }
        files
    })
}

/// What a decoder is used with, or why it is not: the words by which all answers are compared.
type Answer = Result<(Option<String>, PathBuf), String>;

fn resolved(registry: &Registry, decoder: &str, encoder: Option<&str>) -> Answer {
    let pair = registry.resolve(decoder, encoder).map_err(|error| error.to_string())?;
    let place = pair.adapter().map_err(|error| error.to_string())?;
    Ok((pair.encoder.map(|encoder| encoder.name.clone()), place.path().to_owned()))
}

/// Every encoder's name as it may be written, and none.
fn asked() -> impl Iterator<Item = Option<&'static str>> {
    let names = ENCODERS.into_iter().chain(ALIASES).chain(["gone"]);
    std::iter::once(None).chain(names.map(Some))
}

fn in_the_library(files: Vec<File>) -> TestCaseResult {
    let (paths, registry) = layered(&files);
    let policy = PluginPolicy::default();
    let locate = |model: &ModelFile, _: &str| match &model.source {
        ModelSource::File { path } => Ok(path.clone()),
        other => panic!("no test pulls {other}"),
    };
    let session = Session::new(registry.clone(), DeviceName::CPU, Box::new(locate)).expect("the CPU");
    let findings = arc_adapters::doctor(&paths, &policy, &|_| None, &|_| None);
    for entry in registry.decoders() {
        for encoder in asked() {
            let answer = resolved(&registry, &entry.name, encoder);
            // What `ask` and `eval` load.
            let loaded = match encoder {
                Some(encoder) => session.adapted_decoder_for(&entry.name, encoder),
                None => session.adapted_decoder(&entry.name),
            };
            match (&answer, loaded) {
                (Ok((_, path)), Ok(adapted)) => prop_assert_eq!(&adapted.adapter.origin, path),
                (Ok((_, path)), Err(error)) => {
                    prop_assert!(path.ends_with("plugin.so"), "{error}");
                    prop_assert!(error.to_string().contains("code plugins are not allowed"), "{error}");
                }
                (Err(reason), Err(error)) => prop_assert_eq!(reason, &error.to_string()),
                (Err(reason), Ok(_)) => prop_assert!(false, "it is loaded, although {reason}"),
            }
        }

        let answer = resolved(&registry, &entry.name, None);
        let pair = registry.resolve(&entry.name, None);
        // The encoder that compresses for it.
        match (pair.as_ref().map(|pair| pair.encoder), session.encoder_for(&entry.name)) {
            (Ok(Some(expected)), Ok(encoder)) => {
                let manifest = EncoderManifest::open(&expected.package).expect("the encoder");
                prop_assert_eq!(&manifest.encoder_id, &encoder.id);
            }
            (Ok(None), Err(error)) => {
                prop_assert!(error.to_string().starts_with("no encoder is named"), "{error}")
            }
            (Err(reason), Err(error)) => prop_assert_eq!(reason.to_string(), error.to_string()),
            (expected, found) => {
                prop_assert!(false, "{expected:?}, {:?}", found.map(|encoder| encoder.id.clone()))
            }
        }

        let listed = list(&registry);
        let listed = listed.iter().find(|listed| listed.name == entry.name).expect("every decoder is listed");
        match (&answer, &pair) {
            (Ok((encoder, path)), _) => {
                prop_assert_eq!((&listed.encoder, listed.adapter.as_ref()), (encoder, Some(path)));
            }
            (Err(_), Ok(_)) => prop_assert_eq!((listed.adapter.as_ref(), &listed.fault), (None, &None)),
            (Err(reason), Err(_)) => prop_assert_eq!(listed.fault.as_ref(), Some(reason)),
        }

        // What is verified is what is used: it is sound exactly if it could be asked.
        let checks = verify(&registry, &entry.name, &policy, None, &|_| None).expect("it is a decoder");
        let is_sound = |check: &&Check| {
            check.what.starts_with("adapter: ")
                || check.what.starts_with("registry: ")
                || check.what == "encoder"
        };
        let of_the_name: Vec<_> = checks.iter().filter(is_sound).collect();
        let usable = match &pair {
            Ok(pair) => match (pair.open(&policy), pair.encoder) {
                (Ok(adapter), Some(encoder)) => {
                    let manifest = EncoderManifest::open(&encoder.package).expect("the encoder");
                    adapter.manifest.check_encoder(&manifest.encoder_id).is_ok()
                }
                (Ok(_), None) => true,
                (Err(_), _) => false,
            },
            Err(_) => false,
        };
        prop_assert_eq!(usable, of_the_name.iter().all(|check| !check.failed()), "{:?}", of_the_name);

        // And what the doctor finds is what is verified.
        let subject = format!("decoder `{}`", entry.name);
        let no_default = registry.default_encoder().err().map(|error: Error| error.to_string());
        let found: Vec<&str> = findings
            .iter()
            .filter(|finding: &&Finding| {
                finding.subject.starts_with(&subject) && finding.likelihood < Likelihood::Possible
            })
            .map(|finding| finding.problem.as_str())
            .collect();
        let json = serde_json::to_value(&checks).expect("checks are data");
        let failed: Vec<&str> = json
            .as_array()
            .expect("a list")
            .iter()
            .filter(|check| check["outcome"] == "failed")
            .filter_map(|check| check["message"].as_str())
            // Told once of the registry, and no fault of a model that is to be used without latents.
            .filter(|message| Some(*message) != no_default.as_deref() && !message.contains("has no adapter"))
            .collect();
        prop_assert_eq!(found, failed);
    }
    Ok(())
}

fn run(cases: u32, test: impl Fn(Vec<File>) -> TestCaseResult) {
    // The same cases each time; what fails is printed, shrunk, and written here as a test.
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let random = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, random);
    runner.run(&files(), test).unwrap_or_else(|failure| panic!("{failure}"));
}

/// Both tests write the same registries.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn everything_in_the_library_that_resolves_a_name_gives_one_answer() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    run(96, in_the_library);
}

fn from_the_command_line(files: Vec<File>) -> TestCaseResult {
    let (paths, registry) = layered(&files);
    let below = paths.first().filter(|_| paths.len() > 1).map(|file| file.path.display().to_string());
    let here = PLACE.path("registry.toml").display().to_string();
    let registries: Vec<&str> =
        below.iter().flat_map(|below| ["--registry", below]).chain(["--registry", &here]).collect();
    let arc = |arguments: &[&str]| -> Result<Value, String> {
        let output = PLACE.arc(arguments).args(&registries).arg("--json").output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
        let object: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        match object["error"]["message"].as_str() {
            Some(message) => Err(message.to_owned()),
            None => Ok(object),
        }
    };
    PLACE.file("text.txt", "an old letter");
    PLACE.file(
        "rows.jsonl",
        "{\"document\": \"a letter\", \"question\": \"of whom?\", \"answers\": [\"mine\"]}\n",
    );
    PLACE.file(
        "one.toml",
        "schema = 1\nname = \"one\"\ndescription = \"d\"\ndata = \"rows.jsonl\"\n[generate]\n\
         prompt = \"{{ document }} {{ question }}:\"\nclosed_book = \"{{ question }}:\"\n\
         max_tokens = 1\nmetrics = [\"f1\"]\n",
    );
    let listed = arc(&["adapters", "list"]).expect("a list");
    for entry in registry.decoders() {
        let answer = resolved(&registry, &entry.name, None);
        let is_plugin = answer.as_ref().is_ok_and(|(_, path)| path.ends_with("plugin.so"));
        let in_list = |value: &Value| {
            value["decoders"]
                .as_array()
                .expect("a list")
                .iter()
                .find(|d| d["name"] == entry.name.as_str())
                .cloned()
        };
        let of_list = in_list(&listed).expect("it is listed");
        let question =
            ["ask", "--decoder", &entry.name, "--document", "text.txt", "--max-tokens", "1", "what?"];
        let (asked, planned) = (arc(&question), arc(&["plan", "--decoder", &entry.name, "--context", "8"]));
        let evaluated = arc(&[
            "eval",
            "--decoder",
            &entry.name,
            "--task",
            "one.toml",
            "--data",
            ".",
            "--arm",
            "arc",
            "--timed",
            "0",
            "--shots",
            "0",
        ]);
        match &answer {
            Ok((Some(encoder), path)) => {
                prop_assert_eq!(&of_list["adapter"], path.to_str().expect("Unicode"));
                prop_assert_eq!(&of_list["encoder"], encoder.as_str());
                let planned = planned.expect("a plan");
                prop_assert_eq!(&planned["adapter"], path.to_str().expect("Unicode"));
                prop_assert_eq!(&planned["encoder"], encoder.as_str());
                let package = registry.encoder(encoder).expect("an encoder").package.clone();
                let id = EncoderManifest::open(&package).expect("the encoder").encoder_id;
                let fits =
                    AdapterManifest::open(path).is_ok_and(|manifest| manifest.check_encoder(&id).is_ok());
                match (fits, asked, evaluated) {
                    (true, Ok(asked), Ok(evaluated)) => {
                        prop_assert_eq!(&asked["adapter"], path.to_str().expect("Unicode"));
                        prop_assert_eq!(&asked["encoder"], encoder.as_str());
                        prop_assert_eq!(&evaluated["results"][0]["encoder_id"], id.as_str());
                    }
                    (false, Err(asked), Err(evaluated)) => {
                        prop_assert_eq!(&asked, &evaluated);
                        prop_assert!(
                            asked.contains(if is_plugin { "not allowed" } else { "was made for encoder" }),
                            "{asked}"
                        );
                    }
                    (fits, asked, evaluated) => prop_assert!(false, "{fits}: {asked:?} {evaluated:?}"),
                }
            }
            // Nothing compresses for it.
            Ok((None, _)) => {
                for refused in [asked, planned, evaluated] {
                    prop_assert!(
                        refused.as_ref().is_err_and(|error| error.starts_with("no encoder is named")),
                        "{refused:?}"
                    );
                }
            }
            Err(reason) if registry.resolve(&entry.name, None).is_err() => {
                for refused in [asked, planned, evaluated] {
                    let refused = refused.err();
                    prop_assert_eq!(refused.as_ref(), Some(reason));
                }
                prop_assert_eq!(&of_list["fault"], reason.as_str());
            }
            Err(reason) => {
                prop_assert_eq!(&of_list["adapter"], &Value::Null);
                prop_assert!(asked.is_err());
                let _ = (reason, planned, evaluated);
            }
        }
    }
    Ok(())
}

#[test]
fn every_command_that_resolves_a_name_gives_that_answer() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    run(10, from_the_command_line);
}

#[test]
fn the_shipped_decoders_are_sound_with_either_of_their_encoders_as_the_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("registry.toml");
    let text = std::fs::read_to_string(&path).expect("the registry");
    for encoder in ["arc-mini", "smollm2-start"] {
        let changed =
            text.replace("default_encoder = \"arc-mini\"", &format!("default_encoder = {encoder:?}"));
        let registry = Registry::parse(&changed, &path).expect("a registry");
        for decoder in ["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b"] {
            let checks =
                verify(&registry, decoder, &PluginPolicy::default(), None, &|_| None).expect("a decoder");
            assert!(checks.iter().all(|check| !check.failed()), "{encoder}, {decoder}: {checks:?}");
        }
    }
}

#[test]
fn a_changed_package_is_loaded_anew_beside_a_plugin() {
    let place = Place::with_adapter();
    place.file(
        "registry.toml",
        format!(
            "schema = 1\ndefault_encoder = 'start'\n[encoders.start]\npackage = 'encoder'\n\
             [decoders.tiny]\nsource = 'file:tiny.gguf'\nadapters = {{ start = 'adapter' }}\n\
             plugin = {{ path = 'none.so', sha256 = '{}' }}\n",
            "a".repeat(64)
        ),
    );
    let session = Session::open(&place.path("registry.toml"), DeviceName::CPU).expect("a session");
    session.adapted_decoder("tiny").expect("the package for its encoder");
    assert_eq!(session.reload().expect("the registry").changed, [""; 0]);
    let path = place.path("adapter/adapter.json");
    let mut manifest = AdapterManifest::open(&place.path("adapter")).expect("the adapter");
    manifest.prompt_template = "{{ question }}{{ document }}".to_owned();
    std::fs::write(&path, manifest.to_json(&path).expect("a manifest")).expect("it is written");
    assert_eq!(session.reload().expect("the registry").changed, ["tiny"]);
    assert_eq!(session.adapted_decoder("tiny").expect("the package").adapter.manifest, manifest);
}

#[test]
fn documents_are_read_and_compressed_once_for_all_names_of_an_encoder() {
    let place = Place::with_adapter();
    let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
    let registry = registry.replace("package = \"encoder\"", "package = \"encoder\"\naliases = [\"begin\"]");
    let entry = |name: &str, encoder: &str| {
        format!("[decoders.{name}]\nsource = \"file:tiny.gguf\"\nadapter = \"adapter\"\n{encoder}")
    };
    // By default, by its name, by an alias, and at the rate that it has by itself.
    let more = entry("named", "encoder = \"start\"\n")
        + &entry("aliased", "encoder = \"begin\"\n")
        + &entry("rated", "options = { factor = 1 }\n");
    place.file("registry.toml", registry + &more);
    let decoders = "tiny,named,aliased,rated";
    let mut child = place
        .arc(&["ask", "--decoder", decoders, "--document", "-", "--max-tokens", "2", "what?"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("a pipe").write_all(b"an old letter").expect("it is read");
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr.matches("latents in").count(), 1, "compressed once: {stderr}");
}

#[test]
fn what_is_registered_and_what_is_added_goes_to_the_same_file() {
    let place = Place::with_adapter();
    // All that there is here is the user's own registry, which has an adapter for the decoder.
    let text = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
    let text = text
        .replace("\"file:tiny.gguf\"", &format!("\"file:{}\"", place.path("tiny.gguf").display()))
        .replace("\"encoder\"", &format!("\"{}\"", place.path("encoder").display()))
        .replace("\"adapter\"", &format!("\"{}\"", place.path("adapter").display()));
    place.file("home/arc-encoder/registry.toml", text);
    std::fs::remove_file(place.path("registry.toml")).expect("it was there");
    let register = ["register", "--decoder", "tiny", "--text", "nowhere"];
    // Both begin a registry here, and the user's own is changed only with `--user`.
    place.fails(tiny::FAILURE, &register).says(&["nowhere"]);
    let own = [&register[..], &["--user"]].concat();
    place.fails(USAGE, &own).says(&["an adapter of encoder `start` for `tiny` exists already"]);
    let added = place.succeeds(&["adapters", "add", "adapter"]);
    assert_eq!(added["registry"], place.path("registry.toml").to_str().expect("Unicode"));
    place.fails(USAGE, &register).says(&["exists already"]);
}
