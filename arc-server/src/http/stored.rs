//! Documents that were compressed before: a folder of latents files, as `arc compress DIR -o DIR` writes it, each known by
//! its name in it. It is looked at once, when the server is started: what a request names is looked up among these, and
//! is never a path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_core::encoder::LatentsFile;

use super::ServeError;

/// How a latents file's name ends, which is no part of its id.
const SUFFIX: &str = ".arc.safetensors";
/// Folders within folders, at most.
const DEPTH: usize = 32;

/// Latents files by their ids.
#[derive(Debug, Default)]
pub(crate) struct Stored(BTreeMap<String, Arc<LatentsFile>>);

impl Stored {
    /// All latents files of a folder and those below it, whose values are checked.
    pub(super) fn open(folder: &Path) -> Result<Self, ServeError> {
        let mut stored = BTreeMap::new();
        let mut folders = vec![(folder.to_owned(), String::new(), 0)];
        while let Some((folder, prefix, depth)) = folders.pop() {
            let failed = |source| ServeError::Documents { folder: folder.clone(), source };
            let mut entries: Vec<PathBuf> = Vec::new();
            for entry in folder.read_dir().map_err(failed)? {
                entries.push(entry.map_err(failed)?.path());
            }
            for path in entries {
                let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
                if path.is_dir() {
                    if depth < DEPTH {
                        let below = format!("{prefix}{name}/");
                        folders.push((path, below, depth + 1));
                    }
                } else if let Some(id) = name.strip_suffix(SUFFIX) {
                    let id = format!("{prefix}{id}");
                    let file = LatentsFile::open(&path)?;
                    file.verify()?;
                    stored.insert(id, Arc::new(file));
                }
            }
        }
        Ok(Self(stored))
    }

    pub(super) fn get(&self, id: &str) -> Option<&Arc<LatentsFile>> {
        self.0.get(id)
    }
}
