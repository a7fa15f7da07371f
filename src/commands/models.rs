//! `arc models`: what the registry knows, and what of it is here; and deleting what was pulled.

use std::path::Path;

use arc_adapters::{DecoderEntry, ModelSource};
use arc_core::hub::Cache;
use indicatif::HumanBytes;
use serde_json::json;

use super::registries::registry;
use crate::Failure;
use crate::args::{Global, Models, ModelsAction};
use crate::output::Output;

pub(crate) fn run(global: &Global, models: &Models, output: &Output) -> Result<(), Failure> {
    match &models.command {
        None | Some(ModelsAction::List) => list(global, output),
        Some(ModelsAction::Remove { names }) => remove(global, names, output),
    }
}

/// Deletes what was pulled under names.
fn remove(global: &Global, names: &[String], output: &Output) -> Result<(), Failure> {
    let cache = Cache::from_env()?;
    // A cache outlives registries: what none of them knows can be deleted all the same.
    let registry = registry(global).ok();
    let cached = cache.list()?;
    let is_cached = |name: &str| cached.iter().any(|model| model.name == name);
    let mut wanted: Vec<String> = Vec::new();
    for name in names {
        let entry = registry.as_ref().and_then(|registry| registry.decoder(name).ok());
        let own = entry.map_or(name.as_str(), |entry| entry.name.as_str());
        if !is_cached(own) {
            return Err(not_cached(own, entry, cached.iter().map(|model| model.name.as_str()).collect()));
        }
        if !wanted.iter().any(|wanted| wanted == own) {
            wanted.push(own.to_owned());
        }
    }
    let mut removed = Vec::new();
    for name in wanted {
        let bytes = cache.remove(&name)?;
        output.line(format!("deleted `{name}`, {}", HumanBytes(bytes)))?;
        removed.push(json!({ "name": name, "bytes": bytes }));
    }
    output.json(&json!({ "removed": removed, "cache": cache.folder().to_string_lossy() }))
}

/// Why a name cannot be deleted.
fn not_cached(name: &str, entry: Option<&DecoderEntry>, cached: Vec<&str>) -> Failure {
    if let Some(ModelSource::File { path }) = entry.map(|entry| &entry.model.source) {
        return Failure::usage(
            format!("`{name}` was not pulled: it is `{}`", path.display()),
            "delete the file itself, and its entry with `arc adapters remove`",
        );
    }
    let there = match cached.as_slice() {
        [] => "nothing was pulled on this machine".to_owned(),
        names => format!("what was pulled is `{}`", names.join("`, `")),
    };
    Failure::usage(format!("`{name}` is not in the cache"), there)
}

fn list(global: &Global, output: &Output) -> Result<(), Failure> {
    let registry = registry(global)?;
    let cache = Cache::from_env()?;
    let mut decoders = Vec::new();
    for entry in registry.decoders() {
        let adapter = registry.resolve(&entry.name, None).ok().and_then(|pair| pair.adapter);
        let path = cache.find(&entry.model, &entry.name);
        let size = entry
            .model
            .bytes
            .map_or_else(|| "size unknown".to_owned(), |bytes| HumanBytes(bytes).to_string());
        output.line(format!(
            "{:<24} {:>12}  {:<8} {}{}",
            entry.name,
            size,
            if path.is_some() { "here" } else { "not here" },
            entry.description.as_deref().unwrap_or(""),
            if adapter.is_some() { "" } else { " (no adapter)" },
        ))?;
        decoders.push(json!({
            "name": entry.name,
            "aliases": entry.aliases,
            "architecture": entry.architecture,
            "description": entry.description,
            "licence": entry.licence,
            "bytes": entry.model.bytes,
            "sha256": entry.model.sha256,
            "path": path.as_deref().map(Path::to_string_lossy),
            "adapter": adapter.map(|place| place.path().to_string_lossy()),
            "origin": entry.origin.to_string_lossy(),
        }));
    }
    let mut encoders = Vec::new();
    let default = registry.default_encoder().ok().flatten();
    for entry in registry.encoders() {
        let is_default = default.is_some_and(|default| default.name == entry.name);
        output.line(format!(
            "{:<24} {:>12}  {:<8} {}",
            entry.name,
            "encoder",
            if is_default { "default" } else { "" },
            entry.description.as_deref().unwrap_or("")
        ))?;
        encoders.push(json!({
            "name": entry.name,
            "package": entry.package.to_string_lossy(),
            "description": entry.description,
            "default": is_default,
            "origin": entry.origin.to_string_lossy(),
        }));
    }
    output.json(
        &json!({ "decoders": decoders, "encoders": encoders, "cache": cache.folder().to_string_lossy() }),
    )
}
