//! `arc cache`: the compressed documents that are kept on this machine.

use std::time::{SystemTime, UNIX_EPOCH};

use indicatif::{HumanBytes, HumanDuration};
use serde_json::json;

use super::compressor::document_cache;
use super::registries::registry;
use crate::Failure;
use crate::args::{DocumentCacheAction, DocumentCacheCommand, Global};
use crate::output::Output;

pub(crate) fn run(global: &Global, args: &DocumentCacheCommand, output: &Output) -> Result<(), Failure> {
    match &args.command {
        DocumentCacheAction::List => list(global, output),
        DocumentCacheAction::Clean { keep } => clean(keep.as_u64(), output),
    }
}

fn list(global: &Global, output: &Output) -> Result<(), Failure> {
    let cache = document_cache()?;
    let documents = cache.list()?;
    // Names of encoders, where a registry has them; a cache outlives registries.
    let names: Vec<(String, String)> = registry(global).map_or_else(
        |_| Vec::new(),
        |registry| {
            let id = |entry: &arc_adapters::EncoderEntry| {
                let manifest = arc_adapters::EncoderManifest::open(&entry.package).ok()?;
                Some((manifest.encoder_id, entry.name.clone()))
            };
            registry.encoders().filter_map(id).collect()
        },
    );
    let name_of = |id: &str| names.iter().find(|(of, _)| of == id).map(|(_, name)| name.clone());
    for document in &documents {
        let age = HumanDuration(document.used.elapsed().unwrap_or_default());
        let Some(of) = &document.description else {
            output.line(format!(
                "{:>10}  cannot be read: {}",
                HumanBytes(document.bytes),
                document.path.display()
            ))?;
            continue;
        };
        let encoder = name_of(&of.encoder_id).unwrap_or_else(|| of.encoder_id.chars().take(12).collect());
        output.line(format!(
            "{:>10}  {} tokens, {} latents of {encoder} at {}, used {age} ago, text {}",
            HumanBytes(document.bytes).to_string(),
            of.source_tokens,
            of.latents(),
            of.factor,
            of.text_sha256.get(..12).unwrap_or_default(),
        ))?;
    }
    let prefixes = cache.prefixes()?;
    for prefix in &prefixes {
        let age = HumanDuration(prefix.used.elapsed().unwrap_or_default());
        let bytes = HumanBytes(prefix.bytes).to_string();
        output.line(match &prefix.description {
            Some((decoder, positions)) => format!(
                "{bytes:>10}  keys and values of {positions} positions that {decoder} has read, used {age} ago"
            ),
            None => format!("{bytes:>10}  cannot be read: {}", prefix.path.display()),
        })?;
    }
    let total: u64 = documents.iter().map(|document| document.bytes).sum::<u64>()
        + prefixes.iter().map(|prefix| prefix.bytes).sum::<u64>();
    output.line(format!(
        "{} documents, {} of {} in {}",
        documents.len(),
        HumanBytes(total),
        HumanBytes(cache.limit()),
        cache.folder().display()
    ))?;
    let seconds = |used: SystemTime| used.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let entries: Vec<_> = documents
        .iter()
        .map(|document| {
            let of = document.description.as_ref();
            json!({
                "path": document.path.to_string_lossy(),
                "bytes": document.bytes,
                "used_unix": seconds(document.used),
                "text_sha256": of.map(|of| &of.text_sha256),
                "encoder_id": of.map(|of| &of.encoder_id),
                "encoder": of.and_then(|of| name_of(&of.encoder_id)),
                "factor": of.map(|of| of.factor),
                "source_tokens": of.map(|of| of.source_tokens),
                "latents": of.map(arc_core::encoder::LatentsDescription::latents),
            })
        })
        .collect();
    let read: Vec<_> = prefixes
        .iter()
        .map(|prefix| {
            let (decoder, positions) = prefix.description.clone().unzip();
            json!({
                "path": prefix.path.to_string_lossy(),
                "bytes": prefix.bytes,
                "used_unix": seconds(prefix.used),
                "decoder": decoder,
                "positions": positions,
            })
        })
        .collect();
    output.json(&json!({
        "folder": cache.folder().to_string_lossy(),
        "limit": cache.limit(),
        "bytes": total,
        "documents": entries,
        "prefixes": read,
    }))
}

fn clean(keep: u64, output: &Output) -> Result<(), Failure> {
    let cache = document_cache()?;
    let freed = cache.shrink(keep)?;
    output.line(format!("deleted {} files, {}", freed.files, HumanBytes(freed.bytes)))?;
    output.json(&json!({
        "folder": cache.folder().to_string_lossy(),
        "deleted": freed.files,
        "bytes": freed.bytes,
    }))
}
