//! `arc export`: an imported encoder and its adapters, back in the released layout.

use std::path::PathBuf;

use arc_adapters::EncoderManifest;
use arc_core::export::{decoders_of, export, own_encoder_of};
use serde_json::json;

use super::destination::check_folder;
use super::registries::registry;
use super::session::plugin_policy;
use crate::Failure;
use crate::args::{self, Global};
use crate::output::Output;

pub(crate) fn run(global: &Global, args: &args::Export, output: &Output) -> Result<(), Failure> {
    let registry = registry(global)?;
    let entry = registry.encoder(&args.name)?;
    let encoder = EncoderManifest::open(&entry.package)?;
    let decoders =
        if args.decoder_names.is_empty() { decoders_of(&encoder)? } else { args.decoder_names.clone() };
    check_folder(&args.output)?;
    let policy = plugin_policy(global)?;
    let (mut encoders, mut adapters) = (Vec::<(EncoderManifest, PathBuf)>::new(), Vec::new());
    for name in &decoders {
        let decoder = registry.decoder(name)?;
        let read = match own_encoder_of(&encoder, &decoder.name)? {
            Some(name) => registry.encoder(&name)?,
            None => entry,
        };
        if encoders.iter().all(|(_, package)| *package != read.package) {
            encoders.push((EncoderManifest::open(&read.package)?, read.package.clone()));
        }
        adapters.push(registry.resolve(&decoder.name, Some(&read.name))?.open(&policy)?);
    }
    export(&encoders, &adapters, &args.output)?;
    output.line(format!(
        "encoder `{}` with {}: {}",
        entry.name,
        decoders.join(", "),
        args.output.display()
    ))?;
    output.json(
        &json!({ "encoder": entry.name, "decoders": decoders, "output": args.output.to_string_lossy() }),
    )
}
