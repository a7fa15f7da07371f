//! Models as far as adapters pin them. Each is read once, however many entries have it: hashing an embedding
//! table takes longer than all else that is checked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use arc_adapters::{AdapterManifest, Check, DecoderEntry};
use arc_core::decoder::{Decoder, ModelSettings};
use arc_core::device::DeviceName;
use arc_core::hub::Cache;
use arc_core::nn::{Precision, Residence};

use super::verify::PINS;
use crate::{Failure, hints};

/// What an adapter pins of a model, or fits into.
pub(super) struct PinnedModel {
    architecture: String,
    d_model: usize,
    embedding_sha256: String,
    tokenizer_sha256: String,
}

/// A model, or the check that its absence or its fault makes.
type Read = Rc<Result<PinnedModel, Check>>;

/// The models that were read so far.
#[derive(Default)]
pub(super) struct Models {
    read: RefCell<HashMap<(PathBuf, ModelSettings), Read>>,
}

impl Models {
    /// The model of an entry, if it is here and can be read; else the check that this makes.
    pub(super) fn of(&self, entry: &DecoderEntry) -> Result<Read, Failure> {
        let skipped = |reason: &str| Ok(Rc::new(Err(Check::skipped(PINS, reason))));
        let cache = Cache::from_env()?;
        let Some(path) = cache.find(&entry.model, &entry.name) else {
            return skipped("the model is not in the cache");
        };
        let tokenizer = entry.tokenizer.as_ref().map(|file| cache.find(file, &entry.name));
        if tokenizer == Some(None) {
            return skipped("the tokenizer is not in the cache");
        }
        let key = (path, ModelSettings::of_entry(entry, tokenizer.flatten()));
        if let Some(known) = self.read.borrow().get(&key) {
            return Ok(Rc::clone(known));
        }
        let (path, settings) = key.clone();
        let device = DeviceName::CPU.open()?;
        let opened =
            Decoder::open_with(&entry.name, &path, settings, &device, Residence::Packed(Precision::Exact));
        let read = opened.map(|model| PinnedModel {
            architecture: model.network.config().architecture.name().to_owned(),
            d_model: model.network.config().d_model(),
            embedding_sha256: model.embedding_sha256().to_owned(),
            tokenizer_sha256: model.tokenizer.sha256().to_owned(),
        });
        let read = Rc::new(read.map_err(|error| {
            Check::failed_with(PINS, error.to_string(), hints::of_error(&error).map(Into::into))
        }));
        self.read.borrow_mut().insert(key, Rc::clone(&read));
        Ok(read)
    }
}

impl PinnedModel {
    /// The pins of an adapter and its width against this model.
    pub(super) fn checks(&self, manifest: &AdapterManifest) -> Vec<Check> {
        let pins = manifest.check_decoder(&self.architecture, &self.embedding_sha256, &self.tokenizer_sha256);
        vec![Check::of(PINS, pins).0, arc_adapters::check_embeddings(manifest, self.d_model)]
    }
}
