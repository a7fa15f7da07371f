//! What the registry holds and whether it works, as plain data to print: list, inspect, verify and
//! doctor.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{
    Adapter, AdapterManifest, DecoderEntry, EncoderManifest, Error, ModelSource, PluginPolicy, Registry,
    RegistryFile, Result, WeightType, sha256_file,
};

/// One decoder of [`list`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListedDecoder {
    /// Its name.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// The architecture, where the registry says so.
    pub architecture: Option<String>,
    /// Where the model comes from.
    pub source: ModelSource,
    /// `package`, `plugin` or `none`.
    pub adapter_kind: &'static str,
    /// The package folder or plugin file.
    pub adapter: Option<PathBuf>,
    /// The registry file that defines it.
    pub origin: PathBuf,
    /// The registry files whose entries of the same name it replaces.
    pub replaces: Vec<PathBuf>,
}

/// Every decoder of a registry, without looking at any other file.
#[must_use]
pub fn list(registry: &Registry) -> Vec<ListedDecoder> {
    registry
        .decoders()
        .map(|entry| {
            let (adapter_kind, adapter) = match (&entry.adapter, &entry.plugin) {
                (_, Some(plugin)) => ("plugin", Some(plugin.path.clone())),
                (Some(folder), None) => ("package", Some(folder.clone())),
                (None, None) => ("none", None),
            };
            ListedDecoder {
                name: entry.name.clone(),
                aliases: entry.aliases.clone(),
                architecture: entry.architecture.clone(),
                source: entry.model.source.clone(),
                adapter_kind,
                adapter,
                origin: entry.origin.clone(),
                replaces: entry.replaces.clone(),
            }
        })
        .collect()
}

/// An adapter in full.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// The package folder or plugin file.
    pub origin: PathBuf,
    /// The manifest.
    pub manifest: AdapterManifest,
    /// The tensors, sorted by name.
    pub tensors: Vec<InspectedTensor>,
    /// How many numbers the tensors have in all.
    pub n_parameters: usize,
    /// Whether the host can build and train the projector.
    pub trainable: bool,
}

/// A tensor of an [`Inspection`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InspectedTensor {
    /// Its name.
    pub name: String,
    /// `F32`, `F16` or `BF16`.
    pub dtype: &'static str,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
}

/// Describes an adapter that was opened.
#[must_use]
pub fn inspect(adapter: &Adapter) -> Inspection {
    let weights = &adapter.weights;
    let tensors: Vec<_> = weights
        .names()
        .map(|name| InspectedTensor {
            name: name.to_owned(),
            dtype: match weights.dtype(name) {
                Some(WeightType::F16) => "F16",
                Some(WeightType::Bf16) => "BF16",
                _ => "F32",
            },
            shape: weights.shape(name).unwrap_or_default().to_vec(),
        })
        .collect();
    Inspection {
        origin: adapter.origin.clone(),
        manifest: adapter.manifest.clone(),
        n_parameters: tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum(),
        tensors,
        trainable: adapter.is_trainable(),
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is about.
    pub what: String,
    /// How it went.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a check went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Not as it should be.
    Failed {
        /// The error.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// Not looked at.
    Skipped {
        /// Why.
        reason: String,
    },
}

impl Check {
    /// The check that a result is, and its value.
    pub fn of<T>(what: impl Into<String>, result: Result<T>) -> (Self, Option<T>) {
        let what = what.into();
        match result {
            Ok(value) => (Self { what, outcome: Outcome::Passed }, Some(value)),
            Err(error) => {
                let outcome = Outcome::Failed { message: error.to_string(), hint: error.hint() };
                (Self { what, outcome }, None)
            }
        }
    }

    /// A check that failed for a reason that is no [`Error`].
    #[must_use]
    pub fn failed_with(what: &str, message: String, hint: Option<String>) -> Self {
        Self { what: what.to_owned(), outcome: Outcome::Failed { message, hint } }
    }

    /// A check that was left out.
    #[must_use]
    pub fn skipped(what: &str, reason: impl Into<String>) -> Self {
        Self { what: what.to_owned(), outcome: Outcome::Skipped { reason: reason.into() } }
    }

    /// Whether it failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { .. })
    }
}

/// Checks one decoder's adapter against everything that can be read without running a model.
///
/// `model` is where the decoder's model file lies, if it has been pulled. The embedding table and
/// the tokenizer are checked by who loads the model, with
/// [`AdapterManifest::check_decoder`].
///
/// # Errors
/// [`Error::UnknownName`]; everything else is a failed check.
pub fn verify(
    registry: &Registry,
    decoder: &str,
    policy: &PluginPolicy,
    model: Option<&Path>,
) -> Result<Vec<Check>> {
    let entry = registry.decoder(decoder)?;
    let (mut checks, adapter) = check_adapter(Adapter::resolve(entry, policy));
    match &adapter {
        None => checks
            .push(Check::skipped("adapter: matches decoder and encoder", "there is no adapter to match")),
        Some(adapter) => {
            checks.push(Check::of("adapter: made for this decoder", made_for(entry, &adapter.manifest)).0);
            checks.extend(check_encoder(registry, entry, &adapter.manifest));
        }
    }

    let what = "model: sha256";
    let local = match &entry.model.source {
        ModelSource::File { path } => Some(path.as_path()),
        _ => model,
    };
    checks.push(match (local, &entry.model.sha256) {
        (None, _) => Check::skipped(what, format!("not pulled yet: `arc pull {}` checks it", entry.name)),
        (_, None) => Check::skipped(what, "the registry pins no sha256"),
        (Some(path), Some(expected)) => Check::of(what, check_sha256(path, expected)).0,
    });
    Ok(checks)
}

/// The checks of an adapter by itself, wherever it was opened.
#[must_use]
pub fn check_adapter(opened: Result<Adapter>) -> (Vec<Check>, Option<Adapter>) {
    let (check, adapter) = Check::of("adapter: manifest, sha256, shapes, values", opened);
    let mut checks = vec![check];
    if let Some(adapter) = &adapter
        && let Some(projector) = adapter.host_projector()
    {
        let probe = projector.project(&vec![0.5; 2 * adapter.manifest.d_encoder], 2);
        checks.push(Check::of("plugin: `project` on two rows", probe).0);
    }
    (checks, adapter)
}

fn made_for(entry: &DecoderEntry, manifest: &AdapterManifest) -> Result<()> {
    // Names differ between registries, so the name alone proves nothing; the architecture must fit.
    match &entry.architecture {
        Some(architecture) if *architecture != manifest.decoder.architecture => Err(Error::PinMismatch {
            adapter: manifest.name.clone(),
            what: crate::Pin::Architecture,
            expected: manifest.decoder.architecture.clone(),
            found: architecture.clone(),
        }),
        _ => Ok(()),
    }
}

fn check_encoder(registry: &Registry, entry: &DecoderEntry, manifest: &AdapterManifest) -> Vec<Check> {
    let Some(name) = entry.encoder.as_deref().or(registry.default_encoder()) else {
        return vec![Check::skipped("encoder", "no default encoder is set")];
    };
    let open = registry.encoder(name).and_then(|encoder| EncoderManifest::open(&encoder.package));
    let (check, encoder) = Check::of(format!("encoder `{name}`: manifest"), open);
    let mut checks = vec![check];
    if let Some(encoder) = encoder {
        let pinned = manifest.check_encoder(&encoder.encoder_id);
        checks.push(Check::of("adapter: made for this encoder", pinned).0);
        if encoder.d_encoder != manifest.d_encoder {
            checks.push(Check {
                what: "adapter: width of the latents".to_owned(),
                outcome: Outcome::Failed {
                    message: format!(
                        "the adapter reads latents of width {}, the encoder gives {}",
                        manifest.d_encoder, encoder.d_encoder
                    ),
                    hint: Some("use the encoder that the adapter was made for".to_owned()),
                },
            });
        }
    }
    checks
}

fn check_sha256(path: &Path, expected: &str) -> Result<()> {
    let found = sha256_file(path)?;
    if found == expected {
        return Ok(());
    }
    Err(Error::Sha256Mismatch { path: path.to_owned(), expected: expected.to_owned(), found })
}

/// A cause of trouble that [`doctor`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How likely it is to be what the user came about.
    pub likelihood: Likelihood,
    /// What it is about: a registry file, `decoder NAME`, `encoder NAME`.
    pub subject: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// How likely a finding is to be the cause of a user's trouble; the likeliest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Likelihood {
    /// Nothing works before this is put right.
    Certain,
    /// What it is about does not work.
    Likely,
    /// It works, but perhaps not as meant.
    Possible,
}

/// Looks for everything that keeps a setup from working, the likeliest cause first.
///
/// `registries` are the files that would be layered. `model` says where the model file of a decoder
/// lies, if it has been pulled. An empty answer means that nothing was found.
pub fn doctor(
    registries: &[RegistryFile],
    policy: &PluginPolicy,
    model: &dyn Fn(&DecoderEntry) -> Option<PathBuf>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut registry = Registry::default();
    if registries.is_empty() {
        findings.push(Finding {
            likelihood: Likelihood::Certain,
            subject: "registry".to_owned(),
            problem: "no registry file was found".to_owned(),
            hint: Some("run where a `registry.toml` is, or pass `--registry FILE`".to_owned()),
        });
        return findings;
    }
    for file in registries {
        match Registry::open_file(file) {
            Ok(layer) => registry.overlay(layer),
            Err(error) => {
                findings.push(finding(Likelihood::Certain, &file.path.display().to_string(), &error));
            }
        }
    }
    match registry.default_encoder() {
        Some(name) => {
            if let Err(error) = registry.encoder(name) {
                findings.push(finding(Likelihood::Certain, "default_encoder", &error));
            }
        }
        None if findings.is_empty() => findings.push(Finding {
            likelihood: Likelihood::Possible,
            subject: "default_encoder".to_owned(),
            problem: "no default encoder is set".to_owned(),
            hint: Some("set `default_encoder` in a registry, or name an encoder in each call".to_owned()),
        }),
        None => {}
    }
    for encoder in registry.encoders() {
        if let Err(error) = EncoderManifest::open(&encoder.package) {
            let likelihood = if registry.default_encoder() == Some(&encoder.name) {
                Likelihood::Certain
            } else {
                Likelihood::Likely
            };
            findings.push(finding(likelihood, &format!("encoder `{}`", encoder.name), &error));
        }
    }
    for decoder in registry.decoders() {
        findings.extend(examine(&registry, decoder, policy, model(decoder).as_deref()));
    }
    // Stable, so that within a likelihood registries come before encoders before decoders.
    findings.sort_by_key(|finding| finding.likelihood);
    findings
}

fn examine(
    registry: &Registry,
    decoder: &DecoderEntry,
    policy: &PluginPolicy,
    model: Option<&Path>,
) -> Vec<Finding> {
    let subject = format!("decoder `{}`", decoder.name);
    let mut findings = Vec::new();
    match Adapter::resolve(decoder, policy) {
        Err(error) => findings.push(finding(Likelihood::Likely, &subject, &error)),
        Ok(adapter) => {
            if let Err(error) = made_for(decoder, &adapter.manifest) {
                findings.push(finding(Likelihood::Likely, &subject, &error));
            }
            let encoder = decoder.encoder.as_deref().or(registry.default_encoder());
            let manifest = encoder
                .and_then(|name| registry.encoder(name).ok())
                .and_then(|entry| EncoderManifest::open(&entry.package).ok());
            if let Some(Err(error)) = manifest.map(|m| adapter.manifest.check_encoder(&m.encoder_id)) {
                findings.push(finding(Likelihood::Likely, &subject, &error));
            }
        }
    }
    let missing = match &decoder.model.source {
        ModelSource::File { path } if !path.exists() => Some((
            Likelihood::Likely,
            format!("its model file `{}` is not there", path.display()),
            "put the file there, or change `source` in the registry".to_owned(),
        )),
        ModelSource::File { .. } => None,
        // It is pulled when it is first asked for, where there is a network.
        _ if model.is_none() => Some((
            Likelihood::Possible,
            "its model has not been pulled".to_owned(),
            format!("run `arc pull {}`", decoder.name),
        )),
        _ => None,
    };
    if let Some((likelihood, problem, hint)) = missing {
        findings.push(Finding { likelihood, subject: subject.clone(), problem, hint: Some(hint) });
    }
    if let Some(replaced) = decoder.replaces.last() {
        findings.push(Finding {
            likelihood: Likelihood::Possible,
            subject,
            problem: format!(
                "its entry in `{}` replaces the one in `{}`",
                decoder.origin.display(),
                replaced.display()
            ),
            hint: None,
        });
    }
    findings
}

fn finding(likelihood: Likelihood, subject: &str, error: &Error) -> Finding {
    Finding { likelihood, subject: subject.to_owned(), problem: error.to_string(), hint: error.hint() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Chosen;
    use crate::scaffold::tests::scaffold;

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
        std::fs::write(root.path().join("start/encoder.json"), ENCODER.replace("SHA", &"a".repeat(64)))
            .unwrap();
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
        doctor(&[file], &PluginPolicy::default(), &|_| None)
    }

    #[test]
    fn a_sound_setup_has_no_findings_and_passes_every_check() {
        let (_root, path) = setup();
        assert_eq!(examine(&path), []);
        let registry = Registry::open(&path).unwrap();
        let checks = verify(&registry, "tiny", &PluginPolicy::default(), None).unwrap();
        assert_eq!(checks.len(), 5);
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
        assert_eq!(doctor(&[], &PluginPolicy::default(), &|_| None)[0].likelihood, Likelihood::Certain);
    }

    #[test]
    fn a_changed_model_fails_its_check() {
        let (root, path) = setup();
        std::fs::write(root.path().join("model.gguf"), "abd").unwrap();
        let checks = verify(&Registry::open(&path).unwrap(), "tiny", &PluginPolicy::default(), None).unwrap();
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
}
