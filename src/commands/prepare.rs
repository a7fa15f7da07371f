//! `arc data prepare`: text to shards.

use std::path::PathBuf;

use arc_core::train::{PrepareOptions, PrepareSource, prepare};
use serde_json::json;

use super::setup::session;
use crate::Failure;
use crate::args;
use crate::args::Global;
use crate::output::Output;

/// A licence that nobody stated.
const UNKNOWN_LICENCE: &str = "unknown";

pub(crate) fn run(global: &Global, args: &args::Prepare, output: &Output) -> Result<(), Failure> {
    let sources: Vec<PrepareSource> = args.source.iter().map(|source| parse_source(source)).collect();
    let session = session(global)?;
    let model = session.language_model(&args.tokenizer)?;
    let options = PrepareOptions {
        seed: args.seed,
        held_out: args.held_out,
        shard_bytes: args.shard_mib << 20,
        unseen: args.unseen.clone(),
    };
    let report = prepare(&sources, &model.tokenizer, &model.name, &args.out, &options)?;
    for (file, document, words) in &report.removed {
        output.remark(format!("left out {file} document {document}, which shares: {words}"));
    }
    let manifest = &report.manifest;
    for source in &manifest.sources {
        output.line(format!(
            "{}: {} documents, {} repeated, {} overlapping, {} bytes kept ({})",
            source.name,
            source.documents,
            source.duplicates,
            source.overlapping,
            source.bytes,
            source.licence
        ))?;
    }
    let tokens: u64 = manifest.shards.iter().map(|shard| shard.tokens).sum();
    let held_out = manifest.held_out.as_ref().map_or(0, |shard| shard.tokens);
    output.line(format!(
        "{tokens} tokens in {} shards, {held_out} held out: {}",
        manifest.shards.len(),
        args.out.display()
    ))?;
    output.json(&json!({ "out": args.out, "manifest": manifest, "removed": report.removed }))
}

/// `FILE=LICENCE`, or a file whose name has the sign itself.
fn parse_source(text: &str) -> PrepareSource {
    let (path, licence) = match text.rsplit_once('=') {
        Some((path, licence)) if !PathBuf::from(text).exists() => (path, licence),
        _ => (text, UNKNOWN_LICENCE),
    };
    PrepareSource { path: path.into(), licence: licence.to_owned() }
}
