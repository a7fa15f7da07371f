//! `arc adapters alias`: other names for decoders and encoders.

use arc_adapters::{EntryKind, Error, Registry, RegistryEditor};
use serde_json::json;

use super::shown;
use super::subject::kind_of;
use crate::Failure;
use crate::args::Global;
use crate::args::adapters::Alias;
use crate::commands::target::{check_defined_in, check_encoder_defined_in, existing_file, registry_now};
use crate::output::Output;

pub(super) fn run(global: &Global, alias: &Alias, output: &Output) -> Result<(), Failure> {
    let file = existing_file(global, &alias.target)?;
    let registry = registry_now(global)?;
    let kind = kind_of(&registry, &alias.name, alias.decoder, alias.encoder)?;
    match kind {
        EntryKind::Decoder => check_defined_in(&registry, &alias.name, &file)?,
        EntryKind::Encoder => check_encoder_defined_in(&registry, &alias.name, &file)?,
    }
    let mut editor = RegistryEditor::open(&file)?;
    let (name, _) = names(&registry, kind, &alias.name)?;
    let done = match &alias.alias {
        None => {
            editor.remove_alias(kind, &alias.name)?;
            format!("`{}` is no longer an alias of `{name}` in {}", alias.name, shown(&file))
        }
        Some(new) => {
            check_free(&registry, kind, &name, new)?;
            editor.add_alias(kind, &alias.name, new)?;
            format!("`{new}` is an alias of `{name}` in {}", shown(&file))
        }
    };
    let saved = editor.save()?;
    output.line(done)?;
    output.json(&json!({
        "registry": file.to_string_lossy(),
        word(kind): name,
        "aliases": names(&saved, kind, &name)?.1,
    }))
}

/// A name of another layer would be hidden by the alias or hide it.
fn check_free(registry: &Registry, kind: EntryKind, name: &str, new: &str) -> Result<(), Failure> {
    let taken = match kind {
        EntryKind::Decoder => registry.decoder(new).ok().map(|entry| (&entry.name, &entry.origin)),
        EntryKind::Encoder => registry.encoder(new).ok().map(|entry| (&entry.name, &entry.origin)),
    };
    let Some((taken, origin)) = taken else { return Ok(()) };
    if taken == name {
        return Err(Failure::failed(
            format!("`{new}` already names this {}, `{taken}`", word(kind)),
            "there is nothing to do: `arc adapters list` shows its names",
        ));
    }
    Err(Error::NameTaken { kind: word(kind), name: new.to_owned(), path: origin.clone() }.into())
}

/// The name and the aliases of an entry.
fn names(registry: &Registry, kind: EntryKind, name: &str) -> Result<(String, Vec<String>), Failure> {
    let (name, aliases) = match kind {
        EntryKind::Decoder => registry.decoder(name).map(|entry| (&entry.name, &entry.aliases))?,
        EntryKind::Encoder => registry.encoder(name).map(|entry| (&entry.name, &entry.aliases))?,
    };
    Ok((name.clone(), aliases.clone()))
}

fn word(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Decoder => "decoder",
        EntryKind::Encoder => "encoder",
    }
}
