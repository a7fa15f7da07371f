//! The registry file that a command changes.

use std::path::{Path, PathBuf};

use arc_adapters::{REGISTRY_FILE, Registry};

use crate::Failure;
use crate::args::Global;
use crate::args::adapters::Target;
use crate::commands::registries::{project_registry, registry_files, same_file, user_registry};

/// The file that a command writes to, whatever it writes: the user's registry with `--user`, else the
/// last of `--registry`, else the project's. Where nothing is registered yet, one is begun in this
/// folder.
pub(super) fn target_file(global: &Global, target: &Target) -> Result<PathBuf, Failure> {
    match defined_file(global, target)? {
        Some(file) => Ok(file),
        None => Ok(std::env::current_dir().map_err(arc_core::Error::io("find", "."))?.join(REGISTRY_FILE)),
    }
}

/// The same, for a command that changes what is there.
pub(super) fn existing_file(global: &Global, target: &Target) -> Result<PathBuf, Failure> {
    defined_file(global, target)?.ok_or_else(|| {
        Failure::usage(
            format!("there is no `{REGISTRY_FILE}` in this folder or above it"),
            "name one with `--registry FILE`, or use your own with `--user`",
        )
    })
}

fn defined_file(global: &Global, target: &Target) -> Result<Option<PathBuf>, Failure> {
    if target.user {
        return user_registry().map(Some).ok_or_else(|| {
            Failure::usage(
                "this user has no home folder, and so no registry",
                "name one with `--registry FILE`",
            )
        });
    }
    Ok(global.registry.last().cloned().or_else(project_registry))
}

/// The folder that a registry file's relative paths are relative to.
pub(super) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Deletes what commands that were killed have left beside a registry file and in its folder of adapters.
pub(super) fn sweep_left(file: &Path) {
    arc_adapters::sweep(folder_of(file));
    arc_adapters::sweep(&file.with_file_name("plugins"));
}

/// The registry files as they are now, those that are there.
pub(super) fn registry_now(global: &Global) -> Result<Registry, Failure> {
    let files: Vec<_> = registry_files(global).into_iter().filter(|file| file.path.exists()).collect();
    Ok(Registry::layered(&files)?)
}

/// Refuses what another file than the one to be changed defines.
pub(super) fn check_defined_in(registry: &Registry, name: &str, file: &Path) -> Result<(), Failure> {
    let entry = registry.decoder(name)?;
    check_place(("decoder", &entry.name), &entry.origin, &entry.replaces, file)
}

/// The same of an encoder.
pub(super) fn check_encoder_defined_in(registry: &Registry, name: &str, file: &Path) -> Result<(), Failure> {
    let entry = registry.encoder(name)?;
    check_place(("encoder", &entry.name), &entry.origin, &entry.replaces, file)
}

fn check_place(
    (kind, name): (&str, &str),
    origin: &Path,
    replaces: &[PathBuf],
    file: &Path,
) -> Result<(), Failure> {
    if same_file(origin, file) || replaces.iter().any(|replaced| same_file(replaced, file)) {
        return Ok(());
    }
    Err(Failure::failed(
        format!("{kind} `{name}` is defined in `{}`, not in `{}`", origin.display(), file.display()),
        "name its file with `--registry FILE`, or `--user` if it is your own registry",
    ))
}

/// A path as the registry file is to have it: relative where it lies beside the file or below.
pub(super) fn path_for(file: &Path, path: &Path) -> Result<PathBuf, Failure> {
    let absolute =
        |path: &Path| path.canonicalize().map_err(arc_core::Error::io("find", path)).map_err(Failure::from);
    let path = absolute(path)?;
    let folder = absolute(folder_of(file))?;
    Ok(path.strip_prefix(&folder).map(Path::to_owned).unwrap_or(path))
}
