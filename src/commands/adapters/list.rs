//! `arc adapters list`: every name, and the registry file that it comes from.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{shown, table};
use crate::Failure;
use crate::args::Global;
use crate::commands::setup::registry;
use crate::output::Output;

pub(super) fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let registry = registry(global)?;
    let decoders = arc_adapters::list(&registry);
    let rows = decoders.iter().flat_map(|decoder| {
        let usual = [
            decoder.name.clone(),
            decoder.aliases.join(", "),
            decoder.architecture.clone().unwrap_or_default(),
            decoder.adapter.as_ref().map_or_else(
                || "none".to_owned(),
                |path| format!("{} {}", decoder.adapter_kind, shown(path)),
            ),
            decoder.encoder.clone().unwrap_or_default(),
            came_from(&decoder.origin, &decoder.replaces),
        ];
        let others = decoder.adapters.iter().map(|(encoder, path)| {
            let package = format!("package {}", shown(path));
            [String::new(), String::new(), String::new(), package, encoder.clone(), String::new()]
        });
        std::iter::once(usual).chain(others)
    });
    output.line(table(["DECODER", "ALIASES", "ARCHITECTURE", "ADAPTER", "FOR ENCODER", "FROM"], rows))?;

    let is_default = |name: &str| registry.default_encoder() == Some(name);
    let rows = registry.encoders().map(|encoder| {
        [
            encoder.name.clone(),
            encoder.aliases.join(", "),
            if is_default(&encoder.name) { "default" } else { "" }.to_owned(),
            shown(&encoder.package),
            came_from(&encoder.origin, &encoder.replaces),
        ]
    });
    output.line(format!("\n{}", table(["ENCODER", "ALIASES", "", "PACKAGE", "FROM"], rows)))?;

    let encoders: Vec<_> = registry
        .encoders()
        .map(|encoder| {
            json!({
                "name": encoder.name,
                "aliases": encoder.aliases,
                "package": encoder.package,
                "default": is_default(&encoder.name),
                "origin": encoder.origin,
                "replaces": encoder.replaces,
            })
        })
        .collect();
    output.json(&json!({ "decoders": decoders, "encoders": encoders, "registries": registry.sources().collect::<Vec<_>>() }))
}

fn came_from(origin: &Path, replaces: &[PathBuf]) -> String {
    match replaces {
        [] => shown(origin),
        [.., last] => format!("{}, over {}", shown(origin), shown(last)),
    }
}
