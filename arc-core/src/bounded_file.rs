//! Small files of a model, which may be anybody's: read if they are files, and no longer than such files are.

use std::io::Read as _;
use std::path::Path;

use crate::{Error, Result};

/// The content of a text file of at most `limit` bytes. A pipe or a device is refused before it is read.
///
/// # Errors
/// [`Error::Io`], and [`Error::InvalidFile`] for one that is longer, or no UTF-8.
pub(crate) fn read_text(path: &Path, format: &'static str, limit: u64) -> Result<String> {
    let invalid = |reason: String| Error::InvalidFile { path: path.to_owned(), format, reason };
    let file = arc_adapters::open_file(path).map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(invalid(format!("it has more than {limit} bytes")));
    }
    String::from_utf8(bytes)
        .map_err(|error| invalid(format!("byte {} is not UTF-8", error.utf8_error().valid_up_to())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(read_text(&path, "x", 2).unwrap(), "{}");
        let error = read_text(&path, "x", 1).unwrap_err().to_string();
        assert!(error.contains("more than 1 bytes"), "{error}");
    }

    #[test]
    #[cfg(unix)]
    fn a_pipe_that_nobody_writes_to_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let error = read_text(&path, "x", 9).unwrap_err().to_string();
        assert!(error.contains("it is a pipe, expected a file"), "{error}");
        let error = crate::weights::GgufFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("it is a pipe, expected a file"), "{error}");
        let error = crate::weights::GgufFile::open("/dev/zero").unwrap_err().to_string();
        assert!(error.contains("it is a device, expected a file"), "{error}");
    }
}
