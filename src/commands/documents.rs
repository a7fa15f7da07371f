//! Documents and latents files, as they are named on the command line.

use std::path::Path;

use arc_core::Error;

/// How the names of latents files end.
pub(super) const LATENTS_SUFFIX: &str = ".arc.safetensors";

/// Whether a file holds latents and not text, by its name.
pub(super) fn is_latents_file(path: &Path) -> bool {
    path.to_string_lossy().ends_with(LATENTS_SUFFIX)
}

/// An error about a document, with its path as the name.
pub(super) fn named(error: Error, path: &Path) -> Error {
    match error {
        Error::Document { reason, hint, .. } => {
            Error::Document { name: path.display().to_string(), reason, hint }
        }
        other => other,
    }
}
