//! `arc pull`: models into the cache.

use arc_adapters::{EncoderManifest, EncoderWeights, ModelFile};
use serde_json::json;

use super::setup::{locate, registry, session};
use crate::Failure;
use crate::args::{Global, Pull};
use crate::output::Output;

pub(crate) fn run(global: &Global, pull: &Pull, output: &Output) -> Result<(), Failure> {
    let registry = registry(global)?;
    let mut pulled = Vec::new();
    for name in &pull.names {
        // An encoder is pulled as its backbone, a published one as its checkpoint; a decoder's name
        // wins over an encoder's.
        let path = match (registry.decoder(name), registry.encoder(name)) {
            (Ok(entry), _) => {
                if let Some(tokenizer) = &entry.tokenizer {
                    locate(tokenizer, &entry.name, global.yes)?;
                }
                locate(&entry.model, &entry.name, global.yes)?
            }
            (Err(_), Ok(entry)) => match EncoderManifest::open(&entry.package)? {
                EncoderManifest { weights: EncoderWeights::Published { source }, .. } => {
                    locate(&ModelFile::unpinned(source), &entry.name, global.yes)?
                }
                manifest => session(global)?.backbone(&manifest)?,
            },
            (Err(_), Err(_)) => return Err(registry.unknown_name(name).into()),
        };
        output.line(format!("{name}: {}", path.display()))?;
        pulled.push(json!({ "name": name, "path": path }));
    }
    output.json(&json!({ "pulled": pulled }))
}
