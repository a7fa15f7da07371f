//! What of a decoder is on this machine: whether it can answer about compressed documents now, and what lacks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use arc_adapters::{
    AdapterManifest, AdapterPlace, DecoderEntry, EncoderEntry, EncoderManifest, EncoderWeights, ModelFile,
    Registry,
};
use arc_core::hub::Cache;

/// How far a decoder is from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Model, adapter and encoder are here.
    Ready,
    /// A model has to be pulled: its own, or its encoder's.
    NotPulled,
    /// The weights of its adapter or its encoder are published, and were not imported.
    NotImported,
    /// It has no adapter for its encoder.
    NoAdapter,
    /// Its name resolves to nothing, or what it leads to cannot be read.
    Faulty,
}

impl Readiness {
    /// As JSON has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotPulled => "not-pulled",
            Self::NotImported => "not-imported",
            Self::NoAdapter => "no-adapter",
            Self::Faulty => "faulty",
        }
    }
}

/// Looks at a registry's decoders and encoders. Manifests are read, each once, weights are not.
pub(super) struct Looking<'a> {
    registry: &'a Registry,
    cache: &'a Cache,
    adapters: RefCell<HashMap<PathBuf, Readiness>>,
    encoders: RefCell<HashMap<PathBuf, Readiness>>,
}

impl<'a> Looking<'a> {
    pub(super) fn at(registry: &'a Registry, cache: &'a Cache) -> Self {
        Self { registry, cache, adapters: RefCell::default(), encoders: RefCell::default() }
    }

    /// How far a decoder is.
    pub(super) fn decoder(&self, entry: &DecoderEntry) -> Readiness {
        let Ok(pair) = self.registry.resolve(&entry.name, None) else { return Readiness::Faulty };
        let adapter = match pair.adapter {
            None => return Readiness::NoAdapter,
            Some(AdapterPlace::Package { folder, .. }) => {
                *self.adapters.borrow_mut().entry(folder.to_owned()).or_insert_with(|| of_package(folder))
            }
            Some(AdapterPlace::Plugin(plugin)) if plugin.path.is_file() => Readiness::Ready,
            Some(_) => Readiness::Faulty,
        };
        let encoder = pair.encoder.map_or(Readiness::Faulty, |encoder| self.encoder(encoder));
        // What takes longest to put right is said.
        let worst = [Readiness::Faulty, Readiness::NotImported, Readiness::NotPulled]
            .into_iter()
            .find(|state| adapter == *state || encoder == *state);
        worst.unwrap_or_else(|| match self.cache.find(&entry.model, &entry.name) {
            Some(_) => Readiness::Ready,
            None => Readiness::NotPulled,
        })
    }

    /// How far an encoder is, by its package and its backbone.
    pub(super) fn encoder(&self, entry: &EncoderEntry) -> Readiness {
        let known = self.encoders.borrow().get(&entry.package).copied();
        known.unwrap_or_else(|| {
            let found = self.of_encoder_package(&entry.package);
            self.encoders.borrow_mut().insert(entry.package.clone(), found);
            found
        })
    }

    fn of_encoder_package(&self, package: &Path) -> Readiness {
        let Ok(manifest) = EncoderManifest::open(package) else { return Readiness::Faulty };
        if matches!(manifest.weights, EncoderWeights::Published { .. }) {
            return Readiness::NotImported;
        }
        let Some(backbone) = &manifest.backbone else { return Readiness::Ready };
        let is_here = match (&backbone.decoder, &backbone.source) {
            (Some(name), _) => match self.registry.decoder(name) {
                Ok(decoder) => self.cache.find(&decoder.model, &decoder.name).is_some(),
                Err(_) => return Readiness::Faulty,
            },
            (None, Some(source)) => {
                let mut model = ModelFile::unpinned(source.clone());
                model.sha256 = Some(backbone.sha256.clone());
                self.cache.find(&model, &manifest.name).is_some()
            }
            (None, None) => return Readiness::Faulty,
        };
        if is_here { Readiness::Ready } else { Readiness::NotPulled }
    }
}

fn of_package(folder: &Path) -> Readiness {
    match AdapterManifest::open(folder) {
        Ok(manifest) if manifest.weights.sha256.is_empty() => Readiness::NotImported,
        Ok(manifest) if folder.join(&manifest.weights.file).is_file() => Readiness::Ready,
        _ => Readiness::Faulty,
    }
}

/// A line each about those that are not ready, with what to do; none where all are.
pub(super) fn not_ready(states: &[(&str, Readiness)]) -> Vec<String> {
    let of = |state: Readiness| {
        states.iter().filter(|(_, of)| *of == state).map(|(name, _)| *name).collect::<Vec<_>>()
    };
    [
        (Readiness::NotPulled, "a model is to be pulled first (`arc pull NAME`)"),
        (Readiness::NotImported, "only described, the weights are published elsewhere (`arc import`)"),
        (Readiness::NoAdapter, "without an adapter (`arc fit`, `arc adapters add`)"),
        (Readiness::Faulty, "with a fault (`arc adapters doctor`)"),
    ]
    .into_iter()
    .filter(|(state, _)| !of(*state).is_empty())
    .map(|(state, what)| format!("{what}: {}", of(state).join(", ")))
    .collect()
}
