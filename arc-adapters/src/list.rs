//! What the registry holds, as plain data to print: every decoder with what it resolves to, and an
//! adapter in full.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::paths_as_text;
use crate::{Adapter, AdapterManifest, AdapterPlace, DecoderEntry, ModelSource, Pair, Registry, WeightType};

/// One decoder of [`list`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ListedDecoder {
    /// Its name.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// The architecture, where the registry says so.
    pub architecture: Option<String>,
    /// Where the model comes from.
    pub source: ModelSource,
    /// `package`, `plugin` or `none`: what is used where no encoder is named.
    pub adapter_kind: &'static str,
    /// Its package folder or plugin file.
    #[serde(serialize_with = "paths_as_text::optional")]
    pub adapter: Option<PathBuf>,
    /// The encoder that it is used with where none is named, if there is one.
    pub encoder: Option<String>,
    /// Package folders for encoders, by the encoder's name.
    #[serde(serialize_with = "paths_as_text::named")]
    pub adapters: BTreeMap<String, PathBuf>,
    /// The package folder or plugin file for every encoder that `adapters` does not name.
    #[serde(serialize_with = "paths_as_text::optional")]
    pub usual: Option<PathBuf>,
    /// Why the name resolves to nothing, where it does not.
    pub fault: Option<String>,
    /// The registry file that defines it.
    #[serde(serialize_with = "paths_as_text::one")]
    pub origin: PathBuf,
    /// The registry files whose entries it replaces.
    #[serde(serialize_with = "paths_as_text::several")]
    pub replaces: Vec<PathBuf>,
}

/// Every decoder of a registry, without looking at any other file.
#[must_use]
pub fn list(registry: &Registry) -> Vec<ListedDecoder> {
    registry.decoders().map(|entry| listed(registry, entry)).collect()
}

fn listed(registry: &Registry, entry: &DecoderEntry) -> ListedDecoder {
    let path = |place: AdapterPlace<'_>| place.path().to_owned();
    let resolved = registry.resolve(&entry.name, None);
    let adapters = registry.adapters_of(entry).unwrap_or_default();
    let fault = resolved.as_ref().err().map(ToString::to_string);
    let pair: Option<Pair<'_>> = resolved.ok();
    let adapter = pair.and_then(|pair| pair.adapter);
    ListedDecoder {
        name: entry.name.clone(),
        aliases: entry.aliases.clone(),
        architecture: entry.architecture.clone(),
        source: entry.model.source.clone(),
        adapter_kind: adapter.map_or("none", |place| place.kind()),
        adapter: adapter.map(path),
        encoder: pair.and_then(|pair| Some(pair.encoder?.name.clone())),
        adapters: adapters.into_iter().map(|(name, place)| (name.to_owned(), path(place))).collect(),
        usual: entry.usual_adapter().map(path),
        fault,
        origin: entry.origin.clone(),
        replaces: entry.replaces.clone(),
    }
}

/// An adapter in full.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The package folder or plugin file.
    #[serde(serialize_with = "paths_as_text::one")]
    pub origin: PathBuf,
    /// The manifest.
    pub manifest: AdapterManifest,
    /// The tensors, sorted by name.
    pub tensors: Vec<InspectedTensor>,
    /// How many numbers the tensors have in all.
    pub n_parameters: usize,
    /// Whether the host can build and train the projector.
    pub trainable: bool,
    /// Whether the weights are here. Where they are published elsewhere and were not imported, the
    /// tensors are those that the manifest asks for.
    pub imported: bool,
}

/// A tensor of an [`Inspection`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InspectedTensor {
    /// Its name.
    pub name: String,
    /// `F32`, `F16` or `BF16`; none where the weights are not here.
    pub dtype: Option<&'static str>,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
}

/// Describes an adapter that was opened.
#[must_use]
pub fn inspect(adapter: &Adapter) -> Inspection {
    let weights = &adapter.weights;
    let tensors: Vec<_> = weights
        .names()
        .map(|name| InspectedTensor {
            name: name.to_owned(),
            dtype: Some(match weights.dtype(name) {
                Some(WeightType::F16) => "F16",
                Some(WeightType::Bf16) => "BF16",
                _ => "F32",
            }),
            shape: weights.shape(name).unwrap_or_default().to_vec(),
        })
        .collect();
    inspection(&adapter.manifest, &adapter.origin, tensors, true)
}

/// Describes an adapter by its manifest alone.
#[must_use]
pub fn inspect_manifest(manifest: &AdapterManifest, origin: &Path) -> Inspection {
    let mut slots = manifest.required_tensors();
    slots.extend(manifest.optional_tensors());
    let mut tensors: Vec<_> = slots
        .into_iter()
        .map(|slot| InspectedTensor { name: slot.name, dtype: None, shape: slot.shape })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    inspection(manifest, origin, tensors, false)
}

fn inspection(
    manifest: &AdapterManifest,
    origin: &Path,
    tensors: Vec<InspectedTensor>,
    imported: bool,
) -> Inspection {
    let size = |tensor: &InspectedTensor| tensor.shape.iter().fold(1usize, |n, d| n.saturating_mul(*d));
    Inspection {
        origin: origin.to_owned(),
        manifest: manifest.clone(),
        n_parameters: tensors.iter().map(size).fold(0, usize::saturating_add),
        tensors,
        trainable: !manifest.projector.is_custom(),
        imported,
    }
}
