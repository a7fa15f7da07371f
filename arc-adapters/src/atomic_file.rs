//! Writing a file so that its path holds either the old content or all of the new, never a part.

use std::{
    fs::{self, File, Permissions},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use tempfile::TempPath;

use crate::Error;
use crate::files::{TEMPORARY, io_error, sync_folder};
use crate::staging::LivingFile;

/// Writes the file at `path` through `write`, and gives it its name only when it is complete.
///
/// The content goes to a temporary file in the same folder, reaches the disk, and is then renamed
/// over `path`. The folder is created where it lacks. A symbolic link at `path` stays a link: what
/// it points to is replaced. An existing file keeps its permissions; a new one gets the usual ones.
///
/// # Errors
/// What `write` returns, or [`Error::Io`] where the system refuses. The file at `path` is then as
/// it was before, and the temporary file is gone.
pub fn write_atomically<T, E: From<Error>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T, E>,
) -> Result<T, E> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let persist = |temporary: TempPath| temporary.persist(&target).map_err(|error| error.error);
    write_to(path, (&target, None), write, persist)
}

/// As [`write_atomically`], where nothing is at `path` yet: a file or a link that has come there is an
/// error, and stays.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_new_atomically<T, E: From<Error>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T, E>,
) -> Result<T, E> {
    let persist = |temporary: TempPath| temporary.persist_noclobber(path).map_err(|error| error.error);
    write_to(path, (path, None), write, persist)
}

/// What a link leads to, which is what is to be written: a rename would put a file in its place.
/// Anything else is itself, whether or not it is there.
pub(crate) fn through_links(path: &Path) -> Result<PathBuf, Error> {
    if path.is_symlink() {
        return path.canonicalize().map_err(io_error("follow", path));
    }
    Ok(path.to_owned())
}

/// Writes a file beside `path` and renames it over `path`, making the folder if needed. A link stays
/// one: the file that it leads to is replaced. What a killed process has left is known by its name.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), Error> {
    let path = &through_links(path)?;
    let persist = |temporary: TempPath| temporary.persist(path).map_err(|error| error.error);
    write_to(path, (path, Some(TEMPORARY)), |file| write(file).map_err(io_error("write", path)), persist)
}

fn write_to<T, E: From<Error>>(
    path: &Path,
    (target, prefix): (&Path, Option<&str>),
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T, E>,
    persist: impl FnOnce(TempPath) -> std::io::Result<()>,
) -> Result<T, E> {
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(io_error("create", folder))?;

    let mut builder = tempfile::Builder::new();
    if let Some(prefix) = prefix {
        builder.prefix(prefix);
    }
    let permissions = fs::metadata(target).ok().map(|metadata| metadata.permissions());
    if let Some(permissions) = permissions.clone().or_else(usual_permissions) {
        builder.permissions(permissions);
    }
    let made = LivingFile::of(|| builder.tempfile_in(folder), |made| made.path());
    // Dropped when it has its name, or after it was deleted.
    let (temporary, _living) = made.map_err(io_error("create a file in", folder))?;
    let (file, temporary) = temporary.into_parts();

    let mut writer = BufWriter::new(file);
    let value = write(&mut writer)?;
    writer.flush().map_err(io_error("write", path))?;
    let file = writer.into_inner().map_err(|error| io_error("write", path)(error.into_error()))?;
    if let Some(permissions) = permissions {
        // Unlike those of a file that is being created, these are not cut by the umask.
        file.set_permissions(permissions).map_err(io_error("write", path))?;
    }
    file.sync_all().map_err(io_error("write", path))?;
    // Windows does not rename a file that is open.
    drop(file);
    persist(temporary).map_err(io_error("write", path))?;
    // The rename has happened, and every reader sees a complete file.
    let _ = sync_folder(folder);
    Ok(value)
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
            Err::<(), _>(Error::InvalidName { name: "no more".to_owned() })
        });

        assert!(matches!(result, Err(Error::InvalidName { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names_in(folder.path()), ["registry.toml"]);
    }

    #[test]
    fn the_new_content_replaces_the_old_and_missing_folders_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file.json");
        for content in ["first, the longer one", "second"] {
            let written = write_atomically(&path, |file| {
                file.write_all(content.as_bytes()).map_err(io_error("write", &path))?;
                Ok::<_, Error>(content.len())
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

        write_atomically(&link, |file| file.write_all(b"new").map_err(io_error("write", &link))).unwrap();

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
        write_atomically(&ours, |_| Ok::<_, Error>(())).unwrap();
        fs::write(&other, "").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&other));
    }
}
