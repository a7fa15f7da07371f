//! `arc adapters verify`: everything about adapters that can be checked without generating.

use arc_adapters::{Check, Outcome, Registry};
use arc_core::decoder::{Decoder, ModelSettings};
use arc_core::device::DeviceName;
use arc_core::hub::Cache;
use arc_core::nn::Residence;
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
        let adapted = registry
            .decoders()
            .filter(|entry| entry.adapter.is_some() || entry.plugin.is_some() || !entry.adapters.is_empty());
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
    if let Subject::Decoder(entry) = &subject {
        let registry = registry(global)?;
        let model = Cache::from_env()?.find(&entry.model, &entry.name);
        let mut checks = arc_adapters::verify(&registry, &entry.name, &policy, model.as_deref())?;
        if let Ok(adapter) = subject.open(&policy) {
            checks.push(check_pins(&registry, &entry.name, &adapter)?);
        }
        return Ok(checks);
    }
    let (mut checks, adapter) = arc_adapters::check_adapter(subject.open(&policy));
    if let (Some(adapter), Ok(registry)) = (adapter, registry(global)) {
        let decoder = adapter.manifest.decoder.name.clone();
        if registry.decoder(&decoder).is_ok() {
            checks.push(check_pins(&registry, &decoder, &adapter)?);
        }
    }
    Ok(checks)
}

/// Whether the model, if it is here, has the embedding table and tokenizer that an adapter pins.
pub(super) fn check_pins(
    registry: &Registry,
    decoder: &str,
    adapter: &arc_adapters::Adapter,
) -> Result<Check, Failure> {
    let what = "adapter: embedding table and tokenizer are the model's";
    let entry = registry.decoder(decoder)?;
    let cache = Cache::from_env()?;
    let Some(path) = cache.find(&entry.model, &entry.name) else {
        return Ok(Check::skipped(what, "the model is not in the cache"));
    };
    let tokenizer = entry.tokenizer.as_ref().map(|file| cache.find(file, &entry.name));
    if tokenizer == Some(None) {
        return Ok(Check::skipped(what, "the tokenizer is not in the cache"));
    }
    let settings = ModelSettings::of_entry(entry, tokenizer.flatten());
    let device = DeviceName::CPU.open()?;
    Ok(match Decoder::open_with(&entry.name, &path, settings, &device, Residence::Packed) {
        Err(error) => Check::failed_with(what, error.to_string(), error.hint()),
        Ok(model) => {
            let pins = adapter.manifest.check_decoder(
                model.network.config().architecture.name(),
                model.embedding_sha256(),
                model.tokenizer.sha256(),
            );
            Check::of(what, pins).0
        }
    })
}
