//! Reading files that may be anything, and writing files that appear complete or not at all.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// Opens a file to read it, unless it is no file: a pipe that nobody writes to would be waited for, and a
/// device has no end.
///
/// # Errors
/// The system's, and [`io::ErrorKind::Unsupported`] for a pipe, a socket or a device.
pub fn open_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    // Opening a pipe waits for its other end, unless it is told not to; files do not mind.
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    let file = options.open(path);
    #[cfg(unix)]
    let file = file.map_err(|error| {
        // What opening a socket says is about an address.
        let is_socket = error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error());
        if is_socket { no_file("a socket or a device") } else { error }
    });
    let file = file?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_dir() {
        return Ok(file);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return Err(no_file("a pipe"));
        }
    }
    Err(no_file("a device"))
}

fn no_file(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("it is {what}, expected a file"))
}

/// The content of a file of at most `limit` bytes.
pub(crate) fn read_bytes(path: &Path, what: &'static str, limit: u64) -> Result<Vec<u8>> {
    let file = open_file(path).map_err(io_error("open", path))?;
    let mut bytes = Vec::new();
    // One byte beyond the limit tells a file of exactly that size from a longer one, whatever the
    // folder says about its length.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge { path: path.to_owned(), what, limit });
    }
    Ok(bytes)
}

/// The content of a text file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, what: &'static str, limit: u64) -> Result<String> {
    String::from_utf8(read_bytes(path, what, limit)?).map_err(|e| Error::Invalid {
        path: path.to_owned(),
        what,
        reason: format!("byte {} is not UTF-8", e.utf8_error().valid_up_to()),
    })
}

/// What a link leads to, which is what is to be written: a rename would put a file in its place.
/// Anything else is itself, whether or not it is there.
pub(crate) fn through_links(path: &Path) -> Result<PathBuf> {
    if path.is_symlink() {
        return path.canonicalize().map_err(io_error("follow", path));
    }
    Ok(path.to_owned())
}

/// Writes a file beside `path` and renames it over `path`, making the folder if needed. A link stays
/// one: the file that it leads to is replaced.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let path = &through_links(path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(io_error("create", folder))?;
    let mut temporary = tempfile::Builder::new()
        .prefix(".arc-")
        .tempfile_in(folder)
        .map_err(io_error("create a file in", folder))?;
    let file = temporary.as_file_mut();
    // Temporary files are private; what takes their place keeps the mode of what was there.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path).map_or(0o644, |m| m.permissions().mode() & 0o777);
        file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(io_error("write", path))?;
    }
    write(file)
        .and_then(|()| file.flush())
        .and_then(|()| file.sync_all())
        .map_err(io_error("write", path))?;
    temporary.persist(path).map_err(|e| io_error("write", path)(e.error))?;
    Ok(())
}

/// Makes a rename in `folder` survive a power cut, where folders can be synced.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|f| f.sync_all()).map_err(io_error("write", folder))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}
