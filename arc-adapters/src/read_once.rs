//! What many entries of a registry share, such as an adapter or an encoder, is read and verified once while
//! all of them are checked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::resolve::Pair;
use crate::{Adapter, AdapterManifest, AdapterPlace, EncoderManifest, Result};

/// What was read so far, and was sound. The weights are not kept: many adapters would fill the memory.
#[derive(Debug, Default)]
pub(crate) struct ReadOnce {
    /// Manifests of packages, each with its sha256, by folder.
    adapters: RefCell<HashMap<PathBuf, (AdapterManifest, String)>>,
    /// By folder.
    encoders: RefCell<HashMap<PathBuf, EncoderManifest>>,
}

impl ReadOnce {
    /// The manifest of an adapter that was found sound before, where it is the one that the entry pins.
    pub(crate) fn known(&self, pair: &Pair<'_>) -> Option<AdapterManifest> {
        let Some(AdapterPlace::Package { folder, pin }) = pair.adapter else { return None };
        let adapters = self.adapters.borrow();
        let (manifest, sha256) = adapters.get(folder)?;
        pin.is_none_or(|pin| pin == sha256).then(|| manifest.clone())
    }

    /// Remembers an adapter that was opened for a pair.
    pub(crate) fn keep(&self, pair: &Pair<'_>, adapter: &Adapter) {
        if let Some(AdapterPlace::Package { folder, .. }) = pair.adapter {
            let known = (adapter.manifest.clone(), adapter.manifest_sha256.clone());
            self.adapters.borrow_mut().insert(folder.to_owned(), known);
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
}
