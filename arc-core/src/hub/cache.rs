//! The folder where pulled models are kept, and what is known about each file in it.
//!
//! ```text
//! CACHE/models/NAME/FILE               a complete, checked file; never a part of one
//! CACHE/models/NAME/FILE.pulled.json   its source, sha256, size and time of change
//! CACHE/models/NAME/FILE.partial/      a pull that was cut off
//! CACHE/models/NAME/FILE.absent        the source, which has no such file and is not asked again
//! CACHE/locks/NAME.lock                held by the process that pulls or removes NAME
//! CACHE/embeddings/SHA256              what the embedding table of a file of this sha256 hashes to
//! ```

use std::{
    env,
    fs::{self, File, Metadata, TryLockError},
    io::Write as _,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use arc_adapters::{ModelFile, ModelSource};
use serde::{Deserialize, Serialize};

use super::{
    Progress,
    checkpoint_files::{companions, is_complete},
    partial::remove_folder,
    sha256::sha256_of_file,
};
use crate::bounded_file::{NOTE, read_bytes, read_json};
use crate::{Error, Result};

const RECORD_SUFFIX: &str = ".pulled.json";
const PARTIAL_SUFFIX: &str = ".partial";
const ABSENT_SUFFIX: &str = ".absent";
const RECORD_SCHEMA: u32 = 1;

/// The folder where pulled models are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    folder: PathBuf,
}

/// A name in the cache, with all that was pulled for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CachedModel {
    /// The name that it was pulled under.
    pub name: String,
    /// The folder that holds its files.
    pub folder: PathBuf,
    /// Its complete files, sorted by path.
    pub files: Vec<CachedFile>,
    /// Bytes that a cut-off pull has left, to be taken up by the next one.
    pub partial_bytes: u64,
}

/// What is known of a pinned model without reading it.
#[derive(Debug)]
pub(crate) struct KnownContent {
    /// The sha256 of its file, when it was checked; it has not changed since.
    pub(crate) sha256: String,
    /// Where it is noted what the embedding table of such a file hashes to: a note is of a file's content, and not of
    /// where it lies.
    pub(crate) embedding_note: PathBuf,
}

/// A complete file in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CachedFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// The source that it came from, if that is on record.
    pub source: Option<String>,
    /// Its sha256, if the file is as it was when that was computed, by size and time of change.
    pub sha256: Option<String>,
}

impl CachedModel {
    /// What the model takes on the disk, parts of a cut-off pull included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum::<u64>() + self.partial_bytes
    }
}

impl Cache {
    /// The user's cache: `ARC_HOME`, else `arc-encoder` in the system's folder for caches.
    ///
    /// # Errors
    /// [`Error::NoCacheFolder`] if `ARC_HOME` is unset and the user has no home folder.
    pub fn from_env() -> Result<Self> {
        if let Some(folder) = env::var_os("ARC_HOME").filter(|folder| !folder.is_empty()) {
            return Ok(Self::at(folder));
        }
        match directories::ProjectDirs::from("", "", "arc-encoder") {
            Some(folders) => Ok(Self::at(folders.cache_dir())),
            None => Err(Error::NoCacheFolder),
        }
    }

    /// The cache in `folder`, which is created by the first pull.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The cache's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the file is if it need not be pulled: in the cache and known good, or, for a `file:`
    /// source, in its place. Nothing is hashed and nothing is written.
    #[must_use]
    pub fn find(&self, model: &ModelFile, name: &str) -> Option<PathBuf> {
        let entry = self.entry(model, name).ok()?;
        match (&model.source, &model.sha256) {
            (ModelSource::File { .. }, None) => entry.content.exists().then(|| entry.content.clone()),
            _ => (entry.state() == State::Good
                && is_complete(model, &entry.content)
                && self.pins_hold(model, name, &entry.content))
            .then(|| entry.content.clone()),
        }
    }

    /// What is known of a pinned model, if `path` is its file, as it was when that was checked.
    pub(crate) fn known_content(&self, model: &ModelFile, name: &str, path: &Path) -> Option<KnownContent> {
        let sha256 = model.sha256.clone()?;
        let is_it = self.find(model, name).is_some_and(|found| found == path);
        is_it.then(|| KnownContent { embedding_note: self.folder.join("embeddings").join(&sha256), sha256 })
    }

    /// Whether the pinned files that belong to the one at `path` are known to be what is pinned.
    fn pins_hold(&self, model: &ModelFile, name: &str, path: &Path) -> bool {
        let mut pinned = companions(model, path).into_iter().filter(|file| file.model.sha256.is_some());
        pinned.all(|file| self.entry(&file.model, name).is_ok_and(|entry| entry.state() == State::Good))
    }

    /// What is in the cache, sorted by name. A cache that does not exist yet is empty.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder of the cache cannot be read.
    pub fn list(&self) -> Result<Vec<CachedModel>> {
        let models = self.folder.join("models");
        let mut names: Vec<String> = children(&models)?
            .into_iter()
            .filter(|path| path.is_dir())
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        names
            .into_iter()
            .map(|name| self.cached_model(&name))
            // Another process may be removing what was just seen.
            .filter_map(Result::transpose)
            .collect()
    }

    /// Hashes all files that were pulled as `name` again, and records what was found good.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the cache has no such name, [`Error::Checksum`] for the first
    /// file that is no longer what was pulled, [`Error::Io`] if one cannot be read.
    pub fn verify(&self, name: &str) -> Result<CachedModel> {
        let model = self.cached_model(name)?.ok_or_else(|| self.not_cached(name))?;
        for file in &model.files {
            let record_path = with_suffix(&file.path, RECORD_SUFFIX);
            let Some(record) = Record::read(&record_path) else {
                continue;
            };
            let found = sha256_of_file(&file.path)?;
            if found != record.sha256 {
                return Err(Error::Checksum { path: file.path.clone(), expected: record.sha256, found });
            }
            if file.sha256.is_none() {
                Record::write(&record_path, &file.path, &record.source, found)?;
            }
        }
        Ok(self.cached_model(name)?.unwrap_or(model))
    }

    /// Removes all that was pulled as `name`, and says how many bytes that were.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the cache has no such name, [`Error::Occupied`] if another process is pulling it,
    /// [`Error::Io`] if the system refuses.
    pub fn remove(&self, name: &str) -> Result<u64> {
        let model = self.cached_model(name)?.ok_or_else(|| self.not_cached(name))?;
        let Some(_lock) = self.try_lock(name)? else {
            return Err(Error::Occupied {
                path: model.folder,
                state: "is being pulled by another process".into(),
                hint: "wait for it or end it first".into(),
            });
        };
        remove_folder(&model.folder)?;
        Ok(model.bytes())
    }

    /// A file that was pulled under any name, is as it was then, and had this sha256.
    pub(super) fn file_of(&self, sha256: &str) -> Option<PathBuf> {
        let files = self.list().ok()?.into_iter().flat_map(|model| model.files);
        files.into_iter().find(|file| file.sha256.as_deref() == Some(sha256)).map(|file| file.path)
    }

    fn not_cached(&self, name: &str) -> Error {
        Error::NotFound {
            kind: "model",
            name: name.to_owned(),
            place: format!("in the cache `{}`", self.folder.display()),
            known: Vec::new(),
        }
    }

    /// What is there as `name`, or none.
    fn cached_model(&self, name: &str) -> Result<Option<CachedModel>> {
        check_name(name)?;
        let folder = self.folder.join("models").join(name);
        let mut model = CachedModel { name: name.into(), folder, files: Vec::new(), partial_bytes: 0 };
        for path in children(&model.folder)? {
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            let text = path.file_name().unwrap_or_default().to_string_lossy();
            if metadata.is_dir() && text.ends_with(PARTIAL_SUFFIX) {
                model.partial_bytes += bytes_in(&path);
            } else if metadata.is_file()
                && !text.starts_with('.')
                && !text.ends_with(RECORD_SUFFIX)
                && !text.ends_with(ABSENT_SUFFIX)
            {
                let record = Record::read(&with_suffix(&path, RECORD_SUFFIX));
                let unchanged = record.as_ref().is_some_and(|record| record.fits(&metadata));
                let (source, sha256) =
                    record.map_or((None, None), |record| (Some(record.source), Some(record.sha256)));
                model.files.push(CachedFile {
                    path,
                    bytes: metadata.len(),
                    source,
                    sha256: sha256.filter(|_| unchanged),
                });
            }
        }
        model.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((!model.files.is_empty() || model.partial_bytes > 0).then_some(model))
    }

    /// The place of `model` in the cache.
    pub(super) fn entry(&self, model: &ModelFile, name: &str) -> Result<Entry> {
        check_name(name)?;
        let file_name = cached_file_name(&model.source, name)?;
        let place = self.folder.join("models").join(name).join(file_name);
        let (content, source) = match &model.source {
            ModelSource::File { path } => {
                let path = std::path::absolute(path).map_err(Error::io("find", path))?;
                let source = format!("file:{}", path.display());
                (path, source)
            }
            other => (place.clone(), other.to_string()),
        };
        Ok(Entry {
            content,
            record: with_suffix(&place, RECORD_SUFFIX),
            partial: with_suffix(&place, PARTIAL_SUFFIX),
            absent: with_suffix(&place, ABSENT_SUFFIX),
            source,
            sha256: model.sha256.clone(),
        })
    }

    /// Waits until no other process pulls or removes `name`.
    pub(super) fn lock(&self, name: &str, progress: &dyn Progress) -> Result<Lock> {
        if let Some(lock) = self.try_lock(name)? {
            return Ok(lock);
        }
        progress.message(&format!("waiting for another process that is pulling `{name}`"));
        let (path, file) = self.lock_file(name)?;
        file.lock().map_err(Error::io("lock", path))?;
        Ok(Lock(file))
    }

    /// The lock of `name`, or none if another process has it.
    fn try_lock(&self, name: &str) -> Result<Option<Lock>> {
        let (path, file) = self.lock_file(name)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
        }
    }

    /// The lock's file is never removed: a process that waits for it would hold a lock on nothing.
    fn lock_file(&self, name: &str) -> Result<(PathBuf, File)> {
        let folder = self.folder.join("locks");
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let path = folder.join(format!("{name}.lock"));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        Ok((path, file))
    }
}

/// Keeps others from pulling or removing a model until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone leaves it to a child that another thread is starting, until that runs its program.
        // An error changes nothing: the file is closed next.
        let _ = self.0.unlock();
    }
}

/// The place of one file in the cache, or of a `file:` source outside it.
pub(super) struct Entry {
    /// The file itself.
    pub(super) content: PathBuf,
    /// What is known about it.
    pub(super) record: PathBuf,
    /// The folder of a pull that is under way.
    pub(super) partial: PathBuf,
    /// Says that the source has no such file.
    absent: PathBuf,
    /// The source, as the registry spells it.
    pub(super) source: String,
    /// The sha256 that the registry pins.
    pub(super) sha256: Option<String>,
}

/// How much the record says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It is the file that is wanted, unchanged since it was hashed.
    Good,
    /// It may be the file that is wanted: it is if its sha256 is this.
    Unsure(String),
    /// It is not there, or it is another file.
    Absent,
}

impl Entry {
    /// Whether the file is the one that is wanted, as far as can be said without reading it.
    pub(super) fn state(&self) -> State {
        let Ok(metadata) = fs::metadata(&self.content) else {
            return State::Absent;
        };
        let pinned = self.sha256.as_ref().map(|sha256| sha256.to_ascii_lowercase());
        let record = Record::read(&self.record).filter(|record| match &pinned {
            Some(pinned) => *pinned == record.sha256,
            None => self.source == record.source,
        });
        match (record, pinned) {
            (Some(record), _) if record.fits(&metadata) => State::Good,
            (Some(record), _) => State::Unsure(record.sha256),
            (None, Some(pinned)) => State::Unsure(pinned),
            (None, None) => State::Absent,
        }
    }

    /// Whether the source was asked for the file and does not have it.
    pub(super) fn is_absent(&self) -> bool {
        read_bytes(&self.absent, NOTE).is_ok_and(|source| source == self.source.as_bytes())
    }

    /// Writes down that the source does not have the file.
    pub(super) fn record_absence(&self) -> Result<()> {
        arc_adapters::write_atomically(&self.absent, |file| {
            file.write_all(self.source.as_bytes()).map_err(Error::io("write", &self.absent))
        })
    }

    /// Writes down that the file as it is now has `sha256`.
    pub(super) fn record(&self, sha256: String) -> Result<()> {
        Record::write(&self.record, &self.content, &self.source, sha256)
    }
}

/// What was true of a file when it was hashed.
///
/// It spares hashing hundreds of megabytes at every start: a file of the same size and the same
/// time of change is taken to be the same.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    schema: u32,
    source: String,
    sha256: String,
    bytes: u64,
    /// The time of change, in nanoseconds since 1970, where the system keeps one.
    modified: Option<u64>,
}

impl Record {
    fn read(path: &Path) -> Option<Self> {
        let record: Self = read_json(path, NOTE).ok()?;
        (record.schema == RECORD_SCHEMA).then_some(record)
    }

    fn write(path: &Path, content: &Path, source: &str, sha256: String) -> Result<()> {
        let metadata = fs::metadata(content).map_err(Error::io("read", content))?;
        let record = Self {
            schema: RECORD_SCHEMA,
            source: source.into(),
            sha256,
            bytes: metadata.len(),
            modified: modified(&metadata),
        };
        arc_adapters::write_atomically(path, |file| {
            serde_json::to_writer_pretty(file, &record)
                .map_err(|error| Error::io("write", path)(error.into()))
        })
    }

    fn fits(&self, metadata: &Metadata) -> bool {
        self.bytes == metadata.len() && self.modified == modified(metadata)
    }
}

fn modified(metadata: &Metadata) -> Option<u64> {
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// The paths in `folder`; none if it does not exist.
fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(Error::io("read", folder))?.path())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("read", folder)(error)),
    }
}

/// The bytes of all files under `folder`, as far as they can be seen: others may be writing there.
pub(super) fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// A name becomes a folder: it must not lead out of the cache, on any system.
fn check_name(name: &str) -> Result<()> {
    if is_plain(name) {
        Ok(())
    } else {
        Err(Error::InvalidValue {
            what: "the name of a model in the cache".into(),
            found: name.to_owned(),
            expected: "letters, digits, `.`, `-`, `_` and `+`, and not a `.` first".into(),
        })
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_+".contains(c))
}

/// The file's name in the cache: the one that it has in its source.
///
/// A file of several parts is named after the first without its `.partNN`; where nothing is left
/// of a part's name that way, after the model.
fn cached_file_name(source: &ModelSource, name: &str) -> Result<String> {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let file_name = match source {
        // The file is used in its place; only its record is in the cache.
        ModelSource::File { .. } => "file".to_owned(),
        ModelSource::Hf { file, .. } => last(file),
        ModelSource::Pip { parts } => match parts.as_slice() {
            [] => String::new(),
            [one] => last(&one.file),
            [first, ..] => {
                let first = last(&first.file);
                match first.rsplit_once('.') {
                    Some((stem, end)) if is_part_number(end) => stem.to_owned(),
                    Some((_, extension)) => format!("{name}.{extension}"),
                    None => name.to_owned(),
                }
            }
        },
        // Kinds of sources that came later; the pull says that it does not know them.
        _ => name.to_owned(),
    };
    if is_plain(&file_name) {
        Ok(file_name)
    } else {
        Err(Error::InvalidValue {
            what: format!("the source of `{name}`"),
            found: source.to_string(),
            expected: "one that ends in a plain file name".into(),
        })
    }
}

fn is_part_number(extension: &str) -> bool {
    extension
        .strip_prefix("part")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use arc_adapters::PipFile;

    use super::*;

    fn pip(files: &[&str]) -> ModelSource {
        let part = |file: &&str| PipFile { package: "p".into(), version: "1".into(), file: (*file).into() };
        ModelSource::Pip { parts: files.iter().map(part).collect() }
    }

    #[test]
    fn the_cached_file_is_named_after_what_it_is() {
        let name = |files: &[&str]| cached_file_name(&pip(files), "some-model").unwrap();
        assert_eq!(name(&["p/SmolLM2.Q4_1.gguf"]), "SmolLM2.Q4_1.gguf");
        assert_eq!(name(&["p/a.gguf.part00", "p/a.gguf.part01"]), "a.gguf");
        assert_eq!(name(&["p/part01.bin", "p/part02.bin"]), "some-model.bin");
        assert_eq!(name(&["p/first", "p/second"]), "some-model");
    }

    #[test]
    fn no_name_leads_out_of_the_cache() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        for name in ["", ".", "..", "../x", "a/b", "a\\b", "/etc", "c:x", ".hidden", "a b"] {
            let error = cache.remove(name).unwrap_err();
            assert!(matches!(error, Error::InvalidValue { .. }), "{name}: {error}");
        }
        for file in ["", "..", "a/..", "a/", "c:\\x", ".hidden"] {
            assert!(cached_file_name(&pip(&[file]), "m").is_err(), "{file}");
        }
    }

    #[test]
    fn a_cache_that_does_not_exist_is_empty_and_stays_away() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path().join("none"));
        assert_eq!(cache.list().unwrap(), []);
        assert!(matches!(cache.remove("x"), Err(Error::NotFound { .. })));
        assert!(matches!(cache.verify("x"), Err(Error::NotFound { .. })));
        assert!(!cache.folder().exists());
    }
}
