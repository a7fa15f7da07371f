//! `arc adapters remove`: an entry, or its adapter alone, leaves the registry.

use arc_adapters::{EntryKind, RegistryEditor};
use serde_json::json;

use super::shown;
use crate::Failure;
use crate::args::Global;
use crate::args::adapters::Remove;
use crate::commands::target::{check_defined_in, existing_file, registry_now};
use crate::output::Output;

pub(super) fn run(global: &Global, remove: &Remove, output: &Output) -> Result<(), Failure> {
    let file = existing_file(global, &remove.target)?;
    check_defined_in(&registry_now(global)?, &remove.name, &file)?;
    let mut editor = RegistryEditor::open(&file)?;
    let entry = editor.registry()?.decoder(&remove.name)?.clone();
    if remove.adapter_only {
        editor.remove_adapter(&remove.name)?;
    } else {
        editor.remove(EntryKind::Decoder, &remove.name)?;
    }
    editor.save()?;
    let left = entry.usual_adapter().map(|place| place.path().to_owned());
    let what = if remove.adapter_only { "the adapter of " } else { "" };
    output.line(format!("removed {what}`{}` from {}", entry.name, shown(&file)))?;
    if let Some(path) = left.as_ref().filter(|path| path.exists()) {
        output.remark(format!("`{}` is still there", shown(path)));
    }
    output.json(&json!({
        "registry": file,
        "decoder": entry.name,
        "adapter_only": remove.adapter_only,
        "files_left": left,
    }))
}
