//! `arc adapters remove`: an entry, or a decoder's adapter alone, leaves the registry.

use std::path::{Path, PathBuf};

use arc_adapters::{AdapterPlace, EncoderFrom, EntryKind, Registry, RegistryEditor, delete_package};
use serde_json::json;

use super::shown;
use super::subject::kind_of;
use crate::Failure;
use crate::args::Global;
use crate::args::adapters::Remove;
use crate::commands::registries::same_file;
use crate::commands::target::{
    check_defined_in, check_encoder_defined_in, existing_file, registry_now, sweep_left,
};
use crate::output::Output;

pub(super) fn run(global: &Global, remove: &Remove, output: &Output) -> Result<(), Failure> {
    let file = existing_file(global, &remove.target)?;
    sweep_left(&file);
    let registry = registry_now(global)?;
    // An adapter is a decoder's.
    let is_decoder = remove.decoder || remove.adapter_only;
    match kind_of(&registry, &remove.name, is_decoder, remove.encoder)? {
        EntryKind::Decoder => remove_decoder(global, &registry, &file, remove, output),
        EntryKind::Encoder => remove_encoder(global, &registry, &file, remove, output),
    }
}

fn remove_decoder(
    global: &Global,
    registry: &Registry,
    file: &Path,
    remove: &Remove,
    output: &Output,
) -> Result<(), Failure> {
    check_defined_in(registry, &remove.name, file)?;
    let mut editor = RegistryEditor::open(file)?;
    let entry = editor.registry()?.decoder(&remove.name)?.clone();
    if remove.adapter_only {
        editor.remove_adapter(&remove.name)?;
    } else {
        editor.remove(EntryKind::Decoder, &remove.name)?;
    }
    editor.save()?;
    // With the entry all of its adapters go, with its adapter the usual one.
    let places: Vec<PathBuf> = match remove.adapter_only {
        true => entry.usual_adapter().into_iter().map(|place| place.path().to_owned()).collect(),
        false => entry.adapter_places().map(|place| place.path().to_owned()).collect(),
    };
    let what = if remove.adapter_only { "the adapter of " } else { "" };
    output.line(format!("removed {what}`{}` from {}", entry.name, shown(file)))?;
    let (deleted, left) = files(global, remove, places, output)?;
    output.json(&json!({
        "registry": file.to_string_lossy(),
        "decoder": entry.name,
        "adapter_only": remove.adapter_only,
        "files_deleted": deleted,
        "files_left": left,
    }))
}

fn remove_encoder(
    global: &Global,
    registry: &Registry,
    file: &Path,
    remove: &Remove,
    output: &Output,
) -> Result<(), Failure> {
    check_encoder_defined_in(registry, &remove.name, file)?;
    let mut editor = RegistryEditor::open(file)?;
    let entry = editor.registry()?.encoder(&remove.name)?.clone();
    let was_default = editor.remove(EntryKind::Encoder, &remove.name)?;
    editor.save()?;
    let role = if was_default { ", which was the default" } else { "" };
    output.line(format!("removed encoder `{}` from {}{role}", entry.name, shown(file)))?;
    let (deleted, left) = files(global, remove, vec![entry.package.clone()], output)?;
    // Another file may still know it; else whoever names it will find nothing.
    let is_gone = registry_now(global)?.encoder(&entry.name).is_err();
    let names_it = |name: &str| {
        let pair = registry.resolve(name, None);
        pair.is_ok_and(|pair| {
            let is_named = pair.encoder_from == EncoderFrom::Entry;
            is_named && pair.encoder.is_some_and(|encoder| encoder.name == entry.name)
        })
    };
    let users: Vec<&str> = registry
        .decoders()
        .filter(|decoder| is_gone && (decoder.names_adapter_for(&entry) || names_it(&decoder.name)))
        .map(|decoder| decoder.name.as_str())
        .collect();
    for user in &users {
        output.warning(format!("decoder `{user}` names encoder `{}` in its entry", entry.name));
    }
    output.json(&json!({
        "registry": file.to_string_lossy(),
        "encoder": entry.name,
        "default": was_default,
        "named_by": users,
        "files_deleted": deleted,
        "files_left": left,
    }))
}

/// Deletes the packages and plugins at these places, if that was asked for and nothing else names them. Returns
/// what was deleted, and what is still there.
fn files(
    global: &Global,
    remove: &Remove,
    places: Vec<PathBuf>,
    output: &Output,
) -> Result<(Vec<String>, Vec<String>), Failure> {
    // As the registries are now.
    let registry = registry_now(global)?;
    let (mut deleted, mut left) = (Vec::new(), Vec::new());
    for place in places.into_iter().filter(|place| place.symlink_metadata().is_ok()) {
        let text = place.to_string_lossy().into_owned();
        if !remove.delete_files {
            output.remark(format!("`{}` is still there", shown(&place)));
            left.push(text);
            continue;
        }
        if let Some(user) = user_of(&registry, &place) {
            output.remark(format!("`{}` stays: {user} names it too", shown(&place)));
            left.push(text);
            continue;
        }
        let is_gone = match place.is_dir() {
            true => delete_package(&place)?,
            false => {
                std::fs::remove_file(&place).map_err(arc_core::Error::io("delete", &place))?;
                true
            }
        };
        if is_gone {
            output.line(format!("deleted {}", shown(&place)))?;
            deleted.push(text);
        } else {
            output.remark(format!("`{}` holds something else too, which is still there", shown(&place)));
            left.push(text);
        }
    }
    Ok((deleted, left))
}

/// Who else names a package or a plugin.
fn user_of(registry: &Registry, place: &Path) -> Option<String> {
    let is_here = |other: &Path| same_file(other, place);
    let decoder = registry
        .decoders()
        .find(|entry| entry.adapter_places().any(|place: AdapterPlace<'_>| is_here(place.path())));
    let encoder = || registry.encoders().find(|entry| is_here(&entry.package));
    decoder
        .map(|entry| format!("decoder `{}`", entry.name))
        .or_else(|| encoder().map(|entry| format!("encoder `{}`", entry.name)))
}
