//! `arc export`: an imported encoder and its adapters, back in the released layout.

use arc_adapters::{Adapter, EncoderManifest};
use arc_core::export::{decoders_of, export};
use serde_json::json;

use super::setup::registry;
use crate::Failure;
use crate::args::{self, Global};
use crate::output::Output;

pub(crate) fn run(global: &Global, args: &args::Export, output: &Output) -> Result<(), Failure> {
    let registry = registry(global)?;
    let entry = registry.encoder(&args.name)?;
    let encoder = EncoderManifest::open(&entry.package)?;
    let decoders =
        if args.decoder_names.is_empty() { decoders_of(&encoder)? } else { args.decoder_names.clone() };
    let mut adapters = Vec::new();
    for name in &decoders {
        let decoder = registry.decoder(name)?;
        let folder = decoder.adapter_for(&entry.name).ok_or_else(|| arc_adapters::Error::NoAdapter {
            decoder: decoder.name.clone(),
            origin: decoder.origin.clone(),
        })?;
        adapters.push(Adapter::open(folder)?);
    }
    export(&encoder, &entry.package, &adapters, &args.output)?;
    output.line(format!(
        "encoder `{}` with {}: {}",
        entry.name,
        decoders.join(", "),
        args.output.display()
    ))?;
    output.json(&json!({ "encoder": entry.name, "decoders": decoders, "output": args.output }))
}
