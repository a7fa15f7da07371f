//! What the registry holds and whether it works, as plain data to print: list, inspect, verify and
//! doctor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{
    Adapter, AdapterManifest, Backbone, DecoderEntry, EncoderEntry, EncoderManifest, EncoderWeights, Error,
    MANIFEST_FILE, ModelSource, PluginPolicy, Registry, RegistryFile, Result, WeightType, sha256_file,
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
    /// The encoder to use with it, where it is not the default one.
    pub encoder: Option<String>,
    /// Package folders for other encoders, by the encoder's name.
    pub adapters: BTreeMap<String, PathBuf>,
    /// The registry file that defines it.
    pub origin: PathBuf,
    /// The registry files whose entries it replaces.
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
                encoder: entry.encoder.clone(),
                adapters: entry.adapters.clone(),
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
    /// Whether the weights are here. Where they are published elsewhere and were not imported, the
    /// tensors are those that the manifest asks for.
    pub imported: bool,
}

/// A tensor of an [`Inspection`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InspectedTensor {
    /// Its name.
    pub name: String,
    /// `F32`, `F16` or `BF16`; none where the weights are not here.
    pub dtype: Option<&'static str>,
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
            dtype: Some(match weights.dtype(name) {
                Some(WeightType::F16) => "F16",
                Some(WeightType::Bf16) => "BF16",
                _ => "F32",
            }),
            shape: weights.shape(name).unwrap_or_default().to_vec(),
        })
        .collect();
    inspection(&adapter.manifest, &adapter.origin, tensors, true)
}

/// Describes an adapter by its manifest alone.
#[must_use]
pub fn inspect_manifest(manifest: &AdapterManifest, origin: &Path) -> Inspection {
    let mut slots = manifest.required_tensors();
    slots.extend(manifest.optional_tensors());
    let mut tensors: Vec<_> = slots
        .into_iter()
        .map(|slot| InspectedTensor { name: slot.name, dtype: None, shape: slot.shape })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    inspection(manifest, origin, tensors, false)
}

fn inspection(
    manifest: &AdapterManifest,
    origin: &Path,
    tensors: Vec<InspectedTensor>,
    imported: bool,
) -> Inspection {
    let size = |tensor: &InspectedTensor| tensor.shape.iter().fold(1usize, |n, d| n.saturating_mul(*d));
    Inspection {
        origin: origin.to_owned(),
        manifest: manifest.clone(),
        n_parameters: tensors.iter().map(size).fold(0, usize::saturating_add),
        tensors,
        trainable: !manifest.projector.is_custom(),
        imported,
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
    /// The check that failed if there is a fault, which comes with what to do about it.
    fn unless(what: impl Into<String>, fault: Option<(String, String)>) -> Self {
        let outcome =
            fault.map_or(Outcome::Passed, |(message, hint)| Outcome::Failed { message, hint: Some(hint) });
        Self { what: what.into(), outcome }
    }

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

const LATENTS_WIDTH: &str = "adapter: width of the latents";

/// Checks one decoder's adapter against everything that can be read without running a model.
///
/// `model` is where the decoder's model file lies, if it has been pulled. The embedding table and
/// the tokenizer are checked by who loads the model, with
/// [`AdapterManifest::check_decoder`]. `template` says in one line what is wrong with a prompt
/// template, if anything is: this crate has no engine that reads them.
///
/// # Errors
/// [`Error::UnknownName`]; everything else is a failed check.
pub fn verify(
    registry: &Registry,
    decoder: &str,
    policy: &PluginPolicy,
    model: Option<&Path>,
    template: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Check>> {
    let entry = registry.decoder(decoder)?;
    let mut checks = Vec::new();
    if entry.adapter.is_some() || entry.plugin.is_some() || entry.adapters.is_empty() {
        let encoder = entry.encoder.as_deref().or(registry.default_encoder());
        let opened = Adapter::resolve(entry, policy);
        checks.extend(check_one(registry, entry, encoder, "adapter", opened, template));
    }
    for (encoder, folder) in &entry.adapters {
        // The usual adapter is often the one for the usual encoder.
        if entry.adapter.as_ref() != Some(folder) || entry.encoder.as_ref() != Some(encoder) {
            let about = format!("adapter for encoder `{encoder}`");
            let opened = open_pinned(entry, folder);
            checks.extend(check_one(registry, entry, Some(encoder), &about, opened, template));
        }
    }
    if entry.options.prompt_template.is_some() {
        checks.push(Check::unless("options: prompt template", bad_option(entry, template)));
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

/// An adapter of an entry, by its folder.
fn open_pinned(entry: &DecoderEntry, folder: &Path) -> Result<Adapter> {
    let adapter = Adapter::open(folder)?;
    entry.check_package(&adapter)?;
    Ok(adapter)
}

/// The checks of an adapter by itself, wherever it was opened.
#[must_use]
pub fn check_adapter(opened: Result<Adapter>) -> (Vec<Check>, Option<Adapter>) {
    check_opened("adapter", opened)
}

fn check_opened(about: &str, opened: Result<Adapter>) -> (Vec<Check>, Option<Adapter>) {
    let what = format!("{about}: manifest, sha256, shapes, values");
    if let Err(error @ Error::NotImported { .. }) = &opened {
        // Nothing is wrong with it: its weights are its makers' to give.
        let hint = error.hint().unwrap_or_default();
        return (vec![Check::skipped(&what, format!("{error}; {hint}"))], None);
    }
    let (check, adapter) = Check::of(what, opened);
    let mut checks = vec![check];
    if let Some(adapter) = &adapter
        && let Some(projector) = adapter.host_projector()
    {
        let probe = projector.project(&vec![0.5; 2 * adapter.manifest.d_encoder], 2);
        checks.push(Check::of("plugin: `project` on two rows", probe).0);
    }
    (checks, adapter)
}

/// The checks of one of an entry's adapters, which is for an encoder.
fn check_one(
    registry: &Registry,
    entry: &DecoderEntry,
    encoder: Option<&str>,
    about: &str,
    opened: Result<Adapter>,
    template: &dyn Fn(&str) -> Option<String>,
) -> Vec<Check> {
    let is_described = matches!(opened, Err(Error::NotImported { .. }));
    let (mut checks, adapter) = check_opened(about, opened);
    // One that is only described says what it is made for all the same.
    let folder = encoder.and_then(|encoder| entry.adapter_for(encoder)).or(entry.adapter.as_deref());
    let described = folder.filter(|_| is_described).and_then(|folder| AdapterManifest::open(folder).ok());
    match adapter.map(|adapter| adapter.manifest).or(described) {
        None => checks.push(Check::skipped(
            &format!("{about}: matches decoder and encoder"),
            "there is no adapter to match",
        )),
        Some(manifest) => {
            checks
                .push(Check::unless(format!("{about}: prompt template"), bad_template(&manifest, template)));
            let other = other_architecture(entry, &manifest);
            checks.push(Check::unless(format!("{about}: made for this decoder"), other));
            checks.extend(check_encoder(registry, encoder, about, &manifest));
        }
    }
    checks
}

/// Whether the prompt of an adapter can be made, as `template` has it, which says what is wrong with
/// one.
#[must_use]
pub fn check_template(manifest: &AdapterManifest, template: &dyn Fn(&str) -> Option<String>) -> Check {
    Check::unless("adapter: prompt template", bad_template(manifest, template))
}

fn bad_template(
    manifest: &AdapterManifest,
    template: &dyn Fn(&str) -> Option<String>,
) -> Option<(String, String)> {
    let fault = template(&manifest.prompt_template)?;
    let message = format!("adapter `{}`: {fault}", manifest.name);
    Some((message, format!("correct `prompt_template` in its `{MANIFEST_FILE}`")))
}

/// What is wrong with the prompt that an entry has in place of its adapter's.
fn bad_option(entry: &DecoderEntry, template: &dyn Fn(&str) -> Option<String>) -> Option<(String, String)> {
    let fault = template(entry.options.prompt_template.as_ref()?)?;
    let hint = format!("correct `prompt_template` there in `{}`", entry.origin.display());
    Some((format!("`options` of decoder `{}`: {fault}", entry.name), hint))
}

/// What is wrong where an adapter is for another architecture than an entry says. Either may be the
/// wrong one: no model was looked at.
fn other_architecture(entry: &DecoderEntry, manifest: &AdapterManifest) -> Option<(String, String)> {
    // Names differ between registries, so the name alone proves nothing; the architecture must fit.
    let said = entry.architecture.as_ref()?;
    let made_for = &manifest.decoder.architecture;
    (said != made_for).then(|| {
        let (adapter, decoder) = (&manifest.name, &entry.name);
        (
            format!(
                "adapter `{adapter}` was made for architecture `{made_for}`, the entry of decoder \
                 `{decoder}` says `{said}`"
            ),
            format!(
                "correct `architecture` in `{}` if that is not the model's, or use the model that the \
                 adapter was made for",
                entry.origin.display()
            ),
        )
    })
}

/// Whether an adapter gives vectors of the width that a decoder reads.
#[must_use]
pub fn check_embeddings(manifest: &AdapterManifest, d_model: usize) -> Check {
    let (adapter, given) = (&manifest.name, manifest.d_decoder);
    let fault = (given != d_model).then(|| {
        (
            format!("adapter `{adapter}` gives embeddings of width {given}, the decoder reads {d_model}"),
            "fit an adapter for this decoder with `arc fit`".to_owned(),
        )
    });
    Check::unless("adapter: width of the embeddings", fault)
}

/// The checks of an adapter that no entry names against the encoder that it was made for, which is
/// known by its identity whatever it is called here. One that is not here is no fault of the adapter.
#[must_use]
pub fn check_encoder_of(registry: &Registry, manifest: &AdapterManifest) -> Vec<Check> {
    match encoder_of(registry, manifest) {
        Err(error) => {
            vec![Check::of(format!("encoder `{}`: manifest", manifest.encoder.name), Err::<(), _>(error)).0]
        }
        Ok(None) => vec![Check::skipped("adapter: made for an encoder", no_encoder(manifest))],
        Ok(Some((name, encoder))) => {
            let pinned = manifest.check_encoder(&encoder.encoder_id);
            vec![
                Check::of(format!("adapter: made for encoder `{name}`"), pinned).0,
                Check::unless(LATENTS_WIDTH, other_width(manifest, &encoder)),
            ]
        }
    }
}

/// The encoder that an adapter was made for, else the one of its name.
fn encoder_of<'a>(
    registry: &'a Registry,
    manifest: &AdapterManifest,
) -> Result<Option<(&'a str, EncoderManifest)>> {
    let same = registry.encoders().find_map(|entry| {
        let encoder = EncoderManifest::open(&entry.package).ok()?;
        manifest.check_encoder(&encoder.encoder_id).is_ok().then_some((entry.name.as_str(), encoder))
    });
    match registry.encoder(&manifest.encoder.name) {
        _ if same.is_some() => Ok(same),
        Err(_) => Ok(None),
        Ok(entry) => Ok(Some((&entry.name, EncoderManifest::open(&entry.package)?))),
    }
}

fn no_encoder(manifest: &AdapterManifest) -> String {
    format!(
        "no encoder here is called `{}`, and none has the `encoder_id` that the adapter pins: `arc adapters \
         add` adds its package",
        manifest.encoder.name
    )
}

/// The checks of an adapter against the entry that it is to be added to, and against the encoder that
/// it would be used with: `for_encoder`, else the usual one. What fails could not be used.
///
/// An adapter for an encoder that no registry has is no fault: its latents may come from elsewhere.
#[must_use]
pub fn check_fit(
    registry: &Registry,
    entry: &DecoderEntry,
    for_encoder: Option<&str>,
    manifest: &AdapterManifest,
) -> Vec<Check> {
    let other = other_architecture(entry, manifest).map(|(message, _)| {
        let hint = format!(
            "add it to the decoder that it was made for with `--name`, correct `architecture` in `{}`, or \
             pass `--force` to add it all the same",
            entry.origin.display()
        );
        (message, hint)
    });
    let mut checks = vec![Check::unless("adapter: made for this decoder", other)];
    checks.extend(entry.shape.as_ref().map(|shape| check_embeddings(manifest, shape.d_model)));

    let what = "adapter: made for this encoder";
    let name = for_encoder.or(entry.encoder.as_deref()).or(registry.default_encoder());
    let usual = name.and_then(|name| registry.encoder(name).ok());
    let usual = usual.and_then(|entry| EncoderManifest::open(&entry.package).ok());
    let own = encoder_of(registry, manifest);
    match (usual, own) {
        (Some(encoder), _) if manifest.check_encoder(&encoder.encoder_id).is_ok() => {
            checks.push(Check::unless(LATENTS_WIDTH, other_width(manifest, &encoder)));
        }
        (_, Ok(None)) if for_encoder.is_none() => checks.push(Check::skipped(what, no_encoder(manifest))),
        (Some(encoder), own) => {
            let mut check = Check::of(what, manifest.check_encoder(&encoder.encoder_id)).0;
            if let (Outcome::Failed { hint, .. }, Ok(Some((name, own)))) = (&mut check.outcome, own)
                && manifest.check_encoder(&own.encoder_id).is_ok()
            {
                *hint = Some(format!(
                    "add it for the encoder that it was made for with `--for-encoder {name}`, or pass \
                     `--force` to add it all the same"
                ));
            }
            checks.push(check);
        }
        // Without a usual encoder it is used with the one that is named in each call.
        (None, Ok(Some(_))) => checks.extend(check_encoder_of(registry, manifest)),
        // What cannot be read is the registry's fault, and no reason to refuse the adapter.
        (None, _) => {}
    }
    checks
}

fn check_encoder(
    registry: &Registry,
    encoder: Option<&str>,
    about: &str,
    manifest: &AdapterManifest,
) -> Vec<Check> {
    let Some(name) = encoder else {
        return vec![Check::skipped("encoder", "no default encoder is set")];
    };
    let open = registry.encoder(name).and_then(|encoder| EncoderManifest::open(&encoder.package));
    let (check, encoder) = Check::of(format!("encoder `{name}`: manifest"), open);
    let mut checks = vec![check];
    if let Some(encoder) = encoder {
        let pinned = manifest.check_encoder(&encoder.encoder_id);
        checks.push(Check::of(format!("{about}: made for this encoder"), pinned).0);
        if let Some((message, hint)) = other_width(manifest, &encoder) {
            checks.push(Check::failed_with(&format!("{about}: width of the latents"), message, Some(hint)));
        }
    }
    checks
}

/// What is wrong where an adapter does not read what an encoder gives, and what to do about it.
fn other_width(manifest: &AdapterManifest, encoder: &EncoderManifest) -> Option<(String, String)> {
    let (read, given) = (manifest.d_encoder, encoder.d_encoder);
    (read != given).then(|| {
        (
            format!("the adapter reads latents of width {read}, the encoder gives {given}"),
            "use the encoder that the adapter was made for".to_owned(),
        )
    })
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
/// lies, if it has been pulled, and `template` what is wrong with a prompt template, as in
/// [`verify`]. An empty answer means that nothing was found.
pub fn doctor(
    registries: &[RegistryFile],
    policy: &PluginPolicy,
    model: &dyn Fn(&DecoderEntry) -> Option<PathBuf>,
    template: &dyn Fn(&str) -> Option<String>,
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
        findings.extend(examine_encoder(&registry, encoder));
    }
    for decoder in registry.decoders() {
        findings.extend(examine(&registry, decoder, policy, model(decoder).as_deref(), template));
    }
    // Stable, so that within a likelihood registries come before encoders before decoders.
    findings.sort_by_key(|finding| finding.likelihood);
    findings
}

fn examine_encoder(registry: &Registry, entry: &EncoderEntry) -> Vec<Finding> {
    let subject = format!("encoder `{}`", entry.name);
    // Without the default encoder nothing is compressed.
    let is_default = registry
        .default_encoder()
        .is_some_and(|name| registry.encoder(name).is_ok_and(|default| default.name == entry.name));
    let likelihood = if is_default { Likelihood::Certain } else { Likelihood::Likely };
    let manifest = match EncoderManifest::open(&entry.package) {
        Ok(manifest) => manifest,
        Err(error) => return vec![finding(likelihood, &subject, &error)],
    };
    let mut findings = Vec::new();
    if let EncoderWeights::Published { .. } = manifest.weights {
        findings.push(Finding {
            likelihood: if is_default { Likelihood::Certain } else { Likelihood::Possible },
            subject: subject.clone(),
            problem: "it is only described: its weights are published elsewhere and were not imported"
                .to_owned(),
            hint: Some(format!(
                "`arc import --name {}` fetches and imports its checkpoint{}",
                entry.name,
                if is_default { ", or set another `default_encoder`" } else { "" }
            )),
        });
    }
    let Some(Backbone { decoder: Some(name), sha256, .. }) = &manifest.backbone else { return findings };
    match registry.decoder(name) {
        Err(error) => findings.push(Finding {
            likelihood,
            subject,
            problem: format!("its backbone is not in the registry: {error}"),
            hint: Some(format!(
                "add decoder `{name}` with `arc adapters add --name {name} --source SOURCE`, pinned as `{sha256}`"
            )),
        }),
        Ok(backbone) => {
            if let Some(pinned) = backbone.model.sha256.as_ref().filter(|pinned| *pinned != sha256) {
                findings.push(Finding {
                    likelihood,
                    subject,
                    problem: format!(
                        "it was made from backbone `{name}` with sha256 `{sha256}`, the registry pins `{pinned}`"
                    ),
                    hint: Some(format!("point decoder `{name}` at the file that the encoder was made from")),
                });
            }
        }
    }
    findings
}

/// What is wrong with one of a decoder's adapters, which is for an encoder.
fn examine_adapter(
    registry: &Registry,
    decoder: &DecoderEntry,
    encoder: Option<&str>,
    opened: Result<Adapter>,
    template: &dyn Fn(&str) -> Option<String>,
) -> Vec<Finding> {
    let subject = match encoder.filter(|encoder| decoder.adapters.contains_key(*encoder)) {
        Some(encoder) => format!("decoder `{}` with encoder `{encoder}`", decoder.name),
        None => format!("decoder `{}`", decoder.name),
    };
    let mut findings = Vec::new();
    let manifest = match opened {
        Ok(adapter) => Some(adapter.manifest),
        Err(error) => {
            let likelihood = match &error {
                // It was never more than a description, or a model to be used without latents.
                Error::NotImported { .. } | Error::NoAdapter { .. } => Likelihood::Possible,
                _ => Likelihood::Likely,
            };
            findings.push(finding(likelihood, &subject, &error));
            None
        }
    };
    let encoder = match encoder.map(|name| registry.encoder(name)) {
        None => None,
        // A default that is not there was found already.
        Some(Err(_)) if encoder == registry.default_encoder() => None,
        Some(Err(error)) => {
            findings.push(finding(Likelihood::Likely, &subject, &error));
            None
        }
        Some(Ok(entry)) => EncoderManifest::open(&entry.package).ok(),
    };
    let Some(manifest) = manifest else { return findings };
    findings.extend(bad_template(&manifest, template).map(|fault| likely(&subject, fault)));
    findings.extend(other_architecture(decoder, &manifest).map(|fault| likely(&subject, fault)));
    if let Some(encoder) = encoder {
        if let Err(error) = manifest.check_encoder(&encoder.encoder_id) {
            findings.push(finding(Likelihood::Likely, &subject, &error));
        } else {
            findings.extend(other_width(&manifest, &encoder).map(|fault| likely(&subject, fault)));
        }
    }
    findings
}

fn examine(
    registry: &Registry,
    decoder: &DecoderEntry,
    policy: &PluginPolicy,
    model: Option<&Path>,
    template: &dyn Fn(&str) -> Option<String>,
) -> Vec<Finding> {
    let subject = format!("decoder `{}`", decoder.name);
    let usual = decoder.encoder.as_deref().or(registry.default_encoder());
    let mut findings = Vec::new();
    if decoder.adapter.is_some() || decoder.plugin.is_some() || decoder.adapters.is_empty() {
        let opened = Adapter::resolve(decoder, policy);
        findings.extend(examine_adapter(registry, decoder, usual, opened, template));
    }
    for (encoder, folder) in &decoder.adapters {
        if decoder.adapter.as_ref() != Some(folder) || decoder.encoder.as_ref() != Some(encoder) {
            let opened = open_pinned(decoder, folder);
            findings.extend(examine_adapter(registry, decoder, Some(encoder), opened, template));
        }
    }
    findings.extend(bad_option(decoder, template).map(|fault| likely(&subject, fault)));
    let missing = match &decoder.model.source {
        ModelSource::File { path } if !path.exists() => Some((
            Likelihood::Likely,
            format!("its model file `{}` is not there", path.display()),
            "put the file there, or change `source` in the registry".to_owned(),
        )),
        ModelSource::File { path } => {
            let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
            found.zip(decoder.model.bytes).filter(|(found, expected)| found != expected).map(
                |(found, expected)| {
                    (
                        Likelihood::Likely,
                        format!("its model file has {found} bytes, the registry says {expected}"),
                        "put the file there that the registry means, or correct `bytes` and `sha256`"
                            .to_owned(),
                    )
                },
            )
        }
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

/// A fault that keeps its subject from working, which comes with what to do about it.
fn likely(subject: &str, (problem, hint): (String, String)) -> Finding {
    Finding { likelihood: Likelihood::Likely, subject: subject.to_owned(), problem, hint: Some(hint) }
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
            let (text, json) =
                (std::fs::read_to_string(&path).unwrap(), root.path().join("start/encoder.json"));
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
                "decoder `tiny` with encoder `gone`",
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
            (
                &same,
                &with("bytes = 7"),
                Likelihood::Likely,
                "decoder `tiny`",
                "has 3 bytes, the registry says 7",
            ),
        ] {
            let findings = found(encoder, registry);
            let it = |f: &&Finding| {
                f.likelihood == likelihood && f.subject == subject && f.problem.contains(problem)
            };
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
        assert!(findings[0].hint.as_ref().unwrap().contains("registry.toml"), "{findings:?}");

        std::fs::write(&path, text).unwrap();
        let json = root.path().join("tiny/adapter.json");
        let mut manifest = AdapterManifest::open(&root.path().join("tiny")).unwrap();
        manifest.prompt_template = "{% for".to_owned();
        std::fs::write(&json, manifest.to_json(&json).unwrap()).unwrap();
        let (findings, failed) = found(&path);
        assert_eq!(failed, ["adapter: prompt template"]);
        assert_eq!(findings[0].problem, "adapter `tiny`: it does not end");
        assert!(findings[0].hint.as_ref().unwrap().contains("adapter.json"), "{findings:?}");
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
        let [Check { outcome: Outcome::Skipped { reason }, .. }] = checks.as_slice() else {
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
            [Outcome::Failed { hint: Some(hint), .. }] => hint.clone(),
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
                .contains("--force")
        );
        assert!(hint(&fault(None, &|manifest| manifest.d_decoder = 13)).contains("arc fit"));
        assert!(hint(&fault(None, &|manifest| manifest.d_encoder = 9)).contains("the encoder"));
        // It is here, and is not the usual one.
        assert!(hint(&fault(None, &made_for("other", "other"))).contains("--for-encoder other"));
        assert_eq!(fault(Some("other"), &made_for("other", "other")), []);
        assert!(hint(&fault(Some("other"), &|_| {})).contains("--for-encoder start"));
        assert!(hint(&fault(None, &made_for("start", "another"))).contains("--force"));
        // It is not here at all: its latents may come from elsewhere, unless another one is named.
        let elsewhere = made_for("far", "far");
        assert!(matches!(fault(None, &elsewhere).as_slice(), [Outcome::Skipped { .. }]));
        assert!(hint(&fault(Some("start"), &elsewhere)).contains("--force"));

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
        let hint = findings[0].hint.as_ref().unwrap();
        assert!(hint.contains("correct `architecture` in `") && !hint.contains("--force"), "{hint}");
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
        assert!(findings[1].hint.as_ref().unwrap().contains("arc import"), "{findings:?}");

        let registry = Registry::open(&path).unwrap();
        let checks = verify(&registry, "tiny", &PluginPolicy::default(), None, &|_| None).unwrap();
        assert!(checks.iter().all(|check| !check.failed()), "{checks:?}");
        assert!(matches!(&checks[0].outcome, Outcome::Skipped { reason } if reason.contains("arc import")));
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
        assert_eq!(listed[0]["encoder"], serde_json::Value::Null);
        let checks = verify(&registry, "tiny", &PluginPolicy::default(), None, &|_| None).unwrap();
        let failed: Vec<_> = checks.iter().filter(|c| c.failed()).map(|c| c.what.as_str()).collect();
        assert_eq!(failed, ["adapter for encoder `other`: made for this encoder"], "it is for `start`");
    }

    #[test]
    fn a_changed_model_fails_its_check() {
        let (root, path) = setup();
        std::fs::write(root.path().join("model.gguf"), "abd").unwrap();
        let checks =
            verify(&Registry::open(&path).unwrap(), "tiny", &PluginPolicy::default(), None, &|_| None)
                .unwrap();
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
