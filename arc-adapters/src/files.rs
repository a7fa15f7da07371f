//! Reading files that may be anything, and writing files that appear complete or not at all.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

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

/// The content of a file of at most `limit` bytes, where `what` names its kind for the error. Whatever is a
/// stranger's is read by this: a pipe or a device is refused before it is read, as [`open_file`] does, and no
/// more is taken into memory than the kind may have.
///
/// # Errors
/// [`Error::Io`], and [`Error::TooLarge`] for a longer one.
pub fn read_bytes(path: &Path, what: &'static str, limit: u64) -> Result<Vec<u8>> {
    let file = open_file(path).map_err(io_error("open", path))?;
    let said = file.metadata().map_err(io_error("read", path))?;
    if said.is_file() && said.len() > limit {
        return Err(Error::TooLarge { path: path.to_owned(), what, limit });
    }
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

/// How the names of files and folders begin that are to take the place of others.
pub(crate) const TEMPORARY: &str = ".arc-";

/// Makes a rename in `folder` survive a power cut, where folders can be synced.
///
/// # Errors
/// [`Error::Io`]: the rename has happened all the same.
pub fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|f| f.sync_all()).map_err(io_error("write", folder))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}
