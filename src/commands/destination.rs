//! Where results go, looked at before anything is pulled, computed or trained.

use std::path::Path;

use crate::Failure;

/// Refuses a folder that cannot be made, or that nothing can be written into.
pub(super) fn check_folder(folder: &Path) -> Result<(), Failure> {
    if !folder.is_dir() && folder.symlink_metadata().is_ok() {
        return Err(Failure::usage(
            format!("`{}` is a file, and a folder is to be there", folder.display()),
            "name a folder",
        ));
    }
    // What is not there yet is made in the nearest folder above that is.
    let Ok(absolute) = std::path::absolute(folder) else { return Ok(()) };
    let Some(there) = absolute.ancestors().find(|above| above.symlink_metadata().is_ok()) else {
        return Ok(());
    };
    if !there.is_dir() {
        return Err(Failure::usage(
            format!("`{}` cannot be made: `{}` is a file", folder.display(), there.display()),
            "name another folder",
        ));
    }
    // Rights are not all that there is: a disk may be full, or only for reading.
    tempfile::tempfile_in(there).map_err(arc_core::Error::io("create a file in", there))?;
    Ok(())
}

/// Refuses a file that cannot be written, and one that is there already unless it is to be replaced.
pub(super) fn check_file(file: &Path, replace: bool) -> Result<(), Failure> {
    if file.is_dir() {
        return Err(Failure::usage(
            format!("`{}` is a folder, and a file is to be there", file.display()),
            "name a file in it",
        ));
    }
    // A link counts, wherever it leads.
    if !replace && file.symlink_metadata().is_ok() {
        return Err(Failure::usage(
            format!("`{}` exists already", file.display()),
            "replace it with `--replace`, or name another file",
        ));
    }
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => check_folder(folder),
        _ => check_folder(Path::new(".")),
    }
}
