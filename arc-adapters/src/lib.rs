//! The adapter contract of arc-encoder: what a registry, an adapter package and a code plugin are.
//!
//! One encoder turns a text into latents, and a small adapter for each decoder maps them into that
//! decoder's embedding space. This crate resolves the name of a decoder to an encoder and an adapter
//! ([`Registry::resolve`]), and opens that as a verified [`Adapter`]: a description of the projector
//! and its weights. It holds no tensor library, and builds in seconds.
//!
//! ```no_run
//! use std::path::Path;
//! use arc_adapters::{PluginPolicy, Registry};
//!
//! let registry = Registry::open(Path::new("registry.toml"))?;
//! let pair = registry.resolve("smollm2", None)?;
//! let adapter = pair.open(&PluginPolicy::default())?;
//! let weight = adapter.weights.tensor("projector.0.weight")?;
//! println!("{} reads {}: {:?}", pair.decoder.name, pair.encoder()?.name, weight.shape);
//! # Ok::<(), arc_adapters::Error>(())
//! ```

mod archive;
mod atomic_file;
mod check;
mod checks;
mod delete;
mod digest;
mod doctor;
mod edit;
mod encoder;
mod error;
mod files;
mod hint;
mod io_hint;
mod line_ends;
mod list;
mod manifest;
mod names;
mod option_setters;
mod package;
mod paths_as_text;
mod plugin;
mod projector;
mod read_once;
mod registry;
mod resolve;
mod scaffold;
#[cfg(feature = "schema")]
mod schema;
mod shape;
mod source;
mod staging;

pub use archive::{
    Archive, ArchiveContents, StagedArchive, archive_manifest, archive_name, pack, read_archive, unpack,
};
pub use atomic_file::{write_atomically, write_new_atomically};
pub use check::{Check, Likelihood, Outcome, Remedy};
pub use checks::{
    TemplateFault, check_adapter, check_embeddings, check_encoder_of, check_fit, check_template, verify,
    verify_with,
};
pub use delete::delete_package;
pub use digest::{hexadecimal, is_sha256_hex, sha256_file, sha256_hex};
pub use doctor::{Finding, doctor};
pub use edit::{EntryKind, NewAdapter, NewDecoder, RegistryEditor, tell_of_waiting};
pub use encoder::{Backbone, ENCODER_FILE, ENCODER_SCHEMA, EncoderManifest, EncoderWeights, PoolingPlace};
pub use error::{Error, Pin, Result};
pub use files::{open_file, read_bytes, sync_folder};
pub use hint::Hint;
pub use io_hint::io_hint;
pub use list::{InspectedTensor, Inspection, ListedDecoder, inspect, inspect_manifest, list};
pub use manifest::{
    ADAPTER_SCHEMA, AdapterManifest, AnswerEnd, Append, DEFAULT_PROMPT, DecoderPin, EncoderPin,
    MANIFEST_FILE, WEIGHTS_FILE, WeightsFile,
};
pub use names::{NAME_FORM, is_name};
pub use package::{
    Adapter, AdapterPackage, AdapterTensor, AdapterWeights, HostProjector, TensorF32, WeightType,
};
pub use plugin::{Isolation, PluginPolicy, serve_plugin};
pub use projector::{ProjectorLayer, ProjectorSpec, WeightSlot};
pub use read_once::ReadOnce;
pub use registry::{
    Chosen, DecoderEntry, DecoderOptions, EncoderEntry, PluginEntry, REGISTRY_FILE, REGISTRY_SCHEMA,
    Registry, RegistryFile, RopeScalingOption, from_toml,
};
pub use resolve::{AdapterFrom, AdapterPlace, EncoderFrom, Pair};
pub use scaffold::Scaffold;
#[cfg(feature = "schema")]
pub use schema::schemas;
pub use shape::ModelShape;
pub use source::{ModelFile, ModelSource, PipFile};
pub use staging::{Finishing, Staging, abandon, finishing, sweep};
