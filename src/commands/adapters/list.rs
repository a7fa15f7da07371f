//! `arc adapters list`: every name, and the registry file that it comes from.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{shown, table};
use crate::Failure;
use crate::args::Global;
use crate::commands::registries::registry;
use crate::output::Output;

pub(super) fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let registry = registry(global)?;
    let decoders = arc_adapters::list(&registry);
    let rows = decoders.iter().flat_map(|decoder| {
        let resolved = [
            decoder.name.clone(),
            decoder.aliases.join(", "),
            decoder.architecture.clone().unwrap_or_default(),
            match (&decoder.adapter, &decoder.fault) {
                (Some(path), _) => format!("{} {}", decoder.adapter_kind, shown(path)),
                (None, Some(_)) => "unknown".to_owned(),
                (None, None) => "none".to_owned(),
            },
            decoder.encoder.clone().unwrap_or_default(),
            came_from(&decoder.origin, &decoder.replaces),
        ];
        let row = |path: &Path, encoder: &str| {
            let package = format!("package {}", shown(path));
            [String::new(), String::new(), String::new(), package, encoder.to_owned(), String::new()]
        };
        // What its name alone resolves to is in the first row.
        let others = decoder.adapters.iter().filter(|(encoder, _)| decoder.encoder.as_ref() != Some(encoder));
        let others = others.map(move |(encoder, path)| row(path, encoder));
        let usual = decoder.usual.as_ref().filter(|usual| decoder.adapter.as_ref() != Some(usual));
        let usual = usual.map(|path| {
            [String::new(), String::new(), String::new(), shown(path), "others".to_owned(), String::new()]
        });
        std::iter::once(resolved).chain(others).chain(usual)
    });
    output.block(table(["DECODER", "ALIASES", "ARCHITECTURE", "ADAPTER", "FOR ENCODER", "FROM"], rows))?;

    for decoder in &decoders {
        if let Some(fault) = &decoder.fault {
            output.remark(format!("`{}` resolves to nothing: {fault}", decoder.name));
        }
    }

    let default = registry.default_encoder().ok().flatten();
    let is_default = |name: &str| default.is_some_and(|default| default.name == name);
    let rows = registry.encoders().map(|encoder| {
        [
            encoder.name.clone(),
            encoder.aliases.join(", "),
            if is_default(&encoder.name) { "default" } else { "" }.to_owned(),
            shown(&encoder.package),
            came_from(&encoder.origin, &encoder.replaces),
        ]
    });
    output.block(format!("\n{}", table(["ENCODER", "ALIASES", "", "PACKAGE", "FROM"], rows)))?;

    let encoders: Vec<_> = registry
        .encoders()
        .map(|encoder| {
            json!({
                "name": encoder.name,
                "aliases": encoder.aliases,
                "package": encoder.package.to_string_lossy(),
                "default": is_default(&encoder.name),
                "origin": encoder.origin.to_string_lossy(),
                "replaces": encoder.replaces.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>(),
            })
        })
        .collect();
    output.json(&json!({ "decoders": decoders, "encoders": encoders, "registries": registry.sources().map(Path::to_string_lossy).collect::<Vec<_>>() }))
}

fn came_from(origin: &Path, replaces: &[PathBuf]) -> String {
    match replaces {
        [] => shown(origin),
        [.., last] => format!("{}, over {}", shown(origin), shown(last)),
    }
}
