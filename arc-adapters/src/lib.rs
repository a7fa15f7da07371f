//! The adapter contract of arc-encoder: what a registry, an adapter package and a code plugin are.
//!
//! One encoder turns a text into latents, and a small adapter for each decoder maps them into that
//! decoder's embedding space. This crate resolves the name of a decoder to its entry in
//! `registry.toml`, and its entry to a verified [`Adapter`]: a description of the projector and
//! its weights. It holds no tensor library, so that plugins can depend on it and build in seconds.
//!
//! ```no_run
//! use std::path::Path;
//! use arc_adapters::{Adapter, Registry};
//!
//! let registry = Registry::open(Path::new("registry.toml"))?;
//! let decoder = registry.decoder("smollm2")?;
//! if let Some(folder) = &decoder.adapter {
//!     let adapter = Adapter::open(folder)?;
//!     let weight = adapter.weights.tensor("projector.0.weight")?;
//!     println!("{} maps into {} dimensions: {:?}", decoder.name, adapter.manifest.d_decoder, weight.shape);
//! }
//! # Ok::<(), arc_adapters::Error>(())
//! ```

pub mod abi;
mod archive;
mod digest;
mod edit;
mod encoder;
mod error;
pub mod export;
mod files;
mod isolate;
mod loader;
mod manifest;
mod package;
mod projector;
mod registry;
mod report;
mod scaffold;
mod shape;
mod source;
mod staging;

pub use archive::{Archive, ArchiveContents, StagedArchive, archive_manifest, pack, read_archive, unpack, unpack_as};
pub use digest::{is_sha256_hex, sha256_file, sha256_hex};
pub use edit::{EntryKind, NewAdapter, NewDecoder, RegistryEditor, tell_of_waiting};
pub use encoder::{Backbone, ENCODER_FILE, ENCODER_SCHEMA, EncoderManifest, EncoderWeights, PoolingPlace};
pub use error::{Error, Pin, Result};
pub use files::open_file;
pub use isolate::{Isolation, serve_plugin};
pub use loader::PluginPolicy;
pub use manifest::{
    ADAPTER_SCHEMA, AdapterManifest, Append, DecoderPin, EncoderPin, NAME_FORM, WeightsFile, is_name,
};
pub use package::{
    Adapter, AdapterPackage, AdapterTensor, AdapterWeights, HostProjector, MANIFEST_FILE, TensorF32,
    WEIGHTS_FILE, WeightType,
};
pub use projector::{ProjectorLayer, ProjectorSpec, WeightSlot};
pub use registry::{
    Chosen, DecoderEntry, DecoderOptions, EncoderEntry, PluginEntry, REGISTRY_FILE, REGISTRY_SCHEMA,
    Registry, RegistryFile, RopeScalingOption, toml_reason,
};
pub use report::{
    Check, Finding, InspectedTensor, Inspection, Likelihood, ListedDecoder, Outcome, check_adapter,
    check_embeddings, check_encoder_of, check_fit, check_template, doctor, inspect, inspect_manifest, list,
    verify,
};
pub use scaffold::{DEFAULT_PROMPT, Scaffold};
pub use shape::ModelShape;
pub use source::{ModelFile, ModelSource, PipFile};
pub use staging::sweep;
