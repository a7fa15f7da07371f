//! A store of compressed documents: latents are written once, and read by every decoder of their encoder
//! and by anybody's tools.
//!
//! Segments are immutable Parquet files with a row for each chunk of a document; a small manifest for each
//! commit names those that make up the store. Commits are atomic, and several writers do not lose each
//! other's. A store lies in a folder or in an object store. `docs/store.md` has the format.
//!
//! This crate knows neither encoders nor decoders, and holds no tensor library: latents are plain floats.
//!
//! ```
//! use arc_store::{CommitPolicy, LatentCode, NewChunk, NewDocument, Place, Settings, Store, Writers};
//!
//! let folder = tempfile::tempdir()?;
//! let settings =
//!     Settings { encoder_id: "e".into(), d_encoder: 4, latents: LatentCode::F32, keeps_text: true };
//! let store = Store::init(Place::folder(folder.path(), Writers::Many)?, settings)?;
//!
//! let mut writer = store.writer("e", CommitPolicy::default())?;
//! let text = "A text.";
//! writer.add(NewDocument {
//!     id: "a.txt".into(),
//!     title: None,
//!     source_uri: Some("file:///a.txt".into()),
//!     source_sha256: "9f".repeat(32),
//!     factor: 4,
//!     chunks: vec![NewChunk { tokens: 3, latents: vec![0.5, -1.0, 0.0, 2.0], text: Some(text.into()) }],
//! })?;
//! writer.commit()?;
//!
//! assert_eq!(store.get("a.txt")?.latents(), [0.5, -1.0, 0.0, 2.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod codebooks;
mod compact;
mod document;
mod error;
mod fusion;
mod latent_code;
mod manifest;
mod nearest;
mod place;
mod quantiser;
mod segment;
mod store;
mod train_codes;
mod verify;
#[cfg(feature = "words")]
mod words;
mod writer;

pub use compact::{CompactOptions, Compacted};
pub use document::{DocumentSummary, NewChunk, NewDocument, StoredChunk, StoredDocument};
pub use error::{Error, ObjectErrorKind, Result};
pub use fusion::{best_documents, fuse};
pub use latent_code::LatentCode;
pub use manifest::{CodebooksFile, Manifest, Retired, STORE_SCHEMA, Segment, Settings};
pub use nearest::Hit;
pub use place::{Place, Writers};
pub use quantiser::{CENTROIDS, Quantiser};
pub use store::Store;
pub use train_codes::TrainedCodes;
pub use verify::{Problem, Verified};
pub use writer::{CommitPolicy, Committed, Writer};
