//! What many entries of a registry share, such as an adapter, an encoder or a model, is read and verified once
//! while all of them are checked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::check::Check;
use crate::resolve::Pair;
use crate::{
    Adapter, AdapterManifest, AdapterPlace, EncoderEntry, EncoderManifest, Error, Registry, Result,
    sha256_file,
};

/// What was read so far of one setup, for [`verify_with`](crate::verify_with). The weights are not kept: many
/// adapters would fill the memory.
#[derive(Debug, Default)]
pub struct ReadOnce {
    /// By folder.
    adapters: RefCell<HashMap<PathBuf, ReadAdapter>>,
    /// By folder.
    encoders: RefCell<HashMap<PathBuf, EncoderManifest>>,
    /// What was found of an encoder by itself, by its name.
    encoder_checks: RefCell<HashMap<String, Vec<Check>>>,
    /// The names of encoders by their identities, once they were asked for.
    encoder_names: RefCell<Option<HashMap<String, String>>>,
    /// SHA-256 of models' files.
    models: RefCell<HashMap<PathBuf, String>>,
}

/// A package as it was found.
#[derive(Debug)]
enum ReadAdapter {
    /// With the SHA-256 of its manifest's file.
    Sound { manifest: Box<AdapterManifest>, sha256: String },
    /// The check that it failed.
    Broken(Check),
}

/// What is known of the adapter of a pair.
pub(crate) enum Known {
    /// It is sound, and the one that the entry pins.
    Sound(Box<AdapterManifest>),
    /// It cannot be opened.
    Broken(Check),
    /// It is not the one that the entry pins.
    Changed(Error),
}

impl ReadOnce {
    /// What was found of the adapter of a pair before.
    pub(crate) fn known(&self, pair: &Pair<'_>) -> Option<Known> {
        let Some(AdapterPlace::Package { folder, pin }) = pair.adapter else { return None };
        Some(match self.adapters.borrow().get(folder)? {
            ReadAdapter::Broken(check) => Known::Broken(check.clone()),
            ReadAdapter::Sound { manifest, sha256 } => match pair.changed(pin, &manifest.name, sha256) {
                Some(error) => Known::Changed(error),
                None => Known::Sound(manifest.clone()),
            },
        })
    }

    /// Remembers an adapter that was opened for a pair.
    pub(crate) fn keep(&self, pair: &Pair<'_>, adapter: &Adapter) {
        if let Some(AdapterPlace::Package { folder, .. }) = pair.adapter {
            let manifest = Box::new(adapter.manifest.clone());
            let found = ReadAdapter::Sound { manifest, sha256: adapter.manifest_sha256.clone() };
            self.adapters.borrow_mut().insert(folder.to_owned(), found);
        }
    }

    /// Remembers that the package of a pair cannot be opened, whoever names it.
    pub(crate) fn keep_broken(&self, pair: &Pair<'_>, check: &Check) {
        if let Some(AdapterPlace::Package { folder, .. }) = pair.adapter {
            self.adapters.borrow_mut().insert(folder.to_owned(), ReadAdapter::Broken(check.clone()));
        }
    }

    /// The manifest of an encoder.
    pub(crate) fn encoder(&self, folder: &Path) -> Result<EncoderManifest> {
        if let Some(known) = self.encoders.borrow().get(folder) {
            return Ok(known.clone());
        }
        let manifest = EncoderManifest::open(folder)?;
        self.encoders.borrow_mut().insert(folder.to_owned(), manifest.clone());
        Ok(manifest)
    }

    /// What there is to say of an encoder by itself, which `check` finds out.
    pub(crate) fn encoder_checks(
        &self,
        entry: &EncoderEntry,
        check: impl FnOnce() -> Vec<Check>,
    ) -> Vec<Check> {
        if let Some(known) = self.encoder_checks.borrow().get(&entry.name) {
            return known.clone();
        }
        let checks = check();
        self.encoder_checks.borrow_mut().insert(entry.name.clone(), checks.clone());
        checks
    }

    /// The first encoder of the registry with this identity, as far as its package can be read.
    pub(crate) fn encoder_with_id<'a>(&self, registry: &'a Registry, id: &str) -> Option<&'a EncoderEntry> {
        let mut names = self.encoder_names.borrow_mut();
        let names = names.get_or_insert_with(|| {
            let mut names = HashMap::new();
            for entry in registry.encoders() {
                if let Ok(manifest) = self.encoder(&entry.package) {
                    names.entry(manifest.encoder_id).or_insert_with(|| entry.name.clone());
                }
            }
            names
        });
        registry.encoder(names.get(id)?).ok()
    }

    /// The SHA-256 of a model's file.
    pub(crate) fn model_sha256(&self, path: &Path) -> Result<String> {
        if let Some(known) = self.models.borrow().get(path) {
            return Ok(known.clone());
        }
        let found = sha256_file(path)?;
        self.models.borrow_mut().insert(path.to_owned(), found.clone());
        Ok(found)
    }
}
