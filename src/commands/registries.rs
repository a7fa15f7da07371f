//! The registry files that apply to a command.

use std::path::{Path, PathBuf};

use arc_adapters::{Chosen, REGISTRY_FILE, Registry, RegistryFile};

use crate::Failure;
use crate::args::Global;

/// The registry files that apply, later ones winning: the user's, the project's (in this folder or
/// the nearest one above it), and those named on the command line.
pub(super) fn registry_files(global: &Global) -> Vec<RegistryFile> {
    let file = |chosen| move |path: PathBuf| RegistryFile::new(path, chosen);
    let own = user_registry().filter(|file| file.is_file()).map(file(Chosen::Own));
    let mut files: Vec<_> = own.into_iter().collect();
    // A file may be the user's own, the project's and named all at once; it is read once, in the
    // latest place, and is chosen in the sense that allows the most.
    let named = |path: &PathBuf| global.registry.iter().any(|named| same_file(named, path));
    let found = project_registry().filter(|path| !named(path));
    files.extend(
        found.filter(|path| !files.iter().any(|own| same_file(&own.path, path))).map(file(Chosen::Found)),
    );
    files.extend(global.registry.iter().cloned().map(file(Chosen::Named)));
    files
}

/// Whether two paths lead to the same file.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

/// Reads the registry files that apply.
pub(super) fn registry(global: &Global) -> Result<Registry, Failure> {
    let files = registry_files(global);
    if files.is_empty() {
        return Err(Failure::usage(
            format!("there is no `{REGISTRY_FILE}` in this folder or above it"),
            "name one with `--registry FILE`",
        ));
    }
    Ok(Registry::layered(&files)?)
}

/// The registry of this folder, or of the nearest one above it.
pub(super) fn project_registry() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().map(|folder| folder.join(REGISTRY_FILE)).find(|file| file.is_file())
}

/// The user's own registry, whether or not it is there.
pub(super) fn user_registry() -> Option<PathBuf> {
    let folders = directories::ProjectDirs::from("", "", "arc-encoder")?;
    Some(folders.config_dir().join(REGISTRY_FILE))
}
