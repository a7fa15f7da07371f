//! `arc pull`: models into the cache.

use arc_adapters::{DecoderEntry, EncoderEntry, EncoderManifest, EncoderWeights, ModelFile, Registry};
use serde_json::json;

use super::pulling::locate;
use super::registries::registry;
use super::session::session;
use crate::Failure;
use crate::args::{Global, Pull};
use crate::output::Output;

pub(crate) fn run(global: &Global, pull: &Pull, output: &Output) -> Result<(), Failure> {
    let registry = registry(global)?;
    // Every name is looked up before the first of them is pulled, which may take hours.
    let wanted =
        pull.names.iter().map(|name| Wanted::find(&registry, name)).collect::<Result<Vec<_>, _>>()?;
    let mut pulled = Vec::new();
    for (name, wanted) in pull.names.iter().zip(wanted) {
        let path = match wanted {
            Wanted::Decoder(entry) => {
                if let Some(tokenizer) = &entry.tokenizer {
                    locate(tokenizer, &entry.name, global.yes)?;
                }
                locate(&entry.model, &entry.name, global.yes)?
            }
            Wanted::Encoder(entry, manifest) => match manifest.weights {
                EncoderWeights::Published { source } => {
                    locate(&ModelFile::unpinned(source), &entry.name, global.yes)?
                }
                _ => session(global)?.backbone(&manifest)?,
            },
        };
        output.line(format!("{name}: {}", path.display()))?;
        pulled.push(json!({ "name": name, "path": path.to_string_lossy() }));
    }
    output.json(&json!({ "pulled": pulled }))
}

/// What a name means: an encoder is pulled as its backbone, a published one as its checkpoint.
#[expect(clippy::large_enum_variant, reason = "there are as many as names on the command line")]
enum Wanted<'a> {
    Decoder(&'a DecoderEntry),
    Encoder(&'a EncoderEntry, EncoderManifest),
}

impl<'a> Wanted<'a> {
    /// A decoder's name wins over an encoder's.
    fn find(registry: &'a Registry, name: &str) -> Result<Self, Failure> {
        match (registry.decoder(name), registry.encoder(name)) {
            (Ok(entry), _) => Ok(Self::Decoder(entry)),
            (Err(_), Ok(entry)) => {
                let manifest = EncoderManifest::open(&entry.package)?;
                if let Some(name) =
                    manifest.backbone.as_ref().and_then(|backbone| backbone.decoder.as_deref())
                {
                    registry.decoder(name)?;
                }
                Ok(Self::Encoder(entry, manifest))
            }
            (Err(_), Err(_)) => Err(registry.unknown_name(name).into()),
        }
    }
}
