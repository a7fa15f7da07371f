use std::path::PathBuf;

use super::*;
use crate::check::Likelihood;
use crate::scaffold::tests::scaffold;
use crate::{Chosen, Finding, RegistryFile, doctor, inspect, inspect_manifest, list};

const ENCODER: &str = r#"{"schema": 1, "name": "start", "encoder_id": "e", "architecture": "llama",
    "d_encoder": 8, "n_truncated_layers": 0, "compress_rates": [-4], "pool_type": "mean",
    "where": "before", "chunk_tokens": 64, "backbone": {"source": "file:b", "sha256": "SHA"},
    "weights": {"kind": "backbone"}}"#;

/// A setup in which everything is right.
fn setup() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("registry.toml");
    std::fs::write(root.path().join("model.gguf"), "abc").unwrap();
    std::fs::create_dir(root.path().join("start")).unwrap();
    std::fs::write(root.path().join("start/encoder.json"), ENCODER.replace("SHA", &"a".repeat(64))).unwrap();
    scaffold("tiny").package(&root.path().join("tiny")).unwrap();
    let sha256 = crate::sha256_hex(b"abc");
    std::fs::write(
        &path,
        format!(
            "schema = 1\ndefault_encoder = 'start'\n[encoders.start]\npackage = 'start'\n\
             [decoders.tiny]\narchitecture = 'llama'\nsource = 'file:model.gguf'\n\
             sha256 = '{sha256}'\nadapter = 'tiny'\n"
        ),
    )
    .unwrap();
    (root, path)
}

fn examine(path: &Path) -> Vec<Finding> {
    let file = RegistryFile { path: path.to_owned(), chosen: Chosen::Found };
    doctor(&[file], &PluginPolicy::default(), &|_| None, &|_| None)
}

#[test]
fn a_sound_setup_has_no_findings_and_passes_every_check() {
    let (_root, path) = setup();
    assert_eq!(examine(&path), []);
    let registry = Registry::open(&path).unwrap();
    let checks = verify(&registry, "tiny", &PluginPolicy::default(), None, &|_| None).unwrap();
    assert_eq!(checks.len(), 6);
    assert!(checks.iter().all(|c| c.outcome == Outcome::Passed), "{checks:?}");
}

#[test]
fn each_fault_is_found_and_the_likeliest_comes_first() {
    let break_it = |change: &dyn Fn(&Path)| {
        let (root, path) = setup();
        change(root.path());
        examine(&path).into_iter().map(|f| (f.likelihood, f.subject, f.problem)).collect::<Vec<_>>()
    };
    let edit = |root: &Path, file: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(text.contains(from));
        std::fs::write(root.join(file), text.replace(from, to)).unwrap();
    };
    for (change, likelihood, subject, problem) in [
        (
            &(|r: &Path| edit(r, "registry.toml", "schema = 1", "schema = 7")) as &dyn Fn(&Path),
            Likelihood::Certain,
            "registry.toml",
            "schema 7",
        ),
        (
            &|r: &Path| edit(r, "registry.toml", "encoder = 'start'", "encoder = 'stat'"),
            Likelihood::Certain,
            "default_encoder",
            "nearest name is `start`",
        ),
        (
            &|r: &Path| std::fs::remove_dir_all(r.join("start")).unwrap(),
            Likelihood::Certain,
            "encoder `start`",
            "cannot open",
        ),
        (
            &|r: &Path| edit(r, "start/encoder.json", "\"e\"", "\"other\""),
            Likelihood::Likely,
            "decoder `tiny`",
            "made for encoder `e`",
        ),
        (
            &|r: &Path| edit(r, "registry.toml", "'llama'", "'qwen2'"),
            Likelihood::Likely,
            "decoder `tiny`",
            "architecture `llama`",
        ),
        (
            &|r: &Path| std::fs::write(r.join("tiny/adapter.safetensors"), "").unwrap(),
            Likelihood::Likely,
            "decoder `tiny`",
            "sha256",
        ),
        (
            &|r: &Path| std::fs::remove_file(r.join("model.gguf")).unwrap(),
            Likelihood::Likely,
            "decoder `tiny`",
            "is not there",
        ),
    ] {
        let found = break_it(change);
        let (l, s, p) = found.first().unwrap_or_else(|| panic!("nothing found, expected {problem}"));
        assert!(*l == likelihood && s.ends_with(subject) && p.contains(problem), "{found:?}");
    }
    assert_eq!(
        doctor(&[], &PluginPolicy::default(), &|_| None, &|_| None)[0].likelihood,
        Likelihood::Certain
    );
}

#[test]
fn faults_of_encoders_and_of_further_adapters_are_found() {
    const BACKBONE: &str = r#"{"source": "file:b", "sha256": "SHA"}"#;
    let found = |encoder: &dyn Fn(String) -> String, registry: &dyn Fn(String) -> String| {
        let (root, path) = setup();
        let (text, json) = (std::fs::read_to_string(&path).unwrap(), root.path().join("start/encoder.json"));
        std::fs::write(&path, registry(text)).unwrap();
        std::fs::write(json, encoder(ENCODER.to_owned()).replace("SHA", &"a".repeat(64))).unwrap();
        examine(&path)
    };
    let same = |text: String| text;
    assert_eq!(found(&same, &same), []);

    let published = |text: String| {
        text.replace(
            &format!(r#""backbone": {BACKBONE}"#),
            r#""shape": {"n_layers": 2, "d_model": 8,
            "n_heads": 2, "n_kv_heads": 1, "d_head": 4, "d_ff": 16, "vocab_size": 61, "norm_eps": 1e-5,
            "rope_theta": 1e4}"#,
        )
        .replace(r#""kind": "backbone""#, r#""kind": "published", "source": "hf:O/R@main#f""#)
    };
    let of_decoder = |name: &str| {
        let backbone = format!(r#"{{"decoder": "{name}", "sha256": "SHA"}}"#);
        move |text: String| text.replace(BACKBONE, &backbone)
    };
    let no_default = |text: String| text.replace("default_encoder = 'start'\n", "");
    let with = |line: &'static str| move |text: String| format!("{text}{line}\n");
    let (none, tiny) = (of_decoder("none"), of_decoder("tiny"));
    for (encoder, registry, likelihood, subject, problem) in [
        (
            &published as &dyn Fn(String) -> String,
            &same as &dyn Fn(String) -> String,
            Likelihood::Certain,
            "encoder `start`",
            "it is only described",
        ),
        (&published, &no_default, Likelihood::Possible, "encoder `start`", "it is only described"),
        (&none, &same, Likelihood::Certain, "encoder `start`", "no decoder is called `none`"),
        (&none, &no_default, Likelihood::Likely, "encoder `start`", "no decoder is called `none`"),
        (&tiny, &same, Likelihood::Certain, "encoder `start`", "the registry pins"),
        (
            &same,
            &with("encoder = 'gone'"),
            Likelihood::Likely,
            "decoder `tiny`",
            "no encoder is called `gone`",
        ),
        (
            &same,
            &with("adapters = { gone = 'tiny' }"),
            Likelihood::Likely,
            "decoder `tiny`",
            "no encoder is called `gone`",
        ),
        (
            &same,
            &with("adapters = { start = 'nowhere' }"),
            Likelihood::Likely,
            "decoder `tiny` with encoder `start`",
            "cannot open",
        ),
        (
            &same,
            &with("adapter_sha256 = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'"),
            Likelihood::Likely,
            "decoder `tiny`",
            "the registry pins",
        ),
        (&same, &with("bytes = 7"), Likelihood::Likely, "decoder `tiny`", "has 3 bytes, the registry says 7"),
    ] {
        let findings = found(encoder, registry);
        let it =
            |f: &&Finding| f.likelihood == likelihood && f.subject == subject && f.problem.contains(problem);
        assert!(findings.iter().any(|f| it(&f)), "{likelihood:?} {subject} {problem}: {findings:?}");
    }
}

#[test]
fn a_prompt_that_cannot_be_made_is_found_in_the_adapter_and_in_the_entry() {
    let template = |source: &str| source.contains("{% for").then(|| "it does not end".to_owned());
    let policy = PluginPolicy::default();
    let found = |path: &Path| {
        let file = RegistryFile { path: path.to_owned(), chosen: Chosen::Found };
        let findings = doctor(&[file], &policy, &|_| None, &template);
        let registry = Registry::open(path).unwrap();
        let checks = verify(&registry, "tiny", &policy, None, &template).unwrap();
        let failed: Vec<_> = checks.into_iter().filter(Check::failed).map(|check| check.what).collect();
        (findings, failed)
    };
    let (root, path) = setup();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}options = {{ prompt_template = '{{% for' }}\n")).unwrap();
    let (findings, failed) = found(&path);
    assert_eq!(failed, ["options: prompt template"]);
    assert_eq!((findings.len(), findings[0].likelihood), (1, Likelihood::Likely), "{findings:?}");
    assert!(findings[0].hint.as_ref().unwrap().to_string().contains("registry.toml"), "{findings:?}");

    std::fs::write(&path, text).unwrap();
    let json = root.path().join("tiny/adapter.json");
    let mut manifest = AdapterManifest::open(&root.path().join("tiny")).unwrap();
    manifest.prompt_template = "{% for".to_owned();
    std::fs::write(&json, manifest.to_json(&json).unwrap()).unwrap();
    let (findings, failed) = found(&path);
    assert_eq!(failed, ["adapter: prompt template"]);
    assert_eq!(findings[0].problem, "adapter `tiny`: it does not end");
    assert!(findings[0].hint.as_ref().unwrap().to_string().contains("adapter.json"), "{findings:?}");
    assert!(check_template(&manifest, &template).failed());
}

#[test]
fn an_adapter_that_no_entry_names_is_held_against_the_encoder_of_its_identity() {
    let (root, path) = setup();
    let registry = Registry::open(&path).unwrap();
    let sound = AdapterManifest::open(&root.path().join("tiny")).unwrap();
    let of = |change: &dyn Fn(&mut AdapterManifest)| {
        let mut manifest = sound.clone();
        change(&mut manifest);
        check_encoder_of(&registry, &manifest)
    };
    // What the maker calls it means nothing here.
    for name in ["start", "other"] {
        let checks = of(&|manifest| manifest.encoder.name = name.to_owned());
        assert_eq!(checks[0].what, "adapter: made for encoder `start`");
        assert!(checks.iter().all(|check| check.outcome == Outcome::Passed), "{checks:?}");
    }
    let checks = of(&|manifest| manifest.encoder.encoder_id = "0".repeat(64));
    assert!(checks[0].failed(), "{checks:?}");
    let checks = of(&|manifest| manifest.d_encoder = 5);
    assert_eq!(checks.iter().filter(|check| check.failed()).count(), 1, "{checks:?}");
    let checks = of(&|manifest| {
        manifest.encoder = crate::EncoderPin { name: "other".to_owned(), encoder_id: "x".to_owned() };
    });
    let [Check { outcome: Outcome::Skipped { reason, .. }, .. }] = checks.as_slice() else {
        panic!("{checks:?}")
    };
    assert!(reason.contains("no encoder here is called `other`"), "{reason}");
    std::fs::remove_dir_all(root.path().join("start")).unwrap();
    assert!(of(&|_| {})[0].failed(), "it cannot be read");
}

#[test]
fn what_does_not_fit_is_told_before_it_is_added() {
    let (root, path) = setup();
    std::fs::create_dir(root.path().join("other")).unwrap();
    let encoder = ENCODER.replace("SHA", &"a".repeat(64)).replace("\"e\"", "\"other\"");
    std::fs::write(root.path().join("other/encoder.json"), encoder).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let shape = "shape = { n_layers = 2, d_model = 12, n_heads = 2, n_kv_heads = 1, d_head = 6, \
                 d_ff = 16, vocab_size = 10, norm_eps = 1e-5, rope_theta = 1e4 }\n";
    std::fs::write(&path, format!("{text}{shape}[encoders.other]\npackage = 'other'\n")).unwrap();
    let registry = Registry::open(&path).unwrap();
    let entry = registry.decoder("tiny").unwrap();
    let sound = AdapterManifest::open(&root.path().join("tiny")).unwrap();
    let fault = |for_encoder: Option<&str>, change: &dyn Fn(&mut AdapterManifest)| {
        let mut manifest = sound.clone();
        change(&mut manifest);
        let checks = check_fit(&registry, entry, for_encoder, &manifest);
        let outcomes = checks.into_iter().map(|check| check.outcome);
        outcomes.filter(|outcome| *outcome != Outcome::Passed).collect::<Vec<_>>()
    };
    let hint = |outcomes: &[Outcome]| match outcomes {
        [Outcome::Failed { hint: Some(hint), .. }] => hint.to_string(),
        other => panic!("{other:?}"),
    };
    let made_for = |name: &'static str, id: &'static str| {
        move |manifest: &mut AdapterManifest| {
            manifest.encoder = crate::EncoderPin { name: name.to_owned(), encoder_id: id.to_owned() };
        }
    };
    assert_eq!(fault(None, &|_| {}), []);
    assert!(
        hint(&fault(None, &|manifest| manifest.decoder.architecture = "gemma3".into()))
            .contains("the decoder that it was made for")
    );
    assert!(
        hint(&fault(None, &|manifest| manifest.d_decoder = 13)).contains("fit an adapter for this decoder")
    );
    assert!(hint(&fault(None, &|manifest| manifest.d_encoder = 9)).contains("the encoder"));
    // It is here, and is not the usual one.
    assert!(hint(&fault(None, &made_for("other", "other"))).contains("for encoder `other`"));
    assert_eq!(fault(Some("other"), &made_for("other", "other")), []);
    assert!(hint(&fault(Some("other"), &|_| {})).contains("for encoder `start`"));
    assert!(hint(&fault(None, &made_for("start", "another"))).contains("overridden pins"));
    // It is not here at all: its latents may come from elsewhere, unless another one is named.
    let elsewhere = made_for("far", "far");
    assert!(matches!(fault(None, &elsewhere).as_slice(), [Outcome::Skipped { .. }]));
    assert!(hint(&fault(Some("start"), &elsewhere)).contains("overridden pins"));

    // Without a usual encoder any that is here will do.
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("default_encoder = 'start'\n", "")).unwrap();
    let registry = Registry::open(&path).unwrap();
    let entry = registry.decoder("tiny").unwrap();
    let checks = check_fit(&registry, entry, None, &sound);
    assert!(checks.iter().all(|check| check.outcome == Outcome::Passed), "{checks:?}");
}

#[test]
fn an_architecture_that_the_registry_has_wrong_is_to_be_corrected_there() {
    let (_root, path) = setup();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("'llama'", "'lama'")).unwrap();
    let findings = examine(&path);
    let hint = findings[0].hint.as_ref().unwrap().to_string();
    assert!(hint.contains("correct `architecture` in `") && !hint.contains("overridden"), "{hint}");
}

#[test]
fn what_is_only_described_or_has_no_adapter_is_no_fault() {
    let (root, path) = setup();
    let json = root.path().join("tiny/adapter.json");
    let mut manifest = AdapterManifest::open(&root.path().join("tiny")).unwrap();
    manifest.weights.sha256.clear();
    std::fs::write(&json, manifest.to_json(&json).unwrap()).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}[decoders.bare]\nsource = 'file:model.gguf'\n")).unwrap();
    let findings = examine(&path);
    let problems: Vec<_> = findings.iter().map(|f| (f.likelihood, f.subject.as_str())).collect();
    let possible = Likelihood::Possible;
    assert_eq!(problems, [(possible, "decoder `bare`"), (possible, "decoder `tiny`")]);
    let import = Some(Hint::Import { encoder: "start".to_owned() });
    assert_eq!(findings[1].hint, import, "{findings:?}");

    let registry = Registry::open(&path).unwrap();
    let checks = verify(&registry, "tiny", &PluginPolicy::default(), None, &|_| None).unwrap();
    assert!(checks.iter().all(|check| !check.failed()), "{checks:?}");
    assert!(matches!(&checks[0].outcome, Outcome::Skipped { hint, .. } if *hint == import));
    // What it says is checked all the same.
    let encoder = root.path().join("start/encoder.json");
    let text = std::fs::read_to_string(&encoder).unwrap();
    std::fs::write(&encoder, text.replace("\"e\"", "\"other\"")).unwrap();
    let checks = verify(&registry, "tiny", &PluginPolicy::default(), None, &|_| None).unwrap();
    let failed: Vec<_> = checks.iter().filter(|c| c.failed()).map(|c| c.what.as_str()).collect();
    assert_eq!(failed, ["adapter: made for this encoder"]);

    let inspection = inspect_manifest(&manifest, root.path());
    assert_eq!(inspection.n_parameters, 4 * 8 + 12 * 4 + 8 + 8);
    assert!(!inspection.imported && inspection.tensors.iter().all(|tensor| tensor.dtype.is_none()));
}

#[test]
fn each_further_adapter_is_listed_and_verified() {
    let (root, path) = setup();
    scaffold("second").package(&root.path().join("second")).unwrap();
    std::fs::create_dir(root.path().join("other")).unwrap();
    let encoder = ENCODER.replace("SHA", &"a".repeat(64)).replace("\"e\"", "\"other\"");
    std::fs::write(root.path().join("other/encoder.json"), encoder).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let more = "adapters = { start = 'second', other = 'second' }\n[encoders.other]\npackage = 'other'\n";
    std::fs::write(&path, text + more).unwrap();
    let registry = Registry::open(&path).unwrap();
    let listed = serde_json::to_value(list(&registry)).unwrap();
    assert_eq!(listed[0]["adapters"]["other"], root.path().join("second").to_str().unwrap());
    assert_eq!(listed[0]["encoder"], "start");
    assert_eq!(listed[0]["usual"], root.path().join("tiny").to_str().unwrap());
    let checks = verify(&registry, "tiny", &PluginPolicy::default(), None, &|_| None).unwrap();
    let failed: Vec<_> = checks.iter().filter(|c| c.failed()).map(|c| c.what.as_str()).collect();
    assert_eq!(failed, ["adapter for encoder `other`: made for this encoder"], "it is for `start`");
}

#[test]
fn a_decoder_is_checked_with_the_adapter_that_it_would_be_used_with() {
    let (root, path) = setup();
    std::fs::create_dir(root.path().join("other")).unwrap();
    let encoder = ENCODER.replace("SHA", &"a".repeat(64)).replace("\"e\"", "\"other\"");
    std::fs::write(root.path().join("other/encoder.json"), encoder).unwrap();
    let mut second = scaffold("second");
    second.encoder.encoder_id = "other".to_owned();
    second.package(&root.path().join("second")).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    // The default encoder is another one than the usual adapter was made for, and the entry names an
    // adapter for it, once by an alias.
    for key in ["second-encoder", "alias"] {
        let text = text.replace("default_encoder = 'start'", "default_encoder = 'alias'");
        let more = format!(
            "adapters = {{ {key} = 'second' }}\n\
             [encoders.second-encoder]\npackage = 'other'\naliases = ['alias']\n"
        );
        std::fs::write(&path, text + &more).unwrap();
        assert_eq!(examine(&path), []);
        let registry = Registry::open(&path).unwrap();
        let checks = verify(&registry, "tiny", &PluginPolicy::default(), None, &|_| None).unwrap();
        assert!(checks.iter().all(|check| check.outcome == Outcome::Passed), "{checks:?}");
        let listed = list(&registry);
        assert_eq!(listed[0].adapter.as_deref(), Some(root.path().join("second").as_path()));
        assert_eq!(listed[0].encoder.as_deref(), Some("second-encoder"));
    }
}

#[test]
fn a_changed_model_fails_its_check() {
    let (root, path) = setup();
    std::fs::write(root.path().join("model.gguf"), "abd").unwrap();
    let checks =
        verify(&Registry::open(&path).unwrap(), "tiny", &PluginPolicy::default(), None, &|_| None).unwrap();
    let failed: Vec<_> = checks.iter().filter(|c| c.failed()).map(|c| c.what.as_str()).collect();
    assert_eq!(failed, ["model: sha256"]);
}

#[test]
fn a_list_says_where_each_entry_comes_from() {
    let (_root, path) = setup();
    let listed = list(&Registry::open(&path).unwrap());
    assert_eq!(listed[0].adapter_kind, "package");
    assert_eq!(listed[0].origin, path);
    let json = serde_json::to_value(&listed).unwrap();
    assert_eq!(json[0]["name"], "tiny");
}

#[test]
fn an_inspection_counts_every_parameter() {
    let (root, _path) = setup();
    let inspection = inspect(&Adapter::open(&root.path().join("tiny")).unwrap());
    assert_eq!(inspection.n_parameters, 4 * 8 + 12 * 4 + 8 + 8);
    assert!(inspection.trainable);
}
