//! A file that is being pulled: the bytes so far, and what makes it safe to go on with them.

use std::{
    fs::{self, File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    pull_error,
    sha256::{hash_at_most, hexadecimal},
};
use crate::bounded_file::{DESCRIPTION, read_json};
use crate::{Error, Result};

/// The file under construction, in a folder of its own beside its final place.
///
/// The content grows by parts. A part counts once it is *sealed*: on the disk, with its hash
/// recorded. What a crash or a cut connection leaves behind the last sealed part is dropped when
/// the pull is taken up again, and sealed parts are hashed again before they are built upon.
pub(super) struct Partial {
    folder: PathBuf,
    content: File,
    state: DownloadState,
    length: u64,
    /// Over all of the content.
    whole: Sha256,
    /// Over all of the content up to the last seal.
    sealed_whole: Sha256,
    /// Over the content since the last seal.
    part: Sha256,
}

/// What is known about the content, in `state.json`.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct DownloadState {
    /// The source as the registry spells it: parts of another source are of no use.
    source: String,
    /// The sha256 that the registry pins for the whole.
    sha256: Option<String>,
    /// The `ETag` under which a server gave the content.
    etag: Option<String>,
    /// The sha256 that the source says the whole has.
    #[serde(default)]
    promised: Option<String>,
    parts: Vec<DonePart>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct DonePart {
    /// Where the part ends in the content, in bytes.
    end: u64,
    sha256: String,
}

impl Partial {
    /// Takes up what is in `folder` if it belongs to `source` and `sha256`, else starts empty.
    pub(super) fn open(folder: &Path, source: &str, sha256: Option<&str>) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let path = folder.join("content");
        let content = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let wanted = DownloadState {
            source: source.into(),
            sha256: sha256.map(Into::into),
            ..DownloadState::default()
        };
        let found = read_json::<DownloadState>(&folder.join("state.json"), DESCRIPTION)
            .ok()
            .filter(|state| state.source == wanted.source && state.sha256 == wanted.sha256);
        let mut partial = Self {
            folder: folder.into(),
            content,
            state: found.unwrap_or(wanted),
            length: 0,
            whole: Sha256::new(),
            sealed_whole: Sha256::new(),
            part: Sha256::new(),
        };
        let intact = partial.count_intact_parts()?;
        partial.state.parts.truncate(intact);
        partial.drop_unsealed()?;
        Ok(partial)
    }

    /// Hashes the content and counts the leading parts that still are what was recorded.
    fn count_intact_parts(&mut self) -> Result<usize> {
        let read = |error| Error::io("read", self.folder.join("content"))(error);
        for (index, part) in self.state.parts.iter().enumerate() {
            let Some(bytes) = part.end.checked_sub(self.length) else {
                return Ok(index);
            };
            let (mut hasher, mut whole) = (Sha256::new(), self.sealed_whole.clone());
            let found =
                hash_at_most(&mut self.content, bytes, &mut [&mut hasher, &mut whole]).map_err(read)?;
            if found != bytes || hexadecimal(&hasher) != part.sha256 {
                return Ok(index);
            }
            self.sealed_whole = whole;
            self.length = part.end;
        }
        Ok(self.state.parts.len())
    }

    /// Bytes so far, sealed or not.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// How many parts are sealed.
    pub(super) fn sealed_parts(&self) -> usize {
        self.state.parts.len()
    }

    /// Bytes since the last seal.
    pub(super) fn unsealed(&self) -> u64 {
        self.length - self.sealed_length()
    }

    fn sealed_length(&self) -> u64 {
        self.state.parts.last().map_or(0, |part| part.end)
    }

    /// The `ETag` under which a server gave what is here.
    pub(super) fn etag(&self) -> Option<&str> {
        self.state.etag.as_deref()
    }

    /// Remembers the `ETag` of what follows.
    pub(super) fn set_etag(&mut self, etag: Option<String>) {
        self.state.etag = etag;
    }

    /// The sha256 that the source says the whole has.
    pub(super) fn promised(&self) -> Option<&str> {
        self.state.promised.as_deref()
    }

    /// Remembers what the source says of the whole, of which what follows is the beginning.
    pub(super) fn set_promised(&mut self, sha256: Option<String>) {
        self.state.promised = sha256;
    }

    /// A folder inside this one for files that the pull needs on the way, empty.
    pub(super) fn scratch_folder(&self) -> Result<PathBuf> {
        let folder = self.folder.join("scratch");
        self.remove_scratch_folder()?;
        fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
        Ok(folder)
    }

    /// Removes the folder that [`scratch_folder`](Self::scratch_folder) made, if there is one.
    pub(super) fn remove_scratch_folder(&self) -> Result<()> {
        let folder = self.folder.join("scratch");
        remove_folder(&folder)
    }

    /// Appends `bytes`.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.content.write_all(bytes).map_err(Error::io("write", self.folder.join("content")))?;
        self.whole.update(bytes);
        self.part.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Brings everything so far to the disk and records its hash, as one more part.
    ///
    /// An empty part counts too: a file of a wheel may be empty.
    pub(super) fn seal(&mut self) -> Result<()> {
        self.content.sync_data().map_err(Error::io("write", self.folder.join("content")))?;
        self.state.parts.push(DonePart { end: self.length, sha256: hexadecimal(&self.part) });
        if let Err(error) = self.write_state() {
            self.state.parts.pop();
            return Err(error);
        }
        self.sealed_whole = self.whole.clone();
        self.part = Sha256::new();
        Ok(())
    }

    /// Drops what came after the last seal.
    pub(super) fn drop_unsealed(&mut self) -> Result<()> {
        let end = self.sealed_length();
        let write = |error| Error::io("write", self.folder.join("content"))(error);
        self.content.set_len(end).map_err(write)?;
        self.content.seek(SeekFrom::Start(end)).map_err(write)?;
        self.length = end;
        self.whole = self.sealed_whole.clone();
        self.part = Sha256::new();
        Ok(())
    }

    /// Drops everything.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.state.parts.clear();
        self.state.etag = None;
        self.state.promised = None;
        self.sealed_whole = Sha256::new();
        self.write_state()?;
        self.drop_unsealed()
    }

    fn write_state(&self) -> Result<()> {
        let path = self.folder.join("state.json");
        arc_adapters::write_atomically(&path, |file| {
            serde_json::to_writer(file, &self.state).map_err(|error| Error::io("write", &path)(error.into()))
        })
    }

    /// Checks the whole against what is pinned, and against what its source says of it, and gives it its
    /// final name. Returns its sha256.
    ///
    /// # Errors
    /// [`Error::Pull`] if it has another length or is not what its source says, [`Error::Checksum`] if it
    /// has another sha256 than is pinned; it is then removed, since nothing tells which part of it is
    /// wrong.
    pub(super) fn finish(self, path: &Path, bytes: Option<u64>) -> Result<String> {
        let found = hexadecimal(&self.whole);
        let wrong = if let Some(bytes) = bytes
            && bytes != self.length
        {
            Some(wrong_length(&self.state.source, self.length, bytes))
        } else {
            let pinned = self.state.sha256.as_ref();
            let wrong = pinned.filter(|pinned| !pinned.eq_ignore_ascii_case(&found)).map(|pinned| {
                Error::Checksum { path: path.into(), expected: pinned.clone(), found: found.clone() }
            });
            let promised = self.state.promised.as_ref().filter(|promised| **promised != found);
            let broken = promised.map(|promised| {
                pull_error(
                    &self.state.source,
                    format!(
                        "what came has the sha256 {found}, but the hub says that the file has {promised}"
                    ),
                    "it was changed on its way, or a mirror has another file: pull again",
                )
            });
            wrong.or(broken)
        };
        if let Some(wrong) = wrong {
            self.abandon();
            return Err(wrong);
        }
        let Self { folder, content, .. } = self;
        content.sync_all().map_err(Error::io("write", path))?;
        // Windows does not rename a file that is open.
        drop(content);
        fs::rename(folder.join("content"), path).map_err(Error::io("write", path))?;
        if let Some(parent) = path.parent() {
            // Every reader sees a complete file, whether or not the rename survives a power cut.
            let _ = arc_adapters::sync_folder(parent);
        }
        remove_folder(&folder)?;
        Ok(found)
    }

    /// Removes everything, as far as the system allows: what led here is the error to report.
    pub(super) fn abandon(self) {
        drop(self.content);
        let _ = remove_folder(&self.folder);
    }
}

/// The error for a source whose file has another length than the registry pins.
pub(super) fn wrong_length(source: &str, found: u64, pinned: u64) -> Error {
    pull_error(
        source,
        format!("it has {found} bytes, but {pinned} are pinned"),
        "the source has changed, or `bytes` in the registry is wrong",
    )
}

/// Removes a folder and what is in it; one that is not there is fine.
pub(super) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `hello world`, by `sha256sum`.
    const HELLO_WORLD: &str = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";

    /// A folder whose partial file has the sealed parts `hello` and ` wor`, then an unsealed `x`.
    fn cut_off() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("model.partial");
        let mut partial = Partial::open(&folder, "a", Some(HELLO_WORLD)).unwrap();
        for part in ["hello", " wor"] {
            partial.append(part.as_bytes()).unwrap();
            partial.seal().unwrap();
        }
        partial.append(b"x").unwrap();
        (root, folder)
    }

    #[test]
    fn sealed_parts_outlive_a_crash_and_the_unsealed_rest_is_dropped() {
        let (root, folder) = cut_off();
        let mut partial = Partial::open(&folder, "a", Some(HELLO_WORLD)).unwrap();
        assert_eq!((partial.sealed_parts(), partial.length(), partial.unsealed()), (2, 9, 0));
        partial.append(b"ld").unwrap();

        let path = root.path().join("model");
        assert_eq!(partial.finish(&path, Some(11)).unwrap(), HELLO_WORLD);
        assert_eq!(fs::read(&path).unwrap(), b"hello world");
        assert!(!folder.exists());
    }

    #[test]
    fn a_damaged_part_and_all_after_it_are_dropped() {
        let (_root, folder) = cut_off();
        let mut content = fs::read(folder.join("content")).unwrap();
        content[6] ^= 1;
        fs::write(folder.join("content"), content).unwrap();
        let partial = Partial::open(&folder, "a", Some(HELLO_WORLD)).unwrap();
        assert_eq!((partial.sealed_parts(), partial.length()), (1, 5));
    }

    #[test]
    fn a_shortened_content_keeps_only_whole_parts() {
        let (_root, folder) = cut_off();
        let content = OpenOptions::new().write(true).open(folder.join("content")).unwrap();
        content.set_len(7).unwrap();
        let partial = Partial::open(&folder, "a", Some(HELLO_WORLD)).unwrap();
        assert_eq!((partial.sealed_parts(), partial.length()), (1, 5));
    }

    #[test]
    fn parts_of_another_source_or_pin_are_not_built_upon() {
        for (source, pin) in [("b", Some(HELLO_WORLD)), ("a", None)] {
            let (_root, folder) = cut_off();
            let partial = Partial::open(&folder, source, pin).unwrap();
            assert_eq!((partial.sealed_parts(), partial.length()), (0, 0));
        }
    }

    #[test]
    fn a_file_with_the_wrong_hash_or_length_gets_no_name_and_is_removed() {
        for (rest, bytes) in [("LD", None), ("ld", Some(12))] {
            let (root, folder) = cut_off();
            let mut partial = Partial::open(&folder, "a", Some(HELLO_WORLD)).unwrap();
            partial.append(rest.as_bytes()).unwrap();
            let path = root.path().join("model");
            let error = partial.finish(&path, bytes).unwrap_err();
            match bytes {
                None => assert!(matches!(error, Error::Checksum { .. }), "{error}"),
                Some(_) => assert!(matches!(error, Error::Pull { .. }), "{error}"),
            }
            assert!(!path.exists() && !folder.exists());
        }
    }
}
