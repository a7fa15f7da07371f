//! `arc adapters verify`: everything about adapters that can be checked without generating.

use arc_adapters::{AdapterManifest, Check, DecoderEntry, Outcome, PluginPolicy, Registry};
use arc_core::decoder::{Decoder, ModelSettings};
use arc_core::device::DeviceName;
use arc_core::hub::Cache;
use arc_core::nn::Residence;
use arc_core::prompt_template::PromptTemplate;
use serde_json::json;

use super::subject::Subject;
use crate::Failure;
use crate::args::Global;
use crate::args::adapters::Verify;
use crate::commands::setup::{plugin_policy, registry};
use crate::output::Output;

pub(super) fn run(global: &Global, verify: &Verify, output: &Output) -> Result<(), Failure> {
    let names = if verify.adapters.is_empty() {
        let registry = registry(global)?;
        let adapted = registry.decoders().filter(|entry| entry.names_an_adapter());
        adapted.map(|entry| entry.name.clone()).collect()
    } else {
        verify.adapters.clone()
    };
    let (mut objects, mut failed, mut total) = (Vec::new(), 0, 0);
    for name in &names {
        let checks = checks(global, name)?;
        output.line(name)?;
        for check in &checks {
            output.line(match &check.outcome {
                Outcome::Passed => format!("  ok       {}", check.what),
                Outcome::Skipped { reason } => format!("  skipped  {}: {reason}", check.what),
                Outcome::Failed { message, hint } => {
                    let hint = hint.as_ref().map_or_else(String::new, |hint| format!("\n           {hint}"));
                    format!("  FAILED   {}: {message}{hint}", check.what)
                }
            })?;
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

fn checks(global: &Global, name: &str) -> Result<Vec<Check>, Failure> {
    let policy = plugin_policy(global)?;
    let subject = Subject::find(global, name)?;
    if let Subject::Decoder(registry, name) = &subject {
        let entry = registry.decoder(name)?;
        let model = Cache::from_env()?.find(&entry.model, name);
        let mut checks = arc_adapters::verify(registry, name, &policy, model.as_deref(), &template_fault)?;
        checks.extend(check_model_of(registry, entry, &policy)?);
        return Ok(checks);
    }
    let opened = subject.open(&policy);
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

const PINS: &str = "adapter: embedding table and tokenizer are the model's";

/// Whether the model of an entry, if it is here, is the one that its adapters were made for. The first
/// is the one that its name resolves to.
pub(super) fn check_model_of(
    registry: &Registry,
    entry: &DecoderEntry,
    policy: &PluginPolicy,
) -> Result<Vec<Check>, Failure> {
    // What does not resolve or cannot be opened has a check of its own that says so.
    let pairs = registry.pairs(&entry.name).unwrap_or_default();
    let adapters: Vec<_> = pairs.iter().filter_map(|pair| pair.open(policy).ok()).collect();
    if adapters.is_empty() {
        return Ok(Vec::new());
    }
    Ok(match open_model(entry)? {
        Err(check) => vec![check],
        Ok(model) => adapters.iter().flat_map(|adapter| checks_against(&model, &adapter.manifest)).collect(),
    })
}

/// Whether the model of an entry, if it is here, is the one that an adapter was made for.
fn check_model(entry: &DecoderEntry, manifest: &AdapterManifest) -> Result<Vec<Check>, Failure> {
    Ok(match open_model(entry)? {
        Err(check) => vec![check],
        Ok(model) => checks_against(&model, manifest),
    })
}

/// The pins of an adapter and its width against a model.
pub(super) fn checks_against(model: &Decoder, manifest: &AdapterManifest) -> Vec<Check> {
    let config = model.network.config();
    let pins = manifest.check_decoder(
        config.architecture.name(),
        model.embedding_sha256(),
        model.tokenizer.sha256(),
    );
    vec![Check::of(PINS, pins).0, arc_adapters::check_embeddings(manifest, config.d_model())]
}

/// The model of an entry, if it is here and can be read; else the check that this makes.
pub(super) fn open_model(entry: &DecoderEntry) -> Result<Result<Decoder, Check>, Failure> {
    let cache = Cache::from_env()?;
    let Some(path) = cache.find(&entry.model, &entry.name) else {
        return Ok(Err(Check::skipped(PINS, "the model is not in the cache")));
    };
    let tokenizer = entry.tokenizer.as_ref().map(|file| cache.find(file, &entry.name));
    if tokenizer == Some(None) {
        return Ok(Err(Check::skipped(PINS, "the tokenizer is not in the cache")));
    }
    let settings = ModelSettings::of_entry(entry, tokenizer.flatten());
    let device = DeviceName::CPU.open()?;
    let opened = Decoder::open_with(&entry.name, &path, settings, &device, Residence::Packed);
    Ok(opened.map_err(|error| Check::failed_with(PINS, error.to_string(), error.hint())))
}
