//! Temporary folders beside what becomes of them. One whose process is gone is swept by the next command
//! that writes there.
//!
//! A folder `.arc-XXXX` holds `lock`, which its process keeps locked for as long as it lives, `new`, which
//! is renamed when it is whole, and `old`, with what it took the place of under its own name.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::files::{TEMPORARY, io_error, sync_folder};
use crate::{Error, Result};

const LOCK: &str = "lock";
const NEW: &str = "new";
const OLD: &str = "old";

/// What has no lock is somebody's who is about to take one, for as long as this.
const YOUNG: Duration = Duration::from_secs(60);

/// The temporary folders and files of this process, for who ends it before they are dropped.
static LIVING: Mutex<Vec<Living>> = Mutex::new(Vec::new());
/// Held where what is begun has to be finished.
static FINISHING: Mutex<()> = Mutex::new(());

/// A temporary folder or file, and the folder that was made for it.
#[derive(Debug)]
struct Living {
    path: PathBuf,
    parent: Option<PathBuf>,
}

impl Living {
    fn delete(&self) {
        if self.path.is_dir() {
            let _ = std::fs::remove_dir_all(&self.path);
        } else {
            let _ = std::fs::remove_file(&self.path);
        }
        if let Some(parent) = &self.parent {
            // It stays where something was published in it.
            let _ = std::fs::remove_dir(parent);
        }
    }
}

fn living() -> MutexGuard<'static, Vec<Living>> {
    LIVING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary folder, which is gone when this is dropped, by [`abandon`], or else by the next [`sweep`].
#[derive(Debug)]
pub struct Staging {
    // Dropped in this order: what is being deleted is locked.
    folder: tempfile::TempDir,
    _lock: File,
}

/// A temporary file that [`abandon`] deletes for as long as this lives. Who made it deletes it otherwise.
#[derive(Debug)]
pub(crate) struct LivingFile(PathBuf);

impl LivingFile {
    /// The one that `make` makes, at the path that `path_of` says.
    pub(crate) fn of<T, E>(
        make: impl FnOnce() -> std::result::Result<T, E>,
        path_of: impl FnOnce(&T) -> &Path,
    ) -> std::result::Result<(T, Self), E> {
        // Together, so that there is none that nobody knows of.
        let mut living = living();
        let made = make()?;
        let path = path_of(&made).to_owned();
        living.push(Living { path: path.clone(), parent: None });
        Ok((made, Self(path)))
    }
}

impl Drop for LivingFile {
    fn drop(&mut self) {
        let mut living = living();
        if let Some(place) = living.iter().position(|living| living.path == self.0) {
            living.swap_remove(place);
        }
    }
}

/// Holds [`abandon`] up for as long as it lives.
#[derive(Debug)]
pub struct Finishing {
    _held: MutexGuard<'static, ()>,
}

/// While what this gives lives, [`abandon`] waits: what is done meanwhile is done whole.
#[must_use]
pub fn finishing() -> Finishing {
    Finishing { _held: FINISHING.lock().unwrap_or_else(PoisonError::into_inner) }
}

/// Deletes the temporary folders and files of this process and goes on with `then`, which is to end it: for a handler of
/// signals. None is made or given its name meanwhile.
pub fn abandon<T>(then: impl FnOnce() -> T) -> T {
    let _finished = finishing();
    let living = living();
    living.iter().for_each(Living::delete);
    then()
}

impl Staging {
    /// A new one in `parent`, which is made if it is not there. What others left there is swept.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn within(parent: &Path) -> Result<Self> {
        // Together, so that there is none that nobody knows of.
        let mut living = living();
        let made = (!parent.exists()).then(|| parent.to_owned());
        std::fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        sweep(parent);
        let folder = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempdir_in(parent)
            .map_err(io_error("create a folder in", parent))?;
        living.push(Living { path: folder.path().to_owned(), parent: made });
        drop(living);
        let path = folder.path().join(LOCK);
        let lock = File::create(&path).map_err(io_error("create", &path))?;
        lock.lock().map_err(io_error("lock", &path))?;
        let new = folder.path().join(NEW);
        std::fs::create_dir(&new).map_err(io_error("create", &new))?;
        Ok(Self { folder, _lock: lock })
    }

    /// The folder to write into.
    #[must_use]
    pub fn new_folder(&self) -> PathBuf {
        self.folder.path().join(NEW)
    }

    /// Renames what was written to `target`, which must not be there yet.
    pub(crate) fn publish(&self, target: &Path) -> Result<()> {
        let new = self.new_folder();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))
                .map_err(io_error("write", &new))?;
        }
        sync_folder(&new)?;
        std::fs::rename(&new, target).map_err(io_error("create", target))?;
        match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
            _ => Ok(()),
        }
    }

    /// Moves `target` aside. It is deleted with this, unless [`Staging::put_back`] was called.
    pub(crate) fn put_aside(&self, target: &Path) -> Result<()> {
        let old = self.folder.path().join(OLD);
        std::fs::create_dir(&old).map_err(io_error("create", &old))?;
        let aside = old.join(target.file_name().unwrap_or_default());
        std::fs::rename(target, aside).map_err(io_error("move", target))
    }

    /// Puts back what was moved aside, in place of whatever was put there.
    pub(crate) fn put_back(&self, target: &Path) -> Result<()> {
        let aside = self.folder.path().join(OLD).join(target.file_name().unwrap_or_default());
        if target.exists() {
            std::fs::remove_dir_all(target).map_err(io_error("delete", target))?;
        }
        std::fs::rename(aside, target).map_err(io_error("move", target))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let mut living = living();
        if let Some(place) = living.iter().position(|living| living.path == self.folder.path()) {
            living.swap_remove(place).delete();
        }
    }
}

/// Deletes what commands that were killed have left in a folder: their temporary folders and files. What
/// they had moved aside and not replaced yet is put back. Nothing of a process that lives is touched, and
/// nothing is an error.
pub fn sweep(parent: &Path) {
    let Ok(entries) = parent.read_dir() else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY));
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        if !is_ours || kind.is_symlink() {
            continue;
        }
        if kind.is_file() {
            // A file is written under this name for a moment, and has no room for a lock of its own.
            if is_old(&path) {
                let _ = std::fs::remove_file(&path);
            }
            continue;
        }
        // As long as this file is open nobody else takes the folder for left.
        let abandoned = match File::open(path.join(LOCK)) {
            Ok(lock) => lock.try_lock().is_ok().then_some(Some(lock)),
            Err(_) => is_old(&path).then_some(None),
        };
        let Some(_lock) = abandoned else { continue };
        for aside in path.join(OLD).read_dir().into_iter().flatten().flatten() {
            let home = parent.join(aside.file_name());
            if !home.exists() {
                let _ = std::fs::rename(aside.path(), home);
            }
        }
        let _ = std::fs::remove_dir_all(&path);
    }
}

fn is_old(path: &Path) -> bool {
    let age = std::fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    age.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > YOUNG))
}

/// A folder that is there already, where a new one was to be.
pub(crate) fn check_absent(folder: &Path) -> Result<()> {
    if folder.exists() {
        return Err(Error::Exists { path: folder.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            folder.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_being_made_is_not_swept_and_what_was_left_is() {
        let root = tempfile::tempdir().unwrap();
        let living = Staging::within(root.path()).unwrap();
        std::fs::write(living.new_folder().join("x"), "x").unwrap();
        // As a killed process leaves it: the lock is gone with the process, the folder is not.
        let left = root.path().join(".arc-left");
        std::fs::create_dir_all(left.join(OLD).join("moved")).unwrap();
        std::fs::create_dir_all(left.join(OLD).join("replaced")).unwrap();
        std::fs::write(left.join(OLD).join("moved/adapter.json"), "mine").unwrap();
        std::fs::write(left.join(LOCK), "").unwrap();
        std::fs::create_dir(root.path().join("replaced")).unwrap();
        // Another program's, and one that may have been made this moment.
        std::fs::create_dir(root.path().join(".archive")).unwrap();
        std::fs::create_dir(root.path().join(".arc-young")).unwrap();

        sweep(root.path());
        assert!(living.new_folder().join("x").exists());
        assert_eq!(std::fs::read_to_string(root.path().join("moved/adapter.json")).unwrap(), "mine");
        assert!(!left.exists());
        living.publish(&root.path().join("made")).unwrap();
        drop(living);
        assert_eq!(names(root.path()), [".arc-young", ".archive", "made", "moved", "replaced"]);
    }

    #[test]
    fn a_file_is_known_for_as_long_as_it_is_in_the_making() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("half");
        let knows = || living().iter().any(|living| living.path == path);
        let made = LivingFile::of(|| std::fs::write(&path, "half").map(|()| path.clone()), PathBuf::as_path);
        let (_, guard) = made.unwrap();
        assert!(knows());
        drop(guard);
        assert!(!knows() && path.exists());
        // What a handler of signals does with one that it knows.
        Living { path: path.clone(), parent: None }.delete();
        assert!(!path.exists());
    }

    #[test]
    fn what_was_put_aside_comes_back_or_goes() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("package");
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("x"), "old").unwrap();
        let staging = Staging::within(root.path()).unwrap();
        staging.put_aside(&target).unwrap();
        assert!(!target.exists());
        staging.put_back(&target).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("x")).unwrap(), "old");
        drop(staging);
        let staging = Staging::within(root.path()).unwrap();
        staging.put_aside(&target).unwrap();
        drop(staging);
        assert!(names(root.path()).is_empty());
    }
}
