//! `arc adapters list`: what is ready on this machine first, or every name with all that is known of it.

use std::path::{Path, PathBuf};

use arc_adapters::{ListedDecoder, Registry};
use arc_core::hub::Cache;
use serde_json::json;

use super::readiness::{Looking, Readiness, not_ready};
use super::{shown, table};
use crate::Failure;
use crate::args::Global;
use crate::commands::registries::registry;
use crate::output::{Output, with_first};

pub(super) fn run(global: &Global, all: bool, output: &Output) -> Result<(), Failure> {
    let registry = registry(global)?;
    let cache = Cache::from_env()?;
    let decoders = arc_adapters::list(&registry);
    // Both are sorted by name.
    let looking = Looking::at(&registry, &cache);
    let states: Vec<Readiness> = registry.decoders().map(|entry| looking.decoder(entry)).collect();
    let encoder_states: Vec<Readiness> = registry.encoders().map(|entry| looking.encoder(entry)).collect();
    let is_shown = |state: Readiness| all || state == Readiness::Ready;

    let named: Vec<(&ListedDecoder, Readiness)> = decoders.iter().zip(states.iter().copied()).collect();
    let rows = named
        .iter()
        .filter(|(_, state)| is_shown(*state))
        .flat_map(|(decoder, state)| rows_of(decoder, *state, all));
    let head = ["DECODER", "ALIASES", "ARCHITECTURE", "ADAPTER", "FOR ENCODER", "FROM"];
    if named.iter().any(|(_, state)| is_shown(*state)) {
        output.block(table(head, rows))?;
    } else {
        output.line("no decoder is ready here")?;
    }
    if !all {
        let states: Vec<(&str, Readiness)> =
            named.iter().map(|(decoder, state)| (decoder.name.as_str(), *state)).collect();
        for line in not_ready(&states) {
            output.line(line)?;
        }
    }
    for decoder in &decoders {
        if let Some(fault) = &decoder.fault {
            output.remark(format!("`{}` resolves to nothing: {fault}", decoder.name));
        }
    }

    list_encoders(&registry, &encoder_states, all, output)?;

    let default = registry.default_encoder().ok().flatten();
    let is_default = |name: &str| default.is_some_and(|default| default.name == name);
    let encoders: Vec<_> = registry
        .encoders()
        .zip(&encoder_states)
        .map(|(encoder, state)| {
            json!({
                "name": encoder.name,
                "state": state.name(),
                "aliases": encoder.aliases,
                "package": encoder.package.to_string_lossy(),
                "default": is_default(&encoder.name),
                "origin": encoder.origin.to_string_lossy(),
                "replaces": encoder.replaces.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>(),
            })
        })
        .collect();
    let decoders: Vec<_> = named
        .iter()
        .map(|(decoder, state)| with_first("state", state.name().into(), &json!(decoder)))
        .collect();
    let registries: Vec<_> = registry.sources().map(Path::to_string_lossy).collect();
    output.json(&json!({ "decoders": decoders, "encoders": encoders, "registries": registries }))
}

/// The rows of a decoder: what its name alone resolves to, then its other adapters.
fn rows_of(decoder: &ListedDecoder, state: Readiness, all: bool) -> Vec<[String; 6]> {
    let name = match state {
        Readiness::Ready => decoder.name.clone(),
        other => format!("{} ({})", decoder.name, other.name()),
    };
    let resolved = [
        name,
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
    let row = |adapter: String, encoder: &str| {
        [String::new(), String::new(), String::new(), adapter, encoder.to_owned(), String::new()]
    };
    let mut rows = vec![resolved];
    if all {
        let others = decoder.adapters.iter().filter(|(encoder, _)| decoder.encoder.as_ref() != Some(encoder));
        rows.extend(others.map(|(encoder, path)| row(format!("package {}", shown(path)), encoder)));
        let usual = decoder.usual.as_ref().filter(|usual| decoder.adapter.as_ref() != Some(usual));
        rows.extend(usual.map(|path| row(shown(path), "others")));
    }
    rows
}

fn list_encoders(
    registry: &Registry,
    states: &[Readiness],
    all: bool,
    output: &Output,
) -> Result<(), Failure> {
    let default = registry.default_encoder().ok().flatten();
    let is_default = |name: &str| default.is_some_and(|default| default.name == name);
    let is_shown = |state: Readiness| all || state == Readiness::Ready;
    let rows: Vec<_> = registry
        .encoders()
        .zip(states)
        .filter(|(_, state)| is_shown(**state))
        .map(|(encoder, state)| {
            let role = if is_default(&encoder.name) { "default" } else { "" };
            let state = if *state == Readiness::Ready { "" } else { state.name() };
            let words: Vec<&str> = [role, state].into_iter().filter(|word| !word.is_empty()).collect();
            [
                encoder.name.clone(),
                encoder.aliases.join(", "),
                words.join(", "),
                shown(&encoder.package),
                came_from(&encoder.origin, &encoder.replaces),
            ]
        })
        .collect();
    if !rows.is_empty() {
        output.block(format!("\n{}", table(["ENCODER", "ALIASES", "", "PACKAGE", "FROM"], rows)))?;
    }
    if !all && states.iter().any(|state| *state != Readiness::Ready) {
        let others = registry.encoders().zip(states).filter(|(_, state)| **state != Readiness::Ready);
        let names: Vec<&str> = others.map(|(encoder, _)| encoder.name.as_str()).collect();
        output.line(format!("other encoders: {}", names.join(", ")))?;
    }
    if !all && (states.iter().any(|state| *state != Readiness::Ready)) {
        output.remark("`arc adapters list --all` shows everything that the registries say");
    }
    Ok(())
}

fn came_from(origin: &Path, replaces: &[PathBuf]) -> String {
    match replaces {
        [] => shown(origin),
        [.., last] => format!("{}, over {}", shown(origin), shown(last)),
    }
}
