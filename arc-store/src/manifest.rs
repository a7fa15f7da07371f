//! The manifest: a small JSON object for each commit, which names the segments that make up the store.
//!
//! `manifests/00000000000000000042.json` is the store after its 42nd commit. The highest number is the
//! store as it is; a commit writes the next one, which succeeds for one writer alone.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::latent_code::LatentCode;
use crate::place::Place;
use crate::{Error, Result};

/// The version of the format that this build writes and reads.
pub const STORE_SCHEMA: u32 = 1;

/// What says that a manifest is one.
const FORMAT: &str = "arc-store";

pub(crate) const MANIFESTS: &str = "manifests";
pub(crate) const SEGMENTS: &str = "segments";
pub(crate) const CODEBOOKS: &str = "codebooks";

/// The store after a commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `arc-store`.
    pub format: String,
    /// The version of the format.
    pub schema: u32,
    /// The number of the commit, from 1.
    pub version: u64,
    /// A random name of the commit, by which a writer knows its own again: a place may have written it
    /// and lost the answer.
    pub commit_id: String,
    /// A random name of the store, by which copies of it are known.
    pub store_id: String,
    /// What was done: `init`, `add`, `remove`, `compact`, `train-codes`.
    pub operation: String,
    /// When, in milliseconds since 1970 (UTC).
    pub committed_unix_ms: u64,
    /// The settings that every segment shares.
    #[serde(flatten)]
    pub settings: Settings,
    /// The codebooks by which new segments are written, where latents are product-quantised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codebooks: Option<CodebooksFile>,
    /// The segments, in the order of their commits.
    pub segments: Vec<Segment>,
    /// Files that a compaction replaced, which readers of an earlier manifest may still read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<Retired>,
}

/// What a store holds, fixed when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The identity of the encoder whose latents they are.
    pub encoder_id: String,
    /// The width of the latents.
    pub d_encoder: usize,
    /// How latents are written.
    pub latents: LatentCode,
    /// Whether the text of each chunk is kept beside its latents.
    pub keeps_text: bool,
}

/// A Parquet file of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its name in the store: `segments/….parquet`.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// The sha256 of the file, hexadecimal.
    pub sha256: String,
    /// How its latents are written.
    pub latents: LatentCode,
    /// The codebooks of its latents, where they are product-quantised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codebooks: Option<String>,
    /// Rows: chunks of documents.
    pub rows: u64,
    /// Documents, those that were removed since included.
    pub documents: u64,
    /// Encoder tokens of all rows.
    pub tokens: u64,
    /// Latents of all rows.
    pub latent_count: u64,
    /// The first document's id. Rows are sorted by id, then chunk.
    pub first_id: String,
    /// The last document's id.
    pub last_id: String,
    /// Ids of documents of this segment that are no longer in the store.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub removed: BTreeSet<String>,
}

/// A file of codebooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodebooksFile {
    /// Its name in the store: `codebooks/….parquet`.
    pub file: String,
    /// The sha256 of the file, hexadecimal.
    pub sha256: String,
}

/// A file that is no part of the store any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Its name in the store.
    pub file: String,
    /// When it was replaced, in milliseconds since 1970 (UTC).
    pub retired_unix_ms: u64,
}

impl Manifest {
    /// The first manifest of a new store.
    pub(crate) fn first(store_id: String, settings: Settings) -> Self {
        Self {
            format: FORMAT.to_owned(),
            schema: STORE_SCHEMA,
            version: 1,
            commit_id: Uuid::new_v4().to_string(),
            store_id,
            operation: "init".to_owned(),
            committed_unix_ms: unix_ms(),
            settings,
            codebooks: None,
            segments: Vec::new(),
            retired: Vec::new(),
        }
    }

    /// The manifest that comes after this one, as it is so far.
    pub(crate) fn next(&self, operation: &str) -> Self {
        Self {
            version: self.version + 1,
            commit_id: Uuid::new_v4().to_string(),
            operation: operation.to_owned(),
            committed_unix_ms: unix_ms(),
            ..self.clone()
        }
    }

    /// The name of a manifest's file.
    pub(crate) fn file(version: u64) -> String {
        format!("{MANIFESTS}/{version:020}.json")
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("plain data is written");
        json.push(b'\n');
        json
    }

    /// Reads a manifest, and refuses what it cannot mean.
    pub(crate) fn parse(json: &[u8], file: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            schema: u32,
        }
        let damaged = |reason: String| Error::Damaged { file: file.to_owned(), reason };
        let head: Head = serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
        if head.format != FORMAT {
            return Err(damaged(format!("its `format` is `{}`, expected `{FORMAT}`", head.format)));
        }
        if head.schema != STORE_SCHEMA {
            let (found, supported) = (head.schema, STORE_SCHEMA);
            return Err(Error::UnsupportedSchema { file: file.to_owned(), found, supported });
        }
        let manifest: Self = serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
        if manifest.settings.d_encoder == 0 {
            return Err(damaged("its `d_encoder` is 0".into()));
        }
        let outside = |name: &&str| {
            let mut parts = name.split('/');
            let folder = parts.next().unwrap_or_default();
            let plain = parts.next().is_some_and(|name| !name.is_empty() && !name.starts_with('.'));
            !(plain && parts.next().is_none() && [SEGMENTS, CODEBOOKS].contains(&folder))
        };
        let segments = manifest.segments.iter().map(|segment| segment.file.as_str());
        let retired = manifest.retired.iter().map(|retired| retired.file.as_str());
        let codebooks = manifest.codebooks.iter().map(|codebooks| codebooks.file.as_str());
        if let Some(name) = segments.chain(retired).chain(codebooks).find(outside) {
            return Err(damaged(format!("it names `{name}`, which is no file of a store")));
        }
        Ok(manifest)
    }

    /// The newest manifest of a place.
    pub(crate) fn latest(place: &Place) -> Result<Self> {
        // Between listing and reading, a newer commit may have let the older ones go.
        for _ in 0..3 {
            let listed = match place.list(MANIFESTS) {
                Err(error) if error.is_not_found() => Vec::new(),
                listed => listed?,
            };
            let last = listed.iter().rev().find(|listed| version_of(&listed.name).is_some());
            let Some(last) = last else { return Err(Error::NoStore { place: place.to_string() }) };
            match place.read(&last.name) {
                Err(error) if error.is_not_found() => {}
                json => return Self::parse(&json?, &place.full_name(&last.name)),
            }
        }
        Err(Error::Moved { place: place.to_string() })
    }

    /// The documents that are in the store.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.segments.iter().map(Segment::live_documents).sum()
    }

    /// The size of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}

impl Segment {
    /// Its documents without those that were removed.
    #[must_use]
    pub fn live_documents(&self) -> u64 {
        self.documents.saturating_sub(self.removed.len() as u64)
    }

    /// Whether a document of this id can be in it, by the first and the last one.
    pub(crate) fn spans(&self, id: &str) -> bool {
        self.first_id.as_str() <= id && id <= self.last_id.as_str()
    }
}

/// The number of a manifest, by the name of its file.
pub(crate) fn version_of(name: &str) -> Option<u64> {
    let digits = name.rsplit('/').next()?.strip_suffix(".json")?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

/// Now, in milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
