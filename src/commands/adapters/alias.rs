//! `arc adapters alias`: other names for decoders.

use arc_adapters::{EntryKind, RegistryEditor};
use serde_json::json;

use super::shown;
use crate::Failure;
use crate::args::Global;
use crate::args::adapters::Alias;
use crate::commands::target::{check_defined_in, existing_file, registry_now};
use crate::output::Output;

pub(super) fn run(global: &Global, alias: &Alias, output: &Output) -> Result<(), Failure> {
    let file = existing_file(global, &alias.target)?;
    let registry = registry_now(global)?;
    check_defined_in(&registry, &alias.name, &file)?;
    let mut editor = RegistryEditor::open(&file)?;
    let (name, done) = match &alias.alias {
        None => {
            let name = registry.decoder(&alias.name)?.name.clone();
            editor.remove_alias(EntryKind::Decoder, &alias.name)?;
            let done = format!("`{}` is no longer an alias of `{name}` in {}", alias.name, shown(&file));
            (name, done)
        }
        Some(new) => {
            // A name of another layer would be hidden by the alias or hide it.
            if let Ok(taken) = registry.decoder(new) {
                if taken.name == registry.decoder(&alias.name)?.name {
                    return Err(Failure::failed(
                        format!("`{new}` already names this decoder, `{}`", taken.name),
                        "there is nothing to do: `arc adapters list` shows its names",
                    ));
                }
                return Err(arc_adapters::Error::NameTaken {
                    kind: "decoder",
                    name: new.clone(),
                    path: taken.origin.clone(),
                }
                .into());
            }
            editor.add_alias(EntryKind::Decoder, &alias.name, new)?;
            let name = registry.decoder(&alias.name)?.name.clone();
            let done = format!("`{new}` is an alias of `{name}` in {}", shown(&file));
            (name, done)
        }
    };
    let saved = editor.save()?;
    output.line(done)?;
    output.json(&json!({
        "registry": file.to_string_lossy(),
        "decoder": name,
        "aliases": saved.decoder(&name)?.aliases,
    }))
}
