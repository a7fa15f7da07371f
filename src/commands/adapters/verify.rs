//! `arc adapters verify`: everything about adapters that can be checked without generating.

use arc_adapters::{AdapterManifest, Check, DecoderEntry, Outcome, Pair, PluginPolicy, ReadOnce, Registry};
use arc_core::hub::Cache;
use arc_core::prompt::PromptTemplate;
use serde_json::json;

use super::models::Models;
use super::subject::Subject;
use crate::args::Global;
use crate::args::adapters::Verify;
use crate::commands::registries::registry;
use crate::commands::session::plugin_policy;
use crate::output::Output;
use crate::{Failure, hints};

pub(super) fn run(global: &Global, verify: &Verify, output: &Output) -> Result<(), Failure> {
    let policy = plugin_policy(global)?;
    let mut subjects = Vec::new();
    let whole = verify.adapters.is_empty().then(|| registry(global)).transpose()?;
    let (cache, models, read) = (Cache::from_env()?, Models::default(), ReadOnce::default());
    let of_decoder = |registry: &Registry, name: &str| -> Result<Vec<Check>, Failure> {
        let entry = registry.decoder(name)?;
        let model = cache.find(&entry.model, name);
        let model = model.as_deref();
        let mut checks = arc_adapters::verify_with(registry, name, &policy, model, &template_fault, &read)?;
        checks.extend(check_model_of(registry, entry, &policy, &models)?);
        Ok(checks)
    };
    match &whole {
        Some(registry) => {
            let adapted = registry.decoders().filter(|entry| entry.names_an_adapter());
            subjects.extend(adapted.map(|entry| (entry.name.as_str(), None)));
        }
        None => {
            for name in &verify.adapters {
                subjects.push((name.as_str(), Some(Subject::find(global, name)?)));
            }
        }
    }
    let (mut objects, mut failed, mut total) = (Vec::new(), 0, 0);
    for (name, subject) in &subjects {
        let mut checks = match (&whole, subject) {
            (Some(registry), _) => of_decoder(registry, name)?,
            (None, Some(Subject::Decoder(registry, decoder))) => of_decoder(registry, decoder)?,
            (None, Some(subject)) => checks(global, subject, &policy)?,
            (None, None) => Vec::new(),
        };
        checks.iter_mut().for_each(reword);
        output.line(name)?;
        for check in &checks {
            output.line(match &check.outcome {
                Outcome::Passed => format!("  ok       {}", check.what),
                Outcome::Skipped { reason, hint: None, .. } => format!("  skipped  {}: {reason}", check.what),
                Outcome::Skipped { reason, hint: Some(hint), .. } => {
                    format!("  skipped  {}: {reason}; {hint}", check.what)
                }
                Outcome::Failed { message, .. } => format!("  FAILED   {}: {message}", check.what),
            })?;
            if let Outcome::Failed { hint: Some(hint), .. } = &check.outcome {
                output.line(format!("           {hint}"))?;
            }
        }
        total += checks.len();
        failed += checks.iter().filter(|check| check.failed()).count();
        objects.push(json!({ "adapter": name, "checks": checks }));
    }
    output.json(&json!({ "passed": failed == 0, "adapters": objects }))?;
    if failed > 0 {
        return Err(Failure::failed(
            format!("{failed} of {total} checks failed"),
            "the report says which, and what to do about each",
        ));
    }
    Ok(())
}

/// Puts the hint of a check into the words of the command line.
fn reword(check: &mut Check) {
    if let Outcome::Failed { hint, .. } | Outcome::Skipped { hint, .. } = &mut check.outcome {
        *hint = hints::reworded(hint.take());
    }
}

/// The checks of an adapter that no entry is meant by.
fn checks(global: &Global, subject: &Subject, policy: &PluginPolicy) -> Result<Vec<Check>, Failure> {
    let opened = subject.open(policy);
    let is_described = matches!(opened, Err(arc_adapters::Error::NotImported { .. }));
    let (mut checks, adapter) = arc_adapters::check_adapter(opened);
    // One that is only described says what it is made for all the same.
    let described = subject.folder().filter(|_| is_described);
    let described = described.and_then(|folder| AdapterManifest::open(folder).ok());
    if let Some(manifest) = adapter.map(|adapter| adapter.manifest).or(described) {
        checks.push(arc_adapters::check_template(&manifest, &template_fault));
        checks.extend(check_made_for(registry(global), &manifest)?);
    }
    Ok(checks)
}

/// What is wrong with a prompt template, if anything is.
pub(super) fn template_fault(source: &str) -> Option<String> {
    PromptTemplate::parse(source).err().map(|error| error.to_string())
}

/// An adapter that no entry names against the encoder and the decoder that it was made for, as far as
/// they are here.
fn check_made_for(
    registry: Result<Registry, Failure>,
    manifest: &AdapterManifest,
) -> Result<Vec<Check>, Failure> {
    let registry = match registry {
        Ok(registry) => registry,
        Err(Failure { message, .. }) => {
            let encoder = Check::skipped("adapter: made for an encoder", &message);
            return Ok(vec![encoder, Check::skipped(PINS, &message)]);
        }
    };
    let mut checks = arc_adapters::check_encoder_of(&registry, manifest);
    match registry.decoder(&manifest.decoder.name) {
        Ok(entry) => checks.extend(check_model(entry, manifest)?),
        Err(unknown) => checks.push(Check::skipped(PINS, unknown.to_string())),
    }
    Ok(checks)
}

pub(super) const PINS: &str = "adapter: embedding table and tokenizer are the model's";

/// Whether the model of an entry, if it is here, is the one that its adapters were made for. The first
/// is the one that its name resolves to.
pub(super) fn check_model_of(
    registry: &Registry,
    entry: &DecoderEntry,
    policy: &PluginPolicy,
    models: &Models,
) -> Result<Vec<Check>, Failure> {
    // What does not resolve or cannot be opened has a check of its own that says so.
    let pairs = registry.pairs(&entry.name).unwrap_or_default();
    let manifests: Vec<_> = pairs.iter().filter_map(|pair| manifest_of(pair, policy)).collect();
    if manifests.is_empty() {
        return Ok(Vec::new());
    }
    Ok(match &*models.of(entry)? {
        Err(check) => vec![check.clone()],
        Ok(model) => manifests.iter().flat_map(|manifest| model.checks(manifest)).collect(),
    })
}

/// What an adapter was made for: a package says it without its weights, which have checks of their own.
fn manifest_of(pair: &Pair<'_>, policy: &PluginPolicy) -> Option<AdapterManifest> {
    match pair.described() {
        Ok(Some(manifest)) => (!manifest.weights.sha256.is_empty()).then_some(manifest),
        Ok(None) => Some(pair.open(policy).ok()?.manifest),
        Err(_) => None,
    }
}

/// Whether the model of an entry, if it is here, is the one that an adapter was made for.
fn check_model(entry: &DecoderEntry, manifest: &AdapterManifest) -> Result<Vec<Check>, Failure> {
    Ok(match &*Models::default().of(entry)? {
        Err(check) => vec![check.clone()],
        Ok(model) => model.checks(manifest),
    })
}
