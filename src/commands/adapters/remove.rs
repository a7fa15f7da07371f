//! `arc adapters remove`: an entry, or a decoder's adapter alone, leaves the registry.

use std::path::Path;

use arc_adapters::{EncoderFrom, EntryKind, Registry, RegistryEditor};
use serde_json::json;

use super::shown;
use super::subject::kind_of;
use crate::Failure;
use crate::args::Global;
use crate::args::adapters::Remove;
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
        EntryKind::Decoder => remove_decoder(&registry, &file, remove, output),
        EntryKind::Encoder => remove_encoder(global, &registry, &file, remove, output),
    }
}

fn remove_decoder(registry: &Registry, file: &Path, remove: &Remove, output: &Output) -> Result<(), Failure> {
    check_defined_in(registry, &remove.name, file)?;
    let mut editor = RegistryEditor::open(file)?;
    let entry = editor.registry()?.decoder(&remove.name)?.clone();
    if remove.adapter_only {
        editor.remove_adapter(&remove.name)?;
    } else {
        editor.remove(EntryKind::Decoder, &remove.name)?;
    }
    editor.save()?;
    let left = entry.usual_adapter().map(|place| place.path().to_owned());
    let what = if remove.adapter_only { "the adapter of " } else { "" };
    output.line(format!("removed {what}`{}` from {}", entry.name, shown(file)))?;
    remark_on_files(left.as_deref(), output);
    output.json(&json!({
        "registry": file.to_string_lossy(),
        "decoder": entry.name,
        "adapter_only": remove.adapter_only,
        "files_left": left.as_deref().map(Path::to_string_lossy),
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
    remark_on_files(Some(&entry.package), output);
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
        "files_left": entry.package.to_string_lossy(),
    }))
}

fn remark_on_files(left: Option<&Path>, output: &Output) {
    if let Some(path) = left.filter(|path| path.exists()) {
        output.remark(format!("`{}` is still there", shown(path)));
    }
}
