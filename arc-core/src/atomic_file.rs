//! Writing a file so that its path holds either the old content or all of the new, never a part.

use std::{
    fs::{self, File, Permissions},
    io::{BufWriter, Write},
    path::Path,
};

use tempfile::TempPath;

use crate::{Error, Result};

/// Writes the file at `path` through `write`, and gives it its name only when it is complete.
///
/// The content goes to a temporary file in the same folder, reaches the disk, and is then renamed
/// over `path`. The folder is created where it lacks. A symbolic link at `path` stays a link: what
/// it points to is replaced. An existing file keeps its permissions; a new one gets the usual ones.
///
/// # Errors
/// What `write` returns, or [`Error::Io`] where the system refuses. The file at `path` is then as
/// it was before, and the temporary file is gone.
pub fn write_atomically<T>(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<T>) -> Result<T> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    write_to(path, &target, write, |temporary| temporary.persist(&target).map_err(|error| error.error))
}

/// As [`write_atomically`], where nothing is at `path` yet: a file or a link that has come there is an
/// error, and stays.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_new_atomically<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T>,
) -> Result<T> {
    write_to(path, path, write, |temporary| temporary.persist_noclobber(path).map_err(|error| error.error))
}

fn write_to<T>(
    path: &Path,
    target: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T>,
    persist: impl FnOnce(TempPath) -> std::io::Result<()>,
) -> Result<T> {
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;

    let mut builder = tempfile::Builder::new();
    let permissions = fs::metadata(target).ok().map(|metadata| metadata.permissions());
    if let Some(permissions) = permissions.clone().or_else(usual_permissions) {
        builder.permissions(permissions);
    }
    let temporary = builder.tempfile_in(folder).map_err(Error::io("create a file in", folder))?;
    let (file, temporary) = temporary.into_parts();

    let mut writer = BufWriter::new(file);
    let value = write(&mut writer)?;
    writer.flush().map_err(Error::io("write", path))?;
    let file = writer.into_inner().map_err(|error| Error::io("write", path)(error.into_error()))?;
    if let Some(permissions) = permissions {
        // Unlike those of a file that is being created, these are not cut by the umask.
        file.set_permissions(permissions).map_err(Error::io("write", path))?;
    }
    file.sync_all().map_err(Error::io("write", path))?;
    // Windows does not rename a file that is open.
    drop(file);
    persist(temporary).map_err(Error::io("write", path))?;
    sync_folder(folder);
    Ok(value)
}

/// Makes a rename in `folder` survive a power cut, where the system lets a folder be synced.
///
/// A failure is not reported: the rename has happened, and every reader sees a complete file.
pub(crate) fn sync_folder(folder: &Path) {
    #[cfg(unix)]
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    #[cfg(not(unix))]
    let _ = folder;
}

/// What a newly created file gets: everyone reads and writes, less the umask. Temporary files are
/// private otherwise, and the rename would keep them so.
fn usual_permissions() -> Option<Permissions> {
    #[cfg(unix)]
    return Some(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    #[cfg(not(unix))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_failing_writer_leaves_the_old_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.toml");
        fs::write(&path, "old").unwrap();

        let result = write_atomically(&path, |file| {
            file.write_all(b"half of the n").unwrap();
            file.flush().unwrap();
            Err::<(), _>(Error::NoCacheFolder)
        });

        assert!(matches!(result, Err(Error::NoCacheFolder)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names_in(folder.path()), ["registry.toml"]);
    }

    #[test]
    fn the_new_content_replaces_the_old_and_missing_folders_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file.json");
        for content in ["first, the longer one", "second"] {
            let written = write_atomically(&path, |file| {
                file.write_all(content.as_bytes()).map_err(Error::io("write", &path))?;
                Ok(content.len())
            });
            assert_eq!(written.unwrap(), content.len());
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(names_in(path.parent().unwrap()), ["file.json"]);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_and_links_survive() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, Permissions::from_mode(0o664)).unwrap();
        symlink(&real, &link).unwrap();

        write_atomically(&link, |file| file.write_all(b"new").map_err(Error::io("write", &link))).unwrap();

        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o664);
    }

    #[cfg(unix)]
    #[test]
    fn a_new_file_is_as_readable_as_any_other() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let (ours, other) = (folder.path().join("ours"), folder.path().join("other"));
        write_atomically(&ours, |_| Ok(())).unwrap();
        fs::write(&other, "").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&other));
    }
}
