//! Files that may be anybody's, read whole: each kind has a limit, and a pipe or a device is none of them.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// A kind of file that is read whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileKind {
    /// What errors call it.
    pub(crate) format: &'static str,
    /// The most bytes that one may have. A value of JSON takes up to sixteen times its text in memory.
    pub(crate) limit: u64,
}

impl FileKind {
    const fn new(format: &'static str, limit: u64) -> Self {
        Self { format, limit }
    }

    /// As another format: errors name the file that it is.
    pub(crate) const fn called(self, format: &'static str) -> Self {
        Self { format, ..self }
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What a model says of its sizes: `config.json`, `generation_config.json`, `params.json`.
pub(crate) const CONFIG: FileKind = FileKind::new("config.json", 4 * MIB);
/// The largest published ones have 34 MB.
pub(crate) const TOKENIZER: FileKind = FileKind::new("tokenizer.json", 64 * MIB);
/// The small files beside a `tokenizer.json`, chat templates among them; the largest published have some
/// megabytes, for their thousands of tokens.
pub(crate) const BESIDE_TOKENIZER: FileKind = FileKind::new("JSON", 16 * MIB);
/// Which file each tensor is in; those of the largest published models have 14 MB.
pub(crate) const INDEX: FileKind = FileKind::new("safetensors index", 32 * MIB);
/// What a run, a task, a corpus or a set of cases says of itself.
pub(crate) const DESCRIPTION: FileKind = FileKind::new("description", 16 * MIB);
/// A token of a hub, and what this program writes of a file in its cache.
pub(crate) const NOTE: FileKind = FileKind::new("note", MIB);
/// Questions with their documents, one to a line.
pub(crate) const ROWS: FileKind = FileKind::new("JSONL", 1024 * MIB);

/// The content of a file.
///
/// # Errors
/// [`Error::Io`], also for what is no file, and [`Error::InvalidFile`] for one that is longer than its kind may
/// be.
pub(crate) fn read_bytes(path: &Path, FileKind { format, limit }: FileKind) -> Result<Vec<u8>> {
    arc_adapters::read_bytes(path, format, limit).map_err(|error| match error {
        arc_adapters::Error::Io { action, path, source } => Error::Io { action, path, source },
        arc_adapters::Error::TooLarge { path, limit, .. } => {
            let reason = match limit {
                MIB.. => format!("it has more than {} MiB", limit / MIB),
                _ => format!("it has more than {} KiB", limit / KIB),
            };
            Error::InvalidFile { path, format, reason }
        }
        other => other.into(),
    })
}

/// The content of a text file.
///
/// # Errors
/// As [`read_bytes`], and [`Error::InvalidFile`] for one that is no UTF-8.
pub(crate) fn read_text(path: &Path, kind: FileKind) -> Result<String> {
    String::from_utf8(read_bytes(path, kind)?).map_err(|error| Error::InvalidFile {
        path: path.to_owned(),
        format: kind.format,
        reason: format!("byte {} is not UTF-8", error.utf8_error().valid_up_to()),
    })
}

/// What a JSON file says.
///
/// # Errors
/// As [`read_bytes`], and [`Error::InvalidFile`] for one that is not JSON of that form.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, kind: FileKind) -> Result<T> {
    serde_json::from_slice(&read_bytes(path, kind)?).map_err(|error| Error::InvalidFile {
        path: path.to_owned(),
        format: kind.format,
        reason: error.to_string(),
    })
}

/// What was read, or nothing where there is no such file.
///
/// # Errors
/// Those of the reading.
pub(crate) fn if_there<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: FileKind = FileKind::new("x", 2 * KIB);

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        let longest = " ".repeat(2 * KIB as usize - 2) + "{}";
        std::fs::write(&path, &longest).unwrap();
        assert_eq!(read_text(&path, TINY).unwrap(), longest);
        read_json::<serde_json::Value>(&path, TINY).unwrap();
        std::fs::write(&path, longest + "\n").unwrap();
        let error = read_text(&path, TINY).unwrap_err().to_string();
        assert!(error.ends_with("is not a valid x file: it has more than 2 KiB"), "{error}");
        std::fs::write(&path, b"ab\xff").unwrap();
        let error = read_text(&path, TINY).unwrap_err().to_string();
        assert!(error.contains("byte 2 is not UTF-8"), "{error}");
        let absent = folder.path().join("absent");
        assert!(if_there(read_text(&absent, TINY)).unwrap().is_none());
    }

    #[test]
    #[cfg(unix)]
    fn a_pipe_that_nobody_writes_to_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let error = read_text(&path, TINY).unwrap_err().to_string();
        assert!(error.contains("it is a pipe, expected a file"), "{error}");
        let error = crate::weights::GgufFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("it is a pipe, expected a file"), "{error}");
        let error = crate::weights::GgufFile::open("/dev/zero").unwrap_err().to_string();
        assert!(error.contains("it is a device, expected a file"), "{error}");
    }
}
