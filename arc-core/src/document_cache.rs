//! Compressed documents that are kept on this machine: a second question about a text costs no compression.
//!
//! ```text
//! FOLDER/v1/KEY.arc.safetensors   the latents of one text; never a part of them
//! FOLDER/v1/KEY.kv.safetensors    what a decoder made of documents in a prompt: keys and values
//! ```
//!
//! The key is of what the latents depend on: the text, the encoder, the rate, and how products are computed; or of
//! what keys and values do: the decoder's weights, all that stands before the question, and how products are
//! computed. A file is read only after its digest was checked, and gets its name when it is complete, so that any
//! number of processes may share a folder. When a file is used its time of change is set to now; the ones that
//! were not used for longest are deleted when all together exceed the limit, but for those of the last minute. Keys
//! and values go before latents, of which they can be made.

use std::fs::{self, File, FileTimes};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use arc_adapters::sha256_hex;
use serde_json::json;

use crate::decoder::{Decoder, Prefix, described};
use crate::encoder::{LatentsDescription, LatentsFile, LatentsType, LatentsWriter};
use crate::prompt::Prompt;
use crate::{Error, Result};
use arc_adapters::write_atomically;

/// Beside what another layout of files would have.
const VERSION: &str = "v1";

/// How files of latents end.
const LATENTS: &str = ".arc.safetensors";

/// How files of keys and values end.
const PREFIX: &str = ".kv.safetensors";

/// A file in the making that nobody has written to for so long is left of a process that was killed.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// What was used so recently is not deleted to make room: the process that did may be about to map it.
const IN_USE: Duration = Duration::from_secs(60);

/// A folder of compressed documents, and how much it may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentCache {
    folder: PathBuf,
    limit: u64,
}

/// What the latents of a text depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DocumentKey {
    /// The sha256 of the text's UTF-8 bytes, in hexadecimal.
    pub text_sha256: String,
    /// The identity of the encoder.
    pub encoder_id: String,
    /// How many tokens a latent stands for; `None` where the encoder has a fixed count.
    pub factor: Option<usize>,
    /// What the numbers depend on beside these: the device, and the precision.
    pub arithmetic: String,
}

impl DocumentKey {
    /// Of a text that an encoder compresses at a rate, with products of one arithmetic.
    #[must_use]
    pub fn new(
        text: &str,
        encoder_id: impl Into<String>,
        factor: Option<usize>,
        arithmetic: impl Into<String>,
    ) -> Self {
        Self {
            text_sha256: sha256_hex(text.as_bytes()),
            encoder_id: encoder_id.into(),
            factor,
            arithmetic: arithmetic.into(),
        }
    }
}

/// A file of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachedDocument {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was used last.
    pub used: SystemTime,
    /// What it is of, if the file can be read.
    pub description: Option<LatentsDescription>,
}

/// Keys and values in a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachedPrefix {
    /// Where the file is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was used last.
    pub used: SystemTime,
    /// Whose they are, and of how many positions, if the file can be read.
    pub description: Option<(String, usize)>,
}

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Freed {
    /// Files.
    pub files: usize,
    /// Bytes.
    pub bytes: u64,
}

impl DocumentCache {
    /// How much a cache holds where nobody said.
    pub const USUAL_LIMIT: u64 = 2 << 30;

    /// The cache in a folder, which is made with the first document, of at most `limit` bytes; one of 0
    /// keeps nothing.
    pub fn at(folder: impl Into<PathBuf>, limit: u64) -> Self {
        Self { folder: folder.into().join(VERSION), limit }
    }

    /// Where the files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many bytes it may hold.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The latents of a text, if they are here and sound. A file that is not is deleted.
    #[must_use]
    pub fn find(&self, key: &DocumentKey) -> Option<LatentsFile> {
        let path = self.path_of(key);
        let file = match LatentsFile::open(&path) {
            Ok(file) => file,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return None,
            Err(_) => {
                let _ = fs::remove_file(&path);
                return None;
            }
        };
        let is_of_key = file.description().text_sha256 == key.text_sha256
            && file.description().encoder_id == key.encoder_id;
        if !is_of_key || file.verify().is_err() {
            let _ = fs::remove_file(&path);
            return None;
        }
        mark_as_used(&path);
        Some(file)
    }

    /// What a decoder has read of a prompt, if its keys and values are here and sound. A file that is not is deleted.
    #[must_use]
    pub fn find_prefix(&self, decoder: &Decoder, prompt: &Prompt) -> Option<Prefix> {
        let path = self.path_of_prefix(decoder, prompt)?;
        if !path.exists() {
            return None;
        }
        let Ok(prefix) = decoder.prefix_in(&path, prompt) else {
            let _ = fs::remove_file(&path);
            return None;
        };
        mark_as_used(&path);
        Some(prefix)
    }

    /// Keeps what a decoder has read of a prompt, and says whether it did: not that of a decoder in burn, nor of one
    /// whose file no registry pins. Others are deleted if it becomes too much.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the system refuses.
    pub fn insert_prefix(&self, decoder: &Decoder, prompt: &Prompt, prefix: &Prefix) -> Result<bool> {
        let Some(path) = self.path_of_prefix(decoder, prompt) else { return Ok(false) };
        write_atomically(&path, |file| prefix.write(file, &path, &decoder.name))?;
        let _ = self.shrink_to(self.limit, IN_USE);
        Ok(true)
    }

    /// Keeps the latents of a text, which `write` hands to the writer of a file of latents of a width, with
    /// the means of chunks; `description` has the most latents of each chunk. Others are deleted if it
    /// becomes too much.
    ///
    /// # Errors
    ///
    /// What `write` returns; [`Error::Io`] where the system refuses.
    pub fn insert(
        &self,
        key: &DocumentKey,
        description: LatentsDescription,
        width: usize,
        write: impl FnOnce(&mut LatentsWriter<'_, BufWriter<File>>) -> Result<()>,
    ) -> Result<LatentsFile> {
        let path = self.path_of(key);
        write_atomically(&path, |file| {
            let writer = LatentsWriter::begin(file, &path, description, width, LatentsType::F32)?;
            let mut writer = writer.with_pooled()?;
            write(&mut writer)?;
            writer.finish()
        })?;
        let file = LatentsFile::open(&path)?;
        // Another process may be deleting too; what it left is counted by whoever comes next.
        let _ = self.shrink_to(self.limit, IN_USE);
        Ok(file)
    }

    /// What is here, the most recently used first.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be read; one that is not there is empty.
    pub fn list(&self) -> Result<Vec<CachedDocument>> {
        let mut found = Vec::new();
        for (path, bytes, used) in self.files()? {
            if is_of(&path, LATENTS) {
                let description = LatentsFile::open(&path).ok().map(|file| file.description().clone());
                found.push(CachedDocument { path, bytes, used, description });
            }
        }
        found.sort_by_key(|document| std::cmp::Reverse(document.used));
        Ok(found)
    }

    /// The keys and values that are here, the most recently used first.
    ///
    /// # Errors
    ///
    /// As [`DocumentCache::list`].
    pub fn prefixes(&self) -> Result<Vec<CachedPrefix>> {
        let files = self.files()?.into_iter().filter(|(path, ..)| is_of(path, PREFIX));
        let mut found: Vec<_> = files
            .map(|(path, bytes, used)| CachedPrefix { description: described(&path), path, bytes, used })
            .collect();
        found.sort_by_key(|prefix| std::cmp::Reverse(prefix.used));
        Ok(found)
    }

    /// Deletes what was not used for longest, keys and values first, until the rest takes at most so many bytes, and what killed
    /// processes have left.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be read.
    pub fn shrink(&self, bytes: u64) -> Result<Freed> {
        self.shrink_to(bytes, Duration::ZERO)
    }

    fn shrink_to(&self, limit: u64, in_use: Duration) -> Result<Freed> {
        let mut freed = Freed::default();
        let mut remove = |path: &Path, bytes: u64| {
            // Another process may have been faster.
            if fs::remove_file(path).is_ok() {
                freed.files += 1;
                freed.bytes += bytes;
            }
        };
        let (mut documents, others): (Vec<_>, Vec<_>) =
            self.files()?.into_iter().partition(|(path, ..)| is_of(path, LATENTS) || is_of(path, PREFIX));
        for (path, bytes, used) in others {
            if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                remove(&path, bytes);
            }
        }
        documents.sort_by_key(|(path, _, used)| (is_of(path, LATENTS), *used));
        let mut total: u64 = documents.iter().map(|(_, bytes, _)| bytes).sum();
        for (path, bytes, used) in documents {
            if total <= limit {
                break;
            }
            // A time in the future is that of another machine's clock.
            if used.elapsed().map_or(true, |age| age >= in_use) {
                remove(&path, bytes);
                total -= bytes;
            }
        }
        Ok(freed)
    }

    /// Paths, sizes and times of change.
    fn files(&self) -> Result<Vec<(PathBuf, u64, SystemTime)>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", &self.folder)(error)),
        };
        // Another process may be deleting what was just seen.
        let file = |entry: fs::DirEntry| {
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((entry.path(), metadata.len(), metadata.modified().ok()?))
        };
        Ok(entries.flatten().filter_map(file).collect())
    }

    fn path_of(&self, key: &DocumentKey) -> PathBuf {
        let DocumentKey { text_sha256, encoder_id, factor, arithmetic } = key;
        let key = json!([text_sha256, encoder_id, factor, arithmetic]).to_string();
        self.folder.join(format!("{}{LATENTS}", sha256_hex(key.as_bytes())))
    }

    fn path_of_prefix(&self, decoder: &Decoder, prompt: &Prompt) -> Option<PathBuf> {
        decoder.prefix_key(prompt).map(|key| self.folder.join(format!("{key}{PREFIX}")))
    }
}

/// Whether a file is one of the cache's own, by its name: the key, and a suffix.
fn is_of(path: &Path, suffix: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(suffix).is_some_and(arc_adapters::is_sha256_hex)
}

/// Where it cannot be marked as used it is deleted the sooner.
fn mark_as_used(path: &Path) {
    let now = FileTimes::new().set_modified(SystemTime::now());
    let _ = File::options().write(true).open(path).and_then(|file| file.set_times(now));
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;

    fn key(text: &str) -> DocumentKey {
        DocumentKey {
            text_sha256: sha256_hex(text.as_bytes()),
            encoder_id: "e".into(),
            factor: Some(4),
            arithmetic: "cpu exact".into(),
        }
    }

    fn insert(cache: &DocumentCache, text: &str) -> PathBuf {
        let description = LatentsDescription {
            encoder_id: "e".into(),
            factor: 4,
            chunk_lengths: vec![2, 1],
            source_tokens: 12,
            text_sha256: sha256_hex(text.as_bytes()),
            merged: false,
        };
        let file = cache.insert(&key(text), description, 2, |writer| {
            writer.push(Tensor::from_data([[1.0, 2.0], [3.0, 4.0]], &Device::flex()))?;
            writer.push(Tensor::from_data([[5.0, 6.0]], &Device::flex()))
        });
        file.unwrap().path().to_owned()
    }

    #[test]
    fn what_was_kept_is_found_by_all_that_it_depends_on() {
        let folder = tempfile::tempdir().unwrap();
        let cache = DocumentCache::at(folder.path(), 1 << 20);
        assert!(cache.find(&key("a")).is_none());
        insert(&cache, "a");
        let found = cache.find(&key("a")).unwrap();
        assert_eq!(found.pooled().unwrap(), [[2.0, 3.0], [5.0, 6.0]]);
        for other in [
            DocumentKey { factor: Some(8), ..key("a") },
            DocumentKey { factor: None, ..key("a") },
            DocumentKey { encoder_id: "f".into(), ..key("a") },
            DocumentKey { arithmetic: "cpu fast".into(), ..key("a") },
            key("b"),
        ] {
            assert!(cache.find(&other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn a_damaged_file_is_deleted_and_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let cache = DocumentCache::at(folder.path(), 1 << 20);
        let path = insert(&cache, "a");
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        let at = whole.len() - 3 * 2 * 4 - 1;
        changed[at] ^= 1;
        let of_another = fs::read(insert(&cache, "b")).unwrap();
        for damaged in [changed, whole[..whole.len() - 1].to_vec(), Vec::new(), of_another] {
            fs::write(&path, damaged).unwrap();
            assert!(cache.find(&key("a")).is_none());
            assert!(!path.exists());
        }
        fs::write(&path, whole).unwrap();
        assert!(cache.find(&key("a")).is_some());
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_what_is_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        let one = fs::metadata(insert(&DocumentCache::at(folder.path(), 1 << 20), "a")).unwrap().len();
        let cache = DocumentCache::at(folder.path(), 2 * one + one / 2);
        let old = |text: &str, seconds: u64| {
            let time = SystemTime::now() - Duration::from_secs(seconds);
            let file = File::options().write(true).open(cache.path_of(&key(text))).unwrap();
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
        };
        insert(&cache, "b");
        old("a", 200);
        old("b", 100);
        assert!(cache.find(&key("a")).is_some(), "which marks it as used");
        insert(&cache, "c");
        assert!(cache.find(&key("b")).is_none());
        assert!(cache.find(&key("a")).is_some() && cache.find(&key("c")).is_some());

        // Who has just made or read one may be about to map it, whatever the limit is.
        insert(&DocumentCache::at(folder.path(), 1), "d");
        assert_eq!(cache.list().unwrap().len(), 3);
        assert_eq!(cache.shrink(0).unwrap(), Freed { files: 3, bytes: 3 * one });
        assert_eq!(cache.list().unwrap(), []);
    }

    #[test]
    fn only_old_leftovers_of_killed_processes_are_deleted_and_foreign_files_of_today_stay() {
        let folder = tempfile::tempdir().unwrap();
        let cache = DocumentCache::at(folder.path(), 1 << 20);
        insert(&cache, "a");
        let leftover = |name: &str, age: u64| {
            let path = cache.folder().join(name);
            fs::write(&path, "half").unwrap();
            let time = SystemTime::now() - Duration::from_secs(age);
            let file = File::options().write(true).open(&path).unwrap();
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
            path
        };
        let (old, new) = (leftover(".tmpold", 7200), leftover(".tmpnew", 10));
        cache.shrink(1 << 20).unwrap();
        assert!(!old.exists() && new.exists());
        assert!(cache.find(&key("a")).is_some());
    }

    #[test]
    fn threads_that_write_read_and_delete_see_whole_documents_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = DocumentCache::at(folder.path(), 1);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..40 {
                        let text = ((thread + round) % 6).to_string();
                        match cache.find(&key(&text)) {
                            Some(file) => assert_eq!(file.pooled().unwrap().len(), 2),
                            None => drop(insert(cache, &text)),
                        }
                    }
                });
            }
        });
    }
}
