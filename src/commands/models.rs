//! `arc models`: what the registry knows, and what of it is here.

use std::path::Path;

use arc_core::hub::Cache;
use indicatif::HumanBytes;
use serde_json::json;

use super::registries::registry;
use crate::Failure;
use crate::args::Global;
use crate::output::Output;

pub(crate) fn run(global: &Global, output: &Output) -> Result<(), Failure> {
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
